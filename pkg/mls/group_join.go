package mls

import (
	"bytes"
)

// JoinConfig is what Join joins with.
type JoinConfig struct {
	Welcome    []byte      // MLSMessage or bare
	Tree       []byte      // content of a ratchet_tree extension; nil if the GroupInfo carries it
	KeyPackage *KeyPackage // the one that was added
	Secrets    *KeyPackageSecrets
	PSK        func(id []byte) ([]byte, error)
	// Groups returns the group of an id that this client is in, nil if it is in none. A Welcome to a group that the client is in already is refused,
	// unless it is to the successor of one that a ReInit has ended. Without Groups, no successor and no branch of a group can be joined.
	Groups     func(groupID []byte) *Group
	Rules      *Rules
	PastEpochs int // as in GroupConfig
}

// Join joins by Welcome, RFC 9420 §12.4.3.1. The returned GroupInfo carries the extensions given to newcomers, and says in Predecessor of which group
// the joined one is the successor or a branch: only then it is that, as §11.2 and §11.3 want it. The caller erases the secrets of a KeyPackage
// that is not a last resort. The errors are ErrMalformed, ErrUnsupported (also for a PSK that the client does not have), ErrUnauthenticated, a
// RuleError, and those of the rules and of PSK.
func Join(cfg JoinConfig) (*Group, *GroupInfo, error) {
	if err := checkOwn(cfg.KeyPackage, cfg.Secrets); err != nil {
		return nil, nil, err
	}
	w, _, err := parseWelcome(cfg.Welcome)
	if err != nil {
		return nil, nil, err
	}
	if w.suite != cfg.KeyPackage.suite {
		return nil, nil, ErrUnsupported
	}
	shared, err := w.open(cfg.KeyPackage, cfg.Secrets.InitKey)
	if err != nil {
		return nil, nil, err
	}
	defer shared.erase()
	link, err := shared.checkPSKs(w.suite)
	if err != nil {
		return nil, nil, err
	}
	sources := pskSources{external: cfg.PSK, groups: cfg.Groups}
	psk, err := pskSecret(w.suite, shared.psks, sources.find)
	if err != nil {
		return nil, nil, err
	}
	member := memberSecret(w.suite, shared.joiner, psk)
	clear(psk)
	defer clear(member)
	info, err := w.openGroupInfo(member)
	if err != nil {
		return nil, nil, err
	}
	g, err := cfg.enter(info, shared, member)
	if err != nil {
		return nil, nil, err
	}
	if err := sources.checkPredecessor(g.s.public, link); err != nil {
		return nil, nil, err
	}
	out := info.public()
	out.Predecessor = link
	return g, out, nil
}

// enter checks the group and makes the newcomer's state.
func (cfg *JoinConfig) enter(info *groupInfo, shared *groupSecrets, member []byte) (*Group, error) {
	public, err := openPublicGroup(info, cfg.Tree, cfg.Rules)
	if err != nil {
		return nil, err
	}
	own, ok := public.tree.find(&cfg.KeyPackage.leaf)
	if !ok {
		return nil, broken("12.4.3.1", "the newcomer's leaf is in the tree")
	}
	private := newTreePrivate(own, cfg.Secrets.EncryptionKey.clone())
	if shared.pathSecret != nil {
		if private, err = private.joinPath(public.tree, leafIndex(info.signer), shared.pathSecret); err != nil {
			return nil, err
		}
	}
	suite := public.context.suite
	secrets, encryption := newEpochSecrets(suite, epochSecret(suite, member, public.encoded))
	if !suite.verifyMAC(secrets.confirmation, public.context.confirmedTranscriptHash, public.tag) {
		secrets.erase()
		clear(encryption)
		return nil, ErrUnauthenticated
	}
	return &Group{newGroupState(public, private, cfg.Secrets.SignatureKey, secrets, encryption, keepPast(cfg.PastEpochs))}, nil
}

// ExternalJoinConfig is what JoinExternal joins with.
type ExternalJoinConfig struct {
	GroupInfo []byte   // MLSMessage or bare, with external_pub
	Tree      []byte   // content of a ratchet_tree extension; nil if the GroupInfo carries it
	Pending   [][]byte // standalone self_remove proposals (PublicMessage) that the commit takes up by reference
	// KeyPackage gives credential, capabilities, leaf extensions and signature key of the new leaf, which gets source commit and a
	// fresh encryption key.
	KeyPackage        *KeyPackage
	Secrets           *KeyPackageSecrets
	Resync            bool
	OldLeaf           uint32     // with Resync: the own old leaf, removed in the same commit
	Remove            []uint32   // leaves to remove; RFC 9420 §12.2 allows one in all, OldLeaf included
	Proposals         []Proposal // by value: custom ones and PSKs
	PSK               func(id []byte) ([]byte, error)
	Groups            func(groupID []byte) *Group // groups of this client, this one's old state among them, whose resumption PSKs are used
	AuthenticatedData []byte
	HubExtensions     func(next *Group) ([]Extension, error) // as in CommitOptions
	Rules             *Rules
	PastEpochs        int // as in GroupConfig
}

// JoinExternal makes an external commit, RFC 9420 §12.4.3.2. The group exists once the commit is accepted: (*Group)(nil).Merge, then
// StagedCommit.Group. The errors are those of NewPublicGroup, PublicGroup.AddProposal and Group.Commit.
func JoinExternal(cfg ExternalJoinConfig) (*StagedCommit, error) {
	if err := checkOwn(cfg.KeyPackage, cfg.Secrets); err != nil {
		return nil, err
	}
	info, err := parseGroupInfo(cfg.GroupInfo)
	if err != nil {
		return nil, err
	}
	if info.context.suite != cfg.KeyPackage.suite {
		return nil, ErrUnsupported
	}
	public, err := openPublicGroup(info, cfg.Tree, cfg.Rules)
	if err != nil {
		return nil, err
	}
	for _, msg := range cfg.Pending {
		if public, _, err = public.AddProposal(msg, noTime); err != nil {
			return nil, err
		}
	}
	kemOutput, init, err := externalInit(info)
	if err != nil {
		return nil, err
	}
	defer clear(init)
	d := &commitDraft{
		public:     public,
		sender:     Sender{Type: SenderNewMemberCommit},
		pending:    public.Pending(),
		leaf:       &cfg.KeyPackage.leaf,
		signer:     cfg.Secrets.SignatureKey,
		nextSigner: cfg.Secrets.SignatureKey,
		init:       init,
		psk:        pskSources{external: cfg.PSK, groups: cfg.Groups}.find,
		keep:       keepPast(cfg.PastEpochs),
		options: CommitOptions{
			Proposals:         cfg.proposals(kemOutput),
			AuthenticatedData: bytes.Clone(cfg.AuthenticatedData),
			HubExtensions:     cfg.HubExtensions,
		},
	}
	return d.make()
}

// proposals returns what the commit holds by value: ExternalInit, Removes, then what the caller gave.
func (cfg *ExternalJoinConfig) proposals(kemOutput []byte) []Proposal {
	out := []Proposal{{Type: ProposalExternalInit, kemOutput: kemOutput}}
	if cfg.Resync {
		out = append(out, Proposal{Type: ProposalRemove, Removed: cfg.OldLeaf})
	}
	for _, i := range cfg.Remove {
		out = append(out, Proposal{Type: ProposalRemove, Removed: i})
	}
	return append(out, cfg.Proposals...)
}

// externalInit draws the init secret of an external commit, RFC 9420 §8.3.
func externalInit(info *groupInfo) (kemOutput, init []byte, err error) {
	data, ok := findExtension(info.extensions, ExtensionExternalPub)
	if !ok {
		return nil, nil, broken("12.4.3.2", "the GroupInfo holds external_pub")
	}
	pub, err := parseExternalPub(data)
	if err != nil {
		return nil, nil, err
	}
	return info.context.suite.exportTo(pub, labelExternalInit, info.context.suite.HashLen())
}
