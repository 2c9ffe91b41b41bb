package oblivious

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/openpcc/ohttp"
	"github.com/openpcc/twoway"
)

// Gateway opens encapsulated requests and hands them to an http.Handler in process. It is safe for concurrent use.
type Gateway struct {
	open    *ohttp.Gateway
	handler http.Handler
}

// keyring finds a key by its id.
type keyring map[uint8]*ohttp.KeyPair

// FindSecretKey is the library's interface.
func (k keyring) FindSecretKey(ctx context.Context, header twoway.RequestHeader) (ohttp.SecretKeyInfo, error) {
	pair, ok := k[header.KeyID]
	if !ok {
		return ohttp.SecretKeyInfo{}, errors.New("oblivious: unknown key id")
	}
	return pair.FindSecretKey(ctx, header)
}

// NewGateway returns a gateway for a service's current keys, as GenerateKey made them, each with an id of its own. h sees requests without a remote address. Errors:
// ErrMalformedKey, and one for no key or two of one id.
func NewGateway(secrets [][]byte, h http.Handler) (*Gateway, error) {
	keys := make(keyring)
	for _, secret := range secrets {
		pair, err := parseSecret(secret)
		if err != nil {
			return nil, err
		}
		if keys[pair.KeyConfig.KeyID] != nil {
			return nil, errors.New("oblivious: two keys have one id")
		}
		keys[pair.KeyConfig.KeyID] = pair
	}
	if len(keys) == 0 {
		return nil, errors.New("oblivious: a gateway needs a key")
	}
	decoder, err := newRequestDecoder()
	if err != nil {
		return nil, fmt.Errorf("new gateway: %w", err)
	}
	open, err := ohttp.NewGateway(keys, ohttp.WithRequestDecoder(decoder), ohttp.WithRequestValidator(reservedHost{}))
	if err != nil {
		return nil, fmt.Errorf("new gateway: %w", err)
	}
	return &Gateway{open: open, handler: h}, nil
}

// reservedHost lets through only host names that exist nowhere (RFC 6761 §6.4): a request goes to our handler, never on to a host of the sender's choice.
type reservedHost struct{}

// ValidRequest is the library's interface.
func (reservedHost) ValidRequest(r *http.Request) error {
	if !strings.HasSuffix(r.Host, ".invalid") {
		return errors.New("oblivious: not a request to this service")
	}
	return nil
}

// Handle answers one encapsulated request. It never fails: what cannot be opened, or makes a decoder panic, gets a fixed, unencrypted refusal that a transport turns
// into ErrRefused, and a handler that panics or writes more than fits gets its client a sealed status 500. The handler is called only with a request that is authentic to its last byte.
func (g *Gateway) Handle(ctx context.Context, encapsulated []byte) (answer []byte) {
	defer func() {
		if recover() != nil { // its value may hold anything, and the process serves others
			answer = []byte(refusal)
		}
	}()
	inner, seal, err := g.decapsulate(ctx, encapsulated)
	if err != nil {
		return []byte(refusal)
	}
	sealed, err := encapsulate(seal, g.serve(inner))
	if err != nil {
		sealed, err = encapsulate(seal, failure())
	}
	if err != nil {
		return []byte(refusal)
	}
	return sealed
}

// decapsulate opens a request and reads its body.
func (g *Gateway) decapsulate(ctx context.Context, encapsulated []byte) (*http.Request, *ohttp.ResponseEncapsulator, error) {
	if !isClass(len(encapsulated), requestOverhead) {
		return nil, nil, errFitsNoClass
	}
	outer, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://relay.invalid", bytes.NewReader(encapsulated))
	if err != nil {
		return nil, nil, fmt.Errorf("open request: %w", err)
	}
	outer.Header.Set("Content-Type", ohttp.RequestMediaType)
	inner, seal, err := g.open.Decapsulate(outer)
	if err != nil {
		return nil, nil, err
	}
	var body []byte
	if inner.Body != nil {
		if body, err = io.ReadAll(inner.Body); err != nil {
			return nil, nil, fmt.Errorf("open request: %w", err)
		}
	}
	inner.Body, inner.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return inner.WithContext(ctx), seal, nil
}

// serve calls the handler and keeps what it writes.
func (g *Gateway) serve(r *http.Request) (resp *http.Response) {
	defer func() {
		if recover() != nil { // its value may hold anything, and the process serves others
			resp = failure()
		}
	}()
	w := &recorder{header: make(http.Header)}
	g.handler.ServeHTTP(w, r)
	if w.overflow {
		return failure()
	}
	return w.response()
}

func failure() *http.Response {
	return response(http.StatusInternalServerError, http.Header{"Content-Type": {"text/plain; charset=utf-8"}}, []byte("internal error\n"))
}

func response(status int, h http.Header, body []byte) *http.Response {
	return &http.Response{StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: h, ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body))}
}

// encapsulate seals a response.
func encapsulate(seal *ohttp.ResponseEncapsulator, resp *http.Response) ([]byte, error) {
	outer, err := seal.Encapsulate(resp)
	if err != nil {
		return nil, fmt.Errorf("seal response: %w", err)
	}
	sealed, err := io.ReadAll(outer.Body)
	if err != nil {
		return nil, fmt.Errorf("seal response: %w", err)
	}
	return sealed, nil
}

// recorder is an http.ResponseWriter that keeps a bounded response.
type recorder struct {
	header   http.Header
	sent     http.Header // header as it was when the status was written
	status   int
	body     bytes.Buffer
	overflow bool
}

// Header is http.ResponseWriter's.
func (w *recorder) Header() http.Header { return w.header }

// WriteHeader is http.ResponseWriter's; informational statuses have no meaning here.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status, w.sent = status, w.header.Clone()
	}
}

// Write is http.ResponseWriter's; it fails once the response fits no class.
func (w *recorder) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.body.Len()+len(p) > maxPlaintext {
		w.overflow = true
		return 0, errFitsNoClass
	}
	return w.body.Write(p)
}

// Flush is http.Flusher's: handlers may ask, and there is nothing to do.
func (w *recorder) Flush() { w.WriteHeader(http.StatusOK) }

func (w *recorder) response() *http.Response {
	w.WriteHeader(http.StatusOK)
	return response(w.status, w.sent, w.body.Bytes())
}
