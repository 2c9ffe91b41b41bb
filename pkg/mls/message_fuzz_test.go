package mls

import (
	"bytes"
	"testing"

	"golang.org/x/crypto/cryptobyte"
)

// messageForms reads each form of this half of the package and writes it again.
var messageForms = map[string]func(b []byte) (again []byte, err error){
	"MLSMessage": func(b []byte) ([]byte, error) {
		m, err := parseMLSMessage(b)
		if err != nil {
			return nil, err
		}
		if _, err := Peek(b); err != nil {
			return nil, err
		}
		return m.marshal(), nil
	},
	"Welcome":              wireForm(func() wireValue { return new(welcome) }),
	"GroupSecrets":         wireForm(func() wireValue { return new(groupSecrets) }),
	"GroupContext":         wireForm(func() wireValue { return new(groupContext) }),
	"AuthenticatedContent": wireForm(func() wireValue { return new(authenticatedContent) }),
	"SenderData":           wireForm(func() wireValue { return new(senderData) }),
	"PSKID":                wireForm(func() wireValue { return new(PSKID) }),
	"secret tree":          wireForm(func() wireValue { return new(secretTree) }),
	"GroupInfo": func(b []byte) ([]byte, error) {
		info, err := ParseGroupInfo(b)
		if err != nil {
			return nil, err
		}
		return info.Raw, nil
	},
	"ExternalSenders": func(b []byte) ([]byte, error) {
		senders, err := parseExternalSenders(b)
		if err != nil {
			return nil, err
		}
		var w cryptobyte.Builder
		writeVector(&w, func(b *cryptobyte.Builder) {
			for i := range senders {
				senders[i].marshal(b)
			}
		})
		return w.BytesOrPanic(), nil
	},
	"external_pub": func(b []byte) ([]byte, error) {
		key, err := parseExternalPub(b)
		return marshalExternalPub(key), err
	},
	"public state": func(b []byte) ([]byte, error) {
		g, err := ParsePublicGroup(b, testRules())
		if err != nil {
			return nil, err
		}
		return g.Marshal(), nil
	},
	"group state": func(b []byte) ([]byte, error) {
		g, err := ParseGroup(b, testRules())
		if err != nil {
			return nil, err
		}
		return g.Marshal(), nil
	},
	"staged state": func(b []byte) ([]byte, error) {
		c, err := ParseStagedCommit(b, testRules())
		if err != nil {
			return nil, err
		}
		return c.Marshal(), nil
	},
}

func wireForm(newValue func() wireValue) func(b []byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		v := newValue()
		if err := parse(b, v); err != nil {
			return nil, err
		}
		return marshal(v), nil
	}
}

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
	senders, err := messageForms["ExternalSenders"]([]byte{7, 2, 'k', 'k', 0, 1, 1, 'h'})
	if err != nil {
		t.Fatal(err)
	}
	keyPackage := (&mlsMessage{keyPackage: alice.kp}).marshal()
	s.aliceState, s.bobState = alice.group.Marshal(), bob.group.Marshal()
	s.forms = map[string][][]byte{
		"MLSMessage":           append([][]byte{s.staged.Welcome, s.staged.GroupInfo, keyPackage}, s.messages...),
		"Welcome":              {s.staged.Welcome[4:]},
		"GroupSecrets":         {marshal(&groupSecrets{joiner: []byte("j"), pathSecret: []byte("p"), psks: psks}), marshal(&groupSecrets{})},
		"GroupContext":         {w.server.GroupContext()},
		"AuthenticatedContent": {marshal(s.staged.content), marshal(private.content), marshal(external.content)},
		"SenderData":           {marshal(&senderData{leaf: 1, generation: 2})},
		"PSKID":                {marshal(psks[0]), marshal(psks[1])},
		"secret tree":          {marshal(tree), marshal(bob.group.s.past[1].messages), marshal(newSecretTree(suite1, 1, suite1.randomSecret()))},
		"GroupInfo":            {s.staged.GroupInfo[4:]},
		"ExternalSenders":      {senders},
		"external_pub":         {marshalExternalPub([]byte("key"))},
		"public state":         {s.server.Marshal(), alice.group.Public().Marshal()},
		"group state":          {s.aliceState, s.bobState},
		"staged state":         {s.staged.Marshal(), external.Marshal(), bare.Marshal()},
	}
	return s
}

// TestMessageForms checks that every sample reads back as itself, and that no prefix of it and nothing longer reads at all.
func TestMessageForms(t *testing.T) {
	s := samples(t)
	for name, read := range messageForms {
		t.Run(name, func(t *testing.T) {
			if len(s.forms[name]) == 0 {
				t.Fatal("no sample")
			}
			for _, b := range s.forms[name] {
				again, err := read(b)
				if err != nil {
					t.Fatal(err)
				}
				wantBytes(t, "round trip", again, b)
				for n := range b {
					if _, err := read(b[:n]); err == nil {
						t.Fatalf("read %d bytes of %d", n, len(b))
					}
				}
				if _, err := read(append(bytes.Clone(b), 0)); err == nil {
					t.Fatal("read a byte too many")
				}
			}
		})
	}
}

func TestStateVersions(t *testing.T) {
	s := samples(t)
	for _, name := range []string{"public state", "group state", "staged state", "MLSMessage"} {
		b := bytes.Clone(s.forms[name][0])
		b[1] = 0x7f
		if _, err := messageForms[name](b); err != ErrUnsupported {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// fuzzForm is the body of the parsers' fuzz targets: what parses, marshals back to the same bytes.
func fuzzForm(f *testing.F, name string) {
	for _, b := range samples(f).forms[name] {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := messageForms[name](b)
		if err != nil {
			if errorKinds(err) != 1 {
				t.Fatal("an error of no kind, or of several")
			}
			return
		}
		framed, _ := bytes.CutPrefix(b, []byte{0, 1, 0, 4})
		if !bytes.Equal(again, b) && (name != "GroupInfo" || !bytes.Equal(again, framed)) {
			t.Fatal("round trip differs")
		}
	})
}

func FuzzMLSMessage(f *testing.F)           { fuzzForm(f, "MLSMessage") }
func FuzzWelcome(f *testing.F)              { fuzzForm(f, "Welcome") }
func FuzzGroupSecrets(f *testing.F)         { fuzzForm(f, "GroupSecrets") }
func FuzzGroupContext(f *testing.F)         { fuzzForm(f, "GroupContext") }
func FuzzGroupInfo(f *testing.F)            { fuzzForm(f, "GroupInfo") }
func FuzzAuthenticatedContent(f *testing.F) { fuzzForm(f, "AuthenticatedContent") }
func FuzzSenderData(f *testing.F)           { fuzzForm(f, "SenderData") }
func FuzzPSKID(f *testing.F)                { fuzzForm(f, "PSKID") }
func FuzzExternalSenders(f *testing.F)      { fuzzForm(f, "ExternalSenders") }
func FuzzExternalPub(f *testing.F)          { fuzzForm(f, "external_pub") }
func FuzzSecretTree(f *testing.F)           { fuzzForm(f, "secret tree") }
func FuzzPublicState(f *testing.F)          { fuzzForm(f, "public state") }
func FuzzGroupState(f *testing.F)           { fuzzForm(f, "group state") }
func FuzzStagedState(f *testing.F)          { fuzzForm(f, "staged state") }

// FuzzWelcomeTools splits what may be a Welcome.
func FuzzWelcomeTools(f *testing.F) {
	f.Add(samples(f).staged.Welcome)
	f.Fuzz(func(t *testing.T, b []byte) {
		refs, err := WelcomeRefs(b)
		if err != nil {
			return
		}
		for _, ref := range refs {
			one := must(SplitWelcome(b, ref))(t)
			if got := must(WelcomeRefs(one))(t); len(got) != 1 || !bytes.Equal(got[0], ref) {
				t.Fatal("not one entry")
			}
		}
	})
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

// FuzzProcess gives a member mutated messages. Those that it refuses change nothing.
func FuzzProcess(f *testing.F) {
	s := samples(f)
	for i := range s.messages {
		f.Add(uint8(i), uint16(40), []byte{})
		f.Add(uint8(i), uint16(60), []byte{1})
	}
	f.Fuzz(func(t *testing.T, which uint8, at uint16, xor []byte) {
		wantNoHarm(t, must(ParseGroup(s.bobState, testRules()))(t), s.mutated(which, at, xor))
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

// FuzzStageCommit gives a server mutated messages.
func FuzzStageCommit(f *testing.F) {
	s := samples(f)
	for i := range s.messages {
		f.Add(uint8(i), uint16(40), []byte{})
		f.Add(uint8(i), uint16(60), []byte{1})
	}
	before := s.server.Marshal()
	f.Fuzz(func(t *testing.T, which uint8, at uint16, xor []byte) {
		wantServerUnharmed(t, s.server, s.mutated(which, at, xor), before)
	})
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

// FuzzForged gives members and server contents that a malicious member has mutated, signed and framed: the checks behind signature and
// membership tag are reached.
func FuzzForged(f *testing.F) {
	s := samples(f)
	for _, msg := range s.messages {
		if m := must(parseMLSMessage(msg))(f); m.publicMessage != nil {
			var b cryptobyte.Builder
			m.publicMessage.content.marshalBody(&b)
			f.Add(uint8(m.publicMessage.content.contentType), b.BytesOrPanic())
		}
	}
	before := s.server.Marshal()
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
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
		ratchet := handshakeRatchet
		if ac.content.contentType == contentApplication {
			ratchet = applicationRatchet
		}
		generation, key, _, err := alice.messages.next(uint32(alice.private.index), ratchet)
		if err != nil {
			t.Fatal(err)
		}
		p := sealPrivate(suite1, ac, privateKeys{senderData: alice.secrets.senderData, generation: generation, key: key}, nil)
		wantNoHarm(t, must(ParseGroup(s.bobState, testRules()))(t), (&mlsMessage{privateMessage: p}).marshal())
	})
}

// FuzzPrivateContent gives a member well sealed contents that are anything.
func FuzzPrivateContent(f *testing.F) {
	s := samples(f)
	f.Add(uint8(1), []byte{4, 't', 'e', 'x', 't', 0, 0, 0})
	f.Add(uint8(2), []byte{0, 10, 0})
	f.Fuzz(func(t *testing.T, kind uint8, plain []byte) {
		alice := must(ParseGroup(s.aliceState, testRules()))(t).s
		p := &privateMessage{groupID: alice.public.context.groupID, epoch: alice.public.context.epoch, contentType: contentType(kind%3 + 1)}
		ratchet := handshakeRatchet
		if p.contentType == contentApplication {
			ratchet = applicationRatchet
		}
		generation, key, _, err := alice.messages.next(uint32(alice.private.index), ratchet)
		if err != nil {
			t.Fatal(err)
		}
		d := senderData{leaf: uint32(alice.private.index), generation: generation}
		p.ciphertext = suite1.Seal(key.key, d.guarded(key.nonce), p.contentAAD(), plain)
		sd := senderDataKey(suite1, alice.secrets.senderData, p.ciphertext)
		p.encryptedSenderData = suite1.Seal(sd.key, sd.nonce, p.senderDataAAD(), marshal(&d))
		wantNoHarm(t, must(ParseGroup(s.bobState, testRules()))(t), (&mlsMessage{privateMessage: p}).marshal())
	})
}
