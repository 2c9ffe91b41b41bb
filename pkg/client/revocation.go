package client

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// bucketRevocations holds what domains say of revoked certificates.
const bucketRevocations = "revocations" // domain → revocationRecord

const (
	// revocationsEvery is how often a domain's list is fetched anew (§3): the provider's own copy is as old at most.
	revocationsEvery = 24 * time.Hour
	// revocationsRetry is how long a list that could not be fetched is not asked for again.
	revocationsRetry = time.Hour
	// entryFor is how long after its entry a leaf with a revoked certificate counts as one that must not have come in. Of an older one this client cannot know which
	// came first: it is shown as revoked later.
	entryFor = 48 * time.Hour
)

// revocationRecord is a domain's list, as it was fetched last.
type revocationRecord struct {
	Fetched int64  `json:"fetched"` // or tried
	Failed  bool   `json:"failed,omitempty"`
	Number  uint64 `json:"number,omitempty"` // of the latest list seen: none goes back behind it
	// Revoked are the hashes of that list that this client must know: all of them, in hex.
	Revoked map[string]bool `json:"revoked,omitempty"`
}

// revoked says whether a certificate's domain has revoked it, as far as this client was told.
func revoked(tx Tx, cert *mimimi.ClientCertificate) (bool, error) {
	return revokedName(tx, cert.User.Domain(), hashName(cert))
}

// revokedName is revoked for a certificate's hash.
func revokedName(tx Tx, domain, hash string) (bool, error) {
	r, found, err := read[revocationRecord](tx, bucketRevocations, []byte(domain))
	if err != nil || !found {
		return false, err
	}
	return r.Revoked[hash], nil
}

// identifyLive is identify for whom this client is about to trust anew: a revoked certificate is refused.
func identifyLive(tx Tx, l *mls.LeafNode, key mimimi.LinkKey, at time.Time) (*mimimi.ClientCertificate, error) {
	cert, err := identify(tx, l, key, at)
	if err != nil {
		return nil, err
	}
	if bad, err := revoked(tx, cert); err != nil || bad {
		return nil, errors.Join(err, ErrIdentity)
	}
	return cert, nil
}

func hashName(cert *mimimi.ClientCertificate) string {
	h := cert.Hash()
	return hex.EncodeToString(h[:])
}

// isRevoked is revoked by a list that is at most a day old, or the last one that could be had.
func (c *Client) isRevoked(ctx context.Context, cert *mimimi.ClientCertificate) (bad bool, err error) {
	_ = c.fetchRevocations(ctx, cert.User.Domain()) // as in meet
	err = c.view(func(tx Tx) error {
		bad, err = revoked(tx, cert)
		return err
	})
	return bad, err
}

// fetchRevocations fetches a domain's list, unless that was done within a day, over the anonymous channel, from the copy that the provider has for all its users. A list that cannot
// be had does not stop anything: certificates end by themselves, and a provider that withholds a list is the domain's own or could drop everything else too.
func (c *Client) fetchRevocations(ctx context.Context, domain string) error {
	r, found, err := get[revocationRecord](c.store, bucketRevocations, []byte(domain))
	if err != nil {
		return err
	}
	if !found {
		r = new(revocationRecord)
	}
	pause := revocationsEvery
	if r.Failed {
		pause = revocationsRetry
	}
	if c.now().Before(timeOf(r.Fetched).Add(pause)) {
		return nil
	}
	key, err := c.pinnedKey(domain)
	if err != nil || key == nil {
		return err // a domain that was never met has certified nobody that this client knows
	}
	list, ferr := c.revocationList(ctx, domain, key, r.Number)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.Fetched, r.Failed = c.now().Unix(), ferr != nil
	if list != nil {
		r.Number, r.Revoked = list.Number, make(map[string]bool, len(list.Entries))
		for _, e := range list.Entries {
			r.Revoked[hex.EncodeToString(e.Hash[:])] = true
		}
	}
	return errors.Join(ferr, c.update(func(tx Tx) error { return write(tx, bucketRevocations, []byte(domain), r) }))
}

// revocationList asks for a domain's list and verifies it. nil without an error says that the domain has published none.
func (c *Client) revocationList(ctx context.Context, domain string, key []byte, number uint64) (*mimimi.RevocationList, error) {
	res, err := call(ctx, c.channels.relay.GetRevocations, &mimimiv1.GetRevocationsRequest{Domain: domain})
	if err != nil {
		return nil, fmt.Errorf("get revocations: %w", err)
	}
	if len(res.List) == 0 && number == 0 {
		return nil, nil
	}
	list, err := mimimi.ParseRevocationList(res.List)
	if err != nil || list.Domain != domain || list.Verify(key, c.now(), number) != nil {
		return nil, fmt.Errorf("get revocations: %w", ErrIdentity)
	}
	return list, nil
}

// pinnedKey is a domain's identity key, nil if the domain was never met.
func (c *Client) pinnedKey(domain string) (key []byte, err error) {
	err = c.view(func(tx Tx) error {
		key, _, err = pinned(tx, domain)
		return err
	})
	return key, err
}

// watchRevocations keeps the lists of the domains of all members and contacts fresh, once a day each, and says which members' certificates were revoked since they
// came in (EventRevoked). The app may remove such a member; a revoked client of the own user is removed by the others.
func (c *Client) watchRevocations(ctx context.Context) error {
	at, err := c.lookedAt()
	if err != nil || c.now().Before(at.Add(revocationsRetry)) {
		return err
	}
	domains, err := c.metDomains()
	errs := []error{err}
	for _, d := range domains {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		err := c.fetchRevocations(ctx, d)
		if _, down := errors.AsType[*problem.Error](err); !down { // a domain that is down is told of by what needs it
			errs = append(errs, err)
		}
	}
	groups, err := list[groupRecord](c.store, bucketGroups)
	errs = append(errs, err)
	for _, r := range groups {
		if r.State == GroupActive {
			errs = append(errs, c.markRevoked(r.ID))
		}
	}
	errs = append(errs, c.update(func(tx Tx) error {
		// A client that was away for so long that its removal is not in its queue any more reads it in the list that its domain has signed.
		if bad, err := revoked(tx, c.account.certificate); bad || err != nil {
			return errors.Join(err, c.removedHere(tx))
		}
		return tx.Put(bucketMeta, keyLooked, bigEndian(uint64(c.now().Unix())))
	}))
	return distinct(errs)
}

// keyLooked is when revocations were looked at last.
var keyLooked = []byte("looked")

func (c *Client) lookedAt() (at time.Time, err error) {
	err = c.view(func(tx Tx) error {
		if b := tx.Get(bucketMeta, keyLooked); len(b) == 8 {
			at = timeOf(int64(fromBigEndian(b)))
		}
		return nil
	})
	return at, err
}

// metDomains are the domains that this client has met: those of its contacts and of all members of its groups are among them.
func (c *Client) metDomains() (all []string, err error) {
	err = c.view(func(tx Tx) error {
		return tx.Each(bucketPins, nil, func(k, _ []byte) error {
			all = append(all, string(k))
			return nil
		})
	})
	return all, err
}

// markRevoked makes an event for each user of a group with a leaf whose certificate is revoked, once for each leaf.
func (c *Client) markRevoked(id string) error {
	g, err := c.group(id)
	if errors.Is(err, errDamagedGroup) || errors.Is(err, ErrUnknownGroup) || err == nil && g.mls == nil {
		return nil // it has no leaves to look at
	}
	if err != nil {
		return err
	}
	var marked []uint32
	err = c.view(func(tx Tx) error {
		for _, i := range g.indices() {
			r := g.rec.Leaves[i]
			if r.User == "" || r.Revoked || i == g.mls.OwnIndex() {
				continue
			}
			user, err := mimimi.ParseUser(r.User)
			if err != nil {
				return errDamagedGroup
			}
			bad, err := revokedName(tx, user.Domain(), r.Certificate)
			if err != nil {
				return err
			}
			if bad {
				marked = append(marked, i)
			}
		}
		return nil
	})
	if err != nil || len(marked) == 0 {
		return err
	}
	return c.change(g, func(tx Tx) error {
		for _, i := range marked {
			if err := c.showRevoked(tx, g, g.rec.Leaves[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// showRevoked marks a leaf and says so.
func (c *Client) showRevoked(tx Tx, g *group, r *leafRecord) error {
	r.Revoked = true
	e := eventRecord{Kind: EventRevoked, Group: g.rec.ID, User: r.User}
	if g.rec.Peer != "" {
		e.Group = "" // connection groups are not shown
	}
	return c.addEvent(tx, e)
}
