package mls

import (
	"bytes"
	"encoding/json"
	"testing"

	"golang.org/x/crypto/cryptobyte"
)

func wantBytes(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got %x, want %x", what, got, want)
	}
}

func decodeCase(t *testing.T, raw json.RawMessage, into any) {
	t.Helper()
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

func vectorKeySchedule(t *testing.T, raw json.RawMessage) {
	var c struct {
		Suite   CipherSuite `json:"cipher_suite"`
		GroupID hexBytes    `json:"group_id"`
		Init    hexBytes    `json:"initial_init_secret"`
		Epochs  []struct {
			CommitSecret            hexBytes `json:"commit_secret"`
			PSKSecret               hexBytes `json:"psk_secret"`
			TreeHash                hexBytes `json:"tree_hash"`
			ConfirmedTranscriptHash hexBytes `json:"confirmed_transcript_hash"`
			GroupContext            hexBytes `json:"group_context"`
			Joiner                  hexBytes `json:"joiner_secret"`
			Welcome                 hexBytes `json:"welcome_secret"`
			Init                    hexBytes `json:"init_secret"`
			SenderData              hexBytes `json:"sender_data_secret"`
			Encryption              hexBytes `json:"encryption_secret"`
			Exporter                hexBytes `json:"exporter_secret"`
			Authenticator           hexBytes `json:"epoch_authenticator"`
			External                hexBytes `json:"external_secret"`
			Confirmation            hexBytes `json:"confirmation_key"`
			Membership              hexBytes `json:"membership_key"`
			Resumption              hexBytes `json:"resumption_psk"`
			ExternalPub             hexBytes `json:"external_pub"`
			Export                  struct {
				Label   string
				Context hexBytes
				Length  int
				Secret  hexBytes
			} `json:"exporter"`
		}
	}
	decodeCase(t, raw, &c)
	init := []byte(c.Init)
	for i, e := range c.Epochs {
		context := marshal(&groupContext{
			version: mls10, suite: c.Suite, groupID: c.GroupID, epoch: uint64(i),
			treeHash: e.TreeHash, confirmedTranscriptHash: e.ConfirmedTranscriptHash,
		})
		wantBytes(t, "group_context", context, e.GroupContext)
		joiner := joinerSecret(c.Suite, init, e.CommitSecret, context)
		wantBytes(t, "joiner_secret", joiner, e.Joiner)
		member := memberSecret(c.Suite, joiner, e.PSKSecret)
		wantBytes(t, "welcome_secret", c.Suite.deriveSecret(member, labelWelcome), e.Welcome)
		secrets, encryption := newEpochSecrets(c.Suite, epochSecret(c.Suite, member, context))
		wantBytes(t, "encryption_secret", encryption, e.Encryption)
		wantBytes(t, "init_secret", secrets.init, e.Init)
		wantBytes(t, "sender_data_secret", secrets.senderData, e.SenderData)
		wantBytes(t, "exporter_secret", secrets.exporter, e.Exporter)
		wantBytes(t, "epoch_authenticator", secrets.authenticator, e.Authenticator)
		wantBytes(t, "external_secret", secrets.external, e.External)
		wantBytes(t, "confirmation_key", secrets.confirmation, e.Confirmation)
		wantBytes(t, "membership_key", secrets.membership, e.Membership)
		wantBytes(t, "resumption_psk", secrets.resumption, e.Resumption)
		key, err := secrets.externalKey(c.Suite)
		if err != nil {
			t.Fatal(err)
		}
		wantBytes(t, "external_pub", key.Public(), e.ExternalPub)
		wantBytes(t, "exporter", secrets.export(c.Suite, e.Export.Label, e.Export.Context, e.Export.Length), e.Export.Secret)
		init = secrets.init
	}
}

func vectorPSKSecret(t *testing.T, raw json.RawMessage) {
	var c struct {
		Suite CipherSuite `json:"cipher_suite"`
		PSKs  []struct {
			ID    hexBytes `json:"psk_id"`
			PSK   hexBytes
			Nonce hexBytes `json:"psk_nonce"`
		}
		Secret hexBytes `json:"psk_secret"`
	}
	decodeCase(t, raw, &c)
	var ids []*PSKID
	psks := map[string][]byte{}
	for _, p := range c.PSKs {
		ids = append(ids, &PSKID{ID: p.ID, Nonce: p.Nonce})
		psks[string(p.ID)] = p.PSK
	}
	got, err := pskSecret(c.Suite, ids, func(id *PSKID) ([]byte, error) { return psks[string(id.ID)], nil })
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "psk_secret", got, c.Secret)
}

func vectorTranscript(t *testing.T, raw json.RawMessage) {
	var c struct {
		Suite           CipherSuite `json:"cipher_suite"`
		ConfirmationKey hexBytes    `json:"confirmation_key"`
		Content         hexBytes    `json:"authenticated_content"`
		InterimBefore   hexBytes    `json:"interim_transcript_hash_before"`
		ConfirmedAfter  hexBytes    `json:"confirmed_transcript_hash_after"`
		InterimAfter    hexBytes    `json:"interim_transcript_hash_after"`
	}
	decodeCase(t, raw, &c)
	ac := new(authenticatedContent)
	if err := parse(c.Content, ac); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "round trip", marshal(ac), c.Content)
	confirmed := confirmedTranscriptHash(c.Suite, c.InterimBefore, ac)
	wantBytes(t, "confirmed", confirmed, c.ConfirmedAfter)
	wantBytes(t, "interim", interimTranscriptHash(c.Suite, confirmed, ac.auth.confirmationTag), c.InterimAfter)
	secrets := &epochSecrets{confirmation: c.ConfirmationKey}
	wantBytes(t, "confirmation_tag", ac.auth.confirmationTag, secrets.confirmationTag(c.Suite, confirmed))
}

func vectorSecretTree(t *testing.T, raw json.RawMessage) {
	var c struct {
		Suite      CipherSuite `json:"cipher_suite"`
		Encryption hexBytes    `json:"encryption_secret"`
		SenderData struct {
			Secret     hexBytes `json:"sender_data_secret"`
			Ciphertext hexBytes
			Key, Nonce hexBytes
		} `json:"sender_data"`
		Leaves [][]struct {
			Generation       uint32
			ApplicationKey   hexBytes `json:"application_key"`
			ApplicationNonce hexBytes `json:"application_nonce"`
			HandshakeKey     hexBytes `json:"handshake_key"`
			HandshakeNonce   hexBytes `json:"handshake_nonce"`
		}
	}
	decodeCase(t, raw, &c)
	sd := senderDataKey(c.Suite, c.SenderData.Secret, c.SenderData.Ciphertext)
	wantBytes(t, "sender data key", sd.key, c.SenderData.Key)
	wantBytes(t, "sender data nonce", sd.nonce, c.SenderData.Nonce)
	tree := newSecretTree(c.Suite, uint32(len(c.Leaves)), c.Encryption)
	for leaf, generations := range c.Leaves {
		for _, g := range generations {
			for kind, want := range [2][2]hexBytes{{g.HandshakeKey, g.HandshakeNonce}, {g.ApplicationKey, g.ApplicationNonce}} {
				k, step, err := tree.derive(uint32(leaf), ratchetKind(kind), g.Generation)
				if err != nil {
					t.Fatal(err)
				}
				tree.apply(step)
				wantBytes(t, "key", k.key, want[0])
				wantBytes(t, "nonce", k.nonce, want[1])
			}
		}
	}
}

func vectorMessageProtection(t *testing.T, raw json.RawMessage) {
	var c protectionCase
	decodeCase(t, raw, &c)
	key := signatureKeyOf(t, c.Suite, c.SignaturePriv)
	wantBytes(t, "signature_pub", key.Public(), c.SignaturePub)
	c.key, c.context = key, marshal(&groupContext{
		version: mls10, suite: c.Suite, groupID: c.GroupID, epoch: c.Epoch,
		treeHash: c.TreeHash, confirmedTranscriptHash: c.ConfirmedTranscriptHash,
	})
	wantBytes(t, "proposal_pub", c.openPublic(t, c.ProposalPub), c.Proposal)
	wantBytes(t, "proposal_priv", c.openPrivate(t, c.ProposalPriv), c.Proposal)
	wantBytes(t, "commit_pub", c.openPublic(t, c.CommitPub), c.Commit)
	wantBytes(t, "commit_priv", c.openPrivate(t, c.CommitPriv), c.Commit)
	wantBytes(t, "application_priv", c.openPrivate(t, c.ApplicationPriv), c.Application)

	for _, body := range []struct {
		t    contentType
		body []byte
	}{{contentProposal, c.Proposal}, {contentCommit, c.Commit}, {contentApplication, c.Application}} {
		if body.t != contentApplication {
			wantBytes(t, "own public", c.openPublic(t, c.makePublic(t, body.t, body.body)), body.body)
		}
		wantBytes(t, "own private", c.openPrivate(t, c.makePrivate(t, body.t, body.body)), body.body)
	}
}

// protectionCase is one case of message-protection.json. The tree has two leaves; all messages are leaf 1's.
type protectionCase struct {
	Suite                   CipherSuite `json:"cipher_suite"`
	GroupID                 hexBytes    `json:"group_id"`
	Epoch                   uint64
	TreeHash                hexBytes `json:"tree_hash"`
	ConfirmedTranscriptHash hexBytes `json:"confirmed_transcript_hash"`
	SignaturePriv           hexBytes `json:"signature_priv"`
	SignaturePub            hexBytes `json:"signature_pub"`
	Encryption              hexBytes `json:"encryption_secret"`
	SenderData              hexBytes `json:"sender_data_secret"`
	Membership              hexBytes `json:"membership_key"`
	Proposal                hexBytes
	ProposalPub             hexBytes `json:"proposal_pub"`
	ProposalPriv            hexBytes `json:"proposal_priv"`
	Commit                  hexBytes
	CommitPub               hexBytes `json:"commit_pub"`
	CommitPriv              hexBytes `json:"commit_priv"`
	Application             hexBytes
	ApplicationPriv         hexBytes `json:"application_priv"`

	key     SignatureKey
	context []byte
}

func (c *protectionCase) body(ac *authenticatedContent) []byte {
	if ac.content.contentType == contentApplication {
		return ac.content.application
	}
	var b cryptobyte.Builder
	ac.content.marshalBody(&b)
	return b.BytesOrPanic()
}

func (c *protectionCase) openPublic(t *testing.T, msg []byte) []byte {
	t.Helper()
	m, err := parseMLSMessage(msg)
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "round trip", m.marshal(), msg)
	ac := m.publicMessage.authenticated()
	if err := ac.verify(c.Suite, c.SignaturePub, c.context); err != nil {
		t.Fatal(err)
	}
	if err := m.publicMessage.verifyMembership(c.Suite, c.Membership, c.context); err != nil {
		t.Fatal(err)
	}
	return c.body(ac)
}

func (c *protectionCase) openPrivate(t *testing.T, msg []byte) []byte {
	t.Helper()
	m, err := parseMLSMessage(msg)
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "round trip", m.marshal(), msg)
	p := m.privateMessage
	sd, err := p.openSenderData(c.Suite, c.SenderData)
	if err != nil {
		t.Fatal(err)
	}
	kind := handshakeRatchet
	if p.contentType == contentApplication {
		kind = applicationRatchet
	}
	k, _, err := newSecretTree(c.Suite, 2, c.Encryption).derive(sd.leaf, kind, sd.generation)
	if err != nil {
		t.Fatal(err)
	}
	ac, err := p.openContent(c.Suite, sd, k)
	if err != nil {
		t.Fatal(err)
	}
	if err := ac.verify(c.Suite, c.SignaturePub, c.context); err != nil {
		t.Fatal(err)
	}
	return c.body(ac)
}

func (c *protectionCase) content(t *testing.T, w wireFormat, kind contentType, body []byte) *authenticatedContent {
	t.Helper()
	ac := &authenticatedContent{wireFormat: w, content: framedContent{
		groupID: c.GroupID, epoch: c.Epoch, sender: Sender{SenderMember, 1}, authenticatedData: []byte("aad"), contentType: kind,
	}}
	if kind == contentApplication {
		ac.content.application = body
	} else {
		s := cryptobyte.String(body)
		if !ac.content.parseBody(&s) {
			t.Fatal("body does not parse")
		}
	}
	if kind == contentCommit {
		ac.auth.confirmationTag = c.Suite.Hash(body)
	}
	ac.sign(c.key, c.context)
	return ac
}

func (c *protectionCase) makePublic(t *testing.T, kind contentType, body []byte) []byte {
	ac := c.content(t, wirePublicMessage, kind, body)
	return (&mlsMessage{publicMessage: newPublicMessage(c.Suite, ac, c.Membership, c.context)}).marshal()
}

func (c *protectionCase) makePrivate(t *testing.T, kind contentType, body []byte) []byte {
	r := handshakeRatchet
	if kind == contentApplication {
		r = applicationRatchet
	}
	g, k, _, err := newSecretTree(c.Suite, 2, c.Encryption).next(1, r)
	if err != nil {
		t.Fatal(err)
	}
	ac := c.content(t, wirePrivateMessage, kind, body)
	p := sealPrivate(c.Suite, ac, privateKeys{c.SenderData, g, k}, func(n int) int { return n + 100 })
	return (&mlsMessage{privateMessage: p}).marshal()
}

func vectorWelcome(t *testing.T, raw json.RawMessage) {
	var c struct {
		Suite      CipherSuite `json:"cipher_suite"`
		InitPriv   hexBytes    `json:"init_priv"`
		KeyPackage hexBytes    `json:"key_package"`
		SignerPub  hexBytes    `json:"signer_pub"`
		Welcome    hexBytes
	}
	decodeCase(t, raw, &c)
	m, err := parseMLSMessage(c.KeyPackage)
	if err != nil {
		t.Fatal(err)
	}
	w, framed, err := parseWelcome(c.Welcome)
	if err != nil || !framed {
		t.Fatal(framed, err)
	}
	init := hpkeKeyOf(t, c.Suite, c.InitPriv)
	gs, err := w.open(m.keyPackage, init)
	if err != nil {
		t.Fatal(err)
	}
	psk, err := pskSecret(c.Suite, gs.psks, pskSources{}.find)
	if err != nil {
		t.Fatal(err)
	}
	member := memberSecret(c.Suite, gs.joiner, psk)
	info, err := w.openGroupInfo(member)
	if err != nil {
		t.Fatal(err)
	}
	if err := info.verify(&LeafNode{signatureKey: c.SignerPub}); err != nil {
		t.Fatal(err)
	}
	secrets, _ := newEpochSecrets(c.Suite, epochSecret(c.Suite, member, marshal(&info.context)))
	wantBytes(t, "confirmation_tag", info.confirmationTag, secrets.confirmationTag(c.Suite, info.context.confirmedTranscriptHash))
}
