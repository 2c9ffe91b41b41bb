package client

import (
	"bytes"
	"context"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// ForcePolicy offers a policy to the hub that this client's own rules would refuse.
func ForcePolicy(ctx context.Context, c *Client, group string, change PolicyChange) error {
	return c.lockedFor(context.Background(), func() error {
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
	return c.lockedFor(context.Background(), func() error {
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
		msg, err := scratch.Propose(mls.Proposal{Type: mls.ProposalRemove, Removed: leaves[0]}, mls.ProposeOptions{})
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
	_ = c.lockedFor(context.Background(), func() error {
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
	return c.lockedFor(context.Background(), func() error {
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
	return c.lockedFor(context.Background(), func() error {
		g, err := c.group(group)
		if err != nil {
			return err
		}
		return c.force(ctx, g, nil, nil)
	})
}

// Epoch is the group's epoch as c sees it; 0 if it is over.
func Epoch(c *Client, group string) (epoch uint64) {
	_ = c.lockedFor(context.Background(), func() error {
		g, err := c.group(group)
		if err == nil && g.mls != nil {
			epoch = g.mls.Epoch()
		}
		return err
	})
	return epoch
}

// Copied is a request's connection group as a stranger would enter it who has the invite secret.
func Copied(ctx context.Context, asker, thief *Client, asked mimimi.User) (group string, err error) {
	k, _, err := asker.contact(asked)
	if err != nil {
		return "", err
	}
	g, err := asker.group(k.Group)
	if err != nil {
		return "", err
	}
	key := asker.account.rec.ConnectionKey
	err = thief.lockedFor(ctx, func() error {
		stolen, err := thief.newGroup(&groupRecord{GroupID: g.rec.GroupID, Peer: asker.account.rec.User,
			Join: &joinRecord{Secret: k.Ask.Secret, PeerKey: key, Claim: newRequestID()}})
		if err != nil {
			return err
		}
		group = stolen.rec.ID
		return thief.made(ctx, group)
	})
	return group, err
}

// Knows says how many leaves of a group c has identified, and how many there are.
func Knows(c *Client, group string) (known, all int) {
	_ = c.lockedFor(context.Background(), func() error {
		g, err := c.group(group)
		if err != nil {
			return err
		}
		for _, l := range g.rec.Leaves {
			if l.User != "" {
				known++
			}
			all++
		}
		return nil
	})
	return known, all
}

// Links are the connection groups with a user that are not over.
func Links(c *Client, user mimimi.User) (n int) {
	_ = c.view(func(tx Tx) error {
		return each(tx, bucketGroups, func(_ []byte, r *groupRecord) error {
			if r.Peer == user.Wire() && r.State != GroupOver && r.State != GroupLeaving {
				n++
			}
			return nil
		})
	})
	return n
}

// BreakEpoch makes c go on from another init secret than the other members, as a member does whose commits are not to be followed: all that a hub sees of
// such a commit is right. In the stored state the init secret stands behind the epoch authenticator.
func BreakEpoch(c *Client, group string) error {
	return c.lockedFor(context.Background(), func() error {
		g, err := c.group(group)
		if err != nil {
			return err
		}
		state, known := g.mls.Marshal(), g.mls.EpochAuthenticator()
		at := bytes.Index(state, known)
		if at < 0 || at+2*len(known) >= len(state) {
			return errDamagedGroup
		}
		state[at+len(known)+1] ^= 1 // after the length
		if g.mls, err = mls.ParseGroup(state, protocolRules()); err != nil {
			return err
		}
		return c.update(func(tx Tx) error { return c.putGroup(tx, g) })
	})
}

// DropQueue deletes c's queue at its provider, as a provider that loses it does.
func DropQueue(ctx context.Context, c *Client) error {
	return c.lockedFor(context.Background(), func() error {
		_, err := call(ctx, c.channels.queue.Delete, &mimimiv1.DeleteQueueRequest{
			QueueId: c.account.rec.QueueID, Signed: c.signedQueue("delete", newRequestID(), nil),
		})
		return err
	})
}

// QueueOf is the id of c's queue, and says whether the own leaf in a group names it.
func QueueOf(c *Client, group string) (id string, named bool) {
	_ = c.lockedFor(context.Background(), func() error {
		g, err := c.group(group)
		if err == nil {
			id, named = string(c.account.rec.QueueID), !c.queueless(g)
		}
		return err
	})
	return id, named
}

// Bounded is what c makes of an acceptance time in a group.
func Bounded(c *Client, group string, at int64) (bounded int64, err error) {
	err = c.lockedFor(context.Background(), func() error {
		g, err := c.group(group)
		if err != nil {
			return err
		}
		d, err := c.bounded(g, &mimimiv1.Delivery{Accepted: at})
		if err == nil {
			bounded = d.Accepted
		}
		return err
	})
	return bounded, err
}

// GiveUp makes the entry into the connection group of an accepted request fail for good.
func GiveUp(c *Client, user mimimi.User) error {
	return c.lockedFor(context.Background(), func() error {
		k, _, err := c.contact(user)
		if err != nil {
			return err
		}
		g, err := c.group(k.Group)
		if err != nil {
			return err
		}
		return c.dropGroup(g)
	})
}

// AcceptOnly stores that a request was accepted, and does no more.
func AcceptOnly(c *Client, id string) error {
	return c.lockedFor(context.Background(), func() error {
		return c.update(func(tx Tx) error {
			r, err := waitingRequest(tx, id, c.now())
			if err != nil {
				return err
			}
			return c.acceptRequest(tx, r)
		})
	})
}

// LinkOf is the local id of the connection group with a user.
func LinkOf(c *Client, user mimimi.User) string {
	k, found, err := c.contact(user)
	if err != nil || !found {
		return ""
	}
	return k.Group
}

// Alive says whether a group is neither over nor being left.
func Alive(c *Client, group string) (alive bool) {
	_ = c.lockedFor(context.Background(), func() error {
		g, err := c.group(group)
		alive = err == nil && !g.rec.ending()
		return nil
	})
	return alive
}

// Forget drops a contact from the store.
func Forget(c *Client, user mimimi.User) error {
	return c.lockedFor(context.Background(), func() error {
		return c.update(func(tx Tx) error { return tx.Delete(bucketContacts, []byte(user.Wire())) })
	})
}

// CutOff revokes the token that a contact has, so that it can claim nothing more.
func CutOff(ctx context.Context, c *Client, user mimimi.User) error {
	return c.lockedFor(context.Background(), func() error {
		k, _, err := c.contact(user)
		if err != nil {
			return err
		}
		token, err := mimimi.ConnectionTokenFrom(k.OwnToken)
		if err != nil {
			return err
		}
		return c.revokeAlias(ctx, token)
	})
}

// SetAddsPerCommit changes how many Adds c puts into one commit.
func SetAddsPerCommit(c *Client, n int) { c.perCommit = n }

// SkipQueue makes c lose everything that waits in its queue, up to a Welcome.
func SkipQueue(ctx context.Context, c *Client) error {
	return c.lockedFor(context.Background(), func() error {
		return skip(ctx, c, func(e *mimimiv1.QueueEntry) bool {
			return e.Delivery != nil && e.Delivery.Kind == mimimiv1.Delivery_KIND_WELCOME
		})
	})
}

// skip passes over what comes in c's queue without a look at it, up to a page with an entry for which last holds.
func skip(ctx context.Context, c *Client, last func(e *mimimiv1.QueueEntry) bool) error {
	for {
		after, err := c.position()
		if err != nil {
			return err
		}
		res, err := call(ctx, c.channels.queue.Read, &mimimiv1.ReadQueueRequest{
			QueueId: c.account.rec.QueueID, After: after, Signed: c.signedQueue(opQueueRead, newRequestID(), bigEndian(after)),
		})
		if err != nil {
			return err
		}
		found := false
		for _, e := range res.Entries {
			found = found || last(e)
			if err := c.pass(e.Position); err != nil {
				return err
			}
		}
		if found {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// ResyncNow takes the random time from a resync that is to come.
func ResyncNow(c *Client, group string) {
	_ = c.lockedFor(context.Background(), func() error {
		g, err := c.group(group)
		if err != nil || g.rec.Resync == nil {
			return err
		}
		return c.change(g, func(Tx) error {
			g.rec.Resync.Due = 0
			return nil
		})
	})
}
