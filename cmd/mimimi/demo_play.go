package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// surname makes the people's user names long enough to be searched for by themselves.
const surname = "-of-the-demo"

// peeringPoll is how often a connection is tried while the domains do not know each other yet.
const peeringPoll = 200 * time.Millisecond

// person is one user of the demo: a client that keeps listening, as an app's would.
type person struct {
	name   string
	user   mimimi.User
	c      *client.Client
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	events []client.Event // guarded by mu
	err    error          // the last failed Sync's, guarded by mu
	news   chan struct{}  // one element: something was added to events
}

// arrive registers a person and starts to listen.
func (s *stage) arrive(ctx context.Context, name, domainName string) (*person, error) {
	cfg := client.Config{
		Dir: filepath.Join(s.dir, "people", name), Provider: s.hosts[domainName], Tap: s.canaries.tap(name, domainName),
		Spread: -1, // nobody at a terminal waits a day, or before the first token is spent
	}
	c, err := client.Register(ctx, cfg, name+surname+s.guest)
	if err != nil {
		return nil, fmt.Errorf("register %s: %w", name, err)
	}
	p, err := s.enter(ctx, name, c)
	if err == nil {
		s.say("%s has an account, a queue, anonymous tokens and a stock of KeyPackages at %s", name, cfg.Provider.Domain)
	}
	return p, err
}

// link gives a person a second device, which is let in by its code.
func (s *stage) link(ctx context.Context, owner *person, domainName string) (*person, error) {
	name := owner.name + "'s phone"
	cfg := client.Config{
		Dir: filepath.Join(s.dir, "people", owner.name+"-phone"), Provider: s.hosts[domainName], Spread: -1, Tap: s.canaries.tap(name, domainName),
	}
	c, err := client.Link(ctx, cfg, owner.user)
	if err != nil {
		return nil, fmt.Errorf("link %s: %w", name, err)
	}
	code, err := c.LinkCode(ctx)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	shown := code
	phone, err := s.enter(ctx, name, c)
	if err != nil {
		return nil, err
	}
	if err := owner.c.ApproveDevice(ctx, code); err != nil {
		return nil, fmt.Errorf("approve %s: %w", name, err)
	}
	for code != "" { // two people, or one with two screens, who look at what happens
		if err := errors.Join(c.Sync(ctx), owner.c.Sync(ctx)); err != nil {
			return nil, fmt.Errorf("link %s: %w", name, err)
		}
		if code, err = c.LinkCode(ctx); err != nil {
			return nil, err
		}
	}
	s.say("%s showed the code %s, which was typed in at %s's first device: it is hers now", name, shown, owner.name)
	return phone, nil
}

// enter lets a client listen.
func (s *stage) enter(ctx context.Context, name string, c *client.Client) (*person, error) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &person{name: name, user: c.User(), c: c, cancel: cancel, done: make(chan struct{}), news: make(chan struct{}, 1)}
	w, err := c.Watcher(ctx)
	if err != nil {
		cancel()
		return nil, errors.Join(err, c.Close())
	}
	go p.listen(run, w)
	if s.people == nil {
		s.people = make(map[string]*person)
	}
	s.people[name] = p
	return p, nil
}

// listen catches up whenever something may be there, until ctx ends.
func (p *person) listen(ctx context.Context, w *client.Watcher) {
	defer close(p.done)
	defer w.Close()
	for {
		err := errors.Join(p.c.Sync(ctx), p.collect(ctx), w.Reset(ctx, p.c))
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		if w.Wait(ctx) != nil {
			return
		}
	}
}

// collect takes the new events over.
func (p *person) collect(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var after uint64
	if n := len(p.events); n > 0 {
		after = p.events[n-1].Seq
	}
	events, err := p.c.Events(ctx, after, 0)
	p.events = append(p.events, events...)
	if len(events) > 0 {
		select {
		case p.news <- struct{}{}:
		default:
		}
	}
	return err
}

func (p *person) close() error {
	p.cancel()
	<-p.done
	return p.c.Close()
}

// await waits until the person has an event that fits, and returns it.
func (p *person) await(ctx context.Context, what string, fits func(client.Event) bool) (client.Event, error) {
	seen := 0
	for {
		p.mu.Lock()
		events, syncErr := p.events, p.err
		p.mu.Unlock()
		for ; seen < len(events); seen++ {
			if fits(events[seen]) {
				return events[seen], nil
			}
		}
		select {
		case <-p.news:
		case <-time.After(time.Second): // another await may have taken the news
		case <-ctx.Done():
			return client.Event{}, fmt.Errorf("%s waited for %s in vain (%d events, the last: %s): %w", p.name, what, len(events), last(events), errors.Join(ctx.Err(), syncErr))
		}
	}
}

// last is the last event in words.
func last(events []client.Event) string {
	if len(events) == 0 {
		return "none"
	}
	e := events[len(events)-1]
	return describe(e, e.User.Wire(), e.Group)
}

// kind returns a test for an event of a kind about a user (zero: anybody).
func kind(k client.EventKind, u mimimi.User) func(client.Event) bool {
	return func(e client.Event) bool { return e.Kind == k && (u == mimimi.User{} || e.User == u) }
}

// meet asks for a connection. A provider that has just started needs a moment until it knows the other domain.
func meet(ctx context.Context, from, to *person) error {
	for {
		err := from.c.Connect(ctx, to.user)
		if k := problem.KindOf(err); k != problem.NotFound && k != problem.Unavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(peeringPoll):
		}
	}
}

// connect lets two people become connected.
func (s *stage) connect(ctx context.Context, from, to *person) error {
	if err := meet(ctx, from, to); err != nil {
		return fmt.Errorf("%s connects with %s: %w", from.name, to.name, err)
	}
	if err := to.c.Sync(ctx); err != nil { // an inbox gives no hints: whoever expects a request looks
		return fmt.Errorf("%s looks into the inbox: %w", to.name, err)
	}
	if err := to.collect(ctx); err != nil {
		return err
	}
	req, err := to.await(ctx, "a request", kind(client.EventRequest, from.user))
	if err != nil {
		return err
	}
	if err := to.c.Accept(ctx, req.Request); err != nil {
		return fmt.Errorf("%s accepts %s: %w", to.name, from.name, err)
	}
	for _, p := range []struct{ who, other *person }{{from, to}, {to, from}} {
		if _, err := p.who.await(ctx, "the connection", kind(client.EventConnected, p.other.user)); err != nil {
			return err
		}
	}
	s.say("%s and %s are connected", from.name, to.name)
	return nil
}

// send lets a person write to a group and waits until the others have read it.
func (s *stage) send(ctx context.Context, from *person, group, text string, to ...*person) error {
	if phone := s.people["alice's phone"]; phone != nil && slices.Contains(to, s.people["alice"]) {
		to = append(slices.Clone(to), phone) // whatever comes to one of a person's devices comes to all
	}
	s.sent++
	s.expected += len(to)
	if _, err := from.c.Send(ctx, group, []byte(text)); err != nil {
		return fmt.Errorf("%s sends: %w", from.name, err)
	}
	for _, p := range to {
		if _, err := p.await(ctx, "a message", isMessage(from.user, text)); err != nil {
			return err
		}
	}
	s.say("%s: %q, read by %s", from.name, text, names(to))
	return nil
}

func isMessage(from mimimi.User, text string) func(client.Event) bool {
	return func(e client.Event) bool {
		return e.Kind == client.EventMessage && e.User == from && bytes.Equal(e.Body, []byte(text))
	}
}

func names(people []*person) string {
	out := ""
	for i, p := range people {
		if i > 0 {
			out += " and "
		}
		out += p.name
	}
	return out
}

// joined waits until each of the people is in a new group and returns each one's local id of it.
func joined(ctx context.Context, people []*person, known map[*person][]string) (map[*person]string, error) {
	out := make(map[*person]string)
	for _, p := range people {
		e, err := p.await(ctx, "a group", func(e client.Event) bool {
			for _, k := range known[p] {
				if e.Group == k {
					return false
				}
			}
			return e.Kind == client.EventGroupJoined
		})
		if err != nil {
			return nil, err
		}
		out[p] = e.Group
	}
	return out, nil
}

// play is the demo's script: a straight line, so one function.
func (s *stage) play(ctx context.Context) error {
	cast := make([]*person, 4)
	for i, c := range []struct{ name, domain string }{{"alice", domainA}, {"bob", domainB}, {"carol", domainB}, {"dave", domainA}} {
		p, err := s.arrive(ctx, c.name, c.domain)
		if err != nil {
			return err
		}
		cast[i] = p
	}
	alice, bob, carol, dave := cast[0], cast[1], cast[2], cast[3]
	if err := s.connect(ctx, alice, bob); err != nil {
		return err
	}
	if err := s.connect(ctx, alice, carol); err != nil {
		return err
	}
	phone, err := s.link(ctx, alice, domainA)
	if err != nil {
		return err
	}
	group, err := alice.c.CreateGroup(ctx, "friends")
	if err != nil {
		return fmt.Errorf("create a group: %w", err)
	}
	if err := alice.c.Add(ctx, group, bob.user, carol.user); err != nil {
		return fmt.Errorf("add to the group: %w", err)
	}
	ids, err := joined(ctx, []*person{bob, carol, phone}, nil)
	if err != nil {
		return err
	}
	s.say("alice's group on the hub of %s has bob and carol in it, and both of alice's devices under one pseudonym", s.hosts[domainA].Domain)
	if err := s.send(ctx, alice, group, "Hello, both of you. Nobody between us knows who we are.", bob, carol); err != nil {
		return err
	}
	if err := s.send(ctx, bob, ids[bob], "Hello Alice, hello Carol. This went through two providers.", alice, carol); err != nil {
		return err
	}
	if err := s.send(ctx, carol, ids[carol], "And each of them saw pseudonyms only.", alice, bob); err != nil {
		return err
	}
	return s.playOn(ctx, alice, bob, carol, dave, group, ids)
}

// playOn is the script's second half: an invitation, a removal, a leave, a second group and a disconnection.
func (s *stage) playOn(ctx context.Context, alice, bob, carol, dave *person, group string, ids map[*person]string) error {
	if err := s.connect(ctx, dave, bob); err != nil {
		return err
	}
	link, err := bob.c.Invite(ctx, ids[bob], client.InviteOptions{})
	if err != nil {
		return fmt.Errorf("invite: %w", err)
	}
	if ids[dave], err = dave.c.Join(ctx, link); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if _, err := joined(ctx, []*person{dave}, nil); err != nil {
		return err
	}
	s.say("dave joined by invitation (external commit), was identified, and knows everybody now")
	if err := s.send(ctx, dave, ids[dave], "Hello from the invitation.", alice, bob, carol); err != nil {
		return err
	}

	if err := alice.c.Remove(ctx, group, carol.user); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	if _, err := carol.await(ctx, "her removal", kind(client.EventGroupOver, mimimi.User{})); err != nil {
		return err
	}
	s.say("carol was removed")
	if err := s.send(ctx, alice, group, "Carol cannot read this.", bob, dave); err != nil {
		return err
	}

	if err := bob.c.Leave(ctx, ids[bob]); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	for _, p := range []*person{alice, dave} {
		if _, err := p.await(ctx, "bob's leaving", kind(client.EventLeft, bob.user)); err != nil {
			return err
		}
	}
	s.say("bob left")
	if err := s.send(ctx, dave, ids[dave], "Just the two of us now.", alice); err != nil {
		return err
	}

	second, err := alice.c.CreateGroup(ctx, "second")
	if err != nil {
		return fmt.Errorf("create a second group: %w", err)
	}
	if err := alice.c.Add(ctx, second, bob.user); err != nil {
		return fmt.Errorf("add to the second group: %w", err)
	}
	phone := s.people["alice's phone"]
	seconds, err := joined(ctx, []*person{bob, phone}, map[*person][]string{bob: {ids[bob]}, phone: {ids[phone]}})
	if err != nil {
		return err
	}
	s.say("alice and bob are in a second group, under new pseudonyms")
	if err := s.send(ctx, alice, second, "Nobody can tell that we two were in the other one.", bob); err != nil {
		return err
	}
	if err := s.send(ctx, bob, seconds[bob], "Except you, me, and the guests.", alice); err != nil {
		return err
	}
	if err := carolReadNothing(carol); err != nil {
		return err
	}
	return s.disconnect(ctx, alice, carol)
}

// disconnect ends the connection of two people.
func (s *stage) disconnect(ctx context.Context, from, to *person) error {
	if err := from.c.Disconnect(ctx, to.user); err != nil {
		return fmt.Errorf("%s disconnects: %w", from.name, err)
	}
	if _, err := to.await(ctx, "the end of the connection", kind(client.EventDisconnected, from.user)); err != nil {
		return err
	}
	s.say("%s disconnected from %s: her token is revoked, %s's other contacts get a new connection key", from.name, to.name, from.name)
	return nil
}

// carolReadNothing checks that the removed member has no message that was sent after the removal.
func carolReadNothing(carol *person) error {
	carol.mu.Lock()
	defer carol.mu.Unlock()
	over := false
	for _, e := range carol.events {
		over = over || e.Kind == client.EventGroupOver
		if over && e.Kind == client.EventMessage {
			return errors.New("carol read a message after her removal")
		}
	}
	return nil
}

// delivered lets everybody catch up once more and stop, and counts the messages that people got from others, each once.
func (s *stage) delivered(ctx context.Context) (int, error) {
	n := 0
	for _, p := range s.people {
		p.cancel()
		<-p.done
		if err := errors.Join(p.c.Sync(ctx), p.collect(ctx)); err != nil {
			return 0, fmt.Errorf("%s catches up: %w", p.name, err)
		}
		seen := make(map[string]bool)
		for _, e := range p.events { // nobody adds to them any more
			if e.Kind != client.EventMessage {
				continue
			}
			if seen[string(e.Body)] {
				return 0, fmt.Errorf("%s was shown a message twice", p.name)
			}
			seen[string(e.Body)] = true
			n++
		}
	}
	return n, nil
}
