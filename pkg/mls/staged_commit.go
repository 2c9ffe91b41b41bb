package mls

import (
	"bytes"
	"slices"
)

// StagedCommit is a commit made or received but not yet in force. Marshal holds it for storage, secrets included, so that a crash
// between "sent" and "confirmed" loses nothing.
type StagedCommit struct {
	Message   []byte // MLSMessage: to send if own, else as received
	Welcome   []byte // MLSMessage; nil without Adds, and of a received commit
	GroupInfo []byte // MLSMessage for the server, without the tree: external_pub and HubExtensions; nil of a received commit
	Change    *Change

	content *authenticatedContent
	next    *Group // nil if the commit removes this member
	joins   bool   // an external commit of our own
}

// Group returns the next state, nil if the commit removes this member. It is valid only once merged; from then on it is the same
// state as that of the group which merged it.
func (c *StagedCommit) Group() *Group { return c.next }

// RemovesSelf reports whether the commit removes this member: the group is over for it. Of such a commit the confirmation tag is not
// checked, since a removed member cannot.
func (c *StagedCommit) RemovesSelf() bool { return c.next == nil }

// Merge puts a staged commit, own or received, in force. g must be in the epoch that the commit leaves; for the commit of
// JoinExternal it is nil, and c.Group is the group. The keys of the epoch left are kept for late messages or erased. Merge returns an
// EpochError or RuleError and then changes nothing.
func (g *Group) Merge(c *StagedCommit) error {
	if c.next == nil {
		return broken("12.4.2", "a member that is removed has no next epoch")
	}
	if (g == nil) != c.joins {
		return broken("12.4.2", "a commit is merged by the group that it belongs to")
	}
	if g == nil {
		return nil
	}
	before, now := c.Change.Before, g.s.public
	if err := now.context.checkGroup(before.context.groupID, before.context.epoch); err != nil {
		return err
	}
	if !bytes.Equal(before.encoded, now.encoded) || !bytes.Equal(before.tag, now.tag) {
		return broken("12.4.2", "a commit is merged by the group that it belongs to")
	}
	next := c.next.s
	g.s.eraseReplaced(next)
	next.past, next.keep = slices.Concat([]*pastEpoch{g.s.retire()}, g.s.past), g.s.keep
	next.forget()
	if before.tree != now.tree { // the commit has been stored and read: its tree shares nothing with the group's
		for _, p := range next.past {
			p.rebase(next.public.tree)
		}
	}
	g.s = next
	return nil
}

// ForgetEpochs erases what is kept of the past epochs before one: their late messages cannot be opened any more.
func (g *Group) ForgetEpochs(before uint64) {
	s := g.s
	n := 0
	for n < len(s.past) && s.past[n].epoch >= before { // newest first
		n++
	}
	for _, p := range s.past[n:] {
		p.erase()
	}
	s.past = s.past[:n:n]
}

// forget erases the past epochs beyond those that are kept.
func (s *groupState) forget() {
	if len(s.past) <= s.keep {
		return
	}
	for _, p := range s.past[s.keep:] {
		p.erase()
	}
	s.past = s.past[:s.keep:s.keep]
}
