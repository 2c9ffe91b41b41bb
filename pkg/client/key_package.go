package client

import (
	"context"
	"errors"
	"fmt"
	"sync"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// leafSecrets are what a client needs to be the same member again: they outlive a loss of the ratchet state (§7, resync).
type leafSecrets struct {
	Package []byte `json:"package"`
	Secrets []byte `json:"secrets"`
	LinkKey []byte `json:"link_key"`
	Queue   int    `json:"queue,omitempty"`
}

// ownPackage is a packageRecord or leafSecrets, parsed.
type ownPackage struct {
	kp      *mls.KeyPackage
	secrets mls.KeyPackageSecrets
	linkKey mimimi.LinkKey
	queue   int
}

func parseOwnPackage(kp, secrets, linkKey []byte, queue int) (*ownPackage, error) {
	p := &ownPackage{queue: queue}
	var errs [3]error
	p.kp, errs[0] = mls.ParseKeyPackage(kp)
	errs[1] = p.secrets.UnmarshalBinary(secrets)
	p.linkKey, errs[2] = mimimi.LinkKeyFrom(linkKey)
	if errors.Join(errs[:]...) != nil {
		return nil, fmt.Errorf("%w: a KeyPackage is damaged", ErrStore)
	}
	return p, nil
}

func (p *ownPackage) leaf() (*leafSecrets, error) {
	s, err := p.secrets.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return &leafSecrets{Package: p.kp.Marshal(), Secrets: s, LinkKey: p.linkKey.Bytes(), Queue: p.queue}, nil
}

// takePackage finds the private halves of an own KeyPackage.
func (c *Client) takePackage(ref []byte) (*ownPackage, bool, error) {
	r, found, err := get[packageRecord](c.store, bucketPackages, ref)
	if err != nil || !found {
		return nil, false, err
	}
	p, err := parseOwnPackage(r.Package, r.Secrets, r.LinkKey, r.Queue)
	return p, err == nil, err
}

// usePackage erases a used one-time KeyPackage and counts its use. A last-resort one may be needed again.
func (c *Client) usePackage(tx Tx, ref []byte) error {
	r, found, err := read[packageRecord](tx, bucketPackages, ref)
	if err != nil {
		return err
	}
	stock, err := readStock(tx)
	if err != nil {
		return err
	}
	if found && !r.LastResort {
		if err := tx.Delete(bucketPackages, ref); err != nil {
			return err
		}
	}
	stock.Used++
	stock.Due = stock.Due || found && r.LastResort // to be replaced
	return write(tx, bucketMeta, keyStock, stock)
}

func (c *Client) listSets(ctx context.Context) (map[string]*mimimiv1.SetSummary, error) {
	s, err := c.kpStore(ctx, c.account.user.Domain())
	if err != nil {
		return nil, err
	}
	res, err := call(ctx, s.ListSets, &mimimiv1.ListSetsRequest{
		WriteKey: c.account.writeKey.Public(), Signed: c.signedStore(opListSets, newRequestID(), nil),
	})
	if err != nil {
		return nil, fmt.Errorf("list KeyPackage sets: %w", err)
	}
	listed := make(map[string]*mimimiv1.SetSummary, len(res.Sets))
	for _, set := range res.Sets {
		listed[set.UserPseudonym] = set
	}
	return listed, nil
}

// makePackages makes one KeyPackage for each set of sets, and n that start sets of their own, and stores them with their private halves.
func (c *Client) makePackages(cfg *mimimi.KeyPackageConfig, sets []*mimimiv1.SetSummary, n int, lastResort bool) (made []*packageRecord, err error) {
	for i := range len(sets) + n {
		cfg := *cfg
		cfg.LastResort = lastResort
		revision := uint64(0)
		if i < len(sets) {
			revision, cfg.LastResort = sets[i].Revision, sets[i].LastResort
			cfg.UserPseudonym, err = mimimi.ParseUserPseudonym(sets[i].UserPseudonym)
		} else {
			cfg.UserPseudonym, err = mimimi.NewUserPseudonym(c.account.user.Domain())
		}
		if err != nil {
			return nil, fmt.Errorf("make KeyPackage: %w", err)
		}
		r, err := c.makePackage(&cfg)
		if err != nil {
			return nil, fmt.Errorf("make KeyPackage: %w", err)
		}
		r.Revision = revision
		made = append(made, r)
	}
	return made, c.update(func(tx Tx) error {
		for _, r := range made {
			if err := write(tx, bucketPackages, r.ref, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// makePackage makes one KeyPackage as cfg says.
func (c *Client) makePackage(cfg *mimimi.KeyPackageConfig) (*packageRecord, error) {
	kp, secrets, err := mimimi.NewKeyPackage(*cfg)
	if err != nil {
		return nil, err
	}
	cred, err := mimimi.ParsePseudonymousCredential(kp.Leaf().Credential())
	if err != nil {
		return nil, err
	}
	s, err := secrets.MarshalBinary()
	if err != nil {
		return nil, err
	}
	linkKey := cred.LinkKey(c.account.connectionKey).Bytes()
	c.tap(TapLinkKey, linkKey)
	basis := cfg.Basis(c.account.writeKey.Public())
	life := replaceAfter
	if cfg.LastResort {
		life = lastResortFor
	}
	return &packageRecord{
		Package: kp.Marshal(), Secrets: s, LinkKey: linkKey, Pseudonym: cfg.UserPseudonym.Wire(), Client: cred.ClientPseudonym.Wire(),
		LastResort: cfg.LastResort, Basis: basis[:], Made: c.now().Unix(), Due: c.now().Add(life + c.spread()).Unix(), ref: kp.Ref(),
		Queue: c.account.rec.QueueNumber,
	}, nil
}

// upload makes one upload.
func (c *Client) upload(ctx context.Context, batch []*packageRecord) error {
	s, err := c.kpStore(ctx, c.account.user.Domain())
	if err != nil {
		return err
	}
	req := &mimimiv1.UploadRequest{WriteKey: c.account.writeKey.Public(), Clients: uint32(c.setSize())}
	for _, r := range batch {
		req.Items = append(req.Items, &mimimiv1.UploadItem{KeyPackage: r.Package, LastResort: r.LastResort, Revision: r.Revision})
	}
	body, err := mimimiv1.UploadBody(req)
	if err != nil {
		return err
	}
	// The same KeyPackages have the same request id, and so the same token: a repeat after a crash costs none.
	id := body[:16]
	err = c.spend(ctx, mimimi.TokenUpload, c.account.user.Domain(), id, func(token []byte) error {
		req.Token, req.Signed = token, c.signedStore(opUpload, id, body)
		_, err := call(ctx, s.Upload, req)
		return err
	})
	if err != nil {
		return fmt.Errorf("upload KeyPackages: %w", err)
	}
	return nil
}

// mark stores that KeyPackages are about to be uploaded, or were.
func (c *Client) mark(batch []*packageRecord, uploaded bool) error {
	return c.update(func(tx Tx) error {
		for _, r := range batch {
			r.Tried, r.Uploaded = true, uploaded
			if err := write(tx, bucketPackages, r.ref, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// claim is a claim of one set at a domain's store.
type claim struct {
	domain     string
	store      mimimiv1connect.KeyPackageServiceClient
	request    *mimimiv1.ClaimRequest
	set        []*mls.KeyPackage // once it was asked for
	lastResort bool              // the set is a last-resort set
	err        error             // why there is none
}

// prepareClaim makes a claim of the holder of token. Repeated with the same id it gets the same answer.
func (c *Client) prepareClaim(ctx context.Context, domain string, token mimimi.ConnectionToken, id []byte, lastResort bool) (*claim, error) {
	s, err := c.kpStore(ctx, domain)
	if err != nil {
		return nil, err
	}
	return &claim{domain: domain, store: s, request: &mimimiv1.ClaimRequest{RequestId: id, ConnectionToken: token.Bytes(), AllowLastResort: lastResort}}, nil
}

// askOne asks the store, for an anonymous token.
func (c *Client) askOne(ctx context.Context, l *claim) error {
	return c.spend(ctx, mimimi.TokenClaim, l.domain, l.request.RequestId, func(anonymous []byte) error {
		l.request.Token = anonymous
		return l.ask(ctx)
	})
}

// askAll asks the stores, several at a time: the tokens are taken first, one after the other, and a claim whose token is refused is asked anew alone.
func (c *Client) askAll(ctx context.Context, claims []*claim) {
	for _, l := range claims {
		l.request.Token, l.err = c.tokenToShow(ctx, mimimi.TokenClaim, l.domain, l.request.RequestId)
	}
	var wg sync.WaitGroup
	for _, l := range claims {
		if l.err == nil {
			wg.Go(func() { l.err = l.ask(ctx) })
		}
	}
	wg.Wait()
	for _, l := range claims {
		if refusesToken(l.err) {
			l.err = c.askOne(ctx, l)
		}
	}
}

// ask asks the store. It needs nothing of the client, so that several can be under way.
func (l *claim) ask(ctx context.Context) error {
	res, err := call(ctx, l.store.Claim, l.request)
	if err != nil {
		return fmt.Errorf("claim KeyPackages: %w", err)
	}
	for _, b := range res.KeyPackages {
		kp, err := mls.ParseKeyPackage(b)
		if err != nil {
			return fmt.Errorf("claim KeyPackages: %w", ErrIdentity)
		}
		l.set = append(l.set, kp)
	}
	if len(l.set) == 0 {
		return fmt.Errorf("claim KeyPackages: %w", ErrIdentity)
	}
	l.lastResort = res.LastResort
	return nil
}

// claim asks a domain's store for one set of the holder of token. A repeat with the same id gets the same answer.
func (c *Client) claim(ctx context.Context, domain string, token mimimi.ConnectionToken, id []byte, lastResort bool) ([]*mls.KeyPackage, bool, error) {
	l, err := c.prepareClaim(ctx, domain, token, id, lastResort)
	if err != nil {
		return nil, false, err
	}
	if err := c.askOne(ctx, l); err != nil {
		return nil, false, err
	}
	return l.set, l.lastResort, nil
}
