package client

import (
	"context"
	"errors"
	"slices"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// AddError says which users could not be added to a group, while all others were. It matches what it holds.
type AddError struct {
	Users   []mimimi.User
	Reasons []error // as many
}

// Error returns a constant sentence: an error names nobody.
func (e *AddError) Error() string { return "client: some users could not be added to the group" }

// Unwrap returns the reasons.
func (e *AddError) Unwrap() []error { return e.Reasons }

// failedAdd is a user who could not be added, as it is stored. Why survives only in the process that found out.
type failedAdd struct {
	User string `json:"user"`
	Kind int    `json:"kind"`
	why  error
}

// own says whether a claim's error concerns this user alone, so that the others can be added. Without tokens for a further claim those are who is claimed
// already: their sets would be lost, and the tokens too.
func (a *adding) own(err error) bool {
	return errors.Is(err, ErrIdentity) || errors.Is(err, ErrNoTokens) || errors.Is(err, ErrNotConnected) || isFinal(err) || problem.KindOf(err) == problem.Limited
}

// claimSome claims sets of the users to be added, in order, until one commit is full, and returns how many of the users go into it. Who cannot be
// added is set aside.
func (c *Client) claimSome(ctx context.Context, g *group, t *task) (n int, err error) {
	policy, err := g.policy()
	if err != nil {
		return 0, err
	}
	ahead := make(map[*adding]*claim)
	for leaves := 0; n < len(t.Adds); {
		a := t.Adds[n]
		if a.Packages == nil {
			if ahead[a] == nil {
				c.claimAhead(ctx, t.Adds[n:], policy.LastResort, ahead)
			}
			packages, keys, last, err := c.claimFor(ctx, a, policy.LastResort, ahead[a])
			if err == nil && len(packages) > maxAdds {
				err = ErrIdentity // more clients than a user can have
			}
			if err != nil && !a.own(err) {
				return 0, err
			}
			err = c.change(g, func(tx Tx) error {
				if err != nil {
					t.Failed = append(t.Failed, failedAdd{User: a.User, Kind: int(problem.KindOf(err)), why: err})
					t.Adds = slices.Delete(t.Adds, n, n+1)
					return nil
				}
				a.Packages, a.LinkKeys = packages, keys
				if last {
					return c.warn(tx, g.rec.ID, lastResortSentence)
				}
				return nil
			})
			if err != nil {
				return 0, err
			}
			if a.Packages == nil {
				continue
			}
		}
		if leaves += len(a.Packages); n > 0 && leaves > c.perCommit {
			break
		}
		n++
	}
	return n, nil
}

// claimAhead asks for the next sets that are to be claimed, several at a time, since most of the time of a claim is the way. A repeat, also after a crash before
// the answers are stored, has the same request id and so gets the same answer.
func (c *Client) claimAhead(ctx context.Context, adds []*adding, lastResort bool, ahead map[*adding]*claim) {
	var claims []*claim
	for _, a := range adds[:min(len(adds), claimsAtOnce)] {
		if a.Packages != nil {
			continue
		}
		user, err := mimimi.ParseUser(a.User)
		if err != nil {
			continue
		}
		contact, err := c.connected(user)
		if err != nil {
			continue
		}
		_, token, err := contact.secrets()
		if err != nil {
			continue
		}
		if l, err := c.prepareClaim(ctx, user.Domain(), token, a.Request, lastResort); err == nil {
			claims, ahead[a] = append(claims, l), l
		}
	}
	c.askAll(ctx, claims)
}

// tryAdd makes the next commit of a task that adds users.
func (c *Client) tryAdd(ctx context.Context, g *group, t *task) error {
	if g.pendingRemovals() { // no commit both adds and removes (§6): first the removals
		return c.stage(g, t.ID+"/first", nil, nil)
	}
	// Whoever came in meanwhile, by an earlier try or another member, need not be added; whoever was banned meanwhile must not be.
	t.Adds = slices.DeleteFunc(t.Adds, func(a *adding) bool { return g.hasUser(a.User) })
	for _, a := range t.Adds {
		if g.rec.Bans.has(a.User) {
			t.Failed = append(t.Failed, failedAdd{User: a.User, why: ErrBanned})
		}
	}
	t.Adds = slices.DeleteFunc(t.Adds, func(a *adding) bool { return g.rec.Bans.has(a.User) })
	n, err := c.claimSome(ctx, g, t)
	if err != nil {
		return err
	}
	if n == 0 {
		return c.endAdd(g, t)
	}
	some := &task{ID: t.ID, Adds: t.Adds[:n]}
	proposals, err := g.addProposals(some)
	if err != nil {
		return err
	}
	return c.stage(g, t.ID, proposals, some)
}

// endAdd ends a task that adds users, with an error if somebody could not be.
func (c *Client) endAdd(g *group, t *task) error {
	if len(t.Failed) == 0 {
		return c.endTask(g, t.ID)
	}
	e := new(AddError)
	for _, f := range t.Failed {
		u, err := mimimi.ParseUser(f.User)
		if err != nil {
			return errDamagedGroup
		}
		why := f.why
		if why == nil {
			why = problem.New(problem.Kind(f.Kind), "the user's KeyPackages could not be had")
		}
		e.Users, e.Reasons = append(e.Users, u), append(e.Reasons, why)
	}
	return c.failTask(g, t, e)
}

// added takes note that the own commit of a task is in the log: a task that adds users goes on with those who did not fit in.
func (g *group) added(s *stagedRecord, ch *mls.Change) {
	t := g.task(s.Task)
	if t == nil || t.Kind != taskAdd || len(ch.Added) == 0 {
		g.dropTask(s.Task)
		return
	}
	t.Adds, t.Tries = slices.DeleteFunc(t.Adds, func(a *adding) bool { return slices.Contains(s.Adds, a.User) }), 0
	if len(t.Adds) == 0 && len(t.Failed) == 0 {
		g.dropTask(s.Task)
	}
}
