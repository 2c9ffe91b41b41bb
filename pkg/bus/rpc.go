package bus

import (
	"context"
	"errors"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"mimimi.example/pkg/problem"
)

// Serve answers calls to a service until ctx is done, then waits for those it has begun; others that reach it meanwhile are told to try again.
// Several replicas share the calls. Payloads are opaque. At most 64 calls are handled at once and further ones wait. handle's ctx ends
// 30 seconds after it began, when every caller has given up (one that had to wait, or whose own time is shorter, gave up earlier), and is not cancelled by
// shutdown. A panic of handle fails its call only.
func (b *Bus) Serve(ctx context.Context, service string, handle func(ctx context.Context, request []byte) []byte) error {
	s, err := micro.AddService(b.nc, micro.Config{Name: service, Version: "1.0.0"})
	if err != nil {
		return problemOf(err)
	}
	g := gate{slots: make(chan struct{}, maxServeConcurrency), stop: ctx.Done()}
	err = s.AddEndpoint("rpc", micro.HandlerFunc(func(r micro.Request) {
		if !g.enter() {
			_ = r.Error(codeBusy, "the service is stopping", nil) // fails only when the connection is gone
			return
		}
		go func() {
			defer g.leave()
			b.answer(ctx, service, r, handle)
		}()
	}), micro.WithEndpointSubject(rpcSubject(service)), micro.WithEndpointQueueGroup(service), micro.WithEndpointPendingLimits(maxServePending, maxServePendingBytes))
	if err == nil {
		err = b.nc.FlushTimeout(requestTimeout)
	}
	if err == nil {
		b.setServing(service, true)
		<-ctx.Done()
		b.setServing(service, false)
	}
	err = errors.Join(err, s.Stop())
	g.close()
	return problemOf(err)
}

// gate bounds what is handled at once, and lets nothing in once stop is closed.
type gate struct {
	slots chan struct{}
	stop  <-chan struct{}

	mu      sync.Mutex
	shut    bool           // guarded by mu
	running sync.WaitGroup // added to under mu while not shut
}

// enter waits for a slot; false once the gate is stopping.
func (g *gate) enter() bool {
	select {
	case g.slots <- struct{}{}:
	case <-g.stop:
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		<-g.slots
		return false
	}
	g.running.Add(1)
	return true
}

func (g *gate) leave() {
	<-g.slots
	g.running.Done()
}

// close waits for all who entered.
func (g *gate) close() {
	g.mu.Lock()
	g.shut = true
	g.mu.Unlock()
	g.running.Wait()
}

// The codes of answers that are not a handler's.
const (
	codeBusy   = "503"
	codeTooBig = "413"
	codeFailed = "500"
)

func rpcSubject(service string) string { return "rpc." + service }

// answer handles one call. It publishes the answer itself: the library's request notes errors where the goroutine reads them that received it, which does not wait.
func (b *Bus) answer(ctx context.Context, service string, r micro.Request, handle func(context.Context, []byte) []byte) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	m := nats.NewMsg(r.Reply())
	ctx, span := b.tracing.serve(ctx, service)
	reply, ok := b.guarded(ctx, r.Data(), handle)
	finish(span, failed(ok))
	switch {
	case !ok:
		m.Header.Set(micro.ErrorHeader, "the service failed")
		m.Header.Set(micro.ErrorCodeHeader, codeFailed)
	case int64(len(reply)) > b.nc.MaxPayload():
		m.Header.Set(micro.ErrorHeader, "the answer is too large")
		m.Header.Set(micro.ErrorCodeHeader, codeTooBig)
	default:
		m.Data = reply
	}
	if err := b.nc.PublishMsg(m); err != nil {
		b.log.Debug("an answer was lost")
	}
}

// guarded calls handle; false if it panicked, whatever it called: one request must not end the service for all.
func (b *Bus) guarded(ctx context.Context, request []byte, handle func(context.Context, []byte) []byte) (reply []byte, ok bool) {
	defer func() {
		if recover() != nil { // its value may hold anything
			b.log.Error("a handler of calls panicked")
			reply, ok = nil, false
		}
	}()
	return handle(ctx, request), true
}

// Call sends an opaque request to one replica of a service and returns its answer, waiting 30 seconds unless ctx ends sooner. When nobody is there, it waits for a replica for some seconds; when the
// replica is stopping, it tries once more. Errors: problem.Unavailable (no responder, timeout, connection lost: the service may have acted all the same),
// problem.Invalid (request too large), problem.Internal (answer too large, or the handler panicked).
func (b *Bus) Call(ctx context.Context, service string, request []byte) (answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ctx, span := b.tracing.call(ctx, service)
	defer func() { finish(span, err) }()
	m := &nats.Msg{Subject: rpcSubject(service), Data: request}
	reply, err := b.ask(ctx, m, replicaWait, false)
	if err == nil && reply.Header.Get(micro.ErrorCodeHeader) == codeBusy && sleep(ctx, retryPause) {
		reply, err = b.ask(ctx, m, replicaWait, false)
	}
	if errors.Is(err, nats.ErrMaxPayload) {
		return nil, problem.Wrap(problem.Invalid, "the request is larger than the bus allows", err)
	}
	if err != nil {
		return nil, problem.Wrap(problem.Unavailable, "the service did not answer: try again", err)
	}
	switch reply.Header.Get(micro.ErrorCodeHeader) {
	case "":
		return reply.Data, nil
	case codeBusy:
		return nil, problem.New(problem.Unavailable, "the service is stopping: try again")
	case codeFailed:
		return nil, problem.New(problem.Internal, "the service failed at the request")
	default:
		return nil, problem.New(problem.Internal, "the service's answer was too large")
	}
}
