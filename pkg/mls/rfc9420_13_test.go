package mls

import (
	"bytes"
	"errors"
	"testing"
)

func TestRFC9420_13_2(t *testing.T) {
	t.Run("a type that a member does not support is not committed", func(t *testing.T) {
		w, alice, bob, _ := threeWorld(t)
		narrow := packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.capabilities.Proposals = []ProposalType{testProposal} })
		w.clients["dave"] = narrow
		w.commit(alice, CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: narrow.kp}}})
		for _, p := range []Proposal{{Type: testNeedsPath, Body: []byte("x")}} {
			want := rule("12.2", "all members support")
			w.bothRefuse(t, bob, w.lawless(t, alice, value(alice, p)), want)
			_, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{p}})
			want.check(t, "committer", err)
		}
		_, err := bob.group.Propose(Proposal{Type: ProposalSelfRemove}, ProposeOptions{})
		rule("12.2", "all members support").check(t, "self_remove", err)
	})
}

func TestRFC9420_13_4(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	t.Run("unknown values of a KeyPackage are ignored", func(t *testing.T) {
		c := packageOf(t, "dave", func(kp *KeyPackage) {
			kp.extensions = []Extension{{Type: 0x1234, Data: []byte("x")}}
			kp.leaf.capabilities.Extensions = append([]ExtensionType{0x4321, 0x5a5a}, kp.leaf.capabilities.Extensions...)
			kp.leaf.extensions = append(kp.leaf.extensions, Extension{Type: 0x4321, Data: []byte("y")}, Extension{Type: 0x5a5a})
		})
		w.bothTake(t, bob, proposed(alice, Proposal{Type: ProposalAdd, KeyPackage: c.kp}))
	})
	t.Run("unknown extensions of a GroupInfo are ignored", func(t *testing.T) {
		w.joins(t, alice, newClient(t, "dave"), breach{}, func(_ *groupContext, exts *[]Extension, _ *looseTree) {
			*exts = append(*exts, Extension{Type: 0x1234, Data: []byte("x")}, Extension{Type: 0x5a5a})
		})
	})
	t.Run("no list has two extensions of a type", func(t *testing.T) {
		twice := []Extension{{Type: testLeafExtension, Data: []byte("a")}, {Type: testLeafExtension, Data: []byte("b")}}
		malformed := failure(ErrMalformed)
		for name, change := range map[string]func(kp *KeyPackage){
			"KeyPackage": func(kp *KeyPackage) { kp.extensions = twice }, "leaf": func(kp *KeyPackage) { kp.leaf.extensions = twice },
		} {
			c := packageOf(t, "dave", change)
			_, err := ParseKeyPackage(c.kp.Marshal())
			malformed.check(t, name, err)
			w.bothRefuse(t, bob, proposed(alice, Proposal{Type: ProposalAdd, KeyPackage: c.kp}), malformed)
		}
		w.bothRefuse(t, bob, proposed(alice, Proposal{Type: ProposalGroupContextExtensions, Extensions: twice}), malformed)
		info := must(parseGroupInfo(w.info))(t)
		info.extensions = append(info.extensions, twice...)
		info.sign(alice.group.s.signer)
		_, err := NewPublicGroup(marshal(info), w.server.Tree(), w.rules)
		malformed.check(t, "GroupInfo", err)
		info = must(parseGroupInfo(w.info))(t)
		info.context.extensions = twice
		_, err = NewPublicGroup(marshal(info), w.server.Tree(), w.rules)
		malformed.check(t, "GroupContext", err)

		cfg := keyPackageConfigOf(t, "dave")
		cfg.LeafExtensions = twice
		_, _, err = NewKeyPackage(cfg)
		malformed.check(t, "own leaf", err)
		_, err = alice.group.GroupInfo(twice, false)
		rule("13.4", "at most one").check(t, "own GroupInfo", err)
		_, err = alice.group.Commit(CommitOptions{Proposals: []Proposal{{Type: ProposalGroupContextExtensions, Extensions: twice}}})
		rule("13.4", "at most one").check(t, "own proposal", err)
		_, err = NewGroup(GroupConfig{GroupID: []byte("x"), KeyPackage: alice.kp, Secrets: alice.secrets, Extensions: twice})
		rule("13.4", "at most one").check(t, "own group", err)
	})
	t.Run("a new member supports the extensions of the group", func(t *testing.T) {
		c := packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.capabilities.Extensions = []ExtensionType{testLeafExtension} })
		w.oneProposal(t, alice, bob, Proposal{Type: ProposalAdd, KeyPackage: c.kp}, rule("13.4", "supports the extensions"))
	})
	t.Run("a joiner supports the extensions of the group", func(t *testing.T) {
		want := rule("13.4", "supports the extensions")
		w.joins(t, alice, newClient(t, "dave"), want, func(c *groupContext, _ *[]Extension, _ *looseTree) {
			c.extensions = append(cloneExtensions(c.extensions), Extension{Type: 0x1234})
		})
		narrow := packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.capabilities.Extensions = []ExtensionType{testLeafExtension} })
		_, err := JoinExternal(ExternalJoinConfig{GroupInfo: w.info, Tree: w.server.Tree(), KeyPackage: narrow.kp, Secrets: narrow.secrets, Rules: w.rules})
		want.check(t, "external commit", err)
	})
	t.Run("all members support the extensions of the group", func(t *testing.T) {
		p := Proposal{Type: ProposalGroupContextExtensions, Extensions: []Extension{{Type: 0x1234}}}
		w.oneProposal(t, alice, bob, p, rule("13.4", "supports the extensions"))
		drop := func(l *LeafNode) { l.capabilities.Extensions = []ExtensionType{testLeafExtension} }
		w.bothRefuse(t, bob, proposed(alice, leafOf(t, alice, drop)), rule("13.4", "supports the extensions"))
		w.bothRefuse(t, bob, w.withPath(t, alice, CommitOptions{}, true, func(u *updatePath) { drop(u.leaf) }), rule("13.4", "supports the extensions"))
	})
}

// TestRFC9420_13_5 has what the section says of GREASE, one place where it may stand a subtest.
func TestRFC9420_13_5(t *testing.T) {
	var values []uint16
	for v := uint16(0x0a0a); v < 0xfafa; v += 0x1010 {
		values = append(values, v)
	}
	t.Run("the fifteen values are known", func(t *testing.T) {
		n := 0
		for v := range 1 << 16 {
			if isGREASE(uint16(v)) {
				n++
			}
		}
		for _, v := range values {
			if !isGREASE(v) {
				t.Errorf("%#x", v)
			}
		}
		if n != 15 || len(values) != 15 {
			t.Errorf("%d of %d", n, len(values))
		}
	})
	t.Run("GREASE is sent only where it is ignored", func(t *testing.T) {
		w, alice, _, _ := threeWorld(t)
		want := rule("13.5", "GREASE")
		require := func(r requiredCapabilities) []Extension {
			return []Extension{{ExtensionRequiredCapabilities, marshal(&r)}}
		}
		w.rules.Proposals[0x0a0a] = ProposalRule{ByReference: true}
		defer delete(w.rules.Proposals, 0x0a0a)
		for name, p := range map[string]Proposal{
			"proposal type":       {Type: 0x0a0a},
			"group extension":     {Type: ProposalGroupContextExtensions, Extensions: []Extension{{Type: 0x1a1a}}},
			"required extension":  {Type: ProposalGroupContextExtensions, Extensions: require(requiredCapabilities{extensions: []ExtensionType{0x2a2a}})},
			"required proposal":   {Type: ProposalGroupContextExtensions, Extensions: require(requiredCapabilities{proposals: []ProposalType{0x2a2a}})},
			"required credential": {Type: ProposalGroupContextExtensions, Extensions: require(requiredCapabilities{credentials: []CredentialType{0x2a2a}})},
		} {
			_, err := alice.group.Propose(p, ProposeOptions{})
			want.check(t, name+" proposed", err)
			_, err = alice.group.Commit(CommitOptions{Proposals: []Proposal{p}})
			want.check(t, name+" committed", err)
		}
		_, err := NewGroup(GroupConfig{GroupID: []byte("x"), KeyPackage: alice.kp, Secrets: alice.secrets, Extensions: []Extension{{Type: 0x1a1a}}})
		want.check(t, "group", err)
		for name, change := range map[string]func(cfg *KeyPackageConfig){
			"credential type": func(cfg *KeyPackageConfig) {
				cfg.Credential.Type = 0x3a3a
				cfg.Capabilities.Credentials = []CredentialType{0x3a3a}
			},
			"version": func(cfg *KeyPackageConfig) { cfg.Capabilities.Versions = []uint16{1, 0x3a3a} },
		} {
			cfg := keyPackageConfigOf(t, "dave")
			change(&cfg)
			_, _, err := NewKeyPackage(cfg)
			want.check(t, name, err)
		}
	})
	t.Run("GREASE may stand where it is ignored", func(t *testing.T) {
		w, alice, _, _ := threeWorld(t)
		cfg := keyPackageConfigOf(t, "dave")
		for _, v := range values {
			cfg.Capabilities.CipherSuites = append(cfg.Capabilities.CipherSuites[:len(cfg.Capabilities.CipherSuites):len(cfg.Capabilities.CipherSuites)], CipherSuite(v))
			cfg.Capabilities.Extensions = append(cfg.Capabilities.Extensions[:len(cfg.Capabilities.Extensions):len(cfg.Capabilities.Extensions)], ExtensionType(v))
			cfg.Capabilities.Proposals = append(cfg.Capabilities.Proposals[:len(cfg.Capabilities.Proposals):len(cfg.Capabilities.Proposals)], ProposalType(v))
			cfg.Capabilities.Credentials = append(cfg.Capabilities.Credentials[:len(cfg.Capabilities.Credentials):len(cfg.Capabilities.Credentials)], CredentialType(v))
			cfg.LeafExtensions = append(cfg.LeafExtensions, Extension{Type: ExtensionType(v), Data: randomBytes(5)})
			cfg.Extensions = append(cfg.Extensions, Extension{Type: ExtensionType(v), Data: randomBytes(9)})
		}
		dave := &client{name: "dave"}
		var err error
		if dave.kp, dave.secrets, err = NewKeyPackage(cfg); err != nil {
			t.Fatal(err)
		}
		w.clients["dave"] = dave
		w.commit(alice, CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: dave.kp}}})
		info := must(dave.group.GroupInfo([]Extension{{Type: 0x6a6a, Data: []byte("x")}}, false))(t)
		if _, err := w.server.CheckGroupInfo(info); err != nil {
			t.Error(err)
		}
		w.run("dave: updates\ndave: proposes-update\nalice: commits\ndave: says hello\nerin: joins")
	})
	t.Run("GREASE is treated as what is unknown", func(t *testing.T) {
		w, alice, bob, _ := threeWorld(t)
		for _, v := range []uint16{0x0a0a, 0xeaea, 0x1234} {
			p := Proposal{Type: ProposalType(v), Body: []byte("x")}
			w.bothRefuse(t, bob, w.lawless(t, alice, value(alice, p)), rule("12.2", "known"))
			w.bothRefuse(t, bob, proposed(alice, p), rule("12.2", "known"))
			gce := Proposal{Type: ProposalGroupContextExtensions, Extensions: []Extension{{Type: ExtensionType(v)}}}
			w.bothRefuse(t, bob, proposed(alice, gce), rule("13.4", "supports the extensions"))
		}
	})
}

func TestRFC9420_14(t *testing.T) {
	w, alice, bob, carol := threeWorld(t)
	t.Run("making a commit changes nothing", func(t *testing.T) {
		for name, opts := range map[string]CommitOptions{
			"path": {Path: true}, "adds": {Proposals: w.adds([]string{"dave"}), NoPending: true}, "removes": {Proposals: w.removes([]string{"bob"})},
		} {
			before := alice.group.Marshal()
			must(alice.group.Commit(opts))(t)
			if !bytes.Equal(before, alice.group.Marshal()) {
				t.Errorf("%s: the state changed", name)
			}
		}
	})
	t.Run("a private commit uses up a key of its ratchet and nothing else", func(t *testing.T) {
		before := must(ParseGroup(alice.group.Marshal(), w.rules))(t)
		must(alice.group.Commit(CommitOptions{Path: true, Private: true}))(t)
		wantBytes(t, "public state", alice.group.Public().Marshal(), before.Public().Marshal())
		wantBytes(t, "authenticator", alice.group.EpochAuthenticator(), before.EpochAuthenticator())
		r := alice.group.s.messages.ratchets[alice.group.OwnIndex()]
		if r == nil || r[handshakeRatchet].generation != 1 || r[applicationRatchet].generation != 0 {
			t.Error("ratchets")
		}
	})
	t.Run("of two commits of one epoch one takes effect", func(t *testing.T) {
		first, second := w.stage(alice, CommitOptions{Path: true}), w.stage(carol, CommitOptions{Path: true})
		staged := must(bob.group.Process(second.Message, ProcessOptions{}))(t).Commit
		w.accept(alice, first)
		w.bothRefuse(t, bob, second.Message, failure(ErrStaleEpoch))
		for _, err := range []error{bob.group.Merge(staged), carol.group.Merge(second)} {
			if !errors.Is(err, ErrStaleEpoch) {
				t.Errorf("merging the other: %v", err)
			}
		}
	})
}

func TestRFC9420_15_2(t *testing.T) {
	t.Run("application data is encrypted in the newest epoch", func(t *testing.T) {
		w, alice, bob, _ := threeWorld(t)
		staged := w.stage(alice, CommitOptions{Proposals: w.removes([]string{"carol"})})
		spy := &client{name: "carol", group: must(ParseGroup(w.client("carol").group.Marshal(), w.rules))(t)}
		w.accept(alice, staged)
		for _, c := range []*client{alice, bob} {
			msg := must(c.group.Encrypt([]byte("text"), nil, nil))(t)
			if must(Peek(msg))(t).Epoch != w.server.Epoch() {
				t.Error("an old epoch")
			}
			wantUnchanged(t, spy, msg, ErrStaleEpoch)
		}
	})
	t.Run("no more data goes into a message than its AEAD protects", func(t *testing.T) {
		_, alice, _, _ := threeWorld(t)
		before := alice.group.Marshal()
		_, err := alice.group.Encrypt(make([]byte, maxVector/2+1), nil, nil)
		failure(ErrMalformed).check(t, "too long", err)
		if !bytes.Equal(before, alice.group.Marshal()) {
			t.Error("a refused message changed the state")
		}
	})
}

func TestRFC9420_15_3(t *testing.T) {
	t.Run("late messages open, and only for so long", func(t *testing.T) {
		w, alice, bob, _ := threeWorld(t)
		late := must(alice.group.Encrypt([]byte("late"), []byte("aad"), nil))(t)
		later := must(alice.group.Encrypt([]byte("later"), []byte("aad"), nil))(t)
		w.run("bob: updates\nbob: updates")
		w.hear(bob, late, "late", "alice")
		w.run("bob: updates")
		wantUnchanged(t, bob, later, ErrStaleEpoch)
	})
	t.Run("a ratchet goes so far and no further", func(t *testing.T) {
		_, alice, bob, _ := threeWorld(t)
		s := must(ParseGroup(alice.group.Marshal(), testRules()))(t).s
		at := func(generation uint32) []byte {
			k := messageKey{key: make([]byte, suite1.KeyLen()), nonce: make([]byte, suite1.NonceLen())}
			if generation <= maxForwardRatchet {
				var err error
				if k, _, err = s.messages.derive(0, applicationRatchet, generation); err != nil {
					t.Fatal(err)
				}
			}
			ac := &authenticatedContent{wireFormat: wirePrivateMessage, content: framedContent{
				groupID: s.public.context.groupID, epoch: s.public.context.epoch, sender: s.self(), contentType: contentApplication, application: []byte("text"),
			}}
			ac.sign(s.signer, s.public.encoded)
			p := sealPrivate(suite1, ac, privateKeys{senderData: s.secrets.senderData, generation: generation, key: k}, nil)
			return (&mlsMessage{privateMessage: p}).marshal()
		}
		for _, g := range []uint32{maxForwardRatchet + 1, 1 << 31, 1<<32 - 1} {
			wantUnchanged(t, bob, at(g), ErrReplayed)
		}
		if err := bob.refused(t, at(maxForwardRatchet)); err != nil {
			t.Error(err)
		}
		if n := len(bob.group.s.messages.ratchets[0][applicationRatchet].skipped); n != maxSkippedKeys {
			t.Errorf("%d keys are kept", n)
		}
	})
}

func TestRFC9420_16_7(t *testing.T) {
	t.Run("the keys of a tree are distinct", func(t *testing.T) {
		w, alice, _, _ := threeWorld(t)
		w.run("carol: updates\ndave: joins\nalice: adds-with-path erin frank\nerin: updates")
		keys := map[string]bool{}
		l := loosen(w.server.tree)
		for i, n := range l {
			if n.blank() {
				continue
			}
			if seen(keys, string(l.key(i))) {
				t.Error("an encryption key twice")
			}
			if n.leaf != nil && seen(keys, string(n.leaf.signatureKey)) {
				t.Error("a signature key twice")
			}
		}
		for _, n := range []int{2, l.root()} {
			tree := loosen(w.server.tree)
			tree.change(9, func(p *parentNode) { p.encryptionKey = tree.key(n) })
			_, err := NewPublicGroup(w.infoOver(t, alice, tree, func(*groupInfo) {}), tree.bytes(), w.rules)
			rule("7.3", "encryption keys are unique").check(t, "tree", err)
		}
	})
}

func TestRFC9420_16_12(t *testing.T) {
	t.Run("a commit that only members can refuse is told apart", func(t *testing.T) {
		w, alice, bob, _ := threeWorld(t)
		staged := w.stage(alice, CommitOptions{Path: true, AuthenticatedData: []byte("data")})
		for name, msg := range map[string][]byte{
			"tag":  forge(t, alice, staged.Message, func(ac *authenticatedContent) { ac.auth.confirmationTag = randomBytes(32) }),
			"path": w.fitted(t, alice, func(u *updatePath) { u.nodes[1].encryptionKey = must(suite1.GenerateHPKEKey())(t).Public() }),
		} {
			c, ok := errors.AsType[*CommitError](bob.refused(t, msg))
			if !ok || c.Change.Sender != alice.group.s.self() || w.refused(msg) != nil {
				t.Errorf("%s: a server takes it, and a member does not say whose it is", name)
			}
		}
		bad := w.lawless(t, alice, value(alice, Proposal{Type: 0x1234}))
		if _, ok := errors.AsType[*CommitError](bob.refused(t, bad)); ok {
			t.Error("a commit that a server refuses")
		}
	})
}

func TestRFC9420_17_1(t *testing.T) {
	t.Run("the mandatory cipher suite is supported", func(t *testing.T) {
		if !CipherSuite(1).Supported() || X25519_AES128GCM_SHA256_Ed25519 != 1 {
			t.Error("suite 1")
		}
	})
}
