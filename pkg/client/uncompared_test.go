package client_test

import (
	"context"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	rpc "connectrpc.com/connect"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/cmd/mimimi/domain"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/redeem/redeemtest"
)

// triangle is three domains that have met and have one clock, and the operator of the first.
func triangle(t *testing.T, at *calendar) (all [3]*domain.Domain, first *operator) {
	t.Helper()
	dir, names := t.TempDir(), []string{"f.localhost", "g.localhost", "h.localhost"}
	for i, name := range names {
		var peers []string
		for _, other := range names {
			if other != name {
				peers = append(peers, filepath.Join(dir, other, "peer.json"))
			}
		}
		o := newOperator(filepath.Join(dir, name))
		if first == nil {
			first = o
		}
		d, err := domain.Start(t.Context(), o.options(domain.Options{Domain: name, Peers: peers, Now: at.now, TokenQuotas: quotas, NewIssuerKey: redeemtest.IssuerKey}))
		check(t, err)
		t.Cleanup(func() {
			if err := d.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		})
		all[i] = d
	}
	// Each reads the others' files every two seconds. What a clock that is moved on asks for would otherwise be asked of a domain that has not met them.
	for i, d := range all {
		early := registerConfig(t, "early", client.Config{Provider: d.Info(), Stock: client.Stock{OneTime: 1, LastResort: 1}, Spread: -1, Now: at.now})
		for j := range names {
			if j != i {
				early.meets(t, names[j])
			}
		}
	}
	return all, first
}

// keys is what a person's client says of a domain's keys.
func (p *person) keys(name string) client.DomainKeys {
	p.t.Helper()
	all, err := p.c.DomainKeys(p.t.Context())
	check(p.t, err)
	for _, d := range all {
		if d.Domain == name {
			return d
		}
	}
	return client.DomainKeys{}
}

// uncompared is how often a person was told that a domain's keys are not compared.
func (p *person) uncompared(name string) (n int) {
	for _, e := range p.events(client.EventUncompared) {
		if e.Domain == name {
			n++
		}
	}
	return n
}

// TestComparisonsBlocked: a relay that drops, or garbles, exactly what goes to other domains to compare keys stops nobody. The client says after a day that the keys in use have
// not been compared, every week that it lasts, and at any time when asked; and when an answer comes that is over. One who knows nobody to ask is told so once. It is one run of a calendar,
// in which each step waits on the ones before.
func TestComparisonsBlocked(t *testing.T) {
	at := new(calendar)
	all, op := triangle(t, at)
	for name, block := range map[string]func(*mimimiv1.RelayResponse) (*mimimiv1.RelayResponse, error){
		"drops": func(*mimimiv1.RelayResponse) (*mimimiv1.RelayResponse, error) {
			return nil, rpc.NewError(rpc.CodeUnavailable, nil)
		},
		"garbles": func(r *mimimiv1.RelayResponse) (*mimimiv1.RelayResponse, error) {
			if n := len(r.EncapsulatedResponse); n > 0 {
				r.EncapsulatedResponse[n/2] ^= 1
			}
			return r, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			alice := registerConfig(t, "alice", client.Config{Provider: all[0].Info(), Stock: client.Stock{OneTime: 2, LastResort: 1}, Spread: -1, Now: at.now})
			const own = "f.localhost"
			sync := func(after time.Duration) {
				t.Helper()
				at.pass(after)
				check(t, alice.c.Sync(t.Context()))
			}
			if s := alice.keys(own); s.State != client.KeysAlone || s.Since.IsZero() {
				t.Errorf("with nobody to ask the keys are %+v", s)
			}
			sync(2 * day)
			sync(30 * day)
			if n := alice.uncompared(own); n != 1 {
				t.Errorf("alice was told %d times that nobody can be asked, want once", n)
			}
			alice.meets(t, "g.localhost")
			alice.meets(t, "h.localhost")
			// A witness that has not fetched the week's document yet is asked again within four hours.
			compared := func(d string) {
				t.Helper()
				for range 5 {
					if alice.keys(d).State == client.KeysCompared {
						return
					}
					sync(4 * time.Hour)
				}
				t.Errorf("%s: the keys are %+v, with others to ask", d, alice.keys(d))
			}
			sync(0)
			compared(own)
			compared("h.localhost")

			var blocked atomic.Int64
			undo := meddle(t, op, mimimiv1connect.RelayServiceRelayProcedure, func(ctx context.Context, req *mimimiv1.RelayRequest,
				honest func(context.Context, *mimimiv1.RelayRequest) (*mimimiv1.RelayResponse, error)) (*mimimiv1.RelayResponse, error) {
				res, err := honest(ctx, req)
				if err != nil || req.Service != "inbox" || req.Domain == own {
					return res, err
				}
				blocked.Add(1)
				return block(res)
			})
			before := alice.uncompared(own)
			sync(8 * day) // keys have changed
			began := at.now()
			if s := alice.keys(own); s.State != client.KeysUnanswered || began.Sub(s.Since) > time.Minute || blocked.Load() == 0 {
				t.Errorf("the keys are %+v after %d blocked requests", s, blocked.Load())
			}
			for _, x := range []struct {
				after time.Duration
				told  int
			}{{time.Hour, 0}, {24 * time.Hour, 1}, {3 * day, 1}, {5 * day, 2}, {7 * day, 3}} {
				sync(x.after)
				if n := alice.uncompared(own) - before; n != x.told {
					t.Errorf("%v on: alice was told %d times, want %d", at.now().Sub(began), n, x.told)
				}
			}
			if s := alice.keys(own); s.State != client.KeysUnanswered || !slices.Contains([]int64{0, 1}, s.Since.Unix()-began.Unix()+1) {
				t.Errorf("weeks on, with other keys, they are %+v, since %v", s, began)
			}
			if _, err := alice.c.CreateGroup(t.Context(), ""); err != nil {
				t.Errorf("the keys are not used: %v", err)
			}
			undo()
			sync(2 * time.Hour)
			compared(own)
			if n := alice.uncompared(own) - before; n != 3 {
				t.Errorf("alice was told %d times in all, want 3", n)
			}
		})
	}
}
