package mls

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// wireValue is a wire struct that can be read and written.
type wireValue interface {
	parser
	marshaler
}

// wireForms makes an empty value of each wire struct of the tree, the proposals and the commit.
var wireForms = map[string]func() wireValue{
	"extension":             func() wireValue { return new(Extension) },
	"credential":            func() wireValue { return new(Credential) },
	"capabilities":          func() wireValue { return new(Capabilities) },
	"required capabilities": func() wireValue { return new(requiredCapabilities) },
	"leaf node":             func() wireValue { return new(LeafNode) },
	"key package":           func() wireValue { return new(KeyPackage) },
	"proposal":              func() wireValue { return new(Proposal) },
	"proposal or ref":       func() wireValue { return new(proposalOrRef) },
	"commit":                func() wireValue { return new(commit) },
	"update path":           func() wireValue { return new(updatePath) },
	"parent node":           func() wireValue { return new(parentNode) },
	"hpke ciphertext":       func() wireValue { return new(hpkeCiphertext) },
	"reinit":                func() wireValue { return new(ReInit) },
	"private tree":          func() wireValue { return new(treePrivate) },
}

// wireSamples returns at least one valid encoding of each wire struct.
func wireSamples(t *testing.T) map[string][][]byte {
	p := makePath(t)
	kp, _ := makeKeyPackage(t)
	withBody := func(typ ProposalType, body ...byte) []byte {
		return append([]byte{byte(typ >> 8), byte(typ)}, body...)
	}
	update := Proposal{Type: ProposalUpdate, Leaf: p.theirs.leaf(0)}
	proposals := [][]byte{
		marshal(&Proposal{Type: ProposalAdd, KeyPackage: kp}),
		marshal(&update),
		marshal(&Proposal{Type: ProposalRemove, Removed: 7}),
		withBody(ProposalPSK, 1, 2, 'i', 'd', 1, 'n'),
		withBody(ProposalPSK, 2, 3, 1, 'g', 0, 0, 0, 0, 0, 0, 0, 9, 1, 'n'),
		withBody(ProposalReInit, 1, 'g', 0, 1, 0, 1, 3, 0, 7, 0),
		withBody(ProposalExternalInit, 2, 'k', 'k'),
		marshal(&Proposal{Type: ProposalGroupContextExtensions, Extensions: kp.extensions}),
		marshal(&Proposal{Type: ProposalSelfRemove}),
		marshal(&Proposal{Type: 0xF1A4, Body: []byte("body")}),
	}
	c := &commit{proposals: []proposalOrRef{{proposal: &update}, {ref: randomBytes(32)}}, path: p.made.path}
	return map[string][][]byte{
		"extension":             {marshal(&kp.extensions[0])},
		"credential":            {marshal(&kp.leaf.credential), {0, 2, 3, 2, 'a', 'b'}},
		"capabilities":          {marshal(&kp.leaf.capabilities)},
		"required capabilities": {marshal(&requiredCapabilities{extensions: []ExtensionType{9}})},
		"leaf node":             {marshal(&kp.leaf), marshal(p.made.path.leaf)},
		"key package":           {marshal(kp)},
		"proposal":              proposals,
		"proposal or ref":       {marshal(&c.proposals[0]), marshal(&c.proposals[1])},
		"commit":                {marshal(c), marshal(&commit{})},
		"update path":           {marshal(p.made.path)},
		"parent node":           {marshal(p.theirs.node(7).parent)},
		"hpke ciphertext":       {marshal(&p.made.path.nodes[0].pathSecrets[0])},
		"reinit":                {proposals[5][2:]},
		"private tree":          {marshal(p.members[0].private)},
	}
}

// Every sample reads back as itself, and no prefix of it and nothing longer reads at all.
func TestWireForms(t *testing.T) {
	samples := wireSamples(t)
	for name, newValue := range wireForms {
		t.Run(name, func(t *testing.T) {
			if len(samples[name]) == 0 {
				t.Fatal("no sample")
			}
			for _, b := range samples[name] {
				wantRoundTrip(t, name, newValue(), b)
				for i := range b {
					if parse(b[:i], newValue()) == nil {
						t.Fatalf("read %d bytes of %d", i, len(b))
					}
				}
				if parse(append(bytes.Clone(b), 0), newValue()) == nil {
					t.Fatal("read a byte too many")
				}
			}
		})
	}
}

// fuzzWire is the body of all fuzz targets: what parses, marshals back to the same bytes.
func fuzzWire(f *testing.F, name string) {
	for _, b := range fuzzSeeds(name) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v := wireForms[name]()
		if parse(b, v) == nil && !bytes.Equal(marshal(v), b) {
			t.Fatal("round trip differs")
		}
	})
}

// fuzzSeeds returns seeds from the vectors, if they are there, and short ones of our own.
func fuzzSeeds(name string) [][]byte {
	seeds := [][]byte{{}, {0, 0}, make([]byte, 64), {0xF1, 0xA4, 2, 'a', 'b'}, {0, 10}, {0, 2, 3, 2, 'a', 'b'}}
	field := map[string]string{
		"commit": "commit", "leaf node": "update_proposal", "key package": "add_proposal", "reinit": "re_init_proposal",
		"ratchet tree": "ratchet_tree",
	}[name]
	dir := os.Getenv("MLS_VECTORS")
	if dir == "" {
		dir = vectorDir
	}
	raw, err := os.ReadFile(filepath.Join(dir, "messages.json"))
	if err != nil || field == "" {
		return seeds
	}
	var cases []map[string]hexBytes
	if json.Unmarshal(raw, &cases) != nil {
		return seeds
	}
	for _, c := range cases[:min(len(cases), 20)] {
		seeds = append(seeds, c[field])
	}
	return seeds
}

func FuzzExtension(f *testing.F)            { fuzzWire(f, "extension") }
func FuzzCredential(f *testing.F)           { fuzzWire(f, "credential") }
func FuzzCapabilities(f *testing.F)         { fuzzWire(f, "capabilities") }
func FuzzRequiredCapabilities(f *testing.F) { fuzzWire(f, "required capabilities") }
func FuzzLeafNode(f *testing.F)             { fuzzWire(f, "leaf node") }
func FuzzProposal(f *testing.F)             { fuzzWire(f, "proposal") }
func FuzzProposalOrRef(f *testing.F)        { fuzzWire(f, "proposal or ref") }
func FuzzCommit(f *testing.F)               { fuzzWire(f, "commit") }
func FuzzUpdatePath(f *testing.F)           { fuzzWire(f, "update path") }
func FuzzParentNode(f *testing.F)           { fuzzWire(f, "parent node") }
func FuzzHPKECiphertext(f *testing.F)       { fuzzWire(f, "hpke ciphertext") }
func FuzzReInit(f *testing.F)               { fuzzWire(f, "reinit") }
func FuzzTreePrivate(f *testing.F)          { fuzzWire(f, "private tree") }

// FuzzKeyPackage also validates what parses, and asks for all that a caller may ask for.
func FuzzKeyPackage(f *testing.F) {
	for _, b := range fuzzSeeds("key package") {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		kp := new(KeyPackage)
		if parse(b, kp) != nil {
			return
		}
		if !bytes.Equal(kp.Marshal(), b) {
			t.Fatal("round trip differs")
		}
		if err := kp.Validate(time.Time{}); err != nil && errorKinds(err) != 1 {
			t.Fatal("an error of no kind, or of several")
		}
		kp.Ref()
	})
}

// FuzzRatchetTree also works with the tree that it has read, valid or not.
func FuzzRatchetTree(f *testing.F) {
	for _, b := range fuzzSeeds("ratchet tree") {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tree, err := parseRatchetTree(suite1, b)
		if err != nil {
			return
		}
		if !bytes.Equal(tree.bytes(), b) {
			t.Fatal("round trip differs")
		}
		tree.rootHash()
		if err := tree.validate(treeContext{groupID: []byte("group")}); err != nil && errorKinds(err) != 1 {
			t.Fatal("an error of no kind, or of several")
		}
		for _, m := range tree.members() {
			tree.filteredPath(leafIndex(m.Index))
			next := tree.clone()
			if err := next.removeLeaf(leafIndex(m.Index)); err != nil {
				t.Fatal(err)
			}
			next.rootHash()
		}
	})
}

// FuzzVarint compares what readVarint accepts with what writeVarint writes.
func FuzzVarint(f *testing.F) {
	f.Add([]byte{0x40, 0x40})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, n := cryptobyte.String(b), uint32(0)
		if !readVarint(&s, &n) {
			return
		}
		var w cryptobyte.Builder
		writeVarint(&w, int(n))
		if !bytes.Equal(w.BytesOrPanic(), b[:len(b)-len(s)]) {
			t.Fatal("not the shortest form")
		}
	})
}

// FuzzKeyStorage reads stored keys.
func FuzzKeyStorage(f *testing.F) {
	f.Add(append([]byte{0, 1}, make([]byte, 32)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var sig SignatureKey
		if sig.UnmarshalBinary(b) == nil && !bytes.Equal(must(sig.MarshalBinary())(t), b) {
			t.Fatal("signature key differs")
		}
		var enc HPKEPrivateKey
		if enc.UnmarshalBinary(b) == nil && !bytes.Equal(must(enc.MarshalBinary())(t), b) {
			t.Fatal("HPKE key differs")
		}
		var secrets KeyPackageSecrets
		if secrets.UnmarshalBinary(b) == nil && !bytes.Equal(must(secrets.MarshalBinary())(t), b) {
			t.Fatal("KeyPackage secrets differ")
		}
	})
}

// errorKinds counts the sentinels that an error matches: exactly one, by contract.
func errorKinds(err error) (n int) {
	for _, kind := range []error{ErrMalformed, ErrUnauthenticated, ErrInvalid, ErrStaleEpoch, ErrReplayed, ErrUnsupported} {
		if errors.Is(err, kind) {
			n++
		}
	}
	return n
}
