package client

import (
	"bytes"
	"errors"
	"slices"
)

// keepOne decides which connection group stays when two users are connected by two: one that was made since another was lost, or, since their requests crossed, the one
// whose group id is smaller; so both choose alike. The other is left by both. It returns the local id of the one that stays, and marks the other; g itself is stored by the caller.
func (c *Client) keepOne(tx Tx, g *group) (kept string, err error) {
	kept = g.rec.ID
	var idle []*groupRecord
	best := g.rec
	err = each(tx, bucketGroups, func(_ []byte, r *groupRecord) error {
		switch {
		case r.Peer != g.rec.Peer || r.ID == g.rec.ID || r.Idle || r.ending():
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

// before says whether a connection group is kept rather than another with the same user.
func (r *groupRecord) before(other *groupRecord) bool {
	if r.Anew != other.Anew {
		return r.Anew
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
	if g.mls != nil && len(g.leavesOf(g.rec.Peer)) > 0 && g.rec.State == GroupActive {
		return c.addTask(g, newTask(taskLeave))
	}
	return c.change(g, func(tx Tx) error {
		g.rec.Idle = false
		return errors.Join(c.over(tx, g, "", 0))
	})
}

// otherLink returns the local id of another connection group with the same user that is there or being entered, "" if there is none.
func (c *Client) otherLink(tx Tx, g *group) (id string, err error) {
	err = each(tx, bucketGroups, func(_ []byte, r *groupRecord) error {
		if r.Peer == g.rec.Peer && r.ID != g.rec.ID && r.Create == nil && !r.Idle && !r.ending() {
			id = r.ID
		}
		return nil
	})
	return id, err
}

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
		return errors.Join(write(tx, bucketContacts, []byte(k.User), before), c.warn(tx, "", uncompleted))
	})
}
