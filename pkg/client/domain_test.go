package client_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"mimimi.example/cmd/mimimi/domain"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/redeem/redeemtest"
)

// world is two domains that federate, each with all its services and its operator, for all tests of the package.
type world struct {
	a, b     *domain.Domain
	opA, opB *operator
	dir      string // of their state
}

var theWorld *world

// quotas are smaller than a provider's own, so that a registration costs a fifth of a second and less: the signing is most of it.
var quotas = map[mimimi.TokenOperation]uint16{
	mimimi.TokenQueue: 5, mimimi.TokenUpload: 12, mimimi.TokenGroup: 6, mimimi.TokenClaim: 24, mimimi.TokenConnect: 8,
}

func TestMain(m *testing.M) {
	flag.Parse()
	client.NotAgain() // much here is about what an app is told when something is down
	os.Exit(func() int {
		if flag.Lookup("test.fuzz").Value.String() != "" {
			return m.Run() // fuzz workers need no domains
		}
		dir, err := os.MkdirTemp("", "mimimi-client-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		ctx := context.Background()
		if theWorld, err = newWorld(ctx, dir, quotas); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		code := m.Run()
		if err := theWorld.stop(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}())
}

// newWorld starts two domains with quotas and waits until they have met. Their state is in a folder.
func newWorld(ctx context.Context, dir string, quotas map[mimimi.TokenOperation]uint16) (w *world, err error) {
	w = &world{dir: dir}
	for _, d := range []struct {
		to          **domain.Domain
		operator    **operator
		name, other string
	}{{&w.a, &w.opA, "a.localhost", "b.localhost"}, {&w.b, &w.opB, "b.localhost", "a.localhost"}} {
		*d.operator = newOperator(filepath.Join(dir, d.name))
		*d.to, err = domain.Start(ctx, (*d.operator).options(domain.Options{
			Domain: d.name, Peers: []string{filepath.Join(dir, d.other, "peer.json")},
			TokenQuotas: quotas, NewIssuerKey: redeemtest.IssuerKey,
		}))
		if err != nil {
			return nil, errors.Join(err, w.stop(ctx))
		}
	}
	if err := meet(filepath.Join(dir, "probe"), w, time.Now); err != nil {
		return nil, errors.Join(err, w.stop(ctx))
	}
	return w, nil
}

// stop stops the domains that run.
func (w *world) stop(ctx context.Context) (err error) {
	for _, d := range []*domain.Domain{w.a, w.b} {
		if d != nil {
			err = errors.Join(err, d.Stop(ctx))
		}
	}
	return err
}

// meet waits until each domain reaches the other.
func meet(dir string, w *world, now func() time.Time) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for from, to := range map[*domain.Domain]*domain.Domain{w.a: w.b, w.b: w.a} {
		c, err := client.Register(ctx, client.Config{Dir: filepath.Join(dir, from.Info().Domain), Provider: from.Info(),
			Stock: client.Stock{OneTime: 1, LastResort: 1}, Spread: -1, Now: now}, "probe")
		if err != nil {
			return err
		}
		nobody, err := mimimi.ParseUser("mimi://" + to.Info().Domain + "/u/nobody")
		if err != nil {
			return err
		}
		watcher, err := c.Watcher(ctx)
		if err != nil {
			return err
		}
		for {
			err := c.Connect(ctx, nobody)
			if errors.Is(err, client.ErrUnknownUser) {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("the domains do not meet: %w", err)
			}
			short, stop := context.WithTimeout(ctx, 100*time.Millisecond)
			_ = watcher.Wait(short)
			stop()
		}
		watcher.Close()
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}

// person is one user with one client.
type person struct {
	t    *testing.T
	name string
	cfg  client.Config
	c    *client.Client
	w    *client.Watcher
}

// register makes a user whose name is unique to the test.
func register(t *testing.T, d *domain.Domain, name string) *person {
	t.Helper()
	return registerConfig(t, name, client.Config{Provider: d.Info(), Stock: client.Stock{OneTime: 8, LastResort: 2}, Spread: -1})
}

// registerConfig is register with a configuration, whose folder it makes.
func registerConfig(t *testing.T, name string, cfg client.Config) *person {
	t.Helper()
	cfg.Dir = t.TempDir()
	p := &person{t: t, name: name, cfg: cfg}
	c, err := client.Register(t.Context(), p.cfg, fmt.Sprintf("%s-%d", name, time.Now().UnixNano()))
	if err != nil {
		t.Fatalf("%s: register: %v", name, err)
	}
	p.use(c)
	t.Cleanup(p.close)
	return p
}

func (p *person) use(c *client.Client) {
	p.t.Helper()
	w, err := c.Watcher(p.t.Context())
	if err != nil && !errors.Is(err, client.ErrDeviceRemoved) {
		p.t.Fatalf("%s: watcher: %v", p.name, err)
	}
	p.c, p.w = c, w
}

func (p *person) close() {
	p.w.Close()
	if err := p.c.Close(); err != nil {
		p.t.Errorf("%s: close: %v", p.name, err)
	}
}

// atOnce makes p do at once what is spread over a day otherwise.
func (p *person) atOnce() {
	p.t.Helper()
	p.cfg.Spread = -1
	p.reopen()
}

// reopen closes the client and opens it again, as another process would.
func (p *person) reopen() {
	p.t.Helper()
	p.close()
	c, err := client.Open(p.t.Context(), client.Config{Dir: p.cfg.Dir, Stock: p.cfg.Stock, Spread: p.cfg.Spread, Now: p.cfg.Now})
	if err != nil {
		p.t.Fatalf("%s: open: %v", p.name, err)
	}
	p.use(c)
}

// events returns all events of the kinds, in order.
func (p *person) events(kinds ...client.EventKind) []client.Event {
	p.t.Helper()
	all, err := p.c.Events(p.t.Context(), 0, 0)
	if err != nil {
		p.t.Fatalf("%s: events: %v", p.name, err)
	}
	return slices.DeleteFunc(all, func(e client.Event) bool { return !slices.Contains(kinds, e.Kind) })
}

// read returns the contents that a person has seen in a group, in order.
func (p *person) read(group string) (all []string) {
	p.t.Helper()
	for _, e := range p.events(client.EventMessage) {
		if e.Group == group {
			all = append(all, string(e.Body))
		}
	}
	return all
}

const patience = 30 * time.Second

// until syncs everybody in turn until cond holds.
func until(t *testing.T, what string, cond func() bool, people ...*person) {
	t.Helper()
	untilEvery(t, 200*time.Millisecond, what, cond, people...)
}

// untilEvery is until with a pause between rounds that is shorter or longer.
func untilEvery(t *testing.T, pause time.Duration, what string, cond func() bool, people ...*person) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var errs error
	for round := 0; ; round++ {
		errs = nil
		for _, p := range people {
			if err := p.c.Sync(ctx); err != nil {
				errs = errors.Join(errs, fmt.Errorf("%s: %w", p.name, err))
			}
			if cond() {
				return
			}
		}
		p := people[round%len(people)]
		err := p.w.Reset(ctx, p.c)
		if err != nil && !errors.Is(err, client.ErrDeviceRemoved) {
			t.Fatalf("%s: reset: %v", p.name, err)
		}
		if err == nil {
			short, stop := context.WithTimeout(ctx, pause)
			_ = p.w.Wait(short)
			stop()
		}
		if ctx.Err() != nil {
			for _, p := range people {
				for _, e := range p.events(client.EventWarning) {
					t.Logf("%s was warned: %s", p.name, e.Text)
				}
			}
			t.Fatalf("%s: did not happen: %v", what, errs)
		}
	}
}

// connect connects x with y, both ways, and returns when both know.
func connect(t *testing.T, x, y *person) {
	t.Helper()
	if err := x.c.Connect(t.Context(), y.c.User()); err != nil {
		t.Fatalf("%s: connect: %v", x.name, err)
	}
	until(t, "request", func() bool { return len(y.requests()) > 0 }, y)
	r := y.requests()[0]
	if r.From != x.c.User() {
		t.Fatalf("%s: the request is from somebody else", y.name)
	}
	if err := y.c.Accept(t.Context(), r.ID); err != nil {
		t.Fatalf("%s: accept: %v", y.name, err)
	}
	until(t, "connection", func() bool { return x.connected(y) && y.connected(x) }, x, y)
}

func (p *person) requests() []client.Request {
	p.t.Helper()
	all, err := p.c.Requests(p.t.Context())
	if err != nil {
		p.t.Fatalf("%s: requests: %v", p.name, err)
	}
	return all
}

func (p *person) connected(q *person) bool {
	p.t.Helper()
	all, err := p.c.Contacts(p.t.Context())
	if err != nil {
		p.t.Fatalf("%s: contacts: %v", p.name, err)
	}
	return slices.Contains(all, client.Contact{User: q.c.User(), State: client.ContactConnected})
}

// group returns the local id of the only group.
func (p *person) group() string {
	p.t.Helper()
	for _, g := range p.groups() {
		if g.State == client.GroupActive {
			return g.ID
		}
	}
	return ""
}

func (p *person) groups() []client.Group {
	p.t.Helper()
	all, err := p.c.Groups(p.t.Context())
	if err != nil {
		p.t.Fatalf("%s: groups: %v", p.name, err)
	}
	return all
}

// members returns how many identified members a person sees.
func (p *person) members(group string) (n int) {
	p.t.Helper()
	all, err := p.c.Members(p.t.Context(), group)
	if err != nil {
		return -1
	}
	for _, m := range all {
		if m.Identified {
			n++
		}
	}
	return n
}

func (p *person) send(group, text string) {
	p.t.Helper()
	if _, err := p.c.Send(p.t.Context(), group, []byte(text)); err != nil {
		p.t.Fatalf("%s: send: %v", p.name, err)
	}
}

func users(people ...*person) (all []mimimi.User) {
	for _, p := range people {
		all = append(all, p.c.User())
	}
	return all
}
