package client_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	rpc "connectrpc.com/connect"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
)

// unspread has p do at once what it spreads over a day, so that a test knows when.
func unspread(p *person) *person {
	p.cfg.Spread = -1
	p.reconfigure()
	return p
}

// reconfigure opens the client again with p's configuration.
func (p *person) reconfigure() {
	p.t.Helper()
	p.close()
	c, err := client.Open(p.t.Context(), p.cfg)
	if err != nil {
		p.t.Fatalf("%s: open: %v", p.name, err)
	}
	p.use(c)
}

// twin is another client of p's user.
func (p *person) twin(name string) *person {
	p.t.Helper()
	q := &person{t: p.t, name: name, cfg: p.cfg}
	q.cfg.Dir = p.t.TempDir()
	c, err := client.Twin(p.t.Context(), p.c, q.cfg)
	if err != nil {
		p.t.Fatalf("%s: twin: %v", name, err)
	}
	q.use(c)
	p.t.Cleanup(q.close)
	return q
}

// setClients tells clients of one user how many they are; the first leads.
func setClients(n int, clients ...*person) {
	for i, p := range clients {
		client.SetClients(p.c, n, i == 0)
	}
}

func (p *person) sync() {
	p.t.Helper()
	if err := p.c.Sync(p.t.Context()); err != nil {
		p.t.Fatalf("%s: sync: %v", p.name, err)
	}
}

func (p *person) packages() []client.Package {
	p.t.Helper()
	all, err := client.Packages(p.c)
	if err != nil {
		p.t.Fatalf("%s: packages: %v", p.name, err)
	}
	return all
}

// checkStock holds what the store lists against what the clients of a user hold: want sets, each with one KeyPackage of every client, whose private halves
// that client has.
func checkStock(t *testing.T, when string, want client.Stock, clients ...*person) []*mimimiv1.SetSummary {
	t.Helper()
	oneTime, lastResort := clients[0].sets()
	if len(oneTime) != want.OneTime || len(lastResort) != want.LastResort {
		t.Errorf("%s: %d one-time and %d last-resort sets, want %d and %d", when, len(oneTime), len(lastResort), want.OneTime, want.LastResort)
	}
	checkSets(t, when, clients...)
	return slices.Concat(oneTime, lastResort)
}

// checkSets checks that every set that the store lists has one KeyPackage of each of a user's clients, whose private halves that client has.
func checkSets(t *testing.T, when string, clients ...*person) {
	t.Helper()
	oneTime, lastResort := clients[0].sets()
	if len(oneTime) == 0 || len(lastResort) == 0 {
		t.Errorf("%s: %d one-time and %d last-resort sets, want some of both", when, len(oneTime), len(lastResort))
	}
	all := slices.Concat(oneTime, lastResort)
	held := make([]map[string]string, len(clients))
	for i, p := range clients {
		held[i] = make(map[string]string)
		for _, k := range p.packages() {
			held[i][k.Client] = k.Set
		}
	}
	for _, s := range all {
		if len(s.ClientPseudonyms) != len(clients) {
			t.Errorf("%s: a set has %d KeyPackages, want %d", when, len(s.ClientPseudonyms), len(clients))
		}
		for i, p := range clients {
			n := 0
			for _, k := range s.ClientPseudonyms {
				if held[i][k] == s.UserPseudonym {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%s: %s has the private halves of %d KeyPackages of a set, want 1", when, p.name, n)
			}
		}
	}
}

func pseudonyms(sets []*mimimiv1.SetSummary) (all []string) {
	for _, s := range sets {
		all = append(all, s.UserPseudonym)
	}
	return all
}

// TestStockOfSeveralClients: each client of a user completes what the others began, also when they do so at once; when one of them is gone, what it is in is
// withdrawn, and nobody keeps private halves that nobody can need.
func TestStockOfSeveralClients(t *testing.T) {
	want := client.Stock{OneTime: 12, LastResort: 3}
	one := registerWith(t, theWorld.a, "one", want)
	two, three := one.twin("two"), one.twin("three")
	setClients(2, one, two)
	two.sync()
	checkStock(t, "completed", want, one, two)

	set, _, err := client.ClaimOwn(t.Context(), one.c)
	if err != nil || len(set) != 2 {
		t.Fatalf("a claimed set has %d KeyPackages: %v", len(set), err)
	}
	want.OneTime--
	setClients(4, one, two, three)
	four := one.twin("four")
	setClients(4, one, two, three, four)
	var wg sync.WaitGroup
	for _, p := range []*person{three, four, two, one} { // three and four want into the same sets
		wg.Go(func() {
			for range 4 {
				if err := p.c.Sync(t.Context()); err != nil {
					t.Errorf("%s: sync: %v", p.name, err)
				}
				setDue(t, p)
			}
		})
	}
	wg.Wait()
	until(t, "all in", func() bool {
		oneTime, lastResort := one.sets()
		return !slices.ContainsFunc(slices.Concat(oneTime, lastResort), func(s *mimimiv1.SetSummary) bool { return len(s.ClientPseudonyms) < 4 })
	}, three, four)
	before := pseudonyms(checkStock(t, "after a race", want, one, two, three, four))

	setClients(2, one, two)
	one.sync()
	two.sync()
	want.OneTime++ // all of it is new
	for _, p := range pseudonyms(checkStock(t, "two are gone", want, one, two)) {
		if slices.Contains(before, p) {
			t.Error("a set with KeyPackages of clients that are gone is still there")
		}
	}
	if n := len(one.packages()); n != want.OneTime+want.LastResort+1 {
		t.Errorf("the private halves of %d KeyPackages are kept, want those of the stock and of the one set that was claimed", n)
	}
}

// setDue has p look at its stock with the next Sync.
func setDue(t *testing.T, p *person) {
	t.Helper()
	if err := client.SetDue(p.c); err != nil {
		t.Errorf("%s: %v", p.name, err)
	}
}

// TestStockKeyChanged: sets that were made under another connection key are withdrawn and replaced, by withdrawStale at once or by the next Sync; what
// somebody had claimed before can still be used.
func TestStockKeyChanged(t *testing.T) {
	want := client.Stock{OneTime: 6, LastResort: 2}
	p := registerWith(t, theWorld.a, "rotating", want)
	for name, replace := range map[string]func() error{
		"at once":      func() error { return client.WithdrawStale(t.Context(), p.c) },
		"by next sync": func() error { return p.c.Sync(t.Context()) },
	} {
		set, _, err := client.ClaimOwn(t.Context(), p.c)
		if err != nil {
			t.Fatal(err)
		}
		claimed := string(leafMarks(t, set[0].Leaf())["client pseudonym"])
		oneTime, lastResort := p.sets()
		before := pseudonyms(slices.Concat(oneTime, lastResort))
		if err := client.ChangeConnectionKey(p.c); err != nil {
			t.Fatal(err)
		}
		if err := replace(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, s := range checkStock(t, name, want, p) {
			if slices.Contains(before, s.UserPseudonym) {
				t.Errorf("%s: a set of before is still there", name)
			}
		}
		kept := false
		for _, k := range p.packages() {
			kept = kept || k.Client == claimed
			if slices.Contains(before, k.Set) {
				t.Errorf("%s: the private halves of a set that nobody got are still there", name)
			}
		}
		if !kept {
			t.Errorf("%s: the private halves of a claimed set are gone", name)
		}
	}
}

// TestStockAway: a client that was away for ten weeks finds what the other one began meanwhile, and forgets what became of no use.
func TestStockAway(t *testing.T) {
	ahead, here := clocked(t)
	home := unspread(here("home"))
	want := home.cfg.Stock
	away := home.twin("away")
	setClients(2, home, away)
	away.sync()
	first := pseudonyms(checkStock(t, "before", want, home, away))
	const day = 24 * time.Hour
	for range 10 {
		ahead.Add(int64(7 * day))
		home.sync() // and once more, since a last-resort set waits for its replacement
		ahead.Add(int64(time.Hour))
		home.sync()
	}
	oneTime, lastResort := home.sets()
	for _, s := range slices.Concat(oneTime, lastResort) {
		if slices.Contains(first, s.UserPseudonym) {
			t.Error("a set is still there after ten weeks")
		}
		if len(s.ClientPseudonyms) != 1 {
			t.Error("a set of its own has more than one KeyPackage")
		}
	}
	away.sync()
	checkStock(t, "after", client.Stock{OneTime: len(oneTime), LastResort: len(lastResort)}, home, away)
	if len(oneTime) < want.OneTime/2 || len(lastResort) < want.LastResort {
		t.Errorf("%d one-time and %d last-resort sets, want about %d and %d", len(oneTime), len(lastResort), want.OneTime, want.LastResort)
	}
	for _, p := range []*person{home, away} {
		if n := len(p.packages()); n != len(oneTime)+len(lastResort) {
			t.Errorf("%s keeps the private halves of %d KeyPackages, want those of the stock", p.name, n)
		}
	}
}

// TestLastResortReplaced: a last-resort set goes after a week, or once another one is there after it was used; not before.
func TestLastResortReplaced(t *testing.T) {
	ahead, here := clocked(t)
	p := unspread(here("p"))
	_, before := p.sets()
	p.sync()
	ahead.Add(int64(6 * 24 * time.Hour))
	p.sync()
	if _, now := p.sets(); !slices.Equal(slices.Sorted(slices.Values(pseudonyms(now))), slices.Sorted(slices.Values(pseudonyms(before)))) {
		t.Error("a last-resort set was replaced within the week")
	}
	for range p.cfg.Stock.OneTime + 1 { // the last one is a last-resort set
		if _, _, err := client.ClaimOwn(t.Context(), p.c); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		ahead.Add(int64(time.Hour))
		p.sync()
	}
	_, now := p.sets()
	if len(now) != p.cfg.Stock.LastResort || slices.ContainsFunc(now, func(s *mimimiv1.SetSummary) bool { return s.Uses > 0 }) {
		t.Errorf("%d last-resort sets, and a used one is among them", len(now))
	}
	ahead.Add(int64(8 * 24 * time.Hour))
	for range 3 {
		p.sync()
		ahead.Add(int64(time.Hour))
	}
	_, later := p.sets()
	if len(later) != p.cfg.Stock.LastResort {
		t.Errorf("%d last-resort sets after a week, want %d", len(later), p.cfg.Stock.LastResort)
	}
	for _, s := range later {
		if slices.Contains(pseudonyms(now), s.UserPseudonym) {
			t.Error("a last-resort set is still there after a week")
		}
	}
}

// TestLowStockRefills: the store's word that few sets are left reaches the clients' queues with a hint, and they refill at once; before, and without it,
// nobody asks the store.
func TestLowStockRefills(t *testing.T) {
	want := client.Stock{OneTime: 24, LastResort: 2}
	one := registerWith(t, theWorld.a, "low", want)
	two := one.twin("two")
	setClients(2, one, two)
	two.sync()
	one.sync()
	take := func(n int) {
		t.Helper()
		for range n {
			if _, last, err := client.ClaimOwn(t.Context(), one.c); err != nil || last {
				t.Fatalf("claim: last resort %v, %v", last, err)
			}
		}
	}
	take(17)
	for _, p := range []*person{one, two} {
		restore, asked := client.RefuseRelay(p.c, rpc.CodeUnavailable)
		p.sync()
		restore()
		if *asked != 0 {
			t.Errorf("%s: %d requests to the store while nothing is due", p.name, *asked)
		}
		if err := p.w.Reset(t.Context(), p.c); err != nil {
			t.Fatal(err)
		}
	}
	take(1) // 6 of 24 are left
	until(t, "the first one refills", func() bool { oneTime, _ := one.sets(); return len(oneTime) == want.OneTime }, one)
	until(t, "the other completes", func() bool {
		oneTime, _ := one.sets()
		return !slices.ContainsFunc(oneTime, func(s *mimimiv1.SetSummary) bool { return len(s.ClientPseudonyms) < 2 })
	}, two)
}

// TestLastResortIsSaid: whoever adds somebody with a last-resort set, or enters a group of its own with one, is told.
func TestLastResortIsSaid(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), registerWith(t, theWorld.b, "bob", client.Stock{OneTime: 2, LastResort: 1})
	connect(t, alice, bob)
	oneTime, _ := bob.sets()
	for range oneTime {
		if _, _, err := client.ClaimOwn(t.Context(), bob.c); err != nil {
			t.Fatal(err)
		}
	}
	told := func(p *person, group, sentence string) (n int) {
		for _, e := range p.events(client.EventWarning) {
			if e.Group == group && e.Text == sentence {
				n++
			}
		}
		return n
	}
	id, err := alice.c.CreateGroup(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.c.Add(t.Context(), id, bob.c.User()); err != nil {
		t.Fatal(err)
	}
	if n := told(alice, id, client.LastResortSentence); n != 1 {
		t.Errorf("the adder was told %d times, want once", n)
	}
	if _, err := bob.c.CreateGroup(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if n := told(bob, "", client.OwnLastResortSentence); n != 1 {
		t.Errorf("the creator was told %d times, want once", n)
	}
}

// TestStockFaults: the client dies at each write of a look at its stock that completes, withdraws and starts sets. The next Sync makes the stock whole, and no
// KeyPackage is listed whose private halves are lost.
func TestStockFaults(t *testing.T) {
	want := client.Stock{OneTime: 3, LastResort: 1}
	for _, persisted := range []bool{false, true} {
		t.Run(fmt.Sprintf("persisted %v", persisted), func(t *testing.T) {
			one := registerWith(t, theWorld.a, "faults", want)
			two := one.twin("two")
			setClients(2, one, two)
			two.sync()
			for at := 1; ; at++ {
				// two has to withdraw all of its own, and one then to complete what two began.
				if err := client.ChangeConnectionKey(two.c); err != nil {
					t.Fatal(err)
				}
				client.SetClients(two.c, 2, true)
				writes := 0
				client.SetFault(two.c, func(after bool) error {
					if after == persisted {
						writes++
					}
					if writes >= at {
						return errKilled
					}
					return nil
				})
				err := two.c.Sync(t.Context())
				client.SetFault(two.c, nil)
				if writes < at && err != nil || writes >= at && !errors.Is(err, errKilled) {
					t.Fatalf("write %d: %v", at, err)
				}
				two.reconfigure()
				client.SetClients(two.c, 2, true)
				two.sync()
				setDue(t, one)
				one.sync()
				setDue(t, two)
				two.sync()
				checkStock(t, fmt.Sprintf("write %d", at), want, one, two)
				if t.Failed() || writes < at {
					if at < 8 {
						t.Errorf("a look at the stock makes %d writes; something was not done", at-1)
					}
					return
				}
			}
		})
	}
}

// TestStockGarbage: a list of sets that are none of this client's and cannot be completed harms nothing.
func TestStockGarbage(t *testing.T) {
	p := registerWith(t, theWorld.a, "garbage", client.Stock{OneTime: 2, LastResort: 1})
	foreign, err := mimimi.NewUserPseudonym(p.c.User().Domain())
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Withdraw(t.Context(), p.c, foreign.Wire()); err != nil {
		t.Errorf("a set that is not there: %v", err)
	}
	if err := client.Withdraw(t.Context(), p.c, "garbage"); err == nil {
		t.Error("a withdrawal of garbage succeeded")
	}
	checkStock(t, "after", p.cfg.Stock, p)
}
