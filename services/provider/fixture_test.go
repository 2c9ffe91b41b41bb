package provider

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/bus/bustest"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/oblivious"
	"mimimi.example/pkg/redeem/redeemtest"
	"mimimi.example/pkg/service"
	"mimimi.example/pkg/telemetry"
	"mimimi.example/pkg/telemetry/telemetrytest"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// authority is a certificate authority of a test.
type authority struct {
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

func newAuthority() *authority {
	_, key := must2(ed25519.GenerateKey(rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test authority " + uuid.NewString()}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return &authority{cert: must(x509.ParseCertificate(der)), key: key}
}

func must2[A, B any](a A, b B, err error) (A, B) {
	if err != nil {
		panic(err)
	}
	return a, b
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// issue makes a certificate for hosts, as PEM.
func (a *authority) issue(hosts ...string) (cert, key []byte) {
	_, private := must2(ed25519.GenerateKey(rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: hosts, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der := must(x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key))
	pkcs8 := must(x509.MarshalPKCS8PrivateKey(private))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func (a *authority) keyPair(hosts ...string) tls.Certificate {
	cert, key := a.issue(hosts...)
	return must(tls.X509KeyPair(cert, key))
}

// clock is a test's clock.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// testDomain is a domain of a test: its bus, its keys and a config for its provider.
type testDomain struct {
	t     *testing.T
	name  string
	bus   *bustest.Domain
	ca    *authority
	cfg   *Config
	clock *clock
	dir   string
	tap   func(kind string, parts ...[]byte)

	hub, kpstore []byte // public OHTTP configurations
}

func newDomain(t *testing.T, name string) *testDomain {
	t.Helper()
	return newDomainOn(t, name, bustest.Start(t))
}

func newDomainOn(t *testing.T, name string, b *bustest.Domain) *testDomain {
	t.Helper()
	d := &testDomain{t: t, name: name, bus: b, ca: newAuthority(), dir: t.TempDir(), clock: &clock{now: time.Now()}}
	d.hub, d.kpstore = d.publicKey(1), d.publicKey(2)
	inbox, _ := must2(oblivious.GenerateKey(3))
	identity := must(mimimi.Suite.GenerateSignatureKey())
	d.cfg = &Config{
		Domain: name, AccountListen: "127.0.0.1:0", AnonymousListen: "127.0.0.1:0", FederationListen: "127.0.0.1:0",
		IdentityKeyFile: d.file("identity.key", must(identity.MarshalBinary())),
		QueueKeyFiles: map[uint32]string{
			7: d.file("queue7.key", must(must(mimimi.Suite.GenerateHPKEKey()).MarshalBinary())),
			8: d.file("queue8.key", must(must(mimimi.Suite.GenerateHPKEKey()).MarshalBinary())),
		},
		OHTTPKeyFiles: []string{d.file("inbox.ohttp", inbox)},
		OHTTPPublic:   map[string][]string{"hub": {d.file("hub.pub", d.hub)}, "kpstore": {d.file("kpstore.pub", d.kpstore)}},
		PeersDir:      filepath.Join(d.dir, "peers"),
		NewIssuerKey:  redeemtest.IssuerKey,
	}
	d.cfg.AccountCertFile, d.cfg.AccountKeyFile = d.certFiles("account")
	d.cfg.AnonymousCertFile, d.cfg.AnonymousKeyFile = d.certFiles("anonymous")
	d.cfg.FederationCertFile, d.cfg.FederationKeyFile = d.certFiles("federation")
	if err := os.Mkdir(d.cfg.PeersDir, 0o700); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *testDomain) publicKey(id uint8) []byte {
	_, config := must2(oblivious.GenerateKey(id))
	return config
}

func (d *testDomain) file(name string, content []byte) string {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		d.t.Fatal(err)
	}
	return path
}

func (d *testDomain) certFiles(side string) (cert, key string) {
	c, k := d.ca.issue(side + "." + d.name)
	return d.file(side+".crt", c), d.file(side+".pem", k)
}

// replica is a running provider.
type replica struct {
	d                              *testDomain
	bus                            *bus.Bus
	account, anonymous, federation string
	telemetry                      *telemetry.Telemetry
	stop                           func()
}

// start runs a replica until the test ends or stop is called.
func (d *testDomain) start() *replica {
	d.t.Helper()
	r := &replica{d: d, bus: d.bus.Bus("provider"), telemetry: telemetrytest.New(d.t, telemetry.Options{})}
	listening := make(chan struct{})
	cfg := *d.cfg
	cfg.OnListen = func(account, anonymous, federation string) {
		r.account, r.anonymous, r.federation = account, anonymous, federation
		close(listening)
	}
	env := &service.Env{Bus: r.bus, Log: slog.New(slog.DiscardHandler), Now: d.clock.Now, Tap: d.tap, Telemetry: r.telemetry}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, &cfg, env) }()
	select {
	case <-listening:
	case err := <-done:
		d.t.Fatalf("Run: %v", err)
	}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			d.t.Errorf("Run: %v", err)
		}
	})
	d.t.Cleanup(r.stop)
	return r
}

// counts checks series of the replica's metrics.
func (r *replica) counts(want map[string]float64) {
	r.d.t.Helper()
	for series, n := range want {
		if got := telemetrytest.Value(r.d.t, r.telemetry, series); got != n {
			r.d.t.Errorf("%s: %v, want %v", series, got, n)
		}
	}
}

// meet lets d know another domain's replica through peers_dir.
func (d *testDomain) meet(other *testDomain, address string) {
	d.t.Helper()
	b := must(json.Marshal(map[string]string{"domain": other.name, "url": "https://" + address, "ca_pem": string(other.ca.pem())}))
	// As a deployment would: a file appears whole.
	temporary := d.file("peer.tmp", b)
	if err := os.Rename(temporary, filepath.Join(d.cfg.PeersDir, other.name+".json")); err != nil {
		d.t.Fatal(err)
	}
}

// httpClient reaches one listener under its host name, with a client certificate if there is one.
func httpClient(ca *authority, address string, certs ...tls.Certificate) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
		TLSClientConfig:   &tls.Config{RootCAs: ca.pool(), MinVersion: tls.VersionTLS13, Certificates: certs},
		ForceAttemptHTTP2: true, DisableKeepAlives: false,
	}}
}

func (r *replica) accounts() mimimiv1connect.AccountServiceClient {
	return mimimiv1connect.NewAccountServiceClient(r.client(r.account), "https://account."+r.d.name)
}

func (r *replica) queues() mimimiv1connect.QueueServiceClient {
	return mimimiv1connect.NewQueueServiceClient(r.client(r.anonymous), "https://anonymous."+r.d.name)
}

func (r *replica) relay() mimimiv1connect.RelayServiceClient {
	return mimimiv1connect.NewRelayServiceClient(r.client(r.anonymous), "https://anonymous."+r.d.name)
}

func (r *replica) client(address string) *http.Client {
	c := httpClient(r.d.ca, address)
	r.d.t.Cleanup(c.CloseIdleConnections)
	return c
}

// federationClient speaks to the replica as the holder of a certificate.
func (r *replica) federationClient(certs ...tls.Certificate) mimimiv1connect.FederationServiceClient {
	c := httpClient(r.d.ca, r.federation, certs...)
	r.d.t.Cleanup(c.CloseIdleConnections)
	return mimimiv1connect.NewFederationServiceClient(c, "https://federation."+r.d.name)
}

// document is the domain's own key document, by the anonymous side.
func (r *replica) document(domain string) *mimimi.KeyDocument {
	r.d.t.Helper()
	answer, err := r.relay().GetKeyDocument(r.d.t.Context(), &mimimiv1.GetKeyDocumentRequest{Domain: domain})
	if err != nil {
		r.d.t.Fatalf("GetKeyDocument: %v", err)
	}
	return must(mimimi.ParseKeyDocument(answer.GetDocument()))
}

// inbox reaches an inbox of any domain, by OHTTP through this replica.
func (r *replica) inbox(domain string) mimimiv1connect.InboxServiceClient {
	r.d.t.Helper()
	var config []byte
	for _, k := range r.document(domain).OHTTPKeys {
		if k.Service == "inbox" {
			config = k.Config
		}
	}
	relay := r.relay()
	transport := must(oblivious.NewTransport(config, func(ctx context.Context, b []byte) ([]byte, error) {
		answer, err := relay.Relay(ctx, &mimimiv1.RelayRequest{Domain: domain, Service: "inbox", EncapsulatedRequest: b})
		return answer.GetEncapsulatedResponse(), err
	}))
	return mimimiv1connect.NewInboxServiceClient(&http.Client{Transport: transport}, "https://inbox.invalid")
}

func randomID() (id [16]byte) {
	rand.Read(id[:])
	return id
}

// proof is a Signed for a signature made by sign.
func proof(now time.Time, sign func(id [16]byte, minute time.Time) []byte) *mimimiv1.Signed {
	id, minute := randomID(), now.Truncate(time.Minute).UTC()
	return &mimimiv1.Signed{RequestId: id[:], Minute: minute.Unix() / 60, Signature: sign(id, minute)}
}

// person is a user with one client.
type person struct {
	user        mimimi.User
	client      mimimi.Client
	key         mls.SignatureKey
	certificate *mimimi.ClientCertificate
}

func newPerson(domain, name string) *person {
	return &person{
		user: must(mimimi.ParseUser("mimi://" + domain + "/u/" + name)), client: must(mimimi.NewClient(domain)), key: must(mimimi.Suite.GenerateSignatureKey()),
	}
}

func (p *person) sign(now time.Time, operation string, body []byte) *mimimiv1.Signed {
	return proof(now, func(id [16]byte, minute time.Time) []byte {
		return mimimi.SignAccountRequest(p.key, &mimimi.AccountRequest{Operation: operation, Client: p.client, RequestID: id, Minute: minute, Body: body})
	})
}

func (p *person) registration(now time.Time) *mimimiv1.RegisterRequest {
	body := append(append([]byte(p.user.Wire()), 0), p.key.Public()...)
	return &mimimiv1.RegisterRequest{User: p.user.Wire(), Client: p.client.Wire(), SignatureKey: p.key.Public(), Signed: p.sign(now, "register", body)}
}

// register makes a registered person.
func (r *replica) register(name string) *person {
	r.d.t.Helper()
	p := newPerson(r.d.name, name)
	answer, err := r.accounts().Register(r.d.t.Context(), p.registration(r.d.clock.Now()))
	if err != nil {
		r.d.t.Fatalf("Register: %v", err)
	}
	p.certificate = must(mimimi.ParseClientCertificate(answer.GetCertificate()))
	return p
}

// token makes a token that this domain issued and another may redeem.
func (d *testDomain) token(o mimimi.TokenOperation, origin string, seed []byte) []byte {
	return redeemtest.Token(o, d.name, origin, d.clock.Now(), seed)
}

// testQueue is a queue with its key.
type testQueue struct {
	t   *testing.T
	d   *testDomain
	id  mimimi.QueueID
	key mls.SignatureKey
	now func() time.Time
	rpc mimimiv1connect.QueueServiceClient
}

func (r *replica) newQueue() *testQueue {
	r.d.t.Helper()
	q := &testQueue{t: r.d.t, d: r.d, id: mimimi.NewQueueID(), key: must(mimimi.Suite.GenerateSignatureKey()), now: r.d.clock.Now, rpc: r.queues()}
	if _, err := q.rpc.Create(r.d.t.Context(), q.creation()); err != nil {
		r.d.t.Fatalf("Create: %v", err)
	}
	return q
}

func (q *testQueue) creation() *mimimiv1.CreateQueueRequest {
	signed := q.sign("create", q.key.Public())
	return &mimimiv1.CreateQueueRequest{
		QueueId: q.id.Bytes(), PublicKey: q.key.Public(), Token: q.d.token(mimimi.TokenQueue, q.d.name, signed.GetRequestId()), Signed: signed,
	}
}

func (q *testQueue) sign(operation string, body []byte) *mimimiv1.Signed {
	return proof(q.now(), func(id [16]byte, minute time.Time) []byte {
		return mimimi.SignQueueRequest(q.key, &mimimi.QueueRequest{Operation: operation, Queue: q.id, RequestID: id, Minute: minute, Body: body})
	})
}

func (q *testQueue) read(after uint64) *mimimiv1.ReadQueueResponse {
	q.t.Helper()
	answer, err := q.rpc.Read(q.t.Context(), &mimimiv1.ReadQueueRequest{QueueId: q.id.Bytes(), After: after, Signed: q.sign("read", position(after))})
	if err != nil {
		q.t.Fatalf("Read: %v", err)
	}
	return answer
}

// all reads the whole queue.
func (q *testQueue) all() (entries []*mimimiv1.QueueEntry) {
	q.t.Helper()
	for after, more := uint64(0), true; more; {
		answer := q.read(after)
		entries, more = append(entries, answer.GetEntries()...), answer.GetMore()
		if len(entries) > 0 {
			after = entries[len(entries)-1].GetPosition()
		}
	}
	return entries
}

func (q *testQueue) ack(upTo uint64) {
	q.t.Helper()
	if _, err := q.rpc.Ack(q.t.Context(), &mimimiv1.AckQueueRequest{QueueId: q.id.Bytes(), UpTo: upTo, Signed: q.sign("ack", position(upTo))}); err != nil {
		q.t.Fatalf("Ack: %v", err)
	}
}

func (q *testQueue) confirm(group []byte) {
	q.t.Helper()
	if _, err := q.rpc.Confirm(q.t.Context(), &mimimiv1.QueueGroupRequest{QueueId: q.id.Bytes(), GroupId: group, Signed: q.sign("confirm", group)}); err != nil {
		q.t.Fatalf("Confirm: %v", err)
	}
}

// watch opens a hint stream and waits until it stands.
func (q *testQueue) watch(ctx context.Context, after uint64) (hints <-chan bool) {
	q.t.Helper()
	stream, err := q.rpc.Watch(ctx, &mimimiv1.WatchQueueRequest{QueueId: q.id.Bytes(), After: after, Signed: q.sign("watch", position(after))})
	if err != nil {
		q.t.Fatalf("Watch: %v", err)
	}
	out := make(chan bool, 16)
	go func() {
		defer close(out)
		for stream.Receive() {
			out <- stream.Msg().GetSomething()
		}
	}()
	return out
}

// hint waits for the next hint.
func (q *testQueue) hint(hints <-chan bool) bool {
	q.t.Helper()
	select {
	case something, ok := <-hints:
		if !ok {
			q.t.Fatal("the hint stream ended")
		}
		return something
	case <-time.After(10 * time.Second):
		q.t.Fatal("no hint within 10 s")
	}
	return false
}

// wait watches until the queue has n entries, and returns them.
func (q *testQueue) wait(n int) []*mimimiv1.QueueEntry {
	q.t.Helper()
	ctx, cancel := context.WithTimeout(q.t.Context(), 30*time.Second)
	defer cancel()
	hints := q.watch(ctx, 0)
	for {
		if entries := q.all(); len(entries) >= n {
			if len(entries) > n {
				q.t.Fatalf("the queue holds %d entries, want %d", len(entries), n)
			}
			return entries
		}
		if _, ok := <-hints; !ok {
			q.t.Fatalf("the queue holds %d entries after 30 s, want %d", len(q.all()), n)
		}
	}
}

// recipient is the queue under a fresh pseudonym, sealed to a domain's current queue key.
func (q *testQueue) recipient(doc *mimimi.KeyDocument) *mimimiv1.Recipient {
	q.t.Helper()
	p := must(mimimi.NewClientPseudonym(doc.Domain))
	sealed := must(mimimi.SealQueueID(doc.QueueKeys[len(doc.QueueKeys)-1], p, q.id))
	return &mimimiv1.Recipient{ClientPseudonym: p.Wire(), EncryptedQueueId: sealed}
}

func newGroup(domain string) []byte {
	return []byte(must(mimimi.NewGroupID(domain)).Wire())
}

// newDelivery is a message of a group.
func newDelivery(group []byte, sequence uint64, size int, to ...*mimimiv1.Recipient) *mimimiv1.OutboundDelivery {
	return &mimimiv1.OutboundDelivery{
		Id: digest("test delivery", group, position(sequence)),
		Delivery: &mimimiv1.Delivery{
			GroupId: group, Sequence: sequence, Previous: sequence - 1, Accepted: 1, Kind: mimimiv1.Delivery_KIND_MESSAGE,
			Message: bytes.Repeat([]byte{byte(sequence)}, size), Epoch: 1, Recipients: to,
		},
	}
}

// send publishes a delivery to the outbox, as fanout does.
func send(t *testing.T, fanout *bus.Bus, domain string, o *mimimiv1.OutboundDelivery) {
	t.Helper()
	data := must(proto.Marshal(&mimimiv1.OutboxEntry{Domain: domain, Delivery: o}))
	if _, err := fanout.Publish(t.Context(), fanout.Outbox(domain), data, bus.PublishOptions{}); err != nil {
		t.Fatalf("publish to outbox: %v", err)
	}
}

// wantCode fails the test if err does not have the code.
func wantCode(t *testing.T, what string, err error, want connect.Code) {
	t.Helper()
	if err == nil || connect.CodeOf(err) != want {
		t.Errorf("%s: got %v, want code %v", what, err, want)
	}
}

// body stores a delivery's body, if it has one of its own, and returns what refers to it.
func (d *deliverer) body(ctx context.Context, delivery *mimimiv1.Delivery) (*mimimiv1.QueueItem, error) {
	item, data, err := common(delivery)
	if err != nil {
		return nil, err
	}
	return item, d.storeBody(ctx, item.GetBodyHash(), data)
}
