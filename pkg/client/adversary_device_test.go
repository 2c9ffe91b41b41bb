package client_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
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

// falseSecrets are a user's secrets, with keys and a token of somebody else's making.
func falseSecrets(t *testing.T, of *person, change func(s *mimimiv1.SharedSecrets)) *mimimiv1.DeviceSync {
	t.Helper()
	s, made := client.OwnSecrets(of.c), register(t, theWorld.a, "mallory")
	other := client.OwnSecrets(made.c)
	s.WriteKey, s.SelfToken, s.RecordKey, s.ConnectionKey, s.Number, s.KeyNumber = other.WriteKey, other.SelfToken, other.RecordKey, other.ConnectionKey, s.Number+1, s.KeyNumber+1
	change(s)
	return &mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Secrets{Secrets: s}}
}

// forgeries is what somebody says who would have a user's devices take over what is not the user's.
func forgeries(t *testing.T, of *person) []*mimimiv1.DeviceSync {
	t.Helper()
	id, err := mimimi.NewGroupID("a.localhost")
	check(t, err)
	pseudonym, err := mimimi.NewUserPseudonym("a.localhost")
	check(t, err)
	key, token := mimimi.NewConnectionKey().Bytes(), mimimi.NewConnectionToken().Bytes()
	return []*mimimiv1.DeviceSync{
		falseSecrets(t, of, func(*mimimiv1.SharedSecrets) {}),
		{Change: &mimimiv1.DeviceSync_Contact{Contact: &mimimiv1.SharedContact{Number: 9, User: "mimi://a.localhost/u/mallory", State: "connected", Key: key, Token: token, OwnToken: token}}},
		{Change: &mimimiv1.DeviceSync_Group{Group: &mimimiv1.SharedGroup{GroupId: []byte(id.Wire()), Name: "trap", UserPseudonym: pseudonym.Wire()}}},
		{Change: &mimimiv1.DeviceSync_Ask{Ask: true}},
	}
}

// untouched returns a check that nothing of a person's secrets, contacts and groups has changed since.
func (p *person) untouched() func(when string) {
	p.t.Helper()
	contacts := func() int {
		all, err := p.c.Contacts(p.t.Context())
		check(p.t, err)
		return len(all)
	}
	secrets, had, groups := client.OwnSecrets(p.c), contacts(), len(p.groups())
	return func(when string) {
		p.t.Helper()
		if !proto.Equal(client.OwnSecrets(p.c), secrets) || contacts() != had || len(p.groups()) != groups || client.Shared(p.c) != 0 || client.OwesDevices(p.c) {
			p.t.Errorf("%s: %s has taken something over", when, p.name)
		}
	}
}

// TestForgedDeviceSync: what a user's devices tell each other is believed of a member of their own group, whoever else says it; of a device that was removed no more; and never
// what cannot be. Each part goes on with the devices and groups of the one before.
func TestForgedDeviceSync(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	alice.atOnce()
	phone := alice.addDevice("phone")
	tablet := alice.addDevice("tablet", phone)
	connect(t, alice, bob)
	if _, err := bob.c.CreateGroup(t.Context(), "friends"); err != nil {
		t.Fatalf("create: %v", err)
	}
	check(t, bob.c.Add(t.Context(), bob.group(), users(alice)...))
	own := []*person{alice, phone, tablet}
	until(t, "all in", func() bool {
		return alice.group() != "" && phone.group() != "" && tablet.group() != "" && phone.connected(bob) && tablet.connected(bob) && !client.OwesDevices(alice.c) &&
			bob.clients(bob.group()) == 4 && client.Shared(phone.c)+client.Shared(tablet.c) == 0
	}, append(own, bob)...)

	t.Run("a member of another group", func(t *testing.T) {
		same := []func(string){alice.untouched(), phone.untouched(), tablet.untouched()}
		for _, group := range []string{bob.group(), client.ConnectionGroup(bob.c, alice.c.User())} {
			for _, s := range forgeries(t, alice) {
				check(t, client.SaySync(t.Context(), bob.c, group, s))
			}
		}
		bob.send(bob.group(), "done")
		until(t, "heard", func() bool {
			return !slices.ContainsFunc(own, func(p *person) bool { return !slices.Contains(p.contents(p.group()), "done") })
		}, append(own, bob)...)
		for _, check := range same {
			check("said by a contact")
		}
	})

	t.Run("a device that says what cannot be", func(t *testing.T) {
		same := []func(string){alice.untouched(), tablet.untouched()}
		for _, s := range []*mimimiv1.DeviceSync{
			falseSecrets(t, phone, func(s *mimimiv1.SharedSecrets) { s.Number = 1 << 60 }),
			falseSecrets(t, phone, func(s *mimimiv1.SharedSecrets) { s.KeyNumber = 1 << 60 }),
			falseSecrets(t, phone, func(s *mimimiv1.SharedSecrets) { s.WriteKey = []byte("no key") }),
			falseSecrets(t, phone, func(s *mimimiv1.SharedSecrets) { s.NextKey = []byte("no key") }),
			falseSecrets(t, phone, func(s *mimimiv1.SharedSecrets) { s.Record = client.OwnSecrets(bob.c).Record }),
			{Change: &mimimiv1.DeviceSync_Contact{Contact: &mimimiv1.SharedContact{Number: 9, User: bob.c.User().Wire(), State: "connected", Key: []byte("no key")}}},
			{Change: &mimimiv1.DeviceSync_Contact{Contact: &mimimiv1.SharedContact{Number: 1 << 60, User: bob.c.User().Wire(), Gone: true}}},
		} {
			check(t, client.SaySync(t.Context(), phone.c, client.DeviceGroup(phone.c), s))
		}
		for i, p := range []*person{alice, tablet} {
			until(t, "warned", func() bool { return len(p.events(client.EventWarning)) == 7 }, p)
			same[i]("said by a device that cannot know better")
		}
	})

	t.Run("a device that was removed", func(t *testing.T) {
		in, err := client.Inside(phone.c, client.DeviceGroup(phone.c))
		check(t, err)
		forged := forgeries(t, phone)
		check(t, alice.c.RemoveDevice(t.Context(), client.DeviceID(phone.c)))
		until(t, "secrets replaced", func() bool {
			return client.SelfToken(tablet.c) == client.SelfToken(alice.c) && !client.Owes(alice.c) && !client.Owes(tablet.c) && !client.OwesContacts(alice.c)
		}, alice, tablet, bob)
		left := []*person{alice, tablet}
		same := []func(string){alice.untouched(), tablet.untouched()}
		sender, err := mimimi.NewEpochSender(in.Group)
		check(t, err)
		for n, s := range forged {
			body, err := proto.Marshal(s)
			check(t, err)
			message, err := in.Group.Encrypt(mimimi.Envelope{Type: mimimi.EnvelopeDeviceSync, Body: body}.Marshal(), nil, mimimi.PadTo)
			check(t, err)
			_, err = theWorld.opA.hub().SendMessage(t.Context(), &mimimiv1.SendMessageRequest{RequestId: random(16), GroupId: []byte(in.ID.Wire()), Epoch: in.Group.Epoch(),
				Message: message, Signature: sender.SignMessage(in.ID, in.Group.Epoch(), message)})
			if err == nil {
				t.Error("the hub takes what a removed device says")
			}
			for i, p := range left { // a hub that passes it on all the same
				now, err := client.Inside(p.c, client.DeviceGroup(p.c))
				check(t, err)
				check(t, client.Deliver(t.Context(), p.c, &mimimiv1.Delivery{GroupId: []byte(in.ID.Wire()), Sequence: now.Last + 1 + uint64(n), Previous: now.Last,
					Accepted: time.Now().Unix(), Kind: mimimiv1.Delivery_KIND_MESSAGE, Message: message, Epoch: in.Group.Epoch()}))
				same[i]("said by a removed device")
			}
		}
	})
}
