package client_test

import (
	"errors"
	"slices"
	"testing"

	"mimimi.example/pkg/client"
)

// TestStory is the whole thing across two domains: connect, add, talk, invite, remove, leave.
func TestStory(t *testing.T) {
	alice, bob, carol := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob"), register(t, theWorld.b, "carol")
	connect(t, alice, bob)
	connect(t, alice, carol)

	group, err := alice.c.CreateGroup(t.Context(), "friends")
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := alice.c.Add(t.Context(), group, users(bob, carol)...); err != nil {
		t.Fatalf("add: %v", err)
	}
	until(t, "join", func() bool { return bob.group() != "" && carol.group() != "" }, bob, carol)
	gb, gc := bob.group(), carol.group()
	alice.send(group, "hello")
	bob.send(gb, "hi from bob")
	carol.send(gc, "hi from carol")
	until(t, "talk", func() bool {
		return len(alice.read(group)) == 2 && len(bob.read(gb)) == 2 && len(carol.read(gc)) == 2
	}, alice, bob, carol)
	for _, p := range []*person{alice, bob, carol} {
		if n := len(p.events(client.EventSent)); n != 1 {
			t.Errorf("%s has %d messages sent, want 1", p.name, n)
		}
	}

	dave := register(t, theWorld.a, "dave")
	connect(t, dave, bob)
	link, err := bob.c.Invite(t.Context(), gb, client.InviteOptions{})
	if err != nil {
		t.Fatalf("invite: %v", err)
	}
	gd, err := dave.c.Join(t.Context(), link)
	if err != nil {
		t.Fatalf("join: %v", err)
	}
	until(t, "dave in", func() bool {
		return dave.members(gd) == 4 && dave.group() == gd && alice.members(group) == 4 && bob.members(gb) == 4 && carol.members(gc) == 4
	}, bob, dave, alice, carol)
	dave.send(gd, "dave here")
	until(t, "dave heard", func() bool {
		return slices.Contains(alice.read(group), "dave here") && slices.Contains(bob.read(gb), "dave here") && slices.Contains(carol.read(gc), "dave here")
	}, alice, bob, carol, dave)

	if err := alice.c.Remove(t.Context(), group, carol.c.User()); err != nil {
		t.Fatalf("remove: %v", err)
	}
	alice.send(group, "carol is gone")
	until(t, "carol gone", func() bool {
		return slices.Contains(bob.read(gb), "carol is gone") && slices.Contains(dave.read(gd), "carol is gone") &&
			len(carol.events(client.EventGroupOver)) == 1
	}, bob, dave, carol)
	if slices.Contains(carol.read(gc), "carol is gone") {
		t.Error("carol reads on after her removal")
	}
	if _, err := carol.c.Send(t.Context(), gc, []byte("x")); !errors.Is(err, client.ErrGroupOver) {
		t.Errorf("carol sends after her removal: %v", err)
	}

	if err := bob.c.Leave(t.Context(), gb); err != nil {
		t.Fatalf("leave: %v", err)
	}
	until(t, "bob left", func() bool {
		return alice.members(group) == 2 && dave.members(gd) == 2 && len(bob.events(client.EventGroupOver)) == 1
	}, alice, dave, bob)
	alice.send(group, "just us")
	until(t, "the end", func() bool { return slices.Contains(dave.read(gd), "just us") }, alice, dave)
	for _, p := range []*person{alice, bob, carol, dave} {
		for _, e := range p.events(client.EventWarning) {
			t.Errorf("%s was warned: %s", p.name, e.Text)
		}
	}
}
