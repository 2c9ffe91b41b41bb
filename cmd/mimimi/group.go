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

// groupCommand holds what is done with groups. A group is named by its label, or by its local id where two have the same label.
type groupCommand struct {
	Create      groupCreate      `cmd:"" help:"Create a group on the own domain's hub."`
	Add         groupAdd         `cmd:"" help:"Add connected users."`
	Policy      groupPolicy      `cmd:"" help:"Show who may do what, or change it."`
	Invite      groupInvite      `cmd:"" help:"Make an invitation link."`
	Invitations groupInvitations `cmd:"" help:"List open invitations."`
	Revoke      groupRevoke      `cmd:"" help:"End an invitation."`
	Ban         groupBan         `cmd:"" help:"Remove a user and let it in no more."`
	Unban       groupUnban       `cmd:"" help:"Take a user from the ban list."`
	Bans        groupBans        `cmd:"" help:"List banned users."`
	Refuse      groupRefuse      `cmd:"" help:"Drop everything that comes from a group."`
	Unrefuse    groupUnrefuse    `cmd:"" help:"Want a refused group again."`
	Join        groupJoin        `cmd:"" help:"Join by an invitation link."`
	Remove      groupRemove      `cmd:"" help:"Remove a user."`
	Leave       groupLeave       `cmd:"" help:"Leave a group."`
	Members     groupMembers     `cmd:"" help:"List members."`
	List        groupList        `cmd:"" help:"List groups."`
	Name        groupName        `cmd:"" help:"Change the label that only you see."`
}

// findGroup returns the local id of a group that is named by label or id.
func findGroup(ctx context.Context, c *client.Client, name string) (string, error) {
	groups, err := c.Groups(ctx)
	if err != nil {
		return "", err
	}
	var found []string
	for _, g := range groups {
		if g.ID == name {
			return g.ID, nil
		}
		if g.Name == name && g.State != client.GroupOver {
			found = append(found, g.ID)
		}
	}
	switch len(found) {
	case 0:
		return "", client.ErrUnknownGroup
	case 1:
		return found[0], nil
	}
	return "", errors.New("several groups have this label: use the id that `mimimi group list` shows")
}

// inGroup opens the client, catches up, and runs do with the local id of a group.
func (f *folderFlags) inGroup(ctx context.Context, name string, do func(c *client.Client, id string) error) error {
	return f.with(ctx, func(c *client.Client) error {
		id, err := findGroup(ctx, c, name)
		if err != nil {
			return err
		}
		return do(c, id)
	})
}

// parseUsers parses all or none.
func parseUsers(args []string) ([]mimimi.User, error) {
	users := make([]mimimi.User, len(args))
	var errs []error
	for i, a := range args {
		u, err := mimimi.ParseUser(a)
		users[i] = u
		errs = append(errs, err)
	}
	return users, errors.Join(errs...)
}

type groupCreate struct {
	folderFlags
	policyFlags
	Name string `arg:"" help:"A label that only you see."`
}

// Run creates a group.
func (g *groupCreate) Run(ctx context.Context, out io.Writer) error {
	return g.with(ctx, func(c *client.Client) error {
		change, err := g.change()
		if err != nil {
			return err
		}
		id, err := c.CreateGroup(ctx, g.Name, change)
		if err != nil {
			return err
		}
		return say(out, g.JSON, map[string]string{"group": id, "name": g.Name}, "created %s", strings.TrimSpace(g.Name+" ("+id+")"))
	})
}

type groupAdd struct {
	folderFlags
	Group string   `arg:"" help:"The group."`
	Users []string `arg:"" help:"Connected users."`
}

// Run adds users.
func (g *groupAdd) Run(ctx context.Context, out io.Writer) error {
	users, err := parseUsers(g.Users)
	if err != nil {
		return err
	}
	return g.inGroup(ctx, g.Group, func(c *client.Client, id string) error {
		if err := c.Add(ctx, id, users...); err != nil {
			return err
		}
		return say(out, g.JSON, map[string]any{"group": id, "added": g.Users}, "added %d to %s", len(users), g.Group)
	})
}

type groupInvite struct {
	folderFlags
	Group string        `arg:"" help:"The group."`
	Uses  int           `default:"1" help:"How many may join with it."`
	For   time.Duration `default:"168h" help:"How long it is good for."`
	All   bool          `help:"Put all members' link keys into the link: who joins knows at once who they are."`
}

// Run makes an invitation.
func (g *groupInvite) Run(ctx context.Context, out io.Writer) error {
	return g.inGroup(ctx, g.Group, func(c *client.Client, id string) error {
		until := time.Now().Add(g.For)
		link, err := c.Invite(ctx, id, client.InviteOptions{Uses: g.Uses, NotAfter: until, AllKeys: g.All})
		if err != nil {
			return err
		}
		invitation, err := client.InvitationID(link)
		if err != nil {
			return err
		}
		return say(out, g.JSON, map[string]any{
			"group": id, "link": link, "invitation": invitation, "uses": g.Uses, "not_after": until.UTC().Format(time.RFC3339),
		}, "%s", link)
	})
}

type groupJoin struct {
	folderFlags
	Link string `arg:"" help:"The invitation."`
	Name string `help:"A label that only you see."`
}

// Run joins a group.
func (g *groupJoin) Run(ctx context.Context, out io.Writer) error {
	return g.with(ctx, func(c *client.Client) error {
		id, err := c.Join(ctx, g.Link)
		if err != nil {
			return err
		}
		if g.Name != "" {
			if err := c.SetGroupName(ctx, id, g.Name); err != nil {
				return err
			}
		}
		return say(out, g.JSON, map[string]string{"group": id, "name": g.Name},
			"joining %s; `mimimi listen` completes it when the inviter is online", id)
	})
}

type groupRemove struct {
	folderFlags
	Group string `arg:"" help:"The group."`
	User  string `arg:"" help:"The user."`
}

// Run removes a user.
func (g *groupRemove) Run(ctx context.Context, out io.Writer) error {
	users, err := parseUsers([]string{g.User})
	if err != nil {
		return err
	}
	return g.inGroup(ctx, g.Group, func(c *client.Client, id string) error {
		if err := c.Remove(ctx, id, users[0]); err != nil {
			return err
		}
		return say(out, g.JSON, map[string]string{"group": id, "removed": g.User}, "removed %s from %s", g.User, g.Group)
	})
}

type groupLeave struct {
	folderFlags
	Group string `arg:"" help:"The group."`
}

// Run leaves a group.
func (g *groupLeave) Run(ctx context.Context, out io.Writer) error {
	return g.inGroup(ctx, g.Group, func(c *client.Client, id string) error {
		if err := c.Leave(ctx, id); err != nil {
			return err
		}
		return say(out, g.JSON, map[string]string{"group": id, "state": "left"}, "left %s", g.Group)
	})
}

type groupMembers struct {
	folderFlags
	Group string `arg:"" help:"The group."`
}

// Run lists members.
func (g *groupMembers) Run(ctx context.Context, out io.Writer) error {
	return g.inGroup(ctx, g.Group, func(c *client.Client, id string) error {
		list, err := c.Members(ctx, id)
		if err != nil {
			return err
		}
		type row struct {
			User       string `json:"user"`
			Self       bool   `json:"self"`
			Admin      bool   `json:"admin"`
			Identified bool   `json:"identified"`
			Clients    int    `json:"clients"`
		}
		rows := make([]row, len(list))
		for i, m := range list {
			rows[i] = row{m.User.Wire(), m.Self, m.Admin, m.Identified, m.Clients}
		}
		if g.JSON {
			return printJSON(out, rows)
		}
		for _, m := range rows {
			if _, err := fmt.Fprintln(out, memberLine(m.User, m.Self, m.Admin, m.Identified)); err != nil {
				return err
			}
		}
		return nil
	})
}

// memberLine is one member in words.
func memberLine(user string, self, admin, identified bool) string {
	if !identified {
		return "(unidentified)"
	}
	if admin {
		user += "  admin"
	}
	if self {
		user += "  you"
	}
	return user
}

type groupList struct{ folderFlags }

// Run lists groups.
func (g *groupList) Run(ctx context.Context, out io.Writer) error {
	return g.with(ctx, func(c *client.Client) error {
		list, err := c.Groups(ctx)
		if err != nil {
			return err
		}
		type row struct {
			ID      string `json:"group"`
			Name    string `json:"name"`
			State   string `json:"state"`
			Members int    `json:"members"`
			Waiting int    `json:"waiting"`
			Refused bool   `json:"refused"`
		}
		rows := make([]row, len(list))
		for i, x := range list {
			rows[i] = row{x.ID, x.Name, string(x.State), x.Members, x.Waiting, x.Refused}
		}
		if g.JSON {
			return printJSON(out, rows)
		}
		for _, x := range rows {
			if x.Refused {
				x.State = "refused"
			}
			if _, err := fmt.Fprintf(out, "%s  %-8s %3d members  %s\n", x.ID, x.State, x.Members, x.Name); err != nil {
				return err
			}
		}
		return nil
	})
}

type sendCommand struct {
	folderFlags
	Group string `arg:"" help:"The group."`
	Text  string `arg:"" help:"The message."`
}

// Run sends a message.
func (s *sendCommand) Run(ctx context.Context, out io.Writer) error {
	return s.inGroup(ctx, s.Group, func(c *client.Client, id string) error {
		m, err := c.Send(ctx, id, []byte(s.Text))
		if err != nil {
			return err
		}
		return say(out, s.JSON, map[string]string{"group": id, "message": string(m)}, "sent")
	})
}

type groupName struct {
	folderFlags
	Group string `arg:"" help:"The group."`
	Name  string `arg:"" help:"The new label."`
}

// Run changes a label.
func (g *groupName) Run(ctx context.Context, out io.Writer) error {
	return g.local(ctx, func(c *client.Client) error {
		id, err := findGroup(ctx, c, g.Group)
		if err != nil {
			return err
		}
		if err := c.SetGroupName(ctx, id, g.Name); err != nil {
			return err
		}
		return say(out, g.JSON, map[string]string{"group": id, "name": g.Name}, "%s is called %s now", id, g.Name)
	})
}
