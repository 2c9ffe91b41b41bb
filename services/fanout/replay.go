package fanout

import (
	"context"
	"crypto/sha256"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/protobuf/proto"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/problem"
)

// Rerun is what a replay says of one entry of the log, or of one delivery that waits and that no entry leads to.
type Rerun struct {
	Sequence uint64    `json:"sequence"` // in GROUP
	Accepted time.Time `json:"accepted"` // whole seconds, UTC
	Kind     string    `json:"kind"`     // commit, proposal, message, checkpoint, invitation or unknown
	// Deliveries is how many messages of OUTBOX the entry leads to, and Waiting how many of them are there, each the same to the byte. The others were
	// fetched and acknowledged, and are gone.
	Deliveries int `json:"deliveries"`
	Waiting    int `json:"waiting"`
	// Outcome is delivered; none if an entry leads to nothing; pending while fan-out has not come so far; rejected if it went to DEAD as it should; full if it
	// did because OUTBOX had no room; unchecked if the checkpoint is gone from which it could be worked off again; or diverges.
	Outcome    string `json:"outcome"`
	Divergence string `json:"divergence,omitempty"` // a constant sentence; "" if there is nothing to say
}

// What a replay says of an entry.
const (
	saysOther   = "a delivery that waits in OUTBOX is not the one that its entry leads to"
	saysNowhere = "a delivery waits in OUTBOX that no entry leads to"
	saysGone    = "a delivery is not in OUTBOX, where an earlier one of its group to the same domain still waits"
	saysGrave   = "the entry should have gone to DEAD, for that reason, and did not"
	saysBuried  = "the entry went to DEAD, and can be delivered"
)

// Replay works off a part of a partition of the log again, from a sequence (0: the oldest) to another (0: the end), and compares with what fan-out did. Deliveries are appended to
// the OUTBOX of scratch, the bus of a server that is the caller's alone and has the same layout; live is only read, for which the user "replay" is enough.
//
// A delivery that was fetched and acknowledged is gone from OUTBOX, on purpose. What can be compared is what waits, byte by byte; that nothing waits that no entry leads to; that nothing of
// a group and a domain is missing behind what waits for it; and which entries went to DEAD, and why. Nobody may write to OUTBOX meanwhile but fan-out and the KeyPackage store.
//
// It calls f for each entry, in order, and then for each delivery that no entry leads to, and returns f's first error. Errors: as bus.Read and bus.Publish.
func Replay(ctx context.Context, live, scratch *bus.Bus, partition int, from, to uint64, f func(Rerun) error) error {
	m, err := newMetrics(noop.Meter{})
	if err != nil {
		return err
	}
	r := &rerun{live: live, scratch: scratch, stream: live.GroupPartitionLog(partition).Stream(), from: from, to: to, say: f}
	r.fanout = newFanout(rerunLog{live, scratch}, live, "", maxCachedLeaves, m)
	if r.floor, err = live.FannedOut(ctx, partition); err != nil { // before OUTBOX is read: what stands there by then has been appended
		return err
	}
	before, err := scratch.Extent(ctx, scratch.Outboxes())
	if err != nil {
		return err
	}
	r.seen, r.purged = before.Last, before.Last
	if err := r.readGraves(ctx); err != nil {
		return err
	}
	if err := r.readWaiting(ctx); err != nil {
		return err
	}
	if err := live.Each(ctx, live.GroupPartitionLog(partition), max(from, 1)-1, func(m *bus.Message) error { return r.entry(ctx, m) }); err != nil && err != errEnough {
		return err
	}
	return r.end(ctx)
}

// errEnough ends a replay early.
var errEnough = problem.New(problem.Internal, "the replay is over")

// rerunLog reads one bus and writes to another.
type rerunLog struct{ live, scratch *bus.Bus }

func (l rerunLog) Publish(ctx context.Context, s bus.Subject, data []byte, o bus.PublishOptions) (uint64, error) {
	o.ID = "" // done again, an entry's deliveries are no repeats
	return l.scratch.Publish(ctx, s, data, o)
}

func (l rerunLog) At(ctx context.Context, s bus.Subject, sequence uint64) (*bus.Message, error) {
	return l.live.At(ctx, s, sequence)
}

func (l rerunLog) Read(ctx context.Context, s bus.Subject, after uint64, limit, maxBytes int) ([]*bus.Message, bool, error) {
	return l.live.Read(ctx, s, after, limit, maxBytes)
}

// track is what is kept in order: one group's deliveries to one domain.
type track struct{ group, subject string }

// waiting is a delivery that is in OUTBOX.
type waiting struct {
	at       uint64 // in OUTBOX
	sequence uint64 // in GROUP
	track    track
	digest   [sha256.Size]byte
	accepted int64
}

// rerun is one replay. What it keeps is bounded by what waits in OUTBOX.
type rerun struct {
	*fanout
	live, scratch *bus.Bus
	stream        string
	from, to      uint64
	floor         uint64            // fan-out has worked off all entries up to it
	graves        map[uint64]string // reasons, by entry
	allGraves     bool              // none has ever been dropped
	oldest        time.Time         // of the oldest grave, of whatever entry
	waiting       map[string][]waiting
	first         map[track]waiting // the first one that waits
	missing       []missing
	last          uint64 // entry that was worked off again
	seen, purged  uint64 // of the scratch OUTBOX
	say           func(Rerun) error
}

// scratchKept is how many deliveries the scratch OUTBOX keeps before they are purged: far fewer than it has room for under one domain.
const scratchKept = 1000

// missing is a delivery that is not there, behind one that is.
type missing struct {
	said  Rerun
	first waiting
}

func (r *rerun) readGraves(ctx context.Context) error {
	r.graves = make(map[uint64]string)
	dead, err := r.live.Extent(ctx, r.live.Graves())
	if err != nil {
		return err
	}
	r.allGraves = dead.First <= 1
	return r.live.Each(ctx, r.live.Graves(), 0, func(m *bus.Message) error {
		if r.oldest.IsZero() {
			r.oldest = m.Time
		}
		g, err := bus.ParseGrave(m.Data)
		if err == nil && g.Stream == r.stream {
			r.graves[g.Sequence] = g.Reason
		}
		return nil // what nobody can read is `admin dead`'s to say
	})
}

func (r *rerun) readWaiting(ctx context.Context) error {
	r.waiting, r.first = make(map[string][]waiting), make(map[track]waiting)
	return r.live.Each(ctx, r.live.Outboxes(), 0, func(m *bus.Message) error {
		e := new(v1.OutboxEntry)
		if err := proto.Unmarshal(m.Data, e); err != nil {
			return nil // the provider says so
		}
		d := e.GetDelivery().GetDelivery()
		group := d.GetGroupId()
		if len(group) == 0 || r.live.GroupLog(group).Stream() != r.stream || d.GetSequence() < r.from || r.to > 0 && d.GetSequence() > r.to {
			return nil // another partition's, or the store's
		}
		w := waiting{at: m.Sequence, sequence: d.GetSequence(), track: track{string(group), m.Subject}, digest: sha256.Sum256(m.Data), accepted: d.GetAccepted()}
		id := string(e.GetDelivery().GetId())
		r.waiting[id] = append(r.waiting[id], w)
		if f, ok := r.first[w.track]; !ok || w.sequence < f.sequence {
			r.first[w.track] = w
		}
		return nil
	})
}

// entry works one entry off again and says what came of it.
func (r *rerun) entry(ctx context.Context, m *bus.Message) error {
	if r.to > 0 && m.Sequence > r.to {
		return errEnough
	}
	x := Rerun{Sequence: m.Sequence, Accepted: m.Time.UTC().Truncate(time.Second), Kind: "unknown"}
	if e, err := decode(m.Data); err == nil {
		x.Accepted, x.Kind = time.Unix(seconds(e), 0).UTC(), kindOf(e)
	}
	r.last = m.Sequence
	rejected := r.handle(ctx, m)
	if rejected != nil && problem.KindOf(rejected) != problem.Invalid {
		return rejected
	}
	missed, err := r.compare(ctx, &x)
	if err != nil {
		return err
	}
	r.outcome(&x, m, rejected)
	if missed != nil && x.Divergence == "" && x.Outcome == "delivered" {
		r.missing = append(r.missing, missing{x, *missed}) // looked at again at the end
	}
	return r.say(x)
}

// compare takes the entry's deliveries from the scratch OUTBOX, counts those that wait, and returns what waits before the first one that does not.
func (r *rerun) compare(ctx context.Context, x *Rerun) (missed *waiting, err error) {
	err = r.scratch.Each(ctx, r.scratch.Outboxes(), r.seen, func(m *bus.Message) error {
		r.seen = m.Sequence
		x.Deliveries++
		e := new(v1.OutboxEntry)
		if err := proto.Unmarshal(m.Data, e); err != nil {
			return err
		}
		id := string(e.GetDelivery().GetId())
		there := r.waiting[id]
		delete(r.waiting, id)
		for _, w := range there {
			if w.digest != sha256.Sum256(m.Data) {
				x.Divergence = saysOther
			}
		}
		if len(there) > 0 {
			x.Waiting++
		} else if f, ok := r.first[track{string(e.GetDelivery().GetDelivery().GetGroupId()), m.Subject}]; ok && f.sequence < x.Sequence {
			missed = &f
		}
		return nil
	})
	if err == nil && r.seen-r.purged > scratchKept {
		r.purged, err = r.seen, r.scratch.Purge(ctx, r.scratch.Outboxes(), r.seen)
	}
	return missed, err
}

// outcome compares with DEAD.
func (r *rerun) outcome(x *Rerun, m *bus.Message, rejected error) {
	reason, buried := r.graves[m.Sequence]
	switch {
	case m.Sequence > r.floor:
		x.Outcome = "pending"
	case buried && reason == errFull.Sentence:
		x.Outcome = "full"
	case buried && rejected == nil:
		x.Divergence = saysBuried
	case rejected == errNoStart && !buried:
		x.Outcome = "unchecked"
	case rejected != nil:
		x.Outcome = "rejected"
		if p, ok := rejected.(*problem.Error); (!ok || reason != p.Sentence) && (r.allGraves || !r.oldest.IsZero() && m.Time.After(r.oldest)) {
			x.Divergence = saysGrave
		}
	case x.Deliveries == 0:
		x.Outcome = "none"
	default:
		x.Outcome = "delivered"
	}
	if x.Divergence != "" {
		x.Outcome = "diverges"
	}
}

// end says what is left: what waits and no entry leads to, and what is missing behind something that waits even now.
func (r *rerun) end(ctx context.Context) error {
	for _, m := range r.missing {
		_, err := r.live.At(ctx, r.live.Outboxes(), m.first.at)
		if problem.KindOf(err) == problem.NotFound {
			continue // both were fetched while this looked
		}
		if err != nil {
			return err
		}
		m.said.Outcome, m.said.Divergence = "diverges", saysGone
		if err := r.say(m.said); err != nil {
			return err
		}
	}
	for _, there := range r.waiting {
		w := there[0]
		if w.sequence > r.last {
			continue // the replica that was read does not have its entry yet
		}
		x := Rerun{Sequence: w.sequence, Accepted: time.Unix(w.accepted, 0).UTC(), Kind: "unknown", Waiting: len(there), Outcome: "diverges", Divergence: saysNowhere}
		if err := r.say(x); err != nil {
			return err
		}
	}
	return nil
}
