package mls

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"hash"

	"github.com/cloudflare/circl/sign/ed448"
)

// signatureScheme is a signature algorithm of RFC 9420 §5.1.1. Its keys and signatures are bytes in the forms of that
// section.
type signatureScheme interface {
	generate() (signer, error)
	// parse reads a private key, or fails if the bytes are none.
	parse(private []byte) (signer, error)
	// verify reports whether the signature is valid. It takes any bytes.
	verify(public, message, signature []byte) bool
}

// signer is a private key. It must not change once made: goroutines share it.
type signer interface {
	public() []byte
	private() []byte // what parse takes
	sign(message []byte) []byte
}

type ed25519Scheme struct{}

type ed25519Signer ed25519.PrivateKey

func (s ed25519Scheme) generate() (signer, error) { return s.parse(randomBytes(ed25519.SeedSize)) }

func (ed25519Scheme) parse(private []byte) (signer, error) {
	if len(private) != ed25519.SeedSize {
		return nil, ErrMalformed
	}
	return ed25519Signer(ed25519.NewKeyFromSeed(private)), nil
}

func (ed25519Scheme) verify(public, message, signature []byte) bool {
	return len(public) == ed25519.PublicKeySize && ed25519.Verify(public, message, signature)
}

func (k ed25519Signer) public() []byte         { return k[ed25519.SeedSize:] }
func (k ed25519Signer) private() []byte        { return ed25519.PrivateKey(k).Seed() }
func (k ed25519Signer) sign(msg []byte) []byte { return ed25519.Sign(ed25519.PrivateKey(k), msg) }

// ed448Scheme is Ed448 with an empty context.
type ed448Scheme struct{}

type ed448Signer ed448.PrivateKey

func (s ed448Scheme) generate() (signer, error) { return s.parse(randomBytes(ed448.SeedSize)) }

func (ed448Scheme) parse(private []byte) (signer, error) {
	if len(private) != ed448.SeedSize {
		return nil, ErrMalformed
	}
	return ed448Signer(ed448.NewKeyFromSeed(private)), nil
}

func (ed448Scheme) verify(public, message, signature []byte) bool {
	return len(public) == ed448.PublicKeySize && ed448.Verify(public, message, signature, "")
}

func (k ed448Signer) public() []byte         { return k[ed448.SeedSize:] }
func (k ed448Signer) private() []byte        { return bytes.Clone(k[:ed448.SeedSize]) }
func (k ed448Signer) sign(msg []byte) []byte { return ed448.Sign(ed448.PrivateKey(k), msg, "") }

// ecdsaScheme is ECDSA with the curve's hash: public keys are uncompressed points, signatures are DER.
type ecdsaScheme struct {
	curve   elliptic.Curve
	newHash func() hash.Hash
}

type ecdsaSigner struct {
	scheme *ecdsaScheme
	key    *ecdsa.PrivateKey
	point  []byte
	scalar []byte
}

func (s *ecdsaScheme) generate() (signer, error) {
	return s.wrap(ecdsa.GenerateKey(s.curve, rand.Reader))
}

func (s *ecdsaScheme) parse(private []byte) (signer, error) {
	return s.wrap(ecdsa.ParseRawPrivateKey(s.curve, private))
}

func (s *ecdsaScheme) wrap(key *ecdsa.PrivateKey, err error) (signer, error) {
	if err != nil {
		return nil, err
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	scalar, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	return &ecdsaSigner{scheme: s, key: key, point: point, scalar: scalar}, nil
}

func (s *ecdsaScheme) digest(message []byte) []byte {
	h := s.newHash()
	h.Write(message)
	return h.Sum(nil)
}

func (s *ecdsaScheme) verify(public, message, signature []byte) bool {
	key, err := ecdsa.ParseUncompressedPublicKey(s.curve, public)
	return err == nil && ecdsa.VerifyASN1(key, s.digest(message), signature)
}

func (k *ecdsaSigner) public() []byte  { return k.point }
func (k *ecdsaSigner) private() []byte { return bytes.Clone(k.scalar) }

func (k *ecdsaSigner) sign(message []byte) []byte {
	sig, err := ecdsa.SignASN1(rand.Reader, k.key, k.scheme.digest(message))
	if err != nil {
		panic("mls: ECDSA does not sign with a key that it made") // rand.Reader does not fail
	}
	return sig
}
