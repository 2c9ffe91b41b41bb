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
	ReInit     *ReInit     // reinit
	Extensions []Extension // group_context_extensions
	// Body is the content of the one opaque<V> that is the body of every type that this package does not know.
	Body []byte

	kemOutput []byte // external_init
}

// ReInit is ReInit, RFC 9420 §12.1.5: what the group that succeeds the present one is to be. A commit that holds it ends the present group.
type ReInit struct {
	GroupID    []byte // may be that of the present group
	Version    uint16 // 1 for MLS 1.0; a sender that leaves it 0 gets that
	Suite      CipherSuite
	Extensions []Extension // of the successor's GroupContext
}

func (r *ReInit) parse(s *cryptobyte.String) bool {
	return readOpaque(s, &r.GroupID) &&
		s.ReadUint16(&r.Version) &&
		s.ReadUint16((*uint16)(&r.Suite)) &&
		parseExtensions(s, &r.Extensions)
}

func (r *ReInit) marshal(b *cryptobyte.Builder) {
	writeOpaque(b, r.GroupID)
	b.AddUint16(r.Version)
	b.AddUint16(uint16(r.Suite))
	marshalExtensions(b, r.Extensions)
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
		p.ReInit = new(ReInit)
		return p.ReInit.parse(s)
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
		p.ReInit.marshal(b)
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
		p.Type == ProposalReInit && p.ReInit == nil,
		p.Type == ProposalExternalInit && p.kemOutput == nil:
		return broken("12.1", "a proposal has the content of its type")
	case p.Type == ProposalPSK:
		return p.PSK.checkMade()
	case p.Type == ProposalReInit:
		return checkExtensions(p.ReInit.Extensions)
	case p.Type == ProposalGroupContextExtensions:
		return checkExtensions(p.Extensions)
	}
	return nil
}
