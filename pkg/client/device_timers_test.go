package client_test

import (
	"slices"
	"testing"
	"time"

	rpc "connectrpc.com/connect"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// TestDeviceTimers moves the clock past everything that a user's devices wait for, or give up after a time (limits.go).
func TestDeviceTimers(t *testing.T) {
	y := newYear(t)
	for name, f := range map[string]func(t *testing.T, y *year){
		"a code expires": codeExpires, "a link is given up": linkGivenUp, "a link that nobody completes": linkUnfinished, "an offer is left again": offerAgain, "a Welcome without a word": welcomeAlone,
		"a Welcome of somebody unknown": welcomeUnknown, "a KeyPackage that nobody uses": handedAgain, "a group that was left": leftBefore,
		"accepted elsewhere": acceptedElsewhere, "a removal that was begun": removalBegun, "a late leaf of a removed device": removedComesLate,
		"a contact that cannot be told": cannotBeTold, "brought in over a day": broughtOverADay,
	} {
		t.Run(name, func(t *testing.T) { f(t, &year{t: t, at: y.at, c: y.c, d: y.d}) })
		y.at.pass(8 * day) // the next one has tokens of its own
	}
}

// linkAgain goes on with a link in the folder of a client that is closed for it.
func (p *person) linkAgain(user mimimi.User) {
	p.t.Helper()
	p.close()
	c, err := client.Link(p.t.Context(), p.cfg, user)
	if err != nil {
		p.t.Fatalf("%s: link: %v", p.name, err)
	}
	p.use(c)
}

func codeExpires(t *testing.T, y *year) {
	alice := y.register(y.c, unique("alice"))
	phone := alice.newLink("phone")
	code := phone.code()
	y.at.pass(8 * time.Minute)
	phone.sync() // leaves the offer once more, for ten minutes
	y.at.pass(3 * time.Minute)
	wantError(t, "sync", phone.c.Sync(t.Context()), client.ErrLinkExpired)
	y.at.pass(8 * time.Minute)
	wantError(t, "sync", phone.c.Sync(t.Context()), client.ErrLinkExpired)
	wantError(t, "approve", alice.c.ApproveDevice(t.Context(), code), client.ErrUnknownDevice)
	phone.linkAgain(alice.c.User())
	if phone.code() == code {
		t.Error("the new code is the old one")
	}
	wantError(t, "approve", alice.c.ApproveDevice(t.Context(), code), client.ErrUnknownDevice)
	if err := alice.c.ApproveDevice(t.Context(), phone.code()); err != nil {
		t.Fatalf("approve: %v", err)
	}
	until(t, "link", func() bool { return phone.code() == "" }, phone, alice)
}

// linkGivenUp: a new device goes when it was let in, and is back after the other side has given it up.
func linkGivenUp(t *testing.T, y *year) {
	alice := y.register(y.c, unique("alice"))
	phone := alice.newLink("phone")
	if err := alice.c.ApproveDevice(t.Context(), phone.code()); err != nil {
		t.Fatalf("approve: %v", err)
	}
	for _, x := range []struct {
		after   time.Duration
		waiting bool
	}{{0, true}, {29 * time.Minute, true}, {2 * time.Minute, false}} {
		y.later(x.after, alice)
		if due := client.NextDue(alice.c); !due.IsZero() != x.waiting {
			t.Errorf("%v later alice looks for the new device at %v", x.after, due)
		}
	}
	_ = phone.c.Sync(t.Context()) // its answer is in the mailbox no more
	y.at.pass(10 * time.Minute)
	wantError(t, "sync", phone.c.Sync(t.Context()), client.ErrLinkExpired)
	phone.linkAgain(alice.c.User())
	if err := alice.c.ApproveDevice(t.Context(), phone.code()); err != nil {
		t.Fatalf("approve again: %v", err)
	}
	until(t, "link", func() bool { return phone.code() == "" && len(alice.events(client.EventDeviceAdded)) == 1 }, phone, alice)
}

// linkUnfinished: a new device was let in, and the client that did it is gone: the new one gives up when it has waited long enough.
func linkUnfinished(t *testing.T, y *year) {
	alice := y.register(y.c, unique("alice"))
	phone := alice.newLink("phone")
	if err := alice.c.ApproveDevice(t.Context(), phone.code()); err != nil {
		t.Fatalf("approve: %v", err)
	}
	phone.sync()                   // it has its certificate, and has left its KeyPackage
	y.later(39*time.Minute, phone) // it waits
	y.at.pass(2 * time.Minute)
	wantError(t, "sync", phone.c.Sync(t.Context()), client.ErrLinkExpired)
}

// offerAgain: an offer that others have pushed out of the mailbox is there again at the device's next sync, half a minute later.
func offerAgain(t *testing.T, y *year) {
	alice := y.register(y.c, unique("alice"))
	phone := alice.newLink("phone")
	for range 8 {
		alice.newLink("stranger")
	}
	phone.sync()
	wantError(t, "approve", alice.c.ApproveDevice(t.Context(), phone.code()), client.ErrUnknownDevice)
	y.later(31*time.Second, phone)
	if err := alice.c.ApproveDevice(t.Context(), phone.code()); err != nil {
		t.Errorf("approve: %v", err)
	}
}

// welcomeAlone: a Welcome of an own device waits an hour for what that one has to say of the group, and is then followed without.
func welcomeAlone(t *testing.T, y *year) {
	first, second, _ := y.pair()
	second.sync()
	if _, err := first.c.CreateGroup(t.Context(), "quiet"); err != nil { // it says so with its next sync
		t.Fatalf("create: %v", err)
	}
	in := func() bool { return second.group() != "" }
	until(t, "the Welcome", func() bool { return client.Welcomes(second.c) == 1 }, second)
	y.later(50*time.Minute, second)
	if in() {
		t.Error("the second device does not wait")
	}
	y.at.pass(11 * time.Minute)
	until(t, "the second device in", in, second)
	until(t, "the name", func() bool { return second.named("quiet") != "" }, second, first)
}

// welcomeUnknown: a Welcome of somebody whom this device does not know waits an hour for the others to say that it is a contact, and is then dropped; the device asks, and
// is added anew once it knows.
func welcomeUnknown(t *testing.T, y *year) {
	first, bob := y.register(y.c, unique("alice")), y.register(y.d, unique("bob"))
	second := first.addDevice("second")
	connect(t, first, bob)
	first.sync()
	if err := client.MissDevices(t.Context(), second.c, first.c); err != nil {
		t.Fatalf("miss: %v", err)
	}
	if _, err := bob.c.CreateGroup(t.Context(), "friends"); err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := bob.c.Add(t.Context(), bob.named("friends"), users(first)...); err != nil {
		t.Fatalf("add: %v", err)
	}
	until(t, "the Welcome", func() bool { return client.Welcomes(second.c) == 1 }, second)
	y.later(50*time.Minute, second)
	if client.Welcomes(second.c) != 1 || second.group() != "" {
		t.Error("the second device does not wait")
	}
	y.at.pass(11 * time.Minute)
	until(t, "the Welcome is dropped", func() bool { return client.Welcomes(second.c) == 0 }, second)
	until(t, "the second device knows", func() bool { return second.connected(bob) && first.group() != "" && client.Shared(second.c) > 0 }, first, second)
	y.at.pass(61 * time.Minute)
	until(t, "all in", func() bool {
		return second.group() != "" && second.clients(second.group()) == 3 && bob.clients(bob.group()) == 3
	}, second, first, bob)
}

// handedAgain: a KeyPackage that a device made for a group is made anew when nobody has used it for long.
func handedAgain(t *testing.T, y *year) {
	first := y.register(y.c, unique("alice"))
	if _, err := first.c.CreateGroup(t.Context(), "old"); err != nil {
		t.Fatalf("create: %v", err)
	}
	first.cfg.Spread = time.Hour // it would add the second device later
	first.reopen()
	second := first.addDevice("second")
	until(t, "handed", func() bool { return client.Brings(first.c) == 1 && client.Shared(second.c) == 1 }, first, second)
	// The first is away from here on.
	y.later(59*day, second)
	before := client.HandedAt(second.c)
	y.later(2*day, second)
	if now := client.HandedAt(second.c); !now.After(before) {
		t.Error("the KeyPackage is not made anew")
	}
	y.later(34*day, second) // the first one has ended
	until(t, "the first is back", func() bool { return client.Brings(first.c) == 1 }, first)
	y.at.pass(time.Hour + time.Minute)
	until(t, "the second in", inAll("old", 1, 2, first, second), first, second)
}

// leftBefore: that the user left a group which a device was not in yet is remembered for a day.
func leftBefore(t *testing.T, y *year) {
	first, bob := y.register(y.c, unique("alice")), y.register(y.d, unique("bob"))
	connect(t, first, bob)
	if _, err := first.c.CreateGroup(t.Context(), "left"); err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := first.c.Add(t.Context(), first.named("left"), users(bob)...); err != nil {
		t.Fatalf("add: %v", err)
	}
	first.cfg.Spread = 23 * time.Hour
	first.reopen()
	second := first.addDevice("second")
	until(t, "the second is told", func() bool { return client.Brings(first.c) == 2 && client.Shared(second.c) == 2 }, first, second) // with the connection group
	if err := first.c.Leave(t.Context(), first.named("left")); err != nil {
		t.Fatalf("leave: %v", err)
	}
	until(t, "the second hears of it", func() bool { return client.LeftBefore(second.c) == 1 }, first, second)
	y.later(23*time.Hour, second)
	if n := client.LeftBefore(second.c); n != 1 {
		t.Errorf("%d groups are remembered as left after a day, want 1", n)
	}
	y.later(2*time.Hour, second)
	if n := client.LeftBefore(second.c); n != 0 {
		t.Errorf("%d groups are remembered as left after more than a day, want none", n)
	}
}

// acceptedElsewhere: two devices accept one request; the one that the hub took first is silent for long. The other gives its own try up and leaves the connection alone.
func acceptedElsewhere(t *testing.T, y *year) {
	first, bob := y.register(y.c, unique("alice")), y.register(y.d, unique("bob"))
	second := first.addDevice("second")
	if err := bob.c.Connect(t.Context(), first.c.User()); err != nil {
		t.Fatalf("connect: %v", err)
	}
	until(t, "request on both", func() bool { return len(first.requests()) == 1 && len(second.requests()) == 1 }, first, second)
	for _, p := range []*person{first, second} {
		if err := p.c.Accept(t.Context(), p.requests()[0].ID); err != nil {
			t.Logf("%s: accept: %v", p.name, err)
		}
	}
	later := func(d time.Duration) { // its tries to enter fail, which Sync says
		t.Helper()
		y.at.pass(d)
		if err := second.c.Sync(t.Context()); err != nil && problem.KindOf(err) != problem.Denied {
			t.Fatalf("sync: %v", err)
		}
	}
	later(23 * time.Hour)
	contacts := func() int {
		all, err := second.c.Contacts(t.Context())
		if err != nil {
			t.Fatalf("contacts: %v", err)
		}
		return len(all)
	}
	if contacts() != 1 {
		t.Error("the second device gives up at once")
	}
	later(7 * time.Hour) // the last try is up to a quarter of a day later
	if n := contacts(); n != 0 {
		t.Errorf("the second device has %d contacts, want none", n)
	}
	all := []*person{first, second, bob}
	until(t, "connected", func() bool { return first.connected(bob) && second.connected(bob) && bob.connected(first) }, all...)
	until(t, "one token", func() bool {
		return client.OwnToken(first.c, bob.c.User()) == client.TokenOf(bob.c, first.c.User()) && client.OwnToken(second.c, bob.c.User()) == client.TokenOf(bob.c, first.c.User())
	}, all...)
}

// removalBegun: the device at which another one was removed dies at once, or tells nobody of the new secrets. The next one does what is left, each thing at its time.
func removalBegun(t *testing.T, y *year) {
	first, second, bob := y.pair()
	third := first.addDevice("third", second)
	if _, err := first.c.CreateGroup(t.Context(), "own"); err != nil {
		t.Fatalf("create: %v", err)
	}
	until(t, "all in", inAll("own", 1, 3, first, second, third), first, second, third)
	until(t, "contact on the third", func() bool { return third.connected(bob) }, first, second, third)
	self, ours, key := client.SelfToken(second.c), client.OwnToken(second.c, bob.c.User()), client.OwnKey(second.c)
	gone := client.DeviceID(third.c)
	client.SetFault(first.c, func(persisted bool) error {
		if persisted && !client.IsOwn(first.c, gone) {
			return errKilled
		}
		return nil
	})
	wantError(t, "remove", first.c.RemoveDevice(t.Context(), gone), errKilled)
	client.SetFault(first.c, nil)
	until(t, "the second hears of it", func() bool { return len(second.events(client.EventDeviceRemoved)) == 1 }, second)
	y.later(50*time.Second, second)
	if n := second.clients(second.named("own")); n != 3 {
		t.Error("the second device did not give the first one its minute")
	}
	y.at.pass(20 * time.Second)
	until(t, "out of the group", func() bool { return second.clients(second.named("own")) == 2 }, second)
	y.later(9*time.Minute, second)
	if client.SelfToken(second.c) != self {
		t.Error("the second device did not give the first one its ten minutes")
	}
	y.at.pass(2 * time.Minute)
	replaced := func(p *person) func() bool {
		return func() bool {
			return client.SelfToken(p.c) != self && client.OwnKey(p.c) != key && bob.knows(p) && client.OwnToken(p.c, bob.c.User()) != ours &&
				client.TokenOf(bob.c, p.c.User()) == client.OwnToken(p.c, bob.c.User()) && !client.OwesContacts(p.c)
		}
	}
	until(t, "replaced", replaced(second), second, bob)
	first.reopen()
	until(t, "the first is back", replaced(first), first, bob, second)

	y.at.pass(8 * day) // for tokens
	until(t, "tokens", func() bool { return !client.Owes(second.c) }, first, second, bob)
	// Another one is removed; the first device makes new secrets, and tells the second but not the contacts.
	third = first.addDevice("fourth", second)
	until(t, "contact on the fourth", func() bool { return third.connected(bob) }, first, second, third)
	self, ours, key = client.SelfToken(second.c), client.OwnToken(second.c, bob.c.User()), client.OwnKey(second.c)
	if err := first.c.RemoveDevice(t.Context(), client.DeviceID(third.c)); err != nil {
		t.Fatalf("remove: %v", err)
	}
	until(t, "the second has the secrets", func() bool { return client.SelfToken(second.c) != self }, second)
	y.later(10*time.Minute, second, bob)
	if client.TokenOf(bob.c, second.c.User()) != ours {
		t.Error("the second device told the contact before its turn")
	}
	y.at.pass(2 * time.Hour)
	until(t, "replaced again", replaced(second), second, bob)
}

// removedComesLate: somebody had a set with the KeyPackage of a device that was removed since, and uses it. The leaf is removed, for as long as such a set may be used.
func removedComesLate(t *testing.T, y *year) {
	first, second, bob := y.pair()
	until(t, "the stock", func() bool { return first.fillsSets(2) }, first, second)
	if _, err := bob.c.CreateGroup(t.Context(), "late"); err != nil {
		t.Fatalf("create: %v", err)
	}
	late := bob.named("late")
	dead := false
	client.SetFault(bob.c, func(persisted bool) error {
		if dead = dead || persisted && client.Claimed(bob.c, late) == 2; dead {
			return errKilled
		}
		return nil
	})
	wantError(t, "add", bob.c.Add(t.Context(), late, users(first)...), errKilled)
	client.SetFault(bob.c, nil)
	if err := first.c.RemoveDevice(t.Context(), client.DeviceID(second.c)); err != nil {
		t.Fatalf("remove: %v", err)
	}
	y.later(2*time.Hour, first)
	bob.reopen()
	bob.sync() // he has not heard of the revocation yet
	if n := bob.clients(late); n != 3 {
		t.Fatalf("%d clients are in the group, want the removed one's leaf too", n)
	}
	until(t, "first in", func() bool { return first.group() != "" }, bob, first)
	until(t, "the leaf is removed", func() bool { return first.clients(first.group()) == 2 && bob.clients(late) == 2 }, first, bob)
	y.later(119*day, first)
	if n := client.Removals(first.c); n != 1 {
		t.Errorf("%d removals are remembered, want 1", n)
	}
	y.later(2*day, first)
	if n := client.Removals(first.c); n != 0 {
		t.Errorf("%d removals are remembered when no KeyPackage can be used any more", n)
	}
}

// cannotBeTold: a contact that cannot be told holds a change of the key up for a week.
func cannotBeTold(t *testing.T, y *year) {
	first, second, bob := y.pair()
	before := client.OwnKey(first.c)
	if err := client.ChangeKey(t.Context(), first.c); err != nil {
		t.Fatalf("change: %v", err)
	}
	restore, _ := client.RefuseRelay(first.c, rpc.CodeUnavailable)
	for _, x := range []struct {
		days    int
		changed bool
	}{{6, false}, {2, true}} {
		y.at.pass(time.Duration(x.days) * day)
		if err := first.c.Sync(t.Context()); err == nil {
			t.Error("no service can be reached, and sync says nothing")
		}
		if client.OwnKey(first.c) != before != x.changed {
			t.Errorf("%d days later the key has changed: %v", x.days, !x.changed)
		}
	}
	restore()
	until(t, "told after all", func() bool { return bob.knows(first) && client.OwnKey(second.c) == client.OwnKey(first.c) }, first, second, bob)
}

// broughtOverADay: a device that comes later is brought into the groups that are there at times of their own.
func broughtOverADay(t *testing.T, y *year) {
	first := y.register(y.c, unique("alice"))
	for _, name := range []string{"one", "two", "three"} {
		if _, err := first.c.CreateGroup(t.Context(), name); err != nil {
			t.Fatalf("create: %v", err)
		}
	}
	first.cfg.Spread = 24 * time.Hour
	first.reopen()
	second := first.addDevice("second")
	until(t, "handed", func() bool { return client.Brings(first.c) == 3 }, first, second)
	if due := client.NextDue(first.c); due.IsZero() || due.After(y.at.now().Add(24*time.Hour)) {
		t.Errorf("the first device is to bring in the second at %v", due)
	}
	if n := len(second.groups()); n != 0 {
		t.Errorf("the second device is in %d groups at once", n)
	}
	y.at.pass(24 * time.Hour)
	until(t, "in all", func() bool {
		return inAll("one", 1, 2, first, second)() && inAll("two", 1, 2, first, second)() && inAll("three", 1, 2, first, second)()
	}, first, second)
}

// fillsSets says whether every set at the store has so many KeyPackages.
func (p *person) fillsSets(n int) bool {
	oneTime, lastResort := p.sets()
	return !slices.ContainsFunc(slices.Concat(oneTime, lastResort), func(s *mimimiv1.SetSummary) bool { return len(s.ClientPseudonyms) != n })
}
