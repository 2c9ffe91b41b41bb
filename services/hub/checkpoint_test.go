package hub

import (
	"context"
	"testing"
	"time"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// TestCheckpointRoll checks that checkpoints come by themselves, and that whoever starts from one has the state of whoever lived through it.
func TestCheckpointRoll(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	w := newWorld(t, b, "bob")
	early := newReplica(t, b, w.clock)
	_ = must(early.store.get(t.Context(), w.id))
	w.invite("alice", 7, time.Hour)
	for i := range checkpointEvery {
		w.clock.advance(time.Second)
		switch i % 8 {
		case 3:
			w.propose("bob", updateProposal)
		case 4:
			w.offer(w.bundle("alice", mls.CommitOptions{}))
		case 5:
			w.send("bob", "between")
			w.invite("bob", 1, 5*time.Second)
		default:
			w.update("bob")
		}
	}
	g := w.warm()
	if g.checkpoint <= 1 || g.since >= checkpointEvery {
		t.Fatalf("no checkpoint after %d entries", g.since)
	}
	sameState(t, g, w.cold())
	sameState(t, g, must(early.store.current(t.Context(), w.id, nil)))
}

// TestColdFromAnywhere compares a replica that starts at each entry of a log with one that lived through it.
func TestColdFromAnywhere(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	w := newWorld(t, b, "bob", "carol")
	steps := []func(){
		func() { w.update("bob") },
		func() { w.invite("alice", 2, time.Hour) },
		func() { w.offerJoin(w.joinBundle("dave", w.invite("bob", 2, time.Hour))) },
		func() { w.propose("carol", selfRemove) },
		func() { ok(t, w.hub.checkpoint(t.Context(), w.warm())) },
		func() { w.offer(w.bundle("alice", mls.CommitOptions{})) },
		func() { ok(t, w.hub.checkpoint(t.Context(), w.warm())) },
		func() { w.offerJoin(w.resyncBundle("bob")) },
		func() { w.clock.advance(2 * time.Hour); w.update("alice") },
	}
	for i, step := range steps {
		step()
		t.Logf("step %d", i)
		sameState(t, w.warm(), w.cold())
	}
}

// TestSweep checks that a quiet group gets one checkpoint when it is old enough, and one that is not quiet gets none.
func TestSweep(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	quiet, busy := newWorld(t, b, "bob"), newWorld(t, b, "bob")
	old := quiet.warm().last
	count := func(w *world) int {
		return len(must2(b.Read(t.Context(), b.GroupHandshakes([]byte(w.id.Wire())), 0, 100, 1<<20)))
	}
	later := newClock()
	later.ms.Store(time.Now().UnixMilli()) // the log's times are the server's
	hub := newReplica(t, b, later)
	sweepAll := func() {
		for p := range b.GroupPartitions() {
			w := &sweeper{server: hub, partition: b.GroupPartition(p), age: time.Hour}
			ok(t, w.sweep(t.Context())) // once: by this clock, what it writes is old too
		}
	}
	sweepAll()
	if count(quiet) != 2 || count(busy) != 2 {
		t.Fatal("a young group got a checkpoint")
	}
	later.advance(2 * time.Hour)
	sweepAll()
	if count(quiet) != 3 || count(busy) != 3 {
		t.Fatal("not one checkpoint for each quiet group")
	}
	g := quiet.cold()
	if g.last == old || g.checkpoint != g.last || g.handshake != old {
		t.Error("the checkpoint is not the last entry")
	}
	quiet.clock.ms.Store(later.ms.Load()) // its members are still there
	sameState(t, quiet.warm(), quiet.cold())
}

// datedLog has entries as old as a clock says.
type datedLog struct {
	eventLog
	clock *clock
	times map[uint64]time.Time
}

func (l *datedLog) Publish(ctx context.Context, s bus.Subject, data []byte, o bus.PublishOptions) (uint64, error) {
	sequence, err := l.eventLog.Publish(ctx, s, data, o)
	l.times[sequence] = l.clock.now()
	return sequence, err
}

func (l *datedLog) Read(ctx context.Context, s bus.Subject, after uint64, limit, maxBytes int) ([]*bus.Message, bool, error) {
	page, more, err := l.eventLog.Read(ctx, s, after, limit, maxBytes)
	for _, m := range page {
		m.Time = l.times[m.Sequence]
	}
	return page, more, err
}

// TestSweepSlowGroup takes a group with one commit a month through half a year: the checkpoint that its last entry names must never expire.
func TestSweepSlowGroup(t *testing.T) {
	t.Parallel()
	const day, age = 24 * time.Hour, 45 * 24 * time.Hour
	b := testBus(t)
	w := emptyWorld(t, b)
	log := &datedLog{eventLog: b, clock: w.clock, times: map[uint64]time.Time{}}
	w.hub = replicaOn(t, log, b, w.clock)
	w.create()
	var sweepers []*sweeper
	for p := range b.GroupPartitions() {
		sweepers = append(sweepers, &sweeper{server: w.hub, partition: b.GroupPartition(p), age: age})
	}
	var made uint64
	checkpoints := 0
	for d := 1; d <= 180; d++ {
		w.clock.advance(day)
		if d%30 == 0 || d == 85 {
			w.update("alice")
		}
		for _, s := range sweepers {
			ok(t, s.sweep(t.Context()))
		}
		g := w.warm()
		if old := w.clock.now().Sub(log.times[g.checkpoint]); old > age {
			t.Fatalf("on day %d the last checkpoint is %v old", d, old)
		}
		if g.checkpoint != made {
			made, checkpoints = g.checkpoint, checkpoints+1
		}
	}
	if checkpoints != 5 { // the creation, and one every 45 days
		t.Errorf("%d checkpoints, want 5", checkpoints)
	}
	sameState(t, w.warm(), w.cold())
}

// TestSweepAbandoned takes two groups through a year: one in which a member renews its leaf now and then stays; the other, in which nobody does anything, gets
// checkpoints for a while, and in the end all of it is as old as the stream keeps entries.
func TestSweepAbandoned(t *testing.T) {
	t.Parallel()
	const day, age, kept = 24 * time.Hour, 45 * 24 * time.Hour, 90 * 24 * time.Hour
	b := testBus(t)
	left, lived := newWorld(t, b, "bob"), newWorld(t, b, "bob")
	log := &datedLog{eventLog: b, clock: left.clock, times: map[uint64]time.Time{}}
	hub := replicaOn(t, log, b, left.clock)
	lived.clock, left.hub, lived.hub = left.clock, hub, hub
	left.update("alice")
	lived.update("alice")
	oldest := map[*world]time.Duration{}
	for d := 1; d <= 340; d++ {
		left.clock.advance(day)
		if d%58 == 0 {
			lived.update("bob")
		}
		for p := range b.GroupPartitions() {
			ok(t, (&sweeper{server: hub, partition: b.GroupPartition(p), age: age}).sweep(t.Context()))
		}
		for _, w := range []*world{left, lived} {
			oldest[w] = left.clock.now().Sub(log.times[w.warm().checkpoint])
		}
		if oldest[lived] > age || d < 200 && oldest[left] > age {
			t.Fatalf("on day %d the last checkpoint of a group that is kept is too old", d)
		}
	}
	if oldest[left] <= kept {
		t.Errorf("after 340 days the last checkpoint of the abandoned group is %v old, want more than %v", oldest[left], kept)
	}
}

// TestSweepLosesRace checks that a group which moves on under the sweep gets its checkpoint nevertheless, and no second one.
func TestSweepLosesRace(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	for name, before := range map[string]func(w *world){
		"commit":     func(w *world) { w.update("bob") },
		"checkpoint": func(w *world) { ok(t, w.hub.checkpoint(t.Context(), w.warm())) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, b, "bob")
			last := must(b.Last(t.Context(), b.GroupHandshakes([]byte(w.id.Wire()))))
			hub := replicaOn(t, &faultyLog{eventLog: b, before: func() { before(w) }}, b, w.clock)
			ok(t, (&sweeper{server: hub}).refresh(t.Context(), last))
			g := w.cold()
			if g.checkpoint <= last.Sequence || g.checkpoint != g.last {
				t.Error("the group has no new checkpoint")
			}
			want := map[string]int{"commit": 4, "checkpoint": 3}[name]
			if n := len(must2(b.Read(t.Context(), b.GroupHandshakes([]byte(w.id.Wire())), 0, 100, 1<<20))); n != want {
				t.Errorf("%d entries, want %d", n, want)
			}
		})
	}
	sweep := &sweeper{server: newReplica(t, b, newClock())}
	ok(t, sweep.refresh(t.Context(), &bus.Message{Sequence: 1, Data: []byte("garbage")}))
}

// TestCheckpointAmongMessages checks that messages alone bring checkpoints about, from which reading then starts.
func TestCheckpointAmongMessages(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	w := newWorld(t, b, "bob")
	before := w.warm()
	n := 0
	w.hub.draw = func(of int) int {
		n++
		if of != messagesPerCheckpoint {
			t.Errorf("drawn of %d", of)
		}
		return n % 2
	}
	first, err := w.hub.SendMessage(t.Context(), w.message("bob", "one"))
	ok(t, err)
	if w.warm().last != before.last {
		t.Error("a checkpoint after a message for which it was not drawn")
	}
	second, err := w.hub.SendMessage(t.Context(), w.message("bob", "two"))
	ok(t, err)
	g := w.cold()
	if g.checkpoint <= second.Sequence || g.counted != second.Sequence {
		t.Errorf("the checkpoint at %d counts up to %d, want %d", g.checkpoint, g.counted, second.Sequence)
	}
	if got := w.readAll("bob", first.Sequence); len(got) != 1 || got[0].Sequence != second.Sequence || got[0].Previous != first.Sequence {
		t.Error("the log reads otherwise across the checkpoint")
	}
	large, err := w.hub.SendMessage(t.Context(), w.message("bob", string(make([]byte, messageShare)))) // 1 is drawn
	ok(t, err)
	if w.cold().counted != large.Sequence {
		t.Error("a large message has no larger chance")
	}
}

// TestLagging has a replica of the stream show nothing: the state is then read from the leader alone.
func TestLagging(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	w := newWorld(t, b, "bob", "carol")
	w.update("bob")
	w.propose("carol", selfRemove)
	lagging := replicaOn(t, &laggingLog{b}, b, w.clock)
	sameState(t, w.warm(), must(lagging.store.get(t.Context(), w.id)))
}

type laggingLog struct{ eventLog }

// Read shows nothing.
func (*laggingLog) Read(context.Context, bus.Subject, uint64, int, int) ([]*bus.Message, bool, error) {
	return nil, false, nil
}

// TestHints checks that an accepted handshake reaches another replica's cache.
func TestHints(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	w := newWorld(t, b, "bob")
	other := newReplica(t, b, w.clock)
	heard := make(chan struct{}, 8)
	stop, err := b.WatchAll("group", func(subject string) { other.store.cache.moved(subject); heard <- struct{}{} })
	ok(t, err)
	defer stop()
	_ = must(other.store.get(t.Context(), w.id))
	w.update("bob")
	<-heard
	if other.store.cache.get(w.id) != nil {
		t.Error("the cache still serves what a hint said is behind")
	}
	sameState(t, must(other.store.get(t.Context(), w.id)), w.warm())
}

// TestOwnHints checks that a replica's own appends leave its cache as good as it is, and that another's do not.
func TestOwnHints(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	w := newWorld(t, b, "bob")
	heard := make(chan struct{}, 8)
	stop, err := b.WatchAll("group", func(subject string) { w.hub.store.cache.moved(subject); heard <- struct{}{} })
	ok(t, err)
	defer stop()
	_ = w.warm()
	for range 2 {
		w.update("bob")
		<-heard
		if g := w.hub.store.cache.get(w.id); g == nil || g.last != w.cold().last {
			t.Fatal("the replica's own hint made it forget what it wrote")
		}
	}
	_, err = newReplica(t, b, w.clock).Commit(t.Context(), w.pathBundle("bob").rq)
	ok(t, err)
	<-heard
	if w.hub.store.cache.get(w.id) != nil {
		t.Error("the cache still serves what another replica's hint said is behind")
	}
}

func TestCacheBound(t *testing.T) {
	t.Parallel()
	c := newCache(3 * groupWeight)
	var ids []mimimi.GroupID
	for i := range 5 {
		g := &group{id: must(mimimi.NewGroupID(hubDomain)), last: uint64(i)}
		ids = append(ids, g.id)
		c.put(g.id.Wire(), g)
	}
	if c.used.Len() != 3 || len(c.byGroup) != 3 || len(c.bySubject) != 3 || c.weight != 3*groupWeight {
		t.Error("the cache is larger than its limit")
	}
	if c.get(ids[0]) != nil || c.get(ids[4]) == nil {
		t.Error("not the oldest was dropped")
	}
	c.put("x", &group{id: ids[4], last: 1})
	if c.get(ids[4]).last != 4 {
		t.Error("an older state replaced a newer one")
	}
}

func must2[T, U any](v T, _ U, err error) T { return must(v, err) }
