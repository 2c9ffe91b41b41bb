package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mls"
)

// The store's index is named by the write key. When a client of the user is removed, which knows that key and every token, the index is left for a new one (rotateAll), and the
// former one is deleted with all its sets and tokens (protocol.md §8): as soon as the new one is filled and every contact has been told of a new token, so that no claim fails; but within oldIndexFor,
// though a connection group's hub cannot be reached, since the removed client can read what is claimed there.

const (
	// oldIndexFor is the longest time for which an index that a removed client knows is left.
	oldIndexFor = time.Hour
	// maxOldIndexes bounds how many wait for their deletion: as many as clients can be removed while the store cannot be reached. One more, and the first is left to expire.
	maxOldIndexes = 16
)

// oldIndex is an index that is to be deleted.
type oldIndex struct {
	WriteKey []byte `json:"write_key"`
	Until    int64  `json:"until"` // when it goes in any case
}

// leaveIndex notes that the present index is to be deleted. The caller sets another write key.
func (r *accountRecord) leaveIndex(now time.Time) {
	r.OldIndexes = append(slices.Clone(r.OldIndexes), oldIndex{WriteKey: r.WriteKey, Until: now.Add(oldIndexFor).Unix()})
	r.OldIndexes = r.OldIndexes[max(0, len(r.OldIndexes)-maxOldIndexes):]
}

// deleteOldIndexes deletes the indexes that are not needed any more. Deleting one twice, after a crash or by another client, changes nothing.
func (c *Client) deleteOldIndexes(ctx context.Context) error {
	if len(c.account.rec.OldIndexes) == 0 || c.account.rec.CutOff {
		return nil
	}
	replaced, err := c.tokensReplaced()
	if err != nil {
		return err
	}
	var errs []error
	keys := c.account.oldWriteKeys
	for i, old := range c.account.rec.OldIndexes {
		if !replaced && c.now().Unix() < old.Until {
			continue
		}
		if !bytes.Equal(old.WriteKey, c.account.rec.WriteKey) {
			if err := c.deleteIndexOf(ctx, keys[i]); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		errs = append(errs, c.saveAccount(func(r *accountRecord) {
			r.OldIndexes = slices.DeleteFunc(slices.Clone(r.OldIndexes), func(o oldIndex) bool { return bytes.Equal(o.WriteKey, old.WriteKey) })
		}))
	}
	return errors.Join(errs...)
}

// tokensReplaced says whether nobody needs a former index any more: the present one is filled, and no contact that can be told has still to get its token.
func (c *Client) tokensReplaced() (bool, error) {
	var s *stockRecord
	err := c.view(func(tx Tx) (err error) {
		s, err = readStock(tx)
		return err
	})
	if err != nil || s.Due || s.Checked == 0 || !c.account.rec.AliasMade {
		return false, err
	}
	contacts, err := list[contactRecord](c.store, bucketContacts)
	if err != nil {
		return false, err
	}
	for _, k := range contacts {
		if !k.GiveToken || k.State != ContactConnected {
			continue
		}
		r, found, err := get[groupRecord](c.store, bucketGroups, []byte(k.Group))
		if err != nil || found && r.State != GroupOver {
			return false, err
		}
	}
	return true, nil
}

// deleteIndexOf has the store forget everything under a write key.
func (c *Client) deleteIndexOf(ctx context.Context, key mls.SignatureKey) error {
	s, err := c.kpStore(ctx, c.account.user.Domain())
	if err != nil {
		return err
	}
	_, err = call(ctx, s.DeleteIndex, &mimimiv1.DeleteIndexRequest{WriteKey: key.Public(), Signed: c.signedStoreBy(key, opDeleteIndex, newRequestID(), nil)})
	if err != nil {
		return fmt.Errorf("delete KeyPackages: %w", err)
	}
	return nil
}
