package layout

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const observability = "../../deploy/observability/"

// metricsOf reads docs/metrics.md, which a test of cmd/mimimi holds to what the services measure: the names that can be queried, with their labels, and the values of labels.
func metricsOf(t *testing.T) (metrics map[string][]string, values map[string][]string) {
	t.Helper()
	metrics, values = map[string][]string{"up": {"job"}}, make(map[string][]string)
	metric := regexp.MustCompile("^\\| `([a-z_]+)` \\| ([a-z]+) \\| ([a-z, ]*) \\|")
	for line := range strings.Lines(read(t, "../../docs/metrics.md")) {
		if m := metric.FindStringSubmatch(line); m != nil {
			labels := strings.FieldsFunc(m[3], func(r rune) bool { return r == ',' || r == ' ' })
			if m[2] == "histogram" {
				for _, suffix := range []string{"_bucket", "_sum", "_count"} {
					metrics[m[1]+suffix] = append([]string{"le"}, labels...)
				}
				continue
			}
			metrics[m[1]] = labels
		} else if cells := strings.Split(line, "|"); len(cells) == 4 && !strings.HasPrefix(line, "|---") {
			values[strings.TrimSpace(cells[1])] = strings.Split(strings.TrimSpace(cells[2]), ", ")
		}
	}
	if len(metrics) < 50 || len(values) < 5 {
		t.Fatalf("docs/metrics.md names %d metrics and %d labels", len(metrics), len(values))
	}
	return metrics, values
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var (
	selector = regexp.MustCompile(`\b([a-z]+(?:_[a-z]+)*)\b(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"`)
	by       = regexp.MustCompile(`\bby \(([^)]*)\)`)
)

// checkQuery finds metrics, labels and values of labels in a query that do not exist.
func checkQuery(metrics, values map[string][]string, query string) (faults []string) {
	functions := []string{"sum", "max", "rate", "increase", "histogram_quantile", "or", "and", "by", "s", "m", "h"}
	var labels []string
	for _, m := range selector.FindAllStringSubmatch(by.ReplaceAllString(query, "by"), -1) {
		own, ok := metrics[m[1]]
		switch {
		case ok:
			labels = append(labels, own...)
		case slices.Contains(functions, m[1]):
			continue
		default:
			faults = append(faults, "no metric "+m[1])
		}
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(own, l[1]) {
				faults = append(faults, m[1]+" has no label "+l[1])
			}
			for _, v := range strings.Split(l[3], "|") {
				if known := values[l[1]]; known != nil && !slices.Contains(known, v) {
					faults = append(faults, "no value "+v+" of "+l[1])
				}
			}
		}
	}
	if len(labels) == 0 && len(faults) == 0 && !strings.Contains(query, "_") {
		faults = append(faults, "no metric at all")
	}
	for _, m := range by.FindAllStringSubmatch(query, -1) {
		for _, l := range strings.Split(m[1], ", ") {
			if l != "instance" && !slices.Contains(labels, l) {
				faults = append(faults, "nothing has the label "+l)
			}
		}
	}
	return faults
}

// TestQueriesAreChecked: what the check below must find.
func TestQueriesAreChecked(t *testing.T) {
	metrics, values := metricsOf(t)
	for query, good := range map[string]bool{
		`max(bus_lag{stream="group"}) > 1000`: true,
		`histogram_quantile(0.9, sum by (le, method) (rate(service_request_seconds_bucket[5m]))) > 2`: true,
		`sum by (kind) (rate(hub_requests_total{kind!~"ok|stale"}[5m]))`:                              true,
		`max(bus_lags)`:                                       false,
		`rate(service_request_seconds[5m])`:                   false,
		`bus_lag{stream="groups"}`:                            false,
		`bus_lag{queue="group"}`:                              false,
		`sum by (kind) (rate(provider_deliveries_total[5m]))`: false,
		`1 > 0`: false,
	} {
		if faults := checkQuery(metrics, values, query); (len(faults) == 0) != good {
			t.Errorf("%s: %v", query, faults)
		}
	}
}

// TestAlerts: every alert asks for metrics that there are, and has a runbook of its name that repeats its query and says what to look at and what to do; no runbook has no alert.
func TestAlerts(t *testing.T) {
	metrics, values := metricsOf(t)
	alert := regexp.MustCompile(`(?m)^      - alert: (\w+)\n        expr: '([^\n]*)'\n        for: \w+\n        labels:\n          severity: (page|ticket)\n        annotations:\n          summary: ([^\n]+)\n          runbook: docs/runbooks/(\w+)\.md$`)
	file := read(t, observability+"alerts.yaml")
	alerts := alert.FindAllStringSubmatch(file, -1)
	if n := strings.Count(file, "alert:"); n != len(alerts) || n < 20 {
		t.Errorf("%d alerts, %d with query, duration, severity, summary and runbook", n, len(alerts))
	}
	names := make(map[string]bool)
	for _, a := range alerts {
		name, query := a[1], a[2]
		names[name] = true
		for _, fault := range checkQuery(metrics, values, query) {
			t.Errorf("%s: %s", name, fault)
		}
		if a[5] != name {
			t.Errorf("%s has the runbook of %s", name, a[5])
		}
		book := read(t, "../../docs/runbooks/"+name+".md")
		for _, want := range []string{"# " + name + "\n", "\n    " + query + "\n", "\n## What it means\n\n", "\n## Look at\n\n- ", "\n## Do\n\n- "} {
			if !strings.Contains(book, want) {
				t.Errorf("the runbook of %s lacks %q", name, strings.TrimSpace(want))
			}
		}
	}
	mentioned := regexp.MustCompile("`([a-z]+_[a-z_]+)(\\{[^`]*\\})?`")
	books, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range books {
		if name := strings.TrimSuffix(filepath.Base(path), ".md"); !names[name] {
			t.Errorf("no alert has the runbook %s", name)
		}
		for _, m := range mentioned.FindAllStringSubmatch(read(t, path), -1) {
			name := m[1]
			if _, histogram := metrics[name+"_bucket"]; histogram {
				name += "_bucket"
			}
			if faults := checkQuery(metrics, values, name+m[2]); strings.HasPrefix(m[1], "bus_") || strings.HasPrefix(m[1], "provider_") || strings.HasSuffix(m[1], "_total") || strings.HasSuffix(m[1], "_seconds") {
				for _, fault := range faults {
					t.Errorf("%s: %s", filepath.Base(path), fault)
				}
			}
		}
	}
}

// TestDashboards: every panel asks for metrics that there are, and every metric that counts is on a panel.
func TestDashboards(t *testing.T) {
	metrics, values := metricsOf(t)
	files, err := filepath.Glob(observability + "dashboards/*.json")
	if err != nil || len(files) < 3 {
		t.Fatalf("%d dashboards, %v", len(files), err)
	}
	all := ""
	for _, path := range files {
		var d struct {
			UID, Title string
			Panels     []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		if err := json.Unmarshal([]byte(read(t, path)), &d); err != nil || d.UID != strings.TrimSuffix(filepath.Base(path), ".json") || d.Title == "" || len(d.Panels) == 0 {
			t.Errorf("%s: %v, %q with %d panels", filepath.Base(path), err, d.Title, len(d.Panels))
		}
		for _, p := range d.Panels {
			if len(p.Targets) == 0 {
				t.Errorf("%s: the panel %q asks for nothing", d.Title, p.Title)
			}
			for _, target := range p.Targets {
				all += target.Expr + "\n"
				for _, fault := range checkQuery(metrics, values, target.Expr) {
					t.Errorf("%s, %s: %s", d.Title, p.Title, fault)
				}
			}
		}
	}
	for _, want := range []string{"service_requests_total", "service_request_seconds_bucket", "service_requests_in_flight", "bus_lag", "bus_oldest_seconds", "bus_dead_letters_total", "provider_delivery_seconds_bucket",
		"provider_queue_age_seconds_bucket", "kpstore_stock_bucket", "kpstore_claims_total", "provider_tokens_issued_total", "tokens_redeemed_total", "canary_delivery_seconds_bucket"} {
		if !strings.Contains(all, want) {
			t.Errorf("no panel shows %s", want)
		}
	}
}
