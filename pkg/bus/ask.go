package bus

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"

	"mimimi.example/pkg/problem"
)

// link is one connection to a server, between two losses of it. Its context ends when the connection is lost.
type link struct {
	context.Context
	lost context.CancelFunc
}

func newLink() *link {
	l := new(link)
	l.Context, l.lost = context.WithCancel(context.Background())
	return l
}

// cut ends the requests that wait for an answer over the connection that was just lost, since none will come. Requests that are made from now on wait for the next connection.
func (b *Bus) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.link.lost()
	b.link = newLink()
}

// errCut says that no answer will come to a request any more: the connection was lost, or who was asked is gone.
var errCut = errors.New("the answer was lost; the outcome is unknown")

// ask sends a request and waits for its answer. While nobody is there to answer, since a leader is being elected or a replica starts, or the cluster refuses to
// act without one, nothing was done: it asks again until wait is over, or ctx. When the answer is lost the outcome is unknown, errCut: with again, which is for requests that may be carried
// out twice, it asks again until ctx ends, waiting no longer than tryTimeout each time, as who was asked may be gone.
func (b *Bus) ask(ctx context.Context, m *nats.Msg, wait time.Duration, again bool) (*nats.Msg, error) {
	until := time.Now().Add(wait)
	for {
		reply, err := b.askOnce(ctx, m, again)
		absent := errors.Is(err, nats.ErrNoResponders) || err == nil && isRefusedForNow(reply)
		repeat := absent && time.Now().Before(until) || again && errors.Is(err, errCut)
		if !repeat || !sleep(ctx, retryPause) {
			return reply, err
		}
	}
}

// askOnce is one try. It ends with the connection.
func (b *Bus) askOnce(ctx context.Context, m *nats.Msg, again bool) (*nats.Msg, error) {
	bound := b.linked
	if again {
		bound = b.tryOf
	}
	try, cancel := bound(ctx)
	defer cancel()
	reply, err := b.nc.RequestMsgWithContext(try, m)
	if err != nil && ctx.Err() == nil && try.Err() != nil {
		return nil, errCut
	}
	return reply, err
}

// linked bounds ctx by the present connection.
func (b *Bus) linked(ctx context.Context) (context.Context, context.CancelFunc) {
	b.mu.Lock()
	l := b.link
	b.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(l, cancel)
	return ctx, func() { stop(); cancel() }
}

// tryOf bounds ctx for one try of what may be tried again.
func (b *Bus) tryOf(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := b.linked(ctx)
	ctx, stop := context.WithTimeout(ctx, tryTimeout)
	return ctx, func() { stop(); cancel() }
}

// isRefusedForNow says whether JetStream did nothing since there is no leader at the moment, or, after a repeat, since the first try is still under way.
func isRefusedForNow(m *nats.Msg) bool {
	if len(m.Data) == 0 || len(m.Data) > maxRefusal {
		return false
	}
	var head struct {
		Error *apiError `json:"error"`
	}
	if json.Unmarshal(m.Data, &head) != nil || head.Error == nil {
		return false
	}
	switch head.Error.ErrCode {
	case codeNoLeader, codeNotLeader, codeInFlight:
		return true
	}
	return false
}

// avoidStranded looks, until the bus is closed, whether the server that the connection stands to can reach the streams' leaders. One that is cut off from the others takes connections, and answers what a
// follower may, for as long as it is: then another one is tried.
func (b *Bus) avoidStranded() {
	tick := time.NewTicker(strandedEvery)
	defer tick.Stop()
	for {
		select {
		case <-b.closed:
			return
		case <-tick.C:
		}
		if len(b.nc.Servers()) > 1 && b.nc.IsConnected() && b.stranded() && b.nc.IsConnected() {
			b.log.Warn("the bus server reaches no leader: trying another one")
			_ = b.nc.ForceReconnect() // fails only for a connection that is closed
		}
	}
}

// stranded says whether a stream's leader cannot be reached. It asks what only a leader answers, whether there is such a message or not.
func (b *Bus) stranded() bool {
	streams := b.layout.readBy(b.service)
	if len(streams) == 0 {
		return false // the admin service, which a person watches
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	err := b.api(ctx, "STREAM.MSG.GET."+streams[rand.IntN(len(streams))], map[string]any{"seq": 1}, nil)
	return problem.KindOf(err) == problem.Unavailable
}
