package redeem

import (
	"context"
	"errors"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"mimimi.example/pkg/mimimi"
)

// outcomes are what became of a token that was shown, as label values.
const (
	outcomeSpent   = "spent"
	outcomeAgain   = "again"
	outcomeOther   = "spent_before"
	outcomeRefused = "not_good"
	outcomeMissing = "missing"
	outcomeUnknown = "unknown"
)

func newMetrics(meter metric.Meter) (metric.Int64Counter, error) {
	return meter.Int64Counter("tokens_redeemed", metric.WithDescription("Anonymous tokens that were shown, by operation and what became of them: spent, shown again for "+
		"the same request, spent for another one before, not good for this operation, domain and week, missing, or not known yet."))
}

// count counts one request for an operation.
func (r *Redeemer) count(ctx context.Context, o mimimi.TokenOperation, receipt *mimimi.Receipt, err error) {
	outcome := outcomeUnknown
	switch {
	case err == nil && receipt.Again:
		outcome = outcomeAgain
	case err == nil:
		outcome = outcomeSpent
	case errors.Is(err, errSpent):
		outcome = outcomeOther
	case errors.Is(err, errRefused):
		outcome = outcomeRefused
	case errors.Is(err, errMissing):
		outcome = outcomeMissing
	}
	r.redeemed.Add(ctx, 1, metric.WithAttributes(attribute.String("operation", strings.ReplaceAll(string(o), " ", "_")), attribute.String("outcome", outcome)))
}
