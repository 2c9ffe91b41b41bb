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

// metrics are the store's counters. Their labels come from closed sets; none tells one index, alias or set from another.
type metrics struct {
	requests metric.Int64Counter
	claims   metric.Int64Counter
}

func newMetrics(meter metric.Meter) (*metrics, error) {
	requests, err1 := meter.Int64Counter("kpstore_requests", metric.WithDescription("Requests by operation and kind of the answer."))
	claims, err2 := meter.Int64Counter("kpstore_claims",
		metric.WithDescription("Claims by what they got: a one-time set, a last-resort set (which links two groups at a hub), or nothing."))
	return &metrics{requests: requests, claims: claims}, errors.Join(err1, err2)
}

// kinds are the label values of a problem's Kind.
var kinds = [...]string{
	problem.Internal: "internal", problem.Invalid: "invalid", problem.Denied: "denied", problem.NotFound: "not_found",
	problem.Stale: "stale", problem.Limited: "limited", problem.Unavailable: "unavailable",
}

func (m *metrics) request(ctx context.Context, op string, err error) {
	kind := "ok"
	if err != nil {
		kind = kinds[problem.KindOf(err)]
	}
	m.requests.Add(ctx, 1, metric.WithAttributes(attribute.String("operation", strings.ReplaceAll(op, " ", "_")), attribute.String("kind", kind)))
}

func (m *metrics) claimed(ctx context.Context, r *v1.ClaimResponse, err error) {
	got := "one_time"
	switch {
	case err != nil:
		got = "nothing"
	case r.GetLastResort():
		got = "last_resort"
	}
	m.claims.Add(ctx, 1, metric.WithAttributes(attribute.String("set", got)))
}
