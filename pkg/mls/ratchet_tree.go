package mls

import (
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// The values of NodeType, RFC 9420 §7.8.
const (
	nodeTypeLeaf   = 1
	nodeTypeParent = 2
)

// parentNode is ParentNode, RFC 9420 §7.1. It is written into only by the tree that made it, and only by addUnmerged.
type parentNode struct {
	encryptionKey  []byte
	parentHash     []byte
	unmergedLeaves []leafIndex // in increasing order

	owner *owner // of the nodes of the tree that made it
}

func (p *parentNode) parse(s *cryptobyte.String) bool {
	p.unmergedLeaves = nil
	return readOpaque(s, &p.encryptionKey) &&
		readOpaque(s, &p.parentHash) &&
		readVector(s, maxLeaves, p.parseUnmerged)
}

func (p *parentNode) parseUnmerged(s *cryptobyte.String) bool {
	var i leafIndex
	if !s.ReadUint32((*uint32)(&i)) {
		return false
	}
	if n := len(p.unmergedLeaves); n > 0 && p.unmergedLeaves[n-1] >= i {
		return false
	}
	p.unmergedLeaves = append(p.unmergedLeaves, i)
	return true
}

func (p *parentNode) marshal(b *cryptobyte.Builder) {
	marshalParent(b, p, nil)
}

// marshalParent writes p without the unmerged leaves that are in dropped, which is sorted.
func marshalParent(b *cryptobyte.Builder, p *parentNode, dropped []leafIndex) {
	writeOpaque(b, p.encryptionKey)
	writeOpaque(b, p.parentHash)
	writeVector(b, func(b *cryptobyte.Builder) {
		for _, i := range p.unmergedLeaves {
			if _, drop := slices.BinarySearch(dropped, i); !drop {
				b.AddUint32(uint32(i))
			}
		}
	})
}

// parseRatchetTree reads the content of a ratchet_tree extension, RFC 9420 §12.4.3.3: optional<Node> ratchet_tree<V>. It
// checks the form, and that unmerged leaves lie below their nodes and every parent above a leaf, so that no operation on the tree can leave it; validate
// checks the rest. It returns ErrMalformed or ErrUnsupported.
func parseRatchetTree(cs CipherSuite, b []byte) (*ratchetTree, error) {
	if !cs.Supported() {
		return nil, ErrUnsupported
	}
	r, s := treeReader{tree: &ratchetTree{suite: cs, nodes: newNodeArray(1)}}, cryptobyte.String(b)
	if !readVector(&s, 2*maxLeaves-1, r.read) || !s.Empty() {
		return nil, ErrMalformed
	}
	// The last node is occupied, so it is a leaf: a parent at the right edge would have nothing on its right.
	if r.next%2 == 0 || r.tree.node(r.next-1).blank() {
		return nil, ErrMalformed
	}
	for n := range nodeIndex(r.tree.nodes.len()) {
		if p := r.tree.node(n).parent; p != nil && len(within(p.unmergedLeaves, n)) != len(p.unmergedLeaves) {
			return nil, ErrMalformed
		}
	}
	if !r.tree.enter() {
		return nil, ErrMalformed
	}
	return r.tree, nil
}

// treeReader reads the nodes of a tree one after the other.
type treeReader struct {
	tree *ratchetTree
	next nodeIndex
}

// read reads the next node: leaves have the even places.
func (r *treeReader) read(s *cryptobyte.String) bool {
	nodes := &r.tree.nodes
	if int(r.next) == nodes.len() {
		nodes.grow()
	}
	at := nodes.edit(r.next)
	isLeaf := r.next.isLeaf()
	r.next++

	var present bool
	var kind uint8
	if !readOptional(s, &present) {
		return false
	}
	switch {
	case !present:
		return true
	case !s.ReadUint8(&kind):
		return false
	case kind == nodeTypeLeaf && isLeaf:
		at.leaf = new(LeafNode)
		return at.leaf.parse(s)
	case kind == nodeTypeParent && !isLeaf:
		at.parent = new(parentNode)
		return at.parent.parse(s)
	}
	return false
}

// enter takes the nodes of a tree that has been read into account. It reports whether there is an occupied leaf below each occupied parent: a parent of
// none would stay in the index of keys when truncating cuts it off.
func (t *ratchetTree) enter() bool {
	for i, l := range t.occupiedLeaves() {
		t.nodes.edit(i.node()).leaves = 1
		t.eachHash(l, func(h keyHash) { t.keys.add(h, i.node()) })
		t.summary.replace(nil, l)
	}
	// Children have lower levels than their parents.
	for step := nodeIndex(2); int(step) <= t.nodes.len(); step *= 2 {
		for n := step - 1; int(n) < t.nodes.len(); n += 2 * step {
			at := t.nodes.edit(n)
			at.leaves = t.node(n.left()).leaves + t.node(n.right()).leaves
			if p := at.parent; p != nil {
				if at.leaves == 0 {
					return false
				}
				t.keys.add(encryptionKeyHash(p.encryptionKey), n)
			}
		}
	}
	return true
}

// bytes returns the content of a ratchet_tree extension. Blank nodes at the right edge are left out.
func (t *ratchetTree) bytes() []byte {
	last := t.nodes.len()
	for last > 0 && t.node(nodeIndex(last-1)).blank() {
		last--
	}
	var b cryptobyte.Builder
	writeVector(&b, func(b *cryptobyte.Builder) {
		for n := range nodeIndex(last) {
			t.node(n).marshal(b)
		}
	})
	return b.BytesOrPanic()
}

// marshal writes optional<Node>.
func (n *node) marshal(b *cryptobyte.Builder) {
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
