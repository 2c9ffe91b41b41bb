package client_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"mimimi.example/cmd/mimimi/domain"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/redeem/redeemtest"
)

const day = 24 * time.Hour

// calendar is a clock that runs on as clocks do, and can be put forward.
type calendar struct{ ahead atomic.Int64 }

func (c *calendar) now() time.Time            { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *calendar) pass(d time.Duration)      { c.ahead.Add(int64(d)) }
func (c *calendar) since(t time.Time) (d int) { return int(c.now().Sub(t) / day) }

// upkeep is what a year has brought one client, as its owner could see it.
type upkeep struct {
	leaves, credentials, certificates, queueKeys, keys int // how often each changed
	oldest                                             int // the most days that a leaf was as it was

	issuerKeys             int
	queue, credential, key string
	issuerKey              uint64
	queueKey               uint32
	certificate, refreshed time.Time
}

// look takes note of what changed in the group's own leaf and the account.
func (u *upkeep) look(p *person, group string, at *calendar) {
	first := u.refreshed.IsZero()
	queue, credential := client.OwnLeaf(p.c, group)
	if queue == "" {
		return
	}
	if queue != u.queue {
		u.queue, u.refreshed = queue, at.now()
		u.leaves++
	}
	u.oldest = max(u.oldest, at.since(u.refreshed))
	changed(&u.credential, credential, &u.credentials)
	changed(&u.key, client.OwnKey(p.c), &u.keys)
	changed(&u.certificate, client.CertificateEnd(p.c), &u.certificates)
	changed(&u.queueKey, client.SealedUnder(queue), &u.queueKeys)
	changed(&u.issuerKey, client.IssuerEpoch(p.c), &u.issuerKeys)
	if first {
		u.issuerKeys = 0
		u.leaves, u.credentials, u.keys, u.certificates, u.queueKeys = 0, 0, 0, 0, 0
	}
}

func changed[T comparable](was *T, is T, n *int) {
	if *was != is {
		*was = is
		*n++
	}
}

// fewTokens are quotas for people who do little: a year has fifty batches for each client.
var fewTokens = map[mimimi.TokenOperation]uint16{
	mimimi.TokenQueue: 1, mimimi.TokenUpload: 4, mimimi.TokenGroup: 4, mimimi.TokenClaim: 12, mimimi.TokenConnect: 8,
}

// year is two domains and some people, whose clock a test puts forward.
type year struct {
	t    *testing.T
	at   *calendar
	c, d *domain.Domain
}

func newYear(t *testing.T) *year {
	t.Helper()
	y := &year{t: t, at: new(calendar)}
	dir := t.TempDir()
	for _, d := range []struct {
		to          **domain.Domain
		name, other string
	}{{&y.c, "c.localhost", "d.localhost"}, {&y.d, "d.localhost", "c.localhost"}} {
		var err error
		*d.to, err = domain.Start(t.Context(), domain.Options{Dir: filepath.Join(dir, d.name), Domain: d.name,
			Peers: []string{filepath.Join(dir, d.other, "peer.json")}, Now: y.at.now, TokenQuotas: fewTokens, NewIssuerKey: redeemtest.IssuerKey})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := (*d.to).Stop(context.Background()); err != nil {
				t.Errorf("stop: %v", err)
			}
		})
	}
	if err := meet(filepath.Join(dir, "probe"), &world{a: y.c, b: y.d}, y.at.now); err != nil {
		t.Fatal(err)
	}
	return y
}

func (y *year) register(d *domain.Domain, name string) *person {
	y.t.Helper()
	p := &person{t: y.t, name: name, cfg: client.Config{Dir: y.t.TempDir(), Provider: d.Info(), Stock: client.Stock{OneTime: 3, LastResort: 1}, Spread: -1, Now: y.at.now}}
	c, err := client.Register(y.t.Context(), p.cfg, name)
	if err != nil {
		y.t.Fatalf("%s: register: %v", name, err)
	}
	p.use(c)
	y.t.Cleanup(p.close)
	return p
}

// TestYear lives through a year, five days at a time: everything that has an end is replaced in time, whoever was away comes back, whoever comes late
// comes in, and in the end nobody is unidentified and nothing is stuck.
func TestYear(t *testing.T) {
	y := newYear(t)
	alice, bob, carol, erin := y.register(y.c, "alice"), y.register(y.d, "bob"), y.register(y.d, "carol"), y.register(y.c, "erin")
	for _, p := range []*person{bob, carol, erin} {
		connect(t, alice, p)
	}
	y.at.pass(8 * day) // the week's tokens went into the connections
	until(t, "new tokens", func() bool { return true }, alice, bob, carol, erin)
	group, err := alice.c.CreateGroup(t.Context(), "friends")
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := alice.c.Add(t.Context(), group, users(bob, carol, erin)...); err != nil {
		t.Fatalf("add: %v", err)
	}
	people := []*person{alice, bob, carol, erin}
	until(t, "join", func() bool {
		return !slices.ContainsFunc(people, func(p *person) bool { return p.members(p.group()) != len(people) })
	}, people...)

	const step, pace = 5 * day, 20 * time.Millisecond
	start, kept, said := y.at.now(), make(map[*person]*upkeep), 0
	for n := 0; y.at.since(start) < 372; n++ {
		y.at.pass(step)
		passed := y.at.since(start)
		online := slices.DeleteFunc(slices.Clone(people), func(p *person) bool { return p == erin && passed > 100 && passed < 250 })
		if len(people) == 4 && passed > 270 { // dave comes in the ninth month
			dave := y.register(y.c, "dave")
			connect(t, dave, bob)
			if err := bob.c.Add(t.Context(), bob.group(), users(dave)...); err != nil {
				t.Fatalf("add dave: %v", err)
			}
			people, online = append(people, dave), append(online, dave)
			until(t, "dave in", func() bool {
				return !slices.ContainsFunc(online, func(p *person) bool { return p.members(p.group()) != len(people) })
			}, online...)
		}
		speaker := online[n%len(online)]
		text := fmt.Sprintf("day %d", passed)
		speaker.send(speaker.group(), text)
		said++
		untilEvery(t, pace, text, func() bool {
			return !slices.ContainsFunc(online, func(p *person) bool {
				return p.group() == "" || p != speaker && !slices.Contains(p.read(p.group()), text) || client.Owes(p.c)
			})
		}, online...)
		for _, p := range online {
			if kept[p] == nil {
				kept[p] = new(upkeep)
			}
			kept[p].look(p, p.group(), y.at)
		}
	}
	for _, p := range people {
		u := kept[p]
		t.Logf("%s: the leaf was made anew %d times (%d days at most), the credential replaced %d times, %d certificates, %d queue keys, %d issuer keys, %d connection keys",
			p.name, u.leaves, u.oldest, u.credentials, u.certificates, u.queueKeys, u.issuerKeys, u.keys)
		if p.members(p.group()) != len(people) {
			t.Errorf("%s: %d members are identified, want %d", p.name, p.members(p.group()), len(people))
		}
		for _, e := range p.events(client.EventWarning, client.EventRemoved, client.EventLeft, client.EventRevoked) {
			t.Errorf("%s was told of %s: %s", p.name, e.Kind, e.Text)
		}
	}
	for _, p := range []*person{alice, bob, carol} {
		u := kept[p]
		if u.oldest > 60 || u.leaves < 6 {
			t.Errorf("%s: the leaf was made anew %d times, and was %d days old", p.name, u.leaves, u.oldest)
		}
		if u.certificates < 1 || u.certificates > 2 || u.credentials < 1 || u.credentials > 2 {
			t.Errorf("%s: %d certificates and %d credentials, want one or two of each", p.name, u.certificates, u.credentials)
		}
		if u.issuerKeys < 50 {
			t.Errorf("%s: issuer keys changed %d times, want once a week", p.name, u.issuerKeys)
		}
		if u.keys < 11 || u.keys > 13 || u.queueKeys < 5 {
			t.Errorf("%s: %d connection keys, want about 12; leaves under %d queue keys, want 5 at least", p.name, u.keys, u.queueKeys)
		}
	}
	if n := len(bob.read(bob.group())); n < said*2/3 {
		t.Errorf("bob has read %d of %d messages", n, said)
	}
	// Whoever was in from the start can still be added: by a key told over the year, from a stock made anew.
	again, err := carol.c.CreateGroup(t.Context(), "a year later")
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := carol.c.Add(t.Context(), again, users(alice)...); err != nil {
		t.Fatalf("add after a year: %v", err)
	}
	if err := alice.c.Disconnect(t.Context(), erin.c.User()); err != nil {
		t.Fatalf("disconnect after a year: %v", err)
	}
	until(t, "disconnect", func() bool { return erin.disconnected(alice) }, erin, alice)
	if _, err := erin.c.Send(t.Context(), erin.group(), []byte("bye")); err != nil && !errors.Is(err, client.ErrNotReady) {
		t.Errorf("send after the disconnect: %v", err)
	}
}
