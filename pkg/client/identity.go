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
	"mimimi.example/pkg/mls"
)

// pinRecord is what is known of a domain: its identity key for good, its key document until it expires.
type pinRecord struct {
	IdentityKey []byte `json:"identity_key"`
	Document    []byte `json:"document,omitempty"`
	Compared    bool   `json:"compared,omitempty"`   // Document is what another domain's provider has too
	CompareAt   int64  `json:"compare_at,omitempty"` // when it is to be compared, seconds since 1970
	// Uncompared is since when documents of the domain are in use that nobody was asked about, Unanswered since when those who were have not answered; both over changes of
	// the document. Told and ToldAlone say when, and whether, that was said.
	Uncompared int64 `json:"uncompared,omitempty"`
	Unanswered int64 `json:"unanswered,omitempty"`
	Told       int64 `json:"told,omitempty"`
	ToldAlone  bool  `json:"told_alone,omitempty"`
}

// document returns a domain's key document, verified. The identity key is pinned when the domain is first met; the own one came with ProviderInfo.
// Errors: ErrIdentity, problem errors.
func (c *Client) document(ctx context.Context, domain string) (*mimimi.KeyDocument, error) {
	pin, found, err := get[pinRecord](c.store, bucketPins, []byte(domain))
	if err != nil {
		return nil, err
	}
	if !found {
		pin = new(pinRecord)
	}
	var old *mimimi.KeyDocument
	if pin.Document != nil {
		if old, err = mimimi.ParseKeyDocument(pin.Document); err != nil {
			return nil, fmt.Errorf("%w: a key document is damaged", ErrStore)
		}
		if _, stale := c.channels.stale.LoadAndDelete(domain); !stale && old.Verify(pin.IdentityKey, c.now()) == nil {
			return old, nil
		}
	}
	return c.fetchDocument(ctx, domain, pin.IdentityKey, old)
}

// fetchDocument gets a domain's key document from the provider's cache, checks it against the pinned identity key (nil: first use) and the last document
// (nil: none), whose number it does not fall behind, and with what another domain's provider has, and stores it.
func (c *Client) fetchDocument(ctx context.Context, domain string, pinned []byte, old *mimimi.KeyDocument) (*mimimi.KeyDocument, error) {
	res, err := call(ctx, c.channels.relay.GetKeyDocument, &mimimiv1.GetKeyDocumentRequest{Domain: domain})
	if err != nil {
		return nil, fmt.Errorf("get key document: %w", err)
	}
	d, err := mimimi.ParseKeyDocument(res.Document)
	if err != nil || d.Domain != domain || d.Verify(pinned, c.now()) != nil || old != nil && d.Number < old.Number ||
		pinned != nil && subtle.ConstantTimeCompare(pinned, d.IdentityKey) != 1 {
		werr := c.update(func(tx Tx) error {
			return c.warn(tx, "", "a domain's key document does not verify: it may be that of an impostor")
		})
		return nil, errors.Join(fmt.Errorf("get key document: %w", ErrIdentity), werr)
	}
	if old != nil && bytes.Equal(res.Document, old.Marshal()) {
		return d, nil
	}
	if refused, err := c.refusedBefore(domain, res.Document); err != nil || refused {
		return nil, fmt.Errorf("get key document: %w", errors.Join(err, ErrIdentity))
	}
	result, err := c.compare(ctx, d, pinned)
	if err != nil {
		return nil, err
	}
	if result == differs {
		err := c.update(func(tx Tx) error { return c.refuse(tx, domain, res.Document) })
		return nil, errors.Join(fmt.Errorf("get key document: %w", ErrIdentity), err)
	}
	return d, c.update(func(tx Tx) error { return c.adopt(tx, d, result) })
}

// pinned returns a domain's identity key if the domain was met before.
func pinned(tx Tx, domain string) ([]byte, bool, error) {
	pin, found, err := read[pinRecord](tx, bucketPins, []byte(domain))
	if err != nil || !found {
		return nil, false, err
	}
	return pin.IdentityKey, true, nil
}

// meet makes sure that the domains of leaves are pinned. A domain that cannot be reached is left out: its leaves stay unidentified until it can.
func (c *Client) meet(ctx context.Context, members []mls.Member) error {
	tried := make(map[string]bool)
	for _, m := range members {
		cred, err := mimimi.ParsePseudonymousCredential(m.Leaf.Credential())
		if err != nil || tried[cred.UserPseudonym.Domain()] {
			continue
		}
		domain := cred.UserPseudonym.Domain()
		tried[domain] = true
		_, found, err := get[pinRecord](c.store, bucketPins, []byte(domain))
		if err != nil {
			return err
		}
		if !found {
			_, err = c.document(ctx, domain)
		}
		if err == nil {
			_ = c.fetchRevocations(ctx, domain) // what fails is said by watchRevocations; a list that cannot be had stops nobody
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// errUnmet says that a leaf cannot be judged yet, since its domain was never reached.
var errUnmet = errors.New("the leaf's domain was never reached")

// identify opens a leaf's identity link and checks what is behind it (§4): certificate chain, dates, signature, key, domains. at is the time at which the
// certificate must be valid. It returns errUnmet or ErrIdentity.
func identify(tx Tx, l *mls.LeafNode, key mimimi.LinkKey, at time.Time) (*mimimi.ClientCertificate, error) {
	leaf, err := mimimi.ParseLeaf(l)
	if err != nil {
		return nil, ErrIdentity
	}
	cert, err := leaf.Credential.Identify(key)
	if err != nil {
		return nil, ErrIdentity
	}
	if at.IsZero() {
		at = leaf.Credential.Week
	}
	identityKey, found, err := pinned(tx, cert.User.Domain())
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, errUnmet
	case cert.Verify(identityKey, at) != nil:
		return nil, ErrIdentity
	}
	return cert, nil
}
