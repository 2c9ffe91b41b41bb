package kpstore

import (
	"bytes"
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/problem"
)

var errDeleted = problem.New(problem.Denied, "protocol §8: the index of this write key was deleted")

// withdraw takes sets out of an index and returns those of users that were handed out before, or of which that is not known. It may be repeated.
func (s *store) withdraw(ctx context.Context, owner []byte, users []string) ([]string, error) {
	out := make([]bool, len(users))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for i, user := range users {
		g.Go(func() (err error) {
			out[i], err = s.withdrawOne(ctx, owner, user)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var handedOut []string
	for i, user := range users {
		if out[i] {
			handedOut = append(handedOut, user)
		}
	}
	return handedOut, nil
}

// withdrawOne takes one set out. It belongs to whoever's mark stands in the record of its user pseudonym, as in a claim. Order of the writes, and what a
// crash after each means:
//
//  1. The record of the user pseudonym is created with the index's mark. Conflict: the set was handed out. Crash: nobody gets the set any more; a
//     repeat, or a claim that meets it, removes it.
//  2. The set is removed. Crash: a repeat says the same as long as the record stands.
//
// Only what is in the owner's own index is marked: nobody can bar the pseudonyms of others.
func (s *store) withdrawOne(ctx context.Context, owner []byte, user string) (handedOut bool, err error) {
	set := new(v1.KeyPackageSet)
	rev, err := s.get(ctx, s.setSubject(owner, user), set)
	switch {
	case errors.Is(err, errUnreadable): // it is there, and goes
		rev = 1
	case err != nil:
		return false, err
	}
	mark := withdrawnMark(owner)
	if rev == 0 {
		mine, err := s.servedTo(ctx, user, mark)
		return !mine, err
	}
	_, err = s.put(ctx, s.servedSubject(user), &v1.KeyPackageServed{Claim: mark}, 0, servedFor)
	if problem.KindOf(err) == problem.Stale {
		var mine bool
		mine, err = s.servedTo(ctx, user, mark)
		handedOut = !mine
	}
	if err != nil {
		return false, err
	}
	return handedOut || set.GetUses() > 0, s.removeSet(ctx, owner, user)
}

// servedTo says whether the record of a user pseudonym names this claim, or mark. One that cannot be read names nobody.
func (s *store) servedTo(ctx context.Context, user string, claim []byte) (bool, error) {
	rec := new(v1.KeyPackageServed)
	_, err := s.get(ctx, s.servedSubject(user), rec)
	if errors.Is(err, errUnreadable) {
		return false, nil
	}
	return bytes.Equal(rec.GetClaim(), claim), err
}

// deleteIndex removes everything of an index. It may be repeated, also by another replica, and goes on where it was. Order of the writes, and what a
// crash after each means:
//
//  1. The owner's record says so: from now on nothing is added. Crash: what is there can still be claimed.
//  2. Each alias that it lists is marked as revoked, for as long as a captured registration could be replayed; also one whose registration is still on
//     its way. Crash: the others can still be used to claim.
//  3. All sets go. A claim that had its set before gives it out.
//  4. The owner's record forgets the aliases, and goes by itself after a day.
//
// An upload that passed the check before 1 and writes after 3 leaves a set that nobody can claim, until its lifetime ends.
func (s *store) deleteIndex(ctx context.Context, owner []byte) error {
	rec, rev, err := s.ownerRecord(ctx, owner)
	if err != nil || rev == 0 { // no upload and no alias without it
		return err
	}
	err = s.updateOwner(ctx, owner, func(o *v1.KeyPackageOwner) (bool, error) {
		changed := !o.GetDeleted()
		o.Deleted = true
		rec = o
		return changed, nil
	})
	if err != nil {
		return err
	}
	g, each := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for _, hash := range rec.GetAliases() {
		g.Go(func() error { return s.endAlias(each, owner, hash) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := s.log.Purge(ctx, s.subjects.KeyPackageSets(owner), 0); err != nil {
		return err
	}
	return s.retry(ctx, func() error {
		_, rev, err := s.ownerRecord(ctx, owner)
		if err != nil || rev == 0 {
			return err
		}
		_, err = s.put(ctx, s.ownerSubject(owner), &v1.KeyPackageOwner{Deleted: true}, rev, revokedFor)
		return err
	})
}

// endAlias marks an alias of this owner as revoked, even if it is not there yet.
func (s *store) endAlias(ctx context.Context, owner, tokenHash []byte) error {
	return s.retry(ctx, func() error {
		rec, rev, err := s.alias(ctx, tokenHash)
		if err != nil || rec.GetRevoked() || rev != 0 && !bytes.Equal(rec.GetOwner(), owner) {
			return err
		}
		_, err = s.put(ctx, s.aliasSubject(tokenHash), &v1.KeyPackageAlias{Owner: owner, Revoked: true}, rev, revokedFor)
		return err
	})
}
