package client_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/cmd/mimimi/domain"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/redeem/redeemtest"
)

// infiltrator is a leaf that the hub brings into a group by itself. Whatever it can read there, its operator sees.
type infiltrator struct {
	o     *operator
	who   *impostor
	bus   *bus.Bus
	group *mls.Group // nil: not in
	own   *mls.KeyPackageSecrets
	id    mimimi.GroupID
	last  uint64
	read  int // messages that it could read
}

// join lets the infiltrator into a group by an invitation that the hub writes into the log itself.
func (x *infiltrator) join(ctx context.Context, id mimimi.GroupID) error {
	token := mimimi.NewInviteSecret().JoinToken()
	if err := x.admit(ctx, id, token); err != nil {
		return err
	}
	hub := x.o.hub()
	got, err := hub.GetGroup(ctx, &mimimiv1.GetGroupRequest{GroupId: []byte(id.Wire()), Proof: &mimimiv1.Proof{JoinToken: token.Bytes()}})
	if err != nil {
		return err
	}
	kp, keys := x.who.keyPackage()
	staged, err := mls.JoinExternal(mls.ExternalJoinConfig{GroupInfo: got.GroupInfo, Tree: got.RatchetTree, Pending: got.PendingProposals, KeyPackage: kp, Secrets: keys,
		HubExtensions: hubExtensions, Rules: laxRules(), PastEpochs: 8})
	if err != nil {
		return err
	}
	res, err := hub.Commit(ctx, &mimimiv1.CommitRequest{RequestId: random(16), GroupId: []byte(id.Wire()), Commit: staged.Message,
		GroupInfo: staged.GroupInfo, JoinToken: token.Bytes()})
	if err != nil {
		return err
	}
	if err := (*mls.Group)(nil).Merge(staged); err != nil {
		return err
	}
	x.group, x.own, x.id, x.last = staged.Group(), keys, id, res.Sequence
	return nil
}

// admit writes an invitation into a group's log, as the hub itself does once it has checked who asks for it.
func (x *infiltrator) admit(ctx context.Context, id mimimi.GroupID, token mimimi.JoinToken) (err error) {
	subject, hash := x.bus.GroupHandshakes([]byte(id.Wire())), token.Hash()
	for range 10 {
		last, err := x.bus.Last(ctx, subject)
		if err != nil {
			return err
		}
		e := new(mimimiv1.GroupEntry)
		if err := proto.Unmarshal(last.Data, e); err != nil {
			return err
		}
		if e.GetState() != nil {
			e.Checkpoint = last.Sequence
		}
		e.RequestId, e.Handshake = random(16), last.Sequence
		e.Entry = &mimimiv1.GroupEntry_Invitation{Invitation: &mimimiv1.InvitationEntry{Register: &mimimiv1.Invitation{
			JoinTokenHash: hash[:], UsesLeft: 1, NotAfter: e.AcceptedMs/1000 + 3600}}}
		data, err := proto.Marshal(e)
		if err != nil {
			return err
		}
		if _, err = x.bus.Publish(ctx, subject, data, bus.PublishOptions{ExpectLast: &last.Sequence}); err == nil {
			return nil
		}
	}
	return err
}

// follow reads on in the group's log, as the hub can, and shows the operator all that the infiltrator can decrypt.
func (x *infiltrator) follow(ctx context.Context) error {
	for x.group != nil {
		page, more, err := x.bus.Read(ctx, x.bus.GroupLog([]byte(x.id.Wire())), x.last, 256, 1<<20)
		if err != nil {
			return err
		}
		for _, m := range page {
			x.last = m.Sequence
			e := new(mimimiv1.GroupEntry)
			if err := proto.Unmarshal(m.Data, e); err != nil {
				return err
			}
			if err := x.process(e); err != nil || x.group == nil {
				return err
			}
		}
		if !more {
			return nil
		}
	}
	return nil
}

func (x *infiltrator) process(e *mimimiv1.GroupEntry) error {
	if a := e.GetApplication(); a != nil {
		if got, err := x.group.Process(a.Message, mls.ProcessOptions{}); err == nil { // of an epoch that it was in
			x.read++
			x.o.see(got.Application.Data)
		}
		return nil
	}
	var message []byte
	switch {
	case e.GetCommit() != nil:
		message = e.GetCommit().Message
	case e.GetProposal() != nil:
		message = e.GetProposal().Message
	default:
		return nil
	}
	got, err := x.group.Process(message, mls.ProcessOptions{})
	if err == nil && got.Commit != nil {
		err = x.open(got.Commit.Change)
	}
	switch {
	case err != nil:
		return fmt.Errorf("the infiltrator cannot follow: %w", err)
	case got.Commit != nil && got.Commit.RemovesSelf():
		x.group = nil
	case got.Commit != nil:
		return x.group.Merge(got.Commit)
	}
	return nil
}

// open shows the operator the link keys in a commit: whoever is in the epoch that is left can open them.
func (x *infiltrator) open(ch *mls.Change) error {
	for _, p := range ch.Proposals {
		if p.Type != mimimi.ProposalIdentityLinkUpdate {
			continue
		}
		key, err := mimimi.NewLinkUpdateKey(x.group)
		if err != nil {
			return err
		}
		keys, err := key.Open(x.id, x.group.Epoch(), ch.Sender.Leaf, ch.AddedRefs, p.Body)
		if err != nil {
			return err
		}
		for _, k := range keys.Added {
			x.o.see(k.Bytes())
		}
		if keys.Own != nil {
			x.o.see(keys.Own.Bytes())
		}
	}
	return nil
}

func hubExtensions(next *mls.Group) ([]mls.Extension, error) {
	s, err := mimimi.NewEpochSender(next)
	return []mls.Extension{s.Extension()}, err
}

// laxRules let pass what pkg/mls would refuse on pkg/mimimi's behalf.
func laxRules() *mls.Rules {
	r := mimimi.MLSRules()
	r.CheckLeaf = nil
	return r
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// manyGroups are the tokens of people who make a group, or join one, for each request of a flow.
var manyGroups = map[mimimi.TokenOperation]uint16{
	mimimi.TokenQueue: 5, mimimi.TokenUpload: 30, mimimi.TokenGroup: 30, mimimi.TokenClaim: 60, mimimi.TokenConnect: 20,
}

// evil is a domain whose hub is malicious, with a clock of its own.
type evil struct {
	*domain.Domain
	o     *operator
	bus   *bus.Bus
	ahead atomic.Int64
}

func (e *evil) now() time.Time { return time.Now().Add(time.Duration(e.ahead.Load())) }

func newEvil(t *testing.T) *evil {
	t.Helper()
	e := &evil{o: newOperator(t.TempDir())}
	var err error
	e.Domain, err = domain.Start(t.Context(), e.o.options(domain.Options{Domain: "evil.localhost", Now: e.now, TokenQuotas: manyGroups, NewIssuerKey: redeemtest.IssuerKey}))
	check(t, err)
	e.bus, err = e.Operator(t.Context())
	check(t, err)
	t.Cleanup(func() {
		for _, err := range []error{e.bus.Close(context.Background()), e.Stop(context.Background())} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	return e
}

// patienceWithJoiners is a little more than the time for which the hub's rules let no second joiner in.
const patienceWithJoiners = 10*time.Minute + 2*time.Second

// forMembers is content that no hub reads.
const forMembers = "for members only"

// flow is something that honest people do with a hub that joins by itself.
type flow struct {
	people []*person
	run    func()      // may fail: the hub is in the way
	done   func() bool // the flow is complete, with nobody in it but the people
	over   func() bool // nobody waits for anything any more: the flow is done or given up
	ended  func() bool // the group has ended, since the hub took what breaks a rule; nil where the flow gets over that
}

// TestHubJoinsByItself has the hub bring a leaf of its own into the group at every point of the connection, the add and the join flow, right before each
// request that the flow makes to it. It reads along from there. It must learn no link key, no connection key and no token, whatever the point; and
// once the members have got rid of it, either all is as it should be, or the flow was given up.
func TestHubJoinsByItself(t *testing.T) {
	e := newEvil(t)
	for name, scene := range map[string]func(t *testing.T, v *vault) func() flow{"connection": e.connection, "add": e.add, "join": e.join} {
		t.Run(name, func(t *testing.T) {
			points, done, joined, ended, read, v := 0, 0, 0, 0, 0, newVault()
			begin := scene(t, v)
			for point := 0; ; point++ {
				f := begin()
				x := &infiltrator{o: e.o, who: e.o.impostor(t, "evil.localhost", fmt.Sprintf("mimi://evil.localhost/u/spy-%d", time.Now().UnixNano())), bus: e.bus}
				reached := e.infiltrate(t, v, x, f, point)
				switch {
				case f.done():
					done++
				case f.ended != nil && f.ended():
					ended++
				}
				if x.id != (mimimi.GroupID{}) {
					joined++
				}
				read += x.read
				if !reached {
					break
				}
				points++
			}
			t.Logf("of %d points the hub got in at %d, and read %d messages; the flow was completed %d times", points, joined, read, done)
			if joined < points-1 || joined < 3 || done == 0 { // there is nothing to get into before a group is made
				t.Errorf("of %d points the hub got in at %d, and the flow was completed %d times", points, joined, done)
			}
			if name != "add" && done+ended != points+1 {
				t.Errorf("of %d flows that the hub got into %d came about, and %d groups ended", points+1, done, ended)
			}
		})
	}
}

// infiltrate plays a flow, with the infiltrator's entry before the given request. It says whether there was such a request.
func (e *evil) infiltrate(t *testing.T, v *vault, x *infiltrator, f flow, point int) (reached bool) {
	t.Helper()
	var calls atomic.Int64
	e.o.record(t)
	e.o.mu.Lock()
	e.o.before = func(procedure string, group []byte) {
		if n := calls.Add(1) - 1; int(n) != point || strings.HasSuffix(procedure, "CreateGroup") {
			return
		}
		if id, err := mimimi.ParseGroupID(group); err == nil {
			if x.join(context.Background(), id) != nil { // its rules let one joiner in at a time: it says that ten minutes have passed
				e.ahead.Add(int64(patienceWithJoiners))
				_ = x.join(context.Background(), id)
				e.ahead.Add(-int64(patienceWithJoiners))
			}
		}
	}
	e.o.mu.Unlock()
	stop := func() {
		e.o.mu.Lock()
		defer e.o.mu.Unlock()
		e.o.before = nil
	}
	t.Cleanup(stop)
	follow := func() {
		if err := x.follow(t.Context()); err != nil {
			t.Errorf("point %d: %v", point, err)
		}
	}
	f.run()
	for range 3 { // as far as it goes with the hub inside
		for _, p := range f.people {
			_ = p.c.Sync(t.Context())
		}
		follow()
	}
	reached = int(calls.Load()) > point
	stop()
	e.ahead.Add(int64(25 * time.Minute)) // what the hub has made ten, and ten more
	until(t, fmt.Sprintf("point %d: the end", point), func() bool { follow(); return f.over() }, f.people...)
	follow()
	v.unknownTo(t, e.o)
	if e.o.knows([]byte(forMembers)) {
		t.Errorf("point %d: the hub has read a message", point)
	}
	return reached
}

// connection is two people who connect.
func (e *evil) connection(t *testing.T, v *vault) func() flow {
	t.Helper()
	alice := v.register(t, e.Domain, "alice", e.now)
	return func() flow {
		bob := v.register(t, e.Domain, "bob", e.now)
		return flow{people: []*person{alice, bob},
			run: func() {
				_ = alice.c.Connect(t.Context(), bob.c.User())
				_ = bob.c.Sync(t.Context())
				for _, r := range bob.requests() {
					_ = bob.c.Accept(t.Context(), r.ID)
				}
			},
			done: func() bool { return alice.connected(bob) && bob.connected(alice) },
			over: func() bool {
				clean := client.Unidentified(alice.c, client.ConnectionGroup(alice.c, bob.c.User())) == 0 &&
					client.Unidentified(bob.c, client.ConnectionGroup(bob.c, alice.c.User())) == 0
				contacts, _ := bob.c.Contacts(t.Context())
				return clean && (alice.connected(bob) && bob.connected(alice) || len(contacts) == 0 && len(bob.requests()) == 0)
			},
		}
	}
}

// pair is two people who are connected.
func (e *evil) pair(t *testing.T, v *vault) (alice, bob *person) {
	t.Helper()
	alice, bob = v.register(t, e.Domain, "alice", e.now), v.register(t, e.Domain, "bob", e.now)
	connect(t, alice, bob)
	return alice, bob
}

// add is somebody who adds a contact to a group.
func (e *evil) add(t *testing.T, v *vault) func() flow {
	t.Helper()
	alice, bob := e.pair(t, v)
	return func() flow {
		group, err := alice.c.CreateGroup(t.Context(), "")
		check(t, err)
		before := len(bob.groups())
		return flow{people: []*person{alice, bob},
			run:  func() { _ = alice.c.Add(t.Context(), group, bob.c.User()); alice.send(group, forMembers) },
			done: func() bool { return alice.members(group) == 2 && len(bob.groups()) > before },
			over: func() bool { return client.Unidentified(alice.c, group) == 0 && alice.waiting(group) == 0 },
		}
	}
}

// join is somebody who joins a group by a link.
func (e *evil) join(t *testing.T, v *vault) func() flow {
	t.Helper()
	alice, bob := e.pair(t, v)
	return func() flow {
		group, err := alice.c.CreateGroup(t.Context(), "")
		check(t, err)
		joined, link, last := "", "", time.Time{}
		enter := func() {
			id, err := bob.c.Join(t.Context(), link)
			if joined = id; err != nil {
				joined = ""
			}
		}
		return flow{people: []*person{alice, bob},
			run: func() {
				link, err = alice.c.Invite(t.Context(), group, client.InviteOptions{})
				if err == nil {
					enter()
				}
				alice.send(group, forMembers)
			},
			done:  func() bool { return alice.members(group) == 2 && joined != "" && bob.members(joined) == 2 },
			ended: func() bool { return !client.Alive(alice.c, group) },
			over: func() bool {
				over := client.Unidentified(alice.c, group) == 0 && alice.waiting(group) == 0 && len(bob.groups()) == len(bob.ready())
				if over && link != "" && client.Alive(alice.c, group) && joined == "" && time.Since(last) > time.Second { // as a user does who was told that it failed
					last = time.Now()
					enter()
					over = false
				}
				return over
			},
		}
	}
}

// waiting is how many messages of a person wait to be sent.
func (p *person) waiting(group string) int {
	p.t.Helper()
	for _, g := range p.groups() {
		if g.ID == group {
			return g.Waiting
		}
	}
	return 0
}

// ready are the groups that a person is on the way into no more.
func (p *person) ready() (all []client.Group) {
	p.t.Helper()
	for _, g := range p.groups() {
		if g.State != client.GroupJoining {
			all = append(all, g)
		}
	}
	return all
}
