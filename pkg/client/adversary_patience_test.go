package client_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/cmd/mimimi/domain"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/problem"
	"mimimi.example/pkg/redeem/redeemtest"
)

// tried is alice and bob in a group at a domain whose clock the test puts forward and whose operator tries bob's patience.
type tried struct {
	at         *calendar
	o          *operator
	alice, bob *person
	group      string // alice's
	there      string // bob's
	id         string
}

func newTried(t *testing.T, spread time.Duration) *tried {
	t.Helper()
	x := &tried{at: new(calendar), o: newOperator(t.TempDir())}
	d, err := domain.Start(t.Context(), x.o.options(domain.Options{Domain: "slow.localhost", Now: x.at.now, TokenQuotas: quotas, NewIssuerKey: redeemtest.IssuerKey}))
	check(t, err)
	t.Cleanup(func() { check(t, d.Stop(context.Background())) })
	here := func(name string, spread time.Duration) *person {
		return registerConfig(t, name, client.Config{Provider: d.Info(), Stock: client.Stock{OneTime: 4, LastResort: 1}, Spread: spread, Now: x.at.now})
	}
	x.alice, x.bob = here("alice", -1), here("bob", spread)
	connect(t, x.alice, x.bob)
	x.group = pair(t, x.alice, x.bob)
	x.there = x.bob.group()
	in, err := client.Inside(x.alice.c, x.group)
	check(t, err)
	x.id = in.ID.Wire()
	check(t, x.bob.c.Sync(t.Context()))
	return x
}

// reads has the hub refuse reads of the log that name no leaf, and all of them while deny says so. It counts those that name one.
func (x *tried) reads(t *testing.T, deny *atomic.Bool) (named *atomic.Int64) {
	t.Helper()
	named = new(atomic.Int64)
	meddle(t, x.o, mimimiv1connect.HubServiceReadLogProcedure, func(ctx context.Context, req *mimimiv1.ReadLogRequest,
		honest func(context.Context, *mimimiv1.ReadLogRequest) (*mimimiv1.ReadLogResponse, error)) (*mimimiv1.ReadLogResponse, error) {
		if string(req.GroupId) != x.id {
			return honest(ctx, req)
		}
		byLeaf := req.Proof.Leaf != nil || len(req.Proof.LeafKey) > 0
		if byLeaf {
			named.Add(1)
		}
		if !byLeaf || deny.Load() {
			return nil, problem.Connect(problem.New(problem.Denied, "no"))
		}
		return honest(ctx, req)
	})
	return named
}

// gaps has bob's queue say of every entry that something stands before it.
func (x *tried) gaps(t *testing.T, on *atomic.Bool) {
	t.Helper()
	meddle(t, x.o, mimimiv1connect.QueueServiceReadProcedure, func(ctx context.Context, req *mimimiv1.ReadQueueRequest,
		honest func(context.Context, *mimimiv1.ReadQueueRequest) (*mimimiv1.ReadQueueResponse, error)) (*mimimiv1.ReadQueueResponse, error) {
		res, err := honest(ctx, req)
		for _, e := range res.GetEntries() {
			if on.Load() && e.Delivery != nil && string(e.Delivery.GroupId) == x.id {
				e.Delivery.Previous = e.Delivery.Sequence
			}
		}
		return res, err
	})
}

// say has alice send and bob sync.
func (x *tried) say(t *testing.T, text string) {
	t.Helper()
	x.alice.send(x.group, text)
	check(t, x.bob.c.Sync(t.Context()))
}

// TestHubProvokesReads: a hub that says all the time that something is missing, and takes no read without a name, gets few under bob's leaf's name: none at once, and the more it
// asks for the later each comes. Nothing is lost by that.
func TestHubProvokesReads(t *testing.T) {
	x := newTried(t, day)
	var on, deny atomic.Bool
	on.Store(true)
	named := x.reads(t, &deny)
	x.gaps(t, &on)
	x.say(t, "0")
	if named.Load() != 0 {
		t.Error("the first read under the leaf's name comes at once")
	}
	x.at.pass(3 * time.Minute)
	check(t, x.bob.c.Sync(t.Context()))
	if named.Load() != 1 {
		t.Errorf("%d reads under the leaf's name a little later, want one", named.Load())
	}
	n := 1
	for ; n <= 90; n++ { // half of them within an hour and a half, the others within a day
		x.at.pass(2 * time.Minute)
		if n > 45 {
			x.at.pass(28 * time.Minute)
		}
		x.say(t, fmt.Sprint(n))
	}
	if got := named.Load(); got < 10 || got > 4+6+24+2 {
		t.Errorf("%d reads under the leaf's name in a day in which it was provoked %d times", got, n)
	}
	on.Store(false)
	x.at.pass(2 * time.Hour)
	until(t, "bob has everything", func() bool { return len(x.bob.read(x.there)) == n }, x.bob)
	for i, text := range x.bob.read(x.there) {
		if text != fmt.Sprint(i) {
			t.Fatalf("bob read %q at place %d", text, i)
		}
	}
}

// TestHubDenies: a hub that shows a member nothing more does not end the group for it by that at once. It is asked again and again, more and more rarely; if it relents all goes on, with nothing
// lost; after a week it is taken at its word.
func TestHubDenies(t *testing.T) {
	for _, relents := range []bool{true, false} {
		t.Run(fmt.Sprint("relents ", relents), func(t *testing.T) {
			x := newTried(t, -1)
			var on, deny atomic.Bool
			on.Store(true)
			deny.Store(true)
			asked := x.reads(t, &deny)
			x.gaps(t, &on)
			x.say(t, "first")
			if n := x.bob.warnings(x.there); n != 1 {
				t.Errorf("bob was told %d times that he is out, want once", n)
			}
			for range 6 * 24 {
				x.at.pass(time.Hour)
				check(t, x.bob.c.Sync(t.Context()))
			}
			if x.bob.ending(x.there) != "" {
				t.Fatal("the hub has ended the group by its word alone")
			}
			if n := asked.Load(); n < 6 || n > 80 {
				t.Errorf("the hub was asked %d times in six days", n)
			}
			if relents {
				deny.Store(false)
				on.Store(false)
				x.at.pass(7 * time.Hour)
				x.say(t, "second")
				until(t, "bob reads", func() bool { return slices.Equal(x.bob.read(x.there), []string{"first", "second"}) }, x.bob)
				return
			}
			for range 2 * 24 {
				x.at.pass(time.Hour)
				check(t, x.bob.c.Sync(t.Context()))
			}
			if x.bob.ending(x.there) == "" {
				t.Error("bob waits for ever")
			}
		})
	}
}

// TestHubWithholdsForDays: a hub that withholds a commit for days, from queue and log, makes a member neither leave nor enter anew. When it gives the commit, all goes on.
func TestHubWithholdsForDays(t *testing.T) {
	x := newTried(t, -1)
	first := uint64(0)
	undo := deliveries(t, x.o, x.o, func(d *mimimiv1.Delivery) *mimimiv1.Delivery {
		if string(d.GroupId) == x.id && d.Kind == mimimiv1.Delivery_KIND_COMMIT && (first == 0 || first == d.Sequence) {
			first = d.Sequence
			return nil
		}
		return d
	})
	resyncs := 0
	meddle(t, x.o, mimimiv1connect.HubServiceCommitProcedure, func(ctx context.Context, req *mimimiv1.CommitRequest,
		honest func(context.Context, *mimimiv1.CommitRequest) (*mimimiv1.CommitResponse, error)) (*mimimiv1.CommitResponse, error) {
		if len(req.ResyncSignature) > 0 {
			resyncs++
		}
		return honest(ctx, req)
	})
	check(t, x.bob.c.Sync(t.Context()))
	for i := range 3 {
		check(t, x.alice.c.Commit(t.Context(), x.group))
		x.say(t, fmt.Sprint(i))
		x.at.pass(12 * time.Hour)
	}
	for range 3 {
		check(t, x.bob.c.Sync(t.Context()))
		x.at.pass(12 * time.Hour)
	}
	if x.bob.ending(x.there) != "" || resyncs != 0 || x.bob.warnings(x.there) == 0 {
		t.Errorf("bob's group %q, after %d entries anew and %d warnings", x.bob.ending(x.there), resyncs, x.bob.warnings(x.there))
	}
	undo()
	x.at.pass(2 * time.Hour)
	until(t, "bob reads on", func() bool { return slices.Equal(x.bob.read(x.there), []string{"0", "1", "2"}) }, x.bob)
}

// TestQueueChangesACommit: whoever stands between the hub and a member, its own provider for one, cannot make it leave by what it changes: the commit is taken from the hub's log.
func TestQueueChangesACommit(t *testing.T) {
	for name, change := range map[string]func(d *mimimiv1.Delivery){
		"a byte":     func(d *mimimiv1.Delivery) { d.Message[len(d.Message)/2] ^= 1 },
		"its end":    func(d *mimimiv1.Delivery) { d.Message[len(d.Message)-1] ^= 1 },
		"everything": func(d *mimimiv1.Delivery) { d.Message = []byte("no commit") },
	} {
		t.Run(name, func(t *testing.T) {
			alice, bob, group, id := duo(t)
			changed := 0
			meddle(t, theWorld.opB, mimimiv1connect.QueueServiceReadProcedure, func(ctx context.Context, req *mimimiv1.ReadQueueRequest,
				honest func(context.Context, *mimimiv1.ReadQueueRequest) (*mimimiv1.ReadQueueResponse, error)) (*mimimiv1.ReadQueueResponse, error) {
				res, err := honest(ctx, req)
				for _, e := range res.GetEntries() {
					if e.Delivery != nil && string(e.Delivery.GroupId) == id && e.Delivery.Kind == mimimiv1.Delivery_KIND_COMMIT {
						change(e.Delivery)
						changed++
					}
				}
				return res, err
			})
			check(t, alice.c.Commit(t.Context(), group[alice]))
			alice.send(group[alice], "after it")
			until(t, "bob reads", func() bool { return slices.Contains(bob.read(group[bob]), "after it") }, alice, bob)
			if changed == 0 || bob.ending(group[bob]) != "" || bob.warnings(group[bob]) != 0 {
				t.Errorf("%d commits were changed; bob was warned %d times, group %q", changed, bob.warnings(group[bob]), bob.ending(group[bob]))
			}
			check(t, alice.c.Sync(t.Context()))
			if e := client.Epoch(alice.c, group[alice]); client.Epoch(bob.c, group[bob]) != e {
				t.Errorf("bob is in epoch %d, alice in %d", client.Epoch(bob.c, group[bob]), e)
			}
		})
	}
}

// TestHubOvertakesResync: a hub that says each time that others came first makes a client ask a few times at once and then more and more rarely. After a week that is over, and said.
func TestHubOvertakesResync(t *testing.T) {
	x := newTried(t, -1)
	asked := 0
	meddle(t, x.o, mimimiv1connect.HubServiceGetGroupProcedure, func(ctx context.Context, req *mimimiv1.GetGroupRequest,
		honest func(context.Context, *mimimiv1.GetGroupRequest) (*mimimiv1.GetGroupResponse, error)) (*mimimiv1.GetGroupResponse, error) {
		res, err := honest(ctx, req)
		if err == nil && string(req.GroupId) == x.id {
			asked++
			res.Epoch++
		}
		return res, err
	})
	check(t, client.LoseRatchet(x.bob.c, x.there))
	check(t, x.bob.c.Sync(t.Context()))
	if asked == 0 || asked > 4 {
		t.Errorf("the hub was asked %d times in one go", asked)
	}
	for range 6 * 24 {
		x.at.pass(time.Hour)
		check(t, x.bob.c.Sync(t.Context()))
	}
	if asked > 4+12+24 || x.bob.ending(x.there) != "" {
		t.Errorf("the hub was asked %d times in six days; group %q", asked, x.bob.ending(x.there))
	}
	for range 2 * 24 {
		x.at.pass(time.Hour)
		check(t, x.bob.c.Sync(t.Context()))
	}
	if x.bob.ending(x.there) == "" {
		t.Error("bob tries for ever")
	}
}

// TestHubSaysStale: a hub that takes nothing and says each time that there is something newer, which it does not show, does not make a client ask for ever.
func TestHubSaysStale(t *testing.T) {
	x := newTried(t, -1)
	_, err := x.alice.c.Invite(t.Context(), x.group, client.InviteOptions{})
	check(t, err)
	all, err := x.alice.c.Invitations(t.Context(), x.group)
	check(t, err)
	asked := 0
	meddle(t, x.o, mimimiv1connect.HubServiceRevokeInvitationProcedure, func(_ context.Context, _ *mimimiv1.RevokeInvitationRequest,
		_ func(context.Context, *mimimiv1.RevokeInvitationRequest) (*mimimiv1.RevokeInvitationResponse, error)) (*mimimiv1.RevokeInvitationResponse, error) {
		asked++
		return nil, problem.Connect(problem.New(problem.Stale, "no"))
	})
	wantError(t, "revoke", x.alice.c.RevokeInvitation(t.Context(), x.group, all[0].ID), client.ErrBusy)
	if asked > 2 {
		t.Errorf("the hub was asked %d times", asked)
	}
}

// stranger has bob lose his state and come back, while alice, who does not look any more, has added carol: nobody tells him who that is.
func (x *tried) stranger(t *testing.T) {
	t.Helper()
	check(t, client.LoseRatchet(x.bob.c, x.there))
	carol := registerConfig(t, "carol", client.Config{Provider: x.alice.cfg.Provider, Stock: client.Stock{OneTime: 2, LastResort: 1}, Spread: -1, Now: x.at.now})
	connect(t, x.alice, carol)
	check(t, x.alice.c.Add(t.Context(), x.group, carol.c.User()))
	check(t, x.bob.c.Sync(t.Context()))
	if client.Lost(x.bob.c, x.there) || client.Unidentified(x.bob.c, x.there) != 1 {
		t.Fatal("bob is not back, or knows everybody")
	}
}

// TestNobodySaysWhoItIs: a member who comes back into a group and finds somebody whom nobody names asks more and more rarely, says so after a day, and leaves after a week. One who came in
// later is unknown for less long.
func TestNobodySaysWhoItIs(t *testing.T) {
	x := newTried(t, -1)
	x.stranger(t)
	since := x.at.now()
	if got := client.UnknownSince(x.bob.c, x.there, time.Time{}); since.Sub(got).Abs() > time.Minute {
		t.Errorf("carol is unknown since %v, want %v", got, since)
	}
	if got := client.UnknownSince(x.bob.c, x.there, since.Add(day)); !got.Equal(since.Add(day).Truncate(time.Second)) {
		t.Errorf("somebody who came in a day later is unknown since %v, want %v", got, since.Add(day))
	}
	said := func(text string) (n int) {
		for _, e := range x.bob.events(client.EventWarning) {
			if e.Group == x.there && e.Text == text {
				n++
			}
		}
		return n
	}
	asked := 0
	meddle(t, x.o, mimimiv1connect.HubServiceSendMessageProcedure, func(ctx context.Context, req *mimimiv1.SendMessageRequest,
		honest func(context.Context, *mimimiv1.SendMessageRequest) (*mimimiv1.SendMessageResponse, error)) (*mimimiv1.SendMessageResponse, error) {
		asked++
		return honest(ctx, req)
	})
	for i := range 6 * 48 {
		x.at.pass(30 * time.Minute)
		check(t, x.bob.c.Sync(t.Context()))
		if i == 40 && said(client.UnknownSentence) != 0 {
			t.Error("bob is told before a day is over")
		}
	}
	if asked < 20 || asked > 6*24+6 || said(client.UnknownSentence) != 1 || x.bob.ending(x.there) != "" {
		t.Errorf("in six days bob asked %d times, was told %d times; group %q", asked, said(client.UnknownSentence), x.bob.ending(x.there))
	}
	x.at.pass(25 * time.Hour)
	until(t, "bob leaves", func() bool { return x.bob.ending(x.there) != "" }, x.bob)
	if said(client.UnknownLeft) != 1 {
		t.Error("bob was not told why")
	}
}

// TestOtherDevicesKnowWhoItIs: who has another device does not leave with it for want of a name: that one brings this one in anew, and knows everybody.
func TestOtherDevicesKnowWhoItIs(t *testing.T) {
	x := newTried(t, -1)
	check(t, x.bob.c.SetGroupName(t.Context(), x.there, "week"))
	phone := x.bob.addDevice("phone", x.alice)
	until(t, "the phone is in", inAll("week", 2, 3, x.bob, phone), x.bob, phone, x.alice)
	x.stranger(t)
	x.at.pass(8 * day)
	until(t, "bob gives up", func() bool { return x.bob.ending(x.there) != "" }, x.bob)
	if got := x.bob.ending(x.there); got != client.UnknownBack {
		t.Errorf("the group ended by %q", got)
	}
	until(t, "bob is back", inAll("week", 3, 4, x.bob, phone), x.bob, phone)
}
