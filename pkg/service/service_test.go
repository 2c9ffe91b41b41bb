package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"mimimi.example/pkg/bus"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type testConfig struct {
	Domain string    `json:"domain"`
	Bus    BusConfig `json:"bus"`
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadJSON(t *testing.T) {
	good := new(testConfig)
	if err := LoadJSON(write(t, `{"domain":"a.example","bus":{"url":"nats://x","partitions":4},"process":{"private_listen":"127.0.0.1:0"}}`), good); err != nil {
		t.Fatal(err)
	}
	if good.Domain != "a.example" || good.Bus.URL != "nats://x" || good.Bus.Partitions != 4 {
		t.Errorf("%+v", good)
	}
	for name, content := range map[string]string{
		"empty": ``, "not JSON": `domain: x`, "null": `null`, "list": `[]`, "truncated": `{"domain":"a"`, "unknown key": `{"domains":"a"}`,
		"unknown key below": `{"bus":{"uri":"x"}}`, "unknown process key": `{"process":{"listen":"x"}}`, "trailing": `{"domain":"a"} {}`, "trailing text": `{} x`,
		"wrong type": `{"domain":1}`, "too large": `{"domain":"` + strings.Repeat("a", 2<<20) + `"}`,
	} {
		if err := LoadJSON(write(t, content), new(testConfig)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := LoadJSON("/nowhere/config.json", new(testConfig)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestBusConfigReportsEverything(t *testing.T) {
	err := (&BusConfig{Partitions: -1, Replicas: 2}).Validate()
	for _, key := range []string{"url:", "deployment_key_file:", "partitions:", "replicas:"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s is missing in %v", key, err)
		}
	}
	if err := (&BusConfig{URL: "x", DeploymentKeyFile: "y"}).Validate(); err != nil {
		t.Error(err)
	}
}

func testLoad(run Run) func(string) (Run, error) {
	return func(path string) (Run, error) {
		c := new(testConfig)
		if err := LoadJSON(path, c); err != nil {
			return nil, err
		}
		return run, c.Bus.Validate()
	}
}

func TestCommandLine(t *testing.T) {
	good := write(t, `{"domain":"a","bus":{"url":"nats://127.0.0.1:1","deployment_key_file":"/nowhere"}}`)
	bad := write(t, `{"domain":"a","bus":{"url":"nats://127.0.0.1:1"}}`)
	never := func(context.Context, *Env) error { t.Error("it ran"); return nil }
	for name, c := range map[string]struct {
		args []string
		code int
		out  string
	}{
		"nothing":      {nil, exitUsage, "usage"},
		"unknown flag": {[]string{"-x"}, exitUsage, "-config"},
		"argument":     {[]string{"-config", good, "x"}, exitUsage, "usage"},
		"version":      {[]string{"-version"}, exitOK, "hub "},
		"check":        {[]string{"-config", good, "-check"}, exitOK, "good"},
		"check bad":    {[]string{"-config", bad, "-check"}, exitUsage, "deployment_key_file"},
		"missing file": {[]string{"-config", "/nowhere.json"}, exitUsage, "read configuration"},
		"missing key":  {[]string{"-config", good}, exitFailed, "deployment key"},
	} {
		var out bytes.Buffer
		if code := command(t.Context(), "hub", c.args, &out, &out, testLoad(never)); code != c.code || !strings.Contains(out.String(), c.out) {
			t.Errorf("%s: code %d, %q", name, code, out.String())
		}
	}
}

// fixture is a server, without streams yet, and a configuration file of a service on it. initialise makes the streams.
func fixture(t *testing.T) (config, private string, initialise func()) {
	t.Helper()
	s, err := bus.StartServer(bus.ServerOptions{StoreDir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	key := filepath.Join(t.TempDir(), "deployment.key")
	if err := os.WriteFile(key, bytes.Repeat([]byte{5}, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	c := BusConfig{URL: s.URL(), DeploymentKeyFile: key, Partitions: 1}
	initialise = func() {
		o, err := c.Options("admin")
		if err != nil {
			t.Error(err)
			return
		}
		b, err := bus.Connect(t.Context(), o)
		if err != nil {
			t.Error(err)
			return
		}
		if err := errors.Join(b.Init(t.Context()), b.Close(t.Context())); err != nil {
			t.Error(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	private = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := json.Marshal(map[string]any{"domain": "a.example", "bus": c, "process": processConfig{PrivateListen: private}})
	if err != nil {
		t.Fatal(err)
	}
	return write(t, string(file)), private, initialise
}

// probe asks the private listener; 0 while it does not listen.
func probe(t *testing.T, private, path string) (int, string) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + private + path)
	if err != nil {
		return 0, ""
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	return r.StatusCode, string(b)
}

// until polls a probe until it has a status and a text.
func until(t *testing.T, private, path string, status int, text string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		code, body := probe(t, private, path)
		if code == status && strings.Contains(body, text) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s says %d %q for a minute, want %d %q", path, code, body, status, text)
			return
		}
	}
}

// TestRunsAService runs one from its configuration file to its end: it waits for its streams, is ready once it serves, and is not any more when it is asked to stop, though it
// still works off what it began.
func TestRunsAService(t *testing.T) {
	config, private, initialise := fixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	run := func(ctx context.Context, e *Env) error {
		counter, err := e.Telemetry.Meter("x").Int64Counter("hub_conflicts")
		if err != nil {
			return err
		}
		counter.Add(ctx, 3)
		if e.Now().IsZero() || e.Tap != nil {
			t.Error("clock or tap")
		}
		if _, err := e.Bus.Publish(ctx, e.Bus.GroupHandshakes([]byte("g")), []byte("x"), bus.PublishOptions{}); err != nil {
			t.Error(err)
		}
		until(t, private, "/readyz", http.StatusServiceUnavailable, "does not answer its calls")
		served := make(chan error)
		go func() {
			served <- e.Bus.Serve(ctx, "hub", func(_ context.Context, r []byte) []byte { return r })
		}()
		until(t, private, "/readyz", http.StatusNoContent, "")
		until(t, private, "/healthz", http.StatusNoContent, "")
		until(t, private, "/metrics", http.StatusOK, "hub_conflicts_total 3")
		cancel()
		until(t, private, "/readyz", http.StatusServiceUnavailable, "stopping")
		until(t, private, "/healthz", http.StatusNoContent, "")
		return <-served
	}
	var probed sync.WaitGroup
	probed.Go(func() {
		until(t, private, "/healthz", http.StatusNoContent, "")
		until(t, private, "/readyz", http.StatusServiceUnavailable, "waits for the bus")
		initialise()
	})
	var out, logs bytes.Buffer
	if code := command(ctx, "hub", []string{"-config", config}, &out, &logs, testLoad(run)); code != exitOK {
		t.Errorf("code %d: %s", code, logs.String())
	}
	probed.Wait()
	for line := range strings.Lines(logs.String()) {
		var entry struct{ Msg, Service string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Service != "hub" || entry.Msg == "" {
			t.Errorf("log line %q: %v", line, err)
		}
	}
	failing := func(context.Context, *Env) error { return errors.New("broken") }
	logs.Reset()
	if code := command(t.Context(), "hub", []string{"-config", config}, &out, &logs, testLoad(failing)); code != exitFailed || !strings.Contains(logs.String(), "broken") {
		t.Errorf("code %d: %s", code, logs.String())
	}
}

// recorded gathers what a tap is given.
type recorded struct {
	mu   sync.Mutex
	all  bytes.Buffer
	size int
}

func (r *recorded) tap(_ string, parts ...[]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range parts {
		r.all.Write(p)
		r.all.WriteByte('|')
	}
	r.size++
}

func (r *recorded) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all.String()
}

func TestTapSeesEverything(t *testing.T) {
	r := new(recorded)
	h := TapHandler(r.tap, "request", http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			t.Error(err)
		}
		w.Header().Set("X-Out", "header-out")
		w.WriteHeader(http.StatusTeapot)
		_, _ = fmt.Fprint(w, "body-out")
	}))
	s := httptest.NewServer(h)
	defer s.Close()
	req, err := http.NewRequest(http.MethodPost, s.URL+"/path-in?query-in", strings.NewReader("body-in"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-In", "header-in")
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	s.Close()
	for _, want := range []string{"POST /path-in?query-in", "127.0.0.1:", "X-In: header-in", "|body-in|", "418|", "X-Out: header-out", "|body-out|"} {
		if !strings.Contains(r.String(), want) {
			t.Errorf("%q is missing in %q", want, r)
		}
	}
	if TapHandler(nil, "x", http.NotFoundHandler()) == nil {
		t.Error("no handler")
	}
}

// TestTapLetsStreamsThrough: a Connect stream arrives message by message, with the tap and without.
func TestTapLetsStreamsThrough(t *testing.T) {
	const procedure = "/test.v1.Test/Watch"
	next := make(chan struct{})
	mux := http.NewServeMux()
	mux.Handle(procedure, connect.NewServerStreamHandlerSimple(procedure, func(_ context.Context, _ *wrapperspb.StringValue, s *connect.ServerStream[wrapperspb.StringValue]) error {
		for i := range 3 {
			if err := s.Send(wrapperspb.String(fmt.Sprint("message-", i))); err != nil {
				return err
			}
			<-next
		}
		return nil
	}))
	r := new(recorded)
	s := httptest.NewServer(TapHandler(r.tap, "request", Limit(mux, 1<<10)))
	defer s.Close()
	c := connect.NewClient[wrapperspb.StringValue, wrapperspb.StringValue](s.Client(), s.URL+procedure)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := c.CallServerStream(ctx, connect.NewRequest(wrapperspb.String("")))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if !stream.Receive() || stream.Msg().Value != fmt.Sprint("message-", i) {
			t.Fatal(stream.Err())
		}
		if !strings.Contains(r.String(), stream.Msg().Value) {
			t.Error("the tap has not seen it yet")
		}
		next <- struct{}{}
	}
	if stream.Receive() || stream.Err() != nil {
		t.Error(stream.Err())
	}
	if err := stream.Close(); err != nil {
		t.Error(err)
	}
}

func TestTapKeepsThePanic(t *testing.T) {
	r := new(recorded)
	h := TapHandler(r.tap, "request", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("half"))
		panic(http.ErrAbortHandler)
	}))
	defer func() {
		if recover() == nil || !strings.Contains(r.String(), "half") {
			t.Errorf("the panic is gone, or the tap missed what was written: %q", r)
		}
	}()
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
}

// TestLimit: a Connect caller is told resource_exhausted, and the handler reads no more than the bound.
func TestLimit(t *testing.T) {
	const procedure = "/test.v1.Test/Take"
	mux := http.NewServeMux()
	mux.Handle(procedure, connect.NewUnaryHandlerSimple(procedure, func(_ context.Context, m *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) { return m, nil }))
	s := httptest.NewServer(TapHandler(new(recorded).tap, "x", Limit(mux, 1000)))
	defer s.Close()
	c := connect.NewClient[wrapperspb.BytesValue, wrapperspb.BytesValue](s.Client(), s.URL+procedure)
	if _, err := c.CallUnary(t.Context(), connect.NewRequest(&wrapperspb.BytesValue{Value: make([]byte, 900)})); err != nil {
		t.Error(err)
	}
	if _, err := c.CallUnary(t.Context(), connect.NewRequest(&wrapperspb.BytesValue{Value: make([]byte, 5000)})); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Error(err)
	}
}
