package mimimi

import (
	"bytes"
	"strings"
	"testing"

	"mimimi.example/pkg/mls"
)

// linking is a new client that was offered, and one that answers.
type linking struct {
	old, fresh *device
	key, reply mls.HPKEPrivateKey
	offer      *LinkOffer
	answer     *LinkAnswer
}

func newLinking(t testing.TB, domain, user string) *linking {
	t.Helper()
	p := newDomain(t, domain).person(t, user)
	l := &linking{old: p.device(t), fresh: p.device(t), key: must(Suite.GenerateHPKEKey()), reply: must(Suite.GenerateHPKEKey())}
	l.offer = &LinkOffer{User: p.user, Client: l.fresh.client, SignatureKey: l.fresh.certKey.Public(), HPKEKey: l.key.Public()}
	l.answer = &LinkAnswer{Client: l.old.client, ReplyKey: l.reply.Public(), Group: must(NewGroupID(domain)), UserPseudonym: p.pseudonym,
		ConnectionKey: p.connection, IdentityKey: p.identity.Public()}
	return l
}

// TestLink goes the whole way with the shortest and the longest names: all sealed messages have one size.
func TestLink(t *testing.T) {
	for _, names := range [][2]string{{"a.example", "al"}, {longestDomain(), strings.Repeat("n", maxUserName)}} {
		l := newLinking(t, names[0], names[1])
		sealed := must(SealLinkAnswer(l.answer, l.offer))
		if len(sealed) != SealedLinkAnswerSize {
			t.Errorf("an answer has %d bytes", len(sealed))
		}
		got := must(OpenLinkAnswer(sealed, l.key, l.offer))
		if !bytes.Equal(got.marshal(), l.answer.marshal()) {
			t.Error("the answer changes on the way")
		}
		kp, _, err := NewKeyPackage(l.fresh.config())
		wantOK(t, err)
		pkg := must(SealLinkPackage(kp, got, l.offer))
		if len(pkg) != SealedLinkPackageSize {
			t.Errorf("a package has %d bytes", len(pkg))
		}
		back := must(OpenLinkPackage(pkg, l.reply, l.offer, l.old.client))
		if !bytes.Equal(back.Marshal(), kp.Marshal()) {
			t.Error("the KeyPackage changes on the way")
		}
	}
}

// TestLinkIsBound: what is sealed for one offer opens for no other, nor by another key, nor under another's name.
func TestLinkIsBound(t *testing.T) {
	l, other := newLinking(t, "a.example", "alice"), newLinking(t, "a.example", "alice")
	sealed := must(SealLinkAnswer(l.answer, l.offer))
	changed := *l.offer
	changed.Client = other.offer.Client
	_, err := OpenLinkAnswer(sealed, l.key, &changed)
	wantErr(t, err, ErrUnauthenticated, "")
	_, err = OpenLinkAnswer(sealed, other.key, l.offer)
	wantErr(t, err, ErrUnauthenticated, "")
	_, err = OpenLinkAnswer(sealed[1:], l.key, l.offer)
	wantErr(t, err, ErrMalformed, "")

	kp, _, err := NewKeyPackage(l.fresh.config())
	wantOK(t, err)
	pkg := must(SealLinkPackage(kp, l.answer, l.offer))
	_, err = OpenLinkPackage(pkg, l.reply, l.offer, other.old.client)
	wantErr(t, err, ErrUnauthenticated, "")
	_, err = OpenLinkPackage(pkg, l.reply, other.offer, l.old.client)
	wantErr(t, err, ErrUnauthenticated, "")

	bad := *l.answer
	bad.Client = l.offer.Client
	_, err = SealLinkAnswer(&bad, l.offer)
	wantErr(t, err, ErrInvalid, "an answer to an offer has all its fields")
}

// TestLinkCode: the code names every field of the offer, and is read whatever a person makes of its dashes and case.
func TestLinkCode(t *testing.T) {
	l, other := newLinking(t, "a.example", "alice"), newLinking(t, "a.example", "alice")
	code := l.offer.Code()
	if len(code) != 14 || code[4] != '-' || code[9] != '-' {
		t.Errorf("the code is %q", code)
	}
	for _, typed := range []string{code, strings.ToLower(code), strings.ReplaceAll(code, "-", ""), strings.ReplaceAll(code, "-", " ")} {
		if !l.offer.HasCode(typed) {
			t.Errorf("%q is not taken for %q", typed, code)
		}
	}
	for _, typed := range []string{"", code[1:], code + "A", other.offer.Code()} {
		if l.offer.HasCode(typed) {
			t.Errorf("%q is taken for %q", typed, code)
		}
	}
	for name, change := range map[string]func(*LinkOffer){
		"user":          func(o *LinkOffer) { o.User = must(ParseUser("mimi://a.example/u/bob")) },
		"client":        func(o *LinkOffer) { o.Client = other.offer.Client },
		"signature key": func(o *LinkOffer) { o.SignatureKey = other.offer.SignatureKey },
		"HPKE key":      func(o *LinkOffer) { o.HPKEKey = other.offer.HPKEKey },
	} {
		o := *l.offer
		change(&o)
		if o.HasCode(code) {
			t.Errorf("another %s has the same code", name)
		}
	}
}

// FuzzSealedLink has a new client open what somebody sealed to it who is no client of this protocol, and the approving one likewise: what opens is the one encoding of what
// was read, and what was changed on the way does not open.
func FuzzSealedLink(f *testing.F) {
	l := newLinking(f, "a.example", "alice")
	kp, _, err := NewKeyPackage(l.fresh.config())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(l.answer.marshal(), uint16(0))
	f.Add(encode(func(b *builder) { addVector(b, kp.Marshal()) }), uint16(7))
	f.Fuzz(func(t *testing.T, plain []byte, at uint16) {
		for _, x := range []struct {
			to   []byte
			aad  []byte
			size int
			open func(sealed []byte) ([]byte, error)
		}{
			{l.offer.HPKEKey, linkAAD(labelLinkAnswer, l.offer, Client{}), linkAnswerSize, func(sealed []byte) ([]byte, error) {
				a, err := OpenLinkAnswer(sealed, l.key, l.offer)
				if err != nil {
					return nil, err
				}
				return a.marshal(), nil
			}},
			{l.answer.ReplyKey, linkAAD(labelLinkPackage, l.offer, l.old.client), linkPackageSize, func(sealed []byte) ([]byte, error) {
				kp, err := OpenLinkPackage(sealed, l.reply, l.offer, l.old.client)
				if err != nil {
					return nil, err
				}
				return encode(func(b *builder) { addVector(b, kp.Marshal()) }), nil
			}},
		} {
			sealed, err := sealPadded(x.to, x.aad, plain, x.size)
			if err != nil {
				continue // too long
			}
			if read, err := x.open(sealed); err == nil && !bytes.Equal(must(padded(read, x.size)), must(padded(plain, x.size))) {
				t.Errorf("%x is read as %x", plain, read)
			}
			sealed[int(at)%len(sealed)] ^= 1
			if _, err := x.open(sealed); err == nil {
				t.Error("what was changed on the way opens")
			}
		}
	})
}

func padded(b []byte, size int) ([]byte, error) {
	p, ok := pad(b, size)
	if !ok {
		return nil, ErrMalformed
	}
	return p, nil
}
