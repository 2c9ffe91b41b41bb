// Package telemetry is the one way out for measurements, traces and their like: OpenTelemetry providers of one service, whose exporters let through what is
// on an allow-list and nothing else. Metrics are served in Prometheus' format and, as traces and logs, sent to an OTLP receiver if one is named.
//
// Guarantees, whatever a call site attaches:
//
//   - Only attributes of the allow-list leave (allow.go), and of those only values of the closed set that the list has for the key. All others are dropped and
//     counted; what they were attached to leaves without them. A metric that is on no list (instruments.go) does not leave at all.
//   - A span leaves under a name of a closed set, without events, description or trace state, and of what made it only the service's name is said. Links lead to
//     spans and say nothing themselves.
//   - A log record leaves as its message, if that is on the list (log.go), its level and its second, and without any attribute.
//   - No time that leaves is finer than a second. Within a trace, lengths and distances are rounded to 1, 2 or 5 times a power of ten of a millisecond: finer ones
//     would tell which spans of two zones belong together (docs/decisions/0011-times-in-traces.md). Spans of one export come in no order.
//   - Trace and span ids are from a cryptographic generator: ids of one zone say nothing about those of another.
//   - No exemplars, no baggage, no host or process attributes, and at most 200 series per instrument.
//   - An export is never waited for. A receiver that is slow or gone costs the spans that do not fit the queue, and three seconds at the very end.
//
// Not guaranteed: that counting something is harmless. What a metric counts is decided in each service's metrics.go, and which spans there are by the
// trace zones of package bus.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	prometheusexporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	metricembedded "go.opentelemetry.io/otel/metric/embedded"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Options says where a service's measurements and traces go. The zero value serves metrics and exports nothing.
type Options struct {
	// Service is the exported service.name: "hub", "kpstore", "fanout", "provider" or "canary". Required with OTLP or Tap.
	Service string
	// OTLP is the base URL of an OTLP/HTTP receiver, as in "http://127.0.0.1:4318"; "" exports nothing.
	OTLP string
	// Sample is the share of traces that is kept, decided where a trace begins, above 0 and up to 1; 0 means 0.01.
	Sample float64
	// Tap, if set, is given the signal ("traces", "metrics", "logs") and body of every export, for the privacy recorder; it is called concurrently. Without OTLP the exports go
	// nowhere else. nil in production.
	Tap func(signal string, export []byte)
}

// Validate returns every problem at once.
func (o *Options) Validate() error {
	var errs []error
	if o.Sample < 0 || o.Sample > 1 {
		errs = append(errs, errors.New("sample: from 0 to 1, where 0 means 0.01"))
	}
	if o.OTLP != "" {
		errs = append(errs, checkURL(o.OTLP))
	}
	if o.exports() && !services[o.Service] {
		errs = append(errs, errors.New("service: it must be one of those of the allow-list"))
	}
	return errors.Join(errs...)
}

func (o *Options) exports() bool { return o.OTLP != "" || o.Tap != nil }

// Telemetry is one service's measurements. It is a metric.MeterProvider. All methods work on nil and then measure nothing.
type Telemetry struct {
	metricembedded.MeterProvider
	meters   *sdkmetric.MeterProvider
	traces   *sdktrace.TracerProvider // nil: none
	logs     *sdklog.LoggerProvider   // nil: none
	registry *prometheus.Registry
	dropped  atomic.Int64 // attributes and names that are on no allow-list
	exports  metric.Int64Counter

	mu          sync.Mutex
	instruments map[string]Instrument // by name; guarded by mu
}

// quiet keeps the library from writing to standard error: what it says names addresses. What we must know of it, we count.
var quiet = sync.OnceFunc(func() { otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {})) })

// New makes the measurements and traces of one service. Errors: an option is not good.
func New(o Options) (*Telemetry, error) {
	quiet()
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("new telemetry: %w", err)
	}
	t := &Telemetry{registry: prometheus.NewRegistry(), instruments: make(map[string]Instrument)}
	reader, err := prometheusexporter.New(prometheusexporter.WithRegisterer(t.registry), prometheusexporter.WithoutScopeInfo(), prometheusexporter.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("new telemetry: %w", err)
	}
	options := []sdkmetric.Option{
		sdkmetric.WithReader(reader), sdkmetric.WithResource(resource.Empty()), sdkmetric.WithExemplarFilter(exemplar.AlwaysOffFilter), sdkmetric.WithCardinalityLimit(maxSeries),
		sdkmetric.WithView(t.view),
	}
	if o.exports() {
		pushed, err := t.pushMetrics(o)
		if err != nil {
			return nil, fmt.Errorf("new telemetry: %w", err)
		}
		options = append(options, sdkmetric.WithReader(pushed))
		if t.traces, err = t.pushTraces(o); err != nil {
			return nil, fmt.Errorf("new telemetry: %w", err)
		}
		if t.logs, err = t.pushLogs(o); err != nil {
			return nil, fmt.Errorf("new telemetry: %w", err)
		}
	}
	t.meters = sdkmetric.NewMeterProvider(options...)
	return t, t.measureItself()
}

// measureItself makes the instruments of this package.
func (t *Telemetry) measureItself() (err error) {
	meter := t.meters.Meter("mimimi.example/pkg/telemetry")
	_, err = meter.Int64ObservableCounter("telemetry_dropped",
		metric.WithDescription("Attributes, span names, instruments and log messages that were on no allow-list and did not leave. Anything above 0 is a mistake in this program."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(t.dropped.Load())
			return nil
		}))
	if err != nil {
		return err
	}
	t.exports, err = meter.Int64Counter("telemetry_exports", metric.WithDescription("Exports to the OTLP receiver, by outcome. What failed is lost."))
	return err
}

// exported counts an export. Its error is not passed on: nobody could do anything about it but lose more time.
func (t *Telemetry) exported(ctx context.Context, err error) error {
	outcome := "ok"
	if err != nil {
		outcome = "failed"
	}
	t.exports.Add(ctx, 1, metric.WithAttributes(attribute.String("outcome", outcome)))
	return nil
}

// Dropped is how many attributes, span names and instruments were on no allow-list: 0, unless a call site is wrong.
func (t *Telemetry) Dropped() int64 {
	if t == nil {
		return 0
	}
	return t.dropped.Load()
}

// Meter makes instruments, as otel.Meter does.
func (t *Telemetry) Meter(name string, options ...metric.MeterOption) metric.Meter {
	if t == nil {
		return metricnoop.NewMeterProvider().Meter(name, options...)
	}
	return t.meters.Meter(name, options...)
}

// Traces makes tracers; nil if nothing is traced.
func (t *Telemetry) Traces() trace.TracerProvider {
	if t == nil || t.traces == nil {
		return nil // and not a nil pointer in an interface
	}
	return t.traces
}

// Handler serves the measurements in Prometheus' format, for a private listener only.
func (t *Telemetry) Handler() http.Handler {
	if t == nil {
		return http.NotFoundHandler()
	}
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4})
}

// Shutdown exports what waits, for three seconds at most, and ends the measurements; later ones are lost. A receiver that does not answer is no error, nor is
// repeating it.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	var errs []error
	if t.traces != nil {
		errs = append(errs, t.traces.Shutdown(ctx), t.logs.Shutdown(ctx))
	}
	errs = append(errs, t.meters.Shutdown(ctx))
	for _, err := range errs {
		if err != nil && !errors.Is(err, sdkmetric.ErrReaderShutdown) && ctx.Err() == nil {
			return fmt.Errorf("shut down telemetry: %w", err)
		}
	}
	return nil
}
