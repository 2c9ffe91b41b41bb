package client

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// requestState says how far a received connection request is.
type requestState string

const (
	requestSealed  requestState = "sealed"  // fetched, not opened yet; the key of the record is that of the ciphertext
	requestWaiting requestState = "waiting" // opened and verified; waits for the user
	requestSettled requestState = "settled" // accepted, rejected or invalid; kept until it expires, since a request id counts once
)

// requestRecord is a connection request from somebody.
type requestRecord struct {
	ID          string       `json:"id"`
	State       requestState `json:"state"`
	Received    int64        `json:"received"`
	Sealed      []byte       `json:"sealed,omitempty"`
	From        string       `json:"from,omitempty"`
	NotAfter    int64        `json:"not_after,omitempty"`
	Fingerprint string       `json:"fingerprint,omitempty"`
	Group       []byte       `json:"group,omitempty"`
	Secret      []byte       `json:"secret,omitempty"`
	Key         []byte       `json:"key,omitempty"`
	Token       []byte       `json:"token,omitempty"`
}

// settle erases everything but what is needed to know the request again.
func (r *requestRecord) settle() {
	*r = requestRecord{ID: r.ID, State: requestSettled, Received: r.Received, NotAfter: r.NotAfter}
}

// waitingRequest reads a request that may be answered.
func waitingRequest(tx Tx, id string, now time.Time) (*requestRecord, error) {
	r, found, err := read[requestRecord](tx, bucketRequests, []byte(id))
	if err == nil && (!found || r.State != requestWaiting || !now.Before(timeOf(r.NotAfter))) {
		err = ErrUnknownRequest
	}
	return r, err
}

// Connect asks user for a connection (protocol.md §5). It returns when the request is deposited; the answer comes with a later Sync
// (EventConnected). Repeating it continues an unfinished one and otherwise changes nothing. Errors: ErrUnknownUser, ErrIdentity.
func (c *Client) Connect(ctx context.Context, user mimimi.User) error {
	return c.lockedFor(ctx, func() error {
		if err := c.linked(); err != nil {
			return err
		}
		if user == c.account.user {
			return problem.New(problem.Invalid, "a user is not connected with itself")
		}
		k, found, err := c.contact(user)
		if err != nil {
			return err
		}
		if found && k.State == ContactDisconnecting {
			if err := c.forget(ctx, k); err != nil {
				return err
			}
			found = false
		}
		if !found || c.isLost(k) {
			if k, err = c.newAsk(ctx, user, k); err != nil {
				return err
			}
		}
		return c.workContact(ctx, k)
	})
}

// newAsk fetches the user's record, so that nothing is kept of users that do not exist, and stores the intent.
// old is what there was of a connection that is lost, nil if there was none.
func (c *Client) newAsk(ctx context.Context, user mimimi.User, old *contactRecord) (*contactRecord, error) {
	record, err := c.fetchRecord(ctx, user)
	if err != nil {
		return nil, err
	}
	c.tap(TapUser, []byte(user.Wire()))
	secret, token := mimimi.NewInviteSecret(), mimimi.NewConnectionToken()
	c.tap(TapConnectionToken, token.Bytes())
	day := 24 * time.Hour
	k := &contactRecord{
		User: user.Wire(), State: ContactRequested, OwnToken: token.Bytes(), Fingerprints: []string{record.Certificate.Fingerprint()},
		Ask: &askRecord{Record: record.Marshal(), Secret: secret.Bytes(), RequestID: newRequestID(), Deposit: newRequestID(),
			NotAfter: c.now().Add(requestFor).Truncate(day).Unix()},
	}
	if old != nil {
		k.Revoke = old.tokens()
	}
	return k, c.update(func(tx Tx) error { return c.shareContact(tx, k) })
}

// fetchRecord gets and verifies a user's connection record. The answer about an unknown user looks the same, and does not verify.
func (c *Client) fetchRecord(ctx context.Context, user mimimi.User) (*mimimi.ConnectionRecord, error) {
	doc, err := c.document(ctx, user.Domain())
	if err != nil {
		return nil, err
	}
	in, err := c.inbox(ctx, user.Domain())
	if err != nil {
		return nil, err
	}
	res, err := call(ctx, in.GetRecord, &mimimiv1.GetRecordRequest{User: user.Wire()})
	if err != nil {
		return nil, fmt.Errorf("get connection record: %w", err)
	}
	record, err := parsePadded(res.Record)
	if err != nil || record.User != user || record.Verify(doc.IdentityKey, c.now()) != nil {
		return nil, ErrUnknownUser
	}
	if bad, err := c.isRevoked(ctx, record.Certificate); err != nil || bad {
		return nil, errors.Join(err, ErrIdentity)
	}
	return record, nil
}

// parsePadded reads a record that is followed by zeros. The record ends with a signature, which may end with zeros too.
func parsePadded(b []byte) (*mimimi.ConnectionRecord, error) {
	end := len(bytes.TrimRight(b, "\x00"))
	for n := end; n <= min(len(b), end+maxSignatureZeros); n++ {
		if r, err := mimimi.ParseConnectionRecord(b[:n]); err == nil {
			return r, nil
		}
	}
	return nil, mimimi.ErrMalformed
}

// maxSignatureZeros is the length of a signature.
const maxSignatureZeros = 64

// workContact does the next steps of a connection, as far as they go now. Every step is stored when it is done, and may be repeated.
func (c *Client) workContact(ctx context.Context, k *contactRecord) error {
	if c.expired(k) {
		return c.expire(ctx, k)
	}
	switch {
	case k.State == ContactRequested && k.Ask != nil:
		return c.ask(ctx, k)
	case k.State == ContactAccepting:
		return c.accept(ctx, k)
	case k.State == ContactConnected:
		return c.keepContact(ctx, k)
	case k.State == ContactDisconnecting:
		return c.forget(ctx, k)
	}
	return nil
}

// ask does what is left of an own request: alias (before the token is handed out), connection group with an invitation, sealed request, deposit.
func (c *Client) ask(ctx context.Context, k *contactRecord) error {
	if k.Ask.Deposited {
		return nil
	}
	k, err := c.makeAlias(ctx, k)
	if err != nil {
		return err
	}
	g, err := c.connectionGroup(ctx, k)
	if err != nil {
		return err
	}
	if g.hasTask(taskAddOwn) {
		return ErrNotReady // first all own clients (§5)
	}
	secret, err := mimimi.InviteSecretFrom(k.Ask.Secret)
	if err != nil {
		return ErrStore
	}
	if !k.Ask.Invited {
		if _, err := c.invite(ctx, g, secret, InviteOptions{Uses: 1, NotAfter: timeOf(k.Ask.NotAfter)}); err != nil {
			return err
		}
		if k, err = c.changeContact(k.User, func(_ Tx, k *contactRecord) error { k.Ask.Invited = true; return nil }); err != nil {
			return err
		}
	}
	if k.Ask.Sealed == nil {
		if k, err = c.sealRequest(k, g, secret); err != nil {
			return err
		}
	}
	return c.deposit(ctx, k)
}

// makeAlias registers the contact's own token at the store (§5: before it is handed out).
func (c *Client) makeAlias(ctx context.Context, k *contactRecord) (*contactRecord, error) {
	if k.AliasMade {
		return k, nil
	}
	token, err := mimimi.ConnectionTokenFrom(k.OwnToken)
	if err != nil {
		return k, ErrStore
	}
	if err := c.registerAlias(ctx, token); err != nil {
		return k, err
	}
	return c.changeContact(k.User, func(_ Tx, k *contactRecord) error { k.AliasMade = true; return nil })
}

// connectionGroup returns the group of an own request, made if it is not there yet.
func (c *Client) connectionGroup(ctx context.Context, k *contactRecord) (*group, error) {
	if g, err := c.group(k.Group); k.Group == "" || errors.Is(err, ErrUnknownGroup) || err == nil && g.rec.State == GroupOver {
		id, err := mimimi.NewGroupID(c.account.user.Domain())
		if err != nil {
			return nil, err
		}
		rec := &groupRecord{GroupID: []byte(id.Wire()), Peer: k.User, Create: &createRecord{Claim: newRequestID(), Request: newRequestID()}}
		err = c.view(func(tx Tx) error {
			other, err := c.otherLink(tx, &group{rec: rec})
			rec.Anew = other != ""
			return err
		})
		if err != nil {
			return nil, err
		}
		if _, err := c.newGroup(rec, c.linkContact(k.User, rec)); err != nil {
			return nil, err
		}
		k.Group, k.Ask.Invited, k.Ask.Sealed = rec.ID, false, nil
	}
	if err := c.made(ctx, k.Group); err != nil {
		return nil, err
	}
	return c.group(k.Group)
}

// linkContact makes a contact's record name its new group, in the transaction that stores the group.
func (c *Client) linkContact(user string, rec *groupRecord) func(tx Tx) error {
	return func(tx Tx) error {
		k, found, err := read[contactRecord](tx, bucketContacts, []byte(user))
		if err != nil || !found {
			return errors.Join(err, ErrStore)
		}
		k.Group = rec.ID
		if k.Ask != nil { // of another group, which was lost
			k.Ask.Invited, k.Ask.Sealed = false, nil
		}
		return write(tx, bucketContacts, []byte(user), k)
	}
}

// sealRequest makes the request and stores it: a repeated deposit is the same bytes.
func (c *Client) sealRequest(k *contactRecord, g *group, secret mimimi.InviteSecret) (*contactRecord, error) {
	record, err := mimimi.ParseConnectionRecord(k.Ask.Record)
	if err != nil {
		return k, ErrStore
	}
	token, err := mimimi.ConnectionTokenFrom(k.OwnToken)
	if err != nil {
		return k, ErrStore
	}
	key, number, err := c.keyOfLeaf(g)
	if err != nil {
		return k, err
	}
	sealed, err := mimimi.SealConnectionRequest(&mimimi.ConnectionRequest{
		RequestID: requestID(k.Ask.RequestID), NotAfter: timeOf(k.Ask.NotAfter), RequesterCertificate: c.account.certificate, ConnectionGroup: g.id,
		InviteSecret: secret, RequesterKey: key, RequesterToken: token, Responder: record.User, ResponderRecordHash: record.Hash(),
	}, c.account.certKey, record)
	if err != nil {
		return k, fmt.Errorf("seal connection request: %w", err)
	}
	return c.changeContact(k.User, func(_ Tx, k *contactRecord) error { k.Ask.Sealed, k.Told = sealed, number; return nil })
}

func (c *Client) deposit(ctx context.Context, k *contactRecord) error {
	user, err := mimimi.ParseUser(k.User)
	if err != nil {
		return ErrStore
	}
	in, err := c.inbox(ctx, user.Domain())
	if err != nil {
		return err
	}
	err = c.spend(ctx, mimimi.TokenConnect, user.Domain(), k.Ask.Deposit, func(token []byte) error {
		_, err := call(ctx, in.Deposit, &mimimiv1.DepositRequest{RequestId: k.Ask.Deposit, User: k.User, SealedRequest: k.Ask.Sealed, Token: token})
		return err
	})
	if err != nil {
		return fmt.Errorf("deposit connection request: %w", err)
	}
	_, err = c.changeContact(k.User, func(_ Tx, k *contactRecord) error {
		k.Ask.Deposited = true
		k.Ask.Sealed, k.Ask.Record = nil, nil
		return nil
	})
	return err
}

// Accept answers a request. The connection is complete a few Syncs later, on both sides (EventConnected). Errors: ErrUnknownRequest, ErrIdentity,
// ErrBadInvitation: the request leads nowhere any more.
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
	c.tap(TapConnectionToken, token, r.Token)
	c.tap(TapConnectionKey, r.Key)
	c.tap(TapUser, []byte(r.From))
	rec := &groupRecord{
		ID: newLocalID(), GroupID: r.Group, Peer: r.From, State: GroupJoining, Created: c.now().Unix(),
		Join: &joinRecord{Secret: r.Secret, PeerKey: r.Key, Claim: newRequestID()},
		Anew: found && old.State == ContactConnected,
	}
	k := &contactRecord{User: r.From, State: ContactAccepting, Key: r.Key, Token: r.Token, OwnToken: token, AliasMade: made, Group: rec.ID,
		Fingerprints: []string{r.Fingerprint}, Revoke: revoke, Since: c.now().Unix()}
	if found {
		k.Version = old.Version
	}
	if found && old.State != ContactDisconnecting { // it is as it was until the new connection stands
		if k.Before = old; old.Before != nil {
			k.Before = old.Before
		}
	}
	r.settle()
	return errors.Join(
		write(tx, bucketRequests, []byte(r.ID), r),
		write(tx, bucketGroups, []byte(rec.ID), rec),
		tx.Put(bucketGroupIDs, rec.GroupID, []byte(rec.ID)),
		c.shareContact(tx, k),
		c.shareSettled(tx, r.ID),
	)
}

// accept goes on with an accepted request: alias, then the entry into the connection group. If that fails for good, the contact is what it was before.
func (c *Client) accept(ctx context.Context, k *contactRecord) error {
	if k.Group == "" {
		return nil // another of the user's clients accepted it
	}
	k, err := c.makeAlias(ctx, k)
	if err != nil {
		return err
	}
	err = c.made(ctx, k.Group)
	if g, gerr := c.group(k.Group); gerr == nil && g.rec.State != GroupOver || gerr != nil && !errors.Is(gerr, ErrUnknownGroup) {
		return err
	}
	if k.Before != nil {
		return errors.Join(err, c.restore(k))
	}
	if len(c.own) > 1 { // another of the user's clients may have come first: it has ten minutes to say so
		_, cerr := c.changeContact(k.User, func(_ Tx, k *contactRecord) error {
			k.Group, k.Since, k.Revoke = "", c.now().Add(acceptedElsewhere-requestFor).Unix(), append(k.Revoke, k.OwnToken)
			return nil
		})
		return cerr
	}
	return errors.Join(err, c.update(func(tx Tx) error {
		return errors.Join(tx.Delete(bucketContacts, []byte(k.User)), c.warn(tx, "", "a connection could not be completed: ask again"))
	}))
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

// receiveResponse completes an own request.
func (c *Client) receiveResponse(tx Tx, g *group, from *leafRecord, body []byte) error {
	if g.rec.Peer == "" || from.User != g.rec.Peer {
		return nil
	}
	res, err := mimimi.ParseConnectionResponse(body)
	if err != nil {
		return c.warn(tx, "", "an answer to a connection request could not be read")
	}
	c.tap(TapConnectionKey, res.Key.Bytes())
	c.tap(TapConnectionToken, res.Token.Bytes())
	return c.nowConnected(tx, g, false, func(k *contactRecord) error {
		k.Key, k.Token, k.Number, k.OldKeys = res.Key.Bytes(), res.Token.Bytes(), 0, nil
		return nil
	})
}

// nowConnected makes the peer of a connection group a contact that is connected.
func (c *Client) nowConnected(tx Tx, g *group, acted bool, change func(k *contactRecord) error) error {
	k, found, err := read[contactRecord](tx, bucketContacts, []byte(g.rec.Peer))
	if err != nil || !found {
		return err
	}
	if err := change(k); err != nil {
		return err
	}
	was := k.State
	if was == ContactDisconnecting {
		return nil // cut off meanwhile
	}
	acted = acted || k.Ask != nil
	g.rec.Linked = true
	kept, err := c.keepOne(tx, g)
	if err != nil {
		return err
	}
	k.State, k.Ask, k.Before, k.Group, k.Fingerprints = ContactConnected, nil, nil, kept, nil
	c.noteFingerprints(g, k)
	if acted {
		err = c.shareContact(tx, k)
	} else { // whoever asked or accepted tells
		err = write(tx, bucketContacts, []byte(k.User), k)
	}
	if err != nil || was == ContactConnected {
		return err
	}
	return c.addEvent(tx, eventRecord{Kind: EventConnected, User: k.User})
}
