package client_test

import (
	"context"
	"testing"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/problem"
)

// TestAsksAgain: a call of the app's asks a hub that does not answer again, and the app is told nothing; Sync and Send do not wait for it.
func TestAsksAgain(t *testing.T) {
	x := newTried(t, -1)
	asked, answers := 0, 0
	down := func() bool { asked++; return asked < answers }
	meddle(t, x.o, mimimiv1connect.HubServiceCommitProcedure, func(ctx context.Context, req *mimimiv1.CommitRequest,
		honest func(context.Context, *mimimiv1.CommitRequest) (*mimimiv1.CommitResponse, error)) (*mimimiv1.CommitResponse, error) {
		if down() {
			return nil, problem.Connect(problem.New(problem.Unavailable, "down"))
		}
		return honest(ctx, req)
	})
	meddle(t, x.o, mimimiv1connect.HubServiceSendMessageProcedure, func(ctx context.Context, req *mimimiv1.SendMessageRequest,
		honest func(context.Context, *mimimiv1.SendMessageRequest) (*mimimiv1.SendMessageResponse, error)) (*mimimiv1.SendMessageResponse, error) {
		if down() {
			return nil, problem.Connect(problem.New(problem.Unavailable, "down"))
		}
		return honest(ctx, req)
	})
	client.AskAgain(x.alice.c, time.Hour)
	for _, c := range []struct {
		what         string
		call         func() error
		answers, max int
		fails        bool
	}{
		{"commit", func() error { return x.alice.c.Commit(t.Context(), x.group) }, 3, 3, false},
		{"send", func() error { _, err := x.alice.c.Send(t.Context(), x.group, []byte("x")); return err }, 3, 1, false},
		{"sync", func() error { return x.alice.c.Sync(t.Context()) }, 9, 2, true}, // what came meanwhile makes a second round
	} {
		asked, answers = 0, c.answers
		if err := c.call(); (err != nil) != c.fails || asked > c.max {
			t.Errorf("%s: asked %d times, then %v", c.what, asked, err)
		}
	}
	client.AskAgain(x.alice.c, 0)
	if asked, answers = 0, 3; problem.KindOf(x.alice.c.Commit(t.Context(), x.group)) != problem.Unavailable {
		t.Error("a call that is not to ask again does")
	}
}
