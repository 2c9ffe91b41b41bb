package client

import (
	"bytes"
	"context"
	"slices"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// Policy is who may do what in a group (protocol.md §9). The hub and every member enforce it.
type Policy struct {
	Admins                       []mimimi.User // those in the group, ordered by name; an admin who has left is none any more
	MayAdd, MayRemove, MayInvite mimimi.Role   // the least role that may; everybody may remove clients of its own
	ExternalJoins                bool          // whether invitations let anybody in
	UnidentifiedMembers          bool          // fixed when the group is made; this version makes and enters only groups where it is false
	LastResort                   bool          // whether somebody may be added by a KeyPackage that was used before
	MaxLeaves                    int           // the most clients, 1 to 1,000
}

// PolicyChange is what to change in a policy; what is zero or nil stays.
type PolicyChange struct {
	Promote, Demote              []mimimi.User // to be admins, and to be members only
	MayAdd, MayRemove, MayInvite mimimi.Role
	ExternalJoins, LastResort    *bool
	UnidentifiedMembers          *bool // cannot change
	MaxLeaves                    int
}

// policyRecord is a PolicyChange as it is stored: users are not written by their own type.
type policyRecord struct {
	Promote    []string    `json:"promote,omitempty"`
	Demote     []string    `json:"demote,omitempty"`
	MayAdd     mimimi.Role `json:"may_add,omitempty"`
	MayRemove  mimimi.Role `json:"may_remove,omitempty"`
	MayInvite  mimimi.Role `json:"may_invite,omitempty"`
	External   *bool       `json:"external,omitempty"`
	LastResort *bool       `json:"last_resort,omitempty"`
	MaxLeaves  int         `json:"max_leaves,omitempty"`
}

// errMixed refuses what is fixed at a group's creation.
var errMixed = problem.New(problem.Invalid, "protocol §4: whether unidentified members are allowed is fixed at creation, and this version makes only groups without")

func (p *PolicyChange) record(mixed bool) (*policyRecord, error) {
	roles := []mimimi.Role{p.MayAdd, p.MayRemove, p.MayInvite}
	switch {
	case p.UnidentifiedMembers != nil && *p.UnidentifiedMembers != mixed:
		return nil, errMixed
	case slices.ContainsFunc(roles, func(r mimimi.Role) bool { return r > mimimi.RoleAdmin }):
		return nil, problem.New(problem.Invalid, "protocol §9: the roles are member and admin")
	case p.MaxLeaves < 0 || p.MaxLeaves > maxLeaves:
		return nil, problem.New(problem.Invalid, "protocol §9: a group has 1 to 1,000 clients")
	}
	names := func(users []mimimi.User) (all []string) {
		for _, u := range users {
			all = append(all, u.Wire())
		}
		return all
	}
	return &policyRecord{Promote: names(p.Promote), Demote: names(p.Demote), MayAdd: p.MayAdd, MayRemove: p.MayRemove, MayInvite: p.MayInvite,
		External: p.ExternalJoins, LastResort: p.LastResort, MaxLeaves: p.MaxLeaves}, nil
}

// apply changes everything but the admins.
func (r *policyRecord) apply(p *mimimi.Policy) {
	for _, x := range []struct {
		from mimimi.Role
		to   *mimimi.Role
	}{{r.MayAdd, &p.MayAdd}, {r.MayRemove, &p.MayRemove}, {r.MayInvite, &p.MayInvite}} {
		if x.from != 0 {
			*x.to = x.from
		}
	}
	if r.External != nil {
		p.ExternalJoins = *r.External
	}
	if r.LastResort != nil {
		p.LastResort = *r.LastResort
	}
	if r.MaxLeaves != 0 {
		p.MaxLeaves = uint32(r.MaxLeaves)
	}
}

// Policy returns a group's policy. Errors: ErrUnknownGroup, ErrGroupOver, ErrNotReady while joining.
func (c *Client) Policy(ctx context.Context, group string) (out Policy, err error) {
	err = c.lockedFor(ctx, func() error {
		g, err := c.shownGroup(group)
		if err != nil {
			return err
		}
		p, err := g.policy()
		if err != nil {
			return errDamagedGroup
		}
		out = Policy{MayAdd: p.MayAdd, MayRemove: p.MayRemove, MayInvite: p.MayInvite, ExternalJoins: p.ExternalJoins,
			UnidentifiedMembers: p.UnidentifiedMembers, LastResort: p.LastResort, MaxLeaves: int(p.MaxLeaves)}
		var admins []string
		for _, r := range g.rec.Leaves {
			if r.User != "" && g.role(p, r) == mimimi.RoleAdmin {
				admins = append(admins, r.User)
			}
		}
		slices.Sort(admins)
		for _, a := range slices.Compact(admins) {
			u, err := mimimi.ParseUser(a)
			if err != nil {
				return errDamagedGroup
			}
			out.Admins = append(out.Admins, u)
		}
		return nil
	})
	return out, err
}

// shownGroup loads a group that the user can look at: visible, entered, not over.
func (c *Client) shownGroup(id string) (*group, error) {
	g, err := c.visible(id)
	switch {
	case err != nil:
		return nil, err
	case g.rec.State == GroupOver:
		return nil, ErrGroupOver
	case g.mls == nil:
		return nil, ErrNotReady
	}
	return g, nil
}

// SetPolicy changes a group's policy; an admin may. Two changes at once are both made, one after the other. Every member gets EventPolicy.
// Errors: as Add, ErrDenied for who is no admin, ErrNotMember for a user who is not in the group.
func (c *Client) SetPolicy(ctx context.Context, group string, change PolicyChange) error {
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
		t := newTask(taskPolicy)
		if t.Policy, err = change.record(p.UnidentifiedMembers); err != nil {
			return err
		}
		if g.ownRole(p) < mimimi.RoleAdmin {
			return ErrDenied
		}
		if _, err := g.changedPolicy(p, t.Policy); err != nil {
			return err
		}
		return c.perform(ctx, g, t)
	})
}

// role is the role of a leaf's user.
func (g *group) role(p *mimimi.Policy, r *leafRecord) mimimi.Role {
	u, err := mimimi.ParseUserPseudonym(r.UserPseudonym)
	if err != nil {
		return 0
	}
	return p.Role(u)
}

// ownRole is this client's role.
func (g *group) ownRole(p *mimimi.Policy) mimimi.Role {
	r := g.rec.Leaves[g.mls.OwnIndex()]
	if r == nil {
		return 0
	}
	return g.role(p, r)
}

// changedPolicy returns a policy with a change made, as the group is now: admins who have left are dropped.
func (g *group) changedPolicy(now *mimimi.Policy, change *policyRecord) (*mimimi.Policy, error) {
	next := *now
	change.apply(&next)
	next.Admins = nil
	for _, i := range g.indices() {
		r := g.rec.Leaves[i]
		pseudonym, err := mimimi.ParseUserPseudonym(r.UserPseudonym)
		if err != nil {
			return nil, errDamagedGroup
		}
		admin := now.Role(pseudonym) == mimimi.RoleAdmin || r.User != "" && slices.Contains(change.Promote, r.User)
		if admin && !(r.User != "" && slices.Contains(change.Demote, r.User)) && !slices.Contains(next.Admins, pseudonym) {
			next.Admins = append(next.Admins, pseudonym)
		}
	}
	for _, u := range slices.Concat(change.Promote, change.Demote) {
		if !g.hasUser(u) {
			return nil, ErrNotMember
		}
	}
	switch {
	case len(next.Admins) == 0:
		return nil, problem.New(problem.Invalid, "protocol §9: a group keeps an admin: make somebody else one first")
	case int(next.MaxLeaves) < len(g.rec.Leaves):
		return nil, problem.New(problem.Invalid, "protocol §9: the group has more clients than that")
	}
	return &next, nil
}

// policyProposals are what a task changes, nil if the group has that policy already.
func (g *group) policyProposals(t *task) ([]mls.Proposal, error) {
	now, err := g.policy()
	if err != nil {
		return nil, errDamagedGroup
	}
	next, err := g.changedPolicy(now, t.Policy)
	if err != nil || bytes.Equal(next.Marshal().Data, now.Marshal().Data) {
		return nil, err
	}
	return []mls.Proposal{{Type: mls.ProposalGroupContextExtensions, Extensions: mimimi.GroupExtensions(next)}}, nil
}

// tellPolicy makes the event for a commit that changed the policy.
func (c *Client) tellPolicy(tx Tx, g *group, ch *mls.Change, at int64) error {
	before, _ := ch.Before.Extension(mimimi.ExtensionGroup)
	after, _ := ch.After.Extension(mimimi.ExtensionGroup)
	if g.rec.hidden() || bytes.Equal(before, after) {
		return nil
	}
	e := eventRecord{Kind: EventPolicy, Group: g.rec.ID, Time: at}
	for _, p := range ch.Proposals { // a proposal may stand in another's commit
		if r := g.rec.Leaves[p.Sender.Leaf]; p.Type == mls.ProposalGroupContextExtensions && r != nil {
			e.User = r.User
		}
	}
	return c.addEvent(tx, e)
}

// distrusted says whether a proposal that waits is not to be taken up: one of a leaf whose commits would not be followed. Leaving is everybody's right.
func (g *group) distrusted(p *mls.CommittedProposal) bool {
	return p.Type != mls.ProposalSelfRemove && (p.Sender.Type != mls.SenderMember || !g.trusts(p.Sender.Leaf))
}

// newPolicy is what a new group's policy has other than the default.
func newPolicy(changes []PolicyChange) (*policyRecord, error) {
	switch {
	case len(changes) == 0:
		return nil, nil
	case len(changes) > 1 || len(changes[0].Promote)+len(changes[0].Demote) > 0:
		return nil, problem.New(problem.Invalid, "protocol §9: a new group has one policy, and its creator is the admin")
	}
	return changes[0].record(false)
}
