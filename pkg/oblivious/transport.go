package oblivious

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/openpcc/ohttp"
)

// requestHeaders are the only ones that go into a sealed request: the fewer, the less one client's requests differ from another's.
var requestHeaders = []string{"Content-Type", "Content-Encoding", "Connect-Protocol-Version"}

// Relay carries a sealed request to a service and its sealed response back. It must not keep either.
type Relay = func(ctx context.Context, encapsulated []byte) ([]byte, error)

// transport seals requests to one service.
type transport struct {
	seal  *ohttp.Transport
	relay Relay
}

// NewTransport returns a RoundTripper for a Connect client with base URL "https://<service>.invalid" that seals each request to config (RFC 9458 §3.1, one key) and
// hands it to relay. It is safe for concurrent use if relay is. Errors: ErrMalformedKey; a round trip returns ErrRefused, ErrBadResponse, ErrTooLarge,
// or relay's own error.
func NewTransport(config []byte, relay Relay) (http.RoundTripper, error) {
	key, err := parseConfig(config)
	if err != nil {
		return nil, err
	}
	encoder, err := newRequestEncoder()
	if err != nil {
		return nil, fmt.Errorf("new transport: %w", err)
	}
	// The URL is never used: we carry the body of what the library makes.
	seal, err := ohttp.NewTransport(key, "https://relay.invalid", ohttp.WithRequestEncoder(encoder))
	if err != nil {
		return nil, fmt.Errorf("new transport: %w", err)
	}
	return &transport{seal: seal, relay: relay}, nil
}

// RoundTrip seals, relays and opens. The request's body is read whole and closed.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	plain, err := plainRequest(r)
	if err != nil {
		return nil, err
	}
	sealed, open, err := t.sealed(plain)
	if err != nil {
		return nil, err
	}
	answer, err := t.relay(r.Context(), sealed)
	if err != nil {
		return nil, err
	}
	if string(answer) == refusal {
		return nil, ErrRefused
	}
	resp, err := openResponse(r.Context(), open, answer)
	if err != nil {
		return nil, err
	}
	resp.Request = r
	return resp, nil
}

// plainRequest is what goes into the envelope: method, URL, the headers that a call needs, and a body of known length.
func plainRequest(r *http.Request) (*http.Request, error) {
	var body []byte
	if r.Body != nil {
		b, err := io.ReadAll(io.LimitReader(r.Body, maxPlaintext+1))
		if err = errors.Join(err, r.Body.Close()); err != nil {
			return nil, fmt.Errorf("read request body: %w", err)
		}
		if len(b) > maxPlaintext {
			return nil, ErrTooLarge
		}
		body = b
	}
	plain, err := http.NewRequestWithContext(r.Context(), r.Method, r.URL.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("seal request: %w", err)
	}
	if len(body) == 0 {
		plain.Body = nil // any other empty body has, to the library, an unknown length
	}
	for _, name := range requestHeaders {
		if v := r.Header.Get(name); v != "" {
			plain.Header.Set(name, v)
		}
	}
	plain.Header["User-Agent"] = nil // or the library adds one
	return plain, nil
}

// sealed encapsulates a request.
func (t *transport) sealed(plain *http.Request) ([]byte, *ohttp.ResponseDecapsulator, error) {
	outer, open, err := t.seal.Encapsulate(plain)
	if errors.Is(err, errFitsNoClass) {
		return nil, nil, ErrTooLarge
	}
	if err != nil {
		return nil, nil, fmt.Errorf("seal request: %w", err)
	}
	sealed, err := io.ReadAll(outer.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("seal request: %w", err)
	}
	return sealed, open, nil
}

// openResponse opens a sealed response. What goes wrong in here depends on what the relay sent: one error for all of it.
func openResponse(ctx context.Context, open *ohttp.ResponseDecapsulator, sealed []byte) (*http.Response, error) {
	if !isClass(len(sealed), responseOverhead) {
		return nil, ErrBadResponse
	}
	resp, err := open.Decapsulate(ctx, &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {ohttp.ResponseMediaType}}, Body: io.NopCloser(bytes.NewReader(sealed)),
	})
	if err != nil {
		return nil, ErrBadResponse
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, ErrBadResponse
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return resp, nil
}
