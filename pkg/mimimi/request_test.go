package mimimi

import (
	"bytes"
	"testing"
	"time"

	"mimimi.example/pkg/mls"
)

func TestReadRequest(t *testing.T) {
	leaf, other := must(Suite.GenerateSignatureKey()), must(Suite.GenerateSignatureKey())
	epoch := EpochSender{key: must(Suite.DeriveSignatureKey(bytes.Repeat([]byte{1}, 32)))}
	r := ReadRequest{Operation: OpReadTree, Group: must(NewGroupID("hub.example")), Epoch: 3, Minute: noon, Body: []byte("body")}
	byLeaf, byEpoch := SignReadAsLeaf(leaf, &r), epoch.SignRead(&r)
	wantOK(t, VerifyRead(leaf.Public(), true, &r, byLeaf, noon))
	wantOK(t, VerifyRead(epoch.Public(), false, &r, byEpoch, noon.Add(10*time.Minute)))
	wantOK(t, VerifyRead(epoch.Public(), false, &r, byEpoch, noon.Add(-10*time.Minute)))
	wantErr(t, VerifyRead(leaf.Public(), false, &r, byLeaf, noon), ErrUnauthenticated, "")
	wantErr(t, VerifyRead(epoch.Public(), true, &r, byEpoch, noon), ErrUnauthenticated, "")
	wantErr(t, VerifyRead(other.Public(), true, &r, byLeaf, noon), ErrUnauthenticated, "")
	wantErr(t, VerifyRead(nil, true, &r, nil, noon), ErrUnauthenticated, "")
	for _, now := range []time.Time{noon.Add(10*time.Minute + 1), noon.Add(-10*time.Minute - 1)} {
		wantErr(t, VerifyRead(leaf.Public(), true, &r, byLeaf, now), ErrInvalid, "a request is at most ten minutes old")
	}
	for name, change := range map[string]func(*ReadRequest){
		"operation": func(r *ReadRequest) { r.Operation = OpReadLog },
		"group":     func(r *ReadRequest) { r.Group = must(NewGroupID("hub.example")) },
		"epoch":     func(r *ReadRequest) { r.Epoch++ },
		"id":        func(r *ReadRequest) { r.RequestID[0]++ },
		"minute":    func(r *ReadRequest) { r.Minute = r.Minute.Add(time.Minute) },
		"body":      func(r *ReadRequest) { r.Body = nil },
	} {
		changed := r
		change(&changed)
		if err := VerifyRead(leaf.Public(), true, &changed, byLeaf, noon); err == nil {
			t.Errorf("the signature does not cover the %s", name)
		}
	}
}

func TestReadRequestRules(t *testing.T) {
	leaf := must(Suite.GenerateSignatureKey())
	epoch := EpochSender{key: leaf}
	for _, c := range []struct {
		rule   string
		byLeaf bool
		r      ReadRequest
	}{
		{"", true, ReadRequest{Operation: OpRegisterInvitation, Minute: noon}},
		{"", false, ReadRequest{Operation: OpReadGroupInfo, Minute: noon}},
		{"invitations are managed under a leaf's signature", false, ReadRequest{Operation: OpRegisterInvitation, Minute: noon}},
		{"invitations are managed under a leaf's signature", false, ReadRequest{Operation: OpRevokeInvitation, Minute: noon}},
		{"the operation is known", true, ReadRequest{Operation: "delete", Minute: noon}},
		{"a request's time is a whole minute", true, ReadRequest{Operation: OpReadLog, Minute: noon.Add(time.Second)}},
	} {
		sig := epoch.SignRead(&c.r)
		if c.byLeaf {
			sig = SignReadAsLeaf(leaf, &c.r)
		}
		err := VerifyRead(leaf.Public(), c.byLeaf, &c.r, sig, noon)
		if c.rule == "" {
			wantOK(t, err)
		} else {
			wantErr(t, err, ErrInvalid, c.rule)
		}
	}
}

func TestStoreAndQueueRequests(t *testing.T) {
	k, other := must(Suite.GenerateSignatureKey()), must(Suite.GenerateSignatureKey())
	s := StoreRequest{Operation: "upload", WriteKey: k.Public(), Minute: noon, Body: []byte("body")}
	q := QueueRequest{Operation: "read", Queue: NewQueueID(), Minute: noon}
	ssig, qsig := SignStoreRequest(k, &s), SignQueueRequest(k, &q)
	wantOK(t, VerifyStoreRequest(&s, ssig, noon))
	wantOK(t, VerifyQueueRequest(k.Public(), &q, qsig, noon))
	wantErr(t, VerifyQueueRequest(other.Public(), &q, qsig, noon), ErrUnauthenticated, "")
	wantErr(t, VerifyStoreRequest(&s, ssig, noon.Add(time.Hour)), ErrInvalid, "a request is at most ten minutes old")
	wantErr(t, VerifyQueueRequest(k.Public(), &q, qsig, noon.Add(-time.Hour)), ErrInvalid, "a request is at most ten minutes old")

	stolen := s
	stolen.WriteKey = other.Public()
	wantErr(t, VerifyStoreRequest(&stolen, ssig, noon), ErrUnauthenticated, "")
	moved := q
	moved.Queue = NewQueueID()
	wantErr(t, VerifyQueueRequest(k.Public(), &moved, qsig, noon), ErrUnauthenticated, "")
	nameless := StoreRequest{WriteKey: k.Public(), Minute: noon}
	wantErr(t, VerifyStoreRequest(&nameless, SignStoreRequest(k, &nameless), noon), ErrInvalid, "an operation has a name of at most 32 bytes")
	if OwnerID(k.Public()) == OwnerID(other.Public()) {
		t.Error("OwnerID")
	}
}

func TestEpochMessage(t *testing.T) {
	e := EpochSender{key: must(Suite.GenerateSignatureKey())}
	g := must(NewGroupID("hub.example"))
	sig := e.SignMessage(g, 4, []byte("message"))
	wantOK(t, VerifyMessage(e.Public(), g, 4, []byte("message"), sig))
	wantErr(t, VerifyMessage(e.Public(), g, 5, []byte("message"), sig), ErrUnauthenticated, "")
	wantErr(t, VerifyMessage(e.Public(), g, 4, []byte("massage"), sig), ErrUnauthenticated, "")
	wantErr(t, VerifyMessage(e.Public(), must(NewGroupID("hub.example")), 4, []byte("message"), sig), ErrUnauthenticated, "")
	if got := must(ParseEpochSenderKey(e.Extension().Data)); !bytes.Equal(got, e.Public()) {
		t.Error("extension")
	}
}

func TestKeyDocument(t *testing.T) {
	d, other := newDomain(t, "a.example"), newDomain(t, "b.example")
	doc := &KeyDocument{Domain: "a.example", Number: 2969, NotBefore: noon, NotAfter: noon.Add(8 * day), QueueKeys: []QueueKey{d.queueKey},
		OHTTPKeys: []OHTTPKey{{"hub", []byte("config")}}}
	wantOK(t, SignKeyDocument(doc, d.identity))
	read := must(ParseKeyDocument(doc.Marshal()))
	wantOK(t, read.Verify(nil, noon))
	wantOK(t, read.Verify(d.identity.Public(), noon))
	if read.QueueKeys[0].Domain != "a.example" {
		t.Error("a queue key without its domain")
	}
	wantErr(t, read.Verify(other.identity.Public(), noon), ErrUnauthenticated, "")
	wantErr(t, read.Verify(nil, noon.Add(8*day)), ErrInvalid, "the key document is in date")
	wantErr(t, read.Verify(nil, noon.Add(-time.Second)), ErrInvalid, "the key document is in date")
	swapped := *read
	swapped.IdentityKey = other.identity.Public()
	wantErr(t, swapped.Verify(nil, noon), ErrUnauthenticated, "")
	changed := *read
	changed.QueueKeys = []QueueKey{{KeyID: 7, Public: other.queue.Public(), Domain: "a.example"}}
	wantErr(t, changed.Verify(nil, noon), ErrUnauthenticated, "")
}

func TestSignKeyDocumentRefuses(t *testing.T) {
	d := newDomain(t, "a.example")
	for rule, doc := range map[string]*KeyDocument{
		"a key document holds its own domain's queue keys": {Domain: "b.example", NotBefore: noon, NotAfter: noon.Add(day), QueueKeys: []QueueKey{d.queueKey}},
		"a key document is valid for some time":            {Domain: "a.example", NotBefore: noon, NotAfter: noon},
		"a key document keeps to the limits of its fields": {Domain: "a.example", NotBefore: noon, NotAfter: noon.Add(day), OHTTPKeys: []OHTTPKey{{"HUB", nil}}},
	} {
		before := *doc
		wantErr(t, SignKeyDocument(doc, d.identity), ErrInvalid, rule)
		if doc.Signature != nil || doc.Domain != before.Domain {
			t.Error("a refused document is changed")
		}
	}
}

func TestPolicy(t *testing.T) {
	admin, member := must(NewUserPseudonym("a.example")), must(NewUserPseudonym("b.example"))
	p := &Policy{Version: Version, Admins: []UserPseudonym{member, admin}, MayAdd: RoleAdmin, MayRemove: RoleMember, MayInvite: RoleMember, MaxLeaves: 10}
	read := must(ParsePolicy(p.Marshal().Data))
	if read.Role(admin) != RoleAdmin || read.Role(member) != RoleAdmin || read.Role(must(NewUserPseudonym("a.example"))) != RoleMember {
		t.Error("roles")
	}
	q := *p
	q.Admins = []UserPseudonym{admin, member}
	if !bytes.Equal(p.Marshal().Data, q.Marshal().Data) {
		t.Error("one policy has two encodings")
	}
	for rule, change := range map[string]func(*Policy){
		"the policy is of version 1":              func(p *Policy) { p.Version = 2 },
		"the policy's roles are member and admin": func(p *Policy) { p.MayAdd = 0 },
		"a group has 1 to 1000 leaves":            func(p *Policy) { p.MaxLeaves = 1001 },
	} {
		bad := *p
		change(&bad)
		_, err := ParsePolicy(bad.Marshal().Data)
		wantErr(t, err, ErrInvalid, rule)
	}
	twice := *p
	twice.Admins = []UserPseudonym{admin, admin}
	_, err := ParsePolicy(twice.Marshal().Data)
	wantErr(t, err, ErrMalformed, "")
}

func TestGroupContextExtensions(t *testing.T) {
	p := &Policy{Version: Version, MayAdd: RoleMember, MayRemove: RoleMember, MayInvite: RoleMember, MaxLeaves: 10}
	good := GroupExtensions(p)
	_, err := policyOf(good)
	wantOK(t, err)
	const only = "the GroupContext has required_capabilities and mimimi_group, and nothing else"
	for _, exts := range [][]mls.Extension{nil, good[:1], good[1:], {good[1], good[0]}, append(GroupExtensions(p), mls.Extension{Type: mls.ExtensionExternalSenders})} {
		_, err := policyOf(exts)
		wantErr(t, err, ErrInvalid, only)
	}
	weaker := GroupExtensions(p)
	weaker[0].Data = []byte{0, 0, 0}
	_, err = policyOf(weaker)
	wantErr(t, err, ErrInvalid, "a group requires all of the protocol's code points, in their order")
}

func TestPadTo(t *testing.T) {
	for n, want := range map[int]int{0: 256, 1: 256, 256: 256, 257: 512, 512: 512, 513: 1024, 4097: 8192} {
		if got := PadTo(n); got != want {
			t.Errorf("PadTo(%d) = %d, want %d", n, got, want)
		}
	}
}
