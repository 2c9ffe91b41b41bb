package client

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// linkPrefix begins an invitation link.
const linkPrefix = "mimimi:join:"

// invitationRecord is an open invitation that this client knows, its own or another member's.
type invitationRecord struct {
	Secret   []byte `json:"secret"`
	NotAfter int64  `json:"not_after"`
	Body     []byte `json:"body"`              // mimimi.Invitation, as members are told
	By       string `json:"by,omitempty"`      // the member who told of it
	Used     int    `json:"used,omitempty"`    // joiners who showed themselves to this client
	Revoked  bool   `json:"revoked,omitempty"` // the hub is to be told
	Again    bool   `json:"again,omitempty"`   // a removal has voided it at the hub, which is to be told of it anew
}

// readLink reads an invitation link.
func readLink(link string) (*mimimi.Invitation, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimPrefix(link, linkPrefix))
	if err != nil || !strings.HasPrefix(link, linkPrefix) {
		return nil, ErrBadInvitation
	}
	inv, err := mimimi.ParseInvitation(b)
	if err != nil || inv.Policy == nil {
		return nil, ErrBadInvitation
	}
	return inv, nil
}

// parseLink reads an invitation link that is to be used.
func parseLink(link string, now time.Time) (*mimimi.Invitation, error) {
	inv, err := readLink(link)
	if err != nil || !now.Before(inv.NotAfter) {
		return nil, ErrBadInvitation
	}
	return inv, nil
}

// Invite makes an invitation link, which lets whoever holds it ask to join (protocol.md §7). This client lets them in when it syncs. Every removal
// of a member voids all invitations of the group. Errors: as Add.
func (c *Client) Invite(ctx context.Context, group string, o InviteOptions) (link string, err error) {
	if o.Uses == 0 {
		o.Uses = 1
	}
	if o.NotAfter.IsZero() {
		o.NotAfter = c.now().Add(inviteFor)
	}
	if o.Uses < 0 || o.Uses > maxUses || !c.now().Before(o.NotAfter) {
		return "", problem.New(problem.Invalid, "protocol §7: an invitation has 1 to 1,000 uses and ends later than now")
	}
	err = c.lockedFor(ctx, func() error {
		g, err := c.visible(group)
		if err != nil {
			return err
		}
		if err := g.usable(); err != nil {
			return err
		}
		inv, err := c.invite(ctx, g, mimimi.NewInviteSecret(), o)
		if err != nil {
			return err
		}
		link = linkPrefix + base64.RawURLEncoding.EncodeToString(inv)
		_ = c.work(ctx, group) // tells the members; what fails is the next Sync's
		return nil
	})
	return link, err
}

// maxUses is the most uses of one invitation that a hub takes.
const maxUses = 1000

// invite stores an invitation, so that its joiner can be answered, and registers it at the hub. A crash between leaves one that no one has.
func (c *Client) invite(ctx context.Context, g *group, secret mimimi.InviteSecret, o InviteOptions) ([]byte, error) {
	policy, err := g.policy()
	if err != nil {
		return nil, err
	}
	if err := g.mayInvite(policy); err != nil {
		return nil, err
	}
	inv := &mimimi.Invitation{Group: g.id, Secret: secret, Uses: uint16(o.Uses), NotAfter: o.NotAfter.UTC().Truncate(time.Second), Policy: policy,
		LinkKeys: make(map[uint32]mimimi.LinkKey)}
	leaves := g.leavesOf(c.account.rec.User)
	if o.AllKeys {
		leaves = g.indices()
	}
	for _, i := range leaves {
		if inv.LinkKeys[i], err = mimimi.LinkKeyFrom(g.rec.Leaves[i].LinkKey); err != nil {
			return nil, errDamagedGroup
		}
	}
	link := inv.Marshal()
	told := *inv
	told.LinkKeys = make(map[uint32]mimimi.LinkKey) // members know the others'
	for _, i := range g.leavesOf(c.account.rec.User) {
		told.LinkKeys[i] = inv.LinkKeys[i]
	}
	body := told.Marshal()
	c.tap(TapInviteSecret, secret.Bytes())
	err = c.change(g, func(Tx) error {
		g.dropInvitations(c.now())
		g.rec.Invitations = slices.DeleteFunc(g.rec.Invitations, func(r invitationRecord) bool { return bytes.Equal(r.Secret, secret.Bytes()) })
		if len(g.rec.Invitations) >= maxInvitations {
			return problem.New(problem.Limited, "the group has too many open invitations")
		}
		g.rec.Invitations = append(g.rec.Invitations, invitationRecord{Secret: secret.Bytes(), NotAfter: inv.NotAfter.Unix(), Body: body, By: c.account.rec.User})
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := c.registerInvitation(ctx, g, inv); err != nil {
		return nil, errors.Join(err, c.change(g, func(Tx) error {
			g.rec.Invitations = slices.DeleteFunc(g.rec.Invitations, func(r invitationRecord) bool { return bytes.Equal(r.Secret, secret.Bytes()) })
			return nil
		}))
	}
	if g.rec.Peer != "" && len(g.rec.Leaves) == 1 {
		return link, nil
	}
	return link, c.change(g, func(Tx) error {
		g.post(&outgoing{Type: mimimi.EnvelopeInvitation, Body: body})
		return nil
	})
}

// mayInvite applies the policy before the hub does.
func (g *group) mayInvite(p *mimimi.Policy) error {
	cred, err := mimimi.ParsePseudonymousCredential(g.mls.OwnLeaf().Credential())
	if err != nil {
		return errDamagedGroup
	}
	if !p.ExternalJoins || p.Role(cred.UserPseudonym) < p.MayInvite {
		return ErrDenied
	}
	return nil
}

// registerInvitation tells the hub the hash of the join token (§7), proven by the own leaf. A client that is behind catches up first.
func (c *Client) registerInvitation(ctx context.Context, g *group, inv *mimimi.Invitation) error {
	hub, err := c.hub(ctx, g.id.Domain())
	if err != nil {
		return err
	}
	hash := inv.Secret.JoinToken().Hash()
	body := binary.BigEndian.AppendUint32(slices.Clone(hash[:]), uint32(inv.Uses))
	body = binary.BigEndian.AppendUint64(body, uint64(inv.NotAfter.Unix()))
	for range maxCommitTries {
		_, err = call(ctx, hub.RegisterInvitation, &mimimiv1.RegisterInvitationRequest{
			GroupId: g.rec.GroupID, JoinTokenHash: hash[:], Uses: uint32(inv.Uses), NotAfter: inv.NotAfter.Unix(),
			Proof: c.leafProof(g, mimimi.OpRegisterInvitation, body),
		})
		if !isStale(err) {
			break
		}
		if err := c.catchUpAs(ctx, g, named); err != nil {
			return err
		}
		if err := g.usable(); err != nil {
			return err
		}
	}
	if err != nil {
		return denied(fmt.Errorf("register invitation: %w", err))
	}
	return nil
}

// dropInvitations forgets invitations that are over.
func (g *group) dropInvitations(now time.Time) {
	g.rec.Invitations = slices.DeleteFunc(g.rec.Invitations, func(r invitationRecord) bool { return r.NotAfter <= now.Unix() })
}

// receiveInvitation remembers an invitation that another member made, or forgets one that was revoked: that is told by the same message with no uses.
func (g *group) receiveInvitation(from *leafRecord, body []byte, now time.Time) error {
	inv, err := mimimi.ParseInvitation(body)
	if err != nil || inv.Group != g.id || !now.Before(inv.NotAfter) {
		return nil
	}
	g.dropInvitations(now)
	if inv.Uses == 0 {
		g.rec.Invitations = slices.DeleteFunc(g.rec.Invitations, func(r invitationRecord) bool { return bytes.Equal(r.Secret, inv.Secret.Bytes()) })
		return nil
	}
	known := slices.ContainsFunc(g.rec.Invitations, func(r invitationRecord) bool { return bytes.Equal(r.Secret, inv.Secret.Bytes()) })
	if known || len(g.rec.Invitations) >= maxInvitations {
		return nil
	}
	g.rec.Invitations = append(g.rec.Invitations, invitationRecord{Secret: inv.Secret.Bytes(), NotAfter: inv.NotAfter.Unix(), Body: body, By: from.User})
	return nil
}

// tellInvitations posts the open invitations again, for newcomers that this client let in.
func (g *group) tellInvitations() {
	if g.rec.Peer != "" && len(g.leavesOf(g.rec.Peer)) > 0 {
		return
	}
	for _, r := range g.rec.Invitations {
		if r.Revoked {
			continue
		}
		waiting := slices.ContainsFunc(g.rec.Outgoing, func(o *outgoing) bool {
			return o.Type == mimimi.EnvelopeInvitation && string(o.Body) == string(r.Body) && o.Message == nil
		})
		if !waiting {
			g.post(&outgoing{Type: mimimi.EnvelopeInvitation, Body: r.Body})
		}
	}
}
