package kpstore

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/protobuf/proto"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
	"mimimi.example/pkg/redeem/redeemtest"
)

const domain = "a.example"

// noon is a Wednesday.
var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// world is one domain's bus. replica makes further replicas of the store on it.
type world struct {
	*testing.T
	domain *bustest.Domain
	now    time.Time
}

func newWorld(t *testing.T) *world { return &world{T: t, domain: bustest.Start(t), now: noon} }

// newClusterWorld is on three nodes: there reads may lag, and conflicts have another code.
func newClusterWorld(t *testing.T) *world {
	if testing.Short() {
		t.Skip("a cluster takes some seconds to start")
	}
	return &world{T: t, domain: bustest.StartCluster(t), now: noon}
}

func (w *world) replica() *handler {
	b := w.domain.Bus("kpstore")
	m := must(newMetrics(noop.Meter{}))
	return &handler{
		store:  &store{log: b, subjects: b, now: func() time.Time { return w.now }, domain: domain, metrics: m, graves: new(graves)},
		domain: domain, limits: limits{perAlias: 1000, perIssuer: 1000}, redeemer: redeemtest.AcceptAll{}, metrics: m,
	}
}

// user owns an index.
type user struct {
	*world
	key     mls.SignatureKey
	certKey mls.SignatureKey
	cert    *mimimi.ClientCertificate
	queue   mimimi.QueueKey
	conn    mimimi.ConnectionKey
}

func (w *world) user(domain string) *user {
	identity := must(mimimi.Suite.GenerateSignatureKey())
	u := &user{world: w, key: must(mimimi.Suite.GenerateSignatureKey()), certKey: must(mimimi.Suite.GenerateSignatureKey()), conn: mimimi.NewConnectionKey()}
	name := must(mimimi.ParseUser("mimi://" + domain + "/u/alice"))
	u.cert = must(mimimi.IssueClientCertificate(identity, name, must(mimimi.NewClient(domain)), u.certKey.Public(), w.now, 300*24*time.Hour))
	u.queue = mimimi.QueueKey{KeyID: 1, Public: must(mimimi.Suite.GenerateHPKEKey()).Public(), Domain: domain}
	return u
}

// keyPackage makes a KeyPackage for the set of a pseudonym.
func (u *user) keyPackage(p mimimi.UserPseudonym, lastResort bool) *mls.KeyPackage {
	kp, _, err := mimimi.NewKeyPackage(mimimi.KeyPackageConfig{
		ConnectionKey: u.conn, CertificateKey: u.certKey, Certificate: u.cert, UserPseudonym: p,
		QueueID: mimimi.NewQueueID(), QueueKey: u.queue, LastResort: lastResort, Now: u.now,
	})
	if err != nil {
		u.Fatal(err)
	}
	return kp
}

// item starts a set of its own.
func (u *user) item(lastResort bool) *v1.UploadItem {
	p := must(mimimi.NewUserPseudonym(u.queue.Domain))
	return &v1.UploadItem{KeyPackage: u.keyPackage(p, lastResort).Marshal(), LastResort: lastResort}
}

func (u *user) items(oneTime, lastResort int) []*v1.UploadItem {
	var items []*v1.UploadItem
	for range oneTime {
		items = append(items, u.item(false))
	}
	for range lastResort {
		items = append(items, u.item(true))
	}
	return items
}

func requestID() []byte {
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	return id
}

func (u *user) sign(op string, body []byte) *v1.Signed {
	return u.signAs([16]byte(requestID()), op, body)
}

func (u *user) signAs(id [16]byte, op string, body []byte) *v1.Signed {
	minute := u.now.Unix() / 60
	r := &mimimi.StoreRequest{Operation: op, WriteKey: u.key.Public(), RequestID: id, Minute: time.Unix(minute*60, 0).UTC(), Body: body}
	return &v1.Signed{RequestId: id[:], Minute: minute, Signature: mimimi.SignStoreRequest(u.key, r)}
}

func (u *user) uploadRequest(clients uint32, items ...*v1.UploadItem) *v1.UploadRequest {
	r := &v1.UploadRequest{WriteKey: u.key.Public(), Items: items, Clients: clients}
	r.Signed = u.sign(opUpload, must(v1.UploadBody(r)))
	return r
}

func (u *user) upload(h *handler, clients uint32, items ...*v1.UploadItem) error {
	return h.upload(u.Context(), u.uploadRequest(clients, items...))
}

// paid gives a request to a running store its token.
func (w *world) paid(rq *v1.UploadRequest) *v1.UploadRequest {
	rq.Token = redeemtest.Token(mimimi.TokenUpload, domain, domain, w.now, rq.GetSigned().GetRequestId())
	return rq
}

// paidClaim does so for a claim.
func (w *world) paidClaim(rq *v1.ClaimRequest) *v1.ClaimRequest {
	rq.Token = redeemtest.Token(mimimi.TokenClaim, domain, domain, w.now, rq.GetRequestId())
	return rq
}

// mustUpload uploads in batches.
func (u *user) mustUpload(h *handler, clients uint32, items ...*v1.UploadItem) {
	u.Helper()
	for len(items) > 0 {
		n := min(len(items), maxItems)
		if err := u.upload(h, clients, items[:n]...); err != nil {
			u.Fatalf("upload: %v (%v)", err, errors.Unwrap(err))
		}
		items = items[n:]
	}
}

func (u *user) list(h *handler) []*v1.SetSummary {
	u.Helper()
	resp, err := h.listSets(u.Context(), &v1.ListSetsRequest{WriteKey: u.key.Public(), Signed: u.sign(opListSets, nil)})
	if err != nil {
		u.Fatalf("list: %v", err)
	}
	return resp.GetSets()
}

func (u *user) aliasRequest(op string, hash []byte) *v1.AliasRequest {
	return &v1.AliasRequest{WriteKey: u.key.Public(), TokenHash: hash, Signed: u.sign(op, hash)}
}

func (u *user) register(h *handler, hash []byte) error {
	return h.alias(u.Context(), opRegisterAlias, u.aliasRequest(opRegisterAlias, hash), h.store.registerAlias)
}

func (u *user) revoke(h *handler, hash []byte) error {
	return h.alias(u.Context(), opRevokeAlias, u.aliasRequest(opRevokeAlias, hash), h.store.revokeAlias)
}

func (u *user) withdrawRequest(pseudonyms ...string) *v1.WithdrawRequest {
	r := &v1.WithdrawRequest{WriteKey: u.key.Public(), UserPseudonyms: pseudonyms}
	r.Signed = u.sign(opWithdraw, must(v1.WithdrawBody(r)))
	return r
}

// withdraw returns the pseudonyms that were handed out before.
func (u *user) withdraw(h *handler, pseudonyms ...string) ([]string, error) {
	r, err := h.withdraw(u.Context(), u.withdrawRequest(pseudonyms...))
	return r.GetHandedOut(), err
}

func (u *user) deleteIndex(h *handler) error {
	return h.deleteIndex(u.Context(), &v1.DeleteIndexRequest{WriteKey: u.key.Public(), Signed: u.sign(opDeleteIndex, nil)})
}

// token makes a connection token and registers it.
func (u *user) token(h *handler) []byte {
	u.Helper()
	t := mimimi.NewConnectionToken()
	hash := t.Hash()
	if err := u.register(h, hash[:]); err != nil {
		u.Fatalf("register: %v", err)
	}
	return t.Bytes()
}

func hashOf(token []byte) []byte {
	h := must(mimimi.ConnectionTokenFrom(token)).Hash()
	return h[:]
}

func claimOf(token []byte, lastResort bool) *v1.ClaimRequest {
	return &v1.ClaimRequest{RequestId: requestID(), ConnectionToken: token, AllowLastResort: lastResort}
}

// pseudonym reads the user pseudonym of a claimed set, which must be one for all its KeyPackages.
func pseudonym(t testing.TB, r *v1.ClaimResponse) string {
	t.Helper()
	var p string
	for _, raw := range r.GetKeyPackages() {
		kp := must(mls.ParseKeyPackage(raw))
		u := must(mimimi.ParsePseudonymousCredential(kp.Leaf().Credential())).UserPseudonym.Wire()
		if p != "" && p != u {
			t.Fatal("a set has two user pseudonyms")
		}
		p = u
	}
	if p == "" {
		t.Fatal("an empty set was handed out")
	}
	return p
}

// faulty fails one write, which may be stored all the same.
type faulty struct {
	log
	at      int // 1 is the first write
	persist bool
	mu      sync.Mutex
	writes  int // guarded by mu
}

var errInjected = problem.New(problem.Unavailable, "injected")

func (f *faulty) hit() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	return f.writes == f.at
}

func (f *faulty) Publish(ctx context.Context, s bus.Subject, data []byte, o bus.PublishOptions) (uint64, error) {
	if !f.hit() {
		return f.log.Publish(ctx, s, data, o)
	}
	if f.persist {
		if _, err := f.log.Publish(ctx, s, data, o); err != nil {
			return 0, err
		}
	}
	return 0, errInjected
}

func (f *faulty) Remove(ctx context.Context, s bus.Subject, seq uint64) (bool, error) {
	if !f.hit() {
		return f.log.Remove(ctx, s, seq)
	}
	if f.persist {
		if _, err := f.log.Remove(ctx, s, seq); err != nil {
			return false, err
		}
	}
	return false, errInjected
}

func (f *faulty) Purge(ctx context.Context, s bus.Subject, upTo uint64) error {
	if !f.hit() {
		return f.log.Purge(ctx, s, upTo)
	}
	if f.persist {
		if err := f.log.Purge(ctx, s, upTo); err != nil {
			return err
		}
	}
	return errInjected
}

// withFault returns a replica that shares h's bus and fails once.
func withFault(h *handler, at int, persist bool) (*handler, *faulty) {
	f := &faulty{log: h.store.log, at: at, persist: persist}
	s := *h.store
	s.log = f
	broken := *h
	broken.store = &s
	return &broken, f
}

func clone(r *v1.ClaimRequest) *v1.ClaimRequest { return proto.CloneOf(r) }
