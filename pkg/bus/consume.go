package bus

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"mimimi.example/pkg/problem"
)

// Consume works off an ordered consumer until ctx is done, and returns nil then, once the handlers that run have returned.
//
// Of all replicas that call it for c, one is active (a priority group with a pinned client). Messages of one key, a group or otherwise a subject
// unless Consumer.By says what, are handled in the order of the stream; different keys concurrently up to 32. While handle returns problem.Unavailable, Limited, Stale or Internal it
// is called again with growing pauses, which holds back that key only (and all keys, once 512 messages are out); after 20 internal errors, and at once on any
// other error, the message goes to DEAD with its family, sequence and the constant sentence. A panic of handle counts as an internal error. A message is acknowledged, and
// the acknowledgement confirmed, after handle returned or DEAD has it.
//
// handle must be idempotent, keyed on the message's sequence: a crash before the acknowledgement repeats the message. When the active replica dies another takes
// over within about 10 seconds and begins with the first message that is not acknowledged; it waits until the old one's messages have
// come back or are acknowledged, so the order of a key holds. A replica that only seemed dead may still be inside handle for a message that the new one
// handles too: the pin is not a fence.
//
// Errors: problem.Internal if the consumer does not exist or was deleted, problem.Unavailable if the bus does not answer at the start.
func (b *Bus) Consume(ctx context.Context, c Consumer, handle func(ctx context.Context, m *Message) error) error {
	return b.ConsumeTogether(ctx, c, nil, func(ctx context.Context, ms []*Message) error { return handle(ctx, ms[0]) })
}

// ConsumeTogether is Consume for a handler that can take several messages of one key at once: take says how many of those that wait, the first ones, in order. It is
// quick, and nil means one. When handle fails with several, nothing of them is acknowledged: after an error that may pass the first one is handled alone, as Consume
// does, before others are taken together; after another error each of them is.
func (b *Bus) ConsumeTogether(ctx context.Context, c Consumer, take func(waiting []*Message) int, handle func(ctx context.Context, ms []*Message) error) error {
	bound, cancel := bounded(ctx)
	consumer, err := b.js.Consumer(bound, c.stream, c.name)
	cancel()
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return problem.Wrap(problem.Internal, "a stream or consumer is missing: initialise the deployment first", err)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return problemOf(err)
	}
	w := &worker{b: b, c: c, consumer: consumer, take: take, handle: handle, held: make(map[uint64]*held), keys: make(map[string][]*held), begun: make(map[string]int),
		slots: make(chan struct{}, maxConcurrency), unsettled: make(chan struct{}, 1)}
	return w.run(ctx)
}

// retry is how often and how long an ordered consumer tries.
type retry struct {
	first, max time.Duration // pauses, doubling in between
	internal   int           // tries of a message that fails with an internal error
}

var defaultRetry = retry{first: firstRetry, max: maxRetry, internal: maxInternal}

// held is a delivered message that is not acknowledged. msg is guarded by worker.mu: a redelivery replaces it.
type held struct {
	m     *Message
	key   string
	msg   jetstream.Msg
	from  trace.SpanContext // of whoever wrote it, if that is known
	tries int               // how often it was handled, as far as that is traced; its key's goroutine's
}

// worker is one Consume.
type worker struct {
	b        *Bus
	c        Consumer
	consumer jetstream.Consumer
	take     func([]*Message) int // nil: one
	handle   func(context.Context, []*Message) error
	slots    chan struct{} // bounds concurrent handles
	running  sync.WaitGroup
	lag      atomic.Int64 // messages that the consumer has yet to work off, by the last count

	ctx       context.Context // of this worker's handlers; set before the first delivery
	unsettled chan struct{}   // holds one when settle should look at once

	mu      sync.Mutex
	held    map[uint64]*held   // by stream sequence: waiting, being handled, or being acknowledged; guarded by mu
	keys    map[string][]*held // what a key's goroutine has yet to do, in order; present while the goroutine runs; guarded by mu
	begun   map[string]int     // how many of a key's, the first ones, its goroutine works on; guarded by mu
	given   uint64             // how many were acknowledged; guarded by mu
	arrived []*held            // delivered while settling; guarded by mu
	pin     string             // the server's name for our turn; guarded by mu
	last    uint64             // the newest delivery's number, by which we notice that one was lost on the way; guarded by mu
	settled bool               // all that the server counts as delivered, we hold; guarded by mu
	lost    bool               // our turn is over: keep nothing alive; guarded by mu
	stopped bool               // begin nothing; guarded by mu
}

// run pulls until ctx is done or the consumer is gone.
func (w *worker) run(ctx context.Context) error {
	handling, stop := context.WithCancel(ctx)
	defer stop()
	w.ctx = handling
	cc, err := w.consumer.Consume(w.deliver, jetstream.PullPriorityGroup(pinGroup), jetstream.PullMaxMessages(maxAckPending),
		jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullHeartbeat), jetstream.ConsumeErrHandler(w.trouble))
	if err != nil {
		return problemOf(err)
	}
	var background sync.WaitGroup
	background.Go(func() { every(handling, progressEvery, nil, w.progress) })
	background.Go(func() { every(handling, settleEvery, w.unsettled, w.settle) })
	w.b.metrics.add(w)
	defer w.b.metrics.remove(w)
	background.Go(func() {
		w.measure(handling)
		every(handling, measureEvery, nil, w.measure)
	})
	select {
	case <-ctx.Done():
		err = nil
	case <-cc.Closed():
		err = problem.New(problem.Internal, "the consumer is gone")
		if w.b.nc.IsClosed() {
			err = problem.New(problem.Unavailable, "the bus connection is closed")
		}
	}
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	stop()
	background.Wait()
	w.running.Wait()
	w.drain(cc)
	w.handOver()
	return err
}

// drain ends the subscription after what is on its way to us has arrived, so that it can be given back. While the connection is down there is nothing to wait for.
func (w *worker) drain(cc jetstream.ConsumeContext) {
	cc.Drain()
	t := time.NewTimer(ackTimeout)
	defer t.Stop()
	select {
	case <-cc.Closed():
	case <-t.C:
	}
}

// every calls f at intervals, and when kicked, until ctx is done.
func every(ctx context.Context, d time.Duration, kick <-chan struct{}, f func(context.Context)) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-kick:
			f(ctx)
		case <-t.C:
			f(ctx)
		}
	}
}

// deliver takes a message from the server. It never blocks: what is held is bounded by the consumer's max ack pending.
func (w *worker) deliver(msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err != nil {
		return // not a delivery
	}
	h := &held{msg: msg, m: &Message{Sequence: meta.Sequence.Stream, Data: msg.Data(), Subject: msg.Subject(), Time: meta.Timestamp}}
	h.key, h.from = w.c.key(h.m), w.b.tracing.carried(h.m.Subject, msg.Headers())
	w.mu.Lock()
	defer w.mu.Unlock()
	pin := msg.Headers().Get("Nats-Pin-Id")
	if pin != w.pin {
		w.pin, w.settled, w.lost = pin, false, false
	} else if meta.Sequence.Consumer != w.last+1 {
		w.settled = false
	}
	w.last = meta.Sequence.Consumer
	seq := meta.Sequence.Stream
	if old, ok := w.held[seq]; ok {
		old.msg = msg // delivered again because a sign of life was late: acknowledge the newest delivery
		return
	}
	w.held[seq] = h
	switch {
	case w.stopped: // only kept to be given back
	case w.settled:
		w.enqueue(h)
	default:
		w.arrived = append(w.arrived, h)
		select {
		case w.unsettled <- struct{}{}:
		default:
		}
	}
}

// trouble hears of status messages. Only the loss of our turn matters here: what has not been begun is the next replica's.
func (w *worker) trouble(_ jetstream.ConsumeContext, err error) {
	if !errors.Is(err, jetstream.ErrPinIDMismatch) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = true
	w.drop()
}

// drop forgets what has not been begun. Call with mu held.
func (w *worker) drop() {
	for _, h := range w.arrived {
		delete(w.held, h.m.Sequence)
	}
	w.arrived = nil
	for key, queue := range w.keys {
		n := max(1, w.begun[key]) // are in its goroutine's hands, or about to be
		for _, h := range queue[n:] {
			delete(w.held, h.m.Sequence)
		}
		w.keys[key] = queue[:n]
	}
}

// settle ends the wait after a change of turns or a lost delivery: once the server counts no message as delivered but those that we hold, nothing older is
// on its way, and ours can be put in order.
func (w *worker) settle(ctx context.Context) {
	w.mu.Lock()
	wait, pin := !w.settled && !w.lost && len(w.arrived) > 0, w.pin
	before, given := len(w.held), w.given
	w.mu.Unlock()
	if !wait {
		return
	}
	info, err := w.info(ctx)
	if err != nil {
		return // the next tick asks again
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// The server counted at some moment since: of what we held before, at least this many messages were among those it counted. What has arrived
	// meanwhile must not stand in for one that is missing.
	if w.pin != pin || w.settled || info.AckPending > before-int(w.given-given) {
		return
	}
	w.settled = true
	slices.SortFunc(w.arrived, func(a, b *held) int { return cmp.Compare(a.m.Sequence, b.m.Sequence) })
	for _, h := range w.arrived {
		w.enqueue(h)
	}
	w.arrived = nil
}

// enqueue gives h to its key's goroutine. Call with mu held.
func (w *worker) enqueue(h *held) {
	queue, running := w.keys[h.key]
	w.keys[h.key] = append(queue, h)
	if !running {
		ctx := w.ctx
		w.running.Go(func() { w.work(ctx, h.key) })
	}
}

// work handles one key's messages in order until there are none.
func (w *worker) work(ctx context.Context, key string) {
	for {
		w.mu.Lock()
		some := w.begin(key)
		w.mu.Unlock()
		done := w.finishSome(ctx, some)
		w.mu.Lock()
		for _, h := range some[:done] {
			delete(w.held, h.m.Sequence)
			w.given++
		}
		w.keys[key], w.begun[key] = w.keys[key][done:], 0
		if done == 0 || len(w.keys[key]) == 0 {
			delete(w.keys, key)
			delete(w.begun, key)
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
	}
}

// begin chooses what of a key's messages is handled next. Call with mu held.
func (w *worker) begin(key string) []*held {
	queue := w.keys[key]
	n := 1
	if w.take != nil && len(queue) > 1 {
		waiting := make([]*Message, len(queue))
		for i, h := range queue {
			waiting[i] = h.m
		}
		n = min(max(1, w.take(waiting)), len(queue))
	}
	w.begun[key] = n
	return slices.Clone(queue[:n])
}

// finishSome handles messages of one key, and returns how many of them, the first ones, are acknowledged; none if it was stopped.
func (w *worker) finishSome(ctx context.Context, some []*held) (done int) {
	if len(some) > 1 {
		switch err := w.try(ctx, some...); {
		case err == nil:
			return w.ackAll(ctx, some)
		case passes(err):
			some = some[:1]
		}
	}
	for _, h := range some {
		if !w.finish(ctx, h) {
			return done
		}
		done++
	}
	return done
}

// passes says whether an error may pass by itself, whatever the message is.
func passes(err error) bool {
	kind := problem.KindOf(err)
	return kind == problem.Unavailable || kind == problem.Limited || kind == problem.Stale
}

// ackAll acknowledges several messages and returns how many it did without a gap. An acknowledgement is a request: they are made side by side.
func (w *worker) ackAll(ctx context.Context, some []*held) int {
	ok := make([]bool, len(some))
	var wg sync.WaitGroup
	for i, h := range some {
		wg.Go(func() { ok[i] = w.ack(ctx, h) })
	}
	wg.Wait()
	if i := slices.Index(ok, false); i >= 0 {
		return i
	}
	return len(some)
}

// finish handles one message until that is done, dead or stopped, and then acknowledges it; false if it was stopped.
func (w *worker) finish(ctx context.Context, h *held) bool {
	internal, r := 0, w.b.retry
	for pause := r.first; ; pause = min(2*pause, r.max) {
		err := w.try(ctx, h)
		if err == nil {
			return w.ack(ctx, h)
		}
		kind := problem.KindOf(err)
		if kind == problem.Internal && ctx.Err() == nil {
			internal++
		}
		retry := passes(err) || kind == problem.Internal && internal < r.internal
		if !retry && ctx.Err() == nil {
			if err = w.bury(ctx, h.m, err); err == nil {
				return w.ack(ctx, h)
			}
		}
		if !sleep(ctx, pause) {
			return false
		}
	}
}

// sleep waits for d, give or take half of it; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// try calls handle once, in one of the slots.
func (w *worker) try(ctx context.Context, some ...*held) (err error) {
	if ctx.Err() != nil { // select might choose the slot: what stood before may have been given up
		return ctx.Err()
	}
	select {
	case w.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, span := w.b.tracing.process(ctx, some)
	begun := time.Now()
	defer func() {
		<-w.slots
		if recover() != nil { // its value may hold anything
			w.b.log.Error("a handler panicked", slog.String("stream", w.c.stream))
			err = problem.New(problem.Internal, "the handler panicked")
		}
		finish(span, err)
		w.b.metrics.tried(ctx, w.c.stream, time.Since(begun), err)
	}()
	ms := make([]*Message, len(some))
	for i, h := range some {
		ms[i] = h.m
	}
	return w.handle(ctx, ms)
}

// ack acknowledges until the server confirms or has kept silent several times; false if ctx ended first. If the server did not get it, the message comes again.
func (w *worker) ack(ctx context.Context, h *held) bool {
	pause := w.b.retry.first
	for range maxAckTries {
		w.mu.Lock()
		msg := h.msg
		w.mu.Unlock()
		bound, cancel := context.WithTimeout(ctx, ackTimeout)
		err := msg.DoubleAck(bound)
		cancel()
		if err == nil || errors.Is(err, jetstream.ErrMsgAlreadyAckd) || w.over() {
			w.b.metrics.done(ctx, w.c.stream, h.m)
			return true
		}
		if !sleep(ctx, pause) {
			return false
		}
		pause = min(2*pause, w.b.retry.max)
	}
	return true
}

// over says whether our turn is over, so that an unconfirmed acknowledgement is the next replica's affair.
func (w *worker) over() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

// bury records a message in DEAD. A crash between this and the acknowledgement records it twice.
func (w *worker) bury(ctx context.Context, m *Message, cause error) error {
	return w.b.bury(ctx, w.c.stream, m, cause, PublishOptions{})
}

// Bury records in DEAD that the message m of s, as Read or Last returned it, could not be processed, and why: a problem's constant sentence. The message
// stays where it is, so that an operator finds it. Within two minutes a repeat, also by another replica, records nothing more. Errors: as Publish.
func (b *Bus) Bury(ctx context.Context, s Subject, m *Message, cause error) error {
	return b.bury(ctx, s.stream, m, cause, PublishOptions{ID: s.stream + "." + strconv.FormatUint(m.Sequence, 10)})
}

func (b *Bus) bury(ctx context.Context, stream string, m *Message, cause error, o PublishOptions) error {
	reason := "internal error"
	if p, ok := errors.AsType[*problem.Error](cause); ok {
		reason = p.Sentence
	}
	entry, err := json.Marshal(Grave{Family: familyOf(m.Subject).Pattern, Stream: stream, Sequence: m.Sequence, Reason: reason})
	if err != nil {
		return problem.Wrap(problem.Internal, "a grave could not be encoded", err)
	}
	again := false
	o.Duplicate = &again
	_, err = b.Publish(ctx, b.Dead(), entry, o)
	if err == nil && !again {
		b.metrics.buried(ctx, stream, cause)
	}
	return err
}

// progress tells the server that what we hold is still being worked on, unless our turn is over.
func (w *worker) progress(context.Context) {
	w.mu.Lock()
	if w.lost {
		w.mu.Unlock()
		return
	}
	msgs := make([]jetstream.Msg, 0, len(w.held))
	for _, h := range w.held {
		msgs = append(msgs, h.msg)
	}
	w.mu.Unlock()
	for _, m := range msgs {
		if err := m.InProgress(); err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
			return // the connection is down: the next tick tries again
		}
	}
}

// handOver gives back what was not finished and, if it is our turn, ends it, so that another replica need not wait for the time limits. All of it
// is a courtesy: the limits do the same.
func (w *worker) handOver() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, seq := range slices.Sorted(maps.Keys(w.held)) {
		if err := w.held[seq].msg.Nak(); err != nil {
			return
		}
	}
	if w.pin == "" || w.lost {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), ackTimeout)
	defer cancel()
	err := w.b.api(ctx, "CONSUMER.UNPIN."+w.c.stream+"."+w.c.name, map[string]string{"group": pinGroup}, nil)
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		w.b.log.Debug("a consumer could not be handed over")
	}
}
