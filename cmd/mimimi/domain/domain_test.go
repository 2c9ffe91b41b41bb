package domain

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/client"
)

// start starts a domain and stops it at the test's end, unless stop was called before.
func start(t *testing.T, o Options) (d *Domain, stop func()) {
	t.Helper()
	d, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := d.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	}
	t.Cleanup(stop)
	return d, stop
}

// register makes a user at a domain, which needs all of account, queue, relay, store and JetStream.
func register(t *testing.T, d *Domain, name string) {
	t.Helper()
	c, err := client.Register(t.Context(), client.Config{Dir: t.TempDir(), Provider: d.Info(), Stock: client.Stock{OneTime: 2, LastResort: 1}}, name)
	if err != nil {
		t.Fatalf("register: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestRestartKeepsAddressesAndKeys(t *testing.T) {
	dir := t.TempDir()
	d, stop := start(t, Options{Dir: dir, Domain: "a.localhost"})
	before, url := d.Info(), d.FederationURL()
	register(t, d, "alice")
	stop()
	d, _ = start(t, Options{Dir: dir, Domain: "a.localhost"})
	after := d.Info()
	if before.AccountURL != after.AccountURL || before.AnonymousURL != after.AnonymousURL || url != d.FederationURL() {
		t.Error("a restarted domain listens elsewhere")
	}
	if string(before.IdentityKey) != string(after.IdentityKey) || before.CA != after.CA {
		t.Error("a restarted domain has other keys")
	}
	if _, err := client.Register(t.Context(), client.Config{Dir: t.TempDir(), Provider: after}, "alice"); err == nil {
		t.Error("a name that was taken before the restart could be taken again")
	}
	register(t, d, "bob")
}

// TestReplicasOfAFolderInUse: several replicas in a folder that knows its addresses; the race detector watches who touches them.
func TestReplicasOfAFolderInUse(t *testing.T) {
	dir := t.TempDir()
	_, stop := start(t, Options{Dir: dir, Domain: "a.localhost"})
	stop()
	d, _ := start(t, Options{Dir: dir, Domain: "a.localhost", Replicas: 3})
	register(t, d, "alice")
}

func TestFolderOfAnotherDomain(t *testing.T) {
	dir := t.TempDir()
	_, stop := start(t, Options{Dir: dir, Domain: "a.localhost"})
	stop()
	if _, err := Start(t.Context(), Options{Dir: dir, Domain: "b.localhost"}); err == nil || !strings.Contains(err.Error(), "another domain") {
		t.Errorf("err = %v, want one that says the folder is another domain's", err)
	}
}

func TestBadDomain(t *testing.T) {
	for _, name := range []string{"", "Upper.example", "a b", "../x", "a.example:443"} {
		if _, err := Start(t.Context(), Options{Dir: t.TempDir(), Domain: name}); err == nil {
			t.Errorf("domain %q was started", name)
		}
	}
}

func TestExternalNATS(t *testing.T) {
	s, err := bus.StartServer(bus.ServerOptions{StoreDir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	d, _ := start(t, Options{Dir: t.TempDir(), Domain: "a.localhost", NATSURL: s.URL(), Replicas: 2})
	register(t, d, "alice")
	if _, err := d.Observe(func(string, string, map[string][]string, []byte) {}); err == nil {
		t.Error("an external bus was observed")
	}
}

func TestNoNATS(t *testing.T) {
	if _, err := Start(t.Context(), Options{Dir: t.TempDir(), Domain: "a.localhost", NATSURL: "nats://127.0.0.1:1"}); err == nil || !strings.Contains(err.Error(), "NATS") {
		t.Errorf("err = %v, want one that names NATS", err)
	}
}

// TestPrepare: a deployment's files are made once, and those that an operator put there stay.
func TestPrepare(t *testing.T) {
	dir := t.TempDir()
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if err := os.MkdirAll(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "keys", "deployment.key"), []byte("the operator's own, of 32 bytes.."), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Prepare(dir, "a.example"); err != nil {
		t.Fatal(err)
	}
	if got := read("keys/deployment.key"); got != "the operator's own, of 32 bytes.." {
		t.Error("a key that was there has been replaced")
	}
	info, err := client.LoadProviderInfo(filepath.Join(dir, "client.json"))
	if err != nil || info.AccountURL != "https://account.a.example" || info.AnonymousURL != "https://anonymous.a.example" || info.CA != read("tls/ca.pem") {
		t.Errorf("client.json: %v %+v", err, info)
	}
	if !strings.Contains(read("peer.json"), `"https://federation.a.example"`) {
		t.Errorf("peer.json: %s", read("peer.json"))
	}
	before := []string{read("keys/identity.key"), read("keys/ohttp-hub.pub"), read("tls/account.pem"), read("client.json")}
	if err := Prepare(dir, "a.example"); err != nil {
		t.Fatal(err)
	}
	if after := []string{read("keys/identity.key"), read("keys/ohttp-hub.pub"), read("tls/account.pem"), read("client.json")}; strings.Join(after, "|") != strings.Join(before, "|") {
		t.Error("a second run changed what was there")
	}
	if err := Prepare(dir, "b.example"); err == nil || !strings.Contains(err.Error(), "another domain") {
		t.Errorf("another domain in the folder: %v", err)
	}
}

func TestSecretsAreTheOwnersOnly(t *testing.T) {
	dir := t.TempDir()
	_, stop := start(t, Options{Dir: dir, Domain: "a.localhost"})
	stop()
	for _, pattern := range []string{"keys/*", "tls/*.key"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(files) < 3 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s can be read by others", filepath.Base(f))
			}
		}
	}
}
