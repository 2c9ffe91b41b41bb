package client

import (
	"context"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
)

// The events' sentences about a lost group.
const (
	BackSentence    = lostSentence + backSentence
	AloneSentence   = lostSentence + aloneSentence
	EndedSentence   = endedSentence
	AgainSentence   = againSentence
	DamagedBack     = damagedRecord + backSentence
	DamagedSentence = damagedSentence
	UnknownSentence = unknownSentence
	UnknownLeft     = unknownLeft
	HeldSentence    = heldSentence
	UnknownBack     = unknownLost + backSentence
)

// UnknownSince is since when c does not know somebody in a group, if those whom it does not know came in at a time; a zero one means what it is.
func UnknownSince(c *Client, group string, entered time.Time) (since time.Time) {
	c.slot <- struct{}{}
	defer func() { <-c.slot }()
	g, err := c.group(group)
	if err != nil || g.rec.Missing == nil {
		return time.Time{}
	}
	for _, r := range g.rec.Leaves {
		if was := r.Entered; r.User == "" && !entered.IsZero() {
			r.Entered = entered.Unix()
			defer func() { r.Entered = was }()
		}
	}
	at, _ := g.unknownSince()
	return timeOf(at)
}

// OwnLeaves are, by device, the client pseudonyms of the leaves of c's user in a group, and the user's pseudonym there.
func OwnLeaves(c *Client, group string) (leaves map[string][]string, user string) {
	leaves = make(map[string][]string)
	_ = c.lockedFor(context.Background(), func() error {
		g, err := c.group(group)
		if err != nil {
			return err
		}
		for _, i := range g.leavesOf(c.account.rec.User) {
			r := g.rec.Leaves[i]
			leaves[r.Client], user = append(leaves[r.Client], r.ClientPseudonym), r.UserPseudonym
		}
		return nil
	})
	return leaves, user
}

// DeviceGroup is the local id of the group of c's user's clients.
func DeviceGroup(c *Client) (group string) {
	_ = c.lockedFor(context.Background(), func() (err error) {
		group, err = c.deviceGroupID()
		return err
	})
	return group
}

// DropWelcome reads c's queue but passes over Welcomes, as if they had never come.
func DropWelcome(ctx context.Context, c *Client) error {
	was := c.channels.queue
	defer func() { c.channels.queue = was }()
	c.channels.queue = welcomeless{was}
	return c.lockedFor(ctx, func() error {
		_, err := c.readQueue(ctx)
		return err
	})
}

// welcomeless is a queue that loses Welcomes.
type welcomeless struct {
	mimimiv1connect.QueueServiceClient
}

// Read implements QueueServiceClient.
func (q welcomeless) Read(ctx context.Context, req *mimimiv1.ReadQueueRequest) (*mimimiv1.ReadQueueResponse, error) {
	res, err := q.QueueServiceClient.Read(ctx, req)
	if err != nil {
		return nil, err
	}
	for _, e := range res.Entries {
		if e.Delivery != nil && e.Delivery.Kind == mimimiv1.Delivery_KIND_WELCOME {
			e.Delivery = nil
		}
	}
	return res, nil
}
