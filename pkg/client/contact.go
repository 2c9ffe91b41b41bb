package client

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"mimimi.example/pkg/mimimi"
)

// ContactState says how far a connection is.
type ContactState string

// The states of a contact.
const (
	ContactRequested ContactState = "requested" // asked, not answered
	ContactAccepting ContactState = "accepting" // accepted here, being completed
	ContactConnected ContactState = "connected"
	// ContactDisconnecting: disconnected here; the token that they had is not revoked yet.
	ContactDisconnecting ContactState = "disconnecting"
)

// Contact is another user that this one is or will be connected with.
type Contact struct {
	User  mimimi.User
	State ContactState
}

// Request is a connection request that waits for an answer.
type Request struct {
	ID          string
	From        mimimi.User
	Received    time.Time
	NotAfter    time.Time
	Fingerprint string // of the requester's certificate
}

// Verification holds what two users compare out of band to know that nobody stands between them. Theirs has one fingerprint for each known client.
type Verification struct {
	Own    string
	Theirs []string
}

// contactRecord is what is known of a contact. Key and Token are theirs, OwnToken is what they have of this user.
type contactRecord struct {
	User      string       `json:"user"`
	State     ContactState `json:"state"`
	Key       []byte       `json:"key,omitempty"`
	Token     []byte       `json:"token,omitempty"`
	OwnToken  []byte       `json:"own_token"`
	AliasMade bool         `json:"alias_made,omitempty"`
	// Number counts Key; OldKeys are those before, the latest first, under which some of their KeyPackages may still be.
	Number  uint64   `json:"number,omitempty"`
	OldKeys [][]byte `json:"old_keys,omitempty"`
	// Told is the number of the own key that they know; TellAt is when they are told of a later one.
	Told   uint64 `json:"told,omitempty"`
	TellAt int64  `json:"tell_at,omitempty"`
	// GiveToken says that they are to get a new token in place of OwnToken, AskToken that they are to be asked for one in place of Token. NextToken is the new one
	// until they have it. Revoke are tokens that they had.
	GiveToken bool     `json:"give_token,omitempty"`
	AskToken  bool     `json:"ask_token,omitempty"`
	NextToken []byte   `json:"next_token,omitempty"`
	NextMade  bool     `json:"next_made,omitempty"`
	Revoke    [][]byte `json:"revoke,omitempty"`
	// Tokens and OwnTokens count the tokens that took the place of the first Token and OwnToken. Spare are others that they may have of this user, since two of its
	// clients asked or answered them at once: they are given a new one, and then none of these is good any more.
	Tokens    uint64   `json:"tokens,omitempty"`
	OwnTokens uint64   `json:"own_tokens,omitempty"`
	Spare     [][]byte `json:"spare,omitempty"`
	// Version counts the contact among the user's clients. SharedGroup is the connection group's id while this client is not in it.
	Version     uint64 `json:"version,omitempty"`
	SharedGroup []byte `json:"shared_group,omitempty"`
	// Since is when this client accepted the other's request, or heard that another own client asked.
	Since int64 `json:"since,omitempty"`
	// Retry says that a request was accepted here and led nowhere: the next one of the same user is accepted too.
	Retry        bool       `json:"retry,omitempty"`
	Group        string     `json:"group,omitempty"` // local id of the connection group
	Fingerprints []string   `json:"fingerprints,omitempty"`
	Ask          *askRecord `json:"ask,omitempty"` // an own request under way
	// Before is the contact as it was when a further request was accepted, until the connection stands or has failed.
	Before *contactRecord `json:"before,omitempty"`
}

// askRecord is an own connection request in the making (docs/protocol.md §5); a step that is done has left its field.
type askRecord struct {
	Record    []byte `json:"record,omitempty"` // the responder's connection record
	Secret    []byte `json:"secret"`           // invite secret
	Invited   bool   `json:"invited,omitempty"`
	RequestID []byte `json:"request_id"`
	NotAfter  int64  `json:"not_after"`
	Deposit   []byte `json:"deposit"` // request id of the deposit
	Sealed    []byte `json:"sealed,omitempty"`
	Deposited bool   `json:"deposited,omitempty"`
	Again     bool   `json:"again,omitempty"`  // its invitation is void: it is made anew
	Voided    int    `json:"voided,omitempty"` // how often it was
}

// contact reads a contact.
func (c *Client) contact(user mimimi.User) (*contactRecord, bool, error) {
	return get[contactRecord](c.store, bucketContacts, []byte(user.Wire()))
}

// connected returns a contact that is connected, or ErrNotConnected.
func (c *Client) connected(user mimimi.User) (*contactRecord, error) {
	k, found, err := c.contact(user)
	if err == nil && (!found || k.State != ContactConnected) {
		err = ErrNotConnected
	}
	return k, err
}

// secrets returns the contact's connection key and token.
func (k *contactRecord) secrets() (mimimi.ConnectionKey, mimimi.ConnectionToken, error) {
	key, err1 := mimimi.ConnectionKeyFrom(k.Key)
	token, err2 := mimimi.ConnectionTokenFrom(k.Token)
	if errors.Join(err1, err2) != nil {
		return key, token, ErrNotConnected
	}
	return key, token, nil
}

// changeContact changes a contact's record in one transaction.
func (c *Client) changeContact(user string, change func(tx Tx, k *contactRecord) error) (*contactRecord, error) {
	var k *contactRecord
	err := c.update(func(tx Tx) error {
		found := false
		var err error
		if k, found, err = read[contactRecord](tx, bucketContacts, []byte(user)); err != nil {
			return err
		}
		if !found {
			return ErrNotConnected
		}
		if err := change(tx, k); err != nil {
			return err
		}
		return write(tx, bucketContacts, []byte(user), k)
	})
	return k, err
}

// Contacts returns all contacts, ordered by name.
func (c *Client) Contacts(ctx context.Context) (all []Contact, err error) {
	err = c.lockedFor(ctx, func() error {
		records, err := list[contactRecord](c.store, bucketContacts)
		if err != nil {
			return err
		}
		for _, k := range records {
			u, err := mimimi.ParseUser(k.User)
			if err != nil {
				return ErrStore
			}
			all = append(all, Contact{User: u, State: k.State})
		}
		return nil
	})
	return all, err
}

// Verify returns the fingerprints to compare with user. Errors: ErrNotConnected.
func (c *Client) Verify(ctx context.Context, user mimimi.User) (v Verification, err error) {
	err = c.lockedFor(ctx, func() error {
		if err := c.complete(); err != nil {
			return err
		}
		k, err := c.connected(user)
		if err != nil {
			return err
		}
		v = Verification{Own: c.account.certificate.Fingerprint(), Theirs: k.Fingerprints}
		return nil
	})
	return v, err
}

// Requests returns the connection requests that wait for an answer, oldest first.
func (c *Client) Requests(ctx context.Context) (all []Request, err error) {
	err = c.lockedFor(ctx, func() error {
		records, err := list[requestRecord](c.store, bucketRequests)
		if err != nil {
			return err
		}
		for _, r := range records {
			if r.State != requestWaiting || !c.now().Before(timeOf(r.NotAfter)) {
				continue
			}
			u, err := mimimi.ParseUser(r.From)
			if err != nil {
				return ErrStore
			}
			all = append(all, Request{ID: r.ID, From: u, Received: timeOf(r.Received), NotAfter: timeOf(r.NotAfter), Fingerprint: r.Fingerprint})
		}
		slices.SortStableFunc(all, func(a, b Request) int {
			if n := a.Received.Compare(b.Received); n != 0 {
				return n
			}
			return strings.Compare(a.ID, b.ID)
		})
		return nil
	})
	return all, err
}

// Reject drops a request in silence. Errors: ErrUnknownRequest.
func (c *Client) Reject(ctx context.Context, id string) error {
	return c.lockedFor(ctx, func() error {
		return c.update(func(tx Tx) error {
			r, err := waitingRequest(tx, id, c.now())
			if err != nil {
				return err
			}
			r.settle()
			return errors.Join(write(tx, bucketRequests, []byte(id), r), c.shareSettled(tx, id))
		})
	})
}

// workContacts goes on with every connection that is not complete. One that fails does not hold up the others.
func (c *Client) workContacts(ctx context.Context) error {
	errs := []error{c.openRequests(ctx)}
	records, err := list[contactRecord](c.store, bucketContacts)
	errs = append(errs, err)
	for _, k := range records {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		errs = append(errs, c.workContact(ctx, k))
	}
	return distinct(errs)
}
