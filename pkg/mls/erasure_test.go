package mls

import (
	"bytes"
	"fmt"
	"maps"
	"testing"
)

// heldSecrets are secrets by a name for each, as copies.
type heldSecrets map[string][]byte

func (h heldSecrets) add(name string, secret []byte) {
	if h[name] != nil {
		panic("two secrets of one name: " + name)
	}
	h[name] = bytes.Clone(secret)
}

// epochHeld returns what a member holds of its epoch and must not hold of an epoch that has ended.
func epochHeld(g *Group) heldSecrets {
	h, s := heldSecrets{}, g.s.secrets
	for name, secret := range map[string][]byte{
		"exporter": s.exporter, "external": s.external, "confirmation": s.confirmation, "membership": s.membership,
		"authenticator": s.authenticator, "init": s.init,
	} {
		h.add(name, secret)
	}
	return h
}

// pathHeld returns the private keys of the ancestors of a member's leaf, and its own.
func pathHeld(g *Group) heldSecrets {
	h := heldSecrets{}
	for n, k := range g.s.private.keys {
		h.add(fmt.Sprint("node ", n), k.k().key.private())
	}
	return h
}

// messagesHeld returns what opens messages of an epoch that have not been read.
func messagesHeld(tree *secretTree) heldSecrets {
	h := heldSecrets{}
	for n, secret := range tree.nodes {
		h.add(fmt.Sprint("secret tree node ", n), secret)
	}
	for leaf, ratchets := range tree.ratchets {
		for kind, r := range ratchets {
			h.add(fmt.Sprint("ratchet ", leaf, kind), r.secret)
			for _, k := range r.skipped {
				h.add(fmt.Sprint("skipped ", leaf, kind, k.generation), k.key)
			}
		}
	}
	return h
}

// in checks that the state holds all of the secrets, or none of them.
func (h heldSecrets) in(t *testing.T, state []byte, want bool) {
	t.Helper()
	if len(h) == 0 {
		t.Error("no secrets to look for")
	}
	for name, secret := range h {
		if bytes.Contains(state, secret) != want {
			t.Errorf("%s is in the state: %v, want %v", name, !want, want)
		}
	}
}

// TestStateHoldsNoUsedMessageKey looks for keys of messages in the states of whoever sent and read them.
func TestStateHoldsNoUsedMessageKey(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		w, alice, bob, _ := threeWorldOf(t, cs)
		// What the first message of alice's uses up: the path of the secret tree to her leaf, her ratchet, the key.
		know := must(ParseGroup(bob.group.Marshal(), testRules()))(t).s.messages
		used := heldSecrets{"root": know.nodes[rootOf(int(know.width))]}
		use := func(generation uint32) heldSecrets {
			key, step, err := know.derive(0, applicationRatchet, generation)
			if err != nil {
				t.Fatal(err)
			}
			taken := heldSecrets{}
			if r := know.ratchets[0]; r != nil {
				taken.add("ratchet", r[applicationRatchet].secret)
			}
			taken.add("key", key.key)
			taken.add("nonce", key.nonce)
			know.apply(step)
			return taken
		}
		for _, c := range []*client{alice, bob} {
			used.in(t, c.group.Marshal(), true)
		}
		maps.Copy(used, use(0))
		first := must(alice.group.Encrypt([]byte("first"), []byte("aad"), nil))(t)
		late := must(alice.group.Encrypt([]byte("late"), []byte("aad"), nil))(t)
		third := must(alice.group.Encrypt([]byte("third"), []byte("aad"), nil))(t)
		w.hear(bob, first, "first", "alice")
		for _, c := range []*client{alice, bob} {
			used.in(t, c.group.Marshal(), false)
		}
		// A key that waits for its message is there, and goes with it.
		lateKey := use(1)
		w.hear(bob, third, "third", "alice")
		heldSecrets{"late key": lateKey["key"]}.in(t, bob.group.Marshal(), true)
		lateKey.in(t, alice.group.Marshal(), false)
		w.hear(bob, late, "late", "alice")
		lateKey.in(t, bob.group.Marshal(), false)
		use(2).in(t, bob.group.Marshal(), false)
	})
}

// TestStateHoldsNoOldEpoch follows a commit with a path, an Add and a Remove, and looks in all states for what must be gone with it.
func TestStateHoldsNoOldEpoch(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		w, alice, bob, _ := threeWorldOf(t, cs)
		w.run("alice: updates\nbob: updates") // both know keys above their leaves
		old := epochHeld(alice.group)
		paths := map[*client]heldSecrets{alice: pathHeld(alice.group), bob: pathHeld(bob.group)}
		for _, c := range []*client{alice, bob} {
			old.in(t, c.group.Marshal(), true)
			paths[c].in(t, c.group.Marshal(), true)
		}
		staged := w.stage(bob, CommitOptions{Path: true, Proposals: append(w.adds([]string{"dave"}), w.removes([]string{"carol"})...)})
		passing := passingSecrets(t, alice.group, staged)
		w.accept(bob, staged)

		// Alice keeps what the path did not replace: her own leaf's key. Bob has a new one.
		delete(paths[alice], fmt.Sprint("node ", alice.group.s.private.index.node()))
		for name, c := range map[string]*client{"alice": alice, "bob": bob, "dave": w.client("dave")} {
			t.Log(name)
			state := c.group.Marshal()
			old.in(t, state, false)
			passing.in(t, state, false)
			epochHeld(c.group).in(t, state, true)
			pathHeld(c.group).in(t, state, true)
			if h := paths[c]; h != nil {
				h.in(t, state, false)
			}
		}
	})
}

// passingSecrets works out what a commit derives on the way to the next epoch, from the state of a member that has not merged it.
func passingSecrets(t *testing.T, g *Group, staged *StagedCommit) heldSecrets {
	t.Helper()
	s := must(ParseGroup(g.Marshal(), testRules()))(t).s
	tr := must(s.public.stage(staged.content, noTime))(t)
	_, commitSecret, err := s.openPath(tr, nil)
	if err != nil {
		t.Fatal(err)
	}
	h, suite, context := heldSecrets{}, s.suite(), staged.Change.After.encoded
	joiner := joinerSecret(suite, s.secrets.init, commitSecret, context)
	member := memberSecret(suite, joiner, zeros(suite))
	h.add("commit secret", commitSecret)
	h.add("joiner", joiner)
	h.add("member", member)
	h.add("welcome", suite.deriveSecret(member, labelWelcome))
	epoch := epochSecret(suite, member, context)
	h.add("epoch", epoch)
	secrets, encryption := newEpochSecrets(suite, epoch)
	wantBytes(t, "authenticator", secrets.authenticator, staged.Group().EpochAuthenticator())
	if !bytes.Contains(staged.Group().Marshal(), encryption) { // nobody has sent anything: it is the root of the secret tree
		t.Error("the encryption secret is another")
	}
	return h
}

// TestForgottenEpochIsGone: message keys outlive their epoch for a while, and not longer.
func TestForgottenEpochIsGone(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		w, alice, bob, _ := threeWorldOf(t, cs)
		must(alice.group.Encrypt([]byte("lost"), []byte("aad"), nil))(t)
		late := must(alice.group.Encrypt([]byte("late"), []byte("aad"), nil))(t)
		w.hear(bob, late, "late", "alice")
		held := messagesHeld(bob.group.s.messages)
		held.add("sender data", bob.group.s.secrets.senderData)
		held.add("resumption", bob.group.s.secrets.resumption)
		w.run("bob: updates\nbob: restarts")
		held.in(t, bob.group.Marshal(), true) // in the past epoch
		bob.group.ForgetEpochs(bob.group.Epoch())
		held.in(t, bob.group.Marshal(), false)
		held = messagesHeld(bob.group.s.messages)
		w.run("alice: updates\nalice: updates\nalice: updates") // two are kept
		held.in(t, bob.group.Marshal(), false)
	})
}

// TestReplacedKeysAreCleared looks at the memory of private keys that a merge replaces. crypto/ecdh gives no way to its own copies.
func TestReplacedKeysAreCleared(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		w, alice, bob, _ := threeWorldOf(t, cs)
		w.run("alice: updates\nbob: proposes-update")
		replaced := map[string]HPKEPrivateKey{"bob's Update": bob.group.s.updates[0].key}
		for name, c := range map[string]*client{"alice": alice, "bob": bob} {
			for n, k := range c.group.s.private.keys {
				if name == "alice" || n != c.group.s.private.index.node() {
					replaced[fmt.Sprint(name, "'s key of node ", n)] = k
				}
			}
		}
		before := map[string][]byte{}
		for name, k := range replaced {
			before[name] = k.k().key.private()
		}
		w.commit(alice, CommitOptions{Path: true, NoPending: true})
		for name, k := range replaced {
			if p, ok := k.k().key.(*dhPrivate); ok {
				if _, ok := p.dhKey.(*nistKey); ok {
					continue
				}
			}
			if bytes.Equal(k.k().key.private(), before[name]) {
				t.Errorf("%s is still in memory", name)
			}
		}
		w.run("bob: says hello\nbob: updates\nalice: updates")
	})
}

// TestLastResortKeysStay: what a group erases is its own copy. A KeyPackage of last resort serves many groups.
func TestLastResortKeysStay(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		w := newWorld(t)
		w.suite = cs
		w.run("alice: creates")
		bob := w.newClient("bob")
		w.clients["bob"] = bob
		first := w.stage(w.client("alice"), CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: bob.kp}}})
		w.accept(w.client("alice"), first)
		w.run("bob: updates\nalice: updates\nbob: updates") // bob's first leaf key is replaced

		other := newWorld(t)
		other.suite, other.id = cs, "another"
		other.run("carol: creates")
		again := *bob
		again.group = nil
		other.clients["bob"] = &again
		second := other.stage(other.client("carol"), CommitOptions{Proposals: []Proposal{{Type: ProposalAdd, KeyPackage: bob.kp}}})
		other.accept(other.client("carol"), second)
		other.run("carol: updates\ncarol: says hello\nbob: says hello") // the path is sealed to the key of bob's KeyPackage
	})
}
