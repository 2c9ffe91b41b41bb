package kpstore

import (
	"context"
	"errors"
	"testing"
	"time"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

func TestAlias(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u, other := w.user(domain), w.user(domain)
	u.mustUpload(h, 1, u.items(2, 0)...)
	token := u.token(h)
	hash := hashOf(token)
	if err := u.register(h, hash); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := other.register(h, hash); !errors.Is(err, errForeignAlias) {
		t.Errorf("by another owner: %v", err)
	}
	if err := other.revoke(h, hash); !errors.Is(err, errForeignAlias) {
		t.Errorf("revoked by another owner: %v", err)
	}
	if _, err := h.claim(t.Context(), claimOf(token, false)); err != nil {
		t.Errorf("claim: %v", err)
	}
	for range 2 {
		if err := u.revoke(h, hash); err != nil {
			t.Errorf("revoke: %v", err)
		}
	}
	for _, x := range []*user{u, other} {
		if err := x.register(h, hash); !errors.Is(err, errForeignAlias) {
			t.Errorf("a revoked alias again: %v", err)
		}
	}
	if err := u.revoke(h, requestID32()); err != nil {
		t.Errorf("revoke an unknown one: %v", err)
	}
	rec, _, err := h.store.ownerRecord(t.Context(), ownerOf(u.key.Public()))
	if err != nil || len(rec.GetAliases()) != 0 || rec.GetClients() != 1 {
		t.Errorf("the owner's record: %d aliases, %d clients, %v", len(rec.GetAliases()), rec.GetClients(), err)
	}
}

// dated is a log that notes for how long each record is kept.
type dated struct {
	log
	ttl map[bus.Subject]time.Duration
}

func (d *dated) Publish(ctx context.Context, s bus.Subject, data []byte, o bus.PublishOptions) (uint64, error) {
	d.ttl[s] = o.TTL
	return d.log.Publish(ctx, s, data, o)
}

// TestIndexExpires: what is kept of an index goes by itself without a sign of life, and each sign of life renews it.
func TestIndexExpires(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	d := &dated{log: h.store.log}
	h.store.log = d
	u := w.user(domain)
	owner, token := ownerOf(u.key.Public()), []byte(nil)
	record := h.store.ownerSubject(owner)
	for _, step := range []struct {
		what    string
		do      func()
		renewed func() []bus.Subject
	}{
		{"a registration", func() { token = u.token(h) }, func() []bus.Subject { return []bus.Subject{record, h.store.aliasSubject(hashOf(token))} }},
		{"an upload", func() { u.mustUpload(h, 1, u.items(2, 1)...) }, func() []bus.Subject { return []bus.Subject{record} }},
		{"a claim", func() { must(h.claim(t.Context(), claimOf(token, false))) }, func() []bus.Subject { return []bus.Subject{h.store.aliasSubject(hashOf(token))} }},
		{"a repeated registration", func() {
			if err := u.register(h, hashOf(token)); err != nil {
				t.Error(err)
			}
		}, func() []bus.Subject { return []bus.Subject{record, h.store.aliasSubject(hashOf(token))} }},
	} {
		d.ttl = make(map[bus.Subject]time.Duration)
		step.do()
		for _, s := range step.renewed() {
			if d.ttl[s] != indexFor {
				t.Errorf("%s keeps a record for %v, want %v", step.what, d.ttl[s], indexFor)
			}
		}
		for s, ttl := range d.ttl {
			if ttl == 0 && s.Stream() == "KPINDEX" { // the others' streams have an age
				t.Errorf("%s writes a record that never goes, to %s", step.what, s.Stream())
			}
		}
	}
	if rec, _, err := h.store.alias(t.Context(), hashOf(token)); err != nil || rec.GetClaims() != 1 {
		t.Errorf("a repeated registration forgets the hour's claims: %v", err)
	}
}

func TestAliasBound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u := w.user(domain)
	owner := ownerOf(u.key.Public())
	rec := &v1.KeyPackageOwner{}
	for range maxAliases {
		rec.Aliases = append(rec.Aliases, requestID32())
	}
	if _, err := h.store.put(t.Context(), h.store.ownerSubject(owner), rec, 0, 0); err != nil {
		t.Fatal(err)
	}
	hash := requestID32()
	if err := u.register(h, hash); !errors.Is(err, errAliases) {
		t.Errorf("one too many: %v", err)
	}
	if err := u.revoke(h, rec.GetAliases()[7]); err != nil {
		t.Fatal(err)
	}
	if err := u.register(h, hash); err != nil {
		t.Errorf("after a revocation: %v", err)
	}
}

func TestAliasFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	for _, op := range []string{opRegisterAlias, opRevokeAlias} {
		for _, persist := range []bool{false, true} {
			for at := 1; at <= 2; at++ {
				u := w.user(domain)
				hash := hashOf(u.token(h))
				do := u.revoke
				if op == opRegisterAlias {
					hash, do = requestID32(), u.register
				}
				broken, f := withFault(h, at, persist)
				if err := do(broken, hash); !errors.Is(err, errInjected) {
					t.Fatalf("%s, write %d of %d: %v", op, at, f.writes, err)
				}
				if err := do(h, hash); err != nil {
					t.Errorf("%s, write %d, persisted %v: repeat: %v", op, at, persist, err)
				}
				rec, _, err1 := h.store.ownerRecord(t.Context(), ownerOf(u.key.Public()))
				alias, rev, err2 := h.store.alias(t.Context(), hash)
				if err := errors.Join(err1, err2); err != nil {
					t.Fatal(err)
				}
				if in := listed(rec, hash) >= 0; in != (op == opRegisterAlias) || rev == 0 || alias.GetRevoked() == in {
					t.Errorf("%s, write %d, persisted %v: listed %v, revoked %v", op, at, persist, in, alias.GetRevoked())
				}
			}
		}
	}
}

// Every owner's request needs the owner's signature over just this operation, body and time.
func TestProof(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u, other := w.user(domain), w.user(domain)
	hash := requestID32()
	list := func(change func(*v1.ListSetsRequest)) error {
		r := &v1.ListSetsRequest{WriteKey: u.key.Public(), Signed: u.sign(opListSets, nil)}
		change(r)
		_, err := h.listSets(t.Context(), r)
		return err
	}
	alias := func(change func(*v1.AliasRequest)) error {
		r := u.aliasRequest(opRegisterAlias, hash)
		change(r)
		return h.alias(t.Context(), opRegisterAlias, r, h.store.registerAlias)
	}
	upload := func(change func(*v1.UploadRequest)) error {
		r := u.uploadRequest(1, u.items(2, 0)...)
		change(r)
		return h.upload(t.Context(), r)
	}
	tests := []struct {
		name string
		err  error
		want error
	}{
		{"list, another's signature", list(func(r *v1.ListSetsRequest) { r.Signed = other.sign(opListSets, nil) }), errProof},
		{"list, another's key", list(func(r *v1.ListSetsRequest) { r.WriteKey = other.key.Public() }), errProof},
		{"list, no signature", list(func(r *v1.ListSetsRequest) { r.Signed.Signature = nil }), errProof},
		{"list, unsigned", list(func(r *v1.ListSetsRequest) { r.Signed = nil }), errRequestID},
		{"list, empty", list(func(r *v1.ListSetsRequest) { r.Signed, r.WriteKey = nil, nil }), errWriteKey},
		{"list, another operation", list(func(r *v1.ListSetsRequest) { r.Signed = u.sign(opUpload, nil) }), errProof},
		{"list, another request id", list(func(r *v1.ListSetsRequest) { r.Signed.RequestId = requestID() }), errProof},
		{"list, another minute", list(func(r *v1.ListSetsRequest) { r.Signed.Minute++ }), errProof},
		{"list, a minute beyond time", list(func(r *v1.ListSetsRequest) { r.Signed.Minute = 1 << 62 }), errProof},
		{"alias, another hash", alias(func(r *v1.AliasRequest) { r.TokenHash = requestID32() }), errProof},
		{"alias, short hash", alias(func(r *v1.AliasRequest) { r.TokenHash = hash[:31] }), errHash},
		{"alias, a revocation", alias(func(r *v1.AliasRequest) { r.Signed = u.sign(opRevokeAlias, hash) }), errProof},
		{"upload, an item less", upload(func(r *v1.UploadRequest) { r.Items = r.Items[:1] }), errProof},
		{"upload, other clients", upload(func(r *v1.UploadRequest) { r.Clients++ }), errProof},
		{"upload, another's key", upload(func(r *v1.UploadRequest) { r.WriteKey = other.key.Public() }), errProof},
	}
	for _, tt := range tests {
		if tt.err == nil || tt.err.Error() != tt.want.Error() {
			t.Errorf("%s: got %v, want %v", tt.name, tt.err, tt.want)
		}
	}
	signed := u.aliasRequest(opRegisterAlias, hash)
	w.now = w.now.Add(time.Hour)
	if err := h.alias(t.Context(), opRegisterAlias, signed, h.store.registerAlias); err == nil || err.Error() != errProof.Error() {
		t.Errorf("an old request: %v", err)
	}
	if n := len(u.list(h)); n != 0 {
		t.Errorf("%d sets were stored", n)
	}
}

func TestClaimGarbage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	for _, tt := range []struct {
		req  *v1.ClaimRequest
		want error
	}{
		{&v1.ClaimRequest{}, errRequestID},
		{&v1.ClaimRequest{RequestId: make([]byte, 17), ConnectionToken: requestID32()}, errRequestID},
		{&v1.ClaimRequest{RequestId: requestID()}, errToken},
		{&v1.ClaimRequest{RequestId: requestID(), ConnectionToken: requestID()}, errToken},
	} {
		if _, err := h.claim(t.Context(), tt.req); !errors.Is(err, tt.want) {
			t.Errorf("got %v, want %v", err, tt.want)
		}
	}
}

// refuse spends nothing.
type refuse struct{ err error }

func (r refuse) Redeem(context.Context, *mimimi.Spending) (*mimimi.Receipt, error) { return nil, r.err }

func TestRedeemer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u := w.user(domain)
	u.mustUpload(h, 1, u.item(false))
	token := u.token(h)
	h.redeemer = refuse{errInjected}
	if err := u.upload(h, 1, u.item(false)); !errors.Is(err, errInjected) {
		t.Errorf("upload: %v", err)
	}
	if _, err := h.claim(t.Context(), claimOf(token, false)); !errors.Is(err, errInjected) {
		t.Errorf("claim: %v", err)
	}
	if n := len(u.list(h)); n != 1 {
		t.Errorf("%d sets, want 1", n)
	}
}

func TestLabels(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, l := range []string{labelNobody, labelOwnerRecord, labelAlias, labelSet, labelClaim, labelServed, labelFresh} {
		if seen[l] {
			t.Errorf("label %q is used twice", l)
		}
		seen[l] = true
	}
	if string(derive("a", []byte("bc"))) == string(derive("ab", []byte("c"))) || string(derive("a", []byte("b"), nil)) == string(derive("a", []byte("b"))) {
		t.Error("derive is ambiguous")
	}
}

func TestParseItemTruncated(t *testing.T) {
	t.Parallel()
	u := (&world{T: t, now: noon}).user(domain)
	raw := u.item(false).GetKeyPackage()
	for n := range raw {
		if _, err := parseItem(&v1.UploadItem{KeyPackage: raw[:n]}, domain, noon); !errors.Is(err, errMalformed) {
			t.Fatalf("%d of %d bytes: %v", n, len(raw), err)
		}
	}
}

// FuzzParseItem: no bytes make the check of a KeyPackage panic, and none but a whole KeyPackage passes.
func FuzzParseItem(f *testing.F) {
	w := &world{now: noon}
	u := w.user(domain)
	for _, last := range []bool{false, true} {
		kp, _, err := mimimi.NewKeyPackage(mimimi.KeyPackageConfig{
			ConnectionKey: u.conn, CertificateKey: u.certKey, Certificate: u.cert, UserPseudonym: must(mimimi.NewUserPseudonym(domain)),
			QueueID: mimimi.NewQueueID(), QueueKey: u.queue, LastResort: last, Now: noon,
		})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(kp.Marshal(), last)
	}
	f.Fuzz(func(t *testing.T, b []byte, last bool) {
		it, err := parseItem(&v1.UploadItem{KeyPackage: b, LastResort: last}, domain, noon)
		if err == nil && string(must(mls.ParseKeyPackage(it.raw)).Marshal()) != string(b) {
			t.Error("an item is not what was uploaded")
		}
	})
}
