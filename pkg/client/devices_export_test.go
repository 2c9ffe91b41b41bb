package client

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

// NextDue is when c has something to do next without being told, zero if never.
func NextDue(c *Client) (due time.Time) {
	_ = c.lockedFor(context.Background(), func() (err error) {
		due, err = c.nextDue()
		return err
	})
	return due
}

// Shared is how many groups c was told of by the user's other clients and is not in, and LeftBefore how many of them the user has left; HandedAt is when c last made a
// KeyPackage for one.
func Shared(c *Client) int { return len(shared(c)) }

func LeftBefore(c *Client) (n int) {
	for _, r := range shared(c) {
		if r.Left != 0 {
			n++
		}
	}
	return n
}

func HandedAt(c *Client) (at time.Time) {
	for _, r := range shared(c) {
		if t := timeOf(r.Handed); t.After(at) {
			at = t
		}
	}
	return at
}

func shared(c *Client) []*sharedGroupRecord {
	all, err := list[sharedGroupRecord](c.store, bucketShared)
	if err != nil {
		panic(err)
	}
	return all
}

// Brings is how many KeyPackages of the user's other clients wait at c to be added to groups.
func Brings(c *Client) int {
	all, err := list[bringRecord](c.store, bucketBring)
	if err != nil {
		panic(err)
	}
	return len(all)
}

// Removals is how many removed clients c remembers.
func Removals(c *Client) int {
	all, err := list[removalRecord](c.store, bucketRemovals)
	if err != nil {
		panic(err)
	}
	return len(all)
}

// IsOwn says whether a client is in the group of c's user's own clients. It may be asked by a fault of c's store.
func IsOwn(c *Client, id string) bool { return slices.Contains(c.own, id) }

// Claimed is how many KeyPackages c has claimed for a group and not added yet. It may be asked by a fault of c's store.
func Claimed(c *Client, group string) (n int) {
	g, err := c.group(group)
	if err != nil {
		return 0
	}
	for _, t := range g.rec.Tasks {
		for _, a := range t.Adds {
			n += len(a.Packages)
		}
	}
	return n
}

// OwesDevices says whether c is to tell the user's other clients everything.
func OwesDevices(c *Client) bool {
	c.slot <- struct{}{}
	defer func() { <-c.slot }()
	local, err := c.deviceGroupID()
	if err != nil {
		return true
	}
	g, err := c.group(local)
	return err != nil || g.rec.TellAll
}

// MissDevices makes c lose everything that waits in its queue, up to the last thing that other, a client of the same user, has said to it.
func MissDevices(ctx context.Context, c, other *Client) error {
	var last uint64
	err := other.lockedFor(ctx, func() error {
		local, err := other.deviceGroupID()
		if err != nil {
			return err
		}
		g, err := other.group(local)
		if err == nil {
			last = g.rec.Last
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.lockedFor(ctx, func() error {
		return skip(ctx, c, func(e *mimimiv1.QueueEntry) bool {
			d := e.Delivery
			return d != nil && bytes.Equal(d.GroupId, c.account.rec.DeviceGroup) && d.Sequence >= last
		})
	})
}

// Welcomes is how many Welcomes wait at c.
func Welcomes(c *Client) (n int) {
	all, err := list[groupRecord](c.store, bucketGroups)
	if err != nil {
		panic(err)
	}
	for _, r := range all {
		if r.Welcome != nil {
			n++
		}
	}
	return n
}

// FindOffer looks in c's mailbox for the offer whose code begins as said: a code that is short enough to be found twice.
func FindOffer(ctx context.Context, c *Client, begin string) error {
	return c.lockedFor(ctx, func() error {
		_, err := c.findOffer(ctx, func(o *mimimi.LinkOffer) bool { return strings.HasPrefix(o.Code(), begin) })
		return err
	})
}

// LinkID is the group id of c's connection group with user, as all of its members know it.
func LinkID(c *Client, user mimimi.User) string {
	c.slot <- struct{}{}
	defer func() { <-c.slot }()
	k, found, err := c.contact(user)
	if err != nil || !found {
		return ""
	}
	g, err := c.group(k.Group)
	if err != nil {
		return ""
	}
	return string(g.rec.GroupID)
}

// SaySync has c say something in a group as the user's clients say it to each other.
func SaySync(ctx context.Context, c *Client, group string, s *mimimiv1.DeviceSync) error {
	return c.lockedFor(ctx, func() error {
		g, err := c.group(group)
		if err != nil {
			return err
		}
		if err := c.change(g, func(Tx) error { return g.postSync(s) }); err != nil {
			return err
		}
		return c.work(ctx, group)
	})
}

// OwnSecrets are what c tells the user's other clients of the user.
func OwnSecrets(c *Client) *mimimiv1.SharedSecrets {
	c.slot <- struct{}{}
	defer func() { <-c.slot }()
	return proto.CloneOf(c.account.rec.sharedSecrets())
}

// Deliver gives c an entry of a group's log, as if its queue held it.
func Deliver(ctx context.Context, c *Client, d *mimimiv1.Delivery) error {
	return c.lockedFor(ctx, func() error { return c.deliver(ctx, d, 0) })
}
