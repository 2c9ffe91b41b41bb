package mls

import "iter"

// owner marks what one snapshot of a persistent structure may write into: what was made under the same owner since the last snapshot was
// taken. Everything else is shared and copied before it is changed.
type owner struct{ _ byte } // not of size zero: two owners must have two addresses

// ownership is the part that persistent structures have in common.
type ownership struct{ owner *owner }

// share gives up the right to write into what is there. If there has been no change since the last share, it only reads.
func (o *ownership) share() {
	if o.owner != nil {
		o.owner = nil
	}
}

// current returns the owner of what is made now.
func (o *ownership) current() *owner {
	if o.owner == nil {
		o.owner = new(owner)
	}
	return o.owner
}

// levelsPerBlock is the number of tree levels in a block. A path through a tree of 2^14 leaves lies in four blocks of 15 nodes: that is
// what a change copies.
const (
	levelsPerBlock = 4
	nodesPerBlock  = 1<<levelsPerBlock - 1
	blocksPerBlock = 1 << levelsPerBlock
)

// block holds a full subtree of nodes next to each other, and the blocks below it.
type block struct {
	owner *owner
	nodes [nodesPerBlock]node
	below [blocksPerBlock]*block // all nil in a block of leaves
}

// nodeArray is the array of the nodes of a ratchet tree, RFC 9420 Appendix C. It is persistent: a snapshot costs nothing, and a change
// copies the blocks from the root to the changed node that the snapshots share.
//
// The level of a block is that of its lowest nodes divided by levelsPerBlock. In the array form a node's ancestors differ from it in low bits
// only, so the digits of a node's index in base 16 are the way to it: the lowest ones are all ones below the node's own block, the next
// is its place in the block, and the higher ones are the places of the blocks in those above.
type nodeArray struct {
	leaves int // places of leaves, a power of two
	top    *block
	level  uint // of top
	ownership
}

// newNodeArray returns an array of blank nodes over a number of leaves, a power of two.
func newNodeArray(leaves int) nodeArray {
	a := nodeArray{leaves: 1}
	a.top = newBlocks(a.current(), 0)
	a.resize(leaves)
	return a
}

// snapshot returns an array that can be changed without changing a.
func (a *nodeArray) snapshot() nodeArray {
	a.share()
	return *a
}

// len returns the number of nodes.
func (a *nodeArray) len() int { return 2*a.leaves - 1 }

// at returns a node to be read; it must lie in the array.
func (a *nodeArray) at(n nodeIndex) *node {
	b := a.top
	own := n.level() / levelsPerBlock
	for l := a.level; l > own; l-- {
		b = b.below[digit(n, l)]
	}
	return &b.nodes[digit(n, own)]
}

// edit returns a node to be written; it must lie in the array.
func (a *nodeArray) edit(n nodeIndex) *node {
	b := a.own(&a.top)
	own := n.level() / levelsPerBlock
	for l := a.level; l > own; l-- {
		b = a.own(&b.below[digit(n, l)])
	}
	return &b.nodes[digit(n, own)]
}

// digit is the digit of n that gives a place in a block of the level.
func digit(n nodeIndex, level uint) nodeIndex {
	return n >> (levelsPerBlock * level) & (blocksPerBlock - 1)
}

// own replaces a shared block by a copy.
func (a *nodeArray) own(p **block) *block {
	if o := a.current(); (*p).owner != o {
		c := **p
		c.owner = o
		*p = &c
	}
	return *p
}

// leaf returns the leaf at i, nil if it is blank or i lies outside the array.
func (a *nodeArray) leaf(i leafIndex) *LeafNode {
	if uint64(i) >= uint64(a.leaves) { // an int of 32 bits would turn the upper half negative
		return nil
	}
	return a.at(i.node()).leaf
}

// occupiedLeaves returns the occupied leaves from left to right.
func (a *nodeArray) occupiedLeaves() iter.Seq2[leafIndex, *LeafNode] {
	return func(yield func(leafIndex, *LeafNode) bool) {
		for i := range leafIndex(a.leaves) {
			if l := a.leaf(i); l != nil && !yield(i, l) {
				return
			}
		}
	}
}

// grow doubles the number of leaves: the array becomes the left half, the new root and the right half are blank.
func (a *nodeArray) grow() {
	a.leaves *= 2
	root := rootOf(a.leaves)
	if l := root.level() / levelsPerBlock; l > a.level {
		a.top, a.level = &block{owner: a.current(), below: [blocksPerBlock]*block{a.top}}, l
	}
	top := a.own(&a.top)
	top.nodes[digit(root, a.level)].leaves = a.at(root.left()).leaves
	if a.level == 0 {
		return
	}
	for i := digit(root, a.level) + 1; i < 2*(digit(root, a.level)+1); i++ {
		top.below[i] = newBlocks(a.current(), a.level-1)
	}
}

// newBlocks returns a blank block with all blocks below it.
func newBlocks(o *owner, level uint) *block {
	b := &block{owner: o}
	if level > 0 {
		for i := range b.below {
			b.below[i] = newBlocks(o, level-1)
		}
	}
	return b
}

// halve drops the root and the right half.
func (a *nodeArray) halve() {
	root := rootOf(a.leaves)
	a.leaves /= 2
	if root.left().level()/levelsPerBlock < a.level {
		a.top, a.level = a.top.below[0], a.level-1
		return
	}
	top := a.own(&a.top)
	clear(top.nodes[digit(root, a.level):])
	clear(top.below[digit(root, a.level)+1:])
}

// resize makes a an array over a number of leaves, a power of two.
func (a *nodeArray) resize(leaves int) {
	for a.leaves < leaves {
		a.grow()
	}
	for a.leaves > leaves {
		a.halve()
	}
}

// differences calls f for each place in which a and b have not the same leaf, in order. What they share is not looked at.
func (a *nodeArray) differences(b *nodeArray, f func(i leafIndex)) {
	differences(blockAt{a.top, a.level}, blockAt{b.top, b.level}, max(a.level, b.level), 0, f)
}

// blockAt is a block at its level; one that is looked at above its level has it as the first below.
type blockAt struct {
	*block
	level uint
}

// child returns what lies in place i of a block at level.
func (b blockAt) child(level uint, i int) blockAt {
	switch {
	case b.block == nil, level > b.level && i > 0:
		return blockAt{}
	case level > b.level:
		return b
	}
	return blockAt{b.below[i], level - 1}
}

// differences works on the block with the given number of its level.
func differences(a, b blockAt, level uint, number leafIndex, f func(i leafIndex)) {
	if a.block == b.block {
		return
	}
	for i := range blocksPerBlock {
		if level > 0 {
			differences(a.child(level, i), b.child(level, i), level-1, number*blocksPerBlock+leafIndex(i), f)
		} else if i%2 == 0 && a.leaf(i) != b.leaf(i) {
			f((number*blocksPerBlock + leafIndex(i)) / 2)
		}
	}
}

// leaf returns the leaf at a place of a block of leaves.
func (b blockAt) leaf(i int) *LeafNode {
	if b.block == nil {
		return nil
	}
	return b.nodes[i].leaf
}
