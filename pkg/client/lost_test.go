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
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// uploads collects the user pseudonyms of all KeyPackages that o's store is given from now on.
func uploads(t *testing.T, o *operator) *[]string {
	t.Helper()
	all := new([]string)
	meddle(t, o, mimimiv1connect.KeyPackageServiceUploadProcedure, func(ctx context.Context, req *mimimiv1.UploadRequest,
		honest func(context.Context, *mimimiv1.UploadRequest) (*mimimiv1.UploadResponse, error)) (*mimimiv1.UploadResponse, error) {
		for _, item := range req.Items {
			kp, err := mls.ParseKeyPackage(item.KeyPackage)
			if err != nil {
				return nil, err
			}
			cred, err := mimimi.ParsePseudonymousCredential(kp.Leaf().Credential())
			if err != nil {
				return nil, err
			}
			o.mu.Lock()
			*all = append(*all, cred.UserPseudonym.Wire())
			o.mu.Unlock()
		}
		return honest(ctx, req)
	})
	return all
}

// household is alice with a phone, and bob, whom she knows, in groups of the given names.
func household(t *testing.T, names ...string) (alice, phone, bob *person) {
	t.Helper()
	alice, bob = register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	phone = alice.addDevice("phone", bob)
	for _, name := range names {
		id, err := alice.c.CreateGroup(t.Context(), name)
		check(t, err)
		check(t, alice.c.Add(t.Context(), id, bob.c.User()))
		until(t, "all in "+name, func() bool { return inAll(name, 2, 3, alice, phone)() && bob.groupOf(2) != "" }, alice, phone, bob)
		check(t, bob.c.SetGroupName(t.Context(), bob.groupOf(2), name))
	}
	until(t, "the phone knows bob", func() bool { return client.LinkOf(phone.c, bob.c.User()) != "" }, alice, phone, bob)
	return alice, phone, bob
}

// TestLostLeaf: a client that has lost what it takes to be the same leaf again, or more, is removed and added again by the user's other client: by two commits, under the same user
// pseudonym, with a KeyPackage that no store sees.
func TestLostLeaf(t *testing.T) {
	lost := []struct{ bucket, said string }{
		{"leaves", client.BackSentence},
		{"rosters", client.BackSentence},
		{"groups", client.DamagedBack},
	}
	var names []string
	for _, x := range lost {
		names = append(names, x.bucket)
	}
	alice, phone, bob := household(t, names...)
	all := []*person{alice, phone, bob}
	seen := uploads(t, theWorld.opA)
	for _, x := range lost {
		t.Run(x.bucket, func(t *testing.T) {
			group, there := alice.named(x.bucket), phone.named(x.bucket)
			epoch := client.Epoch(alice.c, group)
			leaves, pseudonym := client.OwnLeaves(alice.c, group)
			old := leaves[client.DeviceID(phone.c)]
			told := len(bob.events(client.EventJoined, client.EventLeft, client.EventRemoved, client.EventWarning))
			check(t, client.DamageGroup(phone.c, x.bucket, there))
			check(t, phone.c.Sync(t.Context()))
			until(t, "the phone is back", func() bool {
				now, _ := client.OwnLeaves(alice.c, group)
				mine := now[client.DeviceID(phone.c)]
				return inAll(x.bucket, 2, 3, all...)() && phone.named(x.bucket) != there && len(mine) == 1 && mine[0] != old[0]
			}, all...)
			if _, now := client.OwnLeaves(phone.c, phone.named(x.bucket)); now != pseudonym {
				t.Error("the user has another pseudonym in the group")
			}
			if n := client.Epoch(alice.c, group); n != epoch+2 {
				t.Errorf("%d commits, want a removal and an add", n-epoch)
			}
			if slices.Contains(*seen, pseudonym) {
				t.Error("the KeyPackage went through the store")
			}
			if n := len(bob.events(client.EventJoined, client.EventLeft, client.EventRemoved, client.EventWarning)); n != told {
				t.Error("bob was told of something that did not happen")
			}
			if !slices.ContainsFunc(phone.events(client.EventGroupOver, client.EventWarning), func(e client.Event) bool {
				return e.Text == x.said && (e.Group == there || x.bucket == "groups")
			}) {
				t.Error("the phone's user is not told what happens")
			}
			phone.send(phone.named(x.bucket), "back")
			bob.send(bob.named(x.bucket), "hello")
			until(t, "talk", func() bool {
				return slices.Contains(bob.contents(bob.named(x.bucket)), "back") && slices.Contains(phone.contents(phone.named(x.bucket)), "hello")
			}, all...)
		})
	}
}

// TestLostConnection: a client that lost a connection group is brought back into it, and hears what the contact says there.
func TestLostConnection(t *testing.T) {
	alice, phone, bob := household(t)
	all := []*person{alice, phone, bob}
	there := client.LinkOf(phone.c, bob.c.User())
	check(t, client.DamageGroup(phone.c, "leaves", there))
	until(t, "the phone is back", func() bool {
		now := client.LinkOf(phone.c, bob.c.User())
		return now != "" && now != there && client.Alive(phone.c, now) && client.Unidentified(phone.c, now) == 0
	}, all...)
	check(t, client.ChangeKey(t.Context(), bob.c))
	until(t, "the phone hears of bob's new key", func() bool {
		return client.KeyOf(phone.c, bob.c.User()) == client.OwnKey(bob.c) && client.KeyOf(alice.c, bob.c.User()) == client.OwnKey(bob.c) && !client.Owes(bob.c)
	}, all...)
	if w := phone.events(client.EventWarning); len(w) != 0 {
		t.Errorf("the phone was warned: %s", w[0].Text)
	}
}

// TestLostAlone: nobody can bring the only client of a user back. Its user is told so; a member removes the user and adds it again.
func TestLostAlone(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	group := pair(t, alice, bob)
	there := bob.group()
	check(t, client.DamageGroup(bob.c, "leaves", there))
	check(t, client.DamageGroup(bob.c, "leaves", client.LinkOf(bob.c, alice.c.User())))
	bob.reopen() // with a watcher
	check(t, bob.c.Sync(t.Context()))
	over := bob.events(client.EventGroupOver)
	if len(over) != 1 || over[0].Group != there || over[0].Text != client.AloneSentence {
		t.Fatalf("bob is told %+v", over)
	}
	if w := bob.events(client.EventWarning); len(w) != 1 || w[0].User != alice.c.User() {
		t.Errorf("bob is told %+v about his contact", w)
	}
	if n := alice.members(group); n != 2 {
		t.Errorf("alice sees %d members: bob's leaf is there until it is removed", n)
	}
	// The contact is mended by connecting again, the group by a member.
	check(t, bob.c.Connect(t.Context(), alice.c.User()))
	until(t, "request", func() bool { return len(alice.requests()) == 1 }, alice)
	check(t, alice.c.Accept(t.Context(), alice.requests()[0].ID))
	until(t, "connected", func() bool { return alice.connected(bob) && bob.connected(alice) && !client.OwesContacts(alice.c) }, alice, bob)
	check(t, alice.c.Remove(t.Context(), group, bob.c.User()))
	check(t, alice.c.Add(t.Context(), group, bob.c.User()))
	until(t, "bob in", func() bool { return bob.group() != "" && bob.members(bob.group()) == 2 }, alice, bob)
	bob.send(bob.group(), "back")
	until(t, "talk", func() bool { return slices.Contains(alice.read(group), "back") }, alice, bob)
}

// TestLostKilled brings a client back between clients that die at random writes and are opened again.
func TestLostKilled(t *testing.T) {
	for _, seed := range []uint64{1, uint64(time.Now().UnixNano())} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			k := &killer{rng: rand.New(rand.NewPCG(seed, 0))}
			alice, phone, bob := household(t, "group")
			all := []*person{alice, phone, bob}
			there := phone.named("group")
			check(t, client.DamageGroup(phone.c, "leaves", there))
			until(t, "the phone is back", func() bool {
				for _, p := range all {
					_, _ = mortal(p, k, func() error { return p.c.Sync(t.Context()) })
				}
				return inAll("group", 2, 3, all...)() && phone.named("group") != there
			}, all...)
			leaves, _ := client.OwnLeaves(alice.c, alice.named("group"))
			for device, mine := range leaves {
				if len(mine) != 1 {
					t.Errorf("device %s has %d leaves", device, len(mine))
				}
			}
			phone.send(phone.named("group"), "back")
			until(t, "talk", func() bool { return slices.Contains(bob.contents(bob.named("group")), "back") }, all...)
			if n := len(phone.events(client.EventGroupOver)); n != 1 {
				t.Errorf("the phone is told %d times that it is out", n)
			}
			if k.n == 0 {
				t.Error("nobody was killed")
			}
			t.Logf("%d kills", k.n)
		})
	}
}

// TestCutOff: a client that lost the group of the user's clients says so, does nothing that the others would have to be told of, takes nothing from them, and reads on.
func TestCutOff(t *testing.T) {
	for _, bucket := range []string{"leaves", "rosters", "groups"} {
		t.Run(bucket, func(t *testing.T) {
			alice, phone, bob := household(t, "group")
			check(t, client.DamageGroup(phone.c, bucket, client.DeviceGroup(phone.c)))
			if bucket == "rosters" {
				phone.reopen() // what it knew in memory is gone
			}
			check(t, phone.c.Sync(t.Context()))
			if e := phone.events(client.EventCutOff); len(e) != 1 || e[0].Device != client.DeviceID(phone.c) {
				t.Fatalf("the phone says %+v", e)
			}
			_, err := phone.c.CreateGroup(t.Context(), "")
			wantError(t, "create a group", err, client.ErrCutOff)
			wantError(t, "connect", phone.c.Connect(t.Context(), bob.c.User()), client.ErrCutOff)
			bob.send(bob.named("group"), "still here?")
			phone.send(phone.named("group"), "reading")
			until(t, "talk", func() bool {
				return slices.Contains(phone.contents(phone.named("group")), "still here?") && slices.Contains(bob.contents(bob.named("group")), "reading")
			}, phone, bob, alice)
			set, _, err := client.ClaimFrom(t.Context(), bob.c, alice.c.User())
			if err != nil || len(set) != 2 {
				t.Errorf("a set has %d KeyPackages, want those of both devices: %v", len(set), err)
			}
			if err := alice.c.RemoveDevice(t.Context(), client.DeviceID(phone.c)); err != nil {
				t.Errorf("remove: %v", err)
			}
			until(t, "the phone is out", inAll("group", 2, 2, alice, bob), alice, bob)
		})
	}
}

// TestDeviceWelcomeLost: a client whose Welcome never came, though another of the user's said that it was being added, is a leaf only; an hour later that leaf is replaced.
func TestDeviceWelcomeLost(t *testing.T) {
	ahead, here := clocked(t)
	alice := here("alice")
	phone := alice.addDevice("phone")
	_, err := alice.c.CreateGroup(t.Context(), "group")
	check(t, err)
	until(t, "the phone is added", func() bool { return alice.clients(alice.named("group")) == 2 }, alice)
	check(t, client.DropWelcome(t.Context(), phone.c))
	for range 3 {
		check(t, phone.c.Sync(t.Context()))
		check(t, alice.c.Sync(t.Context()))
	}
	if phone.named("group") != "" {
		t.Fatal("the phone is in though its Welcome is lost")
	}
	ahead.Add(int64(time.Hour + time.Minute))
	until(t, "the phone in", inAll("group", 1, 2, alice, phone), alice, phone)
	phone.send(phone.named("group"), "here")
	until(t, "talk", func() bool { return slices.Contains(alice.contents(alice.named("group")), "here") }, alice, phone)
}
