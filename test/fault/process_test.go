package fault

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long something may take that is only slow if it is stuck.
const patience = 4 * time.Minute

// poll is how often something is looked at that nobody tells of.
const poll = 50 * time.Millisecond

// eventually waits until cond holds, and fails the test if it never does. It runs in the test's goroutine.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	if !waitFor(t.Context(), cond) {
		t.Fatalf("waited in vain for %s", what)
	}
}

// waitFor is eventually for other goroutines.
func waitFor(ctx context.Context, cond func() bool) bool {
	tick, deadline := time.NewTicker(poll), time.NewTimer(patience)
	defer tick.Stop()
	defer deadline.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// process is one NATS server or one replica of a service, over all its restarts.
type process struct {
	t      testing.TB
	name   string
	role   string
	config string
	probe  string // the URL that says whether it is ready

	mu     sync.Mutex
	run    *run // guarded by mu
	ending bool // guarded by mu: that it ends is as it should be
}

// run is one run of a process.
type run struct {
	cmd   *exec.Cmd
	stdin io.Closer
	done  chan struct{} // closed when it has ended
	said  said
}

// said is what a process wrote to standard error.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

// tail is the end of it.
func (s *said) tail() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.b.Bytes()
	return string(b[max(0, len(b)-4000):])
}

// newProcess starts a process. It is killed at the end of the test.
func newProcess(t testing.TB, name, role, config, probe string) *process {
	t.Helper()
	p := &process{t: t, name: name, role: role, config: config, probe: probe}
	p.start()
	t.Cleanup(p.kill)
	return p
}

// start runs the process, or runs it again.
func (p *process) start() {
	p.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	r := &run{cmd: exec.Command(exe), done: make(chan struct{})}
	r.cmd.Env = append(os.Environ(), asRole+"="+p.role, asConfig+"="+p.config)
	r.cmd.Stderr = &r.said
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		p.t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	p.run, p.ending = r, false
	p.mu.Unlock()
	go func() {
		_ = r.cmd.Wait() // how it ended is looked at by who ended it
		p.mu.Lock()
		asked := p.ending
		p.mu.Unlock()
		if s := r.said.tail(); !asked || strings.Contains(s, "DATA RACE") || strings.Contains(s, "goroutine ") {
			p.t.Errorf("%s ended by itself, raced or panicked: %s\n%s", p.name, r.cmd.ProcessState, s)
		}
		close(r.done)
	}()
}

// end notes that the process is about to end.
func (p *process) end() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ending = true
	return p.run
}

// stop asks the process to stop, as a supervisor does, and waits until it has finished what it accepted.
func (p *process) stop() {
	p.t.Helper()
	r := p.end()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
	select {
	case <-r.done:
	case <-time.After(patience):
		p.kill()
		p.t.Fatalf("%s does not stop:\n%s", p.name, r.said.tail())
	}
	if code := r.cmd.ProcessState.ExitCode(); code != 0 {
		p.t.Errorf("%s stopped with exit code %d:\n%s", p.name, code, r.said.tail())
	}
}

// kill is kill -9. It returns when the process has gone.
func (p *process) kill() {
	r := p.end()
	_ = r.cmd.Process.Kill() // fails only for one that has gone
	<-r.done
	_ = r.stdin.Close()
}

// probes asks whether processes are ready, over a new connection each time, as a supervisor does.
var probes = &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// ready says what the process's own probe says.
func (p *process) ready() bool {
	res, err := probes.Get(p.probe)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	return res.StatusCode < 300
}

// await waits until the process is ready.
func (p *process) await() {
	p.t.Helper()
	if !waitFor(p.t.Context(), p.ready) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.t.Fatalf("%s does not become ready:\n%s", p.name, p.run.said.tail())
	}
}

// firstPort and lastPort bound the ports that processes listen on: below those that systems give to outgoing connections, one of which could otherwise take the port of a process that is just
// being restarted.
const firstPort, lastPort = 20000, 32000

var ports struct {
	sync.Mutex
	next int
}

// freeAddress finds a loopback address for a process, which keeps it over its restarts.
func freeAddress(t testing.TB) string {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.next == 0 {
		ports.next = firstPort + os.Getpid()*16%(lastPort-firstPort) // two runs at once look at different ones first
	}
	for range lastPort - firstPort {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(ports.next))
		if ports.next++; ports.next > lastPort {
			ports.next = firstPort
		}
		if l, err := net.Listen("tcp", addr); err == nil {
			_ = l.Close() // it was free
			return addr
		}
	}
	t.Fatal("no port is free")
	return ""
}
