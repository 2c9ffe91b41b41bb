package client_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/problem"
)

// askTwice has two devices of alice's ask bob at once, before either hears of the other.
func askTwice(t *testing.T) (alice, phone, bob *person) {
	t.Helper()
	alice, bob = register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	phone = alice.addDevice("phone")
	for _, p := range []*person{alice, phone} {
		if err := p.c.Connect(t.Context(), bob.c.User()); err != nil {
			t.Fatalf("%s: connect: %v", p.name, err)
		}
	}
	until(t, "requests", func() bool { return len(bob.requests()) == 2 }, bob)
	return alice, phone, bob
}

// oneConnection waits until two users are connected on all of their devices (stands), and checks that each device was told so once, and of no end, and that each can add the other.
func oneConnection(t *testing.T, ours, theirs []*person) {
	t.Helper()
	stands(t, ours, theirs)
	for _, p := range append(slices.Clone(ours), theirs...) {
		if n := len(p.events(client.EventDisconnected)); n != 0 {
			t.Errorf("%s was told of an end", p.name)
		}
		if n := len(p.events(client.EventConnected)); n != 1 {
			t.Errorf("%s was told %d times that it is connected", p.name, n)
		}
	}
	pair(t, ours[len(ours)-1], theirs[0])
	pair(t, theirs[len(theirs)-1], ours[0])
}

// stands waits until two users are connected on all of their devices, by one group and with tokens that are good, and that this lasts.
func stands(t *testing.T, ours, theirs []*person) {
	t.Helper()
	all := append(slices.Clone(ours), theirs...)
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	why := ""
	agree := func(some, others []*person) bool {
		for _, p := range some {
			for _, q := range others {
				mine, theirs := p.c.User(), q.c.User()
				for what, ok := range map[string]bool{
					"connected": p.connected(q), "one group": client.Links(p.c, theirs) == 1, "nothing owed": !client.OwesContacts(p.c),
					"the same token": client.OwnToken(p.c, theirs) == client.TokenOf(q.c, mine), "the same group": client.LinkID(p.c, theirs) == client.LinkID(q.c, mine),
				} {
					if !ok {
						why = fmt.Sprintf("%s with %s: not %s", p.name, q.name, what)
						return false
					}
				}
			}
		}
		return true
	}
	defer func() {
		if t.Failed() {
			t.Log(why)
		}
	}()
	until(t, "one connection", func() bool { return agree(ours, theirs) && agree(theirs, ours) }, all...)
	for range 3 {
		for _, p := range all {
			p.sync()
		}
	}
	if !agree(ours, theirs) || !agree(theirs, ours) {
		t.Error("the connection did not last")
	}
}

// TestAskedTwice: two devices of a user ask the same person at once. Whatever that person accepts, and when, both sides end connected, by one connection group.
func TestAskedTwice(t *testing.T) {
	// Which of the two groups has the smaller id is chance: so each is done twice, with either accepted first.
	for _, first := range []int{0, 1} {
		accept := func(t *testing.T, p *person, at int) error {
			t.Helper()
			return p.c.Accept(t.Context(), p.requests()[at].ID)
		}
		t.Run(fmt.Sprint("one is accepted ", first), func(t *testing.T) {
			alice, phone, bob := askTwice(t)
			if err := accept(t, bob, first); err != nil {
				t.Fatalf("accept: %v", err)
			}
			oneConnection(t, []*person{alice, phone}, []*person{bob})
		})
		t.Run(fmt.Sprint("the second is accepted at once ", first), func(t *testing.T) {
			alice, phone, bob := askTwice(t)
			if err := accept(t, bob, first); err != nil {
				t.Fatalf("accept: %v", err)
			}
			if err := accept(t, bob, 0); err != nil {
				t.Fatalf("accept the other: %v", err)
			}
			oneConnection(t, []*person{alice, phone}, []*person{bob})
		})
		t.Run(fmt.Sprint("the second is accepted later ", first), func(t *testing.T) {
			alice, phone, bob := askTwice(t)
			if err := accept(t, bob, first); err != nil {
				t.Fatalf("accept: %v", err)
			}
			oneConnection(t, []*person{alice, phone}, []*person{bob})
			if err := accept(t, bob, 0); err == nil {
				t.Error("a request that leads nowhere any more is accepted")
			}
			if !bob.connected(alice) {
				t.Error("accepting it ended the connection")
			}
			pair(t, bob, alice)
		})
		t.Run(fmt.Sprint("one that leads nowhere is accepted ", first), func(t *testing.T) {
			alice, phone, bob := askTwice(t)
			tablet := bob.addDevice("tablet")
			if err := accept(t, bob, first); err != nil {
				t.Fatalf("accept: %v", err)
			}
			ours, theirs := []*person{alice, phone}, []*person{bob, tablet}
			oneConnection(t, ours, theirs)
			if err := accept(t, bob, 0); err == nil {
				t.Error("a request that leads nowhere any more is accepted")
			}
			stands(t, ours, theirs) // as before, on the other device too
		})
		t.Run(fmt.Sprint("one each by two devices ", first), func(t *testing.T) {
			alice, phone, bob := askTwice(t)
			tablet := bob.addDevice("tablet")
			until(t, "requests on both", func() bool { return len(bob.requests()) == 2 && len(tablet.requests()) == 2 }, bob, tablet)
			id := func(p *person) string { return p.requests()[0].ID }
			mine := id(bob)
			theirs := slices.DeleteFunc(tablet.requests(), func(r client.Request) bool { return r.ID == mine })[0].ID
			for p, id := range map[*person]string{bob: mine, tablet: theirs} {
				if err := p.c.Accept(t.Context(), id); err != nil {
					t.Fatalf("%s: accept: %v", p.name, err)
				}
			}
			oneConnection(t, []*person{alice, phone}, []*person{bob, tablet})
		})
	}
}

// TestConnectedAnew: a user's only device loses the connection group and asks again, twice. The group of the last request is kept, on all devices of the contact, whichever
// ids the groups have.
func TestConnectedAnew(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	tablet := bob.addDevice("tablet")
	connect(t, alice, bob)
	ours, theirs := []*person{alice}, []*person{bob, tablet}
	stands(t, ours, theirs)
	for range 2 {
		check(t, client.DamageGroup(alice.c, "leaves", client.LinkOf(alice.c, bob.c.User())))
		alice.sync()
		check(t, alice.c.Connect(t.Context(), bob.c.User()))
		until(t, "request", func() bool { return len(bob.requests()) == 1 }, bob)
		check(t, bob.c.Accept(t.Context(), bob.requests()[0].ID))
		stands(t, ours, theirs)
	}
	for _, p := range append(ours, theirs...) {
		if n := len(p.events(client.EventDisconnected)); n != 0 {
			t.Errorf("%s was told of an end", p.name)
		}
	}
	pair(t, alice, tablet)
	pair(t, tablet, alice)
}

// TestAcceptOvertaken: a device accepts a request, and others' commits come before its own into the connection group, again and again, as when the requester adds its devices right
// then. It tries again a little later, and the connection comes about on all devices.
func TestAcceptOvertaken(t *testing.T) {
	o := newOperator(t.TempDir())
	ahead, here := clockedBy(t, o)
	alice, bob := here("alice"), here("bob")
	tablet := bob.addDevice("tablet")
	check(t, alice.c.Connect(t.Context(), bob.c.User()))
	until(t, "request", func() bool { return len(bob.requests()) == 1 && len(tablet.requests()) == 1 }, bob, tablet)
	undo := meddle(t, o, mimimiv1connect.HubServiceCommitProcedure, func(context.Context, *mimimiv1.CommitRequest,
		func(context.Context, *mimimiv1.CommitRequest) (*mimimiv1.CommitResponse, error)) (*mimimiv1.CommitResponse, error) {
		return nil, problem.Connect(problem.New(problem.Stale, "another came first"))
	})
	wantError(t, "accept", tablet.c.Accept(t.Context(), tablet.requests()[0].ID), client.ErrBusy)
	undo()
	ahead.Add(int64(2 * time.Minute))
	stands(t, []*person{alice}, []*person{bob, tablet})
}
