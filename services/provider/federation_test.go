package provider

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/redeem/redeemtest"
)

// pair is two domains that know each other.
func pair(t *testing.T) (a, b *testDomain, ra, rb *replica) {
	t.Helper()
	a, b = newDomain(t, "a.example"), newDomain(t, "b.example")
	ra, rb = a.start(), b.start()
	a.meet(b, rb.federation)
	b.meet(a, ra.federation)
	ra.waitFor("b.example")
	rb.waitFor("a.example")
	return a, b, ra, rb
}

// waitFor waits until the replica shows a domain's document: then it has read its file, and reached it.
func (r *replica) waitFor(domain string) {
	r.d.t.Helper()
	end := time.Now().Add(time.Minute)
	for {
		_, err := r.relay().GetKeyDocument(r.d.t.Context(), &mimimiv1.GetKeyDocumentRequest{Domain: domain})
		if err == nil {
			return
		}
		if time.Now().After(end) {
			r.d.t.Fatalf("the peer is not known after a minute: %v", err)
		}
		<-time.After(50 * time.Millisecond) // the file is polled, and nothing tells when
	}
}

func TestKeyDocument(t *testing.T) {
	t.Parallel()
	a, b, ra, rb := pair(t)
	own := rb.document("b.example")
	if err := own.Verify(nil, b.clock.Now()); err != nil {
		t.Fatal(err)
	}
	if own.Number != weekNumber(b.clock.Now()) || len(own.QueueKeys) != 2 || own.QueueKeys[1].KeyID != 8 || len(own.OHTTPKeys) != 3 {
		t.Errorf("the document holds something else: %d queue keys, %d services", len(own.QueueKeys), len(own.OHTTPKeys))
	}
	if !bytes.Equal(ra.document("b.example").Marshal(), own.Marshal()) {
		t.Error("the peer shows another document")
	}
	wellKnown := func(path string) (*http.Response, []byte) {
		c := httpClient(b.ca, rb.federation, a.federationPair())
		defer c.CloseIdleConnections()
		resp, err := c.Get("https://federation.b.example" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp, must(io.ReadAll(resp.Body))
	}
	if resp, body := wellKnown(documentPath); resp.StatusCode != http.StatusOK || !bytes.Equal(body, own.Marshal()) || len(resp.Cookies()) > 0 {
		t.Errorf("GET %s: %s", documentPath, resp.Status)
	}
	if resp, _ := wellKnown("/.well-known/other"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("another path: %s", resp.Status)
	}
	_, err := ra.relay().GetKeyDocument(t.Context(), &mimimiv1.GetKeyDocumentRequest{Domain: "c.example"})
	wantCode(t, "unknown domain", err, connect.CodeNotFound)
	_, err = ra.relay().GetKeyDocument(t.Context(), &mimimiv1.GetKeyDocumentRequest{Domain: "NOT A DOMAIN"})
	wantCode(t, "no domain", err, connect.CodeInvalidArgument)

	// The peer is down and the week is over: the old copy is shown within its margin, by another replica too; then none.
	rb.stop()
	a.clock.add(own.NotAfter.Sub(a.clock.Now()) - time.Minute)
	for _, r := range []*replica{ra, a.start()} {
		r.waitFor("b.example")
		if !bytes.Equal(r.document("b.example").Marshal(), own.Marshal()) {
			t.Error("the copy within its margin is not shown")
		}
	}
	a.clock.add(2 * time.Minute)
	_, err = ra.relay().GetKeyDocument(t.Context(), &mimimiv1.GetKeyDocumentRequest{Domain: "b.example"})
	wantCode(t, "an expired copy", err, connect.CodeUnavailable)

	// The peer is back, in the new week.
	b.clock.add(a.clock.Now().Sub(b.clock.Now()))
	rb = b.start()
	a.meet(b, rb.federation)
	ra.waitFor("b.example")
	if next := ra.document("b.example"); next.Number <= own.Number {
		t.Errorf("the next document has number %d after %d", next.Number, own.Number)
	}
}

// federationPair is the domain's federation certificate.
func (d *testDomain) federationPair() tls.Certificate {
	return must(tls.LoadX509KeyPair(d.cfg.FederationCertFile, d.cfg.FederationKeyFile))
}

// TestIdentityKeyIsPinned: a peer that comes with another identity key is refused, also by a replica that starts later; the old copy stays while it is valid.
func TestIdentityKeyIsPinned(t *testing.T) {
	t.Parallel()
	a, b, ra, rb := pair(t)
	first := rb.document("b.example").Marshal()
	rb.stop()
	b.cfg.IdentityKeyFile = b.file("identity2.key", must(must(mimimi.Suite.GenerateSignatureKey()).MarshalBinary()))
	rb = b.start()
	a.meet(b, rb.federation)
	second := a.start()
	second.waitFor("b.example")
	for _, r := range []*replica{ra, second} {
		if !bytes.Equal(r.document("b.example").Marshal(), first) {
			t.Error("the new identity key was taken, or the old document given up")
		}
	}
	later := 8 * 24 * time.Hour
	a.clock.add(later)
	b.clock.add(later)
	_, err := second.relay().GetKeyDocument(t.Context(), &mimimiv1.GetKeyDocumentRequest{Domain: "b.example"})
	wantCode(t, "a changed identity key", err, connect.CodePermissionDenied)
	if err == nil || !strings.Contains(err.Error(), "identity key") {
		t.Errorf("the error does not say what is wrong: %v", err)
	}
}

func TestWeekNumber(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		at   time.Time
		want uint64
	}{
		{time.Date(1969, 1, 1, 0, 0, 0, 0, time.UTC), 0},
		{time.Date(1970, 1, 11, 23, 59, 59, 0, time.UTC), 0},
		{time.Date(1970, 1, 12, 0, 0, 0, 0, time.UTC), 1},
		{time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC), 2922},
		{time.Date(2026, 1, 4, 23, 0, 0, 0, time.UTC), 2921},
	} {
		if got := weekNumber(c.at); got != c.want {
			t.Errorf("%v: %d, want %d", c.at, got, c.want)
		}
	}
}

// TestOwnDocumentRotates: every week has its document, valid for the week and a margin, the same from every replica.
func TestOwnDocumentRotates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := &keys{identity: must(mimimi.Suite.GenerateSignatureKey()), queue: new(queueKeys)}
		issued := func(_ context.Context, week uint64) ([]mimimi.IssuerKey, error) {
			return []mimimi.IssuerKey{redeemtest.Public(mimimi.TokenClaim, week)}, nil
		}
		one := &documents{domain: "a.example", keys: k, issued: issued, now: time.Now}
		two := &documents{domain: "a.example", keys: k, issued: issued, now: time.Now}
		var last uint64
		for range 20 {
			raw := must(one.ours(t.Context()))
			doc := must(mimimi.ParseKeyDocument(raw))
			if !bytes.Equal(raw, must(two.ours(t.Context()))) {
				t.Fatal("two replicas show two documents")
			}
			if err := doc.Verify(k.identity.Public(), time.Now()); err != nil {
				t.Fatal(err)
			}
			if time.Until(doc.NotAfter) <= documentMargin || time.Since(doc.NotBefore) < documentMargin {
				t.Fatal("no margin is left")
			}
			if doc.Number < last || doc.Number > last+1 && last > 0 {
				t.Fatalf("number %d after %d", doc.Number, last)
			}
			last = doc.Number
			time.Sleep(24 * time.Hour)
		}
	})
}

func TestRelay(t *testing.T) {
	t.Parallel()
	a, b, ra, rb := pair(t)
	for _, d := range []*testDomain{a, b} {
		hub := d.bus.Bus("hub")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- hub.Serve(ctx, "hub", func(_ context.Context, request []byte) []byte { return append([]byte(d.name+" "), request...) })
		}()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	call := func(domain, service string, request []byte) (string, error) {
		answer, err := ra.relay().Relay(t.Context(), &mimimiv1.RelayRequest{Domain: domain, Service: service, EncapsulatedRequest: request})
		return string(answer.GetEncapsulatedResponse()), err
	}
	for _, domain := range []string{"a.example", "b.example"} {
		answer, err := call(domain, "hub", []byte("hello"))
		for end := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(end); { // until the hub serves
			answer, err = call(domain, "hub", []byte("hello"))
		}
		if err != nil || answer != domain+" hello" {
			t.Errorf("%s: %q, %v", domain, answer, err)
		}
		if answer, err := call(domain, "hub", make([]byte, 7<<20)); err != nil || len(answer) != 7<<20+len(domain)+1 {
			t.Errorf("%s: the largest request: %d bytes, %v", domain, len(answer), err)
		}
		_, err = call(domain, "kpstore", []byte("x"))
		wantCode(t, "nobody serves", err, connect.CodeUnavailable)
		_, err = call(domain, "provider", []byte("x"))
		wantCode(t, "no such service", err, connect.CodeInvalidArgument)
		_, err = call(domain, "hub", nil)
		wantCode(t, "nothing", err, connect.CodeInvalidArgument)
	}
	_, err := call("a.example", "hub", make([]byte, maxRelayBody+1))
	wantCode(t, "oversize", err, connect.CodeResourceExhausted)
	_, err = call("c.example", "hub", []byte("x"))
	wantCode(t, "unknown domain", err, connect.CodeNotFound)
	_, err = call("", "hub", []byte("x"))
	wantCode(t, "no domain", err, connect.CodeInvalidArgument)
	rb.stop()
	_, err = call("b.example", "hub", []byte("x"))
	wantCode(t, "a peer that is down", err, connect.CodeUnavailable)

	full := &relaySide{domain: "a.example", slots: newSlots(0), away: newDomainSlots(0), peers: &peers{byDomain: map[string]*peer{"b.example": {domain: "b.example"}}}}
	_, err = full.Relay(t.Context(), &mimimiv1.RelayRequest{Domain: "a.example", Service: "hub", EncapsulatedRequest: []byte("x")})
	wantCode(t, "too many", err, connect.CodeResourceExhausted)
	_, err = full.Relay(t.Context(), &mimimiv1.RelayRequest{Domain: "b.example", Service: "hub", EncapsulatedRequest: []byte("x")})
	wantCode(t, "too many to a peer", err, connect.CodeResourceExhausted)
}

// TestInboxOfAnotherDomain: all the way from a user of a to a user of b.
func TestInboxOfAnotherDomain(t *testing.T) {
	t.Parallel()
	a, b, ra, rb := pair(t)
	bob := rb.register("bob")
	if err := rb.publish(bob, bob.record(b.clock.Now()).Marshal()); err != nil {
		t.Fatal(err)
	}
	inbox := ra.inbox("b.example")
	answer, err := inbox.GetRecord(t.Context(), &mimimiv1.GetRecordRequest{User: bob.user.Wire()})
	if err != nil {
		t.Fatal(err)
	}
	record := must(mimimi.ParsePaddedConnectionRecord(answer.GetRecord()))
	if err := record.Verify(ra.document("b.example").IdentityKey, b.clock.Now()); err != nil {
		t.Error(err)
	}
	id := randomID()
	if _, err := inbox.Deposit(t.Context(), &mimimiv1.DepositRequest{Token: a.token(mimimi.TokenConnect, b.name, id[:]), RequestId: id[:], User: bob.user.Wire(), SealedRequest: randomRequest()}); err != nil {
		t.Fatal(err)
	}
	if n := len(rb.items(bob)); n != 1 {
		t.Errorf("the inbox holds %d requests", n)
	}
}

func TestNotify(t *testing.T) {
	t.Parallel()
	a, _, _, rb := pair(t)
	q, doc, group := rb.newQueue(), rb.document("b.example"), newGroup("a.example")
	to := q.recipient(doc)
	client := rb.federationClient(a.federationPair())
	notify := func(o ...*mimimiv1.OutboundDelivery) error {
		_, err := client.Notify(t.Context(), &mimimiv1.NotifyRequest{Deliveries: o})
		return err
	}
	q.confirm(group)
	for range 3 { // a repeat changes nothing
		if err := notify(newDelivery(group, 1, 10, to, newStrangeRecipient("b.example"), &mimimiv1.Recipient{ClientPseudonym: "x"}), newDelivery(group, 2, 70_000, to)); err != nil {
			t.Fatalf("Notify: %v", err)
		}
	}
	if n := len(q.all()); n != 2 {
		t.Fatalf("the queue holds %d entries, want 2", n)
	}
	change := func(f func(*mimimiv1.OutboundDelivery)) *mimimiv1.OutboundDelivery {
		o := newDelivery(group, 9, 10, to)
		f(o)
		return o
	}
	stolen := q.recipient(doc)
	stolen.ClientPseudonym = must(mimimi.NewClientPseudonym("b.example")).Wire()
	if err := notify(newDelivery(group, 3, 10, stolen)); err != nil {
		t.Errorf("a sealed queue id in another leaf: %v", err)
	}
	many := make([]*mimimiv1.OutboundDelivery, maxDeliveries+1)
	for i := range many {
		many[i] = newDelivery(group, uint64(i+100), 1, to)
	}
	for name, err := range map[string]error{
		"nothing":               notify(),
		"too many":              notify(many...),
		"foreign hub":           notify(newDelivery(newGroup("c.example"), 1, 10, to)),
		"our own hub":           notify(newDelivery(newGroup("b.example"), 1, 10, to)),
		"one of two is foreign": notify(newDelivery(group, 8, 10, to), newDelivery(newGroup("c.example"), 1, 10, to)),
		"no delivery":           notify(&mimimiv1.OutboundDelivery{Id: []byte("x")}),
		"no id":                 notify(change(func(o *mimimiv1.OutboundDelivery) { o.Id = nil })),
		"long id":               notify(change(func(o *mimimiv1.OutboundDelivery) { o.Id = make([]byte, maxDeliveryID+1) })),
		"no kind":               notify(change(func(o *mimimiv1.OutboundDelivery) { o.Delivery.Kind = 0 })),
		"unknown kind":          notify(change(func(o *mimimiv1.OutboundDelivery) { o.Delivery.Kind = 5 })),
		"negative kind":         notify(change(func(o *mimimiv1.OutboundDelivery) { o.Delivery.Kind = -1 })),
		"no message":            notify(change(func(o *mimimiv1.OutboundDelivery) { o.Delivery.Message = nil })),
		"group is no group":     notify(change(func(o *mimimiv1.OutboundDelivery) { o.Delivery.GroupId = []byte("mimi://a.example/u/x") })),
		"no recipient":          notify(newDelivery(group, 8, 10)),
		"a large message":       notify(newDelivery(group, 8, maxSmallDelivery+1, to)),
		"a large proposal": notify(change(func(o *mimimiv1.OutboundDelivery) {
			o.Delivery.Kind, o.Delivery.Message = mimimiv1.Delivery_KIND_PROPOSAL, make([]byte, maxSmallDelivery+1)
		})),
		"a large commit": notify(change(func(o *mimimiv1.OutboundDelivery) {
			o.Delivery.Kind, o.Delivery.Message = mimimiv1.Delivery_KIND_COMMIT, make([]byte, maxLargeDelivery+1)
		})),
		"too many recipients": notify(change(func(o *mimimiv1.OutboundDelivery) {
			o.Delivery.Recipients = make([]*mimimiv1.Recipient, maxRecipients+1)
		})),
	} {
		wantCode(t, name, err, connect.CodeInvalidArgument)
	}
	wantCode(t, "oversize", notify(newDelivery(group, 10, maxNotifyBody+1, to)), connect.CodeResourceExhausted)
	if n := len(q.all()); n != 2 {
		t.Errorf("after all refusals the queue holds %d entries, want 2", n)
	}
	busy := &federationSide{notifies: newDomainSlots(0), relays: newDomainSlots(0)}
	if err := busy.notify(t.Context(), "a.example", []*mimimiv1.OutboundDelivery{newDelivery(group, 1, 1, to)}); err != errBusy {
		t.Errorf("too many: %v", err)
	}
}

// TestFederationCertificates: who may speak as which domain.
func TestFederationCertificates(t *testing.T) {
	t.Parallel()
	a, b, _, rb := pair(t)
	anyone := newAuthority()
	b.cfg.FederationCAFiles = []string{b.file("any.pem", anyone.pem())}
	open := b.start() // trusts an authority for all domains, and still a's own
	open.waitFor("a.example")
	for _, c := range []struct {
		name string
		r    *replica
		cert []tls.Certificate
		ok   bool
	}{
		{"the peer's own", rb, []tls.Certificate{a.federationPair()}, true},
		{"the peer's own authority, fresh certificate", rb, []tls.Certificate{a.ca.keyPair("federation.a.example")}, true},
		{"none", rb, nil, false},
		{"unknown authority", rb, []tls.Certificate{newAuthority().keyPair("federation.a.example")}, false},
		{"another listener's certificate", rb, []tls.Certificate{a.ca.keyPair("account.a.example")}, false},
		{"two domains", rb, []tls.Certificate{a.ca.keyPair("federation.a.example", "federation.c.example")}, false},
		{"a peer's authority for another domain", rb, []tls.Certificate{a.ca.keyPair("federation.c.example")}, false},
		{"a peer's authority for our own domain", rb, []tls.Certificate{a.ca.keyPair("federation.b.example")}, false},
		{"our own certificate", rb, []tls.Certificate{b.federationPair()}, false},
		{"authority for any domain", open, []tls.Certificate{anyone.keyPair("federation.c.example")}, true},
		{"authority for any domain, a peer", open, []tls.Certificate{anyone.keyPair("federation.a.example")}, true},
		{"authority for any domain, our own", open, []tls.Certificate{anyone.keyPair("federation.b.example")}, false},
		{"not a domain", open, []tls.Certificate{anyone.keyPair("federation.")}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := c.r.federationClient(c.cert...).Notify(t.Context(), &mimimiv1.NotifyRequest{})
			if reached := connect.CodeOf(err) == connect.CodeInvalidArgument; reached != c.ok {
				t.Errorf("reached the handler: %v, want %v (%v)", reached, c.ok, err)
			}
		})
	}
}

// TestPeerAuthorityIsCheckedByUsToo: we do not speak to a server whose certificate another authority vouches for, or that is for another host.
func TestPeerAuthorityIsCheckedByUsToo(t *testing.T) {
	t.Parallel()
	a, b := newDomain(t, "a.example"), newDomain(t, "b.example")
	rb := b.start()
	p := must(newPeers(a.cfg, must(loadKeys(a.cfg, a.clock.Now)), nil))
	for _, c := range []struct {
		domain string
		ca     *authority
	}{{"b.example", newAuthority()}, {"c.example", b.ca}} {
		q := must(p.dial(c.domain, "https://"+rb.federation, []*x509.Certificate{c.ca.cert}))
		_, err := download(t.Context(), q, documentPath, maxDocument)
		if _, refused := errors.AsType[*tls.CertificateVerificationError](err); !refused {
			t.Errorf("%s: %v", c.domain, err)
		}
	}
}

// TestPeerFiles: files that cannot be used are left, and a moved peer is found again.
func TestPeerFiles(t *testing.T) {
	t.Parallel()
	a := newDomain(t, "a.example")
	k := must(loadKeys(a.cfg, a.clock.Now))
	p := must(newPeers(a.cfg, k, nil))
	ca := strings.ReplaceAll(string(newAuthority().pem()), "\n", `\n`)
	file := func(domain, url, ca string) []byte {
		return []byte(`{"domain":"` + domain + `","url":"` + url + `","ca_pem":"` + ca + `"}`)
	}
	for name, b := range map[string][]byte{
		"empty":       nil,
		"not JSON":    []byte("{"),
		"unknown key": []byte(`{"domain":"b.example","url":"https://x","ca_pem":"","x":1}`),
		"no domain":   file("", "https://b", ca),
		"our own":     file("a.example", "https://b", ca),
		"http":        file("b.example", "http://b", ca),
		"a path":      file("b.example", "https://b/x", ca),
		"no CA":       file("b.example", "https://b", ""),
		"bad CA":      file("b.example", "https://b", "x"),
	} {
		if err := p.learn(b); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if n := len(p.domains()); n != 0 {
		t.Fatalf("%d peers", n)
	}
	for _, url := range []string{"https://one:1", "https://two:2"} {
		if err := p.learn(file("b.example", url, ca)); err != nil {
			t.Fatal(err)
		}
	}
	first := must(p.get("b.example"))
	if err := p.learn(file("b.example", "https://two:2", ca)); err != nil || must(p.get("b.example")) != first {
		t.Errorf("the same file made a new peer: %v", err)
	}
	if _, err := x509.ParseCertificate(first.roots[0].Raw); err != nil {
		t.Error(err)
	}
}
