package provider

import (
	"bytes"
	"testing"

	"connectrpc.com/connect"

	mimimiv1 "mimimi.example/api/mimimi/v1"
)

// linkCalls has one call of each kind about links, and returns their errors.
func (r *replica) linkCalls(by, linked *person) map[string]error {
	ctx := r.d.t.Context()
	_, list := r.accounts().ListLinks(ctx, &mimimiv1.ListLinksRequest{Client: by.client.Wire(), Signed: by.sign(r.d.clock.Now(), "list links", nil)})
	_, fetch := r.getLink(linked)
	return map[string]error{
		"offer": r.offer(linked, []byte("x"), nil), "list": list, "approve": r.approve(by, linked, []byte("x")), "get": fetch, "put": r.putPackage(linked, []byte("x")),
	}
}

func spoilLinks(t *testing.T, s *spoilt) {
	alice := s.r.register("links")
	subject, phone := s.r.bus.Links(alice.user.Wire()), alice.another()
	s.r.put(subject, noRecord)
	for what, err := range s.r.linkCalls(alice, phone) {
		wantCorrupt(t, what, err)
	}
	touched := s.d.clock.Now().Unix()
	for name, m := range map[string]*mimimiv1.LinkMailbox{
		"empty entries": {Links: []*mimimiv1.LinkEntry{{}, {Touched: touched}}},
		"no key":        {Links: []*mimimiv1.LinkEntry{{Client: phone.client.Wire(), Touched: touched, Certificate: []byte("x")}}},
		"a short key":   {Links: []*mimimiv1.LinkEntry{{Client: phone.client.Wire(), SignatureKey: randomBytes(31), Touched: touched, Certificate: []byte("x")}}},
		"no time":       {Links: []*mimimiv1.LinkEntry{{Client: phone.client.Wire(), SignatureKey: phone.key.Public(), Touched: -1 << 63, Certificate: []byte("x")}}},
		"another time":  {Links: []*mimimiv1.LinkEntry{{Client: phone.client.Wire(), SignatureKey: phone.key.Public(), Touched: 1<<63 - 1, Certificate: []byte("x")}}},
		"many":          {Links: make([]*mimimiv1.LinkEntry, 1000)},
	} {
		for i, e := range m.GetLinks() {
			if e == nil {
				m.Links[i] = &mimimiv1.LinkEntry{Touched: touched}
			}
		}
		s.r.put(subject, marshalled(m))
		_, err := s.r.getLink(phone)
		wantProblem(t, name+", get", err, errNoLink)
		wantProblem(t, name+", put", s.r.putPackage(phone, []byte("x")), errNoLink)
		wantProblem(t, name+", approve", s.r.approve(alice, phone, []byte("x")), errNoLink)
		s.r.links(alice)
	}
}

func spoilRevocations(t *testing.T, s *spoilt) {
	alice := s.r.register("revoked")
	phone, tablet := s.r.link(alice), s.r.link(alice)
	subject := s.r.bus.Revocations(s.d.name)
	whole := s.r.revocations(s.d.name).Marshal()
	other := bytes.Clone(whole)
	other[bytes.Index(other, []byte(s.d.name))] = 'b'
	for name, record := range map[string][]byte{
		"garbage": noRecord, "empty": nil, "no list": marshalled(&mimimiv1.RevocationRecord{List: []byte("x")}),
		"cut": marshalled(&mimimiv1.RevocationRecord{List: whole[:len(whole)-1]}), "another domain's": marshalled(&mimimiv1.RevocationRecord{List: other}),
	} {
		s.r.put(subject, record)
		s.d.clock.add(revocationHold)
		_, err := s.r.relay().GetRevocations(t.Context(), &mimimiv1.GetRevocationsRequest{Domain: s.d.name})
		wantCorrupt(t, name+", get", err)
		wantCorrupt(t, name+", remove", s.r.remove(alice, phone))
		_, err = s.r.clients(phone)
		wantCode(t, name+", the removed client", err, connect.CodePermissionDenied)
		if m, err := s.r.bus.Last(t.Context(), subject); err != nil || !bytes.Equal(m.Data, record) {
			t.Errorf("%s: the record was replaced: %v", name, err)
		}
		s.r.items(alice) // goes on although the removal cannot be finished
	}
	spoiltSignature := bytes.Clone(whole) // as after a change of the identity key: it is signed anew
	spoiltSignature[len(whole)-1] ^= 1
	s.r.put(subject, marshalled(&mimimiv1.RevocationRecord{List: spoiltSignature}))
	if err := s.r.remove(alice, tablet); err != nil {
		t.Fatal(err)
	}
	if l := s.r.revocations(s.d.name); !l.Revoked(phone.certificate) || !l.Revoked(tablet.certificate) {
		t.Error("not everything is revoked when the record can be read again")
	}
}

// spoilLeaving has accounts hold certificates that cannot be revoked, because they are none.
func spoilLeaving(t *testing.T, s *spoilt) {
	for i, part := range []*mimimiv1.AccountClient{
		{Certificate: []byte("garbage")}, {}, {Earlier: []*mimimiv1.RevocableCertificate{{Hash: randomBytes(31)}}},
	} {
		alice := s.r.register("leaving-" + string(rune('a'+i)))
		phone := s.r.link(alice)
		part.Client, part.SignatureKey = phone.client.Wire(), phone.key.Public()
		if len(part.GetEarlier()) > 0 {
			part.Certificate = phone.certificate.Marshal()
		}
		account, _, _, err := get[mimimiv1.AccountEntry](t.Context(), s.r.bus, s.r.bus.Account(alice.user.Wire()))
		if err != nil {
			t.Fatal(err)
		}
		account.Clients[1] = part
		s.r.put(s.r.bus.Account(alice.user.Wire()), marshalled(account))
		wantCorrupt(t, "remove", s.r.remove(alice, phone))
		_, err = s.r.clients(phone)
		wantProblem(t, "the removed client", err, errClientGone)
		if got, err := s.r.clients(alice); err != nil || len(got) != 1 {
			t.Errorf("%d clients: %v", len(got), err)
		}
		if len(part.GetEarlier()) == 0 {
			account.Clients = account.GetClients()[1:]
			s.r.put(s.r.bus.Account(alice.user.Wire()), marshalled(account))
			_, err = s.r.renew(phone, phone.key, nil)
			wantCorrupt(t, "renew", err)
		}
	}
}
