package hub

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/oblivious"
	"mimimi.example/pkg/redeem/redeemtest"
	"mimimi.example/pkg/service"
	"mimimi.example/pkg/telemetry"
	"mimimi.example/pkg/telemetry/telemetrytest"
)

// deployment is two running replicas and a client that reaches them as the edge does.
type deployment struct {
	client mimimiv1connect.HubServiceClient
	call   func(ctx context.Context, request []byte) ([]byte, error)
	logs   *lockedBuffer
	stop   func()
}

// lockedBuffer is a log's destination.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func deploy(t *testing.T, d *bustest.Domain, c *clock, tap func(string, ...[]byte)) *deployment {
	t.Helper()
	secret, config, err := oblivious.GenerateKey(1)
	ok(t, err)
	redeemtest.Provide(t, d.Bus("provider"), hubDomain, c.now)
	file := filepath.Join(t.TempDir(), "ohttp")
	ok(t, os.WriteFile(file, secret, 0o600))
	cfg := &Config{Domain: hubDomain, Bus: service.BusConfig{URL: "nats://x", DeploymentKeyFile: "x"}, OHTTPKeyFiles: []string{file}}
	ok(t, cfg.Validate())

	ctx, cancel := context.WithCancel(t.Context())
	logs := new(lockedBuffer)
	var wg sync.WaitGroup
	for range 2 {
		env := &service.Env{Bus: d.Bus("hub"), Log: slog.New(slog.NewTextHandler(logs, nil)), Now: c.now, Tap: tap, Telemetry: telemetrytest.New(t, telemetry.Options{})}
		wg.Go(func() {
			if err := Run(ctx, cfg, env); err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}
	edge := d.Bus("provider")
	call := func(ctx context.Context, request []byte) ([]byte, error) { return edge.Call(ctx, "hub", request) }
	transport, err := oblivious.NewTransport(config, call)
	ok(t, err)
	stop := sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	client := mimimiv1connect.NewHubServiceClient(&http.Client{Transport: transport}, "https://hub.invalid")
	return &deployment{client: client, call: call, logs: logs, stop: stop}
}

// TestRun takes a group through two running replicas, over OHTTP and the bus.
func TestRun(t *testing.T) {
	t.Parallel()
	d := bustest.Start(t)
	w := emptyWorld(t, d.Bus("hub"))
	var tapped sync.Map
	dep := deploy(t, d, w.clock, func(kind string, _ ...[]byte) { tapped.Store(kind, true) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	rq, m := w.creation()
	created, err := untilServed(ctx, func() (*pb.CreateGroupResponse, error) { return dep.client.CreateGroup(ctx, rq) })
	ok(t, err)
	w.members["alice"] = m
	add := w.addBundle("alice", "bob")
	committed, err := dep.client.Commit(ctx, add.rq)
	ok(t, err)
	w.follow(add)
	sent, err := dep.client.SendMessage(ctx, w.message("bob", "hello"))
	ok(t, err)
	if created.Sequence >= committed.Sequence || committed.Sequence >= sent.Sequence {
		t.Error("the log is out of order")
	}
	log, err := dep.client.ReadLog(ctx, &pb.ReadLogRequest{GroupId: []byte(w.id.Wire()), Proof: w.leafProof("bob", mimimi.OpReadLog, nil)})
	ok(t, err)
	if len(log.Entries) != 2 {
		t.Errorf("%d entries, want 2", len(log.Entries))
	}
	_, err = dep.client.Commit(ctx, &pb.CommitRequest{RequestId: random(16), GroupId: add.rq.GroupId, Commit: add.rq.Commit, Welcome: add.rq.Welcome, GroupInfo: add.rq.GroupInfo})
	wantStale(t, err, 1, committed.Sequence)
	if _, seen := tapped.Load("request"); !seen {
		t.Error("the recorder sees no opened requests")
	}
	dep.stop()
	if s := dep.logs.String(); strings.Contains(s, "mimi:") || strings.Contains(s, hubDomain) {
		t.Error("an identifier is in the log")
	}
}

// untilServed repeats a first call until a replica has started to serve.
func untilServed[T any](ctx context.Context, f func() (*T, error)) (*T, error) {
	for {
		v, err := f()
		if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "nobody") && connect.CodeOf(err) != connect.CodeUnavailable {
			return v, err
		}
	}
}

// TestGarbageOnTheBus sends what is no request: it is refused, and the hub goes on.
func TestGarbageOnTheBus(t *testing.T) {
	t.Parallel()
	d := bustest.Start(t)
	w := emptyWorld(t, d.Bus("hub"))
	dep := deploy(t, d, w.clock, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rq, _ := w.creation()
	_, err := untilServed(ctx, func() (*pb.CreateGroupResponse, error) { return dep.client.CreateGroup(ctx, rq) })
	ok(t, err)
	for _, garbage := range [][]byte{nil, random(1), random(55), random(1079), random(100_000)} {
		answer, err := dep.call(ctx, garbage)
		ok(t, err)
		if len(answer) == 0 {
			t.Error("no answer")
		}
	}
	for _, rq := range []proto.Message{&pb.CommitRequest{}, &pb.CommitRequest{GroupId: random(2000)}} {
		_, err := dep.client.Commit(ctx, rq.(*pb.CommitRequest))
		wantCode(t, err, connect.CodeInvalidArgument, "")
	}
	_, err = dep.client.CreateGroup(ctx, rq)
	ok(t, err)
}

func TestConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(s string) string {
		f := filepath.Join(dir, "config.json")
		ok(t, os.WriteFile(f, []byte(s), 0o600))
		return f
	}
	const good = `{"domain": "hub.example", "bus": {"url": "nats://n:4222", "deployment_key_file": "key"}, "ohttp_key_files": ["ohttp"]}`
	if _, err := Load(write(good)); err != nil {
		t.Errorf("a good file: %v", err)
	}
	for name, file := range map[string]string{
		"unknown key": strings.Replace(good, `"domain"`, `"x": 1, "domain"`, 1), "domain": strings.Replace(good, "hub.example", "Hub", 1),
		"keys": strings.Replace(good, `["ohttp"]`, `[]`, 1), "bus": strings.Replace(good, "nats://n:4222", "", 1), "not JSON": "{",
	} {
		if _, err := Load(write(file)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := Run(t.Context(), &Config{OHTTPKeyFiles: []string{filepath.Join(dir, "missing")}}, &service.Env{}); err == nil {
		t.Error("ran without its key")
	}
}
