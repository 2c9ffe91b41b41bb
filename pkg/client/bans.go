package client

import (
	"context"
	"slices"
	"time"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// banRecord is what a client knows of a group's ban list (protocol.md §9), and what it still has to change in it.
type banRecord struct {
	Number uint64   `json:"number"`
	Users  []string `json:"users,omitempty"`
	// Given says that the list came from a member who may not change it, as newcomers get theirs: the next list of one who may replaces it.
	Given   bool        `json:"given,omitempty"`
	Changes []banChange `json:"changes,omitempty"`
}

// banChange is a change that waits until a list with it counts.
type banChange struct {
	User string `json:"user"`
	Lift bool   `json:"lift,omitempty"`
}

func (b *banRecord) has(user string) bool { return b != nil && slices.Contains(b.Users, user) }

// next is the list with all changes made.
func (b *banRecord) next() []string {
	users := slices.Clone(b.Users)
	for _, ch := range b.Changes {
		users = slices.DeleteFunc(users, func(u string) bool { return u == ch.User })
		if !ch.Lift {
			users = append(users, ch.User)
		}
	}
	return users
}

// Ban removes a user from a group, if it is there, and lets it in no more: its identity goes into the group's ban list, which only members see. Their
// clients neither add a banned user nor let one in who comes by an invitation. Those who may remove may ban. Errors: as Remove, problem.Limited for more than
// 512 bans.
func (c *Client) Ban(ctx context.Context, group string, user mimimi.User) error {
	if user == c.User() {
		return ErrDenied
	}
	return c.changeBans(ctx, group, banChange{User: user.Wire()})
}

// Unban takes a user from the ban list; to be in the group again it must be added or invited. Errors: as Ban, ErrNotMember for one who is not banned.
func (c *Client) Unban(ctx context.Context, group string, user mimimi.User) error {
	return c.changeBans(ctx, group, banChange{User: user.Wire(), Lift: true})
}

// changeBans stores a change of the ban list, with the removal that goes before it, in one transaction, and works on both. The removal comes first, so that
// who is removed does not see the list; both are done again and again until they hold.
func (c *Client) changeBans(ctx context.Context, group string, change banChange) error {
	return c.lockedFor(ctx, func() error {
		g, err := c.visible(group)
		if err != nil {
			return err
		}
		if err := g.usable(); err != nil {
			return err
		}
		p, err := g.policy()
		if err != nil {
			return errDamagedGroup
		}
		b := g.bans()
		switch users := b.next(); {
		case g.ownRole(p) < p.MayRemove:
			return ErrDenied
		case change.Lift && !slices.Contains(users, change.User):
			return ErrNotMember
		case !change.Lift && len(users) >= mimimi.MaxBans && !slices.Contains(users, change.User):
			return problem.New(problem.Limited, "the ban list is full: take somebody from it first")
		}
		var t *task
		err = c.change(g, func(Tx) error {
			g.rec.Bans = b
			b.Changes = append(slices.DeleteFunc(b.Changes, func(x banChange) bool { return x.User == change.User }), change)
			if !change.Lift && g.hasUser(change.User) {
				t = newTask(taskRemove)
				t.User = change.User
				g.rec.Tasks = append(g.rec.Tasks, t)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return c.work(ctx, group)
	})
}

// bans returns the record to change, an empty one if there was none.
func (g *group) bans() *banRecord {
	if g.rec.Bans == nil {
		return new(banRecord)
	}
	return g.rec.Bans
}

// Bans returns the banned users of a group, ordered by name. Errors: as Policy.
func (c *Client) Bans(ctx context.Context, group string) (all []mimimi.User, err error) {
	err = c.lockedFor(ctx, func() error {
		g, err := c.shownGroup(group)
		if err != nil {
			return err
		}
		users := g.bans().next()
		slices.Sort(users)
		for _, u := range users {
			user, err := mimimi.ParseUser(u)
			if err != nil {
				return errDamagedGroup
			}
			all = append(all, user)
		}
		return nil
	})
	return all, err
}

// bansWaiting says whether a list is to be posted: there are changes, who they concern is gone, and none is under way.
func (g *group) bansWaiting() bool {
	b := g.rec.Bans
	if b == nil || len(b.Changes) == 0 || g.posted(mimimi.EnvelopeBanList) {
		return false
	}
	return !slices.ContainsFunc(b.Changes, func(ch banChange) bool { return !ch.Lift && g.hasUser(ch.User) && g.removing(ch.User) })
}

// removing says whether a removal of a user waits.
func (g *group) removing(user string) bool {
	return slices.ContainsFunc(g.rec.Tasks, func(t *task) bool { return t.Kind == taskRemove && t.User == user })
}

// posted says whether a message of a type waits or is on its way.
func (g *group) posted(t mimimi.EnvelopeType) bool {
	return slices.ContainsFunc(g.rec.Outgoing, func(o *outgoing) bool { return o.Type == t })
}

// postBans posts the list with the own changes made.
func (c *Client) postBans(g *group) error {
	return c.change(g, func(Tx) error {
		b := g.rec.Bans
		body, err := banBody(b.Number+1, b.next())
		if err != nil {
			return err
		}
		g.post(&outgoing{Type: mimimi.EnvelopeBanList, Body: body})
		return nil
	})
}

func banBody(number uint64, users []string) ([]byte, error) {
	l := &mimimi.BanList{Number: number}
	for _, u := range users {
		user, err := mimimi.ParseUser(u)
		if err != nil {
			return nil, errDamagedGroup
		}
		l.Users = append(l.Users, user)
	}
	return l.Marshal()
}

// tellBans posts the list as it is, for newcomers that this client let in: whoever knows it already passes it over.
func (g *group) tellBans() error {
	b := g.rec.Bans
	if b == nil || b.Number == 0 || g.rec.hidden() || g.posted(mimimi.EnvelopeBanList) {
		return nil
	}
	body, err := banBody(b.Number, b.Users)
	if err != nil {
		return err
	}
	g.post(&outgoing{Type: mimimi.EnvelopeBanList, Body: body})
	return nil
}

// receiveBans takes a list that a member sent, at its place in the log. A list of one who may remove counts if its number is higher than that in force, or if
// the one in force was only given; any other member's only if none is in force.
func (c *Client) receiveBans(tx Tx, g *group, from *leafRecord, body []byte, at int64) error {
	l, err := mimimi.ParseBanList(body)
	if err != nil || g.rec.hidden() {
		return nil
	}
	p, err := g.policy()
	if err != nil {
		return errDamagedGroup
	}
	b := g.bans()
	may := g.role(p, from) >= p.MayRemove
	if l.Number <= b.Number && !(may && b.Given) || !may && b.Number != 0 {
		return nil
	}
	was := b.Users
	b.Number, b.Given, b.Users = l.Number, !may, nil
	for _, u := range l.Users {
		b.Users = append(b.Users, u.Wire())
	}
	b.Changes = slices.DeleteFunc(b.Changes, func(ch banChange) bool { return b.has(ch.User) != ch.Lift })
	g.rec.Bans = b
	if !may {
		return nil // a newcomer learns what was
	}
	for _, x := range []struct {
		kind     EventKind
		in, then []string
	}{{EventBanned, b.Users, was}, {EventUnbanned, was, b.Users}} {
		for _, u := range x.in {
			if slices.Contains(x.then, u) {
				continue
			}
			if err := c.addEvent(tx, eventRecord{Kind: x.kind, Group: g.rec.ID, User: u, Time: at}); err != nil {
				return err
			}
		}
	}
	return nil
}

// banDue says when this client removes a banned user who is there all the same, since adding and banning crossed.
func (c *Client) banDue(g *group, leaf uint32) (time.Time, bool) {
	r := g.rec.Leaves[leaf]
	if r.User == "" || leaf == g.mls.OwnIndex() || !g.rec.Bans.has(r.User) || r.Leaving {
		return time.Time{}, false
	}
	return timeOf(r.Entered).Add(g.turn()), g.mayRemoveLeaf(leaf, c.now())
}

// mayRemoveLeaf says whether the policy lets this client remove a leaf.
func (g *group) mayRemoveLeaf(leaf uint32, now time.Time) bool {
	p, err := g.policy()
	r := g.rec.Leaves[leaf]
	if err != nil || r == nil {
		return false
	}
	return g.ownRole(p) >= p.MayRemove || r.Entered != 0 && now.Sub(timeOf(r.Entered)) < freshEntry
}
