// Package interop checks pkg/mls and the tokens of pkg/mimimi against independent implementations.
package interop

import (
	"bytes"
	"testing"
	"time"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// timeZero: lifetimes are not this test's matter.
var timeZero time.Time

// status is what the peer says of its group.
type status struct {
	Epoch         uint64 `json:"epoch"`
	Authenticator []byte `json:"authenticator"`
	Members       int    `json:"members"`
}

// extensionView is an extension as the peer saw it.
type extensionView struct {
	Type uint16 `json:"type"`
	Data []byte `json:"data"`
}

// ours makes a KeyPackage of ours with a custom credential and a custom leaf extension, as the peer's has.
func ours(t *testing.T) (*mls.KeyPackage, *mls.KeyPackageSecrets) {
	t.Helper()
	key, err := mimimi.Suite.GenerateSignatureKey()
	if err != nil {
		t.Fatal(err)
	}
	kp, secrets, err := mls.NewKeyPackage(mls.KeyPackageConfig{
		Suite: mimimi.Suite, SignatureKey: key, Capabilities: mimimi.Capabilities(),
		Credential:     mls.Credential{Type: mimimi.CredentialPseudonymous, Body: []byte("our credential's body")},
		Lifetime:       mls.Lifetime{NotBefore: 0, NotAfter: 1 << 40},
		LeafExtensions: []mls.Extension{{Type: mimimi.ExtensionEncryptedQueueID, Data: []byte("our queue")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return kp, secrets
}

// theirs lets the peer make a KeyPackage and returns it.
func theirs(t *testing.T, p *peer) *mls.KeyPackage {
	t.Helper()
	c := mimimi.Capabilities()
	var answer struct {
		Message []byte `json:"message"`
	}
	p.call(map[string]any{
		"op": "keyPackage", "credentialType": mimimi.CredentialPseudonymous, "credential": []byte("their credential's body"),
		"extensionType": mimimi.ExtensionEncryptedQueueID, "extension": []byte("their queue"),
		"capabilities": map[string]any{"extensions": c.Extensions, "proposals": c.Proposals, "credentials": c.Credentials},
	}, &answer)
	const header = 4 // MLSMessage: version and wire format
	kp, err := mls.ParseKeyPackage(answer.Message[header:])
	if err != nil {
		t.Fatalf("the peer's KeyPackage: %v", err)
	}
	if !bytes.Equal(kp.Marshal(), answer.Message[header:]) {
		t.Fatal("the peer's KeyPackage is not the same after a round trip")
	}
	return kp
}

// agree checks that both sides are in the same epoch with the same secrets.
func agree(t *testing.T, g *mls.Group, s status) {
	t.Helper()
	if s.Epoch != g.Epoch() || !bytes.Equal(s.Authenticator, g.EpochAuthenticator()) || s.Members != len(g.Public().Members()) {
		t.Fatalf("epochs %d and %d, same authenticator: %v, members %d and %d",
			g.Epoch(), s.Epoch, bytes.Equal(s.Authenticator, g.EpochAuthenticator()), len(g.Public().Members()), s.Members)
	}
}

// TestTSMLSJoins lets ts-mls join a group of ours by Welcome and then does everything in both directions that MIMIMI adds to MLS: custom credential,
// leaf extension, GroupContext extension, Welcome extension and proposal; and compares epoch authenticators, exported secrets and messages.
func TestTSMLSJoins(t *testing.T) {
	p := startTSMLS(t)
	kp, secrets := ours(t)
	rules := &mls.Rules{Proposals: map[mls.ProposalType]mls.ProposalRule{mimimi.ProposalIdentityLinkUpdate: {}}}
	g, err := mls.NewGroup(mls.GroupConfig{
		GroupID: []byte("mimi://a.example/g/interop"), KeyPackage: kp, Secrets: secrets, Rules: rules,
		Extensions: []mls.Extension{mimimi.RequiredCapabilities(), {Type: mimimi.ExtensionGroup, Data: []byte("a policy")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	added := theirs(t, p)
	staged, err := g.Commit(mls.CommitOptions{
		Proposals: []mls.Proposal{
			{Type: mls.ProposalAdd, KeyPackage: added},
			{Type: mimimi.ProposalIdentityLinkUpdate, Body: []byte("sealed link keys")},
		},
		TreeInWelcome: true,
		WelcomeExtensions: func(*mls.Group) ([]mls.Extension, error) {
			return []mls.Extension{{Type: mimimi.ExtensionIdentityLinks, Data: []byte("all link keys")}}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Merge(staged); err != nil {
		t.Fatal(err)
	}
	var joined struct {
		status
		Extensions []extensionView `json:"extensions"`
	}
	p.call(map[string]any{"op": "join", "welcome": staged.Welcome}, &joined)
	agree(t, g, joined.status)
	found := false
	for _, e := range joined.Extensions {
		found = found || (e.Type == uint16(mimimi.ExtensionIdentityLinks) && string(e.Data) == "all link keys")
	}
	if !found {
		t.Error("the peer did not find the Welcome's extension")
	}
	checkLeaf(t, g)
	checkMessages(t, g, p)
	checkCommits(t, g, p)
	checkMessages(t, g, p)
	checkExport(t, g, p)
}

// checkLeaf checks that the peer's credential and leaf extension arrived byte for byte.
func checkLeaf(t *testing.T, g *mls.Group) {
	t.Helper()
	for _, m := range g.Public().Members() {
		if m.Index == g.OwnIndex() {
			continue
		}
		ext, ok := m.Leaf.Extension(mimimi.ExtensionEncryptedQueueID)
		if c := m.Leaf.Credential(); c.Type != mimimi.CredentialPseudonymous || string(c.Body) != "their credential's body" || !ok || string(ext) != "their queue" {
			t.Error("the peer's credential or leaf extension is not what it made")
		}
	}
}

// checkMessages sends application messages in both directions.
func checkMessages(t *testing.T, g *mls.Group, p *peer) {
	t.Helper()
	for _, text := range []string{"", "short", string(bytes.Repeat([]byte("long "), 200))} {
		msg, err := g.Encrypt([]byte(text), nil, mimimi.PadTo)
		if err != nil {
			t.Fatal(err)
		}
		var read struct {
			status
			Kind        string `json:"kind"`
			Application []byte `json:"application"`
		}
		p.call(map[string]any{"op": "process", "message": msg}, &read)
		if read.Kind != "applicationMessage" || string(read.Application) != text {
			t.Errorf("the peer read %d bytes as %s, want %d", len(read.Application), read.Kind, len(text))
		}
		var sent struct {
			Message []byte `json:"message"`
		}
		p.call(map[string]any{"op": "send", "text": []byte(text)}, &sent)
		r, err := g.Process(sent.Message, mls.ProcessOptions{})
		if err != nil {
			t.Fatalf("the peer's message: %v", err)
		}
		if r.Application == nil || string(r.Application.Data) != text {
			t.Error("the peer's message is not what it sent")
		}
	}
}

// checkCommits makes a path commit with a custom proposal on each side.
func checkCommits(t *testing.T, g *mls.Group, p *peer) {
	t.Helper()
	staged, err := g.Commit(mls.CommitOptions{
		Path: true, Proposals: []mls.Proposal{{Type: mimimi.ProposalIdentityLinkUpdate, Body: []byte("ours, by value")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var processed struct {
		status
		Custom []extensionView `json:"custom"`
	}
	p.call(map[string]any{"op": "process", "message": staged.Message}, &processed)
	if err := g.Merge(staged); err != nil {
		t.Fatal(err)
	}
	agree(t, g, processed.status)
	if len(processed.Custom) != 1 || processed.Custom[0].Type != uint16(mimimi.ProposalIdentityLinkUpdate) || string(processed.Custom[0].Data) != "ours, by value" {
		t.Errorf("the peer saw the custom proposals %v", processed.Custom)
	}

	var made struct {
		status
		Message []byte `json:"message"`
	}
	p.call(map[string]any{"op": "commit", "proposalType": mimimi.ProposalIdentityLinkUpdate, "proposal": []byte("theirs, by value")}, &made)
	public, err := g.Public().StageCommit(made.Message, timeZero)
	if err != nil {
		t.Fatalf("the peer's commit, as a server sees it: %v", err)
	}
	r, err := g.Process(made.Message, mls.ProcessOptions{})
	if err != nil {
		t.Fatalf("the peer's commit: %v", err)
	}
	props := r.Commit.Change.Proposals
	if len(props) != 1 || props[0].Type != mimimi.ProposalIdentityLinkUpdate || string(props[0].Body) != "theirs, by value" {
		t.Errorf("%d proposals in the peer's commit, want the custom one", len(props))
	}
	if err := g.Merge(r.Commit); err != nil {
		t.Fatal(err)
	}
	agree(t, g, made.status)
	if !bytes.Equal(public.After.GroupContext(), g.Public().GroupContext()) {
		t.Error("server and member are not in the same state after the peer's commit")
	}
}

// checkExport compares an exported secret.
func checkExport(t *testing.T, g *mls.Group, p *peer) {
	t.Helper()
	own, err := g.Export("MIMIMI 1.0 interop", []byte("a context"), 48)
	if err != nil {
		t.Fatal(err)
	}
	var their struct {
		Secret []byte `json:"secret"`
	}
	p.call(map[string]any{"op": "export", "label": "MIMIMI 1.0 interop", "context": []byte("a context"), "length": 48}, &their)
	if !bytes.Equal(own, their.Secret) {
		t.Error("the exported secrets differ")
	}
}
