package fanout

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	v1 "mimimi.example/api/mimimi/v1"
)

// metrics are fan-out's counters. Their labels come from closed sets; none tells one group or domain from another.
type metrics struct {
	entries    metric.Int64Counter
	deliveries metric.Int64Counter
	left       metric.Int64Counter
	colds      metric.Int64Counter
}

func newMetrics(meter metric.Meter) (*metrics, error) {
	entries, err1 := meter.Int64Counter("fanout_entries",
		metric.WithDescription("Entries of the log that were worked off, by kind and outcome: delivered, dropped because they do not count, or rejected."))
	deliveries, err2 := meter.Int64Counter("fanout_deliveries", metric.WithDescription("Messages appended to OUTBOX, repeats among them."))
	left, err4 := meter.Int64Counter("fanout_deliveries_left_out",
		metric.WithDescription("Deliveries to other domains that were left out because OUTBOX had no room for them."))
	colds, err3 := meter.Int64Counter("fanout_cold_starts", metric.WithDescription("Projections that were read from a checkpoint on."))
	return &metrics{entries: entries, deliveries: deliveries, left: left, colds: colds}, errors.Join(err1, err2, err3, err4)
}

func (m *metrics) cold(ctx context.Context) { m.colds.Add(ctx, 1) }

// entry counts an entry whose deliveries are all appended or left out. after is the projection after it.
func (m *metrics) entry(ctx context.Context, e *v1.GroupEntry, after *group, appended, left int, rejected error) {
	outcome := "delivered"
	switch {
	case rejected != nil:
		outcome = "rejected"
	case e.GetApplication() != nil && !after.counts():
		outcome = "dropped"
	}
	m.deliveries.Add(ctx, int64(appended))
	m.left.Add(ctx, int64(left))
	m.entries.Add(ctx, 1, metric.WithAttributes(attribute.String("kind", kindOf(e)), attribute.String("outcome", outcome)))
}

func kindOf(e *v1.GroupEntry) string {
	switch e.GetEntry().(type) {
	case *v1.GroupEntry_Commit:
		return "commit"
	case *v1.GroupEntry_Proposal:
		return "proposal"
	case *v1.GroupEntry_Application:
		return "message"
	case *v1.GroupEntry_State:
		return "checkpoint"
	case *v1.GroupEntry_Invitation:
		return "invitation"
	default:
		return "unknown"
	}
}
