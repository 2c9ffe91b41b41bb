package mls

import (
	"bytes"
	"testing"
)

func TestRFC9420_9_1(t *testing.T) {
	t.Run("no key and nonce encrypts two messages", func(t *testing.T) {
		_, alice, bob, _ := threeWorld(t)
		// A member that knows all keys opens everything that alice sends: application messages and commits that are lost, across restarts.
		know := must(ParseGroup(bob.group.Marshal(), testRules()))(t).s
		keys := map[string]bool{}
		note := func(msg []byte, kind ratchetKind) {
			p := must(parseMLSMessage(msg))(t).privateMessage
			d := must(p.openSenderData(suite1, know.secrets.senderData))(t)
			k, step, err := know.messages.derive(d.leaf, kind, d.generation)
			if err != nil {
				t.Fatal("a key was used again")
			}
			if _, err := p.openContent(suite1, d, k); err != nil {
				t.Fatal(err)
			}
			if seen(keys, string(k.key)+string(k.nonce)) {
				t.Error("a key and nonce twice")
			}
			know.messages.apply(step)
		}
		for i := range 6 {
			note(must(alice.group.Encrypt([]byte("text"), nil, nil))(t), applicationRatchet)
			note(must(alice.group.Commit(CommitOptions{Path: i%2 == 0, Private: true}))(t).Message, handshakeRatchet)
			if i%3 == 0 {
				alice.group = must(ParseGroup(alice.group.Marshal(), testRules()))(t)
			}
		}
		if len(keys) != 12 {
			t.Errorf("%d keys", len(keys))
		}
	})
	t.Run("a message is read once", func(t *testing.T) {
		w, alice, bob, _ := threeWorld(t)
		msg := must(alice.group.Encrypt([]byte("text"), []byte("aad"), nil))(t)
		w.hear(bob, msg, "text", "alice")
		wantUnchanged(t, bob, msg, ErrReplayed)
		w.restart(bob)
		wantUnchanged(t, bob, msg, ErrReplayed)
	})
}

// TestRFC9420_9_2 has what the section wants deleted, one kind of secret a subtest.
func TestRFC9420_9_2(t *testing.T) {
	t.Run("what is used to send or read is deleted", func(t *testing.T) {
		w, alice, bob, _ := threeWorld(t)
		var checks []func()
		for _, c := range []*client{alice, bob} {
			tree := c.group.s.messages
			step, ok := tree.expand(alice.group.OwnIndex())
			if !ok {
				t.Fatal("no ratchet")
			}
			key, _, ok := step.ratchets[applicationRatchet].take(suite1, 0)
			if !ok {
				t.Fatal("no key")
			}
			consumed := [][]byte{key.key, key.nonce, bytes.Clone(step.ratchets[applicationRatchet].secret)}
			for _, n := range step.expanded {
				consumed = append(consumed, bytes.Clone(tree.nodes[n]))
			}
			kept := [][]byte{step.ratchets[handshakeRatchet].secret}
			for _, a := range step.added {
				kept = append(kept, a.secret)
			}
			if len(consumed) != 4 || len(kept) != 3 {
				t.Fatalf("%s: %d secrets to be deleted, %d to be kept", c.name, len(consumed), len(kept))
			}
			checks = append(checks, func() {
				state := c.group.Marshal()
				for _, s := range consumed {
					if bytes.Contains(state, s) {
						t.Errorf("%s keeps a secret that was used", c.name)
					}
				}
				for _, s := range kept {
					if !bytes.Contains(state, s) {
						t.Errorf("%s has lost a secret that was not used", c.name)
					}
				}
			})
		}
		w.hear(bob, must(alice.group.Encrypt([]byte("text"), []byte("aad"), nil))(t), "text", "alice")
		for _, check := range checks {
			check()
		}
	})
	t.Run("what a new epoch comes from is deleted", func(t *testing.T) {
		w, alice, bob, _ := threeWorld(t)
		init := map[*client][]byte{alice: bytes.Clone(alice.group.s.secrets.init), bob: bytes.Clone(bob.group.s.secrets.init)}
		staged := w.stage(alice, CommitOptions{Path: true})
		w.accept(alice, staged)
		for c, old := range init {
			state := c.group.Marshal()
			if bytes.Contains(state, old) {
				t.Errorf("%s keeps the old init_secret", c.name)
			}
			// What the new epoch has is found, so the scan is not blind.
			if !bytes.Contains(state, c.group.s.secrets.init) {
				t.Errorf("%s lacks its init_secret", c.name)
			}
		}
	})
	t.Run("joiner_secret, epoch_secret and commit_secret are not kept", func(t *testing.T) {
		w, alice, _, _ := threeWorld(t)
		dave := newClient(t, "dave")
		w.clients["dave"] = dave
		staged := w.stage(alice, CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: dave.kp}}})
		wel, _, err := parseWelcome(staged.Welcome)
		if err != nil {
			t.Fatal(err)
		}
		joiner := must(wel.open(dave.kp, dave.secrets.InitKey))(t).joiner
		member := memberSecret(suite1, joiner, zeros(suite1))
		epoch := epochSecret(suite1, member, staged.Change.After.encoded)
		secrets, encryption := newEpochSecrets(suite1, epoch)
		w.accept(alice, staged)
		for _, c := range w.members() {
			state := c.group.Marshal()
			for name, s := range map[string][]byte{"joiner": joiner, "member": member, "epoch": epoch} {
				if bytes.Contains(state, s) {
					t.Errorf("%s keeps the %s secret", c.name, name)
				}
			}
			// The secret tree's root is encryption_secret until the first message; the others are kept for the epoch.
			for _, s := range [][]byte{encryption, secrets.exporter, secrets.init} {
				if !bytes.Contains(state, s) {
					t.Errorf("%s lacks a secret: the scan is blind", c.name)
				}
			}
		}
	})
}
