package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"mimimi.example/pkg/client"
)

// TestManyCallers uses one Client from many goroutines at once, streams among them: everything that was sent is in the group once, and each stream yields every
// event, in order.
func TestManyCallers(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	group, err := alice.c.CreateGroup(t.Context(), "friends")
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.c.Add(t.Context(), group, bob.c.User()); err != nil {
		t.Fatal(err)
	}
	const callers, each = 6, 5
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	var work, streams sync.WaitGroup
	failed := func(what string, err error) {
		if err != nil && ctx.Err() == nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for range 2 {
		streams.Go(func() {
			want, sent := uint64(1), 0
			for e, err := range alice.c.Stream(ctx, 0) {
				if failed("stream", err); err != nil {
					continue
				}
				if e.Seq != want {
					t.Errorf("event %d came after event %d", e.Seq, want-1)
				}
				want = e.Seq + 1
				if e.Kind == client.EventSent {
					sent++
				}
				if sent == callers*each {
					return
				}
			}
			t.Errorf("a stream has seen %d of %d messages", sent, callers*each)
		})
	}
	for i := range callers {
		work.Go(func() {
			for k := range each {
				_, err := alice.c.Send(ctx, group, fmt.Appendf(nil, "%d/%d", i, k))
				failed("send", err)
				_, err = alice.c.Events(ctx, 0, 10)
				failed("events", err)
				_, err = alice.c.Members(ctx, group)
				failed("members", err)
				_, err = alice.c.Groups(ctx)
				failed("groups", err)
				_, err = alice.c.Contacts(ctx)
				failed("contacts", err)
				_, err = alice.c.Requests(ctx)
				failed("requests", err)
				_, err = alice.c.Verify(ctx, bob.c.User())
				failed("verify", err)
				_, err = alice.c.Fingerprint(ctx)
				failed("fingerprint", err)
				failed("name", alice.c.SetGroupName(ctx, group, fmt.Sprint("friends ", i)))
			}
		})
	}
	work.Go(func() { failed("sync", alice.c.Sync(ctx)) })
	work.Go(func() {
		w, err := alice.c.Watcher(ctx)
		if failed("watcher", err); err == nil {
			failed("reset", w.Reset(ctx, alice.c))
			w.Close()
		}
	})
	work.Wait()
	streams.Wait()
	until(t, "the messages", func() bool { return bob.group() != "" && len(bob.read(bob.group())) == callers*each }, bob)
	got := bob.read(bob.group())
	slices.Sort(got)
	if len(slices.Compact(got)) != callers*each {
		t.Error("bob has read something twice")
	}
}

// TestStreamEnds: a stream ends with its context, without an error, at a break, and with ErrClosed when the client is closed; calls that wait for their turn wait no
// longer than their context lives.
func TestStreamEnds(t *testing.T) {
	alice := register(t, theWorld.a, "alice")
	id, err := alice.c.CreateGroup(t.Context(), "notes")
	if err != nil {
		t.Fatal(err)
	}
	alice.send(id, "a note")
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	events := 0
	for e, err := range alice.c.Stream(ctx, 0) {
		if err != nil || e.Kind != client.EventSent {
			t.Errorf("got %s, %v", e.Kind, err)
		}
		events++
		stop()
	}
	if events != 1 {
		t.Errorf("%d events, want 1", events)
	}
	release := client.Hold(alice.c)
	for name, f := range map[string]func() error{
		"events":   func() error { _, err := alice.c.Events(ctx, 0, 0); return err },
		"contacts": func() error { _, err := alice.c.Contacts(ctx); return err },
		"members":  func() error { _, err := alice.c.Members(ctx, "x"); return err },
		"watcher":  func() error { _, err := alice.c.Watcher(ctx); return err },
	} {
		wantError(t, name, f(), context.Canceled)
	}
	release()

	other := register(t, theWorld.a, "other")
	if err := other.c.Close(); err != nil {
		t.Fatal(err)
	}
	var last error
	for _, err := range other.c.Stream(t.Context(), 0) {
		last = errors.Join(last, err)
	}
	wantError(t, "stream of a closed client", last, client.ErrClosed)
}

// TestReadme: the program that README.md shows is the one that Example runs.
func TestReadme(t *testing.T) {
	source, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile("(?s)```go\n(.*?)```").FindSubmatch(readme)
	if shown == nil || !strings.Contains(string(source), string(shown[1])) {
		t.Error("README.md shows another program than example_test.go")
	}
}
