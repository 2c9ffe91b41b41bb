package client_test

import (
	"testing"
	"time"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/problem"
)

// TestOldIndexGoes: when a client is removed, the index at the store that it knows is deleted with all its sets and tokens as soon as every contact has a new token. Nobody's claim
// fails meanwhile, and one whose request to connect is answered later gets a token that is good.
func TestOldIndexGoes(t *testing.T) {
	alice, bob, carol := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob"), register(t, theWorld.b, "carol")
	connect(t, alice, bob)
	phone := alice.addDevice("phone", bob)
	check(t, alice.c.Connect(t.Context(), carol.c.User()))
	key, self, given := client.WriteKey(alice.c), client.SelfToken(alice.c), client.OwnToken(alice.c, bob.c.User())
	if n := client.IndexSize(t.Context(), alice.c, key); n == 0 {
		t.Fatal("the index is empty before anything happens")
	}
	check(t, alice.c.RemoveDevice(t.Context(), client.DeviceID(phone.c)))
	_, _, err := client.ClaimFrom(t.Context(), bob.c, alice.c.User())
	if err != nil {
		t.Errorf("bob's claim before he is told: %v", err)
	}
	until(t, "the old index goes", func() bool { return client.IndexSize(t.Context(), alice.c, key) == 0 && !client.OldIndexes(alice.c) }, alice)
	for name, token := range map[string]string{"bob's": given, "the own": self} {
		if err := client.TryClaim(t.Context(), phone.c, alice.c.User(), token); problem.KindOf(err) != problem.Limited {
			t.Errorf("%s token, which the removed client knows, claims: %v", name, err)
		}
	}
	pair(t, bob, alice)
	// The request that the removed client knew leads nowhere: it was made anew.
	until(t, "requests", func() bool { return len(carol.requests()) == 2 }, alice, carol)
	for _, r := range carol.requests() {
		_ = carol.c.Accept(t.Context(), r.ID)
	}
	until(t, "carol has a token", func() bool { return carol.connected(alice) && alice.connected(carol) && !client.OwesContacts(alice.c) }, alice, carol)
	pair(t, carol, alice)
}

// TestOldIndexOfOthers: the client at which another was removed need not be the one that leads: contacts get their tokens, and the index goes.
func TestOldIndexOfOthers(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	phone := alice.addDevice("phone", bob)
	tablet := alice.addDevice("tablet", phone, bob)
	until(t, "the tablet knows bob", func() bool { return client.LinkOf(tablet.c, bob.c.User()) != "" }, alice, phone, tablet, bob)
	key, given := client.WriteKey(alice.c), client.OwnToken(alice.c, bob.c.User())
	check(t, tablet.c.RemoveDevice(t.Context(), client.DeviceID(phone.c)))
	until(t, "bob has another token", func() bool {
		now := client.OwnToken(alice.c, bob.c.User())
		return now != given && client.OwnToken(tablet.c, bob.c.User()) == now && !client.OwesContacts(alice.c) && !client.OwesContacts(tablet.c)
	}, alice, tablet, bob)
	until(t, "the old index goes", func() bool {
		return client.IndexSize(t.Context(), alice.c, key) == 0 && !client.OldIndexes(alice.c) && !client.OldIndexes(tablet.c)
	}, alice, tablet)
	pair(t, bob, alice)
}

// TestOldIndexWaitsAnHour: a contact that cannot be told of its new token holds the deletion up for an hour, no longer.
func TestOldIndexWaitsAnHour(t *testing.T) {
	ahead, here := clocked(t)
	alice, bob := here("alice"), here("bob")
	connect(t, alice, bob)
	phone := alice.addDevice("phone", bob)
	key := client.WriteKey(alice.c)
	check(t, alice.c.RemoveDevice(t.Context(), client.DeviceID(phone.c)))
	check(t, client.TellContactsAt(t.Context(), alice.c, time.Now().Add(10*24*time.Hour)))
	for range 3 {
		check(t, alice.c.Sync(t.Context()))
	}
	if client.IndexSize(t.Context(), alice.c, key) == 0 {
		t.Error("the index is gone though bob needs it")
	}
	ahead.Store(int64(time.Hour + time.Minute))
	check(t, alice.c.Sync(t.Context()))
	if n := client.IndexSize(t.Context(), alice.c, key); n != 0 || client.OldIndexes(alice.c) {
		t.Errorf("%d sets are left an hour later", n)
	}
	check(t, client.TellContacts(t.Context(), alice.c))
	until(t, "bob is told", func() bool { return !client.OwesContacts(alice.c) }, alice, bob)
	pair(t, bob, alice)
}
