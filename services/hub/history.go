package hub

import (
	"context"
	"math"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// endOfLog is later than every entry.
const endOfLog = math.MaxUint64

var (
	errPosition = problem.New(problem.NotFound, "protocol §9: the log does not reach back so far: resync")
	errNoEpoch  = problem.New(problem.NotFound, "protocol §9: the group has not had this epoch, or its tree is no longer kept")
)

// place is a position in a group's log with what is needed to say which entries count after it.
type place struct {
	epochs    *mimimi.Epochs
	handshake uint64 // the last .c entry before or at the position
	counted   uint64 // the last entry before or at the position that counts
}

// pass moves p over the entry that follows and says whether it counts.
func (p *place) pass(e *pb.GroupEntry, sequence uint64) bool {
	at := seconds(e.AcceptedMs)
	switch x := e.Entry.(type) {
	case *pb.GroupEntry_Application:
		if !p.epochs.Counts(x.Application.Epoch, at) {
			return false
		}
		p.counted = sequence
		return true
	case *pb.GroupEntry_Commit:
		p.epochs.Commit(x.Commit.Epoch, at, removes(x.Commit))
		p.counted = sequence
	case *pb.GroupEntry_Proposal:
		p.counted = sequence
	}
	p.handshake = sequence
	return p.counted == sequence
}

// removes says whether a commit of the log removed somebody.
func removes(h *pb.HandshakeEntry) bool {
	for _, c := range h.Changes {
		if c.Gone {
			return true
		}
	}
	return false
}

// placeOf starts at a checkpoint: right after its last_counted, between which and the checkpoint only messages stand.
func placeOf(c *pb.CheckpointEntry) *place {
	var records []mimimi.EpochRecord
	for _, r := range c.Epochs {
		records = append(records, mimimi.EpochRecord{Epoch: r.Epoch, Ended: r.EndedMs / 1000, Removal: r.RemovedAtEnd})
	}
	return &place{epochs: epochsFrom(records), counted: c.LastCounted}
}

// at returns the place right after a position of a group's log: from the checkpoint that the entry there names, over the .c entries up to it, then over
// the messages after the last one of those that counts. Position 0 is before everything.
func (s *store) at(ctx context.Context, id mimimi.GroupID, position uint64) (*place, error) {
	if position == 0 {
		return s.start(ctx, id)
	}
	m, e, err := s.entryAt(ctx, id, position)
	if isKind(err, problem.NotFound) {
		return nil, errPosition
	}
	if err != nil {
		return nil, err
	}
	base := e
	if kindOf(e) != kindCheckpoint {
		if m, base, err = s.entryAt(ctx, id, e.Checkpoint); err != nil {
			return nil, err
		}
	}
	c := base.GetState()
	if c == nil || len(c.Epochs) == 0 {
		return nil, errDamaged
	}
	p := placeOf(c)
	p.handshake = m.Sequence
	if err := s.passHandshakes(ctx, id, p, position); err != nil {
		return nil, err
	}
	if p.handshake < e.Handshake || kindOf(e) != 0 && p.handshake < position {
		return nil, errLagging
	}
	if e.GetApplication() != nil && p.pass(e, position) {
		return p, nil
	}
	return p, s.passUntil(ctx, id, p, position+1)
}

// start is the place before a group's first entry that is still there: its creation.
func (s *store) start(ctx context.Context, id mimimi.GroupID) (*place, error) {
	page, _, err := s.log.Read(ctx, s.handshakes(id), 0, 1, pageBytes)
	if err != nil {
		return nil, err
	}
	if len(page) == 0 {
		return nil, errLagging
	}
	e, err := decode(id, page[0])
	if err != nil {
		return nil, err
	}
	c := e.GetState()
	if c == nil || !c.Creation || len(c.Epochs) == 0 {
		return nil, errPosition
	}
	p := placeOf(c)
	p.handshake = e.Handshake
	return p, nil
}

// passHandshakes moves p over the .c entries after p.handshake up to a position.
func (s *store) passHandshakes(ctx context.Context, id mimimi.GroupID, p *place, position uint64) error {
	for range maxRoll {
		if p.handshake >= position {
			return nil
		}
		page, more, err := s.log.Read(ctx, s.handshakes(id), p.handshake, pageEntries, pageBytes)
		if err != nil {
			return err
		}
		for _, m := range page {
			if m.Sequence > position {
				return nil
			}
			e, err := decode(id, m)
			if err != nil {
				return err
			}
			if e.Handshake != p.handshake {
				return errLagging
			}
			p.pass(e, m.Sequence)
		}
		if !more || len(page) == 0 {
			return nil
		}
	}
	return errTooLong
}

// eachMessage calls f for each application message after a position, until f returns false.
func (s *store) eachMessage(ctx context.Context, id mimimi.GroupID, after uint64, f func(m *bus.Message, e *pb.GroupEntry) bool) error {
	for range maxPages {
		page, more, err := s.log.Read(ctx, s.messages(id), after, pageEntries, pageBytes)
		if err != nil {
			return err
		}
		for _, m := range page {
			e, err := decode(id, m)
			if err != nil {
				return err
			}
			if e.GetApplication() == nil {
				return errDamaged
			}
			if !f(m, e) {
				return nil
			}
			after = m.Sequence
		}
		if !more || len(page) == 0 {
			return nil
		}
	}
	return errLagging
}

// lastCounted returns the last entry before a sequence that counts, where g is the state after the last .c entry before it: a message after g.counted,
// or that. Almost always the group's last message settles it.
func (s *store) lastCounted(ctx context.Context, g *group, before uint64) (uint64, error) {
	m, err := s.log.Last(ctx, s.messages(g.id))
	if isKind(err, problem.NotFound) {
		return g.counted, nil
	}
	if err != nil {
		return 0, err
	}
	if m.Sequence <= g.counted {
		return g.counted, nil
	}
	p := &place{epochs: g.counting(), counted: g.counted}
	if m.Sequence < before {
		e, err := decode(g.id, m)
		if err != nil {
			return 0, err
		}
		if p.pass(e, m.Sequence) {
			return m.Sequence, nil
		}
	}
	err = s.passUntil(ctx, g.id, p, before)
	return p.counted, err
}

// passUntil moves p.counted over the messages between it and a sequence.
func (s *store) passUntil(ctx context.Context, id mimimi.GroupID, p *place, before uint64) error {
	return s.eachMessage(ctx, id, p.counted, func(m *bus.Message, e *pb.GroupEntry) bool {
		if m.Sequence >= before {
			return false
		}
		p.pass(e, m.Sequence)
		return true
	})
}

// previous returns the entry that counts before an accepted one, whose state before it may be known.
func (s *store) previous(ctx context.Context, id mimimi.GroupID, a *accepted) (uint64, error) {
	sequence := a.request.Sequence
	if a.before != nil {
		return s.lastCounted(ctx, a.before, sequence)
	}
	_, e, err := s.entryAt(ctx, id, sequence)
	if err != nil {
		return 0, err
	}
	before, err := s.at(ctx, id, e.Handshake)
	if err != nil {
		return 0, err
	}
	err = s.passUntil(ctx, id, before, sequence)
	return before.counted, err
}

// atEpoch returns the state at the beginning of an epoch. hint is the sequence of the commit that began it, 0 if unknown. g is the newest state.
func (s *store) atEpoch(ctx context.Context, g *group, epoch, hint uint64) (*group, error) {
	if epoch == g.epoch() {
		return g, nil
	}
	if epoch > g.epoch() {
		return nil, errNoEpoch
	}
	base, err := s.checkpointBefore(ctx, g, epoch, hint)
	if err != nil {
		return nil, err
	}
	for range maxRoll {
		page, _, err := s.log.Read(ctx, s.handshakes(g.id), base.last, pageEntries, pageBytes)
		if err != nil {
			return nil, err
		}
		for _, m := range page {
			if base.epoch() == epoch {
				return base, nil
			}
			if base, err = applyMessage(base, m); err != nil {
				return nil, err
			}
		}
		if base.epoch() == epoch {
			return base, nil
		}
		if len(page) == 0 {
			return nil, errLagging
		}
	}
	return nil, errNoEpoch
}

// checkpointBefore returns the state at a checkpoint whose epoch is not later than epoch: the one that the entry at hint names, if that is one, or the
// first such one back from g.
func (s *store) checkpointBefore(ctx context.Context, g *group, epoch, hint uint64) (*group, error) {
	sequence := g.checkpoint
	if hint != 0 && hint < sequence {
		if _, e, err := s.entryAt(ctx, g.id, hint); err == nil && kindOf(e) == kindCommit && e.GetCommit().Epoch == epoch {
			sequence = e.Checkpoint
		}
	}
	for range maxCheckpointHops {
		m, e, err := s.entryAt(ctx, g.id, sequence)
		if isKind(err, problem.NotFound) {
			return nil, errNoEpoch // expired
		}
		if err != nil {
			return nil, err
		}
		c := e.GetState()
		if c == nil || len(c.Epochs) == 0 {
			return nil, errDamaged
		}
		if c.Epochs[len(c.Epochs)-1].Epoch <= epoch {
			g, err := fromCheckpoint(e, m.Sequence)
			if err != nil {
				return nil, errDamaged
			}
			return g, nil
		}
		if e.Checkpoint == 0 || e.Checkpoint >= sequence {
			return nil, errNoEpoch
		}
		sequence = e.Checkpoint
	}
	return nil, errNoEpoch
}
