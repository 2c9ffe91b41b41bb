package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/oblivious"
	"mimimi.example/pkg/problem"
)

// The services behind a relay (docs/protocol.md §12).
const (
	serviceHub      = "hub"
	serviceKPStore  = "kpstore"
	serviceInbox    = "inbox"
	maxSealedAnswer = maxResponse + 1<<16
)

// channels are the two ways to the provider. They share nothing: each has its own transport, TLS configuration and connections (§12).
type channels struct {
	accountHTTP, anonymousHTTP *http.Client

	account mimimiv1connect.AccountServiceClient
	relay   mimimiv1connect.RelayServiceClient
	queue   mimimiv1connect.QueueServiceClient

	sealed map[string]*http.Client // by domain, service and key configuration
	stale  sync.Map                // domains whose key document a service did not know any more
	down   unreachable
	again  again
}

// unreachable are the domains that the provider did not reach during one Sync: their other groups need not wait for them too.
type unreachable struct {
	mu      sync.Mutex
	domains map[string]bool // nil: nothing is noted
}

// begin starts to take note, and end stops and forgets.
func (u *unreachable) begin() { u.set(make(map[string]bool)) }
func (u *unreachable) end()   { u.set(nil) }

func (u *unreachable) set(m map[string]bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.domains = m
}

func (u *unreachable) add(domain string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.domains != nil {
		u.domains[domain] = true
	}
}

func (u *unreachable) has(domain string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.domains[domain]
}

// What the own provider, or the other domain's edge, answers in place of a service. It says nothing about the request itself.
var (
	errNotPassedOn = problem.New(problem.Unavailable, "the provider did not reach the service: try again")
	errNotKnown    = problem.New(problem.Unavailable, "the provider does not know this domain, or not yet: try again")
)

func newChannels(p *ProviderInfo) (*channels, error) {
	account, err := newHTTPClient(p.CA)
	if err != nil {
		return nil, err
	}
	anonymous, err := newHTTPClient(p.CA)
	if err != nil {
		return nil, err
	}
	ch := &channels{accountHTTP: account, anonymousHTTP: anonymous, sealed: make(map[string]*http.Client)}
	ch.account = mimimiv1connect.NewAccountServiceClient(account, p.AccountURL, ch.options()...)
	ch.relay = mimimiv1connect.NewRelayServiceClient(anonymous, p.AnonymousURL, ch.options()...)
	ch.queue = mimimiv1connect.NewQueueServiceClient(anonymous, p.AnonymousURL, ch.options()...)
	ch.again.usual = againFor
	ch.again.begin()
	return ch, nil
}

// options are those of all clients that make calls.
func (ch *channels) options() []connect.ClientOption {
	return append(connectOptions(), connect.WithInterceptors(connect.UnaryInterceptorFunc(ch.again.intercept)))
}

func (ch *channels) close() {
	ch.accountHTTP.CloseIdleConnections()
	ch.anonymousHTTP.CloseIdleConnections()
}

// connectOptions turn compression off: the length of a compressed secret tells something of it.
func connectOptions() []connect.ClientOption {
	return []connect.ClientOption{
		connect.WithReadMaxBytes(maxSealedAnswer),
		connect.WithAcceptCompression("gzip", nil, nil),
	}
}

// newHTTPClient returns a client with a transport of its own that keeps no TLS session: a ticket would tie connections together.
func newHTTPClient(ca string) (*http.Client, error) {
	var roots *x509.CertPool
	if ca != "" {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(ca)) {
			return nil, errors.New("client config: CA holds no PEM certificate")
		}
	}
	return &http.Client{
		Transport: plain{&http.Transport{
			DialContext:         dialContext,
			TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true},
			ForceAttemptHTTP2:   true,
			TLSHandshakeTimeout: dialTimeout,
			// A connection that a change of networks has cut off answers no ping.
			HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
			IdleConnTimeout:     90 * time.Second,
			MaxIdleConnsPerHost: 2,
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// plain sends requests without the headers by which a build, or a call's own deadline, could be told from another's on both channels (privacy rules: one
// fingerprint for all clients of a protocol version).
type plain struct{ *http.Transport }

// userAgent is what every client of protocol version 1.0 sends.
const userAgent = "mimimi/1.0"

// RoundTrip implements http.RoundTripper.
func (p plain) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context()) // a RoundTripper leaves its request as it is
	r.Header.Set("User-Agent", userAgent)
	r.Header.Del("Connect-Timeout-Ms")
	return p.Transport.RoundTrip(r)
}

// dialContext resolves names below .localhost to the loopback address (RFC 6761 §6.3).
func dialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if host, port, err := net.SplitHostPort(addr); err == nil && (host == "localhost" || strings.HasSuffix(host, ".localhost")) {
		addr = net.JoinHostPort("127.0.0.1", port)
	}
	d := net.Dialer{Timeout: dialTimeout}
	return d.DialContext(ctx, network, addr)
}

// call makes one call with a bound on its time and turns its error into a problem.
func call[Req, Res any](ctx context.Context, f func(context.Context, *Req) (*Res, error), req *Req) (*Res, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := f(ctx, req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, problem.Wrap(problem.Unavailable, "the service did not answer in time: try again", ctx.Err())
		}
		if p, ok := errors.AsType[*problem.Error](err); ok { // from the relay: no service has answered
			return nil, p
		}
		if !connect.IsWireError(err) && connect.CodeOf(err) == connect.CodeUnavailable { // nobody has answered; its text may hold addresses
			return nil, problem.Wrap(problem.Unavailable, "the provider cannot be reached: try again", err)
		}
		return nil, problem.FromConnect(err)
	}
	return res, nil
}

// hub returns the hub of a domain.
func (c *Client) hub(ctx context.Context, domain string) (mimimiv1connect.HubServiceClient, error) {
	h, err := c.sealedTo(ctx, domain, serviceHub)
	if err != nil {
		return nil, err
	}
	return mimimiv1connect.NewHubServiceClient(h, "https://hub.invalid", c.channels.options()...), nil
}

// kpStore returns the KeyPackage store of a domain.
func (c *Client) kpStore(ctx context.Context, domain string) (mimimiv1connect.KeyPackageServiceClient, error) {
	h, err := c.sealedTo(ctx, domain, serviceKPStore)
	if err != nil {
		return nil, err
	}
	return mimimiv1connect.NewKeyPackageServiceClient(h, "https://kpstore.invalid", c.channels.options()...), nil
}

// inbox returns the inbox of a domain.
func (c *Client) inbox(ctx context.Context, domain string) (mimimiv1connect.InboxServiceClient, error) {
	h, err := c.sealedTo(ctx, domain, serviceInbox)
	if err != nil {
		return nil, err
	}
	return mimimiv1connect.NewInboxServiceClient(h, "https://inbox.invalid", c.channels.options()...), nil
}

// sealedTo returns an HTTP client whose requests are sealed to a service of a domain and go through the own provider's relay. All that the relay and
// the provider's cache of key documents refuse is Unavailable, whatever they call it: only the service's own answer, which is sealed, is final.
func (c *Client) sealedTo(ctx context.Context, domain, service string) (*http.Client, error) {
	if c.channels.down.has(domain) {
		return nil, errNotPassedOn
	}
	doc, err := c.document(ctx, domain)
	if _, refused := errors.AsType[*problem.Error](err); refused {
		c.channels.down.add(domain)
		return nil, unreached(err)
	}
	if err != nil {
		return nil, err
	}
	var config []byte
	for _, k := range doc.OHTTPKeys {
		if k.Service == service {
			config = k.Config // the last one is current
		}
	}
	if config == nil {
		return nil, problem.New(problem.Unavailable, "the domain offers no such service")
	}
	name := domain + "/" + service + "/" + string(config)
	if h, ok := c.channels.sealed[name]; ok {
		return h, nil
	}
	t, err := oblivious.NewTransport(config, func(ctx context.Context, encapsulated []byte) ([]byte, error) {
		res, err := c.channels.relay.Relay(ctx, &mimimiv1.RelayRequest{Domain: domain, Service: service, EncapsulatedRequest: encapsulated})
		if err != nil {
			c.channels.down.add(domain)
			return nil, unreached(problem.FromConnect(err)) // without err: a caller would take a Connect error for the service's
		}
		return res.EncapsulatedResponse, nil
	})
	if err != nil {
		return nil, err
	}
	h := &http.Client{Transport: &refusals{next: t, domain: domain, stale: &c.channels.stale}}
	c.channels.sealed[name] = h
	return h, nil
}

// unreached is what stands for an error of the relay.
func unreached(err error) error {
	if problem.KindOf(err) == problem.NotFound {
		return errNotKnown
	}
	return errNotPassedOn
}

// refusals notes that a service could not open a request: its key has changed before the document's time.
type refusals struct {
	next   http.RoundTripper
	domain string
	stale  *sync.Map
}

func (r *refusals) RoundTrip(q *http.Request) (*http.Response, error) {
	res, err := r.next.RoundTrip(q)
	if errors.Is(err, oblivious.ErrRefused) {
		r.stale.Store(r.domain, true)
	}
	return res, err
}

// newRequestID returns 16 random bytes.
func newRequestID() []byte {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		panic("client: no randomness: " + err.Error()) // crypto/rand never fails
	}
	return b
}

func requestID(b []byte) (id [16]byte) {
	copy(id[:], b)
	return id
}

// signed returns the proof fields of a request whose signature is made by sign.
func (c *Client) signed(id []byte, sign func(id [16]byte, minute time.Time) []byte) *mimimiv1.Signed {
	minute := c.now().Truncate(time.Minute)
	return &mimimiv1.Signed{RequestId: id, Minute: minute.Unix() / 60, Signature: sign(requestID(id), minute)}
}
