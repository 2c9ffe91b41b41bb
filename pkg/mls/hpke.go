package mls

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
)

// HPKEPrivateKey is a secret HPKE key with its suite. It prints as "[secret]" and cannot be compared; MarshalBinary is
// the one way out, for storage. The zero value holds no key.
type HPKEPrivateKey struct {
	k func() *hpkeSecret // a func for the reason given at SignatureKey
}

type hpkeSecret struct {
	suite  CipherSuite
	key    kemKey
	public []byte
}

func newHPKEKey(cs CipherSuite, key kemKey, err error) (HPKEPrivateKey, error) {
	if err != nil {
		return HPKEPrivateKey{}, err
	}
	secret := &hpkeSecret{suite: cs, key: key, public: key.public()}
	return HPKEPrivateKey{k: func() *hpkeSecret { return secret }}, nil
}

// GenerateHPKEKey returns a fresh key. It returns ErrUnsupported for an unsupported suite.
func (cs CipherSuite) GenerateHPKEKey() (HPKEPrivateKey, error) {
	if !cs.Supported() {
		return HPKEPrivateKey{}, ErrUnsupported
	}
	key, err := cs.row().kem.generate()
	return newHPKEKey(cs, key, err)
}

// DeriveHPKEKey is KEM.DeriveKeyPair, RFC 9180 §7.1.3. The input has the length of the suite's hash, HashLen, as that of
// every key pair that RFC 9420 derives; any other length is ErrMalformed.
func (cs CipherSuite) DeriveHPKEKey(ikm []byte) (HPKEPrivateKey, error) {
	if !cs.Supported() {
		return HPKEPrivateKey{}, ErrUnsupported
	}
	if len(ikm) != cs.HashLen() {
		return HPKEPrivateKey{}, ErrMalformed
	}
	key, err := cs.row().kem.derive(ikm)
	return newHPKEKey(cs, key, err)
}

// parseHPKEPrivateKey reads the KEM's own serialization of a private key: SerializePrivateKey of RFC 9180 §7.1.2, or X-Wing's
// 32-byte seed.
func (cs CipherSuite) parseHPKEPrivateKey(b []byte) (HPKEPrivateKey, error) {
	if !cs.Supported() {
		return HPKEPrivateKey{}, ErrUnsupported
	}
	key, err := cs.row().kem.parse(b)
	return newHPKEKey(cs, key, err)
}

// validHPKEPublicKey reports whether sealing to b works. It is checked before a key enters a tree: a single key that
// cannot be sealed to would keep every member from making a path.
func (cs CipherSuite) validHPKEPublicKey(b []byte) bool { return cs.row().kem.valid(b) }

// same reports whether both are copies of one value.
func (k HPKEPrivateKey) same(o HPKEPrivateKey) bool {
	return k.isZero() == o.isZero() && (k.isZero() || k.k() == o.k())
}

// clone returns a key that erasing k leaves whole.
func (k HPKEPrivateKey) clone() HPKEPrivateKey {
	secret := *k.k()
	secret.key = secret.key.clone()
	return HPKEPrivateKey{k: func() *hpkeSecret { return &secret }}
}

// erase clears the key, as far as its library lets us, in every copy of the value.
func (k HPKEPrivateKey) erase() {
	if !k.isZero() {
		k.k().key.erase()
	}
}

// isZero reports whether the value holds no key.
func (k HPKEPrivateKey) isZero() bool { return k.k == nil }

// Public returns the public key, or nil for the zero value.
func (k HPKEPrivateKey) Public() []byte {
	if k.isZero() {
		return nil
	}
	return bytes.Clone(k.k().public)
}

// MarshalBinary returns the secret key for storage: the suite, then the KEM's serialization. It returns ErrInvalid for
// the zero value.
func (k HPKEPrivateKey) MarshalBinary() ([]byte, error) {
	if k.isZero() {
		return nil, ErrInvalid
	}
	private := k.k().key.private()
	defer clear(private)
	return append(binary.BigEndian.AppendUint16(nil, uint16(k.k().suite)), private...), nil
}

// UnmarshalBinary reads what MarshalBinary wrote. It returns ErrMalformed or ErrUnsupported and then leaves k as it is.
func (k *HPKEPrivateKey) UnmarshalBinary(b []byte) error {
	if len(b) < 2 {
		return ErrMalformed
	}
	read, err := CipherSuite(binary.BigEndian.Uint16(b)).parseHPKEPrivateKey(b[2:])
	if err != nil {
		return err
	}
	*k = read
	return nil
}

// Format writes "[secret]" for every verb.
func (HPKEPrivateKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[secret]") }

// hpkeBase is HPKE in base mode, RFC 9180 §5, of one suite and one info. MLS seals many messages with one info, a path and a
// Welcome to each of their receivers: what depends on the info alone is computed once, and that is why this is not a
// library's. All else that HPKE is made of, kem and AEAD, is.
type hpkeBase struct {
	row     *suite
	context []byte // key_schedule_context
}

func (cs CipherSuite) hpkeBase(info []byte) *hpkeBase {
	r := cs.row()
	const base = 0 // mode_base
	context := make([]byte, 0, 1+2*r.kdf.size)
	context = append(append(context, base), r.pskIDHash...)
	return &hpkeBase{r, append(context, r.kdf.labeledExtract(r.hpkeID, nil, "info_hash", info)...)}
}

// expand fills outputs with what the key schedule makes of a KEM's shared secret, which it clears.
func (h *hpkeBase) expand(shared []byte, outputs ...labelled) {
	secret := h.row.kdf.labeledExtract(h.row.hpkeID, shared, "secret", nil)
	clear(shared)
	s := h.row.kdf.under(secret)
	defer s.release()
	clear(secret)
	for _, o := range outputs {
		s.labeledExpand(h.row.hpkeID, o.label, h.context, nil, o.out)
	}
}

// messageKey returns the key and nonce of the context's first message, the only one that MLS sends.
func (h *hpkeBase) messageKey(shared []byte) messageKey {
	k := newMessageKey(h.row)
	h.expand(shared, labelled{"key", k.key}, labelled{"base_nonce", k.nonce})
	return k
}

// export returns n bytes of the context's exporter, RFC 9180 §5.3.
func (h *hpkeBase) export(shared []byte, exporterContext string, n int) []byte {
	exporter := make([]byte, h.row.kdf.size)
	h.expand(shared, labelled{"exp", exporter})
	s := h.row.kdf.under(exporter)
	defer s.release()
	clear(exporter)
	out := make([]byte, n)
	s.labeledExpand(h.row.hpkeID, "sec", []byte(exporterContext), nil, out)
	return out
}

// seal seals to one public key.
func (h *hpkeBase) seal(pub, aad, plaintext []byte) (kem, ct []byte, err error) {
	shared, kem, err := h.row.kem.encap(pub)
	if err != nil {
		return nil, nil, err
	}
	k := h.messageKey(shared)
	defer k.erase()
	return kem, h.row.seal(k.key, k.nonce, aad, plaintext), nil
}

// decap is the receiver's half of the KEM.
func (cs CipherSuite) decap(priv HPKEPrivateKey, kem []byte) (shared []byte, err error) {
	if priv.isZero() || priv.k().suite != cs {
		return nil, ErrUnauthenticated
	}
	return priv.k().key.decap(kem)
}

// HPKESeal is single-shot HPKE in base mode, RFC 9180 §6.1. It returns ErrMalformed if pub is no public key.
func (cs CipherSuite) HPKESeal(pub, info, aad, plaintext []byte) (kem, ct []byte, err error) {
	return cs.hpkeBase(info).seal(pub, aad, plaintext)
}

// HPKEOpen is single-shot HPKE in base mode, RFC 9180 §6.1. It returns ErrUnauthenticated.
func (cs CipherSuite) HPKEOpen(priv HPKEPrivateKey, info, aad, kem, ct []byte) ([]byte, error) {
	shared, err := cs.decap(priv, kem)
	if err != nil {
		return nil, ErrUnauthenticated
	}
	k := cs.hpkeBase(info).messageKey(shared)
	defer k.erase()
	return cs.Open(k.key, k.nonce, aad, ct)
}

// encryptContext is EncryptContext, RFC 9420 §5.1.3.
func encryptContext(label string, context []byte) []byte { return labelledContent(label, context) }

// sealerWithLabel returns what EncryptWithLabel of one label and context seals with, to any number of keys.
func (cs CipherSuite) sealerWithLabel(label string, context []byte) *hpkeBase {
	return cs.hpkeBase(encryptContext(label, context))
}

// EncryptWithLabel is RFC 9420 §5.1.3. It returns ErrMalformed if pub is no public key of the suite.
func (cs CipherSuite) EncryptWithLabel(pub []byte, label string, context, plaintext []byte) (kem, ct []byte, err error) {
	return cs.HPKESeal(pub, encryptContext(label, context), nil, plaintext)
}

// DecryptWithLabel is RFC 9420 §5.1.3. It returns ErrUnauthenticated.
func (cs CipherSuite) DecryptWithLabel(priv HPKEPrivateKey, label string, context, kem, ct []byte) ([]byte, error) {
	return cs.HPKEOpen(priv, encryptContext(label, context), nil, kem, ct)
}

// exportTo sets up HPKE towards pub with an empty info and exports n bytes: the sender's half of RFC 9420 §8.3. The
// exporter label is taken as it is.
func (cs CipherSuite) exportTo(pub []byte, label string, n int) (kemOutput, secret []byte, err error) {
	shared, kemOutput, err := cs.row().kem.encap(pub)
	if err != nil {
		return nil, nil, err
	}
	return kemOutput, cs.hpkeBase(nil).export(shared, label, n), nil
}

// exportFrom is the receiver's half of exportTo. It returns ErrUnauthenticated.
func (cs CipherSuite) exportFrom(priv HPKEPrivateKey, kemOutput []byte, label string, n int) ([]byte, error) {
	shared, err := cs.decap(priv, kemOutput)
	if err != nil {
		return nil, ErrUnauthenticated
	}
	return cs.hpkeBase(nil).export(shared, label, n), nil
}

// hpkeCiphertext is HPKECiphertext, RFC 9420 §7.6.
type hpkeCiphertext struct {
	kemOutput  []byte
	ciphertext []byte
}

// parse reads a ciphertext as views.
func (c *hpkeCiphertext) parse(s *cryptobyte.String) bool {
	return readView(s, &c.kemOutput) && readView(s, &c.ciphertext)
}

func (c *hpkeCiphertext) marshal(b *cryptobyte.Builder) {
	writeOpaque(b, c.kemOutput)
	writeOpaque(b, c.ciphertext)
}
