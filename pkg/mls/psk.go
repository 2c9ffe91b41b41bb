package mls

import (
	"bytes"
	"math"

	"golang.org/x/crypto/cryptobyte"
)

// pskType is PSKType, RFC 9420 §8.4.
type pskType uint8

const (
	pskExternal   pskType = 1
	pskResumption pskType = 2
)

// PSKUsage is ResumptionPSKUsage, RFC 9420 §8.4.
type PSKUsage uint8

// The usages of RFC 9420 §8.4. A proposal has PSKApplication; the others stand in the Welcome that Group.Successor makes, and nowhere else.
const (
	PSKApplication PSKUsage = 1
	PSKReInit      PSKUsage = 2
	PSKBranch      PSKUsage = 3
)

// PSKID is PreSharedKeyID, RFC 9420 §8.4. It names an external PSK, which the application knows by its ID, or a resumption PSK: a secret that the
// members of a group have from one of its epochs.
type PSKID struct {
	ID      []byte   // external
	Usage   PSKUsage // resumption; 0 says that the PSK is external
	GroupID []byte   // resumption
	Epoch   uint64   // resumption
	Nonce   []byte   // KDF.Nh bytes, fresh for each use; a sender that leaves it nil gets a random one
}

func (p *PSKID) parse(s *cryptobyte.String) bool {
	var t pskType
	if !s.ReadUint8((*uint8)(&t)) {
		return false
	}
	switch t {
	case pskExternal:
		return readOpaque(s, &p.ID) && readOpaque(s, &p.Nonce)
	case pskResumption:
		return s.ReadUint8((*uint8)(&p.Usage)) &&
			p.Usage >= PSKApplication && p.Usage <= PSKBranch &&
			readOpaque(s, &p.GroupID) &&
			s.ReadUint64(&p.Epoch) &&
			readOpaque(s, &p.Nonce)
	default:
		return false
	}
}

func (p *PSKID) marshal(b *cryptobyte.Builder) {
	if p.Usage == 0 {
		b.AddUint8(uint8(pskExternal))
		writeOpaque(b, p.ID)
	} else {
		b.AddUint8(uint8(pskResumption))
		b.AddUint8(uint8(p.Usage))
		writeOpaque(b, p.GroupID)
		b.AddUint64(p.Epoch)
	}
	writeOpaque(b, p.Nonce)
}

// checkMade says whether an identity from a local caller says one thing only.
func (p *PSKID) checkMade() error {
	external, resumption := p.ID != nil, p.GroupID != nil || p.Epoch != 0
	if p.Usage > PSKBranch || p.Usage == 0 && resumption || p.Usage != 0 && external {
		return broken("8.4", "a PSK is an external one with an ID, or one of a group and an epoch for one usage")
	}
	return nil
}

// pskLookup returns the secret that an identity names.
type pskLookup func(id *PSKID) ([]byte, error)

// pskSecret is psk_secret, RFC 9420 §8.4. It returns ErrMalformed for more PSKs than uint16 counts, or lookup's error.
func pskSecret(suite CipherSuite, ids []*PSKID, lookup pskLookup) ([]byte, error) {
	if len(ids) > math.MaxUint16 {
		return nil, ErrMalformed
	}
	secret := zeros(suite)
	for i, id := range ids {
		psk, err := lookup(id)
		if err != nil {
			return nil, err
		}
		extracted := suite.extract(zeros(suite), psk)
		input := suite.ExpandWithLabel(extracted, labelDerivedPSK, pskLabel(id, i, len(ids)), suite.HashLen())
		next := suite.extract(input, secret)
		for _, used := range [][]byte{extracted, input, secret} {
			clear(used)
		}
		secret = next
	}
	return secret, nil
}

// pskLabel is PSKLabel, RFC 9420 §8.4.
func pskLabel(id *PSKID, index, count int) []byte {
	var b cryptobyte.Builder
	id.marshal(&b)
	b.AddUint16(uint16(index))
	b.AddUint16(uint16(count))
	return b.BytesOrPanic()
}

// pskSources is where a client finds PSKs. Each may be nil.
type pskSources struct {
	own      *groupState // the group that the PSKs enter
	external func(id []byte) ([]byte, error)
	groups   func(groupID []byte) *Group
}

// find is a pskLookup. It returns ErrUnsupported for a PSK that the client does not have.
func (p pskSources) find(id *PSKID) ([]byte, error) {
	if id.Usage == 0 {
		if p.external == nil {
			return nil, ErrUnsupported
		}
		return p.external(id.ID)
	}
	if p.own != nil && bytes.Equal(id.GroupID, p.own.public.context.groupID) {
		if psk, ok := p.own.resumption(id.Epoch); ok {
			return psk, nil
		}
	}
	if g := p.group(id.GroupID); g != nil {
		if psk, ok := g.s.resumption(id.Epoch); ok {
			return psk, nil
		}
	}
	return nil, ErrUnsupported
}

// group returns the client's group of an id, nil if it has none.
func (p pskSources) group(id []byte) *Group {
	if p.groups == nil {
		return nil
	}
	g := p.groups(id)
	if g == nil || !bytes.Equal(g.s.public.context.groupID, id) {
		return nil
	}
	return g
}

// resumption returns resumption_psk of the current epoch or of one that is kept, RFC 9420 §8.6.
func (s *groupState) resumption(epoch uint64) ([]byte, bool) {
	if epoch == s.public.context.epoch {
		return s.secrets.resumption, true
	}
	if p := s.pastEpoch(epoch); p != nil {
		return p.resumption, true
	}
	return nil, false
}

// pastEpoch returns a past epoch that is kept, nil if it is not.
func (s *groupState) pastEpoch(epoch uint64) *pastEpoch {
	for _, p := range s.past {
		if p.epoch == epoch {
			return p
		}
	}
	return nil
}
