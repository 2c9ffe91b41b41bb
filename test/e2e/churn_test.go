package e2e

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mimimi.example/pkg/client"
)

// insist runs a command again and again until it succeeds, or says that an earlier try, whose answer was lost, did.
func (p *person) insist(already error, command string, args ...string) error {
	var last result
	var err error
	if !waitFor(func() bool {
		last, err = p.try(patience(), command, args...)
		return err != nil || last.code == 0 || strings.Contains(last.stderr, already.Error())
	}) {
		return fmt.Errorf("%s tried in vain: %s", p.name, last)
	}
	return err
}

// TestKill9Churn kills both domains, with SIGKILL, at random moments while a member is removed and added again and others write. Those who stay see one and the same
// conversation, without a warning.
func TestKill9Churn(t *testing.T) {
	r := chaos(t)
	w := newWorld(t, "ab")
	alice, bob, dave := register(t, w.a, "alice"), register(t, w.b, "bob"), register(t, w.b, "dave")
	introduce(alice, bob)
	introduce(alice, dave)
	g := create(alice, "friends", bob, dave)

	const rounds, each = 6, 20
	var over atomic.Int32
	done := make(chan error, 2)
	work := func(f func() error) {
		go func() {
			err := f()
			over.Add(1)
			done <- err
		}()
	}
	fromBob := numbered("bob", each)
	work(func() error { return bob.sendAll(g[bob], fromBob, nil) })
	work(func() error {
		var errs []error
		for range rounds {
			errs = append(errs, alice.insist(client.ErrNotMember, "group remove", "friends", dave.user), alice.insist(client.ErrMember, "group add", "friends", dave.user))
		}
		return errors.Join(errs...)
	})
	kills := 0
	for ; over.Load() < 2; kills++ {
		d := []*domain{w.a, w.b}[r.IntN(2)]
		// Each time a little later, so that a machine on which a command takes longer than that comes to the end too.
		moment := time.After(time.Duration(r.Int64N(int64(400*time.Millisecond + time.Duration(kills)*20*time.Millisecond))))
		<-moment // of the kill: nothing is waited for
		d.restart()
	}
	if err := errors.Join(<-done, <-done); err != nil {
		t.Fatal(err)
	}
	t.Logf("the domains were killed %d times", kills)

	g.members(alice, alice, bob, dave)
	g.members(bob, alice, bob, dave)
	g.say(alice, "what has happened")
	inOrder(t, g.agreed(t, each+1, alice, bob), bob, fromBob)
	noWarnings(t, alice)
	noWarnings(t, bob)

	// Whatever has happened to dave's client on the way, it can be let in anew now that all is quiet.
	alice.must(nil, "group remove", "friends", dave.user)
	alice.must(nil, "group add", "friends", dave.user)
	g.say(alice, "the end")
	g[dave] = dave.await("the last message", func(e event) bool { return e.Body == "the end" }).Group
	g.say(dave, "indeed")
	g.agreed(t, each+3, alice, bob)
	dave.sound()
}

// TestAddedAgainWhileHubIsDown: a client that was away while it was added, removed and added again, and that finds the hub down when it comes back, is in the group in
// the end.
func TestAddedAgainWhileHubIsDown(t *testing.T) {
	w := newWorld(t, "ab")
	alice, bob, dave := register(t, w.a, "alice"), register(t, w.b, "bob"), register(t, w.b, "dave")
	introduce(alice, bob)
	introduce(alice, dave)
	g := create(alice, "friends", bob)
	dave.deafen()
	alice.must(nil, "group add", "friends", dave.user)
	alice.must(nil, "group remove", "friends", dave.user)
	alice.must(nil, "group add", "friends", dave.user)
	g.say(alice, "welcome back")
	// What fanout hands over goes to b in order: what bob has, dave's queue has too.
	g.agreed(t, 1, alice, bob)

	w.a.proc.kill()
	// At once, and not within the two minutes over which a client spreads reads that show which leaf it has.
	dave.command("contacts", "-spread=0s") // catches up as far as it can; whether it complains is not the point
	w.a.start()
	dave.listenAs("-spread=0s")
	dave.await("the message", func(e event) bool { return e.Body == "welcome back" })
	g.members(alice, alice, bob, dave)
}
