package client

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
)

// When a replica of fan-out has died, an entry may come before the one that stands before it in the log (§10). The log tells what was missing, but to somebody who was removed meanwhile it is not
// shown any more: such a client would never see the commit that removed it, and wait for a week for a group that it is not in. So what came early is kept until its turn.

// maxEarly and maxEarlyBytes bound what is kept for one group; what is beyond is read from the log, as far as that goes.
const (
	maxEarly      = 64
	maxEarlyBytes = 1 << 20
)

// keepEarly keeps an entry that cannot be processed yet, and has the log read.
func (c *Client) keepEarly(g *group, d *mimimiv1.Delivery, position uint64) error {
	b, err := proto.Marshal(d)
	if err != nil {
		return c.fallBehind(g, position)
	}
	return c.change(g, func(tx Tx) error {
		size := len(b)
		for _, e := range g.rec.Early {
			size += len(e)
		}
		if len(g.rec.Early) < maxEarly && size <= maxEarlyBytes {
			g.rec.Early = append(g.rec.Early, b)
		}
		g.rec.Behind = true
		return setPosition(tx, position)
	})
}

// receiveEarly processes what came early and whose turn it is now, and forgets what the log has given meanwhile.
func (c *Client) receiveEarly(ctx context.Context, g *group, position uint64) error {
	var all []*mimimiv1.Delivery
	for _, b := range g.rec.Early {
		d := new(mimimiv1.Delivery)
		if proto.Unmarshal(b, d) == nil { // what cannot be read is for nobody
			all = append(all, d)
		}
	}
	slices.SortFunc(all, func(a, b *mimimiv1.Delivery) int { return cmp.Compare(a.Sequence, b.Sequence) })
	var errs []error
	for _, d := range all {
		if d.Sequence > g.rec.Last && d.Previous <= g.rec.Last && ctx.Err() == nil {
			errs = append(errs, c.receive(ctx, g, d, position))
		}
	}
	if g.rec.State == GroupOver {
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, c.change(g, func(Tx) error {
		g.rec.Early = nil
		for _, d := range all {
			if b, err := proto.Marshal(d); err == nil && d.Sequence > g.rec.Last {
				g.rec.Early = append(g.rec.Early, b)
			}
		}
		return nil
	}))...)
}
