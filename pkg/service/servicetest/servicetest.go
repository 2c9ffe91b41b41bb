// Package servicetest runs replicas of a service as processes of their own, so that a test can kill them: the test's own binary is the service where the
// environment says so.
package servicetest

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"mimimi.example/pkg/service"
)

// asReplica names the configuration file of a process that is a replica and no test.
const asReplica = "MIMIMI_TEST_REPLICA"

// atOnce is how many tests run at once that may: a service's wait for its bus most of the time, and are not to wait for each other.
const atOnce = "6"

// Main is the TestMain of a service's package: it runs the tests or, in a process that Start started, what cmd/<name> is.
func Main(m *testing.M, name string, load func(path string) (service.Run, error)) {
	if file := os.Getenv(asReplica); file != "" {
		os.Args = []string{name, "-config", file}
		service.Main(name, load)
	}
	flag.Parse()
	if err := flag.Set("test.parallel", atOnce); err != nil {
		panic(err) // the flag is testing's
	}
	os.Exit(m.Run())
}

// Process is a replica.
type Process struct {
	// Config is the path of its configuration file, in a directory of its own.
	Config string
	kill   func()
}

// Start starts a replica with a configuration, which becomes a JSON file. It lives until Kill, or the test's end.
func Start(t testing.TB, config any) *Process {
	t.Helper()
	b, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{Config: filepath.Join(t.TempDir(), "config.json")}
	if err := os.WriteFile(p.Config, b, 0o600); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), asReplica+"="+p.Config)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill() // fails only for one that has gone
		_ = cmd.Wait()         // says that it was killed
	})
	t.Cleanup(p.kill)
	return p
}

// Kill is kill -9. It returns when the process has gone.
func (p *Process) Kill() { p.kill() }
