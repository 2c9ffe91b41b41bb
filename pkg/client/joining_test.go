package client_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/problem"
)

// TestRevoke: a revoked invitation lets nobody in, and no member knows it any more.
func TestRevoke(t *testing.T) {
	alice, bob, _, group := trio(t)
	ctx := t.Context()
	list := func(p *person) []client.Invitation {
		t.Helper()
		all, err := p.c.Invitations(ctx, group[p])
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	kept, err := bob.c.Invite(ctx, group[bob], client.InviteOptions{Uses: 3, NotAfter: time.Now().Add(48 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	gone, err := bob.c.Invite(ctx, group[bob], client.InviteOptions{NotAfter: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "alice knows both", func() bool { return len(list(alice)) == 2 }, bob, alice)
	first := list(alice)[0]
	if first.By != bob.c.User() || first.Self || first.Uses != 1 || !list(bob)[0].Self || list(bob)[1].Uses != 3 {
		t.Errorf("the invitations are %+v", list(alice))
	}
	if id, err := client.InvitationID(gone); err != nil || id != first.ID {
		t.Errorf("the link's invitation is %q, want %q (%v)", id, first.ID, err)
	}
	_, err = client.InvitationID("mimimi:join:AAAA")
	wantError(t, "no link", err, client.ErrBadInvitation)
	wantError(t, "no such invitation", alice.c.RevokeInvitation(ctx, group[alice], "x"), client.ErrBadInvitation)
	if err := alice.c.RevokeInvitation(ctx, group[alice], first.ID); err != nil {
		t.Fatalf("revoke: %v", err)
	}
	wantError(t, "revoked twice", alice.c.RevokeInvitation(ctx, group[alice], first.ID), client.ErrBadInvitation)
	until(t, "bob knows one", func() bool { return len(list(bob)) == 1 }, bob)
	dave := register(t, theWorld.a, "dave")
	if _, err := dave.c.Join(ctx, gone); problem.KindOf(err) != problem.Denied || errors.Is(err, client.ErrUnknownGroup) {
		t.Errorf("joined by a revoked invitation: %v", err)
	}
	gd, err := dave.c.Join(ctx, kept)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "dave in", func() bool { return dave.members(gd) == 4 && dave.group() == gd && list(bob)[0].Used == 1 }, bob, dave, alice)
	if all, err := dave.c.Invitations(ctx, gd); err != nil || len(all) != 1 {
		t.Errorf("a newcomer knows %d invitations, want 1 (%v)", len(all), err)
	}
}

// TestAllKeys: a link that holds everybody's link keys shows the joiner at once who is there, and any member can let it in while the inviter is away.
func TestAllKeys(t *testing.T) {
	alice, bob, carol, group := trio(t)
	link, err := bob.c.Invite(t.Context(), group[bob], client.InviteOptions{AllKeys: true})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the invitation is told", func() bool {
		a, err := alice.c.Invitations(t.Context(), group[alice])
		return err == nil && len(a) == 1
	}, bob, alice)
	dave := register(t, theWorld.a, "dave")
	gd, err := dave.c.Join(t.Context(), link)
	if err != nil {
		t.Fatal(err)
	}
	if known, all := client.Knows(dave.c, gd); known != 4 || all != 4 {
		t.Errorf("the joiner knows %d of %d at once", known, all)
	}
	until(t, "alice lets him in", func() bool { return dave.group() == gd && alice.members(group[alice]) == 4 }, dave, alice)
	dave.send(gd, "hello")
	until(t, "heard", func() bool { return slices.Contains(carol.read(group[carol]), "hello") }, dave, carol)
}

// TestStolenRequest: somebody else who has the secret of a connection request enters the connection group first: it is not answered, is removed, and learns nothing; nor
// does the asker take it for who was asked.
func TestStolenRequest(t *testing.T) {
	alice, bob, mallory := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob"), register(t, theWorld.b, "mallory")
	connect(t, alice, mallory)
	if err := alice.c.Connect(t.Context(), bob.c.User()); err != nil {
		t.Fatal(err)
	}
	stolen, err := client.Copied(t.Context(), alice.c, mallory.c, bob.c.User())
	if err != nil {
		t.Fatalf("enter: %v", err)
	}
	until(t, "mallory out", func() bool { return !client.Alive(mallory.c, stolen) }, mallory, alice)
	if alice.connected(bob) {
		t.Error("alice is connected with somebody who never answered")
	}
	if _, all := client.Knows(alice.c, client.LinkOf(alice.c, bob.c.User())); all != 1 {
		t.Errorf("%d leaves are in the connection group, want alice's", all)
	}
	// The request that was stolen leads nowhere, also for bob. Another one was made in its place, which nobody has but bob.
	until(t, "requests", func() bool { return len(bob.requests()) == 2 }, alice, bob)
	for _, r := range bob.requests() {
		_ = bob.c.Accept(t.Context(), r.ID)
	}
	until(t, "connected", func() bool { return alice.connected(bob) && bob.connected(alice) }, alice, bob)
}

// TestCrossingLeavesOne: of the two connection groups of requests that crossed, one stays on both sides.
func TestCrossingLeavesOne(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	for from, to := range map[*person]*person{alice: bob, bob: alice} {
		if err := from.c.Connect(t.Context(), to.c.User()); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "requests", func() bool { return len(alice.requests()) == 1 && len(bob.requests()) == 1 }, alice, bob)
	for _, p := range []*person{alice, bob} {
		if err := p.c.Accept(t.Context(), p.requests()[0].ID); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "one group", func() bool {
		return alice.connected(bob) && bob.connected(alice) && client.Links(alice.c, bob.c.User()) == 1 && client.Links(bob.c, alice.c.User()) == 1
	}, alice, bob)
	for range 3 {
		for _, p := range []*person{alice, bob} {
			if err := p.c.Sync(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	if !alice.connected(bob) || !bob.connected(alice) || len(alice.events(client.EventDisconnected))+len(bob.events(client.EventDisconnected)) != 0 {
		t.Error("leaving the idle group ended the connection")
	}
	pair(t, alice, bob)
	pair(t, bob, alice)
}

// TestCrossingOneAccepts: requests cross and one is accepted; accepting the other one later is done at once and changes nothing.
func TestCrossingOneAccepts(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	for from, to := range map[*person]*person{alice: bob, bob: alice} {
		if err := from.c.Connect(t.Context(), to.c.User()); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "requests", func() bool { return len(alice.requests()) == 1 && len(bob.requests()) == 1 }, alice, bob)
	if err := bob.c.Accept(t.Context(), bob.requests()[0].ID); err != nil {
		t.Fatal(err)
	}
	until(t, "connected", func() bool { return alice.connected(bob) && bob.connected(alice) }, alice, bob)
	if err := alice.c.Accept(t.Context(), alice.requests()[0].ID); err != nil {
		t.Errorf("accept: %v", err)
	}
	if !alice.connected(bob) {
		t.Error("accepting the crossing request ended the connection")
	}
	pair(t, alice, bob)
}

// TestAcceptFails: a further request of a contact that comes to nothing leaves the contact as it was.
func TestAcceptFails(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	if err := client.Forget(alice.c, bob.c.User()); err != nil { // as one who lost its contacts
		t.Fatal(err)
	}
	if err := alice.c.Connect(t.Context(), bob.c.User()); err != nil {
		t.Fatal(err)
	}
	until(t, "request", func() bool { return len(bob.requests()) == 1 }, bob)
	if err := client.AcceptOnly(bob.c, bob.requests()[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := client.GiveUp(bob.c, alice.c.User()); err != nil {
		t.Fatal(err)
	}
	if err := bob.c.Sync(t.Context()); err != nil && !errors.Is(err, client.ErrBadInvitation) {
		t.Logf("sync: %v", err)
	}
	if !bob.connected(alice) {
		t.Error("the contact is lost")
	}
}

// TestUnreachedMember: who comes in while the domain of a member cannot be reached knows that member later. Until then it shows its own link no more once it was answered: whoever lets it in would
// commit again and again.
func TestUnreachedMember(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	group := pair(t, alice, bob)
	link, err := alice.c.Invite(t.Context(), group, client.InviteOptions{})
	check(t, err)
	var down atomic.Bool
	down.Store(true)
	meddle(t, theWorld.opA, mimimiv1connect.RelayServiceGetKeyDocumentProcedure, func(ctx context.Context, req *mimimiv1.GetKeyDocumentRequest,
		honest func(context.Context, *mimimiv1.GetKeyDocumentRequest) (*mimimiv1.GetKeyDocumentResponse, error)) (*mimimiv1.GetKeyDocumentResponse, error) {
		if down.Load() && req.Domain == "b.localhost" {
			return nil, problem.Connect(problem.New(problem.Unavailable, "no"))
		}
		return honest(ctx, req)
	})
	carol := register(t, theWorld.a, "carol")
	epoch := client.Epoch(alice.c, group)
	there, err := carol.c.Join(t.Context(), link)
	check(t, err)
	until(t, "carol knows alice", func() bool { return carol.sees(there, alice) && client.Unidentified(alice.c, group) == 0 }, carol, alice)
	for range 6 {
		check(t, alice.c.Sync(t.Context()))
		_ = carol.c.Sync(t.Context()) // says that a domain cannot be reached
	}
	if n := client.Epoch(alice.c, group) - epoch; n != 2 {
		t.Errorf("%d commits, want carol's entry and one that answers it", n)
	}
	if carol.sees(there, bob) || client.Unidentified(carol.c, there) != 1 {
		t.Error("carol knows bob")
	}
	down.Store(false)
	until(t, "carol knows bob", func() bool { return carol.sees(there, bob) && len(carol.events(client.EventGroupJoined)) == 1 }, carol)
}
