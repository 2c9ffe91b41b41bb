package provider

import (
	"bytes"
	"testing"
	"time"

	"mimimi.example/pkg/mimimi"
)

// TestRotateIssuerKeys: keys that no document has announced are made anew, by replicas that run too; those that are announced stay.
func TestRotateIssuerKeys(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	d.cfg.TokenQuotas = smallQuotas
	epoch := mimimi.TokenEpoch(d.clock.Now())
	d.clock.add(mimimi.EpochStart(epoch).Add(4 * 24 * time.Hour).Sub(d.clock.Now())) // a Friday
	k := must(loadKeys(d.cfg, d.clock.Now))
	i := must(newIssuer(d.cfg, k, d.bus.Bus("provider"), d.clock.Now))
	quotas := func() (all []uint16) {
		for e := epoch; e <= epoch+2; e++ {
			all = append(all, must(i.keys(t.Context(), e, true))[mimimi.TokenClaim].public.Quota)
		}
		return all
	}
	old := smallQuotas[mimimi.TokenClaim]
	if got := quotas(); got[0] != old || got[1] != old || got[2] != old {
		t.Fatalf("quotas %v", got)
	}
	d.set(func(s *Settings) { s.TokenQuotas = map[mimimi.TokenOperation]uint16{mimimi.TokenClaim: old + 1} })
	n, from, err := RotateIssuerKeys(t.Context(), d.bus.Bus("admin"), d.clock.Now())
	if err != nil || n != len(mimimi.TokenOperations()) || !from.Equal(mimimi.EpochStart(epoch+2)) {
		t.Errorf("%d keys from %v on, %v", n, from, err)
	}
	if got := quotas(); got[0] != old || got[1] != old || got[2] != old+1 {
		t.Errorf("quotas %v after the rotation, want a new one in the last week only", got)
	}
	if _, _, err := RotateIssuerKeys(t.Context(), d.bus.Bus("admin"), mimimi.EpochStart(epoch+1).Add(-time.Minute)); err == nil {
		t.Error("a minute before Monday it rotates")
	}
}

// TestQueueSecretChanges: from the next period on keys come from the new secret, whatever replica; before it from the old one, for as long as they are kept.
func TestQueueSecretChanges(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	now := firstMonday.Add((4*100 + 1) * week)
	clock := func() time.Time { return now }
	secret := func(name string, b byte) string { return d.file(name, bytes.Repeat([]byte{b}, queueSecretSize)) }
	next := NextQueueKeyID(now)
	if next != firstDerived+101 || !QueueKeyBegins(next).Equal(firstMonday.Add(4*101*week)) {
		t.Fatalf("the next key is %d, from %v on", next, QueueKeyBegins(next))
	}
	one := must(loadQueueKeys(&Config{Domain: "a.example", QueueSecretFile: secret("one", 1)}, clock))
	two := must(loadQueueKeys(&Config{Domain: "a.example", QueueSecretFile: secret("two", 2), QueueSecretsBefore: map[uint32]string{next: secret("one", 1)}}, clock))
	same := func(id uint32) bool {
		a, aok := one.find(id)
		b, bok := two.find(id)
		if !aok || !bok {
			t.Fatalf("key %d is not there", id)
		}
		return bytes.Equal(a.Public(), b.Public())
	}
	if !same(next-1) || !same(next-2) {
		t.Error("a key of before changes")
	}
	now = now.Add(4 * week)
	if same(next) || !same(next-1) {
		t.Error("the first key of the new secret is the old one's")
	}
	for name, cfg := range map[string]*Config{
		"no such file": {QueueSecretFile: secret("one", 1), QueueSecretsBefore: map[uint32]string{next: "/nowhere"}},
		"no such id":   {QueueSecretFile: secret("one", 1), QueueSecretsBefore: map[uint32]string{7: secret("two", 2)}},
	} {
		if _, err := loadQueueKeys(cfg, clock); err == nil {
			t.Errorf("%s: it loads", name)
		}
	}
}
