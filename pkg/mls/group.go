package mls

import (
	"bytes"
	"slices"
)

// Group is a member's state: the public state and the member's secrets of the current epoch, and the message keys of a few past
// ones. It is not safe for concurrent use. Every method that uses up a secret changes the state: the caller stores Marshal before
// what it made leaves, and before it acts on what it read.
type Group struct {
	s *groupState
}

// groupState is what a Group points to. A merged commit replaces it as a whole.
type groupState struct {
	public   *PublicGroup
	private  *treePrivate // its index is the own leaf
	signer   SignatureKey // of the own leaf
	secrets  *epochSecrets
	messages *secretTree
	updates  []ownUpdate  // own pending Updates
	past     []*pastEpoch // the newest first
	keep     int          // how many past epochs are kept
}

// ownUpdate holds the secrets of the leaf of an own Update proposal, until some commit takes it up or the epoch ends.
type ownUpdate struct {
	ref    []byte
	key    HPKEPrivateKey
	signer SignatureKey
}

// GroupConfig says what NewGroup makes a group of.
type GroupConfig struct {
	GroupID    []byte
	KeyPackage *KeyPackage // its leaf becomes the creator's leaf
	Secrets    *KeyPackageSecrets
	Extensions []Extension // of the GroupContext
	Rules      *Rules
	PastEpochs int // past epochs whose message keys are kept for late messages; 0 means 2, the most is 128
}

// NewGroup makes a group of one member at epoch 0, with a fresh random epoch secret (RFC 9420 §11). It returns ErrUnsupported,
// ErrUnauthenticated, a RuleError, or an error of CheckLeaf.
func NewGroup(cfg GroupConfig) (*Group, error) {
	if err := checkOwn(cfg.KeyPackage, cfg.Secrets); err != nil {
		return nil, err
	}
	if err := cfg.Rules.checkSuite(cfg.KeyPackage.suite); err != nil {
		return nil, err
	}
	context := groupContext{
		version:                 mls10,
		suite:                   cfg.KeyPackage.suite,
		groupID:                 bytes.Clone(cfg.GroupID),
		treeHash:                []byte{},
		confirmedTranscriptHash: []byte{},
		extensions:              cloneExtensions(cfg.Extensions),
	}
	if err := checkExtensions(context.extensions); err != nil {
		return nil, err
	}
	if err := checkGroupContextExtensions(context.extensions); err != nil {
		return nil, err
	}
	if err := checkGroupGREASE(context.extensions); err != nil {
		return nil, err
	}
	leaf := &cfg.KeyPackage.leaf
	if !leaf.verify(context.suite, nil, 0) { // nobody could join
		return nil, ErrUnauthenticated
	}
	if err := leaf.checkGroup(context.extensions); err != nil {
		return nil, err
	}
	if err := cfg.Rules.checkLeaf(nil, leaf); err != nil {
		return nil, err
	}
	// The epoch secret is random, not derived from zeros: what a server sees of a group must not determine its secrets.
	secrets, encryption := newEpochSecrets(context.suite, context.suite.randomSecret())
	tag := secrets.confirmationTag(context.suite, nil)
	public := newPublicGroup(cfg.Rules, context, newRatchetTree(context.suite, leaf), tag)
	return &Group{newGroupState(public, newTreePrivate(0, cfg.Secrets.EncryptionKey.clone()), cfg.Secrets.SignatureKey, secrets, encryption, keepPast(cfg.PastEpochs))}, nil
}

// checkOwn checks a KeyPackage of our own and that the secrets are its. Its signatures are for others to verify.
func checkOwn(kp *KeyPackage, secrets *KeyPackageSecrets) error {
	if kp == nil || secrets == nil || !secrets.matches(kp) {
		return broken("10", "a KeyPackage comes with its secrets")
	}
	return kp.check(noTime)
}

func keepPast(n int) int {
	if n <= 0 {
		return 2
	}
	return min(n, maxPastEpochs)
}

// newGroupState makes the state at the start of an epoch.
func newGroupState(public *PublicGroup, private *treePrivate, signer SignatureKey, secrets *epochSecrets, encryption []byte, keep int) *groupState {
	messages := newSecretTree(public.context.suite, uint32(public.tree.width()), encryption)
	clear(encryption)
	return &groupState{public: public, private: private, signer: signer, secrets: secrets, messages: messages, keep: keep}
}

func (s *groupState) suite() CipherSuite { return s.public.context.suite }

// self is the own Sender.
func (s *groupState) self() Sender { return Sender{Type: SenderMember, Leaf: uint32(s.private.index)} }

func (s *groupState) ownLeaf() *LeafNode { return s.public.tree.leaf(s.private.index) }

// Public returns the public state.
func (g *Group) Public() *PublicGroup { return g.s.public }

// Epoch returns the epoch.
func (g *Group) Epoch() uint64 { return g.s.public.Epoch() }

// OwnIndex returns the own leaf's index.
func (g *Group) OwnIndex() uint32 { return uint32(g.s.private.index) }

// OwnLeaf returns the own leaf.
func (g *Group) OwnLeaf() *LeafNode { return g.s.ownLeaf() }

// EpochAuthenticator returns epoch_authenticator, RFC 9420 §8.7: equal for two members exactly if they agree on the epoch.
func (g *Group) EpochAuthenticator() []byte { return bytes.Clone(g.s.secrets.authenticator) }

// Export is MLS-Exporter, RFC 9420 §8.5, for n bytes, at most 255 hashes. It returns ErrInvalid for another n.
func (g *Group) Export(label string, context []byte, n int) ([]byte, error) {
	if n < 0 || n > 255*g.s.suite().HashLen() {
		return nil, broken("8.5", "the exported length is one that the KDF has")
	}
	return g.s.secrets.export(g.s.suite(), label, context, n), nil
}

// SignWithLabel signs something outside MLS with the own leaf's key; PublicGroup.VerifyWithLabel checks it. The label must not be one
// of RFC 9420's.
func (g *Group) SignWithLabel(label string, content []byte) []byte {
	return g.s.signer.SignWithLabel(label, content)
}

// OpenWithLeafKey opens what was sealed with CipherSuite.HPKESeal to the own leaf's encryption key. It returns ErrUnauthenticated.
func (g *Group) OpenWithLeafKey(info, aad, kem, ct []byte) ([]byte, error) {
	return g.s.suite().HPKEOpen(g.s.private.leafKey(), info, aad, kem, ct)
}

// GroupInfo returns a signed GroupInfo of the current epoch as MLSMessage. It holds external_pub (unless a ReInit has ended the group: nobody can
// join it any more), exts and, if asked for, the tree. It returns a RuleError if exts holds a type twice or one of those two.
func (g *Group) GroupInfo(exts []Extension, withTree bool) ([]byte, error) {
	if g.s.public.reInit != nil {
		return g.s.groupInfoMessage(exts, withTree)
	}
	key, err := g.s.secrets.externalKey(g.s.suite())
	if err != nil {
		return nil, err
	}
	defer key.erase()
	external := Extension{Type: ExtensionExternalPub, Data: marshalExternalPub(key.Public())}
	return g.s.groupInfoMessage(slices.Concat([]Extension{external}, exts), withTree)
}

func (s *groupState) groupInfoMessage(exts []Extension, withTree bool) ([]byte, error) {
	info, err := s.groupInfo(exts, withTree)
	if err != nil {
		return nil, err
	}
	return (&mlsMessage{groupInfo: info}).marshal(), nil
}

// groupInfo makes a signed GroupInfo with the given extensions.
func (s *groupState) groupInfo(exts []Extension, withTree bool) (*groupInfo, error) {
	if withTree {
		exts = slices.Concat(exts, []Extension{{Type: ExtensionRatchetTree, Data: s.public.Tree()}})
	}
	if err := checkExtensions(exts); err != nil {
		return nil, err
	}
	info := &groupInfo{
		context:         s.public.context,
		extensions:      exts,
		confirmationTag: s.public.tag,
		signer:          uint32(s.private.index),
	}
	info.sign(s.signer)
	return info, nil
}

// Encrypt makes an application message, a PrivateMessage, and uses up one key of the own ratchet. padTo maps the length of the
// message's content (data, signature and framing) to the length that it is padded to with zeros; nil, or a smaller result, means no
// padding. It returns a RuleError while proposals wait for a commit (unless Rules.DataBeforeCommit) or once a ReInit has ended the group, ErrMalformed for more data than a
// message may hold, and ErrReplayed if the ratchet of this epoch is used up.
func (g *Group) Encrypt(data, authenticatedData []byte, padTo func(n int) int) ([]byte, error) {
	s := g.s
	if err := s.public.checkOpen(); err != nil {
		return nil, err
	}
	if len(s.public.pending) > 0 && !s.public.rules.dataBeforeCommit() {
		return nil, broken("12.4", "a commit goes before application data if there are proposals")
	}
	if len(data) > maxVector/2 || len(authenticatedData) > maxVector {
		return nil, ErrMalformed
	}
	ac := s.signed(&framedContent{authenticatedData: authenticatedData, contentType: contentApplication, application: data}, true)
	m, step, err := s.protect(ac, padTo)
	if err != nil {
		return nil, err
	}
	s.messages.apply(step)
	return m.marshal(), nil
}
