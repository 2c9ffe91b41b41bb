package client

import (
	"context"
	"fmt"
	"slices"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

// opWithdraw is the store's operation.
const opWithdraw = "withdraw"

// maxWithdraw is the store's bound on one withdrawal.
const maxWithdraw = 64

// withdrawOld withdraws the sets whose own KeyPackage was made under a former connection key or a certificate that ends, so that nobody gets them any more, and makes the
// stock anew. The private halves are kept: somebody may have claimed a set just before.
func (c *Client) withdrawOld(ctx context.Context) error {
	var old []string
	err := c.view(func(tx Tx) error {
		return each(tx, bucketPackages, func(_ []byte, p *packageRecord) error {
			if !p.Withdrawn && c.staleKey(p) {
				old = append(old, p.Pseudonym)
			}
			return nil
		})
	})
	if err != nil || len(old) == 0 {
		return err
	}
	s, err := c.kpStore(ctx, c.account.user.Domain())
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(old, maxWithdraw) {
		req := &mimimiv1.WithdrawRequest{WriteKey: c.account.writeKey.Public(), UserPseudonyms: batch}
		body, err := mimimiv1.WithdrawBody(req)
		if err != nil {
			return err
		}
		req.Signed = c.signedStore(opWithdraw, newRequestID(), body)
		if _, err := call(ctx, s.Withdraw, req); err != nil {
			return fmt.Errorf("withdraw KeyPackage sets: %w", err)
		}
		if err := c.withdrawn(batch); err != nil {
			return err
		}
	}
	return nil
}

// withdrawn takes note of it, and that the stock must be looked at.
func (c *Client) withdrawn(pseudonyms []string) error {
	return c.update(func(tx Tx) error {
		change := make(map[string]*packageRecord)
		err := each(tx, bucketPackages, func(k []byte, p *packageRecord) error {
			if slices.Contains(pseudonyms, p.Pseudonym) {
				p.Withdrawn, p.Uploaded = true, true
				change[string(k)] = p
			}
			return nil
		})
		if err != nil {
			return err
		}
		for k, p := range change {
			if err := write(tx, bucketPackages, []byte(k), p); err != nil {
				return err
			}
		}
		return write(tx, bucketMeta, keyStock, stockRecord{})
	})
}

// staleKey says whether a KeyPackage was made under a connection key that is not in use any more, or under a certificate that ends before the KeyPackage would.
func (c *Client) staleKey(p *packageRecord) bool {
	if p.KeyNumber != c.account.rec.KeyNumber {
		return true
	}
	end := mimimi.LeafLifetime(c.now()).NotAfter
	return p.CertificateEnd != 0 && uint64(p.CertificateEnd) < end && p.CertificateEnd < c.account.certificate.NotAfter.Unix()
}
