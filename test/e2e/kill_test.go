package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"mimimi.example/pkg/client"
)

// sendAll sends texts one after the other, each again and again until it is taken, and counts them in progress.
func (p *person) sendAll(group string, texts []string, progress *atomic.Int64) error {
	for _, text := range texts {
		var last result
		var err error
		if !waitFor(func() bool {
			last, err = p.try(patience(), "send", group, text)
			return err != nil || last.code == 0
		}) {
			return fmt.Errorf("%s could not send: %s", p.name, last)
		}
		if err != nil {
			return err
		}
		if progress != nil {
			progress.Add(1)
		}
	}
	return nil
}

// numbered returns n texts.
func numbered(prefix string, n int) []string {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = fmt.Sprintf("%s %d", prefix, i+1)
	}
	return texts
}

// TestKill9Domains kills each domain twice, with SIGKILL, while messages go both ways.
func TestKill9Domains(t *testing.T) {
	w := newWorld(t, "ab")
	alice, bob, carol := register(t, w.a, "alice"), register(t, w.b, "bob"), register(t, w.b, "carol")
	introduce(alice, bob)
	introduce(alice, carol)
	g := create(alice, "friends", bob, carol)

	const each = 12
	fromAlice, fromBob := numbered("alice", each), numbered("bob", each)
	var sent atomic.Int64
	var all errgroup.Group
	all.Go(func() error { return alice.sendAll(g[alice], fromAlice, &sent) })
	all.Go(func() error { return bob.sendAll(g[bob], fromBob, &sent) })
	for i, d := range []*domain{w.a, w.b, w.a, w.b} {
		eventually(t, "some messages to be sent", func() bool { return sent.Load() >= int64(4*(i+1)) })
		d.restart()
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	shown := g.agreed(t, 2*each, alice, bob, carol)
	inOrder(t, shown, alice, fromAlice)
	inOrder(t, shown, bob, fromBob)

	// All at once, and what was said before is still there for a newcomer of the process's: the list of members and a second group.
	w.a.proc.kill()
	w.b.proc.kill()
	w.b.start()
	w.a.start()
	g.say(carol, "carol 1")
	g.agreed(t, 2*each+1, alice, bob, carol)
	g.members(bob, alice, bob, carol)
	alice.must(nil, "group remove", "friends", bob.user)
	bob.await("his removal", in(g[bob], "group_over", ""))
	g.say(alice, "after the removal")
	g.agreed(t, 2*each+2, alice, carol)
}

// chaos returns the test's random numbers. The seed is printed; MIMIMI_E2E_SEED sets it.
func chaos(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("MIMIMI_E2E_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("MIMIMI_E2E_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("MIMIMI_E2E_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// moments returns random times at which a command is killed that takes about took when nothing else is going on: from its beginning to past its end.
func moments(r *rand.Rand, took time.Duration, n int) []time.Duration {
	out := make([]time.Duration, n)
	for i := range out {
		out[i] = time.Duration(r.Int64N(int64(took) * 2))
	}
	return out
}

// interrupted runs a command and kills it at each of the moments, then runs it to its end.
func (p *person) interrupted(at []time.Duration, command string, args ...string) result {
	p.t.Helper()
	for _, m := range at {
		r, err := p.try(m, command, args...)
		if err != nil {
			p.t.Fatal(err)
		}
		p.t.Logf("%s: %s killed after %s: exit code %d", p.name, command, m.Round(time.Millisecond), r.code)
	}
	return p.command(command, args...)
}

// TestKill9Commands kills the commands that change something at random moments and runs them again: each has its effect exactly once.
func TestKill9Commands(t *testing.T) {
	r := chaos(t)
	w := newWorld(t, "ab")
	bob := register(t, w.b, "bob")
	alice := unregistered(t, w.a, "alice")
	probe := unregistered(t, w.a, "probe")
	took := probe.command("register", "-provider", w.a.at.ClientFile, "probe").took
	if got := alice.interrupted(moments(r, took, 4), "register", "-provider", w.a.at.ClientFile, "alice"); got.code != 0 {
		t.Fatalf("alice: %s", got)
	}
	alice.listen()
	ask(probe, bob) // from here on the domains know each other

	took = probe.command("connect", bob.user).took
	if got := alice.interrupted(moments(r, took, 4), "connect", bob.user); got.code != 0 {
		t.Fatalf("alice: %s", got)
	}
	q := ask(alice, bob) // fails if there are two
	// An accept that was killed when it was stored has nothing to accept any more.
	if got := bob.interrupted(moments(r, took, 3), "accept", q.ID); got.code != 0 && !got.says(client.ErrUnknownRequest) {
		t.Fatalf("bob: %s", got)
	}
	alice.await("the connection", about("connected", bob.user))
	bob.await("the connection", about("connected", alice.user))

	g := create(alice, "friends")
	if got := alice.interrupted(moments(r, took, 4), "group add", "friends", bob.user); got.code != 0 && !got.says(client.ErrMember) {
		t.Fatalf("alice: %s", got)
	}
	g[bob] = bob.await("the group", about("group_joined", "")).Group
	g.members(alice, alice, bob)
	g.say(bob, "here")
	g.agreed(t, 1, alice, bob)
	killedJoin(t, r, took, g, alice, bob, probe)
	if got := bob.interrupted(moments(r, took, 3), "group leave", g[bob]); got.code != 0 && !got.says(client.ErrGroupOver) {
		t.Fatalf("bob: %s", got)
	}
	alice.await("bob's leaving", in(g[alice], "left", bob.user))
	bob.await("the end", in(g[bob], "group_over", ""))
	g.members(alice, alice)
	once(t, alice, "connected", "left", "removed")
	once(t, bob, "group_joined", "group_over")
}

// killedJoin lets a newcomer, who asked bob for a connection, in by invitation and removes it again; all commands are killed on the way.
func killedJoin(t *testing.T, r *rand.Rand, took time.Duration, g group, alice, bob, newcomer *person) {
	t.Helper()
	newcomer.listen()
	bob.must(nil, "accept", newcomer.user)
	newcomer.await("the connection", about("connected", bob.user))
	var invitation struct{ Link string }
	bob.must(&invitation, "group invite", g[bob])
	if got := newcomer.interrupted(moments(r, took, 4), "group join", invitation.Link); got.code != 0 && !got.says(client.ErrMember) {
		t.Fatalf("the newcomer: %s", got)
	}
	g[newcomer] = newcomer.await("the group", about("group_joined", "")).Group
	g.members(newcomer, alice, bob, newcomer)
	g.say(newcomer, "here too")
	g.agreed(t, 2, alice, bob)
	if got := alice.interrupted(moments(r, took, 3), "group remove", "friends", newcomer.user); got.code != 0 && !got.says(client.ErrNotMember) {
		t.Fatalf("alice: %s", got)
	}
	newcomer.await("the removal", in(g[newcomer], "group_over", ""))
	g.members(bob, alice, bob)
	once(t, newcomer, "connected", "group_joined", "group_over")
}

// once checks that a person saw exactly one event of each kind.
func once(t *testing.T, p *person, kinds ...string) {
	t.Helper()
	p.sound()
	for _, k := range kinds {
		n := 0
		for _, e := range p.seen() {
			if e.Kind == k {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s saw %d events %q", p.name, n, k)
		}
	}
}

// TestKill9Clients kills listen and send at random moments, again and again. Every message that was stored before its send was killed is shown to
// everybody once, and every other one to nobody.
func TestKill9Clients(t *testing.T) {
	r := chaos(t)
	w := newWorld(t, "ab")
	alice, bob, carol := register(t, w.a, "alice"), register(t, w.b, "bob"), register(t, w.b, "carol")
	introduce(alice, bob)
	introduce(alice, carol)
	g := create(alice, "friends", bob, carol)
	begin := time.Now()
	g.say(alice, "first")
	took := time.Since(begin)

	var over atomic.Bool
	var all errgroup.Group
	for i, p := range []*person{alice, carol} {
		at := moments(rand.New(rand.NewPCG(r.Uint64(), uint64(i))), 2*took, 12) // it takes longer while others send and listen
		all.Go(func() error { return p.sendInterrupted(g[p], at) })
	}
	done := make(chan error, 1)
	go func() {
		done <- all.Wait()
		over.Store(true)
	}()
	kills := 0
	for ; !over.Load(); kills++ {
		p := []*person{alice, bob, carol}[kills%3]
		stop := time.After(time.Duration(r.Int64N(int64(took))))
		<-stop // the moment of the kill is the point: nothing is waited for
		p.deafen()
		p.listen()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Logf("listen was killed %d times", kills)

	// The last one of each comes after all that the same client stored before: with both there, nothing is on its way.
	g.say(carol, "carol's last")
	g.say(alice, "alice's last")
	for _, p := range []*person{alice, bob, carol} {
		for _, from := range []*person{alice, carol} {
			p.await("the last message", func(e event) bool { return e.Group == g[p] && e.Body == from.name+"'s last" })
		}
	}
	shown := g.agreed(t, len(alice.shown(g[alice])), alice, bob, carol)
	for _, from := range []string{"alice", "carol"} {
		checkSent(t, shown, from, 12)
	}
	for _, p := range []*person{alice, bob, carol} {
		noWarnings(t, p)
	}
}

// sendInterrupted sends a message, killed, and then one that is not, for each moment.
func (p *person) sendInterrupted(group string, at []time.Duration) error {
	var errs []error
	for i, m := range at {
		_, err := p.try(m, "send", group, fmt.Sprintf("%s killed %d", p.name, i))
		errs = append(errs, err, p.sendAll(group, []string{fmt.Sprintf("%s whole %d", p.name, i)}, nil))
	}
	return errors.Join(errs...)
}

// checkSent checks that all messages whose send was not killed are there, in order with those that made it.
func checkSent(t *testing.T, shown []string, from string, n int) {
	t.Helper()
	survived, last := 0, -1
	whole := make(map[int]bool)
	for _, line := range shown {
		_, text, _ := strings.Cut(line, ": ")
		var kind string
		var i int
		if k, err := fmt.Sscanf(text, from+" %s %d", &kind, &i); k != 2 || err != nil {
			continue
		}
		place := 2 * i
		if kind == "whole" {
			whole[i] = true
			place++
		} else {
			survived++
		}
		if place <= last {
			t.Errorf("%q is out of order", text)
		}
		last = place
	}
	if len(whole) != n {
		t.Errorf("%d of %s's %d messages were shown", len(whole), from, n)
	}
	t.Logf("%d of %s's %d killed sends had stored their message", survived, from, n)
}
