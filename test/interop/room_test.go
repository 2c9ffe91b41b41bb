package interop

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// xwing is the private number that ts-mls gives the suite of X-Wing, AES-256-GCM, SHA-512 and Ed25519.
const xwing = 0xF00D

// suites are all that any side of these tests may know: those of RFC 9420 §17.1, and X-Wing's.
var suites = []uint16{1, 2, 3, 4, 5, 6, 7, xwing}

// driver is an implementation: pkg/mls or a peer.
type driver interface {
	do(request) (*answer, error)
}

// implementation is a driver that has said who it is.
type implementation struct {
	driver
	name   string
	suites []uint16
	lacks  []string
	next   uint32 // member number
}

func (i *implementation) can(feature string) bool { return !slices.Contains(i.lacks, feature) }

func introduce(t testing.TB, d driver) *implementation {
	t.Helper()
	a, err := d.do(request{Op: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	return &implementation{driver: d, name: a.Name, suites: a.Suites, lacks: a.Lacks}
}

// peers are all other implementations, by name of the test.
var peers = map[string]func(t testing.TB) *implementation{
	"tsmls":   func(t testing.TB) *implementation { return introduce(t, startNode(t, "tsmls")) },
	"openmls": func(t testing.TB) *implementation { return introduce(t, startRust(t, "openmls-peer")) },
	"mls-rs":  func(t testing.TB) *implementation { return introduce(t, startRust(t, "mls-rs-peer")) },
}

// member is one client of one implementation.
type member struct {
	t       testing.TB
	impl    *implementation
	id      uint32
	profile profile
	keyPkg  []byte
	last    status // the newest state in which it agreed with the others
	since   uint64 // the epoch that it joined in
	changed uint64 // the epoch in which it got its leaf or its signature key
}

// newMember makes a client with a custom credential and leaf extension.
func newMember(t testing.TB, impl *implementation, suite uint16, name string) *member {
	c := mimimi.Capabilities()
	m := &member{t: t, impl: impl, id: impl.next, profile: profile{
		Suite:      suite,
		Credential: credential{uint16(mimimi.CredentialPseudonymous), []byte("credential of " + name)},
		Leaf:       []extension{{uint16(mimimi.ExtensionEncryptedQueueID), []byte("queue of " + name)}},
	}}
	impl.next++
	for _, e := range c.Extensions {
		m.profile.Extensions = append(m.profile.Extensions, uint16(e))
	}
	for _, p := range c.Proposals {
		m.profile.Proposals = append(m.profile.Proposals, uint16(p))
	}
	for _, c := range c.Credentials {
		m.profile.Credentials = append(m.profile.Credentials, uint16(c))
	}
	return m
}

func (m *member) String() string { return fmt.Sprintf("%s #%d", m.impl.name, m.id) }

// do is one operation that must succeed.
func (m *member) do(r request) *answer {
	m.t.Helper()
	r.Member = m.id
	a, err := m.impl.do(r)
	if err != nil {
		m.t.Fatalf("%v: %s: %v", m, r.Op, err)
	}
	return a
}

// take processes a message that must be good.
func (m *member) take(from *member, msg []byte) *answer {
	m.t.Helper()
	a, err := m.impl.do(request{Op: "process", Member: m.id, Message: msg})
	if err != nil {
		m.t.Fatalf("%v refuses what %v sent: %v", m, from, err)
	}
	return a
}

func (m *member) keyPackage() []byte {
	m.t.Helper()
	m.keyPkg = m.do(request{Op: "keyPackage", Profile: &m.profile}).Message
	return m.keyPkg
}

// room is a group with all its members, and a server that follows it as long as handshakes are public.
type room struct {
	t       testing.TB
	suite   uint16
	id      []byte
	members []*member
	server  *mls.PublicGroup // nil once a handshake was private
	pending []pending        // standalone proposals of the epoch
	psks    []request        // that give the external PSKs of the epoch

	absent int // members who could not join and are about to be removed
}

// pending is a standalone proposal with what it does. It may be from somebody who is not in the group.
type pending struct {
	from    *member
	what    proposal
	message []byte
	joiner  *member // whom an Add is about
}

func newRoom(t testing.TB, suite uint16, creator *member) *room {
	t.Helper()
	r := &room{t: t, suite: suite, id: []byte("mimi://a.example/g/interop"), members: []*member{creator}}
	required := mimimi.RequiredCapabilities()
	creator.do(request{
		Op: "create", Profile: &creator.profile, Group: r.id,
		Extensions: []extension{{uint16(required.Type), required.Data}, {uint16(mimimi.ExtensionGroup), []byte("a policy")}},
	})
	r.serve(creator)
	r.check()
	return r
}

// serve has a server follow the group from the GroupInfo of a member on.
func (r *room) serve(informer *member) {
	r.t.Helper()
	info, tree := informer.groupInfo()
	server, err := mls.NewPublicGroup(info, tree, rules)
	if err != nil {
		r.t.Fatalf("the GroupInfo of %v: %v", informer, err)
	}
	r.server = server
}

// groupInfo is what somebody outside may learn of the group from a member.
func (m *member) groupInfo() (info, tree []byte) {
	m.t.Helper()
	return m.do(request{Op: "groupInfo"}).Message, m.do(request{Op: "tree"}).Tree
}

// check compares what all members know of the group, and a secret that each exports.
func (r *room) check() {
	r.t.Helper()
	var first *answer
	var secret []byte
	for i, m := range r.members {
		a := m.do(request{Op: "status"})
		s := m.do(request{Op: "export", Label: "MIMIMI 1.0 interop", Context: []byte("a context"), Length: 48}).Secret
		if i == 0 {
			first, secret = a, s
		}
		if a.Epoch != first.Epoch || !bytes.Equal(a.Authenticator, first.Authenticator) || !bytes.Equal(a.TreeHash, first.TreeHash) {
			r.t.Fatalf("%v and %v do not agree: epochs %d and %d, same tree %v", r.members[0], m, first.Epoch, a.Epoch, bytes.Equal(a.TreeHash, first.TreeHash))
		}
		if !bytes.Equal(s, secret) || len(s) != 48 {
			r.t.Fatalf("%v and %v export different secrets", r.members[0], m)
		}
		if !slices.EqualFunc(a.Members, first.Members, sameLeaf) || !slices.EqualFunc(a.Extensions, first.Extensions, sameExtension) {
			r.t.Fatalf("%v and %v see different members or extensions", r.members[0], m)
		}
		if len(a.Members) != len(r.members)+r.absent {
			r.t.Fatalf("%v sees %d members, want %d and %d absent", m, len(a.Members), len(r.members), r.absent)
		}
		if c := a.Members[slices.IndexFunc(a.Members, func(l leaf) bool { return l.Leaf == a.Leaf })].Credential; !bytes.Equal(c.Body, m.profile.Credential.Body) {
			r.t.Fatalf("%v is not in its own leaf", m)
		}
		m.last = a.status
	}
	if r.server != nil && (r.server.Epoch() != first.Epoch || !bytes.Equal(r.server.TreeHash(), first.TreeHash)) {
		r.t.Fatal("the server is not in the members' state")
	}
}

func sameLeaf(a, b leaf) bool {
	return a.Leaf == b.Leaf && a.Credential.Type == b.Credential.Type && bytes.Equal(a.Credential.Body, b.Credential.Body)
}

func sameExtension(a, b extension) bool { return a.Type == b.Type && bytes.Equal(a.Data, b.Data) }

// commit is what one member commits by value, besides what is pending.
type commit struct {
	add    []*member
	remove []*member
	others []proposal // custom, PSK, GroupContext extensions
	r      request    // path, private, AAD, tree in Welcome, leaf, rotate
}

// commit lets a member commit, everybody follow, and those added join.
func (r *room) commit(by *member, c commit) {
	r.t.Helper()
	made := r.makeCommit(by, c)
	r.deliver(by, c, made)
}

// makeCommit makes a commit that only its maker knows.
func (r *room) makeCommit(by *member, c commit) *answer {
	r.t.Helper()
	q := c.r
	q.Op = "commit"
	q.Proposals = slices.Clone(c.others)
	for _, m := range c.add {
		q.Proposals = append(q.Proposals, proposal{Type: uint16(mls.ProposalAdd), KeyPackage: m.keyPackage()})
	}
	for _, m := range c.remove {
		q.Proposals = append(q.Proposals, proposal{Type: uint16(mls.ProposalRemove), Removed: m.last.Leaf})
	}
	return by.do(q)
}

// deliver carries a commit to everybody.
func (r *room) deliver(by *member, c commit, made *answer) {
	r.t.Helper()
	gone := slices.Clone(c.remove)
	joiners := slices.Clone(c.add)
	var types []uint16 // of proposals that the commit must hold
	for _, p := range c.others {
		types = append(types, p.Type)
	}
	for _, p := range r.pending {
		types = append(types, p.what.Type)
		switch mls.ProposalType(p.what.Type) {
		case mls.ProposalAdd:
			joiners = append(joiners, p.joiner)
		case mls.ProposalRemove:
			gone = append(gone, r.at(p.what.Removed))
		case mls.ProposalSelfRemove:
			gone = append(gone, p.from)
		}
	}
	r.follow(by, made.Message, c.r.Private, c.r.AAD, types, c.others, gone)
	by.do(request{Op: "merge"})
	r.members = slices.DeleteFunc(r.members, func(m *member) bool { return slices.Contains(gone, m) })
	var tree []byte
	if len(joiners) != 0 && !c.r.WithTree {
		tree = by.do(request{Op: "tree"}).Tree
	}
	var refused []*member
	for _, m := range joiners {
		for _, q := range r.psks {
			m.do(q)
		}
		a, err := m.impl.do(request{Op: "join", Member: m.id, Welcome: made.Welcome, Tree: tree})
		if err != nil {
			info, tree := by.groupInfo()
			if !r.refuses(m, err, info, tree) {
				r.t.Fatalf("%v cannot join by the Welcome of %v: %v", m, by, err)
			}
			refused = append(refused, m)
			r.absent++
			continue
		}
		for _, want := range c.r.WelcomeExtensions {
			if !slices.ContainsFunc(a.Extensions, func(e extension) bool { return sameExtension(e, want) }) {
				r.t.Fatalf("%v did not find the extension of the Welcome by %v", m, by)
			}
		}
		m.since, m.changed = by.last.Epoch+1, by.last.Epoch+1
		r.members = append(r.members, m)
	}
	if c.r.Rotate {
		by.changed = by.last.Epoch + 1
	}
	r.pending, r.psks = nil, nil
	r.check()
	if len(refused) != 0 {
		r.expel(refused)
	}
}

// refuses is whether an error is a peer's known refusal of a good tree. Our own reading of the tree shows that it is good.
func (r *room) refuses(m *member, err error, info, tree []byte) bool {
	r.t.Helper()
	if m.impl.can(unmergedLeaves) || !strings.Contains(err.Error(), "must list leaf node in its unmerged_leaves") {
		return false
	}
	if _, err := mls.NewPublicGroup(info, tree, rules); err != nil {
		r.t.Fatalf("%v refuses a tree, and so do we: %v", m, err)
	}
	return true
}

// expel removes those who were added and could not join.
func (r *room) expel(refused []*member) {
	r.t.Helper()
	i := slices.IndexFunc(r.members, func(m *member) bool { return m.impl.can(commitPath) })
	if i < 0 {
		r.t.Fatal("nobody can remove")
	}
	var c commit
	for _, l := range r.members[i].do(request{Op: "status"}).Members {
		for _, m := range refused {
			if bytes.Equal(l.Credential.Body, m.profile.Credential.Body) {
				c.others = append(c.others, proposal{Type: uint16(mls.ProposalRemove), Removed: l.Leaf})
			}
		}
	}
	r.absent = 0
	r.commit(r.members[i], c)
}

// follow lets all members but one process a commit, and the server.
func (r *room) follow(by *member, msg []byte, private bool, aad []byte, types []uint16, values []proposal, gone []*member) {
	r.t.Helper()
	if private {
		r.server = nil
	}
	if r.server != nil {
		change, err := r.server.StageCommit(msg, time.Now())
		if err != nil {
			r.t.Fatalf("the server and the commit by %v: %v", by, err)
		}
		r.server = change.After
	}
	for _, m := range r.members {
		want := "commit"
		if slices.Contains(gone, m) {
			want = "removed"
		}
		if m == by || (want == "removed" && !m.impl.can(ownRemoval)) {
			continue
		}
		a := m.take(by, msg)
		if a.Kind != want || !bytes.Equal(a.AAD, aad) {
			r.t.Fatalf("%v read the commit by %v as %s, want %s; same AAD: %v", m, by, a.Kind, want, bytes.Equal(a.AAD, aad))
		}
		for _, p := range types {
			if want == "commit" && !slices.ContainsFunc(a.Proposals, func(s seen) bool { return s.Type == p }) {
				r.t.Fatalf("%v did not see the proposal of type %#x in the commit by %v", m, p, by)
			}
		}
		for _, p := range values {
			if want == "commit" && p.Body != nil && !slices.ContainsFunc(a.Proposals, func(s seen) bool { return s.Type == p.Type && bytes.Equal(s.Body, p.Body) }) {
				r.t.Fatalf("%v did not see the custom proposal of %v", m, by)
			}
		}
	}
}

// at returns who sits at a leaf.
func (r *room) at(leaf uint32) *member {
	r.t.Helper()
	i := slices.IndexFunc(r.members, func(m *member) bool { return m.last.Leaf == leaf })
	if i < 0 {
		r.t.Fatalf("nobody at leaf %d", leaf)
	}
	return r.members[i]
}

// propose lets a member make a standalone proposal, which all others take.
func (r *room) propose(by *member, p proposal, private bool) {
	r.t.Helper()
	msg := by.do(request{Op: "propose", Proposal: &p, Private: private, AAD: []byte("of a proposal")}).Message
	r.hear(pending{from: by, what: p, message: msg}, private)
}

// hear lets all members but its maker take a standalone proposal, and the server.
func (r *room) hear(p pending, private bool) {
	r.t.Helper()
	if private {
		r.server = nil
	}
	if r.server != nil {
		server, _, err := r.server.AddProposal(p.message, time.Now())
		if err != nil {
			r.t.Fatalf("the server and the proposal by %v: %v", p.from, err)
		}
		r.server = server
	}
	for _, m := range r.members {
		if m == p.from {
			continue
		}
		a := m.take(p.from, p.message)
		if a.Kind != "proposal" || len(a.Proposals) != 1 || a.Proposals[0].Type != p.what.Type || !bytes.Equal(a.Proposals[0].Body, p.what.Body) {
			r.t.Fatalf("%v read the proposal by %v as %s", m, p.from, a.Kind)
		}
	}
	r.pending = append(r.pending, p)
}

// proposeAdd lets a member propose a new one.
func (r *room) proposeAdd(by, added *member, private bool) {
	r.t.Helper()
	r.propose(by, proposal{Type: uint16(mls.ProposalAdd), KeyPackage: added.keyPackage()}, private)
	r.pending[len(r.pending)-1].joiner = added
}

// external is what an external commit holds besides the join itself.
type external struct {
	resync     bool
	withTree   bool // the GroupInfo holds the tree
	psks       [][]byte
	proposals  []proposal
	selfRemove bool // take up the pending self_removes
	aad        []byte
}

// externalJoin lets somebody join, or join again, by an external commit on the GroupInfo of a member.
// It is not done if the joiner refuses the tree as refuses says.
func (r *room) externalJoin(m, informer *member, x external) (joined bool) {
	r.t.Helper()
	custom := extension{uint16(mimimi.ExtensionIdentityLinks), []byte("of a GroupInfo")}
	q := request{
		Op: "externalJoin", Profile: &m.profile, PSKs: x.psks, Proposals: x.proposals, AAD: x.aad,
		GroupInfo: informer.do(request{Op: "groupInfo", WithTree: x.withTree, Extensions: []extension{custom}}).Message,
	}
	info, err := mls.ParseGroupInfo(q.GroupInfo)
	if err != nil {
		r.t.Fatalf("the GroupInfo of %v: %v", informer, err)
	}
	if got, ok := info.Extension(mimimi.ExtensionIdentityLinks); !ok || !bytes.Equal(got, custom.Data) {
		r.t.Fatalf("the GroupInfo of %v has not the custom extension", informer)
	}
	if !x.withTree {
		q.Tree = informer.do(request{Op: "tree"}).Tree
	}
	if x.resync {
		q.Resync = &m.last.Leaf
	}
	var gone []*member
	types := []uint16{uint16(mls.ProposalExternalInit)}
	for _, p := range r.pending {
		if x.selfRemove && mls.ProposalType(p.what.Type) == mls.ProposalSelfRemove {
			q.Pending = append(q.Pending, p.message)
			gone = append(gone, p.from)
			types = append(types, p.what.Type)
		}
	}
	if len(x.psks) != 0 {
		types = append(types, uint16(mls.ProposalPSK))
	}
	q.Member = m.id
	a, err := m.impl.do(q)
	if err != nil {
		if r.refuses(m, err, q.GroupInfo, informer.do(request{Op: "tree"}).Tree) {
			return false
		}
		r.t.Fatalf("%v cannot join by the GroupInfo of %v: %v", m, informer, err)
	}
	r.members = slices.DeleteFunc(r.members, func(o *member) bool { return o == m })
	msg := a.Message
	r.follow(m, msg, false, x.aad, types, x.proposals, gone)
	r.members = slices.DeleteFunc(r.members, func(o *member) bool { return slices.Contains(gone, o) })
	m.since, m.changed = informer.last.Epoch+1, informer.last.Epoch+1
	r.members = append(r.members, m)
	r.pending, r.psks = nil, nil
	r.check()
	return true
}

// message is an application message on its way, with who was there to read it.
type message struct {
	from    *member
	bytes   []byte
	text    []byte
	epoch   uint64
	readers []*member
}

// send makes an application message.
func (r *room) send(from *member, text []byte) message {
	r.t.Helper()
	msg := from.do(request{Op: "send", Data: text, AAD: []byte("of a message")}).Message
	return message{from, msg, text, from.last.Epoch, slices.Clone(r.members)}
}

// read lets all who were there then and are there now read a message.
func (r *room) read(m message) {
	r.t.Helper()
	for _, o := range m.readers {
		if o == m.from || o.since > m.epoch || !slices.Contains(r.members, o) {
			continue
		}
		if gone := !slices.Contains(r.members, m.from) || m.from.changed > m.epoch; gone && !o.impl.can(lateFromGone) {
			continue
		}
		a := o.take(m.from, m.bytes)
		if a.Kind != "application" || !bytes.Equal(a.Application, m.text) || string(a.AAD) != "of a message" {
			r.t.Fatalf("%v did not read what %v sent", o, m.from)
		}
	}
}

// psk gives all members, and others who will need it, an external PSK. Those who join in this epoch will get it too.
func (r *room) psk(id string, others ...*member) []byte {
	r.t.Helper()
	q := request{Op: "psk", ID: []byte(id), Secret: bytes.Repeat([]byte(id), 4)}
	for _, m := range slices.Concat(r.members, others) {
		m.do(q)
	}
	r.psks = append(r.psks, q)
	return []byte(id)
}
