package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// TestResyncMissing: members who came while a client had lost the group are made known to it by the others, and it takes part again.
func TestResyncMissing(t *testing.T) {
	alice, bob, carol, group := trio(t)
	dave, erin := register(t, theWorld.a, "dave"), register(t, theWorld.b, "erin")
	connect(t, alice, dave)
	connect(t, alice, erin)
	if err := client.LoseRatchet(bob.c, group[bob]); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*person{dave, erin} {
		if err := alice.c.Add(t.Context(), group[alice], p.c.User()); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "bob is back", func() bool { return !client.Lost(bob.c, group[bob]) }, bob)
	bob.send(group[bob], "who is there?")
	if known, all := client.Knows(bob.c, group[bob]); known == all {
		t.Fatal("bob knows everybody without having been told")
	}
	until(t, "bob knows all", func() bool { return bob.members(group[bob]) == 5 }, alice, carol, dave, erin, bob)
	until(t, "talk", func() bool {
		return slices.Contains(dave.read(dave.group()), "who is there?") && slices.Contains(alice.read(group[alice]), "who is there?")
	}, alice, bob, dave, erin)
	if w := bob.events(client.EventWarning); len(w) != 1 {
		t.Errorf("bob was told %d times that messages may be missing, want once", len(w))
	}
	for _, p := range []*person{alice, carol, dave, erin} {
		if w := p.events(client.EventWarning, client.EventGroupOver); len(w) != 0 {
			t.Errorf("%s was told: %s", p.name, w[0].Text)
		}
	}
}

// TestResyncOvertaken: a client that enters anew over a log with commits in it, and is overtaken by more of them, rolls on from where it was.
func TestResyncOvertaken(t *testing.T) {
	alice, bob, carol, group := trio(t)
	check(t, client.LoseRatchet(bob.c, group[bob]))
	check(t, alice.c.Commit(t.Context(), group[alice]))
	tries := 0
	meddle(t, theWorld.opA, mimimiv1connect.HubServiceCommitProcedure, func(ctx context.Context, req *mimimiv1.CommitRequest,
		honest func(context.Context, *mimimiv1.CommitRequest) (*mimimiv1.CommitResponse, error)) (*mimimiv1.CommitResponse, error) {
		if len(req.ResyncSignature) > 0 {
			if tries++; tries <= 3 {
				if err := alice.c.Commit(ctx, group[alice]); err != nil {
					t.Error(err)
				}
			}
		}
		return honest(ctx, req)
	})
	until(t, "bob is back", func() bool { return !client.Lost(bob.c, group[bob]) }, bob)
	if tries != 4 || len(bob.events(client.EventGroupOver)) != 0 {
		t.Errorf("%d tries; %+v", tries, bob.events(client.EventGroupOver, client.EventWarning))
	}
	bob.send(group[bob], "back")
	until(t, "talk", func() bool { return slices.Contains(carol.read(group[carol]), "back") }, alice, bob, carol)
}

// TestBrokenCommit: a member makes a commit that the hub takes and nobody can follow. The others come back over it, and remove the member.
func TestBrokenCommit(t *testing.T) {
	alice, bob, carol, group := trio(t)
	if err := client.BreakEpoch(bob.c, group[bob]); err != nil {
		t.Fatal(err)
	}
	if err := bob.c.Commit(t.Context(), group[bob]); err != nil {
		t.Fatalf("commit: %v", err)
	}
	for _, p := range []*person{alice, carol} {
		until(t, "it cannot be read", func() bool { return client.Lost(p.c, group[p]) }, p)
		client.ResyncNow(p.c, group[p])
	}
	until(t, "bob removed", func() bool {
		return alice.members(group[alice]) == 2 && carol.members(group[carol]) == 2 && len(bob.events(client.EventGroupOver)) == 1
	}, alice, carol, bob)
	alice.send(group[alice], "still here")
	until(t, "carol reads", func() bool { return slices.Contains(carol.read(group[carol]), "still here") }, alice, carol)
	said := slices.ContainsFunc(alice.events(client.EventWarning), func(e client.Event) bool { return e.User == bob.c.User() })
	if !said {
		t.Error("the admin is not told who made the broken change")
	}
}

// TestRefuse: a refused group's deliveries are dropped until the user wants it again; then what came meanwhile is read.
func TestRefuse(t *testing.T) {
	alice, bob, carol, group := trio(t)
	if err := bob.c.Refuse(t.Context(), group[bob]); err != nil {
		t.Fatal(err)
	}
	_, err := bob.c.Send(t.Context(), group[bob], []byte("x"))
	wantError(t, "send into a refused group", err, client.ErrRefused)
	alice.send(group[alice], "not delivered")
	until(t, "carol reads", func() bool { return len(carol.read(group[carol])) == 1 }, alice, carol)
	if err := alice.c.Commit(t.Context(), group[alice]); err != nil {
		t.Fatal(err)
	}
	if err := bob.c.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(bob.read(group[bob])); n != 0 {
		t.Errorf("bob reads %d messages of a refused group", n)
	}
	if err := bob.c.Unrefuse(t.Context(), group[bob]); err != nil {
		t.Fatal(err)
	}
	bob.send(group[bob], "back")
	until(t, "all read", func() bool {
		return len(bob.read(group[bob])) == 1 && slices.Contains(alice.read(group[alice]), "back")
	}, bob, alice)
	if err := carol.c.Refuse(t.Context(), group[carol]); err != nil {
		t.Fatal(err)
	}
	if err := carol.c.Leave(t.Context(), group[carol]); err != nil {
		t.Errorf("leave a refused group: %v", err)
	}
}

// TestQueueGone: a client whose queue the provider has lost gets a new one, brings it into its groups, and misses nothing.
func TestQueueGone(t *testing.T) {
	alice, bob, carol, group := trio(t)
	bob.atOnce()
	before, _ := client.QueueOf(bob.c, group[bob])
	if err := client.DropQueue(t.Context(), bob.c); err != nil {
		t.Fatal(err)
	}
	alice.send(group[alice], "into nowhere")
	until(t, "bob reads all the same", func() bool { return slices.Contains(bob.read(group[bob]), "into nowhere") }, alice, bob)
	after, named := client.QueueOf(bob.c, group[bob])
	if after == before {
		t.Error("bob has the queue that is gone")
	}
	if !named {
		until(t, "bob's leaf names it", func() bool { _, named := client.QueueOf(bob.c, group[bob]); return named }, bob)
	}
	carol.send(group[carol], "into the new one")
	until(t, "bob reads on", func() bool { return slices.Contains(bob.read(group[bob]), "into the new one") }, carol, bob)
	if w := bob.events(client.EventWarning); len(w) != 1 {
		t.Errorf("bob was warned %d times, want once", len(w))
	}
	// Whoever adds bob from now on reaches him: his old sets are withdrawn.
	other, err := alice.c.CreateGroup(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.c.Add(t.Context(), other, bob.c.User()); err != nil {
		t.Fatal(err)
	}
	until(t, "bob in another group", func() bool { return len(bob.groups()) == 2 && bob.groups()[1].State == client.GroupActive }, bob)
}

// TestAway: a client that was not online for months finds its queue expired, makes it again under its id, and reads what came from the log.
func TestAway(t *testing.T) {
	ahead, here := clocked(t)
	alice, bob := here("alice"), here("bob")
	connect(t, alice, bob)
	group := pair(t, alice, bob)
	before, _ := client.QueueOf(bob.c, bob.group())
	for _, days := range []int{60, 120} {
		ahead.Store(int64(time.Duration(days) * 24 * time.Hour))
		alice.send(group, fmt.Sprint(days))
		if err := alice.c.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "bob reads", func() bool { return len(bob.read(bob.group())) == 2 }, bob)
	if after, _ := client.QueueOf(bob.c, bob.group()); after != before {
		t.Error("bob has another queue")
	}
	alice.send(group, "again")
	until(t, "bob reads on", func() bool { return len(bob.read(bob.group())) == 3 }, alice, bob)
}

// TestHubClock: acceptance times that cannot be are brought to what can, and said once.
func TestHubClock(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	group := pair(t, alice, bob)
	now := time.Now().Unix()
	for _, x := range []struct{ at, least, most int64 }{
		{now, now, now}, {now + 200, now + 200, now + 200}, {now + 86400, now + 299, now + 330}, {now - 3, now - 3, now - 3}, {now - 86400, now + 299, now + 330},
	} {
		got, err := client.Bounded(alice.c, group, x.at)
		if err != nil || got < x.least || got > x.most {
			t.Errorf("%d seconds from now became %d (%v)", x.at-now, got-now, err)
		}
	}
	if w := alice.events(client.EventWarning); len(w) != 1 {
		t.Errorf("alice was warned %d times, want once", len(w))
	}
}

// TestAddSome: users whose KeyPackages cannot be had do not keep the others out, and the error says who they are, to the caller alone.
func TestAddSome(t *testing.T) {
	alice, bob, carol := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob"), register(t, theWorld.b, "carol")
	connect(t, alice, bob)
	connect(t, alice, carol)
	if err := client.CutOff(t.Context(), carol.c, alice.c.User()); err != nil {
		t.Fatal(err)
	}
	group, err := alice.c.CreateGroup(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	err = alice.c.Add(t.Context(), group, users(carol, bob)...)
	var some *client.AddError
	if !errors.As(err, &some) || !slices.Equal(some.Users, []mimimi.User{carol.c.User()}) || problem.KindOf(err) != problem.Limited {
		t.Fatalf("add: %v", err)
	}
	if n := alice.members(group); n != 2 {
		t.Errorf("%d members, want alice and bob", n)
	}
	until(t, "bob in", func() bool { return bob.group() != "" }, bob)
}

// TestAddInParts adds more clients than one commit takes: all of them come in, by several commits.
func TestAddInParts(t *testing.T) {
	alice := register(t, theWorld.a, "alice")
	client.SetAddsPerCommit(alice.c, 2)
	var others []*person
	for i := range 3 {
		p := register(t, theWorld.b, fmt.Sprint("other", i))
		connect(t, alice, p)
		others = append(others, p)
	}
	group, err := alice.c.CreateGroup(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.c.Add(t.Context(), group, users(others...)...); err != nil {
		t.Fatalf("add: %v", err)
	}
	if e := client.Epoch(alice.c, group); e != 2 || alice.members(group) != 4 {
		t.Errorf("epoch %d with %d members, want 2 with 4", e, alice.members(group))
	}
	until(t, "all in", func() bool {
		return !slices.ContainsFunc(others, func(p *person) bool { return p.group() == "" || p.members(p.group()) != 4 })
	}, others...)
}

// TestLateWelcome: a newcomer that comes online a hundred commits later enters by the tree of its epoch and follows.
func TestLateWelcome(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	group, err := alice.c.CreateGroup(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.c.Add(t.Context(), group, bob.c.User()); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := alice.c.Commit(t.Context(), group); err != nil {
			t.Fatal(err)
		}
	}
	alice.send(group, "at last")
	until(t, "bob reads", func() bool { g := bob.group(); return g != "" && slices.Contains(bob.read(g), "at last") }, alice, bob)
	if client.Epoch(bob.c, bob.group()) != client.Epoch(alice.c, group) {
		t.Error("bob is behind")
	}
}

// TestWelcomeLost: a newcomer that its Welcome never reached is in the group as a leaf only; removed and added again, it is in.
func TestWelcomeLost(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	group, err := alice.c.CreateGroup(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.c.Add(t.Context(), group, bob.c.User()); err != nil {
		t.Fatal(err)
	}
	if err := client.SkipQueue(t.Context(), bob.c); err != nil {
		t.Fatal(err)
	}
	if err := bob.c.Sync(t.Context()); err != nil || len(bob.groups()) != 0 {
		t.Fatalf("bob is in %d groups (%v)", len(bob.groups()), err)
	}
	if err := alice.c.Remove(t.Context(), group, bob.c.User()); err != nil {
		t.Fatal(err)
	}
	if err := alice.c.Add(t.Context(), group, bob.c.User()); err != nil {
		t.Fatal(err)
	}
	until(t, "bob in", func() bool { return bob.group() != "" && bob.members(bob.group()) == 2 }, bob)
}
