package provider

import (
	"bytes"
	"context"
	"slices"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// RenewCertificate issues another certificate for a client, over its key or a new one. Earlier certificates stay valid: leaves hold them.
//
// Writes: (1) the account, with key and certificate; (2) if the key changed, the client's entry. A crash after (1) leaves an entry whose key nobody asks for
// while the account lists the client. A repeat with the same request id and key gets the same answer; after a change of the key so does any request by the
// old key for the new one.
func (a *accountSide) RenewCertificate(ctx context.Context, req *mimimiv1.RenewCertificateRequest) (*mimimiv1.RenewCertificateResponse, error) {
	certificate, err := a.renew(ctx, req)
	if err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.RenewCertificateResponse{Certificate: certificate}, nil
}

func (a *accountSide) renew(ctx context.Context, req *mimimiv1.RenewCertificateRequest) ([]byte, error) {
	w, err := a.find(ctx, req.GetClient())
	if err != nil {
		return nil, err
	}
	key := req.GetSignatureKey()
	if w.part != nil && bytes.Equal(key, w.part.GetSignatureKey()) && len(w.part.GetPreviousKey()) > 0 &&
		a.verify("renew certificate", w.client, w.part.GetPreviousKey(), req.GetSigned(), key) == nil {
		return w.part.GetCertificate(), a.followKey(ctx, w.part) // a repeat, by the key that was
	}
	if err := a.verify("renew certificate", w.client, w.key(), req.GetSigned(), key); err != nil {
		return nil, err
	}
	if w.part == nil {
		return nil, errClientGone
	}
	a.settleLater(ctx, w)
	same := bytes.Equal(key, w.part.GetSignatureKey())
	if same && bytes.Equal(req.GetSigned().GetRequestId(), w.part.GetRenewalId()) {
		return w.part.GetCertificate(), nil
	}
	if !same && (len(key) != keySize || a.verify("renew certificate", w.client, key, withSignature(req.GetSigned(), req.GetProof()), key) != nil) {
		return nil, errNewKey
	}
	next, err := a.renewed(w, key, req.GetSigned().GetRequestId(), a.now())
	if err != nil {
		return nil, err
	}
	if err := a.replace(ctx, w, next); err != nil {
		return nil, err
	}
	return next.GetCertificate(), nil
}

// withSignature is the same proof with another signature.
func withSignature(s *mimimiv1.Signed, signature []byte) *mimimiv1.Signed {
	return &mimimiv1.Signed{RequestId: s.GetRequestId(), Minute: s.GetMinute(), Signature: signature}
}

// renewed is the client's part of the account after a renewal.
func (a *accountSide) renewed(w *caller, key, requestID []byte, now time.Time) (*mimimiv1.AccountClient, error) {
	user, err := mimimi.ParseUser(w.account.GetUser())
	if err != nil {
		return nil, errCorrupt
	}
	present, err := mimimi.ParseClientCertificate(w.part.GetCertificate())
	if err != nil {
		return nil, errCorrupt
	}
	next := &mimimiv1.AccountClient{Client: w.part.GetClient(), SignatureKey: key, RenewalId: requestID}
	if bytes.Equal(key, w.part.GetSignatureKey()) {
		if now.Before(present.NotBefore.Add(present.NotAfter.Sub(present.NotBefore) / 2)) {
			return nil, errNotDue
		}
	} else {
		next.PreviousKey = w.part.GetSignatureKey()
	}
	hash := present.Hash()
	earlier := append(slices.Clone(w.part.GetEarlier()), &mimimiv1.RevocableCertificate{Hash: hash[:], NotAfter: present.NotAfter.Unix()})
	next.Earlier = slices.DeleteFunc(earlier, func(e *mimimiv1.RevocableCertificate) bool {
		return now.After(time.Unix(e.GetNotAfter(), 0).Add(revocationMargin))
	})
	if len(next.Earlier) > maxEarlier {
		return nil, errManyCerts
	}
	issued, err := mimimi.IssueClientCertificate(a.identity, user, w.client, key, now, certificateTime)
	if err != nil {
		return nil, problem.Wrap(problem.Invalid, "no certificate can be issued for this name and key", err)
	}
	next.Certificate = issued.Marshal()
	return next, nil
}

// replace puts a renewed client in its place, unless another renewal did.
func (a *accountSide) replace(ctx context.Context, w *caller, next *mimimiv1.AccountClient) error {
	err := update(ctx, a.bus, a.bus.Account(w.account.GetUser()), func(e *mimimiv1.AccountEntry, _ bool) (bool, error) {
		i := slices.IndexFunc(e.GetClients(), func(c *mimimiv1.AccountClient) bool { return c.GetClient() == next.GetClient() })
		if i < 0 {
			return false, errClientGone
		}
		if !bytes.Equal(e.Clients[i].GetCertificate(), w.part.GetCertificate()) {
			return false, errRenewed
		}
		e.Clients[i] = next
		return true, nil
	})
	if err != nil {
		return err
	}
	a.m.Renewed.Add(ctx, 1)
	return a.followKey(ctx, next)
}

// followKey makes a client's entry hold the key that its account has.
func (a *accountSide) followKey(ctx context.Context, c *mimimiv1.AccountClient) error {
	if len(c.GetPreviousKey()) == 0 {
		return nil
	}
	return update(ctx, a.bus, a.bus.AccountClient(c.GetClient()), func(e *mimimiv1.ClientEntry, _ bool) (bool, error) {
		if e.GetGone() || bytes.Equal(e.GetSignatureKey(), c.GetSignatureKey()) {
			return false, nil
		}
		e.SignatureKey = c.GetSignatureKey()
		return true, nil
	})
}
