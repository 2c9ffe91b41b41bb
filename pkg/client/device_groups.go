package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// How all of a user's clients come into each group (protocol.md §8). Whoever makes or joins a group claims a whole own set, takes its leaf from it and adds the clients whose
// KeyPackages are in the set right away. A client that is missing, since it is new or was offline when the set was made, hears of the group in the group of the user's own
// clients, makes one KeyPackage for it and hands it to the others there. One of them adds it: the first, or after a turn each another does.

// ownPart is the KeyPackage of another own client in a set that this client claimed.
type ownPart struct {
	Client  string `json:"client"`
	Package []byte `json:"package"`
	LinkKey []byte `json:"link_key"`
}

// bringRecord is a KeyPackage of another own client for a group, which waits to be added.
type bringRecord struct {
	GroupID []byte `json:"group_id"`
	Client  string `json:"client"`
	Package []byte `json:"package"`
	LinkKey []byte `json:"link_key"`
	Due     int64  `json:"due"` // nanoseconds since 1970
	// Instead says that the client cannot use the leaf that it may have in the group: it is removed first.
	Instead bool `json:"instead,omitempty"`
	// Said is when its client said that it is not in the group, by the log of the own clients' group.
	Said int64 `json:"said,omitempty"`
}

func bringKey(group []byte, client string) []byte {
	return append(append(slices.Clone(group), ' '), client...)
}

// claimOwn claims one own set from the own store, as anyone would (§8). It returns this client's KeyPackage with its private halves, and those of the user's other
// clients that are in the set. A set that has none of this client, which was offline or is new, gets one made now.
func (c *Client) claimOwn(ctx context.Context, id []byte) (own *ownPackage, others []ownPart, err error) {
	all, lastResort, err := c.claim(ctx, c.account.user.Domain(), c.account.selfToken, id, true)
	if err != nil {
		return nil, nil, err
	}
	if lastResort {
		if err := c.update(func(tx Tx) error { return c.warn(tx, "", ownLastResortSentence) }); err != nil {
			return nil, nil, err
		}
	}
	first, err := mimimi.ParsePseudonymousCredential(all[0].Leaf().Credential())
	if err != nil {
		return nil, nil, fmt.Errorf("claim an own KeyPackage set: %w", ErrIdentity)
	}
	for _, kp := range all {
		p, found, err := c.takePackage(kp.Ref())
		if err != nil {
			return nil, nil, err
		}
		if found && own == nil {
			own = p
			continue
		}
		cert, link, err := c.checkOwn(kp, first.UserPseudonym.Wire(), nil)
		if err != nil || !c.isOwnClient(cert.Client.Wire()) || cert.Client == c.account.client {
			continue // of a client that was removed, or that was made before the connection key changed
		}
		others = append(others, ownPart{Client: cert.Client.Wire(), Package: kp.Marshal(), LinkKey: link.Bytes()})
	}
	if own == nil {
		if own, err = c.newOwnPackage(ctx, first.UserPseudonym); err != nil {
			return nil, nil, err
		}
	}
	if cred, err := mimimi.ParsePseudonymousCredential(own.kp.Leaf().Credential()); err == nil {
		if cred.UserPseudonym != first.UserPseudonym {
			return nil, nil, fmt.Errorf("claim an own KeyPackage set: %w", ErrIdentity)
		}
		c.tap(TapPseudonym, []byte(cred.UserPseudonym.Wire()), []byte(cred.ClientPseudonym.Wire()))
	}
	return own, others, nil
}

// ownClients returns which of the user's clients are in a group.
func (g *group) ownClients(user string) (all []string) {
	for _, i := range g.leavesOf(user) {
		all = append(all, g.rec.Leaves[i].Client)
	}
	return all
}

// bringOthers sees to it, when this client has come into a group, that the user's others do. acted says that this client made the group or joined it, not that it was added.
func (c *Client) bringOthers(tx Tx, g *group, acted bool) error {
	others := g.rec.Others
	g.rec.Others = nil
	shared, told, err := read[sharedGroupRecord](tx, bucketShared, g.rec.GroupID)
	if err != nil {
		return err
	}
	if told {
		if err := tx.Delete(bucketShared, g.rec.GroupID); err != nil {
			return err
		}
		if shared.Left != 0 && !acted {
			g.rec.Tasks = append(g.rec.Tasks, newTask(taskLeave))
			return nil
		}
	}
	if g.rec.Devices || len(c.own) <= 1 {
		return nil
	}
	in := g.ownClients(c.account.rec.User)
	add := &adding{User: c.account.rec.User}
	for _, o := range others {
		if c.isOwnClient(o.Client) && !slices.Contains(in, o.Client) {
			in = append(in, o.Client)
			add.Packages, add.LinkKeys = append(add.Packages, o.Package), append(add.LinkKeys, o.LinkKey)
		}
	}
	if len(add.Packages) > 0 {
		t := newTask(taskAddOwn)
		t.Adds = []*adding{add}
		g.rec.Tasks = append(g.rec.Tasks, t)
	}
	missing := slices.ContainsFunc(c.own, func(id string) bool { return !slices.Contains(in, id) })
	if !acted && !missing {
		return nil
	}
	return c.shareGroup(tx, g, in)
}

// shareGroup tells the other clients of a group. clients are those that are in it or being added.
func (c *Client) shareGroup(tx Tx, g *group, clients []string) error {
	s := g.rec.shared(c.account.rec.Client)
	if s == nil {
		return nil
	}
	s.Clients = clients
	return c.tellDevices(tx, &mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Group{Group: s}})
}

// shareLeft tells the other clients that the user left a group: each leaves by itself, since it alone can say so for its leaf.
func (c *Client) shareLeft(tx Tx, g *group) error {
	if g.rec.Devices {
		return nil
	}
	return c.tellDevices(tx, &mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Group{Group: &mimimiv1.SharedGroup{GroupId: g.rec.GroupID, Over: true}}})
}

// onlyOwn says whether all leaves of a group are the user's.
func (g *group) onlyOwn(user string) bool {
	for _, l := range g.rec.Leaves {
		if l.User != user {
			return false
		}
	}
	return true
}

// applyGroup takes over what another own client says of a group.
func (c *Client) applyGroup(tx Tx, s *mimimiv1.SharedGroup) error {
	if _, err := mimimi.ParseGroupID(s.GroupId); err != nil || bytes.Equal(s.GroupId, c.account.rec.DeviceGroup) || len(s.Name) > maxLabel || s.Made < 0 || s.Made > c.now().Add(maxMadeAhead).Unix() {
		return c.warn(tx, "", unreadSync)
	}
	if _, err := mimimi.ParseUser(s.Peer); err != nil && s.Peer != "" {
		return c.warn(tx, "", unreadSync)
	}
	g, err := c.groupByIDIn(tx, s.GroupId)
	if err != nil {
		return err
	}
	switch {
	case g != nil && g.rec.State != GroupOver && g.member() && s.Over:
		return c.leaveToo(tx, g)
	case g != nil && g.rec.State != GroupOver && g.member() && farAhead(s.Number, g.rec.NameNumber):
		return c.warn(tx, "", unreadSync)
	case g != nil && g.rec.State != GroupOver && g.member():
		named := s.Number > g.rec.NameNumber || s.Number == g.rec.NameNumber && s.Name > g.rec.Name
		if named {
			g.rec.Name, g.rec.NameNumber = s.Name, s.Number
		}
		if !named && s.Made <= g.rec.Made {
			return nil
		}
		g.rec.Made = max(g.rec.Made, s.Made)
		return c.putGroup(tx, g)
	}
	r, found, err := read[sharedGroupRecord](tx, bucketShared, s.GroupId)
	if err != nil {
		return err
	}
	if s.Over {
		if !found {
			r = &sharedGroupRecord{GroupID: s.GroupId}
		}
		r.Left = c.now().Unix()
		return write(tx, bucketShared, s.GroupId, r)
	}
	if _, err := mimimi.ParseUserPseudonym(s.UserPseudonym); err != nil || found && farAhead(s.Number, r.Number) {
		return c.warn(tx, "", unreadSync)
	}
	if !found || r.Left != 0 {
		r = &sharedGroupRecord{GroupID: s.GroupId, Due: c.now().Unix()}
		if slices.Contains(s.Clients, c.account.rec.Client) {
			r.Due, r.Said = c.now().Add(welcomeWait).Unix(), true
		}
	}
	if s.Number > r.Number || s.Number == r.Number && s.Name > r.Name {
		r.Name, r.Number = s.Name, s.Number
	}
	r.Pseudonym, r.Peer, r.Made = s.UserPseudonym, s.Peer, s.Made
	return write(tx, bucketShared, s.GroupId, r)
}

// groupByIDIn finds a group by its id inside a transaction, nil if there is none that can be loaded.
func (c *Client) groupByIDIn(tx Tx, id []byte) (*group, error) {
	local := tx.Get(bucketGroupIDs, id)
	if local == nil {
		return nil, nil
	}
	g, err := c.groupIn(tx, string(local))
	if errors.Is(err, ErrUnknownGroup) || errors.Is(err, errDamagedGroup) {
		return nil, nil
	}
	return g, err
}

// leaveToo leaves a group that the user left on another client. Where only own clients are left there is nobody to take the leaving up.
func (c *Client) leaveToo(tx Tx, g *group) error {
	if g.rec.State == GroupLeaving || g.hasTask(taskLeave) {
		return nil
	}
	if g.onlyOwn(c.account.rec.User) {
		if err := c.over(tx, g, leftSentence, 0); err != nil {
			return err
		}
	} else {
		g.rec.Tasks = append(g.rec.Tasks, newTask(taskLeave))
	}
	return c.putGroup(tx, g)
}

// workShared makes KeyPackages for groups that the user is in and this client is not, and hands them to the other clients.
func (c *Client) workShared(ctx context.Context) error {
	if len(c.own) <= 1 {
		return nil
	}
	all, err := list[sharedGroupRecord](c.store, bucketShared)
	if err != nil {
		return err
	}
	now := c.now()
	var due []*sharedGroupRecord
	for _, r := range all {
		welcomed, err := c.welcomed(r.GroupID)
		if err != nil {
			return err
		}
		switch {
		case r.Left != 0 && now.Sub(timeOf(r.Left)) > leftFor:
			if err := c.update(func(tx Tx) error { return tx.Delete(bucketShared, r.GroupID) }); err != nil {
				return err
			}
		case !welcomed && r.Left == 0 && r.Pseudonym != "" && r.Due <= now.Unix() && (r.Handed == 0 || now.Sub(timeOf(r.Handed)) > handAgain):
			due = append(due, r)
		}
	}
	for batch := range slices.Chunk(due, maxHanded) {
		if err := c.hand(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}

// welcomed says whether a Welcome to a group waits for its tree.
func (c *Client) welcomed(id []byte) (bool, error) {
	local, found, err := c.groupByID(id)
	if err != nil || !found {
		return false, err
	}
	r, found, err := get[groupRecord](c.store, bucketGroups, []byte(local))
	if errors.Is(err, ErrStore) {
		return false, nil
	}
	return found && (r.Welcome != nil || r.Again != nil), err
}

// hand makes a KeyPackage for each group and posts them, in one transaction with their private halves.
func (c *Client) hand(ctx context.Context, groups []*sharedGroupRecord) error {
	msg := &mimimiv1.GroupPackages{Client: c.account.rec.Client}
	var made []*ownPackage
	for _, r := range groups {
		pseudonym, err := mimimi.ParseUserPseudonym(r.Pseudonym)
		if err != nil {
			return ErrStore
		}
		own, err := c.newOwnPackage(ctx, pseudonym)
		if err != nil {
			return err
		}
		made = append(made, own)
		msg.Packages = append(msg.Packages, &mimimiv1.GroupPackage{GroupId: r.GroupID, KeyPackage: own.kp.Marshal(), LinkKey: own.linkKey.Bytes(), Instead: r.Said || r.Lost != 0})
	}
	return c.update(func(tx Tx) error {
		for i, r := range groups {
			r.Handed = c.now().Unix()
			if err := errors.Join(c.putOwnPackage(tx, made[i]), write(tx, bucketShared, r.GroupID, r)); err != nil {
				return err
			}
		}
		return c.tellDevices(tx, &mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Packages{Packages: msg}})
	})
}

// applyPackages stores the KeyPackages that another own client made for groups. Each is added at a time of its own, since a burst would link the groups (§8).
func (c *Client) applyPackages(tx Tx, from string, p *mimimiv1.GroupPackages, at int64) error {
	if p.Client != from || len(p.Packages) > maxHanded {
		return nil
	}
	for _, one := range p.Packages {
		if _, err := mimimi.ParseGroupID(one.GroupId); err != nil || len(one.KeyPackage) > maxSync || bytes.Equal(one.GroupId, c.account.rec.DeviceGroup) {
			continue
		}
		r := bringRecord{GroupID: one.GroupId, Client: from, Package: one.KeyPackage, LinkKey: one.LinkKey, Instead: one.Instead,
			Due: c.now().Add(c.turnAfter()).UnixNano(), Said: at}
		if !one.Instead { // one that takes a leaf's place is handed at a time of its own
			r.Due += int64(c.spread())
		}
		if err := write(tx, bucketBring, bringKey(r.GroupID, from), r); err != nil {
			return err
		}
	}
	return nil
}

// workBrings stores the tasks that add other own clients to the groups in which they are missing.
func (c *Client) workBrings(context.Context) error {
	all, err := list[bringRecord](c.store, bucketBring)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range all {
		if c.now().UnixNano() < r.Due {
			continue
		}
		errs = append(errs, c.bring(r))
	}
	return distinct(errs)
}

// bring stores the task for one client and group, if it is still missing there. One for a group that this client is not in waits, since it may be on its way in.
func (c *Client) bring(r *bringRecord) error {
	key := bringKey(r.GroupID, r.Client)
	local, found, err := c.groupByID(r.GroupID)
	if err != nil {
		return err
	}
	var g *group
	if found {
		if g, err = c.group(local); err != nil && !errors.Is(err, ErrStore) {
			return err
		}
	}
	drop := func() error { return c.update(func(tx Tx) error { return tx.Delete(bucketBring, key) }) }
	switch {
	case c.now().UnixNano() > r.Due+int64(handAgain) || !c.isOwnClient(r.Client):
		return drop()
	case g == nil || g.mls == nil || g.rec.State == GroupJoining:
		return nil
	case g.rec.State != GroupActive:
		return drop()
	case g.usable() != nil || c.now().Unix() < g.rec.QuietUntil:
		return nil
	case !r.Instead && c.stranded(g, r):
		return c.removeLeaf(local, r.Client) // it is added anew when that is done
	case !r.Instead && slices.Contains(g.ownClients(c.account.rec.User), r.Client):
		return drop()
	}
	kp, err := mls.ParseKeyPackage(r.Package)
	if err != nil {
		return drop()
	}
	cert, link, err := c.checkOwn(kp, g.rec.Leaves[g.mls.OwnIndex()].UserPseudonym, r.LinkKey)
	if err != nil || cert.Client.Wire() != r.Client {
		return drop()
	}
	if did, in, err := c.makeRoom(g, r.Client, kp); err != nil || did || in {
		if in {
			err = errors.Join(err, drop())
		}
		return err
	}
	t := newTask(taskAddOwn)
	t.Adds = []*adding{{User: c.account.rec.User, Packages: [][]byte{r.Package}, LinkKeys: [][]byte{link.Bytes()}}}
	return c.change(g, func(tx Tx) error {
		g.rec.Tasks = append(g.rec.Tasks, t)
		return tx.Delete(bucketBring, key)
	})
}

// makeRoom stores the tasks that remove the leaves in whose place a KeyPackage of another own client comes: no commit both adds and removes. did says that it waits for
// them; in says that the KeyPackage is in the group already.
func (c *Client) makeRoom(g *group, client string, kp *mls.KeyPackage) (did, in bool, err error) {
	cred, err := mimimi.ParsePseudonymousCredential(kp.Leaf().Credential())
	if err != nil {
		return false, false, err
	}
	var old []string
	for _, i := range g.leavesOfClient(c.account.rec.User, client) {
		if p := g.rec.Leaves[i].ClientPseudonym; p == cred.ClientPseudonym.Wire() {
			in = true
		} else {
			old = append(old, p)
		}
	}
	if in || len(old) == 0 {
		return false, in, nil
	}
	return true, false, c.change(g, func(Tx) error {
		for _, p := range old {
			if slices.ContainsFunc(g.rec.Tasks, func(t *task) bool { return t.Kind == taskRemoveOwn && t.Pseudonym == p }) {
				continue
			}
			t := newTask(taskRemoveOwn)
			t.Client, t.Pseudonym, t.Duty = client, p, true
			g.rec.Tasks = append(g.rec.Tasks, t)
		}
		return nil
	})
}

// stranded says whether a client's leaf in a group is of no use to it: the client said that it is not in the group long after the leaf came in, so its Welcome was lost.
func (c *Client) stranded(g *group, r *bringRecord) bool {
	for _, i := range g.leavesOfClient(c.account.rec.User, r.Client) {
		entered := max(g.rec.Leaves[i].Entered, g.rec.Created) // one that was there first came no later than this client
		return timeOf(r.Said).After(timeOf(entered).Add(welcomeWait - clockSlack))
	}
	return false
}

// lacking leaves of what a task adds only those KeyPackages whose client is not in the group: others may have come first.
func (c *Client) lacking(g *group, t *task) error {
	in := g.ownClients(c.account.rec.User)
	for _, a := range t.Adds {
		var packages, keys [][]byte
		for i, b := range a.Packages {
			kp, err := mls.ParseKeyPackage(b)
			if err != nil {
				return errDamagedGroup
			}
			cert, _, err := c.checkOwn(kp, g.rec.Leaves[g.mls.OwnIndex()].UserPseudonym, a.LinkKeys[i])
			if err != nil || slices.Contains(in, cert.Client.Wire()) || !g.rec.Devices && !c.isOwnClient(cert.Client.Wire()) {
				continue
			}
			in = append(in, cert.Client.Wire())
			packages, keys = append(packages, b), append(keys, a.LinkKeys[i])
		}
		a.Packages, a.LinkKeys = packages, keys
	}
	t.Adds = slices.DeleteFunc(t.Adds, func(a *adding) bool { return len(a.Packages) == 0 })
	return nil
}

// bringDue says when the next client is to be brought into a group, zero if none is.
func (c *Client) bringDue() (next time.Time, err error) {
	all, err := list[bringRecord](c.store, bucketBring)
	for _, r := range all {
		// One that is due already waits for something else, which a Sync brings.
		if t := time.Unix(0, r.Due); t.After(c.now()) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next, err
}

// mayEnter says whether a group may be entered by a Welcome: whoever signed it is a contact, or an own client that has said what the group is (shared). What another own
// client knows and has not said yet is waited for.
func (c *Client) mayEnter(g *group, made *mls.Group, signer uint32, keys []*mimimi.LinkKey) (shared *sharedGroupRecord, wait, ok bool, err error) {
	user, connected, err := c.welcomedBy(made, signer, keys)
	if err != nil {
		return nil, false, false, err
	}
	own := user == c.account.rec.User
	if g.rec.Devices {
		return nil, false, own, nil
	}
	shared, told, err := get[sharedGroupRecord](c.store, bucketShared, g.rec.GroupID)
	if err != nil {
		return nil, false, false, err
	}
	late := !c.now().Before(timeOf(g.rec.Welcome.Received).Add(welcomeWait))
	switch {
	case own:
		return shared, !told && !late, true, nil
	case connected:
		return shared, false, true, nil
	}
	return nil, (len(c.own) > 1 || c.account.rec.Link != nil) && !late, false, nil
}

// welcomedBy identifies the leaf that signed a Welcome, and says whether it is a contact's that is connected. The user is empty if the leaf is not identified.
func (c *Client) welcomedBy(made *mls.Group, leaf uint32, keys []*mimimi.LinkKey) (user string, connected bool, err error) {
	node, found := made.Public().Member(leaf)
	if !found {
		return "", false, nil
	}
	err = c.view(func(tx Tx) error {
		cert, err := identifyLive(tx, node, *keys[leaf], timeZero)
		if errors.Is(err, ErrIdentity) || errors.Is(err, errUnmet) {
			return nil
		}
		if err != nil {
			return err
		}
		user = cert.User.Wire()
		contact, found, err := read[contactRecord](tx, bucketContacts, []byte(user))
		connected = found && contact.State == ContactConnected
		return err
	})
	return user, connected, err
}

// tryAddOwn makes the commit of a task that adds other own clients, whose KeyPackages it holds.
func (c *Client) tryAddOwn(g *group, t *task) error {
	if g.pendingRemovals() { // no commit both adds and removes (§6)
		return c.stage(g, t.ID+"/first", nil, nil)
	}
	if err := c.lacking(g, t); err != nil {
		return err
	}
	if len(t.Adds) == 0 {
		return c.endTask(g, t.ID)
	}
	proposals, err := g.addProposals(t)
	if err != nil {
		return err
	}
	return c.stage(g, t.ID, proposals, t)
}
