package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// event is a line of `listen -json`.
type event struct {
	Seq     uint64 `json:"seq"`
	Kind    string `json:"kind"`
	Time    string `json:"time"`
	Group   string `json:"group"`
	Name    string `json:"group_name"`
	User    string `json:"user"`
	Request string `json:"request"`
	Message string `json:"message"`
	Body    string `json:"body"`
	Text    string `json:"text"`
	Device  string `json:"device"`
}

// person is a user whose client's state is in a folder and whose `listen` may run in the background.
type person struct {
	t    *testing.T
	name string
	user string
	dir  string
	home *domain

	listener *process // nil: nobody listens

	mu         sync.Mutex
	events     []event  // all that listen printed, each once; guarded by mu
	complaints []string // passing errors that listen printed; guarded by mu
	wrong      []string // what listen must not have printed; guarded by mu
	first      bool     // the next line is the first one of this run of listen; guarded by mu
	printed    bool     // the run before was killed and may not have noted its last line; guarded by mu
}

// register makes a user at a domain and starts to listen.
func register(t *testing.T, d *domain, name string) *person {
	t.Helper()
	p := unregistered(t, d, name)
	var got struct{ User, Fingerprint string }
	p.must(&got, "register", "-provider", d.at.ClientFile, name)
	if got.User != p.user || got.Fingerprint == "" {
		t.Fatalf("register answered %+v", got)
	}
	p.listen()
	return p
}

func unregistered(t *testing.T, d *domain, name string) *person {
	p := &person{t: t, name: name, user: d.user(name), dir: filepath.Join(t.TempDir(), name), home: d}
	t.Cleanup(p.report)
	return p
}

// report shows the person's view if the test has failed.
func (p *person) report() {
	if !p.t.Failed() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var b strings.Builder
	for _, e := range p.events {
		fmt.Fprintf(&b, "  %d %s %.8s %s %.60q %s\n", e.Seq, e.Kind, e.Group, e.User, e.Body, e.Text)
	}
	if n := len(p.complaints); n > 0 {
		fmt.Fprintf(&b, "  %d complaints, the last one: %s\n", n, p.complaints[n-1])
	}
	if p.listener != nil {
		_, stderr := p.listener.output()
		fmt.Fprintf(&b, "  listen said: %s", tail(stderr))
	}
	p.t.Logf("%s's view:\n%s", p.name, b.String())
}

// try runs one of the person's commands. command may be two words; the person's folder and -json are added.
func (p *person) try(limit time.Duration, command string, args ...string) (result, error) {
	all := append(strings.Fields(command), "-dir", p.dir, "-json")
	return run(p.t, limit, append(all, args...)...)
}

// command is try for the test's goroutine, without a limit that a sound command could reach.
func (p *person) command(command string, args ...string) result {
	p.t.Helper()
	r, err := p.try(patience(), command, args...)
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

// must runs a command that must succeed; its output goes to out unless that is nil.
func (p *person) must(out any, command string, args ...string) {
	p.t.Helper()
	r := p.command(command, args...)
	if r.code != 0 {
		p.t.Fatalf("%s: %s", p.name, r)
	}
	if out != nil {
		if err := json.Unmarshal([]byte(r.stdout), out); err != nil {
			p.t.Fatalf("%s: the output is not what it should be: %v\n%s", p.name, err, r)
		}
	}
}

// refused runs a command that must be refused with a sentence that holds want.
func (p *person) refused(want string, command string, args ...string) {
	p.t.Helper()
	r := p.command(command, args...)
	if r.code != 1 || !strings.Contains(r.stderr, shown(want)) || r.stdout != "" {
		p.t.Errorf("%s: want exit code 1 and %q, got %s", p.name, want, r)
	}
}

// shown is an error of the SDK as the command shows it: the package's name means nothing to who types.
func shown(text string) string { return strings.TrimPrefix(text, "client: ") }

// listen starts `mimimi listen` in the background.
func (p *person) listen() { p.listenAs() }

func (p *person) listenAs(flags ...string) {
	p.t.Helper()
	p.mu.Lock()
	p.first = true
	p.mu.Unlock()
	l, err := start(p.t, p.heard, append([]string{"listen", "-dir", p.dir, "-json"}, flags...)...)
	if err != nil {
		p.t.Fatal(err)
	}
	p.listener = l
}

// deafen kills listen with SIGKILL.
func (p *person) deafen() {
	p.listener.kill()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.printed = true
}

// heard takes a line of listen. Events must be numbered without a gap; one may come again, unchanged, only as the first line after a kill.
func (p *person) heard(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var e event
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		p.wrong = append(p.wrong, fmt.Sprintf("not JSON: %q", line))
		return
	}
	if e.Kind == "error" {
		p.complaints = append(p.complaints, e.Text)
		return
	}
	again := p.first && p.printed && len(p.events) > 0 && p.events[len(p.events)-1] == e
	p.first = false
	switch {
	case again:
	case e.Seq != uint64(len(p.events))+1:
		p.wrong = append(p.wrong, fmt.Sprintf("event %d printed after event %d", e.Seq, len(p.events)))
	default:
		p.events = append(p.events, e)
	}
}

// seen returns the events so far.
func (p *person) seen() []event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]event(nil), p.events...)
}

// await waits for an event that fits and returns it.
func (p *person) await(what string, fits func(event) bool) (found event) {
	p.t.Helper()
	checked := 0
	eventually(p.t, p.name+" to see "+what, func() bool {
		if !p.listener.running() {
			_, stderr := p.listener.output()
			p.t.Fatalf("%s's listen ended: %s", p.name, stderr)
		}
		for seen := p.seen(); checked < len(seen); checked++ {
			if fits(seen[checked]) {
				found = seen[checked]
				return true
			}
		}
		return false
	})
	return found
}

// about fits an event of a kind about a user, "" for anybody.
func about(kind, user string) func(event) bool {
	return func(e event) bool { return e.Kind == kind && (user == "" || e.User == user) }
}

// in fits an event of a kind in a group.
func in(group, kind, user string) func(event) bool {
	return func(e event) bool { return e.Group == group && about(kind, user)(e) }
}

// shown returns who said what in a group, in the order in which the person was shown it, the own messages among them.
func (p *person) shown(group string) (lines []string) {
	for _, e := range p.seen() {
		if e.Group == group && (e.Kind == "message" || e.Kind == "sent") {
			lines = append(lines, e.User+": "+e.Body)
		}
	}
	return lines
}

// sound checks that listen printed nothing that it must not.
func (p *person) sound() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.wrong {
		p.t.Errorf("%s: listen: %s", p.name, w)
	}
}
