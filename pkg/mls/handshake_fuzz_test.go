package mls

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

// arena is a group whose members and server are given handshakes that one of the members, a joiner, an external sender or a client from outside has made
// up: well signed and framed, and wrong in one way or another.
type arena struct {
	w                        *world
	alice, bob, carol, frank *client
	grace                    *client // not in the group
	hub                      SignatureKey
	bobState, carolState     []byte
	aliceState               []byte
	keys                     [][]byte
}

// testRare is a proposal type that one member of the arena does not know.
const testRare = testNeedsPath + 1

func newArena(t testing.TB) *arena {
	t.Helper()
	w := newWorld(t)
	w.rules.Proposals[testRare] = ProposalRule{ByReference: true}
	w.rules.Identity = func(l *LeafNode) string { return string(l.credential.Body) }
	for _, name := range []string{"alice", "bob", "carol", "dave", "frank", "grace", "heidi"} {
		c := &client{name: name, adapt: func(cfg *KeyPackageConfig) {
			cfg.Capabilities.Proposals = append(slices.Clone(cfg.Capabilities.Proposals), testRare)
		}}
		c.renew(t)
		w.clients[name] = c
	}
	a := &arena{w: w, alice: w.client("alice"), bob: w.client("bob"), carol: w.client("carol"), frank: w.client("frank"), grace: w.client("grace")}
	a.hub = must(suite1.GenerateSignatureKey())(t)
	w.run("alice: creates\nalice: adds bob carol\nbob: updates\ncarol: updates\ndave: joins")
	w.commit(a.alice, CommitOptions{Proposals: []Proposal{{Type: ProposalGroupContextExtensions, Extensions: []Extension{
		{testGroupExtension, []byte("policy")}, ExternalSendersExtension(ExternalSender{a.hub.Public(), Credential{CredentialBasic, []byte("hub")}}),
	}}}})
	w.run("dave: updates\nalice: adds erin")
	w.run("alice: proposes-custom body\nbob: proposes-update\nalice: proposes-update\nbob: proposes-update\nalice: proposes-add heidi\ncarol: proposes-remove dave\ndave: leaves")
	w.outside(must(w.server.ExternalProposal(a.hub, Proposal{Type: ProposalRemove, Removed: a.bob.group.OwnIndex()}, nil))(t))
	a.aliceState, a.bobState, a.carolState = a.alice.group.Marshal(), a.bob.group.Marshal(), a.carol.group.Marshal()
	w.info = must(a.alice.group.GroupInfo(nil, false))(t)
	for _, m := range w.server.Members() {
		a.keys = append(a.keys, m.Leaf.encryptionKey, m.Leaf.signatureKey)
	}
	l := loosen(w.server.tree)
	for i := range l {
		if l[i].parent != nil {
			a.keys = append(a.keys, l[i].parent.encryptionKey)
		}
	}
	return a
}

// made is a handshake and what only a member can see of it.
type made struct {
	msg       []byte
	tagged    bool // the membership tag is right
	confirmed bool // the confirmation tag is that of its maker
}

// anyPSK is testPSK, and makes up what it does not have: the maker of a commit may name PSKs that nobody knows.
func anyPSK(find pskLookup) pskLookup {
	return func(id *PSKID) ([]byte, error) {
		if psk, err := find(id); err == nil {
			return psk, nil
		}
		return []byte("made up"), nil
	}
}

// proposal draws a proposal of somebody, changed somehow.
func (a *arena) proposal(p *pen, author *Group) Proposal {
	switch p.of(10) {
	case 1:
		return Proposal{Type: ProposalAdd, KeyPackage: p.keyPackage(a.grace.kp, a.grace.secrets.SignatureKey)}
	case 2:
		leaf := author.OwnLeaf().clone()
		leaf.source, leaf.parentHash, leaf.encryptionKey = LeafFromUpdate, nil, a.grace.kp.leaf.encryptionKey
		leaf = p.leaf(leaf)
		if p.of(4) != 3 {
			leaf.sign(author.s.signer, a.w.server.GroupID(), author.s.private.index)
		}
		return Proposal{Type: ProposalUpdate, Leaf: leaf}
	case 3:
		return Proposal{Type: ProposalRemove, Removed: p.index(1)}
	case 4:
		id := &PSKID{ID: []byte("known"), Nonce: p.octets(make([]byte, 32))}
		if p.of(3) == 2 {
			id = &PSKID{Usage: PSKUsage(1 + p.of(3)), GroupID: p.octets([]byte("group")), Epoch: a.w.server.Epoch() - uint64(p.of(4)), Nonce: id.Nonce}
		}
		return Proposal{Type: ProposalPSK, PSK: id}
	case 5:
		return Proposal{Type: ProposalReInit, ReInit: &ReInit{
			GroupID: p.octets([]byte("next")), Version: 1 ^ uint16(p.next()), Suite: 1 ^ CipherSuite(p.next()), Extensions: p.extensions(nil),
		}}
	case 6:
		return Proposal{Type: ProposalExternalInit, kemOutput: p.octets(make([]byte, 32))}
	case 7:
		return Proposal{Type: ProposalGroupContextExtensions, Extensions: p.extensions(a.w.server.Extensions())}
	case 8:
		return Proposal{Type: ProposalSelfRemove}
	case 9:
		return Proposal{Type: testNeedsPath + ProposalType(p.of(3)), Body: p.octets(nil)}
	}
	return Proposal{Type: testProposal, Body: []byte("body")}
}

// list draws what a commit holds: pending proposals by reference and new ones by value.
func (a *arena) list(p *pen, author *Group, sender Sender) []CommittedProposal {
	var all []CommittedProposal
	pending := a.w.server.Pending()
	for range p.of(4) {
		if c := p.of(3); c == 2 {
			all = append(all, pending[p.next()%len(pending)])
		} else {
			all = append(all, CommittedProposal{Proposal: a.proposal(p, author), Sender: sender})
		}
	}
	return all
}

// handshake makes a message, nil if the bytes give none.
func (a *arena) handshake(p *pen) *made {
	author := must(ParseGroup(a.aliceState, a.w.rules))(a.w.t)
	s := author.s
	server := a.w.server
	content := framedContent{groupID: server.GroupID(), epoch: server.Epoch(), sender: s.self(), contentType: contentProposal}
	signer := s.signer
	switch p.of(7) {
	case 0: // a commit of alice
		d := &commitDraft{
			public: s.public, sender: s.self(), leaf: p.leaf(s.ownLeaf()), signer: signer, nextSigner: signer, init: s.secrets.init,
			psk: anyPSK(pskSources{own: s, external: testPSK}.find), keep: 2, state: s, options: CommitOptions{Path: p.of(4) != 3},
		}
		b, err := d.lawless(a.list(p, author, s.self()))
		if err != nil {
			return nil
		}
		return a.reframed(p, b, signer, s)
	case 1: // an external commit of frank
		kemOutput, init, err := externalInit(must(parseGroupInfo(a.w.info))(a.w.t))
		if err != nil {
			a.w.t.Fatal(err)
		}
		sender := Sender{Type: SenderNewMemberCommit}
		all := []CommittedProposal{{Proposal: Proposal{Type: ProposalExternalInit, kemOutput: p.octets(kemOutput)}, Sender: sender}}
		signer = a.frank.secrets.SignatureKey
		d := &commitDraft{
			public: server, sender: sender, leaf: p.leaf(a.frank.kp.Leaf()), signer: signer, nextSigner: signer, init: init,
			psk: anyPSK(pskSources{external: testPSK}.find), keep: 2, options: CommitOptions{Path: true},
		}
		b, err := d.lawless(append(all, a.list(p, author, sender)...))
		if err != nil {
			return nil
		}
		return a.reframed(p, b, signer, s)
	case 2: // a proposal of an external sender
		content.sender, signer = Sender{SenderExternal, p.index(0)}, a.hub
	case 3: // a proposal from outside
		content.sender, signer = Sender{Type: SenderNewMemberProposal}, a.grace.secrets.SignatureKey
	case 4: // application data
		content.contentType, content.application = contentApplication, p.octets([]byte("text"))
	}
	if content.contentType == contentProposal {
		proposal := a.proposal(p, author)
		content.proposal = &proposal
	}
	content.authenticatedData = p.octets(nil)
	ac := &authenticatedContent{wireFormat: wirePublicMessage, content: content}
	ac.sign(signer, s.public.encoded)
	return a.reframed(p, (&mlsMessage{publicMessage: newPublicMessage(suite1, ac, s.secrets.membership, s.public.encoded)}).marshal(), signer, s)
}

// reframed changes a made message, or leaves it as it is, and signs and tags it anew.
func (a *arena) reframed(p *pen, msg []byte, signer SignatureKey, s *groupState) *made {
	m, err := parseMLSMessage(msg)
	if err != nil {
		return nil // what was made up has no encoding that a parser takes
	}
	out := &made{tagged: true, confirmed: true}
	ac := m.publicMessage.authenticated()
	c := &ac.content
	switch p.of(12) {
	case 1:
		if c.commit != nil && c.commit.path != nil {
			c.commit.path = p.path(c.commit.path)
			if p.of(4) != 3 {
				c.commit.path.leaf.sign(signer, a.w.server.GroupID(), s.private.index)
			}
		}
	case 2:
		if c.commit != nil {
			c.commit.path = nil
		}
	case 3:
		if c.commit != nil {
			pending := a.w.server.Pending()
			c.commit.proposals = append(c.commit.proposals, proposalOrRef{ref: p.octets(pending[p.next()%len(pending)].Ref)})
		}
	case 4:
		c.groupID = p.octets(c.groupID)
	case 5:
		c.epoch ^= uint64(p.next())
	case 6:
		c.sender = Sender{Type: SenderType(1 + p.of(4)), Leaf: p.index(c.sender.Leaf)}
	case 7:
		before := ac.auth.confirmationTag
		ac.auth.confirmationTag = p.octets(before)
		out.confirmed = bytes.Equal(before, ac.auth.confirmationTag)
	case 8:
		ac.wireFormat = wirePrivateMessage // what is signed is not what is sent
	case 9:
		if c.commit != nil {
			c.commit.proposals = c.commit.proposals[:len(c.commit.proposals)/2]
		}
	case 10:
		signer = a.grace.secrets.SignatureKey
	case 11:
		c.authenticatedData = []byte("refuse")
	default:
		out.msg = msg
		return out
	}
	c.raw = nil
	ac.sign(signer, s.public.encoded)
	ac.wireFormat = wirePublicMessage
	pm := newPublicMessage(suite1, ac, s.secrets.membership, s.public.encoded)
	if p.of(8) == 7 && len(pm.membershipTag) > 0 {
		pm.membershipTag[0] ^= 1
		out.tagged = false
	}
	out.msg = (&mlsMessage{publicMessage: pm}).marshal()
	return out
}

// FuzzHandshake gives two members and the server made-up handshakes. What the server and a member say of one is related so:
//
//   - A member refuses what the server refuses, and for the same reason: the same kind of error with the same text. There are three exceptions. If the
//     membership tag is false, which a server cannot see, the member says ErrUnauthenticated. A commit that does not lead to the epoch that it says is a
//     CommitError to a member, before it asks the rules of the application; a server asks them at once. And a message that is neither proposal nor commit
//     is called by another name.
//   - A member takes what the server takes, unless the membership tag is false, or it is a commit whose path or confirmation tag or PSK is wrong for the
//     member: a CommitError. The two then have the same next public state. A commit with a false confirmation tag is taken by those only that it removes.
//   - Two members that take a commit, and stay, have the same epoch authenticator.
//   - Whatever is refused changes nothing; whatever is taken leads to a valid tree and to a state that is what is stored.
func FuzzHandshake(f *testing.F) {
	a := newArena(f)
	for _, seed := range []string{"", "\x00\x01\x00\x03", "\x01", "\x02", "\x03\x01", "\x04", "\x05\x02", "\x06\x07", "\x00\x00\x00\x02\x02\x01\x02\x05", "\x00\x00\x00\x01\x00\x07\x04"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a.w.t = t
		p := &pen{b: b, keys: a.keys}
		if m := a.handshake(p); m != nil {
			a.agree(t, m)
		}
	})
}

// agree gives the message to all and compares.
func (a *arena) agree(t *testing.T, made *made) {
	t.Helper()
	msg := made.msg
	before := a.w.server.Marshal()
	m, err := parseMLSMessage(msg)
	kind := contentCommit
	if err == nil {
		kind = m.publicMessage.content.contentType
	}
	var after *PublicGroup
	var atServer error
	if kind == contentProposal {
		after, _, atServer = a.w.server.AddProposal(msg, noTime)
	} else if change, err := a.w.server.StageCommit(msg, noTime); err != nil {
		atServer = err
	} else {
		after = change.After
	}
	if !bytes.Equal(a.w.server.Marshal(), before) {
		t.Fatal("the server changed")
	}
	if atServer == nil {
		if err := after.tree.validate(after.treeContext()); err != nil {
			t.Fatalf("the server takes what leads to an invalid tree: %v", err)
		}
		if again := must(ParsePublicGroup(after.Marshal(), a.w.rules))(t); !bytes.Equal(again.Marshal(), after.Marshal()) {
			t.Fatal("the server's next state is not what it stores")
		}
	} else if errorKinds(atServer) != 1 && atServer != errTestRule {
		t.Fatalf("an error of no kind, or of several: %v", atServer)
	}
	var authenticators [][]byte
	for _, state := range [][]byte{a.bobState, a.carolState} {
		g := must(ParseGroup(state, a.w.rules))(t)
		got, err := g.Process(msg, ProcessOptions{PSK: testPSK})
		a.compare(t, kind, made.tagged, atServer, err)
		if err != nil {
			if !bytes.Equal(g.Marshal(), state) {
				t.Fatal("a refused message changed a member's state")
			}
			continue
		}
		if got.Commit != nil {
			if !bytes.Equal(got.Commit.Change.After.Marshal(), after.Marshal()) {
				t.Fatal("server and member do not agree on what a commit does")
			}
			again := must(ParseStagedCommit(got.Commit.Marshal(), a.w.rules))(t)
			if !bytes.Equal(again.Marshal(), got.Commit.Marshal()) {
				t.Fatal("a staged commit is not what is stored")
			}
			if got.Commit.RemovesSelf() {
				continue
			}
			if !made.confirmed {
				t.Fatal("a member takes a commit with a false confirmation tag")
			}
			if err := g.Merge(again); err != nil {
				t.Fatal(err)
			}
			authenticators = append(authenticators, g.EpochAuthenticator())
		}
		if !bytes.Equal(g.Public().Marshal(), after.Marshal()) {
			t.Fatal("server and member do not agree")
		}
		if again := must(ParseGroup(g.Marshal(), a.w.rules))(t); !bytes.Equal(again.Marshal(), g.Marshal()) {
			t.Fatal("a member's next state is not what it stores")
		}
	}
	if len(authenticators) == 2 && !bytes.Equal(authenticators[0], authenticators[1]) {
		t.Fatal("two members take a commit and do not agree on the epoch")
	}
}

// compare holds the relation between what the server and a member say.
func (a *arena) compare(t *testing.T, kind contentType, tagged bool, atServer, atMember error) {
	t.Helper()
	_, late := errors.AsType[*CommitError](atMember)
	switch {
	case !tagged:
		if atMember == nil {
			t.Fatal("a member takes a message with a false membership tag")
		}
	case kind == contentApplication:
		if atServer == nil || atMember == nil {
			t.Fatal("application data in a PublicMessage")
		}
	case late:
		if kind != contentCommit || atServer != nil && atServer != errTestRule {
			t.Fatalf("the server says %v, and a member that the commit does not lead anywhere", atServer)
		}
	case atServer == nil && atMember != nil:
		t.Fatalf("the server takes what a member refuses: %v", atMember)
	case atServer != nil && atMember == nil:
		t.Fatalf("a member takes what the server refuses: %v", atServer)
	case atServer != nil && atServer.Error() != atMember.Error():
		t.Fatalf("server: %v; member: %v", atServer, atMember)
	}
}
