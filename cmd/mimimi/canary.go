package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/telemetry"
)

// canaryCommand measures the whole way between two test users.
type canaryCommand struct {
	Dir      string        `required:"" type:"path" help:"Folder of the two test users' state."`
	Provider string        `required:"" type:"existingfile" help:"The client.json of the first test user's provider."`
	Other    string        `type:"existingfile" help:"That of the second one's; default: the same provider."`
	Name     string        `default:"canary" help:"What the test users' names begin with: canary-1 and canary-2. Other names are needed when a folder is lost."`
	Every    time.Duration `default:"1m" help:"How often a message is sent."`
	Timeout  time.Duration `default:"30s" help:"How long it may take to arrive."`
	Rounds   int           `help:"End after so many messages; default: never."`
	Listen   string        `placeholder:"ADDR" help:"Serve /metrics there, for Prometheus. It has no authentication."`
	Otlp     string        `placeholder:"ADDR" help:"Send the metrics to an OTLP/HTTP receiver, such as 127.0.0.1:4318 or a URL."`
	JSON     bool          `help:"Print one JSON object at the end."`
}

// The canaries' bounds.
const (
	minEvery      = time.Second     // a canary is no load test
	canarySetup   = 5 * time.Minute // for accounts, connection and group
	canaryPoll    = time.Second     // between looks while they are made
	maxCanaryData = 256 << 20       // bytes of the folder, of which a message takes about a thousand: a year of one a minute
	listenTimeout = 5 * time.Second // the metrics' listener, for slow clients
	maxArrived    = 64              // messages that wait to be looked at; a late one may meet the next round
)

// Validate is called by the parser.
func (c *canaryCommand) Validate() error {
	switch {
	case c.Every < minEvery:
		return errors.New("--every must be a second or more")
	case c.Timeout < minEvery:
		return errors.New("--timeout must be a second or more")
	case c.Rounds < 0:
		return errors.New("--rounds must not be negative")
	}
	return nil
}

// Run sends messages until ctx ends or all rounds are over, in which case the error is nil only if all arrived.
func (c *canaryCommand) Run(ctx context.Context, out io.Writer) (err error) {
	tel, err := telemetry.New(telemetry.Options{Service: "canary", OTLP: receiver(c.Otlp)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tel.Shutdown(context.WithoutCancel(ctx))) }()
	stop, err := c.serve(tel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	k, err := c.start(ctx, tel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.close()) }()
	if !c.JSON {
		fmt.Fprintf(out, "the test users are in a group; a message every %v\n", c.Every)
	}
	if err := c.rounds(ctx, out, k); err != nil {
		return err
	}
	if c.JSON {
		err = printJSON(out, map[string]int{"delivered": k.delivered, "failed": k.failed})
	} else {
		_, err = fmt.Fprintf(out, "%d messages arrived, %d did not\n", k.delivered, k.failed)
	}
	if c.Rounds > 0 && k.failed > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d messages did not arrive in time", k.failed, c.Rounds))
	}
	return err
}

// rounds sends one message after the other.
func (c *canaryCommand) rounds(ctx context.Context, out io.Writer, k *canary) error {
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	for n := 0; c.Rounds == 0 || n < c.Rounds; n++ {
		if n > 0 {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil
			}
		}
		arrived, err := k.round(ctx, n, c.Timeout)
		if err != nil || ctx.Err() != nil {
			return err
		}
		if !arrived && !c.JSON {
			fmt.Fprintf(out, "%s: a message did not arrive within %v\n", time.Now().UTC().Format(time.RFC3339), c.Timeout)
		}
	}
	return nil
}

// serve serves the metrics, if that is asked for, until stop is called.
func (c *canaryCommand) serve(tel *telemetry.Telemetry) (stop func() error, err error) {
	if c.Listen == "" {
		return func() error { return nil }, nil
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", tel.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	s := &http.Server{Handler: mux, ReadHeaderTimeout: listenTimeout}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	return func() error {
		err := s.Close()
		if end := <-done; !errors.Is(end, http.ErrServerClosed) {
			err = errors.Join(err, end)
		}
		return err
	}, nil
}

// canaryMetrics are the canaries' measurements.
type canaryMetrics struct {
	messages metric.Int64Counter
	delivery metric.Float64Histogram
}

func newCanaryMetrics(tel *telemetry.Telemetry) (*canaryMetrics, error) {
	meter, m := tel.Meter("mimimi.example/cmd/mimimi"), new(canaryMetrics)
	var errs [2]error
	m.messages, errs[0] = meter.Int64Counter("canary_messages", metric.WithDescription("Messages between two test users, by outcome: delivered, or failed, which is not in time or not at all."))
	m.delivery, errs[1] = meter.Float64Histogram("canary_delivery", metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(.05, .1, .2, .5, 1, 2, 5, 10, 20, 50, 100),
		metric.WithDescription("From one test user's sending to the other's having read it: edge, relay, hub, fan-out, outbox, queue and edge."))
	return m, errors.Join(errs[:]...)
}

func (m *canaryMetrics) count(ctx context.Context, arrived bool, took time.Duration) {
	outcome := "failed"
	if arrived {
		outcome = "delivered"
		m.delivery.Record(ctx, telemetry.Coarse(took).Seconds())
	}
	m.messages.Add(ctx, 1, metric.WithAttributes(attribute.String("outcome", outcome)))
}

// start opens or makes the two users, their connection and their group, and lets them listen. What was begun before is gone on with.
func (c *canaryCommand) start(ctx context.Context, tel *telemetry.Telemetry) (_ *canary, err error) {
	m, err := newCanaryMetrics(tel)
	if err != nil {
		return nil, err
	}
	k := &canary{dir: c.Dir, metrics: m}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.close())
		}
	}()
	setup, cancel := context.WithTimeout(ctx, canarySetup)
	defer cancel()
	for i, file := range []string{c.Provider, c.Other} {
		if file == "" {
			file = c.Provider
		}
		info, err := provider(file)
		if err != nil {
			return nil, err
		}
		b, err := openBird(setup, client.Config{Dir: filepath.Join(c.Dir, fmt.Sprint(i+1)), Provider: info, Spread: -1}, fmt.Sprintf("%s-%d", c.Name, i+1))
		if err != nil {
			return nil, err
		}
		k.birds[i] = b
	}
	if err := k.meet(setup); err != nil {
		return nil, fmt.Errorf("connect the test users: %w", err)
	}
	if err := k.gather(setup); err != nil {
		return nil, fmt.Errorf("make the test users' group: %w", err)
	}
	return k, k.listen(ctx)
}
