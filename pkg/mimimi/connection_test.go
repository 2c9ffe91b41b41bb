package mimimi

import (
	"bytes"
	"testing"
	"time"

	"mimimi.example/pkg/mls"
)

// pair is a requester and a responder of two domains, with the responder's record and its key.
type pair struct {
	alice, bob *device
	key        mls.HPKEPrivateKey
	record     *ConnectionRecord
}

func newPair(t testing.TB) *pair {
	t.Helper()
	p := &pair{
		alice: newDomain(t, "a.example").person(t, "alice").device(t), bob: newDomain(t, "b.example").person(t, "bob").device(t),
		key: must(Suite.GenerateHPKEKey()),
	}
	p.record = must(NewConnectionRecord(p.bob.cert, p.bob.certKey, p.key.Public(), noon.Add(60*day)))
	return p
}

func TestConnectionRecord(t *testing.T) {
	p := newPair(t)
	identity := p.bob.identity.Public()
	r := must(ParseConnectionRecord(p.record.Marshal()))
	wantOK(t, r.Verify(identity, noon))
	if r.Hash() != p.record.Hash() {
		t.Error("hash changes on the way")
	}
	wantErr(t, r.Verify(p.alice.identity.Public(), noon), ErrUnauthenticated, "")
	wantErr(t, r.Verify(identity, r.NotAfter), ErrInvalid, "the record is in date")

	changed := *r
	changed.HPKEKey = p.alice.queue.Public()
	wantErr(t, changed.Verify(identity, noon), ErrUnauthenticated, "")
	if changed.Hash() == r.Hash() {
		t.Error("the hash does not cover the key")
	}
	stolen := *r
	stolen.User = must(ParseUser("mimi://b.example/u/carol"))
	stolen.Signature = sign(p.bob.certKey, labelConnectionRecord, stolen.tbs())
	wantErr(t, stolen.Verify(identity, noon), ErrInvalid, "a record is its certificate's user's")

	_, err := NewConnectionRecord(p.bob.cert, p.alice.certKey, p.key.Public(), noon)
	wantErr(t, err, ErrInvalid, "a record is signed by its certificate's key")
	_, err = NewConnectionRecord(p.bob.cert, p.bob.certKey, nil, noon)
	wantErr(t, err, ErrInvalid, "the connection key is of suite 1")
}

func TestConnectionRequest(t *testing.T) {
	p := newPair(t)
	r := newRequest(t, p.alice, p.record)
	sealed := must(SealConnectionRequest(r, p.alice.certKey, p.record))
	if len(sealed) != SealedConnectionRequestSize || SealedConnectionRequestSize != 2048+48 {
		t.Errorf("sealed size %d", len(sealed))
	}
	got, err := OpenConnectionRequest(sealed, p.key, p.record, noon)
	wantOK(t, err)
	if !bytes.Equal(got.tbs(), r.tbs()) || !got.RequesterKey.Equal(r.RequesterKey) || got.RequesterCertificate.User != p.alice.user {
		t.Error("another request comes out")
	}
	wantOK(t, got.RequesterCertificate.Verify(p.alice.identity.Public(), noon))
	for i := 0; i < len(sealed); i += 61 {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		_, err := OpenConnectionRequest(bad, p.key, p.record, noon)
		wantErr(t, err, ErrUnauthenticated, "")
	}
	_, err = OpenConnectionRequest(sealed[1:], p.key, p.record, noon)
	wantErr(t, err, ErrMalformed, "")
}

func TestExpiredRequest(t *testing.T) {
	p := newPair(t)
	r := newRequest(t, p.alice, p.record)
	sealed := must(SealConnectionRequest(r, p.alice.certKey, p.record))
	_, err := OpenConnectionRequest(sealed, p.key, p.record, r.NotAfter.Add(-time.Second))
	wantOK(t, err)
	_, err = OpenConnectionRequest(sealed, p.key, p.record, r.NotAfter)
	wantErr(t, err, ErrInvalid, "the request is in date")
	_, err = OpenConnectionRequest(sealed, p.key, p.record, r.Made.Add(-day))
	wantOK(t, err)
	_, err = OpenConnectionRequest(sealed, p.key, p.record, r.Made.Add(-day-time.Second))
	wantErr(t, err, ErrInvalid, "the request is in date")
}

// TestRequestReplayedToAnotherResponder: Bob seals Alice's request to Carol, who would otherwise think that Alice asked her; and a
// provider shows Alice a record of its own making for Bob.
func TestRequestReplayedToAnotherResponder(t *testing.T) {
	p := newPair(t)
	carol := newDomain(t, "c.example").person(t, "carol").device(t)
	carolKey := must(Suite.GenerateHPKEKey())
	carols := must(NewConnectionRecord(carol.cert, carol.certKey, carolKey.Public(), noon.Add(60*day)))
	r := newRequest(t, p.alice, p.record)
	plain, _ := pad(encode(func(b *builder) {
		b.AddBytes(r.tbs())
		addVector(b, sign(p.alice.certKey, labelConnectionRequest, r.tbs()))
	}), requestPlaintextSize)
	kem, ct, err := Suite.HPKESeal(carolKey.Public(), nil, requestAAD(carol.user), plain)
	wantOK(t, err)
	_, err = OpenConnectionRequest(append(kem, ct...), carolKey, carols, noon)
	wantErr(t, err, ErrInvalid, "a request is for the user of the record")

	// The sealed request itself does not open for anybody else, even under the same key.
	sealed := must(SealConnectionRequest(r, p.alice.certKey, p.record))
	_, err = OpenConnectionRequest(sealed, p.key, carols, noon)
	wantErr(t, err, ErrUnauthenticated, "")
	// Bob's newer record, or one that he never published.
	other := must(NewConnectionRecord(p.bob.cert, p.bob.certKey, p.key.Public(), noon.Add(61*day)))
	_, err = OpenConnectionRequest(sealed, p.key, other, noon)
	wantErr(t, err, ErrInvalid, "a request is for the user of the record")
}

func TestRequestSignedByAnother(t *testing.T) {
	p := newPair(t)
	r := newRequest(t, p.alice, p.record)
	plain, _ := pad(encode(func(b *builder) {
		b.AddBytes(r.tbs())
		addVector(b, sign(p.bob.certKey, labelConnectionRequest, r.tbs()))
	}), requestPlaintextSize)
	kem, ct, err := Suite.HPKESeal(p.key.Public(), nil, requestAAD(p.bob.user), plain)
	wantOK(t, err)
	_, err = OpenConnectionRequest(append(kem, ct...), p.key, p.record, noon)
	wantErr(t, err, ErrUnauthenticated, "")
}

func TestSealConnectionRequestRefuses(t *testing.T) {
	p := newPair(t)
	for rule, change := range map[string]func(*ConnectionRequest){
		"a request has all its fields, and its end is a whole day": func(r *ConnectionRequest) { r.NotAfter = noon },
		"a request is for the user of the record":                  func(r *ConnectionRequest) { r.ResponderRecordHash[0] ^= 1 },
		"a request is signed by its certificate's key":             func(r *ConnectionRequest) { r.RequesterCertificate = p.bob.cert },
	} {
		r := newRequest(t, p.alice, p.record)
		change(r)
		_, err := SealConnectionRequest(r, p.alice.certKey, p.record)
		wantErr(t, err, ErrInvalid, rule)
	}
	_, err := SealConnectionRequest(&ConnectionRequest{}, p.alice.certKey, p.record)
	wantErr(t, err, ErrInvalid, "a request has all its fields, and its end is a whole day")
}
