package hub

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// Replayer rebuilds groups from their logs, entry by entry, and says where a log departs from what its own entries lead to. The log is also what the hub
// answered: an entry is an accepted request's answer, with all that the hub derived from the request, and a checkpoint holds what retries are answered.
//
// It reads and never writes: the bus's read-only user "replay" is enough, on a live deployment or on the streams of a backup. What it says names no group and nobody.
type Replayer struct {
	bus     *bus.Bus
	store   *store
	observe func(*group) // of tests: each state that is reached; nil: nobody
}

// NewReplayer returns a replayer of a bus.
func NewReplayer(b *bus.Bus) *Replayer {
	return &Replayer{bus: b, store: &store{log: b, names: b, cache: newCache(0)}}
}

// Replayed is what a replay says of one entry.
type Replayed struct {
	Sequence uint64    `json:"sequence"`
	Accepted time.Time `json:"accepted"` // whole seconds, UTC
	// Kind is creation, commit, proposal, message, checkpoint, invitation or unreadable.
	Kind string `json:"kind"`
	// Epoch is a message's own, and otherwise the group's after the entry.
	Epoch uint64 `json:"epoch"`
	// Outcome is counts or late of a message, a commit or a proposal; equal of a checkpoint that is the state which the log leads to; start of one with which
	// the replay began; applied of an invitation; diverges; or unchecked while the checkpoint is gone from which the state could be rebuilt.
	Outcome string `json:"outcome"`
	// Divergence is a constant sentence about what an entry should not be, with the names of fields; "" if there is nothing to say.
	Divergence string `json:"divergence,omitempty"`
}

// The outcomes.
const (
	outcomeCounts    = "counts"
	outcomeLate      = "late"
	outcomeEqual     = "equal"
	outcomeStart     = "start"
	outcomeApplied   = "applied"
	outcomeDiverges  = "diverges"
	outcomeUnchecked = "unchecked"
)

// Groups calls f once for each group that has an entry in a partition from a sequence on, with its first one there, in that order; with the zero GroupID for an entry that
// names no group. It returns f's first error. Errors: as bus.Read.
func (r *Replayer) Groups(ctx context.Context, partition int, from uint64, f func(id mimimi.GroupID, sequence uint64) error) error {
	seen := make(map[mimimi.GroupID]struct{}) // bounded by the stream, which is kept below a million subjects
	return r.bus.Each(ctx, r.bus.GroupPartitionLog(partition), before(from), func(m *bus.Message) error {
		id := groupOf(m)
		if _, again := seen[id]; again && id != (mimimi.GroupID{}) {
			return nil
		}
		seen[id] = struct{}{}
		return f(id, m.Sequence)
	})
}

// GroupOf returns the group of an entry of a partition. Errors: problem.NotFound if there is no such entry, problem.Invalid if it names no group; as bus.At.
func (r *Replayer) GroupOf(ctx context.Context, partition int, sequence uint64) (mimimi.GroupID, error) {
	m, err := r.bus.At(ctx, r.bus.GroupPartitionLog(partition), sequence)
	if err != nil {
		return mimimi.GroupID{}, err
	}
	id := groupOf(m)
	if id == (mimimi.GroupID{}) {
		return id, problem.New(problem.Invalid, "the entry names no group")
	}
	return id, nil
}

// groupOf is the group that an entry names, the zero GroupID if it names none.
func groupOf(m *bus.Message) mimimi.GroupID {
	e := new(pb.GroupEntry)
	if proto.Unmarshal(m.Data, e) != nil {
		return mimimi.GroupID{}
	}
	id, err := mimimi.ParseGroupID(e.GroupId)
	if err != nil {
		return mimimi.GroupID{}
	}
	return id
}

// before is the position before a sequence; 0 and 1 are both the beginning.
func before(sequence uint64) uint64 { return max(sequence, 1) - 1 }

// errEnough ends a replay early.
var errEnough = problem.New(problem.Internal, "the replay is over")

// Group replays one group from a sequence (0: all that is there) to another (0: the end), and on to the next checkpoint, with which the state at the end is compared. It calls f for
// each entry from the first to the last, and for that checkpoint, in order, and returns f's first error. The state is rebuilt from the checkpoint that the first entry
// names, or from the group's creation, whose content is checked like a new one's. Errors: as bus.Read.
func (r *Replayer) Group(ctx context.Context, id mimimi.GroupID, from, to uint64, f func(Replayed) error) error {
	p, after, err := r.start(ctx, id, from)
	if err != nil || p == nil {
		return err
	}
	err = r.bus.Each(ctx, r.store.all(id), after, func(m *bus.Message) error {
		x, said := p.step(m)
		if r.observe != nil && p.g != nil {
			r.observe(p.g)
		}
		past := to > 0 && m.Sequence > to
		if said && m.Sequence >= from && (!past || x.Kind == kindNames[kindCheckpoint]) {
			if err := f(x); err != nil {
				return err
			}
		}
		if past && x.Kind == kindNames[kindCheckpoint] {
			return errEnough
		}
		return nil
	})
	if err == errEnough {
		return nil
	}
	return err
}

// start finds where the replay of a group begins: the state at a checkpoint, and the position from which to read on. It returns nil if the group has nothing from there on.
func (r *Replayer) start(ctx context.Context, id mimimi.GroupID, from uint64) (*playback, uint64, error) {
	p := &playback{id: id}
	page, _, err := r.bus.Read(ctx, r.store.all(id), before(from), 1, 1)
	if err != nil || len(page) == 0 {
		return nil, 0, err
	}
	m := page[0]
	after := m.Sequence - 1
	e, err := decode(id, m)
	if err != nil {
		return p, after, nil // step says so
	}
	if kindOf(e) != kindCheckpoint {
		m, e, err = r.store.entryAt(ctx, id, e.Checkpoint)
		switch {
		case isKind(err, problem.Unavailable):
			return nil, 0, err
		case err != nil:
			return p, after, nil
		}
	}
	c := e.GetState()
	if p.restart(e, m.Sequence) != nil {
		return p, after, nil
	}
	if c.Creation {
		return p, m.Sequence - 1, nil
	}
	return p, c.LastCounted, nil
}
