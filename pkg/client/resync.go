package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// resync enters a group anew after its state was lost (§7): an external commit that removes the own old leaf, with the same credential, proven by the
// old leaf's key. The public state is rolled forward from this client's own over the log, by the same rules as ever, so that the hub can put
// nothing into the group that a member would have refused; of the hub's GroupInfo only external_pub is new.
func (c *Client) resync(ctx context.Context, g *group) error {
	if g.rec.Resync.Commit == nil {
		err := c.makeResync(ctx, g)
		switch {
		case errors.Is(err, errRefused): // the hub took what breaks a rule: nobody enters anew over that
			return errors.Join(err, c.loseNow(g, inconsistent))
		case errors.Is(err, errWithheld) || problem.KindOf(err) == problem.Invalid:
			return c.postpone(g, inconsistent)
		case problem.KindOf(err) == problem.Denied && g.rec.Again != nil: // removed, and added again
			return c.giveUp(g, removedSentence)
		case problem.KindOf(err) == problem.Denied:
			return c.postpone(g, deniedSentence)
		case problem.KindOf(err) == problem.NotFound:
			return c.unknownToHub(ctx, g, err)
		case err != nil || g.rec.Resync == nil || g.rec.Resync.Commit == nil:
			return err
		}
	}
	r := g.rec.Resync
	staged, err := mls.ParseStagedCommit(r.Commit, protocolRules())
	if err != nil {
		return errDamagedGroup
	}
	hub, err := c.hub(ctx, g.id.Domain())
	if err != nil {
		return err
	}
	res, err := call(ctx, hub.Commit, &mimimiv1.CommitRequest{
		RequestId: r.Request, GroupId: g.rec.GroupID, Commit: staged.Message, GroupInfo: staged.GroupInfo, ResyncSignature: r.Proof,
	})
	switch {
	case err == nil:
		return c.resynced(g, staged, res.Sequence, res.Accepted)
	case isStale(err):
		return c.postpone(g, "")
	case problem.KindOf(err) == problem.Denied:
		return c.postpone(g, deniedSentence)
	case isFinal(err):
		return c.postpone(g, unenterable)
	}
	return fmt.Errorf("resync: %w", err)
}

func (c *Client) giveUp(g *group, sentence string) error {
	return c.change(g, func(tx Tx) error { return c.over(tx, g, sentence, 0) })
}

// loseNow ends a group that this client cannot come back into by itself.
func (c *Client) loseNow(g *group, why string) error {
	return c.change(g, func(tx Tx) error { return c.lose(tx, g, why) })
}

// makeResync makes and stores the commit.
func (c *Client) makeResync(ctx context.Context, g *group) error {
	hub, err := c.hub(ctx, g.id.Domain())
	if err != nil {
		return err
	}
	rolled, err := c.roll(ctx, g)
	if err != nil {
		return err
	}
	own, old, ok := rolled.ownLeaf(g)
	if !ok {
		return c.giveUp(g, "you were removed from the group")
	}
	proof := c.packageProof(g.id, g.own, rolled.public.Epoch(), mimimi.OpReadGroupInfo, nil)
	proof.LeafKey, proof.Leaf = nil, &old
	res, err := call(ctx, hub.GetGroup, &mimimiv1.GetGroupRequest{GroupId: g.rec.GroupID, Proof: proof})
	if err != nil {
		return fmt.Errorf("get group: %w", err)
	}
	if res.Epoch != rolled.public.Epoch() {
		return c.postpone(g, "") // another entry came between: it is rolled on
	}
	shown, err := mls.NewPublicGroup(res.GroupInfo, res.RatchetTree, protocolRules())
	if err != nil || !bytes.Equal(shown.GroupContext(), rolled.public.GroupContext()) || own == nil {
		return errWithheld
	}
	staged, err := mls.JoinExternal(mls.ExternalJoinConfig{
		GroupInfo: res.GroupInfo, Tree: rolled.public.Tree(), Pending: res.PendingProposals, KeyPackage: g.own.kp, Secrets: &g.own.secrets,
		Resync: true, OldLeaf: old, HubExtensions: hubExtensions, Rules: protocolRules(), PastEpochs: pastEpochs,
	})
	if err != nil {
		return fmt.Errorf("make external commit: %w", err)
	}
	return c.change(g, func(tx Tx) error {
		r := g.rec.Resync
		if err := c.judge(tx, g, res); err != nil {
			return err
		}
		r.Commit, r.Request = staged.Marshal(), newRequestID()
		r.Proof = mimimi.SignResync(g.own.secrets.SignatureKey, g.id, rolled.public.Epoch(), staged.Message)
		if r.Damaged {
			r.Damaged = false
			if err := c.warn(tx, g.rec.ID, damagedSentence); err != nil {
				return err
			}
		}
		// What is rolled over is in force for this client from here on, also if another entry comes first and it rolls on: leaves that came meanwhile are not
		// identified, those that went are gone. The former ratchet state is of no more use.
		if err := g.follow(rolled.public); err != nil {
			return err
		}
		g.mls, g.lost, g.rules, g.rec.Last, g.rec.Epochs = nil, rolled.public, rolled.rules, rolled.last, rolled.epochs.Records()
		return nil
	})
}

const damagedSentence = "what this device keeps of the group was damaged: the group is entered anew, and messages may be missing here"

// rolledState is the public state of a group rolled forward.
type rolledState struct {
	public *mls.PublicGroup
	rules  *mimimi.State
	epochs *mimimi.Epochs
	last   uint64
}

// ownLeaf finds the own leaf in the rolled tree.
func (r *rolledState) ownLeaf(g *group) (*mls.LeafNode, uint32, bool) {
	key := g.own.secrets.SignatureKey.Public()
	for _, m := range r.public.Members() {
		if bytes.Equal(m.Leaf.SignatureKey(), key) {
			return m.Leaf, m.Index, true
		}
	}
	return nil, 0, false
}

// roll reads the log from where this client is and follows the public state.
func (c *Client) roll(ctx context.Context, g *group) (*rolledState, error) {
	r := &rolledState{public: g.public(), rules: g.rules, epochs: g.epochs(), last: g.rec.Last}
	after := r.last
	for range maxLogPages {
		how := named // the entry itself names the leaf
		res, err := c.readLog(ctx, g, after, &how)
		if err != nil {
			return nil, err
		}
		for _, e := range res.Entries {
			d := new(mimimiv1.Delivery)
			if err := proto.Unmarshal(e.Delivery, d); err != nil {
				return nil, errRefused
			}
			if err := r.step(d); err != nil {
				return nil, err
			}
			after = d.Sequence
		}
		after = max(after, res.Next)
		if !res.More {
			return r, nil
		}
	}
	return r, nil
}

// step rolls one entry. Application messages cannot be read any more; a commit or proposal that breaks a rule ends it.
func (r *rolledState) step(d *mimimiv1.Delivery) error {
	switch d.Kind {
	case mimimiv1.Delivery_KIND_PROPOSAL:
		next, p, err := r.public.AddProposal(d.Message, timeOf(d.Accepted))
		if err != nil || r.rules.CheckProposal(r.public, p) != nil {
			return errRefused
		}
		r.public = next
	case mimimiv1.Delivery_KIND_COMMIT:
		if m, err := mls.Peek(d.Message); err == nil && m.Epoch != r.public.Epoch() {
			if m.Epoch > r.public.Epoch() {
				return errWithheld
			}
			break // of an epoch that is over: it changes nothing
		}
		ch, err := r.public.StageCommit(d.Message, timeOf(d.Accepted))
		if err != nil && d.Previous > r.last {
			return errWithheld // perhaps a proposal that it takes up
		}
		if err != nil {
			return errRefused
		}
		rules, err := r.rules.CheckCommit(ch, timeOf(d.Accepted))
		if err != nil {
			return errRefused
		}
		r.public, r.rules = ch.After, rules
		r.epochs.Commit(ch.Epoch, d.Accepted, len(ch.Removed) > 0)
	}
	r.last = d.Sequence
	return nil
}

// follow makes the leaf records match a tree that was rolled forward; a credential that is in both keeps its identity.
func (g *group) follow(public *mls.PublicGroup) error {
	known := make(map[string]*leafRecord)
	for _, m := range g.public().Members() {
		if r := g.rec.Leaves[m.Index]; r != nil {
			known[string(m.Leaf.Credential().Body)] = r
		}
	}
	next := make(map[uint32]*leafRecord)
	for _, m := range public.Members() {
		cred, err := mimimi.ParsePseudonymousCredential(m.Leaf.Credential())
		if err != nil {
			return err
		}
		r := known[string(m.Leaf.Credential().Body)]
		if r == nil {
			r = &leafRecord{UserPseudonym: cred.UserPseudonym.Wire(), ClientPseudonym: cred.ClientPseudonym.Wire()}
		}
		next[m.Index] = r
	}
	g.rec.Leaves = next
	return nil
}

// resynced takes note that the commit has its place in the log.
func (c *Client) resynced(g *group, staged *mls.StagedCommit, sequence uint64, accepted int64) error {
	blamed := g.rec.Resync.Blame
	accepted = c.boundAhead(accepted)
	next, err := g.rules.CheckCommit(staged.Change, timeOf(accepted))
	if err != nil {
		return errors.Join(errRefused, c.loseNow(g, unenterable))
	}
	return c.change(g, func(tx Tx) error {
		if err := (*mls.Group)(nil).Merge(staged); err != nil {
			return fmt.Errorf("resync: %w", err)
		}
		epochs := g.epochs()
		epochs.Commit(staged.Change.Epoch, accepted, true)
		g.mls, g.lost, g.rules = staged.Group(), nil, next
		g.rec.Last, g.rec.Epochs, g.rec.Resync, g.rec.Staged = sequence, epochs.Records(), nil, nil
		g.rec.Heard = nil // what came while the group was lost is not heard
		g.rec.Returns = append(lastDay(g.rec.Returns, c.now()), c.now().Unix())
		g.rec.Fruitless, g.rec.ReadAt, g.rec.NameAt, g.rec.DeniedSince, g.rec.Denied = 0, 0, 0, 0, 0
		if len(g.rec.Returns) == oftenReturns {
			if err := c.warn(tx, g.rec.ID, oftenSentence); err != nil {
				return err
			}
		}
		gone := g.takeGone(staged.Change)
		if err := g.syncLeaves(0); err != nil {
			return err
		}
		g.inherit(staged.Change, gone)
		for _, o := range g.rec.Outgoing {
			if o.Sequence == 0 {
				o.again()
			}
		}
		g.recount()
		if err := c.nameSelf(g); err != nil {
			return err
		}
		if g.rec.Devices { // what the others said meanwhile is lost
			if err := g.postSync(&mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Ask{Ask: true}}); err != nil {
				return err
			}
		}
		c.lacks(g)
		return c.blame(tx, g, blamed)
	})
}
