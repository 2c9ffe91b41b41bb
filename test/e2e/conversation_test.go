package e2e

import (
	"fmt"
	"strings"
	"testing"

	"mimimi.example/pkg/client"
)

// TestTwoDomainsFourClients tells the demo's story with processes that were started by hand.
func TestTwoDomainsFourClients(t *testing.T) {
	w := newWorld(t, "ab")
	alice, dave := register(t, w.a, "alice"), register(t, w.a, "dave")
	bob, carol := register(t, w.b, "bob"), register(t, w.b, "carol")
	introduce(alice, bob)
	introduce(alice, carol)

	g := create(alice, "friends", bob, carol)
	g.members(alice, alice, bob, carol)
	g.members(bob, alice, bob, carol)
	g.members(carol, alice, bob, carol)
	g.sayAll(t, map[*person][]string{
		alice: {"alice 1", "alice 2", "alice 3"}, bob: {"bob 1", "bob 2"}, carol: {"carol 1", "grüße, 你好 \x1b[31m\n"},
	})
	inOrder(t, g.agreed(t, 7, alice, bob, carol), alice, []string{"alice 1", "alice 2", "alice 3"})

	introduce(dave, bob)
	joinByInvitation(t, g, bob, dave)
	g.members(dave, alice, bob, carol, dave)
	g.members(alice, alice, bob, carol, dave)
	g.say(dave, "dave 1")
	g.agreed(t, 8, alice, bob, carol)
	if got := g.agreed(t, 1, dave); got[0] != dave.user+": dave 1" {
		t.Errorf("dave, who came last, was shown %q", got)
	}
	removeAndLeave(t, g, alice, bob, carol, dave)

	second := create(alice, "second", bob)
	second.say(alice, "again")
	second.say(bob, "and again")
	second.agreed(t, 2, alice, bob)
	checkGroups(t, alice, map[string]string{"friends": "active", "second": "active"})
	for _, p := range []*person{alice, bob, carol, dave} {
		p.sound()
		noWarnings(t, p)
	}
	w.b.stop()
	w.a.stop()
}

// joinByInvitation lets a newcomer in with a link.
func joinByInvitation(t *testing.T, g group, inviter, newcomer *person) {
	t.Helper()
	var invitation struct{ Group, Link string }
	inviter.must(&invitation, "group invite", g[inviter])
	var joined struct{ Group, Name string }
	newcomer.must(&joined, "group join", "-name", "by link", invitation.Link)
	g[newcomer] = joined.Group
	newcomer.await("the group that was joined", in(joined.Group, "group_joined", ""))
	inviter.await("the newcomer", in(g[inviter], "joined", newcomer.user))
}

// removeAndLeave is the story's part in which carol is removed and bob leaves.
func removeAndLeave(t *testing.T, g group, alice, bob, carol, dave *person) {
	t.Helper()
	alice.must(nil, "group remove", "friends", carol.user)
	carol.await("her removal", in(g[carol], "group_over", ""))
	bob.await("carol's removal", in(g[bob], "removed", carol.user))
	dave.await("carol's removal", in(g[dave], "removed", carol.user))
	before := len(carol.shown(g[carol]))
	g.say(alice, "carol cannot read this")
	g.say(bob, "nor this")
	carol.refused(client.ErrGroupOver.Error(), "send", g[carol], "carol cannot write this")
	g.agreed(t, 10, alice, bob)
	g.agreed(t, 3, dave)

	bob.must(nil, "group leave", g[bob])
	alice.await("bob's leaving", in(g[alice], "left", bob.user))
	dave.await("bob's leaving", in(g[dave], "left", bob.user))
	bob.await("the end", in(g[bob], "group_over", ""))
	g.members(alice, alice, dave)
	g.members(dave, alice, dave)
	g.say(dave, "just the two of us")
	g.say(alice, "indeed")
	g.agreed(t, 12, alice)
	g.agreed(t, 5, dave)
	g.agreed(t, 10, bob)
	if after := carol.shown(g[carol]); len(after) != before {
		t.Errorf("carol was shown after her removal: %q", after[before:])
	}
	checkGroups(t, carol, map[string]string{"": "over"})
	checkGroups(t, bob, map[string]string{"": "over"})
}

// checkGroups checks the labels and states of a person's groups.
func checkGroups(t *testing.T, p *person, want map[string]string) {
	t.Helper()
	var rows []groupRow
	p.must(&rows, "group list")
	got := make(map[string]string)
	for _, r := range rows {
		got[r.Name] = r.State
		if r.Waiting != 0 {
			t.Errorf("%s: %d messages wait in a group", p.name, r.Waiting)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s has the groups %v, want %v", p.name, got, want)
	}
}

// noWarnings checks that nothing went wrong that the user was told of.
func noWarnings(t *testing.T, p *person) {
	t.Helper()
	for _, e := range p.seen() {
		if e.Kind == "warning" {
			t.Errorf("%s was warned: %s", p.name, e.Text)
		}
	}
}

// TestTwoReplicas tells the story in short on domains whose services run twice, and started in the other order.
func TestTwoReplicas(t *testing.T) {
	w := newWorld(t, "ba", "-replicas", "2")
	alice, bob, carol := register(t, w.a, "alice"), register(t, w.b, "bob"), register(t, w.b, "carol")
	introduce(alice, bob)
	introduce(alice, carol)
	g := create(alice, "friends", bob, carol)
	g.sayAll(t, map[*person][]string{alice: {"alice 1", "alice 2"}, bob: {"bob 1", "bob 2"}, carol: {"carol 1", "carol 2"}})
	g.agreed(t, 6, alice, bob, carol)
	bob.must(nil, "group leave", g[bob])
	alice.await("bob's leaving", in(g[alice], "left", bob.user))
	g.members(alice, alice, carol)
	g.say(carol, "carol 3")
	g.agreed(t, 7, alice, carol)
	w.a.stop()
	w.b.stop()
}

// TestRemoteDomainDown: while b is down, members on a go on at once; b's members get everything afterwards, in order.
func TestRemoteDomainDown(t *testing.T) {
	w := newWorld(t, "ab")
	alice, dave, bob := register(t, w.a, "alice"), register(t, w.a, "dave"), register(t, w.b, "bob")
	introduce(alice, bob)
	introduce(alice, dave)
	g := create(alice, "friends", bob, dave)
	g.say(bob, "b is up")
	g.agreed(t, 1, alice, bob, dave)

	w.b.proc.kill()
	texts := []string{"b is down 1", "b is down 2", "b is down 3", "b is down 4", "b is down 5"}
	g.say(alice, texts...)
	g.say(dave, "b is still down")
	g.agreed(t, 7, alice, dave)
	if r := bob.command("send", g[bob], "into the void"); r.code != 1 || r.stdout != "" || strings.TrimSpace(r.stderr) == "" {
		t.Errorf("bob, whose provider is down, sends: %s", r)
	}
	if n := len(bob.shown(g[bob])); n != 1 {
		t.Errorf("bob was shown %d messages while his provider was down", n)
	}

	w.b.start()
	shown := g.agreed(t, 7, alice, bob, dave)
	inOrder(t, shown, alice, texts)
	g.say(bob, "b is back")
	g.agreed(t, 8, alice, bob, dave)
}
