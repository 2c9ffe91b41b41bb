package bus

import (
	"context"
	"encoding/json"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"mimimi.example/pkg/problem"
)

// PublishOptions qualifies one Publish.
type PublishOptions struct {
	ID         string        // Nats-Msg-Id, derived, never a name; "" for none
	ExpectLast *uint64       // compare-and-swap on the subject's last sequence (0: none yet)
	TTL        time.Duration // whole seconds, rounded up; 0: the stream's
	Duplicate  *bool         // if not nil, set to whether ID was stored already, so that the data in the log are the earlier ones
}

// The only headers that are ever stored, but for the trace context of trace.go.
const (
	headerID         = "Nats-Msg-Id"
	headerExpectLast = "Nats-Expected-Last-Subject-Sequence"
	headerTTL        = "Nats-TTL"
)

// headers returns what Publish puts beside the data, nil for nothing.
func (o PublishOptions) headers() nats.Header {
	h := nats.Header{}
	if o.ID != "" {
		h[headerID] = []string{o.ID}
	}
	if o.ExpectLast != nil {
		h[headerExpectLast] = []string{strconv.FormatUint(*o.ExpectLast, 10)}
	}
	if o.TTL > 0 {
		h[headerTTL] = []string{strconv.FormatInt(int64(math.Ceil(o.TTL.Seconds())), 10) + "s"}
	}
	if len(h) == 0 {
		return nil
	}
	return h
}

// Publish stores data durably and returns its sequence. With an ID that was stored within the duplicate window it stores nothing and returns
// the earlier sequence. A single node checks ExpectLast before the ID and a cluster after it: a caller that uses both must read back.
//
// While the stream has no leader it waits for one. A crash, a lost connection or a leader lost before the answer leaves the outcome unknown; with an ID and without ExpectLast it then publishes again
// until ctx ends.
// Errors: problem.Stale when ExpectLast does not hold, problem.Unavailable when the outcome is unknown (timeout, no leader), problem.Limited when
// the stream or the subject is full, problem.Invalid when data is too large, problem.Internal when s is a family.
func (b *Bus) Publish(ctx context.Context, s Subject, data []byte, o PublishOptions) (uint64, error) {
	if s.name == "" || s.family() {
		return 0, problem.New(problem.Internal, "one publishes to one concrete subject")
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	ctx, span := b.tracing.send(ctx, s)
	seq, err := b.publish(ctx, s, data, o)
	finish(span, err)
	return seq, err
}

// publish is Publish within its span.
func (b *Bus) publish(ctx context.Context, s Subject, data []byte, o PublishOptions) (uint64, error) {
	again := o.ID != "" && o.ExpectLast == nil // the second one is known for a duplicate
	reply, err := b.ask(ctx, &nats.Msg{Subject: s.name, Header: b.tracing.carry(ctx, s, o.headers()), Data: data}, b.leader, again)
	if err != nil {
		return 0, problemOf(err)
	}
	var ack struct {
		Error    *apiError `json:"error"`
		Stream   string    `json:"stream"`
		Sequence uint64    `json:"seq"`
		Again    bool      `json:"duplicate"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return 0, problem.Wrap(problem.Unavailable, "the bus answered in an unknown form; the outcome is unknown", err)
	}
	switch {
	case ack.Error != nil:
		return 0, ack.Error.problemOf()
	case ack.Stream != s.stream || ack.Sequence == 0:
		return 0, problem.New(problem.Internal, "another stream took the message: the deployment's streams have drifted")
	}
	if o.Duplicate != nil {
		*o.Duplicate = ack.Again
	}
	return ack.Sequence, nil
}

// Remove deletes the message with this sequence from s's stream: true for exactly one caller, false if it was gone. After problem.Unavailable the outcome
// is unknown, and a caller that then sees it gone does not know that it was the remover.
func (b *Bus) Remove(ctx context.Context, s Subject, seq uint64) (bool, error) {
	var answer struct {
		Success bool `json:"success"`
	}
	err := b.apiOnce(ctx, "STREAM.MSG.DELETE."+s.stream, map[string]any{"seq": seq, "no_erase": true}, &answer)
	if deleteLost(err) {
		return false, nil
	}
	return answer.Success, err
}

// purges joins the purges of one subject: while one is under way, the next ones become one.
type purges struct {
	mu sync.Mutex
	m  map[string]*purge // by subject; guarded by mu
}

// purge is the state of one subject with a purge under way. Guarded by purges.mu, except done.
type purge struct {
	waiting bool // somebody wants another one after this
	all     bool // … of everything
	upTo    uint64
	next    *outcome // for those who wait for it
}

// outcome is what the callers of one joined purge wait for.
type outcome struct {
	done chan struct{}
	err  error // set before done is closed
}

// Purge deletes a subject's (or family's) messages up to and including seq, all of them if seq is 0. Purges of one subject that come while one is under way
// are joined into one: they are the tightest limit of a replicated stream. It returns once the messages are gone.
func (b *Bus) Purge(ctx context.Context, s Subject, seq uint64) error {
	b.purges.mu.Lock()
	p, busy := b.purges.m[s.name]
	if !busy {
		if b.purges.m == nil {
			b.purges.m = make(map[string]*purge)
		}
		b.purges.m[s.name] = new(purge)
		b.purges.mu.Unlock()
		err := b.purgeNow(ctx, s, seq)
		b.nextPurge(s)
		return err
	}
	if p.next == nil {
		p.next = &outcome{done: make(chan struct{})}
	}
	p.waiting, p.all, p.upTo = true, p.all || seq == 0, max(p.upTo, seq)
	o := p.next
	b.purges.mu.Unlock()
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		return problemOf(ctx.Err())
	}
}

// nextPurge starts the joined purge that is waiting, if any. It runs under a deadline of its own, since its callers' differ.
func (b *Bus) nextPurge(s Subject) {
	b.purges.mu.Lock()
	defer b.purges.mu.Unlock()
	p := b.purges.m[s.name]
	if !p.waiting {
		delete(b.purges.m, s.name)
		return
	}
	seq, o := p.upTo, p.next
	if p.all {
		seq = 0
	}
	*p = purge{}
	go func() {
		o.err = b.purgeNow(context.Background(), s, seq)
		close(o.done)
		b.nextPurge(s)
	}()
}

// purgeNow is one purge. The server's seq is the first one to stay.
func (b *Bus) purgeNow(ctx context.Context, s Subject, seq uint64) error {
	request := map[string]any{"filter": s.name}
	if seq > 0 {
		request["seq"] = seq + 1
	}
	return b.api(ctx, "STREAM.PURGE."+s.stream, request, nil)
}
