package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimimi.example/pkg/client"
)

// state is what commands show of a person's state.
func (p *person) state() string {
	p.t.Helper()
	out := ""
	for _, command := range []string{"contacts", "requests", "group list"} {
		r := p.command(command)
		if r.code != 0 {
			p.t.Fatalf("%s: %s", p.name, r)
		}
		out += command + " " + r.stdout
	}
	var groups []groupRow
	p.must(&groups, "group list")
	for _, g := range groups {
		if g.State == "active" {
			out += "members " + p.command("group members", g.ID).stdout
		}
	}
	return out
}

// unchanged checks that nothing that any of the people can see has changed since before was taken.
func unchanged(t *testing.T, before map[*person]string) {
	t.Helper()
	for p, was := range before {
		if is := p.state(); is != was {
			t.Errorf("%s's state has changed, from\n%s\nto\n%s", p.name, was, is)
			before[p] = is
		}
	}
}

// TestBadInput: what a user must not do is refused, with the reason and exit code 1, and changes nothing.
func TestBadInput(t *testing.T) {
	w := newWorld(t, "ab")
	alice, mallory := register(t, w.a, "alice"), register(t, w.a, "mallory")
	bob, carol := register(t, w.b, "bob"), register(t, w.b, "carol")
	introduce(alice, bob)
	introduce(alice, carol)
	introduce(mallory, bob)
	g := create(alice, "friends", bob, carol)
	g.say(alice, "hello")
	g.agreed(t, 1, alice, bob, carol)
	alice.must(nil, "group remove", "friends", carol.user)
	carol.await("her removal", in(g[carol], "group_over", ""))
	g.members(bob, alice, bob)
	before := make(map[*person]string)
	for _, p := range []*person{alice, bob, carol, mallory} {
		before[p] = p.state()
	}

	for name, bad := range map[string]func(*testing.T){
		"users":       func(t *testing.T) { badUsers(w, alice) },
		"accounts":    func(t *testing.T) { badAccounts(t, w, alice) },
		"requests":    func(t *testing.T) { badRequests(t, alice, bob, mallory) },
		"groups":      func(t *testing.T) { badGroups(g, alice, bob, carol, mallory) },
		"invitations": func(t *testing.T) { badInvitations(t, g, bob, mallory) },
		"folders":     func(t *testing.T) { badFolders(t, alice) },
	} {
		t.Run(name, func(t *testing.T) {
			bad(t)
			unchanged(t, before)
		})
	}

	g.say(bob, "all is well")
	g.agreed(t, 2, alice, bob)
	g.agreed(t, 1, carol)
	for p := range before {
		noWarnings(t, p)
	}
}

// badUsers names users that do not exist, or cannot.
func badUsers(w *world, alice *person) {
	alice.refused(client.ErrUnknownUser.Error(), "connect", w.b.user("nobody"))
	alice.refused(client.ErrUnknownUser.Error(), "connect", w.a.user("nobody"))
	alice.refused("no connection with that domain", "connect", "mimi://c.localhost/u/bob")
	for _, u := range []string{"", "bob", "mimi://b.localhost/d/bob", "mimi://b.localhost/u/", "mimi://B.localhost/u/bob", "mimi://b.localhost/u/bob/x", "https://b.localhost/u/bob",
		"mimi://b.localhost/u/" + strings.Repeat("b", 4000)} {
		alice.refused("mimimi: ", "connect", u)
		alice.refused("mimimi: ", "verify", u)
		alice.refused("mimimi: ", "group add", "friends", u)
	}
	alice.refused(client.ErrNotConnected.Error(), "verify", w.b.user("nobody"))
	alice.refused("mimimi: ", "connect", alice.user)
}

// badAccounts tries to get accounts that one cannot have.
func badAccounts(t *testing.T, w *world, alice *person) {
	alice.refused(client.ErrRegistered.Error(), "register", "-provider", w.a.at.ClientFile, "alice2")
	again := alice.command("register", "-provider", w.a.at.ClientFile, "alice")
	if again.code != 0 {
		t.Errorf("registering again, with the same name in the same folder, goes on from there: %s", again)
	}
	thief := unregistered(t, w.a, "thief")
	thief.refused("taken", "register", "-provider", w.a.at.ClientFile, "alice")
	for _, name := range []string{"", "a b", "a/b", "Ä", strings.Repeat("x", 300)} {
		other := unregistered(t, w.a, "other")
		other.refused("mimimi: ", "register", "-provider", w.a.at.ClientFile, name)
	}
	notJSON := filepath.Join(t.TempDir(), "client.json")
	if err := os.WriteFile(notJSON, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	thief2 := unregistered(t, w.a, "thief2")
	thief2.refused("provider info", "register", "-provider", notJSON, "thief2")
}

// badRequests answers what cannot be answered, and asks again.
func badRequests(t *testing.T, alice, bob, mallory *person) {
	for _, id := range []string{"", "x", strings.Repeat("0", 32), alice.user, mallory.user} {
		bob.refused(client.ErrUnknownRequest.Error(), "accept", id)
		bob.refused(client.ErrUnknownRequest.Error(), "reject", id)
	}
	seen := len(bob.seen())
	mallory.must(nil, "connect", bob.user) // connected already: nothing happens
	mallory.must(nil, "connect", bob.user)
	for _, e := range bob.seen()[seen:] {
		t.Errorf("bob saw %+v of a request that changes nothing", e)
	}
}

// badGroups does with groups what one may not.
func badGroups(g group, alice, bob, carol, mallory *person) {
	carol.refused(client.ErrGroupOver.Error(), "send", g[carol], "still here?")
	carol.refused(client.ErrGroupOver.Error(), "group add", g[carol], alice.user)
	carol.refused(client.ErrGroupOver.Error(), "group invite", g[carol])
	carol.refused(client.ErrGroupOver.Error(), "group leave", g[carol])
	alice.refused(client.ErrNotConnected.Error(), "group add", "friends", mallory.user)
	alice.refused(client.ErrMember.Error(), "group add", "friends", bob.user)
	alice.refused(client.ErrNotMember.Error(), "group remove", "friends", carol.user)
	bob.refused("policy", "group remove", g[bob], alice.user) // roles: bob is no admin
	for _, name := range []string{"", "no such group", g[alice] + "0"} {
		for _, command := range []string{"group members", "group invite", "group leave"} {
			mallory.refused(client.ErrUnknownGroup.Error(), command, name)
		}
		mallory.refused(client.ErrUnknownGroup.Error(), "send", name, "hello")
		mallory.refused(client.ErrUnknownGroup.Error(), "group remove", name, bob.user)
	}
	mallory.refused(client.ErrUnknownGroup.Error(), "send", g[alice], "I know its id")
	alice.refused(client.ErrTooLarge.Error(), "send", "friends", strings.Repeat("x", client.MaxMessage+1))
}

// badInvitations joins by what is no invitation.
func badInvitations(t *testing.T, g group, bob, mallory *person) {
	var good struct{ Link string }
	bob.must(&good, "group invite", g[bob])
	middle := len(good.Link) / 2
	flipped := []byte(good.Link)
	flipped[middle] = 'A' + (flipped[middle]-'A'+1)%26
	for _, link := range []string{"", "x", "mimimi:", "https://b.localhost/", strings.Repeat("A", 5000), good.Link[:middle], good.Link[1:], good.Link + "A", string(flipped), "-x"} {
		if r := mallory.command("group join", "--", link); r.code != 1 || r.stdout != "" {
			t.Errorf("joining by a bad link: %s", r)
		}
	}
	mallory.refused(client.ErrBadInvitation.Error(), "group join", "garbage")
}

// badFolders names folders in which there is no client.
func badFolders(t *testing.T, alice *person) {
	nowhere := &person{t: t, name: "nobody", dir: filepath.Join(t.TempDir(), "nowhere")}
	for _, command := range [][]string{
		{"connect", alice.user}, {"requests"}, {"accept", "x"}, {"reject", "x"}, {"contacts"}, {"verify", alice.user}, {"group list"}, {"group create", "x"}, {"send", "x", "y"},
	} {
		nowhere.refused(client.ErrNotRegistered.Error(), command[0], command[1:]...)
	}
	nowhere.refused("register first", "listen", "-once")
	if _, err := os.Stat(nowhere.dir); !os.IsNotExist(err) {
		t.Errorf("a refused command made a folder: %v", err)
	}
	damaged := t.TempDir()
	if err := os.WriteFile(filepath.Join(damaged, "printed"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	(&person{t: t, name: "nobody", dir: damaged}).refused("register", "listen", "-once")
}

// TestUsage: what cannot be understood gives exit code 2, and says why.
func TestUsage(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{}, {"no-such-command"}, {"up"}, {"up", "-domain", "a.localhost"}, {"up", "-dir", dir}, {"send", "-dir", dir, "group"}, {"send", "group", "text"},
		{"connect", "-dir", dir}, {"connect", "-dir", dir, "a", "b"}, {"group"}, {"group", "add", "-dir", dir, "g"}, {"listen", "-dir", dir, "-no-such-flag"},
		{"listen", "-dir", dir, "-after", "x"}, {"listen", "-dir", dir, "-for", "x"}, {"register", "-dir", dir, "x"}, {"register", "-dir", dir, "-provider", dir + "/none", "x"},
		{"up", "-domain", "a.localhost", "-dir", dir, "-replicas", "0"}, {"up", "-domain", "a.localhost", "-dir", dir, "-replicas", "9"},
		{"up", "-domain", "a.localhost", "-domain", "b.localhost", "-dir", dir, "-nats", "nats://127.0.0.1:1"},
	} {
		r, err := run(t, patience(), args...)
		if err != nil {
			t.Fatal(err)
		}
		if r.code != 2 || !strings.Contains(r.stderr, "mimimi: ") {
			t.Errorf("want exit code 2 and a reason, got %s", r)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("usage errors left %v in the folder, %v", entries, err)
	}
}

// TestBadDomains: a domain that cannot be run is refused; one that is running is not harmed.
func TestBadDomains(t *testing.T) {
	w := newWorld(t, "ab")
	alice := register(t, w.a, "alice")
	for name, args := range map[string][]string{
		"not a domain":          {"-domain", "A.localhost", "-dir", t.TempDir()},
		"a path":                {"-domain", "../x", "-dir", t.TempDir()},
		"another one's folder":  {"-domain", "b.localhost", "-dir", w.a.dir},
		"runs already":          {"-domain", "a.localhost", "-dir", w.a.dir},
		"runs already, in part": {"-domain", "c.localhost", "-domain", "a.localhost", "-dir", filepath.Dir(w.a.dir)},
		"a file, not a folder":  {"-domain", "a.localhost", "-dir", binary},
		"a folder below a file": {"-domain", "a.localhost", "-dir", filepath.Join(binary, "x")},
	} {
		r, err := run(t, patience(), append([]string{"up", "-json"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		if r.code != 1 || !strings.Contains(r.stderr, "mimimi: ") {
			t.Errorf("%s: want exit code 1 and a reason, got %s", name, r)
		}
	}
	g := create(alice, "notes")
	g.say(alice, "still here")
	g.agreed(t, 1, alice)
	w.a.restart()
	g.say(alice, "and after a restart")
	g.agreed(t, 2, alice)
}
