package fanout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

const (
	domainA = "a.example"
	domainB = "b.example"
)

// A group's life: who gets what, and what `previous` says.
func TestDeliveries(t *testing.T) {
	w := newWorld(t)
	s := w.group("one")
	s.create(0, leaf(0, domainA))
	add := s.add(1, leaf(1, domainB), leaf(2, domainB))
	hello := s.message(1, "hello")
	s.put(&v1.GroupEntry{Entry: &v1.GroupEntry_Invitation{Invitation: &v1.InvitationEntry{}}})
	join := s.commit(2, leaf(3, domainA)) // dave, from outside
	late := s.message(1, "late")
	s.at += 11
	s.message(1, "too late")
	update := s.commit(3, leaf(1, domainB), &v1.RosterChange{Leaf: 0, Domain: domainA, ClientPseudonym: "mimi://a.example/d/0", EncryptedQueueId: []byte("new 0")})
	leaving := s.propose(3, "self_remove", gone(2))
	after := s.message(3, "after")
	taken := s.commit(4, gone(2))
	s.message(3, "before the removal")
	end := s.message(4, "end")
	f := w.replica()
	f.run(t, s.entries...)

	w.expect(domainA,
		fmt.Sprintf(`%d<0 KIND_COMMIT epoch 1 "commit to 1" to [a.example/d/0=queue 0]`, add),
		fmt.Sprintf(`%d<%d KIND_MESSAGE epoch 1 "hello" to [a.example/d/0=queue 0]`, hello, add),
		fmt.Sprintf(`%d<%d KIND_COMMIT epoch 2 "commit to 2" to [a.example/d/0=queue 0 a.example/d/3=queue 3]`, join, hello),
		fmt.Sprintf(`%d<%d KIND_MESSAGE epoch 1 "late" to [a.example/d/0=queue 0 a.example/d/3=queue 3]`, late, join),
		fmt.Sprintf(`%d<%d KIND_COMMIT epoch 3 "commit to 3" to [a.example/d/0=queue 0 a.example/d/3=queue 3]`, update, late),
		fmt.Sprintf(`%d<%d KIND_PROPOSAL epoch 3 "self_remove" to [a.example/d/0=new 0 a.example/d/3=queue 3]`, leaving, update),
		fmt.Sprintf(`%d<%d KIND_MESSAGE epoch 3 "after" to [a.example/d/0=new 0 a.example/d/3=queue 3]`, after, leaving),
		fmt.Sprintf(`%d<%d KIND_COMMIT epoch 4 "commit to 4" to [a.example/d/0=new 0 a.example/d/3=queue 3]`, taken, after),
		fmt.Sprintf(`%d<%d KIND_MESSAGE epoch 4 "end" to [a.example/d/0=new 0 a.example/d/3=queue 3]`, end, taken),
	)
	w.expect(domainB,
		fmt.Sprintf(`%d<0 KIND_WELCOME epoch 1 "welcome" to [b.example/d/1=queue 1]`, add),
		fmt.Sprintf(`%d<0 KIND_WELCOME epoch 1 "welcome" to [b.example/d/2=queue 2]`, add),
		fmt.Sprintf(`%d<%d KIND_MESSAGE epoch 1 "hello" to [b.example/d/1=queue 1 b.example/d/2=queue 2]`, hello, add),
		fmt.Sprintf(`%d<%d KIND_COMMIT epoch 2 "commit to 2" to [b.example/d/1=queue 1 b.example/d/2=queue 2]`, join, hello),
		fmt.Sprintf(`%d<%d KIND_MESSAGE epoch 1 "late" to [b.example/d/1=queue 1 b.example/d/2=queue 2]`, late, join),
		fmt.Sprintf(`%d<%d KIND_COMMIT epoch 3 "commit to 3" to [b.example/d/1=queue 1 b.example/d/2=queue 2]`, update, late),
		fmt.Sprintf(`%d<%d KIND_PROPOSAL epoch 3 "self_remove" to [b.example/d/1=queue 1 b.example/d/2=queue 2]`, leaving, update),
		fmt.Sprintf(`%d<%d KIND_MESSAGE epoch 3 "after" to [b.example/d/1=queue 1]`, after, leaving),
		fmt.Sprintf(`%d<%d KIND_COMMIT epoch 4 "commit to 4" to [b.example/d/1=queue 1]`, taken, after),
		fmt.Sprintf(`%d<%d KIND_MESSAGE epoch 4 "end" to [b.example/d/1=queue 1]`, end, taken),
	)
	first := w.outbox(domainA)[0].GetDelivery()
	if string(first.GetEpochSenderKey()) != "sender 1" || string(first.GetExternalPub()) != "external 1" || first.GetAccepted() != 1_800_000_000 ||
		!bytes.Equal(first.GetGroupId(), s.id) {
		t.Error("a commit carries the keys of the epoch begun, the group and the time in seconds")
	}
}

// Each newcomer gets its own entry of the Welcome and no other.
func TestWelcomeParts(t *testing.T) {
	w := newWorld(t)
	s := w.group("one")
	s.create(0, leaf(0, domainA))
	s.add(1, leaf(1, domainB), leaf(2, domainA), leaf(3, domainB))
	w.replica().run(t, s.entries...)
	got := map[string]bool{}
	for _, domain := range []string{domainA, domainB} {
		for _, d := range w.outbox(domain) {
			if d.GetDelivery().GetKind() != v1.Delivery_KIND_WELCOME {
				continue
			}
			refs, err := mls.WelcomeRefs(d.GetDelivery().GetMessage())
			if err != nil || len(refs) != 1 || len(d.GetDelivery().GetRecipients()) != 1 {
				t.Fatalf("a newcomer's Welcome has %d entries and %d recipients: %v", len(refs), len(d.GetDelivery().GetRecipients()), err)
			}
			who := d.GetDelivery().GetRecipients()[0].GetClientPseudonym()
			if !bytes.Equal(refs[0], refOf(uint32(who[len(who)-1]-'0'))) {
				t.Error("a newcomer got another's entry")
			}
			got[who] = true
		}
	}
	if len(got) != 3 {
		t.Errorf("%d newcomers got a Welcome, want 3", len(got))
	}
}

// A resync takes its own leaf again: the commit goes to the old queue and to the new one, and it is a removal.
func TestResync(t *testing.T) {
	w := newWorld(t)
	s := w.group("one")
	s.create(7, leaf(0, domainA), leaf(1, domainB))
	back := leaf(1, domainB)
	back.EncryptedQueueId = []byte("new 1")
	resync := s.commit(8, gone(1), back)
	s.message(7, "sealed to the old leaf, after a removal")
	end := s.message(8, "end")
	w.replica().run(t, s.entries...)
	w.expect(domainB,
		fmt.Sprintf(`%d<0 KIND_COMMIT epoch 8 "commit to 8" to [b.example/d/1=queue 1 b.example/d/1=new 1]`, resync),
		fmt.Sprintf(`%d<%d KIND_MESSAGE epoch 8 "end" to [b.example/d/1=new 1]`, end, resync),
	)
}

// rosterOf says what a checkpoint states of a projection.
func rosterOf(g *group) []*v1.RosterChange {
	var out []*v1.RosterChange
	for _, r := range g.roster {
		out = append(out, &v1.RosterChange{Leaf: r.leaf, Domain: r.domain, ClientPseudonym: r.pseudonym, EncryptedQueueId: r.queue})
	}
	return out
}

func epochRecords(g *group) []*v1.EpochRecord {
	var out []*v1.EpochRecord
	for _, r := range g.epochs.Records() {
		out = append(out, &v1.EpochRecord{Epoch: r.Epoch, EndedMs: r.Ended * 1000, RemovedAtEnd: r.Removal})
	}
	return out
}

// randomLog writes a log of n entries with everything that may stand in one, checkpoints by a hub that has not seen the latest messages among them.
func randomLog(s *script, r *rand.Rand, n int) {
	domains := []string{domainA, domainB, "c.example"}
	s.create(3, leaf(0, domainA))
	g, _ := fromCheckpoint(&v1.CheckpointEntry{Roster: []*v1.RosterChange{leaf(0, domainA)}, Epochs: []*v1.EpochRecord{{Epoch: 3}}}, s.checkpoint)
	known := uint64(0) // the last counted entry that the hub knows
	next := uint32(1)
	for range n {
		s.at += r.Int64N(8)
		epoch := g.epochs.Current()
		switch k := r.IntN(10); {
		case k < 4:
			s.message(epoch-uint64(r.IntN(3)), "m")
		case k == 4:
			s.add(epoch+1, leaf(next, domains[r.IntN(3)]), leaf(next+1, domains[r.IntN(3)]))
			next += 2
		case k == 5:
			s.commit(epoch+1, leaf(next, domains[r.IntN(3)]))
			next++
		case k == 6 && len(g.roster) > 1:
			s.commit(epoch+1, gone(g.roster[r.IntN(len(g.roster))].leaf))
		case k == 7 && len(g.roster) > 1:
			s.propose(epoch, "p", gone(g.roster[r.IntN(len(g.roster))].leaf))
		case k == 8:
			s.put(&v1.GroupEntry{Entry: &v1.GroupEntry_Invitation{Invitation: &v1.InvitationEntry{}}})
		default:
			s.state(&v1.CheckpointEntry{Roster: rosterOf(g), Epochs: epochRecords(g), LastCounted: known})
		}
		last := s.entries[len(s.entries)-1]
		e := new(v1.GroupEntry)
		if err := proto.Unmarshal(last.Data, e); err != nil {
			s.Fatal(err)
		}
		g, _ = g.advance(e, last.Sequence)
		if e.GetApplication() == nil || r.IntN(3) == 0 {
			known = g.counted
		}
	}
}

// Started anywhere in the log, with nothing cached, fan-out makes the same deliveries as one that has seen it all; so does one that has a stale cache.
func TestColdEqualsWarm(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t)
	for i := range 6 {
		s := w.group(fmt.Sprint("g", i))
		randomLog(s, r, 60)
		warm := w.replica()
		stale := warm.cold()
		for _, m := range s.entries {
			e := new(v1.GroupEntry)
			if err := proto.Unmarshal(m.Data, e); err != nil {
				t.Fatal(err)
			}
			want := linesOf(t, warm, e, m)
			warm.run(t, m)
			if got := linesOf(t, warm.cold(), e, m); !slices.Equal(got, want) {
				t.Fatalf("seed %d: entry %d cold:\n%s\nwarm:\n%s", seed, m.Sequence, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if got := linesOf(t, warm, e, m); !slices.Equal(got, want) { // a repeat
				t.Fatalf("seed %d: entry %d again:\n%s\nwarm:\n%s", seed, m.Sequence, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if r.IntN(4) == 0 {
				if got := linesOf(t, stale, e, m); !slices.Equal(got, want) {
					t.Fatalf("seed %d: entry %d from a stale cache:\n%s\nwarm:\n%s", seed, m.Sequence, strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
				stale.run(t, m)
			}
		}
	}
}

// linesOf are the deliveries that f would make of an entry.
func linesOf(t *testing.T, f *fanout, e *v1.GroupEntry, m *bus.Message) []string {
	t.Helper()
	before, err := f.before(t.Context(), e, m.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	next, err1 := before.advance(e, m.Sequence)
	ds, err2 := before.deliveries(e, next)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, d := range ds {
		out = append(out, fmt.Sprintf("%x %s %s", d.id("S"), d.domain, line(d.Delivery)))
	}
	return out
}

// Entries that come again, to the same replica or another, repeat nothing.
func TestRedelivery(t *testing.T) {
	w := newWorld(t)
	s := w.group("one")
	s.create(0, leaf(0, domainA))
	s.add(1, leaf(1, domainB))
	s.message(1, "hello")
	s.commit(2, gone(1))
	s.message(2, "end")
	f, other := w.replica(), w.replica()
	for i, m := range s.entries {
		f.run(t, m)
		other.run(t, s.entries[max(0, i-1):i+1]...) // the one before comes again, too
		f.run(t, s.entries[:i+1]...)                // all come again
	}
	ids := map[string]bool{}
	for _, domain := range []string{domainA, domainB} {
		for _, d := range w.outbox(domain) {
			if ids[string(d.GetId())] {
				t.Error("a delivery was repeated")
			}
			ids[string(d.GetId())] = true
		}
	}
	if len(ids) != 7 { // a: commit, hello, commit, end; b: welcome, hello, commit
		t.Errorf("%d deliveries, want 7", len(ids))
	}
}

// Each append fails once, stored or not: the entry comes again, and nothing is missing or there twice.
func TestFaults(t *testing.T) {
	w := newWorld(t)
	for _, persist := range []bool{false, true} {
		for at := 1; at <= 4; at++ {
			s := w.group(fmt.Sprint(persist, at))
			s.create(0, leaf(0, domainA), leaf(1, domainB))
			s.add(1, leaf(2, domainA), leaf(3, domainB))
			f := w.replica()
			broken := &faulty{log: f.log, at: at, persist: persist}
			f.log = broken
			f.run(t, s.entries[0])
			if err := f.handle(t.Context(), s.entries[1]); !errors.Is(err, errInjected) {
				t.Fatalf("write %d of %d: %v", at, broken.writes.Load(), err)
			}
			f.run(t, s.entries[1])
			var got []string
			for _, domain := range []string{domainA, domainB} {
				for _, d := range w.outbox(domain) {
					if bytes.Equal(d.GetDelivery().GetGroupId(), s.id) {
						got = append(got, domain+" "+d.GetDelivery().GetKind().String())
					}
				}
			}
			slices.Sort(got)
			want := []string{"a.example KIND_COMMIT", "a.example KIND_WELCOME", "b.example KIND_COMMIT", "b.example KIND_WELCOME"}
			if !slices.Equal(got, want) {
				t.Errorf("write %d, persisted %v: %v", at, persist, got)
			}
		}
	}
}

// lagging answers the first Read with nothing, as a replica that has not caught up does.
type lagging struct {
	log
	behind bool
}

func (l *lagging) Read(ctx context.Context, s bus.Subject, after uint64, limit, maxBytes int) ([]*bus.Message, bool, error) {
	if l.behind {
		l.behind = false
		return nil, false, nil
	}
	return l.log.Read(ctx, s, after, limit, maxBytes)
}

// A replica that lags might leave out an entry in between: then nothing is delivered until it has caught up.
func TestLag(t *testing.T) {
	w := newWorld(t)
	s := w.group("one")
	s.create(0, leaf(0, domainA))
	first := s.message(0, "first")
	second := s.message(0, "second")
	f := w.replica()
	f.log = &lagging{log: f.log, behind: true}
	if err := f.handle(t.Context(), s.entries[2]); !errors.Is(err, errLag) || problem.KindOf(err) != problem.Unavailable {
		t.Fatalf("got %v", err)
	}
	w.expect(domainA)
	f.run(t, s.entries[2])
	w.expect(domainA, fmt.Sprintf(`%d<%d KIND_MESSAGE epoch 0 "second" to [a.example/d/0=queue 0]`, second, first))
}

// A thousand leaves: parts of at most 500 recipients, everybody in just one, under the bus's largest message.
func TestLargeRoster(t *testing.T) {
	w := newWorld(t)
	s := w.group("one")
	var leaves []*v1.RosterChange
	for i := range uint32(1201) {
		leaves = append(leaves, leaf(i, domainA))
	}
	s.create(0, leaves...)
	s.message(0, strings.Repeat("x", 1<<20))
	w.replica().run(t, s.entries...)
	parts := w.outbox(domainA)
	seen, ids := map[string]bool{}, map[string]bool{}
	for _, p := range parts {
		if n := len(p.GetDelivery().GetRecipients()); n > maxRecipients {
			t.Errorf("%d recipients in one part", n)
		}
		ids[string(p.GetId())] = true
		for _, r := range p.GetDelivery().GetRecipients() {
			seen[r.GetClientPseudonym()] = true
		}
	}
	if len(parts) != 3 || len(ids) != 3 || len(seen) != 1201 {
		t.Errorf("%d parts, %d ids, %d leaves; want 3, 3, 1201", len(parts), len(ids), len(seen))
	}
}

func TestCache(t *testing.T) {
	c := newCache(10)
	g := func(seq uint64, leaves int) *group { return &group{sequence: seq, roster: make([]recipient, leaves)} }
	c.put([]byte("a"), g(1, 4))
	c.put([]byte("b"), g(1, 3))
	c.put([]byte("a"), g(2, 4))
	c.put([]byte("a"), g(1, 4)) // late
	if got := c.get([]byte("a")); got == nil || got.sequence != 2 {
		t.Error("a later projection is kept")
	}
	c.put([]byte("c"), g(1, 1)) // b was not used for longest
	if c.get([]byte("b")) != nil || c.get([]byte("a")) == nil || c.get([]byte("c")) == nil || c.weight != 7 {
		t.Errorf("weight %d", c.weight)
	}
	c.put([]byte("d"), g(1, 100))
	if c.get([]byte("d")) != nil || c.weight > 10 || c.order.Len() != len(c.byID) {
		t.Errorf("a group over the bound: weight %d, %d groups", c.weight, c.order.Len())
	}
}

func TestDeliveryID(t *testing.T) {
	base := delivery{domain: domainA, Delivery: &v1.Delivery{Sequence: 7, GroupId: []byte("g")}}
	ids := map[string]bool{string(base.id("S")): true}
	for _, d := range []delivery{
		{domain: domainB, Delivery: base.Delivery},
		{domain: domainA, part: 1, Delivery: base.Delivery},
		{domain: domainA, Delivery: &v1.Delivery{Sequence: 8, GroupId: []byte("g")}},
		{domain: domainA, Delivery: &v1.Delivery{Sequence: 7, GroupId: []byte("h")}},
	} {
		ids[string(d.id("S"))] = true
	}
	ids[string(base.id("T"))] = true
	if len(ids) != 6 {
		t.Errorf("%d ids of 6 deliveries", len(ids))
	}
}
