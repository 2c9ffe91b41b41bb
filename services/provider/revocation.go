package provider

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// Problems of lists of revocations.
var (
	errNoRevocations   = problem.New(problem.Unavailable, "that domain's list of revocations cannot be fetched now: try again")
	errListRefused     = problem.New(problem.Unavailable, "that domain's list of revocations is not signed by its pinned key, or older than one seen, and was refused")
	errRevocationsFull = problem.New(problem.Limited, "the domain's list of revocations is full: the client was taken off its account, but is not on the list yet")
)

// revocationsPath is where peers fetch the list.
const revocationsPath = "/.well-known/mimimi/revocations"

// revocations are the lists of revoked certificates that users are shown: the domain's own, and of every peer one copy for all users. All are on the bus, so
// that every replica shows the same and no number goes back. They hold nothing that depends on who asks.
type revocations struct {
	domain    string
	identity  mls.SignatureKey
	documents *documents // know the peers' pinned keys
	peers     *peers
	bus       *bus.Bus
	now       func() time.Time
	m         *metrics
	flight    singleflight.Group
	writing   sync.Mutex // one writer of the own list in this replica: the others would lose the swap

	mu   sync.Mutex
	held map[string]*heldList // guarded by mu: by domain
}

// heldList is a domain's list in memory. It never changes.
type heldList struct {
	raw    []byte // empty: the domain has published none
	list   *mimimi.RevocationList
	at     time.Time // when it was taken from its domain, or for the own one, from the bus
	tried  time.Time // when a newer one was last asked for
	record uint64    // the bus's sequence
}

func newRevocations(d *documents) *revocations {
	return &revocations{
		domain: d.domain, identity: d.keys.identity, documents: d, peers: d.peers, bus: d.bus, now: d.now, m: d.m, held: make(map[string]*heldList),
	}
}

func (r *revocations) recall(domain string) *heldList {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held[domain]
}

func (r *revocations) hold(domain string, h *heldList) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held[domain] = h
}

// storedList reads what the bus has of a domain; h.list is nil if there is none.
func (r *revocations) stored(ctx context.Context, domain string) (*heldList, error) {
	record, sequence, ok, err := get[mimimiv1.RevocationRecord](ctx, r.bus, r.bus.Revocations(domain))
	if err != nil {
		return nil, err
	}
	if !ok {
		return &heldList{}, nil
	}
	list, err := mimimi.ParseRevocationList(record.GetList())
	if err != nil || list.Domain != domain {
		return nil, errCorrupt
	}
	return &heldList{raw: record.GetList(), list: list, record: sequence}, nil
}

// own returns the domain's list, signed anew when it is old.
func (r *revocations) own(ctx context.Context) ([]byte, error) {
	now := r.now()
	if h := r.recall(r.domain); h != nil && now.Sub(h.at) < revocationHold && !now.Before(h.at) && r.current(h.list) {
		return h.raw, nil
	}
	h, err := r.change(ctx, nil)
	if err != nil {
		return nil, err
	}
	return h.raw, nil
}

// current reports whether the own list is young enough to be shown as it is, and by the present identity key.
func (r *revocations) current(l *mimimi.RevocationList) bool {
	return r.now().Sub(l.IssuedAt) < revocationRenewal && l.Verify(r.identity.Public(), r.now(), 0) == nil
}

// add puts certificates on the domain's list. Those that are on it, and those that expired so long ago that they do not belong there, change nothing.
// Errors: errRevocationsFull.
//
// One write: the next list, by compare-and-swap. A crash leaves the old list or the new one.
func (r *revocations) add(ctx context.Context, revoked []mimimi.RevokedCertificate) error {
	if len(revoked) == 0 {
		return nil
	}
	_, err := r.change(ctx, revoked)
	return err
}

// change makes the list hold what is revoked, and be current, and remembers it.
func (r *revocations) change(ctx context.Context, revoked []mimimi.RevokedCertificate) (*heldList, error) {
	r.writing.Lock()
	defer r.writing.Unlock()
	for range updateTries {
		h, err := r.stored(ctx, r.domain)
		if err != nil {
			return nil, err
		}
		next, err := r.next(h.list, revoked)
		if err != nil {
			r.m.RevokedFull.Add(ctx, 1)
			return nil, err
		}
		if next != nil {
			last := h.record
			h = &heldList{raw: next.Marshal(), list: next}
			err = put(ctx, r.bus, r.bus.Revocations(r.domain), &mimimiv1.RevocationRecord{List: h.raw}, last)
		}
		if isKind(err, problem.Stale) {
			continue
		}
		if err != nil {
			return nil, err
		}
		h.at = r.now()
		r.hold(r.domain, h)
		return h, nil
	}
	return nil, problem.New(problem.Unavailable, "the list of revocations changes too often: try again")
}

// next is the list after last, nil if last will do. Numbers are seconds where the one before allows it: they go up even if the bus has lost the list.
func (r *revocations) next(last *mimimi.RevocationList, revoked []mimimi.RevokedCertificate) (*mimimi.RevocationList, error) {
	now := r.now().Truncate(time.Second).UTC()
	next := &mimimi.RevocationList{Domain: r.domain, Number: uint64(max(1, now.Unix())), IssuedAt: now, NotAfter: now.Add(revocationTime), Entries: revoked}
	if last != nil {
		next.Number = max(next.Number, last.Number+1)
		next.Entries = slices.Concat(last.Entries, revoked)
	}
	if err := mimimi.SignRevocationList(next, r.identity); err != nil {
		return nil, errRevocationsFull // the rest of it is our own and right
	}
	if last != nil && r.current(last) && slices.Equal(last.Entries, next.Entries) {
		return nil, nil
	}
	return next, nil
}

// of returns a domain's list, empty if the domain has never published one. A peer's is asked for again when the copy is old; while the peer cannot be asked,
// or shows what is refused, the copy is shown as long as it is valid.
func (r *revocations) of(ctx context.Context, domain string) ([]byte, error) {
	if domain == r.domain {
		return r.own(ctx)
	}
	p, err := r.peers.get(domain)
	if err != nil {
		return nil, err
	}
	now := r.now()
	if h := r.recall(domain); h != nil && r.valid(h) && (now.Sub(h.at) < revocationRenewal || now.Sub(h.tried) < refetchInterval) {
		return h.raw, nil
	}
	// One caller asks for all, so its own end must not end the others' wait.
	result := r.flight.DoChan(domain, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), relayTimeout)
		defer cancel()
		return r.refresh(ctx, p)
	})
	select {
	case <-ctx.Done():
		return nil, errNoRevocations
	case got := <-result:
		if got.Err != nil {
			return nil, got.Err
		}
		return got.Val.(*heldList).raw, nil
	}
}

// valid reports whether a copy may still be shown. Its signature was checked when it came.
func (r *revocations) valid(h *heldList) bool {
	return h.list == nil || r.now().Before(h.list.NotAfter)
}

// refresh gets the newest list of a peer that there is, and remembers it.
//
// One write: the list, by compare-and-swap, if it is newer than the stored one. Who loses the swap takes the winner's.
func (r *revocations) refresh(ctx context.Context, p *peer) (*heldList, error) {
	h, err := r.stored(ctx, p.domain)
	if err != nil {
		return nil, err
	}
	now := r.now()
	if h.list != nil {
		h.at = h.list.IssuedAt
	}
	if h.list == nil || now.Sub(h.at) >= revocationRenewal || !r.valid(h) {
		fetched, err := r.fetch(ctx, p, h)
		if err == nil {
			fetched, err = r.keep(ctx, p.domain, fetched, h)
		}
		switch {
		case err == nil:
			h = fetched
		case h.list == nil || !r.valid(h):
			return nil, err
		}
	}
	h.tried = now
	r.hold(p.domain, h)
	return h, nil
}

// keep stores a fetched list if it is newer than the stored one.
func (r *revocations) keep(ctx context.Context, domain string, fetched, stored *heldList) (*heldList, error) {
	if fetched.list == nil || bytes.Equal(fetched.raw, stored.raw) {
		return fetched, nil
	}
	err := put(ctx, r.bus, r.bus.Revocations(domain), &mimimiv1.RevocationRecord{List: fetched.raw}, stored.record)
	if !isKind(err, problem.Stale) {
		return fetched, err
	}
	winner, err := r.stored(ctx, domain)
	if err == nil && (winner.list == nil || !r.valid(winner)) {
		err = errNoRevocations
	}
	winner.at = r.now() // another replica fetched it just now
	return winner, err
}

// fetch asks a peer for its list and verifies it: by the pinned key, for the right domain, and not older than the stored one.
func (r *revocations) fetch(ctx context.Context, p *peer, stored *heldList) (*heldList, error) {
	raw, err := download(ctx, p, revocationsPath, maxRevocations)
	if status, ok := errors.AsType[statusError](err); ok && status == http.StatusNotFound && stored.list == nil {
		return &heldList{at: r.now()}, nil
	}
	if err != nil {
		return nil, problem.Wrap(problem.Unavailable, errNoRevocations.Sentence, err)
	}
	document, err := r.documents.of(ctx, p.domain)
	if err != nil {
		return nil, err
	}
	pinned, err := mimimi.ParseKeyDocument(document)
	if err != nil {
		return nil, errCorrupt
	}
	list, err := mimimi.ParseRevocationList(raw)
	if err == nil {
		err = checkPeerList(list, raw, p.domain, pinned.IdentityKey, stored, r.now())
	}
	if err != nil {
		r.m.ListsRefused.Add(ctx, 1)
		return nil, problem.Wrap(errListRefused.Kind, errListRefused.Sentence, err)
	}
	return &heldList{raw: raw, list: list, at: r.now()}, nil
}

// errTwoLists is a domain that shows two lists under one number.
var errTwoLists = errors.New("the list differs from the one that has the same number")

// checkPeerList checks what a peer shows as its list.
func checkPeerList(list *mimimi.RevocationList, raw []byte, domain string, identity []byte, stored *heldList, now time.Time) error {
	least := uint64(0)
	if stored.list != nil {
		least = stored.list.Number
	}
	if err := list.Verify(identity, now, least); err != nil {
		return err
	}
	if list.Domain != domain || stored.list != nil && list.Number == least && !bytes.Equal(raw, stored.raw) {
		return errTwoLists
	}
	return nil
}

// ServeHTTP answers GET /.well-known/mimimi/revocations.
func (r *revocations) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	raw, err := r.own(req.Context())
	if err != nil {
		http.Error(w, "the list cannot be read now", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(raw) // an error means that the peer has gone
}

// GetRevocations returns the copy of a domain's list of revoked certificates that all users are shown.
func (r *relaySide) GetRevocations(ctx context.Context, req *mimimiv1.GetRevocationsRequest) (*mimimiv1.GetRevocationsResponse, error) {
	if mimimi.CheckDomain(req.GetDomain()) != nil {
		return nil, problem.Connect(errDomain)
	}
	list, err := r.revocations.of(ctx, req.GetDomain())
	if err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.GetRevocationsResponse{List: list}, nil
}
