package fanout

import (
	"cmp"
	"context"
	"encoding/hex"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
)

// handle works off one entry of a group's log. It is called for one entry of a group at a time, in order, again after an error that may pass, and
// perhaps again after a success. Order of the steps, and what a crash after each means:
//
//  1. The projection before the entry is found. Nothing is written.
//  2. Each delivery is appended to OUTBOX, domains side by side, one domain's in order. Crash, or an error: the entry comes again, and so do all its
//     deliveries, with the same ids: OUTBOX drops repeats within its window, providers and clients the later ones.
//  3. The projection after the entry is kept. Crash: it is read from the log when it is needed.
//  4. The caller acknowledges the entry. Crash before: as 2.
//
// What of an entry cannot be delivered, or not be followed, is returned as problem.Invalid after the rest is done: the entry goes to DEAD, and the group
// goes on.
func (f *fanout) handle(ctx context.Context, m *bus.Message) error {
	e, err := decode(m.Data)
	if err != nil {
		return err
	}
	before, err := f.before(ctx, e, m.Sequence)
	if err != nil {
		return err
	}
	next, unfollowed := before.advance(e, m.Sequence)
	deliveries, undelivered := before.deliveries(e, next)
	rejected := cmp.Or(unfollowed, undelivered)
	if err := f.publish(ctx, f.subjects.GroupLog(e.GetGroupId()).Stream(), deliveries); err != nil {
		return err
	}
	f.cache.put(e.GetGroupId(), next)
	f.metrics.entry(ctx, e, next, deliveries, rejected)
	return rejected
}

// publish appends all deliveries of an entry. It returns the first error, when some may have been appended.
func (f *fanout) publish(ctx context.Context, stream string, deliveries []*delivery) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxDomains)
	for _, ds := range byDomain(deliveries) {
		g.Go(func() error {
			for _, d := range ds {
				if err := f.append(ctx, stream, d); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (f *fanout) append(ctx context.Context, stream string, d *delivery) error {
	id := d.id(stream)
	data, err := proto.Marshal(&v1.OutboxEntry{Domain: d.domain, Delivery: &v1.OutboundDelivery{Id: id, Delivery: d.Delivery}})
	if err != nil {
		return err
	}
	_, err = f.log.Publish(ctx, f.subjects.Outbox(d.domain), data, bus.PublishOptions{ID: hex.EncodeToString(id)})
	return err
}
