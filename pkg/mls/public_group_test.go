package mls

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/crypto/cryptobyte"
)

func TestNewPublicGroupChecks(t *testing.T) {
	w, alice, _, _ := threeWorld(t)
	tree := w.server.Tree()
	info := must(alice.group.GroupInfo([]Extension{{testInfoExtension, []byte("x")}}, false))(t)
	withTree := must(alice.group.GroupInfo(nil, true))(t)
	for name, b := range map[string][]byte{"message": info, "bare": must(ParseGroupInfo(info))(t).Raw} {
		g := must(NewPublicGroup(b, tree, w.rules))(t)
		wantBytes(t, name, g.Marshal(), w.server.Marshal())
	}
	wantBytes(t, "tree inside", must(NewPublicGroup(withTree, nil, w.rules))(t).Marshal(), w.server.Marshal())

	change := func(f func(g *groupInfo)) []byte {
		g := must(parseGroupInfo(info))(t)
		f(g)
		return marshal(g)
	}
	for name, c := range map[string]struct {
		info, tree []byte
		want       error
	}{
		"no tree":        {info, nil, ErrInvalid},
		"another tree":   {info, append(bytes.Clone(tree[:1]), tree[1:len(tree)-1]...), ErrMalformed},
		"signature":      {change(func(g *groupInfo) { g.signature[0] ^= 1 }), tree, ErrUnauthenticated},
		"tag":            {change(func(g *groupInfo) { g.confirmationTag[0] ^= 1 }), tree, ErrUnauthenticated},
		"extensions":     {change(func(g *groupInfo) { g.extensions = nil }), tree, ErrUnauthenticated},
		"signer":         {change(func(g *groupInfo) { g.signer = 1 }), tree, ErrUnauthenticated},
		"blank signer":   {change(func(g *groupInfo) { g.signer = 3 }), tree, ErrInvalid},
		"tree hash":      {change(func(g *groupInfo) { g.context.treeHash[0] ^= 1 }), tree, ErrInvalid},
		"other suite":    {change(func(g *groupInfo) { g.context.suite = 2 }), tree, ErrUnauthenticated},
		"unknown suite":  {change(func(g *groupInfo) { g.context.suite = 8 }), tree, ErrUnsupported},
		"other version":  {change(func(g *groupInfo) { g.context.version = 2 }), tree, ErrUnsupported},
		"something else": {tree, tree, nil},
	} {
		if _, err := NewPublicGroup(c.info, c.tree, w.rules); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

func TestCheckGroupInfo(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	old := w.info
	w.run("alice: updates")
	sign := func(f func(g *groupInfo)) []byte {
		g := must(parseGroupInfo(w.info))(t)
		f(g)
		g.sign(alice.group.s.signer)
		return marshal(g)
	}
	info := must(w.server.CheckGroupInfo(w.info))(t)
	if data, ok := info.Extension(testInfoExtension); !ok || len(data) != 32 || info.Signer != 0 || info.Epoch != w.server.Epoch() || info.Suite != suite1 {
		t.Errorf("%+v", info)
	}
	if _, err := w.server.CheckGroupInfo(must(bob.group.GroupInfo(nil, false))(t)); err != nil {
		t.Errorf("of another member: %v", err)
	}
	for name, c := range map[string]struct {
		info []byte
		want error
	}{
		"old":            {old, ErrStaleEpoch},
		"group":          {sign(func(g *groupInfo) { g.context.groupID = []byte("x") }), ErrInvalid},
		"tag":            {sign(func(g *groupInfo) { g.confirmationTag[0] ^= 1 }), ErrInvalid},
		"short tag":      {sign(func(g *groupInfo) { g.confirmationTag = nil }), ErrInvalid},
		"extensions":     {sign(func(g *groupInfo) { g.context.extensions = nil }), ErrInvalid},
		"transcript":     {sign(func(g *groupInfo) { g.context.confirmedTranscriptHash[0] ^= 1 }), ErrInvalid},
		"other signer":   {sign(func(g *groupInfo) { g.signer = 1 }), ErrUnauthenticated},
		"blank signer":   {sign(func(g *groupInfo) { g.signer = 77 }), ErrInvalid},
		"malformed":      {w.info[:20], ErrMalformed},
		"something else": {w.server.Tree(), nil},
	} {
		if _, err := w.server.CheckGroupInfo(c.info); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

func TestExternalJoinChecks(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	dave := newClient(t, "dave")
	w.clients["dave"] = dave
	join := func(change func(cfg *ExternalJoinConfig)) error {
		cfg := ExternalJoinConfig{GroupInfo: w.info, Tree: w.server.Tree(), KeyPackage: dave.kp, Secrets: dave.secrets, Rules: w.rules}
		change(&cfg)
		_, err := JoinExternal(cfg)
		return err
	}
	custom := must(bob.group.Propose(Proposal{Type: testProposal}, ProposeOptions{}))(t)
	for name, c := range map[string]struct {
		change func(cfg *ExternalJoinConfig)
		want   error
	}{
		"as it is":            {func(cfg *ExternalJoinConfig) {}, nil},
		"no secrets":          {func(cfg *ExternalJoinConfig) { cfg.Secrets = nil }, ErrInvalid},
		"other secrets":       {func(cfg *ExternalJoinConfig) { cfg.Secrets = alice.secrets }, ErrInvalid},
		"two removes":         {func(cfg *ExternalJoinConfig) { cfg.Remove = []uint32{1, 2} }, ErrInvalid},
		"remove and resync":   {func(cfg *ExternalJoinConfig) { cfg.Resync, cfg.Remove = true, []uint32{1} }, ErrInvalid},
		"resync of another":   {func(cfg *ExternalJoinConfig) { cfg.Resync, cfg.OldLeaf = true, 1 }, errTestRule},
		"resync of nobody":    {func(cfg *ExternalJoinConfig) { cfg.Resync, cfg.OldLeaf = true, 3 }, ErrInvalid},
		"an add":              {func(cfg *ExternalJoinConfig) { cfg.Proposals = w.adds([]string{"erin"}) }, ErrInvalid},
		"custom by reference": {func(cfg *ExternalJoinConfig) { cfg.Pending = [][]byte{custom} }, ErrInvalid},
		"pending of others":   {func(cfg *ExternalJoinConfig) { cfg.Pending = [][]byte{w.info} }, ErrInvalid},
		"keys of a member":    {func(cfg *ExternalJoinConfig) { cfg.KeyPackage, cfg.Secrets = bob.kp, bob.secrets }, ErrInvalid},
		"no external_pub": {func(cfg *ExternalJoinConfig) {
			g := must(parseGroupInfo(w.info))(t)
			g.extensions = nil
			g.signer = 0
			g.sign(alice.group.s.signer)
			cfg.GroupInfo = marshal(g)
		}, ErrInvalid},
		"bad external_pub": {func(cfg *ExternalJoinConfig) {
			g := must(parseGroupInfo(w.info))(t)
			g.extensions = []Extension{{ExtensionExternalPub, []byte{3, 1, 2}}}
			g.signer = 0
			g.sign(alice.group.s.signer)
			cfg.GroupInfo = marshal(g)
		}, ErrMalformed},
	} {
		if err := join(c.change); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

// TestResyncKeepsCredential lets a joiner, whose own rules are lax, resync over another member's leaf.
func TestResyncKeepsCredential(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	mallory := newClient(t, "mallory")
	staged := w.external(mallory, func(cfg *ExternalJoinConfig) {
		cfg.Rules, cfg.Resync, cfg.OldLeaf = nil, true, bob.group.OwnIndex()
	})
	if _, err := w.server.StageCommit(staged.Message, w.now); !errors.Is(err, errTestRule) {
		t.Errorf("server: %v", err)
	}
	wantUnchanged(t, alice, staged.Message, errTestRule)
	w.run("bob: resyncs\nbob: says hello")
	if len(w.members()) != 3 {
		t.Error("members")
	}
}

// TestJoinChecks gives a newcomer Welcomes that it must not take.
func TestJoinChecks(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	dave := newClient(t, "dave")
	add := CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: dave.kp}}, TreeInWelcome: true, Path: true}
	staged := w.stage(alice, add)
	good := JoinConfig{Welcome: staged.Welcome, KeyPackage: dave.kp, Secrets: dave.secrets, Rules: w.rules}
	g, info, err := Join(good)
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "authenticator", g.EpochAuthenticator(), staged.Group().EpochAuthenticator())
	if _, ok := info.Extension(ExtensionRatchetTree); !ok {
		t.Error("no tree")
	}
	bare := good
	bare.Welcome = staged.Welcome[4:]
	if _, _, err := Join(bare); err != nil {
		t.Errorf("a bare Welcome: %v", err)
	}
	last := len(staged.Welcome) - 1
	for name, c := range map[string]struct {
		change func(cfg *JoinConfig)
		want   error
	}{
		"another's":     {func(cfg *JoinConfig) { cfg.KeyPackage, cfg.Secrets = bob.kp, bob.secrets }, ErrInvalid},
		"other secrets": {func(cfg *JoinConfig) { cfg.Secrets = bob.secrets }, ErrInvalid},
		"no KeyPackage": {func(cfg *JoinConfig) { cfg.KeyPackage = nil }, ErrInvalid},
		"group info":    {func(cfg *JoinConfig) { cfg.Welcome = flipped(cfg.Welcome, last) }, ErrUnauthenticated},
		"secrets":       {func(cfg *JoinConfig) { cfg.Welcome = flipped(cfg.Welcome, 100) }, ErrUnauthenticated},
		"other tree":    {func(cfg *JoinConfig) { cfg.Tree = w.server.Tree() }, ErrInvalid},
		"truncated":     {func(cfg *JoinConfig) { cfg.Welcome = cfg.Welcome[:last] }, ErrMalformed},
		"rules": {func(cfg *JoinConfig) {
			cfg.Rules = &Rules{CheckLeaf: func(_, _ *LeafNode) error { return errTestRule }}
		}, errTestRule},
	} {
		cfg := good
		c.change(&cfg)
		if _, _, err := Join(cfg); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	if _, err := SplitWelcome(staged.Welcome, []byte("nobody")); !errors.Is(err, ErrInvalid) {
		t.Errorf("an entry for nobody: %v", err)
	}
}

// TestForgedWelcomes makes Welcomes whose parts do not fit together, as a malicious member can.
func TestForgedWelcomes(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	dave := newClient(t, "dave")
	staged := w.stage(alice, CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: dave.kp}}, Path: true})
	s := staged.Group().s
	info := must(s.groupInfo(nil, true))(t)
	seal := func(info *groupInfo, secret []byte) []byte {
		joiner := suite1.randomSecret() // leads to another epoch than the tag's
		k := welcomeKey(suite1, memberSecret(suite1, joiner, zeros(suite1)))
		w := &welcome{suite: suite1, encryptedGroupInfo: suite1.Seal(k.key, k.nonce, nil, marshal(info))}
		plain := marshal(&groupSecrets{joiner: joiner, pathSecret: secret})
		kem, ct, err := suite1.EncryptWithLabel(dave.kp.InitKey(), labelWelcomeHPKE, w.encryptedGroupInfo, plain)
		if err != nil {
			t.Fatal(err)
		}
		w.secrets = []encryptedGroupSecrets{{newMember: dave.kp.Ref(), secrets: hpkeCiphertext{kemOutput: kem, ciphertext: ct}}}
		return marshal(w)
	}
	byBob, otherSuite := *info, *info
	byBob.signer = bob.group.OwnIndex()
	otherSuite.context.suite = 2
	for name, c := range map[string]struct {
		welcome []byte
		want    error
	}{
		"confirmation tag":  {seal(info, nil), ErrUnauthenticated},
		"signer":            {seal(&byBob, nil), ErrUnauthenticated},
		"cipher suite":      {seal(&otherSuite, nil), ErrInvalid},
		"path secret":       {seal(info, suite1.randomSecret()), ErrInvalid},
		"short path secret": {seal(info, []byte{1}), ErrInvalid},
	} {
		_, _, err := Join(JoinConfig{Welcome: c.welcome, KeyPackage: dave.kp, Secrets: dave.secrets, Rules: w.rules})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

func flipped(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 1
	return b
}

// TestOutsideProposals checks proposals of an external sender and of a client that asks to be added, RFC 9420 §12.1.8.
func TestOutsideProposals(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	hub := must(suite1.GenerateSignatureKey())(t)
	var b cryptobyte.Builder
	writeVector(&b, func(b *cryptobyte.Builder) {
		(&ExternalSender{SignatureKey: hub.Public(), Credential: Credential{CredentialBasic, []byte("hub")}}).marshal(b)
	})
	w.commit(alice, CommitOptions{Proposals: []Proposal{{Type: ProposalGroupContextExtensions, Extensions: []Extension{
		{testGroupExtension, []byte("policy")}, {ExtensionExternalSenders, b.BytesOrPanic()},
	}}}})
	dave := newClient(t, "dave")
	w.clients["dave"] = dave
	outside := func(sender Sender, key SignatureKey, p Proposal) []byte {
		ac := &authenticatedContent{wireFormat: wirePublicMessage, content: framedContent{
			groupID: w.server.GroupID(), epoch: w.server.Epoch(), sender: sender, contentType: contentProposal, proposal: &p,
		}}
		ac.sign(key, w.server.encoded)
		return (&mlsMessage{publicMessage: newPublicMessage(suite1, ac, nil, nil)}).marshal()
	}
	external, newMember := Sender{SenderExternal, 0}, Sender{Type: SenderNewMemberProposal}
	add := Proposal{Type: ProposalAdd, KeyPackage: dave.kp}
	remove := Proposal{Type: ProposalRemove, Removed: bob.group.OwnIndex()}
	for name, c := range map[string]struct {
		msg  []byte
		want error
	}{
		"hub's update":          {outside(external, hub, Proposal{Type: ProposalUpdate, Leaf: bob.group.OwnLeaf()}), ErrInvalid},
		"hub's self_remove":     {outside(external, hub, Proposal{Type: ProposalSelfRemove}), ErrInvalid},
		"another hub":           {outside(Sender{SenderExternal, 1}, hub, remove), ErrInvalid},
		"hub, other key":        {outside(external, dave.secrets.SignatureKey, remove), ErrUnauthenticated},
		"new member, other key": {outside(newMember, hub, add), ErrUnauthenticated},
		"new member's remove":   {outside(newMember, dave.secrets.SignatureKey, remove), ErrInvalid},
		"new member's commit":   {outside(Sender{Type: SenderNewMemberCommit}, hub, remove), ErrInvalid},
	} {
		if _, _, err := w.server.AddProposal(c.msg, w.now); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		wantUnchanged(t, alice, c.msg, c.want)
	}
	for _, msg := range [][]byte{outside(external, hub, remove), outside(newMember, dave.secrets.SignatureKey, add)} {
		next, _, err := w.server.AddProposal(msg, w.now)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := next.AddProposal(msg, w.now); !errors.Is(err, ErrReplayed) {
			t.Errorf("the same again: %v", err)
		}
		w.server = next
		for _, m := range w.members() {
			must(m.group.Process(msg, ProcessOptions{}))(t)
		}
	}
	w.check()
	change := w.commit(alice, CommitOptions{})
	if len(change.Added) != 1 || len(change.Removed) != 1 || dave.group == nil || bob.group != nil {
		t.Error("change")
	}
	w.run("dave: says hello")
}

// TestChange checks what a change says of a commit that does everything.
func TestChange(t *testing.T) {
	w, alice, bob, carol := threeWorld(t)
	bobsLeaf, carolsLeaf, alicesLeaf := bob.group.OwnLeaf(), carol.group.OwnLeaf(), alice.group.OwnLeaf()
	w.propose(bob, Proposal{Type: ProposalUpdate})
	before := w.server
	c := w.commit(alice, CommitOptions{
		Proposals:         append(w.removes([]string{"carol"}), w.adds([]string{"dave", "erin"})...),
		AuthenticatedData: []byte("data"),
	})
	switch {
	case c.Epoch != before.Epoch()+1 || c.Sender != alice.group.s.self() || !c.HasPath || c.Before.Epoch() != before.Epoch():
		t.Error("header")
	case len(c.Proposals) != 4 || c.Proposals[3].Type != ProposalUpdate || !c.Proposals[3].ByReference:
		t.Error("proposals")
	case len(c.Added) != 2 || c.Added[0].Index != 2 || c.Added[1].Index != 3 || c.Proposals[1].Index != 2 || c.Proposals[2].Index != 3:
		t.Error("added")
	case len(c.Removed) != 1 || c.Removed[0].Leaf != carolsLeaf && !c.Removed[0].Leaf.equal(carolsLeaf):
		t.Error("removed")
	case len(c.Updated) != 2 || c.Updated[0].Index != 1 || c.Updated[1].Index != 0 || c.Updated[1].Leaf != c.Committer.Leaf:
		t.Error("updated")
	case len(c.OldLeaves) != 3 || !c.OldLeaves[0].equal(alicesLeaf) || !c.OldLeaves[1].equal(bobsLeaf) || !c.OldLeaves[2].equal(carolsLeaf):
		t.Error("old leaves")
	case string(c.AuthenticatedData) != "data" || !bytes.Equal(c.ConfirmationTag, w.server.tag):
		t.Error("data")
	}
	wantBytes(t, "ref", c.AddedRefs[0], w.client("dave").kp.Ref())
}

// TestInvalidTreeIsRefused signs a GroupInfo over a tree in which one leaf's signature is false: a member that joins or a server that
// starts to follow the group must check the tree itself.
func TestInvalidTreeIsRefused(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	tree := w.server.tree.clone()
	leaf := bob.group.OwnLeaf().clone()
	leaf.credential.Body = []byte("mallory")
	tree.setLeaf(bob.group.s.private.index, leaf)
	info := must(parseGroupInfo(w.info))(t)
	info.context.treeHash = tree.rootHash()
	info.signer = alice.group.OwnIndex()
	info.sign(alice.group.s.signer)
	if _, err := NewPublicGroup(marshal(info), tree.bytes(), w.rules); err == nil {
		t.Error("taken")
	}
}

// TestResyncNeedsFreshKey forges a resync whose leaf has the old leaf's encryption key.
func TestResyncNeedsFreshKey(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	old, index := bob.group.OwnLeaf(), bob.group.OwnIndex()
	bob.renew(t)
	staged := w.external(bob, func(cfg *ExternalJoinConfig) { cfg.Resync, cfg.OldLeaf = true, index })
	ac := must(parseMLSMessage(staged.Message))(t).publicMessage.authenticated()
	leaf := ac.content.commit.path.leaf
	leaf.encryptionKey = old.EncryptionKey()
	leaf.sign(bob.secrets.SignatureKey, w.server.GroupID(), leafIndex(staged.Change.Committer.Index))
	ac.content.raw = nil
	ac.sign(bob.secrets.SignatureKey, w.server.encoded)
	msg := (&mlsMessage{publicMessage: newPublicMessage(suite1, ac, nil, nil)}).marshal()
	_, err := w.server.StageCommit(msg, w.now)
	wantRule(t, err, "12.2", "fresh encryption key")
	wantUnchanged(t, alice, msg, ErrInvalid)
}

// TestGroupInfoForms reads a GroupInfo of each suite, bare and in an MLSMessage: of suite 4 both begin alike.
func TestGroupInfoForms(t *testing.T) {
	for _, suite := range testSuites() {
		c := &client{name: "alice"}
		c.renewFor(t, suite)
		g := must(NewGroup(GroupConfig{GroupID: []byte("group"), KeyPackage: c.kp, Secrets: c.secrets, Rules: testRules()}))(t)
		framed := must(g.GroupInfo(nil, true))(t)
		for name, b := range map[string][]byte{"MLSMessage": framed, "bare": framed[4:]} {
			info, err := ParseGroupInfo(b)
			if err != nil {
				t.Errorf("suite %d, %s: %v", suite, name, err)
				continue
			}
			wantBytes(t, name, info.Raw, framed[4:])
			if _, err := NewPublicGroup(b, nil, testRules()); err != nil {
				t.Errorf("suite %d, %s: %v", suite, name, err)
			}
		}
	}
}
