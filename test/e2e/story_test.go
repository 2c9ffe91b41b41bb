package e2e

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
)

// The steps of stories that several tests tell.

// request is a row of `requests -json`.
type request struct {
	ID          string `json:"id"`
	From        string `json:"from"`
	NotAfter    string `json:"not_after"`
	Fingerprint string `json:"fingerprint"`
}

// member is a row of `group members -json`.
type member struct {
	User       string `json:"user"`
	Self       bool   `json:"self"`
	Admin      bool   `json:"admin"`
	Identified bool   `json:"identified"`
	Clients    int    `json:"clients"`
}

// groupRow is a row of `group list -json`.
type groupRow struct {
	ID      string `json:"group"`
	Name    string `json:"name"`
	State   string `json:"state"`
	Members int    `json:"members"`
	Waiting int    `json:"waiting"`
}

// ask makes a connection request and waits until the other side has it. The first one after a start is made again until the domains know each other.
func ask(from, to *person) request {
	from.t.Helper()
	var last result
	eventually(from.t, from.name+"'s request to be taken", func() bool {
		last = from.command("connect", to.user)
		return last.code == 0 || !strings.Contains(last.stderr, "no connection with that domain") && !strings.Contains(last.stderr, "try again")
	})
	if last.code != 0 {
		from.t.Fatalf("%s: %s", from.name, last)
	}
	var found []request
	eventually(to.t, to.name+" to have "+from.name+"'s request", func() bool {
		var all []request
		to.must(&all, "requests")
		found = slices.DeleteFunc(all, func(r request) bool { return r.From != from.user })
		return len(found) > 0
	})
	if len(found) != 1 || found[0].ID == "" || found[0].Fingerprint == "" {
		to.t.Fatalf("%s's requests from %s are %+v", to.name, from.name, found)
	}
	return found[0]
}

// introduce connects two people and checks that both see the same fingerprints.
func introduce(from, to *person) {
	from.t.Helper()
	r := ask(from, to)
	to.must(nil, "accept", r.ID)
	from.await("the connection", about("connected", to.user))
	to.await("the connection", about("connected", from.user))
	var f, g struct {
		Own    string
		Theirs []string
	}
	from.must(&f, "verify", to.user)
	to.must(&g, "verify", from.user)
	if f.Own == "" || f.Own == g.Own || !slices.Equal(f.Theirs, []string{g.Own}) || !slices.Equal(g.Theirs, []string{f.Own}) || g.Theirs[0] != r.Fingerprint {
		from.t.Errorf("fingerprints differ: %s has %+v, %s has %+v, the request said %s", from.name, f, to.name, g, r.Fingerprint)
	}
}

// group is one group with each member's local id of it.
type group map[*person]string

// create makes a group with connected users in it.
func create(creator *person, label string, others ...*person) group {
	creator.t.Helper()
	var made struct{ Group, Name string }
	creator.must(&made, "group create", label)
	g := group{creator: made.Group}
	if len(others) == 0 {
		return g
	}
	args := []string{label}
	known := make(map[*person]int)
	for _, p := range others {
		args = append(args, p.user)
		known[p] = len(p.seen())
	}
	creator.must(nil, "group add", args...)
	for _, p := range others {
		g[p] = p.await("the new group", func(e event) bool { return e.Kind == "group_joined" && int(e.Seq) > known[p] }).Group
	}
	return g
}

// members checks who is in a group, as a member sees it, in the end.
func (g group) members(p *person, want ...*person) {
	p.t.Helper()
	var users []string
	for _, w := range want {
		users = append(users, w.user)
	}
	var rows []member
	eventually(p.t, p.name+" to see the right members", func() bool {
		rows = nil
		p.must(&rows, "group members", g[p])
		var got []string
		for _, m := range rows {
			got = append(got, m.User)
		}
		return slices.Equal(sorted(got...), sorted(users...))
	})
	for _, m := range rows {
		if !m.Identified || m.Clients != 1 || m.Self != (m.User == p.user) {
			p.t.Errorf("%s sees the member %+v", p.name, m)
		}
	}
}

// say sends messages, one after the other.
func (g group) say(p *person, texts ...string) {
	p.t.Helper()
	for _, text := range texts {
		p.must(nil, "send", g[p], text)
	}
}

// sayAll lets several people send at the same time.
func (g group) sayAll(t *testing.T, texts map[*person][]string) {
	t.Helper()
	var all errgroup.Group
	for p, lines := range texts {
		all.Go(func() error { return p.sendAll(g[p], lines, nil) })
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
}

// agreed waits until all have been shown n messages, and checks that all were shown the same ones in the same order, each once. It returns them.
func (g group) agreed(t *testing.T, n int, people ...*person) []string {
	t.Helper()
	for _, p := range people {
		shown := 0
		eventually(t, p.name+" to be shown all messages", func() bool {
			shown = len(p.shown(g[p]))
			return shown >= n
		})
		if shown > n {
			t.Errorf("%s was shown %d messages, not %d", p.name, shown, n)
		}
	}
	first := people[0].shown(g[people[0]])
	for _, p := range people {
		p.sound()
		if shown := p.shown(g[p]); !slices.Equal(shown, first) {
			t.Errorf("%s and %s were shown different conversations:\n%s\n\n%s", people[0].name, p.name, strings.Join(first, "\n"), strings.Join(shown, "\n"))
		}
	}
	if s := sorted(first...); len(slices.Compact(s)) != len(first) {
		t.Errorf("a message was shown twice:\n%s", strings.Join(first, "\n"))
	}
	return first
}

// inOrder checks that one person's messages stand in the order in which they were sent.
func inOrder(t *testing.T, shown []string, p *person, texts []string) {
	t.Helper()
	var got []string
	for _, line := range shown {
		if text, ok := strings.CutPrefix(line, p.user+": "); ok {
			got = append(got, text)
		}
	}
	if !slices.Equal(got, texts) {
		t.Errorf("%s said %q, shown was %q", p.name, texts, got)
	}
}
