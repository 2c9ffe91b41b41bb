// Package redeem spends anonymous tokens for services (docs/protocol.md §11): it checks a token against its issuer's keys and marks it as spent.
//
// Guarantees: a token pays for one deed, whoever asks, at whichever replica, and whatever crashes; a repeat of the same request for the same deed is let
// through for as long as the token's epoch is accepted. What is stored of a token is a keyed hash, and a hash of what it was spent for.
//
// Not guaranteed: that a deed that was paid for is done. Every deed is therefore one that its request may repeat.
package redeem

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// The problems of tokens.
var (
	errMissing = problem.New(problem.Denied, "protocol §11: the request needs an anonymous token")
	errRefused = problem.New(problem.Denied, "protocol §11: the anonymous token is not good for this operation, domain and week")
	errSpent   = problem.New(problem.Denied, "protocol §11: the anonymous token was spent for something else")
	errUnknown = problem.New(problem.Unavailable, "it is not known whether the anonymous token is good: try again with the same request id")
)

// Redeemer implements mimimi.Redeemer for one domain. Safe for concurrent use.
type Redeemer struct {
	domain string
	marks  marks
	keys   *issuers
	now    func() time.Time

	redeemed metric.Int64Counter
}

// marks is where spent tokens are noted; *bus.Bus is it.
type marks interface {
	Spent(epoch uint64, name []byte) bus.Subject
	Publish(ctx context.Context, s bus.Subject, data []byte, o bus.PublishOptions) (uint64, error)
	Last(ctx context.Context, s bus.Subject) (*bus.Message, error)
}

var _ mimimi.Redeemer = (*Redeemer)(nil)

// New returns the redeemer of a domain's service. documents returns a domain's key document as the provider has it (see Documents). It fails if the meter
// has another instrument of that name.
func New(domain string, b *bus.Bus, now func() time.Time, documents Source, meter metric.Meter) (*Redeemer, error) {
	redeemed, err := newMetrics(meter)
	if err != nil {
		return nil, fmt.Errorf("make metrics: %w", err)
	}
	return &Redeemer{domain: domain, marks: b, now: now, keys: newIssuers(documents, now), redeemed: redeemed}, nil
}

// Redeem implements mimimi.Redeemer.
func (r *Redeemer) Redeem(ctx context.Context, s *mimimi.Spending) (*mimimi.Receipt, error) {
	receipt, err := r.redeem(ctx, s)
	r.count(ctx, s.Operation, receipt, err)
	return receipt, err
}

func (r *Redeemer) redeem(ctx context.Context, s *mimimi.Spending) (*mimimi.Receipt, error) {
	if len(s.Token) == 0 {
		return nil, errMissing
	}
	t, err := mimimi.ParseToken(s.Token)
	if err != nil || s.Operation.AtHome() && t.Issuer() != r.domain {
		return nil, errRefused
	}
	k, err := r.check(ctx, t, s.Operation)
	if err != nil {
		return nil, err
	}
	return r.spend(ctx, t, k.Epoch, s)
}

// check finds the key that t was issued under, among those of its issuer that are accepted now. A key that is not found may have been published since the
// document was fetched, so a newer one is asked for, but not for every false token.
func (r *Redeemer) check(ctx context.Context, t *mimimi.Token, operation mimimi.TokenOperation) (*mimimi.IssuerKey, error) {
	for _, fresh := range []bool{false, true} {
		d, err := r.keys.of(ctx, t.Issuer(), fresh)
		if err != nil {
			return nil, err
		}
		for _, epoch := range mimimi.AcceptedEpochs(r.now()) {
			if k := d.IssuerKey(operation, epoch); k != nil && t.Verify(k, r.domain) == nil {
				return k, nil
			}
		}
	}
	return nil, errRefused
}

// spend is the one write: a mark under the token's name, created once. Before it the token is good; after it, it is spent for this request, which is let
// through again. An outcome that is not known is settled by the repeat.
func (r *Redeemer) spend(ctx context.Context, t *mimimi.Token, epoch uint64, s *mimimi.Spending) (*mimimi.Receipt, error) {
	now := r.now()
	mark := r.marks.Spent(epoch, t.SpentName())
	request := requestOf(s)
	record := binary.BigEndian.AppendUint64(bytes.Clone(request), uint64(now.Unix()))
	none := uint64(0)
	_, err := r.marks.Publish(ctx, mark, record, bus.PublishOptions{ExpectLast: &none, TTL: max(mimimi.EpochEnd(epoch).Sub(now), time.Second)})
	switch problem.KindOf(err) {
	case problem.Stale, problem.Limited: // a full subject is one with a mark
	default:
		if err == nil {
			return &mimimi.Receipt{Issuer: t.Issuer(), First: time.Unix(now.Unix(), 0).UTC()}, nil
		}
		return nil, err
	}
	there, lerr := r.marks.Last(ctx, mark)
	switch {
	case problem.KindOf(lerr) == problem.NotFound && problem.KindOf(err) == problem.Limited:
		return nil, err // the whole stream is full
	case lerr != nil && problem.KindOf(lerr) == problem.NotFound:
		return nil, errUnknown // its time ended just now
	case lerr != nil:
		return nil, lerr
	case len(there.Data) != len(record) || !bytes.Equal(there.Data[:len(request)], request):
		return nil, errSpent
	}
	first := int64(binary.BigEndian.Uint64(there.Data[len(request):]))
	return &mimimi.Receipt{Issuer: t.Issuer(), First: time.Unix(first, 0).UTC(), Again: true}, nil
}

// requestOf is the hash of what a token is spent for.
func requestOf(s *mimimi.Spending) []byte {
	h := sha256.New()
	for _, part := range [][]byte{[]byte("mimimi spent token request"), []byte(s.Operation), s.RequestID[:], s.Deed} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write(part)
	}
	return h.Sum(nil)
}
