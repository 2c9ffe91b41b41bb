package client

import (
	"context"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// ListSets is what the store says about c's sets.
func ListSets(ctx context.Context, c *Client) (all []*mimimiv1.SetSummary, err error) {
	err = c.lockedFor(ctx, func() error {
		listed, err := c.listSets(ctx)
		for _, s := range listed {
			all = append(all, s)
		}
		return err
	})
	return all, err
}

// ClaimOwn claims one of c's own sets, as whoever holds one of its connection tokens may.
func ClaimOwn(ctx context.Context, c *Client) (set []*mls.KeyPackage, lastResort bool, err error) {
	err = c.lockedFor(ctx, func() error {
		set, lastResort, err = c.claim(ctx, c.account.user.Domain(), c.account.selfToken, newRequestID(), true)
		return err
	})
	return set, lastResort, err
}

// Leaves are the leaves of user in a group as c sees them.
func Leaves(c *Client, group string, user mimimi.User) (leaves []*mls.LeafNode, err error) {
	err = c.lockedFor(context.Background(), func() error {
		g, err := c.group(group)
		if err != nil {
			return err
		}
		for _, m := range g.mls.Public().Members() {
			if r := g.rec.Leaves[m.Index]; r != nil && r.User == user.Wire() {
				leaves = append(leaves, m.Leaf)
			}
		}
		return nil
	})
	return leaves, err
}

// SealedFor is c's sealed connection request for user while it is on its way, nil before and after. It takes no lock, so that a fault may ask.
func SealedFor(c *Client, user mimimi.User) []byte {
	k, found, err := c.contact(user)
	if err != nil || !found || k.Ask == nil {
		return nil
	}
	return k.Ask.Sealed
}

// Deposit puts a sealed connection request into user's inbox under a fresh request id, as anyone may who has the bytes.
func Deposit(ctx context.Context, c *Client, user mimimi.User, sealed []byte) error {
	return c.lockedFor(ctx, func() error {
		in, err := c.inbox(ctx, user.Domain())
		if err != nil {
			return err
		}
		id := newRequestID()
		return c.spend(ctx, mimimi.TokenConnect, user.Domain(), id, func(token []byte) error {
			_, err := call(ctx, in.Deposit, &mimimiv1.DepositRequest{RequestId: id, User: user.Wire(), SealedRequest: sealed, Token: token})
			return err
		})
	})
}
