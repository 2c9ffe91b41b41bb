package mls

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"
)

// labelPrefix begins every label of RFC 9420 but that of RefHash, whose callers write it out.
const labelPrefix = "MLS 1.0 "

// suite is one row of the table of cipher suites, RFC 9420 §5.1.
type suite struct {
	kdf       *kdf
	aead      *aeadAlgorithm
	kem       kem
	signature signatureScheme

	hpkeID    string // suite_id of HPKE's key schedule, RFC 9180 §5.1
	pskIDHash []byte // psk_id_hash of that section, for no PSK
}

// aeadAlgorithm is an AEAD with its id, RFC 9180 §7.3.
type aeadAlgorithm struct {
	id       uint16
	keyLen   int // Nk
	nonceLen int // Nn
	open     func(key []byte) (cipher.AEAD, error)
}

// kdfID is the id of HKDF with a hash of so many bytes, RFC 9180 §7.2.
var kdfID = map[int]uint16{sha256.Size: 1, sha512.Size384: 2, sha512.Size: 3}

func newSuite(k kem, f *kdf, a *aeadAlgorithm, s signatureScheme) *suite {
	id := []byte("HPKE")
	for _, part := range []uint16{k.id(), kdfID[f.size], a.id} {
		id = binary.BigEndian.AppendUint16(id, part)
	}
	r := &suite{kdf: f, aead: a, kem: k, signature: s, hpkeID: string(id)}
	r.pskIDHash = f.labeledExtract(r.hpkeID, nil, "psk_id_hash", nil)
	return r
}

var (
	hkdfSHA256 = newKDF(sha256.New)
	hkdfSHA384 = newKDF(sha512.New384)
	hkdfSHA512 = newKDF(sha512.New)

	aes128GCM        = &aeadAlgorithm{id: 1, keyLen: 16, nonceLen: 12, open: newGCM}
	aes256GCM        = &aeadAlgorithm{id: 2, keyLen: 32, nonceLen: 12, open: newGCM}
	chaCha20Poly1305 = &aeadAlgorithm{id: 3, keyLen: chacha20poly1305.KeySize, nonceLen: chacha20poly1305.NonceSize, open: chacha20poly1305.New}

	dhP256   = newDHKEM(0x0010, &nistGroup{curve: ecdh.P256(), secretLen: 32, mask: 0xff}, hkdfSHA256)
	dhP384   = newDHKEM(0x0011, &nistGroup{curve: ecdh.P384(), secretLen: 48, mask: 0xff}, hkdfSHA384)
	dhP521   = newDHKEM(0x0012, &nistGroup{curve: ecdh.P521(), secretLen: 66, mask: 0x01}, hkdfSHA512)
	dhX25519 = newDHKEM(0x0020, x25519Group{}, hkdfSHA256)
	dhX448   = newDHKEM(0x0021, x448Group{}, hkdfSHA512)

	ecdsaP256 = &ecdsaScheme{curve: elliptic.P256(), newHash: sha256.New}
	ecdsaP384 = &ecdsaScheme{curve: elliptic.P384(), newHash: sha512.New384}
	ecdsaP521 = &ecdsaScheme{curve: elliptic.P521(), newHash: sha512.New}
)

// suites are the cipher suites of RFC 9420 §17.1.
var suites = map[CipherSuite]*suite{
	X25519_AES128GCM_SHA256_Ed25519:        newSuite(dhX25519, hkdfSHA256, aes128GCM, ed25519Scheme{}),
	P256_AES128GCM_SHA256_P256:             newSuite(dhP256, hkdfSHA256, aes128GCM, ecdsaP256),
	X25519_CHACHA20POLY1305_SHA256_Ed25519: newSuite(dhX25519, hkdfSHA256, chaCha20Poly1305, ed25519Scheme{}),
	X448_AES256GCM_SHA512_Ed448:            newSuite(dhX448, hkdfSHA512, aes256GCM, ed448Scheme{}),
	P521_AES256GCM_SHA512_P521:             newSuite(dhP521, hkdfSHA512, aes256GCM, ecdsaP521),
	X448_CHACHA20POLY1305_SHA512_Ed448:     newSuite(dhX448, hkdfSHA512, chaCha20Poly1305, ed448Scheme{}),
	P384_AES256GCM_SHA384_P384:             newSuite(dhP384, hkdfSHA384, aes256GCM, ecdsaP384),
}

// xwingAES256 is the suite that RegisterXWing gives an id.
var xwingAES256 = newSuite(xwingKEM{}, hkdfSHA512, aes256GCM, ed25519Scheme{})

// private are the suites with an id for private use, all xwingAES256.
var private sync.Map // of CipherSuite to *suite

// RegisterXWing makes id a post-quantum suite: the KEM X-Wing (draft-connolly-cfrg-xwing-kem), HKDF and hash SHA-512,
// AES-256-GCM and Ed25519. The suite has no assigned value yet. So id is one for private use, 0xF000 to 0xFFFF (RFC 9420
// §17.1), that all members of a group must have agreed on: ts-mls takes 0xF00D. Signatures stay classical; what it
// protects is what is recorded today. It may be called at any time, for the same id too. It returns a RuleError for
// another id.
func RegisterXWing(id CipherSuite) error {
	if id < 0xf000 {
		return broken("17.1", "a suite that has no assigned value takes one for private use")
	}
	private.Store(id, xwingAES256)
	return nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// find returns the suite's row, nil if there is none.
func (cs CipherSuite) find() *suite {
	if r := suites[cs]; r != nil {
		return r
	}
	if r, ok := private.Load(cs); ok {
		return r.(*suite)
	}
	return nil
}

// Supported reports whether the package implements the suite. The other methods of a suite that is not supported
// panic; every value that the package hands out has been checked.
func (cs CipherSuite) Supported() bool { return cs.find() != nil }

// row returns the suite's row. Whoever takes a suite from a message checks Supported first.
func (cs CipherSuite) row() *suite {
	r := cs.find()
	if r == nil {
		panic("mls: use of an unsupported cipher suite")
	}
	return r
}

// HashLen returns Nh, the length of a hash and of every secret of the key schedule, in bytes.
func (cs CipherSuite) HashLen() int { return cs.row().kdf.size }

// KeyLen returns AEAD.Nk in bytes.
func (cs CipherSuite) KeyLen() int { return cs.row().aead.keyLen }

// NonceLen returns AEAD.Nn in bytes.
func (cs CipherSuite) NonceLen() int { return cs.row().aead.nonceLen }

// Hash returns the hash of b.
func (cs CipherSuite) Hash(b []byte) []byte { return cs.hash(b) }

// hash returns the hash of a message in parts.
func (cs CipherSuite) hash(message ...[]byte) []byte {
	h := cs.row().kdf.newHash()
	for _, part := range message {
		h.Write(part)
	}
	return h.Sum(nil)
}

// RefHash is RFC 9420 §5.2. The label is taken as it is, with no prefix.
func (cs CipherSuite) RefHash(label string, value []byte) []byte {
	return cs.Hash(appendOpaque(appendOpaque(nil, []byte(label)), value))
}

// randomSecret returns Nh random bytes.
func (cs CipherSuite) randomSecret() []byte { return randomBytes(cs.HashLen()) }

// randomBytes returns n bytes of the system's generator, which does not fail (crypto/rand.Read).
func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// seal is the suite's AEAD. It panics if key or nonce do not have the suite's lengths.
func (r *suite) seal(key, nonce, aad, plaintext []byte) []byte {
	a, err := r.aead.open(key)
	if err != nil {
		panic("mls: AEAD key of wrong length")
	}
	return a.Seal(nil, nonce, plaintext, aad)
}

// Seal is the suite's AEAD. It panics if key or nonce do not have the suite's lengths.
func (cs CipherSuite) Seal(key, nonce, aad, plaintext []byte) []byte {
	return cs.row().seal(key, nonce, aad, plaintext)
}

// Open is the suite's AEAD. It returns ErrUnauthenticated.
func (cs CipherSuite) Open(key, nonce, aad, ciphertext []byte) ([]byte, error) {
	a, err := cs.row().aead.open(key)
	if err != nil || len(nonce) != a.NonceSize() {
		return nil, ErrUnauthenticated
	}
	plaintext, err := a.Open(nil, nonce, ciphertext, aad)
	if err != nil {
		return nil, ErrUnauthenticated
	}
	return plaintext, nil
}
