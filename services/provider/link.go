package provider

import (
	"bytes"
	"slices"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// Problems of links.
var (
	errOffer       = problem.New(problem.Invalid, "an offer has 1 to 2,048 bytes, and its client's key 32")
	errAnswer      = problem.New(problem.Invalid, "a sealed answer has 1 to 8,192 bytes")
	errPackage     = problem.New(problem.Invalid, "a sealed package has 1 to 16,384 bytes")
	errNoLink      = problem.New(problem.NotFound, "nothing is there for this link: it was not offered or not approved, or its ten minutes are over")
	errApproved    = problem.New(problem.Denied, "another answer has approved this link already")
	errManyClients = problem.New(problem.Limited, "the account has 10 clients: remove one first")
)

// offer is a checked offer of a new client.
type offer struct {
	user   mimimi.User
	client mimimi.Client
	key    []byte
	offer  []byte
}

// parseOffer checks names, domain and sizes. The proof of possession is checked apart.
func parseOffer(r *mimimiv1.OfferLinkRequest, domain string) (*offer, error) {
	user, client, err := parseLinkNames(r.GetUser(), r.GetClient(), domain)
	if err != nil {
		return nil, err
	}
	if n := len(r.GetOffer()); n == 0 || n > maxLinkOffer || len(r.GetSignatureKey()) != keySize {
		return nil, errOffer
	}
	return &offer{user: user, client: client, key: r.GetSignatureKey(), offer: r.GetOffer()}, nil
}

// parseLinkNames reads the user and the new client of a link, both of this provider's domain.
func parseLinkNames(userName, clientName, domain string) (mimimi.User, mimimi.Client, error) {
	user, err := mimimi.ParseUser(userName)
	if err != nil {
		return user, mimimi.Client{}, problem.Wrap(problem.Invalid, "user must be mimi://domain/u/name, within the limits of names", err)
	}
	client, err := mimimi.ParseClient(clientName)
	if err != nil {
		return user, client, problem.Wrap(problem.Invalid, "client must be mimi://domain/d/uuid", err)
	}
	if user.Domain() != domain || client.Domain() != domain {
		return user, client, errNotOurs
	}
	return user, client, nil
}

// joined is a body of several parts with a zero byte between them.
func joined(parts ...[]byte) []byte { return bytes.Join(parts, []byte{0}) }

// entry is the offer as it waits.
func (o *offer) entry(now time.Time) *mimimiv1.LinkEntry {
	return &mimimiv1.LinkEntry{Client: o.client.Wire(), SignatureKey: o.key, Offer: o.offer, Touched: now.Unix()}
}

// expireLinks drops what has waited too long.
func expireLinks(m *mimimiv1.LinkMailbox, now time.Time) {
	m.Links = slices.DeleteFunc(m.GetLinks(), func(e *mimimiv1.LinkEntry) bool { return linkExpired(e, now) })
}

// linkExpired reports whether an entry's time is over. One that is dated in the future by more than that time, by a clock that was wrong, is over too.
func linkExpired(e *mimimiv1.LinkEntry, now time.Time) bool {
	age := now.Sub(time.Unix(e.GetTouched(), 0))
	return age >= linkTime || age <= -linkTime
}

// link returns the entry of a client with a key that has not expired, nil if there is none.
func link(m *mimimiv1.LinkMailbox, client string, key []byte, now time.Time) *mimimiv1.LinkEntry {
	for _, e := range m.GetLinks() {
		if e.GetClient() == client && bytes.Equal(e.GetSignatureKey(), key) && !linkExpired(e, now) {
			return e
		}
	}
	return nil
}

func approved(e *mimimiv1.LinkEntry) bool { return len(e.GetCertificate()) > 0 }

// addOffer puts an offer into a mailbox. The same offer once more changes nothing. In a full mailbox the oldest offer that
// nobody has approved gives way; if all are approved the new one is dropped: whoever offers is not told, since that would say who exists.
func addOffer(m *mimimiv1.LinkMailbox, o *offer, now time.Time) {
	expireLinks(m, now)
	if e := link(m, o.client.Wire(), o.key, now); e != nil {
		if !approved(e) && !bytes.Equal(e.GetOffer(), o.offer) {
			e.Offer, e.Touched = o.offer, now.Unix()
		}
		return
	}
	if len(m.GetLinks()) >= maxLinks {
		oldest := slices.IndexFunc(m.GetLinks(), func(e *mimimiv1.LinkEntry) bool { return !approved(e) })
		if oldest < 0 {
			return
		}
		m.Links = slices.Delete(m.GetLinks(), oldest, oldest+1)
	}
	m.Links = append(m.GetLinks(), o.entry(now))
}

// approval is a checked approval of an offer.
type approval struct {
	linked mimimi.Client
	key    []byte
	answer []byte
}

func parseApproval(r *mimimiv1.ApproveLinkRequest, domain string) (*approval, error) {
	linked, err := mimimi.ParseClient(r.GetLinkedClient())
	if err != nil || linked.Domain() != domain {
		return nil, problem.New(problem.Invalid, "linked_client must be mimi://domain/d/uuid, of this provider's domain")
	}
	if len(r.GetSignatureKey()) != keySize {
		return nil, errOffer
	}
	if n := len(r.GetSealedAnswer()); n == 0 || n > maxLinkAnswer {
		return nil, errAnswer
	}
	return &approval{linked: linked, key: r.GetSignatureKey(), answer: r.GetSealedAnswer()}, nil
}

// check says whether the offer can still be approved, or was by this very answer (done).
func (p *approval) check(m *mimimiv1.LinkMailbox, now time.Time) (done bool, err error) {
	e := link(m, p.linked.Wire(), p.key, now)
	switch {
	case e == nil:
		return false, errNoLink
	case !approved(e):
		return false, nil
	case !bytes.Equal(e.GetSealedAnswer(), p.answer):
		return false, errApproved
	}
	return true, nil
}

// apply leaves the answer and the certificate for the new client, and reports whether it had to.
func (p *approval) apply(m *mimimiv1.LinkMailbox, certificate []byte, now time.Time) (bool, error) {
	done, err := p.check(m, now)
	if done || err != nil {
		return false, err
	}
	e := link(m, p.linked.Wire(), p.key, now)
	e.Certificate, e.SealedAnswer, e.Touched = certificate, p.answer, now.Unix()
	return true, nil
}
