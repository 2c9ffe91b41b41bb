package hub

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// sweeper makes checkpoints for the groups of one partition that get none otherwise, so that no group's last checkpoint ever expires.
//
// It follows the partition's handshakes at a distance of age: once an entry has become that old, it is looked at, and if its group has no checkpoint after
// it, the group gets one, however many entries came since: all of them name a checkpoint that is at least as old. So each entry is looked at once; a
// restart begins again at the oldest. Replicas sweep alike, and the log's CAS lets one of them succeed.
//
// A group that its members have abandoned gets none any more, and goes with its last checkpoint.
type sweeper struct {
	server    *server
	partition bus.Subject
	age       time.Duration
	after     uint64 // position of the last entry looked at; owned by run
}

// run sweeps until ctx is done. A failed sweep goes on where it stopped at the next turn.
func (w *sweeper) run(ctx context.Context, every time.Duration) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		w.server.metrics.swept(ctx, w.sweep(ctx))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

// sweep looks at the entries that have become old enough since the last one, at most sweepPages pages of them.
func (w *sweeper) sweep(ctx context.Context) error {
	for range sweepPages {
		page, more, err := w.server.store.log.Read(ctx, w.partition, w.after, pageEntries, pageBytes)
		if err != nil {
			return err
		}
		for _, m := range page {
			if m.Time.After(w.server.now().Add(-w.age)) {
				return nil
			}
			if err := w.refresh(ctx, m); err != nil {
				return err
			}
			w.after = m.Sequence
		}
		if !more || len(page) == 0 {
			return nil
		}
	}
	return nil
}

// refresh makes a checkpoint if m's group has none after m. A group that cannot be read must not keep the others from being refreshed: it is left to
// whoever reads the metric. An error means that m has to be looked at again.
func (w *sweeper) refresh(ctx context.Context, m *bus.Message) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	e := new(pb.GroupEntry)
	if err := proto.Unmarshal(m.Data, e); err != nil {
		w.server.metrics.damaged(ctx)
		return nil
	}
	id, err := mimimi.ParseGroupID(e.GroupId)
	if err != nil {
		w.server.metrics.damaged(ctx)
		return nil
	}
	switch err = w.server.refresh(ctx, id, m.Sequence); {
	case err == nil:
		return nil
	case isKind(err, problem.Unavailable), isKind(err, problem.Limited):
		return err
	}
	w.server.metrics.damaged(ctx)
	return nil
}

// refresh makes a checkpoint for a group that has none after a sequence and is not abandoned. When others' entries come first it tries again: they are as good as nothing,
// unless one of them is a checkpoint.
func (s *server) refresh(ctx context.Context, id mimimi.GroupID, sequence uint64) error {
	for range maxAttempts {
		last, err := s.store.log.Last(ctx, s.store.handshakes(id))
		if err != nil {
			return err
		}
		e, err := decode(id, last)
		if err != nil {
			return err
		}
		if lastCheckpoint(e, last.Sequence) > sequence {
			return nil
		}
		g, err := s.store.current(ctx, id, nil)
		if err != nil || g.checkpoint > sequence || g.abandoned(s.now()) {
			return err
		}
		err = s.checkpoint(ctx, g)
		s.metrics.checkpoint(ctx, err)
		if !isKind(err, problem.Stale) {
			return err
		}
	}
	return errBusy
}

// lastCheckpoint is the sequence of a group's last checkpoint, where e is its last .c entry.
func lastCheckpoint(e *pb.GroupEntry, sequence uint64) uint64 {
	if kindOf(e) == kindCheckpoint {
		return sequence
	}
	return e.Checkpoint
}

// abandoned says whether no member has done anything to the group for groupLife. That it was created counts.
func (g *group) abandoned(now time.Time) bool {
	for i, r := range slices.Backward(g.recent) {
		if kind(r.Kind) != kindCheckpoint || i == 0 {
			return now.Sub(whole(r.AcceptedMs)) > groupLife
		}
	}
	return false
}
