package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mimimi.example/cmd/mimimi/domain"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/client"
)

// ownDomain is the domain of a deployment of these tests.
const ownDomain = "a.localhost"

// deployment is a domain on NATS servers of its own, with their users, as an operator has it.
type deployment struct {
	t     *testing.T
	dir   string
	url   string
	stage *stage
	stop  func()
}

// deploy prepares a server and runs the domain.
func deploy(t *testing.T) *deployment {
	t.Helper()
	d := &deployment{t: t, dir: t.TempDir()}
	keys := filepath.Join(d.dir, "domain", "keys")
	if err := os.MkdirAll(keys, 0o700); err != nil {
		t.Fatal(err)
	}
	d.write("domain/keys/deployment.key", bytes.Repeat([]byte("k"), 32))
	admin(t, 0, "users", "-domain", ownDomain, "-partitions", "4", "-deployment-key", filepath.Join(keys, "deployment.key"), "-dir", filepath.Join(d.dir, "users"))
	d.stage = &stage{dir: d.dir, quiet: true, domains: make(map[string]*domain.Domain), hosts: make(map[string]client.ProviderInfo)}
	d.url = d.server()
	d.start()
	t.Cleanup(func() {
		for _, p := range d.stage.people {
			if err := p.close(); err != nil {
				t.Errorf("close %s: %v", p.name, err)
			}
		}
	})
	return d
}

func (d *deployment) write(name string, content []byte) string {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		d.t.Fatal(err)
	}
	return path
}

// server starts an empty NATS server that takes the deployment's users.
func (d *deployment) server() string {
	d.t.Helper()
	users, err := os.ReadFile(filepath.Join(d.dir, "users", "nats-users.conf"))
	if err != nil {
		d.t.Fatal(err)
	}
	return bustest.Configured(d.t, string(users), "2TB")
}

// start runs the domain's services on the server.
func (d *deployment) start() {
	d.t.Helper()
	dom, err := domain.Start(d.t.Context(), domain.Options{
		Dir: filepath.Join(d.dir, "domain"), Domain: ownDomain, NATSURL: d.url, NATSKeys: filepath.Join(d.dir, "users"),
	})
	if err != nil {
		d.t.Fatal(err)
	}
	d.stage.domains[ownDomain], d.stage.hosts[ownDomain] = dom, dom.Info()
	d.t.Cleanup(func() { d.stop() }) // before its server
	stopped := false
	d.stop = func() {
		if stopped {
			return
		}
		stopped = true
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := dom.Stop(ctx); err != nil {
			d.t.Errorf("stop: %v", err)
		}
	}
}

// config is the path of a configuration file with which a user of the bus reaches the server.
func (d *deployment) config(user string) string {
	d.t.Helper()
	raw, err := json.Marshal(map[string]any{"bus": map[string]any{
		"url": d.url, "nkey_file": filepath.Join(d.dir, "users", user+".nk"), "deployment_key_file": filepath.Join(d.dir, "domain/keys/deployment.key"), "partitions": 4,
	}})
	if err != nil {
		d.t.Fatal(err)
	}
	return d.write(user+".json", raw)
}

// bus is a connection as one of the bus's users.
func (d *deployment) bus(user string) *bus.Bus {
	d.t.Helper()
	options, err := busOptions(d.config(user), user)
	if err != nil {
		d.t.Fatal(err)
	}
	b, err := bus.Connect(d.t.Context(), options)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			d.t.Error(err)
		}
	})
	return b
}

// mimimi runs a command and returns what it printed.
func (d *deployment) mimimi(code int, args ...string) (stdout, stderr string) {
	d.t.Helper()
	var out, errs bytes.Buffer
	if got := run(d.t.Context(), args, &out, &errs); got != code {
		d.t.Fatalf("%s: exit code %d, want %d: %s%s", args[0], got, code, &out, &errs)
	}
	return out.String(), errs.String()
}

// do fails the test on an error.
func (d *deployment) do(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// friends registers people, connects the first with the others, and has them in a group, whose local id at each it returns.
func (d *deployment) friends(names ...string) ([]*person, map[*person]string) {
	d.t.Helper()
	ctx := d.t.Context()
	var people []*person
	for _, n := range names {
		p, err := d.stage.arrive(ctx, n, ownDomain)
		d.do(err)
		people = append(people, p)
	}
	for _, p := range people[1:] {
		d.do(d.stage.connect(ctx, people[0], p))
	}
	group, err := people[0].c.CreateGroup(ctx, "friends")
	d.do(err)
	for _, p := range people[1:] {
		d.do(people[0].c.Add(ctx, group, p.user))
	}
	ids, err := joined(ctx, people[1:], nil)
	d.do(err)
	ids[people[0]] = group
	return people, ids
}
