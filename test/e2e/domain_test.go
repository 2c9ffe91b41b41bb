package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
)

// announcement is the first line that `mimimi up -json` prints.
type announcement struct {
	Domain        string `json:"domain"`
	AccountURL    string `json:"account_url"`
	AnonymousURL  string `json:"anonymous_url"`
	FederationURL string `json:"federation_url"`
	ClientFile    string `json:"client_file"`
	PeerFile      string `json:"peer_file"`
}

// domain is a domain that a process of its own runs, over all its restarts.
type domain struct {
	t     *testing.T
	name  string
	dir   string
	extra []string // flags
	proc  *process
	at    announcement
}

// world is two domains that know each other.
type world struct{ a, b *domain }

// newWorld starts a.localhost and b.localhost in the given order, each by hand with the other as its peer; the first one is started when the other's files do not exist yet.
func newWorld(t *testing.T, order string, flags ...string) *world {
	t.Helper()
	root := t.TempDir()
	folder := func(name string) string { return filepath.Join(root, name) }
	w := new(world)
	for _, letter := range order {
		name, other, to := "a.localhost", "b.localhost", &w.a
		if letter == 'b' {
			name, other, to = other, name, &w.b
		}
		peer := []string{"-peer", filepath.Join(folder(other), "peer.json")}
		*to = &domain{t: t, name: name, dir: folder(name), extra: append(peer, flags...)}
		(*to).start()
	}
	t.Cleanup(w.report)
	return w
}

// report shows what the domains said if the test has failed.
func (w *world) report() {
	for _, d := range []*domain{w.a, w.b} {
		if d == nil || !d.t.Failed() {
			continue
		}
		_, stderr := d.proc.output()
		d.t.Logf("%s said:\n%s", d.name, tail(stderr))
	}
}

func tail(s string) string {
	if len(s) > 4000 {
		return "…" + s[len(s)-4000:]
	}
	return s
}

// start runs the domain and waits until it serves.
func (d *domain) start() {
	d.t.Helper()
	args := append([]string{"up", "-json", "-verbose", "-domain", d.name, "-dir", d.dir}, d.extra...)
	p, err := start(d.t, nil, args...)
	if err != nil {
		d.t.Fatal(err)
	}
	d.proc = p
	eventually(d.t, d.name+" to be up", func() bool {
		lines, _ := p.output()
		return len(lines) > 0 || !p.running()
	})
	lines, stderr := p.output()
	if len(lines) == 0 {
		d.t.Fatalf("%s ended at once:\n%s", d.name, tail(stderr))
	}
	last := d.at
	if err := json.Unmarshal([]byte(lines[0]), &d.at); err != nil {
		d.t.Fatalf("the first line of up is not the announcement: %v\n%s", err, lines[0])
	}
	if last != (announcement{}) && last != d.at {
		d.t.Fatalf("%s has other addresses after its restart: %+v, before %+v", d.name, d.at, last)
	}
}

// restart kills the domain with SIGKILL and runs it again on its folder.
func (d *domain) restart() {
	d.t.Helper()
	d.proc.kill()
	d.start()
}

// stop stops the domain as an operator would, and checks that it says it did.
func (d *domain) stop() {
	d.t.Helper()
	code, err := d.proc.terminate()
	if _, stderr := d.proc.output(); err != nil || code != 0 {
		d.t.Fatalf("%s: exit code %d, %v, when asked to stop\n%s", d.name, code, err, tail(stderr))
	}
}

// user is the URI of a user of the domain.
func (d *domain) user(name string) string { return fmt.Sprintf("mimi://%s/u/%s", d.name, name) }

// sorted returns a sorted copy.
func sorted(s ...string) []string { return slices.Sorted(slices.Values(s)) }
