package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"mimimi.example/pkg/client"
)

// trio is three people in one group that alice made, bob and carol connected with alice.
func trio(t *testing.T) (alice, bob, carol *person, group map[*person]string) {
	t.Helper()
	alice, bob, carol = register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob"), register(t, theWorld.b, "carol")
	connect(t, alice, bob)
	connect(t, alice, carol)
	id, err := alice.c.CreateGroup(t.Context(), "friends")
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := alice.c.Add(t.Context(), id, users(bob, carol)...); err != nil {
		t.Fatalf("add: %v", err)
	}
	until(t, "join", func() bool { return bob.group() != "" && carol.group() != "" }, bob, carol)
	return alice, bob, carol, map[*person]string{alice: id, bob: bob.group(), carol: carol.group()}
}

// transcript returns all content of a group, own and others', in the order in which a person saw it.
func (p *person) transcript(group string) (all []string) {
	p.t.Helper()
	for _, e := range p.events(client.EventMessage, client.EventSent) {
		if e.Group == group {
			all = append(all, string(e.Body))
		}
	}
	return all
}

// live keeps a person in sync as an app does: wait for a hint, sync, until stopped.
func (p *person) live(ctx context.Context) {
	for ctx.Err() == nil {
		_ = p.c.Sync(ctx)
		if err := p.w.Reset(ctx, p.c); err != nil {
			if ctx.Err() == nil {
				p.t.Errorf("%s: reset: %v", p.name, err)
			}
			return
		}
		_ = p.w.Wait(ctx)
	}
}

// TestOneOrder has everybody talk at once while the group's epoch changes under them: all see everything once, in one order.
func TestOneOrder(t *testing.T) {
	alice, bob, carol, group := trio(t)
	all := []*person{alice, bob, carol}
	const each = 10
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, p := range all {
		wg.Go(func() { p.live(ctx) })
	}
	var talk sync.WaitGroup
	for _, p := range all {
		talk.Go(func() {
			for i := range each {
				if _, err := p.c.Send(ctx, group[p], fmt.Appendf(nil, "%s %d", p.name, i)); err != nil {
					t.Errorf("%s: send: %v", p.name, err)
				}
			}
		})
	}
	talk.Go(func() { // an epoch after another
		for range 3 {
			if _, err := bob.c.Invite(ctx, group[bob], client.InviteOptions{}); err != nil {
				t.Errorf("invite: %v", err)
			}
			if err := alice.c.Commit(ctx, group[alice]); err != nil {
				t.Errorf("commit: %v", err)
			}
			if err := carol.c.Commit(ctx, group[carol]); err != nil {
				t.Errorf("commit: %v", err)
			}
		}
	})
	talk.Wait()
	stop()
	wg.Wait()
	until(t, "all heard", func() bool {
		return !slices.ContainsFunc(all, func(p *person) bool { return len(p.transcript(group[p])) < each*len(all) })
	}, all...)
	want := alice.transcript(group[alice])
	for _, p := range all {
		if got := p.transcript(group[p]); !slices.Equal(got, want) {
			t.Errorf("%s saw another order:\n%q\n%q", p.name, got, want)
		}
		for _, e := range p.events(client.EventWarning) {
			t.Errorf("%s was warned: %s", p.name, e.Text)
		}
	}
	if slices.Sort(want); len(slices.Compact(want)) != each*len(all) {
		t.Error("something was seen twice")
	}
}

// TestTwoCommitsAtOnce has two members change the group in the same epoch: both changes come about.
func TestTwoCommitsAtOnce(t *testing.T) {
	alice, bob, carol, group := trio(t)
	dave, erin := register(t, theWorld.a, "dave"), register(t, theWorld.b, "erin")
	connect(t, alice, dave)
	connect(t, bob, erin)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := alice.c.Add(t.Context(), group[alice], dave.c.User()); err != nil {
			t.Errorf("alice adds: %v", err)
		}
	})
	wg.Go(func() {
		if err := bob.c.Add(t.Context(), group[bob], erin.c.User()); err != nil {
			t.Errorf("bob adds: %v", err)
		}
	})
	wg.Wait()
	until(t, "five", func() bool {
		for _, p := range []*person{alice, bob, carol, dave, erin} {
			if p.group() == "" || p.members(p.group()) != 5 {
				return false
			}
		}
		return true
	}, alice, bob, carol, dave, erin)
	erin.send(erin.group(), "hello")
	until(t, "heard", func() bool {
		return slices.Contains(dave.read(dave.group()), "hello") && slices.Contains(alice.read(group[alice]), "hello")
	}, erin, dave, alice)
}

// TestResync has a client lose its state: it enters anew, stays the same member for the others, and everybody talks on.
func TestResync(t *testing.T) {
	alice, bob, carol, group := trio(t)
	if err := client.LoseRatchet(bob.c, group[bob]); err != nil {
		t.Fatal(err)
	}
	alice.send(group[alice], "while bob was away")
	until(t, "bob is back", func() bool { return !client.Lost(bob.c, group[bob]) }, bob)
	bob.send(group[bob], "back")
	alice.send(group[alice], "welcome back")
	until(t, "talk", func() bool {
		return slices.Contains(alice.read(group[alice]), "back") && slices.Contains(carol.read(group[carol]), "back") &&
			slices.Contains(bob.read(group[bob]), "welcome back")
	}, alice, bob, carol)
	for _, p := range []*person{alice, bob, carol} {
		if n := p.members(group[p]); n != 3 {
			t.Errorf("%s sees %d members, want 3", p.name, n)
		}
		for _, e := range p.events(client.EventLeft, client.EventRemoved, client.EventWarning) {
			if p != bob || e.Text != client.DamagedSentence {
				t.Errorf("%s was told of a %s that did not happen: %s", p.name, e.Kind, e.Text)
			}
		}
	}
}

// TestBehindTheHub has a client that is behind do something: it catches up and does it.
func TestBehindTheHub(t *testing.T) {
	alice, bob, _, group := trio(t)
	dave := register(t, theWorld.a, "dave")
	connect(t, bob, dave)
	for range 3 {
		if err := alice.c.Commit(t.Context(), group[alice]); err != nil {
			t.Fatalf("commit: %v", err)
		}
	}
	if err := bob.c.Add(t.Context(), group[bob], dave.c.User()); err != nil {
		t.Errorf("add: %v", err)
	}
	if err := bob.c.Remove(t.Context(), group[bob], alice.c.User()); !errors.Is(err, client.ErrDenied) {
		t.Errorf("a member removes: %v, want ErrDenied", err)
	}
}
