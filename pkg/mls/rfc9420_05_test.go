package mls

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// certificate is a self-signed certificate in DER.
func certificate(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0)}
	return must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)
}

// chain is the body of an x509 credential.
func chain(certificates ...[]byte) []byte {
	var b cryptobyte.Builder
	for _, c := range certificates {
		writeOpaque(&b, c)
	}
	return b.BytesOrPanic()
}

// certified is a KeyPackage of suite 1 with an x509 credential.
func certified(t *testing.T, body func(key ed25519.PrivateKey) []byte) error {
	t.Helper()
	seed := randomBytes(ed25519.SeedSize)
	cfg := keyPackageConfig(t)
	cfg.SignatureKey = must(suite1.DeriveSignatureKey(seed))(t)
	cfg.Credential = Credential{Type: CredentialX509, Body: body(ed25519.NewKeyFromSeed(seed))}
	cfg.Capabilities.Credentials = []CredentialType{CredentialX509}
	kp, _, err := NewKeyPackage(cfg)
	if err == nil {
		err = kp.Validate(noTime)
	}
	return err
}

func otherKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestRFC9420_5_1_2(t *testing.T) {
	t.Run("a credential is of the suite's signature algorithm", func(t *testing.T) {
		ec := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
		rule("5.3", "end-entity certificate").check(t, "P-256", certified(t, func(ed25519.PrivateKey) []byte { return chain(certificate(t, ec)) }))
		// The same key bits under another algorithm's name, X25519.
		renamed := func(key ed25519.PrivateKey) []byte {
			return chain(bytes.ReplaceAll(certificate(t, key), []byte{0x06, 0x03, 0x2b, 0x65, 0x70}, []byte{0x06, 0x03, 0x2b, 0x65, 0x6e}))
		}
		rule("5.3", "end-entity certificate").check(t, "renamed", certified(t, renamed))
	})
	t.Run("a certificate names each suite's algorithm", func(t *testing.T) {
		for suite, curve := range map[CipherSuite]elliptic.Curve{2: elliptic.P256(), 5: elliptic.P521(), 7: elliptic.P384()} {
			key := must(ecdsa.GenerateKey(curve, rand.Reader))(t)
			public := must(key.PublicKey.Bytes())(t)
			c := &Credential{Type: CredentialX509, Body: chain(certificate(t, key))}
			for other := range CipherSuite(8) {
				if got := c.certifies(other, public); got != (other == suite) {
					t.Errorf("a certificate for suite %d, asked for suite %d: %v", suite, other, got)
				}
			}
		}
	})
}

func TestRFC9420_5_3(t *testing.T) {
	t.Run("the end-entity certificate is of the leaf's signature key", func(t *testing.T) {
		for name, body := range map[string]func(key ed25519.PrivateKey) []byte{
			"another key":              func(ed25519.PrivateKey) []byte { return chain(certificate(t, otherKey(t))) },
			"the own key second":       func(key ed25519.PrivateKey) []byte { return chain(certificate(t, otherKey(t)), certificate(t, key)) },
			"no certificate":           func(ed25519.PrivateKey) []byte { return chain() },
			"an empty certificate":     func(ed25519.PrivateKey) []byte { return chain(nil) },
			"no DER":                   func(ed25519.PrivateKey) []byte { return chain([]byte("certificate")) },
			"bytes after the end":      func(key ed25519.PrivateKey) []byte { return chain(append(certificate(t, key), 0)) },
			"a certificate cut in two": func(key ed25519.PrivateKey) []byte { return chain(certificate(t, key)[:100]) },
		} {
			rule("5.3", "end-entity certificate").check(t, name, certified(t, body))
		}
		for name, body := range map[string]func(key ed25519.PrivateKey) []byte{
			"the own key":         func(key ed25519.PrivateKey) []byte { return chain(certificate(t, key)) },
			"the own key, issued": func(key ed25519.PrivateKey) []byte { return chain(certificate(t, key), certificate(t, otherKey(t))) },
		} {
			if err := certified(t, body); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// stranger is a client that the test's rules do not let into a group.
func stranger(t *testing.T) *client {
	return packageOf(t, "mallory", func(kp *KeyPackage) { kp.leaf.extensions = nil })
}

// laxly is c in a state whose application judges nobody.
func laxly(t *testing.T, c *client) *client {
	rules := testRules()
	rules.CheckLeaf, rules.CheckCommit = nil, nil
	return &client{name: c.name, kp: c.kp, secrets: c.secrets, group: must(ParseGroup(c.group.Marshal(), rules))(t)}
}

func TestRFC9420_5_3_1(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	lax, mallory := laxly(t, alice), stranger(t)
	add := Proposal{Type: ProposalAdd, KeyPackage: mallory.kp}
	credential := Credential{Type: testCredential, Body: []byte("somebody else")}
	by := failure(errTestRule)

	t.Run("a KeyPackage to be added is judged", func(t *testing.T) {
		_, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{add}})
		by.check(t, "commit", err)
		_, err = alice.group.Propose(add, ProposeOptions{})
		by.check(t, "proposal", err)
	})
	t.Run("all leaves are judged on joining", func(t *testing.T) {
		dave := newClient(t, "dave")
		both := must(lax.group.Commit(CommitOptions{Proposals: []Proposal{add, {Type: ProposalAdd, KeyPackage: dave.kp}}, TreeInWelcome: true}))(t)
		_, _, err := Join(JoinConfig{Welcome: both.Welcome, KeyPackage: dave.kp, Secrets: dave.secrets, Rules: w.rules})
		by.check(t, "Welcome", err)
		tree := both.Change.After.Tree()
		_, err = JoinExternal(ExternalJoinConfig{GroupInfo: both.GroupInfo, Tree: tree, KeyPackage: dave.kp, Secrets: dave.secrets, Rules: w.rules})
		by.check(t, "external commit", err)
		_, err = NewPublicGroup(both.GroupInfo, tree, w.rules)
		by.check(t, "server", err)
	})
	t.Run("a received Add is judged", func(t *testing.T) {
		w.bothRefuse(t, bob, proposed(alice, add), by)
		w.bothRefuse(t, bob, must(lax.group.Commit(CommitOptions{Proposals: []Proposal{add}, NoPending: true}))(t).Message, by)
	})
	t.Run("an Update with a new credential is judged, with the old one", func(t *testing.T) {
		w.bothRefuse(t, bob, proposed(alice, leafOf(t, alice, func(l *LeafNode) { l.credential = credential })), by)
	})
	t.Run("a path with a new credential is judged, with the old one", func(t *testing.T) {
		staged := must(lax.group.Commit(CommitOptions{NewLeaf: &LeafChange{Credential: &credential}, NoPending: true}))(t)
		w.bothRefuse(t, bob, staged.Message, by)
		_, err := alice.group.Commit(CommitOptions{NewLeaf: &LeafChange{Credential: &credential}})
		by.check(t, "sender", err)
	})
	t.Run("a new external sender can be judged", func(t *testing.T) {
		w.rules.CheckCommit = func(c *Change) error {
			before, _ := c.Before.Extension(ExtensionExternalSenders)
			after, _ := findExtension(c.Extensions, ExtensionExternalSenders)
			if !bytes.Equal(before, after) {
				return errTestRule
			}
			return nil
		}
		senders := ExternalSendersExtension(ExternalSender{SignatureKey: bob.group.OwnLeaf().SignatureKey(), Credential: credential})
		exts := slices.Concat(w.server.Extensions(), []Extension{senders})
		gce := CommitOptions{Proposals: []Proposal{{Type: ProposalGroupContextExtensions, Extensions: exts}}, NoPending: true}
		w.bothRefuse(t, bob, must(lax.group.Commit(gce))(t).Message, by)
		_, err := alice.group.Commit(gce)
		by.check(t, "sender", err)
	})
}
