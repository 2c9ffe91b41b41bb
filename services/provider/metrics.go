package provider

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"

	"mimimi.example/pkg/telemetry"
)

// metrics are the provider's own. None has a label: no count is about one user, queue, group or peer.
type metrics struct {
	TokensIssued   metric.Int64Counter
	Exchanged      metric.Int64Counter
	Linked         metric.Int64Counter
	Removed        metric.Int64Counter
	Renewed        metric.Int64Counter
	Deleted        metric.Int64Counter
	Unsettled      metric.Int64Counter
	RevokedFull    metric.Int64Counter
	ListsRefused   metric.Int64Counter
	Registered     metric.Int64Counter
	Delivered      metric.Int64Counter
	NotOpened      metric.Int64Counter
	LowStock       metric.Int64Counter
	NoQueue        metric.Int64Counter
	Refused        metric.Int64Counter
	Evicted        metric.Int64Counter
	PoolFull       metric.Int64Counter
	StorageFull    metric.Int64Counter
	Damaged        metric.Int64Counter
	Notified       metric.Int64Counter
	NotifyFailed   metric.Int64Counter
	Relayed        metric.Int64Counter
	RelayedAway    metric.Int64Counter
	PeerKeyChanged metric.Int64Counter
	InboxFull      metric.Int64Counter
	Connections    metric.Int64Counter
	Turned         metric.Int64Counter
	ServerErrors   metric.Int64Counter
	Watches        metric.Int64UpDownCounter
	Delivery       metric.Float64Histogram
	QueueAge       metric.Float64Histogram
}

// newMetrics makes the instruments. A nil telemetry counts nothing.
func newMetrics(t *telemetry.Telemetry) (*metrics, error) {
	meter, m := t.Meter("mimimi.example/services/provider"), new(metrics)
	for _, c := range []struct {
		into       *metric.Int64Counter
		name, help string
	}{
		{&m.Registered, "provider.registrations", "users that were registered"},
		{&m.TokensIssued, "provider.tokens.issued", "anonymous tokens signed in clients' weekly batches, repeats included"},
		{&m.Exchanged, "provider.tokens.exchanged", "anonymous tokens signed for others that were shown, repeats included"},
		{&m.Linked, "provider.clients.linked", "clients that came to an account after its first"},
		{&m.Removed, "provider.clients.removed", "clients that were taken off an account"},
		{&m.Renewed, "provider.certificates.renewed", "certificates issued in place of an earlier one"},
		{&m.Deleted, "provider.accounts.deleted", "accounts that were deleted"},
		{&m.Unsettled, "provider.clients.unsettled", "attempts to finish a removal begun earlier that failed: certificates of a removed client are not revoked yet"},
		{&m.RevokedFull, "provider.revocations.full", "revocations that found no room on the domain's list"},
		{&m.ListsRefused, "provider.federation.revocations_refused", "other domains' lists of revocations that were refused: not signed by the pinned key, or older than one seen"},
		{&m.Delivered, "provider.deliveries", "entries written to queues"},
		{&m.NotOpened, "provider.deliveries.not_opened", "recipients whose sealed queue id did not open"},
		{&m.LowStock, "provider.queue.low_stock_notices", "notices of a low stock of KeyPackages written to queues"},
		{&m.NoQueue, "provider.deliveries.no_queue", "recipients whose queue does not exist or was deleted"},
		{&m.Refused, "provider.deliveries.refused", "deliveries of groups that the queue's owner refused"},
		{&m.Evicted, "provider.queue.evictions", "entries evicted because a group's quota was full"},
		{&m.PoolFull, "provider.queue.pool_full", "entries of unconfirmed groups that found no room"},
		{&m.StorageFull, "provider.queue.storage_full", "entries that were not stored because queues or bodies have no room"},
		{&m.Damaged, "provider.queue.damaged", "recipients left out because a record of their queue cannot be read, or its handling failed"},
		{&m.Notified, "provider.federation.notified", "deliveries taken over by other domains"},
		{&m.NotifyFailed, "provider.federation.notify_failures", "attempts to hand a delivery to another domain that failed"},
		{&m.Relayed, "provider.relay.own", "requests relayed to the domain's own services"},
		{&m.RelayedAway, "provider.relay.federated", "requests relayed to other domains"},
		{&m.PeerKeyChanged, "provider.federation.identity_changes", "key documents refused because the identity key is not the pinned one"},
		{&m.InboxFull, "provider.inbox.full", "connection requests dropped because the inbox was full"},
		{&m.Connections, "provider.connections", "connections accepted"},
		{&m.Turned, "provider.connections.refused", "connections closed at once because a bound was reached"},
		{&m.ServerErrors, "provider.server_errors", "failed handshakes and other errors of a connection"},
	} {
		var err error
		if *c.into, err = meter.Int64Counter(c.name, metric.WithDescription(c.help)); err != nil {
			return nil, fmt.Errorf("make metric %s: %w", c.name, err)
		}
	}
	for _, h := range []struct {
		into       *metric.Float64Histogram
		name, help string
		bounds     []float64
	}{
		{&m.Delivery, "provider.delivery", "From the hub's acceptance of a message, in its whole second, until it is in the queues of all its recipients here. One measurement for each delivery, however many recipients it has.",
			[]float64{1, 2, 5, 10, 30, 60, 300, 3600, 86400}},
		{&m.QueueAge, "provider.queue.age", "How long entries had been in a queue when its owner read them, each time.", []float64{1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400}},
	} {
		var err error
		if *h.into, err = meter.Float64Histogram(h.name, metric.WithUnit("s"), metric.WithDescription(h.help), metric.WithExplicitBucketBoundaries(h.bounds...)); err != nil {
			return nil, fmt.Errorf("make metric %s: %w", h.name, err)
		}
	}
	var err error
	if m.Watches, err = meter.Int64UpDownCounter("provider.watches", metric.WithDescription("open hint streams")); err != nil {
		return nil, fmt.Errorf("make metric provider.watches: %w", err)
	}
	return m, nil
}

// delivered measures a delivery that is stored, accepted at a second since 1970.
func (m *metrics) delivered(ctx context.Context, now time.Time, accepted int64) {
	if accepted > 0 { // a notice of the KeyPackage store has none
		m.Delivery.Record(ctx, telemetry.Coarse(now.Sub(time.Unix(accepted, 0))).Seconds())
	}
}

// read measures an entry that its owner reads.
func (m *metrics) read(ctx context.Context, now, stored time.Time) {
	m.QueueAge.Record(ctx, telemetry.Coarse(now.Sub(stored)).Seconds())
}

// Write counts an error line of net/http and drops its text, which holds network addresses.
func (m *metrics) Write(line []byte) (int, error) {
	m.ServerErrors.Add(context.Background(), 1)
	return len(line), nil
}
