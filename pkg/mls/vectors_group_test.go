package mls

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
)

func init() {
	for name, run := range map[string]func(*testing.T, json.RawMessage){
		"key-schedule.json":                   vectorKeySchedule,
		"psk_secret.json":                     vectorPSKSecret,
		"transcript-hashes.json":              vectorTranscript,
		"secret-tree.json":                    vectorSecretTree,
		"message-protection.json":             vectorMessageProtection,
		"welcome.json":                        vectorWelcome,
		"passive-client-welcome.json":         vectorPassiveClient,
		"passive-client-handling-commit.json": vectorPassiveClient,
		"passive-client-random.json":          vectorPassiveClient,
	} {
		vectorRunners[name] = run
	}
}

// passiveCase is one case of the passive-client files: a member that joins and then only follows.
type passiveCase struct {
	Suite CipherSuite `json:"cipher_suite"`
	PSKs  []struct {
		ID  hexBytes `json:"psk_id"`
		PSK hexBytes
	} `json:"external_psks"`
	KeyPackage     hexBytes `json:"key_package"`
	SignaturePriv  hexBytes `json:"signature_priv"`
	EncryptionPriv hexBytes `json:"encryption_priv"`
	InitPriv       hexBytes `json:"init_priv"`
	Welcome        hexBytes
	Tree           hexBytes `json:"ratchet_tree"`
	Authenticator  hexBytes `json:"initial_epoch_authenticator"`
	Epochs         []struct {
		Proposals     []hexBytes
		Commit        hexBytes
		Authenticator hexBytes `json:"epoch_authenticator"`
	}
}

func (c *passiveCase) psk(id []byte) ([]byte, error) {
	for _, p := range c.PSKs {
		if bytes.Equal(p.ID, id) {
			return p.PSK, nil
		}
	}
	return nil, errors.New("unknown PSK")
}

func (c *passiveCase) join(t *testing.T) *Group {
	t.Helper()
	kp := must(parseMLSMessage(c.KeyPackage))(t).keyPackage
	secrets := &KeyPackageSecrets{
		InitKey:       hpkeKeyOf(t, c.Suite, c.InitPriv),
		EncryptionKey: hpkeKeyOf(t, c.Suite, c.EncryptionPriv),
		SignatureKey:  signatureKeyOf(t, c.Suite, c.SignaturePriv),
	}
	g, _, err := Join(JoinConfig{
		Welcome: c.Welcome, Tree: c.Tree, KeyPackage: kp, Secrets: secrets, PSK: c.psk, PastEpochs: maxPastEpochs,
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func vectorPassiveClient(t *testing.T, raw json.RawMessage) {
	c := new(passiveCase)
	decodeCase(t, raw, c)
	g := c.join(t)
	wantBytes(t, "epoch authenticator", g.EpochAuthenticator(), c.Authenticator)
	options := ProcessOptions{PSK: c.psk}
	for i, e := range c.Epochs {
		for _, p := range e.Proposals {
			if got := must(g.Process(p, options))(t); got.Proposal == nil {
				t.Fatal("not taken as a proposal")
			}
		}
		public := g.Public()
		got := must(g.Process(e.Commit, options))(t)
		if err := g.Merge(got.Commit); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, "epoch authenticator", g.EpochAuthenticator(), e.Authenticator)
		c.follow(t, public, e.Commit, g)
		if i%3 == 2 { // a stored state is as good
			state := g.Marshal()
			g = must(ParseGroup(state, nil))(t)
			wantBytes(t, "state", g.Marshal(), state)
		}
	}
}

// follow lets a server that has the same public state process the commit, if it can read it.
func (c *passiveCase) follow(t *testing.T, public *PublicGroup, commit []byte, g *Group) {
	t.Helper()
	if must(Peek(commit))(t).WireFormat != uint16(wirePublicMessage) {
		return
	}
	change := must(public.StageCommit(commit, noTime))(t)
	wantBytes(t, "public state", change.After.Marshal(), g.Public().Marshal())
}
