package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"connectrpc.com/connect"

	"mimimi.example/pkg/oblivious"
	"mimimi.example/pkg/problem"
)

// A call of an app's that finds the provider, or a service behind it, unreachable asks again for a while: replicas are replaced and leaders elected meanwhile, and an app should not hear of it. Every
// request has an id by which the service knows a repeat. Sync and Send do not wait: what they fail at is stored, and the next Sync, or a Stream, goes on with it.

// againFor is how long a call asks again, from the first failure on: longer than a cluster takes to elect a leader, and as long as somebody waits at a screen. Tests of what an app is told
// when things are down shorten it.
var againFor = 15 * time.Second

const (
	// againFirst and againMost are the first pause and the longest.
	againFirst = 250 * time.Millisecond
	againMost  = 2 * time.Second
)

// again is whether, and until when, the operation under way asks again.
type again struct {
	usual time.Duration // againFor; set before use

	mu    sync.Mutex
	most  time.Duration // 0: it does not; guarded by mu
	until time.Time     // zero: nothing has failed yet; guarded by mu
}

// begin begins an operation that asks again.
func (a *again) begin() { a.set(a.usual) }

// never makes the operation that has begun one that does not.
func (a *again) never() { a.set(0) }

func (a *again) set(most time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.most, a.until = most, time.Time{}
}

// may says, after a failure, whether it is to be tried once more.
func (a *again) may() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.until.IsZero() {
		a.until = time.Now().Add(a.most)
	}
	return time.Now().Before(a.until)
}

// intercept repeats calls that may succeed in a moment.
func (a *again) intercept(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		for pause := againFirst; ; pause = min(2*pause, againMost) {
			res, err := next(ctx, req)
			if err == nil || !mayPass(err) || ctx.Err() != nil || !a.may() {
				return res, err
			}
			select {
			case <-ctx.Done():
				return res, err
			case <-time.After(pause):
			}
		}
	}
}

// mayPass says whether a failure may be over in a moment. A domain that the provider does not know and a key that a service does not know stay unknown.
func mayPass(err error) bool {
	if errors.Is(err, errNotKnown) || errors.Is(err, oblivious.ErrRefused) {
		return false
	}
	if p, ok := errors.AsType[*problem.Error](err); ok { // from the relay
		return p.Kind == problem.Unavailable
	}
	return problem.KindOf(problem.FromConnect(err)) == problem.Unavailable
}
