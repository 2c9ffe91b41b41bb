package client_test

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/problem"
)

// TestDeleteAccount deletes an account whose client is killed at one write after the other, and looks for what is left.
func TestDeleteAccount(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	group, err := bob.c.CreateGroup(t.Context(), "friends")
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := bob.c.Add(t.Context(), group, users(alice)...); err != nil {
		t.Fatalf("add: %v", err)
	}
	alone, err := alice.c.CreateGroup(t.Context(), "diary")
	if err != nil || alone == "" {
		t.Fatalf("create: %v", err)
	}
	until(t, "join", func() bool { return len(alice.groups()) == 2 }, alice)
	user, token := alice.c.User(), client.OwnToken(alice.c, bob.c.User())

	alice.w.Close()
	c := alice.c
	for n := 1; ; n++ {
		left := n
		client.SetFault(c, func(bool) error {
			if left--; left <= 0 {
				return errKilled
			}
			return nil
		})
		err := c.DeleteAccount(t.Context())
		if err == nil {
			break
		}
		if !errors.Is(err, errKilled) || n > 100 {
			t.Fatalf("delete, killed at write %d: %v", n, err)
		}
		if err := c.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
		c, err = client.Open(t.Context(), alice.cfg)
		if errors.Is(err, client.ErrNotRegistered) {
			break // the last write was done
		}
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		if _, err := c.CreateGroup(t.Context(), "x"); n > 2 && !errors.Is(err, client.ErrDeleted) {
			t.Errorf("a client that is being deleted makes a group: %v", err)
		}
	}
	if _, err := client.Open(t.Context(), alice.cfg); !errors.Is(err, client.ErrNotRegistered) {
		t.Errorf("the deleted client opens: %v", err)
	}
	if files, err := os.ReadDir(alice.cfg.Dir); err != nil || len(files) > 1 {
		t.Errorf("%d files are left: %v", len(files), err)
	}
	until(t, "bob learns it", func() bool {
		return bob.members(group) == 1 && len(bob.events(client.EventLeft)) == 1 && len(bob.events(client.EventDisconnected)) == 1
	}, bob)
	if err := client.TryClaim(t.Context(), bob.c, user, token); err == nil {
		t.Error("KeyPackages of the deleted user can be claimed")
	}
	if err := bob.c.Connect(t.Context(), user); !errors.Is(err, client.ErrUnknownUser) {
		t.Errorf("the deleted user is found: %v", err)
	}
	cfg := alice.cfg
	cfg.Dir = t.TempDir()
	if again, err := client.Register(t.Context(), cfg, path.Base(user.Wire())); err == nil {
		t.Error("the name is given out again")
		_ = again.Close()
	} else if problem.KindOf(err) != problem.Denied {
		t.Errorf("the name is refused by %v", err)
	}
}

// TestEveryBucketIsErased: whoever adds a bucket adds it to what is erased with an account.
func TestEveryBucketIsErased(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no source: %v", err)
	}
	constant := regexp.MustCompile(`(?m)^\s*(?:const )?bucket[A-Z]\w*\s*= "(\w+)"`)
	found := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range constant.FindAllStringSubmatch(string(b), -1) {
			found++
			if m[1] != "seal" && !slices.Contains(client.Buckets(), m[1]) {
				t.Errorf("bucket %q is not erased with the account", m[1])
			}
		}
	}
	if found <= len(client.Buckets()) {
		t.Errorf("%d buckets found, want the seal's and %d", found, len(client.Buckets()))
	}
}
