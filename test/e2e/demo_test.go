package e2e

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"mimimi.example/pkg/telemetry/telemetrytest"
)

// demoReport is the last line of `demo -json`.
type demoReport struct {
	MessagesSent       int                       `json:"messages_sent"`
	MessagesDelivered  int                       `json:"messages_delivered"`
	ExpectedDeliveries int                       `json:"expected_deliveries"`
	Leaks              []demoLeak                `json:"leaks"`
	Roles              map[string]map[string]int `json:"roles"`
	Searched           map[string]int            `json:"searched_bytes"`
	Spans              map[string]int            `json:"spans"`
	NotAllowed         int64                     `json:"not_allowed"`
	Seconds            float64                   `json:"seconds"`
}

type demoLeak struct {
	Kind, Label, Domain, Role, Where, Form string
}

// demo runs the demo and returns its last line.
func demo(t *testing.T, args ...string) (demoReport, result) {
	t.Helper()
	p, err := start(t, nil, append([]string{"demo", "-json"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the demo", func() bool { return !p.running() })
	lines, stderr := p.output()
	r := result{args: "demo", code: p.cmd.ProcessState.ExitCode(), stderr: stderr}
	if len(lines) == 0 {
		t.Fatalf("the demo printed nothing: %s", r)
	}
	var rep demoReport
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &rep); err != nil {
		t.Fatalf("the demo's last line is no JSON object: %v\n%s", err, lines[len(lines)-1])
	}
	return rep, r
}

// TestDemo: everything is delivered, nothing forbidden is seen, traces end at the edges of their zones, and the state that -keep keeps can be used.
func TestDemo(t *testing.T) {
	dir, receiver := t.TempDir(), telemetrytest.NewReceiver(t)
	rep, r := demo(t, "-keep", dir, "-otlp", receiver.URL)
	checkExports(t, receiver)
	exported := 0
	for _, n := range rep.Spans {
		exported += n
	}
	if exported != len(receiver.Spans()) || rep.NotAllowed != 0 {
		t.Errorf("%d spans were sent and %d received; %d attributes or names were on no allow-list", exported, len(receiver.Spans()), rep.NotAllowed)
	}
	if r.code != 0 || len(rep.Leaks) != 0 || rep.Leaks == nil {
		t.Errorf("leaks %+v; %s", rep.Leaks, r)
	}
	if rep.MessagesDelivered != rep.ExpectedDeliveries || rep.MessagesSent < 8 || rep.ExpectedDeliveries < rep.MessagesSent {
		t.Errorf("%d sent, %d of %d delivered", rep.MessagesSent, rep.MessagesDelivered, rep.ExpectedDeliveries)
	}
	for _, role := range []string{"hub", "kpstore", "fanout"} {
		if rep.Searched[role] == 0 || rep.Roles[role] == nil {
			t.Errorf("nothing was searched of what the %s saw: %v", role, rep.Searched)
		}
	}
	if rep.Seconds <= 0 || (rep.Seconds > 30 && !raceEnabled) {
		t.Errorf("the demo took %.1f s", rep.Seconds)
	}
	t.Logf("%+v", rep)

	d := &domain{t: t, name: "a.localhost", dir: filepath.Join(dir, "a.localhost")}
	d.start()
	alice := &person{t: t, name: "alice", dir: filepath.Join(dir, "people", "alice"), home: d}
	var groups []groupRow
	alice.must(&groups, "group list")
	if len(groups) != 2 {
		t.Errorf("alice has the groups %+v in the kept state", groups)
	}
	alice.must(nil, "send", groups[0].ID, "still here")
}

// TestDemoElsewhere: the conversation is played on two domains that run by themselves, and again on the same.
func TestDemoElsewhere(t *testing.T) {
	w := newWorld(t, "ab")
	for range 2 {
		rep, r := demo(t, "-on", w.a.at.ClientFile+","+w.b.at.ClientFile)
		if r.code != 0 || rep.MessagesSent < 8 || rep.MessagesDelivered != rep.ExpectedDeliveries {
			t.Errorf("%d sent, %d of %d delivered: %s", rep.MessagesSent, rep.MessagesDelivered, rep.ExpectedDeliveries, r)
		}
	}
}

// TestDemoFindsLeaks: a user's URI that was put into a log line, a subject and a header is found in all three, and so is trace context where none may be.
func TestDemoFindsLeaks(t *testing.T) {
	rep, r := demo(t, "-plant-leaks")
	if r.code != 1 {
		t.Errorf("leaks were planted: %s", r)
	}
	found := make(map[string]bool)
	traced := 0
	for _, l := range rep.Leaks {
		if l.Kind == "trace context" && l.Where == "header" {
			traced++
			continue
		}
		if l.Kind != "user identifier" || l.Domain != "a.localhost" {
			t.Errorf("a leak that was not planted: %+v", l)
		}
		found[l.Where] = true
	}
	if traced == 0 {
		t.Errorf("the trace header was not found: %+v", rep.Leaks)
	}
	for _, where := range []string{"log", "subject", "header"} {
		if !found[where] {
			t.Errorf("the leak in the %s was not found: %+v", where, rep.Leaks)
		}
	}
}
