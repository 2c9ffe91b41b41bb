package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

// A key that is shown to one client only would be an identifier (§12). So the copy of a key document that the own provider shows is compared with the one that
// another domain's provider has, asked through the relay without a name, before a document of a new number is used. Two documents of one number that both
// carry the domain's signature are proof enough: neither is used.

// comparison is what came of comparing a document.
type comparison int

const (
	unsettled comparison = iota // nobody could be asked, or nobody has this number: it is tried again later
	agreed
	differs
)

// refusal is a document that is not used, and when that was found.
type refusal struct {
	hash [32]byte
	at   time.Time
}

// compare compares a verified document with another domain's copy. Only the end of ctx is an error: whoever cannot be asked, or answers with what does not
// verify, decides nothing. pinned is the identity key that the domain is known by, nil at first.
func (c *Client) compare(ctx context.Context, d *mimimi.KeyDocument, pinned []byte) (comparison, error) {
	if c.comparing {
		return unsettled, nil // the witness's own document: it is compared when its turn comes
	}
	c.comparing = true
	defer func() { c.comparing = false }()
	witnesses, err := c.witnesses(d.Domain)
	if err != nil {
		return unsettled, err
	}
	for _, w := range witnesses[:min(len(witnesses), maxWitnesses)] {
		other, err := c.shownTo(ctx, w, d.Domain)
		if ctx.Err() != nil {
			return unsettled, ctx.Err()
		}
		switch {
		case err != nil || other.Domain != d.Domain || other.Verify(pinned, c.now()) != nil || other.Number != d.Number:
			continue
		case !bytes.Equal(other.Marshal(), d.Marshal()):
			return differs, nil
		}
		return agreed, nil
	}
	return unsettled, nil
}

// witnesses are the domains that can be asked about a domain, in random order: those that this client has met, but the own one, whose word is to be checked, and
// the one that it is about.
func (c *Client) witnesses(about string) (all []string, err error) {
	err = c.view(func(tx Tx) error {
		return tx.Each(bucketPins, nil, func(k, _ []byte) error {
			if name := string(k); name != about && name != c.account.user.Domain() {
				all = append(all, name)
			}
			return nil
		})
	})
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all, err
}

// shownTo asks a domain's provider which key document it has of another domain. It learns that somebody asks.
func (c *Client) shownTo(ctx context.Context, witness, about string) (*mimimi.KeyDocument, error) {
	in, err := c.inbox(ctx, witness)
	if err != nil {
		return nil, err
	}
	res, err := call(ctx, in.GetPeerDocument, &mimimiv1.GetPeerDocumentRequest{Domain: about})
	if err != nil {
		return nil, err
	}
	return mimimi.ParseKeyDocument(res.Document)
}

// refusedBefore says whether a document was refused not long ago, so that it is not compared again with every call.
func (c *Client) refusedBefore(domain string, document []byte) bool {
	r, ok := c.refused[domain]
	return ok && r.hash == sha256.Sum256(document) && c.now().Sub(r.at) < compareAgain
}

// refuse takes note that a document is not to be used, and says so.
func (c *Client) refuse(tx Tx, domain string, document []byte) error {
	hash := sha256.Sum256(document)
	if c.refused == nil {
		c.refused = make(map[string]refusal)
	}
	known := c.refused[domain].hash == hash
	c.refused[domain] = refusal{hash: hash, at: c.now()}
	if known {
		return nil
	}
	return c.addEvent(tx, eventRecord{Kind: EventKeyDocument, Domain: domain,
		Text: "a domain shows different keys to different people: what you do there could be told from what others do, so it is not used"})
}

// compareDocuments compares the documents that are in use without having been compared: those whose domain was met before any other that could be asked, and
// those whose comparison was not possible then. Each is put off by a random time.
func (c *Client) compareDocuments(ctx context.Context) error {
	type pin struct {
		domain string
		rec    *pinRecord
	}
	var due []pin
	var domains int
	err := c.view(func(tx Tx) error {
		return each(tx, bucketPins, func(k []byte, r *pinRecord) error {
			domains++
			if r.Document != nil && !r.Compared && r.CompareAt <= c.now().Unix() {
				due = append(due, pin{string(k), r})
			}
			return nil
		})
	})
	errs := []error{err}
	for _, p := range due {
		if domains < 2 || domains == 2 && p.domain != c.account.user.Domain() {
			continue // nobody can be asked
		}
		errs = append(errs, c.compareStored(ctx, p.domain, p.rec))
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return distinct(errs)
}

// compareStored compares a document in use. If it is not what others are shown, it is no longer used.
func (c *Client) compareStored(ctx context.Context, domain string, pin *pinRecord) error {
	d, err := mimimi.ParseKeyDocument(pin.Document)
	if err != nil {
		return ErrStore
	}
	result, err := c.compare(ctx, d, pin.IdentityKey)
	if err != nil {
		return err
	}
	return c.update(func(tx Tx) error {
		switch result {
		case agreed:
			pin.Compared = true
		case differs:
			if err := c.refuse(tx, domain, pin.Document); err != nil {
				return err
			}
			pin.Document = nil
		default:
			pin.CompareAt = c.now().Add(compareAgain + c.spread()).Unix()
		}
		return write(tx, bucketPins, []byte(domain), pin)
	})
}
