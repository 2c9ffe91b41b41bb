package mls

import (
	"testing"
)

// oneProposal is a proposal that breaks a rule by itself: sent on its own or committed by value, member and server refuse it, and its sender does
// not make it.
func (w *world) oneProposal(t *testing.T, from, to *client, p Proposal, want breach) {
	t.Helper()
	w.bothRefuse(t, to, proposed(from, p), want)
	w.bothRefuse(t, to, w.lawless(t, from, value(from, p)), want)
	_, err := from.group.Commit(CommitOptions{Proposals: []Proposal{p}, NoPending: true, PSK: testPSK})
	want.check(t, "committer", err)
	if p.Type != ProposalUpdate { // whose leaf the group makes
		_, err = from.group.Propose(p, ProposeOptions{})
		want.check(t, "proposer", err)
	}
}

func TestRFC9420_12_1(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	msg := proposed(alice, Proposal{Type: testProposal, Body: []byte("body")})
	t.Run("a proposal has a valid signature", func(t *testing.T) {
		m := must(parseMLSMessage(msg))(t)
		m.publicMessage.auth.signature[0] ^= 1
		m.publicMessage.membershipTag = m.publicMessage.authenticated().membershipTag(suite1, alice.group.s.secrets.membership, w.server.encoded)
		w.bothRefuse(t, bob, m.marshal(), failure(ErrUnauthenticated))
	})
	t.Run("a proposal is of the present epoch", func(t *testing.T) {
		for _, epoch := range []uint64{0, w.server.Epoch() - 1, w.server.Epoch() + 1, 1<<64 - 1} {
			other := forge(t, alice, msg, func(ac *authenticatedContent) { ac.content.epoch = epoch })
			w.bothRefuse(t, bob, other, failure(ErrStaleEpoch))
		}
	})
	t.Run("a proposal is of the group", func(t *testing.T) {
		other := forge(t, alice, msg, func(ac *authenticatedContent) { ac.content.groupID = []byte("other") })
		w.bothRefuse(t, bob, other, rule("6", "own group"))
	})
	w.bothTake(t, bob, msg)
}

// The single proposals, §12.1.1 to §12.1.7. What is wrong with a KeyPackage or a leaf is in the tests of §10.1 and §7.3.

func TestRFC9420_12_1_1(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	t.Run("an Add's KeyPackage is valid", func(t *testing.T) {
		c := packageOf(t, "dave", func(kp *KeyPackage) { kp.initKey = kp.leaf.encryptionKey })
		w.oneProposal(t, alice, bob, Proposal{Type: ProposalAdd, KeyPackage: c.kp}, rule("10.1", "differ"))
	})
	t.Run("newcomers get the leftmost blank leaves, in order", func(t *testing.T) {
		w.run("dave: joins\nerin: joins")
		w.commit(alice, CommitOptions{Proposals: w.removes([]string{"carol", "bob"})})
		change := w.commit(alice, CommitOptions{Proposals: w.adds([]string{"frank", "grace", "heidi"})})
		for i, want := range []uint32{1, 2, 5} {
			if change.Added[i].Index != want {
				t.Errorf("newcomer %d is at %d, want %d", i, change.Added[i].Index, want)
			}
		}
	})
}

func TestRFC9420_12_1_2(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	t.Run("an Update's leaf is valid", func(t *testing.T) {
		p := leafOf(t, alice, func(l *LeafNode) { l.capabilities.Versions = nil })
		w.bothRefuse(t, bob, proposed(alice, p), rule("7.2", "version"))
		p = leafOf(t, alice, func(l *LeafNode) { l.encryptionKey = alice.group.OwnLeaf().encryptionKey })
		w.bothRefuse(t, bob, proposed(alice, p), rule("12.1.2", "fresh"))
	})
	t.Run("an Update blanks the path and replaces the leaf", func(t *testing.T) {
		w.run("alice: updates\nbob: proposes-update")
		want := w.server.Pending()[0].Leaf
		change := w.commit(w.client("carol"), CommitOptions{})
		leaf, _ := change.After.Member(bob.group.OwnIndex())
		if !leaf.equal(want) || !loosen(change.After.tree)[1].blank() {
			t.Error("the tree after the Update")
		}
	})
}

func TestRFC9420_12_1_3(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	t.Run("a removed leaf is occupied", func(t *testing.T) {
		for _, i := range []uint32{3, 4, 1 << 31, 1<<31 + 1, 1<<32 - 1} {
			w.oneProposal(t, alice, bob, Proposal{Type: ProposalRemove, Removed: i}, rule("12.1.3", "occupied"))
		}
	})
	t.Run("the tree shrinks with its last leaves", func(t *testing.T) {
		w.run("dave: joins\nerin: joins")
		change := w.commit(alice, CommitOptions{Proposals: w.removes([]string{"erin"})})
		if got := change.After.tree.width(); got != 4 {
			t.Errorf("%d leaves", got)
		}
		change = w.commit(alice, CommitOptions{Proposals: w.removes([]string{"carol", "dave"})})
		if got := change.After.tree.width(); got != 2 {
			t.Errorf("%d leaves", got)
		}
	})
}

func TestRFC9420_12_1_6(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	t.Run("an ExternalInit stands in an external commit only", func(t *testing.T) {
		p := Proposal{Type: ProposalExternalInit, kemOutput: make([]byte, 32)}
		w.bothRefuse(t, bob, proposed(alice, p), rule("12.1.8", "kind of sender"))
		w.bothRefuse(t, bob, w.lawless(t, alice, value(alice, p)), rule("12.2", "only an external commit"))
		_, err := alice.group.Propose(p, ProposeOptions{})
		rule("12.1.8", "kind of sender").check(t, "proposer", err)
	})
}

func TestRFC9420_12_1_7(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	required := func(r requiredCapabilities) Proposal {
		return Proposal{Type: ProposalGroupContextExtensions, Extensions: []Extension{{ExtensionRequiredCapabilities, marshal(&r)}}}
	}
	needs := required(requiredCapabilities{proposals: []ProposalType{0x1234}})
	t.Run("all members support what is required", func(t *testing.T) {
		w.oneProposal(t, alice, bob, needs, rule("7.3", "required capabilities"))
	})
	t.Run("members that the commit adds support it too", func(t *testing.T) {
		c := packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.capabilities.Proposals = nil })
		list := []Proposal{required(requiredCapabilities{proposals: []ProposalType{testProposal}}), {Type: ProposalAdd, KeyPackage: c.kp}}
		want := rule("7.3", "required capabilities")
		_, err := alice.group.Commit(CommitOptions{Proposals: list, NoPending: true})
		want.check(t, "committer", err)
		w.bothRefuse(t, bob, w.lawless(t, alice, value(alice, list[0]), value(alice, list[1])), want)
	})
	t.Run("members that the commit removes need not", func(t *testing.T) {
		c := packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.capabilities.Proposals = []ProposalType{ProposalSelfRemove} })
		w.clients["dave"] = c
		w.commit(alice, CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: c.kp}}})
		p := required(requiredCapabilities{proposals: []ProposalType{testProposal}})
		_, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{p}, NoPending: true})
		rule("7.3", "required capabilities").check(t, "committer", err)
		w.commit(alice, CommitOptions{Proposals: append(w.removes([]string{"dave"}), p)})
	})
	t.Run("the new list replaces the old one", func(t *testing.T) {
		w.commit(alice, CommitOptions{Proposals: []Proposal{{Type: ProposalGroupContextExtensions}}})
		if n := len(w.server.Extensions()); n != 0 {
			t.Errorf("%d extensions", n)
		}
	})
	t.Run("extensions that the package reads can be read", func(t *testing.T) {
		for _, typ := range []ExtensionType{ExtensionRequiredCapabilities, ExtensionExternalSenders} {
			p := Proposal{Type: ProposalGroupContextExtensions, Extensions: []Extension{{typ, []byte{9}}}}
			w.bothRefuse(t, bob, proposed(alice, p), failure(ErrMalformed))
			w.bothRefuse(t, bob, w.lawless(t, alice, value(alice, p)), failure(ErrMalformed))
		}
	})
}

func TestRFC9420_12_1_8(t *testing.T) {
	w, alice, bob, carol := threeWorld(t)
	external := Sender{Type: SenderExternal}
	remove := Proposal{Type: ProposalRemove, Removed: carol.group.OwnIndex()}
	content := func(p Proposal) framedContent { return framedContent{contentType: contentProposal, proposal: &p} }
	t.Run("an external sender needs the group's leave", func(t *testing.T) {
		key := must(suite1.GenerateSignatureKey())(t)
		w.bothRefuse(t, bob, w.fromOutside(external, key, content(remove)), rule("12.1.8", "listed"))
	})
	hub := w.withExternalSender(t, alice)
	t.Run("an external sender proposes what one may", func(t *testing.T) {
		dave := newClient(t, "dave")
		for name, c := range map[string]struct {
			p  Proposal
			ok bool
		}{
			"add": {Proposal{Type: ProposalAdd, KeyPackage: dave.kp}, true}, "remove": {remove, true},
			"psk":        {Proposal{Type: ProposalPSK, PSK: &PSKID{ID: []byte("known"), Nonce: make([]byte, 32)}}, true},
			"extensions": {Proposal{Type: ProposalGroupContextExtensions}, true},
			"update":     {leafOf(t, alice, func(*LeafNode) {}), false}, "self_remove": {Proposal{Type: ProposalSelfRemove}, false},
			"external_init": {Proposal{Type: ProposalExternalInit, kemOutput: make([]byte, 32)}, false},
		} {
			msg := w.fromOutside(external, hub, content(c.p))
			if c.ok {
				w.bothTake(t, bob, msg)
				continue
			}
			t.Log(name)
			w.bothRefuse(t, bob, msg, rule("12.1.8", "kind of sender"))
		}
	})
	t.Run("an external proposal that nobody authorizes is refused", func(t *testing.T) {
		dave := newClient(t, "dave")
		msg := w.fromOutside(Sender{Type: SenderNewMemberProposal}, dave.secrets.SignatureKey, content(Proposal{Type: ProposalAdd, KeyPackage: dave.kp}))
		w.bothTake(t, bob, msg)
		w.rules.CheckProposal = func(_ *PublicGroup, sender Sender, p Proposal) error {
			if sender.Type == SenderNewMemberProposal {
				return errTestRule
			}
			return nil
		}
		w.bothRefuse(t, bob, msg, failure(errTestRule))
	})
	t.Run("an external proposal is a PublicMessage", func(t *testing.T) {
		// A PrivateMessage has no other sender than a member, by its leaf.
		ac := &authenticatedContent{wireFormat: wirePrivateMessage, content: framedContent{
			groupID: w.server.GroupID(), epoch: w.server.Epoch(), sender: external, contentType: contentProposal, proposal: &remove,
		}}
		ac.sign(hub, w.server.encoded)
		msg := sealed(t, alice, contentProposal, alice.group.OwnIndex(), padded(ac, nil))
		failure(ErrUnauthenticated).check(t, "bob", bob.refused(t, msg))
	})
}

func TestRFC9420_12_1_4(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	psk := func(id PSKID) Proposal { return Proposal{Type: ProposalPSK, PSK: &id} }
	group, epoch, nonce := w.server.GroupID(), w.server.Epoch(), make([]byte, 32)
	t.Run("a proposed PSK is not of usage reinit", func(t *testing.T) {
		w.oneProposal(t, alice, bob, psk(PSKID{Usage: PSKReInit, GroupID: group, Epoch: epoch, Nonce: nonce}), rule("12.1.4", "usage application"))
	})
	t.Run("a proposed PSK is not of usage branch", func(t *testing.T) {
		w.oneProposal(t, alice, bob, psk(PSKID{Usage: PSKBranch, GroupID: group, Epoch: epoch, Nonce: nonce}), rule("12.1.4", "usage application"))
	})
	t.Run("a PSK's nonce has the length of a hash", func(t *testing.T) {
		w.oneProposal(t, alice, bob, psk(PSKID{ID: []byte("known"), Nonce: nonce[1:]}), rule("12.1.4", "nonce"))
	})
	w.bothTake(t, bob, proposed(alice, psk(PSKID{Usage: PSKApplication, GroupID: group, Epoch: epoch, Nonce: nonce})))
}

func TestRFC9420_12_1_5(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	reInit := func(version uint16) Proposal {
		return Proposal{Type: ProposalReInit, ReInit: &ReInit{GroupID: []byte("next"), Version: version, Suite: suite1}}
	}
	t.Run("a ReInit does not lower the version", func(t *testing.T) {
		w.bothRefuse(t, bob, proposed(alice, reInit(0)), rule("12.1.5", "lower the version"))
		w.bothRefuse(t, bob, w.lawless(t, alice, value(alice, reInit(0))), rule("12.1.5", "lower the version"))
		w.bothTake(t, bob, w.lawless(t, alice, value(alice, reInit(1))))
	})
}
