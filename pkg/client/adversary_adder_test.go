package client_test

import (
	"slices"
	"testing"
	"time"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// newcomers are two contacts of eve's.
func (c *cast) newcomers() (carol, dave *person) {
	c.t.Helper()
	carol, dave = register(c.t, theWorld.a, "carol"), register(c.t, theWorld.b, "dave")
	connect(c.t, c.eve, carol)
	connect(c.t, c.eve, dave)
	return carol, dave
}

// claimed is a set of each of some contacts of eve's, who have one client each.
func (c *cast) claimed(all ...*person) (adds []*mls.KeyPackage, keys []mimimi.LinkKey) {
	c.t.Helper()
	for _, p := range all {
		set, k, err := client.ClaimFrom(c.t.Context(), c.eve.c, p.c.User())
		check(c.t, err)
		adds, keys = append(adds, set...), append(keys, k...)
	}
	return adds, keys
}

// told says whether a person was warned of another one in the cast's group.
func (c *cast) told(p, of *person) bool {
	c.t.Helper()
	return slices.ContainsFunc(p.events(client.EventWarning), func(e client.Event) bool { return e.User == of.c.User() && e.Group == c.group[p] })
}

// TestSwappedLinkKeys: an adder gives the members link keys that do not open the newcomers' identity links. Nobody is identified by them, and the first member removes those, and with
// them the adder, who alone can have done that, by one commit: an admin or not. Whoever was added rightly stays.
func TestSwappedLinkKeys(t *testing.T) {
	c := newCast(t)
	top := t
	carol, dave := c.newcomers()
	for _, x := range []struct {
		name   string
		remove *person // who is there to do it
		update func(t *testing.T, in *client.Insider, keys []mimimi.LinkKey, adds []*mls.KeyPackage) mls.Proposal
		stays  int
	}{
		{"swapped", c.alice, func(t *testing.T, in *client.Insider, keys []mimimi.LinkKey, adds []*mls.KeyPackage) mls.Proposal {
			return linkUpdate(t, in, nil, []mimimi.LinkKey{keys[1], keys[0]}, adds...)
		}, 2},
		{"one of two", c.bob, func(t *testing.T, in *client.Insider, keys []mimimi.LinkKey, adds []*mls.KeyPackage) mls.Proposal {
			return linkUpdate(t, in, nil, []mimimi.LinkKey{keys[0], keys[0]}, adds...)
		}, 3},
		{"nobody can open them", c.bob, func(t *testing.T, in *client.Insider, keys []mimimi.LinkKey, adds []*mls.KeyPackage) mls.Proposal {
			return linkUpdate(t, in, nil, keys, adds[1], adds[0])
		}, 2},
	} {
		t.Run(x.name, func(t *testing.T) {
			c.t = t
			defer func() { c.t = top }()
			if x.name != "swapped" {
				c.anew()
			}
			adds, keys := c.claimed(carol, dave)
			in := c.inside(c.eve)
			_, err := offer(t, in.ID, addingBy(t, in, adds, x.update(t, in, keys, adds), keys, func([]*mimimi.LinkKey) {}))
			check(t, err)
			group, epoch := c.group[x.remove], in.Group.Epoch()
			until(t, "they are removed", func() bool { return client.Epoch(x.remove.c, group) == epoch+2 }, x.remove)
			for _, p := range []*person{c.alice, c.bob} {
				group := c.group[p]
				if client.Epoch(p.c, group) != epoch+2 {
					until(t, p.name+" follows", func() bool { return client.Epoch(p.c, group) == epoch+2 }, p)
				}
				if n := p.members(group); n != x.stays || client.Unidentified(p.c, group) != 0 || p.sees(group, c.eve) || p.sees(group, dave) || p.sees(group, carol) != (x.stays == 3) {
					t.Errorf("%s sees %d members, and does not know %d", p.name, n, client.Unidentified(p.c, group))
				}
				if !c.told(p, c.eve) {
					t.Errorf("%s is not told who it was", p.name)
				}
				for _, e := range p.events(client.EventJoined) {
					if e.Group == group && (e.User == dave.c.User() || e.User == carol.c.User() && x.stays == 2) {
						t.Errorf("%s was told of a newcomer", p.name)
					}
				}
				p.send(group, "go on")
			}
			until(t, "both talk", func() bool {
				return slices.Contains(c.alice.read(c.group[c.alice]), "go on") && slices.Contains(c.bob.read(c.group[c.bob]), "go on")
			}, c.alice, c.bob)
		})
	}
}

// TestAdderIsNotFramed: a newcomer who has to go for what its adder need not have known takes nobody with it.
func TestAdderIsNotFramed(t *testing.T) {
	c := newCast(t)
	carol, _ := c.newcomers()
	connect(t, c.alice, carol)
	check(t, c.alice.c.Add(t.Context(), c.group[c.alice], carol.c.User()))
	check(t, c.alice.c.Ban(t.Context(), c.group[c.alice], carol.c.User()))
	until(t, "bob knows the list", func() bool { return len(c.bob.events(client.EventBanned)) == 1 && c.bob.members(c.group[c.bob]) == 3 }, c.bob)
	until(t, "eve follows", func() bool { return client.Epoch(c.eve.c, c.group[c.eve]) == client.Epoch(c.bob.c, c.group[c.bob]) }, c.eve)

	adds, keys := c.claimed(carol)
	in := c.inside(c.eve)
	_, err := offer(t, in.ID, adding(t, in, adds, keys, func([]*mimimi.LinkKey) {}))
	check(t, err)
	epoch := in.Group.Epoch()
	until(t, "carol is removed", func() bool { return client.Epoch(c.bob.c, c.group[c.bob]) == epoch+2 }, c.bob)
	if !c.bob.sees(c.group[c.bob], c.eve) || c.bob.sees(c.group[c.bob], carol) || client.Unidentified(c.bob.c, c.group[c.bob]) != 0 || c.told(c.bob, c.eve) {
		t.Errorf("bob sees eve: %v; is told of her: %v", c.bob.sees(c.group[c.bob], c.eve), c.told(c.bob, c.eve))
	}
}

// TestFalselyAddedLeaves: somebody who was added falsely leaves by itself, so that nobody has to remove it, and a member who may not remove the adder, who has been there for long, cannot do so with
// it. The group goes on all the same.
func TestFalselyAddedLeaves(t *testing.T) {
	x := newTried(t, -1)
	here := client.Config{Provider: x.alice.cfg.Provider, Stock: client.Stock{OneTime: 4, LastResort: 1}, Spread: -1, Now: x.at.now}
	eve, carol := registerConfig(t, "eve", here), registerConfig(t, "carol", here)
	connect(t, x.alice, eve)
	connect(t, eve, carol)
	check(t, x.alice.c.Add(t.Context(), x.group, eve.c.User()))
	until(t, "eve is in", func() bool { return eve.group() != "" && x.bob.sees(x.there, eve) }, eve, x.bob)
	x.at.pass(25 * time.Hour)
	for _, p := range []*person{x.alice, x.bob, eve, carol} {
		check(t, p.c.Sync(t.Context()))
	}
	adds, keys, err := client.ClaimFrom(t.Context(), eve.c, carol.c.User())
	check(t, err)
	in, err := client.Inside(eve.c, eve.group())
	check(t, err)
	update := linkUpdate(t, in, nil, []mimimi.LinkKey{*in.Keys[in.Group.OwnIndex()]}, adds...)
	_, err = offerTo(t, x.o, in.ID, addingBy(t, in, adds, update, keys, func([]*mimimi.LinkKey) {}))
	check(t, err)
	until(t, "carol is in", func() bool { return carol.group() != "" }, carol)
	check(t, carol.c.Leave(t.Context(), carol.group()))
	until(t, "carol is out", func() bool { return client.Epoch(x.bob.c, x.there) == in.Group.Epoch()+2 }, x.bob)
	if client.Unidentified(x.bob.c, x.there) != 0 || x.bob.members(x.there) != 3 || x.bob.warnings(x.there) != 1 {
		t.Errorf("bob does not know %d of %d, and was warned %d times", client.Unidentified(x.bob.c, x.there), x.bob.members(x.there), x.bob.warnings(x.there))
	}
}
