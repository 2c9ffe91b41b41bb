package mls

import (
	"bytes"
	"iter"
	"slices"
)

// ratchetTree is the ratchet tree of one epoch, RFC 9420 §4 and §7, in the array form of Appendix C.
//
// It is a value: clone costs nothing, since two trees share what neither has changed, so an operation works on a clone and
// publishes it at the end. Tree hashes are kept with the nodes and forgotten only along changed paths. A tree is not safe
// for concurrent use until publish has been called after the last change; from then on reading and cloning are.
//
// What the rest of the package uses:
//
//	newRatchetTree(suite, leaf)             a tree of one leaf
//	parseRatchetTree(suite, b), t.bytes()   content of a ratchet_tree extension (ratchet_tree.go)
//	t.clone(), t.publish(), t.width(), t.leaf(i), t.members(), t.memberCount(), t.find(leaf)
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
	suite   CipherSuite
	nodes   nodeArray
	keys    keyIndex
	summary leafSummary
	// identity names the client of a leaf, and keys holds those names too; nil if the application does not ask for it.
	identity func(*LeafNode) string
}

// node is one place of the tree. At most one of leaf and parent is set, both are nil if it is blank.
type node struct {
	leaf   *LeafNode   // never written into
	parent *parentNode // written into only as addUnmerged does
	hash   []byte      // tree hash, nil if not known; then those of the ancestors are not either
	leaves uint32      // the number of occupied leaves at or below this place
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
	t := &ratchetTree{suite: cs, nodes: newNodeArray(1)}
	t.setLeaf(0, leaf)
	return t
}

// clone returns a tree that can be changed without changing t.
func (t *ratchetTree) clone() *ratchetTree {
	return &ratchetTree{
		suite: t.suite, nodes: t.nodes.snapshot(), keys: t.keys.snapshot(), summary: t.summary.snapshot(), identity: t.identity,
	}
}

// publish makes t safe for concurrent reading and cloning: nothing in it is written any more, hashes included.
func (t *ratchetTree) publish() {
	t.rootHash()
	t.nodes.share()
	t.keys.share()
	t.summary.share()
}

// width returns the number of leaves, blank ones included.
func (t *ratchetTree) width() int { return t.nodes.leaves }

func (t *ratchetTree) root() nodeIndex { return rootOf(t.width()) }

// node returns a node to be read.
func (t *ratchetTree) node(n nodeIndex) *node { return t.nodes.at(n) }

// leaf returns the leaf at i, nil if it is blank or i lies outside the tree.
func (t *ratchetTree) leaf(i leafIndex) *LeafNode { return t.nodes.leaf(i) }

// occupiedLeaves returns the occupied leaves from left to right.
func (t *ratchetTree) occupiedLeaves() iter.Seq2[leafIndex, *LeafNode] {
	return t.nodes.occupiedLeaves()
}

// members returns the occupied leaves from left to right.
func (t *ratchetTree) members() []Member {
	out := make([]Member, 0, t.memberCount())
	for i, l := range t.occupiedLeaves() {
		out = append(out, Member{Index: uint32(i), Leaf: l})
	}
	return out
}

// memberCount returns the number of occupied leaves.
func (t *ratchetTree) memberCount() int { return int(t.node(t.root()).leaves) }

// find returns the place of the leaf with the same encoding.
func (t *ratchetTree) find(leaf *LeafNode) (i leafIndex, ok bool) {
	ok = t.keys.find(signatureKeyHash(leaf.signatureKey), func(n nodeIndex) bool {
		i = n.leaf()
		l := t.leaf(i)
		return bytes.Equal(l.signature, leaf.signature) && l.equal(leaf)
	})
	return i, ok
}

// directPath returns the ancestors of i, from its parent to the root.
func (t *ratchetTree) directPath(i leafIndex) iter.Seq[nodeIndex] {
	return func(yield func(nodeIndex) bool) {
		for n := i.node(); n != t.root(); {
			if n = n.parent(); !yield(n) {
				return
			}
		}
	}
}

// setLeaf puts a leaf into its place, nil to blank it, and forgets the tree hashes of the place and of its direct path. It and
// setParent are the only ones that change what stands in a tree.
func (t *ratchetTree) setLeaf(i leafIndex, leaf *LeafNode) {
	at := t.nodes.edit(i.node())
	old, before := at.leaf, at.leaves
	at.leaf, at.hash, at.leaves = leaf, nil, 0
	if leaf != nil {
		at.leaves = 1
	}
	change := at.leaves - before // modulo 2^32
	for n := range t.directPath(i) {
		above := t.nodes.edit(n)
		above.hash, above.leaves = nil, above.leaves+change
	}
	if old != nil {
		t.eachHash(old, func(h keyHash) { t.keys.remove(h, i.node()) })
	}
	if leaf != nil {
		t.eachHash(leaf, func(h keyHash) { t.keys.add(h, i.node()) })
	}
	t.summary.replace(old, leaf)
}

// eachHash calls f for what the index has of a leaf.
func (t *ratchetTree) eachHash(l *LeafNode, f func(h keyHash)) {
	f(encryptionKeyHash(l.encryptionKey))
	f(signatureKeyHash(l.signatureKey))
	if t.identity != nil {
		f(clientHash(t.identity(l)))
	}
}

// identify makes the index one of clients too.
func (t *ratchetTree) identify(identity func(*LeafNode) string) {
	if identity == nil || t.identity != nil {
		return
	}
	t.identity = identity
	for i, l := range t.occupiedLeaves() {
		t.keys.add(clientHash(identity(l)), i.node())
	}
}

// setParent puts a parent node into its place, nil to blank it. The tree hashes of its ancestors are forgotten by the change of a
// leaf that goes with it.
func (t *ratchetTree) setParent(n nodeIndex, p *parentNode) {
	at := t.nodes.edit(n)
	if at.parent != nil {
		t.keys.remove(encryptionKeyHash(at.parent.encryptionKey), n)
	}
	at.parent, at.hash = p, nil
	if p != nil {
		t.keys.add(encryptionKeyHash(p.encryptionKey), n)
	}
}

// blankPath blanks the direct path of i. The caller sets the leaf then.
func (t *ratchetTree) blankPath(i leafIndex) {
	for n := range t.directPath(i) {
		if t.node(n).parent != nil {
			t.setParent(n, nil)
		}
	}
}

// reserveLeaf returns the leftmost blank leaf and leaves it blank. It extends the tree if there is none, and returns a
// RuleError if the tree is as large as it may be.
func (t *ratchetTree) reserveLeaf() (leafIndex, error) {
	if t.memberCount() == t.width() {
		if t.width() >= maxLeaves {
			return 0, errTreeSize
		}
		t.nodes.grow()
	}
	n := t.root()
	for !n.isLeaf() {
		if left := n.left(); t.node(left).leaves < 1<<left.level() {
			n = left
		} else {
			n = n.right()
		}
	}
	return n.leaf(), nil
}

// addLeaf puts the leaf into the leftmost blank place and makes it unmerged at every occupied ancestor, RFC 9420
// §12.1.1.
func (t *ratchetTree) addLeaf(leaf *LeafNode) (leafIndex, error) {
	i, err := t.reserveLeaf()
	if err != nil {
		return 0, err
	}
	t.setLeaf(i, leaf)
	for n := range t.directPath(i) {
		if t.node(n).parent != nil {
			t.addUnmerged(n, i)
		}
	}
	return i, nil
}

// addUnmerged makes i unmerged at an occupied parent. A copy of the parent that this tree has made already is written into.
func (t *ratchetTree) addUnmerged(n nodeIndex, i leafIndex) {
	at := t.nodes.edit(n)
	if o := t.nodes.current(); at.parent.owner != o {
		p := *at.parent
		p.owner, p.unmergedLeaves = o, slices.Clone(p.unmergedLeaves)
		at.parent = &p
	}
	p := at.parent
	to, _ := slices.BinarySearch(p.unmergedLeaves, i)
	p.unmergedLeaves = slices.Insert(p.unmergedLeaves, to, i)
}

// updateLeaf replaces an occupied leaf and blanks its direct path, RFC 9420 §12.1.2.
func (t *ratchetTree) updateLeaf(i leafIndex, leaf *LeafNode) error {
	if t.leaf(i) == nil {
		return broken("12.1.2", "the updated leaf is occupied")
	}
	t.blankPath(i)
	t.setLeaf(i, leaf)
	return nil
}

// removeLeaf blanks an occupied leaf and its direct path and truncates the tree, RFC 9420 §12.1.3.
func (t *ratchetTree) removeLeaf(i leafIndex) error {
	if t.leaf(i) == nil {
		return broken("12.1.3", "the removed leaf is occupied")
	}
	t.blankPath(i)
	t.setLeaf(i, nil)
	t.truncate()
	return nil
}

// truncate drops the right half of the tree as long as no leaf in it is occupied.
func (t *ratchetTree) truncate() {
	for t.width() > 1 && t.node(t.root().right()).leaves == 0 {
		t.nodes.halve()
	}
}

// resolution returns the resolution of n, RFC 9420 §4.1.1: the fewest occupied nodes that cover the occupied leaves under
// n. The leaves in without, which is sorted, are left out.
func (t *ratchetTree) resolution(n nodeIndex, without []leafIndex) iter.Seq[nodeIndex] {
	return func(yield func(nodeIndex) bool) { t.resolve(n, without, yield) }
}

// resolve yields the resolution of n and returns whether it was all taken.
func (t *ratchetTree) resolve(n nodeIndex, without []leafIndex, yield func(nodeIndex) bool) bool {
	leaf := func(l leafIndex) bool {
		_, skip := slices.BinarySearch(without, l)
		return skip || yield(l.node())
	}
	switch at := t.node(n); {
	case at.leaf != nil:
		return leaf(n.leaf())
	case at.parent != nil:
		return yield(n) && all(at.parent.unmergedLeaves, leaf)
	case at.leaves == 0:
		return true
	}
	return t.resolve(n.left(), without, yield) && t.resolve(n.right(), without, yield)
}

// resolutionSize returns the number of nodes of a resolution.
func (t *ratchetTree) resolutionSize(n nodeIndex, without []leafIndex) (size int) {
	for range t.resolution(n, without) {
		size++
	}
	return size
}

// pathStep is one node of a filtered direct path with its child on the copath.
type pathStep struct {
	node   nodeIndex
	copath nodeIndex
}

// filteredPath returns the filtered direct path of i, RFC 9420 §4.1.2: the ancestors whose copath child has a resolution
// that is not empty. The leaf itself may be blank.
func (t *ratchetTree) filteredPath(i leafIndex) []pathStep {
	path := make([]pathStep, 0, t.root().level())
	for n := i.node(); n != t.root(); n = n.parent() {
		if s := n.sibling(); t.node(s).leaves > 0 {
			path = append(path, pathStep{node: n.parent(), copath: s})
		}
	}
	return path
}
