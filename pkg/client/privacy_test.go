package client_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/cmd/mimimi/domain"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// registerWith is register with a stock of KeyPackages of its own.
func registerWith(t *testing.T, d *domain.Domain, name string, stock client.Stock) *person {
	t.Helper()
	p := &person{t: t, name: name, cfg: client.Config{Dir: t.TempDir(), Provider: d.Info(), Stock: stock, Spread: -1}}
	c, err := client.Register(t.Context(), p.cfg, fmt.Sprintf("%s-%d", name, time.Now().UnixNano()))
	if err != nil {
		t.Fatalf("%s: register: %v", name, err)
	}
	p.use(c)
	t.Cleanup(p.close)
	return p
}

// sets counts what the store lists for a person.
func (p *person) sets() (oneTime, lastResort []*mimimiv1.SetSummary) {
	p.t.Helper()
	all, err := client.ListSets(p.t.Context(), p.c)
	if err != nil {
		p.t.Fatalf("%s: list: %v", p.name, err)
	}
	for _, s := range all {
		if s.LastResort {
			lastResort = append(lastResort, s)
		} else {
			oneTime = append(oneTime, s)
		}
	}
	return oneTime, lastResort
}

// marks remembers everything by which two leaves could be told to be of one client, and where it was seen.
type marks map[string]string

// see fails the test if anything was seen before, in whatever role.
func (m marks) see(t *testing.T, where string, values map[string][]byte) {
	t.Helper()
	for role, v := range values {
		if len(v) == 0 {
			t.Fatalf("%s: no %s", where, role)
		}
		if before, ok := m[string(v)]; ok {
			t.Errorf("%s: the %s is the %s", where, role, before)
		}
		m[string(v)] = role + " of " + where
	}
}

// leafMarks are the marks of one leaf.
func leafMarks(t *testing.T, l *mls.LeafNode) map[string][]byte {
	t.Helper()
	id, err := mimimi.ParseLeaf(l)
	if err != nil {
		t.Fatalf("a leaf does not keep the rules: %v", err)
	}
	return map[string][]byte{
		"user pseudonym": []byte(id.Credential.UserPseudonym.Wire()), "client pseudonym": []byte(id.Credential.ClientPseudonym.Wire()),
		"signature key": l.SignatureKey(), "encryption key": l.EncryptionKey(), "sealed queue id": id.EncryptedQueueID,
		"sealed identity": id.Credential.IdentityLinkCiphertext,
	}
}

// TestSetsShareNothing: no two KeyPackages at the store, and no two leaves of one client, have anything in common that tells whose they are.
func TestSetsShareNothing(t *testing.T) {
	stock := client.Stock{OneTime: 4, LastResort: 2}
	dora := registerWith(t, theWorld.a, "dora", stock)
	seen := make(marks)
	for n := range stock.OneTime + stock.LastResort { // the last-resort sets come last, the one that was used least first
		set, lastResort, err := client.ClaimOwn(t.Context(), dora.c)
		if err != nil {
			t.Fatalf("claim %d: %v", n, err)
		}
		if len(set) != 1 || lastResort != (n >= stock.OneTime) {
			t.Fatalf("claim %d: %d KeyPackages, last resort: %v", n, len(set), lastResort)
		}
		values := leafMarks(t, set[0].Leaf())
		values["init key"] = set[0].InitKey()
		seen.see(t, fmt.Sprintf("set %d", n), values)
	}

	alice, bob := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob")
	connect(t, alice, bob)
	for n := range 2 {
		id, err := alice.c.CreateGroup(t.Context(), "")
		if err != nil {
			t.Fatalf("create: %v", err)
		}
		if err := alice.c.Add(t.Context(), id, bob.c.User()); err != nil {
			t.Fatalf("add: %v", err)
		}
		until(t, "identified", func() bool { return alice.members(id) == 2 }, bob, alice)
		for _, p := range []*person{alice, bob} {
			leaves, err := client.Leaves(alice.c, id, p.c.User())
			if err != nil || len(leaves) != 1 {
				t.Fatalf("%s has %d leaves: %v", p.name, len(leaves), err)
			}
			seen.see(t, fmt.Sprintf("%s in group %d", p.name, n), leafMarks(t, leaves[0]))
		}
	}
}

// TestLastResortStock: the store has exactly the stock, and who is used up can still be added, again and again, by a last-resort set.
func TestLastResortStock(t *testing.T) {
	alice, bob := register(t, theWorld.a, "alice"), registerWith(t, theWorld.b, "bob", client.Stock{OneTime: 2, LastResort: 1})
	oneTime, lastResort := bob.sets()
	if len(oneTime) != 2 || len(lastResort) != 1 || lastResort[0].Uses != 0 {
		t.Fatalf("after the registration: %d one-time and %d last-resort sets, want 2 and 1", len(oneTime), len(lastResort))
	}
	connect(t, alice, bob)
	oneTime, _ = bob.sets()
	const beyond = 2
	var groups []string
	for range len(oneTime) + beyond { // bob is away, and refills nothing
		id, err := alice.c.CreateGroup(t.Context(), "")
		if err != nil {
			t.Fatalf("create: %v", err)
		}
		if err := alice.c.Add(t.Context(), id, bob.c.User()); err != nil {
			t.Fatalf("add: %v", err)
		}
		groups = append(groups, id)
	}
	uses := uint32(0)
	oneTime, lastResort = bob.sets()
	for _, s := range lastResort {
		uses += s.Uses
	}
	if len(oneTime) != 0 || uses != beyond {
		t.Errorf("%d one-time sets are left and last-resort sets were used %d times, want 0 and %d", len(oneTime), uses, beyond)
	}
	for _, id := range groups {
		alice.send(id, "hello "+id)
	}
	until(t, "bob reads in every group", func() bool { return len(bob.events(client.EventMessage)) == len(groups) }, bob, alice)
	for _, id := range groups {
		if n := alice.members(id); n != 2 {
			t.Errorf("alice sees %d members, want 2", n)
		}
	}
	oneTime, lastResort = bob.sets()
	fresh := slices.ContainsFunc(lastResort, func(s *mimimiv1.SetSummary) bool { return s.Uses == 0 })
	if len(oneTime) != 2 || !fresh {
		t.Errorf("when bob is back: %d one-time sets, a last-resort one of its own again: %v", len(oneTime), fresh)
	}
}

// ask connects from to to, and returns the sealed request as it went to the provider.
func ask(t *testing.T, from, to *person) (sealed []byte) {
	t.Helper()
	client.SetFault(from.c, func(bool) error {
		if s := client.SealedFor(from.c, to.c.User()); s != nil {
			sealed = s
		}
		return nil
	})
	if err := from.c.Connect(t.Context(), to.c.User()); err != nil {
		t.Fatalf("connect: %v", err)
	}
	client.SetFault(from.c, nil)
	if len(sealed) != mimimi.SealedConnectionRequestSize {
		t.Fatalf("the request has %d bytes", len(sealed))
	}
	return sealed
}

// replay shows to, who is at domain b, the same request again, by a deposit and as its provider can, and returns once it has certainly been read: another request, deposited after it, is there.
func replay(t *testing.T, to *person, sealed []byte) {
	t.Helper()
	shown := 0
	undo := meddle(t, theWorld.opB, mimimiv1connect.AccountServiceFetchInboxProcedure, func(ctx context.Context, req *mimimiv1.FetchInboxRequest,
		honest func(context.Context, *mimimiv1.FetchInboxRequest) (*mimimiv1.FetchInboxResponse, error)) (*mimimiv1.FetchInboxResponse, error) {
		res, err := honest(ctx, req)
		if len(res.GetItems()) > 0 && req.Client == client.DeviceID(to.c) {
			res.Items = append([]*mimimiv1.InboxItem{{Position: res.Items[0].Position, SealedRequest: sealed}}, res.Items...)
			shown++
		}
		return res, err
	})
	defer undo()
	other := registerWith(t, theWorld.a, "other", client.Stock{OneTime: 1, LastResort: 1})
	for range 2 { // whoever replays pays with tokens of its own
		if err := client.Deposit(t.Context(), other.c, to.c.User(), sealed); err != nil {
			t.Fatalf("deposit: %v", err)
		}
	}
	ask(t, other, to)
	until(t, "the request behind it", func() bool { return len(to.asked(other)) == 1 }, to)
	if shown == 0 {
		t.Error("the provider did not show it again")
	}
}

// asked are the requests of somebody that a person was told of, ever.
func (p *person) asked(from *person) []client.Event {
	p.t.Helper()
	return slices.DeleteFunc(p.events(client.EventRequest), func(e client.Event) bool { return e.User != from.c.User() })
}

// TestRequestShownAgain: a connection request that is deposited again, by the provider or whoever else has its bytes, is shown once only: before
// it is fetched or answered, after it was rejected, and after it was accepted.
func TestRequestShownAgain(t *testing.T) {
	bob := register(t, theWorld.b, "bob")
	for name, answer := range map[string]func(ctx context.Context, id string) error{
		"rejected": bob.c.Reject,
		"accepted": bob.c.Accept,
	} {
		t.Run(name, func(t *testing.T) {
			alice := register(t, theWorld.a, "alice")
			once := func(when string, waiting int) {
				t.Helper()
				if n := len(bob.asked(alice)); n != 1 {
					t.Errorf("%s: bob was told of %d requests, want 1", when, n)
				}
				n := len(slices.DeleteFunc(bob.requests(), func(r client.Request) bool { return r.From != alice.c.User() }))
				if n != waiting {
					t.Errorf("%s: %d requests wait, want %d", when, n, waiting)
				}
			}
			sealed := ask(t, alice, bob)
			replay(t, bob, sealed)
			once("before it was fetched", 1)
			replay(t, bob, sealed)
			once("before the answer", 1)
			id := bob.asked(alice)[0].Request
			if err := answer(t.Context(), id); err != nil {
				t.Fatalf("answer: %v", err)
			}
			replay(t, bob, sealed)
			once("after the answer", 0)
			wantError(t, "accept what is over", bob.c.Accept(t.Context(), id), client.ErrUnknownRequest)
			if name == "rejected" {
				return
			}
			until(t, "connection", func() bool { return alice.connected(bob) && bob.connected(alice) }, alice, bob)
			replay(t, bob, sealed)
			once("after the connection", 0)
			if !bob.connected(alice) {
				t.Error("the replay undid the connection")
			}
			changed := bytes.Clone(sealed)
			changed[len(changed)/2] ^= 1
			replay(t, bob, changed)
			once("with a bit changed", 0)
		})
	}
}
