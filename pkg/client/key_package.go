package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// packageRecord is an own KeyPackage with its private halves. It is stored before the KeyPackage is uploaded, and erased when a one-time one is used.
type packageRecord struct {
	Package    []byte `json:"package"`
	Secrets    []byte `json:"secrets"`
	LinkKey    []byte `json:"link_key"`
	Pseudonym  string `json:"pseudonym"` // user pseudonym: the name of the set
	LastResort bool   `json:"last_resort,omitempty"`
	Made       int64  `json:"made"`
	Queue      int    `json:"queue,omitempty"` // accountRecord.QueueNumber when it was made
	// KeyNumber is that of the connection key, CertificateEnd that of the certificate that it was made with.
	KeyNumber      uint64 `json:"key_number,omitempty"`
	CertificateEnd int64  `json:"certificate_end,omitempty"`
	// Tried says that an upload may have reached the store; Uploaded that it did, or that it is given up. The keys are kept either way: somebody may
	// have claimed the set.
	Tried    bool `json:"tried,omitempty"`
	Uploaded bool `json:"uploaded,omitempty"`
}

// stockRecord is what is known of the sets at the store.
type stockRecord struct {
	Checked int64 `json:"checked"` // when they were listed last
	Used    int   `json:"used"`    // own sets seen in use since
}

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
	if found && !r.LastResort {
		if err := tx.Delete(bucketPackages, ref); err != nil {
			return err
		}
	}
	stock, err := readStock(tx)
	if err != nil {
		return err
	}
	stock.Used++
	return write(tx, bucketMeta, keyStock, stock)
}

func readStock(tx Tx) (*stockRecord, error) {
	s, found, err := read[stockRecord](tx, bucketMeta, keyStock)
	if !found && err == nil {
		s = new(stockRecord)
	}
	return s, err
}

// refillStock looks at the stock when enough sets are known to be used, or an hour has passed.
func (c *Client) refillStock(ctx context.Context) error {
	var s *stockRecord
	err := c.view(func(tx Tx) (err error) {
		s, err = readStock(tx)
		return err
	})
	if err != nil {
		return err
	}
	if s.Used*2 <= c.cfg.Stock.OneTime && c.now().Sub(time.Unix(s.Checked, 0)) < stockEvery {
		return nil
	}
	return c.fillStock(ctx)
}

// fillStock lists the sets at the store, makes what is missing (both kinds are filled up once half of them is gone), and uploads. A package that was
// stored but not uploaded, because a crash came between, is uploaded first; one that is in the list was.
func (c *Client) fillStock(ctx context.Context) error {
	listed, err := c.listSets(ctx)
	if err != nil {
		return err
	}
	if err := c.withdrawOld(ctx, listed); err != nil {
		return err
	}
	waiting, err := c.settlePackages(listed)
	if err != nil {
		return err
	}
	oneTime, lastResort := c.countStock(listed)
	for _, w := range waiting {
		if w.LastResort {
			lastResort++
		} else {
			oneTime++
		}
	}
	for _, kind := range []struct {
		have, want int
		lastResort bool
	}{{oneTime, c.cfg.Stock.OneTime, false}, {lastResort, c.cfg.Stock.LastResort, true}} {
		if kind.have*2 > kind.want {
			continue
		}
		made, err := c.makePackages(ctx, kind.want-kind.have, kind.lastResort)
		if err != nil {
			return err
		}
		waiting = append(waiting, made...)
	}
	if err := c.uploadAll(ctx, waiting); err != nil {
		return err
	}
	return c.update(func(tx Tx) error {
		return write(tx, bucketMeta, keyStock, stockRecord{Checked: c.now().Unix()})
	})
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

// settlePackages erases what has expired, marks what is in the list, and returns what still has to be uploaded.
func (c *Client) settlePackages(listed map[string]*mimimiv1.SetSummary) (waiting []*packageRecord, err error) {
	oldest := c.now().Add(-keyPackageFor).Unix()
	err = c.update(func(tx Tx) error {
		waiting = nil
		change := make(map[string]*packageRecord)
		err := each(tx, bucketPackages, func(k []byte, r *packageRecord) error {
			_, at := listed[r.Pseudonym]
			switch {
			case r.Made < oldest:
				change[string(k)] = nil
			case !r.Uploaded && r.Queue != c.account.rec.QueueNumber: // nobody is to be told of it
				r.Uploaded = true
				change[string(k)] = r
			case !r.Uploaded && at:
				r.Uploaded = true
				change[string(k)] = r
			case !r.Uploaded:
				waiting = append(waiting, r)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for k, r := range change {
			if r == nil {
				err = tx.Delete(bucketPackages, []byte(k))
			} else {
				err = write(tx, bucketPackages, []byte(k), r)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return waiting, err
}

// countStock counts the usable sets of each kind: of the last-resort ones those that were never used and are not older than a week.
func (c *Client) countStock(listed map[string]*mimimiv1.SetSummary) (oneTime, lastResort int) {
	fresh := make(map[string]bool)
	limit := c.now().Add(-lastResortFor).Unix()
	packages, err := list[packageRecord](c.store, bucketPackages)
	if err != nil {
		return 0, 0 // the store's next transaction reports it
	}
	for _, p := range packages {
		fresh[p.Pseudonym] = p.Made >= limit
	}
	for pseudonym, set := range listed {
		switch {
		case !set.LastResort:
			oneTime++
		case set.Uses == 0 && fresh[pseudonym]:
			lastResort++
		}
	}
	return oneTime, lastResort
}

// makePackages makes n KeyPackages, each a set of its own, and stores them with their private halves.
func (c *Client) makePackages(ctx context.Context, n int, lastResort bool) ([]*packageRecord, error) {
	doc, err := c.document(ctx, c.account.user.Domain())
	if err != nil {
		return nil, err
	}
	if len(doc.QueueKeys) == 0 {
		return nil, fmt.Errorf("%w: the key document names no queue key", ErrIdentity)
	}
	made := make([]*packageRecord, n)
	refs := make([][]byte, n)
	for i := range made {
		if made[i], refs[i], err = c.makePackage(doc.QueueKeys[len(doc.QueueKeys)-1], lastResort); err != nil {
			return nil, fmt.Errorf("make KeyPackage: %w", err)
		}
	}
	return made, c.update(func(tx Tx) error {
		for i, r := range made {
			if err := write(tx, bucketPackages, refs[i], r); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *Client) makePackage(queueKey mimimi.QueueKey, lastResort bool) (*packageRecord, []byte, error) {
	pseudonym, err := mimimi.NewUserPseudonym(c.account.user.Domain())
	if err != nil {
		return nil, nil, err
	}
	kp, secrets, err := mimimi.NewKeyPackage(mimimi.KeyPackageConfig{
		ConnectionKey: c.account.connectionKey, CertificateKey: c.account.certKey, Certificate: c.account.certificate, UserPseudonym: pseudonym,
		QueueID: c.account.queueID, QueueKey: queueKey, LastResort: lastResort, Now: c.now(),
	})
	if err != nil {
		return nil, nil, err
	}
	cred, err := mimimi.ParsePseudonymousCredential(kp.Leaf().Credential())
	if err != nil {
		return nil, nil, err
	}
	s, err := secrets.MarshalBinary()
	if err != nil {
		return nil, nil, err
	}
	linkKey := cred.LinkKey(c.account.connectionKey).Bytes()
	c.tap(TapLinkKey, linkKey)
	return &packageRecord{Package: kp.Marshal(), Secrets: s, LinkKey: linkKey, Pseudonym: pseudonym.Wire(), LastResort: lastResort,
		Made: c.now().Unix(), Queue: c.account.rec.QueueNumber, KeyNumber: c.account.rec.KeyNumber,
		CertificateEnd: c.account.certificate.NotAfter.Unix()}, kp.Ref(), nil
}

// uploadAll uploads in batches, marked before as tried and after as uploaded. What was tried before and is not in the list goes alone: it may have
// been claimed meanwhile, and is then refused for good.
func (c *Client) uploadAll(ctx context.Context, records []*packageRecord) error {
	var fresh []*packageRecord
	for _, r := range records {
		if !r.Tried {
			fresh = append(fresh, r)
			continue
		}
		if err := c.upload(ctx, []*packageRecord{r}); err != nil && !isFinal(err) {
			return err
		}
		if err := c.mark([]*packageRecord{r}, true); err != nil {
			return err
		}
	}
	for batch := range slices.Chunk(fresh, maxUpload) {
		if err := c.mark(batch, false); err != nil {
			return err
		}
		if err := c.upload(ctx, batch); err != nil {
			return err
		}
		if err := c.mark(batch, true); err != nil {
			return err
		}
	}
	return nil
}

// upload makes one upload.
func (c *Client) upload(ctx context.Context, batch []*packageRecord) error {
	s, err := c.kpStore(ctx, c.account.user.Domain())
	if err != nil {
		return err
	}
	req := &mimimiv1.UploadRequest{WriteKey: c.account.writeKey.Public(), Clients: 1}
	for _, r := range batch {
		req.Items = append(req.Items, &mimimiv1.UploadItem{KeyPackage: r.Package, LastResort: r.LastResort})
	}
	body, err := mimimiv1.UploadBody(req)
	if err != nil {
		return err
	}
	req.Signed = c.signedStore(opUpload, newRequestID(), body)
	if _, err := call(ctx, s.Upload, req); err != nil {
		return fmt.Errorf("upload KeyPackages: %w", err)
	}
	return nil
}

// mark stores that KeyPackages are about to be uploaded, or were.
func (c *Client) mark(batch []*packageRecord, uploaded bool) error {
	return c.update(func(tx Tx) error {
		for _, r := range batch {
			kp, err := mls.ParseKeyPackage(r.Package)
			if err != nil {
				return err
			}
			marked := *r
			marked.Tried, marked.Uploaded = true, uploaded
			if err := write(tx, bucketPackages, kp.Ref(), marked); err != nil {
				return err
			}
		}
		return nil
	})
}

// claim asks a domain's store for one set of the holder of token. A repeat with the same id gets the same answer.
func (c *Client) claim(ctx context.Context, domain string, token mimimi.ConnectionToken, id []byte, lastResort bool) ([]*mls.KeyPackage, bool, error) {
	s, err := c.kpStore(ctx, domain)
	if err != nil {
		return nil, false, err
	}
	res, err := call(ctx, s.Claim, &mimimiv1.ClaimRequest{RequestId: id, ConnectionToken: token.Bytes(), AllowLastResort: lastResort})
	if err != nil {
		return nil, false, fmt.Errorf("claim KeyPackages: %w", err)
	}
	var all []*mls.KeyPackage
	for _, b := range res.KeyPackages {
		kp, err := mls.ParseKeyPackage(b)
		if err != nil {
			return nil, false, fmt.Errorf("claim KeyPackages: %w", ErrIdentity)
		}
		all = append(all, kp)
	}
	if len(all) == 0 {
		return nil, false, fmt.Errorf("claim KeyPackages: %w", ErrIdentity)
	}
	return all, res.LastResort, nil
}

// claimOwn claims one own set from the own store, as anyone would (§8), and returns it with its private halves.
func (c *Client) claimOwn(ctx context.Context, id []byte) (*ownPackage, error) {
	all, _, err := c.claim(ctx, c.account.user.Domain(), c.account.selfToken, id, true)
	if err != nil {
		return nil, err
	}
	p, found, err := c.takePackage(all[0].Ref())
	switch {
	case err != nil:
		return nil, err
	case !found || len(all) != 1:
		return nil, fmt.Errorf("claim an own KeyPackage set: %w", ErrIdentity)
	}
	if cred, err := mimimi.ParsePseudonymousCredential(p.kp.Leaf().Credential()); err == nil {
		c.tap(TapPseudonym, []byte(cred.UserPseudonym.Wire()), []byte(cred.ClientPseudonym.Wire()))
	}
	return p, nil
}
