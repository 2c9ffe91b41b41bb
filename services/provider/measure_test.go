package provider

import (
	"testing"

	"mimimi.example/pkg/telemetry/telemetrytest"
)

// TestWaysAreMeasured: each delivery once, from the hub's acceptance on, and each entry that is read; and every call by its procedure.
func TestWaysAreMeasured(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	fanout, group := d.bus.Bus("fanout"), newGroup("a.example")
	q := r.newQueue()
	q.confirm(group)
	to := q.recipient(r.document("a.example"))
	for n := range uint64(3) {
		send(t, fanout, "a.example", newDelivery(group, n+1, 10, to))
	}
	q.wait(3)
	r.stop() // so that what was begun is done
	for series, least := range map[string]float64{
		"provider_delivery_seconds_count": 3, "provider_queue_age_seconds_count": 3,
		`service_requests_total{method="mimimi.v1.QueueService/Read",outcome="ok"}`: 1, `service_request_seconds_count{method="mimimi.v1.QueueService/Create"}`: 1,
	} {
		if got := telemetrytest.Value(t, r.telemetry, series); got < least {
			t.Errorf("%s: %v, want %v or more", series, got, least)
		}
	}
	if got := telemetrytest.Value(t, r.telemetry, "service_requests_in_flight"); got != 0 {
		t.Errorf("%v requests under way after the end", got)
	}
	if sum := telemetrytest.Value(t, r.telemetry, "provider_delivery_seconds_sum"); sum < 1e6 { // the fixture's deliveries were accepted in 1970
		t.Errorf("deliveries took %v seconds", sum)
	}
}
