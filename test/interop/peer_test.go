package interop

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// installTime bounds the installation of a peer's packages, buildTime the first build of the Rust peers, callTime one call of a peer.
const (
	installTime = 5 * time.Minute
	buildTime   = 40 * time.Minute
	callTime    = 2 * time.Minute
)

// peer is another implementation, driven over standard input and output.
type peer struct {
	t   testing.TB
	in  io.WriteCloser
	out *bufio.Reader
}

// tools says what is missing of what a peer needs. In CI a missing tool is a failure.
func tools(t testing.TB, hint string, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is missing: CI must have it", n)
			}
			t.Skipf("%s is not installed: install %s to check interoperability", n, hint)
		}
	}
}

// cannot ends a test whose peer cannot be made ready: a failure in CI, elsewhere a skip that says why.
func cannot(t testing.TB, what string, err error, out []byte) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%s: %v\n%s", what, err, out)
	}
	t.Skipf("%s failed, so interoperability is not checked; it needs the network once: %v\n%s", what, err, out)
}

// cacheFolder is where the peers live, outside the clone.
func cacheFolder() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	return filepath.Join(cache, "mimimi-interop")
}

// installed makes sure that a folder named by the hash of what it is made of exists, made by f if it is not there.
func installed(t testing.TB, name string, sources []string, f func(dir string)) string {
	t.Helper()
	sum := sha256.New()
	for _, s := range sources {
		b, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(sum, "%s %d\n%s", filepath.ToSlash(s), len(b), b)
	}
	dir := filepath.Join(cacheFolder(), name+"-"+hex.EncodeToString(sum.Sum(nil)[:8]))
	if _, err := os.Stat(filepath.Join(dir, "installed")); err == nil {
		return dir
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f(dir)
	if err := os.WriteFile(filepath.Join(dir, "installed"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// npm installs a folder's pinned packages, once for each state of the folder, and returns where.
func npm(t testing.TB, name string) string {
	t.Helper()
	tools(t, "Node.js 20 or later, with npm,", "node", "npm")
	files := []string{name + "/package.json", name + "/package-lock.json", name + "/driver.mjs"}
	return installed(t, name, files, func(dir string) {
		for _, f := range files {
			copyFile(t, f, filepath.Join(dir, filepath.Base(f)), 0o644)
		}
		ctx, cancel := context.WithTimeout(t.Context(), installTime)
		defer cancel()
		cmd := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			cannot(t, "npm ci", err, out)
		}
	})
}

// cargo builds the Rust peers, once for each state of their sources and lock file, and returns where they are. The build's own files are kept
// beside, so that a change of a peer does not build the libraries again.
func cargo(t testing.TB) string {
	t.Helper()
	tools(t, "Rust 1.91 or later, with cargo,", "cargo")
	files := rustSources(t)
	return installed(t, "rust", files, func(dir string) {
		limit := time.Now().Add(buildTime)
		if tt, ok := t.(*testing.T); ok {
			if deadline, ok := tt.Deadline(); ok && deadline.Add(-time.Minute).Before(limit) {
				limit = deadline.Add(-time.Minute)
			}
		}
		ctx, cancel := context.WithDeadline(t.Context(), limit)
		defer cancel()
		target := filepath.Join(cacheFolder(), "rust-target")
		t.Log("building the Rust peers; the first time this takes minutes")
		cmd := exec.CommandContext(ctx, "cargo", "build", "--release", "--locked", "--manifest-path", "rust/Cargo.toml", "--target-dir", target)
		if out, err := cmd.CombinedOutput(); err != nil {
			if ctx.Err() != nil {
				err = errors.New("it takes longer than this test may; what is built is kept: run go test -timeout 45m -run TestPeers ./test/interop once")
			}
			cannot(t, "cargo build", err, out)
		}
		for _, name := range []string{"openmls-peer", "mls-rs-peer"} {
			copyFile(t, filepath.Join(target, "release", name), filepath.Join(dir, name), 0o755)
		}
	})
}

// rustSources are the files that the Rust peers are built of.
func rustSources(t testing.TB) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir("rust", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && (strings.HasSuffix(path, ".rs") || strings.HasSuffix(path, ".toml") || strings.HasSuffix(path, ".lock")) {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// copyFile puts a copy in place at once, so that a program that runs under the name is not written to.
func copyFile(t testing.TB, from, to string, mode fs.FileMode) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to+".new", b, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(to+".new", to); err != nil {
		t.Fatal(err)
	}
}

// startNode starts the driver of a folder.
func startNode(t testing.TB, name string) *peer {
	t.Helper()
	dir := npm(t, name)
	cmd := exec.CommandContext(t.Context(), "node", "driver.mjs")
	cmd.Dir = dir
	return start(t, cmd)
}

// startRust starts one of the Rust peers.
func startRust(t testing.TB, name string) *peer {
	t.Helper()
	return start(t, exec.CommandContext(t.Context(), filepath.Join(cargo(t), name)))
}

func start(t testing.TB, cmd *exec.Cmd) *peer {
	t.Helper()
	cmd.Stderr = os.Stderr
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
		// A test that has ended takes its context along, and with that the process, which may then be gone before its input is closed.
		if err := in.Close(); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Errorf("the peer ended with: %v", err)
		}
	})
	return &peer{t: t, in: in, out: bufio.NewReader(out)}
}

// call sends one request and decodes the answer into ok; a peer's error fails the test.
func (p *peer) call(request, ok any) {
	p.t.Helper()
	if err := p.try(request, ok); err != nil {
		p.t.Fatal(err)
	}
}

// try sends one request and decodes the answer into ok. It returns the peer's error; a peer that does not answer fails the test.
func (p *peer) try(request, ok any) error {
	p.t.Helper()
	line, err := json.Marshal(request)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		p.t.Fatal(err)
	}
	var answer struct {
		OK    json.RawMessage `json:"ok"`
		Error string          `json:"error"`
	}
	if err := json.Unmarshal(p.read(), &answer); err != nil {
		p.t.Fatal(err)
	}
	if answer.Error != "" {
		return fmt.Errorf("the peer refused: %s", answer.Error)
	}
	if err := json.Unmarshal(answer.OK, ok); err != nil {
		p.t.Fatal(err)
	}
	return nil
}

func (p *peer) read() []byte {
	p.t.Helper()
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
			p.t.Fatal(r.err)
		}
		return r.line
	case <-time.After(callTime):
		p.t.Fatal("the peer did not answer")
		return nil
	}
}

// do is one operation of one of the peer's members.
func (p *peer) do(r request) (*answer, error) {
	p.t.Helper()
	a := new(answer)
	return a, p.try(r, a)
}
