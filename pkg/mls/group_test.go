package mls

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// TestEpochSecretsAreRandom makes two groups from the same inputs. Whoever sees all public values of one (a server does) must learn
// nothing of its secrets, in epoch 0 nor in epoch 1, which a commit without a path begins.
func TestEpochSecretsAreRandom(t *testing.T) {
	alice, bob := newClient(t, "alice"), newClient(t, "bob")
	made := func() (g *Group, contexts [2][]byte, authenticators [2][]byte) {
		g = must(NewGroup(GroupConfig{GroupID: []byte("group"), KeyPackage: alice.kp, Secrets: alice.secrets, Rules: testRules()}))(t)
		if bytes.Equal(g.s.secrets.init, zeros(g.s.suite())) {
			t.Fatal("init secret is zero")
		}
		contexts[0], authenticators[0] = g.Public().GroupContext(), g.EpochAuthenticator()
		staged := must(g.Commit(CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: bob.kp}}}))(t)
		if staged.Change.HasPath {
			t.Fatal("the commit was to have no path")
		}
		if err := g.Merge(staged); err != nil {
			t.Fatal(err)
		}
		contexts[1], authenticators[1] = g.Public().GroupContext(), g.EpochAuthenticator()
		return g, contexts, authenticators
	}
	a, contextsA, authA := made()
	b, contextsB, authB := made()
	wantBytes(t, "context of epoch 0", contextsA[0], contextsB[0])
	for epoch := range authA {
		if bytes.Equal(authA[epoch], authB[epoch]) {
			t.Errorf("epoch %d: equal authenticators", epoch)
		}
	}
	for i, secret := range a.s.secrets.all() {
		if bytes.Equal(*secret, *b.s.secrets.all()[i]) {
			t.Errorf("secret %d is equal", i)
		}
	}
	// What an observer would try: the key schedule from zeros over the public contexts.
	suite := a.s.suite()
	for i, g := range []*Group{a, b} {
		context := [][][]byte{contextsA[:], contextsB[:]}[i]
		keys := newEpochKeys(suite, zeros(suite), zeros(suite), zeros(suite), context[0])
		next := newEpochKeys(suite, keys.secrets.init, zeros(suite), zeros(suite), context[1])
		if bytes.Equal(next.secrets.authenticator, g.EpochAuthenticator()) {
			t.Error("an observer derives epoch 1")
		}
	}
}

func threeWorld(t testing.TB) (w *world, alice, bob, carol *client) {
	t.Helper()
	w = newWorld(t)
	w.run("alice: creates\nalice: adds bob carol\nbob: updates")
	return w, w.client("alice"), w.client("bob"), w.client("carol")
}

func TestMessagesOutOfOrder(t *testing.T) {
	w, alice, bob, carol := threeWorld(t)
	var msgs [][]byte
	for i := range 6 {
		msgs = append(msgs, must(alice.group.Encrypt([]byte(fmt.Sprint(i)), []byte("aad"), nil))(t))
	}
	for _, i := range []int{5, 0, 3, 1} {
		w.hear(bob, msgs[i], fmt.Sprint(i), "alice")
		w.restart(bob)
	}
	w.run("carol: updates")
	w.hear(bob, msgs[4], "4", "alice") // late, from the last epoch
	w.restart(bob)
	for _, i := range []int{5, 0, 4} {
		wantUnchanged(t, bob, msgs[i], ErrReplayed)
	}
	wantUnchanged(t, alice, msgs[2], ErrReplayed) // an own message
	w.run("alice: updates")
	w.hear(bob, msgs[2], "2", "alice")
	w.run("alice: updates")
	w.run("alice: updates")
	wantUnchanged(t, carol, msgs[2], ErrStaleEpoch) // two epochs are kept, no more
	if len(bob.group.s.past) != 2 {
		t.Errorf("%d past epochs", len(bob.group.s.past))
	}
}

// TestRatchetWindow checks the bounds of limits.go on a secret tree.
func TestRatchetWindow(t *testing.T) {
	tree := newSecretTree(suite1, 3, suite1.randomSecret())
	take := func(g uint32) error {
		_, step, err := tree.derive(2, applicationRatchet, g)
		if err == nil {
			tree.apply(step)
		}
		return err
	}
	for _, step := range []struct {
		generation uint32
		ok         bool
	}{
		{maxForwardRatchet + 1, false},
		{maxForwardRatchet, true},
		{maxForwardRatchet, false},
		{maxForwardRatchet - 1, true},
		{maxForwardRatchet - maxSkippedKeys, true},
		{maxForwardRatchet - maxSkippedKeys - 1, false}, // not kept
		{0, false},
		{2*maxForwardRatchet + 2, false},
		{maxForwardRatchet + 1, true},
		{1<<32 - 1, false},
	} {
		if err := take(step.generation); (err == nil) != step.ok || err != nil && !errors.Is(err, ErrReplayed) {
			t.Errorf("generation %d: %v", step.generation, err)
		}
	}
	if n := len(tree.ratchets[2][applicationRatchet].skipped); n > maxSkippedKeys {
		t.Errorf("%d skipped keys", n)
	}
	if _, _, err := tree.derive(4, applicationRatchet, 0); !errors.Is(err, ErrReplayed) {
		t.Errorf("a leaf outside the tree: %v", err)
	}
}

// TestUsedSecretsAreErased checks that neither a used key nor what it was derived from stays in the state.
func TestUsedSecretsAreErased(t *testing.T) {
	encryption := suite1.randomSecret()
	tree := newSecretTree(suite1, 4, encryption)
	key, step, err := tree.derive(1, applicationRatchet, 0)
	if err != nil {
		t.Fatal(err)
	}
	var old []byte
	for _, n := range step.expanded {
		old = append(old, tree.nodes[n]...)
	}
	first := bytes.Clone(step.ratchets[applicationRatchet].secret)
	tree.apply(step)
	_, step, err = tree.derive(1, applicationRatchet, 1)
	if err != nil {
		t.Fatal(err)
	}
	tree.apply(step)
	state := marshal(tree)
	for what, secret := range map[string][]byte{"key": key.key, "root": encryption, "expanded": old, "ratchet": first} {
		if bytes.Contains(state, secret) {
			t.Errorf("%s is still there", what)
		}
	}
	again := new(secretTree)
	if err := parse(state, again); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "state", marshal(again), state)
	tree.erase()
	if len(tree.nodes)+len(tree.ratchets) != 0 {
		t.Error("secrets are left")
	}
}

// TestKeysAreUsedOnce checks that no two messages share key and nonce, across storing and over failures too.
func TestKeysAreUsedOnce(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	generations := map[uint32]bool{}
	for i := range 8 {
		msg := must(alice.group.Encrypt([]byte("text"), []byte("aad"), nil))(t)
		p := must(parseMLSMessage(msg))(t).privateMessage
		d, err := p.openSenderData(suite1, bob.group.s.secrets.senderData)
		if err != nil {
			t.Fatal(err)
		}
		if seen(generations, d.generation) {
			t.Errorf("generation %d twice", d.generation)
		}
		if i%2 == 0 {
			w.restart(alice)
		}
	}
	// Private commits of one epoch, though none changes the epoch, are messages too.
	for range 3 {
		staged := must(alice.group.Commit(CommitOptions{Private: true, Path: true}))(t)
		p := must(parseMLSMessage(staged.Message))(t).privateMessage
		d, err := p.openSenderData(suite1, bob.group.s.secrets.senderData)
		if err != nil {
			t.Fatal(err)
		}
		if seen(generations, 1<<16+d.generation) {
			t.Errorf("handshake generation %d twice", d.generation)
		}
		w.restart(alice)
	}
}

// wantUnchanged processes a message that must fail, and leave the state as it is.
func wantUnchanged(t *testing.T, c *client, msg []byte, want error) {
	t.Helper()
	before := c.group.Marshal()
	got, err := c.group.Process(msg, ProcessOptions{PSK: testPSK})
	if err == nil {
		t.Fatalf("%s took a bad message: %+v", c.name, got)
	}
	if want != nil && !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", c.name, err, want)
	}
	if !bytes.Equal(before, c.group.Marshal()) {
		t.Fatal("a failed Process changed the state")
	}
}

// TestMutatedMessages flips each byte (of a long commit some) of valid messages: none is taken, nothing changes.
func TestMutatedMessages(t *testing.T) {
	_, alice, bob, _ := threeWorld(t)
	messages := map[string][]byte{
		"application":    must(alice.group.Encrypt([]byte("text"), []byte("aad"), nil))(t),
		"private commit": must(alice.group.Commit(CommitOptions{Path: true, Private: true}))(t).Message,
		"commit":         must(alice.group.Commit(CommitOptions{Path: true}))(t).Message,
		"proposal":       must(alice.group.Propose(Proposal{Type: testProposal, Body: []byte("body")}, nil))(t),
	}
	for name, msg := range messages {
		for i := range msg {
			bad := bytes.Clone(msg)
			bad[i] ^= 1
			wantUnchanged(t, bob, bad, nil)
		}
		for n := range msg {
			wantUnchanged(t, bob, msg[:n], nil)
		}
		if _, err := bob.group.Process(msg, ProcessOptions{}); err != nil {
			t.Errorf("%s, as it was: %v", name, err)
		}
	}
}

// forge changes a staged PublicMessage commit of c and frames it anew: what a malicious member can do, not a server.
func forge(t *testing.T, c *client, msg []byte, change func(ac *authenticatedContent)) []byte {
	t.Helper()
	ac := must(parseMLSMessage(msg))(t).publicMessage.authenticated()
	change(ac)
	ac.content.raw = nil
	s := c.group.s
	ac.sign(s.signer, s.public.encoded)
	return (&mlsMessage{publicMessage: newPublicMessage(s.suite(), ac, s.secrets.membership, s.public.encoded)}).marshal()
}

func TestForgedCommits(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	staged := w.stage(alice, CommitOptions{Path: true})
	same := forge(t, alice, staged.Message, func(*authenticatedContent) {})
	wantBytes(t, "forged without a change", same, staged.Message)
	for name, c := range map[string]struct {
		change     func(ac *authenticatedContent)
		member     error
		serverSees bool
	}{
		"confirmation tag": {func(ac *authenticatedContent) { ac.auth.confirmationTag[3] ^= 1 }, ErrUnauthenticated, false},
		"path ciphertext": {func(ac *authenticatedContent) {
			for i := range ac.content.commit.path.nodes {
				for k := range ac.content.commit.path.nodes[i].pathSecrets {
					ac.content.commit.path.nodes[i].pathSecrets[k].ciphertext[0] ^= 1
				}
			}
		}, ErrUnauthenticated, false},
		"path key": {func(ac *authenticatedContent) {
			ac.content.commit.path.nodes[0].encryptionKey = must(suite1.GenerateHPKEKey())(t).Public()
		}, ErrInvalid, true},
		"no path":           {func(ac *authenticatedContent) { ac.content.commit.path = nil }, ErrInvalid, true},
		"unknown reference": {func(ac *authenticatedContent) { addRef(ac, make([]byte, 32)) }, ErrInvalid, true},
		"leaf of another": {func(ac *authenticatedContent) {
			ac.content.commit.path.leaf = bob.group.OwnLeaf().clone()
			ac.content.commit.path.leaf.source = LeafFromCommit
		}, nil, true},
		"application data": {func(ac *authenticatedContent) {
			ac.content.contentType, ac.content.application = contentApplication, []byte("text")
		}, ErrInvalid, true},
		"other epoch":  {func(ac *authenticatedContent) { ac.content.epoch++ }, ErrStaleEpoch, true},
		"other group":  {func(ac *authenticatedContent) { ac.content.groupID = []byte("other") }, ErrInvalid, true},
		"blank sender": {func(ac *authenticatedContent) { ac.content.sender.Leaf = 3 }, ErrInvalid, true},
		"other sender": {func(ac *authenticatedContent) { ac.content.sender.Leaf = 2 }, ErrUnauthenticated, true},
	} {
		msg := forge(t, alice, staged.Message, c.change)
		t.Run(name, func(t *testing.T) {
			wantUnchanged(t, bob, msg, c.member)
			_, err := w.server.StageCommit(msg, w.now)
			if (err != nil) != c.serverSees {
				t.Errorf("server: %v", err)
			}
			if c.member != nil && c.serverSees && !errors.Is(err, c.member) {
				t.Errorf("server: got %v, want %v", err, c.member)
			}
		})
	}
	// A server checks the signature, and cannot check the membership tag.
	m := must(parseMLSMessage(staged.Message))(t)
	m.publicMessage.membershipTag[0] ^= 1
	wantUnchanged(t, bob, m.marshal(), ErrUnauthenticated)
	if _, err := w.server.StageCommit(m.marshal(), w.now); err != nil {
		t.Errorf("server: %v", err)
	}
	m.publicMessage.auth.signature[0] ^= 1
	if _, err := w.server.StageCommit(m.marshal(), w.now); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("server: %v", err)
	}
	w.accept(alice, staged)
}

func addRef(ac *authenticatedContent, ref []byte) {
	ac.content.commit.proposals = append(ac.content.commit.proposals, proposalOrRef{ref: ref})
}

func TestPaddingMustBeZero(t *testing.T) {
	_, alice, bob, _ := threeWorld(t)
	s := alice.group.s
	for _, padding := range [][]byte{make([]byte, 10), {0, 0, 1}, {1}} {
		ac := &authenticatedContent{wireFormat: wirePrivateMessage, content: framedContent{
			groupID: s.public.context.groupID, epoch: s.public.context.epoch, sender: s.self(),
			contentType: contentApplication, application: []byte("text"),
		}}
		ac.sign(s.signer, s.public.encoded)
		var b cryptobyte.Builder
		ac.content.marshalBody(&b)
		ac.auth.marshal(&b, contentApplication)
		b.AddBytes(padding)
		generation, key, step, err := s.messages.next(0, applicationRatchet)
		if err != nil {
			t.Fatal(err)
		}
		s.messages.apply(step)
		p := &privateMessage{groupID: ac.content.groupID, epoch: ac.content.epoch, contentType: contentApplication}
		d := senderData{generation: generation}
		p.ciphertext = suite1.Seal(key.key, d.guarded(key.nonce), p.contentAAD(), b.BytesOrPanic())
		sd := senderDataKey(suite1, s.secrets.senderData, p.ciphertext)
		p.encryptedSenderData = suite1.Seal(sd.key, sd.nonce, p.senderDataAAD(), marshal(&d))
		msg := (&mlsMessage{privateMessage: p}).marshal()
		if allZero(padding) {
			if _, err := bob.group.Process(msg, ProcessOptions{}); err != nil {
				t.Error(err)
			}
			continue
		}
		wantUnchanged(t, bob, msg, ErrMalformed)
	}
}

func TestEncryptPads(t *testing.T) {
	w, alice, bob, carol := threeWorld(t)
	lengths := map[int]bool{}
	for _, text := range []string{"", "a", "a longer text of some words"} {
		msg := must(alice.group.Encrypt([]byte(text), []byte("aad"), func(n int) int { return 256 }))(t)
		lengths[len(msg)] = true
		p := must(parseMLSMessage(msg))(t).privateMessage
		if len(p.ciphertext) != 256+16 {
			t.Errorf("ciphertext of %d bytes", len(p.ciphertext))
		}
		w.hear(bob, msg, text, "alice")
	}
	if len(lengths) != 1 {
		t.Error("messages of one padded length differ")
	}
	w.hear(carol, must(alice.group.Encrypt([]byte("text"), []byte("aad"), func(int) int { return -1 }))(t), "text", "alice")
}

// TestRemovedMemberCannotReadOn keeps a removed member's whole state and gives it everything that is sent later.
func TestRemovedMemberCannotReadOn(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	spy := &client{name: "bob", group: must(ParseGroup(bob.group.Marshal(), w.rules))(t)}
	staged := w.stage(alice, CommitOptions{Proposals: w.removes([]string{"bob"})})
	got := must(spy.group.Process(staged.Message, ProcessOptions{}))(t)
	if !got.Commit.RemovesSelf() || got.Commit.Group() != nil {
		t.Fatal("the removed member gets a next state")
	}
	stored := must(ParseStagedCommit(got.Commit.Marshal(), w.rules))(t)
	if !stored.RemovesSelf() || len(stored.Change.Removed) != 1 {
		t.Fatal("stored, it is another commit")
	}
	w.accept(alice, staged)
	wantUnchanged(t, spy, must(alice.group.Encrypt([]byte("text"), nil, nil))(t), ErrStaleEpoch)
	// The path was not sealed to any key that it has.
	tr := must(spy.group.s.public.stage(staged.content, noTime))(t)
	if _, _, err := spy.group.s.openPath(tr); err == nil {
		t.Error("a removed member opens the path")
	}
}

func TestOwnMessages(t *testing.T) {
	w, alice, _, _ := threeWorld(t)
	staged := w.stage(alice, CommitOptions{Path: true})
	wantUnchanged(t, alice, staged.Message, ErrReplayed)
	proposal := must(alice.group.Propose(Proposal{Type: ProposalUpdate}, nil))(t)
	wantUnchanged(t, alice, proposal, ErrReplayed)
	private := must(alice.group.Commit(CommitOptions{Path: true, Private: true}))(t)
	wantUnchanged(t, alice, private.Message, ErrReplayed)
	for _, msg := range [][]byte{w.info, nil, {0, 1}} {
		wantUnchanged(t, alice, msg, nil)
	}
}

// TestOwnUpdateOfALostState gives a member its own Update, which it has no key for.
func TestOwnUpdateOfALostState(t *testing.T) {
	w, alice, _, _ := threeWorld(t)
	old := alice.group.Marshal()
	msg := must(alice.group.Propose(Proposal{Type: ProposalUpdate}, nil))(t)
	alice.group = must(ParseGroup(old, w.rules))(t)
	wantUnchanged(t, alice, msg, ErrReplayed)
}

func TestPrivateCommits(t *testing.T) {
	w, alice, bob, carol := threeWorld(t)
	msg := must(bob.group.Propose(Proposal{Type: ProposalUpdate}, nil))(t)
	for _, c := range []*client{alice, carol} {
		must(c.group.Process(msg, ProcessOptions{}))(t)
	}
	w.clients["dave"] = newClient(t, "dave")
	staged := w.stage(alice, CommitOptions{Private: true, Proposals: w.adds([]string{"dave"})})
	if must(Peek(staged.Message))(t).WireFormat != 2 {
		t.Fatal("not a PrivateMessage")
	}
	if _, err := w.server.StageCommit(staged.Message, w.now); !errors.Is(err, ErrInvalid) {
		t.Errorf("server: %v", err)
	}
	for _, c := range []*client{bob, carol} {
		w.process(c, staged.Message)
	}
	again := must(ParseStagedCommit(staged.Marshal(), w.rules))(t)
	if err := alice.group.Merge(again); err != nil {
		t.Fatal(err)
	}
	w.server = alice.group.Public()
	w.welcome(staged.Welcome, staged.Change)
	w.check()
	w.run("dave: says hello\ncarol: updates")
}

func TestNewLeaf(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	key := must(suite1.GenerateSignatureKey())(t)
	exts := []Extension{{Type: testLeafExtension, Data: []byte("another queue")}}
	oldKey := alice.group.OwnLeaf().SignatureKey()
	change := w.commit(alice, CommitOptions{NewLeaf: &LeafChange{SignatureKey: &key, Extensions: exts}})
	leaf, _ := bob.group.Public().Member(alice.group.OwnIndex())
	wantBytes(t, "signature key", leaf.SignatureKey(), key.Public())
	if data, _ := leaf.Extension(testLeafExtension); string(data) != "another queue" {
		t.Error("leaf extension")
	}
	wantBytes(t, "old leaf", change.OldLeaves[0].SignatureKey(), oldKey)
	if len(change.Updated) != 1 || change.Updated[0].Leaf != change.Committer.Leaf || !change.HasPath {
		t.Error("change")
	}
	w.run("alice: says hello\nalice: updates\nalice: restarts\nalice: says again")
	credential := Credential{Type: testCredential, Body: []byte("mallory")}
	if _, err := alice.group.Commit(CommitOptions{NewLeaf: &LeafChange{Credential: &credential}}); !errors.Is(err, errTestRule) {
		t.Errorf("a changed credential: %v", err)
	}
	if _, err := alice.group.Commit(CommitOptions{NewLeaf: &LeafChange{SignatureKey: new(SignatureKey)}}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("no key: %v", err)
	}
}

func TestPSK(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	psk := Proposal{Type: ProposalPSK, PSK: &PSKID{ID: []byte("known")}}
	w.clients["dave"] = newClient(t, "dave")
	w.commit(alice, CommitOptions{Proposals: append(w.adds([]string{"dave"}), psk), PSK: testPSK})
	w.propose(bob, psk)
	change := w.commit(alice, CommitOptions{PSK: testPSK})
	if len(change.Proposals) != 1 || change.Proposals[0].Type != ProposalPSK {
		t.Error("the PSK was not taken up")
	}
	w.propose(bob, Proposal{Type: ProposalPSK, PSK: &PSKID{ID: []byte("known to bob only")}})
	if change := w.commit(alice, CommitOptions{PSK: testPSK}); len(change.Proposals) != 0 {
		t.Error("a PSK that the committer lacks was taken up")
	}
	erin := newClient(t, "erin")
	w.clients["erin"] = erin
	w.accept(erin, w.external(erin, func(cfg *ExternalJoinConfig) { cfg.Proposals = []Proposal{psk} }))

	staged := w.stage(alice, CommitOptions{Proposals: []Proposal{psk}, PSK: testPSK})
	for want, lookup := range map[error]func([]byte) ([]byte, error){
		ErrUnsupported:     nil,
		errTestRule:        func([]byte) ([]byte, error) { return nil, errTestRule },
		ErrUnauthenticated: func([]byte) ([]byte, error) { return []byte("another secret"), nil },
	} {
		if _, err := bob.group.Process(staged.Message, ProcessOptions{PSK: lookup}); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

func TestExporterAndLeafKeys(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	a, b := must(alice.group.Export("label", []byte("c"), 50))(t), must(bob.group.Export("label", []byte("c"), 50))(t)
	wantBytes(t, "export", a, b)
	for label, context := range map[string]string{"label": "d", "other": "c"} {
		if bytes.Equal(a, must(alice.group.Export(label, []byte(context), 50))(t)) {
			t.Error("exports for two purposes are equal")
		}
	}
	for _, n := range []int{-1, 255*32 + 1} {
		if _, err := alice.group.Export("label", nil, n); !errors.Is(err, ErrInvalid) {
			t.Errorf("length %d: %v", n, err)
		}
	}
	sig := alice.group.SignWithLabel("request", []byte("content"))
	if !w.server.VerifyWithLabel(0, "request", []byte("content"), sig) {
		t.Error("signature by a leaf")
	}
	for _, leaf := range []uint32{1, 3, 1 << 31} {
		if w.server.VerifyWithLabel(leaf, "request", []byte("content"), sig) {
			t.Error("signature by another leaf")
		}
	}
	leaf, _ := w.server.Member(bob.group.OwnIndex())
	kem, ct, err := suite1.HPKESeal(leaf.EncryptionKey(), []byte("info"), []byte("aad"), []byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "opened", must(bob.group.OpenWithLeafKey([]byte("info"), []byte("aad"), kem, ct))(t), []byte("text"))
	if _, err := alice.group.OpenWithLeafKey([]byte("info"), []byte("aad"), kem, ct); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("another leaf: %v", err)
	}
}

func TestGroupContextExtensions(t *testing.T) {
	w, alice, _, _ := threeWorld(t)
	required := marshal(&requiredCapabilities{extensions: []ExtensionType{testLeafExtension}, proposals: []ProposalType{ProposalSelfRemove}, credentials: []CredentialType{testCredential}})
	gce := func(exts ...Extension) CommitOptions {
		return CommitOptions{Proposals: []Proposal{{Type: ProposalGroupContextExtensions, Extensions: exts}}}
	}
	change := w.commit(alice, gce(Extension{testGroupExtension, []byte("new policy")}, Extension{ExtensionRequiredCapabilities, required}))
	if !change.HasPath {
		t.Error("a GroupContextExtensions proposal needs a path")
	}
	if data, _ := w.server.Extension(testGroupExtension); string(data) != "new policy" {
		t.Error("extension")
	}
	for name, opts := range map[string]CommitOptions{
		"extension that nobody supports": gce(Extension{Type: 0xF0FF}),
		"capability that nobody has":     gce(Extension{ExtensionRequiredCapabilities, marshal(&requiredCapabilities{proposals: []ProposalType{0xF0FF}})}),
		"malformed":                      gce(Extension{ExtensionRequiredCapabilities, []byte{1}}),
		"twice":                          gce(Extension{Type: testGroupExtension}, Extension{Type: testGroupExtension}),
	} {
		if _, err := alice.group.Commit(opts); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// A client without the required capabilities cannot be added.
	c := KeyPackageConfig{
		Suite: suite1, Credential: Credential{testCredential, []byte("dave")}, SignatureKey: must(suite1.GenerateSignatureKey())(t),
		Capabilities: testCapabilities, LeafExtensions: []Extension{{Type: testLeafExtension}},
	}
	c.Capabilities.Proposals = nil
	kp, _, err := NewKeyPackage(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: kp}}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestLifetimes(t *testing.T) {
	w, alice, _, _ := threeWorld(t)
	add := CommitOptions{Proposals: w.adds([]string{"dave"}), Now: time.Unix(1<<41, 0)}
	if _, err := alice.group.Commit(add); !errors.Is(err, ErrInvalid) {
		t.Errorf("an expired KeyPackage: %v", err)
	}
	add.Now = noTime
	staged := must(alice.group.Commit(add))(t)
	if _, err := w.server.StageCommit(staged.Message, time.Unix(1<<41, 0)); !errors.Is(err, ErrInvalid) {
		t.Errorf("server: %v", err)
	}
}

func TestMergeTakesItsOwnCommitsOnly(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	staged := w.stage(alice, CommitOptions{Path: true})
	other := newWorld(t)
	other.run("alice: creates\nalice: adds bob\nalice: updates")
	for name, err := range map[string]error{
		"nil":   (*Group)(nil).Merge(staged),
		"other": other.client("alice").group.Merge(staged),
	} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.accept(alice, staged)
	if err := alice.group.Merge(staged); !errors.Is(err, ErrStaleEpoch) {
		t.Errorf("merging twice: %v", err)
	}
	dave := newClient(t, "dave")
	if err := bob.group.Merge(w.external(dave, nil)); !errors.Is(err, ErrInvalid) {
		t.Errorf("merging another's external commit: %v", err)
	}
}

// TestLateMessagesAfterStaging checks that messages read between staging and merging stay read.
func TestLateMessagesAfterStaging(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	staged := w.stage(alice, CommitOptions{Path: true})
	first := must(bob.group.Encrypt([]byte("first"), []byte("aad"), nil))(t)
	second := must(bob.group.Encrypt([]byte("second"), []byte("aad"), nil))(t)
	w.hear(alice, first, "first", "bob")
	sent := must(alice.group.Encrypt([]byte("sent"), []byte("aad"), nil))(t)
	w.accept(alice, staged)
	wantUnchanged(t, alice, first, ErrReplayed)
	w.hear(alice, second, "second", "bob")
	w.hear(bob, sent, "sent", "alice")
}

// TestPendingThatDoNotGoTogether lets two members propose Updates with one key. Each is valid by itself; a commit leaves them out, but
// not the removal.
func TestPendingThatDoNotGoTogether(t *testing.T) {
	w, alice, bob, carol := threeWorld(t)
	w.run("dave: joins")
	key := must(suite1.GenerateHPKEKey())(t).Public()
	for _, c := range []*client{bob, carol} {
		s := c.group.s
		leaf, _, err := s.updatedLeaf()
		if err != nil {
			t.Fatal(err)
		}
		leaf.encryptionKey = key
		leaf.sign(s.signer, s.public.context.groupID, s.private.index)
		msg := must(alice.group.Propose(Proposal{Type: testProposal, Body: []byte(c.name)}, nil))(t)
		msg = forge(t, c, msg, func(ac *authenticatedContent) {
			ac.content.sender, ac.content.proposal = s.self(), &Proposal{Type: ProposalUpdate, Leaf: leaf}
		})
		must(alice.group.Process(msg, ProcessOptions{}))(t)
	}
	msg := must(w.client("dave").group.Propose(Proposal{Type: ProposalSelfRemove}, nil))(t)
	must(alice.group.Process(msg, ProcessOptions{}))(t)
	staged := must(alice.group.Commit(CommitOptions{}))(t)
	if ps := staged.Change.Proposals; len(ps) != 1 || ps[0].Type != ProposalSelfRemove {
		t.Errorf("committed %+v", ps)
	}
}

// TestUncommittableUpdates sends Updates whose leaf could not stand in the tree.
func TestUncommittableUpdates(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	for name, change := range map[string]func(l *LeafNode){
		"key of another":      func(l *LeafNode) { l.encryptionKey = alice.group.OwnLeaf().EncryptionKey() },
		"signature key of":    func(l *LeafNode) { l.signatureKey = alice.group.OwnLeaf().SignatureKey() },
		"extension":           func(l *LeafNode) { l.capabilities.Extensions = []ExtensionType{testLeafExtension} },
		"source":              func(l *LeafNode) { l.source = LeafFromCommit },
		"credential type":     func(l *LeafNode) { l.credential.Type = CredentialBasic },
		"refused by the rule": func(l *LeafNode) { l.credential.Body = []byte("mallory") },
	} {
		s := bob.group.s
		leaf, _, err := s.updatedLeaf()
		if err != nil {
			t.Fatal(err)
		}
		change(leaf)
		leaf.sign(s.signer, s.public.context.groupID, s.private.index)
		ac := &authenticatedContent{wireFormat: wirePublicMessage, content: framedContent{
			groupID: w.server.GroupID(), epoch: w.server.Epoch(), sender: s.self(), contentType: contentProposal,
			proposal: &Proposal{Type: ProposalUpdate, Leaf: leaf},
		}}
		ac.sign(s.signer, s.public.encoded)
		msg := (&mlsMessage{publicMessage: newPublicMessage(suite1, ac, s.secrets.membership, s.public.encoded)}).marshal()
		wantUnchanged(t, alice, msg, nil)
		if _, _, err := w.server.AddProposal(msg, w.now); err == nil {
			t.Errorf("%s: the server took it", name)
		}
	}
}

// TestConcurrentReading uses one PublicGroup from many goroutines; the race detector judges.
func TestConcurrentReading(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	proposal := must(bob.group.Propose(Proposal{Type: ProposalUpdate}, nil))(t)
	server, _, err := w.server.AddProposal(proposal, w.now)
	if err != nil {
		t.Fatal(err)
	}
	must(alice.group.Process(proposal, ProcessOptions{}))(t)
	msg := must(alice.group.Commit(CommitOptions{}))(t).Message
	err = parallel(16, func(int) error {
		server.Marshal()
		server.Pending()
		if _, _, err := server.AddProposal(proposal, w.now); !errors.Is(err, ErrReplayed) {
			return fmt.Errorf("the same proposal again: %w", err)
		}
		change, err := server.StageCommit(msg, w.now)
		if err == nil {
			change.After.Marshal()
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
