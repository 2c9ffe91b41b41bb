package mls

import (
	"errors"
	"fmt"
	"testing"
)

// eachSize runs f for groups of all sizes.
func eachSize(b *testing.B, f func(b *testing.B, n int)) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) { f(b, n) })
	}
}

// loop runs f b.N times. Besides what the testing package reports it reports the processor time of an operation, garbage collection
// included: on a machine that does other work too, that is what can be compared.
func loop(b *testing.B, f func() error) {
	b.Helper()
	b.ReportAllocs()
	before := processorTime()
	for b.Loop() {
		if err := f(); err != nil {
			b.Fatal(err)
		}
	}
	if spent := processorTime() - before; spent > 0 {
		b.ReportMetric(float64(spent)/float64(b.N), "cpu-ns/op")
	}
}

func BenchmarkEncrypt(b *testing.B) {
	alice, text := must(ParseGroup(bareWorld(b, 10).alice.Marshal(), nil))(b), make([]byte, 200)
	loop(b, func() error {
		_, err := alice.Encrypt(text, nil, nil)
		return err
	})
}

// BenchmarkDecrypt reads one.
func BenchmarkDecrypt(b *testing.B) {
	w, text := bareWorld(b, 10), make([]byte, 200)
	bob, alice := w.join(b), must(ParseGroup(w.alice.Marshal(), nil))(b)
	var msgs [][]byte
	loop(b, func() error {
		if len(msgs) == 0 { // made many at a time: starting and stopping the timer costs as much as a message
			b.StopTimer()
			for range maxForwardRatchet {
				msgs = append(msgs, must(alice.Encrypt(text, nil, nil))(b))
			}
			b.StartTimer()
		}
		_, err := bob.Process(msgs[0], ProcessOptions{})
		msgs = msgs[1:]
		return err
	})
}

// BenchmarkCreate makes a group of one, from a KeyPackage that is there.
func BenchmarkCreate(b *testing.B) {
	c := benchClient(b, 0)
	loop(b, func() error {
		_, err := NewGroup(GroupConfig{GroupID: []byte("group"), KeyPackage: c.kp, Secrets: c.secrets})
		return err
	})
}

// BenchmarkAdd reads the KeyPackages of all others and adds them to a group of one in one commit, with the Welcome.
func BenchmarkAdd(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) {
		g := benchGroup(b)
		packages := make([][]byte, n-1)
		for i := range packages {
			packages[i] = benchClient(b, i+1).kp.Marshal()
		}
		loop(b, func() error {
			opts := CommitOptions{Proposals: make([]Proposal, len(packages))}
			for i, p := range packages {
				kp, err := ParseKeyPackage(p)
				if err != nil {
					return err
				}
				opts.Proposals[i] = Proposal{Type: ProposalAdd, KeyPackage: kp}
			}
			_, err := g.Commit(opts)
			return err
		})
	})
}

// BenchmarkJoin joins by the Welcome for all. Every leaf's signature is verified.
func BenchmarkJoin(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) {
		w := bareWorld(b, n)
		loop(b, func() error {
			w.join(b)
			return nil
		})
	})
}

// BenchmarkCommit makes an empty commit with a path in a tree whose parents are all blank: the most expensive one.
func BenchmarkCommit(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) { benchmarkCommit(b, bareWorld(b, n)) })
}

// BenchmarkCommitWarm makes the same commit in a tree whose parents are all filled.
func BenchmarkCommitWarm(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) { benchmarkCommit(b, warmWorld(b, n)) })
}

func benchmarkCommit(b *testing.B, w *benchWorld) {
	loop(b, func() error {
		_, err := w.alice.Commit(CommitOptions{Path: true})
		return err
	})
}

// BenchmarkProcess reads, checks and stages the commit of BenchmarkCommit as the member next to its sender, who derives the whole
// path.
func BenchmarkProcess(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) { benchmarkProcess(b, bareWorld(b, n)) })
}

// BenchmarkProcessWarm does the same with the commit of BenchmarkCommitWarm.
func BenchmarkProcessWarm(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) { benchmarkProcess(b, warmWorld(b, n)) })
}

func benchmarkProcess(b *testing.B, w *benchWorld) {
	msg := must(w.alice.Commit(CommitOptions{Path: true}))(b).Message
	loop(b, func() error {
		_, err := w.bob.Process(msg, ProcessOptions{})
		return err
	})
}

// BenchmarkPublicProcess reads, checks and stages the commit of BenchmarkCommit as a server.
func BenchmarkPublicProcess(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) { benchmarkPublicProcess(b, bareWorld(b, n)) })
}

// BenchmarkPublicProcessWarm does the same with the commit of BenchmarkCommitWarm.
func BenchmarkPublicProcessWarm(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) { benchmarkPublicProcess(b, warmWorld(b, n)) })
}

func benchmarkPublicProcess(b *testing.B, w *benchWorld) {
	msg := must(w.alice.Commit(CommitOptions{Path: true}))(b).Message
	server := w.alice.Public()
	loop(b, func() error {
		_, err := server.StageCommit(msg, noTime)
		return err
	})
}

// BenchmarkExternalJoin makes an external commit to the group of BenchmarkCommit. Every leaf's signature is verified.
func BenchmarkExternalJoin(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) {
		w := bareWorld(b, n)
		join := externalJoiner(b, w)
		loop(b, func() error {
			_, err := join()
			return err
		})
	})
}

// BenchmarkProcessExternal reads, checks and stages the commit of BenchmarkExternalJoin as a member.
func BenchmarkProcessExternal(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) {
		w := bareWorld(b, n)
		msg := must(externalJoiner(b, w)())(b).Message
		loop(b, func() error {
			_, err := w.bob.Process(msg, ProcessOptions{})
			return err
		})
	})
}

// externalJoiner returns what makes an external commit of a new client.
func externalJoiner(b *testing.B, w *benchWorld) func() (*StagedCommit, error) {
	info, c := must(w.alice.GroupInfo(nil, false))(b), newClient(b, "external")
	cfg := ExternalJoinConfig{GroupInfo: info, Tree: w.tree, KeyPackage: c.kp, Secrets: c.secrets}
	return func() (*StagedCommit, error) { return JoinExternal(cfg) }
}

// BenchmarkRound is a whole epoch of a group of BenchmarkCommitWarm: one makes a commit with a path, another reads and checks it, both put it in force and keep the old epoch.
func BenchmarkRound(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) {
		w := warmWorld(b, n)
		alice, bob := must(ParseGroup(w.alice.Marshal(), nil))(b), must(ParseGroup(w.bob.Marshal(), nil))(b)
		loop(b, func() error {
			made, err := alice.Commit(CommitOptions{Path: true})
			if err != nil {
				return err
			}
			got, err := bob.Process(made.Message, ProcessOptions{})
			if err != nil {
				return err
			}
			return errors.Join(alice.Merge(made), bob.Merge(got.Commit))
		})
	})
}

// BenchmarkState stores and loads a member's whole state.
func BenchmarkState(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) {
		w := warmWorld(b, n)
		loop(b, func() error {
			_, err := ParseGroup(w.alice.Marshal(), nil)
			return err
		})
	})
}

// BenchmarkStatePrivate makes what is to be stored after each message, in a group that keeps two past epochs.
func BenchmarkStatePrivate(b *testing.B) {
	eachSize(b, func(b *testing.B, n int) {
		w := warmWorld(b, n)
		loop(b, func() error {
			w.alice.MarshalPrivate()
			return nil
		})
	})
}
