package kpstore

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

func parsePseudonym(s string) (mimimi.UserPseudonym, error) { return mimimi.ParseUserPseudonym(s) }

// started uploads one set of one KeyPackage and returns its pseudonym and its summary.
func (u *user) started(h *handler, lastResort bool) (mimimi.UserPseudonym, *v1.SetSummary) {
	u.Helper()
	p := must(mimimi.NewUserPseudonym(domain))
	u.mustUpload(h, 2, &v1.UploadItem{KeyPackage: u.keyPackage(p, lastResort).Marshal(), LastResort: lastResort})
	for _, s := range u.list(h) {
		if s.GetUserPseudonym() == p.Wire() {
			return p, s
		}
	}
	u.Fatal("an uploaded set is not listed")
	return p, nil
}

func TestUploadAndList(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u := w.user(domain)
	p, s := u.started(h, true)
	u.mustUpload(h, 2, &v1.UploadItem{KeyPackage: u.keyPackage(p, true).Marshal(), LastResort: true, Revision: s.GetRevision()})
	sets := u.list(h)
	if len(sets) != 1 || len(sets[0].GetClientPseudonyms()) != 2 || !sets[0].GetLastResort() || sets[0].GetRevision() <= s.GetRevision() {
		t.Errorf("listed: %v", sets)
	}
	if n := len(w.user(domain).list(h)); n != 0 {
		t.Errorf("another owner sees %d sets", n)
	}
}

// Two clients complete one set as they both listed it: one succeeds, the other must list again. A repeat succeeds, even after a later change.
func TestCompleteRace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	replicas := []*handler{w.replica(), w.replica()}
	u := w.user(domain)
	for range 5 {
		p, s := u.started(replicas[0], false)
		reqs := [2]*v1.UploadRequest{}
		errs := [2]error{}
		var wg sync.WaitGroup
		for i := range reqs {
			reqs[i] = u.uploadRequest(3, &v1.UploadItem{KeyPackage: u.keyPackage(p, false).Marshal(), Revision: s.GetRevision()})
			wg.Go(func() { errs[i] = replicas[i].upload(t.Context(), reqs[i]) })
		}
		wg.Wait()
		won, lost := 0, 1
		if errs[0] != nil {
			won, lost = 1, 0
		}
		if errs[won] != nil || problem.KindOf(errs[lost]) != problem.Stale {
			t.Fatalf("completions: %v", errs)
		}
		for _, h := range replicas {
			if err := h.upload(t.Context(), reqs[won]); err != nil {
				t.Errorf("repeat: %v", err)
			}
		}
		for _, s := range u.list(replicas[1]) {
			if s.GetUserPseudonym() == p.Wire() && len(s.GetClientPseudonyms()) != 2 {
				t.Errorf("the set has %d clients", len(s.GetClientPseudonyms()))
			}
		}
	}
}

// A completion and a claim of the same set: whatever comes first, the set is handed out once, and never again by what the completion wrote.
func TestCompleteAgainstClaim(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	replicas := []*handler{w.replica(), w.replica()}
	u := w.user(domain)
	token := u.token(replicas[0])
	for range 10 {
		p, s := u.started(replicas[0], false)
		req := u.uploadRequest(2, &v1.UploadItem{KeyPackage: u.keyPackage(p, false).Marshal(), Revision: s.GetRevision()})
		var wg sync.WaitGroup
		var claimed *v1.ClaimResponse
		var errClaim, errUpload error
		wg.Go(func() { claimed, errClaim = replicas[0].claim(t.Context(), claimOf(token, false)) })
		wg.Go(func() { errUpload = replicas[1].upload(t.Context(), req) })
		wg.Wait()
		if errClaim != nil || pseudonym(t, claimed) != p.Wire() {
			t.Fatalf("claim: %v", errClaim)
		}
		if errUpload != nil && problem.KindOf(errUpload) != problem.Stale && !errors.Is(errUpload, errServed) {
			t.Fatalf("upload: %v", errUpload)
		}
		if _, err := replicas[1].claim(t.Context(), claimOf(token, true)); !errors.Is(err, errNothing) {
			t.Fatalf("the set came back: %v", err)
		}
	}
}

// TestUploadRules breaks what the store checks of an upload, one thing at a time, beside what it has stored: one table.
func TestUploadRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u := w.user(domain)
	stored, sum := u.started(h, false)
	lastP, lastSum := u.started(h, true)
	first := u.item(false)
	u.mustUpload(h, 2, first)

	servedP := must(mimimi.NewUserPseudonym(domain))
	served, late := &v1.UploadItem{KeyPackage: u.keyPackage(servedP, false).Marshal()}, &v1.UploadItem{KeyPackage: u.keyPackage(servedP, false).Marshal()}
	u2 := w.user(domain) // an index of its own, so that the claim takes just this one
	u2.mustUpload(h, 1, served)
	if _, err := h.claim(t.Context(), claimOf(u2.token(h), false)); err != nil {
		t.Fatal(err)
	}

	tampered := u.item(false)
	tampered.KeyPackage[len(tampered.KeyPackage)-1] ^= 1
	fake := func(it *v1.UploadItem, change func(*v1.UploadItem)) *v1.UploadItem {
		it = proto.CloneOf(it)
		change(it)
		return it
	}
	p := must(mimimi.NewUserPseudonym(domain))
	twoOfOne := []*v1.UploadItem{{KeyPackage: u.keyPackage(p, false).Marshal()}, {KeyPackage: u.keyPackage(p, false).Marshal()}}
	old := *u
	old.world = &world{T: t, domain: w.domain, now: w.now.Add(-60 * 24 * time.Hour)}

	tests := []struct {
		name  string
		items []*v1.UploadItem
		want  error
		kind  problem.Kind
	}{
		{"none", nil, errItems, problem.Invalid},
		{"too many", make([]*v1.UploadItem, maxItems+1), errItems, problem.Invalid},
		{"garbage", []*v1.UploadItem{{KeyPackage: []byte("garbage")}}, errMalformed, problem.Invalid},
		{"empty", []*v1.UploadItem{{}}, errMalformed, problem.Invalid},
		{"truncated", []*v1.UploadItem{fake(u.item(false), func(i *v1.UploadItem) { i.KeyPackage = i.KeyPackage[:len(i.KeyPackage)-1] })}, errMalformed, problem.Invalid},
		{"oversized", []*v1.UploadItem{{KeyPackage: make([]byte, maxKeyPackage+1)}}, errSize, problem.Invalid},
		{"signature", []*v1.UploadItem{tampered}, errSignatures, problem.Invalid},
		{"one-time said to be last-resort", []*v1.UploadItem{fake(u.item(false), func(i *v1.UploadItem) { i.LastResort = true })}, nil, problem.Invalid},
		{"last-resort said to be one-time", []*v1.UploadItem{fake(u.item(true), func(i *v1.UploadItem) { i.LastResort = false })}, nil, problem.Invalid},
		{"wrong domain", []*v1.UploadItem{w.user("b.example").item(false)}, nil, problem.Invalid},
		{"old week", []*v1.UploadItem{old.item(false)}, nil, problem.Invalid},
		{"two of one pseudonym", twoOfOne, errTwice, problem.Invalid},
		{"started again", []*v1.UploadItem{{KeyPackage: u.keyPackage(stored, false).Marshal()}}, errRevision, problem.Stale},
		{"wrong revision", []*v1.UploadItem{{KeyPackage: u.keyPackage(stored, false).Marshal(), Revision: sum.GetRevision() + 1}}, errRevision, problem.Stale},
		{"completes nothing", []*v1.UploadItem{fake(u.item(false), func(i *v1.UploadItem) { i.Revision = 7 })}, errRevision, problem.Stale},
		{"mixed", []*v1.UploadItem{{KeyPackage: u.keyPackage(lastP, false).Marshal(), Revision: lastSum.GetRevision()}}, errMixed, problem.Invalid},
		{"served, started again", []*v1.UploadItem{late}, errServed, problem.Invalid},
	}
	before := fmt.Sprint(len(u.list(h)))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			items := append([]*v1.UploadItem{}, tt.items...)
			if len(items) > 0 && len(items) < maxItems {
				items = append([]*v1.UploadItem{u.item(false)}, items...) // a good one first: nothing of a bad request is stored
			}
			err := u.upload(h, 2, items...)
			if err == nil || problem.KindOf(err) != tt.kind || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v", err)
			}
			if after := fmt.Sprint(len(u.list(h))); after != before {
				t.Errorf("the index changed: %s sets, then %s", before, after)
			}
		})
	}
	t.Run("what was handed out is uploaded again", func(t *testing.T) {
		u2.mustUpload(h, 1, served, u2.item(true))
		if sets := u2.list(h); len(sets) != 1 || !sets[0].GetLastResort() {
			t.Errorf("%d sets, want the new one alone", len(sets))
		}
	})
	t.Run("clients", func(t *testing.T) {
		for _, n := range []uint32{0, maxClients + 1} {
			if err := u.upload(h, n, u.item(false)); !errors.Is(err, errClients) {
				t.Errorf("%d clients: %v", n, err)
			}
		}
	})
}

// Freshness is a matter of what is stored: client pseudonym and each key may not come again, in whatever role.
func TestPlanFreshness(t *testing.T) {
	t.Parallel()
	base := &item{raw: []byte{1}, user: "u1", client: "c1", fresh: [4][]byte{{1}, {2}, {3}, {4}}}
	for i := range base.fresh {
		for j := range base.fresh {
			again := &item{raw: []byte{2}, user: "u2", client: "c2", fresh: [4][]byte{{5}, {6}, {7}, {8}}}
			again.fresh[j] = base.fresh[i]
			if _, err := plan(nil, []*item{base, again}); !errors.Is(err, errNotFresh) {
				t.Errorf("value %d again as %d: %v", i, j, err)
			}
		}
	}
	w := newWorld(t)
	h := w.replica()
	u := w.user(domain)
	it := u.item(false)
	u.mustUpload(h, 1, it)
	parsed := must(parseItem(it, domain, w.now))
	parsed.user, parsed.raw = "another", []byte{9}
	in, err := h.store.index(t.Context(), ownerOf(u.key.Public()), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan(in.sets, []*item{parsed}); !errors.Is(err, errNotFresh) {
		t.Errorf("against what is stored: %v", err)
	}
}

func TestPlanBounds(t *testing.T) {
	t.Parallel()
	full := &keySet{KeyPackageSet: &v1.KeyPackageSet{UserPseudonym: "u"}, sequence: 3}
	for range maxClients {
		full.KeyPackages = append(full.KeyPackages, &v1.StoredKeyPackage{})
	}
	if _, _, err := add(full, &item{user: "u", revision: 3}); !errors.Is(err, errFull) {
		t.Errorf("a full set: %v", err)
	}
	sets := make([]*keySet, maxSets)
	for i := range sets {
		sets[i] = &keySet{KeyPackageSet: &v1.KeyPackageSet{UserPseudonym: fmt.Sprint(i)}, sequence: uint64(i + 1)}
	}
	it := &item{user: "new", fresh: [4][]byte{{1}, {2}, {3}, {4}}}
	if _, err := plan(sets, []*item{it}); !errors.Is(err, errIndexFull) {
		t.Errorf("a full index: %v", err)
	}
	it.user, it.revision = "5", 6
	if w, err := plan(sets, []*item{it}); err != nil || len(w) != 1 || w[0].expect != 6 {
		t.Errorf("completing in a full index: %v", err)
	}
}

// An upload fails at each of its writes, with and without the write being stored: the same upload again makes it whole.
func TestUploadFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	for _, persist := range []bool{false, true} {
		for at := 1; ; at++ {
			u := w.user(domain)
			p, s := u.started(h, false)
			req := u.uploadRequest(3, u.item(false), &v1.UploadItem{KeyPackage: u.keyPackage(p, false).Marshal(), Revision: s.GetRevision()}, u.item(true))
			broken, f := withFault(h, at, persist)
			err := broken.upload(t.Context(), req)
			if f.writes < at {
				if at != 5 {
					t.Errorf("the upload makes %d writes, want 4", at-1)
				}
				break
			}
			if !errors.Is(err, errInjected) {
				t.Fatalf("write %d: %v", at, err)
			}
			if err := h.upload(t.Context(), req); err != nil {
				t.Errorf("write %d, persisted %v: repeat: %v", at, persist, err)
			}
			kps := 0
			for _, s := range u.list(h) {
				kps += len(s.GetClientPseudonyms())
			}
			if n := len(u.list(h)); n != 3 || kps != 4 {
				t.Errorf("write %d, persisted %v: %d sets and %d KeyPackages, want 3 and 4", at, persist, n, kps)
			}
		}
	}
}
