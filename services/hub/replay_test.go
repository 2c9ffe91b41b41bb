package hub

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// replayed replays a world's group with the bus's read-only user.
func (w *world) replayed(r *Replayer, from, to uint64) []Replayed {
	w.t.Helper()
	var all []Replayed
	ok(w.t, r.Group(w.t.Context(), w.id, from, to, func(x Replayed) error {
		all = append(all, x)
		return nil
	}))
	return all
}

// firstBad is the first entry of which a replay says something.
func firstBad(all []Replayed) Replayed {
	i := slices.IndexFunc(all, func(x Replayed) bool { return x.Divergence != "" })
	if i < 0 {
		return Replayed{}
	}
	return all[i]
}

// life is a group that lives: what the hub answered to GetGroup, by the .c entry after which it was asked.
type life struct {
	*world
	answers map[uint64]*pb.GetGroupResponse
	count   int // messages
	guests  int
}

func (l *life) note() {
	l.t.Helper()
	got, err := l.hub.GetGroup(l.t.Context(), &pb.GetGroupRequest{GroupId: []byte(l.id.Wire()), Proof: l.leafProof("alice", mimimi.OpReadGroupInfo, nil)})
	ok(l.t, err)
	l.answers[l.warm().last] = got
}

// live sends n messages, with a handshake, an invitation or a checkpoint after every tenth or so.
func (l *life) live(n int) {
	l.t.Helper()
	for i := range n {
		l.clock.advance(100 * time.Millisecond)
		l.send([]string{"alice", "bob", "carol"}[i%3], "text")
		l.count++
		if i%11 != 10 {
			continue
		}
		switch i / 11 % 9 {
		case 0, 5:
			l.update("bob")
		case 1:
			l.guests++
			l.add("alice", fmt.Sprint("d", l.guests))
		case 2:
			l.propose("carol", updateProposal)
		case 3:
			l.offer(l.bundle("alice", mls.CommitOptions{}))
		case 4:
			l.invite("alice", 3, time.Hour)
		case 6:
			l.propose(fmt.Sprint("d", l.guests), selfRemove)
			delete(l.members, fmt.Sprint("d", l.guests))
			l.offer(l.bundle("bob", mls.CommitOptions{}))
		case 7:
			ok(l.t, l.hub.checkpoint(l.t.Context(), l.warm()))
		case 8:
			l.offerJoin(l.resyncBundle("carol"))
		}
		l.note()
	}
}

// TestReplayTenThousand: of a run of 10,000 messages every group is rebuilt, from its creation and from any later entry, to the state that the hub has; every state on the way is what the
// hub answered then; and nothing diverges.
func TestReplayTenThousand(t *testing.T) {
	t.Parallel()
	const groups, messages = 5, 10_000
	d := bustest.Start(t)
	b := d.Bus("hub")
	lives := make([]*life, groups)
	var running sync.WaitGroup
	for i := range lives {
		lives[i] = &life{world: newWorld(t, b, "bob", "carol"), answers: map[uint64]*pb.GetGroupResponse{}}
		running.Go(func() { lives[i].live(messages / groups) })
	}
	running.Wait()
	if t.Failed() {
		return
	}
	r := NewReplayer(d.Bus("replay"))
	found := map[mimimi.GroupID]bool{}
	for p := range b.GroupPartitions() {
		ok(t, r.Groups(t.Context(), p, 0, func(id mimimi.GroupID, sequence uint64) error {
			found[id] = true
			if got, err := r.GroupOf(t.Context(), p, sequence); err != nil || got != id {
				t.Errorf("the group of entry %d: %v", sequence, err)
			}
			return nil
		}))
	}
	if len(found) != groups {
		t.Errorf("%d groups, want %d", len(found), groups)
	}
	for _, l := range lives {
		var last *group
		asked := 0
		r.observe = func(g *group) {
			last = g
			if want := l.answers[g.last]; want != nil {
				delete(l.answers, g.last)
				asked++
				if !bytes.Equal(want.GroupInfo, g.groupInfo) || !bytes.Equal(want.RatchetTree, g.public.Tree()) || want.Epoch != g.epoch() || len(want.PendingProposals) != len(g.leaving()) {
					t.Errorf("the hub answered something else after entry %d", g.last)
				}
			}
		}
		all := l.replayed(r, 0, 0)
		kinds := map[string]int{}
		for _, x := range all {
			kinds[x.Kind]++
		}
		if bad := firstBad(all); bad.Sequence != 0 {
			t.Errorf("diverges: %+v", bad)
		}
		if kinds["message"] != l.count || kinds["creation"] != 1 || kinds["checkpoint"] < 20 || kinds["commit"] < 100 || kinds["proposal"] < 20 || kinds["invitation"] < 10 {
			t.Errorf("unexpected entries: %v", kinds)
		}
		if len(l.answers) > 0 || asked < 150 {
			t.Errorf("%d answers of the hub were compared, %d were not", asked, len(l.answers))
		}
		sameState(t, last, l.warm())
		for i := 7; i < len(all); i += 1300 { // from anywhere
			last = nil
			part := l.replayed(r, all[i].Sequence, 0)
			if len(part) != len(all)-i {
				t.Fatalf("from entry %d: %d entries, want %d", i, len(part), len(all)-i)
			}
			for j, x := range part {
				want := all[i+j]
				if x.Outcome == outcomeStart && want.Outcome == outcomeEqual {
					want.Outcome = outcomeStart
				}
				if x != want {
					t.Fatalf("from entry %d: %+v, want %+v", i, x, want)
				}
			}
			sameState(t, last, l.warm())
		}
	}
}

// TestReplayTo: a replay that ends somewhere goes on to the next checkpoint, and says nothing of what is between.
func TestReplayTo(t *testing.T) {
	t.Parallel()
	d := bustest.Start(t)
	w := newWorld(t, d.Bus("hub"), "bob")
	r := NewReplayer(d.Bus("replay"))
	middle := w.send("bob", "one").Sequence
	w.update("bob")
	w.send("bob", "two")
	ok(t, w.hub.checkpoint(t.Context(), w.warm()))
	w.update("alice")
	all := w.replayed(r, middle, middle)
	if len(all) != 2 || all[0].Sequence != middle || all[0].Kind != "message" || all[0].Outcome != outcomeCounts || all[1].Kind != "checkpoint" || all[1].Outcome != outcomeEqual {
		t.Errorf("got %+v", all)
	}
	if got := w.replayed(r, w.warm().last+1, 0); len(got) != 0 {
		t.Errorf("after the end: %+v", got)
	}
}

func removal(d *draft) bool { return d.entry.GetCommit() != nil && removes(d.entry.GetCommit()) }

func keepsInvitations(g *group, d *draft) bool {
	if !removal(d) {
		return false
	}
	d.next.invitations = g.invitations
	return true
}

// TestReplayFindsBug: a hub that is spoiled in one way departs from its log, and a replay names the first entry at which that shows.
func TestReplayFindsBug(t *testing.T) {
	t.Parallel()
	d := bustest.Start(t)
	b, r := d.Bus("hub"), NewReplayer(d.Bus("replay"))
	for _, c := range []struct {
		name string
		bug  func(g *group, d *draft) bool // says whether it did something; g is the state before
		at   func(w *world) uint64         // plays on, and returns the first entry at which the bug shows
		want string
	}{
		{"whoever was removed is delivered to", func(g *group, d *draft) bool {
			if !removal(d) {
				return false
			}
			d.entry.GetCommit().Changes, d.next.roster = nil, g.roster
			return true
		}, func(w *world) uint64 { return w.offer(w.removeBundle("alice", "carol")).Sequence }, saysDerived + "changes"},
		{"an invitation outlives a removal", keepsInvitations, func(w *world) uint64 {
			w.offer(w.removeBundle("alice", "carol"))
			w.update("bob")
			ok(w.t, w.hub.checkpoint(w.t.Context(), w.warm()))
			return w.warm().last
		}, saysState + "invitations"},
		{"somebody joins by it", keepsInvitations, func(w *world) uint64 {
			token := w.invite("alice", 3, time.Hour)
			w.offer(w.removeBundle("alice", "carol"))
			return w.offerJoin(w.joinBundle("dave", token)).Sequence
		}, saysAdmission},
		{"messages of before a removal count", func(_ *group, d *draft) bool {
			if !removal(d) {
				return false
			}
			d.next.epochs = []mimimi.EpochRecord{{Epoch: d.next.epoch() - 1, Ended: seconds(d.entry.AcceptedMs)}, {Epoch: d.next.epoch()}}
			d.next.senderKeys[d.next.epoch()-1] = []byte("key")
			return true
		}, func(w *world) uint64 {
			w.offer(w.removeBundle("alice", "carol"))
			ok(w.t, w.hub.checkpoint(w.t.Context(), w.warm()))
			return w.warm().last
		}, saysState + "epochs"},
		{"a request is forgotten and accepted again", func(*group, *draft) bool { return true }, func(w *world) uint64 {
			token := mimimi.NewInviteSecret().JoinToken()
			rq := w.registration("alice", token, 3, w.clock.now().Add(time.Hour))
			for range 2 {
				_, err := w.hub.RegisterInvitation(w.t.Context(), proto.CloneOf(rq))
				ok(w.t, err)
				w.hub.store.cache.peek(w.id).recent = nil // the bug
			}
			return w.warm().last
		}, saysTwice},
		{"a wrong sender key", func(_ *group, d *draft) bool {
			d.entry.GetCommit().EpochSenderKey = []byte("another's")
			return true
		}, func(w *world) uint64 { return w.update("bob").Sequence }, saysDerived + "epoch_sender_key"},
		{"a checkpoint is skipped", func(_ *group, d *draft) bool {
			d.entry.Checkpoint--
			return true
		}, func(w *world) uint64 { return w.update("bob").Sequence }, saysCheckpoint},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, b, "bob", "carol")
			w.invite("alice", 2, time.Hour)
			done := false
			w.hub.store.bug = func(d *draft) {
				if !done {
					done = c.bug(w.hub.store.cache.peek(w.id), d)
				}
			}
			want := c.at(w)
			if !done {
				t.Fatal("the bug did nothing")
			}
			w.hub.store.bug = nil
			w.send("bob", "after")
			if bad := firstBad(w.replayed(r, 0, 0)); bad.Sequence != want || bad.Divergence != c.want || bad.Outcome != outcomeDiverges {
				t.Errorf("the first bad entry is %+v, want %d: %s", bad, want, c.want)
			}
		})
	}
}
