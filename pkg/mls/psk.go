package mls

import (
	"math"

	"golang.org/x/crypto/cryptobyte"
)

// pskType is PSKType, RFC 9420 §8.4.
type pskType uint8

const (
	pskExternal   pskType = 1
	pskResumption pskType = 2
)

// resumptionUsage is ResumptionPSKUsage, RFC 9420 §8.4.
type resumptionUsage uint8

const (
	usageApplication resumptionUsage = 1
	usageReInit      resumptionUsage = 2
	usageBranch      resumptionUsage = 3
)

// resumptionID is the resumption part of PreSharedKeyID, RFC 9420 §8.4.
type resumptionID struct {
	usage   resumptionUsage
	groupID []byte
	epoch   uint64
}

func (r *resumptionID) parse(s *cryptobyte.String) bool {
	return s.ReadUint8((*uint8)(&r.usage)) &&
		r.usage >= usageApplication && r.usage <= usageBranch &&
		readOpaque(s, &r.groupID) &&
		s.ReadUint64(&r.epoch)
}

func (r *resumptionID) marshal(b *cryptobyte.Builder) {
	b.AddUint8(uint8(r.usage))
	writeOpaque(b, r.groupID)
	b.AddUint64(r.epoch)
}

// PSKID is PreSharedKeyID, RFC 9420 §8.4. ID and Nonce name an external PSK. One that names a resumption PSK can only be received;
// its ID is empty.
type PSKID struct {
	ID    []byte
	Nonce []byte // KDF.Nh bytes, fresh for each use; a sender that leaves it nil gets a random one

	resumption *resumptionID // nil for an external PSK
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
		p.resumption = new(resumptionID)
		return p.resumption.parse(s) && readOpaque(s, &p.Nonce)
	default:
		return false
	}
}

func (p *PSKID) marshal(b *cryptobyte.Builder) {
	if p.resumption == nil {
		b.AddUint8(uint8(pskExternal))
		writeOpaque(b, p.ID)
	} else {
		b.AddUint8(uint8(pskResumption))
		p.resumption.marshal(b)
	}
	writeOpaque(b, p.Nonce)
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
		input := suite.ExpandWithLabel(suite.extract(zeros(suite), psk), labelDerivedPSK, pskLabel(id, i, len(ids)), suite.HashLen())
		secret = suite.extract(input, secret)
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

// externalPSKs makes a lookup that knows external PSKs only, from an application's function, which may be nil.
func externalPSKs(f func(id []byte) ([]byte, error)) pskLookup {
	return func(id *PSKID) ([]byte, error) {
		if id.resumption != nil || f == nil {
			return nil, ErrUnsupported
		}
		return f(id.ID)
	}
}
