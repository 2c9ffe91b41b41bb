package provider

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// side is the account side of a replica, to do half of something by.
func (r *replica) side() *accountSide {
	k := must(loadKeys(r.d.cfg, r.d.clock.Now))
	m := must(newMetrics(nil))
	docs := &documents{domain: r.d.name, keys: k, bus: r.bus, now: r.d.clock.Now, m: m}
	return &accountSide{domain: r.d.name, bus: r.bus, identity: k.identity, revocations: newRevocations(docs), now: r.d.clock.Now, m: m}
}

func (r *replica) remove(by, removed *person) error {
	_, err := r.accounts().RemoveClient(context.WithoutCancel(r.d.t.Context()), &mimimiv1.RemoveClientRequest{
		Client: by.client.Wire(), RemovedClient: removed.client.Wire(), Signed: by.sign(r.d.clock.Now(), "remove client", []byte(removed.client.Wire())),
	})
	return err
}

func (r *replica) deleteAccount(p *person) error {
	_, err := r.accounts().DeleteAccount(r.d.t.Context(), &mimimiv1.DeleteAccountRequest{
		Client: p.client.Wire(), User: p.user.Wire(), Signed: p.sign(r.d.clock.Now(), "delete account", []byte(p.user.Wire())),
	})
	return err
}

// revocations is the domain's list as clients are shown it, verified.
func (r *replica) revocations(domain string) *mimimi.RevocationList {
	r.d.t.Helper()
	answer, err := r.relay().GetRevocations(r.d.t.Context(), &mimimiv1.GetRevocationsRequest{Domain: domain})
	if err != nil {
		r.d.t.Fatalf("GetRevocations: %v", err)
	}
	list := must(mimimi.ParseRevocationList(answer.GetList()))
	if err := list.Verify(r.document(domain).IdentityKey, r.d.clock.Now(), 0); err != nil || list.Domain != domain {
		r.d.t.Errorf("the list does not verify: %v", err)
	}
	return list
}

// wantGone fails the test unless nothing on the account channel is open to a client any more.
func (r *replica) wantGone(p *person) {
	t := r.d.t
	t.Helper()
	for what, err := range r.accountCalls(p) {
		if what != "register" && what != "delete account" { // the latter is answered if the account is gone too
			wantProblem(t, what, err, errClientGone)
		}
	}
	entry, _, ok, err := get[mimimiv1.ClientEntry](t.Context(), r.bus, r.bus.AccountClient(p.client.Wire()))
	if err != nil || !ok || !entry.GetGone() || entry.GetUser() != "" {
		t.Errorf("the client's entry is no tombstone: %v", err)
	}
}

func TestRemoveClient(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice, bob := r.register("alice"), r.register("bob")
	phone, tablet := r.link(alice), r.link(alice)
	wantProblem(t, "by another user's client", r.remove(newPerson(d.name, "x"), phone), errAccountAuth)
	wantCode(t, "no client", r.remove(alice, &person{client: mimimi.Client{}}), connect.CodeInvalidArgument)
	if err := r.remove(bob, phone); err != nil { // not a client of his: there is nothing to do
		t.Errorf("another's client: %v", err)
	}
	if list := r.revocations(d.name); list.Revoked(phone.certificate) || len(list.Entries) != 0 {
		t.Fatal("revoked by another user")
	}
	for range 2 {
		if err := r.remove(alice, phone); err != nil {
			t.Fatalf("RemoveClient: %v", err)
		}
	}
	list := r.revocations(d.name)
	if !list.Revoked(phone.certificate) || list.Revoked(alice.certificate) || list.Revoked(tablet.certificate) || len(list.Entries) != 1 {
		t.Errorf("the list has %d entries, or the wrong one", len(list.Entries))
	}
	r.wantGone(phone)
	if _, err := r.accounts().Register(t.Context(), phone.registration(d.clock.Now())); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("register again: %v", err)
	}
	again := phone.another()
	again.client = phone.client
	if err := r.offer(again, []byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, "the name of a client that is gone", r.approve(alice, again, []byte("x")), errClientTaken)

	for range 2 { // itself
		if err := r.remove(tablet, tablet); err != nil {
			t.Fatalf("remove itself: %v", err)
		}
	}
	r.wantGone(tablet)
	wantProblem(t, "the last client", r.remove(alice, alice), errLastClient)
	if got, err := r.clients(alice); err != nil || len(got) != 1 {
		t.Errorf("%d clients: %v", len(got), err)
	}
	account, _, _, err := get[mimimiv1.AccountEntry](t.Context(), r.bus, r.bus.Account(alice.user.Wire()))
	if err != nil || len(account.GetLeaving()) != 0 {
		t.Errorf("%d clients are still leaving: %v", len(account.GetLeaving()), err)
	}
}

// TestRemoveAfterCrash: a removal that stopped after any of its writes is gone on with by the repeat, by the client itself, and by any request of another.
func TestRemoveAfterCrash(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice := r.register("alice")
	side, subject := r.side(), r.bus.Account(alice.user.Wire())
	moveAside := func(p *person) *mimimiv1.AccountClient {
		t.Helper()
		var moved *mimimiv1.AccountClient
		err := update(t.Context(), r.bus, subject, func(e *mimimiv1.AccountEntry, _ bool) (bool, error) {
			moved = clientOf(e, p.client.Wire())
			leave(e, moved)
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return moved
	}
	for name, goOn := range map[string]func(p *person) error{
		"repeat":         func(p *person) error { return r.remove(alice, p) },
		"itself":         func(p *person) error { return r.remove(p, p) },
		"another's call": func(*person) error { r.items(alice); return nil },
	} {
		for steps := 1; steps <= 4; steps++ {
			if name != "repeat" && steps == 4 {
				continue
			}
			p := r.link(alice)
			moved := moveAside(p)
			gone := []*mimimiv1.AccountClient{moved}
			if steps >= 2 {
				if err := side.revoke(t.Context(), gone); err != nil {
					t.Fatal(err)
				}
			}
			if steps >= 3 && name != "itself" {
				if err := side.markGone(t.Context(), moved); err != nil {
					t.Fatal(err)
				}
			} else if steps >= 3 { // its own entry comes last
				if err := side.forget(t.Context(), alice.user.Wire(), gone); err != nil {
					t.Fatal(err)
				}
			}
			if steps == 4 {
				if err := side.forget(t.Context(), alice.user.Wire(), gone); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := r.clients(p); connect.CodeOf(err) != connect.CodePermissionDenied {
				t.Errorf("%s, %d: the removed client is not denied: %v", name, steps, err)
			}
			if err := goOn(p); err != nil {
				t.Fatalf("%s, %d: %v", name, steps, err)
			}
			d.clock.add(revocationHold)
			if !r.revocations(d.name).Revoked(p.certificate) {
				t.Errorf("%s, %d: not revoked", name, steps)
			}
			r.wantGone(p)
			account, _, _, err := get[mimimiv1.AccountEntry](t.Context(), r.bus, subject)
			if err != nil || len(account.GetLeaving()) != 0 || len(account.GetClients()) != 1 {
				t.Errorf("%s, %d: the account was not cleared: %v", name, steps, err)
			}
			d.clock.add(2 * linkTime)
		}
	}
}

// TestApproveAndRemoveRace: one client approves and removes a second while the second approves a third: whoever is off the account at the end is revoked or
// never got in, and whoever is on it is not.
func TestApproveAndRemoveRace(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	replicas := []*replica{d.start(), d.start()}
	r := replicas[0]
	alice := r.register("alice")
	for range 4 {
		phone, third := r.link(alice), alice.another()
		if err := r.offer(third, []byte("offer"), nil); err != nil {
			t.Fatal(err)
		}
		removed, admitted := make(chan error), make(chan error)
		go func() { removed <- r.remove(alice, phone) }()
		go func() { admitted <- replicas[1].approve(phone, third, []byte("answer")) }()
		if err := <-removed; err != nil {
			t.Errorf("remove: %v", err)
		}
		err := <-admitted
		if err != nil && connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("approve: %v", err)
		}
		certificates, err2 := r.clients(alice)
		want := 1
		if err == nil {
			want = 2
		}
		if err2 != nil || len(certificates) != want {
			t.Errorf("%d clients, want %d: %v", len(certificates), want, err2)
		}
		list := r.revocations(d.name)
		for _, c := range certificates {
			if list.Revoked(c) {
				t.Error("a client on the account is revoked")
			}
			if c.Client == third.client {
				if err := r.remove(alice, third); err != nil {
					t.Fatal(err)
				}
			}
		}
		if !list.Revoked(phone.certificate) {
			t.Error("the removed client is not revoked")
		}
		d.clock.add(2 * linkTime)
	}
}

// TestClientRemovedWhileApprovedAgain: an approval repeated just as the client is removed for good does not bring it back.
func TestClientRemovedWhileApprovedAgain(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice, side := r.register("alice"), r.side()
	phone := r.link(alice)
	half := &registration{user: phone.user, client: phone.client, key: phone.key.Public()}
	if err := side.claimClient(t.Context(), half); err != nil { // the repeat has got this far
		t.Fatal(err)
	}
	if err := r.remove(alice, phone); err != nil {
		t.Fatal(err)
	}
	certificate := must(mimimi.ParseClientCertificate(must(side.admit(t.Context(), half, alice.client.Wire()))))
	if err := side.stillThere(t.Context(), half); err != errClientTaken {
		t.Errorf("brought back: %v", err)
	}
	d.clock.add(revocationHold)
	if got, err := r.clients(alice); err != nil || len(got) != 1 || !r.revocations(d.name).Revoked(certificate) {
		t.Errorf("%d clients: %v", len(got), err)
	}
	r.wantGone(phone)
}

// TestRemovedWhileItActs: a client that is removed after its request was authenticated neither lets anybody in, nor puts anybody out, nor deletes the account.
func TestRemovedWhileItActs(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice, side := r.register("alice"), r.side()
	phone, next := r.link(alice), alice.another()
	if err := r.remove(alice, phone); err != nil {
		t.Fatal(err)
	}
	user, by := alice.user.Wire(), phone.client.Wire()
	_, admitted := side.admit(t.Context(), &registration{user: alice.user, client: next.client, key: next.key.Public()}, by)
	for what, err := range map[string]error{"admit": admitted, "take off": side.takeOff(t.Context(), user, alice.client.Wire(), by), "delete": side.entomb(t.Context(), user, by)} {
		if err != errClientGone {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got, err := r.clients(alice); err != nil || len(got) != 1 {
		t.Errorf("%d clients: %v", len(got), err)
	}
}

// renew asks for another certificate; change may spoil the request.
func (r *replica) renew(p *person, key mls.SignatureKey, change func(*mimimiv1.RenewCertificateRequest)) (*mimimi.ClientCertificate, error) {
	req := renewal(r.d.clock.Now(), p, key)
	if change != nil {
		change(req)
	}
	answer, err := r.accounts().RenewCertificate(r.d.t.Context(), req)
	if err != nil {
		return nil, err
	}
	return must(mimimi.ParseClientCertificate(answer.GetCertificate())), nil
}

func renewal(now time.Time, p *person, key mls.SignatureKey) *mimimiv1.RenewCertificateRequest {
	req := &mimimiv1.RenewCertificateRequest{Client: p.client.Wire(), SignatureKey: key.Public(), Signed: p.sign(now, "renew certificate", key.Public())}
	request := &mimimi.AccountRequest{Operation: "renew certificate", Client: p.client, Minute: time.Unix(req.Signed.Minute*60, 0).UTC(), Body: key.Public()}
	copy(request.RequestID[:], req.Signed.RequestId)
	req.Proof = mimimi.SignAccountRequest(key, request)
	return req
}

// TestRenewCertificate is the life of one certificate: asked for too early, when it is due, twice, with another key, and revoked with those before it.
func TestRenewCertificate(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice := r.register("alice")
	phone := r.link(alice)
	first := phone.certificate
	_, err := r.renew(phone, phone.key, nil)
	wantProblem(t, "at once", err, errNotDue)
	half := first.NotBefore.Add(first.NotAfter.Sub(first.NotBefore) / 2)
	d.clock.add(half.Sub(d.clock.Now()) - time.Second)
	_, err = r.renew(phone, phone.key, nil)
	wantProblem(t, "a second before half of its time", err, errNotDue)
	d.clock.add(time.Second)
	req := renewal(d.clock.Now(), phone, phone.key)
	req.Proof = nil // the key is the one that signs
	var second *mimimi.ClientCertificate
	for range 2 {
		answer, err := r.accounts().RenewCertificate(t.Context(), req)
		if err != nil {
			t.Fatalf("RenewCertificate: %v", err)
		}
		got := must(mimimi.ParseClientCertificate(answer.GetCertificate()))
		if second != nil && !bytes.Equal(got.Marshal(), second.Marshal()) {
			t.Error("a repeat gets another certificate")
		}
		second = got
		d.clock.add(time.Second)
	}
	if err := second.Verify(r.document(d.name).IdentityKey, d.clock.Now().Add(364*24*time.Hour)); err != nil || second.Fingerprint() != first.Fingerprint() {
		t.Errorf("the renewed certificate: %v", err)
	}
	_, err = r.renew(phone, phone.key, nil)
	wantProblem(t, "once more", err, errNotDue)

	next := must(mimimi.Suite.GenerateSignatureKey())
	for name, change := range map[string]func(*mimimiv1.RenewCertificateRequest){
		"no proof":            func(q *mimimiv1.RenewCertificateRequest) { q.Proof = nil },
		"proof by the old":    func(q *mimimiv1.RenewCertificateRequest) { q.Proof = q.Signed.Signature },
		"proof of another id": func(q *mimimiv1.RenewCertificateRequest) { q.Proof = renewal(d.clock.Now(), phone, next).Proof },
	} {
		_, err := r.renew(phone, next, change)
		wantProblem(t, name, err, errNewKey)
	}
	_, err = r.renew(phone, next, func(q *mimimiv1.RenewCertificateRequest) { q.Signed.Signature = q.Proof })
	wantProblem(t, "signed by the new key alone", err, errAccountAuth)
	_, err = r.renew(phone, next, func(q *mimimiv1.RenewCertificateRequest) { q.SignatureKey = alice.key.Public() })
	wantProblem(t, "another key than signed", err, errAccountAuth)
	third, err := r.renew(phone, next, nil)
	if err != nil || !bytes.Equal(third.SignatureKey, next.Public()) {
		t.Fatalf("a new key: %v", err)
	}
	d.clock.add(49 * time.Hour) // the answer was lost, and the client asks anew with its old key
	if again, err := r.renew(phone, next, nil); err != nil || !bytes.Equal(again.Marshal(), third.Marshal()) {
		t.Errorf("a repeat by the old key: %v", err)
	}
	_, err = r.clients(phone)
	wantProblem(t, "the old key for something else", err, errAccountAuth)
	_, err = r.renew(phone, phone.key, nil)
	wantProblem(t, "the old key back by itself", err, errAccountAuth)
	phone.key, phone.certificate = next, third
	if _, err = r.clients(phone); err != nil {
		t.Errorf("the new key: %v", err)
	}
	entry, _, _, err := get[mimimiv1.ClientEntry](t.Context(), r.bus, r.bus.AccountClient(phone.client.Wire()))
	if err != nil || !bytes.Equal(entry.GetSignatureKey(), next.Public()) {
		t.Errorf("the client's entry has another key: %v", err)
	}
	if n := len(r.revocations(d.name).Entries); n != 0 {
		t.Errorf("a renewal revoked %d certificates", n)
	}
	if err := r.remove(alice, phone); err != nil {
		t.Fatal(err)
	}
	list := r.revocations(d.name)
	for i, c := range []*mimimi.ClientCertificate{first, second, third} {
		if !list.Revoked(c) {
			t.Errorf("certificate %d is not revoked", i+1)
		}
	}
	r.wantGone(phone)
}

// TestRenewalsAreBounded: a client that changes its key all the time must wait.
func TestRenewalsAreBounded(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice := r.register("alice")
	for i := range maxEarlier + 1 {
		next := must(mimimi.Suite.GenerateSignatureKey())
		_, err := r.renew(alice, next, nil)
		if i == maxEarlier {
			wantProblem(t, "one too many", err, errManyCerts)
		} else if err != nil {
			t.Fatal(err)
		} else {
			alice.key = next
		}
	}
	d.clock.add(certificateTime + revocationMargin + 48*time.Hour)
	if _, err := r.renew(alice, must(mimimi.Suite.GenerateSignatureKey()), nil); err != nil {
		t.Errorf("after the earlier ones have expired: %v", err)
	}
}

// TestRenewRace: of two renewals at once one is taken, and the account holds what was answered.
func TestRenewRace(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	replicas := []*replica{d.start(), d.start()}
	alice := replicas[0].register("alice")
	type outcome struct {
		certificate *mimimi.ClientCertificate
		key         mls.SignatureKey
		err         error
	}
	done := make(chan outcome)
	for _, r := range replicas {
		go func() {
			key := must(mimimi.Suite.GenerateSignatureKey())
			c, err := r.renew(alice, key, nil)
			done <- outcome{c, key, err}
		}()
	}
	won := 0
	for range replicas {
		o := <-done
		switch {
		case o.err == nil:
			won++
			self := *alice
			self.key = o.key
			if got, err := replicas[0].clients(&self); err != nil || !bytes.Equal(got[0].Marshal(), o.certificate.Marshal()) {
				t.Errorf("the account has another certificate than was answered: %v", err)
			}
		case connect.CodeOf(o.err) != connect.CodeAborted && connect.CodeOf(o.err) != connect.CodePermissionDenied:
			t.Errorf("the loser: %v", o.err)
		}
	}
	if won != 1 {
		t.Errorf("%d renewals were taken", won)
	}
}

func TestDeleteAccount(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice, bob := r.register("alice"), r.register("bob")
	phone := r.link(alice)
	if err := r.publish(alice, alice.record(d.clock.Now()).Marshal()); err != nil {
		t.Fatal(err)
	}
	inbox := r.inbox(d.name)
	deposit := func() error {
		id := randomID()
		_, err := inbox.Deposit(t.Context(), &mimimiv1.DepositRequest{Token: d.token(mimimi.TokenConnect, d.name, id[:]), RequestId: id[:], User: alice.user.Wire(), SealedRequest: randomRequest()})
		return err
	}
	if err := deposit(); err != nil || len(r.items(alice)) != 1 {
		t.Fatal(err)
	}
	_, err := r.accounts().DeleteAccount(t.Context(), &mimimiv1.DeleteAccountRequest{
		Client: bob.client.Wire(), User: alice.user.Wire(), Signed: bob.sign(d.clock.Now(), "delete account", []byte(alice.user.Wire()))})
	wantProblem(t, "another's account", err, errNotOurUser)
	_, err = r.accounts().DeleteAccount(t.Context(), &mimimiv1.DeleteAccountRequest{
		Client: alice.client.Wire(), User: alice.user.Wire(), Signed: alice.sign(d.clock.Now(), "delete account", nil)})
	wantProblem(t, "another body", err, errAccountAuth)
	for _, p := range []*person{alice, alice, phone} { // and repeats of it
		if err := r.deleteAccount(p); err != nil {
			t.Fatalf("DeleteAccount: %v", err)
		}
	}
	list := r.revocations(d.name)
	if !list.Revoked(alice.certificate) || !list.Revoked(phone.certificate) || list.Revoked(bob.certificate) || len(list.Entries) != 2 {
		t.Errorf("the list has %d entries", len(list.Entries))
	}
	r.wantGone(alice)
	r.wantGone(phone)
	account, _, ok, err := get[mimimiv1.AccountEntry](t.Context(), r.bus, r.bus.Account(alice.user.Wire()))
	if err != nil || !ok || !proto.Equal(account, &mimimiv1.AccountEntry{Deleted: true}) {
		t.Errorf("the tombstone holds more than that it is one: %v", err)
	}
	if n, err := r.bus.Count(t.Context(), r.bus.Inbox(alice.user.Wire())); err != nil || n != 0 {
		t.Errorf("%d requests wait: %v", n, err)
	}
	if err := deposit(); err != nil {
		t.Errorf("deposit: %v", err)
	}
	if n, err := r.bus.Count(t.Context(), r.bus.Inbox(alice.user.Wire())); err != nil || n != 0 {
		t.Errorf("%d requests wait after another one: %v", n, err)
	}
	gone, err := inbox.GetRecord(t.Context(), &mimimiv1.GetRecordRequest{User: alice.user.Wire()})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := mimimi.ParsePaddedConnectionRecord(gone.GetRecord()); err != nil || p.Verify(r.document(d.name).IdentityKey, d.clock.Now()) == nil {
		t.Errorf("a record of a deleted user verifies: %v", err)
	}
	for _, p := range []*person{alice, newPerson(d.name, "alice")} {
		_, err := r.accounts().Register(t.Context(), p.registration(d.clock.Now()))
		wantProblem(t, "the name once more", err, errNameTaken)
	}
	removed := r.link(bob)
	if err := r.remove(bob, removed); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, "by a client that was removed", r.deleteAccount(removed), errClientGone)
}

// TestDeleteAfterCrash: a deletion that stopped after any of its writes denies everybody, and is gone on with by any client of the account.
func TestDeleteAfterCrash(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	side := r.side()
	for steps := 1; steps <= 4; steps++ {
		for _, first := range []bool{true, false} {
			alice := r.register(fmt.Sprintf("alice-%d-%v", steps, first))
			phone := r.link(alice)
			user := alice.user.Wire()
			if err := side.entomb(t.Context(), user, alice.client.Wire()); err != nil {
				t.Fatal(err)
			}
			account, _, _, err := get[mimimiv1.AccountEntry](t.Context(), r.bus, r.bus.Account(user))
			if err != nil {
				t.Fatal(err)
			}
			gone := account.GetLeaving()
			if steps >= 2 {
				if err := side.revoke(t.Context(), gone); err != nil {
					t.Fatal(err)
				}
			}
			if steps >= 3 {
				if err := side.markGone(t.Context(), gone[1]); err != nil {
					t.Fatal(err)
				}
			}
			if steps >= 4 {
				if err := side.markGone(t.Context(), gone[0]); err != nil {
					t.Fatal(err)
				}
				if err := side.forget(t.Context(), user, gone); err != nil {
					t.Fatal(err)
				}
			}
			for _, p := range []*person{alice, phone} {
				_, err := r.clients(p)
				wantProblem(t, "a client of an account half deleted", err, errClientGone)
			}
			by := alice
			if !first {
				by = phone
			}
			for range 2 {
				if err := r.deleteAccount(by); err != nil {
					t.Fatalf("%d: %v", steps, err)
				}
			}
			d.clock.add(revocationHold)
			if list := r.revocations(d.name); !list.Revoked(alice.certificate) || !list.Revoked(phone.certificate) {
				t.Errorf("%d: not revoked", steps)
			}
			r.wantGone(alice)
			r.wantGone(phone)
			account, _, _, err = get[mimimiv1.AccountEntry](t.Context(), r.bus, r.bus.Account(user))
			if err != nil || !proto.Equal(account, &mimimiv1.AccountEntry{Deleted: true}) {
				t.Errorf("%d: the tombstone holds more: %v", steps, err)
			}
		}
	}
}
