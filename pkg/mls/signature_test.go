package mls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"math/big"
	"testing"
)

func TestVerifyWithLabel(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		key := must(cs.GenerateSignatureKey())(t)
		other := must(cs.GenerateSignatureKey())(t)
		sig := key.SignWithLabel("label", []byte("content"))
		flipped := append([]byte(nil), sig...)
		flipped[len(flipped)/2] ^= 1
		for name, got := range map[string]bool{
			"label":         cs.VerifyWithLabel(key.Public(), "other", []byte("content"), sig),
			"content":       cs.VerifyWithLabel(key.Public(), "label", nil, sig),
			"signature":     cs.VerifyWithLabel(key.Public(), "label", []byte("content"), flipped),
			"cut signature": cs.VerifyWithLabel(key.Public(), "label", []byte("content"), sig[1:]),
			"no signature":  cs.VerifyWithLabel(key.Public(), "label", []byte("content"), nil),
			"tail":          cs.VerifyWithLabel(key.Public(), "label", []byte("content"), append(sig[:len(sig):len(sig)], 0)),
			"key":           cs.VerifyWithLabel(other.Public(), "label", []byte("content"), sig),
			"cut key":       cs.VerifyWithLabel(key.Public()[1:], "label", []byte("content"), sig),
			"no key":        cs.VerifyWithLabel(nil, "label", []byte("content"), sig),
			"zero key":      cs.VerifyWithLabel(make([]byte, len(key.Public())), "label", []byte("content"), sig),
		} {
			if got {
				t.Errorf("another %s verifies", name)
			}
		}
		if !cs.VerifyWithLabel(key.Public(), "label", []byte("content"), sig) {
			t.Error("signature does not verify")
		}
	})
}

// TestSignatureKeyForms: a key comes back from its own form, and from no other length.
func TestSignatureKeyForms(t *testing.T) {
	lengths := map[CipherSuite][2]int{ // private, public
		X25519_AES128GCM_SHA256_Ed25519:        {32, 32},
		P256_AES128GCM_SHA256_P256:             {32, 65},
		X25519_CHACHA20POLY1305_SHA256_Ed25519: {32, 32},
		X448_AES256GCM_SHA512_Ed448:            {57, 57},
		P521_AES256GCM_SHA512_P521:             {66, 133},
		X448_CHACHA20POLY1305_SHA512_Ed448:     {57, 57},
		P384_AES256GCM_SHA384_P384:             {48, 97},
		suiteXWing:                             {32, 32},
	}
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		key := must(cs.GenerateSignatureKey())(t)
		private := key.k().key.private()
		if got := [2]int{len(private), len(key.Public())}; got != lengths[cs] {
			t.Errorf("lengths %v, want %v", got, lengths[cs])
		}
		again := must(cs.DeriveSignatureKey(private))(t)
		wantBytes(t, "public key", again.Public(), key.Public())
		for _, n := range []int{0, 1, len(private) - 1, len(private) + 1} {
			if _, err := cs.DeriveSignatureKey(make([]byte, n)); err != ErrMalformed {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
	})
}

// TestECDSAForms: RFC 9420 §5.1.1 takes one form of a point and one of a signature.
func TestECDSAForms(t *testing.T) {
	const cs = P256_AES128GCM_SHA256_P256
	curve := elliptic.P256()
	key := must(ecdsa.GenerateKey(curve, rand.Reader))(t)
	digest := sha256.Sum256(labelledContent("l", []byte("c")))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	der := must(ecdsa.SignASN1(rand.Reader, key, digest[:]))(t)
	public := must(key.PublicKey.Bytes())(t)
	if !cs.VerifyWithLabel(public, "l", []byte("c"), der) {
		t.Error("crypto/ecdsa's signature does not verify")
	}
	compressed := elliptic.MarshalCompressed(curve, key.X, key.Y)
	offCurve := append([]byte(nil), public...)
	offCurve[len(offCurve)-1] ^= 1
	raw := make([]byte, 64)
	r.FillBytes(raw[:32])
	s.FillBytes(raw[32:])
	long := append([]byte{der[0], 0x81, der[1]}, der[2:]...) // a length that is not in its shortest form
	for name, c := range map[string]struct{ public, signature []byte }{
		"compressed point":  {compressed, der},
		"point off curve":   {offCurve, der},
		"point at infinity": {[]byte{0}, der},
		"raw signature":     {public, raw},
		"BER signature":     {public, long},
	} {
		if cs.VerifyWithLabel(c.public, "l", []byte("c"), c.signature) {
			t.Errorf("%s verifies", name)
		}
	}
	order := curve.Params().N
	for name, scalar := range map[string]*big.Int{"zero": new(big.Int), "order": order, "all ones": new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(1))} {
		if _, err := cs.DeriveSignatureKey(scalar.FillBytes(make([]byte, 32))); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s as a private key: %v", name, err)
		}
	}
}
