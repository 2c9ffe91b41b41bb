package mls

import (
	"bytes"
	"testing"

	"golang.org/x/crypto/cryptobyte"
)

// sampleGroup is a group in the midst of things, and messages of it.
type sampleGroup struct {
	alice, bob *Group
	server     *PublicGroup
	forms      map[string][][]byte
	messages   [][]byte
	staged     *StagedCommit
	aliceState []byte
	bobState   []byte
}

// samples makes a sampleGroup. Tests must not change what they share.
func samples(t testing.TB) *sampleGroup {
	t.Helper()
	w, alice, bob, carol := threeWorld(t)
	late := must(carol.group.Encrypt([]byte("late"), nil, nil))(t)
	for i := range 3 { // only the last one arrives: the keys of the others are kept
		if msg := must(alice.group.Encrypt([]byte("text"), nil, nil))(t); i == 2 {
			must(bob.group.Process(msg, ProcessOptions{}))(t)
		}
	}
	w.run("carol: updates")
	text := must(alice.group.Encrypt([]byte("text"), []byte("aad"), func(int) int { return 128 }))(t)
	w.run("alice: proposes-custom body\nbob: proposes-update\nbob: leaves")
	s := &sampleGroup{alice: alice.group, bob: bob.group, server: w.server}
	s.staged = w.stage(alice, CommitOptions{Proposals: append(w.adds([]string{"dave", "erin"}), Proposal{Type: testNeedsPath, Body: []byte("x")})})
	external := w.external(newClient(t, "frank"), func(cfg *ExternalJoinConfig) { cfg.Pending = w.pending[2:] })
	private := must(alice.group.Commit(CommitOptions{Path: true, Private: true, NoPending: true}))(t)
	bare := must(alice.group.Commit(CommitOptions{NoPending: true, Proposals: w.adds([]string{"grace"})}))(t)
	removal := must(alice.group.Commit(CommitOptions{NoPending: true, Proposals: w.removes([]string{"bob"})}))(t)
	s.messages = [][]byte{
		s.staged.Message, external.Message, private.Message, bare.Message, removal.Message, late, text,
		must(alice.group.Propose(Proposal{Type: ProposalPSK, PSK: &PSKID{ID: []byte("known")}}, ProposeOptions{}))(t),
		must(alice.group.Propose(Proposal{Type: ProposalSelfRemove}, ProposeOptions{}))(t),
	}
	tree := alice.group.s.messages
	psks := []*PSKID{{ID: []byte("id"), Nonce: make([]byte, 32)}, {Nonce: []byte{1}, Usage: PSKReInit, GroupID: []byte("g"), Epoch: 9}}
	sender := ExternalSender{[]byte("kk"), Credential{CredentialBasic, []byte("h")}}
	keyPackage := (&mlsMessage{keyPackage: alice.kp}).marshal()
	s.aliceState, s.bobState = alice.group.Marshal(), bob.group.Marshal()
	s.forms = map[string][][]byte{
		"MLSMessage":           append([][]byte{s.staged.Welcome, s.staged.GroupInfo, keyPackage}, s.messages...),
		"Welcome":              {s.staged.Welcome[4:]},
		"GroupSecrets":         {marshal(&groupSecrets{joiner: []byte("j"), pathSecret: []byte("p"), psks: psks}), marshal(&groupSecrets{})},
		"GroupContext":         {w.server.GroupContext()},
		"AuthenticatedContent": {marshal(s.staged.content), marshal(private.content), marshal(external.content)},
		"SenderData":           {marshal(&senderData{leaf: 1, generation: 2})},
		"PreSharedKeyID":       {marshal(psks[0]), marshal(psks[1])},
		"secret tree":          {marshal(tree), marshal(bob.group.s.past[1].messages), marshal(newSecretTree(suite1, 1, suite1.randomSecret()))},
		"GroupInfo":            {s.staged.GroupInfo[4:], s.staged.GroupInfo},
		"external_senders":     {ExternalSendersExtension(sender).Data},
		"ExternalSender":       {sender.Marshal()},
		"external_pub":         {marshalExternalPub([]byte("key"))},
		"public state":         {s.server.Marshal(), alice.group.Public().Marshal()},
		"group state":          {s.aliceState, s.bobState},
		"group state in parts": {append(appendOpaque(nil, alice.group.Public().Marshal()), alice.group.MarshalPrivate()...)},
		"staged state":         {s.staged.Marshal(), external.Marshal(), bare.Marshal()},
	}
	return s
}

// mutated works a mutation into one of the sample messages. Fuzzing runs several processes, each with samples under keys of its own: only a
// mutation, not a message, means the same to all of them.
func (s *sampleGroup) mutated(which uint8, at uint16, xor []byte) []byte {
	msg := bytes.Clone(s.messages[int(which)%len(s.messages)])
	for i, x := range xor {
		msg[(int(at)+i)%len(msg)] ^= x
	}
	return msg
}

// FuzzProcess gives mutated messages to a member and to the server. What either refuses, changes nothing.
func FuzzProcess(f *testing.F) {
	s := samples(f)
	for i := range s.messages {
		f.Add(uint8(i), uint16(40), []byte{})
		f.Add(uint8(i), uint16(60), []byte{1})
	}
	before := s.server.Marshal()
	f.Fuzz(func(t *testing.T, which uint8, at uint16, xor []byte) {
		msg := s.mutated(which, at, xor)
		wantNoHarm(t, must(ParseGroup(s.bobState, testRules()))(t), msg)
		wantServerUnharmed(t, s.server, msg, before)
	})
}

func wantNoHarm(t *testing.T, g *Group, msg []byte) {
	t.Helper()
	before := g.Marshal()
	got, err := g.Process(msg, ProcessOptions{PSK: testPSK})
	if err == nil {
		if got.Commit != nil && !got.Commit.RemovesSelf() {
			if err := g.Merge(got.Commit); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	if errorKinds(err) != 1 && err != errTestRule {
		t.Fatalf("an error of no kind, or of several: %v", err)
	}
	if !bytes.Equal(g.Marshal(), before) {
		t.Fatal("a failed Process changed the state")
	}
}

func wantServerUnharmed(t *testing.T, server *PublicGroup, msg, before []byte) {
	t.Helper()
	if change, err := server.StageCommit(msg, noTime); err == nil {
		again := must(ParsePublicGroup(change.After.Marshal(), testRules()))(t)
		if err := again.tree.validate(treeContext{groupID: again.GroupID(), extensions: again.Extensions()}); err != nil {
			t.Fatalf("an invalid tree was accepted: %v", err)
		}
	} else if errorKinds(err) != 1 && err != errTestRule {
		t.Fatalf("an error of no kind, or of several: %v", err)
	}
	if _, _, err := server.AddProposal(msg, noTime); err != nil && errorKinds(err) != 1 && err != errTestRule {
		t.Fatalf("an error of no kind, or of several: %v", err)
	}
	if !bytes.Equal(server.Marshal(), before) {
		t.Fatal("the state changed")
	}
}

// FuzzForged gives members and server what a malicious member may make up: a content that is anything, well signed and framed, public and private, and a
// well sealed plaintext that is anything. The checks behind signature, membership tag and AEAD are reached.
func FuzzForged(f *testing.F) {
	s := samples(f)
	for _, msg := range s.messages {
		if m := must(parseMLSMessage(msg))(f); m.publicMessage != nil {
			var b cryptobyte.Builder
			m.publicMessage.content.marshalBody(&b)
			f.Add(uint8(m.publicMessage.content.contentType), b.BytesOrPanic())
		}
	}
	f.Add(uint8(1), []byte{4, 't', 'e', 'x', 't', 0, 0, 0})
	f.Add(uint8(2), []byte{0, 10, 0})
	before := s.server.Marshal()
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		wantNoHarm(t, must(ParseGroup(s.bobState, testRules()))(t), s.sealed(t, contentType(kind%3+1), body))
		alice := must(ParseGroup(s.aliceState, testRules()))(t).s
		ac := &authenticatedContent{wireFormat: wirePublicMessage, content: framedContent{
			groupID: alice.public.context.groupID, epoch: alice.public.context.epoch,
			sender: alice.self(), contentType: contentType(kind),
		}}
		in := cryptobyte.String(body)
		if !ac.content.parseBody(&in) || !in.Empty() {
			return
		}
		ac.auth.confirmationTag = make([]byte, 32)
		ac.sign(alice.signer, alice.public.encoded)
		msg := (&mlsMessage{publicMessage: newPublicMessage(suite1, ac, alice.secrets.membership, alice.public.encoded)}).marshal()
		wantServerUnharmed(t, s.server, msg, before)
		wantNoHarm(t, must(ParseGroup(s.bobState, testRules()))(t), msg)

		ac.wireFormat = wirePrivateMessage
		ac.sign(alice.signer, alice.public.encoded)
		m, _, err := alice.protect(ac, nil)
		if err != nil {
			t.Fatal(err)
		}
		wantNoHarm(t, must(ParseGroup(s.bobState, testRules()))(t), m.marshal())
	})
}

// sealed is a PrivateMessage of alice that holds any plaintext.
func (s *sampleGroup) sealed(t testing.TB, kind contentType, plain []byte) []byte {
	return sealed(t, &client{group: must(ParseGroup(s.aliceState, testRules()))(t)}, kind, s.alice.OwnIndex(), plain)
}
