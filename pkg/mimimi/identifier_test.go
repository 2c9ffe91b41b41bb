package mimimi

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

const uuid = "6f0e8d9a-4b1c-4d2e-9f30-0123456789ab"

func TestParseIdentifiers(t *testing.T) {
	user := func(s string) error { _, err := ParseUser(s); return err }
	client := func(s string) error { _, err := ParseClient(s); return err }
	userPseudonym := func(s string) error { _, err := ParseUserPseudonym(s); return err }
	clientPseudonym := func(s string) error { _, err := ParseClientPseudonym(s); return err }
	group := func(s string) error { _, err := ParseGroupID([]byte(s)); return err }
	v1 := strings.Replace(uuid, "-4d2e", "-1d2e", 1)
	for _, c := range []struct {
		name  string
		parse func(string) error
		in    string
		ok    bool
	}{
		{"user", user, "mimi://a.example/u/alice", true},
		{"user of localhost", user, "mimi://a.localhost/u/a", true},
		{"all letters of a name", user, "mimi://a.example/u/a.b_c-9", true},
		{"longest name", user, "mimi://a.example/u/" + strings.Repeat("a", 64), true},
		{"name too long", user, "mimi://a.example/u/" + strings.Repeat("a", 65), false},
		{"no name", user, "mimi://a.example/u/", false},
		{"upper-case name", user, "mimi://a.example/u/Alice", false},
		{"name with slash", user, "mimi://a.example/u/a/b", false},
		{"name with zero", user, "mimi://a.example/u/a\x00", false},
		{"name like a pseudonym", user, "mimi://a.example/u/" + uuid, false},
		{"other scheme", user, "mima://a.example/u/alice", false},
		{"no scheme", user, "a.example/u/alice", false},
		{"other kind", user, "mimi://a.example/d/alice", false},
		{"no kind", user, "mimi://a.example/alice", false},
		{"no domain", user, "mimi:///u/alice", false},
		{"port", user, "mimi://a.example:8443/u/alice", false},
		{"upper-case domain", user, "mimi://A.example/u/alice", false},
		{"empty", user, "", false},
		{"client", client, "mimi://a.example/d/" + uuid, true},
		{"client of version 1", client, "mimi://a.example/d/" + v1, true},
		{"client without uuid", client, "mimi://a.example/d/phone", false},
		{"user pseudonym", userPseudonym, "mimi://a.example/u/" + uuid, true},
		{"user pseudonym of version 1", userPseudonym, "mimi://a.example/u/" + v1, false},
		{"upper-case uuid", userPseudonym, "mimi://a.example/u/" + strings.ToUpper(uuid), false},
		{"uuid of wrong variant", userPseudonym, "mimi://a.example/u/" + strings.Replace(uuid, "-9f30", "-cf30", 1), false},
		{"uuid with a hyphen elsewhere", userPseudonym, "mimi://a.example/u/6f0e8d9a-4b1c-4d2e-9f30-01234567-9ab", false},
		{"real user as pseudonym", userPseudonym, "mimi://a.example/u/alice", false},
		{"client pseudonym", clientPseudonym, "mimi://a.example/d/" + uuid, true},
		{"client pseudonym of version 1", clientPseudonym, "mimi://a.example/d/" + v1, false},
		{"user as client pseudonym", clientPseudonym, "mimi://a.example/u/" + uuid, false},
		{"group", group, "mimi://hub.example/g/" + uuid, true},
		{"group of version 1", group, "mimi://hub.example/g/" + v1, false},
		{"trailing byte", group, "mimi://hub.example/g/" + uuid + "a", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.parse(c.in); (err == nil) != c.ok {
				t.Errorf("parse: %v, want ok %v", err, c.ok)
			} else if err != nil {
				wantErr(t, err, ErrInvalid, "")
			}
		})
	}
}

func TestCheckDomain(t *testing.T) {
	label := strings.Repeat("a", 63)
	for in, ok := range map[string]bool{
		"a.example": true, "xn--bcher-kva.example": true, "a.localhost": true, "localhost": true, "1.example": true,
		strings.Repeat("a", 39) + "." + strings.Repeat("b", 40): true,
		strings.Repeat("a", 40) + "." + strings.Repeat("b", 40): false,
		label + ".example": true, label + "a.example": false,
		"": false, ".": false, "a..b": false, "a.example.": false, "-a.example": false, "a-.example": false, "a_b.example": false,
		"bücher.example": false, "127.0.0.1": false, "[::1]": false, "a.example:443": false, "A.example": false, "a b": false,
	} {
		if err := CheckDomain(in); (err == nil) != ok {
			t.Errorf("CheckDomain(%q) = %v, want ok %v", in, err, ok)
		}
	}
}

func TestNewIdentifiers(t *testing.T) {
	a, b := must(NewUserPseudonym("a.example")), must(NewUserPseudonym("a.example"))
	if a == b || a != must(ParseUserPseudonym(a.Wire())) || a.Domain() != "a.example" {
		t.Error("user pseudonyms are not fresh, or do not read back")
	}
	if must(NewClient("a.example")).Domain() != "a.example" || must(NewClientPseudonym("b.example")).Domain() != "b.example" {
		t.Error("domain")
	}
	if g := must(NewGroupID("hub.example")); g.Domain() != "hub.example" || len(g.Wire()) != len("mimi://hub.example/g/")+uuidLen {
		t.Error("group id")
	}
	if _, err := NewGroupID("Hub"); err == nil {
		t.Error("a group at no domain")
	}
	if (User{}).Domain() != "" {
		t.Error("the zero user has a domain")
	}
}

func TestIdentifiersAndSecretsDoNotRender(t *testing.T) {
	r := &ConnectionRequest{
		Responder: must(ParseUser("mimi://a.example/u/canary")), RequesterKey: must(ConnectionKeyFrom([]byte(strings.Repeat("canary/8", 4)))),
		ConnectionGroup: must(NewGroupID("canary.example")),
	}
	out := string(must(json.Marshal(r)))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		out += fmt.Sprintf(verb, r) + fmt.Sprintf(verb, *r)
	}
	for _, form := range []string{"canary", "63616e617279", "99 97 110"} {
		if strings.Contains(out, form) {
			t.Errorf("rendered: %s", out)
		}
	}
	for got, want := range map[string]string{
		fmt.Sprint(r.Responder): "[user]", fmt.Sprint(r.ConnectionGroup): "[group]", fmt.Sprintf("%x", r.RequesterKey): "[secret]",
		fmt.Sprint(Client{}): "[client]", fmt.Sprint(UserPseudonym{}): "[user pseudonym]", fmt.Sprint(EpochSender{}): "[secret]",
		fmt.Sprintf("%v", LinkUpdateKey{}): "[secret]", fmt.Sprint(ClientPseudonym{}): "[client pseudonym]",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestSecrets(t *testing.T) {
	k := NewConnectionKey()
	if !k.Equal(must(ConnectionKeyFrom(k.Bytes()))) || k.Equal(NewConnectionKey()) || (LinkKey{}).Equal(LinkKey{}) {
		t.Error("Equal")
	}
	for _, n := range []int{0, 31, 33} {
		b := make([]byte, n)
		_, e1 := ConnectionKeyFrom(b)
		_, e2 := ConnectionTokenFrom(b)
		_, e3 := LinkKeyFrom(b)
		_, e4 := InviteSecretFrom(b)
		_, e5 := JoinTokenFrom(b)
		_, e6 := QueueIDFrom(b)
		for _, err := range []error{e1, e2, e3, e4, e5, e6} {
			wantErr(t, err, ErrMalformed, "")
		}
	}
	s := NewInviteSecret()
	if !s.JoinToken().Equal(s.JoinToken()) || s.JoinToken().Equal(NewInviteSecret().JoinToken()) || string(s.JoinToken().Bytes()) == string(s.Bytes()) {
		t.Error("JoinToken")
	}
	same := make([]byte, 32)
	if must(ConnectionTokenFrom(same)).Hash() == must(JoinTokenFrom(same)).Hash() {
		t.Error("the hashes of two kinds of token are not separated")
	}
}

func FuzzIdentifiers(f *testing.F) {
	for _, s := range []string{"mimi://a.example/u/alice", "mimi://a.example/d/" + uuid, "mimi://a.example/u/" + uuid, "mimi://hub.example/g/" + uuid} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, userErr := ParseUser(s)
		p, pseudonymErr := ParseUserPseudonym(s)
		g, groupErr := ParseGroupID([]byte(s))
		c, clientErr := ParseClient(s)
		cp, clientPseudonymErr := ParseClientPseudonym(s)
		if userErr == nil && pseudonymErr == nil {
			t.Error("a user passes for a pseudonym")
		}
		for _, id := range []struct {
			wire, domain string
			err          error
		}{{u.Wire(), u.Domain(), userErr}, {p.Wire(), p.Domain(), pseudonymErr}, {g.Wire(), g.Domain(), groupErr}, {c.Wire(), c.Domain(), clientErr}, {cp.Wire(), cp.Domain(), clientPseudonymErr}} {
			if id.err == nil && (id.wire != s || CheckDomain(id.domain) != nil) {
				t.Errorf("parsed %q from %q", id.wire, s)
			}
		}
	})
}
