package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// The steps of a deletion, as the account's record holds them. Each may be repeated.
const (
	deleteNothing = iota
	deleteGroups  // leave all groups
	deleteServers // remove what the servers have, then everything here
)

const (
	opDeleteIndex   = "delete index"
	opDeleteAccount = "delete account"
)

// DeleteAccount removes the user with all its clients, and everything of it that can be found: this client leaves all groups, with the user's other clients; the KeyPackage
// store forgets the user's sets and tokens; the queue goes; the provider removes record, inbox and clients, revokes their certificates, and does not give the name out again; and then this
// client's store is erased, and the Client is closed. All groups are left at once, which ties their pseudonyms together for whoever sees several of them.
//
// The user's other clients are removed from the group of the user's clients first. Each of them, when it is online again, sees that, forgets everything and deletes its own
// queue, as one that was removed does (ErrDeviceRemoved).
//
// What cannot be found because nobody knows whose it is expires, as protocol.md §3 says: queues of clients that do not come back and, with a group whose hub cannot be reached
// now, this user's leaf in it, which any member may remove; a group that nobody else is in.
//
// After an error the deletion goes on with the next call or Sync, also in another process; nothing else can be done with the client any more (ErrDeleted).
// Errors: ErrDeviceRemoved if another of the user's clients was faster; problem.Unavailable while this one is not linked.
func (c *Client) DeleteAccount(ctx context.Context) error {
	return c.lockedFor(ctx, func() error {
		switch {
		case c.account.rec.Removed:
			return ErrDeviceRemoved
		case c.account.rec.Link != nil:
			return c.complete()
		}
		if c.account.rec.Deleting == deleteNothing {
			if err := c.update(c.beginDeletion); err != nil {
				return err
			}
		}
		return c.goOnDeleting(ctx)
	})
}

// beginDeletion stores the intent, and in every group what it takes to leave.
func (c *Client) beginDeletion(tx Tx) error {
	if err := c.putAccount(tx, func(r *accountRecord) { r.Deleting = deleteGroups }); err != nil {
		return err
	}
	var ids []string
	err := each(tx, bucketGroups, func(k []byte, r *groupRecord) error {
		if r.State != GroupOver || r.Again != nil {
			ids = append(ids, string(k))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		g, err := c.groupIn(tx, id)
		if errors.Is(err, errDamagedGroup) {
			continue // nothing can be done in it; it is erased with the rest
		}
		if err == nil {
			err = c.leaveForGood(tx, g)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// leaveForGood makes a group one that is to be left, by all of the user's clients. One that nobody else is in, or that was not entered yet, is simply over.
func (c *Client) leaveForGood(tx Tx, g *group) error {
	g.rec.Outgoing, g.rec.Tasks, g.rec.Again = nil, nil, nil
	own := 0
	if g.member() {
		own = len(g.leavesOf(c.account.rec.User))
	}
	switch {
	case g.rec.State == GroupLeaving:
	case !g.member():
		return errors.Join(c.over(tx, g, leftSentence, 0), c.putGroup(tx, g))
	case g.rec.Devices && own > 1:
		g.rec.Tasks = append(g.rec.Tasks, c.removalOfAll()) // by which the others learn of it
	case own == len(g.rec.Leaves):
		return errors.Join(c.over(tx, g, leftSentence, 0), c.putGroup(tx, g))
	default:
		if own > 1 {
			g.rec.Tasks = append(g.rec.Tasks, c.removalOfAll())
		}
		g.rec.Tasks = append(g.rec.Tasks, newTask(taskLeave))
	}
	return c.putGroup(tx, g)
}

// removalOfAll is the task that removes the user's other clients.
func (c *Client) removalOfAll() *task {
	t := newTask(taskRemove)
	t.User = c.account.rec.User
	return t
}

// goOnDeleting does what is left of a deletion, and closes the client when all of it is done. If it turns out that this client was removed meanwhile, the account is not its
// to delete any more.
func (c *Client) goOnDeleting(ctx context.Context) error {
	if c.account.rec.Deleting == deleteGroups {
		if c.account.rec.QueueMade {
			_, _ = c.readQueue(ctx) // for the removal; unread, the provider refuses a removed client all the same
		}
		_ = c.workAll(ctx) // a group that cannot be left now is given up
		if err := ctx.Err(); err != nil {
			return err
		}
		if c.account.rec.Removed {
			return errors.Join(ErrDeviceRemoved, c.erase(ctx))
		}
		if err := c.dismissDevices(ctx); err != nil {
			return err
		}
		if err := c.saveAccount(func(r *accountRecord) { r.Deleting = deleteServers }); err != nil {
			return err
		}
	}
	for _, step := range []func(context.Context) error{c.deleteIndex, c.deleteQueue, c.deleteUser} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return c.eraseStore()
}

// dismissDevices sees to it that the user's other clients are out of their group, before their account is gone.
func (c *Client) dismissDevices(ctx context.Context) error {
	local, err := c.deviceGroupID()
	if err != nil || local == "" {
		return err
	}
	if err := c.work(ctx, local); err != nil {
		return err
	}
	g, err := c.group(local)
	if errors.Is(err, ErrUnknownGroup) || errors.Is(err, errDamagedGroup) || err == nil && !g.hasTask(taskRemove) {
		return nil // nothing can be done in it, or it is done
	}
	return errors.Join(err, problem.New(problem.Unavailable, "the user's other devices could not be told: the next sync goes on with it"))
}

func (c *Client) deleteIndex(ctx context.Context) error {
	if c.account.rec.Certificate == nil {
		return nil // nothing was ever registered under the write key
	}
	for _, key := range append([]mls.SignatureKey{c.account.writeKey}, c.account.oldWriteKeys...) {
		if err := c.deleteIndexOf(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) deleteQueue(ctx context.Context) error {
	if !c.account.rec.QueueMade {
		return nil
	}
	_, err := call(ctx, c.channels.queue.Delete, &mimimiv1.DeleteQueueRequest{
		QueueId: c.account.rec.QueueID, Signed: c.signedQueue(opQueueDelete, newRequestID(), nil),
	})
	if err != nil {
		return fmt.Errorf("delete queue: %w", err)
	}
	return nil
}

func (c *Client) deleteUser(ctx context.Context) error {
	if c.account.rec.Certificate == nil {
		return nil
	}
	_, err := call(ctx, c.channels.account.DeleteAccount, &mimimiv1.DeleteAccountRequest{
		Client: c.account.rec.Client, User: c.account.rec.User, Signed: c.signedAccount(opDeleteAccount, newRequestID(), []byte(c.account.rec.User)),
	})
	if err != nil {
		return fmt.Errorf("delete account: %w", err)
	}
	return nil
}

// eraseStore removes everything from the store, and the package's own file itself, and closes the client.
func (c *Client) eraseStore() error {
	clear(c.groups)
	err := c.store.update(func(tx Tx) error {
		for _, b := range buckets {
			if err := clearBucket(tx, b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.closed = true
	c.channels.close()
	err = c.store.Close()
	if c.cfg.Store == nil {
		err = errors.Join(err, os.Remove(filepath.Join(c.cfg.Dir, storeFile)))
	}
	return err
}
