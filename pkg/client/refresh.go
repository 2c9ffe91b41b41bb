package client

import (
	"bytes"
	"context"
	"math/rand/v2"
	"time"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// Every client makes its leaf in every group anew within 60 days (docs/protocol.md §4): a path commit with a fresh encryption key and the queue ID sealed afresh, under the
// provider's present queue key. Each group has a time of its own, so that the groups of a client cannot be told by it. An own commit that happens to be made in the
// time in which it could be due does it in passing. If the client's certificate was renewed, signature key and credential are replaced with it.

const (
	// refreshFrom and refreshUntil bound the age at which a leaf is made anew: the random time between them hides which leaves are one client's, and five days remain until the 60 of §4
	// for a client that is not always on.
	refreshFrom  = 30 * 24 * time.Hour
	refreshUntil = 55 * 24 * time.Hour
	// refreshLate is how far a refresh may be overdue before it is put off once more: a client that comes back after long must not refresh all its groups at once.
	refreshLate = 24 * time.Hour
)

// planRefresh says when the own leaf is made anew, counted from now.
func (c *Client) planRefresh(g *group) {
	now := c.now()
	g.rec.Refreshed, g.rec.RefreshPutOff = now.Unix(), false
	g.rec.RefreshAt = now.Add(refreshFrom + rand.N(refreshUntil-refreshFrom)).Unix()
}

// refreshDue plans the refresh of a group that has no time yet, and begins one that is due. It reports whether it did either.
func (c *Client) refreshDue(g *group) (bool, error) {
	now := c.now().Unix()
	switch {
	case g.rec.RefreshAt == 0:
		return true, c.change(g, func(Tx) error { c.planRefresh(g); return nil })
	case now < g.rec.RefreshAt || g.hasTask(taskRefresh) || !g.identified() || len(g.rec.Leaves) == 1 && g.rec.Peer != "":
		return false, nil // a connection group that nobody has come into ends before it is old
	case now >= g.rec.RefreshAt+int64(refreshLate/time.Second) && !g.rec.RefreshPutOff && c.cfg.Spread > 0:
		return true, c.change(g, func(Tx) error {
			g.rec.RefreshAt, g.rec.RefreshPutOff = c.now().Add(c.spread()).Unix(), true
			return nil
		})
	}
	return true, c.addTask(g, newTask(taskRefresh))
}

// tryRefresh makes the commit, unless another one of this client did it meanwhile. The own domain's key document must be there first, since it names the queue key.
func (c *Client) tryRefresh(ctx context.Context, g *group, t *task) error {
	if c.now().Unix() < g.rec.RefreshAt {
		return c.endTask(g, t.ID)
	}
	if _, err := c.document(ctx, c.account.user.Domain()); err != nil {
		return err
	}
	return c.stage(g, t.ID, nil, t)
}

// renewLeaf makes the own leaf anew if it may be time for it and the queue key is known; otherwise it returns nil. A credential is replaced only in a commit that neither
// adds nor removes anybody: a removed member could still open its link key (§6).
func (c *Client) renewLeaf(g *group, alone bool) (*mimimi.LeafRenewal, error) {
	if !c.queueless(g) && (g.rec.Refreshed == 0 || c.now().Before(timeOf(g.rec.Refreshed).Add(refreshFrom))) {
		return nil, nil
	}
	queueKey, ok, err := c.queueKey()
	if err != nil || !ok {
		return nil, err
	}
	replace := false
	if alone && !g.pendingRemovals() {
		if replace, err = c.certificateChanged(g); err != nil {
			return nil, err
		}
	}
	a := c.account
	r, err := mimimi.RenewLeaf(mimimi.KeyPackageConfig{
		ConnectionKey: a.connectionKey, CertificateKey: a.certKey, Certificate: a.certificate, QueueID: a.queueID, QueueKey: queueKey, Now: c.now(),
	}, g.mls.OwnLeaf(), g.own.secrets.SignatureKey, g.own.linkKey, replace)
	if err == nil && replace {
		c.tap(TapLinkKey, r.LinkKey.Bytes())
	}
	return r, err
}

// refreshed is the identity_link_update of a commit that replaces the own credential.
func refreshed(g *group, r *mimimi.LeafRenewal) (mls.Proposal, error) {
	update, err := mimimi.NewLinkUpdateKey(g.mls)
	if err != nil {
		return mls.Proposal{}, err
	}
	body, err := update.Seal(g.id, g.mls.Epoch(), g.mls.OwnIndex(), nil, mimimi.IdentityLinkKeys{Own: &r.LinkKey})
	return mls.Proposal{Type: mimimi.ProposalIdentityLinkUpdate, Body: body}, err
}

// ownRenewal is a renewed leaf as it is stored with its commit.
func (c *Client) ownRenewal(r *mimimi.LeafRenewal) (*leafSecrets, error) {
	return (&ownPackage{kp: r.Package, secrets: *r.Secrets, linkKey: r.LinkKey, queue: c.account.rec.QueueNumber}).leaf()
}

// takeRenewed makes a renewed leaf the own one, in the transaction that puts its commit in force.
func (c *Client) takeRenewed(g *group, own *leafSecrets) (err error) {
	if own == nil {
		return nil
	}
	if g.own, err = parseOwnPackage(own.Package, own.Secrets, own.LinkKey, own.Queue); err != nil {
		return err
	}
	c.planRefresh(g)
	return c.nameSelf(g)
}

// queueKey is the provider's present queue key, as far as the key document at hand says it.
func (c *Client) queueKey() (key mimimi.QueueKey, ok bool, err error) {
	pin, found, err := get[pinRecord](c.store, bucketPins, []byte(c.account.user.Domain()))
	if err != nil || !found || pin.Document == nil {
		return key, false, err
	}
	doc, err := mimimi.ParseKeyDocument(pin.Document)
	if err != nil || doc.Verify(pin.IdentityKey, c.now()) != nil || len(doc.QueueKeys) == 0 {
		return key, false, nil
	}
	return doc.QueueKeys[len(doc.QueueKeys)-1], true, nil
}

// certificateChanged says whether the own leaf shows another certificate than the client's present one, and may show that now: an open invitation of this client names the
// link key of its leaf, so it waits for that to end.
func (c *Client) certificateChanged(g *group) (bool, error) {
	leaf, err := mimimi.ParseLeaf(g.mls.OwnLeaf())
	if err != nil {
		return false, errDamagedGroup
	}
	shown, err := leaf.Credential.Identify(g.own.linkKey)
	if err != nil {
		return false, problem.Wrap(problem.Internal, "the own leaf does not show who this is", err)
	}
	if bytes.Equal(shown.Marshal(), c.account.certificate.Marshal()) {
		return false, nil
	}
	for _, r := range g.rec.Invitations {
		inv, err := mimimi.ParseInvitation(r.Body)
		if err != nil {
			return false, errDamagedGroup
		}
		if _, own := inv.LinkKeys[g.mls.OwnIndex()]; own && r.NotAfter > c.now().Unix() {
			return false, nil
		}
	}
	return true, nil
}
