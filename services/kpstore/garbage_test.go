package kpstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/oblivious"
	"mimimi.example/pkg/problem"
	"mimimi.example/pkg/redeem/redeemtest"
	"mimimi.example/pkg/service"
)

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// noRecord is what no record of the store parses as: a field that ends after the message does.
var noRecord = []byte("\xffgarbage")

// served is a running store: its client, the bare call behind it, and the encapsulated requests that the client made.
type served struct {
	client mimimiv1connect.KeyPackageServiceClient
	call   func(request []byte) ([]byte, error)
	made   func() [][]byte
}

// serve starts one replica.
func serve(w *world) *served {
	w.Helper()
	secret, config := must2(oblivious.GenerateKey(3))
	file := filepath.Join(w.TempDir(), "key")
	if err := os.WriteFile(file, secret, 0o600); err != nil {
		w.Fatal(err)
	}
	redeemtest.Provide(w, w.domain.Bus("provider"), domain, func() time.Time { return w.now })
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	env := &service.Env{Bus: w.domain.Bus("kpstore"), Now: func() time.Time { return w.now }}
	wg.Go(func() {
		if err := Run(ctx, &Config{Domain: domain, OHTTPKeyFiles: []string{file}}, env); err != nil {
			w.Errorf("run: %v", err)
		}
	})
	w.Cleanup(func() { stop(); wg.Wait() })
	edge := w.domain.Bus("provider")
	var made [][]byte
	transport := must(oblivious.NewTransport(config, func(ctx context.Context, b []byte) ([]byte, error) {
		made = append(made, bytes.Clone(b))
		return edge.Call(ctx, "kpstore", b)
	}))
	return &served{
		client: mimimiv1connect.NewKeyPackageServiceClient(&http.Client{Transport: transport}, "https://kpstore.invalid"),
		call:   func(request []byte) ([]byte, error) { return edge.Call(w.Context(), "kpstore", request) },
		made:   func() [][]byte { return made },
	}
}

func must2[A, B any](a A, b B, err error) (A, B) {
	if err != nil {
		panic(err)
	}
	return a, b
}

// TestGarbageOnTheBus sends what is no encapsulated request to the store's own subject: all of it gets the one refusal, nothing of it is acted upon,
// and the store goes on.
func TestGarbageOnTheBus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u, s := w.user(domain), serve(w)
	token := mimimi.NewConnectionToken()
	hash := token.Hash()
	waitFor(t, func() error {
		_, err := s.client.RegisterAlias(t.Context(), u.aliasRequest(opRegisterAlias, hash[:]))
		return err
	})
	if _, err := s.client.Upload(t.Context(), w.paid(u.uploadRequest(1, u.items(2, 0)...))); err != nil {
		t.Fatal(err)
	}
	refusal, err := s.call([]byte("no request"))
	if err != nil || len(refusal) == 0 {
		t.Fatalf("no refusal: %v", err)
	}
	refused := func(what string, n int, request []byte) {
		t.Helper()
		answer, err := s.call(request)
		if err != nil || !bytes.Equal(answer, refusal) {
			t.Errorf("%s of %d bytes: answered with %d bytes, %v", what, n, len(answer), err)
		}
	}
	valid := s.made()[len(s.made())-1]
	for _, n := range []int{0, 1, 7, 55, 1024, len(valid), 100_000, 1 << 20, 4 << 20} {
		refused("garbage", n, random(n))
	}
	for n := 0; n < len(valid); n += 1 + n/64 { // every short one, and then ever fewer
		refused("a truncation", n, valid[:n])
	}
	refused("a truncation", len(valid)-1, valid[:len(valid)-1])
	refused("a longer one", len(valid)+1, append(bytes.Clone(valid), 0))
	for _, at := range []int{0, 3, 10, 60, len(valid) / 2, len(valid) - 1} {
		changed := bytes.Clone(valid)
		changed[at] ^= 1
		refused("one that was changed", at, changed)
	}
	if _, err := s.call(make([]byte, 16<<20)); problem.KindOf(err) != problem.Invalid {
		t.Errorf("more than the bus allows: %v", err)
	}
	if n := len(u.list(w.replica())); n != 2 {
		t.Errorf("the index holds %d sets, want the 2", n)
	}
	got, err := s.client.Claim(t.Context(), w.paidClaim(claimOf(token.Bytes(), false)))
	if err != nil {
		t.Fatalf("the store does not go on: %v", err)
	}
	pseudonym(t, got)
}

// spoilt is a world with one user whose index holds sets, and a replica.
type spoilt struct {
	*user
	h     *handler
	bus   *bus.Bus
	token []byte
	owner []byte
}

func newSpoilt(t *testing.T, oneTime, lastResort int) *spoilt {
	t.Helper()
	w := newWorld(t)
	s := &spoilt{user: w.user(domain), h: w.replica(), bus: w.domain.Bus("kpstore")}
	s.token, s.owner = s.user.token(s.h), ownerOf(s.key.Public())
	if oneTime+lastResort > 0 {
		s.mustUpload(s.h, 1, s.items(oneTime, lastResort)...)
	}
	return s
}

// put writes past the store.
func (s *spoilt) put(subject bus.Subject, data []byte) {
	s.Helper()
	if _, err := s.bus.Publish(s.Context(), subject, data, bus.PublishOptions{}); err != nil {
		s.Fatalf("publish: %v", err)
	}
}

// record reads what stands on a subject.
func (s *spoilt) record(subject bus.Subject) []byte {
	s.Helper()
	return must(s.bus.Last(s.Context(), subject)).Data
}

func (s *spoilt) claim(r *v1.ClaimRequest) (*v1.ClaimResponse, error) {
	return s.h.claim(s.Context(), r)
}

// wantProblem fails the test unless err is this one of the package's.
func (s *spoilt) wantProblem(what string, err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// wantWhole fails the test unless a claim was refused by name or got a set that is whole.
func (s *spoilt) wantWhole(what string, got *v1.ClaimResponse, err error) {
	s.Helper()
	if err != nil {
		if p, ok := errors.AsType[*problem.Error](err); !ok || p.Sentence == "" {
			s.Errorf("%s: an error without a name: %v", what, err)
		}
		return
	}
	if len(got.GetKeyPackages()) == 0 {
		s.Errorf("%s: an empty set was handed out", what)
	}
	for _, raw := range got.GetKeyPackages() {
		kp, err := mls.ParseKeyPackage(raw)
		if err == nil {
			_, err = mimimi.CheckKeyPackage(kp, domain, got.GetLastResort(), s.now)
		}
		if err != nil {
			s.Errorf("%s: what is no KeyPackage was handed out: %v", what, err)
		}
	}
}

// TestGarbageStored has every family that the store reads hold what the store never wrote: each request that meets it fails with a named error or passes
// it over. Nothing panics, and nothing of it is handed out. One family is one subtest.
func TestGarbageStored(t *testing.T) {
	t.Parallel()
	t.Run("set", func(t *testing.T) {
		s := newSpoilt(t, 1, 1)
		subject := s.bus.KeyPackageSet(s.owner, random(32))
		for _, garbage := range [][]byte{noRecord, noRecord[:1], bytes.Repeat([]byte{0xff}, 1000)} {
			s.put(subject, garbage)
			if n := len(s.list(s.h)); n != 2 {
				t.Errorf("%d sets are listed beside one that cannot be read, want 2", n)
			}
			if err := s.upload(s.h, 1, s.item(false)); err != nil {
				t.Errorf("upload beside one that cannot be read: %v", err)
			}
			if got := must(s.claim(claimOf(s.token, true))); got.GetLastResort() {
				t.Error("a last-resort set was handed out while a one-time one is left")
			}
			pseudonym(t, must(s.claim(claimOf(s.token, true))))
			s.mustUpload(s.h, 1, s.items(1, 0)...)
		}
		s.put(subject, nil) // an empty record parses; it holds nothing that is usable
		if n := len(s.list(s.h)); n != 2 {
			t.Errorf("%d sets are listed, want 2", n)
		}
		if n := must(s.domain.Bus("admin").Count(t.Context(), s.bus.Dead())); n != 3 {
			t.Errorf("DEAD has %d entries, want one of each", n)
		}
		pseudonym(t, must(s.claim(claimOf(s.token, false))))
	})
	t.Run("set of what is no KeyPackage", func(t *testing.T) {
		s := newSpoilt(t, 1, 1)
		p := must(mimimi.NewUserPseudonym(domain)).Wire()
		for _, last := range []bool{false, true} {
			bad := &v1.KeyPackageSet{UserPseudonym: p, LastResort: last, NotAfter: s.now.Add(80 * 24 * time.Hour).Unix(),
				KeyPackages: []*v1.StoredKeyPackage{{ClientPseudonym: "x", KeyPackage: random(900)}, {ClientPseudonym: "y", KeyPackage: random(900)}}}
			s.put(s.h.store.setSubject(s.owner, p), must(proto.Marshal(bad)))
			if err := s.upload(s.h, 1, s.item(false)); err != nil {
				t.Errorf("upload beside it: %v", err)
			}
			got, err := s.claim(claimOf(s.token, true))
			s.wantWhole("claim", got, err)
			if err != nil {
				t.Errorf("claim beside it: %v", err)
			}
		}
		for range 3 { // until only last resort is left
			got, err := s.claim(claimOf(s.token, true))
			s.wantWhole("claim", got, err)
		}
		if n := must(s.domain.Bus("admin").Count(t.Context(), s.bus.Dead())); n != 2 {
			t.Errorf("DEAD has %d entries, want one of each", n)
		}
	})
	t.Run("notice and count", func(t *testing.T) {
		s := newSpoilt(t, 2, 0)
		s.put(s.h.store.noticeSubject(s.owner), noRecord)
		pseudonym(t, must(s.claim(claimOf(s.token, false)))) // the notice is not the claimer's affair
		s.put(s.h.store.issuerSubject(s.owner, "c.example"), noRecord)
		s.h.redeemer = &issuing{}
		r := claimOf(s.token, false)
		r.Token = []byte("c.example")
		_, err := s.claim(r)
		s.wantProblem("claim", err, errUnreadable)
	})
	t.Run("withdrawal", func(t *testing.T) {
		s := newSpoilt(t, 2, 0)
		sets := s.list(s.h)
		first, second := sets[0].GetUserPseudonym(), sets[1].GetUserPseudonym()
		s.put(s.h.store.servedSubject(first), noRecord)
		s.put(s.h.store.setSubject(s.owner, second), noRecord)
		if got := must(s.withdraw(s.h, first, second)); len(got) != 1 || got[0] != first {
			t.Errorf("%d of two sets count as handed out, want the one of which nothing is known", len(got))
		}
		if n := must(s.bus.Count(t.Context(), s.bus.KeyPackageSets(s.owner))); n != 0 {
			t.Errorf("%d sets are left", n)
		}
	})
	t.Run("alias", func(t *testing.T) {
		s := newSpoilt(t, 1, 0)
		hash := hashOf(s.token)
		s.put(s.h.store.aliasSubject(hash), noRecord)
		_, err := s.claim(claimOf(s.token, true))
		s.wantProblem("claim", err, errUnreadable)
		s.wantProblem("register", s.register(s.h, hash), errUnreadable)
		s.wantProblem("revoke", s.revoke(s.h, hash), errUnreadable)
		for _, b := range [][]byte{nil, must(proto.Marshal(&v1.KeyPackageAlias{Owner: random(3)})), must(proto.Marshal(&v1.KeyPackageAlias{Owner: random(5000)}))} {
			s.put(s.h.store.aliasSubject(hash), b) // of nobody: it opens nothing, and above all not this user's
			_, err = s.claim(claimOf(s.token, true))
			s.wantProblem("claim by an alias of nobody", err, errNothing)
			s.wantProblem("register over it", s.register(s.h, hash), errForeignAlias)
		}
	})
	t.Run("owner", func(t *testing.T) {
		s := newSpoilt(t, 1, 0)
		s.put(s.h.store.ownerSubject(s.owner), noRecord)
		_, err := s.claim(claimOf(s.token, true))
		s.wantProblem("claim", err, errUnreadable)
		s.wantProblem("upload", s.upload(s.h, 1, s.item(false)), errUnreadable)
		fresh := mimimi.NewConnectionToken().Hash()
		s.wantProblem("register", s.register(s.h, fresh[:]), errUnreadable)
	})
	t.Run("claim", func(t *testing.T) {
		s := newSpoilt(t, 2, 1)
		r := claimOf(s.token, false)
		s.put(s.h.store.claimSubject(claimKey(r.GetRequestId(), hashOf(s.token))), noRecord)
		_, err := s.claim(r)
		s.wantProblem("claim", err, errUnreadable)
		if n := len(s.list(s.h)); n != 3 {
			t.Errorf("%d sets are left, want 3", n)
		}
		pseudonym(t, must(s.claim(claimOf(s.token, false)))) // others go on
	})
	t.Run("empty claim", func(t *testing.T) {
		s := newSpoilt(t, 2, 1)
		for _, last := range []bool{false, true} {
			r := claimOf(s.token, last)
			s.put(s.h.store.claimSubject(claimKey(r.GetRequestId(), hashOf(s.token))),
				must(proto.Marshal(&v1.KeyPackageClaim{AllowLastResort: last, LastResort: last})))
			got, err := s.claim(r)
			s.wantWhole("a claim whose record is empty", got, err)
		}
	})
	t.Run("served", func(t *testing.T) {
		s := newSpoilt(t, 2, 0)
		sets := s.list(s.h)
		first := sets[0].GetUserPseudonym()
		s.put(s.h.store.servedSubject(first), noRecord)
		got, err := s.claim(claimOf(s.token, false))
		if err == nil && pseudonym(t, got) == first {
			t.Error("a set was handed out whose being served cannot be read")
		} else if err != nil {
			s.wantProblem("claim", err, errUnreadable)
		}
		item := s.item(false)
		p := must(mimimi.ParsePseudonymousCredential(must(mls.ParseKeyPackage(item.GetKeyPackage())).Leaf().Credential())).UserPseudonym
		s.put(s.h.store.servedSubject(p.Wire()), noRecord)
		s.wantProblem("upload", s.upload(s.h, 1, item), errUnreadable)
	})
	t.Run("empty served", func(t *testing.T) {
		s := newSpoilt(t, 2, 0)
		first := s.list(s.h)[0].GetUserPseudonym()
		s.put(s.h.store.servedSubject(first), nil)
		if got := must(s.claim(claimOf(s.token, false))); pseudonym(t, got) == first {
			t.Error("a set was handed out whose pseudonym was served before")
		}
	})
}

// issuing accepts every token and takes it for the name of its issuer.
type issuing struct{}

func (*issuing) Redeem(_ context.Context, s *mimimi.Spending) (*mimimi.Receipt, error) {
	return &mimimi.Receipt{Issuer: string(s.Token)}, nil
}

// TestTruncatedRecords cuts every record of a claim at every byte: what is handed out nevertheless is a whole KeyPackage, once.
func TestTruncatedRecords(t *testing.T) {
	t.Parallel()
	t.Run("set", func(t *testing.T) {
		s := newSpoilt(t, 1, 0)
		subject := s.h.store.setSubject(s.owner, s.list(s.h)[0].GetUserPseudonym())
		record := s.record(subject)
		for n := 0; n < len(record); n++ {
			if n > 100 && n < len(record)-20 && n%97 != 0 {
				continue // inside of the KeyPackage
			}
			s.put(subject, record[:n])
			got, err := s.claim(claimOf(s.token, true))
			if err == nil {
				t.Errorf("a set cut to %d of %d bytes was handed out", n, len(record))
			}
			s.wantWhole("claim", got, err)
		}
		s.put(subject, record)
		pseudonym(t, must(s.claim(claimOf(s.token, false))))
	})
	t.Run("claim", func(t *testing.T) {
		s := newSpoilt(t, 1, 1)
		r := claimOf(s.token, false)
		want := must(s.claim(r))
		subject := s.h.store.claimSubject(claimKey(r.GetRequestId(), hashOf(s.token)))
		record := s.record(subject)
		for n := 0; n < len(record); n++ {
			if n > 100 && n < len(record)-20 && n%97 != 0 {
				continue
			}
			s.put(subject, record[:n])
			got, err := s.claim(clone(r))
			s.wantWhole("a retry", got, err)
		}
		s.put(subject, record)
		if got := must(s.claim(clone(r))); !proto.Equal(got, want) {
			t.Error("a retry got another answer")
		}
	})
}
