package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
)

// admin runs an admin command and returns what it printed.
func admin(t *testing.T, code int, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if got := run(t.Context(), append([]string{"admin"}, args...), &out, &errs); got != code {
		t.Fatalf("admin %s: exit code %d, want %d: %s%s", args[0], got, code, &out, &errs)
	}
	return out.String() + errs.String()
}

// TestAdmin: from a deployment key to a NATS server with users and streams, as docs/architecture.md tells an operator; and what is refused on the way.
func TestAdmin(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := file("deployment.key", strings.Repeat("k", 32))
	users := []string{"users", "-domain", "a.example", "-partitions", "2", "-dir", filepath.Join(dir, "users")}
	if got := admin(t, 1, append(users, "-deployment-key", file("short.key", "k"))...); !strings.Contains(got, "32 bytes") {
		t.Errorf("a short key: %s", got)
	}
	admin(t, 1, "users", "-domain", "A_b", "-deployment-key", key, "-dir", dir)
	admin(t, 0, append(users, "-deployment-key", key)...)
	if got := admin(t, 1, append(users, "-deployment-key", key)...); !strings.Contains(got, "is there already") {
		t.Errorf("a second time: %s", got)
	}

	conf, err := os.ReadFile(filepath.Join(dir, "users", "nats-users.conf"))
	if err != nil {
		t.Fatal(err)
	}
	small, url := bustest.Configured(t, string(conf), "1GB"), bustest.Configured(t, string(conf), "2TB")
	config := func(url, user string) string {
		raw, err := json.Marshal(map[string]any{"bus": map[string]any{
			"url": url, "nkey_file": filepath.Join(dir, "users", user+".nk"), "deployment_key_file": key, "partitions": 2,
		}})
		if err != nil {
			t.Fatal(err)
		}
		return file(user+".json", string(raw))
	}
	if got := admin(t, 1, "check", "-config", config(url, "admin")); !strings.Contains(got, "missing") {
		t.Errorf("no streams yet: %s", got)
	}
	if got := admin(t, 1, "init", "-config", config(url, "hub")); !strings.Contains(got, "another service's") {
		t.Errorf("with the hub's key: %s", got)
	}
	admin(t, 1, "init", "-config", file("bad.json", `{"bus":{},"more":1}`))
	if got := admin(t, 1, "init", "-config", config(small, "admin")); !strings.Contains(got, "raise max_file_store") {
		t.Errorf("too little storage: %s", got)
	}
	for range 2 {
		admin(t, 0, "init", "-config", config(url, "admin"))
	}
	if got := admin(t, 0, "check", "-json", "-config", config(url, "admin")); got != "{\"as_declared\":true}\n" {
		t.Errorf("check: %q", got)
	}
	for _, name := range bus.Services() {
		b, err := bus.Connect(t.Context(), bus.Options{
			URL: url, NKeyFile: filepath.Join(dir, "users", name+".nk"), Service: name, Layout: bus.Layout{Partitions: 2, DeploymentKey: []byte(strings.Repeat("k", 32))},
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := b.Verify(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := b.Close(t.Context()); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
	}
}
