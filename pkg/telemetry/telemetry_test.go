package telemetry_test

import (
	"context"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/telemetry"
)

func scrape(t *testing.T, tel *telemetry.Telemetry) string {
	t.Helper()
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	b, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestOnlyAllowedAttributesLeave plants canaries as keys and values and expects none of them, and all counts.
func TestOnlyAllowedAttributesLeave(t *testing.T) {
	tel, err := telemetry.New(telemetry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := tel.Meter("m").Int64Counter("hub_requests")
	if err != nil {
		t.Fatal(err)
	}
	canary := "canaryqf3k2m5x7aaaabbbbccccdddd"
	for _, a := range []attribute.KeyValue{
		attribute.String("operation", "commit"), attribute.String("kind", "not_found"),
		attribute.String("group", "canary"), attribute.String("operation", canary), attribute.String("kind", "mimi://canary/u/alice"),
		attribute.String("kind", "10.0.0.1"), attribute.Int("kind", 4711), attribute.String(canary, "ok"), attribute.String("kind", "looks_harmless"),
	} {
		c.Add(t.Context(), 1, metric.WithAttributes(a))
	}
	if tel.Dropped() != 7 {
		t.Errorf("%d dropped, want 7", tel.Dropped())
	}
	got := scrape(t, tel)
	for _, want := range []string{`hub_requests_total{operation="commit"} 1`, `hub_requests_total{kind="not_found"} 1`, `hub_requests_total 7`, `telemetry_dropped_total 7`} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in:\n%s", want, got)
		}
	}
	for _, bad := range []string{"canary", "4711", "10.0.0", "otel_scope", "target_info", "service_name"} {
		if strings.Contains(got, bad) {
			t.Errorf("%q left the process:\n%s", bad, got)
		}
	}
}

func TestSeriesAreBounded(t *testing.T) {
	tel, err := telemetry.New(telemetry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := tel.Meter("m").Int64Counter("hub_requests")
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, 26*26)
	for i := range names {
		names[i] = string([]rune{rune('a' + i%26), rune('a' + i/26)})
	}
	defer telemetry.Allow(names...)()
	for _, name := range names {
		c.Add(t.Context(), 1, metric.WithAttributes(attribute.String("kind", name)))
	}
	if n := strings.Count(scrape(t, tel), "hub_requests_total{"); n == 0 || n > 200 {
		t.Errorf("%d series", n)
	}
}

func TestNilMeasuresNothing(t *testing.T) {
	var tel *telemetry.Telemetry
	c, err := tel.Meter("m").Int64Counter("hub_requests")
	if err != nil {
		t.Fatal(err)
	}
	c.Add(t.Context(), 1)
	if got := scrape(t, tel); strings.Contains(got, "hub_requests_total") {
		t.Error("a nil Telemetry served a metric")
	}
	if err := tel.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestShutdownTwice(t *testing.T) {
	tel, err := telemetry.New(telemetry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := tel.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOnlyListedInstrumentsLeave: one that is on no list measures nothing, and a list of its own says which attributes each may have.
func TestOnlyListedInstrumentsLeave(t *testing.T) {
	tel := must(telemetry.New(telemetry.Options{}))
	meter := tel.Meter("m")
	must(meter.Int64Counter("members_of_a_group")).Add(t.Context(), 17)
	must(meter.Int64Counter("hub_sweeps")).Add(t.Context(), 1, metric.WithAttributes(attribute.String("kind", "ok"), attribute.String("operation", "commit")))
	got := scrape(t, tel)
	if strings.Contains(got, "members") || !strings.Contains(got, `hub_sweeps_total{kind="ok"} 1`) {
		t.Errorf("got:\n%s", got)
	}
	if tel.Dropped() != 2 {
		t.Errorf("%d dropped, want the instrument and the operation", tel.Dropped())
	}
}

// TestBusIsListed: spans and metrics may name everything that the bus has.
func TestBusIsListed(t *testing.T) {
	for _, f := range bus.Families() {
		if kind, _, _ := strings.Cut(strings.ToLower(f.Stream), "_"); !telemetry.ListedSubject(f.Pattern) || !telemetry.ListedStream(kind) {
			t.Errorf("%s of %s is on no allow-list", f.Pattern, f.Stream)
		}
	}
}
