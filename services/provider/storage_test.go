package provider

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
	"mimimi.example/pkg/service"
)

// TestNobodysBody: a body that no queue takes is not stored, so that a sender without recipients cannot fill the storage of everybody.
func TestNobodysBody(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	w, q, group, doc := d.direct(), r.newQueue(), newGroup("a.example"), r.document("a.example")
	absent := &testQueue{t: t, id: mimimi.NewQueueID()}
	to := q.recipient(doc)
	for n := range uint64(unconfirmedQuota + 1) { // the pool is full, and the owner knows
		d.deliver(w, newDelivery(group, n+1, 10, to))
	}
	large := newDelivery(group, 50, 3*inlineBody, newStrangeRecipient("a.example"), absent.recipient(doc), to)
	d.deliver(w, large)
	item, _, err := common(large.GetDelivery())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.bus.Last(t.Context(), w.bus.Body(item.GetBodyHash())); !isKind(err, problem.NotFound) {
		t.Errorf("the body: %v, want that there is none", err)
	}
}

// TestStorageFull: an entry whose body finds no room is a loss that is said once; nothing is retried, and what comes after it is delivered.
func TestStorageFull(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	w, q, group := d.direct(), r.newQueue(), newGroup("a.example")
	q.confirm(group)
	to := q.recipient(r.document("a.example"))
	full := problem.New(problem.Limited, "full")
	write := func(body error, id byte) {
		t.Helper()
		item := &mimimiv1.QueueItem{GroupId: group, BodyHash: digest(labelBody, []byte{id}), Recipient: to, Id: digest(labelDelivery, []byte{id})[:16]}
		if err := w.queues.write(t.Context(), q.id, item, func() error { return body }); err != nil {
			t.Errorf("write: %v", err)
		}
	}
	write(full, 1)
	write(full, 2)
	d.deliver(w, newDelivery(group, 3, 10, to))
	entries := q.all()
	if len(entries) != 2 || string(entries[0].GetLost().GetGroupId()) != string(group) || entries[1].GetDelivery().GetSequence() != 3 {
		t.Fatalf("%d entries, want one notice and the delivery", len(entries))
	}
	item := &mimimiv1.QueueItem{GroupId: group, BodyHash: []byte{1}, Id: digest(labelDelivery)[:16]}
	down := problem.New(problem.Unavailable, "down")
	if err := w.queues.write(t.Context(), q.id, item, func() error { return down }); !errors.Is(err, down) {
		t.Errorf("a bus that is down: %v, want that it is tried again", err)
	}
}

// TestDamagedQueue: one recipient's unreadable record, or unreadable entry, holds back nobody.
func TestDamagedQueue(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	w, group, doc := d.direct(), newGroup("a.example"), r.document("a.example")
	noRecord, noEntry, good := r.newQueue(), r.newQueue(), r.newQueue()
	to := []*mimimiv1.Recipient{noRecord.recipient(doc), noEntry.recipient(doc), good.recipient(doc)}
	garbage := []byte{0xff, 0xff}
	last := must(r.bus.Last(t.Context(), r.bus.QueueMeta(noRecord.id.Bytes()))).Sequence
	if _, err := r.bus.Publish(t.Context(), r.bus.QueueMeta(noRecord.id.Bytes()), garbage, bus.PublishOptions{ExpectLast: &last}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.bus.Publish(t.Context(), r.bus.Queue(noEntry.id.Bytes()), garbage, bus.PublishOptions{}); err != nil {
		t.Fatal(err)
	}
	d.deliver(w, newDelivery(group, 1, 10, to...))
	if got := sequences(good.all()); len(got) != 1 || got[0] != 1 {
		t.Errorf("the good queue holds %v", got)
	}
	entries := noEntry.all()
	if len(entries) != 2 || entries[0].GetLost() == nil || entries[0].GetPosition() == 0 || entries[1].GetDelivery().GetSequence() != 1 {
		t.Errorf("the queue with garbage has %d entries, want a loss and the delivery", len(entries))
	}
}

// TestRecipientPanics: a panic is an internal error of the delivery, and does not end the process.
func TestRecipientPanics(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	w := d.direct()
	w.queues = nil // whoever uses it panics
	w.log = slog.New(slog.DiscardHandler)
	o := newDelivery(newGroup("a.example"), 1, 10, r.newQueue().recipient(r.document("a.example")))
	if err := w.deliver(t.Context(), "a.example", o); !errors.Is(err, errPanicked) {
		t.Errorf("deliver: %v", err)
	}
}

// TestNotifyProblem: a peer that fails at a delivery is not the same as one that cannot be reached.
func TestNotifyProblem(t *testing.T) {
	t.Parallel()
	a, _, _, rb := pair(t)
	_, err := rb.federationClient(a.federationPair()).Notify(t.Context(), &mimimiv1.NotifyRequest{})
	if got := notifyProblem(err); !isKind(got, problem.Invalid) {
		t.Errorf("a refusal: %v", got)
	}
	for _, c := range []struct {
		err  error
		want problem.Kind
	}{
		{connect.NewError(connect.CodeInternal, errors.New("a stream that broke")), problem.Unavailable}, // not the peer's words
		{connect.NewWireError(connect.CodeInternal, errors.New("x")), problem.Internal},
		{connect.NewWireError(connect.CodeUnavailable, errors.New("x")), problem.Unavailable},
		{connect.NewWireError(connect.CodePermissionDenied, errors.New("x")), problem.Unavailable},
		{connect.NewWireError(connect.CodeResourceExhausted, errors.New("x")), problem.Limited},
	} {
		if got := notifyProblem(c.err); !isKind(got, c.want) {
			t.Errorf("%v: kind %v, want %v", c.err, problem.KindOf(got), c.want)
		}
	}
}

// TestSlotsAreApart: one domain's requests do not use up another's slots, nor the own domain's.
func TestSlotsAreApart(t *testing.T) {
	t.Parallel()
	s := newDomainSlots(2)
	for range 2 {
		if err := s.enter("b.example"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.enter("b.example"); !errors.Is(err, errBusy) {
		t.Errorf("a third: %v", err)
	}
	if err := s.enter("c.example"); err != nil {
		t.Errorf("another domain: %v", err)
	}
	s.leave("b.example")
	if err := s.enter("b.example"); err != nil {
		t.Errorf("after one left: %v", err)
	}
	for range 2 {
		s.leave("b.example")
	}
	s.leave("c.example")
	if len(s.busy) != 0 {
		t.Errorf("%d domains are kept without a request", len(s.busy))
	}
}

// TestSilentPeer: a peer that takes connections and says nothing is busy at its bound, while other domains are asked as before.
func TestSilentPeer(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	p := &peers{domain: "a.example", anyDomain: nil, byDomain: make(map[string]*peer)}
	for _, domain := range []string{"b.example", "c.example"} {
		p.byDomain[domain] = must(p.dial(domain, "https://"+silent.Addr().String(), nil))
	}
	defer p.close()
	r := &relaySide{domain: "a.example", peers: p, slots: newSlots(1), away: newDomainSlots(1), m: must(newMetrics(nil))}
	ctx, cancel := context.WithCancel(t.Context())
	ask := func(domain string) error {
		_, err := r.relay(ctx, &mimimiv1.RelayRequest{Domain: domain, Service: "hub", EncapsulatedRequest: []byte("x")})
		return err
	}
	done := make(chan error, 2)
	for _, domain := range []string{"b.example", "c.example"} { // the second one would not get a slot of the first
		go func() { done <- ask(domain) }()
		must(silent.Accept())
	}
	if err := ask("b.example"); !errors.Is(err, errBusy) {
		t.Errorf("one more: %v", err)
	}
	if err := r.slots.enter(); err != nil {
		t.Errorf("the own domain: %v", err)
	}
	cancel()
	for range 2 {
		if err := <-done; !isKind(err, problem.Unavailable) {
			t.Errorf("the silent peer: %v", err)
		}
	}
}

// TestPeerTransport: a connection that is dead without a word is found by pings.
func TestPeerTransport(t *testing.T) {
	t.Parallel()
	q := must((&peers{domain: "a.example"}).dial("b.example", "https://127.0.0.1:1", nil))
	h := q.http.Transport.(*http.Transport).HTTP2
	if h == nil || h.SendPingTimeout != pingAfter || h.PingTimeout != pingTimeout {
		t.Errorf("HTTP/2 settings: %+v", h)
	}
}

// TestPeersBeforeListeners: a replica that starts knows the peers of its folder when it is asked first.
func TestPeersBeforeListeners(t *testing.T) {
	t.Parallel()
	a, b := newDomain(t, "a.example"), newDomain(t, "b.example")
	rb := b.start()
	a.meet(b, rb.federation)
	var code atomic.Uint32
	cfg := *a.cfg
	ctx, cancel := context.WithCancel(t.Context())
	cfg.OnListen = func(_, _, federation string) {
		// The handshake waits until the listener serves; only a domain whose file has been read passes it.
		go func() {
			defer cancel()
			dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: &tls.Config{RootCAs: a.ca.pool(), ServerName: "federation.a.example", Certificates: []tls.Certificate{b.federationPair()}}}
			c, err := dialer.DialContext(t.Context(), "tcp", federation)
			if err != nil {
				return
			}
			defer c.Close()
			// In TLS 1.3 a refused client certificate is told with the first read.
			if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: federation.a.example\r\n\r\n")); err != nil {
				return
			}
			if _, err := c.Read(make([]byte, 1)); err == nil {
				code.Store(1)
			}
		}()
	}
	env := &service.Env{Bus: a.bus.Bus("provider"), Log: slog.New(slog.DiscardHandler), Now: a.clock.Now}
	if err := Run(ctx, &cfg, env); err != nil {
		t.Fatal(err)
	}
	if code.Load() != 1 {
		t.Error("the peer's certificate was not accepted")
	}
}
