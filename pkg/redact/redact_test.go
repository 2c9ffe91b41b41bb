package redact

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

type userKind struct{}

func (userKind) Placeholder() string { return "[user]" }

type user struct{ Name[userKind] }

type key struct{ Secret }

const canary = "canary-4f1c9a"

// carrier has the fields fmt treats differently: exported ones with methods, unexported ones without.
type carrier struct {
	User   user
	Key    key
	user   user
	key    key
	Nested map[string]user
	Ptr    *key
}

func newCarrier() carrier {
	u, k := user{NewName[userKind](canary)}, key{NewSecret([]byte(canary))}
	return carrier{User: u, Key: k, user: u, key: k, Nested: map[string]user{"x": u}, Ptr: &k}
}

// leaks reports every form of the canary that a renderer could have written.
func leaks(out string) bool {
	dec := strings.Trim(fmt.Sprint([]byte(canary)), "[]")
	for _, form := range []string{canary, hex.EncodeToString([]byte(canary)), strings.ToUpper(hex.EncodeToString([]byte(canary))), dec} {
		if strings.Contains(out, form) {
			return true
		}
	}
	return false
}

func TestNoVerbRendersTheValue(t *testing.T) {
	c := newCarrier()
	for _, v := range []any{c, &c, c.User, &c.User, c.Key, &c.Key, []user{c.User}, []key{c.Key}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T %v", "%10.3v"} {
			if out := fmt.Sprintf(verb, pad(v, verb)...); leaks(out) {
				t.Errorf("%s of %T shows the value: %s", verb, v, out)
			}
		}
	}
}

func pad(v any, verb string) []any {
	if verb == "%T %v" {
		return []any{v, v}
	}
	return []any{v}
}

func TestPlaceholders(t *testing.T) {
	c := newCarrier()
	for got, want := range map[string]string{
		fmt.Sprintf("%v", c.User): "[user]", fmt.Sprintf("%#v", c.User): "[user]", fmt.Sprintf("%x", c.Key): "[secret]",
		c.User.String(): "[user]", c.Key.GoString(): "[secret]", c.Key.LogValue().String(): "[secret]",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestNoEncoderRendersTheValue(t *testing.T) {
	c := newCarrier()
	var out bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("x", "user", c.User, "key", c.Key, "all", c, "ptr", &c)
	}
	j, err := json.Marshal(map[user]any{c.User: c})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(j)
	if leaks(out.String()) {
		t.Errorf("an encoder shows the value: %s", out.String())
	}
	if !strings.Contains(string(j), `"[user]":`) {
		t.Errorf("map key: %s", j)
	}
}

func TestNameCompares(t *testing.T) {
	a, b := user{NewName[userKind]("a")}, user{NewName[userKind]("b")}
	if a == b || a != (user{NewName[userKind]("a")}) || a.Wire() != "a" {
		t.Error("names do not compare by value")
	}
	if !(user{}).IsZero() || (user{}).Wire() != "" || a.IsZero() {
		t.Error("zero name")
	}
}

func TestSecret(t *testing.T) {
	in := []byte("abc")
	s := NewSecret(in)
	in[0] = 'x'
	out := s.Bytes()
	out[1] = 'x'
	if string(s.Bytes()) != "abc" {
		t.Error("a secret shares memory with its input or output")
	}
	if !SameSecret(s, NewSecret([]byte("abc"))) || SameSecret(s, NewSecret([]byte("abd"))) || SameSecret(Secret{}, Secret{}) {
		t.Error("SameSecret")
	}
	if !(Secret{}).IsZero() || (Secret{}).Bytes() != nil || s.IsZero() {
		t.Error("zero secret")
	}
}
