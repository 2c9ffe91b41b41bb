package main

import (
	"context"
	"errors"
	"os"

	"mimimi.example/pkg/bus"
)

// onScratch runs a NATS server of this process alone, which nobody can reach from outside, and takes it away with all that it stored.
func onScratch(ctx context.Context, do func(ctx context.Context, s *bus.Server) error) (err error) {
	dir, err := os.MkdirTemp("", "mimimi-scratch-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := bus.StartServer(bus.ServerOptions{StoreDir: dir})
	if err != nil {
		return err
	}
	defer s.Shutdown()
	return do(ctx, s)
}

// ownOptions is how this process reaches its scratch server, with a deployment's layout but for the replicas.
func ownOptions(s *bus.Server, l bus.Layout) bus.Options {
	l.Replicas = 1
	return bus.Options{InProcess: s.InProcess(), Service: "admin", Layout: l}
}
