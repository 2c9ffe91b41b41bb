package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"mimimi.example/pkg/problem"
)

// Options says how a service reaches the bus.
type Options struct {
	URL       string                     // comma-separated "nats://host:port"; or
	InProcess nats.InProcessConnProvider // an embedded server
	NKeyFile  string                     // holds the seed of the service's NATS user; "" for an open server, or
	NKeySeed  []byte                     // the seed itself
	Service   string                     // "hub", "kpstore", "fanout", "provider", "admin" or "replay"
	Layout    Layout
	Log       *slog.Logger         // lifecycle only; nil discards
	Traces    trace.TracerProvider // nil traces nothing
	Meters    metric.MeterProvider // nil measures nothing
}

// Bus is one service's connection. It is safe for concurrent use.
type Bus struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	service string
	layout  Layout
	log     *slog.Logger
	closed  chan struct{} // closed when the connection is
	tracing tracing
	metrics *metrics
	purges  purges
	retry   retry         // of ordered consumers
	leader  time.Duration // how long an exchange waits for a leader to be there: electionWait, and more in tests

	mu      sync.Mutex
	closing bool            // guarded by mu
	link    *link           // the present connection; guarded by mu
	serving map[string]bool // the calls that Serve answers now; guarded by mu
}

// Connect connects, trying for up to a minute while the servers cannot be reached, and checks that the user is this service's and that they take messages of our size.
func Connect(ctx context.Context, o Options) (*Bus, error) {
	o.Layout = o.Layout.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	b := &Bus{tracing: newTracing(o.Traces), service: o.Service, layout: o.Layout, log: o.Log, closed: make(chan struct{}), retry: defaultRetry, serving: make(map[string]bool),
		leader: electionWait, link: newLink()}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if b.metrics, err = newMetrics(o.Meters); err != nil {
		return nil, fmt.Errorf("make metrics: %w", err)
	}
	opts, err := b.natsOptions(o)
	if err != nil {
		return nil, err
	}
	if b.nc, err = dial(ctx, o.URL, opts); err != nil {
		return nil, err
	}
	if err := b.checkUser(); err != nil {
		b.nc.Close()
		return nil, err
	}
	if b.nc.MaxPayload() < maxPayload {
		b.nc.Close()
		return nil, errors.New("bus: the server's max_payload is below 8 MiB: set it to 8MB in its configuration")
	}
	if b.js, err = jetstream.New(b.nc, jetstream.WithDefaultTimeout(requestTimeout)); err != nil {
		b.nc.Close()
		return nil, fmt.Errorf("connect to bus: %w", err)
	}
	go b.avoidStranded()
	return b, nil
}

// checkUser sees whether the server lets this service hear its answers: with another service's user every request would wait for one in vain.
func (b *Bus) checkUser() error {
	sub, err := b.nc.SubscribeSync(b.nc.NewInbox())
	if err != nil {
		return problemOf(err)
	}
	if err := errors.Join(b.nc.FlushTimeout(requestTimeout), sub.Unsubscribe()); err != nil {
		return problem.Wrap(problem.Unavailable, "the bus cannot be reached", err)
	}
	if errors.Is(b.nc.LastError(), nats.ErrPermissionViolation) {
		return errors.New("bus: the NATS user is another service's: nkey_file must hold this service's key")
	}
	return nil
}

func (o *Options) validate() error {
	var errs []error
	if !slices.Contains(services, o.Service) {
		errs = append(errs, errService)
	}
	if (o.URL == "") == (o.InProcess == nil) {
		errs = append(errs, errors.New("bus: give either a URL or an in-process server"))
	}
	return errors.Join(append(errs, o.Layout.validate())...)
}

// natsOptions says how the client behaves: it reconnects for ever, replies come to an inbox prefix of the service's own (so that permissions can
// tell services apart), and nothing is printed.
func (b *Bus) natsOptions(o Options) ([]nats.Option, error) {
	opts := []nats.Option{
		nats.Name("mimimi-" + o.Service), nats.CustomInboxPrefix(inboxPrefix(o.Service)),
		nats.Timeout(dialTimeout), nats.MaxReconnects(-1), nats.ReconnectWait(retryPause), nats.ReconnectJitter(retryPause, retryPause),
		nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(pingsUnanswered),
		nats.RetryOnFailedConnect(false), nats.DrainTimeout(callTimeout),
		nats.ClosedHandler(func(*nats.Conn) { close(b.closed) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			b.cut()
			if err != nil { // nil when we close
				b.metrics.disconnections.Add(context.Background(), 1)
				b.log.Warn("bus connection lost")
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { b.log.Info("bus connection back") }),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) { // its text holds subjects
			b.log.Warn("bus connection reported an asynchronous error")
		}),
	}
	if o.InProcess != nil {
		opts = append(opts, nats.InProcessServer(o.InProcess))
	}
	if o.NKeyFile != "" {
		key, err := nats.NkeyOptionFromSeed(o.NKeyFile)
		if err != nil {
			return nil, errors.New("bus: the nkey file holds no readable seed")
		}
		opts = append(opts, key)
	}
	if len(o.NKeySeed) > 0 {
		key, err := nkeys.FromSeed(o.NKeySeed)
		if err != nil {
			return nil, errors.New("bus: the nkey seed is not readable")
		}
		public, err := key.PublicKey()
		if err != nil {
			return nil, errors.New("bus: the nkey seed is not readable")
		}
		opts = append(opts, nats.Nkey(public, key.Sign))
	}
	return opts, nil
}

// inboxPrefix begins the subjects of a service's answers: its own, so that no other may listen there.
func inboxPrefix(service string) string { return "_INBOX_" + service }

// dial tries until it is connected, ctx is done or a minute has passed.
func dial(ctx context.Context, url string, opts []nats.Option) (*nats.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	for {
		nc, err := nats.Connect(url, opts...)
		if err == nil {
			return nc, nil
		}
		if errors.Is(err, nats.ErrAuthorization) {
			return nil, errors.New("bus: the server refused this service's credentials")
		}
		select {
		case <-ctx.Done():
			return nil, problem.Wrap(problem.Unavailable, "the bus cannot be reached", err)
		case <-time.After(retryPause):
		}
	}
}

// Close stops taking messages in, lets handlers finish what they have, and closes the connection; after ctx it closes at once.
func (b *Bus) Close(ctx context.Context) error {
	b.mu.Lock()
	first := !b.closing
	b.closing = true
	b.mu.Unlock()
	if first {
		if err := b.nc.Drain(); err != nil { // not connected: nothing to drain
			b.nc.Close()
		}
	}
	select {
	case <-b.closed:
		return nil
	case <-ctx.Done():
		b.nc.Close()
		return fmt.Errorf("close bus: %w", ctx.Err())
	}
}

// Ready is nil while the connection stands and Serve answers every call that is this service's to answer; otherwise, and once Serve is asked to stop,
// problem.Unavailable.
func (b *Bus) Ready() error {
	if !b.nc.IsConnected() {
		return problem.New(problem.Unavailable, "the bus connection is down")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range calls {
		if c.server == b.service && !b.serving[c.name] {
			return problem.New(problem.Unavailable, "the service does not answer its calls")
		}
	}
	return nil
}

// setServing notes whether Serve answers a call.
func (b *Bus) setServing(name string, now bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.serving[name] = now
}
