package client

import (
	"context"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// ForcePolicy offers a policy to the hub that this client's own rules would refuse.
func ForcePolicy(ctx context.Context, c *Client, group string, change PolicyChange) error {
	return c.locked(func() error {
		g, err := c.visible(group)
		if err != nil {
			return err
		}
		p, err := g.policy()
		if err != nil {
			return err
		}
		record, err := change.record(false)
		if err != nil {
			return err
		}
		record.apply(p)
		return c.force(ctx, g, []mls.Proposal{{Type: mls.ProposalGroupContextExtensions, Extensions: mimimi.GroupExtensions(p)}}, nil)
	})
}

// force offers a commit to the hub without a look at the rules, and forgets it.
func (c *Client) force(ctx context.Context, g *group, proposals []mls.Proposal, skip func(*mls.CommittedProposal) bool) error {
	staged, err := g.mls.Commit(mls.CommitOptions{Proposals: proposals, HubExtensions: hubExtensions, Path: true, Now: c.now(), Skip: skip})
	if err != nil {
		return err
	}
	hub, err := c.hub(ctx, g.id.Domain())
	if err != nil {
		return err
	}
	_, err = call(ctx, hub.Commit, &mimimiv1.CommitRequest{
		RequestId: newRequestID(), GroupId: g.rec.GroupID, Commit: staged.Message, Welcome: staged.Welcome, GroupInfo: staged.GroupInfo,
	})
	return err
}

// ProposeRemoval offers a standalone proposal to remove a user's first leaf, which no client of this package does.
func ProposeRemoval(ctx context.Context, c *Client, group string, user mimimi.User) error {
	return c.locked(func() error {
		g, err := c.visible(group)
		if err != nil {
			return err
		}
		leaves := g.leavesOf(user.Wire())
		if len(leaves) == 0 {
			return ErrNotMember
		}
		scratch, err := mls.ParseGroup(g.mls.Marshal(), protocolRules())
		if err != nil {
			return err
		}
		msg, err := scratch.Propose(mls.Proposal{Type: mls.ProposalRemove, Removed: leaves[0]}, nil)
		if err != nil {
			return err
		}
		hub, err := c.hub(ctx, g.id.Domain())
		if err != nil {
			return err
		}
		_, err = call(ctx, hub.Propose, &mimimiv1.ProposeRequest{RequestId: newRequestID(), GroupId: g.rec.GroupID, Proposal: msg})
		return err
	})
}

// Pending is how many proposals wait for a commit, as c sees it.
func Pending(c *Client, group string) (n int) {
	_ = c.locked(func() error {
		g, err := c.group(group)
		if err == nil && g.mls != nil {
			n = len(g.mls.Public().Pending())
		}
		return err
	})
	return n
}

// CommitAnyway makes an empty commit, though a leaf is unidentified.
func CommitAnyway(ctx context.Context, c *Client, group string) error {
	return c.locked(func() error {
		g, err := c.group(group)
		if err != nil {
			return err
		}
		if err := c.stage(g, "test", nil, nil); err != nil {
			return err
		}
		return c.sendStaged(ctx, g)
	})
}

// TakeUp makes a commit that takes up whatever waits.
func TakeUp(ctx context.Context, c *Client, group string) error {
	return c.locked(func() error {
		g, err := c.group(group)
		if err != nil {
			return err
		}
		return c.force(ctx, g, nil, nil)
	})
}

// Epoch is the group's epoch as c sees it; 0 if it is over.
func Epoch(c *Client, group string) (epoch uint64) {
	_ = c.locked(func() error {
		g, err := c.group(group)
		if err == nil && g.mls != nil {
			epoch = g.mls.Epoch()
		}
		return err
	})
	return epoch
}

