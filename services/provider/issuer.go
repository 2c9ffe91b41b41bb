package provider

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sync/errgroup"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// issuer makes the domain's issuer keys and signs with them (protocol §11). The keys are on the bus, made once by whichever replica is first, and sealed
// under a key that comes from the identity key: a copy of the stream does not show them.
type issuer struct {
	bus     *bus.Bus
	seal    []byte
	quotas  map[mimimi.TokenOperation]uint16 // of keys that are yet to be made, where the settings have no other
	make    func(mimimi.TokenOperation, uint64) (*rsa.PrivateKey, error)
	now     func() time.Time
	signing slots

	mu   sync.Mutex
	held map[uint64]map[mimimi.TokenOperation]*issuerKey // guarded by mu: by epoch; whole epochs only, and never changed
}

// issuerKey is a key with its private half.
type issuerKey struct {
	public  mimimi.IssuerKey
	private *rsa.PrivateKey
}

func newIssuer(cfg *Config, k *keys, b *bus.Bus, now func() time.Time) (*issuer, error) {
	quotas, err := cfg.quotas()
	if err != nil {
		return nil, err
	}
	i := &issuer{bus: b, seal: k.issuerSeal, quotas: quotas, make: cfg.NewIssuerKey, now: now, signing: newSlots(maxSigning),
		held: make(map[uint64]map[mimimi.TokenOperation]*issuerKey)}
	if i.make == nil {
		i.make = func(mimimi.TokenOperation, uint64) (*rsa.PrivateKey, error) { return mimimi.GenerateIssuerKey() }
	}
	return i, nil
}

// errIssuerSeal: the identity key is another one than when the keys were made.
var errIssuerSeal = problem.New(problem.Internal, "a stored issuer key does not open under this identity key")

// keys returns the keys of an epoch. Those that are missing are made if wanted; otherwise an epoch that lacks one has none.
func (i *issuer) keys(ctx context.Context, epoch uint64, wanted bool) (map[mimimi.TokenOperation]*issuerKey, error) {
	i.mu.Lock()
	held, ok := i.held[epoch]
	i.mu.Unlock()
	if ok {
		return held, nil
	}
	operations := mimimi.TokenOperations()
	found := make([]*issuerKey, len(operations))
	g, ctx := errgroup.WithContext(ctx)
	for n, o := range operations {
		g.Go(func() (err error) {
			found[n], err = i.key(ctx, o, epoch, wanted)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	all := make(map[mimimi.TokenOperation]*issuerKey)
	for n, k := range found {
		if k == nil {
			return nil, nil
		}
		all[operations[n]] = k
	}
	if epoch > mimimi.TokenEpoch(i.now())+1 {
		return all, nil // not announced yet: an operator may have them made anew
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for e := range i.held {
		if present := mimimi.TokenEpoch(i.now()); e+2 < present {
			delete(i.held, e)
		}
	}
	i.held[epoch] = all
	return all, nil
}

// key reads a key, or makes it. One write, created once: a crash before it leaves nothing, and whoever comes second takes the first one's.
func (i *issuer) key(ctx context.Context, o mimimi.TokenOperation, epoch uint64, wanted bool) (*issuerKey, error) {
	for range updateTries {
		entry, _, ok, err := get[mimimiv1.IssuerKeyEntry](ctx, i.bus, i.subject(o, epoch))
		if err != nil {
			return nil, err
		}
		if ok {
			return i.open(o, epoch, entry)
		}
		if !wanted {
			return nil, nil
		}
		private, err := i.make(o, epoch)
		if err != nil {
			return nil, fmt.Errorf("make issuer key: %w", err)
		}
		quota, err := i.quota(ctx, o)
		if err != nil {
			return nil, err
		}
		if entry, err = i.sealed(o, epoch, private, quota); err != nil {
			return nil, err
		}
		err = put(ctx, i.bus, i.subject(o, epoch), entry, 0)
		if err == nil {
			return i.open(o, epoch, entry)
		}
		if !isKind(err, problem.Stale) && !isKind(err, problem.Limited) && !isKind(err, problem.Unavailable) {
			return nil, err
		}
	}
	return nil, errNoDocument
}

// subject is where a key stands. Another identity key is another issuer, with keys of its own.
func (i *issuer) subject(o mimimi.TokenOperation, epoch uint64) bus.Subject {
	return i.bus.IssuerKey(epoch, digest(labelIssuerKey, []byte(o), i.seal))
}

// quota is how many tokens of an operation a client gets of a key that is made now.
func (i *issuer) quota(ctx context.Context, o mimimi.TokenOperation) (uint16, error) {
	s, err := ReadSettings(ctx, i.bus)
	if err != nil {
		return 0, err
	}
	all, err := (&Config{TokenQuotas: overlaid(i.quotas, s.TokenQuotas)}).quotas()
	if err != nil {
		return i.quotas[o], nil // together too many: better the configuration's than no keys
	}
	return all[o], nil
}

// overlaid is one set of quotas with another one's instead where it has some.
func overlaid(under, over map[mimimi.TokenOperation]uint16) map[mimimi.TokenOperation]uint16 {
	all := maps.Clone(under)
	maps.Copy(all, over)
	return all
}

// sealed encrypts a key for the stream.
func (i *issuer) sealed(o mimimi.TokenOperation, epoch uint64, private *rsa.PrivateKey, quota uint16) (*mimimiv1.IssuerKeyEntry, error) {
	aead, err := chacha20poly1305.NewX(i.seal)
	if err != nil {
		return nil, err
	}
	e := &mimimiv1.IssuerKeyEntry{Quota: uint32(quota)}
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	e.SealedKey = aead.Seal(nonce, nonce, x509.MarshalPKCS1PrivateKey(private), boundTo(o, epoch, e.Quota))
	return e, nil
}

// boundTo is the additional data of a sealed key: it is good for one operation, epoch and quota.
func boundTo(o mimimi.TokenOperation, epoch uint64, quota uint32) []byte {
	return digest(labelIssuerKey, []byte(o), binary.BigEndian.AppendUint64(nil, epoch), binary.BigEndian.AppendUint32(nil, quota))
}

func (i *issuer) open(o mimimi.TokenOperation, epoch uint64, e *mimimiv1.IssuerKeyEntry) (*issuerKey, error) {
	aead, err := chacha20poly1305.NewX(i.seal)
	if err != nil {
		return nil, err
	}
	if len(e.GetSealedKey()) < aead.NonceSize() || e.GetQuota() > mimimi.MaxTokenBatch {
		return nil, errCorrupt
	}
	nonce, sealed := e.GetSealedKey()[:aead.NonceSize()], e.GetSealedKey()[aead.NonceSize():]
	der, err := aead.Open(nil, nonce, sealed, boundTo(o, epoch, e.GetQuota()))
	if err != nil {
		return nil, errIssuerSeal
	}
	private, err := x509.ParsePKCS1PrivateKey(der)
	if err != nil {
		return nil, errCorrupt
	}
	public, err := mimimi.NewIssuerKey(o, epoch, uint16(e.GetQuota()), &private.PublicKey)
	if err != nil {
		return nil, err
	}
	return &issuerKey{public: *public, private: private}, nil
}

// published are the keys of a week's document: the week's own, those before and those after. Only what was there when the week began is in it, but for a
// domain's first document, so it is the same all week.
func (i *issuer) published(ctx context.Context, week uint64) (all []mimimi.IssuerKey, err error) {
	for epoch := max(week, 1) - 1; epoch <= week+1; epoch++ {
		keys, err := i.keys(ctx, epoch, epoch >= week)
		if err != nil {
			return nil, err
		}
		for _, o := range mimimi.TokenOperations() {
			if k := keys[o]; k != nil {
				all = append(all, k.public)
			}
		}
	}
	return all, nil
}

// makeAhead makes, in the second half of a week, the keys that the next week's document announces, so that nobody waits for them.
func (i *issuer) makeAhead(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(issuerInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := i.now()
		epoch := mimimi.TokenEpoch(now)
		if now.Sub(mimimi.EpochStart(epoch)) < week/2 {
			continue
		}
		if _, err := i.keys(ctx, epoch+2, true); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "the keys for the tokens of the week after next could not be made yet")
		}
	}
}

// turn waits while too many others have tokens signed. leave gives the turn back.
func (i *issuer) turn(ctx context.Context) (leave func(), err error) {
	select {
	case i.signing <- struct{}{}:
		return i.signing.leave, nil
	case <-ctx.Done():
		return nil, errBusy
	}
}

// sign signs blinded messages, several at a time, for who has a turn.
func (i *issuer) sign(ctx context.Context, work []signing) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(signers)
	for _, w := range work {
		g.Go(func() (err error) {
			if ctx.Err() != nil {
				return errBusy
			}
			*w.into, err = mimimi.SignBlinded(w.key, w.message)
			return err
		})
	}
	return g.Wait()
}

// signing is one message to be signed.
type signing struct {
	key     *rsa.PrivateKey
	message []byte
	into    *[]byte
}
