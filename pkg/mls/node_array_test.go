package mls

import (
	"bytes"
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// sketch returns a leaf that no signature is on: enough for a tree, and made by the thousand.
func sketch(rng *rand.Rand) *LeafNode {
	types := []CredentialType{CredentialBasic, 0xF1A0, 0xF1A1}
	l := &LeafNode{
		encryptionKey: randomBytes(32),
		signatureKey:  randomBytes(32),
		credential:    Credential{Type: types[rng.IntN(len(types))], Body: []byte("somebody")},
		source:        LeafFromUpdate,
	}
	for t := range ProposalType(3) {
		if rng.IntN(20) > 0 {
			l.capabilities.Proposals = append(l.capabilities.Proposals, 0xF1B0+t)
		}
	}
	return l
}

// mutate does one random operation to a tree: what commits do, but for the cryptography.
func mutate(t *testing.T, rng *rand.Rand, tree *ratchetTree, grow bool) {
	t.Helper()
	members := tree.members()
	who := leafIndex(members[rng.IntN(len(members))].Index)
	var err error
	switch op := rng.IntN(6); {
	case grow && op < 3:
		for range 1 + rng.IntN(4) {
			_, err = tree.addLeaf(sketch(rng))
		}
	case !grow && op < 3 && len(members) > 1:
		err = tree.removeLeaf(who)
	case op == 3:
		err = tree.updateLeaf(who, sketch(rng))
	default:
		steps := tree.filteredPath(who)
		publics := make([][]byte, len(steps))
		for i := range publics {
			publics[i] = randomBytes(32)
		}
		leaf := sketch(rng)
		leaf.source, leaf.parentHash = LeafFromCommit, tree.setPath(who, steps, publics)
		tree.setLeaf(who, leaf)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// checkKept compares all that a tree keeps besides its nodes with what follows from them.
func checkKept(t *testing.T, tree *ratchetTree) {
	t.Helper()
	fresh := rebuilt(tree)
	for n := range nodeIndex(tree.nodes.len()) {
		if !bytes.Equal(tree.hash(n), fresh.hash(n)) {
			t.Fatalf("width %d: the kept tree hash of node %d is not that of the node", tree.width(), n)
		}
		if tree.node(n).leaves != fresh.node(n).leaves {
			t.Fatalf("width %d: %d leaves at node %d, want %d", tree.width(), tree.node(n).leaves, n, fresh.node(n).leaves)
		}
	}
	if tree.width() > 1 && tree.node(tree.root().right()).leaves == 0 {
		t.Fatal("the tree is not truncated")
	}
	if !slices.Equal(tree.keys.all(), scanKeys(tree)) {
		t.Fatal("the key index is not what a scan finds")
	}
	credentials := map[CredentialType]int{}
	for _, m := range tree.members() {
		credentials[m.Leaf.credential.Type]++
		for _, p := range tree.summary.s.proposals {
			if !slices.Contains(m.Leaf.capabilities.Proposals, p) {
				t.Fatal("a leaf does not list a proposal type that all are said to list")
			}
		}
	}
	if !maps.Equal(credentials, tree.summary.s.credentials) {
		t.Fatalf("credential types %v, want %v", tree.summary.s.credentials, credentials)
	}
}

func compareEntries(a, b keyEntry) int {
	return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.node, b.node))
}

// all returns all entries in order.
func (x *keyIndex) all() []keyEntry {
	var out []keyEntry
	var walk func(t *keyTrie)
	walk = func(t *keyTrie) {
		if t == nil {
			return
		}
		out = append(out, t.entries...)
		if t.branches != nil {
			for _, b := range t.branches {
				walk(b)
			}
		}
	}
	walk(x.root)
	slices.SortFunc(out, compareEntries)
	return out
}

// scanKeys returns the entries that an index of the tree has.
func scanKeys(tree *ratchetTree) []keyEntry {
	var out []keyEntry
	for n := range nodeIndex(tree.nodes.len()) {
		at := tree.node(n)
		if !at.blank() {
			out = append(out, keyEntry{encryptionKeyHash(at.encryptionKey()), n})
		}
		if at.leaf != nil {
			out = append(out, keyEntry{signatureKeyHash(at.leaf.signatureKey), n})
			if tree.identity != nil {
				out = append(out, keyEntry{clientHash(tree.identity(at.leaf)), n})
			}
		}
	}
	slices.SortFunc(out, compareEntries)
	return out
}

// treeRecord is a tree with what it was when it was made.
type treeRecord struct {
	tree    *ratchetTree
	encoded []byte
	hash    []byte
	keys    []keyEntry
}

func record(tree *ratchetTree) treeRecord {
	return treeRecord{tree, tree.bytes(), tree.rootHash(), tree.keys.all()}
}

// check says whether the tree still is what it was.
func (r treeRecord) check(t *testing.T) {
	t.Helper()
	if !bytes.Equal(r.tree.bytes(), r.encoded) || !bytes.Equal(r.tree.rootHash(), r.hash) || !slices.Equal(r.tree.keys.all(), r.keys) {
		t.Fatal("a change of a clone changed the tree")
	}
}

// TestTreesShareNothingThatChanges runs random operations on clones of trees, of the newest as of old ones, so that histories fork. All
// that was ever made must stay as it was, and what trees keep must follow from their nodes.
func TestTreesShareNothingThatChanges(t *testing.T) {
	for seed := range uint64(3) {
		rng := rand.New(rand.NewPCG(seed, 0))
		first := newRatchetTree(suite1, sketch(rng))
		if seed > 0 {
			first.identify(func(l *LeafNode) string { return string(l.signatureKey) })
		}
		first.publish()
		all := []treeRecord{record(first)}
		for step := range 1000 {
			base := all[len(all)-1]
			if rng.IntN(10) == 0 {
				base = all[rng.IntN(len(all))]
			}
			next := base.tree.clone()
			mutate(t, rng, next, step%200 < 120)
			if rng.IntN(3) == 0 { // a clone of what has not been published
				other := next.clone()
				mutate(t, rng, next, true)
				mutate(t, rng, other, true)
				other.publish()
				all = append(all, record(other))
				next.rootHash()
				other.rootHash()
			}
			next.publish()
			if step%20 == 0 {
				checkKept(t, next)
				checkKept(t, all[rng.IntN(len(all))].tree)
			}
			all = append(all, record(next))
			base.check(t)
		}
		for _, r := range all {
			r.check(t)
		}
		checkKept(t, all[len(all)-1].tree)
	}
}

// TestLeafDifferences compares differences with what a scan finds, for trees of one history and of none in common.
func TestLeafDifferences(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 0))
	trees := []*ratchetTree{newRatchetTree(suite1, sketch(rng))}
	for step := range 300 {
		next := trees[len(trees)-1].clone()
		mutate(t, rng, next, step%100 < 70)
		trees = append(trees, next)
	}
	other := newRatchetTree(suite1, sketch(rng))
	for range 300 {
		mutate(t, rng, other, true)
	}
	trees = append(trees, other, newRatchetTree(suite1, sketch(rng)))
	for range 2000 {
		a, b := trees[rng.IntN(len(trees))].nodes.snapshot(), trees[rng.IntN(len(trees))].nodes.snapshot()
		if rng.IntN(4) == 0 {
			b.resize(a.leaves)
		}
		var got, want []leafIndex
		a.differences(&b, func(i leafIndex) { got = append(got, i) })
		for i := range leafIndex(max(a.leaves, b.leaves)) {
			if a.leaf(i) != b.leaf(i) {
				want = append(want, i)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("widths %d and %d: differences %v, want %v", a.leaves, b.leaves, got, want)
		}
	}
}

func TestNodeArraySizes(t *testing.T) {
	for leaves := 1; leaves <= maxLeaves; leaves *= 2 {
		a := newNodeArray(leaves)
		if a.len() != 2*leaves-1 {
			t.Fatalf("%d nodes over %d leaves", a.len(), leaves)
		}
		seen := map[*node]bool{}
		for n := range nodeIndex(a.len()) {
			at := a.edit(n)
			if at != a.at(n) || seen[at] || !at.blank() {
				t.Fatalf("width %d: node %d is not a blank place of its own", leaves, n)
			}
			seen[at] = true
			at.leaves = uint32(n)
		}
		half := a.snapshot()
		half.resize(max(1, leaves/2))
		half.resize(leaves)
		for n := range nodeIndex(a.len()) {
			if a.at(n).leaves != uint32(n) {
				t.Fatalf("width %d: node %d was changed by a change of a snapshot", leaves, n)
			}
			if got := half.at(n); n >= rootOf(leaves) && leaves > 1 && (!got.blank() || n > rootOf(leaves) && got.leaves != 0) {
				t.Fatalf("width %d: node %d came back", leaves, n)
			}
		}
	}
}

// TestKeyIndexCollisions enters many nodes under hashes that agree in all or in most bits.
func TestKeyIndexCollisions(t *testing.T) {
	var x keyIndex
	var want []keyEntry
	for i := range nodeIndex(100) {
		for _, h := range []keyHash{7, 7 ^ keyHash(i%3), 7 ^ 1<<63, keyHash(i) << 60} {
			x.add(h, i)
			want = append(want, keyEntry{h, i})
		}
	}
	slices.SortFunc(want, compareEntries)
	if !slices.Equal(x.all(), want) {
		t.Fatal("entries are missing")
	}
	before, old := x.snapshot(), x.all()
	rng := rand.New(rand.NewPCG(1, 0))
	for len(want) > 0 {
		i := rng.IntN(len(want))
		e := want[i]
		is := func(n nodeIndex) bool { return n == e.node }
		if !x.find(e.hash, is) {
			t.Fatal("an entry is not found")
		}
		x.remove(e.hash, e.node)
		want = slices.Delete(want, i, i+1)
		if x.find(e.hash, is) != slices.Contains(want, e) {
			t.Fatal("an entry that was removed is found")
		}
	}
	x.remove(7, 0)
	if x.find(7, func(nodeIndex) bool { return true }) || len(x.all()) != 0 {
		t.Fatal("an empty index has entries")
	}
	if !slices.Equal(before.all(), old) {
		t.Fatal("a change of an index changed its snapshot")
	}
}
