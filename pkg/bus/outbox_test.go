package bus_test

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/problem"
)

// TestOutboxFull: a domain that fetches nothing fills its own place in OUTBOX and nobody else's; what is acknowledged makes room again. The bound is
// lowered for the test; that the table has one is checked first.
func TestOutboxFull(t *testing.T) {
	both(t, func(t *testing.T, d *bustest.Domain) {
		fanout, provider := d.Bus("fanout"), d.Bus("provider")
		s, err := fanout.JS().Stream(t.Context(), "OUTBOX")
		if err != nil {
			t.Fatal(err)
		}
		config := s.CachedInfo().Config
		if config.MaxMsgsPerSubject <= 0 || !config.DiscardNewPerSubject {
			t.Fatal("one domain can fill OUTBOX for all")
		}
		config.MaxMsgsPerSubject = 3
		if _, err := fanout.JS().UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		full := fanout.Outbox("down.example")
		for i := range 3 {
			if _, err := fanout.Publish(t.Context(), full, []byte("x"), bus.PublishOptions{ID: "full" + strconv.Itoa(i)}); err != nil {
				t.Fatal(err)
			}
		}
		_, err = fanout.Publish(t.Context(), full, []byte("x"), bus.PublishOptions{ID: "one more"})
		wantKind(t, err, problem.Limited)
		if _, err := fanout.Publish(t.Context(), full, []byte("x"), bus.PublishOptions{ID: "full2"}); err != nil {
			t.Errorf("a repeat of what is there: %v", err)
		}
		publish(t, fanout, fanout.Outbox("up.example"), "x")
		c, err := provider.OutboxConsumer(t.Context(), "down.example")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := provider.Consume(ctx, c, func(context.Context, *bus.Message) error { return nil }); err != nil {
				t.Error(err)
			}
		})
		if !eventually(t, 20*time.Second, func() bool { n, err := provider.Count(t.Context(), full); return err == nil && n == 0 }) {
			t.Error("what was acknowledged is still there")
		}
		if _, err := fanout.Publish(t.Context(), full, []byte("x"), bus.PublishOptions{ID: "one more"}); err != nil {
			t.Errorf("no room after all was acknowledged: %v", err)
		}
		cancel()
		wg.Wait()
	})
}

// TestBy: with a key of the caller's, one key that is stuck holds back no other of its subject, each key's order holds, and a message for which the key
// panics is handled all the same.
func TestBy(t *testing.T) {
	d := bustest.StartOpen(t)
	fanout, provider := d.Bus("fanout"), d.Bus("provider")
	provider.SetRetry(time.Millisecond, 20*time.Millisecond, 3)
	c, err := provider.OutboxConsumer(t.Context(), "b.example")
	if err != nil {
		t.Fatal(err)
	}
	c = c.By(func(m *bus.Message) string {
		group, _, ok := strings.Cut(string(m.Data), " ")
		if !ok {
			panic("canary")
		}
		return group
	})
	publish(t, fanout, fanout.Outbox("b.example"), "none")
	for i := range 20 {
		publish(t, fanout, fanout.Outbox("b.example"), "stuck "+strconv.Itoa(i))
		publish(t, fanout, fanout.Outbox("b.example"), "one "+strconv.Itoa(i))
		publish(t, fanout, fanout.Outbox("b.example"), "two "+strconv.Itoa(i))
	}
	var mu sync.Mutex
	next, stuck := map[string]int{}, true
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		err := provider.Consume(ctx, c, func(_ context.Context, m *bus.Message) error {
			mu.Lock()
			defer mu.Unlock()
			group, n, _ := strings.Cut(string(m.Data), " ")
			if group == "stuck" && stuck {
				return problem.New(problem.Unavailable, "down")
			}
			if n != "" && n != strconv.Itoa(next[group]) {
				t.Errorf("%s: %s came when %d was next", group, n, next[group])
			}
			next[group]++
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	are := func(stuck, others int) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return next["stuck"] == stuck && next["one"] == others && next["two"] == others && next["none"] == 1
		}
	}
	if !eventually(t, 20*time.Second, are(0, 20)) {
		t.Error("one key holds back the others")
	}
	mu.Lock()
	stuck = false
	mu.Unlock()
	if !eventually(t, 20*time.Second, are(20, 20)) {
		t.Error("the key that was stuck is not worked off")
	}
	cancel()
	wg.Wait()
}
