package mls

import (
	"errors"
	"strings"
	"testing"
)

// wantRule checks for a RuleError of a section whose rule holds the text.
func wantRule(t *testing.T, err error, section, text string) {
	t.Helper()
	rule, ok := errors.AsType[*RuleError](err)
	if !ok || rule.Section != section || !strings.Contains(rule.Rule, text) || !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v, want §%s: %s", err, section, text)
	}
}

// listCase is a list of proposals with the rule that it breaks; an empty section means none.
type listCase struct {
	list          []CommittedProposal
	section, text string
}

// checkLists runs lists through begin, which is what both a committer's and a receiver's checks are made of.
func checkLists(t *testing.T, g *PublicGroup, committer Sender, cases map[string]listCase) {
	t.Helper()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			before := g.Marshal()
			tr, err := g.begin(c.list, committer, noTime)
			if err == nil {
				err = tr.validate()
			}
			wantBytes(t, "group", g.Marshal(), before)
			if c.section == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantRule(t, err, c.section, c.text)
		})
	}
}

func byValue(sender Sender, ps ...Proposal) []CommittedProposal {
	var out []CommittedProposal
	for _, p := range ps {
		out = append(out, CommittedProposal{Proposal: p, Sender: sender})
	}
	return out
}

func byRef(sender Sender, ref byte, p Proposal) CommittedProposal {
	return CommittedProposal{Proposal: p, Sender: sender, ByReference: true, Ref: []byte{ref}}
}

func joined(lists ...[]CommittedProposal) []CommittedProposal {
	var out []CommittedProposal
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// TestMemberLists has a case for each rule of RFC 9420 §12.2 on commits by members.
func TestMemberLists(t *testing.T) {
	w, alice, bob, carol := threeWorld(t)
	a, b, c := alice.group.s.self(), bob.group.s.self(), carol.group.s.self()
	add := func(name string) Proposal { return Proposal{Type: ProposalAdd, KeyPackage: newClient(t, name).kp} }
	update := func(x *client) Proposal {
		leaf, _, err := x.group.s.updatedLeaf(nil)
		if err != nil {
			t.Fatal(err)
		}
		return Proposal{Type: ProposalUpdate, Leaf: leaf}
	}
	remove := func(i uint32) Proposal { return Proposal{Type: ProposalRemove, Removed: i} }
	gce := Proposal{Type: ProposalGroupContextExtensions}
	psk := Proposal{Type: ProposalPSK, PSK: &PSKID{ID: []byte("id"), Nonce: make([]byte, 32)}}
	custom := Proposal{Type: testProposal}
	self := Proposal{Type: ProposalSelfRemove}
	dave := add("dave")
	staleLeaf := update(bob)
	staleLeaf.Leaf = bob.group.OwnLeaf().clone()
	staleLeaf.Leaf.source, staleLeaf.Leaf.parentHash = LeafFromUpdate, nil
	carolAgain := add("carol")
	carolAgain.KeyPackage = carol.kp
	foreign := add("dave")
	foreignCopy := *foreign.KeyPackage
	foreignCopy.suite = 0x0003
	foreign.KeyPackage = &foreignCopy
	oldVersion := Proposal{Type: ProposalReInit, ReInit: &ReInit{Version: 0, Suite: suite1}}
	reinit := Proposal{Type: ProposalReInit, ReInit: &ReInit{GroupID: []byte("next"), Version: 1, Suite: suite1}}
	branch := Proposal{Type: ProposalPSK, PSK: &PSKID{Nonce: make([]byte, 32), Usage: PSKBranch}}

	checkLists(t, w.server, a, map[string]listCase{
		"nothing":       {nil, "", ""},
		"all in order":  {joined(byValue(a, custom, add("dave"), add("erin"), psk, remove(2)), []CommittedProposal{byRef(b, 1, update(bob))}), "", ""},
		"self_remove":   {[]CommittedProposal{byRef(b, 1, self)}, "", ""},
		"reinit":        {byValue(a, reinit), "", ""},
		"remove, readd": {byValue(a, remove(c.Leaf), carolAgain), "", ""},

		"self_remove by value":               {byValue(b, self), "12.2", "by reference"},
		"self_remove of the committer":       {[]CommittedProposal{byRef(a, 1, self)}, "12.2", "its committer"},
		"self_remove twice":                  {[]CommittedProposal{byRef(b, 1, self), byRef(b, 2, self)}, "12.2", "at most one Update or Remove"},
		"self_remove and remove":             {joined(byValue(a, remove(1)), []CommittedProposal{byRef(b, 2, self)}), "12.2", "at most one Update or Remove"},
		"own update":                         {byValue(a, update(alice)), "12.2", "Update of its committer"},
		"own update by reference":            {[]CommittedProposal{byRef(a, 1, update(alice))}, "12.2", "Update of its committer"},
		"own removal":                        {byValue(a, remove(0)), "12.2", "does not remove its committer"},
		"remove twice":                       {byValue(a, remove(1), remove(1)), "12.2", "at most one Update or Remove"},
		"update and remove":                  {joined(byValue(a, remove(1)), []CommittedProposal{byRef(b, 1, update(bob))}), "12.2", "at most one Update or Remove"},
		"update twice":                       {[]CommittedProposal{byRef(b, 1, update(bob)), byRef(b, 2, update(bob))}, "12.2", "at most one Update or Remove"},
		"same reference twice":               {[]CommittedProposal{byRef(b, 1, custom), byRef(b, 1, custom)}, "12.2", "refers to a proposal once"},
		"add twice":                          {byValue(a, dave, dave), "7.3", "unique"},
		"add of a member":                    {byValue(a, carolAgain), "7.3", "unique"},
		"add of another suite":               {byValue(a, foreign), "12.1.1", "cipher suite"},
		"psk twice":                          {byValue(a, psk, psk), "12.2", "PreSharedKey"},
		"psk nonce":                          {byValue(a, Proposal{Type: ProposalPSK, PSK: &PSKID{Nonce: []byte{1}}}), "12.1.4", "nonce"},
		"psk of a branch":                    {byValue(a, branch), "12.1.4", "usage application"},
		"two context changes":                {byValue(a, gce, gce), "12.2", "at most one GroupContextExtensions"},
		"reinit with others":                 {byValue(a, reinit, custom), "12.2", "stands alone"},
		"reinit to an older version":         {byValue(a, oldVersion), "12.1.5", "version"},
		"reinit by reference with others":    {append(byValue(a, custom), byRef(b, 1, reinit)), "12.2", "stands alone"},
		"external init":                      {byValue(a, Proposal{Type: ProposalExternalInit, kemOutput: []byte{}}), "12.2", "only an external commit"},
		"external init by nobody":            {[]CommittedProposal{byRef(a, 1, Proposal{Type: ProposalExternalInit})}, "12.2", "only an external commit"},
		"unknown type":                       {byValue(a, Proposal{Type: 0xF0FF}), "12.2", "known"},
		"unknown type by reference":          {[]CommittedProposal{byRef(b, 1, Proposal{Type: 0xF0FF})}, "12.2", "known"},
		"custom type that has no references": {[]CommittedProposal{byRef(b, 1, Proposal{Type: testNeedsPath})}, "12.2", "not sent by reference"},
		"remove of a blank leaf":             {byValue(a, remove(3)), "12.1.3", "occupied"},
		"remove of a leaf outside":           {byValue(a, remove(1<<31+1)), "12.1.3", "occupied"},
		"update with the old key":            {byValue(b, staleLeaf), "12.1.2", "fresh encryption key"},
		"update with a leaf of a KeyPackage": {byValue(b, Proposal{Type: ProposalUpdate, Leaf: dave.KeyPackage.Leaf()}), "7.3", "source update"},
		"add without a KeyPackage":           {byValue(a, Proposal{Type: ProposalAdd}), "12.1", "content"},
		"nothing at all":                     {byValue(a, Proposal{}), "12.2", "known"},
	})
}

// TestExternalLists has a case for each rule of RFC 9420 §12.2 on external commits.
func TestExternalLists(t *testing.T) {
	w, _, bob, _ := threeWorld(t)
	joiner, b := Sender{Type: SenderNewMemberCommit}, bob.group.s.self()
	init := Proposal{Type: ProposalExternalInit, kemOutput: make([]byte, 32)}
	remove := func(i uint32) Proposal { return Proposal{Type: ProposalRemove, Removed: i} }
	self := byRef(b, 1, Proposal{Type: ProposalSelfRemove})
	cases := map[string]listCase{
		"no init":      {byValue(joiner), "12.2", "exactly one ExternalInit"},
		"two inits":    {byValue(joiner, init, init), "12.2", "exactly one ExternalInit"},
		"two removes":  {byValue(joiner, init, remove(0), remove(1)), "12.2", "at most one Remove"},
		"same twice":   {joined(byValue(joiner, init, remove(1)), []CommittedProposal{self}), "12.2", "at most one Update or Remove"},
		"add":          {byValue(joiner, init, Proposal{Type: ProposalAdd, KeyPackage: newClient(t, "dave").kp}), "12.2", "no other proposals"},
		"context":      {byValue(joiner, init, Proposal{Type: ProposalGroupContextExtensions}), "12.2", "no other proposals"},
		"reinit":       {byValue(joiner, Proposal{Type: ProposalReInit, ReInit: new(ReInit)}, init), "12.2", "stands alone"},
		"custom":       {byValue(joiner, init, Proposal{Type: testNeedsPath}), "12.2", "does not stand in an external commit"},
		"by reference": {joined(byValue(joiner, init), []CommittedProposal{byRef(b, 1, Proposal{Type: ProposalRemove})}), "12.4.3.2", "refers to no proposal"},
	}
	checkLists(t, w.server, joiner, cases)
	for name, list := range map[string][]CommittedProposal{
		"bare":        byValue(joiner, init),
		"resync":      byValue(joiner, init, remove(1)),
		"self_remove": joined(byValue(joiner, init), []CommittedProposal{self}),
		"both":        joined(byValue(joiner, init, remove(2)), []CommittedProposal{self}),
		"custom":      byValue(joiner, init, Proposal{Type: testProposal}),
	} {
		if _, err := w.server.begin(list, joiner, noTime); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestProposalTypesMustBeSupported checks that those who stay support a custom type, and those who go need not.
func TestProposalTypesMustBeSupported(t *testing.T) {
	w := newWorld(t)
	w.run("alice: creates\nalice: adds bob")
	narrow := keyPackageConfigOf(t, "carol")
	narrow.Capabilities.Proposals = []ProposalType{ProposalSelfRemove}
	carol := &client{name: "carol"}
	var err error
	if carol.kp, carol.secrets, err = NewKeyPackage(narrow); err != nil {
		t.Fatal(err)
	}
	w.clients["carol"] = carol
	alice := w.client("alice")
	custom := Proposal{Type: testProposal, Body: []byte("x")}
	// Whoever is being added need not support the types of the commit that adds it.
	w.commit(alice, CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: carol.kp}, custom}})
	_, err = alice.group.Commit(CommitOptions{Proposals: []Proposal{custom}})
	wantRule(t, err, "12.2", "all members support")
	_, err = alice.group.Propose(custom, ProposeOptions{})
	wantRule(t, err, "12.2", "all members support")
	w.commit(alice, CommitOptions{Proposals: append(w.removes([]string{"carol"}), custom)})
}

func TestCustomProposals(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	change := w.commit(alice, CommitOptions{Proposals: []Proposal{{Type: testProposal, Body: []byte("some body")}}})
	if change.HasPath || string(change.Proposals[0].Body) != "some body" || change.Proposals[0].ByReference {
		t.Errorf("change: %+v", change.Proposals)
	}
	if change := w.commit(alice, CommitOptions{Proposals: []Proposal{{Type: testNeedsPath}}}); !change.HasPath {
		t.Error("no path for a type that needs one")
	}
	w.propose(bob, Proposal{Type: testProposal, Body: []byte("by reference")})
	change = w.commit(alice, CommitOptions{Proposals: w.adds([]string{"dave"})})
	if len(change.Proposals) != 2 || !change.Proposals[1].ByReference || change.Proposals[1].Sender != bob.group.s.self() {
		t.Errorf("change: %+v", change.Proposals)
	}
	erin := newClient(t, "erin")
	w.clients["erin"] = erin
	w.accept(erin, w.external(erin, func(cfg *ExternalJoinConfig) {
		cfg.Proposals = []Proposal{{Type: testProposal, Body: []byte("of a joiner")}}
	}))
	// Without a rule for its type, nobody takes it; parsing keeps it.
	staged := w.stage(alice, CommitOptions{Proposals: []Proposal{{Type: testProposal, Body: []byte("unknown to some")}}})
	wantBytes(t, "round trip", must(parseMLSMessage(staged.Message))(t).marshal(), staged.Message)
	plain := must(ParseGroup(bob.group.Marshal(), nil))(t)
	_, err := plain.Process(staged.Message, ProcessOptions{})
	wantRule(t, err, "12.2", "known")
	_, err = must(ParsePublicGroup(w.server.Marshal(), &Rules{}))(t).StageCommit(staged.Message, noTime)
	wantRule(t, err, "12.2", "known")
}

func TestRules(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	if _, err := alice.group.Commit(CommitOptions{AuthenticatedData: []byte("refuse")}); !errors.Is(err, errTestRule) {
		t.Errorf("own commit: %v", err)
	}
	lax := must(ParseGroup(alice.group.Marshal(), nil))(t)
	refused := must(lax.Commit(CommitOptions{AuthenticatedData: []byte("refuse")}))(t)
	wantUnchanged(t, bob, refused.Message, errTestRule)
	if _, err := w.server.StageCommit(refused.Message, noTime); !errors.Is(err, errTestRule) {
		t.Errorf("server: %v", err)
	}
	// CheckLeaf sees leaves that come by Add, Update and path.
	cfg := keyPackageConfigOf(t, "dave")
	cfg.LeafExtensions = nil
	kp, _, err := NewKeyPackage(cfg)
	if err != nil {
		t.Fatal(err)
	}
	add := Proposal{Type: ProposalAdd, KeyPackage: kp}
	if _, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{add}}); !errors.Is(err, errTestRule) {
		t.Errorf("added leaf: %v", err)
	}
	if _, err := alice.group.Propose(add, ProposeOptions{}); !errors.Is(err, errTestRule) {
		t.Errorf("proposed leaf: %v", err)
	}
	bare := must(lax.Commit(CommitOptions{NewLeaf: &LeafChange{Extensions: []Extension{}}}))(t)
	wantUnchanged(t, bob, bare.Message, errTestRule)
	added := must(lax.Commit(CommitOptions{Proposals: []Proposal{add}}))(t)
	if _, err := NewPublicGroup(added.GroupInfo, added.Change.After.Tree(), w.rules); !errors.Is(err, errTestRule) {
		t.Errorf("a tree with a bad leaf: %v", err)
	}
	// CheckProposal.
	rules := testRules()
	rules.CheckProposal = func(_ *PublicGroup, sender Sender, p Proposal) error {
		if sender.Leaf == 0 && string(p.Body) == "refuse" {
			return errTestRule
		}
		return nil
	}
	strict := must(ParsePublicGroup(w.server.Marshal(), rules))(t)
	for body, want := range map[string]error{"refuse": errTestRule, "take": nil} {
		msg := must(alice.group.Propose(Proposal{Type: testProposal, Body: []byte(body)}, ProposeOptions{}))(t)
		if _, _, err := strict.AddProposal(msg, noTime); !errors.Is(err, want) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func keyPackageConfigOf(t testing.TB, name string) KeyPackageConfig {
	return KeyPackageConfig{
		Suite: suite1, Credential: Credential{testCredential, []byte(name)}, SignatureKey: must(suite1.GenerateSignatureKey())(t),
		Capabilities: testCapabilities, Lifetime: Lifetime{1, 1 << 40}, LeafExtensions: []Extension{{Type: testLeafExtension}},
	}
}
