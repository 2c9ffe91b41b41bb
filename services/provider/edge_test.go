package provider

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
	"mimimi.example/pkg/service"
)

// endpoint is a listener with all its calls.
type endpoint struct {
	side, address string
	client        *http.Client
	paths         []string
}

func (r *replica) endpoints(peerCert tls.Certificate) []endpoint {
	names := func(service string, calls ...string) (paths []string) {
		for _, c := range calls {
			paths = append(paths, "/mimimi.v1."+service+"/"+c)
		}
		return paths
	}
	federation := httpClient(r.d.ca, r.federation, peerCert)
	r.d.t.Cleanup(federation.CloseIdleConnections)
	return []endpoint{
		{"account", r.account, r.client(r.account), names("AccountService", "Register", "PublishRecord", "FetchInbox", "AckInbox", "IssueTokens")},
		{"anonymous", r.anonymous, r.client(r.anonymous), append(names("RelayService", "Relay", "GetKeyDocument", "ExchangeTokens"),
			names("QueueService", "Create", "Read", "Ack", "Delete", "Confirm", "Refuse", "Watch")...)},
		{"federation", r.federation, federation, names("FederationService", "Notify", "Relay")},
	}
}

// TestGarbage sends bytes that are nothing to every call of every listener: each is refused as the caller's mistake, without a
// cookie, and the service goes on.
func TestGarbage(t *testing.T) {
	t.Parallel()
	a, _, _, rb := pair(t)
	random := make([]byte, 3000)
	rand.Read(random)
	for _, e := range rb.endpoints(a.federationPair()) {
		for _, path := range e.paths {
			for name, body := range map[string][]byte{"random": random, "empty": nil, "cut": {0x0a, 0xff}, "zeros": make([]byte, 500)} {
				for _, kind := range []string{"application/proto", "application/json", "application/connect+proto", "application/grpc", "text/plain", ""} {
					req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+e.side+".b.example"+path, bytes.NewReader(body)))
					req.Header.Set("Content-Type", kind)
					resp, err := e.client.Do(req)
					if err != nil {
						t.Fatalf("%s, %s, %s: %v", path, name, kind, err)
					}
					answer := must(io.ReadAll(resp.Body))
					_ = resp.Body.Close()
					streamed := strings.Contains(kind, "connect+") || strings.Contains(kind, "grpc") // those say it in a trailer
					if resp.StatusCode >= 500 || resp.StatusCode < 300 && !streamed {
						t.Errorf("%s, %s, %s: %s", path, name, kind, resp.Status)
					}
					if len(resp.Cookies()) > 0 || bytes.Contains(answer, []byte("goroutine")) {
						t.Errorf("%s, %s: a cookie or a stack", path, name)
					}
				}
			}
		}
	}
	rb.register("alice")
	rb.newQueue()
}

// TestGarbageForTheInbox: what the gateway cannot open gets one answer, of one size.
func TestGarbageForTheInbox(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	r := d.start()
	r.inbox(d.name)
	var first []byte
	for _, n := range []int{1, 31, 55, 1079, 5000, 1 << 20} {
		b := make([]byte, n)
		rand.Read(b)
		answer, err := r.relay().Relay(t.Context(), &mimimiv1.RelayRequest{Domain: d.name, Service: "inbox", EncapsulatedRequest: b})
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if first == nil {
			first = answer.GetEncapsulatedResponse()
		}
		if !bytes.Equal(first, answer.GetEncapsulatedResponse()) {
			t.Errorf("%d bytes: another refusal", n)
		}
	}
	big := &mimimiv1.DepositRequest{User: "mimi://a.example/u/bob", SealedRequest: make([]byte, maxSmallBody+1)}
	_, err := r.inbox(d.name).Deposit(t.Context(), big)
	wantCode(t, "oversize", err, connect.CodeResourceExhausted)
}

// TestListenersAreApart: each side answers only to its host name and knows only its own calls; a client's connections share no ticket.
func TestListenersAreApart(t *testing.T) {
	t.Parallel()
	a, _, _, rb := pair(t)
	all := rb.endpoints(a.federationPair())
	for _, e := range all {
		for _, other := range all {
			if other.side == e.side {
				continue
			}
			// The other side's name on this connection.
			req := must(http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+e.side+".b.example"+other.paths[0], nil))
			req.Host = other.side + ".b.example"
			req.Header.Set("Content-Type", "application/proto")
			if resp := do(t, e.client, req); resp.StatusCode != http.StatusMisdirectedRequest {
				t.Errorf("%s answers for %s: %s", e.side, other.side, resp.Status)
			}
			// The other side's call under this side's name.
			req.Host = e.side + ".b.example"
			if resp := do(t, e.client, req); resp.StatusCode != http.StatusNotFound {
				t.Errorf("%s has %s: %s", e.side, other.paths[0], resp.Status)
			}
		}
		cache := tls.NewLRUClientSessionCache(8)
		for range 2 {
			c, err := tls.Dial("tcp", e.address, &tls.Config{RootCAs: rb.d.ca.pool(), ServerName: e.side + ".b.example", ClientSessionCache: cache, Certificates: []tls.Certificate{a.federationPair()}})
			if err != nil {
				t.Fatal(err)
			}
			// A ticket would come with the first data.
			_, err = fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s.b.example\r\n\r\n", e.side)
			if _, e := c.Read(make([]byte, 10)); err != nil || e != nil {
				t.Fatal(err, e)
			}
			if c.ConnectionState().DidResume {
				t.Errorf("%s: a connection was resumed", e.side)
			}
			_ = c.Close()
		}
		_, err := tls.Dial("tcp", e.address, &tls.Config{RootCAs: rb.d.ca.pool(), ServerName: e.side + ".b.example", MaxVersion: tls.VersionTLS12})
		if err == nil {
			t.Errorf("%s speaks TLS 1.2", e.side)
		}
	}
}

func do(t *testing.T, c *http.Client, req *http.Request) *http.Response {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp
}

// TestConnectionBounds: connections over an address's bound are closed, and a closed one makes room.
func TestConnectionBounds(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	d.cfg.ConnectionsPerAddress = 2
	r := d.start()
	var open []*tls.Conn
	dial := func() (*tls.Conn, error) {
		return tls.Dial("tcp", r.account, &tls.Config{RootCAs: d.ca.pool(), ServerName: "account.a.example"})
	}
	for range 2 {
		open = append(open, must(dial()))
	}
	if c, err := dial(); err == nil {
		t.Errorf("a third connection: %v", c.Close())
	}
	if _, err := tls.Dial("tcp", r.anonymous, &tls.Config{RootCAs: d.ca.pool(), ServerName: "anonymous.a.example"}); err != nil {
		t.Errorf("the other listener: %v", err)
	}
	_ = open[0].Close()
	for range 1000 { // until the server has seen it
		c, err := dial()
		if err == nil {
			_ = c.Close()
			return
		}
	}
	t.Error("no room after a connection was closed")
}

// TestTap: the recorder gets, by side, what that side sees, and the account and anonymous sides have nothing in common.
func TestTap(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	var mu sync.Mutex
	seen := make(map[string][]byte)
	d.tap = func(kind string, parts ...[]byte) {
		mu.Lock()
		defer mu.Unlock()
		for _, p := range parts {
			seen[kind] = append(append(seen[kind], p...), '\n')
		}
	}
	r := d.start()
	alice, q := r.register("alice"), r.newQueue()
	id := randomID()
	if _, err := r.inbox(d.name).Deposit(t.Context(), &mimimiv1.DepositRequest{Token: d.token(mimimi.TokenConnect, d.name, id[:]), RequestId: id[:], User: alice.user.Wire(), SealedRequest: randomRequest()}); err != nil {
		t.Fatal(err)
	}
	hints := q.watch(t.Context(), 0)
	q.hint(hints)
	r.stop()
	mu.Lock()
	defer mu.Unlock()
	for kind, needles := range map[string][]string{
		"account":   {"/mimimi.v1.AccountService/Register", alice.user.Wire(), "127.0.0.1"},
		"anonymous": {"/mimimi.v1.QueueService/Create", string(q.id.Bytes()), "/mimimi.v1.QueueService/Watch", "/mimimi.v1.RelayService/Relay", "127.0.0.1"},
		"inbox":     {"/mimimi.v1.InboxService/Deposit", alice.user.Wire()},
	} {
		for _, n := range needles {
			if !bytes.Contains(seen[kind], []byte(n)) {
				t.Errorf("%s: something that it sees is not recorded", kind)
			}
		}
	}
	for kind, needles := range map[string][]string{
		"account": {string(q.id.Bytes()), string(q.key.Public())}, "anonymous": {alice.user.Wire(), alice.client.Wire(), string(alice.key.Public())}, "inbox": {"127.0.0.1"},
	} {
		for _, n := range needles {
			if bytes.Contains(seen[kind], []byte(n)) {
				t.Errorf("%s sees what it must not", kind)
			}
		}
	}
}

// TestStopsClean: nothing runs on after Run has returned.
func TestStopsClean(t *testing.T) {
	d := newDomain(t, "a.example")
	before := goleak.IgnoreCurrent()
	b, cfg := d.bus.Bus("provider"), *d.cfg
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cfg.OnListen = func(string, string, string) { cancel() }
	if err := Run(ctx, &cfg, &service.Env{Bus: b, Log: slog.New(slog.DiscardHandler), Now: d.clock.Now}); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, before)
}

func TestRunRefuses(t *testing.T) {
	t.Parallel()
	d := newDomain(t, "a.example")
	env := &service.Env{Bus: d.bus.Bus("provider"), Log: slog.New(slog.DiscardHandler), Now: d.clock.Now}
	taken := must(net.Listen("tcp", "127.0.0.1:0"))
	defer taken.Close()
	for name, change := range map[string]func(*Config){
		"no identity key":    func(c *Config) { c.IdentityKeyFile += "x" },
		"bad identity key":   func(c *Config) { c.IdentityKeyFile = d.file("bad", []byte("x")) },
		"bad queue key":      func(c *Config) { c.QueueKeyFiles = map[uint32]string{1: d.file("bad", []byte("x"))} },
		"no queue key file":  func(c *Config) { c.QueueKeyFiles = map[uint32]string{1: "/nowhere"} },
		"bad OHTTP key":      func(c *Config) { c.OHTTPKeyFiles = []string{d.file("bad", []byte("x"))} },
		"no OHTTP public":    func(c *Config) { c.OHTTPPublic = map[string][]string{"hub": {"/nowhere"}} },
		"bad OHTTP public":   func(c *Config) { c.OHTTPPublic = map[string][]string{"hub": {d.file("bad", make([]byte, 999))}} },
		"bad certificate":    func(c *Config) { c.AccountCertFile = d.file("bad", []byte("x")) },
		"no CA":              func(c *Config) { c.FederationCAFiles = []string{d.file("bad", []byte("x"))} },
		"no CA of a peer":    func(c *Config) { c.Peers = []Peer{{Domain: "b.example", URL: "https://b", CAFile: "/nowhere"}} },
		"address taken":      func(c *Config) { c.FederationListen = taken.Addr().String() },
		"address impossible": func(c *Config) { c.AccountListen = "nonsense" },
	} {
		cfg := *d.cfg
		change(&cfg)
		if err := Run(t.Context(), &cfg, env); err == nil {
			t.Errorf("%s: it runs", name)
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	load := func(text string) error {
		path := filepath.Join(dir, "config.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path)
		return err
	}
	good := `{"domain":"a.example","bus":{"url":"nats://x","deployment_key_file":"d"},"account_listen":":1","anonymous_listen":":2","federation_listen":":3",
		"account_cert_file":"a","account_key_file":"a","anonymous_cert_file":"a","anonymous_key_file":"a","federation_cert_file":"a","federation_key_file":"a",
		"identity_key_file":"i","queue_key_files":{"1":"q"},"ohttp_key_files":["o"],"ohttp_public":{"hub":["h"],"kpstore":["k"]},
		"peers":[{"domain":"b.example","url":"https://federation.b.example:443","ca_file":"ca"}],"peers_dir":"p"}`
	if err := load(good); err != nil {
		t.Errorf("a good config: %v", err)
	}
	for name, change := range map[string][2]string{
		"unknown key":        {`{"domain":"a.example"`, `{"unknown":1,"domain":"a.example"`},
		"domain":             {`"a.example","bus"`, `"A.example","bus"`},
		"listener":           {`"account_listen":":1"`, `"account_listen":""`},
		"certificate":        {`"federation_key_file":"a"`, `"federation_key_file":""`},
		"queue key id":       {`{"1":"q"}`, `{"x":"q"}`},
		"queue keys":         {`{"1":"q"}`, `{}`},
		"OHTTP keys":         {`["o"]`, `[]`},
		"OHTTP public":       {`"kpstore":["k"]`, `"kpstore":[]`},
		"unknown service":    {`"kpstore":["k"]`, `"kpstore":["k"],"x":["k"]`},
		"peer URL":           {"https://federation", "http://federation"},
		"peer URL with path": {"example:443", "example:443/x"},
		"peer is ourselves":  {`[{"domain":"b.example"`, `[{"domain":"a.example"`},
		"peer without CA":    {`"ca_file":"ca"`, `"ca_file":""`},
		"negative bound":     {`"peers_dir":"p"`, `"connections_per_address":-1`},
		"bus":                {`"url":"nats://x"`, `"url":""`},
	} {
		if strings.Count(good, change[0]) != 1 {
			t.Fatalf("%s: the test does not change one thing", name)
		}
		if err := load(strings.Replace(good, change[0], change[1], 1)); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	err := new(Config).Validate()
	for _, key := range []string{"domain", "account_listen", "identity_key_file", "queue_key_files", "ohttp_public"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("an empty config: %s is not said", key)
		}
	}
}

// FuzzRequests: no byte sequence makes a check panic, and what passes is within bounds.
func FuzzRequests(f *testing.F) {
	p := newPerson("a.example", "alice")
	group := newGroup("a.example")
	f.Add(must(proto.Marshal(p.registration(time.Now()))))
	f.Add(must(proto.Marshal(newDelivery(group, 1, 10, newStrangeRecipient("b.example")))))
	f.Fuzz(func(t *testing.T, b []byte) {
		register, delivery, deposit, proof := new(mimimiv1.RegisterRequest), new(mimimiv1.OutboundDelivery), new(mimimiv1.DepositRequest), new(mimimiv1.Signed)
		if proto.Unmarshal(b, register) == nil {
			if r, err := parseRegistration(register, "a.example"); err == nil && (r.user.Domain() != "a.example" || r.client.Domain() != "a.example") {
				t.Error("a name of another domain")
			}
		}
		if proto.Unmarshal(b, delivery) == nil && checkDelivery(delivery, "a.example") == nil {
			if g := must(mimimi.ParseGroupID(delivery.GetDelivery().GetGroupId())); g.Domain() != "a.example" {
				t.Error("a group of another hub")
			}
		}
		if proto.Unmarshal(b, deposit) == nil {
			if d, err := parseDeposit(deposit, "a.example"); err == nil && len(d.sealed) != mimimi.SealedConnectionRequestSize {
				t.Error("a sealed request of another size")
			}
		}
		if proto.Unmarshal(b, proof) == nil {
			if _, minute, err := signed(proof); err == nil && minute.Unix()%60 != 0 {
				t.Error("half a minute")
			}
		}
	})
}

// FuzzPeerFile: no file makes a peer that is not a domain's over HTTPS.
func FuzzPeerFile(f *testing.F) {
	pem := strings.ReplaceAll(string(newAuthority().pem()), "\n", `\n`)
	whole := []byte(`{"domain":"b.example","url":"https://b.localhost:1","ca_pem":"` + pem + `"}`)
	f.Add(whole)
	f.Fuzz(func(t *testing.T, b []byte) {
		p := &peers{domain: "a.example", byDomain: make(map[string]*peer)}
		if err := p.learn(b); err != nil {
			return
		}
		for domain, q := range p.byDomain {
			if mimimi.CheckDomain(domain) != nil || domain == "a.example" || len(q.roots) == 0 {
				t.Error("not a peer")
			}
		}
	})
	p := &peers{domain: "a.example", byDomain: make(map[string]*peer)}
	for i := range whole {
		if p.learn(whole[:i]) == nil {
			f.Errorf("the first %d of %d bytes were taken", i, len(whole))
		}
	}
}

func TestPeerProblem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   error
		want problem.Kind
	}{
		{connect.NewError(connect.CodeInvalidArgument, errors.New("secret words")), problem.Invalid},
		{connect.NewError(connect.CodeResourceExhausted, errors.New("secret words")), problem.Limited},
		{connect.NewError(connect.CodeInternal, errors.New("secret words")), problem.Unavailable},
		{connect.NewError(connect.CodePermissionDenied, errors.New("secret words")), problem.Unavailable},
		{connect.NewError(connect.CodeUnimplemented, errors.New("secret words")), problem.Unavailable},
		{errors.New("secret words"), problem.Unavailable},
	} {
		if got := peerProblem(c.in); problem.KindOf(got) != c.want || strings.Contains(got.Error(), "secret") {
			t.Errorf("%v: %v", c.in, got)
		}
	}
}
