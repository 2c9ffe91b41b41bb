package kpstore

import (
	"bytes"
	"cmp"
	"errors"
	"math"
	"slices"
	"time"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// The rules of protocol.md §8 that an upload can break, besides those that mimimi.CheckKeyPackage names.
var (
	errItems      = problem.New(problem.Invalid, "protocol §8: an upload holds 1 to 64 KeyPackages")
	errClients    = problem.New(problem.Invalid, "protocol §8: a complete set holds 1 to 16 KeyPackages")
	errSize       = problem.New(problem.Invalid, "protocol §8: a KeyPackage holds at most 8192 bytes")
	errTwice      = problem.New(problem.Invalid, "protocol §8: an upload holds one KeyPackage of each user pseudonym")
	errNotFresh   = problem.New(problem.Invalid, "protocol §8: client pseudonym and keys of a KeyPackage are fresh")
	errServed     = problem.New(problem.Invalid, "protocol §8: a user pseudonym that was handed out is not used again")
	errMixed      = problem.New(problem.Invalid, "protocol §8: all KeyPackages of a set are one-time, or all are last-resort")
	errFull       = problem.New(problem.Limited, "protocol §8: the set holds as many KeyPackages as it can")
	errIndexFull  = problem.New(problem.Limited, "protocol §8: the index holds as many sets as it can")
	errRevision   = problem.New(problem.Stale, "the set changed since it was listed: list the sets again")
	errMalformed  = problem.New(problem.Invalid, "protocol §8: a KeyPackage parses")
	errSignatures = problem.New(problem.Invalid, "protocol §8: a KeyPackage's signatures verify")
	errLifetime   = problem.New(problem.Invalid, "protocol §8: a KeyPackage has more than a day of its lifetime left")
)

// item is one KeyPackage of an upload that keeps every rule which needs no memory.
type item struct {
	raw        []byte
	user       string
	client     string
	lastResort bool
	revision   uint64
	notAfter   int64
	fresh      [4][]byte // hashes of what no other KeyPackage of the index may have: client pseudonym, signature, init and encryption key
}

// parseItems checks each KeyPackage of an upload by itself. It returns the first rule that is broken.
func parseItems(in []*v1.UploadItem, domain string, now time.Time) ([]*item, error) {
	if len(in) == 0 || len(in) > maxItems {
		return nil, errItems
	}
	users := make(map[string]bool, len(in))
	items := make([]*item, len(in))
	for i, u := range in {
		it, err := parseItem(u, domain, now)
		if err != nil {
			return nil, err
		}
		if users[it.user] {
			return nil, errTwice
		}
		users[it.user] = true
		items[i] = it
	}
	return items, nil
}

func parseItem(in *v1.UploadItem, domain string, now time.Time) (*item, error) {
	if len(in.GetKeyPackage()) > maxKeyPackage {
		return nil, errSize
	}
	kp, err := mls.ParseKeyPackage(in.GetKeyPackage())
	if err != nil {
		return nil, ruleOf(err)
	}
	pc, err := mimimi.CheckKeyPackage(kp, domain, in.GetLastResort(), now)
	if err != nil {
		return nil, ruleOf(err)
	}
	notAfter, ok := endOf(kp)
	if !ok || notAfter <= now.Add(lifetimeMargin).Unix() {
		return nil, errLifetime
	}
	client := pc.ClientPseudonym.Wire()
	return &item{
		raw: in.GetKeyPackage(), user: pc.UserPseudonym.Wire(), client: client,
		lastResort: in.GetLastResort(), revision: in.GetRevision(), notAfter: notAfter,
		fresh: freshness(client, kp),
	}, nil
}

// endOf returns the end of a KeyPackage's lifetime in seconds since 1970.
func endOf(kp *mls.KeyPackage) (int64, bool) {
	l, ok := kp.Leaf().Lifetime()
	if !ok || l.NotAfter > math.MaxInt64 {
		return 0, false
	}
	return int64(l.NotAfter), true
}

// freshness hashes pseudonym and keys alike, so that one map finds every reuse, a key in another role among them.
func freshness(client string, kp *mls.KeyPackage) [4][]byte {
	leaf := kp.Leaf()
	return [4][]byte{
		derive(labelFresh, []byte(client)), derive(labelFresh, leaf.SignatureKey()),
		derive(labelFresh, kp.InitKey()), derive(labelFresh, leaf.EncryptionKey()),
	}
}

// ruleOf turns an error of pkg/mls or pkg/mimimi about a KeyPackage into one for the uploader. The texts of their rule errors are constants.
func ruleOf(err error) error {
	if e, ok := errors.AsType[*mimimi.RuleError](err); ok {
		return problem.Wrap(problem.Invalid, e.Error(), err)
	}
	if e, ok := errors.AsType[*mls.RuleError](err); ok {
		return problem.Wrap(problem.Invalid, e.Error(), err)
	}
	if errors.Is(err, mls.ErrUnauthenticated) || errors.Is(err, mimimi.ErrUnauthenticated) {
		return errSignatures
	}
	return errMalformed
}

// keySet is a stored set and its place: sequence is the revision that lists, completions and claims name.
type keySet struct {
	*v1.KeyPackageSet
	sequence uint64
	message  *bus.Message // as it is stored; nil for one that was not read with its index
}

// holds says whether the set has exactly this KeyPackage: an upload of it is a repeat.
func (s *keySet) holds(it *item) bool {
	return slices.ContainsFunc(s.GetKeyPackages(), func(k *v1.StoredKeyPackage) bool { return bytes.Equal(k.GetKeyPackage(), it.raw) })
}

// packages returns the set's KeyPackages.
func (s *keySet) packages() [][]byte {
	var out [][]byte
	for _, k := range s.GetKeyPackages() {
		out = append(out, k.GetKeyPackage())
	}
	return out
}

// usable says whether the set may still be handed out.
func (s *keySet) usable(now time.Time) bool {
	return len(s.GetKeyPackages()) > 0 && s.GetNotAfter() > now.Add(lifetimeMargin).Unix()
}

// write is one compare-and-swap that an upload makes: the set as it will be, over expect (0: none).
type write struct {
	set    *v1.KeyPackageSet
	expect uint64
	item   *item
}

// readable says whether every KeyPackage of the set parses.
func (s *keySet) readable() bool {
	return !slices.ContainsFunc(s.GetKeyPackages(), func(k *v1.StoredKeyPackage) bool {
		_, err := mls.ParseKeyPackage(k.GetKeyPackage())
		return err != nil
	})
}

// oneTimeOf counts the one-time sets that keep accepts; nil accepts all.
func oneTimeOf(sets []*keySet, keep func(*keySet) bool) (n int) {
	for _, s := range sets {
		if !s.GetLastResort() && (keep == nil || keep(s)) {
			n++
		}
	}
	return n
}

// plan decides what an upload writes, given all readable sets of the index. Items that are stored already are left out. It returns the first rule that
// is broken, and then nothing is written.
func plan(sets []*keySet, items []*item) ([]write, error) {
	byUser, used, err := survey(sets)
	if err != nil {
		return nil, err
	}
	var writes []write
	starts := 0
	for _, it := range items {
		set := byUser[it.user]
		if set != nil && set.holds(it) {
			continue
		}
		for _, f := range it.fresh {
			if used[string(f)] {
				return nil, errNotFresh
			}
			used[string(f)] = true
		}
		next, expect, err := add(set, it)
		if err != nil {
			return nil, err
		}
		if expect == 0 {
			starts++
		}
		writes = append(writes, write{set: next, expect: expect, item: it})
	}
	if len(sets)+starts > maxSets {
		return nil, errIndexFull
	}
	return writes, nil
}

// survey indexes stored sets by user pseudonym and collects everything that must not come again.
func survey(sets []*keySet) (byUser map[string]*keySet, used map[string]bool, err error) {
	byUser, used = make(map[string]*keySet, len(sets)), make(map[string]bool)
	for _, s := range sets {
		byUser[s.GetUserPseudonym()] = s
		for _, k := range s.GetKeyPackages() {
			kp, err := mls.ParseKeyPackage(k.GetKeyPackage())
			if err != nil {
				return nil, nil, problem.Wrap(problem.Internal, "a stored KeyPackage cannot be read", err)
			}
			for _, f := range freshness(k.GetClientPseudonym(), kp) {
				used[string(f)] = true
			}
		}
	}
	return byUser, used, nil
}

// add returns set with one more KeyPackage, and the revision that it replaces. set is nil for a new one.
func add(set *keySet, it *item) (*v1.KeyPackageSet, uint64, error) {
	stored := &v1.StoredKeyPackage{ClientPseudonym: it.client, KeyPackage: it.raw}
	switch {
	case set == nil && it.revision == 0:
		return &v1.KeyPackageSet{
			UserPseudonym: it.user, LastResort: it.lastResort, NotAfter: it.notAfter, KeyPackages: []*v1.StoredKeyPackage{stored},
		}, 0, nil
	case set == nil || set.sequence != it.revision:
		return nil, 0, errRevision
	case set.GetLastResort() != it.lastResort:
		return nil, 0, errMixed
	case len(set.GetKeyPackages()) >= maxClients:
		return nil, 0, errFull
	}
	return &v1.KeyPackageSet{
		UserPseudonym: it.user, LastResort: it.lastResort, Uses: set.GetUses(), NotAfter: min(set.GetNotAfter(), it.notAfter),
		KeyPackages: append(slices.Clone(set.GetKeyPackages()), stored),
	}, set.sequence, nil
}

// choice is what a claim still may take of an index.
type choice struct {
	*index
	clients int             // size of a complete set
	tried   map[string]bool // user pseudonyms that others were faster to get
}

// oneTime returns the one-time sets left to try, complete ones only if there are any, oldest first.
func (c *choice) oneTime() []*keySet {
	var complete, partial []*keySet
	for _, s := range c.sets {
		switch {
		case s.GetLastResort() || c.tried[s.GetUserPseudonym()]:
		case len(s.GetKeyPackages()) >= c.clients:
			complete = append(complete, s)
		default:
			partial = append(partial, s)
		}
	}
	if len(complete) > 0 {
		return complete
	}
	return partial
}

// hasComplete says whether a complete one-time set is left to try.
func (c *choice) hasComplete() bool {
	left := c.oneTime()
	return len(left) > 0 && len(left[0].GetKeyPackages()) >= c.clients
}

// pick returns the set to try next, nil if nothing is left: the oldest one at first and, once others were faster, any, so that claimers spread out;
// a last-resort set only if lastResort, the least used first and of those the newest.
func (c *choice) pick(lastResort bool, random func(n int) int) *keySet {
	if s := c.oneTime(); len(s) > 0 {
		if len(c.tried) == 0 {
			return s[0]
		}
		return s[random(len(s))]
	}
	var last []*keySet
	for _, s := range c.sets {
		if lastResort && s.GetLastResort() && !c.tried[s.GetUserPseudonym()] {
			last = append(last, s)
		}
	}
	if len(last) == 0 {
		return nil
	}
	return slices.MinFunc(last, func(a, b *keySet) int {
		return cmp.Or(
			-cmp.Compare(min(len(a.GetKeyPackages()), c.clients), min(len(b.GetKeyPackages()), c.clients)), // complete sets first
			cmp.Compare(a.GetUses(), b.GetUses()),
			-cmp.Compare(a.sequence, b.sequence),
		)
	})
}
