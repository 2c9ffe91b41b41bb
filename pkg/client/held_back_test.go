package client_test

import (
	"context"
	"slices"
	"testing"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/problem"
)

// TestHubHoldsBack: a hub that takes no more messages, since the group sends too fast, is asked more and more rarely, and nothing is given up: what waits is sent, once and in order, when the
// hub takes it, over a change of the epoch, too. Meanwhile commits are made.
func TestHubHoldsBack(t *testing.T) {
	x := newTried(t, -1)
	asked, full := 0, true
	meddle(t, x.o, mimimiv1connect.HubServiceSendMessageProcedure, func(ctx context.Context, req *mimimiv1.SendMessageRequest,
		honest func(context.Context, *mimimiv1.SendMessageRequest) (*mimimiv1.SendMessageResponse, error)) (*mimimiv1.SendMessageResponse, error) {
		if asked++; full {
			return nil, problem.Connect(problem.New(problem.Limited, "no"))
		}
		return honest(ctx, req)
	})
	want := []string{"0", "1", "2"}
	for _, text := range want {
		x.bob.send(x.there, text)
	}
	if asked != 1 || x.bob.waiting(x.there) != len(want) {
		t.Errorf("the hub was asked %d times at once; %d messages wait", asked, x.bob.waiting(x.there))
	}
	if due := client.NextDue(x.bob.c); due.IsZero() || due.After(x.at.now().Add(time.Minute)) {
		t.Errorf("bob looks after it at %v", due)
	}
	for range 60 { // a minute of seconds, then a day
		x.at.pass(time.Second)
		check(t, x.bob.c.Sync(t.Context()))
	}
	if asked < 3 || asked > 10 { // by 10 a quarter of an hour has passed
		t.Errorf("the hub was asked %d times in a minute", asked)
	}
	asked = 0
	for range 24 * 4 {
		x.at.pass(15 * time.Minute)
		check(t, x.bob.c.Sync(t.Context()))
	}
	if asked < 24*4-1 || asked > 24*4 {
		t.Errorf("the hub was asked %d times in a day, looked at each quarter of an hour", asked)
	}
	told := 0
	for _, e := range x.bob.events(client.EventWarning) {
		if e.Group == x.there && e.Text == client.HeldSentence {
			told++
		}
	}
	if told != 1 {
		t.Errorf("bob was told %d times", told)
	}
	epoch := client.Epoch(x.bob.c, x.there)
	check(t, x.bob.c.Commit(t.Context(), x.there))
	if n := client.Epoch(x.bob.c, x.there); n != epoch+1 {
		t.Errorf("bob is in epoch %d, want %d", n, epoch+1)
	}
	if n := x.bob.waiting(x.there); n != len(want) {
		t.Fatalf("%d messages wait", n)
	}
	full = false
	x.at.pass(6 * time.Minute)
	until(t, "alice reads", func() bool { return len(x.alice.read(x.group)) >= len(want) }, x.bob, x.alice)
	check(t, x.alice.c.Sync(t.Context()))
	if got := x.alice.read(x.group); !slices.Equal(got, want) || x.bob.waiting(x.there) != 0 {
		t.Errorf("alice read %v; %d messages wait", got, x.bob.waiting(x.there))
	}
	full, asked = true, 0
	x.bob.send(x.there, "3")
	x.at.pass(3 * time.Second)
	check(t, x.bob.c.Sync(t.Context()))
	if asked != 2 {
		t.Errorf("the hub, which took messages meanwhile, was asked %d times in three seconds, want twice", asked)
	}
}
