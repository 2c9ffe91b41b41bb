package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// poll is how often eventually looks.
const poll = 25 * time.Millisecond

// patience is how long something may take that is only slow if it is stuck.
func patience() time.Duration {
	if raceEnabled {
		return 6 * time.Minute
	}
	return 3 * time.Minute // a client spreads some of what it does over two
}

// eventually waits until cond holds and fails the test if it never does. It runs in the test's goroutine.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	if !waitFor(cond) {
		t.Fatalf("waited in vain for %s", what)
	}
}

// waitFor is eventually for other goroutines.
func waitFor(cond func() bool) bool {
	for deadline := time.Now().Add(patience()); !cond(); {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(poll)
	}
	return true
}

// process is one run of the command.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and its output is read

	mu     sync.Mutex
	rest   []byte       // of stdout: a line that is not complete yet; guarded by mu
	lines  []string     // of stdout; guarded by mu
	stderr bytes.Buffer // guarded by mu
	err    error        // why Wait failed; set before done is closed
}

// start runs the command. onLine, if set, gets each complete line of its standard output, one after the other. The process is killed at the end of the
// test, and shortly before the test's deadline, after which nobody could.
func start(t *testing.T, onLine func(string), args ...string) (*process, error) {
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if d, ok := t.Deadline(); ok {
		ctx, cancel = context.WithDeadline(ctx, d.Add(-5*time.Second))
	}
	p := &process{cmd: exec.CommandContext(ctx, binary, args...), done: make(chan struct{})}
	p.cmd.Stdout = writerFunc(func(b []byte) { p.read(b, onLine) })
	p.cmd.Stderr = writerFunc(func(b []byte) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.stderr.Write(b)
	})
	if err := p.cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		cancel()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if _, stderr := p.output(); strings.Contains(stderr, "DATA RACE") || strings.Contains(stderr, "goroutine ") {
			t.Errorf("mimimi %s raced or panicked:\n%s", args[0], tail(stderr))
		}
	})
	return p, nil
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) {
	f(b)
	return len(b), nil
}

// read takes a piece of standard output.
func (p *process) read(b []byte, onLine func(string)) {
	p.mu.Lock()
	p.rest = append(p.rest, b...)
	var fresh []string
	for {
		line, rest, ok := bytes.Cut(p.rest, []byte("\n"))
		if !ok {
			break
		}
		fresh, p.rest = append(fresh, string(line)), rest
	}
	p.lines = append(p.lines, fresh...)
	p.mu.Unlock()
	if onLine != nil {
		for _, l := range fresh {
			onLine(l)
		}
	}
}

// running says whether the process has not ended.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// kill is kill -9. It waits until the process has gone; on one that has gone it does nothing.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it fails for a process that has gone, and then there is nothing to do
	<-p.done
}

// terminate asks the process to stop and returns its exit code.
func (p *process) terminate() (int, error) {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return 0, err
	}
	if !waitFor(func() bool { return !p.running() }) {
		p.kill()
		return 0, errors.New("it did not stop when asked to")
	}
	return p.cmd.ProcessState.ExitCode(), nil
}

// output returns what was printed so far: the complete lines of standard output, and standard error.
func (p *process) output() (lines []string, stderr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...), p.stderr.String()
}

// result is how a command ended.
type result struct {
	args   string
	code   int // -1: killed
	stdout string
	stderr string
	took   time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("mimimi %s: exit code %d after %s\n%s%s", r.args, r.code, r.took.Round(time.Millisecond), r.stdout, r.stderr)
}

// says whether a command gave an error of the SDK as its reason.
func (r result) says(err error) bool { return strings.Contains(r.stderr, shown(err.Error())) }

// run runs a command to its end, or kills it after limit.
func run(t *testing.T, limit time.Duration, args ...string) (result, error) {
	begin := time.Now()
	p, err := start(t, nil, args...)
	if err != nil {
		return result{}, err
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.kill()
	}
	lines, stderr := p.output()
	short := strings.Join(args, " ")
	if len(short) > 300 {
		short = short[:300] + "…"
	}
	r := result{args: short, code: p.cmd.ProcessState.ExitCode(), stdout: strings.Join(append(lines, ""), "\n"), stderr: stderr, took: time.Since(begin)}
	return r, nil
}
