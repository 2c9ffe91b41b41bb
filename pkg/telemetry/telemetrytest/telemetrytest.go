// Package telemetrytest reads measurements as a scraper does, for tests.
package telemetrytest

import (
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"mimimi.example/pkg/telemetry"
)

// Value returns the value of a series, written as in `hub_requests_total{kind="ok"}`; 0 if there is none.
func Value(t testing.TB, tel *telemetry.Telemetry, series string) float64 {
	t.Helper()
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		text, ok := strings.CutPrefix(line, series+" ")
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	return 0
}
