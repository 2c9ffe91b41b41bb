package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
)

// policyFlags is what can be set in a group's policy; what is not given stays.
type policyFlags struct {
	MayAdd       string `name:"may-add" enum:",member,admin" default:"" help:"Who may add users: member or admin."`
	MayRemove    string `name:"may-remove" enum:",member,admin" default:"" help:"Who may remove and ban users: member or admin."`
	MayInvite    string `name:"may-invite" enum:",member,admin" default:"" help:"Who may invite: member or admin."`
	Joins        string `enum:",yes,no" default:"" help:"Whether invitations let anybody in: yes or no."`
	LastResort   string `name:"last-resort" enum:",yes,no" default:"" help:"Whether users may be added by KeyPackages that were used before: yes or no."`
	Unidentified string `enum:",yes,no" default:"" help:"Whether members may stay unidentified: fixed when a group is made, and always no in this version."`
	MaxLeaves    int    `name:"max-clients" help:"The most clients, up to 1000."`
}

func (p *policyFlags) change() (client.PolicyChange, error) {
	if p.MaxLeaves < 0 {
		return client.PolicyChange{}, fmt.Errorf("-max-clients must be 1 to 1000")
	}
	return client.PolicyChange{
		MayAdd: role(p.MayAdd), MayRemove: role(p.MayRemove), MayInvite: role(p.MayInvite),
		ExternalJoins: yes(p.Joins), LastResort: yes(p.LastResort), UnidentifiedMembers: yes(p.Unidentified), MaxLeaves: p.MaxLeaves,
	}, nil
}

// role reads a role; "" is none.
func role(s string) mimimi.Role {
	switch s {
	case "member":
		return mimimi.RoleMember
	case "admin":
		return mimimi.RoleAdmin
	}
	return 0
}

func roleName(r mimimi.Role) string {
	if r == mimimi.RoleAdmin {
		return "admin"
	}
	return "member"
}

// yes reads yes or no; "" is neither.
func yes(s string) *bool {
	if s == "" {
		return nil
	}
	v := s == "yes"
	return &v
}

// yesNo is how the flags write it.
func yesNo(v bool) string {
	if v {
		return "yes"
	}
	return "no"
}

type groupPolicy struct {
	folderFlags
	policyFlags
	Group   string   `arg:"" help:"The group."`
	Promote []string `help:"Users to make admins."`
	Demote  []string `help:"Admins to make members."`
}

// policyJSON is a policy as -json prints it.
type policyJSON struct {
	Group        string   `json:"group"`
	Admins       []string `json:"admins"`
	MayAdd       string   `json:"may_add"`
	MayRemove    string   `json:"may_remove"`
	MayInvite    string   `json:"may_invite"`
	Joins        bool     `json:"external_joins"`
	Unidentified bool     `json:"unidentified_members"`
	LastResort   bool     `json:"last_resort"`
	MaxLeaves    int      `json:"max_clients"`
}

// Run changes the policy, if a flag says so, and shows it.
func (g *groupPolicy) Run(ctx context.Context, out io.Writer) error {
	change, err := g.change()
	if err != nil {
		return err
	}
	if change.Promote, err = parseUsers(g.Promote); err != nil {
		return err
	}
	if change.Demote, err = parseUsers(g.Demote); err != nil {
		return err
	}
	changes := g.policyFlags != policyFlags{} || len(g.Promote)+len(g.Demote) > 0
	return g.inGroup(ctx, g.Group, func(c *client.Client, id string) error {
		if changes {
			if err := c.SetPolicy(ctx, id, change); err != nil {
				return err
			}
		}
		p, err := c.Policy(ctx, id)
		if err != nil {
			return err
		}
		admins := make([]string, len(p.Admins))
		for i, a := range p.Admins {
			admins[i] = a.Wire()
		}
		v := policyJSON{id, admins, roleName(p.MayAdd), roleName(p.MayRemove), roleName(p.MayInvite), p.ExternalJoins, p.UnidentifiedMembers, p.LastResort, p.MaxLeaves}
		return say(out, g.JSON, v, "admins        %s\nmay add       %s\nmay remove    %s\nmay invite    %s\njoins         %s\nlast resort   %s\nunidentified  %s\nmax clients   %d",
			strings.Join(admins, " "), v.MayAdd, v.MayRemove, v.MayInvite, yesNo(v.Joins), yesNo(v.LastResort), yesNo(v.Unidentified), v.MaxLeaves)
	})
}

type groupInvitations struct {
	folderFlags
	Group string `arg:"" help:"The group."`
}

// Run lists invitations.
func (g *groupInvitations) Run(ctx context.Context, out io.Writer) error {
	return g.inGroup(ctx, g.Group, func(c *client.Client, id string) error {
		list, err := c.Invitations(ctx, id)
		if err != nil {
			return err
		}
		type row struct {
			ID       string `json:"invitation"`
			By       string `json:"by"`
			Self     bool   `json:"self"`
			Uses     int    `json:"uses"`
			Used     int    `json:"used"`
			NotAfter string `json:"not_after"`
		}
		rows := make([]row, len(list))
		for i, x := range list {
			rows[i] = row{x.ID, x.By.Wire(), x.Self, x.Uses, x.Used, x.NotAfter.UTC().Format(time.RFC3339)}
		}
		if g.JSON {
			return printJSON(out, rows)
		}
		for _, x := range rows {
			if _, err := fmt.Fprintf(out, "%s  until %s  %d of %d used  by %s\n", x.ID, x.NotAfter, x.Used, x.Uses, x.By); err != nil {
				return err
			}
		}
		return nil
	})
}

type groupRevoke struct {
	folderFlags
	Group      string `arg:"" help:"The group."`
	Invitation string `arg:"" help:"The invitation: its id, as mimimi group invitations shows it, or its link."`
}

// Run ends an invitation.
func (g *groupRevoke) Run(ctx context.Context, out io.Writer) error {
	return g.inGroup(ctx, g.Group, func(c *client.Client, id string) error {
		invitation, err := client.InvitationID(g.Invitation)
		if err != nil {
			invitation = g.Invitation // no link: an id
		}
		err = c.RevokeInvitation(ctx, id, invitation)
		if errors.Is(err, client.ErrBadInvitation) {
			return errors.New("no such invitation is open: `mimimi group invitations` lists them")
		}
		if err != nil {
			return err
		}
		return say(out, g.JSON, map[string]string{"group": id, "revoked": invitation}, "revoked %s", invitation)
	})
}

type groupBan struct {
	folderFlags
	Group string `arg:"" help:"The group."`
	User  string `arg:"" help:"The user."`
}

// Run bans a user.
func (g *groupBan) Run(ctx context.Context, out io.Writer) error {
	return g.onUser(ctx, g.Group, g.User, func(c *client.Client, id string, u mimimi.User) error {
		if err := c.Ban(ctx, id, u); err != nil {
			return err
		}
		return say(out, g.JSON, map[string]string{"group": id, "banned": g.User}, "banned %s from %s", g.User, g.Group)
	})
}

type groupUnban struct {
	folderFlags
	Group string `arg:"" help:"The group."`
	User  string `arg:"" help:"The user."`
}

// Run takes a user from the ban list.
func (g *groupUnban) Run(ctx context.Context, out io.Writer) error {
	return g.onUser(ctx, g.Group, g.User, func(c *client.Client, id string, u mimimi.User) error {
		err := c.Unban(ctx, id, u)
		if errors.Is(err, client.ErrNotMember) {
			return fmt.Errorf("%s is not banned from %s", g.User, g.Group)
		}
		if err != nil {
			return err
		}
		return say(out, g.JSON, map[string]string{"group": id, "unbanned": g.User}, "%s may be in %s again", g.User, g.Group)
	})
}

// onUser is inGroup for what is done to one user.
func (f *folderFlags) onUser(ctx context.Context, group, user string, do func(c *client.Client, id string, u mimimi.User) error) error {
	u, err := mimimi.ParseUser(user)
	if err != nil {
		return err
	}
	return f.inGroup(ctx, group, func(c *client.Client, id string) error { return do(c, id, u) })
}

type groupBans struct {
	folderFlags
	Group string `arg:"" help:"The group."`
}

// Run lists banned users.
func (g *groupBans) Run(ctx context.Context, out io.Writer) error {
	return g.inGroup(ctx, g.Group, func(c *client.Client, id string) error {
		list, err := c.Bans(ctx, id)
		if err != nil {
			return err
		}
		names := make([]string, len(list))
		for i, u := range list {
			names[i] = u.Wire()
		}
		if g.JSON {
			return printJSON(out, names)
		}
		for _, n := range names {
			if _, err := fmt.Fprintln(out, n); err != nil {
				return err
			}
		}
		return nil
	})
}

type groupRefuse struct {
	folderFlags
	Group string `arg:"" help:"The group."`
}

// Run refuses a group.
func (g *groupRefuse) Run(ctx context.Context, out io.Writer) error {
	return g.inGroup(ctx, g.Group, func(c *client.Client, id string) error {
		if err := c.Refuse(ctx, id); err != nil {
			return err
		}
		return say(out, g.JSON, map[string]string{"group": id, "state": "refused"}, "nothing of %s is received any more", g.Group)
	})
}

type groupUnrefuse struct {
	folderFlags
	Group string `arg:"" help:"The group."`
}

// Run wants a group again.
func (g *groupUnrefuse) Run(ctx context.Context, out io.Writer) error {
	return g.inGroup(ctx, g.Group, func(c *client.Client, id string) error {
		if err := c.Unrefuse(ctx, id); err != nil {
			return err
		}
		return say(out, g.JSON, map[string]string{"group": id, "state": "active"}, "%s is received again", g.Group)
	})
}
