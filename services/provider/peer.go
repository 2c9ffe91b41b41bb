package provider

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// errUnknownDomain is a domain that is no peer's.
var errUnknownDomain = problem.New(problem.NotFound, "this provider has no connection with that domain")

// peers are the other domains, by name. Safe for concurrent use.
type peers struct {
	domain    string
	cert      tls.Certificate
	anyDomain []*x509.Certificate // may vouch for any domain
	log       *slog.Logger
	bad       map[string]string // by path: contents of files that were complained about; scan's own

	mu       sync.Mutex
	byDomain map[string]*peer // guarded by mu; values never change, they are replaced
	denied   []string         // guarded by mu; replaced as a whole
}

// peer is another domain as it is reached now.
type peer struct {
	domain  string
	source  []byte              // what it was made from, to see changes
	roots   []*x509.Certificate // may vouch for this domain, beside anyDomain
	http    *http.Client
	url     string
	service mimimiv1connect.FederationServiceClient
}

// peerFile is a file of peers_dir.
type peerFile struct {
	Domain string `json:"domain"`
	URL    string `json:"url"`
	CAPEM  string `json:"ca_pem"`
}

func newPeers(cfg *Config, k *keys, log *slog.Logger) (*peers, error) {
	p := &peers{domain: cfg.Domain, cert: k.federation, anyDomain: k.anyDomain, log: log, bad: make(map[string]string), byDomain: make(map[string]*peer)}
	var errs []error
	for i, c := range cfg.Peers {
		var roots []*x509.Certificate
		var err error
		if c.CAFile != "" {
			roots, err = loadCA(c.CAFile)
		}
		if err == nil {
			p.byDomain[c.Domain], err = p.dial(c.Domain, c.URL, roots)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("peers[%d]: %w", i, err))
		}
	}
	return p, errors.Join(errs...)
}

// loadCA reads the certificates of a PEM file, at least one.
func loadCA(path string) ([]*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseCA(b)
}

func parseCA(b []byte) (cas []*x509.Certificate, err error) {
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, errors.New("the PEM data holds something else than certificates")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse CA certificate: %w", err)
		}
		cas = append(cas, c)
	}
	if len(cas) == 0 {
		return nil, errors.New("the PEM data holds no certificate")
	}
	return cas, nil
}

// get returns a peer, or errUnknownDomain, also for one that is denied.
func (p *peers) get(domain string) (*peer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if q := p.byDomain[domain]; q != nil && !slices.Contains(p.denied, domain) {
		return q, nil
	}
	return nil, errUnknownDomain
}

// domains lists all peers.
func (p *peers) domains() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var d []string
	for name := range p.byDomain {
		d = append(d, name)
	}
	return d
}

// pool is what may vouch for a domain: its own roots and those for any.
func (p *peers) pool(roots []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range slices.Concat(p.anyDomain, roots) {
		pool.AddCert(c)
	}
	return pool
}

// dial makes a peer. No connection is opened yet.
func (p *peers) dial(domain, rawURL string, roots []*x509.Certificate) (*peer, error) {
	if err := checkPeer(domain, rawURL); err != nil {
		return nil, err
	}
	if domain == p.domain {
		return nil, errors.New("domain: is our own")
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	host := federationHost(domain)
	address := dialAddress(u)
	client := &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, address)
			},
			TLSClientConfig: &tls.Config{
				ServerName: host, RootCAs: p.pool(roots), Certificates: []tls.Certificate{p.cert}, MinVersion: tls.VersionTLS13,
			},
			ForceAttemptHTTP2: true, TLSHandshakeTimeout: readHeaderTimeout, IdleConnTimeout: idleTimeout, DisableCompression: true,
			MaxResponseHeaderBytes: maxHeader, HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("a peer must not redirect") },
	}
	base := "https://" + host
	service := mimimiv1connect.NewFederationServiceClient(client, base, connect.WithReadMaxBytes(maxRelayBody), connect.WithAcceptCompression("gzip", nil, nil))
	return &peer{domain: domain, roots: roots, http: client, url: base, service: service}, nil
}

// federationHost is the host name of a domain's federation listener.
func federationHost(domain string) string { return "federation." + domain }

// dialAddress is where a URL is reached. Names under .localhost are the loopback address (RFC 6761 §6.3), which not every resolver knows.
func dialAddress(u *url.URL) string {
	host, port := u.Hostname(), u.Port()
	if port == "" {
		port = "443"
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// follow reads the folder again and again, and calls start once for every domain, those of the config too. A file that cannot be used is
// said once and left; a peer whose file goes away is kept, since what waits for it must not be lost.
func (p *peers) follow(ctx context.Context, dir string, start func(domain string)) {
	started := make(map[string]bool)
	tick := time.NewTicker(peersInterval)
	defer tick.Stop()
	for {
		p.scan(ctx, dir)
		for _, d := range p.domains() {
			if !started[d] {
				started[d] = true
				start(d)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// scan reads the folder once, if there is one. It must not run twice at a time.
func (p *peers) scan(ctx context.Context, dir string) {
	if dir == "" {
		return
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		p.log.ErrorContext(ctx, "peers_dir is not a usable path")
		return
	}
	for _, path := range files {
		b, err := readBounded(path)
		if err == nil {
			err = p.learn(b)
		}
		if err != nil && p.bad[path] != string(b) {
			p.bad[path] = string(b)
			p.log.WarnContext(ctx, "a file in peers_dir cannot be used: it must hold domain, url and ca_pem")
		}
	}
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	b, err := io.ReadAll(io.LimitReader(f, maxPeerConfigFile+1))
	if err == nil && len(b) > maxPeerConfigFile {
		err = errors.New("the file is too long")
	}
	return b, err
}

// learn takes a peer file's content: a new peer, or a new address of one. The config's own peers are not changed.
func (p *peers) learn(b []byte) error {
	var f peerFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return err
	}
	p.mu.Lock()
	known := p.byDomain[f.Domain] // denied or not
	p.mu.Unlock()
	if old := known; old != nil && (old.source == nil || bytes.Equal(old.source, b)) {
		return nil
	}
	var roots []*x509.Certificate
	if f.CAPEM != "" || len(p.anyDomain) == 0 {
		var err error
		if roots, err = parseCA([]byte(f.CAPEM)); err != nil {
			return err
		}
	}
	q, err := p.dial(f.Domain, f.URL, roots)
	if err != nil {
		return err
	}
	q.source = bytes.Clone(b)
	p.mu.Lock()
	old := p.byDomain[f.Domain]
	p.byDomain[f.Domain] = q
	p.mu.Unlock()
	if old != nil {
		old.http.CloseIdleConnections()
	}
	return nil
}

// close drops idle connections to all peers.
func (p *peers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.byDomain {
		q.http.CloseIdleConnections()
	}
}

// errPeerCertificate is one error for every certificate that is not accepted.
var errPeerCertificate = errors.New("the client certificate is not that of another domain's federation host")

// certified returns the domain that a client certificate stands for: it names exactly one federation host, and chains to what may vouch
// for that very domain, since one peer's authority must not speak for another's.
func (p *peers) certified(chain []*x509.Certificate) (string, error) {
	if len(chain) == 0 {
		return "", errPeerCertificate
	}
	var domain string
	for _, name := range chain[0].DNSNames {
		d, ok := strings.CutPrefix(name, "federation.")
		if ok && domain != "" {
			return "", errPeerCertificate
		}
		if ok {
			domain = d
		}
	}
	if mimimi.CheckDomain(domain) != nil || domain == p.domain || p.isDenied(domain) {
		return "", errPeerCertificate
	}
	var roots []*x509.Certificate
	if q, err := p.get(domain); err == nil {
		roots = q.roots
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: p.pool(roots), Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return "", errPeerCertificate
	}
	return domain, nil
}

// federationTLS is the federation listener's configuration: mutual TLS. The standard check of client certificates knows one set of roots
// for all, so VerifyConnection does it, by domain; it runs in every handshake, as there is no resumption.
func (p *peers) federationTLS() *tls.Config {
	c := serverTLS(p.cert)
	c.ClientAuth = tls.RequireAnyClientCert
	c.VerifyConnection = func(s tls.ConnectionState) error {
		_, err := p.certified(s.PeerCertificates)
		return err
	}
	return c
}

type peerDomainKey struct{}

// withPeerDomain hands the peer's domain to the handlers.
func (p *peers) withPeerDomain(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil {
			http.Error(w, "mutual TLS is required", http.StatusForbidden)
			return
		}
		domain, err := p.certified(r.TLS.PeerCertificates)
		if err != nil { // a peer that is no longer known, or a certificate that has expired since
			http.Error(w, "the certificate is not accepted any more", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerDomainKey{}, domain)))
	})
}

// peerDomain is the domain of the peer that made a request, "" outside of withPeerDomain.
func peerDomain(ctx context.Context) string {
	d, _ := ctx.Value(peerDomainKey{}).(string)
	return d
}
