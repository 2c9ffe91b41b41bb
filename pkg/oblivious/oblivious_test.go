package oblivious_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"mimimi.example/pkg/oblivious"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers with the request's body, or with as many bytes as X-Size in the path says.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	var n int
	if _, err := fmt.Sscanf(r.URL.Path, "/size/%d", &n); err == nil {
		_, _ = w.Write(make([]byte, n))
		return
	}
	switch r.URL.Path {
	case "/panic":
		panic("canary")
	case "/huge":
		for range 8 {
			_, _ = w.Write(make([]byte, 1<<20))
		}
		return
	case "/none":
		w.WriteHeader(http.StatusNoContent)
		return
	case "/headers":
		_ = r.Header.Write(w)
		_, _ = fmt.Fprintf(w, "remote=%q", r.RemoteAddr)
		return
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "read", http.StatusBadRequest)
		return
	}
	w.Header().Set("X-Path", r.URL.Path)
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write(b)
})

type fixture struct {
	gateway   *oblivious.Gateway
	transport http.RoundTripper
	mu        sync.Mutex
	requests  []int // lengths seen on the wire
	responses []int
	tamper    func(request, response []byte) ([]byte, []byte)
}

func setup(t *testing.T, h http.Handler) *fixture {
	t.Helper()
	secret, config, err := oblivious.GenerateKey(7)
	if err != nil {
		t.Fatal(err)
	}
	f := new(fixture)
	if f.gateway, err = oblivious.NewGateway([][]byte{secret}, h); err != nil {
		t.Fatal(err)
	}
	if f.transport, err = oblivious.NewTransport(config, f.relay); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) relay(ctx context.Context, sealed []byte) ([]byte, error) {
	if f.tamper != nil {
		sealed, _ = f.tamper(sealed, nil)
	}
	answer := f.gateway.Handle(ctx, sealed)
	f.mu.Lock()
	f.requests, f.responses = append(f.requests, len(sealed)), append(f.responses, len(answer))
	f.mu.Unlock()
	if f.tamper != nil {
		_, answer = f.tamper(nil, answer)
	}
	return answer, nil
}

func (f *fixture) do(t *testing.T, path string, body []byte) (*http.Response, []byte, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://hub.invalid"+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: f.transport}).Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp, got, err
}

func TestRoundTrip(t *testing.T) {
	f := setup(t, echo)
	for _, n := range []int{0, 1, 100, 1000, 5000, 1 << 20, 6 << 20} {
		body := bytes.Repeat([]byte{0xab}, n)
		resp, got, err := f.do(t, "/x", body)
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if resp.StatusCode != http.StatusAccepted || resp.Header.Get("X-Path") != "/x" || !bytes.Equal(got, body) {
			t.Errorf("%d bytes: status %d, %d bytes back", n, resp.StatusCode, len(got))
		}
	}
	if resp, got, err := f.do(t, "/none", nil); err != nil || resp.StatusCode != http.StatusNoContent || len(got) != 0 {
		t.Errorf("no content: %v %v", resp, err)
	}
}

// TestZerosAtTheEndSurvive: padding is zeros too, and a body's own must not be taken for it.
func TestZerosAtTheEndSurvive(t *testing.T) {
	f := setup(t, echo)
	for _, n := range []int{1, 700, 900, 1000, 4000} {
		if _, got, err := f.do(t, "/x", make([]byte, n)); err != nil || len(got) != n {
			t.Errorf("%d zeros: %d back, %v", n, len(got), err)
		}
	}
}

// TestLengthsAreClasses sends many sizes and expects exactly one length on the wire for each class, in both directions.
func TestLengthsAreClasses(t *testing.T) {
	f := setup(t, echo)
	distinct := func(l []int) map[int]bool {
		m := make(map[int]bool)
		for _, n := range l {
			m[n] = true
		}
		return m
	}
	for n := 1; n < 7<<20; n += 1 + n*2/3 {
		if _, _, err := f.do(t, "/x", make([]byte, min(n, 7<<20-300))); err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	if req, resp := distinct(f.requests), distinct(f.responses); len(req) != 8 || len(resp) != 8 || len(f.requests) < 20 {
		t.Errorf("%d requests of %d lengths, responses of %d lengths", len(f.requests), len(req), len(resp))
	}
	// Small differences inside (path, header, status) show nothing.
	f.requests, f.responses = nil, nil
	for _, p := range []string{"/x", "/a/longer/path", "/none", "/headers", "/panic", "/size/10", "/size/700"} {
		if _, _, err := f.do(t, p, []byte("b")); err != nil {
			t.Fatal(err)
		}
	}
	if len(distinct(f.requests)) != 1 || len(distinct(f.responses)) != 1 {
		t.Errorf("lengths: %v %v", f.requests, f.responses)
	}
}

func TestRequestsLookAlike(t *testing.T) {
	f := setup(t, echo)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://hub.invalid/headers", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []string{"User-Agent", "Cookie", "Authorization", "Traceparent", "Connect-Timeout-Ms", "Accept-Encoding", "X-Forwarded-For"} {
		r.Header.Set(h, "canary")
	}
	r.Header.Set("Content-Type", "application/proto")
	resp, err := f.transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if want := "Content-Length: 1\r\nContent-Type: application/proto\r\nremote=\"\""; string(got) != want {
		t.Errorf("the service saw %q, want %q", got, want)
	}
}

func TestTooLarge(t *testing.T) {
	f := setup(t, echo)
	for _, n := range []int{7 << 20, 7<<20 + 1, 9 << 20} {
		if _, _, err := f.do(t, "/x", make([]byte, n)); !errors.Is(err, oblivious.ErrTooLarge) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if len(f.requests) != 0 {
		t.Error("something went out")
	}
	for _, path := range []string{"/huge", "/panic", fmt.Sprintf("/size/%d", 7<<20)} {
		resp, got, err := f.do(t, path, nil)
		if err != nil || resp.StatusCode != http.StatusInternalServerError || strings.Contains(string(got), "canary") {
			t.Errorf("%s: %v %q", path, err, got)
		}
	}
}

// sealedRequest returns one encapsulated request as the relay sees it.
func sealedRequest(t testing.TB, config []byte) []byte {
	t.Helper()
	var sealed []byte
	stop := errors.New("enough")
	rt, err := oblivious.NewTransport(config, func(_ context.Context, b []byte) ([]byte, error) { sealed = b; return nil, stop })
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodPost, "https://hub.invalid/x", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rt.RoundTrip(r); !errors.Is(err, stop) {
		t.Fatalf("the relay's error is lost: %v", err)
	}
	return sealed
}

func TestGatewayRefuses(t *testing.T) {
	secret, config, err := oblivious.GenerateKey(1)
	if err != nil {
		t.Fatal(err)
	}
	_, otherID, err := oblivious.GenerateKey(2)
	if err != nil {
		t.Fatal(err)
	}
	_, otherKey, err := oblivious.GenerateKey(1)
	if err != nil {
		t.Fatal(err)
	}
	g, err := oblivious.NewGateway([][]byte{secret}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the handler was called") }))
	if err != nil {
		t.Fatal(err)
	}
	refusal := string(g.Handle(t.Context(), nil))
	if refusal == "" {
		t.Fatal("no refusal")
	}
	good := sealedRequest(t, config)
	for i := range good {
		if got := g.Handle(t.Context(), good[:i]); string(got) != refusal {
			t.Fatalf("truncated to %d: answered", i)
		}
		flipped := bytes.Clone(good)
		flipped[i] ^= 0x80
		if got := g.Handle(t.Context(), flipped); string(got) != refusal {
			t.Fatalf("byte %d changed: answered", i)
		}
	}
	for name, b := range map[string][]byte{
		"wrong key id": sealedRequest(t, otherID), "wrong key": sealedRequest(t, otherKey), "longer": append(bytes.Clone(good), 0),
		"zeros of a class": make([]byte, len(good)), "oversized": make([]byte, 9<<20),
	} {
		if got := g.Handle(t.Context(), b); string(got) != refusal {
			t.Errorf("%s: answered", name)
		}
	}
}

func TestTransportRefuses(t *testing.T) {
	f := setup(t, echo)
	cases := map[string]struct {
		change func(response []byte) []byte
		want   error
	}{
		"flipped nonce": {func(b []byte) []byte { b[0] ^= 1; return b }, oblivious.ErrBadResponse},
		"flipped body":  {func(b []byte) []byte { b[100] ^= 1; return b }, oblivious.ErrBadResponse},
		"flipped tag":   {func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, oblivious.ErrBadResponse},
		"truncated":     {func(b []byte) []byte { return b[:len(b)-1] }, oblivious.ErrBadResponse},
		"empty":         {func([]byte) []byte { return nil }, oblivious.ErrBadResponse},
		"of a class":    {func(b []byte) []byte { return make([]byte, len(b)) }, oblivious.ErrBadResponse},
		"refusal":       {func([]byte) []byte { return f.gateway.Handle(t.Context(), nil) }, oblivious.ErrRefused},
	}
	for name, c := range cases {
		f.tamper = func(req, resp []byte) ([]byte, []byte) {
			if resp != nil {
				resp = c.change(resp)
			}
			return req, resp
		}
		if _, _, err := f.do(t, "/x", []byte("b")); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The response to another request does not pass for ours.
	var first []byte
	f.tamper = func(req, resp []byte) ([]byte, []byte) {
		if resp != nil && first == nil {
			first = resp
		}
		return req, first
	}
	if _, _, err := f.do(t, "/x", []byte("b")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.do(t, "/x", []byte("b")); !errors.Is(err, oblivious.ErrBadResponse) {
		t.Errorf("a swapped response: %v", err)
	}
}

func TestKeys(t *testing.T) {
	secret, config, err := oblivious.GenerateKey(9)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := oblivious.PublicConfig(secret); err != nil || !bytes.Equal(again, config) {
		t.Errorf("PublicConfig differs: %v", err)
	}
	relay := func(context.Context, []byte) ([]byte, error) { return nil, nil }
	for i := range config {
		if _, err := oblivious.NewTransport(config[:i], relay); !errors.Is(err, oblivious.ErrMalformedKey) {
			t.Errorf("config of %d bytes: %v", i, err)
		}
	}
	if _, err := oblivious.NewTransport(append(bytes.Clone(config), 0), relay); !errors.Is(err, oblivious.ErrMalformedKey) {
		t.Errorf("longer config: %v", err)
	}
	chacha := bytes.Clone(config)
	chacha[len(chacha)-1] = 3
	if _, err := oblivious.NewTransport(chacha, relay); !errors.Is(err, oblivious.ErrMalformedKey) {
		t.Errorf("config of another suite: %v", err)
	}
	for i := range secret {
		if i == len(secret)-1 { // the newline at the end
			continue
		}
		if _, err := oblivious.PublicConfig(secret[:i]); !errors.Is(err, oblivious.ErrMalformedKey) {
			t.Errorf("secret of %d bytes: %v", i, err)
		}
	}
	if _, err := oblivious.NewGateway(nil, echo); err == nil {
		t.Error("a gateway without keys")
	}
	if _, err := oblivious.NewGateway([][]byte{secret, secret}, echo); err == nil {
		t.Error("two keys of one id")
	}
}

// TestRotation: a gateway with two keys serves clients of both.
func TestRotation(t *testing.T) {
	old, oldConfig, err := oblivious.GenerateKey(1)
	if err != nil {
		t.Fatal(err)
	}
	current, newConfig, err := oblivious.GenerateKey(2)
	if err != nil {
		t.Fatal(err)
	}
	g, err := oblivious.NewGateway([][]byte{old, current}, echo)
	if err != nil {
		t.Fatal(err)
	}
	for _, config := range [][]byte{oldConfig, newConfig} {
		rt, err := oblivious.NewTransport(config, func(ctx context.Context, b []byte) ([]byte, error) { return g.Handle(ctx, b), nil })
		if err != nil {
			t.Fatal(err)
		}
		f := &fixture{gateway: g, transport: rt}
		if _, got, err := f.do(t, "/x", []byte("b")); err != nil || string(got) != "b" {
			t.Error(err)
		}
	}
}

func TestOtherHostsAreRefused(t *testing.T) {
	f := setup(t, echo)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://hub.example/x", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.transport.RoundTrip(r); !errors.Is(err, oblivious.ErrRefused) {
		t.Error(err)
	}
}

func TestConcurrentUse(t *testing.T) {
	f := setup(t, echo)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			body := []byte(strings.Repeat(fmt.Sprint(i), i*20))
			if _, got, err := f.do(t, "/x", body); err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

// TestConnect runs a real Connect call through, with an error, and finds a relay's failure and a refusal on the other side.
func TestConnect(t *testing.T) {
	const procedure = "/test.v1.Test/Reverse"
	mux := http.NewServeMux()
	mux.Handle(procedure, connect.NewUnaryHandlerSimple(procedure, func(_ context.Context, r *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
		if len(r.Value) == 0 {
			return nil, connect.NewError(connect.CodeAborted, errors.New("stale"))
		}
		return &wrapperspb.BytesValue{Value: bytes.ToUpper(r.Value)}, nil
	}))
	f := setup(t, mux)
	c := connect.NewClient[wrapperspb.BytesValue, wrapperspb.BytesValue](&http.Client{Transport: f.transport}, "https://hub.invalid"+procedure)
	resp, err := c.CallUnary(t.Context(), connect.NewRequest(&wrapperspb.BytesValue{Value: []byte("abc")}))
	if err != nil || string(resp.Msg.Value) != "ABC" {
		t.Fatal(err)
	}
	if _, err := c.CallUnary(t.Context(), connect.NewRequest(&wrapperspb.BytesValue{})); connect.CodeOf(err) != connect.CodeAborted {
		t.Error(err)
	}
	f.tamper = func(req, resp []byte) ([]byte, []byte) { return nil, resp }
	if _, err := c.CallUnary(t.Context(), connect.NewRequest(&wrapperspb.BytesValue{})); !errors.Is(err, oblivious.ErrRefused) {
		t.Error(err)
	}
}

func FuzzGateway(f *testing.F) {
	secret, config, err := oblivious.GenerateKey(1)
	if err != nil {
		f.Fatal(err)
	}
	g, err := oblivious.NewGateway([][]byte{secret}, echo)
	if err != nil {
		f.Fatal(err)
	}
	refusal := string(g.Handle(f.Context(), nil))
	f.Add(sealedRequest(f, config))
	f.Add(make([]byte, 1<<10+55))
	f.Fuzz(func(t *testing.T, b []byte) {
		answer := g.Handle(t.Context(), b)
		if string(answer) != refusal && len(answer) < 1<<10 {
			t.Errorf("an answer of %d bytes", len(answer))
		}
	})
}

func FuzzKeyConfig(f *testing.F) {
	_, config, err := oblivious.GenerateKey(1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(config)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := oblivious.NewTransport(b, func(context.Context, []byte) ([]byte, error) { return nil, nil })
		if err != nil && !errors.Is(err, oblivious.ErrMalformedKey) {
			t.Error(err)
		}
	})
}
