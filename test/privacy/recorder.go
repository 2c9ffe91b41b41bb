// Package privacy records what each operator role can see and searches it for what that role must not see.
//
// A view is complete when everything that reaches a role is in it: requests with headers and addresses (as the role's process gets them, opened ones
// included), all bus subjects, headers and payloads that its NATS user may read or write, its part of the bus's files on disk, its logs, its metrics and what it exports.
// The matrix (matrix.json) says which kinds of value each role may see; a canary is one real value of a kind, known to the scenario that made it. The check
// searches every view for every canary that the matrix forbids there, in raw, hexadecimal and base64 form, and holds trace context, on the bus, in requests and in exports, to the trace zones.
//
// It shows the absence of these values in these encodings, nothing else: not what can be inferred from sizes, counts and times.
package privacy

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"mimimi.example/pkg/bus"
)

// View is what one role of one domain saw.
type View struct {
	Domain string
	Role   Role
}

// item is one piece of a view; where says how the role came by it.
type item struct {
	where string
	data  []byte
}

// Recorder collects the views of all roles. Safe for concurrent use. Its memory grows with what it records: it is for bounded scenarios.
type Recorder struct {
	mu      sync.Mutex
	views   map[View][]item   // guarded by mu
	replies map[string][]Role // by domain and reply subject; guarded by mu
	traces  traces            // guarded by mu
}

// NewRecorder returns an empty recorder.
func NewRecorder() *Recorder {
	return &Recorder{views: make(map[View][]item), replies: make(map[string][]Role)}
}

// Add puts copies of what a role saw into its view.
func (r *Recorder) Add(v View, where string, parts ...[]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range parts {
		if len(p) > 0 {
			r.views[v] = append(r.views[v], item{where, bytes.Clone(p)})
		}
	}
}

// Tap returns the function that a service of a domain reports to. The provider's two sides are two roles: which one a report belongs to follows from its kind.
func (r *Recorder) Tap(domain, service string) func(kind string, parts ...[]byte) {
	return func(kind string, parts ...[]byte) {
		v := View{domain, roleOf(service, kind)}
		r.Add(v, "request", parts...)
		r.request(v, parts)
	}
}

// roleOf maps a service and the kind of a report to a role. A kind that the provider did not have when this was written belongs to the anonymous side, which
// may see less.
func roleOf(service, kind string) Role {
	if service != "provider" {
		return Role(service)
	}
	if kind == "account" || kind == "inbox" {
		return ProviderAccount
	}
	return ProviderAnonymous
}

// rolesOf returns the roles that a service's process stands for.
func rolesOf(service string) []Role {
	if service == "provider" {
		return []Role{ProviderAccount, ProviderAnonymous}
	}
	return []Role{Role(service)}
}

// Writer returns where a service's log goes: every line is part of its views.
func (r *Recorder) Writer(domain, service string) io.Writer { return &logWriter{r, domain, service} }

type logWriter struct {
	r               *Recorder
	domain, service string
}

func (w *logWriter) Write(p []byte) (int, error) {
	for _, role := range rolesOf(w.service) {
		w.r.Add(View{w.domain, role}, "log", p)
	}
	return len(p), nil
}

// Metrics puts a scrape of a service's metrics into its views.
func (r *Recorder) Metrics(domain, service string, scrape []byte) {
	for _, role := range rolesOf(service) {
		r.Add(View{domain, role}, "metrics", scrape)
	}
}

// BusMessage puts a message that passed a domain's bus into the view of every role that may see it. For a subject of the table these are the roles that may read or
// write it; for a JetStream call or acknowledgement, those of the stream that it names; for an answer, those of the call that named it as reply. What is none of
// these belongs to every role of the domain. Messages must be given in the order in which the bus saw them.
func (r *Recorder) BusMessage(domain, subject, reply string, header map[string][]string, data []byte) {
	roles := r.observers(domain, subject)
	if reply != "" {
		r.mu.Lock()
		r.replies[domain+" "+reply] = roles
		r.mu.Unlock()
	}
	r.header(domain, subject, roles, header)
	var head strings.Builder
	for _, k := range slices.Sorted(maps.Keys(header)) {
		fmt.Fprintf(&head, "%s: %s\n", k, strings.Join(header[k], ", "))
	}
	for _, role := range roles {
		v := View{domain, role}
		r.Add(v, "subject", []byte(subject))
		r.Add(v, "header", []byte(head.String()))
		r.Add(v, "payload", data)
	}
}

// everybody are all services' roles: replay is none, gets no answers that are others' and hears no calls.
var everybody = []Role{Hub, Fanout, KeyPackageStore, ProviderAccount, ProviderAnonymous}

// callees are the roles of those who serve calls on the bus; whoever relays a call is on the anonymous side.
var callees = map[string]Role{"rpc.hub": Hub, "rpc.kpstore": KeyPackageStore, "rpc.inbox": ProviderAccount}

// observers returns the roles that may see a subject.
func (r *Recorder) observers(domain, subject string) []Role {
	r.mu.Lock()
	roles, ok := r.replies[domain+" "+subject]
	r.mu.Unlock()
	if ok {
		return roles
	}
	if subject == "rpc.issuerkeys" { // key documents, which are public: whoever redeems tokens asks the provider
		return []Role{ProviderAnonymous, Hub, KeyPackageStore}
	}
	if callee, ok := callees[subject]; ok {
		return []Role{callee, ProviderAnonymous}
	}
	for _, f := range bus.Families() {
		if matches(f.Pattern, strings.TrimPrefix(subject, "hint.")) {
			return familyRoles(f)
		}
	}
	if roles := streamRoles(strings.Split(subject, ".")); strings.HasPrefix(subject, "$JS.") && roles != nil {
		return roles
	}
	return everybody
}

// familyRoles returns the roles that read or write a family; the provider's side follows from the family's zone. Senders see nothing but what they send
// themselves, and that is in their view already: the KeyPackage store's notices hold what its own sets do.
func familyRoles(f bus.Family) []Role {
	var out []Role
	for _, service := range append(slices.Clone(f.Writers), f.Readers...) {
		role := Role(service)
		if service == "provider" {
			role = ProviderAnonymous
			if f.Zone == "account" {
				role = ProviderAccount
			}
		}
		if service != "admin" && !slices.Contains(out, role) {
			out = append(out, role)
		}
	}
	return out
}

// matches says whether a subject fits a NATS pattern.
func matches(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		if token == ">" {
			return len(s) > i
		}
		if i >= len(s) || (token != "*" && token != s[i]) {
			return false
		}
	}
	return len(p) == len(s)
}

// Files puts a domain's bus files on disk into the views of the roles that may read the stream they belong to. dir is the embedded server's store directory.
func (r *Recorder) Files(domain, dir string) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		for _, role := range fileRoles(rel) {
			r.Add(View{domain, role}, "file name", []byte(rel))
			r.Add(View{domain, role}, "file", data)
		}
		return nil
	})
}

// fileRoles returns the roles of the stream that a file below the store directory belongs to; all roles if it belongs to none.
func fileRoles(rel string) []Role {
	parts := strings.Split(filepath.ToSlash(rel), "/")
	if i := slices.Index(parts, "streams"); i >= 0 && i+1 < len(parts) {
		if roles := streamRoles(parts[i+1 : i+2]); roles != nil {
			return roles
		}
	}
	return everybody
}

// streamRoles returns the roles of the first stream among some names; nil if none is a stream's.
func streamRoles(names []string) []Role {
	for _, name := range names {
		var out []Role
		for _, f := range bus.Families() {
			if !streamMatches(f.Stream, name) {
				continue
			}
			for _, role := range familyRoles(f) {
				if !slices.Contains(out, role) {
					out = append(out, role)
				}
			}
		}
		if out != nil {
			return out
		}
	}
	return nil
}

// streamMatches says whether a stream's name fits a family's, where {p} stands for a partition's number.
func streamMatches(family, name string) bool {
	prefix, _, partitioned := strings.Cut(family, "{p}")
	if !partitioned {
		return family == name
	}
	rest, ok := strings.CutPrefix(name, prefix)
	return ok && rest != "" && strings.Trim(rest, "0123456789") == ""
}
