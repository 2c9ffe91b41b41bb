package client_test

import (
	"context"
	"slices"
	"testing"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/problem"
)

// TestLateMessage: a message that comes within the time in which it counts, but after two further epochs have begun, is shown, and no hub is accused of having left out what came before it.
func TestLateMessage(t *testing.T) {
	x := newTried(t, -1)
	down := false
	meddle(t, x.o, mimimiv1connect.HubServiceSendMessageProcedure, func(ctx context.Context, req *mimimiv1.SendMessageRequest,
		honest func(context.Context, *mimimiv1.SendMessageRequest) (*mimimiv1.SendMessageResponse, error)) (*mimimiv1.SendMessageResponse, error) {
		if down {
			return nil, problem.Connect(problem.New(problem.Unavailable, "down"))
		}
		return honest(ctx, req)
	})
	read := func(want ...string) {
		t.Helper()
		until(t, "alice reads", func() bool { return len(x.alice.read(x.group)) >= len(want) }, x.bob, x.alice)
		if got := x.alice.read(x.group); !slices.Equal(got, want) {
			t.Errorf("alice read %q, want %q", got, want)
		}
	}
	x.bob.send(x.there, "early")
	read("early")
	down = true
	x.bob.send(x.there, "late")
	for range 2 {
		check(t, x.alice.c.Commit(t.Context(), x.group))
	}
	down = false
	read("early", "late")
	for range 2 {
		check(t, x.alice.c.Commit(t.Context(), x.group))
	}
	if warned := x.alice.events(client.EventWarning); len(warned) > 0 {
		t.Errorf("alice was warned: %q", warned[0].Text)
	}
}
