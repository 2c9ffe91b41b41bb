package client_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/client"
)

// TestKeyChangesWhileOthersAdd: while the connection key changes, and for a contact that has not heard of it, KeyPackages are identified and nothing fails.
func TestKeyChangesWhileOthersAdd(t *testing.T) {
	alice, bob, carol := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob"), register(t, theWorld.b, "carol")
	alice.cfg.Spread = time.Hour
	alice.reopen()
	connect(t, alice, bob)
	connect(t, alice, carol)
	old, token := client.OwnKey(alice.c), client.OwnToken(alice.c, bob.c.User())
	add := func(p *person, what string) {
		t.Helper()
		group, err := p.c.CreateGroup(t.Context(), what)
		if err != nil {
			t.Fatalf("create: %v", err)
		}
		if err := p.c.Add(t.Context(), group, users(alice)...); err != nil {
			t.Fatalf("%s adds alice %s: %v", p.name, what, err)
		}
	}
	if err := client.RotateKey(t.Context(), alice.c); err != nil {
		t.Fatalf("rotate: %v", err)
	}
	if err := alice.c.Sync(t.Context()); err != nil {
		t.Fatalf("sync: %v", err)
	}
	if client.OwnKey(alice.c) != old {
		t.Error("the key changed before anybody was told")
	}
	add(bob, "before anybody is told")
	if err := client.TellContacts(t.Context(), alice.c); err != nil {
		t.Fatalf("tell: %v", err)
	}
	until(t, "the key changes", func() bool { return client.OwnKey(alice.c) != old }, alice)
	if client.KeyOf(bob.c, alice.c.User()) != old {
		t.Fatal("bob was not to hear of it yet")
	}
	until(t, "the stock is new", func() bool { return !client.Owes(alice.c) }, alice)
	if err := client.TryClaim(t.Context(), carol.c, alice.c.User(), token); err == nil {
		t.Error("bob's old token still claims, though he was given another")
	}
	until(t, "bob hears of it", func() bool {
		return client.KeyOf(bob.c, alice.c.User()) == client.OwnKey(alice.c) && client.OwnToken(alice.c, bob.c.User()) != token
	}, bob)
	add(bob, "once he knows")
	until(t, "the tokens changed on both sides", func() bool {
		return !client.OwesContacts(alice.c) && !client.OwesContacts(bob.c) && !client.OwesContacts(carol.c)
	}, alice, bob, carol)
	add(carol, "after all")
	group, err := alice.c.CreateGroup(t.Context(), "alice's")
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := alice.c.Add(t.Context(), group, users(bob)...); err != nil {
		t.Fatalf("alice adds bob by the token that he was asked for: %v", err)
	}
}

// TestAliasesAreRenewed: with the monthly change of the connection key every token is registered at the store again, which keeps it for a while only.
func TestAliasesAreRenewed(t *testing.T) {
	o := newOperator(t.TempDir())
	ahead, here := clockedBy(t, o)
	alice, bob := here("alice"), here("bob")
	connect(t, alice, bob)
	var mu sync.Mutex
	registered := make(map[string]int)
	meddle(t, o, mimimiv1connect.KeyPackageServiceRegisterAliasProcedure, func(ctx context.Context, req *mimimiv1.AliasRequest,
		honest func(context.Context, *mimimiv1.AliasRequest) (*mimimiv1.AliasResponse, error),
	) (*mimimiv1.AliasResponse, error) {
		mu.Lock()
		registered[string(req.TokenHash)]++
		mu.Unlock()
		return honest(ctx, req)
	})
	old := client.OwnKey(alice.c)
	ahead.Add(int64(33 * 24 * time.Hour))
	until(t, "the keys change", func() bool {
		return client.OwnKey(alice.c) != old && !client.OwesContacts(alice.c) && !client.OwesContacts(bob.c)
	}, alice, bob)
	until(t, "the own tokens", func() bool { mu.Lock(); defer mu.Unlock(); return len(registered) >= 4 }, alice, bob)
	mu.Lock()
	defer mu.Unlock()
	if len(registered) != 4 { // each one's own, and the one for the other
		t.Errorf("%d tokens were registered again, want 4", len(registered))
	}
}

// TestStaleContactIsAsked: a contact that has not read its queue since the key changed reads the connection group before it gives a claimed set up.
func TestStaleContactIsAsked(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	alice.atOnce()
	connect(t, alice, bob)
	old := client.OwnKey(alice.c)
	if err := client.ChangeKey(t.Context(), alice.c); err != nil {
		t.Fatalf("rotate: %v", err)
	}
	until(t, "the key changes", func() bool { return client.OwnKey(alice.c) != old && !client.Owes(alice.c) }, alice)
	if err := alice.c.Sync(t.Context()); err != nil { // the stock
		t.Fatalf("sync: %v", err)
	}
	group, err := bob.c.CreateGroup(t.Context(), "bob's")
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if client.KeyOf(bob.c, alice.c.User()) != old {
		t.Fatal("bob was not to hear of it yet")
	}
	if err := bob.c.Add(t.Context(), group, users(alice)...); err != nil {
		t.Errorf("bob adds alice by a key that he has not heard of: %v", err)
	}
}

// TestRefreshKilledAnywhere makes a leaf anew with a client that dies at one write after the other. It stays a member that everybody knows and that can send.
func TestRefreshKilledAnywhere(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	group, err := alice.c.CreateGroup(t.Context(), "friends")
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := alice.c.Add(t.Context(), group, users(bob)...); err != nil {
		t.Fatalf("add: %v", err)
	}
	until(t, "join", func() bool { return bob.group() != "" }, bob)
	before, credential := client.OwnLeaf(alice.c, group)
	if err := client.MakeRefreshDue(t.Context(), alice.c, group); err != nil {
		t.Fatalf("due: %v", err)
	}
	for n := 1; ; n++ {
		left := n
		client.SetFault(alice.c, func(bool) error {
			if left--; left <= 0 {
				return errKilled
			}
			return nil
		})
		err := alice.c.Sync(t.Context())
		client.SetFault(alice.c, nil)
		if now, _ := client.OwnLeaf(alice.c, group); now != before && err == nil {
			break
		}
		if err != nil && !errors.Is(err, errKilled) || n > 60 {
			t.Fatalf("refresh, killed at write %d: %v", n, err)
		}
		alice.reopen()
	}
	if _, now := client.OwnLeaf(alice.c, group); now != credential {
		t.Error("the credential was replaced without need")
	}
	alice.send(group, "fresh")
	until(t, "bob reads", func() bool { return len(bob.read(bob.group())) == 1 && bob.members(bob.group()) == 2 }, bob, alice)

	// A client that loses its state after that is the same member again: what it enters with is the leaf as it was made anew.
	if err := client.LoseRatchet(alice.c, group); err != nil {
		t.Fatal(err)
	}
	until(t, "resync", func() bool { return !client.Lost(alice.c, group) }, alice)
	bob.send(bob.group(), "still there?")
	until(t, "after the resync", func() bool { return len(alice.read(group)) == 1 && bob.members(bob.group()) == 2 }, bob, alice)
}

// TestRevoked: a certificate that is revoked lets nobody in any more, and of a member in a group it is said.
func TestRevoked(t *testing.T) {
	alice, bob, carol := register(t, theWorld.a, "alice"), register(t, theWorld.a, "bob"), register(t, theWorld.a, "carol")
	connect(t, alice, bob)
	group, err := alice.c.CreateGroup(t.Context(), "friends")
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := alice.c.Add(t.Context(), group, users(bob)...); err != nil {
		t.Fatalf("add: %v", err)
	}
	if err := client.RevokeSelf(t.Context(), bob.c); err != nil {
		t.Fatalf("revoke: %v", err)
	}
	if err := client.LookAgain(t.Context(), alice.c); err != nil {
		t.Fatalf("look: %v", err)
	}
	until(t, "alice is told", func() bool { return len(alice.events(client.EventRevoked)) > 0 }, alice)
	for range 2 {
		if err := client.LookAgain(t.Context(), alice.c); err != nil {
			t.Fatalf("look: %v", err)
		}
		if err := alice.c.Sync(t.Context()); err != nil {
			t.Fatalf("sync: %v", err)
		}
	}
	seen := make(map[string]int)
	for _, e := range alice.events(client.EventRevoked) {
		if e.User != bob.c.User() {
			t.Error("somebody else is said to be revoked")
		}
		seen[e.Group]++
	}
	if len(seen) != 2 || seen[group] != 1 || seen[""] != 1 {
		t.Errorf("alice was told %v, want once of the group and once of the contact", seen)
	}
	other, err := alice.c.CreateGroup(t.Context(), "others")
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := alice.c.Add(t.Context(), other, users(bob)...); !errors.Is(err, client.ErrIdentity) {
		t.Errorf("a revoked client is added: %v", err)
	}
	if err := carol.c.Connect(t.Context(), bob.c.User()); !errors.Is(err, client.ErrUnknownUser) && !errors.Is(err, client.ErrIdentity) {
		t.Errorf("a revoked client is asked for a connection: %v", err)
	}
	if err := alice.c.Remove(t.Context(), group, bob.c.User()); err != nil {
		t.Errorf("remove: %v", err)
	}
}
