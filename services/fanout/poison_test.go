package fanout

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/problem"
)

// What breaks a rule is rejected for good (so that it goes to DEAD), does as little harm as it can, and the group goes on.
func TestPoison(t *testing.T) {
	bare := func(s *script, e *v1.GroupEntry) []byte {
		b, err := proto.Marshal(e)
		if err != nil {
			s.Fatal(err)
		}
		return b
	}
	tests := []struct {
		name   string
		poison func(s *script) uint64
		want   error
		b      string // deliveries for domain B of the poison itself
		counts bool
	}{
		{"garbage as a handshake", func(s *script) uint64 {
			seq := s.handshake
			return s.raw(s.hub.GroupHandshakes(s.id), []byte("garbage"), bus.PublishOptions{ExpectLast: &seq})
		}, errUnreadable, "", false},
		{"garbage as a message", func(s *script) uint64 {
			return s.raw(s.hub.GroupMessages(s.id), []byte{0xff}, bus.PublishOptions{})
		}, errUnreadable, "", false},
		{"no group", func(s *script) uint64 {
			return s.raw(s.hub.GroupMessages(s.id), bare(s, &v1.GroupEntry{Entry: &v1.GroupEntry_Application{}}), bus.PublishOptions{})
		}, errUnreadable, "", false},
		{"nothing in it", func(s *script) uint64 { return s.put(&v1.GroupEntry{}) }, errUnreadable, "", false},
		{"a newcomer without its part of the Welcome", func(s *script) uint64 {
			l := leaf(9, domainB)
			return s.commitWith(&v1.HandshakeEntry{Epoch: 1, Changes: []*v1.RosterChange{l}, Welcome: welcome(refOf(8)),
				Newcomers: []*v1.Newcomer{{KeyPackageRef: refOf(9), Leaf: 9}}})
		}, errWelcome, "commit", true},
		{"a Welcome that is none", func(s *script) uint64 {
			return s.commitWith(&v1.HandshakeEntry{Epoch: 1, Changes: []*v1.RosterChange{leaf(9, domainB)}, Welcome: []byte("no"),
				Newcomers: []*v1.Newcomer{{KeyPackageRef: refOf(9), Leaf: 9}}})
		}, errWelcome, "commit", true},
		{"a newcomer who is in no leaf", func(s *script) uint64 {
			return s.commitWith(&v1.HandshakeEntry{Epoch: 1, Welcome: welcome(refOf(9)), Newcomers: []*v1.Newcomer{{KeyPackageRef: refOf(9), Leaf: 9}}})
		}, errWelcome, "commit", true},
		{"a leaf without a domain", func(s *script) uint64 {
			return s.commit(1, &v1.RosterChange{Leaf: 9, ClientPseudonym: "x", EncryptedQueueId: []byte("x")})
		}, errRoster, "commit", true},
		{"a leaf without a queue", func(s *script) uint64 {
			return s.commit(1, &v1.RosterChange{Leaf: 9, ClientPseudonym: "x", Domain: domainB})
		}, errRoster, "commit", true},
	}
	w := newWorld(t)
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := w.group(fmt.Sprint("p", i))
			s.create(0, leaf(0, domainA), leaf(1, domainB))
			hello := s.message(0, "hello")
			poison := tt.poison(s)
			previous, epoch := hello, uint64(0)
			if tt.counts {
				previous, epoch = poison, 1
			}
			end := s.message(epoch, "end")
			f := w.replica()
			f.run(t, s.entries[:2]...)
			if err := f.handle(t.Context(), s.entries[2]); !errors.Is(err, tt.want) || problem.KindOf(err) != problem.Invalid {
				t.Fatalf("the poison: %v", err)
			}
			f.cold().run(t, s.entries[3]) // warm and cold alike
			f.run(t, s.entries[3])
			var got []string
			for _, d := range w.outbox(domainB) {
				if string(d.GetDelivery().GetGroupId()) == string(s.id) && d.GetDelivery().GetSequence() != hello {
					got = append(got, fmt.Sprintf("%d<%d %q", d.GetDelivery().GetSequence(), d.GetDelivery().GetPrevious(), d.GetDelivery().GetMessage()))
				}
			}
			want := []string{fmt.Sprintf(`%d<%d "end"`, end, previous)}
			if tt.b != "" {
				want = []string{fmt.Sprintf(`%d<%d "commit to 1"`, poison, hello), want[0]}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// A log whose checkpoint is gone: its entries are rejected, none is retried for ever, and the next checkpoint ends it.
func TestNoCheckpoint(t *testing.T) {
	w := newWorld(t)
	s := w.group("one")
	s.create(0, leaf(0, domainA))
	s.checkpoint = 1 << 40
	s.message(0, "lost")
	s.checkpoint = 0
	s.message(0, "lost")
	s.state(&v1.CheckpointEntry{Roster: []*v1.RosterChange{leaf(0, domainA)}, Epochs: []*v1.EpochRecord{{Epoch: 0}}})
	end := s.message(0, "end")
	for _, m := range s.entries[1:3] {
		if err := w.replica().handle(t.Context(), m); !errors.Is(err, errNoStart) {
			t.Errorf("got %v", err)
		}
	}
	f := w.replica()
	f.run(t, s.entries[3:]...)
	// Both lost messages counted, so the client sees where it must read the log.
	w.expect(domainA, fmt.Sprintf(`%d<%d KIND_MESSAGE epoch 0 "end" to [a.example/d/0=queue 0]`, end, s.entries[2].Sequence))

	empty := w.group("two")
	empty.create(0)
	empty.state(&v1.CheckpointEntry{}) // no epoch: not even the current one
	if err := f.handle(t.Context(), empty.entries[1]); !errors.Is(err, errUnreadable) {
		t.Errorf("a checkpoint that states nothing: %v", err)
	}
}

// FuzzEntry: no entry makes the projection or its deliveries panic, and what is delivered goes to leaves of the roster or to newcomers, by their domains.
func FuzzEntry(f *testing.F) {
	start, err := fromCheckpoint(&v1.CheckpointEntry{Roster: []*v1.RosterChange{leaf(0, domainA), leaf(1, domainB)}, Epochs: []*v1.EpochRecord{{Epoch: 4}}}, 7)
	if err != nil {
		f.Fatal(err)
	}
	id := []byte("g")
	for _, e := range []*v1.GroupEntry{
		{GroupId: id, Entry: &v1.GroupEntry_Commit{Commit: &v1.HandshakeEntry{Epoch: 5, Changes: []*v1.RosterChange{gone(1), leaf(2, domainB)},
			Newcomers: []*v1.Newcomer{{KeyPackageRef: refOf(2), Leaf: 2}}, Welcome: welcome(refOf(2))}}},
		{GroupId: id, Entry: &v1.GroupEntry_Application{Application: &v1.ApplicationEntry{Epoch: 4, Message: []byte("m")}}},
		{GroupId: id, Entry: &v1.GroupEntry_State{State: &v1.CheckpointEntry{Roster: []*v1.RosterChange{leaf(0, domainA)}, Epochs: []*v1.EpochRecord{{Epoch: 4}}}}},
	} {
		b, err := proto.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decode(b)
		if err != nil {
			return
		}
		next, _ := start.advance(e, 9)
		ds, _ := start.deliveries(e, next)
		there := map[string]bool{}
		for _, g := range []*group{start, next} {
			for _, r := range g.roster {
				there[fmt.Sprintf("%q %q %q", r.pseudonym, r.queue, r.domain)] = true
			}
		}
		for _, d := range ds {
			for _, r := range d.GetRecipients() {
				if !there[fmt.Sprintf("%q %q %q", r.GetClientPseudonym(), r.GetEncryptedQueueId(), d.domain)] {
					t.Error("a delivery names somebody who is not in the group, or goes to another domain")
				}
			}
		}
		if len(start.roster) != 2 || start.sequence != 7 || start.epochs.Current() != 4 {
			t.Error("the projection before the entry changed")
		}
	})
}
