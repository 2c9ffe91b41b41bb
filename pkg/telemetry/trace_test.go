package telemetry_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	otlpmetrics "go.opentelemetry.io/proto/otlp/metrics/v1"

	"go.opentelemetry.io/otel/trace"

	"mimimi.example/pkg/telemetry"
	"mimimi.example/pkg/telemetry/telemetrytest"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// exporting makes telemetry that keeps every trace and sends it to a receiver.
func exporting(t *testing.T, r *telemetrytest.Receiver) *telemetry.Telemetry {
	t.Helper()
	return must(telemetry.New(telemetry.Options{Service: "hub", OTLP: r.URL, Sample: 1}))
}

// TestOnlyAllowedSpansLeave plants canaries wherever a span has room for them.
func TestOnlyAllowedSpansLeave(t *testing.T) {
	r := telemetrytest.NewReceiver(t)
	tel := exporting(t, r)
	tracer := tel.Traces().Tracer("canary", trace.WithInstrumentationVersion("canary"), trace.WithInstrumentationAttributes(attribute.String("x", "canary")))
	state := must(trace.ParseTraceState("vendor=canary"))
	remote := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: state, Remote: true})
	_, kept := tracer.Start(trace.ContextWithRemoteSpanContext(t.Context(), remote), "send group.*.*.c", trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithLinks(trace.Link{SpanContext: remote, Attributes: []attribute.KeyValue{attribute.String("mimimi.zone", "canary")}}),
		trace.WithAttributes(attribute.String("mimimi.zone", "group"), attribute.String("messaging.destination.template", "group.3.canary.c"), attribute.String("canary", "group"),
			attribute.StringSlice("error.type", []string{"internal"}), attribute.Int("messaging.batch.message_count", 4711), attribute.String("error.type", "canary")))
	kept.AddEvent("canary", trace.WithAttributes(attribute.String("canary", "canary")))
	kept.RecordError(errors.New("canary"))
	kept.SetStatus(codes.Error, "canary")
	kept.End()
	_, renamed := tracer.Start(t.Context(), "send canary")
	renamed.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	spans := r.Spans()
	if len(spans) != 1 {
		t.Fatalf("%d spans, want the one whose name is allowed", len(spans))
	}
	s := spans[0]
	if s.Service != "hub" || s.Name != "send group.*.*.c" || !s.Failed || s.Trace != hex.EncodeToString(append([]byte{1}, make([]byte, 15)...)) || len(s.Links) != 1 {
		t.Errorf("%+v", s)
	}
	if len(s.Attributes) != 1 || s.Attributes["mimimi.zone"] != "group" {
		t.Errorf("attributes %v, want the zone alone", s.Attributes)
	}
	for _, b := range r.Bodies() {
		if bytes.Contains(b, []byte("canary")) {
			t.Errorf("a canary left: %q", b)
		}
	}
	if tel.Dropped() != 5 { // four attributes (of two of one key the last one counts) and a name
		t.Errorf("%d dropped, want 5", tel.Dropped())
	}
}

// TestTimesAreCoarse: no time says more than a second, and lengths and distances are on the scale.
func TestTimesAreCoarse(t *testing.T) {
	r := telemetrytest.NewReceiver(t)
	tel := exporting(t, r)
	tracer := tel.Traces().Tracer("x")
	at := time.Unix(1_800_000_000, 987_654_321)
	zone := trace.WithAttributes(attribute.String("mimimi.zone", "group"))
	ctx, root := tracer.Start(t.Context(), "serve rpc.hub", trace.WithTimestamp(at), zone)
	ctx, middle := tracer.Start(ctx, "mimimi.v1.HubService/Commit", trace.WithTimestamp(at.Add(1234567*time.Nanosecond)), zone)
	_, leaf := tracer.Start(ctx, "send group.*.*.c", trace.WithTimestamp(at.Add(43*time.Millisecond)), zone)
	leaf.End(trace.WithTimestamp(at.Add(43*time.Millisecond + 300*time.Microsecond)))
	middle.End(trace.WithTimestamp(at.Add(90 * time.Millisecond)))
	root.End(trace.WithTimestamp(at.Add(7 * time.Second)))
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Check(t)
	second := time.Unix(1_800_000_000, 0)
	want := map[string][2]time.Duration{"serve rpc.hub": {0, 5 * time.Second}, "mimimi.v1.HubService/Commit": {time.Millisecond, 50 * time.Millisecond}, "send group.*.*.c": {20 * time.Millisecond, time.Millisecond}}
	for _, s := range r.Spans() {
		if w := want[s.Name]; s.Start.Sub(second) != w[0] || s.End.Sub(s.Start) != w[1] {
			t.Errorf("%s: from %v for %v, want %v", s.Name, s.Start.Sub(second), s.End.Sub(s.Start), w)
		}
	}
	if len(r.Spans()) != len(want) {
		t.Errorf("%d spans", len(r.Spans()))
	}
}

func TestCoarse(t *testing.T) {
	for in, want := range map[time.Duration]time.Duration{
		0: 0, 999 * time.Microsecond: 0, time.Millisecond: time.Millisecond, 3 * time.Millisecond: 2 * time.Millisecond, 99 * time.Millisecond: 50 * time.Millisecond,
		time.Second: time.Second, 12345 * time.Millisecond: 10 * time.Second, time.Hour: 2000 * time.Second, 1e6 * time.Hour: 1e7 * time.Second, -time.Second: 0,
	} {
		if got := telemetry.Coarse(in); got != want {
			t.Errorf("%v: %v, want %v", in, got, want)
		}
	}
}

// TestSpansComeInNoOrder: two exports of spans that ended in order are not in that order, but for a chance in 64!.
func TestSpansComeInNoOrder(t *testing.T) {
	r := telemetrytest.NewReceiver(t)
	tel := exporting(t, r)
	var ended []string
	for range 64 {
		_, s := tel.Traces().Tracer("x").Start(t.Context(), "serve rpc.hub", trace.WithAttributes(attribute.String("mimimi.zone", "group")))
		s.End()
		ended = append(ended, s.SpanContext().SpanID().String())
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range r.Spans() {
		got = append(got, s.ID)
	}
	if len(got) != len(ended) || strings.Join(got, " ") == strings.Join(ended, " ") {
		t.Errorf("%d spans, in the order in which they ended", len(got))
	}
}

// TestMetricsOverOTLP: measurements go through the same list, their times are seconds, and a histogram does not say its extremes.
func TestMetricsOverOTLP(t *testing.T) {
	r := telemetrytest.NewReceiver(t)
	tel := exporting(t, r)
	meter := tel.Meter("m")
	must(meter.Int64Counter("hub_checkpoints")).Add(t.Context(), 3, metric.WithAttributes(attribute.String("kind", "ok"), attribute.String("group", "canary")))
	must(meter.Int64Histogram("kpstore_stock", metric.WithExplicitBucketBoundaries(10))).Record(t.Context(), 7)
	must(meter.Float64Histogram("bus_handle", metric.WithExplicitBucketBoundaries(10))).Record(t.Context(), 7)
	must(meter.Int64UpDownCounter("provider.watches")).Add(t.Context(), 1)
	must(meter.Float64Counter("hub_conflicts")).Add(t.Context(), 1)
	must(meter.Int64Gauge("bus_lag")).Record(t.Context(), 1)
	must(meter.Float64Gauge("bus_oldest")).Record(t.Context(), 1)
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Check(t)
	seen := make(map[string]bool)
	for _, m := range r.Metrics() {
		seen[m.GetName()] = true
		var times []uint64
		for _, p := range append(append([]*otlpmetrics.NumberDataPoint(nil), m.GetSum().GetDataPoints()...), m.GetGauge().GetDataPoints()...) {
			times = append(times, p.GetTimeUnixNano(), p.GetStartTimeUnixNano())
		}
		for _, p := range m.GetHistogram().GetDataPoints() {
			times = append(times, p.GetTimeUnixNano(), p.GetStartTimeUnixNano())
			if p.Min != nil || p.Max != nil || p.GetCount() != 1 {
				t.Errorf("%s: %v", m.GetName(), p)
			}
		}
		if len(times) == 0 && m.GetName() != "telemetry_exports" {
			t.Errorf("%s has no points", m.GetName())
		}
		for _, at := range times {
			if at%uint64(time.Second) != 0 {
				t.Errorf("%s: a time of %d ns", m.GetName(), at)
			}
		}
	}
	for _, name := range []string{"hub_checkpoints", "kpstore_stock", "bus_handle", "provider.watches", "hub_conflicts", "bus_lag", "bus_oldest", "telemetry_dropped"} {
		if !seen[name] {
			t.Errorf("%s was not exported", name)
		}
	}
	for _, b := range r.Bodies() {
		if bytes.Contains(b, []byte("canary")) {
			t.Error("a canary left")
		}
	}
}

// TestReceiverThatDoesNotAnswer: whoever measures does not wait for it, and neither does the end of the process.
func TestReceiverThatDoesNotAnswer(t *testing.T) {
	release := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer silent.Close()
	defer close(release)
	for name, url := range map[string]string{"silent": silent.URL, "gone": "http://127.0.0.1:1"} {
		tel := must(telemetry.New(telemetry.Options{Service: "hub", OTLP: url, Sample: 1}))
		tracer := tel.Traces().Tracer("x")
		for range 10_000 { // five times the queue: this ends only if nobody waits
			_, s := tracer.Start(t.Context(), "serve rpc.hub")
			s.End()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if err := tel.Shutdown(ctx); err != nil || ctx.Err() != nil {
			t.Errorf("%s: %v, %v", name, err, ctx.Err())
		}
		cancel()
	}
}

// TestTap sees what would be sent, and needs no receiver.
func TestTap(t *testing.T) {
	var signals []string
	done := make(chan struct{}, 8)
	tel := must(telemetry.New(telemetry.Options{Service: "hub", Sample: 1, Tap: func(signal string, b []byte) {
		if len(b) > 0 && signal == "traces" {
			signals = append(signals, signal)
			done <- struct{}{}
		}
	}}))
	_, s := tel.Traces().Tracer("x").Start(t.Context(), "serve rpc.hub")
	s.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-done
	if got := telemetrytest.Value(t, tel, `telemetry_exports_total{outcome="failed"}`); got != 0 || len(signals) != 1 {
		t.Errorf("%v failed, signals %v", got, signals)
	}
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]telemetry.Options{
		"sample": {Sample: 1.5}, "negative": {Sample: -1}, "no URL": {Service: "hub", OTLP: "127.0.0.1:4318"}, "query": {Service: "hub", OTLP: "http://x?y"},
		"user": {Service: "hub", OTLP: "http://u:p@x"}, "service": {Service: "somebody", OTLP: "http://x"},
	} {
		if _, err := telemetry.New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	tel := must(telemetry.New(telemetry.Options{}))
	if tel.Traces() != nil || (*telemetry.Telemetry)(nil).Traces() != nil {
		t.Error("traces without a receiver")
	}
}

// TestSampling: of many traces about the share that was asked for is kept, and none by default if none was.
func TestSampling(t *testing.T) {
	r := telemetrytest.NewReceiver(t)
	tel := must(telemetry.New(telemetry.Options{Service: "hub", OTLP: r.URL, Sample: 0.5}))
	kept := 0
	for range 1000 {
		_, s := tel.Traces().Tracer("x").Start(t.Context(), "serve rpc.hub")
		if s.IsRecording() {
			kept++
		}
		s.End()
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if kept < 350 || kept > 650 || len(r.Spans()) != kept { // ten standard deviations
		t.Errorf("%d of 1000 kept, %d sent", kept, len(r.Spans()))
	}
}
