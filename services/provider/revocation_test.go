package provider

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// TestRevocationsOfAnotherDomain: what one domain revokes is shown to the other's clients, by all replicas, within an hour, over real federation.
func TestRevocationsOfAnotherDomain(t *testing.T) {
	t.Parallel()
	a, b, ra, rb := pair(t)
	bob := rb.register("bob")
	phone := rb.link(bob)
	first := ra.revocations("b.example")
	if len(first.Entries) != 0 {
		t.Fatalf("%d entries", len(first.Entries))
	}
	if err := rb.remove(bob, phone); err != nil {
		t.Fatal(err)
	}
	own := rb.revocations("b.example")
	if !own.Revoked(phone.certificate) || own.Number <= first.Number {
		t.Errorf("the domain itself does not show it, or as number %d after %d", own.Number, first.Number)
	}
	if ra.revocations("b.example").Number != first.Number {
		t.Error("the copy was fetched again at once")
	}
	for range 2 { // within an hour, however old copies were
		a.clock.add(29 * time.Minute)
		b.clock.add(29 * time.Minute)
		if !ra.revocations("b.example").Revoked(phone.certificate) {
			t.Error("the peer does not show it after half an hour")
		}
	}
	second := a.start()
	second.waitFor("b.example")
	if l := second.revocations("b.example"); !l.Revoked(phone.certificate) || l.Number < own.Number {
		t.Error("another replica does not show it")
	}
	if l := ra.revocations("a.example"); len(l.Entries) != 0 || l.Domain != "a.example" {
		t.Error("the peer's revocations are on the own list")
	}

	// The list is the same for everybody: a peer and a client get the same bytes.
	c := httpClient(b.ca, rb.federation, a.federationPair())
	defer c.CloseIdleConnections()
	resp, err := c.Get("https://federation.b.example" + revocationsPath)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body := new(bytes.Buffer)
	if _, err := body.ReadFrom(resp.Body); err != nil || !bytes.Equal(body.Bytes(), rb.revocations("b.example").Marshal()) || len(resp.Cookies()) > 0 {
		t.Errorf("GET %s: %s, %v", revocationsPath, resp.Status, err)
	}

	// The peer is down: its copy is shown while it is valid, then none.
	rb.stop()
	a.clock.add(revocationTime - 2*time.Hour)
	answer, err := ra.relay().GetRevocations(t.Context(), &mimimiv1.GetRevocationsRequest{Domain: "b.example"})
	if err != nil || !must(mimimi.ParseRevocationList(answer.GetList())).Revoked(phone.certificate) {
		t.Errorf("the copy is not shown: %v", err)
	}
	a.clock.add(4 * time.Hour) // the two clocks were not started at one moment
	_, err = ra.relay().GetRevocations(t.Context(), &mimimiv1.GetRevocationsRequest{Domain: "b.example"})
	wantProblem(t, "an expired copy", err, errNoRevocations)
	_, err = ra.relay().GetRevocations(t.Context(), &mimimiv1.GetRevocationsRequest{Domain: "c.example"})
	wantProblem(t, "unknown domain", err, errUnknownDomain)
	_, err = ra.relay().GetRevocations(t.Context(), &mimimiv1.GetRevocationsRequest{Domain: "NO DOMAIN"})
	wantProblem(t, "no domain", err, errDomain)
}

// falsePeer is a domain's federation listener that shows whatever a test has it show.
type falsePeer struct {
	identity mls.SignatureKey
	list     atomic.Pointer[[]byte] // nil: not found
	asked    atomic.Int32
}

// falsePeer has the domain's keys, and the clock of those it speaks to.
func (d *testDomain) falsePeer(now func() time.Time) (*falsePeer, string) {
	d.t.Helper()
	k := must(loadKeys(d.cfg, d.clock.Now))
	p := &falsePeer{identity: k.identity}
	docs := &documents{domain: d.name, keys: k, now: now, issued: func(context.Context, uint64) ([]mimimi.IssuerKey, error) { return nil, nil }}
	mux := http.NewServeMux()
	mux.Handle("GET "+documentPath, docs)
	mux.HandleFunc("GET "+revocationsPath, func(w http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		if list := p.list.Load(); list != nil {
			_, _ = w.Write(*list)
			return
		}
		http.NotFound(w, r)
	})
	s := httptest.NewUnstartedServer(mux)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{d.federationPair()}, MinVersion: tls.VersionTLS13}
	s.StartTLS()
	d.t.Cleanup(s.Close)
	return p, s.Listener.Addr().String()
}

// sign makes the peer show a list of its own.
func (p *falsePeer) sign(domain string, number uint64, issued time.Time, revoked ...mimimi.RevokedCertificate) []byte {
	list := &mimimi.RevocationList{Domain: domain, Number: number, IssuedAt: issued, NotAfter: issued.Add(revocationTime), Entries: revoked}
	if err := mimimi.SignRevocationList(list, p.identity); err != nil {
		panic(err)
	}
	return list.Marshal()
}

// TestRevocationsAreChecked: a peer's list that is tampered with, another's, out of date, or older than the one seen is refused, and the good copy stays. It is one run of numbers, which only go up.
func TestRevocationsAreChecked(t *testing.T) {
	t.Parallel()
	a, b := newDomain(t, "a.example"), newDomain(t, "b.example")
	peer, address := b.falsePeer(a.clock.Now)
	ra := a.start()
	a.meet(b, address)
	ra.waitFor("b.example")
	ask := func(r *replica) ([]byte, error) {
		answer, err := r.relay().GetRevocations(t.Context(), &mimimiv1.GetRevocationsRequest{Domain: "b.example"})
		return answer.GetList(), err
	}
	show := func(list []byte) { peer.list.Store(&list) }
	later := func() { a.clock.add(revocationRenewal) }

	if list, err := ask(ra); err != nil || len(list) != 0 {
		t.Fatalf("a domain that has published none: %d bytes, %v", len(list), err)
	}
	now := a.clock.Now
	entry := mimimi.RevokedCertificate{Hash: [32]byte{9}, NotAfter: now().Truncate(24 * time.Hour).UTC()}
	later()
	show([]byte("garbage"))
	_, err := ask(ra)
	wantProblem(t, "garbage from a domain that had none", err, errListRefused)
	good := peer.sign("b.example", 7, now(), entry)
	later()
	show(good)
	got, err := ask(ra)
	if err != nil || !bytes.Equal(got, good) {
		t.Fatalf("a good list: %d bytes, %v", len(got), err)
	}
	stranger := &falsePeer{identity: must(mimimi.Suite.GenerateSignatureKey())}
	for name, list := range map[string]func() []byte{
		"garbage":            func() []byte { return []byte("garbage") },
		"empty":              func() []byte { return nil },
		"too long":           func() []byte { return make([]byte, maxRevocations+1) },
		"tampered":           func() []byte { l := peer.sign("b.example", 8, now()); l[len(l)-1] ^= 1; return l },
		"another's key":      func() []byte { return stranger.sign("b.example", 8, now()) },
		"another domain":     func() []byte { return peer.sign("c.example", 8, now()) },
		"a number back":      func() []byte { return peer.sign("b.example", 6, now()) },
		"the same number":    func() []byte { return peer.sign("b.example", 7, now()) },
		"expired":            func() []byte { return peer.sign("b.example", 8, now().Add(-revocationTime)) },
		"from the future":    func() []byte { return peer.sign("b.example", 8, now().Add(2*time.Hour)) },
		"cut":                func() []byte { l := peer.sign("b.example", 8, now()); return l[:len(l)-1] },
		"with something on":  func() []byte { return append(peer.sign("b.example", 8, now()), 0) },
		"its key document":   func() []byte { return ra.document("b.example").Marshal() },
		"no longer any list": nil,
	} {
		later()
		before := peer.asked.Load()
		if list == nil {
			peer.list.Store(nil)
		} else {
			show(list())
		}
		for _, r := range []*replica{ra, ra} {
			if got, err := ask(r); err != nil || !bytes.Equal(got, good) {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
		}
		if n := peer.asked.Load() - before; n != 1 {
			t.Errorf("%s: the peer was asked %d times", name, n)
		}
	}
	fresh := a.start() // with nothing in memory: what is on the bus counts
	fresh.waitFor("b.example")
	show(peer.sign("b.example", 6, now()))
	if got, err := ask(fresh); err != nil || !bytes.Equal(got, good) {
		t.Errorf("another replica took an older list: %v", err)
	}
	a.clock.add(revocationTime)
	for _, r := range []*replica{ra, fresh} {
		_, err := ask(r)
		wantProblem(t, "after the good one has expired", err, errListRefused)
	}
	next := peer.sign("b.example", 8, now())
	show(next)
	a.clock.add(refetchInterval)
	for _, r := range []*replica{ra, fresh} {
		if got, err := ask(r); err != nil || !bytes.Equal(got, next) {
			t.Errorf("the next good list: %v", err)
		}
	}
}

// TestOwnRevocations: the own list is signed anew when it is old, its number goes up, entries go when they no longer matter, and all replicas show the same.
func TestOwnRevocations(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	replicas := []*replica{d.start(), d.start()}
	alice := replicas[0].register("alice")
	phone := replicas[0].link(alice)
	if err := replicas[0].remove(alice, phone); err != nil {
		t.Fatal(err)
	}
	var last uint64
	var seen []byte
	same := func() *mimimi.RevocationList {
		t.Helper()
		one, two := replicas[0].revocations(d.name), replicas[1].revocations(d.name)
		if !bytes.Equal(one.Marshal(), two.Marshal()) {
			t.Error("two replicas show two lists")
		}
		if d.clock.Now().Sub(one.IssuedAt) > revocationRenewal {
			t.Error("an old list is shown")
		}
		if one.Number < last || one.Number == last && !bytes.Equal(one.Marshal(), seen) {
			t.Errorf("number %d after %d", one.Number, last)
		}
		last, seen = one.Number, one.Marshal()
		return one
	}
	for range 5 {
		if !same().Revoked(phone.certificate) {
			t.Error("not revoked")
		}
		d.clock.add(revocationRenewal / 2)
	}
	d.clock.add(-24 * time.Hour) // a clock that was wrong
	same()
	d.clock.add(phone.certificate.NotAfter.Add(revocationMargin).Sub(d.clock.Now()) - time.Minute)
	if !same().Revoked(phone.certificate) {
		t.Error("gone before its time")
	}
	d.clock.add(time.Hour)
	if n := len(same().Entries); n != 0 {
		t.Errorf("%d entries are left", n)
	}
}

// TestRevocationsAreFull: a client can be taken off its account although the list is full, and is on the list as soon as there is room.
func TestRevocationsAreFull(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	alice := r.register("alice")
	phone := r.link(alice)
	now := d.clock.Now().Truncate(time.Second).UTC()
	full := &mimimi.RevocationList{Domain: d.name, Number: uint64(now.Unix()), IssuedAt: now, NotAfter: now.Add(revocationTime), Entries: make([]mimimi.RevokedCertificate, 1<<16)}
	for i := range full.Entries {
		binary.BigEndian.PutUint32(full.Entries[i].Hash[:], uint32(i))
		full.Entries[i].NotAfter = now.Truncate(24 * time.Hour)
	}
	if err := mimimi.SignRevocationList(full, must(loadKeys(d.cfg, d.clock.Now)).identity); err != nil {
		t.Fatal(err)
	}
	r.put(r.bus.Revocations(d.name), marshalled(&mimimiv1.RevocationRecord{List: full.Marshal()}))
	if n := len(r.revocations(d.name).Entries); n != 1<<16 {
		t.Fatalf("the longest list is shown with %d entries", n)
	}
	for range 2 {
		wantProblem(t, "no room", r.remove(alice, phone), errRevocationsFull)
	}
	if _, err := r.clients(phone); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("the removed client: %v", err)
	}
	if got, err := r.clients(alice); err != nil || len(got) != 1 {
		t.Errorf("%d clients: %v", len(got), err)
	}
	d.clock.add(revocationMargin + 24*time.Hour)
	r.items(alice) // any request of another client
	if list := r.revocations(d.name); !list.Revoked(phone.certificate) || len(list.Entries) != 1 {
		t.Errorf("with room again: %d entries", len(list.Entries))
	}
	r.wantGone(phone)
}

// TestGetPeerDocument: an inbox shows strangers the copy of a domain's key document that its own users are shown, and its own.
func TestGetPeerDocument(t *testing.T) {
	t.Parallel()
	_, _, ra, rb := pair(t)
	inbox := ra.inbox("b.example")
	for _, domain := range []string{"a.example", "b.example"} {
		answer, err := inbox.GetPeerDocument(t.Context(), &mimimiv1.GetPeerDocumentRequest{Domain: domain})
		if err != nil || !bytes.Equal(answer.GetDocument(), rb.document(domain).Marshal()) {
			t.Errorf("%s: %v", domain, err)
		}
	}
	_, err := inbox.GetPeerDocument(t.Context(), &mimimiv1.GetPeerDocumentRequest{Domain: "c.example"})
	wantProblem(t, "unknown domain", err, errUnknownDomain)
	_, err = inbox.GetPeerDocument(t.Context(), &mimimiv1.GetPeerDocumentRequest{Domain: "C"})
	wantProblem(t, "no domain", err, errDomain)
}
