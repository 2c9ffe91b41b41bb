package fanout

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/service"
)

// start runs one replica; stop ends it and waits.
func (w *world) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	env := &service.Env{Bus: w.domain.Bus("fanout"), Now: time.Now}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := Run(ctx, &Config{Domain: domainA}, env); err != nil {
			w.Errorf("run: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	w.Cleanup(stop)
	return stop
}

// await reads until done or a minute has passed.
func (w *world) await(what string, done func() bool) {
	w.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			w.Fatalf("%s: not within a minute", what)
		}
	}
}

// Two replicas, each stopped and started once while six groups go on: every entry is delivered, once by its id, each group's in order.
func TestFailOver(t *testing.T) {
	w := newWorld(t)
	stops := []func(){w.start(), w.start()}
	var groups []*script
	want := map[string]int{}
	for i := range 6 {
		s := w.group(fmt.Sprint("f", i))
		s.create(0, leaf(0, domainA), leaf(1, domainB))
		groups = append(groups, s)
	}
	sent := func() int {
		n := 0
		for _, k := range want {
			n += k
		}
		return n
	}
	for round := range 3 {
		for i := range 60 {
			s := groups[i%6]
			if i%10 == 9 {
				s.commit(uint64(round*60 + i))
			} else {
				s.at += 60 // so that epochs of a while ago are over
				s.put(currentMessage(s, i))
			}
			want[string(s.id)]++
		}
		w.await("deliveries", func() bool { return len(w.outbox(domainB)) >= sent() })
		if round < 2 {
			stops[round]()
			stops[round] = w.start()
		}
	}
	for _, domain := range []string{domainA, domainB} {
		last, count, ids := map[string]uint64{}, map[string]int{}, map[string]bool{}
		for _, d := range w.outbox(domain) {
			id := string(d.GetDelivery().GetGroupId())
			if d.GetDelivery().GetPrevious() != last[id] {
				t.Errorf("%s: a delivery is out of order, or one is missing before it", domain)
			}
			if ids[string(d.GetId())] {
				t.Errorf("%s: a delivery is there twice", domain)
			}
			last[id], ids[string(d.GetId())] = d.GetDelivery().GetSequence(), true
			count[id]++
		}
		for id, n := range want {
			if count[id] != n {
				t.Errorf("%s: %d deliveries of a group, want %d", domain, count[id], n)
			}
		}
	}
}

// currentMessage is a message of the epoch that the group's last commit began.
func currentMessage(s *script, i int) *v1.GroupEntry {
	epoch := uint64(0)
	for _, m := range slices.Backward(s.entries) {
		if e, err := decode(m.Data); err == nil && e.GetCommit() != nil {
			epoch = e.GetCommit().GetEpoch()
			break
		}
	}
	return &v1.GroupEntry{Entry: &v1.GroupEntry_Application{Application: &v1.ApplicationEntry{Epoch: epoch, Message: fmt.Append(nil, i)}}}
}

// What cannot be read goes to DEAD with its reason and nothing of its content, and neither its group nor any other waits for it.
func TestDead(t *testing.T) {
	w := newWorld(t)
	w.start()
	s := w.group("one")
	s.create(0, leaf(0, domainB))
	s.raw(s.hub.GroupMessages(s.id), []byte("canary"), bus.PublishOptions{})
	s.message(0, "end")
	w.await("the message after", func() bool { return len(w.outbox(domainB)) == 1 })
	f, admin := w.domain.Bus("fanout"), w.domain.Bus("admin")
	var dead []*bus.Message
	w.await("the dead letter", func() bool {
		var err error
		if dead, _, err = admin.Read(t.Context(), f.Dead(), 0, 10, 1<<20); err != nil {
			t.Fatal(err)
		}
		return len(dead) > 0
	})
	if len(dead) != 1 || !strings.Contains(string(dead[0].Data), errUnreadable.Sentence) || strings.Contains(string(dead[0].Data), "canary") {
		t.Errorf("%d dead letters, the first: %s", len(dead), dead[0].Data)
	}
}

func TestConfig(t *testing.T) {
	write := func(text string) string {
		f := filepath.Join(t.TempDir(), "fanout.json")
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	good := `{"domain":"a.example","bus":{"url":"nats://127.0.0.1:4222","deployment_key_file":"key"},"cached_leaves":7}`
	cfg, err := Load(write(good))
	if err != nil || cfg.cachedLeaves() != 7 || (&Config{}).cachedLeaves() != maxCachedLeaves {
		t.Errorf("a good file: %v", err)
	}
	if _, err := Load(write(strings.Replace(good, "cached_leaves", "cache", 1))); err == nil {
		t.Error("an unknown key was taken")
	}
	_, err = Load(write(`{"domain":"A.example","cached_leaves":-1}`))
	for _, want := range []string{"domain", "bus", "cached_leaves"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a bad file: %v does not name %s", err, want)
		}
	}
}
