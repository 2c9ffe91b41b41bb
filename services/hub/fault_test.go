package hub

import (
	"context"
	"sync"
	"testing"

	"connectrpc.com/connect"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/problem"
)

// fault is what happens to one publish.
type fault int

const (
	none      fault = iota
	lost            // nothing was stored, and the outcome is not known
	persisted       // it was stored, but the outcome is not known
)

// faultyLog fails publishes in order; when the list is used up, all is well. before runs once before the first publish.
type faultyLog struct {
	eventLog
	mu     sync.Mutex
	faults []fault
	before func()
}

var errOutcome = problem.New(problem.Unavailable, "the outcome is not known")

func (f *faultyLog) next() (fault, func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.before
	f.before = nil
	if len(f.faults) == 0 {
		return none, before
	}
	x := f.faults[0]
	f.faults = f.faults[1:]
	return x, before
}

// Publish is the log's, with the next fault.
func (f *faultyLog) Publish(ctx context.Context, s bus.Subject, data []byte, o bus.PublishOptions) (uint64, error) {
	x, before := f.next()
	if before != nil {
		before()
	}
	switch x {
	case lost:
		return 0, errOutcome
	case persisted:
		if _, err := f.eventLog.Publish(ctx, s, data, o); err != nil {
			return 0, err
		}
		return 0, errOutcome
	}
	return f.eventLog.Publish(ctx, s, data, o)
}

// TestFaults kills each write before and after its publish. The request, or its retry at another replica, must succeed with one entry in the log, and a
// cold replica must see what the first one does.
func TestFaults(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	writes := map[string]func(w *world) func(hub *server) (uint64, error){
		"create": func(w *world) func(hub *server) (uint64, error) {
			rq, m := w.creation()
			w.members["alice"] = m
			return func(hub *server) (uint64, error) {
				rs, err := hub.CreateGroup(t.Context(), rq)
				return rs.GetSequence(), err
			}
		},
		"commit": func(w *world) func(hub *server) (uint64, error) {
			w.create()
			rq := w.addBundle("alice", "bob").rq
			return func(hub *server) (uint64, error) {
				rs, err := hub.Commit(t.Context(), rq)
				return rs.GetSequence(), err
			}
		},
		"propose": func(w *world) func(hub *server) (uint64, error) {
			w.create()
			w.add("alice", "bob")
			rq := w.proposal("bob", selfRemove)
			return func(hub *server) (uint64, error) {
				rs, err := hub.Propose(t.Context(), rq)
				return rs.GetSequence(), err
			}
		},
	}
	for name, prepare := range writes {
		for kind, faults := range map[string][]fault{
			"none": nil, "lost": {lost}, "persisted": {persisted}, "lost twice": {lost, lost}, "lost, then persisted": {lost, persisted},
			"lost for good": {lost, lost, lost, lost, lost, lost, lost, lost},
		} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				w := emptyWorld(t, b)
				do := prepare(w)
				log := &faultyLog{eventLog: b, faults: faults}
				faulty := replicaOn(t, log, b, w.clock)
				sequence, err := do(faulty)
				if len(faults) == maxAttempts {
					wantCode(t, err, connect.CodeUnavailable, "try again")
				} else if err != nil {
					t.Fatalf("not recovered: %v", err)
				}
				again, err := do(w.hub)
				ok(t, err)
				if sequence != 0 && again != sequence {
					t.Errorf("the retry got %d, the request %d", again, sequence)
				}
				if n := w.warm().last; n != again {
					t.Errorf("the last entry is %d, want %d: an entry was written twice", n, again)
				}
				sameState(t, must(faulty.store.current(t.Context(), w.id, nil)), w.cold())
			})
		}
	}
}

// TestRaceWithProposal has a proposal come between a commit's check and its publish: one that the commit need not take up lets it pass, another does not.
func TestRaceWithProposal(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	for _, c := range []struct {
		name  string
		stale bool
		entry func(w *world) func()
	}{
		{"update", false, func(w *world) func() {
			rq := w.proposal("bob", updateProposal)
			return func() { _ = must(w.hub.Propose(t.Context(), rq)) }
		}},
		{"invitation", false, func(w *world) func() { return func() { w.invite("bob", 1, 3600e9) } }},
		{"self_remove", true, func(w *world) func() {
			rq := w.proposal("bob", selfRemove)
			return func() { _ = must(w.hub.Propose(t.Context(), rq)) }
		}},
		{"commit", true, func(w *world) func() {
			rq := w.pathBundle("bob").rq
			return func() { _ = must(w.hub.Commit(t.Context(), rq)) }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, b, "bob")
			other := replicaOn(t, &faultyLog{eventLog: b, before: c.entry(w)}, b, w.clock)
			rs, err := other.Commit(t.Context(), w.pathBundle("alice").rq)
			g := w.warm()
			if c.stale {
				wantStale(t, err, g.epoch(), g.handshake)
			} else if err != nil || rs.Sequence != g.handshake || g.epoch() != 2 {
				t.Errorf("the commit did not get its place: %v", err)
			}
			sameState(t, g, w.cold())
		})
	}
}

// TestTwoCommitsAtOnce has several replicas offer different commits for one epoch: exactly one wins, and the others are told where the group is.
func TestTwoCommitsAtOnce(t *testing.T) {
	t.Parallel()
	twoCommitsAtOnce(t, bustest.Start(t), 5)
}

// TestTwoCommitsAtOnceOnCluster is the same on three nodes, where conflicts have another code.
func TestTwoCommitsAtOnceOnCluster(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts three servers")
	}
	twoCommitsAtOnce(t, bustest.StartCluster(t), 3)
}

func twoCommitsAtOnce(t *testing.T, d *bustest.Domain, rounds int) {
	c := newClock()
	b := d.Bus("hub")
	replicas := []*server{newReplica(t, b, c), newReplica(t, d.Bus("hub"), c), newReplica(t, d.Bus("hub"), c)}
	w := newWorld(t, b, "bob", "carol")
	for range rounds {
		bundles := []*bundle{w.pathBundle("alice"), w.pathBundle("bob"), w.pathBundle("carol")}
		answers := make([]*pb.CommitResponse, len(bundles))
		errs := make([]error, len(bundles))
		var wg sync.WaitGroup
		for i, p := range bundles {
			wg.Go(func() { answers[i], errs[i] = replicas[i].Commit(t.Context(), p.rq) })
		}
		wg.Wait()
		winner := -1
		for i := range bundles {
			if errs[i] == nil {
				if winner >= 0 {
					t.Fatal("two commits were accepted for one epoch")
				}
				winner = i
			}
		}
		if winner < 0 {
			t.Fatalf("none was accepted: %v", errs)
		}
		w.follow(bundles[winner])
		for i, err := range errs {
			if i != winner {
				wantStale(t, err, w.members["alice"].group.Epoch(), answers[winner].Sequence)
			}
		}
	}
	for _, r := range replicas {
		sameState(t, must(r.store.current(t.Context(), w.id, nil)), w.cold())
	}
}

// TestManyAtOnce has all members propose updates through two replicas at once: all are accepted, each once.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	d := bustest.Start(t)
	w := newWorld(t, d.Bus("hub"), "bob", "carol", "dave")
	replicas := []*server{w.hub, newReplica(t, d.Bus("hub"), w.clock)}
	var wg sync.WaitGroup
	i := 0
	for name := range w.members {
		rq, hub := w.proposal(name, updateProposal), replicas[i%2]
		i++
		wg.Go(func() {
			if _, err := hub.Propose(t.Context(), rq); err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
	wg.Wait()
	if n := len(w.warm().pending); n != 4 {
		t.Errorf("%d proposals are pending, want 4", n)
	}
	sameState(t, w.warm(), w.cold())
}
