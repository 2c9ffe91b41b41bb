package client

import (
	"context"
	"errors"
	"fmt"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// errNoQueue says that the provider has no queue with the own id and key.
var errNoQueue = errors.New("client: the queue is gone")

// createQueue creates a queue over the anonymous channel: nothing in the request ties it to the account (§10). Saying it again changes nothing.
func (c *Client) createQueue(ctx context.Context, id mimimi.QueueID, key mls.SignatureKey, request []byte) error {
	public := key.Public()
	err := c.spend(ctx, mimimi.TokenQueue, c.account.user.Domain(), request, func(token []byte) error {
		_, err := call(ctx, c.channels.queue.Create, &mimimiv1.CreateQueueRequest{
			QueueId: id.Bytes(), PublicKey: public, Token: token, Signed: c.signedBy(id, key, opQueueCreate, request, public),
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("create queue: %w", err)
	}
	return nil
}

// renewQueue makes up for a queue that the provider has no more. One that expired, since it was not read for long, is made again under its own id, which
// the own leaves name. If the provider does not take that, there is a new one: from then on, one after the other, every own leaf names it in a commit, and every
// KeyPackage set is replaced (its basis names the queue); until a leaf does, its group's log is read. What waited in the old queue is read from the logs.
//
// The new queue's keys are stored before it is made; a crash after it is made makes it once more, under the same id.
func (c *Client) renewQueue(ctx context.Context) error {
	a := c.account
	err := c.createQueue(ctx, a.queueID, a.queueKey, a.rec.QueueCreateID) // the id keeps a client whose clock is wrong from using up its tokens
	if err == nil {
		return c.update(func(tx Tx) error { return c.behindAll(tx, func(*groupRecord) {}) })
	}
	if problem.KindOf(err) != problem.Denied {
		return err
	}
	if a.rec.NextQueueID == nil {
		key, err := mimimi.Suite.GenerateSignatureKey()
		if err != nil {
			return err
		}
		b, err := key.MarshalBinary()
		if err != nil {
			return err
		}
		if err := c.saveAccount(func(r *accountRecord) {
			r.NextQueueID, r.NextQueueKey, r.NextQueueCreate = mimimi.NewQueueID().Bytes(), b, newRequestID()
		}); err != nil {
			return err
		}
	}
	return c.nextQueue(ctx)
}

// nextQueue makes the new queue and takes it in place of the old one, in one transaction with what every group has to do about it.
func (c *Client) nextQueue(ctx context.Context) error {
	r := *c.account.rec
	id, err := mimimi.QueueIDFrom(r.NextQueueID)
	var key mls.SignatureKey
	if err := errors.Join(err, key.UnmarshalBinary(r.NextQueueKey)); err != nil {
		return fmt.Errorf("%w: the account is damaged", ErrStore)
	}
	if err := c.createQueue(ctx, id, key, r.NextQueueCreate); err != nil {
		return err // also if the clock is wrong, so that no request is taken: the old queue may still be there
	}
	c.tap(TapQueueID, r.NextQueueID)
	r.QueueID, r.QueueKey, r.QueueCreateID = r.NextQueueID, r.NextQueueKey, r.NextQueueCreate
	r.NextQueueID, r.NextQueueKey, r.NextQueueCreate = nil, nil, nil
	r.QueueNumber++
	next, err := r.parse()
	if err != nil {
		return err
	}
	err = c.update(func(tx Tx) error {
		return errors.Join(
			write(tx, bucketMeta, keyAccount, r), tx.Put(bucketMeta, keyPosition, bigEndian(0)), tx.Put(bucketMeta, keyAcked, bigEndian(0)),
			tx.Delete(bucketMeta, keyStock), // looked at at once
			c.behindAll(tx, func(g *groupRecord) {
				g.RefreshAt, g.RefreshPutOff = c.now().Add(c.spread()).Unix(), true
			}),
			c.askDevices(tx), c.warn(tx, "", "the provider had lost this device's queue: it has a new one"))
	})
	if err == nil {
		c.account = next
	}
	return err
}

// behindAll makes every group read its log and be confirmed at the queue anew.
func (c *Client) behindAll(tx Tx, change func(g *groupRecord)) error {
	var all []*groupRecord
	err := each(tx, bucketGroups, func(_ []byte, r *groupRecord) error {
		if r.State != GroupOver {
			all = append(all, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	clear(c.groups) // they are changed in the store
	for _, r := range all {
		r.Behind, r.Confirmed, r.Told = true, false, false
		change(r)
		if err := write(tx, bucketGroups, []byte(r.ID), r); err != nil {
			return err
		}
	}
	return nil
}

// queueless says whether a group's deliveries do not reach this client: its leaf names a queue that is gone.
func (c *Client) queueless(g *group) bool { return g.rec.Queue != c.account.rec.QueueNumber }

// pollDue says whether the log of such a group is to be read.
func (c *Client) pollDue(g *group) bool {
	return c.queueless(g) && c.now().Sub(timeOf(g.rec.Polled)) >= pollQueueless
}

// poll reads the log of a group whose deliveries do not come.
func (c *Client) poll(g *group) error {
	return c.change(g, func(Tx) error {
		g.rec.Polled, g.rec.Behind = c.now().Unix(), true
		return nil
	})
}
