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

// sweeper makes checkpoints for the quiet groups of one partition, so that no group's last entry ever expires.
//
// It follows the partition's handshakes at a distance of age: once an entry has become that old, it is looked at, and if it still is its group's last one,
// the group gets a checkpoint. A group whose last entry is later is met there. So each entry is looked at once; a restart begins again at the oldest.
// Replicas sweep alike, and the log's CAS lets one of them succeed.
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

// refresh makes a checkpoint if m is its group's last entry. A group that cannot be read must not keep the others from being refreshed: it is left
// to whoever reads the metric.
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
	case err == nil, isKind(err, problem.Stale): // stale: another entry came, or another replica's checkpoint
		return nil
	case isKind(err, problem.Unavailable), isKind(err, problem.Limited):
		return err
	}
	w.server.metrics.damaged(ctx)
	return nil
}

// refresh makes a checkpoint for a group whose last entry is still the one at a sequence.
func (s *server) refresh(ctx context.Context, id mimimi.GroupID, sequence uint64) error {
	last, err := s.store.log.Last(ctx, s.store.handshakes(id))
	if err != nil || last.Sequence != sequence {
		return err
	}
	g, err := s.store.current(ctx, id, nil)
	if err != nil || g.last != sequence {
		return err
	}
	err = s.checkpoint(ctx, g)
	s.metrics.checkpoint(ctx, err)
	return err
}
