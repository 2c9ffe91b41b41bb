package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

func timeOf(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }

// maxResyncPause bounds the random time before a client that lost its state enters anew, so that many who lost it by one commit do not do so at once.
const maxResyncPause = 5 * time.Second

// setPosition stores the queue position of what a transaction processed. 0: it did not come from the queue.
func setPosition(tx Tx, position uint64) error {
	if position == 0 {
		return nil
	}
	return tx.Put(bucketMeta, keyPosition, bigEndian(position))
}

// pass stores a queue position past something that needs nothing done.
func (c *Client) pass(position uint64) error {
	if position == 0 {
		return nil
	}
	return c.update(func(tx Tx) error { return setPosition(tx, position) })
}

// deliver handles one queue entry, in whatever order and however often it comes. When it returns nil, everything that came of it is stored, with
// position.
func (c *Client) deliver(ctx context.Context, d *mimimiv1.Delivery, position uint64) error {
	local, found, err := c.groupByID(d.GroupId)
	if err != nil {
		return err
	}
	var g *group
	if found {
		if g, err = c.group(local); err != nil {
			return err
		}
	}
	switch {
	case d.Kind == mimimiv1.Delivery_KIND_WELCOME:
		if found && g.rec.State != GroupOver {
			return c.keepWelcome(g, d, position)
		}
		return c.receiveWelcome(ctx, d, position)
	case !found || g.rec.State == GroupOver && g.rec.Again == nil:
		return c.pass(position)
	case g.rec.Again != nil:
		return c.pass(position) // it belongs to the membership that begins there, which reads it from the log
	case !g.member():
		if j := g.rec.Join; j != nil && d.Kind == mimimiv1.Delivery_KIND_COMMIT && bytes.Equal(d.Message, j.Message) {
			return c.joined(g, d.Sequence, d.Accepted, position)
		}
		return c.fallBehind(g, position) // it is read from the log when the own entry is complete
	case g.rec.Resync != nil:
		return c.pass(position) // the entry anew goes over all of it
	}
	if d.Previous > g.rec.Last && d.Sequence > g.rec.Last {
		before := g.rec.Last
		err := c.catchUp(ctx, g)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && (!isFinal(err) || problem.KindOf(err) == problem.Denied):
			return c.keepEarly(g, d, position) // one hub that is down must not hold up the others' groups, nor one that gives too little
		case g.rec.State == GroupOver:
			return c.pass(position)
		case d.Previous > g.rec.Last && g.rec.Last > before:
			return c.fallBehind(g, position) // there is more than is read in one go
		}
	}
	if err := c.receive(ctx, g, d, position); err != nil || len(g.rec.Early) == 0 {
		return err
	}
	return c.receiveEarly(ctx, g, position)
}

// fallBehind passes over an entry that cannot be processed now: the log has it.
func (c *Client) fallBehind(g *group, position uint64) error {
	return c.change(g, func(tx Tx) error {
		g.rec.Behind = true
		return setPosition(tx, position)
	})
}

// receive handles one entry of a group's log that follows what is processed: repeats are passed over. One transaction stores everything: the new
// state, the events, the queue position.
func (c *Client) receive(ctx context.Context, g *group, d *mimimiv1.Delivery, position uint64) error {
	if d.Sequence <= g.rec.Last || g.rec.State == GroupOver || g.rec.Resync != nil {
		return c.pass(position)
	}
	d, err := c.bounded(g, d)
	if err != nil {
		return err
	}
	g.forgetKeys(d.Accepted)
	if g.leaves(d) {
		return c.change(g, func(tx Tx) error {
			g.rec.Last = d.Sequence
			var told error
			if g.rec.LeaveAt == 0 && !g.rec.Idle {
				told = c.shareLeft(tx, g)
			}
			return errors.Join(told, c.over(tx, g, leftSentence, d.Accepted), setPosition(tx, position))
		})
	}
	switch {
	case !fits(d) && d.Kind == mimimiv1.Delivery_KIND_COMMIT:
		return c.cannotProcess(g, d, position, errRefused)
	case !fits(d):
		return c.change(g, func(tx Tx) error {
			g.rec.Last = d.Sequence
			return errors.Join(c.warn(tx, g.rec.ID, misdelivered), setPosition(tx, position))
		})
	case d.Kind == mimimiv1.Delivery_KIND_COMMIT:
		return c.receiveCommit(ctx, g, d, position)
	case g.isAhead(d):
		return c.ahead(g, position)
	}
	if d.Kind == mimimiv1.Delivery_KIND_MESSAGE && !g.identified() {
		if err := c.meet(ctx, g.mls.Public().Members()); err != nil { // it may hold link keys
			return err
		}
	}
	return c.change(g, func(tx Tx) error {
		var err error
		if d.Previous > g.rec.Last {
			err = c.leftOut(tx, g)
		}
		switch d.Kind {
		case mimimiv1.Delivery_KIND_MESSAGE:
			err = errors.Join(err, c.receiveMessage(tx, g, d))
		case mimimiv1.Delivery_KIND_PROPOSAL:
			err = errors.Join(err, c.receiveProposal(tx, g, d))
		}
		g.rec.Last = d.Sequence
		return errors.Join(err, setPosition(tx, position))
	})
}

// fits says whether an entry's message is what the entry says it is, in kind, wire format and epoch: what counts, and what rules are asked, must not hang on
// the hub's word.
func fits(d *mimimiv1.Delivery) bool {
	const public, private = 1, 2 // wire formats, RFC 9420 §17.2
	const application, proposal, commit = 1, 2, 3
	m, err := mls.Peek(d.Message)
	if err != nil {
		return false
	}
	switch d.Kind {
	case mimimiv1.Delivery_KIND_COMMIT:
		return m.WireFormat == public && m.ContentType == commit
	case mimimiv1.Delivery_KIND_PROPOSAL:
		return m.WireFormat == public && m.ContentType == proposal
	case mimimiv1.Delivery_KIND_MESSAGE:
		return m.WireFormat == private && m.ContentType == application && m.Epoch == d.Epoch
	}
	return false
}

// leaves says whether an entry is the own self_remove, or comes after it. The log may show it before the hub's answer does.
func (g *group) leaves(d *mimimiv1.Delivery) bool {
	if g.rec.LeaveAt != 0 {
		return d.Sequence >= g.rec.LeaveAt
	}
	return d.Kind == mimimiv1.Delivery_KIND_PROPOSAL && slices.ContainsFunc(g.rec.Tasks, func(t *task) bool {
		return t.Kind == taskLeave && t.Message != nil && bytes.Equal(t.Message, d.Message)
	})
}

// receiveProposal takes note of a standalone proposal, which the next commit must take up.
func (c *Client) receiveProposal(tx Tx, g *group, d *mimimiv1.Delivery) error {
	got, err := g.mls.Process(d.Message, mls.ProcessOptions{Now: timeOf(d.Accepted)})
	if err != nil || got.Proposal == nil {
		return c.warn(tx, g.rec.ID, "a proposal could not be read")
	}
	if err := g.rules.CheckProposal(g.mls.Public(), got.Proposal); err != nil {
		return c.warn(tx, g.rec.ID, "the group's hub took a proposal that breaks a rule")
	}
	if r := g.rec.Leaves[got.Proposal.Sender.Leaf]; r != nil && got.Proposal.Type == mls.ProposalSelfRemove {
		r.Leaving = true
	}
	if g.rec.PendingSince == 0 {
		g.rec.PendingSince = c.now().Unix()
	}
	return c.checkPeer(tx, g)
}

// receiveCommit handles a commit: the own one that was stored, or another's, which overtakes it. It is checked by every rule that the hub should have
// checked and by those that only members can. The order: stage (changes nothing), meet the domains of new leaves (network), then one transaction.
func (c *Client) receiveCommit(ctx context.Context, g *group, d *mimimiv1.Delivery, position uint64) error {
	m, err := mls.Peek(d.Message)
	switch {
	case err != nil: // fits has seen it
	case m.Epoch > g.mls.Epoch():
		return c.withheld(g, position)
	case m.Epoch < g.mls.Epoch(): // of an epoch that is over: whoever takes it, it changes nothing
		return c.change(g, func(tx Tx) error {
			g.rec.Last = d.Sequence
			return errors.Join(c.warn(tx, g.rec.ID, misdelivered), setPosition(tx, position))
		})
	case m.Sender.Type == mls.SenderMember && !g.trusts(m.Sender.Leaf):
		return c.cannotProcess(g, d, position, errRefused) // before it is opened: nobody enters anew over one that must not be followed
	}
	staged, err := c.stagedFor(g, d)
	if err != nil {
		return c.cannotProcess(g, d, position, err)
	}
	next, err := g.rules.CheckCommit(staged.Change, timeOf(d.Accepted))
	if err != nil || !g.follows(staged.Change) {
		return c.cannotProcess(g, d, position, errRefused)
	}
	if staged.RemovesSelf() {
		return c.change(g, func(tx Tx) error {
			g.rec.Last = d.Sequence
			var removed error
			if g.rec.Devices {
				removed = c.removedHere(tx)
			}
			return errors.Join(removed, c.peerGone(tx, g), c.over(tx, g, removedSentence, d.Accepted), setPosition(tx, position))
		})
	}
	if err := c.meet(ctx, staged.Change.After.Members()); err != nil {
		return err
	}
	return c.change(g, func(tx Tx) error {
		return errors.Join(c.applyCommit(tx, g, d, staged, next), setPosition(tx, position))
	})
}

// stagedFor returns the commit of a delivery, staged: the stored one if it is the own.
func (c *Client) stagedFor(g *group, d *mimimiv1.Delivery) (*mls.StagedCommit, error) {
	if s := g.rec.Staged; s != nil && bytes.Equal(s.Message, d.Message) {
		return g.ownCommit()
	}
	got, err := g.mls.Process(d.Message, mls.ProcessOptions{Now: timeOf(d.Accepted)})
	if err != nil {
		return nil, err
	}
	if got.Commit == nil {
		return nil, mls.ErrMalformed
	}
	return got.Commit, nil
}

// errRefused says that a commit breaks a rule that the hub should have enforced.
var errRefused = errors.New("the hub accepted a commit that breaks a rule")

// follows says whether a commit comes from whom it may: an external joiner, or an identified leaf or its resync (§4).
func (g *group) follows(ch *mls.Change) bool {
	for i := range ch.Proposals {
		if p := &ch.Proposals[i]; p.ByReference && g.distrusted(p) {
			return false
		}
	}
	if old, ok := mimimi.Resync(ch); ok {
		return g.trusts(old)
	}
	return ch.Sender.Type != mls.SenderMember || g.trusts(ch.Sender.Leaf)
}

// trusts says whether a leaf is the own one or identified; or may still turn out to be, for one who comes in, or comes back, and finds it there.
func (g *group) trusts(leaf uint32) bool {
	if leaf == g.mls.OwnIndex() {
		return true
	}
	r := g.rec.Leaves[leaf]
	return r != nil && (r.User != "" || r.Entered == 0 && (g.rec.State == GroupJoining || g.rec.Missing != nil))
}

const misdelivered = "the group's hub delivered something that is not what it says: it is not read"

// withheld handles a commit before which something is missing. It stays where it is in the log, so that all can be followed once the hub gives it; the log is looked at again, later and later.
func (c *Client) withheld(g *group, position uint64) error {
	err := c.change(g, func(tx Tx) error {
		g.rec.Behind = true
		return errors.Join(c.leftOut(tx, g), setPosition(tx, position))
	})
	if err == nil && position == 0 {
		err = errWithheld
	}
	return err
}

// cannotProcess handles a commit that is in the log and cannot be followed. What the queue brought is looked for in the log first, since somebody between may have changed it, and what
// lacks something before it waits for that. A commit that breaks a rule is not followed: the group ends for this client, and
// it never enters anew over it. One that cannot be opened leads to a resync (§7).
func (c *Client) cannotProcess(g *group, d *mimimiv1.Delivery, position uint64, why error) error {
	switch {
	case position != 0:
		return c.fallBehind(g, position)
	case d.Previous > g.rec.Last:
		return c.withheld(g, 0)
	}
	refused := errors.Is(why, errRefused) || errors.Is(why, mls.ErrInvalid) || errors.Is(why, mimimi.ErrInvalid) || errors.Is(why, mimimi.ErrDenied)
	return c.change(g, func(tx Tx) error {
		if refused {
			return errors.Join(c.over(tx, g, "the group's hub accepted a change that breaks the protocol: it is not followed", d.Accepted),
				setPosition(tx, position))
		}
		c.scheduleResync(g)
		c.accuse(g, why)
		return errors.Join(c.warn(tx, g.rec.ID, "a change to the group could not be read: the group is entered anew"), setPosition(tx, position))
	})
}

// scheduleResync begins an entry anew: after a random time, and the later the more often that was in the last day.
func (c *Client) scheduleResync(g *group) {
	if g.rec.Resync == nil {
		pause := pauseAfter(len(lastDay(g.rec.Returns, c.now())), 1, pauseFirst, pauseMost)
		g.rec.Resync = &resyncState{Due: c.now().Add(rand.N(maxResyncPause) + pause).UnixNano()}
	}
}

// applyCommit puts a checked commit in force: link keys that it carries (under the key of the epoch that it ends), state, leaves, epochs, events.
func (c *Client) applyCommit(tx Tx, g *group, d *mimimiv1.Delivery, staged *mls.StagedCommit, next *mimimi.State) error {
	ch := staged.Change
	own := g.rec.Staged != nil && bytes.Equal(g.rec.Staged.Message, d.Message)
	var renewed *leafSecrets
	if own {
		g.added(g.rec.Staged, ch)
		renewed = g.rec.Staged.Own
	}
	g.rec.Staged, g.staged = nil, nil
	keys, err := g.openLinkUpdate(ch)
	if err != nil {
		return err
	}
	if err := g.mls.Merge(staged); err != nil {
		return fmt.Errorf("merge commit: %w", err)
	}
	g.rules, g.rec.Last, g.rec.PendingSince = next, d.Sequence, 0
	g.rec.Fruitless, g.rec.ReadAt = 0, 0
	epochs := g.epochs()
	epochs.Commit(ch.Epoch, d.Accepted, len(ch.Removed) > 0)
	g.rec.Epochs = epochs.Records()

	gone := g.takeGone(ch)
	if err := g.syncLeaves(d.Accepted); err != nil {
		return err
	}
	g.inherit(ch, gone)
	if r := g.rec.Leaves[ch.Committer.Index]; r != nil && ch.Sender.Type == mls.SenderNewMemberCommit && r.Place == d.Sequence {
		r.External = true
	}
	g.forgetReplaced(ch, d.Accepted)
	if err := c.takeRenewed(g, renewed); err != nil {
		return err
	}
	if err := c.tellGone(tx, g, ch, gone, d.Accepted); err != nil {
		return err
	}
	if err := c.learnFromCommit(tx, g, ch, keys, timeOf(d.Accepted)); err != nil {
		return err
	}
	if len(ch.Removed) > 0 && len(gone) > 0 {
		if err := c.voidInvitations(tx, g, gone); err != nil {
			return err
		}
	}
	for i, r := range g.rec.Leaves {
		r.Leaving = false
		if r.Told && !own && i != ch.Committer.Index {
			r.Answer, r.Told = false, false // another own client has let it in
		}
	}
	if err := c.peerChanged(tx, g); err != nil {
		return err
	}
	if own && len(ch.Added) > 0 {
		if err := c.tellNewcomers(tx, g); err != nil {
			return err
		}
	}
	if err := c.tellPolicy(tx, g, ch, d.Accepted); err != nil {
		return err
	}
	g.recount()
	if err := c.tellUnheard(tx, g); err != nil {
		return err
	}
	if err := c.checkDelivered(tx, g, d); err != nil {
		return err
	}
	if err := c.showHeld(tx, g); err != nil {
		return err
	}
	return errors.Join(c.entered(tx, g), c.checkPeer(tx, g))
}

// tellNewcomers has those whom an own commit added told what was said before they came.
func (c *Client) tellNewcomers(tx Tx, g *group) error {
	if g.rec.Peer != "" { // own clients
		if err := c.tellLink(tx, g); err != nil {
			return err
		}
	}
	if g.rec.Devices {
		g.rec.TellAll, g.rec.TellAllAt = true, 0
	}
	g.tellInvitations()
	return g.tellBans()
}

// openLinkUpdate returns the link keys in a commit, nil if it has none or they do not open: then its Adds stay unidentified.
func (g *group) openLinkUpdate(ch *mls.Change) (*mimimi.IdentityLinkKeys, error) {
	for _, p := range ch.Proposals {
		if p.Type != mimimi.ProposalIdentityLinkUpdate {
			continue
		}
		key, err := mimimi.NewLinkUpdateKey(g.mls)
		if err != nil {
			return nil, fmt.Errorf("open link keys: %w", err)
		}
		keys, err := key.Open(g.id, g.mls.Epoch(), ch.Sender.Leaf, ch.AddedRefs, p.Body)
		if err != nil || len(keys.Added) != len(ch.Added) {
			return nil, nil
		}
		return keys, nil
	}
	return nil, nil
}

// takeGone takes the records of the leaves that a commit removes.
func (g *group) takeGone(ch *mls.Change) map[uint32]*leafRecord {
	gone := make(map[uint32]*leafRecord)
	for _, m := range ch.Removed {
		if r := g.rec.Leaves[m.Index]; r != nil {
			gone[m.Index] = r
			delete(g.rec.Leaves, m.Index)
		}
	}
	return gone
}

// inherit gives a resynced leaf what was known of the one that it replaces: its credential is the same (§7). Such a leaf is not gone.
func (g *group) inherit(ch *mls.Change, gone map[uint32]*leafRecord) {
	old, ok := mimimi.Resync(ch)
	if !ok || gone[old] == nil {
		return
	}
	if r := g.rec.Leaves[ch.Committer.Index]; r != nil && r.ClientPseudonym == gone[old].ClientPseudonym {
		g.rec.Leaves[ch.Committer.Index] = gone[old]
		delete(gone, old)
	}
}

// tellGone makes the events for users whose last leaf has gone.
func (c *Client) tellGone(tx Tx, g *group, ch *mls.Change, gone map[uint32]*leafRecord, at int64) error {
	if g.rec.Devices {
		return c.tellDevicesGone(tx, g, gone)
	}
	if g.rec.Peer != "" {
		return nil
	}
	self := make(map[uint32]bool)
	for _, p := range ch.Proposals {
		if p.Type == mls.ProposalSelfRemove {
			self[p.Sender.Leaf] = true
		}
	}
	told := make(map[string]bool)
	for i, r := range gone {
		if r.User == "" || g.hasUser(r.User) || told[r.User] {
			continue
		}
		told[r.User] = true
		kind := EventRemoved
		if self[i] {
			kind = EventLeft
		}
		if err := c.addEvent(tx, eventRecord{Kind: kind, Group: g.rec.ID, User: r.User, Time: at}); err != nil {
			return err
		}
	}
	return nil
}

// learnFromCommit identifies the leaves that a commit added, and one that changed its credential.
func (c *Client) learnFromCommit(tx Tx, g *group, ch *mls.Change, keys *mimimi.IdentityLinkKeys, at time.Time) error {
	if err := c.accuseAdder(tx, g, ch, keys); err != nil || keys == nil {
		return err
	}
	for i, m := range ch.Added {
		if err := c.learn(tx, g, m.Index, keys.Added[i], at, true); err != nil {
			return err
		}
	}
	if keys.Own == nil || ch.Sender.Leaf == g.mls.OwnIndex() {
		return nil
	}
	return c.learn(tx, g, ch.Committer.Index, *keys.Own, at, true)
}

// forgetReplaced makes a leaf whose credential was replaced unidentified, until the link key that belongs into the same commit opens the new one (§4): what was
// known of the old credential says nothing of this one.
func (g *group) forgetReplaced(ch *mls.Change, at int64) {
	i := ch.Committer.Index
	old, had := ch.OldLeaves[i]
	r := g.rec.Leaves[i]
	if !had || r == nil || ch.Sender.Type != mls.SenderMember || i == g.mls.OwnIndex() || bytes.Equal(old.Credential().Body, ch.Committer.Leaf.Credential().Body) {
		return
	}
	next := leafRecord{UserPseudonym: r.UserPseudonym, ClientPseudonym: r.ClientPseudonym, Entered: at, Was: r.User, WasClient: r.Client}
	if r.User == "" {
		next.Was, next.WasClient = r.Was, r.WasClient
	}
	*r = next
}

// checkDelivered compares what the hub says of a new epoch with what this member derives (§9): on a difference it says so and commits anew.
func (c *Client) checkDelivered(tx Tx, g *group, d *mimimiv1.Delivery) error {
	if d.EpochSenderKey == nil && d.ExternalPub == nil {
		return nil // the own commit, from the hub's answer
	}
	sender, err := mimimi.NewEpochSender(g.mls)
	if err != nil {
		return err
	}
	external, err := g.externalPub()
	if err != nil {
		return err
	}
	if bytes.Equal(sender.Public(), d.EpochSenderKey) && bytes.Equal(external, d.ExternalPub) {
		return nil
	}
	if !g.hasTask(taskCommit) {
		g.rec.Tasks = append(g.rec.Tasks, newTask(taskCommit))
	}
	return c.warn(tx, g.rec.ID, "a member gave the group's hub keys that are not the group's: they are replaced")
}

// externalPub is the epoch's external_pub, as a GroupInfo has it.
func (g *group) externalPub() ([]byte, error) {
	b, err := g.mls.GroupInfo(nil, false)
	if err != nil {
		return nil, err
	}
	gi, err := mls.ParseGroupInfo(b)
	if err != nil {
		return nil, err
	}
	pub, _ := gi.Extension(mls.ExtensionExternalPub)
	return pub, nil
}
