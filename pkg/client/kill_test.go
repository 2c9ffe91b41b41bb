package client_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"mimimi.example/pkg/client"
)

var errKilled = errors.New("killed")

// killer kills a client at random writes: before the write is durable, or right after it. A dead client writes nothing more.
type killer struct {
	rng  *rand.Rand
	left int
	dead bool
	n    int
}

func (k *killer) fault(persisted bool) error {
	if k.dead {
		return errKilled
	}
	if k.left--; k.left > 0 {
		return nil
	}
	k.dead = true
	k.n++
	return errKilled
}

// arm makes p mortal.
func (k *killer) arm(p *person) {
	k.left, k.dead = 1+k.rng.IntN(16), false
	client.SetFault(p.c, k.fault)
}

// mortal runs f on a client that may die, and brings it back if it did. Whoever died is not told what became of f.
func mortal(p *person, k *killer, f func() error) (died bool, err error) {
	p.t.Helper()
	k.arm(p)
	err = f()
	if !k.dead {
		client.SetFault(p.c, nil)
		return false, err
	}
	p.reopen()
	return true, nil
}

// TestKilledAnywhere runs a group's life with clients that die at random writes and are opened again. Every message whose Send returned nil is seen once by
// every member, no other more than once, and nobody has to enter anew.
func TestKilledAnywhere(t *testing.T) {
	seeds := []uint64{1, 2, uint64(time.Now().UnixNano())}
	if n, err := strconv.Atoi(os.Getenv("MIMIMI_KILL_SEEDS")); err == nil {
		for i := range n {
			seeds = append(seeds, uint64(100+i))
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { killAnywhere(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

// killAnywhere is one story, in which each step begins where the kills of the one before have left everybody.
func killAnywhere(t *testing.T, rng *rand.Rand) {
	k := &killer{rng: rng}
	alice, bob, carol := register(t, theWorld.a, "alice"), register(t, theWorld.b, "bob"), register(t, theWorld.b, "carol")
	all := []*person{alice, bob, carol}
	sync := func(what string, cond func() bool) {
		t.Helper()
		until(t, what, func() bool {
			for _, p := range all {
				_, _ = mortal(p, k, func() error { return p.c.Sync(t.Context()) })
			}
			return cond()
		}, all...)
	}
	again := func(what string, p *person, done func() bool, f func() error) {
		t.Helper()
		var err error
		sync(what, func() bool {
			if done() {
				return true
			}
			if _, err = mortal(p, k, f); err != nil {
				t.Logf("%s: %v", what, err)
			}
			return done()
		})
	}

	again("connect", alice, func() bool { return len(bob.requests()) > 0 || alice.connected(bob) }, func() error {
		return alice.c.Connect(t.Context(), bob.c.User())
	})
	again("accept", bob, func() bool { return alice.connected(bob) && bob.connected(alice) }, func() error {
		if r := bob.requests(); len(r) > 0 {
			return bob.c.Accept(t.Context(), r[0].ID)
		}
		return nil
	})
	again("create", alice, func() bool { return alice.group() != "" }, func() error {
		_, err := alice.c.CreateGroup(t.Context(), "friends")
		return err
	})
	group := alice.group()
	again("add", alice, func() bool { return bob.group() != "" && bob.members(bob.group()) == 2 }, func() error {
		if err := alice.c.Add(t.Context(), group, bob.c.User()); !errors.Is(err, client.ErrMember) {
			return err
		}
		return nil
	})
	gb := bob.group()
	var link string
	again("invite", bob, func() bool { return link != "" }, func() (err error) {
		link, err = bob.c.Invite(t.Context(), gb, client.InviteOptions{})
		return err
	})
	again("join", carol, func() bool {
		return carol.group() != "" && carol.members(carol.group()) == 3 && alice.members(group) == 3 && bob.members(gb) == 3
	}, func() error {
		if len(carol.groups()) > 0 {
			return nil
		}
		_, err := carol.c.Join(t.Context(), link)
		return err
	})
	gc := carol.group()
	groups := map[*person]string{alice: group, bob: gb, carol: gc}

	sent := make(map[string]*person)
	for i := range 12 {
		p := all[rng.IntN(len(all))]
		text := fmt.Sprintf("message %d", i)
		died, err := mortal(p, k, func() error {
			_, err := p.c.Send(t.Context(), groups[p], []byte(text))
			return err
		})
		if err != nil {
			t.Fatalf("%s: send: %v", p.name, err)
		}
		if !died {
			sent[text] = p
		}
	}
	sync("delivered", func() bool {
		for text, from := range sent {
			for _, p := range all {
				if p != from && !slices.Contains(p.read(groups[p]), text) {
					return false
				}
			}
		}
		return true
	})
	for _, p := range all {
		seen := make(map[string]bool)
		for _, text := range p.read(groups[p]) {
			if seen[text] {
				t.Errorf("%s saw %q twice", p.name, text)
			}
			seen[text] = true
		}
		for _, e := range p.events(client.EventWarning) {
			t.Errorf("%s was warned: %s", p.name, e.Text)
		}
	}
	again("remove", alice, func() bool { return alice.members(group) == 2 && len(carol.events(client.EventGroupOver)) == 1 }, func() error {
		if err := alice.c.Remove(t.Context(), group, carol.c.User()); !errors.Is(err, client.ErrNotMember) {
			return err
		}
		return nil
	})
	again("leave", bob, func() bool { return alice.members(group) == 1 && len(bob.events(client.EventGroupOver)) == 1 }, func() error {
		if err := bob.c.Leave(t.Context(), gb); !errors.Is(err, client.ErrGroupOver) {
			return err
		}
		return nil
	})
	if k.n == 0 {
		t.Error("nobody was killed")
	}
	t.Logf("%d kills", k.n)
}
