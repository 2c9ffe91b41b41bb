package fault

import (
	"fmt"
	"testing"
	"time"

	"mimimi.example/pkg/problem"
)

// TestFaults stops every process of a domain, one after the other, each when the one before is ready again, as a rolling update does; then it kills each, with SIGKILL; with -rounds then come
// the faults that only a cluster has. Nothing is lost, nothing is shown twice, and as long as two nodes can talk to each other no app is told of it.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a minute or two")
	}
	dir := t.TempDir()
	begun := time.Now()
	d := deploy(t, dir)
	l := newLoad(t, d, dir)
	t.Logf("introduced after %v", time.Since(begun).Round(time.Millisecond))
	l.begin()
	l.rollingRestart()
	for range *rounds {
		l.leaders()
		l.partitions()
		l.noQuorum()
		l.rollingRestart()
	}
	l.end()
	t.Logf("ended after %v", time.Since(begun).Round(time.Millisecond))
	l.check()
	t.Logf("checked after %v", time.Since(begun).Round(time.Millisecond))
}

// rollingRestart ends every process once gracefully and once not.
func (l *load) rollingRestart() {
	for _, n := range l.d.cluster.nodes {
		l.step(n.name+" stopped", n.stop, n)
	}
	for _, r := range l.d.services {
		l.step(r.name+" stopped", r.stop, r.process)
	}
	l.goesOn("all were stopped")
	for _, n := range l.d.cluster.nodes {
		l.step(n.name+" killed", n.kill, n)
	}
	for _, r := range l.d.services {
		l.step(r.name+" killed", r.kill, r.process)
	}
	l.goesOn("all were killed")
}

// perStep is how many messages are shown, in whichever groups, after a process is ready again and before the next one's turn.
const perStep = 5

// step ends a process, starts it again and waits until it is ready and something has gone on. What a killed replica held another one takes over within about ten seconds: that is not waited for, as no
// supervisor does.
func (l *load) step(what string, end func(), p *process) {
	l.t.Helper()
	begun := time.Now()
	end()
	p.start()
	p.await()
	ready, before := time.Since(begun), l.shown()
	eventually(l.t, "messages after "+what, func() bool { return l.shown() >= before+perStep })
	l.t.Logf("%s: ready after %v, gone on after %v", what, ready.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
}

// shown is how many messages of our groups were shown to one member each.
func (l *load) shown() (n int) {
	for _, g := range l.groups {
		if g.ours {
			n += len(g.shown(g.members[0]))
		}
	}
	return n
}

// goesOn waits until everybody who stays has been shown something new in every group.
func (l *load) goesOn(what string) {
	l.t.Helper()
	for _, g := range l.groups {
		before := make(map[*person]int)
		for _, m := range g.members {
			before[m] = len(g.shown(m))
		}
		for _, m := range g.members {
			eventually(l.t, fmt.Sprintf("%s to be shown something in %s after %s", m.name, g.name, what), func() bool { return len(g.shown(m)) > before[m] })
		}
	}
}

// leaders kills the nodes that lead while they do: the cluster's own group, and a stream that everything goes through.
func (l *load) leaders() {
	l.t.Helper()
	c := l.d.cluster
	for _, who := range []struct {
		what   string
		leader func() int
	}{
		{"the meta leader", func() int { i, _ := c.metaLeader(); return i }},
		{"a log's leader", func() int { return c.streamLeader("GROUP_0") }},
		{"the outbox's leader", func() int { return c.streamLeader("OUTBOX") }},
	} {
		eventually(l.t, "the cluster", c.whole)
		leader := -1
		eventually(l.t, who.what, func() bool { leader = who.leader(); return leader >= 0 })
		l.step(who.what+" killed", c.nodes[leader].kill, c.nodes[leader])
	}
	l.goesOn("all leaders were killed")
}

// partitions cuts each node off from the other two, which go on; the services that it holds find another one.
func (l *load) partitions() {
	l.t.Helper()
	c := l.d.cluster
	for i := range nodes {
		eventually(l.t, "the cluster", c.whole)
		begun := time.Now()
		c.isolate(i, true)
		l.goesOn("a partition")
		l.t.Logf("%s cut off: gone on after %v", nodeName(i), time.Since(begun).Round(time.Millisecond))
		c.isolate(i, false)
		eventually(l.t, "the cluster", c.whole)
	}
}

// noQuorum kills two nodes of the three. Nothing can be stored then: an app is told so, in a way that says that it may try again. When they are back all goes on.
func (l *load) noQuorum() {
	l.t.Helper()
	c := l.d.cluster
	eventually(l.t, "the cluster", c.whole)
	begun := time.Now()
	down := c.nodes[1:]
	for _, n := range down {
		n.kill()
	}
	p := l.people["ina"]
	if _, err := p.c.CreateGroup(p.ctx, "nowhere"); problem.KindOf(err) != problem.Unavailable {
		l.t.Errorf("without a quorum an app is told %v", err)
	} else {
		l.t.Logf("without a quorum an app is told after %v: %v", time.Since(begun).Round(time.Millisecond), err)
	}
	for _, n := range down {
		n.start()
	}
	eventually(l.t, "the cluster", c.whole)
	l.goesOn("the quorum is back")
	l.t.Logf("two nodes killed: gone on after %v", time.Since(begun).Round(time.Millisecond))
	for _, p := range l.people {
		p.forget() // being told was right
	}
}
