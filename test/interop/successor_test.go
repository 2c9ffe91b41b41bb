package interop

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// resumption is a proposal of a resumption PSK, of the epoch so many before the present one.
func (r *room) resumption(back uint64) proposal {
	epoch := r.members[0].last.Epoch - back
	return proposal{Type: uint16(mls.ProposalPSK), Group: r.id, Epoch: &epoch}
}

// TestResumptionPSKs commits resumption PSKs of the present and of past epochs, by value and by reference, alone and beside an external one.
func TestResumptionPSKs(t *testing.T) {
	eachPair(t, func(t *testing.T, first, second *implementation) {
		r, a, b := couple(t, first, second)
		for _, private := range []bool{false, true} {
			for _, by := range []*member{a, b} {
				q := request{Private: private}
				r.commit(by, commit{r: q})
				r.commit(by, commit{others: []proposal{r.resumption(1)}, r: q})
				q.Path = true
				external := proposal{Type: uint16(mls.ProposalPSK), PSK: r.psk(fmt.Sprint("beside a resumption PSK ", private, by))}
				r.commit(by, commit{others: []proposal{r.resumption(0), external, r.resumption(2)}, r: q})
				for _, proposer := range []*member{a, b} {
					if !proposer.impl.can(proposeResumption) {
						continue
					}
					r.propose(proposer, r.resumption(1), private)
					r.propose(proposer, r.resumption(0), private)
					r.commit(by, commit{r: request{Private: private}})
				}
			}
		}
	})
}

// reinit lets a member commit a ReInit, by value if there is no proposer, and another found the successor, in which all come together again.
func (r *room) reinit(proposer, committer, founder *member, p proposal, private bool) *room {
	r.t.Helper()
	p.Type = uint16(mls.ProposalReInit)
	c := commit{r: request{Private: private}}
	if proposer != nil {
		r.propose(proposer, p, private)
	} else {
		c.others = append(c.others, p)
	}
	r.commit(committer, c)
	return r.succeed(founder, p.Suite, p.Group, r.members)
}

// succeed lets a member found the successor, or a branch, of the group that everybody is in. Its members are new ones: who is in a branch is in the
// group that it is of as well.
func (r *room) succeed(founder *member, suite uint16, id []byte, members []*member) *room {
	r.t.Helper()
	q := request{Op: "found", Group: id}
	for _, m := range members {
		m.profile.Suite = suite
		if m != founder {
			q.KeyPackages = append(q.KeyPackages, m.keyPackage())
		}
	}
	next := &room{t: r.t, suite: suite, id: id}
	f := founder.heir()
	q.As, q.Profile = f.id, &f.profile
	welcome := founder.do(q).Welcome
	tree := f.do(request{Op: "tree"}).Tree
	for _, m := range members {
		if m == founder {
			next.members = append(next.members, f)
			continue
		}
		h := m.heir()
		m.do(request{Op: "joinNext", As: h.id, Welcome: welcome, Tree: tree})
		next.members = append(next.members, h)
	}
	next.serve(f)
	next.check()
	if got := f.last.Epoch; got != 1 {
		r.t.Fatalf("the group by %v begins at epoch %d", founder, got)
	}
	return next
}

// heir is the same client as a member of another group.
func (m *member) heir() *member {
	h := *m
	h.id, h.since, h.changed = m.impl.next, 1, 1
	m.impl.next++
	return &h
}

// exchange lets members send, and commit with a path.
func (r *room) exchange(by ...*member) {
	r.t.Helper()
	for _, m := range by {
		r.read(r.send(m, []byte("from "+m.String())))
		r.commit(m, commit{r: request{Path: true}})
	}
}

// quartet makes a group of two members of each.
func quartet(t *testing.T, first, second *implementation) *room {
	t.Helper()
	r, a, b := couple(t, first, second)
	r.commit(b, commit{add: []*member{newMember(t, first, 1, "c")}, r: request{WithTree: true, Path: true}})
	r.commit(a, commit{add: []*member{newMember(t, second, 1, "d")}, r: request{WithTree: true, Path: true}})
	return r
}

// hashes are the lengths of the suites' hashes.
var hashes = map[uint16]int{1: 32, 2: 32, 3: 32, 4: 64, 5: 64, 6: 64, 7: 48, xwing: 64}

// founder returns the member that is to found a successor of a suite: the one at i, or the next one that can.
func (r *room) founder(i int, suite uint16) *member {
	for !r.members[i%len(r.members)].impl.can(reInitOtherHash) && hashes[suite] != hashes[r.suite] {
		i++
	}
	return r.members[i%len(r.members)]
}

// TestReInit ends a group and founds its successor, again and again, through every suite that both sides know. Each time others propose, commit and
// found. A peer that has no ReInit must follow the commit with one at least.
func TestReInit(t *testing.T) {
	eachPair(t, func(t *testing.T, first, second *implementation) {
		r := quartet(t, first, second)
		if i := slices.IndexFunc(r.members, func(m *member) bool { return !m.impl.can(reInit) }); i >= 0 {
			p := proposal{Type: uint16(mls.ProposalReInit), Group: []byte("successor"), Suite: 1, Extensions: r.context("a policy").Extensions}
			ours := r.members[(i+1)%4]
			r.propose(ours, p, i == 0)
			r.commit(ours, commit{r: request{Private: i == 0}})
			return
		}
		if first.can(reInitBlankLeaf) && second.can(reInitBlankLeaf) {
			i := slices.IndexFunc(r.members, func(m *member) bool { return m.impl.can(commitPath) })
			r.commit(r.members[i], commit{add: []*member{newMember(t, first, 1, "e"), newMember(t, second, 1, "f")}})
			r.commit(r.members[i], commit{remove: []*member{r.members[4]}})
		}
		turn := 0
		for _, suite := range append(suites[1:], suites[0], suites[0]) {
			if !slices.Contains(first.suites, suite) || !slices.Contains(second.suites, suite) {
				continue
			}
			p := proposal{Group: fmt.Appendf(nil, "successor %d", turn), Suite: suite, Extensions: r.context(fmt.Sprint("policy ", turn)).Extensions}
			if turn%3 == 0 {
				p.Group = r.id
			}
			if !first.can(successorRequirements) || !second.can(successorRequirements) {
				p.Extensions = p.Extensions[1:]
			}
			var proposer *member
			if turn%2 == 1 {
				proposer = r.members[(turn/2)%4]
			}
			r = r.reinit(proposer, r.members[turn%4], r.founder(turn/2+turn%2, suite), p, turn%4 > 1)
			if e := extensionOf(t, r.members[3], mimimi.ExtensionGroup); !bytes.Equal(e, fmt.Appendf(nil, "policy %d", turn)) {
				t.Fatalf("the successor has the policy %q", e)
			}
			r.exchange(r.members[turn%4], r.members[(turn+1)%4])
			turn++
		}
	})
}

// extensionOf returns the data of a GroupContext extension as a member sees it.
func extensionOf(t *testing.T, m *member, kind mls.ExtensionType) []byte {
	t.Helper()
	for _, e := range m.do(request{Op: "status"}).Extensions {
		if e.Type == uint16(kind) {
			return e.Data
		}
	}
	t.Fatalf("%v sees no extension of type %#x", m, kind)
	return nil
}

// TestBranch makes branches of all members and of some, by either side, and a branch of a branch. The group that they are of goes on.
func TestBranch(t *testing.T) {
	eachPair(t, func(t *testing.T, first, second *implementation) {
		needs(t, first, branch)
		needs(t, second, branch)
		r := quartet(t, first, second)
		for i, founder := range r.members {
			all := r.succeed(founder, 1, fmt.Appendf(nil, "branch %d of all", i), r.members)
			all.exchange(all.members...)
			some := r.succeed(founder, 1, fmt.Appendf(nil, "branch %d of some", i), []*member{founder, r.members[(i+1)%4]})
			some.exchange(some.members...)
			more := some.succeed(some.members[1], 1, fmt.Appendf(nil, "branch %d of a branch", i), some.members)
			more.exchange(more.members...)
			r.exchange(founder)
		}
	})
}
