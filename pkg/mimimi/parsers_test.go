package mimimi

import (
	"bytes"
	"testing"
	"time"

	"mimimi.example/pkg/mls"
)

// parserCase is one parser with samples of what it takes; reparse reads and encodes again.
type parserCase struct {
	name    string
	reparse func(b []byte) ([]byte, error)
	samples [][]byte
}

func marshalled[T interface{ Marshal() []byte }](parse func([]byte) (T, error)) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		v, err := parse(b)
		if err != nil {
			return nil, err
		}
		return v.Marshal(), nil
	}
}

// parserCases have a valid input for every parser, made of one another: one table, so that a parser that is missing is seen.
func parserCases(t testing.TB) []parserCase {
	d := newDomain(t, "a.example")
	p := d.person(t, "alice")
	alice := p.device(t)
	pc := alice.credential(t)
	hpke := must(Suite.GenerateHPKEKey())
	record := must(NewConnectionRecord(alice.cert, alice.certKey, hpke.Public(), noon.Add(30*day)))
	request := newRequest(t, alice, record)
	policy := &Policy{Version: Version, Admins: []UserPseudonym{must(NewUserPseudonym("a.example")), must(NewUserPseudonym("b.example"))},
		MayAdd: RoleMember, MayRemove: RoleAdmin, MayInvite: RoleMember, ExternalJoins: true, LastResort: true, MaxLeaves: 1000}
	token := NewConnectionToken()
	k1, k2 := pc.LinkKey(alice.connection), pc.LinkKey(NewConnectionKey())
	invitation := &Invitation{Group: must(NewGroupID("hub.example")), Secret: NewInviteSecret(), Uses: 3, NotAfter: noon, Policy: policy,
		LinkKeys: map[uint32]LinkKey{0: k1, 7: k2}}
	doc := &KeyDocument{Domain: "a.example", Number: 9, NotBefore: noon, NotAfter: noon.Add(week), QueueKeys: []QueueKey{d.queueKey},
		OHTTPKeys: []OHTTPKey{{Service: "hub", Config: []byte("config")}, {Service: "kpstore"}}, IssuerKeys: testIssuerKeys(t)[:2]}
	wantOK(t, SignKeyDocument(doc, d.identity))
	revocations := &RevocationList{Domain: "a.example", Number: 3, IssuedAt: noon, NotAfter: noon.Add(2 * day), Entries: []RevokedCertificate{
		{alice.cert.Hash(), alice.cert.NotAfter}, {[32]byte{1}, alice.cert.NotAfter}}}
	wantOK(t, SignRevocationList(revocations, d.identity))
	noRevocations := &RevocationList{Domain: "a.example", IssuedAt: noon, NotAfter: noon.Add(day)}
	wantOK(t, SignRevocationList(noRevocations, d.identity))
	state := &State{barred: []barredID{{1}, {2}}, entries: map[uint32]entry{0: {5, noAdder}, 3: {9, 0}}, joiner: &joiner{3, 9}}
	update := identityLinkUpdate{make([]byte, 12), []byte("ciphertext")}
	blob := sealedBlob{make([]byte, 32), []byte("ciphertext")}

	return []parserCase{
		{"ClientCertificate", marshalled(ParseClientCertificate), [][]byte{alice.cert.Marshal()}},
		{"PseudonymousCredential", func(b []byte) ([]byte, error) {
			pc, err := ParsePseudonymousCredential(mls.Credential{Type: CredentialPseudonymous, Body: b})
			if err != nil {
				return nil, err
			}
			return pc.Credential().Body, nil
		}, [][]byte{pc.Credential().Body}},
		{"ConnectionRecord", marshalled(ParseConnectionRecord), [][]byte{record.Marshal()}},
		{"ConnectionRequest", func(b []byte) ([]byte, error) {
			r := new(ConnectionRequest)
			err := decode(b, r.read)
			if err != nil {
				return nil, err
			}
			return r.tbs(), nil
		}, [][]byte{request.tbs()}},
		{"ConnectionResponse", marshalled(ParseConnectionResponse),
			[][]byte{(&ConnectionResponse{NewConnectionKey(), NewConnectionToken()}).Marshal()}},
		{"Rotation", marshalled(ParseRotation), [][]byte{
			(&Rotation{Number: 7, Key: NewConnectionKey()}).Marshal(),
			(&Rotation{Number: 1 << 40, Key: NewConnectionKey(), Token: &token, TokenWanted: true}).Marshal(),
		}},
		{"IdentityLinkKeys", func(b []byte) ([]byte, error) {
			k := new(IdentityLinkKeys)
			err := decode(b, k.read)
			if err != nil {
				return nil, err
			}
			return k.marshal(), nil
		}, [][]byte{(&IdentityLinkKeys{Added: []LinkKey{k1, k2}, Own: &k1}).marshal(), (&IdentityLinkKeys{}).marshal()}},
		{"IdentityLinkUpdate", func(b []byte) ([]byte, error) {
			var u identityLinkUpdate
			err := decode(b, u.read)
			return u.marshal(), err
		}, [][]byte{update.marshal()}},
		{"IdentityLinks", func(b []byte) ([]byte, error) {
			keys, err := ParseIdentityLinks(b)
			return MarshalIdentityLinks(keys).Data, err
		}, [][]byte{MarshalIdentityLinks([]*LinkKey{&k1, nil, &k2}).Data, MarshalIdentityLinks(nil).Data}},
		{"sealed link keys", func(b []byte) ([]byte, error) {
			var s sealedBlob
			err := decode(b, s.read)
			return encode(func(b *builder) { addVector(b, s.kem); addVector(b, s.ciphertext) }), err
		}, [][]byte{encode(func(b *builder) { addVector(b, blob.kem); addVector(b, blob.ciphertext) })}},
		{"SealedLinks", marshalled(ParseSealedLinks),
			[][]byte{(&SealedLinks{Receivers: []uint32{1, 5}, Sealed: [][]byte{[]byte("a"), bytes.Repeat([]byte("b"), 100)}}).Marshal()}},
		{"missing leaves", func(b []byte) ([]byte, error) {
			leaves, err := parseLeaves(b)
			return marshalLeaves(leaves), err
		}, [][]byte{marshalLeaves([]uint32{0, 3, 1023}), marshalLeaves(nil)}},
		{"BanList", func(b []byte) ([]byte, error) {
			l, err := ParseBanList(b)
			if err != nil {
				return nil, err
			}
			return l.Marshal()
		}, [][]byte{must((&BanList{Number: 7, Users: []User{p.user, must(ParseUser("mimi://b.example/u/bob"))}}).Marshal()), must((&BanList{}).Marshal())}},
		{"JoinerLink", marshalled(ParseJoinerLink), [][]byte{(&JoinerLink{3, k1}).Marshal()}},
		{"Invitation", marshalled(ParseInvitation), [][]byte{invitation.Marshal()}},
		{"Policy", func(b []byte) ([]byte, error) {
			p, err := ParsePolicy(b)
			if err != nil {
				return nil, err
			}
			return p.Marshal().Data, nil
		}, [][]byte{policy.Marshal().Data}},
		{"EpochSenderKey", func(b []byte) ([]byte, error) {
			k, err := ParseEpochSenderKey(b)
			return encode(func(b *builder) { addVector(b, k) }), err
		}, [][]byte{encode(func(b *builder) { addVector(b, d.identity.Public()) })}},
		{"State", marshalled(ParseState), [][]byte{state.Marshal(), (&State{}).Marshal()}},
		{"EncryptedQueueID", func(b []byte) ([]byte, error) {
			var e encryptedQueueID
			err := decode(b, e.read)
			return e.marshal(), err
		}, [][]byte{must(SealQueueID(d.queueKey, pc.ClientPseudonym, alice.queueID))}},
		{"Envelope", marshalled(ParseEnvelope), [][]byte{Envelope{EnvelopeContent, []byte("hello")}.Marshal(), Envelope{Type: 99}.Marshal()}},
		{"KeyDocument", marshalled(ParseKeyDocument), [][]byte{doc.Marshal()}},
		{"LinkOffer", marshalled(ParseLinkOffer), [][]byte{newLinking(t, "a.example", "alice").offer.Marshal()}},
		{"LinkAnswer", func(b []byte) ([]byte, error) {
			a := new(LinkAnswer)
			if err := decode(b, a.read); err != nil {
				return nil, err
			}
			return a.marshal(), nil
		}, [][]byte{newLinking(t, "a.example", "alice").answer.marshal()}},
		{"RevocationList", marshalled(ParseRevocationList), [][]byte{revocations.Marshal(), noRevocations.Marshal()}},
		{"Token", marshalled(ParseToken), [][]byte{testToken(t, &testIssuerKeys(t)[0], "a.example", "b.example", 1).Marshal()}},
	}
}

func newRequest(t testing.TB, from *device, record *ConnectionRecord) *ConnectionRequest {
	t.Helper()
	return &ConnectionRequest{
		RequestID: [16]byte{1}, Made: noon, NotAfter: wholeDay(noon.Add(14 * day)), RequesterCertificate: from.cert,
		ConnectionGroup: must(NewGroupID("hub.example")), InviteSecret: NewInviteSecret(), RequesterKey: NewConnectionKey(),
		RequesterToken: NewConnectionToken(), Responder: record.User, ResponderRecordHash: record.Hash(),
	}
}

func TestParsersRoundTrip(t *testing.T) {
	for _, c := range parserCases(t) {
		for _, s := range c.samples {
			out, err := c.reparse(s)
			if err != nil || !bytes.Equal(out, s) {
				t.Errorf("%s: read and written again: %v, same %v", c.name, err, bytes.Equal(out, s))
			}
		}
	}
}

func TestParsersRejectTruncationsAndTails(t *testing.T) {
	for _, c := range parserCases(t) {
		for _, s := range c.samples {
			for n := range s {
				if _, err := c.reparse(s[:n]); err == nil {
					t.Errorf("%s: the first %d of %d bytes pass", c.name, n, len(s))
				}
			}
			if _, err := c.reparse(append(bytes.Clone(s), 0)); err == nil {
				t.Errorf("%s: a trailing byte passes", c.name)
			}
		}
	}
}

// TestParsersKeepNothingOfTheirInput overwrites what was parsed.
func TestParsersKeepNothingOfTheirInput(t *testing.T) {
	cert := newDomain(t, "a.example").person(t, "alice").device(t).cert
	in := cert.Marshal()
	got := must(ParseClientCertificate(in))
	clear(in)
	if !bytes.Equal(got.Marshal(), cert.Marshal()) {
		t.Error("a parsed certificate changes with its input")
	}
}

// looseCases are parsers that take a prefix of what they take too, or say only yes or no. They are made like the others, and the list is one.
func looseCases(t testing.TB) []parserCase {
	d := newDomain(t, "a.example")
	alice := d.person(t, "alice").device(t)
	pc := alice.credential(t)
	hpke := must(Suite.GenerateHPKEKey())
	record := must(NewConnectionRecord(alice.cert, alice.certKey, hpke.Public(), noon.Add(30*day)))
	request := newRequest(t, alice, record).tbs()
	signed := append(request, encode(func(b *builder) { addVector(b, sign(alice.certKey, labelConnectionRequest, request)) })...)
	kp, _, err := NewKeyPackage(alice.config())
	wantOK(t, err)
	issuer := &testIssuerKeys(t)[0]
	seed := make([]byte, keySize)
	padded := func(b []byte) []byte { return append(b, make([]byte, 9)...) }

	return []parserCase{
		{"padded ConnectionRecord", func(b []byte) ([]byte, error) {
			r, err := ParsePaddedConnectionRecord(b)
			if err != nil {
				return nil, err
			}
			return padTo(r.Marshal(), b), nil
		}, [][]byte{padded(record.Marshal())}},
		{"padded signed request", func(b []byte) ([]byte, error) {
			_, err := parseSignedRequest(b)
			return b, err
		}, [][]byte{padded(signed)}},
		{"padded IdentityLinkTBE", func(b []byte) ([]byte, error) {
			var sig []byte
			var cert *ClientCertificate
			if err := decodePadded(b, func(s *input) bool { return readSized(s, signatureSize, &sig) && readCertificate(s, &cert) }); err != nil {
				return nil, err
			}
			return padTo(encode(func(b *builder) { addVector(b, sig); b.AddBytes(cert.Credential().Marshal()) }), b), nil
		}, [][]byte{padded(pc.linkPlaintext(alice.certKey, alice.cert))}},
		{"padded LinkAnswer", func(b []byte) ([]byte, error) {
			a := new(LinkAnswer)
			if err := decodePadded(b, a.read); err != nil {
				return nil, err
			}
			return padTo(a.marshal(), b), nil
		}, [][]byte{padded(newLinking(t, "a.example", "alice").answer.marshal())}},
		{"KeyPackage", func(b []byte) ([]byte, error) {
			kp, err := mls.ParseKeyPackage(b)
			if err != nil {
				return nil, err
			}
			_, _ = CheckKeyPackage(kp, "a.example", false, noon)
			_, _ = ParseLeaf(kp.Leaf())
			return kp.Marshal(), nil
		}, [][]byte{kp.Marshal()}},
		{"GroupInfo", func(b []byte) ([]byte, error) {
			_, err := CheckHubGroupInfo(&mls.GroupInfo{Extensions: []mls.Extension{{Type: mls.ExtensionExternalPub, Data: b}, {Type: ExtensionEpochSenderKey, Data: b}}})
			return b, err
		}, [][]byte{encode(func(b *builder) { addVector(b, d.identity.Public()) })}},
		{"secret", func(b []byte) ([]byte, error) {
			q, err := QueueIDFrom(b)
			if err != nil {
				return nil, err
			}
			return q.Bytes(), nil
		}, [][]byte{seed}},
		{"LinkUpdateKey", func(b []byte) ([]byte, error) {
			var k LinkUpdateKey
			if err := k.UnmarshalBinary(b); err != nil {
				return nil, err
			}
			return k.MarshalBinary()
		}, [][]byte{make([]byte, Suite.KeyLen())}},
		{"issuer key", func(b []byte) ([]byte, error) {
			k := *issuer
			k.SPKI = b
			if _, err := BlindToken(&k, "a.example", "b.example", seed); err != nil {
				return nil, err
			}
			return b, nil
		}, [][]byte{issuer.SPKI}},
		{"blinded message", func(b []byte) ([]byte, error) { return b, issuer.CheckBlinded(b) },
			[][]byte{must(BlindToken(issuer, "a.example", "b.example", seed))}},
		{"blind signature", func(b []byte) ([]byte, error) {
			_, err := FinishToken(issuer, "a.example", "b.example", seed, b)
			return b, err
		}, [][]byte{make([]byte, rsaSize)}},
	}
}

// padTo adds as many zeros as make b as long as what it was read from.
func padTo(b, from []byte) []byte { return append(b, make([]byte, max(0, len(from)-len(b)))...) }

// FuzzParsers gives bytes to one of the parsers, known by its place: no panic, and what is accepted is the one encoding of what was read.
func FuzzParsers(f *testing.F) {
	cases := append(parserCases(f), looseCases(f)...)
	for i, c := range cases {
		for _, s := range c.samples {
			f.Add(uint8(i), s)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		c := &cases[int(which)%len(cases)]
		if out, err := c.reparse(b); err == nil && !bytes.Equal(out, b) {
			t.Errorf("%s: %x is read as %x", c.name, b, out)
		}
	})
}

func TestVectorLengths(t *testing.T) {
	for _, n := range []int{0, 63, 64, 16383, 16384} {
		v := make([]byte, n)
		var got []byte
		enc := encode(func(b *builder) { addVector(b, v) })
		if err := decode(enc, func(s *input) bool { return readVector(s, &got) }); err != nil || len(got) != n {
			t.Errorf("%d bytes: %v, %d read", n, err, len(got))
		}
	}
	for _, longer := range [][]byte{{0x40, 0x00}, {0x40, 0x01, 9}, {0x80, 0, 0, 0}, {0x80, 0, 0, 1, 9}, {0xC0}, {0xC0, 0, 0, 0, 0, 0, 0, 0}} {
		var got []byte
		wantErr(t, decode(longer, func(s *input) bool { return readVector(s, &got) }), ErrMalformed, "")
	}
}

func TestTimesAreBounded(t *testing.T) {
	var got time.Time
	for v, ok := range map[uint64]bool{0: true, maxUnix: true, maxUnix + 1: false, 1<<64 - 1: false} {
		b := encode(func(b *builder) { b.AddUint64(v) })
		if err := decode(b, func(s *input) bool { return readTime(s, &got) }); (err == nil) != ok {
			t.Errorf("time %d: %v", v, err)
		}
	}
	half := encode(func(b *builder) { addTime(b, noon) })
	wantErr(t, decode(half, func(s *input) bool { return readDay(s, &got) }), ErrMalformed, "")
}
