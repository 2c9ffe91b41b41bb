package client

import (
	"context"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mls"
)

// WriteKey is the key of c's index at the store.
func WriteKey(c *Client) []byte { return c.account.rec.WriteKey }

// IndexSize is how many sets the index of a write key holds.
func IndexSize(ctx context.Context, c *Client, writeKey []byte) (n int) {
	err := c.lockedFor(ctx, func() error {
		var key mls.SignatureKey
		if err := key.UnmarshalBinary(writeKey); err != nil {
			return err
		}
		s, err := c.kpStore(ctx, c.account.user.Domain())
		if err != nil {
			return err
		}
		res, err := call(ctx, s.ListSets, &mimimiv1.ListSetsRequest{WriteKey: key.Public(), Signed: c.signedStoreBy(key, opListSets, newRequestID(), nil)})
		if err == nil {
			n = len(res.Sets)
		}
		return err
	})
	if err != nil {
		return -1
	}
	return n
}

// OldIndexes says whether c has still to delete one.
func OldIndexes(c *Client) bool {
	c.slot <- struct{}{}
	defer func() { <-c.slot }()
	return len(c.account.rec.OldIndexes) > 0
}

// TellContactsAt puts off what contacts are to be told.
func TellContactsAt(ctx context.Context, c *Client, at time.Time) error {
	return c.lockedFor(ctx, func() error {
		return c.update(func(tx Tx) error {
			return c.eachContact(tx, func(k *contactRecord) bool { k.TellAt = at.Unix(); return true })
		})
	})
}
