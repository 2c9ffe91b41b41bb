package mls

import (
	"bytes"
	"errors"
	"slices"
	"time"
)

// noTime is the time that checks no lifetime.
var noTime time.Time

// CommitOptions says what Commit commits and how.
type CommitOptions struct {
	Proposals []Proposal // by value, in this order, before those by reference
	// NoPending leaves pending proposals out. By default those that can stand together go in by reference; if the commit is
	// invalid for all that, removals only.
	NoPending bool
	// Skip, if set, leaves a pending proposal out for which it is true.
	Skip              func(p *CommittedProposal) bool
	Path              bool        // make a path even if none is needed
	NewLeaf           *LeafChange // replaces parts of the own leaf; implies Path
	AuthenticatedData []byte
	Private           bool            // send as PrivateMessage; by default as PublicMessage
	PadTo             func(n int) int // of a Private one, as in Encrypt
	PSK               func(id []byte) ([]byte, error)
	Groups            func(groupID []byte) *Group // other groups of this client, whose resumption PSKs are used
	// HubExtensions gives extensions of StagedCommit.GroupInfo besides external_pub, WelcomeExtensions those of the Welcome's
	// GroupInfo. Both may use next, the group after the commit, to export secrets, and must not change it.
	HubExtensions     func(next *Group) ([]Extension, error)
	WelcomeExtensions func(next *Group) ([]Extension, error)
	TreeInWelcome     bool
	Now               time.Time // checks the lifetime of added KeyPackages; zero: not checked
}

// Commit makes a commit. g stays in its epoch, as it is, until the commit is merged; only a Private one uses up a key of g's handshake
// ratchet. The errors are those of PublicGroup.StageCommit, and those of the functions in opts.
func (g *Group) Commit(opts CommitOptions) (*StagedCommit, error) {
	s := g.s
	d := &commitDraft{
		public:  s.public,
		sender:  s.self(),
		signer:  s.signer,
		init:    s.secrets.init,
		psk:     pskSources{own: s, external: opts.PSK, groups: opts.Groups}.find,
		options: opts,
		keep:    s.keep,
		state:   s,
	}
	d.options.Path = opts.Path || opts.NewLeaf != nil
	var err error
	if d.leaf, d.nextSigner, err = s.changedLeaf(opts.NewLeaf); err != nil {
		return nil, err
	}
	if opts.NoPending {
		return d.make()
	}
	d.pending = s.committable(opts.Proposals, opts.Skip, d.psk)
	staged, err := d.make()
	// Proposals that are valid one by one may still not go together, by chance or by malice. Removals always do, and waiting
	// for the others must not keep a member in the group that has left it.
	if d.keepRemovals() && errors.Is(err, ErrInvalid) {
		return d.make()
	}
	return staged, err
}

// keepRemovals drops all pending proposals but removals, and reports whether there were others.
func (d *commitDraft) keepRemovals() bool {
	before := len(d.pending)
	d.pending = slices.DeleteFunc(d.pending, func(p CommittedProposal) bool {
		return p.Type != ProposalRemove && p.Type != ProposalSelfRemove
	})
	return len(d.pending) < before
}

// commitDraft is a commit of our own in the making, of a member or of an external joiner.
type commitDraft struct {
	public     *PublicGroup
	sender     Sender
	pending    []CommittedProposal // by reference
	leaf       *LeafNode           // what the path's leaf is made of
	signer     SignatureKey        // signs the commit
	nextSigner SignatureKey        // of the path's leaf
	init       []byte              // init_secret of the epoch left, or the one that ExternalInit gives
	psk        pskLookup
	options    CommitOptions
	keep       int
	state      *groupState // nil for an external joiner
	founds     bool        // the one commit of the first epoch of a successor

	// What making it gives, in this order.
	t         *transition
	path      *createdPath // nil if the commit has none
	content   *authenticatedContent
	keys      *epochKeys
	next      *Group
	handshake *ratchetStep // of a PrivateMessage
}

// make runs the steps of RFC 9420 §12.4.1.
func (d *commitDraft) make() (*StagedCommit, error) {
	if d.nextSigner.isZero() || d.nextSigner.k().suite != d.public.context.suite {
		return nil, ErrUnsupported
	}
	staged := new(StagedCommit)
	steps := []func() error{d.begin, d.makePath, d.frame, d.enter, func() error { return d.outputs(staged) }}
	for _, step := range steps {
		if err := step(); err != nil {
			d.erase()
			return nil, err
		}
	}
	d.path.erase()
	d.keys.eraseShared()
	if d.handshake != nil {
		d.state.messages.apply(d.handshake)
	}
	return staged, nil
}

// erase clears the secrets of a commit that does not come about.
func (d *commitDraft) erase() {
	d.path.erase()
	if d.keys != nil {
		d.keys.erase()
	}
	d.path, d.keys = nil, nil
}

// begin applies the proposals.
func (d *commitDraft) begin() (err error) {
	all := make([]CommittedProposal, 0, len(d.options.Proposals)+len(d.pending))
	for _, p := range d.options.Proposals {
		p = p.completed(d.public.context.suite)
		if err := p.checkOwn(); err != nil {
			return err
		}
		all = append(all, CommittedProposal{Proposal: p, Sender: d.sender})
	}
	d.t, err = d.public.begin(append(all, d.pending...), d.sender, d.options.Now)
	return err
}

// makePath makes the path if there is to be one, and checks the tree.
func (d *commitDraft) makePath() (err error) {
	t := d.t
	if t.list.needsPath || d.options.Path {
		old := t.tree.leaf(t.committer)
		d.path, err = t.tree.createPath(pathArgs{
			sender:  t.committer,
			leaf:    d.leaf,
			signer:  d.nextSigner,
			groupID: d.public.context.groupID,
			added:   t.added,
			context: func(treeHash []byte) []byte { return marshal(t.provisional(treeHash)) },
		})
		if err != nil {
			return err
		}
		t.setPath(d.path.path, old)
	}
	return t.validate()
}

// frame makes and signs the content and gives it its confirmation tag, which the new epoch's keys make.
func (d *commitDraft) frame() error {
	c := &commit{path: d.t.path}
	for i := range d.t.list.all {
		p := &d.t.list.all[i]
		if p.ByReference {
			c.proposals = append(c.proposals, proposalOrRef{ref: p.Ref})
		} else {
			c.proposals = append(c.proposals, proposalOrRef{proposal: &p.Proposal})
		}
	}
	format := wirePublicMessage
	if d.options.Private {
		format = wirePrivateMessage
	}
	d.content = &authenticatedContent{wireFormat: format, content: framedContent{
		groupID:           d.public.context.groupID,
		epoch:             d.public.context.epoch,
		sender:            d.sender,
		authenticatedData: bytes.Clone(d.options.AuthenticatedData),
		contentType:       contentCommit,
		commit:            c,
	}}
	d.content.sign(d.signer, d.public.encoded)

	next := d.t.next(d.content)
	commitSecret := zeros(next.suite)
	if d.path != nil {
		commitSecret = d.path.commitSecret
	}
	psk, err := pskSecret(next.suite, d.t.list.psks, d.psk)
	if err != nil {
		return err
	}
	d.keys = newEpochKeys(next.suite, d.init, commitSecret, psk, marshal(&next))
	d.content.auth.confirmationTag = d.keys.secrets.confirmationTag(next.suite, next.confirmedTranscriptHash)
	d.t.finish(d.content, next)
	return d.t.check()
}

// enter makes the state after the commit.
func (d *commitDraft) enter() error {
	private := d.nextPrivate()
	if err := private.check(d.t.tree); err != nil {
		return err
	}
	d.next = &Group{newGroupState(d.t.change.After, private, d.nextSigner, d.keys.secrets, d.keys.encryption, d.keep)}
	return nil
}

func (d *commitDraft) nextPrivate() *treePrivate {
	if d.path != nil {
		return d.path.private
	}
	private := d.state.private.clone()
	private.prune(d.t.tree)
	return private
}

// outputs makes the messages.
func (d *commitDraft) outputs(staged *StagedCommit) (err error) {
	*staged = StagedCommit{Change: d.t.change, content: d.content, next: d.next, joins: d.state == nil || d.founds}
	if !d.founds {
		if staged.Message, err = d.message(); err != nil {
			return err
		}
	}
	hub, err := optionalExtensions(d.options.HubExtensions, d.next)
	if err != nil {
		return err
	}
	if staged.GroupInfo, err = d.next.GroupInfo(hub, false); err != nil {
		return err
	}
	if len(d.t.added) == 0 {
		return nil
	}
	staged.Welcome, err = d.welcome()
	return err
}

func optionalExtensions(f func(next *Group) ([]Extension, error), next *Group) ([]Extension, error) {
	if f == nil {
		return nil, nil
	}
	return f(next)
}

// message frames the commit under the keys of the epoch left.
func (d *commitDraft) message() ([]byte, error) {
	if d.state == nil {
		return d.content.publicMessage(), nil
	}
	m, step, err := d.state.protect(d.content, d.options.PadTo)
	if err != nil {
		return nil, err
	}
	d.handshake = step
	return m.marshal(), nil
}

// welcome makes the Welcome for all added clients.
func (d *commitDraft) welcome() ([]byte, error) {
	exts, err := optionalExtensions(d.options.WelcomeExtensions, d.next)
	if err != nil {
		return nil, err
	}
	info, err := d.next.s.groupInfo(exts, d.options.TreeInWelcome)
	if err != nil {
		return nil, err
	}
	newcomers := make([]newcomer, len(d.t.list.adds))
	for i, p := range d.t.list.adds {
		newcomers[i].keyPackage = p.KeyPackage
		if d.path != nil {
			newcomers[i].pathSecret = d.path.secretFor(leafIndex(p.Index))
		}
	}
	w, err := newWelcome(info, d.keys.joiner, d.keys.member, d.t.list.psks, newcomers)
	if err != nil {
		return nil, err
	}
	return (&mlsMessage{welcome: w}).marshal(), nil
}

// committable returns the pending proposals that a commit by this member can take up together with those by value, in order of
// arrival. Of those that concern one leaf a self_remove goes before a Remove, that before an Update, and a later Update before an earlier one. A
// ReInit, which stands alone, is taken up if there is nothing else.
func (s *groupState) committable(byValue []Proposal, skip func(*CommittedProposal) bool, psk pskLookup) []CommittedProposal {
	if slices.ContainsFunc(byValue, func(p Proposal) bool { return p.Type == ProposalReInit }) {
		return nil
	}
	pending := s.public.Pending()
	if skip != nil {
		pending = slices.DeleteFunc(pending, func(p CommittedProposal) bool { return skip(&p) })
	}
	f := newProposalFilter(s, byValue, psk)
	chosen := make([]bool, len(pending))
	for i := range pending {
		chosen[i] = pending[i].Type == ProposalSelfRemove && f.take(&pending[i])
	}
	for i := range pending {
		p := &pending[i]
		chosen[i] = chosen[i] || p.Type != ProposalSelfRemove && p.Type != ProposalUpdate && f.take(p)
	}
	for i := range slices.Backward(pending) {
		chosen[i] = chosen[i] || pending[i].Type == ProposalUpdate && f.take(&pending[i])
	}
	var out []CommittedProposal
	for i := range pending {
		if chosen[i] {
			out = append(out, pending[i])
		}
	}
	reInit := slices.IndexFunc(pending, func(p CommittedProposal) bool { return p.Type == ProposalReInit })
	if len(byValue)+len(out) == 0 && reInit >= 0 {
		return pending[reInit : reInit+1 : reInit+1]
	}
	return out
}

// proposalFilter remembers what has been chosen for a commit.
type proposalFilter struct {
	own       leafIndex
	psk       pskLookup
	leaves    map[leafIndex]bool // updated or removed
	psks      map[string]bool
	tree      *ratchetTree
	keys      map[string]bool // of added clients
	clients   map[string]bool // that are added, if the application names them
	extension bool
}

func newProposalFilter(s *groupState, byValue []Proposal, psk pskLookup) *proposalFilter {
	f := &proposalFilter{
		own:    s.private.index,
		psk:    psk,
		leaves: map[leafIndex]bool{s.private.index: true},
		psks:   map[string]bool{},
		tree:   s.public.tree,
		keys:   map[string]bool{},

		clients: map[string]bool{},
	}
	for i := range byValue {
		// What does not fit together here is for the check of the whole list to refuse.
		f.take(&CommittedProposal{Proposal: byValue[i], Sender: s.self()})
	}
	return f
}

// take reports whether p goes with what was taken before, and takes it.
func (f *proposalFilter) take(p *CommittedProposal) bool {
	switch p.Type {
	case ProposalUpdate:
		return !seen(f.leaves, leafIndex(p.Sender.Leaf))
	case ProposalRemove, ProposalSelfRemove:
		return !seen(f.leaves, removedLeaf(p))
	case ProposalAdd:
		if p.KeyPackage == nil {
			return false
		}
		l := &p.KeyPackage.leaf
		if f.tree.hasSignatureKey(l.signatureKey, noNode) || f.tree.hasEncryptionKey(l.encryptionKey, noNode) || f.hasClient(l) {
			return false
		}
		return !seen(f.keys, string(l.signatureKey)) && !seen(f.keys, string(l.encryptionKey))
	case ProposalPSK:
		if p.PSK == nil || seen(f.psks, string(marshal(p.PSK))) {
			return false
		}
		_, err := f.psk(p.PSK)
		return err == nil
	case ProposalGroupContextExtensions:
		was := f.extension
		f.extension = true
		return !was
	case ProposalReInit:
		return false
	}
	return true
}

// hasClient reports whether the leaf's client is in the group or among those added.
func (f *proposalFilter) hasClient(l *LeafNode) bool {
	if f.tree.identity == nil {
		return false
	}
	client := f.tree.identity(l)
	return f.tree.hasClient(client, noNode) || seen(f.clients, client)
}
