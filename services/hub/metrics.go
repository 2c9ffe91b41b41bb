package hub

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"mimimi.example/pkg/problem"
)

// operation is a HubService call, as a label value.
type operation string

// The calls.
const (
	opCreate   operation = "create"
	opCommit   operation = "commit"
	opPropose  operation = "propose"
	opSend     operation = "send"
	opGetGroup operation = "get_group"
	opGetTree  operation = "get_tree"
	opReadLog  operation = "read_log"
	opRegister operation = "register_invitation"
	opRevoke   operation = "revoke_invitation"
)

// metrics are the hub's counters. Their labels come from closed sets; none tells one group from another.
type metrics struct {
	requests    metric.Int64Counter
	conflicts   metric.Int64Counter
	checkpoints metric.Int64Counter
	sweeps      metric.Int64Counter
	faults      metric.Int64Counter
}

func newMetrics(meter metric.Meter) (*metrics, error) {
	m := new(metrics)
	var errs []error
	for _, c := range []struct {
		into       *metric.Int64Counter
		name, help string
	}{
		{&m.requests, "hub_requests", "Requests by operation and kind of the answer."},
		{&m.conflicts, "hub_conflicts", "Publishes to the log that did not find the last entry they expected, or whose outcome was not known."},
		{&m.checkpoints, "hub_checkpoints", "Checkpoints that were due, by kind of the outcome."},
		{&m.sweeps, "hub_sweeps", "Sweeps of a partition for quiet groups, by kind of the outcome."},
		{&m.faults, "hub_faults", "Faults of the hub itself, by cause: a panic in a request, or an entry of the log that a sweep could not use."},
	} {
		counter, err := meter.Int64Counter(c.name, metric.WithDescription(c.help))
		*c.into = counter
		errs = append(errs, err)
	}
	return m, errors.Join(errs...)
}

func outcome(err error) attribute.KeyValue {
	kind := "ok"
	if err != nil {
		kind = problem.KindOf(err).String()
	}
	return attribute.String("kind", kind)
}

func (m *metrics) answered(ctx context.Context, o operation, err error) {
	m.requests.Add(ctx, 1, metric.WithAttributes(attribute.String("operation", string(o)), outcome(err)))
}

func (m *metrics) conflict(ctx context.Context) { m.conflicts.Add(ctx, 1) }

func (m *metrics) checkpoint(ctx context.Context, err error) {
	m.checkpoints.Add(ctx, 1, metric.WithAttributes(outcome(err)))
}

func (m *metrics) swept(ctx context.Context, err error) {
	m.sweeps.Add(ctx, 1, metric.WithAttributes(outcome(err)))
}

func (m *metrics) panicked(ctx context.Context) {
	m.faults.Add(ctx, 1, metric.WithAttributes(attribute.String("cause", "panic")))
}

func (m *metrics) damaged(ctx context.Context) {
	m.faults.Add(ctx, 1, metric.WithAttributes(attribute.String("cause", "damaged_log")))
}
