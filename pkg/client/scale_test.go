package client_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"mimimi.example/cmd/mimimi/domain"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/redeem/redeemtest"
)

// BenchmarkThousand fills a group with 1,000 leaves through all services, lets it talk, removes a member and lets one in by an invitation. It prints time and bytes
// of each step. Every leaf is a registered client's, with its own KeyPackages and queue; docs/benchmarks.md says how to read it.
func BenchmarkThousand(b *testing.B) {
	for b.Loop() {
		playLarge(b, 1000, 200, 464)
	}
}

// TestSixtyFour is BenchmarkThousand in seconds.
func TestSixtyFour(t *testing.T) { playLarge(t, 64, 24, 56) }

// crowd is a large group in the making: alice, who acts, and others of two domains who are added in commits of a batch. An adder adds two batches, for which
// a week's quota is enough; then another member goes on.
type crowd struct {
	tb      testing.TB
	w       *world
	rows    []row
	alice   *person
	adder   *client.Client  // alice, or a member
	wire    *client.Traffic // the adder's, or whoever's acts alone
	members []*client.Client
	batch   int
	added   int
	group   string
}

// batchesEach is how many batches one adder adds.
const batchesEach = 2

// row is a line of the table.
type row struct {
	step           string
	time           time.Duration
	processor      time.Duration // of everybody: clients, services and NATS are one process
	up, down, disk int64
}

// playLarge plays it at two domains that give each client tokens for so many claims a week.
func playLarge(tb testing.TB, leaves, batch int, claims uint16) {
	w, err := newWorld(tb.Context(), tb.TempDir(), map[mimimi.TokenOperation]uint16{
		mimimi.TokenClaim: claims, mimimi.TokenQueue: 2, mimimi.TokenUpload: 16, mimimi.TokenGroup: 8, mimimi.TokenConnect: 8,
	})
	if err != nil {
		tb.Fatal(err)
	}
	c := &crowd{tb: tb, w: w, batch: batch}
	tb.Cleanup(func() { c.must("stop", w.stop(context.Background())) })
	defer c.print()
	c.step("register alice: certificate, queue, tokens, upload", func() { c.alice = c.person(w.a, "alice") })
	dave := c.person(w.b, "dave")
	c.step("register the others", func() { c.populate(leaves - 2) }) // alice and dave are leaves too
	c.act(c.alice.c)
	c.step("create", func() { c.group, err = c.alice.c.CreateGroup(c.ctx(), "crowd") })
	c.must("create", err)

	var watchers []*member
	adder := &member{c: c.alice.c, group: c.group}
	for c.added < len(c.members) {
		if n := len(watchers); n > 0 && n%batchesEach == 0 {
			c.sync("another goes on", watchers[n-1].c)
			adder = watchers[n-1]
			c.act(adder.c)
		}
		watchers = append(watchers, c.addBatch(adder))
	}
	c.act(c.alice.c)
	c.sync("alice catches up", c.alice.c)
	c.all(c.alice.c, c.group, leaves-1)
	c.talk(watchers)
	c.remove(watchers)
	c.join(dave, leaves-1, watchers)
}

// act makes somebody the one whose traffic is counted.
func (c *crowd) act(who *client.Client) { c.adder, c.wire = who, client.Meter(who) }

// acts says whether the i-th of the crowd takes part later: the last one of each batch enters, and some of these go on to add others.
func (c *crowd) acts(i int) bool { return (i+1)%c.batch == 0 || i == len(c.members)-1 }

func (c *crowd) ctx() context.Context { return c.tb.Context() }

func (c *crowd) must(what string, err error) {
	c.tb.Helper()
	if err != nil {
		c.tb.Fatalf("%s: %v", what, err)
	}
}

// member is one of the crowd that takes part.
type member struct {
	c     *client.Client
	group string
	seen  uint64
}

// person registers somebody whose state is in a file, as it is in an app.
func (c *crowd) person(d *domain.Domain, name string) *person {
	c.tb.Helper()
	cfg := client.Config{Dir: c.tb.TempDir(), Provider: d.Info(), Stock: client.Stock{OneTime: 2, LastResort: 1}, Spread: -1}
	cl, err := client.Register(c.ctx(), cfg, fmt.Sprintf("%s-%d", name, time.Now().UnixNano()))
	c.must("register", err)
	c.tb.Cleanup(func() {
		if err := cl.Close(); err != nil {
			c.tb.Errorf("close: %v", err)
		}
	})
	return &person{name: name, cfg: cfg, c: cl}
}

// populate registers n users of the two domains, and makes each a contact of who will add it.
func (c *crowd) populate(n int) {
	c.members = make([]*client.Client, n)
	run := fmt.Sprint(time.Now().UnixNano())
	register := func(ctx context.Context, i int) (err error) {
		d := []*domain.Domain{c.w.a, c.w.b}[i%2]
		cfg := client.Config{Store: newMemory(), Provider: d.Info(), Stock: client.Stock{OneTime: 1, LastResort: 1}, Spread: -1}
		if !c.acts(i) {
			if err := errors.Join(fill(cfg.Store, d, mimimi.TokenQueue), fill(cfg.Store, d, mimimi.TokenUpload)); err != nil {
				return err
			}
		}
		c.members[i], err = client.Register(ctx, cfg, "m"+run+"-"+strconv.Itoa(i))
		return err
	}
	g, ctx := errgroup.WithContext(c.ctx())
	g.SetLimit(4)
	for i := range n {
		if c.acts(i) { // one at a time: each takes two seconds of signing
			c.must("populate", register(c.ctx(), i))
		} else {
			g.Go(func() error { return register(ctx, i) })
		}
	}
	c.must("populate", g.Wait())
	g, ctx = errgroup.WithContext(c.ctx())
	g.SetLimit(4)
	for i, m := range c.members {
		g.Go(func() error {
			adder := c.alice.c
			if first := i / (c.batch * batchesEach) * c.batch * batchesEach; first > 0 {
				adder = c.members[first-1]
			}
			if err := client.Acquaint(ctx, adder, m); err != nil {
				return err
			}
			client.Rest(m)
			return nil
		})
	}
	c.must("acquaint", g.Wait())
	c.tb.Cleanup(func() {
		for _, m := range c.members {
			if err := m.Close(); err != nil {
				c.tb.Errorf("close: %v", err)
			}
		}
	})
}

// fill gives a client that does nothing but hold a queue one token for an operation of its own domain. A whole quota for each would be half an hour of signing.
func fill(s client.Store, d *domain.Domain, o mimimi.TokenOperation) error {
	name, now, seed := d.Info().Domain, time.Now(), make([]byte, 32)
	_, _ = rand.Read(seed) // never fails
	return client.FillPurse(s, o, name, now, [][]byte{redeemtest.Token(o, name, name, now, seed)})
}

// addBatch adds some by one commit, and returns the last of them, who enters by its Welcome.
func (c *crowd) addBatch(by *member) *member {
	batch := c.members[c.added:min(c.added+c.batch, len(c.members))]
	var users []mimimi.User
	for _, m := range batch {
		users = append(users, m.User())
	}
	name := fmt.Sprintf("add %d to %d", len(batch), c.added+1)
	before := c.delivered()
	var err error
	c.step(name, func() { err = by.c.Add(c.ctx(), by.group, users...) })
	c.must(name, err)
	c.step("  … until all are told", func() { c.await(before + c.added + len(batch)) })
	c.added += len(batch)
	last := &member{c: batch[len(batch)-1]}
	wire := client.Meter(last.c)
	r := c.timed("  … one newcomer enters", func() { c.enter(last) })
	r.up, r.down = wire.Up.Load(), wire.Down.Load()
	c.rows = append(c.rows, r)
	c.step("  … the others confirm", func() { c.confirm(batch, by, last) })
	c.sync("the adder hears of it", by.c)
	return last
}

// enter syncs a newcomer until it is in.
func (c *crowd) enter(m *member) {
	for range 10 {
		c.must("enter", m.c.Sync(c.ctx()))
		groups, err := m.c.Groups(c.ctx())
		c.must("groups", err)
		if len(groups) == 1 && groups[0].State == client.GroupActive {
			m.group = groups[0].ID
			return
		}
	}
	c.tb.Fatal("a newcomer does not come in")
}

// confirm makes queues take the group's entries, as they do for clients that have entered it.
func (c *crowd) confirm(batch []*client.Client, by, but *member) {
	g, ctx := errgroup.WithContext(c.ctx())
	g.SetLimit(4)
	for _, m := range batch {
		if m == but.c {
			continue
		}
		g.Go(func() error {
			defer client.Rest(m)
			return client.ConfirmGroup(ctx, m, by.c, by.group)
		})
	}
	c.must("confirm", g.Wait())
}

// talk lets alice and a member say something.
func (c *crowd) talk(watchers []*member) {
	const messages = 20
	before := c.delivered()
	c.step(fmt.Sprintf("alice says %d things", messages), func() {
		for i := range messages {
			_, err := c.alice.c.Send(c.ctx(), c.group, fmt.Appendf(nil, "thing %d", i))
			c.must("send", err)
		}
	})
	c.step("  … until all are told", func() { c.await(before + messages*(c.added+1)) })
	for _, m := range watchers {
		c.sync("  … one member reads all of it", m.c)
		if got := c.heard(m); len(got) != messages {
			c.tb.Fatalf("a member has read %d things, want %d", len(got), messages)
		}
	}
	c.sync("alice sees her own", c.alice.c)
	before = c.delivered()
	speaker := watchers[0]
	c.step("another member says something", func() {
		_, err := speaker.c.Send(c.ctx(), speaker.group, []byte("well"))
		c.must("send", err)
	})
	c.step("  … until all are told", func() { c.await(before + c.added + 1) })
	c.sync("  … alice reads it", c.alice.c)
	if e := c.events(c.alice.c, client.EventMessage); len(e) != 1 || string(e[0].Body) != "well" || e[0].User != speaker.c.User() {
		c.tb.Fatalf("alice has read %d things, want what the other member said", len(e))
	}
}

// remove removes the last but one of the crowd.
func (c *crowd) remove(watchers []*member) {
	gone := c.members[len(c.members)-2]
	before := c.delivered()
	c.step("remove one", func() { c.must("remove", c.alice.c.Remove(c.ctx(), c.group, gone.User())) })
	c.step("  … until all are told", func() { c.await(before + c.added + 1) })
	c.sync("  … one member applies it", watchers[0].c)
	c.sync("alice hears of it", c.alice.c)
	if events := c.events(watchers[0].c, client.EventRemoved); len(events) != 1 || events[0].User != gone.User() {
		c.tb.Fatalf("a member saw %d removals, want that of one", len(events))
	}
}

// join lets dave in by an invitation of alice's.
func (c *crowd) join(dave *person, leaves int, watchers []*member) {
	var link, id string
	var err error
	c.step("invite", func() { link, err = c.alice.c.Invite(c.ctx(), c.group, client.InviteOptions{}) })
	c.must("invite", err)
	wire := client.Meter(dave.c)
	r := c.timed("join from outside: the joiner's commit", func() { id, err = dave.c.Join(c.ctx(), link) })
	r.up, r.down = wire.Up.Load(), wire.Down.Load()
	c.rows = append(c.rows, r)
	c.must("join", err)
	in := func() bool {
		groups, err := dave.c.Groups(c.ctx())
		c.must("groups", err)
		return slices.ContainsFunc(groups, func(g client.Group) bool { return g.ID == id && g.State == client.GroupActive })
	}
	c.step("  … until the inviter has let it in", func() {
		for deadline := time.Now().Add(5 * time.Minute); !in(); {
			c.must("alice", c.alice.c.Sync(c.ctx()))
			c.must("dave", dave.c.Sync(c.ctx()))
			if time.Now().After(deadline) {
				c.tb.Fatal("dave does not come in")
			}
		}
	})
	c.all(dave.c, id, leaves)
	before := c.delivered()
	_, err = dave.c.Send(c.ctx(), id, []byte("hello"))
	c.must("send", err)
	c.step("the joiner says something, until all are told", func() { c.await(before + leaves) })
	m := watchers[len(watchers)-1]
	c.sync("  … one member applies all of it and reads", m.c)
	if got := c.heard(m); len(got) == 0 || got[len(got)-1] != "hello" {
		c.tb.Fatal("a member has not read what the joiner said")
	}
}

// all checks that somebody sees so many members, all of them identified.
func (c *crowd) all(who *client.Client, group string, want int) {
	c.tb.Helper()
	all, err := who.Members(c.ctx(), group)
	c.must("members", err)
	if len(all) != want || slices.ContainsFunc(all, func(m client.GroupMember) bool { return !m.Identified }) {
		c.tb.Fatalf("somebody sees %d members, want %d, all identified", len(all), want)
	}
}

func (c *crowd) events(cl *client.Client, kind client.EventKind) (found []client.Event) {
	for after := uint64(0); ; {
		all, err := cl.Events(c.ctx(), after, 0)
		c.must("events", err)
		if len(all) == 0 {
			return found
		}
		for _, e := range all {
			after = e.Seq
			if e.Kind == kind {
				found = append(found, e)
			}
		}
	}
}

// heard returns what a member has read since it was asked before.
func (c *crowd) heard(m *member) (all []string) {
	for _, e := range c.events(m.c, client.EventMessage) {
		if e.Seq > m.seen {
			m.seen = e.Seq
			all = append(all, string(e.Body))
		}
	}
	return all
}

// sync is a step in which somebody takes what waits.
func (c *crowd) sync(name string, who *client.Client) {
	c.rows = append(c.rows, c.timed(name, func() { c.must(name, who.Sync(c.ctx())) }))
}

// timed does something and notes how long it took, and how much of the processors: a machine with other work beside changes the second little.
func (c *crowd) timed(name string, f func()) row {
	t, used := time.Now(), c.used()
	f()
	return row{step: name, time: time.Since(t), processor: c.used() - used}
}

// used is the processor time of this process.
func (c *crowd) used() time.Duration {
	var u syscall.Rusage
	c.must("rusage", syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// step does something and notes how long it took, what alice sent and received, and what the domains have stored since.
func (c *crowd) step(name string, f func()) {
	var up, down int64
	if c.wire != nil {
		up, down = c.wire.Up.Load(), c.wire.Down.Load()
	}
	disk := c.stored()
	r := c.timed(name, f)
	if c.wire != nil {
		r.up, r.down = c.wire.Up.Load()-up, c.wire.Down.Load()-down
	}
	r.disk = c.stored() - disk
	c.rows = append(c.rows, r)
}

// stored is what the domains hold on disk.
func (c *crowd) stored() (n int64) {
	err := filepath.WalkDir(c.w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // a file that has just gone
		}
		if info, err := d.Info(); err == nil && strings.HasSuffix(path, ".blk") {
			n += info.Size()
		}
		return nil
	})
	c.must("walk", err)
	return n
}

// delivered is how many entries the providers have written to queues.
func (c *crowd) delivered() (n int) {
	for _, d := range []*domain.Domain{c.w.a, c.w.b} {
		c.must("metrics", d.Metrics(func(service string, scrape []byte) {
			for s := bufio.NewScanner(bytes.NewReader(scrape)); s.Scan(); {
				if value, ok := strings.CutPrefix(s.Text(), "provider_deliveries_total"); ok {
					f := strings.Fields(value)
					k, err := strconv.ParseFloat(f[len(f)-1], 64)
					c.must("metrics", err)
					n += int(k)
				}
			}
		}))
	}
	return n
}

// await waits until so many entries are written to queues.
func (c *crowd) await(want int) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Minute); ; <-tick.C {
		got := c.delivered()
		if got >= want {
			return
		}
		if time.Now().After(deadline) {
			c.tb.Fatalf("%d entries were written to queues, want %d", got, want)
		}
	}
}

// print shows the table.
func (c *crowd) print() {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "step\ttime\tprocessors\tsent\treceived\tstored by all services\t\n")
	for _, r := range c.rows {
		fmt.Fprintf(w, "%s\t%v\t%v\t%s\t%s\t%s\t\n", r.step, r.time.Round(100*time.Microsecond), r.processor.Round(100*time.Microsecond), size(r.up), size(r.down), size(r.disk))
	}
	_ = w.Flush() // into memory
	if !c.tb.Failed() && testing.Short() {
		return
	}
	fmt.Fprintf(os.Stderr, "%s", b.String())
}

func size(n int64) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/1024)
}
