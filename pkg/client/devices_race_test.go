package client_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/problem"
)

// newLink makes a client that asks to be let in as one of p's user's.
func (p *person) newLink(name string) *person {
	p.t.Helper()
	q := &person{t: p.t, name: name, cfg: client.Config{Dir: p.t.TempDir(), Provider: p.cfg.Provider, Stock: p.cfg.Stock, Spread: p.cfg.Spread, Now: p.cfg.Now}}
	c, err := client.Link(p.t.Context(), q.cfg, p.c.User())
	if err != nil {
		p.t.Fatalf("%s: link: %v", name, err)
	}
	q.use(c)
	p.t.Cleanup(q.close)
	return q
}

// code is what p shows while it is not linked.
func (p *person) code() string {
	p.t.Helper()
	code, err := p.c.LinkCode(p.t.Context())
	if err != nil {
		p.t.Fatalf("%s: code: %v", p.name, err)
	}
	return code
}

// TestDeviceCodes: only the code of an offer that is there lets a device in, and a device that nobody lets in can do nothing.
func TestDeviceCodes(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.a, "bob")
	phone := alice.newLink("phone")
	code := phone.code()
	for _, wrong := range []string{"", "AAAA-BBBB-CCCC", code[:13], code + "A"} {
		if err := alice.c.ApproveDevice(t.Context(), wrong); !errors.Is(err, client.ErrUnknownDevice) {
			t.Errorf("code %q: %v", wrong, err)
		}
	}
	if err := bob.c.ApproveDevice(t.Context(), code); !errors.Is(err, client.ErrUnknownDevice) {
		t.Errorf("another user's code: %v", err)
	}
	if err := phone.c.Sync(t.Context()); err != nil {
		t.Errorf("sync while nobody has let it in: %v", err)
	}
	if _, err := phone.c.CreateGroup(t.Context(), "x"); problem.KindOf(err) != problem.Unavailable {
		t.Errorf("a device that is not linked makes a group: %v", err)
	}
	if err := alice.c.ApproveDevice(t.Context(), strings.ToLower(strings.ReplaceAll(code, "-", " "))); err != nil {
		t.Fatalf("approve: %v", err)
	}
	until(t, "link", func() bool { return phone.code() == "" && len(alice.events(client.EventDeviceAdded)) == 1 }, phone, alice)
	for _, p := range []*person{alice, phone} {
		list, err := p.c.Devices(t.Context())
		if err != nil || len(list) != 2 || !list[0].Self || !list[0].Linked || !list[1].Linked || list[0].ID != client.DeviceID(p.c) {
			t.Errorf("%s lists %+v, %v", p.name, list, err)
		}
	}
	if err := alice.c.RemoveDevice(t.Context(), client.DeviceID(alice.c)); problem.KindOf(err) != problem.Invalid {
		t.Errorf("a device removes itself: %v", err)
	}
	if err := alice.c.RemoveDevice(t.Context(), client.DeviceID(bob.c)); !errors.Is(err, client.ErrUnknownDevice) {
		t.Errorf("another's device is removed: %v", err)
	}
	if _, err := client.Link(t.Context(), client.Config{Dir: bob.cfg.Dir, Provider: bob.cfg.Provider}, alice.c.User()); !errors.Is(err, client.ErrLocked) {
		t.Errorf("link in a folder that is in use: %v", err)
	}
}

// TestDevicesOffline: a device that was away for a connection, a group, messages and another device's coming has all of it when it is back.
func TestDevicesOffline(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	alice.atOnce()
	phone := alice.addDevice("phone")
	// The phone is away from here on.
	connect(t, bob, alice)
	tablet := alice.addDevice("tablet")
	if _, err := bob.c.CreateGroup(t.Context(), "bob's"); err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := bob.c.Add(t.Context(), bob.named("bob's"), alice.c.User()); err != nil {
		t.Fatalf("add: %v", err)
	}
	until(t, "alice in", func() bool { return alice.group() != "" }, alice, bob)
	if err := alice.c.SetGroupName(t.Context(), alice.group(), "bob's"); err != nil {
		t.Fatalf("name: %v", err)
	}
	if _, err := alice.c.CreateGroup(t.Context(), "own"); err != nil {
		t.Fatalf("create: %v", err)
	}
	bob.send(bob.named("bob's"), "one")
	alice.send(alice.named("own"), "two")
	until(t, "tablet in", func() bool { return tablet.named("own") != "" && tablet.named("bob's") != "" }, alice, tablet, bob)

	all := []*person{alice, tablet, phone}
	until(t, "phone back", func() bool { return inAll("own", 1, 3, all...)() && inAll("bob's", 2, 4, append(all, bob)...)() }, append(all, bob)...)
	if !phone.connected(bob) || !tablet.connected(bob) {
		t.Error("a device does not know the contact")
	}
	phone.send(phone.named("own"), "three")
	tablet.send(tablet.named("bob's"), "four")
	until(t, "talk", func() bool {
		for _, p := range all {
			if !slices.Contains(p.contents(p.named("own")), "three") || !slices.Contains(p.contents(p.named("bob's")), "four") {
				return false
			}
		}
		return slices.Contains(bob.read(bob.named("bob's")), "four")
	}, append(all, bob)...)
	for _, p := range append(all, bob) {
		for _, e := range p.events(client.EventWarning) {
			t.Errorf("%s was warned: %s", p.name, e.Text)
		}
	}
}

// TestDevicesRace: two clients of a user accept one request at once, ask one user at once, and name a group at once. There is one outcome on both.
func TestDevicesRace(t *testing.T) {
	alice, bob, carol := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob"), register(t, theWorld.b, "carol")
	alice.atOnce()
	phone := alice.addDevice("phone")
	both := []*person{alice, phone}

	if err := bob.c.Connect(t.Context(), alice.c.User()); err != nil {
		t.Fatalf("connect: %v", err)
	}
	until(t, "request on both", func() bool { return len(alice.requests()) == 1 && len(phone.requests()) == 1 }, alice, phone)
	for _, p := range both {
		if err := p.c.Accept(t.Context(), p.requests()[0].ID); err != nil {
			t.Logf("%s: accept: %v", p.name, err)
		}
	}
	until(t, "one connection", func() bool { return alice.connected(bob) && phone.connected(bob) && bob.connected(alice) }, alice, phone, bob)
	until(t, "one token", func() bool { return client.OwnToken(alice.c, bob.c.User()) == client.OwnToken(phone.c, bob.c.User()) }, alice, phone, bob)

	for _, p := range both {
		if err := p.c.Connect(t.Context(), carol.c.User()); err != nil {
			t.Fatalf("%s: connect: %v", p.name, err)
		}
	}
	until(t, "requests", func() bool { return len(carol.requests()) > 0 }, carol)
	if err := carol.c.Accept(t.Context(), carol.requests()[0].ID); err != nil {
		t.Fatalf("accept: %v", err)
	}
	until(t, "connected", func() bool { return alice.connected(carol) && phone.connected(carol) && carol.connected(alice) }, alice, phone, carol)
	until(t, "the same token", func() bool {
		return client.OwnToken(alice.c, carol.c.User()) == client.OwnToken(phone.c, carol.c.User())
	}, alice, phone, carol)

	if _, err := alice.c.CreateGroup(t.Context(), "group"); err != nil {
		t.Fatalf("create: %v", err)
	}
	until(t, "group", inAll("group", 1, 2, both...), both...)
	for i, p := range both {
		if err := p.c.SetGroupName(t.Context(), p.named("group"), fmt.Sprint("name ", i)); err != nil {
			t.Fatalf("name: %v", err)
		}
	}
	until(t, "one name", func() bool { return alice.named("name 1") != "" && phone.named("name 1") != "" }, both...)
	for _, u := range users(bob, carol) {
		if err := phone.c.Add(t.Context(), phone.named("name 1"), u); err != nil {
			t.Fatalf("add: %v", err)
		}
	}
	until(t, "all in", func() bool {
		return alice.members(alice.group()) == 3 && phone.members(phone.group()) == 3 && bob.members(bob.group()) == 3 && carol.members(carol.group()) == 3
	}, alice, phone, bob, carol)
}

// TestDevicesKilled links and removes a device between clients that die at random writes and are opened again.
func TestDevicesKilled(t *testing.T) {
	for _, seed := range []uint64{1, uint64(time.Now().UnixNano())} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { killDevices(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

func killDevices(t *testing.T, rng *rand.Rand) {
	k := &killer{rng: rng}
	alice := register(t, theWorld.a, "alice")
	alice.atOnce()
	if _, err := alice.c.CreateGroup(t.Context(), "group"); err != nil {
		t.Fatalf("create: %v", err)
	}
	phone := alice.newLink("phone")
	code := phone.code()
	all := []*person{alice, phone}
	sync := func(what string, cond func() bool) {
		t.Helper()
		until(t, what, func() bool {
			for _, p := range all {
				_, _ = mortal(p, k, func() error { return p.c.Sync(t.Context()) })
			}
			return cond()
		}, all...)
	}
	approved := false
	sync("approve", func() bool {
		if !approved {
			died, err := mortal(alice, k, func() error { return alice.c.ApproveDevice(t.Context(), code) })
			approved = !died && err == nil
			if err != nil {
				t.Logf("approve: %v", err)
			}
		}
		return phone.code() == ""
	})
	sync("brought in", inAll("group", 1, 2, all...))
	for i := range 6 {
		p := all[i%2]
		for {
			died, err := mortal(p, k, func() error {
				_, err := p.c.Send(t.Context(), p.named("group"), []byte(fmt.Sprint("message ", i)))
				return err
			})
			if err != nil {
				t.Fatalf("send: %v", err)
			}
			if !died {
				break
			}
		}
	}
	sync("talk", func() bool {
		for i := range 6 {
			for _, p := range all {
				if !slices.Contains(p.contents(p.named("group")), fmt.Sprint("message ", i)) {
					return false
				}
			}
		}
		return true
	})
	for _, p := range all {
		for _, e := range p.events(client.EventWarning) {
			t.Errorf("%s was warned: %s", p.name, e.Text)
		}
	}
	id, index := client.DeviceID(phone.c), client.WriteKey(alice.c)
	removed := false
	sync("removed", func() bool {
		if !removed {
			died, err := mortal(alice, k, func() error { return alice.c.RemoveDevice(t.Context(), id) })
			removed = !died && err == nil || errors.Is(err, client.ErrUnknownDevice)
		}
		return alice.clients(alice.named("group")) == 1 && len(phone.events(client.EventDeviceRemoved)) == 1
	})
	sync("its index deleted", func() bool { return client.IndexSize(t.Context(), alice.c, index) == 0 && !client.OldIndexes(alice.c) })
	if k.n == 0 {
		t.Error("nobody was killed")
	}
	t.Logf("%d kills", k.n)
}
