package client_test

import (
	"context"
	"testing"

	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/client"
)

// showLinks has a's provider show its users what change makes of their mailbox.
func showLinks(t *testing.T, change func(all []*mimimiv1.Link) []*mimimiv1.Link) (undo func()) {
	t.Helper()
	return meddle(t, theWorld.opA, mimimiv1connect.AccountServiceListLinksProcedure, func(ctx context.Context, req *mimimiv1.ListLinksRequest,
		honest func(context.Context, *mimimiv1.ListLinksRequest) (*mimimiv1.ListLinksResponse, error)) (*mimimiv1.ListLinksResponse, error) {
		res, err := honest(ctx, req)
		if err == nil {
			res.Links = change(res.Links)
		}
		return res, err
	})
}

// TestSecondOfferWithTheCode: a second offer with the code that the user types, by the provider or by somebody else, lets nobody in.
func TestSecondOfferWithTheCode(t *testing.T) {
	alice := register(t, theWorld.a, "alice")
	t.Run("the provider's", func(t *testing.T) {
		phone := alice.newLink("phone")
		undo := showLinks(t, func(all []*mimimiv1.Link) []*mimimiv1.Link {
			second, ok := proto.Clone(all[0]).(*mimimiv1.Link)
			if !ok {
				t.Error("a clone is of another type")
			}
			return append(all, second)
		})
		for range 2 {
			wantError(t, "approve", alice.c.ApproveDevice(t.Context(), phone.code()), client.ErrAmbiguousCode)
		}
		if list, err := alice.c.Devices(t.Context()); err != nil || len(list) != 1 {
			t.Errorf("alice has %d devices (%v), want 1: nobody was let in", len(list), err)
		}
		if err := phone.c.Sync(t.Context()); err != nil || phone.code() == "" {
			t.Errorf("the device was let in: %v", err)
		}
		undo()
		if err := alice.c.ApproveDevice(t.Context(), phone.code()); err != nil {
			t.Errorf("approve, once there is one: %v", err)
		}
	})
	t.Run("the provider's under another name", func(t *testing.T) {
		phone, other := alice.newLink("phone"), alice.newLink("other")
		showLinks(t, func(all []*mimimiv1.Link) []*mimimiv1.Link {
			var offer []byte
			for _, l := range all {
				if l.Client == client.DeviceID(phone.c) {
					offer = l.Offer
				}
			}
			for _, l := range all {
				if l.Client == client.DeviceID(other.c) {
					l.Offer = offer
				}
			}
			return all
		})
		if err := alice.c.ApproveDevice(t.Context(), phone.code()); err != nil {
			t.Fatalf("approve: %v", err)
		}
		until(t, "the right one", func() bool { return phone.code() == "" }, phone, alice)
		if err := other.c.Sync(t.Context()); err != nil || other.code() == "" {
			t.Errorf("another device was let in: %v", err)
		}
	})
	// Nobody finds two offers with one code of 60 bits. With one of 5 bits, which is looked for in the same way, a stranger does.
	t.Run("a stranger's", func(t *testing.T) {
		seen, last := make(map[string]int), ""
		for n := 0; ; n++ {
			last = alice.newLink("stranger").code()[:1]
			if before, twice := seen[last]; twice && n-before < 5 { // the mailbox holds eight, two of them approved
				break
			}
			seen[last] = n
		}
		wantError(t, "find", client.FindOffer(t.Context(), alice.c, last), client.ErrAmbiguousCode)
		wantError(t, "find another", client.FindOffer(t.Context(), alice.c, "-"), client.ErrUnknownDevice)
	})
}
