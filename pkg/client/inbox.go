package client

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// readInbox fetches connection requests over the account channel and stores them as they are; then they are acknowledged, and then opened.
func (c *Client) readInbox(ctx context.Context) error {
	if err := c.complete(); err != nil {
		return err
	}
	for range maxSyncRounds {
		if done, err := c.ackInbox(ctx); !done || err != nil {
			return err
		}
		res, err := call(ctx, c.channels.account.FetchInbox, &mimimiv1.FetchInboxRequest{
			Client: c.account.rec.Client, Signed: c.signedAccount(opFetchInbox, newRequestID(), nil),
		})
		if err != nil {
			return fmt.Errorf("fetch inbox: %w", err)
		}
		if len(res.Items) == 0 {
			return nil
		}
		last := res.Items[len(res.Items)-1].Position
		err = c.update(func(tx Tx) error {
			return errors.Join(c.storeRequests(tx, res.Items, true), tx.Put(bucketMeta, keyInbox, bigEndian(last)))
		})
		if err != nil {
			return err
		}
	}
	_, err := c.ackInbox(ctx)
	return err
}

// storeRequests stores sealed requests under the hash of each, and forgets those that have expired. tell says that the user's other clients are told: who fetches a
// request takes it out of the inbox that all of them share.
func (c *Client) storeRequests(tx Tx, items []*mimimiv1.InboxItem, tell bool) error {
	waiting := 0
	var expired []string
	err := each(tx, bucketRequests, func(k []byte, r *requestRecord) error {
		switch {
		case r.NotAfter != 0 && !c.now().Before(timeOf(r.NotAfter)):
			expired = append(expired, string(k))
		case r.State != requestSettled:
			waiting++
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range expired {
		if err := tx.Delete(bucketRequests, []byte(k)); err != nil {
			return err
		}
	}
	for _, item := range items {
		if len(item.SealedRequest) != mimimi.SealedConnectionRequestSize || waiting >= maxRequests {
			continue
		}
		waiting++
		id := sealedID(item.SealedRequest)
		if tx.Get(bucketRequests, []byte(id)) != nil {
			continue
		}
		if tell {
			shared := &mimimiv1.SharedRequest{SealedRequest: item.SealedRequest}
			if err := c.tellDevices(tx, &mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Request{Request: shared}}); err != nil {
				return err
			}
		}
		if err := write(tx, bucketRequests, []byte(id), requestRecord{ID: id, State: requestSealed, Received: c.now().Unix(),
			Sealed: item.SealedRequest}); err != nil {
			return err
		}
	}
	return nil
}

// openRequests opens what was fetched. A request whose domain cannot be reached stays sealed until it can.
func (c *Client) openRequests(ctx context.Context) error {
	records, err := list[requestRecord](c.store, bucketRequests)
	errs := []error{err}
	for _, r := range records {
		if r.State != requestSealed {
			continue
		}
		req, err := c.unseal(r.Sealed)
		if err == nil {
			var doc *mimimi.KeyDocument
			if doc, err = c.document(ctx, req.RequesterCertificate.User.Domain()); err != nil && !errors.Is(err, ErrIdentity) {
				errs = append(errs, err)
				continue
			}
			if err == nil {
				err = req.RequesterCertificate.Verify(doc.IdentityKey, c.now())
			}
			if err == nil {
				var bad bool
				if bad, err = c.isRevoked(ctx, req.RequesterCertificate); bad {
					err = ErrIdentity
				}
			}
		}
		if err == nil && req.RequesterCertificate.User == c.account.user {
			err = ErrIdentity
		}
		if err != nil {
			req = nil // whatever is wrong with it, it is dropped in silence
		}
		errs = append(errs, c.update(func(tx Tx) error { return c.opened(tx, r, req) }))
	}
	return distinct(errs)
}

// unseal opens a request for the present connection record or the one before.
func (c *Client) unseal(sealed []byte) (*mimimi.ConnectionRequest, error) {
	a := c.account
	keys := []mls.HPKEPrivateKey{a.recordKey}
	if a.oldRecordKey != nil {
		keys = append(keys, *a.oldRecordKey)
	}
	var last error = mimimi.ErrUnauthenticated
	for _, record := range []*mimimi.ConnectionRecord{a.record, a.oldRecord} {
		for _, key := range keys {
			if record == nil || !bytes.Equal(record.HPKEKey, key.Public()) {
				continue
			}
			req, err := mimimi.OpenConnectionRequest(sealed, key, record, c.now())
			if err == nil {
				return req, nil
			}
			last = err
		}
	}
	return nil, last
}

// opened stores a verified request under its own id, unless that was seen before; nil drops it.
func (c *Client) opened(tx Tx, sealed *requestRecord, req *mimimi.ConnectionRequest) error {
	if err := tx.Delete(bucketRequests, []byte(sealed.ID)); err != nil || req == nil {
		return err
	}
	id := hex.EncodeToString(req.RequestID[:])
	if tx.Get(bucketRequests, []byte(id)) != nil {
		return nil // a request id is accepted once
	}
	from := req.RequesterCertificate.User.Wire()
	err := write(tx, bucketRequests, []byte(id), requestRecord{
		ID: id, State: requestWaiting, Received: sealed.Received, From: from, NotAfter: req.NotAfter.Unix(),
		Fingerprint: req.RequesterCertificate.Fingerprint(), Group: []byte(req.ConnectionGroup.Wire()), Secret: req.InviteSecret.Bytes(),
		Key: req.RequesterKey.Bytes(), Token: req.RequesterToken.Bytes(), Sealed: sealed.Sealed, Made: req.Made.Unix(),
	})
	return errors.Join(err, c.addEvent(tx, eventRecord{Kind: EventRequest, User: from, Request: id}))
}
