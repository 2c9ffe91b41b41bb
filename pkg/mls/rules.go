package mls

import (
	"iter"
	"slices"
)

// ProposalRule gives a custom proposal type its rules, RFC 9420 §12.2 and §13.2.
type ProposalRule struct {
	NeedsPath     bool // a commit that holds one has a path
	AllowExternal bool // may stand in an external commit, by value
	ByReference   bool // may be sent on its own and committed by reference
}

// Rules are what an application adds to RFC 9420. One value serves Group and PublicGroup, so that members and server judge alike. It
// must not change while in use; its functions must depend on their arguments only. Every function may be nil. An error that
// a function returns is returned to whoever called, as it is.
//
// Lifetimes are checked only where a time is passed in, and only of leaves that enter by Add or in a KeyPackage.
type Rules struct {
	// Suites are the cipher suites that a group of the application may have; nil: every supported one. A group of another is refused with ErrUnsupported
	// before anything of it is verified: in some suites that takes fifty times as long as in others.
	Suites []CipherSuite
	// Proposals names the custom proposal types that the application knows. A commit or proposal of another type that is not
	// of RFC 9420 (or self_remove) is refused.
	Proposals map[ProposalType]ProposalRule
	// DataBeforeCommit lets a member send application data while proposals of the epoch wait for a commit. RFC 9420 §12.4 wants a commit first, so
	// that a member whose removal was proposed does not read on; an application that sees to that in another way may do without.
	DataBeforeCommit bool
	// Identity names the client that a leaf is of: leaves with one identity are one client's. If it is set, a group holds each client once (RFC 9420
	// §12.2). Joining the successor or a branch of a group compares the members by it (§11.2, §11.3), or by their whole credentials if it is nil.
	Identity func(leaf *LeafNode) string
	// NewMemberProposals lets a client that is not in the group propose that it be added (RFC 9420 §12.1.8). Anybody can say that: CheckProposal, or
	// CheckCommit, is to tell whom the application authorises.
	NewMemberProposals bool
	// CheckLeaf is called for each leaf that enters the tree or changes, and on joining or loading a group from a GroupInfo for all
	// leaves. before is the leaf that it replaces (also in a resync), nil if none.
	CheckLeaf func(before, leaf *LeafNode) error
	// CheckProposal is called for a standalone proposal that has passed the checks of RFC 9420.
	CheckProposal func(g *PublicGroup, sender Sender, p Proposal) error
	// CheckCommit is called for a commit that has passed all else, before it takes effect.
	CheckCommit func(c *Change) error
}

// checkSuite returns ErrUnsupported for a suite that groups may not have.
func (r *Rules) checkSuite(cs CipherSuite) error {
	if r != nil && r.Suites != nil && !slices.Contains(r.Suites, cs) {
		return ErrUnsupported
	}
	return nil
}

// proposal returns the rule of a custom type. A nil r knows none.
func (r *Rules) proposal(t ProposalType) (ProposalRule, bool) {
	if r == nil {
		return ProposalRule{}, false
	}
	rule, ok := r.Proposals[t]
	return rule, ok
}

// dataBeforeCommit is DataBeforeCommit. A nil r has it not.
func (r *Rules) dataBeforeCommit() bool { return r != nil && r.DataBeforeCommit }

// newMemberProposals is NewMemberProposals. A nil r has it not.
func (r *Rules) newMemberProposals() bool { return r != nil && r.NewMemberProposals }

// unique is Identity, for groups to hold each client once; nil says that the application does not ask for that.
func (r *Rules) unique() func(*LeafNode) string {
	if r == nil {
		return nil
	}
	return r.Identity
}

// identity is Identity, or what stands in for it.
func (r *Rules) identity(l *LeafNode) string {
	if f := r.unique(); f != nil {
		return f(l)
	}
	return string(marshal(&l.credential))
}

// identities counts the leaves of each client.
func (r *Rules) identities(leaves iter.Seq2[leafIndex, *LeafNode]) map[string]int {
	n := map[string]int{}
	for _, l := range leaves {
		n[r.identity(l)]++
	}
	return n
}

func (r *Rules) checkLeaf(before, leaf *LeafNode) error {
	if r == nil || r.CheckLeaf == nil {
		return nil
	}
	return r.CheckLeaf(before, leaf)
}

func (r *Rules) checkProposal(g *PublicGroup, sender Sender, p Proposal) error {
	if r == nil || r.CheckProposal == nil {
		return nil
	}
	return r.CheckProposal(g, sender, p)
}

func (r *Rules) checkCommit(c *Change) error {
	if r == nil || r.CheckCommit == nil {
		return nil
	}
	return r.CheckCommit(c)
}

// Member is one occupied leaf.
type Member struct {
	Index uint32
	Leaf  *LeafNode
}

// CommittedProposal is a proposal with where it came from.
type CommittedProposal struct {
	Proposal
	Sender      Sender
	ByReference bool
	Ref         []byte // ProposalRef if ByReference
	Index       uint32 // add: the leaf index given, once committed
}

// Change says what one commit does. It is given to Rules.CheckCommit before it takes effect, and to the caller with the staged
// commit. It is read only.
type Change struct {
	Epoch             uint64 // the epoch that it begins
	Sender            Sender
	Committer         Member // in the new tree: an external joiner's new leaf; a member's old leaf if the commit has no path
	HasPath           bool
	Proposals         []CommittedProposal  // in the order of the commit
	Added             []Member             // by Add, with their new indices
	AddedRefs         [][]byte             // KeyPackageRef of each of Added
	Removed           []Member             // by Remove and SelfRemove, with the old leaf
	Updated           []Member             // by Update, and the committer's own path leaf if it was a member
	OldLeaves         map[uint32]*LeafNode // by index: the leaf before, of each of Removed and Updated
	Extensions        []Extension          // of the GroupContext of the new epoch
	AuthenticatedData []byte
	ConfirmationTag   []byte
	Before            *PublicGroup // public state of the epoch left
	// After is the public state of the epoch begun. A PublicGroup cannot check its confirmation tag; a Group has.
	After *PublicGroup
}
