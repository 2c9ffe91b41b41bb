package mls

import (
	"encoding/binary"
	"hash"
	"slices"
)

// rootHash returns the tree hash of the root, RFC 9420 §7.8. It computes what has been forgotten since the last call, and
// writes nothing if that is nothing.
func (t *ratchetTree) rootHash() []byte { return t.hash(t.root()) }

// hash returns the tree hash of n.
func (t *ratchetTree) hash(n nodeIndex) []byte {
	if h := t.node(n).hash; h != nil {
		return h
	}
	return t.hasher().hash(n)
}

// treeHasher computes tree hashes and parent hashes with one hash function and one buffer.
type treeHasher struct {
	t   *ratchetTree
	h   hash.Hash
	buf []byte
}

func (t *ratchetTree) hasher() *treeHasher {
	return &treeHasher{t: t, h: t.suite.row().kdf.newHash(), buf: make([]byte, 0, 256)}
}

// hash returns the tree hash of n and keeps it. It is kept in blocks that other trees share, too: what it stands for is all below n,
// which they share with it.
func (c *treeHasher) hash(n nodeIndex) []byte {
	at := c.t.node(n)
	if at.hash == nil {
		if n.isLeaf() {
			at.hash = c.leaf(n.leaf(), at.leaf)
		} else {
			at.hash = c.parent(at.parent, nil, c.hash(n.left()), c.hash(n.right()))
		}
	}
	return at.hash
}

// hashWithout returns the tree hash that n would have if the leaves in gone, which is sorted, were blank and not
// unmerged anywhere: the original tree hash of RFC 9420 §7.9.
func (c *treeHasher) hashWithout(n nodeIndex, gone []leafIndex) []byte {
	gone = within(gone, n)
	if len(gone) == 0 {
		return c.hash(n)
	}
	if n.isLeaf() {
		return c.leaf(n.leaf(), nil)
	}
	return c.parent(c.t.node(n).parent, gone, c.hashWithout(n.left(), gone), c.hashWithout(n.right(), gone))
}

// within returns the part of sorted leaves that lies under n.
func within(leaves []leafIndex, n nodeIndex) []leafIndex {
	from, _ := slices.BinarySearch(leaves, n.firstLeaf())
	to, _ := slices.BinarySearch(leaves, n.lastLeaf()+1)
	return leaves[from:to]
}

// leaf hashes a TreeHashInput with a LeafNodeHashInput.
func (c *treeHasher) leaf(i leafIndex, leaf *LeafNode) []byte {
	b := binary.BigEndian.AppendUint32(append(c.buf[:0], nodeTypeLeaf), uint32(i))
	if leaf == nil {
		return c.sum(append(b, 0))
	}
	return c.sum(append(append(b, 1), leaf.encoded()...))
}

// parent hashes a TreeHashInput with a ParentNodeHashInput, p without the unmerged leaves in gone.
func (c *treeHasher) parent(p *parentNode, gone []leafIndex, left, right []byte) []byte {
	b := append(c.buf[:0], nodeTypeParent)
	if p == nil {
		b = append(b, 0)
	} else {
		b = appendOpaque(append(b, 1), p.encryptionKey)
		b = appendOpaque(b, p.parentHash)
		b = appendVarint(b, 4*(len(p.unmergedLeaves)-overlap(p.unmergedLeaves, gone)))
		for _, i := range p.unmergedLeaves {
			if _, drop := slices.BinarySearch(gone, i); !drop {
				b = binary.BigEndian.AppendUint32(b, uint32(i))
			}
		}
	}
	return c.sum(appendOpaque(appendOpaque(b, left), right))
}

// overlap returns how many of the leaves are in gone, which is sorted.
func overlap(leaves, gone []leafIndex) (n int) {
	for _, i := range leaves {
		if _, found := slices.BinarySearch(gone, i); found {
			n++
		}
	}
	return n
}

// sum hashes an input that begins in c's buffer, and keeps the buffer.
func (c *treeHasher) sum(input []byte) []byte {
	c.buf = input
	c.h.Reset()
	c.h.Write(input)
	return c.h.Sum(nil)
}
