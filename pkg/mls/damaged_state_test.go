package mls

import (
	"fmt"
	"testing"
)

// TestStoredTreeWithParentsOverNothing: once the leaf is gone that keeps a tree wide, a parent with no leaf below it would be cut off while the index of keys
// still knows it, and the next one with its key would be looked for outside the tree. No tree has such a parent.
func TestStoredTreeWithParentsOverNothing(t *testing.T) {
	w := newWorld(t)
	w.run("alice: creates")
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprint("member", i))
	}
	alice, grace := w.client("alice"), newClient(t, "grace")
	w.commit(alice, CommitOptions{Proposals: w.adds(names)})
	w.commit(alice, CommitOptions{Proposals: w.removes(names[15:19])}) // the leaves 16 to 19
	tree := loosen(w.server.tree)
	tree[2*16+1].parent = &parentNode{encryptionKey: grace.kp.leaf.encryptionKey, parentHash: []byte{}}
	if _, err := parseRatchetTree(suite1, tree.bytes()); err != ErrMalformed {
		t.Errorf("the tree is read: %v", err)
	}
	damaged := *w.server
	damaged.context.treeHash = tree.hash()
	damaged.encoded = marshal(&damaged.context)
	g, err := ParseGroupParts(publicState(&damaged, tree.bytes()), alice.group.MarshalPrivate(), w.rules)
	if err == nil {
		_, err = g.Commit(CommitOptions{Proposals: []Proposal{
			{Type: ProposalRemove, Removed: 20}, {Type: ProposalRemove, Removed: 5}, {Type: ProposalAdd, KeyPackage: grace.kp},
		}})
	}
	if err != ErrMalformed {
		t.Errorf("got %v", err)
	}
}

// TestDeriveFromDamagedSecretTree: a message that does not verify uses up nothing, also of a stored tree in which one secret lies below another.
func TestDeriveFromDamagedSecretTree(t *testing.T) {
	tree := newSecretTree(suite1, 8, suite1.randomSecret())
	for _, n := range []nodeIndex{1, 3} { // on the way from the root, 7, to the first leaf
		tree.nodes[n] = suite1.randomSecret()
	}
	before := marshal(tree)
	if _, _, err := tree.derive(0, applicationRatchet, 0); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "the tree", marshal(tree), before)
}

// TestDamagedStates: parts of a state that do not belong together are not read.
func TestDamagedStates(t *testing.T) {
	v := newVault(t)
	other := must(X25519_CHACHA20POLY1305_SHA256_Ed25519.GenerateHPKEKey())(t)
	for name, damage := range map[string]func(s *groupState){
		"as stored":                      func(*groupState) {},
		"Update that is not pending":     func(s *groupState) { s.updates[0].ref = randomBytes(32) },
		"Update with another key":        func(s *groupState) { s.updates[0].key = v.grace.secrets.EncryptionKey },
		"Update with another signer":     func(s *groupState) { s.updates[0].signer = v.grace.secrets.SignatureKey },
		"Update with a key of no Update": func(s *groupState) { s.updates[0].ref = s.public.pending[0].ref },
		"key of another suite":           func(s *groupState) { s.updates[0].key = other },
		"past epoch twice":               func(s *groupState) { s.past[1].epoch = s.past[0].epoch },
		"past epoch to come":             func(s *groupState) { s.past[0].epoch = s.public.context.epoch },
		"past epoch of another suite":    func(s *groupState) { s.past[0].messages.suite = 3 },
		"short sender data secret":       func(s *groupState) { s.past[0].senderData = s.past[0].senderData[1:] },
		"short resumption PSK":           func(s *groupState) { s.past[0].resumption = nil },
		"short secret":                   func(s *groupState) { s.secrets.init = s.secrets.init[1:] },
		"key of another leaf":            func(s *groupState) { s.private.keys[2] = v.grace.secrets.EncryptionKey },
		"other signature key":            func(s *groupState) { s.signer = v.grace.secrets.SignatureKey },
	} {
		t.Run(name, func(t *testing.T) {
			s := must(ParseGroup(v.aliceState, v.w.rules))(t).s
			damage(s)
			want := ErrMalformed
			if name == "as stored" {
				want = nil
			}
			if _, err := ParseGroup((&Group{s}).Marshal(), v.w.rules); err != want {
				t.Errorf("got %v, want %v", err, want)
			}
		})
	}
}
