package privacy

import (
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// checkTraces returns what a recorder says of trace context.
func checkTraces(t *testing.T, r *Recorder) []Leak {
	t.Helper()
	m, err := LoadMatrix()
	if err != nil {
		t.Fatal(err)
	}
	rep, err := r.Check(m, nil)
	if err != nil {
		t.Fatal(err)
	}
	return rep.Leaks
}

// TestTraceHeaders: on every header of the bus.
func TestTraceHeaders(t *testing.T) {
	for _, c := range []struct {
		name, subject, header, value string
		leaks                        int
	}{
		{"the log", "group.3.abc.c", "traceparent", parent, 0},
		{"messages", "group.3.abc.m", "traceparent", parent, 0},
		{"an answer to fan-out", "_INBOX_fanout.x", "traceparent", parent, 0},
		{"an answer to the provider", "_INBOX_provider.x", "traceparent", parent, 1},
		{"the outbox", "out.abc", "traceparent", parent, 1},
		{"a queue", "queue.1.abc", "traceparent", parent, 1},
		{"the directory", "dir.u.abc", "traceparent", parent, 1},
		{"a call", "rpc.hub", "traceparent", parent, 1},
		{"a hint", "hint.group.3.abc.c", "traceparent", parent, 1},
		{"another spelling", "group.3.abc.c", "Traceparent", parent, 1},
		{"trace state", "group.3.abc.c", "tracestate", "a=b", 1},
		{"baggage", "group.3.abc.c", "Baggage", "a=b", 1},
		{"no trace that is kept", "group.3.abc.c", "traceparent", parent[:len(parent)-1] + "0", 1},
		{"something in it", "group.3.abc.c", "traceparent", parent + "-more", 1},
		{"no trace header", "queue.1.abc", "Nats-Msg-Id", "x", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewRecorder()
			switch c.subject {
			case "_INBOX_fanout.x":
				r.BusMessage("a.example", "$JS.API.CONSUMER.MSG.NEXT.GROUP_3.fanout", c.subject, nil, nil)
			case "_INBOX_provider.x":
				r.BusMessage("a.example", "$JS.API.CONSUMER.MSG.NEXT.OUTBOX.c", c.subject, nil, nil)
			}
			r.BusMessage("a.example", c.subject, "", map[string][]string{c.header: {c.value}}, nil)
			if leaks := checkTraces(t, r); len(leaks) != c.leaks {
				t.Errorf("leaks = %v, want %d", leaks, c.leaks)
			}
		})
	}
}

func TestTraceHeadersOfRequests(t *testing.T) {
	for head, leaks := range map[string]int{"Content-Type: x\r\nTraceparent: " + parent + "\r\n": 1, "Baggage: a=b\r\n": 1, "Content-Type: traceparent: x\r\n": 0} {
		r := NewRecorder()
		r.Tap("a.example", "provider")("federation", []byte("POST /x"), []byte(head))
		if got := checkTraces(t, r); len(got) != leaks {
			t.Errorf("%q: leaks = %v, want %d", head, got, leaks)
		}
	}
}

// export is one span as a service would export it.
func export(t *testing.T, trace byte, zone string, links ...byte) []byte {
	t.Helper()
	id := func(b byte) []byte { return append([]byte{b}, make([]byte, 15)...) }
	s := &spans.Span{TraceId: id(trace), SpanId: make([]byte, 8)}
	if zone != "" {
		s.Attributes = []*common.KeyValue{{Key: "mimimi.zone", Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: zone}}}}
	}
	for _, l := range links {
		s.Links = append(s.Links, &spans.Span_Link{TraceId: id(l)})
	}
	b, err := proto.Marshal(&collector.ExportTraceServiceRequest{ResourceSpans: []*spans.ResourceSpans{{ScopeSpans: []*spans.ScopeSpans{{Spans: []*spans.Span{s}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestExportedTraces: a trace, and what it names, belongs to one zone of one domain.
func TestExportedTraces(t *testing.T) {
	for name, c := range map[string]struct {
		do    func(t *testing.T, r *Recorder)
		leaks bool
	}{
		"one zone": {func(t *testing.T, r *Recorder) {
			r.Export("a.example", "hub", "traces", export(t, 1, "group"))
			r.Export("a.example", "fanout", "traces", export(t, 1, "group"))
			r.Export("a.example", "fanout", "traces", export(t, 2, "group", 1))
			r.Export("a.example", "provider", "traces", export(t, 3, "queue"))
			r.Export("a.example", "provider", "metrics", []byte("x"))
		}, false},
		"two zones": {func(t *testing.T, r *Recorder) {
			r.Export("a.example", "hub", "traces", export(t, 1, "group"))
			r.Export("a.example", "provider", "traces", export(t, 1, "queue"))
		}, true},
		"two domains": {func(t *testing.T, r *Recorder) {
			r.Export("a.example", "provider", "traces", export(t, 1, "queue"))
			r.Export("b.example", "provider", "traces", export(t, 1, "queue"))
		}, true},
		"a link across": {func(t *testing.T, r *Recorder) {
			r.Export("a.example", "hub", "traces", export(t, 1, "group"))
			r.Export("a.example", "provider", "traces", export(t, 2, "queue", 1))
		}, true},
		"a header of another zone's trace": {func(t *testing.T, r *Recorder) {
			r.BusMessage("a.example", "group.3.abc.c", "", map[string][]string{"traceparent": {"00-01000000000000000000000000000000-b7ad6b7169203331-01"}}, nil)
			r.Export("a.example", "provider", "traces", export(t, 1, "queue"))
		}, true},
		"no zone":    {func(t *testing.T, r *Recorder) { r.Export("a.example", "hub", "traces", export(t, 1, "")) }, true},
		"no request": {func(_ *testing.T, r *Recorder) { r.Export("a.example", "hub", "traces", []byte("nonsense")) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewRecorder()
			c.do(t, r)
			if leaks := checkTraces(t, r); len(leaks) > 0 != c.leaks {
				t.Errorf("leaks = %v", leaks)
			}
		})
	}
}

// TestExportsAreSearched: what a service exports is in its views.
func TestExportsAreSearched(t *testing.T) {
	m, err := LoadMatrix()
	if err != nil {
		t.Fatal(err)
	}
	r := NewRecorder()
	r.Export("a.example", "hub", "metrics", secretValue)
	rep, err := r.Check(m, []Canary{{Kind: "content", Domain: "a.example", Value: secretValue}})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Leaks) != 1 || rep.Leaks[0].Where != "export" || rep.Leaks[0].Role != Hub {
		t.Errorf("leaks = %v, want one in the hub's export", rep.Leaks)
	}
}
