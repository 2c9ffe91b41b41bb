// Package fault tests a replicated deployment under faults: three NATS servers with three replicas of every stream, each write synced, and two replicas of each service, every one of them a process of
// its own that is stopped, killed or cut off while clients of two domains write, join, leave and connect.
//
// It shows that every message is shown exactly once to every member, in one order for each group, that nothing ends in DEAD and nothing stays behind in a queue, and that no app sees an error
// of a restart. It does not show what a power cut does: a killed process loses no page that the system holds for it.
package fault

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"

	"mimimi.example/pkg/service"
	"mimimi.example/services/fanout"
	"mimimi.example/services/hub"
	"mimimi.example/services/kpstore"
	"mimimi.example/services/provider"
)

// rounds is for those who have the time: a minute or two each.
var rounds = flag.Int("rounds", 0, "how often TestFaults goes through the faults of a cluster, and a rolling restart again")

// asRole names what a process is that the tests started: a service's name, or node.
const asRole = "MIMIMI_FAULT_ROLE"

// asConfig names its configuration file.
const asConfig = "MIMIMI_FAULT_CONFIG"

const roleNode = "node"

// TestMain runs the tests or, in a process that they started, what it is to be: the test's own binary holds everything, so that nothing has to be built.
func TestMain(m *testing.M) {
	role := os.Getenv(asRole)
	if role == "" {
		goleak.VerifyTestMain(m)
		return
	}
	go func() { // nobody else would end it if the tests cannot: their end of the pipe closes with them
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	if role == roleNode {
		os.Exit(node(os.Getenv(asConfig)))
	}
	os.Args = []string{role, "-config", os.Getenv(asConfig)}
	service.Main(role, program(role))
}

// program is what cmd/<role> gives to service.Main.
func program(role string) func(path string) (service.Run, error) {
	switch role {
	case "hub":
		return loader(hub.Load, hub.Run)
	case "kpstore":
		return loader(kpstore.Load, kpstore.Run)
	case "fanout":
		return loader(fanout.Load, fanout.Run)
	case "provider":
		return loader(provider.Load, provider.Run)
	}
	panic("no such role")
}

func loader[C any](load func(string) (*C, error), run func(context.Context, *C, *service.Env) error) func(string) (service.Run, error) {
	return func(path string) (service.Run, error) {
		cfg, err := load(path)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, e *service.Env) error { return run(ctx, cfg, e) }, nil
	}
}

// node is a NATS server by itself: it serves until it is asked to stop.
func node(config string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	opts, err := server.ProcessConfigFile(config)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	opts.NoSigs = true
	s, err := server.NewServer(opts)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s.ConfigureLogger()
	go s.Start()
	if !s.ReadyForConnections(time.Minute) {
		fmt.Fprintln(os.Stderr, "the server did not start")
		return 1
	}
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return 0
}
