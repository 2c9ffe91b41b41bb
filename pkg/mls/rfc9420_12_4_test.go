package mls

import (
	"bytes"
	"slices"
	"testing"
)

func TestRFC9420_12_4(t *testing.T) {
	w, alice, bob, carol := threeWorld(t)
	t.Run("proposals are committed before application data is sent", func(t *testing.T) {
		w, alice, bob, _ := threeWorld(t)
		w.run("alice: says before\nbob: leaves")
		for _, c := range []*client{alice, bob} {
			before := c.group.Marshal()
			_, err := c.group.Encrypt([]byte("text"), nil, nil)
			rule("12.4", "a commit goes before").check(t, c.name, err)
			if !bytes.Equal(before, c.group.Marshal()) {
				t.Error("a refused message changed the state")
			}
		}
		rules := testRules()
		rules.DataBeforeCommit = true
		if _, err := must(ParseGroup(alice.group.Marshal(), rules))(t).Encrypt([]byte("text"), nil, nil); err != nil {
			t.Errorf("an application that does without: %v", err)
		}
		w.run("alice: commits\nalice: says after")
	})
	t.Run("the list is valid", func(t *testing.T) { // one case of §12.2's
		p := Proposal{Type: ProposalRemove, Removed: alice.group.OwnIndex()}
		w.bothRefuse(t, bob, w.lawless(t, alice, value(alice, p)), rule("12.2", "remove its committer"))
		_, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{p}})
		rule("12.2", "remove its committer").check(t, "committer", err)
	})
	t.Run("a commit has a path if its proposals want one", func(t *testing.T) {
		update := w.sent(t, bob, Proposal{Type: ProposalUpdate})
		leave := w.sent(t, carol, Proposal{Type: ProposalSelfRemove})
		add := value(alice, Proposal{Type: ProposalAdd, KeyPackage: newClient(t, "dave").kp})
		psk := value(alice, Proposal{Type: ProposalPSK, PSK: &PSKID{ID: []byte("known"), Nonce: make([]byte, 32)}})
		for name, c := range map[string]struct {
			list []CommittedProposal
			want breach
		}{
			"no proposal":     {nil, rule("12.4", "has a path")},
			"update":          {[]CommittedProposal{update}, rule("12.4", "has a path")},
			"remove":          {[]CommittedProposal{value(alice, Proposal{Type: ProposalRemove, Removed: 2})}, rule("12.4", "has a path")},
			"self_remove":     {[]CommittedProposal{leave}, rule("12.4", "has a path")},
			"extensions":      {[]CommittedProposal{value(alice, Proposal{Type: ProposalGroupContextExtensions})}, rule("12.4", "has a path")},
			"custom":          {[]CommittedProposal{value(alice, Proposal{Type: testNeedsPath})}, rule("12.4", "has a path")},
			"add and remove":  {[]CommittedProposal{add, value(alice, Proposal{Type: ProposalRemove, Removed: 2})}, rule("12.4", "has a path")},
			"add, psk, light": {[]CommittedProposal{add, psk, value(alice, Proposal{Type: testProposal})}, breach{}},
		} {
			msg := w.pathless(t, alice, c.list)
			if c.want.section == "" {
				w.bothTake(t, bob, msg)
				continue
			}
			t.Log(name)
			w.bothRefuse(t, bob, msg, c.want)
		}
		for _, c := range []CommitOptions{
			{NoPending: true}, {Proposals: w.removes([]string{"carol"})},
			{Proposals: []Proposal{{Type: ProposalGroupContextExtensions}}, NoPending: true}, {Proposals: []Proposal{{Type: testNeedsPath}}, NoPending: true},
		} {
			if !must(alice.group.Commit(c))(t).Change.HasPath {
				t.Error("a commit was made without a path")
			}
		}
	})
	t.Run("a commit takes up all valid proposals", func(t *testing.T) {
		w, alice, bob, carol := threeWorld(t)
		w.run("bob: proposes-custom x\ncarol: proposes-add dave\nbob: proposes-update")
		if n := len(must(alice.group.Commit(CommitOptions{}))(t).Change.Proposals); n != 3 {
			t.Errorf("%d of 3", n)
		}
		// A receiver does not ask for it.
		msg := must(alice.group.Commit(CommitOptions{NoPending: true}))(t).Message
		w.bothTake(t, bob, msg)
		w.bothTake(t, carol, msg)
	})
}

// pathless is a commit of c without a path and with just the given proposals; everything else about it fits.
func (w *world) pathless(t *testing.T, c *client, list []CommittedProposal) []byte {
	t.Helper()
	s := c.group.s
	d := &commitDraft{
		public: s.public, sender: s.self(), signer: s.signer, nextSigner: s.signer, init: s.secrets.init, psk: pskSources{own: s, external: testPSK}.find, keep: s.keep, state: s,
	}
	return must(d.lawless(list))(t)
}

func TestRFC9420_12_4_1(t *testing.T) {
	w, alice, _, _ := threeWorld(t)
	t.Run("the Welcome is for every client that is added", func(t *testing.T) {
		for _, names := range [][]string{{"dave"}, {"erin", "frank", "grace"}} {
			list := w.adds(names)
			staged := w.stage(alice, CommitOptions{Proposals: list, NoPending: true})
			refs := must(WelcomeRefs(staged.Welcome))(t)
			for _, p := range list {
				if !slices.ContainsFunc(refs, func(ref []byte) bool { return bytes.Equal(ref, p.KeyPackage.Ref()) }) {
					t.Error("a client gets no Welcome")
				}
			}
			if len(refs) != len(list) {
				t.Errorf("%d entries for %d clients", len(refs), len(list))
			}
		}
		// One that is added by reference too.
		w.run("alice: proposes-add heidi")
		staged := w.stage(alice, CommitOptions{Proposals: w.adds([]string{"ivan"})})
		if refs := must(WelcomeRefs(staged.Welcome))(t); len(refs) != 2 {
			t.Errorf("%d entries", len(refs))
		}
		if w.stage(alice, CommitOptions{NoPending: true}).Welcome != nil {
			t.Error("a Welcome for nobody")
		}
	})
	t.Run("a needed path is made", func(t *testing.T) {
		staged := must(alice.group.Commit(CommitOptions{Proposals: w.removes([]string{"bob"}), NoPending: true}))(t)
		if staged.content.content.commit.path == nil {
			t.Error("no path")
		}
	})
}

// TestRFC9420_12_4_2 has the rules of the section, one a subtest, in one group that each of them tries to spoil.
func TestRFC9420_12_4_2(t *testing.T) {
	w, alice, bob, carol := threeWorld(t)
	good := w.stage(alice, CommitOptions{Path: true}).Message
	w.bothTake(t, bob, good)
	t.Run("a commit is of the present epoch", func(t *testing.T) {
		for _, epoch := range []uint64{0, w.server.Epoch() - 1, w.server.Epoch() + 1} {
			w.bothRefuse(t, bob, forge(t, alice, good, func(ac *authenticatedContent) { ac.content.epoch = epoch }), failure(ErrStaleEpoch))
		}
	})
	t.Run("a public commit has the membership tag", func(t *testing.T) {
		m := must(parseMLSMessage(good))(t)
		m.publicMessage.membershipTag[0] ^= 1
		failure(ErrUnauthenticated).check(t, "bob", bob.refused(t, m.marshal()))
	})
	t.Run("a private commit opens", func(t *testing.T) {
		msg := must(alice.group.Commit(CommitOptions{Path: true, Private: true}))(t).Message
		failure(ErrUnauthenticated).check(t, "bob", bob.refused(t, flipped(msg, len(msg)-1)))
		if err := bob.refused(t, msg); err != nil {
			t.Error(err)
		}
	})
	t.Run("a commit has a valid signature", func(t *testing.T) {
		m := must(parseMLSMessage(good))(t)
		m.publicMessage.auth.signature[0] ^= 1
		m.publicMessage.membershipTag = m.publicMessage.authenticated().membershipTag(suite1, alice.group.s.secrets.membership, w.server.encoded)
		w.bothRefuse(t, bob, m.marshal(), failure(ErrUnauthenticated))
	})
	t.Run("a commit refers to proposals that were received", func(t *testing.T) {
		msg := forge(t, alice, good, func(ac *authenticatedContent) { addRef(ac, make([]byte, 32)) })
		w.bothRefuse(t, bob, msg, rule("12.4.2", "have been received"))
	})
	t.Run("all PSKs of a commit are at hand", func(t *testing.T) {
		psk := Proposal{Type: ProposalPSK, PSK: &PSKID{ID: []byte("known")}}
		msg := must(alice.group.Commit(CommitOptions{Proposals: []Proposal{psk}, PSK: testPSK}))(t).Message
		_, err := bob.group.Process(msg, ProcessOptions{})
		failure(ErrUnsupported).check(t, "bob", err)
		_, err = bob.group.Process(msg, ProcessOptions{PSK: func([]byte) ([]byte, error) { return nil, errTestRule }})
		failure(errTestRule).check(t, "bob", err)
		_, err = bob.group.Process(msg, ProcessOptions{PSK: func([]byte) ([]byte, error) { return []byte("another"), nil }})
		failure(ErrUnauthenticated).check(t, "bob", err)
		_, err = alice.group.Commit(CommitOptions{Proposals: []Proposal{psk}})
		failure(ErrUnsupported).check(t, "committer", err)
	})
	t.Run("a commit has a path if it must", func(t *testing.T) {
		w.bothRefuse(t, bob, w.pathless(t, alice, nil), rule("12.4", "has a path"))
		w.bothRefuse(t, bob, w.pathless(t, alice, []CommittedProposal{value(alice, Proposal{Type: ProposalRemove, Removed: 2})}), rule("12.4", "has a path"))
	})
	t.Run("the path's leaf has source commit", func(t *testing.T) {
		msg := w.withPath(t, alice, CommitOptions{}, true, func(u *updatePath) { u.leaf.source = LeafFromUpdate })
		w.bothRefuse(t, bob, msg, rule("7.3", "source commit"))
	})
	t.Run("the path's leaf has a new encryption key", func(t *testing.T) {
		msg := w.withPath(t, alice, CommitOptions{}, true, func(u *updatePath) { u.leaf.encryptionKey = alice.group.OwnLeaf().encryptionKey })
		w.bothRefuse(t, bob, msg, rule("12.4.2", "new encryption key"))
	})
	t.Run("no key of the path is in the tree", func(t *testing.T) {
		want := rule("12.4.2", "new to the tree")
		for name, key := range map[string][]byte{
			"of a leaf": carol.group.OwnLeaf().encryptionKey, "of a node that it replaces": rootKey(w),
		} {
			t.Log(name)
			w.bothRefuse(t, bob, w.withPath(t, alice, CommitOptions{}, false, func(u *updatePath) { u.nodes[0].encryptionKey = key }), want)
			w.bothRefuse(t, bob, w.withPath(t, alice, CommitOptions{}, true, func(u *updatePath) { u.leaf.encryptionKey = key }), want)
		}
	})
	t.Run("no two keys of the path are the same", func(t *testing.T) {
		msg := w.fitted(t, alice, func(u *updatePath) { u.nodes[1].encryptionKey = u.nodes[0].encryptionKey })
		w.bothRefuse(t, bob, msg, rule("7.3", "encryption keys are unique"))
		msg = w.fitted(t, alice, func(u *updatePath) { u.nodes[1].encryptionKey = u.leaf.encryptionKey })
		w.bothRefuse(t, bob, msg, rule("7.3", "encryption keys are unique"))
	})
	t.Run("the keys of the path are keys of the suite", func(t *testing.T) {
		for _, key := range [][]byte{nil, make([]byte, 31), make([]byte, 32)} {
			msg := w.fitted(t, alice, func(u *updatePath) { u.nodes[1].encryptionKey = key })
			w.bothRefuse(t, bob, msg, rule("12.4.2", "key of the suite"))
		}
	})
	t.Run("the path secrets open", func(t *testing.T) {
		msg := w.withPath(t, alice, CommitOptions{}, false, func(u *updatePath) {
			for i := range u.nodes {
				for k := range u.nodes[i].pathSecrets {
					u.nodes[i].pathSecrets[k].ciphertext[0] ^= 1
				}
			}
		})
		failure(ErrUnauthenticated).check(t, "bob", bob.refused(t, msg))
		if err := w.refused(msg); err != nil {
			t.Errorf("server: %v", err)
		}
	})
	t.Run("the path secrets give the keys of the path", func(t *testing.T) {
		msg := w.fitted(t, alice, func(u *updatePath) { u.nodes[1].encryptionKey = must(suite1.GenerateHPKEKey())(t).Public() })
		rule("7.5", "give the keys of the path").check(t, "bob", bob.refused(t, msg))
		rule("7.5", "give the keys of the path").check(t, "carol", carol.refused(t, msg))
		if err := w.refused(msg); err != nil {
			t.Errorf("server: %v", err)
		}
	})
	t.Run("the confirmation tag is that of the new epoch", func(t *testing.T) {
		msg := forge(t, alice, good, func(ac *authenticatedContent) { ac.auth.confirmationTag = randomBytes(32) })
		failure(ErrUnauthenticated).check(t, "bob", bob.refused(t, msg))
		msg = forge(t, alice, good, func(ac *authenticatedContent) { ac.auth.confirmationTag = nil })
		failure(ErrUnauthenticated).check(t, "bob", bob.refused(t, msg))
	})
	t.Run("who is removed has no next epoch", func(t *testing.T) {
		msg := must(alice.group.Commit(CommitOptions{Proposals: w.removes([]string{"bob"})}))(t).Message
		got := must(bob.group.Process(msg, ProcessOptions{}))(t)
		if !got.Commit.RemovesSelf() || got.Commit.Group() != nil {
			t.Error("there is one")
		}
		rule("12.4.2", "removed").check(t, "bob", bob.group.Merge(got.Commit))
	})
}

// fitted is a commit of c with a path whose keys change has replaced; parent hashes, leaf and ciphertexts are made to fit, so that only the
// replaced keys are wrong.
func (w *world) fitted(t *testing.T, c *client, change func(u *updatePath)) []byte {
	t.Helper()
	s := c.group.s
	sender := s.private.index
	msg := w.stage(c, CommitOptions{Path: true, NoPending: true}).Message
	tree := w.server.tree.clone()
	steps := tree.filteredPath(sender)
	if len(steps) < 2 {
		t.Fatal("the path is too short to be broken")
	}
	return forge(t, c, msg, func(ac *authenticatedContent) {
		// The path anew, from a secret that is known here.
		made, err := tree.createPath(pathArgs{
			sender: sender, leaf: s.ownLeaf(), signer: s.signer, groupID: w.server.GroupID(), context: func([]byte) []byte { return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		u := made.path
		change(u)
		publics := make([][]byte, len(u.nodes))
		for i := range u.nodes {
			publics[i] = u.nodes[i].encryptionKey
		}
		leaf := u.leaf.clone()
		leaf.parentHash = tree.setPath(sender, steps, publics)
		leaf.sign(s.signer, w.server.GroupID(), sender)
		tree.setLeaf(sender, leaf)
		u.leaf = leaf
		context := w.server.context
		context.epoch++
		context.treeHash = tree.rootHash()
		for i, step := range steps {
			for k, n := range slices.Collect(tree.resolution(step.copath, nil)) {
				kem, ct, err := suite1.EncryptWithLabel(loosen(tree).key(int(n)), labelUpdatePathNode, marshal(&context), made.secrets[i].secret)
				if err != nil {
					t.Fatal(err)
				}
				u.nodes[i].pathSecrets[k] = hpkeCiphertext{kemOutput: kem, ciphertext: ct}
			}
		}
		ac.content.commit.path = u
	})
}
