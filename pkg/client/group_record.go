package client

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// groupRecord is all that a client keeps of a group but its ratchet state and its leaf's secrets, which stand in buckets of their own.
type groupRecord struct {
	ID      string     `json:"id"`
	GroupID []byte     `json:"group_id"`
	Name    string     `json:"name,omitempty"`
	Peer    string     `json:"peer,omitempty"` // connection group: the other user
	Created int64      `json:"created"`
	State   GroupState `json:"state"`

	// Last is the place in the log up to which everything is processed.
	Last   uint64               `json:"last"`
	Epochs []mimimi.EpochRecord `json:"epochs,omitempty"`
	Rules  []byte               `json:"rules,omitempty"` // mimimi.State

	Leaves      map[uint32]*leafRecord `json:"leaves,omitempty"`
	Invitations []invitationRecord     `json:"invitations,omitempty"`
	Outgoing    []*outgoing            `json:"outgoing,omitempty"`
	Held        []heldMessage          `json:"held,omitempty"`
	Tasks       []*task                `json:"tasks,omitempty"`
	Staged      *stagedRecord          `json:"staged,omitempty"`

	// Exactly one of these is set while the client is on its way in.
	Create  *createRecord  `json:"create,omitempty"`
	Join    *joinRecord    `json:"join,omitempty"`
	Welcome *welcomeRecord `json:"welcome,omitempty"`
	Again   *welcomeRecord `json:"again,omitempty"` // a later Welcome: this membership is over, though the client does not know it yet

	Confirmed bool         `json:"confirmed,omitempty"` // at the queue
	Behind    bool         `json:"behind,omitempty"`    // something was passed over: the log must be read
	Resync    *resyncState `json:"resync,omitempty"`
	LeaveAt   uint64       `json:"leave_at,omitempty"` // the place of the own self_remove, once it is in the log
	// QuietUntil puts off duties after one that failed, seconds since 1970.
	QuietUntil int64 `json:"quiet_until,omitempty"`
	// PendingSince is when the first proposal that a commit must take up was seen.
	PendingSince int64 `json:"pending_since,omitempty"`
	// Heard is how far the members were heard in the last epochs; LeftOut is one more than the epoch in which it was last said that something is missing.
	Heard   []*heardRecord `json:"heard,omitempty"`
	LeftOut uint64         `json:"left_out,omitempty"`
}

// leafRecord is what is known of one leaf. It is identified if User is set.
type leafRecord struct {
	UserPseudonym   string `json:"user_pseudonym"`
	ClientPseudonym string `json:"client_pseudonym"`
	User            string `json:"user,omitempty"`
	Client          string `json:"client,omitempty"`
	Fingerprint     string `json:"fingerprint,omitempty"`
	LinkKey         []byte `json:"link_key,omitempty"`
	// Entered is when this client saw the leaf come in; 0 if it was there first.
	Entered int64 `json:"entered,omitempty"`
	// Bad says that the leaf showed an identity that does not hold.
	Bad bool `json:"bad,omitempty"`
	// Leaving says that its self_remove waits for a commit.
	Leaving bool `json:"leaving,omitempty"`
	// Secret is the invite secret with which an external joiner showed this client its link; Answer says that it waits for the members' links.
	Secret []byte `json:"secret,omitempty"`
	Answer bool   `json:"answer,omitempty"`
}

// stagedRecord is an own commit that may have left. It is stored before it leaves; what becomes of it is seen in the log.
type stagedRecord struct {
	Task    string `json:"task"`
	Request []byte `json:"request"`
	Commit  []byte `json:"commit"` // mls.StagedCommit
	Message []byte `json:"message"`
}

// heldMessage is content from a leaf that is not identified yet.
type heldMessage struct {
	Leaf      uint32    `json:"leaf"`
	Pseudonym string    `json:"pseudonym"`
	Message   MessageID `json:"message"`
	Body      []byte    `json:"body"`
	Time      int64     `json:"time"`
}

// resyncState says that the group's state is lost and when it is to be entered anew.
type resyncState struct {
	Due     int64  `json:"due"`
	Request []byte `json:"request,omitempty"`
	Commit  []byte `json:"commit,omitempty"`
	Proof   []byte `json:"proof,omitempty"`
	Info    []byte `json:"info,omitempty"`
	Tries   int    `json:"tries,omitempty"`
}

// group is a groupRecord ready for use.
type group struct {
	rec   *groupRecord
	id    mimimi.GroupID
	mls   *mls.Group    // nil while joining and when over
	rules *mimimi.State // nil with mls
	own   *ownPackage   // leaf secrets; nil until there is a leaf
}

// pastEpochs is how many epochs' message keys are kept: as many as can end within the ten seconds in which a late message counts, in a busy group.
const pastEpochs = 8

var protocolRules = mimimi.MLSRules

// group loads a group.
func (c *Client) group(id string) (*group, error) {
	if g, ok := c.groups[id]; ok {
		return g, nil
	}
	var g *group
	err := c.view(func(tx Tx) (err error) {
		g, err = loadGroup(tx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.groups[id] = g
	return g, nil
}

func loadGroup(tx Tx, id string) (*group, error) {
	rec, found, err := read[groupRecord](tx, bucketGroups, []byte(id))
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, ErrUnknownGroup
	}
	g := &group{rec: rec}
	if g.id, err = mimimi.ParseGroupID(rec.GroupID); err != nil {
		return nil, errDamagedGroup
	}
	if rec.Leaves == nil {
		rec.Leaves = make(map[uint32]*leafRecord)
	}
	if leaf, found, err := read[leafSecrets](tx, bucketLeaves, []byte(id)); err != nil {
		return nil, err
	} else if found {
		if g.own, err = parseOwnPackage(leaf.Package, leaf.Secrets, leaf.LinkKey); err != nil {
			return nil, err
		}
	}
	if b := tx.Get(bucketRatchets, []byte(id)); b != nil {
		if g.mls, err = mls.ParseGroup(slices.Clone(b), protocolRules()); err != nil {
			return nil, errDamagedGroup
		}
		if g.rules, err = mimimi.ParseState(rec.Rules); err != nil {
			return nil, errDamagedGroup
		}
	}
	return g, nil
}

var errDamagedGroup = fmt.Errorf("%w: a group is damaged", ErrStore)

// groupByID finds the local id of a group by its group id.
func (c *Client) groupByID(id []byte) (local string, found bool, err error) {
	err = c.view(func(tx Tx) error {
		b := tx.Get(bucketGroupIDs, id)
		local, found = string(b), b != nil
		return nil
	})
	return local, found, err
}

// change runs f on a group's state and stores the result, in one transaction. If it fails the group is loaded anew when it is next used.
func (c *Client) change(g *group, f func(tx Tx) error) error {
	return c.update(func(tx Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		return c.putGroup(tx, g)
	})
}

// putGroup stores a group in all its buckets. A group that is over keeps its record only: its secrets are erased.
func (c *Client) putGroup(tx Tx, g *group) error {
	id := []byte(g.rec.ID)
	if g.rec.State == GroupOver {
		g.mls, g.rules, g.own = nil, nil, nil
		g.rec.Rules, g.rec.Staged, g.rec.Tasks, g.rec.Outgoing, g.rec.Held, g.rec.Invitations = nil, nil, nil, nil, nil, nil
		g.rec.Create, g.rec.Join, g.rec.Welcome, g.rec.Resync, g.rec.Heard = nil, nil, nil, nil, nil
		for _, l := range g.rec.Leaves {
			l.LinkKey, l.Secret = nil, nil
		}
	}
	if g.rules != nil {
		g.rec.Rules = g.rules.Marshal()
	}
	errs := []error{write(tx, bucketGroups, id, g.rec)}
	if g.rec.State != GroupOver || tx.Get(bucketGroupIDs, g.rec.GroupID) == nil { // one may be in a group again
		errs = append(errs, tx.Put(bucketGroupIDs, g.rec.GroupID, id))
	}
	if g.mls != nil {
		errs = append(errs, tx.Put(bucketRatchets, id, g.mls.Marshal()))
	} else {
		errs = append(errs, tx.Delete(bucketRatchets, id))
	}
	if g.own != nil {
		leaf, err := g.own.leaf()
		errs = append(errs, err, write(tx, bucketLeaves, id, leaf))
	} else {
		errs = append(errs, tx.Delete(bucketLeaves, id))
	}
	return errors.Join(errs...)
}

// dropGroup forgets a group that never came to be; if the client was let in again meanwhile, it tries that.
func (c *Client) dropGroup(g *group) error {
	if g.rec.Again != nil {
		return c.change(g, func(Tx) error {
			*g = group{id: g.id, rec: &groupRecord{
				ID: g.rec.ID, GroupID: g.rec.GroupID, State: GroupJoining, Created: g.rec.Created, Leaves: make(map[uint32]*leafRecord),
				Welcome: g.rec.Again, Behind: true,
			}}
			return nil
		})
	}
	err := c.update(func(tx Tx) error {
		id := []byte(g.rec.ID)
		if string(tx.Get(bucketGroupIDs, g.rec.GroupID)) == g.rec.ID {
			if err := tx.Delete(bucketGroupIDs, g.rec.GroupID); err != nil {
				return err
			}
		}
		return errors.Join(tx.Delete(bucketGroups, id), tx.Delete(bucketRatchets, id), tx.Delete(bucketLeaves, id))
	})
	delete(c.groups, g.rec.ID)
	return err
}

// over ends a group for this client.
func (c *Client) over(tx Tx, g *group, sentence string, at int64) error {
	if g.rec.State == GroupOver {
		return nil
	}
	g.rec.State = GroupOver
	if g.rec.Peer != "" {
		return nil
	}
	return c.addEvent(tx, eventRecord{Kind: EventGroupOver, Group: g.rec.ID, Text: sentence, Time: at})
}

// syncLeaves makes the records match the tree. entered is when new leaves came in, 0 if they were there first.
func (g *group) syncLeaves(entered int64) error {
	now := make(map[uint32]bool)
	for _, m := range g.mls.Public().Members() {
		now[m.Index] = true
		cred, err := mimimi.ParsePseudonymousCredential(m.Leaf.Credential())
		if err != nil {
			return err
		}
		if r := g.rec.Leaves[m.Index]; r != nil && r.ClientPseudonym == cred.ClientPseudonym.Wire() {
			continue
		}
		g.rec.Leaves[m.Index] = &leafRecord{UserPseudonym: cred.UserPseudonym.Wire(), ClientPseudonym: cred.ClientPseudonym.Wire(), Entered: entered}
	}
	for i := range g.rec.Leaves {
		if !now[i] {
			delete(g.rec.Leaves, i)
		}
	}
	return nil
}

// identified says whether every leaf but the own one is identified.
func (g *group) identified() bool {
	for i, l := range g.rec.Leaves {
		if l.User == "" && i != g.mls.OwnIndex() {
			return false
		}
	}
	return true
}

// usable returns why nothing can be done in a group now.
func (g *group) usable() error {
	switch {
	case g.rec.State == GroupOver || g.rec.State == GroupLeaving:
		return ErrGroupOver
	case g.rec.State != GroupActive || g.mls == nil || !g.identified():
		return ErrNotReady
	}
	return nil
}

// indices returns the leaves in order.
func (g *group) indices() []uint32 {
	all := make([]uint32, 0, len(g.rec.Leaves))
	for i := range g.rec.Leaves {
		all = append(all, i)
	}
	slices.Sort(all)
	return all
}

// turn is how long this client lets others go first where any one member's commit is enough: it grows with the number of identified members before it.
func (g *group) turn() time.Duration {
	n := 0
	for i, l := range g.rec.Leaves {
		if i < g.mls.OwnIndex() && l.User != "" && !l.Leaving {
			n++
		}
	}
	return time.Duration(min(n, maxTurns)) * turnDelay
}

// linkKeys returns all known link keys by leaf index, nil where there is none.
func (g *group) linkKeys() []*mimimi.LinkKey {
	var keys []*mimimi.LinkKey
	for _, i := range g.indices() {
		for uint32(len(keys)) <= i {
			keys = append(keys, nil)
		}
		if k, err := mimimi.LinkKeyFrom(g.rec.Leaves[i].LinkKey); err == nil {
			keys[i] = &k
		}
	}
	return keys
}

// policy returns the group's policy.
func (g *group) policy() (*mimimi.Policy, error) {
	data, ok := g.mls.Public().Extension(mimimi.ExtensionGroup)
	if !ok {
		return nil, mimimi.ErrMalformed
	}
	return mimimi.ParsePolicy(data)
}

// hubExtensions are what a commit's GroupInfo for the hub carries beside external_pub (§6, §9).
func hubExtensions(next *mls.Group) ([]mls.Extension, error) {
	s, err := mimimi.NewEpochSender(next)
	if err != nil {
		return nil, err
	}
	return []mls.Extension{s.Extension()}, nil
}

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
	for _, other := range g.rec.Leaves { // one user pseudonym for one user, one user for one user pseudonym
		if other.User != "" && (other.User == cert.User.Wire()) != (other.UserPseudonym == r.UserPseudonym) {
			r.Bad = true
			return nil
		}
	}
	return c.named(tx, g, leaf, cert, key)
}

// named makes a leaf identified and says what follows: a member joined, its content is shown, an own entry is complete.
func (c *Client) named(tx Tx, g *group, leaf uint32, cert *mimimi.ClientCertificate, key mimimi.LinkKey) error {
	r := g.rec.Leaves[leaf]
	first := !g.hasUser(cert.User.Wire())
	r.User, r.Client, r.Fingerprint, r.LinkKey = cert.User.Wire(), cert.Client.Wire(), cert.Fingerprint(), key.Bytes()
	c.tap(TapLinkKey, r.LinkKey)
	c.tap(TapUser, []byte(r.User))
	if r.Entered != 0 && first && g.rec.Peer == "" && leaf != g.mls.OwnIndex() {
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
	g.rec.State, g.rec.Join = GroupActive, nil
	if g.rec.Peer != "" {
		return c.connectionEntered(tx, g)
	}
	return c.addEvent(tx, eventRecord{Kind: EventGroupJoined, Group: g.rec.ID})
}

func (g *group) hasUser(user string) bool {
	for _, l := range g.rec.Leaves {
		if l.User == user {
			return true
		}
	}
	return false
}

// leavesOf returns the leaves of a user, in order.
func (g *group) leavesOf(user string) []uint32 {
	var all []uint32
	for _, i := range g.indices() {
		if g.rec.Leaves[i].User == user {
			all = append(all, i)
		}
	}
	return all
}
