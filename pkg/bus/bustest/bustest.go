// Package bustest starts a real bus for tests: an embedded server, or a cluster of three, with its streams initialised, in temporary directories.
// Each service has a NATS user with its permissions and no more. Everything stops with the test. A single node and a cluster differ in details that matter (see package bus), so tests of behaviour run on both.
package bustest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"mimimi.example/pkg/bus"
)

// partitions is small, so that tests start fast and groups share streams.
const partitions = 2

// Domain is one domain's bus.
type Domain struct {
	t       testing.TB
	layout  bus.Layout
	users   *bus.Users
	servers []*bus.Server
	urls    string // "" on a single in-process node
}

// Own is the name of the domain: the one to whose outbox the KeyPackage store may publish.
const Own = "a.example"

// Start starts one embedded node.
func Start(t testing.TB) *Domain {
	t.Helper()
	return newDomain(t, 1, true).single("")
}

// StartReachable starts one node on a loopback port, for tests with processes of their own: Options has its URL.
func StartReachable(t testing.TB) *Domain {
	t.Helper()
	return newDomain(t, 1, true).single("127.0.0.1:0")
}

// StartCluster starts three nodes on loopback ports, with three replicas of every stream.
func StartCluster(t testing.TB) *Domain {
	t.Helper()
	return newDomain(t, 3, true).cluster()
}

// StartOpen starts one embedded node that lets every service do everything, for tests of the bus itself.
func StartOpen(t testing.TB) *Domain {
	t.Helper()
	return newDomain(t, 1, false).single("")
}

// StartOpenCluster is StartCluster without permissions.
func StartOpenCluster(t testing.TB) *Domain {
	t.Helper()
	return newDomain(t, 3, false).cluster()
}

// Configured starts a server by itself from a configuration file, with JetStream and a port of its choice, and returns its URL. users is the part of the file that bus.Users.Config
// wrote, maxStore the jetstream section's max_file_store.
func Configured(t testing.TB, users, maxStore string) (url string) {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{
		"users.conf": users,
		"nats.conf":  fmt.Sprintf("port: -1\nmax_payload: 8MB\njetstream { store_dir: %q, max_file_store: %s }\ninclude ./users.conf\n", dir, maxStore),
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	opts, err := server.ProcessConfigFile(filepath.Join(dir, "nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	opts.NoLog, opts.NoSigs = true, true
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server did not start")
	}
	return s.ClientURL()
}

func (d *Domain) single(listen string) *Domain {
	d.t.Helper()
	s, err := bus.StartServer(bus.ServerOptions{StoreDir: d.t.TempDir(), Listen: listen, Users: d.users})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(s.Shutdown)
	d.servers, d.urls = []*bus.Server{s}, s.URL()
	d.init()
	return d
}

func (d *Domain) cluster() *Domain {
	t := d.t
	t.Helper()
	routes, dirs := freeAddresses(t, 3), []string{t.TempDir(), t.TempDir(), t.TempDir()}
	var urls []string
	for i := range 3 {
		s, err := bus.StartServer(bus.ServerOptions{StoreDir: dirs[i], Listen: "127.0.0.1:0", Users: d.users, Cluster: &bus.ClusterOptions{
			Name: "test", ServerName: fmt.Sprintf("node-%d", i), Listen: routes[i],
			Routes: []string{"nats://" + routes[0], "nats://" + routes[1], "nats://" + routes[2]},
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Shutdown)
		d.servers, urls = append(d.servers, s), append(urls, s.URL())
	}
	d.urls = strings.Join(urls, ",")
	d.init()
	return d
}

func newDomain(t testing.TB, replicas int, users bool) *Domain {
	t.Helper()
	d := &Domain{t: t, layout: layout(replicas)}
	if !users {
		return d
	}
	var err error
	if d.users, err = bus.NewUsers(d.layout, Own); err != nil {
		t.Fatal(err)
	}
	return d
}

func layout(replicas int) bus.Layout {
	key := sha256.Sum256([]byte("a deployment key for tests"))
	return bus.Layout{Partitions: partitions, Replicas: replicas, DeploymentKey: key[:]}
}

// freeAddresses reserves loopback ports by listening on them for a moment.
func freeAddresses(t testing.TB, n int) []string {
	t.Helper()
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}

func (d *Domain) init() {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	if err := d.Bus("admin").Init(ctx); err != nil {
		d.t.Fatalf("init: %v", err)
	}
}

// Layout is what the domain's buses share.
func (d *Domain) Layout() bus.Layout { return d.layout }

// Servers are the nodes, for tests that stop one.
func (d *Domain) Servers() []*bus.Server { return d.servers }

// Options are how a service connects.
func (d *Domain) Options(service string) bus.Options {
	d.t.Helper()
	o := bus.Options{Service: service, Layout: d.layout, URL: d.urls}
	if d.urls == "" {
		o.InProcess = d.servers[0].InProcess()
	}
	if d.users == nil {
		return o
	}
	var err error
	if o.NKeySeed, err = d.users.Seed(service); err != nil {
		d.t.Fatal(err)
	}
	return o
}

// Section is the section "bus" of the configuration file of a service that reaches the bus at url, with the keys that it names in files of their own.
func (d *Domain) Section(service, url string) map[string]any {
	d.t.Helper()
	dir := d.t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			d.t.Fatal(err)
		}
		return path
	}
	return map[string]any{
		"url": url, "partitions": d.layout.Partitions, "deployment_key_file": file("deployment.key", d.layout.DeploymentKey),
		"nkey_file": file("user.nk", d.Options(service).NKeySeed),
	}
}

// Bus is a new connection of a service ("hub", "kpstore", "fanout", "provider", "admin" or "replay"), as one replica of it has. It closes with the test.
func (d *Domain) Bus(service string) *bus.Bus {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	b, err := bus.Connect(ctx, d.Options(service))
	if err != nil {
		d.t.Fatalf("connect: %v", err)
	}
	d.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			d.t.Logf("close: %v", err)
		}
	})
	return b
}
