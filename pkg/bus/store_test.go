package bus_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/problem"
)

// TestStore is the behaviour that services rely on, on one cluster for all of it.
func TestStore(t *testing.T) {
	both(t, func(t *testing.T, d *bustest.Domain) {
		b := d.Bus("hub")
		for _, c := range []struct {
			name string
			f    func(t *testing.T, d *bustest.Domain, b *bus.Bus)
		}{
			{"compare and swap", compareAndSwap}, {"one winner", oneWinner}, {"last and at", lastAndAt}, {"read pages", readPages}, {"read many", readMany},
			{"large messages", largeMessages}, {"remove once", removeOnce}, {"purge", purge}, {"purges are joined", purgesJoined}, {"full subject", fullSubject},
			{"message id", messageID}, {"time to live", timeToLive}, {"headers", headers}, {"unknown outcome", unknownOutcome},
			{"hints", hints}, {"calls", calls}, {"verify", verifies},
		} {
			t.Run(c.name, func(t *testing.T) { c.f(t, d, b) })
		}
	})
}

func compareAndSwap(t *testing.T, _ *bustest.Domain, b *bus.Bus) {
	s := b.GroupHandshakes([]byte("cas"))
	first, err := b.Publish(t.Context(), s, []byte("1"), bus.PublishOptions{ExpectLast: ptr(uint64(0))})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Publish(t.Context(), s, []byte("again"), bus.PublishOptions{ExpectLast: ptr(uint64(0))})
	wantKind(t, err, problem.Stale)
	publish(t, b, b.GroupMessages([]byte("cas")), "does not move the handshakes' last")
	second, err := b.Publish(t.Context(), s, []byte("2"), bus.PublishOptions{ExpectLast: &first})
	if err != nil || second <= first {
		t.Fatal(second, err)
	}
	_, err = b.Publish(t.Context(), s, []byte("late"), bus.PublishOptions{ExpectLast: &first})
	wantKind(t, err, problem.Stale)
}

// oneWinner: of many who write after the same entry one succeeds, and every other one is told Stale, whatever code its server used.
func oneWinner(t *testing.T, d *bustest.Domain, b *bus.Bus) {
	other := d.Bus("hub")
	last := uint64(0)
	for round := range 5 {
		var won atomic.Int32
		var wg sync.WaitGroup
		var seq atomic.Uint64
		for i := range 16 {
			c := []*bus.Bus{b, other}[i%2]
			wg.Go(func() {
				n, err := c.Publish(t.Context(), c.GroupHandshakes([]byte("race")), fmt.Append(nil, round, i), bus.PublishOptions{ExpectLast: &last})
				if err == nil {
					won.Add(1)
					seq.Store(n)
				} else {
					wantKind(t, err, problem.Stale)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d winners", won.Load())
		}
		last = seq.Load()
	}
	if n, err := b.Count(t.Context(), b.GroupLog([]byte("race"))); err != nil || n != 5 {
		t.Errorf("%d entries, %v", n, err)
	}
}

func lastAndAt(t *testing.T, _ *bustest.Domain, b *bus.Bus) {
	g := []byte("last")
	_, err := b.Last(t.Context(), b.GroupHandshakes(g))
	wantKind(t, err, problem.NotFound)
	seqs := []uint64{publish(t, b, b.GroupHandshakes(g), "c1"), publish(t, b, b.GroupMessages(g), "m1"), publish(t, b, b.GroupHandshakes(g), "c2"), publish(t, b, b.GroupMessages(g), "m2")}
	for s, want := range map[bus.Subject]string{b.GroupHandshakes(g): "c2", b.GroupMessages(g): "m2", b.GroupLog(g): "m2"} {
		m, err := b.Last(t.Context(), s)
		if err != nil || string(m.Data) != want || time.Since(m.Time) > time.Minute || m.Subject == "" {
			t.Errorf("%+v %v, want %s", m, err, want)
		}
	}
	m, err := b.At(t.Context(), b.GroupHandshakes(g), seqs[0])
	if err != nil || string(m.Data) != "c1" || m.Sequence != seqs[0] {
		t.Errorf("%+v %v", m, err)
	}
	for _, seq := range []uint64{0, seqs[1], seqs[3] + 1000} {
		_, err = b.At(t.Context(), b.GroupHandshakes(g), seq)
		wantKind(t, err, problem.NotFound)
	}
}

// readAll reads a family page by page; it tolerates a replica that lags by reading on until n messages are there.
func readAll(t *testing.T, b *bus.Bus, s bus.Subject, n, limit, maxBytes int) (all []*bus.Message, pages int) {
	t.Helper()
	after := uint64(0)
	ok := eventually(t, time.Minute, func() bool {
		msgs, more, err := b.Read(t.Context(), s, after, limit, maxBytes)
		if err != nil {
			t.Fatal(err)
		}
		if len(msgs) > limit {
			t.Fatalf("%d messages, limit %d", len(msgs), limit)
		}
		pages++
		if len(msgs) > 0 {
			all, after = append(all, msgs...), msgs[len(msgs)-1].Sequence
		}
		return !more && len(all) >= n
	})
	if !ok {
		t.Fatalf("%d of %d messages", len(all), n)
	}
	return all, pages
}

func readPages(t *testing.T, _ *bustest.Domain, b *bus.Bus) {
	g := []byte("pages")
	if msgs, more, err := b.Read(t.Context(), b.GroupLog(g), 0, 10, 1000); err != nil || more || len(msgs) != 0 {
		t.Fatalf("an empty log: %v %v %v", msgs, more, err)
	}
	var want []string
	for i := range 25 {
		s := b.GroupHandshakes(g)
		if i%3 == 0 {
			s = b.GroupMessages(g)
		}
		want = append(want, fmt.Sprintf("%03d", i))
		publish(t, b, s, want[i])
		publish(t, b, b.GroupMessages([]byte("another")), "not ours")
	}
	for _, c := range []struct{ limit, bytes int }{{1, 1 << 20}, {7, 1 << 20}, {25, 1 << 20}, {100, 1 << 20}, {100, 1}, {100, 150}} {
		all, pages := readAll(t, b, b.GroupLog(g), 25, c.limit, c.bytes)
		var got []string
		for i, m := range all {
			got = append(got, string(m.Data))
			if i > 0 && m.Sequence <= all[i-1].Sequence {
				t.Error("out of order")
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("limit %d, %d bytes: %v", c.limit, c.bytes, got)
		}
		if c.bytes == 1 && pages < 25 {
			t.Errorf("%d pages of one message", pages)
		}
	}
	if msgs, _, err := b.Read(t.Context(), b.GroupMessages(g), 0, 100, 1<<20); err != nil || len(msgs) > 9 {
		t.Errorf("one subject: %d messages, %v", len(msgs), err)
	}
	_, _, err := b.Read(t.Context(), b.GroupLog(g), 0, 0, 1)
	wantKind(t, err, problem.Internal)
}

// readMany reads more than five thousand messages in one call: many batches, each to its end marker.
func readMany(t *testing.T, _ *bustest.Domain, b *bus.Bus) {
	const n = 5500
	q := b.Queue([]byte("many"))
	var wg sync.WaitGroup
	next := make(chan int)
	for range 64 {
		wg.Go(func() {
			for i := range next {
				if _, err := b.Publish(t.Context(), q, fmt.Append(nil, i), bus.PublishOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	all, _ := readAll(t, b, q, n, n, 1<<30)
	seen := make(map[string]bool)
	for i, m := range all {
		seen[string(m.Data)] = true
		if i > 0 && m.Sequence <= all[i-1].Sequence {
			t.Fatal("out of order")
		}
	}
	if len(seen) != n || len(all) != n {
		t.Errorf("%d messages, %d distinct, want %d", len(all), len(seen), n)
	}
	if c, err := b.Count(t.Context(), q); err != nil || c != n {
		t.Errorf("count %d, %v", c, err)
	}
}

func largeMessages(t *testing.T, _ *bustest.Domain, b *bus.Bus) {
	g := []byte("large")
	s := b.GroupHandshakes(g)
	big := bytes.Repeat([]byte("0123456789abcdef"), (bus.MaxPayload-1024)/16)
	for range 3 {
		if _, err := b.Publish(t.Context(), s, big, bus.PublishOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	m, err := b.Last(t.Context(), s)
	if err != nil || !bytes.Equal(m.Data, big) {
		t.Fatalf("last: %v", err)
	}
	all, _ := readAll(t, b, s, 3, 10, 1<<30)
	if !bytes.Equal(all[2].Data, big) {
		t.Error("the third one differs")
	}
	_, err = b.Publish(t.Context(), s, make([]byte, bus.MaxPayload+1), bus.PublishOptions{})
	wantKind(t, err, problem.Invalid)
	_, err = b.Publish(t.Context(), b.Spent(1, []byte("x")), make([]byte, 100<<10), bus.PublishOptions{})
	wantKind(t, err, problem.Invalid)
	_, err = b.Publish(t.Context(), b.GroupLog(g), nil, bus.PublishOptions{})
	wantKind(t, err, problem.Internal)
}

func removeOnce(t *testing.T, d *bustest.Domain, b *bus.Bus) {
	other := d.Bus("kpstore")
	owner := []byte("owner")
	for i := range 5 {
		s := b.KeyPackageSet(owner, fmt.Append(nil, i))
		seq := publish(t, b, s, "set")
		var won atomic.Int32
		var wg sync.WaitGroup
		for j := range 8 {
			c := []*bus.Bus{b, other}[j%2]
			wg.Go(func() {
				ok, err := c.Remove(t.Context(), s, seq)
				if err != nil {
					t.Errorf("remove: %v", err)
				}
				if ok {
					won.Add(1)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("%d removed it", won.Load())
		}
		if ok, err := b.Remove(t.Context(), s, seq+1000); ok || err != nil {
			t.Errorf("a sequence that never was: %v %v", ok, err)
		}
	}
	if n, err := b.Count(t.Context(), b.KeyPackageSets(owner)); err != nil || n != 0 {
		t.Errorf("%d left, %v", n, err)
	}
	// The log keeps everything.
	seq := publish(t, b, b.GroupHandshakes([]byte("kept")), "x")
	if ok, err := b.Remove(t.Context(), b.GroupHandshakes([]byte("kept")), seq); ok || err == nil {
		t.Error("an entry of the log was removed")
	}
	if err := b.Purge(t.Context(), b.GroupHandshakes([]byte("kept")), 0); err == nil {
		t.Error("the log was purged")
	}
}

func purge(t *testing.T, _ *bustest.Domain, b *bus.Bus) {
	q, other := b.Queue([]byte("purged")), b.Queue([]byte("not purged"))
	var seqs []uint64
	for range 6 {
		seqs = append(seqs, publish(t, b, q, "x"))
		publish(t, b, other, "y")
	}
	count := func(s bus.Subject, want int) {
		t.Helper()
		if n, err := b.Count(t.Context(), s); err != nil || n != want {
			t.Errorf("%d messages, want %d; %v", n, want, err)
		}
	}
	for _, step := range []struct {
		upTo uint64
		left int
	}{{seqs[2], 3}, {seqs[2], 3}, {seqs[1], 3}, {seqs[3], 2}, {0, 0}} {
		if err := b.Purge(t.Context(), q, step.upTo); err != nil {
			t.Fatal(err)
		}
		count(q, step.left)
	}
	count(other, 6)
}

// purgesJoined: a hundred purges at once reach the server as a few, and each one's messages are gone when it returns.
func purgesJoined(t *testing.T, d *bustest.Domain, b *bus.Bus) {
	q := b.Queue([]byte("joined"))
	var seqs []uint64
	for range 100 {
		seqs = append(seqs, publish(t, b, q, "x"))
	}
	var requests atomic.Int32
	sub, err := d.Bus("admin").Conn().Subscribe("$JS.API.STREAM.PURGE."+q.Stream(), func(*nats.Msg) { requests.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	var wg sync.WaitGroup
	for _, seq := range seqs {
		wg.Go(func() {
			if err := b.Purge(t.Context(), q, seq); err != nil {
				t.Error(err)
			}
			if _, err := b.At(t.Context(), q, seq); problem.KindOf(err) != problem.NotFound {
				t.Errorf("still there: %v", err)
			}
		})
	}
	wg.Wait()
	if n, err := b.Count(t.Context(), q); err != nil || n != 0 {
		t.Errorf("%d left, %v", n, err)
	}
	if n := requests.Load(); n > 50 {
		t.Errorf("%d purges reached the server", n)
	}
}

func fullSubject(t *testing.T, _ *bustest.Domain, b *bus.Bus) {
	s := b.Inbox("mimi://a.example/u/full")
	for range 256 {
		publish(t, b, s, "request")
	}
	_, err := b.Publish(t.Context(), s, []byte("one more"), bus.PublishOptions{})
	wantKind(t, err, problem.Limited)
	publish(t, b, b.Inbox("mimi://a.example/u/other"), "request")
	// A create-only key refuses with or without the condition.
	spent := b.Spent(3, []byte("nonce"))
	publish(t, b, spent, "request id")
	_, err = b.Publish(t.Context(), spent, []byte("another"), bus.PublishOptions{})
	wantKind(t, err, problem.Limited)
	_, err = b.Publish(t.Context(), spent, []byte("another"), bus.PublishOptions{ExpectLast: ptr(uint64(0))})
	wantKind(t, err, problem.Stale)
}

func messageID(t *testing.T, _ *bustest.Domain, b *bus.Bus) {
	s := b.Outbox("ids.example")
	o := bus.PublishOptions{ID: "derived"}
	first, err := b.Publish(t.Context(), s, []byte("x"), o)
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.Publish(t.Context(), s, []byte("x"), o)
	if err != nil || second != first {
		t.Errorf("stored again as %d, first %d; %v", second, first, err)
	}
}

func timeToLive(t *testing.T, _ *bustest.Domain, b *bus.Bus) {
	s := b.Spent(1, []byte("short"))
	if _, err := b.Publish(t.Context(), s, []byte("x"), bus.PublishOptions{ExpectLast: ptr(uint64(0)), TTL: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if !eventually(t, 20*time.Second, func() bool { n, err := b.Count(t.Context(), s); return err == nil && n == 0 }) {
		t.Error("it lives on")
	}
}

// headers: nothing but our own Nats- headers is ever stored, whatever the context holds.
func headers(t *testing.T, _ *bustest.Domain, b *bus.Bus) {
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled}))
	s := b.KeyPackageClaim([]byte("headers"))
	for _, o := range []bus.PublishOptions{{}, {ID: "id"}, {ExpectLast: ptr(uint64(0)), TTL: time.Hour, ID: "other"}} {
		if err := b.Purge(ctx, s, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Publish(ctx, s, []byte("x"), o); err != nil {
			t.Fatal(err)
		}
		stream, err := b.JS().Stream(ctx, s.Stream())
		if err != nil {
			t.Fatal(err)
		}
		m, err := b.Last(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		if !eventually(t, 10*time.Second, func() bool { // a direct get, which may lag
			raw, err := stream.GetMsg(ctx, m.Sequence)
			if err != nil {
				return false
			}
			for name := range raw.Header {
				if !slices.Contains([]string{"Nats-Msg-Id", "Nats-Expected-Last-Subject-Sequence", "Nats-TTL", "Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp"}, name) {
					t.Errorf("header %q is stored", name)
				}
			}
			return true
		}) {
			t.Error("the message cannot be read")
		}
	}
}

func unknownOutcome(t *testing.T, _ *bustest.Domain, b *bus.Bus) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.Publish(ctx, b.Outbox("x"), []byte("x"), bus.PublishOptions{})
	wantKind(t, err, problem.Unavailable)
	_, err = b.Last(ctx, b.Outbox("x"))
	wantKind(t, err, problem.Unavailable)
	_, _, err = b.Read(ctx, b.Outbox("x"), 0, 1, 1)
	wantKind(t, err, problem.Unavailable)
	_, err = b.Remove(ctx, b.Outbox("x"), 1)
	wantKind(t, err, problem.Unavailable)
}

func hints(t *testing.T, d *bustest.Domain, b *bus.Bus) {
	watcher := d.Bus("provider")
	got := make(chan string, 200)
	stopQueue, err := watcher.Watch(watcher.Queue([]byte("q")), func() { got <- "queue" })
	if err != nil {
		t.Fatal(err)
	}
	stopAll, err := watcher.WatchAll("group", func(s string) { got <- s })
	if err != nil {
		t.Fatal(err)
	}
	defer stopAll()
	// A hint may be lost, and is while a cluster's servers still learn of a new subscription: send is called until something comes.
	expect := func(want string, send func()) {
		t.Helper()
		for range 100 {
			send()
			select {
			case s := <-got:
				if s != want {
					t.Errorf("got %q, want %q", s, want)
				}
				// What was sent more than once came more than once.
				for {
					select {
					case again := <-got:
						if again != want {
							t.Errorf("got %q, want %q", again, want)
						}
						continue
					case <-time.After(200 * time.Millisecond):
					}
					return
				}
			case <-time.After(200 * time.Millisecond):
			}
		}
		t.Fatalf("no hint, want %q", want)
	}
	expect("queue", func() {
		b.Hint(b.Queue([]byte("other")))
		b.Hint(b.Queue([]byte("q")))
	})
	expect(b.GroupHandshakes([]byte("g")).Name(), func() { b.Hint(b.GroupHandshakes([]byte("g"))) })
	stopQueue()
	expect(b.GroupMessages([]byte("g")).Name(), func() {
		b.Hint(b.Queue([]byte("q")))
		b.Hint(b.GroupMessages([]byte("g")))
	})
	defer func() {
		if recover() == nil {
			t.Error("a hint of a family went out")
		}
	}()
	b.Hint(b.GroupLog([]byte("g")))
}

func calls(t *testing.T, d *bustest.Domain, b *bus.Bus) {
	_, err := b.Call(t.Context(), "hub", []byte("x"))
	wantKind(t, err, problem.Unavailable)
	ctx, cancel := context.WithCancel(t.Context())
	var served [2]atomic.Int32
	var wg sync.WaitGroup
	started := make(chan struct{})
	replicas := [2]*bus.Bus{d.Bus("hub"), d.Bus("hub")}
	wantKind(t, replicas[0].Ready(), problem.Unavailable) // it does not answer its calls yet
	for i, replica := range replicas {
		wg.Go(func() {
			if err := replica.Serve(ctx, "hub", func(_ context.Context, r []byte) []byte {
				served[i].Add(1)
				if string(r) == "big" {
					return make([]byte, bus.MaxPayload+1)
				}
				if string(r) == "panic" {
					panic("canary")
				}
				if string(r) == "slow" {
					close(started)
					<-ctx.Done()
				}
				return bytes.ToUpper(r)
			}); err != nil {
				t.Error(err)
			}
		})
	}
	if !eventually(t, 10*time.Second, func() bool { _, err := b.Call(t.Context(), "hub", []byte("x")); return err == nil }) {
		t.Fatal("nobody serves")
	}
	if !eventually(t, 10*time.Second, func() bool { return replicas[0].Ready() == nil && replicas[1].Ready() == nil }) {
		t.Error("replicas that serve are not ready")
	}
	var callers sync.WaitGroup
	for i := range 100 {
		callers.Go(func() {
			want := fmt.Sprintf("CALL %d", i)
			if got, err := b.Call(t.Context(), "hub", []byte(strings.ToLower(want))); err != nil || string(got) != want {
				t.Errorf("%q %v", got, err)
			}
		})
	}
	callers.Wait()
	// In a cluster a server gives calls to the replicas that are connected to itself, if there are any.
	if len(d.Servers()) == 1 && (served[0].Load() == 0 || served[1].Load() == 0) {
		t.Errorf("one replica did it all: %d %d", served[0].Load(), served[1].Load())
	}
	for range 4 { // both replicas live on
		_, err = b.Call(t.Context(), "hub", []byte("panic"))
		wantKind(t, err, problem.Internal)
	}
	large := bytes.Repeat([]byte("A"), 7<<20+200<<10)
	if got, err := b.Call(t.Context(), "hub", large); err != nil || !bytes.Equal(got, large) {
		t.Errorf("a large call: %v", err)
	}
	_, err = b.Call(t.Context(), "hub", []byte("big"))
	wantKind(t, err, problem.Internal)
	_, err = b.Call(t.Context(), "hub", make([]byte, bus.MaxPayload+1))
	wantKind(t, err, problem.Invalid)
	// A call that is being handled when the service stops is answered.
	answer := make(chan error, 1)
	go func() { _, err := b.Call(t.Context(), "hub", []byte("slow")); answer <- err }()
	<-started
	cancel()
	if !eventually(t, 10*time.Second, func() bool { return replicas[0].Ready() != nil && replicas[1].Ready() != nil }) {
		t.Error("a replica that stops is ready")
	}
	if err := <-answer; err != nil {
		t.Errorf("a call begun before the end: %v", err)
	}
	wg.Wait()
	_, err = b.Call(t.Context(), "hub", []byte("x"))
	wantKind(t, err, problem.Unavailable)
}

func verifies(t *testing.T, d *bustest.Domain, b *bus.Bus) {
	if err := b.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if err := d.Bus("admin").Init(t.Context()); err != nil {
		t.Errorf("a second init: %v", err)
	}
	if err := d.Bus("admin").Ready(); err != nil { // it answers no calls
		t.Error(err)
	}
}
