package client

import (
	"context"
	"errors"

	"mimimi.example/pkg/mimimi"
)

// What adders and users are told of last-resort sets.
const (
	LastResortSentence    = lastResortSentence
	OwnLastResortSentence = ownLastResortSentence
)

// Twin makes another client of c's user: it has the user's secrets and a queue of its own.
func Twin(ctx context.Context, c *Client, cfg Config) (*Client, error) {
	rec := *c.account.rec
	key, err := mimimi.Suite.GenerateSignatureKey()
	if err != nil {
		return nil, err
	}
	if rec.QueueKey, err = key.MarshalBinary(); err != nil {
		return nil, err
	}
	rec.QueueID, rec.QueueCreateID, rec.QueueMade = mimimi.NewQueueID().Bytes(), newRequestID(), false
	pin, _, err := get[pinRecord](c.store, bucketPins, []byte(rec.Provider.Domain))
	if err != nil {
		return nil, err
	}
	twin, err := open(cfg)
	if err != nil {
		return nil, err
	}
	err = twin.update(func(tx Tx) error {
		return errors.Join(write(tx, bucketMeta, keyAccount, rec), write(tx, bucketPins, []byte(rec.Provider.Domain), pin))
	})
	if err == nil {
		err = twin.load()
	}
	if err == nil {
		twin.channels.account, err = newTeller(ctx, twin)
	}
	if err == nil {
		err = twin.lockedFor(ctx, func() error { return twin.completeAccount(ctx) })
	}
	if err != nil {
		return nil, twin.abandon(err)
	}
	return twin, nil
}

// SetClients tells c's stock how many clients its user has, and whether c is the one that starts new sets first.
func SetClients(c *Client, clients int, leads bool) {
	c.trial = &stockTrial{clients: clients, leads: leads}
}

// Package is what c keeps of one own KeyPackage.
type Package struct {
	Set, Client string
	LastResort  bool
	Uploaded    bool
	Settled     bool
}

// Packages are all own KeyPackages whose private halves c has.
func Packages(c *Client) (all []Package, err error) {
	err = c.lockedFor(context.Background(), func() error {
		records, err := list[packageRecord](c.store, bucketPackages)
		for _, r := range records {
			if _, err := parseOwnPackage(r.Package, r.Secrets, r.LinkKey, 0); err != nil {
				return err
			}
			all = append(all, Package{Set: r.Pseudonym, Client: r.Client, LastResort: r.LastResort, Uploaded: r.Uploaded, Settled: r.Settled})
		}
		return err
	})
	return all, err
}

// ChangeConnectionKey gives c another connection key, as its rotation does.
func ChangeConnectionKey(c *Client) error {
	return c.lockedFor(context.Background(), func() error {
		if err := c.update(dueStock); err != nil {
			return err
		}
		return c.saveAccount(func(r *accountRecord) { r.ConnectionKey = mimimi.NewConnectionKey().Bytes() })
	})
}

// WithdrawStale is what such a change does at once.
func WithdrawStale(ctx context.Context, c *Client) error {
	return c.lockedFor(ctx, func() error { return c.withdrawStale(ctx) })
}

// Withdraw asks the store about sets, or takes them out of it.
func Withdraw(ctx context.Context, c *Client, pseudonyms ...string) error {
	return c.lockedFor(ctx, func() error { return c.withdraw(ctx, pseudonyms) })
}

// SetDue has c look at its stock with the next Sync.
func SetDue(c *Client) error {
	return c.lockedFor(context.Background(), func() error { return c.update(dueStock) })
}
