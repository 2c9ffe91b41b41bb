package bus_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/problem"
	"mimimi.example/pkg/telemetry"
	"mimimi.example/pkg/telemetry/telemetrytest"
)

// tracedBus connects a service whose spans go to r. flush sends what waits.
func tracedBus(t testing.TB, d *bustest.Domain, service string, r *telemetrytest.Receiver, sample float64) (b *bus.Bus, flush func()) {
	t.Helper()
	tel := telemetrytest.New(t, telemetry.Options{Service: service, OTLP: r.URL, Sample: sample})
	o := d.Options(service)
	o.Traces = tel.Traces()
	b, err := bus.Connect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Logf("close: %v", err)
		}
	})
	return b, func() {
		if err := tel.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// watchHeaders notes every header about traces that passes the bus, as "subject header", and every subject.
func watchHeaders(t *testing.T, d *bustest.Domain) (stop func() (headers map[string]string, subjects []string)) {
	t.Helper()
	c, err := d.Servers()[0].Connect("observer")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	headers, subjects := make(map[string]string), []string(nil)
	_, err = c.Subscribe(">", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		subjects = append(subjects, m.Subject)
		for name, v := range m.Header {
			switch lower := strings.ToLower(name); {
			case lower == "traceparent", lower == "tracestate", lower == "baggage", strings.HasPrefix(lower, "nats-trace"):
				headers[m.Subject+" "+name] = v[0]
			}
		}
	})
	if err := errors.Join(err, c.Flush()); err != nil {
		t.Fatal(err)
	}
	return func() (map[string]string, []string) {
		closed := make(chan struct{})
		c.SetClosedHandler(func(*nats.Conn) { close(closed) })
		if err := c.Drain(); err != nil {
			t.Error(err)
		}
		<-closed
		mu.Lock()
		defer mu.Unlock()
		return headers, subjects
	}
}

// enter is b.Enter for a test that does not care about the answer.
func enter(ctx context.Context, b *bus.Bus, z bus.Zone, name string, f func(context.Context)) {
	ctx, done := b.Enter(ctx, z, name)
	f(ctx)
	done(http.StatusOK)
}

// consumeAll runs consumers until stop.
func consumeAll(t *testing.T, b *bus.Bus, handle func(context.Context, *bus.Message) error, cs ...bus.Consumer) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, c := range cs {
		wg.Go(func() {
			if err := b.Consume(ctx, c, handle); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

// TestTraceZones follows a message from the edge to the queues, over every kind of edge: one trace for each zone, none across, and trace context on the log alone. It is one message's
// way, and what is looked at in the end is all of it.
func TestTraceZones(t *testing.T) {
	d := bustest.Start(t)
	r := telemetrytest.NewReceiver(t)
	provider, flushProvider := tracedBus(t, d, "provider", r, 1)
	hub, flushHub := tracedBus(t, d, "hub", r, 1)
	fanout, flushFanout := tracedBus(t, d, "fanout", r, 1)
	stopWatching := watchHeaders(t, d)
	must := func(_ uint64, err error) {
		if err != nil {
			t.Error(err)
		}
	}

	serving, stopServing := context.WithCancel(t.Context())
	var served sync.WaitGroup
	served.Go(func() {
		err := hub.Serve(serving, "hub", func(ctx context.Context, request []byte) []byte {
			enter(ctx, hub, bus.ZoneGroup, "mimimi.v1.HubService/Commit", func(ctx context.Context) {
				must(hub.Publish(ctx, hub.Spent(1, request), request, bus.PublishOptions{TTL: time.Hour})) // another zone's
				must(hub.Publish(ctx, hub.GroupHandshakes([]byte("g")), request, bus.PublishOptions{}))
				must(hub.Publish(ctx, hub.GroupMessages([]byte("g")), request, bus.PublishOptions{}))
			})
			return request
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stopServing(); served.Wait() })

	stopFanout := consumeAll(t, fanout, func(ctx context.Context, m *bus.Message) error {
		for range 3 {
			must(fanout.Publish(ctx, fanout.Outbox(bustest.Own), m.Data, bus.PublishOptions{}))
		}
		return nil
	}, fanout.GroupConsumers()...)
	c, err := provider.OutboxConsumer(t.Context(), bustest.Own)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	delivered := 0
	stopProvider := consumeAll(t, provider, func(ctx context.Context, m *bus.Message) error {
		for i := range 3 {
			must(provider.Publish(ctx, provider.Queue([]byte{byte(i)}), m.Data, bus.PublishOptions{}))
		}
		mu.Lock()
		defer mu.Unlock()
		delivered++
		return nil
	}, c)

	if !eventually(t, 20*time.Second, func() bool {
		var err error
		enter(t.Context(), provider, bus.ZoneRelay, "mimimi.v1.RelayService/Relay", func(ctx context.Context) { _, err = provider.Call(ctx, "hub", []byte("request")) })
		return err == nil
	}) {
		t.Fatal("the hub does not answer")
	}
	enter(t.Context(), provider, bus.ZoneAccount, "mimimi.v1.AccountService/Register", func(ctx context.Context) {
		must(provider.Publish(ctx, provider.Account("alice"), []byte("x"), bus.PublishOptions{}))
	})
	if !eventually(t, 30*time.Second, func() bool { mu.Lock(); defer mu.Unlock(); return delivered >= 6 }) {
		t.Fatal("nothing came through")
	}
	stopServing()
	served.Wait()
	stopFanout()
	stopProvider()
	headers, subjects := stopWatching()
	flushProvider()
	flushHub()
	flushFanout()

	r.Check(t)
	got := make(map[string]int)
	byID := make(map[string]telemetrytest.Span)
	for _, s := range r.Spans() {
		byID[s.ID] = s
	}
	for _, s := range r.Spans() {
		parent := "-"
		if s.Parent != "" {
			parent = byID[s.Parent].Name
		}
		got[fmt.Sprintf("%s %s: %s < %s", s.Zone, s.Service, s.Name, parent)]++
	}
	want := map[string]int{
		"relay provider: mimimi.v1.RelayService/Relay < -":                   1,
		"relay provider: call rpc.hub < mimimi.v1.RelayService/Relay":        1,
		"group hub: serve rpc.hub < -":                                       1,
		"group hub: mimimi.v1.HubService/Commit < serve rpc.hub":             1,
		"group hub: send group.*.*.c < mimimi.v1.HubService/Commit":          1,
		"group hub: send group.*.*.m < mimimi.v1.HubService/Commit":          1,
		"group fanout: process group.*.*.c < send group.*.*.c":               1,
		"group fanout: process group.*.*.m < send group.*.*.m":               1,
		"group fanout: send out.* < process group.*.*.c":                     1, // of three
		"group fanout: send out.* < process group.*.*.m":                     1,
		"queue provider: process out.* < -":                                  6,
		"queue provider: send queue.*.* < process out.*":                     6, // of eighteen
		"account provider: mimimi.v1.AccountService/Register < -":            1,
		"account provider: send dir.u.* < mimimi.v1.AccountService/Register": 1,
	}
	for edge, n := range want {
		if got[edge] < n || got[edge] > n && !strings.HasPrefix(edge, "relay") && !strings.HasPrefix(edge, "queue") { // a call may be repeated, and a message come again
			t.Errorf("%d of %q, want %d", got[edge], edge, n)
		}
		delete(got, edge)
	}
	for edge, n := range got {
		t.Errorf("%d of %q, want none", n, edge)
	}
	if len(headers) == 0 {
		t.Error("no trace context on the log")
	}
	for h := range headers {
		subject, name, _ := strings.Cut(h, " ")
		if name != "traceparent" || !strings.HasPrefix(subject, "group.") && !strings.HasPrefix(subject, "_INBOX_fanout.") {
			t.Errorf("a header %s on %s", name, strings.Split(subject, ".")[0])
		}
	}
	for _, s := range subjects { // an account that traces messages would publish what it saw
		first, _, _ := strings.Cut(s, ".")
		if !slices.Contains([]string{"group", "out", "queue", "dir", "spent", "rpc", "$JS", "$SRV", "_INBOX_hub", "_INBOX_fanout", "_INBOX_provider"}, first) {
			t.Errorf("something is published to %s", first)
		}
	}
}

// TestTracedTable: a family whose messages carry trace context is written and read in one zone, by those who work there and nobody else.
func TestTracedTable(t *testing.T) {
	traced := 0
	for _, f := range bus.Families() {
		if !f.Traced() {
			continue
		}
		traced++
		if f.ReadIn() != f.Zone || f.Zone != bus.ZoneGroup {
			t.Errorf("%s crosses an edge", f.Pattern)
		}
		for _, s := range slices.Concat(f.Writers, f.Readers, f.Senders()) {
			if s != "hub" && s != "fanout" && s != "replay" { // which goes on with nothing

				t.Errorf("%s: %s works in other zones too", f.Pattern, s)
			}
		}
	}
	if traced != 2 {
		t.Errorf("%d families carry trace context", traced)
	}
}

// TestBatchLinks: messages that are handled together make one trace, with a link to each of theirs up to the bound.
func TestBatchLinks(t *testing.T) {
	const messages = 40
	d := bustest.StartOpen(t)
	r := telemetrytest.NewReceiver(t)
	hub, flushHub := tracedBus(t, d, "hub", r, 1)
	fanout, flushFanout := tracedBus(t, d, "fanout", r, 1)
	for i := range messages {
		enter(t.Context(), hub, bus.ZoneGroup, "mimimi.v1.HubService/SendMessage", func(ctx context.Context) {
			if _, err := hub.Publish(ctx, hub.GroupMessages([]byte("g")), []byte(strconv.Itoa(i)), bus.PublishOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	handled, most := 0, 0
	for _, c := range fanout.GroupConsumers() {
		wg.Go(func() {
			err := fanout.ConsumeTogether(ctx, c, func(ms []*bus.Message) int { return len(ms) }, func(_ context.Context, ms []*bus.Message) error {
				if handled += len(ms); handled >= messages { // one group: one call at a time
					cancel()
				}
				most = max(most, len(ms))
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	<-ctx.Done()
	wg.Wait()
	flushHub()
	flushFanout()
	r.Check(t)
	links := 0
	for _, s := range r.Spans() {
		if s.Service != "fanout" {
			continue
		}
		links = max(links, len(s.Links))
		if len(s.Links) > 1 && s.Parent != "" {
			t.Error("a batch has a parent")
		}
	}
	if want := min(most, 32); most < 2 || links != want {
		t.Errorf("%d messages at once, %d links, want %d", most, links, want)
	}
}

// TestTraceThatIsNotKept: nothing of it is stored, and whoever works off what it wrote is not traced either.
func TestTraceThatIsNotKept(t *testing.T) {
	d := bustest.Start(t)
	r := telemetrytest.NewReceiver(t)
	hub, flushHub := tracedBus(t, d, "hub", r, 1e-12)
	fanout, flushFanout := tracedBus(t, d, "fanout", r, 1)
	stopWatching := watchHeaders(t, d)
	enter(t.Context(), hub, bus.ZoneGroup, "mimimi.v1.HubService/SendMessage", func(ctx context.Context) {
		publishIn(ctx, t, hub, hub.GroupMessages([]byte("g")))
	})
	publishIn(t.Context(), t, hub, hub.GroupMessages([]byte("g"))) // of no trace at all, as a sweep's
	done := make(chan struct{}, 2)
	stop := consumeAll(t, fanout, func(context.Context, *bus.Message) error { done <- struct{}{}; return nil }, fanout.GroupConsumers()...)
	<-done
	<-done
	stop()
	flushHub()
	flushFanout()
	if headers, _ := stopWatching(); len(headers) > 0 || len(r.Spans()) > 0 {
		t.Errorf("%d headers, %d spans", len(headers), len(r.Spans()))
	}
}

func publishIn(ctx context.Context, t *testing.T, b *bus.Bus, s bus.Subject) {
	t.Helper()
	if _, err := b.Publish(ctx, s, []byte("x"), bus.PublishOptions{}); err != nil {
		t.Error(err)
	}
}

// TestContextOfAnotherZone: trace context that did not come with the zone is not carried, whoever put it there.
func TestContextOfAnotherZone(t *testing.T) {
	d := bustest.StartOpen(t)
	r := telemetrytest.NewReceiver(t)
	b, flush := tracedBus(t, d, "hub", r, 1)
	stopWatching := watchHeaders(t, d)
	smuggled := trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled}))
	publishIn(smuggled, t, b, b.GroupMessages([]byte("g")))
	enter(smuggled, b, bus.ZoneAccount, "mimimi.v1.AccountService/Register", func(ctx context.Context) {
		publishIn(ctx, t, b, b.GroupMessages([]byte("g")))
		publishIn(ctx, t, b, b.Queue([]byte("q")))
		enter(ctx, b, bus.ZoneQueue, "mimimi.v1.QueueService/Read", func(ctx context.Context) { publishIn(ctx, t, b, b.Queue([]byte("q"))) })
	})
	flush()
	if headers, _ := stopWatching(); len(headers) > 0 {
		t.Errorf("%d headers", len(headers))
	}
	r.Check(t)
	roots := make(map[string]string)
	for _, s := range r.Spans() {
		if s.Parent == "" {
			roots[s.Name] = s.Trace
		}
		if strings.HasPrefix(s.Trace, "01") && strings.HasSuffix(s.Trace, "0000") {
			t.Error("the smuggled trace goes on")
		}
	}
	if len(r.Spans()) != 3 || len(roots) != 2 {
		t.Errorf("%d spans, %d roots", len(r.Spans()), len(roots))
	}
}

// TestTriesAreBounded: what is tried again and again is traced a few times.
func TestTriesAreBounded(t *testing.T) {
	d := bustest.Start(t)
	r := telemetrytest.NewReceiver(t)
	provider, flush := tracedBus(t, d, "provider", r, 1)
	provider.SetRetry(time.Millisecond, 2*time.Millisecond, 20)
	fanout := d.Bus("fanout")
	c, err := provider.OutboxConsumer(t.Context(), bustest.Own)
	if err != nil {
		t.Fatal(err)
	}
	publishIn(t.Context(), t, fanout, fanout.Outbox(bustest.Own))
	done, tries := make(chan struct{}), 0
	stop := consumeAll(t, provider, func(context.Context, *bus.Message) error {
		if tries++; tries == 10 {
			close(done)
		}
		if tries >= 10 {
			return nil
		}
		if tries == 2 {
			panic("a mistake")
		}
		return problem.New(problem.Unavailable, "down")
	}, c)
	<-done
	stop()
	flush()
	r.Check(t)
	kinds := make(map[string]int)
	for _, s := range r.Spans() {
		kinds[s.Attributes["error.type"]]++
	}
	if len(r.Spans()) != 3 || kinds["unavailable"] != 2 || kinds["internal"] != 1 {
		t.Errorf("%d spans, %v", len(r.Spans()), kinds)
	}
}

// TestTracingOffIsFree: a connection without tracing makes nothing for it.
func TestTracingOffIsFree(t *testing.T) {
	b := bustest.StartOpen(t).Bus("hub")
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		_, done := b.Enter(ctx, bus.ZoneGroup, "mimimi.v1.HubService/Commit")
		done(http.StatusOK)
	}); n != 0 {
		t.Errorf("%v allocations for a request that is not traced", n)
	}
}

// BenchmarkEnterOff is what a request costs that is not traced, beside its work.
func BenchmarkEnterOff(b *testing.B) {
	hub := bustest.StartOpen(b).Bus("hub")
	ctx := b.Context()
	for b.Loop() {
		_, done := hub.Enter(ctx, bus.ZoneGroup, "mimimi.v1.HubService/Commit")
		done(http.StatusOK)
	}
}

// BenchmarkPublish is what a publish costs without tracing, with traces that are not kept, and with all kept.
func BenchmarkPublish(b *testing.B) {
	r := telemetrytest.NewReceiver(b)
	d := bustest.StartOpen(b)
	for name, sample := range map[string]float64{"off": 0, "sampled out": 1e-12, "kept": 1} {
		b.Run(name, func(b *testing.B) {
			hub := d.Bus("hub")
			if sample > 0 {
				hub, _ = tracedBus(b, d, "hub", r, sample)
			}
			s := hub.GroupMessages([]byte("g"))
			b.ReportAllocs()
			for b.Loop() {
				ctx, done := hub.Enter(b.Context(), bus.ZoneGroup, "mimimi.v1.HubService/SendMessage")
				if _, err := hub.Publish(ctx, s, []byte("x"), bus.PublishOptions{}); err != nil {
					b.Fatal(err)
				}
				done(http.StatusOK)
			}
		})
	}
}
