package redeemtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/mimimi"
)

// Replica is a process of a service that sells something for a token.
type Replica[D any] interface {
	// Buy does the deed with a call to the service, and returns its answer. The service's codes are Connect's.
	Buy(ctx context.Context, deed D, id [16]byte, token []byte) ([]byte, error)
	// Kill is kill -9.
	Kill()
}

// Shop is a service, and something that it does for a token.
type Shop[D any] struct {
	Domain    *bustest.Domain
	Name      string // of its own domain, which issues and redeems
	Operation mimimi.TokenOperation
	// Open starts a replica that reaches the bus through the gate, and returns when it answers.
	Open func(g *bustest.Gate) Replica[D]
	// New prepares a deed that has not been done. It needs no replica that runs.
	New func() D
	// Done counts how often a deed was done.
	Done func(D) int
}

// crashTime bounds each wait of these tests. It is longer than a call ever takes.
const crashTime = 2 * time.Minute

// pollPause is between two looks at what another process does.
const pollPause = 10 * time.Millisecond

// ask is Buy, as a client does it: what did not get an answer is asked again.
func ask[D any](ctx context.Context, r Replica[D], deed D, id [16]byte, token []byte) ([]byte, error) {
	for {
		answer, err := r.Buy(ctx, deed, id, token)
		switch c := connect.CodeOf(err); {
		case err == nil || ctx.Err() != nil:
			return answer, err
		case c != connect.CodeUnavailable && c != connect.CodeAborted && c != connect.CodeDeadlineExceeded:
			return nil, err
		}
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func randomID() [16]byte { return [16]byte(randomBytes(16)) }

func (s *Shop[D]) token() []byte {
	return Token(s.Operation, s.Name, s.Name, time.Now(), randomBytes(32))
}

// Kill9 kills a replica, with SIGKILL, right after it has marked a token as spent, and then once after each write that follows, until a request is answered
// before. Each time another replica is asked: a repeat of the request gets the deed done, once, and one answer; everything else with the token is refused,
// before and after.
func (s *Shop[D]) Kill9(t *testing.T) {
	t.Helper()
	for more := 0; ; more++ {
		if answered := s.kill9(t, more); answered {
			if more == 0 {
				t.Error("a request was answered before anything was written but the mark")
			}
			t.Logf("killed after the mark and after each of %d writes that followed", more-1)
			return
		}
		if t.Failed() {
			return
		}
	}
}

func (s *Shop[D]) kill9(t *testing.T, more int) (answered bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), crashTime)
	defer cancel()
	deed, token, id := s.New(), s.token(), randomID()
	gate := s.Domain.Gate()
	first := s.Open(gate)
	held := gate.HoldAfter("spent", more)
	type result struct {
		answer []byte
		err    error
	}
	call, hangUp := context.WithCancel(ctx)
	defer hangUp()
	bought := make(chan result, 1)
	go func() {
		answer, err := ask(call, first, deed, id, token)
		bought <- result{answer, err}
	}()
	var before *result
	select {
	case <-held:
		s.waitSpent(ctx, t, token)
	case r := <-bought:
		if r.err != nil {
			t.Fatalf("nothing was killed: %v", r.err)
		}
		before = &r
	case <-ctx.Done():
		t.Fatal("the replica neither answers nor stops")
	}
	first.Kill()
	hangUp()
	if n := s.Done(deed); before == nil && more == 0 && n != 0 {
		t.Errorf("killed between the mark and the deed, and the deed was done %d times", n)
	}

	second := s.Open(s.Domain.Gate())
	defer second.Kill()
	rivals := func(when string) {
		t.Helper()
		_, err := ask(ctx, second, deed, randomID(), token)
		wantDenied(t, when+": another request id for the same deed", err)
		_, err = ask(ctx, second, s.New(), id, token)
		wantDenied(t, when+": another deed under the same request id", err)
	}
	rivals("before the repeat")
	answer, err := ask(ctx, second, deed, id, token)
	if err != nil {
		t.Fatalf("killed after the mark and %d writes: the repeat: %v", more, err)
	}
	again, err := ask(ctx, second, deed, id, token)
	if err != nil || !bytes.Equal(again, answer) || before != nil && !bytes.Equal(before.answer, answer) {
		t.Errorf("killed after the mark and %d writes: a repeat gets another answer: %v", more, err)
	}
	rivals("after the repeat")
	if n := s.Done(deed); n != 1 {
		t.Errorf("killed after the mark and %d writes: the deed was done %d times", more, n)
	}
	return before != nil
}

// waitSpent waits until a token's mark is stored: until then the gate has only let it through.
func (s *Shop[D]) waitSpent(ctx context.Context, t *testing.T, token []byte) {
	t.Helper()
	b := s.Domain.Bus("provider")
	mark := b.Spent(mimimi.TokenEpoch(time.Now()), must(mimimi.ParseToken(token)).SpentName())
	for {
		_, err := b.Last(ctx, mark)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("the mark is not stored: %v", err)
		}
		<-time.After(pollPause)
	}
}

// AtOnce lets 32 clients spend one token at once at two replicas, half of them for one deed and half each for another: one succeeds, and one deed is done. Then
// the one who succeeded repeats its request 32 times at once.
func (s *Shop[D]) AtOnce(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), crashTime)
	defer cancel()
	const clients = 32
	gates := []*bustest.Gate{s.Domain.Gate(), s.Domain.Gate()}
	replicas := []Replica[D]{s.Open(gates[0]), s.Open(gates[1])}
	token, deeds, ids := s.token(), make([]D, clients), make([][16]byte, clients)
	for i := range clients {
		if deeds[i], ids[i] = deeds[0], randomID(); i%2 == 1 || i == 0 {
			deeds[i] = s.New()
		}
	}
	answers, errs := make([][]byte, clients), make([]error, clients)
	buy := func(who func(i int) int) {
		var all sync.WaitGroup
		for i := range clients {
			all.Go(func() {
				answers[i], errs[i] = ask(ctx, replicas[i/2%2], deeds[who(i)], ids[who(i)], token)
			})
		}
		all.Wait()
	}
	buy(func(i int) int { return i })
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Error("two clients spent one token")
		case err == nil:
			winner = i
		default:
			wantDenied(t, "who came second", err)
		}
	}
	if winner < 0 {
		t.Fatal("nobody spent the token")
	}
	answer := answers[winner]
	buy(func(int) int { return winner })
	if err := errors.Join(errs...); err != nil {
		t.Errorf("a repeat: %v", err)
	}
	if i := slices.IndexFunc(answers, func(a []byte) bool { return !bytes.Equal(a, answer) }); i >= 0 {
		t.Error("a repeat got another answer")
	}
	done := s.Done(deeds[0])
	for i := 1; i < clients; i += 2 {
		done += s.Done(deeds[i])
	}
	if done != 1 {
		t.Errorf("%d deeds were done for one token", done)
	}
	for _, g := range gates {
		if g.Sent("spent") == 0 {
			t.Error("one replica was asked for nothing: this shows nothing about two")
		}
	}
}

func wantDenied(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil || connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("%s: got %v, want a refusal", what, err)
	}
}

// Answering asks a service on the bus for nothing in particular until the replica behind a gate has answered.
func Answering(t testing.TB, edge *bus.Bus, name string, g *bustest.Gate) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), crashTime)
	defer cancel()
	for g.Sent("_INBOX_provider") == 0 {
		if _, err := edge.Call(ctx, name, nil); err != nil && ctx.Err() != nil {
			t.Fatalf("the replica does not answer: %v", err)
		}
		<-time.After(pollPause)
	}
}
