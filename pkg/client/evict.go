package client

import (
	"time"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// accuseAdder notes which leaves a commit added without the link keys that open their identity links. keys are what its identity_link_update holds, nil if that does not open. It is the
// adder's doing and nobody else's: it signed the commit, what it claimed it has checked with the same keys, and whoever follows the commit has the key of the update and comes to the
// same end. So only what hangs on nothing else is looked at: not on certificates, revocations, bans or clocks, of which members may know more or less.
func (c *Client) accuseAdder(tx Tx, g *group, ch *mls.Change, keys *mimimi.IdentityLinkKeys) error {
	adder := g.rec.Leaves[ch.Sender.Leaf]
	if ch.Sender.Type != mls.SenderMember || adder == nil || ch.Sender.Leaf == g.mls.OwnIndex() {
		return nil
	}
	accused := false
	for i, m := range ch.Added {
		r := g.rec.Leaves[m.Index]
		leaf, err := mimimi.ParseLeaf(m.Leaf)
		if err != nil {
			return err // the rules let no other leaf in
		}
		if r == nil {
			continue
		}
		if keys != nil {
			if _, err := leaf.Credential.Identify(keys.Added[i]); err == nil {
				continue
			}
		}
		r.Bad, r.Adder, accused = true, adder.ClientPseudonym, true
	}
	if !accused {
		return nil
	}
	return c.addEvent(tx, eventRecord{Kind: EventWarning, Group: g.rec.ID, User: adder.User, Text: adderSentence})
}

const adderSentence = "a member added somebody without saying truly who it is: both are removed"

// evicted are the leaves that go with an unidentified one: it, whoever added it falsely, and all that this one added so; nil if the leaf need not go any more. The adder goes where the policy
// lets this client remove it, or with the Remove of a leaf that came in within a day, which one that leaves by itself does not need (§4).
func (g *group) evicted(t *task, now time.Time) []uint32 {
	r := g.rec.Leaves[t.Leaf]
	if r == nil || r.ClientPseudonym != t.Pseudonym || r.User != "" {
		return nil
	}
	all := []uint32{t.Leaf}
	if r.Adder == "" {
		return all
	}
	for _, i := range g.indices() {
		o := g.rec.Leaves[i]
		switch may := g.mayRemoveLeaf(i, now); {
		case i == t.Leaf || i == g.mls.OwnIndex():
		case o.ClientPseudonym == r.Adder && (may || !r.Leaving && g.mayRemoveLeaf(t.Leaf, now)), o.Adder == r.Adder && o.User == "" && may:
			all = append(all, i)
		}
	}
	return all
}
