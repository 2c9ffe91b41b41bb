package service

import (
	"context"
	"errors"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"mimimi.example/pkg/telemetry"
)

// metrics are the golden signals of whatever answers calls: how many there are, how they end, how long they take, and how many are under way.
type metrics struct {
	requests metric.Int64Counter
	request  metric.Float64Histogram
	inFlight metric.Int64UpDownCounter
}

func newMetrics(t *telemetry.Telemetry) *metrics {
	meter, m := t.Meter("mimimi.example/pkg/service"), new(metrics)
	var errs [3]error
	m.requests, errs[0] = meter.Int64Counter("service_requests", metric.WithDescription("Calls that were answered, opened ones too, by procedure and outcome: ok, refused (the caller's fault, or too many), or failed."))
	m.request, errs[1] = meter.Float64Histogram("service_request", metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(.005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30),
		metric.WithDescription("How long calls took, by procedure. For RelayService/Relay it is the way from the edge to a service and back."))
	m.inFlight, errs[2] = meter.Int64UpDownCounter("service_requests_in_flight", metric.WithDescription("Calls that are under way."))
	if errors.Join(errs[:]...) != nil {
		panic("service: the instruments of package service cannot be made") // their names are constants
	}
	return m
}

// begin counts a call; done, how it ended.
func (m *metrics) begin(ctx context.Context, procedure string) (done func(status int)) {
	start := time.Now()
	m.inFlight.Add(ctx, 1)
	return func(status int) {
		outcome := "ok"
		switch {
		case status >= http.StatusInternalServerError:
			outcome = "failed"
		case status >= http.StatusBadRequest:
			outcome = "refused"
		}
		method := attribute.String("method", procedure)
		m.inFlight.Add(ctx, -1)
		m.request.Record(ctx, telemetry.Coarse(time.Since(start)).Seconds(), metric.WithAttributes(method))
		m.requests.Add(ctx, 1, metric.WithAttributes(method, attribute.String("outcome", outcome)))
	}
}
