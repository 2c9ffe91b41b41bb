package client_test

import (
	"slices"
	"testing"
	"time"

	"mimimi.example/pkg/client"
)

// TestTurns: what one of a user's clients does for all of them, or has begun, another does when that one is away and its turn has come, and not before.
func TestTurns(t *testing.T) {
	y := newYear(t)
	for name, f := range map[string]func(t *testing.T, y *year){
		"monthly change": monthlyChange, "a change that was begun": changeBegun, "tokens of a removed device": tokensReplaced, "a contact that goes": contactGoes,
		"a lost Welcome": welcomeLost, "who tells everything": whoTells,
		"removed while away for long": removedAway, "deleted while away for long": deletedAway,
	} {
		t.Run(name, func(t *testing.T) { f(t, &year{t: t, at: y.at, c: y.c, d: y.d}) })
		y.at.pass(8 * day) // the next one has tokens of its own
	}
}

// pair is a user with two devices, the first of which leads, and a contact.
func (y *year) pair() (first, second, bob *person) {
	y.t.Helper()
	first, bob = y.register(y.c, unique("alice")), y.register(y.d, unique("bob"))
	second = first.addDevice("second")
	connect(y.t, first, bob)
	until(y.t, "contact on both", func() bool { return second.connected(bob) && !client.Owes(second.c) }, first, second, bob)
	return first, second, bob
}

// later lets time pass and syncs the people.
func (y *year) later(d time.Duration, people ...*person) {
	y.t.Helper()
	y.at.pass(d)
	for _, p := range people {
		p.sync()
	}
}

// knows says whether q has p's present connection key, and p no change under way.
func (q *person) knows(p *person) bool {
	return client.KeyOf(q.c, p.c.User()) == client.OwnKey(p.c) && !client.Owes(p.c)
}

func monthlyChange(t *testing.T, y *year) {
	_, second, bob := y.pair() // the first is away from here on
	before := client.OwnKey(second.c)
	second.sync()
	y.later(30*day, second, bob) // the first changes it between the 28th and the 32nd day, the second three days later
	if client.OwnKey(second.c) != before || client.Owes(second.c) {
		t.Error("the second device changes the key before its turn")
	}
	y.at.pass(6 * day)
	until(t, "the key changes", func() bool { return client.OwnKey(second.c) != before && bob.knows(second) }, second, bob)
}

func changeBegun(t *testing.T, y *year) {
	first, second, bob := y.pair()
	carol := y.register(y.d, unique("carol"))
	connect(t, first, carol)
	until(t, "contact on both", func() bool { return second.connected(carol) }, first, second, carol)
	before := client.OwnKey(first.c)
	first.cfg.Spread = 20 * time.Hour // it has told nobody when it goes
	first.reopen()
	if err := client.ChangeKey(t.Context(), first.c); err != nil {
		t.Fatalf("change: %v", err)
	}
	until(t, "the second hears of it", func() bool { return client.Owes(second.c) }, first, second)
	if n := client.OwesContacts(second.c); !n || client.OwnKey(second.c) != before {
		t.Error("the second device told the contacts at once")
	}
	y.later(time.Hour, second, bob)
	if !client.OwesContacts(second.c) {
		t.Error("the second device told the contacts before its turn")
	}
	y.at.pass(2 * time.Hour)
	until(t, "the second tells", func() bool { return client.OwnKey(second.c) != before && bob.knows(second) && carol.knows(second) }, second, bob, carol)
	until(t, "the first is back", func() bool { return client.OwnKey(first.c) == client.OwnKey(second.c) && !client.OwesContacts(first.c) }, first)
}

// tokensReplaced removes the third device at the second, while the first is away: all that the removed one knew is replaced.
func tokensReplaced(t *testing.T, y *year) {
	first, second, bob := y.pair()
	third := first.addDevice("third", second)
	until(t, "contact on the third", func() bool { return third.connected(bob) }, first, second, third)
	key, ours, theirs := client.OwnKey(third.c), client.OwnToken(third.c, bob.c.User()), client.TokenOf(third.c, bob.c.User())
	if err := second.c.RemoveDevice(t.Context(), client.DeviceID(third.c)); err != nil {
		t.Fatalf("remove: %v", err)
	}
	replaced := func(p *person) func() bool {
		return func() bool {
			return client.OwnKey(p.c) != key && bob.knows(p) && client.OwnToken(p.c, bob.c.User()) != ours && client.TokenOf(p.c, bob.c.User()) != theirs &&
				client.TokenOf(bob.c, p.c.User()) == client.OwnToken(p.c, bob.c.User()) && !client.OwesContacts(p.c)
		}
	}
	until(t, "replaced", func() bool { return replaced(second)() && !client.OwesContacts(bob.c) }, second, bob)
	for whose, token := range map[*person]string{second: ours, bob: theirs} {
		if err := client.TryClaim(t.Context(), third.c, whose.c.User(), token); err == nil {
			t.Errorf("the removed device claims from %s", whose.name)
		}
	}
	until(t, "the first is back", replaced(first), first, bob)
}

// contactGoes: a contact that ended the connection knew the key; the leading device is away, so that the second one changes it.
func contactGoes(t *testing.T, y *year) {
	_, second, bob := y.pair()
	before := client.OwnKey(second.c)
	if err := bob.c.Disconnect(t.Context(), second.c.User()); err != nil {
		t.Fatalf("disconnect: %v", err)
	}
	until(t, "the second hears of it", func() bool { return second.disconnected(bob) }, second, bob)
	if client.OwnKey(second.c) != before {
		t.Error("the second device changed the key before its turn")
	}
	y.at.pass(2 * time.Hour)
	until(t, "the key changes", func() bool { return client.OwnKey(second.c) != before }, second)
}

// welcomeLost: a device whose Welcome went with its queue is a leaf that cannot read; when it is back after long it asks, and is removed and added anew.
func welcomeLost(t *testing.T, y *year) {
	first, second, bob := y.pair()
	if _, err := bob.c.CreateGroup(t.Context(), "lost"); err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := bob.c.Add(t.Context(), bob.named("lost"), first.c.User()); err != nil {
		t.Fatalf("add: %v", err)
	}
	if err := client.SkipQueue(t.Context(), second.c); err != nil {
		t.Fatalf("skip: %v", err)
	}
	until(t, "first in", func() bool { return first.groupOf(2) != "" }, first)
	if n := first.clients(first.groupOf(2)); n != 3 {
		t.Fatalf("%d clients are in the group, want the second device's dead leaf too", n)
	}
	y.later(41*day, first, bob)
	bob.send(bob.named("lost"), "before")
	until(t, "the second asks and is told", func() bool { return client.Shared(second.c) == 1 }, second, first)
	y.later(50*time.Minute, second, first)
	if n := client.Shared(second.c); n != 1 || client.Brings(first.c) != 0 {
		t.Error("the second device did not wait for its Welcome")
	}
	y.at.pass(15 * time.Minute)
	until(t, "the second in", func() bool {
		in := second.groupOf(2)
		return in != "" && second.clients(in) == 3 && first.clients(first.groupOf(2)) == 3
	}, first, second, bob)
	bob.send(bob.named("lost"), "after")
	until(t, "heard", func() bool { return slices.Equal(second.contents(second.groupOf(2)), []string{"after"}) }, second, bob)
}

// whoTells: a device that was away for long asks the others for everything; when the first of them is away, the next tells it at its turn.
func whoTells(t *testing.T, y *year) {
	first, second, bob := y.pair()
	third := first.addDevice("third", second)
	y.later(41*day, second)
	asked := client.OwesDevices(second.c)
	if asked {
		t.Fatal("somebody has asked already")
	}
	third.sync()
	until(t, "the second is asked", func() bool { return client.OwesDevices(second.c) }, second, third)
	y.later(30*time.Minute, second)
	if !client.OwesDevices(second.c) {
		t.Error("the second device told everything before its turn")
	}
	y.at.pass(time.Hour)
	until(t, "the second tells", func() bool { return !client.OwesDevices(second.c) }, second, third)
	until(t, "the first is back, and has nothing to tell", func() bool { return !client.OwesDevices(first.c) && first.connected(bob) }, first)
}

// removedAway: a device that is removed when its queue has expired hears of it by its domain's list of revocations.
func removedAway(t *testing.T, y *year) {
	first, second, bob := y.pair()
	y.later(102*day, first, bob)
	if err := first.c.RemoveDevice(t.Context(), client.DeviceID(second.c)); err != nil {
		t.Fatalf("remove: %v", err)
	}
	second.isGone(t)
}

// deletedAway: the same, when its account is deleted.
func deletedAway(t *testing.T, y *year) {
	first, second, bob := y.pair()
	y.later(102*day, first, bob)
	first.deleteKilled()
	second.isGone(t)
}

// isGone waits until p has learned that it was removed, and has forgotten everything.
func (p *person) isGone(t *testing.T) {
	t.Helper()
	until(t, "it learns it", func() bool { return len(p.events(client.EventDeviceRemoved)) == 1 }, p)
	wantError(t, "sync", p.c.Sync(t.Context()), client.ErrDeviceRemoved)
	if left := client.Left(p.c); len(left) != 0 {
		t.Errorf("%s keeps %v", p.name, left)
	}
}
