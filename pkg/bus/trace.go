package bus

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"mimimi.example/pkg/problem"
)

// headerTrace is W3C Trace Context's header, in lower case: NATS' headers are case-sensitive. Its companions tracestate and baggage are never written.
const headerTrace = "traceparent"

// maxTraced is how many tries of one message are traced: what is tried for days is one trace, and not an endless one.
const maxTraced = 3

// tracing makes the spans of a connection and decides by the tables of subjects and calls what belongs to which trace:
//
//   - A trace begins where a zone is entered: at a request (Enter), a served call, a consumed message. It ends at the zone's edge, with no link to what follows.
//   - Within it a publish or call of the same zone is a span. One into another zone is none, and carries nothing.
//   - Of several sends to one family in one such stretch only the first is a span: their number may be that of a group's members.
//   - A message of a traced family carries its sender's context if the trace is kept, and its consumer's span is that one's child; several that are handled together
//     make a trace of their own, with links to theirs. One without context belongs to a trace that is not kept, so its handling is not traced either.
//
// The zero value traces nothing, at no cost.
type tracing struct{ tracer trace.Tracer }

func newTracing(p trace.TracerProvider) tracing {
	if p == nil {
		return tracing{}
	}
	return tracing{p.Tracer("mimimi.example/pkg/bus")}
}

// stretch is the part of a trace between two edges in one process.
type stretch struct {
	zone Zone

	mu   sync.Mutex
	seen map[string]bool // names of spans that there are; guarded by mu
}

// first says whether a span's name is new.
func (s *stretch) first(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen[name] {
		return false
	}
	if s.seen == nil {
		s.seen = make(map[string]bool)
	}
	s.seen[name] = true
	return true
}

type stretchKey struct{}

// stretchOf returns the stretch of a context whose trace is kept; nil for none.
func stretchOf(ctx context.Context) *stretch {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return nil
	}
	s, _ := ctx.Value(stretchKey{}).(*stretch)
	return s
}

// begin makes the first span of a stretch. ctx carries whoever comes before in the same zone, or nobody.
func (t tracing) begin(ctx context.Context, z Zone, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	ctx, span := t.tracer.Start(ctx, name, append(options, trace.WithAttributes(attribute.String("mimimi.zone", string(z))))...)
	return context.WithValue(ctx, stretchKey{}, &stretch{zone: z}), span
}

// Tracing says whether the connection makes spans.
func (b *Bus) Tracing() bool { return b != nil && b.tracing.tracer != nil }

// Enter begins a trace of a zone, or goes on with ctx's if it is of that zone, with a span for a request that a listener or an opened envelope brought. name is the
// request's procedure, as in "mimimi.v1.HubService/Commit". done ends the span with the status of the answer. Without tracing it does nothing.
func (b *Bus) Enter(ctx context.Context, z Zone, name string) (_ context.Context, done func(status int)) {
	if !b.Tracing() {
		return ctx, func(int) {}
	}
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attribute.String("rpc.system.name", "connectrpc"), attribute.String("rpc.method", name))}
	var span trace.Span
	if s, _ := ctx.Value(stretchKey{}).(*stretch); s != nil && s.zone == z {
		ctx, span = b.tracing.tracer.Start(ctx, name, append(options, trace.WithAttributes(attribute.String("mimimi.zone", string(z))))...)
	} else {
		ctx, span = b.tracing.begin(ctx, z, name, append(options, trace.WithNewRoot())...)
	}
	return ctx, func(status int) { finish(span, problemOfStatus(status)) }
}

// messaging are the attributes of a span about a subject: its pattern, never itself.
func messaging(z Zone, kind trace.SpanKind, operationType, operation, pattern string) []trace.SpanStartOption {
	return []trace.SpanStartOption{trace.WithSpanKind(kind), trace.WithAttributes(
		attribute.String("mimimi.zone", string(z)), attribute.String("messaging.system", "nats"), attribute.String("messaging.operation.type", operationType),
		attribute.String("messaging.operation.name", operation), attribute.String("messaging.destination.template", pattern))}
}

// send makes the span of a publish, nil for none.
func (t tracing) send(ctx context.Context, s Subject) (context.Context, trace.Span) {
	if t.tracer == nil {
		return ctx, nil
	}
	stretch := stretchOf(ctx)
	if stretch == nil {
		return ctx, nil
	}
	f := familyOf(s.name)
	if name := "send " + f.Pattern; f.Zone == stretch.zone && stretch.first(name) {
		return t.tracer.Start(ctx, name, messaging(f.Zone, trace.SpanKindProducer, "send", "send", f.Pattern)...)
	}
	return ctx, nil
}

// carrier is a message's header for one key. It is not the library's for HTTP, which changes the case of names.
type carrier nats.Header

// Get is propagation.TextMapCarrier's.
func (c carrier) Get(key string) string {
	if v := c[key]; key == headerTrace && len(v) > 0 {
		return v[0]
	}
	return ""
}

// Set is propagation.TextMapCarrier's.
func (c carrier) Set(key, value string) {
	if key == headerTrace {
		c[key] = []string{value}
	}
}

// Keys is propagation.TextMapCarrier's.
func (c carrier) Keys() []string { return []string{headerTrace} }

// carry adds the context's trace to the header of a message that may carry it.
func (t tracing) carry(ctx context.Context, s Subject, h nats.Header) nats.Header {
	if t.tracer == nil {
		return h
	}
	f, stretch := familyOf(s.name), stretchOf(ctx)
	if stretch == nil || stretch.zone != f.Zone || !f.Traced() {
		return h
	}
	if h == nil {
		h = nats.Header{}
	}
	propagation.TraceContext{}.Inject(ctx, carrier(h))
	return h
}

// carried is the span that a stored message comes from, if its family carries one.
func (t tracing) carried(subject string, h nats.Header) trace.SpanContext {
	if t.tracer == nil || !familyOf(subject).Traced() {
		return trace.SpanContext{}
	}
	c := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier(h)))
	return c.WithTraceState(trace.TraceState{})
}

// process makes the span of handling messages, nil for none.
func (t tracing) process(ctx context.Context, some []*held) (context.Context, trace.Span) {
	if t.tracer == nil || some[0].tries >= maxTraced {
		return ctx, nil
	}
	some[0].tries++
	f := familyOf(some[0].m.Subject)
	options := messaging(f.ReadIn(), trace.SpanKindConsumer, "process", "process", f.Pattern)
	var links []trace.Link
	for _, h := range some {
		if h.from.IsSampled() {
			links = append(links, trace.Link{SpanContext: h.from})
		}
	}
	switch {
	case f.Traced() && len(links) == 0:
		return ctx, nil
	case f.Traced() && len(some) == 1:
		ctx = trace.ContextWithRemoteSpanContext(ctx, some[0].from)
	default:
		options = append(options, trace.WithNewRoot(), trace.WithLinks(links...))
	}
	return t.begin(ctx, f.ReadIn(), "process "+f.Pattern, options...)
}

// serve makes the span of a call that is answered. It begins a trace: a call comes from another zone.
func (t tracing) serve(ctx context.Context, service string) (context.Context, trace.Span) {
	if t.tracer == nil {
		return ctx, nil
	}
	for _, c := range calls {
		if c.name == service {
			subject := rpcSubject(service)
			return t.begin(ctx, c.zone, "serve "+subject, append(messaging(c.zone, trace.SpanKindServer, "process", "serve", subject), trace.WithNewRoot())...)
		}
	}
	return ctx, nil
}

// call makes the span of a call, which carries nothing.
func (t tracing) call(ctx context.Context, service string) (context.Context, trace.Span) {
	if t.tracer == nil {
		return ctx, nil
	}
	stretch, subject := stretchOf(ctx), rpcSubject(service)
	if name := "call " + subject; stretch != nil && stretch.first(name) {
		return t.tracer.Start(ctx, name, messaging(stretch.zone, trace.SpanKindClient, "send", "call", subject)...)
	}
	return ctx, nil
}

var errHandler = errors.New("the handler failed")

// failed is an internal error unless ok.
func failed(ok bool) error {
	if ok {
		return nil
	}
	return errHandler
}

// finish ends a span, if there is one, and says by its kind what went wrong.
func finish(span trace.Span, err error) {
	if span == nil {
		return
	}
	if err != nil {
		span.SetStatus(codes.Error, "")
		span.SetAttributes(attribute.String("error.type", problem.KindOf(err).String()))
	}
	span.End()
}

// problemOfStatus is the problem that a status of HTTP stands for, nil for none. Connect has one status for each of our kinds.
func problemOfStatus(status int) error {
	kinds := map[int]problem.Kind{
		http.StatusBadRequest: problem.Invalid, http.StatusUnauthorized: problem.Denied, http.StatusForbidden: problem.Denied, http.StatusNotFound: problem.NotFound,
		http.StatusConflict: problem.Stale, http.StatusTooManyRequests: problem.Limited, http.StatusServiceUnavailable: problem.Unavailable,
	}
	if status < http.StatusBadRequest {
		return nil
	}
	return problem.New(kinds[status], "the answer says so") // of a status that is none of ours: Internal
}
