package mls

import (
	"fmt"
	"testing"
)

var benchSizes = []int{2, 10, 100, 1000}

// benchWorld is a group of n as large groups begin: one commit has added all others, and no path has been sent since.
type benchWorld struct {
	alice  *Group
	bob    *Group // joined by Welcome
	bobKP  *client
	joined *StagedCommit
	tree   []byte
}

// adds returns n Adds of fresh clients.
func benchAdds(b *testing.B, n int) (first *client, adds []Proposal) {
	b.Helper()
	for i := range n {
		c := newClient(b, fmt.Sprint("client", i))
		if first == nil {
			first = c
		}
		adds = append(adds, Proposal{Type: ProposalAdd, KeyPackage: c.kp})
	}
	return first, adds
}

func newBenchWorld(b *testing.B, n int) *benchWorld {
	b.Helper()
	alice := newClient(b, "alice")
	g := must(NewGroup(GroupConfig{GroupID: []byte("group"), KeyPackage: alice.kp, Secrets: alice.secrets}))(b)
	w := &benchWorld{alice: g}
	var adds []Proposal
	w.bobKP, adds = benchAdds(b, n-1)
	w.joined = must(g.Commit(CommitOptions{Proposals: adds}))(b)
	w.tree = w.joined.Change.After.Tree()
	if err := g.Merge(w.joined); err != nil {
		b.Fatal(err)
	}
	w.bob = w.join(b)
	return w
}

func (w *benchWorld) join(b *testing.B) *Group {
	g, _, err := Join(JoinConfig{Welcome: w.joined.Welcome, Tree: w.tree, KeyPackage: w.bobKP.kp, Secrets: w.bobKP.secrets})
	if err != nil {
		b.Fatal(err)
	}
	return g
}

// each runs f for groups of all sizes.
func each(b *testing.B, f func(b *testing.B, w *benchWorld)) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) { f(b, newBenchWorld(b, n)) })
	}
}

// loop runs f b.N times.
func loop(b *testing.B, f func() error) {
	b.Helper()
	b.ReportAllocs()
	for b.Loop() {
		if err := f(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncrypt(b *testing.B) {
	w, text := newBenchWorld(b, 10), make([]byte, 200)
	loop(b, func() error {
		_, err := w.alice.Encrypt(text, nil, nil)
		return err
	})
}

func BenchmarkDecrypt(b *testing.B) {
	w, text := newBenchWorld(b, 10), make([]byte, 200)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		msg := must(w.alice.Encrypt(text, nil, nil))(b)
		b.StartTimer()
		if _, err := w.bob.Process(msg, ProcessOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAdd makes the one commit that adds all others to a group of one, with the Welcome.
func BenchmarkAdd(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			alice := newClient(b, "alice")
			g := must(NewGroup(GroupConfig{GroupID: []byte("group"), KeyPackage: alice.kp, Secrets: alice.secrets}))(b)
			_, adds := benchAdds(b, n-1)
			loop(b, func() error {
				_, err := g.Commit(CommitOptions{Proposals: adds})
				return err
			})
		})
	}
}

// BenchmarkCommit makes an empty commit with a path in a tree whose parents are all blank: the most expensive one.
func BenchmarkCommit(b *testing.B) {
	each(b, func(b *testing.B, w *benchWorld) {
		loop(b, func() error {
			_, err := w.alice.Commit(CommitOptions{Path: true})
			return err
		})
	})
}

func BenchmarkProcess(b *testing.B) {
	each(b, func(b *testing.B, w *benchWorld) {
		msg := must(w.alice.Commit(CommitOptions{Path: true}))(b).Message
		loop(b, func() error {
			_, err := w.bob.Process(msg, ProcessOptions{})
			return err
		})
	})
}

func BenchmarkPublicProcess(b *testing.B) {
	each(b, func(b *testing.B, w *benchWorld) {
		msg := must(w.alice.Commit(CommitOptions{Path: true}))(b).Message
		server := w.alice.Public()
		loop(b, func() error {
			_, err := server.StageCommit(msg, noTime)
			return err
		})
	})
}

func BenchmarkJoin(b *testing.B) {
	each(b, func(b *testing.B, w *benchWorld) {
		loop(b, func() error {
			w.join(b)
			return nil
		})
	})
}

func BenchmarkExternalJoin(b *testing.B) {
	each(b, func(b *testing.B, w *benchWorld) {
		info, c := must(w.alice.GroupInfo(nil, false))(b), newClient(b, "external")
		loop(b, func() error {
			_, err := JoinExternal(ExternalJoinConfig{GroupInfo: info, Tree: w.tree, KeyPackage: c.kp, Secrets: c.secrets})
			return err
		})
	})
}

// BenchmarkState stores and loads a member's state.
func BenchmarkState(b *testing.B) {
	each(b, func(b *testing.B, w *benchWorld) {
		loop(b, func() error {
			_, err := ParseGroup(w.alice.Marshal(), nil)
			return err
		})
	})
}
