package client_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// sees says whether a person sees another one in a group.
func (p *person) sees(group string, other *person) bool {
	p.t.Helper()
	all, err := p.c.Members(p.t.Context(), group)
	return err == nil && slices.ContainsFunc(all, func(m client.GroupMember) bool { return m.User == other.c.User() })
}

// TestSwappedLinksInWelcome: an adder gives a newcomer the members' link keys in each other's place: it identifies nobody by them, says nothing, and asks. If its own is
// not right, it does not even enter.
func TestSwappedLinksInWelcome(t *testing.T) {
	c := newCast(t)
	for _, x := range []struct {
		name  string
		told  func(in *client.Insider, all []*mimimi.LinkKey)
		group bool // the newcomer has one
	}{
		{"the members'", func(in *client.Insider, all []*mimimi.LinkKey) { all[0], all[1] = all[1], all[0] }, true},
		{"the newcomer's own", func(in *client.Insider, all []*mimimi.LinkKey) { all[0], all[len(all)-1] = all[len(all)-1], all[0] }, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			c.t = t
			c.anew()
			carol := register(t, theWorld.a, "carol")
			connect(t, c.eve, carol)
			adds, keys, err := client.ClaimFrom(t.Context(), c.eve.c, carol.c.User())
			check(t, err)
			in := c.inside(c.eve)
			_, err = offer(t, in.ID, adding(t, in, adds, keys, func(all []*mimimi.LinkKey) { x.told(in, all) }))
			check(t, err)
			until(t, "alice sees carol", func() bool { return c.alice.members(c.group[c.alice]) == 4 }, c.alice)
			arrived := atomic.Bool{}
			watchQueue(t, theWorld.opA, func(e *mimimiv1.QueueEntry) {
				if d := e.Delivery; d != nil && d.Kind == mimimiv1.Delivery_KIND_WELCOME && string(d.GroupId) == in.ID.Wire() {
					arrived.Store(true)
				}
			})
			until(t, "the Welcome", arrived.Load, carol)
			check(t, carol.c.Sync(t.Context()))
			groups := carol.groups()
			if len(groups) != 0 != x.group {
				t.Fatalf("carol has %d groups", len(groups))
			}
			if !x.group {
				return
			}
			g := groups[0].ID
			if carol.sees(g, c.alice) || carol.sees(g, c.bob) || groups[0].State != client.GroupJoining {
				t.Error("carol took a false key")
			}
			carol.send(g, "for friends")
			check(t, carol.c.Sync(t.Context()))
			if carol.waiting(g) != 1 {
				t.Error("carol talks to people whom she does not know")
			}
			// She asks the one whom she knows, who cannot but say it rightly: what it says is checked.
			until(t, "carol knows all", func() bool { return carol.sees(g, c.alice) && carol.sees(g, c.bob) && carol.waiting(g) == 0 }, c.eve, c.alice, carol)
		})
	}
}

// watchQueue shows f every queue entry that a domain's provider hands out.
func watchQueue(t *testing.T, o *operator, f func(*mimimiv1.QueueEntry)) {
	t.Helper()
	meddle(t, o, mimimiv1connect.QueueServiceReadProcedure, func(ctx context.Context, req *mimimiv1.ReadQueueRequest,
		honest func(context.Context, *mimimiv1.ReadQueueRequest) (*mimimiv1.ReadQueueResponse, error)) (*mimimiv1.ReadQueueResponse, error) {
		res, err := honest(ctx, req)
		for _, e := range res.GetEntries() {
			f(e)
		}
		return res, err
	})
}

// TestTwoIdentitiesForOneCiphertext: an adder brings in a leaf whose identity link opens, but for the commitment, under a second link key, and gives the members
// one key and another newcomer the other. Neither identifies the leaf; the members, who were told the key that opens nothing, remove it and the adder.
func TestTwoIdentitiesForOneCiphertext(t *testing.T) {
	c := newCast(t)
	carol := register(t, theWorld.a, "carol")
	connect(t, c.eve, carol)
	adds, keys, err := client.ClaimFrom(t.Context(), c.eve.c, carol.c.User())
	check(t, err)

	spy := theWorld.opB.impostor(t, "b.localhost", "mimi://b.localhost/u/janus")
	kp, first, second := spy.twoFaced()
	in := c.inside(c.eve)
	_, err = offer(t, in.ID, adding(t, in, append(adds, kp), append(keys, first), func(all []*mimimi.LinkKey) { all[len(all)-1] = &second }))
	check(t, err)
	there := ""
	until(t, "carol sees everybody but one", func() bool {
		if all := carol.groups(); len(all) == 1 {
			there = all[0].ID
		}
		return there != "" && carol.members(there) >= 4
	}, carol)
	if n := client.Unidentified(carol.c, there); n != 1 {
		t.Errorf("carol does not know %d", n)
	}
	until(t, "alice has removed two", func() bool { return client.Epoch(c.alice.c, c.group[c.alice]) == in.Group.Epoch()+2 }, c.alice)
	until(t, "carol is in", func() bool { return carol.members(there) == 3 && len(carol.ready()) == 1 }, carol)
	for p, g := range map[*person]string{c.alice: c.group[c.alice], carol: there} {
		if n := p.members(g); n != 3 || client.Unidentified(p.c, g) != 0 || p.sees(g, c.eve) {
			t.Errorf("%s sees %d, and does not know %d", p.name, n, client.Unidentified(p.c, g))
		}
		for _, e := range p.events(client.EventJoined, client.EventRemoved) {
			if e.User == spy.cert.User {
				t.Errorf("%s was told of janus", p.name)
			}
		}
	}
}

// twoFaced makes a KeyPackage whose commitment is for the first key and whose ciphertext is for the second.
func (i *impostor) twoFaced() (kp *mls.KeyPackage, first, second mimimi.LinkKey) {
	i.t.Helper()
	user, err := mimimi.NewUserPseudonym(i.domain)
	check(i.t, err)
	name, err := mimimi.NewClientPseudonym(i.domain)
	check(i.t, err)
	key, err := mimimi.Suite.GenerateSignatureKey()
	check(i.t, err)
	link := func(k mimimi.ConnectionKey) (*mimimi.PseudonymousCredential, mimimi.LinkKey) {
		cred, err := mimimi.NewPseudonymousCredential(mimimi.PseudonymConfig{ConnectionKey: k, CertificateKey: i.certKey, Certificate: i.cert,
			ClientPseudonym: name, UserPseudonym: user, SignatureKey: key.Public(), Now: time.Now()})
		check(i.t, err)
		return cred, cred.LinkKey(k)
	}
	const commitment = 32
	cred, first := link(mimimi.NewConnectionKey())
	other, second := link(mimimi.NewConnectionKey())
	cred.IdentityLinkCiphertext = slices.Concat(cred.IdentityLinkCiphertext[:commitment], other.IdentityLinkCiphertext[commitment:])
	kp, _ = i.keyPackageOf(cred.Credential(), name, key)
	return kp, first, second
}

// TestQueueIDMoved: a member puts somebody else's sealed queue id, from another group, into its own leaf. What is delivered to that leaf does not come into the
// other one's queue.
func TestQueueIDMoved(t *testing.T) {
	c := newCast(t)
	stolen, ok := c.inside(c.bob).Group.OwnLeaf().Extension(mimimi.ExtensionEncryptedQueueID)
	if !ok {
		t.Fatal("bob's leaf has no queue id")
	}
	dave := register(t, theWorld.b, "dave") // of bob's and eve's domain, by whom it is seen what was delivered
	connect(t, c.alice, dave)
	id, err := c.alice.c.CreateGroup(t.Context(), "")
	check(t, err)
	check(t, c.alice.c.Add(t.Context(), id, users(c.eve, dave)...))
	before := c.eve.newest()
	until(t, "eve in", func() bool { return c.eve.newest() != before }, c.eve)
	in, err := client.Inside(c.eve.c, c.eve.newest())
	check(t, err)
	_, err = offer(t, in.ID, commit(t, in, mls.CommitOptions{NewLeaf: &mls.LeafChange{
		Extensions: []mls.Extension{{Type: mimimi.ExtensionEncryptedQueueID, Data: stolen}}}}))
	check(t, err)
	until(t, "alice follows", func() bool {
		now, err := client.Inside(c.alice.c, id)
		return err == nil && now.Group.Epoch() == in.Group.Epoch()+1
	}, c.alice)
	for _, text := range []string{"one", "two"} { // a group's deliveries to a domain go one after the other
		c.alice.send(id, text)
	}
	until(t, "dave reads", func() bool { return slices.Contains(dave.read(dave.group()), "two") }, dave)
	waiting, err := client.Waiting(t.Context(), c.bob.c)
	check(t, err)
	for _, e := range waiting {
		if string(e.GetDelivery().GetGroupId()) == in.ID.Wire() || string(e.GetLost().GetGroupId()) == in.ID.Wire() {
			t.Fatal("a delivery for eve's leaf came into bob's queue")
		}
	}
}

// TestKeyPackagesOfTheWrongUser: a store answers a claim with another user's KeyPackages. The adder does not take them for the contact's.
func TestKeyPackagesOfTheWrongUser(t *testing.T) {
	c := newCast(t)
	spy := theWorld.opB.impostor(t, "b.localhost", "mimi://b.localhost/u/spy")
	id, err := c.alice.c.CreateGroup(t.Context(), "")
	check(t, err)
	others, _, err := client.ClaimFrom(t.Context(), c.alice.c, c.eve.c.User()) // eve's are real: she is alice's contact too
	check(t, err)
	made, _ := spy.keyPackage()
	spy.key = client.SecretOf(c.alice.c, c.bob.c.User()) // as who is bob's contact too, and in league with the store
	under, _ := spy.keyPackage()
	for name, kp := range map[string]*mls.KeyPackage{"another contact's": others[0], "the store's own": made, "under the contact's key": under} {
		t.Run(name, func(t *testing.T) {
			meddle(t, theWorld.opB, mimimiv1connect.KeyPackageServiceClaimProcedure, func(ctx context.Context, req *mimimiv1.ClaimRequest,
				honest func(context.Context, *mimimiv1.ClaimRequest) (*mimimiv1.ClaimResponse, error)) (*mimimiv1.ClaimResponse, error) {
				res, err := honest(ctx, req)
				if err != nil {
					return nil, err
				}
				res.KeyPackages = [][]byte{kp.Marshal()}
				return res, nil
			})
			wantError(t, "add", c.alice.c.Add(t.Context(), id, c.bob.c.User()), client.ErrIdentity)
			if all, err := c.alice.c.Members(t.Context(), id); err != nil || len(all) != 1 {
				t.Errorf("the group has %d members", len(all))
			}
		})
	}
	check(t, c.alice.c.Add(t.Context(), id, c.bob.c.User()))
}

// TestGroupAroundAClaimedKeyPackage: somebody who is no contact has come by one of bob's KeyPackages with its link key, and makes a group around it. Bob does not
// enter, says nothing, and is not told.
func TestGroupAroundAClaimedKeyPackage(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	adds, keys, err := client.ClaimFrom(t.Context(), alice.c, bob.c.User())
	check(t, err)
	spy := theWorld.opA.impostor(t, "a.localhost", "mimi://a.localhost/u/spy")
	in := spy.group()
	theWorld.opA.record(t)
	creation := in.creation(t)
	creation.Token = client.Tokens(alice.c, mimimi.TokenGroup, "a.localhost")[0] // whoever has an account has some
	_, err = theWorld.opA.hub().CreateGroup(t.Context(), creation)
	check(t, err)
	_, err = offer(t, in.ID, adding(t, &in.Insider, adds, keys, func([]*mimimi.LinkKey) {}))
	check(t, err)

	var arrived atomic.Bool
	watchQueue(t, theWorld.opB, func(e *mimimiv1.QueueEntry) {
		arrived.Store(arrived.Load() || e.Delivery != nil && string(e.Delivery.GroupId) == in.ID.Wire())
	})
	told := len(bob.events(client.EventWarning, client.EventGroupJoined, client.EventJoined))
	until(t, "the Welcome", arrived.Load, bob)
	check(t, bob.c.Sync(t.Context()))
	if n := len(bob.groups()); n != 0 {
		t.Errorf("bob is in %d groups", n)
	}
	if n := len(bob.events(client.EventWarning, client.EventGroupJoined, client.EventJoined)); n != told {
		t.Error("bob was told")
	}
	b, err := theWorld.a.Operator(t.Context())
	check(t, err)
	defer closeBus(t, b)
	page, _, err := b.Read(t.Context(), b.GroupLog([]byte(in.ID.Wire())), 0, 256, 1<<20)
	check(t, err)
	for _, m := range page {
		e := new(mimimiv1.GroupEntry)
		check(t, proto.Unmarshal(m.Data, e))
		if e.GetApplication() != nil {
			t.Error("bob said something")
		}
	}
}

// TestGroupThatAllowsStrangers: a contact makes a group that allows members whom nobody identifies, and adds bob. His client does not enter it.
func TestGroupThatAllowsStrangers(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	self := theWorld.opA.impostor(t, "a.localhost", alice.c.User().Wire())
	self.cert, self.certKey, self.key = client.Secrets(alice.c)
	for i, allowed := range []bool{true, false} {
		id, err := mimimi.NewGroupID("a.localhost")
		check(t, err)
		in := self.groupAs(id, func(p *mimimi.Policy) { p.UnidentifiedMembers = allowed })
		creation := in.creation(t)
		creation.Token = client.Tokens(alice.c, mimimi.TokenGroup, "a.localhost")[i]
		_, err = theWorld.opA.hub().CreateGroup(t.Context(), creation)
		check(t, err)
		adds, keys, err := client.ClaimFrom(t.Context(), alice.c, bob.c.User())
		check(t, err)
		_, err = offer(t, in.ID, adding(t, &in.Insider, adds, keys, func([]*mimimi.LinkKey) {}))
		check(t, err)
		var arrived atomic.Bool
		watchQueue(t, theWorld.opB, func(e *mimimiv1.QueueEntry) {
			arrived.Store(arrived.Load() || e.Delivery != nil && string(e.Delivery.GroupId) == in.ID.Wire())
		})
		until(t, "the Welcome", arrived.Load, bob)
		check(t, bob.c.Sync(t.Context()))
		if entered := len(bob.groups()) == 1; entered == allowed {
			t.Errorf("strangers are allowed: %v; bob entered: %v", allowed, entered)
		}
	}
}

// made is a group that an impostor made by itself.
type made struct{ client.Insider }

func (i *impostor) group() *made {
	i.t.Helper()
	id, err := mimimi.NewGroupID(i.domain)
	check(i.t, err)
	return i.groupAs(id)
}

// groupAs makes a group with an id of one's choice, and a policy that may be changed.
func (i *impostor) groupAs(id mimimi.GroupID, change ...func(*mimimi.Policy)) *made {
	i.t.Helper()
	kp, keys := i.keyPackage()
	cred, err := mimimi.ParsePseudonymousCredential(kp.Leaf().Credential())
	check(i.t, err)
	policy := &mimimi.Policy{Version: 1, Admins: []mimimi.UserPseudonym{cred.UserPseudonym}, MayAdd: mimimi.RoleMember,
		MayRemove: mimimi.RoleAdmin, MayInvite: mimimi.RoleMember, ExternalJoins: true, LastResort: true, MaxLeaves: 1000}
	for _, f := range change {
		f(policy)
	}
	g, err := mls.NewGroup(mls.GroupConfig{GroupID: []byte(id.Wire()), KeyPackage: kp, Secrets: keys, Rules: laxRules(), PastEpochs: 8,
		Extensions: mimimi.GroupExtensions(policy)})
	check(i.t, err)
	own := cred.LinkKey(i.key)
	return &made{client.Insider{ID: id, Group: g, Own: *keys, Keys: []*mimimi.LinkKey{&own}}}
}

func (m *made) creation(t *testing.T) *mimimiv1.CreateGroupRequest {
	t.Helper()
	exts, err := hubExtensions(m.Group)
	check(t, err)
	info, err := m.Group.GroupInfo(exts, false)
	check(t, err)
	return &mimimiv1.CreateGroupRequest{RequestId: random(16), GroupInfo: info, RatchetTree: m.Group.Public().Tree()}
}
