package mls

import (
	"bytes"
	"errors"
	"testing"
)

func TestRFC9420_2_1_1(t *testing.T) {
	t.Run("a presence octet is 0 or 1", func(t *testing.T) {
		kp, _ := makeKeyPackage(t)
		tree := newRatchetTree(suite1, kp.Leaf()).bytes()
		node := len(tree) - len(kp.Leaf().Marshal()) - 2 // presence and type stand before it
		for name, c := range map[string]struct {
			valid []byte
			at    int
			read  func(b []byte) error
		}{
			"path of a Commit":       {marshal(&commit{}), 1, func(b []byte) error { return parse(b, new(commit)) }},
			"path secret of Welcome": {marshal(&groupSecrets{joiner: []byte("j")}), 2, func(b []byte) error { return parse(b, new(groupSecrets)) }},
			"node of a ratchet_tree": {tree, node, func(b []byte) error { _, err := parseRatchetTree(suite1, b); return err }},
		} {
			if err := c.read(c.valid); err != nil {
				t.Errorf("%s, as it is: %v", name, err)
			}
			if c.valid[c.at] > 1 {
				t.Fatalf("%s: no presence octet at %d", name, c.at)
			}
			for octet := 2; octet < 256; octet++ {
				bad := bytes.Clone(c.valid)
				bad[c.at] = byte(octet)
				if err := c.read(bad); !errors.Is(err, ErrMalformed) {
					t.Fatalf("%s, octet %d: %v", name, octet, err)
				}
			}
		}
	})
}

func TestRFC9420_2_1_2(t *testing.T) {
	w, alice, bob, _ := threeWorld(t)
	msg := must(alice.group.Propose(Proposal{Type: testProposal, Body: []byte("body")}, ProposeOptions{}))(t)
	if !bytes.HasPrefix(msg, []byte("\x00\x01\x00\x01\x05group")) {
		t.Fatal("the message does not begin as it should")
	}
	for name, length := range map[string]string{
		"a length has its shortest form, not two bytes":  "\x40\x05",
		"a length has its shortest form, not four bytes": "\x80\x00\x00\x05",
		"no length has the prefix 11":                    "\xc5",
		"no length has the prefix 11, however long":      "\xc0\x00\x00\x00\x00\x00\x00\x05",
	} {
		t.Run(name, func(t *testing.T) {
			w.bothRefuse(t, bob, []byte("\x00\x01\x00\x01"+length+string(msg[5:])), failure(ErrMalformed))
		})
	}
	w.bothTake(t, bob, msg)
}
