package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// groupRecord is all that a client keeps of a group but its members, its MLS state and its leaf's secrets, which stand in buckets of their own: it is written with
// every message, and they are large in a large group.
type groupRecord struct {
	ID      string `json:"id"`
	GroupID []byte `json:"group_id"`
	Name    string `json:"name,omitempty"`
	Peer    string `json:"peer,omitempty"`    // connection group: the other user
	Devices bool   `json:"devices,omitempty"` // the group of the user's own clients
	// PeerIn says that this client has seen the other user in the connection group.
	PeerIn bool `json:"peer_in,omitempty"`
	// NameNumber counts Name among the user's clients.
	NameNumber uint64 `json:"name_number,omitempty"`
	// Others are the user's other clients in the set that this client entered with: they are added next.
	Others []ownPart `json:"others,omitempty"`
	// TellAll says that everything is to be told to the other clients, once nothing else waits, but not before TellAllAt.
	TellAll   bool       `json:"tell_all,omitempty"`
	TellAllAt int64      `json:"tell_all_at,omitempty"`
	Created   int64      `json:"created"`
	State     GroupState `json:"state"`

	// Last is the place in the log up to which everything is processed.
	Last   uint64               `json:"last"`
	Epochs []mimimi.EpochRecord `json:"epochs,omitempty"`

	// Users is how many user pseudonyms Leaves have.
	Users  int                    `json:"users,omitempty"`
	Leaves map[uint32]*leafRecord `json:"-"` // stored in the rosterRecord

	Invitations []invitationRecord `json:"invitations,omitempty"`
	Outgoing    []*outgoing        `json:"outgoing,omitempty"`
	Held        []heldMessage      `json:"held,omitempty"`
	Tasks       []*task            `json:"tasks,omitempty"`
	Staged      *stagedRecord      `json:"staged,omitempty"`

	// Exactly one of these is set while the client is on its way in.
	Create  *createRecord  `json:"create,omitempty"`
	Join    *joinRecord    `json:"join,omitempty"`
	Welcome *welcomeRecord `json:"welcome,omitempty"`
	Again   *welcomeRecord `json:"again,omitempty"` // a later Welcome: this membership is over, though the client does not know it yet

	Confirmed bool         `json:"confirmed,omitempty"` // at the queue
	Behind    bool         `json:"behind,omitempty"`    // something was passed over: the log must be read
	Early     [][]byte     `json:"early,omitempty"`     // Deliveries that came before what stands before them, while the log could not be read
	Resync    *resyncState `json:"resync,omitempty"`
	LeaveAt   uint64       `json:"leave_at,omitempty"` // the place of the own self_remove, once it is in the log
	// Named is when the log was read under the own leaf's name in the last day, NameAt when it may be next; ReadAt is when it is looked at again that gave nothing Fruitless times.
	// DeniedSince is since when the hub refuses it, Denied how often; Returns is when this client entered anew in the last day.
	Named       []int64 `json:"named,omitempty"`
	NameAt      int64   `json:"name_at,omitempty"`
	ReadAt      int64   `json:"read_at,omitempty"`
	Fruitless   int     `json:"fruitless,omitempty"`
	DeniedSince int64   `json:"denied_since,omitempty"`
	Denied      int     `json:"denied,omitempty"`
	Returns     []int64 `json:"returns,omitempty"`
	// HeldBack is how often in a row the hub took no message for want of room, SendAt when the next one is offered, nanoseconds since 1970.
	HeldBack int   `json:"held_back,omitempty"`
	SendAt   int64 `json:"send_at,omitempty"`
	// QuietUntil puts off duties after one that failed, seconds since 1970.
	QuietUntil int64 `json:"quiet_until,omitempty"`
	// Accepted is the latest acceptance time seen in the log; Clock is when the user was last told that the hub's times cannot be right.
	Accepted int64 `json:"accepted,omitempty"`
	Clock    int64 `json:"clock,omitempty"`

	Bans    *banRecord     `json:"bans,omitempty"`
	Missing *missingRecord `json:"missing,omitempty"`
	// Refused says that the user does not want the group's deliveries, Told that the queue knows.
	Refused bool `json:"refused,omitempty"`
	Told    bool `json:"told,omitempty"`
	// Respond says that the own answer is due in a connection group, Linked that the connection came about in it, Idle that another one is used.
	Respond bool `json:"respond,omitempty"`
	Linked  bool `json:"linked,omitempty"`
	Idle    bool `json:"idle,omitempty"`
	// Made is when the request was made by which the connection group came about, by its requester's clock: of two groups with one user the one that was asked for last stays.
	Made int64 `json:"made,omitempty"`
	// Token is the own token in the request whose connection group this is, Withdraw says that the request is to be taken back, since the connection stands by another.
	Token    []byte `json:"token,omitempty"`
	Withdraw bool   `json:"withdraw,omitempty"`
	// Queue numbers the queue that the own leaf names.
	Queue int `json:"queue,omitempty"`
	// Polled is when the log was read last for want of deliveries.
	Polled int64 `json:"polled,omitempty"`
	// Refreshed is when the own leaf was made anew last, or came in; RefreshAt is when it will be. RefreshPutOff says that this was put off once.
	Refreshed     int64 `json:"refreshed,omitempty"`
	RefreshAt     int64 `json:"refresh_at,omitempty"`
	RefreshPutOff bool  `json:"refresh_put_off,omitempty"`
	// PendingSince is when the first proposal that a commit must take up was seen.
	PendingSince int64 `json:"pending_since,omitempty"`
	// Heard is how far the members were heard in the last epochs; LeftOut is one more than the epoch in which it was last said that something is missing.
	Heard   []*heardRecord `json:"heard,omitempty"`
	LeftOut uint64         `json:"left_out,omitempty"`
}

// rosterRecord is the part of a group that changes with its members.
type rosterRecord struct {
	Leaves map[uint32]*leafRecord `json:"leaves,omitempty"`
	Rules  []byte                 `json:"rules,omitempty"` // mimimi.State
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
	// Certificate is the hash of the certificate, in hex; Revoked says that it is known to be revoked, and that this was shown.
	Certificate string `json:"certificate,omitempty"`
	Revoked     bool   `json:"revoked,omitempty"`
	// Was and WasClient are who the leaf was before it replaced its credential: who it has to be still.
	Was       string `json:"was,omitempty"`
	WasClient string `json:"was_client,omitempty"`
	// Leaving says that its self_remove waits for a commit.
	Leaving bool `json:"leaving,omitempty"`
	// Secret is the invite secret with which an external joiner showed this client its link; Answer says that it waits for the members' links.
	Secret []byte `json:"secret,omitempty"`
	Answer bool   `json:"answer,omitempty"`
	// AnswerAt is when this client answers, after the user's clients before it; Told says that another of them has begun to.
	AnswerAt int64 `json:"answer_at,omitempty"`
	Told     bool  `json:"told,omitempty"`
	// Asked is what a leaf that does not know everybody asked this client for, until somebody has answered.
	Asked *askedRecord `json:"asked,omitempty"`
	// External says that the leaf came in by external commit, Shown that it, or a member for it, showed whose it is, rightly or not.
	External bool `json:"external,omitempty"`
	Shown    bool `json:"shown,omitempty"`
	// Adder is the client pseudonym of the leaf that added this one without the link key that opens its identity link.
	Adder string `json:"adder,omitempty"`
	// Place is the leaf's entry's place in the log; 0 if it was there first, as this client sees it.
	Place uint64 `json:"place,omitempty"`
}

// stagedRecord is an own commit that may have left. It is stored before it leaves; what becomes of it is seen in the log.
type stagedRecord struct {
	Task    string `json:"task"`
	Request []byte `json:"request"`
	Commit  []byte `json:"commit"` // mls.StagedCommit
	Message []byte `json:"message"`
	// Own is the own leaf that the commit makes anew, if it does.
	Own  *leafSecrets `json:"own,omitempty"`
	Adds []string     `json:"adds,omitempty"` // the users whom it adds
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
	Since   int64  `json:"since,omitempty"` // when it was first put off
	Said    string `json:"said,omitempty"`  // why, as it was said last
	Request []byte `json:"request,omitempty"`
	Commit  []byte `json:"commit,omitempty"`
	Proof   []byte `json:"proof,omitempty"`
	Info    []byte `json:"info,omitempty"`
	Tries   int    `json:"tries,omitempty"`
	// Damaged says that the ratchet state was found missing or unreadable, and that this is still to be said.
	Damaged bool `json:"damaged,omitempty"`
	// Blame is the commit that could not be processed, if its author or the hub is at fault.
	Blame *blameRecord `json:"blame,omitempty"`
}

// group is a groupRecord ready for use.
type group struct {
	rec   *groupRecord
	id    mimimi.GroupID
	mls   *mls.Group    // nil while joining, when over, and with lost
	rules *mimimi.State // nil with mls, but not with lost
	own   *ownPackage   // leaf secrets; nil until there is a leaf
	// lost is the public state of a group whose ratchet state is gone, as far as it was followed: a resync goes on from there (§7).
	lost *mls.PublicGroup

	staged *mls.StagedCommit // rec.Staged, once it was needed; ownCommit checks that it is that

	// What the store holds of the large parts, to see whether they have changed. After a transaction that failed, nobody uses the group any more.
	storedRoster []byte
	storedPublic *mls.PublicGroup
}

// pastEpochs bounds how many epochs' message keys are kept; those of epochs whose messages cannot count any more are erased earlier (forgetKeys).
const pastEpochs = 128

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
	roster, stored, err := readRoster(tx, rec)
	if err != nil {
		return nil, err
	}
	g.storedRoster = stored
	if leaf, found, err := read[leafSecrets](tx, bucketLeaves, []byte(id)); err != nil {
		return nil, err
	} else if found {
		if g.own, err = parseOwnPackage(leaf.Package, leaf.Secrets, leaf.LinkKey, leaf.Queue); err != nil {
			return nil, err
		}
	}
	return g, g.loadState(tx, roster.Rules)
}

// loadState reads the MLS state. Where the private half is missing or damaged, the public one and the leaf's secrets are enough to enter anew; without these the
// group is damaged.
func (g *group) loadState(tx Tx, rules []byte) error {
	public, private := slices.Clone(tx.Get(bucketPublics, []byte(g.rec.ID))), slices.Clone(tx.Get(bucketRatchets, []byte(g.rec.ID)))
	if private == nil && !g.rec.inside() {
		return nil
	}
	var err error
	if g.rules, err = mimimi.ParseState(rules); err != nil {
		return errDamagedGroup
	}
	if g.own == nil {
		return errDamagedGroup
	}
	if g.mls, err = mls.ParseGroupParts(public, private, protocolRules()); err == nil {
		g.storedPublic = g.mls.Public()
		return nil
	}
	if g.lost, err = mls.ParsePublicGroup(public, protocolRules()); err != nil || g.rec.State == GroupLeaving || !g.rec.inside() {
		return errDamagedGroup
	}
	g.mls, g.storedPublic = nil, g.lost
	if g.rec.Resync == nil {
		g.rec.Resync = &resyncState{Damaged: true}
	}
	return nil
}

// inside says whether the client has a leaf in the group, as far as it knows.
func (r *groupRecord) inside() bool {
	switch r.State {
	case GroupActive, GroupLeaving:
		return true
	case GroupJoining:
		return r.Create == nil && r.Welcome == nil && (r.Join == nil || r.Join.Entered)
	}
	return false
}

// member says whether the client has a leaf in the group, be its state lost or not.
func (g *group) member() bool { return g.mls != nil || g.lost != nil }

// public is the group's public state as far as it was followed.
func (g *group) public() *mls.PublicGroup {
	if g.mls != nil {
		return g.mls.Public()
	}
	return g.lost
}

// readRoster reads a group's roster and gives its record the leaves, which it is stored without. stored is the roster as it is stored.
func readRoster(tx Tx, rec *groupRecord) (roster rosterRecord, stored []byte, err error) {
	if stored = slices.Clone(tx.Get(bucketRosters, []byte(rec.ID))); stored != nil && json.Unmarshal(stored, &roster) != nil {
		return roster, nil, errDamagedGroup
	}
	if rec.Leaves = roster.Leaves; rec.Leaves == nil {
		rec.Leaves = make(map[uint32]*leafRecord)
	}
	return roster, stored, nil
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
		g.mls, g.lost, g.rules, g.own = nil, nil, nil, nil
		g.rec.Staged, g.rec.Tasks, g.rec.Outgoing, g.rec.Held, g.rec.Invitations = nil, nil, nil, nil, nil
		g.rec.Bans, g.rec.Missing = nil, nil
		g.rec.Create, g.rec.Join, g.rec.Welcome, g.rec.Resync, g.rec.Others, g.rec.Heard = nil, nil, nil, nil, nil, nil
		for _, l := range g.rec.Leaves {
			l.LinkKey, l.Secret = nil, nil
		}
	}
	if g.rec.Devices {
		c.noteOwn(g)
	}
	errs := []error{g.putRoster(tx), write(tx, bucketGroups, id, g.rec)}
	if g.rec.State != GroupOver || tx.Get(bucketGroupIDs, g.rec.GroupID) == nil { // one may be in a group again
		errs = append(errs, tx.Put(bucketGroupIDs, g.rec.GroupID, id))
	}
	if g.mls != nil {
		errs = append(errs, tx.Put(bucketRatchets, id, g.mls.MarshalPrivate()))
	} else {
		errs = append(errs, tx.Delete(bucketRatchets, id))
	}
	switch public := g.public(); {
	case public == nil:
		errs = append(errs, tx.Delete(bucketPublics, id))
	case public != g.storedPublic:
		errs = append(errs, tx.Put(bucketPublics, id, public.Marshal()))
	}
	g.storedPublic = g.public()
	if g.own != nil {
		leaf, err := g.own.leaf()
		errs = append(errs, err, write(tx, bucketLeaves, id, leaf))
	} else {
		errs = append(errs, tx.Delete(bucketLeaves, id))
	}
	return errors.Join(errs...)
}

// putRoster stores the members if they have changed.
func (g *group) putRoster(tx Tx) error {
	users := make(map[string]bool)
	for _, l := range g.rec.Leaves {
		users[l.UserPseudonym] = true
	}
	g.rec.Users = len(users)
	roster := rosterRecord{Leaves: g.rec.Leaves}
	if g.rules != nil {
		roster.Rules = g.rules.Marshal()
	}
	b, err := json.Marshal(roster)
	if err != nil || bytes.Equal(b, g.storedRoster) {
		return err
	}
	g.storedRoster = b
	return tx.Put(bucketRosters, []byte(g.rec.ID), b)
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
		return errors.Join(tx.Delete(bucketGroups, id), tx.Delete(bucketRosters, id), tx.Delete(bucketPublics, id), tx.Delete(bucketRatchets, id),
			tx.Delete(bucketLeaves, id))
	})
	delete(c.groups, g.rec.ID)
	return err
}

// over ends a group for this client.
func (c *Client) over(tx Tx, g *group, sentence string, at int64) error {
	if g.rec.State == GroupOver {
		return nil
	}
	g.rec.State, g.rec.Early = GroupOver, nil
	if g.rec.Devices {
		return c.cutOff(tx, g.rec.Leaves)
	}
	if g.rec.hidden() {
		return c.voidAsk(tx, g)
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
		if entered != 0 {
			g.rec.Leaves[m.Index].Place = g.rec.Last
		}
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
	case g.rec.Refused:
		return ErrRefused
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
