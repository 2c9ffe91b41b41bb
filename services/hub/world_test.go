package hub

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/protobuf/proto"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/redeem/redeemtest"
)

const hubDomain = "hub.example"

// noon is a Wednesday.
var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// clock is a hand-set clock, in milliseconds.
type clock struct{ ms atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.ms.Store(noon.UnixMilli())
	return c
}

func (c *clock) now() time.Time          { return time.UnixMilli(c.ms.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.ms.Add(d.Milliseconds()) }

// newReplica is a hub on a bus of its own connection.
func newReplica(t testing.TB, b *bus.Bus, c *clock) *server {
	t.Helper()
	return replicaOn(t, b, b, c)
}

func replicaOn(t testing.TB, log eventLog, names subjects, c *clock) *server {
	t.Helper()
	m := must(newMetrics(noop.NewMeterProvider().Meter("test")))
	return &server{
		domain: hubDomain, store: &store{log: log, names: names, cache: newCache(cacheWeight)},
		redeemer: redeemtest.AcceptAll{}, now: c.now, metrics: m, paces: newPaces(), history: make(chan struct{}, maxHistory),
		draw: func(int) int { return 1 },
	}
}

// world is one group: its members and a hub.
type world struct {
	t       *testing.T
	clock   *clock
	bus     *bus.Bus
	hub     *server
	id      mimimi.GroupID
	policy  *mimimi.Policy
	members map[string]*member
	people  map[string]*person
	domains map[string]*provider
}

type provider struct {
	name     string
	identity mls.SignatureKey
	queueKey mimimi.QueueKey
}

// person is a user in this group, with one client.
type person struct {
	*provider
	connection mimimi.ConnectionKey
	pseudonym  mimimi.UserPseudonym
	certKey    mls.SignatureKey
	cert       *mimimi.ClientCertificate
}

type member struct {
	*person
	group *mls.Group
	kp    *mls.KeyPackage
	keys  *mls.KeyPackageSecrets
}

type newcomer struct {
	name string
	kp   *mls.KeyPackage
	keys *mls.KeyPackageSecrets
}

// emptyWorld has a hub and no group yet.
func emptyWorld(t *testing.T, b *bus.Bus) *world {
	t.Helper()
	c := newClock()
	w := &world{t: t, clock: c, bus: b, hub: newReplica(t, b, c), id: must(mimimi.NewGroupID(hubDomain)), members: map[string]*member{},
		people: map[string]*person{}, domains: map[string]*provider{}}
	w.policy = &mimimi.Policy{Version: mimimi.Version, MayAdd: mimimi.RoleMember, MayRemove: mimimi.RoleAdmin, MayInvite: mimimi.RoleMember,
		ExternalJoins: true, LastResort: true, MaxLeaves: 100, Admins: []mimimi.UserPseudonym{w.person("alice").pseudonym}}
	return w
}

// newWorld is a group of alice, its admin, and of others whom she added.
func newWorld(t *testing.T, b *bus.Bus, others ...string) *world {
	t.Helper()
	w := emptyWorld(t, b)
	w.create()
	if len(others) > 0 {
		w.add("alice", others...)
	}
	return w
}

func (w *world) provider(name string) *provider {
	if p, ok := w.domains[name]; ok {
		return p
	}
	p := &provider{name: name, identity: must(mimimi.Suite.GenerateSignatureKey())}
	p.queueKey = mimimi.QueueKey{KeyID: 7, Public: must(mimimi.Suite.GenerateHPKEKey()).Public(), Domain: name}
	w.domains[name] = p
	return p
}

// person returns the user of a name: alice and other a… are of a.example, b… of b.example, all others of c.example.
func (w *world) person(name string) *person {
	w.t.Helper()
	if p, ok := w.people[name]; ok {
		return p
	}
	domain := map[byte]string{'a': "a.example", 'b': "b.example"}[name[0]]
	if domain == "" {
		domain = "c.example"
	}
	p := &person{provider: w.provider(domain), connection: mimimi.NewConnectionKey(), pseudonym: must(mimimi.NewUserPseudonym(domain)),
		certKey: must(mimimi.Suite.GenerateSignatureKey())}
	user := must(mimimi.ParseUser("mimi://" + domain + "/u/" + name))
	p.cert = must(mimimi.IssueClientCertificate(p.identity, user, must(mimimi.NewClient(domain)), p.certKey.Public(), noon, 365*24*time.Hour))
	w.people[name] = p
	return p
}

func (w *world) newcomer(name string, change ...func(*mimimi.KeyPackageConfig)) newcomer {
	w.t.Helper()
	p := w.person(name)
	cfg := mimimi.KeyPackageConfig{ConnectionKey: p.connection, CertificateKey: p.certKey, Certificate: p.cert, UserPseudonym: p.pseudonym,
		QueueID: mimimi.NewQueueID(), QueueKey: p.queueKey, Now: w.clock.now()}
	for _, f := range change {
		f(&cfg)
	}
	kp, keys, err := mimimi.NewKeyPackage(cfg)
	ok(w.t, err)
	return newcomer{name, kp, keys}
}

// hubExtensions are what a member puts into the GroupInfo for the hub.
func hubExtensions(next *mls.Group) ([]mls.Extension, error) {
	s, err := mimimi.NewEpochSender(next)
	return []mls.Extension{s.Extension()}, err
}

func (w *world) creation() (*pb.CreateGroupRequest, *member) {
	w.t.Helper()
	n := w.newcomer("alice")
	g := must(mls.NewGroup(mls.GroupConfig{GroupID: []byte(w.id.Wire()), KeyPackage: n.kp, Secrets: n.keys,
		Extensions: mimimi.GroupExtensions(w.policy), Rules: mimimi.MLSRules()}))
	rq := &pb.CreateGroupRequest{RequestId: random(16), GroupInfo: must(g.GroupInfo(must(hubExtensions(g)), false)), RatchetTree: g.Public().Tree()}
	rq.Token = redeemtest.Token(mimimi.TokenGroup, hubDomain, hubDomain, w.clock.now(), rq.RequestId)
	return rq, &member{person: w.person("alice"), group: g, kp: n.kp, keys: n.keys}
}

func (w *world) create() {
	w.t.Helper()
	rq, m := w.creation()
	_, err := w.hub.CreateGroup(w.t.Context(), rq)
	ok(w.t, err)
	w.members["alice"] = m
}

func adds(news ...newcomer) []mls.Proposal {
	var out []mls.Proposal
	for _, n := range news {
		out = append(out, mls.Proposal{Type: mls.ProposalAdd, KeyPackage: n.kp})
	}
	return out
}

// linkUpdate makes the identity_link_update of by for the Adds of news.
func (w *world) linkUpdate(by string, news ...newcomer) mls.Proposal {
	w.t.Helper()
	m, keys := w.members[by], mimimi.IdentityLinkKeys{}
	var refs [][]byte
	for _, n := range news {
		credential := must(mimimi.ParsePseudonymousCredential(n.kp.Leaf().Credential()))
		keys.Added = append(keys.Added, credential.LinkKey(w.person(n.name).connection))
		refs = append(refs, n.kp.Ref())
	}
	k := must(mimimi.NewLinkUpdateKey(m.group))
	return mls.Proposal{Type: mimimi.ProposalIdentityLinkUpdate, Body: must(k.Seal(w.id, m.group.Epoch(), m.group.OwnIndex(), refs, keys))}
}

// bundle is a commit with its request, not yet offered.
type bundle struct {
	by     string
	staged *mls.StagedCommit
	news   []newcomer
	rq     *pb.CommitRequest
}

func (w *world) bundle(by string, opts mls.CommitOptions, news ...newcomer) *bundle {
	w.t.Helper()
	if opts.HubExtensions == nil {
		opts.HubExtensions = hubExtensions
	}
	staged, err := w.members[by].group.Commit(opts)
	ok(w.t, err)
	return &bundle{by: by, staged: staged, news: news, rq: w.request(staged)}
}

func (w *world) request(staged *mls.StagedCommit) *pb.CommitRequest {
	return &pb.CommitRequest{RequestId: random(16), GroupId: []byte(w.id.Wire()), Commit: staged.Message, Welcome: staged.Welcome, GroupInfo: staged.GroupInfo}
}

func (w *world) addBundle(by string, names ...string) *bundle {
	w.t.Helper()
	var news []newcomer
	for _, n := range names {
		news = append(news, w.newcomer(n))
	}
	return w.bundle(by, mls.CommitOptions{Proposals: append(adds(news...), w.linkUpdate(by, news...))}, news...)
}

func (w *world) pathBundle(by string) *bundle {
	w.t.Helper()
	return w.bundle(by, mls.CommitOptions{Path: true})
}

func (w *world) removeBundle(by string, names ...string) *bundle {
	w.t.Helper()
	var ps []mls.Proposal
	for _, n := range names {
		ps = append(ps, mls.Proposal{Type: mls.ProposalRemove, Removed: w.members[n].group.OwnIndex()})
	}
	return w.bundle(by, mls.CommitOptions{Proposals: ps})
}

// offer sends a bundle; when it is accepted, everybody follows.
func (w *world) offer(b *bundle) *pb.CommitResponse {
	w.t.Helper()
	rs, err := w.hub.Commit(w.t.Context(), b.rq)
	ok(w.t, err)
	w.follow(b)
	return rs
}

// follow has all members process an accepted bundle and the newcomers join.
func (w *world) follow(b *bundle) {
	w.t.Helper()
	for name, m := range w.members {
		if name == b.by {
			ok(w.t, m.group.Merge(b.staged))
			continue
		}
		got, err := m.group.Process(b.staged.Message, mls.ProcessOptions{})
		ok(w.t, err)
		if got.Commit.RemovesSelf() {
			delete(w.members, name)
			continue
		}
		ok(w.t, m.group.Merge(got.Commit))
	}
	for _, n := range b.news {
		g, _, err := mls.Join(mls.JoinConfig{Welcome: b.staged.Welcome, Tree: b.staged.Change.After.Tree(), KeyPackage: n.kp, Secrets: n.keys, Rules: mimimi.MLSRules()})
		ok(w.t, err)
		w.members[n.name] = &member{person: w.person(n.name), group: g, kp: n.kp, keys: n.keys}
	}
}

func (w *world) add(by string, names ...string) *pb.CommitResponse {
	w.t.Helper()
	return w.offer(w.addBundle(by, names...))
}

func (w *world) update(by string) *pb.CommitResponse {
	w.t.Helper()
	return w.offer(w.pathBundle(by))
}

// propose sends a standalone proposal, which everybody then holds.
func (w *world) propose(by string, p mls.Proposal) *pb.ProposeResponse {
	w.t.Helper()
	rq := w.proposal(by, p)
	rs, err := w.hub.Propose(w.t.Context(), rq)
	ok(w.t, err)
	w.followProposal(by, rq)
	return rs
}

func (w *world) proposal(by string, p mls.Proposal) *pb.ProposeRequest {
	w.t.Helper()
	return &pb.ProposeRequest{RequestId: random(16), GroupId: []byte(w.id.Wire()), Proposal: must(w.members[by].group.Propose(p, mls.ProposeOptions{}))}
}

func (w *world) followProposal(by string, rq *pb.ProposeRequest) {
	w.t.Helper()
	for name, m := range w.members {
		if name != by {
			_, err := m.group.Process(rq.Proposal, mls.ProcessOptions{})
			ok(w.t, err)
		}
	}
}

var selfRemove = mls.Proposal{Type: mls.ProposalSelfRemove}

// message makes an application message of a member's epoch.
func (w *world) message(by, text string) *pb.SendMessageRequest {
	w.t.Helper()
	m := w.members[by]
	return w.signed(m, must(m.group.Encrypt([]byte(text), nil, mimimi.PadTo)))
}

func (w *world) signed(m *member, msg []byte) *pb.SendMessageRequest {
	w.t.Helper()
	epoch := m.group.Epoch()
	sig := must(mimimi.NewEpochSender(m.group)).SignMessage(w.id, epoch, msg)
	return &pb.SendMessageRequest{RequestId: random(16), GroupId: []byte(w.id.Wire()), Epoch: epoch, Message: msg, Signature: sig}
}

func (w *world) send(by, text string) *pb.SendMessageResponse {
	w.t.Helper()
	rs, err := w.hub.SendMessage(w.t.Context(), w.message(by, text))
	ok(w.t, err)
	return rs
}

// leafProof signs a read as a leaf.
func (w *world) leafProof(by, operation string, body []byte) *pb.Proof {
	m := w.members[by]
	return w.proofOf(m, operation, body)
}

func (w *world) proofOf(m *member, operation string, body []byte) *pb.Proof {
	leaf, r := m.group.OwnIndex(), w.readRequest(m, operation, body)
	return &pb.Proof{Epoch: r.Epoch, Leaf: &leaf, Signed: &pb.Signed{
		RequestId: r.RequestID[:], Minute: r.Minute.Unix() / 60, Signature: mimimi.SignReadAsLeaf(m.keys.SignatureKey, r),
	}}
}

func (w *world) readRequest(m *member, operation string, body []byte) *mimimi.ReadRequest {
	return &mimimi.ReadRequest{Operation: operation, Group: w.id, Epoch: m.group.Epoch(), RequestID: [16]byte(random(16)),
		Minute: w.clock.now().Truncate(time.Minute), Body: body}
}

// epochProof signs a read with the key of a member's epoch.
func (w *world) epochProof(by, operation string) *pb.Proof {
	m := w.members[by]
	r := w.readRequest(m, operation, nil)
	return &pb.Proof{Epoch: r.Epoch, Signed: &pb.Signed{
		RequestId: r.RequestID[:], Minute: r.Minute.Unix() / 60, Signature: must(mimimi.NewEpochSender(m.group)).SignRead(r),
	}}
}

// invite registers an invitation and returns its token.
func (w *world) invite(by string, uses uint32, life time.Duration) mimimi.JoinToken {
	w.t.Helper()
	token := mimimi.NewInviteSecret().JoinToken()
	_, err := w.hub.RegisterInvitation(w.t.Context(), w.registration(by, token, uses, w.clock.now().Add(life)))
	ok(w.t, err)
	return token
}

func (w *world) registration(by string, token mimimi.JoinToken, uses uint32, notAfter time.Time) *pb.RegisterInvitationRequest {
	hash := token.Hash()
	rq := &pb.RegisterInvitationRequest{GroupId: []byte(w.id.Wire()), JoinTokenHash: hash[:], Uses: uses, NotAfter: notAfter.Unix()}
	rq.Proof = w.leafProof(by, mimimi.OpRegisterInvitation, invitationBody(rq))
	return rq
}

// joinBundle is an external join with what GetGroup returns for the token.
func (w *world) joinBundle(name string, token mimimi.JoinToken, change ...func(*mls.ExternalJoinConfig)) *bundle {
	w.t.Helper()
	got, err := w.hub.GetGroup(w.t.Context(), &pb.GetGroupRequest{GroupId: []byte(w.id.Wire()), Proof: &pb.Proof{JoinToken: token.Bytes()}})
	ok(w.t, err)
	n := w.newcomer(name)
	b := w.externalBundle(n, got, change...)
	b.rq.JoinToken = token.Bytes()
	return b
}

func (w *world) externalBundle(n newcomer, got *pb.GetGroupResponse, change ...func(*mls.ExternalJoinConfig)) *bundle {
	w.t.Helper()
	cfg := mls.ExternalJoinConfig{GroupInfo: got.GroupInfo, Tree: got.RatchetTree, Pending: got.PendingProposals, KeyPackage: n.kp, Secrets: n.keys,
		HubExtensions: hubExtensions, Rules: mimimi.MLSRules()}
	for _, f := range change {
		f(&cfg)
	}
	staged, err := mls.JoinExternal(cfg)
	ok(w.t, err)
	return &bundle{by: n.name, staged: staged, news: []newcomer{n}, rq: w.request(staged)}
}

// offerJoin offers an external commit and has everybody follow.
func (w *world) offerJoin(b *bundle) *pb.CommitResponse {
	w.t.Helper()
	rs, err := w.hub.Commit(w.t.Context(), b.rq)
	ok(w.t, err)
	n := b.news[0]
	delete(w.members, n.name) // a resync's old state
	w.follow(&bundle{by: n.name, staged: b.staged})
	ok(w.t, (*mls.Group)(nil).Merge(b.staged))
	w.members[n.name] = &member{person: w.person(n.name), group: b.staged.Group(), kp: n.kp, keys: n.keys}
	return rs
}

// resyncBundle is a resync of a member that proves its leaf by reading.
func (w *world) resyncBundle(name string) *bundle {
	w.t.Helper()
	m := w.members[name]
	got, err := w.hub.GetGroup(w.t.Context(), &pb.GetGroupRequest{GroupId: []byte(w.id.Wire()), Proof: w.leafProof(name, mimimi.OpReadGroupInfo, nil)})
	ok(w.t, err)
	n := newcomer{name, m.kp, m.keys}
	b := w.externalBundle(n, got, func(c *mls.ExternalJoinConfig) { c.Resync, c.OldLeaf = true, m.group.OwnIndex() })
	b.rq.ResyncSignature = mimimi.SignResync(m.keys.SignatureKey, w.id, got.Epoch, b.rq.Commit)
	return b
}

// readAll reads the whole log after a position.
func (w *world) readAll(by string, after uint64) []*pb.Delivery {
	w.t.Helper()
	var out []*pb.Delivery
	for {
		rs, err := w.hub.ReadLog(w.t.Context(), &pb.ReadLogRequest{GroupId: []byte(w.id.Wire()), After: after, Limit: 3, Proof: w.leafProof(by, mimimi.OpReadLog, nil)})
		ok(w.t, err)
		for _, e := range rs.Entries {
			d := new(pb.Delivery)
			ok(w.t, proto.Unmarshal(e.Delivery, d))
			out = append(out, d)
		}
		if !rs.More {
			return out
		}
		after = rs.Next
	}
}

// state is the group as another, cold replica reads it.
func (w *world) cold() *group {
	w.t.Helper()
	return must(newReplica(w.t, w.bus, w.clock).store.get(context.Background(), w.id))
}

func (w *world) warm() *group {
	w.t.Helper()
	return must(w.hub.store.current(context.Background(), w.id, nil))
}

// sameState compares two states in every field that a checkpoint holds, and those that it does not.
func sameState(t testing.TB, a, b *group) {
	t.Helper()
	if !proto.Equal(a.checkpointEntry(a.counted), b.checkpointEntry(b.counted)) {
		t.Error("the states differ in what a checkpoint holds")
	}
	if a.last != b.last || a.lastMillis != b.lastMillis || a.checkpoint != b.checkpoint || a.handshake != b.handshake || a.since != b.since || a.id != b.id {
		t.Error("the states differ in where they stand")
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("unexpected error: %v", err)
	}
}

// wantCode checks the Connect code of a refusal and a part of its sentence.
func wantCode(t testing.TB, err error, code connect.Code, sentence string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted, want %v", code)
	}
	if got := connect.CodeOf(err); got != code || !strings.Contains(err.Error(), sentence) {
		t.Fatalf("got %v, want %v with %q", err, code, sentence)
	}
	if strings.Contains(err.Error(), ".example") {
		t.Fatal("a refusal holds an identifier")
	}
}

// wantStale checks a stale answer and its detail.
func wantStale(t testing.TB, err error, epoch, sequence uint64) {
	t.Helper()
	wantCode(t, err, connect.CodeAborted, "moved on")
	c, isConnect := errors.AsType[*connect.Error](err)
	if !isConnect || len(c.Details()) != 1 {
		t.Fatal("no detail")
	}
	d, isStale := must(c.Details()[0].Value()).(*pb.StaleDetail)
	if !isStale || d.Epoch != epoch || d.Sequence != sequence {
		t.Fatalf("got the detail %v, want epoch %d, sequence %d", d, epoch, sequence)
	}
}

func testBus(t testing.TB) *bus.Bus { return bustest.Start(t).Bus("hub") }
