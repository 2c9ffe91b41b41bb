package client_test

import (
	"errors"
	"slices"
	"testing"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

func (p *person) policy(group string) client.Policy {
	p.t.Helper()
	v, err := p.c.Policy(p.t.Context(), group)
	if err != nil {
		p.t.Fatalf("%s: policy: %v", p.name, err)
	}
	return v
}

// TestPolicy has an admin hand over its role and change what members may; everybody sees it, and who may not is refused.
func TestPolicy(t *testing.T) {
	alice, bob, carol, group := trio(t)
	ctx := t.Context()
	no := false
	admin := client.PolicyChange{MayInvite: mimimi.RoleAdmin}
	wantError(t, "a member sets the policy", bob.c.SetPolicy(ctx, group[bob], admin), client.ErrDenied)
	if err := client.ForcePolicy(ctx, bob.c, group[bob], admin); problem.KindOf(err) != problem.Denied {
		t.Errorf("the hub takes a member's policy: %v", err)
	}
	yes := true
	if err := alice.c.SetPolicy(ctx, group[alice], client.PolicyChange{UnidentifiedMembers: &yes}); problem.KindOf(err) != problem.Invalid {
		t.Errorf("unidentified members allowed afterwards: %v", err)
	}
	if err := alice.c.SetPolicy(ctx, group[alice], client.PolicyChange{Demote: users(alice)}); problem.KindOf(err) != problem.Invalid {
		t.Errorf("a group without an admin: %v", err)
	}
	change := client.PolicyChange{Promote: users(bob), Demote: users(alice), MayAdd: mimimi.RoleAdmin, ExternalJoins: &no, MaxLeaves: 7}
	if err := alice.c.SetPolicy(ctx, group[alice], change); err != nil {
		t.Fatalf("set policy: %v", err)
	}
	want := client.Policy{Admins: users(bob), MayAdd: mimimi.RoleAdmin, MayRemove: mimimi.RoleAdmin, MayInvite: mimimi.RoleMember, LastResort: true, MaxLeaves: 7}
	all := []*person{alice, bob, carol}
	until(t, "everybody sees it", func() bool {
		return !slices.ContainsFunc(all, func(p *person) bool {
			got := p.policy(group[p])
			return !slices.Equal(got.Admins, want.Admins) || got.MaxLeaves != want.MaxLeaves || got.MayAdd != want.MayAdd || got.ExternalJoins || got.MayInvite != want.MayInvite
		})
	}, all...)
	for _, p := range all {
		if e := p.events(client.EventPolicy); len(e) != 1 || e[0].User != alice.c.User() {
			t.Errorf("%s has %d events of a policy", p.name, len(e))
		}
	}
	wantError(t, "a former admin sets the policy", alice.c.SetPolicy(ctx, group[alice], admin), client.ErrDenied)
	_, err := alice.c.Invite(ctx, group[alice], client.InviteOptions{})
	wantError(t, "an invitation where nobody joins", err, client.ErrDenied)
	dave := register(t, theWorld.a, "dave")
	connect(t, alice, dave)
	wantError(t, "a member adds where admins do", alice.c.Add(ctx, group[alice], dave.c.User()), client.ErrDenied)
	if err := bob.c.Remove(ctx, group[bob], alice.c.User()); err != nil {
		t.Errorf("the new admin removes the old one: %v", err)
	}
}

// TestPolicyAtCreation makes a group with a policy of its own.
func TestPolicyAtCreation(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	yes := true
	if _, err := alice.c.CreateGroup(t.Context(), "", client.PolicyChange{UnidentifiedMembers: &yes}); problem.KindOf(err) != problem.Invalid {
		t.Errorf("a group with unidentified members: %v", err)
	}
	group, err := alice.c.CreateGroup(t.Context(), "small", client.PolicyChange{MaxLeaves: 1})
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, "a second client in a group of one", alice.c.Add(t.Context(), group, bob.c.User()), client.ErrDenied)
	if err := alice.c.SetPolicy(t.Context(), group, client.PolicyChange{MaxLeaves: 2}); err != nil {
		t.Fatal(err)
	}
	if err := alice.c.Add(t.Context(), group, bob.c.User()); err != nil {
		t.Errorf("add: %v", err)
	}
}

// TestUnidentifiedProposes has a leaf that nobody has identified propose a change of the policy and a removal, though the policy lets every member do it: the hub takes
// the proposal, and nobody takes it up.
func TestUnidentifiedProposes(t *testing.T) {
	alice, bob, carol, group := trio(t)
	if err := alice.c.SetPolicy(t.Context(), group[alice], client.PolicyChange{MayRemove: mimimi.RoleMember}); err != nil {
		t.Fatal(err)
	}
	eve := register(t, theWorld.a, "eve")
	until(t, "the policy", func() bool { return bob.policy(group[bob]).MayRemove == mimimi.RoleMember }, bob, carol)
	link, err := bob.c.Invite(t.Context(), group[bob], client.InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ge, err := eve.c.Join(t.Context(), link)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.ProposeRemoval(t.Context(), eve.c, ge, bob.c.User()); err != nil {
		t.Fatalf("propose: %v", err)
	}
	until(t, "the proposal seen", func() bool { return client.Pending(alice.c, group[alice]) == 1 }, alice)
	if err := client.CommitAnyway(t.Context(), alice.c, group[alice]); err != nil {
		t.Fatalf("commit: %v", err)
	}
	until(t, "carol goes on", func() bool { return client.Epoch(carol.c, group[carol]) == client.Epoch(alice.c, group[alice]) }, carol)
	if n := len(carol.events(client.EventGroupOver)) + len(alice.events(client.EventRemoved)); n != 0 || client.Pending(alice.c, group[alice]) != 0 {
		t.Error("a proposal of somebody unidentified was taken up")
	}
	// A member that takes one up is not followed, though the hub accepts the commit.
	if err := client.ProposeRemoval(t.Context(), eve.c, ge, bob.c.User()); err != nil {
		t.Logf("propose in an old epoch: %v", err)
		until(t, "eve follows", func() bool { return client.Epoch(eve.c, ge) == client.Epoch(alice.c, group[alice]) }, eve)
		if err := client.ProposeRemoval(t.Context(), eve.c, ge, bob.c.User()); err != nil {
			t.Fatalf("propose: %v", err)
		}
	}
	until(t, "carol sees it", func() bool { return client.Pending(carol.c, group[carol]) == 1 }, carol)
	if err := client.TakeUp(t.Context(), carol.c, group[carol]); err != nil {
		t.Fatalf("take up: %v", err)
	}
	until(t, "alice stops", func() bool { return len(alice.events(client.EventGroupOver)) == 1 }, alice)
}

// TestBan removes a user for good: the list reaches all members, newcomers too, and nobody lets the user in.
func TestBan(t *testing.T) {
	alice, bob, carol, group := trio(t)
	ctx := t.Context()
	connect(t, carol, bob)
	wantError(t, "a member bans", bob.c.Ban(ctx, group[bob], carol.c.User()), client.ErrDenied)
	if err := alice.c.Ban(ctx, group[alice], carol.c.User()); err != nil {
		t.Fatalf("ban: %v", err)
	}
	banned := func(p *person, g string, n int) func() bool {
		return func() bool {
			all, err := p.c.Bans(ctx, g)
			return err == nil && len(all) == n
		}
	}
	until(t, "bob knows", func() bool { return banned(bob, group[bob], 1)() && len(bob.events(client.EventBanned)) == 1 }, alice, bob)
	until(t, "carol out", func() bool { return len(carol.events(client.EventGroupOver)) == 1 }, carol)
	wantError(t, "a banned user added", bob.c.Add(ctx, group[bob], carol.c.User()), client.ErrBanned)
	if e := carol.events(client.EventBanned); len(e) != 0 {
		t.Error("who was banned sees the list")
	}

	dave := register(t, theWorld.a, "dave")
	connect(t, dave, bob)
	connect(t, dave, carol)
	if err := bob.c.Add(ctx, group[bob], dave.c.User()); err != nil {
		t.Fatalf("add: %v", err)
	}
	until(t, "dave knows", func() bool { return dave.group() != "" && banned(dave, dave.group(), 1)() }, bob, dave)
	wantError(t, "a newcomer adds a banned user", dave.c.Add(ctx, dave.group(), carol.c.User()), client.ErrBanned)

	// By an invitation she comes in as a leaf, and goes as one.
	link, err := bob.c.Invite(ctx, group[bob], client.InviteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := carol.c.Join(ctx, link)
	if err != nil {
		t.Fatalf("join: %v", err)
	}
	until(t, "carol out again", func() bool { return len(carol.events(client.EventGroupOver)) == 2 }, bob, alice, carol)
	if slices.ContainsFunc(carol.events(client.EventGroupJoined), func(e client.Event) bool { return e.Group == again }) {
		t.Error("a banned joiner was answered")
	}

	if err := alice.c.Unban(ctx, group[alice], carol.c.User()); err != nil {
		t.Fatalf("unban: %v", err)
	}
	wantError(t, "unbanned twice", alice.c.Unban(ctx, group[alice], carol.c.User()), client.ErrNotMember)
	until(t, "bob knows", banned(bob, group[bob], 0), alice, bob)
	if err := bob.c.Add(ctx, group[bob], carol.c.User()); err != nil {
		t.Errorf("add after the ban: %v", err)
	}
}

// TestTwoBansAtOnce has two admins ban at the same time: both bans come about, in the same list for all.
func TestTwoBansAtOnce(t *testing.T) {
	alice, bob, carol, group := trio(t)
	ctx := t.Context()
	if err := alice.c.SetPolicy(ctx, group[alice], client.PolicyChange{MayRemove: mimimi.RoleMember}); err != nil {
		t.Fatal(err)
	}
	until(t, "the policy", func() bool { return bob.policy(group[bob]).MayRemove == mimimi.RoleMember }, bob, carol)
	x, y := register(t, theWorld.a, "x"), register(t, theWorld.b, "y")
	done := make(chan error, 2)
	go func() { done <- alice.c.Ban(ctx, group[alice], x.c.User()) }()
	go func() { done <- bob.c.Ban(ctx, group[bob], y.c.User()) }()
	if err := errors.Join(<-done, <-done); err != nil {
		t.Fatalf("ban: %v", err)
	}
	until(t, "both banned", func() bool {
		for _, p := range []*person{alice, bob, carol} {
			all, err := p.c.Bans(ctx, group[p])
			if err != nil || len(all) != 2 {
				return false
			}
		}
		return true
	}, alice, bob, carol)
}
