package mls

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"pgregory.net/rapid"
)

// modelEpoch is what the first member that enters an epoch finds.
type modelEpoch struct {
	authenticator, exported, context, tree []byte
	know                                   *groupState // opens every message of the epoch; no member is given it
	generations                            map[string]bool
}

// entered compares what x has in its new epoch with the others.
func (m *model) entered(x *modelMember) {
	g := x.group
	now := &modelEpoch{
		authenticator: g.EpochAuthenticator(), exported: must(g.Export("label", []byte("context"), 40))(m),
		context: g.Public().GroupContext(), tree: g.Public().Tree(),
	}
	e := m.epochs[g.Epoch()]
	if e == nil {
		now.know = must(ParseGroup(g.Marshal(), m.rules))(m).s
		now.generations = map[string]bool{}
		m.epochs[g.Epoch()] = now
		return
	}
	for what, pair := range map[string][2][]byte{
		"authenticator": {e.authenticator, now.authenticator}, "exported secret": {e.exported, now.exported},
		"GroupContext": {e.context, now.context}, "tree": {e.tree, now.tree},
	} {
		if !bytes.Equal(pair[0], pair[1]) {
			m.Fatalf("%s has another %s in its epoch", x.name, what)
		}
	}
	if string(g.OwnLeaf().Credential().Body) != x.name {
		m.Fatalf("%s is somebody else", x.name)
	}
}

// merge puts a commit in force, and looks for what must be gone then.
func (m *model) merge(x *modelMember, staged *StagedCommit) {
	s := x.group.s
	gone := map[string][]byte{
		"init": s.secrets.init, "exporter": s.secrets.exporter, "external": s.secrets.external, "confirmation": s.secrets.confirmation,
		"membership": s.secrets.membership, "authenticator": s.secrets.authenticator,
	}
	if n := len(s.past); n == s.keep { // the oldest of those that are kept for late messages
		gone["oldest sender data"], gone["oldest resumption"] = s.past[n-1].senderData, s.past[n-1].resumption
	}
	for n, k := range s.private.keys {
		next := staged.Group().s.private.keys[n]
		if next.isZero() || !bytes.Equal(next.Public(), k.Public()) {
			gone[fmt.Sprint("key of node ", n)] = must(k.MarshalBinary())(m)[2:]
		}
	}
	for name, v := range gone {
		gone[name] = bytes.Clone(v)
	}
	m.thieve(x, &m.log[x.at])
	if err := x.group.Merge(staged); err != nil {
		m.Fatalf("%s merges: %v", x.name, err)
	}
	m.store(x)
	for name, secret := range gone {
		if bytes.Contains(x.stored, secret) {
			m.Fatalf("%s still has an old secret: %s", x.name, name)
		}
	}
	m.entered(x)
}

// thieve gives a commit that x processes to all who have stolen x's state: those from before x healed must find nothing in it that opens. x heals by a
// path of its own, by a commit that takes up its Update, and by being removed.
func (m *model) thieve(x *modelMember, e *modelEntry) {
	content := must(parseMLSMessage(e.msg))(m).publicMessage.content
	path := content.commit.path
	change := must(ParsePublicGroup(m.before(e), m.rules))(m)
	t, err := change.stage(must(parseMLSMessage(e.msg))(m).publicMessage.authenticated(), noTime)
	if err != nil {
		m.Fatal(err)
	}
	for _, u := range t.change.Updated {
		if u.Index == x.group.OwnIndex() {
			for _, thief := range x.thieves {
				thief.healed = true
			}
		}
	}
	if t.removes(x.group.s.private.index) {
		for _, thief := range x.thieves {
			thief.healed = true
		}
	}
	if path == nil {
		return
	}
	context := marshal(t.provisional(t.tree.rootHash()))
	for _, thief := range x.thieves {
		if !thief.healed {
			continue
		}
		for _, n := range path.nodes {
			for _, c := range n.pathSecrets {
				for _, k := range thief.keys {
					if _, err := suite1.DecryptWithLabel(k, labelUpdatePathNode, context, c.kemOutput, c.ciphertext); err == nil {
						m.Fatalf("a state stolen from %s opens a path after it has healed", x.name)
					}
				}
			}
		}
	}
}

// before is the server's state before an entry.
func (m *model) before(e *modelEntry) []byte {
	i := slices.IndexFunc(m.log, func(o modelEntry) bool { return bytes.Equal(o.msg, e.msg) })
	if i == 0 {
		return m.epochs[0].know.public.Marshal()
	}
	return m.log[i-1].after
}

// steal copies a member's keys, those of Updates that wait included.
func (m *model) steal(*rapid.T) {
	x := m.some("victim", anyone)
	thief := &modelThief{epoch: x.group.Epoch()}
	for _, k := range x.group.s.private.keys {
		thief.keys = append(thief.keys, k)
	}
	if len(x.group.s.updates) > 0 {
		return // whoever has the key of an Update that waits is not locked out by it
	}
	x.thieves = append(x.thieves, thief)
}

// say lets a member send an application message, which is delivered later, or not at all.
func (m *model) say(*rapid.T) { m.says(m.some("speaker", anyone)) }

func (m *model) says(x *modelMember) {
	text := fmt.Sprint("text ", len(m.messages))
	msg, err := x.group.Encrypt([]byte(text), nil, nil)
	if len(x.group.Public().Pending()) > 0 {
		if r, ok := errors.AsType[*RuleError](err); !ok || r.Section != "12.4" {
			m.Fatalf("data before a commit: %v", err)
		}
		return
	}
	if err != nil {
		m.Fatal(err)
	}
	m.store(x)
	m.sealed(msg)
	m.messages = append(m.messages, modelMessage{msg: msg, from: x, epoch: x.group.Epoch(), text: text})
	x.read[len(m.messages)-1] = true
}

// sealed notes a ciphertext that leaves a member: its key must be another than all others'.
func (m *model) sealed(msg []byte) {
	p := must(parseMLSMessage(msg))(m).privateMessage
	e := m.epochs[p.epoch]
	d := must(p.openSenderData(suite1, e.know.secrets.senderData))(m)
	kind := handshakeRatchet
	if p.contentType == contentApplication {
		kind = applicationRatchet
	}
	if seen(e.generations, fmt.Sprint(d.leaf, kind, d.generation)) {
		m.Fatal("two messages under one key and nonce")
	}
}

// hear delivers some message to somebody, in the group or out of it.
func (m *model) hear(*rapid.T) {
	if len(m.messages) == 0 {
		m.rt.Skip("nothing was said")
	}
	i := len(m.messages) - 1 - m.draw("message", len(m.messages)) // the newest first
	// Those who have not read it come first: small numbers are drawn more often.
	all := slices.Concat(m.members, m.ghosts)
	slices.SortStableFunc(all, func(x, y *modelMember) int {
		switch {
		case x.read[i] == y.read[i]:
			return 0
		case y.read[i]:
			return -1
		}
		return 1
	})
	m.hears(all[m.draw("hearer", len(all))], i)
}

// hears delivers a message to a member, or to one that is out.
func (m *model) hears(x *modelMember, i int) {
	said := &m.messages[i]
	before := x.group.Marshal()
	got, err := x.group.Process(said.msg, ProcessOptions{})
	switch {
	case x.out && said.epoch > x.group.Epoch(), said.epoch > x.group.Epoch(), said.epoch+uint64(x.group.s.keep) < x.group.Epoch():
		m.want(err, ErrStaleEpoch, "a message of another epoch")
	case err == nil:
		if x.read[i] {
			m.Fatalf("%s reads a message twice, or its own", x.name)
		}
		x.read[i] = true
		if a := got.Application; string(a.Data) != said.text || string(a.Sender.Leaf.Credential().Body) != said.from.name || a.Epoch != said.epoch {
			m.Fatalf("%s reads something else", x.name)
		}
		if !x.out {
			m.store(x)
		}
		return
	case x.read[i]:
		if !errors.Is(err, ErrReplayed) && !errors.Is(err, ErrStaleEpoch) {
			m.Fatalf("a message again: %v", err)
		}
	case !errors.Is(err, ErrStaleEpoch): // of an epoch before it came in, or one that it has forgotten
		m.Fatalf("%s cannot read: %v", x.name, err)
	}
	if err != nil && !bytes.Equal(before, x.group.Marshal()) {
		m.Fatal("a failed Process changed the state")
	}
}

// restart lets a member go on from what it stored.
func (m *model) restart(*rapid.T) {
	x := m.some("who", anyone)
	if !bytes.Equal(x.stored, x.group.Marshal()) {
		m.Fatalf("%s has not stored its state", x.name)
	}
	x.group = must(ParseGroup(x.stored, m.rules))(m)
}

// crash lets a member encrypt, and lose all that it had not stored: the message does not leave.
func (m *model) crash(*rapid.T) {
	x := m.some("who", func(x *modelMember) bool { return len(x.group.Public().Pending()) == 0 })
	must(x.group.Encrypt([]byte("lost"), nil, nil))(m)
	x.group = must(ParseGroup(x.stored, m.rules))(m)
}

// forget lets a member erase what it keeps for late messages.
func (m *model) forget(*rapid.T) {
	x := m.some("who", func(x *modelMember) bool { return len(x.group.s.past) > 0 })
	var gone [][]byte
	for _, p := range x.group.s.past {
		gone = append(gone, bytes.Clone(p.senderData), bytes.Clone(p.resumption))
	}
	x.group.ForgetEpochs(x.group.Epoch())
	m.store(x)
	for _, secret := range gone {
		if bytes.Contains(x.stored, secret) {
			m.Fatal("a forgotten epoch's secret is still there")
		}
	}
}

// check holds what must be so after each step.
func (m *model) check() {
	if got := must(ParsePublicGroup(m.server.Marshal(), m.rules))(m); !bytes.Equal(got.Marshal(), m.server.Marshal()) {
		m.Fatal("the server is not what it stored")
	}
	if err := m.server.tree.validate(m.server.treeContext()); err != nil {
		m.Fatalf("the server's tree: %v", err)
	}
	for _, x := range m.members {
		if err := x.group.s.private.check(x.group.s.public.tree); err != nil {
			m.Fatalf("%s has other keys than its tree", x.name)
		}
		if len(x.group.s.past) > x.group.s.keep {
			m.Fatalf("%s keeps too many epochs", x.name)
		}
	}
	// Whoever is out gets nothing of what comes after.
	for _, x := range m.ghosts {
		if x.at+1 >= len(m.log) {
			continue
		}
		if _, err := x.group.Process(m.log[len(m.log)-1].msg, ProcessOptions{PSK: testPSK}); !errors.Is(err, ErrStaleEpoch) {
			m.Fatalf("%s, who is out, processes a handshake: %v", x.name, err)
		}
	}
}
