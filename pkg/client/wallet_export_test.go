package client

import (
	"context"

	"mimimi.example/pkg/mimimi"
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
