package telemetry

import (
	"context"
	"crypto/rand"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// pushTraces makes the tracers whose spans are sent from time to time.
func (t *Telemetry) pushTraces(o Options) (*sdktrace.TracerProvider, error) {
	out, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(o.endpoint("traces")), otlptracehttp.WithHTTPClient(o.client()), otlptracehttp.WithHeaders(nil),
		otlptracehttp.WithTimeout(exportTimeout), otlptracehttp.WithRetry(otlptracehttp.RetryConfig{}), otlptracehttp.WithCompression(otlptracehttp.NoCompression),
		otlptracehttp.WithMaxRequestSize(maxRequest), otlptracehttp.WithMaxResponseSize(maxAnswer))
	if err != nil {
		return nil, err
	}
	sample := o.Sample
	if sample == 0 {
		sample = defaultSample
	}
	return sdktrace.NewTracerProvider(
		sdktrace.WithResource(resource.Empty()), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(sample))), sdktrace.WithIDGenerator(randomIDs{}),
		sdktrace.WithRawSpanLimits(sdktrace.SpanLimits{AttributeCountLimit: maxAttributes, AttributeValueLengthLimit: -1, LinkCountLimit: maxLinks}),
		sdktrace.WithSpanProcessor(anchors{}),
		sdktrace.WithBatcher(&spanExporter{out: out, t: t, about: about(o.Service)}, sdktrace.WithMaxQueueSize(maxQueuedSpans), sdktrace.WithMaxExportBatchSize(maxBatchSpans),
			sdktrace.WithBatchTimeout(exportEvery), sdktrace.WithExportTimeout(exportTimeout)),
	), nil
}

// randomIDs makes trace and span ids that nobody can predict from others.
type randomIDs struct{}

// NewIDs is sdktrace.IDGenerator's.
func (randomIDs) NewIDs(context.Context) (id trace.TraceID, span trace.SpanID) {
	_, _ = rand.Read(id[:]) // never fails
	_, _ = rand.Read(span[:])
	return id, span
}

// NewSpanID is sdktrace.IDGenerator's.
func (randomIDs) NewSpanID(context.Context, trace.TraceID) (span trace.SpanID) {
	_, _ = rand.Read(span[:])
	return span
}

// anchorKey is the attribute that tells the exporter when the first span of a trace in this process began. It is on no allow-list.
const anchorKey = attribute.Key("mimimi.anchor")

// anchors gives every span its anchor.
type anchors struct{}

// OnStart is sdktrace.SpanProcessor's.
func (anchors) OnStart(ctx context.Context, s sdktrace.ReadWriteSpan) {
	at := s.StartTime()
	if parent, ok := trace.SpanFromContext(ctx).(sdktrace.ReadOnlySpan); ok && parent.SpanContext().TraceID() == s.SpanContext().TraceID() {
		at = anchorOf(parent)
	}
	s.SetAttributes(anchorKey.Int64(at.UnixNano()))
}

// OnEnd is sdktrace.SpanProcessor's.
func (anchors) OnEnd(sdktrace.ReadOnlySpan) {}

// Shutdown is sdktrace.SpanProcessor's.
func (anchors) Shutdown(context.Context) error { return nil }

// ForceFlush is sdktrace.SpanProcessor's.
func (anchors) ForceFlush(context.Context) error { return nil }

// anchorOf returns a span's anchor, its own start if it has none.
func anchorOf(s sdktrace.ReadOnlySpan) time.Time {
	for _, kv := range s.Attributes() {
		if kv.Key == anchorKey {
			return time.Unix(0, kv.Value.AsInt64())
		}
	}
	return s.StartTime()
}

// spanExporter is the one way out for spans.
type spanExporter struct {
	out   sdktrace.SpanExporter
	t     *Telemetry
	about *resource.Resource
}

// ExportSpans sends what is left of spans, in the order of their ids, which is none: spans of two zones in the order in which they ended would say more than
// their rounded times.
func (e *spanExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	var clean []sdktrace.ReadOnlySpan
	for _, s := range spans {
		if left, ok := e.clean(s); ok {
			clean = append(clean, left.Snapshot())
		}
	}
	if len(clean) == 0 {
		return nil
	}
	slices.SortFunc(clean, func(a, b sdktrace.ReadOnlySpan) int {
		x, y := a.SpanContext().SpanID(), b.SpanContext().SpanID()
		return slices.Compare(x[:], y[:])
	})
	return e.t.exported(ctx, e.out.ExportSpans(ctx, clean))
}

// Shutdown ends the exporter. What it could not send is lost.
func (e *spanExporter) Shutdown(ctx context.Context) error {
	_ = e.out.Shutdown(ctx) // an exporter that is down already, or a receiver that is
	return nil
}

// clean makes a new span with what may leave of s, and nothing by default; false if not even its name may.
func (e *spanExporter) clean(s sdktrace.ReadOnlySpan) (*tracetest.SpanStub, bool) {
	if !spanNames[s.Name()] {
		e.t.dropped.Add(1)
		return nil, false
	}
	start, end := coarseTimes(anchorOf(s), s.StartTime(), s.EndTime())
	left := &tracetest.SpanStub{ // the library has no other maker of finished spans
		Name: s.Name(), SpanContext: plainContext(s.SpanContext()), Parent: plainContext(s.Parent()), SpanKind: s.SpanKind(), StartTime: start, EndTime: end,
		Status: sdktrace.Status{Code: s.Status().Code}, Resource: e.about, InstrumentationScope: instrumentation.Scope{Name: "mimimi.example/pkg/telemetry"},
	}
	for _, kv := range s.Attributes() {
		switch {
		case kv.Key == anchorKey:
		case spanAttribute(kv):
			left.Attributes = append(left.Attributes, kv)
		default:
			e.t.dropped.Add(1)
		}
	}
	for _, l := range s.Links() {
		left.Links = append(left.Links, sdktrace.Link{SpanContext: plainContext(l.SpanContext)})
	}
	return left, true
}

// plainContext is a span context without trace state.
func plainContext(c trace.SpanContext) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: c.TraceID(), SpanID: c.SpanID(), TraceFlags: c.TraceFlags() & trace.FlagsSampled, Remote: c.IsRemote()})
}

// coarseTimes are the times under which a span leaves: its trace's first second in this process, and from there distance and length rounded.
func coarseTimes(anchor, start, end time.Time) (from, to time.Time) {
	from = anchor.Truncate(time.Second).Add(Coarse(start.Sub(anchor)))
	return from, from.Add(max(Coarse(end.Sub(start)), time.Millisecond))
}

// Coarse rounds a duration down to 1, 2 or 5 times a power of ten of a millisecond; what is shorter than one is 0, and 10 million seconds is the longest.
func Coarse(d time.Duration) time.Duration {
	const longest = 1e7 * time.Second
	var rounded time.Duration
	for power := time.Millisecond; power <= longest; power *= 10 {
		for _, digit := range []time.Duration{1, 2, 5} {
			if step := digit * power; step <= d {
				rounded = step
			}
		}
	}
	return min(rounded, longest)
}
