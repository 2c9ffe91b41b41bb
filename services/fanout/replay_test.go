package fanout

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
)

// crooked is fan-out's log with a bug: change returns what is published in place of a delivery.
type crooked struct {
	log
	change func(*v1.OutboxEntry) []*v1.OutboxEntry
}

func (c *crooked) Publish(ctx context.Context, s bus.Subject, data []byte, o bus.PublishOptions) (seq uint64, err error) {
	e := new(v1.OutboxEntry)
	if err := proto.Unmarshal(data, e); err != nil {
		return 0, err
	}
	for i, x := range c.change(e) {
		if data, err = proto.Marshal(x); err != nil {
			return 0, err
		}
		o.ID += fmt.Sprint(i)
		if seq, err = c.log.Publish(ctx, s, data, o); err != nil {
			return 0, err
		}
	}
	return seq, nil
}

// faithful changes nothing.
func faithful(e *v1.OutboxEntry) []*v1.OutboxEntry { return []*v1.OutboxEntry{e} }

// work runs a fan-out with a bug, which also does not say what it rejects of one script (nil: says all), until it has worked off the log up to the last entry of each script.
func (w *world) work(change func(*v1.OutboxEntry) []*v1.OutboxEntry, silent *script, scripts ...*script) {
	w.Helper()
	b := w.domain.Bus("fanout")
	f := newFanout(&crooked{b, change}, b, domainA, maxCachedLeaves, testMetrics())
	handle := func(ctx context.Context, m *bus.Message) error {
		err := f.handle(ctx, m)
		if e, unread := decode(m.Data); unread == nil && silent != nil && string(e.GetGroupId()) == string(silent.id) {
			return nil
		}
		return err
	}
	ctx, cancel := context.WithCancel(w.Context())
	var running sync.WaitGroup
	for _, c := range b.GroupConsumers() {
		running.Go(func() {
			if err := b.Consume(ctx, c, handle); err != nil {
				w.Errorf("consume: %v", err)
			}
		})
	}
	replay := w.domain.Bus("replay")
	for _, s := range scripts {
		last := s.entries[len(s.entries)-1].Sequence
		w.await("fan-out to work off the log", func() bool {
			floor, err := replay.FannedOut(w.Context(), w.partition(s))
			return err == nil && floor >= last
		})
	}
	cancel()
	running.Wait()
}

func (w *world) partition(s *script) int {
	for p := range w.hub.GroupPartitions() {
		if w.hub.GroupPartitionLog(p).Stream() == w.hub.GroupLog(s.id).Stream() {
			return p
		}
	}
	w.Fatal("no partition")
	return 0
}

// rerun replays the partition of a script.
func (w *world) rerun(scratch *bus.Bus, s *script, from, to uint64) (all []Rerun, said map[uint64]string) {
	w.Helper()
	said = make(map[uint64]string)
	err := Replay(w.Context(), w.domain.Bus("replay"), scratch, w.partition(s), from, to, func(x Rerun) error {
		all = append(all, x)
		if x.Divergence != "" {
			said[x.Sequence] = x.Divergence
		}
		return nil
	})
	if err != nil {
		w.Fatalf("replay: %v", err)
	}
	return all, said
}

// tell writes a log with something of everything, and returns the sequences of a message in the middle and of an entry that is rejected.
func (s *script) tell() (middle, rejected uint64) {
	s.create(0, leaf(0, domainA), leaf(1, domainB))
	s.message(0, "one")
	s.add(1, leaf(2, domainA), leaf(3, domainB))
	middle = s.message(1, "two")
	s.propose(1, "leaves", gone(1))
	s.commit(2, gone(1))
	s.message(1, "too late")
	rejected = s.commit(3, &v1.RosterChange{Leaf: 4, Domain: domainB})
	s.message(3, "three")
	return middle, rejected
}

// TestReplay: fan-out that is run again makes what it made, to the byte, and rejects what it rejected; what was fetched is no divergence.
func TestReplay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, scratch := w.group("again"), bustest.StartOpen(t).Bus("fanout")
	middle, rejected := s.tell()
	w.work(faithful, nil, s)
	all, said := w.rerun(scratch, s, 0, 0)
	if len(all) != len(s.entries) || len(said) != 0 {
		t.Fatalf("%d entries, want %d; it says %v", len(all), len(s.entries), said)
	}
	want := map[uint64]string{s.entries[0].Sequence: "none", s.entries[6].Sequence: "none", rejected: "rejected"}
	for _, x := range all {
		outcome := want[x.Sequence]
		if outcome == "" {
			outcome = "delivered"
		}
		if x.Outcome != outcome || x.Waiting != x.Deliveries || x.Deliveries == 0 && outcome == "delivered" {
			t.Errorf("%+v, want %s", x, outcome)
		}
	}
	if part, said := w.rerun(scratch, s, middle, middle+1); len(part) != 2 || len(said) != 0 || part[0] != all[3] {
		t.Errorf("a part of it: %+v, %v", part, said)
	}

	// The provider of domain A takes everything; what is left is domain B's.
	c, err := w.provider.OutboxConsumer(t.Context(), domainA)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.provider.Consume(ctx, c, func(context.Context, *bus.Message) error { return nil }); err != nil {
			t.Errorf("consume: %v", err)
		}
	})
	w.await("the provider to take everything", func() bool { return len(w.outbox(domainA)) == 0 })
	cancel()
	running.Wait()
	fetched, said := w.rerun(scratch, s, 0, 0)
	if len(said) != 0 || fetched[1].Deliveries != 2 || fetched[1].Waiting != 1 {
		t.Errorf("after one domain fetched: %+v, %v", fetched[1], said)
	}
}

// TestReplayPending: what fan-out has not come to is no divergence.
func TestReplayPending(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, scratch := w.group("waits"), bustest.StartOpen(t).Bus("fanout")
	s.tell()
	all, said := w.rerun(scratch, s, 0, 0)
	if len(said) != 0 || all[1].Outcome != "pending" || all[1].Deliveries != 2 || all[1].Waiting != 0 {
		t.Errorf("%+v, %v", all[1], said)
	}
}

// TestReplayFindsBug: a fan-out that does one thing wrong is found out, at the entry with which it did.
func TestReplayFindsBug(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	type bug struct {
		name, want string
		do         func(*v1.OutboxEntry) []*v1.OutboxEntry // to one delivery to domain B
		silent     bool
		buries     bool
		*script
		at uint64 // where it must show
	}
	bugs := []*bug{
		{name: "a recipient is left out", want: saysOther, do: func(e *v1.OutboxEntry) []*v1.OutboxEntry {
			d := e.Delivery.Delivery
			d.Recipients = d.Recipients[1:]
			return faithful(e)
		}},
		{name: "a wrong previous", want: saysOther, do: func(e *v1.OutboxEntry) []*v1.OutboxEntry {
			e.Delivery.Delivery.Previous--
			return faithful(e)
		}},
		{name: "a delivery is left out", want: saysGone, do: func(*v1.OutboxEntry) []*v1.OutboxEntry { return nil }},
		{name: "a delivery to nobody's knowledge", want: saysNowhere, do: func(e *v1.OutboxEntry) []*v1.OutboxEntry {
			more := proto.CloneOf(e)
			more.Delivery.Id = []byte("another")
			return []*v1.OutboxEntry{e, more}
		}},
		{name: "an entry is buried", want: saysBuried, do: faithful, buries: true},
		{name: "an entry is not buried", want: saysGrave, do: faithful, silent: true},
	}
	var silent *script
	var scripts []*script
	byGroup := make(map[string]*bug)
	for i, c := range bugs {
		c.script = w.group(fmt.Sprint("bug", i))
		var rejected uint64
		if c.at, rejected = c.tell(); c.silent {
			silent, c.at = c.script, rejected
		}
		scripts, byGroup[string(c.id)] = append(scripts, c.script), c
	}
	w.work(func(e *v1.OutboxEntry) []*v1.OutboxEntry {
		d := e.GetDelivery().GetDelivery()
		if c := byGroup[string(d.GetGroupId())]; d.GetSequence() == c.at && e.GetDomain() == domainB {
			return c.do(e)
		}
		return faithful(e)
	}, silent, scripts...)
	for _, c := range bugs {
		if c.buries {
			if err := w.domain.Bus("fanout").Bury(t.Context(), w.hub.GroupMessages(c.id), &bus.Message{Sequence: c.at, Subject: "group.0.x.m"}, errUnreadable); err != nil {
				t.Fatal(err)
			}
		}
	}
	scratch := bustest.StartOpen(t).Bus("fanout")
	for _, c := range bugs {
		said := make(map[uint64]string)
		err := Replay(t.Context(), w.domain.Bus("replay"), scratch, w.partition(c.script), c.entries[0].Sequence, c.entries[len(c.entries)-1].Sequence, func(x Rerun) error {
			if x.Divergence != "" {
				said[x.Sequence] = x.Divergence
			}
			return nil
		})
		if err != nil || len(said) != 1 || said[c.at] != c.want {
			t.Errorf("%s: it says %v, %v, want of %d: %s", c.name, said, err, c.at, c.want)
		}
	}
}
