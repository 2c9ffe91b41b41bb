package mimimi

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestWeek(t *testing.T) {
	monday := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct{ now, want time.Time }{
		{monday.Add(2 * day), monday},
		{monday.Add(day), monday},
		{monday.Add(day - time.Second), monday.Add(-week)},
		{monday, monday.Add(-week)},
		{monday.Add(8*day - time.Second), monday},
		{monday.Add(2 * day).In(time.FixedZone("", 3600)), monday},
	} {
		if got := Week(c.now); !got.Equal(c.want) || got.Weekday() != time.Monday {
			t.Errorf("Week(%v) = %v, want %v", c.now, got, c.want)
		}
	}
	l := LeafLifetime(noon)
	if l.NotBefore != uint64(monday.Unix()) || l.NotAfter-l.NotBefore != 90*24*3600 {
		t.Errorf("lifetime %v", l)
	}
}

func TestClientCertificate(t *testing.T) {
	a, b := newDomain(t, "a.example"), newDomain(t, "b.example")
	alice := a.person(t, "alice").device(t)
	identity := a.identity.Public()
	wantOK(t, alice.cert.Verify(identity, noon))
	wantOK(t, alice.cert.Verify(identity, Week(noon))) // dated back
	wantErr(t, alice.cert.Verify(b.identity.Public(), noon), ErrUnauthenticated, "")
	wantErr(t, alice.cert.Verify(identity, alice.cert.NotBefore.Add(-time.Second)), ErrInvalid, "the certificate is in date")
	wantErr(t, alice.cert.Verify(identity, alice.cert.NotAfter), ErrInvalid, "the certificate is in date")

	changes := map[string]func(*ClientCertificate){
		"user":       func(c *ClientCertificate) { c.User = must(ParseUser("mimi://a.example/u/bob")) },
		"client":     func(c *ClientCertificate) { c.Client = must(NewClient("a.example")) },
		"key":        func(c *ClientCertificate) { c.SignatureKey = b.identity.Public() },
		"not before": func(c *ClientCertificate) { c.NotBefore = c.NotBefore.Add(day) },
		"not after":  func(c *ClientCertificate) { c.NotAfter = c.NotAfter.Add(day) },
		"signature":  func(c *ClientCertificate) { c.Signature = bytes.Repeat([]byte{1}, 64) },
	}
	for name, change := range changes {
		c := *alice.cert
		change(&c)
		if err := c.Verify(identity, noon); err == nil {
			t.Errorf("verifies with another %s", name)
		}
	}
}

func TestClientCertificateIssueRefuses(t *testing.T) {
	a := newDomain(t, "a.example")
	alice := a.person(t, "alice").device(t)
	key := alice.certKey.Public()
	_, err := IssueClientCertificate(a.identity, alice.user, must(NewClient("b.example")), key, noon, day)
	wantErr(t, err, ErrInvalid, "user and client are of one domain")
	_, err = IssueClientCertificate(a.identity, alice.user, alice.client, key[1:], noon, day)
	wantErr(t, err, ErrInvalid, "the signature key is of suite 1")
	_, err = IssueClientCertificate(a.identity, alice.user, alice.client, key, noon, 0)
	wantErr(t, err, ErrInvalid, "a certificate is valid for some time")
}

// TestWrongDomainInCertificate: a certificate that names a user of one domain and a client of another, signed all the same.
func TestWrongDomainInCertificate(t *testing.T) {
	a := newDomain(t, "a.example")
	alice := a.person(t, "alice").device(t)
	c := *alice.cert
	c.Client = must(NewClient("b.example"))
	c.Signature = sign(a.identity, labelClientCertificate, c.tbs())
	wantErr(t, c.Verify(a.identity.Public(), noon), ErrInvalid, "user and client are of one domain")

	// And one that is consistent, but of another domain than the pseudonyms it is linked from.
	mallory := newDomain(t, "m.example").person(t, "mallory").device(t)
	cfg := alice.pseudonymConfig(must(NewClientPseudonym("a.example")))
	cfg.Certificate, cfg.CertificateKey = mallory.cert, mallory.certKey
	_, err := NewPseudonymousCredential(cfg)
	wantErr(t, err, ErrInvalid, "the pseudonyms' domain is the certificate's")
	pc := alice.credential(t)
	forged, _ := pad(pc.linkPlaintext(mallory.certKey, mallory.cert), linkPlaintextSize)
	pc.IdentityLinkCiphertext = pc.seal(pc.LinkKey(alice.connection), forged)
	_, err = pc.Identify(pc.LinkKey(alice.connection))
	wantErr(t, err, ErrInvalid, "the pseudonyms' domain is the certificate's")
}

func TestFingerprint(t *testing.T) {
	a := newDomain(t, "a.example")
	p := a.person(t, "alice")
	one, two := p.device(t), p.device(t)
	f := one.cert.Fingerprint()
	if len(f) != 39 || strings.Count(f, " ") != 7 || f == two.cert.Fingerprint() {
		t.Errorf("fingerprint %q", f)
	}
	renewed := must(IssueClientCertificate(a.identity, one.user, one.client, one.certKey.Public(), noon.Add(90*day), day))
	if renewed.Fingerprint() != f {
		t.Error("changes at renewal")
	}
}

func TestIdentify(t *testing.T) {
	a := newDomain(t, "a.example")
	alice := a.person(t, "alice").device(t)
	pc := alice.credential(t)
	read := must(ParsePseudonymousCredential(must(NewPseudonymousCredential(alice.pseudonymConfig(pc.ClientPseudonym))).Credential()))
	cert, err := read.Identify(read.LinkKey(alice.connection))
	wantOK(t, err)
	wantOK(t, cert.Verify(a.identity.Public(), read.Week))
	if cert.User != alice.user || cert.Client != alice.client {
		t.Error("identified as somebody else")
	}
	if !read.Week.Equal(Week(noon)) {
		t.Error("week")
	}
	_, err = read.Identify(read.LinkKey(NewConnectionKey()))
	wantErr(t, err, ErrUnauthenticated, "")
	_, err = read.Identify(pc.LinkKey(alice.connection)) // the key of another leaf of hers
	wantErr(t, err, ErrUnauthenticated, "")
	_, err = read.Identify(LinkKey{})
	wantErr(t, err, ErrUnauthenticated, "")
}

// TestEveryFieldIsBound changes what a hub could change in a leaf.
func TestEveryFieldIsBound(t *testing.T) {
	a := newDomain(t, "a.example")
	alice := a.person(t, "alice").device(t)
	for name, change := range map[string]func(*PseudonymousCredential){
		"client pseudonym": func(pc *PseudonymousCredential) { pc.ClientPseudonym = must(NewClientPseudonym("a.example")) },
		"user pseudonym":   func(pc *PseudonymousCredential) { pc.UserPseudonym = must(NewUserPseudonym("a.example")) },
		"signature key":    func(pc *PseudonymousCredential) { pc.SignatureKey = a.identity.Public() },
		"week":             func(pc *PseudonymousCredential) { pc.Week = pc.Week.Add(week) },
		"commitment":       func(pc *PseudonymousCredential) { pc.IdentityLinkCiphertext[0] ^= 1 },
		"ciphertext":       func(pc *PseudonymousCredential) { pc.IdentityLinkCiphertext[hashSize] ^= 1 },
		"tag":              func(pc *PseudonymousCredential) { pc.IdentityLinkCiphertext[linkCiphertextSize-1] ^= 1 },
	} {
		pc := alice.credential(t)
		k := pc.LinkKey(alice.connection)
		change(pc)
		for _, key := range []LinkKey{k, pc.LinkKey(alice.connection)} {
			if _, err := pc.Identify(key); err == nil {
				t.Errorf("identified with another %s", name)
			}
		}
	}
}

// TestTwoIdentitiesCiphertext: whoever makes a credential can put a ciphertext into it that opens under two link keys, to two
// different plaintexts (GCM does not commit to its key). Here the AEAD part is right for the second key and the commitment for the
// first: whichever key a reader holds, one of the two checks stops it.
func TestTwoIdentitiesCiphertext(t *testing.T) {
	a := newDomain(t, "a.example")
	p := a.person(t, "alice")
	alice := p.device(t)
	pc := alice.credential(t)
	k1, k2 := pc.LinkKey(alice.connection), pc.LinkKey(NewConnectionKey())
	link, _ := pad(pc.linkPlaintext(alice.certKey, alice.cert), linkPlaintextSize)
	first, second := pc.seal(k1, link), pc.seal(k2, link)

	pc.IdentityLinkCiphertext = append(bytes.Clone(first[:hashSize]), second[hashSize:]...)
	for _, k := range []LinkKey{k1, k2} {
		_, err := pc.Identify(k)
		wantErr(t, err, ErrUnauthenticated, "")
	}
	// Without the commitment the second key would open it: the check is what stops it.
	key, nonce, _ := linkKeys(k2)
	if _, err := Suite.Open(key, nonce, pc.linkAAD(), pc.IdentityLinkCiphertext[hashSize:]); err != nil {
		t.Error("the test's ciphertext is broken in another way too")
	}
}

// TestSwappedIdentityLinks: the links of two leaves of one user change places.
func TestSwappedIdentityLinks(t *testing.T) {
	p := newDomain(t, "a.example").person(t, "alice")
	one, two := p.device(t), p.device(t)
	a, b := one.credential(t), two.credential(t)
	ka, kb := a.LinkKey(p.connection), b.LinkKey(p.connection)
	a.IdentityLinkCiphertext, b.IdentityLinkCiphertext = b.IdentityLinkCiphertext, a.IdentityLinkCiphertext
	for _, pc := range []*PseudonymousCredential{a, b} {
		for _, k := range []LinkKey{ka, kb} {
			_, err := pc.Identify(k)
			wantErr(t, err, ErrUnauthenticated, "")
		}
	}
}

// TestLinkSignedByAnother: the certificate inside is real, but another key signed the credential.
func TestLinkSignedByAnother(t *testing.T) {
	p := newDomain(t, "a.example").person(t, "alice")
	alice, thief := p.device(t), p.device(t)
	pc := thief.credential(t)
	link, _ := pad(pc.linkPlaintext(thief.certKey, alice.cert), linkPlaintextSize)
	pc.IdentityLinkCiphertext = pc.seal(pc.LinkKey(p.connection), link)
	_, err := pc.Identify(pc.LinkKey(p.connection))
	wantErr(t, err, ErrUnauthenticated, "")
}

func TestNewPseudonymousCredentialRefuses(t *testing.T) {
	p := newDomain(t, "a.example").person(t, "alice")
	alice := p.device(t)
	for rule, change := range map[string]func(*PseudonymConfig){
		"an identity link needs a connection key":                       func(c *PseudonymConfig) { c.ConnectionKey = ConnectionKey{} },
		"the link is signed by the certificate's key":                   func(c *PseudonymConfig) { c.CertificateKey = p.identity },
		"both pseudonyms are of one domain":                             func(c *PseudonymConfig) { c.ClientPseudonym = must(NewClientPseudonym("b.example")) },
		"the signature key is of suite 1, the week a Monday since 1970": func(c *PseudonymConfig) { c.SignatureKey = nil },
	} {
		cfg := alice.pseudonymConfig(must(NewClientPseudonym("a.example")))
		change(&cfg)
		_, err := NewPseudonymousCredential(cfg)
		wantErr(t, err, ErrInvalid, rule)
	}
}

func TestParsePseudonymousCredentialRefuses(t *testing.T) {
	alice := newDomain(t, "a.example").person(t, "alice").device(t)
	_, err := ParsePseudonymousCredential(alice.cert.Credential())
	wantErr(t, err, ErrInvalid, "pseudonymous credentials only")
	pc := alice.credential(t)
	pc.Week = pc.Week.Add(day)
	_, err = ParsePseudonymousCredential(pc.Credential())
	wantErr(t, err, ErrInvalid, "a leaf's week starts on a Monday")
	pc = alice.credential(t)
	pc.ClientPseudonym = must(NewClientPseudonym("b.example"))
	_, err = ParsePseudonymousCredential(pc.Credential())
	wantErr(t, err, ErrInvalid, "both pseudonyms are of one domain")
	pc = alice.credential(t)
	pc.IdentityLinkCiphertext = pc.IdentityLinkCiphertext[1:]
	_, err = ParsePseudonymousCredential(pc.Credential())
	wantErr(t, err, ErrMalformed, "")
}
