// Package kpstore is the KeyPackage store of one provider domain (docs/protocol.md §8): users put sets of KeyPackages into an index that only their
// write key opens, and whoever holds one of the index's connection tokens claims them, one set for each group.
//
// It is reached over OHTTP only and keeps everything on the bus, so replicas are interchangeable and hold nothing between requests.
//
// Guarantees, whatever crashes, retries or happens at once:
//
//   - A one-time set is handed out to at most one claim. The same claim (request id and connection token) gets the same answer for an hour.
//   - A user pseudonym that was handed out one-time is handed out to nobody else for 100 days, even if it is uploaded again.
//   - A set is changed only as it was listed; what an upload stores keeps every rule of §8 that can be checked without the user's keys.
//   - A set that was withdrawn before it was handed out is never handed out, and its owner is told which it was.
//   - A set that cannot be read is passed over, and noted; the others of its index are served.
//   - A connection token that was revoked opens nothing from the moment at which the revocation was answered.
//   - An unknown token, a revoked one and an empty index get the same answer.
//
// Not guaranteed: that a set is used at all (a claim that is never retried after a crash burns one); that an index keeps to its bounds to the last
// set while several clients of a user upload at once; that a claim finds a set that was uploaded in the same moment; that
// the owner hears of a low stock (the notice is sent once, at best). The store knows an index by a
// hash of its write key and learns from neither requests nor KeyPackages whose it is; it does see that sets are of one index, and how often each
// connection token claims.
package kpstore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"

	"connectrpc.com/connect"

	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/oblivious"
	"mimimi.example/pkg/problem"
	"mimimi.example/pkg/redeem"
	"mimimi.example/pkg/service"
)

// Run serves until ctx is done, then answers what it has accepted and returns. It fails if a key file cannot be read or the bus cannot be served.
func Run(ctx context.Context, cfg *Config, env *service.Env) error {
	keys, err := readKeys(cfg.OHTTPKeyFiles)
	if err != nil {
		return err
	}
	m, err := newMetrics(env.Telemetry.Meter("mimimi.example/services/kpstore"))
	if err != nil {
		return fmt.Errorf("make metrics: %w", err)
	}
	redeemer, err := redeem.New(cfg.Domain, env.Bus, env.Now, redeem.Documents(env.Bus), env.Telemetry.Meter("mimimi.example/pkg/redeem"))
	if err != nil {
		return err
	}
	h := &handler{
		store:  &store{log: env.Bus, subjects: env.Bus, now: env.Now, domain: cfg.Domain, metrics: m, graves: new(graves)},
		domain: cfg.Domain, limits: cfg.limits(), redeemer: redeemer, metrics: m,
	}
	gateway, err := oblivious.NewGateway(keys, routes(h, env))
	if err != nil {
		return fmt.Errorf("read OHTTP keys: %w", err)
	}
	if err := env.Bus.Serve(ctx, "kpstore", gateway.Handle); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// routes is the inner handler, which sees opened requests.
func routes(h *handler, env *service.Env) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(mimimiv1connect.NewKeyPackageServiceHandler(h, connect.WithReadMaxBytes(maxBody), connect.WithRecover(recovered)))
	return env.Handler("request", service.Limit(mux, maxBody))
}

// recovered answers a request whose handling panicked: our own bug must not take the other requests down. What was panicked with may hold anything, so it
// goes nowhere.
func recovered(context.Context, connect.Spec, http.Header, any) error {
	return problem.Connect(problem.New(problem.Internal, "internal error"))
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
