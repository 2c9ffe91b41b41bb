package client

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// naming says whether a read of a log is made under the own leaf's name where the hub takes no other proof.
type naming int

const (
	nameless  naming = iota // never: right before or after a message the hub would know whose it is (§9)
	sparingly               // as often as mayName allows
	named                   // yes: what was just sent names the leaf anyway
)

// catchUp reads the group's log from where this client is to its end. Errors: errLater, errWithheld.
func (c *Client) catchUp(ctx context.Context, g *group) error { return c.catchUpAs(ctx, g, sparingly) }

// catchUpAs is catchUp under the leaf's name, or not.
func (c *Client) catchUpAs(ctx context.Context, g *group, how naming) error {
	after := g.rec.Last
	for range maxLogPages {
		res, err := c.readLog(ctx, g, after, &how)
		if err != nil {
			return err
		}
		for _, e := range res.Entries {
			d := new(mimimiv1.Delivery)
			if err := proto.Unmarshal(e.Delivery, d); err != nil {
				return fmt.Errorf("read log: %w", mimimi.ErrMalformed)
			}
			if err := c.receive(ctx, g, d, 0); err != nil {
				return err
			}
			if g.mls == nil || g.rec.Resync != nil {
				return nil
			}
			after = d.Sequence
		}
		after = max(after, res.Next)
		if !res.More {
			return nil
		}
	}
	return nil
}

// readLog reads a page of the group's log. how becomes named if this page had to be: those that follow go with it.
func (c *Client) readLog(ctx context.Context, g *group, after uint64, how *naming) (*mimimiv1.ReadLogResponse, error) {
	hub, err := c.hub(ctx, g.id.Domain())
	if err != nil {
		return nil, err
	}
	req := &mimimiv1.ReadLogRequest{GroupId: g.rec.GroupID, After: after}
	if g.mls == nil { // who enters anew names its leaf anyway
		req.Proof = c.packageProof(g.id, g.own, g.lost.Epoch(), mimimi.OpReadLog, nil)
	} else if req.Proof, err = c.memberProof(g, mimimi.OpReadLog); err != nil {
		return nil, err
	}
	res, err := call(ctx, hub.ReadLog, req)
	if problem.KindOf(err) == problem.Denied && *how != nameless && g.mls != nil {
		if *how == sparingly {
			if err := c.mayName(g); err != nil {
				return nil, err
			}
		}
		*how = named
		req.Proof = c.leafProof(g, mimimi.OpReadLog, nil)
		res, err = call(ctx, hub.ReadLog, req)
	}
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	return res, nil
}
