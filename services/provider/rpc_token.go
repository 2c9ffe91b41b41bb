package provider

import (
	"bytes"
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// Problems of issuing.
var (
	errIssueEpoch   = problem.New(problem.Invalid, "protocol §11: tokens are issued for this week and the next")
	errIssueBatches = problem.New(problem.Invalid, "protocol §11: a request is for the whole quota of every operation, in the key document's order")
	errIssuedOther  = problem.New(problem.Denied, "protocol §11: this client has its tokens of that week already, for other blinded messages")
	errIssueLimit   = problem.New(problem.Limited, "protocol §11: tokens of that week were asked for too often")
	errExchange     = problem.New(problem.Invalid, "protocol §11: an exchange is of eight different tokens for eight blinded messages")
	errExchanged    = problem.New(problem.Denied, "protocol §11: the tokens are not all of this domain, one operation and one week")
)

// IssueTokens signs a client's tokens of an epoch.
//
// One write: what is about to be signed, with the account, by compare-and-swap. A crash before it leaves nothing; after it the same blinded messages get the
// same signatures, and others none. The write follows the wait for a turn: who gave up waiting has used up none of the answers.
func (a *accountSide) IssueTokens(ctx context.Context, req *mimimiv1.IssueTokensRequest) (*mimimiv1.IssueTokensResponse, error) {
	answer, err := a.issue(ctx, req)
	if err != nil {
		return nil, problem.Connect(err)
	}
	return answer, nil
}

func (a *accountSide) issue(ctx context.Context, req *mimimiv1.IssueTokensRequest) (*mimimiv1.IssueTokensResponse, error) {
	body, err := mimimiv1.IssueTokensBody(req)
	if err != nil {
		return nil, errIssueBatches
	}
	account, _, err := a.authenticate(ctx, "issue tokens", req.GetClient(), req.GetSigned(), body)
	if err != nil {
		return nil, err
	}
	present := mimimi.TokenEpoch(a.now())
	if e := req.GetEpoch(); e != present && e != present+1 {
		return nil, errIssueEpoch
	}
	keys, err := a.issuer.keys(ctx, req.GetEpoch(), true)
	if err != nil {
		return nil, err
	}
	answer, work, err := planIssue(keys, req.GetBatches())
	if err != nil {
		return nil, err
	}
	leave, err := a.issuer.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	err = update(ctx, a.bus, a.bus.Account(account.GetUser()), func(e *mimimiv1.AccountEntry, exists bool) (bool, error) {
		if !exists || clientOf(e, req.GetClient()) == nil {
			return false, errAccountAuth
		}
		return true, noteIssue(e, req.GetClient(), req.GetEpoch(), body, present)
	})
	if err != nil {
		return nil, err
	}
	if err := a.issuer.sign(ctx, work); err != nil {
		return nil, err
	}
	a.m.TokensIssued.Add(ctx, int64(len(work)))
	return answer, nil
}

// planIssue checks a request's batches and lays out the answer.
func planIssue(keys map[mimimi.TokenOperation]*issuerKey, batches []*mimimiv1.TokenBatch) (*mimimiv1.IssueTokensResponse, []signing, error) {
	operations := mimimi.TokenOperations()
	if len(batches) != len(operations) {
		return nil, nil, errIssueBatches
	}
	answer := new(mimimiv1.IssueTokensResponse)
	var work []signing
	for n, o := range operations {
		k, b := keys[o], batches[n]
		if b.GetOperation() != string(o) || len(b.GetMessages()) != int(k.public.Quota) {
			return nil, nil, errIssueBatches
		}
		signed := &mimimiv1.TokenBatch{Operation: string(o), Messages: make([][]byte, len(b.GetMessages()))}
		for m, message := range b.GetMessages() {
			if err := k.public.CheckBlinded(message); err != nil {
				return nil, nil, problem.Wrap(problem.Invalid, errIssueBatches.Sentence, err)
			}
			work = append(work, signing{key: k.private, message: message, into: &signed.Messages[m]})
		}
		answer.Batches = append(answer.Batches, signed)
	}
	return answer, work, nil
}

// noteIssue notes a batch with the account, and forgets those of past epochs.
func noteIssue(e *mimimiv1.AccountEntry, client string, epoch uint64, hash []byte, present uint64) error {
	e.Issued = slices.DeleteFunc(e.Issued, func(i *mimimiv1.TokenIssue) bool { return i.GetEpoch() < present })
	n := 0
	for _, i := range e.Issued {
		if i.GetEpoch() != epoch {
			continue
		}
		if n++; i.GetClient() != client {
			continue
		}
		switch {
		case !bytes.Equal(i.GetHash(), hash):
			return errIssuedOther
		case i.GetAnswers() >= maxIssueAnswers:
			return errIssueLimit
		}
		i.Answers++
		return nil
	}
	if n >= maxIssues {
		return errIssueLimit
	}
	e.Issued = append(e.Issued, &mimimiv1.TokenIssue{Client: client, Epoch: epoch, Hash: hash, Answers: 1})
	return nil
}

// ExchangeTokens spends tokens of this domain for signatures under the same key.
//
// Writes: each token is spent for this very exchange. A crash in between: the repeat goes on, as every one lets it through again, and the same blinded messages
// get the same signatures. Once a token of the eight was spent for something else the exchange fails, and those before it are lost: no client of ours does
// that.
func (r *relaySide) ExchangeTokens(ctx context.Context, req *mimimiv1.ExchangeTokensRequest) (*mimimiv1.ExchangeTokensResponse, error) {
	answer, err := r.exchange(ctx, req)
	if err != nil {
		return nil, problem.Connect(err)
	}
	return answer, nil
}

func (r *relaySide) exchange(ctx context.Context, req *mimimiv1.ExchangeTokensRequest) (*mimimiv1.ExchangeTokensResponse, error) {
	if len(req.GetRequestId()) != 16 || len(req.GetTokens()) != mimimi.TokenExchange || len(req.GetBlinded()) != mimimi.TokenExchange {
		return nil, errExchange
	}
	k, err := r.exchanged(ctx, req.GetTokens())
	if err != nil {
		return nil, err
	}
	answer := &mimimiv1.ExchangeTokensResponse{BlindSignatures: make([][]byte, mimimi.TokenExchange)}
	work := make([]signing, mimimi.TokenExchange)
	for i, b := range req.GetBlinded() {
		if err := k.public.CheckBlinded(b); err != nil {
			return nil, problem.Wrap(problem.Invalid, errExchange.Sentence, err)
		}
		work[i] = signing{key: k.private, message: b, into: &answer.BlindSignatures[i]}
	}
	deed := digest(labelExchange, req.GetBlinded()...)
	g, gctx := errgroup.WithContext(ctx)
	for _, t := range req.GetTokens() {
		g.Go(func() error {
			_, err := r.redeemer.Redeem(gctx, &mimimi.Spending{Operation: k.public.Operation, Token: t, RequestID: [16]byte(req.GetRequestId()), Deed: deed})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	leave, err := r.issuer.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := r.issuer.sign(ctx, work); err != nil {
		return nil, err
	}
	r.m.Exchanged.Add(ctx, int64(len(work)))
	return answer, nil
}

// exchanged returns the one key under which all tokens were issued, by this domain and for it.
func (r *relaySide) exchanged(ctx context.Context, tokens [][]byte) (*issuerKey, error) {
	names := make(map[string]bool)
	var key *issuerKey
	for _, raw := range tokens {
		t, err := mimimi.ParseToken(raw)
		if err != nil || t.Issuer() != r.domain || names[string(t.SpentName())] {
			return nil, errExchange
		}
		names[string(t.SpentName())] = true
		if key == nil {
			if key, err = r.issuedUnder(ctx, t); err != nil {
				return nil, err
			}
		}
		if t.Verify(&key.public, r.domain) != nil {
			return nil, errExchanged
		}
	}
	return key, nil
}

func (r *relaySide) issuedUnder(ctx context.Context, t *mimimi.Token) (*issuerKey, error) {
	for _, epoch := range mimimi.AcceptedEpochs(r.now()) {
		keys, err := r.issuer.keys(ctx, epoch, false)
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			if t.Verify(&k.public, r.domain) == nil {
				return k, nil
			}
		}
	}
	return nil, errExchanged
}
