package bus

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"mimimi.example/pkg/problem"
)

// Message is a stored message. Metadata beyond this never leaves the package.
type Message struct {
	Sequence uint64
	Data     []byte
	Subject  string    // its token form; for keys of maps only
	Time     time.Time // the server's
}

// Last reads a subject's (or family's) last message from the stream's leader, so it sees every acknowledged write. Errors: problem.NotFound if there is
// none, problem.Unavailable when no leader answers.
func (b *Bus) Last(ctx context.Context, s Subject) (*Message, error) {
	return b.get(ctx, s, map[string]any{"last_by_subj": s.name})
}

// At reads the message of s with this sequence from the leader. Errors: as Last; a sequence of another subject is problem.NotFound.
func (b *Bus) At(ctx context.Context, s Subject, seq uint64) (*Message, error) {
	if seq == 0 {
		return nil, problem.New(problem.NotFound, "there is no such message")
	}
	m, err := b.get(ctx, s, map[string]any{"seq": seq})
	if err == nil && !s.matches(m.Subject) {
		return nil, problem.New(problem.NotFound, "there is no such message")
	}
	return m, err
}

// get asks the leader: the client library would use a direct get, which any replica answers.
func (b *Bus) get(ctx context.Context, s Subject, request map[string]any) (*Message, error) {
	var answer struct {
		Message *struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	if err := b.api(ctx, "STREAM.MSG.GET."+s.stream, request, &answer); err != nil {
		return nil, err
	}
	m := answer.Message
	if m == nil {
		return nil, problem.New(problem.Internal, "the bus answered in an unknown form")
	}
	return &Message{Sequence: m.Sequence, Data: m.Data, Subject: m.Subject, Time: m.Time}, nil
}

// Read returns messages of s (a family is allowed) with sequence > after, in order, at most limit and about maxBytes (one message may
// cross it; at least one is returned if there is any); more says that there are others. On a replicated stream any replica may answer: the newest messages may
// be missing, so an empty answer says nothing about what was just written. Within what it returns nothing is missing. Errors: problem.Unavailable; never a
// short answer in place of an error.
func (b *Bus) Read(ctx context.Context, s Subject, after uint64, limit, maxBytes int) (msgs []*Message, more bool, err error) {
	if limit <= 0 || maxBytes <= 0 {
		return nil, false, problem.New(problem.Internal, "a read needs positive bounds")
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	r, err := b.newReader(s)
	if err != nil {
		return nil, false, err
	}
	defer r.close()
	for size := 0; ; {
		batch, pending, err := r.batch(ctx, after, min(limit-len(msgs), readBatch), min(maxBytes-size, readBatchBytes))
		if err != nil {
			return nil, false, err
		}
		msgs = append(msgs, batch...)
		for _, m := range batch {
			size += len(m.Data) + len(m.Subject)
		}
		switch {
		case pending == 0:
			return msgs, false, nil
		case len(batch) == 0 || len(msgs) >= limit || size >= maxBytes: // none: a replica that lags behind the one before answered
			return msgs, true, nil
		}
		after = batch[len(batch)-1].Sequence
	}
}

// reader is one subscription for the answers of batched direct gets, one at a time.
type reader struct {
	b     *Bus
	s     Subject
	inbox string
	sub   *nats.Subscription
	stale bool // the batch before said that there is more: then "nothing" means that this replica lags
}

func (b *Bus) newReader(s Subject) (*reader, error) {
	r := &reader{b: b, s: s}
	return r, r.listen()
}

// listen subscribes to a new inbox: what is on its way to an earlier one is not to be taken for an answer.
func (r *reader) listen() error {
	inbox := r.b.nc.NewInbox()
	sub, err := r.b.nc.SubscribeSync(inbox)
	if err != nil {
		return problemOf(err)
	}
	r.inbox, r.sub = inbox, sub
	return nil
}

func (r *reader) close() { _ = r.sub.Unsubscribe() } // fails only when the connection is gone, and the subscription with it

var errLost = errors.New("an answer was lost")

// batch is batchOnce, again and again while no replica answers, one that was asked is gone, or an answer is lost.
func (r *reader) batch(ctx context.Context, after uint64, n, maxBytes int) (msgs []*Message, pending uint64, err error) {
	for until := time.Now().Add(r.b.leader); ; {
		msgs, pending, err = r.batchOnce(ctx, after, n, maxBytes)
		if problem.KindOf(err) != problem.Unavailable || time.Now().After(until) || !sleep(ctx, retryPause) {
			return msgs, pending, err
		}
		r.close()
		if err := r.listen(); err != nil {
			return nil, 0, err
		}
	}
}

// batchOnce is one batched direct get, read to its end-of-batch marker. Each answer names the sequence of the one before, and the marker that of the last:
// a lost one is an error. It returns how many messages there are beyond.
func (r *reader) batchOnce(ctx context.Context, after uint64, n, maxBytes int) (msgs []*Message, pending uint64, err error) {
	ctx, cancel := r.b.tryOf(ctx)
	defer cancel()
	request, err := json.Marshal(map[string]any{"seq": after + 1, "next_by_subj": r.s.name, "batch": n, "max_bytes": maxBytes})
	if err != nil {
		return nil, 0, problem.Wrap(problem.Internal, "a request could not be encoded", err)
	}
	if err := r.b.nc.PublishRequest("$JS.API.DIRECT.GET."+r.s.stream, r.inbox, request); err != nil {
		return nil, 0, problemOf(err)
	}
	last := uint64(0)
	for {
		answer, err := r.sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, 0, problemOf(err)
		}
		switch answer.Header.Get("Status") {
		case "":
		case "204":
			if number(answer, "Nats-Last-Sequence") != last {
				return nil, 0, problemOf(errLost)
			}
			pending = number(answer, "Nats-Num-Pending")
			r.stale = pending > 0
			return msgs, pending, nil
		case "404":
			if r.stale {
				return nil, 1, nil
			}
			return nil, 0, nil
		case "503":
			return nil, 0, problemOf(nats.ErrNoResponders)
		default:
			return nil, 0, problem.New(problem.Internal, "the bus refused a read")
		}
		m, err := directMessage(answer)
		if err != nil {
			return nil, 0, err
		}
		if number(answer, "Nats-Last-Sequence") != last || m.Sequence <= last {
			return nil, 0, problemOf(errLost)
		}
		msgs, last = append(msgs, m), m.Sequence
	}
}

// number is a header's value, 0 if it is missing or none.
func number(m *nats.Msg, header string) uint64 {
	n, err := strconv.ParseUint(m.Header.Get(header), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// directMessage is the stored message that an answer to a direct get carries.
func directMessage(m *nats.Msg) (*Message, error) {
	at, err := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
	seq := number(m, "Nats-Sequence")
	if err != nil || seq == 0 {
		return nil, problem.New(problem.Internal, "the bus answered in an unknown form")
	}
	return &Message{Sequence: seq, Data: m.Data, Subject: m.Header.Get("Nats-Subject"), Time: at}, nil
}

// Count returns how many messages s (a family is allowed) holds, by its stream's leader. A family of more than 10,000 subjects is refused with problem.Limited.
func (b *Bus) Count(ctx context.Context, s Subject) (int, error) {
	var answer struct {
		State struct {
			Subjects map[string]int `json:"subjects"`
		} `json:"state"`
		Total int `json:"total"`
	}
	if err := b.api(ctx, "STREAM.INFO."+s.stream, map[string]any{"subjects_filter": s.name}, &answer); err != nil {
		return 0, err
	}
	if answer.Total > maxCountSubjects {
		return 0, problem.New(problem.Limited, "there are too many subjects to count")
	}
	n := 0
	for _, c := range answer.State.Subjects {
		n += c
	}
	return n, nil
}
