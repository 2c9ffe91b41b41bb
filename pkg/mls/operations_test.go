package mls

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

// operation is one kind of proposal, with what it must have done once committed.
type operation struct {
	proposal   func(w *world) Proposal
	path       bool // needs a path
	publicOnly bool
	refOnly    bool
	check      func(w *world, c *Change) bool
}

// operations are all kinds of proposals that bob, a member, can make.
func operations() map[string]operation {
	policy := []Extension{{testGroupExtension, []byte("another policy")}}
	return map[string]operation{
		"add": {
			proposal: func(w *world) Proposal { return w.adds([]string{"dave"})[0] },
			check:    func(w *world, c *Change) bool { return len(c.Added) == 1 && w.client("dave").group != nil },
		},
		"update": {
			proposal: func(*world) Proposal { return Proposal{Type: ProposalUpdate} }, path: true, refOnly: true,
			check: func(w *world, c *Change) bool { return len(c.Updated) == 2 && c.Updated[0].Index == 1 },
		},
		"remove": {
			proposal: func(w *world) Proposal { return w.removes([]string{"carol"})[0] }, path: true,
			check: func(w *world, c *Change) bool { return len(c.Removed) == 1 && w.client("carol").group == nil },
		},
		"external psk": {
			proposal: func(*world) Proposal { return Proposal{Type: ProposalPSK, PSK: &PSKID{ID: []byte("known")}} },
			check:    func(w *world, c *Change) bool { return len(c.Proposals) == 1 },
		},
		"resumption psk": {
			proposal: func(w *world) Proposal {
				return Proposal{Type: ProposalPSK, PSK: &PSKID{Usage: PSKApplication, GroupID: w.server.GroupID(), Epoch: w.server.Epoch()}}
			},
			check: func(w *world, c *Change) bool { return len(c.Proposals) == 1 && c.Proposals[0].PSK.Epoch == c.Epoch-1 },
		},
		"reinit": {
			proposal: func(*world) Proposal { return nextReInit(suite1) },
			check:    func(w *world, c *Change) bool { return string(w.server.ReInit().GroupID) == "next" },
		},
		"group context extensions": {
			proposal: func(*world) Proposal { return Proposal{Type: ProposalGroupContextExtensions, Extensions: policy} }, path: true,
			check: func(w *world, c *Change) bool { return sameExtensions(w.server.Extensions(), policy) },
		},
		"self_remove": {
			proposal: func(*world) Proposal { return Proposal{Type: ProposalSelfRemove} }, path: true, refOnly: true, publicOnly: true,
			check: func(w *world, c *Change) bool { return len(c.Removed) == 1 && w.client("bob").group == nil },
		},
		"custom": {
			proposal: func(*world) Proposal { return Proposal{Type: testProposal, Body: []byte("body")} },
			check:    func(w *world, c *Change) bool { return string(c.Proposals[0].Body) == "body" },
		},
	}
}

// TestOperations commits each kind of proposal by value and by reference, as PublicMessage and as PrivateMessage, with padding and without, with a
// path and without: every member follows, and a server where it can.
func TestOperations(t *testing.T) {
	for name, op := range operations() {
		for bits := range 16 {
			byReference, privateProposal, privateCommit, path := bits&1 != 0, bits&2 != 0, bits&4 != 0, bits&8 != 0
			if !byReference && (op.refOnly || privateProposal) || op.publicOnly && privateProposal {
				continue
			}
			t.Run(fmt.Sprintf("%s/by reference=%t, private=%t %t, path=%t", name, byReference, privateProposal, privateCommit, path), func(t *testing.T) {
				w, alice, bob, _ := threeWorld(t)
				opts := CommitOptions{Private: privateCommit, Path: path, PadTo: padTo1000, PSK: testPSK}
				if p := op.proposal(w); !byReference {
					opts.Proposals = []Proposal{p}
				} else if privateProposal {
					w.proposePrivate(bob, p)
				} else {
					w.propose(bob, p)
				}
				staged := w.stage(alice, opts)
				if privateCommit && len(staged.Message) < 1000 {
					t.Error("no padding")
				}
				if len(staged.Change.Proposals) != 1 || staged.Change.Proposals[0].ByReference != byReference || staged.Change.HasPath != (path || op.path) {
					t.Fatalf("committed %+v", staged.Change.Proposals)
				}
				switch {
				case privateCommit:
					w.acceptPrivate(alice, staged)
				case privateProposal: // which a server has not seen
					w.acceptPrivate(alice, staged)
				default:
					w.accept(alice, staged)
				}
				if !op.check(w, staged.Change) {
					t.Errorf("change: %+v", staged.Change)
				}
				if w.server.ReInit() == nil {
					w.run("alice: says hello")
				}
			})
		}
	}
}

func padTo1000(n int) int { return max(n, 1000) }

// proposePrivate is propose as PrivateMessage.
func (w *world) proposePrivate(c *client, p Proposal) {
	w.t.Helper()
	msg := must(c.group.Propose(p, ProposeOptions{Private: true, PadTo: padTo1000}))(w.t)
	if info := must(Peek(msg))(w.t); info.WireFormat != 2 || info.ContentType != 2 || len(msg) < 1000 {
		w.t.Fatalf("not a padded PrivateMessage: %+v", info)
	}
	for _, m := range w.members() {
		if m == c {
			continue
		}
		if got, err := m.group.Process(msg, ProcessOptions{Now: w.now}); err != nil || got.Proposal == nil {
			w.t.Fatalf("%s takes a proposal: %v", m.name, err)
		}
		before := m.group.Marshal()
		if _, err := m.group.Process(msg, ProcessOptions{}); err != ErrReplayed || !bytes.Equal(before, m.group.Marshal()) {
			w.t.Fatalf("the same proposal again: %v", err)
		}
	}
	w.server = c.group.Public()
	w.check()
}

// TestEverythingAtOnce commits proposals of all kinds that go together, some by value and some by reference, of all kinds of senders.
func TestEverythingAtOnce(t *testing.T) {
	w, alice, bob, carol := threeWorld(t)
	hub := must(suite1.GenerateSignatureKey())(t)
	w.commit(alice, CommitOptions{Proposals: append(w.adds([]string{"dave", "erin"}), Proposal{Type: ProposalGroupContextExtensions, Extensions: []Extension{
		ExternalSendersExtension(ExternalSender{hub.Public(), Credential{CredentialBasic, []byte("hub")}}),
	}})})
	all := operations()
	resume := all["resumption psk"].proposal(w)
	w.propose(bob, Proposal{Type: ProposalUpdate})
	w.propose(bob, all["external psk"].proposal(w))
	w.propose(carol, Proposal{Type: ProposalSelfRemove})
	w.outside(must(w.server.ExternalProposal(hub, Proposal{Type: ProposalRemove, Removed: w.client("dave").group.OwnIndex()}, nil))(t))
	w.outside(must(w.server.ExternalProposal(hub, nextReInit(suite1), nil))(t)) // not taken up: it stands alone
	frank := newClient(t, "frank")
	w.clients["frank"] = frank
	w.outside(must(must(ParseGroupInfo(w.info))(t).NewMemberAdd(frank.kp, frank.secrets, nil))(t))
	grace := w.adds([]string{"grace"})[0]
	frank.others, w.client("grace").others = in(alice.group), in(alice.group) // who was in the group before, say
	change := w.acceptWith(alice, CommitOptions{PSK: testPSK, Proposals: []Proposal{
		all["custom"].proposal(w), all["group context extensions"].proposal(w), grace, w.removes([]string{"erin"})[0],
		{Type: ProposalPSK, PSK: &PSKID{ID: []byte("known")}},
	}})
	if len(change.Added) != 2 || len(change.Removed) != 3 || len(change.Updated) != 2 || len(change.Proposals) != 10 {
		t.Errorf("change: %d added, %d removed, %d updated, %d proposals", len(change.Added), len(change.Removed), len(change.Updated), len(change.Proposals))
	}
	if w.server.ReInit() != nil {
		t.Error("a ReInit that does not stand alone")
	}
	w.run("frank: says hello\ngrace: updates\nbob: says hello")
	// Those who have joined do not have the group's PSKs of before: such a commit is not for them.
	resume.PSK.Nonce = nil
	staged := w.stage(alice, CommitOptions{Proposals: []Proposal{resume}})
	wantUnchanged(t, frank, staged.Message, ErrUnsupported)
	w.process(bob, staged.Message)
}

// acceptWith is commit for options with a PSK.
func (w *world) acceptWith(c *client, opts CommitOptions) *Change {
	w.t.Helper()
	for _, m := range w.clients {
		m.others = nil
	}
	return w.accept(c, w.stage(c, opts))
}

// TestUpdateWithAChangedLeaf proposes Updates that change more than the key, and has another member commit them.
func TestUpdateWithAChangedLeaf(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	key := must(suite1.GenerateSignatureKey())(t)
	capabilities := testCapabilities.clone()
	capabilities.Extensions = append(capabilities.Extensions, 0xF0B0)
	change := &LeafChange{
		SignatureKey: &key,
		Capabilities: &capabilities,
		Extensions:   []Extension{{testLeafExtension, []byte("another queue")}, {Type: 0xF0B0}},
	}
	msg := must(bob.group.Propose(Proposal{Type: ProposalUpdate}, ProposeOptions{NewLeaf: change}))(t)
	for _, m := range w.members() {
		if m != bob {
			must(m.group.Process(msg, ProcessOptions{}))(t)
		}
	}
	w.outsideServer(msg)
	w.restart(bob)
	w.commit(alice, CommitOptions{})
	leaf := bob.group.OwnLeaf()
	wantBytes(t, "signature key", leaf.SignatureKey(), key.Public())
	if data, _ := leaf.Extension(testLeafExtension); string(data) != "another queue" || !leaf.capabilities.hasExtension(0xF0B0) {
		t.Error("leaf")
	}
	w.run("bob: says hello\nbob: restarts\nbob: updates\nbob: proposes-update\nalice: commits\nbob: says again")

	// One that is never committed changes nothing.
	other := must(suite1.GenerateSignatureKey())(t)
	msg = must(bob.group.Propose(Proposal{Type: ProposalUpdate}, ProposeOptions{NewLeaf: &LeafChange{SignatureKey: &other}}))(t)
	must(alice.group.Process(msg, ProcessOptions{}))(t)
	must(w.client("carol").group.Process(msg, ProcessOptions{}))(t)
	w.outsideServer(msg)
	w.commit(alice, CommitOptions{NoPending: true, Path: true})
	wantBytes(t, "signature key", bob.group.OwnLeaf().SignatureKey(), key.Public())
	w.run("bob: says hello")

	mallory := Credential{testCredential, []byte("mallory")}
	for name, c := range map[string]struct {
		p      Proposal
		change *LeafChange
		want   error
	}{
		"credential":  {Proposal{Type: ProposalUpdate}, &LeafChange{Credential: &mallory}, errTestRule},
		"no key":      {Proposal{Type: ProposalUpdate}, &LeafChange{SignatureKey: new(SignatureKey)}, ErrUnsupported},
		"leaf":        {Proposal{Type: ProposalUpdate, Leaf: leaf}, nil, ErrInvalid},
		"not a leaf":  {Proposal{Type: testProposal}, &LeafChange{}, ErrInvalid},
		"unsupported": {Proposal{Type: ProposalUpdate}, &LeafChange{Extensions: []Extension{{testLeafExtension, nil}, {Type: 0xF0B1}}}, ErrInvalid},
		"GREASE":      {Proposal{Type: ProposalUpdate}, &LeafChange{Credential: &Credential{Type: 0x1A1A}}, ErrInvalid},
	} {
		before := bob.group.Marshal()
		_, err := bob.group.Propose(c.p, ProposeOptions{NewLeaf: c.change})
		t.Run(name, func(t *testing.T) { wantErr(t, err, c.want) })
		wantBytes(t, "state", bob.group.Marshal(), before)
	}
}

// outsideServer lets the server take a proposal that the members have.
func (w *world) outsideServer(msg []byte) {
	w.t.Helper()
	next, _, err := w.server.AddProposal(msg, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	w.server = next
	w.check()
}

// TestResumptionPSKs brings the secret of one group into another: by value and by reference, with newcomers, and in an external commit.
func TestResumptionPSKs(t *testing.T) {
	one := newWorld(t)
	one.id = "one"
	one.run("alice: creates\nalice: adds bob carol\nalice: updates")
	w, alice, bob, carol := threeWorld(t)
	for name, c := range w.clients {
		c.others = in(one.client(name).group)
	}
	now := one.server.Epoch()
	pskOf := func(w *world, epoch uint64) Proposal {
		return Proposal{Type: ProposalPSK, PSK: &PSKID{Usage: PSKApplication, GroupID: []byte(w.id), Epoch: epoch}}
	}
	psk := func(epoch uint64) Proposal { return pskOf(one, epoch) }
	w.commit(alice, CommitOptions{Proposals: []Proposal{psk(now)}, Groups: alice.others})
	w.propose(bob, psk(now))
	change := w.commit(carol, CommitOptions{Groups: carol.others})
	if len(change.Proposals) != 1 {
		t.Error("the PSK was left out")
	}
	// A committer that lacks it leaves it out.
	w.propose(bob, psk(now+1))
	if change := w.commit(carol, CommitOptions{Groups: carol.others}); len(change.Proposals) != 0 {
		t.Error("a PSK that nobody has")
	}
	for _, opts := range []CommitOptions{{Proposals: []Proposal{psk(now + 1)}, Groups: alice.others}, {Proposals: []Proposal{psk(now)}}} {
		_, err := alice.group.Commit(opts)
		wantErr(t, err, ErrUnsupported)
	}
	// bob comes back from outside, and proves that he was in both groups.
	old, otherOld := bob.group, one.client("bob").group
	own := w.server.Epoch()
	bob.others = in(old, otherOld)
	bob.group = nil
	bob.renew(t)
	w.accept(bob, w.external(bob, func(cfg *ExternalJoinConfig) {
		cfg.Resync, cfg.OldLeaf, cfg.Proposals = true, old.OwnIndex(), []Proposal{pskOf(w, own), psk(now)}
	}))
	dave := newClient(t, "dave")
	_, err := JoinExternal(ExternalJoinConfig{
		GroupInfo: w.info, Tree: w.server.Tree(), KeyPackage: dave.kp, Secrets: dave.secrets, Rules: w.rules, Proposals: []Proposal{pskOf(w, own)},
	})
	wantErr(t, err, ErrUnsupported)
	// A group that Groups gives for another id is not taken.
	bob.others = func([]byte) *Group { return otherOld }
	stranger := psk(now)
	stranger.PSK.GroupID = []byte("stranger")
	_, err = bob.group.Commit(CommitOptions{Proposals: []Proposal{stranger}, Groups: bob.others})
	wantErr(t, err, ErrUnsupported)
	w.run("bob: says hello")
}

// TestResumptionPSKInAWelcome adds a client on the condition that it was in another group.
func TestResumptionPSKInAWelcome(t *testing.T) {
	s := newSuccessorWorld(t, nil)
	g, err := NewGroup(GroupConfig{GroupID: []byte("another"), KeyPackage: s.client("alice").kp, Secrets: s.client("alice").secrets, Rules: s.rules})
	if err != nil {
		t.Fatal(err)
	}
	psk := Proposal{Type: ProposalPSK, PSK: &PSKID{Usage: PSKApplication, GroupID: []byte("group"), Epoch: s.server.Epoch()}}
	staged := must(g.Commit(CommitOptions{
		Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: s.client("bob").kp}, psk}, Groups: in(s.old["alice"]),
	}))(t)
	_, info, err := s.join("bob", staged, s.old["bob"])
	if err != nil || info.Predecessor != nil {
		t.Errorf("join: %v", err)
	}
	_, _, err = s.join("bob", staged)
	wantErr(t, err, ErrUnsupported)
}

// TestPSKRules breaks the rules on PSKs, RFC 9420 §8.4 and §12.1.4.
func TestPSKRules(t *testing.T) {
	w, alice, _, _ := threeWorld(t)
	nonce := make([]byte, 32)
	for name, c := range map[string]struct {
		id            PSKID
		section, text string
	}{
		"12.1.4/usage reinit":       {PSKID{Usage: PSKReInit, GroupID: w.server.GroupID(), Epoch: w.server.Epoch()}, "12.1.4", "usage application"},
		"12.1.4/usage branch":       {PSKID{Usage: PSKBranch, GroupID: w.server.GroupID(), Epoch: w.server.Epoch()}, "12.1.4", "usage application"},
		"12.1.4/short nonce":        {PSKID{ID: []byte("known"), Nonce: nonce[:31]}, "12.1.4", "nonce"},
		"12.1.4/long nonce":         {PSKID{ID: []byte("known"), Nonce: append(nonce, 0)}, "12.1.4", "nonce"},
		"8.4/both kinds":            {PSKID{ID: []byte("known"), Usage: PSKApplication}, "8.4", "one usage"},
		"8.4/unknown usage":         {PSKID{Usage: 4}, "8.4", "one usage"},
		"8.4/external with a group": {PSKID{ID: []byte("known"), GroupID: []byte("group")}, "8.4", "one usage"},
	} {
		t.Run(name, func(t *testing.T) {
			p := Proposal{Type: ProposalPSK, PSK: &c.id}
			_, err := alice.group.Propose(p, ProposeOptions{})
			wantRule(t, err, c.section, c.text)
			_, err = alice.group.Commit(CommitOptions{Proposals: []Proposal{p}, PSK: testPSK})
			wantRule(t, err, c.section, c.text)
		})
	}
	shared := func(ids ...*PSKID) error {
		_, err := (&groupSecrets{psks: ids}).checkPSKs(suite1)
		return err
	}
	t.Run("8.4/nonce in a Welcome", func(t *testing.T) { wantRule(t, shared(&PSKID{Nonce: nonce[:1]}), "8.4", "nonce") })
	t.Run("12.4.3.1/two links in a Welcome", func(t *testing.T) {
		wantRule(t, shared(&PSKID{Usage: PSKBranch, Nonce: nonce}, &PSKID{Usage: PSKReInit, Nonce: nonce}), "12.4.3.1", "at most one PSK")
	})
}

// TestNonces checks that no two PSK proposals have one nonce, and that a sender's proposal stays as it is.
func TestNonces(t *testing.T) {
	_, alice, _, _ := threeWorld(t)
	p := Proposal{Type: ProposalPSK, PSK: &PSKID{ID: []byte("known")}}
	seen := map[string]bool{}
	for range 3 {
		must(alice.group.Propose(p, ProposeOptions{}))(t)
	}
	for _, p := range alice.group.Public().Pending() {
		seen[string(p.PSK.Nonce)] = true
	}
	if len(seen) != 3 || p.PSK.Nonce != nil {
		t.Errorf("%d nonces", len(seen))
	}
}

// TestSelfRemove checks what MLS extensions says of self_remove beyond a Remove.
func TestSelfRemove(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	w.run("dave: joins")
	leave := Proposal{Type: ProposalSelfRemove}
	_, err := bob.group.Propose(leave, ProposeOptions{Private: true})
	wantRule(t, err, "12.2", "sent as PublicMessage")
	lax := must(ParseGroup(bob.group.Marshal(), w.rules))(t)
	ac := lax.s.signed(&framedContent{contentType: contentProposal, proposal: &leave}, true)
	m, _, err := lax.s.protect(ac, nil)
	if err != nil {
		t.Fatal(err)
	}
	before := alice.group.Marshal()
	_, err = alice.group.Process(m.marshal(), ProcessOptions{})
	wantRule(t, err, "12.2", "sent as PublicMessage")
	wantBytes(t, "state", alice.group.Marshal(), before)

	// It goes before a Remove of the same member, though that came first.
	w.run("alice: proposes-remove bob\nbob: leaves")
	_, err = bob.group.Propose(leave, ProposeOptions{AuthenticatedData: []byte("again")})
	wantRule(t, err, "12.2", "one self_remove")
	change := w.commit(alice, CommitOptions{})
	if len(change.Proposals) != 1 || change.Proposals[0].Type != ProposalSelfRemove {
		t.Errorf("committed %+v", change.Proposals)
	}
	// A removal by value leaves no room for it.
	w.run("dave: leaves")
	change = w.commit(alice, CommitOptions{Proposals: w.removes([]string{"dave"})})
	if len(change.Proposals) != 1 || change.Proposals[0].Type != ProposalRemove {
		t.Errorf("committed %+v", change.Proposals)
	}
}

// TestLastResort checks that the extension marks a KeyPackage, for the server that hands it out and for the members that it is added to.
func TestLastResort(t *testing.T) {
	w, _, _, _ := threeWorld(t)
	dave := newClient(t, "dave")
	dave.adapt = func(cfg *KeyPackageConfig) {
		cfg.Capabilities = cfg.Capabilities.clone()
		cfg.Capabilities.Extensions = append(cfg.Capabilities.Extensions, ExtensionLastResort)
		cfg.Extensions = []Extension{{Type: ExtensionLastResort}}
	}
	dave.renew(t)
	kp := must(ParseKeyPackage(dave.kp.Marshal()))(t)
	if _, ok := findExtension(kp.Extensions(), ExtensionLastResort); !ok || kp.Validate(time.Unix(1e9, 0)) != nil {
		t.Error("KeyPackage of last resort")
	}
	w.clients["dave"] = dave
	// The same KeyPackage serves twice, in two groups.
	other := newWorld(t, "dave")
	other.clients["dave"] = &client{name: "dave", kp: dave.kp, secrets: dave.secrets}
	other.run("alice: creates")
	for _, w := range []*world{w, other} {
		add := Proposal{Type: ProposalAdd, KeyPackage: dave.kp}
		change := w.commit(w.client("alice"), CommitOptions{Proposals: []Proposal{add}})
		if !hasExtension(change.Proposals[0].KeyPackage.Extensions(), ExtensionLastResort) {
			t.Error("the mark is lost")
		}
		w.run("dave: says hello")
	}
}

// TestPrivateProposalsUseKeysOnce sends two handshakes in PrivateMessages: one key for both could open the first one only.
func TestPrivateProposalsUseKeysOnce(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	w.proposePrivate(bob, Proposal{Type: testProposal, Body: []byte("one")})
	w.proposePrivate(bob, Proposal{Type: testProposal, Body: []byte("two")})
	staged := w.stage(bob, CommitOptions{Private: true})
	if len(staged.Change.Proposals) != 2 {
		t.Errorf("committed %+v", staged.Change.Proposals)
	}
	w.acceptPrivate(bob, staged)
	w.say(alice, "hello")
}
