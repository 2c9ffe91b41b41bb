package bus_test

import (
	"context"
	"testing"
	"time"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/problem"
	"mimimi.example/pkg/telemetry"
	"mimimi.example/pkg/telemetry/telemetrytest"
)

// TestMetrics: what is worked off, what is tried again, what went to DEAD, and what is left, by kind of stream.
func TestMetrics(t *testing.T) {
	d := bustest.Start(t)
	tel := telemetrytest.New(t, telemetry.Options{})
	o := d.Options("provider")
	o.Meters = tel
	provider, err := bus.Connect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := provider.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	provider.SetRetry(time.Millisecond, 2*time.Millisecond, 20)
	fanout := d.Bus("fanout")
	c, err := provider.OutboxConsumer(t.Context(), bustest.Own)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		publish(t, fanout, fanout.Outbox(bustest.Own), "x")
	}
	release, down := make(chan struct{}), 2
	stop := consumeAll(t, provider, func(ctx context.Context, m *bus.Message) error {
		select { // the oldest waits
		case <-release:
		case <-ctx.Done():
			return ctx.Err()
		}
		if down--; down >= 0 {
			return problem.New(problem.Unavailable, "down")
		}
		if m.Sequence == 2 {
			return problem.New(problem.Invalid, "malformed")
		}
		return nil
	}, c)
	value := func(series string) float64 { return telemetrytest.Value(t, tel, series) }
	if !eventually(t, 20*time.Second, func() bool {
		return value(`bus_lag{stream="outbox"}`) == 3 && value(`bus_oldest_seconds{stream="outbox"}`) > 0
	}) {
		t.Errorf("lag %v, oldest %v", value(`bus_lag{stream="outbox"}`), value(`bus_oldest_seconds{stream="outbox"}`))
	}
	close(release)
	if !eventually(t, 20*time.Second, func() bool {
		return value(`bus_message_age_seconds_count{stream="outbox"}`) == 3 && value(`bus_oldest_seconds{stream="outbox"}`) == 0
	}) {
		t.Errorf("%v are done with", value(`bus_message_age_seconds_count{stream="outbox"}`))
	}
	for series, want := range map[string]float64{
		`bus_handled_total{kind="ok",stream="outbox"}`: 2, `bus_handled_total{kind="unavailable",stream="outbox"}`: 2, `bus_handled_total{kind="invalid",stream="outbox"}`: 1,
		`bus_dead_letters_total{kind="invalid",stream="outbox"}`: 1, `bus_handle_seconds_count{stream="outbox"}`: 5,
	} {
		if got := value(series); got != want {
			t.Errorf("%s: %v, want %v", series, got, want)
		}
	}
	stop()
	if got := value(`bus_lag{stream="outbox"}`); got != 0 {
		t.Errorf("lag %v of a consumer that ended", got)
	}
}
