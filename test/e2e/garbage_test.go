package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/oblivious"
)

// method is one procedure of the API.
type method struct {
	path string
	desc protoreflect.MethodDescriptor
}

// procedures lists every procedure of the API, of services that are reached openly and of those behind the relay.
func procedures() (all []method) {
	for _, f := range []protoreflect.FileDescriptor{
		mimimiv1.File_mimimi_v1_account_proto, mimimiv1.File_mimimi_v1_anonymous_proto, mimimiv1.File_mimimi_v1_federation_proto,
		mimimiv1.File_mimimi_v1_hub_proto, mimimiv1.File_mimimi_v1_kpstore_proto, mimimiv1.File_mimimi_v1_inbox_proto,
	} {
		for i := range f.Services().Len() {
			for j := range f.Services().Get(i).Methods().Len() {
				m := f.Services().Get(i).Methods().Get(j)
				all = append(all, method{fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name()), m})
			}
		}
	}
	return all
}

// endpoint is a place that takes requests.
type endpoint struct {
	name string
	base string
	http *http.Client
}

// TestGarbageEverywhere sends what nobody may send to every procedure at every place: each answers with an error, and the domain works as before.
func TestGarbageEverywhere(t *testing.T) {
	r := chaos(t)
	w := newWorld(t, "ab")
	alice, bob := register(t, w.a, "alice"), register(t, w.b, "bob")
	introduce(alice, bob)
	g := create(alice, "friends", bob)

	for _, e := range append(openEndpoints(t, w), sealedEndpoints(t, w)...) {
		t.Run(e.name, func(t *testing.T) {
			for _, m := range procedures() {
				e.garbage(t, r, m)
			}
			e.strangers(t, r)
		})
	}
	t.Run("connections", func(t *testing.T) { badConnections(t, r, w) })

	g.say(alice, "still here")
	g.say(bob, "so am I")
	g.agreed(t, 2, alice, bob)
	noWarnings(t, alice)
	noWarnings(t, bob)
	if !w.a.proc.running() {
		t.Error("the domain has ended")
	}
}

// openEndpoints are the domain's three listeners. The requests to federation come with the certificate of a real peer.
func openEndpoints(t *testing.T, w *world) []endpoint {
	t.Helper()
	peer, err := tls.LoadX509KeyPair(filepath.Join(w.b.dir, "tls", "federation.pem"), filepath.Join(w.b.dir, "tls", "federation.key"))
	if err != nil {
		t.Fatal(err)
	}
	return []endpoint{
		{"account", w.a.at.AccountURL, tlsClient(t, w.a)},
		{"anonymous", w.a.at.AnonymousURL, tlsClient(t, w.a)},
		{"federation", w.a.at.FederationURL, tlsClient(t, w.a, peer)},
	}
}

// tlsClient returns an HTTP client for a domain's listeners.
func tlsClient(t *testing.T, d *domain, certificates ...tls.Certificate) *http.Client {
	t.Helper()
	var file struct{ CA string }
	b, err := os.ReadFile(d.at.ClientFile)
	if err == nil {
		err = json.Unmarshal(b, &file)
	}
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM([]byte(file.CA)) {
		t.Fatalf("no CA in the client file: %v", err)
	}
	tr := &http.Transport{DialContext: dialLoopback, TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certificates}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience()}
}

// dialLoopback dials names below .localhost, which not every resolver knows.
func dialLoopback(ctx context.Context, network, address string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
}

// sealedEndpoints are the services behind the relay, and one of another domain, reached as clients do.
func sealedEndpoints(t *testing.T, w *world) (all []endpoint) {
	t.Helper()
	relay := mimimiv1connect.NewRelayServiceClient(tlsClient(t, w.a), w.a.at.AnonymousURL)
	for d, services := range map[*domain][]string{w.a: {"hub", "kpstore", "inbox"}, w.b: {"hub"}} {
		for _, service := range services {
			config, err := os.ReadFile(filepath.Join(d.dir, "keys", "ohttp-"+service+".pub"))
			if err != nil {
				t.Fatal(err)
			}
			tr, err := oblivious.NewTransport(config, func(ctx context.Context, encapsulated []byte) ([]byte, error) {
				res, err := relay.Relay(ctx, &mimimiv1.RelayRequest{Domain: d.name, Service: service, EncapsulatedRequest: encapsulated})
				return res.GetEncapsulatedResponse(), err
			})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, endpoint{service + " of " + d.name, "https://" + service + ".invalid", &http.Client{Transport: tr, Timeout: patience()}})
		}
	}
	return all
}

// garbage sends bodies of several kinds to a procedure.
func (e *endpoint) garbage(t *testing.T, r *rand.Rand, m method) {
	t.Helper()
	bodies := [][]byte{nil, noise(r, 1), noise(r, 40), noise(r, 5000), {0, 0, 0, 0, 0}, append([]byte{0, 0, 0, 0, 40}, noise(r, 40)...)}
	for range 4 {
		b, err := proto.Marshal(nonsense(r, m.desc.Input(), 0))
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, b, append([]byte{0, 0, 0, byte(len(b) >> 8), byte(len(b))}, b...))
	}
	for _, b := range bodies {
		for _, kind := range []string{"application/proto", "application/connect+proto", "application/json"} {
			e.expectError(t, "POST", m.path, kind, b)
		}
	}
	e.expectError(t, "GET", m.path, "", nil)
}

// strangers sends requests that are for nobody.
func (e *endpoint) strangers(t *testing.T, r *rand.Rand) {
	t.Helper()
	for _, path := range []string{"/", "/x", "/mimimi.v1.NoService/Nothing", "/../../etc/passwd", "/mimimi.v1.HubService/", "/debug/pprof/", "/metrics", "/" + strings.Repeat("x", 3000)} {
		e.expectError(t, "POST", path, "application/proto", noise(r, 100))
		e.expectError(t, "GET", path, "", nil)
	}
	for _, kind := range []string{"", "text/html", "application/grpc", "application/grpc-web+proto", "x"} {
		e.expectError(t, "POST", procedures()[0].path, kind, noise(r, 100))
	}
	// Too large for any procedure. The listener may hang up on the rest of the body; the transport of sealed requests refuses it.
	for _, m := range procedures() {
		e.tooLarge(t, m)
	}
}

// answersAnybody are the procedures that need no proof and that nonsense may happen to ask for something that is there: a published document, and what the inbox says
// of every name, used or not.
var answersAnybody = []string{
	mimimiv1connect.RelayServiceGetKeyDocumentProcedure, mimimiv1connect.RelayServiceGetRevocationsProcedure, mimimiv1connect.InboxServiceGetPeerDocumentProcedure,
	mimimiv1connect.InboxServiceGetRecordProcedure, mimimiv1connect.InboxServiceDepositProcedure,
}

// relays are the procedures that hand opaque bytes on: nonsense for a service that exists is answered by that service, which cannot open it and says so.
var relays = []string{mimimiv1connect.RelayServiceRelayProcedure, mimimiv1connect.FederationServiceRelayProcedure}

// notOpened says whether an answer is a service's refusal of what it cannot open.
func notOpened(answer []byte) bool {
	const refusal = "mimimi: not opened"
	return bytes.Contains(answer, []byte(refusal)) || bytes.Contains(answer, []byte(base64.StdEncoding.EncodeToString([]byte(refusal))))
}

// expectError makes a request and checks that the answer is an error that says what is wrong and gives nothing away.
func (e *endpoint) expectError(t *testing.T, httpMethod, path, contentType string, body []byte) {
	t.Helper()
	status, answer, err := e.do(httpMethod, path, contentType, body)
	what := fmt.Sprintf("%s %.60s as %q with %d bytes", httpMethod, path, contentType, len(body))
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	if status == http.StatusOK && (slices.Contains(answersAnybody, path) || slices.Contains(relays, path) && notOpened(answer)) {
		return
	}
	if why := unfit(status, answer); why != "" {
		t.Errorf("%s: %s: status %d, %.200q", what, why, status, answer)
	}
}

func (e *endpoint) do(httpMethod, path, contentType string, body []byte) (status int, answer []byte, err error) {
	req, err := http.NewRequest(httpMethod, e.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := e.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	answer, err = io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return 0, nil, err
	}
	if s := res.Header.Get("Grpc-Status") + res.Trailer.Get("Grpc-Status"); s != "" && s != "0" {
		return http.StatusBadRequest, answer, nil
	}
	return res.StatusCode, answer, nil
}

// unfit says why an answer is not a proper error, "" if it is one. A stream's error stands in its last frame, after status 200.
func unfit(status int, answer []byte) string {
	if status == http.StatusOK && len(answer) > 5 && answer[0]&2 != 0 {
		var end struct{ Error json.RawMessage }
		if json.Unmarshal(answer[5:], &end) != nil || end.Error == nil {
			return "a stream that ends without an error"
		}
		status, answer = http.StatusBadRequest, end.Error
	}
	if status < 400 || status == http.StatusInternalServerError {
		return "not a refusal"
	}
	var e struct{ Code, Message string }
	if json.Unmarshal(answer, &e) == nil && (e.Code == connect.CodeInternal.String() || e.Code == connect.CodeUnknown.String() || e.Message == "") {
		if !strings.HasPrefix(e.Message, "protocol error") { // a frame that is none has no better code in Connect
			return "an error that does not say what is wrong"
		}
	}
	return ""
}

// tooLarge sends more than any procedure takes.
func (e *endpoint) tooLarge(t *testing.T, m method) {
	t.Helper()
	status, answer, err := e.do("POST", m.path, "application/proto", make([]byte, 9<<20))
	if err != nil {
		return // hung up on
	}
	if why := unfit(status, answer); why != "" {
		t.Errorf("%s with too much: %s: status %d, %.200q", m.path, why, status, answer)
	}
}

// badConnections connects as nobody may.
func badConnections(t *testing.T, r *rand.Rand, w *world) {
	plain := func(base string) string { return strings.Replace(base, "https://", "http://", 1) }
	for _, base := range []string{w.a.at.AccountURL, w.a.at.AnonymousURL, w.a.at.FederationURL} {
		u, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{1, 100, 20000} {
			if err := shout(u.Port(), noise(r, n)); err != nil {
				t.Errorf("noise to %s: %v", base, err)
			}
		}
		e := endpoint{"plain", plain(base), &http.Client{Transport: &http.Transport{DialContext: dialLoopback, DisableKeepAlives: true}}}
		if status, _, err := e.do("POST", procedures()[0].path, "application/proto", nil); err == nil && status != http.StatusBadRequest {
			t.Errorf("plain HTTP to %s: status %d", base, status)
		}
		old := tlsClient(t, w.a)
		old.Transport.(*http.Transport).TLSClientConfig.MaxVersion = tls.VersionTLS12
		if _, _, err := (&endpoint{"old", base, old}).do("GET", "/", "", nil); err == nil {
			t.Errorf("%s speaks TLS 1.2", base)
		}
	}
	// The federation listener wants a peer's certificate; a listener answers to its own name only.
	alone := endpoint{"alone", w.a.at.FederationURL, tlsClient(t, w.a)}
	if status, _, err := alone.do("POST", mimimiv1connect.FederationServiceNotifyProcedure, "application/proto", nil); err == nil {
		t.Errorf("federation without a certificate: status %d", status)
	}
	own, err := tls.LoadX509KeyPair(filepath.Join(w.b.dir, "tls", "account.pem"), filepath.Join(w.b.dir, "tls", "account.key"))
	if err != nil {
		t.Fatal(err)
	}
	wrong := endpoint{"wrong certificate", w.a.at.FederationURL, tlsClient(t, w.a, own)}
	if status, _, err := wrong.do("POST", mimimiv1connect.FederationServiceNotifyProcedure, "application/proto", nil); err == nil {
		t.Errorf("federation with a certificate for another name: status %d", status)
	}
	req, err := http.NewRequest("POST", w.a.at.AccountURL+mimimiv1connect.AccountServiceRegisterProcedure, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "anonymous." + w.a.name
	res, err := tlsClient(t, w.a).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil || res.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("another listener's name: status %d, %v", res.StatusCode, err)
	}
}

// shout writes bytes to a port and waits until the other side hangs up, or has nothing to say.
func shout(port string, b []byte) error {
	c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return err
	}
	if _, err := c.Write(b); err == nil {
		err = c.(*net.TCPConn).CloseWrite()
		if err == nil {
			_, _ = io.Copy(io.Discard, c) // a reset is an answer too
		}
	}
	return c.Close()
}

// noise returns n random bytes.
func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// maxDepth bounds how deep nonsense goes.
const maxDepth = 3

// nonsense returns a message of the right type whose fields hold anything.
func nonsense(r *rand.Rand, d protoreflect.MessageDescriptor, depth int) *dynamicpb.Message {
	m := dynamicpb.NewMessage(d)
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		switch {
		case r.IntN(5) == 0 || f.IsMap():
		case f.IsList():
			l := m.Mutable(f).List()
			for range r.IntN(3) {
				l.Append(nonsenseField(r, f, depth))
			}
		default:
			m.Set(f, nonsenseField(r, f, depth))
		}
	}
	return m
}

func nonsenseField(r *rand.Rand, f protoreflect.FieldDescriptor, depth int) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(r.IntN(2) == 0)
	case protoreflect.StringKind:
		words := []string{"", "a.localhost", "hub", "mimi://a.localhost/u/nobody", "mimi://a.localhost/d/00000000-0000-4000-8000-000000000000", "\x00", strings.Repeat("x", 2000)}
		return protoreflect.ValueOfString(words[r.IntN(len(words))])
	case protoreflect.BytesKind:
		lengths := []int{0, 1, 16, 32, 64, 1500}
		return protoreflect.ValueOfBytes(noise(r, lengths[r.IntN(len(lengths))]))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(r.Uint32())
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(r.Uint64())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(r.Uint32()))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(int64(r.Uint64()))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(r.IntN(9)))
	case protoreflect.MessageKind, protoreflect.GroupKind:
		if depth >= maxDepth {
			return protoreflect.ValueOfMessage(dynamicpb.NewMessage(f.Message()))
		}
		return protoreflect.ValueOfMessage(nonsense(r, f.Message(), depth+1))
	}
	panic("the API has a field of a kind that nonsense does not know")
}
