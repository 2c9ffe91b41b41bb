package kpstore

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/oblivious"
	"mimimi.example/pkg/redeem/redeemtest"
	"mimimi.example/pkg/service"
	"mimimi.example/pkg/telemetry"
	"mimimi.example/pkg/telemetry/telemetrytest"
)

// running starts two replicas and returns a client that reaches them over OHTTP, and what their taps saw.
func running(w *world) (mimimiv1connect.KeyPackageServiceClient, func() []byte) {
	secret, config, err := oblivious.GenerateKey(3)
	if err != nil {
		w.Fatal(err)
	}
	file := filepath.Join(w.TempDir(), "key")
	if err := os.WriteFile(file, secret, 0o600); err != nil {
		w.Fatal(err)
	}
	cfg := &Config{Domain: domain, OHTTPKeyFiles: []string{file}}
	redeemtest.Provide(w, w.domain.Bus("provider"), domain, func() time.Time { return w.now })
	var mu sync.Mutex
	var seen []byte
	tap := func(_ string, parts ...[]byte) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, bytes.Join(parts, nil)...)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 2 {
		env := &service.Env{Bus: w.domain.Bus("kpstore"), Now: func() time.Time { return w.now }, Tap: tap}
		wg.Go(func() {
			if err := Run(ctx, cfg, env); err != nil {
				w.Errorf("run: %v", err)
			}
		})
	}
	w.Cleanup(func() { stop(); wg.Wait() })
	provider := w.domain.Bus("provider")
	transport, err := oblivious.NewTransport(config, func(ctx context.Context, b []byte) ([]byte, error) { return provider.Call(ctx, "kpstore", b) })
	if err != nil {
		w.Fatal(err)
	}
	client := mimimiv1connect.NewKeyPackageServiceClient(&http.Client{Transport: transport}, "https://kpstore.invalid")
	return client, func() []byte { mu.Lock(); defer mu.Unlock(); return bytes.Clone(seen) }
}

// waitFor calls f until the store serves.
func waitFor(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		if pause(t.Context(), 20*time.Millisecond) != nil {
			t.Fatal(err)
		}
	}
}

// Everything once through two replicas, over OHTTP, with each error's code.
func TestRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u, other := w.user(domain), w.user(domain)
	c, seen := running(w)
	ctx := t.Context()
	token := mimimi.NewConnectionToken()
	hash := token.Hash()
	waitFor(t, func() error { _, err := c.RegisterAlias(ctx, u.aliasRequest(opRegisterAlias, hash[:])); return err })
	if _, err := c.Upload(ctx, w.paid(u.uploadRequest(1, u.items(2, 1)...))); err != nil {
		t.Fatal(err)
	}
	list, err := c.ListSets(ctx, &v1.ListSetsRequest{WriteKey: u.key.Public(), Signed: u.sign(opListSets, nil)})
	if err != nil || len(list.GetSets()) != 3 {
		t.Fatalf("%d sets: %v", len(list.GetSets()), err)
	}
	got, err := c.Claim(ctx, w.paidClaim(claimOf(token.Bytes(), false)))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(seen()), pseudonym(t, got)) {
		t.Error("the tap does not see an opened response")
	}

	_, errStale := c.Upload(ctx, w.paid(u.uploadRequest(1, func() *v1.UploadItem { i := u.item(false); i.Revision = 99; return i }())))
	_, errForeign := c.RegisterAlias(ctx, other.aliasRequest(opRegisterAlias, hash[:]))
	_, errUnknown := c.Claim(ctx, w.paidClaim(claimOf(requestID32(), true)))
	_, errGarbage := c.Claim(ctx, &v1.ClaimRequest{})
	_, errBig := c.Upload(ctx, &v1.UploadRequest{WriteKey: make([]byte, maxBody+1)})
	for _, tt := range []struct {
		err  error
		code connect.Code
		text string
	}{
		{errStale, connect.CodeAborted, errRevision.Sentence},
		{errForeign, connect.CodePermissionDenied, errForeignAlias.Sentence},
		{errUnknown, connect.CodeResourceExhausted, errNothing.Sentence},
		{errGarbage, connect.CodeInvalidArgument, errRequestID.Sentence},
		{errBig, connect.CodeResourceExhausted, ""},
	} {
		if connect.CodeOf(tt.err) != tt.code || !strings.Contains(tt.err.Error(), tt.text) {
			t.Errorf("got %v, want %v: %s", tt.err, tt.code, tt.text)
		}
	}
	if _, err := c.RevokeAlias(ctx, u.aliasRequest(opRevokeAlias, hash[:])); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Claim(ctx, w.paidClaim(claimOf(token.Bytes(), true))); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("claim after the revocation: %v", err)
	}
	for _, junk := range [][]byte{nil, []byte("junk"), make([]byte, 4096)} {
		if answer, err := w.domain.Bus("provider").Call(ctx, "kpstore", junk); err != nil || len(answer) == 0 {
			t.Errorf("junk in place of OHTTP: %d bytes, %v", len(answer), err)
		}
	}
}

// TestMetrics: what claims got, why others got nothing, and that the owner was told of a low stock, are counted and keep their labels.
func TestMetrics(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tel := telemetrytest.New(t, telemetry.Options{})
	h := w.replica()
	h.metrics = must(newMetrics(tel.Meter("test")))
	h.store.metrics, h.limits = h.metrics, limits{perAlias: 3, perIssuer: 1000}
	u := w.user(domain)
	u.mustUpload(h, 1, u.items(5, 1)...)
	one, other := u.token(h), u.token(h)
	for _, r := range []*v1.ClaimRequest{
		claimOf(one, false), claimOf(one, false), claimOf(one, false), claimOf(one, false), // the fourth is too much
		claimOf(other, false), claimOf(other, false), claimOf(other, true), claimOf(requestID32(), true), {},
	} {
		_, _ = h.Claim(t.Context(), r) // other tests look at what comes back
	}
	for series, want := range map[string]float64{
		`kpstore_claims_total{set="one_time"}`: 5, `kpstore_claims_total{set="last_resort"}`: 1, `kpstore_claims_total{set="nothing"}`: 3,
		`kpstore_claims_refused_total{cause="alias_limit"}`: 1, `kpstore_claims_refused_total{cause="nothing_left"}`: 1, `kpstore_claims_refused_total{cause="invalid"}`: 1,
		`kpstore_low_stock_notices_total{outcome="sent"}`: 1, `kpstore_low_stock_notices_total{outcome="told_before"}`: 5, `kpstore_stock_count`: 6,
		`kpstore_requests_total{kind="ok",operation="claim"}`: 6,
	} {
		if got := telemetrytest.Value(t, tel, series); got != want {
			t.Errorf("%s: %v, want %v", series, got, want)
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	write := func(text string) string {
		f := filepath.Join(t.TempDir(), "kpstore.json")
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	good := `{"domain":"a.example","bus":{"url":"nats://127.0.0.1:4222","deployment_key_file":"key"},"ohttp_key_files":["k"],"claims_per_hour":7}`
	cfg, err := Load(write(good))
	if err != nil || cfg.limits().perAlias != 7 || (&Config{}).limits().perAlias != defaultClaimsPerHour {
		t.Errorf("a good file: %v", err)
	}
	if _, err := Load(write(strings.Replace(good, "claims_per_hour", "claims", 1))); err == nil {
		t.Error("an unknown key was taken")
	}
	_, err = Load(write(`{"domain":"A.example"}`))
	for _, want := range []string{"domain", "bus", "ohttp_key_files"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("an empty file: %v does not name %s", err, want)
		}
	}
	missing := &Config{Domain: domain, OHTTPKeyFiles: []string{filepath.Join(t.TempDir(), "none")}}
	if err := Run(t.Context(), missing, &service.Env{}); err == nil {
		t.Error("run without its key file")
	}
}
