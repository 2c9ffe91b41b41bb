package mls

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

// in is the Groups of a client that is in these groups.
func in(groups ...*Group) func(id []byte) *Group {
	return func(id []byte) *Group {
		for _, g := range groups {
			if bytes.Equal(g.Public().GroupID(), id) {
				return g
			}
		}
		return nil
	}
}

// nextReInit asks for a successor of its own id, with its own extensions.
func nextReInit(suite CipherSuite) Proposal {
	return Proposal{Type: ProposalReInit, ReInit: &ReInit{GroupID: []byte("next"), Suite: suite, Extensions: []Extension{{testGroupExtension, []byte("next policy")}}}}
}

// successorWorld is three members of a group that is over or goes on, each with a KeyPackage for the next one.
type successorWorld struct {
	*world
	old map[string]*Group
}

// newSuccessorWorld makes a world whose group a ReInit has ended, if there is one.
func newSuccessorWorld(t testing.TB, reInit *Proposal) *successorWorld {
	t.Helper()
	w, alice, _, _ := threeWorld(t)
	suite := suite1
	if reInit != nil {
		w.commit(alice, CommitOptions{Proposals: []Proposal{*reInit}})
		suite = reInit.ReInit.Suite
	}
	s := &successorWorld{world: w, old: map[string]*Group{}}
	for _, c := range w.members() {
		s.old[c.name] = c.group
		c.renewFor(t, suite)
	}
	return s
}

// renewFor makes a KeyPackage of another suite, with another signature key.
func (c *client) renewFor(t testing.TB, suite CipherSuite) {
	t.Helper()
	c.secrets, c.adapt = nil, func(cfg *KeyPackageConfig) {
		cfg.Suite = suite
		if c.secrets == nil {
			cfg.SignatureKey = must(suite.GenerateSignatureKey())(t)
		}
		cfg.Capabilities.CipherSuites = []CipherSuite{suite1, suite}
	}
	c.renew(t)
}

// config is what an honest founder makes the successor of.
func (s *successorWorld) config(founder string, members ...string) SuccessorConfig {
	c := s.client(founder)
	cfg := SuccessorConfig{
		KeyPackage: c.kp, Secrets: c.secrets, Rules: s.rules, Now: s.now,
		WelcomeExtensions: func(*Group) ([]Extension, error) {
			return []Extension{{testInfoExtension, []byte("for newcomers")}}, nil
		},
	}
	for _, name := range members {
		cfg.Members = append(cfg.Members, s.client(name).kp)
	}
	return cfg
}

// join lets a client join by a Welcome.
func (s *successorWorld) join(name string, staged *StagedCommit, groups ...*Group) (*Group, *GroupInfo, error) {
	c := s.client(name)
	return Join(JoinConfig{
		Welcome: staged.Welcome, Tree: staged.Change.After.Tree(), KeyPackage: c.kp, Secrets: c.secrets, Rules: s.rules, Groups: in(groups...),
	})
}

// enter lets the founder merge, all others join, and a server follow, and tries the new group.
func (s *successorWorld) enter(founder string, staged *StagedCommit, link PSKUsage, members ...string) {
	s.t.Helper()
	stored := staged.Marshal()
	staged = must(ParseStagedCommit(stored, s.rules))(s.t)
	wantBytes(s.t, "stored", staged.Marshal(), stored)
	if staged.Message != nil {
		s.t.Error("a founding commit is for nobody else")
	}
	for _, c := range s.clients {
		c.group = nil
	}
	if err := s.old[founder].Merge(staged); !errors.Is(err, ErrInvalid) {
		s.t.Errorf("the old group merges the new one: %v", err)
	}
	if err := (*Group)(nil).Merge(staged); err != nil {
		s.t.Fatal(err)
	}
	s.client(founder).group = staged.Group()
	for _, name := range members {
		g, info, err := s.join(name, staged, s.old[name])
		if err != nil {
			s.t.Fatalf("%s joins: %v", name, err)
		}
		p := info.Predecessor
		if p == nil || p.Usage != link || !bytes.Equal(p.GroupID, s.old[name].Public().GroupID()) || p.Epoch != s.old[name].Epoch() {
			s.t.Fatalf("%s joined another kind of group: %+v", name, p)
		}
		s.client(name).group = g
	}
	s.server = must(NewPublicGroup(staged.GroupInfo, staged.Change.After.Tree(), s.rules))(s.t)
	s.info, s.pending = staged.GroupInfo, nil
	s.check()
	if s.server.Epoch() != 1 {
		s.t.Error("epoch of a new group")
	}
	s.run(founder + ": says hello")
	for _, name := range members {
		s.run(name + ": says hello\n" + name + ": updates")
	}
}

// TestReInit ends a group with a ReInit in every way that there is, and lets another member than the committer found its successor.
func TestReInit(t *testing.T) {
	for _, suite := range testSuites() {
		for _, how := range []string{"by value", "by reference", "private", "by an external sender", "same id", "with a path", "with a path in the new group"} {
			if suite != suite1 && how != "by reference" {
				continue // the ways do not depend on the suite
			}
			t.Run(fmt.Sprintf("suite %d/%s", suite, how), func(t *testing.T) {
				w, alice, bob, carol := threeWorld(t)
				hub := must(suite1.GenerateSignatureKey())(t)
				w.commit(alice, CommitOptions{Proposals: []Proposal{{Type: ProposalGroupContextExtensions, Extensions: []Extension{
					ExternalSendersExtension(ExternalSender{hub.Public(), Credential{CredentialBasic, []byte("hub")}}),
				}}}})
				late := must(carol.group.Encrypt([]byte("late"), []byte("aad"), nil))(t)
				p := nextReInit(suite)
				if how == "same id" {
					p.ReInit.GroupID = w.server.GroupID()
				}
				opts := CommitOptions{Path: how == "with a path", Private: how == "private"}
				switch how {
				case "by value":
					opts.Proposals = []Proposal{p}
				case "by an external sender":
					w.outside(must(w.server.ExternalProposal(hub, p, nil))(t))
				default:
					w.propose(bob, p)
				}
				var change *Change
				if opts.Private {
					staged := w.stage(alice, opts)
					change = staged.Change
					w.acceptPrivate(alice, staged)
				} else {
					change = w.commit(alice, opts)
				}
				if len(change.Proposals) != 1 || change.Proposals[0].Type != ProposalReInit || change.HasPath != opts.Path {
					t.Errorf("committed %+v", change.Proposals)
				}
				w.hear(bob, late, "late", "carol")
				checkEnded(t, w, carol)

				s := &successorWorld{world: w, old: map[string]*Group{}}
				for _, c := range w.members() {
					w.restart(c)
					s.old[c.name] = c.group
					c.renewFor(t, suite)
				}
				cfg := s.config("carol", "alice", "bob")
				cfg.Path = how == "with a path in the new group"
				staged, err := carol.group.Successor(cfg)
				if err != nil {
					t.Fatal(err)
				}
				if staged.Change.HasPath != cfg.Path {
					t.Error("path of the founding commit")
				}
				s.enter("carol", staged, PSKReInit, "alice", "bob")
				if data, _ := s.server.Extension(testGroupExtension); s.server.Suite() != suite || string(data) != "next policy" {
					t.Error("parameters of the successor")
				}
			})
		}
	}
}

// testSuites are the suites that the package has.
func testSuites() []CipherSuite {
	var out []CipherSuite
	for cs := range CipherSuite(1 << 15) {
		if cs.Supported() {
			out = append(out, cs)
		}
	}
	return out
}

// checkEnded checks that a group which a ReInit has ended takes nothing any more, RFC 9420 §12.4.2.
func checkEnded(t *testing.T, w *world, c *client) {
	t.Helper()
	g := c.group
	if g.Public().ReInit() == nil || w.server.ReInit() == nil {
		t.Fatal("the group goes on")
	}
	_, err := g.Encrypt([]byte("text"), nil, nil)
	wantRule(t, err, "12.4.2", "sends no more messages")
	_, err = g.Propose(Proposal{Type: ProposalUpdate}, ProposeOptions{})
	wantRule(t, err, "12.4.2", "sends no more messages")
	_, err = g.Commit(CommitOptions{})
	wantRule(t, err, "12.4.2", "sends no more messages")
	dave := newClient(t, "dave")
	_, err = JoinExternal(ExternalJoinConfig{GroupInfo: must(g.GroupInfo(nil, true))(t), KeyPackage: dave.kp, Secrets: dave.secrets})
	wantRule(t, err, "12.4.3.2", "external_pub")

	// A member whose state does not know better sends all the same.
	lax := must(ParseGroup(g.Marshal(), w.rules))(t)
	public := *lax.s.public
	public.reInit = nil
	lax.s.public = &public
	for name, private := range map[string]bool{"public": false, "private": true} {
		commit := must(must(ParseGroup(lax.Marshal(), w.rules))(t).Commit(CommitOptions{Private: private, Path: true}))(t).Message
		proposal := must(must(ParseGroup(lax.Marshal(), w.rules))(t).Propose(Proposal{Type: ProposalUpdate}, ProposeOptions{Private: private}))(t)
		for _, m := range w.members() {
			if m == c {
				continue
			}
			for _, msg := range [][]byte{commit, proposal} {
				before := m.group.Marshal()
				_, err := m.group.Process(msg, ProcessOptions{})
				wantRule(t, err, "12.4.2", "sends no more messages")
				wantBytes(t, name, m.group.Marshal(), before)
			}
		}
		if private {
			continue
		}
		_, err := w.server.StageCommit(commit, noTime)
		wantRule(t, err, "12.4.2", "sends no more messages")
		_, _, err = w.server.AddProposal(proposal, noTime)
		wantRule(t, err, "12.4.2", "sends no more messages")
	}
	text := must(lax.Encrypt([]byte("text"), nil, nil))(t)
	for _, m := range w.members() {
		if m != c {
			wantUnchanged(t, m, text, ErrInvalid)
		}
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// TestBranch makes a group of some of the members, RFC 9420 §11.3.
func TestBranch(t *testing.T) {
	for _, path := range []bool{false, true} {
		s := newSuccessorWorld(t, nil)
		cfg := s.config("bob", "alice")
		cfg.GroupID, cfg.Extensions, cfg.Path = []byte("branch"), []Extension{{testGroupExtension, []byte("branch policy")}}, path
		staged, err := s.old["bob"].Successor(cfg)
		if err != nil {
			t.Fatal(err)
		}
		s.enter("bob", staged, PSKBranch, "alice")
		// The group that it is a branch of goes on.
		for name, g := range s.old {
			s.client(name).group = g
		}
		s.server = s.old["alice"].Public()
		s.run("carol: says hello\nbob: updates\nalice: says hello")
	}
}

// TestBranchOfAnEarlierEpoch lets a member join a branch when the group has gone on, and one of the branch has left it.
func TestBranchOfAnEarlierEpoch(t *testing.T) {
	s := newSuccessorWorld(t, nil)
	cfg := s.config("bob", "alice", "carol")
	cfg.GroupID = []byte("branch")
	staged, err := s.old["bob"].Successor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	carol := s.client("carol")
	s.run("alice: removes bob")
	g, info, err := s.join("carol", staged, carol.group)
	if err != nil || g.Epoch() != 1 || info.Predecessor.Epoch != carol.group.Epoch()-1 {
		t.Fatalf("join: %v", err)
	}
	carol.group.ForgetEpochs(carol.group.Epoch())
	_, _, err = s.join("carol", staged, carol.group)
	wantErr(t, err, ErrUnsupported)
}

// found makes a group as a founder does that keeps to no rule: with what commit holds, in as many epochs as commits says.
func (s *successorWorld) found(founder string, context []Extension, id string, opts CommitOptions) *StagedCommit {
	s.t.Helper()
	c := s.client(founder)
	g, err := NewGroup(GroupConfig{GroupID: []byte(id), KeyPackage: c.kp, Secrets: c.secrets, Extensions: context, Rules: s.rules})
	if err != nil {
		s.t.Fatal(err)
	}
	return s.foundIn(g, opts)
}

func (s *successorWorld) foundIn(g *Group, opts CommitOptions) *StagedCommit {
	s.t.Helper()
	g.s.public.founding = true
	opts.Groups = func([]byte) *Group { return s.old["alice"] }
	staged, err := g.Commit(opts)
	if err != nil {
		s.t.Fatal(err)
	}
	return staged
}

// TestJoinSuccessorRules breaks each rule that a client checks of a Welcome to the successor or a branch of a group. It is one table.
func TestJoinSuccessorRules(t *testing.T) {
	link := func(s *successorWorld, usage PSKUsage) Proposal {
		g := s.old["alice"].Public()
		return Proposal{Type: ProposalPSK, PSK: &PSKID{Usage: usage, GroupID: g.GroupID(), Epoch: g.Epoch()}}
	}
	add := func(s *successorWorld, names ...string) []Proposal {
		var out []Proposal
		for _, name := range names {
			out = append(out, Proposal{Type: ProposalAdd, KeyPackage: s.client(name).kp})
		}
		return out
	}
	policy := nextReInit(suite1).ReInit.Extensions
	honest := func(s *successorWorld, g *Group) *StagedCommit {
		return s.found("alice", policy, "next", CommitOptions{Proposals: append(add(s, "bob", "carol"), link(s, PSKReInit))})
	}
	branch := func(s *successorWorld, g *Group) *StagedCommit {
		return s.found("alice", nil, "branch", CommitOptions{Proposals: append(add(s, "bob"), link(s, PSKBranch))})
	}
	for name, c := range map[string]struct {
		reInit bool
		// make makes the Welcome; bobs is what bob has of the old group, which make may change.
		make          func(s *successorWorld, bobs *Group) *StagedCommit
		section, text string
	}{
		"as it is":        {true, honest, "", ""},
		"branch as it is": {false, branch, "", ""},
		"11.2/group id": {true, func(s *successorWorld, bobs *Group) *StagedCommit {
			return s.found("alice", policy, "another", CommitOptions{Proposals: append(add(s, "bob", "carol"), link(s, PSKReInit))})
		}, "11.2", "group id"},
		"11.2/extensions": {true, func(s *successorWorld, bobs *Group) *StagedCommit {
			return s.found("alice", nil, "next", CommitOptions{Proposals: append(add(s, "bob", "carol"), link(s, PSKReInit))})
		}, "11.2", "extensions"},
		"11.2/cipher suite": {true, func(s *successorWorld, bobs *Group) *StagedCommit {
			bobs.s.public.reInit.Suite++
			return honest(s, bobs)
		}, "11.2", "version and cipher suite"},
		"11.2/version": {true, func(s *successorWorld, bobs *Group) *StagedCommit {
			bobs.s.public.reInit.Version++
			return honest(s, bobs)
		}, "11.2", "version and cipher suite"},
		"11.2/a member is left out": {true, func(s *successorWorld, bobs *Group) *StagedCommit {
			return s.found("alice", policy, "next", CommitOptions{Proposals: append(add(s, "bob"), link(s, PSKReInit))})
		}, "11.2", "all members"},
		"11.2/epoch": {true, func(s *successorWorld, bobs *Group) *StagedCommit {
			first := s.found("alice", policy, "next", CommitOptions{Proposals: append(add(s, "carol"), link(s, PSKReInit))})
			return s.foundIn(first.Group(), CommitOptions{Proposals: append(add(s, "bob"), link(s, PSKReInit))})
		}, "12.4.3.1", "epoch 1"},
		"11.2/no reinit": {false, honest, "12.4.3.1", "the last commit"},
		"11.2/reinit psk of another epoch": {true, func(s *successorWorld, bobs *Group) *StagedCommit {
			early := link(s, PSKReInit)
			early.PSK.Epoch--
			return s.found("alice", policy, "next", CommitOptions{Proposals: append(add(s, "bob", "carol"), early)})
		}, "12.4.3.1", "the last commit"},
		"12.4.3.1/two links": {true, func(s *successorWorld, bobs *Group) *StagedCommit {
			return s.found("alice", policy, "next", CommitOptions{Proposals: append(add(s, "bob", "carol"), link(s, PSKReInit), link(s, PSKBranch))})
		}, "12.4.3.1", "at most one PSK of usage"},
		"12.4.3.1/group id in use": {true, func(s *successorWorld, bobs *Group) *StagedCommit {
			return s.found("alice", policy, "group", CommitOptions{Proposals: add(s, "bob", "carol")})
		}, "12.4.3.1", "in already"},
		"11.3/group id in use": {false, func(s *successorWorld, bobs *Group) *StagedCommit {
			return s.found("alice", policy, "group", CommitOptions{Proposals: append(add(s, "bob"), link(s, PSKBranch))})
		}, "12.4.3.1", "in already"},
		"11.3/version": {false, func(s *successorWorld, bobs *Group) *StagedCommit {
			bobs.s.public.context.version++
			return branch(s, bobs)
		}, "11.3", "version and cipher suite"},
		"11.3/cipher suite": {false, func(s *successorWorld, bobs *Group) *StagedCommit {
			s.client("alice").renewFor(s.t, 2)
			s.client("bob").renewFor(s.t, 2)
			return branch(s, bobs)
		}, "11.3", "version and cipher suite"},
		"11.3/a stranger": {false, func(s *successorWorld, bobs *Group) *StagedCommit {
			s.clients["dave"] = newClient(s.t, "dave")
			return s.found("alice", nil, "branch", CommitOptions{Proposals: append(add(s, "bob", "dave"), link(s, PSKBranch))})
		}, "11.3", "members of the group"},
		"11.3/epoch": {false, func(s *successorWorld, bobs *Group) *StagedCommit {
			first := s.found("alice", nil, "branch", CommitOptions{Proposals: append(add(s, "carol"), link(s, PSKBranch))})
			return s.foundIn(first.Group(), CommitOptions{Proposals: append(add(s, "bob"), link(s, PSKBranch))})
		}, "12.4.3.1", "epoch 1"},
	} {
		t.Run(name, func(t *testing.T) {
			var reInit *Proposal
			if c.reInit {
				p := nextReInit(suite1)
				reInit = &p
			}
			s := newSuccessorWorld(t, reInit)
			bobs := must(ParseGroup(s.old["bob"].Marshal(), s.rules))(t)
			staged := c.make(s, bobs)
			_, info, err := s.join("bob", staged, bobs)
			if c.section == "" {
				if err != nil || info.Predecessor == nil {
					t.Errorf("join: %v", err)
				}
				return
			}
			wantRule(t, err, c.section, c.text)
		})
	}
}

// TestJoinWithoutTheGroup lets clients that lack the old group, or its epoch, join its successor.
func TestJoinWithoutTheGroup(t *testing.T) {
	p := nextReInit(suite1)
	s := newSuccessorWorld(t, &p)
	staged, err := s.old["alice"].Successor(s.config("alice", "bob", "carol"))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = s.join("bob", staged)
	wantErr(t, err, ErrUnsupported)
	other, _, _, _ := threeWorld(t)
	other.run("alice: updates\nalice: updates")
	_, _, err = s.join("bob", staged, other.client("bob").group)
	if err == nil {
		t.Error("joined with the secret of another group")
	}
	once := func() func([]byte) *Group {
		n := 0
		return func([]byte) *Group {
			n++
			if n > 1 {
				return nil
			}
			return s.old["bob"]
		}
	}
	bob := s.client("bob")
	_, _, err = Join(JoinConfig{Welcome: staged.Welcome, Tree: staged.Change.After.Tree(), KeyPackage: bob.kp, Secrets: bob.secrets, Rules: s.rules, Groups: once()})
	wantErr(t, err, ErrUnsupported)
}

// TestSuccessorRules breaks each rule that the founder of a successor or a branch is held to.
func TestSuccessorRules(t *testing.T) {
	for name, c := range map[string]struct {
		reInit        bool
		config        func(s *successorWorld) SuccessorConfig
		section, text string
	}{
		"11.2/group id": {true, func(s *successorWorld) SuccessorConfig {
			cfg := s.config("alice", "bob", "carol")
			cfg.GroupID = []byte("another")
			return cfg
		}, "11.2", "the ReInit's"},
		"11.2/extensions": {true, func(s *successorWorld) SuccessorConfig {
			cfg := s.config("alice", "bob", "carol")
			cfg.Extensions = []Extension{}
			return cfg
		}, "11.2", "the ReInit's"},
		"12.4.1/a member is left out": {true, func(s *successorWorld) SuccessorConfig { return s.config("alice", "bob") }, "12.4.1", "same members"},
		"12.4.1/a stranger": {true, func(s *successorWorld) SuccessorConfig {
			s.clients["dave"] = newClient(s.t, "dave")
			return s.config("alice", "bob", "carol", "dave")
		}, "12.4.1", "same members"},
		"11.2/another in a member's place": {true, func(s *successorWorld) SuccessorConfig {
			s.clients["dave"] = newClient(s.t, "dave")
			return s.config("alice", "bob", "dave")
		}, "11.2", "all members"},
		"11/cipher suite": {true, func(s *successorWorld) SuccessorConfig {
			s.old["alice"].s.public.reInit.Suite = 0x0001
			cfg := s.config("alice", "bob", "carol")
			kp := *cfg.KeyPackage
			kp.suite = 2
			cfg.KeyPackage = &kp
			return cfg
		}, "11", "cipher suite"},
		"11.3/a stranger": {false, func(s *successorWorld) SuccessorConfig {
			s.clients["dave"] = newClient(s.t, "dave")
			cfg := s.config("alice", "bob", "dave")
			cfg.GroupID = []byte("branch")
			return cfg
		}, "11.3", "members of the group"},
		"11.3/group id": {false, func(s *successorWorld) SuccessorConfig {
			cfg := s.config("alice", "bob")
			cfg.GroupID = s.old["alice"].Public().GroupID()
			return cfg
		}, "11.3", "another group"},
		"10/no KeyPackage": {false, func(s *successorWorld) SuccessorConfig { return SuccessorConfig{GroupID: []byte("branch")} }, "10", "secrets"},
	} {
		t.Run(name, func(t *testing.T) {
			var reInit *Proposal
			if c.reInit {
				p := nextReInit(suite1)
				reInit = &p
			}
			s := newSuccessorWorld(t, reInit)
			cfg := c.config(s)
			before := s.old["alice"].Marshal()
			staged, err := s.old["alice"].Successor(cfg)
			if staged != nil {
				t.Error("a group of it all the same")
			}
			wantRule(t, err, c.section, c.text)
			wantBytes(t, "old group", s.old["alice"].Marshal(), before)
		})
	}
	p := nextReInit(suite1)
	s := newSuccessorWorld(t, &p)
	s.old["alice"].s.public.reInit.Suite = 0x7777
	_, err := s.old["alice"].Successor(s.config("alice", "bob", "carol"))
	wantErr(t, err, ErrUnsupported)
}

// TestIdentities compares the members of two groups by what the application says they are.
func TestIdentities(t *testing.T) {
	p := nextReInit(suite1)
	s := newSuccessorWorld(t, &p)
	carol := s.client("carol")
	carol.name = "carol@another device"
	carol.secrets = nil
	carol.renewFor(t, suite1)
	_, err := s.old["alice"].Successor(s.config("alice", "bob", "carol"))
	wantRule(t, err, "11.2", "all members")
	rules := testRules()
	rules.Identity = func(l *LeafNode) string {
		name, _, _ := bytes.Cut(l.Credential().Body, []byte("@"))
		return string(name)
	}
	s.rules = rules
	staged, err := s.old["alice"].Successor(s.config("alice", "bob", "carol"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.join("carol", staged, s.old["carol"]); err != nil {
		t.Error(err)
	}
	if _, _, err := s.join("bob", staged, s.old["bob"]); err != nil {
		t.Error(err)
	}
	s.rules = testRules()
	_, _, err = s.join("bob", staged, s.old["bob"])
	wantRule(t, err, "11.2", "all members")
}

// TestReInitBeforeOthers commits a ReInit by value, and leaves everything that is pending behind; and refuses one that could have no successor.
func TestReInitBeforeOthers(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	w.propose(bob, Proposal{Type: ProposalUpdate})
	valid := must(must(ParseGroup(bob.group.Marshal(), w.rules))(t).Propose(Proposal{Type: testProposal}, ProposeOptions{}))(t)
	w.run("bob: proposes-remove carol")
	bad := nextReInit(suite1)
	bad.ReInit.Extensions = []Extension{{ExtensionRequiredCapabilities, []byte{1}}}
	_, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{bad}})
	wantErr(t, err, ErrMalformed)
	_, err = bob.group.Propose(bad, ProposeOptions{})
	wantErr(t, err, ErrMalformed)
	bad.ReInit.Version = mls10
	wantUnchanged(t, alice, forge(t, bob, valid, func(ac *authenticatedContent) { ac.content.proposal = &bad }), ErrMalformed)
	change := w.commit(alice, CommitOptions{Proposals: []Proposal{nextReInit(suite1)}})
	if len(change.Proposals) != 1 || w.server.ReInit() == nil {
		t.Errorf("committed %+v", change.Proposals)
	}
}
