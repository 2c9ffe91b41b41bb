package client_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// TestTokenNeeded: without a token, and with a false one, each of the five requests is refused by the service that it goes to. The refused token is dropped,
// and with the next one the same request is done.
func TestTokenNeeded(t *testing.T) {
	alice := register(t, theWorld.a, "alice")
	for what, shown := range map[string]func([]byte) []byte{
		"no token":      func([]byte) []byte { return nil },
		"a false token": func(b []byte) []byte { b = slices.Clone(b); b[len(b)-1] ^= 1; return b },
	} {
		deeds := client.Deeds(alice.c)
		bob := register(t, theWorld.b, "bob")
		deeds[mimimi.TokenConnect] = func(ctx context.Context) error { return alice.c.Connect(ctx, bob.c.User()) }
		for o, deed := range deeds {
			asked := 0
			client.ShowTokens(alice.c, func(op mimimi.TokenOperation, token []byte) []byte {
				if op != o {
					return token
				}
				if asked++; asked > 1 {
					return token
				}
				return shown(token)
			})
			if err := deed(t.Context()); err != nil || asked < 2 {
				t.Errorf("%s, %s: %v after %d tries, want one refusal", o, what, err, asked)
			}
		}
	}
	client.ShowTokens(alice.c, func(mimimi.TokenOperation, []byte) []byte { return nil })
	if _, err := alice.c.CreateGroup(t.Context(), ""); problem.KindOf(err) != problem.Unavailable {
		t.Errorf("where no token is taken: %v, want unavailable", err)
	}
}

// TestTokensKilled kills a client at its writes while it registers and while it exchanges tokens for another domain: what was signed is not lost, and
// nothing is asked for twice.
func TestTokensKilled(t *testing.T) {
	bob := register(t, theWorld.b, "bob")
	k := &killer{rng: rand.New(rand.NewPCG(7, 0))}
	for kill := range 6 {
		alice := register(t, theWorld.a, "alice")
		asked := func() error { return alice.c.Connect(t.Context(), bob.c.User()) }
		k.left, k.dead = 1+kill, false
		client.SetFault(alice.c, k.fault)
		err := asked()
		if k.dead {
			alice.reopen()
			err = asked()
		} else {
			client.SetFault(alice.c, nil)
		}
		if err != nil {
			t.Fatalf("killed at write %d: %v", kill, err)
		}
		own, away := alice.c.User().Domain(), bob.c.User().Domain()
		if o, a := len(client.Tokens(alice.c, mimimi.TokenConnect, own)), len(client.Tokens(alice.c, mimimi.TokenConnect, away)); o != int(quotas[mimimi.TokenConnect])-4 || a != 3 {
			t.Errorf("killed at write %d: %d own tokens and %d others are left, want all own but four, and three of those", kill, o, a)
		}
	}
}

// TestTokenQuota: a quota that is used up says so and until when, the next week brings new tokens, asked for before it begins, and what has expired is erased.
func TestTokenQuota(t *testing.T) {
	ahead, here := clocked(t)
	toTuesday(ahead)
	alice := here("alice")
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	var err error
	made := 0
	for ; err == nil && made < 20; made++ {
		_, err = alice.c.CreateGroup(t.Context(), "")
	}
	none, ok := errors.AsType[*client.NoTokensError](err)
	next := mimimi.EpochStart(mimimi.TokenEpoch(now()) + 1)
	if !ok || !errors.Is(err, client.ErrNoTokens) || none.Operation != string(mimimi.TokenGroup) || !none.Next.Equal(next) {
		t.Fatalf("group %d: %v", made, err)
	}
	if want := int(quotas[mimimi.TokenGroup]); made != want+1 {
		t.Errorf("%d groups were made, want %d", made-1, want)
	}
	spent := client.Spendings(alice.c)
	// A day later next week's tokens are asked for; they are good next week.
	ahead.Add(int64(25 * time.Hour))
	if err := alice.c.Sync(t.Context()); err != nil && !errors.Is(err, client.ErrNoTokens) {
		t.Fatal(err)
	}
	if _, err := alice.c.CreateGroup(t.Context(), ""); !errors.Is(err, client.ErrNoTokens) {
		t.Errorf("with next week's tokens: %v, want ErrNoTokens", err)
	}
	ahead.Add(int64(7 * 24 * time.Hour))
	if _, err := alice.c.CreateGroup(t.Context(), ""); err != nil {
		t.Errorf("a week later: %v", err)
	}
	ahead.Add(int64(14 * 24 * time.Hour))
	if err := alice.c.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := client.Spendings(alice.c); n >= spent {
		t.Errorf("%d spent tokens are remembered after three weeks, there were %d", n, spent)
	}
	if n := len(client.Tokens(alice.c, mimimi.TokenConnect, alice.c.User().Domain())); n != int(quotas[mimimi.TokenConnect]) {
		t.Errorf("%d tokens after three weeks, want this week's %d", n, quotas[mimimi.TokenConnect])
	}
}

// TestAddWithoutTokens: when the tokens for claims are used up in the middle, those who are claimed come in, and the error says who else does not and why.
func TestAddWithoutTokens(t *testing.T) {
	alice, bob, carol := register(t, theWorld.a, "alice"), register(t, theWorld.a, "bob"), register(t, theWorld.a, "carol")
	connect(t, alice, bob)
	connect(t, alice, carol)
	group, err := alice.c.CreateGroup(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	left := func() int { return len(client.Tokens(alice.c, mimimi.TokenClaim, alice.c.User().Domain())) }
	for claim := client.Deeds(alice.c)[mimimi.TokenClaim]; left() > 1; {
		if err := claim(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	err = alice.c.Add(t.Context(), group, users(bob, carol)...)
	some, ok := errors.AsType[*client.AddError](err)
	none, dated := errors.AsType[*client.NoTokensError](err)
	if !ok || !dated || none.Operation != string(mimimi.TokenClaim) || !slices.Equal(some.Users, users(carol)) {
		t.Fatalf("add with one token for two: %v", err)
	}
	if n := alice.members(group); n != 2 {
		t.Errorf("%d members, want alice and bob", n)
	}
	until(t, "bob in", func() bool { return bob.group() != "" }, bob)
}

// toTuesday sets a clock to the middle of the next Tuesday, so that a day later is the same week.
func toTuesday(ahead *atomic.Int64) {
	now := time.Now()
	tuesday := mimimi.EpochStart(mimimi.TokenEpoch(now) + 1).Add(36 * time.Hour)
	ahead.Store(int64(tuesday.Sub(now)))
}
