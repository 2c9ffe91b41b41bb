package provider

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/redeem/redeemtest"
)

// smallQuotas keep tests quick.
var smallQuotas = map[mimimi.TokenOperation]uint16{
	mimimi.TokenQueue: 1, mimimi.TokenUpload: 2, mimimi.TokenGroup: 1, mimimi.TokenClaim: 9, mimimi.TokenConnect: 1,
}

// batch is a request for a client's tokens of an epoch, under seeds that seed gives.
func (r *replica) batch(epoch uint64, seed byte) *mimimiv1.IssueTokensRequest {
	r.d.t.Helper()
	req := &mimimiv1.IssueTokensRequest{Epoch: epoch}
	for _, k := range r.document(r.d.name).IssuerKeysOf(epoch) {
		b := &mimimiv1.TokenBatch{Operation: string(k.Operation)}
		for i := range int(k.Quota) {
			b.Messages = append(b.Messages, must(mimimi.BlindToken(&k, r.d.name, r.d.name, mimimi.TokenSeed([]byte{seed}, k.Operation, i))))
		}
		req.Batches = append(req.Batches, b)
	}
	return req
}

func (r *replica) issue(p *person, req *mimimiv1.IssueTokensRequest) (*mimimiv1.IssueTokensResponse, error) {
	r.d.t.Helper()
	req.Client = p.client.Wire()
	req.Signed = p.sign(r.d.clock.Now(), "issue tokens", must(mimimiv1.IssueTokensBody(req)))
	return r.accounts().IssueTokens(r.d.t.Context(), req)
}

// tokens finishes an answer's tokens of one operation.
func (r *replica) tokens(answer *mimimiv1.IssueTokensResponse, o mimimi.TokenOperation, epoch uint64, seed byte) (all [][]byte) {
	r.d.t.Helper()
	k := r.document(r.d.name).IssuerKey(o, epoch)
	for _, b := range answer.GetBatches() {
		for i, s := range b.GetMessages() {
			if b.GetOperation() == string(o) {
				all = append(all, must(mimimi.FinishToken(k, r.d.name, r.d.name, mimimi.TokenSeed([]byte{seed}, o, i), s)).Marshal())
			}
		}
	}
	return all
}

func TestIssueTokens(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	d.cfg.TokenQuotas = smallQuotas
	r := d.start()
	alice, bob := r.register("alice"), r.register("bob")
	epoch := mimimi.TokenEpoch(d.clock.Now())
	first, err := r.issue(alice, r.batch(epoch, 1))
	if err != nil {
		t.Fatalf("IssueTokens: %v", err)
	}
	// A token of the batch is good, at another replica too.
	second := d.start()
	q := second.newQueue()
	token := r.tokens(first, mimimi.TokenQueue, epoch, 1)[0]
	create := func(token []byte) error {
		fresh := &testQueue{t: t, d: d, id: mimimi.NewQueueID(), key: q.key, now: q.now, rpc: q.rpc}
		req := fresh.creation()
		req.Token = token
		_, err := q.rpc.Create(t.Context(), req)
		return err
	}
	if err := create(token); err != nil {
		t.Errorf("a token that was issued: %v", err)
	}
	wantCode(t, "the same token again", create(token), connect.CodePermissionDenied)
	wantCode(t, "no token", create(nil), connect.CodePermissionDenied)
	wantCode(t, "a token for something else", create(r.tokens(first, mimimi.TokenUpload, epoch, 1)[0]), connect.CodePermissionDenied)

	r.counts(map[string]float64{"provider_tokens_issued_total": 14})
	second.counts(map[string]float64{`tokens_redeemed_total{operation="queue",outcome="spent"}`: 2, `tokens_redeemed_total{operation="queue",outcome="spent_before"}`: 1})

	again, err := second.issue(alice, r.batch(epoch, 1))
	if err != nil || !slices.EqualFunc(again.GetBatches(), first.GetBatches(), func(a, b *mimimiv1.TokenBatch) bool {
		return slices.EqualFunc(a.GetMessages(), b.GetMessages(), bytes.Equal)
	}) {
		t.Errorf("a repeat is not answered alike: %v", err)
	}
	_, err = second.issue(alice, r.batch(epoch, 2))
	wantCode(t, "a second batch", err, connect.CodePermissionDenied)
	if _, err := r.issue(alice, r.batch(epoch+1, 3)); err != nil {
		t.Errorf("next week's: %v", err)
	}
	if _, err := r.issue(bob, r.batch(epoch, 4)); err != nil {
		t.Errorf("another client's: %v", err)
	}
	change := func(f func(*mimimiv1.IssueTokensRequest)) *mimimiv1.IssueTokensRequest {
		req := r.batch(epoch, 5)
		f(req)
		return req
	}
	for what, req := range map[string]*mimimiv1.IssueTokensRequest{
		"last week's":         change(func(q *mimimiv1.IssueTokensRequest) { q.Epoch-- }),
		"the week after next": change(func(q *mimimiv1.IssueTokensRequest) { q.Epoch += 2 }),
		"less than the quota": change(func(q *mimimiv1.IssueTokensRequest) { q.Batches[0].Messages = q.Batches[0].Messages[1:] }),
		"not all operations":  change(func(q *mimimiv1.IssueTokensRequest) { q.Batches = q.Batches[1:] }),
		"another order":       change(func(q *mimimiv1.IssueTokensRequest) { slices.Reverse(q.Batches) }),
		"a number too large":  change(func(q *mimimiv1.IssueTokensRequest) { q.Batches[0].Messages[0] = bytes.Repeat([]byte{0xff}, 256) }),
		"a short message":     change(func(q *mimimiv1.IssueTokensRequest) { q.Batches[0].Messages[0] = make([]byte, 255) }),
		"nothing":             {Epoch: epoch},
	} {
		_, err := r.issue(r.register("carol"+what[:1]+what[len(what)-1:]+string(rune('a'+len(what)))), req)
		wantCode(t, what, err, connect.CodeInvalidArgument)
	}
	stranger := newPerson("a.example", "dave")
	_, err = r.issue(stranger, r.batch(epoch, 6))
	wantCode(t, "an unknown client", err, connect.CodePermissionDenied)
	unsigned := r.batch(epoch, 6)
	unsigned.Client, unsigned.Signed = bob.client.Wire(), bob.sign(d.clock.Now(), "issue tokens", nil)
	_, err = r.accounts().IssueTokens(t.Context(), unsigned)
	wantCode(t, "other messages than were signed for", err, connect.CodePermissionDenied)
	for range maxIssueAnswers {
		_, err = r.issue(bob, r.batch(epoch, 4))
	}
	wantCode(t, "too many repeats", err, connect.CodeResourceExhausted)
}

// TestIssueOnce: many different batches at once for one client and epoch: one is signed.
func TestIssueOnce(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	d.cfg.TokenQuotas = smallQuotas
	replicas := []*replica{d.start(), d.start()}
	alice := replicas[0].register("alice")
	epoch := mimimi.TokenEpoch(d.clock.Now())
	requests := make([]*mimimiv1.IssueTokensRequest, 6)
	for i := range requests {
		requests[i] = replicas[0].batch(epoch, byte(i))
	}
	errs := make([]error, len(requests))
	var all sync.WaitGroup
	for i := range requests {
		all.Go(func() { _, errs[i] = replicas[i%2].issue(alice, requests[i]) })
	}
	all.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			wantCode(t, "who came second", err, connect.CodePermissionDenied)
		}
	}
	if won != 1 {
		t.Errorf("%d batches were signed", won)
	}
}

// TestIssueBusy: who gives up while others' tokens are signed has used up none of the answers to its batch.
func TestIssueBusy(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	d.cfg.TokenQuotas = smallQuotas
	r := d.start()
	alice := r.register("alice")
	k := must(loadKeys(d.cfg, d.clock.Now))
	i := must(newIssuer(d.cfg, k, r.bus, d.clock.Now))
	a := &accountSide{domain: d.name, bus: r.bus, identity: k.identity, issuer: i, now: d.clock.Now, m: must(newMetrics(nil))}
	ask := func(ctx context.Context) error {
		req := r.batch(mimimi.TokenEpoch(d.clock.Now()), 1)
		req.Client = alice.client.Wire()
		req.Signed = alice.sign(d.clock.Now(), "issue tokens", must(mimimiv1.IssueTokensBody(req)))
		_, err := a.issue(ctx, req)
		return err
	}
	var leave []func()
	for range maxSigning {
		leave = append(leave, must(i.turn(t.Context())))
	}
	waiting := make(chan error, maxIssueAnswers+1)
	ctx, giveUp := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer giveUp()
	for range cap(waiting) {
		go func() { waiting <- ask(ctx) }()
	}
	for range cap(waiting) {
		if err := <-waiting; err == nil {
			t.Error("tokens were signed out of turn")
		}
	}
	for _, f := range leave {
		f()
	}
	for n := range maxIssueAnswers {
		if err := ask(t.Context()); err != nil {
			t.Fatalf("answer %d: %v", n+1, err)
		}
	}
	if err := ask(t.Context()); !errors.Is(err, errIssueLimit) {
		t.Errorf("one answer too many: %v", err)
	}
}

// TestExchangeTokens is the story of one exchange and what is tried with it: its steps share the tokens that were spent.
func TestExchangeTokens(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	d.cfg.TokenQuotas = smallQuotas
	r := d.start()
	now := d.clock.Now()
	epoch := mimimi.TokenEpoch(now)
	k := r.document(d.name).IssuerKey(mimimi.TokenClaim, epoch)
	tokens := func(first byte) (all [][]byte) {
		for i := range byte(mimimi.TokenExchange) {
			all = append(all, redeemtest.Token(mimimi.TokenClaim, d.name, d.name, now, []byte{first, i}))
		}
		return all
	}
	request := func(first byte, blind byte) *mimimiv1.ExchangeTokensRequest {
		id := randomID()
		req := &mimimiv1.ExchangeTokensRequest{RequestId: id[:], Tokens: tokens(first)}
		for i := range mimimi.TokenExchange {
			req.Blinded = append(req.Blinded, must(mimimi.BlindToken(k, d.name, "b.example", mimimi.TokenSeed([]byte{blind}, mimimi.TokenClaim, i))))
		}
		return req
	}
	good := request(1, 1)
	answer, err := r.relay().ExchangeTokens(t.Context(), good)
	if err != nil {
		t.Fatalf("ExchangeTokens: %v", err)
	}
	r.counts(map[string]float64{"provider_tokens_exchanged_total": mimimi.TokenExchange, `tokens_redeemed_total{operation="claim",outcome="spent"}`: mimimi.TokenExchange})
	for i, s := range answer.GetBlindSignatures() {
		token, err := mimimi.FinishToken(k, d.name, "b.example", mimimi.TokenSeed([]byte{1}, mimimi.TokenClaim, i), s)
		if err != nil || token.Verify(k, "b.example") != nil {
			t.Fatalf("token %d: %v", i, err)
		}
	}
	again, err := d.start().relay().ExchangeTokens(t.Context(), good)
	if err != nil || !slices.EqualFunc(again.GetBlindSignatures(), answer.GetBlindSignatures(), bytes.Equal) {
		t.Errorf("a repeat: %v", err)
	}
	other := request(1, 2)
	_, err = r.relay().ExchangeTokens(t.Context(), other)
	wantCode(t, "the same tokens in another exchange", err, connect.CodePermissionDenied)
	other.RequestId = good.RequestId
	_, err = r.relay().ExchangeTokens(t.Context(), other)
	wantCode(t, "the same request id for other blinded messages", err, connect.CodePermissionDenied)
	change := func(f func(*mimimiv1.ExchangeTokensRequest)) *mimimiv1.ExchangeTokensRequest {
		req := request(3, 3)
		f(req)
		return req
	}
	for what, c := range map[string]struct {
		req  *mimimiv1.ExchangeTokensRequest
		code connect.Code
	}{
		"one token twice": {change(func(q *mimimiv1.ExchangeTokensRequest) { q.Tokens[1] = q.Tokens[0] }), connect.CodeInvalidArgument},
		"seven": {change(func(q *mimimiv1.ExchangeTokensRequest) {
			q.Tokens, q.Blinded = q.Tokens[1:], q.Blinded[1:]
		}), connect.CodeInvalidArgument},
		"no tokens":     {change(func(q *mimimiv1.ExchangeTokensRequest) { q.Tokens = nil }), connect.CodeInvalidArgument},
		"no request id": {change(func(q *mimimiv1.ExchangeTokensRequest) { q.RequestId = nil }), connect.CodeInvalidArgument},
		"short blinded": {change(func(q *mimimiv1.ExchangeTokensRequest) { q.Blinded[3] = q.Blinded[3][1:] }), connect.CodeInvalidArgument},
		"truncated":     {change(func(q *mimimiv1.ExchangeTokensRequest) { q.Tokens[7] = q.Tokens[7][:99] }), connect.CodeInvalidArgument},
		"another issuer's": {change(func(q *mimimiv1.ExchangeTokensRequest) {
			q.Tokens[2] = redeemtest.Token(mimimi.TokenClaim, "b.example", d.name, now, []byte{4})
		}), connect.CodeInvalidArgument},
		"another operation's": {change(func(q *mimimiv1.ExchangeTokensRequest) {
			q.Tokens[2] = redeemtest.Token(mimimi.TokenGroup, d.name, d.name, now, []byte{4})
		}), connect.CodePermissionDenied},
		"for another domain": {change(func(q *mimimiv1.ExchangeTokensRequest) {
			q.Tokens[0] = redeemtest.Token(mimimi.TokenClaim, d.name, "b.example", now, []byte{4})
		}), connect.CodePermissionDenied},
		"last week's among them": {change(func(q *mimimiv1.ExchangeTokensRequest) {
			q.Tokens[5] = redeemtest.Token(mimimi.TokenClaim, d.name, d.name, now.Add(-week), []byte{4})
		}), connect.CodePermissionDenied},
	} {
		_, err := r.relay().ExchangeTokens(t.Context(), c.req)
		wantCode(t, what, err, c.code)
	}
	if _, err := r.relay().ExchangeTokens(t.Context(), request(3, 3)); err != nil {
		t.Errorf("after all refusals: %v", err)
	}
}

// TestExchangeAtOnce: 32 exchanges of the same eight tokens at once, at two replicas: one gets signatures at most (none if they took the tokens from each
// other), and with no token of the eight anything else is bought.
func TestExchangeAtOnce(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	relays := []mimimiv1connect.RelayServiceClient{d.start().relay(), d.start().relay()}
	now := d.clock.Now()
	k := redeemtest.Public(mimimi.TokenClaim, mimimi.TokenEpoch(now))
	var tokens [][]byte
	for i := range byte(mimimi.TokenExchange) {
		tokens = append(tokens, redeemtest.Token(mimimi.TokenClaim, d.name, d.name, now, []byte{i}))
	}
	requests := make([]*mimimiv1.ExchangeTokensRequest, 32)
	for n := range requests {
		id := randomID()
		requests[n] = &mimimiv1.ExchangeTokensRequest{RequestId: id[:], Tokens: tokens}
		for i := range mimimi.TokenExchange {
			requests[n].Blinded = append(requests[n].Blinded, must(mimimi.BlindToken(&k, d.name, "b.example", mimimi.TokenSeed([]byte{byte(n)}, mimimi.TokenClaim, i))))
		}
	}
	errs := make([]error, len(requests))
	var all sync.WaitGroup
	for n, req := range requests {
		all.Go(func() { _, errs[n] = relays[n%2].ExchangeTokens(t.Context(), req) })
	}
	all.Wait()
	won := -1
	for n, err := range errs {
		switch {
		case err == nil && won >= 0:
			t.Error("two exchanges of the same tokens were answered")
		case err == nil:
			won = n
		default:
			wantCode(t, "who came second", err, connect.CodePermissionDenied)
		}
	}
	for n, req := range requests {
		if n == won {
			continue
		}
		_, err := relays[n%2].ExchangeTokens(t.Context(), req)
		wantCode(t, "who came second, again", err, connect.CodePermissionDenied)
	}
}

// TestIssuerKeys: the keys of a week are made once, whoever comes first, and are the same after a restart; a copy of the stream does not show them; they
// roll over.
func TestIssuerKeys(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	made := 0
	var mu sync.Mutex
	var private []*rsa.PrivateKey
	d.cfg.NewIssuerKey = func(mimimi.TokenOperation, uint64) (*rsa.PrivateKey, error) {
		k, err := mimimi.GenerateIssuerKey()
		mu.Lock()
		defer mu.Unlock()
		made++
		private = append(private, k)
		return k, err
	}
	var all sync.WaitGroup
	replicas := make([]*replica, 2)
	for i := range replicas {
		all.Go(func() { replicas[i] = d.start() })
	}
	all.Wait()
	one, two := replicas[0].document(d.name), replicas[1].document(d.name)
	if !bytes.Equal(one.Marshal(), two.Marshal()) {
		t.Error("two replicas show two documents")
	}
	epoch := mimimi.TokenEpoch(d.clock.Now())
	if len(one.IssuerKeys) != 10 || len(one.IssuerKeysOf(epoch)) != 5 || len(one.IssuerKeysOf(epoch+1)) != 5 {
		t.Errorf("the document has %d issuer keys", len(one.IssuerKeys))
	}
	before := made
	if !bytes.Equal(d.start().document(d.name).Marshal(), one.Marshal()) || made != before {
		t.Error("a replica that starts later made keys of its own")
	}
	record := must(replicas[0].bus.Last(t.Context(), replicas[0].bus.IssuerKey(epoch, digest(labelIssuerKey, []byte(mimimi.TokenClaim), must(loadKeys(d.cfg, d.clock.Now)).issuerSeal))))
	for _, k := range private {
		if bytes.Contains(record.Data, k.D.Bytes()) || bytes.Contains(record.Data, k.Primes[0].Bytes()) || bytes.Contains(record.Data, x509.MarshalPKCS1PrivateKey(k)) {
			t.Error("a private key is in the stream")
		}
	}
	d.clock.add(week)
	next := replicas[0].document(d.name)
	if len(next.IssuerKeys) != 15 || !slices.EqualFunc(next.IssuerKeysOf(epoch+1), one.IssuerKeysOf(epoch+1), func(a, b mimimi.IssuerKey) bool {
		return bytes.Equal(a.SPKI, b.SPKI) && a.Quota == b.Quota
	}) {
		t.Error("the next week's document has not the keys that were announced")
	}
	sealed := must(loadKeys(d.cfg, d.clock.Now))
	sealed.issuerSeal = digest("another", nil)
	stranger := must(newIssuer(d.cfg, sealed, replicas[0].bus, d.clock.Now))
	entry, _, _, err := get[mimimiv1.IssuerKeyEntry](t.Context(), stranger.bus, replicas[0].bus.IssuerKey(epoch, digest(labelIssuerKey, []byte(mimimi.TokenClaim), must(loadKeys(d.cfg, d.clock.Now)).issuerSeal)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.open(mimimi.TokenClaim, epoch, entry); err != errIssuerSeal {
		t.Errorf("opened under another identity key: %v", err)
	}
	own := must(newIssuer(d.cfg, must(loadKeys(d.cfg, d.clock.Now)), replicas[0].bus, d.clock.Now))
	for what, f := range map[string]func() error{
		"another operation": func() error { _, err := own.open(mimimi.TokenGroup, epoch, entry); return err },
		"another epoch":     func() error { _, err := own.open(mimimi.TokenClaim, epoch+1, entry); return err },
		"another quota": func() error {
			_, err := own.open(mimimi.TokenClaim, epoch, &mimimiv1.IssuerKeyEntry{Quota: entry.Quota + 1, SealedKey: entry.SealedKey})
			return err
		},
		"a truncated key": func() error {
			_, err := own.open(mimimi.TokenClaim, epoch, &mimimiv1.IssuerKeyEntry{Quota: entry.Quota, SealedKey: entry.SealedKey[:20]})
			return err
		},
	} {
		if f() == nil {
			t.Errorf("a key opens for %s", what)
		}
	}
}

func TestQuotas(t *testing.T) {
	t.Parallel()
	for _, bad := range []map[mimimi.TokenOperation]uint16{{"other": 1}, {mimimi.TokenClaim: 0}, {mimimi.TokenClaim: 500}} {
		if _, err := (&Config{TokenQuotas: bad}).quotas(); err == nil {
			t.Errorf("quotas %v pass", bad)
		}
	}
	q := must((&Config{TokenQuotas: map[mimimi.TokenOperation]uint16{mimimi.TokenClaim: 5}}).quotas())
	if q[mimimi.TokenClaim] != 5 || q[mimimi.TokenQueue] != defaultQuotas[mimimi.TokenQueue] {
		t.Errorf("quotas %v", q)
	}
}

// BenchmarkIssue signs one client's whole quota of a week, as a provider does.
func BenchmarkIssue(b *testing.B) {
	i := &issuer{signing: newSlots(maxSigning)}
	var work []signing
	for o, quota := range defaultQuotas {
		private := must(redeemtest.IssuerKey(o, 0))
		k := redeemtest.Public(o, 1)
		for n := range int(quota) {
			m := must(mimimi.BlindToken(&k, "a.example", "a.example", mimimi.TokenSeed([]byte{1}, o, n)))
			work = append(work, signing{key: private, message: m, into: new([]byte)})
		}
	}
	b.ReportMetric(float64(len(work)), "tokens/op")
	for b.Loop() {
		if err := i.sign(context.Background(), work); err != nil {
			b.Fatal(err)
		}
	}
}
