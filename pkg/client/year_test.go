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

// diary is what is said in the year's group, and who is to have read it in the end: every device that was in the group.
type diary struct {
	y       *year
	devices []*person            // all that are in the group
	away    func(p *person) bool // those that are not online now
	names   map[*person]string   // each device's name of the group
	said    map[*person][]string
	kept    map[*person]*upkeep
}

// group is the group's name on a device, empty before it is there: the one group of that label, or, where no label was given, the first.
func (d *diary) group(p *person) string {
	if d.names[p] == "" {
		if d.names[p] = p.named("friends"); d.names[p] == "" && len(p.groups()) == 1 {
			d.names[p] = p.group()
		}
	}
	return d.names[p]
}

func (d *diary) online() []*person {
	return slices.DeleteFunc(slices.Clone(d.devices), d.away)
}

// complete says whether everybody who is online has the whole group, with so many users.
func (d *diary) complete(users int) func() bool {
	return func() bool {
		return !slices.ContainsFunc(d.online(), func(p *person) bool {
			return d.group(p) == "" || p.members(d.group(p)) != users || p.clients(d.group(p)) != len(d.devices)
		})
	}
}

// say has one device say something, and waits until all that are online have read it, and what they missed, and have nothing more to do.
func (d *diary) say(speaker *person, text string) {
	t, online := d.y.t, d.online()
	t.Helper()
	speaker.send(d.group(speaker), text)
	for _, p := range d.devices {
		d.said[p] = append(d.said[p], text)
	}
	untilEvery(t, 20*time.Millisecond, text, func() bool {
		return !slices.ContainsFunc(online, func(p *person) bool {
			return client.Owes(p.c) || !slices.Contains(p.contents(d.group(p)), text)
		})
	}, online...)
	for _, p := range online {
		if d.kept[p] == nil {
			d.kept[p] = new(upkeep)
		}
		d.kept[p].look(p, d.group(p), d.y.at)
	}
}

// TestYear lives through a year, five days at a time, with people who have one, two and three devices: everything that has an end is replaced in time, whoever was away comes
// back and has all that was said, whoever comes late comes in, and in the end nobody is unidentified and nothing is stuck. Bob's first device, which does for all of his
// what one of them has to do, is away for a hundred days and more; Alice links a tablet in the summer and removes her phone in the autumn.
func TestYear(t *testing.T) {
	y := newYear(t)
	alice, bob, carol, erin := y.register(y.c, "alice"), y.register(y.d, "bob"), y.register(y.d, "carol"), y.register(y.c, "erin")
	phone, laptop := alice.addDevice("phone"), bob.addDevice("laptop")
	for _, p := range []*person{bob, carol, erin} {
		connect(t, alice, p)
	}
	y.at.pass(8 * day) // the week's tokens went into the connections
	passed := 0
	d := &diary{y: y, devices: []*person{alice, phone, bob, laptop, carol, erin}, names: make(map[*person]string), said: make(map[*person][]string), kept: make(map[*person]*upkeep),
		away: func(p *person) bool {
			return p == erin && passed > 100 && passed < 250 || p == bob && passed > 60 && passed < 175
		}}
	until(t, "new tokens", func() bool { return true }, d.devices...)
	group, err := alice.c.CreateGroup(t.Context(), "friends")
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := alice.c.Add(t.Context(), group, users(bob, carol, erin)...); err != nil {
		t.Fatalf("add: %v", err)
	}
	people := 4
	until(t, "join", d.complete(people), d.devices...)

	var dave, tablet *person
	removed := false
	made := make(map[string]bool)
	for start, n := y.at.now(), 0; y.at.since(start) < 372; n++ {
		y.at.pass(5 * day)
		passed = y.at.since(start)
		switch {
		case tablet == nil && passed > 180:
			tablet = alice.addDevice("tablet", phone)
			d.devices = append(d.devices, tablet)
			until(t, "tablet in", d.complete(people), d.online()...)
		case dave == nil && passed > 270: // dave comes in the ninth month
			dave = y.register(y.c, "dave")
			connect(t, dave, bob)
			if err := bob.c.Add(t.Context(), d.group(bob), users(dave)...); err != nil {
				t.Fatalf("add dave: %v", err)
			}
			d.devices, people = append(d.devices, dave), people+1
			until(t, "dave in", d.complete(people), d.online()...)
		case !made["spring"] && passed > 90: // bob's first device has KeyPackages at the store
			made["spring"] = true
			d.begin("spring", laptop, alice)
		case !made["summer"] && passed > 165: // and none any more, nor a queue
			made["summer"] = true
			d.begin("summer", laptop, alice)
		case !removed && passed > 300:
			removed = true
			if err := alice.c.RemoveDevice(t.Context(), client.DeviceID(phone.c)); err != nil {
				t.Fatalf("remove the phone: %v", err)
			}
			d.devices = slices.DeleteFunc(d.devices, func(p *person) bool { return p == phone })
			until(t, "phone out", d.complete(people), d.online()...)
		}
		online := d.online()
		d.say(online[n%len(online)], fmt.Sprintf("day %d", passed))
	}
	if err := phone.c.Sync(t.Context()); !errors.Is(err, client.ErrDeviceRemoved) {
		t.Errorf("the phone that was removed syncs: %v", err)
	}
	d.checkEnd(people, phone)
	for _, p := range []*person{alice, laptop, carol} {
		d.kept[p].check(t, p.name)
	}
	for _, name := range []string{"spring", "summer"} {
		if !inAll(name, 2, 4, bob, laptop, alice, tablet)() {
			t.Errorf("somebody is not in the group that was made in %s, while bob's first device was away, or there was no tablet", name)
		}
	}
	for p, q := range map[*person]*person{alice: tablet, bob: laptop} {
		if client.OwnKey(p.c) != client.OwnKey(q.c) || !bob.connected(alice) {
			t.Errorf("%s and %s do not have one connection key", p.name, q.name)
		}
	}
	y.at.pass(2 * time.Hour) // each looks at what the others left of the stock
	for range 2 {
		for _, p := range d.devices {
			p.sync()
		}
	}
	checkSets(t, "after a year", alice, tablet)
	checkSets(t, "after a year", bob, laptop)

	// Whoever was in from the start can still be added, with all devices: by a key told over the year, from a stock made anew.
	if _, err = carol.c.CreateGroup(t.Context(), "a year later"); err != nil {
		t.Fatalf("create: %v", err)
	}
	again := carol.named("a year later")
	if err := carol.c.Add(t.Context(), again, users(alice)...); err != nil {
		t.Fatalf("add after a year: %v", err)
	}
	if n := carol.clients(again); n != 3 {
		t.Errorf("the group has %d clients, want carol's and alice's two", n)
	}
	if err := alice.c.Disconnect(t.Context(), erin.c.User()); err != nil {
		t.Fatalf("disconnect after a year: %v", err)
	}
	until(t, "disconnect", func() bool { return erin.disconnected(alice) && tablet.disconnected(erin) }, erin, alice, tablet)
	if _, err := erin.c.Send(t.Context(), d.group(erin), []byte("bye")); err != nil && !errors.Is(err, client.ErrNotReady) {
		t.Errorf("send after the disconnect: %v", err)
	}
}

// begin makes a group of two users' devices that are online.
func (d *diary) begin(name string, p, q *person) {
	t := d.y.t
	t.Helper()
	if _, err := p.c.CreateGroup(t.Context(), name); err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := p.c.Add(t.Context(), p.named(name), users(q)...); err != nil {
		t.Fatalf("add: %v", err)
	}
	until(t, name, func() bool { return q.groupOf(2) != "" }, q, p)
	if err := q.c.SetGroupName(t.Context(), q.groupOf(2), name); err != nil {
		t.Fatalf("name: %v", err)
	}
}

// checkEnd looks at what everybody has in the end. former is a device that is in the group no more.
func (d *diary) checkEnd(people int, former *person) {
	t := d.y.t
	t.Helper()
	for p, u := range d.kept {
		t.Logf("%s: the leaf was made anew %d times (%d days at most), the credential replaced %d times, %d certificates, %d queue keys, %d issuer keys, %d connection keys",
			p.name, u.leaves, u.oldest, u.credentials, u.certificates, u.queueKeys, u.issuerKeys, u.keys)
	}
	for p, want := range d.said {
		group := d.group(p)
		if p != former && (p.members(group) != people || p.clients(group) != len(d.devices)) {
			t.Errorf("%s: %d members with %d clients are identified, want %d with %d", p.name, p.members(group), p.clients(group), people, len(d.devices))
		}
		if got := p.contents(group); !slices.Equal(got, want) {
			t.Errorf("%s has %d messages %q, want %d %q", p.name, len(got), got, len(want), want)
		}
		for _, e := range p.events(client.EventWarning, client.EventRemoved, client.EventLeft, client.EventRevoked, client.EventDisconnected) {
			t.Errorf("%s was told of %s: %s", p.name, e.Kind, e.Text)
		}
	}
}

// check says whether everything was replaced as often as a year wants it, on a device that was there for all of it.
func (u *upkeep) check(t *testing.T, name string) {
	t.Helper()
	if u.oldest > 60 || u.leaves < 6 {
		t.Errorf("%s: the leaf was made anew %d times, and was %d days old", name, u.leaves, u.oldest)
	}
	if u.certificates < 1 || u.certificates > 2 || u.credentials < 1 || u.credentials > 2 {
		t.Errorf("%s: %d certificates and %d credentials, want one or two of each", name, u.certificates, u.credentials)
	}
	if u.issuerKeys < 50 {
		t.Errorf("%s: issuer keys changed %d times, want once a week", name, u.issuerKeys)
	}
	if u.keys < 11 || u.keys > 14 || u.queueKeys < 5 {
		t.Errorf("%s: %d connection keys, want about 12, and one more for a device that was removed; leaves under %d queue keys, want 5 at least", name, u.keys, u.queueKeys)
	}
}
