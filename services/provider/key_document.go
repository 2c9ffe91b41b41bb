package provider

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// Problems of key documents.
var (
	errNoDocument = problem.New(problem.Unavailable, "that domain's key document cannot be fetched now: try again")
	errKeyChanged = problem.New(problem.Denied, "that domain shows another identity key than before: it is refused until an administrator has looked")
)

// week is the period of key documents, which begin on Mondays 00:00 UTC and are numbered from the first Monday of 1970.
const week = 7 * 24 * time.Hour

var firstMonday = time.Date(1970, 1, 5, 0, 0, 0, 0, time.UTC)

func weekNumber(now time.Time) uint64 {
	return uint64(max(0, now.Sub(firstMonday)) / week)
}

// ownDocument makes the domain's document of a week. The same keys give the same bytes in every replica and at every start.
func ownDocument(domain string, k *keys, issued []mimimi.IssuerKey, number uint64) (*mimimi.KeyDocument, error) {
	begin := firstMonday.Add(time.Duration(number) * week)
	d := &mimimi.KeyDocument{
		Domain: domain, Number: number, NotBefore: begin.Add(-documentMargin), NotAfter: begin.Add(week + documentMargin),
		IdentityKey: k.identity.Public(), OHTTPKeys: k.public, IssuerKeys: issued,
	}
	var err error
	if d.QueueKeys, err = k.queue.public(number); err != nil {
		return nil, err
	}
	if err := mimimi.SignKeyDocument(d, k.identity); err != nil {
		return nil, fmt.Errorf("sign key document: %w", err)
	}
	return d, nil
}

// documents are the key documents that users are shown: the domain's own, and of every peer one copy for all users, kept on the bus so
// that all replicas show the same. The identity key of a peer is pinned there on first use.
type documents struct {
	domain string
	keys   *keys
	issued func(ctx context.Context, week uint64) ([]mimimi.IssuerKey, error) // the issuer keys of a week's document
	peers  *peers
	bus    *bus.Bus
	now    func() time.Time
	m      *metrics
	log    *slog.Logger
	flight singleflight.Group

	mu    sync.Mutex
	own   []byte                   // guarded by mu: marshalled, of week ownAt
	ownAt uint64                   // guarded by mu
	held  map[string]*heldDocument // guarded by mu: by domain
}

// heldDocument is a peer's document in memory. It never changes.
type heldDocument struct {
	raw    []byte
	parsed *mimimi.KeyDocument
	tried  time.Time // when a newer one was last asked for
}

// ours returns the domain's own document, made anew when a week begins.
func (d *documents) ours(ctx context.Context) ([]byte, error) {
	number := weekNumber(d.now())
	d.mu.Lock()
	own, at := d.own, d.ownAt
	d.mu.Unlock()
	if own != nil && at == number {
		return own, nil
	}
	issued, err := d.issued(ctx, number)
	if err != nil {
		return nil, fmt.Errorf("issuer keys: %w", err)
	}
	doc, err := ownDocument(d.domain, d.keys, issued, number)
	if err != nil {
		return nil, err
	}
	own = doc.Marshal()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.own, d.ownAt = own, number
	return own, nil
}

// of returns a domain's document. A peer's is taken from memory while it is of the current week; then from the bus; then from the peer.
// While the peer cannot be asked an older one is served as long as it is valid.
func (d *documents) of(ctx context.Context, domain string) ([]byte, error) {
	if domain == d.domain {
		return d.ours(ctx)
	}
	p, err := d.peers.get(domain)
	if err != nil {
		return nil, err
	}
	if h := d.recall(domain); h != nil && (d.fresh(h) || d.valid(h) && d.now().Sub(h.tried) < refetchInterval) {
		return h.raw, nil
	}
	// One caller asks for all, so its own end must not end the others' wait.
	result := d.flight.DoChan(domain, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), relayTimeout)
		defer cancel()
		return d.refresh(ctx, p)
	})
	select {
	case <-ctx.Done():
		return nil, errNoDocument
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*heldDocument).raw, nil
	}
}

func (d *documents) recall(domain string) *heldDocument {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held[domain]
}

func (d *documents) fresh(h *heldDocument) bool {
	return d.valid(h) && h.parsed.Number >= weekNumber(d.now())
}

// valid reports whether a document may still be shown. Its signature was checked when it came.
func (d *documents) valid(h *heldDocument) bool {
	now := d.now()
	return !now.Before(h.parsed.NotBefore) && now.Before(h.parsed.NotAfter)
}

// refresh gets the best document that there is, and remembers it.
//
// One write: the pin together with the document, by compare-and-swap. Before it nothing was shown to anybody; after it every replica shows
// this one. Who loses the swap takes the winner's.
func (d *documents) refresh(ctx context.Context, p *peer) (*heldDocument, error) {
	h, record, sequence, err := d.stored(ctx, p.domain)
	if err != nil {
		return nil, err
	}
	if h == nil || !d.fresh(h) {
		fetched, err := d.fetch(ctx, p, record.GetIdentityKey())
		switch {
		case err == nil && (h == nil || fetched.parsed.Number > h.parsed.Number || !d.valid(h)):
			if h, err = d.keep(ctx, p.domain, fetched, sequence); err != nil {
				return nil, err
			}
		case h == nil || !d.valid(h):
			return nil, cmpErr(err)
		}
	}
	h = &heldDocument{raw: h.raw, parsed: h.parsed, tried: d.now()}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held[p.domain] = h
	return h, nil
}

// cmpErr is err, or errNoDocument for nil: a document that is older than an expired one.
func cmpErr(err error) error {
	if err == nil {
		return errNoDocument
	}
	return err
}

// stored reads what the bus has of a peer; h is nil if there is none.
func (d *documents) stored(ctx context.Context, domain string) (h *heldDocument, record *mimimiv1.PeerRecord, sequence uint64, err error) {
	record, sequence, ok, err := get[mimimiv1.PeerRecord](ctx, d.bus, d.bus.PeerKey(domain))
	if err != nil || !ok {
		return nil, record, 0, err
	}
	parsed, err := mimimi.ParseKeyDocument(record.GetDocument())
	if err != nil || !bytes.Equal(parsed.IdentityKey, record.GetIdentityKey()) {
		return nil, nil, 0, errCorrupt
	}
	return &heldDocument{raw: record.GetDocument(), parsed: parsed}, record, sequence, nil
}

// keep stores a fetched document, or returns the one that another replica stored meanwhile.
func (d *documents) keep(ctx context.Context, domain string, h *heldDocument, last uint64) (*heldDocument, error) {
	err := put(ctx, d.bus, d.bus.PeerKey(domain), &mimimiv1.PeerRecord{IdentityKey: h.parsed.IdentityKey, Document: h.raw}, last)
	if !isKind(err, problem.Stale) {
		return h, err
	}
	winner, _, _, err := d.stored(ctx, domain)
	if err == nil && (winner == nil || !d.valid(winner)) {
		err = errNoDocument
	}
	return winner, err
}

// fetch asks a peer for its document and verifies it: by the pinned key, if there is one, and for the right domain.
func (d *documents) fetch(ctx context.Context, p *peer, pinned []byte) (*heldDocument, error) {
	raw, err := download(ctx, p, documentPath, maxDocument)
	if err != nil {
		return nil, problem.Wrap(problem.Unavailable, errNoDocument.Sentence, err)
	}
	parsed, err := mimimi.ParseKeyDocument(raw)
	if err != nil || parsed.Domain != p.domain {
		return nil, errNoDocument
	}
	if len(pinned) > 0 && !bytes.Equal(parsed.IdentityKey, pinned) {
		d.m.PeerKeyChanged.Add(ctx, 1)
		d.log.ErrorContext(ctx, "a peer's identity key is not the pinned one; its new key document was refused")
		return nil, errKeyChanged
	}
	if len(pinned) == 0 {
		pinned = nil
	}
	if err := parsed.Verify(pinned, d.now()); err != nil {
		return nil, problem.Wrap(problem.Unavailable, "that domain's key document does not verify or is out of date", err)
	}
	return &heldDocument{raw: raw, parsed: parsed}, nil
}

// statusError is an answer that is no document.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("status %d", int(e)) }

// download gets what a peer publishes under a path, at most limit bytes of it.
func download(ctx context.Context, p *peer, path string, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	if resp.StatusCode != http.StatusOK {
		return nil, statusError(resp.StatusCode)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("the document is too long")
	}
	return raw, err
}

// documentPath is where peers fetch the document.
const documentPath = "/.well-known/mimimi"

// ServeHTTP answers GET /.well-known/mimimi.
func (d *documents) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := d.ours(r.Context())
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(raw) // an error means that the peer has gone
}
