package kpstore

import (
	"bytes"
	"context"
	"slices"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/problem"
)

var (
	errAliases      = problem.New(problem.Limited, "protocol §8: an index has at most 1024 aliases: revoke some")
	errForeignAlias = problem.New(problem.Denied, "this alias leads to another index, or was revoked: make a new connection token")
)

// registerAlias makes a token hash an alias of an index, for indexFor. It may be repeated, which renews it. Order of the writes, and what a crash after each means:
//
//  1. The alias is listed in the owner's record, which bounds their number. Crash: it takes up a place until it is registered again or revoked.
//  2. The alias is created, or written anew. Crash: it is registered; a repeat says so.
func (s *store) registerAlias(ctx context.Context, owner, tokenHash []byte) error {
	rec, rev, err := s.alias(ctx, tokenHash)
	if err != nil {
		return err
	}
	if rev == 0 {
		rec = &v1.KeyPackageAlias{Owner: owner}
	}
	if err := own(rec, owner); err != nil {
		return err
	}
	err = s.updateOwner(ctx, owner, func(o *v1.KeyPackageOwner) (bool, error) {
		if o.GetDeleted() {
			return false, errDeleted
		}
		if listed(o, tokenHash) >= 0 {
			return true, nil // the record is renewed
		}
		if len(o.GetAliases()) >= maxAliases {
			return false, errAliases
		}
		o.Aliases = append(o.Aliases, tokenHash)
		return true, nil
	})
	if err != nil {
		return err
	}
	_, err = s.put(ctx, s.aliasSubject(tokenHash), rec, rev, indexFor)
	if problem.KindOf(err) != problem.Stale {
		return err
	}
	// Somebody, perhaps this very request at another replica, or a claim, was first.
	if rec, _, err = s.alias(ctx, tokenHash); err != nil {
		return err
	}
	return own(rec, owner)
}

// revokeAlias ends an alias at once: every claim reads it before anything is taken. It may be repeated. Order of the writes, and what a crash after
// each means:
//
//  1. The alias is marked as revoked, for as long as a captured registration could be replayed. Crash: it is revoked, and still takes up a place.
//  2. It is struck off the owner's record.
func (s *store) revokeAlias(ctx context.Context, owner, tokenHash []byte) error {
	err := s.retry(ctx, func() error {
		rec, rev, err := s.alias(ctx, tokenHash)
		if err != nil || rev == 0 || rec.GetRevoked() {
			return err
		}
		if err := own(rec, owner); err != nil {
			return err
		}
		_, err = s.put(ctx, s.aliasSubject(tokenHash), &v1.KeyPackageAlias{Owner: owner, Revoked: true}, rev, revokedFor)
		return err
	})
	if err != nil {
		return err
	}
	return s.updateOwner(ctx, owner, func(o *v1.KeyPackageOwner) (bool, error) {
		i := listed(o, tokenHash)
		if i < 0 {
			return false, nil
		}
		o.Aliases = slices.Delete(o.Aliases, i, i+1)
		return true, nil
	})
}

// own says whether an alias is one of this owner and in force.
func own(rec *v1.KeyPackageAlias, owner []byte) error {
	if rec.GetRevoked() || !bytes.Equal(rec.GetOwner(), owner) {
		return errForeignAlias
	}
	return nil
}

func listed(o *v1.KeyPackageOwner, tokenHash []byte) int {
	return slices.IndexFunc(o.GetAliases(), func(a []byte) bool { return bytes.Equal(a, tokenHash) })
}
