package client_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	rpc "connectrpc.com/connect"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/cmd/mimimi/domain"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// operator is whoever runs a domain: it stands before its services and may alter, forge and withhold what it opens. Without procedures it is honest.
type operator struct {
	dir string // the domain's folder, with its keys

	mu         sync.Mutex
	procedures map[string]func(honest http.Handler) http.Handler
	before     func(procedure string, group []byte) // called before each request to the hub
	services   map[string]http.Handler
	recording  bool
	seen       [][]byte // what the hub sees while recording
}

func newOperator(dir string) *operator {
	return &operator{dir: dir, procedures: make(map[string]func(http.Handler) http.Handler), services: make(map[string]http.Handler)}
}

// options are a domain's, run by o.
func (o *operator) options(d domain.Options) domain.Options {
	d.Dir = o.dir
	d.Front = func(service string) func(string, http.Handler) http.Handler {
		return func(kind string, h http.Handler) http.Handler { return o.front(service+" "+kind, service == "hub", h) }
	}
	d.Tap = func(service string) func(string, ...[]byte) {
		if service != "hub" {
			return nil
		}
		return func(_ string, parts ...[]byte) { o.see(parts...) }
	}
	return d
}

func (o *operator) front(name string, hub bool, honest http.Handler) http.Handler {
	o.mu.Lock()
	o.services[name] = honest
	o.mu.Unlock()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		h, before := o.procedures[r.URL.Path], o.before
		o.mu.Unlock()
		if hub && before != nil {
			before(r.URL.Path, groupOf(r))
		}
		if h != nil {
			h(honest).ServeHTTP(w, r)
			return
		}
		honest.ServeHTTP(w, r)
	})
}

// inRequest finds a group's id in a request to the hub.
var inRequest = regexp.MustCompile(`mimi://[a-z.]+/g/[0-9a-f-]{36}`)

// groupOf returns the group that a request is about. It reads the body, and puts it back.
func groupOf(r *http.Request) []byte {
	b, err := io.ReadAll(r.Body)
	r.Body = body{bytes.NewReader(b)}
	if err != nil {
		return nil
	}
	return inRequest.Find(b)
}

// record forgets what was seen and begins anew.
func (o *operator) record(t *testing.T) {
	t.Helper()
	set := func(on bool) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.recording, o.seen = on, nil
	}
	set(true)
	t.Cleanup(func() { set(false) })
}

func (o *operator) see(parts ...[]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.recording {
		return
	}
	for _, p := range parts {
		o.seen = append(o.seen, bytes.Clone(p))
	}
}

// knows says whether a value stands in what the operator has seen since record, raw, in hexadecimal or in base64.
func (o *operator) knows(value []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	forms := [][]byte{value, []byte(hex.EncodeToString(value)), []byte(base64.RawStdEncoding.EncodeToString(value)), []byte(base64.RawURLEncoding.EncodeToString(value))}
	return slices.ContainsFunc(o.seen, func(b []byte) bool {
		return slices.ContainsFunc(forms, func(f []byte) bool { return bytes.Contains(b, f) })
	})
}

// meddle has the operator of a domain answer a procedure by f, which may ask the honest service, until the test ends or undo is called.
func meddle[Req, Res any](t *testing.T, o *operator, procedure string,
	f func(ctx context.Context, req *Req, honest func(context.Context, *Req) (*Res, error)) (*Res, error)) (undo func()) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.procedures[procedure] = func(honest http.Handler) http.Handler {
		ask := rpc.NewClient[Req, Res](inProcess{honest}, "http://service.invalid"+procedure, rpc.WithAcceptCompression("gzip", nil, nil))
		return rpc.NewUnaryHandlerSimple(procedure, func(ctx context.Context, req *Req) (*Res, error) {
			return f(ctx, req, func(ctx context.Context, req *Req) (*Res, error) {
				res, err := ask.CallUnary(ctx, rpc.NewRequest(req))
				if err != nil {
					return nil, err
				}
				return res.Msg, nil
			})
		}, rpc.WithCompression("gzip", nil, nil))
	}
	undo = func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.procedures, procedure)
	}
	t.Cleanup(undo)
	return undo
}

// inProcess is an HTTP client whose server is a handler.
type inProcess struct{ h http.Handler }

// Do is rpc.HTTPClient's.
func (p inProcess) Do(r *http.Request) (*http.Response, error) {
	w := &answer{header: make(http.Header), status: http.StatusOK}
	r = r.Clone(r.Context())
	r.RequestURI = r.URL.Path
	p.h.ServeHTTP(w, r)
	return &http.Response{
		StatusCode: w.status, Status: http.StatusText(w.status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: w.header,
		Body: body{bytes.NewReader(w.body.Bytes())}, ContentLength: int64(w.body.Len()), Request: r,
	}, nil
}

type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

type body struct{ *bytes.Reader }

func (body) Close() error { return nil }

// hub is the domain's honest hub, as its operator calls it.
func (o *operator) hub() mimimiv1connect.HubServiceClient {
	o.mu.Lock()
	defer o.mu.Unlock()
	return mimimiv1connect.NewHubServiceClient(inProcess{o.services["hub request"]}, "http://hub.invalid", rpc.WithAcceptCompression("gzip", nil, nil))
}

// relay is the domain's honest relay.
func (o *operator) relay() mimimiv1connect.RelayServiceClient {
	o.mu.Lock()
	defer o.mu.Unlock()
	return mimimiv1connect.NewRelayServiceClient(inProcess{o.services["provider anonymous"]}, "http://relay.invalid", rpc.WithAcceptCompression("gzip", nil, nil))
}

// deliveries has the operator of the hub, and that of the provider which is in league with it, change what of a group's log is delivered: f returns what goes
// in place of a delivery, nil for nothing. It sees queue entries and the log alike.
func deliveries(t *testing.T, hub, provider *operator, f func(d *mimimiv1.Delivery) *mimimiv1.Delivery) (undo func()) {
	t.Helper()
	first := meddle(t, provider, mimimiv1connect.QueueServiceReadProcedure, func(ctx context.Context, req *mimimiv1.ReadQueueRequest,
		honest func(context.Context, *mimimiv1.ReadQueueRequest) (*mimimiv1.ReadQueueResponse, error)) (*mimimiv1.ReadQueueResponse, error) {
		res, err := honest(ctx, req)
		if err != nil {
			return nil, err
		}
		var kept []*mimimiv1.QueueEntry
		for _, e := range res.Entries {
			if e.Delivery != nil {
				if e.Delivery = f(e.Delivery); e.Delivery == nil {
					continue
				}
			}
			kept = append(kept, e)
		}
		res.Entries = kept
		return res, nil
	})
	second := meddle(t, hub, mimimiv1connect.HubServiceReadLogProcedure, func(ctx context.Context, req *mimimiv1.ReadLogRequest,
		honest func(context.Context, *mimimiv1.ReadLogRequest) (*mimimiv1.ReadLogResponse, error)) (*mimimiv1.ReadLogResponse, error) {
		res, err := honest(ctx, req)
		if err != nil {
			return nil, err
		}
		var kept []*mimimiv1.LogEntry
		for _, e := range res.Entries {
			if d := f(parseDelivery(t, e.Delivery)); d != nil {
				kept = append(kept, &mimimiv1.LogEntry{Delivery: marshalDelivery(t, d)})
			}
		}
		if n := len(res.Entries); n > 0 && res.Next == 0 {
			res.Next = parseDelivery(t, res.Entries[n-1].Delivery).Sequence
		}
		res.Entries = kept
		return res, nil
	})
	return func() { first(); second() }
}

// key reads one of the domain's own keys.
func (o *operator) key(t *testing.T, name string, into interface{ UnmarshalBinary([]byte) error }) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(o.dir, "keys", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := into.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
}

// vault is what a Config.Tap was told.
type vault struct {
	mu     sync.Mutex
	values map[string]map[string]bool
}

func newVault() *vault { return &vault{values: make(map[string]map[string]bool)} }

func (v *vault) tap(kind string, values ...[]byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.values[kind] == nil {
		v.values[kind] = make(map[string]bool)
	}
	for _, b := range values {
		v.values[kind][string(b)] = true
	}
}

// secrets are the kinds of value that no hub may see (docs/threat-model.md).
var secrets = []string{client.TapConnectionKey, client.TapConnectionToken, client.TapLinkKey, client.TapInviteSecret, client.TapCertificate, client.TapUser, client.TapClient}

// unknownTo fails the test if the operator knows one of the secrets. It must have looked at something.
func (v *vault) unknownTo(t *testing.T, o *operator) {
	t.Helper()
	o.mu.Lock()
	looked := len(o.seen) > 0
	o.mu.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	if !looked || len(v.values[client.TapLinkKey]) == 0 || len(v.values[client.TapConnectionKey]) == 0 {
		t.Error("nothing was seen, or nothing was to be hidden")
	}
	for _, kind := range secrets {
		for value := range v.values[kind] {
			if o.knows([]byte(value)) {
				t.Errorf("the hub knows a %s", kind)
			}
		}
	}
}

// registerAt makes a user whose secrets go to v.
func (v *vault) register(t *testing.T, d *domain.Domain, name string, now func() time.Time) *person {
	t.Helper()
	return registerConfig(t, name, client.Config{Provider: d.Info(), Stock: client.Stock{OneTime: 4, LastResort: 1}, Tap: v.tap, Now: now, Spread: -1})
}

// impostor is a client that a domain's operator makes up: with a certificate that its identity key signed, but without anything that a user has.
type impostor struct {
	t        *testing.T
	o        *operator
	domain   string
	cert     *mimimi.ClientCertificate
	certKey  mls.SignatureKey
	key      mimimi.ConnectionKey
	queueKey mimimi.QueueKey
}

// impostor makes up a client of a user, who need not exist.
func (o *operator) impostor(t *testing.T, domain, user string) *impostor {
	t.Helper()
	var identity mls.SignatureKey
	o.key(t, "identity.key", &identity)
	res, err := o.relay().GetKeyDocument(t.Context(), &mimimiv1.GetKeyDocumentRequest{Domain: domain})
	check(t, err)
	doc, err := mimimi.ParseKeyDocument(res.Document)
	check(t, err)
	name, err := mimimi.ParseUser(user)
	check(t, err)
	device, err := mimimi.NewClient(domain)
	check(t, err)
	certKey, err := mimimi.Suite.GenerateSignatureKey()
	check(t, err)
	cert, err := mimimi.IssueClientCertificate(identity, name, device, certKey.Public(), time.Now(), 365*24*time.Hour)
	check(t, err)
	return &impostor{t: t, o: o, domain: domain, cert: cert, certKey: certKey, key: mimimi.NewConnectionKey(),
		queueKey: doc.QueueKeys[len(doc.QueueKeys)-1]}
}

// keyPackage makes a KeyPackage under a user pseudonym, a fresh one if there is none.
func (i *impostor) keyPackage(pseudonym ...mimimi.UserPseudonym) (*mls.KeyPackage, *mls.KeyPackageSecrets) {
	i.t.Helper()
	if len(pseudonym) == 0 {
		p, err := mimimi.NewUserPseudonym(i.domain)
		check(i.t, err)
		pseudonym = append(pseudonym, p)
	}
	kp, keys, err := mimimi.NewKeyPackage(mimimi.KeyPackageConfig{
		ConnectionKey: i.key, CertificateKey: i.certKey, Certificate: i.cert, UserPseudonym: pseudonym[0], QueueID: mimimi.NewQueueID(),
		QueueKey: i.queueKey, Now: time.Now(),
	})
	check(i.t, err)
	return kp, keys
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func parseDelivery(t *testing.T, b []byte) *mimimiv1.Delivery {
	t.Helper()
	d := new(mimimiv1.Delivery)
	check(t, proto.Unmarshal(b, d))
	return d
}

func marshalDelivery(t *testing.T, d *mimimiv1.Delivery) []byte {
	t.Helper()
	b, err := proto.Marshal(d)
	check(t, err)
	return b
}
