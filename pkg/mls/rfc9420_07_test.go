package mls

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
	"time"
)

func TestRFC9420_7_1(t *testing.T) {
	t.Run("unmerged leaves rise", func(t *testing.T) {
		for name, c := range map[string]struct {
			leaves []leafIndex
			want   error
		}{
			"rising": {[]leafIndex{1, 2, 5}, nil}, "falling": {[]leafIndex{2, 1}, ErrMalformed}, "twice": {[]leafIndex{1, 1}, ErrMalformed},
		} {
			p := &parentNode{encryptionKey: []byte("k"), unmergedLeaves: c.leaves}
			failure(c.want).check(t, name, parse(marshal(p), new(parentNode)))
		}
	})
}

// leafBreaches are what may be wrong with a leaf by itself, RFC 9420 §7.2 and §7.3. A KeyPackage, an Update and a path are all refused for it.
var leafBreaches = []struct {
	name   string
	change func(l *LeafNode)
	want   breach
}{
	{"the version in use is listed", func(l *LeafNode) { l.capabilities.Versions = []uint16{2} }, rule("7.2", "version")},
	{"the cipher suite in use is listed", func(l *LeafNode) { l.capabilities.CipherSuites = []CipherSuite{2} }, rule("7.2", "cipher suite")},
	{"the leaf's extensions are listed", func(l *LeafNode) { l.capabilities.Extensions = []ExtensionType{testGroupExtension} }, rule("7.3", "leaf's extensions")},
	{"the encryption key is one of the suite", func(l *LeafNode) { l.encryptionKey = []byte("short") }, rule("7.3", "key of the suite")},
	{"the encryption key is not of small order", func(l *LeafNode) { l.encryptionKey = make([]byte, 32) }, rule("7.3", "key of the suite")},
}

// leafTests runs leafBreaches over the three ways in which a leaf comes.
func leafTests(t *testing.T, section string) {
	w, alice, bob, _ := threeWorld(t)
	for _, c := range leafBreaches {
		if c.want.section != section {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			dave := packageOf(t, "dave", func(kp *KeyPackage) { c.change(&kp.leaf) })
			c.want.check(t, "KeyPackage", dave.kp.Validate(noTime))
			w.bothRefuse(t, bob, proposed(alice, Proposal{Type: ProposalAdd, KeyPackage: dave.kp}), c.want)
			w.bothRefuse(t, bob, proposed(alice, leafOf(t, alice, c.change)), c.want)
			msg := w.withPath(t, alice, CommitOptions{}, true, func(u *updatePath) { c.change(u.leaf) })
			w.bothRefuse(t, bob, msg, c.want)
		})
	}
	w.bothTake(t, bob, proposed(alice, leafOf(t, alice, func(*LeafNode) {})))
	w.bothTake(t, bob, w.withPath(t, alice, CommitOptions{}, true, func(*updatePath) {}))
}

func TestRFC9420_7_2(t *testing.T) {
	leafTests(t, "7.2")
	t.Run("the credential type is listed", func(t *testing.T) {
		w, alice, bob, _ := threeWorld(t)
		unlisted := func(l *LeafNode) { l.capabilities.Credentials = []CredentialType{CredentialBasic} }
		dave := packageOf(t, "dave", func(kp *KeyPackage) { unlisted(&kp.leaf) })
		rule("7.2", "credential type").check(t, "KeyPackage", dave.kp.Validate(noTime))
		w.bothRefuse(t, bob, proposed(alice, Proposal{Type: ProposalAdd, KeyPackage: dave.kp}), rule("7.2", "credential type"))
		// In a tree the leaf is also a member that does not support a type in use, which is looked at first.
		w.bothRefuse(t, bob, proposed(alice, leafOf(t, alice, unlisted)), rule("7.3", "credential types in use"))
		msg := w.withPath(t, alice, CommitOptions{}, true, func(u *updatePath) { unlisted(u.leaf) })
		w.bothRefuse(t, bob, msg, rule("7.3", "credential types in use"))
	})
	t.Run("unknown values in capabilities are ignored", func(t *testing.T) {
		w, alice, _, _ := threeWorld(t)
		dave := packageOf(t, "dave", func(kp *KeyPackage) {
			c := &kp.leaf.capabilities
			c.Versions = append([]uint16{999}, c.Versions...)
			c.CipherSuites = append([]CipherSuite{0x0a0a, 0x1234}, c.CipherSuites...)
			c.Extensions = append([]ExtensionType{0x1a1a, 0x1234}, c.Extensions...)
			c.Proposals = append([]ProposalType{0x2a2a, 0x1234}, c.Proposals...)
			c.Credentials = append([]CredentialType{0x3a3a, 0x1234}, c.Credentials...)
		})
		w.clients["dave"] = dave
		w.commit(alice, CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: dave.kp}}})
		w.run("dave: updates\nalice: updates\ndave: says hello")
	})
	t.Run("a changed leaf is signed anew", func(t *testing.T) {
		w, alice, bob, _ := threeWorld(t)
		for name, change := range map[string]func(l *LeafNode){
			"key":          func(l *LeafNode) { l.encryptionKey = must(suite1.GenerateHPKEKey())(t).Public() },
			"capabilities": func(l *LeafNode) { l.capabilities.Proposals = append(l.capabilities.Proposals, 0x1234) },
			"extensions":   func(l *LeafNode) { l.extensions = []Extension{{Type: testLeafExtension, Data: []byte("other")}} },
		} {
			p := leafOf(t, alice, func(*LeafNode) {})
			p.Leaf.capabilities = p.Leaf.capabilities.clone()
			change(p.Leaf)
			msg := proposed(alice, p)
			failure(ErrUnauthenticated).check(t, name, bob.refused(t, msg))
			failure(ErrUnauthenticated).check(t, name, w.refused(msg))
		}
		before := alice.group.OwnLeaf()
		w.run("alice: updates")
		if bytes.Equal(before.signature, alice.group.OwnLeaf().signature) {
			t.Error("a path has the old leaf's signature")
		}
	})
}

// TestRFC9420_7_3 has the rules of the section, one a subtest, in one group that each of them tries to spoil.
func TestRFC9420_7_3(t *testing.T) {
	leafTests(t, "7.3")
	w, alice, bob, carol := threeWorld(t)
	add := func(c *client) Proposal { return Proposal{Type: ProposalAdd, KeyPackage: c.kp} }
	path := func(change func(l *LeafNode)) []byte {
		return w.withPath(t, alice, CommitOptions{NoPending: true}, true, func(u *updatePath) { change(u.leaf) })
	}
	t.Run("a leaf has a valid signature", func(t *testing.T) {
		spoil := func(l *LeafNode) { l.signature = flipped(l.signature, 0) }
		dave := packageOf(t, "dave", func(kp *KeyPackage) {})
		spoil(&dave.kp.leaf)
		dave.kp.signature = dave.secrets.SignatureKey.SignWithLabel(labelKeyPackage, dave.kp.toBeSigned())
		w.bothRefuse(t, bob, proposed(alice, add(dave)), failure(ErrUnauthenticated))
		p := leafOf(t, alice, func(*LeafNode) {})
		spoil(p.Leaf)
		w.bothRefuse(t, bob, proposed(alice, p), failure(ErrUnauthenticated))
		w.bothRefuse(t, bob, w.withPath(t, alice, CommitOptions{}, false, func(u *updatePath) { spoil(u.leaf) }), failure(ErrUnauthenticated))
	})
	t.Run("a leaf's signature is for its group and place", func(t *testing.T) {
		for _, place := range []struct {
			group string
			leaf  leafIndex
		}{{"other", 0}, {"group", 1}} {
			p := leafOf(t, alice, func(*LeafNode) {})
			p.Leaf.sign(alice.group.s.signer, []byte(place.group), place.leaf)
			w.bothRefuse(t, bob, proposed(alice, p), failure(ErrUnauthenticated))
		}
	})
	t.Run("a member has the required capabilities", func(t *testing.T) {
		w, alice, bob, _ := threeWorld(t)
		w.commit(alice, CommitOptions{Proposals: []Proposal{{Type: ProposalGroupContextExtensions, Extensions: []Extension{
			{ExtensionRequiredCapabilities, marshal(&requiredCapabilities{
				extensions: []ExtensionType{testGroupExtension}, proposals: []ProposalType{testProposal}, credentials: []CredentialType{testCredential},
			})},
		}}}})
		for _, drop := range []func(l *LeafNode){
			func(l *LeafNode) { l.capabilities.Extensions = []ExtensionType{testLeafExtension} },
			func(l *LeafNode) { l.capabilities.Proposals = nil },
		} {
			dave := packageOf(t, "dave", func(kp *KeyPackage) { drop(&kp.leaf) })
			want := rule("7.3", "required capabilities")
			_, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{add(dave)}})
			want.check(t, "sender", err)
			w.bothRefuse(t, bob, proposed(alice, add(dave)), want)
			w.bothRefuse(t, bob, proposed(alice, leafOf(t, alice, drop)), want)
			w.bothRefuse(t, bob, w.withPath(t, alice, CommitOptions{}, true, func(u *updatePath) { drop(u.leaf) }), want)
		}
	})
	t.Run("all members support a leaf's credential type", func(t *testing.T) {
		other := func(l *LeafNode) {
			l.credential = Credential{Type: CredentialBasic, Body: []byte("x")}
			l.capabilities.Credentials = []CredentialType{CredentialBasic, testCredential}
		}
		want := rule("7.3", "credential types in use")
		w.bothRefuse(t, bob, proposed(alice, leafOf(t, alice, other)), want)
		w.bothRefuse(t, bob, path(other), want)
		dave := packageOf(t, "dave", func(kp *KeyPackage) { other(&kp.leaf) })
		w.bothRefuse(t, bob, w.lawless(t, alice, value(alice, add(dave))), want)
		_, err := laxly(t, alice).group.Commit(CommitOptions{Proposals: []Proposal{add(dave)}, NoPending: true})
		want.check(t, "sender", err)
	})
	t.Run("a leaf supports all credential types in use", func(t *testing.T) {
		dave := packageOf(t, "dave", func(kp *KeyPackage) {
			kp.leaf.credential = Credential{Type: CredentialBasic, Body: []byte("dave")}
			kp.leaf.capabilities.Credentials = []CredentialType{CredentialBasic}
		})
		w.bothRefuse(t, bob, w.lawless(t, alice, value(alice, add(dave))), rule("7.3", "credential types in use"))
		_, err := laxly(t, alice).group.Commit(CommitOptions{Proposals: []Proposal{add(dave)}, NoPending: true})
		rule("7.3", "credential types in use").check(t, "sender", err)
	})
	t.Run("a leaf that is sent is within its lifetime", func(t *testing.T) {
		dave := packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.lifetime = Lifetime{1000, 2000} })
		for at, ok := range map[int64]bool{999: false, 1000: true, 2000: true, 2001: false} {
			_, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{add(dave)}, NoPending: true, Now: time.Unix(at, 0)})
			again := must(ParseGroup(alice.group.Marshal(), w.rules))(t)
			_, err2 := again.Propose(add(dave), ProposeOptions{Now: time.Unix(at, 0)})
			if ok != (err == nil) || ok != (err2 == nil) {
				t.Errorf("at %d: %v, %v", at, err, err2)
			}
			if !ok {
				rule("7.3", "lifetime").check(t, "proposer", err2)
				rule("7.3", "lifetime").check(t, "sender", err)
				rule("7.3", "lifetime").check(t, "KeyPackage", dave.kp.Validate(time.Unix(at, 0)))
			}
		}
	})
	t.Run("a leaf that is received can be held to its lifetime", func(t *testing.T) {
		dave := packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.lifetime = Lifetime{1000, 2000} })
		staged := must(alice.group.Commit(CommitOptions{Proposals: []Proposal{add(dave)}, NoPending: true}))(t)
		for _, msg := range [][]byte{staged.Message, proposed(alice, add(dave))} {
			_, err := bob.group.Process(msg, ProcessOptions{Now: time.Unix(3000, 0)})
			rule("7.3", "lifetime").check(t, "member", err)
			rule("7.3", "lifetime").check(t, "server", w.refused(msg)) // w.now is later
		}
	})
	t.Run("a KeyPackage's leaf has source key_package", func(t *testing.T) {
		for _, source := range []LeafSource{LeafFromUpdate, LeafFromCommit} {
			dave := packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.source = source })
			w.bothRefuse(t, bob, proposed(alice, add(dave)), rule("7.3", "source key_package"))
		}
	})
	t.Run("an Update's leaf has source update", func(t *testing.T) {
		for _, source := range []LeafSource{LeafFromKeyPackage, LeafFromCommit} {
			w.bothRefuse(t, bob, proposed(alice, leafOf(t, alice, func(l *LeafNode) { l.source = source })), rule("7.3", "source update"))
		}
	})
	t.Run("a path's leaf has source commit", func(t *testing.T) {
		for _, source := range []LeafSource{LeafFromKeyPackage, LeafFromUpdate} {
			w.bothRefuse(t, bob, path(func(l *LeafNode) { l.source = source }), rule("7.3", "source commit"))
		}
	})
	t.Run("an Update has another encryption key than before", func(t *testing.T) {
		p := leafOf(t, alice, func(l *LeafNode) { l.encryptionKey = alice.group.OwnLeaf().encryptionKey })
		w.bothRefuse(t, bob, proposed(alice, p), rule("12.1.2", "fresh encryption key"))
	})
	t.Run("signature keys are unique", func(t *testing.T) {
		bobs := func(l *LeafNode) { l.signatureKey = bob.group.OwnLeaf().signatureKey }
		p := leafOf(t, alice, bobs)
		p.Leaf.sign(bob.group.s.signer, w.server.GroupID(), 0)
		w.bothRefuse(t, carol, proposed(alice, p), rule("7.3", "signature keys are unique"))
		msg := w.withPath(t, alice, CommitOptions{}, false, func(u *updatePath) {
			bobs(u.leaf)
			u.leaf.sign(bob.group.s.signer, w.server.GroupID(), 0)
		})
		w.bothRefuse(t, carol, msg, rule("7.3", "signature keys are unique"))
		bob.renew(t)
		_, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{add(bob)}, NoPending: true})
		rule("7.3", "signature keys are unique").check(t, "added", err)
	})
	t.Run("encryption keys are unique", func(t *testing.T) {
		taken := func(l *LeafNode) { l.encryptionKey = bob.group.OwnLeaf().encryptionKey }
		want := rule("7.3", "encryption keys are unique")
		w.bothRefuse(t, carol, proposed(alice, leafOf(t, alice, taken)), want)
		for _, key := range [][]byte{bob.group.OwnLeaf().encryptionKey, rootKey(w)} {
			dave := packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.encryptionKey = key })
			_, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{add(dave)}, NoPending: true})
			want.check(t, "added", err)
		}
		dave := packageOf(t, "dave", func(kp *KeyPackage) { taken(&kp.leaf) })
		w.bothRefuse(t, carol, w.lawless(t, alice, value(alice, add(dave))), want)
	})
}

func TestRFC9420_7_5(t *testing.T) {
	t.Run("a path's leaf keeps to what an Update's must", func(t *testing.T) {
		w, alice, bob, _ := threeWorld(t)
		msg := w.withPath(t, alice, CommitOptions{}, true, func(u *updatePath) { u.leaf.encryptionKey = alice.group.OwnLeaf().encryptionKey })
		w.bothRefuse(t, bob, msg, rule("12.4.2", "new encryption key"))
	})
	t.Run("no path secret is sealed to a member that the commit adds", func(t *testing.T) {
		w, alice, _, _ := threeWorld(t)
		dave := newClient(t, "dave")
		staged := w.stage(alice, CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: dave.kp}}, Path: true})
		leaf := leafIndex(staged.Change.Added[0].Index)
		tree := staged.Change.After.tree
		for i, step := range tree.filteredPath(0) {
			n := staged.content.content.commit.path.nodes[i]
			if want := tree.resolutionSize(step.copath, nil); step.copath.covers(leaf) && len(n.pathSecrets) != want-1 {
				t.Errorf("%d secrets for %d nodes, one of them new", len(n.pathSecrets), want)
			}
			for _, s := range n.pathSecrets {
				if _, err := suite1.DecryptWithLabel(dave.secrets.EncryptionKey, labelUpdatePathNode, staged.Change.After.encoded, s.kemOutput, s.ciphertext); err == nil {
					t.Error("the new member opens a path secret")
				}
			}
		}
	})
	t.Run("outdated keys and path secrets are deleted", func(t *testing.T) {
		w, alice, bob, carol := threeWorld(t)
		w.run("carol: updates\nalice: updates")
		old := map[string][]byte{}
		for _, c := range []*client{alice, bob, carol} {
			for n, k := range c.group.s.private.keys {
				if n != c.group.s.private.index.node() || c == alice {
					old[c.name+string(rune('0'+n))] = k.k().key.private()
				}
			}
		}
		staged := w.stage(alice, CommitOptions{Path: true})
		var secrets [][]byte
		for _, s := range staged.Group().s.private.keys {
			secrets = append(secrets, s.k().key.private())
		}
		w.accept(alice, staged)
		if len(old) < 5 || len(secrets) < 3 {
			t.Fatalf("%d old keys, %d new ones", len(old), len(secrets))
		}
		for _, c := range []*client{alice, bob, carol} {
			state := c.group.Marshal()
			for name, key := range old {
				if name[0] == c.name[0] && bytes.Contains(state, key) {
					t.Errorf("%s still has an old key", c.name)
				}
			}
		}
		for _, k := range secrets {
			if !bytes.Contains(alice.group.Marshal(), k) {
				t.Error("the scan does not find the keys that must be there")
			}
		}
	})
}

func TestRFC9420_7_6(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	t.Run("a path secret is sealed to each node of the resolution, once", func(t *testing.T) {
		fewer := w.withPath(t, alice, CommitOptions{}, false, func(u *updatePath) { u.nodes[1].pathSecrets = u.nodes[1].pathSecrets[1:] })
		w.bothRefuse(t, bob, fewer, rule("7.6", "each node of the resolution"))
		more := w.withPath(t, alice, CommitOptions{}, false, func(u *updatePath) {
			u.nodes[1].pathSecrets = append(u.nodes[1].pathSecrets, u.nodes[1].pathSecrets[0])
		})
		w.bothRefuse(t, bob, more, rule("7.6", "each node of the resolution"))
	})
	t.Run("new leaves are no part of the resolution", func(t *testing.T) {
		msg := w.withPath(t, alice, CommitOptions{Proposals: w.adds([]string{"dave"})}, false, func(u *updatePath) {
			u.nodes[1].pathSecrets = append(u.nodes[1].pathSecrets, u.nodes[1].pathSecrets[0])
		})
		w.bothRefuse(t, bob, msg, rule("7.6", "each node of the resolution"))
	})
	t.Run("a path has one node for each of the filtered direct path", func(t *testing.T) {
		fewer := w.withPath(t, alice, CommitOptions{}, false, func(u *updatePath) { u.nodes = u.nodes[1:] })
		w.bothRefuse(t, bob, fewer, rule("12.4.2", "one node for each"))
		more := w.withPath(t, alice, CommitOptions{}, false, func(u *updatePath) { u.nodes = append(u.nodes, u.nodes[0]) })
		w.bothRefuse(t, bob, more, rule("12.4.2", "one node for each"))
	})
}

func TestRFC9420_7_8(t *testing.T) {
	t.Run("a node is hashed as absent exactly if it is blank", func(t *testing.T) {
		kp, _ := makeKeyPackage(t)
		tree := newRatchetTree(suite1, kp.Leaf())
		must(tree.addLeaf(kp.Leaf()))(t)
		leaf := func(i uint32, body ...byte) []byte {
			return suite1.Hash(append(binary.BigEndian.AppendUint32([]byte{1}, i), body...))
		}
		present := append([]byte{1}, kp.Leaf().Marshal()...)
		want := suite1.Hash(slices.Concat([]byte{2, 0, 32}, leaf(0, present...), []byte{32}, leaf(1, present...)))
		wantBytes(t, "blank parent", tree.rootHash(), want)
		if err := tree.removeLeaf(0); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, "blank leaf", tree.rootHash(), suite1.Hash(slices.Concat([]byte{2, 0, 32}, leaf(0, 0), []byte{32}, leaf(1, present...))))
		l := loosen(tree)
		l[1] = looseNode{parent: &parentNode{encryptionKey: []byte("k")}}
		wantBytes(t, "parent", l.hash(), suite1.Hash(slices.Concat([]byte{2, 1, 1, 'k', 0, 0, 32}, leaf(0, 0), []byte{32}, leaf(1, present...))))
	})
}

func TestRFC9420_7_9_2(t *testing.T) {
	t.Run("a joiner finds every parent parent-hash valid", func(t *testing.T) {
		w, alice, _, _ := threeWorld(t)
		w.run("carol: updates\nalice: updates")
		dave := newClient(t, "dave")
		for name, spoil := range map[string]func(tree looseTree){
			"another key": func(tree looseTree) {
				tree.change(1, func(p *parentNode) { p.encryptionKey = randomBytes(32) })
			},
			"another parent hash": func(tree looseTree) { tree.change(1, func(p *parentNode) { p.parentHash = randomBytes(32) }) },
			"the root's parent hash": func(tree looseTree) {
				tree.change(tree.root(), func(p *parentNode) { p.parentHash = randomBytes(32) })
			},
		} {
			want := rule("7.9.2", "parent-hash valid")
			cfg := w.forgedWelcome(t, alice, dave, func(d *welcomed) { spoil(d.tree) })
			_, _, err := Join(cfg)
			want.check(t, name+", Welcome", err)
			tree := loosen(w.server.tree)
			spoil(tree)
			info := w.infoOver(t, alice, tree, func(*groupInfo) {})
			_, err = NewPublicGroup(info, tree.bytes(), w.rules)
			want.check(t, name+", server", err)
			_, err = JoinExternal(ExternalJoinConfig{GroupInfo: info, Tree: tree.bytes(), KeyPackage: dave.kp, Secrets: dave.secrets, Rules: w.rules})
			want.check(t, name+", external commit", err)
		}
		if _, _, err := Join(w.forgedWelcome(t, alice, dave, func(*welcomed) {})); err != nil {
			t.Errorf("as it is: %v", err)
		}
	})
	t.Run("a commit's leaf has the parent hash of its path", func(t *testing.T) {
		w, alice, bob, _ := threeWorld(t)
		for _, hash := range [][]byte{randomBytes(32), {}} {
			msg := w.withPath(t, alice, CommitOptions{}, true, func(u *updatePath) { u.leaf.parentHash = hash })
			w.bothRefuse(t, bob, msg, rule("7.9.2", "parent hash of the path"))
		}
	})
}

// rootKey is the encryption key of the root.
func rootKey(w *world) []byte {
	l := loosen(w.server.tree)
	return l.key(l.root())
}
