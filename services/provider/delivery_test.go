package provider

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/mimimi"
)

// sequences are the group positions of a queue's entries.
func sequences(entries []*mimimiv1.QueueEntry) (s []uint64) {
	for _, e := range entries {
		s = append(s, e.GetDelivery().GetSequence())
	}
	return s
}

// TestPeerDown: while one peer is down, the own domain's and another peer's deliveries go on; when it is back, nothing is missing and
// nothing is there twice. The sender is stopped in the middle and started again.
func TestPeerDown(t *testing.T) {
	t.Parallel()
	a, b, ra, rb := pair(t)
	c := newDomain(t, "c.example")
	rc := c.start()
	a.meet(c, rc.federation)
	c.meet(a, ra.federation)
	ra.waitFor("c.example")
	rc.waitFor("a.example")
	fanout, group := a.bus.Bus("fanout"), newGroup("a.example")
	qa, qb, qc := ra.newQueue(), rb.newQueue(), rc.newQueue()
	for _, q := range []*testQueue{qa, qb, qc} {
		q.confirm(group)
	}
	toA, toB, toC := qa.recipient(ra.document("a.example")), qb.recipient(rb.document("b.example")), qc.recipient(rc.document("c.example"))
	all := func(from, to uint64) (want []uint64) {
		for n := from; n <= to; n++ {
			size := 10 + int(n%3)*inlineBody
			send(t, fanout, "a.example", newDelivery(group, n, size, toA))
			send(t, fanout, "b.example", newDelivery(group, n, size, toB))
			send(t, fanout, "c.example", newDelivery(group, n, size, toC))
			want = append(want, n)
		}
		return want
	}
	want := all(1, 5)
	qb.wait(5)
	rb.stop()
	want = append(want, all(6, 20)...)
	if got := sequences(qc.wait(20)); !slices.Equal(got, want) {
		t.Errorf("the other peer got %v", got)
	}
	if got := sequences(qa.wait(20)); !slices.Equal(got, want) {
		t.Errorf("the own domain got %v", got)
	}
	ra.stop() // with b's deliveries under way
	rb = b.start()
	a.meet(b, rb.federation)
	ra = a.start()
	qa.rpc, qb.rpc = ra.queues(), rb.queues()
	if got := sequences(qb.wait(20)); !slices.Equal(got, want) {
		t.Errorf("the peer that was down got %v", got)
	}
	want = append(want, all(21, 22)...)
	for _, q := range []*testQueue{qa, qb, qc} {
		if got := sequences(q.wait(22)); !slices.Equal(got, want) {
			t.Errorf("in the end a queue holds %v", got)
		}
	}
}

// TestTwoReplicasDeliver: two replicas share the outbox; one goes away in the middle.
func TestTwoReplicasDeliver(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	one, two := d.start(), d.start()
	fanout, group := d.bus.Bus("fanout"), newGroup("a.example")
	q := two.newQueue()
	q.confirm(group)
	to := q.recipient(one.document("a.example"))
	var want []uint64
	for n := range uint64(60) {
		send(t, fanout, "a.example", newDelivery(group, n+1, 10, to))
		want = append(want, n+1)
		if n == 20 {
			one.stop()
		}
	}
	if got := sequences(q.wait(60)); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

// TestBadOutboxEntries: what can never be delivered goes to DEAD and holds nothing back.
func TestBadOutboxEntries(t *testing.T) {
	t.Parallel()
	a, _, ra, rb := pair(t)
	fanout, group := a.bus.Bus("fanout"), newGroup("a.example")
	qa, qb := ra.newQueue(), rb.newQueue()
	toA, toB := qa.recipient(ra.document("a.example")), qb.recipient(rb.document("b.example"))
	publish := func(domain string, data []byte) {
		if _, err := fanout.Publish(t.Context(), fanout.Outbox(domain), data, bus.PublishOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, domain := range []string{"a.example", "b.example"} {
		publish(domain, []byte("garbage"))
		publish(domain, nil)
		send(t, fanout, domain, newDelivery(newGroup("c.example"), 1, 10, toA, toB)) // not our hub's
		send(t, fanout, domain, &mimimiv1.OutboundDelivery{})
	}
	send(t, fanout, "a.example", newDelivery(group, 1, 10, toA))
	send(t, fanout, "b.example", newDelivery(group, 1, 10, toB))
	qa.wait(1)
	qb.wait(1)
	admin := a.bus.Bus("admin")
	provider := a.bus.Bus("provider")
	if n, err := admin.Count(t.Context(), provider.Dead()); err != nil || n != 8 {
		t.Errorf("DEAD holds %d entries, want 8: %v", n, err)
	}
}

// TestLostBody: a body that is gone is a loss that is said, and the rest of the queue can be read.
func TestLostBody(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	w, q, group := d.direct(), r.newQueue(), newGroup("a.example")
	to := q.recipient(r.document("a.example"))
	large := newDelivery(group, 1, 3*inlineBody, to)
	d.deliver(w, large)
	d.deliver(w, newDelivery(group, 2, 10, to))
	item := must(w.body(t.Context(), large.GetDelivery()))
	if err := d.bus.Bus("admin").Purge(t.Context(), r.bus.Body(item.GetBodyHash()), 0); err != nil {
		t.Fatal(err)
	}
	entries := q.all()
	if len(entries) != 2 || entries[0].GetLost() == nil || string(entries[0].GetLost().GetGroupId()) != string(group) || entries[1].GetDelivery() == nil {
		t.Errorf("%d entries, the first: %v", len(entries), entries[0].GetLost() != nil)
	}
}

// TestLargeBodies: an answer of Read stays below the bound of messages, however large the bodies are.
func TestLargeBodies(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	w, q, group := d.direct(), r.newQueue(), newGroup("a.example")
	q.confirm(group)
	to := q.recipient(r.document("a.example"))
	for n := range uint64(5) {
		d.deliver(w, newDelivery(group, n+1, 3<<20, to))
	}
	if got := sequences(q.all()); !slices.Equal(got, []uint64{1, 2, 3, 4, 5}) {
		t.Errorf("got %v", got)
	}
	if n := len(q.read(0).GetEntries()); n > 2 {
		t.Errorf("one answer holds %d entries of 3 MiB", n)
	}
}

// TestManyRecipients: one delivery to a large group's members of one domain.
func TestManyRecipients(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	w, group, doc := d.direct(), newGroup("a.example"), r.document("a.example")
	var queues []*testQueue
	var to []*mimimiv1.Recipient
	for range 60 {
		q := r.newQueue()
		queues, to = append(queues, q), append(to, q.recipient(doc))
	}
	d.deliver(w, newDelivery(group, 1, 2*inlineBody, to...))
	var missing atomic.Int32
	var all sync.WaitGroup
	for _, q := range queues {
		all.Go(func() {
			if len(q.all()) != 1 {
				missing.Add(1)
			}
		})
	}
	all.Wait()
	if n := missing.Load(); n > 0 {
		t.Errorf("%d queues do not hold it", n)
	}
}

// TestOnCluster goes through registration, inbox and queues on three nodes, where conflicts have other codes and reads may lag.
func TestOnCluster(t *testing.T) {
	t.Parallel()
	d := newDomainOn(t, "a.example", bustest.StartCluster(t))
	one, two := d.start(), d.start()
	alice := one.register("alice")
	if _, err := two.accounts().Register(t.Context(), newPerson(d.name, "alice").registration(d.clock.Now())); err == nil {
		t.Error("the name was given twice")
	}
	if _, err := two.accounts().Register(t.Context(), alice.registration(d.clock.Now())); err != nil {
		t.Errorf("a repeat at another replica: %v", err)
	}
	id, sealed := randomID(), randomRequest()
	for _, r := range []*replica{one, two} {
		if _, err := r.inbox(d.name).Deposit(t.Context(), &mimimiv1.DepositRequest{Token: d.token(mimimi.TokenConnect, d.name, id[:]), RequestId: id[:], User: alice.user.Wire(), SealedRequest: sealed}); err != nil {
			t.Errorf("Deposit: %v", err)
		}
	}
	inbox := one.bus.Inbox(alice.user.Wire())
	if n := must(one.bus.Count(t.Context(), inbox)); n != 1 {
		t.Errorf("the inbox holds %d requests", n)
	}

	fanout, group, other := d.bus.Bus("fanout"), newGroup(d.name), newGroup(d.name)
	q := two.newQueue()
	to := q.recipient(one.document(d.name))
	q.confirm(group)
	var want []uint64
	for n := range uint64(20) {
		send(t, fanout, d.name, newDelivery(group, n+1, int(n%2)*2*inlineBody+1, to))
		want = append(want, n+1)
	}
	entries := q.wait(20)
	if got := sequences(entries); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	q.ack(entries[19].GetPosition())
	if n := must(one.bus.Count(t.Context(), one.bus.Queue(q.id.Bytes()))); n != 0 {
		t.Errorf("%d entries are left after all were acknowledged", n)
	}
	pool := one.newQueue()
	to = pool.recipient(one.document(d.name))
	for n := range uint64(unconfirmedQuota + 2) {
		send(t, fanout, d.name, newDelivery(other, n+1, 1, to))
	}
	if e := pool.wait(unconfirmedQuota + 1); e[unconfirmedQuota].GetLost() == nil {
		t.Error("the last entry of the pool is no notice")
	}
}
