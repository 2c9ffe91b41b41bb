package provider

import (
	"bytes"
	"context"
	"crypto/rand"
	"net/http"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/oblivious"
	"mimimi.example/pkg/redeem/redeemtest"
)

func randomRequest() []byte {
	b := make([]byte, mimimi.SealedConnectionRequestSize)
	rand.Read(b)
	return b
}

// items fetches a person's inbox.
func (r *replica) items(p *person) []*mimimiv1.InboxItem {
	r.d.t.Helper()
	answer, err := r.accounts().FetchInbox(r.d.t.Context(), &mimimiv1.FetchInboxRequest{Client: p.client.Wire(), Signed: p.sign(r.d.clock.Now(), "fetch inbox", nil)})
	if err != nil {
		r.d.t.Fatalf("FetchInbox: %v", err)
	}
	return answer.GetItems()
}

func TestGetRecord(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice := r.register("alice")
	record := alice.record(d.clock.Now())
	if err := r.publish(alice, record.Marshal()); err != nil {
		t.Fatal(err)
	}
	identity := r.document(d.name).IdentityKey
	get := func(user string) ([]byte, error) {
		answer, err := r.inbox(d.name).GetRecord(t.Context(), &mimimiv1.GetRecordRequest{User: user})
		return answer.GetRecord(), err
	}
	known, err := get(alice.user.Wire())
	if err != nil {
		t.Fatal(err)
	}
	if p, err := mimimi.ParsePaddedConnectionRecord(known); err != nil || !bytes.Equal(p.Marshal(), record.Marshal()) {
		t.Errorf("the record that was published is not the one that is served: %v", err)
	}
	for _, user := range []string{"mimi://a.example/u/nobody", "mimi://a.example/u/x", r.register("silent").user.Wire()} {
		unknown, err := get(user)
		if err != nil || len(unknown) != len(known) || len(unknown) != recordSize {
			t.Fatalf("an unknown user's answer: %d bytes, %v", len(unknown), err)
		}
		p, err := mimimi.ParsePaddedConnectionRecord(unknown)
		if err != nil || p.User.Wire() != user || p.Certificate.User != p.User {
			t.Fatalf("it does not look like a record: %v", err)
		}
		if p.Verify(identity, d.clock.Now()) == nil || p.Certificate.Verify(identity, d.clock.Now()) == nil {
			t.Error("it verifies")
		}
		if now := d.clock.Now(); now.Before(p.Certificate.NotBefore) || !now.Before(p.Certificate.NotAfter) || !now.Before(p.NotAfter) || p.NotAfter.After(now.Add(recordTime)) {
			t.Error("its dates are not those of a record in use")
		}
		again, err := get(user)
		if err != nil || !bytes.Equal(again, unknown) {
			t.Errorf("the second answer differs: %v", err)
		}
	}
	a, b := must(get("mimi://a.example/u/nobody")), must(get("mimi://a.example/u/nobodx"))
	if bytes.Equal(a[200:600], b[200:600]) {
		t.Error("two unknown users have the same record")
	}
	for _, user := range []string{"", "alice", "mimi://b.example/u/bob", "mimi://a.example/d/6f4dfc0b-7a7c-4f3f-9a6e-0c1f6f8f6a11", "mimi://a.example/u/" + string(bytes.Repeat([]byte("y"), 400))} {
		_, err := get(user)
		wantCode(t, "not a user of this domain", err, connect.CodeInvalidArgument)
	}
}

// TestRecordAnswersAlike compares what the edge sees and what the gateway's client sees: status, headers and sizes.
func TestRecordAnswersAlike(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice := r.register("alice")
	if err := r.publish(alice, alice.record(d.clock.Now()).Marshal()); err != nil {
		t.Fatal(err)
	}
	config := r.document(d.name).OHTTPKeys
	i := slices.IndexFunc(config, func(k mimimi.OHTTPKey) bool { return k.Service == "inbox" })
	type shape struct {
		sealed  int
		status  int
		headers int
		body    int64
	}
	look := func(user string) shape {
		var s shape
		transport := must(oblivious.NewTransport(config[i].Config, func(ctx context.Context, b []byte) ([]byte, error) {
			answer, err := r.relay().Relay(ctx, &mimimiv1.RelayRequest{Domain: d.name, Service: "inbox", EncapsulatedRequest: b})
			s.sealed = len(answer.GetEncapsulatedResponse())
			return answer.GetEncapsulatedResponse(), err
		}))
		spy := roundTripper(func(req *http.Request) (*http.Response, error) {
			resp, err := transport.RoundTrip(req)
			if err == nil {
				s.status, s.headers, s.body = resp.StatusCode, len(resp.Header), resp.ContentLength
			}
			return resp, err
		})
		client := mimimiv1connect.NewInboxServiceClient(&http.Client{Transport: spy}, "https://inbox.invalid")
		if _, err := client.GetRecord(t.Context(), &mimimiv1.GetRecordRequest{User: user}); err != nil {
			t.Fatal(err)
		}
		return s
	}
	if known, unknown := look(alice.user.Wire()), look("mimi://a.example/u/nobody"); known != unknown {
		t.Errorf("known %+v, unknown %+v", known, unknown)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestDeposit(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice := r.register("alice")
	inbox := r.inbox(d.name)
	put := func(id []byte, user string, sealed []byte) error {
		token := d.token(mimimi.TokenConnect, d.name, digest("test", id, []byte(user), sealed)) // a replay's is the same
		_, err := inbox.Deposit(t.Context(), &mimimiv1.DepositRequest{Token: token, RequestId: id, User: user, SealedRequest: sealed})
		return err
	}
	id, sealed := randomID(), randomRequest()
	for range 3 { // the second and third are replays
		if err := put(id[:], alice.user.Wire(), sealed); err != nil {
			t.Fatalf("Deposit: %v", err)
		}
	}
	items := r.items(alice)
	if len(items) != 1 || !bytes.Equal(items[0].GetSealedRequest(), sealed) {
		t.Fatalf("the inbox holds %d requests, want the one", len(items))
	}
	other := randomID()
	for name, err := range map[string]error{
		"used id":             put(id[:], alice.user.Wire(), randomRequest()),
		"used id, other user": put(id[:], "mimi://a.example/u/nobody", sealed),
		"short":               put(other[:], alice.user.Wire(), sealed[1:]),
		"long":                put(other[:], alice.user.Wire(), append(sealed, 0)),
		"short, unknown user": put(other[:], "mimi://a.example/u/nobody", sealed[1:]),
		"id of 15 bytes":      put(other[1:], alice.user.Wire(), sealed),
		"no id":               put(nil, alice.user.Wire(), sealed),
		"other domain":        put(other[:], "mimi://b.example/u/bob", sealed),
		"no user":             put(other[:], "", sealed),
	} {
		wantCode(t, name, err, connect.CodeInvalidArgument)
	}
	// Nobody's inbox: the same answers, for the replay and for the used id too.
	id = randomID()
	for range 2 {
		if err := put(id[:], "mimi://a.example/u/nobody", sealed); err != nil {
			t.Errorf("unknown user: %v", err)
		}
	}
	wantCode(t, "used id, unknown user", put(id[:], "mimi://a.example/u/nobody", randomRequest()), connect.CodeInvalidArgument)
	if n := len(r.items(alice)); n != 1 {
		t.Errorf("the inbox holds %d requests, want 1", n)
	}
}

// TestAckInbox: what was acknowledged is gone, the rest stays; position 0 is nothing.
func TestAckInbox(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice, bob := r.register("alice"), r.register("bob")
	inbox := r.inbox(d.name)
	for range 3 {
		for _, p := range []*person{alice, bob} {
			id := randomID()
			if _, err := inbox.Deposit(t.Context(), &mimimiv1.DepositRequest{Token: d.token(mimimi.TokenConnect, d.name, id[:]), RequestId: id[:], User: p.user.Wire(), SealedRequest: randomRequest()}); err != nil {
				t.Fatal(err)
			}
		}
	}
	ack := func(p *person, n uint64) {
		t.Helper()
		_, err := r.accounts().AckInbox(t.Context(), &mimimiv1.AckInboxRequest{Client: p.client.Wire(), Position: n, Signed: p.sign(d.clock.Now(), "ack inbox", position(n))})
		if err != nil {
			t.Fatal(err)
		}
	}
	items := r.items(alice)
	if len(items) != 3 {
		t.Fatalf("the inbox holds %d requests, want 3", len(items))
	}
	ack(alice, 0)
	if n := len(r.items(alice)); n != 3 {
		t.Errorf("acknowledging nothing left %d of 3", n)
	}
	ack(alice, items[1].GetPosition())
	ack(alice, items[1].GetPosition())
	if left := r.items(alice); len(left) != 1 || left[0].GetPosition() != items[2].GetPosition() {
		t.Errorf("%d requests are left, want the third", len(left))
	}
	if n := len(r.items(bob)); n != 3 {
		t.Errorf("another user's inbox holds %d requests, want 3", n)
	}
}

// TestInboxFull: a full inbox drops silently; nobody's is emptied.
func TestInboxFull(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice := r.register("alice")
	m := must(newMetrics(nil))
	side := &inboxSide{domain: d.name, bus: r.bus, fakes: must(newFakes(make([]byte, 32))), redeemer: redeemtest.AcceptAll{}, now: d.clock.Now, m: m}
	for name, user := range map[string]string{"known": alice.user.Wire(), "unknown": "mimi://a.example/u/nobody"} {
		for i := range 258 {
			id := randomID()
			if _, err := side.Deposit(t.Context(), &mimimiv1.DepositRequest{RequestId: id[:], User: user, SealedRequest: randomRequest()}); err != nil {
				t.Fatalf("%s user, deposit %d: %v", name, i, err)
			}
		}
	}
	if n := must(r.bus.Count(t.Context(), r.bus.Inbox(alice.user.Wire()))); n != 256 {
		t.Errorf("the inbox holds %d requests, want 256", n)
	}
	if n := must(r.bus.Count(t.Context(), r.bus.Inbox(""))); n > 256 {
		t.Errorf("nobody's inbox holds %d requests", n)
	}
}

// TestDepositAfterCrash kills a deposit after each of its writes; the repeat delivers, and the request is there once.
func TestDepositAfterCrash(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	side := &inboxSide{domain: d.name, bus: r.bus, fakes: must(newFakes(make([]byte, 32))), redeemer: redeemtest.AcceptAll{}, now: d.clock.Now, m: must(newMetrics(nil))}
	for name, before := range map[string]func(*deposit, string) error{
		"id taken": func(x *deposit, _ string) error {
			_, err := side.take(t.Context(), x, false)
			return err
		},
		"entry written": func(x *deposit, user string) error {
			if _, err := side.take(t.Context(), x, false); err != nil {
				return err
			}
			return side.append(t.Context(), user, true, x)
		},
	} {
		p := r.register("user-" + name[:2])
		x := &deposit{id: randomID(), user: p.user, sealed: randomRequest()}
		if err := before(x, p.user.Wire()); err != nil {
			t.Fatal(err)
		}
		_, err := side.Deposit(t.Context(), &mimimiv1.DepositRequest{RequestId: x.id[:], User: x.user.Wire(), SealedRequest: x.sealed})
		if n := len(r.items(p)); err != nil || n != 1 {
			t.Errorf("%s: %d requests, %v", name, n, err)
		}
	}
}

func TestFakeDates(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC)
	for _, random := range [][]byte{make([]byte, 32), bytes.Repeat([]byte{0xff}, 32), digest("x")} {
		var changes int
		last := fakeDate(random, recordRenewal, start)
		for h := range 24 * 60 {
			now := start.Add(time.Duration(h) * time.Hour)
			at := fakeDate(random, recordRenewal, now)
			if at.After(now) || now.Sub(at) > recordRenewal+24*time.Hour || at.Hour() != 0 {
				t.Fatalf("at %v: %v", now, at)
			}
			if !at.Equal(last) {
				changes++
			}
			last = at
		}
		if changes != 2 {
			t.Errorf("%d changes in 60 days, want 2", changes)
		}
	}
}
