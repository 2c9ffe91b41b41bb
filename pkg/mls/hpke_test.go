package mls

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"

	stdhpke "crypto/hpke"

	"github.com/cloudflare/circl/dh/x25519"
	"github.com/cloudflare/circl/dh/x448"
	"github.com/cloudflare/circl/hpke"
)

// circlSuites are the same suites in circl/hpke, an implementation of HPKE that this package does not use.
var circlSuites = map[CipherSuite]struct {
	kem  hpke.KEM
	kdf  hpke.KDF
	aead hpke.AEAD
}{
	X25519_AES128GCM_SHA256_Ed25519:        {hpke.KEM_X25519_HKDF_SHA256, hpke.KDF_HKDF_SHA256, hpke.AEAD_AES128GCM},
	P256_AES128GCM_SHA256_P256:             {hpke.KEM_P256_HKDF_SHA256, hpke.KDF_HKDF_SHA256, hpke.AEAD_AES128GCM},
	X25519_CHACHA20POLY1305_SHA256_Ed25519: {hpke.KEM_X25519_HKDF_SHA256, hpke.KDF_HKDF_SHA256, hpke.AEAD_ChaCha20Poly1305},
	X448_AES256GCM_SHA512_Ed448:            {hpke.KEM_X448_HKDF_SHA512, hpke.KDF_HKDF_SHA512, hpke.AEAD_AES256GCM},
	P521_AES256GCM_SHA512_P521:             {hpke.KEM_P521_HKDF_SHA512, hpke.KDF_HKDF_SHA512, hpke.AEAD_AES256GCM},
	X448_CHACHA20POLY1305_SHA512_Ed448:     {hpke.KEM_X448_HKDF_SHA512, hpke.KDF_HKDF_SHA512, hpke.AEAD_ChaCha20Poly1305},
	P384_AES256GCM_SHA384_P384:             {hpke.KEM_P384_HKDF_SHA384, hpke.KDF_HKDF_SHA384, hpke.AEAD_AES256GCM},
	suiteXWing:                             {hpke.KEM_XWING, hpke.KDF_HKDF_SHA512, hpke.AEAD_AES256GCM},
}

// TestHPKEAgainstCircl seals and exports with each of the two and opens with the other.
func TestHPKEAgainstCircl(t *testing.T) {
	info, aad, text := []byte("some info"), []byte("aad"), []byte("text")
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		ids := circlSuites[cs]
		other := hpke.NewSuite(ids.kem, ids.kdf, ids.aead)
		priv := must(cs.GenerateHPKEKey())(t)
		theirPriv := must(ids.kem.Scheme().UnmarshalBinaryPrivateKey(priv.k().key.private()))(t)
		wantBytes(t, "public key", must(theirPriv.Public().MarshalBinary())(t), priv.Public())

		kem, ct, err := cs.HPKESeal(priv.Public(), info, aad, text)
		if err != nil {
			t.Fatal(err)
		}
		opener := must(must(other.NewReceiver(theirPriv, info))(t).Setup(kem))(t)
		wantBytes(t, "opened by circl", must(opener.Open(ct, aad))(t), text)

		theirKEM, sealer, err := must(other.NewSender(theirPriv.Public(), info))(t).Setup(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		ct = must(sealer.Seal(text, aad))(t)
		wantBytes(t, "sealed by circl", must(cs.HPKEOpen(priv, info, aad, theirKEM, ct))(t), text)

		for _, n := range []int{1, 32, 100} {
			kem, secret, err := cs.exportTo(priv.Public(), "context", n)
			if err != nil {
				t.Fatal(err)
			}
			opener := must(must(other.NewReceiver(theirPriv, nil))(t).Setup(kem))(t)
			wantBytes(t, "exported", secret, opener.Export([]byte("context"), uint(n)))
			wantBytes(t, "exported by the receiver", must(cs.exportFrom(priv, kem, "context", n))(t), secret)
		}
	})
}

// TestHPKEAgainstStd does the same with crypto/hpke, which has all but X448.
func TestHPKEAgainstStd(t *testing.T) {
	info, text := []byte("some info"), []byte("text")
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		r := cs.row()
		theirs, err := stdhpke.NewKEM(r.kem.id())
		if r.kem == dhX448 {
			if err == nil {
				t.Error("crypto/hpke has X448 now: compare with it")
			}
			return
		}
		kdf, aead := must(stdhpke.NewKDF(kdfID[r.kdf.size]))(t), must(stdhpke.NewAEAD(r.aead.id))(t)
		priv := must(cs.GenerateHPKEKey())(t)
		theirPriv := must(theirs.NewPrivateKey(priv.k().key.private()))(t)
		wantBytes(t, "public key", theirPriv.PublicKey().Bytes(), priv.Public())

		kem, ct, err := cs.HPKESeal(priv.Public(), info, nil, text)
		if err != nil {
			t.Fatal(err)
		}
		opened := must(stdhpke.Open(theirPriv, kdf, aead, info, append(kem[:len(kem):len(kem)], ct...)))(t)
		wantBytes(t, "opened by crypto/hpke", opened, text)
		sealed := must(stdhpke.Seal(theirPriv.PublicKey(), kdf, aead, info, text))(t)
		wantBytes(t, "sealed by crypto/hpke", must(cs.HPKEOpen(priv, info, nil, sealed[:len(kem)], sealed[len(kem):]))(t), text)
	})
}

// TestDeriveKeyPair compares with both libraries, each where it takes an input of Nh bytes.
func TestDeriveKeyPair(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		ikm := cs.randomSecret()
		key := must(cs.DeriveHPKEKey(ikm))(t)
		wantBytes(t, "derived again", must(cs.DeriveHPKEKey(ikm))(t).Public(), key.Public())
		if scheme := circlSuites[cs].kem.Scheme(); scheme.SeedSize() == len(ikm) || cs == suiteXWing {
			public, private := scheme.DeriveKeyPair(ikm)
			wantBytes(t, "circl's public key", must(public.MarshalBinary())(t), key.Public())
			wantBytes(t, "circl's private key", must(private.MarshalBinary())(t), key.k().key.private())
		}
		// crypto/hpke has X-Wing's key derivation of a later draft, so that is left out.
		if theirs, err := stdhpke.NewKEM(cs.row().kem.id()); err == nil && cs != suiteXWing {
			wantBytes(t, "crypto/hpke's public key", must(theirs.DeriveKeyPair(ikm))(t).PublicKey().Bytes(), key.Public())
		}
		for _, n := range []int{0, 31, len(ikm) - 1, len(ikm) + 1} {
			if _, err := cs.DeriveHPKEKey(make([]byte, n)); err != ErrMalformed {
				t.Errorf("input of %d bytes: %v", n, err)
			}
		}
	})
}

func TestHPKE(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		priv, other := must(cs.GenerateHPKEKey())(t), must(cs.GenerateHPKEKey())(t)
		info, aad := []byte("info"), []byte("aad")
		kem, ct, err := cs.HPKESeal(priv.Public(), info, aad, []byte("text"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := cs.HPKEOpen(priv, info, aad, kem, ct)
		if err != nil || string(got) != "text" {
			t.Fatalf("%q, %v", got, err)
		}
		foreign := must(CipherSuite(suite1%7 + 1).GenerateHPKEKey())(t)
		for name, open := range map[string]func() ([]byte, error){
			"key":        func() ([]byte, error) { return cs.HPKEOpen(other, info, aad, kem, ct) },
			"no key":     func() ([]byte, error) { return cs.HPKEOpen(HPKEPrivateKey{}, info, aad, kem, ct) },
			"info":       func() ([]byte, error) { return cs.HPKEOpen(priv, nil, aad, kem, ct) },
			"aad":        func() ([]byte, error) { return cs.HPKEOpen(priv, info, nil, kem, ct) },
			"kem output": func() ([]byte, error) { return cs.HPKEOpen(priv, info, aad, kem[1:], ct) },
			"no kem":     func() ([]byte, error) { return cs.HPKEOpen(priv, info, aad, nil, ct) },
			"zero kem":   func() ([]byte, error) { return cs.HPKEOpen(priv, info, aad, make([]byte, len(kem)), ct) },
			"ciphertext": func() ([]byte, error) { return cs.HPKEOpen(priv, info, aad, kem, ct[1:]) },
		} {
			if _, err := open(); err != ErrUnauthenticated {
				t.Errorf("%s: %v", name, err)
			}
		}
		if cs != foreign.k().suite {
			if _, err := cs.HPKEOpen(foreign, info, aad, kem, ct); err != ErrUnauthenticated {
				t.Errorf("key of another suite: %v", err)
			}
		}
		for _, pub := range [][]byte{nil, priv.Public()[1:], append(priv.Public(), 0)} {
			if _, _, err := cs.EncryptWithLabel(pub, "l", nil, nil); err != ErrMalformed {
				t.Errorf("sealed to a bad key: %v", err)
			}
		}
		if kem2, ct2, err := cs.HPKESeal(priv.Public(), info, aad, []byte("text")); err != nil || bytes.Equal(kem, kem2) || bytes.Equal(ct, ct2) {
			t.Error("sealing is not randomised")
		}
	})
}

func TestHPKEExport(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		priv := must(cs.GenerateHPKEKey())(t)
		kem, sent, err := cs.exportTo(priv.Public(), "label", 32)
		if err != nil {
			t.Fatal(err)
		}
		wantBytes(t, "export", must(cs.exportFrom(priv, kem, "label", 32))(t), sent)
		if got := must(cs.exportFrom(priv, kem, "other", 32))(t); bytes.Equal(got, sent) {
			t.Error("the label does not matter")
		}
		if _, err := cs.exportFrom(priv, nil, "label", 32); err != ErrUnauthenticated {
			t.Errorf("no kem output: %v", err)
		}
		if _, _, err := cs.exportTo(nil, "label", 32); err != ErrMalformed {
			t.Errorf("no public key: %v", err)
		}
	})
}

// TestSealerSealsToMany: what depends on the info alone is shared, and nothing else.
func TestSealerSealsToMany(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		sealer := cs.sealerWithLabel("label", []byte("context"))
		for range 3 {
			priv := must(cs.GenerateHPKEKey())(t)
			kem, ct, err := sealer.seal(priv.Public(), nil, []byte("text"))
			if err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "opened", must(cs.DecryptWithLabel(priv, "label", []byte("context"), kem, ct))(t), []byte("text"))
		}
	})
}

// TestPublicKeyValidation: a key is valid exactly if it can be sealed to.
func TestPublicKeyValidation(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		good := must(cs.GenerateHPKEKey())(t).Public()
		changed := func(i int, b byte) []byte {
			c := bytes.Clone(good)
			c[i] = b
			return c
		}
		cases := map[string][]byte{"none": nil, "cut": good[1:], "long": append(good[:len(good):len(good)], 0), "cut at the end": good[:len(good)-1]}
		switch cs {
		case P256_AES128GCM_SHA256_P256, P384_AES256GCM_SHA384_P384, P521_AES256GCM_SHA512_P521:
			half := 1 + (len(good)-1)/2
			cases["point off the curve"] = changed(len(good)-1, good[len(good)-1]^1)
			cases["compressed point"] = append([]byte{2 + good[len(good)-1]&1}, good[1:half]...)
			cases["hybrid form"] = changed(0, 6+good[len(good)-1]&1)
			cases["infinity"] = []byte{0}
			cases["zero point"] = append([]byte{4}, make([]byte, len(good)-1)...)
			cases["coordinate above the prime"] = append(append([]byte{4}, bytes.Repeat([]byte{0xff}, half-1)...), good[half:]...)
		case suiteXWing:
			cases["ML-KEM coefficient above q"] = append([]byte{0xff, 0xff, 0xff}, good[3:]...)
			cases["X25519 half of small order"] = append(good[:1184:1184], make([]byte, 32)...)
		default:
			cases["zero"] = make([]byte, len(good))
		}
		for name, b := range cases {
			if cs.validHPKEPublicKey(b) {
				t.Errorf("%s is valid", name)
			}
			if name == "X25519 half of small order" {
				continue // only ML-KEM's half is then worth anything; the libraries differ
			}
			if _, _, err := cs.HPKESeal(b, nil, nil, nil); err != ErrMalformed {
				t.Errorf("sealed to %s: %v", name, err)
			}
		}
		if !cs.validHPKEPublicKey(good) {
			t.Error("a fresh key is refused")
		}
	})
}

// TestPrivateKeyForms: a private key comes back from its own form only.
func TestPrivateKeyForms(t *testing.T) {
	lengths := map[CipherSuite]int{
		X25519_AES128GCM_SHA256_Ed25519: 32, P256_AES128GCM_SHA256_P256: 32, X25519_CHACHA20POLY1305_SHA256_Ed25519: 32,
		X448_AES256GCM_SHA512_Ed448: 56, P521_AES256GCM_SHA512_P521: 66, X448_CHACHA20POLY1305_SHA512_Ed448: 56,
		P384_AES256GCM_SHA384_P384: 48, suiteXWing: 32,
	}
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		for _, n := range []int{0, 1, lengths[cs] - 1, lengths[cs] + 1} {
			if _, err := cs.parseHPKEPrivateKey(bytes.Repeat([]byte{1}, n)); !errors.Is(err, ErrMalformed) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
		if _, err := cs.parseHPKEPrivateKey(bytes.Repeat([]byte{1}, lengths[cs])); err != nil {
			t.Error(err)
		}
		if _, ok := cs.row().kem.(*dhKEM); ok && lengths[cs] != 56 && cs.row().kem != dhX25519 {
			if _, err := cs.parseHPKEPrivateKey(bytes.Repeat([]byte{0xff}, lengths[cs])); !errors.Is(err, ErrMalformed) {
				t.Errorf("a scalar above the order: %v", err)
			}
			if _, err := cs.parseHPKEPrivateKey(make([]byte, lengths[cs])); !errors.Is(err, ErrMalformed) {
				t.Errorf("zero: %v", err)
			}
		}
	})
}

// The list of refused keys must be exactly what the library refuses to exchange with.
func TestLowOrderX25519(t *testing.T) {
	var secret, shared x25519.Key
	rand.Read(secret[:])
	if len(lowOrderX25519) != 7 {
		t.Errorf("%d encodings", len(lowOrderX25519))
	}
	for u := range lowOrderX25519 {
		for _, top := range []byte{0, 0x80} {
			key := u
			key[31] |= top
			if x25519.Shared(&shared, &secret, &key) {
				t.Error("a listed key is not of small order")
			}
			if suite1.validHPKEPublicKey(key[:]) {
				t.Error("a key of small order is valid")
			}
		}
	}
	// All other values that are not canonical work.
	for low := 0xef; low <= 0xff; low++ {
		key := nearX25519Prime(byte(low))
		if !x25519.Shared(&shared, &secret, &key) || !suite1.validHPKEPublicKey(key[:]) {
			t.Errorf("p+%d is refused", low-0xed)
		}
	}
}

func TestLowOrderX448(t *testing.T) {
	const cs = X448_AES256GCM_SHA512_Ed448
	var secret, shared x448.Key
	rand.Read(secret[:])
	if len(lowOrderX448) != 5 {
		t.Errorf("%d encodings", len(lowOrderX448))
	}
	for u := range lowOrderX448 {
		if x448.Shared(&shared, &secret, &u) {
			t.Errorf("%x is not of small order", u)
		}
		if cs.validHPKEPublicKey(u[:]) {
			t.Error("a key of small order is valid")
		}
	}
	// Others near them and all other values that are not canonical, of which these are some, work.
	more := []x448.Key{{0: 2}, {0: 3}, nearX448Prime(0xfd, 0xff), nearX448Prime(0x01, 0x00), nearX448Prime(0x02, 0x00)}
	for i := range 50 {
		k := nearX448Prime(byte(i+3), 0)
		k[20] = byte(i)
		more = append(more, k)
	}
	for _, u := range more {
		if !x448.Shared(&shared, &secret, &u) || !cs.validHPKEPublicKey(u[:]) {
			t.Errorf("%x is refused", u)
		}
	}
}

// TestErasedKeyIsGone: an erased key opens nothing, in any copy of the value.
func TestErasedKeyIsGone(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		priv := must(cs.GenerateHPKEKey())(t)
		again := priv
		before := priv.k().key.private()
		priv.erase()
		HPKEPrivateKey{}.erase()
		if _, ok := priv.k().key.(*dhPrivate); ok {
			if _, ok := priv.k().key.(*dhPrivate).dhKey.(*nistKey); ok {
				return // crypto/ecdh keeps its own copy, out of reach
			}
		}
		if bytes.Equal(again.k().key.private(), before) {
			t.Error("the secret is still there")
		}
		kem, ct, err := cs.HPKESeal(priv.Public(), nil, nil, []byte("text"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cs.HPKEOpen(again, nil, nil, kem, ct); err == nil {
			t.Error("an erased key opens")
		}
	})
}
