package mls

import (
	"bytes"
	"slices"
)

// ratchetTree is the ratchet tree of one epoch, RFC 9420 §4 and §7, in the array form of Appendix C.
//
// It is a value: clone is cheap, because nodes are never written into once they stand in a tree, so an operation works
// on a clone and publishes it at the end. Tree hashes are kept with the nodes and forgotten only along changed paths. A
// tree is not safe for concurrent use until rootHash has been called after the last change; from then on reading is.
//
// What the rest of the package uses:
//
//	newRatchetTree(suite, leaf)             a tree of one leaf
//	parseRatchetTree(suite, b), t.bytes()   content of a ratchet_tree extension (ratchet_tree.go)
//	t.clone(), t.width(), t.leaf(i), t.members(), t.memberCount(), t.find(leaf)
//	t.addLeaf(leaf), t.reserveLeaf()        leftmost blank leaf; reserve leaves it blank, for an external joiner's path
//	t.updateLeaf(i, leaf), t.removeLeaf(i)  both blank the direct path; remove truncates
//	t.rootHash()                            (tree_hash.go)
//	t.validate(ctx)                         all of §12.4.3.1 for a tree received whole (tree_validate.go)
//	t.validateChange(ctx, leaves)           §7.3 for leaves that entered or changed; call it after all changes of a commit
//	t.checkGroupExtensions(exts)            all members support a new list of GroupContext extensions
//	t.createPath(args)                      makes an UpdatePath and applies it to t (update_path.go)
//	t.applyPath(sender, path, added)        applies a received UpdatePath to t: the public half
//	private.openPath(t, sender, path, added, context)   the secret half, after applyPath
//	private.joinPath(t, committer, pathSecret)          the path secret of a Welcome
type ratchetTree struct {
	suite CipherSuite
	nodes []node // 2*width-1 of them; width is a power of two
	// firstBlank is a lower bound for the leftmost blank leaf: no leaf before it is blank.
	firstBlank leafIndex
}

// node is one place of the tree. At most one of leaf and parent is set, both are nil if it is blank, and neither is ever
// written into.
type node struct {
	leaf   *LeafNode
	parent *parentNode
	hash   []byte // tree hash, nil if not known
}

func (n *node) blank() bool { return n.leaf == nil && n.parent == nil }

// encryptionKey returns the node's public key, nil if it is blank.
func (n *node) encryptionKey() []byte {
	switch {
	case n.leaf != nil:
		return n.leaf.encryptionKey
	case n.parent != nil:
		return n.parent.encryptionKey
	}
	return nil
}

// newRatchetTree returns the tree whose one leaf is given.
func newRatchetTree(cs CipherSuite, leaf *LeafNode) *ratchetTree {
	return &ratchetTree{suite: cs, nodes: []node{{leaf: leaf}}, firstBlank: 1}
}

// clone returns a tree that can be changed without changing t.
func (t *ratchetTree) clone() *ratchetTree {
	c := *t
	c.nodes = slices.Clone(t.nodes)
	return &c
}

// width returns the number of leaves, blank ones included.
func (t *ratchetTree) width() int { return (len(t.nodes) + 1) / 2 }

func (t *ratchetTree) root() nodeIndex { return rootOf(t.width()) }

// leaf returns the leaf at i, nil if it is blank or i lies outside the tree.
func (t *ratchetTree) leaf(i leafIndex) *LeafNode {
	if uint64(i) >= uint64(t.width()) { // an int of 32 bits would turn the upper half negative
		return nil
	}
	return t.nodes[i.node()].leaf
}

// members returns the occupied leaves from left to right.
func (t *ratchetTree) members() []Member {
	out := make([]Member, 0, t.width())
	for i := range leafIndex(t.width()) {
		if l := t.leaf(i); l != nil {
			out = append(out, Member{Index: uint32(i), Leaf: l})
		}
	}
	return out
}

// leaves returns the leaves by index, nil for blank.
func (t *ratchetTree) leaves() []*LeafNode {
	out := make([]*LeafNode, t.width())
	for i := range out {
		out[i] = t.leaf(leafIndex(i))
	}
	return out
}

// memberCount returns the number of occupied leaves.
func (t *ratchetTree) memberCount() int {
	n := 0
	for i := range leafIndex(t.width()) {
		if t.leaf(i) != nil {
			n++
		}
	}
	return n
}

// find returns the place of the leaf with the same encoding.
func (t *ratchetTree) find(leaf *LeafNode) (leafIndex, bool) {
	for i := range leafIndex(t.width()) {
		if l := t.leaf(i); l != nil && bytes.Equal(l.signature, leaf.signature) && l.equal(leaf) {
			return i, true
		}
	}
	return 0, false
}

// directPath returns the ancestors of i, from its parent to the root.
func (t *ratchetTree) directPath(i leafIndex) []nodeIndex {
	var path []nodeIndex
	for n := i.node(); n != t.root(); {
		n = n.parent()
		path = append(path, n)
	}
	return path
}

// touch forgets the tree hashes of the leaf and of its direct path.
func (t *ratchetTree) touch(i leafIndex) {
	t.nodes[i.node()].hash = nil
	for _, n := range t.directPath(i) {
		t.nodes[n].hash = nil
	}
}

// blankPath blanks the direct path of i.
func (t *ratchetTree) blankPath(i leafIndex) {
	for _, n := range t.directPath(i) {
		t.nodes[n] = node{}
	}
}

// reserveLeaf returns the leftmost blank leaf and leaves it blank. It extends the tree if there is none, and returns a
// RuleError if the tree is as large as it may be.
func (t *ratchetTree) reserveLeaf() (leafIndex, error) {
	for t.leaf(t.firstBlank) != nil {
		t.firstBlank++
	}
	if int(t.firstBlank) < t.width() {
		return t.firstBlank, nil
	}
	if t.width() >= maxLeaves {
		return 0, broken("7.7", "the tree is not larger than this implementation allows")
	}
	t.nodes = append(t.nodes, make([]node, len(t.nodes)+1)...)
	return t.firstBlank, nil
}

// addLeaf puts the leaf into the leftmost blank place and makes it unmerged at every occupied ancestor, RFC 9420
// §12.1.1.
func (t *ratchetTree) addLeaf(leaf *LeafNode) (leafIndex, error) {
	i, err := t.reserveLeaf()
	if err != nil {
		return 0, err
	}
	t.touch(i)
	t.nodes[i.node()].leaf = leaf
	for _, n := range t.directPath(i) {
		if p := t.nodes[n].parent; p != nil {
			t.nodes[n].parent = p.withUnmerged(i)
		}
	}
	return i, nil
}

// updateLeaf replaces an occupied leaf and blanks its direct path, RFC 9420 §12.1.2.
func (t *ratchetTree) updateLeaf(i leafIndex, leaf *LeafNode) error {
	if t.leaf(i) == nil {
		return broken("12.1.2", "the updated leaf is occupied")
	}
	t.blankPath(i)
	t.nodes[i.node()] = node{leaf: leaf}
	return nil
}

// removeLeaf blanks an occupied leaf and its direct path and truncates the tree, RFC 9420 §12.1.3.
func (t *ratchetTree) removeLeaf(i leafIndex) error {
	if t.leaf(i) == nil {
		return broken("12.1.3", "the removed leaf is occupied")
	}
	t.blankPath(i)
	t.nodes[i.node()] = node{}
	t.firstBlank = min(t.firstBlank, i)
	t.truncate()
	return nil
}

// truncate drops the right half of the tree as long as no leaf in it is occupied.
func (t *ratchetTree) truncate() {
	for t.width() > 1 && t.noLeaf(t.root().right()) {
		t.nodes = slices.Clip(t.nodes[:len(t.nodes)/2])
	}
	t.firstBlank = min(t.firstBlank, leafIndex(t.width()))
}

// noLeaf reports whether no leaf under n is occupied.
func (t *ratchetTree) noLeaf(n nodeIndex) bool {
	for i := n.firstLeaf(); i <= n.lastLeaf(); i++ {
		if t.leaf(i) != nil {
			return false
		}
	}
	return true
}

// resolution returns the resolution of n, RFC 9420 §4.1.1: the fewest occupied nodes that cover the occupied leaves under n.
func (t *ratchetTree) resolution(n nodeIndex) []nodeIndex { return t.appendResolution(nil, n) }

func (t *ratchetTree) appendResolution(out []nodeIndex, n nodeIndex) []nodeIndex {
	switch at := &t.nodes[n]; {
	case at.leaf != nil:
		return append(out, n)
	case at.parent != nil:
		out = append(out, n)
		for _, l := range at.parent.unmergedLeaves {
			out = append(out, l.node())
		}
		return out
	case n.isLeaf():
		return out
	}
	return t.appendResolution(t.appendResolution(out, n.left()), n.right())
}

// unresolved reports whether the resolution of n is empty.
func (t *ratchetTree) unresolved(n nodeIndex) bool {
	return t.nodes[n].blank() && (n.isLeaf() || t.unresolved(n.left()) && t.unresolved(n.right()))
}

// pathStep is one node of a filtered direct path with its child on the copath.
type pathStep struct {
	node   nodeIndex
	copath nodeIndex
}

// filteredPath returns the filtered direct path of i, RFC 9420 §4.1.2: the ancestors whose copath child has a resolution
// that is not empty. The leaf itself may be blank.
func (t *ratchetTree) filteredPath(i leafIndex) []pathStep {
	var path []pathStep
	for n := i.node(); n != t.root(); n = n.parent() {
		if s := n.sibling(); !t.unresolved(s) {
			path = append(path, pathStep{node: n.parent(), copath: s})
		}
	}
	return path
}
