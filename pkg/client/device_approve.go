package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// approvalRecord is a new client that the user let in at this one. It is kept until the new client is in the group of the user's clients.
type approvalRecord struct {
	Offer    []byte `json:"offer"`
	ReplyKey []byte `json:"reply_key"` // HPKE, to which the new client's KeyPackage is sealed
	Answer   []byte `json:"answer,omitempty"`
	Request  []byte `json:"request"`
	Approved bool   `json:"approved,omitempty"`
	Made     int64  `json:"made"`
	Added    bool   `json:"added,omitempty"` // its KeyPackage came, and a task adds it
}

// ApproveDevice lets in the new client that shows code, which the user has typed here. It returns when the provider has certified the new client and holds the answer for it;
// the rest follows with later Syncs of both (EventDeviceAdded). It gives the new client everything that the user has, but what was said before.
// Errors: ErrUnknownDevice, ErrAmbiguousCode, problem.Limited if the user has too many clients.
func (c *Client) ApproveDevice(ctx context.Context, code string) error {
	return c.lockedFor(ctx, func() error {
		if err := c.linked(); err != nil {
			return err
		}
		offer, err := c.findOffer(ctx, func(o *mimimi.LinkOffer) bool { return o.HasCode(code) })
		if err != nil {
			return err
		}
		if c.clientCount() >= maxDevices {
			return problem.New(problem.Limited, "a user has at most 10 devices")
		}
		id := offer.Client.Wire()
		c.tap(TapClient, []byte(id))
		a, found, err := get[approvalRecord](c.store, bucketApprovals, []byte(id))
		if err != nil {
			return err
		}
		if !found || !bytes.Equal(a.Offer, offer.Marshal()) {
			key, err := mimimi.Suite.GenerateHPKEKey()
			if err != nil {
				return err
			}
			private, err := key.MarshalBinary()
			if err != nil {
				return err
			}
			a = &approvalRecord{Offer: offer.Marshal(), ReplyKey: private, Request: newRequestID(), Made: c.now().Unix()}
			if err := c.update(func(tx Tx) error { return write(tx, bucketApprovals, []byte(id), a) }); err != nil {
				return err
			}
		}
		return c.approve(ctx, offer, a)
	})
}

// findOffer returns the one offer in the mailbox that has the code which the user typed.
func (c *Client) findOffer(ctx context.Context, typed func(o *mimimi.LinkOffer) bool) (*mimimi.LinkOffer, error) {
	links, err := c.listLinks(ctx)
	if err != nil {
		return nil, err
	}
	var found *mimimi.LinkOffer
	for _, l := range links {
		o, err := mimimi.ParseLinkOffer(l.Offer)
		if err != nil || o.User != c.account.user || o.Client.Wire() != l.Client || !bytes.Equal(o.SignatureKey, l.SignatureKey) || !typed(o) {
			continue
		}
		if found != nil {
			return nil, ErrAmbiguousCode
		}
		found = o
	}
	if found == nil || found.Client == c.account.client {
		return nil, ErrUnknownDevice
	}
	return found, nil
}

func (c *Client) listLinks(ctx context.Context) ([]*mimimiv1.Link, error) {
	res, err := call(ctx, c.channels.account.ListLinks, &mimimiv1.ListLinksRequest{
		Client: c.account.rec.Client, Signed: c.signedAccount(opListLinks, newRequestID(), nil),
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return res.Links, nil
}

// approve answers an offer: it makes the group of the user's clients if there is none, seals the answer and stores it, and leaves it. A crash at any point leaves an
// approval that workApprovals goes on with; the provider takes the same answer again.
func (c *Client) approve(ctx context.Context, offer *mimimi.LinkOffer, a *approvalRecord) error {
	g, err := c.needDeviceGroup(ctx)
	if err != nil {
		return err
	}
	id := []byte(offer.Client.Wire())
	if a.Answer == nil {
		if a.Answer, err = c.sealAnswer(g, offer, a); err != nil {
			return err
		}
		if err := c.update(func(tx Tx) error { return write(tx, bucketApprovals, id, a) }); err != nil {
			return err
		}
	}
	if a.Approved {
		return nil
	}
	body := append(append([]byte(offer.Client.Wire()), 0), offer.SignatureKey...)
	body = append(body, a.Answer...)
	_, err = call(ctx, c.channels.account.ApproveLink, &mimimiv1.ApproveLinkRequest{
		Client: c.account.rec.Client, LinkedClient: offer.Client.Wire(), SignatureKey: offer.SignatureKey, SealedAnswer: a.Answer,
		Signed: c.signedAccount(opApproveLink, a.Request, body),
	})
	if err != nil {
		return fmt.Errorf("approve link: %w", err)
	}
	a.Approved = true
	return c.update(func(tx Tx) error { return write(tx, bucketApprovals, id, a) })
}

func (c *Client) sealAnswer(g *group, offer *mimimi.LinkOffer, a *approvalRecord) ([]byte, error) {
	var reply mls.HPKEPrivateKey
	if err := reply.UnmarshalBinary(a.ReplyKey); err != nil {
		return nil, ErrStore
	}
	pseudonym, err := mimimi.ParseUserPseudonym(g.rec.Leaves[g.mls.OwnIndex()].UserPseudonym)
	if err != nil {
		return nil, errDamagedGroup
	}
	sealed, err := mimimi.SealLinkAnswer(&mimimi.LinkAnswer{
		Client: c.account.client, ReplyKey: reply.Public(), Group: g.id, UserPseudonym: pseudonym, ConnectionKey: c.account.connectionKey,
		IdentityKey: c.account.rec.Provider.IdentityKey,
	}, offer)
	if err != nil {
		return nil, fmt.Errorf("seal answer: %w", err)
	}
	return sealed, nil
}

// needDeviceGroup returns the group of the user's clients, made if it is not there yet.
func (c *Client) needDeviceGroup(ctx context.Context) (*group, error) {
	local, err := c.deviceGroupID()
	if err != nil {
		return nil, err
	}
	if local == "" {
		id, err := mimimi.NewGroupID(c.account.user.Domain())
		if err != nil {
			return nil, err
		}
		rec := &groupRecord{GroupID: []byte(id.Wire()), Devices: true, Create: &createRecord{Claim: newRequestID(), Request: newRequestID()}}
		_, err = c.newGroup(rec, func(tx Tx) error {
			return c.putAccount(tx, func(r *accountRecord) { r.DeviceGroup = rec.GroupID })
		})
		if err != nil {
			return nil, err
		}
		local = rec.ID
	}
	if err := c.made(ctx, local); err != nil {
		return nil, err
	}
	g, err := c.group(local)
	if err != nil {
		return nil, err
	}
	if g.mls == nil || g.rec.State != GroupActive {
		return nil, ErrNotReady
	}
	return g, nil
}

// workApprovals goes on with new clients that were let in here: their KeyPackages are fetched from the mailbox, and added to the group of the user's clients.
func (c *Client) workApprovals(ctx context.Context) error {
	all, err := list[approvalRecord](c.store, bucketApprovals)
	if err != nil || len(all) == 0 {
		return err
	}
	var links []*mimimiv1.Link
	listed := false
	var errs []error
	for _, a := range all {
		offer, err := mimimi.ParseLinkOffer(a.Offer)
		if err != nil {
			return ErrStore
		}
		id := offer.Client.Wire()
		switch {
		case c.isOwnClient(id) || c.now().Sub(timeOf(a.Made)) > approvalFor: // it is in, or never came
			errs = append(errs, c.update(func(tx Tx) error { return tx.Delete(bucketApprovals, []byte(id)) }))
			continue
		case a.Added:
			continue
		case !a.Approved:
			if err := c.approve(ctx, offer, a); err != nil {
				if isFinal(err) { // the offer has expired
					err = c.update(func(tx Tx) error { return tx.Delete(bucketApprovals, []byte(id)) })
				}
				errs = append(errs, err)
			}
			continue
		case !listed:
			listed = true
			if links, err = c.listLinks(ctx); err != nil {
				return err
			}
		}
		for _, l := range links {
			if l.Client == id && len(l.SealedPackage) > 0 {
				errs = append(errs, c.addDevice(ctx, offer, a, l.SealedPackage))
			}
		}
	}
	return distinct(errs)
}

// addDevice checks the KeyPackage that a new client left, and stores the task that adds it. One that is not what it should be is dropped, with a warning: nobody but the new
// client and the provider could have left it.
func (c *Client) addDevice(ctx context.Context, offer *mimimi.LinkOffer, a *approvalRecord, sealed []byte) error {
	var reply mls.HPKEPrivateKey
	if err := reply.UnmarshalBinary(a.ReplyKey); err != nil {
		return ErrStore
	}
	g, err := c.needDeviceGroup(ctx)
	if err != nil {
		return err
	}
	id := []byte(offer.Client.Wire())
	kp, err := mimimi.OpenLinkPackage(sealed, reply, offer, c.account.client)
	var link mimimi.LinkKey
	if err == nil {
		var cert *mimimi.ClientCertificate
		cert, link, err = c.checkOwn(kp, g.rec.Leaves[g.mls.OwnIndex()].UserPseudonym, nil)
		if err == nil && (cert.Client != offer.Client || !bytes.Equal(cert.SignatureKey, offer.SignatureKey)) {
			err = ErrIdentity
		}
	}
	if err != nil {
		return c.update(func(tx Tx) error {
			return errors.Join(tx.Delete(bucketApprovals, id), c.warn(tx, "", "a new device did not show what it should: it was not let in"))
		})
	}
	t := newTask(taskAddOwn)
	t.Adds = []*adding{{User: c.account.rec.User, Packages: [][]byte{kp.Marshal()}, LinkKeys: [][]byte{link.Bytes()}}}
	a.Added = true
	err = c.change(g, func(tx Tx) error {
		g.rec.Tasks = append(g.rec.Tasks, t)
		return write(tx, bucketApprovals, id, a)
	})
	if err != nil {
		return err
	}
	return c.work(ctx, g.rec.ID)
}

// checkOwn checks a KeyPackage of one of the user's own clients under a user pseudonym, and returns whose it is. A nil link key is derived from the connection key.
func (c *Client) checkOwn(kp *mls.KeyPackage, pseudonym string, linkKey []byte) (*mimimi.ClientCertificate, mimimi.LinkKey, error) {
	if err := kp.Validate(c.now()); err != nil {
		return nil, mimimi.LinkKey{}, err
	}
	leaf, err := mimimi.ParseLeaf(kp.Leaf())
	if err != nil {
		return nil, mimimi.LinkKey{}, err
	}
	link := leaf.Credential.LinkKey(c.account.connectionKey)
	if linkKey != nil {
		if link, err = mimimi.LinkKeyFrom(linkKey); err != nil {
			return nil, link, err
		}
	}
	var cert *mimimi.ClientCertificate
	err = c.view(func(tx Tx) (err error) {
		cert, err = identify(tx, kp.Leaf(), link, c.now())
		return err
	})
	if err == nil && (cert.User != c.account.user || leaf.Credential.UserPseudonym.Wire() != pseudonym) {
		err = ErrIdentity
	}
	return cert, link, err
}

// approvalDue says when the mailbox is to be looked at for a new client, zero if none is expected.
func (c *Client) approvalDue() (time.Time, error) {
	all, err := list[approvalRecord](c.store, bucketApprovals)
	if err != nil {
		return time.Time{}, err
	}
	if c.account.rec.Link != nil {
		return c.now().Add(linkPoll), nil
	}
	for _, a := range all {
		if !a.Added {
			return c.now().Add(linkPoll), nil
		}
	}
	return time.Time{}, nil
}
