package privacy

import (
	"encoding/hex"
	"regexp"
	"slices"
	"strings"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"mimimi.example/pkg/bus"
)

// traceKind is the kind of leaks that are no canary's: trace context where none may be.
const traceKind = "trace context"

// traces is what was seen of trace context. Guarded by Recorder.mu.
type traces struct {
	found  []Leak
	zones  map[string]place // by trace id: where it was seen first
	linked []linked
	spans  map[string]int // by zone
}

// place is a zone of a domain.
type place struct{ domain, zone string }

// linked is a trace id that a place named as its own.
type linked struct {
	place
	id   string
	leak Leak
}

var (
	traceHeaders = []string{"traceparent", "tracestate", "baggage"}
	traceParent  = regexp.MustCompile(`^00-([0-9a-f]{32})-[0-9a-f]{16}-01$`)
	inRequest    = regexp.MustCompile(`(?im)^(traceparent|tracestate|baggage):`)
)

// Spans is how many spans were exported, by zone.
func (r *Recorder) Spans() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]int)
	for z, n := range r.traces.spans {
		out[z] = n
	}
	return out
}

// Export puts what a service exported, the body of one OTLP request, into its views, and holds its traces to the zones: all spans of a trace, and whatever they name as parent
// or link, belong to one zone of one domain.
func (r *Recorder) Export(domain, service, signal string, body []byte) {
	for _, role := range rolesOf(service) {
		r.Add(View{domain, role}, "export", body)
	}
	if signal != "traces" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	leak := Leak{Kind: traceKind, Label: "an export", Domain: domain, Role: rolesOf(service)[0], Where: "export", Form: "raw"}
	request := new(collector.ExportTraceServiceRequest)
	if err := proto.Unmarshal(body, request); err != nil {
		r.traces.found = append(r.traces.found, leak)
		return
	}
	for _, resource := range request.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				r.traces.span(domain, s, leak)
			}
		}
	}
}

// span notes where a span belongs. Its parent is in its own trace by the form of a span.
func (t *traces) span(domain string, s *spans.Span, leak Leak) {
	at := place{domain, ""}
	for _, kv := range s.GetAttributes() {
		if kv.GetKey() == "mimimi.zone" {
			at.zone = kv.GetValue().GetStringValue()
		}
	}
	if t.spans == nil {
		t.spans = make(map[string]int)
	}
	t.spans[at.zone]++
	if at.zone == "" {
		t.found = append(t.found, leak)
	}
	t.name(at, hex.EncodeToString(s.GetTraceId()), leak)
	for _, l := range s.GetLinks() {
		t.name(at, hex.EncodeToString(l.GetTraceId()), leak)
	}
}

// name notes that a place knows a trace.
func (t *traces) name(at place, id string, leak Leak) {
	if t.zones == nil {
		t.zones = make(map[string]place)
	}
	if _, ok := t.zones[id]; !ok {
		t.zones[id] = at
	}
	t.linked = append(t.linked, linked{at, id, leak})
}

// leaks returns what breaks the rule of the zones.
func (t *traces) leaks() []Leak {
	found := slices.Clone(t.found)
	for _, l := range t.linked {
		if t.zones[l.id] != l.place {
			found = append(found, l.leak)
		}
	}
	return found
}

// header holds the headers of a message on the bus to the zones: one that carries trace context is of a traced family, or the answer to somebody who may read one, and
// carries nothing but a well-formed traceparent of a trace that is kept.
func (r *Recorder) header(domain, subject string, roles []Role, header map[string][]string) {
	for name, values := range header {
		if !slices.ContainsFunc(traceHeaders, func(h string) bool { return strings.EqualFold(h, name) }) {
			continue
		}
		leak := Leak{Kind: traceKind, Label: "a trace header", Domain: domain, Role: roles[0], Where: "header", Form: "raw"}
		zone := zoneOf(subject, roles)
		var m []string
		if len(values) == 1 {
			m = traceParent.FindStringSubmatch(values[0])
		}
		r.mu.Lock()
		if name != "traceparent" || zone == "" || m == nil {
			r.traces.found = append(r.traces.found, leak)
		} else {
			r.traces.name(place{domain, zone}, m[1], leak)
		}
		r.mu.Unlock()
	}
}

// zoneOf is the zone whose traces a message on a subject may carry; "" for none.
func zoneOf(subject string, roles []Role) string {
	for _, f := range bus.Families() {
		if f.Traced() && matches(f.Pattern, subject) {
			return string(f.Zone)
		}
	}
	if !strings.HasPrefix(subject, "_INBOX_") {
		return ""
	}
	for _, f := range bus.Families() {
		if own := familyRoles(f); f.Traced() && !slices.ContainsFunc(roles, func(role Role) bool { return !slices.Contains(own, role) }) {
			return string(f.Zone)
		}
	}
	return ""
}

// request looks for trace context in what a listener was sent or sends.
func (r *Recorder) request(v View, parts [][]byte) {
	for _, p := range parts {
		if inRequest.Match(p) {
			r.mu.Lock()
			r.traces.found = append(r.traces.found, Leak{Kind: traceKind, Label: "a request's header", Domain: v.Domain, Role: v.Role, Where: "request", Form: "raw"})
			r.mu.Unlock()
		}
	}
}
