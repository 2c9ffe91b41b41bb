package client

import (
	"context"
	"encoding/hex"
	"errors"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// ShowTokens makes c show what f returns in place of its tokens; nil ends that.
func ShowTokens(c *Client, f func(o mimimi.TokenOperation, token []byte) []byte) { c.shows = f }

// Deeds are the five requests that take a token, each done anew at every call.
func Deeds(c *Client) map[mimimi.TokenOperation]func(ctx context.Context) error {
	locked := func(f func(ctx context.Context) error) func(ctx context.Context) error {
		return func(ctx context.Context) error { return c.lockedFor(ctx, func() error { return f(ctx) }) }
	}
	return map[mimimi.TokenOperation]func(ctx context.Context) error{
		mimimi.TokenQueue: locked(func(ctx context.Context) error {
			if err := c.saveAccount(func(r *accountRecord) { r.QueueID, r.QueueCreateID = mimimi.NewQueueID().Bytes(), newRequestID() }); err != nil {
				return err
			}
			return c.makeQueue(ctx)
		}),
		mimimi.TokenUpload: locked(func(ctx context.Context) error {
			c.cfg.Stock.OneTime += 2 * c.cfg.Stock.OneTime
			return c.fillStock(ctx)
		}),
		mimimi.TokenGroup: func(ctx context.Context) error {
			_, err := c.CreateGroup(ctx, "")
			return err
		},
		mimimi.TokenClaim: locked(func(ctx context.Context) error {
			_, _, err := c.claimOwn(ctx, newRequestID())
			return err
		}),
	}
}

// Tokens counts the tokens in c's purses, by operation and domain, and the bytes of each.
func Tokens(c *Client, o mimimi.TokenOperation, domain string) (all [][]byte) {
	_ = c.view(func(tx Tx) error {
		for _, epoch := range c.spendable() {
			p, found, err := read[purseRecord](tx, bucketPurses, purseKey(o, epoch, domain))
			if err != nil {
				return err
			}
			if found {
				all = append(all, p.Tokens...)
			}
		}
		return nil
	})
	return all
}

// Spendings counts what c's store holds of tokens that were spent.
func Spendings(c *Client) (n int) {
	_ = c.view(func(tx Tx) error {
		return each(tx, bucketSpending, func([]byte, *spendingRecord) error { n++; return nil })
	})
	return n
}

// teller asks for tokens under the name of a user of its own, since tokens do not say whose they are: a twin is no client that the account lists.
type teller struct {
	mimimiv1connect.AccountServiceClient
	client mimimi.Client
	key    mls.SignatureKey
	now    func() time.Time
}

// newTeller registers a user for c to ask for tokens as.
func newTeller(ctx context.Context, c *Client) (*teller, error) {
	domain := c.account.user.Domain()
	t := &teller{AccountServiceClient: c.channels.account, now: c.now}
	var errs [3]error
	t.client, errs[0] = mimimi.NewClient(domain)
	t.key, errs[1] = mimimi.Suite.GenerateSignatureKey()
	user := "mimi://" + domain + "/u/teller-" + hex.EncodeToString(random(8))
	_, errs[2] = t.Register(ctx, &mimimiv1.RegisterRequest{
		User: user, Client: t.client.Wire(), SignatureKey: t.key.Public(),
		Signed: t.sign(opRegister, append(append([]byte(user), 0), t.key.Public()...)),
	})
	return t, errors.Join(errs[:]...)
}

func (t *teller) sign(operation string, body []byte) *mimimiv1.Signed {
	id, minute := newRequestID(), t.now().Truncate(time.Minute)
	r := &mimimi.AccountRequest{Operation: operation, Client: t.client, RequestID: requestID(id), Minute: minute, Body: body}
	return &mimimiv1.Signed{RequestId: id, Minute: minute.Unix() / 60, Signature: mimimi.SignAccountRequest(t.key, r)}
}

// IssueTokens implements AccountServiceClient.
func (t *teller) IssueTokens(ctx context.Context, req *mimimiv1.IssueTokensRequest) (*mimimiv1.IssueTokensResponse, error) {
	body, err := mimimiv1.IssueTokensBody(req)
	if err != nil {
		return nil, err
	}
	return t.AccountServiceClient.IssueTokens(ctx, &mimimiv1.IssueTokensRequest{
		Client: t.client.Wire(), Epoch: req.Epoch, Batches: req.Batches, Signed: t.sign(opIssueTokens, body),
	})
}
