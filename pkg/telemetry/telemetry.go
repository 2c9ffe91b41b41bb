// Package telemetry is the one way out for measurements: an OpenTelemetry meter provider per service with a Prometheus registry of its own.
//
// Guarantees: whatever a call site attaches, only attributes of the allow-list below leave, and of those only values that look like a name from source
// code: at most 24 lower-case letters and underscores, which no token, key, pseudonym, address or number is. All others are dropped, and their measurements counted without them.
// No exemplars, no trace context, no host or process attributes, and at most 200 series per instrument.
//
// Not guaranteed: that counting something is harmless. What a metric counts is decided in each service's metrics.go.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/embedded"
	"go.opentelemetry.io/otel/metric/noop"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/resource"
)

// maxSeries per instrument: every label is an enumeration, and the largest product of two is below it.
const maxSeries = 200

// Telemetry is one service's measurements. It is a metric.MeterProvider. All methods work on nil and then measure nothing.
type Telemetry struct {
	embedded.MeterProvider
	provider *sdk.MeterProvider
	registry *prometheus.Registry
}

// New makes the measurements of one service.
func New() (*Telemetry, error) {
	registry := prometheus.NewRegistry()
	reader, err := exporter.New(exporter.WithRegisterer(registry), exporter.WithoutScopeInfo(), exporter.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("new telemetry: %w", err)
	}
	provider := sdk.NewMeterProvider(sdk.WithReader(reader), sdk.WithResource(resource.Empty()), sdk.WithExemplarFilter(exemplar.AlwaysOffFilter), sdk.WithCardinalityLimit(maxSeries),
		sdk.WithView(sdk.NewView(sdk.Instrument{Name: "*"}, sdk.Stream{AttributeFilter: allowed})))
	return &Telemetry{provider: provider, registry: registry}, nil
}

// keys is the allow-list of attributes. Each is an enumeration in some service's metrics.go.
var keys = map[attribute.Key]bool{"operation": true, "kind": true, "outcome": true, "cause": true, "set": true, "stream": true}

// maxValue is the longest value that is let through; tokens have 32 characters, keys and pseudonyms more.
const maxValue = 24

// allowed is the filter that every instrument goes through.
func allowed(kv attribute.KeyValue) bool {
	return keys[kv.Key] && kv.Value.Type() == attribute.STRING && plain(kv.Value.AsString())
}

// plain says whether a value looks like a name from source code.
func plain(v string) bool {
	if v == "" || len(v) > maxValue {
		return false
	}
	for _, c := range v {
		if (c < 'a' || c > 'z') && c != '_' {
			return false
		}
	}
	return true
}

// Meter makes instruments, as otel.Meter does.
func (t *Telemetry) Meter(name string, options ...metric.MeterOption) metric.Meter {
	if t == nil {
		return noop.NewMeterProvider().Meter(name, options...)
	}
	return t.provider.Meter(name, options...)
}

// Handler serves the measurements in Prometheus' format, for a private listener only.
func (t *Telemetry) Handler() http.Handler {
	if t == nil {
		return http.NotFoundHandler()
	}
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4})
}

// Shutdown ends the measurements; later ones are lost. Repeating it is no error.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	if t == nil {
		return nil
	}
	if err := t.provider.Shutdown(ctx); err != nil && !errors.Is(err, sdk.ErrReaderShutdown) {
		return fmt.Errorf("shut down telemetry: %w", err)
	}
	return nil
}
