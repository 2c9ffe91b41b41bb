package mls

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/crypto/cryptobyte"
)

// skipAll is a parser that takes anything.
type skipAll struct{}

func (skipAll) parse(s *cryptobyte.String) bool { return s.Skip(len(*s)) }

// vectorOf is a vector of n equal items.
func vectorOf(n int, item ...byte) []byte {
	var b cryptobyte.Builder
	writeOpaque(&b, bytes.Repeat(item, n))
	return b.BytesOrPanic()
}

// extensionsOf is a list of n extensions without data, each of its own type.
func extensionsOf(n int) []byte {
	var b cryptobyte.Builder
	writeVector(&b, func(b *cryptobyte.Builder) {
		for i := range n {
			b.AddUint16(uint16(i + 1))
			b.AddUint8(0)
		}
	})
	return b.BytesOrPanic()
}

// blankTree is a tree of n nodes of which all but the first and the last are blank.
func blankTree(t testing.TB, n int) []byte {
	kp, _ := makeKeyPackage(t)
	l := make(looseTree, n)
	l[0].leaf, l[n-1].leaf = kp.Leaf(), kp.Leaf()
	return l.allBytes()
}

// TestLimits reads what is as large as it may be, and one more of it.
func TestLimits(t *testing.T) {
	for name, c := range map[string]struct {
		limit int
		read  func(n int) error
	}{
		"message":         {maxMessage, func(n int) error { return parse(make([]byte, n), skipAll{}) }},
		"extensions":      {maxExtensions, func(n int) error { return parse(extensionsOf(n), new(extensionList)) }},
		"capabilities":    {maxCapabilities, func(n int) error { return parse(slices.Concat(make([]byte, 4), vectorOf(n, 1, 1)), new(Capabilities)) }},
		"certificates":    {maxCertificates, func(n int) error { return parse(slices.Concat([]byte{0, 2}, vectorOf(n, 1, 'c')), new(Credential)) }},
		"proposals":       {maxProposals, func(n int) error { return parse(append(vectorOf(n, proposalByReference, 1, 'r'), 0), new(commit)) }},
		"path nodes":      {maxPathNodes, func(n int) error { return parse(pathOf(t, n), new(updatePath)) }},
		"path secrets":    {maxLeaves, func(n int) error { return parse(slices.Concat([]byte{0}, vectorOf(n, 0, 0)), new(updatePathNode)) }},
		"nodes of a tree": {2*maxLeaves - 1, func(n int) error { _, err := parseRatchetTree(suite1, blankTree(t, n|1)); return err }},
		"external senders": {maxExternalSenders, func(n int) error {
			_, err := parseExternalSenders(vectorOf(n, 0, 0, 1, 0))
			return err
		}},
		"newcomers": {maxProposals, func(n int) error {
			return parse(slices.Concat([]byte{0, 1}, vectorOf(n, 0, 0, 0), []byte{0}), new(welcome))
		}},
		"past epochs": {maxPastEpochs, func(n int) error {
			_, alice, _, _ := threeWorld(t)
			state := alice.group.Marshal()
			state[len(state)-1] = byte(n)
			_, err := ParseGroup(state, testRules())
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.read(c.limit); err != nil {
				t.Errorf("%d: %v", c.limit, err)
			}
			if err := c.read(c.limit + 1); !errors.Is(err, ErrMalformed) {
				t.Errorf("%d: %v", c.limit+1, err)
			}
		})
	}
	if keepPast(maxPastEpochs+1) != maxPastEpochs {
		t.Error("more past epochs than a state may hold")
	}
}

// extensionList is a list of extensions by itself.
type extensionList []Extension

func (l *extensionList) parse(s *cryptobyte.String) bool {
	return parseExtensions(s, (*[]Extension)(l))
}

// pathOf is an UpdatePath of n nodes.
func pathOf(t testing.TB, n int) []byte {
	kp, _ := makeKeyPackage(t)
	return slices.Concat(kp.Leaf().Marshal(), vectorOf(n, 0, 0))
}

// TestVectorLimit is apart from the others: only the length is read.
func TestVectorLimit(t *testing.T) {
	for n, ok := range map[int]bool{maxVector: true, maxVector + 1: false} {
		s, content := cryptobyte.String(append([]byte{0x80 | byte(n>>24), byte(n >> 16), byte(n >> 8), byte(n)}, make([]byte, n)...)), cryptobyte.String(nil)
		if got := readSlice(&s, &content); got != ok {
			t.Errorf("%d bytes: %v", n, got)
		}
	}
}

// TestOwnLimits asks for more than others would take.
func TestOwnLimits(t *testing.T) {
	_, alice, _, _ := threeWorld(t)
	psks := make([]Proposal, maxProposals+1)
	for i := range psks {
		psks[i] = Proposal{Type: ProposalPSK, PSK: &PSKID{ID: fmt.Append(nil, i), Nonce: make([]byte, 32)}}
	}
	psk := func([]byte) ([]byte, error) { return []byte("secret"), nil }
	_, err := alice.group.Commit(CommitOptions{Proposals: psks, PSK: psk})
	wantRule(t, err, "12.4", "no more proposals")
	if _, err := alice.group.Commit(CommitOptions{Proposals: psks[1:], PSK: psk}); err != nil {
		t.Errorf("as many as may be: %v", err)
	}
	exts := make([]Extension, maxExtensions+1)
	for i := range exts {
		exts[i].Type = ExtensionType(0x1000 + i)
	}
	_, err = alice.group.GroupInfo(exts, false)
	wantRule(t, err, "13.4", "too many extensions")
	if _, err := alice.group.GroupInfo(exts[:maxExtensions-1], false); err != nil { // external_pub is one more
		t.Errorf("as many as may be: %v", err)
	}
	if _, err := alice.group.Export("label", nil, 255*32); err != nil {
		t.Errorf("the longest export: %v", err)
	}
	_, err = alice.group.Export("label", nil, 255*32+1)
	wantRule(t, err, "8.5", "length")
}

// TestPendingLimits lets a member propose as much as there may be in an epoch. The state can still be stored then.
func TestPendingLimits(t *testing.T) {
	w, alice, _, _ := threeWorld(t)
	full := func(body func(i int) []byte) (int, *PublicGroup, error) {
		server := w.server
		for i := range maxPending + 1 {
			msg := framed(alice, framedContent{contentType: contentProposal, proposal: &Proposal{Type: testProposal, Body: []byte{1}}, authenticatedData: body(i)})
			next, _, err := server.AddProposal(msg, w.now)
			if err != nil {
				return i, server, err
			}
			server = next
		}
		return -1, server, nil
	}
	for name, c := range map[string]struct {
		body func(i int) []byte
		want int
	}{
		"number": {func(i int) []byte { return []byte{byte(i >> 8), byte(i)} }, maxPending},
		"size":   {func(i int) []byte { return append(make([]byte, maxPendingSize/16-200), byte(i)) }, 16},
	} {
		t.Run(name, func(t *testing.T) {
			n, server, err := full(c.body)
			if n != c.want {
				t.Errorf("%d proposals, want %d", n, c.want)
			}
			wantRule(t, err, "12.1", "no more proposals")
			again := must(ParsePublicGroup(server.Marshal(), w.rules))(t)
			if len(again.Pending()) != n {
				t.Error("proposals are lost")
			}
			// A commit that refers to all of them is read in no time that matters.
			var all []CommittedProposal
			all = append(all, server.Pending()...)
			if len(all) > 100 {
				if _, err := server.begin(all, w.client("bob").group.s.self(), noTime); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestTreeSizeLimit adds large leaves: the tree must stay one that can be written, stored and sent.
func TestTreeSizeLimit(t *testing.T) {
	cfg := keyPackageConfig(t)
	cfg.LeafExtensions[0].Data = make([]byte, 1<<20)
	kp, _, err := NewKeyPackage(cfg)
	if err != nil {
		t.Fatal(err)
	}
	tree := newRatchetTree(suite1, kp.Leaf())
	for {
		before := tree.clone()
		must(tree.addLeaf(kp.Leaf()))(t)
		if err := tree.checkSize(before); err != nil {
			wantRule(t, err, "7.7", "not larger")
			if n := before.memberCount(); n < 120 || n > 127 {
				t.Errorf("no room after %d leaves of a MiB", n)
			}
			break
		}
	}
	// What makes it smaller, and what leaves it as it is, goes on.
	large := tree.clone()
	if err := tree.checkSize(large); err != nil {
		t.Error(err)
	}
	if err := tree.removeLeaf(5); err != nil {
		t.Fatal(err)
	}
	if err := tree.checkSize(large); err != nil {
		t.Error(err)
	}
	// An honest tree as wide as may be is far below.
	small, _ := makeKeyPackage(t)
	wide := &ratchetTree{suite: suite1, nodes: newNodeArray(maxLeaves)}
	for i := range leafIndex(maxLeaves) {
		wide.nodes.edit(i.node()).leaf = small.Leaf()
	}
	wide.enter()
	if n := wide.maxSize(); n > maxVector/2 {
		t.Errorf("%d bytes", n)
	}
}

// maxAmplification bounds the bytes allocated for each byte of an input, made up to cost as much as it can. The most costly ones are lists of items that
// are a byte or three on the wire and a struct in memory.
const maxAmplification = 220

// TestMemory reads inputs that are made up of the smallest items there are: what is allocated in all is a small multiple of the input's length.
func TestMemory(t *testing.T) {
	w, _, bob, _ := threeWorld(t)
	kp, _ := makeKeyPackage(t)
	selfRemoves := func(n int) []byte { return append(vectorOf(n, proposalByValue, 0, 10), 0) }
	blanks := blankTree(t, 2*maxLeaves-1)
	parents := make(looseTree, 1<<14-1)
	for i := range parents {
		if i%2 == 0 {
			parents[i].leaf = kp.Leaf()
		} else {
			parents[i].parent = &parentNode{}
		}
	}
	message := func(content []byte) []byte {
		return slices.Concat([]byte{0, 1, 0, 1, 5}, []byte("group"), make([]byte, 8), []byte{1, 0, 0, 0, 0, 0, 3}, content, []byte{0, 0, 0})
	}
	for name, c := range map[string]struct {
		in   []byte
		read func(b []byte)
	}{
		"tree of blanks":        {blanks, func(b []byte) { _, _ = parseRatchetTree(suite1, b) }},
		"tree of parents":       {parents.bytes(), func(b []byte) { _, _ = parseRatchetTree(suite1, b) }},
		"references":            {append(vectorOf(maxProposals, proposalByReference, 0), 0), func(b []byte) { _ = parse(b, new(commit)) }},
		"self_removes":          {selfRemoves(maxProposals), func(b []byte) { _ = parse(b, new(commit)) }},
		"self_removes, given":   {message(selfRemoves(maxProposals)), func(b []byte) { _, _ = bob.group.Process(b, ProcessOptions{}) }},
		"self_removes, server":  {message(selfRemoves(maxProposals)), func(b []byte) { _ = w.refused(b) }},
		"empty PSKs":            {append(vectorOf(maxProposals, proposalByValue, 0, 4, 1, 0, 0), 0), func(b []byte) { _ = parse(b, new(commit)) }},
		"empty extensions":      {extensionsOf(maxExtensions), func(b []byte) { _ = parse(b, new(extensionList)) }},
		"path secrets":          {slices.Concat([]byte{0}, vectorOf(maxLeaves, 0, 0)), func(b []byte) { _ = parse(b, new(updatePathNode)) }},
		"newcomers":             {slices.Concat([]byte{0, 1}, vectorOf(maxProposals, 0, 0, 0), []byte{0}), func(b []byte) { _ = parse(b, new(welcome)) }},
		"PSKs of a newcomer":    {slices.Concat([]byte{0, 0}, vectorOf(1<<16-1, 1, 0, 0)), func(b []byte) { _ = parse(b, new(groupSecrets)) }},
		"external senders":      {vectorOf(maxExternalSenders, 0, 0, 1, 0), func(b []byte) { _, _ = parseExternalSenders(b) }},
		"a length and no bytes": {[]byte{0x87, 0xff, 0xff, 0xff}, func(b []byte) { var v []byte; s := cryptobyte.String(b); readOpaque(&s, &v) }},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			c.read(c.in)
			runtime.ReadMemStats(&after)
			got := after.TotalAlloc - before.TotalAlloc
			if limit := uint64(maxAmplification*len(c.in) + 1<<16); got > limit {
				t.Errorf("%d bytes for an input of %d", got, len(c.in))
			}
			t.Logf("%.1f for a byte", float64(got)/float64(len(c.in)))
		})
	}
}

// TestGoroutinesEnd runs all that works in parallel, with and without success: no goroutine outlives a call.
func TestGoroutinesEnd(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	w := newWorld(t)
	w.run("m0: creates\nm0: adds m1 m2 m3 m4 m5 m6 m7 m8 m9\nm3: updates\nm0: adds-with-path m10 m11 m12 m13 m14\njoiner: joins")
	bad := w.adds([]string{"x", "y", "z", "u", "v"})
	bad[3].KeyPackage.signature[0] ^= 1
	if _, err := w.client("m0").group.Commit(CommitOptions{Proposals: bad}); !errors.Is(err, ErrUnauthenticated) {
		t.Error(err)
	}
	for n := range 20 {
		err := parallel(n, func(i int) error {
			if i%3 == 2 {
				return ErrInvalid
			}
			return nil
		})
		if (err != nil) != (n > 2) {
			t.Errorf("%d items: %v", n, err)
		}
	}
}
