package mls

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

// What the tests of RFC 9420's rules have in common: a message that is valid, one rule broken, and the refusal. The tests are named after the
// sections, and testdata/musts.txt names them.

// breach is what is wanted of a broken message: a RuleError of a section whose rule holds a text, or, if there is no section, an error.
type breach struct {
	section, text string
	err           error
}

func rule(section, text string) breach { return breach{section: section, text: text} }

func failure(err error) breach { return breach{err: err} }

func (b breach) check(t *testing.T, who string, err error) {
	t.Helper()
	if b.section == "" {
		if !errors.Is(err, b.err) {
			t.Errorf("%s: got %v, want %v", who, err, b.err)
		}
		return
	}
	r, ok := errors.AsType[*RuleError](err)
	if !ok || r.Section != b.section || !strings.Contains(r.Rule, b.text) {
		t.Errorf("%s: got %v, want §%s: %s", who, err, b.section, b.text)
	}
}

// refused gives a handshake to a member, which must not change by it, and returns its error.
func (c *client) refused(t *testing.T, msg []byte) error {
	t.Helper()
	before := c.group.Marshal()
	_, err := c.group.Process(msg, ProcessOptions{PSK: testPSK})
	if !bytes.Equal(before, c.group.Marshal()) && err != nil {
		t.Fatal("a failed Process changed the state")
	}
	return err
}

// refused gives a handshake to the server and returns its error.
func (w *world) refused(msg []byte) error {
	m, err := parseMLSMessage(msg)
	if err != nil {
		return err
	}
	if m.publicMessage != nil && m.publicMessage.content.contentType == contentProposal {
		_, _, err = w.server.AddProposal(msg, w.now)
	} else {
		_, err = w.server.StageCommit(msg, w.now)
	}
	return err
}

// bothRefuse gives a handshake to a member and to the server: both must refuse it alike.
func (w *world) bothRefuse(t *testing.T, m *client, msg []byte, want breach) {
	t.Helper()
	want.check(t, m.name, m.refused(t, msg))
	want.check(t, "server", w.refused(msg))
}

// bothTake gives a handshake to a copy of a member and to the server: both must take it.
func (w *world) bothTake(t *testing.T, m *client, msg []byte) {
	t.Helper()
	again := must(ParseGroup(m.group.Marshal(), w.rules))(t)
	if _, err := again.Process(msg, ProcessOptions{PSK: testPSK}); err != nil {
		t.Errorf("%s: %v", m.name, err)
	}
	if err := w.refused(msg); err != nil {
		t.Errorf("server: %v", err)
	}
}

// framed is a PublicMessage of content in c's name, whatever the content is.
func framed(c *client, content framedContent) []byte {
	s := c.group.s
	content.groupID, content.epoch, content.sender = s.public.context.groupID, s.public.context.epoch, s.self()
	ac := &authenticatedContent{wireFormat: wirePublicMessage, content: content}
	ac.auth.confirmationTag = make([]byte, s.suite().HashLen())
	ac.sign(s.signer, s.public.encoded)
	return (&mlsMessage{publicMessage: newPublicMessage(s.suite(), ac, s.secrets.membership, s.public.encoded)}).marshal()
}

// proposed is a standalone proposal of c that nobody has checked.
func proposed(c *client, p Proposal) []byte {
	return framed(c, framedContent{contentType: contentProposal, proposal: &p})
}

// fromOutside is a PublicMessage of a sender that is no member.
func (w *world) fromOutside(sender Sender, key SignatureKey, content framedContent) []byte {
	content.groupID, content.epoch, content.sender = w.server.GroupID(), w.server.Epoch(), sender
	ac := &authenticatedContent{wireFormat: wirePublicMessage, content: content}
	ac.auth.confirmationTag = make([]byte, w.server.Suite().HashLen())
	ac.sign(key, w.server.encoded)
	return (&mlsMessage{publicMessage: newPublicMessage(w.server.Suite(), ac, nil, nil)}).marshal()
}

// lawless is a commit of c with a path and with just the given proposals: nobody has checked them, and everything else about it fits.
func (w *world) lawless(t *testing.T, c *client, list ...CommittedProposal) []byte {
	t.Helper()
	s := c.group.s
	d := &commitDraft{
		public: s.public, sender: s.self(), leaf: s.ownLeaf(), signer: s.signer, nextSigner: s.signer,
		init: s.secrets.init, psk: pskSources{own: s, external: testPSK}.find, keep: s.keep, state: s, options: CommitOptions{Path: true},
	}
	return must(d.lawless(list))(t)
}

// lawlessJoin is an external commit with just the given proposals, likewise. Each ExternalInit gets the right content.
func (w *world) lawlessJoin(t *testing.T, c *client, list ...CommittedProposal) []byte {
	t.Helper()
	kemOutput, init, err := externalInit(must(parseGroupInfo(w.info))(t))
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		if list[i].Type == ProposalExternalInit {
			list[i].kemOutput = kemOutput
		}
	}
	d := &commitDraft{
		public: w.server, sender: Sender{Type: SenderNewMemberCommit}, leaf: c.kp.Leaf(), signer: c.secrets.SignatureKey, nextSigner: c.secrets.SignatureKey,
		init: init, psk: pskSources{external: testPSK}.find, keep: 2, options: CommitOptions{Path: true},
	}
	return must(d.lawless(list))(t)
}

// lawless makes the commit, whatever the checks on the way say. It fails if there is no way to make one at all.
func (d *commitDraft) lawless(all []CommittedProposal) ([]byte, error) {
	g := d.public
	list := &proposalList{committer: d.sender, all: all}
	for i := range all {
		_ = list.sort(&all[i], g.rules)
	}
	list.needsPath = false // d.options.Path says
	d.t = &transition{
		from: g, list: list, tree: g.tree.clone(), extensions: g.context.extensions, committer: leafIndex(d.sender.Leaf),
		change: &Change{Epoch: g.context.epoch + 1, Sender: d.sender, Proposals: all, OldLeaves: map[uint32]*LeafNode{}, Before: g},
	}
	if len(list.extensions) > 0 {
		d.t.extensions = list.extensions[0].Extensions
	}
	_ = d.t.applyProposals()
	if d.sender.Type == SenderNewMemberCommit {
		var err error
		if d.t.committer, err = d.t.tree.reserveLeaf(); err != nil {
			return nil, err
		}
	}
	if int(d.t.committer) >= d.t.tree.width() {
		return nil, ErrInvalid // it has removed itself, and the tree is too small for it now
	}
	if old, ok := list.resynced(); ok && d.t.change.OldLeaves[uint32(old)] == nil {
		d.t.change.OldLeaves[uint32(old)] = d.leaf // nobody has removed what is not there
	}
	d.t.changed = slices.DeleteFunc(d.t.changed, func(i leafIndex) bool { return d.t.tree.leaf(i) == nil }) // removed again
	if err := d.makePath(); err != nil && d.path == nil && d.options.Path {
		return nil, err
	}
	if err := d.frame(); err != nil && d.content.auth.confirmationTag == nil {
		return nil, err
	}
	return d.message()
}

// value is a proposal of c by value.
func value(c *client, p Proposal) CommittedProposal {
	return CommittedProposal{Proposal: p, Sender: c.group.s.self()}
}

// sent lets everyone take a standalone proposal of c that passes all checks, and returns it by reference.
func (w *world) sent(t *testing.T, c *client, p Proposal) CommittedProposal {
	t.Helper()
	w.propose(c, p)
	pending := w.server.Pending()
	return pending[len(pending)-1]
}

// withPath is a commit of c with a path in which change has broken something; the leaf is signed anew if resign says so.
func (w *world) withPath(t *testing.T, c *client, opts CommitOptions, resign bool, change func(u *updatePath)) []byte {
	t.Helper()
	opts.Path = true
	staged := w.stage(c, opts)
	return forge(t, c, staged.Message, func(ac *authenticatedContent) {
		u := ac.content.commit.path
		change(u)
		u.leaf.raw = nil // it is changed
		if resign {
			u.leaf.sign(c.group.s.signer, w.server.GroupID(), c.group.s.private.index)
		}
	})
}

// leafOf is an Update of c in which change has broken something; it is signed.
func leafOf(t *testing.T, c *client, change func(l *LeafNode)) Proposal {
	t.Helper()
	s := c.group.s
	leaf, _, err := s.updatedLeaf(nil)
	if err != nil {
		t.Fatal(err)
	}
	change(leaf)
	leaf.sign(s.signer, s.public.context.groupID, s.private.index)
	leaf.raw = nil // the caller may change it
	return Proposal{Type: ProposalUpdate, Leaf: leaf}
}

// packageOf is a client with a KeyPackage in which change has broken something; it is signed.
func packageOf(t *testing.T, name string, change func(kp *KeyPackage)) *client {
	t.Helper()
	c := newClient(t, name)
	change(c.kp)
	resign(c.kp, c.secrets.SignatureKey)
	c.kp.leaf.raw = nil // the caller may change it
	return c
}

// forgedJoin forges an external commit: change breaks something, the leaf and the commit are signed anew.
func (w *world) forgedJoin(t *testing.T, c *client, staged *StagedCommit, change func(ac *authenticatedContent)) []byte {
	t.Helper()
	ac := must(parseMLSMessage(staged.Message))(t).publicMessage.authenticated()
	change(ac)
	ac.content.raw = nil
	if u := ac.content.commit.path; u != nil {
		u.leaf.sign(c.secrets.SignatureKey, w.server.GroupID(), leafIndex(staged.Change.Committer.Index))
	}
	ac.sign(c.secrets.SignatureKey, w.server.encoded)
	return (&mlsMessage{publicMessage: newPublicMessage(w.server.Suite(), ac, nil, nil)}).marshal()
}

// infoOver is a GroupInfo of the current epoch in which change has broken something, over a tree, signed by c.
func (w *world) infoOver(t *testing.T, c *client, tree looseTree, change func(info *groupInfo)) []byte {
	t.Helper()
	info := must(parseGroupInfo(w.info))(t)
	info.context.treeHash, info.signer = tree.hash(), c.group.OwnIndex()
	change(info)
	info.sign(c.group.s.signer)
	return marshal(info)
}

// welcomed is a Welcome in the making that an insider forges: it fits together in every way but in what its functions break.
type welcomed struct {
	info       groupInfo
	secrets    groupSecrets
	psk        []byte // psk_secret
	tree       looseTree
	to         *KeyPackage
	signer     SignatureKey
	beforeSign func(info *groupInfo)
	afterSign  func(info *groupInfo)
}

// forgedWelcome lets c add the client to, and makes a Welcome of its own for the epoch. to's leaf is in the tree.
func (w *world) forgedWelcome(t *testing.T, c, to *client, change func(d *welcomed)) JoinConfig {
	t.Helper()
	staged := w.stage(c, CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: to.kp}}, NoPending: true})
	next := staged.Group().s
	suite := next.suite()
	d := &welcomed{
		info:    *must(next.groupInfo(nil, false))(t),
		secrets: groupSecrets{joiner: suite.randomSecret()},
		psk:     zeros(suite), tree: loosen(next.public.tree), to: to.kp, signer: next.signer,
		beforeSign: func(*groupInfo) {}, afterSign: func(*groupInfo) {},
	}
	d.info.extensions = cloneExtensions(d.info.extensions)
	before := d.tree.hash()
	change(d)
	if after := d.tree.hash(); !bytes.Equal(after, before) {
		d.info.context.treeHash = after
	}
	return d.config(t, suite, to, w.rules)
}

// config seals the Welcome.
func (d *welcomed) config(t *testing.T, suite CipherSuite, to *client, rules *Rules) JoinConfig {
	t.Helper()
	member := memberSecret(suite, d.secrets.joiner, d.psk)
	epoch, _ := newEpochSecrets(suite, epochSecret(suite, member, marshal(&d.info.context)))
	d.info.confirmationTag = epoch.confirmationTag(suite, d.info.context.confirmedTranscriptHash)
	d.beforeSign(&d.info)
	d.info.sign(d.signer)
	d.afterSign(&d.info)
	k := welcomeKey(suite, member)
	w := &welcome{suite: suite, encryptedGroupInfo: suite.Seal(k.key, k.nonce, nil, marshal(&d.info))}
	kem, ct, err := suite.EncryptWithLabel(to.kp.InitKey(), labelWelcomeHPKE, w.encryptedGroupInfo, marshal(&d.secrets))
	if err != nil {
		t.Fatal(err)
	}
	w.secrets = []encryptedGroupSecrets{{newMember: d.to.Ref(), secrets: hpkeCiphertext{kemOutput: kem, ciphertext: ct}}}
	return JoinConfig{
		Welcome: (&mlsMessage{welcome: w}).marshal(), Tree: d.tree.bytes(), KeyPackage: to.kp, Secrets: to.secrets, PSK: testPSK, Rules: rules,
	}
}

// sealed is a PrivateMessage of c that holds any plaintext, under the next key of its ratchet. c's state does not change.
func sealed(t testing.TB, c *client, kind contentType, leaf uint32, plain []byte) []byte {
	t.Helper()
	s := must(ParseGroup(c.group.Marshal(), testRules()))(t).s
	p := &privateMessage{groupID: s.public.context.groupID, epoch: s.public.context.epoch, contentType: kind}
	ratchet := handshakeRatchet
	if kind == contentApplication {
		ratchet = applicationRatchet
	}
	generation, key, _, err := s.messages.next(uint32(s.private.index), ratchet)
	if err != nil {
		t.Fatal(err)
	}
	d := senderData{leaf: leaf, generation: generation, reuseGuard: [reuseGuardLen]byte(randomBytes(reuseGuardLen))}
	p.ciphertext = s.suite().Seal(key.key, d.guarded(key.nonce), p.contentAAD(), plain)
	sd := senderDataKey(s.suite(), s.secrets.senderData, p.ciphertext)
	p.encryptedSenderData = s.suite().Seal(sd.key, sd.nonce, p.senderDataAAD(), marshal(&d))
	return (&mlsMessage{privateMessage: p}).marshal()
}
