package privacy

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"
)

var secretValue = []byte("\x01\xfe\x80/mimi://a.example/u/alice\x00\x7f")

func TestMatrixIsWellFormed(t *testing.T) {
	m, err := LoadMatrix()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Rows) < 9 || len(m.Roles) != 6 {
		t.Errorf("the matrix has %d rows and %d roles", len(m.Rows), len(m.Roles))
	}
}

// check records one thing in one view and returns the leaks found.
func check(t *testing.T, v View, kind, where string, data []byte) []Leak {
	t.Helper()
	m, err := LoadMatrix()
	if err != nil {
		t.Fatal(err)
	}
	r := NewRecorder()
	r.Add(v, where, data)
	rep, err := r.Check(m, []Canary{{Kind: kind, Label: "alice", Domain: "a.example", Value: secretValue}})
	if err != nil {
		t.Fatal(err)
	}
	return rep.Leaks
}

func TestEveryFormIsFound(t *testing.T) {
	for name, data := range map[string][]byte{
		"raw":          secretValue,
		"in the midst": []byte("xx" + string(secretValue) + "yy"),
		"hex":          []byte("id=" + hex.EncodeToString(secretValue)),
		"HEX":          []byte(strings.ToUpper(hex.EncodeToString(secretValue))),
		"base64":       []byte(base64.StdEncoding.EncodeToString(secretValue)),
		"base64 at 1":  []byte(base64.StdEncoding.EncodeToString([]byte("q" + string(secretValue) + "rest"))),
		"base64 at 2":  []byte(base64.StdEncoding.EncodeToString([]byte("qq" + string(secretValue) + "rest"))),
		"base64url":    []byte(base64.RawURLEncoding.EncodeToString([]byte("qqq" + string(secretValue)))),
	} {
		t.Run(name, func(t *testing.T) {
			leaks := check(t, View{"a.example", Hub}, "connection key", "payload", data)
			if len(leaks) != 1 || leaks[0].Where != "payload" || leaks[0].Role != Hub {
				t.Errorf("leaks = %v, want one at the hub's payload", leaks)
			}
		})
	}
}

func TestMatrixDecides(t *testing.T) {
	for _, c := range []struct {
		name, kind string
		view       View
		leaks      int
	}{
		{"own directory", "user identifier", View{"a.example", ProviderAccount}, 0},
		{"another domain's directory", "user identifier", View{"b.example", ProviderAccount}, 1},
		{"own relay", "user identifier", View{"a.example", ProviderAnonymous}, 1},
		{"hub", "user identifier", View{"a.example", Hub}, 1},
		{"own queues", "queue ID", View{"a.example", ProviderAnonymous}, 0},
		{"own store", "connection token", View{"a.example", KeyPackageStore}, 0},
		{"another store", "connection token", View{"b.example", KeyPackageStore}, 1},
		{"nobody", "content", View{"a.example", ProviderAccount}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			if leaks := check(t, c.view, c.kind, "request", secretValue); len(leaks) != c.leaks {
				t.Errorf("leaks = %v, want %d", leaks, c.leaks)
			}
		})
	}
}

func TestServedGroups(t *testing.T) {
	m, err := LoadMatrix()
	if err != nil {
		t.Fatal(err)
	}
	for hub, leaks := range map[string]int{"a.example": 0, "b.example": 1} {
		r := NewRecorder()
		r.Add(View{"a.example", Hub}, "payload", secretValue)
		rep, err := r.Check(m, []Canary{{Kind: "pseudonym", Domain: "c.example", Hub: hub, Value: secretValue}})
		if err != nil {
			t.Fatal(err)
		}
		if len(rep.Leaks) != leaks {
			t.Errorf("a group on the hub of %s: leaks = %v, want %d", hub, rep.Leaks, leaks)
		}
	}
}

func TestPartsOfIdentifiersAreFound(t *testing.T) {
	m, err := LoadMatrix()
	if err != nil {
		t.Fatal(err)
	}
	user, client := []byte("mimi://a.example/u/alice-liddell"), []byte("mimi://a.example/d/0f8fad5b-d9cb-469f-a165-70867728950e")
	uuid := []byte("\x0f\x8f\xad\x5b\xd9\xcb\x46\x9f\xa1\x65\x70\x86\x77\x28\x95\x0e")
	for name, data := range map[string][]byte{
		"name":      []byte("user=alice-liddell"),
		"uuid":      []byte("0f8fad5b-d9cb-469f-a165-70867728950e"),
		"digits":    []byte("0F8FAD5BD9CB469FA16570867728950E"),
		"raw":       uuid,
		"in base64": []byte(base64.StdEncoding.EncodeToString(append([]byte("x"), uuid...))),
	} {
		r := NewRecorder()
		r.Add(View{"a.example", Hub}, "log", data)
		rep, err := r.Check(m, []Canary{{Kind: "user identifier", Domain: "a.example", Value: user}, {Kind: "client identifier", Domain: "a.example", Value: client}})
		if err != nil {
			t.Fatal(err)
		}
		if len(rep.Leaks) == 0 {
			t.Errorf("%s: not found", name)
		}
	}
}

func TestCleanViewRaisesNothing(t *testing.T) {
	if leaks := check(t, View{"a.example", Hub}, "content", "payload", []byte(strings.Repeat("nothing to see here ", 1000))); len(leaks) != 0 {
		t.Errorf("leaks = %v", leaks)
	}
}

func TestCheckRefusesWhatItCannotSearch(t *testing.T) {
	m, err := LoadMatrix()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Canary{
		"short":   {Kind: "content", Value: []byte("short")},
		"no kind": {Kind: "shoe size", Value: secretValue},
	} {
		if _, err := NewRecorder().Check(m, []Canary{c}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestLogsReachBothSidesOfTheProvider(t *testing.T) {
	m, err := LoadMatrix()
	if err != nil {
		t.Fatal(err)
	}
	r := NewRecorder()
	if _, err := r.Writer("a.example", "provider").Write(secretValue); err != nil {
		t.Fatal(err)
	}
	rep, err := r.Check(m, []Canary{{Kind: "queue ID", Domain: "a.example", Value: secretValue}})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Leaks) != 1 || rep.Leaks[0].Role != ProviderAccount || rep.Leaks[0].Where != "log" {
		t.Errorf("leaks = %v, want one in the account side's log", rep.Leaks)
	}
}

func TestBusMessagesGoToTheirReaders(t *testing.T) {
	m, err := LoadMatrix()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		subject string
		want    []Role
	}{
		{"group.3.abc.c", []Role{Fanout, Hub, Replay}},
		{"inbox.abc", []Role{ProviderAccount}},
		{"out.abc", []Role{Fanout, ProviderAnonymous, Replay}}, // the store's notices go there, and it sees nothing there
		{"queue.1.abc", []Role{ProviderAnonymous}},
		{"kp.1.abc.def", []Role{KeyPackageStore}},
		{"peer.abc", []Role{ProviderAnonymous}},
		{"link.abc", []Role{ProviderAccount}},
		{"revoked.abc", []Role{ProviderAnonymous}},
		{"hint.queue.1.abc", []Role{ProviderAnonymous}},
		{"rpc.inbox", []Role{ProviderAccount, ProviderAnonymous}},
		{"$JS.API.STREAM.MSG.GET.DIRECTORY", []Role{ProviderAccount}},
		{"$JS.ACK.GROUP_3.consumer.1.2.3.4.5", []Role{Fanout, Hub, Replay}},
		{"_INBOX.abc", []Role{Fanout, Hub, KeyPackageStore, ProviderAccount, ProviderAnonymous}},
	} {
		t.Run(c.subject, func(t *testing.T) {
			r := NewRecorder()
			r.BusMessage("a.example", c.subject, "", map[string][]string{"X-Test": {string(secretValue)}}, nil)
			rep, err := r.Check(m, []Canary{{Kind: "content", Domain: "a.example", Value: secretValue}})
			if err != nil {
				t.Fatal(err)
			}
			var got []Role
			for _, l := range rep.Leaks {
				if l.Where != "header" {
					t.Errorf("found in %s, want header", l.Where)
				}
				got = append(got, l.Role)
			}
			if len(got) != len(c.want) {
				t.Fatalf("roles = %v, want %v", got, c.want)
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Errorf("roles = %v, want %v", got, c.want)
				}
			}
		})
	}
}

func TestAnswersGoToWhoeverAsked(t *testing.T) {
	m, err := LoadMatrix()
	if err != nil {
		t.Fatal(err)
	}
	r := NewRecorder()
	r.BusMessage("a.example", "$JS.API.STREAM.MSG.GET.DIRECTORY", "_INBOX_provider.1", nil, nil)
	r.BusMessage("a.example", "_INBOX_provider.1", "", nil, secretValue)
	rep, err := r.Check(m, []Canary{{Kind: "content", Domain: "a.example", Value: secretValue}})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Leaks) != 1 || rep.Leaks[0].Role != ProviderAccount {
		t.Errorf("leaks = %v, want one at the account side", rep.Leaks)
	}
}
