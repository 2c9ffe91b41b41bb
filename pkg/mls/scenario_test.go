package mls

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestScenarios plays histories that are written down: the table is all there is to it.
func TestScenarios(t *testing.T) {
	for name, script := range map[string]string{
		"grow and shrink": `
			alice: creates
			alice: adds bob
			bob: says hello
			bob: adds carol dave
			carol: updates
			dave: adds-with-path erin frank
			alice: says to all
			erin: removes bob frank
			alice: adds bob
			bob: says back again
			bob: removes alice carol dave erin
			bob: updates`,
		"by reference": `
			alice: creates
			alice: adds bob carol dave
			bob: proposes-update
			carol: proposes-add erin
			dave: proposes-remove carol
			alice: commits
			bob: says hello
			erin: updates
			bob: proposes-update
			bob: proposes-update
			dave: commits
			bob: updates`,
		"own update committed by others after a restart": `
			alice: creates
			alice: adds bob carol
			bob: proposes-update
			bob: restarts
			carol: commits
			bob: updates
			alice: says hello`,
		"self remove": `
			alice: creates
			alice: adds bob carol dave
			bob: leaves
			carol: commits
			dave: says without bob
			dave: leaves
			erin: joins
			erin: says hello
			alice: updates`,
		"self remove and a remove of the same leaf": `
			alice: creates
			alice: adds bob carol
			bob: leaves
			carol: proposes-remove bob
			alice: commits`,
		"own leave is not committed by oneself": `
			alice: creates
			alice: adds bob
			alice: leaves
			bob: commits
			bob: says alone`,
		"external join and resync": `
			alice: creates
			bob: joins
			carol: joins
			alice: says hello
			bob: resyncs
			bob: says again
			carol: updates
			alice: resyncs
			dave: joins
			carol: removes dave
			carol: says done`,
		"races": `
			alice: creates
			alice: adds bob carol
			alice: races bob
			bob: races carol
			carol: says hello
			bob: updates`,
		"crash": `
			alice: creates
			alice: adds bob carol
			bob: crashes-after-sending
			alice: says hello
			alice: crashes-after-sending
			bob: says hello`,
		"custom": `
			alice: creates
			alice: adds bob carol
			bob: proposes-custom some body
			carol: commits
			alice: proposes-custom
			bob: updates
			bob: says hello`,
	} {
		t.Run(name, func(t *testing.T) { newWorld(t).run(script) })
	}
}

// TestRandomScenarios runs long random histories.
func TestRandomScenarios(t *testing.T) {
	seeds := uint64(4)
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			w := newWorld(t)
			w.run("m0: creates")
			for step := range 60 {
				line := randomStep(w, r, step)
				if w.t.Failed() {
					return
				}
				w.run(line)
			}
		})
	}
}

// randomStep picks a step that is allowed where w stands.
func randomStep(w *world, r *rand.Rand, step int) string {
	members := w.members()
	perm := r.Perm(len(members))
	name := func(i int) string { return members[perm[i]].name }
	fresh := fmt.Sprintf("m%d", step+1)
	leaving, only := false, true // only self_removes are pending
	for _, p := range w.server.Pending() {
		leaving = leaving || p.Type == ProposalSelfRemove
		only = only && p.Type == ProposalSelfRemove
	}
	choices := []string{
		name(0) + ": updates",
		name(0) + ": restarts",
		name(0) + ": crashes-after-sending",
		name(0) + ": adds-with-path " + fresh + " " + fresh + "b",
		name(0) + ": proposes-custom body",
		name(0) + ": proposes-add " + fresh,
	}
	if only {
		choices = append(choices, fresh+": joins")
	}
	if len(w.server.Pending()) == 0 {
		choices = append(choices, name(0)+": says hello", name(0)+": says hello again")
	}
	if !leaving {
		choices = append(choices, name(0)+": adds "+fresh)
	}
	if !leaving && only {
		choices = append(choices, name(0)+": resyncs")
	}
	if len(members) > 2 {
		choices = append(choices, name(0)+": races "+name(1), name(0)+": proposes-update", name(0)+": proposes-remove "+name(1))
		if !leaving {
			choices = append(choices, name(0)+": leaves")
		}
	}
	if len(members) > 8 {
		return name(0) + ": removes " + name(1) + " " + name(2) + " " + name(3)
	}
	line := choices[r.IntN(len(choices))]
	who, _, _ := strings.Cut(line, ":")
	if c := w.clients[who]; c != nil && c.group != nil && leavesPending(w, c) {
		return name(0) + ": restarts"
	}
	return line
}

// leavesPending reports whether c has asked to leave: it commits no more.
func leavesPending(w *world, c *client) bool {
	for _, p := range w.server.Pending() {
		if p.Type == ProposalSelfRemove && p.Sender.Leaf == c.group.OwnIndex() {
			return true
		}
	}
	return false
}
