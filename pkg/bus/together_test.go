package bus_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/problem"
)

// TestConsumeTogether: messages that wait are taken together and in order; after a failure that may pass the first one goes alone; one that is bad takes nothing
// with it into DEAD, and holds nothing back.
func TestConsumeTogether(t *testing.T) {
	const messages, bad, most = 40, 17, 8
	d := bustest.StartOpen(t)
	fanout, b := d.Bus("fanout"), d.Bus("provider")
	b.SetRetry(time.Millisecond, 20*time.Millisecond, 3)
	c, err := b.OutboxConsumer(t.Context(), "b.example")
	if err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		publish(t, fanout, fanout.Outbox("b.example"), strconv.Itoa(i))
	}
	var mu sync.Mutex
	var calls []string // what each call was for
	var done []string
	down := messages / most // calls of several that find the peer down
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		err := b.ConsumeTogether(ctx, c, func(waiting []*bus.Message) int { return min(most, len(waiting)) }, func(_ context.Context, ms []*bus.Message) error {
			mu.Lock()
			defer mu.Unlock()
			var all []string
			for _, m := range ms {
				all = append(all, string(m.Data))
			}
			calls = append(calls, strings.Join(all, " "))
			switch {
			case len(ms) > 1 && down > 0:
				down--
				return problem.New(problem.Unavailable, "down")
			case slices.Contains(all, strconv.Itoa(bad)):
				return problem.New(problem.Invalid, "the entry is malformed")
			}
			done = append(done, all...)
			return nil
		})
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	if !eventually(t, 30*time.Second, func() bool {
		n, err := b.Count(t.Context(), b.Outbox("b.example"))
		return err == nil && n == 0
	}) {
		t.Error("something is left")
	}
	cancel()
	wg.Wait()
	var want []string
	for i := range messages {
		if i != bad {
			want = append(want, strconv.Itoa(i))
		}
	}
	if !slices.Equal(done, want) {
		t.Errorf("done: %v", done)
	}
	if len(calls) >= messages {
		t.Errorf("%d calls for %d messages: %q", len(calls), messages, calls)
	}
	msgs, _ := readAll(t, b, b.Dead(), 1, 10, 1<<20)
	if len(msgs) != 1 {
		t.Errorf("DEAD holds %d, want 1", len(msgs))
	}
}
