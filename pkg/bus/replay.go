package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"mimimi.example/pkg/problem"
)

// GroupPartitionLog is all of one partition (0 ≤ p < GroupPartitions), for reads: handshakes and messages of all its groups.
func (b *Bus) GroupPartitionLog(p int) Subject {
	return Subject{name: fmt.Sprintf("group.%d.*.*", p), stream: streamName(streamGroup, p)}
}

// Outboxes is what waits for all domains, for reads.
func (b *Bus) Outboxes() Subject { return Subject{name: "out.*", stream: streamOutbox} }

// Graves is what all services could not process, for reads; ParseGrave reads one.
func (b *Bus) Graves() Subject { return Subject{name: "dead.*", stream: streamDead} }

// Grave is what DEAD keeps of a message that could not be processed: where it was, never its subject or content.
type Grave struct {
	Family   string `json:"family"`
	Stream   string `json:"stream"`
	Sequence uint64 `json:"sequence"`
	Reason   string `json:"reason"` // a constant sentence
}

// ParseGrave reads the data of a message of Graves. It returns problem.Invalid for what is none.
func ParseGrave(data []byte) (*Grave, error) {
	g := new(Grave)
	if err := json.Unmarshal(data, g); err != nil {
		return nil, problem.Wrap(problem.Invalid, "an entry of DEAD cannot be read", err)
	}
	return g, nil
}

// Extent is what a stream holds now.
type Extent struct {
	First    uint64 `json:"first_seq"` // sequence of the oldest message; Last + 1 if there is none
	Last     uint64 `json:"last_seq"`  // of the newest that there ever was
	Messages uint64 `json:"messages"`
}

// Extent returns what the stream of s holds, by its leader. Errors: problem.Unavailable, problem.Internal if there is no such stream.
func (b *Bus) Extent(ctx context.Context, s Subject) (Extent, error) {
	var answer struct {
		State Extent `json:"state"`
	}
	err := b.api(ctx, "STREAM.INFO."+s.stream, struct{}{}, &answer)
	return answer.State, err
}

// Since returns the sequence of the first message of s (a family is allowed) that was stored at a time or later, the next one's to come if there is none. Errors: as Read.
func (b *Bus) Since(ctx context.Context, s Subject, at time.Time) (uint64, error) {
	extent, err := b.Extent(ctx, s)
	if err != nil {
		return 0, err
	}
	low, high := extent.First, extent.Last+1
	for low < high { // the stream's times never go back
		middle := low + (high-low)/2
		page, _, err := b.Read(ctx, s, middle-1, 1, 1)
		if err != nil {
			return 0, err
		}
		if len(page) == 0 || !page[0].Time.Before(at) {
			high = middle
		} else {
			low = page[0].Sequence + 1
		}
	}
	return low, nil
}

// Each calls f for all that s (a family is allowed) holds after a position, oldest first and page by page, with what comes meanwhile. It returns f's first error. Errors: as Read.
func (b *Bus) Each(ctx context.Context, s Subject, after uint64, f func(*Message) error) error {
	for {
		page, more, err := b.Read(ctx, s, after, eachEntries, eachBytes)
		if err != nil {
			return err
		}
		for _, m := range page {
			if err := f(m); err != nil {
				return err
			}
			after = m.Sequence
		}
		if !more || len(page) == 0 {
			return nil
		}
	}
}

// FannedOut returns how far fan-out is in a partition: all entries up to this sequence are worked off. Errors: as Last.
func (b *Bus) FannedOut(ctx context.Context, p int) (uint64, error) {
	var answer struct {
		AckFloor struct {
			Stream uint64 `json:"stream_seq"`
		} `json:"ack_floor"`
	}
	err := b.api(ctx, "CONSUMER.INFO."+streamName(streamGroup, p)+"."+fanoutConsumer, struct{}{}, &answer)
	return answer.AckFloor.Stream, err
}
