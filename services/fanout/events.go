package fanout

import (
	"cmp"
	"context"
	"encoding/hex"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/problem"
)

var errPanic = problem.New(problem.Internal, "the deliveries of an entry could not be made")

// handle works off one entry of a group's log. It is called for one entry of a group at a time, in order, again after an error that may pass, and
// perhaps again after a success. Order of the steps, and what a crash after each means:
//
//  1. The projection before the entry is found. Nothing is written.
//  2. Each delivery is appended to OUTBOX, domains side by side, one domain's in order. Crash, or an error: the entry comes again, and so do all its
//     deliveries, with the same ids: OUTBOX drops repeats within its window, providers and clients the later ones.
//  3. The projection after the entry is kept. Crash: it is read from the log when it is needed.
//  4. The caller acknowledges the entry. Crash before: as 2.
//
// What of an entry cannot be delivered, or not be followed, or has no room in OUTBOX under another domain, is returned as problem.Invalid after the rest is done: the entry goes to DEAD, and the group
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
	left, err := f.publish(ctx, f.subjects.GroupLog(e.GetGroupId()).Stream(), deliveries)
	if err != nil {
		return err
	}
	rejected := cmp.Or(unfollowed, undelivered)
	if left > 0 {
		rejected = cmp.Or(rejected, error(errFull))
	}
	f.cache.put(e.GetGroupId(), next)
	f.metrics.entry(ctx, e, next, len(deliveries)-left, left, rejected)
	return rejected
}

// publish appends all deliveries of an entry, and returns how many it left out because OUTBOX has no room under their domains; `previous` and the hub's
// log make up for them. It returns the first error, when some may have been appended.
func (f *fanout) publish(ctx context.Context, stream string, deliveries []*delivery) (int, error) {
	var left atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxDomains)
	for _, ds := range byDomain(deliveries) {
		g.Go(func() error {
			done, err := f.appendAll(ctx, stream, ds)
			if ds[0].domain != f.domain && problem.KindOf(err) == problem.Limited {
				left.Add(int64(len(ds) - done))
				return nil
			}
			return err
		})
	}
	err := g.Wait()
	return int(left.Load()), err
}

// appendAll appends one domain's deliveries in order until one fails, and returns how many it appended. It runs in a goroutine of its own, where nobody
// else would catch a panic.
func (f *fanout) appendAll(ctx context.Context, stream string, ds []*delivery) (done int, err error) {
	defer func() {
		if recover() != nil { // its value may hold anything
			err = errPanic
		}
	}()
	for _, d := range ds {
		if err := f.append(ctx, stream, d); err != nil {
			return done, err
		}
		done++
	}
	return done, nil
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
