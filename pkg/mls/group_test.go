package mls

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"
)

func threeWorld(t testing.TB) (w *world, alice, bob, carol *client) {
	t.Helper()
	return threeWorldOf(t, suite1)
}

// threeWorldOf is threeWorld with another suite.
func threeWorldOf(t testing.TB, cs CipherSuite) (w *world, alice, bob, carol *client) {
	t.Helper()
	w = newWorld(t)
	w.suite = cs
	w.run("alice: creates\nalice: adds bob carol\nbob: updates")
	return w, w.client("alice"), w.client("bob"), w.client("carol")
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
		"proposal":       must(alice.group.Propose(Proposal{Type: testProposal, Body: []byte("body")}, ProposeOptions{}))(t),
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
		"own name":     {func(ac *authenticatedContent) { ac.content.sender.Leaf = 1 }, ErrUnauthenticated, true}, // the receiver's
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

func TestOwnMessages(t *testing.T) {
	w, alice, _, _ := threeWorld(t)
	staged := w.stage(alice, CommitOptions{Path: true})
	wantUnchanged(t, alice, staged.Message, ErrReplayed)
	proposal := must(alice.group.Propose(Proposal{Type: ProposalUpdate}, ProposeOptions{}))(t)
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
	msg := must(alice.group.Propose(Proposal{Type: ProposalUpdate}, ProposeOptions{}))(t)
	alice.group = must(ParseGroup(old, w.rules))(t)
	wantUnchanged(t, alice, msg, ErrReplayed)
}

func TestPrivateCommits(t *testing.T) {
	w, alice, bob, carol := threeWorld(t)
	msg := must(bob.group.Propose(Proposal{Type: ProposalUpdate}, ProposeOptions{}))(t)
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
		leaf, _, err := s.updatedLeaf(nil)
		if err != nil {
			t.Fatal(err)
		}
		leaf.encryptionKey = key
		leaf.sign(s.signer, s.public.context.groupID, s.private.index)
		msg := must(alice.group.Propose(Proposal{Type: testProposal, Body: []byte(c.name)}, ProposeOptions{}))(t)
		msg = forge(t, c, msg, func(ac *authenticatedContent) {
			ac.content.sender, ac.content.proposal = s.self(), &Proposal{Type: ProposalUpdate, Leaf: leaf}
		})
		must(alice.group.Process(msg, ProcessOptions{}))(t)
	}
	msg := must(w.client("dave").group.Propose(Proposal{Type: ProposalSelfRemove}, ProposeOptions{}))(t)
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
		leaf, _, err := s.updatedLeaf(nil)
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
	proposal := must(bob.group.Propose(Proposal{Type: ProposalUpdate}, ProposeOptions{}))(t)
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

// TestExtensionThatOneMemberLacks changes the GroupContext to what the committer supports and another member does not.
func TestExtensionThatOneMemberLacks(t *testing.T) {
	w := newWorld(t)
	wide := keyPackageConfigOf(t, "alice")
	wide.Capabilities.Extensions = []ExtensionType{testLeafExtension, testGroupExtension, 0xF0A7}
	alice := newClient(t, "alice")
	var err error
	if alice.kp, alice.secrets, err = NewKeyPackage(wide); err != nil {
		t.Fatal(err)
	}
	w.clients["alice"] = alice
	w.run("alice: creates")
	gce := Proposal{Type: ProposalGroupContextExtensions, Extensions: []Extension{{Type: 0xF0A7}}}
	if _, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{gce}}); err != nil {
		t.Errorf("alone: %v", err)
	}
	w.run("alice: adds bob")
	_, err = alice.group.Commit(CommitOptions{Proposals: []Proposal{gce}})
	wantRule(t, err, "13.4", "supports the extensions")
	_, err = alice.group.Propose(gce, ProposeOptions{})
	wantRule(t, err, "13.4", "supports the extensions")
}

func TestResumptionPSK(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	resume := func(group string, epoch uint64) CommitOptions {
		return CommitOptions{Proposals: []Proposal{{Type: ProposalPSK, PSK: &PSKID{
			Usage: PSKApplication, GroupID: []byte(group), Epoch: epoch,
		}}}}
	}
	now := w.server.Epoch()
	w.commit(alice, resume("group", now))
	w.commit(bob, resume("group", now))
	for _, opts := range []CommitOptions{resume("other", now), resume("group", now+10), resume("group", 0)} {
		if _, err := alice.group.Commit(opts); !errors.Is(err, ErrUnsupported) {
			t.Errorf("got %v", err)
		}
	}
}

// TestNewGroupNeedsSignedLeaf: others verify the creator's leaf when they join, so a group with a bad one would stay alone.
func TestNewGroupNeedsSignedLeaf(t *testing.T) {
	c := newClient(t, "alice")
	c.kp.leaf.signature[0] ^= 1
	if _, err := NewGroup(GroupConfig{GroupID: []byte("group"), KeyPackage: c.kp, Secrets: c.secrets}); err != ErrUnauthenticated {
		t.Errorf("got %v", err)
	}
}
