package fault

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// person is a user whose one client streams for as long as the test runs, and accepts whoever asks for a connection.
type person struct {
	t    testing.TB
	name string
	c    *client.Client
	user mimimi.User
	ctx  context.Context // until the test ends
	work sync.WaitGroup

	mu       sync.Mutex
	events   []client.Event // all that was shown; guarded by mu
	passing  map[string]int // what the stream said failed; guarded by mu
	refusals map[string]int // what a call said failed, which then succeeded: what an app would have had to deal with; guarded by mu
}

// register makes a user and begins to listen.
func register(t testing.TB, dir, name string, at client.ProviderInfo) (*person, error) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &person{t: t, name: name, ctx: ctx, passing: make(map[string]int), refusals: make(map[string]int)}
	err := p.insist("register", func() (err error) {
		p.c, err = client.Register(ctx, client.Config{
			Dir: filepath.Join(dir, "client-"+name), Provider: at, Stock: client.Stock{OneTime: 12, LastResort: 2}, Spread: -1,
		}, name)
		return err
	})
	if err != nil {
		cancel()
		return nil, err
	}
	p.user = p.c.User()
	p.work.Go(p.listen)
	t.Cleanup(func() {
		cancel()
		p.work.Wait()
		if t.Failed() {
			p.report()
		}
		if err := p.c.Close(); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
	})
	return p, nil
}

// listen takes note of all events. Their numbers have no gap, so that none is missed or comes twice.
func (p *person) listen() {
	for e, err := range p.c.Stream(p.ctx, 0) {
		p.mu.Lock()
		switch {
		case err != nil:
			p.passing[err.Error()]++
		case e.Seq != uint64(len(p.events))+1:
			p.t.Errorf("%s: event %d after event %d", p.name, e.Seq, len(p.events))
		default:
			p.events = append(p.events, e)
		}
		p.mu.Unlock()
		if err == nil && e.Kind == client.EventRequest {
			p.work.Go(func() {
				if err := p.insist("accept", func() error { return p.c.Accept(p.ctx, e.Request) }, client.ErrUnknownRequest); err != nil && p.ctx.Err() == nil {
					p.t.Error(err)
				}
			})
		}
	}
}

// report shows the person's view.
func (p *person) report() {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b strings.Builder
	for _, e := range p.events[max(0, len(p.events)-60):] {
		fmt.Fprintf(&b, "  %d %s %.6s %s %q %s\n", e.Seq, e.Kind, e.Group, e.User.Wire(), e.Body, e.Text)
	}
	groups, err := p.c.Groups(context.Background())
	p.t.Logf("%s's view: %v, %v, %+v, %v\n%s", p.name, p.passing, p.refusals, groups, err, b.String())
}

// seen are all events so far.
func (p *person) seen() []client.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.events)
}

// await waits for an event after the first skip ones that fits, and returns it and its number.
func (p *person) await(what string, skip int, fits func(client.Event) bool) (found client.Event, err error) {
	if !waitFor(p.ctx, func() bool {
		all := p.seen()
		i := slices.IndexFunc(all[min(skip, len(all)):], fits)
		if i >= 0 {
			found = all[skip+i]
		}
		return i >= 0
	}) {
		return found, fmt.Errorf("%s waited in vain for %s", p.name, what)
	}
	return found, nil
}

// insist repeats a call that may succeed later until it does, or until it says that an earlier try, whose outcome was not known, did. Each failure is one that an app's user would have seen.
func (p *person) insist(what string, f func() error, already ...error) error {
	var last error
	done := false
	waitFor(p.ctx, func() bool {
		last = f()
		if done = last == nil || slices.ContainsFunc(already, func(err error) bool { return errors.Is(last, err) }); done {
			return true
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.refusals[what+": "+last.Error()]++
		return problem.KindOf(last) != problem.Unavailable && !errors.Is(last, client.ErrBusy)
	})
	if done {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", p.name, what, last)
}

// forget forgets what failed so far, while the domains were starting.
func (p *person) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.passing)
	clear(p.refusals)
}

// about fits an event of a kind in a group, "" for any, about a user.
func about(kind client.EventKind, group string, user mimimi.User) func(client.Event) bool {
	return func(e client.Event) bool {
		return e.Kind == kind && (group == "" || e.Group == group) && (user == mimimi.User{} || e.User == user)
	}
}

// connect makes two people contacts.
func connect(a, b *person) error {
	skip, skipB := len(a.seen()), len(b.seen())
	if err := a.insist("connect", func() error { return a.c.Connect(a.ctx, b.user) }); err != nil {
		return err
	}
	_ = b.c.Sync(b.ctx) // no inbox gives hints: at once, and not within the fifteen seconds after which the stream looks; what fails here is the stream's to repeat
	_, err1 := a.await("the connection", skip, about(client.EventConnected, "", b.user))
	_, err2 := b.await("the connection", skipB, about(client.EventConnected, "", a.user))
	return errors.Join(err1, err2)
}

// conversation is a group. Its members stay, but for guests.
type conversation struct {
	name    string
	ours    bool // its hub is in our domain
	members []*person
	local   map[*person]string // the group's local id

	mu   sync.Mutex
	said []string // guarded by mu
}

// converse makes a group of people who are connected with the first of them.
func converse(name string, members ...*person) (*conversation, error) {
	maker := members[0]
	g := &conversation{name: name, ours: maker.user.Domain() == ours, members: members, local: make(map[*person]string)}
	var id string
	if err := maker.insist("create", func() (err error) {
		id, err = maker.c.CreateGroup(maker.ctx, name)
		return err
	}); err != nil {
		return nil, err
	}
	g.local[maker] = id
	var users []mimimi.User
	for _, m := range members[1:] {
		users = append(users, m.user)
	}
	if err := maker.insist("add", func() error { return maker.c.Add(maker.ctx, id, users...) }, client.ErrMember); err != nil {
		return nil, err
	}
	if err := g.say(maker, "hello"); err != nil {
		return nil, err
	}
	for _, m := range members[1:] {
		e, err := m.await("the group", 0, func(e client.Event) bool { return string(e.Body) == g.said[0] })
		if err != nil {
			return nil, err
		}
		g.local[m] = e.Group
	}
	return g, nil
}

// say sends a message that nobody else sends.
func (g *conversation) say(p *person, text string) error { return g.sayIn(p, g.local[p], text) }

func (g *conversation) sayIn(p *person, local, text string) error {
	text = g.name + "|" + p.name + "|" + text
	if err := p.insist("send", func() error {
		_, err := p.c.Send(p.ctx, local, []byte(text))
		return err
	}); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.said = append(g.said, text)
	return nil
}

// shown are the events in which a person was shown what was said in a group, whatever the person's name for it at the time.
func (g *conversation) shown(p *person) (all []client.Event) {
	for _, e := range p.seen() {
		if (e.Kind == client.EventMessage || e.Kind == client.EventSent) && strings.HasPrefix(string(e.Body), g.name+"|") {
			all = append(all, e)
		}
	}
	return all
}
