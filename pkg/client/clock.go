package client

import (
	"time"

	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
)

// bounded returns an entry with an acceptance time that can be (§9): what a hub says decides which messages count and when a leaf entered, so it is
// believed only up to clockSlack ahead of this client's clock, and twice that back from the latest time in the log. What is beyond is brought to the bound, and the user is told.
func (c *Client) bounded(g *group, d *mimimiv1.Delivery) (*mimimiv1.Delivery, error) {
	at := c.boundAhead(d.Accepted)
	if at < g.rec.Accepted-int64(2*clockSlack/time.Second) {
		at = g.rec.Accepted
	}
	was := g.rec.Accepted
	g.rec.Accepted = max(was, at)
	if at == d.Accepted {
		return d, nil
	}
	d, ok := proto.Clone(d).(*mimimiv1.Delivery)
	if !ok {
		return nil, errDamagedGroup // a clone has the type of what it was made of
	}
	d.Accepted = at
	if c.now().Sub(timeOf(g.rec.Clock)) < clockWarning {
		return d, nil
	}
	return d, c.change(g, func(tx Tx) error {
		g.rec.Clock = c.now().Unix()
		return c.warn(tx, g.rec.ID, "the times that the group's hub gives cannot be right, or this device's clock is wrong")
	})
}

// boundAhead brings a time that is too far in the future to the bound.
func (c *Client) boundAhead(at int64) int64 { return min(at, c.now().Add(clockSlack).Unix()) }

// forgetKeys erases the message keys of past epochs of which no message can count any more, once the log has reached a time. A log is read in its order, so
// the keys of one that is read days later are still there.
func (g *group) forgetKeys(at int64) {
	if g.mls == nil {
		return
	}
	oldest := g.mls.Epoch()
	for _, e := range g.rec.Epochs {
		if e.Ended != 0 && at-e.Ended <= int64(lateMessages/time.Second) {
			oldest = min(oldest, e.Epoch)
		}
	}
	g.mls.ForgetEpochs(oldest)
}
