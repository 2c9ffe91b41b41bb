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

// parentNode is ParentNode, RFC 9420 §7.1. It is never written into.
type parentNode struct {
	encryptionKey  []byte
	parentHash     []byte
	unmergedLeaves []leafIndex // in increasing order
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

// withUnmerged returns a copy that has i among its unmerged leaves too.
func (p *parentNode) withUnmerged(i leafIndex) *parentNode {
	at, _ := slices.BinarySearch(p.unmergedLeaves, i)
	c := *p
	c.unmergedLeaves = make([]leafIndex, 0, len(p.unmergedLeaves)+1)
	c.unmergedLeaves = append(c.unmergedLeaves, p.unmergedLeaves[:at]...)
	c.unmergedLeaves = append(c.unmergedLeaves, i)
	c.unmergedLeaves = append(c.unmergedLeaves, p.unmergedLeaves[at:]...)
	return &c
}

// parseRatchetTree reads the content of a ratchet_tree extension, RFC 9420 §12.4.3.3: optional<Node> ratchet_tree<V>. It
// checks the form, and that unmerged leaves lie below their nodes, so that no operation on the tree can leave it; validate
// checks the rest. It returns ErrMalformed or ErrUnsupported.
func parseRatchetTree(cs CipherSuite, b []byte) (*ratchetTree, error) {
	if !cs.Supported() {
		return nil, ErrUnsupported
	}
	t, s := &ratchetTree{suite: cs}, cryptobyte.String(b)
	if !readVector(&s, 2*maxLeaves-1, t.parseNode) || !s.Empty() {
		return nil, ErrMalformed
	}
	// The last node is occupied, so it is a leaf: a parent at the right edge would have nothing on its right.
	if n := len(t.nodes); n%2 == 0 || t.nodes[n-1].blank() {
		return nil, ErrMalformed
	}
	full := 1
	for full < len(t.nodes) {
		full = 2*full + 1
	}
	t.nodes = append(t.nodes, make([]node, full-len(t.nodes))...)
	for n := range nodeIndex(full) {
		if p := t.nodes[n].parent; p != nil && len(within(p.unmergedLeaves, n)) != len(p.unmergedLeaves) {
			return nil, ErrMalformed
		}
	}
	return t, nil
}

// parseNode reads the node at place len(t.nodes): leaves have the even places.
func (t *ratchetTree) parseNode(s *cryptobyte.String) bool {
	var present bool
	var at node
	var kind uint8
	if !readOptional(s, &present) {
		return false
	}
	if present {
		if !s.ReadUint8(&kind) {
			return false
		}
		isLeaf := nodeIndex(len(t.nodes)).isLeaf()
		switch {
		case kind == nodeTypeLeaf && isLeaf:
			at.leaf = new(LeafNode)
			present = at.leaf.parse(s)
		case kind == nodeTypeParent && !isLeaf:
			at.parent = new(parentNode)
			present = at.parent.parse(s)
		default:
			return false
		}
		if !present {
			return false
		}
	}
	t.nodes = append(t.nodes, at)
	return true
}

// bytes returns the content of a ratchet_tree extension. Blank nodes at the right edge are left out.
func (t *ratchetTree) bytes() []byte {
	last := len(t.nodes)
	for last > 0 && t.nodes[last-1].blank() {
		last--
	}
	var b cryptobyte.Builder
	writeVector(&b, func(b *cryptobyte.Builder) {
		for i := range t.nodes[:last] {
			t.nodes[i].marshal(b)
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
