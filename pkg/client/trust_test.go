package client

import (
	"testing"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// lonely makes a group of one, and the KeyPackage that it was made of, with a credential of its own.
func lonely(t *testing.T, credential string) (*mls.Group, *mls.KeyPackage) {
	t.Helper()
	key, err := mimimi.Suite.GenerateSignatureKey()
	if err != nil {
		t.Fatal(err)
	}
	kp, secrets, err := mls.NewKeyPackage(mls.KeyPackageConfig{
		Suite: mimimi.Suite, SignatureKey: key, Capabilities: mimimi.Capabilities(), Lifetime: mls.Lifetime{NotAfter: 1 << 40},
		Credential: mls.Credential{Type: mimimi.CredentialPseudonymous, Body: []byte(credential)},
	})
	if err != nil {
		t.Fatal(err)
	}
	g, err := mls.NewGroup(mls.GroupConfig{GroupID: []byte("g"), KeyPackage: kp, Secrets: secrets})
	if err != nil {
		t.Fatal(err)
	}
	return g, kp
}

// TestFits: an entry is what its message is, and of the message's epoch, whatever the hub says.
func TestFits(t *testing.T) {
	g, _ := lonely(t, "a")
	commit, err1 := g.Commit(mls.CommitOptions{})
	private, err2 := g.Commit(mls.CommitOptions{Private: true})
	message, err3 := g.Encrypt([]byte("text"), nil, nil)
	proposal, err4 := g.Propose(mls.Proposal{Type: mls.ProposalUpdate}, mls.ProposeOptions{})
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			t.Fatal(err)
		}
	}
	const c, p, m = mimimiv1.Delivery_KIND_COMMIT, mimimiv1.Delivery_KIND_PROPOSAL, mimimiv1.Delivery_KIND_MESSAGE
	for _, x := range []struct {
		name    string
		kind    mimimiv1.Delivery_Kind
		message []byte
		epoch   uint64
		want    bool
	}{
		{"commit", c, commit.Message, 1, true},
		{"proposal", p, proposal, 0, true},
		{"message", m, message, 0, true},
		{"an old message as a new one", m, message, 1, false},
		{"commit as message", m, commit.Message, 0, false},
		{"commit as proposal", p, commit.Message, 0, false},
		{"private commit", c, private.Message, 1, false},
		{"private commit as message", m, private.Message, 0, false},
		{"message as commit", c, message, 1, false},
		{"proposal as commit", c, proposal, 1, false},
		{"no kind", 0, message, 0, false},
		{"no message", m, []byte{1, 2, 3}, 0, false},
	} {
		if got := fits(&mimimiv1.Delivery{Kind: x.kind, Message: x.message, Epoch: x.epoch}); got != x.want {
			t.Errorf("%s: %v, want %v", x.name, got, x.want)
		}
	}
}

// TestTrusts: commits come from the own leaf and identified ones; one who comes in takes those of leaves that were there.
func TestTrusts(t *testing.T) {
	made, _ := lonely(t, "a")
	g := &group{mls: made, rec: &groupRecord{State: GroupActive, Leaves: map[uint32]*leafRecord{
		1: {User: "somebody"}, 2: {Entered: 5}, 3: {},
	}}}
	want := func(leaves ...bool) {
		t.Helper()
		for i, w := range leaves {
			if got := g.trusts(uint32(i)); got != w {
				t.Errorf("%s, leaf %d: %v, want %v", g.rec.State, i, got, w)
			}
		}
	}
	want(true, true, false, false, false)
	g.rec.State = GroupJoining
	want(true, true, false, true, false)
}

// TestReplacedCredential: what was known of a leaf's credential is not taken for the one that replaces it.
func TestReplacedCredential(t *testing.T) {
	made, _ := lonely(t, "a")
	_, before := lonely(t, "before")
	_, after := lonely(t, "after")
	for _, x := range []struct {
		name string
		now  *mls.KeyPackage
		user string
	}{{"kept", before, "bob"}, {"replaced", after, ""}} {
		g := &group{mls: made, rec: &groupRecord{Leaves: map[uint32]*leafRecord{1: {User: "bob", LinkKey: []byte("key"), ClientPseudonym: "p"}}}}
		g.forgetReplaced(&mls.Change{
			Sender: mls.Sender{Type: mls.SenderMember, Leaf: 1}, Committer: mls.Member{Index: 1, Leaf: x.now.Leaf()},
			OldLeaves: map[uint32]*mls.LeafNode{1: before.Leaf()},
		}, 7)
		r := g.rec.Leaves[1]
		if r.User != x.user || (r.LinkKey == nil) != (x.user == "") || r.ClientPseudonym != "p" {
			t.Errorf("%s: user %q, link key known: %v", x.name, r.User, r.LinkKey != nil)
		}
	}
}

// TestRefusedMessageWaits: a message that the hub does not take in an epoch waits for the next one, and holds up nothing.
func TestRefusedMessageWaits(t *testing.T) {
	made, _ := lonely(t, "a")
	o, next := &outgoing{Type: mimimi.EnvelopeContent}, &outgoing{Type: mimimi.EnvelopeContent}
	g := &group{mls: made, rec: &groupRecord{State: GroupActive, Leaves: map[uint32]*leafRecord{0: {User: "self"}}, Outgoing: []*outgoing{o, next}}}
	if g.nextOutgoing() != o {
		t.Fatal("the first message is not the next to go")
	}
	o.refused()
	o.again()
	if g.nextOutgoing() != next {
		t.Error("a refused message goes again in the same epoch")
	}
	commit, err := made.Commit(mls.CommitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Merge(commit); err != nil {
		t.Fatal(err)
	}
	if g.nextOutgoing() != o {
		t.Error("a refused message does not go in the next epoch")
	}
}
