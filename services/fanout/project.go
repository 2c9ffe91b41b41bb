package fanout

import (
	"context"

	"google.golang.org/protobuf/proto"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/problem"
)

var errLag = problem.New(problem.Unavailable, "the log's replica has not caught up: try again")

// log is what fan-out needs of the bus. Publish must be durable on return, and a repeat with the same ID harmless. At reads what the leader has. Read
// returns a subject's entries in order with none missing in between; the newest may be missing.
type log interface {
	Publish(ctx context.Context, s bus.Subject, data []byte, o bus.PublishOptions) (uint64, error)
	At(ctx context.Context, s bus.Subject, sequence uint64) (*bus.Message, error)
	Read(ctx context.Context, s bus.Subject, after uint64, limit, maxBytes int) ([]*bus.Message, bool, error)
}

// subjects makes the subjects that fan-out reads and writes; *bus.Bus does.
type subjects interface {
	GroupHandshakes(group []byte) bus.Subject
	GroupLog(group []byte) bus.Subject
	Outbox(domain string) bus.Subject
}

// projector finds a group's projection before any entry of its log.
type projector struct {
	log      log
	subjects subjects
	cache    *cache
	metrics  *metrics
}

// before returns the projection that an entry meets: everything that stands before it in the log, and nothing else. The cached one is rolled forward over
// what other replicas worked off meanwhile. If it is already past the entry (a repeat), or there is none, it starts from the checkpoint that the entry
// names.
func (p *projector) before(ctx context.Context, e *v1.GroupEntry, sequence uint64) (*group, error) {
	if g := p.cache.get(e.GetGroupId()); g != nil && g.sequence < sequence {
		return p.roll(ctx, g, e.GetGroupId(), g.sequence, sequence)
	}
	p.metrics.cold(ctx)
	start, at := e.GetState(), sequence
	if start == nil {
		var err error
		if start, err = p.checkpoint(ctx, e); err != nil {
			return nil, err
		}
		at = e.GetCheckpoint()
	}
	g, err := fromCheckpoint(start, at)
	if g == nil {
		return nil, err
	}
	after := start.GetLastCounted()
	if start.GetCreation() {
		after = at
	}
	return p.roll(ctx, g, e.GetGroupId(), after, sequence)
}

// checkpoint reads the checkpoint that an entry names. It returns errNoStart if there is none: then nothing of this group can be delivered until its
// next checkpoint, and everything until there goes to DEAD.
func (p *projector) checkpoint(ctx context.Context, e *v1.GroupEntry) (*v1.CheckpointEntry, error) {
	m, err := p.log.At(ctx, p.subjects.GroupHandshakes(e.GetGroupId()), e.GetCheckpoint())
	if err != nil {
		if problem.KindOf(err) == problem.NotFound {
			return nil, errNoStart
		}
		return nil, err
	}
	entry, err := decode(m.Data)
	if err != nil || entry.GetState() == nil {
		return nil, errNoStart
	}
	return entry.GetState(), nil
}

// decode reads an entry. It returns errUnreadable for one that nobody may follow.
func decode(data []byte) (*v1.GroupEntry, error) {
	e := new(v1.GroupEntry)
	if err := proto.Unmarshal(data, e); err != nil || len(e.GetGroupId()) == 0 {
		return nil, errUnreadable
	}
	return e, nil
}

// roll applies the entries after one place and before another, and has seen the other: an answer that ends earlier comes from a replica that lags, and
// something might be missing. What cannot be followed was said when it was worked off itself.
func (p *projector) roll(ctx context.Context, g *group, id []byte, after, until uint64) (*group, error) {
	for after+1 < until { // else nothing stands in between
		msgs, more, err := p.log.Read(ctx, p.subjects.GroupLog(id), after, pageEntries, pageBytes)
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			if m.Sequence >= until {
				return g, nil
			}
			after = m.Sequence
			e, err := decode(m.Data)
			if err != nil {
				continue
			}
			if m.Sequence <= g.sequence {
				g = g.applyEarlier(e, m.Sequence)
			} else {
				g, _ = g.advance(e, m.Sequence)
			}
		}
		if after+1 < until && (!more || len(msgs) == 0) {
			return nil, errLag
		}
	}
	return g, nil
}
