package main

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"mimimi.example/cmd/mimimi/domain"
	"mimimi.example/pkg/telemetry"
	"mimimi.example/pkg/telemetry/telemetrytest"
)

// update makes TestMetricsDocument write docs/metrics.md; make generate sets it.
var update = flag.Bool("update", false, "write the generated documents")

const metricsDocument = "../../docs/metrics.md"

// prometheusName is an instrument's name as it is scraped.
func prometheusName(i telemetry.Instrument) string {
	name := strings.ReplaceAll(i.Name, ".", "_")
	if i.Unit == "s" {
		name += "_seconds"
	}
	if i.Kind == "counter" {
		name += "_total"
	}
	return name
}

// documented is an instrument with the services that have it.
type documented struct {
	telemetry.Instrument
	services []string
}

// gather joins what the services measure.
func gather(byService map[string][]telemetry.Instrument) []*documented {
	found := make(map[string]*documented)
	for service, all := range byService {
		for _, i := range all {
			if found[i.Name] == nil {
				found[i.Name] = &documented{Instrument: i}
			}
			found[i.Name].services = append(found[i.Name].services, service)
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b *documented) int {
		return cmp.Compare(prometheusName(a.Instrument), prometheusName(b.Instrument))
	})
}

// writeMetrics makes the document.
func writeMetrics(all []*documented) []byte {
	var b bytes.Buffer
	b.WriteString("# Metrics\n\nMade from the instruments by `make generate`; do not edit.\n\n" +
		"What each service's private listener serves under `/metrics`, in Prometheus' names, and what goes to an OTLP receiver if one is set. Histograms have `_bucket`, `_sum` and `_count`. Durations are rounded down to 1, 2 or 5 times a power of ten of a millisecond " +
		"before they are counted ([decision 0011](decisions/0011-times-in-traces.md)), so a sum is one of rounded values.\n\n| metric | type | labels | services | what it is |\n|---|---|---|---|---|\n")
	values := make(map[string][]string)
	for _, i := range all {
		labels := slices.Sorted(maps.Keys(i.Labels))
		for _, l := range labels {
			values[l] = i.Labels[l]
		}
		slices.Sort(i.services)
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", prometheusName(i.Instrument), i.Kind, strings.Join(labels, ", "), strings.Join(i.services, ", "), i.Description)
	}
	b.WriteString("\n## Labels\n\nEach has the values of a closed list and no other; no metric has all values of its label.\n\n| label | values |\n|---|---|\n")
	for _, l := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&b, "| %s | %s |\n", l, strings.Join(values[l], ", "))
	}
	return b.Bytes()
}

// TestMetricsDocument: docs/metrics.md says what a running domain measures, under the names under which that is scraped.
func TestMetricsDocument(t *testing.T) {
	d, err := domain.Start(t.Context(), domain.Options{Dir: t.TempDir(), Domain: ownDomain})
	if err != nil {
		t.Fatal(err)
	}
	scraped := new(bytes.Buffer)
	if err := d.Metrics(func(_ string, page []byte) { scraped.Write(page) }); err != nil {
		t.Error(err)
	}
	byService := d.Instruments()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := d.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if n := d.NotAllowed(); n > 0 {
		t.Errorf("%d attributes or instruments are on no allow-list", n)
	}
	canary := telemetrytest.New(t, telemetry.Options{})
	if _, err := newCanaryMetrics(canary); err != nil {
		t.Fatal(err)
	}
	byService["canary"] = canary.Instruments()
	all := gather(byService)
	for _, i := range all {
		if i.Description == "" || i.Kind == "" {
			t.Errorf("%s: nothing says what it is", i.Name)
		}
	}
	for _, want := range []string{"telemetry_dropped_total", "bus_lag", "bus_oldest_seconds"} { // which are there from the start
		if !strings.Contains(scraped.String(), "\n"+want) || !slices.ContainsFunc(all, func(i *documented) bool { return prometheusName(i.Instrument) == want }) {
			t.Errorf("%s is not scraped, or under another name", want)
		}
	}
	got := writeMetrics(all)
	if *update {
		if err := os.WriteFile(metricsDocument, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(metricsDocument)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, got) {
		t.Error("docs/metrics.md is not what the services measure: run make generate")
	}
}
