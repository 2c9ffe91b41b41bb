package bus_test

import (
	"flag"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/problem"
)

// waiting is how many tests run at once: they wait for elections and turns, and compute next to nothing.
const waiting = "8"

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", waiting); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

func ptr[T any](v T) *T { return &v }

// both runs a test of behaviour on a single node and on a cluster, which differ in the order of checks and in their error codes.
func both(t *testing.T, f func(t *testing.T, d *bustest.Domain)) {
	t.Parallel()
	t.Run("R1", func(t *testing.T) {
		t.Parallel()
		f(t, bustest.StartOpen(t))
	})
	t.Run("R3", func(t *testing.T) {
		t.Parallel()
		if testing.Short() {
			t.Skip("a cluster takes several seconds to start")
		}
		f(t, bustest.StartOpenCluster(t))
	})
}

func publish(t *testing.T, b *bus.Bus, s bus.Subject, data string) uint64 {
	t.Helper()
	seq, err := b.Publish(t.Context(), s, []byte(data), bus.PublishOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func wantKind(t *testing.T, err error, k problem.Kind) {
	t.Helper()
	if err == nil || problem.KindOf(err) != k {
		t.Errorf("got %v (kind %d), want kind %d", err, problem.KindOf(err), k)
	}
}

// eventually polls until ok or the test's patience ends.
func eventually(t *testing.T, within time.Duration, ok func() bool) bool {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			return false
		}
	}
	return true
}
