package client

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// Invitation is an open invitation to a group.
type Invitation struct {
	ID       string      // for RevokeInvitation
	By       mimimi.User // the member who made it, or told this client of it; zero for one that was there before
	Self     bool
	Uses     int // how many it lets in
	Used     int // of them those who showed themselves to this client; only an inviter's clients know
	NotAfter time.Time
}

// id names an invitation in this client's calls. It says nothing about the secret.
func (r *invitationRecord) id() (string, error) {
	s, err := mimimi.InviteSecretFrom(r.Secret)
	if err != nil {
		return "", errDamagedGroup
	}
	h := s.JoinToken().Hash()
	return hex.EncodeToString(h[:8]), nil
}

// InvitationID returns the ID under which Invitations has the invitation of a link. Errors: ErrBadInvitation for what is no link.
func InvitationID(link string) (string, error) {
	inv, err := readLink(link)
	if err != nil {
		return "", err
	}
	return (&invitationRecord{Secret: inv.Secret.Bytes()}).id()
}

// Invitations returns the open invitations of a group that this client knows, those that end first first. One that was used up may still be among
// another member's. Errors: as Policy.
func (c *Client) Invitations(ctx context.Context, group string) (all []Invitation, err error) {
	err = c.lockedFor(ctx, func() error {
		g, err := c.shownGroup(group)
		if err != nil {
			return err
		}
		for i := range g.rec.Invitations {
			r := &g.rec.Invitations[i]
			if r.Revoked || r.NotAfter <= c.now().Unix() {
				continue
			}
			inv, err := r.shown()
			if err != nil {
				return err
			}
			inv.Self = r.By == c.account.rec.User
			all = append(all, *inv)
		}
		return nil
	})
	slices.SortStableFunc(all, func(a, b Invitation) int {
		if n := a.NotAfter.Compare(b.NotAfter); n != 0 {
			return n
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all, err
}

func (r *invitationRecord) shown() (*Invitation, error) {
	id, err := r.id()
	if err != nil {
		return nil, err
	}
	body, err := mimimi.ParseInvitation(r.Body)
	if err != nil {
		return nil, errDamagedGroup
	}
	inv := &Invitation{ID: id, Uses: int(body.Uses), Used: r.Used, NotAfter: timeOf(r.NotAfter)}
	if r.By != "" {
		if inv.By, err = mimimi.ParseUser(r.By); err != nil {
			return nil, errDamagedGroup
		}
	}
	return inv, nil
}

// RevokeInvitation ends an invitation: the hub lets nobody in with it any more, and no member answers one who came in with it and is not identified yet.
// Whoever may invite may revoke anybody's. A nil error means that the hub knows; after another it is told by a later Sync.
// Errors: as Add, ErrBadInvitation if there is no such invitation.
func (c *Client) RevokeInvitation(ctx context.Context, group, id string) error {
	return c.lockedFor(ctx, func() error {
		g, err := c.visible(group)
		if err != nil {
			return err
		}
		if err := g.usable(); err != nil {
			return err
		}
		policy, err := g.policy()
		if err != nil {
			return errDamagedGroup
		}
		if err := g.mayInvite(policy); err != nil {
			return err
		}
		at := slices.IndexFunc(g.rec.Invitations, func(r invitationRecord) bool {
			known, err := r.id()
			return err == nil && known == id && !r.Revoked
		})
		if at < 0 {
			return ErrBadInvitation
		}
		err = c.change(g, func(Tx) error {
			g.rec.Invitations[at].Revoked = true
			return nil
		})
		if err != nil {
			return err
		}
		err = c.work(ctx, group)
		if g, gerr := c.group(group); gerr == nil && g.toRevoke() == nil {
			return nil // what else failed is the next Sync's
		}
		return err
	})
}

// left is how many an invitation still lets in, as far as this client knows.
func (r *invitationRecord) left() (int, error) {
	body, err := mimimi.ParseInvitation(r.Body)
	if err != nil {
		return 0, errDamagedGroup
	}
	return max(0, int(body.Uses)-r.Used), nil
}

// voidInvitations takes note of a removal, which voids all invitations at the hub, since whoever was in the group knows their secrets (§7). Leaves that came in by themselves
// and never showed whose they are were told nothing: where only such are removed the invitations stay, and each inviter has the hub take its own again. So whoever lets itself
// in, be it the hub, does not end an invitation by that.
func (c *Client) voidInvitations(tx Tx, g *group, gone map[uint32]*leafRecord) error {
	for _, r := range gone {
		if !r.External || r.Shown || r.User != "" {
			g.rec.Invitations = nil
			if g.rec.PeerIn {
				return nil
			}
			return c.voidAsk(tx, g)
		}
	}
	for i := range g.rec.Invitations {
		r := &g.rec.Invitations[i]
		r.Again = r.By == c.account.rec.User && !r.Revoked
	}
	return nil
}

// toRegister is an invitation that the hub is to be told of anew.
func (g *group) toRegister() *invitationRecord {
	for i := range g.rec.Invitations {
		if g.rec.Invitations[i].Again {
			return &g.rec.Invitations[i]
		}
	}
	return nil
}

// registerAgain tells the hub of an invitation anew, for as many as are left of it.
func (c *Client) registerAgain(ctx context.Context, g *group, r *invitationRecord) error {
	inv, err := mimimi.ParseInvitation(r.Body)
	if err != nil {
		return errDamagedGroup
	}
	left, err := r.left()
	if err != nil {
		return err
	}
	over := left == 0 || r.NotAfter <= c.now().Unix() || g.rec.PeerIn
	if !over {
		inv.Uses = uint16(left)
		err = c.registerInvitation(ctx, g, inv)
		if over = errors.Is(err, ErrDenied); over {
			err = nil // the policy is another now
		}
	}
	if err != nil {
		return err
	}
	secret := bytes.Clone(r.Secret)
	return c.change(g, func(Tx) error {
		for i := range g.rec.Invitations {
			if bytes.Equal(g.rec.Invitations[i].Secret, secret) {
				g.rec.Invitations[i].Again = false
			}
		}
		if over {
			g.rec.Invitations = slices.DeleteFunc(g.rec.Invitations, func(x invitationRecord) bool { return bytes.Equal(x.Secret, secret) })
		}
		return nil
	})
}

// toRevoke is a revoked invitation of which the hub is not told yet.
func (g *group) toRevoke() *invitationRecord {
	for i := range g.rec.Invitations {
		if g.rec.Invitations[i].Revoked {
			return &g.rec.Invitations[i]
		}
	}
	return nil
}

// revokeAtHub has the hub let nobody in by an invitation.
func (c *Client) revokeAtHub(ctx context.Context, g *group, secret mimimi.InviteSecret) error {
	hub, err := c.hub(ctx, g.id.Domain())
	if err != nil {
		return err
	}
	hash := secret.JoinToken().Hash()
	_, err = call(ctx, hub.RevokeInvitation, &mimimiv1.RevokeInvitationRequest{
		GroupId: g.rec.GroupID, JoinTokenHash: hash[:], Proof: c.leafProof(g, mimimi.OpRevokeInvitation, hash[:]),
	})
	if err != nil {
		return fmt.Errorf("revoke invitation: %w", err)
	}
	return nil
}

// revoke tells the hub, and then the members. A crash between tells the hub again, which then knows no such invitation.
func (c *Client) revoke(ctx context.Context, g *group, r *invitationRecord) error {
	secret, err := mimimi.InviteSecretFrom(r.Secret)
	if err != nil {
		return errDamagedGroup
	}
	err = c.revokeAtHub(ctx, g, secret)
	switch {
	case isStale(err):
		before := g.rec.Last
		if err := c.catchUpAs(ctx, g, named); err != nil || g.rec.Last > before {
			return err
		}
		return ErrBusy // the hub says that there is more, and does not show it
	case err != nil && problem.KindOf(err) != problem.NotFound && !isFinal(err):
		return err
	}
	final := err
	if problem.KindOf(err) == problem.NotFound {
		final = nil
	}
	told, err := mimimi.ParseInvitation(r.Body)
	if err != nil {
		return errDamagedGroup
	}
	told.Uses, told.LinkKeys = 0, nil
	gone := bytes.Clone(r.Secret)
	return errors.Join(denied(final), c.change(g, func(Tx) error {
		if final == nil && g.rec.Peer == "" {
			g.post(&outgoing{Type: mimimi.EnvelopeInvitation, Body: told.Marshal()})
		}
		if final != nil { // the hub does not let this member: the invitation stays
			for i := range g.rec.Invitations {
				g.rec.Invitations[i].Revoked = g.rec.Invitations[i].Revoked && !bytes.Equal(g.rec.Invitations[i].Secret, gone)
			}
			return nil
		}
		g.rec.Invitations = slices.DeleteFunc(g.rec.Invitations, func(x invitationRecord) bool { return bytes.Equal(x.Secret, gone) })
		return nil
	}))
}
