package interop

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"mimimi.example/pkg/mls"
)

var (
	firstSeed = flag.Uint64("seed", 1, "first seed of the random histories")
	histories = flag.Uint64("histories", 3, "how many random histories to run, with consecutive seeds")
	steps     = flag.Int("steps", 300, "steps of a random history")
)

// The bounds of a random history's group.
const (
	mostMembers  = 12
	mostPending  = 4
	keptMessages = 2 // late messages of one epoch
)

// successions are the suites of the successors that the group of every other history gets, at equal distances: those of RFC 9420 in which ts-mls is fast.
var successions = []uint16{2, 3}

// history is a group of all implementations with random steps.
type history struct {
	*room
	rnd     *rand.Rand
	impls   []*implementation
	keeper  *member // of pkg/mls, always there: somebody must be able to commit what is pending
	private bool    // handshakes are PrivateMessages where that may be
	late    []message
	made    int // members so far
	psks    int
	counts  map[string]int // of steps done
}

// TestHistories runs random histories in groups of all implementations at once, every other one of those that have ReInit, which go on in a successor twice.
// After each step all members, and the server while handshakes are public, are in the same state and export the same secret.
func TestHistories(t *testing.T) {
	for seed := *firstSeed; seed < *firstSeed+*histories; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Logf("go test ./test/interop -run TestHistories -seed %d -histories 1", seed)
			h := &history{
				rnd: rand.New(rand.NewPCG(seed, 0)), impls: everybody(t), private: seed%4 >= 2, counts: map[string]int{},
			}
			h.keeper = newMember(t, h.impls[0], 1, "keeper")
			h.room = newRoom(t, 1, h.keeper)
			span := *steps
			if seed%2 == 0 {
				h.impls = slices.DeleteFunc(h.impls, func(i *implementation) bool { return !i.can(reInit) })
				span = max(1, *steps/(len(successions)+1))
			}
			for i := range *steps {
				if n := i / span; i%span == 0 && n > 0 && n <= len(successions) {
					h.succession(successions[n-1])
				}
				h.step()
			}
			t.Logf("epoch %d, %v", h.members[0].last.Epoch, h.counts)
			for _, kind := range []string{"message", "propose", "commit", "externalJoin", "resync", "resumption"} {
				if *steps >= 300 && h.counts[kind] == 0 {
					t.Errorf("no step was a %s", kind)
				}
			}
		})
	}
}

// member makes a new client of any implementation.
func (h *history) member(t testing.TB) *member {
	h.made++
	return h.memberOf(t, h.impls[h.rnd.IntN(len(h.impls))])
}

func (h *history) memberOf(t testing.TB, impl *implementation) *member {
	suite := uint16(1)
	if h.room != nil {
		suite = h.suite
	}
	return newMember(t, impl, suite, fmt.Sprint(h.made))
}

func (h *history) any() *member { return h.members[h.rnd.IntN(len(h.members))] }

// chance is true once in n times.
func (h *history) chance(n int) bool { return h.rnd.IntN(n) == 0 }

func (h *history) step() {
	h.t.Helper()
	full := len(h.members) >= mostMembers
	switch n := h.rnd.IntN(100); {
	case n < 30 && len(h.pending) == 0: // RFC 9420 §12.4: a commit goes before application data if there are proposals
		h.say()
	case n < 55 && len(h.pending) < mostPending:
		h.proposeSomething(full)
	case n < 62 && !full:
		h.join()
	case n < 66 && len(h.members) > 1:
		h.resync()
	default:
		h.commitSomething(full)
	}
}

func (h *history) say() {
	h.counts["message"]++
	text := make([]byte, h.rnd.IntN(600))
	m := h.send(h.any(), text)
	if h.chance(3) && len(h.late) < keptMessages {
		h.late = append(h.late, m)
		return
	}
	h.read(m)
}

// deliverLate brings the messages of the epoch before the last commit.
func (h *history) deliverLate() {
	for _, m := range h.late {
		h.counts["late"]++
		h.read(m)
	}
	h.late = nil
}

// touched is whether a pending proposal is about a member: another about the same one could not be committed with it.
func (h *history) touched(m *member) bool {
	return slices.ContainsFunc(h.pending, func(p pending) bool {
		switch mls.ProposalType(p.what.Type) {
		case mls.ProposalRemove:
			return p.what.Removed == m.last.Leaf
		case mls.ProposalUpdate, mls.ProposalSelfRemove:
			return p.from == m
		}
		return false
	})
}

func (h *history) isPending(t mls.ProposalType) bool {
	return slices.ContainsFunc(h.pending, func(p pending) bool { return p.what.Type == uint16(t) })
}

// someone returns a member that no pending proposal is about, other than by and the keeper.
func (h *history) someone(by *member) *member {
	for range 2 * mostMembers {
		if m := h.any(); m != by && m != h.keeper && !h.touched(m) {
			return m
		}
	}
	return nil
}

func (h *history) newPSK() proposal {
	h.psks++
	return proposal{Type: uint16(mls.ProposalPSK), PSK: h.psk(fmt.Sprint("psk ", h.psks))}
}

// resumable is whether a member may commit a resumption PSK: all, and nobody who is to join, must have it.
func (h *history) resumable(by *member, back uint64) bool {
	return !h.isPending(mls.ProposalAdd) && (by.impl.can(mixedPSKs) || !h.isPending(mls.ProposalPSK)) &&
		!slices.ContainsFunc(h.members, func(m *member) bool { return m.since+back > m.last.Epoch })
}

func (h *history) newCustom() proposal {
	p := customProposal
	p.Body = fmt.Appendf(nil, "custom %d", h.rnd.Uint64())
	return p
}

func (h *history) newContext() proposal { return h.context(fmt.Sprint("policy ", h.rnd.Uint64())) }

func (h *history) proposeSomething(full bool) {
	h.t.Helper()
	by := h.any()
	switch h.rnd.IntN(7) {
	case 0:
		if full {
			return
		}
		if m := h.member(h.t); h.chance(3) {
			h.proposeJoin(m, by)
		} else {
			h.proposeAdd(by, m, h.private)
		}
	case 1:
		m := h.someone(by)
		if m == nil {
			return
		}
		h.propose(by, proposal{Type: uint16(mls.ProposalRemove), Removed: m.last.Leaf}, h.private)
	case 2:
		if h.touched(by) || by == h.keeper || !by.impl.can(update) || len(h.members) == 1 {
			return
		}
		h.propose(by, proposal{Type: uint16(mls.ProposalUpdate)}, h.private)
	case 3:
		h.propose(by, h.newPSK(), h.private)
	case 4:
		if h.isPending(mls.ProposalGroupContextExtensions) {
			return
		}
		h.propose(by, h.newContext(), h.private)
	case 5:
		// Nobody who cannot read a self_remove may be in the group.
		if h.touched(by) || by == h.keeper || slices.ContainsFunc(h.members, func(m *member) bool { return !m.impl.can(selfRemove) }) {
			return
		}
		h.propose(by, proposal{Type: uint16(mls.ProposalSelfRemove)}, false)
	default:
		h.propose(by, h.newCustom(), h.private)
	}
	h.counts["propose"]++
}

// committer returns a member that may commit all that is pending.
func (h *history) committer() *member {
	for range 4 * mostMembers {
		m := h.any()
		if h.touched(m) {
			continue
		}
		needsPath := h.isPending(mls.ProposalRemove) || h.isPending(mls.ProposalUpdate) || h.isPending(mls.ProposalSelfRemove) ||
			h.isPending(mls.ProposalGroupContextExtensions)
		if m.impl.can(commitPath) || !needsPath {
			return m
		}
	}
	return h.keeper
}

func (h *history) commitSomething(full bool) {
	h.t.Helper()
	by := h.committer()
	var c commit
	c.r = request{
		Private: h.private, Path: h.chance(2), WithTree: h.chance(2),
		AAD: fmt.Appendf(nil, "step %d", h.rnd.Uint64()),
	}
	if h.chance(3) && by.impl.can(commitPath) {
		if m := h.someone(by); m != nil {
			c.remove = append(c.remove, m)
		}
	}
	if h.chance(4) && (by.impl.can(mixedPSKs) || !h.isPending(mls.ProposalPSK)) {
		c.others = append(c.others, h.newPSK())
	}
	if back := h.rnd.Uint64N(2); h.chance(6) && h.resumable(by, back) {
		c.others = append(c.others, h.resumption(back))
		h.counts["resumption"]++
	} else if !full && h.chance(2) {
		for range 1 + h.rnd.IntN(3) {
			c.add = append(c.add, h.member(h.t))
		}
	}
	if h.chance(3) {
		c.others = append(c.others, h.newCustom())
	}
	if h.chance(8) && by.impl.can(commitPath) && !h.isPending(mls.ProposalGroupContextExtensions) {
		c.others = append(c.others, h.newContext())
	}
	if by.impl.can(leafChange) && h.chance(6) {
		c.r.Path, c.r.Rotate = true, true
	}
	h.race(by)
	h.commit(by, c)
	h.counts["commit"]++
	h.deliverLate()
}

// race lets another member sometimes make a commit that comes too late.
func (h *history) race(winner *member) {
	h.t.Helper()
	if loser := h.any(); loser != winner && h.chance(5) && h.mayCommit(loser) {
		h.makeCommit(loser, commit{r: request{Path: true}})
		loser.do(request{Op: "discard"})
		h.counts["race"]++
	}
}

// mayCommit is whether a member can commit what is pending.
func (h *history) mayCommit(m *member) bool {
	return !h.touched(m) && m.impl.can(commitPath)
}

func (h *history) join() {
	h.t.Helper()
	m := h.member(h.t)
	x := external{withTree: h.chance(2), aad: []byte("of an external commit")}
	if m.impl.can(externalCustomProposal) && h.chance(3) {
		x.proposals = append(x.proposals, h.newCustom())
	}
	if m.impl.can(externalPSK) && h.chance(3) {
		h.psks++
		x.psks = append(x.psks, h.psk(fmt.Sprint("psk ", h.psks), m))
	}
	x.selfRemove = m.impl.can(externalSelfRemove)
	if h.externalJoin(m, h.any(), x) {
		h.counts["externalJoin"]++
		h.deliverLate()
	}
}

// succession ends the group, in which nothing may be pending then, and goes on in its successor.
func (h *history) succession(suite uint16) {
	h.t.Helper()
	h.commit(h.keeper, commit{r: request{Path: true}})
	h.fill()
	p := proposal{
		Group: fmt.Appendf(nil, "history in suite %d", suite), Suite: suite, Extensions: h.newContext().Extensions[1:], // see successorRequirements
	}
	var proposer *member
	if h.chance(2) {
		proposer = h.any()
	}
	i := slices.Index(h.members, h.keeper)
	h.room = h.reinit(proposer, h.any(), h.founder(h.rnd.IntN(len(h.members)), suite), p, h.private)
	h.keeper, h.late = h.members[i], nil
	h.counts["succession"]++
}

// fill adds members of our own until no leaf is blank. See reInitBlankLeaf.
func (h *history) fill() {
	h.t.Helper()
	var c commit
	for leaf := range slices.MaxFunc(h.members, func(a, b *member) int { return cmp.Compare(a.last.Leaf, b.last.Leaf) }).last.Leaf {
		if !slices.ContainsFunc(h.members, func(m *member) bool { return m.last.Leaf == leaf }) {
			h.made++
			c.add = append(c.add, h.memberOf(h.t, h.impls[0]))
		}
	}
	if len(c.add) != 0 {
		h.commit(h.keeper, c)
	}
}

func (h *history) resync() {
	h.t.Helper()
	m := h.any()
	informer := m
	for informer == m {
		informer = h.any()
	}
	if h.externalJoin(m, informer, external{resync: true, withTree: h.chance(2)}) {
		h.counts["resync"]++
		h.deliverLate()
	}
}
