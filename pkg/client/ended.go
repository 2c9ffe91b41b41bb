package client

import (
	"context"
	"errors"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// A hub lets a group go in which no member has done anything for 200 days, and keeps for 90 what happened in it (docs/decisions/0003). A client that was away for longer finds that the
// hub knows nothing of the group, or not of the time at which it left off. Whoever has seen something of the group later than that knows it for a hub that lost the group, or
// lies: it is asked for a week, as one that refuses (patience.go).

const (
	endedSentence = "the group's hub does not have the group any more"
	// hubKeeps is for how long a hub has what this client saw of a group, with room for clocks. A client that is there makes its own leaf anew more often.
	hubKeeps = 85 * 24 * time.Hour
)

// unknownToHub handles that the hub has nothing from which this client could go on.
func (c *Client) unknownToHub(ctx context.Context, g *group, why error) error {
	if c.now().Sub(timeOf(max(g.rec.Accepted, g.rec.Created))) < hubKeeps {
		return c.postpone(g, endedSentence)
	}
	hub, err := c.hub(ctx, g.id.Domain())
	if err != nil {
		return err
	}
	_, err = call(ctx, hub.GetGroup, &mimimiv1.GetGroupRequest{GroupId: g.rec.GroupID, Proof: c.packageProof(g.id, g.own, g.public().Epoch(), mimimi.OpReadGroupInfo, nil)})
	switch {
	case problem.KindOf(err) == problem.NotFound:
		return c.change(g, func(tx Tx) error { return c.ended(tx, g) })
	case err != nil && !isFinal(err) && !isStale(err):
		return err
	}
	return errors.Join(why, c.loseNow(g, tooLongAway))
}

// ended ends a group that is no more, for anybody. The caller stores the group.
func (c *Client) ended(tx Tx, g *group) error {
	return errors.Join(c.losePeer(tx, g, false), c.over(tx, g, endedSentence, 0))
}

// noteUnknown has the log looked at where the hub says that there is no such group.
func (c *Client) noteUnknown(g *group, err error) error {
	if problem.KindOf(err) != problem.NotFound || g.rec.Behind {
		return nil
	}
	return c.change(g, func(Tx) error { g.rec.Behind = true; return nil })
}
