package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/problem"
)

// entry is one message: sequences are a stream's.
type entry struct {
	key string
	seq uint64
}

// ledger checks what handlers see: a message is begun only when all before it of its key were done by somebody.
type ledger struct {
	t *testing.T

	mu       sync.Mutex
	want     map[string][]uint64 // sequences by key, in order
	done     map[entry]int       // how often
	finished map[string]int      // how many distinct ones by key
	max      int                 // handlers at once
	now      int
}

func newLedger(t *testing.T) *ledger {
	return &ledger{t: t, want: make(map[string][]uint64), done: make(map[entry]int), finished: make(map[string]int)}
}

// add publishes one message of a key and expects it.
func (l *ledger) add(b *bus.Bus, key string) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	s := b.GroupHandshakes([]byte(key))
	if len(l.want[key])%2 == 1 {
		s = b.GroupMessages([]byte(key))
	}
	for {
		seq, err := b.Publish(context.Background(), s, []byte(key), bus.PublishOptions{ID: fmt.Sprint(key, len(l.want[key]))})
		if err == nil {
			l.want[key] = append(l.want[key], seq)
			return
		}
		if problem.KindOf(err) != problem.Unavailable {
			l.t.Fatal(err)
		}
	}
}

func (l *ledger) handle(_ context.Context, m *bus.Message) error {
	key := string(m.Data)
	e := entry{key, m.Sequence}
	l.mu.Lock()
	l.now++
	l.max = max(l.max, l.now)
	if l.done[e] == 0 {
		if i := l.finished[key]; i >= len(l.want[key]) || l.want[key][i] != m.Sequence {
			l.t.Errorf("%s: message %d begun when %d were done", key, m.Sequence, i)
		}
	}
	l.mu.Unlock()
	time.Sleep(time.Millisecond) // work, so that handlers overlap
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now--
	if l.done[e]++; l.done[e] == 1 {
		l.finished[key]++
	}
	return nil
}

func (l *ledger) complete() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, want := range l.want {
		if l.finished[key] != len(want) {
			return false
		}
	}
	return true
}

func (l *ledger) status() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprint(l.finished)
}

// replica runs fan-out's consumers on a connection of its own.
type replica struct {
	b    *bus.Bus
	stop context.CancelFunc
	done chan struct{}
	got  atomic.Int64
}

func startReplica(t *testing.T, d *bustest.Domain, handle func(context.Context, *bus.Message) error) *replica {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &replica{b: d.Bus("fanout"), stop: cancel, done: make(chan struct{})}
	r.b.SetRetry(time.Millisecond, 20*time.Millisecond, 3)
	var wg sync.WaitGroup
	for _, c := range r.b.GroupConsumers() {
		wg.Go(func() {
			err := r.b.Consume(ctx, c, func(ctx context.Context, m *bus.Message) error {
				r.got.Add(1)
				return handle(ctx, m)
			})
			if err != nil && problem.KindOf(err) != problem.Unavailable {
				t.Errorf("consume: %v", err)
			}
		})
	}
	go func() { wg.Wait(); close(r.done) }()
	t.Cleanup(func() { cancel(); <-r.done })
	return r
}

func (l *ledger) await(within time.Duration) {
	l.t.Helper()
	start := time.Now()
	if !eventually(l.t, within, l.complete) {
		l.t.Fatalf("after %v: %s", within, l.status())
	}
	l.t.Logf("complete after %v", time.Since(start).Round(10*time.Millisecond))
}

func keys(n int) (k []string) {
	for i := range n {
		k = append(k, "key"+strconv.Itoa(i))
	}
	return k
}

func TestConsumeOrder(t *testing.T) {
	both(t, func(t *testing.T, d *bustest.Domain) {
		b, l := d.Bus("hub"), newLedger(t)
		for range 20 { // before anybody consumes
			for _, k := range keys(10) {
				l.add(b, k)
			}
		}
		first := startReplica(t, d, l.handle)
		second := startReplica(t, d, l.handle)
		for range 20 {
			for _, k := range keys(10) {
				l.add(b, k)
			}
		}
		l.await(time.Minute)
		first.stop()
		second.stop()
		<-first.done
		<-second.done
		for e, n := range l.done {
			if n != 1 {
				t.Errorf("%v was handled %d times", e, n)
			}
		}
		if l.max < 2 {
			t.Error("different keys were not handled concurrently")
		}
	})
}

// TestFailOver kills the active replica's connection in mid-work: the other takes over within 15 seconds, nothing is lost, every key's order holds.
func TestFailOver(t *testing.T) {
	both(t, func(t *testing.T, d *bustest.Domain) {
		b, l := d.Bus("hub"), newLedger(t)
		replicas := []*replica{startReplica(t, d, l.handle)}
		for _, k := range keys(5) {
			l.add(b, k)
		}
		l.await(30 * time.Second) // the first one is pinned
		replicas = append(replicas, startReplica(t, d, l.handle))
		for range 40 {
			for _, k := range keys(5) {
				l.add(b, k)
			}
			if l.add(b, "extra"); len(l.want["extra"]) == 20 {
				replicas[0].b.Conn().Close()
			}
		}
		l.await(16 * time.Second)
		if replicas[1].got.Load() == 0 {
			t.Error("the second replica did nothing")
		}
	})
}

// TestStuckReplica: the active replica is alive and stuck in a handler when its connection dies; what waited behind the stuck message is not handled out of order.
func TestStuckReplica(t *testing.T) {
	t.Parallel()
	d := bustest.StartOpen(t)
	b, l := d.Bus("hub"), newLedger(t)
	release := make(chan struct{})
	var once sync.Once
	stuck := make(chan struct{})
	first := startReplica(t, d, func(ctx context.Context, m *bus.Message) error {
		if string(m.Data) == "key0" {
			once.Do(func() { close(stuck) })
			<-release
			return errors.New("too late")
		}
		return l.handle(ctx, m)
	})
	for range 10 {
		l.add(b, "key0")
		l.add(b, "key1")
	}
	<-stuck
	startReplica(t, d, l.handle)
	first.b.Conn().Close()
	l.await(16 * time.Second)
	close(release)
	<-first.done
}

// TestHandOver: a replica that stops as asked hands over at once.
func TestHandOver(t *testing.T) {
	both(t, func(t *testing.T, d *bustest.Domain) {
		b, l := d.Bus("hub"), newLedger(t)
		first := startReplica(t, d, l.handle)
		for _, k := range keys(5) {
			l.add(b, k)
		}
		l.await(30 * time.Second)
		startReplica(t, d, l.handle)
		for range 20 {
			for _, k := range keys(5) {
				l.add(b, k)
			}
		}
		before := pins(t, b)
		if len(before) == 0 {
			t.Error("no consumer had a turn")
		}
		first.stop()
		<-first.done
		for name, pin := range pins(t, b) { // long before the turn would have ended by itself
			if before[name] == pin {
				t.Error("the turn was not handed over")
			}
		}
		for _, k := range keys(5) {
			l.add(b, k)
		}
		l.await(30 * time.Second)
	})
}

// pins returns whose turn it is at each consumer that has given one.
func pins(t *testing.T, b *bus.Bus) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for _, c := range b.GroupConsumers() {
		consumer, err := b.JS().Consumer(t.Context(), c.Stream(), c.Name())
		if err != nil {
			t.Fatal(err)
		}
		info, err := consumer.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range info.PriorityGroups {
			if g.PinnedClientID != "" {
				all[c.Stream()+" "+c.Name()] = g.PinnedClientID
			}
		}
	}
	return all
}

// TestSlowHandler: a handler that takes longer than the server's patience is not repeated, and others go on meanwhile.
func TestSlowHandler(t *testing.T) {
	t.Parallel()
	d := bustest.StartOpen(t)
	b, l := d.Bus("hub"), newLedger(t)
	release := make(chan struct{})
	var slow atomic.Int32
	startReplica(t, d, func(ctx context.Context, m *bus.Message) error {
		if string(m.Data) == "slow" && slow.Add(1) == 1 {
			<-release
		}
		return l.handle(ctx, m)
	})
	l.add(b, "slow")
	l.add(b, "slow")
	for _, k := range keys(5) {
		l.add(b, k)
	}
	patience := time.NewTimer(11 * time.Second) // ackWait is 8
	<-patience.C
	if n := slow.Load(); n != 1 {
		t.Errorf("the slow message was begun %d times", n)
	}
	if n := strings.Count(l.status(), "key"); n != 5 {
		t.Errorf("the others waited: %s", l.status())
	}
	close(release)
	l.await(10 * time.Second)
}

// TestNodeLoss stops the node that leads the stream while both replicas work.
func TestNodeLoss(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a cluster takes several seconds to start")
	}
	d := bustest.StartOpenCluster(t)
	b, l := d.Bus("hub"), newLedger(t)
	startReplica(t, d, l.handle)
	startReplica(t, d, l.handle)
	stream := b.GroupHandshakes([]byte("key0")).Stream()
	for i := range 60 {
		for _, k := range keys(3) {
			l.add(b, k)
		}
		if i == 20 {
			for _, s := range d.Servers() {
				if s.LeadsStream(stream) {
					s.Shutdown()
					break
				}
			}
		}
	}
	l.await(45 * time.Second)
}

func TestRetryAndDead(t *testing.T) {
	both(t, func(t *testing.T, d *bustest.Domain) {
		b := d.Bus("hub")
		var mu sync.Mutex
		tries := make(map[string]int)
		fail := map[string]error{
			"unavailable": problem.New(problem.Unavailable, "down"), "limited": problem.New(problem.Limited, "full"), "stale": problem.New(problem.Stale, "stale"),
			"invalid": problem.New(problem.Invalid, "the entry is malformed"), "plain": errors.New("canary"),
		}
		handled := func(what string) int { mu.Lock(); defer mu.Unlock(); return tries[what] }
		startReplica(t, d, func(_ context.Context, m *bus.Message) error {
			mu.Lock()
			defer mu.Unlock()
			what := string(m.Data)
			tries[what]++
			if what == "panic" {
				panic("canary")
			}
			if err := fail[what]; err != nil && (tries[what] < 6 || what == "invalid" || what == "plain") {
				return err
			}
			return nil
		})
		for what := range fail {
			publish(t, b, b.GroupHandshakes([]byte(what)), what)
			publish(t, b, b.GroupMessages([]byte(what)), "after "+what)
		}
		publish(t, b, b.GroupHandshakes([]byte("panic")), "panic")
		publish(t, b, b.GroupMessages([]byte("panic")), "after panic")
		for what, n := range map[string]int{"unavailable": 6, "limited": 6, "stale": 6, "invalid": 1, "plain": 3, "panic": 3} {
			if !eventually(t, 30*time.Second, func() bool { return handled("after "+what) == 1 }) {
				t.Fatalf("%s: what follows was not handled", what)
			}
			if got := handled(what); got != n {
				t.Errorf("%s: tried %d times, want %d", what, got, n)
			}
		}
		graves := make(map[string]int)
		msgs, _ := readAll(t, b, d.Bus("fanout").Dead(), 3, 10, 1<<20)
		for _, m := range msgs {
			var g struct {
				Family, Stream, Reason string
				Sequence               uint64
			}
			if err := json.Unmarshal(m.Data, &g); err != nil || g.Family != "group.*.*.c" || !strings.HasPrefix(g.Stream, "GROUP_") || g.Sequence == 0 {
				t.Errorf("%s %v", m.Data, err)
			}
			graves[g.Reason]++
		}
		if len(msgs) != 3 || graves["the entry is malformed"] != 1 || graves["internal error"]+graves["the handler panicked"] != 2 {
			t.Errorf("DEAD has %v", graves)
		}
	})
}

// TestOutbox: a domain that is down holds back nobody else, what is acknowledged is gone, and two replicas get one consumer.
func TestOutbox(t *testing.T) {
	both(t, func(t *testing.T, d *bustest.Domain) {
		fanout, one, two := d.Bus("fanout"), d.Bus("provider"), d.Bus("provider")
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		got := make(chan string, 100)
		for _, b := range []*bus.Bus{one, two} {
			for _, domain := range []string{"up.example", "down.example"} {
				c, err := b.OutboxConsumer(t.Context(), domain)
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(c.Name(), "example") {
					t.Error("a consumer's name shows a domain")
				}
				wg.Go(func() {
					if err := b.Consume(ctx, c, func(_ context.Context, m *bus.Message) error {
						if domain == "down.example" {
							return problem.New(problem.Unavailable, "down")
						}
						got <- string(m.Data)
						return nil
					}); err != nil {
						t.Error(err)
					}
				})
			}
		}
		for i := range 20 {
			publish(t, fanout, fanout.Outbox("down.example"), "never")
			publish(t, fanout, fanout.Outbox("up.example"), strconv.Itoa(i))
		}
		for i := range 20 {
			select {
			case s := <-got:
				if s != strconv.Itoa(i) {
					t.Errorf("got %s, want %d", s, i)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("nothing came")
			}
		}
		if !eventually(t, 10*time.Second, func() bool { n, err := one.Count(t.Context(), one.Outbox("up.example")); return err == nil && n == 0 }) {
			t.Error("what was acknowledged is still there")
		}
		if n, err := one.Count(t.Context(), one.Outbox("down.example")); err != nil || n != 20 {
			t.Errorf("%d wait for the domain that is down, %v", n, err)
		}
		cancel()
		wg.Wait()
	})
}

func TestConsumeWithoutConsumer(t *testing.T) {
	t.Parallel()
	d := bustest.StartOpen(t)
	b := d.Bus("fanout")
	if err := b.JS().DeleteConsumer(t.Context(), "GROUP_0", "fanout"); err != nil {
		t.Fatal(err)
	}
	err := b.Consume(t.Context(), b.GroupConsumers()[0], nil)
	wantKind(t, err, problem.Internal)
	if err := b.Verify(t.Context()); err == nil {
		t.Error("verify did not miss it")
	}
	ended := make(chan error, 1)
	go func() { ended <- b.Consume(t.Context(), b.GroupConsumers()[1], nil) }()
	eventually(t, time.Second, func() bool { return false }) // let it pull
	if err := b.JS().DeleteConsumer(t.Context(), "GROUP_1", "fanout"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		wantKind(t, err, problem.Internal)
	case <-time.After(20 * time.Second):
		t.Error("consume goes on without its consumer")
	}
}
