package telemetry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
)

// checkURL checks the base URL of a receiver.
func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("otlp: a URL such as http://127.0.0.1:4318, without user, query and fragment")
	}
	return nil
}

// endpoint is where one signal goes: the base URL's path and the signal's of OTLP/HTTP.
func (o *Options) endpoint(signal string) string {
	base := o.OTLP
	if base == "" {
		base = "http://nowhere.invalid"
	}
	return strings.TrimRight(base, "/") + "/v1/" + signal
}

// client is what exports go through. It follows no redirect and no proxy of the environment: only the configuration says where they go.
func (o *Options) client() *http.Client {
	var transport http.RoundTripper
	if o.OTLP != "" {
		transport = &http.Transport{MaxIdleConns: 2, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: maxAnswer, ForceAttemptHTTP2: true}
	}
	if o.Tap != nil {
		transport = &tapped{next: transport, tap: o.Tap}
	}
	return &http.Client{Transport: transport, Timeout: exportTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// tapped shows exports to the privacy recorder on their way.
type tapped struct {
	next http.RoundTripper // nil: nowhere
	tap  func(string, []byte)
}

// RoundTrip is http.RoundTripper's.
func (t *tapped) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err = errors.Join(err, r.Body.Close()); err != nil {
		return nil, err
	}
	t.tap(path.Base(r.URL.Path), body)
	if t.next == nil {
		return &http.Response{Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	}
	again := r.Clone(r.Context())
	again.Body = io.NopCloser(bytes.NewReader(body))
	return t.next.RoundTrip(again)
}

// about is all that an export says of what made it.
func about(service string) *resource.Resource {
	return resource.NewSchemaless(attribute.String("service.name", service))
}

// pushMetrics makes the reader that sends the metrics from time to time.
func (t *Telemetry) pushMetrics(o Options) (sdkmetric.Reader, error) {
	out, err := otlpmetrichttp.New(context.Background(), otlpmetrichttp.WithEndpointURL(o.endpoint("metrics")), otlpmetrichttp.WithHTTPClient(o.client()), otlpmetrichttp.WithHeaders(nil),
		otlpmetrichttp.WithTimeout(exportTimeout), otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig{}), otlpmetrichttp.WithCompression(otlpmetrichttp.NoCompression))
	if err != nil {
		return nil, err
	}
	return sdkmetric.NewPeriodicReader(&metricExporter{Exporter: out, t: t, about: about(o.Service)}, sdkmetric.WithInterval(collectEvery), sdkmetric.WithTimeout(exportTimeout)), nil
}

// metricExporter is the one way out for metrics over OTLP. Attributes are filtered where they are measured.
type metricExporter struct {
	sdkmetric.Exporter
	t     *Telemetry
	about *resource.Resource
}

// Export sends what is left of rm.
func (e *metricExporter) Export(ctx context.Context, rm *metricdata.ResourceMetrics) error {
	clean := &metricdata.ResourceMetrics{Resource: e.about}
	for _, scope := range rm.ScopeMetrics {
		scope.Metrics = append([]metricdata.Metrics(nil), scope.Metrics...)
		for i, m := range scope.Metrics {
			scope.Metrics[i].Data = coarseData(m.Data)
		}
		clean.ScopeMetrics = append(clean.ScopeMetrics, scope)
	}
	return e.t.exported(ctx, e.Exporter.Export(ctx, clean))
}

// Shutdown ends the exporter. What it could not send is lost.
func (e *metricExporter) Shutdown(ctx context.Context) error {
	_ = e.Exporter.Shutdown(ctx) // an exporter that is down already, or a receiver that is
	return nil
}

// coarseData rounds times to seconds, and leaves out exemplars and the largest and smallest of what a histogram counts: each is one measurement.
func coarseData(a metricdata.Aggregation) metricdata.Aggregation {
	switch d := a.(type) {
	case metricdata.Sum[int64]:
		d.DataPoints = coarsePoints(d.DataPoints)
		return d
	case metricdata.Sum[float64]:
		d.DataPoints = coarsePoints(d.DataPoints)
		return d
	case metricdata.Gauge[int64]:
		d.DataPoints = coarsePoints(d.DataPoints)
		return d
	case metricdata.Gauge[float64]:
		d.DataPoints = coarsePoints(d.DataPoints)
		return d
	case metricdata.Histogram[int64]:
		d.DataPoints = coarseHistogram(d.DataPoints)
		return d
	case metricdata.Histogram[float64]:
		d.DataPoints = coarseHistogram(d.DataPoints)
		return d
	}
	return nil // no instrument of ours is of another kind
}

func coarsePoints[N int64 | float64](in []metricdata.DataPoint[N]) []metricdata.DataPoint[N] {
	out := make([]metricdata.DataPoint[N], len(in))
	for i, p := range in {
		out[i] = metricdata.DataPoint[N]{Attributes: p.Attributes, StartTime: p.StartTime.Truncate(time.Second), Time: p.Time.Truncate(time.Second), Value: p.Value}
	}
	return out
}

func coarseHistogram[N int64 | float64](in []metricdata.HistogramDataPoint[N]) []metricdata.HistogramDataPoint[N] {
	out := make([]metricdata.HistogramDataPoint[N], len(in))
	for i, p := range in {
		out[i] = metricdata.HistogramDataPoint[N]{Attributes: p.Attributes, StartTime: p.StartTime.Truncate(time.Second), Time: p.Time.Truncate(time.Second),
			Count: p.Count, Bounds: p.Bounds, BucketCounts: p.BucketCounts, Sum: p.Sum}
	}
	return out
}
