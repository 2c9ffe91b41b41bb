package mls

import (
	"bytes"
	"slices"
	"time"
)

// LeafChange replaces parts of the own leaf, in an Update or in a commit's path.
type LeafChange struct {
	Credential   *Credential   // nil: keep
	SignatureKey *SignatureKey // nil: keep
	Capabilities *Capabilities // nil: keep
	Extensions   []Extension   // nil: keep
}

// changedLeaf works a change, which may be nil, into the own leaf and the key that signs it. The new leaf is not signed yet. It returns
// ErrUnsupported for a key of another suite, or a RuleError.
func (s *groupState) changedLeaf(c *LeafChange) (*LeafNode, SignatureKey, error) {
	leaf, signer := s.ownLeaf().clone(), s.signer
	if c == nil {
		return leaf, signer, nil
	}
	if c.Credential != nil {
		leaf.credential = Credential{Type: c.Credential.Type, Body: bytes.Clone(c.Credential.Body)}
	}
	if c.SignatureKey != nil {
		signer = *c.SignatureKey
	}
	if c.Capabilities != nil {
		leaf.capabilities = c.Capabilities.clone()
	}
	if c.Extensions != nil {
		leaf.extensions = cloneExtensions(c.Extensions)
	}
	if signer.isZero() || signer.k().suite != s.suite() {
		return nil, SignatureKey{}, ErrUnsupported
	}
	leaf.signatureKey = signer.Public()
	return leaf, signer, leaf.checkGREASE()
}

// ProposeOptions says how Propose makes a proposal.
type ProposeOptions struct {
	NewLeaf           *LeafChange // of an Update: replaces parts of the own leaf besides the encryption key
	AuthenticatedData []byte
	Private           bool            // send as PrivateMessage; by default as PublicMessage, as a self_remove must be
	PadTo             func(n int) int // of a Private one, as in Encrypt
	Now               time.Time       // checks the lifetime of an added KeyPackage; zero: not checked
}

// Propose makes a standalone proposal and keeps it as pending. For an Update the group makes the leaf: the old one with a fresh encryption key and
// what opts change. A nonce, key or version that p leaves out is filled in. Only a Private proposal uses up a key, one of the handshake ratchet. The
// errors are those of PublicGroup.AddProposal, and ErrUnsupported for a new signature key of another suite.
func (g *Group) Propose(p Proposal, opts ProposeOptions) ([]byte, error) {
	s := g.s
	p = p.completed(s.suite())
	if err := s.checkProposable(&p, &opts); err != nil {
		return nil, err
	}
	var update ownUpdate
	if p.Type == ProposalUpdate {
		var err error
		if p.Leaf, update, err = s.updatedLeaf(opts.NewLeaf); err != nil {
			return nil, err
		}
	}
	ac := s.signed(&framedContent{
		authenticatedData: bytes.Clone(opts.AuthenticatedData),
		contentType:       contentProposal,
		proposal:          &p,
	}, opts.Private)
	public, committed, err := s.public.addProposal(ac, opts.Now)
	if err != nil {
		return nil, err
	}
	m, step, err := s.protect(ac, opts.PadTo)
	if err != nil {
		return nil, err
	}
	if p.Type == ProposalUpdate {
		update.ref = committed.Ref
		s.updates = append(s.updates, update)
	}
	s.public = public
	if step != nil {
		s.messages.apply(step)
	}
	return m.marshal(), nil
}

// completed returns the proposal with what a sender may leave out: a PSK's nonce and a ReInit's version.
func (p Proposal) completed(suite CipherSuite) Proposal {
	switch {
	case p.Type == ProposalPSK && p.PSK != nil && p.PSK.Nonce == nil:
		id := *p.PSK
		id.Nonce = suite.randomSecret()
		p.PSK = &id
	case p.Type == ProposalReInit && p.ReInit != nil && p.ReInit.Version == 0:
		r := *p.ReInit
		r.Version = mls10
		p.ReInit = &r
	}
	return p
}

// checkProposable checks what only the sender of a proposal is held to.
func (s *groupState) checkProposable(p *Proposal, opts *ProposeOptions) error {
	if p.Type == ProposalUpdate && p.Leaf != nil || p.Type != ProposalUpdate && opts.NewLeaf != nil {
		return broken("12.1.2", "the leaf of an Update is made of the own one")
	}
	if p.Type == ProposalSelfRemove && slices.ContainsFunc(s.public.pending, func(other pendingProposal) bool {
		c := &other.content.content
		return c.proposal.Type == ProposalSelfRemove && c.sender == s.self()
	}) {
		return broken("12.2", "a member proposes one self_remove in an epoch")
	}
	return p.checkOwn()
}

// checkOwn checks what a proposal of our own, on its own or in a commit, is held to and a received one is not.
func (p *Proposal) checkOwn() error {
	if err := p.checkGREASE(); err != nil {
		return err
	}
	if p.Type != ProposalReInit || p.ReInit == nil {
		return nil
	}
	if p.ReInit.Version != mls10 || !p.ReInit.Suite.Supported() {
		return ErrUnsupported
	}
	return checkGroupGREASE(p.ReInit.Extensions)
}

// updatedLeaf makes the leaf of an Update of our own.
func (s *groupState) updatedLeaf(change *LeafChange) (*LeafNode, ownUpdate, error) {
	leaf, signer, err := s.changedLeaf(change)
	if err != nil {
		return nil, ownUpdate{}, err
	}
	key, err := s.suite().GenerateHPKEKey()
	if err != nil {
		return nil, ownUpdate{}, err
	}
	leaf.encryptionKey = key.Public()
	leaf.source, leaf.lifetime, leaf.parentHash = LeafFromUpdate, Lifetime{}, nil
	leaf.sign(signer, s.public.context.groupID, s.private.index)
	return leaf, ownUpdate{key: key, signer: signer}, nil
}

// signed completes the content of a message of our own and signs it.
func (s *groupState) signed(c *framedContent, private bool) *authenticatedContent {
	c.groupID, c.epoch, c.sender = s.public.context.groupID, s.public.context.epoch, s.self()
	ac := &authenticatedContent{wireFormat: wirePublicMessage, content: *c}
	if private {
		ac.wireFormat = wirePrivateMessage
	}
	ac.sign(s.signer, s.public.encoded)
	return ac
}

// protect frames signed content of our own. The step uses up the key of a PrivateMessage; the caller applies it once nothing can fail.
func (s *groupState) protect(ac *authenticatedContent, padTo func(n int) int) (*mlsMessage, *ratchetStep, error) {
	if ac.wireFormat == wirePublicMessage {
		return &mlsMessage{publicMessage: newPublicMessage(s.suite(), ac, s.secrets.membership, s.public.encoded)}, nil, nil
	}
	kind := handshakeRatchet
	if ac.content.contentType == contentApplication {
		kind = applicationRatchet
	}
	generation, key, step, err := s.messages.next(uint32(s.private.index), kind)
	if err != nil {
		return nil, nil, err
	}
	defer key.erase()
	p := sealPrivate(s.suite(), ac, privateKeys{senderData: s.secrets.senderData, generation: generation, key: key}, padTo)
	return &mlsMessage{privateMessage: p}, step, nil
}
