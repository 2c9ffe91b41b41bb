package mls

import (
	"bytes"
	"errors"
	"testing"
)

// hubWorld is threeWorld with a group that lists two external senders; the key is the second one's.
func hubWorld(t testing.TB) (w *world, hub SignatureKey) {
	t.Helper()
	w, alice, _, _ := threeWorld(t)
	hub = must(suite1.GenerateSignatureKey())(t)
	senders := []ExternalSender{
		{must(suite1.GenerateSignatureKey())(t).Public(), Credential{CredentialBasic, []byte("another hub")}},
		{hub.Public(), Credential{CredentialBasic, []byte("hub")}},
	}
	w.commit(alice, CommitOptions{Proposals: []Proposal{{Type: ProposalGroupContextExtensions, Extensions: []Extension{
		{testGroupExtension, []byte("policy")}, ExternalSendersExtension(senders...),
	}}}})
	return w, hub
}

func TestExternalSenders(t *testing.T) {
	w, hub := hubWorld(t)
	got := w.server.ExternalSenders()
	if len(got) != 2 || !bytes.Equal(got[1].SignatureKey, hub.Public()) || string(got[1].Credential.Body) != "hub" {
		t.Errorf("got %+v", got)
	}
	again := must(ParseExternalSender(got[1].Marshal()))(t)
	wantBytes(t, "round trip", again.Marshal(), got[1].Marshal())
	_, err := ParseExternalSender(append(again.Marshal(), 0))
	wantErr(t, err, ErrMalformed)
	plain, _, _, _ := threeWorld(t)
	if plain.server.ExternalSenders() != nil {
		t.Error("senders of a group that has none")
	}
	for name, data := range map[string][]byte{"malformed": {1}, "too many": ExternalSendersExtension(make([]ExternalSender, maxExternalSenders+1)...).Data} {
		_, err := w.client("alice").group.Propose(Proposal{Type: ProposalGroupContextExtensions, Extensions: []Extension{{ExtensionExternalSenders, data}}}, ProposeOptions{})
		t.Run(name, func(t *testing.T) { wantErr(t, err, ErrMalformed) })
	}
}

// TestExternalProposals commits each kind of proposal that an external sender may make.
func TestExternalProposals(t *testing.T) {
	for name, op := range operations() {
		switch name {
		case "update", "self_remove", "custom":
			continue
		}
		for _, private := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				w, hub := hubWorld(t)
				alice := w.client("alice")
				p := op.proposal(w)
				w.outside(must(w.server.ExternalProposal(hub, p, []byte("aad")))(t))
				staged := w.stage(alice, CommitOptions{PSK: testPSK, Private: private})
				if got := staged.Change.Proposals; len(got) != 1 || got[0].Sender != (Sender{SenderExternal, 1}) || got[0].Type != p.Type {
					t.Fatalf("committed %+v", got)
				}
				if private {
					w.acceptPrivate(alice, staged)
				} else {
					w.accept(alice, staged)
				}
				if !op.check(w, staged.Change) {
					t.Errorf("change: %+v", staged.Change)
				}
			})
		}
	}
}

// TestExternalProposalRules breaks the rules of RFC 9420 §12.1.8 on the sender's side. TestOutsideProposals breaks them on the receiver's.
func TestExternalProposalRules(t *testing.T) {
	w, hub := hubWorld(t)
	plain, _, _, _ := threeWorld(t)
	leaf, _ := w.server.Member(1)
	remove := Proposal{Type: ProposalRemove, Removed: 1}
	stranger := must(suite1.GenerateSignatureKey())(t)
	foreign := newClient(t, "dave").kp
	foreignCopy := *foreign
	foreignCopy.suite = 2
	ended, endedHub := hubWorld(t)
	ended.commit(ended.client("alice"), CommitOptions{Proposals: []Proposal{nextReInit(suite1)}})
	for name, c := range map[string]struct {
		group         *PublicGroup
		key           SignatureKey
		p             Proposal
		section, text string
	}{
		"12.1.8/not listed":         {w.server, stranger, remove, "12.1.8", "listed"},
		"12.1.8/no external_sender": {plain.server, hub, remove, "12.1.8", "listed"},
		"12.1.8/update":             {w.server, hub, Proposal{Type: ProposalUpdate, Leaf: leaf}, "12.1.8", "kind of sender"},
		"12.1.8/external_init":      {w.server, hub, Proposal{Type: ProposalExternalInit, kemOutput: []byte{1}}, "12.1.8", "kind of sender"},
		"12.1.8/self_remove":        {w.server, hub, Proposal{Type: ProposalSelfRemove}, "12.1.8", "kind of sender"},
		"12.1.8/custom":             {w.server, hub, Proposal{Type: testProposal}, "12.1.8", "kind of sender"},
		"12.1/without content":      {w.server, hub, Proposal{Type: ProposalAdd}, "12.1", "content"},
		"12.1.1/suite":              {w.server, hub, Proposal{Type: ProposalAdd, KeyPackage: &foreignCopy}, "12.1.1", "suite"},
		"12.1.3/blank":              {w.server, hub, Proposal{Type: ProposalRemove, Removed: 3}, "12.1.3", "occupied"},
		"12.1.4/usage":              {w.server, hub, Proposal{Type: ProposalPSK, PSK: &PSKID{Usage: PSKReInit}}, "12.1.4", "usage application"},
		"12.1.5/version":            {w.server, hub, Proposal{Type: ProposalReInit, ReInit: &ReInit{Version: 2, Suite: suite1}}, "", ""},
		"12.4.2/ended":              {ended.server, endedHub, remove, "12.4.2", "sends no more messages"},
		"13.5/GREASE":               {w.server, hub, Proposal{Type: 0x1A1A}, "13.5", "GREASE"},
		"13.5/GREASE in a ReInit":   {w.server, hub, Proposal{Type: ProposalReInit, ReInit: &ReInit{Suite: suite1, Extensions: []Extension{{Type: 0x1A1A}}}}, "13.5", "GREASE"},
	} {
		t.Run(name, func(t *testing.T) {
			before := c.group.Marshal()
			_, err := c.group.ExternalProposal(c.key, c.p, nil)
			if c.section == "" {
				wantErr(t, err, ErrUnsupported)
			} else {
				wantRule(t, err, c.section, c.text)
			}
			wantBytes(t, "group", c.group.Marshal(), before)
		})
	}
	_, err := w.server.ExternalProposal(SignatureKey{}, remove, nil)
	wantErr(t, err, ErrUnsupported)
}

// TestNewMemberAdd lets a client ask to be added, of which it knows no more than a GroupInfo without a tree.
func TestNewMemberAdd(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	dave := newClient(t, "dave")
	w.clients["dave"] = dave
	info := must(ParseGroupInfo(w.info))(t)
	msg := must(info.NewMemberAdd(dave.kp, dave.secrets, []byte("please")))(t)
	if header := must(Peek(msg))(t); header.WireFormat != 1 || header.Sender.Type != SenderNewMemberProposal || header.Epoch != w.server.Epoch() {
		t.Errorf("header: %+v", header)
	}

	// Those whose application does not let clients propose themselves take it from nobody.
	strict := testRules()
	strict.NewMemberProposals = false
	for _, rules := range []*Rules{strict, nil} {
		_, _, err := must(ParsePublicGroup(w.server.Marshal(), rules))(t).AddProposal(msg, noTime)
		wantRule(t, err, "12.1.8", "lets clients propose themselves")
		_, err = must(ParseGroup(bob.group.Marshal(), rules))(t).Process(msg, ProcessOptions{})
		wantRule(t, err, "12.1.8", "lets clients propose themselves")
	}
	// Nor those whose application refuses this one.
	strict = testRules()
	strict.CheckProposal = func(_ *PublicGroup, sender Sender, p Proposal) error {
		if sender.Type == SenderNewMemberProposal && string(p.KeyPackage.Leaf().Credential().Body) == "dave" {
			return errTestRule
		}
		return nil
	}
	_, _, err := must(ParsePublicGroup(w.server.Marshal(), strict))(t).AddProposal(msg, noTime)
	wantErr(t, err, errTestRule)

	w.outside(msg)
	change := w.commit(alice, CommitOptions{})
	if len(change.Added) != 1 || change.Proposals[0].Sender.Type != SenderNewMemberProposal || dave.group == nil {
		t.Errorf("change: %+v", change.Proposals)
	}
	w.run("dave: says hello")
	_, _, err = w.server.AddProposal(msg, noTime)
	wantErr(t, err, ErrStaleEpoch)
}

func TestNewMemberAddRules(t *testing.T) {
	w, alice, _, _ := threeWorld(t)
	required := marshal(&requiredCapabilities{proposals: []ProposalType{testProposal}})
	w.commit(alice, CommitOptions{Proposals: []Proposal{{Type: ProposalGroupContextExtensions, Extensions: []Extension{{ExtensionRequiredCapabilities, required}}}}})
	info := must(ParseGroupInfo(w.info))(t)
	dave, erin, frank := newClient(t, "dave"), newClient(t, "erin"), newClient(t, "frank")
	foreign := *dave.kp
	foreign.suite = 2
	for name, c := range map[string]struct {
		kp            *KeyPackage
		secrets       *KeyPackageSecrets
		section, text string
	}{
		"10/secrets of another": {dave.kp, erin.secrets, "10", "secrets"},
		"10/nothing":            {nil, nil, "10", "secrets"},
		"7.3/capabilities": {func() *KeyPackage {
			frank.adapt = func(cfg *KeyPackageConfig) { cfg.Capabilities.Proposals = nil }
			frank.renew(t)
			return frank.kp
		}(), frank.secrets, "7.3", "required capabilities"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := info.NewMemberAdd(c.kp, c.secrets, nil)
			wantRule(t, err, c.section, c.text)
		})
	}
	_, err := info.NewMemberAdd(&foreign, dave.secrets, nil)
	if err == nil {
		t.Error("a KeyPackage of another suite")
	}
	_, err = (&GroupInfo{GroupContext: []byte{1}}).NewMemberAdd(dave.kp, dave.secrets, nil)
	wantErr(t, err, ErrMalformed)
	other := must(ParseGroupInfo(w.info))(t)
	other.GroupContext = bytes.Clone(other.GroupContext)
	other.GroupContext[3] = 2 // the suite
	_, err = other.NewMemberAdd(dave.kp, dave.secrets, nil)
	wantRule(t, err, "12.1.1", "suite")
}

// TestOneIdentityOneClient holds a group to the application's word on who is who, RFC 9420 §12.2.
func TestOneIdentityOneClient(t *testing.T) {
	w := newWorld(t)
	w.rules.Identity = func(l *LeafNode) string { return string(l.Credential().Body) }
	w.run("alice: creates\nalice: adds bob carol\nbob: updates")
	alice, bob := w.client("alice"), w.client("bob")
	twin := func(name string) Proposal { return Proposal{Type: ProposalAdd, KeyPackage: newClient(t, name).kp} }
	commit := func(ps ...Proposal) error {
		_, err := alice.group.Commit(CommitOptions{Proposals: ps})
		return err
	}
	wantRule(t, commit(twin("bob")), "12.2", "in a group once")
	wantRule(t, commit(twin("dave"), twin("dave")), "12.2", "in a group once")
	if err := commit(append(w.removes([]string{"bob"}), twin("bob"))...); err != nil {
		t.Errorf("removed and added again: %v", err)
	}
	// Members and the server judge the commit of one that does not know.
	lax := must(ParseGroup(alice.group.Marshal(), nil))(t)
	bad := must(lax.Commit(CommitOptions{Proposals: []Proposal{twin("bob")}}))(t)
	wantUnchanged(t, bob, bad.Message, ErrInvalid)
	_, err := w.server.StageCommit(bad.Message, w.now)
	wantRule(t, err, "12.2", "in a group once")
	// The same for one who joins from outside.
	other := newClient(t, "bob")
	_, err = JoinExternal(ExternalJoinConfig{GroupInfo: w.info, Tree: w.server.Tree(), KeyPackage: other.kp, Secrets: other.secrets, Rules: w.rules})
	wantRule(t, err, "12.2", "in a group once")
	// A pending Add of who is there already is left out, by whoever commits.
	w.propose(bob, twin("carol"))
	if change := w.commit(alice, CommitOptions{}); len(change.Proposals) != 0 {
		t.Errorf("committed %+v", change.Proposals)
	}
	// An Update that takes another's name, of an application that lets it.
	lenient := *w.rules
	lenient.CheckLeaf = nil
	bobs := must(ParseGroup(bob.group.Marshal(), &lenient))(t)
	alices := must(ParseGroup(alice.group.Marshal(), &lenient))(t)
	carol := Credential{testCredential, []byte("carol")}
	msg := must(bobs.Propose(Proposal{Type: ProposalUpdate}, ProposeOptions{NewLeaf: &LeafChange{Credential: &carol}}))(t)
	must(alices.Process(msg, ProcessOptions{}))(t)
	staged, err := alices.Commit(CommitOptions{})
	if err != nil || len(staged.Change.Proposals) != 0 {
		t.Errorf("the Update was committed: %v", err)
	}
	_, err = bobs.Commit(CommitOptions{NewLeaf: &LeafChange{Credential: &carol}})
	wantRule(t, err, "12.2", "in a group once")
	if errors.Is(err, errTestRule) {
		t.Error("the wrong rule")
	}
	w.run("bob: resyncs\nbob: says hello")
}
