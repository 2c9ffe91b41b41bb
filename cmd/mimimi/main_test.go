package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
)

func TestTwoDashes(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"demo -json", "demo --json"},
		{"demo -keep=x -json", "demo --keep=x --json"},
		{"send --dir x g -- -text", "send --dir x g -- -text"},
		{"send -dir x g -5", "send --dir x g -5"},
		{"--help -h", "--help -h"},
	} {
		if got := strings.Join(twoDashes(strings.Fields(c.in)), " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.in, got, c.want)
		}
	}
}

func TestPrintable(t *testing.T) {
	if got := printable("a\x1b[2Jb\u009bc\td\r\né"); got != "a\uFFFD[2Jb\uFFFDc\td\uFFFD\uFFFDé" {
		t.Errorf("%q", got)
	}
}

// TestExplain: an error says what a person can do, whom it is about, and nothing twice.
func TestExplain(t *testing.T) {
	bob, err := mimimi.ParseUser("mimi://b.localhost/u/bob")
	if err != nil {
		t.Fatal(err)
	}
	none := &client.NoTokensError{Operation: "claim", Next: time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)}
	for _, c := range []struct {
		err  error
		want string
	}{
		{client.ErrUnknownGroup, "no such group: `mimimi group list` shows yours"},
		{fmt.Errorf("create group: %w", none), `no anonymous tokens are left this week for "claim": the next ones are good from ` + none.Next.Local().Format("Mon 2006-01-02 15:04")},
		{&client.AddError{Users: []mimimi.User{bob}, Reasons: []error{client.ErrBanned}}, "not everybody could be added; mimi://b.localhost/u/bob: banned from this group"},
		{errors.Join(client.ErrBusy, client.ErrBusy), "others' changes to the group came first: try again"},
		{errors.New("a\x1b[2J"), "a\uFFFD[2J"},
	} {
		if got := explain(c.err); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{}, {"frobnicate"}, {"send"}, {"up", "-domain", "a.localhost"},
		{"up", "-dir", "x", "-domain", "a.localhost", "-domain", "b.localhost", "-nats", "nats://x"},
		{"up", "-dir", "x", "-domain", "a.localhost", "-replicas", "0"},
		{"send", "-dir", "x", "group"},
	} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), args, &out, &errs); code != 2 {
			t.Errorf("%v: exit code %d, want 2", args, code)
		}
		if errs.Len() == 0 {
			t.Errorf("%v: nothing on standard error", args)
		}
	}
}

func TestHelp(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"-help"}, &out, &errs); code != 0 {
		t.Errorf("exit code %d: %s", code, errs.String())
	}
	for _, command := range []string{"up", "demo", "register", "connect", "requests", "accept", "disconnect", "verify", "group", "device", "send", "listen"} {
		if !strings.Contains(out.String(), command) {
			t.Errorf("the help does not name %s", command)
		}
	}
}

func TestPrintEvent(t *testing.T) {
	e := client.Event{Seq: 7, Kind: client.EventMessage, Group: "id", Body: []byte("hello")}
	var text, asJSON bytes.Buffer
	names := map[string]string{"id": "friends"}
	if err := printEvent(&text, false, e, names); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "[friends] somebody unidentified: hello") {
		t.Errorf("%q", text.String())
	}
	if err := printEvent(&asJSON, true, e, names); err != nil {
		t.Fatal(err)
	}
	var got eventJSON
	if err := json.Unmarshal(asJSON.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Seq != 7 || got.Body != "hello" || got.Name != "friends" || got.Kind != "message" {
		t.Errorf("%+v", got)
	}
}

func TestEveryEventHasWords(t *testing.T) {
	kinds := []client.EventKind{
		client.EventMessage, client.EventSent, client.EventJoined, client.EventLeft, client.EventRemoved, client.EventRequest,
		client.EventConnected, client.EventDisconnected, client.EventRevoked, client.EventGroupJoined, client.EventGroupOver, client.EventWarning,
		client.EventLinked, client.EventDeviceAdded, client.EventDeviceRemoved, client.EventKeyDocument, client.EventCutOff,
		client.EventUncompared,
	}
	var seen []string
	for _, k := range kinds[1:] {
		d := describe(client.Event{Kind: k, Group: "g", Text: "text"}, "who", "group")
		if d == "" || slices.Contains(seen, d) {
			t.Errorf("%s: %q", k, d)
		}
		seen = append(seen, d)
	}
}

func TestPrintedResumes(t *testing.T) {
	dir := t.TempDir()
	for want := range uint64(3) {
		p := &printed{dir: dir}
		if err := p.load(nil); err != nil {
			t.Fatal(err)
		}
		if p.last != want {
			t.Errorf("last = %d, want %d", p.last, want)
		}
		if err := p.store(want + 1); err != nil {
			t.Fatal(err)
		}
	}
	p, after := &printed{dir: dir}, uint64(1)
	if err := p.load(&after); err != nil || p.last != 1 {
		t.Errorf("last = %d, %v", p.last, err)
	}
}
