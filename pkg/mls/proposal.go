package mls

import (
	"golang.org/x/crypto/cryptobyte"
)

// Proposal is Proposal, RFC 9420 §12.1. Each field but Type belongs to the type named; the others are left zero.
type Proposal struct {
	Type       ProposalType
	KeyPackage *KeyPackage // add
	Removed    uint32      // remove: a leaf index
	// Leaf is update's leaf. It is filled when received; a sender leaves it nil and the group makes it.
	Leaf       *LeafNode
	PSK        *PSKID      // psk
	Extensions []Extension // group_context_extensions
	// Body is the content of the one opaque<V> that is the body of every type that this package does not know.
	Body []byte

	reInit    *reInit // reinit
	kemOutput []byte  // external_init
}

// reInit is ReInit, RFC 9420 §12.1.5.
type reInit struct {
	groupID    []byte
	version    protocolVersion
	suite      CipherSuite
	extensions []Extension
}

func (r *reInit) parse(s *cryptobyte.String) bool {
	return readOpaque(s, &r.groupID) &&
		s.ReadUint16(&r.version) &&
		s.ReadUint16((*uint16)(&r.suite)) &&
		parseExtensions(s, &r.extensions)
}

func (r *reInit) marshal(b *cryptobyte.Builder) {
	writeOpaque(b, r.groupID)
	b.AddUint16(r.version)
	b.AddUint16(uint16(r.suite))
	marshalExtensions(b, r.extensions)
}

func (p *Proposal) parse(s *cryptobyte.String) bool {
	return s.ReadUint16((*uint16)(&p.Type)) && p.Type != 0 && p.parseBody(s)
}

// parseBody reads what follows the type.
func (p *Proposal) parseBody(s *cryptobyte.String) bool {
	switch p.Type {
	case ProposalAdd:
		p.KeyPackage = new(KeyPackage)
		return p.KeyPackage.parse(s)
	case ProposalUpdate:
		p.Leaf = new(LeafNode)
		return p.Leaf.parse(s)
	case ProposalRemove:
		return s.ReadUint32(&p.Removed)
	case ProposalPSK:
		p.PSK = new(PSKID)
		return p.PSK.parse(s)
	case ProposalReInit:
		p.reInit = new(reInit)
		return p.reInit.parse(s)
	case ProposalExternalInit:
		return readOpaque(s, &p.kemOutput)
	case ProposalGroupContextExtensions:
		return parseExtensions(s, &p.Extensions)
	case ProposalSelfRemove:
		return true
	}
	return readOpaque(s, &p.Body)
}

func (p *Proposal) marshal(b *cryptobyte.Builder) {
	b.AddUint16(uint16(p.Type))
	p.marshalBody(b)
}

// marshalBody writes what follows the type. A proposal of a local caller has passed checkMade.
func (p *Proposal) marshalBody(b *cryptobyte.Builder) {
	switch p.Type {
	case ProposalAdd:
		p.KeyPackage.marshal(b)
	case ProposalUpdate:
		p.Leaf.marshal(b)
	case ProposalRemove:
		b.AddUint32(p.Removed)
	case ProposalPSK:
		p.PSK.marshal(b)
	case ProposalReInit:
		p.reInit.marshal(b)
	case ProposalExternalInit:
		writeOpaque(b, p.kemOutput)
	case ProposalGroupContextExtensions:
		marshalExtensions(b, p.Extensions)
	case ProposalSelfRemove:
	default:
		writeOpaque(b, p.Body)
	}
}

// checkMade says whether a proposal from a local caller can be written at all.
func (p *Proposal) checkMade() error {
	switch {
	case p.Type == 0,
		p.Type == ProposalAdd && p.KeyPackage == nil,
		p.Type == ProposalUpdate && p.Leaf == nil,
		p.Type == ProposalPSK && p.PSK == nil,
		p.Type == ProposalReInit && p.reInit == nil,
		p.Type == ProposalExternalInit && p.kemOutput == nil:
		return broken("12.1", "a proposal has the content of its type")
	case p.Type == ProposalGroupContextExtensions:
		return checkExtensions(p.Extensions)
	}
	return nil
}
