package mls

import (
	"bytes"

	"golang.org/x/crypto/cryptobyte"
)

// pastEpoch is what is kept of an epoch that has ended, so that its late application messages still open.
type pastEpoch struct {
	epoch      uint64
	context    []byte // encoded GroupContext, which signatures cover
	senderData []byte
	resumption []byte
	messages   *secretTree
	leaves     []*LeafNode // by index, nil for blank
}

// retire makes a past epoch of a state whose epoch ends. It takes over the secret tree; all other secrets are erased.
func (s *groupState) retire() *pastEpoch {
	p := &pastEpoch{
		epoch:      s.public.context.epoch,
		context:    s.public.encoded,
		senderData: bytes.Clone(s.secrets.senderData),
		resumption: bytes.Clone(s.secrets.resumption),
		messages:   s.messages,
		leaves:     s.public.tree.leaves(),
	}
	s.secrets.erase()
	return p
}

func (p *pastEpoch) erase() {
	clear(p.senderData)
	clear(p.resumption)
	p.messages.erase()
}

// share makes leaves that the current tree has too the current tree's: they need not be kept twice, nor compared again.
func (p *pastEpoch) share(now *ratchetTree) {
	for i, l := range p.leaves {
		if n := now.leaf(leafIndex(i)); l != n && sameLeaf(l, n) {
			p.leaves[i] = n
		}
	}
}

// leaf returns the leaf of that epoch at i, nil if it was blank.
func (p *pastEpoch) leaf(i uint32) *LeafNode {
	if uint64(i) >= uint64(len(p.leaves)) {
		return nil
	}
	return p.leaves[i]
}

// marshal writes the epoch for storage. Of the leaves only those are written that now, the current tree, does not have.
func (p *pastEpoch) marshal(b *cryptobyte.Builder, now *ratchetTree) {
	b.AddUint64(p.epoch)
	writeOpaque(b, p.context)
	writeOpaque(b, p.senderData)
	writeOpaque(b, p.resumption)
	p.messages.marshal(b)
	b.AddUint32(uint32(len(p.leaves)))
	writeVector(b, func(b *cryptobyte.Builder) {
		for i, l := range p.leaves {
			if sameLeaf(l, now.leaf(leafIndex(i))) {
				continue
			}
			b.AddUint32(uint32(i))
			writeOptional(b, l != nil)
			if l != nil {
				l.marshal(b)
			}
		}
	})
}

// sameLeaf reports whether both are blank or the same leaf. Two leaves with one signature are taken to be the same: it covers all else.
func sameLeaf(a, b *LeafNode) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a == b || bytes.Equal(a.signature, b.signature) && a.equal(b)
}

func (p *pastEpoch) parse(s *cryptobyte.String, now *ratchetTree) bool {
	p.messages = new(secretTree)
	var width uint32
	ok := s.ReadUint64(&p.epoch) &&
		readOpaque(s, &p.context) &&
		readOpaque(s, &p.senderData) &&
		readOpaque(s, &p.resumption) &&
		p.messages.parse(s) &&
		s.ReadUint32(&width) && width == p.messages.width
	if !ok {
		return false
	}
	p.leaves = make([]*LeafNode, width)
	for i := range p.leaves {
		p.leaves[i] = now.leaf(leafIndex(i))
	}
	var order ascending
	return readVector(s, maxLeaves, func(s *cryptobyte.String) bool { return p.parseLeaf(s, &order) })
}

// parseLeaf reads one difference to the current tree.
func (p *pastEpoch) parseLeaf(s *cryptobyte.String, order *ascending) bool {
	var i uint32
	var present bool
	if !s.ReadUint32(&i) || !order.ok(i) || uint64(i) >= uint64(len(p.leaves)) || !readOptional(s, &present) {
		return false
	}
	var l *LeafNode
	if present {
		l = new(LeafNode)
	}
	if present && !l.parse(s) || sameLeaf(l, p.leaves[i]) {
		return false
	}
	p.leaves[i] = l
	return true
}
