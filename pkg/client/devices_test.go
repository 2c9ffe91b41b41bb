package client_test

import (
	"errors"
	"slices"
	"testing"

	"mimimi.example/pkg/client"
)

// addDevice makes another client of p's user, let in at p. All others of the user's that are given are synced too.
func (p *person) addDevice(name string, others ...*person) *person {
	p.t.Helper()
	q := p.newLink(name)
	if err := p.c.ApproveDevice(p.t.Context(), q.code()); err != nil {
		p.t.Fatalf("%s: approve: %v", p.name, err)
	}
	until(p.t, "link", func() bool { return q.code() == "" && len(q.events(client.EventLinked)) == 1 }, append([]*person{q, p}, others...)...)
	return q
}

// inAll says whether all people have a group of a name, each with so many members and so many own clients in it.
func inAll(name string, members, clients int, people ...*person) func() bool {
	return func() bool {
		for _, p := range people {
			id := p.named(name)
			if id == "" || p.members(id) != members || p.clients(id) != clients {
				return false
			}
		}
		return true
	}
}

// named returns the local id of the active group with a label.
func (p *person) named(name string) string {
	p.t.Helper()
	for _, g := range p.groups() {
		if g.Name == name && g.State == client.GroupActive {
			return g.ID
		}
	}
	return ""
}

// clients returns how many leaves a group has.
func (p *person) clients(group string) (n int) {
	p.t.Helper()
	all, err := p.c.Members(p.t.Context(), group)
	if err != nil {
		return -1
	}
	for _, m := range all {
		n += m.Clients
	}
	return n
}

// contents is what a person has seen in a group, own messages too, in order.
func (p *person) contents(group string) (all []string) {
	p.t.Helper()
	for _, e := range p.events(client.EventMessage, client.EventSent) {
		if e.Group == group {
			all = append(all, string(e.Body))
		}
	}
	return all
}

// TestDevices is the life of two users with three and two clients on two domains: whatever one client does, all of a user's have.
func TestDevices(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	alice.atOnce()
	bob.atOnce()
	phone := alice.addDevice("alice's phone")
	connect(t, phone, bob)
	until(t, "contact on both", func() bool { return alice.connected(bob) }, alice, phone)
	laptop := bob.addDevice("bob's laptop", bob)
	until(t, "contact on the new one", func() bool { return laptop.connected(alice) }, bob, laptop, alice, phone)

	if _, err := alice.c.CreateGroup(t.Context(), "friends"); err != nil {
		t.Fatalf("create: %v", err)
	}
	all := []*person{alice, phone, bob, laptop}
	until(t, "own group", inAll("friends", 1, 2, alice, phone), alice, phone)
	if err := phone.c.Add(t.Context(), phone.named("friends"), bob.c.User()); err != nil {
		t.Fatalf("add: %v", err)
	}
	until(t, "bob's group", func() bool { return bob.group() != "" && laptop.group() != "" }, all...)
	if err := laptop.c.SetGroupName(t.Context(), laptop.group(), "friends"); err != nil {
		t.Fatalf("name: %v", err)
	}
	until(t, "all in", inAll("friends", 2, 4, all...), all...)

	var want []string
	for i, p := range all {
		text := "from " + p.name
		p.send(p.named("friends"), text)
		want = append(want, text)
		until(t, "talk", func() bool {
			return !slices.ContainsFunc(all, func(q *person) bool { return len(q.contents(q.named("friends"))) != i+1 })
		}, all...)
	}
	for _, p := range all {
		if got := p.contents(p.named("friends")); !slices.Equal(got, want) {
			t.Errorf("%s has %q, want %q", p.name, got, want)
		}
		for _, e := range p.events(client.EventSent) {
			if e.User != p.c.User() {
				t.Errorf("%s is shown a message of another as its own", p.name)
			}
		}
	}

	// A device that comes later is brought into what is there.
	tablet := alice.addDevice("alice's tablet", phone, bob, laptop)
	all = append(all, tablet)
	until(t, "tablet in", inAll("friends", 2, 5, all...), all...)
	if !tablet.connected(bob) {
		t.Error("the tablet does not know the contact")
	}
	tablet.send(tablet.named("friends"), "from the tablet")
	until(t, "tablet heard", func() bool {
		return !slices.ContainsFunc(all, func(q *person) bool { return !slices.Contains(q.contents(q.named("friends")), "from the tablet") })
	}, all...)

	// One that is offline for all of a group's making comes in when it is back.
	link := ""
	if _, err := bob.c.CreateGroup(t.Context(), "work"); err != nil {
		t.Fatalf("create: %v", err)
	}
	link, err := bob.c.Invite(t.Context(), bob.named("work"), client.InviteOptions{})
	if err != nil {
		t.Fatalf("invite: %v", err)
	}
	id, err := alice.c.Join(t.Context(), link)
	if err != nil {
		t.Fatalf("join: %v", err)
	}
	if err := alice.c.SetGroupName(t.Context(), id, "work"); err != nil {
		t.Fatalf("name: %v", err)
	}
	until(t, "joined", func() bool { return alice.named("work") != "" }, alice, bob)
	alice.send(alice.named("work"), "at work")
	until(t, "all at work", inAll("work", 2, 5, all...), all...)
	for _, p := range all {
		for _, e := range p.events(client.EventWarning) {
			t.Errorf("%s was warned: %s", p.name, e.Text)
		}
		if n := len(p.groups()); n != 2 {
			t.Errorf("%s sees %d groups, want 2", p.name, n)
		}
	}

	if v, err := bob.c.Verify(t.Context(), alice.c.User()); err != nil || len(v.Theirs) != 3 {
		t.Errorf("bob sees %d fingerprints of alice's three devices, %v", len(v.Theirs), err)
	}

	// A user who leaves on one client leaves on all.
	if err := phone.c.Leave(t.Context(), phone.named("work")); err != nil {
		t.Fatalf("leave: %v", err)
	}
	until(t, "left", func() bool {
		return alice.named("work") == "" && phone.named("work") == "" && tablet.named("work") == "" && bob.members(bob.named("work")) == 1
	}, all...)

	// One that is removed reads nothing more, and what it knew is replaced.
	token, key := client.SelfToken(alice.c), client.OwnKey(alice.c)
	if err := alice.c.RemoveDevice(t.Context(), client.DeviceID(phone.c)); err != nil {
		t.Fatalf("remove: %v", err)
	}
	rest := []*person{alice, tablet, bob, laptop}
	until(t, "removed", inAll("friends", 2, 4, rest...), rest...)
	alice.send(alice.named("friends"), "without the phone")
	until(t, "heard", func() bool {
		return !slices.ContainsFunc(rest, func(q *person) bool { return !slices.Contains(q.contents(q.named("friends")), "without the phone") })
	}, rest...)
	until(t, "rotated", func() bool {
		return client.OwnKey(alice.c) != key && client.OwnKey(tablet.c) == client.OwnKey(alice.c) && client.KeyOf(bob.c, alice.c.User()) == client.OwnKey(alice.c) &&
			client.KeyOf(laptop.c, alice.c.User()) == client.OwnKey(alice.c) && client.SelfToken(tablet.c) == client.SelfToken(alice.c)
	}, rest...)
	if client.SelfToken(alice.c) == token {
		t.Error("the own token is what the removed device knows")
	}
	if err := phone.c.Sync(t.Context()); !errors.Is(err, client.ErrDeviceRemoved) {
		t.Errorf("the removed device syncs: %v", err)
	}
	if n := len(phone.events(client.EventDeviceRemoved)); n != 1 {
		t.Errorf("the removed device was told %d times", n)
	}
	if slices.ContainsFunc(phone.events(client.EventMessage, client.EventSent), func(e client.Event) bool { return string(e.Body) == "without the phone" }) {
		t.Error("the removed device reads on")
	}
	if _, err := phone.c.CreateGroup(t.Context(), "x"); !errors.Is(err, client.ErrDeviceRemoved) {
		t.Errorf("the removed device makes a group: %v", err)
	}
	if _, err := bob.c.CreateGroup(t.Context(), "after"); err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := bob.c.Add(t.Context(), bob.named("after"), alice.c.User()); err != nil {
		t.Fatalf("add after the rotation: %v", err)
	}
	until(t, "after", func() bool { return alice.members(alice.groupOf(2)) == 2 && tablet.members(tablet.groupOf(2)) == 2 }, rest...)
}

// groupOf returns the active group with so many members that has no label.
func (p *person) groupOf(members int) string {
	for _, g := range p.groups() {
		if g.State == client.GroupActive && g.Name == "" && g.Members == members {
			return g.ID
		}
	}
	return ""
}
