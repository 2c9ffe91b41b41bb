package provider

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"pgregory.net/rapid"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

func TestQueue(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	doc, fanout := r.document(d.name), d.bus.Bus("fanout")
	q, group := r.newQueue(), newGroup(d.name)
	if n := len(q.all()); n != 0 {
		t.Fatalf("a new queue holds %d entries", n)
	}
	q.confirm(group)
	to := q.recipient(doc)
	// The second is large enough to stand in BODY.
	sizes := []int{10, 100_000, inlineBody - 300}
	var sent []*mimimiv1.OutboundDelivery
	for i, size := range sizes {
		o := newDelivery(group, uint64(i+1), size, to, newStrangeRecipient(d.name))
		sent = append(sent, o)
		send(t, fanout, d.name, o)
	}
	entries := q.wait(len(sizes))
	for i, e := range entries {
		got, want := e.GetDelivery(), sent[i].GetDelivery()
		if !bytes.Equal(got.GetMessage(), want.GetMessage()) || got.GetSequence() != want.GetSequence() || got.GetPrevious() != want.GetPrevious() || got.GetKind() != want.GetKind() {
			t.Errorf("entry %d is another delivery", i)
		}
		if len(got.GetRecipients()) != 1 || got.GetRecipients()[0].GetClientPseudonym() != to.GetClientPseudonym() {
			t.Errorf("entry %d names other recipients than the queue's own", i)
		}
	}
	if page, err := q.rpc.Read(t.Context(), &mimimiv1.ReadQueueRequest{QueueId: q.id.Bytes(), Limit: 2, Signed: q.sign("read", position(0))}); err != nil || len(page.GetEntries()) != 2 || !page.GetMore() {
		t.Errorf("a page of two: %d entries, more %v, %v", len(page.GetEntries()), page.GetMore(), err)
	}
	if rest := q.read(entries[1].GetPosition()); len(rest.GetEntries()) != 1 || rest.GetMore() {
		t.Errorf("after the second: %d entries", len(rest.GetEntries()))
	}
	q.ack(0)
	q.ack(entries[0].GetPosition())
	q.ack(entries[0].GetPosition())
	if left := q.all(); len(left) != 2 || left[0].GetPosition() != entries[1].GetPosition() {
		t.Errorf("%d entries are left after the first was acknowledged", len(left))
	}
	q.ack(^uint64(0))
	if n := len(q.all()); n != 0 {
		t.Errorf("%d entries are left after all were acknowledged", n)
	}
}

// newStrangeRecipient is a recipient whose sealed queue id does not open.
func newStrangeRecipient(domain string) *mimimiv1.Recipient {
	return &mimimiv1.Recipient{ClientPseudonym: must(mimimi.NewClientPseudonym(domain)).Wire(), EncryptedQueueId: bytes.Repeat([]byte{9}, 100)}
}

func TestQueueRefusals(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	q, other := r.newQueue(), r.newQueue()
	stranger := *q
	stranger.key = other.key
	missing := *q
	missing.id = mimimi.NewQueueID()
	group := newGroup(d.name)
	if _, err := q.rpc.Create(t.Context(), q.creation()); err != nil {
		t.Errorf("a repeated creation: %v", err)
	}
	_, err := q.rpc.Create(t.Context(), stranger.creation())
	wantCode(t, "an id that is taken", err, connect.CodePermissionDenied)

	type call = func(q *testQueue, s func(string, []byte) *mimimiv1.Signed) error
	calls := map[string]call{
		"read": func(q *testQueue, s func(string, []byte) *mimimiv1.Signed) error {
			_, err := q.rpc.Read(t.Context(), &mimimiv1.ReadQueueRequest{QueueId: q.id.Bytes(), Signed: s("read", position(0))})
			return err
		},
		"ack": func(q *testQueue, s func(string, []byte) *mimimiv1.Signed) error {
			_, err := q.rpc.Ack(t.Context(), &mimimiv1.AckQueueRequest{QueueId: q.id.Bytes(), UpTo: 1, Signed: s("ack", position(1))})
			return err
		},
		"confirm": func(q *testQueue, s func(string, []byte) *mimimiv1.Signed) error {
			_, err := q.rpc.Confirm(t.Context(), &mimimiv1.QueueGroupRequest{QueueId: q.id.Bytes(), GroupId: group, Signed: s("confirm", group)})
			return err
		},
		"refuse": func(q *testQueue, s func(string, []byte) *mimimiv1.Signed) error {
			_, err := q.rpc.Refuse(t.Context(), &mimimiv1.QueueGroupRequest{QueueId: q.id.Bytes(), GroupId: group, Signed: s("refuse", group)})
			return err
		},
		"watch": func(q *testQueue, s func(string, []byte) *mimimiv1.Signed) error {
			stream, err := q.rpc.Watch(t.Context(), &mimimiv1.WatchQueueRequest{QueueId: q.id.Bytes(), Signed: s("watch", position(0))})
			if err != nil {
				return err
			}
			defer stream.Close()
			stream.Receive()
			return stream.Err()
		},
		"delete": func(q *testQueue, s func(string, []byte) *mimimiv1.Signed) error {
			_, err := q.rpc.Delete(t.Context(), &mimimiv1.DeleteQueueRequest{QueueId: q.id.Bytes(), Signed: s("delete", nil)})
			return err
		},
	}
	for name, f := range calls {
		t.Run(name, func(t *testing.T) {
			wantCode(t, "another key", f(q, stranger.sign), connect.CodePermissionDenied)
			wantCode(t, "no such queue", f(&missing, missing.sign), connect.CodePermissionDenied)
			wantCode(t, "another operation", f(q, func(_ string, body []byte) *mimimiv1.Signed { return q.sign("other", body) }), connect.CodePermissionDenied)
			wantCode(t, "another body", f(q, func(operation string, body []byte) *mimimiv1.Signed { return q.sign(operation, append(body, 1)) }), connect.CodePermissionDenied)
			wantCode(t, "no proof", f(q, func(string, []byte) *mimimiv1.Signed { return nil }), connect.CodeInvalidArgument)
			wantCode(t, "stale minute", f(q, func(operation string, body []byte) *mimimiv1.Signed {
				old := *q
				old.now = func() time.Time { return q.now().Add(-time.Hour) }
				return old.sign(operation, body)
			}), connect.CodePermissionDenied)
		})
	}
	_, err = q.rpc.Read(t.Context(), &mimimiv1.ReadQueueRequest{QueueId: q.id.Bytes(), Limit: readEntries + 1, Signed: q.sign("read", position(0))})
	wantCode(t, "limit", err, connect.CodeInvalidArgument)
	_, err = q.rpc.Confirm(t.Context(), &mimimiv1.QueueGroupRequest{QueueId: q.id.Bytes(), GroupId: []byte("x"), Signed: q.sign("confirm", []byte("x"))})
	wantCode(t, "no group", err, connect.CodeInvalidArgument)
	_, err = q.rpc.Read(t.Context(), &mimimiv1.ReadQueueRequest{QueueId: q.id.Bytes()[1:], Signed: q.sign("read", position(0))})
	wantCode(t, "an id of 31 bytes", err, connect.CodeInvalidArgument)
	bad := q.creation()
	bad.PublicKey = bad.PublicKey[1:]
	_, err = q.rpc.Create(t.Context(), bad)
	wantCode(t, "short key", err, connect.CodeInvalidArgument)
}

func TestDeleteQueue(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	doc, fanout := r.document(d.name), d.bus.Bus("fanout")
	q, witness, group := r.newQueue(), r.newQueue(), newGroup(d.name)
	send(t, fanout, d.name, newDelivery(group, 1, 10, q.recipient(doc)))
	q.wait(1)
	for range 2 {
		if _, err := q.rpc.Delete(t.Context(), &mimimiv1.DeleteQueueRequest{QueueId: q.id.Bytes(), Signed: q.sign("delete", nil)}); err != nil {
			t.Fatalf("Delete: %v", err)
		}
	}
	_, err := q.rpc.Read(t.Context(), &mimimiv1.ReadQueueRequest{QueueId: q.id.Bytes(), Signed: q.sign("read", position(0))})
	wantCode(t, "a deleted queue", err, connect.CodePermissionDenied)
	_, err = q.rpc.Create(t.Context(), q.creation())
	wantCode(t, "a deleted queue's id", err, connect.CodePermissionDenied)
	// What still comes for it goes nowhere and holds nothing back.
	send(t, fanout, d.name, newDelivery(group, 2, 10, q.recipient(doc), witness.recipient(doc)))
	witness.wait(1)
	if n := must(r.bus.Count(t.Context(), r.bus.Queue(q.id.Bytes()))); n != 0 {
		t.Errorf("the deleted queue holds %d entries", n)
	}
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	doc, fanout := r.document(d.name), d.bus.Bus("fanout")
	q, bad, good := r.newQueue(), newGroup(d.name), newGroup(d.name)
	to := q.recipient(doc)
	if _, err := q.rpc.Refuse(t.Context(), &mimimiv1.QueueGroupRequest{QueueId: q.id.Bytes(), GroupId: bad, Signed: q.sign("refuse", bad)}); err != nil {
		t.Fatal(err)
	}
	send(t, fanout, d.name, newDelivery(bad, 1, 10, to))
	send(t, fanout, d.name, newDelivery(good, 1, 10, to))
	if e := q.wait(1); !bytes.Equal(e[0].GetDelivery().GetGroupId(), good) {
		t.Error("the refused group was delivered")
	}
	q.confirm(bad) // the owner thinks again
	send(t, fanout, d.name, newDelivery(bad, 2, 10, to))
	q.wait(2)
}

// TestWatch: a hint comes for what is there, and for what comes, also when another replica holds the stream or wrote the entry.
func TestWatch(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	one, two := d.start(), d.start()
	doc, fanout := one.document(d.name), d.bus.Bus("fanout")
	q, group := one.newQueue(), newGroup(d.name)
	q.confirm(group)
	to := q.recipient(doc)
	here := q.watch(t.Context(), 0)
	elsewhere := *q
	elsewhere.rpc = two.queues()
	there := elsewhere.watch(t.Context(), 0)
	if q.hint(here) || q.hint(there) {
		t.Error("an empty queue has something")
	}
	send(t, fanout, d.name, newDelivery(group, 1, 10, to))
	if !q.hint(here) || !q.hint(there) {
		t.Error("the hint is empty")
	}
	at := q.wait(1)[0].GetPosition()
	if late := q.watch(t.Context(), 0); !q.hint(late) {
		t.Error("what is there gives no hint")
	}
	if done := q.watch(t.Context(), at); q.hint(done) {
		t.Error("what was seen gives a hint")
	}
}

// TestWatchBounds: one queue has few streams; a place that was left is free again.
func TestWatchBounds(t *testing.T) {
	t.Parallel()
	w := newWatches()
	var leave []func()
	for range maxWatchesPerQueue {
		leave = append(leave, must(w.enter("q")))
	}
	if _, err := w.enter("q"); err == nil {
		t.Error("one stream too many")
	}
	if _, err := w.enter("p"); err != nil {
		t.Errorf("another queue: %v", err)
	}
	leave[0]()
	if _, err := w.enter("q"); err != nil {
		t.Errorf("after one left: %v", err)
	}
	w.total = maxWatches
	if _, err := w.enter("r"); err == nil {
		t.Error("the bound of all streams does not hold")
	}
}

// TestWatchEndsOnStop: a service that stops does not wait for its hint streams.
func TestWatchEndsOnStop(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	q := r.newQueue()
	hints := q.watch(t.Context(), 0)
	q.hint(hints)
	begun := time.Now()
	r.stop()
	if took := time.Since(begun); took > drainTimeout/2 {
		t.Errorf("the stop took %v", took)
	}
	for range hints { // ends
	}
}

func TestStanding(t *testing.T) {
	t.Parallel()
	r, q := new(mimimiv1.QueueRecord), mimimi.NewQueueID()
	a, b := groupMark(q, []byte("a")), groupMark(q, []byte("b"))
	if bytes.Equal(a, groupMark(mimimi.NewQueueID(), []byte("a"))) {
		t.Error("a group has the same mark in two queues")
	}
	for i, step := range []struct {
		mark    []byte
		s       standing
		changed bool
		a, b    standing
	}{
		{a, confirmed, true, confirmed, unconfirmed},
		{a, confirmed, false, confirmed, unconfirmed},
		{b, refused, true, confirmed, refused},
		{a, refused, true, refused, refused},
		{b, confirmed, true, refused, confirmed},
	} {
		changed, err := setStanding(r, step.mark, step.s)
		if err != nil || changed != step.changed || standingOf(r, a) != step.a || standingOf(r, b) != step.b {
			t.Errorf("step %d: changed %v, a %v, b %v, %v", i, changed, standingOf(r, a), standingOf(r, b), err)
		}
	}
	for i := range maxMarks - 2 {
		if _, err := setStanding(r, groupMark(q, position(uint64(i))), confirmed); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := setStanding(r, groupMark(q, []byte("c")), confirmed); err == nil {
		t.Error("one mark too many")
	}
	if _, err := setStanding(r, a, confirmed); err != nil {
		t.Errorf("a change within the bound: %v", err)
	}
}

// TestLedger runs random writes, acknowledgements and other replicas' evictions against what a queue may hold.
func TestLedger(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := &ledger{groups: make(map[string][]waiting)}
		record := &mimimiv1.QueueRecord{Confirmed: [][]byte{[]byte("c0"), []byte("c1")}}
		marks := []string{"c0", "c1"}
		for i := range unconfirmedGroups + 3 {
			marks = append(marks, "u"+string(rune('A'+i)))
		}
		sequence := uint64(0)
		for range rapid.IntRange(1, 3000).Draw(t, "steps") {
			if rapid.IntRange(0, 200).Draw(t, "what") == 0 {
				l.forget(rapid.Uint64Range(1, sequence+1).Draw(t, "first"))
				continue
			}
			mark := marks[rapid.IntRange(0, 1).Draw(t, "confirmed")]
			if rapid.IntRange(0, 3).Draw(t, "pool") == 0 {
				mark = rapid.SampledFrom(marks).Draw(t, "mark")
			}
			before := len(l.groups[mark])
			v := l.admit(mark, standingOf(record, []byte(mark)), func() int { return l.pooled(record) })
			if v.notice {
				sequence++
				l.add(mark, waiting{sequence: sequence})
			}
			l.remove(mark, v.evict)
			if v.store {
				sequence++
				l.add(mark, waiting{sequence: sequence, id: sequence})
			}
			checkLedger(t, l, record, mark)
			if !v.store && before == 0 && l.pooled(record) < unconfirmedGroups {
				t.Fatal("a new group found no room in a pool that has some")
			}
			if len(v.evict) > 0 && !v.notice {
				t.Fatal("an eviction without a notice")
			}
		}
	})
}

func checkLedger(t *rapid.T, l *ledger, r *mimimiv1.QueueRecord, mark string) {
	size := 0
	for m, entries := range l.groups {
		size += len(entries)
		if len(entries) == 0 || !slices.IsSortedFunc(entries, func(a, b waiting) int { return int(a.sequence) - int(b.sequence) }) {
			t.Fatalf("group %s is empty or out of order", m)
		}
	}
	if size != l.size {
		t.Fatalf("size is %d, counted %d", l.size, size)
	}
	deliveries, notices := 0, 0
	for _, w := range l.groups[mark] {
		if w.notice() {
			notices++
		} else {
			deliveries++
		}
	}
	bound := unconfirmedQuota
	if standingOf(r, []byte(mark)) == confirmed {
		bound = groupQuota
	}
	if deliveries > bound || notices > 1 {
		t.Fatalf("%d entries and %d notices", deliveries, notices)
	}
	if n := l.pooled(r); n > unconfirmedGroups {
		t.Fatalf("%d unconfirmed groups", n)
	}
}

func TestLedgerFullQueue(t *testing.T) {
	t.Parallel()
	l := &ledger{groups: map[string][]waiting{"other": make([]waiting, queueEntries)}, size: queueEntries}
	none := func() int { return 0 }
	if v := l.admit("a", confirmed, none); v.store || !v.notice {
		t.Errorf("a group without entries: %+v", v)
	}
	if v := l.admit("a", unconfirmed, none); v.store || v.notice {
		t.Errorf("an unconfirmed group: %+v", v)
	}
	l.add("a", waiting{sequence: 1, id: 1})
	if v := l.admit("a", confirmed, none); !v.store || !v.notice || !slices.Equal(v.evict, []uint64{1}) {
		t.Errorf("a group with an entry: %+v", v)
	}
}

// TestLedgersForget: memory is bounded, and what is in use stays.
func TestLedgersForget(t *testing.T) {
	t.Parallel()
	s := newLedgers()
	used := s.acquire("used")
	used.add("g", waiting{sequence: 1, id: 1})
	for i := range 5 {
		l := s.acquire(string(rune('a' + i)))
		for n := range uint64(ledgerEntries / 3) {
			l.groups["g"] = append(l.groups["g"], waiting{sequence: n + 1, id: 1})
		}
		l.size = ledgerEntries / 3
		s.release(l)
	}
	if s.entries > ledgerEntries || s.known("a") != nil {
		t.Errorf("%d entries are held", s.entries)
	}
	s.release(used)
	again := s.known("used")
	if again != used {
		t.Fatal("a ledger in use was dropped")
	}
	s.release(again)
}

// direct is a deliverer of its own on a domain's bus, as one replica has it.
func (d *testDomain) direct() *deliverer {
	b, m := d.bus.Bus("provider"), must(newMetrics(nil))
	k := must(loadKeys(d.cfg, d.clock.Now))
	return &deliverer{domain: d.name, bus: b, queues: &queues{bus: b, now: d.clock.Now, m: m, ledgers: newLedgers()}, keys: k.queue, m: m, log: slog.New(slog.DiscardHandler)}
}

func (d *testDomain) deliver(w *deliverer, o *mimimiv1.OutboundDelivery) {
	d.t.Helper()
	if err := w.deliver(context.WithoutCancel(d.t.Context()), d.name, o); err != nil {
		d.t.Fatalf("deliver: %v", err)
	}
}

// TestQuota: a flood in one group evicts that group's oldest entries, with a notice, and nothing of another group.
func TestQuota(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	w, doc := d.direct(), r.document(d.name)
	q, flood, calm := r.newQueue(), newGroup(d.name), newGroup(d.name)
	to := q.recipient(doc)
	q.confirm(flood)
	q.confirm(calm)
	d.deliver(w, newDelivery(calm, 1, 10, to))
	for i := range uint64(groupQuota) {
		d.deliver(w, newDelivery(flood, i+1, 10, to))
	}
	if n := len(q.all()); n != groupQuota+1 {
		t.Fatalf("%d entries at the quota, want %d", n, groupQuota+1)
	}
	d.deliver(w, newDelivery(flood, groupQuota+1, 10, to))
	entries := q.all()
	var sequences []uint64
	lost := 0
	for _, e := range entries {
		switch {
		case e.GetLost() != nil:
			lost++
			if !bytes.Equal(e.GetLost().GetGroupId(), flood) {
				t.Error("the notice is about another group")
			}
		case bytes.Equal(e.GetDelivery().GetGroupId(), flood):
			sequences = append(sequences, e.GetDelivery().GetSequence())
		}
	}
	if lost != 1 || len(sequences) != groupQuota*3/4+1 || sequences[0] != groupQuota/4+1 || len(entries) != len(sequences)+2 {
		t.Fatalf("after one more: %d entries, %d of the group from %d, %d notices", len(entries), len(sequences), sequences[0], lost)
	}
	// Acknowledged through another replica: the room is found again, and nothing is evicted.
	q.ack(entries[len(entries)-1].GetPosition())
	for i := range uint64(groupQuota) {
		d.deliver(w, newDelivery(flood, groupQuota+2+i, 10, to))
	}
	if n := len(q.all()); n != groupQuota {
		t.Errorf("%d entries after the queue was emptied, want %d", n, groupQuota)
	}
}

// TestUnconfirmedPool: an unconfirmed group keeps its first entries and gets one notice; the pool is bounded; confirming makes room.
func TestUnconfirmedPool(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	w, doc := d.direct(), r.document(d.name)
	q, group := r.newQueue(), newGroup(d.name)
	to := q.recipient(doc)
	for i := range uint64(unconfirmedQuota + 3) {
		d.deliver(w, newDelivery(group, i+1, 10, to))
	}
	entries := q.all()
	if len(entries) != unconfirmedQuota+1 || entries[0].GetDelivery().GetSequence() != 1 || entries[unconfirmedQuota].GetLost() == nil {
		t.Fatalf("%d entries of an unconfirmed group", len(entries))
	}
	q.confirm(group)
	d.deliver(w, newDelivery(group, 100, 10, to))
	if n := len(q.all()); n != unconfirmedQuota+2 {
		t.Errorf("%d entries after the group was confirmed", n)
	}
	for range unconfirmedGroups + 5 {
		d.deliver(w, newDelivery(newGroup(d.name), 1, 10, to))
	}
	entries = q.all()
	if n := len(entries); n != unconfirmedQuota+2+unconfirmedGroups {
		t.Errorf("%d entries with a full pool", n)
	}
	q.ack(entries[len(entries)-1].GetPosition())
	d.deliver(w, newDelivery(newGroup(d.name), 1, 10, to))
	if n := len(q.all()); n != 1 {
		t.Errorf("%d entries after the pool was emptied", n)
	}
}

// TestQuotaAcrossReplicas: a replica counts what another one wrote, after a while.
func TestQuotaAcrossReplicas(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	one, two, doc := d.direct(), d.direct(), r.document(d.name)
	q, group := r.newQueue(), newGroup(d.name)
	to := q.recipient(doc)
	d.deliver(one, newDelivery(group, 1, 10, to))
	d.deliver(two, newDelivery(group, 2, 10, to)) // begins with what is there
	for i := range uint64(unconfirmedQuota - 2) {
		d.deliver(two, newDelivery(group, i+3, 10, to))
	}
	d.clock.add(ledgerSync + time.Second)
	d.deliver(one, newDelivery(group, 50, 10, to))
	entries := q.all()
	if len(entries) != unconfirmedQuota+1 || entries[unconfirmedQuota].GetLost() == nil {
		t.Errorf("%d entries by two replicas", len(entries))
	}
}

// TestRepeatedDelivery: a delivery that is repeated is there once, by the same replica and by another, within the bus's window and
// without it, large or small.
func TestRepeatedDelivery(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	one, two, doc := d.direct(), d.direct(), r.document(d.name)
	q, group := r.newQueue(), newGroup(d.name)
	to := q.recipient(doc)
	for i, size := range []int{10, 50_000} {
		o := newDelivery(group, uint64(i+1), size, to)
		for _, w := range []*deliverer{one, one, two, one} {
			d.deliver(w, o)
		}
	}
	if n := len(q.all()); n != 2 {
		t.Errorf("%d entries, want 2", n)
	}
}

// TestQueueExpires: a queue that is not read for a hundred days is gone, for its owner and for deliveries, until its owner creates it again; one that is
// read now and then is not.
func TestQueueExpires(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	doc, fanout := r.document(d.name), d.bus.Bus("fanout")
	idle, kept, group := r.newQueue(), r.newQueue(), newGroup(d.name)
	kept.confirm(group)
	idle.confirm(group)
	d.clock.add(60 * 24 * time.Hour)
	kept.read(0)
	d.clock.add(60 * 24 * time.Hour)
	kept.read(0)
	_, err := idle.rpc.Read(t.Context(), &mimimiv1.ReadQueueRequest{QueueId: idle.id.Bytes(), Signed: idle.sign("read", position(0))})
	wantCode(t, "a queue that was not read for 120 days", err, connect.CodePermissionDenied)

	send(t, fanout, d.name, newDelivery(group, 1, 10, kept.recipient(doc), idle.recipient(doc)))
	kept.wait(1)
	if _, err := idle.rpc.Create(t.Context(), idle.creation()); err != nil {
		t.Fatalf("created again: %v", err)
	}
	if n := len(idle.all()); n != 0 {
		t.Errorf("the queue holds %d entries from when it was gone", n)
	}
	send(t, fanout, d.name, newDelivery(group, 2, 10, idle.recipient(doc)))
	idle.wait(1)
}
