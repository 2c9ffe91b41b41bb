// Package interop checks pkg/mls and the tokens of pkg/mimimi against independent implementations.
package interop

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// pair is us and one peer. Every scenario runs twice: with our member first and with the peer's.
type pair struct {
	ours, peer *implementation
}

// eachPair runs a scenario with every peer, in suite 1, in both directions: first is who creates the group.
func eachPair(t *testing.T, f func(t *testing.T, first, second *implementation)) {
	for _, name := range slices.Sorted(maps.Keys(peers)) {
		t.Run(name, func(t *testing.T) {
			p := pair{introduce(t, newOurs(t)), peers[name](t)}
			t.Run("we create", func(t *testing.T) { f(t, p.ours, p.peer) })
			t.Run("they create", func(t *testing.T) { f(t, p.peer, p.ours) })
		})
	}
}

// needs ends a scenario in which an implementation would have to do what it cannot. README.md has the table.
func needs(t *testing.T, impl *implementation, feature string) {
	t.Helper()
	if !impl.can(feature) {
		t.Skipf("%s cannot do this: %s", impl.name, feature)
	}
}

// couple makes a group of one member of each.
func couple(t *testing.T, first, second *implementation) (*room, *member, *member) {
	t.Helper()
	a, b := newMember(t, first, 1, "a"), newMember(t, second, 1, "b")
	r := newRoom(t, 1, a)
	r.commit(a, commit{add: []*member{b}, r: request{WithTree: true}})
	return r, a, b
}

var customProposal = proposal{Type: uint16(mimimi.ProposalIdentityLinkUpdate), Body: []byte("sealed link keys")}

// TestPeers starts every peer, and builds what is not built yet.
func TestPeers(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(peers)) {
		t.Run(name, func(t *testing.T) {
			p := peers[name](t)
			t.Logf("%s: suites %v, lacks %v", p.name, p.suites, p.lacks)
		})
	}
}

// TestWelcome adds by Welcome, with the tree in it and beside it, with a custom extension in its GroupInfo and a KeyPackage of last resort.
func TestWelcome(t *testing.T) {
	eachPair(t, func(t *testing.T, first, second *implementation) {
		r, a, b := couple(t, first, second)
		c, d := newMember(t, first, 1, "c"), newMember(t, second, 1, "d")
		d.profile.LastResort = true
		greeting := []extension{{uint16(mimimi.ExtensionIdentityLinks), []byte("all link keys")}}
		r.commit(b, commit{add: []*member{c, d}, others: []proposal{customProposal}, r: request{WelcomeExtensions: greeting}})
		r.commit(a, commit{add: []*member{newMember(t, second, 1, "e")}, r: request{WithTree: true, Path: true, WelcomeExtensions: greeting, AAD: []byte("of a commit")}})
		for _, m := range r.members {
			r.read(r.send(m, []byte("from "+m.String())))
		}
	})
}

// TestBasicCredential has members with basic credentials beside those with the custom one.
func TestBasicCredential(t *testing.T) {
	eachPair(t, func(t *testing.T, first, second *implementation) {
		client := func(impl *implementation, name string, basic bool) *member {
			m := newMember(t, impl, 1, name)
			m.profile.Credentials = append(m.profile.Credentials, uint16(mls.CredentialBasic))
			if basic {
				m.profile.Credential.Type = uint16(mls.CredentialBasic)
			}
			return m
		}
		a, b := client(first, "a", true), client(second, "b", false)
		r := newRoom(t, 1, a)
		r.commit(a, commit{add: []*member{b}, r: request{WithTree: true}})
		r.commit(b, commit{add: []*member{client(first, "c", false), client(second, "d", true)}})
		r.externalJoin(client(second, "e", true), b, external{})
		r.exchange(r.members...)
	})
}

// TestCommits makes commits of every kind by value, as PublicMessage and as PrivateMessage.
func TestCommits(t *testing.T) {
	eachPair(t, func(t *testing.T, first, second *implementation) {
		r, a, b := couple(t, first, second)
		for _, private := range []bool{false, true} {
			for _, by := range []*member{a, b, a} {
				q := request{Private: private, AAD: []byte("of a commit")}
				c := newMember(t, by.impl, 1, "c")
				r.commit(by, commit{r: q}) // with no proposals: needs a path
				r.commit(by, commit{others: []proposal{customProposal}, r: q})
				q.Path = true
				r.commit(by, commit{add: []*member{c}, others: []proposal{customProposal}, r: q})
				if by.impl.can(commitPath) {
					r.commit(by, commit{remove: []*member{c}, r: q})
				}
				psk := proposal{Type: uint16(mls.ProposalPSK), PSK: r.psk(fmt.Sprintf("%v %v %d", private, by, by.last.Epoch))}
				r.commit(by, commit{others: []proposal{psk}, r: q})
				if by.impl.can(commitPath) {
					r.commit(by, commit{others: []proposal{r.context(fmt.Sprint("policy by ", by, private))}, r: q})
				}
			}
		}
	})
}

// context is a proposal of new GroupContext extensions.
func (r *room) context(policy string) proposal {
	required := mimimi.RequiredCapabilities()
	return proposal{Type: uint16(mls.ProposalGroupContextExtensions), Extensions: []extension{
		{uint16(required.Type), required.Data}, {uint16(mimimi.ExtensionGroup), []byte(policy)},
	}}
}

// TestProposals commits proposals by reference: each side commits what each side proposed.
func TestProposals(t *testing.T) {
	eachPair(t, func(t *testing.T, first, second *implementation) {
		r, a, b := couple(t, first, second)
		for _, private := range []bool{false, true} {
			for _, by := range []*member{a, b} {
				for _, committer := range []*member{a, b} {
					c := newMember(t, by.impl, 1, "c")
					r.proposeAdd(by, c, private)
					r.propose(by, customProposal, private)
					r.commit(committer, commit{r: request{WithTree: true}})
					if !committer.impl.can(commitPath) {
						continue
					}
					r.propose(by, proposal{Type: uint16(mls.ProposalRemove), Removed: c.last.Leaf}, private)
					r.propose(by, proposal{Type: uint16(mls.ProposalPSK), PSK: r.psk(fmt.Sprint(private, by, committer))}, private)
					r.commit(committer, commit{r: request{Path: true}})
					r.propose(by, r.context(fmt.Sprint("policy proposed by ", by, committer, private)), private)
					r.commit(committer, commit{})
					if by != committer && by.impl.can(update) {
						r.propose(by, proposal{Type: uint16(mls.ProposalUpdate)}, private)
						r.commit(committer, commit{})
					}
				}
			}
		}
	})
}

// TestPSKs commits several external PSKs at once, by value, by reference and both, and lets somebody join by them.
func TestPSKs(t *testing.T) {
	eachPair(t, func(t *testing.T, first, second *implementation) {
		r, a, b := couple(t, first, second)
		psk := func(name string) proposal {
			return proposal{Type: uint16(mls.ProposalPSK), PSK: r.psk(fmt.Sprint(name, r.members[0].last.Epoch))}
		}
		for _, by := range []*member{a, b} {
			r.commit(by, commit{others: []proposal{psk("one"), psk("two")}})
			r.propose(a, psk("one"), false)
			r.propose(b, psk("two"), false)
			r.propose(b, psk("three"), false)
			r.commit(by, commit{})
			c := newMember(t, first, 1, fmt.Sprint("c of ", by))
			d := newMember(t, second, 1, fmt.Sprint("d of ", by))
			r.commit(by, commit{add: []*member{c, d}, others: []proposal{psk("one"), psk("two")}, r: request{WithTree: true}})
			if by.impl.can(mixedPSKs) {
				r.propose(b, psk("one"), false)
				r.propose(a, psk("two"), false)
				r.commit(by, commit{others: []proposal{psk("three")}})
			}
		}
	})
}

// TestSelfRemove lets a member leave, by a commit of the other side and in an external commit.
func TestSelfRemove(t *testing.T) {
	eachPair(t, func(t *testing.T, first, second *implementation) {
		needs(t, first, selfRemove)
		needs(t, second, selfRemove)
		leave := proposal{Type: uint16(mls.ProposalSelfRemove)}
		r, a, b := couple(t, first, second)
		c, d := newMember(t, first, 1, "c"), newMember(t, second, 1, "d")
		r.commit(b, commit{add: []*member{c, d}})
		r.propose(c, leave, false)
		r.commit(b, commit{})
		r.propose(d, leave, false)
		r.commit(a, commit{})
		e := newMember(t, second, 1, "e")
		r.commit(a, commit{add: []*member{e}})
		if x := newMember(t, first, 1, "x"); first.can(externalSelfRemove) {
			r.propose(e, leave, false)
			r.externalJoin(x, b, external{selfRemove: true})
		}
	})
}

// TestLeafChange replaces a leaf's extensions and its signature key in a commit.
func TestLeafChange(t *testing.T) {
	eachPair(t, func(t *testing.T, first, second *implementation) {
		r, a, b := couple(t, first, second)
		for _, m := range []*member{a, b} {
			if !m.impl.can(leafChange) {
				continue
			}
			r.commit(m, commit{r: request{Path: true, Leaf: []extension{{uint16(mimimi.ExtensionEncryptedQueueID), []byte("another queue")}}}})
			r.commit(m, commit{r: request{Path: true, Rotate: true}})
			r.read(r.send(m, []byte("signed with the new key")))
			r.commit(m, commit{r: request{Path: true}})
		}
		r.commit(b, commit{add: []*member{newMember(t, first, 1, "c")}})
	})
}

// TestExternalJoin joins and joins again by external commits, with the tree in the GroupInfo and beside it.
func TestExternalJoin(t *testing.T) {
	eachPair(t, func(t *testing.T, first, second *implementation) {
		a := newMember(t, first, 1, "a")
		r := newRoom(t, 1, a)
		b := newMember(t, second, 1, "b")
		r.externalJoin(b, a, external{aad: []byte("of an external commit")})
		c := newMember(t, first, 1, "c")
		r.externalJoin(c, b, external{withTree: true})
		r.commit(b, commit{r: request{Path: true}})
		r.externalJoin(newMember(t, second, 1, "d"), c, external{withTree: true})
		r.externalJoin(a, b, external{resync: true})
		r.externalJoin(b, a, external{resync: true, withTree: true})
		r.exchange(r.members...)
	})
}

// TestExternalJoinProposals puts proposals by value into external commits.
func TestExternalJoinProposals(t *testing.T) {
	eachPair(t, func(t *testing.T, first, second *implementation) {
		a, b := newMember(t, first, 1, "a"), newMember(t, second, 1, "b")
		r := newRoom(t, 1, a)
		r.psk("of an external commit", b)
		if second.can(externalPSK) && first.can(receivesExternalPSK) {
			r.externalJoin(b, a, external{psks: [][]byte{[]byte("of an external commit")}})
		}
		if c := newMember(t, second, 1, "c"); second.can(externalCustomProposal) && first.can(receivesExternalCustoms) {
			r.externalJoin(c, a, external{proposals: []proposal{customProposal}})
		}
	})
}

// TestMessages sends application messages of several lengths, out of order, and late ones of past epochs. The peers pad by rules of their own.
func TestMessages(t *testing.T) {
	eachPair(t, func(t *testing.T, first, second *implementation) {
		r, a, b := couple(t, first, second)
		var late []message
		for epoch := range 2 {
			for _, m := range []*member{a, b} {
				var out []message
				for _, text := range [][]byte{nil, []byte("short"), bytes.Repeat([]byte("long "), 400)} {
					out = append(out, r.send(m, text))
				}
				late = append(late, r.send(m, fmt.Appendf(nil, "late, of epoch %d", epoch)))
				slices.Reverse(out)
				for _, msg := range out {
					r.read(msg)
				}
			}
			r.commit(b, commit{r: request{Path: true}})
		}
		for _, msg := range late {
			r.read(msg)
		}
	})
}

// TestRace has two members commit at once: one of the commits is dropped.
func TestRace(t *testing.T) {
	eachPair(t, func(t *testing.T, first, second *implementation) {
		r, a, b := couple(t, first, second)
		for _, winner := range []*member{a, b} {
			loser := a
			if winner == a {
				loser = b
			}
			r.propose(loser, customProposal, false)
			r.makeCommit(loser, commit{r: request{Path: true}})
			made := r.makeCommit(winner, commit{r: request{Path: true}})
			loser.do(request{Op: "discard"})
			r.deliver(winner, commit{}, made)
		}
	})
}

// TestSuites runs the essential operations in every suite that both sides know.
func TestSuites(t *testing.T) {
	eachPair(t, func(t *testing.T, first, second *implementation) {
		for _, id := range suites {
			if !slices.Contains(first.suites, id) || !slices.Contains(second.suites, id) {
				continue
			}
			t.Run(fmt.Sprintf("%#04x", id), func(t *testing.T) {
				a, b := newMember(t, first, id, "a"), newMember(t, second, id, "b")
				r := newRoom(t, id, a)
				r.commit(a, commit{add: []*member{b}, r: request{WithTree: true}})
				c, d := newMember(t, first, id, "c"), newMember(t, second, id, "d")
				r.commit(b, commit{add: []*member{c}, r: request{Path: true}})
				r.externalJoin(d, c, external{})
				r.commit(c, commit{others: []proposal{{Type: uint16(mls.ProposalPSK), PSK: r.psk("of a suite")}}, r: request{Path: true, Private: true}})
				r.exchange(r.members...)
				if d.impl.can(commitPath) {
					r.commit(d, commit{remove: []*member{b}, r: request{Path: true}})
				}
			})
		}
	})
}

// TestLargeGroup grows a group of all implementations to 40, with adds in one commit and one by one, and shrinks it.
func TestLargeGroup(t *testing.T) {
	impls := everybody(t)
	turn := 0
	next := func() *member {
		m := newMember(t, impls[turn%len(impls)], 1, fmt.Sprint(turn))
		turn++
		return m
	}
	r := newRoom(t, 1, next())
	for _, n := range []int{1, 3, 1, 11, 1, 7, 15} {
		by := r.members[(turn*7)%len(r.members)]
		var add []*member
		for range n {
			add = append(add, next())
		}
		r.commit(by, commit{add: add, r: request{Path: n%2 == 1, WithTree: n > 3}})
		r.commit(r.members[len(r.members)/2], commit{r: request{Path: true}})
	}
	if len(r.members) != 40 {
		t.Fatalf("%d members", len(r.members))
	}
	for range 4 {
		r.commit(r.members[0], commit{r: request{Path: true}})
		r.commit(r.members[1], commit{remove: slices.Clone(r.members[len(r.members)-9:]), r: request{Path: true}})
	}
}

// everybody introduces all implementations, ours first.
func everybody(t testing.TB) []*implementation {
	impls := []*implementation{introduce(t, newOurs(t))}
	for _, name := range slices.Sorted(maps.Keys(peers)) {
		impls = append(impls, peers[name](t))
	}
	return impls
}
