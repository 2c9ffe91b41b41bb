package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

// A key that is shown to one client only would be an identifier (§12). So the copy of a key document that the own provider shows is compared with the one that
// another domain's provider has, asked through the relay without a name, before a document of a new number is used. Two documents of one number that both
// carry the domain's signature are proof enough: neither is used.

//
// Whoever relays a comparison can keep it from being answered, and so can a witness. That stops nobody from using a document, or else each witness could cut a user off; but it is
// not passed over either: DomainKeys says of each domain since when its keys have not been compared, and after a day of that, and every week that it lasts, there
// is an event (EventUncompared). An app may do more.

// comparison is what came of comparing a document.
type comparison int

const (
	unasked   comparison = iota // there is nobody to ask: it is compared when somebody is known
	unsettled                   // nobody who was asked answered, or has this number: it is tried again later
	agreed
	differs
)

// compare compares a verified document with another domain's copy. Only the end of ctx is an error: whoever cannot be asked, or answers with what does not
// verify, decides nothing. pinned is the identity key that the domain is known by, nil at first.
func (c *Client) compare(ctx context.Context, d *mimimi.KeyDocument, pinned []byte) (comparison, error) {
	if c.comparing {
		return unasked, nil // the witness's own document: it is compared when its turn comes
	}
	c.comparing = true
	defer func() { c.comparing = false }()
	witnesses, err := c.witnesses(d.Domain)
	if err != nil || len(witnesses) == 0 {
		return unasked, err
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

// refusalRecord is a document that is not used, and when that was found. It goes when another is taken into use.
type refusalRecord struct {
	Hash []byte `json:"hash"`
	At   int64  `json:"at"`
}

// refusedBefore says whether a document was refused not long ago, so that it is not compared again with every call.
func (c *Client) refusedBefore(domain string, document []byte) (bool, error) {
	r, found, err := get[refusalRecord](c.store, bucketRefused, []byte(domain))
	if err != nil || !found {
		return false, err
	}
	hash := sha256.Sum256(document)
	return bytes.Equal(r.Hash, hash[:]) && c.now().Sub(timeOf(r.At)) < compareAgain, nil
}

// refuse takes note that a document is not to be used, and says so, once for each.
func (c *Client) refuse(tx Tx, domain string, document []byte) error {
	hash := sha256.Sum256(document)
	r, found, err := read[refusalRecord](tx, bucketRefused, []byte(domain))
	if err != nil {
		return err
	}
	known := found && bytes.Equal(r.Hash, hash[:])
	if err := write(tx, bucketRefused, []byte(domain), refusalRecord{Hash: hash[:], At: c.now().Unix()}); err != nil || known {
		return err
	}
	return c.addEvent(tx, eventRecord{Kind: EventKeyDocument, Domain: domain,
		Text: "a domain shows different keys to different people: what you do there could be told from what others do, so it is not used"})
}

// adopt stores a document that is taken into use. result is what came of comparing it.
func (c *Client) adopt(tx Tx, d *mimimi.KeyDocument, result comparison) error {
	old, _, err := read[pinRecord](tx, bucketPins, []byte(d.Domain))
	if err != nil {
		return err
	}
	next := &pinRecord{IdentityKey: d.IdentityKey, Document: d.Marshal(), CompareAt: c.now().Add(c.spread()).Unix()}
	if old != nil {
		next.Uncompared, next.Unanswered, next.Told, next.ToldAlone = old.Uncompared, old.Unanswered, old.Told, old.ToldAlone
	}
	next.settle(result, c.now())
	return errors.Join(tx.Delete(bucketRefused, []byte(d.Domain)), write(tx, bucketPins, []byte(d.Domain), next))
}

// settle notes what came of a comparison that does not end the document's use.
func (r *pinRecord) settle(result comparison, now time.Time) {
	if result == agreed {
		r.Compared, r.Uncompared, r.Unanswered, r.Told = true, 0, 0, 0
		return
	}
	if r.Uncompared == 0 {
		r.Uncompared = now.Unix()
	}
	if result == unsettled && r.Unanswered == 0 {
		r.Unanswered = now.Unix()
	}
}

// compareDocuments compares the documents that are in use without having been compared: those whose domain was met before any other that could be asked, and
// those whose comparison was not possible then. Each is put off by a random time.
func (c *Client) compareDocuments(ctx context.Context) error {
	open := make(map[string]*pinRecord)
	domains := 0
	err := c.view(func(tx Tx) error {
		return each(tx, bucketPins, func(k []byte, r *pinRecord) error {
			domains++
			if r.Document != nil && !r.Compared {
				open[string(k)] = r
			}
			return nil
		})
	})
	errs := []error{err}
	for _, domain := range slices.Sorted(maps.Keys(open)) {
		pin := open[domain]
		alone := domains < 2 || domains == 2 && domain != c.account.user.Domain() // nobody can be asked
		if !alone && pin.CompareAt <= c.now().Unix() {
			errs = append(errs, c.compareStored(ctx, domain, pin))
		}
		errs = append(errs, c.tellUncompared(domain, pin, alone))
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
		pin.CompareAt = c.now().Add(compareAgain + c.spread()/8).Unix()
		if result != differs {
			pin.settle(result, c.now())
			return write(tx, bucketPins, []byte(domain), pin)
		}
		err := c.refuse(tx, domain, pin.Document)
		pin.Document = nil
		return errors.Join(err, write(tx, bucketPins, []byte(domain), pin))
	})
}
