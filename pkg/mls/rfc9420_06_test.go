package mls

import (
	"bytes"
	"testing"
)

func TestRFC9420_6(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	t.Run("application data is sent in a PrivateMessage", func(t *testing.T) {
		msg := must(alice.group.Encrypt([]byte("a text to look for"), nil, nil))(t)
		if must(Peek(msg))(t).WireFormat != uint16(wirePrivateMessage) || bytes.Contains(msg, []byte("to look for")) {
			t.Error("not encrypted")
		}
	})
	t.Run("application data in a PublicMessage is refused", func(t *testing.T) {
		msg := framed(alice, framedContent{contentType: contentApplication, application: []byte("text")})
		rule("6.2", "PrivateMessage").check(t, "bob", bob.refused(t, msg))
		rule("12.4", "commit").check(t, "server", w.refused(msg))
	})
}

// withExternalSender lets alice put a sender into the group's external_senders.
func (w *world) withExternalSender(t *testing.T, alice *client) SignatureKey {
	t.Helper()
	key := must(w.server.Suite().GenerateSignatureKey())(t)
	w.commit(alice, CommitOptions{Proposals: []Proposal{{Type: ProposalGroupContextExtensions, Extensions: []Extension{
		{testGroupExtension, []byte("policy")}, ExternalSendersExtension(ExternalSender{key.Public(), Credential{CredentialBasic, []byte("hub")}}),
	}}}})
	return key
}

func TestRFC9420_6_1(t *testing.T) {
	w, alice, bob, carol := threeWorld(t)
	hub := w.withExternalSender(t, alice)
	dave := newClient(t, "dave")
	external, newcomer, joiner := Sender{SenderExternal, 0}, Sender{Type: SenderNewMemberProposal}, Sender{Type: SenderNewMemberCommit}
	proposal := func(p Proposal) framedContent { return framedContent{contentType: contentProposal, proposal: &p} }
	remove := proposal(Proposal{Type: ProposalRemove, Removed: carol.group.OwnIndex()})
	add := proposal(Proposal{Type: ProposalAdd, KeyPackage: dave.kp})
	data := framedContent{contentType: contentApplication, application: []byte("text")}
	staged := w.external(dave, nil)
	join := must(parseMLSMessage(staged.Message))(t).publicMessage.content
	daves := dave.secrets.SignatureKey

	t.Run("a member signs with its leaf's key", func(t *testing.T) {
		msg := forge(t, alice, proposed(alice, *remove.proposal), func(ac *authenticatedContent) { ac.content.sender.Leaf = bob.group.OwnIndex() })
		w.bothRefuse(t, carol, msg, failure(ErrUnauthenticated))
		w.bothTake(t, bob, proposed(alice, *remove.proposal))
	})
	t.Run("a member is at an occupied leaf", func(t *testing.T) {
		msg := forge(t, alice, proposed(alice, *remove.proposal), func(ac *authenticatedContent) { ac.content.sender.Leaf = 3 })
		w.bothRefuse(t, bob, msg, rule("6.1", "sender"))
	})
	t.Run("an external sender signs with its listed key", func(t *testing.T) {
		w.bothTake(t, bob, w.fromOutside(external, hub, remove))
		w.bothRefuse(t, bob, w.fromOutside(external, daves, remove), failure(ErrUnauthenticated))
		w.bothRefuse(t, bob, w.fromOutside(Sender{SenderExternal, 1}, hub, remove), rule("12.1.8", "listed"))
	})
	t.Run("an external sender sends proposals only", func(t *testing.T) {
		w.bothRefuse(t, bob, w.fromOutside(external, hub, framedContent{contentType: contentCommit, commit: join.commit}), rule("12.4", "from a member"))
		msg := w.fromOutside(external, hub, data)
		rule("6.2", "PrivateMessage").check(t, "bob", bob.refused(t, msg))
		rule("12.4", "commit").check(t, "server", w.refused(msg))
	})
	t.Run("a new member's commit is signed with its path's key", func(t *testing.T) {
		w.bothTake(t, bob, staged.Message)
		other := w.fromOutside(joiner, hub, join)
		w.bothRefuse(t, bob, other, failure(ErrUnauthenticated))
	})
	t.Run("a joining sender sends commits only", func(t *testing.T) {
		w.bothRefuse(t, bob, w.fromOutside(joiner, daves, add), rule("6.1", "can send this content"))
		msg := w.fromOutside(joiner, daves, data)
		rule("6.2", "PrivateMessage").check(t, "bob", bob.refused(t, msg))
		rule("12.4", "commit").check(t, "server", w.refused(msg))
	})
	t.Run("a new member's proposal is signed with its KeyPackage's key", func(t *testing.T) {
		w.bothTake(t, bob, w.fromOutside(newcomer, daves, add))
		w.bothRefuse(t, bob, w.fromOutside(newcomer, hub, add), failure(ErrUnauthenticated))
	})
	t.Run("a new member proposes nothing but to add it", func(t *testing.T) {
		w.bothRefuse(t, bob, w.fromOutside(newcomer, daves, remove), rule("6.1", "can send this content"))
		w.bothRefuse(t, bob, w.fromOutside(newcomer, daves, proposal(Proposal{Type: ProposalSelfRemove})), rule("6.1", "can send this content"))
	})
	t.Run("a new member's proposal is no commit", func(t *testing.T) {
		w.bothRefuse(t, bob, w.fromOutside(newcomer, daves, framedContent{contentType: contentCommit, commit: join.commit}), rule("12.4", "from a member"))
	})
	t.Run("a signature covers group, epoch and wire format", func(t *testing.T) {
		s := alice.group.s
		ac := &authenticatedContent{wireFormat: wirePrivateMessage, content: framedContent{
			groupID: w.server.GroupID(), epoch: w.server.Epoch(), sender: s.self(), contentType: contentProposal, proposal: remove.proposal,
		}}
		ac.sign(s.signer, s.public.encoded)
		msg := (&mlsMessage{publicMessage: newPublicMessage(suite1, ac, s.secrets.membership, s.public.encoded)}).marshal()
		w.bothRefuse(t, bob, msg, failure(ErrUnauthenticated))
		ac.wireFormat = wirePublicMessage
		ac.sign(s.signer, w.server.encoded[1:])
		msg = (&mlsMessage{publicMessage: newPublicMessage(suite1, ac, s.secrets.membership, s.public.encoded)}).marshal()
		w.bothRefuse(t, bob, msg, failure(ErrUnauthenticated))
	})
}

func TestRFC9420_6_2(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	staged := w.stage(alice, CommitOptions{Path: true})
	spoil := func(change func(p *publicMessage)) []byte {
		m := must(parseMLSMessage(staged.Message))(t)
		change(m.publicMessage)
		return m.marshal()
	}
	t.Run("a member's message has the membership tag", func(t *testing.T) {
		failure(ErrUnauthenticated).check(t, "changed", bob.refused(t, spoil(func(p *publicMessage) { p.membershipTag[0] ^= 1 })))
		failure(ErrUnauthenticated).check(t, "empty", bob.refused(t, spoil(func(p *publicMessage) { p.membershipTag = nil })))
		failure(ErrUnauthenticated).check(t, "cut", bob.refused(t, spoil(func(p *publicMessage) { p.membershipTag = p.membershipTag[:31] })))
	})
	t.Run("a message of a member without the tag is malformed", func(t *testing.T) {
		msg := spoil(func(p *publicMessage) { p.membershipTag = nil })
		w.bothRefuse(t, bob, msg[:len(msg)-1], failure(ErrMalformed))
	})
	t.Run("the membership tag covers the whole message", func(t *testing.T) {
		msg := spoil(func(p *publicMessage) {
			p.content.authenticatedData, p.content.raw = []byte("other"), nil
			ac := p.authenticated()
			ac.sign(alice.group.s.signer, w.server.encoded)
			p.auth = ac.auth
		})
		failure(ErrUnauthenticated).check(t, "bob", bob.refused(t, msg))
	})
	t.Run("a message has a valid signature", func(t *testing.T) {
		msg := spoil(func(p *publicMessage) {
			p.auth.signature[0] ^= 1
			p.membershipTag = p.authenticated().membershipTag(suite1, alice.group.s.secrets.membership, w.server.encoded)
		})
		w.bothRefuse(t, bob, msg, failure(ErrUnauthenticated))
	})
	t.Run("a commit has a valid confirmation tag", func(t *testing.T) {
		msg := forge(t, alice, staged.Message, func(ac *authenticatedContent) { ac.auth.confirmationTag[0] ^= 1 })
		failure(ErrUnauthenticated).check(t, "bob", bob.refused(t, msg))
	})
	w.bothTake(t, bob, staged.Message)
}

// privateContent is PrivateMessageContent of c's application message, with padding.
func privateContent(c *client, text string, padding []byte, change func(ac *authenticatedContent)) []byte {
	s := c.group.s
	ac := &authenticatedContent{wireFormat: wirePrivateMessage, content: framedContent{
		groupID: s.public.context.groupID, epoch: s.public.context.epoch, sender: s.self(),
		contentType: contentApplication, application: []byte(text),
	}}
	ac.sign(s.signer, s.public.encoded)
	change(ac)
	return append(padded(ac, nil), padding...)
}

func TestRFC9420_6_3_1(t *testing.T) {
	_, alice, bob, carol := threeWorld(t)
	asItIs := func(*authenticatedContent) {}
	t.Run("padding is zero", func(t *testing.T) {
		for name, c := range map[string]struct {
			padding []byte
			want    error
		}{
			"none": {nil, nil}, "zeros": {make([]byte, 99), nil}, "one": {[]byte{1}, ErrMalformed},
			"a one at the end": {append(make([]byte, 99), 1), ErrMalformed}, "a one at the start": {append([]byte{1}, make([]byte, 99)...), ErrMalformed},
		} {
			msg := sealed(t, alice, contentApplication, alice.group.OwnIndex(), privateContent(alice, "text", c.padding, asItIs))
			again := &client{name: "bob", group: must(ParseGroup(bob.group.Marshal(), testRules()))(t)}
			failure(c.want).check(t, name, again.refused(t, msg))
		}
	})
	t.Run("a sender pads with zeros", func(t *testing.T) {
		again := must(ParseGroup(alice.group.Marshal(), testRules()))(t).s
		msg := must(alice.group.Encrypt([]byte("text"), nil, func(int) int { return 512 }))(t)
		p := must(parseMLSMessage(msg))(t).privateMessage
		d := must(p.openSenderData(suite1, again.secrets.senderData))(t)
		key, _, err := again.messages.derive(d.leaf, applicationRatchet, d.generation)
		if err != nil {
			t.Fatal(err)
		}
		plain := must(suite1.Open(key.key, d.guarded(key.nonce), p.contentAAD(), p.ciphertext))(t)
		if len(plain) != 512 || !allZero(plain[300:]) {
			t.Errorf("%d bytes", len(plain))
		}
	})
	t.Run("a message has its own random reuse guard", func(t *testing.T) {
		guards := map[[reuseGuardLen]byte]bool{}
		for range 8 {
			p := must(parseMLSMessage(must(alice.group.Encrypt([]byte("text"), nil, nil))(t)))(t).privateMessage
			guards[must(p.openSenderData(suite1, bob.group.s.secrets.senderData))(t).reuseGuard] = true
		}
		if len(guards) != 8 || guards[[reuseGuardLen]byte{}] {
			t.Errorf("%d guards for 8 messages", len(guards))
		}
	})
	t.Run("the reuse guard of the sender data is in the nonce", func(t *testing.T) {
		again := must(ParseGroup(alice.group.Marshal(), testRules()))(t).s
		p := must(parseMLSMessage(must(alice.group.Encrypt([]byte("text"), nil, nil))(t)))(t).privateMessage
		d := must(p.openSenderData(suite1, bob.group.s.secrets.senderData))(t)
		key, _, err := again.messages.derive(d.leaf, applicationRatchet, d.generation)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.openContent(suite1, d, key); err != nil {
			t.Error(err)
		}
		d.reuseGuard[0] ^= 1
		_, err = p.openContent(suite1, d, key)
		failure(ErrUnauthenticated).check(t, "another guard", err)
	})
	t.Run("a stored state goes on where it was", func(t *testing.T) {
		generations := map[uint32]bool{}
		for range 6 {
			p := must(parseMLSMessage(must(alice.group.Encrypt([]byte("text"), nil, nil))(t)))(t).privateMessage
			if seen(generations, must(p.openSenderData(suite1, bob.group.s.secrets.senderData))(t).generation) {
				t.Error("a generation twice")
			}
			alice.group = must(ParseGroup(alice.group.Marshal(), testRules()))(t)
		}
	})
	t.Run("a message has a valid signature", func(t *testing.T) {
		msg := sealed(t, alice, contentApplication, alice.group.OwnIndex(), privateContent(alice, "text", nil, func(ac *authenticatedContent) { ac.auth.signature[0] ^= 1 }))
		failure(ErrUnauthenticated).check(t, "bob", bob.refused(t, msg))
	})
	t.Run("a commit has a valid confirmation tag", func(t *testing.T) {
		staged := must(alice.group.Commit(CommitOptions{Path: true, Private: true}))(t)
		ac := staged.content
		ac.auth.confirmationTag[0] ^= 1
		msg := sealed(t, alice, contentCommit, alice.group.OwnIndex(), padded(ac, nil))
		failure(ErrUnauthenticated).check(t, "carol", carol.refused(t, msg))
	})
}

func TestRFC9420_6_3_2(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	t.Run("the sender is at an occupied leaf", func(t *testing.T) {
		for _, leaf := range []uint32{3, 4, 1 << 31, 1<<32 - 1} {
			msg := sealed(t, alice, contentApplication, leaf, privateContent(alice, "text", nil, func(*authenticatedContent) {}))
			rule("6.3.2", "occupied").check(t, "bob", bob.refused(t, msg))
		}
	})
	t.Run("the sender data names the sending member", func(t *testing.T) {
		for _, c := range []*client{alice, bob} {
			p := must(parseMLSMessage(must(c.group.Encrypt([]byte("text"), nil, nil))(t)))(t).privateMessage
			if d := must(p.openSenderData(suite1, alice.group.s.secrets.senderData))(t); d.leaf != c.group.OwnIndex() {
				t.Errorf("%s is called %d", c.name, d.leaf)
			}
		}
		// Whoever is no member has no PrivateMessage: an external commit is public whatever it is asked for.
		if got := must(Peek(w.external(newClient(t, "dave"), nil).Message))(t); got.WireFormat != uint16(wirePublicMessage) {
			t.Error("a joiner sent a PrivateMessage")
		}
	})
}
