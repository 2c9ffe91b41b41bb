package mls

import (
	"bytes"
	"testing"
)

// TestRFC9420_10 has the rules of the section, one a subtest, in one group that each of them tries to spoil.
func TestRFC9420_10(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	refused := func(t *testing.T, c *client, want breach) {
		t.Helper()
		add := Proposal{Type: ProposalAdd, KeyPackage: c.kp}
		want.check(t, "KeyPackage", c.kp.Validate(noTime))
		w.bothRefuse(t, bob, proposed(alice, add), want)
		w.bothRefuse(t, bob, w.lawless(t, alice, value(alice, add)), want)
		_, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{add}, NoPending: true})
		want.check(t, "sender", err)
	}
	t.Run("the init key is a key of the suite", func(t *testing.T) {
		for _, key := range [][]byte{nil, make([]byte, 31), make([]byte, 32), make([]byte, 33)} {
			c := packageOf(t, "dave", func(kp *KeyPackage) { kp.initKey = key })
			rule("10.1", "key of the suite").check(t, "KeyPackage", c.kp.Validate(noTime))
			w.bothRefuse(t, bob, proposed(alice, Proposal{Type: ProposalAdd, KeyPackage: c.kp}), rule("10.1", "key of the suite"))
		}
	})
	t.Run("init keys are unique", func(t *testing.T) {
		keys := map[string]bool{}
		c := newClient(t, "dave")
		for range 4 {
			if c.renew(t); seen(keys, string(c.kp.initKey)) || seen(keys, string(c.kp.leaf.encryptionKey)) {
				t.Error("a key twice")
			}
		}
	})
	t.Run("the encryption key is a key of the suite", func(t *testing.T) {
		refused(t, packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.encryptionKey = make([]byte, 32) }), rule("7.3", "key of the suite"))
	})
	t.Run("the signature key is a key of the suite", func(t *testing.T) {
		for _, key := range [][]byte{nil, make([]byte, 31), make([]byte, 33)} {
			refused(t, packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.signatureKey = key }), failure(ErrUnauthenticated))
		}
	})
	t.Run("the signature is valid", func(t *testing.T) {
		c := newClient(t, "dave")
		c.kp.signature = flipped(c.kp.signature, 0)
		refused(t, c, failure(ErrUnauthenticated))
		c = newClient(t, "dave")
		c.kp.extensions = []Extension{{Type: testLeafExtension}}
		refused(t, c, failure(ErrUnauthenticated))
	})
	t.Run("an MLSMessage and its KeyPackage have one version", func(t *testing.T) {
		c := newClient(t, "dave")
		msg := (&mlsMessage{keyPackage: c.kp}).marshal()
		if _, err := Peek(msg); err != nil {
			t.Error(err)
		}
		c.kp.version = 2
		_, err := Peek((&mlsMessage{keyPackage: c.kp}).marshal())
		failure(ErrMalformed).check(t, "another version", err)
		msg[1] = 2
		_, err = Peek(msg)
		failure(ErrUnsupported).check(t, "another version outside", err)
	})
	t.Run("the leaf has source key_package", func(t *testing.T) {
		refused(t, packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.source = LeafFromUpdate }), rule("7.3", "source key_package"))
	})
	t.Run("capabilities list the leaf's extensions", func(t *testing.T) {
		refused(t, packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.extensions = append(kp.leaf.extensions, Extension{Type: 0x1234}) }), rule("7.3", "leaf's extensions"))
	})
	t.Run("capabilities list the KeyPackage's extensions", func(t *testing.T) {
		cfg := keyPackageConfigOf(t, "dave")
		cfg.Extensions = []Extension{{Type: testGroupExtension}}
		if _, _, err := NewKeyPackage(cfg); err != nil {
			t.Error(err)
		}
		cfg.Extensions = []Extension{{Type: 0x1234}}
		_, _, err := NewKeyPackage(cfg)
		rule("10", "KeyPackage's extensions").check(t, "maker", err)
	})
	t.Run("an unknown extension of a KeyPackage is ignored", func(t *testing.T) {
		c := packageOf(t, "dave", func(kp *KeyPackage) {
			kp.extensions = []Extension{{Type: 0x1234, Data: []byte("unknown")}, {Type: 0x2a2a, Data: []byte("GREASE")}}
		})
		w.bothTake(t, bob, proposed(alice, Proposal{Type: ProposalAdd, KeyPackage: c.kp}))
		w.clients["dave"] = c
		w.commit(alice, CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: c.kp}}, NoPending: true})
		w.run("dave: says hello")
	})
}

func TestRFC9420_10_1(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	refused := func(t *testing.T, c *client, want breach) {
		t.Helper()
		add := Proposal{Type: ProposalAdd, KeyPackage: c.kp}
		w.bothRefuse(t, bob, proposed(alice, add), want)
		w.bothRefuse(t, bob, w.lawless(t, alice, value(alice, add)), want)
		_, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{add}, NoPending: true})
		want.check(t, "sender", err)
	}
	t.Run("the cipher suite is the group's", func(t *testing.T) {
		refused(t, packageOf(t, "dave", func(kp *KeyPackage) { kp.suite = 3 }), rule("12.1.1", "version and cipher suite"))
	})
	t.Run("the version is the group's", func(t *testing.T) {
		refused(t, packageOf(t, "dave", func(kp *KeyPackage) { kp.version = 2 }), rule("12.1.1", "version and cipher suite"))
	})
	t.Run("the leaf is valid", func(t *testing.T) {
		refused(t, packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.capabilities.CipherSuites = []CipherSuite{3} }), rule("7.2", "cipher suite"))
	})
	t.Run("the signature is by the leaf's key", func(t *testing.T) {
		c := newClient(t, "dave")
		c.kp.signature = bob.secrets.SignatureKey.SignWithLabel(labelKeyPackage, c.kp.toBeSigned())
		refused(t, c, failure(ErrUnauthenticated))
		c = newClient(t, "dave")
		c.kp.signature = c.secrets.SignatureKey.SignWithLabel(labelLeafNode, c.kp.toBeSigned())
		refused(t, c, failure(ErrUnauthenticated))
	})
	t.Run("init key and encryption key differ", func(t *testing.T) {
		refused(t, packageOf(t, "dave", func(kp *KeyPackage) { kp.initKey = bytes.Clone(kp.leaf.encryptionKey) }), rule("10.1", "differ"))
	})
}
