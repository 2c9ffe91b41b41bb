package mls

import (
	"bytes"
	"slices"
	"time"
)

// Received is what Process made of a message. Exactly one of the pointers is set.
type Received struct {
	Application *ApplicationMessage
	Proposal    *CommittedProposal // kept as pending
	Commit      *StagedCommit      // checked in full; Merge puts it in force
}

// ApplicationMessage is an opened application message.
type ApplicationMessage struct {
	Epoch             uint64
	Sender            Member // with its leaf of that epoch
	Generation        uint32 // of the sender's ratchet: it counts the sender's messages of the epoch from 0
	Data              []byte
	AuthenticatedData []byte
}

// ProcessOptions are what Process needs besides the message.
type ProcessOptions struct {
	Now    time.Time // checks the lifetime of Adds; zero: not checked
	PSK    func(id []byte) ([]byte, error)
	Groups func(groupID []byte) *Group // other groups of this client, whose resumption PSKs are used
}

// Process checks and opens a message of this group, an MLSMessage with a PublicMessage or PrivateMessage. Application messages of past
// epochs that are kept open too. A failed Process changes nothing. A commit changes nothing before it is merged, and may be processed again.
//
// The errors are ErrMalformed, ErrUnsupported, ErrUnauthenticated, a RuleError, an EpochError, those of the rules and of PSK, and
// ErrReplayed: for a message that was read before, and for one of our own. An own commit is merged as staged; own application messages
// cannot be opened.
func (g *Group) Process(msg []byte, opts ProcessOptions) (*Received, error) {
	m, err := parseMLSMessage(msg)
	if err != nil {
		return nil, err
	}
	switch {
	case m.publicMessage != nil:
		return g.s.processPublic(msg, m.publicMessage, opts)
	case m.privateMessage != nil:
		return g.s.processPrivate(msg, m.privateMessage, opts)
	}
	return nil, broken("6", "a group's message is a PublicMessage or a PrivateMessage")
}

func (s *groupState) processPublic(msg []byte, p *publicMessage, opts ProcessOptions) (*Received, error) {
	if err := s.public.context.checkGroup(p.content.groupID, p.content.epoch); err != nil {
		return nil, err
	}
	if err := p.verifyMembership(s.suite(), s.secrets.membership, s.public.encoded); err != nil {
		return nil, err
	}
	return s.processHandshake(msg, p.authenticated(), opts)
}

// processHandshake handles a proposal or commit of either wire format, in the current epoch.
func (s *groupState) processHandshake(msg []byte, ac *authenticatedContent, opts ProcessOptions) (*Received, error) {
	switch ac.content.contentType {
	case contentProposal:
		public, p, err := s.receiveProposal(ac, opts.Now)
		if err != nil {
			return nil, err
		}
		s.public = public
		return &Received{Proposal: p}, nil
	case contentCommit:
		staged, err := s.stage(msg, ac, opts)
		if err != nil {
			return nil, err
		}
		return &Received{Commit: staged}, nil
	}
	return nil, broken("6.2", "application data is sent in a PrivateMessage")
}

// receiveProposal checks a proposal. One in our own name that is not pending was made in a state that has been lost: an Update would
// lack its key, so none is taken.
func (s *groupState) receiveProposal(ac *authenticatedContent, now time.Time) (*PublicGroup, *CommittedProposal, error) {
	public, p, err := s.public.addProposal(ac, now)
	if err == nil && p.Type == ProposalUpdate && p.Sender == s.self() {
		return nil, nil, ErrReplayed
	}
	return public, p, err
}

// processPrivate opens a PrivateMessage.
func (s *groupState) processPrivate(msg []byte, p *privateMessage, opts ProcessOptions) (*Received, error) {
	if p.epoch != s.public.context.epoch && p.contentType == contentApplication {
		return s.openPast(p)
	}
	if err := s.public.context.checkGroup(p.groupID, p.epoch); err != nil {
		return nil, err
	}
	if err := s.public.checkOpen(); err != nil {
		return nil, err
	}
	e := &messageEpoch{
		own: uint32(s.private.index), suite: s.suite(), context: s.public.encoded,
		senderData: s.secrets.senderData, messages: s.messages,
		leaf: func(i uint32) *LeafNode { return s.public.tree.leaf(leafIndex(i)) },
	}
	ac, step, err := e.open(p)
	if err != nil {
		return nil, err
	}
	if p.contentType == contentApplication {
		s.consume(s.messages, step)
		return e.received(ac, step), nil
	}
	got, err := s.processHandshake(msg, ac, opts)
	if err != nil {
		return nil, err
	}
	if got.Proposal != nil {
		s.consume(s.messages, step)
	}
	return got, nil
}

// openPast opens an application message of a past epoch that is kept.
func (s *groupState) openPast(p *privateMessage) (*Received, error) {
	if !bytes.Equal(p.groupID, s.public.context.groupID) {
		return nil, s.public.context.checkGroup(p.groupID, p.epoch)
	}
	past := s.pastEpoch(p.epoch)
	if past == nil {
		return nil, &EpochError{Have: s.public.context.epoch, Want: p.epoch}
	}
	e := &messageEpoch{
		own: uint32(s.private.index), suite: s.suite(), context: past.context,
		senderData: past.senderData, messages: past.messages, leaf: past.leaf,
	}
	ac, step, err := e.open(p)
	if err != nil {
		return nil, err
	}
	s.consume(past.messages, step)
	return e.received(ac, step), nil
}

// messageEpoch is what opens the PrivateMessages of one epoch, the current or a past one.
type messageEpoch struct {
	own        uint32
	suite      CipherSuite
	context    []byte
	senderData []byte
	messages   *secretTree
	leaf       func(i uint32) *LeafNode
}

// open opens a message and verifies its signature. The step uses up its key; the caller applies it once nothing can fail.
func (e *messageEpoch) open(p *privateMessage) (*authenticatedContent, *ratchetStep, error) {
	d, err := p.openSenderData(e.suite, e.senderData)
	if err != nil {
		return nil, nil, err
	}
	if d.leaf == e.own {
		return nil, nil, ErrReplayed
	}
	sender := e.leaf(d.leaf)
	if sender == nil {
		return nil, nil, broken("6.3.2", "the sender's leaf is occupied")
	}
	kind := handshakeRatchet
	if p.contentType == contentApplication {
		kind = applicationRatchet
	}
	key, step, err := e.messages.derive(d.leaf, kind, d.generation)
	if err != nil {
		return nil, nil, err
	}
	defer key.erase()
	ac, err := p.openContent(e.suite, d, key)
	if err != nil {
		return nil, nil, err
	}
	return ac, step, ac.verify(e.suite, sender.signatureKey, e.context)
}

func (e *messageEpoch) received(ac *authenticatedContent, step *ratchetStep) *Received {
	c := &ac.content
	return &Received{Application: &ApplicationMessage{
		Epoch:             c.epoch,
		Sender:            Member{Index: c.sender.Leaf, Leaf: e.leaf(c.sender.Leaf)},
		Generation:        step.generation,
		Data:              c.application,
		AuthenticatedData: c.authenticatedData,
	}}
}

// stage checks a received commit in full, RFC 9420 §12.4.2, and makes the state after it.
func (s *groupState) stage(msg []byte, ac *authenticatedContent, opts ProcessOptions) (*StagedCommit, error) {
	if ac.content.sender == s.self() {
		// One that somebody else has made in our name is to us what it is to all others.
		if err := s.public.verify(ac); err != nil {
			return nil, err
		}
		return nil, ErrReplayed
	}
	t, err := s.public.stage(ac, opts.Now)
	if err != nil {
		return nil, err
	}
	staged := &StagedCommit{Message: bytes.Clone(msg), Change: t.change, content: ac}
	if !t.removes(s.private.index) {
		if staged.next, err = s.follow(t, ac, opts); err != nil {
			return nil, &CommitError{Change: t.change, err: err}
		}
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	return staged, nil
}

// removes reports whether the commit removes the leaf at i.
func (t *transition) removes(i leafIndex) bool {
	for _, m := range t.change.Removed {
		if leafIndex(m.Index) == i {
			return true
		}
	}
	return false
}

// follow makes the state after a received commit: the secret half of staging.
func (s *groupState) follow(t *transition, ac *authenticatedContent, opts ProcessOptions) (*Group, error) {
	after := &t.change.After.context
	update, err := s.committedUpdate(t)
	if err != nil {
		return nil, err
	}
	private, commitSecret, err := s.openPath(t, update)
	if err != nil {
		return nil, err
	}
	psk, err := pskSecret(after.suite, t.list.psks, pskSources{own: s, external: opts.PSK, groups: opts.Groups}.find)
	if err != nil {
		return nil, err
	}
	init, err := s.initSecret(t)
	if err != nil {
		return nil, err
	}
	defer clear(init)
	keys := newEpochKeys(after.suite, init, commitSecret, psk, t.change.After.encoded)
	if !after.suite.verifyMAC(keys.secrets.confirmation, after.confirmedTranscriptHash, ac.auth.confirmationTag) {
		keys.erase()
		return nil, ErrUnauthenticated
	}
	keys.eraseShared()
	signer := s.signer
	if update != nil {
		signer = update.signer
	}
	return &Group{newGroupState(t.change.After, private, signer, keys.secrets, keys.encryption, s.keep)}, nil
}

// openPath returns the next private half of the tree and the commit secret.
func (s *groupState) openPath(t *transition, update *ownUpdate) (*treePrivate, []byte, error) {
	private := s.private.clone()
	if update != nil {
		private.setLeafKey(update.key)
	}
	private.prune(t.tree)
	if t.path == nil {
		return private, zeros(s.suite()), nil
	}
	context := marshal(t.provisional(t.tree.rootHash()))
	commitSecret, private, err := private.openPath(t.tree, t.committer, t.path, t.added, context)
	return private, commitSecret, err
}

// committedUpdate returns the secrets of the own Update that a commit holds, nil if it holds none.
func (s *groupState) committedUpdate(t *transition) (*ownUpdate, error) {
	for _, p := range t.list.updates {
		if leafIndex(p.Sender.Leaf) != s.private.index {
			continue
		}
		i := slices.IndexFunc(s.updates, func(u ownUpdate) bool { return bytes.Equal(u.ref, p.Ref) })
		if i < 0 {
			return nil, broken("12.4.2", "an own Update comes from this state")
		}
		return &s.updates[i], nil
	}
	return nil, nil
}

// initSecret is the init_secret that the commit continues from: a copy of the epoch's own, or the external joiner's, RFC 9420 §8.3.
func (s *groupState) initSecret(t *transition) ([]byte, error) {
	if len(t.list.inits) == 0 {
		return bytes.Clone(s.secrets.init), nil
	}
	key, err := s.secrets.externalKey(s.suite())
	if err != nil {
		return nil, err
	}
	defer key.erase()
	return s.suite().exportFrom(key, t.list.inits[0].kemOutput, labelExternalInit, s.suite().HashLen())
}
