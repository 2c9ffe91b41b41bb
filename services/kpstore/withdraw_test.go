package kpstore

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// names are the user pseudonyms of what is listed.
func names(sets []*v1.SetSummary) (all []string) {
	for _, s := range sets {
		all = append(all, s.GetUserPseudonym())
	}
	return all
}

// A withdrawn set is not handed out and does not come back; the owner learns which were handed out before.
func TestWithdraw(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u := w.user(domain)
	token := u.token(h)
	items := u.items(3, 2)
	u.mustUpload(h, 1, items...)
	claimed := pseudonym(t, must(h.claim(t.Context(), claimOf(token, false))))
	before := names(u.list(h)) // two one-time sets, two last-resort ones
	ask := append([]string{claimed}, before...)
	for range 2 { // a repeat says the same
		got := must(u.withdraw(h, ask...))
		if !slices.Equal(got, []string{claimed}) {
			t.Fatalf("%d count as handed out, want the claimed one", len(got))
		}
	}
	if n := len(u.list(h)); n != 0 {
		t.Errorf("%d sets are left", n)
	}
	if _, err := h.claim(t.Context(), claimOf(token, true)); !errors.Is(err, errNothing) {
		t.Errorf("claim: %v", err)
	}
	if err := u.upload(h, 1, items[0], items[1], items[2]); !errors.Is(err, errServed) {
		t.Errorf("the same KeyPackages again: %v", err)
	}
	p := must(parsePseudonym(before[0]))
	if err := u.upload(h, 1, &v1.UploadItem{KeyPackage: u.keyPackage(p, false).Marshal()}); !errors.Is(err, errServed) {
		t.Errorf("the pseudonym again: %v", err)
	}
	if err := u.upload(h, 1, &v1.UploadItem{KeyPackage: u.keyPackage(p, false).Marshal(), Revision: 7}); !errors.Is(err, errRevision) {
		t.Errorf("completing what is gone: %v", err)
	}
}

// A last-resort set that was used was handed out, whoever asks and however often it was used.
func TestWithdrawLastResort(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u := w.user(domain)
	token := u.token(h)
	u.mustUpload(h, 1, u.items(0, 2)...)
	used := pseudonym(t, must(h.claim(t.Context(), claimOf(token, true))))
	if got := must(u.withdraw(h, names(u.list(h))...)); !slices.Equal(got, []string{used}) {
		t.Errorf("%d count as handed out, want the used one", len(got))
	}
}

// Nobody withdraws another's sets or bars another's pseudonyms, and what does not parse is refused.
func TestWithdrawRules(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u, other := w.user(domain), w.user(domain)
	u.mustUpload(h, 1, u.items(3, 0)...)
	listed := names(u.list(h))
	if got := must(other.withdraw(h, listed...)); len(got) != 3 {
		t.Errorf("another's sets: %d count as handed out, want all", len(got))
	}
	pseudonym(t, must(h.claim(t.Context(), claimOf(u.token(h), false))))
	fresh := must(mimimi.NewUserPseudonym(domain))
	if got := must(other.withdraw(h, fresh.Wire())); len(got) != 1 {
		t.Error("what is not known may have been handed out")
	}
	if err := u.upload(h, 1, &v1.UploadItem{KeyPackage: u.keyPackage(fresh, false).Marshal()}); err != nil {
		t.Errorf("a pseudonym that somebody else named: %v", err)
	}
	foreign := must(mimimi.NewUserPseudonym("b.example")).Wire()
	for name, p := range map[string][]string{"none": nil, "too many": slices.Repeat(listed, 33), "garbage": {"x"}, "another domain": {foreign}} {
		if _, err := u.withdraw(h, p...); !errors.Is(err, errWithdrawn) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(r *v1.WithdrawRequest){
		"another body":        func(r *v1.WithdrawRequest) { r.UserPseudonyms = r.UserPseudonyms[:1] },
		"another's signature": func(r *v1.WithdrawRequest) { r.Signed = other.withdrawRequest(listed...).Signed },
		"another key":         func(r *v1.WithdrawRequest) { r.WriteKey = other.key.Public() },
		"another operation":   func(r *v1.WithdrawRequest) { r.Signed = u.sign(opUpload, must(v1.WithdrawBody(r))) },
	} {
		r := u.withdrawRequest(listed...)
		change(r)
		if _, err := h.withdraw(t.Context(), r); problem.KindOf(err) != problem.Denied {
			t.Errorf("%s: %v", name, err)
		}
		d := &v1.DeleteIndexRequest{WriteKey: u.key.Public(), Signed: r.Signed}
		if err := h.deleteIndex(t.Context(), d); problem.KindOf(err) != problem.Denied {
			t.Errorf("deletion with the proof of something else, %s: %v", name, err)
		}
	}
	if n := len(u.list(h)); n != 3 {
		t.Errorf("%d sets are left, want all 3", n)
	}
}

// What was handed out does not come back by a completion that is late: not as it was listed, not if it slips in between check and write.
func TestLateCompletion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u := w.user(domain)
	token := u.token(h)
	u.mustUpload(h, 2, u.item(false))
	set := u.list(h)[0]
	p := must(parsePseudonym(set.GetUserPseudonym()))
	late := u.keyPackage(p, false).Marshal()
	first := pseudonym(t, must(h.claim(t.Context(), claimOf(token, false))))
	for _, revision := range []uint64{set.GetRevision(), set.GetRevision() + 1} {
		err := u.upload(h, 2, &v1.UploadItem{KeyPackage: late, Revision: revision})
		if !errors.Is(err, errRevision) {
			t.Errorf("a late completion: %v", err)
		}
	}
	if err := u.upload(h, 2, &v1.UploadItem{KeyPackage: late}); !errors.Is(err, errServed) {
		t.Errorf("as a set of its own: %v", err)
	}
	// The same, as if the claim had come between an upload's check and its write.
	_, err := h.store.putSet(t.Context(), ownerOf(u.key.Public()), &v1.KeyPackageSet{
		UserPseudonym: first, NotAfter: w.now.Add(80 * 24 * time.Hour).Unix(), KeyPackages: []*v1.StoredKeyPackage{{ClientPseudonym: "x", KeyPackage: late}},
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.claim(t.Context(), claimOf(token, true)); !errors.Is(err, errNothing) {
		t.Errorf("a served pseudonym came back: %v", err)
	}
	if n := len(u.list(h)); n != 0 {
		t.Errorf("%d sets are left", n)
	}
}

// A contact who claims all it can, with the limits as they are by default, leaves enough for another one.
func TestExhaustion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	h.limits = (&Config{}).limits()
	u := w.user(domain)
	u.mustUpload(h, 1, u.items(50, 3)...)
	greedy, other := u.token(h), u.token(h)
	got := 0
	for range 64 {
		_, err := h.claim(t.Context(), claimOf(greedy, true))
		switch {
		case err == nil:
			got++
		case !errors.Is(err, errTooMany):
			t.Fatal(err)
		}
	}
	if got != defaultClaimsPerHour {
		t.Errorf("%d sets for one contact, want %d", got, defaultClaimsPerHour)
	}
	for range 50 - defaultClaimsPerHour {
		if r := must(h.claim(t.Context(), claimOf(other, true))); r.GetLastResort() {
			t.Fatal("one contact left the other nothing but last resort")
		}
	}
}

// Claims and a withdrawal at once, at two replicas: each set is a claim's or withdrawn, and the owner is told the truth.
func TestWithdrawRace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	replicas := []*handler{w.replica(), w.replica()}
	u := w.user(domain)
	const sets = 20
	u.mustUpload(replicas[0], 1, u.items(sets, 0)...)
	listed := names(u.list(replicas[0]))
	token := u.token(replicas[0])
	var mu sync.Mutex
	claimed := map[string]bool{}
	var handedOut []string
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 2 {
				r, err := replicas[i%2].claim(t.Context(), claimOf(token, false))
				if err != nil {
					if !errors.Is(err, errNothing) {
						t.Errorf("claim: %v", err)
					}
					return
				}
				mu.Lock()
				claimed[pseudonym(t, r)] = true
				mu.Unlock()
			}
		})
	}
	wg.Go(func() {
		var err error
		if handedOut, err = u.withdraw(replicas[1], listed...); err != nil {
			t.Errorf("withdraw: %v", err)
		}
	})
	wg.Wait()
	for _, p := range handedOut {
		if !claimed[p] {
			t.Error("a set counts as handed out and nobody has it")
		}
	}
	if len(handedOut) != len(claimed) {
		t.Errorf("%d sets were claimed, the owner was told of %d", len(claimed), len(handedOut))
	}
	if n := len(u.list(replicas[0])); n != 0 {
		t.Errorf("%d sets are left", n)
	}
}

// A withdrawal fails at each of its writes; a repeat finishes it and says the same, and nobody got the set meanwhile.
func TestWithdrawFaults(t *testing.T) {
	t.Parallel()
	for _, persist := range []bool{false, true} {
		w := newWorld(t)
		h := w.replica()
		for at := 1; ; at++ {
			u := w.user(domain)
			token := u.token(h)
			u.mustUpload(h, 1, u.items(1, 0)...)
			listed := names(u.list(h))
			broken, f := withFault(h, at, persist)
			_, err := u.withdraw(broken, listed...)
			if f.writes < at {
				if at != 3 {
					t.Errorf("a withdrawal makes %d writes, want 2", at-1)
				}
				break
			}
			if !errors.Is(err, errInjected) {
				t.Fatalf("write %d: %v", at, err)
			}
			if persist || at == 2 { // marked: it is nobody's
				if _, err := h.claim(t.Context(), claimOf(token, true)); !errors.Is(err, errNothing) {
					t.Errorf("write %d, persisted %v: claim: %v", at, persist, err)
				}
			}
			if got := must(u.withdraw(h, listed...)); len(got) != 0 {
				t.Errorf("write %d, persisted %v: the repeat says that it was handed out", at, persist)
			}
			if n := len(u.list(h)); n != 0 {
				t.Errorf("write %d, persisted %v: %d sets are left", at, persist, n)
			}
		}
	}
}

// A claim that crashed after it chose a set: if the owner withdraws the set, the retry gets another one.
func TestWithdrawBetweenRetries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u := w.user(domain)
	token := u.token(h)
	u.mustUpload(h, 1, u.items(1, 0)...)
	broken, _ := withFault(h, 2, true) // the recorded offer
	req := claimOf(token, false)
	if _, err := broken.claim(t.Context(), req); !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	first := names(u.list(h))
	if got := must(u.withdraw(h, first...)); len(got) != 0 {
		t.Error("a set that nobody was answered with counts as handed out")
	}
	u.mustUpload(h, 1, u.items(1, 0)...)
	if pseudonym(t, must(h.claim(t.Context(), req))) == first[0] {
		t.Error("a withdrawn set was handed out")
	}
}

// Deleting an index ends its sets and aliases, and nothing brings it back while a captured request could.
func TestDeleteIndex(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u, other := w.user(domain), w.user(domain)
	tokens := [][]byte{u.token(h), u.token(h)}
	u.mustUpload(h, 1, u.items(3, 1)...)
	other.mustUpload(h, 1, other.items(1, 0)...)
	kept := other.token(h)
	captured := u.uploadRequest(1, u.item(false))
	for range 2 {
		if err := u.deleteIndex(h); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(u.list(h)); n != 0 {
		t.Errorf("%d sets are left", n)
	}
	for _, token := range tokens {
		if _, err := h.claim(t.Context(), claimOf(token, true)); !errors.Is(err, errNothing) {
			t.Errorf("claim: %v", err)
		}
		if err := u.register(h, hashOf(token)); !errors.Is(err, errForeignAlias) {
			t.Errorf("register again: %v", err)
		}
	}
	if err := h.upload(t.Context(), captured); !errors.Is(err, errDeleted) {
		t.Errorf("upload: %v", err)
	}
	if err := u.register(h, requestID32()); !errors.Is(err, errDeleted) {
		t.Errorf("register: %v", err)
	}
	pseudonym(t, must(h.claim(t.Context(), claimOf(kept, false))))
	if err := w.user(domain).deleteIndex(h); err != nil {
		t.Errorf("an index that never was: %v", err)
	}
}

// A deletion fails at each of its writes; a repeat finishes it.
func TestDeleteIndexFaults(t *testing.T) {
	t.Parallel()
	for _, persist := range []bool{false, true} {
		t.Run(fmt.Sprintf("persisted %v", persist), func(t *testing.T) {
			w := newWorld(t)
			h := w.replica()
			for at := 1; ; at++ {
				u := w.user(domain)
				tokens := [][]byte{u.token(h), u.token(h)}
				u.mustUpload(h, 1, u.items(2, 0)...)
				broken, f := withFault(h, at, persist)
				err := u.deleteIndex(broken)
				if f.writes < at {
					if at != 6 {
						t.Errorf("a deletion makes %d writes, want 5", at-1)
					}
					break
				}
				if !errors.Is(err, errInjected) {
					t.Fatalf("write %d: %v", at, err)
				}
				if err := u.deleteIndex(h); err != nil {
					t.Fatalf("write %d: again: %v", at, err)
				}
				for _, token := range tokens {
					if _, err := h.claim(t.Context(), claimOf(token, true)); !errors.Is(err, errNothing) {
						t.Errorf("write %d: claim: %v", at, err)
					}
				}
				if n := len(u.list(h)); n != 0 {
					t.Errorf("write %d: %d sets are left", at, n)
				}
			}
		})
	}
}

// A registration on its way does not survive the deletion that saw it coming.
func TestDeleteBeatsRegistration(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u := w.user(domain)
	token := mimimi.NewConnectionToken()
	hash := token.Hash()
	broken, _ := withFault(h, 2, false) // listed, and not created yet
	if err := u.register(broken, hash[:]); !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	if err := u.deleteIndex(h); err != nil {
		t.Fatal(err)
	}
	_, err := h.store.put(t.Context(), h.store.aliasSubject(hash[:]), &v1.KeyPackageAlias{Owner: ownerOf(u.key.Public())}, 0, 0)
	if problem.KindOf(err) != problem.Stale {
		t.Errorf("the registration goes on: %v", err)
	}
}

// One issuing domain's tokens claim so much of an index in an hour, whatever the connection tokens; others go on, and so does an unknown issuer.
func TestClaimIssuerLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	h.limits.perIssuer, h.redeemer = 3, &issuing{}
	u, other := w.user(domain), w.user(domain)
	u.mustUpload(h, 1, u.items(12, 0)...)
	other.mustUpload(h, 1, other.items(1, 0)...)
	tokens := [][]byte{u.token(h), u.token(h)}
	claim := func(token []byte, issuer string) error {
		r := claimOf(token, false)
		r.Token = []byte(issuer)
		_, err := h.claim(t.Context(), r)
		return err
	}
	for i := range 3 {
		if err := claim(tokens[i%2], "b.example"); err != nil {
			t.Fatal(err)
		}
	}
	for _, token := range tokens {
		if err := claim(token, "b.example"); !errors.Is(err, errTooManyIssuer) {
			t.Errorf("one too many: %v", err)
		}
	}
	for name, err := range map[string]error{
		"another issuer": claim(tokens[0], "c.example"), "an unknown issuer": claim(tokens[0], ""), "another index": claim(other.token(h), "b.example"),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.now = w.now.Add(time.Hour)
	if err := claim(tokens[0], "b.example"); err != nil {
		t.Errorf("the next hour: %v", err)
	}
}

// parseUser reads the user pseudonym of a KeyPackage.
func parseUser(raw []byte) string {
	return must(mimimi.ParsePseudonymousCredential(must(mls.ParseKeyPackage(raw)).Leaf().Credential())).UserPseudonym.Wire()
}
