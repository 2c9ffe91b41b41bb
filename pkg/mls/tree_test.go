package mls

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/crypto/cryptobyte"
)

// forest is a ratchet tree with the secrets of every member: what a group's members know together.
type forest struct {
	t       testing.TB
	rng     *rand.Rand
	tree    *ratchetTree
	groupID []byte
	members map[leafIndex]*forestMember
}

type forestMember struct {
	private *treePrivate
	signer  SignatureKey
}

func newForest(t testing.TB, seed uint64) *forest {
	kp, secrets := makeKeyPackage(t)
	return &forest{
		t: t, rng: rand.New(rand.NewPCG(seed, 0)), tree: newRatchetTree(suite1, kp.Leaf()), groupID: []byte("group"),
		members: map[leafIndex]*forestMember{0: {newTreePrivate(0, secrets.EncryptionKey), secrets.SignatureKey}},
	}
}

func (f *forest) context(treeHash []byte) []byte { return append([]byte("context"), treeHash...) }

func (f *forest) ctx() treeContext { return treeContext{groupID: f.groupID} }

func (f *forest) indices() []leafIndex { return slices.Sorted(maps.Keys(f.members)) }

func (f *forest) pick() leafIndex {
	all := f.indices()
	return all[f.rng.IntN(len(all))]
}

// add adds n members and returns their places and secrets.
func (f *forest) add(tree *ratchetTree, n int) map[leafIndex]*KeyPackageSecrets {
	added := map[leafIndex]*KeyPackageSecrets{}
	for range n {
		kp, secrets := makeKeyPackage(f.t)
		added[must(tree.addLeaf(kp.Leaf()))(f.t)] = secrets
	}
	return added
}

// commit makes sender commit a path with n Adds and the given Removes, and everybody follow.
func (f *forest) commit(sender leafIndex, n int, remove ...leafIndex) {
	f.t.Helper()
	mine := f.tree.clone()
	for _, r := range remove {
		if err := mine.removeLeaf(r); err != nil {
			f.t.Fatal(err)
		}
		delete(f.members, r)
	}
	secrets := f.add(mine, n)
	added := slices.Sorted(maps.Keys(secrets))
	theirs := mine.clone()

	made, err := mine.createPath(pathArgs{
		sender: sender, leaf: mine.leaf(sender), signer: f.members[sender].signer,
		groupID: f.groupID, added: added, context: f.context,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	u := new(updatePath)
	if err := parse(marshal(made.path), u); err != nil {
		f.t.Fatal(err)
	}
	if err := theirs.applyPath(sender, u, added, f.groupID); err != nil {
		f.t.Fatal(err)
	}
	wantBytes(f.t, "tree hash", theirs.rootHash(), mine.rootHash())
	f.follow(theirs, sender, u, added, made)
	f.members[sender].private = made.private
	for i, s := range secrets {
		p, err := newTreePrivate(i, s.EncryptionKey).joinPath(theirs, sender, made.secretFor(i))
		if err != nil {
			f.t.Fatal(err)
		}
		f.members[i] = &forestMember{p, s.SignatureKey}
	}
	f.tree = theirs
	changed := append(added, sender)
	if err := f.tree.validateChange(f.ctx(), changed); err != nil {
		f.t.Fatal(err)
	}
}

// follow lets every member but the sender and the new ones open the path.
func (f *forest) follow(tree *ratchetTree, sender leafIndex, u *updatePath, added []leafIndex, made *createdPath) {
	f.t.Helper()
	for i, m := range f.members {
		if i == sender {
			continue
		}
		secret, next, err := m.private.openPath(tree, sender, u, added, f.context(tree.rootHash()))
		if err != nil {
			f.t.Fatal(err)
		}
		wantBytes(f.t, "commit secret", secret, made.commitSecret)
		m.private = next
	}
}

// addOnly adds n members without a path.
func (f *forest) addOnly(n int) {
	next := f.tree.clone()
	for i, s := range f.add(next, n) {
		f.members[i] = &forestMember{newTreePrivate(i, s.EncryptionKey), s.SignatureKey}
	}
	f.tree = next
}

// update replaces a leaf as an Update proposal does.
func (f *forest) update(i leafIndex) {
	key := must(suite1.GenerateHPKEKey())(f.t)
	leaf := f.tree.leaf(i).clone()
	leaf.encryptionKey, leaf.source = key.Public(), LeafFromUpdate
	leaf.sign(f.members[i].signer, f.groupID, i)
	next := f.tree.clone()
	if err := next.updateLeaf(i, leaf); err != nil {
		f.t.Fatal(err)
	}
	p := f.members[i].private.clone()
	p.setLeafKey(key)
	f.members[i].private = p
	f.tree = next
	f.prune()
}

func (f *forest) removeOnly(i leafIndex) {
	next := f.tree.clone()
	if err := next.removeLeaf(i); err != nil {
		f.t.Fatal(err)
	}
	delete(f.members, i)
	f.tree = next
	f.prune()
}

func (f *forest) prune() {
	for _, m := range f.members {
		m.private = m.private.clone()
		m.private.prune(f.tree)
	}
}

// check holds the invariants: the tree is valid, its kept hashes are those of a tree read anew, and every member's private
// keys are those of the tree. By the tree invariant a member knows the key of every occupied ancestor at which it is merged.
func (f *forest) check() {
	f.t.Helper()
	if err := f.tree.validate(f.ctx()); err != nil {
		f.t.Fatal(err)
	}
	fresh := must(parseRatchetTree(suite1, f.tree.bytes()))(f.t)
	wantBytes(f.t, "kept tree hash", f.tree.rootHash(), fresh.rootHash())
	if got := f.tree.memberCount(); got != len(f.members) || got != len(f.tree.members()) {
		f.t.Fatalf("%d members, want %d", got, len(f.members))
	}
	for i, m := range f.members {
		if err := m.private.check(f.tree); err != nil {
			f.t.Fatalf("private state of %d does not match the tree", i)
		}
		for n := range f.tree.directPath(i) {
			p := f.tree.node(n).parent
			if p != nil && !slices.Contains(p.unmergedLeaves, i) && m.private.keys[n].isZero() {
				f.t.Fatalf("leaf %d lacks the key of node %d", i, n)
			}
		}
	}
}

func TestTreeLife(t *testing.T) {
	for seed := range uint64(4) {
		f := newForest(t, seed)
		for range 40 {
			before, encoded := f.tree, f.tree.bytes()
			switch n := len(f.members); f.rng.IntN(6) {
			case 0:
				f.addOnly(1 + f.rng.IntN(3))
			case 1:
				f.commit(f.pick(), 1+f.rng.IntN(3))
			case 2:
				f.update(f.pick())
			case 3:
				if n > 1 {
					f.removeOnly(f.pick())
				}
			case 4:
				if sender, gone := f.pick(), f.pick(); sender != gone {
					f.commit(sender, f.rng.IntN(2), gone)
				}
			case 5:
				f.commit(f.pick(), 0)
			}
			f.check()
			if !bytes.Equal(before.bytes(), encoded) {
				t.Fatalf("seed %d: an operation on a clone changed the original", seed)
			}
		}
	}
}

func TestExternalJoinerPath(t *testing.T) {
	for name, remove := range map[string]bool{"join": false, "resync": true} {
		t.Run(name, func(t *testing.T) {
			f := newForest(t, 1)
			f.addOnly(4)
			f.commit(3, 0)
			mine := f.tree.clone()
			if remove {
				if err := mine.removeLeaf(2); err != nil {
					t.Fatal(err)
				}
				delete(f.members, 2)
				f.prune()
			}
			theirs := mine.clone()
			kp, secrets := makeKeyPackage(t)
			at := must(mine.reserveLeaf())(t)
			made, err := mine.createPath(pathArgs{sender: at, leaf: kp.Leaf(), signer: secrets.SignatureKey, groupID: f.groupID, context: f.context})
			if err != nil {
				t.Fatal(err)
			}
			if got := must(theirs.reserveLeaf())(t); got != at {
				t.Fatalf("leaf %d, want %d", got, at)
			}
			if err := theirs.applyPath(at, made.path, nil, f.groupID); err != nil {
				t.Fatal(err)
			}
			f.follow(theirs, at, made.path, nil, made)
			f.members[at] = &forestMember{made.private, secrets.SignatureKey}
			f.tree = theirs
			f.check()
			f.commit(at, 1)
			f.check()
		})
	}
}

func TestLoneMemberPath(t *testing.T) {
	f := newForest(t, 1)
	f.commit(0, 0)
	f.check()
	f.commit(0, 1)
	f.check()
}

func TestTreeRefusesBlankLeaves(t *testing.T) {
	f := newForest(t, 1)
	f.addOnly(2)
	for name, err := range map[string]error{
		"update blank":   f.tree.clone().updateLeaf(3, f.tree.leaf(0)),
		"update outside": f.tree.clone().updateLeaf(1<<31, f.tree.leaf(0)),
		"remove blank":   f.tree.clone().removeLeaf(3),
		"remove outside": f.tree.clone().removeLeaf(1<<31 + 1),
		"change blank":   f.tree.validateChange(f.ctx(), []leafIndex{3}),
	} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTreeLimit(t *testing.T) {
	kp, _ := makeKeyPackage(t)
	tree := &ratchetTree{suite: suite1, nodes: newNodeArray(maxLeaves)}
	for i := range leafIndex(maxLeaves) {
		tree.nodes.edit(i.node()).leaf = kp.Leaf()
	}
	tree.enter()
	if _, err := tree.addLeaf(kp.Leaf()); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
	if n := len(slices.Collect(tree.directPath(0))); n != maxPathNodes {
		t.Errorf("the longest path has %d nodes", n)
	}
}

// mature is a forest of eight places. Leaf 7 is blank. Leaf 2 was added last, so it is unmerged at nodes 3 and 7; node 5
// above it is blank, and so is 13. Leaf 0 made nodes 1, 3 and 7, leaf 6 made node 11, leaf 5 made node 9.
func mature(t testing.TB) *forest {
	f := newForest(t, 1)
	f.addOnly(6)
	for i := range leafIndex(7) {
		f.commit(i, 0)
	}
	f.commit(0, 0, 2)
	f.addOnly(1)
	f.check()
	return f
}

// rebuilt is a tree with the same nodes for which nothing is kept.
func rebuilt(t *ratchetTree) *ratchetTree {
	fresh := &ratchetTree{suite: t.suite, nodes: newNodeArray(t.width())}
	for n := range nodeIndex(t.nodes.len()) {
		at, from := fresh.nodes.edit(n), t.node(n)
		at.leaf, at.parent = from.leaf, from.parent
	}
	fresh.enter()
	return fresh
}

// TestTreeValidation breaks one thing at a time in a valid tree: one table, whose rows share how leaves and parents are changed.
func TestTreeValidation(t *testing.T) {
	leaf := func(f *forest, i leafIndex, change func(l *LeafNode)) {
		l := f.tree.leaf(i).clone()
		change(l)
		l.sign(f.members[i].signer, f.groupID, i)
		f.tree.setLeaf(i, l)
	}
	parent := func(f *forest, n nodeIndex, change func(p *parentNode)) {
		p := *f.tree.node(n).parent
		p.unmergedLeaves = slices.Clone(p.unmergedLeaves)
		change(&p)
		f.tree.setParent(n, &p)
	}
	for _, c := range []struct {
		name   string
		change func(f *forest)
		want   error
	}{
		{"as made", func(*forest) {}, nil},
		{"leaf signature", func(f *forest) {
			l := f.tree.leaf(2).clone()
			l.signature = bytes.Clone(l.signature)
			l.signature[0] ^= 1
			f.tree.setLeaf(2, l)
		}, ErrUnauthenticated},
		{"leaf of another group", func(f *forest) { f.groupID = []byte("other") }, ErrUnauthenticated},
		{"leaf parent hash", func(f *forest) { leaf(f, 6, func(l *LeafNode) { l.parentHash = randomBytes(32) }) }, ErrInvalid},
		{"leaf of source update", func(f *forest) { leaf(f, 6, func(l *LeafNode) { l.source = LeafFromUpdate }) }, ErrInvalid},
		{"parent's parent hash", func(f *forest) { parent(f, 3, func(p *parentNode) { p.parentHash = randomBytes(32) }) }, ErrInvalid},
		{"root's parent hash", func(f *forest) { parent(f, 7, func(p *parentNode) { p.parentHash = []byte{1} }) }, ErrInvalid},
		{"parent key", func(f *forest) { parent(f, 7, func(p *parentNode) { p.encryptionKey = randomBytes(32) }) }, ErrInvalid},
		{"parent key of small order", func(f *forest) { parent(f, 7, func(p *parentNode) { p.encryptionKey = make([]byte, 32) }) }, ErrInvalid},
		{"parent added", func(f *forest) {
			f.tree.setParent(13, &parentNode{encryptionKey: randomBytes(32)})
		}, ErrInvalid},
		{"parent blanked", func(f *forest) { f.tree.setParent(3, nil) }, ErrInvalid},
		{"unmerged leaf forgotten at the root", func(f *forest) {
			parent(f, 7, func(p *parentNode) { p.unmergedLeaves = nil })
		}, ErrInvalid},
		{"unmerged leaf forgotten below", func(f *forest) {
			parent(f, 3, func(p *parentNode) { p.unmergedLeaves = nil })
		}, ErrInvalid},
		{"unmerged leaf elsewhere", func(f *forest) {
			parent(f, 3, func(p *parentNode) { p.unmergedLeaves = []leafIndex{5} })
		}, ErrInvalid},
		{"unmerged leaf blank", func(f *forest) {
			parent(f, 7, func(p *parentNode) { p.unmergedLeaves = append(p.unmergedLeaves, 7) })
		}, ErrInvalid},
		{"unmerged leaf outside", func(f *forest) {
			parent(f, 7, func(p *parentNode) { p.unmergedLeaves = append(p.unmergedLeaves, 1<<31) })
		}, ErrInvalid},
		{"merged leaf called unmerged", func(f *forest) {
			parent(f, 3, func(p *parentNode) { p.unmergedLeaves = []leafIndex{2, 3} })
			parent(f, 7, func(p *parentNode) { p.unmergedLeaves = []leafIndex{2, 3} })
		}, ErrInvalid},
		{"not truncated", func(f *forest) {
			f.tree.nodes.grow()
		}, ErrInvalid},
		{"encryption key twice", func(f *forest) {
			leaf(f, 6, func(l *LeafNode) { l.encryptionKey = f.tree.leaf(5).encryptionKey })
		}, ErrInvalid},
		{"encryption key of a parent", func(f *forest) {
			leaf(f, 6, func(l *LeafNode) { l.encryptionKey = f.tree.node(1).parent.encryptionKey })
		}, ErrInvalid},
		{"signature key twice", func(f *forest) {
			f.members[6].signer = f.members[5].signer
			leaf(f, 6, func(l *LeafNode) { l.signatureKey = f.members[5].signer.Public() })
		}, ErrInvalid},
		{"credential type of its own", func(f *forest) {
			leaf(f, 6, func(l *LeafNode) {
				l.credential.Type = 0xF1A9
				l.capabilities.Credentials = []CredentialType{0xF1A9, 0xF1A0}
			})
		}, ErrInvalid},
		{"extension not supported", func(f *forest) {
			leaf(f, 6, func(l *LeafNode) { l.extensions = []Extension{{Type: 0xF1A9}} })
		}, ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := mature(t)
			c.change(f)
			if err := rebuilt(f.tree).validate(f.ctx()); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestGroupRequirements(t *testing.T) {
	f := mature(t)
	required := func(r requiredCapabilities) []Extension {
		return []Extension{{Type: ExtensionRequiredCapabilities, Data: marshal(&r)}}
	}
	for name, c := range map[string]struct {
		exts []Extension
		want error
	}{
		"nothing":               {nil, nil},
		"supported":             {[]Extension{{Type: 0xF1A1}}, nil},
		"not supported":         {[]Extension{{Type: 0xF1A9}}, ErrInvalid},
		"required, supported":   {required(requiredCapabilities{extensions: []ExtensionType{0xF1A1}}), nil},
		"required, unsupported": {required(requiredCapabilities{proposals: []ProposalType{0xF1A9}}), ErrInvalid},
		"required, malformed":   {[]Extension{{Type: ExtensionRequiredCapabilities, Data: []byte{9}}}, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			if err := f.tree.checkGroupExtensions(c.exts); !errors.Is(err, c.want) {
				t.Errorf("group: %v", err)
			}
			if err := f.tree.validate(treeContext{f.groupID, c.exts}); !errors.Is(err, c.want) {
				t.Errorf("tree: %v", err)
			}
			if err := f.tree.validateChange(treeContext{f.groupID, c.exts}, []leafIndex{2}); !errors.Is(err, c.want) {
				t.Errorf("change: %v", err)
			}
		})
	}
}

func TestRatchetTreeForm(t *testing.T) {
	tree := mature(t).tree
	b := tree.bytes()
	wantBytes(t, "round trip", must(parseRatchetTree(suite1, b))(t).bytes(), b)
	for i := range b {
		if _, err := parseRatchetTree(suite1, b[:i]); err != ErrMalformed {
			t.Fatalf("%d bytes of %d: %v", i, len(b), err)
		}
	}
	write := func(nodes ...node) []byte {
		var b cryptobyte.Builder
		writeVector(&b, func(b *cryptobyte.Builder) {
			for i := range nodes {
				nodes[i].marshal(b)
			}
		})
		return b.BytesOrPanic()
	}
	leaf, parent := node{leaf: tree.leaf(0)}, node{parent: tree.node(7).parent}
	merged, outside := *tree.node(7).parent, *tree.node(7).parent
	merged.unmergedLeaves, outside.unmergedLeaves = nil, []leafIndex{2}
	unsorted := *tree.node(7).parent
	unsorted.unmergedLeaves = []leafIndex{1, 0}
	strange := write(leaf, node{}, leaf)
	strange[len(strange)-(len(strange)-3)/2-1] = 2 // the presence octet of the blank node
	for name, c := range map[string]struct {
		in []byte
		ok bool
	}{
		"one leaf":           {write(leaf), true},
		"blank between":      {write(leaf, node{}, leaf), true},
		"empty":              {write(), false},
		"one blank":          {write(node{}), false},
		"blank at the end":   {write(leaf, node{}, node{}), false},
		"parent between":     {write(leaf, node{parent: &merged}, leaf), true},
		"unmerged outside":   {write(leaf, node{parent: &outside}, leaf), false},
		"parent at the end":  {write(leaf, parent), false},
		"leaf as parent":     {write(leaf, leaf, leaf), false},
		"parent as leaf":     {write(parent), false},
		"unsorted unmerged":  {write(leaf, node{parent: &unsorted}, leaf), false},
		"byte left over":     {append(write(leaf), 0), false},
		"presence octet 2":   {strange, false},
		"unknown node type":  {[]byte{2, 1, 3}, false},
		"too many, all bare": {append([]byte{0x80, 4, 0, 0}, make([]byte, 2*maxLeaves)...), false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parseRatchetTree(suite1, c.in); (err == nil) != c.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestTreePrivateStorage(t *testing.T) {
	f := mature(t)
	p := f.members[4].private
	b := marshal(p)
	read := new(treePrivate)
	if err := parse(b, read); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "round trip", marshal(read), b)
	if err := read.check(f.tree); err != nil {
		t.Error(err)
	}
	for i := range b {
		if parse(b[:i], new(treePrivate)) == nil {
			t.Fatalf("read %d bytes of %d", i, len(b))
		}
	}
	f.update(4)
	if err := read.check(f.tree); err != ErrMalformed {
		t.Errorf("an old state matches: %v", err)
	}
	if err := (&treePrivate{index: 7}).check(f.tree); err != ErrMalformed {
		t.Errorf("a blank leaf's state matches: %v", err)
	}
}

func TestParallel(t *testing.T) {
	for _, n := range []int{0, 1, 3, 4, 100} {
		seen := make([]int, n)
		if err := parallel(n, func(i int) error { seen[i]++; return nil }); err != nil {
			t.Fatal(err)
		}
		if i := slices.IndexFunc(seen, func(s int) bool { return s != 1 }); i >= 0 {
			t.Errorf("%d: item %d ran %d times", n, i, seen[i])
		}
	}
	if err := parallel(100, func(i int) error {
		if i == 50 {
			return ErrUnauthenticated
		}
		return nil
	}); err != ErrUnauthenticated {
		t.Errorf("got %v", err)
	}
}
