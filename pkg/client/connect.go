package client

import (
	"bytes"
	"context"
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
	Made        int64        `json:"made,omitempty"`
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
		if !found || c.isLost(k) || k.Retry {
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
	token := mimimi.NewConnectionToken()
	c.tap(TapConnectionToken, token.Bytes())
	k := &contactRecord{
		User: user.Wire(), State: ContactRequested, OwnToken: token.Bytes(), Fingerprints: []string{record.Certificate.Fingerprint()},
		Ask: c.newAskRecord(record),
	}
	if old != nil {
		k.Revoke, k.Spare, k.Version, k.Tokens, k.OwnTokens = old.tokens(), old.Spare, old.Version, old.Tokens, old.OwnTokens+1
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
	var err error
	switch {
	case k.Ask.Again:
		if k, err = c.askAnew(ctx, k); err != nil {
			return err
		}
	case k.Ask.Deposited:
		return nil
	}
	k, err = c.makeAlias(ctx, k)
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

// voidAsk takes note that an own request leads nowhere which nobody has answered: its connection group is over, or a removal there has voided its invitation, all of which whoever was
// removed knew.
func (c *Client) voidAsk(tx Tx, g *group) error {
	if g.rec.Peer == "" {
		return nil
	}
	k, found, err := read[contactRecord](tx, bucketContacts, []byte(g.rec.Peer))
	if err != nil || !found || k.Ask == nil || k.Group != g.rec.ID || !k.Ask.Invited {
		return err
	}
	k.Ask.Voided++
	if k.Ask.Again = k.Ask.Voided <= maxVoided; !k.Ask.Again { // whoever comes in each time would go on
		return c.addEvent(tx, eventRecord{Kind: EventWarning, User: k.User, Text: voidedSentence})
	}
	return write(tx, bucketContacts, []byte(k.User), k)
}

const voidedSentence = "somebody else came in by a connection request again and again: it was made anew three times, and will not be answered"

// askAnew makes a request whose invitation is void anew, with another secret and token. The former one leads nowhere.
func (c *Client) askAnew(ctx context.Context, k *contactRecord) (*contactRecord, error) {
	user, err := mimimi.ParseUser(k.User)
	if err != nil {
		return k, ErrStore
	}
	record, err := c.fetchRecord(ctx, user)
	if err != nil {
		return k, err
	}
	fresh := c.newAskRecord(record)
	fresh.Voided = k.Ask.Voided
	token := mimimi.NewConnectionToken()
	c.tap(TapConnectionToken, token.Bytes())
	return c.changeContact(k.User, func(tx Tx, k *contactRecord) error {
		if k.Ask == nil {
			return nil // answered after all
		}
		k.Ask, k.Revoke = fresh, k.tokens()
		k.OwnToken, k.AliasMade, k.NextToken, k.NextMade, k.GiveToken = token.Bytes(), false, nil, false, false
		k.OwnTokens++
		g, err := c.groupIn(tx, k.Group)
		if err == nil && g.rec.State != GroupOver {
			g.rec.Token = k.OwnToken
			err = c.putGroup(tx, g)
		}
		if err != nil && !errors.Is(err, ErrUnknownGroup) && !errors.Is(err, errDamagedGroup) {
			return err
		}
		return c.shareContact(tx, k)
	})
}

// newAskRecord is a request to whom a connection record is of.
func (c *Client) newAskRecord(record *mimimi.ConnectionRecord) *askRecord {
	return &askRecord{Record: record.Marshal(), Secret: mimimi.NewInviteSecret().Bytes(), RequestID: newRequestID(), Deposit: newRequestID(),
		NotAfter: c.now().Add(requestFor).Truncate(24 * time.Hour).Unix()}
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
		rec := &groupRecord{GroupID: []byte(id.Wire()), Peer: k.User, Token: k.OwnToken, Create: &createRecord{Claim: newRequestID(), Request: newRequestID()}}
		if rec.Made, err = c.askedNow(k.User); err != nil {
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
		RequestID: requestID(k.Ask.RequestID), Made: timeOf(g.rec.Made), NotAfter: timeOf(k.Ask.NotAfter), RequesterCertificate: c.account.certificate, ConnectionGroup: g.id,
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
		switch {
		case k.State != ContactConnected:
			k.Key, k.Number, k.OldKeys, k.Token = res.Key.Bytes(), 0, nil, res.Token.Bytes()
		case k.Tokens == 0: // connected by another request: both tokens are good until another is given
			k.Token = res.Token.Bytes()
			fallthrough
		default:
			k.takeKey(k.Number, res.Key.Bytes())
		}
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
	acted = acted || k.Ask != nil && k.Group == g.rec.ID
	g.rec.Linked, g.rec.Withdraw = true, false
	c.noteSpare(k, g.rec.Token) // a second request was accepted: the contact may use its token
	kept, err := c.keepOne(tx, g)
	if err != nil {
		return err
	}
	k.State, k.Ask, k.Before, k.Group, k.Fingerprints, k.Retry = ContactConnected, nil, nil, kept, nil, false
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
