package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

// opRenewCertificate is the account channel's operation.
const opRenewCertificate = "renew certificate"

// renewAround is over how many days after half of its time a certificate is renewed: accounts of one age must not all come at once.
const renewAround = 30 * 24 * time.Hour

// renewIfDue renews the client's certificate once half of its time is over, over the same key: its fingerprint, which people have compared, stays. The record that others
// fetch follows, since it holds the certificate; leaves follow when they are made anew (§4).
//
// The id of the request is stored before it leaves, so that after a crash the repeat gets the same certificate.
func (c *Client) renewIfDue(ctx context.Context) error {
	r, cert := c.account.rec, c.account.certificate
	if cert == nil {
		return nil
	}
	if r.RenewAt == 0 {
		half := cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 2)
		return c.saveAccount(func(r *accountRecord) { r.RenewAt = half.Add(rand.N(renewAround)).Unix() })
	}
	if c.now().Unix() < r.RenewAt {
		return nil
	}
	if r.RenewID == nil {
		if err := c.saveAccount(func(r *accountRecord) { r.RenewID = newRequestID() }); err != nil {
			return err
		}
	}
	return c.renewCertificate(ctx)
}

func (c *Client) renewCertificate(ctx context.Context) error {
	a := c.account
	key := a.certKey.Public()
	signed := c.signedAccount(opRenewCertificate, a.rec.RenewID, key)
	res, err := call(ctx, c.channels.account.RenewCertificate, &mimimiv1.RenewCertificateRequest{
		Client: a.rec.Client, SignatureKey: key, Proof: signed.Signature, Signed: signed,
	})
	if err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	cert, err := mimimi.ParseClientCertificate(res.Certificate)
	if err != nil || cert.User != a.user || cert.Client != a.client || string(cert.SignatureKey) != string(key) ||
		cert.Verify(a.rec.Provider.IdentityKey, c.now()) != nil || !cert.NotAfter.After(a.certificate.NotAfter) {
		return fmt.Errorf("renew certificate: %w", ErrIdentity)
	}
	c.tap(TapCertificate, res.Certificate)
	return c.update(func(tx Tx) error {
		return errors.Join(dueStock(tx), c.putAccount(tx, func(r *accountRecord) {
			r.Certificate, r.RenewAt, r.RenewID, r.RecordStale = res.Certificate, 0, nil, true
		}))
	})
}
