package mls

import (
	"slices"
	"testing"
)

// greaseValues are the values that RFC 9420 §13.5 reserves.
func greaseValues[T ~uint16]() []T {
	var out []T
	for v := 0x0A0A; v <= 0xEAEA; v += 0x1010 {
		out = append(out, T(v))
	}
	return out
}

// greased makes a KeyPackage that has every GREASE value in every place where §13.5 wants some.
func greased(cfg *KeyPackageConfig) {
	c := cfg.Capabilities.clone()
	c.CipherSuites = slices.Concat(greaseValues[CipherSuite](), c.CipherSuites)
	c.Extensions = slices.Concat(greaseValues[ExtensionType](), c.Extensions)
	c.Proposals = slices.Concat(greaseValues[ProposalType](), c.Proposals)
	c.Credentials = slices.Concat(greaseValues[CredentialType](), c.Credentials)
	cfg.Capabilities = c
	cfg.LeafExtensions = slices.Concat(greaseExtensions(), cfg.LeafExtensions)
	cfg.Extensions = greaseExtensions()
}

func greaseExtensions() []Extension {
	var out []Extension
	for i, t := range greaseValues[ExtensionType]() {
		out = append(out, Extension{Type: t, Data: make([]byte, 7*i)})
	}
	return out
}

// TestGREASE has members that send GREASE everywhere among those that send none: all of it is carried, and nothing of it counts. It is the history of one group.
func TestGREASE(t *testing.T) {
	if n := len(greaseValues[uint16]()); n != 15 {
		t.Fatalf("%d values", n)
	}
	for _, v := range greaseValues[uint16]() {
		if !isGREASE(v) {
			t.Errorf("%#04x is one", v)
		}
	}
	w := newWorld(t)
	for _, name := range []string{"alice", "carol", "dave"} {
		c := &client{name: name, adapt: greased}
		c.renew(t)
		w.clients[name] = c
	}
	w.run(`
		alice: creates
		alice: adds bob carol
		bob: proposes-add dave
		carol: commits
		dave: says hello
		alice: proposes-update
		bob: proposes-remove carol
		dave: commits
		carol: joins
		alice: crashes-after-sending
		dave: resyncs
		carol: restarts
		carol: says hello`)
	for _, name := range []string{"alice", "carol", "dave"} {
		leaf := w.client(name).group.OwnLeaf()
		for _, v := range greaseValues[ExtensionType]() {
			if _, ok := leaf.Extension(v); !ok || !slices.Contains(leaf.Capabilities().Extensions, v) {
				t.Fatalf("%s has lost %#04x", name, v)
			}
		}
	}
	// GroupInfos and Welcomes with GREASE are read, and give it to the application as they give any other.
	alice, erin := w.client("alice"), newClient(t, "erin")
	opts := CommitOptions{
		Proposals:         []Proposal{{Type: ProposalAdd, KeyPackage: erin.kp}},
		WelcomeExtensions: func(*Group) ([]Extension, error) { return greaseExtensions(), nil },
		HubExtensions:     func(*Group) ([]Extension, error) { return greaseExtensions(), nil },
	}
	staged := must(alice.group.Commit(opts))(t)
	tree := staged.Change.After.Tree()
	_, info, err := Join(JoinConfig{Welcome: staged.Welcome, Tree: tree, KeyPackage: erin.kp, Secrets: erin.secrets, Rules: w.rules})
	if err != nil {
		t.Fatal(err)
	}
	hub := must(staged.Change.After.CheckGroupInfo(staged.GroupInfo))(t)
	frank := newClient(t, "frank")
	if _, err := JoinExternal(ExternalJoinConfig{GroupInfo: staged.GroupInfo, Tree: tree, KeyPackage: frank.kp, Secrets: frank.secrets, Rules: w.rules}); err != nil {
		t.Error(err)
	}
	for _, v := range greaseValues[ExtensionType]() {
		_, inWelcome := info.Extension(v)
		if _, inHub := hub.Extension(v); !inWelcome || !inHub {
			t.Errorf("a GroupInfo has lost %#04x", v)
		}
	}

	// What a member that keeps to no rule sends of it elsewhere is refused as any other unknown value is.
	bob := w.client("bob")
	for name, c := range map[string]struct {
		p             Proposal
		section, text string
	}{
		"proposal type": {Proposal{Type: 0x2A2A}, "12.2", "every proposal type is known"},
		"extension of the GroupContext": {Proposal{Type: ProposalGroupContextExtensions, Extensions: []Extension{{Type: 0x3A3A}}},
			"13.4", "supports the extensions of the GroupContext"},
		"required capability": {Proposal{Type: ProposalGroupContextExtensions, Extensions: []Extension{
			{ExtensionRequiredCapabilities, marshal(&requiredCapabilities{proposals: []ProposalType{0x4A4A}})},
		}}, "7.3", "required capabilities"},
	} {
		t.Run(name, func(t *testing.T) {
			valid := must(must(ParseGroup(alice.group.Marshal(), w.rules))(t).Propose(Proposal{Type: testProposal}, ProposeOptions{}))(t)
			msg := forge(t, alice, valid, func(ac *authenticatedContent) { ac.content.proposal = &c.p })
			_, err := bob.group.Process(msg, ProcessOptions{})
			wantRule(t, err, c.section, c.text)
			_, _, err = w.server.AddProposal(msg, noTime)
			wantRule(t, err, c.section, c.text)
		})
	}
}
