package mls

import (
	"bytes"
	"slices"
	"testing"
)

// doorway is the epoch in which grace has been added to a group: what Join, JoinExternal and NewPublicGroup are given there is made up, as an insider can
// that holds the keys of all members.
type doorway struct {
	rules        *Rules
	grace, frank *client // one has been added, the other comes by itself
	server       *PublicGroup
	info         *groupInfo
	secrets      *groupSecrets // of the Welcome
	tree         looseTree
	signers      map[leafIndex]SignatureKey
	keys         [][]byte
	others       map[string]*Group // grace's other groups, of the same clients; a ReInit to this one has ended one of them
}

func newDoorway(t testing.TB) *doorway {
	t.Helper()
	w := newWorld(t)
	w.run("alice: creates\nalice: adds bob carol dave\nbob: updates\ncarol: updates\ndave: updates\nalice: adds erin")
	grace := newClient(t, "grace")
	staged := w.stage(w.client("alice"), CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: grace.kp}}, Path: true})
	welcome, _, err := parseWelcome(staged.Welcome)
	if err != nil {
		t.Fatal(err)
	}
	d := &doorway{
		rules: w.rules, grace: grace, frank: newClient(t, "frank"), server: staged.Change.After,
		info:    must(parseGroupInfo(staged.GroupInfo))(t),
		secrets: must(welcome.open(grace.kp, grace.secrets.InitKey))(t),
		tree:    loosen(staged.Change.After.tree),
		signers: map[leafIndex]SignatureKey{leafIndex(staged.Change.Added[0].Index): grace.secrets.SignatureKey},
	}
	for _, m := range w.members() {
		d.signers[leafIndex(m.group.OwnIndex())] = m.secrets.SignatureKey
	}
	d.info.extensions = d.info.extensions[:1] // external_pub
	for n := range d.tree {
		if key := d.tree.key(n); key != nil {
			d.keys = append(d.keys, key)
		}
	}
	d.keys = append(d.keys, d.frank.kp.leaf.encryptionKey, d.frank.kp.leaf.signatureKey)
	d.others = map[string]*Group{"old": olderGroup(t, "old"), "ended": olderGroup(t, "ended", Proposal{Type: ProposalReInit, ReInit: &ReInit{
		GroupID: d.info.context.groupID, Suite: suite1, Extensions: d.info.context.extensions,
	}})}
	return d
}

// olderGroup is grace's state in another group of the same clients, after a last commit.
func olderGroup(t testing.TB, id string, last ...Proposal) *Group {
	t.Helper()
	w := newWorld(t)
	w.id = id
	w.run("alice: creates\nalice: adds bob carol dave erin grace")
	w.commit(w.client("alice"), CommitOptions{Proposals: last})
	return w.client("grace").group
}

// group is JoinConfig.Groups.
func (d *doorway) group(id []byte) *Group { return d.others[string(id)] }

// signer signs in the name of a leaf, grace where nobody is.
func (d *doorway) signer(i leafIndex) SignatureKey {
	if key, ok := d.signers[i]; ok {
		return key
	}
	return d.grace.secrets.SignatureKey
}

// entrance is what a newcomer is given.
type entrance struct {
	info, tree, welcome []byte
	signed, confirmed   bool // signature and confirmation tag are those of the maker
}

// entrance makes one, nil if the bytes give none.
func (d *doorway) entrance(t testing.TB, p *pen) *entrance {
	info := *d.info
	info.extensions = cloneExtensions(info.extensions)
	out := &entrance{signed: true, confirmed: true}
	if p.of(2) == 1 {
		tree := p.tree(d.tree, func(i leafIndex, l *LeafNode) { l.sign(d.signer(i), info.context.groupID, i) })
		out.tree = tree.bytes()
		if hash := tree.hash(); hash != nil {
			info.context.treeHash = hash
		}
	} else {
		out.tree = d.tree.bytes()
	}
	d.context(p, &info.context)
	switch p.of(6) {
	case 1:
		info.extensions = p.extensions(info.extensions)
	case 2:
		info.extensions[0].Data = p.octets(info.extensions[0].Data)
	case 3:
		info.extensions[0].Data = marshalExternalPub(p.octets(p.keys[0]))
	case 4:
		info.extensions, out.tree = append(info.extensions, Extension{ExtensionRatchetTree, p.octets(out.tree)}), nil
	case 5:
		info.signer = p.index(info.signer)
	}
	secrets, psk, err := d.groupSecrets(p)
	if err != nil {
		t.Fatal(err)
	}
	member := memberSecret(suite1, secrets.joiner, psk)
	epoch, _ := newEpochSecrets(suite1, epochSecret(suite1, member, marshal(&info.context)))
	tag := epoch.confirmationTag(suite1, info.context.confirmedTranscriptHash)
	info.confirmationTag = tag
	if p.of(6) == 5 {
		info.confirmationTag = p.octets(tag)
		out.confirmed = bytes.Equal(tag, info.confirmationTag)
	}
	info.sign(d.signer(leafIndex(info.signer)))
	if p.of(8) == 7 {
		signature := info.signature
		info.signature = p.octets(signature)
		out.signed = bytes.Equal(signature, info.signature)
	}
	out.info = (&mlsMessage{groupInfo: &info}).marshal()
	out.welcome, err = d.sealed(p, &info, member, secrets)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// context changes a GroupContext.
func (d *doorway) context(p *pen, c *groupContext) {
	switch p.of(9) {
	case 1:
		c.groupID = p.octets(c.groupID)
	case 2:
		c.epoch ^= uint64(p.next())
	case 3:
		c.extensions = p.extensions(c.extensions)
	case 4:
		c.confirmedTranscriptHash = p.octets(c.confirmedTranscriptHash)
	case 5:
		c.treeHash = p.octets(c.treeHash)
	case 6:
		c.suite ^= CipherSuite(p.next())
	case 7:
		c.version ^= protocolVersion(p.next())
	case 8:
		c.epoch = 1 // of a successor or a branch
	}
}

// groupSecrets makes what the Welcome tells grace, and the psk_secret that goes with it.
func (d *doorway) groupSecrets(p *pen) (*groupSecrets, []byte, error) {
	s := *d.secrets
	switch p.of(8) {
	case 1:
		s.joiner = p.octets(s.joiner)
	case 2:
		s.pathSecret = p.octets(s.pathSecret)
	case 3:
		s.pathSecret = nil
	case 4:
		s.psks = []*PSKID{{ID: []byte("known"), Nonce: p.octets(make([]byte, 32))}}
	case 5:
		s.psks = []*PSKID{{ID: p.octets([]byte("known")), Nonce: make([]byte, 32)}}
	case 6:
		for range 1 + p.of(2) {
			id := []string{"old", "ended"}[p.of(2)]
			s.psks = append(s.psks, &PSKID{
				Usage: PSKUsage(1 + p.of(3)), GroupID: p.someOctets([]byte(id)), Epoch: d.others[id].Epoch() ^ uint64(p.next()), Nonce: make([]byte, 32),
			})
		}
	}
	psk, err := pskSecret(suite1, s.psks, anyPSK(pskSources{external: testPSK, groups: d.group}.find))
	return &s, psk, err
}

// sealed is the Welcome.
func (d *doorway) sealed(p *pen, info *groupInfo, member []byte, secrets *groupSecrets) ([]byte, error) {
	k := welcomeKey(suite1, member)
	w := &welcome{suite: suite1, encryptedGroupInfo: suite1.Seal(k.key, k.nonce, nil, p.someOctets(marshal(info)))}
	kem, ct, err := suite1.EncryptWithLabel(d.grace.kp.InitKey(), labelWelcomeHPKE, w.encryptedGroupInfo, p.someOctets(marshal(secrets)))
	if err != nil {
		return nil, err
	}
	e := encryptedGroupSecrets{newMember: d.grace.kp.Ref(), secrets: hpkeCiphertext{kem, ct}}
	switch p.of(8) {
	case 1:
		w.suite ^= CipherSuite(p.next())
	case 2:
		e.newMember = p.octets(e.newMember)
	case 3:
		e.secrets.kemOutput = p.octets(kem)
	case 4:
		e.secrets.ciphertext = p.octets(ct)
	case 5:
		w.encryptedGroupInfo = p.octets(w.encryptedGroupInfo)
	case 6:
		w.secrets = []encryptedGroupSecrets{e}
	}
	w.secrets = append(w.secrets, e)
	return (&mlsMessage{welcome: w}).marshal(), nil
}

// someOctets changes a string now and then.
func (p *pen) someOctets(v []byte) []byte {
	if p.of(8) == 7 {
		return p.octets(v)
	}
	return v
}

// FuzzJoin gives a made-up GroupInfo, tree and Welcome to a server, to a client that joins by itself and to one that has been added.
//
//   - A client joins no group that a server does not take. One that comes by itself gives the server's reason.
//   - Nothing is taken whose signature is false, and by the Welcome no false confirmation tag.
//   - A group that is taken is valid and what is stored of it, and goes on: the server takes the commit by which a client comes in, and the one that
//     whoever has been added makes next.
//   - A server that follows the group takes the GroupInfo of its own epoch only.
func FuzzJoin(f *testing.F) {
	d := newDoorway(f)
	for _, seed := range []string{"", "\x01", "\x01\x02\x03\x04", "\x00\x01", "\x00\x00\x01\x02", "\x00\x00\x00\x01", "\x00\x00\x00\x04", "\x00\x00\x00\x00\x05\x01", "\x01\x01\x02\x05\x01"} {
		f.Add([]byte(seed))
	}
	for usage := range byte(3) { // of PSKs of the two other groups, in the first epoch
		f.Add([]byte{0, 8, 0, 6, 0, 0, usage})
		f.Add([]byte{0, 8, 0, 6, 0, 1, usage})
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e := d.entrance(t, &pen{b: b, keys: d.keys})
		public, err := NewPublicGroup(e.info, e.tree, d.rules)
		wantKind(t, err)
		if err == nil {
			d.publicJoined(t, e, public)
		}
		if got, err := d.server.CheckGroupInfo(e.info); err == nil && !(e.signed && bytes.Equal(got.GroupContext, d.server.encoded) && bytes.Equal(got.ConfirmationTag, d.server.tag)) {
			t.Fatal("the server takes a GroupInfo that is not of its epoch")
		} else {
			wantKind(t, err)
		}
		d.joinsByItself(t, e, public, err)
		d.joinsByWelcome(t, e, public, err)
	})
}

// wantKind wants an error, if there is one, to be of one kind or the test application's.
func wantKind(t *testing.T, err error) {
	t.Helper()
	if err != nil && err != errTestRule && errorKinds(err) != 1 {
		t.Fatalf("an error of no kind, or of several: %v", err)
	}
}

// publicJoined checks what a server has taken.
func (d *doorway) publicJoined(t *testing.T, e *entrance, public *PublicGroup) {
	t.Helper()
	if !e.signed {
		t.Fatal("a false signature is taken")
	}
	if err := public.tree.validate(public.treeContext()); err != nil {
		t.Fatalf("an invalid tree is taken: %v", err)
	}
	if again := must(ParsePublicGroup(public.Marshal(), d.rules))(t); !bytes.Equal(again.Marshal(), public.Marshal()) {
		t.Fatal("a joined group is not what is stored")
	}
	if _, err := public.CheckGroupInfo(e.info); err != nil {
		t.Fatalf("a group refuses the GroupInfo that it comes from: %v", err)
	}
}

// joinsByItself lets frank come in. public is what a server has made of the same, or atServer why not.
func (d *doorway) joinsByItself(t *testing.T, e *entrance, public *PublicGroup, atServer error) {
	t.Helper()
	staged, err := JoinExternal(ExternalJoinConfig{
		GroupInfo: e.info, Tree: e.tree, KeyPackage: d.frank.kp, Secrets: d.frank.secrets, Rules: d.rules, PSK: testPSK,
	})
	wantKind(t, err)
	if atServer != nil {
		if err == nil || err.Error() != atServer.Error() && err != ErrUnsupported {
			t.Fatalf("the server says %v, a joiner %v", atServer, err)
		}
		return
	}
	if err != nil {
		return
	}
	change, err := public.StageCommit(staged.Message, noTime)
	if err != nil {
		t.Fatalf("the server refuses an external commit: %v", err)
	}
	if _, err := change.After.CheckGroupInfo(staged.GroupInfo); err != nil {
		t.Fatalf("the server refuses the GroupInfo of an external commit: %v", err)
	}
	if again := must(ParseStagedCommit(staged.Marshal(), d.rules))(t); !bytes.Equal(again.Marshal(), staged.Marshal()) {
		t.Fatal("an external commit is not what is stored")
	}
}

// joinsByWelcome lets grace come in, and go on.
func (d *doorway) joinsByWelcome(t *testing.T, e *entrance, public *PublicGroup, atServer error) {
	t.Helper()
	g, out, err := Join(JoinConfig{Welcome: e.welcome, Tree: e.tree, KeyPackage: d.grace.kp, Secrets: d.grace.secrets, Rules: d.rules, PSK: testPSK, Groups: d.group})
	wantKind(t, err)
	if err != nil {
		return
	}
	if out.Predecessor != nil && g.Epoch() != 1 {
		t.Fatal("a successor is joined after its first epoch")
	}
	if atServer != nil || !e.confirmed {
		t.Fatalf("a client joins where a server does not (%v), or where the confirmation tag is false", atServer)
	}
	if again := must(ParseGroup(g.Marshal(), d.rules))(t); !bytes.Equal(again.Marshal(), g.Marshal()) {
		t.Fatal("a joined group is not what is stored")
	}
	must(g.Encrypt([]byte("text"), nil, nil))(t)
	staged, err := g.Commit(CommitOptions{Path: true})
	if err != nil {
		t.Fatalf("a newcomer cannot commit: %v", err)
	}
	if _, err := public.StageCommit(staged.Message, noTime); err != nil {
		t.Fatalf("the server refuses the commit of a newcomer: %v", err)
	}
	if err := g.Merge(staged); err != nil {
		t.Fatal(err)
	}
	if len(slices.Collect(g.s.public.tree.directPath(g.s.private.index))) > maxPathNodes {
		t.Fatal("a path is too long")
	}
}
