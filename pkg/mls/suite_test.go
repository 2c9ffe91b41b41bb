package mls

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cloudflare/circl/dh/x25519"
)

const suite1 = X25519_AES128GCM_SHA256_Ed25519

func TestKeysPrintAsSecret(t *testing.T) {
	sig := must(suite1.GenerateSignatureKey())(t)
	enc := must(suite1.GenerateHPKEKey())(t)
	secrets := KeyPackageSecrets{InitKey: enc, EncryptionKey: enc, SignatureKey: sig}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		for _, v := range []any{sig, &sig, enc, &enc} {
			if got := fmt.Sprintf(verb, v); strings.Trim(got, "&") != "[secret]" {
				t.Errorf("%s of %T: %s", verb, v, got)
			}
		}
		// fmt ignores the methods of unexported fields: the bytes must not be reachable for it either.
		hidden := struct {
			s SignatureKey
			h HPKEPrivateKey
			k KeyPackageSecrets
		}{sig, enc, secrets}
		out := fmt.Sprintf(verb, hidden)
		for _, b := range [][]byte{sig.k().key.Seed(), must(enc.k().key.MarshalBinary())(t)} {
			for _, form := range []string{"%x", "%X", "%v", "%q"} {
				if strings.Contains(out, strings.Trim(fmt.Sprintf(form, b[:8]), "[]\"")) {
					t.Errorf("%s shows a key", verb)
				}
			}
		}
	}
}

func TestKeyStorage(t *testing.T) {
	sig := must(suite1.GenerateSignatureKey())(t)
	enc := must(suite1.GenerateHPKEKey())(t)
	sigBytes, encBytes := must(sig.MarshalBinary())(t), must(enc.MarshalBinary())(t)

	var sig2 SignatureKey
	if err := sig2.UnmarshalBinary(sigBytes); err != nil || !bytes.Equal(sig2.Public(), sig.Public()) {
		t.Errorf("signature key: %v", err)
	}
	var enc2 HPKEPrivateKey
	if err := enc2.UnmarshalBinary(encBytes); err != nil || !bytes.Equal(enc2.Public(), enc.Public()) {
		t.Errorf("HPKE key: %v", err)
	}
	for i := range sigBytes {
		if err := new(SignatureKey).UnmarshalBinary(sigBytes[:i]); err == nil {
			t.Errorf("read %d bytes of a signature key", i)
		}
		if err := new(HPKEPrivateKey).UnmarshalBinary(encBytes[:i]); err == nil {
			t.Errorf("read %d bytes of an HPKE key", i)
		}
	}
	sigBytes[1] = 99
	if err := sig2.UnmarshalBinary(sigBytes); !errors.Is(err, ErrUnsupported) || !bytes.Equal(sig2.Public(), sig.Public()) {
		t.Errorf("another suite: %v", err)
	}
	if _, err := (SignatureKey{}).MarshalBinary(); err == nil {
		t.Error("stored no signature key")
	}
	if _, err := (HPKEPrivateKey{}).MarshalBinary(); err == nil {
		t.Error("stored no HPKE key")
	}
	if (SignatureKey{}).Public() != nil || (HPKEPrivateKey{}).Public() != nil {
		t.Error("the zero key has a public key")
	}
}

func TestUnsupportedSuite(t *testing.T) {
	for name, f := range map[string]func() error{
		"GenerateHPKEKey":      func() error { _, err := CipherSuite(2).GenerateHPKEKey(); return err },
		"GenerateSignatureKey": func() error { _, err := CipherSuite(2).GenerateSignatureKey(); return err },
		"DeriveHPKEKey":        func() error { _, err := CipherSuite(2).DeriveHPKEKey(make([]byte, 32)); return err },
		"parseRatchetTree":     func() error { _, err := parseRatchetTree(2, nil); return err },
	} {
		if err := f(); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if CipherSuite(2).Supported() || CipherSuite(2).VerifyWithLabel(make([]byte, 32), "", nil, make([]byte, 64)) {
		t.Error("suite 2 is not supported")
	}
}

func TestAEAD(t *testing.T) {
	key, nonce := randomBytes(suite1.KeyLen()), randomBytes(suite1.NonceLen())
	ct := suite1.Seal(key, nonce, []byte("aad"), []byte("text"))
	got, err := suite1.Open(key, nonce, []byte("aad"), ct)
	if err != nil || string(got) != "text" {
		t.Fatalf("%q, %v", got, err)
	}
	for name, open := range map[string]func() ([]byte, error){
		"aad":        func() ([]byte, error) { return suite1.Open(key, nonce, nil, ct) },
		"cut":        func() ([]byte, error) { return suite1.Open(key, nonce, []byte("aad"), ct[1:]) },
		"nonce":      func() ([]byte, error) { return suite1.Open(key, nonce[1:], []byte("aad"), ct) },
		"key":        func() ([]byte, error) { return suite1.Open(key[1:], nonce, []byte("aad"), ct) },
		"ciphertext": func() ([]byte, error) { return suite1.Open(key, nonce, []byte("aad"), nil) },
	} {
		if _, err := open(); err != ErrUnauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHPKE(t *testing.T) {
	priv, other := must(suite1.GenerateHPKEKey())(t), must(suite1.GenerateHPKEKey())(t)
	kem, ct, err := suite1.HPKESeal(priv.Public(), []byte("info"), []byte("aad"), []byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := suite1.HPKEOpen(priv, []byte("info"), []byte("aad"), kem, ct)
	if err != nil || string(got) != "text" {
		t.Fatalf("%q, %v", got, err)
	}
	for name, open := range map[string]func() ([]byte, error){
		"key": func() ([]byte, error) { return suite1.HPKEOpen(other, []byte("info"), []byte("aad"), kem, ct) },
		"no key": func() ([]byte, error) {
			return suite1.HPKEOpen(HPKEPrivateKey{}, []byte("info"), []byte("aad"), kem, ct)
		},
		"info":       func() ([]byte, error) { return suite1.HPKEOpen(priv, nil, []byte("aad"), kem, ct) },
		"aad":        func() ([]byte, error) { return suite1.HPKEOpen(priv, []byte("info"), nil, kem, ct) },
		"kem output": func() ([]byte, error) { return suite1.HPKEOpen(priv, []byte("info"), []byte("aad"), kem[1:], ct) },
		"zero kem": func() ([]byte, error) {
			return suite1.HPKEOpen(priv, []byte("info"), []byte("aad"), make([]byte, 32), ct)
		},
		"ciphertext": func() ([]byte, error) { return suite1.HPKEOpen(priv, []byte("info"), []byte("aad"), kem, ct[1:]) },
	} {
		if _, err := open(); err != ErrUnauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, pub := range [][]byte{nil, make([]byte, 31), make([]byte, 32)} {
		if _, _, err := suite1.EncryptWithLabel(pub, "l", nil, nil); err != ErrMalformed {
			t.Errorf("sealed to a bad key: %v", err)
		}
	}
}

func TestHPKEExport(t *testing.T) {
	priv := must(suite1.GenerateHPKEKey())(t)
	kem, sent, err := suite1.exportTo(priv.Public(), "label", 32)
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "export", must(suite1.exportFrom(priv, kem, "label", 32))(t), sent)
	if got := must(suite1.exportFrom(priv, kem, "other", 32))(t); bytes.Equal(got, sent) {
		t.Error("the label does not matter")
	}
	if _, err := suite1.exportFrom(priv, nil, "label", 32); err != ErrUnauthenticated {
		t.Errorf("no kem output: %v", err)
	}
}

// The list of refused keys must be exactly what the library refuses to seal to.
func TestLowOrderKeys(t *testing.T) {
	var secret, shared x25519.Key
	rand.Read(secret[:])
	if len(lowOrderX25519) != 7 {
		t.Errorf("%d encodings", len(lowOrderX25519))
	}
	for u := range lowOrderX25519 {
		for _, top := range []byte{0, 0x80} {
			key := x25519.Key(u)
			key[31] |= top
			if x25519.Shared(&shared, &secret, &key) {
				t.Error("a listed key is not of small order")
			}
			if suite1.validHPKEPublicKey(key[:]) {
				t.Error("a key of small order is valid")
			}
		}
	}
	// All other values that are not canonical, and a fresh key, work.
	for low := 0xef; low <= 0xff; low++ {
		key := x25519.Key(nearX25519Prime(byte(low)))
		if !x25519.Shared(&shared, &secret, &key) || !suite1.validHPKEPublicKey(key[:]) {
			t.Errorf("p+%d is refused", low-0xed)
		}
	}
	if !suite1.validHPKEPublicKey(must(suite1.GenerateHPKEKey())(t).Public()) {
		t.Error("a fresh key is refused")
	}
}

func TestDeriveKeyLengths(t *testing.T) {
	for _, n := range []int{0, 31, 33} {
		if _, err := suite1.DeriveHPKEKey(make([]byte, n)); err != ErrMalformed {
			t.Errorf("HPKE seed of %d: %v", n, err)
		}
		if _, err := suite1.DeriveSignatureKey(make([]byte, n)); err != ErrMalformed {
			t.Errorf("signature seed of %d: %v", n, err)
		}
	}
}

func TestVerifyWithLabel(t *testing.T) {
	key := must(suite1.GenerateSignatureKey())(t)
	sig := key.SignWithLabel("label", []byte("content"))
	for name, got := range map[string]bool{
		"label":     suite1.VerifyWithLabel(key.Public(), "other", []byte("content"), sig),
		"content":   suite1.VerifyWithLabel(key.Public(), "label", nil, sig),
		"signature": suite1.VerifyWithLabel(key.Public(), "label", []byte("content"), sig[1:]),
		"key":       suite1.VerifyWithLabel(key.Public()[1:], "label", []byte("content"), sig),
	} {
		if got {
			t.Errorf("another %s verifies", name)
		}
	}
	if !suite1.VerifyWithLabel(key.Public(), "label", []byte("content"), sig) {
		t.Error("signature does not verify")
	}
}
