package redeemtest

import (
	"context"
	"testing"
	"time"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
	"mimimi.example/pkg/redeem"
)

// Document returns a signed key document of a domain with the fixed issuer keys of the week, the one before and the next.
func Document(domain string, now time.Time) *mimimi.KeyDocument {
	identity := must(mimimi.Suite.GenerateSignatureKey())
	epoch := mimimi.TokenEpoch(now)
	d := &mimimi.KeyDocument{Domain: domain, Number: epoch, NotBefore: mimimi.EpochStart(epoch), NotAfter: mimimi.EpochStart(epoch + 1)}
	for e := epoch - 1; e <= epoch+1; e++ {
		for _, o := range mimimi.TokenOperations() {
			d.IssuerKeys = append(d.IssuerKeys, Public(o, e))
		}
	}
	if err := mimimi.SignKeyDocument(d, identity); err != nil {
		panic(err)
	}
	return d
}

// Source shows one domain's Document.
func Source(domain string, now func() time.Time) redeem.Source {
	return func(_ context.Context, name string) ([]byte, error) {
		if name != domain {
			return nil, problem.New(problem.NotFound, "no such domain")
		}
		return Document(domain, now()).Marshal(), nil
	}
}

// Provide serves Source on a bus until the test ends, as a provider does, and returns once it answers.
func Provide(t testing.TB, b *bus.Bus, domain string, now func() time.Time) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- redeem.Serve(ctx, b, Source(domain, now)) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve issuer keys: %v", err)
		}
	})
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := redeem.Documents(b)(t.Context(), domain)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("issuer keys are not served: %v", err)
		}
	}
}
