package mls

import (
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// rootHash returns the tree hash of the root, RFC 9420 §7.8. It computes what has been forgotten since the last call, and
// writes nothing if that is nothing.
func (t *ratchetTree) rootHash() []byte { return t.hash(t.root()) }

// hash returns the tree hash of n.
func (t *ratchetTree) hash(n nodeIndex) []byte {
	at := &t.nodes[n]
	if at.hash == nil {
		if n.isLeaf() {
			at.hash = t.leafHash(n.leaf(), at.leaf)
		} else {
			at.hash = t.parentNodeHash(at.parent, nil, t.hash(n.left()), t.hash(n.right()))
		}
	}
	return at.hash
}

// hashWithout returns the tree hash that n would have if the leaves in gone, which is sorted, were blank and not
// unmerged anywhere: the original tree hash of RFC 9420 §7.9.
func (t *ratchetTree) hashWithout(n nodeIndex, gone []leafIndex) []byte {
	gone = within(gone, n)
	if len(gone) == 0 {
		return t.hash(n)
	}
	if n.isLeaf() {
		return t.leafHash(n.leaf(), nil)
	}
	return t.parentNodeHash(t.nodes[n].parent, gone, t.hashWithout(n.left(), gone), t.hashWithout(n.right(), gone))
}

// within returns the part of sorted leaves that lies under n.
func within(leaves []leafIndex, n nodeIndex) []leafIndex {
	from, _ := slices.BinarySearch(leaves, n.firstLeaf())
	to, _ := slices.BinarySearch(leaves, n.lastLeaf()+1)
	return leaves[from:to]
}

// leafHash hashes a TreeHashInput with a LeafNodeHashInput.
func (t *ratchetTree) leafHash(i leafIndex, leaf *LeafNode) []byte {
	var b cryptobyte.Builder
	b.AddUint8(nodeTypeLeaf)
	b.AddUint32(uint32(i))
	writeOptional(&b, leaf != nil)
	if leaf != nil {
		leaf.marshal(&b)
	}
	return t.suite.Hash(b.BytesOrPanic())
}

// parentNodeHash hashes a TreeHashInput with a ParentNodeHashInput, p without the unmerged leaves in gone.
func (t *ratchetTree) parentNodeHash(p *parentNode, gone []leafIndex, left, right []byte) []byte {
	var b cryptobyte.Builder
	b.AddUint8(nodeTypeParent)
	writeOptional(&b, p != nil)
	if p != nil {
		marshalParent(&b, p, gone)
	}
	writeOpaque(&b, left)
	writeOpaque(&b, right)
	return t.suite.Hash(b.BytesOrPanic())
}
