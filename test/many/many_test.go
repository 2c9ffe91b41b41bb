// Package many tests the system with many users and devices: three domains with all their services on real JetStream, twelve users with two or three devices each,
// twenty groups, some devices away for parts of it. It shows that all messages come to all devices, once, in one order for each group, and that nobody is unidentified at
// the end.
package many

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"mimimi.example/cmd/mimimi/domain"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/redeem/redeemtest"
)

// patience bounds each step: it is long, since a machine may be slow and has much to do here.
const patience = 4 * time.Minute

const (
	users  = 12
	groups = 20
	// late is the first user whose extra device is linked after the groups are made.
	late = 8
)

// quotas are smaller than a provider's own: signing them is most of what a registration costs.
var quotas = map[mimimi.TokenOperation]uint16{
	mimimi.TokenQueue: 2, mimimi.TokenUpload: 16, mimimi.TokenGroup: 10, mimimi.TokenClaim: 40, mimimi.TokenConnect: 8,
}

var domains = []string{"a.localhost", "b.localhost", "c.localhost"}

// device is one client of one user.
type device struct {
	name string
	c    *client.Client
	away bool
	came map[*conversation]int // how much had been said when it came
}

// user is a user with all devices. The first one makes what the user does, unless something else is said.
type user struct {
	name    string
	user    mimimi.User
	cfg     client.Config
	devices []*device
}

// play is the whole test.
type play struct {
	t       *testing.T
	dir     string
	domains []*domain.Domain
	users   []*user
	groups  []*conversation
	dice    *rand.Rand
}

// conversation is one group as the test wants it to be.
type conversation struct {
	name    string
	members []*user
	said    []string
}

func TestManyUsersDevicesGroups(t *testing.T) {
	const seed = 3
	p := &play{t: t, dir: t.TempDir(), dice: rand.New(rand.NewPCG(seed, seed))}
	p.startDomains()
	p.registerAll()
	p.connectAll()
	p.makeGroups()
	p.talk("first")
	p.away(true)
	p.talk("some are away")
	p.linkLate()
	p.talk("devices came later")
	p.away(false)
	p.settle("those who were away know all devices", p.joined) // what is said in an epoch from before they came, they cannot read
	p.talk("all are back")
	p.settle("everything everywhere", p.complete)
	p.check()
}

func (p *play) startDomains() {
	var mu sync.Mutex
	var wg sync.WaitGroup
	p.domains = make([]*domain.Domain, len(domains))
	for i, name := range domains {
		var peers []string
		for _, other := range domains {
			if other != name {
				peers = append(peers, filepath.Join(p.dir, other, "peer.json"))
			}
		}
		wg.Go(func() {
			d, err := domain.Start(p.t.Context(), domain.Options{
				Dir: filepath.Join(p.dir, name), Domain: name, Peers: peers, TokenQuotas: quotas, NewIssuerKey: redeemtest.IssuerKey,
			})
			if err != nil {
				p.t.Errorf("start %s: %v", name, err)
				return
			}
			mu.Lock()
			p.domains[i] = d
			mu.Unlock()
		})
	}
	wg.Wait()
	p.t.Cleanup(func() {
		for _, d := range p.domains {
			if d != nil {
				if err := d.Stop(context.Background()); err != nil {
					p.t.Errorf("stop: %v", err)
				}
			}
		}
	})
	if p.t.Failed() {
		p.t.FailNow()
	}
}

// each runs f for several at once: most of the time they wait for a service.
func each[T any](p *play, what string, all []T, f func(ctx context.Context, x T) error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 6)
	for _, x := range all {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := f(ctx, x); err != nil {
				p.t.Errorf("%s: %v", what, err)
			}
		})
	}
	wg.Wait()
	if p.t.Failed() {
		p.t.FailNow()
	}
}

func (p *play) all() (all []*device) {
	for _, u := range p.users {
		all = append(all, u.devices...)
	}
	return all
}

// present are the devices that are not away.
func (p *play) present() []*device {
	return slices.DeleteFunc(p.all(), func(d *device) bool { return d.away })
}

// settle syncs all devices that are there until cond says nothing is missing.
func (p *play) settle(what string, cond func(ctx context.Context) (missing string, err error)) {
	p.t.Helper()
	start := time.Now()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	for {
		var mu sync.Mutex
		var errs []error
		each(p, what, p.present(), func(_ context.Context, d *device) error {
			if err := d.c.Sync(ctx); err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("%s: %w", d.name, err))
				mu.Unlock()
			}
			return nil // it is tried again
		})
		missing, err := cond(context.WithoutCancel(ctx))
		if err != nil {
			p.t.Fatalf("%s: %v", what, err)
		}
		if missing == "" {
			p.t.Logf("%s: %v", what, time.Since(start).Round(time.Millisecond))
			return
		}
		select {
		case <-ctx.Done():
			p.warnings()
			p.t.Fatalf("%s did not happen: %s is missing (%v)", what, missing, errors.Join(errs...))
		case <-time.After(100 * time.Millisecond): // what one sends takes a moment to reach the others
		}
	}
}

// warnings logs what the devices were warned of.
func (p *play) warnings() {
	for _, d := range p.all() {
		events, err := allEvents(context.Background(), d)
		if err != nil {
			p.t.Logf("%s: %v", d.name, err)
			continue
		}
		for _, e := range events {
			if e.Kind == client.EventWarning {
				p.t.Logf("%s was warned: %s", d.name, e.Text)
			}
		}
	}
}

func (p *play) registerAll() {
	for i := range users {
		home := p.domains[i%len(p.domains)]
		p.users = append(p.users, &user{name: fmt.Sprintf("user-%02d", i), cfg: client.Config{
			Provider: home.Info(), Stock: client.Stock{OneTime: 16, LastResort: 2}, Spread: -1,
		}})
	}
	each(p, "register", p.users, func(ctx context.Context, u *user) error {
		cfg := u.cfg
		cfg.Dir = filepath.Join(p.dir, u.name, "1")
		c, err := client.Register(ctx, cfg, u.name)
		if err != nil {
			return err
		}
		p.t.Cleanup(func() { p.shut(u.name, c) })
		u.user, u.devices = c.User(), []*device{{name: u.name + "/1", c: c}}
		return nil
	})
	var early []*user
	for i, u := range p.users {
		if i < late {
			early = append(early, u)
		}
	}
	p.link(early)
	p.link(p.users[:4]) // a third one
}

// link gives each of the users one more device.
func (p *play) link(some []*user) {
	each(p, "link", some, func(ctx context.Context, u *user) error {
		cfg := u.cfg
		name := fmt.Sprintf("%s/%d", u.name, len(u.devices)+1)
		cfg.Dir = filepath.Join(p.dir, name)
		c, err := client.Link(ctx, cfg, u.user)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		p.t.Cleanup(func() { p.shut(name, c) })
		if err := letIn(ctx, u.devices[0].c, c); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		d := &device{name: name, c: c, came: make(map[*conversation]int)}
		for _, g := range p.groups {
			d.came[g] = len(g.said)
		}
		u.devices = append(u.devices, d)
		return nil
	})
}

func (p *play) shut(name string, c *client.Client) {
	if err := c.Close(); err != nil {
		p.t.Errorf("%s: close: %v", name, err)
	}
}

// letIn approves a new device at an old one and waits until it is linked.
func letIn(ctx context.Context, old, added *client.Client) error {
	code, err := added.LinkCode(ctx)
	if err != nil {
		return err
	}
	if err := old.ApproveDevice(ctx, code); err != nil {
		return err
	}
	for code != "" {
		if err := errors.Join(added.Sync(ctx), old.Sync(ctx)); err != nil {
			return err
		}
		if code, err = added.LinkCode(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

func (p *play) linkLate() {
	p.link(p.users[late:])
	p.settle("late devices know all groups", p.joined)
}

// connectAll connects each user with the next and the one three further on: from one domain to the next, and within one.
func (p *play) connectAll() {
	each(p, "connect", p.users, func(ctx context.Context, u *user) error {
		i := slices.Index(p.users, u)
		for _, step := range []int{1, 3} {
			if err := p.ask(ctx, u.devices[0], p.users[(i+step)%users].user); err != nil {
				return err
			}
		}
		return nil
	})
	p.settle("all are connected", func(ctx context.Context) (string, error) {
		for i, u := range p.users {
			d := u.devices[i%len(u.devices)] // not always the one that registered
			requests, err := d.c.Requests(ctx)
			if err != nil {
				return "", err
			}
			for _, r := range requests {
				switch err := d.c.Accept(ctx, r.ID); {
				case errors.Is(err, client.ErrBusy):
					p.t.Logf("%s accepts: %v", d.name, err) // it tries again by itself
				case err != nil:
					return "", fmt.Errorf("%s accepts: %w", d.name, err)
				}
			}
		}
		for i, u := range p.users {
			for _, step := range []int{1, 3, users - 1, users - 3} {
				want := client.Contact{User: p.users[(i+step)%users].user, State: client.ContactConnected}
				for _, d := range u.devices {
					contacts, err := d.c.Contacts(ctx)
					if err != nil {
						return "", err
					}
					if !slices.Contains(contacts, want) {
						return fmt.Sprintf("%s's contact %s; it has %v", d.name, p.users[(i+step)%users].name, describe(p, contacts)), nil
					}
				}
			}
		}
		return "", nil
	})
}

// ask asks for a connection; a domain that has just started may not be known yet.
func (p *play) ask(ctx context.Context, d *device, whom mimimi.User) error {
	for {
		err := d.c.Connect(ctx, whom)
		if err == nil || ctx.Err() != nil || errors.Is(err, client.ErrUnknownUser) || errors.Is(err, client.ErrIdentity) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// makeGroups makes all groups, each by another device, with two to four contacts of its maker.
func (p *play) makeGroups() {
	for i := range groups {
		maker := p.users[i%users]
		g := &conversation{name: fmt.Sprintf("group-%02d", i), members: []*user{maker}}
		steps := []int{1, 3, users - 1, users - 3}
		p.dice.Shuffle(len(steps), func(a, b int) { steps[a], steps[b] = steps[b], steps[a] })
		for _, s := range steps[:2+p.dice.IntN(3)] {
			g.members = append(g.members, p.users[(i+s)%users])
		}
		p.groups = append(p.groups, g)
	}
	each(p, "make groups", p.groups, func(ctx context.Context, g *conversation) error {
		maker := g.members[0]
		d := maker.devices[len(g.name+g.members[1].name)%len(maker.devices)]
		id, err := d.c.CreateGroup(ctx, g.name)
		if err != nil {
			return fmt.Errorf("create: %w", err)
		}
		for {
			var whom []mimimi.User
			for _, m := range g.members[1:] {
				whom = append(whom, m.user)
			}
			err := d.c.Add(ctx, id, whom...)
			if err == nil || errors.Is(err, client.ErrMember) {
				break
			}
			if !errors.Is(err, client.ErrBusy) && !errors.Is(err, client.ErrNotReady) || ctx.Err() != nil {
				return fmt.Errorf("add: %w", err)
			}
			if err := d.c.Sync(ctx); err != nil {
				return err
			}
		}
		if _, err := d.c.Send(ctx, id, []byte(g.name)); err != nil { // by this the members' first devices know it
			return err
		}
		return d.c.SetGroupName(ctx, id, g.name)
	})
	p.settle("all are in their groups", p.joined)
}

// nameGroups lets each user's first device label the groups whose first message it has; the others learn the label from it.
func (p *play) nameGroups(ctx context.Context) error {
	for _, u := range p.users {
		d := u.devices[0]
		all, err := d.c.Groups(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(all, func(g client.Group) bool { return g.Name == "" }) {
			continue
		}
		events, err := allEvents(ctx, d)
		if err != nil {
			return err
		}
		for _, g := range all {
			i := slices.IndexFunc(events, func(e client.Event) bool { return e.Kind == client.EventMessage && e.Group == g.ID })
			if g.Name != "" || i < 0 {
				continue
			}
			if err := d.c.SetGroupName(ctx, g.ID, string(events[i].Body)); err != nil {
				return err
			}
		}
	}
	return nil
}

// local finds a conversation at a device.
func (p *play) local(ctx context.Context, d *device, g *conversation) (string, error) {
	all, err := d.c.Groups(ctx)
	if err != nil {
		return "", err
	}
	for _, x := range all {
		if x.State == client.GroupActive && x.Name == g.name {
			return x.ID, nil
		}
	}
	return "", nil
}

// joined says which device does not yet know a group as it is: everybody in it, with all devices, identified.
func (p *play) joined(ctx context.Context) (string, error) {
	if err := p.nameGroups(ctx); err != nil {
		return "", err
	}
	for _, g := range p.groups {
		for _, u := range g.members {
			for _, d := range u.devices {
				if d.away {
					continue
				}
				id, err := p.local(ctx, d, g)
				if err != nil {
					return "", err
				}
				if id == "" {
					return g.name + " at " + d.name, nil
				}
				members, err := d.c.Members(ctx, id)
				if errors.Is(err, client.ErrNotReady) {
					return g.name + " is not ready at " + d.name, nil
				}
				if err != nil {
					return "", err
				}
				if len(members) != len(g.members) {
					return fmt.Sprintf("%d of %d members of %s at %s", len(members), len(g.members), g.name, d.name), nil
				}
				for _, m := range members {
					i := slices.IndexFunc(g.members, func(u *user) bool { return u.user == m.User })
					switch {
					case i < 0 || !m.Identified:
						return fmt.Sprintf("a member's identity in %s at %s", g.name, d.name), nil
					case m.Clients != len(g.members[i].devices):
						return fmt.Sprintf("%d of %d devices of %s in %s at %s", m.Clients, len(g.members[i].devices), g.members[i].name, g.name, d.name), nil
					}
				}
			}
		}
	}
	return "", nil
}
