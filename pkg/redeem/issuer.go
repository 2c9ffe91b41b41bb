package redeem

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// Source returns a domain's key document as the provider shows it to its users. Errors: problem.NotFound if the provider has no connection with that domain.
type Source func(ctx context.Context, domain string) ([]byte, error)

// callName is the provider's service on the bus that answers with key documents.
const callName = "issuerkeys"

// The first byte of an answer; a document follows answerHere.
const (
	answerHere = iota
	answerNobody
	answerLater
)

// Documents is a Source that asks the own domain's provider over the bus, which checks what it has.
func Documents(b *bus.Bus) Source {
	return func(ctx context.Context, domain string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		answer, err := b.Call(ctx, callName, []byte(domain))
		switch {
		case err != nil:
			return nil, err
		case len(answer) > 1 && answer[0] == answerHere:
			return answer[1:], nil
		case len(answer) == 1 && answer[0] == answerNobody:
			return nil, problem.New(problem.NotFound, "the provider has no connection with that domain")
		}
		return nil, errAway
	}
}

// errAway: the provider cannot reach the issuer now.
var errAway = problem.New(problem.Unavailable, "the keys of the anonymous token's issuer cannot be had now: try again with the same request id")

// Serve answers what Documents asks, until ctx is done.
func Serve(ctx context.Context, b *bus.Bus, documents Source) error {
	return b.Serve(ctx, callName, func(ctx context.Context, request []byte) []byte {
		if mimimi.CheckDomain(string(request)) != nil {
			return []byte{answerNobody}
		}
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		document, err := documents(ctx, string(request))
		switch {
		case err == nil:
			return append([]byte{answerHere}, document...)
		case problem.KindOf(err) == problem.NotFound:
			return []byte{answerNobody}
		}
		return []byte{answerLater}
	})
}

// Bounds of what is remembered of issuers.
const (
	// askTimeout: an issuer that cannot be reached holds its tokens' requests up no longer.
	askTimeout = 5 * time.Second
	// keepFor is how long a document is used without asking again; a new week's keys are known a week before.
	keepFor = time.Hour
	// askAgain is the least time between two questions about one domain, whether it could not be reached or false tokens name it.
	askAgain = 10 * time.Second
	// maxIssuers bounds the memory: some 10 KiB each.
	maxIssuers = 1024
)

// issuers are the key documents of domains whose tokens were shown. The times of asking go by the service's clock.
type issuers struct {
	documents Source
	now       func() time.Time
	flight    singleflight.Group

	mu   sync.Mutex
	held map[string]*heldIssuer // guarded by mu; values never change
}

// heldIssuer is a document, or that there was none to be had.
type heldIssuer struct {
	document *mimimi.KeyDocument // nil: err
	err      error
	asked    time.Time
}

func newIssuers(documents Source, now func() time.Time) *issuers {
	return &issuers{documents: documents, now: now, held: make(map[string]*heldIssuer)}
}

// of returns a domain's key document; fresh asks for a newer one than is remembered.
func (i *issuers) of(ctx context.Context, domain string, fresh bool) (*mimimi.KeyDocument, error) {
	limit := keepFor
	i.mu.Lock()
	h := i.held[domain]
	i.mu.Unlock()
	if fresh || h != nil && h.err != nil {
		limit = askAgain
	}
	if h == nil || i.age(h) >= limit {
		var err error
		if h, err = i.ask(ctx, domain); err != nil {
			return nil, err
		}
	}
	return h.document, h.err
}

// age is how long ago h was asked for; a clock that was set back makes it old.
func (i *issuers) age(h *heldIssuer) time.Duration {
	if age := i.now().Sub(h.asked); age >= 0 {
		return age
	}
	return keepFor
}

// ask asks once for all who want to know at the same time; one caller's end does not end the others' wait.
func (i *issuers) ask(ctx context.Context, domain string) (*heldIssuer, error) {
	result := i.flight.DoChan(domain, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		defer cancel()
		h := &heldIssuer{asked: i.now()}
		h.document, h.err = i.fetch(ctx, domain)
		if h.err != nil {
			i.fallBack(domain, h)
		}
		if h.err == nil || errors.Is(h.err, errAway) {
			i.keep(domain, h) // not names that nobody has, since there is no end of them, nor that the own provider did not answer
		}
		return h, nil
	})
	select {
	case <-ctx.Done():
		return nil, errUnknown
	case r := <-result:
		return r.Val.(*heldIssuer), r.Err
	}
}

// fallBack puts an older document in the place of none, as long as it is in date.
func (i *issuers) fallBack(domain string, h *heldIssuer) {
	i.mu.Lock()
	defer i.mu.Unlock()
	old := i.held[domain]
	if old == nil || old.document == nil || errors.Is(h.err, errRefused) || !i.now().Before(old.document.NotAfter) {
		return
	}
	h.document, h.err = old.document, nil
	h.asked = h.asked.Add(askAgain - keepFor)
}

func (i *issuers) fetch(ctx context.Context, domain string) (*mimimi.KeyDocument, error) {
	raw, err := i.documents(ctx, domain)
	if err != nil {
		switch {
		case problem.KindOf(err) == problem.NotFound:
			return nil, errRefused
		case errors.Is(err, errAway):
			return nil, errAway
		}
		return nil, problem.Wrap(errUnknown.Kind, errUnknown.Sentence, err)
	}
	d, err := mimimi.ParseKeyDocument(raw)
	if err != nil || d.Domain != domain {
		return nil, errUnknown
	}
	return d, nil
}

func (i *issuers) keep(domain string, h *heldIssuer) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.held[domain]; !ok && len(i.held) >= maxIssuers {
		for name := range i.held { // any: it is asked for again when it is needed
			delete(i.held, name)
			break
		}
	}
	i.held[domain] = h
}
