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
	nodes      nodeArray // of which only the leaves count
}

// retire makes a past epoch of a state whose epoch ends. It takes over the secret tree; all other secrets are erased.
func (s *groupState) retire() *pastEpoch {
	p := &pastEpoch{
		nodes:      s.public.tree.nodes.snapshot(),
		epoch:      s.public.context.epoch,
		context:    s.public.encoded,
		senderData: bytes.Clone(s.secrets.senderData),
		resumption: bytes.Clone(s.secrets.resumption),
		messages:   s.messages,
	}
	s.secrets.erase()
	return p
}

// eraseReplaced clears the private keys of a state whose epoch ends that the next one does not hold: replaced keys of the tree, and those
// of own Updates that were not committed.
func (s *groupState) eraseReplaced(next *groupState) {
	s.private.eraseReplaced(next.private)
	for _, u := range s.updates {
		if !u.key.same(next.private.leafKey()) {
			u.key.erase()
		}
	}
}

func (p *pastEpoch) erase() {
	clear(p.senderData)
	clear(p.resumption)
	p.messages.erase()
}

// rebase lets p share with the current tree what both have: leaves that are the same need not be kept twice, nor compared again.
func (p *pastEpoch) rebase(now *ratchetTree) {
	own := now.nodes.snapshot()
	own.resize(p.nodes.leaves)
	p.nodes.differences(&own, func(i leafIndex) {
		if l := p.leaf(uint32(i)); !sameLeaf(l, own.leaf(i)) {
			own.edit(i.node()).leaf = l
		}
	})
	own.share()
	p.nodes = own
}

// leaf returns the leaf of that epoch at i, nil if it was blank.
func (p *pastEpoch) leaf(i uint32) *LeafNode { return p.nodes.leaf(leafIndex(i)) }

// marshal writes the epoch for storage. Of the leaves only those are written that now, the current tree, does not have.
func (p *pastEpoch) marshal(b *cryptobyte.Builder, now *ratchetTree) {
	b.AddUint64(p.epoch)
	writeOpaque(b, p.context)
	writeOpaque(b, p.senderData)
	writeOpaque(b, p.resumption)
	p.messages.marshal(b)
	b.AddUint32(uint32(p.nodes.leaves))
	writeVector(b, func(b *cryptobyte.Builder) {
		p.nodes.differences(&now.nodes, func(i leafIndex) {
			l := p.leaf(uint32(i))
			if uint64(i) >= uint64(p.nodes.leaves) || sameLeaf(l, now.leaf(i)) {
				return
			}
			b.AddUint32(uint32(i))
			writeOptional(b, l != nil)
			if l != nil {
				l.marshal(b)
			}
		})
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
	p.nodes = now.nodes.snapshot()
	p.nodes.resize(int(width))
	var order ascending
	ok = readVector(s, maxLeaves, func(s *cryptobyte.String) bool { return p.parseLeaf(s, &order) })
	p.nodes.share()
	return ok
}

// parseLeaf reads one difference to the current tree.
func (p *pastEpoch) parseLeaf(s *cryptobyte.String, order *ascending) bool {
	var i uint32
	var present bool
	if !s.ReadUint32(&i) || !order.ok(i) || uint64(i) >= uint64(p.nodes.leaves) || !readOptional(s, &present) {
		return false
	}
	var l *LeafNode
	if present {
		l = new(LeafNode)
	}
	if present && !l.parse(s) || sameLeaf(l, p.leaf(i)) {
		return false
	}
	p.nodes.edit(leafIndex(i).node()).leaf = l
	return true
}
