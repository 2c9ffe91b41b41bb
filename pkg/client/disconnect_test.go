package client_test

import (
	"errors"
	"testing"

	"mimimi.example/pkg/client"
)

// disconnected says whether p has no connection with q any more, nor anything left of it.
func (p *person) disconnected(q *person) bool {
	p.t.Helper()
	all, err := p.c.Contacts(p.t.Context())
	if err != nil {
		p.t.Fatalf("%s: contacts: %v", p.name, err)
	}
	for _, k := range all {
		if k.User == q.c.User() {
			return false
		}
	}
	return true
}

// TestDisconnect: the former contact can claim nothing at once and learns that it was cut off; the others are told the new key and can go on adding; a group that both are
// in goes on; and the two can connect again.
func TestDisconnect(t *testing.T) {
	alice, bob, carol := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob"), register(t, theWorld.b, "carol")
	for _, p := range []*person{alice, bob, carol} {
		p.atOnce()
	}
	connect(t, alice, bob)
	connect(t, carol, alice)
	before := client.OwnKey(alice.c)
	token := client.OwnToken(alice.c, bob.c.User())
	shared, err := alice.c.CreateGroup(t.Context(), "shared")
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := alice.c.Add(t.Context(), shared, users(bob)...); err != nil {
		t.Fatalf("add: %v", err)
	}
	until(t, "join", func() bool { return bob.group() != "" }, bob)

	if err := alice.c.Disconnect(t.Context(), bob.c.User()); err != nil {
		t.Fatalf("disconnect: %v", err)
	}
	if err := alice.c.Disconnect(t.Context(), bob.c.User()); !errors.Is(err, client.ErrNotConnected) {
		t.Errorf("disconnected twice: %v", err)
	}
	if err := client.TryClaim(t.Context(), bob.c, alice.c.User(), token); err == nil {
		t.Error("the former contact's token still claims")
	}
	if !alice.disconnected(bob) {
		t.Error("alice still lists bob")
	}
	until(t, "bob learns it", func() bool { return bob.disconnected(alice) && len(bob.events(client.EventDisconnected)) == 1 }, bob, alice)
	until(t, "the key changes", func() bool {
		return client.OwnKey(alice.c) != before && client.KeyOf(carol.c, alice.c.User()) == client.OwnKey(alice.c)
	}, alice, carol)
	if client.KeyOf(bob.c, alice.c.User()) != "" {
		t.Error("bob keeps alice's key")
	}

	alice.send(shared, "still here")
	until(t, "shared group", func() bool { return len(bob.read(bob.group())) == 1 }, bob, alice)
	group, err := carol.c.CreateGroup(t.Context(), "carol's")
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := carol.c.Add(t.Context(), group, users(alice)...); err != nil {
		t.Fatalf("add under the new key: %v", err)
	}
	connect(t, bob, alice)
	own, err := bob.c.CreateGroup(t.Context(), "bob's")
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := bob.c.Add(t.Context(), own, users(alice)...); err != nil {
		t.Fatalf("add after the connection was made again: %v", err)
	}
}

// TestDisconnectsCross: both sides end the connection before either learns of the other's doing.
func TestDisconnectsCross(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	alice.atOnce()
	bob.atOnce()
	connect(t, alice, bob)
	for _, p := range []struct{ from, to *person }{{alice, bob}, {bob, alice}} {
		if err := p.from.c.Disconnect(t.Context(), p.to.c.User()); err != nil {
			t.Fatalf("%s: disconnect: %v", p.from.name, err)
		}
	}
	until(t, "both know", func() bool { return alice.disconnected(bob) && bob.disconnected(alice) }, alice, bob)
	connect(t, bob, alice)
}

// TestDisconnectPending takes back a request, which leads nowhere then, and may be made again.
func TestDisconnectPending(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	if err := alice.c.Connect(t.Context(), bob.c.User()); err != nil {
		t.Fatalf("connect: %v", err)
	}
	token := client.OwnToken(alice.c, bob.c.User())
	if err := alice.c.Disconnect(t.Context(), bob.c.User()); err != nil {
		t.Fatalf("disconnect: %v", err)
	}
	if !alice.disconnected(bob) {
		t.Error("alice still lists bob")
	}
	if err := client.TryClaim(t.Context(), bob.c, alice.c.User(), token); err == nil {
		t.Error("the token of a request that was taken back claims")
	}
	until(t, "first request", func() bool { return len(bob.requests()) == 1 }, bob)
	if err := bob.c.Reject(t.Context(), bob.requests()[0].ID); err != nil {
		t.Fatalf("reject: %v", err)
	}
	connect(t, alice, bob)
}
