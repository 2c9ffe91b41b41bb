// Package hub serves the groups of one domain (docs/protocol.md §7, §9): it puts each group's handshakes in order, holds them to MLS's rules and the
// group's policy as far as a server can, and takes application messages from members without learning which.
//
// A group's state is a projection of its log on the bus and nothing else is kept, so replicas are interchangeable and may be stopped at any time.
//
// Guarantees, whatever crashes, retries or happens at once:
//
//   - An accepted handshake stands in the log before the answer is given, once, after exactly the state against which every rule of §9 was checked. Of two
//     that want the same place one is accepted.
//   - A retry with the same request id gets the same answer, as long as no more than 128 later entries were accepted.
//   - A group id is used for one group, for as long as anything of the group is there.
//   - A refusal is given against what the stream's leader has, never against a cached state that is behind.
//   - Nothing that a group needs expires: a checkpoint is made every 64 handshakes and invitations, about every 4,096 messages, and
//     in any case once the last one is half as old as entries get, until no member has done anything for 200 days.
//   - No error, log line or metric names a group, a member or a request.
//
// Not guaranteed: that an accepted message counts (its place in the log decides, which its sender is told); that membership tags, confirmation tags and
// path secrets are right (a server cannot see it; members do); an answer to GetTree for epochs older than the log.
package hub

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/oblivious"
	"mimimi.example/pkg/redeem"
	"mimimi.example/pkg/service"
)

// Run serves until ctx is done, then answers what it has accepted and returns. It fails if a key file cannot be read or the bus cannot be served.
func Run(ctx context.Context, cfg *Config, env *service.Env) error {
	keys, err := readKeys(cfg.OHTTPKeyFiles)
	if err != nil {
		return err
	}
	m, err := newMetrics(env.Telemetry.Meter("mimimi.example/services/hub"))
	if err != nil {
		return fmt.Errorf("make metrics: %w", err)
	}
	redeemer, err := redeem.New(cfg.Domain, env.Bus, env.Now, redeem.Documents(env.Bus), env.Telemetry.Meter("mimimi.example/pkg/redeem"))
	if err != nil {
		return err
	}
	s := &server{
		domain:   cfg.Domain,
		store:    &store{log: env.Bus, names: env.Bus, cache: newCache(cacheWeight)},
		redeemer: redeemer, now: env.Now, metrics: m, paces: newPaces(), history: make(chan struct{}, maxHistory), draw: rand.IntN,
	}
	gateway, err := oblivious.NewGateway(keys, routes(s, env))
	if err != nil {
		return fmt.Errorf("read OHTTP keys: %w", err)
	}
	stop, err := env.Bus.WatchAll("group", s.store.cache.moved)
	if err != nil {
		return fmt.Errorf("watch hints: %w", err)
	}
	defer stop()

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return unless(env.Bus.Serve(ctx, "hub", gateway.Handle), context.Canceled) })
	for p := range env.Bus.GroupPartitions() {
		w := &sweeper{server: s, partition: env.Bus.GroupPartition(p), age: env.Bus.GroupMaxAge() / 2}
		g.Go(func() error { return unless(w.run(ctx, sweepEvery), context.Canceled) })
	}
	return g.Wait()
}

// unless drops the error that means "stopped as asked".
func unless(err, asked error) error {
	if errors.Is(err, asked) {
		return nil
	}
	return err
}

// routes is the inner handler, which sees opened requests.
func routes(s *server, env *service.Env) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(mimimiv1connect.NewHubServiceHandler(s, connect.WithReadMaxBytes(maxRequest), connect.WithRecover(s.recovered)))
	return env.Handler("request", service.Limit(mux, maxRequest))
}

// recovered answers a request whose handling panicked: our own bug must not take the other requests down. What was panicked with may hold anything, so it
// is only counted.
func (s *server) recovered(ctx context.Context, _ connect.Spec, _ http.Header, _ any) error {
	s.metrics.panicked(ctx)
	return connect.NewError(connect.CodeInternal, errors.New("internal error"))
}

func readKeys(files []string) ([][]byte, error) {
	keys := make([][]byte, len(files))
	for i, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("read OHTTP key: %w", err)
		}
		keys[i] = b
	}
	return keys, nil
}
