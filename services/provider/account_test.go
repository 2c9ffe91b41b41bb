package provider

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

func TestRegister(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice := r.register("alice")
	now := d.clock.Now
	identity := r.document("a.example").IdentityKey
	if err := alice.certificate.Verify(identity, now()); err != nil {
		t.Errorf("certificate: %v", err)
	}
	if alice.certificate.User != alice.user || alice.certificate.Client != alice.client || !bytes.Equal(alice.certificate.SignatureKey, alice.key.Public()) {
		t.Error("the certificate is for somebody else")
	}
	call := func(p *person, change func(*mimimiv1.RegisterRequest)) (*mimimiv1.RegisterResponse, error) {
		req := p.registration(now())
		if change != nil {
			change(req)
		}
		return r.accounts().Register(t.Context(), req)
	}

	t.Run("repeat", func(t *testing.T) {
		d.clock.add(49 * time.Hour) // a certificate made now would have other dates
		again, err := call(alice, nil)
		if err != nil || !bytes.Equal(again.GetCertificate(), alice.certificate.Marshal()) {
			t.Errorf("a repeat gets another answer: %v", err)
		}
	})
	t.Run("name taken", func(t *testing.T) {
		_, err := call(newPerson("a.example", "alice"), nil)
		wantCode(t, "another key", err, connect.CodePermissionDenied)
		if err == nil || !bytes.Contains([]byte(err.Error()), []byte("name taken")) {
			t.Errorf("the error does not say what is wrong: %v", err)
		}
	})
	t.Run("client taken", func(t *testing.T) {
		mallory := newPerson("a.example", "mallory")
		mallory.client = alice.client
		_, err := call(mallory, nil)
		wantCode(t, "another user's client", err, connect.CodePermissionDenied)
		if _, err := call(newPerson("a.example", "mallory"), nil); err != nil {
			t.Errorf("the name that was refused before is not free: %v", err)
		}
	})
	for _, c := range []struct {
		name   string
		change func(*mimimiv1.RegisterRequest)
		code   connect.Code
	}{
		{"no user", func(r *mimimiv1.RegisterRequest) { r.User = "" }, connect.CodeInvalidArgument},
		{"user of another domain", func(r *mimimiv1.RegisterRequest) { r.User = "mimi://b.example/u/bob" }, connect.CodeInvalidArgument},
		{"client of another domain", func(r *mimimiv1.RegisterRequest) { r.Client = must(mimimi.NewClient("b.example")).Wire() }, connect.CodeInvalidArgument},
		{"user as client", func(r *mimimiv1.RegisterRequest) { r.Client = r.User }, connect.CodeInvalidArgument},
		{"user name too long", func(r *mimimiv1.RegisterRequest) {
			r.User = "mimi://a.example/u/" + string(bytes.Repeat([]byte("x"), 65))
		}, connect.CodeInvalidArgument},
		{"user of a pseudonym's form", func(r *mimimiv1.RegisterRequest) { r.User = must(mimimi.NewUserPseudonym("a.example")).Wire() }, connect.CodeInvalidArgument},
		{"other name than signed", func(r *mimimiv1.RegisterRequest) { r.User += "x" }, connect.CodePermissionDenied},
		{"wrong signature", func(r *mimimiv1.RegisterRequest) { r.Signed.Signature[3] ^= 1 }, connect.CodePermissionDenied},
		{"no proof", func(r *mimimiv1.RegisterRequest) { r.Signed = nil }, connect.CodeInvalidArgument},
		{"short key", func(r *mimimiv1.RegisterRequest) { r.SignatureKey = r.SignatureKey[:31] }, connect.CodePermissionDenied},
		{"short request id", func(r *mimimiv1.RegisterRequest) { r.Signed.RequestId = r.Signed.RequestId[:15] }, connect.CodeInvalidArgument},
		{"minute not signed", func(r *mimimiv1.RegisterRequest) { r.Signed.Minute++ }, connect.CodePermissionDenied},
		{"negative minute", func(r *mimimiv1.RegisterRequest) { r.Signed.Minute = -1 }, connect.CodeInvalidArgument},
		{"absurd minute", func(r *mimimiv1.RegisterRequest) { r.Signed.Minute = 1 << 62 }, connect.CodeInvalidArgument},
		{"oversize", func(r *mimimiv1.RegisterRequest) { r.Signed.Signature = make([]byte, maxAccountBody) }, connect.CodeResourceExhausted},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := call(newPerson("a.example", "zoe"), c.change)
			wantCode(t, c.name, err, c.code)
		})
	}
	t.Run("stale minute", func(t *testing.T) {
		req := newPerson("a.example", "zoe").registration(now().Add(-time.Hour))
		_, err := r.accounts().Register(t.Context(), req)
		wantCode(t, "an hour old", err, connect.CodePermissionDenied)
	})
}

// TestRegisterAfterCrash: a client entry that a crash left behind gives no right, and the repeat goes on from it.
func TestRegisterAfterCrash(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	b := d.bus.Bus("provider")
	side := &accountSide{domain: d.name, bus: b, now: d.clock.Now}
	p := newPerson(d.name, "alice")
	half := &registration{user: p.user, client: p.client, key: p.key.Public()}
	if err := side.claimClient(t.Context(), half); err != nil {
		t.Fatal(err)
	}
	_, err := r.accounts().FetchInbox(t.Context(), &mimimiv1.FetchInboxRequest{Client: p.client.Wire(), Signed: p.sign(d.clock.Now(), "fetch inbox", nil)})
	wantCode(t, "half registered", err, connect.CodePermissionDenied)
	if _, err := r.accounts().Register(t.Context(), p.registration(d.clock.Now())); err != nil {
		t.Errorf("the repeat: %v", err)
	}
	// A client entry for a name that somebody else then got.
	q := newPerson(d.name, "alice")
	if err := side.claimClient(t.Context(), &registration{user: q.user, client: q.client, key: q.key.Public()}); err != nil {
		t.Fatal(err)
	}
	_, err = r.accounts().FetchInbox(t.Context(), &mimimiv1.FetchInboxRequest{Client: q.client.Wire(), Signed: q.sign(d.clock.Now(), "fetch inbox", nil)})
	wantCode(t, "the loser of a name", err, connect.CodePermissionDenied)
}

// TestRegisterRace: of many who want one name at two replicas, one gets it.
func TestRegisterRace(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	replicas := []*replica{d.start(), d.start()}
	const n = 8
	won := make(chan error, n)
	for i := range n {
		go func() {
			p := newPerson(d.name, "alice")
			_, err := replicas[i%2].accounts().Register(t.Context(), p.registration(d.clock.Now()))
			won <- err
		}()
	}
	winners := 0
	for range n {
		if err := <-won; err == nil {
			winners++
		} else {
			wantCode(t, "a loser", err, connect.CodePermissionDenied)
		}
	}
	if winners != 1 {
		t.Errorf("%d got the name", winners)
	}
}

// record is a connection record of p.
func (p *person) record(now time.Time) *mimimi.ConnectionRecord {
	hpke := must(mimimi.Suite.GenerateHPKEKey())
	return must(mimimi.NewConnectionRecord(p.certificate, p.key, hpke.Public(), now.Add(recordTime)))
}

func (r *replica) publish(p *person, record []byte) error {
	_, err := r.accounts().PublishRecord(r.d.t.Context(), &mimimiv1.PublishRecordRequest{
		Client: p.client.Wire(), Record: record, Signed: p.sign(r.d.clock.Now(), "publish record", record),
	})
	return err
}

func TestPublishRecord(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice, bob := r.register("alice"), r.register("bob")
	now := d.clock.Now()
	if err := r.publish(alice, alice.record(now).Marshal()); err != nil {
		t.Fatalf("publish: %v", err)
	}
	wrong := alice.record(now)
	wrong.Signature[0] ^= 1
	old := must(mimimi.NewConnectionRecord(alice.certificate, alice.key, alice.record(now).HPKEKey, now.Add(-48*time.Hour)))
	self := newPerson(d.name, "alice")
	self.client, self.key = alice.client, alice.key
	self.certificate = must(mimimi.IssueClientCertificate(must(mimimi.Suite.GenerateSignatureKey()), self.user, self.client, self.key.Public(), now, certificateTime))
	for name, record := range map[string][]byte{
		"empty":                   nil,
		"garbage":                 []byte("garbage"),
		"another's":               bob.record(now).Marshal(),
		"wrong signature":         wrong.Marshal(),
		"out of date":             old.Marshal(),
		"self-issued certificate": self.record(now).Marshal(),
		"padded":                  append(alice.record(now).Marshal(), 0),
		"too long":                make([]byte, recordSize+1),
	} {
		wantCode(t, name, r.publish(alice, record), connect.CodeInvalidArgument)
	}
	good := alice.record(now).Marshal()
	_, err := r.accounts().PublishRecord(t.Context(), &mimimiv1.PublishRecordRequest{Client: alice.client.Wire(), Record: good, Signed: bob.sign(now, "publish record", good)})
	wantCode(t, "signed by another", err, connect.CodePermissionDenied)
	_, err = r.accounts().PublishRecord(t.Context(), &mimimiv1.PublishRecordRequest{Client: alice.client.Wire(), Record: good, Signed: alice.sign(now, "fetch inbox", good)})
	wantCode(t, "signed for another operation", err, connect.CodePermissionDenied)
}

// TestUnknownClient: a client that is not registered gets the answer that a wrong signature gets.
func TestUnknownClient(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice, nobody := r.register("alice"), newPerson("a.example", "nobody")
	fetch := func(client mimimi.Client, s *mimimiv1.Signed) error {
		_, err := r.accounts().FetchInbox(t.Context(), &mimimiv1.FetchInboxRequest{Client: client.Wire(), Signed: s})
		return err
	}
	unknown, wrong := fetch(nobody.client, nobody.sign(d.clock.Now(), "fetch inbox", nil)), fetch(alice.client, nobody.sign(d.clock.Now(), "fetch inbox", nil))
	wantCode(t, "unknown client", unknown, connect.CodePermissionDenied)
	if fmt.Sprint(unknown) != fmt.Sprint(wrong) {
		t.Errorf("%v differs from %v", unknown, wrong)
	}
	wantCode(t, "no client", fetch(mimimi.Client{}, nil), connect.CodeInvalidArgument)
}
