package mls

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"github.com/cloudflare/circl/hpke"
	"github.com/cloudflare/circl/kem"
	"golang.org/x/crypto/cryptobyte"
)

// HPKEPrivateKey is a secret HPKE key with its suite. It prints as "[secret]" and cannot be compared; MarshalBinary is
// the one way out, for storage. The zero value holds no key.
type HPKEPrivateKey struct {
	k func() *hpkeSecret // a func for the reason given at SignatureKey
}

type hpkeSecret struct {
	suite  CipherSuite
	key    kem.PrivateKey
	public []byte
}

// newHPKEKey computes the public key at once: the library caches it in the key on first use, and a key that is shared
// between goroutines must not change.
func newHPKEKey(cs CipherSuite, key kem.PrivateKey) (HPKEPrivateKey, error) {
	public, err := key.Public().MarshalBinary()
	if err != nil {
		return HPKEPrivateKey{}, ErrMalformed
	}
	secret := &hpkeSecret{suite: cs, key: key, public: public}
	return HPKEPrivateKey{k: func() *hpkeSecret { return secret }}, nil
}

// GenerateHPKEKey returns a fresh key. It returns ErrUnsupported for an unsupported suite.
func (cs CipherSuite) GenerateHPKEKey() (HPKEPrivateKey, error) {
	if !cs.Supported() {
		return HPKEPrivateKey{}, ErrUnsupported
	}
	return cs.DeriveHPKEKey(randomBytes(cs.row().kem.SeedSize()))
}

// DeriveHPKEKey is DeriveKeyPair of RFC 9180 §7.1.3. The input has the length of the suite's KEM seed, which is that of
// its hash; any other length is ErrMalformed.
func (cs CipherSuite) DeriveHPKEKey(ikm []byte) (HPKEPrivateKey, error) {
	if !cs.Supported() {
		return HPKEPrivateKey{}, ErrUnsupported
	}
	if len(ikm) != cs.row().kem.SeedSize() {
		return HPKEPrivateKey{}, ErrMalformed
	}
	_, key := cs.row().kem.DeriveKeyPair(ikm)
	return newHPKEKey(cs, key)
}

// parseHPKEPrivateKey reads the KEM's own serialization of a private key.
func (cs CipherSuite) parseHPKEPrivateKey(b []byte) (HPKEPrivateKey, error) {
	if !cs.Supported() {
		return HPKEPrivateKey{}, ErrUnsupported
	}
	key, err := cs.row().kem.UnmarshalBinaryPrivateKey(b)
	if err != nil {
		return HPKEPrivateKey{}, ErrMalformed
	}
	return newHPKEKey(cs, key)
}

// validHPKEPublicKey reports whether sealing to b works. It is checked before a key enters a tree: a single key that
// cannot be sealed to would keep every member from making a path.
func (cs CipherSuite) validHPKEPublicKey(b []byte) bool { return cs.row().validKEMKey(b) }

// lowOrderX25519 are the u-coordinates of the points of small order on Curve25519 and its twist, as they can be written
// in 255 bits: 0, 1, the two of order 8, p-1, p and p+1. Diffie-Hellman with one of them gives zero, which RFC 9180
// §7.1.4 makes an error.
var lowOrderX25519 = map[[32]byte]bool{
	{}:     true,
	{0: 1}: true,
	[32]byte{
		0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
		0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
	}: true,
	[32]byte{
		0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
		0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
	}: true,
	nearX25519Prime(0xec): true,
	nearX25519Prime(0xed): true,
	nearX25519Prime(0xee): true,
}

// nearX25519Prime returns p-1, p or p+1 by its lowest byte; p is 2^255-19.
func nearX25519Prime(low byte) (b [32]byte) {
	for i := range b {
		b[i] = 0xff
	}
	b[0], b[31] = low, 0x7f
	return b
}

// validX25519 reports whether b is a public key of X25519 that is not of small order. X25519 ignores the top bit.
func validX25519(b []byte) bool {
	if len(b) != 32 {
		return false
	}
	u := [32]byte(b)
	u[31] &= 0x7f
	return !lowOrderX25519[u]
}

// isZero reports whether the value holds no key.
func (k HPKEPrivateKey) isZero() bool { return k.k == nil }

// Public returns the public key, or nil for the zero value.
func (k HPKEPrivateKey) Public() []byte {
	if k.isZero() {
		return nil
	}
	return append([]byte(nil), k.k().public...)
}

// MarshalBinary returns the secret key for storage: the suite, then the KEM's serialization. It returns ErrInvalid for
// the zero value.
func (k HPKEPrivateKey) MarshalBinary() ([]byte, error) {
	if k.isZero() {
		return nil, ErrInvalid
	}
	b, err := k.k().key.MarshalBinary()
	if err != nil {
		return nil, ErrInvalid
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(k.k().suite)), b...), nil
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

// sender sets up HPKE in base mode towards pub. It returns ErrMalformed if pub is no public key of the suite.
func (cs CipherSuite) sender(pub, info []byte) (kemOutput []byte, ctx hpke.Sealer, err error) {
	key, err := cs.row().kem.UnmarshalBinaryPublicKey(pub)
	if err != nil {
		return nil, nil, ErrMalformed
	}
	s, err := cs.row().hpke.NewSender(key, info)
	if err != nil {
		return nil, nil, ErrMalformed
	}
	kemOutput, ctx, err = s.Setup(rand.Reader)
	if err != nil { // a point of small order
		return nil, nil, ErrMalformed
	}
	return kemOutput, ctx, nil
}

// receiver sets up HPKE in base mode with priv. It returns ErrUnauthenticated.
func (cs CipherSuite) receiver(priv HPKEPrivateKey, info, kemOutput []byte) (hpke.Opener, error) {
	if priv.isZero() || priv.k().suite != cs {
		return nil, ErrUnauthenticated
	}
	r, err := cs.row().hpke.NewReceiver(priv.k().key, info)
	if err != nil {
		return nil, ErrUnauthenticated
	}
	ctx, err := r.Setup(kemOutput)
	if err != nil {
		return nil, ErrUnauthenticated
	}
	return ctx, nil
}

// HPKESeal is single-shot HPKE in base mode, RFC 9180 §6.1. It returns ErrMalformed if pub is no public key.
func (cs CipherSuite) HPKESeal(pub, info, aad, plaintext []byte) (kem, ct []byte, err error) {
	kem, ctx, err := cs.sender(pub, info)
	if err != nil {
		return nil, nil, err
	}
	ct, err = ctx.Seal(plaintext, aad)
	if err != nil {
		return nil, nil, ErrMalformed
	}
	return kem, ct, nil
}

// HPKEOpen is single-shot HPKE in base mode, RFC 9180 §6.1. It returns ErrUnauthenticated.
func (cs CipherSuite) HPKEOpen(priv HPKEPrivateKey, info, aad, kem, ct []byte) ([]byte, error) {
	ctx, err := cs.receiver(priv, info, kem)
	if err != nil {
		return nil, err
	}
	plaintext, err := ctx.Open(ct, aad)
	if err != nil {
		return nil, ErrUnauthenticated
	}
	return plaintext, nil
}

// encryptContext is EncryptContext, RFC 9420 §5.1.3.
func encryptContext(label string, context []byte) []byte {
	var b cryptobyte.Builder
	writeOpaque(&b, []byte(labelPrefix+label))
	writeOpaque(&b, context)
	return b.BytesOrPanic()
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
	kemOutput, ctx, err := cs.sender(pub, nil)
	if err != nil {
		return nil, nil, err
	}
	return kemOutput, ctx.Export([]byte(label), uint(n)), nil
}

// exportFrom is the receiver's half of exportTo. It returns ErrUnauthenticated.
func (cs CipherSuite) exportFrom(priv HPKEPrivateKey, kemOutput []byte, label string, n int) ([]byte, error) {
	ctx, err := cs.receiver(priv, nil, kemOutput)
	if err != nil {
		return nil, err
	}
	return ctx.Export([]byte(label), uint(n)), nil
}

// hpkeCiphertext is HPKECiphertext, RFC 9420 §7.6.
type hpkeCiphertext struct {
	kemOutput  []byte
	ciphertext []byte
}

func (c *hpkeCiphertext) parse(s *cryptobyte.String) bool {
	return readOpaque(s, &c.kemOutput) && readOpaque(s, &c.ciphertext)
}

func (c *hpkeCiphertext) marshal(b *cryptobyte.Builder) {
	writeOpaque(b, c.kemOutput)
	writeOpaque(b, c.ciphertext)
}
