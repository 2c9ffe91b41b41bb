package client_test

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	rpc "connectrpc.com/connect"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
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

	alice.deleteKilled()
	until(t, "bob learns it", func() bool {
		return bob.members(group) == 1 && len(bob.events(client.EventLeft)) == 1 && len(bob.events(client.EventDisconnected)) == 1
	}, bob)
	noLonger(t, alice, bob, user, token)
}

// noLonger checks that a deleted user is found nowhere, whose token a contact has.
func noLonger(t *testing.T, p, contact *person, user mimimi.User, token string) {
	t.Helper()
	if err := client.TryClaim(t.Context(), contact.c, user, token); err == nil {
		t.Error("KeyPackages of the deleted user can be claimed")
	}
	if err := contact.c.Connect(t.Context(), user); !errors.Is(err, client.ErrUnknownUser) {
		t.Errorf("the deleted user is found: %v", err)
	}
	cfg := p.cfg
	cfg.Dir = t.TempDir()
	if again, err := client.Register(t.Context(), cfg, path.Base(user.Wire())); err == nil {
		t.Error("the name is given out again")
		_ = again.Close()
	} else if problem.KindOf(err) != problem.Denied {
		t.Errorf("the name is refused by %v", err)
	}
}

// deleteKilled deletes p's account, with a client that is killed at one write after the other, and checks that nothing of it is left in its folder.
func (p *person) deleteKilled() {
	t := p.t
	t.Helper()
	p.w.Close()
	c := p.c
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
		c, err = client.Open(t.Context(), p.cfg)
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
	if _, err := client.Open(t.Context(), p.cfg); !errors.Is(err, client.ErrNotRegistered) {
		t.Errorf("the deleted client opens: %v", err)
	}
	if files, err := os.ReadDir(p.cfg.Dir); err != nil || len(files) > 1 {
		t.Errorf("%d files are left: %v", len(files), err)
	}
}

// TestDeleteAccountWithDevices deletes an account at the second of three devices, while the third is offline. The first sees it at once and the third when it is back: each
// forgets everything, and nothing is left of any of them at the servers but leaves of groups in which nobody else is.
func TestDeleteAccountWithDevices(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	alice.atOnce()
	phone := alice.addDevice("phone")
	tablet := alice.addDevice("tablet", phone)
	connect(t, phone, bob)
	if _, err := bob.c.CreateGroup(t.Context(), "friends"); err != nil {
		t.Fatalf("create: %v", err)
	}
	until(t, "contact on all", func() bool { return alice.connected(bob) && tablet.connected(bob) }, alice, phone, tablet, bob)
	if err := bob.c.Add(t.Context(), bob.named("friends"), users(alice)...); err != nil {
		t.Fatalf("add: %v", err)
	}
	if _, err := alice.c.CreateGroup(t.Context(), "diary"); err != nil {
		t.Fatalf("create: %v", err)
	}
	until(t, "all in", func() bool {
		return bob.clients(bob.named("friends")) == 4 && len(alice.groups()) == 2 && len(phone.groups()) == 2 && len(tablet.groups()) == 2
	}, alice, phone, tablet, bob)
	bob.send(bob.named("friends"), "hello")
	until(t, "heard", func() bool {
		return len(alice.events(client.EventMessage)) == 1 && len(tablet.events(client.EventMessage)) == 1
	}, alice, tablet)
	user, token := alice.c.User(), client.OwnToken(phone.c, bob.c.User())
	queues := map[*person]func() error{}
	for _, p := range []*person{alice, phone, tablet} {
		queues[p] = client.QueueReader(t.Context(), p.c)
		if err := queues[p](); err != nil {
			t.Fatalf("%s: queue: %v", p.name, err)
		}
	}

	phone.deleteKilled()
	until(t, "bob learns it", func() bool {
		return bob.members(bob.named("friends")) == 1 && len(bob.events(client.EventDisconnected)) == 1
	}, bob)
	if n := bob.clients(bob.named("friends")); n != 1 {
		t.Errorf("%d clients are in the group, want bob's", n)
	}
	noLonger(t, phone, bob, user, token)
	for _, p := range []*person{alice, tablet} { // the tablet was offline, and is back
		if err := queues[p](); err != nil {
			t.Errorf("%s: the queue was deleted by somebody else: %v", p.name, err)
		}
		until(t, p.name+" learns it", func() bool { return len(p.events(client.EventDeviceRemoved)) == 1 }, p)
		for range 2 {
			if err := p.c.Sync(t.Context()); !errors.Is(err, client.ErrDeviceRemoved) {
				t.Errorf("%s: sync: %v", p.name, err)
			}
		}
		wantError(t, p.name+" deletes", p.c.DeleteAccount(t.Context()), client.ErrDeviceRemoved)
		if left := client.Left(p.c); len(left) != 0 {
			t.Errorf("%s keeps %v", p.name, left)
		}
		if got := p.events(client.EventMessage); len(got) != 1 {
			t.Errorf("%s has %d messages, want those that it had", p.name, len(got))
		}
	}
	for p, read := range queues {
		if err := read(); problem.KindOf(err) != problem.Denied {
			t.Errorf("%s's queue is still there: %v", p.name, err)
		}
	}
}

// TestDeleteAccountTwice: two devices delete their account at once. The one that is faster does so; the other is removed by it.
func TestDeleteAccountTwice(t *testing.T) {
	alice := register(t, theWorld.a, "alice")
	phone := alice.addDevice("phone")
	if _, err := alice.c.CreateGroup(t.Context(), "diary"); err != nil {
		t.Fatalf("create: %v", err)
	}
	until(t, "group", func() bool { return phone.named("diary") != "" }, alice, phone)
	waiting := phone.newLink("watch")
	if err := waiting.c.DeleteAccount(t.Context()); problem.KindOf(err) != problem.Unavailable {
		t.Errorf("a device that is not linked deletes the account: %v", err)
	}
	restore, _ := client.RefuseRelay(phone.c, rpc.CodeUnavailable)
	if err := phone.c.DeleteAccount(t.Context()); err == nil {
		t.Error("an account is deleted whose other devices could not be told")
	}
	restore()
	alice.deleteKilled()
	until(t, "phone removed", func() bool { return len(phone.events(client.EventDeviceRemoved)) == 1 }, phone)
	wantError(t, "the other device goes on", phone.c.DeleteAccount(t.Context()), client.ErrDeviceRemoved)
	if left := client.Left(phone.c); len(left) != 0 {
		t.Errorf("the other device keeps %v", left)
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
