package provider

import (
	"bytes"
	"context"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// inboxSide serves InboxService behind an OHTTP gateway. It does not say who exists: size, code and the number of steps of an answer are the
// same for a user who does and one who does not.
type inboxSide struct {
	domain    string
	bus       *bus.Bus
	documents *documents
	fakes     *fakes
	redeemer  mimimi.Redeemer
	now       func() time.Time
	m         *metrics
}

// Problems of deposits.
var (
	errDepositSize = problem.New(problem.Invalid, "sealed_request must have the one size of sealed connection requests")
	errDepositID   = problem.New(problem.Invalid, "request_id must be 16 bytes")
	errDepositUsed = problem.New(problem.Invalid, "the request_id has been used for another request: choose a new random one")
)

// GetRecord returns a user's connection record, or what looks like one.
func (s *inboxSide) GetRecord(ctx context.Context, req *mimimiv1.GetRecordRequest) (*mimimiv1.GetRecordResponse, error) {
	record, err := s.record(ctx, req.GetUser())
	if err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.GetRecordResponse{Record: record}, nil
}

func (s *inboxSide) record(ctx context.Context, name string) ([]byte, error) {
	user, err := parseInboxUser(name, s.domain)
	if err != nil {
		return nil, err
	}
	// The other answer is made in both cases: it takes longer than the rest.
	record, err := s.fakes.record(user, s.now())
	if err != nil {
		return nil, err
	}
	account, _, _, err := get[mimimiv1.AccountEntry](ctx, s.bus, s.bus.Account(user.Wire()))
	if err != nil {
		return nil, err
	}
	if len(account.GetRecord()) > 0 {
		record = account.GetRecord()
	}
	return padRecord(record)
}

// Deposit puts a sealed connection request into a user's inbox. A request for a user who does not exist takes the same steps and ends in an
// inbox that is nobody's.
//
// Writes: (1) the token is spent; (2) the request id is taken, with the hash of what for; (3) the inbox entry; (4) the id is marked done. A
// crash after (1) or (2): the repeat goes on. After (3): the repeat writes the entry once more, which the bus drops within its window and
// the client by the request's own id later. After (4) a repeat changes nothing.
func (s *inboxSide) Deposit(ctx context.Context, req *mimimiv1.DepositRequest) (*mimimiv1.DepositResponse, error) {
	d, err := parseDeposit(req, s.domain)
	if err == nil {
		err = s.deposit(ctx, d, req.GetToken())
	}
	if err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.DepositResponse{}, nil
}

func parseDeposit(req *mimimiv1.DepositRequest, domain string) (*deposit, error) {
	user, err := parseInboxUser(req.GetUser(), domain)
	if err != nil {
		return nil, err
	}
	d := &deposit{user: user, sealed: req.GetSealedRequest()}
	if len(req.GetRequestId()) != len(d.id) {
		return nil, errDepositID
	}
	if len(d.sealed) != mimimi.SealedConnectionRequestSize {
		return nil, errDepositSize
	}
	copy(d.id[:], req.GetRequestId())
	return d, nil
}

func (s *inboxSide) deposit(ctx context.Context, d *deposit, token []byte) error {
	_, err := s.redeemer.Redeem(ctx, &mimimi.Spending{Operation: mimimi.TokenConnect, Token: token, RequestID: d.id, Deed: d.content()})
	if err != nil {
		return err
	}
	done, err := s.take(ctx, d, false)
	if err != nil || done {
		return err
	}
	account, _, known, err := get[mimimiv1.AccountEntry](ctx, s.bus, s.bus.Account(d.user.Wire()))
	if err != nil {
		return err
	}
	user := nobody
	if known = known && !account.GetDeleted(); known {
		user = account.GetUser()
	}
	if err := s.append(ctx, user, known, d); err != nil {
		return err
	}
	_, err = s.take(ctx, d, true)
	return err
}

// take notes that a request id is taken, or done; it reports whether it was done already.
func (s *inboxSide) take(ctx context.Context, d *deposit, finished bool) (done bool, err error) {
	err = update(ctx, s.bus, s.bus.InboxRequest(d.id[:]), func(e *mimimiv1.InboxRequestEntry, exists bool) (bool, error) {
		if exists && !bytes.Equal(e.GetContentHash(), d.content()) {
			return false, errDepositUsed
		}
		done = e.GetDone()
		e.ContentHash, e.Done = d.content(), e.GetDone() || finished
		return !exists || e.Done != done, nil
	})
	return done, err
}

// append writes the entry. The empty name is nobody's inbox, which is emptied when it is full; somebody's full inbox takes no more, and only a
// metric says so.
func (s *inboxSide) append(ctx context.Context, user string, known bool, d *deposit) error {
	inbox := s.bus.Inbox(user)
	_, err := s.bus.Publish(ctx, inbox, d.sealed, bus.PublishOptions{ID: d.messageID()})
	if !isKind(err, problem.Limited) {
		return err
	}
	if known {
		s.m.InboxFull.Add(ctx, 1)
		return nil
	}
	return s.bus.Purge(ctx, inbox, 0)
}

// GetPeerDocument returns the copy of a domain's key document that this provider's own users are shown. Domains that are no peers are not asked: strangers
// come here.
func (s *inboxSide) GetPeerDocument(ctx context.Context, req *mimimiv1.GetPeerDocumentRequest) (*mimimiv1.GetPeerDocumentResponse, error) {
	if mimimi.CheckDomain(req.GetDomain()) != nil {
		return nil, problem.Connect(errDomain)
	}
	document, err := s.documents.of(ctx, req.GetDomain())
	if err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.GetPeerDocumentResponse{Document: document}, nil
}
