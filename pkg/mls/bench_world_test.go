package mls

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
)

// benchSizes are the numbers of members that groups are measured with.
var benchSizes = []int{2, 10, 100, 1000, 10000}

// benchClients are clients that all benchmarks share: a large group's KeyPackages cost more than most of what is measured with them.
var benchClients struct {
	sync.Mutex
	all []*client
}

// benchClient returns the i-th client.
func benchClient(b testing.TB, i int) *client {
	b.Helper()
	benchClients.Lock()
	defer benchClients.Unlock()
	for len(benchClients.all) <= i {
		benchClients.all = append(benchClients.all, newClient(b, fmt.Sprint("client", len(benchClients.all))))
	}
	return benchClients.all[i]
}

// benchGroup is a group of its first member.
func benchGroup(b testing.TB) *Group {
	b.Helper()
	c := benchClient(b, 0)
	return must(NewGroup(GroupConfig{GroupID: []byte("group"), KeyPackage: c.kp, Secrets: c.secrets}))(b)
}

// benchAdds returns Adds of the clients 1 to n-1, from KeyPackages as they come from a directory.
func benchAdds(b testing.TB, n int) []Proposal {
	b.Helper()
	var adds []Proposal
	for i := 1; i < n; i++ {
		kp := must(ParseKeyPackage(benchClient(b, i).kp.Marshal()))(b)
		adds = append(adds, Proposal{Type: ProposalAdd, KeyPackage: kp})
	}
	return adds
}

// benchWorld is a group with two of its members: alice has leaf 0 and bob leaf 1. No benchmark merges anything into them.
type benchWorld struct {
	alice  *Group
	bob    *Group
	joined *StagedCommit // of a bare world, the commit that added all but alice
	tree   []byte
}

// benchWorlds keeps the worlds that have been made, by kind and size.
var benchWorlds sync.Map

func benchWorldOf(b testing.TB, n int, kind string, make func(b testing.TB, n int) *benchWorld) *benchWorld {
	b.Helper()
	key := fmt.Sprint(kind, n)
	if w, ok := benchWorlds.Load(key); ok {
		return w.(*benchWorld)
	}
	w := make(b, n)
	benchWorlds.Store(key, w)
	return w
}

// bareWorld is a group as large ones begin: one commit has added all others, and every parent is blank.
func bareWorld(b testing.TB, n int) *benchWorld {
	b.Helper()
	return benchWorldOf(b, n, "bare", func(b testing.TB, n int) *benchWorld {
		w := &benchWorld{alice: benchGroup(b)}
		w.joined = must(w.alice.Commit(CommitOptions{Proposals: benchAdds(b, n)}))(b)
		w.tree = w.joined.Change.After.Tree()
		if err := w.alice.Merge(w.joined); err != nil {
			b.Fatal(err)
		}
		w.bob = w.join(b)
		return w
	})
}

// join lets bob join the bare world.
func (w *benchWorld) join(b testing.TB) *Group {
	b.Helper()
	bob := benchClient(b, 1)
	g, _, err := Join(JoinConfig{Welcome: w.joined.Welcome, Tree: w.tree, KeyPackage: bob.kp, Secrets: bob.secrets})
	if err != nil {
		b.Fatal(err)
	}
	return g
}

// warmWorld is a group as it is once everybody has sent a path: every parent with members on both sides is filled.
func warmWorld(b testing.TB, n int) *benchWorld {
	b.Helper()
	return benchWorldOf(b, n, "warm", func(b testing.TB, n int) *benchWorld {
		tree, aliceKey := warmTree(b, bareWorld(b, n).alice.Public().tree)
		if err := tree.validate(treeContext{groupID: []byte("group")}); err != nil {
			b.Fatal(err)
		}
		epoch := suite1.randomSecret()
		enter := func(i leafIndex, leafKey HPKEPrivateKey) *Group {
			secrets, encryption := newEpochSecrets(suite1, bytes.Clone(epoch))
			context := bareWorld(b, n).alice.Public().context
			public := newPublicGroup(nil, context, tree.clone(), secrets.confirmationTag(suite1, context.confirmedTranscriptHash))
			return &Group{newGroupState(public, newTreePrivate(i, leafKey), benchClient(b, int(i)).secrets.SignatureKey, secrets, encryption, 2)}
		}
		w := &benchWorld{alice: enter(0, aliceKey), bob: enter(1, benchClient(b, 1).secrets.EncryptionKey.clone())}
		// From here on by the group's own operations. After a path of each the two hold every key that members have.
		w.pass(b, w.alice, w.bob)
		w.pass(b, w.bob, w.alice)
		w.tree = w.alice.Public().Tree()
		return w
	})
}

// pass lets one commit a path and the other take it.
func (w *benchWorld) pass(b testing.TB, from, to *Group) {
	b.Helper()
	staged := must(from.Commit(CommitOptions{Path: true}))(b)
	got := must(to.Process(staged.Message, ProcessOptions{}))(b)
	if err := from.Merge(staged); err != nil {
		b.Fatal(err)
	}
	if err := to.Merge(got.Commit); err != nil {
		b.Fatal(err)
	}
}

// warmTree returns bare with the paths of its even leaves laid over it, one after the other: the public half of as many commits,
// each with fresh keys, parent hashes and a signed leaf. Nothing is sealed, which is what would take hours. It returns the
// encryption key of leaf 0 too.
func warmTree(b testing.TB, bare *ratchetTree) (*ratchetTree, HPKEPrivateKey) {
	b.Helper()
	tree := bare.clone()
	var first HPKEPrivateKey
	for i := leafIndex(0); int(i) < bare.memberCount(); i += 2 {
		steps := tree.filteredPath(i)
		publics := make([][]byte, len(steps))
		for k := range publics {
			publics[k] = must(suite1.GenerateHPKEKey())(b).Public()
		}
		key := must(suite1.GenerateHPKEKey())(b)
		if i == 0 {
			first = key
		}
		leaf := tree.leaf(i).clone()
		leaf.encryptionKey, leaf.source, leaf.lifetime = key.Public(), LeafFromCommit, Lifetime{}
		leaf.parentHash = tree.setPath(i, steps, publics)
		leaf.sign(benchClient(b, int(i)).secrets.SignatureKey, []byte("group"), i)
		tree.setLeaf(i, leaf)
	}
	return tree, first
}

// TestWarmTree holds the benchmarks' warm tree to what it is for: it is valid, every parent that can be filled is, and a group that
// stands on it works.
func TestWarmTree(t *testing.T) {
	for _, n := range []int{2, 3, 10, 33} {
		w := warmWorld(t, n)
		tree := w.alice.Public().tree
		if err := tree.validate(treeContext{groupID: []byte("group")}); err != nil {
			t.Fatalf("%d: %v", n, err)
		}
		for i := leafIndex(0); int(i) < n; i++ {
			for _, step := range tree.filteredPath(i) {
				if tree.node(step.node).parent == nil {
					t.Fatalf("%d: node %d is blank", n, step.node)
				}
				if got := tree.resolutionSize(step.copath, nil); got != 1 {
					t.Fatalf("%d: %d nodes cover one side of node %d", n, got, step.node)
				}
			}
		}
		wantBytes(t, "epoch authenticator", w.bob.EpochAuthenticator(), w.alice.EpochAuthenticator())
	}
}
