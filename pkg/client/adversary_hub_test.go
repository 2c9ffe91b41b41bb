package client_test

import (
	"bytes"
	"context"
	"slices"
	"sync/atomic"
	"testing"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// warnings are how often a person was warned about a group.
func (p *person) warnings(group string) (n int) {
	p.t.Helper()
	for _, e := range p.events(client.EventWarning) {
		if e.Group == group {
			n++
		}
	}
	return n
}

// duo is alice and bob in a group of alice's, at a hub that alice trusts less than she thinks.
func duo(t *testing.T) (alice, bob *person, group map[*person]string, id string) {
	t.Helper()
	alice, bob = register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	g, err := alice.c.CreateGroup(t.Context(), "")
	check(t, err)
	check(t, alice.c.Add(t.Context(), g, bob.c.User()))
	until(t, "bob in", func() bool { return bob.group() != "" }, bob)
	in, err := client.Inside(alice.c, g)
	check(t, err)
	return alice, bob, map[*person]string{alice: g, bob: bob.group()}, in.ID.Wire()
}

// TestHubReorders: deliveries come in another order than the log's. Everything is shown once, in the log's order, and nobody is warned.
func TestHubReorders(t *testing.T) {
	alice, bob, group, _ := duo(t)
	texts := []string{"one", "two", "three"}
	for _, text := range texts {
		alice.send(group[alice], text)
		check(t, alice.c.Commit(t.Context(), group[alice]))
	}
	var turned atomic.Int64
	meddle(t, theWorld.opB, mimimiv1connect.QueueServiceReadProcedure, func(ctx context.Context, req *mimimiv1.ReadQueueRequest,
		honest func(context.Context, *mimimiv1.ReadQueueRequest) (*mimimiv1.ReadQueueResponse, error)) (*mimimiv1.ReadQueueResponse, error) {
		res, err := honest(ctx, req)
		n := len(res.GetEntries())
		for i := range n / 2 { // the positions stay in order
			a, b := res.Entries[i], res.Entries[n-1-i]
			a.Delivery, b.Delivery = b.Delivery, a.Delivery
			turned.Add(1)
		}
		return res, err
	})
	until(t, "bob reads", func() bool { return len(bob.read(group[bob])) == len(texts) }, bob)
	if got := bob.read(group[bob]); !slices.Equal(got, texts) || turned.Load() == 0 || bob.warnings(group[bob]) != 0 {
		t.Errorf("bob read %q and was warned %d times; %d deliveries were turned", got, bob.warnings(group[bob]), turned.Load())
	}
}

// TestHubDrops: the hub withholds something from one member, from the queue and from the log. The member says so, and goes on as far as it can; when the hub gives
// everything again, so does the group.
func TestHubDrops(t *testing.T) {
	for _, x := range []struct {
		name string
		drop func(d *mimimiv1.Delivery, n int) bool
		hide bool // the hub says that what it gives follows what the member has
	}{
		{"a message", func(d *mimimiv1.Delivery, n int) bool { return n == 1 }, false},
		{"a message, and hides it", func(d *mimimiv1.Delivery, n int) bool { return n == 1 }, true},
		{"a commit", func(d *mimimiv1.Delivery, _ int) bool { return d.Kind == mimimiv1.Delivery_KIND_COMMIT }, false},
		{"a commit, and hides it", func(d *mimimiv1.Delivery, _ int) bool { return d.Kind == mimimiv1.Delivery_KIND_COMMIT }, true},
	} {
		t.Run(x.name, func(t *testing.T) {
			alice, bob, group, id := duo(t)
			check(t, bob.c.Sync(t.Context()))
			var order []uint64 // of messages, by place in the log
			var last uint64    // what the member was given last
			undo := deliveries(t, theWorld.opA, theWorld.opB, func(d *mimimiv1.Delivery) *mimimiv1.Delivery {
				if string(d.GroupId) != id {
					return d
				}
				if d.Kind == mimimiv1.Delivery_KIND_MESSAGE && !slices.Contains(order, d.Sequence) {
					order = append(order, d.Sequence)
				}
				if x.drop(d, slices.Index(order, d.Sequence)) {
					return nil
				}
				if x.hide {
					if last != 0 && last < d.Sequence {
						d.Previous = min(d.Previous, last)
					}
					last = max(last, d.Sequence)
				}
				return d
			})
			for _, text := range []string{"one", "two", "three"} {
				alice.send(group[alice], text)
			}
			until(t, "bob reads", func() bool { return len(bob.read(group[bob])) >= 2 }, bob)
			check(t, alice.c.Commit(t.Context(), group[alice]))
			alice.send(group[alice], "four")
			check(t, alice.c.Commit(t.Context(), group[alice]))
			alice.send(group[alice], "five")
			until(t, "bob is warned", func() bool { return bob.warnings(group[bob]) > 0 }, bob)
			if bob.ending(group[bob]) != "" {
				t.Fatal("the group is over")
			}
			undo()
			check(t, alice.c.Commit(t.Context(), group[alice]))
			alice.send(group[alice], "six")
			until(t, "bob is back", func() bool { return slices.Contains(bob.read(group[bob]), "six") }, alice, bob)
			if read := bob.read(group[bob]); !slices.IsSortedFunc(read, func(a, b string) int {
				all := []string{"one", "two", "three", "four", "five", "six"}
				return slices.Index(all, a) - slices.Index(all, b)
			}) {
				t.Errorf("bob read %q", read)
			}
		})
	}
}

// TestHubForks: the hub takes two commits for one place and shows each to one member. Nobody reads across the fork, and both say that they cannot read the other.
func TestHubForks(t *testing.T) {
	c := newCast(t)
	in := c.inside(c.eve)
	other := commit(t, in, mls.CommitOptions{})
	keys := hubKeys(t, other)
	epoch := in.Group.Epoch() + 1
	deliveries(t, theWorld.opA, theWorld.opB, func(d *mimimiv1.Delivery) *mimimiv1.Delivery {
		if d.Kind == mimimiv1.Delivery_KIND_COMMIT && d.Epoch == epoch && string(d.GroupId) == in.ID.Wire() {
			d.Message, d.EpochSenderKey, d.ExternalPub = other.Message, keys[0], keys[1]
		}
		return d
	})
	check(t, c.alice.c.Commit(t.Context(), c.group[c.alice]))
	until(t, "bob follows eve's", func() bool {
		in := c.inside(c.bob)
		return in.Group.Epoch() == epoch
	}, c.bob)
	if n := c.bob.warnings(c.group[c.bob]); n != 0 {
		t.Fatalf("bob was warned %d times before he could know", n)
	}
	c.alice.send(c.group[c.alice], "for all")
	until(t, "bob is warned", func() bool { return c.bob.warnings(c.group[c.bob]) > 0 }, c.bob)
	if len(c.bob.read(c.group[c.bob])) != 0 {
		t.Error("bob read across the fork")
	}
}

// hubKeys are the epoch sender key and the external_pub of a commit's GroupInfo.
func hubKeys(t *testing.T, staged *mls.StagedCommit) [2][]byte {
	t.Helper()
	gi, err := mls.ParseGroupInfo(staged.GroupInfo)
	check(t, err)
	sender, err := mimimi.CheckHubGroupInfo(gi)
	check(t, err)
	external, _ := gi.Extension(mls.ExtensionExternalPub)
	return [2][]byte{sender, external}
}

// TestFalseEpochSenderKey: a member gives the hub a sender key that is not the epoch's, so that nobody could send, or an external_pub that is not, so that nobody could come in. The members say so
// and make a new epoch.
func TestFalseEpochSenderKey(t *testing.T) {
	c := newCast(t)
	for _, x := range []struct {
		name string
		make func(t *testing.T, in *client.Insider) *mls.StagedCommit
	}{
		{"sender key", func(t *testing.T, in *client.Insider) *mls.StagedCommit {
			return commit(t, in, mls.CommitOptions{HubExtensions: func(*mls.Group) ([]mls.Extension, error) {
				s, err := mimimi.NewEpochSender(in.Group) // of the epoch before
				return []mls.Extension{s.Extension()}, err
			}})
		}},
		{"external_pub", func(t *testing.T, in *client.Insider) *mls.StagedCommit {
			staged := commit(t, in, mls.CommitOptions{})
			other, err := mimimi.Suite.GenerateHPKEKey()
			check(t, err)
			pub := hubKeys(t, staged)[1]
			staged.GroupInfo = bytes.Replace(staged.GroupInfo, pub[len(pub)-32:], other.Public(), 1)
			signInfo(in, staged.GroupInfo)
			return staged
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			c.t = t
			c.anew()
			in := c.inside(c.eve)
			_, err := offer(t, in.ID, x.make(t, in))
			check(t, err)
			text := "all the same"
			c.alice.send(c.group[c.alice], text)
			until(t, "bob reads", func() bool { return slices.Contains(c.bob.read(c.group[c.bob]), text) }, c.alice, c.bob)
			until(t, "the keys are replaced", func() bool {
				return c.inside(c.alice).Group.Epoch() >= in.Group.Epoch()+2 && c.inside(c.bob).Group.Epoch() >= in.Group.Epoch()+2
			}, c.alice, c.bob)
			if c.alice.warnings(c.group[c.alice])+c.bob.warnings(c.group[c.bob]) == 0 {
				t.Error("nobody was warned")
			}
		})
	}
}
