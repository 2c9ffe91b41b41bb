package provider

import (
	"bytes"
	"testing"
	"time"

	"mimimi.example/pkg/mimimi"
)

// TestQueueKeysRotate: the present key changes every four weeks, the same in every replica; what was sealed to one opens for a year, and no longer.
func TestQueueKeysRotate(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	secret := d.file("queue.secret", bytes.Repeat([]byte{7}, queueSecretSize))
	cfg := &Config{Domain: "a.example", QueueSecretFile: secret, QueueKeyFiles: d.cfg.QueueKeyFiles}
	now := firstMonday.Add(4 * 100 * week)
	clock := func() time.Time { return now }
	one, two := must(loadQueueKeys(cfg, clock)), must(loadQueueKeys(cfg, clock))
	present := func(q *queueKeys) mimimi.QueueKey {
		all := must(q.public(weekNumber(now)))
		if len(all) != len(cfg.QueueKeyFiles)+1 {
			t.Fatalf("%d keys are shown", len(all))
		}
		return all[len(all)-1]
	}

	start := now
	p, id := must(mimimi.NewClientPseudonym("a.example")), mimimi.NewQueueID()
	sealed := must(mimimi.SealQueueID(present(one), p, id))
	seen := make(map[uint32]bool)
	for ; now.Before(start.Add(52 * week)); now = now.Add(week) {
		a, b := present(one), present(two)
		if a.KeyID != b.KeyID || !bytes.Equal(a.Public, b.Public) {
			t.Fatal("two replicas show two keys")
		}
		seen[a.KeyID] = true
	}
	if len(seen) != 13 {
		t.Errorf("%d keys in a year, want 13", len(seen))
	}
	now = start.Add(56*week - time.Second) // the key was shown for four weeks
	if got, err := mimimi.OpenQueueID(two.find, "a.example", p, sealed); err != nil || !got.Equal(id) {
		t.Errorf("a queue ID sealed a year ago does not open: %v", err)
	}
	now = start.Add(60 * week)
	if _, err := mimimi.OpenQueueID(two.find, "a.example", p, sealed); err == nil {
		t.Error("a queue ID opens long after its key's year")
	}
	now = start.Add(-5 * week)
	if _, ok := one.find(present(one).KeyID + 2); ok {
		t.Error("a key of the future is found")
	}
	for id := range cfg.QueueKeyFiles {
		if _, ok := one.find(id); !ok {
			t.Error("the key of a file is not found beside the secret")
		}
	}
}

func TestQueueKeysRefuse(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	key := d.cfg.QueueKeyFiles[7]
	for name, cfg := range map[string]*Config{
		"no such file":     {QueueSecretFile: "/nowhere"},
		"a short secret":   {QueueSecretFile: d.file("short", make([]byte, 31))},
		"a key id of ours": {QueueSecretFile: d.file("good", make([]byte, 32)), QueueKeyFiles: map[uint32]string{firstDerived: key}},
	} {
		if _, err := loadQueueKeys(cfg, d.clock.Now); err == nil {
			t.Errorf("%s: it loads", name)
		}
	}
}
