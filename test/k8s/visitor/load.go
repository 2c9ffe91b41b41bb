package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mimimi.example/pkg/client"
)

// ear is where a load hears words.
const ear = "127.0.0.1:7070"

// settleTime is how long what was sent may take to arrive after the last message was written: longer than a client waits at most before it tries again.
const settleTime = 4 * time.Minute

// loadFlags are load's.
type loadFlags struct {
	a, b, dir, guest string
	pairs            int
	every            time.Duration
}

// load runs pairs of people, one of each at either domain, with a group in which both write. It prints a report every second, and the last one when all has arrived.
func load(ctx context.Context, args []string) error {
	f := new(loadFlags)
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.StringVar(&f.a, "a", "", "client.json of one domain")
	flags.StringVar(&f.b, "b", "", "client.json of the other")
	flags.StringVar(&f.dir, "dir", "", "folder for the clients' state")
	flags.StringVar(&f.guest, "guest", "", "what user names end with")
	flags.IntVar(&f.pairs, "pairs", 2, "pairs of people")
	flags.DurationVar(&f.every, "every", 500*time.Millisecond, "between two messages of one person")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s, err := f.setUp(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	stop, err := s.hear(ctx)
	if err != nil {
		return err
	}
	return s.run(ctx, stop, f.every)
}

// hear takes words from tell: "begin" begins a new part, with longest times of its own; "stop" closes the channel.
func (s *stage) hear(ctx context.Context) (<-chan struct{}, error) {
	l, err := net.Listen("tcp", ear)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() }) // it ends Accept, which is all that it is for
	stop := make(chan struct{})
	end := sync.OnceFunc(func() { close(stop) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			word, err := bufio.NewReader(c).ReadString('\n')
			switch {
			case err != nil:
			case word == "begin\n":
				s.count.begin()
			case word == "stop\n":
				end()
			}
			if _, err := io.WriteString(c, "heard\n"); err != nil {
				fmt.Fprintln(os.Stderr, "visitor: answer:", err)
			}
			_ = c.Close() // everything has been said
		}
	}()
	return stop, nil
}

// tell says a word to the load that runs in the same pod.
func tell(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("tell takes one word")
	}
	d := net.Dialer{Timeout: dialTime}
	c, err := d.DialContext(ctx, "tcp", ear)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(c, args[0]+"\n"); err != nil {
		return errors.Join(err, c.Close())
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && answer != "heard\n" {
		err = errors.New("it did not hear")
	}
	return errors.Join(err, c.Close())
}

// stage is all pairs.
type stage struct {
	people []*person
	cancel context.CancelFunc
	count  *count
}

// setUp registers, connects and groups everybody.
func (f *loadFlags) setUp(ctx context.Context) (*stage, error) {
	a, err := client.LoadProviderInfo(f.a)
	if err != nil {
		return nil, err
	}
	b, err := client.LoadProviderInfo(f.b)
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(ctx)
	s := &stage{cancel: cancel, count: newCount()}
	for i := range f.pairs {
		at := [2]client.ProviderInfo{a, b}
		if i%2 == 1 { // half of the groups on either hub: a group is where its creator is
			at = [2]client.ProviderInfo{b, a}
		}
		var pair [2]*person
		for j, info := range at {
			name := fmt.Sprintf("visitor-%d-%d%s", i, j, f.guest)
			if pair[j], err = enter(run, filepath.Join(f.dir, name), info, name, s.count); err != nil {
				s.close()
				return nil, err
			}
			s.people = append(s.people, pair[j])
		}
		if err := befriend(ctx, pair[0], pair[1]); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func (s *stage) close() {
	s.cancel()
	for _, p := range s.people {
		<-p.done
		if err := p.c.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "visitor: close a client:", err)
		}
	}
}

// run lets everybody write until stop, and waits until all has arrived.
func (s *stage) run(ctx context.Context, stop <-chan struct{}, every time.Duration) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range s.people {
		g.Go(func() error { return p.write(ctx, stop, every) })
	}
	written := make(chan error, 1)
	go func() { written <- g.Wait() }()
	out := json.NewEncoder(os.Stdout)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var settled <-chan time.Time
	for {
		select {
		case err := <-written:
			if err != nil {
				return err
			}
			settled = time.After(settleTime)
			written = nil
		case <-settled:
			r := s.count.report()
			r.Done = true
			for _, p := range s.people {
				p.explain(os.Stderr)
			}
			return errors.Join(out.Encode(r), fmt.Errorf("%d messages are lost: %q", r.Sent-r.Received, s.count.missing()))
		case <-tick.C:
			r := s.count.report()
			r.Done = written == nil && r.Received == r.Sent
			if err := out.Encode(r); err != nil {
				return err
			}
			if r.Done {
				return r.verdict()
			}
		}
	}
}

// report is a line of output.
type report struct {
	Sent     int  `json:"sent"`       // messages that were written
	Received int  `json:"received"`   // that their readers have been shown
	Doubled  int  `json:"doubled"`    // that were shown more than once
	Disorder int  `json:"disorder"`   // that were shown before an earlier one of the same writer
	Median   int  `json:"median_ms"`  // from writing to reading; this and what follows since the last part began
	Most     int  `json:"most_ms"`    // the longest such time
	Silence  int  `json:"silence_ms"` // the longest time in which nobody was shown anything
	Done     bool `json:"done"`
}

func (r report) verdict() error {
	if r.Doubled > 0 || r.Disorder > 0 {
		return fmt.Errorf("%d messages were shown twice, %d out of order", r.Doubled, r.Disorder)
	}
	return nil
}

// count follows every message.
type count struct {
	mu      sync.Mutex
	sent    map[string]time.Time // guarded by mu
	shown   map[string]bool      // guarded by mu
	latest  map[string]int       // number of the last message shown, by writer; guarded by mu
	took    []time.Duration      // guarded by mu
	last    time.Time            // guarded by mu
	current report               // guarded by mu
}

func newCount() *count {
	return &count{sent: make(map[string]time.Time), shown: make(map[string]bool), latest: make(map[string]int)}
}

// wrote notes a message before it goes; reader has the rest.
func (c *count) wrote(writer string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last.IsZero() {
		c.last = time.Now()
	}
	c.sent[writer+" "+strconv.Itoa(n)] = time.Now()
	c.current.Sent++
}

// read notes that the one other member of the group was shown a message.
func (c *count) read(body []byte) error {
	var writer string
	var n int
	if _, err := fmt.Sscanf(string(body), "%s %d", &writer, &n); err != nil {
		return fmt.Errorf("a message that nobody wrote: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.sent[string(body)]
	if !ok {
		return errors.New("a message that nobody wrote")
	}
	if c.shown[string(body)] {
		c.current.Doubled++
		return nil
	}
	c.shown[string(body)] = true
	if n < c.latest[writer] {
		c.current.Disorder++
	}
	c.latest[writer] = max(n, c.latest[writer])
	now := time.Now()
	c.current.Received++
	c.took = append(c.took, now.Sub(at))
	c.current.Most = max(c.current.Most, int(now.Sub(at).Milliseconds()))
	c.current.Silence = max(c.current.Silence, int(now.Sub(c.last).Milliseconds()))
	c.last = now
	return nil
}

// begin forgets the longest times.
func (c *count) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current.Most, c.current.Silence = 0, 0
	c.took = nil
}

// missing are the messages that were not shown.
func (c *count) missing() (all []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for m := range c.sent {
		if !c.shown[m] {
			all = append(all, m)
		}
	}
	slices.Sort(all)
	return all[:min(len(all), 50)]
}

func (c *count) report() report {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.current
	if len(c.took) > 0 {
		t := slices.Sorted(slices.Values(c.took))
		r.Median = int(t[len(t)/2].Milliseconds())
	}
	return r
}
