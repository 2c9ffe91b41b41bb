package provider

import (
	"bytes"
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// OfferLink leaves a new client's offer in the mailbox of a user, or, for a user who does not exist, in nobody's, by as many steps.
//
// One write, of the mailbox: a crash leaves the offer there or not, and a repeat changes nothing.
func (a *accountSide) OfferLink(ctx context.Context, req *mimimiv1.OfferLinkRequest) (*mimimiv1.OfferLinkResponse, error) {
	o, err := parseOffer(req, a.domain)
	if err == nil {
		err = a.verify("offer link", o.client, o.key, req.GetSigned(), joined([]byte(o.user.Wire()), o.offer))
	}
	if err == nil {
		err = a.offer(ctx, o)
	}
	if err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.OfferLinkResponse{}, nil
}

func (a *accountSide) offer(ctx context.Context, o *offer) error {
	account, _, exists, err := get[mimimiv1.AccountEntry](ctx, a.bus, a.bus.Account(o.user.Wire()))
	if err != nil {
		return err
	}
	if exists && !account.GetDeleted() {
		return update(ctx, a.bus, a.bus.Links(o.user.Wire()), func(m *mimimiv1.LinkMailbox, _ bool) (bool, error) {
			addOffer(m, o, a.now())
			return true, nil // also if it changed nothing: nobody's mailbox is written to every time
		})
	}
	if _, _, _, err := get[mimimiv1.LinkMailbox](ctx, a.bus, a.bus.Links(nobody)); err != nil {
		return err
	}
	data, err := proto.Marshal(&mimimiv1.LinkMailbox{Links: []*mimimiv1.LinkEntry{o.entry(a.now())}})
	if err != nil {
		return err
	}
	_, err = a.bus.Publish(ctx, a.bus.Links(nobody), data, bus.PublishOptions{})
	return err
}

// ListLinks returns what waits in the user's mailbox. It changes nothing.
func (a *accountSide) ListLinks(ctx context.Context, req *mimimiv1.ListLinksRequest) (*mimimiv1.ListLinksResponse, error) {
	account, _, err := a.authenticate(ctx, "list links", req.GetClient(), req.GetSigned(), nil)
	if err != nil {
		return nil, problem.Connect(err)
	}
	m, _, _, err := get[mimimiv1.LinkMailbox](ctx, a.bus, a.bus.Links(account.GetUser()))
	if err != nil {
		return nil, problem.Connect(err)
	}
	expireLinks(m, a.now())
	answer := new(mimimiv1.ListLinksResponse)
	for _, e := range m.GetLinks() {
		answer.Links = append(answer.Links, &mimimiv1.Link{
			Client: e.GetClient(), SignatureKey: e.GetSignatureKey(), Offer: e.GetOffer(), Approved: approved(e), SealedPackage: e.GetSealedPackage(),
		})
	}
	return answer, nil
}

// ApproveLink makes an offered client one of the account's. The offer's signature was the proof that the new client has its key.
//
// Writes: (1) the new client's entry, created once; (2) the account, with a certificate for it; (3) the mailbox, with certificate and answer. A crash after
// (1) leaves an entry that gives no right. After (2) the client is on the account and does not know: the repeat finds it there, and its certificate. After (3)
// a repeat changes nothing. If the offer's time is over before (3), the account's clients see a client that never came, and remove it.
func (a *accountSide) ApproveLink(ctx context.Context, req *mimimiv1.ApproveLinkRequest) (*mimimiv1.ApproveLinkResponse, error) {
	p, err := parseApproval(req, a.domain)
	if err == nil {
		err = a.approve(ctx, p, req)
	}
	if err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.ApproveLinkResponse{}, nil
}

func (a *accountSide) approve(ctx context.Context, p *approval, req *mimimiv1.ApproveLinkRequest) error {
	account, _, err := a.authenticate(ctx, "approve link", req.GetClient(), req.GetSigned(), joined([]byte(p.linked.Wire()), slices.Concat(p.key, p.answer)))
	if err != nil {
		return err
	}
	m, _, _, err := get[mimimiv1.LinkMailbox](ctx, a.bus, a.bus.Links(account.GetUser()))
	if err != nil {
		return err
	}
	if done, err := p.check(m, a.now()); done || err != nil {
		return err
	}
	user, err := mimimi.ParseUser(account.GetUser())
	if err != nil {
		return errCorrupt
	}
	if clientOf(account, p.linked.Wire()) == nil && len(account.GetClients()) >= maxClients {
		return errManyClients
	}
	r := &registration{user: user, client: p.linked, key: p.key}
	if err := a.claimClient(ctx, r); err != nil {
		return err
	}
	certificate, err := a.admit(ctx, r, req.GetClient())
	if err != nil {
		return err
	}
	if err := a.stillThere(ctx, r); err != nil {
		return err
	}
	return update(ctx, a.bus, a.bus.Links(user.Wire()), func(m *mimimiv1.LinkMailbox, _ bool) (bool, error) {
		return p.apply(m, certificate, a.now())
	})
}

// admit puts a client on the account with a fresh certificate, or finds it there. by is the client that approves: it must still be there too.
func (a *accountSide) admit(ctx context.Context, r *registration, by string) (certificate []byte, err error) {
	issued, err := mimimi.IssueClientCertificate(a.identity, r.user, r.client, r.key, a.now(), certificateTime)
	if err != nil {
		return nil, problem.Wrap(problem.Invalid, "no certificate can be issued for this name and key", err)
	}
	added := false
	err = update(ctx, a.bus, a.bus.Account(r.user.Wire()), func(e *mimimiv1.AccountEntry, _ bool) (bool, error) {
		added = false
		if clientOf(e, by) == nil {
			return false, errClientGone
		}
		if c := clientOf(e, r.client.Wire()); c != nil {
			certificate = c.GetCertificate()
			if !bytes.Equal(c.GetSignatureKey(), r.key) {
				return false, errClientTaken
			}
			return false, nil
		}
		if leavingOf(e, r.client.Wire()) != nil {
			return false, errClientTaken
		}
		if len(e.GetClients())+len(e.GetLeaving()) >= maxClients {
			return false, errManyClients
		}
		certificate, added = issued.Marshal(), true
		e.Clients = append(e.GetClients(), &mimimiv1.AccountClient{Client: r.client.Wire(), SignatureKey: r.key, Certificate: certificate})
		return true, nil
	})
	if err == nil && added {
		a.m.Linked.Add(ctx, 1)
	}
	return certificate, err
}

// stillThere takes a client off again that was removed for good while it was approved a second time: its entry had been claimed before, and the account
// took it after it had been cleared. Until then nothing accepts it, since its entry says that it has gone.
func (a *accountSide) stillThere(ctx context.Context, r *registration) error {
	entry, _, _, err := get[mimimiv1.ClientEntry](ctx, a.bus, a.bus.AccountClient(r.client.Wire()))
	if err != nil || !entry.GetGone() {
		return err
	}
	if err := a.takeOff(ctx, r.user.Wire(), r.client.Wire(), ""); err != nil {
		return err
	}
	return errClientTaken
}

// GetLink returns the answer to an offer. Whatever is missing or wrong, a bad signature too, is one answer: nothing shows whether the user exists.
func (a *accountSide) GetLink(ctx context.Context, req *mimimiv1.GetLinkRequest) (*mimimiv1.GetLinkResponse, error) {
	user, client, err := parseLinkNames(req.GetUser(), req.GetClient(), a.domain)
	if err != nil {
		return nil, problem.Connect(err)
	}
	m, _, _, err := get[mimimiv1.LinkMailbox](ctx, a.bus, a.bus.Links(user.Wire()))
	if err != nil {
		return nil, problem.Connect(err)
	}
	e, err := a.approvedLink(m, "get link", client, req.GetSigned(), nil)
	if err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.GetLinkResponse{Certificate: e.GetCertificate(), SealedAnswer: e.GetSealedAnswer()}, nil
}

// approvedLink returns the client's approved entry whose key signed the request. Strangers can leave offers in a client's name, but not with its key.
func (a *accountSide) approvedLink(m *mimimiv1.LinkMailbox, operation string, client mimimi.Client, s *mimimiv1.Signed, body []byte) (*mimimiv1.LinkEntry, error) {
	if _, _, err := signed(s); err != nil { // the same whether there is a link or not
		return nil, err
	}
	for _, e := range m.GetLinks() {
		if e.GetClient() == client.Wire() && approved(e) && !linkExpired(e, a.now()) && a.verify(operation, client, e.GetSignatureKey(), s, body) == nil {
			return e, nil
		}
	}
	return nil, errNoLink
}

// PutLinkPackage leaves the approved client's package. Another one replaces it. One write: a repeat changes nothing.
func (a *accountSide) PutLinkPackage(ctx context.Context, req *mimimiv1.PutLinkPackageRequest) (*mimimiv1.PutLinkPackageResponse, error) {
	user, client, err := parseLinkNames(req.GetUser(), req.GetClient(), a.domain)
	if err != nil {
		return nil, problem.Connect(err)
	}
	if n := len(req.GetSealedPackage()); n == 0 || n > maxLinkPackage {
		return nil, problem.Connect(errPackage)
	}
	err = update(ctx, a.bus, a.bus.Links(user.Wire()), func(m *mimimiv1.LinkMailbox, _ bool) (bool, error) {
		e, err := a.approvedLink(m, "put link package", client, req.GetSigned(), req.GetSealedPackage())
		if err != nil || bytes.Equal(e.GetSealedPackage(), req.GetSealedPackage()) {
			return false, err
		}
		e.SealedPackage, e.Touched = req.GetSealedPackage(), a.now().Unix()
		return true, nil
	})
	if err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.PutLinkPackageResponse{}, nil
}
