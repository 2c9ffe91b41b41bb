package kpstore

import (
	"context"
	"errors"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/problem"
)

// metrics are the store's. Their labels come from closed sets; none tells one index, alias or set from another.
type metrics struct {
	requests   metric.Int64Counter
	claims     metric.Int64Counter
	refused    metric.Int64Counter
	stock      metric.Int64Histogram
	notices    metric.Int64Counter
	unreadable metric.Int64Counter
}

func newMetrics(meter metric.Meter) (*metrics, error) {
	m := new(metrics)
	var errs [6]error
	m.requests, errs[0] = meter.Int64Counter("kpstore_requests", metric.WithDescription("Requests by operation and kind of the answer."))
	m.claims, errs[1] = meter.Int64Counter("kpstore_claims",
		metric.WithDescription("Claims by what they got: a one-time set, a last-resort set (which links two groups at a hub), or nothing."))
	m.refused, errs[2] = meter.Int64Counter("kpstore_claims_refused", metric.WithDescription("Claims that got nothing, by cause."))
	m.stock, errs[3] = meter.Int64Histogram("kpstore_stock", metric.WithExplicitBucketBoundaries(0, 4, 12, 25, 50, 100, 250),
		metric.WithDescription("One-time sets that a claim left in its index."))
	m.notices, errs[4] = meter.Int64Counter("kpstore_low_stock_notices", metric.WithDescription("Notices of a low stock to owners, by whether they were sent."))
	m.unreadable, errs[5] = meter.Int64Counter("kpstore_sets_unreadable",
		metric.WithDescription("Stored sets that cannot be read and were passed over, once for each replica; DEAD says which."))
	return m, errors.Join(errs[:]...)
}

func (m *metrics) request(ctx context.Context, op string, err error) {
	kind := "ok"
	if err != nil {
		kind = problem.KindOf(err).String()
	}
	m.requests.Add(ctx, 1, metric.WithAttributes(attribute.String("operation", strings.ReplaceAll(op, " ", "_")), attribute.String("kind", kind)))
}

func (m *metrics) claimed(ctx context.Context, r *v1.ClaimResponse, err error) {
	got := "one_time"
	switch {
	case err != nil:
		got = "nothing"
		m.refused.Add(ctx, 1, metric.WithAttributes(attribute.String("cause", refusal(err))))
	case r.GetLastResort():
		got = "last_resort"
	}
	m.claims.Add(ctx, 1, metric.WithAttributes(attribute.String("set", got)))
}

// refusal is the label value of why a claim got nothing.
func refusal(err error) string {
	switch {
	case errors.Is(err, errNothing):
		return "nothing_left"
	case errors.Is(err, errTooMany):
		return "alias_limit"
	case errors.Is(err, errTooManyIssuer):
		return "issuer_limit"
	}
	return problem.KindOf(err).String()
}

func (m *metrics) noticed(ctx context.Context, sent bool, err error) {
	outcome := "sent"
	switch {
	case err != nil:
		outcome = "failed"
	case !sent:
		outcome = "told_before"
	}
	m.notices.Add(ctx, 1, metric.WithAttributes(attribute.String("outcome", outcome)))
}
