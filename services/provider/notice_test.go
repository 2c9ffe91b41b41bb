package provider

import (
	"testing"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

// newNotice is a low-stock notice as the KeyPackage store sends it.
func newNotice(n uint64, to ...*mimimiv1.Recipient) *mimimiv1.OutboundDelivery {
	return &mimimiv1.OutboundDelivery{
		Id: digest("test notice", position(n)), Delivery: &mimimiv1.Delivery{Kind: mimimiv1.Delivery_KIND_LOW_STOCK, Recipients: to},
	}
}

// TestLowStockNotice: a notice reaches the queues of its recipients, with a hint, as an entry of its own; while one waits there is no other, also for a
// replica that did not write it.
func TestLowStockNotice(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	store, doc := d.bus.Bus("kpstore"), r.document(d.name)
	one, two := r.newQueue(), r.newQueue()
	hints := one.watch(t.Context(), 0)
	one.hint(hints) // the stream stands
	send(t, store, d.name, newNotice(1, one.recipient(doc), two.recipient(doc)))
	if !one.hint(hints) {
		t.Error("no hint")
	}
	var last uint64
	for _, q := range []*testQueue{one, two} {
		e := q.wait(1)[0]
		if !e.GetLowStock() || e.GetDelivery() != nil || e.GetLost() != nil {
			t.Error("the entry is no bare notice")
		}
		last = max(last, e.GetPosition())
	}
	here, there := d.direct(), d.direct()
	d.deliver(here, newNotice(1, one.recipient(doc))) // a repeat
	d.deliver(here, newNotice(2, one.recipient(doc)))
	d.deliver(there, newNotice(3, one.recipient(doc)))
	if n := len(one.all()); n != 1 {
		t.Errorf("%d notices wait, want 1", n)
	}
	one.ack(last)
	d.deliver(here, newNotice(4, one.recipient(doc)))
	if entries := one.all(); len(entries) != 1 || entries[0].GetPosition() <= last {
		t.Errorf("after the acknowledgement %d notices wait, want a new one", len(entries))
	}
}

// TestLowStockNoticeQuota: notices take no group's room, and groups none of theirs.
func TestLowStockNoticeQuota(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	w, doc := d.direct(), r.document(d.name)
	q := r.newQueue()
	for n := range uint64(unconfirmedGroups) {
		d.deliver(w, newDelivery(newGroup(d.name), n+1, 10, q.recipient(doc)))
	}
	d.deliver(w, newNotice(1, q.recipient(doc)))
	entries := q.all()
	if len(entries) != unconfirmedGroups+1 || !entries[unconfirmedGroups].GetLowStock() {
		t.Fatalf("%d entries wait, want the pool of unconfirmed groups full, and a notice", len(entries))
	}
	q = r.newQueue()
	d.deliver(w, newNotice(2, q.recipient(doc)))
	for n := range uint64(unconfirmedGroups) {
		d.deliver(w, newDelivery(newGroup(d.name), n+1, 10, q.recipient(doc)))
	}
	if n := len(q.all()); n != unconfirmedGroups+1 {
		t.Errorf("%d entries wait: the notice took a group's place", n)
	}
}

// TestBadNotices: what is more than a notice, what cannot be read, and what comes from elsewhere: none of it reaches a queue, and it holds nothing back.
func TestBadNotices(t *testing.T) {
	t.Parallel()
	a, b, ra, _ := pair(t)
	store, doc := a.bus.Bus("kpstore"), ra.document("a.example")
	q := ra.newQueue()
	to := q.recipient(doc)
	group := newGroup("a.example")
	bad := map[string]func(o *mimimiv1.OutboundDelivery){
		"a group":         func(o *mimimiv1.OutboundDelivery) { o.Delivery.GroupId = group },
		"a message":       func(o *mimimiv1.OutboundDelivery) { o.Delivery.Message = []byte("x") },
		"a place":         func(o *mimimiv1.OutboundDelivery) { o.Delivery.Sequence = 1 },
		"a time":          func(o *mimimiv1.OutboundDelivery) { o.Delivery.Accepted = 1 },
		"no id":           func(o *mimimiv1.OutboundDelivery) { o.Id = nil },
		"no recipients":   func(o *mimimiv1.OutboundDelivery) { o.Delivery.Recipients = nil },
		"many recipients": func(o *mimimiv1.OutboundDelivery) { o.Delivery.Recipients = make([]*mimimiv1.Recipient, 17) },
	}
	for _, change := range bad {
		o := newNotice(1, to)
		change(o)
		for i, r := range o.Delivery.Recipients {
			if r == nil {
				o.Delivery.Recipients[i] = to
			}
		}
		send(t, store, "a.example", o)
	}
	if _, err := ra.federationClient(b.federationPair()).Notify(t.Context(), &mimimiv1.NotifyRequest{
		Deliveries: []*mimimiv1.OutboundDelivery{newNotice(2, to)},
	}); err == nil {
		t.Error("another domain's notice was taken")
	}
	lost := q.recipient(doc)
	lost.ClientPseudonym = must(mimimi.NewClientPseudonym("a.example")).Wire()
	nobody := &mimimiv1.Recipient{ClientPseudonym: "garbage", EncryptedQueueId: []byte("garbage")}
	send(t, store, "a.example", newNotice(3, lost, nobody, to))
	if e := q.wait(1)[0]; !e.GetLowStock() {
		t.Error("another entry than the good notice")
	}
	if n, err := a.bus.Bus("admin").Count(t.Context(), a.bus.Bus("provider").Dead()); err != nil || n != len(bad) {
		t.Errorf("DEAD holds %d entries, want %d: %v", n, len(bad), err)
	}
}
