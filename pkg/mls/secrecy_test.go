package mls

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

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
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		tree := newSecretTree(cs, 3, cs.randomSecret())
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
	})
}

// TestUsedSecretsAreErased checks that neither a used key nor what it was derived from stays in the state.
func TestUsedSecretsAreErased(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		encryption := cs.randomSecret()
		tree := newSecretTree(cs, 4, encryption)
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
	})
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
	if _, _, err := spy.group.s.openPath(tr, nil); err == nil {
		t.Error("a removed member opens the path")
	}
}

// sealAs seals an application message under the ratchet of another leaf, as any member can, and signs it with the key given.
func sealAs(t *testing.T, c *client, leaf uint32, key SignatureKey) []byte {
	t.Helper()
	s := must(ParseGroup(c.group.Marshal(), testRules()))(t).s
	ac := &authenticatedContent{wireFormat: wirePrivateMessage, content: framedContent{
		groupID: s.public.context.groupID, epoch: s.public.context.epoch, sender: Sender{SenderMember, leaf},
		contentType: contentApplication, application: []byte("text"),
	}}
	ac.sign(key, s.public.encoded)
	generation, k, _, err := s.messages.next(leaf, applicationRatchet)
	if err != nil {
		t.Fatal(err)
	}
	p := sealPrivate(suite1, ac, privateKeys{senderData: s.secrets.senderData, generation: generation, key: k}, nil)
	return (&mlsMessage{privateMessage: p}).marshal()
}

func TestImpersonation(t *testing.T) {
	_, alice, bob, carol := threeWorld(t)
	wantUnchanged(t, carol, sealAs(t, bob, alice.group.OwnIndex(), bob.group.s.signer), ErrUnauthenticated)
	wantUnchanged(t, carol, sealAs(t, bob, 3, bob.group.s.signer), ErrInvalid) // a blank leaf
	if _, err := carol.group.Process(sealAs(t, bob, bob.group.OwnIndex(), bob.group.s.signer), ProcessOptions{}); err != nil {
		t.Errorf("bob as himself: %v", err)
	}
	// A message in one's own name, even one that verifies, is not another's.
	wantUnchanged(t, alice, sealAs(t, bob, alice.group.OwnIndex(), alice.group.s.signer), ErrReplayed)
}

// TestEndedEpochsAreErased looks at the memory of secrets after their epochs have ended.
func TestEndedEpochsAreErased(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		w, alice, _, _ := threeWorldOf(t, cs)
		var secrets [][]byte
		for _, s := range alice.group.s.secrets.all() {
			secrets = append(secrets, *s)
		}
		w.run("alice: updates")
		past := alice.group.s.past[0]
		for _, s := range secrets {
			if !bytes.Equal(s, zeros(cs)) {
				t.Error("a secret of the last epoch is still there")
			}
		}
		if bytes.Equal(past.senderData, zeros(cs)) || len(past.messages.nodes) == 0 {
			t.Error("the last epoch's message keys are gone")
		}
		w.run("alice: updates\nalice: updates")
		if !bytes.Equal(past.senderData, zeros(cs)) || !bytes.Equal(past.resumption, zeros(cs)) || len(past.messages.nodes) != 0 {
			t.Error("secrets of an epoch that is no longer kept are still there")
		}
	})
}

// TestUsedSkippedKeyIsErased: a key that waited for a late message is cleared when that message has been read, and no other is.
func TestUsedSkippedKeyIsErased(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		tree := newSecretTree(cs, 2, bytes.Repeat([]byte{7}, cs.HashLen()))
		step := func(generation uint32) {
			t.Helper()
			_, s, err := tree.derive(1, applicationRatchet, generation)
			if err != nil {
				t.Fatal(err)
			}
			tree.apply(s)
		}
		step(2)
		waiting := tree.ratchets[1][applicationRatchet].skipped
		if len(waiting) != 2 {
			t.Fatalf("%d keys wait, want 2", len(waiting))
		}
		first, second := waiting[0], waiting[1]
		step(0)
		zero := func(k messageKey) bool {
			return bytes.Equal(k.key, make([]byte, len(k.key))) && bytes.Equal(k.nonce, make([]byte, len(k.nonce)))
		}
		if !zero(first.messageKey) {
			t.Error("a used key is still there")
		}
		if zero(second.messageKey) {
			t.Error("a key that still waits was erased")
		}
	})
}
