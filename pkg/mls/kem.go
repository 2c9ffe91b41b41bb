package mls

import (
	"encoding/binary"
)

// kem is a key encapsulation mechanism, RFC 9180 §4. Its keys are bytes in the mechanism's own serialization.
type kem interface {
	// derive is DeriveKeyPair, RFC 9180 §7.1.3, for an input of any length.
	derive(ikm []byte) (kemKey, error)
	// parse reads a private key. It returns ErrMalformed.
	parse(private []byte) (kemKey, error)
	// valid reports whether encap accepts the public key.
	valid(public []byte) bool
	// encap draws a shared secret for the owner of a public key. It returns ErrMalformed if the key is not valid.
	encap(public []byte) (shared, output []byte, err error)
	// generate draws a fresh key.
	generate() (kemKey, error)
	id() uint16
}

// kemKey is a private key. It must not change once made: goroutines share it. erase ends its life.
type kemKey interface {
	public() []byte
	private() []byte
	// decap returns the shared secret of an output of encap. It returns ErrUnauthenticated for an output that none makes.
	decap(output []byte) (shared []byte, err error)
	// clone returns a key that erasing this one leaves whole.
	clone() kemKey
	// erase clears the secret as far as its library lets us.
	erase()
}

// dhGroup is a Diffie-Hellman group of RFC 9180 §7.1.
type dhGroup interface {
	// parse reads a private key.
	parse(secret []byte) (dhKey, error)
	generate() (dhKey, error)
	// derive makes a key of the secrets that candidate gives: candidate fills out with what DeriveKeyPair expands dkp_prk to
	// under a label and a context, RFC 9180 §7.1.3.
	derive(candidate func(label string, context, out []byte)) (dhKey, error)
	valid(public []byte) bool
}

// dhKey is a private key of a dhGroup.
type dhKey interface {
	public() []byte
	private() []byte
	// exchange returns the shared point, false if the other key is not valid.
	exchange(public []byte) ([]byte, bool)
	clone() dhKey
	erase()
}

// dhKEM is DHKEM, RFC 9180 §4.1.
type dhKEM struct {
	group dhGroup
	kdf   *kdf
	kemID uint16
	suite string // suite_id of the labelled functions
}

func newDHKEM(id uint16, group dhGroup, k *kdf) *dhKEM {
	return &dhKEM{group: group, kdf: k, kemID: id, suite: string(binary.BigEndian.AppendUint16([]byte("KEM"), id))}
}

func (k *dhKEM) id() uint16               { return k.kemID }
func (k *dhKEM) valid(public []byte) bool { return k.group.valid(public) }

func (k *dhKEM) parse(private []byte) (kemKey, error) { return k.wrap(k.group.parse(private)) }

func (k *dhKEM) generate() (kemKey, error) { return k.wrap(k.group.generate()) }

func (k *dhKEM) wrap(key dhKey, err error) (kemKey, error) {
	if err != nil {
		return nil, ErrMalformed
	}
	return &dhPrivate{k, key}, nil
}

func (k *dhKEM) derive(ikm []byte) (kemKey, error) {
	prk := k.kdf.labeledExtract(k.suite, nil, "dkp_prk", ikm)
	s := k.kdf.under(prk)
	defer s.release()
	clear(prk)
	return k.wrap(k.group.derive(func(label string, context, out []byte) {
		s.labeledExpand(k.suite, label, context, nil, out)
	}))
}

func (k *dhKEM) encap(public []byte) (shared, output []byte, err error) {
	ephemeral, err := k.group.generate()
	if err != nil {
		return nil, nil, ErrMalformed
	}
	defer ephemeral.erase()
	point, ok := ephemeral.exchange(public)
	if !ok {
		return nil, nil, ErrMalformed
	}
	output = ephemeral.public()
	return k.extractAndExpand(point, output, public), output, nil
}

// extractAndExpand is ExtractAndExpand, RFC 9180 §4.1, of a shared point, which it clears.
func (k *dhKEM) extractAndExpand(point, output, public []byte) []byte {
	prk := k.kdf.labeledExtract(k.suite, nil, "eae_prk", point)
	clear(point)
	s := k.kdf.under(prk)
	defer s.release()
	clear(prk)
	shared := make([]byte, k.kdf.size)                                // Nsecret is Nh in every DHKEM
	s.labeledExpand(k.suite, "shared_secret", output, public, shared) // kem_context is both
	return shared
}

// dhPrivate is a private key of a dhKEM.
type dhPrivate struct {
	kem *dhKEM
	dhKey
}

func (p *dhPrivate) clone() kemKey { return &dhPrivate{p.kem, p.dhKey.clone()} }

func (p *dhPrivate) decap(output []byte) ([]byte, error) {
	point, ok := p.exchange(output)
	if !ok {
		return nil, ErrUnauthenticated
	}
	return p.kem.extractAndExpand(point, output, p.public()), nil
}
