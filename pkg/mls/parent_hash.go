package mls

import (
	"bytes"
)

// parentHash returns the Parent Hash of p with the sibling's original tree hash, RFC 9420 §7.9.
func (c *treeHasher) parentHash(p *parentNode, originalSibling []byte) []byte {
	b := appendOpaque(c.buf[:0], p.encryptionKey)
	b = appendOpaque(b, p.parentHash)
	return c.sum(appendOpaque(b, originalSibling))
}

// parentHashField returns the parent_hash field of a parent or of a leaf of source commit; it is empty for all others.
func (n *node) parentHashField() []byte {
	switch {
	case n.parent != nil:
		return n.parent.parentHash
	case n.leaf != nil && n.leaf.source == LeafFromCommit:
		return n.leaf.parentHash
	}
	return nil
}

// parentHashChecker checks that every occupied parent is bound by exactly one chain, RFC 9420 §7.9.2.
//
// It goes bottom up: each occupied node can be linked to one parent only, the next occupied one above it, because D is in
// the resolution of P's child just if every node between them is blank. So the work is one parent hash per parent and side,
// and one resolution per link, however the tree was made up.
type parentHashChecker struct {
	*treeHasher
	// computed keeps a parent's hash by the child that stands for the updated side.
	computed map[nodeIndex][]byte
	linked   map[nodeIndex]bool
}

// checkParentHashes checks RFC 9420 §7.9.2 for the whole tree.
func (t *ratchetTree) checkParentHashes() error {
	c := parentHashChecker{treeHasher: t.hasher(), computed: map[nodeIndex][]byte{}, linked: map[nodeIndex]bool{}}
	for n := range nodeIndex(t.nodes.len()) {
		if err := c.link(n); err != nil {
			return err
		}
	}
	for n := range nodeIndex(t.nodes.len()) {
		if t.node(n).parent != nil && !c.linked[n] {
			return broken("7.9.2", "every parent node is parent-hash valid")
		}
	}
	return nil
}

// link marks the parent that d's parent hash is valid for, if there is one.
func (c *parentHashChecker) link(d nodeIndex) error {
	field := c.t.node(d).parentHashField()
	if len(field) == 0 {
		return nil
	}
	child, parent, ok := c.t.occupiedAbove(d)
	if !ok || !bytes.Equal(field, c.linkHash(parent, child)) {
		return nil
	}
	if c.linked[parent] {
		return broken("7.9.2", "a parent node is covered by one chain only")
	}
	// An equal hash means that d's sender made the parent. What was added under child since then is unmerged at the
	// parent, and any other change would have blanked it.
	if !c.t.coversBut(child, d, c.t.node(parent).parent.unmergedLeaves) {
		return broken("7.9.2", "the parent was updated together with the node that it is linked to")
	}
	c.linked[parent] = true
	return nil
}

// linkHash returns the parent hash of parent when the updated side is child.
func (c *parentHashChecker) linkHash(parent, child nodeIndex) []byte {
	if h, ok := c.computed[child]; ok {
		return h
	}
	p := c.t.node(parent).parent
	h := c.parentHash(p, c.hashWithout(child.sibling(), p.unmergedLeaves))
	c.computed[child] = h
	return h
}

// occupiedAbove returns the lowest occupied ancestor of n and its child on the way to n.
func (t *ratchetTree) occupiedAbove(n nodeIndex) (child, parent nodeIndex, ok bool) {
	for ; n != t.root(); n = n.parent() {
		if t.node(n.parent()).parent != nil {
			return n, n.parent(), true
		}
	}
	return 0, 0, false
}

// coversBut reports whether the resolution of child is d and exactly the leaves of unmerged under child.
func (t *ratchetTree) coversBut(child, d nodeIndex, unmerged []leafIndex) bool {
	want := within(unmerged, child)
	for n := range t.resolution(child, nil) {
		switch {
		case n == d:
		case len(want) > 0 && n == want[0].node():
			want = want[1:]
		default:
			return false
		}
	}
	return len(want) == 0
}
