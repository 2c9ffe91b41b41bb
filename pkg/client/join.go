package client

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// createRecord is a group in the making. Claim and create repeat their request ids after a crash.
type createRecord struct {
	Claim   []byte        `json:"claim"`
	Request []byte        `json:"request"`
	Policy  *policyRecord `json:"policy,omitempty"` // what differs from the default
	Info    []byte        `json:"info,omitempty"`
	Tree    []byte        `json:"tree,omitempty"`
	Sent    bool          `json:"sent,omitempty"`
}

// joinRecord is an entry by external commit under way (§7).
type joinRecord struct {
	Secret   []byte            `json:"secret"`
	LinkKeys map[uint32][]byte `json:"link_keys,omitempty"` // of the inviter's leaves, from a link
	PeerKey  []byte            `json:"peer_key,omitempty"`  // connection key, from a connection request
	Mixed    bool              `json:"mixed,omitempty"`     // the invitation's policy allows unidentified members
	Claim    []byte            `json:"claim"`
	Tries    int               `json:"tries,omitempty"`
	Request  []byte            `json:"request,omitempty"`
	Commit   []byte            `json:"commit,omitempty"` // mls.StagedCommit
	Message  []byte            `json:"message,omitempty"`
	Before   []byte            `json:"before,omitempty"`   // mimimi.State of the group that is entered
	Entered  bool              `json:"entered,omitempty"`  // the commit is in the log: the links are to be exchanged
	ShownIn  *uint64           `json:"shown_in,omitempty"` // the epoch in which the own link was shown last
	Answered bool              `json:"answered,omitempty"` // the members' links came: this client is identified by them
	Inviters []uint32          `json:"inviters,omitempty"` // leaves identified by the invitation: the inviter's, or all members'
	KPRef    []byte            `json:"kp_ref,omitempty"`   // of the own set that was claimed
}

// welcomeRecord is a Welcome whose group cannot be entered before its tree is fetched.
type welcomeRecord struct {
	Message  []byte `json:"message"`
	Ref      []byte `json:"ref"`
	Epoch    uint64 `json:"epoch"`
	Sequence uint64 `json:"sequence"`
	Accepted int64  `json:"accepted"`
	Received int64  `json:"received,omitempty"`
}

// newLocalID returns a group's name within this client: it says nothing about the group.
func newLocalID() string { return hex.EncodeToString(newRequestID()[:6]) }

// newGroup stores a group that is to be made or entered, together with what also does.
func (c *Client) newGroup(rec *groupRecord, also ...func(tx Tx) error) (*group, error) {
	rec.ID, rec.State, rec.Created = newLocalID(), GroupJoining, c.now().Unix()
	rec.Leaves = make(map[uint32]*leafRecord)
	id, err := mimimi.ParseGroupID(rec.GroupID)
	if err != nil {
		return nil, err
	}
	g := &group{rec: rec, id: id}
	err = c.change(g, func(tx Tx) error {
		for _, f := range also {
			if err := f(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.groups[rec.ID] = g
	return g, nil
}

// defaultPolicy is that of a new group: its creator is the only admin.
func defaultPolicy(creator mimimi.UserPseudonym) *mimimi.Policy {
	return &mimimi.Policy{
		Version: 1, Admins: []mimimi.UserPseudonym{creator},
		MayAdd: mimimi.RoleMember, MayRemove: mimimi.RoleAdmin, MayInvite: mimimi.RoleMember,
		ExternalJoins: true, LastResort: true, MaxLeaves: maxLeaves,
	}
}

// maxLeaves is the protocol's largest group.
const maxLeaves = 1000

// create makes a group (§8, §9): claims an own set, makes the group of it and stores it, and offers it to the hub. Each step is stored first, so
// that a repeat after a crash repeats it with the same request id and the same bytes.
func (c *Client) create(ctx context.Context, g *group) error {
	if g.mls == nil {
		if err := c.makeGroup(ctx, g); err != nil {
			return err
		}
	}
	hub, err := c.hub(ctx, g.id.Domain())
	if err != nil {
		return err
	}
	r := g.rec.Create
	var res *mimimiv1.CreateGroupResponse
	err = c.spend(ctx, mimimi.TokenGroup, g.id.Domain(), r.Request, func(token []byte) (err error) {
		res, err = call(ctx, hub.CreateGroup, &mimimiv1.CreateGroupRequest{RequestId: r.Request, GroupInfo: r.Info, RatchetTree: r.Tree, Token: token})
		return err
	})
	if err != nil {
		return fmt.Errorf("create group: %w", err)
	}
	return c.change(g, func(tx Tx) error {
		g.rec.Create, g.rec.State, g.rec.Last = nil, GroupActive, res.Sequence
		return c.bringOthers(tx, g, true)
	})
}

func (c *Client) makeGroup(ctx context.Context, g *group) error {
	own, others, err := c.claimOwn(ctx, g.rec.Create.Claim)
	if err != nil {
		return err
	}
	cred, err := mimimi.ParsePseudonymousCredential(own.kp.Leaf().Credential())
	if err != nil {
		return err
	}
	policy := defaultPolicy(cred.UserPseudonym)
	if change := g.rec.Create.Policy; change != nil {
		change.apply(policy)
	}
	made, err := mls.NewGroup(mls.GroupConfig{
		GroupID: g.rec.GroupID, KeyPackage: own.kp, Secrets: &own.secrets,
		Extensions: mimimi.GroupExtensions(policy), Rules: protocolRules(), PastEpochs: pastEpochs,
	})
	if err != nil {
		return fmt.Errorf("make group: %w", err)
	}
	return c.change(g, func(tx Tx) error {
		g.mls, g.own, g.rec.Others = made, own, others
		exts, err := hubExtensions(made)
		if err != nil {
			return err
		}
		if g.rec.Create.Info, err = made.GroupInfo(exts, false); err != nil {
			return err
		}
		g.rec.Create.Tree = made.Public().Tree()
		g.rec.Epochs = mimimi.NewEpochs(0).Records()
		if g.rules, err = mimimi.NewState(made.Public(), c.now()); err != nil {
			return err
		}
		if err := g.syncLeaves(0); err != nil {
			return err
		}
		return errors.Join(c.nameSelf(g), c.usePackage(tx, own.kp.Ref()))
	})
}

// nameSelf makes the own leaf identified.
func (c *Client) nameSelf(g *group) error {
	r := g.rec.Leaves[g.mls.OwnIndex()]
	if r == nil {
		return errDamagedGroup
	}
	a := c.account
	r.User, r.Client, r.Fingerprint, r.LinkKey = a.rec.User, a.rec.Client, a.certificate.Fingerprint(), g.own.linkKey.Bytes()
	g.rec.Queue = g.own.queue
	return nil
}

// join enters a group by external commit (§7): it takes an own set, checks what the hub shows of the group, and offers the commit, which is stored first.
// When the hub has it, the links are exchanged. A stale one is made anew.
func (c *Client) join(ctx context.Context, g *group) error {
	j := g.rec.Join
	if g.own == nil {
		own, others, err := c.claimOwn(ctx, j.Claim)
		if err != nil {
			return err
		}
		err = c.change(g, func(Tx) error {
			g.own, g.rec.Others, j.KPRef = own, others, own.kp.Ref()
			return nil
		})
		if err != nil {
			return err
		}
	}
	if j.Commit == nil {
		if j.Tries >= maxCommitTries {
			return ErrBusy
		}
		if err := c.makeJoin(ctx, g); err != nil {
			return err
		}
	}
	return c.sendJoin(ctx, g)
}

// secret returns the invite secret.
func (j *joinRecord) secret() (mimimi.InviteSecret, error) {
	s, err := mimimi.InviteSecretFrom(j.Secret)
	if err != nil {
		return s, errDamagedGroup
	}
	return s, nil
}

// makeJoin fetches the group for the join token, checks it and stores the commit.
func (c *Client) makeJoin(ctx context.Context, g *group) error {
	j := g.rec.Join
	secret, err := j.secret()
	if err != nil {
		return err
	}
	hub, err := c.hub(ctx, g.id.Domain())
	if err != nil {
		return err
	}
	res, err := call(ctx, hub.GetGroup, &mimimiv1.GetGroupRequest{
		GroupId: g.rec.GroupID, Proof: &mimimiv1.Proof{JoinToken: secret.JoinToken().Bytes()},
	})
	if err != nil {
		return fmt.Errorf("get group: %w", err)
	}
	public, err := mls.NewPublicGroup(res.GroupInfo, res.RatchetTree, protocolRules())
	if err != nil || string(public.GroupID()) != string(g.rec.GroupID) {
		return ErrBadInvitation
	}
	if err := c.meet(ctx, public.Members()); err != nil {
		return err
	}
	inviters, err := c.recognize(g, public, res.GroupInfo)
	if err != nil {
		return err
	}
	before, err := mimimi.NewState(public, c.now())
	if err != nil {
		return ErrBadInvitation
	}
	staged, err := mls.JoinExternal(mls.ExternalJoinConfig{
		GroupInfo: res.GroupInfo, Tree: res.RatchetTree, Pending: res.PendingProposals, KeyPackage: g.own.kp, Secrets: &g.own.secrets,
		HubExtensions: hubExtensions, Rules: protocolRules(), PastEpochs: pastEpochs,
	})
	if err != nil {
		return fmt.Errorf("make external commit: %w", err)
	}
	return c.change(g, func(Tx) error {
		j.Commit, j.Message, j.Before, j.Request = staged.Marshal(), staged.Message, before.Marshal(), newRequestID()
		j.Inviters = inviters
		j.Tries++
		return nil
	})
}

// recognize finds the leaves that are the inviter's: by the link keys of the invitation, or by the connection key of the requester, who must have signed
// the GroupInfo too (§5). Without one the group may be of the hub's own making.
func (c *Client) recognize(g *group, public *mls.PublicGroup, groupInfo []byte) (inviters []uint32, err error) {
	j := g.rec.Join
	gi, err := public.CheckGroupInfo(groupInfo)
	if err != nil {
		return nil, ErrBadInvitation
	}
	if err := checkFixedPolicy(public, j.Mixed); err != nil {
		return nil, err
	}
	err = c.view(func(tx Tx) error {
		for _, m := range public.Members() {
			key, ok := j.linkKey(m)
			if !ok {
				continue
			}
			cert, err := identifyLive(tx, m.Leaf, key, timeZero)
			if errors.Is(err, ErrIdentity) || errors.Is(err, errUnmet) {
				continue
			}
			if err != nil {
				return err
			}
			if g.rec.Peer == "" || cert.User.Wire() == g.rec.Peer {
				inviters = append(inviters, m.Index)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(inviters) == 0 || g.rec.Peer != "" && !slices.Contains(inviters, gi.Signer) {
		return nil, ErrBadInvitation
	}
	return inviters, nil
}

// linkKey is what the invitation says of a leaf.
func (j *joinRecord) linkKey(m mls.Member) (mimimi.LinkKey, bool) {
	if b, ok := j.LinkKeys[m.Index]; ok {
		k, err := mimimi.LinkKeyFrom(b)
		return k, err == nil
	}
	key, err := mimimi.ConnectionKeyFrom(j.PeerKey)
	if err != nil {
		return mimimi.LinkKey{}, false
	}
	cred, err := mimimi.ParsePseudonymousCredential(m.Leaf.Credential())
	if err != nil {
		return mimimi.LinkKey{}, false
	}
	return cred.LinkKey(key), true
}

// checkFixedPolicy compares what never changes in a group with what the invitation said.
func checkFixedPolicy(public *mls.PublicGroup, mixed bool) error {
	data, ok := public.Extension(mimimi.ExtensionGroup)
	if !ok {
		return ErrBadInvitation
	}
	p, err := mimimi.ParsePolicy(data)
	if err != nil || p.UnidentifiedMembers != mixed || mixed {
		return ErrBadInvitation // this version enters only groups whose members are all identified
	}
	return nil
}

// sendJoin offers the stored external commit.
func (c *Client) sendJoin(ctx context.Context, g *group) error {
	j := g.rec.Join
	secret, err := j.secret()
	if err != nil {
		return err
	}
	staged, err := mls.ParseStagedCommit(j.Commit, protocolRules())
	if err != nil {
		return errDamagedGroup
	}
	hub, err := c.hub(ctx, g.id.Domain())
	if err != nil {
		return err
	}
	res, err := call(ctx, hub.Commit, &mimimiv1.CommitRequest{
		RequestId: j.Request, GroupId: g.rec.GroupID, Commit: staged.Message, GroupInfo: staged.GroupInfo, JoinToken: secret.JoinToken().Bytes(),
	})
	switch {
	case err == nil:
		return c.joined(g, res.Sequence, res.Accepted, 0)
	case isStale(err):
		return c.change(g, func(Tx) error {
			j.Commit, j.Message, j.Before, j.Request = nil, nil, nil, nil
			return nil
		})
	}
	return fmt.Errorf("join: %w", err)
}

// joined takes note that the own external commit has its place in the log.
func (c *Client) joined(g *group, sequence uint64, accepted int64, position uint64) error {
	j := g.rec.Join
	staged, err := mls.ParseStagedCommit(j.Commit, protocolRules())
	if err != nil {
		return errDamagedGroup
	}
	before, err := mimimi.ParseState(j.Before)
	if err != nil {
		return errDamagedGroup
	}
	accepted = c.boundAhead(accepted)
	next, err := before.CheckCommit(staged.Change, timeOf(accepted))
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	return c.change(g, func(tx Tx) error {
		if err := (*mls.Group)(nil).Merge(staged); err != nil {
			return fmt.Errorf("join: %w", err)
		}
		g.mls, g.rules, g.rec.Last = staged.Group(), next, sequence
		g.rec.Epochs = mimimi.NewEpochs(staged.Change.Epoch).Records()
		j.Commit, j.Message, j.Before, j.Request, j.Entered = nil, nil, nil, nil, true
		if err := errors.Join(g.syncLeaves(0), c.nameSelf(g), c.usePackage(tx, j.KPRef)); err != nil {
			return err
		}
		for _, i := range j.Inviters {
			m, ok := g.mls.Public().Member(i)
			if !ok {
				continue
			}
			if key, ok := j.linkKey(mls.Member{Index: i, Leaf: m}); ok {
				if err := c.learn(tx, g, i, key, timeZero, false); err != nil {
					return err
				}
			}
		}
		return errors.Join(setPosition(tx, position), c.entered(tx, g))
	})
}

// receiveWelcome stores a Welcome for one of the own KeyPackages, and enters the group if its hub can be reached now. Any other is dropped in silence.
func (c *Client) receiveWelcome(ctx context.Context, d *mimimiv1.Delivery, position uint64) error {
	ref, waiting, err := c.welcomeRef(d)
	if err != nil {
		return err
	}
	if ref == nil || waiting >= maxWelcomes {
		return c.pass(position)
	}
	g, err := c.newGroup(&groupRecord{GroupID: d.GroupId, Welcome: c.newWelcome(d, ref), Devices: bytes.Equal(d.GroupId, c.account.rec.DeviceGroup)})
	if err != nil {
		return c.pass(position) // no group id
	}
	// A crash here leaves the Welcome stored and the queue entry to come again, which then finds the group.
	if err := c.pass(position); err != nil {
		return err
	}
	if err := c.welcome(ctx, g); err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return nil // what failed is tried again by work
}

func (c *Client) newWelcome(d *mimimiv1.Delivery, ref []byte) *welcomeRecord {
	return &welcomeRecord{Message: d.Message, Ref: ref, Epoch: d.Epoch, Sequence: d.Sequence, Accepted: c.boundAhead(d.Accepted), Received: c.now().Unix()}
}

// welcomeRef returns which of the own KeyPackages a Welcome is for, nil if for none, and how many Welcomes wait for their trees.
func (c *Client) welcomeRef(d *mimimiv1.Delivery) (ref []byte, waiting int, err error) {
	refs, err := mls.WelcomeRefs(d.Message)
	if err != nil {
		return nil, 0, nil // anybody may send what is none
	}
	err = c.view(func(tx Tx) error {
		for _, r := range refs {
			if tx.Get(bucketPackages, r) != nil {
				ref = r
			}
		}
		return each(tx, bucketGroups, func(_ []byte, r *groupRecord) error {
			if r.Welcome != nil {
				waiting++
			}
			return nil
		})
	})
	return ref, waiting, err
}

// keepWelcome handles a Welcome to a group that this client is in, or on its way into, as far as it knows. If it is a later one, then the client was removed and added
// again while it could not follow: it is kept until the log, or the hub's refusal to show it, has told the end of the first membership.
func (c *Client) keepWelcome(g *group, d *mimimiv1.Delivery, position uint64) error {
	last := g.rec.Last
	if w := g.rec.Welcome; w != nil {
		last = max(last, w.Sequence)
	}
	ref, _, err := c.welcomeRef(d)
	if err != nil {
		return err
	}
	if ref == nil || d.Sequence <= last || g.rec.Again != nil && d.Sequence <= g.rec.Again.Sequence {
		return c.pass(position)
	}
	return c.change(g, func(tx Tx) error {
		g.rec.Again, g.rec.Behind = c.newWelcome(d, ref), true
		if g.mls != nil { // the log can be read; otherwise it is the resync that finds the leaf gone
			g.rec.Resync = nil
		}
		return setPosition(tx, position)
	})
}

// enterAgain begins the membership of a kept Welcome, now that the first one is known to be over.
func (c *Client) enterAgain(ctx context.Context, g *group) error {
	next, err := c.newGroup(&groupRecord{GroupID: g.rec.GroupID, Name: g.rec.Name, NameNumber: g.rec.NameNumber, Devices: g.rec.Devices, Welcome: g.rec.Again, Behind: true}, func(tx Tx) error {
		g.rec.Again = nil
		return c.putGroup(tx, g)
	})
	if err != nil {
		return err
	}
	return c.work(ctx, next.rec.ID)
}

// welcome enters a group by its stored Welcome: fetches the tree of its epoch, opens it, and accepts it only from a contact, with the right key for
// the own leaf (§6). Otherwise it is dropped in silence.
func (c *Client) welcome(ctx context.Context, g *group) error {
	w := g.rec.Welcome
	own, found, err := c.takePackage(w.Ref)
	if err != nil {
		return err
	}
	if !found {
		return c.dropGroup(g)
	}
	hub, err := c.hub(ctx, g.id.Domain())
	if err != nil {
		return err
	}
	res, err := call(ctx, hub.GetTree, &mimimiv1.GetTreeRequest{
		GroupId: g.rec.GroupID, Epoch: w.Epoch, Sequence: w.Sequence, Proof: c.packageProof(g.id, own, w.Epoch, mimimi.OpReadTree, nil),
	})
	if err != nil {
		if isFinal(err) {
			werr := c.update(func(tx Tx) error {
				return c.warn(tx, "", "a group that somebody added you to could not be entered")
			})
			return errors.Join(fmt.Errorf("get tree: %w", err), werr, c.dropGroup(g))
		}
		return fmt.Errorf("get tree: %w", err)
	}
	made, info, err := mls.Join(mls.JoinConfig{Welcome: w.Message, Tree: res.RatchetTree, KeyPackage: own.kp, Secrets: &own.secrets,
		Rules: protocolRules(), PastEpochs: pastEpochs})
	if err != nil || string(made.Public().GroupID()) != string(g.rec.GroupID) || made.Epoch() != w.Epoch {
		return c.dropGroup(g)
	}
	keys, ok := welcomeKeys(info, made, own)
	if !ok {
		return c.dropGroup(g)
	}
	rules, err := mimimi.NewState(made.Public(), timeOf(w.Accepted))
	if err != nil || checkFixedPolicy(made.Public(), false) != nil {
		return c.dropGroup(g)
	}
	if err := c.meet(ctx, made.Public().Members()); err != nil {
		return err
	}
	shared, wait, ok, err := c.mayEnter(g, made, info.Signer, keys)
	switch {
	case err != nil:
		return err
	case wait:
		c.waiting[g.rec.ID] = c.applied
		return nil
	case !ok:
		if len(c.own) > 1 { // the others may know whose it is, and add this client anew
			if err := c.update(c.askDevices); err != nil {
				return err
			}
		}
		return c.dropGroup(g)
	}
	return c.change(g, func(tx Tx) error {
		if shared != nil {
			g.rec.Peer, g.rec.Name, g.rec.NameNumber, g.rec.Made = shared.Peer, shared.Name, shared.Number, shared.Made
		}
		g.mls, g.rules, g.own, g.rec.Last, g.rec.Welcome = made, rules, own, w.Sequence, nil
		g.rec.Epochs = mimimi.NewEpochs(w.Epoch).Records()
		if err := errors.Join(g.syncLeaves(0), c.nameSelf(g), c.usePackage(tx, w.Ref)); err != nil {
			return err
		}
		if err := c.learnAll(tx, g, keys); err != nil {
			return err
		}
		c.lacks(g)
		return c.entered(tx, g)
	})
}

// welcomeKeys returns the link keys that came with a Welcome, if the one for the own leaf is right.
func welcomeKeys(info *mls.GroupInfo, made *mls.Group, own *ownPackage) ([]*mimimi.LinkKey, bool) {
	data, ok := info.Extension(mimimi.ExtensionIdentityLinks)
	if !ok {
		return nil, false
	}
	keys, err := mimimi.ParseIdentityLinks(data)
	if err != nil || int(made.OwnIndex()) >= len(keys) || int(info.Signer) >= len(keys) {
		return nil, false
	}
	k := keys[made.OwnIndex()]
	return keys, k != nil && k.Equal(own.linkKey) && keys[info.Signer] != nil
}
