package mls

import (
	"errors"
	"testing"
)

// listTest is a list of proposals that breaks one rule.
type listTest struct {
	name string
	list []CommittedProposal
	want breach
}

// badLists checks that nobody takes a commit with the list, and that its committer's own check refuses it.
func (w *world) badLists(t *testing.T, from, to *client, cases []listTest) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			msg := w.lawless(t, from, append([]CommittedProposal(nil), c.list...)...)
			w.bothRefuse(t, to, msg, c.want)
			tr, err := w.server.begin(c.list, from.group.s.self(), noTime)
			if err == nil {
				err = tr.validate()
			}
			c.want.check(t, "committer", err)
		})
	}
}

// TestRFC9420_12_2 has the rules for commits by members, TestRFC9420_12_2_External those for external commits. Each rule is a subtest in one group.
func TestRFC9420_12_2(t *testing.T) {
	w, alice, bob, carol := threeWorld(t)
	remove := func(c *client) Proposal { return Proposal{Type: ProposalRemove, Removed: c.group.OwnIndex()} }
	psk := Proposal{Type: ProposalPSK, PSK: &PSKID{ID: []byte("known"), Nonce: make([]byte, 32)}}
	gce := Proposal{Type: ProposalGroupContextExtensions}
	reinit := Proposal{Type: ProposalReInit, ReInit: &ReInit{GroupID: []byte("next"), Version: 1, Suite: suite1}}
	again := func(c *client) Proposal { // the same client's, another KeyPackage
		twin := &client{name: c.name, kp: c.kp, secrets: c.secrets}
		twin.renew(t)
		return Proposal{Type: ProposalAdd, KeyPackage: twin.kp}
	}
	newcomer := newClient(t, "dave")
	dave, carolAgain := Proposal{Type: ProposalAdd, KeyPackage: newcomer.kp}, again(carol)
	aliceUpdate := w.sent(t, alice, Proposal{Type: ProposalUpdate})
	bobUpdate := w.sent(t, bob, Proposal{Type: ProposalUpdate})
	bobUpdate2 := w.sent(t, bob, Proposal{Type: ProposalUpdate})
	bobLeave := w.sent(t, bob, Proposal{Type: ProposalSelfRemove})
	aliceLeave := w.sent(t, alice, Proposal{Type: ProposalSelfRemove})
	carolLeave := w.sent(t, carol, Proposal{Type: ProposalSelfRemove})
	custom := w.sent(t, carol, Proposal{Type: testProposal, Body: []byte("x")})

	w.badLists(t, alice, bob, []listTest{
		{"each proposal is valid", []CommittedProposal{value(alice, Proposal{Type: ProposalRemove, Removed: 3})}, rule("12.1.3", "occupied")},
		{"no Update of the committer", []CommittedProposal{aliceUpdate}, rule("12.2", "Update of its committer")},
		{"no Update of the committer by value", []CommittedProposal{value(alice, leafOf(t, alice, func(*LeafNode) {}))}, rule("12.2", "Update of its committer")},
		{"no Remove of the committer", []CommittedProposal{value(alice, remove(alice))}, rule("12.2", "remove its committer")},
		{"no self_remove of the committer", []CommittedProposal{aliceLeave}, rule("12.2", "remove its committer")},
		{"one Update of a leaf", []CommittedProposal{bobUpdate, bobUpdate2}, rule("12.2", "at most one Update or Remove")},
		{"one Remove of a leaf", []CommittedProposal{value(alice, remove(carol)), value(alice, remove(carol))}, rule("12.2", "at most one Update or Remove")},
		{"no Update and Remove of a leaf", []CommittedProposal{value(alice, remove(bob)), bobUpdate}, rule("12.2", "at most one Update or Remove")},
		{"no self_remove and Remove of a leaf", []CommittedProposal{carolLeave, value(alice, remove(carol))}, rule("12.2", "at most one Update or Remove")},
		{"no self_remove and Update of a leaf", []CommittedProposal{bobLeave, bobUpdate}, rule("12.2", "at most one Update or Remove")},
		{"no two Adds of one client", []CommittedProposal{value(alice, dave), value(alice, again(newcomer))}, rule("7.3", "signature keys are unique")},
		{"no Add of a member", []CommittedProposal{value(alice, carolAgain)}, rule("7.3", "signature keys are unique")},
		{"one PreSharedKey of an identity", []CommittedProposal{value(alice, psk), value(alice, psk)}, rule("12.2", "PreSharedKey")},
		{"one GroupContextExtensions", []CommittedProposal{value(alice, gce), value(alice, gce)}, rule("12.2", "at most one GroupContextExtensions")},
		{"a ReInit stands alone", []CommittedProposal{value(alice, reinit), value(alice, psk)}, rule("12.2", "stands alone")},
		{"a ReInit stands alone, also with one by reference", []CommittedProposal{value(alice, reinit), custom}, rule("12.2", "stands alone")},
		{"no ExternalInit", []CommittedProposal{value(alice, Proposal{Type: ProposalExternalInit, kemOutput: make([]byte, 32)})}, rule("12.2", "only an external commit")},
		{"no proposal of an unknown type", []CommittedProposal{value(alice, Proposal{Type: 0x1234})}, rule("12.2", "known")},
		{"one reference to a proposal", []CommittedProposal{custom, custom}, rule("12.2", "refers to a proposal once")},
		{"a self_remove is by reference", []CommittedProposal{value(alice, Proposal{Type: ProposalSelfRemove})}, rule("12.2", "by reference")},
	})
	t.Run("no Add of a member unless it is removed", func(t *testing.T) {
		w.bothTake(t, bob, w.lawless(t, alice, value(alice, remove(carol)), value(alice, carolAgain)))
	})
	t.Run("no proposal type that a member does not support", func(t *testing.T) {
		w, alice, bob, _ := threeWorld(t)
		narrow := packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.capabilities.Proposals = []ProposalType{ProposalSelfRemove} })
		w.clients["dave"] = narrow
		p := Proposal{Type: testProposal, Body: []byte("x")}
		w.commit(alice, CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: narrow.kp}, p}}) // who is added need not
		w.oneProposal(t, alice, bob, p, rule("12.2", "all members support"))
		w.commit(alice, CommitOptions{Proposals: append(w.removes([]string{"dave"}), p)}) // who is removed need not
	})
	t.Run("the tree after the commit is valid", func(t *testing.T) {
		c := packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.encryptionKey = bob.group.OwnLeaf().encryptionKey })
		p := Proposal{Type: ProposalAdd, KeyPackage: c.kp}
		w.bothRefuse(t, bob, w.lawless(t, alice, value(alice, p)), rule("7.3", "encryption keys are unique"))
	})
	t.Run("of several a commit takes a removal, else the last Update", func(t *testing.T) {
		staged := must(alice.group.Commit(CommitOptions{Skip: func(p *CommittedProposal) bool { return p.Type == ProposalSelfRemove }}))(t)
		updates := 0
		for _, p := range staged.Change.Proposals {
			if p.Type == ProposalUpdate {
				updates++
				wantBytes(t, "Update", p.Ref, bobUpdate2.Ref)
			}
		}
		if updates != 1 {
			t.Errorf("%d Updates", updates)
		}
		staged = must(alice.group.Commit(CommitOptions{}))(t)
		for _, p := range staged.Change.Proposals {
			if p.Type == ProposalUpdate {
				t.Error("an Update of who leaves")
			}
		}
		if len(staged.Change.Removed) != 2 {
			t.Errorf("%d removed", len(staged.Change.Removed))
		}
	})
	t.Run("an application adds rules of its own", func(t *testing.T) {
		w.rules.CheckCommit = func(c *Change) error {
			if len(c.Added) > 0 && c.Sender.Leaf != 1 {
				return errTestRule
			}
			return nil
		}
		w.bothRefuse(t, bob, w.lawless(t, alice, value(alice, dave)), failure(errTestRule))
		if _, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{dave}, NoPending: true}); !errors.Is(err, errTestRule) {
			t.Errorf("committer: %v", err)
		}
		if _, err := bob.group.Commit(CommitOptions{Proposals: []Proposal{dave}, NoPending: true}); err != nil {
			t.Errorf("who may: %v", err)
		}
	})
}

func TestRFC9420_12_2_External(t *testing.T) {
	w, alice, bob, carol := threeWorld(t)
	w.clients["dave"] = newClient(t, "dave")
	w.commit(alice, CommitOptions{}) // so that w.info is alice's
	dave := w.client("dave")
	joiner := Sender{Type: SenderNewMemberCommit}
	by := func(p Proposal) CommittedProposal { return CommittedProposal{Proposal: p, Sender: joiner} }
	init := func() CommittedProposal { return by(Proposal{Type: ProposalExternalInit}) }
	remove := func(c *client) CommittedProposal {
		return by(Proposal{Type: ProposalRemove, Removed: c.group.OwnIndex()})
	}
	psk := by(Proposal{Type: ProposalPSK, PSK: &PSKID{ID: []byte("known"), Nonce: make([]byte, 32)}})
	custom := w.sent(t, bob, Proposal{Type: testProposal, Body: []byte("x")})
	leave := w.sent(t, bob, Proposal{Type: ProposalSelfRemove})
	update := w.sent(t, bob, Proposal{Type: ProposalUpdate})
	for _, c := range []listTest{
		{"there is an ExternalInit", []CommittedProposal{psk}, rule("12.2", "exactly one ExternalInit")},
		{"there is one ExternalInit", []CommittedProposal{init(), init()}, rule("12.2", "exactly one ExternalInit")},
		{"there is at most one Remove", []CommittedProposal{init(), remove(alice), remove(carol)}, rule("12.2", "at most one Remove")},
		{"there is no Add", []CommittedProposal{init(), by(Proposal{Type: ProposalAdd, KeyPackage: newClient(t, "erin").kp})}, rule("12.2", "no other proposals")},
		{"there is no Update", []CommittedProposal{init(), by(leafOf(t, bob, func(*LeafNode) {}))}, rule("12.2", "no other proposals")},
		{"there is no GroupContextExtensions", []CommittedProposal{init(), by(Proposal{Type: ProposalGroupContextExtensions})}, rule("12.2", "no other proposals")},
		{"there is no ReInit", []CommittedProposal{init(), by(Proposal{Type: ProposalReInit, ReInit: &ReInit{Version: 1, Suite: 1}})}, rule("12.2", "stands alone")},
		{"there is no custom type that is not for it", []CommittedProposal{init(), by(Proposal{Type: testNeedsPath})}, rule("12.2", "does not stand in an external commit")},
		{"there is no unknown type", []CommittedProposal{init(), by(Proposal{Type: 0x1234})}, rule("12.2", "known")},
		{"there is no custom proposal by reference", []CommittedProposal{init(), custom}, rule("12.4.3.2", "refers to no proposal")},
		{"there is no Update by reference", []CommittedProposal{init(), update}, rule("12.4.3.2", "refers to no proposal")},
		{"there is no self_remove and Remove of one leaf", []CommittedProposal{init(), remove(bob), leave}, rule("12.2", "at most one Update or Remove")},
	} {
		t.Run(c.name, func(t *testing.T) { w.bothRefuse(t, alice, w.lawlessJoin(t, dave, c.list...), c.want) })
	}
	t.Run("the rest may be there", func(t *testing.T) {
		w.bothTake(t, alice, w.lawlessJoin(t, dave, psk, init(), by(Proposal{Type: testProposal}), leave))
	})
	t.Run("the new leaf is fit to follow the removed one", func(t *testing.T) {
		// Another credential than the removed leaf's.
		w.bothRefuse(t, alice, w.lawlessJoin(t, dave, init(), remove(carol)), failure(errTestRule))
		// The removed leaf's encryption key.
		old, index := carol.group.OwnLeaf(), carol.group.OwnIndex()
		again := &client{name: "carol", kp: carol.kp, secrets: carol.secrets}
		again.renew(t)
		staged := w.external(again, func(cfg *ExternalJoinConfig) { cfg.Resync, cfg.OldLeaf, cfg.Pending = true, index, nil })
		msg := w.forgedJoin(t, again, staged, func(ac *authenticatedContent) { ac.content.commit.path.leaf.encryptionKey = old.EncryptionKey() })
		w.bothRefuse(t, alice, msg, rule("12.2", "fresh encryption key"))
		w.bothTake(t, alice, w.forgedJoin(t, again, staged, func(*authenticatedContent) {}))
	})
}

func TestRFC9420_12_3(t *testing.T) {
	w, alice, bob, carol := threeWorld(t)
	t.Run("new group extensions hold for the other proposals of the list", func(t *testing.T) {
		c := packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.capabilities.Proposals = []ProposalType{testNeedsPath} })
		add := Proposal{Type: ProposalAdd, KeyPackage: c.kp}
		gce := Proposal{Type: ProposalGroupContextExtensions, Extensions: []Extension{
			{ExtensionRequiredCapabilities, marshal(&requiredCapabilities{proposals: []ProposalType{testProposal}})},
		}}
		for _, list := range [][]Proposal{{gce, add}, {add, gce}} {
			want := rule("7.3", "required capabilities")
			w.bothRefuse(t, bob, w.lawless(t, alice, value(alice, list[0]), value(alice, list[1])), want)
			_, err := alice.group.Commit(CommitOptions{Proposals: list, NoPending: true})
			want.check(t, "committer", err)
		}
		w.bothTake(t, bob, w.lawless(t, alice, value(alice, add)))
	})
	t.Run("old group extensions hold no more", func(t *testing.T) {
		c := packageOf(t, "dave", func(kp *KeyPackage) { kp.leaf.capabilities.Extensions = []ExtensionType{testLeafExtension} })
		add := Proposal{Type: ProposalAdd, KeyPackage: c.kp}
		w.bothRefuse(t, bob, w.lawless(t, alice, value(alice, add)), rule("13.4", "supports the extensions"))
		w.bothTake(t, bob, w.lawless(t, alice, value(alice, add), value(alice, Proposal{Type: ProposalGroupContextExtensions})))
	})
	t.Run("removals go before Adds, and Updates before both", func(t *testing.T) {
		update := w.sent(t, bob, Proposal{Type: ProposalUpdate})
		erin := Proposal{Type: ProposalAdd, KeyPackage: newClient(t, "erin").kp}
		remove := Proposal{Type: ProposalRemove, Removed: carol.group.OwnIndex()}
		tr, err := w.server.begin([]CommittedProposal{value(alice, erin), value(alice, remove), update}, alice.group.s.self(), noTime)
		if err != nil {
			t.Fatal(err)
		}
		if got := tr.change.Added[0].Index; got != carol.group.OwnIndex() {
			t.Errorf("the newcomer is at %d, not in the place that was left", got)
		}
		if !tr.tree.leaf(1).equal(update.Leaf) {
			t.Error("the Update is not there")
		}
	})
	t.Run("Adds go in the order of the list", func(t *testing.T) {
		list := w.adds([]string{"frank", "grace", "heidi"})
		staged := must(alice.group.Commit(CommitOptions{Proposals: list, NoPending: true}))(t)
		for i, m := range staged.Change.Added {
			if m.Index != uint32(3+i) || !m.Leaf.equal(list[i].KeyPackage.Leaf()) {
				t.Errorf("newcomer %d is at %d", i, m.Index)
			}
		}
	})
}
