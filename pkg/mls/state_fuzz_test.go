package mls

import (
	"bytes"
	"slices"
	"testing"

	"golang.org/x/crypto/cryptobyte"
)

// vault is an arena with what a member and a server store in it, to be read again after it has been damaged.
type vault struct {
	*arena
	messages [][]byte // for alice and the server
	staged   *StagedCommit
}

func newVault(t testing.TB) *vault {
	t.Helper()
	v := &vault{arena: newArena(t)}
	v.w.rules.DataBeforeCommit = true
	bob, carol := v.bob.group, v.carol.group
	for i := range 3 { // only the last one arrives: the keys of the others are kept
		if msg := must(bob.Encrypt([]byte("text"), nil, nil))(t); i == 2 {
			must(v.alice.group.Process(msg, ProcessOptions{}))(t)
		} else {
			v.messages = append(v.messages, msg)
		}
	}
	v.aliceState = v.alice.group.Marshal()
	v.messages = append(v.messages,
		must(bob.Encrypt([]byte("text"), nil, nil))(t),
		must(bob.Commit(CommitOptions{Path: true, NoPending: true}))(t).Message,
		must(carol.Commit(CommitOptions{}))(t).Message,
		must(bob.Commit(CommitOptions{Path: true, Private: true, NoPending: true}))(t).Message,
		must(bob.Propose(Proposal{Type: testProposal, Body: []byte("other")}, ProposeOptions{}))(t),
		must(carol.Propose(Proposal{Type: ProposalUpdate}, ProposeOptions{Private: true}))(t),
	)
	v.staged = must(v.alice.group.Commit(CommitOptions{Path: true, Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: v.grace.kp}}}))(t)
	v.keys = append(v.keys, v.grace.kp.leaf.encryptionKey, v.grace.kp.leaf.signatureKey)
	return v
}

// damaged returns a state of alice's with parts of it changed. Lengths and hashes are made anew: what is changed is found by what checks it, or not at all.
func (v *vault) damaged(t testing.TB, p *pen) (public, private []byte) {
	s := must(ParseGroup(v.aliceState, v.w.rules))(t).s
	public = v.damagedPublic(p, s)
	switch p.of(8) {
	case 1:
		v.damagePrivate(p, s)
	case 2, 3:
		damageSecretTree(p, s.messages)
	case 4:
		i := p.next() % len(s.past)
		v.damagePast(p, s.past[i])
		if p.of(4) == 3 {
			slices.Reverse(s.past)
		}
	case 5:
		secret := s.secrets.all()[p.next()%len(s.secrets.all())]
		*secret = p.octets(*secret)
	case 6:
		u := &s.updates[0]
		switch p.of(4) {
		case 0:
			u.ref = p.octets(u.ref)
		case 1:
			u.key = v.grace.secrets.EncryptionKey
		case 2:
			u.signer = v.grace.secrets.SignatureKey
		case 3:
			s.updates = append(s.updates, *u)
		}
	case 7:
		s.keep = p.next()
	}
	var b cryptobyte.Builder
	b.AddUint16(stateVersion)
	s.marshalPrivate(&b)
	return public, b.BytesOrPanic()
}

// damagedPublic is the encoding of the public state with parts changed. The secret tree and the private half follow the tree's width and root.
func (v *vault) damagedPublic(p *pen, s *groupState) []byte {
	g := *s.public
	tree := loosen(g.tree)
	if p.of(2) == 1 {
		for range p.of(3) { // leaves and parents further to the right
			last := looseNode{leaf: v.grace.kp.Leaf()}
			tree = append(append(tree, make(looseTree, len(tree))...), last)
		}
		tree = p.tree(tree, func(i leafIndex, l *LeafNode) { l.sign(s.signer, g.context.groupID, i) })
		if read, err := parseRatchetTree(suite1, tree.bytes()); err == nil {
			g.context.treeHash = read.rootHash()
			if read.width() != g.tree.width() {
				s.messages = newSecretTree(suite1, uint32(read.width()), suite1.randomSecret())
			}
		}
	}
	switch p.of(8) {
	case 1:
		g.context.extensions = p.extensions(g.context.extensions)
	case 2:
		g.context.epoch ^= uint64(p.next())
	case 3:
		g.tag = p.octets(g.tag)
	case 4:
		g.context.confirmedTranscriptHash = p.octets(g.context.confirmedTranscriptHash)
	case 5:
		g.pending, g.reInit = nil, &ReInit{GroupID: p.octets([]byte("next")), Version: 1 ^ uint16(p.next()), Suite: 1 ^ CipherSuite(p.next())}
	case 6:
		g.pending = slices.Clone(g.pending)
		proposal := v.proposal(p, &Group{s})
		sender := Sender{Type: SenderType(1 + p.of(4)), Leaf: p.index(1)}
		g.pending = append(g.pending, pendingProposal{content: &authenticatedContent{wireFormat: wirePublicMessage, content: framedContent{
			groupID: g.context.groupID, epoch: g.context.epoch, sender: sender, contentType: contentProposal, proposal: &proposal,
		}}})
	case 7:
		if len(g.pending) > 0 {
			g.pending = g.pending[:p.next()%len(g.pending)]
		}
	}
	g.encoded = marshal(&g.context)
	return publicState(&g, tree.bytes())
}

// publicState is PublicGroup.Marshal with another tree.
func publicState(g *PublicGroup, tree []byte) []byte {
	var b cryptobyte.Builder
	version := uint16(publicStateVersion)
	if g.reInit != nil {
		version = publicStateVersionEnded
	}
	b.AddUint16(version)
	b.AddBytes(g.encoded)
	writeOpaque(&b, tree)
	writeOpaque(&b, g.tag)
	writeVector(&b, func(b *cryptobyte.Builder) {
		for i := range g.pending {
			g.pending[i].content.marshal(b)
		}
	})
	if g.reInit != nil {
		g.reInit.marshal(&b)
	}
	return b.BytesOrPanic()
}

// damagePrivate changes the member's half of the tree.
func (v *vault) damagePrivate(p *pen, s *groupState) {
	switch n := nodeIndex(p.next() % (2*s.public.tree.width() - 1)); p.of(4) {
	case 0:
		delete(s.private.keys, n)
	case 1:
		s.private.keys[n] = s.private.leafKey()
	case 2:
		s.private.keys[n] = v.grace.secrets.EncryptionKey
	case 3:
		s.private.index = leafIndex(p.index(uint32(s.private.index)))
	}
}

// damageSecretTree changes secrets, generations and kept keys.
func damageSecretTree(p *pen, t *secretTree) {
	width := int(t.width)
	leaf := uint32(p.next() % width)
	switch p.of(8) {
	case 0:
		t.nodes[nodeIndex(p.next()%(2*width-1))] = suite1.randomSecret()
	case 1:
		delete(t.nodes, nodeIndex(p.next()%(2*width-1)))
	case 2:
		t.width = uint32(1) << p.of(18)
	case 3:
		t.suite = CipherSuite(p.next())
	case 4:
		delete(t.ratchets, leaf)
	default:
		r := t.ratchets[leaf]
		if r == nil {
			r = &leafRatchets{{secret: suite1.randomSecret()}, {secret: suite1.randomSecret()}}
			t.ratchets[leaf] = r
		}
		x := &r[p.of(2)]
		switch p.of(4) {
		case 0:
			x.generation = p.index(x.generation)
		case 1:
			x.secret = p.octets(x.secret)
		case 2:
			x.skipped = nil
		case 3:
			for range p.next() {
				x.skipped = append(x.skipped, skippedKey{x.generation, messageKey{make([]byte, 16), make([]byte, 12)}})
				x.generation++
			}
		}
	}
}

// damagePast changes an epoch that has ended.
func (v *vault) damagePast(p *pen, e *pastEpoch) {
	switch p.of(7) {
	case 0:
		e.epoch = uint64(p.next())
	case 1:
		e.context = p.octets(e.context)
	case 2:
		e.senderData = p.octets(e.senderData)
	case 3:
		e.resumption = p.octets(e.resumption)
	case 4:
		damageSecretTree(p, e.messages)
	case 5:
		e.nodes.edit(leafIndex(p.next() % e.nodes.leaves).node()).leaf = nil
	case 6:
		e.nodes.edit(leafIndex(p.next() % e.nodes.leaves).node()).leaf = v.grace.kp.Leaf()
	}
}

// FuzzState damages what is stored of a group, of a member's and a server's, and of a commit that is not in force. Nothing of it is trusted more than that
// it does not panic: what is refused, is refused with ErrMalformed or ErrUnsupported; what is read is what was stored, and can be worked with. What
// has a valid tree stays something that can be stored and read.
func FuzzState(f *testing.F) {
	v := newVault(f)
	f.Add([]byte{})
	for part := range byte(8) { // of a member's state, each in several ways; carol's commit is merged then, which takes up an Update of alice
		for how := range byte(4) {
			f.Add([]byte{0, 0, 0, part, how, 0, 1})
			f.Add([]byte{1 + how%3, 0, part, how})
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v.w.t = t
		p := &pen{b: b, keys: v.keys}
		kind := p.of(4)
		public, private := v.damaged(t, p)
		switch kind {
		case 1:
			v.readPublic(t, public)
		case 2:
			v.readStaged(t, p)
		case 3: // as it comes from a broken disk
			state := append(private[:2:2], append(appendOpaque(nil, public), private[2:]...)...)
			at := (p.next()<<8 | p.next()) % len(state)
			state[at] ^= byte(1 + p.next())
			if g, err := ParseGroup(state, v.w.rules); refused(t, err) {
				return
			} else if !bytes.Equal(g.Marshal(), state) {
				t.Fatal("what is read is not what was stored")
			} else {
				v.goOn(t, p, g)
			}
		default:
			g, err := ParseGroupParts(public, private, v.w.rules)
			if refused(t, err) {
				return
			}
			if !bytes.Equal(g.Public().Marshal(), public) || !bytes.Equal(g.MarshalPrivate(), private) {
				t.Fatal("what is read is not what was stored")
			}
			v.goOn(t, p, g)
		}
	})
}

// refused reports whether a state was refused, for one of the reasons that there are.
func refused(t *testing.T, err error) bool {
	t.Helper()
	if err != nil && err != ErrMalformed && err != ErrUnsupported {
		t.Fatalf("a state is refused with another error: %v", err)
	}
	return err != nil
}

// readPublic reads and works with a server's state.
func (v *vault) readPublic(t *testing.T, state []byte) {
	t.Helper()
	g, err := ParsePublicGroup(state, v.w.rules)
	if refused(t, err) {
		return
	}
	if !bytes.Equal(g.Marshal(), state) {
		t.Fatal("what is read is not what was stored")
	}
	for _, msg := range v.messages {
		wantServerUnharmed(t, g, msg, state)
	}
	_, err = g.CheckGroupInfo(v.w.info)
	wantKind(t, err)
	g.Members()
	g.ExternalSenders()
	g.Pending()
}

// readStaged reads and merges a staged commit whose next state is damaged.
func (v *vault) readStaged(t *testing.T, p *pen) {
	t.Helper()
	c := *v.staged
	next := must(ParseGroup(c.next.Marshal(), v.w.rules))(t).s
	switch p.of(6) {
	case 1:
		v.damagePrivate(p, next)
	case 2:
		damageSecretTree(p, next.messages)
	case 3:
		c.joins = true
	case 4:
		next.public = v.w.server
	case 5:
		next.signer = v.grace.secrets.SignatureKey
	}
	c.next = &Group{next}
	if p.of(8) == 7 {
		c.next = nil
	}
	state := c.Marshal()
	again, err := ParseStagedCommit(state, v.w.rules)
	if refused(t, err) {
		return
	}
	if !bytes.Equal(again.Marshal(), state) {
		t.Fatal("what is read is not what was stored")
	}
	g := must(ParseGroup(v.aliceState, v.w.rules))(t)
	if err := g.Merge(again); err != nil {
		wantKind(t, err)
		return
	}
	v.goOn(t, p, g)
}

// goOn does with a group whatever can be done with one.
func (v *vault) goOn(t *testing.T, p *pen, g *Group) {
	t.Helper()
	valid := g.s.public.tree.validate(g.s.public.treeContext()) == nil
	v.shrink(t, g.s.public.tree.clone())
	var received *StagedCommit
	for _, msg := range v.messages {
		before := g.Marshal()
		got, err := g.Process(msg, ProcessOptions{PSK: testPSK})
		wantKind(t, err)
		if err != nil && !bytes.Equal(g.Marshal(), before) {
			t.Fatal("a failed Process changed the state")
		}
		if err == nil && got.Commit != nil && p.of(2) == 1 {
			received = got.Commit
		}
	}
	v.make(t, p, g)
	if received != nil {
		wantKind(t, g.Merge(received))
	} else if staged, err := g.Commit(CommitOptions{Path: true, PSK: testPSK, Proposals: []Proposal{
		{Type: ProposalRemove, Removed: p.index(4)}, {Type: ProposalAdd, KeyPackage: v.grace.kp},
	}}); err == nil {
		wantKind(t, g.Merge(staged))
	} else {
		wantKind(t, err)
	}
	v.make(t, p, g)
	state := g.Marshal()
	if again, err := ParseGroup(state, v.w.rules); valid && (err != nil || !bytes.Equal(again.Marshal(), state)) {
		t.Fatalf("what a state has become cannot be stored: %v", err)
	}
}

// shrink removes one leaf after the other, from the right, and looks for every key that is about: what has been cut off must not be found.
func (v *vault) shrink(t *testing.T, tree *ratchetTree) {
	t.Helper()
	members := tree.members()
	for _, m := range slices.Backward(members[1:]) {
		if err := tree.removeLeaf(leafIndex(m.Index)); err != nil {
			t.Fatal(err)
		}
		for _, key := range v.keys {
			tree.hasEncryptionKey(key, noNode)
			tree.hasSignatureKey(key, noNode)
		}
	}
}

// make makes each kind of message.
func (v *vault) make(t *testing.T, p *pen, g *Group) {
	t.Helper()
	_, err := g.Encrypt([]byte("text"), nil, nil)
	wantKind(t, err)
	_, err = g.Propose(Proposal{Type: ProposalUpdate}, ProposeOptions{Private: true})
	wantKind(t, err)
	_, err = g.Propose(Proposal{Type: ProposalRemove, Removed: p.index(1)}, ProposeOptions{})
	wantKind(t, err)
	_, err = g.GroupInfo(nil, true)
	wantKind(t, err)
	_, err = g.Commit(CommitOptions{Path: true, Private: true, NoPending: true})
	wantKind(t, err)
	_, err = g.Successor(SuccessorConfig{GroupID: []byte("branch"), KeyPackage: v.grace.kp, Secrets: v.grace.secrets, Members: []*KeyPackage{v.frank.kp}, Rules: v.w.rules})
	wantKind(t, err)
	_, err = g.Export("label", nil, 32)
	wantKind(t, err)
	g.ForgetEpochs(uint64(p.of(8)))
}
