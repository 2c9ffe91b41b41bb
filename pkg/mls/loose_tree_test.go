package mls

import (
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// looseTree is the content of a ratchet_tree extension node by node: a tree as an attacker writes it, valid or not.
type looseTree []looseNode

type looseNode struct {
	leaf   *LeafNode
	parent *parentNode
}

func (n looseNode) blank() bool { return n.leaf == nil && n.parent == nil }

// loosen takes a tree apart, blank nodes at its right edge included.
func loosen(t *ratchetTree) looseTree {
	s := cryptobyte.String(t.bytes())
	var l looseTree
	ok := readVector(&s, 2*maxLeaves, func(s *cryptobyte.String) bool {
		var present bool
		var kind uint8
		var n looseNode
		if !readOptional(s, &present) || present && !s.ReadUint8(&kind) {
			return false
		}
		switch {
		case present && kind == nodeTypeLeaf:
			n.leaf = new(LeafNode)
			present = n.leaf.parse(s)
			n.leaf.raw = nil // it is there to be changed
		case present:
			n.parent = new(parentNode)
			present = n.parent.parse(s)
		default:
			present = true
		}
		l = append(l, n)
		return present
	})
	if !ok {
		panic("a tree writes what cannot be read")
	}
	return append(l, make(looseTree, 2*t.width()-1-len(l))...)
}

// bytes writes the tree as a sender does, without the blank nodes at its right edge.
func (l looseTree) bytes() []byte {
	for len(l) > 0 && l[len(l)-1].blank() {
		l = l[:len(l)-1]
	}
	return l.allBytes()
}

// allBytes writes every node.
func (l looseTree) allBytes() []byte {
	var b cryptobyte.Builder
	writeVector(&b, func(b *cryptobyte.Builder) {
		for _, n := range l {
			writeOptional(b, !n.blank())
			switch {
			case n.leaf != nil:
				b.AddUint8(nodeTypeLeaf)
				n.leaf.marshal(b)
			case n.parent != nil:
				b.AddUint8(nodeTypeParent)
				n.parent.marshal(b)
			}
		}
	})
	return b.BytesOrPanic()
}

// hash is the tree hash, nil if this is no tree at all.
func (l looseTree) hash() []byte {
	t, err := parseRatchetTree(suite1, l.bytes())
	if err != nil {
		return nil
	}
	return t.rootHash()
}

// root is the place of the root.
func (l looseTree) root() int { return len(l) / 2 }

// key is a node's encryption key.
func (l looseTree) key(n int) []byte {
	switch {
	case l[n].leaf != nil:
		return l[n].leaf.encryptionKey
	case l[n].parent != nil:
		return l[n].parent.encryptionKey
	}
	return nil
}

// change replaces a parent by a changed copy.
func (l looseTree) change(n int, f func(p *parentNode)) {
	p := *l[n].parent
	p.unmergedLeaves = slices.Clone(p.unmergedLeaves)
	f(&p)
	l[n] = looseNode{parent: &p}
}

// update replaces a leaf, nil to blank it, and blanks the nodes above it.
func (l looseTree) update(i leafIndex, leaf *LeafNode) {
	l[i.node()] = looseNode{leaf: leaf}
	for n := i.node(); int(n) != l.root(); {
		n = n.parent()
		l[n] = looseNode{}
	}
}
