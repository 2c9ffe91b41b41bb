package kpstore

import (
	"context"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/problem"
)

var (
	errTooMany       = problem.New(problem.Limited, "this connection token has claimed as much as it may within an hour: try again later")
	errTooManyIssuer = problem.New(problem.Limited, "the domain that issued this anonymous token has claimed as much of this user's stock as it may within an hour: try again later")
)

// limits bound the claims of one hour.
type limits struct {
	perAlias  uint32 // by one connection token
	perIssuer uint32 // on one index, paid with tokens of one issuing domain
}

// count adds this claim to its alias's hour and to that of its token's issuing domain at the index, once. A claim that was recorded before (rev) was
// counted before. One that the second limit refuses stays counted by the first.
func (c *claimant) count(ctx context.Context, rev uint64) error {
	if c.counted || rev != 0 {
		return nil
	}
	if err := c.countAlias(ctx); err != nil {
		return err
	}
	if err := c.countIssuer(ctx); err != nil {
		return err
	}
	c.counted = true
	return nil
}

func (c *claimant) hour() int64 { return c.now().Unix() / 3600 }

func (c *claimant) countAlias(ctx context.Context) error {
	return c.retry(ctx, func() error {
		rec, rev, err := c.alias(ctx, c.tokenHash)
		if err != nil {
			return err
		}
		if rev == 0 || rec.GetRevoked() {
			return errNothing
		}
		if rec.GetHour() != c.hour() {
			rec.Hour, rec.Claims = c.hour(), 0
		}
		if rec.GetClaims() >= c.limits.perAlias {
			return errTooMany
		}
		rec.Claims++
		_, err = c.put(ctx, c.aliasSubject(c.tokenHash), rec, rev, indexFor)
		return err
	})
}

// countIssuer counts nothing while it is not known who issued the token.
func (c *claimant) countIssuer(ctx context.Context) error {
	if c.issuer == "" {
		return nil
	}
	subject := c.issuerSubject(c.owner, c.issuer)
	return c.retry(ctx, func() error {
		rec := new(v1.KeyPackageCount)
		rev, err := c.get(ctx, subject, rec)
		if err != nil {
			return err
		}
		if rec.GetHour() != c.hour() {
			rec.Hour, rec.Claims = c.hour(), 0
		}
		if rec.GetClaims() >= c.limits.perIssuer {
			return errTooManyIssuer
		}
		rec.Claims++
		_, err = c.put(ctx, subject, rec, rev, countFor)
		return err
	})
}
