package kpstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/problem"
)

// 64 claims at once, through 16 contacts and two replicas, on 50 sets: 50 get one each, all different, and 14 get nothing.
func TestClaimRace(t *testing.T) {
	t.Parallel()
	for _, lastResort := range []int{0, 3} {
		t.Run(fmt.Sprintf("last resort %d", lastResort), func(t *testing.T) {
			w := newWorld(t)
			replicas := []*handler{w.replica(), w.replica()}
			u := w.user(domain)
			u.mustUpload(replicas[0], 1, u.items(50, lastResort)...)
			var tokens [][]byte
			for range 16 {
				tokens = append(tokens, u.token(replicas[0]))
			}
			var mu sync.Mutex
			served, last, refused := map[string]int{}, 0, 0
			var wg sync.WaitGroup
			for i := range 64 {
				wg.Go(func() {
					r, err := replicas[i%2].claim(t.Context(), claimOf(tokens[i%16], lastResort > 0))
					mu.Lock()
					defer mu.Unlock()
					switch {
					case errors.Is(err, errNothing):
						refused++
					case err != nil:
						t.Errorf("claim: %v", err)
					case r.GetLastResort():
						last++
					default:
						served[pseudonym(t, r)]++
					}
				})
			}
			wg.Wait()
			for _, n := range served {
				if n != 1 {
					t.Errorf("one set was handed out %d times", n)
				}
			}
			wantLast, wantRefused := 0, 14
			if lastResort > 0 {
				wantLast, wantRefused = 14, 0
			}
			if len(served) != 50 || last != wantLast || refused != wantRefused {
				t.Errorf("one-time %d, last resort %d, refused %d; want 50, %d, %d", len(served), last, refused, wantLast, wantRefused)
			}
			uses := 0
			for _, s := range u.list(replicas[1]) {
				if !s.GetLastResort() {
					t.Error("a one-time set is left")
				}
				uses += int(s.GetUses())
			}
			if uses < wantLast {
				t.Errorf("last-resort sets count %d uses, want at least %d", uses, wantLast)
			}
		})
	}
}

// On a cluster: right after their upload, 20 sets go to 20 of 24 claims, made twice each at once at two replicas.
func TestClaimRaceCluster(t *testing.T) {
	t.Parallel()
	w := newClusterWorld(t)
	replicas := []*handler{w.replica(), w.replica()}
	u := w.user(domain)
	tokens := [][]byte{u.token(replicas[0]), u.token(replicas[1])}
	u.mustUpload(replicas[0], 1, u.items(20, 0)...)
	var mu sync.Mutex
	answers := map[string][]string{} // by request
	var wg sync.WaitGroup
	for i := range 24 {
		req := claimOf(tokens[i%2], false)
		for _, h := range replicas {
			wg.Go(func() {
				r, err := h.claim(t.Context(), clone(req))
				for range 10 { // as a client does: on a slow machine twelve at once on one token are too many
					if problem.KindOf(err) == problem.Unavailable {
						r, err = h.claim(t.Context(), clone(req))
					}
				}
				mu.Lock()
				defer mu.Unlock()
				switch {
				case errors.Is(err, errNothing):
				case err != nil:
					t.Errorf("claim: %v", err)
				default:
					answers[string(req.GetRequestId())] = append(answers[string(req.GetRequestId())], pseudonym(t, r))
				}
			})
		}
	}
	wg.Wait()
	served := map[string]bool{}
	for _, a := range answers {
		if len(a) != 2 || a[0] != a[1] {
			t.Errorf("a claim and its retry got %d answers, or different ones", len(a))
		}
		if served[a[0]] {
			t.Error("a set was handed out twice")
		}
		served[a[0]] = true
	}
	if len(served) != 20 {
		t.Errorf("%d of 20 sets were handed out", len(served))
	}
}

// lagging answers some reads with nothing, as a replica that has not caught up does.
type lagging struct {
	log
	times int
}

func (l *lagging) Read(ctx context.Context, s bus.Subject, after uint64, limit, maxBytes int) ([]*bus.Message, bool, error) {
	if l.times > 0 {
		l.times--
		return nil, false, nil
	}
	return l.log.Read(ctx, s, after, limit, maxBytes)
}

// A claim does not take a replica that lags for an empty index; it stops asking in the end.
func TestClaimLag(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u := w.user(domain)
	token := u.token(h)
	u.mustUpload(h, 1, u.items(2, 0)...)
	h.store.log = &lagging{log: h.store.log, times: 3}
	if _, err := h.claim(t.Context(), claimOf(token, false)); err != nil {
		t.Errorf("claim: %v", err)
	}
	h.store.log = &lagging{log: h.store.log, times: 1 << 20}
	if _, err := h.claim(t.Context(), claimOf(token, false)); !errors.Is(err, errNothing) {
		t.Errorf("claim of what is never seen: %v", err)
	}
}

// Retries, one after another and at once at two replicas, get one answer.
func TestClaimRetry(t *testing.T) {
	t.Parallel()
	for _, lastResort := range []bool{false, true} {
		t.Run(fmt.Sprintf("last resort %v", lastResort), func(t *testing.T) {
			w := newWorld(t)
			replicas := []*handler{w.replica(), w.replica()}
			u := w.user(domain)
			if lastResort {
				u.mustUpload(replicas[0], 1, u.items(0, 4)...)
			} else {
				u.mustUpload(replicas[0], 1, u.items(20, 0)...)
			}
			token := u.token(replicas[0])
			for range 4 {
				req := claimOf(token, lastResort)
				var mu sync.Mutex
				var answers []*v1.ClaimResponse
				var wg sync.WaitGroup
				for i := range 6 {
					wg.Go(func() {
						r, err := replicas[i%2].claim(t.Context(), clone(req))
						mu.Lock()
						defer mu.Unlock()
						if err != nil {
							t.Errorf("claim: %v", err)
							return
						}
						answers = append(answers, r)
					})
				}
				wg.Wait()
				again, err := replicas[1].claim(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				for _, a := range answers {
					if !proto.Equal(a, again) {
						t.Error("two retries got different answers")
					}
				}
				req.AllowLastResort = !req.GetAllowLastResort()
				if _, err := replicas[0].claim(t.Context(), req); !errors.Is(err, errOtherRequest) {
					t.Errorf("a retry with another wish: %v", err)
				}
			}
			if !lastResort && len(u.list(replicas[0])) != 16 {
				t.Errorf("%d sets are left of 20 after 4 claims", len(u.list(replicas[0])))
			}
		})
	}
}

// A request id counts for one connection token: another's holder gets another set.
func TestClaimRequestIDPerToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u := w.user(domain)
	u.mustUpload(h, 1, u.items(2, 0)...)
	one := claimOf(u.token(h), false)
	other := clone(one)
	other.ConnectionToken = u.token(h)
	a, err1 := h.claim(t.Context(), one)
	b, err2 := h.claim(t.Context(), other)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if pseudonym(t, a) == pseudonym(t, b) {
		t.Error("one answer for two tokens")
	}
}

// Unknown token, revoked token and empty index: one answer.
func TestClaimNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u, other := w.user(domain), w.user(domain)
	revoked, empty := u.token(h), other.token(h)
	u.mustUpload(h, 1, u.items(1, 1)...)
	if err := u.revoke(h, hashOf(revoked)); err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string][]byte{"unknown": requestID32(), "revoked": revoked, "empty": empty} {
		if _, err := h.claim(t.Context(), claimOf(token, true)); !errors.Is(err, errNothing) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(u.list(h)); n != 2 {
		t.Errorf("%d sets are left, want 2", n)
	}
}

func requestID32() []byte { return append(requestID(), requestID()...) }

// A revocation between a claim's crash and its retry: what was not handed out by then is not.
func TestRevokedBeforeRetry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u := w.user(domain)
	u.mustUpload(h, 1, u.items(1, 0)...)
	for _, at := range []struct {
		write  int
		served bool
	}{{2, false}, {3, true}} { // the recorded offer; the served mark
		token := u.token(h)
		broken, _ := withFault(h, at.write, true)
		req := claimOf(token, false)
		if _, err := broken.claim(t.Context(), req); !errors.Is(err, errInjected) {
			t.Fatalf("write %d: %v", at.write, err)
		}
		if err := u.revoke(h, hashOf(token)); err != nil {
			t.Fatal(err)
		}
		_, err := h.claim(t.Context(), req)
		if at.served != (err == nil) || !at.served && !errors.Is(err, errNothing) {
			t.Errorf("after write %d: %v", at.write, err)
		}
	}
}

func TestClaimOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u := w.user(domain)
	token := u.token(h)
	partial, complete, last := u.item(false), u.item(false), u.items(0, 2)
	u.mustUpload(h, 2, append(last, partial, complete)...)
	sets := map[string]*v1.SetSummary{}
	for _, s := range u.list(h) {
		sets[s.GetUserPseudonym()] = s
	}
	now := w.now
	add := func(it *v1.UploadItem) *v1.UploadItem {
		parsed := must(parseItem(it, domain, now))
		p := must(parsePseudonym(parsed.user))
		return &v1.UploadItem{KeyPackage: u.keyPackage(p, it.GetLastResort()).Marshal(), LastResort: it.GetLastResort(), Revision: sets[parsed.user].GetRevision()}
	}
	u.mustUpload(h, 2, add(complete))

	claim := func(allow bool) *v1.ClaimResponse {
		t.Helper()
		r, err := h.claim(t.Context(), claimOf(token, allow))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := claim(true); len(r.GetKeyPackages()) != 2 || r.GetLastResort() {
		t.Error("the complete set comes first")
	}
	if r := claim(true); len(r.GetKeyPackages()) != 1 || r.GetLastResort() {
		t.Error("an incomplete one-time set comes before last resort")
	}
	if _, err := h.claim(t.Context(), claimOf(token, false)); !errors.Is(err, errNothing) {
		t.Errorf("last resort without leave: %v", err)
	}
	uses := map[string]int{}
	for i := range 6 {
		r := claim(true)
		if !r.GetLastResort() {
			t.Fatal("the answer does not say that it is a last resort")
		}
		uses[pseudonym(t, r)]++
		if i == 1 && len(uses) != 2 {
			t.Error("the least-used set comes first")
		}
	}
	for _, s := range u.list(h) {
		if s.GetUses() != 3 || uses[s.GetUserPseudonym()] != 3 {
			t.Errorf("uses: listed %d, handed out %d, want 3", s.GetUses(), uses[s.GetUserPseudonym()])
		}
	}
}

func TestClaimLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	replicas := []*handler{w.replica(), w.replica()}
	u := w.user(domain)
	u.mustUpload(replicas[0], 1, u.items(20, 0)...)
	token, other := u.token(replicas[0]), u.token(replicas[0])
	for _, h := range replicas {
		h.limits.perAlias = 5
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var got, limited int
	var first *v1.ClaimRequest
	for i := range 12 {
		wg.Go(func() {
			req := claimOf(token, false)
			_, err := replicas[i%2].claim(t.Context(), req)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				got++
				first = req
			case errors.Is(err, errTooMany):
				limited++
			default:
				t.Errorf("claim: %v", err)
			}
		})
	}
	wg.Wait()
	if got != 5 || limited != 7 {
		t.Errorf("got %d, limited %d; want 5, 7", got, limited)
	}
	if _, err := replicas[0].claim(t.Context(), first); err != nil {
		t.Errorf("a retry counts against the limit: %v", err)
	}
	if _, err := replicas[0].claim(t.Context(), claimOf(other, false)); err != nil {
		t.Errorf("another contact is limited, too: %v", err)
	}
	w.now = w.now.Add(time.Hour)
	if _, err := replicas[0].claim(t.Context(), claimOf(token, false)); err != nil {
		t.Errorf("the next hour: %v", err)
	}
}

// Sets close to the end of their lifetime are neither listed nor handed out.
func TestClaimExpired(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u := w.user(domain)
	u.mustUpload(h, 1, u.items(1, 1)...)
	token := u.token(h)
	w.now = w.now.Add(88 * 24 * time.Hour)
	if _, err := h.claim(t.Context(), claimOf(token, true)); !errors.Is(err, errNothing) {
		t.Errorf("claim: %v", err)
	}
	if n := len(u.list(h)); n != 0 {
		t.Errorf("%d expired sets are listed", n)
	}
}

// More sets than one page: the reading goes on where the first page holds nothing to take.
func TestClaimBeyondFirstPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.replica()
	u := w.user(domain)
	u.mustUpload(h, 1, u.items(0, pageSets)...)
	u.mustUpload(h, 1, u.items(2, 0)...)
	r, err := h.claim(t.Context(), claimOf(u.token(h), true))
	if err != nil {
		t.Fatal(err)
	}
	if r.GetLastResort() {
		t.Error("a last-resort set was handed out although a one-time one was left")
	}
}

// A claim fails at each of its writes, with and without the write being stored. A retry succeeds; without one, nobody else gets the same set.
func TestClaimFaults(t *testing.T) {
	t.Parallel()
	for _, lastResort := range []bool{false, true} {
		for _, persist := range []bool{false, true} {
			for _, retryFirst := range []bool{false, true} {
				t.Run(fmt.Sprintf("last resort %v/persisted %v/retry first %v", lastResort, persist, retryFirst), func(t *testing.T) {
					claimFaults(t, lastResort, persist, retryFirst)
				})
			}
		}
	}
}

func claimFaults(t *testing.T, lastResort, persist, retryFirst bool) {
	w := newWorld(t)
	h := w.replica()
	for at := 1; ; at++ {
		u := w.user(domain)
		token := u.token(h)
		if lastResort {
			u.mustUpload(h, 1, u.items(0, 2)...)
		} else {
			u.mustUpload(h, 1, u.items(3, 0)...)
		}
		broken, f := withFault(h, at, persist)
		req := claimOf(token, lastResort)
		_, err := broken.claim(t.Context(), req)
		if f.writes < at {
			if want := 6; at != want+1 {
				t.Errorf("a claim makes %d writes, want %d", at-1, want)
			}
			return
		}
		if at > 4 { // the notice of a low stock: it is not the claimer's affair
			if err != nil {
				t.Fatalf("write %d: %v", at, err)
			}
			continue
		}
		if problem.KindOf(err) != problem.Unavailable {
			t.Fatalf("write %d: %v", at, err)
		}
		checkAfterFault(t, h, u, req, at, lastResort, retryFirst)
	}
}

// checkAfterFault retries the failed claim, before or after others, and holds all answers against each other.
func checkAfterFault(t *testing.T, h *handler, u *user, req *v1.ClaimRequest, at int, lastResort, retryFirst bool) {
	t.Helper()
	served := map[string]bool{}
	take := func(r *v1.ClaimResponse) {
		t.Helper()
		if p := pseudonym(t, r); served[p] && !lastResort {
			t.Errorf("write %d: a set was handed out twice", at)
		} else {
			served[p] = true
		}
	}
	var first *v1.ClaimResponse
	if retryFirst {
		r, err := h.claim(t.Context(), clone(req))
		if err != nil {
			t.Fatalf("write %d: retry: %v", at, err)
		}
		take(r)
		first = r
	}
	for range 3 {
		r, err := h.claim(t.Context(), claimOf(req.GetConnectionToken(), lastResort))
		if errors.Is(err, errNothing) {
			break
		}
		if err != nil {
			t.Fatalf("write %d: another claim: %v", at, err)
		}
		take(r)
	}
	if !lastResort && len(served) < 2 {
		t.Errorf("write %d: %d sets were handed out of 3: more than one is burnt", at, len(served))
	}
	r, err := h.claim(t.Context(), req)
	switch {
	case err == nil && first != nil:
		if !proto.Equal(r, first) {
			t.Errorf("write %d: the second retry got another answer", at)
		}
	case err == nil:
		take(r)
	case first != nil || !errors.Is(err, errNothing):
		t.Errorf("write %d: retry: %v", at, err)
	}
	if !lastResort && len(served) != 3 {
		t.Errorf("write %d: %d of 3 sets were handed out after the retry", at, len(served))
	}
	if n := len(u.list(h)); !lastResort && n != 0 {
		t.Errorf("write %d: %d sets are left in the index", at, n)
	}
}
