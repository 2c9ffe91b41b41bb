package interop

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// installTime bounds the installation of a peer, callTime one call of it.
const (
	installTime = 5 * time.Minute
	callTime    = 30 * time.Second
)

// peer is another implementation's member, driven over standard input and output.
type peer struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Reader
}

// tools returns whether the tools that a peer needs are there. In CI a missing one is a failure.
func tools(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is missing: CI must have it", n)
			}
			t.Skipf("%s is not installed: install Node.js 20 or later (with npm) to check interoperability", n)
		}
	}
}

// install installs a folder's pinned packages into the user's cache, once for each lock file, and returns where.
func install(t *testing.T, name string) string {
	t.Helper()
	lock, err := os.ReadFile(name + "/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	sum := sha256.Sum256(lock)
	dir := filepath.Join(cache, "mimimi-interop", name+"-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(filepath.Join(dir, "installed")); err == nil {
		return dir
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"package.json", "package-lock.json"} {
		copyFile(t, filepath.Join(name, f), filepath.Join(dir, f))
	}
	ctx, cancel := context.WithTimeout(t.Context(), installTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		if os.Getenv("CI") == "" {
			t.Skipf("%s cannot be installed, so interoperability is not checked; it needs the network once: %v\n%s", name, err, out)
		}
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "installed"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// startTSMLS starts one member.
func startTSMLS(t *testing.T) *peer { return start(t, "tsmls") }

// start starts the driver of a folder.
func start(t *testing.T, name string) *peer {
	t.Helper()
	tools(t, "node", "npm")
	dir := install(t, name)
	copyFile(t, name+"/driver.mjs", filepath.Join(dir, "driver.mjs"))
	cmd := exec.CommandContext(t.Context(), "node", "driver.mjs")
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Close(); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Errorf("the peer ended with: %v", err)
		}
	})
	return &peer{t: t, in: in, out: bufio.NewReader(out)}
}

// call sends one request and decodes the answer into ok; a peer's error fails the test.
func (p *peer) call(request map[string]any, ok any) {
	p.t.Helper()
	line, err := json.Marshal(request)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		p.t.Fatal(err)
	}
	type result struct {
		line []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		b, err := p.out.ReadBytes('\n')
		done <- result{b, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			p.t.Fatalf("%v: %v", request["op"], r.err)
		}
		var answer struct {
			OK    json.RawMessage `json:"ok"`
			Error string          `json:"error"`
		}
		if err := json.Unmarshal(r.line, &answer); err != nil {
			p.t.Fatal(err)
		}
		if answer.Error != "" {
			p.t.Fatalf("%v: the peer refused: %s", request["op"], answer.Error)
		}
		if err := json.Unmarshal(answer.OK, ok); err != nil {
			p.t.Fatal(err)
		}
	case <-time.After(callTime):
		p.t.Fatalf("%v: the peer did not answer", request["op"])
	}
}
