package kpstore

import (
	"bytes"
	"context"
	"math/rand/v2"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/problem"
)

var (
	// errNothing is the answer to an unknown token, a revoked one, and one whose index has nothing left, all alike.
	errNothing      = problem.New(problem.Limited, "no KeyPackages are left for this connection token: try again later, or allow last-resort ones")
	errClaimOver    = problem.New(problem.Denied, "protocol §11: the answer to this claim was kept for an hour, and its anonymous token pays for no other")
	errOtherRequest = problem.New(problem.Invalid, "a retry repeats its request unchanged")
)

// claimant is one claim on its way. It lives for one call.
type claimant struct {
	*store
	limits    limits
	issuer    string // domain that issued the token that was spent
	key       []byte // of the claim: request id and token
	tokenHash []byte
	last      bool   // last-resort sets are welcome
	over      bool   // the token was spent so long ago that the answer may be forgotten: there is no second one for it
	owner     []byte // nil until it was looked up
	stocked   uint32 // KeyPackageOwner.stocked
	known     bool   // owner is a real one
	counted   bool
	rereads   int
	choice    *choice // nil until it is needed
	tried     map[string]bool
}

// claim hands out one set.
//
// A one-time set belongs to the claim whose key stands in the record of its user pseudonym, and that record is created once and never changed: so a
// set is handed out at most once, whatever else happens. The order of the writes, and what a crash after each means:
//
//  1. The claim is counted on its alias, then on its token's issuing domain. Crash: it counts twice.
//  2. The answer that is hoped for is written under the claim's key. Crash: nothing is taken; a retry goes on with the same set, if nobody was faster.
//  3. The record of the user pseudonym is created. Conflict: somebody else has the set; it is removed for him, and 2 is done again, by
//     compare-and-swap on the record that could not be kept, with another set. Crash: the set is this claim's; a retry gets it; without a retry within
//     an hour it is burnt, since others who meet it remove it.
//  4. The set is removed. Crash: a retry gets the answer.
//  5. The answer is given. Lost: a retry gets it for an hour.
//
// A last-resort set is counted by compare-and-swap on itself, its pseudonym remembered before, and only then written under the claim's key: a crash
// in between counts one use too many.
//
// Two retries at once both follow the one record of step 2, so they give the same answer.
func (c *claimant) claim(ctx context.Context) (*v1.KeyPackageClaim, error) {
	for range maxClaimSteps {
		rec := new(v1.KeyPackageClaim)
		rev, err := c.get(ctx, c.claimSubject(c.key), rec)
		if err != nil {
			return nil, err
		}
		if rev != 0 {
			mine, err := c.take(ctx, rec)
			if err != nil || mine {
				return rec, err
			}
			c.tried[rec.GetUserPseudonym()] = true
		} else if c.over {
			return nil, errClaimOver
		}
		rec, err = c.offer(ctx, rev)
		if problem.KindOf(err) == problem.Stale {
			// Another retry of this claim, or another claim on the same last-resort set, came first.
			if err := pause(ctx, stepPause); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if rec.GetLastResort() {
			return rec, nil
		}
	}
	return nil, errContended
}

// take says whether the answer that stands under the claim's key is this claim's to give, and makes it so if nobody else has the set.
func (c *claimant) take(ctx context.Context, rec *v1.KeyPackageClaim) (bool, error) {
	if rec.GetAllowLastResort() != c.last {
		return false, errOtherRequest
	}
	if len(rec.GetKeyPackages()) == 0 {
		return false, errUnreadable // no answer of ours is empty
	}
	if rec.GetLastResort() {
		return true, nil // counted before it was recorded
	}
	if err := c.findOwner(ctx); err != nil {
		return false, err
	}
	if !c.known { // revoked since: what was handed out stays so, and no more
		served := new(v1.KeyPackageServed)
		_, err := c.get(ctx, c.servedSubject(rec.GetUserPseudonym()), served)
		return bytes.Equal(served.GetClaim(), c.key), err
	}
	served, err := c.serve(ctx, rec.GetUserPseudonym(), c.key, rec.GetKeyPackages())
	if err != nil {
		return false, err
	}
	return bytes.Equal(served.GetClaim(), c.key), c.removeSet(ctx, c.owner, rec.GetUserPseudonym())
}

// serve remembers a user pseudonym as handed out to a claim (nil: as last resort), unless it is remembered already, and returns what is remembered.
func (c *claimant) serve(ctx context.Context, user string, claim []byte, keyPackages [][]byte) (*v1.KeyPackageServed, error) {
	rec := &v1.KeyPackageServed{Claim: claim}
	for _, kp := range keyPackages {
		rec.Hashes = append(rec.Hashes, digest(kp))
	}
	_, err := c.put(ctx, c.servedSubject(user), rec, 0, servedFor)
	if problem.KindOf(err) != problem.Stale {
		return rec, err
	}
	rec = new(v1.KeyPackageServed)
	rev, err := c.get(ctx, c.servedSubject(user), rec)
	if err == nil && rev == 0 {
		return nil, errContended // it ran out in between
	}
	return rec, err
}

// offer chooses a set and writes it under the claim's key, over the revision rev. It returns problem.Stale if that, or the choice, came too late.
func (c *claimant) offer(ctx context.Context, rev uint64) (*v1.KeyPackageClaim, error) {
	if err := c.look(ctx); err != nil {
		return nil, err
	}
	set := c.choice.pick(c.last, rand.IntN)
	if set == nil {
		return nil, c.nothing(ctx)
	}
	if !set.readable() {
		c.setAside(ctx, c.owner, set.message)
		c.tried[set.GetUserPseudonym()] = true
		return nil, errRevision
	}
	if err := c.count(ctx, rev); err != nil {
		return nil, err
	}
	if set.GetLastResort() {
		if err := c.use(ctx, set); err != nil {
			return nil, err
		}
	}
	rec := &v1.KeyPackageClaim{
		AllowLastResort: c.last, LastResort: set.GetLastResort(), UserPseudonym: set.GetUserPseudonym(), KeyPackages: set.packages(),
	}
	_, err := c.put(ctx, c.claimSubject(c.key), rec, rev, answerFor)
	return rec, err
}

// nothing is errNothing, or problem.Stale for the next try if the index was read from a replica that lags.
func (c *claimant) nothing(ctx context.Context) error {
	behind, err := c.behind(ctx, c.owner, c.choice.index)
	if err != nil {
		return err
	}
	if !behind || c.rereads == maxRereads {
		return errNothing
	}
	c.rereads++
	c.choice = nil
	return errRevision
}

// use counts one more use of a last-resort set. It returns problem.Stale, and forgets what was read of the index, if the set changed since.
func (c *claimant) use(ctx context.Context, set *keySet) error {
	if set.GetUses() == 0 {
		served, err := c.serve(ctx, set.GetUserPseudonym(), nil, set.packages())
		if err != nil {
			return err
		}
		if len(served.GetClaim()) > 0 { // uploaded at the moment at which its pseudonym was handed out
			c.tried[set.GetUserPseudonym()] = true
			if err := c.removeSet(ctx, c.owner, set.GetUserPseudonym()); err != nil {
				return err
			}
			return errRevision
		}
	}
	set.Uses++
	_, err := c.putSet(ctx, c.owner, set.KeyPackageSet, set.sequence)
	if err != nil {
		c.choice = nil
	}
	return err
}

// findOwner looks up whose index the token opens: for an unknown or revoked one, an index that is always empty.
func (c *claimant) findOwner(ctx context.Context) error {
	if c.owner != nil {
		return nil
	}
	rec, rev, err := c.alias(ctx, c.tokenHash)
	if err != nil {
		return err
	}
	c.owner = nobody(c.tokenHash)
	if c.known = rev != 0 && !rec.GetRevoked(); c.known {
		c.owner = rec.GetOwner()
	}
	return nil
}

// look reads the index, as far as it must to find something to try: the same reads whether the token is known or not.
func (c *claimant) look(ctx context.Context) error {
	if c.choice != nil && (c.choice.whole || c.choice.hasComplete()) {
		return nil
	}
	if err := c.findOwner(ctx); err != nil {
		return err
	}
	rec, _, err := c.ownerRecord(ctx, c.owner)
	if err != nil {
		return err
	}
	c.stocked = rec.GetStocked()
	next := &choice{clients: max(int(rec.GetClients()), 1), tried: c.tried}
	next.index, err = c.index(ctx, c.owner, func(sets []*keySet) bool {
		next.index = &index{sets: sets}
		return next.hasComplete()
	})
	if err != nil {
		return err
	}
	c.choice = next
	return nil
}
