package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/test/privacy"
)

// canaries collects the sensitive values of all clients. Safe for concurrent use. The zero value is ready.
type canaries struct {
	mu   sync.Mutex
	seen map[string]bool  // guarded by mu
	all  []privacy.Canary // guarded by mu
}

// canaryKinds maps what a client reports to rows of the matrix.
var canaryKinds = map[string]string{
	client.TapUser: "user identifier", client.TapClient: "client identifier", client.TapCertificate: "client certificate",
	client.TapConnectionKey: "connection key", client.TapConnectionToken: "connection token", client.TapLinkKey: "identity link key",
	client.TapQueueID: "queue ID", client.TapInviteSecret: "invite secret", client.TapPseudonym: "pseudonym", client.TapToken: "anonymous token", client.TapRequestToken: "connection request's anonymous token",
	client.TapContent: "content",
}

// tap returns what one person's client reports to. A value belongs to the domain of whoever reports it first, which is who made it; a user's URI says itself. All of the demo's
// groups are on the hub of domainA, connection groups too, since those who ask are there.
func (c *canaries) tap(name, domain string) func(kind string, values ...[]byte) {
	return func(kind string, values ...[]byte) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.seen == nil {
			c.seen = make(map[string]bool)
		}
		for _, v := range values {
			row, ok := canaryKinds[kind]
			if !ok {
				row = kind // the matrix has no such row: the check says so
			}
			if c.seen[row+string(v)] {
				continue
			}
			c.seen[row+string(v)] = true
			owner := domain
			if u, err := mimimi.ParseUser(string(v)); err == nil {
				owner = u.Domain()
			}
			c.all = append(c.all, privacy.Canary{Kind: row, Label: name + "'s " + row, Domain: owner, Hub: domainA, Value: slices.Clone(v)})
		}
	}
}

func (c *canaries) list() []privacy.Canary {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.all)
}

// logger returns the loggers of a domain's services: everything they log goes into their views.
func (s *stage) logger(domain string) func(service string) *slog.Logger {
	return func(service string) *slog.Logger {
		return slog.New(slog.NewJSONHandler(s.recorder.Writer(domain, service), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
}

// plant puts a user's URI into a log line, a subject and a header, and trace context where none may be, as a careless change of a service would.
func (s *stage) plant() error {
	uri := s.people["alice"].user.Wire()
	s.logger(domainA)("hub").Warn("a careless log line", slog.String("user", uri))
	return errors.Join(
		s.domains[domainA].Careless("careless."+uri, nil),
		s.domains[domainA].Careless("careless.header", map[string][]string{"User": {uri}}),
		s.domains[domainA].Careless("careless.trace", map[string][]string{"traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}),
	)
}

// printViews prints who saw what.
func printViews(out io.Writer, r *demoResult) error {
	m, err := privacy.LoadMatrix()
	if err != nil {
		return err
	}
	fmt.Fprint(out, "\nWho saw what (over both domains; how many different values, of all that passed; – is none)\n\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	head := []string{""}
	for _, role := range m.Roles {
		head = append(head, string(role))
	}
	fmt.Fprintln(w, strings.Join(head, "\t"))
	for _, row := range m.Rows {
		cells := []string{row.Kind}
		for _, role := range m.Roles {
			cells = append(cells, cell(r, row, role))
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	cells := []string{"bytes searched"}
	for _, role := range m.Roles {
		cells = append(cells, fmt.Sprint(r.Searched[string(role)]))
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
	if err := w.Flush(); err != nil {
		return err
	}
	for _, l := range r.Leaks {
		fmt.Fprintf(out, "LEAK: %s in a %s of %s at %s (%s)\n", l.Label, l.Where, l.Role, l.Domain, l.Form)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(out, "Note: %s.\n", n)
	}
	return nil
}

// cell is one cell of the table.
func cell(r *demoResult, row privacy.Row, role privacy.Role) string {
	for _, l := range r.Leaks {
		if l.Kind == row.Kind && l.Role == role {
			return "LEAK"
		}
	}
	n := r.Roles[string(role)][row.Kind]
	switch {
	case n == 0:
		return "–"
	case row.Allowed[role] != privacy.All:
		return fmt.Sprintf("%d %s", n, row.Allowed[role])
	}
	return fmt.Sprint(n)
}
