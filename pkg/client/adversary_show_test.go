package client_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// asked is a call to a service, with the honest service's answer at hand.
type asked[Req, Res any] = func(ctx context.Context, req *Req, honest func(context.Context, *Req) (*Res, error)) (*Res, error)

// TestHubShowsItsOwnGroup: a hub shows a joiner a group that it made itself, with the inviter's real leaf copied into it at its place, and takes all that the
// joiner then sends. It gets no link key and no word, and the joiner is never in.
func TestHubShowsItsOwnGroup(t *testing.T) {
	var kp *mls.KeyPackage
	stop := meddle(t, theWorld.opB, mimimiv1connect.KeyPackageServiceClaimProcedure, asked[mimimiv1.ClaimRequest, mimimiv1.ClaimResponse](
		func(ctx context.Context, req *mimimiv1.ClaimRequest, honest func(context.Context, *mimimiv1.ClaimRequest) (*mimimiv1.ClaimResponse, error)) (*mimimiv1.ClaimResponse, error) {
			res, err := honest(ctx, req)
			if err == nil {
				kp, err = mls.ParseKeyPackage(res.KeyPackages[0]) // the hub finds it in the commit that adds bob
			}
			return res, err
		}))
	_, bob, group, id := duo(t)
	stop()
	link, err := bob.c.Invite(t.Context(), group[bob], client.InviteOptions{})
	check(t, err)

	spy := theWorld.opA.impostor(t, "a.localhost", "mimi://a.localhost/u/spy")
	name, err := mimimi.ParseGroupID([]byte(id))
	check(t, err)
	fake := spy.groupAs(name)
	added := adding(t, &fake.Insider, []*mls.KeyPackage{kp}, []mimimi.LinkKey{mimimi.LinkKey{}}, func([]*mimimi.LinkKey) {})
	check(t, fake.Group.Merge(added))
	theWorld.opA.record(t)
	shown := show(t, fake)

	v := newVault()
	dave := v.register(t, theWorld.a, "dave", nil)
	joined, err := dave.c.Join(t.Context(), link)
	check(t, err)
	_, err = dave.c.Send(t.Context(), joined, []byte("is anybody there"))
	check(t, err)
	for range 3 {
		_ = dave.c.Sync(t.Context()) // the hub's group has no log
	}
	if shown.Load() == 0 {
		t.Fatal("dave said nothing that the hub could have used")
	}
	v.unknownTo(t, theWorld.opA)
	if theWorld.opA.knows([]byte("is anybody there")) || dave.waiting(joined) == 0 {
		t.Error("dave talks to the hub's group")
	}
	if len(dave.ready()) != 0 {
		t.Error("dave believes to be in")
	}
}

// show has the hub serve a group of its own making under the real one's id. It returns how many messages it was sent.
func show(t *testing.T, fake *made) (messages *atomic.Int64) {
	t.Helper()
	messages = new(atomic.Int64)
	creation := fake.creation(t)
	meddle(t, theWorld.opA, mimimiv1connect.HubServiceGetGroupProcedure, asked[mimimiv1.GetGroupRequest, mimimiv1.GetGroupResponse](
		func(context.Context, *mimimiv1.GetGroupRequest, func(context.Context, *mimimiv1.GetGroupRequest) (*mimimiv1.GetGroupResponse, error)) (*mimimiv1.GetGroupResponse, error) {
			return &mimimiv1.GetGroupResponse{GroupInfo: creation.GroupInfo, RatchetTree: creation.RatchetTree, Epoch: fake.Group.Epoch(), Sequence: 1}, nil
		}))
	meddle(t, theWorld.opA, mimimiv1connect.HubServiceCommitProcedure, asked[mimimiv1.CommitRequest, mimimiv1.CommitResponse](
		func(_ context.Context, req *mimimiv1.CommitRequest, _ func(context.Context, *mimimiv1.CommitRequest) (*mimimiv1.CommitResponse, error)) (*mimimiv1.CommitResponse, error) {
			got, err := fake.Group.Process(req.Commit, mls.ProcessOptions{})
			if err != nil {
				return nil, err
			}
			return &mimimiv1.CommitResponse{Sequence: 2, Accepted: time.Now().Unix(), Previous: 1}, fake.Group.Merge(got.Commit)
		}))
	meddle(t, theWorld.opA, mimimiv1connect.HubServiceSendMessageProcedure, asked[mimimiv1.SendMessageRequest, mimimiv1.SendMessageResponse](
		func(_ context.Context, req *mimimiv1.SendMessageRequest, _ func(context.Context, *mimimiv1.SendMessageRequest) (*mimimiv1.SendMessageResponse, error)) (*mimimiv1.SendMessageResponse, error) {
			got, err := fake.Group.Process(req.Message, mls.ProcessOptions{})
			if err != nil {
				return nil, err
			}
			theWorld.opA.see(got.Application.Data)
			return &mimimiv1.SendMessageResponse{Sequence: uint64(2 + messages.Add(1)), Accepted: time.Now().Unix()}, nil
		}))
	return messages
}

// TestStaleOrForgedGroupInfo: a hub shows a joiner an old GroupInfo, or one that was altered, or another group's. The joiner does not enter, and gives nothing away.
func TestStaleOrForgedGroupInfo(t *testing.T) {
	alice, bob, group, own := duo(t)
	link, err := bob.c.Invite(t.Context(), group[bob], client.InviteOptions{Uses: 5})
	check(t, err)
	var old *mimimiv1.GetGroupResponse
	meddled := func(t *testing.T, change func(res *mimimiv1.GetGroupResponse) *mimimiv1.GetGroupResponse) {
		t.Helper()
		meddle(t, theWorld.opA, mimimiv1connect.HubServiceGetGroupProcedure, asked[mimimiv1.GetGroupRequest, mimimiv1.GetGroupResponse](
			func(ctx context.Context, req *mimimiv1.GetGroupRequest, honest func(context.Context, *mimimiv1.GetGroupRequest) (*mimimiv1.GetGroupResponse, error)) (*mimimiv1.GetGroupResponse, error) {
				res, err := honest(ctx, req)
				if err != nil {
					return nil, err
				}
				return change(res), nil
			}))
	}
	t.Run("(what the hub has)", func(t *testing.T) {
		meddled(t, func(res *mimimiv1.GetGroupResponse) *mimimiv1.GetGroupResponse { old = res; return res })
		dave := register(t, theWorld.a, "dave")
		joined, err := dave.c.Join(t.Context(), link)
		check(t, err)
		until(t, "dave is in", func() bool { return dave.members(joined) == 3 && len(dave.ready()) == 1 }, dave, bob, alice)
	})
	check(t, alice.c.Commit(t.Context(), group[alice]))
	_, _, _, other := duo(t)
	for _, x := range []struct {
		name   string
		change func(res *mimimiv1.GetGroupResponse) *mimimiv1.GetGroupResponse
		want   error
	}{
		{"stale", func(*mimimiv1.GetGroupResponse) *mimimiv1.GetGroupResponse { return old }, client.ErrBusy},
		{"forged signature", func(res *mimimiv1.GetGroupResponse) *mimimiv1.GetGroupResponse {
			res.GroupInfo[len(res.GroupInfo)-1] ^= 1
			return res
		}, client.ErrBadInvitation},
		{"forged external_pub", func(res *mimimiv1.GetGroupResponse) *mimimiv1.GetGroupResponse {
			res.GroupInfo[len(res.GroupInfo)-150] ^= 1
			return res
		}, client.ErrBadInvitation},
		{"an older tree", func(res *mimimiv1.GetGroupResponse) *mimimiv1.GetGroupResponse {
			res.RatchetTree = old.RatchetTree
			return res
		}, client.ErrBadInvitation},
		{"another group's", func(*mimimiv1.GetGroupResponse) *mimimiv1.GetGroupResponse { return without(t, other) }, client.ErrBadInvitation},
		{"without the inviter", func(*mimimiv1.GetGroupResponse) *mimimiv1.GetGroupResponse { return without(t, own) }, client.ErrBadInvitation},
	} {
		t.Run(x.name, func(t *testing.T) {
			theWorld.opA.record(t)
			v := newVault()
			erin := v.register(t, theWorld.a, "erin", nil)
			meddled(t, x.change)
			_, err := erin.c.Join(t.Context(), link)
			wantError(t, "join", err, x.want)
			if len(erin.groups()) != 0 {
				t.Error("erin has a group")
			}
			v.unknownTo(t, theWorld.opA)
		})
	}
}

// without is a group of the hub's own with an id of its choice, which nobody else is in.
func without(t *testing.T, group string) *mimimiv1.GetGroupResponse {
	t.Helper()
	id, err := mimimi.ParseGroupID([]byte(group))
	check(t, err)
	creation := theWorld.opA.impostor(t, "a.localhost", "mimi://a.localhost/u/spy").groupAs(id).creation(t)
	return &mimimiv1.GetGroupResponse{GroupInfo: creation.GroupInfo, RatchetTree: creation.RatchetTree}
}

// TestFloodInOneGroup: a member floods one group, to see by a resync or a look into the log in another whose leaves are one client's. The victim's other group gets
// everything, and its hub is asked for nothing.
func TestFloodInOneGroup(t *testing.T) {
	const quota = 512 // the provider's, for each queue and group
	c := newCast(t)
	other, err := c.alice.c.CreateGroup(t.Context(), "")
	check(t, err)
	check(t, c.alice.c.Add(t.Context(), other, c.bob.c.User()))
	before := c.bob.newest()
	until(t, "bob in", func() bool { return c.bob.newest() != before }, c.bob)
	there, err := client.Inside(c.alice.c, other)
	check(t, err)
	c.alice.send(other, "before")

	in := c.inside(c.eve)
	sender, err := mimimi.NewEpochSender(in.Group)
	check(t, err)
	for range quota + 10 {
		m, err := in.Group.Encrypt(mimimi.Envelope{Type: 60000}.Marshal(), nil, mimimi.PadTo) // of no type that there is
		check(t, err)
		_, err = theWorld.opA.hub().SendMessage(t.Context(), &mimimiv1.SendMessageRequest{RequestId: random(16), GroupId: []byte(in.ID.Wire()),
			Epoch: in.Group.Epoch(), Message: m, Signature: sender.SignMessage(in.ID, in.Group.Epoch(), m)})
		check(t, err)
	}
	c.bob.await("the flood", func(all []*mimimiv1.QueueEntry) bool {
		return slices.ContainsFunc(all, func(e *mimimiv1.QueueEntry) bool { return e.GetLost() != nil })
	})
	c.alice.send(other, "after")
	c.bob.await("what came after it", func(all []*mimimiv1.QueueEntry) bool {
		n := 0
		for _, e := range all {
			if string(e.GetDelivery().GetGroupId()) == there.ID.Wire() || string(e.GetLost().GetGroupId()) == there.ID.Wire() {
				n++
			}
		}
		return n >= 2
	})

	var lostHere, lostThere, lookedThere atomic.Int64
	watchQueue(t, theWorld.opB, func(e *mimimiv1.QueueEntry) {
		switch group := string(e.GetLost().GetGroupId()); {
		case group == in.ID.Wire():
			lostHere.Add(1)
		case group == there.ID.Wire():
			lostThere.Add(1)
		}
	})
	theWorld.opA.mu.Lock()
	theWorld.opA.before = func(_ string, group []byte) {
		if string(group) == there.ID.Wire() {
			lookedThere.Add(1)
		}
	}
	theWorld.opA.mu.Unlock()
	t.Cleanup(func() {
		theWorld.opA.mu.Lock()
		defer theWorld.opA.mu.Unlock()
		theWorld.opA.before = nil
	})
	until(t, "bob reads", func() bool { return slices.Contains(c.bob.read(c.bob.newest()), "after") }, c.bob)
	if got := c.bob.read(c.bob.newest()); !slices.Equal(got, []string{"before", "after"}) {
		t.Errorf("bob read %q", got)
	}
	if lostHere.Load() == 0 || lostThere.Load() != 0 || lookedThere.Load() != 0 {
		t.Errorf("lost notices: %d here, %d there; the other group's hub was asked %d times", lostHere.Load(), lostThere.Load(), lookedThere.Load())
	}
}

// await looks into a person's queue, and takes nothing out, until it is as wanted.
func (p *person) await(what string, is func([]*mimimiv1.QueueEntry) bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	for {
		all, err := client.Waiting(ctx, p.c)
		if err == nil && is(all) {
			return
		}
		check(p.t, p.w.Reset(ctx, p.c))
		short, stop := context.WithTimeout(ctx, 200*time.Millisecond)
		_ = p.w.Wait(short)
		stop()
		if ctx.Err() != nil {
			p.t.Fatalf("%s: did not happen: %v", what, err)
		}
	}
}
