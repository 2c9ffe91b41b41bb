package service

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/telemetry"
	"mimimi.example/pkg/telemetry/telemetrytest"
)

// TestProcedures: every call of the schema has a zone and a span, but for streams, which last as long as a client is there.
func TestProcedures(t *testing.T) {
	n := 0
	protoregistry.GlobalFiles.RangeFilesByPackage("mimimi.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			methods := f.Services().Get(i).Methods()
			for j := range methods.Len() {
				n++
				m := methods.Get(j)
				path := "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
				name, ok := telemetry.Procedure(path)
				if ok == m.IsStreamingServer() {
					t.Errorf("%s: traced %v", path, ok)
				}
				if zoneOf(name) == "" {
					t.Errorf("%s has no zone", path)
				}
			}
		}
		return true
	})
	if n < 40 {
		t.Errorf("only %d procedures", n)
	}
	if zoneOf("mimimi.v1.FederationService/Notify") != bus.ZoneQueue || zoneOf("mimimi.v1.FederationService/Relay") != bus.ZoneRelay {
		t.Error("what another domain notifies of goes to queues, and what it relays does not")
	}
}

// TestNothingFromClients: no header of a request begins, joins or annotates a trace, and what is no procedure is not traced.
func TestNothingFromClients(t *testing.T) {
	r := telemetrytest.NewReceiver(t)
	tel := telemetrytest.New(t, telemetry.Options{Service: "provider", OTLP: r.URL, Sample: 1})
	d := bustest.Start(t)
	o := d.Options("provider")
	o.Traces = tel.Traces()
	b, err := bus.Connect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	env := &Env{Bus: b}
	h := env.Handler("anonymous", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("X-Panic") != "":
			panic(http.ErrAbortHandler)
		case r.Header.Get("X-Full") != "":
			w.WriteHeader(http.StatusTooManyRequests)
		}
		_, _ = w.Write([]byte("answer"))
	}))
	call := func(path string, more ...string) {
		q := httptest.NewRequest(http.MethodPost, path, nil)
		q.Header.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		q.Header.Set("tracestate", "vendor=canary")
		q.Header.Set("baggage", "user=canary")
		for _, name := range more {
			q.Header.Set(name, "1")
		}
		defer func() { _ = recover() }()
		h.ServeHTTP(httptest.NewRecorder(), q)
	}
	call("/mimimi.v1.QueueService/Read")
	call("/mimimi.v1.QueueService/Ack", "X-Full")
	call("/mimimi.v1.RelayService/Relay", "X-Panic")
	call("/mimimi.v1.QueueService/Watch")
	call("/canary")
	call("/mimimi.v1.QueueService/canary")
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Check(t)
	want := map[string]string{"mimimi.v1.QueueService/Read": "", "mimimi.v1.QueueService/Ack": "limited", "mimimi.v1.RelayService/Relay": "internal"}
	for _, s := range r.Spans() {
		kind, ok := want[s.Name]
		if !ok || s.Parent != "" || len(s.Links) > 0 || s.Trace == "0af7651916cd43dd8448eb211c80319c" || s.Attributes["error.type"] != kind || s.Failed != (kind != "") {
			t.Errorf("%+v", s)
		}
		delete(want, s.Name)
	}
	if len(want) > 0 {
		t.Errorf("no span of %v", want)
	}
	for _, body := range r.Bodies() {
		if strings.Contains(string(body), "canary") {
			t.Error("what a client sent is exported")
		}
	}
}

func TestOTLPSection(t *testing.T) {
	section := func(otlp any) string {
		b, err := json.Marshal(map[string]any{"bus": BusConfig{URL: "nats://x", DeploymentKeyFile: "y"}, "process": map[string]any{"otlp": otlp}})
		if err != nil {
			t.Fatal(err)
		}
		return write(t, string(b))
	}
	own, err := loadOwn(section(map[string]any{"endpoint": "http://collector:4318", "sample": 0.1}))
	if err != nil {
		t.Fatal(err)
	}
	if o := own.Process.OTLP.options("hub"); o.Service != "hub" || o.OTLP != "http://collector:4318" || o.Sample != 0.1 {
		t.Errorf("%+v", o)
	}
	for name, otlp := range map[string]any{"no URL": map[string]any{"endpoint": "collector:4318"}, "sample": map[string]any{"sample": 2}, "unknown key": map[string]any{"url": "x"}} {
		if err := LoadJSON(section(otlp), new(testConfig)); err == nil || !strings.Contains(err.Error(), "process") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
