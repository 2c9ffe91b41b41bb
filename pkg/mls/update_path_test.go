package mls

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

// pathFrom is one path of a sender, made but not yet applied by the others, with what they need for it.
type pathFrom struct {
	*forest
	sender leafIndex
	added  []leafIndex
	made   *createdPath
	theirs *ratchetTree // before the path
}

// makePath lets leaf 4 of a mature forest commit a path and one Add, at leaf 7.
func makePath(t testing.TB) *pathFrom {
	p := &pathFrom{forest: mature(t), sender: 4, added: []leafIndex{7}}
	mine := p.tree.clone()
	p.add(mine, 1)
	p.theirs = mine.clone()
	made, err := mine.createPath(pathArgs{
		sender: 4, leaf: mine.leaf(4), signer: p.members[4].signer, groupID: p.groupID, added: p.added, context: p.context,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.made = made
	return p
}

// resign signs the path's leaf again after a test has changed it.
func (p *pathFrom) resign(u *updatePath) {
	u.leaf.sign(p.members[p.sender].signer, p.groupID, p.sender)
}

func TestApplyPathRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(p *pathFrom, u *updatePath)
		want   error
	}{
		{"as made", func(*pathFrom, *updatePath) {}, nil},
		{"node missing", func(_ *pathFrom, u *updatePath) { u.nodes = u.nodes[1:] }, ErrInvalid},
		{"node too many", func(_ *pathFrom, u *updatePath) { u.nodes = append(u.nodes, u.nodes[0]) }, ErrInvalid},
		{"no nodes", func(_ *pathFrom, u *updatePath) { u.nodes = nil }, ErrInvalid},
		{"ciphertext missing", func(_ *pathFrom, u *updatePath) { u.nodes[0].pathSecrets = nil }, ErrInvalid},
		{"ciphertext for an added leaf", func(_ *pathFrom, u *updatePath) {
			n := &u.nodes[1]
			n.pathSecrets = append(n.pathSecrets, n.pathSecrets[0])
		}, ErrInvalid},
		{"key of small order", func(_ *pathFrom, u *updatePath) { u.nodes[0].encryptionKey = make([]byte, 32) }, ErrInvalid},
		{"key of the tree", func(p *pathFrom, u *updatePath) { u.nodes[0].encryptionKey = p.theirs.leaf(0).encryptionKey }, ErrInvalid},
		{"key that it replaces", func(p *pathFrom, u *updatePath) {
			u.nodes[0].encryptionKey = p.theirs.node(9).parent.encryptionKey
		}, ErrInvalid},
		{"key twice in the path", func(_ *pathFrom, u *updatePath) { u.nodes[0].encryptionKey = u.nodes[1].encryptionKey }, ErrInvalid},
		{"other key", func(_ *pathFrom, u *updatePath) { u.nodes[2].encryptionKey = randomBytes(32) }, ErrInvalid},
		{"old leaf key", func(p *pathFrom, u *updatePath) {
			u.leaf.encryptionKey = p.theirs.leaf(4).encryptionKey
			p.resign(u)
		}, ErrInvalid},
		{"leaf key of another", func(p *pathFrom, u *updatePath) {
			u.leaf.encryptionKey = p.theirs.leaf(0).encryptionKey
			p.resign(u)
		}, ErrInvalid},
		{"signature key of another", func(p *pathFrom, u *updatePath) {
			u.leaf.signatureKey = p.theirs.leaf(0).signatureKey
			u.leaf.sign(p.members[0].signer, p.groupID, 4)
		}, ErrInvalid},
		{"source update", func(p *pathFrom, u *updatePath) {
			u.leaf.source = LeafFromUpdate
			p.resign(u)
		}, ErrInvalid},
		{"parent hash", func(p *pathFrom, u *updatePath) {
			u.leaf.parentHash = randomBytes(32)
			p.resign(u)
		}, ErrInvalid},
		{"no parent hash", func(p *pathFrom, u *updatePath) {
			u.leaf.parentHash = nil
			p.resign(u)
		}, ErrInvalid},
		{"signature", func(_ *pathFrom, u *updatePath) { u.leaf.signature[0] ^= 1 }, ErrUnauthenticated},
		{"signed for another place", func(p *pathFrom, u *updatePath) { u.leaf.sign(p.members[4].signer, p.groupID, 5) }, ErrUnauthenticated},
		{"added leaf not named", func(p *pathFrom, _ *updatePath) { p.added = nil }, ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := makePath(t)
			u := new(updatePath)
			if err := parse(marshal(p.made.path), u); err != nil {
				t.Fatal(err)
			}
			c.change(p, u)
			if err := p.theirs.clone().applyPath(p.sender, u, p.added, p.groupID); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestOpenPathRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(p *pathFrom, private *treePrivate, context *[]byte)
		want   error
	}{
		{"as made", func(*pathFrom, *treePrivate, *[]byte) {}, nil},
		{"ciphertext", func(p *pathFrom, _ *treePrivate, _ *[]byte) {
			for i := range p.made.path.nodes[2].pathSecrets {
				p.made.path.nodes[2].pathSecrets[i].ciphertext[0] ^= 1
			}
		}, ErrUnauthenticated},
		{"context", func(_ *pathFrom, _ *treePrivate, context *[]byte) { *context = nil }, ErrUnauthenticated},
		{"own path", func(p *pathFrom, private *treePrivate, _ *[]byte) { p.sender = private.index }, ErrInvalid},
		{"no keys", func(_ *pathFrom, private *treePrivate, _ *[]byte) { clear(private.keys) }, ErrInvalid},
		{"ciphertexts missing", func(p *pathFrom, _ *treePrivate, _ *[]byte) { p.made.path.nodes[2].pathSecrets = nil }, ErrInvalid},
		{"nodes missing", func(p *pathFrom, _ *treePrivate, _ *[]byte) { p.made.path.nodes = p.made.path.nodes[:1] }, ErrInvalid},
		{"another secret", func(p *pathFrom, _ *treePrivate, context *[]byte) { p.reseal(t, *context, randomBytes(32)) }, ErrInvalid},
		{"short secret", func(p *pathFrom, _ *treePrivate, context *[]byte) { p.reseal(t, *context, randomBytes(31)) }, ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := makePath(t)
			if err := p.theirs.applyPath(p.sender, p.made.path, p.added, p.groupID); err != nil {
				t.Fatal(err)
			}
			context := p.context(p.theirs.rootHash())
			private := p.members[1].private.clone()
			c.change(p, private, &context)
			before := marshal(private)
			_, next, err := private.openPath(p.theirs, p.sender, p.made.path, p.added, context)
			if !errors.Is(err, c.want) || (next == nil) != (err != nil) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if !bytes.Equal(marshal(private), before) {
				t.Error("the state was changed")
			}
		})
	}
}

// reseal replaces what the path says to the left half of the tree.
func (p *pathFrom) reseal(t *testing.T, context, secret []byte) {
	for i, n := range slices.Collect(p.theirs.resolution(3, nil)) {
		kem, ct, err := suite1.EncryptWithLabel(p.theirs.node(n).encryptionKey(), labelUpdatePathNode, context, secret)
		if err != nil {
			t.Fatal(err)
		}
		p.made.path.nodes[2].pathSecrets[i] = hpkeCiphertext{kem, ct}
	}
}

func TestJoinPathRefuses(t *testing.T) {
	p := makePath(t)
	if err := p.theirs.applyPath(p.sender, p.made.path, p.added, p.groupID); err != nil {
		t.Fatal(err)
	}
	good := p.made.secretFor(7)
	joiner := newTreePrivate(7, must(suite1.GenerateHPKEKey())(t))
	if _, err := joiner.joinPath(p.theirs, 4, good); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		committer leafIndex
		secret    []byte
	}{
		"other secret":      {4, randomBytes(32)},
		"short secret":      {4, good[1:]},
		"no secret":         {4, nil},
		"other committer":   {0, good},
		"blank committer":   {8, good},
		"committer outside": {1 << 30, good},
		"itself":            {7, good},
	} {
		if _, err := joiner.joinPath(p.theirs, c.committer, c.secret); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A path must not carry anything for those that the same commit adds, and nothing for nobody else.
func TestPathLeavesAddedOut(t *testing.T) {
	p := makePath(t)
	if n := len(p.made.path.nodes); n != 3 {
		t.Fatalf("%d nodes", n)
	}
	// Leaf 4's copath: leaf 5; node 11, which leaf 7 is unmerged at; node 3 with leaf 2 unmerged.
	for i, want := range []int{1, 1, 2} {
		if got := len(p.made.path.nodes[i].pathSecrets); got != want {
			t.Errorf("node %d: %d ciphertexts, want %d", i, got, want)
		}
	}
}

func TestPathsAreFresh(t *testing.T) {
	a, b := newForest(t, 1), newForest(t, 1)
	context := func([]byte) []byte { return nil }
	pa, err := a.tree.createPath(pathArgs{sender: 0, leaf: a.tree.leaf(0), signer: a.members[0].signer, context: context})
	if err != nil {
		t.Fatal(err)
	}
	pb, err := b.tree.createPath(pathArgs{sender: 0, leaf: a.tree.leaf(0), signer: a.members[0].signer, context: context})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(pa.commitSecret, pb.commitSecret) || bytes.Equal(pa.path.leaf.encryptionKey, pb.path.leaf.encryptionKey) {
		t.Error("two paths of equal inputs are alike")
	}
}
