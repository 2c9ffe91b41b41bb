package mls

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"

	"github.com/cloudflare/circl/hpke"
	"github.com/cloudflare/circl/kem"
	"golang.org/x/crypto/cryptobyte"
)

// labelPrefix begins every label of RFC 9420 but that of RefHash, whose callers write it out.
const labelPrefix = "MLS 1.0 "

// suite is one row of the table of cipher suites, RFC 9420 §5.1. Signatures are Ed25519 in every row so far; a row with
// another scheme also needs another representation in signatureSecret.
type suite struct {
	hash     func() hash.Hash
	hashLen  int // Nh
	keyLen   int // AEAD.Nk
	nonceLen int // AEAD.Nn
	aead     func(key []byte) (cipher.AEAD, error)
	kem      kem.Scheme
	hpke     hpke.Suite
	// validKEMKey reports whether bytes are a public key of kem that Encap does not refuse.
	validKEMKey func(b []byte) bool
}

var suites = map[CipherSuite]*suite{
	X25519_AES128GCM_SHA256_Ed25519: {
		hash:     sha256.New,
		hashLen:  sha256.Size,
		keyLen:   16,
		nonceLen: 12,
		aead:     newGCM,
		kem:      hpke.KEM_X25519_HKDF_SHA256.Scheme(),
		hpke:     hpke.NewSuite(hpke.KEM_X25519_HKDF_SHA256, hpke.KDF_HKDF_SHA256, hpke.AEAD_AES128GCM),

		validKEMKey: validX25519,
	},
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Supported reports whether the package implements the suite. The other methods of a suite that is not supported
// panic; every value that the package hands out has been checked.
func (cs CipherSuite) Supported() bool { return suites[cs] != nil }

// row returns the suite's row. Whoever takes a suite from a message checks Supported first.
func (cs CipherSuite) row() *suite {
	r := suites[cs]
	if r == nil {
		panic("mls: use of an unsupported cipher suite")
	}
	return r
}

// HashLen returns Nh, the length of a hash and of every secret of the key schedule, in bytes.
func (cs CipherSuite) HashLen() int { return cs.row().hashLen }

// KeyLen returns AEAD.Nk in bytes.
func (cs CipherSuite) KeyLen() int { return cs.row().keyLen }

// NonceLen returns AEAD.Nn in bytes.
func (cs CipherSuite) NonceLen() int { return cs.row().nonceLen }

// Hash returns the hash of b.
func (cs CipherSuite) Hash(b []byte) []byte {
	h := cs.row().hash()
	h.Write(b)
	return h.Sum(nil)
}

// RefHash is RFC 9420 §5.2. The label is taken as it is, with no prefix.
func (cs CipherSuite) RefHash(label string, value []byte) []byte {
	var b cryptobyte.Builder
	writeOpaque(&b, []byte(label))
	writeOpaque(&b, value)
	return cs.Hash(b.BytesOrPanic())
}

// mac is HMAC with the suite's hash, the MAC of RFC 9420 §5.1.
func (cs CipherSuite) mac(key, message []byte) []byte {
	m := hmac.New(cs.row().hash, key)
	m.Write(message)
	return m.Sum(nil)
}

// verifyMAC compares in constant time.
func (cs CipherSuite) verifyMAC(key, message, tag []byte) bool {
	return hmac.Equal(cs.mac(key, message), tag)
}

// extract is KDF.Extract(salt, ikm). A nil salt or ikm is the zero-length string, not Nh zeros.
func (cs CipherSuite) extract(salt, ikm []byte) []byte {
	return cs.mac(salt, ikm) // RFC 5869: PRK = HMAC-Hash(salt, IKM)
}

// expand is KDF.Expand. It panics if n exceeds 255 hashes: lengths come from this package or its caller, not from peers.
func (cs CipherSuite) expand(secret, info []byte, n int) []byte {
	out, err := hkdf.Expand(cs.row().hash, secret, string(info), n)
	if err != nil {
		panic("mls: KDF.Expand: length out of bounds")
	}
	return out
}

// ExpandWithLabel is RFC 9420 §8: KDFLabel's label is "MLS 1.0 " + label. n is in bytes, at most 255 hashes.
func (cs CipherSuite) ExpandWithLabel(secret []byte, label string, context []byte, n int) []byte {
	var b cryptobyte.Builder
	b.AddUint16(uint16(n))
	writeOpaque(&b, []byte(labelPrefix+label))
	writeOpaque(&b, context)
	return cs.expand(secret, b.BytesOrPanic(), n)
}

// deriveSecret is DeriveSecret, RFC 9420 §8.
func (cs CipherSuite) deriveSecret(secret []byte, label string) []byte {
	return cs.ExpandWithLabel(secret, label, nil, cs.HashLen())
}

// deriveTreeSecret is DeriveTreeSecret, RFC 9420 §9.
func (cs CipherSuite) deriveTreeSecret(secret []byte, label string, generation uint32, n int) []byte {
	return cs.ExpandWithLabel(secret, label, binary.BigEndian.AppendUint32(nil, generation), n)
}

// randomSecret returns Nh random bytes.
func (cs CipherSuite) randomSecret() []byte { return randomBytes(cs.HashLen()) }

// randomBytes returns n bytes of the system's generator, which does not fail (crypto/rand.Read).
func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// Seal is the suite's AEAD. It panics if key or nonce do not have the suite's lengths.
func (cs CipherSuite) Seal(key, nonce, aad, plaintext []byte) []byte {
	aead, err := cs.row().aead(key)
	if err != nil {
		panic("mls: AEAD key of wrong length")
	}
	return aead.Seal(nil, nonce, plaintext, aad)
}

// Open is the suite's AEAD. It returns ErrUnauthenticated.
func (cs CipherSuite) Open(key, nonce, aad, ciphertext []byte) ([]byte, error) {
	aead, err := cs.row().aead(key)
	if err != nil || len(nonce) != aead.NonceSize() {
		return nil, ErrUnauthenticated
	}
	plaintext, err := aead.Open(nil, nonce, ciphertext, aad)
	if err != nil {
		return nil, ErrUnauthenticated
	}
	return plaintext, nil
}

// signContent is SignContent, RFC 9420 §5.1.2.
func signContent(label string, content []byte) []byte {
	var b cryptobyte.Builder
	writeOpaque(&b, []byte(labelPrefix+label))
	writeOpaque(&b, content)
	return b.BytesOrPanic()
}

// VerifyWithLabel is RFC 9420 §5.1.2. A public key or signature of wrong length does not verify.
func (cs CipherSuite) VerifyWithLabel(pub []byte, label string, content, sig []byte) bool {
	return cs.Supported() && len(pub) == ed25519.PublicKeySize && ed25519.Verify(pub, signContent(label, content), sig)
}

// SignatureKey is a secret signature key with its suite. It prints as "[secret]" and cannot be compared; MarshalBinary
// is the one way out, for storage. The zero value holds no key.
type SignatureKey struct {
	// A func cannot be compared, and fmt shows no more of it than an address. A pointer would not do: fmt ignores the
	// methods of an unexported field of a caller's struct, and for a verb that does not suit a pointer it prints what it
	// points to.
	k func() *signatureSecret
}

type signatureSecret struct {
	suite CipherSuite
	key   ed25519.PrivateKey
}

// GenerateSignatureKey returns a fresh key. It returns ErrUnsupported for an unsupported suite.
func (cs CipherSuite) GenerateSignatureKey() (SignatureKey, error) {
	return cs.DeriveSignatureKey(randomBytes(ed25519.SeedSize))
}

// DeriveSignatureKey returns the key of a 32-byte Ed25519 seed. It returns ErrUnsupported or ErrMalformed.
func (cs CipherSuite) DeriveSignatureKey(seed []byte) (SignatureKey, error) {
	if !cs.Supported() {
		return SignatureKey{}, ErrUnsupported
	}
	if len(seed) != ed25519.SeedSize {
		return SignatureKey{}, ErrMalformed
	}
	secret := &signatureSecret{suite: cs, key: ed25519.NewKeyFromSeed(seed)}
	return SignatureKey{k: func() *signatureSecret { return secret }}, nil
}

// isZero reports whether the value holds no key.
func (k SignatureKey) isZero() bool { return k.k == nil }

// Public returns the public key, or nil for the zero value.
func (k SignatureKey) Public() []byte {
	if k.isZero() {
		return nil
	}
	return append([]byte(nil), k.k().key[ed25519.SeedSize:]...)
}

// SignWithLabel is RFC 9420 §5.1.2. It panics for the zero value.
func (k SignatureKey) SignWithLabel(label string, content []byte) []byte {
	return ed25519.Sign(k.k().key, signContent(label, content))
}

// MarshalBinary returns the secret key for storage: the suite, then the seed. It returns ErrInvalid for the zero value.
func (k SignatureKey) MarshalBinary() ([]byte, error) {
	if k.isZero() {
		return nil, ErrInvalid
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(k.k().suite)), k.k().key.Seed()...), nil
}

// UnmarshalBinary reads what MarshalBinary wrote. It returns ErrMalformed or ErrUnsupported and then leaves k as it is.
func (k *SignatureKey) UnmarshalBinary(b []byte) error {
	if len(b) < 2 {
		return ErrMalformed
	}
	read, err := CipherSuite(binary.BigEndian.Uint16(b)).DeriveSignatureKey(b[2:])
	if err != nil {
		return err
	}
	*k = read
	return nil
}

// Format writes "[secret]" for every verb.
func (SignatureKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[secret]") }
