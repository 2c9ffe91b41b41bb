package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/problem"
)

// adminJSON runs an admin command with -json and reads its lines.
func adminJSON[T any](d *deployment, code int, args ...string) []T {
	d.t.Helper()
	out, _ := d.mimimi(code, append(append([]string{"admin"}, args...), "-json", "-config", d.config("admin"))...)
	var all []T
	for line := range strings.Lines(out) {
		var v T
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			d.t.Fatalf("%v: %q", err, line)
		}
		all = append(all, v)
	}
	return all
}

// adminlessJSON is for the commands that reach no bus.
func adminlessJSON(d *deployment, args ...string) (v map[string]any) {
	d.t.Helper()
	out, _ := d.mimimi(0, append(append([]string{"admin"}, args...), "-json")...)
	d.do(json.Unmarshal([]byte(out), &v))
	return v
}

// TestAdminCommands: what an operator does to a running domain, and what the audit log says of it.
func TestAdminCommands(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	people, ids := d.friends("alice", "bob")
	alice, bob := people[0], people[1]
	d.do(d.stage.send(t.Context(), alice, ids[alice], "hello", bob))
	lines := d.replay(0)
	d.testDead(lines)
	d.testSettings()

	if log := adminJSON[bus.Audited](d, 0, "audit"); len(log) == 0 {
		t.Error("the audit log is empty")
	} else {
		var done []string
		for _, e := range log {
			if e.As != "" || e.At.Nanosecond() != 0 {
				t.Errorf("unexpected entry %+v", e)
			}
			done = append(done, strings.TrimSuffix(e.Action+" "+e.Setting, " ")+" "+e.Outcome)
		}
		for _, want := range []string{
			"dead redrive begun", "dead redrive failed", "peers deny b.example done", "peers allow b.example done", "quotas claim=50 done", "retention DEAD=60 GROUP=120 done", "retention QUEUE=60 failed",
		} {
			if !strings.Contains(strings.Join(done, "\n")+"\n", want+"\n") {
				t.Errorf("the audit log does not have %q: %q", want, done)
			}
		}
	}
	d.do(d.stage.send(t.Context(), bob, ids[bob], "still here", alice))
	if n := said(bob, client.EventMessage)["hello"]; n != 1 {
		t.Errorf("bob was shown what was worked off again %d times", n)
	}
}

// testDead: what fan-out buried is listed, worked off again and gone from the list; what cannot be stays, and is told.
func (d *deployment) testDead(lines []replayLine) {
	d.t.Helper()
	var last replayLine
	for _, l := range lines {
		if l.Kind == "message" {
			last = l
		}
	}
	if out, _ := d.mimimi(0, "admin", "dead", "list", "-config", d.config("admin")); out != "nothing\n" {
		d.t.Errorf("an empty list: %q", out)
	}
	fanout := d.bus("fanout")
	p, err := partitionOf(fanout, last.Stream)
	d.do(err)
	m, err := fanout.At(d.t.Context(), fanout.GroupPartitionLog(p), last.Sequence)
	d.do(err)
	d.do(fanout.Bury(d.t.Context(), fanout.GroupPartitionLog(p), m, problem.New(problem.Internal, "for the test")))
	if got := adminJSON[deadLine](d, 0, "dead", "list"); len(got) != 1 || got[0].Sequence != last.Sequence || got[0].Stream != last.Stream || got[0].Service != "fanout" || got[0].Reason != "for the test" {
		d.t.Errorf("listed: %+v", got)
	}
	if got := adminJSON[deadLine](d, 0, "dead", "redrive"); len(got) != 1 || got[0].Outcome != "worked off" {
		d.t.Errorf("worked off again: %+v", got)
	}
	if got := adminJSON[deadLine](d, 0, "dead", "list"); len(got) != 0 {
		d.t.Errorf("still listed: %+v", got)
	}
	if got := adminJSON[map[string]int](d, 0, "dead", "redrive", "-stream", last.Stream, "-from", "1", "-to", fmt.Sprint(last.Sequence)); len(got) != 1 || got[0]["worked_off"] < 3 || got[0]["rejected"] != 0 {
		d.t.Errorf("a part of the log: %v", got)
	}

	// What nobody can read stays dead.
	hub := d.bus("hub")
	bad, err := hub.Publish(d.t.Context(), hub.GroupMessages([]byte("nobody's")), []byte{0xff}, bus.PublishOptions{})
	d.do(err)
	stream := hub.GroupMessages([]byte("nobody's")).Stream()
	d.do(fanout.Bury(d.t.Context(), hub.GroupMessages([]byte("nobody's")), &bus.Message{Sequence: bad, Subject: "group.0.x.m"}, problem.New(problem.Invalid, "twice, perhaps")))
	got := adminJSON[deadLine](d, 1, "dead", "redrive")
	if len(got) == 0 || !strings.HasPrefix(got[0].Outcome, "still: ") || got[0].Stream != stream {
		d.t.Errorf("what cannot be read: %+v", got)
	}
	d.mimimi(2, "admin", "dead", "redrive", "-config", d.config("admin"), "-stream", stream)
}

// testSettings: peers, quotas and retention are set, shown and taken back, and what cannot be is refused.
func (d *deployment) testSettings() {
	d.t.Helper()
	type peers struct{ Denied []string }
	adminJSON[any](d, 0, "peers", "deny", "b.example")
	if got := adminJSON[peers](d, 0, "peers", "list"); len(got) != 1 || len(got[0].Denied) != 1 || got[0].Denied[0] != "b.example" {
		d.t.Errorf("denied: %+v", got)
	}
	adminJSON[any](d, 0, "peers", "allow", "b.example")
	if got := adminJSON[peers](d, 0, "peers", "list"); len(got[0].Denied) != 0 {
		d.t.Errorf("denied: %+v", got)
	}
	adminJSON[any](d, 1, "peers", "deny", "No Domain")

	secret := adminlessJSON(d, "queue-secret", "-out", filepath.Join(d.dir, "queue.secret"))
	if raw, err := os.ReadFile(filepath.Join(d.dir, "queue.secret")); err != nil || len(raw) != 32 || secret["first_key_id"] == nil {
		d.t.Errorf("a queue secret: %v, %d bytes, %v", secret, len(raw), err)
	}
	out, errs := new(bytes.Buffer), new(bytes.Buffer)
	if run(d.t.Context(), []string{"admin", "rotate-issuer", "-json", "-config", d.config("admin")}, out, errs) != 0 && !strings.Contains(errs.String(), "within the hour") {
		d.t.Errorf("issuer keys: %s%s", out, errs)
	}

	type quotas struct {
		Quotas map[string]int `json:"token_quotas"`
	}
	if got := adminJSON[quotas](d, 0, "quotas", "-set", "claim=50"); len(got) != 1 || got[0].Quotas["claim"] != 50 {
		d.t.Errorf("quotas: %+v", got)
	}
	adminJSON[any](d, 1, "quotas", "-set", "flights=50")
	if got := adminJSON[quotas](d, 0, "quotas", "-set", "claim=0"); len(got[0].Quotas) != 0 {
		d.t.Errorf("quotas given back: %+v", got)
	}

	retention := func() map[string]int {
		days := make(map[string]int)
		for _, r := range adminJSON[bus.Retention](d, 0, "retention") {
			days[r.Kind] = r.Days
		}
		return days
	}
	if got := retention(); got["DEAD"] != 30 || got["GROUP"] != 90 || got["OUTBOX"] != 30 || got["AUDIT"] != 400 {
		d.t.Errorf("retention: %v", got)
	}
	adminJSON[any](d, 0, "retention", "-set", "DEAD=60", "-set", "GROUP=120")
	for _, bad := range []string{"DEAD=0", "GROUP=30", "QUEUE=60"} {
		adminJSON[any](d, 1, "retention", "-set", bad)
	}
	for range 2 { // what was chosen is no drift, and stays
		if got := retention(); got["DEAD"] != 60 || got["GROUP"] != 120 {
			d.t.Errorf("retention: %v", got)
		}
		adminJSON[any](d, 0, "check")
		adminJSON[any](d, 0, "init")
	}
}

// TestAdminSpeaksJSON: every admin command has -json, and so has replay.
func TestAdminSpeaksJSON(t *testing.T) {
	parser, err := kong.New(new(cli), kong.Vars{"version": "x"})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, leaf := range parser.Model.Leaves(true) {
		path := leaf.Path()
		if !strings.Contains(" "+path, " admin ") && !strings.Contains(path, "replay") {
			continue
		}
		n++
		if !slices.ContainsFunc(leaf.Flags, func(f *kong.Flag) bool { return f.Name == "json" }) {
			t.Errorf("%s has no -json", path)
		}
	}
	if n < 15 {
		t.Errorf("%d commands", n)
	}
}
