package provider

import (
	"context"
	"sync"
	"time"

	"connectrpc.com/connect"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// relaySide serves RelayService on the anonymous listener: opaque bytes out, opaque bytes back, and nothing kept.
type relaySide struct {
	domain      string
	bus         *bus.Bus
	peers       *peers
	documents   *documents
	revocations *revocations
	slots       slots        // of the own domain
	away        *domainSlots // of each peer
	issuer      *issuer
	redeemer    mimimi.Redeemer
	now         func() time.Time
	m           *metrics
}

// Problems of relayed requests.
var (
	errService     = problem.New(problem.Invalid, `service must be "hub", "kpstore" or "inbox"`)
	errDomain      = problem.New(problem.Invalid, "domain must be a lower-case domain name")
	errNoRequest   = problem.New(problem.Invalid, "encapsulated_request must not be empty")
	errBusy        = problem.New(problem.Limited, "too many requests are under way: try again")
	errPeerDown    = problem.New(problem.Unavailable, "the other domain did not answer: try again")
	errPeerLimited = problem.New(problem.Limited, "the other domain has too much to do: try again later")
	errPeerFailed  = problem.New(problem.Internal, "the other domain failed at the request")
	errPeerRefused = problem.New(problem.Invalid, "the other domain refused the request")
)

// slots bounds what is under way.
type slots chan struct{}

func newSlots(n int) slots { return make(slots, n) }

// enter takes a slot at once, or returns errBusy.
func (s slots) enter() error {
	select {
	case s <- struct{}{}:
		return nil
	default:
		return errBusy
	}
}

func (s slots) leave() { <-s }

// domainSlots bounds what is under way for each domain by itself. Safe for concurrent use.
type domainSlots struct {
	each int

	mu   sync.Mutex
	busy map[string]int // guarded by mu: domains with something under way
}

func newDomainSlots(each int) *domainSlots {
	return &domainSlots{each: each, busy: make(map[string]int)}
}

// enter takes one of a domain's slots at once, or returns errBusy.
func (s *domainSlots) enter(domain string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[domain] >= s.each {
		return errBusy
	}
	s.busy[domain]++
	return nil
}

func (s *domainSlots) leave(domain string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[domain]--; s.busy[domain] == 0 {
		delete(s.busy, domain)
	}
}

// relayed reports whether a service is reached by relay.
func relayed(service string) bool {
	return service == "hub" || service == "kpstore" || service == "inbox"
}

// checkRelay checks what the edge can see of a request.
func checkRelay(service string, request []byte) error {
	if !relayed(service) {
		return errService
	}
	if len(request) == 0 {
		return errNoRequest
	}
	return nil
}

// Relay hands an encapsulated request to a service of the own domain, or to another domain's provider.
func (r *relaySide) Relay(ctx context.Context, req *mimimiv1.RelayRequest) (*mimimiv1.RelayResponse, error) {
	answer, err := r.relay(ctx, req)
	if err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.RelayResponse{EncapsulatedResponse: answer}, nil
}

func (r *relaySide) relay(ctx context.Context, req *mimimiv1.RelayRequest) ([]byte, error) {
	if err := checkRelay(req.GetService(), req.GetEncapsulatedRequest()); err != nil {
		return nil, err
	}
	if mimimi.CheckDomain(req.GetDomain()) != nil {
		return nil, errDomain
	}
	ctx, cancel := context.WithTimeout(ctx, relayTimeout)
	defer cancel()
	if req.GetDomain() == r.domain {
		return r.relayOwn(ctx, req)
	}
	return r.relayAway(ctx, req)
}

func (r *relaySide) relayOwn(ctx context.Context, req *mimimiv1.RelayRequest) ([]byte, error) {
	if err := r.slots.enter(); err != nil {
		return nil, err
	}
	defer r.slots.leave()
	r.m.Relayed.Add(ctx, 1)
	return r.bus.Call(ctx, req.GetService(), req.GetEncapsulatedRequest())
}

func (r *relaySide) relayAway(ctx context.Context, req *mimimiv1.RelayRequest) ([]byte, error) {
	p, err := r.peers.get(req.GetDomain())
	if err != nil {
		return nil, err
	}
	if err := r.away.enter(p.domain); err != nil {
		return nil, err
	}
	defer r.away.leave(p.domain)
	r.m.RelayedAway.Add(ctx, 1)
	answer, err := p.service.Relay(ctx, &mimimiv1.FederationRelayRequest{Service: req.GetService(), EncapsulatedRequest: req.GetEncapsulatedRequest()})
	if err != nil {
		return nil, peerProblem(err)
	}
	return answer.GetEncapsulatedResponse(), nil
}

// peerProblem turns what another domain said into a problem of ours. Its words are not passed on.
func peerProblem(err error) error {
	switch connect.CodeOf(err) {
	case connect.CodeInvalidArgument:
		return problem.Wrap(errPeerRefused.Kind, errPeerRefused.Sentence, err)
	case connect.CodeResourceExhausted:
		return problem.Wrap(errPeerLimited.Kind, errPeerLimited.Sentence, err)
	}
	return problem.Wrap(errPeerDown.Kind, errPeerDown.Sentence, err)
}

// notifyProblem is peerProblem for a delivery. A peer that says that it failed at it is not asked for ever: what waits behind the delivery is
// not to be blocked by it. A connection that breaks may look like such a failure, so the peer must have said it.
func notifyProblem(err error) error {
	if connect.CodeOf(err) == connect.CodeInternal && connect.IsWireError(err) {
		return problem.Wrap(errPeerFailed.Kind, errPeerFailed.Sentence, err)
	}
	return peerProblem(err)
}

// GetKeyDocument returns the copy of a domain's key document that all users are shown.
func (r *relaySide) GetKeyDocument(ctx context.Context, req *mimimiv1.GetKeyDocumentRequest) (*mimimiv1.GetKeyDocumentResponse, error) {
	if mimimi.CheckDomain(req.GetDomain()) != nil {
		return nil, problem.Connect(errDomain)
	}
	document, err := r.documents.of(ctx, req.GetDomain())
	if err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.GetKeyDocumentResponse{Document: document}, nil
}
