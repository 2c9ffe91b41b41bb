package telemetry

import (
	"cmp"
	"maps"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
)

// labels is the allow-list of instruments, each with the attributes that its measurements may have. An instrument that is not here measures nothing.
var labels = map[string][]attribute.Key{
	"telemetry_dropped": {},
	"telemetry_exports": {"outcome"},

	"bus_handled":        {"stream", "kind"},
	"bus_handle":         {"stream"},
	"bus_message_age":    {"stream"},
	"bus_lag":            {"stream"},
	"bus_oldest":         {"stream"},
	"bus_dead_letters":   {"stream", "kind"},
	"bus_disconnections": {},

	"service_requests":           {"method", "outcome"},
	"service_request":            {"method"},
	"service_requests_in_flight": {},

	"tokens_redeemed": {"operation", "outcome"},

	"hub_requests":    {"operation", "kind"},
	"hub_conflicts":   {},
	"hub_checkpoints": {"kind"},
	"hub_sweeps":      {"kind"},
	"hub_faults":      {"cause"},

	"fanout_entries":             {"kind", "outcome"},
	"fanout_deliveries":          {},
	"fanout_deliveries_left_out": {},
	"fanout_cold_starts":         {},

	"kpstore_requests":          {"operation", "kind"},
	"kpstore_claims":            {"set"},
	"kpstore_claims_refused":    {"cause"},
	"kpstore_stock":             {},
	"kpstore_low_stock_notices": {"outcome"},
	"kpstore_sets_unreadable":   {},

	"provider.registrations":                  {},
	"provider.tokens.issued":                  {},
	"provider.tokens.exchanged":               {},
	"provider.clients.linked":                 {},
	"provider.clients.removed":                {},
	"provider.clients.unsettled":              {},
	"provider.certificates.renewed":           {},
	"provider.accounts.deleted":               {},
	"provider.revocations.full":               {},
	"provider.federation.revocations_refused": {},
	"provider.federation.notified":            {},
	"provider.federation.notify_failures":     {},
	"provider.federation.identity_changes":    {},
	"provider.deliveries":                     {},
	"provider.deliveries.not_opened":          {},
	"provider.deliveries.no_queue":            {},
	"provider.deliveries.refused":             {},
	"provider.delivery":                       {},
	"provider.queue.age":                      {},
	"provider.queue.low_stock_notices":        {},
	"provider.queue.evictions":                {},
	"provider.queue.pool_full":                {},
	"provider.queue.storage_full":             {},
	"provider.queue.damaged":                  {},
	"provider.relay.own":                      {},
	"provider.relay.federated":                {},
	"provider.inbox.full":                     {},
	"provider.connections":                    {},
	"provider.connections.refused":            {},
	"provider.server_errors":                  {},
	"provider.watches":                        {},

	"canary_messages": {"outcome"},
	"canary_delivery": {},
}

// Instrument is one instrument that a service has made.
type Instrument struct {
	Name, Kind, Unit, Description string
	Labels                        map[string][]string // with the values that each may have
}

// view is what every instrument goes through when it is made: it gets a filter of its own, or nothing if it is on no list.
func (t *Telemetry) view(i metric.Instrument) (metric.Stream, bool) {
	s := metric.Stream{Name: i.Name, Description: i.Description, Unit: i.Unit}
	keys, ok := labels[i.Name]
	if !ok {
		t.dropped.Add(1)
		s.Aggregation = metric.AggregationDrop{}
		return s, true
	}
	s.AttributeFilter = func(kv attribute.KeyValue) bool {
		ok := slices.Contains(keys, kv.Key) && metricAttribute(kv)
		if !ok {
			t.dropped.Add(1)
		}
		return ok
	}
	about := Instrument{Name: i.Name, Kind: kindNames[i.Kind], Unit: i.Unit, Description: i.Description, Labels: make(map[string][]string)}
	for _, k := range keys {
		about.Labels[string(k)] = slices.Sorted(maps.Keys(metricKeys[k]))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.instruments[i.Name] = about
	return s, true
}

var kindNames = map[metric.InstrumentKind]string{
	metric.InstrumentKindCounter: "counter", metric.InstrumentKindObservableCounter: "counter", metric.InstrumentKindUpDownCounter: "gauge",
	metric.InstrumentKindGauge: "gauge", metric.InstrumentKindObservableGauge: "gauge", metric.InstrumentKindHistogram: "histogram",
}

// Instruments are those that were made so far, by name.
func (t *Telemetry) Instruments() []Instrument {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.SortedFunc(maps.Values(t.instruments), func(a, b Instrument) int { return cmp.Compare(a.Name, b.Name) })
}
