package mls

import (
	"bytes"
	"testing"
)

func TestRFC9420_11(t *testing.T) {
	c := newClient(t, "alice")
	create := func(change func(cfg *GroupConfig)) (*Group, error) {
		cfg := GroupConfig{GroupID: []byte("group"), KeyPackage: c.kp, Secrets: c.secrets, Rules: testRules(), Extensions: []Extension{{Type: testGroupExtension}}}
		change(&cfg)
		return NewGroup(cfg)
	}
	asItIs := func(*GroupConfig) {}
	t.Run("a group begins with its creator at epoch 0 and an empty transcript", func(t *testing.T) {
		g := must(create(asItIs))(t)
		ctx := &g.s.public.context
		switch {
		case g.Epoch() != 0, len(ctx.confirmedTranscriptHash) != 0, string(ctx.groupID) != "group", g.s.public.tree.width() != 1:
			t.Errorf("%+v", ctx)
		case !bytes.Equal(ctx.treeHash, newRatchetTree(suite1, c.kp.Leaf()).rootHash()):
			t.Error("tree hash")
		case len(ctx.extensions) != 1:
			t.Error("extensions")
		}
	})
	t.Run("the first epoch secret is random", func(t *testing.T) {
		a, b := must(create(asItIs))(t), must(create(asItIs))(t)
		wantBytes(t, "context", a.Public().GroupContext(), b.Public().GroupContext())
		for i, s := range a.s.secrets.all() {
			if bytes.Equal(*s, *b.s.secrets.all()[i]) {
				t.Errorf("secret %d is that of another group", i)
			}
		}
		derived, _ := newEpochSecrets(suite1, zeros(suite1))
		if bytes.Equal(derived.init, a.s.secrets.init) {
			t.Error("derived from zeros")
		}
	})
	t.Run("the interim transcript hash is that of the first confirmation tag", func(t *testing.T) {
		g := must(create(asItIs))(t)
		tag := suite1.mac(g.s.secrets.confirmation, nil)
		wantBytes(t, "tag", g.Public().tag, tag)
		wantBytes(t, "interim", g.s.public.interim, suite1.Hash(append([]byte{32}, tag...)))
	})
	t.Run("a creator keeps to the rules of its own group", func(t *testing.T) {
		for name, cse := range map[string]struct {
			change func(cfg *GroupConfig)
			want   breach
		}{
			"an extension that it lacks": {func(cfg *GroupConfig) { cfg.Extensions = []Extension{{Type: 0x1234}} }, rule("13.4", "supports the extensions")},
			"a capability that it lacks": {func(cfg *GroupConfig) {
				cfg.Extensions = []Extension{{ExtensionRequiredCapabilities, marshal(&requiredCapabilities{proposals: []ProposalType{0x1234}})}}
			}, rule("7.3", "required capabilities")},
			"another's secrets": {func(cfg *GroupConfig) { cfg.Secrets = newClient(t, "bob").secrets }, rule("10", "comes with its secrets")},
			"no KeyPackage":     {func(cfg *GroupConfig) { cfg.KeyPackage = nil }, rule("10", "comes with its secrets")},
			"refused leaf":      {func(cfg *GroupConfig) { m := stranger(t); cfg.KeyPackage, cfg.Secrets = m.kp, m.secrets }, failure(errTestRule)},
		} {
			_, err := create(cse.change)
			cse.want.check(t, name, err)
		}
	})
}

func TestRFC9420_11_1(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	gce := func(r requiredCapabilities) Proposal {
		return Proposal{Type: ProposalGroupContextExtensions, Extensions: []Extension{{ExtensionRequiredCapabilities, marshal(&r)}}}
	}
	t.Run("capabilities that a member lacks cannot be required", func(t *testing.T) {
		for name, r := range map[string]requiredCapabilities{
			"extension":  {extensions: []ExtensionType{0x1234}},
			"proposal":   {proposals: []ProposalType{0x1234}},
			"credential": {credentials: []CredentialType{CredentialBasic}},
		} {
			want := rule("7.3", "required capabilities")
			_, err := alice.group.Commit(CommitOptions{Proposals: []Proposal{gce(r)}, NoPending: true})
			want.check(t, name, err)
			w.bothRefuse(t, bob, proposed(alice, gce(r)), want)
			w.bothRefuse(t, bob, w.lawless(t, alice, value(alice, gce(r))), want)
		}
		fine := gce(requiredCapabilities{
			extensions: []ExtensionType{testLeafExtension, extensionApplicationID, ExtensionExternalSenders}, // defaults need not be listed
			proposals:  []ProposalType{testProposal, ProposalReInit}, credentials: []CredentialType{testCredential},
		})
		w.bothTake(t, bob, w.lawless(t, alice, value(alice, fine)))
	})
}
