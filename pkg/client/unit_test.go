package client

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

// testRecord is a connection record whose signature ends with a zero, which padding could hide.
func testRecord(t *testing.T) []byte {
	t.Helper()
	identity, err1 := mimimi.Suite.GenerateSignatureKey()
	key, err2 := mimimi.Suite.GenerateSignatureKey()
	record, err3 := mimimi.Suite.GenerateHPKEKey()
	user, err4 := mimimi.ParseUser("mimi://a.example/u/alice")
	device, err5 := mimimi.NewClient("a.example")
	for _, err := range []error{err1, err2, err3, err4, err5} {
		if err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	cert, err := mimimi.IssueClientCertificate(identity, user, device, key.Public(), now, 90*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for day := range 100_000 {
		r, err := mimimi.NewConnectionRecord(cert, key, record.Public(), now.Add(time.Duration(day)*24*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if b := r.Marshal(); b[len(b)-1] == 0 {
			return b
		}
	}
	t.Fatal("no signature ends with a zero")
	return nil
}

func TestPaddedRecord(t *testing.T) {
	b := testRecord(t)
	for _, zeros := range []int{0, 1, 100} {
		r, err := parsePadded(append(b[:len(b):len(b)], make([]byte, zeros)...))
		if err != nil || string(r.Marshal()) != string(b) {
			t.Errorf("a record with %d zeros after it: %v", zeros, err)
		}
	}
	for n := range len(b) - 1 {
		if _, err := parsePadded(b[:n]); err == nil {
			t.Fatalf("a record cut to %d bytes is read", n)
		}
	}
}

func FuzzPaddedRecord(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(make([]byte, 1024))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parsePadded(b)
		if err == nil && !strings.HasPrefix(string(b), string(r.Marshal())) {
			t.Error("what is read is not what was there")
		}
	})
}

func FuzzParseLink(f *testing.F) {
	now := time.Unix(1_700_000_000, 0)
	f.Add("mimimi:join:")
	f.Add("mimimi:join:AAAA")
	f.Fuzz(func(t *testing.T, link string) {
		inv, err := parseLink(link, now)
		if err == nil && (inv.Policy == nil || !now.Before(inv.NotAfter)) {
			t.Error("a link that leads nowhere is taken")
		}
	})
}

func TestProviderInfo(t *testing.T) {
	good := ProviderInfo{Domain: "a.example", AccountURL: "https://account.a.example:1", AnonymousURL: "https://anonymous.a.example:1",
		IdentityKey: make([]byte, identityKeySize)}
	load := func(v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "p.json")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = LoadProviderInfo(path)
		return err
	}
	if err := load(good); err != nil {
		t.Errorf("a good one: %v", err)
	}
	for name, change := range map[string]func(p *ProviderInfo){
		"domain":       func(p *ProviderInfo) { p.Domain = "A" },
		"http":         func(p *ProviderInfo) { p.AccountURL = "http://account.a.example" },
		"one host":     func(p *ProviderInfo) { p.AnonymousURL = "https://account.a.example:2" },
		"no key":       func(p *ProviderInfo) { p.IdentityKey = nil },
		"certificates": func(p *ProviderInfo) { p.CA = "x" },
	} {
		bad := good
		change(&bad)
		if load(bad) == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if load(map[string]any{"domian": "a"}) == nil {
		t.Error("an unknown key is taken")
	}
}

// TestRecount has messages whose place is known go back to those that wait when a commit before them in the log makes them not count.
func TestRecount(t *testing.T) {
	epochs := mimimi.NewEpochs(4)
	epochs.Commit(5, 100, true) // a removal ended epoch 4
	g := &group{rec: &groupRecord{Last: 10, Epochs: epochs.Records()}}
	message := func(epoch, sequence uint64) *outgoing {
		return &outgoing{Epoch: epoch, Sequence: sequence, Accepted: 101, Message: []byte("x")}
	}
	before, after, now := message(4, 9), message(4, 11), message(5, 12)
	g.rec.Outgoing = []*outgoing{before, after, now}
	g.recount()
	if before.Sequence == 0 {
		t.Error("a message that stands before the commit is sent again")
	}
	if after.Message != nil || after.Sequence != 0 {
		t.Error("a message of an epoch that ended by a removal is not sent again")
	}
	if now.Sequence == 0 {
		t.Error("a message of the present epoch is sent again")
	}
}

// TestStoreVersion refuses a file of a later version, and one that is no store.
func TestStoreVersion(t *testing.T) {
	dir := t.TempDir()
	s, err := openStore(&Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openStore(&Config{Dir: dir}); err != ErrLocked {
		t.Errorf("opened twice: %v", err)
	}
	if err := s.update(func(tx Tx) error { return tx.Put(bucketMeta, keyFormat, []byte{storeFormat + 1}) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := openStore(&Config{Dir: dir}); err == nil {
		t.Error("a later version is opened")
	}
	bad := t.TempDir()
	if err := os.WriteFile(filepath.Join(bad, "client.db"), []byte(strings.Repeat("no store ", 2000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openStore(&Config{Dir: bad}); err == nil {
		t.Error("garbage is opened")
	}
	info, err := os.Stat(filepath.Join(dir, "client.db"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the store's mode is %v (%v)", info.Mode(), err)
	}
}

// TestOpenMakesNothing: opening a folder without a client leaves it as it is.
func TestOpenMakesNothing(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Join(dir, "none")} {
		if _, err := Open(t.Context(), Config{Dir: d}); err != ErrNotRegistered {
			t.Errorf("err = %v, want ErrNotRegistered", err)
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
		t.Errorf("%d files were made (%v)", len(files), err)
	}
}

// TestOneFingerprint: what goes over a channel names neither library nor version, nor how long the caller waits.
func TestOneFingerprint(t *testing.T) {
	var got http.Header
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	defer server.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	c, err := newHTTPClient(string(ca))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("User-Agent", "connect-go/9 (go9.9)")
	req.Header.Set("Connect-Timeout-Ms", "9999")
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil {
		t.Error(err)
	}
	if got.Get("User-Agent") != userAgent || got.Get("Connect-Timeout-Ms") != "" {
		t.Errorf("headers = %v", got)
	}
}

// TestTokensBeforeALaterOne: a client hears from another of the user's that a contact was given a later token, before it is in the connection group itself. It revokes those that it knew of,
// and owes the contact nothing: a further change of its own would be one too many.
func TestTokensBeforeALaterOne(t *testing.T) {
	k := &contactRecord{OwnToken: []byte("first"), Spare: [][]byte{[]byte("another"), []byte("later")}, OwnTokens: 0}
	new(Client).joinContact(k, &mimimiv1.SharedContact{OwnToken: []byte("later"), OwnNumber: 1})
	if len(k.Spare) != 0 || string(k.OwnToken) != "later" || k.OwnTokens != 1 || !k.AliasMade {
		t.Errorf("the contact has token %q, number %d, and may have %q", k.OwnToken, k.OwnTokens, k.Spare)
	}
	if got := string(bytes.Join(k.Revoke, []byte(" "))); got != "first another" {
		t.Errorf("revoked are %q", got)
	}
}
