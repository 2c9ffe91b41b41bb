package client_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/problem"
)

// ends has x's hub know nothing of the group any more, and counts what is asked of it.
func (x *tried) ends(t *testing.T) (asked *atomic.Int64, undo func()) {
	t.Helper()
	asked = new(atomic.Int64)
	undos := []func(){
		unknown[mimimiv1.CommitRequest, *mimimiv1.CommitRequest, mimimiv1.CommitResponse](t, x, mimimiv1connect.HubServiceCommitProcedure, asked),
		unknown[mimimiv1.ProposeRequest, *mimimiv1.ProposeRequest, mimimiv1.ProposeResponse](t, x, mimimiv1connect.HubServiceProposeProcedure, asked),
		unknown[mimimiv1.SendMessageRequest, *mimimiv1.SendMessageRequest, mimimiv1.SendMessageResponse](t, x, mimimiv1connect.HubServiceSendMessageProcedure, asked),
		unknown[mimimiv1.GetGroupRequest, *mimimiv1.GetGroupRequest, mimimiv1.GetGroupResponse](t, x, mimimiv1connect.HubServiceGetGroupProcedure, asked),
		unknown[mimimiv1.GetTreeRequest, *mimimiv1.GetTreeRequest, mimimiv1.GetTreeResponse](t, x, mimimiv1connect.HubServiceGetTreeProcedure, asked),
		unknown[mimimiv1.ReadLogRequest, *mimimiv1.ReadLogRequest, mimimiv1.ReadLogResponse](t, x, mimimiv1connect.HubServiceReadLogProcedure, asked),
	}
	return asked, func() {
		for _, f := range undos {
			f()
		}
	}
}

func unknown[Req any, P interface {
	*Req
	GetGroupId() []byte
}, Res any](t *testing.T, x *tried, procedure string, asked *atomic.Int64) (undo func()) {
	t.Helper()
	return meddle(t, x.o, procedure, func(ctx context.Context, req *Req, honest func(context.Context, *Req) (*Res, error)) (*Res, error) {
		if string(P(req).GetGroupId()) != x.id {
			return honest(ctx, req)
		}
		asked.Add(1)
		return nil, problem.Connect(problem.New(problem.NotFound, "protocol §9: no such group at this hub"))
	})
}

// tells has bob sync for a time, with pauses.
func (x *tried) tells(t *testing.T, d time.Duration) {
	t.Helper()
	for range int(d / (12 * time.Hour)) {
		x.at.pass(12 * time.Hour)
		if err := x.bob.c.Sync(t.Context()); err != nil && problem.KindOf(err) != problem.NotFound {
			t.Fatalf("sync: %v", err)
		}
	}
}

// over are the groups of which bob was told that they are over.
func (x *tried) over() []client.Event { return x.bob.events(client.EventGroupOver) }

// TestGroupEndedMeanwhile: a group that its hub has let go while a client was away is over for that client. It is told so once, asks the hub for the group no more, and goes on with
// its contact and its other groups. Of a hub that cannot have let it go yet that is believed after a week.
func TestGroupEndedMeanwhile(t *testing.T) {
	for name, c := range map[string]struct {
		away time.Duration
		do   func(x *tried) error
	}{
		"away for months":                     {150 * day, func(*tried) error { return nil }},
		"away for days, and says something":   {2 * day, func(x *tried) error { _, err := x.bob.c.Send(t.Context(), x.there, []byte("hello?")); return err }},
		"away for days, and leaves":           {2 * day, func(x *tried) error { return x.bob.c.Leave(t.Context(), x.there) }},
		"away for days, and changes its leaf": {2 * day, func(x *tried) error { return client.MakeRefreshDue(t.Context(), x.bob.c, x.there) }},
	} {
		t.Run(name, func(t *testing.T) {
			x := newTried(t, -1)
			other := pair(t, x.alice, x.bob)
			asked, _ := x.ends(t)
			x.at.pass(c.away)
			if err := c.do(x); err != nil && problem.KindOf(err) != problem.NotFound {
				t.Fatalf("act: %v", err)
			}
			if c.away < 100*day {
				x.tells(t, 5*day)
				if n := len(x.over()); n != 0 {
					t.Fatalf("bob takes the hub at its word: %+v", x.over())
				}
				if n := len(slices.DeleteFunc(x.bob.events(client.EventWarning), func(e client.Event) bool { return e.Text != client.EndedSentence+client.AgainSentence })); n != 1 {
					t.Errorf("bob is warned %d times: %+v", n, x.bob.events(client.EventWarning))
				}
			}
			x.tells(t, 4*day)
			if over := x.over(); len(over) != 1 || over[0].Group != x.there || over[0].Text != client.EndedSentence {
				t.Fatalf("bob is told %+v", over)
			}
			before := asked.Load()
			x.tells(t, 3*day)
			if n := asked.Load() - before; n != 0 {
				t.Errorf("the hub is asked %d times for a group that is over", n)
			}
			x.alice.send(other, "still here?")
			until(t, "talk", func() bool {
				return slices.ContainsFunc(x.bob.groups(), func(g client.Group) bool { return slices.Contains(x.bob.contents(g.ID), "still here?") })
			}, x.bob, x.alice)
			if !x.bob.connected(x.alice) || !x.alice.connected(x.bob) {
				t.Error("the contact is lost")
			}
		})
	}
}

// TestHubForgetsForDays: a hub that says for some days that there is no such group makes nobody leave.
func TestHubForgetsForDays(t *testing.T) {
	x := newTried(t, -1)
	_, undo := x.ends(t)
	x.at.pass(day)
	x.bob.send(x.there, "lost")
	x.tells(t, 4*day)
	undo()
	x.at.pass(day)
	until(t, "talk", func() bool {
		x.alice.send(x.group, "again")
		return slices.Contains(x.bob.contents(x.there), "again")
	}, x.alice, x.bob)
	if n := len(x.over()); n != 0 {
		t.Errorf("bob left: %+v", x.over())
	}
}
