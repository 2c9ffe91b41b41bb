package bus

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"mimimi.example/pkg/problem"
	"mimimi.example/pkg/telemetry"
)

// metrics are a connection's. Of a message they say which kind of stream it is from, and of no kind of stream which of its partitions or consumers.
type metrics struct {
	handled        metric.Int64Counter
	handle         metric.Float64Histogram
	age            metric.Float64Histogram
	dead           metric.Int64Counter
	disconnections metric.Int64Counter

	mu      sync.Mutex
	workers map[*worker]bool // that run; guarded by mu
}

func newMetrics(p metric.MeterProvider) (*metrics, error) {
	if p == nil {
		p = noop.NewMeterProvider()
	}
	meter, m := p.Meter("mimimi.example/pkg/bus"), &metrics{workers: make(map[*worker]bool)}
	var errs [7]error
	m.handled, errs[0] = meter.Int64Counter("bus_handled", metric.WithDescription("Handlings of consumed messages, by kind of the outcome. What may pass is tried again, so one message may count several times."))
	m.handle, errs[1] = meter.Float64Histogram("bus_handle", metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(.005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30),
		metric.WithDescription("How long one handling of consumed messages took."))
	m.age, errs[2] = meter.Float64Histogram("bus_message_age", metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(.01, .05, .1, .5, 1, 5, 10, 60, 600, 3600, 86400),
		metric.WithDescription("How old consumed messages were when they were done with: for the stream group from the hub's log to OUTBOX, for outbox from there to the queues or to the other domain."))
	m.dead, errs[3] = meter.Int64Counter("bus_dead_letters", metric.WithDescription("Messages that went to DEAD, by the stream they came from and the kind of the reason."))
	m.disconnections, errs[4] = meter.Int64Counter("bus_disconnections", metric.WithDescription("Losses of the connection to NATS."))
	_, errs[5] = meter.Int64ObservableGauge("bus_lag", metric.WithInt64Callback(m.observeLag),
		metric.WithDescription("Messages that consumers have yet to work off, over all of a stream's partitions and consumers. Every replica says the same: take the largest, not the sum."))
	_, errs[6] = meter.Float64ObservableGauge("bus_oldest", metric.WithUnit("s"), metric.WithFloat64Callback(m.observeOldest),
		metric.WithDescription("Age of the oldest message that this replica holds and has not done with; 0 if it holds none."))
	return m, errors.Join(errs[:]...)
}

// kindOfStream is a stream's label: its name without a partition.
func kindOfStream(stream string) attribute.KeyValue {
	kind, _, _ := strings.Cut(stream, "_")
	return attribute.String("stream", strings.ToLower(kind))
}

// kindOf is the label of an outcome.
func kindOf(err error) attribute.KeyValue {
	if err == nil {
		return attribute.String("kind", "ok")
	}
	return attribute.String("kind", problem.KindOf(err).String())
}

// tried counts one handling.
func (m *metrics) tried(ctx context.Context, stream string, took time.Duration, err error) {
	if err != nil && ctx.Err() != nil {
		return // it was stopped, and is another replica's now
	}
	m.handled.Add(ctx, 1, metric.WithAttributes(kindOfStream(stream), kindOf(err)))
	m.handle.Record(ctx, telemetry.Coarse(took).Seconds(), metric.WithAttributes(kindOfStream(stream)))
}

// done counts a message that was acknowledged.
func (m *metrics) done(ctx context.Context, stream string, msg *Message) {
	m.age.Record(ctx, telemetry.Coarse(time.Since(msg.Time)).Seconds(), metric.WithAttributes(kindOfStream(stream)))
}

func (m *metrics) buried(ctx context.Context, stream string, cause error) {
	m.dead.Add(ctx, 1, metric.WithAttributes(kindOfStream(stream), kindOf(cause)))
}

// add and remove keep the workers that the gauges are about.
func (m *metrics) add(w *worker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.workers[w] = true
}

func (m *metrics) remove(w *worker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.workers, w)
}

// each calls f with every worker that runs.
func (m *metrics) each(f func(stream attribute.KeyValue, w *worker)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for w := range m.workers {
		f(kindOfStream(w.c.stream), w)
	}
}

func (m *metrics) observeLag(_ context.Context, o metric.Int64Observer) error {
	lag := make(map[attribute.KeyValue]int64)
	m.each(func(stream attribute.KeyValue, w *worker) { lag[stream] += w.lag.Load() })
	for stream, n := range lag {
		o.Observe(n, metric.WithAttributes(stream))
	}
	return nil
}

func (m *metrics) observeOldest(_ context.Context, o metric.Float64Observer) error {
	now, oldest := time.Now(), make(map[attribute.KeyValue]time.Duration)
	m.each(func(stream attribute.KeyValue, w *worker) { oldest[stream] = max(oldest[stream], w.oldest(now)) })
	for stream, d := range oldest {
		o.Observe(telemetry.Coarse(d).Seconds(), metric.WithAttributes(stream))
	}
	return nil
}

// oldest is the age of the oldest message that is held, 0 for none.
func (w *worker) oldest(now time.Time) (age time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.held {
		age = max(age, now.Sub(h.m.Time))
	}
	return age
}

// measure asks how much the consumer has yet to work off. When nobody answers, what was known last stays.
func (w *worker) measure(ctx context.Context) {
	if info, err := w.info(ctx); err == nil {
		w.lag.Store(int64(info.Pending) + int64(info.AckPending))
	}
}

// consumerInfo is what the server says of a consumer, as far as it is needed here.
type consumerInfo struct {
	AckPending int `json:"num_ack_pending"`
	Pending    int `json:"num_pending"`
}

func (w *worker) info(ctx context.Context) (info consumerInfo, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err = w.b.api(ctx, "CONSUMER.INFO."+w.c.stream+"."+w.c.name, struct{}{}, &info)
	return info, err
}
