package mls

import "math/bits"

// leafIndex is the place of a leaf, from the left.
type leafIndex uint32

// nodeIndex is the place of a node in the array form of the tree, RFC 9420 Appendix C: leaves have even places, the
// level of a node is the number of trailing one bits.
type nodeIndex uint32

func (l leafIndex) node() nodeIndex { return nodeIndex(l) << 1 }

func (n nodeIndex) isLeaf() bool    { return n&1 == 0 }
func (n nodeIndex) leaf() leafIndex { return leafIndex(n >> 1) }
func (n nodeIndex) level() uint     { return uint(bits.TrailingZeros32(^uint32(n))) }

// left and right return the children of a parent node. They must not be called for a leaf.
func (n nodeIndex) left() nodeIndex  { return n ^ 1<<(n.level()-1) }
func (n nodeIndex) right() nodeIndex { return n ^ 3<<(n.level()-1) }

// parent returns the parent in a tree that is large enough to have one.
func (n nodeIndex) parent() nodeIndex {
	k := n.level()
	return (n | 1<<k) &^ (1 << (k + 1))
}

// sibling returns the other child of the parent.
func (n nodeIndex) sibling() nodeIndex {
	p := n.parent()
	if n < p {
		return p.right()
	}
	return p.left()
}

// firstLeaf and lastLeaf bound the leaves under n.
func (n nodeIndex) firstLeaf() leafIndex { return (n - (1<<n.level() - 1)).leaf() }
func (n nodeIndex) lastLeaf() leafIndex  { return (n + (1<<n.level() - 1)).leaf() }

// covers reports whether the leaf is n or below n.
func (n nodeIndex) covers(l leafIndex) bool { return n.firstLeaf() <= l && l <= n.lastLeaf() }

// rootOf returns the root of a full tree of width leaves, a power of two.
func rootOf(width int) nodeIndex { return nodeIndex(width - 1) }

// commonAncestor returns the lowest node that covers both.
func commonAncestor(a, b leafIndex) nodeIndex {
	n := a.node()
	for !n.covers(b) {
		n = n.parent()
	}
	return n
}

// childTowards returns the child of a parent node n that covers the leaf.
func (n nodeIndex) childTowards(l leafIndex) nodeIndex {
	if l.node() < n {
		return n.left()
	}
	return n.right()
}
