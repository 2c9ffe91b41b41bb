package client

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"mimimi.example/pkg/mimimi"
)

// keepOne decides which connection group stays when two users are connected by two, since their requests crossed, two clients of one asked or one of them lost the former group: that
// which was asked for last, so that both choose alike. The other is left by both. It returns the local id of the one that stays, and marks the other; g itself is stored by
// the caller. A request of this user's that the other has not answered yet is taken back.
func (c *Client) keepOne(tx Tx, g *group) (kept string, err error) {
	kept = g.rec.ID
	var idle []*groupRecord
	var back []string
	best := g.rec
	err = each(tx, bucketGroups, func(_ []byte, r *groupRecord) error {
		switch {
		case r.Peer != g.rec.Peer || r.ID == g.rec.ID || r.Idle || r.ending():
		case !r.Linked && r.Join == nil && !r.Respond:
			back = append(back, r.ID)
		case g.rec.before(r):
			idle = append(idle, r)
		case r.Linked && r.before(best):
			kept, best = r.ID, r
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	for _, id := range back {
		r, err := c.groupIn(tx, id)
		if errors.Is(err, errDamagedGroup) {
			continue
		}
		if err == nil {
			err = c.takeBack(tx, r)
		}
		if err != nil {
			return "", err
		}
	}
	g.rec.Idle = kept != g.rec.ID
	for _, r := range idle {
		r.Idle = true
		if cached, ok := c.groups[r.ID]; ok {
			cached.rec.Idle = true
		}
		if err := write(tx, bucketGroups, []byte(r.ID), r); err != nil {
			return "", err
		}
	}
	return kept, nil
}

// takeBack ends the connection group of a request that the other has not answered, unless it does before the group's hub knows.
func (c *Client) takeBack(tx Tx, g *group) error {
	if g.mls == nil || g.rec.Create != nil {
		return c.leaveContact(tx, g) // nobody was asked by it
	}
	g.rec.Withdraw = true
	return c.putGroup(tx, g)
}

// withdrawAsk has the hub let nobody in by a request that is taken back. If the other has come in before, the connection stands by that request too, and keepOne decides;
// otherwise the group ends, for the user's other clients too. A client that does not know the invitation leaves it to the one that made it.
func (c *Client) withdrawAsk(ctx context.Context, g *group) error {
	if len(g.rec.Invitations) == 0 && g.rec.Token == nil {
		return c.change(g, func(Tx) error { g.rec.Withdraw = false; return nil })
	}
	for _, r := range g.rec.Invitations {
		secret, err := mimimi.InviteSecretFrom(r.Secret)
		if err != nil {
			return errDamagedGroup
		}
		err = c.revokeAtHub(ctx, g, secret)
		if isStale(err) {
			return c.catchUp(ctx, g)
		}
		if err != nil && !isFinal(err) {
			return err
		}
	}
	if err := c.catchUp(ctx, g); err != nil {
		return err
	}
	if g.mls == nil || g.rec.State != GroupActive || g.rec.Resync != nil || !g.onlyOwn(c.account.rec.User) {
		return nil // one who came in is let in, or removed
	}
	return c.change(g, func(tx Tx) error {
		g.rec.Withdraw = false
		return errors.Join(c.shareLeft(tx, g), c.peerGone(tx, g), c.over(tx, g, leftSentence, 0))
	})
}

// askedNow is when a request is made: later than all before it that this client knows of.
func (c *Client) askedNow(user string) (at int64, err error) {
	at = c.now().Unix()
	err = c.view(func(tx Tx) error {
		return each(tx, bucketGroups, func(_ []byte, r *groupRecord) error {
			if r.Peer == user {
				at = max(at, r.Made+1)
			}
			return nil
		})
	})
	return at, err
}

// before says whether a connection group is kept rather than another with the same user: the one that was asked for last, or that with the smaller id if both were within one second.
func (r *groupRecord) before(other *groupRecord) bool {
	if r.Made != other.Made {
		return r.Made > other.Made
	}
	return bytes.Compare(r.GroupID, other.GroupID) < 0
}

// ending says whether a group is over or being left.
func (r *groupRecord) ending() bool {
	return r.State == GroupOver || r.State == GroupLeaving || slices.ContainsFunc(r.Tasks, func(t *task) bool { return t.Kind == taskLeave })
}

// idle says whether a connection group has something to end: it is not the one that is used, or nobody came before the request was over.
func (c *Client) idle(g *group) bool {
	if g.rec.Idle {
		return g.mls == nil || len(g.leavesOf(g.rec.Peer)) == 0 || !g.hasTask(taskLeave)
	}
	old := c.now().Sub(timeOf(g.rec.Created)) > requestFor
	return old && !g.rec.Linked && (g.mls == nil || len(g.leavesOf(g.rec.Peer)) == 0 || g.rec.State == GroupJoining)
}

// endIdle leaves a connection group, or forgets it where there is nobody to tell.
func (c *Client) endIdle(g *group) error {
	if g.mls != nil && len(g.leavesOf(g.rec.Peer)) > 0 { // also on the way in: a leaf of this client's is there
		return c.addTask(g, newTask(taskLeave))
	}
	return c.change(g, func(tx Tx) error {
		g.rec.Idle = false
		return errors.Join(c.over(tx, g, "", 0))
	})
}

// otherLink returns another connection group with the same user that is there or being entered: its local id, or its group id if this client was only told of it by another of
// the user's; neither if there is none.
func (c *Client) otherLink(tx Tx, g *group) (local string, told []byte, err error) {
	err1 := each(tx, bucketGroups, func(_ []byte, r *groupRecord) error {
		if r.Peer == g.rec.Peer && r.ID != g.rec.ID && r.Create == nil && !r.Idle && !r.ending() {
			local = r.ID
		}
		return nil
	})
	err2 := each(tx, bucketShared, func(_ []byte, r *sharedGroupRecord) error {
		if r.Peer == g.rec.Peer && r.Left == 0 && !bytes.Equal(r.GroupID, g.rec.GroupID) {
			told = r.GroupID
		}
		return nil
	})
	return local, told, errors.Join(err1, err2)
}

const asBefore = "a further request of a contact led nowhere: the connection is as it was"

// restore makes a contact what it was before a further request of its user was accepted: the connection by that one did not come about.
func (c *Client) restore(k *contactRecord) error {
	return c.update(func(tx Tx) error {
		g, err := c.groupIn(tx, k.Group)
		if err == nil {
			err = c.leaveContact(tx, g)
		}
		if err != nil && !errors.Is(err, ErrUnknownGroup) {
			return err
		}
		before := k.Before
		before.AliasMade = before.AliasMade || k.AliasMade // both have one own token
		before.Revoke = k.Revoke
		before.NextToken, before.NextMade = nil, false // it was to be revoked; another is made if one is owed
		before.addSpare(k.Spare...)
		if before.State == ContactConnected { // nobody was told of the further request
			return errors.Join(write(tx, bucketContacts, []byte(k.User), before), c.warn(tx, "", asBefore))
		}
		before.Version = k.Version
		return errors.Join(c.shareContact(tx, before), c.warn(tx, "", uncompleted))
	})
}
