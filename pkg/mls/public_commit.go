package mls

import (
	"bytes"
	"time"
)

// transition is the public side of one commit while it is made or checked: the state between two epochs. What it holds is not
// shared, and not in force before After of its change is published.
type transition struct {
	from       *PublicGroup
	list       *proposalList
	tree       *ratchetTree // after the proposals; after the path too once that is applied
	extensions []Extension
	committer  leafIndex // in tree; of an external joiner the leaf reserved for it
	added      []leafIndex
	changed    []leafIndex // leaves that entered or changed
	path       *updatePath
	change     *Change
}

// StageCommit checks a PublicMessage commit, of a member or of a new member, against every rule that can be checked without the
// group's secrets, and returns what it would do. Change.After is the next state; g is unchanged. now checks the lifetime of Adds by
// value, unless it is zero. The errors are ErrMalformed, ErrUnsupported, ErrUnauthenticated, a RuleError, an EpochError and those of the rules.
func (g *PublicGroup) StageCommit(msg []byte, now time.Time) (*Change, error) {
	ac, err := parseHandshake(msg)
	if err != nil {
		return nil, err
	}
	t, err := g.stage(ac, now)
	if err != nil {
		return nil, err
	}
	return t.change, t.check()
}

// stage checks a commit of either wire format but for the application's rules, which check asks.
func (g *PublicGroup) stage(ac *authenticatedContent, now time.Time) (*transition, error) {
	c := &ac.content
	if err := g.context.checkGroup(c.groupID, c.epoch); err != nil {
		return nil, err
	}
	if c.contentType != contentCommit || c.sender.Type != SenderMember && c.sender.Type != SenderNewMemberCommit {
		return nil, broken("12.4", "a commit comes from a member or a new member")
	}
	if err := g.verify(ac); err != nil {
		return nil, err
	}
	all, err := g.resolve(c.commit, c.sender)
	if err != nil {
		return nil, err
	}
	t, err := g.begin(all, c.sender, now)
	if err != nil {
		return nil, err
	}
	if err := t.applyPath(c.commit.path); err != nil {
		return nil, err
	}
	if err := t.validate(); err != nil {
		return nil, err
	}
	t.finish(ac, t.next(ac))
	return t, nil
}

// begin checks a list of proposals and applies it to a copy of the tree, RFC 9420 §12.2 and §12.3. It owns all.
func (g *PublicGroup) begin(all []CommittedProposal, committer Sender, now time.Time) (*transition, error) {
	if err := g.checkOpen(); err != nil {
		return nil, err
	}
	list, err := newProposalList(all, committer, g.rules)
	if err != nil {
		return nil, err
	}
	if err := list.check(g, now); err != nil {
		return nil, err
	}
	t := &transition{
		from:       g,
		list:       list,
		tree:       g.tree.clone(),
		extensions: g.context.extensions,
		committer:  leafIndex(committer.Leaf),
		change: &Change{
			Epoch:     g.context.epoch + 1,
			Sender:    committer,
			Proposals: all,
			OldLeaves: map[uint32]*LeafNode{},
			Before:    g,
		},
	}
	if len(list.extensions) > 0 {
		t.extensions = list.extensions[0].Extensions
	}
	if err := t.applyProposals(); err != nil {
		return nil, err
	}
	if committer.Type == SenderNewMemberCommit {
		t.committer, err = t.tree.reserveLeaf()
		return t, err
	}
	return t, nil
}

// applyProposals applies Updates, Removes and Adds in that order, RFC 9420 §12.3.
func (t *transition) applyProposals() error {
	c := t.change
	for _, p := range t.list.updates {
		i := leafIndex(p.Sender.Leaf)
		old := t.tree.leaf(i)
		if err := t.tree.updateLeaf(i, p.Leaf); err != nil {
			return err
		}
		t.changed = append(t.changed, i)
		t.recordUpdate(i, old, p.Leaf)
	}
	for _, p := range t.list.removes {
		i := removedLeaf(p)
		old := t.tree.leaf(i)
		if err := t.tree.removeLeaf(i); err != nil {
			return err
		}
		c.Removed = append(c.Removed, Member{Index: uint32(i), Leaf: old})
		c.OldLeaves[uint32(i)] = old
	}
	for _, p := range t.list.adds {
		leaf := &p.KeyPackage.leaf
		i, err := t.tree.addLeaf(leaf)
		if err != nil {
			return err
		}
		p.Index = uint32(i)
		c.Added = append(c.Added, Member{Index: uint32(i), Leaf: leaf})
		c.AddedRefs = append(c.AddedRefs, p.KeyPackage.Ref())
		t.added, t.changed = append(t.added, i), append(t.changed, i)
	}
	return nil
}

// recordUpdate records that a member's leaf has given way to another.
func (t *transition) recordUpdate(i leafIndex, old, leaf *LeafNode) {
	t.change.Updated = append(t.change.Updated, Member{Index: uint32(i), Leaf: leaf})
	t.change.OldLeaves[uint32(i)] = old
}

// member reports whether the committer is a member.
func (t *transition) member() bool { return t.list.committer.Type == SenderMember }

// applyPath applies a received path, or says why there must be one.
func (t *transition) applyPath(path *updatePath) error {
	if path == nil {
		if t.list.needsPath {
			return broken("12.4", "a commit has a path if its proposals need one")
		}
		return nil
	}
	old := t.tree.leaf(t.committer)
	if err := t.tree.applyPath(t.committer, path, t.added, t.from.context.groupID); err != nil {
		return err
	}
	t.setPath(path, old)
	return nil
}

// setPath records a path that has been applied to the tree. old is the committer's leaf before.
func (t *transition) setPath(path *updatePath, old *LeafNode) {
	t.path = path
	t.changed = append(t.changed, t.committer)
	if t.member() {
		t.recordUpdate(t.committer, old, path.leaf)
	}
}

// validate checks the tree after all changes.
func (t *transition) validate() error {
	if old, ok := t.list.resynced(); ok {
		if bytes.Equal(t.change.OldLeaves[uint32(old)].encryptionKey, t.path.leaf.encryptionKey) {
			return broken("12.2", "the leaf of a resync has a fresh encryption key")
		}
	}
	if len(t.list.extensions) > 0 {
		if err := t.tree.checkGroupExtensions(t.extensions); err != nil {
			return err
		}
	}
	if err := t.checkIdentities(); err != nil {
		return err
	}
	if err := t.tree.checkSize(t.from.tree); err != nil {
		return err
	}
	return t.tree.validateChange(treeContext{groupID: t.from.context.groupID, extensions: t.extensions}, t.changed)
}

// checkIdentities checks that no client is in the group twice now, if the application says what a client is, RFC 9420 §12.2.
func (t *transition) checkIdentities() error {
	identity := t.tree.identity
	if identity == nil {
		return nil
	}
	for _, i := range t.changed {
		client := identity(t.tree.leaf(i))
		if old := t.from.tree.leaf(i); (old == nil || identity(old) != client) && t.tree.hasClient(client, i.node()) {
			return broken("12.2", "a client is in a group once")
		}
	}
	return nil
}

// provisional is the GroupContext under which path secrets are sealed: the new one but for the transcript, RFC 9420 §12.4.1.
func (t *transition) provisional(treeHash []byte) *groupContext {
	c := t.from.context
	c.epoch++
	c.treeHash = treeHash
	c.extensions = t.extensions
	return &c
}

// next is the new GroupContext.
func (t *transition) next(ac *authenticatedContent) groupContext {
	c := *t.provisional(t.tree.rootHash())
	c.confirmedTranscriptHash = confirmedTranscriptHash(c.suite, t.from.interim, ac)
	return c
}

// finish fills in the change, with the state after the commit ac, whose GroupContext is next.
func (t *transition) finish(ac *authenticatedContent, next groupContext) {
	c := t.change
	c.HasPath = t.path != nil
	c.Committer = Member{Index: uint32(t.committer), Leaf: t.tree.leaf(t.committer)}
	c.Extensions = t.extensions
	c.AuthenticatedData = ac.content.authenticatedData
	c.ConfirmationTag = ac.auth.confirmationTag
	c.After = newPublicGroup(t.from.rules, next, t.tree, ac.auth.confirmationTag)
	if len(t.list.reInits) > 0 {
		c.After.reInit = t.list.reInits[0].ReInit
	}
}

// check asks the application's rules: CheckLeaf for each leaf that entered or changed, then CheckCommit.
func (t *transition) check() error {
	rules := t.from.rules
	for _, m := range t.change.Added {
		if err := rules.checkLeaf(nil, m.Leaf); err != nil {
			return err
		}
	}
	for _, m := range t.change.Updated {
		if err := rules.checkLeaf(t.change.OldLeaves[m.Index], m.Leaf); err != nil {
			return err
		}
	}
	if !t.member() {
		if err := t.checkJoiner(rules); err != nil {
			return err
		}
	}
	return rules.checkCommit(t.change)
}

// checkJoiner asks CheckLeaf about the leaf of an external commit.
func (t *transition) checkJoiner(rules *Rules) error {
	var before *LeafNode
	if old, ok := t.list.resynced(); ok {
		before = t.change.OldLeaves[uint32(old)]
	}
	return rules.checkLeaf(before, t.path.leaf)
}
