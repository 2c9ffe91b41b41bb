package kpstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"slices"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/problem"
)

// upload stores the KeyPackages of one request in an index. clients is how many make a complete set from now on. All items are checked, also
// against what is stored, before the first one is written; items that are stored already, or were
// and have been handed out, are left out, so that a repeat succeeds. Order of the
// writes, and what a crash after each means:
//
//  1. The size of a complete set and how many one-time sets there will be, if that changed. Crash: sets of another size count as incomplete until the
//     upload is repeated, and are claimed last; the owner is told of a low stock somewhat early.
//  2. Each item by compare-and-swap: on nothing for a new set, on the revision that was listed for one that it completes. Crash: the items before are
//     stored, and may be claimed; a repeat goes on after them.
//
// A claim between the check and the write cannot be harmed: a set whose pseudonym was handed out is handed out to nobody else (claim), so one that
// comes back by such a race is only removed when a claim meets it.
func (s *store) upload(ctx context.Context, owner []byte, items []*item, clients uint32) error {
	in, err := s.index(ctx, owner, nil)
	if err != nil {
		return err
	}
	in.sets = s.readable(ctx, owner, in.sets)
	if items, err = s.unserved(ctx, in.sets, items); err != nil {
		return err
	}
	writes, err := plan(in.sets, items)
	if err != nil {
		return err
	}
	err = s.updateOwner(ctx, owner, func(o *v1.KeyPackageOwner) (bool, error) {
		if o.GetDeleted() {
			return false, errDeleted
		}
		changed := o.GetClients() != clients
		o.Clients = clients
		if n := started(writes); n > 0 {
			stocked := uint32(oneTimeOf(in.sets, nil) + n)
			changed = changed || o.GetStocked() != stocked
			o.Stocked = stocked
		}
		return changed, nil
	})
	if err != nil {
		return err
	}
	for _, w := range writes {
		if err := s.write(ctx, owner, w); err != nil {
			return err
		}
	}
	return nil
}

// started counts the one-time sets that writes begin.
func started(writes []write) (n int) {
	for _, w := range writes {
		if w.expect == 0 && !w.set.GetLastResort() {
			n++
		}
	}
	return n
}

// unserved returns the items that are neither stored nor were handed out. It refuses others whose user pseudonym was handed out or
// withdrawn within 100 days; one that was to complete a set lost a race, no more.
func (s *store) unserved(ctx context.Context, sets []*keySet, items []*item) ([]*item, error) {
	var out []*item
	for _, it := range items {
		if slices.ContainsFunc(sets, func(set *keySet) bool { return set.holds(it) }) {
			continue
		}
		served := new(v1.KeyPackageServed)
		rev, err := s.get(ctx, s.servedSubject(it.user), served)
		switch {
		case err != nil:
			return nil, err
		case rev == 0:
			out = append(out, it)
		case !slices.ContainsFunc(served.GetHashes(), func(h []byte) bool { return bytes.Equal(h, digest(it.raw)) }):
			if it.revision != 0 {
				return nil, errRevision
			}
			return nil, errServed
		}
	}
	return out, nil
}

// digest is how a KeyPackage that was handed out is remembered.
func digest(keyPackage []byte) []byte {
	sum := sha256.Sum256(keyPackage)
	return sum[:]
}

// write makes one compare-and-swap. A conflict is success if the set there has the KeyPackage: a retry, or the same request at another replica, was
// first.
func (s *store) write(ctx context.Context, owner []byte, w write) error {
	_, err := s.putSet(ctx, owner, w.set, w.expect)
	if problem.KindOf(err) != problem.Stale {
		return err
	}
	there := &keySet{KeyPackageSet: new(v1.KeyPackageSet)}
	if _, err := s.get(ctx, s.setSubject(owner, w.item.user), there.KeyPackageSet); err != nil {
		return err
	}
	if there.holds(w.item) {
		return nil
	}
	return errRevision
}
