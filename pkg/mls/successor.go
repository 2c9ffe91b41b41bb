package mls

import (
	"bytes"
	"time"
)

// SuccessorConfig is what Group.Successor makes another group of.
type SuccessorConfig struct {
	// GroupID and Extensions are those of a branch. The successor of a group that a ReInit has ended has the ReInit's, and the two are left nil.
	GroupID    []byte
	Extensions []Extension
	KeyPackage *KeyPackage // the founder's own leaf, as in GroupConfig
	Secrets    *KeyPackageSecrets
	Members    []*KeyPackage // one of each other member: of all the old group's after a ReInit, of those who are to be in a branch
	Path       bool          // make a path though none is needed
	// HubExtensions, WelcomeExtensions, TreeInWelcome and Now are as in CommitOptions.
	HubExtensions     func(next *Group) ([]Extension, error)
	WelcomeExtensions func(next *Group) ([]Extension, error)
	TreeInWelcome     bool
	Now               time.Time
	Rules             *Rules
	PastEpochs        int // as in GroupConfig
}

// Successor makes the group that a ReInit asks for, RFC 9420 §11.2, if one has ended g, and else a branch of g, §11.3. Both are made of a group of one
// and a commit that adds the others and proves with a resumption PSK that its maker was in g. Only the founder sees that commit, so the
// StagedCommit has no Message. The new group exists, at epoch 1, once the commit is merged: (*Group)(nil).Merge, then StagedCommit.Group; its members join
// by StagedCommit.Welcome. g stays as it is. The errors are those of NewGroup and Group.Commit.
func (g *Group) Successor(cfg SuccessorConfig) (*StagedCommit, error) {
	s := g.s
	link, err := s.plan(&cfg)
	if err != nil {
		return nil, err
	}
	first, err := NewGroup(GroupConfig{
		GroupID:    cfg.GroupID,
		KeyPackage: cfg.KeyPackage,
		Secrets:    cfg.Secrets,
		Extensions: cfg.Extensions,
		Rules:      cfg.Rules,
		PastEpochs: cfg.PastEpochs,
	})
	if err != nil {
		return nil, err
	}
	founder := first.s
	founder.public.founding = true
	d := &commitDraft{
		public:     founder.public,
		sender:     founder.self(),
		leaf:       founder.ownLeaf(),
		signer:     founder.signer,
		nextSigner: founder.signer,
		init:       founder.secrets.init,
		psk:        pskSources{groups: func([]byte) *Group { return g }}.find,
		keep:       founder.keep,
		state:      founder,
		founds:     true,
		options: CommitOptions{
			Proposals:         cfg.proposals(link),
			Path:              cfg.Path,
			HubExtensions:     cfg.HubExtensions,
			WelcomeExtensions: cfg.WelcomeExtensions,
			TreeInWelcome:     cfg.TreeInWelcome,
			Now:               cfg.Now,
		},
	}
	staged, err := d.make()
	if err != nil {
		return nil, err
	}
	now := staged.Change.After
	if link.Usage == PSKReInit && len(now.Members()) != len(s.public.Members()) {
		return nil, broken("12.4.1", "a successor has the same members as the group that it succeeds")
	}
	if err := s.checkSuccessor(now, link); err != nil {
		return nil, err
	}
	return staged, nil
}

// plan fills in cfg with what the old group says of the new one, and returns the PSK that links the two.
func (s *groupState) plan(cfg *SuccessorConfig) (*PSKID, error) {
	context := &s.public.context
	link := &PSKID{Usage: PSKBranch, GroupID: context.groupID, Epoch: context.epoch}
	suite := context.suite
	if r := s.public.reInit; r != nil {
		if cfg.GroupID != nil || cfg.Extensions != nil {
			return nil, broken("11.2", "the group id and extensions of a successor are the ReInit's")
		}
		if r.Version != mls10 || !r.Suite.Supported() {
			return nil, ErrUnsupported
		}
		link.Usage, suite = PSKReInit, r.Suite
		cfg.GroupID, cfg.Extensions = r.GroupID, r.Extensions
	} else if bytes.Equal(cfg.GroupID, context.groupID) {
		return nil, broken("11.3", "a branch is another group than the one it is of")
	}
	if cfg.KeyPackage != nil && cfg.KeyPackage.suite != suite {
		return nil, broken("11", "the founder's KeyPackage has the cipher suite of the group")
	}
	return link, nil
}

// proposals returns what the founding commit holds.
func (cfg *SuccessorConfig) proposals(link *PSKID) []Proposal {
	out := make([]Proposal, 0, len(cfg.Members)+1)
	for _, kp := range cfg.Members {
		out = append(out, Proposal{Type: ProposalAdd, KeyPackage: kp})
	}
	return append(out, Proposal{Type: ProposalPSK, PSK: link})
}

// checkPredecessor checks a group that has just been joined against the one that link says it comes from, nil for none.
func (p pskSources) checkPredecessor(now *PublicGroup, link *PSKID) error {
	succeeds := link != nil && link.Usage == PSKReInit && bytes.Equal(link.GroupID, now.context.groupID)
	if !succeeds && p.group(now.context.groupID) != nil {
		return broken("12.4.3.1", "a client joins no group that it is in already")
	}
	if link == nil {
		return nil
	}
	old := p.group(link.GroupID)
	if old == nil {
		return ErrUnsupported
	}
	return old.s.checkSuccessor(now, link)
}

// checkSuccessor checks that a group is the successor of s, or a branch of it, RFC 9420 §11.2, §11.3 and §12.4.3.1.
func (s *groupState) checkSuccessor(now *PublicGroup, link *PSKID) error {
	if now.context.epoch != 1 {
		return broken("12.4.3.1", "a successor or a branch is joined in epoch 1")
	}
	if link.Usage == PSKReInit {
		return s.checkReInit(now, link)
	}
	return s.checkBranch(now, link)
}

func (s *groupState) checkReInit(now *PublicGroup, link *PSKID) error {
	r := s.public.reInit
	switch {
	case r == nil || link.Epoch != s.public.context.epoch:
		return broken("12.4.3.1", "the last commit of a group with a successor is a ReInit")
	case r.Version != now.context.version || r.Suite != now.context.suite:
		return broken("11.2", "a successor has the version and cipher suite of the ReInit")
	case !bytes.Equal(r.GroupID, now.context.groupID):
		return broken("11.2", "a successor has the group id of the ReInit")
	case !sameExtensions(r.Extensions, now.context.extensions):
		return broken("11.2", "a successor has the extensions of the ReInit")
	}
	left := now.rules.identities(now.tree.occupiedLeaves())
	for id, n := range now.rules.identities(s.public.tree.occupiedLeaves()) {
		if left[id] < n {
			return broken("11.2", "all members are in the successor")
		}
	}
	return nil
}

func (s *groupState) checkBranch(now *PublicGroup, link *PSKID) error {
	old := &s.public.context
	leaves := s.public.tree.occupiedLeaves()
	if p := s.pastEpoch(link.Epoch); p != nil {
		leaves = p.nodes.occupiedLeaves()
	}
	if now.context.version != old.version || now.context.suite != old.suite {
		return broken("11.3", "a branch has the version and cipher suite of the group that it is of")
	}
	members := now.rules.identities(leaves)
	for id := range now.rules.identities(now.tree.occupiedLeaves()) {
		if members[id] == 0 {
			return broken("11.3", "all members of a branch are members of the group that it is of")
		}
	}
	return nil
}
