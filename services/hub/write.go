package hub

import (
	"context"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

var (
	errBusy      = problem.New(problem.Unavailable, "others' entries keep coming first: try again")
	errUnknown   = problem.New(problem.Unavailable, "it is not known whether the entry was accepted: try again with the same request id")
	errRequestID = problem.New(problem.Invalid, "a request id is 16 random bytes, and another for each request")
)

// accepted is what became of a write: the request's entry stands in the log.
type accepted struct {
	request *pb.RecentRequest
	before  *group // the state that the entry follows; nil in the answer to a retry
	after   *group // a state that holds the entry, not always the one right after it
}

// write is the path of every handshake, checkpoint and invitation: validate, one CAS publish, reply. make validates against a state and returns the
// entry; it is called again whenever the state turns out to be another.
//
// A crash before the publish leaves nothing. A crash after it, before the reply, leaves an accepted entry, which fanout delivers; the caller's retry
// finds its request id among the recent ones and gets the same answer. After a conflict, or when the publish's outcome is not known, the log's
// end is read from the leader: if the own entry is there, this is success; if not, the entry is validated again on what is there. An attempt whose
// outcome is not known may still land later, but then the next attempt's CAS fails, or this one's did: never are there two.
//
// A refusal is final only against the state that the leader has: a cached one may lack the invitation, the leaf or the epoch that it is about.
func (s *server) write(ctx context.Context, id mimimi.GroupID, requestID []byte, k kind, make func(g *group, millis int64) (*draft, error)) (*accepted, error) {
	g, err := s.store.get(ctx, id)
	if err != nil {
		return nil, err
	}
	for range maxAttempts {
		if r := g.request(requestID); r != nil {
			if kind(r.Kind) != k {
				return nil, errRequestID
			}
			return &accepted{request: r, after: g}, nil
		}
		d, refusal := make(g, g.stamp(s.now()))
		if refusal == nil {
			var next *group
			next, err = s.store.append(ctx, d)
			switch {
			case err == nil:
				return &accepted{request: next.request(requestID), before: g, after: next}, nil
			case !isKind(err, problem.Stale) && !isKind(err, problem.Unavailable):
				return nil, err
			}
			s.metrics.conflict(ctx)
		}
		fresh, err := s.store.current(ctx, id, g)
		switch {
		case err != nil && refusal == nil:
			return nil, errUnknown
		case err != nil:
			return nil, err
		case refusal != nil && fresh.last == g.last:
			return nil, refusal
		}
		g = fresh
	}
	return nil, errBusy
}

// create publishes a group's first entry, with the same promise as write: expecting no entry before it makes the id this group's for good.
//
// The token is spent before the publish, for this group: a crash in between costs nothing, since a retry with the same request id is let through again.
func (s *server) create(ctx context.Context, id mimimi.GroupID, rq *pb.CreateGroupRequest) (uint64, error) {
	d, err := draftCreation(id, rq, s.now().UnixMilli())
	if err != nil {
		return 0, err
	}
	_, err = s.redeemer.Redeem(ctx, &mimimi.Spending{Operation: mimimi.TokenGroup, Token: rq.Token, RequestID: [16]byte(rq.RequestId), Deed: []byte(id.Wire())})
	if err != nil {
		return 0, err
	}
	for range maxAttempts {
		g, err := s.store.append(ctx, d)
		if err == nil {
			return g.last, nil
		}
		if !isKind(err, problem.Stale) && !isKind(err, problem.Unavailable) {
			return 0, err
		}
		g, err = s.store.current(ctx, id, nil)
		switch {
		case isKind(err, problem.NotFound):
			continue // the first attempt has not landed; if it does later, this one's CAS fails
		case err != nil:
			return 0, errUnknown
		}
		if r := g.request(rq.RequestId); r != nil && kind(r.Kind) == kindCheckpoint {
			return r.Sequence, nil
		}
		return 0, errTaken
	}
	return 0, errUnknown
}

// checkpointIfDue appends a checkpoint when enough entries have come since the last one. Whether that works makes no difference to the entry that was
// accepted before: whoever appends the next one tries again.
func (s *server) checkpointIfDue(ctx context.Context, g *group) {
	if g.since < checkpointEvery {
		return
	}
	s.metrics.checkpoint(ctx, s.checkpoint(ctx, g))
}

// checkpointByChance appends a checkpoint after one in messagesPerCheckpoint messages, or more of large ones, so that a long chat without handshakes does
// not make readers go over all of it. size is the accepted message's. The chance is the hub's alone: no sender can bring a checkpoint about or keep it away. Whether it works makes no difference to the
// message that was accepted before.
func (s *server) checkpointByChance(ctx context.Context, id mimimi.GroupID, size int) {
	if s.draw(messagesPerCheckpoint) > size/messageShare {
		return
	}
	g, err := s.store.current(ctx, id, nil)
	if err == nil {
		err = s.checkpoint(ctx, g)
	}
	s.metrics.checkpoint(ctx, err)
}

// checkpoint appends g's own state after its last entry, under the same CAS as all others. A crash before the publish leaves nothing; one after it
// leaves a checkpoint, which changes nothing that anyone can see. A message may be accepted between the reading of the last one that counts and the
// publish: readers of checkpoints know that (events.proto).
func (s *server) checkpoint(ctx context.Context, g *group) error {
	counted, err := s.store.lastCounted(ctx, g, endOfLog)
	if err != nil {
		return err
	}
	_, err = s.store.append(ctx, g.draftCheckpoint(newRequestID(), counted, g.stamp(s.now())))
	return err
}
