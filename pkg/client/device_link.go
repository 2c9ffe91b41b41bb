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

// The steps of letting a new client in (protocol.md §5). The new one: it makes its keys and stores them; leaves the offer; waits for the answer, which brings its certificate
// and the group of the user's clients; makes its queue; leaves a KeyPackage for that group; is added to it, and is told everything there. Each step is stored when it
// is done, and repeating one changes nothing, so that a crash at any point is made good by the next Sync or Link. After a crash before the answer the code is the same.

// Operations of devices that are signed on the account channel, and of a queue.
const (
	opOfferLink      = "offer link"
	opListLinks      = "list links"
	opApproveLink    = "approve link"
	opGetLink        = "get link"
	opPutLinkPackage = "put link package"
	opListClients    = "list clients"
	opRemoveClient   = "remove client"
	opQueueDelete    = "delete"
)

// linkRecord is a link under way, on the new client.
type linkRecord struct {
	Key   []byte `json:"key"` // HPKE, to which the answer is sealed
	Offer []byte `json:"offer"`
	Made  int64  `json:"made"`
	// Offered is when the offer was left last. It is left again while nobody has approved it: others can push it out of a full mailbox.
	Offered int64  `json:"offered,omitempty"`
	Answer  []byte `json:"answer,omitempty"`  // sealed
	Package []byte `json:"package,omitempty"` // sealed KeyPackage for the group of the own clients
	Left    bool   `json:"left,omitempty"`    // the package is in the mailbox
}

// Link makes a new client of a user that has one: it leaves an offer at the provider and shows LinkCode, which the user types at a client that is there (ApproveDevice). From
// then on Sync goes on with it until EventLinked. Called again in the same folder it goes on where it was; if the offer has expired, with a new offer and a new code. Nothing
// is known of the user before the answer: the name is not checked.
//
// The code says to the old client which offer is the new client's. It does not say to the new client that the answer is the user's: a provider, which certifies the user's
// clients, could answer in the user's place, and the new client would be in an empty account of the provider's making. Compare Devices on both.
// Errors: ErrLocked, ErrRegistered, problem errors of the provider.
func Link(ctx context.Context, cfg Config, user mimimi.User) (*Client, error) {
	if err := cfg.Provider.Validate(); err != nil {
		return nil, err
	}
	if user.IsZero() || user.Domain() != cfg.Provider.Domain {
		return nil, problem.New(problem.Invalid, "protocol §5: a client is of its user's provider")
	}
	c, err := open(cfg)
	if err != nil {
		return nil, err
	}
	if err := c.startLink(ctx, user); err != nil {
		return nil, c.abandon(err)
	}
	return c, nil
}

// LinkCode is what the user types at a client that is there; empty once this client is linked. Errors: ErrClosed, ErrStore.
func (c *Client) LinkCode(ctx context.Context) (code string, err error) {
	err = c.lockedFor(ctx, func() error {
		l := c.account.rec.Link
		if l == nil {
			return nil
		}
		o, err := mimimi.ParseLinkOffer(l.Offer)
		if err != nil {
			return fmt.Errorf("%w: the link is damaged", ErrStore)
		}
		code = o.Code()
		return nil
	})
	return code, err
}

func (c *Client) startLink(ctx context.Context, user mimimi.User) error {
	old, found, err := get[accountRecord](c.store, bucketMeta, keyAccount)
	if err != nil {
		return err
	}
	if found && (old.User != user.Wire() || old.Link == nil && old.Certificate == nil) {
		return ErrRegistered
	}
	if !found {
		rec, err := newAccountRecord(c.cfg.Provider, user)
		if err != nil {
			return err
		}
		if rec.Link, err = newLink(rec, c.now()); err != nil {
			return err
		}
		err = c.update(func(tx Tx) error {
			pin := pinRecord{IdentityKey: rec.Provider.IdentityKey}
			return errors.Join(write(tx, bucketMeta, keyAccount, rec), write(tx, bucketPins, []byte(rec.Provider.Domain), pin))
		})
		if err != nil {
			return err
		}
	}
	if err := c.load(); err != nil {
		return err
	}
	c.tapAccount()
	return c.lockedFor(ctx, func() error {
		l := c.account.rec.Link
		if l == nil {
			return nil
		}
		if c.linkExpired(l) {
			fresh, err := newLink(c.account.rec, c.now())
			if err != nil {
				return err
			}
			if err := c.saveAccount(func(r *accountRecord) { r.Link = fresh }); err != nil {
				return err
			}
		}
		return c.offerLink(ctx)
	})
}

// newLink makes an offer.
func newLink(r *accountRecord, now time.Time) (*linkRecord, error) {
	var certKey mls.SignatureKey
	if err := certKey.UnmarshalBinary(r.CertificateKey); err != nil {
		return nil, err
	}
	user, err1 := mimimi.ParseUser(r.User)
	client, err2 := mimimi.ParseClient(r.Client)
	key, err3 := mimimi.Suite.GenerateHPKEKey()
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	private, err := key.MarshalBinary()
	if err != nil {
		return nil, err
	}
	o := &mimimi.LinkOffer{User: user, Client: client, SignatureKey: certKey.Public(), HPKEKey: key.Public()}
	return &linkRecord{Key: private, Offer: o.Marshal(), Made: now.Unix()}, nil
}

// linkExpired says whether an offer is gone at the provider, or will be before anybody has typed its code, or was answered by a client that did not go on.
func (c *Client) linkExpired(l *linkRecord) bool {
	if l.Answer != nil {
		return c.now().Sub(timeOf(l.Made)) >= linkGiveUp
	}
	return c.now().Sub(timeOf(l.Made)) >= linkFor-time.Minute
}

// offerLink leaves the offer, unless it was left just now. One that has expired is not left again: its code would be good for as long as this client is on.
func (c *Client) offerLink(ctx context.Context) error {
	l := c.account.rec.Link
	if l.Answer != nil || c.linkExpired(l) || c.now().Sub(timeOf(l.Offered)) < offerAgain {
		return nil
	}
	body := append(append([]byte(c.account.rec.User), 0), l.Offer...)
	_, err := call(ctx, c.channels.account.OfferLink, &mimimiv1.OfferLinkRequest{
		User: c.account.rec.User, Client: c.account.rec.Client, SignatureKey: c.account.certKey.Public(), Offer: l.Offer,
		Signed: c.signedAccount(opOfferLink, newRequestID(), body),
	})
	if err != nil {
		return fmt.Errorf("offer link: %w", err)
	}
	return c.changeLink(func(l *linkRecord) { l.Offered = c.now().Unix() })
}

// changeLink changes the link under way and stores it.
func (c *Client) changeLink(change func(l *linkRecord)) error {
	next := *c.account.rec.Link
	change(&next)
	return c.saveAccount(func(r *accountRecord) { r.Link = &next })
}

// workLink goes on with the link. It says whether this client is linked.
func (c *Client) workLink(ctx context.Context) (linked bool, err error) {
	if c.account.rec.Link == nil {
		return true, nil
	}
	steps := []struct {
		done func() bool
		do   func(context.Context) error
	}{
		{func() bool { return false }, c.offerLink},
		{func() bool { return c.account.rec.Link.Answer != nil }, c.fetchLink},
		{func() bool { return c.account.rec.QueueMade }, c.makeQueue},
		{func() bool { return c.account.rec.Link.Package != nil }, c.makeLinkPackage},
		{func() bool { return c.account.rec.Link.Left }, c.leaveLinkPackage},
	}
	for _, s := range steps {
		if s.done() {
			continue
		}
		err := s.do(ctx)
		switch {
		case err == nil:
		case problem.KindOf(err) != problem.NotFound:
			return false, err
		case c.linkExpired(c.account.rec.Link):
			return false, ErrLinkExpired
		default:
			return false, nil // nobody has approved it yet
		}
	}
	linked, err = c.readLink(ctx)
	if err == nil && !linked && c.linkExpired(c.account.rec.Link) {
		err = ErrLinkExpired
	}
	return linked, err
}

// readLink reads what comes from the user's other clients.
func (c *Client) readLink(ctx context.Context) (linked bool, err error) {
	for range maxSyncRounds {
		got, err := c.readQueue(ctx)
		if err := errors.Join(err, c.workAll(ctx)); err != nil || got == 0 || c.account.rec.Link == nil {
			return c.account.rec.Link == nil, err
		}
	}
	return false, nil
}

// openAnswer opens the stored answer.
func (c *Client) openAnswer(l *linkRecord, sealed []byte) (*mimimi.LinkOffer, *mimimi.LinkAnswer, error) {
	var key mls.HPKEPrivateKey
	if err := key.UnmarshalBinary(l.Key); err != nil {
		return nil, nil, ErrStore
	}
	o, err := mimimi.ParseLinkOffer(l.Offer)
	if err != nil {
		return nil, nil, ErrStore
	}
	a, err := mimimi.OpenLinkAnswer(sealed, key, o)
	if err != nil || !bytes.Equal(a.IdentityKey, c.account.rec.Provider.IdentityKey) || a.Group.Domain() != c.account.user.Domain() {
		return nil, nil, ErrIdentity
	}
	return o, a, nil
}

// fetchLink asks for the answer and stores it with the certificate, the connection key and the group's id. It returns an error of kind NotFound while there is none.
func (c *Client) fetchLink(ctx context.Context) error {
	a, l := c.account, c.account.rec.Link
	res, err := call(ctx, c.channels.account.GetLink, &mimimiv1.GetLinkRequest{
		User: a.rec.User, Client: a.rec.Client, Signed: c.signedAccount(opGetLink, newRequestID(), nil),
	})
	if err != nil {
		return fmt.Errorf("get link: %w", err)
	}
	cert, err := mimimi.ParseClientCertificate(res.Certificate)
	if err != nil || cert.User != a.user || cert.Client != a.client || !bytes.Equal(cert.SignatureKey, a.certKey.Public()) ||
		cert.Verify(a.rec.Provider.IdentityKey, c.now()) != nil {
		return fmt.Errorf("get link: %w", ErrIdentity)
	}
	_, answer, err := c.openAnswer(l, res.SealedAnswer)
	if err != nil {
		return fmt.Errorf("get link: %w", err)
	}
	c.tap(TapCertificate, res.Certificate)
	c.tap(TapConnectionKey, answer.ConnectionKey.Bytes())
	return c.saveAccount(func(r *accountRecord) {
		next := *l
		next.Answer = res.SealedAnswer
		r.Link, r.Certificate, r.ConnectionKey, r.DeviceGroup = &next, res.Certificate, answer.ConnectionKey.Bytes(), []byte(answer.Group.Wire())
	})
}

// makeLinkPackage makes the KeyPackage for the group of the user's clients and stores it with its private halves.
func (c *Client) makeLinkPackage(ctx context.Context) error {
	o, a, err := c.openAnswer(c.account.rec.Link, c.account.rec.Link.Answer)
	if err != nil {
		return err
	}
	own, err := c.newOwnPackage(ctx, a.UserPseudonym)
	if err != nil {
		return err
	}
	sealed, err := mimimi.SealLinkPackage(own.kp, a, o)
	if err != nil {
		return fmt.Errorf("seal KeyPackage: %w", err)
	}
	next := *c.account.rec.Link
	next.Package = sealed
	return c.update(func(tx Tx) error {
		return errors.Join(c.putOwnPackage(tx, own), c.putAccount(tx, func(r *accountRecord) { r.Link = &next }))
	})
}

func (c *Client) leaveLinkPackage(ctx context.Context) error {
	sealed := c.account.rec.Link.Package
	_, err := call(ctx, c.channels.account.PutLinkPackage, &mimimiv1.PutLinkPackageRequest{
		User: c.account.rec.User, Client: c.account.rec.Client, SealedPackage: sealed, Signed: c.signedAccount(opPutLinkPackage, newRequestID(), sealed),
	})
	if err != nil {
		return fmt.Errorf("leave link package: %w", err)
	}
	return c.changeLink(func(l *linkRecord) { l.Left = true })
}

// newOwnPackage makes an own KeyPackage under a user pseudonym that is in use: for a group that the user is in, or for a set that has none of this client.
func (c *Client) newOwnPackage(ctx context.Context, pseudonym mimimi.UserPseudonym) (*ownPackage, error) {
	cfg, err := c.packageConfig(ctx)
	if err != nil {
		return nil, err
	}
	cfg.UserPseudonym = pseudonym
	kp, secrets, err := mimimi.NewKeyPackage(*cfg)
	if err != nil {
		return nil, fmt.Errorf("make KeyPackage: %w", err)
	}
	cred, err := mimimi.ParsePseudonymousCredential(kp.Leaf().Credential())
	if err != nil {
		return nil, err
	}
	own := &ownPackage{kp: kp, secrets: *secrets, linkKey: cred.LinkKey(c.account.connectionKey)}
	c.tap(TapLinkKey, own.linkKey.Bytes())
	c.tap(TapPseudonym, []byte(pseudonym.Wire()), []byte(cred.ClientPseudonym.Wire()))
	return own, nil
}

// putOwnPackage stores an own KeyPackage that goes to the user's other clients, so that a Welcome for it is known.
func (c *Client) putOwnPackage(tx Tx, own *ownPackage) error {
	leaf, err := own.leaf()
	if err != nil {
		return err
	}
	return write(tx, bucketPackages, own.kp.Ref(), packageRecord{Package: leaf.Package, Secrets: leaf.Secrets, LinkKey: leaf.LinkKey, Made: c.now().Unix(),
		Tried: true, Uploaded: true, Settled: true})
}
