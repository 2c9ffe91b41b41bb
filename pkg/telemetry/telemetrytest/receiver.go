package telemetrytest

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	collectorlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlpmetrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	otlptrace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"mimimi.example/pkg/telemetry"
)

// New makes measurements that end with the test, which fails if anything was attached to them that is on no allow-list.
func New(t testing.TB, o telemetry.Options) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tel.Shutdown(t.Context()); err != nil { // its context is done by now, and so is what waits
			t.Error(err)
		}
		if n := tel.Dropped(); n > 0 {
			t.Errorf("%d attributes or span names are on no allow-list of package telemetry", n)
		}
	})
	return tel
}

// Span is an exported span, as a collector gets it.
type Span struct {
	Service, Name, Zone string
	Kind                otlptrace.Span_SpanKind
	Trace, ID, Parent   string // hex; Parent is "" for a root
	Start, End          time.Time
	Attributes          map[string]string
	Links               []string // "trace/span"
	Failed              bool
}

// Receiver is an OTLP/HTTP receiver in this process.
type Receiver struct {
	URL string

	mu      sync.Mutex
	bodies  [][]byte               // guarded by mu
	spans   []Span                 // guarded by mu
	metrics []*otlpmetrics.Metric  // guarded by mu
	logs    []string               // guarded by mu
	odd     []string               // what no export of ours may hold; guarded by mu
	heads   map[string]http.Header // by path, the last; guarded by mu
}

// NewReceiver starts a receiver that ends with the test.
func NewReceiver(t testing.TB) *Receiver {
	r := &Receiver{heads: make(map[string]http.Header)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", r.take(func(b []byte) error {
		m := new(collectortrace.ExportTraceServiceRequest)
		err := proto.Unmarshal(b, m)
		for _, s := range m.GetResourceSpans() {
			r.resource(s)
		}
		return err
	}))
	mux.HandleFunc("POST /v1/metrics", r.take(func(b []byte) error {
		m := new(collectormetrics.ExportMetricsServiceRequest)
		err := proto.Unmarshal(b, m)
		for _, rm := range m.GetResourceMetrics() {
			r.service(rm.GetResource().GetAttributes())
			for _, s := range rm.GetScopeMetrics() {
				r.metrics = append(r.metrics, s.GetMetrics()...)
			}
		}
		return err
	}))
	mux.HandleFunc("POST /v1/logs", r.take(func(b []byte) error {
		m := new(collectorlogs.ExportLogsServiceRequest)
		err := proto.Unmarshal(b, m)
		for _, rl := range m.GetResourceLogs() {
			service := r.service(rl.GetResource().GetAttributes())
			for _, s := range rl.GetScopeLogs() {
				for _, l := range s.GetLogRecords() {
					if len(l.GetAttributes())+len(l.GetTraceId())+len(l.GetSpanId()) > 0 || l.GetTimeUnixNano()%uint64(time.Second)+l.GetObservedTimeUnixNano()%uint64(time.Second) > 0 {
						r.odd = append(r.odd, "a log record has attributes, a trace, or a time finer than a second")
					}
					r.logs = append(r.logs, service+" "+l.GetSeverityText()+" "+l.GetBody().GetStringValue())
				}
			}
		}
		return err
	}))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	r.URL = s.URL
	return r
}

// take makes the handler of one signal.
func (r *Receiver) take(decode func([]byte) error) http.HandlerFunc {
	return func(w http.ResponseWriter, request *http.Request) {
		b, err := io.ReadAll(request.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.bodies = append(r.bodies, b)
		r.heads[request.URL.Path] = request.Header
		if err == nil {
			err = decode(b)
		}
		if err != nil {
			r.odd = append(r.odd, "an export cannot be read")
			http.Error(w, "cannot be read", http.StatusBadRequest)
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}
}

// service is what a resource says, which may be one thing.
func (r *Receiver) service(attributes []*common.KeyValue) string {
	if len(attributes) != 1 || attributes[0].GetKey() != "service.name" {
		r.odd = append(r.odd, "a resource says more than service.name")
		return ""
	}
	return attributes[0].GetValue().GetStringValue()
}

func (r *Receiver) resource(rs *otlptrace.ResourceSpans) {
	service := r.service(rs.GetResource().GetAttributes())
	for _, scope := range rs.GetScopeSpans() {
		for _, s := range scope.GetSpans() {
			out := Span{
				Service: service, Name: s.GetName(), Kind: s.GetKind(), Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()),
				Start: time.Unix(0, int64(s.GetStartTimeUnixNano())), End: time.Unix(0, int64(s.GetEndTimeUnixNano())), Attributes: make(map[string]string),
				Failed: s.GetStatus().GetCode() == otlptrace.Status_STATUS_CODE_ERROR,
			}
			for _, kv := range s.GetAttributes() {
				out.Attributes[kv.GetKey()] = kv.GetValue().GetStringValue()
			}
			out.Zone = out.Attributes["mimimi.zone"]
			for _, l := range s.GetLinks() {
				out.Links = append(out.Links, hex.EncodeToString(l.GetTraceId())+"/"+hex.EncodeToString(l.GetSpanId()))
				if len(l.GetAttributes()) > 0 || l.GetTraceState() != "" {
					r.odd = append(r.odd, "a link says something")
				}
			}
			if s.GetTraceState() != "" || len(s.GetEvents()) > 0 || s.GetStatus().GetMessage() != "" || s.GetDroppedAttributesCount()+s.GetDroppedEventsCount()+s.GetDroppedLinksCount() > 0 {
				r.odd = append(r.odd, "a span has a state, an event, a description, or says that it had")
			}
			r.spans = append(r.spans, out)
		}
	}
}

// Spans are all spans received so far.
func (r *Receiver) Spans() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.spans)
}

// Metrics are all metrics received so far, each as often as it came.
func (r *Receiver) Metrics() []*otlpmetrics.Metric {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.metrics)
}

// Logs are all log records received so far: "service LEVEL message".
func (r *Receiver) Logs() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.logs)
}

// Bodies are all exports received so far, byte for byte.
func (r *Receiver) Bodies() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.bodies)
}

// Check fails the test if anything that was received breaks the rules of every export: what a resource, link, event, status or time may say, one zone and one root to a
// trace, parents that are there, and links within a zone.
func (r *Receiver) Check(t testing.TB) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.odd {
		t.Error(o)
	}
	zones, ids, roots := make(map[string]string), make(map[string]bool), make(map[string]int)
	for _, s := range r.spans {
		ids[s.Trace+"/"+s.ID] = true
		if s.Zone == "" || zones[s.Trace] != "" && zones[s.Trace] != s.Zone {
			t.Errorf("%s: a trace of the zones %q and %q", s.Name, s.Zone, zones[s.Trace])
		}
		zones[s.Trace] = s.Zone
		if s.Parent == "" {
			roots[s.Trace]++
		}
	}
	for _, s := range r.spans {
		if s.Parent != "" && !ids[s.Trace+"/"+s.Parent] {
			t.Errorf("%s: its parent is in no export", s.Name)
		}
		if roots[s.Trace] != 1 {
			t.Errorf("%s: a trace with %d roots", s.Name, roots[s.Trace])
		}
		for _, l := range s.Links {
			if zone, ok := zones[l[:32]]; !ok || zone != s.Zone {
				t.Errorf("%s: a link from zone %q to zone %q", s.Name, s.Zone, zone)
			}
		}
		since := s.Start.Sub(s.Start.Truncate(time.Second))
		if d := s.End.Sub(s.Start); telemetry.Coarse(d) != d || telemetry.Coarse(since) != since {
			t.Errorf("%s: begins %v after a second and takes %v: too fine", s.Name, since, d)
		}
	}
}
