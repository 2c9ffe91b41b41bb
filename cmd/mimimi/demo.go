package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mimimi.example/cmd/mimimi/domain"
	"mimimi.example/pkg/client"
	"mimimi.example/test/privacy"
)

// demoTime bounds the whole demo: a conversation that has not come to its end by then is stuck.
const demoTime = 2 * time.Minute

// The demo's two domains.
const (
	domainA = "a.localhost"
	domainB = "b.localhost"
)

// demoCommand runs a conversation across two domains and checks what each role saw.
type demoCommand struct {
	JSON     bool     `help:"Print one JSON object on the last line."`
	Keep     string   `type:"path" help:"Folder to keep the state in; default: a temporary one that is removed."`
	Replicas int      `default:"1" help:"How many replicas of each service to run."`
	On       []string `placeholder:"FILE,FILE" type:"path" help:"Play on two domains that run elsewhere, of which these are the client.json files, in place of its own. What their servers saw is not looked at."`
	Otlp     string   `placeholder:"ADDR" help:"Send traces, metrics and logs to an OTLP/HTTP receiver, such as 127.0.0.1:4318 or a URL."`
	Plant    bool     `hidden:"" name:"plant-leaks" help:"For tests: put a user's URI into a log line, a subject and a header, and a trace where none may be, to see that the check finds them."`
}

// demoResult is what -json prints.
type demoResult struct {
	MessagesSent       int                       `json:"messages_sent"`
	MessagesDelivered  int                       `json:"messages_delivered"`
	ExpectedDeliveries int                       `json:"expected_deliveries"`
	Leaks              []privacy.Leak            `json:"leaks"`
	Roles              map[string]map[string]int `json:"roles"` // role → kind of value → how many different ones it saw
	Searched           map[string]int            `json:"searched_bytes"`
	Spans              map[string]int            `json:"spans"`       // zone → how many were exported
	NotAllowed         int64                     `json:"not_allowed"` // attributes and names of spans and metrics that were on no allow-list
	Seconds            float64                   `json:"seconds"`
	Notes              []string                  `json:"notes"`
}

// Run runs the demo. Its error is non-nil unless every message was delivered and nothing forbidden was seen.
func (d *demoCommand) Run(ctx context.Context, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, demoTime, errors.New("the demo did not come to its end in time"))
	defer cancel()
	dir := d.Keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "mimimi-demo-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	start := time.Now()
	s := &stage{dir: dir, out: out, quiet: d.JSON, start: start, recorder: privacy.NewRecorder(), replicas: d.Replicas, otlp: receiver(d.Otlp), hosts: make(map[string]client.ProviderInfo)}
	perform := func() (*demoResult, error) { return s.perform(ctx, d.Plant) }
	if len(d.On) > 0 {
		perform = func() (*demoResult, error) { return s.performOn(ctx, d.On) }
	}
	res, err := perform()
	if err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	res.Seconds = time.Since(start).Seconds()
	if err := d.print(out, res); err != nil {
		return err
	}
	return res.verdict()
}

// verdict is nil if all was delivered and nothing forbidden was seen.
func (r *demoResult) verdict() error {
	var errs []error
	if r.MessagesDelivered != r.ExpectedDeliveries {
		errs = append(errs, fmt.Errorf("%d of %d deliveries were made", r.MessagesDelivered, r.ExpectedDeliveries))
	}
	if r.NotAllowed > 0 {
		errs = append(errs, fmt.Errorf("%d attributes or names of spans and metrics are on no allow-list", r.NotAllowed))
	}
	if len(r.Leaks) > 0 {
		errs = append(errs, fmt.Errorf("%d values were seen where they must not be", len(r.Leaks)))
	}
	return errors.Join(errs...)
}

func (d *demoCommand) print(out io.Writer, r *demoResult) error {
	if d.JSON {
		return printJSON(out, r)
	}
	if len(d.On) > 0 { // nobody recorded what was seen
		_, err := fmt.Fprintf(out, "\n%d messages sent, %d of %d deliveries made, %.1f s\n", r.MessagesSent, r.MessagesDelivered, r.ExpectedDeliveries, r.Seconds)
		return err
	}
	return errors.Join(printViews(out, r), func() error {
		_, err := fmt.Fprintf(out, "\n%d messages sent, %d of %d deliveries made, %d leaks, %d spans in %d zones, none across, %.1f s\n",
			r.MessagesSent, r.MessagesDelivered, r.ExpectedDeliveries, len(r.Leaks), r.spans(), len(r.Spans), r.Seconds)
		return err
	}())
}

// spans is how many spans were exported.
func (r *demoResult) spans() (n int) {
	for _, k := range r.Spans {
		n += k
	}
	return n
}

// stage is where the demo plays.
type stage struct {
	dir      string
	out      io.Writer
	quiet    bool
	start    time.Time
	replicas int
	otlp     string
	dropped  int64 // attributes and names on no allow-list
	recorder *privacy.Recorder
	canaries canaries
	domains  map[string]*domain.Domain
	hosts    map[string]client.ProviderInfo // by the domains' names in the script
	guest    string                         // what user names end with on domains that have had the demo before
	stops    []func() error                 // observers of the buses
	people   map[string]*person
	sent     int
	expected int
}

// perform plays the conversation, stops everything and checks the views.
func (s *stage) perform(ctx context.Context, plant bool) (_ *demoResult, err error) {
	defer func() { err = errors.Join(err, s.leaveStage(context.WithoutCancel(ctx))) }()
	if err := s.startDomains(ctx); err != nil {
		return nil, err
	}
	if err := s.play(ctx); err != nil {
		return nil, err
	}
	if plant {
		if err := s.plant(); err != nil {
			return nil, err
		}
	}
	delivered, err := s.delivered(ctx)
	if err != nil {
		return nil, err
	}
	s.say("stopping, and searching every view for %d values that must stay hidden", len(s.canaries.list()))
	if err := s.leaveStage(ctx); err != nil {
		return nil, err
	}
	return s.check(delivered)
}

// performOn plays the conversation on two domains that run elsewhere, under user names that nobody has had.
func (s *stage) performOn(ctx context.Context, files []string) (_ *demoResult, err error) {
	defer func() { err = errors.Join(err, s.leaveStage(context.WithoutCancel(ctx))) }()
	names := []string{domainA, domainB}
	if len(files) != len(names) {
		return nil, errors.New("-on takes the client.json files of two domains")
	}
	for i, name := range names {
		if s.hosts[name], err = client.LoadProviderInfo(files[i]); err != nil {
			return nil, err
		}
	}
	s.guest = "-" + strings.ToLower(rand.Text()[:10])
	if err := s.play(ctx); err != nil {
		return nil, err
	}
	delivered, err := s.delivered(ctx)
	if err != nil {
		return nil, err
	}
	return &demoResult{
		MessagesSent: s.sent, MessagesDelivered: delivered, ExpectedDeliveries: s.expected, Leaks: []privacy.Leak{},
		Notes: []string{"the domains run elsewhere: what their servers saw was not looked at"},
	}, nil
}

// say prints a line of progress.
func (s *stage) say(format string, args ...any) {
	if !s.quiet {
		fmt.Fprintf(s.out, "%5.1fs  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
	}
}

// startDomains runs both domains, each knowing the other, every role's view recorded.
func (s *stage) startDomains(ctx context.Context) error {
	s.domains = make(map[string]*domain.Domain)
	folder := func(name string) string { return filepath.Join(s.dir, name) }
	for name, other := range map[string]string{domainA: domainB, domainB: domainA} {
		d, err := domain.Start(ctx, domain.Options{
			Dir: folder(name), Domain: name, Peers: []string{filepath.Join(folder(other), "peer.json")}, Replicas: s.replicas,
			Log: s.logger(name), Tap: func(service string) func(string, ...[]byte) { return s.recorder.Tap(name, service) },
			OTLP: s.otlp, Exports: func(service string) func(string, []byte) {
				return func(signal string, export []byte) { s.recorder.Export(name, service, signal, export) }
			},
		})
		if err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
		s.domains[name], s.hosts[name] = d, d.Info()
		stop, err := d.Observe(func(subject, reply string, header map[string][]string, data []byte) {
			s.recorder.BusMessage(name, subject, reply, header, data)
		})
		if err != nil {
			return err
		}
		s.stops = append(s.stops, stop)
		s.say("%s is up: hub, kpstore, fanout and provider on JetStream", name)
	}
	return nil
}

// leaveStage closes the people's clients, the observers and the domains. Doing it twice is harmless.
func (s *stage) leaveStage(ctx context.Context) error {
	var errs []error
	for _, p := range s.people {
		errs = append(errs, p.close())
	}
	s.people = nil
	for _, d := range s.domains {
		errs = append(errs, d.Metrics(func(service string, scrape []byte) { s.recorder.Metrics(d.Info().Domain, service, scrape) }))
	}
	for _, stop := range s.stops {
		errs = append(errs, stop())
	}
	s.stops = nil
	for name, d := range s.domains {
		stop, cancel := context.WithTimeout(ctx, stopTime)
		errs = append(errs, d.Stop(stop), s.recorder.Files(name, d.BusFiles()))
		s.dropped += d.NotAllowed()
		cancel()
	}
	s.domains = nil
	return errors.Join(errs...)
}

// check searches the views.
func (s *stage) check(delivered int) (*demoResult, error) {
	m, err := privacy.LoadMatrix()
	if err != nil {
		return nil, err
	}
	rep, err := s.recorder.Check(m, s.canaries.list())
	if err != nil {
		return nil, err
	}
	r := &demoResult{
		MessagesSent: s.sent, MessagesDelivered: delivered, ExpectedDeliveries: s.expected,
		Leaks: append([]privacy.Leak{}, rep.Leaks...), // none is [], not null
		Roles: make(map[string]map[string]int), Searched: make(map[string]int), Spans: s.recorder.Spans(), NotAllowed: s.dropped,
	}
	for _, role := range m.Roles {
		r.Roles[string(role)] = rep.Seen[role]
		if r.Roles[string(role)] == nil {
			r.Roles[string(role)] = map[string]int{}
		}
		r.Searched[string(role)] = rep.Searched[role]
	}
	return r, nil
}
