package hub

import (
	"testing"
	"time"

	"connectrpc.com/connect"

	"mimimi.example/pkg/mimimi"
)

// TestPace: a group that floods is held back as a whole, and no other group is; after a while it sends again. What is refused before, as a bad signature, counts for nothing.
func TestPace(t *testing.T) {
	b := testBus(t)
	w, other := newWorld(t, b, "bob"), newWorld(t, b, "carol")
	other.hub = w.hub
	bad := w.message("bob", "x")
	bad.Signature[0] ^= 1
	_, err := w.hub.SendMessage(t.Context(), bad)
	wantCode(t, err, connect.CodePermissionDenied, "epoch sender key")
	id := must(mimimi.ParseGroupID(bad.GroupId))
	for i := range paceBurst {
		if err := w.hub.paces.take(id, 1, w.clock.now()); err != nil {
			t.Fatalf("held back after %d messages: %v", i, err)
		}
	}
	_, err = w.hub.SendMessage(t.Context(), w.message("bob", "too much"))
	wantCode(t, err, connect.CodeResourceExhausted, "faster than a hub takes")
	_, err = other.hub.SendMessage(t.Context(), other.message("carol", "in peace"))
	ok(t, err)
	w.clock.advance(time.Second)
	_, err = w.hub.SendMessage(t.Context(), w.message("bob", "later"))
	ok(t, err)
}

// TestPaces: large messages count for more, and what is remembered is bounded, without a group in use being forgotten.
func TestPaces(t *testing.T) {
	p, at := newPaces(), time.Unix(1_000_000, 0)
	busy := must(mimimi.NewGroupID(hubDomain))
	taken := 0
	for p.take(busy, maxMessage, at) == nil {
		taken++
	}
	if want := paceBurst * paceBytes / maxMessage; taken != want {
		t.Errorf("%d large messages at once, want %d", taken, want)
	}
	for range 2 * maxPaced {
		ok(t, p.take(must(mimimi.NewGroupID(hubDomain)), 1, at))
		if p.take(busy, maxMessage, at) == nil {
			t.Fatal("a group in use has its burst again")
		}
	}
	if n := len(p.now) + len(p.old); n > maxPaced {
		t.Errorf("%d groups are remembered", n)
	}
}
