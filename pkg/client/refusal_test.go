package client_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	rpc "connectrpc.com/connect"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/problem"
)

// TestRelayRefuses has the own provider's relay refuse with the codes that services use for final answers. Nothing is dropped: with the relay back, all of
// it is done.
func TestRelayRefuses(t *testing.T) {
	for _, code := range []rpc.Code{rpc.CodeNotFound, rpc.CodeInvalidArgument, rpc.CodeResourceExhausted, rpc.CodePermissionDenied, rpc.CodeAborted} {
		t.Run(code.String(), func(t *testing.T) {
			alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
			connect(t, alice, bob)
			group := pair(t, alice, bob)
			restore, asked := client.RefuseRelay(alice.c, code)
			alice.send(group, "not lost")
			made, err := alice.c.CreateGroup(t.Context(), "not dropped")
			if problem.KindOf(err) != problem.Unavailable {
				t.Errorf("create: %v, want unavailable", err)
			}
			*asked = 0
			if err := alice.c.Sync(t.Context()); problem.KindOf(err) != problem.Unavailable {
				t.Errorf("sync: %v, want unavailable", err)
			}
			if *asked != 1 {
				t.Errorf("one sync asked a domain that is not reached %d times, want once", *asked)
			}
			restore()
			until(t, "bob reads", func() bool { return slices.Contains(bob.read(bob.group()), "not lost") }, alice, bob)
			until(t, "the group stands", func() bool {
				return slices.ContainsFunc(alice.groups(), func(g client.Group) bool { return g.ID == made && g.State == client.GroupActive })
			}, alice)
			if w := alice.events(client.EventWarning); len(w) != 0 {
				t.Errorf("alice was warned: %v", w)
			}
		})
	}
}

// pair makes a group of x and y and returns x's id of it.
func pair(t *testing.T, x, y *person) string {
	t.Helper()
	before := len(y.groups())
	id, err := x.c.CreateGroup(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := x.c.Add(t.Context(), id, y.c.User()); err != nil {
		t.Fatal(err)
	}
	until(t, "in", func() bool { return len(y.groups()) > before && y.groups()[before].State == client.GroupActive }, y)
	return id
}

// TestLateAcknowledgement loses the acknowledgement of what is stored: the next Sync makes up for it, though nothing new is there, and later ones do not repeat it.
func TestLateAcknowledgement(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	group := pair(t, alice, bob)
	restore, acks := client.LoseAcks(bob.c)
	alice.send(group, "hello")
	until(t, "bob reads", func() bool { return len(bob.read(bob.group())) == 1 }, bob)
	restore()
	for range 2 {
		if err := bob.c.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if *acks != 1 {
		t.Errorf("%d acknowledgements, want 1", *acks)
	}
}

// TestDamagedGroup has one group's state damaged in the file: it is over, and the others go on.
func TestDamagedGroup(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	bad, good := pair(t, alice, bob), pair(t, alice, bob)
	there := bob.groups()
	if err := client.DamageGroup(bob.c, "leaves", there[0].ID); err != nil {
		t.Fatal(err)
	}
	alice.send(bad, "lost")
	alice.send(good, "read")
	until(t, "bob reads the other group", func() bool { return len(bob.read(there[1].ID)) == 1 }, bob)
	if over := bob.events(client.EventGroupOver); len(over) != 1 || over[0].Group != there[0].ID {
		t.Errorf("groups over: %v, want the damaged one", over)
	}
	if err := bob.c.Sync(t.Context()); err != nil {
		t.Errorf("sync: %v", err)
	}
}

// TestWaitsForItsTurn has a call whose context ends while another operation runs.
func TestWaitsForItsTurn(t *testing.T) {
	alice := register(t, theWorld.a, "alice")
	release := client.Hold(alice.c)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- alice.c.Sync(ctx) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	release()
}

// TestCrossingRequests has two ask each other at once and both accept: they are connected, and each has given the other one token only.
func TestCrossingRequests(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	for from, to := range map[*person]*person{alice: bob, bob: alice} {
		if err := from.c.Connect(t.Context(), to.c.User()); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "requests", func() bool { return len(alice.requests()) == 1 && len(bob.requests()) == 1 }, alice, bob)
	given := map[*person]string{alice: client.OwnToken(alice.c, bob.c.User()), bob: client.OwnToken(bob.c, alice.c.User())}
	for _, p := range []*person{alice, bob} {
		if err := p.c.Accept(t.Context(), p.requests()[0].ID); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "connected", func() bool { return alice.connected(bob) && bob.connected(alice) }, alice, bob)
	for p, other := range map[*person]*person{alice: bob, bob: alice} {
		if client.OwnToken(p.c, other.c.User()) != given[p] {
			t.Errorf("%s gave a second token", p.name)
		}
	}
	pair(t, alice, bob)
	pair(t, bob, alice)
}
