package client_test

import (
	"context"
	"encoding/base64"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mimimi.example/cmd/mimimi/domain"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
	"mimimi.example/pkg/redeem/redeemtest"
)

func wantError(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// TestRefusals asks for what cannot be: each gets its named error and changes nothing.
func TestRefusals(t *testing.T) {
	alice, bob, carol, group := trio(t)
	ctx := t.Context()
	stranger, err := mimimi.ParseUser("mimi://b.localhost/u/nobody-at-all")
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, "connect with nobody", alice.c.Connect(ctx, stranger), client.ErrUnknownUser)
	wantError(t, "add a stranger", alice.c.Add(ctx, group[alice], stranger), client.ErrNotConnected)
	wantError(t, "add one who is asked only", bob.c.Add(ctx, group[bob], carol.c.User()), client.ErrNotConnected)
	wantError(t, "add a member", alice.c.Add(ctx, group[alice], bob.c.User()), client.ErrMember)
	wantError(t, "remove a stranger", alice.c.Remove(ctx, group[alice], stranger), client.ErrNotMember)
	wantError(t, "remove without the right", bob.c.Remove(ctx, group[bob], alice.c.User()), client.ErrDenied)
	wantError(t, "accept nothing", alice.c.Accept(ctx, "00"), client.ErrUnknownRequest)
	wantError(t, "reject nothing", alice.c.Reject(t.Context(), "00"), client.ErrUnknownRequest)
	_, err = alice.c.Send(ctx, "nowhere", nil)
	wantError(t, "send nowhere", err, client.ErrUnknownGroup)
	_, err = alice.c.Send(ctx, group[alice], make([]byte, client.MaxMessage+1))
	wantError(t, "send too much", err, client.ErrTooLarge)
	_, err = client.Open(ctx, client.Config{Dir: alice.cfg.Dir})
	wantError(t, "open twice", err, client.ErrLocked)
	_, err = client.Open(ctx, client.Config{Dir: t.TempDir()})
	wantError(t, "open nothing", err, client.ErrNotRegistered)

	_, err = client.Register(ctx, client.Config{Dir: t.TempDir(), Provider: theWorld.a.Info()}, nameOf(alice))
	if problem.KindOf(err) != problem.Denied {
		t.Errorf("register a taken name: %v, want denied", err)
	}
	info := theWorld.a.Info()
	info.IdentityKey = theWorld.b.Info().IdentityKey
	_, err = client.Register(ctx, client.Config{Dir: t.TempDir(), Provider: info}, "frank")
	wantError(t, "register with an impostor", err, client.ErrIdentity)

	if n := alice.members(group[alice]); n != 3 {
		t.Errorf("alice sees %d members, want 3", n)
	}
	if contacts, err := alice.c.Contacts(t.Context()); err != nil || len(contacts) != 2 {
		t.Errorf("alice has %d contacts, want 2 (%v)", len(contacts), err)
	}
	alice.send(group[alice], strings.Repeat("x", client.MaxMessage))
	until(t, "the largest message", func() bool { return len(bob.read(group[bob])) == 1 }, bob)
}

func nameOf(p *person) string { return filepath.Base(p.c.User().Wire()) }

// TestReject drops a request in silence, and lets the asker ask again later only anew.
func TestReject(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	if err := alice.c.Connect(t.Context(), bob.c.User()); err != nil {
		t.Fatal(err)
	}
	until(t, "request", func() bool { return len(bob.requests()) == 1 }, bob)
	r := bob.requests()[0]
	if err := bob.c.Reject(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	wantError(t, "reject twice", bob.c.Reject(t.Context(), r.ID), client.ErrUnknownRequest)
	wantError(t, "accept after", bob.c.Accept(t.Context(), r.ID), client.ErrUnknownRequest)
	if len(bob.requests()) != 0 || alice.connected(bob) {
		t.Error("a rejected request goes on")
	}
}

// TestVerify shows both the same pair of fingerprints.
func TestVerify(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	va, err := alice.c.Verify(t.Context(), bob.c.User())
	if err != nil {
		t.Fatal(err)
	}
	vb, err := bob.c.Verify(t.Context(), alice.c.User())
	if err != nil {
		t.Fatal(err)
	}
	if len(va.Theirs) != 1 || len(vb.Theirs) != 1 || va.Own != vb.Theirs[0] || vb.Own != va.Theirs[0] || va.Own == vb.Own {
		t.Errorf("fingerprints do not match: %v %v", va, vb)
	}
}

// TestInvitations tries links that do not lead in.
func TestInvitations(t *testing.T) {
	alice, bob, _, group := trio(t)
	dave, erin := register(t, theWorld.a, "dave"), register(t, theWorld.b, "erin")
	link, err := bob.c.Invite(t.Context(), group[bob], client.InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const prefix = "mimimi:join:"
	body, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(link, prefix))
	if err != nil {
		t.Fatal(err)
	}
	for n := range body { // no part of a link is a link
		if _, err := dave.c.Join(t.Context(), prefix+base64.RawURLEncoding.EncodeToString(body[:n])); !errors.Is(err, client.ErrBadInvitation) {
			t.Fatalf("a link cut to %d bytes: %v", n, err)
		}
	}
	for _, bad := range []string{"", prefix, link[1:], link + "A", "https://example.org/"} {
		_, err := dave.c.Join(t.Context(), bad)
		wantError(t, "a bad link", err, client.ErrBadInvitation)
	}
	if _, err := dave.c.Join(t.Context(), link); err != nil {
		t.Fatal(err)
	}
	_, err = dave.c.Join(t.Context(), link)
	wantError(t, "join twice", err, client.ErrMember)
	if _, err := erin.c.Join(t.Context(), link); problem.KindOf(err) != problem.Denied {
		t.Errorf("a link used up: %v, want denied", err)
	}
	if n := len(erin.groups()); n != 0 {
		t.Errorf("erin has %d groups, want none", n)
	}
	until(t, "dave in", func() bool { return dave.group() != "" && alice.members(group[alice]) == 4 }, bob, dave, alice)

	link, err = bob.c.Invite(t.Context(), group[bob], client.InviteOptions{Uses: 3})
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.c.Remove(t.Context(), group[alice], dave.c.User()); err != nil {
		t.Fatal(err)
	}
	if _, err := erin.c.Join(t.Context(), link); problem.KindOf(err) != problem.Denied {
		t.Errorf("a link from before a removal: %v, want denied", err)
	}
}

// clocked starts a domain of its own whose clock, and that of its clients, is ahead of the real one by what is stored.
func clocked(t *testing.T) (ahead *atomic.Int64, here func(name string) *person) {
	t.Helper()
	return clockedBy(t, newOperator(t.TempDir()))
}

// clockedBy is clocked with an operator.
func clockedBy(t *testing.T, o *operator) (ahead *atomic.Int64, here func(name string) *person) {
	t.Helper()
	ahead = new(atomic.Int64)
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	d, err := domain.Start(t.Context(), o.options(domain.Options{Domain: "c.localhost", Now: now, TokenQuotas: quotas, NewIssuerKey: redeemtest.IssuerKey}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return ahead, func(name string) *person {
		t.Helper()
		p := &person{t: t, name: name, cfg: client.Config{Dir: t.TempDir(), Provider: d.Info(), Now: now, Stock: client.Stock{OneTime: 4, LastResort: 2}, Spread: -1}}
		c, err := client.Register(t.Context(), p.cfg, name)
		if err != nil {
			t.Fatalf("%s: register: %v", name, err)
		}
		p.use(c)
		t.Cleanup(p.close)
		return p
	}
}

// TestMonthsLater has clients that come back after months: key documents, connection records and KeyPackages are renewed, an unanswered request has ended,
// and the group goes on.
func TestMonthsLater(t *testing.T) {
	ahead, here := clocked(t)
	alice, bob, carol, dave := here("alice"), here("bob"), here("carol"), here("dave")
	connect(t, alice, bob)
	connect(t, alice, carol)
	group, err := alice.c.CreateGroup(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.c.Add(t.Context(), group, bob.c.User()); err != nil {
		t.Fatal(err)
	}
	until(t, "bob in", func() bool { return bob.group() != "" }, bob)
	if err := alice.c.Connect(t.Context(), dave.c.User()); err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	for _, days := range []time.Duration{31, 62, 93} {
		ahead.Store(int64(days * day))
		alice.send(group, "still here")
		until(t, "bob reads", func() bool { return len(bob.read(bob.group())) == int(days/31) }, alice, bob)
	}
	until(t, "request over", func() bool { c, err := alice.c.Contacts(t.Context()); return err == nil && len(c) == 2 }, alice)
	until(t, "nothing to answer", func() bool { return len(dave.requests()) == 0 }, dave)
	connect(t, alice, dave)
	until(t, "carol is back", func() bool { return carol.c.Sync(t.Context()) == nil }, carol)
	if err := alice.c.Add(t.Context(), group, users(carol, dave)...); err != nil {
		t.Fatalf("add after months: %v", err)
	}
	until(t, "all in", func() bool { return alice.members(group) == 4 && dave.group() != "" && carol.group() != "" }, alice, dave, carol)
}

// TestUnansweredJoiner has an inviter that never answers: nobody says anything while the joiner is unidentified, and after ten minutes a member
// removes it.
func TestUnansweredJoiner(t *testing.T) {
	ahead, here := clocked(t)
	alice, bob, eve := here("alice"), here("bob"), here("eve")
	connect(t, alice, bob)
	group, err := alice.c.CreateGroup(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.c.Add(t.Context(), group, bob.c.User()); err != nil {
		t.Fatal(err)
	}
	until(t, "bob in", func() bool { return bob.group() != "" }, bob)
	gb := bob.group()
	link, err := bob.c.Invite(t.Context(), gb, client.InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := eve.c.Join(t.Context(), link); err != nil {
		t.Fatal(err)
	}
	// Bob, who invited, is away.
	until(t, "eve seen", func() bool { all, _ := alice.c.Members(t.Context(), group); return len(all) == 3 }, alice)
	alice.send(group, "not for everybody")
	wantError(t, "add beside an unidentified member", alice.c.Add(t.Context(), group, eve.c.User()), client.ErrNotReady)
	for _, g := range alice.groups() {
		if g.Waiting == 0 {
			t.Error("content left while a member is unidentified")
		}
	}
	ahead.Store(int64(11 * time.Minute))
	until(t, "eve removed", func() bool { return len(alice.read(group)) == 0 && len(alice.events(client.EventSent)) == 1 }, alice)
	until(t, "eve told", func() bool { return len(eve.events(client.EventGroupOver)) == 1 }, eve)
	until(t, "bob reads", func() bool { return len(bob.read(gb)) == 1 }, bob)
	if n := len(eve.events(client.EventMessage)); n != 0 {
		t.Errorf("eve read %d messages", n)
	}
}
