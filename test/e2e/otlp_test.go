package e2e

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"mimimi.example/pkg/telemetry/telemetrytest"
)

// chain is one way through a trace, from its root on: "service name" of each span.
type chain []string

// chains returns every way from a root to a span of the traces of a zone.
func chains(spans []telemetrytest.Span, zone string) []string {
	byID := make(map[string]telemetrytest.Span)
	for _, s := range spans {
		byID[s.Trace+s.ID] = s
	}
	var out []string
	for _, s := range spans {
		if s.Zone != zone {
			continue
		}
		var way chain
		for at, ok := s, true; ok; at, ok = byID[at.Trace+at.Parent] {
			way = append(way, at.Service+" "+at.Name)
		}
		slices.Reverse(way)
		out = append(out, strings.Join(way, " > "))
	}
	return out
}

// checkExports looks at what two whole domains exported: every zone has a full trace, none crosses an edge, and nobody is named.
func checkExports(t *testing.T, r *telemetrytest.Receiver) {
	t.Helper()
	r.Check(t)
	spans := r.Spans()
	for zone, want := range map[string][]string{
		"account": {"provider mimimi.v1.AccountService/Register > provider send dir.u.*", "provider serve rpc.inbox > provider mimimi.v1.InboxService/Deposit > provider send inbox.*"},
		"relay":   {"provider mimimi.v1.RelayService/Relay > provider call rpc.hub", "provider mimimi.v1.RelayService/Relay > provider call rpc.kpstore", "provider mimimi.v1.FederationService/Relay > provider call rpc.hub"},
		"group": {
			"hub serve rpc.hub > hub mimimi.v1.HubService/Commit > hub send group.*.*.c > fanout process group.*.*.c > fanout send out.*",
			"hub serve rpc.hub > hub mimimi.v1.HubService/SendMessage > hub send group.*.*.m > fanout process group.*.*.m > fanout send out.*",
		},
		"queue": {
			"provider process out.* > provider send queue.*.*", "provider mimimi.v1.FederationService/Notify > provider send queue.*.*", "provider mimimi.v1.QueueService/Read",
			"provider mimimi.v1.QueueService/Create > provider send queuemeta.*",
		},
		"keypackage": {"kpstore serve rpc.kpstore > kpstore mimimi.v1.KeyPackageService/Upload > kpstore send kp.*.*.*", "kpstore serve rpc.kpstore > kpstore mimimi.v1.KeyPackageService/Claim"},
	} {
		got := chains(spans, zone)
		for _, way := range want {
			if !slices.Contains(got, way) {
				t.Errorf("no trace of the zone %s goes %s", zone, way)
			}
		}
	}
	for _, b := range r.Bodies() {
		for _, name := range []string{"mimi://", "localhost", "127.0.0.1", "alice", "carol", "_INBOX", "GROUP_", "traceparent"} {
			if bytes.Contains(bytes.ToLower(b), []byte(strings.ToLower(name))) {
				t.Errorf("%q is in an export", name)
			}
		}
	}
	if len(r.Metrics()) == 0 {
		t.Error("no metrics were exported")
	}
}
