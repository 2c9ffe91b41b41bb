package client

import (
	"context"
	"errors"
	"slices"
	"time"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// GroupState says how far a client is in a group.
type GroupState string

// The states of a group.
const (
	GroupJoining GroupState = "joining" // on the way in: nothing can be sent yet
	GroupActive  GroupState = "active"
	GroupLeaving GroupState = "leaving" // the own leave is in the group's log; what stands before it may still come
	GroupOver    GroupState = "over"
)

// Group is what a user sees of a group. Name is a private label that no one else sees.
type Group struct {
	ID      string // local id, for all calls
	Name    string
	State   GroupState
	Members int
	Waiting int  // own messages not in the group's log yet
	Refused bool // see Refuse
}

// GroupMember is one member as this client sees it. An unidentified one has a zero User.
type GroupMember struct {
	User       mimimi.User
	Self       bool
	Admin      bool
	Identified bool
	Clients    int
}

// InviteOptions bounds an invitation. Zero values mean one use and seven days.
type InviteOptions struct {
	Uses     int
	NotAfter time.Time
	// AllKeys puts the link keys of all members into the link, for one who wants to know at once who they are. Whoever sees such a link and the
	// group's tree knows them too; by default it holds those of the inviter's own clients.
	AllKeys bool
}

// visible loads a group that the user can see: no connection group.
func (c *Client) visible(id string) (*group, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	g, err := c.group(id)
	if err == nil && g.rec.hidden() {
		err = ErrUnknownGroup
	}
	return g, err
}

// CreateGroup makes a group on the own domain's hub; this user is its admin. policy says what is to be other than usual: members add and invite, admins
// remove, external joins and last-resort KeyPackages are allowed, 1,000 clients. It returns the local id. After an error of kind Unavailable the
// group may be there after a later Sync; after another it is not. name is a private label of at most 1,024 bytes, which this user's devices share.
func (c *Client) CreateGroup(ctx context.Context, name string, policy ...PolicyChange) (id string, err error) {
	change, err := newPolicy(policy)
	if err := errors.Join(err, checkLabel(name)); err != nil {
		return "", err
	}
	err = c.lockedFor(ctx, func() error {
		if err := c.linked(); err != nil {
			return err
		}
		gid, err := mimimi.NewGroupID(c.account.user.Domain())
		if err != nil {
			return err
		}
		g, err := c.newGroup(&groupRecord{GroupID: []byte(gid.Wire()), Name: name, NameNumber: 1, Create: &createRecord{Claim: newRequestID(), Request: newRequestID(), Policy: change}})
		if err != nil {
			return err
		}
		id = g.rec.ID
		return c.made(ctx, id)
	})
	return id, err
}

// made works on a new group until it stands. It returns why not.
func (c *Client) made(ctx context.Context, id string) error {
	err := c.work(ctx, id)
	g, gerr := c.group(id)
	switch {
	case err != nil && errors.Is(gerr, ErrUnknownGroup):
		return err // it was given up
	case gerr != nil:
		return errors.Join(err, gerr)
	}
	if g.mls != nil && g.rec.Create == nil {
		return nil // entered; what else failed is the next Sync's
	}
	if err == nil && g.rec.State != GroupOver {
		err = ErrNotReady // it is to be entered anew first
	}
	return err
}

// Groups returns all groups but connection groups, oldest first.
func (c *Client) Groups(ctx context.Context) (all []Group, err error) {
	err = c.lockedFor(ctx, func() error {
		records, err := list[groupRecord](c.store, bucketGroups)
		if err != nil {
			return err
		}
		slices.SortStableFunc(records, func(a, b *groupRecord) int { return int(a.Created - b.Created) })
		for _, r := range records {
			if _, waits := c.waiting[r.ID]; r.hidden() || waits && r.Welcome != nil {
				continue
			}
			all = append(all, Group{ID: r.ID, Name: r.Name, State: r.State, Members: r.Users, Waiting: len(r.Outgoing), Refused: r.Refused})
		}
		return nil
	})
	return all, err
}

// checkLabel says whether a label has the length that one may have.
func checkLabel(name string) error {
	if len(name) > maxLabel {
		return problem.New(problem.Invalid, "a group's label has at most 1,024 bytes: choose a shorter one")
	}
	return nil
}

// SetGroupName changes a group's private label. Errors: ErrUnknownGroup, problem.Invalid for one of more than 1,024 bytes.
func (c *Client) SetGroupName(ctx context.Context, group, name string) error {
	if err := checkLabel(name); err != nil {
		return err
	}
	return c.lockedFor(ctx, func() error {
		g, err := c.visible(group)
		if err != nil {
			return err
		}
		return c.change(g, func(tx Tx) error {
			g.rec.Name = name
			g.rec.NameNumber++
			return c.shareGroup(tx, g, nil)
		})
	})
}

// Members returns the members of a group, the own user first. Errors: ErrUnknownGroup, ErrNotReady while joining.
func (c *Client) Members(ctx context.Context, group string) (all []GroupMember, err error) {
	err = c.lockedFor(ctx, func() error {
		g, err := c.visible(group)
		switch {
		case err != nil:
			return err
		case g.rec.State == GroupOver:
			return ErrGroupOver
		case g.mls == nil:
			return ErrNotReady
		}
		all, err = g.members(c.account.user)
		return err
	})
	return all, err
}

// members groups the leaves by user pseudonym, in order of leaves.
func (g *group) members(self mimimi.User) ([]GroupMember, error) {
	policy, err := g.policy()
	if err != nil {
		return nil, err
	}
	var all []GroupMember
	at := make(map[string]int)
	for _, i := range g.indices() {
		r := g.rec.Leaves[i]
		k, ok := at[r.UserPseudonym]
		if !ok {
			k = len(all)
			at[r.UserPseudonym] = k
			all = append(all, GroupMember{})
		}
		m := &all[k]
		m.Clients++
		if r.User == "" || m.Identified {
			continue
		}
		if m.User, err = mimimi.ParseUser(r.User); err != nil {
			return nil, errDamagedGroup
		}
		pseudonym, err := mimimi.ParseUserPseudonym(r.UserPseudonym)
		if err != nil {
			return nil, errDamagedGroup
		}
		m.Identified, m.Self, m.Admin = true, m.User == self, policy.Role(pseudonym) == mimimi.RoleAdmin
	}
	slices.SortStableFunc(all, func(a, b GroupMember) int {
		switch {
		case a.Self == b.Self:
			return 0
		case a.Self:
			return -1
		}
		return 1
	})
	return all, nil
}

// maxAdds is the most Adds of one commit (docs/protocol.md §6).
const maxAdds = 200

// Add adds connected users with all their clients: in one commit, or in several where they are more than 200 clients in all. Each commit is made as a
// whole or not at all. Users whose KeyPackages cannot be had do not hold up the others: all others are added, and the error is an *AddError that says who
// was not and why. Errors: ErrUnknownGroup, ErrGroupOver, ErrNotReady, ErrNotConnected, ErrMember, ErrBanned, ErrDenied, ErrIdentity, ErrBusy.
func (c *Client) Add(ctx context.Context, group string, users ...mimimi.User) error {
	return c.lockedFor(ctx, func() error {
		g, err := c.visible(group)
		if err != nil {
			return err
		}
		if err := g.usable(); err != nil {
			return err
		}
		if len(users) == 0 || len(users) > maxLeaves {
			return problem.New(problem.Invalid, "protocol §9: a group has 1 to 1,000 clients")
		}
		t := newTask(taskAdd)
		for _, u := range users {
			if _, err := c.connected(u); err != nil {
				return err
			}
			twice := slices.ContainsFunc(t.Adds, func(a *adding) bool { return a.User == u.Wire() })
			switch {
			case twice || g.hasUser(u.Wire()):
				return ErrMember
			case slices.Contains(g.bans().next(), u.Wire()):
				return ErrBanned
			}
			t.Adds = append(t.Adds, &adding{User: u.Wire(), Request: newRequestID()})
		}
		return c.perform(ctx, g, t)
	})
}

// Remove removes a user with all its clients. Errors: as Add, ErrNotMember.
func (c *Client) Remove(ctx context.Context, group string, user mimimi.User) error {
	return c.lockedFor(ctx, func() error {
		g, err := c.visible(group)
		if err != nil {
			return err
		}
		if err := g.usable(); err != nil {
			return err
		}
		if user == c.account.user || !g.hasUser(user.Wire()) {
			return ErrNotMember
		}
		t := newTask(taskRemove)
		t.User = user.Wire()
		return c.perform(ctx, g, t)
	})
}

// Leave leaves a group. It returns when the hub has taken the proposal: the group sends nothing more. EventGroupOver follows.
// Errors: ErrUnknownGroup, ErrGroupOver, ErrNotReady, ErrBusy.
func (c *Client) Leave(ctx context.Context, group string) error {
	return c.lockedFor(ctx, func() error {
		g, err := c.visible(group)
		if err != nil {
			return err
		}
		if err := g.usable(); err == ErrGroupOver || g.mls == nil {
			return err
		}
		if g.onlyOwn(c.account.rec.User) { // nobody is there to take the leaving up
			return c.change(g, func(tx Tx) error { return errors.Join(c.shareLeft(tx, g), c.over(tx, g, leftSentence, 0)) })
		}
		return c.perform(ctx, g, newTask(taskLeave))
	})
}

// Join joins by an invitation link and returns the local id. The group can be used after EventGroupJoined, which needs the inviter's client to answer.
// Errors: ErrBadInvitation, ErrBusy.
func (c *Client) Join(ctx context.Context, link string) (id string, err error) {
	inv, err := parseLink(link, c.now())
	if err != nil {
		return "", err
	}
	err = c.lockedFor(ctx, func() error {
		if err := c.linked(); err != nil {
			return err
		}
		local, found, err := c.groupByID([]byte(inv.Group.Wire()))
		if err != nil {
			return err
		}
		if found {
			g, err := c.group(local)
			if err != nil {
				return err
			}
			if g.rec.State != GroupOver {
				return ErrMember
			}
		}
		if _, err := c.document(ctx, inv.Group.Domain()); err != nil && isFinal(err) {
			return err // the provider knows no such domain: nothing is kept of such a group
		}
		keys := make(map[uint32][]byte)
		for i, k := range inv.LinkKeys {
			keys[i] = k.Bytes()
		}
		g, err := c.newGroup(&groupRecord{GroupID: []byte(inv.Group.Wire()), Join: &joinRecord{
			Secret: inv.Secret.Bytes(), LinkKeys: keys, Mixed: inv.Policy.UnidentifiedMembers, Claim: newRequestID(),
		}})
		if err != nil {
			return err
		}
		id = g.rec.ID
		return c.made(ctx, id)
	})
	return id, err
}
