package hub

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// scenario plays random steps of a group over two replicas whose publishes fail at random.
type scenario struct {
	*world
	r        *rand.Rand
	replicas []*server
	logs     []*faultyLog
	counts   []uint64 // what the log must hold, in order
	names    int
	leaving  bool
}

// TestScenario plays seeded scenarios. After each step a cold replica has the state of the warm ones and of the members; at the end, the log that
// clients read is what was accepted.
func TestScenario(t *testing.T) {
	t.Parallel()
	b := testBus(t)
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			s := &scenario{world: newWorld(t, b, "bob"), r: rand.New(rand.NewPCG(seed, 1))}
			for range 2 {
				log := &faultyLog{eventLog: b}
				s.logs = append(s.logs, log)
				s.replicas = append(s.replicas, replicaOn(t, log, b, s.clock))
			}
			s.counts = []uint64{s.warm().handshake}
			for range 60 {
				s.step()
			}
			s.check()
		})
	}
}

func (s *scenario) step() {
	i := s.r.IntN(2)
	s.hub = s.replicas[i]
	s.logs[i].faults = [][]fault{nil, nil, {lost}, {persisted}, {lost, persisted}}[s.r.IntN(5)]
	s.clock.advance(time.Duration(s.r.IntN(7)) * time.Second)
	by := s.anyone()
	switch k := s.r.IntN(10); {
	case s.leaving && k != 1: // everybody waits for the commit that takes it up
		s.commit(s.bundle(by, mls.CommitOptions{}))
		s.leaving = false
	case k == 0 && len(s.members) < 6:
		s.names++
		s.commit(s.addBundle(by, fmt.Sprint("d", s.names)))
	case k == 1 && !s.leaving && len(s.members) > 2 && by != "alice":
		s.counts = append(s.counts, s.propose(by, selfRemove).Sequence)
		delete(s.members, by)
		s.leaving = true
	case k == 2 && len(s.members) > 2 && by != "alice":
		s.commit(s.removeBundle("alice", by))
	case k == 3 && len(s.members) < 6:
		s.clock.advance(11 * time.Minute) // past the wait after another external joiner
		s.names++
		s.counts = append(s.counts, s.offerJoin(s.joinBundle(fmt.Sprint("d", s.names), s.invite(by, 2, time.Hour))).Sequence)
	case k == 4:
		ok(s.t, s.retried(func() error { return s.hub.checkpoint(s.t.Context(), s.warm()) }))
	case k == 5 && by != "alice":
		s.counts = append(s.counts, s.offerJoin(s.resyncBundle(by)).Sequence)
	case k == 6:
		s.counts = append(s.counts, s.propose(by, updateProposal).Sequence)
	case k == 7:
		s.commit(s.pathBundle(by))
	default:
		rq := s.message(by, "text")
		var rs *pb.SendMessageResponse
		ok(s.t, s.retried(func() (err error) {
			rs, err = s.hub.SendMessage(s.t.Context(), rq)
			return err
		}))
		s.counts = append(s.counts, rs.Sequence)
	}
	s.logs[i].faults = nil
	g := s.warm()
	sameState(s.t, g, s.cold())
	for _, m := range s.members {
		if !bytes.Equal(m.group.Public().GroupContext(), g.public.GroupContext()) {
			s.t.Fatal("hub and members disagree")
		}
	}
}

func (s *scenario) anyone() string {
	names := make([]string, 0, len(s.members))
	for n := range s.members {
		names = append(names, n)
	}
	slices.Sort(names)
	return names[s.r.IntN(len(names))]
}

// retried does what a client does when the outcome is not known.
func (s *scenario) retried(f func() error) error {
	for range 3 {
		err := f()
		if connect.CodeOf(err) != connect.CodeUnavailable && !isKind(err, errOutcome.Kind) || err == nil {
			return err
		}
	}
	return f()
}

func (s *scenario) commit(b *bundle) { s.counts = append(s.counts, s.offer(b).Sequence) }

// check compares the log that a member reads with what was accepted.
func (s *scenario) check() {
	s.t.Helper()
	previous := uint64(0)
	all := s.readAll("alice", 0)
	if len(all) != len(s.counts) {
		s.t.Fatalf("%d entries, want %d", len(all), len(s.counts))
	}
	for i, d := range all {
		if d.Sequence != s.counts[i] || d.Previous != previous {
			s.t.Fatalf("entry %d is %d after %d, want %d after %d", i, d.Sequence, d.Previous, s.counts[i], previous)
		}
		previous = d.Sequence
	}
	for range 20 {
		after := s.r.Uint64N(previous + 2)
		rest := slices.IndexFunc(s.counts, func(c uint64) bool { return c > after })
		if got := s.readFrom(after); rest < 0 && len(got) > 0 || rest >= 0 && !slices.Equal(got, s.counts[rest:]) {
			s.t.Fatalf("after %d: got %v", after, got)
		}
	}
}

// readFrom returns the sequences of what follows a position; nothing if the position is not one of this group's.
func (s *scenario) readFrom(after uint64) []uint64 {
	rs, err := s.hub.ReadLog(s.t.Context(), &pb.ReadLogRequest{GroupId: []byte(s.id.Wire()), After: after, Proof: s.leafProof("alice", mimimi.OpReadLog, nil)})
	if connect.CodeOf(err) == connect.CodeNotFound {
		i := slices.IndexFunc(s.counts, func(c uint64) bool { return c > after })
		return s.counts[max(i, 0):]
	}
	ok(s.t, err)
	var out []uint64
	for _, e := range rs.Entries {
		d := new(pb.Delivery)
		ok(s.t, proto.Unmarshal(e.Delivery, d))
		out = append(out, d.Sequence)
	}
	return out
}

// TestDamagedLog checks that entries no hub writes end a request with an internal error, and nothing else.
func TestDamagedLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testBus(t), "bob")
	g := w.warm()
	valid := must(g.draftCommit(w.pathBundle("bob").rq, noon.UnixMilli())).entry
	for name, change := range map[string]func(e *pb.GroupEntry){
		"gap":         func(e *pb.GroupEntry) { e.Handshake-- },
		"no content":  func(e *pb.GroupEntry) { e.Entry = nil },
		"application": func(e *pb.GroupEntry) { e.Entry = &pb.GroupEntry_Application{Application: &pb.ApplicationEntry{}} },
		"commit":      func(e *pb.GroupEntry) { e.GetCommit().Message = random(40) },
		"proposal":    func(e *pb.GroupEntry) { e.Entry = &pb.GroupEntry_Proposal{Proposal: &pb.HandshakeEntry{}} },
	} {
		t.Run(name, func(t *testing.T) {
			e := proto.CloneOf(valid)
			change(e)
			if _, err := g.apply(e, g.last+1); err == nil {
				t.Error("applied")
			}
		})
	}
	if _, err := g.apply(valid, g.last); err == nil {
		t.Error("applied at a sequence that is taken")
	}
	next, err := g.apply(valid, g.last+1)
	ok(t, err)
	if next.epoch() != g.epoch()+1 || g.epoch() != 1 {
		t.Error("the state before was changed, or the one after is not")
	}
}

// TestRestoredLog has a log end earlier than what a replica has cached: the log is right.
func TestRestoredLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testBus(t), "bob")
	want := w.cold()
	ahead := must(w.warm().draftCommit(w.pathBundle("bob").rq, noon.UnixMilli()))
	w.hub.store.cache.replace(ahead.next.placed(ahead.entry, want.last+100))
	sameState(t, want, w.warm())
}
