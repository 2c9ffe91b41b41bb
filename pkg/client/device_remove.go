package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// removalRecord is one of the user's clients that is being removed, or was. It is kept for as long as a leaf of the client's may still turn up in a group.
type removalRecord struct {
	Client string `json:"client"`
	// Acting says that the user removed it at this client. The others do what is left when this one has had its time.
	Acting  bool   `json:"acting,omitempty"`
	Revoked bool   `json:"revoked,omitempty"` // the provider knows
	Rotated bool   `json:"rotated,omitempty"` // the user's secrets are others now
	Secrets uint64 `json:"secrets"`           // number of the secrets that the removed client knows
	Made    int64  `json:"made"`
	Due     int64  `json:"due"` // nanoseconds since 1970: when this client does what is left
}

// RemoveDevice removes one of the user's other clients: the provider revokes its certificate; it is removed from the group of the user's clients and from every group at once;
// and everything that it knew of the user's is replaced. It returns when the client is out of the group of the user's clients and the provider has revoked it; the rest goes
// on with later Syncs, and on the user's other clients too should this one not come to it. All groups change within minutes of each other: whoever watches several hubs may take
// from that that one user is in them. Errors: ErrUnknownDevice, problem.Invalid for this client itself.
func (c *Client) RemoveDevice(ctx context.Context, id string) error {
	client, err := mimimi.ParseClient(id)
	if err != nil {
		return ErrUnknownDevice
	}
	return c.lockedFor(ctx, func() error {
		if err := c.linked(); err != nil {
			return err
		}
		if client == c.account.client {
			return problem.New(problem.Invalid, "a device is removed at another one")
		}
		if err := c.knownDevice(ctx, client); err != nil {
			return err
		}
		r := &removalRecord{Client: client.Wire(), Acting: true, Secrets: c.account.rec.SecretsNumber, Made: c.now().Unix(), Due: c.now().UnixNano()}
		err := c.update(func(tx Tx) error {
			old, found, err := read[removalRecord](tx, bucketRemovals, []byte(r.Client))
			if found {
				r.Revoked = old.Revoked
			}
			return errors.Join(err, write(tx, bucketRemovals, []byte(r.Client), r))
		})
		if err != nil {
			return err
		}
		if err := c.removeAtProvider(ctx, r); err != nil {
			return err
		}
		local, err := c.deviceGroupID()
		if err != nil || local == "" {
			return err
		}
		if err := c.removeLeaf(local, r.Client); err != nil {
			return err
		}
		if err := c.work(ctx, local); err != nil {
			return err
		}
		if slices.Contains(c.own, r.Client) {
			return ErrNotReady // stored: a later Sync goes on with it
		}
		// The rest is stored too: what fails of it now is the next Sync's.
		if c.workRemovals(ctx) == nil && c.completeAccount(ctx) == nil && c.workAll(ctx) == nil {
			_ = c.refillStock(ctx)
		}
		return nil
	})
}

// knownDevice says whether a client is one of the user's: linked here, or at the provider.
func (c *Client) knownDevice(ctx context.Context, client mimimi.Client) error {
	if c.isOwnClient(client.Wire()) {
		return nil
	}
	certs, err := c.listClients(ctx)
	if err != nil {
		return err
	}
	for _, cert := range certs {
		if cert.Client == client {
			return nil
		}
	}
	return ErrUnknownDevice
}

func (c *Client) removeAtProvider(ctx context.Context, r *removalRecord) error {
	if r.Revoked {
		return nil
	}
	_, err := call(ctx, c.channels.account.RemoveClient, &mimimiv1.RemoveClientRequest{
		Client: c.account.rec.Client, RemovedClient: r.Client, Signed: c.signedAccount(opRemoveClient, newRequestID(), []byte(r.Client)),
	})
	if err != nil && problem.KindOf(err) != problem.NotFound {
		return fmt.Errorf("remove client: %w", err)
	}
	r.Revoked = true
	return c.update(func(tx Tx) error { return write(tx, bucketRemovals, []byte(r.Client), r) })
}

// removeLeaf stores the task that removes one own client from a group, if it is in.
func (c *Client) removeLeaf(local, client string) error {
	g, err := c.group(local)
	if err != nil {
		return err
	}
	if g.rec.State != GroupActive || g.mls == nil || !slices.Contains(g.ownClients(c.account.rec.User), client) {
		return nil
	}
	if slices.ContainsFunc(g.rec.Tasks, func(t *task) bool { return t.Kind == taskRemoveOwn && t.Client == client && t.Pseudonym == "" }) {
		return nil
	}
	t := newTask(taskRemoveOwn)
	t.Client = client
	return c.addTask(g, t)
}

// leavesOfClient returns the leaves of one of the user's clients.
func (g *group) leavesOfClient(user, client string) (all []uint32) {
	for _, i := range g.leavesOf(user) {
		if g.rec.Leaves[i].Client == client {
			all = append(all, i)
		}
	}
	return all
}

// deviceGone takes note that a client is out of the group of the user's clients: it is to be removed everywhere.
func (c *Client) deviceGone(tx Tx, client string) error {
	r, found, err := read[removalRecord](tx, bucketRemovals, []byte(client))
	if err != nil {
		return err
	}
	if !found {
		due := c.now().Add(c.turnAfter() + removalTurn)
		r = &removalRecord{Client: client, Secrets: c.account.rec.SecretsNumber, Made: c.now().Unix(), Due: due.UnixNano()}
	}
	if err := errors.Join(tx.Delete(bucketApprovals, []byte(client)), write(tx, bucketRemovals, []byte(client), r)); err != nil {
		return err
	}
	var brings [][]byte
	err = each(tx, bucketBring, func(k []byte, b *bringRecord) error {
		if b.Client == client {
			brings = append(brings, slices.Clone(k))
		}
		return nil
	})
	for _, k := range brings {
		err = errors.Join(err, tx.Delete(bucketBring, k))
	}
	return errors.Join(err, c.replaceTokens(tx), c.addEvent(tx, eventRecord{Kind: EventDeviceRemoved, Device: client}))
}

// workRemovals does what is left of removals: provider, group of the own clients, every other group, and, once the client cannot read it, new secrets. Each step is looked
// for anew, so that a crash repeats at most what changes nothing.
func (c *Client) workRemovals(ctx context.Context) error {
	all, err := list[removalRecord](c.store, bucketRemovals)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range all {
		switch {
		case c.now().Sub(timeOf(r.Made)) > keyPackageFor:
			errs = append(errs, c.update(func(tx Tx) error { return tx.Delete(bucketRemovals, []byte(r.Client)) }))
		case c.now().UnixNano() >= r.Due:
			errs = append(errs, c.workRemoval(ctx, r))
		}
	}
	return distinct(errs)
}

func (c *Client) workRemoval(ctx context.Context, r *removalRecord) error {
	if err := c.removeAtProvider(ctx, r); err != nil && r.Acting {
		return err
	}
	var locals []string
	err := c.view(func(tx Tx) error {
		return each(tx, bucketGroups, func(k []byte, g *groupRecord) error {
			if _, _, err := readRoster(tx, g); err != nil {
				return nil // a damaged group has no duties
			}
			for _, l := range g.Leaves {
				if g.State == GroupActive && l.User == c.account.rec.User && l.Client == r.Client {
					locals = append(locals, string(k))
					return nil
				}
			}
			return nil
		})
	})
	errs := []error{err}
	for _, local := range locals {
		err := c.removeLeaf(local, r.Client)
		if errors.Is(err, ErrStore) {
			continue // a damaged group has no duties
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil || r.Rotated || slices.Contains(c.own, r.Client) {
		return err
	}
	if !r.Acting && c.account.rec.SecretsNumber == r.Secrets && c.now().UnixNano() < r.Due+int64(rotateTurn) {
		return nil // the client at which it was removed has some more time
	}
	return c.update(func(tx Tx) error {
		if r.Acting || c.account.rec.SecretsNumber == r.Secrets {
			if err := c.rotateAll(tx); err != nil {
				return err
			}
		}
		r.Rotated = true
		return write(tx, bucketRemovals, []byte(r.Client), r)
	})
}

// rotateAll replaces everything of the user's that a removed client knew, and tells the other clients: the connection key, whose successor contacts are told at once, with new
// tokens; the write key, and so the index at the store, which is filled anew; the own token; the key of the connection record. Contacts' requests that are under way can
// still be opened. The tokens that contacts had lead to the former index, which is deleted as soon as they have new ones, or an hour later.
func (c *Client) rotateAll(tx Tx) error {
	writeKey, err1 := mimimi.Suite.GenerateSignatureKey()
	recordKey, err2 := mimimi.Suite.GenerateHPKEKey()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	write, err1 := writeKey.MarshalBinary()
	record, err2 := recordKey.MarshalBinary()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	token := mimimi.NewConnectionToken()
	c.tap(TapConnectionToken, token.Bytes())
	if err := c.rotateKey(tx, rotation{tokens: true, now: true}); err != nil {
		return err
	}
	if err := dueStock(tx); err != nil {
		return err
	}
	return c.shareSecrets(tx, func(r *accountRecord) {
		r.leaveIndex(c.now())
		r.OldRecordKey = r.RecordKey
		r.WriteKey, r.RecordKey, r.SelfToken = write, record, token.Bytes()
		r.AliasMade, r.RecordStale = false, true
	})
}

// removedHere takes note that this client was removed. The rest of its secrets is erased by the Sync that sees it, or the next one.
func (c *Client) removedHere(tx Tx) error {
	return errors.Join(
		c.putAccount(tx, func(r *accountRecord) { r.Removed = true }),
		c.addEvent(tx, eventRecord{Kind: EventDeviceRemoved, Device: c.account.rec.Client}),
	)
}

// erase forgets everything of a removed client's but the list of events. Its queue is deleted if the provider answers; otherwise it expires.
func (c *Client) erase(ctx context.Context) error {
	if c.account.rec.Erased {
		return nil
	}
	queue := c.account.rec.QueueID
	_, derr := call(ctx, c.channels.queue.Delete, &mimimiv1.DeleteQueueRequest{QueueId: queue, Signed: c.signedQueue(opQueueDelete, newRequestID(), nil)})
	if derr != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return c.update(func(tx Tx) error {
		for _, b := range buckets {
			var err error
			switch b {
			case bucketEvents:
			case bucketMeta:
				err = clearBucket(tx, b, keyFormat, keyAccount, keySequence)
			default:
				err = clearBucket(tx, b)
			}
			if err != nil {
				return err
			}
		}
		clear(c.groups)
		c.own = nil
		return c.putAccount(tx, func(r *accountRecord) {
			*r = accountRecord{Provider: r.Provider, User: r.User, Client: r.Client, Removed: true, Erased: true}
		})
	})
}

// tellDevicesGone takes note of the clients that a commit took out of the group of the user's clients.
func (c *Client) tellDevicesGone(tx Tx, g *group, gone map[uint32]*leafRecord) error {
	for _, r := range gone {
		if r.User != c.account.rec.User || len(g.leavesOfClient(r.User, r.Client)) > 0 {
			continue
		}
		if err := c.deviceGone(tx, r.Client); err != nil {
			return err
		}
	}
	return nil
}

// removalDue says when this client does what another one began, zero if nothing is.
func (c *Client) removalDue() (next time.Time, err error) {
	all, err := list[removalRecord](c.store, bucketRemovals)
	for _, r := range all {
		if t := time.Unix(0, r.Due); t.After(c.now()) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next, err
}
