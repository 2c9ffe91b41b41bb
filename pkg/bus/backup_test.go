package bus_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/problem"
)

// emptyServer is a server without streams, and an admin's connection to it.
func emptyServer(t *testing.T, l bus.Layout) (*bus.Server, *bus.Bus) {
	t.Helper()
	s, err := bus.StartServer(bus.ServerOptions{StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s, connectTo(t, s, "admin", l)
}

func connectTo(t *testing.T, s *bus.Server, service string, l bus.Layout) *bus.Bus {
	t.Helper()
	b, err := bus.Connect(t.Context(), bus.Options{InProcess: s.InProcess(), Service: service, Layout: l})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	return b
}

// stored is all that a subject holds.
func stored(t *testing.T, b *bus.Bus, s bus.Subject) []*bus.Message {
	t.Helper()
	all, more, err := b.Read(t.Context(), s, 0, 10_000, 64<<20)
	if err != nil || more {
		t.Fatalf("read: %v, more %v", err, more)
	}
	return all
}

func backUp(t *testing.T, b *bus.Bus) []byte {
	t.Helper()
	var out bytes.Buffer
	var names []string
	if err := b.Backup(t.Context(), &out, func(name string) { names = append(names, name) }); err != nil {
		t.Fatalf("backup: %v", err)
	}
	if names[0] != "OUTBOX" || names[len(names)-1] != "SPENT" || slices.Index(names, "QUEUE_0") > slices.Index(names, "BODY") || slices.Index(names, "QUEUE_1") > slices.Index(names, "GROUP_0") {
		t.Errorf("in a wrong order: %v", names)
	}
	return out.Bytes()
}

// TestRestore: what is restored is what was backed up, with sequences and times; what comes next has sequences that nobody has seen, and the rules of the streams hold on. It is one deployment's
// story: what is restored is what the lines before have stored.
func TestRestore(t *testing.T) {
	t.Parallel()
	d := bustest.Start(t)
	hub, provider, fanout := d.Bus("hub"), d.Bus("provider"), d.Bus("fanout")
	log, queue := hub.GroupHandshakes([]byte("g")), provider.Queue([]byte("q"))
	var last uint64
	for i := range 300 {
		var err error
		if last, err = hub.Publish(t.Context(), log, fmt.Appendf(nil, "entry %d", i), bus.PublishOptions{ExpectLast: &last}); err != nil {
			t.Fatal(err)
		}
		publish(t, provider, queue, fmt.Sprint("in the queue ", i))
		publish(t, provider, provider.Queue([]byte("acknowledged")), "x")
	}
	if err := provider.Purge(t.Context(), provider.Queue([]byte("acknowledged")), 0); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("body ", 1<<20)
	publish(t, provider, provider.Body([]byte("h")), large)
	publish(t, fanout, fanout.Outbox("b.example"), "waits")
	publish(t, hub, hub.Dead(), "{}")

	// Fan-out has worked off the first hundred.
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	hundred := make(chan struct{})
	for _, c := range fanout.GroupConsumers() {
		running.Go(func() {
			n := 0
			err := fanout.Consume(ctx, c, func(ctx context.Context, m *bus.Message) error {
				if n == 100 {
					close(hundred)
					<-ctx.Done()
					return ctx.Err()
				}
				n++
				return nil
			})
			if err != nil {
				t.Errorf("consume: %v", err)
			}
		})
	}
	<-hundred
	file := backUp(t, d.Bus("admin"))
	cancel()
	running.Wait()

	server, admin := emptyServer(t, d.Layout())
	begun, err := admin.Restore(t.Context(), bytes.NewReader(file), bus.RestoreOptions{})
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	if ago := time.Since(begun); ago < 0 || ago > time.Hour || begun.Nanosecond() != 0 {
		t.Errorf("the backup is said to be of %v", begun)
	}
	for range 2 {
		if err := admin.Init(t.Context()); err != nil {
			t.Fatalf("init: %v", err)
		}
	}
	if err := admin.Verify(t.Context()); err != nil {
		t.Errorf("drift: %v", err)
	}
	hub2, provider2, fanout2 := connectTo(t, server, "hub", d.Layout()), connectTo(t, server, "provider", d.Layout()), connectTo(t, server, "fanout", d.Layout())
	for name, s := range map[string]bus.Subject{"log": log, "queue": queue, "acknowledged": provider.Queue([]byte("acknowledged")), "body": provider.Body([]byte("h")), "outbox": provider.Outboxes(), "dead": provider.Graves()} {
		from, to := d.Bus("admin"), admin
		want, got := stored(t, from, s), stored(t, to, s)
		same := slices.EqualFunc(want, got, func(a, b *bus.Message) bool {
			return a.Sequence == b.Sequence && a.Subject == b.Subject && a.Time.Equal(b.Time) && bytes.Equal(a.Data, b.Data)
		})
		if !same {
			t.Errorf("%s: %d messages, want %d the same", name, len(got), len(want))
		}
	}
	if _, err := hub2.Publish(t.Context(), log, []byte("not after the last one"), bus.PublishOptions{ExpectLast: new(uint64)}); problem.KindOf(err) != problem.Stale {
		t.Errorf("compare-and-swap: %v", err)
	}
	for name, s := range map[string]bus.Subject{"log": log, "queue": queue, "an empty stream": provider.Inbox("u"), "one that was emptied": provider.Queue([]byte("acknowledged"))} {
		b := provider2
		if s == log {
			b = hub2
		}
		if next := publish(t, b, s, "next"); next < 1<<22 {
			t.Errorf("%s: the next sequence is %d, which somebody may have seen", name, next)
		}
	}

	// Fan-out goes on with the hundred and first, and comes to what is new.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	var first, count uint64
	done := make(chan struct{})
	for _, c := range fanout2.GroupConsumers() {
		running.Go(func() {
			err := fanout2.Consume(ctx, c, func(_ context.Context, m *bus.Message) error {
				if count++; first == 0 {
					first = m.Sequence
				}
				if string(m.Data) == "next" {
					close(done)
				}
				return nil
			})
			if err != nil {
				t.Errorf("consume: %v", err)
			}
		})
	}
	<-done
	cancel()
	running.Wait()
	if first != 101 || count != 201 {
		t.Errorf("fan-out goes on at entry %d and sees %d, want 101 and 201", first, count)
	}
}

// TestRestoreRefused: a restore begins with empty servers and the deployment's own key, and a backup that is not whole is told.
func TestRestoreRefused(t *testing.T) {
	t.Parallel()
	d := bustest.Start(t)
	publish(t, d.Bus("hub"), d.Bus("hub").GroupMessages([]byte("g")), "m")
	file := backUp(t, d.Bus("admin"))
	if _, err := d.Bus("admin").Restore(t.Context(), bytes.NewReader(file), bus.RestoreOptions{}); problem.KindOf(err) != problem.Stale {
		t.Errorf("onto a deployment: %v", err)
	}
	other := d.Layout()
	other.DeploymentKey = bytes.Repeat([]byte{9}, 32)
	_, admin := emptyServer(t, other)
	if _, err := admin.Restore(t.Context(), bytes.NewReader(file), bus.RestoreOptions{}); err == nil || !strings.Contains(err.Error(), "another deployment key") {
		t.Errorf("with another key: %v", err)
	}
	for _, n := range []int{0, 3, len(file) / 2, len(file) - 1} {
		_, admin := emptyServer(t, d.Layout())
		if _, err := admin.Restore(t.Context(), io.LimitReader(bytes.NewReader(file), int64(n)), bus.RestoreOptions{}); err == nil {
			t.Errorf("the first %d bytes of %d were restored", n, len(file))
		}
	}
}

// TestRestoreSome: some streams, some messages, and as they were.
func TestRestoreSome(t *testing.T) {
	t.Parallel()
	d := bustest.Start(t)
	hub, store := d.Bus("hub"), d.Bus("kpstore")
	publish(t, hub, hub.GroupMessages([]byte("g")), "m")
	publish(t, store, store.KeyPackageSet([]byte("o"), []byte("one")), "drop")
	publish(t, store, store.KeyPackageSet([]byte("o"), []byte("two")), "keep")
	file := backUp(t, d.Bus("admin"))
	server, admin := emptyServer(t, d.Layout())
	o := bus.RestoreOptions{Look: true, Only: func(s string) bool { return strings.HasPrefix(s, "GROUP_") || strings.HasPrefix(s, "KP_") },
		Keep: func(family string, data []byte) bool { return family != "kp.*.*.*" || string(data) != "drop" }}
	if _, err := admin.Restore(t.Context(), bytes.NewReader(file), o); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, admin, store.KeyPackageSets([]byte("o"))); len(got) != 1 || string(got[0].Data) != "keep" {
		t.Errorf("%d sets", len(got))
	}
	if next := publish(t, connectTo(t, server, "hub", d.Layout()), hub.GroupMessages([]byte("g")), "m"); next != 2 {
		t.Errorf("the next sequence is %d, want 2", next)
	}
	if _, err := admin.Extent(t.Context(), admin.Outboxes()); err == nil {
		t.Error("OUTBOX was restored")
	}
}

// TestRestoreDropsTraces: a restored message keeps its headers but for trace context.
func TestRestoreDropsTraces(t *testing.T) {
	for in, want := range map[string]string{
		"": "",
		"NATS/1.0\r\ntraceparent: 00-1-2-01\r\n\r\n":                              "",
		"NATS/1.0\r\nNats-Msg-Id: x\r\n\r\n":                                      "NATS/1.0\r\nNats-Msg-Id: x\r\n\r\n",
		"NATS/1.0\r\nNats-TTL: 5s\r\ntraceparent: 0\r\nA: traceparent: b\r\n\r\n": "NATS/1.0\r\nNats-TTL: 5s\r\nA: traceparent: b\r\n\r\n",
	} {
		if got := bus.WithoutTrace(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestRestoreCluster: the same on three nodes with three replicas: streams, their places in the sequence, and fan-out's.
func TestRestoreCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("three nodes: not in a short run")
	}
	t.Parallel()
	d := bustest.StartCluster(t)
	hub, admin := d.Bus("hub"), d.Bus("admin")
	log := hub.GroupHandshakes([]byte("g"))
	var last uint64
	for i := range 50 {
		var err error
		if last, err = hub.Publish(t.Context(), log, fmt.Appendf(nil, "entry %d", i), bus.PublishOptions{ExpectLast: &last}); err != nil {
			t.Fatal(err)
		}
	}
	var want []*bus.Message
	all := func() bool { want = stored(t, hub, log); return len(want) == 50 }
	if !eventually(t, time.Minute, all) { // a replica that lags may answer
		t.Fatalf("%d entries", len(want))
	}
	file := backUp(t, admin)
	for _, name := range admin.Streams() {
		if err := admin.JS().DeleteStream(t.Context(), name); err != nil {
			t.Fatalf("delete %s: %v", name, err)
		}
	}
	if _, err := admin.Restore(t.Context(), bytes.NewReader(file), bus.RestoreOptions{}); err != nil {
		t.Fatalf("restore: %v", err)
	}
	if err := admin.Init(t.Context()); err != nil {
		t.Fatalf("init: %v", err)
	}
	if err := admin.Verify(t.Context()); err != nil {
		t.Errorf("drift: %v", err)
	}
	var got []*bus.Message
	same := func() bool {
		got = stored(t, hub, log)
		return slices.EqualFunc(want, got, func(a, b *bus.Message) bool {
			return a.Sequence == b.Sequence && a.Time.Equal(b.Time) && bytes.Equal(a.Data, b.Data)
		})
	}
	if !eventually(t, time.Minute, same) {
		t.Errorf("%d entries, want %d the same", len(got), len(want))
	}
	next, err := hub.Publish(t.Context(), log, []byte("next"), bus.PublishOptions{ExpectLast: &last})
	if err != nil || next < 1<<22 {
		t.Errorf("the next entry: sequence %d, %v", next, err)
	}
	fanout := d.Bus("fanout")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var running sync.WaitGroup
	done, count := make(chan struct{}), 0
	for _, c := range fanout.GroupConsumers() {
		running.Go(func() {
			err := fanout.Consume(ctx, c, func(_ context.Context, m *bus.Message) error {
				if count++; string(m.Data) == "next" {
					close(done)
				}
				return nil
			})
			if err != nil {
				t.Errorf("consume: %v", err)
			}
		})
	}
	<-done
	cancel()
	running.Wait()
	if count != 51 {
		t.Errorf("fan-out sees %d entries, want 51", count)
	}
}
