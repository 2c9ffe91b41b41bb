package client

import (
	"context"

	bolt "go.etcd.io/bbolt"
)

// SetFault makes every write of c's store ask f, before it and after it is durable.
func SetFault(c *Client, f func(persisted bool) error) { c.store.fault = f }

// LoseRatchet makes c lose what it knows of a group's present epoch, as a restored backup does.
func LoseRatchet(c *Client, group string) error {
	g, err := c.group(group)
	if err != nil {
		return err
	}
	c.scheduleResync(g)
	g.rec.Resync.Due = 0
	return c.update(func(tx *boltTx) error { return c.putGroup(tx, g) })
}

type boltTx = bolt.Tx

// Lost says whether c is still to enter a group anew.
func Lost(c *Client, group string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	g, err := c.group(group)
	return err != nil || g.rec.Resync != nil
}

// Commit makes an empty commit.
func (c *Client) Commit(ctx context.Context, group string) error {
	return c.locked(func() error {
		g, err := c.visible(group)
		if err != nil {
			return err
		}
		return c.perform(ctx, g, newTask(taskCommit))
	})
}
