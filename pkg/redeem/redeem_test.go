package redeem

import (
	"bytes"
	"context"
	"crypto/rsa"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
	"mimimi.example/pkg/telemetry"
	"mimimi.example/pkg/telemetry/telemetrytest"
)

const home, away = "a.example", "b.example"

// noon is a Wednesday.
var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// world is a bus, and key documents of two domains.
type world struct {
	*testing.T
	domain    *bustest.Domain
	now       atomic.Int64
	documents map[string][]byte
	asked     atomic.Int64
	down      atomic.Bool
	telemetry *telemetry.Telemetry
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, domain: bustest.Start(t), telemetry: telemetrytest.New(t, telemetry.Options{}), documents: map[string][]byte{home: document(t, home, noon), away: document(t, away, noon)}}
	w.now.Store(noon.Unix())
	return w
}

func (w *world) clock() time.Time { return time.Unix(w.now.Load(), 0).UTC() }

func (w *world) source(_ context.Context, domain string) ([]byte, error) {
	w.asked.Add(1)
	if w.down.Load() {
		return nil, errAway
	}
	d, ok := w.documents[domain]
	if !ok {
		return nil, problem.New(problem.NotFound, "no such domain")
	}
	return d, nil
}

func (w *world) redeemer() *Redeemer {
	return must(New(home, w.domain.Bus("hub"), w.clock, w.source, w.telemetry.Meter("test")))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// private is the key of every issuer, operation and epoch here: what tells tokens apart is their challenge.
var private = sync.OnceValue(func() *rsa.PrivateKey { return must(mimimi.GenerateIssuerKey()) })

func key(o mimimi.TokenOperation, epoch uint64) *mimimi.IssuerKey {
	return must(mimimi.NewIssuerKey(o, epoch, 8, &private().PublicKey))
}

// document has the keys of a week, the one before and the next.
func document(t *testing.T, domain string, now time.Time) []byte {
	t.Helper()
	epoch := mimimi.TokenEpoch(now)
	d := &mimimi.KeyDocument{Domain: domain, Number: epoch, NotBefore: mimimi.EpochStart(epoch), NotAfter: mimimi.EpochStart(epoch + 1)}
	for e := epoch - 1; e <= epoch+1; e++ {
		for _, o := range mimimi.TokenOperations() {
			d.IssuerKeys = append(d.IssuerKeys, *key(o, e))
		}
	}
	if err := mimimi.SignKeyDocument(d, must(mimimi.Suite.GenerateSignatureKey())); err != nil {
		t.Fatal(err)
	}
	return d.Marshal()
}

// token makes a token; n makes it this one.
func token(o mimimi.TokenOperation, epoch uint64, issuer, origin string, n byte) []byte {
	k, seed := key(o, epoch), bytes.Repeat([]byte{n}, 32)
	signature := must(mimimi.SignBlinded(private(), must(mimimi.BlindToken(k, issuer, origin, seed))))
	return must(mimimi.FinishToken(k, issuer, origin, seed, signature)).Marshal()
}

func spending(token []byte, id byte) *mimimi.Spending {
	return &mimimi.Spending{Operation: mimimi.TokenClaim, Token: token, RequestID: [16]byte{id}, Deed: []byte("deed")}
}

func wantKind(t *testing.T, what string, err error, want problem.Kind) {
	t.Helper()
	if err == nil || problem.KindOf(err) != want {
		t.Errorf("%s: got %v, want kind %d", what, err, want)
	}
}

func TestRedeem(t *testing.T) {
	w := newWorld(t)
	r := w.redeemer()
	epoch := mimimi.TokenEpoch(noon)
	good := token(mimimi.TokenClaim, epoch, away, home, 1)
	receipt, err := r.Redeem(t.Context(), spending(good, 1))
	if err != nil || receipt.Again || receipt.Issuer != away || !receipt.First.Equal(noon) {
		t.Fatalf("a good token: %+v, %v", receipt, err)
	}
	w.now.Add(60)
	for _, replica := range []*Redeemer{r, w.redeemer()} {
		receipt, err = replica.Redeem(t.Context(), spending(good, 1))
		if err != nil || !receipt.Again || !receipt.First.Equal(noon) {
			t.Errorf("a repeat: %+v, %v", receipt, err)
		}
		_, err = replica.Redeem(t.Context(), spending(good, 2))
		wantKind(t, "another request id", err, problem.Denied)
		other := spending(good, 1)
		other.Deed = []byte("another deed")
		_, err = replica.Redeem(t.Context(), other)
		wantKind(t, "another deed under the same request id", err, problem.Denied)
	}
	if _, err := r.Redeem(t.Context(), spending(token(mimimi.TokenClaim, epoch-1, home, home, 2), 3)); err != nil {
		t.Errorf("a token of last week: %v", err)
	}
	forged := bytes.Clone(token(mimimi.TokenClaim, epoch, home, home, 3))
	forged[len(forged)-9] ^= 1
	for what, bad := range map[string][]byte{
		"no token":            nil,
		"another domain's":    token(mimimi.TokenClaim, epoch, home, away, 4),
		"another operation's": token(mimimi.TokenGroup, epoch, home, home, 5),
		"a past epoch's":      token(mimimi.TokenClaim, epoch-2, home, home, 6),
		"a coming epoch's":    token(mimimi.TokenClaim, epoch+1, home, home, 7),
		"a forged one":        forged,
		"an unknown issuer's": token(mimimi.TokenClaim, epoch, "c.example", home, 8),
		"a truncated one":     good[:len(good)-1],
		"one with a tail":     append(bytes.Clone(good), 0),
	} {
		_, err := r.Redeem(t.Context(), spending(bad, 9))
		wantKind(t, what, err, problem.Denied)
	}
	home2 := &mimimi.Spending{Operation: mimimi.TokenUpload, Token: token(mimimi.TokenUpload, epoch, away, home, 9)}
	_, err = r.Redeem(t.Context(), home2)
	wantKind(t, "another domain's token for what only the own one pays", err, problem.Denied)
	w.now.Store(mimimi.EpochEnd(epoch).Unix())
	w.documents[home] = document(t, home, w.clock())
	_, err = r.Redeem(t.Context(), spending(token(mimimi.TokenClaim, epoch, home, home, 10), 10))
	wantKind(t, "a token two weeks later", err, problem.Denied)
}

// TestRedeemOnce: of 32 who spend one token at once, at two replicas, one succeeds; all repeats of that one do.
func TestRedeemOnce(t *testing.T) {
	w := newWorld(t)
	replicas := []*Redeemer{w.redeemer(), w.redeemer()}
	good := token(mimimi.TokenClaim, mimimi.TokenEpoch(noon), away, home, 1)
	var all sync.WaitGroup
	errs := make([]error, 32)
	for i := range errs {
		all.Go(func() { _, errs[i] = replicas[i%2].Redeem(t.Context(), spending(good, byte(i))) })
	}
	all.Wait()
	won := -1
	for i, err := range errs {
		switch {
		case err == nil && won >= 0:
			t.Error("two spent it")
		case err == nil:
			won = i
		default:
			wantKind(t, "who came second", err, problem.Denied)
		}
	}
	if won < 0 {
		t.Fatal("nobody spent it")
	}
	for i := range errs {
		all.Go(func() { _, errs[i] = replicas[i%2].Redeem(t.Context(), spending(good, byte(won))) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Errorf("a repeat: %v", err)
	}
}

// faulty is marks whose first write fails, before or after it is stored.
type faulty struct {
	marks
	persisted, failed bool
}

func (f *faulty) Publish(ctx context.Context, s bus.Subject, data []byte, o bus.PublishOptions) (uint64, error) {
	if f.failed {
		return f.marks.Publish(ctx, s, data, o)
	}
	f.failed = true
	if f.persisted {
		if _, err := f.marks.Publish(ctx, s, data, o); err != nil {
			return 0, err
		}
	}
	return 0, problem.New(problem.Unavailable, "injected")
}

// TestRedeemFault: a write whose outcome is not known is settled by the repeat of the same request, and only by that one.
func TestRedeemFault(t *testing.T) {
	w := newWorld(t)
	for i, persisted := range []bool{false, true} {
		good := token(mimimi.TokenClaim, mimimi.TokenEpoch(noon), away, home, byte(i))
		r := w.redeemer()
		r.marks = &faulty{marks: r.marks, persisted: persisted}
		_, err := r.Redeem(t.Context(), spending(good, 1))
		wantKind(t, "an unknown outcome", err, problem.Unavailable)
		receipt, err := r.Redeem(t.Context(), spending(good, 1))
		if err != nil || receipt.Again != persisted {
			t.Errorf("persisted %v: the repeat: %+v, %v", persisted, receipt, err)
		}
		_, err = r.Redeem(t.Context(), spending(good, 2))
		wantKind(t, "another request", err, problem.Denied)
	}
}

// TestMetrics: what became of the tokens that were shown is counted, by operation.
func TestMetrics(t *testing.T) {
	w := newWorld(t)
	r := w.redeemer()
	epoch := mimimi.TokenEpoch(noon)
	good, unsure := token(mimimi.TokenClaim, epoch, home, home, 1), token(mimimi.TokenClaim, epoch, home, home, 2)
	for _, s := range []*mimimi.Spending{
		spending(good, 1), spending(good, 1), spending(good, 1), spending(good, 2), spending(good, 2), spending(nil, 3),
		spending(token(mimimi.TokenClaim, epoch, home, away, 3), 4),
		{Operation: mimimi.TokenConnect, Token: token(mimimi.TokenConnect, epoch, away, home, 4)},
	} {
		_, _ = r.Redeem(t.Context(), s) // TestRedeem looks at what comes back
	}
	r.marks = &faulty{marks: r.marks}
	_, err := r.Redeem(t.Context(), spending(unsure, 5))
	wantKind(t, "an unknown outcome", err, problem.Unavailable)
	for series, want := range map[string]float64{
		`operation="claim",outcome="spent"`: 1, `operation="claim",outcome="again"`: 2, `operation="claim",outcome="spent_before"`: 2,
		`operation="claim",outcome="missing"`: 1, `operation="claim",outcome="not_good"`: 1, `operation="claim",outcome="unknown"`: 1,
		`operation="connection_request",outcome="spent"`: 1,
	} {
		series = "tokens_redeemed_total{" + series + "}"
		if got := telemetrytest.Value(t, w.telemetry, series); got != want {
			t.Errorf("%s: %v, want %v", series, got, want)
		}
	}
}

// TestIssuers: a document is asked for once an hour, sooner if a token's key is not in it, and used on while nobody answers.
func TestIssuers(t *testing.T) {
	w := newWorld(t)
	r := w.redeemer()
	epoch := mimimi.TokenEpoch(noon)
	redeem := func(issuer string, n byte) error {
		_, err := r.Redeem(t.Context(), spending(token(mimimi.TokenClaim, epoch, issuer, home, n), n))
		return err
	}
	wantAsked := func(what string, n int64) {
		t.Helper()
		if got := w.asked.Swap(0); got != n {
			t.Errorf("%s: asked %d times, want %d", what, got, n)
		}
	}
	for n := range byte(3) {
		if err := redeem(away, n); err != nil {
			t.Fatal(err)
		}
	}
	wantAsked("three tokens", 1)
	w.documents[away] = document(t, away, noon.Add(-14*24*time.Hour)) // without this week's key
	w.now.Add(int64(2 * time.Hour / time.Second))
	wantKind(t, "a key that is not published", redeem(away, 4), problem.Denied)
	wantKind(t, "again", redeem(away, 5), problem.Denied)
	wantAsked("unknown keys", 1)
	w.documents[away] = document(t, away, noon)
	w.now.Add(11)
	if err := redeem(away, 6); err != nil {
		t.Errorf("a key that was published since: %v", err)
	}
	wantAsked("a new key", 1)
	w.down.Store(true)
	w.now.Add(int64(2 * time.Hour / time.Second))
	if err := redeem(away, 7); err != nil {
		t.Errorf("while nobody answers: %v", err)
	}
	wantAsked("while nobody answers", 1)
	w.asked.Store(0)
	wantKind(t, "an issuer that cannot be reached", redeem(home, 8), problem.Unavailable)
	wantKind(t, "again", redeem(home, 9), problem.Unavailable)
	wantAsked("an issuer that cannot be reached", 1)
	w.down.Store(false)
	w.now.Add(11)
	if err := redeem(home, 10); err != nil {
		t.Errorf("when it is back: %v", err)
	}
}

// TestDocuments: the question over the bus, with every answer.
func TestDocuments(t *testing.T) {
	w := newWorld(t)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, w.domain.Bus("provider"), w.source) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	ask := Documents(w.domain.Bus("hub"))
	var got []byte
	var err error
	for range 100 { // until it serves
		if got, err = ask(t.Context(), away); err == nil {
			break
		}
	}
	if err != nil || !bytes.Equal(got, w.documents[away]) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	for _, name := range []string{"c.example", "", "no domain"} {
		_, err = ask(t.Context(), name)
		wantKind(t, "nobody's name", err, problem.NotFound)
	}
	w.down.Store(true)
	_, err = ask(t.Context(), away)
	wantKind(t, "a domain that cannot be reached", err, problem.Unavailable)
}
