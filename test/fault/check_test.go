package fault

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"mimimi.example/pkg/client"
)

// late is how long after a guest has come in a message may still come that was written before, which a guest cannot read: the protocol's ten seconds (§9), and one since times are whole seconds.
const late = 11 * time.Second

// check waits until everything that was said is shown to everybody who stays, and compares.
func (l *load) check() {
	l.t.Helper()
	for _, g := range l.groups {
		for _, m := range g.members {
			eventually(l.t, fmt.Sprintf("all of %s at %s", g.name, m.name), func() bool { return len(g.shown(m)) >= len(g.said) })
		}
		l.checkGroup(g)
	}
	l.checkConnections(l.people["ina"], l.people["otto"])
	for _, p := range l.people {
		for _, e := range p.seen() {
			if e.Kind == client.EventWarning {
				l.t.Errorf("%s was warned: %s", p.name, e.Text)
			}
		}
	}
	l.checkBus()
	l.log()
}

// checkGroup: each message once, in one order, and to guests exactly what was said while they were there.
func (l *load) checkGroup(g *conversation) {
	l.t.Helper()
	first := g.shown(g.members[0])
	order := bodies(first)
	for _, m := range g.members {
		got := bodies(g.shown(m))
		if !slices.Equal(got, order) {
			l.t.Errorf("%s shows another order of %s than %s", m.name, g.name, g.members[0].name)
		}
		if want := slices.Sorted(slices.Values(g.said)); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
			l.t.Errorf("%s shows %d messages of %s, want %d, each once", m.name, len(got), g.name, len(want))
		}
	}
	place := make(map[string]int)
	for i, e := range first {
		place[string(e.Body)] = i
	}
	for _, p := range l.people {
		if !slices.Contains(g.members, p) {
			l.checkGuest(g, p, first, place)
		}
	}
}

// checkGuest: in each visit, one stretch of the group's order, but for what was written before the guest came and arrived after.
func (l *load) checkGuest(g *conversation, guest *person, order []client.Event, place map[string]int) {
	l.t.Helper()
	last := -1
	var joined *client.Event
	fresh := false
	for _, e := range guest.seen() {
		if e.Kind == client.EventGroupJoined {
			joined, fresh = &e, true
		}
		i, ok := place[string(e.Body)]
		if e.Kind != client.EventMessage && e.Kind != client.EventSent || !ok {
			continue
		}
		if joined == nil || i <= last {
			l.t.Errorf("%s, a guest, is shown %q twice, out of order or uninvited", guest.name, e.Body)
			return
		}
		for _, missed := range order[last+1 : i] {
			if !fresh && missed.Time.Sub(joined.Time) > late {
				l.t.Errorf("%s, a guest, is not shown %q", guest.name, missed.Body)
			}
		}
		last, fresh = i, false
	}
}

func bodies(events []client.Event) (all []string) {
	for _, e := range events {
		all = append(all, string(e.Body))
	}
	return all
}

// checkConnections: each was asked for, made and ended once.
func (l *load) checkConnections(a, b *person) {
	l.t.Helper()
	count := func(p *person, kind client.EventKind) (n int) {
		for _, e := range p.seen() {
			if e.Kind == kind {
				n++
			}
		}
		return n
	}
	asked := count(b, client.EventRequest)
	for _, n := range []int{count(a, client.EventConnected), count(b, client.EventConnected), count(b, client.EventDisconnected)} {
		if n != asked {
			l.t.Errorf("%d connections were asked for, and %d made or ended", asked, n)
		}
	}
}

// checkBus: nothing could not be processed, and nothing waits for anybody.
func (l *load) checkBus() {
	l.t.Helper()
	js, ctx := l.d.cluster.operator(), l.t.Context()
	left := func(name string) (n uint64) {
		s, err := js.Stream(ctx, name)
		if err != nil {
			l.t.Fatalf("%s: %v", name, err)
		}
		return s.CachedInfo().State.Msgs
	}
	if n := left("DEAD"); n > 0 {
		l.t.Errorf("%d dead letters", n)
	}
	names := []string{"OUTBOX"}
	for p := range partitions {
		names = append(names, fmt.Sprint("QUEUE_", p))
		eventually(l.t, "the log to be worked off", func() bool {
			c, err := js.Consumer(ctx, fmt.Sprint("GROUP_", p), "fanout")
			if err != nil {
				l.t.Fatal(err)
			}
			return c.CachedInfo().NumPending == 0 && c.CachedInfo().NumAckPending == 0
		})
	}
	for _, name := range names {
		eventually(l.t, name+" to be empty", func() bool { return left(name) == 0 })
	}
}

// log says what went on.
func (l *load) log() {
	said := 0
	for _, g := range l.groups {
		said += len(g.said)
	}
	l.t.Logf("%d messages, %d changes", said, l.changes.Load())
	passing, refusals := make(map[string]int), make(map[string]int)
	for _, p := range l.people {
		p.mu.Lock()
		for _, both := range []struct{ to, from map[string]int }{{passing, p.passing}, {refusals, p.refusals}} {
			for k, n := range both.from {
				both.to[k] += n
			}
		}
		p.mu.Unlock()
	}
	for _, k := range slices.Sorted(maps.Keys(passing)) {
		l.t.Logf("streams said %d times: %s", passing[k], k)
	}
	told := 0
	for _, k := range slices.Sorted(maps.Keys(refusals)) {
		l.t.Logf("apps were told %d times: %s", refusals[k], k)
		told += refusals[k]
	}
	// None is told on a machine that elects a leader within the time for which a call asks again.
	if told > int(l.changes.Load())/4 {
		l.t.Errorf("apps were told of %d failures, with %d changes", told, l.changes.Load())
	}
}
