package fanout

import (
	"context"
	"encoding/json"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/problem"
)

// callRedrive is the call by which an operator has entries worked off again.
const callRedrive = "redrive"

// redriveRequest and redriveAnswer are its request and its answer. Only the admin user may call.
type redriveRequest struct {
	Partition int    `json:"partition"`
	Sequence  uint64 `json:"sequence"`
}

type redriveAnswer struct {
	Kind     problem.Kind `json:"kind"`
	Sentence string       `json:"sentence"` // "": it was worked off
}

// errNoEntry: an entry has expired, or never was.
var errNoEntry = problem.New(problem.NotFound, "the log has no such entry any more")

// Redrive has a replica work off one entry of a partition of the log again, whatever came of it before, and returns what came of it now: nil, or the problem for which it would go to DEAD; problem.NotFound
// if there is no such entry, problem.Unavailable if no replica answers. Its deliveries have the ids that they had, so that whoever got them sees nothing twice.
func Redrive(ctx context.Context, b *bus.Bus, partition int, sequence uint64) error {
	request, err := json.Marshal(redriveRequest{partition, sequence})
	if err != nil {
		return err
	}
	raw, err := b.Call(ctx, callRedrive, request)
	if err != nil {
		return err
	}
	a := new(redriveAnswer)
	if err := json.Unmarshal(raw, a); err != nil {
		return problem.Wrap(problem.Internal, "fan-out answered in an unknown form", err)
	}
	if a.Sentence == "" {
		return nil
	}
	return problem.New(a.Kind, a.Sentence)
}

// redrive answers one call. An entry out of its turn harms nothing: the projection before it is found as for any repeat, and the cache keeps the later one.
func (f *fanout) redrive(ctx context.Context, b *bus.Bus, request []byte) []byte {
	var a redriveAnswer
	if err := f.again(ctx, b, request); err != nil {
		a = redriveAnswer{problem.KindOf(err), "internal error"}
		if p, ok := err.(*problem.Error); ok {
			a.Sentence = p.Sentence
		}
	}
	answer, err := json.Marshal(a)
	if err != nil {
		return nil // an answer that cannot be read
	}
	return answer
}

func (f *fanout) again(ctx context.Context, b *bus.Bus, request []byte) error {
	r := new(redriveRequest)
	if err := json.Unmarshal(request, r); err != nil || r.Partition < 0 || r.Partition >= b.GroupPartitions() {
		return errNoEntry
	}
	m, err := b.At(ctx, b.GroupPartitionLog(r.Partition), r.Sequence)
	if err != nil && problem.KindOf(err) == problem.NotFound {
		return errNoEntry
	}
	if err != nil {
		return err
	}
	return f.handle(ctx, m)
}
