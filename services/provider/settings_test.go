package provider

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

// set changes the settings as an operator does.
func (d *testDomain) set(change func(*Settings)) {
	d.t.Helper()
	err := ChangeSettings(d.t.Context(), d.bus.Bus("admin"), func(s *Settings) error { change(s); return nil })
	if err != nil {
		d.t.Fatalf("change settings: %v", err)
	}
}

// TestDeniedPeer: a domain that is denied is as if it were not known, in both directions, at replicas that run and at those that start; then it is let in again.
func TestDeniedPeer(t *testing.T) {
	t.Parallel()
	a, b, ra, _ := pair(t)
	document := func(r *replica) error {
		_, err := r.relay().GetKeyDocument(t.Context(), &mimimiv1.GetKeyDocumentRequest{Domain: "b.example"})
		return err
	}
	visit := func() error {
		c := httpClient(a.ca, ra.federation, b.federationPair())
		defer c.CloseIdleConnections()
		resp, err := c.Get("https://federation.a.example" + documentPath)
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	}
	if err := visit(); err != nil {
		t.Fatalf("before: %v", err)
	}
	a.set(func(s *Settings) { s.DeniedPeers = []string{"b.example", "c.example"} })
	for end := time.Now().Add(time.Minute); connect.CodeOf(document(ra)) != connect.CodeNotFound; <-time.After(50 * time.Millisecond) { // the settings are polled, and nothing tells when
		if time.Now().After(end) {
			t.Fatal("a denied domain is still asked after a minute")
		}
	}
	if visit() == nil {
		t.Error("a denied domain is let in")
	}
	late := a.start()
	wantCode(t, "at a replica that starts", document(late), connect.CodeNotFound)
	a.set(func(s *Settings) { s.DeniedPeers = nil })
	ra.waitFor("b.example")
	if err := visit(); err != nil {
		t.Errorf("let in again: %v", err)
	}
}

// TestQuotaSettings: a quota that an operator sets is that of keys that are made afterwards; those of a document that is out stay.
func TestQuotaSettings(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	d.cfg.TokenQuotas = smallQuotas
	d.set(func(s *Settings) {
		s.TokenQuotas = map[mimimi.TokenOperation]uint16{mimimi.TokenClaim: 9}
	})
	r := d.start()
	quota := func(o mimimi.TokenOperation, epoch uint64) uint16 {
		k := r.document("a.example").IssuerKey(o, epoch)
		if k == nil {
			t.Fatal("no key")
		}
		return k.Quota
	}
	epoch := mimimi.TokenEpoch(d.clock.Now())
	if got := quota(mimimi.TokenClaim, epoch); got != 9 {
		t.Errorf("claim: %d, want 9", got)
	}
	if got := quota(mimimi.TokenUpload, epoch); got != smallQuotas[mimimi.TokenUpload] {
		t.Errorf("upload: %d, want the configuration's %d", got, smallQuotas[mimimi.TokenUpload])
	}
	d.set(func(s *Settings) { s.TokenQuotas[mimimi.TokenClaim] = 11 })
	d.clock.add(week)
	if got := quota(mimimi.TokenClaim, epoch+1); got != 9 { // made with the first document
		t.Errorf("claim next week: %d, want 9", got)
	}
	if got := quota(mimimi.TokenClaim, epoch+2); got != 11 {
		t.Errorf("claim in the week after next: %d, want 11", got)
	}
}

func TestSettingsRefused(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	for name, bad := range map[string]Settings{
		"no operation":    {TokenQuotas: map[mimimi.TokenOperation]uint16{"fly": 1}},
		"a quota of none": {TokenQuotas: map[mimimi.TokenOperation]uint16{mimimi.TokenClaim: 0}},
		"too many tokens": {TokenQuotas: map[mimimi.TokenOperation]uint16{mimimi.TokenClaim: 60000}},
		"no domain":       {DeniedPeers: []string{"NOT A DOMAIN"}},
		"too many":        {DeniedPeers: strings.Split(strings.Repeat("a.example ", maxDenied)+"a.example", " ")},
	} {
		err := ChangeSettings(t.Context(), d.bus.Bus("admin"), func(s *Settings) error { *s = bad; return nil })
		if err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if s, err := ReadSettings(t.Context(), d.bus.Bus("provider")); err != nil || len(s.TokenQuotas)+len(s.DeniedPeers) > 0 {
		t.Errorf("what was refused is there: %+v, %v", s, err)
	}
}
