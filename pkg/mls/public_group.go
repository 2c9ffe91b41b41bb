package mls

import (
	"bytes"
	"crypto/subtle"
	"slices"
	"time"
)

// PublicGroup is a group's public state: tree, GroupContext, transcript and pending proposals, no secret. It is an immutable
// value, safe for concurrent use; what its accessors return must not be changed.
//
// It follows a group by its PublicMessages alone. It cannot check membership tags, confirmation tags or that a path's secrets
// open: members do.
type PublicGroup struct {
	rules   *Rules
	context groupContext
	encoded []byte // of context
	tree    *ratchetTree
	interim []byte // interim_transcript_hash
	tag     []byte // confirmation_tag
	pending []pendingProposal
	size    int // of the pending proposals, in bytes
	// reInit is what the group's last commit has ended it with, nil while it goes on.
	reInit *ReInit
	// founding is set of the first epoch of a group that succeeds another, while its founder makes the one commit that leaves it: the only one that may
	// hold a PSK of usage reinit or branch, RFC 9420 §12.1.4.
	founding bool
}

// pendingProposal is a standalone proposal of the current epoch.
type pendingProposal struct {
	ref     []byte
	content *authenticatedContent
}

func (p *pendingProposal) committed() CommittedProposal {
	c := &p.content.content
	return CommittedProposal{Proposal: *c.proposal, Sender: c.sender, ByReference: true, Ref: p.ref}
}

// newPublicGroup puts a state together. It publishes the tree.
func newPublicGroup(rules *Rules, context groupContext, tree *ratchetTree, tag []byte) *PublicGroup {
	tree.identify(rules.unique())
	tree.publish()
	context.treeHash = tree.rootHash()
	return &PublicGroup{
		rules:   rules,
		context: context,
		encoded: marshal(&context),
		tree:    tree,
		interim: interimTranscriptHash(context.suite, context.confirmedTranscriptHash, tag),
		tag:     tag,
	}
}

// NewPublicGroup checks a GroupInfo and its tree in full: signature, tree hash, parent hashes, all leaves, and the rules' CheckLeaf
// for each. groupInfo is an MLSMessage or a bare GroupInfo; tree is the content of a ratchet_tree extension, nil if the GroupInfo carries
// one. It returns ErrMalformed, ErrUnsupported, ErrUnauthenticated, a RuleError, or an error of CheckLeaf.
func NewPublicGroup(groupInfo, tree []byte, rules *Rules) (*PublicGroup, error) {
	info, err := parseGroupInfo(groupInfo)
	if err != nil {
		return nil, err
	}
	return openPublicGroup(info, tree, rules)
}

// openPublicGroup is NewPublicGroup after parsing.
func openPublicGroup(info *groupInfo, treeBytes []byte, rules *Rules) (*PublicGroup, error) {
	if err := rules.checkSuite(info.context.suite); err != nil {
		return nil, err
	}
	if treeBytes == nil {
		carried, ok := findExtension(info.extensions, ExtensionRatchetTree)
		if !ok {
			return nil, broken("12.4.3.3", "the ratchet tree is at hand")
		}
		treeBytes = carried
	}
	tree, err := parseRatchetTree(info.context.suite, treeBytes)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(tree.rootHash(), info.context.treeHash) {
		return nil, broken("12.4.3.1", "the tree has the tree hash of the GroupContext")
	}
	signer := tree.leaf(leafIndex(info.signer))
	if signer == nil {
		return nil, broken("12.4.3.1", "the signer's leaf is occupied")
	}
	if err := info.verify(signer); err != nil {
		return nil, err
	}
	if err := checkGroupContextExtensions(info.context.extensions); err != nil {
		return nil, err
	}
	if err := tree.validate(treeContext{groupID: info.context.groupID, extensions: info.context.extensions}); err != nil {
		return nil, err
	}
	for _, leaf := range tree.occupiedLeaves() {
		if err := rules.checkLeaf(nil, leaf); err != nil {
			return nil, err
		}
	}
	return newPublicGroup(rules, info.context, tree, info.confirmationTag), nil
}

// GroupID returns the group's id.
func (g *PublicGroup) GroupID() []byte { return g.context.groupID }

// Epoch returns the epoch.
func (g *PublicGroup) Epoch() uint64 { return g.context.epoch }

// Suite returns the cipher suite.
func (g *PublicGroup) Suite() CipherSuite { return g.context.suite }

// GroupContext returns the TLS encoding of the GroupContext.
func (g *PublicGroup) GroupContext() []byte { return g.encoded }

// Extensions returns the extensions of the GroupContext.
func (g *PublicGroup) Extensions() []Extension { return g.context.extensions }

// Extension returns the data of the GroupContext's extension of type t.
func (g *PublicGroup) Extension(t ExtensionType) ([]byte, bool) {
	return findExtension(g.context.extensions, t)
}

// Tree returns the content of a ratchet_tree extension.
func (g *PublicGroup) Tree() []byte { return g.tree.bytes() }

// TreeHash returns the tree hash.
func (g *PublicGroup) TreeHash() []byte { return g.context.treeHash }

// Members returns the occupied leaves from left to right.
func (g *PublicGroup) Members() []Member { return g.tree.members() }

// Member returns the leaf at index; ok is false if it is blank or outside the tree.
func (g *PublicGroup) Member(index uint32) (leaf *LeafNode, ok bool) {
	leaf = g.tree.leaf(leafIndex(index))
	return leaf, leaf != nil
}

// ReInit returns what the group that succeeds this one is to be, if a ReInit has ended this one, and else nil. An ended group takes no more messages;
// Group.Successor makes the other.
func (g *PublicGroup) ReInit() *ReInit { return g.reInit }

// checkOpen says whether the group goes on.
func (g *PublicGroup) checkOpen() error {
	if g.reInit != nil {
		return broken("12.4.2", "a group that a ReInit has ended sends no more messages")
	}
	return nil
}

// Pending returns the standalone proposals of this epoch in order of arrival.
func (g *PublicGroup) Pending() []CommittedProposal {
	out := make([]CommittedProposal, len(g.pending))
	for i := range g.pending {
		out[i] = g.pending[i].committed()
	}
	return out
}

// VerifyWithLabel checks a signature by a current leaf over something outside MLS, made with Group.SignWithLabel.
func (g *PublicGroup) VerifyWithLabel(leaf uint32, label string, content, sig []byte) bool {
	l := g.tree.leaf(leafIndex(leaf))
	return l != nil && g.context.suite.VerifyWithLabel(l.signatureKey, label, content, sig)
}

// CheckGroupInfo says whether a GroupInfo, an MLSMessage or bare, describes exactly this state: suite, group, epoch, tree hash,
// confirmed transcript hash, extensions and confirmation tag, under a valid signature by its signer's leaf. It returns the GroupInfo,
// whose own extensions are the caller's to judge. The errors are ErrMalformed, ErrUnsupported, ErrUnauthenticated, a RuleError and an
// EpochError.
func (g *PublicGroup) CheckGroupInfo(b []byte) (*GroupInfo, error) {
	info, err := parseGroupInfo(b)
	if err != nil {
		return nil, err
	}
	if err := g.context.checkGroup(info.context.groupID, info.context.epoch); err != nil {
		return nil, err
	}
	if !bytes.Equal(marshal(&info.context), g.encoded) {
		return nil, broken("12.4.3", "a GroupInfo has the GroupContext of its epoch")
	}
	if subtle.ConstantTimeCompare(info.confirmationTag, g.tag) != 1 {
		return nil, broken("12.4.3", "a GroupInfo has the confirmation tag of its epoch")
	}
	signer := g.tree.leaf(leafIndex(info.signer))
	if signer == nil {
		return nil, broken("12.4.3", "the signer's leaf is occupied")
	}
	if err := info.verify(signer); err != nil {
		return nil, err
	}
	return info.public(), nil
}

// AddProposal checks a standalone proposal (PublicMessage) and returns the state that holds it as pending; g is unchanged. now checks
// the lifetime of an Add, unless it is zero. The errors are ErrMalformed, ErrUnsupported, ErrUnauthenticated, a RuleError, an EpochError,
// ErrReplayed for a proposal that is pending already, and those of the rules.
func (g *PublicGroup) AddProposal(msg []byte, now time.Time) (*PublicGroup, *CommittedProposal, error) {
	ac, err := parseHandshake(msg)
	if err != nil {
		return nil, nil, err
	}
	return g.addProposal(ac, now)
}

// parseHandshake reads a PublicMessage.
func parseHandshake(msg []byte) (*authenticatedContent, error) {
	m, err := parseMLSMessage(msg)
	if err != nil {
		return nil, err
	}
	if m.publicMessage == nil {
		return nil, broken("6", "a server reads handshakes in PublicMessages")
	}
	return m.publicMessage.authenticated(), nil
}

// addProposal is AddProposal for content of either wire format.
func (g *PublicGroup) addProposal(ac *authenticatedContent, now time.Time) (*PublicGroup, *CommittedProposal, error) {
	c := &ac.content
	if err := g.context.checkGroup(c.groupID, c.epoch); err != nil {
		return nil, nil, err
	}
	if c.contentType != contentProposal {
		return nil, nil, broken("6", "a proposal was asked for")
	}
	if err := g.checkOpen(); err != nil {
		return nil, nil, err
	}
	if c.proposal.Type == ProposalSelfRemove && ac.wireFormat != wirePublicMessage {
		return nil, nil, broken("12.2", "a self_remove is sent as PublicMessage, for external joiners to take it up")
	}
	if err := g.verify(ac); err != nil {
		return nil, nil, err
	}
	next, err := g.withPending(ac)
	if err != nil {
		return nil, nil, err
	}
	if err := g.checkStandalone(c, now); err != nil {
		return nil, nil, err
	}
	p := next.pending[len(next.pending)-1].committed()
	return next, &p, nil
}

// checkStandalone checks a proposal sent on its own, whose signature has been verified.
func (g *PublicGroup) checkStandalone(c *framedContent, now time.Time) error {
	p := c.proposal
	if c.sender.Type == SenderNewMemberProposal && !g.rules.newMemberProposals() {
		return broken("12.1.8", "the application lets clients propose themselves")
	}
	if err := g.checkProposal(p, c.sender, now); err != nil {
		return err
	}
	// The other checks of a list are made as if the proposal were committed alone, by nobody in particular.
	committed := []CommittedProposal{{Proposal: *p, Sender: c.sender, ByReference: true}}
	l, err := newProposalList(committed, Sender{Type: SenderMember, Leaf: maxLeaves}, g.rules)
	if err != nil {
		return err
	}
	if err := l.checkSupport(g); err != nil {
		return err
	}
	if err := g.checkStandaloneLeaf(p, c.sender); err != nil {
		return err
	}
	return g.rules.checkProposal(g, c.sender, *p)
}

// checkStandaloneLeaf checks what a proposal would do to the tree, so that what nobody could commit does not become pending.
func (g *PublicGroup) checkStandaloneLeaf(p *Proposal, sender Sender) error {
	switch p.Type {
	case ProposalUpdate:
		i, tree := leafIndex(sender.Leaf), g.tree.clone()
		old := tree.leaf(i)
		if err := tree.updateLeaf(i, p.Leaf); err != nil {
			return err
		}
		if err := tree.validateChange(g.treeContext(), []leafIndex{i}); err != nil {
			return err
		}
		if !p.Leaf.verify(g.context.suite, g.context.groupID, i) {
			return ErrUnauthenticated
		}
		return g.rules.checkLeaf(old, p.Leaf)
	case ProposalAdd:
		// Its keys may be those of a member whose removal is committed with it.
		if err := p.KeyPackage.leaf.checkGroup(g.context.extensions); err != nil {
			return err
		}
		return g.rules.checkLeaf(nil, &p.KeyPackage.leaf)
	case ProposalGroupContextExtensions:
		return g.tree.checkGroupExtensions(p.Extensions)
	}
	return nil
}

func (g *PublicGroup) treeContext() treeContext {
	return treeContext{groupID: g.context.groupID, extensions: g.context.extensions}
}

// withPending returns the state with one more pending proposal.
func (g *PublicGroup) withPending(ac *authenticatedContent) (*PublicGroup, error) {
	encoded := marshal(ac)
	ref := proposalRef(g.context.suite, encoded)
	if slices.ContainsFunc(g.pending, func(p pendingProposal) bool { return bytes.Equal(p.ref, ref) }) {
		return nil, ErrReplayed
	}
	if len(g.pending) >= maxPending || g.size+len(encoded) > maxPendingSize {
		return nil, broken("12.1", "an epoch has no more proposals than this implementation allows")
	}
	next := *g
	next.size += len(encoded)
	next.pending = append(g.pending[:len(g.pending):len(g.pending)], pendingProposal{ref: ref, content: ac})
	return &next, nil
}

// verify checks a message's signature under the key of its sender, RFC 9420 §6.1.
func (g *PublicGroup) verify(ac *authenticatedContent) error {
	key, err := g.senderKey(&ac.content)
	if err != nil {
		return err
	}
	return ac.verify(g.context.suite, key, g.encoded)
}

// senderKey finds the public signature key of a message's sender.
func (g *PublicGroup) senderKey(c *framedContent) ([]byte, error) {
	switch c.sender.Type {
	case SenderMember:
		if l := g.tree.leaf(leafIndex(c.sender.Leaf)); l != nil {
			return l.signatureKey, nil
		}
	case SenderExternal:
		if c.contentType == contentProposal {
			return g.externalSenderKey(c.sender.Leaf)
		}
	case SenderNewMemberProposal:
		if c.contentType == contentProposal && c.proposal.Type == ProposalAdd {
			return c.proposal.KeyPackage.leaf.signatureKey, nil
		}
	case SenderNewMemberCommit:
		if c.contentType == contentCommit && c.commit.path != nil {
			return c.commit.path.leaf.signatureKey, nil
		}
	}
	return nil, broken("6.1", "the sender is one that can send this content")
}

func (g *PublicGroup) externalSenderKey(index uint32) ([]byte, error) {
	senders := g.ExternalSenders()
	if uint64(index) >= uint64(len(senders)) {
		return nil, errNoExternalSender
	}
	return senders[index].SignatureKey, nil
}

var errNoExternalSender = broken("12.1.8", "an external sender is listed in the group")
