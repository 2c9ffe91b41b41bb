package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"mimimi.example/pkg/problem"
)

// Init creates all streams and fan-out's consumers. It is for the admin service and the embedded server. Repeating it changes nothing; a stream that
// exists with other settings is changed only where that can lose nothing (a bound raised, the duplicate window), and Init refuses all else
// and says which setting. It waits while a fresh cluster elects its leaders, ten minutes in all. A crash half-way leaves what was created; run it again.
func (b *Bus) Init(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, initTimeout)
	defer cancel()
	if err := b.checkPartitionCount(ctx); err != nil {
		return err
	}
	for _, want := range b.layout.streams() {
		if err := b.retryUnavailable(ctx, func() error { return b.initStream(ctx, want) }); err != nil {
			return fmt.Errorf("init stream %s: %w", want.Name, err)
		}
	}
	for _, c := range b.GroupConsumers() {
		if err := b.retryUnavailable(ctx, func() error { return b.makeConsumer(ctx, c, "") }); err != nil {
			return fmt.Errorf("init consumer of %s: %w", c.stream, err)
		}
	}
	return nil
}

// retryUnavailable repeats f until it is done or ctx is.
func (b *Bus) retryUnavailable(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil || problem.KindOf(err) != problem.Unavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retryPause):
		}
	}
}

// checkPartitionCount refuses a layout with fewer partitions than exist; more are found by each stream's metadata.
func (b *Bus) checkPartitionCount(ctx context.Context) error {
	return b.retryUnavailable(ctx, func() error {
		_, err := b.streamConfig(ctx, streamName(streamGroup, b.layout.Partitions))
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return errors.New("bus: the deployment has more partitions than this layout; their number is fixed for life")
	})
}

// initStream creates or raises one stream.
func (b *Bus) initStream(ctx context.Context, want jetstream.StreamConfig) error {
	have, err := b.streamConfig(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if _, err = b.js.CreateStream(ctx, want); errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return errors.New("bus: somebody else created it meanwhile with other settings")
		}
		return b.layout.initProblem(err)
	}
	if err != nil {
		return err
	}
	diff := drift(want, have)
	if len(diff) == 0 {
		return nil
	}
	var refused []string
	for _, d := range diff {
		if !d.safe {
			refused = append(refused, d.setting)
		}
	}
	if len(refused) > 0 {
		return fmt.Errorf("bus: refused to change %s: that could lose data", strings.Join(refused, ", "))
	}
	_, err = b.js.UpdateStream(ctx, keepChoice(want, have))
	return b.layout.initProblem(err)
}

// codeStorage is JetStream's "insufficient storage resources available".
const codeStorage = 10047

// initProblem keeps the server's reason: it names settings only, and whoever runs Init needs it. A server with too little storage has it tomorrow too.
func (l Layout) initProblem(err error) error {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == codeStorage {
		return fmt.Errorf("bus: the streams reserve %d GiB, more than the server has: raise max_file_store in its jetstream section", l.reserved()/gib)
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.Code < 500 {
		return fmt.Errorf("bus: the server refused: %s", api.Description)
	}
	return problemOf(err)
}

// reserved is how many bytes the streams reserve of a server's max_file_store, whether they are ever written or not.
func (l Layout) reserved() (sum int64) {
	for _, s := range l.streams() {
		sum += s.MaxBytes
	}
	return sum
}

// streamConfig is the stream's present configuration. Errors: jetstream.ErrStreamNotFound, problem.Unavailable.
func (b *Bus) streamConfig(ctx context.Context, name string) (jetstream.StreamConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s, err := b.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return jetstream.StreamConfig{}, err
	}
	if err != nil {
		return jetstream.StreamConfig{}, problemOf(err)
	}
	return s.CachedInfo().Config, nil
}

// setting is one difference; safe means that changing it to what the table says can lose nothing.
type setting struct {
	setting string
	safe    bool
}

// raised says whether a bound that may be absent (≤ 0 means no bound) only gets looser.
func raised(want, have int64) bool { return want <= 0 || have > 0 && want >= have }

// drift lists every setting of the table that a stream has differently.
func drift(want, have jetstream.StreamConfig) []setting {
	var d []setting
	note := func(same bool, name string, safe bool) {
		if !same {
			d = append(d, setting{name, safe})
		}
	}
	note(slices.Equal(sorted(want.Subjects), sorted(have.Subjects)), "subjects", len(want.Subjects) > len(have.Subjects))
	note(want.Storage == have.Storage, "storage", false)
	note(want.Replicas == have.Replicas, "replicas", want.Replicas > have.Replicas)
	note(want.Retention == have.Retention, "retention", false)
	note(want.Discard == have.Discard, "discard", want.Discard == jetstream.DiscardNew)
	note(want.DiscardNewPerSubject == have.DiscardNewPerSubject, "discard_new_per_subject", want.DiscardNewPerSubject)
	note(want.MaxAge == have.MaxAge || chosen(have.Name, have.MaxAge), "max_age", raised(int64(want.MaxAge), int64(have.MaxAge)))
	note(want.MaxBytes == have.MaxBytes, "max_bytes", raised(want.MaxBytes, have.MaxBytes))
	note(want.MaxMsgs == have.MaxMsgs, "max_msgs", raised(want.MaxMsgs, have.MaxMsgs))
	note(want.MaxMsgsPerSubject == have.MaxMsgsPerSubject, "max_msgs_per_subject", raised(want.MaxMsgsPerSubject, have.MaxMsgsPerSubject))
	note(want.MaxMsgSize == have.MaxMsgSize, "max_msg_size", raised(int64(want.MaxMsgSize), int64(have.MaxMsgSize)))
	note(want.MaxConsumers == have.MaxConsumers, "max_consumers", false)
	note(want.Duplicates == have.Duplicates, "duplicate_window", true)
	note(want.AllowDirect == have.AllowDirect, "allow_direct", true)
	note(want.AllowMsgTTL == have.AllowMsgTTL, "allow_msg_ttl", want.AllowMsgTTL)
	note(want.DenyDelete == have.DenyDelete, "deny_delete", want.DenyDelete)
	note(want.DenyPurge == have.DenyPurge, "deny_purge", want.DenyPurge)
	note(!have.Sealed && !have.NoAck && have.Mirror == nil && len(have.Sources) == 0 && have.SubjectTransform == nil && have.RePublish == nil, "sources", false)
	note(want.Metadata[metaPartitions] == have.Metadata[metaPartitions], "partitions", false)
	note(want.Metadata[metaKey] == have.Metadata[metaKey], "deployment key", false)
	return d
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }

// Verify compares the streams that this service writes or reads (for the admin service all), and fan-out's consumers for fan-out, with the table, and reports each setting that has
// drifted, by stream. A service refuses to run on drift. Errors: problem.Unavailable when the bus does not answer; ErrNotInitialised; any other error is drift.
func (b *Bus) Verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	found := make(map[string][]string) // settings by stream
	own := b.layout.streamsFor(b.service)
	for _, want := range b.layout.streams() {
		if !slices.Contains(own, want.Name) {
			continue
		}
		have, err := b.streamConfig(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			found[want.Name] = []string{driftMissing}
			continue
		}
		if err != nil {
			return err
		}
		for _, d := range drift(want, have) {
			found[want.Name] = append(found[want.Name], d.setting)
		}
	}
	for _, c := range b.GroupConsumers() {
		if b.service != serviceFanout && b.service != serviceAdmin || len(found[c.stream]) > 0 {
			continue
		}
		ok, err := b.consumerAsDeclared(ctx, c)
		if err != nil {
			return err
		}
		if !ok {
			found[c.stream] = append(found[c.stream], driftConsumer)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return driftError(found)
}

// ErrNotInitialised says that streams or consumers are missing and none is there that differs: Init has not run, or is running.
var ErrNotInitialised = errors.New("bus: the deployment is not initialised: run init, or wait for it")

// The two differences that a deployment has which is not initialised yet.
const (
	driftMissing  = "missing"
	driftConsumer = "consumer"
)

func driftError(found map[string][]string) error {
	var errs []error
	absent := true
	for _, name := range slices.Sorted(maps.Keys(found)) {
		for _, setting := range found[name] {
			absent = absent && (setting == driftMissing || setting == driftConsumer)
		}
		errs = append(errs, fmt.Errorf("bus: stream %s differs from the table in %s: run init with this version's layout", name, strings.Join(found[name], ", ")))
	}
	if absent {
		errs = append(errs, ErrNotInitialised)
	}
	return errors.Join(errs...)
}

// consumerAsDeclared says whether c exists with the settings that Consume relies on.
func (b *Bus) consumerAsDeclared(ctx context.Context, c Consumer) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	have, err := b.js.Consumer(ctx, c.stream, c.name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return false, nil
	}
	if err != nil {
		return false, problemOf(err)
	}
	got, want := have.CachedInfo().Config, consumerConfig(c.name, "")
	return got.AckPolicy == want.AckPolicy && got.AckWait == want.AckWait && got.MaxDeliver == want.MaxDeliver && got.MaxAckPending == want.MaxAckPending &&
		got.PriorityPolicy == want.PriorityPolicy && got.PinnedTTL == want.PinnedTTL && slices.Equal(got.PriorityGroups, want.PriorityGroups) &&
		got.FilterSubject == "" && len(got.FilterSubjects) == 0 && got.InactiveThreshold == 0, nil
}

// Consumer names one of the declared ordered consumers.
type Consumer struct {
	name, stream string
	by           func(*Message) string // nil: by subject
}

// By returns c with another idea of what is to be kept in order: messages for which key returns the same string, and no others. key depends on the message
// alone, is quick, and may be called for a message more than once; if it panics, the message is kept in order by its subject. All replicas use the same key.
func (c Consumer) By(key func(*Message) string) Consumer {
	c.by = key
	return c
}

// key is what a message is kept in order by.
func (c Consumer) key(m *Message) (key string) {
	if c.by == nil {
		return orderKey(m.Subject)
	}
	defer func() {
		if recover() != nil { // its value may hold anything; what cannot be read is the handler's affair
			key = orderKey(m.Subject)
		}
	}()
	return c.by(m)
}

// fanoutConsumer is fan-out's durable on every GROUP stream.
const fanoutConsumer = "fanout"

// GroupConsumers are fan-out's: one per GROUP stream.
func (b *Bus) GroupConsumers() []Consumer {
	c := make([]Consumer, b.layout.Partitions)
	for p := range c {
		c[p] = Consumer{name: fanoutConsumer, stream: streamGroup + "_" + strconv.Itoa(p)}
	}
	return c
}

// OutboxConsumer makes (if missing) and returns the ordered consumer of one destination domain, so that a domain that is down holds back nobody else. Its name
// is a token. Errors: problem.Unavailable, problem.Limited when 1,000 domains have one.
func (b *Bus) OutboxConsumer(ctx context.Context, domain string) (Consumer, error) {
	c := Consumer{name: b.layout.token("outboxconsumer", []byte(domain)), stream: streamOutbox}
	return c, b.makeConsumer(ctx, c, b.Outbox(domain).name)
}

// codeMaxConsumers is JetStream's "maximum consumers limit reached".
const codeMaxConsumers = 10026

// makeConsumer creates c or finds that it exists. Two replicas that create it at once get the same one.
func (b *Bus) makeConsumer(ctx context.Context, c Consumer, filter string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := b.js.CreateOrUpdateConsumer(ctx, c.stream, consumerConfig(c.name, filter))
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == codeMaxConsumers {
		return problem.Wrap(problem.Limited, "there are too many destination domains", err)
	}
	return problemOf(err)
}
