package fault

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
)

// pace is how often each of those who write does, and pause how long each of those who change something waits before the next change: a steady load that two processors can bear beside all else.
const pace, pause = 400 * time.Millisecond, time.Second

// load is what goes on in two domains while things break.
type load struct {
	t      testing.TB
	d      *deployment
	people map[string]*person
	groups []*conversation

	stop    chan struct{} // closed when nothing more is begun
	running errgroup.Group
	changes atomic.Int64 // commits and connections that came about
}

// newLoad registers everybody and makes the groups.
func newLoad(t testing.TB, d *deployment, dir string) *load {
	t.Helper()
	o := startOther(t, dir, d)
	l := &load{t: t, d: d, people: make(map[string]*person), stop: make(chan struct{})}
	var mu sync.Mutex
	var all errgroup.Group
	for name, at := range map[string]client.ProviderInfo{
		"alice": d.info, "dave": d.info, "erin": d.info, "bob": o.Info(), "carol": o.Info(), // they stay
		"gil": d.info, "guest": d.info, // they come and go
		"ina": d.info, "otto": d.info, // they only connect
	} {
		all.Go(func() error {
			p, err := register(t, filepath.Join(dir, "clients"), name, at)
			mu.Lock()
			defer mu.Unlock()
			l.people[name] = p
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	p := l.people
	for _, pair := range [][2]string{{"alice", "bob"}, {"alice", "dave"}, {"alice", "gil"}, {"dave", "carol"}, {"dave", "erin"}, {"carol", "bob"}, {"carol", "guest"}, {"erin", "bob"}} {
		all.Go(func() error { return connect(p[pair[0]], p[pair[1]]) })
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	var gs [4]*conversation
	for i, members := range [][]*person{{p["alice"], p["bob"], p["dave"]}, {p["dave"], p["carol"], p["erin"]}, {p["carol"], p["bob"]}, {p["erin"], p["bob"]}} {
		all.Go(func() (err error) {
			gs[i], err = converse(fmt.Sprint("group-", i), members...)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	l.groups = gs[:]
	for _, p := range l.people {
		p.forget()
	}
	return l
}

// begin lets everybody write, and some come, go, change the policy and connect.
func (l *load) begin() {
	p := l.people
	for _, name := range []string{"alice", "bob", "carol", "dave", "erin"} {
		l.running.Go(func() error { return l.write(p[name]) })
	}
	l.repeat(pause, func(n int) error { return l.addAndRemove(l.groups[0], p["alice"], p["gil"], n) })
	l.repeat(pause, func(n int) error { return l.joinAndLeave(l.groups[2], p["carol"], p["guest"], n) })
	l.repeat(pause, func(n int) error {
		g, by := l.groups[1], p["dave"]
		return by.insist("policy", func() error {
			return by.c.SetPolicy(by.ctx, g.local[by], client.PolicyChange{MaxLeaves: 100 + n})
		})
	})
	l.repeat(5*pause, func(int) error { return l.connectAndDisconnect(p["ina"], p["otto"]) })
}

// end lets everybody finish what they are at.
func (l *load) end() {
	l.t.Helper()
	close(l.stop)
	if err := l.running.Wait(); err != nil {
		l.t.Fatal(err)
	}
}

// wait waits, and says whether it is to go on.
func (l *load) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-l.stop:
		return false
	case <-timer.C:
		return true
	}
}

// repeat makes a change again and again.
func (l *load) repeat(pause time.Duration, change func(n int) error) {
	l.running.Go(func() error {
		for n := 0; l.wait(pause); n++ {
			if err := change(n); err != nil {
				return err
			}
			l.changes.Add(1)
		}
		return nil
	})
}

// write lets a person write to one group after the other.
func (l *load) write(p *person) error {
	for n := 0; ; n++ {
		for _, g := range l.groups {
			if g.local[p] == "" {
				continue
			}
			if !l.wait(pace) {
				return nil
			}
			if err := g.say(p, fmt.Sprint(n)); err != nil {
				return err
			}
		}
	}
}

// addAndRemove adds a guest, who says something, and removes the guest when that is shown.
func (l *load) addAndRemove(g *conversation, admin, guest *person, n int) error {
	users, skip := []mimimi.User{guest.user}, len(guest.seen())
	if err := admin.insist("add", func() error { return admin.c.Add(admin.ctx, g.local[admin], users...) }, client.ErrMember); err != nil {
		return err
	}
	if err := l.visit(g, guest, skip, n); err != nil {
		return err
	}
	return errors.Join(
		admin.insist("remove", func() error { return admin.c.Remove(admin.ctx, g.local[admin], guest.user) }, client.ErrNotMember),
		gone(guest, skip),
	)
}

// joinAndLeave lets a guest in with a link, who says something, and leaves when that is shown.
func (l *load) joinAndLeave(g *conversation, inviter, guest *person, n int) error {
	var link string
	if err := inviter.insist("invite", func() (err error) {
		link, err = inviter.c.Invite(inviter.ctx, g.local[inviter], client.InviteOptions{Uses: 2})
		return err
	}); err != nil {
		return err
	}
	skip := len(guest.seen())
	if err := guest.insist("join", func() error {
		_, err := guest.c.Join(guest.ctx, link)
		return err
	}, client.ErrMember); err != nil {
		return err
	}
	if err := l.visit(g, guest, skip, n); err != nil {
		return err
	}
	joined, err := guest.await("the group", skip, about(client.EventGroupJoined, "", mimimi.User{}))
	if err != nil {
		return err
	}
	return errors.Join(guest.insist("leave", func() error { return guest.c.Leave(guest.ctx, joined.Group) }, client.ErrGroupOver), gone(guest, skip))
}

// visit waits until a guest is in the group and has been shown something that it said itself.
func (l *load) visit(g *conversation, guest *person, skip, n int) error {
	joined, err := guest.await("the group", skip, about(client.EventGroupJoined, "", mimimi.User{}))
	if err != nil {
		return err
	}
	if err := g.sayIn(guest, joined.Group, fmt.Sprint("visit ", n)); err != nil {
		return err
	}
	_, err = guest.await("its own message", skip, about(client.EventSent, joined.Group, guest.user))
	return err
}

func gone(guest *person, skip int) error {
	_, err := guest.await("the end of the visit", skip, about(client.EventGroupOver, "", mimimi.User{}))
	return err
}

// connectAndDisconnect makes two people contacts and strangers again.
func (l *load) connectAndDisconnect(a, b *person) error {
	skip := len(b.seen())
	if err := connect(a, b); err != nil {
		return err
	}
	if err := a.insist("disconnect", func() error { return a.c.Disconnect(a.ctx, b.user) }, client.ErrNotConnected); err != nil {
		return err
	}
	_, err := b.await("the disconnection", skip, about(client.EventDisconnected, "", a.user))
	return err
}
