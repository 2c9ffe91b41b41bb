package client_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/cmd/mimimi/domain"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/redeem/redeemtest"
)

// twoDocuments has a domain make a second document of each week, with a queue key of its own in it, and o's provider show that one to its users.
func twoDocuments(t *testing.T, o, about *operator, name string) (undo func()) {
	t.Helper()
	var identity mls.SignatureKey
	about.key(t, "identity.key", &identity)
	marked, err := mimimi.Suite.GenerateHPKEKey()
	check(t, err)
	return meddle(t, o, mimimiv1connect.RelayServiceGetKeyDocumentProcedure, func(ctx context.Context, req *mimimiv1.GetKeyDocumentRequest,
		honest func(context.Context, *mimimiv1.GetKeyDocumentRequest) (*mimimiv1.GetKeyDocumentResponse, error)) (*mimimiv1.GetKeyDocumentResponse, error) {
		res, err := honest(ctx, req)
		if err != nil || req.Domain != name {
			return res, err
		}
		d, err := mimimi.ParseKeyDocument(res.Document)
		if err != nil {
			return nil, err
		}
		d.QueueKeys = append(d.QueueKeys, mimimi.QueueKey{KeyID: 77, Public: marked.Public(), Domain: name})
		if err := mimimi.SignKeyDocument(d, identity); err != nil {
			return nil, err
		}
		return &mimimiv1.GetKeyDocumentResponse{Document: d.Marshal()}, nil
	})
}

// third is a domain that federates with both of the world's.
func third(t *testing.T) *domain.Domain {
	t.Helper()
	dir := t.TempDir()
	d, err := domain.Start(t.Context(), domain.Options{Dir: dir, Domain: "d.localhost", Peers: []string{theWorld.a.PeerFile(), theWorld.b.PeerFile()},
		TokenQuotas: quotas, NewIssuerKey: redeemtest.IssuerKey})
	check(t, err)
	t.Cleanup(func() {
		if err := d.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	peer, err := os.ReadFile(d.PeerFile())
	check(t, err)
	for _, o := range []*operator{theWorld.opA, theWorld.opB} {
		check(t, os.WriteFile(filepath.Join(o.dir, "peers", "d.localhost.json"), peer, 0o600))
	}
	return d
}

// warned says whether a person was told that a domain's keys are not what others are shown.
func (p *person) warned(domain string) bool {
	return slices.ContainsFunc(p.events(client.EventKeyDocument), func(e client.Event) bool { return e.Domain == domain })
}

// meets makes a person know a domain: it asks for somebody there.
func (p *person) meets(t *testing.T, domain string) {
	t.Helper()
	nobody, err := mimimi.ParseUser("mimi://" + domain + "/u/nobody")
	check(t, err)
	until(t, p.name+" reaches "+domain, func() bool { return errors.Is(p.c.Connect(t.Context(), nobody), client.ErrUnknownUser) }, p)
}

// TestKeyDocumentShownToOne: a key document that only one client, or one provider's clients, are shown is found by asking another domain: before it is used where
// one is known, and as soon as one is known otherwise. It is not used, and the user is told. The cases share three domains, of which what one has
// learnt counts in the next.
func TestKeyDocumentShownToOne(t *testing.T) {
	at := third(t)
	dora := register(t, at, "dora")
	bob := register(t, theWorld.b, "bob")
	dora.meets(t, "b.localhost") // the domains know each other
	user := func(t *testing.T) *person {
		t.Helper()
		return registerConfig(t, "alice", client.Config{Provider: theWorld.a.Info(), Stock: client.Stock{OneTime: 2, LastResort: 1}, Spread: -1})
	}
	t.Run("before first use", func(t *testing.T) {
		alice := user(t)
		alice.meets(t, "d.localhost")
		asked := 0
		meddle(t, theWorld.opB, mimimiv1connect.InboxServiceGetRecordProcedure, func(ctx context.Context, req *mimimiv1.GetRecordRequest,
			honest func(context.Context, *mimimiv1.GetRecordRequest) (*mimimiv1.GetRecordResponse, error)) (*mimimiv1.GetRecordResponse, error) {
			asked++
			return honest(ctx, req)
		})
		undo := twoDocuments(t, theWorld.opA, theWorld.opB, "b.localhost")
		for range 2 {
			wantError(t, "connect", alice.c.Connect(t.Context(), bob.c.User()), client.ErrIdentity)
		}
		alice.reopen()
		wantError(t, "connect in another process", alice.c.Connect(t.Context(), bob.c.User()), client.ErrIdentity)
		if n := len(alice.events(client.EventKeyDocument)); n != 1 || !alice.warned("b.localhost") || asked != 0 {
			t.Errorf("alice was told %d times, and asked b %d times", n, asked)
		}
		if s := alice.keys("b.localhost"); s.State != client.KeysRefused {
			t.Errorf("the keys are %+v", s)
		}
		undo()
		check(t, alice.c.Connect(t.Context(), bob.c.User()))
		if s := alice.keys("b.localhost"); s.State == client.KeysRefused {
			t.Error("the good keys are refused")
		}
	})
	t.Run("as soon as another domain is known", func(t *testing.T) {
		alice := user(t)
		undo := twoDocuments(t, theWorld.opA, theWorld.opB, "b.localhost")
		check(t, alice.c.Connect(t.Context(), bob.c.User()))
		check(t, alice.c.Sync(t.Context()))
		if alice.warned("b.localhost") {
			t.Fatal("alice was warned by nobody")
		}
		alice.meets(t, "d.localhost")
		until(t, "alice is warned", func() bool { return alice.warned("b.localhost") }, alice)
		_, err := alice.c.Join(t.Context(), linkTo(t, bob))
		wantError(t, "join there", err, client.ErrIdentity)
		undo()
	})
	t.Run("the own domain's", func(t *testing.T) {
		undo := twoDocuments(t, theWorld.opA, theWorld.opA, "a.localhost")
		defer undo()
		alice := user(t)
		alice.meets(t, "b.localhost")
		until(t, "alice is warned", func() bool { return alice.warned("a.localhost") }, alice)
		_, err := alice.c.CreateGroup(t.Context(), "")
		wantError(t, "create a group", err, client.ErrIdentity)
	})
	t.Run("honest", func(t *testing.T) {
		alice := user(t)
		asked := make(map[string]int)
		count := func(name string, o *operator) {
			meddle(t, o, mimimiv1connect.InboxServiceGetPeerDocumentProcedure, func(ctx context.Context, req *mimimiv1.GetPeerDocumentRequest,
				honest func(context.Context, *mimimiv1.GetPeerDocumentRequest) (*mimimiv1.GetPeerDocumentResponse, error)) (*mimimiv1.GetPeerDocumentResponse, error) {
				asked[req.Domain]++
				return honest(ctx, req)
			})
		}
		count("b", theWorld.opB)
		alice.meets(t, "b.localhost")
		alice.meets(t, "d.localhost")
		for range 3 {
			check(t, alice.c.Sync(t.Context()))
		}
		if n := len(alice.events(client.EventKeyDocument)); n != 0 {
			t.Errorf("alice was warned %d times", n)
		}
		for _, name := range []string{"a.localhost", "d.localhost"} { // b's own is asked of d
			if asked[name] > 1 {
				t.Errorf("%s was compared %d times", name, asked[name])
			}
		}
		if asked["d.localhost"] != 1 {
			t.Error("d's document was not compared before its first use")
		}
	})
}

// linkTo is an invitation into a new group of somebody's.
func linkTo(t *testing.T, p *person) string {
	t.Helper()
	id, err := p.c.CreateGroup(t.Context(), "")
	check(t, err)
	link, err := p.c.Invite(t.Context(), id, client.InviteOptions{})
	check(t, err)
	return link
}
