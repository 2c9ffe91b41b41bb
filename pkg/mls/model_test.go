package mls

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestModel runs random histories of a group whose members are each at a place of their own in the server's log. A member proposes, commits, sends and
// reads from where it is; what it has made may lose against another's, be sent late, or be lost with the state that was not stored; it restarts from
// what it stored, leaves, is removed, joins by Welcome or from outside, or enters anew over its old leaf.
//
// What holds all the time:
//
//   - Agreement: all members that are in an epoch have the same epoch authenticator, exporter, GroupContext and tree; the server's public group, which
//     saw the handshakes only, has the same public state at each place in the log.
//   - Order: the server takes a commit exactly if it is of its epoch and refers to nothing that the server has not seen; what it takes, every member can
//     process.
//   - Once: a member reads each message of another at most once, in any order, and never one of its own.
//   - Keys: no two ciphertexts of an epoch, lost ones included, are under the same key and nonce.
//   - Removal: whoever is removed, or whose leaf another has taken, opens neither handshakes nor messages of later epochs, whatever state it kept.
//   - Forward secrecy: what a member stores after an epoch has none of the secrets that the epoch had, but those for late messages as long as they are
//     kept; and of these none that was used.
//   - Post-compromise security: once a member has made a path, or its Update was committed, nothing in a state that was stolen from it before opens
//     anything of the paths from then on.
//   - Storage: every state is what was stored, staged commits too.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newModel(drawn{TB: t, rt: rt})
		actions := map[string]func(*rapid.T){
			"":          func(*rapid.T) { m.check() },
			"propose":   m.propose,
			"submit":    m.submit,
			"stage":     m.stage,
			"commit":    m.commit,
			"do commit": m.commitNow,
			"do say":    m.talk,
			"sync":      m.sync,
			"do submit": m.proposeNow,
			"deliver":   m.deliver,
			"catch up":  m.catchUp,
			"welcome":   m.enterByWelcome,
			"join":      m.joinFromOutside,
			"resync":    m.resync,
			"say":       m.say,
			"hear":      m.hear,
			"restart":   m.restart,
			"crash":     m.crash,
			"steal":     m.steal,
			"forget":    m.forget,
			"lose race": m.race,
		}
		for range 3 { // a longer history than one Repeat is
			m.rt.Repeat(actions)
		}
	})
}

// drawn lets the helpers of other tests fail a random history.
type drawn struct {
	testing.TB
	rt *rapid.T
}

func (d drawn) Helper()                     { d.rt.Helper() }
func (d drawn) Fatal(args ...any)           { d.rt.Fatal(args...) }
func (d drawn) Fatalf(f string, a ...any)   { d.rt.Fatalf(f, a...) }
func (d drawn) Errorf(f string, a ...any)   { d.rt.Errorf(f, a...) }
func (d drawn) Error(args ...any)           { d.rt.Error(args...) }
func (d drawn) draw(what string, n int) int { return rapid.IntRange(0, n-1).Draw(d.rt, what) }

// modelEntry is one handshake in the server's log.
type modelEntry struct {
	msg     []byte
	commit  bool
	author  *modelMember
	after   []byte // the server's state
	tree    []byte // of the epoch that a commit begins
	welcome []byte
}

// modelMember is one membership of a client: a client that comes back is another one.
type modelMember struct {
	name   string
	client *client
	group  *Group // nil before it has entered, and after it is out
	stored []byte // what it stored last
	at     int    // entries of the log that it has processed

	outbox [][]byte      // proposals that it has made and not submitted, in order
	staged *StagedCommit // a commit that it has made and not submitted
	mine   map[int][]byte
	out    bool
	read   map[int]bool // messages

	thieves []*modelThief
}

// modelThief has a member's state of some time.
type modelThief struct {
	keys   []HPKEPrivateKey
	epoch  uint64
	healed bool
}

// modelMessage is an application message.
type modelMessage struct {
	msg   []byte
	from  *modelMember
	epoch uint64
	text  string
}

type model struct {
	drawn
	rules    *Rules
	server   *PublicGroup
	info     []byte
	log      []modelEntry
	members  []*modelMember
	invited  []*modelMember // added, and not yet in; at is the entry of their commit
	ghosts   []*modelMember // out, with the state that they kept
	messages []modelMessage
	epochs   map[uint64]*modelEpoch
	names    int
	made     int // proposals that were made, so that no two are equal
}

const modelSize = 6

func newModel(t drawn) *model {
	m := &model{drawn: t, rules: testRules(), epochs: map[uint64]*modelEpoch{}}
	first := m.newMember()
	first.group = must(NewGroup(GroupConfig{
		GroupID: []byte("group"), KeyPackage: first.client.kp, Secrets: first.client.secrets, Rules: m.rules,
		Extensions: []Extension{{Type: testGroupExtension, Data: []byte("policy")}},
	}))(t)
	m.info = must(first.group.GroupInfo(nil, false))(t)
	m.server = must(NewPublicGroup(m.info, first.group.Public().Tree(), m.rules))(t)
	m.members = []*modelMember{first}
	m.store(first)
	m.entered(first)
	return m
}

func (m *model) newMember() *modelMember {
	m.names++
	name := fmt.Sprint("m", m.names)
	return &modelMember{name: name, client: newClient(m, name), read: map[int]bool{}, mine: map[int][]byte{}}
}

func (m *model) store(x *modelMember) { x.stored = x.group.Marshal() }

// some picks a member that suits, nil if none does.
func (m *model) some(what string, suits func(x *modelMember) bool) *modelMember {
	var all []*modelMember
	for _, x := range m.members {
		if suits(x) {
			all = append(all, x)
		}
	}
	if len(all) == 0 {
		m.rt.Skip("nobody for it")
	}
	return all[m.draw(what, len(all))]
}

func anyone(*modelMember) bool { return true }

// leaving says whether x has asked to leave the epoch that it is in.
func leaving(x *modelMember) bool {
	return slices.ContainsFunc(x.group.Public().Pending(), func(p CommittedProposal) bool {
		return p.Type == ProposalSelfRemove && p.Sender == x.group.s.self()
	})
}

// propose lets a member make a standalone proposal, which waits in its outbox.
func (m *model) propose(*rapid.T) { m.proposes(m.some("proposer", anyone)) }

func (m *model) proposes(x *modelMember) {
	others := slices.DeleteFunc(x.group.Public().Members(), func(o Member) bool { return o.Index == x.group.OwnIndex() })
	p := Proposal{Type: ProposalUpdate}
	switch kind := m.draw("proposal", 6); {
	case kind == 1:
		p = Proposal{Type: testProposal, Body: []byte("body")}
	case kind == 2 && len(others) > 0:
		p = Proposal{Type: ProposalRemove, Removed: others[m.draw("removed", len(others))].Index}
	case kind == 3 && len(others) > 0 && !leaving(x):
		p = Proposal{Type: ProposalSelfRemove}
	case kind == 4:
		p = Proposal{Type: ProposalPSK, PSK: &PSKID{ID: []byte("known")}}
	case kind == 5 && len(x.group.Public().Members()) < modelSize:
		newcomer := m.newMember()
		m.invited = append(m.invited, newcomer)
		newcomer.at = -1
		p = Proposal{Type: ProposalAdd, KeyPackage: newcomer.client.kp}
	}
	m.made++
	msg := must(x.group.Propose(p, ProposeOptions{AuthenticatedData: fmt.Append(nil, m.made)}))(m)
	m.store(x)
	x.outbox = append(x.outbox, msg)
}

// submit lets a member send its oldest proposal to the server.
func (m *model) submit(*rapid.T) {
	m.submits(m.some("sender", func(x *modelMember) bool { return len(x.outbox) > 0 }))
}

func (m *model) submits(x *modelMember) {
	msg := x.outbox[0]
	x.outbox = x.outbox[1:]
	next, _, err := m.server.AddProposal(msg, noTime)
	if must(Peek(msg))(m).Epoch != m.server.Epoch() {
		m.want(err, ErrStaleEpoch, "a late proposal")
		return
	}
	if err != nil {
		m.Fatalf("the server refuses a proposal: %v", err)
	}
	m.server = next
	m.append(modelEntry{msg: msg, author: x})
}

func (m *model) want(err, want error, what string) {
	m.Helper()
	if !errors.Is(err, want) {
		m.Fatalf("%s: got %v, want %v", what, err, want)
	}
}

func (m *model) append(e modelEntry) {
	e.after = m.server.Marshal()
	m.log = append(m.log, e)
}

// options draws how a member commits.
func (m *model) options(x *modelMember) CommitOptions {
	opts := CommitOptions{PSK: testPSK, Path: m.draw("path", 2) == 1, NoPending: m.draw("no pending", 4) == 1, TreeInWelcome: m.draw("tree", 2) == 1}
	all := x.group.Public().Members()
	others := slices.DeleteFunc(slices.Clone(all), func(o Member) bool { return o.Index == x.group.OwnIndex() })
	switch kind := m.draw("by value", 7); {
	case kind == 1 && len(all) < modelSize:
		for range 1 + m.draw("more", 2) {
			newcomer := m.newMember()
			newcomer.at = -1
			m.invited = append(m.invited, newcomer)
			opts.Proposals = append(opts.Proposals, Proposal{Type: ProposalAdd, KeyPackage: newcomer.client.kp})
		}
	case kind == 2 && len(others) > 0:
		opts.Proposals = []Proposal{{Type: ProposalRemove, Removed: others[m.draw("removed", len(others))].Index}}
	case kind == 3:
		opts.Proposals = []Proposal{{Type: ProposalPSK, PSK: &PSKID{ID: []byte("known")}}}
	case kind == 4:
		opts.Proposals = []Proposal{{Type: ProposalGroupContextExtensions, Extensions: []Extension{{Type: testGroupExtension, Data: fmt.Append(nil, len(m.log))}}}}
	case kind == 5:
		key := must(m.server.Suite().GenerateSignatureKey())(m)
		opts.NewLeaf = &LeafChange{SignatureKey: &key}
	case kind == 6:
		opts.Proposals = []Proposal{{Type: testNeedsPath, Body: []byte("body")}}
	}
	return opts
}

// stage lets a member make a commit, which it may submit later. Now and then it makes a private one besides, which nobody gets.
func (m *model) stage(*rapid.T) {
	x := m.some("committer", func(x *modelMember) bool { return !leaving(x) })
	m.makeCommit(x)
	if m.draw("private", 4) == 1 {
		staged := must(x.group.Commit(CommitOptions{Private: true, Path: true, NoPending: true}))(m)
		m.store(x)
		m.sealed(staged.Message)
	}
}

func (m *model) makeCommit(x *modelMember) {
	before := x.group.Marshal()
	staged, err := x.group.Commit(m.options(x))
	if err != nil {
		m.Fatalf("%s commits: %v", x.name, err)
	}
	if !bytes.Equal(before, x.group.Marshal()) {
		m.Fatal("making a commit changed the state")
	}
	again := must(ParseStagedCommit(staged.Marshal(), m.rules))(m)
	if !bytes.Equal(again.Marshal(), staged.Marshal()) {
		m.Fatal("a staged commit is not what was stored")
	}
	x.staged = again
}

// commit lets a member submit the commit that it has staged.
func (m *model) commit(*rapid.T) {
	m.submitCommit(m.some("committer", func(x *modelMember) bool { return x.staged != nil }))
}

// race lets two members make commits, both of which are submitted.
func (m *model) race(*rapid.T) {
	x := m.some("first", func(x *modelMember) bool { return !leaving(x) })
	y := m.some("second", func(y *modelMember) bool { return !leaving(y) && y != x })
	m.makeCommit(x)
	m.makeCommit(y)
	m.submitCommit(x)
	m.submitCommit(y)
}

func (m *model) submitCommit(x *modelMember) {
	staged := x.staged
	x.staged = nil
	change, err := m.server.StageCommit(staged.Message, noTime)
	switch {
	case staged.Change.Before.Epoch() != m.server.Epoch():
		m.want(err, ErrStaleEpoch, "a late commit")
		return
	case m.refersToUnknown(staged):
		if r, ok := errors.AsType[*RuleError](err); !ok || r.Section != "12.4.2" {
			m.Fatalf("a commit of proposals that the server has not seen: %v", err)
		}
		return
	case err != nil:
		m.Fatalf("the server refuses a commit of %s: %v", x.name, err)
	}
	if !bytes.Equal(change.After.Marshal(), staged.Change.After.Marshal()) {
		m.Fatal("server and committer do not agree")
	}
	if _, err := change.After.CheckGroupInfo(staged.GroupInfo); err != nil {
		m.Fatalf("GroupInfo: %v", err)
	}
	m.server, m.info = change.After, staged.GroupInfo
	m.append(modelEntry{msg: staged.Message, commit: true, author: x, tree: m.server.Tree(), welcome: staged.Welcome})
	x.mine[len(m.log)-1] = staged.Marshal()
	for _, y := range m.invited {
		if slices.ContainsFunc(change.AddedRefs, func(ref []byte) bool { return bytes.Equal(ref, y.client.kp.Ref()) }) {
			y.at = len(m.log)
		}
	}
}

// refersToUnknown says whether a commit takes up a proposal that is still in somebody's outbox.
func (m *model) refersToUnknown(staged *StagedCommit) bool {
	known := m.server.Pending()
	return slices.ContainsFunc(staged.Change.Proposals, func(p CommittedProposal) bool {
		return p.ByReference && !slices.ContainsFunc(known, func(k CommittedProposal) bool { return bytes.Equal(k.Ref, p.Ref) })
	})
}

// upToDate is a member that has processed all of the log.
func (m *model) upToDate(suits func(x *modelMember) bool) *modelMember {
	x := m.some("who", func(x *modelMember) bool { return len(x.outbox) == 0 })
	for !x.out && x.at < len(m.log) {
		m.next(x)
	}
	if x.out || !suits(x) {
		m.rt.Skip("it cannot")
	}
	return x
}

// commitNow lets a member that has seen everything commit.
func (m *model) commitNow(*rapid.T) {
	x := m.upToDate(func(x *modelMember) bool { return !leaving(x) })
	m.makeCommit(x)
	m.submitCommit(x)
	m.next(x)
}

// proposeNow lets a member that has seen everything propose, and the server have it at once.
func (m *model) proposeNow(*rapid.T) {
	x := m.upToDate(anyone)
	m.proposes(x)
	m.submits(x)
}

// talk lets a member that has seen everything send a message, if nothing waits for a commit, and most others read it.
func (m *model) talk(*rapid.T) {
	x := m.upToDate(func(x *modelMember) bool { return len(x.group.Public().Pending()) == 0 })
	m.says(x)
	for _, y := range slices.Clone(m.members) {
		if y == x || m.draw("missed", 4) == 3 {
			continue
		}
		for !y.out && y.at < len(m.log) {
			m.next(y)
		}
		if !y.out {
			m.hears(y, len(m.messages)-1)
		}
	}
}

// sync lets all members process all of the log.
func (m *model) sync(*rapid.T) {
	for _, x := range slices.Clone(m.members) {
		for !x.out && x.at < len(m.log) {
			m.next(x)
		}
	}
}

// deliver lets a member process the next entry of the log.
func (m *model) deliver(*rapid.T) {
	m.next(m.some("reader", func(x *modelMember) bool { return x.at < len(m.log) }))
}

// catchUp lets a member process all of the log.
func (m *model) catchUp(*rapid.T) {
	x := m.some("reader", func(x *modelMember) bool { return x.at < len(m.log) })
	for !x.out && x.at < len(m.log) {
		m.next(x)
	}
}

func (m *model) next(x *modelMember) {
	e := &m.log[x.at]
	before := x.group.Marshal()
	got, err := x.group.Process(e.msg, ProcessOptions{PSK: testPSK})
	if e.author == x {
		m.want(err, ErrReplayed, "an own handshake")
		if e.commit {
			m.merge(x, must(ParseStagedCommit(x.mine[x.at], m.rules))(m))
		}
		m.passed(x)
		return
	}
	if err != nil {
		m.Fatalf("%s processes an entry: %v", x.name, err)
	}
	if got.Proposal != nil {
		m.store(x)
		m.passed(x)
		return
	}
	if !bytes.Equal(before, x.group.Marshal()) {
		m.Fatal("staging changed the state")
	}
	staged := must(ParseStagedCommit(got.Commit.Marshal(), m.rules))(m)
	if staged.RemovesSelf() {
		if x.group.Merge(staged) == nil {
			m.Fatal("a removed member merged")
		}
		m.thieve(x, e)
		m.leave(x)
		return
	}
	m.merge(x, staged)
	m.passed(x)
}

// passed notes that x has processed an entry.
func (m *model) passed(x *modelMember) {
	e := &m.log[x.at]
	x.at++
	m.agrees(x, must(ParsePublicGroup(e.after, m.rules))(m))
}

// agrees compares a member's public state with the server's at the same place of the log. A member may know more proposals, its own ones that the
// server has not, and the order may be another.
func (m *model) agrees(x *modelMember, server *PublicGroup) {
	g := x.group.Public()
	if !bytes.Equal(g.encoded, server.encoded) || !bytes.Equal(g.Tree(), server.Tree()) || !bytes.Equal(g.tag, server.tag) || !bytes.Equal(g.interim, server.interim) {
		m.Fatalf("%s and the server do not agree on the group", x.name)
	}
	known := map[string]bool{}
	for _, p := range g.Pending() {
		known[string(p.Ref)] = p.Sender != x.group.s.self()
	}
	for _, p := range server.Pending() {
		if _, ok := known[string(p.Ref)]; !ok {
			m.Fatalf("%s has not the proposals of the server", x.name)
		}
		known[string(p.Ref)] = false
	}
	for _, more := range known {
		if more {
			m.Fatalf("%s has another's proposal that the server has not", x.name)
		}
	}
}

// leave takes x out of the group, with the state that it has.
func (m *model) leave(x *modelMember) {
	x.out = true
	m.members = slices.DeleteFunc(m.members, func(y *modelMember) bool { return y == x })
	m.ghosts = append(m.ghosts, x)
}

// enterByWelcome lets an added client join.
func (m *model) enterByWelcome(*rapid.T) {
	var ready []*modelMember
	for _, y := range m.invited {
		if y.at >= 0 {
			ready = append(ready, y)
		}
	}
	if len(ready) == 0 {
		m.rt.Skip("nobody for it")
	}
	y := ready[m.draw("newcomer", len(ready))]
	e := &m.log[y.at-1]
	g, _, err := Join(JoinConfig{Welcome: e.welcome, Tree: e.tree, KeyPackage: y.client.kp, Secrets: y.client.secrets, PSK: testPSK, Rules: m.rules})
	if err != nil {
		m.Fatalf("%s joins: %v", y.name, err)
	}
	y.group = g
	m.invited = slices.DeleteFunc(m.invited, func(z *modelMember) bool { return z == y })
	m.members = append(m.members, y)
	m.store(y)
	m.entered(y)
}

// joinFromOutside lets a client make an external commit.
func (m *model) joinFromOutside(*rapid.T) {
	if len(m.server.Members()) >= modelSize || m.draw("really", 3) != 0 {
		m.rt.Skip("not now")
	}
	m.external(m.newMember(), func(*ExternalJoinConfig) {})
}

// resync lets a member enter anew over its old leaf. The state that it had is somebody else's from then on.
func (m *model) resync(*rapid.T) {
	if m.draw("really", 3) != 0 {
		m.rt.Skip("not now")
	}
	x := m.some("who", func(x *modelMember) bool {
		leaf, ok := m.server.Member(x.group.OwnIndex()) // it may have been removed meanwhile
		return ok && bytes.Equal(leaf.Credential().Body, []byte(x.name)) && !m.leaves(x)
	})
	again := &modelMember{name: x.name, client: &client{name: x.name, kp: x.client.kp, secrets: x.client.secrets}, read: map[int]bool{}, mine: map[int][]byte{}}
	again.client.secrets.SignatureKey = x.group.s.signer
	again.client.renew(m)
	m.external(again, func(cfg *ExternalJoinConfig) { cfg.Resync, cfg.OldLeaf = true, x.group.OwnIndex() })
}

// leaves says whether a proposal of x to leave is before the server.
func (m *model) leaves(x *modelMember) bool {
	return slices.ContainsFunc(m.server.Pending(), func(p CommittedProposal) bool {
		return p.Type == ProposalSelfRemove && p.Sender.Leaf == x.group.OwnIndex()
	})
}

func (m *model) external(y *modelMember, change func(cfg *ExternalJoinConfig)) {
	cfg := ExternalJoinConfig{GroupInfo: m.info, Tree: m.server.Tree(), KeyPackage: y.client.kp, Secrets: y.client.secrets, PSK: testPSK, Rules: m.rules}
	if m.draw("psk", 3) == 1 {
		cfg.Proposals = []Proposal{{Type: ProposalPSK, PSK: &PSKID{ID: []byte("known")}}}
	}
	for _, e := range m.log {
		if i := must(Peek(e.msg))(m); !e.commit && i.Epoch == m.server.Epoch() {
			if p := must(parseMLSMessage(e.msg))(m).publicMessage.content.proposal; p.Type == ProposalSelfRemove {
				cfg.Pending = append(cfg.Pending, e.msg)
			}
		}
	}
	change(&cfg)
	staged, err := JoinExternal(cfg)
	if err != nil {
		m.Fatalf("%s joins from outside: %v", y.name, err)
	}
	y.staged = must(ParseStagedCommit(staged.Marshal(), m.rules))(m)
	staged = y.staged
	m.submitCommit(y)
	if err := (*Group)(nil).Merge(staged); err != nil {
		m.Fatal(err)
	}
	y.group, y.at = staged.Group(), len(m.log)
	m.members = append(m.members, y)
	m.store(y)
	m.entered(y)
}
