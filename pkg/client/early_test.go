package client_test

import (
	"context"
	"slices"
	"testing"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/client"
)

// TestRemovalComesFirst: the commit that removes a member reaches it before what was said until then, as may be after a fail-over, when the log is not shown to it any more. It is shown everything, and
// knows that it was removed.
func TestRemovalComesFirst(t *testing.T) {
	alice, bob, group, _ := duo(t)
	check(t, bob.c.Sync(t.Context()))
	texts := []string{"one", "two", "three"}
	for _, text := range texts {
		alice.send(group[alice], text)
	}
	check(t, alice.c.Remove(t.Context(), group[alice], bob.c.User()))
	var turned int
	meddle(t, theWorld.opB, mimimiv1connect.QueueServiceReadProcedure, func(ctx context.Context, req *mimimiv1.ReadQueueRequest,
		honest func(context.Context, *mimimiv1.ReadQueueRequest) (*mimimiv1.ReadQueueResponse, error)) (*mimimiv1.ReadQueueResponse, error) {
		res, err := honest(ctx, req)
		if n := len(res.GetEntries()); n <= len(texts) {
			return new(mimimiv1.ReadQueueResponse), err // all at once
		}
		for i, n := 0, len(res.Entries); i < n/2; i++ { // the positions stay in order
			a, b := res.Entries[i], res.Entries[n-1-i]
			a.Delivery, b.Delivery = b.Delivery, a.Delivery
			turned++
		}
		return res, err
	})
	until(t, "bob knows", func() bool { return len(bob.events(client.EventGroupOver)) > 0 }, bob)
	if got := bob.read(group[bob]); !slices.Equal(got, texts) || turned == 0 {
		t.Errorf("bob read %q; %d deliveries were turned", got, turned)
	}
}
