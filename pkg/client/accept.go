package client

import (
	"context"
	"crypto/subtle"
	"errors"
	"time"

	"mimimi.example/pkg/mimimi"
)

// Accept answers a request. The connection is complete a few Syncs later, on both sides (EventConnected). Errors: ErrUnknownRequest, ErrIdentity,
// ErrBadInvitation, ErrBusy: the request leads nowhere, at least now. Then it is tried again for a day, and if the same user asks anew meanwhile, as its client does when somebody else came in
// by the request, that is accepted without another call.
func (c *Client) Accept(ctx context.Context, id string) error {
	return c.lockedFor(ctx, func() error {
		if err := c.linked(); err != nil {
			return err
		}
		var user string
		err := c.update(func(tx Tx) error {
			r, err := waitingRequest(tx, id, c.now())
			if err != nil {
				return err
			}
			user = r.From
			return c.acceptRequest(tx, r)
		})
		if err != nil {
			return err
		}
		k, _, err := get[contactRecord](c.store, bucketContacts, []byte(user))
		if err != nil {
			return err
		}
		return c.workContact(ctx, k)
	})
}

// acceptRequest settles a request and stores, in one transaction, the contact and the connection group that is to be entered. A contact that is there
// already, since requests crossed or the other asks again, keeps the own token that it may have: no other would stay valid beside it.
func (c *Client) acceptRequest(tx Tx, r *requestRecord) error {
	old, found, err := read[contactRecord](tx, bucketContacts, []byte(r.From))
	if err != nil {
		return err
	}
	if found && old.State == ContactConnected && subtle.ConstantTimeCompare(old.Token, r.Token) == 1 {
		// It crossed the own request, by which the connection came about: there is nothing new in it.
		r.settle()
		return write(tx, bucketRequests, []byte(r.ID), r)
	}
	token, made := mimimi.NewConnectionToken().Bytes(), false
	var revoke [][]byte
	switch {
	case found && old.State == ContactDisconnecting:
		revoke = old.Revoke
	case found:
		token, made, revoke = old.OwnToken, old.AliasMade, old.Revoke
		if old.NextMade {
			revoke = append(revoke, old.NextToken)
		}
	}
	there, err := c.groupByIDIn(tx, r.Group)
	if err != nil {
		return err
	}
	if there != nil && there.rec.inside() && there.rec.Peer == r.From { // by another request, which this one was made in place of, or the other way round
		r.settle()
		return errors.Join(write(tx, bucketRequests, []byte(r.ID), r), c.shareSettled(tx, r.ID))
	}
	if there != nil && there.rec.Peer == r.From {
		if err := c.leaveContact(tx, there); err != nil {
			return err
		}
	}
	c.tap(TapConnectionToken, token, r.Token)
	c.tap(TapConnectionKey, r.Key)
	c.tap(TapUser, []byte(r.From))
	rec := &groupRecord{
		ID: newLocalID(), GroupID: r.Group, Peer: r.From, State: GroupJoining, Created: c.now().Unix(),
		Join: &joinRecord{Secret: r.Secret, PeerKey: r.Key, Claim: newRequestID()}, Made: r.Made,
	}
	k := &contactRecord{User: r.From, State: ContactAccepting, Key: r.Key, Token: r.Token, OwnToken: token, AliasMade: made, Group: rec.ID,
		Fingerprints: []string{r.Fingerprint}, Revoke: revoke, Since: c.now().Unix()}
	if found {
		k.Version, k.Tokens, k.OwnTokens, k.Spare = old.Version, old.Tokens, old.OwnTokens, old.Spare
	}
	share := c.shareContact
	if found && old.State == ContactConnected { // the user's other clients hear of it when the new connection stands
		k.Tokens++
		share = func(tx Tx, k *contactRecord) error { return write(tx, bucketContacts, []byte(k.User), k) }
	}
	if found && old.State != ContactDisconnecting && !old.Retry { // it is as it was until the new connection stands
		if k.Before = old; old.Before != nil {
			k.Before = old.Before
		}
	}
	r.settle()
	return errors.Join(
		write(tx, bucketRequests, []byte(r.ID), r),
		write(tx, bucketGroups, []byte(rec.ID), rec),
		tx.Put(bucketGroupIDs, rec.GroupID, []byte(rec.ID)),
		share(tx, k),
		c.shareSettled(tx, r.ID),
	)
}

// accept goes on with an accepted request: alias, then the entry into the connection group. If that fails for good, the contact is what it was before.
func (c *Client) accept(ctx context.Context, k *contactRecord) error {
	var err error
	if k.Retry {
		if k, err = c.acceptNext(k); err != nil {
			return err
		}
	}
	if k.Group == "" {
		return nil // another of the user's clients accepted it, or the other user asks anew
	}
	if k, err = c.makeAlias(ctx, k); err != nil {
		return err
	}
	if err = c.made(ctx, k.Group); k.Retry && errors.Is(err, ErrNotReady) {
		return nil // it is not tried before its time
	}
	if g, gerr := c.group(k.Group); gerr == nil && g.rec.State != GroupOver || gerr != nil && !errors.Is(gerr, ErrUnknownGroup) {
		return err
	}
	switch {
	case k.Before != nil:
		return errors.Join(err, c.restore(k))
	case k.Retry:
		if len(c.own) > 1 {
			k.Group = "" // another of the user's clients may have come first
		}
		return errors.Join(err, c.expire(ctx, k))
	}
	_, cerr := c.changeContact(k.User, func(_ Tx, k *contactRecord) error {
		k.Group, k.Retry, k.Since = "", true, c.now().Add(acceptAgain-requestFor).Unix()
		return nil
	})
	return errors.Join(err, cerr)
}

// enterLater says whether the entry into a connection group that failed is tried again: for a day, since the requester may get rid of what stands in the way, as a leaf that the hub
// brought in by itself. A contact that is connected all the while is not held up.
func (c *Client) enterLater(g *group) (again bool, err error) {
	j := g.rec.Join
	if g.rec.Peer == "" || j == nil || j.Entered {
		return false, nil
	}
	err = c.change(g, func(tx Tx) error {
		k, found, err := read[contactRecord](tx, bucketContacts, []byte(g.rec.Peer))
		if err != nil || !found || k.State != ContactAccepting || k.Group != g.rec.ID || k.Before != nil {
			return err
		}
		since := c.now().Sub(timeOf(k.Since))
		if since >= acceptAgain {
			return nil
		}
		again, k.Retry = true, true
		j.Commit, j.Message, j.Before, j.Request, j.Tries = nil, nil, nil, nil, 0
		g.rec.QuietUntil = c.now().Add(max(time.Minute, since/4)).Unix()
		return write(tx, bucketContacts, []byte(k.User), k)
	})
	return again, err
}

// acceptNext accepts the next request of a user one of whose requests was accepted and led nowhere, if it has come.
func (c *Client) acceptNext(k *contactRecord) (*contactRecord, error) {
	requests, err := list[requestRecord](c.store, bucketRequests)
	if err != nil {
		return k, err
	}
	for _, r := range requests {
		if r.State != requestWaiting || r.From != k.User || !c.now().Before(timeOf(r.NotAfter)) {
			continue
		}
		err := c.update(func(tx Tx) error {
			g, err := c.groupIn(tx, k.Group)
			if err == nil {
				err = c.leaveContact(tx, g)
			} else if errors.Is(err, ErrUnknownGroup) {
				err = nil
			}
			return errors.Join(err, c.acceptRequest(tx, r))
		})
		if err != nil {
			return k, err
		}
		next, _, err := get[contactRecord](c.store, bucketContacts, []byte(k.User))
		return next, err
	}
	return k, nil
}

// connectionEntered follows the own entry into a connection group: every leaf is identified. If all are the requester's, the response goes to them.
func (c *Client) connectionEntered(tx Tx, g *group) error {
	if !g.onlyPeer(c.account.rec.User) {
		return c.warn(tx, "", "a connection group holds somebody else: the connection is not completed")
	}
	g.rec.Respond = true
	return nil
}

// onlyPeer says whether every leaf of a connection group is the other user's or the own one's.
func (g *group) onlyPeer(self string) bool {
	for _, r := range g.rec.Leaves {
		if r.User != g.rec.Peer && r.User != self {
			return false
		}
	}
	return true
}

// respond posts the own answer in a connection group, for the present epoch only, whose leaves are all the requester's or own ones. If the epoch
// ends before the answer has its place in the log, it is looked at and posted anew.
func (c *Client) respond(g *group) error {
	return c.change(g, func(tx Tx) error {
		if !g.onlyPeer(c.account.rec.User) {
			g.rec.Respond = false
			return c.warn(tx, "", "a connection group holds somebody else: the connection is not completed")
		}
		k, found, err := read[contactRecord](tx, bucketContacts, []byte(g.rec.Peer))
		if err != nil {
			return err
		}
		if !found {
			g.rec.Respond = false
			return nil
		}
		token, err := mimimi.ConnectionTokenFrom(k.OwnToken)
		if err != nil {
			return ErrStore
		}
		k.Told = c.account.rec.KeyNumber
		if err := write(tx, bucketContacts, []byte(k.User), k); err != nil {
			return err
		}
		response := &mimimi.ConnectionResponse{Key: c.account.connectionKey, Token: token}
		epoch := g.mls.Epoch()
		g.post(&outgoing{Type: mimimi.EnvelopeConnectionResponse, Body: response.Marshal(), OnlyIn: &epoch})
		return nil
	})
}

// responseSent completes an accepted connection: the response has its place in the connection group.
func (c *Client) responseSent(tx Tx, g *group) error {
	g.rec.Respond = false
	return c.nowConnected(tx, g, true, func(*contactRecord) error { return nil })
}
