package provider

import (
	"context"
	"encoding/binary"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// accountSide serves AccountService. It knows users by name, and shares nothing with the anonymous side that depends on a user.
type accountSide struct {
	domain      string
	bus         *bus.Bus
	identity    mls.SignatureKey
	revocations *revocations
	issuer      *issuer
	now         func() time.Time
	m           *metrics
}

// Register makes a user with its first client.
//
// Writes: (1) the client's entry, created once; (2) the account, created once, which decides who has the name. A crash after (1) leaves
// a client entry that no account lists and that gives no right; a repeat goes on from there. After (2) a repeat finds the account and answers from it.
func (a *accountSide) Register(ctx context.Context, req *mimimiv1.RegisterRequest) (*mimimiv1.RegisterResponse, error) {
	certificate, err := a.register(ctx, req)
	if err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.RegisterResponse{Certificate: certificate}, nil
}

func (a *accountSide) register(ctx context.Context, req *mimimiv1.RegisterRequest) ([]byte, error) {
	r, err := parseRegistration(req, a.domain)
	if err != nil {
		return nil, err
	}
	if err := a.verify("register", r.client, r.key, req.GetSigned(), r.body()); err != nil {
		return nil, err
	}
	if account, _, ok, err := get[mimimiv1.AccountEntry](ctx, a.bus, a.bus.Account(r.user.Wire())); err != nil {
		return nil, err
	} else if ok {
		return r.answer(account)
	}
	certificate, err := mimimi.IssueClientCertificate(a.identity, r.user, r.client, r.key, a.now(), certificateTime)
	if err != nil {
		return nil, problem.Wrap(problem.Invalid, "no certificate can be issued for this name and key", err)
	}
	if err := a.claimClient(ctx, r); err != nil {
		return nil, err
	}
	return a.claimName(ctx, r, certificate.Marshal())
}

// claimClient creates the client's entry, or finds that the same registration did.
func (a *accountSide) claimClient(ctx context.Context, r *registration) error {
	return update(ctx, a.bus, a.bus.AccountClient(r.client.Wire()), func(e *mimimiv1.ClientEntry, exists bool) (bool, error) {
		if exists && (e.GetGone() || e.GetUser() != r.user.Wire() || string(e.GetSignatureKey()) != string(r.key)) {
			return false, errClientTaken
		}
		e.User, e.SignatureKey = r.user.Wire(), r.key
		return !exists, nil
	})
}

// claimName creates the account; whoever comes second gets the answer for the account that is there.
func (a *accountSide) claimName(ctx context.Context, r *registration, certificate []byte) (answer []byte, err error) {
	err = update(ctx, a.bus, a.bus.Account(r.user.Wire()), func(e *mimimiv1.AccountEntry, exists bool) (bool, error) {
		if exists {
			answer, err = r.answer(e)
			return false, err
		}
		fresh := r.entry(certificate)
		e.User, e.Clients, answer = fresh.User, fresh.Clients, certificate
		a.m.Registered.Add(ctx, 1)
		return true, nil
	})
	return answer, err
}

// verify checks a request's proof. Every failure of the proof itself is one problem.
func (a *accountSide) verify(operation string, client mimimi.Client, key []byte, s *mimimiv1.Signed, body []byte) error {
	id, minute, err := signed(s)
	if err != nil {
		return err
	}
	request := &mimimi.AccountRequest{Operation: operation, Client: client, RequestID: id, Minute: minute, Body: body}
	if mimimi.VerifyAccountRequest(key, request, s.GetSignature(), a.now()) != nil {
		return errAccountAuth
	}
	return nil
}

// authenticate returns the account of the client that signed, and the client's part of it. A client that was taken off its account gets errClientGone.
func (a *accountSide) authenticate(ctx context.Context, operation, name string, s *mimimiv1.Signed, body []byte) (*mimimiv1.AccountEntry, *mimimiv1.AccountClient, error) {
	w, err := a.caller(ctx, operation, name, s, body)
	if err != nil {
		return nil, nil, err
	}
	if w.part == nil {
		return nil, nil, errClientGone
	}
	a.settleLater(ctx, w)
	return w.account, w.part, nil
}

// PublishRecord stores the user's connection record. One compare-and-swap on the account: a crash leaves the old record or the new one.
func (a *accountSide) PublishRecord(ctx context.Context, req *mimimiv1.PublishRecordRequest) (*mimimiv1.PublishRecordResponse, error) {
	account, client, err := a.authenticate(ctx, "publish record", req.GetClient(), req.GetSigned(), req.GetRecord())
	if err == nil {
		err = checkRecord(req.GetRecord(), client, a.identity, a.now())
	}
	if err != nil {
		return nil, problem.Connect(err)
	}
	err = update(ctx, a.bus, a.bus.Account(account.GetUser()), func(e *mimimiv1.AccountEntry, exists bool) (bool, error) {
		if !exists || clientOf(e, req.GetClient()) == nil {
			return false, errAccountAuth
		}
		e.Record = req.GetRecord()
		return true, nil
	})
	if err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.PublishRecordResponse{}, nil
}

// FetchInbox returns the oldest waiting connection requests. It changes nothing.
func (a *accountSide) FetchInbox(ctx context.Context, req *mimimiv1.FetchInboxRequest) (*mimimiv1.FetchInboxResponse, error) {
	account, _, err := a.authenticate(ctx, "fetch inbox", req.GetClient(), req.GetSigned(), nil)
	if err != nil {
		return nil, problem.Connect(err)
	}
	msgs, _, err := a.bus.Read(ctx, a.bus.Inbox(account.GetUser()), 0, inboxPage, readBytes)
	if err != nil {
		return nil, problem.Connect(err)
	}
	answer := new(mimimiv1.FetchInboxResponse)
	for _, m := range msgs {
		answer.Items = append(answer.Items, &mimimiv1.InboxItem{Position: m.Sequence, SealedRequest: m.Data})
	}
	return answer, nil
}

// AckInbox removes connection requests up to a position. One purge: a repeat changes nothing.
func (a *accountSide) AckInbox(ctx context.Context, req *mimimiv1.AckInboxRequest) (*mimimiv1.AckInboxResponse, error) {
	body := binary.BigEndian.AppendUint64(nil, req.GetPosition())
	account, _, err := a.authenticate(ctx, "ack inbox", req.GetClient(), req.GetSigned(), body)
	if err != nil {
		return nil, problem.Connect(err)
	}
	if req.GetPosition() == 0 { // to the bus 0 means everything
		return &mimimiv1.AckInboxResponse{}, nil
	}
	if err := a.bus.Purge(ctx, a.bus.Inbox(account.GetUser()), req.GetPosition()); err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.AckInboxResponse{}, nil
}
