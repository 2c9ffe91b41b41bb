package mimimi

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"
)

func TestRevocationList(t *testing.T) {
	d, other := newDomain(t, "a.example"), newDomain(t, "b.example")
	alice, bob, eve := d.person(t, "alice").device(t).cert, d.person(t, "bob").device(t).cert, other.person(t, "eve").device(t).cert
	entry := func(c *ClientCertificate) RevokedCertificate { return RevokedCertificate{c.Hash(), c.NotAfter} }
	gone := RevokedCertificate{[32]byte{1}, wholeDay(noon.Add(-revocationMargin))}
	margin := RevokedCertificate{[32]byte{2}, wholeDay(noon.Add(-revocationMargin + day))}
	list := &RevocationList{Domain: "a.example", Number: 7, IssuedAt: noon, NotAfter: noon.Add(day),
		Entries: []RevokedCertificate{entry(alice), entry(eve), gone, margin, entry(alice)}}
	wantOK(t, SignRevocationList(list, d.identity))
	read := must(ParseRevocationList(list.Marshal()))
	wantOK(t, read.Verify(d.identity.Public(), noon.Add(day-time.Second), 7))
	wantOK(t, read.Verify(d.identity.Public(), noon.Add(-time.Hour), 0))
	if len(read.Entries) != 3 {
		t.Errorf("%d entries, want 3: repeats and what expired long ago go", len(read.Entries))
	}
	for name, c := range map[string]struct {
		cert *ClientCertificate
		want bool
	}{"the revoked one": {alice, true}, "another": {bob, false}, "another domain's": {eve, false}} {
		if read.Revoked(c.cert) != c.want {
			t.Errorf("%s: revoked %v", name, !c.want)
		}
	}
	renewed := must(IssueClientCertificate(d.identity, alice.User, alice.Client, alice.SignatureKey, noon.Add(day), 365*day))
	if read.Revoked(renewed) {
		t.Error("a certificate issued later counts as revoked")
	}

	wantErr(t, read.Verify(d.identity.Public(), noon, 8), ErrInvalid, "the number of a list of revocations never goes back")
	wantErr(t, read.Verify(d.identity.Public(), noon.Add(day), 0), ErrInvalid, "the list of revocations is in date")
	wantErr(t, read.Verify(d.identity.Public(), noon.Add(-time.Hour-time.Second), 0), ErrInvalid, "the list of revocations is in date")
	wantErr(t, read.Verify(other.identity.Public(), noon, 0), ErrUnauthenticated, "")
	for name, change := range map[string]func(*RevocationList){
		"domain":    func(l *RevocationList) { l.Domain = "b.example" },
		"number":    func(l *RevocationList) { l.Number++ },
		"issue":     func(l *RevocationList) { l.IssuedAt = l.IssuedAt.Add(time.Second) },
		"end":       func(l *RevocationList) { l.NotAfter = l.NotAfter.Add(time.Second) },
		"an entry":  func(l *RevocationList) { l.Entries = l.Entries[1:] },
		"a date":    func(l *RevocationList) { l.Entries[0].NotAfter = l.Entries[0].NotAfter.Add(day) },
		"signature": func(l *RevocationList) { l.Signature[0] ^= 1 },
	} {
		changed := must(ParseRevocationList(list.Marshal()))
		change(changed)
		if changed.Verify(d.identity.Public(), noon, 0) == nil {
			t.Errorf("the signature does not cover the %s", name)
		}
	}
}

func TestRevocationListOrder(t *testing.T) {
	d := newDomain(t, "a.example")
	list := &RevocationList{Domain: "a.example", IssuedAt: noon, NotAfter: noon.Add(day),
		Entries: []RevokedCertificate{{[32]byte{2}, wholeDay(noon)}, {[32]byte{1}, wholeDay(noon)}}}
	wantOK(t, SignRevocationList(list, d.identity))
	for name, entries := range map[string][]RevokedCertificate{
		"descending": {list.Entries[1], list.Entries[0]}, "twice": {list.Entries[0], list.Entries[0]}, "no whole day": {{[32]byte{1}, noon}},
	} {
		changed := *list
		changed.Entries = entries
		_, err := ParseRevocationList(changed.Marshal())
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRevocationListIsBounded(t *testing.T) {
	d := newDomain(t, "a.example")
	list := &RevocationList{Domain: "a.example", IssuedAt: noon, NotAfter: noon.Add(day), Entries: make([]RevokedCertificate, maxRevoked+1)}
	for i := range list.Entries {
		binary.BigEndian.PutUint32(list.Entries[i].Hash[:], uint32(i))
		list.Entries[i].NotAfter = wholeDay(noon)
	}
	wantErr(t, SignRevocationList(list, d.identity), ErrInvalid, "a list of revocations has at most 65,536 entries")
	if list.Signature != nil {
		t.Error("a list that is refused was changed")
	}
	tooLong := *list
	tooLong.Signature = make([]byte, signatureSize)
	list.Entries = list.Entries[:maxRevoked]
	wantOK(t, SignRevocationList(list, d.identity))
	encoded := list.Marshal()
	if again := must(ParseRevocationList(encoded)); !bytes.Equal(again.Marshal(), encoded) || len(encoded) > 2_700_000 {
		t.Errorf("the longest list has %d bytes", len(encoded))
	}
	_, err := ParseRevocationList(tooLong.Marshal())
	wantErr(t, err, ErrMalformed, "")
	for name, l := range map[string]*RevocationList{
		"no time":   {Domain: "a.example", IssuedAt: noon, NotAfter: noon},
		"no domain": {Domain: "A", IssuedAt: noon, NotAfter: noon.Add(day)},
	} {
		if SignRevocationList(l, d.identity) == nil {
			t.Errorf("%s: signed", name)
		}
	}
}
