// Package bustest starts a real bus for tests: an embedded server, or a cluster of three, with its streams initialised, in temporary directories.
// Everything stops with the test. A single node and a cluster differ in details that matter (see package bus), so tests of behaviour run on both.
package bustest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"mimimi.example/pkg/bus"
)

// partitions is small, so that tests start fast and groups share streams.
const partitions = 2

// Domain is one domain's bus.
type Domain struct {
	t       testing.TB
	layout  bus.Layout
	servers []*bus.Server
	urls    string // "" on a single in-process node
}

// Start starts one embedded node.
func Start(t testing.TB) *Domain {
	t.Helper()
	d := &Domain{t: t, layout: layout(1)}
	s, err := bus.StartServer(bus.ServerOptions{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	d.servers = []*bus.Server{s}
	t.Cleanup(s.Shutdown)
	d.init()
	return d
}

// StartReachable starts one node on a loopback port, for tests with processes of their own: Options has its URL.
func StartReachable(t testing.TB) *Domain {
	t.Helper()
	d := &Domain{t: t, layout: layout(1)}
	s, err := bus.StartServer(bus.ServerOptions{StoreDir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	d.servers, d.urls = []*bus.Server{s}, s.URL()
	d.init()
	return d
}

// StartCluster starts three nodes on loopback ports, with three replicas of every stream.
func StartCluster(t testing.TB) *Domain {
	t.Helper()
	d := &Domain{t: t, layout: layout(3)}
	routes, dirs := freeAddresses(t, 3), []string{t.TempDir(), t.TempDir(), t.TempDir()}
	var urls []string
	for i := range 3 {
		s, err := bus.StartServer(bus.ServerOptions{StoreDir: dirs[i], Listen: "127.0.0.1:0", Cluster: &bus.ClusterOptions{
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
	o := bus.Options{Service: service, Layout: d.layout, URL: d.urls}
	if d.urls == "" {
		o.InProcess = d.servers[0].InProcess()
	}
	return o
}

// Bus is a new connection of a service ("hub", "kpstore", "fanout", "provider" or "admin"), as one replica of it has. It closes with the test.
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
