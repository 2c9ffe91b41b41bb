package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

const (
	setUpTime = 3 * time.Minute // for one step of a pair's way into its group, on a deployment that has just started
	pause     = 500 * time.Millisecond
	// stuckAfter is longer than catching up takes while a server starts anew.
	stuckAfter = time.Minute
)

// person is a user whose client keeps listening.
type person struct {
	name  string
	c     *client.Client
	group string // set by befriend
	done  chan struct{}
	count *count

	mu     sync.Mutex
	events []client.Event // all but messages; guarded by mu
	after  uint64         // place of the last event taken; guarded by mu

	confirmed int    // own messages that have their place in the log; guarded by mu
	latest    string // the last of them; guarded by mu
	failure   error  // the last Sync's; guarded by mu
}

// enter registers somebody and lets the client listen until ctx ends.
func enter(ctx context.Context, dir string, info client.ProviderInfo, name string, n *count) (*person, error) {
	cfg := client.Config{Dir: dir, Provider: info, Spread: -1, Stock: client.Stock{OneTime: 2, LastResort: 1}}
	var c *client.Client
	if err := retry(ctx, func() (err error) {
		c, err = client.Register(ctx, cfg, name)
		return err
	}); err != nil {
		return nil, fmt.Errorf("register: %w", err)
	}
	w, err := c.Watcher(ctx)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	p := &person{name: name, c: c, done: make(chan struct{}), count: n}
	go p.listen(ctx, w)
	return p, nil
}

// retry repeats what fails only because somebody cannot be reached, or is not known yet.
func retry(ctx context.Context, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, setUpTime)
	defer cancel()
	for {
		err := do()
		if k := problem.KindOf(err); err == nil || k != problem.Unavailable && k != problem.NotFound {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// listen catches up whenever there may be something. A Sync that fails is repeated: that is what the test makes happen.
func (p *person) listen(ctx context.Context, w *client.Watcher) {
	defer close(p.done)
	defer w.Close()
	for ctx.Err() == nil {
		stuck := time.AfterFunc(stuckAfter, func() { // where it hangs is worth more than that it does
			stacks := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "visitor: %s has been catching up for %s\n%s\n", p.name, stuckAfter, stacks[:runtime.Stack(stacks, true)])
		})
		failure := p.c.Sync(ctx)
		stuck.Stop()
		p.mu.Lock()
		p.failure = failure
		p.mu.Unlock()
		if err := p.take(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "visitor: take events:", err)
			os.Exit(1) // what was counted is worth nothing any more
		}
		if err := w.Reset(ctx, p.c); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "visitor: reset the watcher:", err)
			os.Exit(1)
		}
		if failure != nil {
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			continue
		}
		_ = w.Wait(ctx) // ctx's error ends the loop
	}
}

// take takes the new events over, and counts messages.
func (p *person) take(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		events, err := p.c.Events(ctx, p.after, 0)
		if err != nil || len(events) == 0 {
			return err
		}
		for _, e := range events {
			p.after = e.Seq
			switch e.Kind {
			case client.EventMessage:
				if err := p.count.read(e.Body); err != nil {
					return err
				}
			case client.EventSent:
				p.confirmed++
				p.latest = string(e.Body)
			default:
				p.events = append(p.events, e)
			}
		}
	}
}

// explain says what happened to somebody beside messages, and how much of the own ones has its place in the log.
func (p *person) explain(w io.Writer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(w, "visitor: %s: %d of the own messages are in the log, the last one %q; the last Sync: %v\n", p.name, p.confirmed, p.latest, p.failure)
	for _, e := range p.events {
		fmt.Fprintf(w, "visitor: %s: %s %s %s\n", p.name, e.Time.Format(time.TimeOnly), e.Kind, e.Text)
	}
}

// await waits for an event.
func (p *person) await(ctx context.Context, kind client.EventKind, of mimimi.User) (found client.Event, err error) {
	ctx, cancel := context.WithTimeout(ctx, setUpTime)
	defer cancel()
	for {
		p.mu.Lock()
		for _, e := range p.events {
			if e.Kind == kind && (of == mimimi.User{} || e.User == of) {
				p.mu.Unlock()
				return e, nil
			}
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return found, fmt.Errorf("%s waited in vain for %s", p.name, kind)
		case <-time.After(pause / 5):
		}
		if kind == client.EventRequest { // an inbox gives no hints
			if err := p.c.Sync(ctx); err == nil {
				err = p.take(ctx)
				if err != nil {
					return found, err
				}
			}
		}
	}
}

// befriend connects two people and puts them into a group of the first one's.
func befriend(ctx context.Context, a, b *person) error {
	if err := retry(ctx, func() error { return a.c.Connect(ctx, b.c.User()) }); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	request, err := b.await(ctx, client.EventRequest, a.c.User())
	if err != nil {
		return err
	}
	if err := retry(ctx, func() error { return b.c.Accept(ctx, request.Request) }); err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	if _, err := a.await(ctx, client.EventConnected, b.c.User()); err != nil {
		return err
	}
	if err := retry(ctx, func() (err error) { a.group, err = a.c.CreateGroup(ctx, "visitors"); return err }); err != nil {
		return fmt.Errorf("create a group: %w", err)
	}
	if err := retry(ctx, func() error { return a.c.Add(ctx, a.group, b.c.User()) }); err != nil {
		return fmt.Errorf("add to the group: %w", err)
	}
	in, err := b.await(ctx, client.EventGroupJoined, mimimi.User{})
	if err != nil {
		return err
	}
	b.group = in.Group
	return nil
}

// write sends a numbered message every so often until stop is closed.
func (p *person) write(ctx context.Context, stop <-chan struct{}, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-stop:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if err := p.send(ctx, n); err != nil {
			return err
		}
	}
}

// send stores a message with the client, which sends it when it can; while too many wait, it is tried again.
func (p *person) send(ctx context.Context, n int) error {
	p.count.wrote(p.name, n)
	for {
		_, err := p.c.Send(ctx, p.group, fmt.Appendf(nil, "%s %d", p.name, n))
		if problem.KindOf(err) != problem.Limited {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}
