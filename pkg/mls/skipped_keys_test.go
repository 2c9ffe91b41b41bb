package mls

import (
	"bytes"
	"testing"

	"golang.org/x/crypto/cryptobyte"
)

// skip opens the message of a generation in a leaf's ratchet, as if none before had arrived.
func (s *groupState) skip(t *testing.T, tree *secretTree, leaf uint32, kind ratchetKind, generation uint32) {
	t.Helper()
	_, step, err := tree.derive(leaf, kind, generation)
	if err != nil {
		t.Fatal(err)
	}
	s.consume(tree, step)
}

// TestSkippedKeysOfAGroup lets the owner of many leaves make gaps in all ratchets of several epochs: what is kept stays bounded, and a few late messages of
// somebody else, in this epoch and in the last, still open.
func TestSkippedKeysOfAGroup(t *testing.T) {
	const leaves, honest = 64, 3
	s := &groupState{messages: newSecretTree(suite1, leaves, suite1.randomSecret())}
	for range 2 {
		s.past = append(s.past, &pastEpoch{messages: newSecretTree(suite1, leaves, suite1.randomSecret())})
	}
	trees := []*secretTree{s.messages, s.past[0].messages, s.past[1].messages}
	for _, tree := range trees {
		s.skip(t, tree, 0, applicationRatchet, honest)
	}
	var first [][]byte // keys of the attacker's that are kept at first, to be erased
	for _, tree := range trees {
		for leaf := uint32(1); leaf < leaves; leaf++ {
			for _, kind := range []ratchetKind{handshakeRatchet, applicationRatchet} {
				s.skip(t, tree, leaf, kind, maxSkippedKeys)
				if n := len(tree.ratchets[leaf][kind].skipped); n == maxSkippedKeys && len(first) < 10 {
					first = append(first, tree.ratchets[leaf][kind].skipped[0].key)
				}
				total := 0
				for _, tree := range trees {
					sum := 0
					for _, r := range tree.ratchets {
						sum += r.skipped()
					}
					if sum != tree.skipped {
						t.Fatalf("%d keys are counted as %d", sum, tree.skipped)
					}
					total += sum
				}
				if total > maxGroupSkippedKeys {
					t.Fatalf("%d keys are kept", total)
				}
			}
		}
	}
	if len(first) != 10 {
		t.Fatal("no gap was kept in full while there was room")
	}
	for _, key := range first {
		if !bytes.Equal(key, make([]byte, len(key))) {
			t.Error("a key that is no longer kept is not erased")
		}
	}
	size := 0
	for _, tree := range trees {
		for generation := range uint32(honest) {
			s.skip(t, tree, 0, applicationRatchet, generation)
		}
		size += len(marshal(tree))
		again := new(secretTree)
		in := cryptobyte.String(marshal(tree))
		if !again.parse(&in) || again.skipped != tree.skipped {
			t.Error("the keys are not counted when they are read")
		}
		newest := tree.ratchets[leaves-1][applicationRatchet].skipped
		if len(newest) == 0 || newest[len(newest)-1].generation != maxSkippedKeys-1 {
			t.Error("the newest keys of a gap are not those that are kept")
		}
	}
	if size > 1<<20 {
		t.Errorf("the secret trees take %d bytes", size)
	}
}
