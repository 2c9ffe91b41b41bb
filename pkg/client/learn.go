package client

import (
	"errors"
	"time"

	"mimimi.example/pkg/mimimi"
)

// learn takes note of a leaf's link key and identifies the leaf with it. trusted says that the key is what the leaf itself or whoever added it
// showed, so that a wrong one is that leaf's fault. at is when the certificate must be valid; zero means the start of the leaf's week (§3).
func (c *Client) learn(tx Tx, g *group, leaf uint32, key mimimi.LinkKey, at time.Time, trusted bool) error {
	node, ok := g.mls.Public().Member(leaf)
	r := g.rec.Leaves[leaf]
	if !ok || r == nil || r.User != "" || r.Bad {
		return nil
	}
	cert, err := identify(tx, node, key, at)
	switch {
	case errors.Is(err, errUnmet):
		r.LinkKey = key.Bytes()
		return nil
	case errors.Is(err, ErrIdentity):
		r.Bad = r.Bad || trusted
		return nil
	case err != nil:
		return err
	}
	bad, err := revoked(tx, cert)
	if err != nil {
		return err
	}
	if bad && !at.IsZero() && c.now().Before(at.Add(entryFor)) {
		r.Bad = true // it must not have come in
		return nil
	}
	if r.Was != "" && (r.Was != cert.User.Wire() || r.WasClient != cert.Client.Wire()) {
		r.Bad = true // a credential is replaced by another of the same client
		return nil
	}
	if r.Entered != 0 && g.rec.Bans.has(cert.User.Wire()) || g.conflicts(leaf, cert.User.Wire()) {
		r.Bad = true
		return nil
	}
	return c.named(tx, g, leaf, cert, key)
}

// conflicts says whether a leaf is at fault against one that is identified: one user pseudonym stands for one user, and one user for one user pseudonym. The
// one that entered later is at fault, whichever was identified first; if that is the other, it is not identified any more.
func (g *group) conflicts(leaf uint32, user string) bool {
	r := g.rec.Leaves[leaf]
	var later []*leafRecord
	for i, other := range g.rec.Leaves {
		if other.User == "" || (other.User == user) == (other.UserPseudonym == r.UserPseudonym) {
			continue
		}
		if other.Place <= r.Place || i == g.mls.OwnIndex() {
			return true
		}
		later = append(later, other)
	}
	for _, other := range later {
		other.User, other.Bad = "", true
	}
	return false
}

// named makes a leaf identified and says what follows: a member joined, its content is shown, an own entry is complete.
func (c *Client) named(tx Tx, g *group, leaf uint32, cert *mimimi.ClientCertificate, key mimimi.LinkKey) error {
	r := g.rec.Leaves[leaf]
	first := !g.hasUser(cert.User.Wire())
	r.User, r.Client, r.Fingerprint, r.LinkKey = cert.User.Wire(), cert.Client.Wire(), cert.Fingerprint(), key.Bytes()
	r.Certificate = hashName(cert)
	c.tap(TapLinkKey, r.LinkKey)
	c.tap(TapUser, []byte(r.User))
	g.rec.PeerIn = g.rec.PeerIn || r.User == g.rec.Peer
	if g.rec.Devices && r.Entered != 0 && r.Was == "" && leaf != g.mls.OwnIndex() && r.User == c.account.rec.User {
		c.tap(TapClient, []byte(r.Client))
		if err := c.addEvent(tx, eventRecord{Kind: EventDeviceAdded, Device: r.Client}); err != nil {
			return err
		}
	}
	if r.Entered != 0 && first && r.Was == "" && !g.rec.hidden() && leaf != g.mls.OwnIndex() {
		if err := c.addEvent(tx, eventRecord{Kind: EventJoined, Group: g.rec.ID, User: r.User}); err != nil {
			return err
		}
	}
	if err := c.showHeld(tx, g); err != nil {
		return err
	}
	return c.entered(tx, g)
}

// entered completes an own entry once every leaf is identified, and this client by the others.
func (c *Client) entered(tx Tx, g *group) error {
	if g.rec.State != GroupJoining || g.mls == nil || g.rec.Create != nil || !g.identified() || g.rec.Join != nil && !g.rec.Join.Answered {
		return nil
	}
	joined := g.rec.Join != nil
	g.rec.State, g.rec.Join = GroupActive, nil
	var err error
	switch {
	case g.rec.Devices && c.account.rec.CutOff:
		err = c.putAccount(tx, func(r *accountRecord) { r.CutOff = false })
	case g.rec.Peer != "" && joined:
		err = c.connectionEntered(tx, g)
	case g.rec.Peer != "":
		err = c.connectionShared(tx, g)
	case !g.rec.Devices:
		err = c.addEvent(tx, eventRecord{Kind: EventGroupJoined, Group: g.rec.ID})
	}
	return errors.Join(err, c.bringOthers(tx, g, joined))
}
