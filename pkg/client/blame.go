package client

import (
	"bytes"
	"errors"
	"math/rand/v2"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mls"
)

// blameRecord is a commit that stands in the log and cannot be processed (§7). Its author signed it, and whoever made it had the epoch's membership key, if
// it is a member's; so the author is at fault, provided that the hub delivered what it was given.
type blameRecord struct {
	Epoch     uint64 `json:"epoch"` // that the commit began
	Leaf      uint32 `json:"leaf"`
	Pseudonym string `json:"pseudonym"`
	Tag       []byte `json:"tag"` // its confirmation tag
	// Proven says that the GroupInfo which the author signed has the same tag.
	Proven bool `json:"proven,omitempty"`
}

// accuse notes whose commit it was, if the commit was found to be the epoch's and still leads nowhere. A client whose own state does not fit the group fails
// at the membership tag before, and accuses nobody.
func (c *Client) accuse(g *group, why error) {
	broken, ok := errors.AsType[*mls.CommitError](why)
	if !ok {
		return
	}
	ch := broken.Change
	m := ch.Committer
	r := g.rec.Leaves[m.Index]
	if r == nil || ch.Sender.Type != mls.SenderMember {
		return // who came in by it stays unidentified, and goes
	}
	g.rec.Resync.Blame = &blameRecord{Epoch: ch.Epoch, Leaf: m.Index, Pseudonym: r.ClientPseudonym, Tag: ch.ConfirmationTag}
	if !g.mayRemoveLeaf(m.Index, c.now()) { // whoever can remove the author goes first
		g.rec.Resync.Due += int64(maxResyncPause + rand.N(maxResyncPause))
	}
}

// judge compares the commit with the GroupInfo that its author signed for the epoch. Only who comes back first sees that one.
func (c *Client) judge(tx Tx, g *group, res *mimimiv1.GetGroupResponse) error {
	b := g.rec.Resync.Blame
	if b == nil || b.Proven {
		return nil
	}
	gi, err := mls.ParseGroupInfo(res.GroupInfo) // its signature was checked
	if err != nil || res.Epoch != b.Epoch {
		g.rec.Resync.Blame = nil
		return nil
	}
	if gi.Signer == b.Leaf && bytes.Equal(gi.ConfirmationTag, b.Tag) {
		b.Proven = true
		return nil
	}
	g.rec.Resync.Blame = nil
	return c.warn(tx, g.rec.ID, "the group's hub delivered a change that is not what its author signed")
}

// blame makes the first one who is back remove the author of the commit.
func (c *Client) blame(tx Tx, g *group, b *blameRecord) error {
	if b == nil || !b.Proven {
		return nil
	}
	r := g.rec.Leaves[b.Leaf]
	if r == nil || r.ClientPseudonym != b.Pseudonym || b.Leaf == g.mls.OwnIndex() {
		return nil
	}
	if !g.mayRemoveLeaf(b.Leaf, c.now()) {
		return c.warn(tx, g.rec.ID, "a member made a change that nobody can read, and only others may remove it")
	}
	t := newTask(taskExpel)
	t.Leaf, t.Pseudonym = b.Leaf, b.Pseudonym
	g.rec.Tasks = append(g.rec.Tasks, t)
	return c.addEvent(tx, eventRecord{Kind: EventWarning, Group: g.rec.ID, User: r.User, Text: "a member made a change that nobody can read: it is removed"})
}
