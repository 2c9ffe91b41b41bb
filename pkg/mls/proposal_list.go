package mls

import (
	"bytes"
	"slices"
	"time"
)

// proposalList is the list of proposals of a commit, in its order and sorted by what they do, RFC 9420 §12.2.
type proposalList struct {
	committer  Sender
	all        []CommittedProposal
	updates    []*CommittedProposal
	removes    []*CommittedProposal // Remove and SelfRemove
	adds       []*CommittedProposal
	psks       []*PSKID
	extensions []*CommittedProposal
	inits      []*CommittedProposal // ExternalInit
	reInits    []*CommittedProposal
	custom     []*CommittedProposal // SelfRemove too: it is not a default type
	needsPath  bool
}

// resolve looks up the proposals that a commit refers to among those of the epoch.
func (g *PublicGroup) resolve(c *commit, committer Sender) ([]CommittedProposal, error) {
	out := make([]CommittedProposal, 0, len(c.proposals))
	var known map[string]*pendingProposal // made for the first reference: a commit may hold as many as there are proposals
	for i := range c.proposals {
		p := &c.proposals[i]
		if p.proposal != nil {
			out = append(out, CommittedProposal{Proposal: *p.proposal, Sender: committer})
			continue
		}
		if known == nil {
			known = g.pendingByRef()
		}
		pending, ok := known[string(p.ref)]
		if !ok {
			return nil, broken("12.4.2", "a commit refers to proposals of its epoch that have been received")
		}
		out = append(out, pending.committed())
	}
	return out, nil
}

func (g *PublicGroup) pendingByRef() map[string]*pendingProposal {
	byRef := make(map[string]*pendingProposal, len(g.pending))
	for i := range g.pending {
		byRef[string(g.pending[i].ref)] = &g.pending[i]
	}
	return byRef
}

// newProposalList sorts the proposals and checks what needs no group state. It owns all.
func newProposalList(all []CommittedProposal, committer Sender, rules *Rules) (*proposalList, error) {
	if len(all) > maxProposals {
		return nil, broken("12.4", "a commit has no more proposals than this implementation allows")
	}
	l := &proposalList{committer: committer, all: all, needsPath: len(all) == 0}
	for i := range all {
		if err := l.sort(&all[i], rules); err != nil {
			return nil, err
		}
	}
	if err := l.checkCounts(); err != nil {
		return nil, err
	}
	if committer.Type == SenderNewMemberCommit {
		return l, l.checkExternal()
	}
	return l, l.checkMember()
}

// sort puts one proposal where it belongs.
func (l *proposalList) sort(p *CommittedProposal, rules *Rules) error {
	external := l.committer.Type == SenderNewMemberCommit
	switch p.Type {
	case ProposalAdd:
		l.adds = append(l.adds, p)
	case ProposalUpdate:
		l.updates, l.needsPath = append(l.updates, p), true
	case ProposalRemove:
		l.removes, l.needsPath = append(l.removes, p), true
	case ProposalPSK:
		l.psks = append(l.psks, p.PSK)
	case ProposalReInit:
		l.reInits = append(l.reInits, p)
	case ProposalExternalInit:
		l.inits, l.needsPath = append(l.inits, p), true
	case ProposalGroupContextExtensions:
		l.extensions, l.needsPath = append(l.extensions, p), true
	case ProposalSelfRemove:
		l.custom = append(l.custom, p)
		l.removes, l.needsPath = append(l.removes, p), true
		if !p.ByReference {
			return broken("12.2", "a self_remove is committed by reference")
		}
	default:
		rule, known := rules.proposal(p.Type)
		if !known {
			return broken("12.2", "every proposal type is known")
		}
		if external && !rule.AllowExternal {
			return broken("12.2", "this proposal type does not stand in an external commit")
		}
		if p.ByReference && !rule.ByReference {
			return broken("12.2", "this proposal type is not sent by reference")
		}
		l.custom, l.needsPath = append(l.custom, p), l.needsPath || rule.NeedsPath
	}
	if external && p.ByReference && p.Type != ProposalSelfRemove {
		return broken("12.4.3.2", "an external commit refers to no proposal but self_remove")
	}
	return nil
}

// removedLeaf is the leaf that a Remove or SelfRemove removes.
func removedLeaf(p *CommittedProposal) leafIndex {
	if p.Type == ProposalSelfRemove {
		return leafIndex(p.Sender.Leaf)
	}
	return leafIndex(p.Removed)
}

// checkCounts checks what may stand in a list at most once.
func (l *proposalList) checkCounts() error {
	if len(l.extensions) > 1 {
		return broken("12.2", "at most one GroupContextExtensions proposal")
	}
	if len(l.reInits) > 0 && len(l.all) > 1 {
		return broken("12.2", "a ReInit stands alone")
	}
	refs := map[string]bool{}
	for i := range l.all {
		if l.all[i].ByReference && seen(refs, string(l.all[i].Ref)) {
			return broken("12.2", "a commit refers to a proposal once")
		}
	}
	changed := map[leafIndex]bool{}
	for _, p := range l.updates {
		if seen(changed, leafIndex(p.Sender.Leaf)) {
			return broken("12.2", "at most one Update or Remove of a leaf")
		}
	}
	for _, p := range l.removes {
		if seen(changed, removedLeaf(p)) {
			return broken("12.2", "at most one Update or Remove of a leaf")
		}
	}
	return l.checkPSKCounts()
}

func (l *proposalList) checkPSKCounts() error {
	ids := map[string]bool{}
	for _, id := range l.psks {
		if seen(ids, string(marshal(id))) {
			return broken("12.2", "at most one PreSharedKey proposal of one identity")
		}
	}
	return nil
}

// seen reports whether k was in m, and puts it in.
func seen[K comparable](m map[K]bool, k K) bool {
	was := m[k]
	m[k] = true
	return was
}

// checkMember checks the rules of RFC 9420 §12.2 for a commit by a member.
func (l *proposalList) checkMember() error {
	own := leafIndex(l.committer.Leaf)
	for _, p := range l.updates {
		if leafIndex(p.Sender.Leaf) == own {
			return broken("12.2", "a commit holds no Update of its committer")
		}
	}
	for _, p := range l.removes {
		if removedLeaf(p) == own {
			return broken("12.2", "a commit does not remove its committer")
		}
	}
	if len(l.inits) > 0 {
		return broken("12.2", "only an external commit holds an ExternalInit")
	}
	return nil
}

// checkExternal checks the rules of RFC 9420 §12.2 for an external commit.
func (l *proposalList) checkExternal() error {
	removes := 0
	for _, p := range l.removes {
		if p.Type == ProposalRemove {
			removes++
		}
	}
	switch {
	case len(l.inits) != 1:
		return broken("12.2", "an external commit holds exactly one ExternalInit")
	case removes > 1:
		return broken("12.2", "an external commit holds at most one Remove")
	case len(l.adds)+len(l.updates)+len(l.extensions)+len(l.reInits) > 0:
		return broken("12.2", "an external commit holds no other proposals")
	}
	return nil
}

// resynced returns the leaf that an external commit replaces.
func (l *proposalList) resynced() (leafIndex, bool) {
	for _, p := range l.removes {
		if l.committer.Type == SenderNewMemberCommit && p.Type == ProposalRemove {
			return leafIndex(p.Removed), true
		}
	}
	return 0, false
}

// check checks the list against the group: each proposal that comes by value, and that all who stay support the types.
// Proposals by reference were checked when they came.
func (l *proposalList) check(g *PublicGroup, now time.Time) error {
	err := parallel(len(l.all), func(i int) error {
		if l.all[i].ByReference {
			return nil
		}
		return g.checkProposal(&l.all[i].Proposal, l.all[i].Sender, now)
	})
	if err != nil {
		return err
	}
	return l.checkSupport(g)
}

// checkSupport checks that the members that will process the commit support its proposal types.
func (l *proposalList) checkSupport(g *PublicGroup) error {
	if len(l.custom) == 0 {
		return nil
	}
	types := map[ProposalType]bool{}
	for _, p := range l.custom {
		if !slices.Contains(g.tree.summary.s.proposals, p.Type) {
			types[p.Type] = true
		}
	}
	if len(types) == 0 {
		return nil
	}
	removed := map[leafIndex]bool{}
	for _, p := range l.removes {
		removed[removedLeaf(p)] = true
	}
	for i, leaf := range g.tree.occupiedLeaves() {
		for t := range types {
			if !removed[i] && !leaf.capabilities.hasProposal(t) {
				return broken("12.2", "all members support the proposal types of a commit")
			}
		}
	}
	return nil
}

// checkProposal checks one proposal by itself, RFC 9420 §12.1, against the epoch that it is for.
func (g *PublicGroup) checkProposal(p *Proposal, sender Sender, now time.Time) error {
	if err := p.checkMade(); err != nil {
		return err
	}
	if err := checkProposer(p.Type, sender); err != nil {
		return err
	}
	switch p.Type {
	case ProposalAdd:
		return g.checkAdd(p.KeyPackage, now)
	case ProposalUpdate:
		return g.checkUpdate(leafIndex(sender.Leaf), p.Leaf)
	case ProposalRemove:
		if g.tree.leaf(leafIndex(p.Removed)) == nil {
			return broken("12.1.3", "the removed leaf is occupied")
		}
	case ProposalPSK:
		return g.checkPSK(p.PSK)
	case ProposalReInit:
		if p.ReInit.Version < g.context.version {
			return broken("12.1.5", "a ReInit does not lower the version")
		}
		return checkGroupContextExtensions(p.ReInit.Extensions)
	case ProposalGroupContextExtensions:
		return checkGroupContextExtensions(p.Extensions)
	}
	return nil
}

// checkProposer says which kinds of sender may make which proposals, RFC 9420 §12.1.8 and §17.4.
func checkProposer(t ProposalType, sender Sender) error {
	ok := true
	switch sender.Type {
	case SenderMember:
		ok = t != ProposalExternalInit
	case SenderExternal:
		ok = t == ProposalAdd || t == ProposalRemove || t == ProposalPSK || t == ProposalReInit || t == ProposalGroupContextExtensions
	case SenderNewMemberProposal:
		ok = t == ProposalAdd
	}
	if !ok {
		return broken("12.1.8", "this kind of sender may make this type of proposal")
	}
	return nil
}

func (g *PublicGroup) checkAdd(kp *KeyPackage, now time.Time) error {
	if kp.version != g.context.version || kp.suite != g.context.suite {
		return errOtherSuite
	}
	return kp.Validate(now)
}

var errOtherSuite = broken("12.1.1", "an added client has the group's version and cipher suite")

func (g *PublicGroup) checkUpdate(i leafIndex, leaf *LeafNode) error {
	old := g.tree.leaf(i)
	switch {
	case old == nil:
		return broken("12.1.2", "the updated leaf is occupied")
	case leaf.source != LeafFromUpdate:
		return broken("7.3", "the leaf of an Update has source update")
	case bytes.Equal(old.encryptionKey, leaf.encryptionKey):
		return broken("12.1.2", "an Update has a fresh encryption key")
	}
	return nil // what else §7.3 demands is checked in the tree that the Update leads to
}

func (g *PublicGroup) checkPSK(id *PSKID) error {
	if len(id.Nonce) != g.context.suite.HashLen() {
		return broken("12.1.4", "a PSK nonce has the length of a hash")
	}
	if id.Usage > PSKApplication && !g.founding {
		return broken("12.1.4", "a resumption PSK proposal has usage application")
	}
	return nil
}

// checkGroupContextExtensions checks the extensions that this package reads in a GroupContext. That the members support the others
// is checked on the new tree.
func checkGroupContextExtensions(exts []Extension) error {
	if data, ok := findExtension(exts, ExtensionRequiredCapabilities); ok {
		if _, err := parseRequiredCapabilities(data); err != nil {
			return err
		}
	}
	if data, ok := findExtension(exts, ExtensionExternalSenders); ok {
		if _, err := parseExternalSenders(data); err != nil {
			return err
		}
	}
	return nil
}
