package mls

import (
	"bytes"
	"testing"
)

// TestInputsAreNotKept overwrites what was given to each function that reads bytes, once it has returned: what it made must not change.
func TestInputsAreNotKept(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	w.propose(bob, Proposal{Type: ProposalUpdate}) // pending from here on
	dave := newClient(t, "dave")
	proposal := must(alice.group.Propose(Proposal{Type: ProposalUpdate}, ProposeOptions{}))(t)
	staged := w.stage(bob, CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: dave.kp}}, Path: true})
	private := must(must(ParseGroup(bob.group.Marshal(), w.rules))(t).Commit(CommitOptions{Path: true, Private: true}))(t)
	tree, info := staged.Change.After.Tree(), must(bob.group.GroupInfo(nil, true))(t)
	again := func() *Group { return must(ParseGroup(w.clients["carol"].group.Marshal(), w.rules))(t) }
	refs := func(in []byte) func() []byte {
		refs := must(WelcomeRefs(in))(t)
		return func() []byte { return bytes.Join(refs, nil) }
	}
	for name, c := range map[string]struct {
		in   []byte
		read func(in []byte) (result func() []byte)
	}{
		"commit": {staged.Message, func(in []byte) func() []byte {
			return must(again().Process(in, ProcessOptions{}))(t).Commit.Marshal
		}},
		"private commit": {private.Message, func(in []byte) func() []byte {
			return must(again().Process(in, ProcessOptions{}))(t).Commit.Marshal
		}},
		"proposal": {proposal, func(in []byte) func() []byte {
			g := again()
			must(g.Process(in, ProcessOptions{}))(t)
			return g.Marshal
		}},
		"proposal at the server": {proposal, func(in []byte) func() []byte {
			g, _, err := w.server.AddProposal(in, w.now)
			if err != nil {
				t.Fatal(err)
			}
			return g.Marshal
		}},
		"commit at the server": {staged.Message, func(in []byte) func() []byte {
			return must(w.server.StageCommit(in, w.now))(t).After.Marshal
		}},
		"Welcome": {staged.Welcome, func(in []byte) func() []byte {
			g, _, err := Join(JoinConfig{Welcome: in, Tree: tree, KeyPackage: dave.kp, Secrets: dave.secrets, Rules: w.rules})
			if err != nil {
				t.Fatal(err)
			}
			return g.Marshal
		}},
		"tree": {tree, func(in []byte) func() []byte {
			g, _, err := Join(JoinConfig{Welcome: staged.Welcome, Tree: in, KeyPackage: dave.kp, Secrets: dave.secrets, Rules: w.rules})
			if err != nil {
				t.Fatal(err)
			}
			return g.Marshal
		}},
		"GroupInfo": {info, func(in []byte) func() []byte {
			return must(NewPublicGroup(in, nil, w.rules))(t).Marshal
		}},
		"KeyPackage":             {dave.kp.Marshal(), func(in []byte) func() []byte { return must(ParseKeyPackage(in))(t).Marshal }},
		"group":                  {bob.group.Marshal(), func(in []byte) func() []byte { return must(ParseGroup(in, w.rules))(t).Marshal }},
		"server":                 {w.server.Marshal(), func(in []byte) func() []byte { return must(ParsePublicGroup(in, w.rules))(t).Marshal }},
		"staged":                 {staged.Marshal(), func(in []byte) func() []byte { return must(ParseStagedCommit(in, w.rules))(t).Marshal }},
		"refs of a Welcome":      {staged.Welcome, refs},
		"refs of a bare Welcome": {staged.Welcome[4:], refs},
	} {
		t.Run(name, func(t *testing.T) {
			in := bytes.Clone(c.in)
			result := c.read(in)
			before := result()
			for i := range in {
				in[i] ^= 0xff
			}
			if !bytes.Equal(before, result()) {
				t.Error("what was read changes with its input")
			}
		})
	}
}

// TestEncodingsAreNotHandedOut writes into what Marshal methods return: the values must not change.
func TestEncodingsAreNotHandedOut(t *testing.T) {
	w, alice, _, _ := threeWorld(t)
	for name, encode := range map[string]func() []byte{
		"leaf": alice.group.OwnLeaf().Marshal, "KeyPackage": alice.kp.Marshal, "group": alice.group.Marshal, "server": w.server.Marshal,
		"tree": w.server.Tree,
	} {
		before := bytes.Clone(encode())
		clear(encode())
		if !bytes.Equal(before, encode()) {
			t.Errorf("%s: changed through its encoding", name)
		}
	}
}
