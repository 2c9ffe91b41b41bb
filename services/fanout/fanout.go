// Package fanout turns each entry of the groups' logs into deliveries, one OUTBOX message for each destination domain (docs/protocol.md §9, §10). It
// reads GROUP, writes OUTBOX and keeps nothing: rosters are projections of the log, cached and bounded, so replicas are interchangeable.
//
// Guarantees, whatever crashes, repeats or fails over:
//
//   - Every entry that counts is delivered at least once, unless OUTBOX is full for a leaf's domain, to each leaf that was in the group before it and had not proposed its own removal; a commit also
//     to whoever joined by it from outside; a Welcome to each newcomer, with its own entry of it only. Nothing is delivered twice under two ids, and nobody
//     else is delivered to.
//   - `previous` names the group's entry before it that counts, the same for everybody and at every replica, whether the projection was warm or read anew.
//   - Application messages count by their place in the log (mimimi.Epochs); the others are not delivered.
//   - One group's entries are worked off in order. A failure that may pass holds back that group and nobody else.
//
// An entry that breaks a rule goes to DEAD with a reason, and its group goes on:
//
//   - One that cannot be read takes no part: it is delivered to nobody and does not count.
//   - A roster change that names nobody to deliver to takes its leaf out of the roster, and a newcomer without an entry in the Welcome gets none; all else
//     of such an entry is delivered.
//   - One for which OUTBOX has no room under another domain is not delivered there, and delivered everywhere else. A domain that fetches nothing, or
//     does not exist, so holds back no group. For the own domain it waits until there is room.
//   - Entries whose checkpoint is gone cannot be placed: nothing is delivered until the group's next checkpoint.
//
// The next checkpoint states roster and epochs anew, so it ends every such fault. Clients see the gap by `previous` where something that counts is missing,
// and read the log at the hub.
//
// Not guaranteed: an order between groups, or between the domains of one entry. Order within OUTBOX holds but for a fail-over, in which an entry may come
// after later ones; `previous` tells.
package fanout

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"mimimi.example/pkg/service"
)

// fanout is one replica.
type fanout struct {
	projector
	domain string // the own one
}

func newFanout(l log, s subjects, domain string, cachedLeaves int, m *metrics) *fanout {
	return &fanout{projector: projector{log: l, subjects: s, cache: newCache(cachedLeaves), metrics: m}, domain: domain}
}

// Run works off all partitions of the log until ctx is done, finishes the entries at hand and returns. Entries that it took and did not finish go to
// another replica.
func Run(ctx context.Context, cfg *Config, env *service.Env) error {
	m, err := newMetrics(env.Telemetry.Meter("mimimi.example/services/fanout"))
	if err != nil {
		return fmt.Errorf("make metrics: %w", err)
	}
	f := newFanout(env.Bus, env.Bus, cfg.Domain, cfg.cachedLeaves(), m)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := env.Bus.Serve(ctx, callRedrive, func(ctx context.Context, request []byte) []byte { return f.redrive(ctx, env.Bus, request) })
		if err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("serve calls: %w", err)
		}
		return nil
	})
	for _, c := range env.Bus.GroupConsumers() {
		g.Go(func() error {
			if err := env.Bus.Consume(ctx, c, f.handle); err != nil && !errors.Is(err, context.Canceled) {
				return fmt.Errorf("consume the log: %w", err)
			}
			return nil
		})
	}
	return g.Wait()
}
