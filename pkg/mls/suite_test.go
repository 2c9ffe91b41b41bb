package mls

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

const suite1 = X25519_AES128GCM_SHA256_Ed25519

// suiteXWing has the value that ts-mls gives the suite.
const suiteXWing CipherSuite = 0xf00d

var suiteNames = []struct {
	suite CipherSuite
	name  string
}{
	{X25519_AES128GCM_SHA256_Ed25519, "X25519_AES128GCM_SHA256_Ed25519"},
	{P256_AES128GCM_SHA256_P256, "P256_AES128GCM_SHA256_P256"},
	{X25519_CHACHA20POLY1305_SHA256_Ed25519, "X25519_CHACHA20POLY1305_SHA256_Ed25519"},
	{X448_AES256GCM_SHA512_Ed448, "X448_AES256GCM_SHA512_Ed448"},
	{P521_AES256GCM_SHA512_P521, "P521_AES256GCM_SHA512_P521"},
	{X448_CHACHA20POLY1305_SHA512_Ed448, "X448_CHACHA20POLY1305_SHA512_Ed448"},
	{P384_AES256GCM_SHA384_P384, "P384_AES256GCM_SHA384_P384"},
	{suiteXWing, "XWING_AES256GCM_SHA512_Ed25519"},
}

func init() {
	if err := RegisterXWing(suiteXWing); err != nil {
		panic(err)
	}
}

// eachSuite runs f for every suite that there is.
func eachSuite(t *testing.T, f func(t *testing.T, cs CipherSuite)) {
	t.Helper()
	for _, s := range suiteNames {
		t.Run(s.name, func(t *testing.T) { f(t, s.suite) })
	}
}

func TestEverySuiteIsTested(t *testing.T) {
	named := map[CipherSuite]bool{}
	for _, s := range suiteNames {
		named[s.suite] = true
	}
	for cs := range 1 << 16 {
		if cs := CipherSuite(cs); cs.Supported() != named[cs] {
			t.Errorf("suite %#04x: supported %v, tested %v", uint16(cs), cs.Supported(), named[cs])
		}
	}
}

func TestRegisterXWing(t *testing.T) {
	for id, ok := range map[CipherSuite]bool{0: false, suite1: false, 8: false, 0xefff: false, suiteXWing: true} {
		if err := RegisterXWing(id); (err == nil) != ok || !ok && !errors.Is(err, ErrInvalid) {
			t.Errorf("%#04x: %v", uint16(id), err)
		}
	}
}

func TestSuiteLengths(t *testing.T) {
	for cs, want := range map[CipherSuite][2]int{ // RFC 9420 §17.1, RFC 9180 §7.2 and §7.3
		X25519_AES128GCM_SHA256_Ed25519:        {32, 16},
		P256_AES128GCM_SHA256_P256:             {32, 16},
		X25519_CHACHA20POLY1305_SHA256_Ed25519: {32, 32},
		X448_AES256GCM_SHA512_Ed448:            {64, 32},
		P521_AES256GCM_SHA512_P521:             {64, 32},
		X448_CHACHA20POLY1305_SHA512_Ed448:     {64, 32},
		P384_AES256GCM_SHA384_P384:             {48, 32},
		suiteXWing:                             {64, 32},
	} {
		if got := [2]int{cs.HashLen(), cs.KeyLen()}; got != want || cs.NonceLen() != 12 || len(cs.Hash(nil)) != want[0] {
			t.Errorf("suite %d: Nh and Nk %v, want %v; Nn %d", cs, got, want, cs.NonceLen())
		}
	}
}

func TestKeysPrintAsSecret(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		sig := must(cs.GenerateSignatureKey())(t)
		enc := must(cs.GenerateHPKEKey())(t)
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
			for _, b := range [][]byte{sig.k().key.private(), enc.k().key.private()} {
				for _, form := range []string{"%x", "%X", "%v", "%q"} {
					if strings.Contains(out, strings.Trim(fmt.Sprintf(form, b[:8]), "[]\"")) {
						t.Errorf("%s shows a key", verb)
					}
				}
			}
		}
	})
}

func TestKeyStorage(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		sig := must(cs.GenerateSignatureKey())(t)
		enc := must(cs.GenerateHPKEKey())(t)
		sigBytes, encBytes := must(sig.MarshalBinary())(t), must(enc.MarshalBinary())(t)

		var sig2 SignatureKey
		if err := sig2.UnmarshalBinary(sigBytes); err != nil || !bytes.Equal(sig2.Public(), sig.Public()) {
			t.Errorf("signature key: %v", err)
		}
		var enc2 HPKEPrivateKey
		if err := enc2.UnmarshalBinary(encBytes); err != nil || !bytes.Equal(enc2.Public(), enc.Public()) {
			t.Errorf("HPKE key: %v", err)
		}
		wantBytes(t, "stored signature key", must(sig2.MarshalBinary())(t), sigBytes)
		wantBytes(t, "stored HPKE key", must(enc2.MarshalBinary())(t), encBytes)
		for i := range sigBytes {
			if err := new(SignatureKey).UnmarshalBinary(sigBytes[:i]); err == nil {
				t.Errorf("read %d bytes of a signature key", i)
			}
		}
		for i := range encBytes {
			if err := new(HPKEPrivateKey).UnmarshalBinary(encBytes[:i]); err == nil {
				t.Errorf("read %d bytes of an HPKE key", i)
			}
		}
		sigBytes[0], sigBytes[1] = 0, 99
		if err := sig2.UnmarshalBinary(sigBytes); !errors.Is(err, ErrUnsupported) || !bytes.Equal(sig2.Public(), sig.Public()) {
			t.Errorf("another suite: %v", err)
		}
	})
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
	for _, cs := range []CipherSuite{0, 8, 0xf00c, 0xffff} {
		for name, f := range map[string]func() error{
			"GenerateHPKEKey":      func() error { _, err := cs.GenerateHPKEKey(); return err },
			"GenerateSignatureKey": func() error { _, err := cs.GenerateSignatureKey(); return err },
			"DeriveHPKEKey":        func() error { _, err := cs.DeriveHPKEKey(make([]byte, 32)); return err },
			"DeriveSignatureKey":   func() error { _, err := cs.DeriveSignatureKey(make([]byte, 32)); return err },
			"parseHPKEPrivateKey":  func() error { _, err := cs.parseHPKEPrivateKey(make([]byte, 32)); return err },
			"parseRatchetTree":     func() error { _, err := parseRatchetTree(cs, nil); return err },
		} {
			if err := f(); !errors.Is(err, ErrUnsupported) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if cs.Supported() || cs.VerifyWithLabel(make([]byte, 32), "", nil, make([]byte, 64)) {
			t.Errorf("suite %d is not supported", cs)
		}
	}
}

func TestAEAD(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		key, nonce := randomBytes(cs.KeyLen()), randomBytes(cs.NonceLen())
		ct := cs.Seal(key, nonce, []byte("aad"), []byte("text"))
		got, err := cs.Open(key, nonce, []byte("aad"), ct)
		if err != nil || string(got) != "text" {
			t.Fatalf("%q, %v", got, err)
		}
		for name, open := range map[string]func() ([]byte, error){
			"aad":        func() ([]byte, error) { return cs.Open(key, nonce, nil, ct) },
			"cut":        func() ([]byte, error) { return cs.Open(key, nonce, []byte("aad"), ct[1:]) },
			"nonce":      func() ([]byte, error) { return cs.Open(key, nonce[1:], []byte("aad"), ct) },
			"key":        func() ([]byte, error) { return cs.Open(key[1:], nonce, []byte("aad"), ct) },
			"ciphertext": func() ([]byte, error) { return cs.Open(key, nonce, []byte("aad"), nil) },
		} {
			if _, err := open(); err != ErrUnauthenticated {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestGroupOfEverySuite lets a group of each suite live: every way in and out, both wire formats, proposals by value and by reference,
// PSKs, lost and stored states.
func TestGroupOfEverySuite(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		w, alice, bob, carol := threeWorldOf(t, cs)
		if w.server.Suite() != cs {
			t.Fatalf("suite %d", w.server.Suite())
		}
		w.run(`
			carol: proposes-update
			bob: proposes-add dave
			alice: commits
			dave: says hello
			dave: restarts
			erin: joins
			erin: adds-with-path frank
			frank: says hello too
			bob: resyncs
			carol: leaves
			alice: commits
			frank: removes dave
			alice: says to the four of us`)
		w.commit(alice, CommitOptions{PSK: testPSK, Proposals: []Proposal{{Type: ProposalPSK, PSK: &PSKID{ID: []byte("known")}}}})
		w.say(bob, "in the new epoch")
		if carol.group != nil || len(w.members()) != 4 {
			t.Errorf("%d members", len(w.members()))
		}
		staged := w.stage(bob, CommitOptions{Private: true, Path: true}) // which no server can follow
		for _, m := range w.members() {
			commit := staged
			if m != bob {
				commit = must(m.group.Process(staged.Message, ProcessOptions{}))(t).Commit
			}
			if err := m.group.Merge(commit); err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "epoch authenticator", m.group.EpochAuthenticator(), staged.Group().EpochAuthenticator())
		}
	})
}

// TestRulesSuites: every way into a group is closed to a suite that the rules do not have.
func TestRulesSuites(t *testing.T) {
	const cs = X25519_CHACHA20POLY1305_SHA256_Ed25519
	w, alice, _, _ := threeWorldOf(t, cs)
	dave := w.newClient("dave")
	staged := must(alice.group.Commit(CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: dave.kp}}}))(t)
	tree := staged.Change.After.Tree()
	for name, c := range map[string]struct {
		suites []CipherSuite
		want   error
	}{"any": {nil, nil}, "its own": {[]CipherSuite{suite1, cs}, nil}, "another": {[]CipherSuite{suite1}, ErrUnsupported}} {
		rules := testRules()
		rules.Suites = c.suites
		for way, f := range map[string]func() error{
			"NewGroup": func() error {
				_, err := NewGroup(GroupConfig{GroupID: []byte("g"), KeyPackage: dave.kp, Secrets: dave.secrets, Rules: rules})
				return err
			},
			"Join": func() error {
				_, _, err := Join(JoinConfig{Welcome: staged.Welcome, Tree: tree, KeyPackage: dave.kp, Secrets: dave.secrets, Rules: rules})
				return err
			},
			"JoinExternal": func() error {
				_, err := JoinExternal(ExternalJoinConfig{GroupInfo: w.info, Tree: w.server.Tree(), KeyPackage: dave.kp, Secrets: dave.secrets, Rules: rules})
				return err
			},
			"NewPublicGroup": func() error { _, err := NewPublicGroup(w.info, w.server.Tree(), rules); return err },
		} {
			if err := f(); !errors.Is(err, c.want) {
				t.Errorf("%s, %s: %v", way, name, err)
			}
		}
	}
}
