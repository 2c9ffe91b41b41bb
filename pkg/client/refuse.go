package client

import (
	"context"
	"fmt"

	mimimiv1 "mimimi.example/api/mimimi/v1"
)

const opQueueRefuse = "refuse"

// Refuse makes the own provider drop a group's deliveries (protocol.md §10): nothing of the group is received or sent any more, though its members still
// see the user as one of them. Unrefuse takes it back, Leave ends it for good. A nil error means that the provider knows; after another, a later Sync tells it.
// Errors: ErrUnknownGroup, ErrGroupOver, ErrNotReady while joining.
func (c *Client) Refuse(ctx context.Context, group string) error {
	return c.setRefused(ctx, group, true)
}

// Unrefuse wants a refused group again. What came meanwhile is read from the group's log, as far as that goes. Errors: as Refuse.
func (c *Client) Unrefuse(ctx context.Context, group string) error {
	return c.setRefused(ctx, group, false)
}

func (c *Client) setRefused(ctx context.Context, group string, refused bool) error {
	return c.lockedFor(ctx, func() error {
		g, err := c.shownGroup(group)
		if err != nil {
			return err
		}
		if g.rec.Refused != refused {
			err := c.change(g, func(Tx) error {
				g.rec.Refused = refused
				return nil
			})
			if err != nil {
				return err
			}
		}
		err = c.work(ctx, group)
		if g, gerr := c.group(group); gerr == nil && g.rec.Refused == g.rec.Told {
			return nil // what else failed is the next Sync's
		}
		return err
	})
}

// tellRefused tells the queue what the user said about the group.
func (c *Client) tellRefused(ctx context.Context, g *group) error {
	if !g.rec.Refused {
		if err := c.confirm(ctx, g); err != nil {
			return err
		}
		return c.change(g, func(Tx) error {
			g.rec.Told, g.rec.Behind = false, true
			return nil
		})
	}
	_, err := call(ctx, c.channels.queue.Refuse, &mimimiv1.QueueGroupRequest{
		QueueId: c.account.rec.QueueID, GroupId: g.rec.GroupID, Signed: c.signedQueue(opQueueRefuse, newRequestID(), g.rec.GroupID),
	})
	if err != nil {
		return fmt.Errorf("refuse group: %w", err)
	}
	return c.change(g, func(Tx) error {
		g.rec.Told, g.rec.Confirmed = true, false
		return nil
	})
}
