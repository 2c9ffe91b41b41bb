package mls

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// Custom code points of the test application.
const (
	testCredential     CredentialType = 0xF0A1
	testLeafExtension  ExtensionType  = 0xF0A2
	testGroupExtension ExtensionType  = 0xF0A4
	testInfoExtension  ExtensionType  = 0xF0A5
	testProposal       ProposalType   = 0xF0A3
	testNeedsPath      ProposalType   = 0xF0A6
)

var errTestRule = errors.New("refused by the test's rules")

// testRules are the rules of the test application: leaves carry a custom credential and extension, and keep the credential.
func testRules() *Rules {
	return &Rules{
		NewMemberProposals: true,
		Proposals: map[ProposalType]ProposalRule{
			testProposal:  {AllowExternal: true, ByReference: true},
			testNeedsPath: {NeedsPath: true},
		},
		CheckLeaf: func(before, leaf *LeafNode) error {
			_, ok := leaf.Extension(testLeafExtension)
			if !ok || leaf.Credential().Type != testCredential {
				return errTestRule
			}
			if before != nil && !bytes.Equal(before.Credential().Body, leaf.Credential().Body) {
				return errTestRule
			}
			return nil
		},
		CheckCommit: func(c *Change) error {
			if bytes.Equal(c.AuthenticatedData, []byte("refuse")) {
				return errTestRule
			}
			return nil
		},
	}
}

var testCapabilities = Capabilities{
	Versions:     []uint16{1},
	CipherSuites: []CipherSuite{X25519_AES128GCM_SHA256_Ed25519},
	Extensions:   []ExtensionType{testLeafExtension, testGroupExtension},
	Proposals:    []ProposalType{ProposalSelfRemove, testProposal, testNeedsPath},
	Credentials:  []CredentialType{testCredential},
}

// client is one client of the test world.
type client struct {
	name    string
	kp      *KeyPackage
	secrets *KeyPackageSecrets
	group   *Group
	adapt   func(cfg *KeyPackageConfig) // changes what renew makes, nil if nothing
	others  func(groupID []byte) *Group // its other groups, nil if none
}

func newClient(t testing.TB, name string) *client {
	t.Helper()
	c := &client{name: name}
	c.renew(t)
	return c
}

// renew makes a fresh KeyPackage with the same signature key, if there is one.
func (c *client) renew(t testing.TB) {
	t.Helper()
	cfg := KeyPackageConfig{
		Suite:          X25519_AES128GCM_SHA256_Ed25519,
		Credential:     Credential{Type: testCredential, Body: []byte(c.name)},
		Capabilities:   testCapabilities,
		Lifetime:       Lifetime{NotBefore: 1, NotAfter: 1 << 40},
		LeafExtensions: []Extension{{Type: testLeafExtension, Data: []byte("queue of " + c.name)}},
	}
	if c.secrets != nil {
		cfg.SignatureKey = c.secrets.SignatureKey
	} else {
		cfg.SignatureKey = must(cfg.Suite.GenerateSignatureKey())(t)
	}
	if c.adapt != nil {
		c.adapt(&cfg)
	}
	var err error
	if c.kp, c.secrets, err = NewKeyPackage(cfg); err != nil {
		t.Fatal(err)
	}
}

// world is a group with all its members and a server that follows it. After each step all must agree.
type world struct {
	t       testing.TB
	rules   *Rules
	id      string // of the group
	suite   CipherSuite
	clients map[string]*client
	server  *PublicGroup
	info    []byte   // GroupInfo of the epoch
	pending [][]byte // standalone proposals of the epoch
	now     time.Time

	proposed int
}

func newWorld(t testing.TB, names ...string) *world {
	t.Helper()
	w := &world{t: t, rules: testRules(), id: "group", suite: suite1, clients: map[string]*client{}, now: time.Unix(1e9, 0)}
	for _, name := range names {
		w.clients[name] = newClient(t, name)
	}
	return w
}

// newClient makes a client with a KeyPackage of the world's suite.
func (w *world) newClient(name string) *client {
	w.t.Helper()
	c := newClient(w.t, name)
	if w.suite != suite1 {
		c.renewFor(w.t, w.suite)
	}
	return c
}

func (w *world) client(name string) *client {
	w.t.Helper()
	c := w.clients[name]
	if c == nil {
		w.t.Fatalf("no client %s", name)
	}
	return c
}

// members returns the clients in the group, by name.
func (w *world) members() []*client {
	var out []*client
	for _, name := range slices.Sorted(maps.Keys(w.clients)) {
		if c := w.clients[name]; c.group != nil {
			out = append(out, c)
		}
	}
	return out
}

func (w *world) create(c *client) {
	w.t.Helper()
	g, err := NewGroup(GroupConfig{
		GroupID: []byte(w.id), KeyPackage: c.kp, Secrets: c.secrets, Rules: w.rules,
		Extensions: []Extension{{Type: testGroupExtension, Data: []byte("policy")}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	c.group = g
	w.info = must(g.GroupInfo(nil, false))(w.t)
	w.server = must(NewPublicGroup(w.info, g.Public().Tree(), w.rules))(w.t)
}

func hubExtensions(next *Group) ([]Extension, error) {
	secret, err := next.Export("hub", nil, 32)
	return []Extension{{Type: testInfoExtension, Data: secret}}, err
}

// commit lets c commit and everyone take it.
func (w *world) commit(c *client, opts CommitOptions) *Change {
	w.t.Helper()
	return w.accept(c, w.stage(c, opts))
}

// stage lets c make a commit, which must leave its state as it is.
func (w *world) stage(c *client, opts CommitOptions) *StagedCommit {
	w.t.Helper()
	opts.HubExtensions, opts.Now = hubExtensions, w.now
	opts.WelcomeExtensions = func(next *Group) ([]Extension, error) {
		return []Extension{{Type: testInfoExtension, Data: []byte("for newcomers")}}, nil
	}
	before := c.group.Marshal()
	staged, err := c.group.Commit(opts)
	if err != nil {
		w.t.Fatalf("%s commits: %v", c.name, err)
	}
	if !opts.Private && !bytes.Equal(before, c.group.Marshal()) {
		w.t.Fatal("Commit changed the group")
	}
	return staged
}

// accept lets the server and all members take a commit. c is nil if its author has lost it.
func (w *world) accept(c *client, staged *StagedCommit) *Change {
	w.t.Helper()
	change, err := w.server.StageCommit(staged.Message, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	info, err := change.After.CheckGroupInfo(staged.GroupInfo)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, ok := info.Extension(ExtensionRatchetTree); ok || info.Signer != change.Committer.Index {
		w.t.Fatal("GroupInfo for the server")
	}
	w.server, w.info, w.pending = change.After, staged.GroupInfo, nil
	for _, m := range w.members() {
		if m != c {
			w.process(m, staged.Message)
		}
	}
	if staged.joins {
		if err := (*Group)(nil).Merge(staged); err != nil {
			w.t.Fatal(err)
		}
		c.group = staged.Group()
	} else if c != nil {
		if err := c.group.Merge(staged); err != nil {
			w.t.Fatal(err)
		}
	}
	w.welcome(staged.Welcome, change)
	w.check()
	return change
}

// process lets m take a commit.
func (w *world) process(m *client, msg []byte) {
	w.t.Helper()
	before := m.group.Marshal()
	got, err := m.group.Process(msg, ProcessOptions{Now: w.now, PSK: testPSK, Groups: m.others})
	if err != nil {
		w.t.Fatalf("%s processes: %v", m.name, err)
	}
	if !bytes.Equal(before, m.group.Marshal()) {
		w.t.Fatal("staging changed the group")
	}
	if got.Commit.RemovesSelf() {
		if m.group.Merge(got.Commit) == nil {
			w.t.Fatal("a removed member merged")
		}
		m.group = nil
		return
	}
	if err := m.group.Merge(got.Commit); err != nil {
		w.t.Fatal(err)
	}
}

// welcome lets the added clients join.
func (w *world) welcome(welcome []byte, change *Change) {
	w.t.Helper()
	if len(change.AddedRefs) == 0 {
		if welcome != nil {
			w.t.Fatal("a Welcome for nobody")
		}
		return
	}
	refs := must(WelcomeRefs(welcome))(w.t)
	if !slices.EqualFunc(refs, change.AddedRefs, bytes.Equal) {
		w.t.Fatal("the Welcome is not for the added clients")
	}
	for _, c := range w.clients {
		i := slices.IndexFunc(refs, func(ref []byte) bool { return bytes.Equal(ref, c.kp.Ref()) })
		if i < 0 {
			continue
		}
		one := must(SplitWelcome(welcome, refs[i]))(w.t)
		g, info, err := Join(JoinConfig{
			Welcome: one, Tree: w.server.Tree(), KeyPackage: c.kp, Secrets: c.secrets, Rules: w.rules, PSK: testPSK, Groups: c.others,
		})
		if err != nil {
			w.t.Fatalf("%s joins: %v", c.name, err)
		}
		if got, _ := info.Extension(testInfoExtension); string(got) != "for newcomers" {
			w.t.Fatal("extensions for newcomers")
		}
		if g.OwnIndex() != change.Added[i].Index {
			w.t.Fatal("index of a newcomer")
		}
		c.group = g
	}
}

func testPSK(id []byte) ([]byte, error) {
	if string(id) == "known" {
		return []byte("a shared secret"), nil
	}
	return nil, errTestRule
}

// propose lets c make a standalone proposal and everyone take it.
func (w *world) propose(c *client, p Proposal) {
	w.t.Helper()
	// Two equal proposals would be one: the data tells them apart.
	w.proposed++
	msg := must(c.group.Propose(p, ProposeOptions{AuthenticatedData: []byte{byte(w.proposed >> 8), byte(w.proposed)}}))(w.t)
	next, _, err := w.server.AddProposal(msg, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	w.server = next
	w.pending = append(w.pending, msg)
	for _, m := range w.members() {
		if m == c {
			continue
		}
		if got, err := m.group.Process(msg, ProcessOptions{Now: w.now}); err != nil || got.Proposal == nil {
			w.t.Fatalf("%s takes a proposal: %v", m.name, err)
		}
	}
	w.check()
}

// external makes an external commit.
func (w *world) external(c *client, change func(cfg *ExternalJoinConfig)) *StagedCommit {
	w.t.Helper()
	cfg := ExternalJoinConfig{
		GroupInfo: w.info, Tree: w.server.Tree(), KeyPackage: c.kp, Secrets: c.secrets, Rules: w.rules,
		PSK: testPSK, Groups: c.others, HubExtensions: hubExtensions, Pending: w.pending,
	}
	if change != nil {
		change(&cfg)
	}
	staged, err := JoinExternal(cfg)
	if err != nil {
		w.t.Fatalf("%s joins: %v", c.name, err)
	}
	return staged
}

// say lets c send an application message that all others read.
func (w *world) say(c *client, text string) {
	w.t.Helper()
	msg := must(c.group.Encrypt([]byte(text), []byte("aad"), nil))(w.t)
	for _, m := range w.members() {
		if m != c {
			w.hear(m, msg, text, c.name)
		}
	}
}

func (w *world) hear(m *client, msg []byte, text, from string) {
	w.t.Helper()
	got, err := m.group.Process(msg, ProcessOptions{})
	if err != nil {
		w.t.Fatalf("%s reads: %v", m.name, err)
	}
	a := got.Application
	if a == nil || string(a.Data) != text || string(a.AuthenticatedData) != "aad" || string(a.Sender.Leaf.Credential().Body) != from {
		w.t.Fatalf("%s read something else", m.name)
	}
}

// restart stores and loads a client's group.
func (w *world) restart(c *client) {
	w.t.Helper()
	c.group = must(ParseGroup(c.group.Marshal(), w.rules))(w.t)
}

// check checks that all members and the server agree.
func (w *world) check() {
	w.t.Helper()
	members := w.members()
	if len(members) != len(w.server.Members()) {
		w.t.Fatalf("%d clients in a group of %d", len(members), len(w.server.Members()))
	}
	public := w.server.Marshal()
	for _, m := range members {
		if !bytes.Equal(m.group.Public().Marshal(), public) {
			w.t.Fatalf("%s does not agree with the server", m.name)
		}
		if !bytes.Equal(m.group.EpochAuthenticator(), members[0].group.EpochAuthenticator()) {
			w.t.Fatalf("%s and %s do not agree", m.name, members[0].name)
		}
		if string(m.group.OwnLeaf().Credential().Body) != m.name {
			w.t.Fatalf("%s is somebody else", m.name)
		}
		if err := m.group.s.private.check(m.group.s.public.tree); err != nil {
			w.t.Fatalf("%s has other keys than the tree", m.name)
		}
		if len(m.group.s.private.keys) > maxPathNodes+1 {
			w.t.Fatalf("%s keeps keys", m.name)
		}
		again := must(ParseGroup(m.group.Marshal(), w.rules))(w.t)
		if !bytes.Equal(again.Marshal(), m.group.Marshal()) {
			w.t.Fatalf("%s is not what was stored", m.name)
		}
	}
	again := must(ParsePublicGroup(public, w.rules))(w.t)
	if !bytes.Equal(again.Marshal(), public) {
		w.t.Fatal("the server is not what was stored")
	}
	if err := w.server.tree.validate(treeContext{groupID: w.server.GroupID(), extensions: w.server.Extensions()}); err != nil {
		w.t.Fatal(err)
	}
}

// run runs a script, one step a line: "name: verb argument …". The verbs are the keys of steps.
func (w *world) run(script string) {
	w.t.Helper()
	for line := range strings.Lines(script) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		who, rest, ok := strings.Cut(line, ":")
		words := strings.Fields(rest)
		if !ok || len(words) == 0 || steps[words[0]] == nil {
			w.t.Fatalf("not a step: %s", line)
		}
		c := w.clients[who]
		if c == nil {
			c = w.newClient(who)
			w.clients[who] = c
		}
		steps[words[0]](w, c, words[1:])
		if w.t.Failed() {
			w.t.Fatalf("at: %s", line)
		}
	}
}

var steps = map[string]func(w *world, c *client, args []string){
	"creates": func(w *world, c *client, _ []string) { w.create(c) },
	"adds": func(w *world, c *client, args []string) {
		w.commit(c, CommitOptions{Proposals: w.adds(args), NoPending: true})
	},
	"adds-with-path": func(w *world, c *client, args []string) {
		w.commit(c, CommitOptions{Proposals: w.adds(args), Path: true})
	},
	"removes": func(w *world, c *client, args []string) {
		w.commit(c, CommitOptions{Proposals: w.removes(args)})
	},
	"updates": func(w *world, c *client, _ []string) { w.commit(c, CommitOptions{Path: true}) },
	"commits": func(w *world, c *client, _ []string) { w.commit(c, CommitOptions{}) },
	"says":    func(w *world, c *client, args []string) { w.say(c, strings.Join(args, " ")) },
	"proposes-add": func(w *world, c *client, args []string) {
		w.propose(c, w.adds(args)[0])
	},
	"proposes-remove": func(w *world, c *client, args []string) { w.propose(c, w.removes(args)[0]) },
	"proposes-update": func(w *world, c *client, _ []string) { w.propose(c, Proposal{Type: ProposalUpdate}) },
	"proposes-custom": func(w *world, c *client, args []string) {
		w.propose(c, Proposal{Type: testProposal, Body: []byte(strings.Join(args, " "))})
	},
	"leaves": func(w *world, c *client, _ []string) { w.propose(c, Proposal{Type: ProposalSelfRemove}) },
	"joins":  func(w *world, c *client, _ []string) { w.accept(c, w.external(c, nil)) },
	"resyncs": func(w *world, c *client, _ []string) {
		old := c.group.OwnIndex()
		c.group = nil
		c.renew(w.t)
		w.accept(c, w.external(c, func(cfg *ExternalJoinConfig) { cfg.Resync, cfg.OldLeaf = true, old }))
	},
	"restarts": func(w *world, c *client, _ []string) { w.restart(c) },
	// races: the two both commit; the server takes the first one's.
	"races": func(w *world, c *client, args []string) {
		loser := w.client(args[0])
		lost := w.stage(loser, CommitOptions{Path: true})
		w.commit(c, CommitOptions{Path: true})
		if _, err := w.server.StageCommit(lost.Message, w.now); !errors.Is(err, ErrStaleEpoch) {
			w.t.Fatalf("the losing commit: %v", err)
		}
		if loser.group == nil { // the other commit removed it
			return
		}
		if err := loser.group.Merge(lost); !errors.Is(err, ErrStaleEpoch) {
			w.t.Fatalf("merging the losing commit: %v", err)
		}
		w.check()
	},
	// crashes: the commit is sent, and its author loses all but what it stored.
	"crashes-after-sending": func(w *world, c *client, _ []string) {
		staged := w.stage(c, CommitOptions{Path: true})
		group, stored := c.group.Marshal(), staged.Marshal()
		c.group = must(ParseGroup(group, w.rules))(w.t)
		again := must(ParseStagedCommit(stored, w.rules))(w.t)
		if !bytes.Equal(again.Marshal(), stored) || !bytes.Equal(again.Message, staged.Message) {
			w.t.Fatal("the staged commit is not what was stored")
		}
		w.accept(c, again)
	},
}

func (w *world) adds(names []string) []Proposal {
	var out []Proposal
	for _, name := range names {
		if w.clients[name] == nil {
			w.clients[name] = w.newClient(name)
		}
		w.clients[name].renew(w.t)
		out = append(out, Proposal{Type: ProposalAdd, KeyPackage: w.clients[name].kp})
	}
	return out
}

func (w *world) removes(names []string) []Proposal {
	var out []Proposal
	for _, name := range names {
		out = append(out, Proposal{Type: ProposalRemove, Removed: w.client(name).group.OwnIndex()})
	}
	return out
}

// outside lets everyone take a proposal of somebody who is not in the group.
func (w *world) outside(msg []byte) {
	w.t.Helper()
	next, _, err := w.server.AddProposal(msg, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	w.server = next
	for _, m := range w.members() {
		if got, err := m.group.Process(msg, ProcessOptions{Now: w.now}); err != nil || got.Proposal == nil {
			w.t.Fatalf("%s takes a proposal: %v", m.name, err)
		}
	}
	w.check()
}

// acceptPrivate is accept for a commit that no server can read: the committer's public state stands in for the server's.
func (w *world) acceptPrivate(c *client, staged *StagedCommit) {
	w.t.Helper()
	for _, m := range w.members() {
		if m != c {
			w.process(m, staged.Message)
		}
	}
	if err := c.group.Merge(staged); err != nil {
		w.t.Fatal(err)
	}
	w.server, w.info, w.pending = c.group.Public(), staged.GroupInfo, nil
	w.welcome(staged.Welcome, staged.Change)
	w.check()
}
