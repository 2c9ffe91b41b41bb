package mimimi

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"mimimi.example/pkg/mls"
)

// world is one group: its members, and the hub's view of it.
type world struct {
	t       testing.TB
	at      time.Time
	rules   *mls.Rules
	id      GroupID
	public  *mls.PublicGroup // the hub's
	state   *State           // the hub's
	members map[string]*member
	devices map[string]*device
	people  map[string]*person
	a, b    *domain

	tampered bool // the hub's state was altered by hand
}

// member follows the group, and judges every commit by a State of its own, as clients do.
type member struct {
	*device
	group *mls.Group
	keys  *mls.KeyPackageSecrets
	state *State
}

// laxRules let pass what pkg/mls would refuse on this package's behalf, so that the hub's rules are what stops it.
func laxRules() *mls.Rules {
	r := MLSRules()
	r.CheckLeaf = nil
	return r
}

func openPolicy() *Policy {
	return &Policy{Version: Version, MayAdd: RoleMember, MayRemove: RoleAdmin, MayInvite: RoleMember, ExternalJoins: true,
		LastResort: true, MaxLeaves: 1000}
}

// newWorld makes a group of alice, its admin, and bob. change alters the policy.
func newWorld(t testing.TB, rules *mls.Rules, change func(*Policy)) *world {
	t.Helper()
	w := &world{t: t, at: noon, rules: rules, id: must(NewGroupID("hub.example")), members: map[string]*member{}, devices: map[string]*device{},
		people: map[string]*person{}, a: newDomain(t, "a.example"), b: newDomain(t, "b.example")}
	policy := openPolicy()
	policy.Admins = []UserPseudonym{w.device("alice").pseudonym}
	if change != nil {
		change(policy)
	}
	kp, keys, err := NewKeyPackage(w.device("alice").config())
	wantOK(t, err)
	g, err := mls.NewGroup(mls.GroupConfig{GroupID: []byte(w.id.Wire()), KeyPackage: kp, Secrets: keys, Extensions: GroupExtensions(policy), Rules: rules})
	wantOK(t, err)
	w.members["alice"] = &member{w.device("alice"), g, keys, must(NewState(g.Public(), w.at))}
	w.public = must(mls.NewPublicGroup(must(g.GroupInfo(nil, true)), nil, rules))
	w.state = must(NewState(w.public, w.at))
	w.mustAdd("alice", "bob")
	return w
}

// device returns the device of a name such as alice or alice/2, whose user is what stands before the slash. alice and her like are of
// a.example, those from b on of b.example.
func (w *world) device(name string) *device {
	if d, ok := w.devices[name]; ok {
		return d
	}
	user, _, _ := cutSlash(name)
	p, ok := w.people[user]
	if !ok {
		d := w.b
		if user[0] == 'a' {
			d = w.a
		}
		p = d.person(w.t, user)
		w.people[user] = p
	}
	w.devices[name] = p.device(w.t)
	return w.devices[name]
}

func cutSlash(s string) (before, after string, found bool) {
	if i := slices.Index([]byte(s), '/'); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// newcomer is a KeyPackage on its way into the group.
type newcomer struct {
	name string
	kp   *mls.KeyPackage
	keys *mls.KeyPackageSecrets
}

func (w *world) newcomer(name string, change ...func(*KeyPackageConfig)) newcomer {
	w.t.Helper()
	cfg := w.device(name).config()
	for _, c := range change {
		c(&cfg)
	}
	kp, keys, err := NewKeyPackage(cfg)
	wantOK(w.t, err)
	return newcomer{name, kp, keys}
}

func adds(news ...newcomer) []mls.Proposal {
	var out []mls.Proposal
	for _, n := range news {
		out = append(out, mls.Proposal{Type: mls.ProposalAdd, KeyPackage: n.kp})
	}
	return out
}

// linkUpdate makes the identity_link_update of by for the Adds of news.
func (w *world) linkUpdate(by string, own *LinkKey, news ...newcomer) mls.Proposal {
	w.t.Helper()
	m := w.members[by]
	keys := IdentityLinkKeys{Own: own}
	var refs [][]byte
	for _, n := range news {
		id := must(ParseLeaf(n.kp.Leaf()))
		keys.Added = append(keys.Added, id.Credential.LinkKey(w.device(n.name).connection))
		refs = append(refs, n.kp.Ref())
	}
	k := must(NewLinkUpdateKey(m.group))
	return mls.Proposal{Type: ProposalIdentityLinkUpdate, Body: must(k.Seal(w.id, m.group.Epoch(), m.group.OwnIndex(), refs, keys))}
}

// commit makes a commit and has the hub judge it. If the hub accepts, everybody follows; the newcomers join.
func (w *world) commit(by string, opts mls.CommitOptions, news ...newcomer) error {
	w.t.Helper()
	staged, err := w.members[by].group.Commit(opts)
	wantOK(w.t, err)
	return w.accept(by, staged, news...)
}

func (w *world) accept(by string, staged *mls.StagedCommit, news ...newcomer) error {
	w.t.Helper()
	c, err := w.public.StageCommit(staged.Message, w.at)
	wantOK(w.t, err)
	next, err := w.state.CheckCommit(c, w.at)
	if err != nil {
		return err
	}
	w.public, w.state = c.After, next
	for name, m := range w.members {
		commit := staged
		if name != by {
			got, err := m.group.Process(staged.Message, mls.ProcessOptions{})
			wantOK(w.t, err)
			commit = got.Commit
		}
		m.state, err = m.state.CheckCommit(commit.Change, w.at)
		wantOK(w.t, err) // nobody refuses what the hub was right to accept
		if commit.RemovesSelf() {
			delete(w.members, name)
			continue
		}
		wantOK(w.t, m.group.Merge(commit))
	}
	if founder, ok := w.members["alice"]; ok && !w.tampered && !bytes.Equal(founder.state.Marshal(), w.state.Marshal()) {
		w.t.Error("hub and founder come to different states")
	}
	for _, n := range news {
		g, _, err := mls.Join(mls.JoinConfig{Welcome: staged.Welcome, Tree: w.public.Tree(), KeyPackage: n.kp, Secrets: n.keys, Rules: w.rules})
		wantOK(w.t, err)
		w.members[n.name] = &member{w.device(n.name), g, n.keys, must(NewState(g.Public(), w.at))}
	}
	return nil
}

// add has by add the newcomers as §6 says.
func (w *world) add(by string, news ...newcomer) error {
	w.t.Helper()
	return w.commit(by, mls.CommitOptions{Proposals: append(adds(news...), w.linkUpdate(by, nil, news...))}, news...)
}

func (w *world) mustAdd(by string, names ...string) {
	w.t.Helper()
	var news []newcomer
	for _, n := range names {
		news = append(news, w.newcomer(n))
	}
	wantOK(w.t, w.add(by, news...))
}

// remove has by remove others, by value.
func (w *world) remove(by string, names ...string) error {
	w.t.Helper()
	return w.commit(by, mls.CommitOptions{Proposals: w.removes(names...)})
}

func (w *world) removes(names ...string) []mls.Proposal {
	var out []mls.Proposal
	for _, n := range names {
		out = append(out, mls.Proposal{Type: mls.ProposalRemove, Removed: w.members[n].group.OwnIndex()})
	}
	return out
}

// propose has by send a standalone proposal; the hub judges it, and keeps it if it accepts.
func (w *world) propose(by string, p mls.Proposal) error {
	w.t.Helper()
	return w.receive(by, must(w.members[by].group.Propose(p, mls.ProposeOptions{})))
}

func (w *world) receive(by string, msg []byte) error {
	w.t.Helper()
	next, p, err := w.public.AddProposal(msg, w.at)
	wantOK(w.t, err)
	if err := w.state.CheckProposal(w.public, p); err != nil {
		return err
	}
	w.public = next
	for name, m := range w.members {
		if name != by {
			_, err := m.group.Process(msg, mls.ProcessOptions{})
			wantOK(w.t, err)
		}
	}
	return nil
}

// slip puts a standalone proposal into everybody's state without asking the hub's rules.
func (w *world) slip(by string, p mls.Proposal) {
	w.t.Helper()
	msg := must(w.members[by].group.Propose(p, mls.ProposeOptions{}))
	next, _, err := w.public.AddProposal(msg, w.at)
	wantOK(w.t, err)
	w.public = next
	for name, m := range w.members {
		if name != by {
			_, err := m.group.Process(msg, mls.ProcessOptions{})
			wantOK(w.t, err)
		}
	}
}

// join is an external commit of a newcomer.
func (w *world) join(n newcomer, change ...func(*mls.ExternalJoinConfig)) error {
	w.t.Helper()
	cfg := mls.ExternalJoinConfig{GroupInfo: must(w.anyMember().GroupInfo(nil, false)), Tree: w.public.Tree(), KeyPackage: n.kp, Secrets: n.keys, Rules: w.rules}
	for _, c := range change {
		c(&cfg)
	}
	staged, err := mls.JoinExternal(cfg)
	wantOK(w.t, err)
	before := must(NewState(w.public, w.at))
	if old, resyncs := w.members[n.name]; resyncs {
		before = old.state
		delete(w.members, n.name)
	}
	if err := w.accept("", staged); err != nil {
		return err
	}
	state, err := before.CheckCommit(staged.Change, w.at)
	wantOK(w.t, err)
	w.members[n.name] = &member{w.device(n.name), staged.Group(), n.keys, state}
	return nil
}

// resync is an external commit of a member that replaces its leaf; the newcomer holds what the new leaf is made of.
func (w *world) resync(n newcomer) error {
	w.t.Helper()
	old := w.members[n.name].group.OwnIndex()
	return w.join(n, func(c *mls.ExternalJoinConfig) { c.Resync, c.OldLeaf = true, old })
}

// again is a KeyPackage for a resync: the member's own credential and key, fresh encryption and queue.
func (w *world) again(name string) newcomer {
	w.t.Helper()
	m := w.members[name]
	id := must(ParseLeaf(m.group.OwnLeaf()))
	kp, keys := keyPackageWith(w.t, m.device, func(c *mls.KeyPackageConfig) {
		c.Credential, c.SignatureKey = id.Credential.Credential(), m.keys.SignatureKey
		c.Lifetime = lifetimeOf(id.Credential.Week)
		c.LeafExtensions[0].Data = must(SealQueueID(m.queueKey, id.Credential.ClientPseudonym, m.queueID))
	})
	return newcomer{name, kp, keys}
}

func (w *world) anyMember() *mls.Group {
	for _, name := range []string{"alice", "bob"} {
		if m, ok := w.members[name]; ok {
			return m.group
		}
	}
	w.t.Fatal("neither alice nor bob is left")
	return nil
}

func (w *world) leaf(name string) *LeafIdentity {
	return must(ParseLeaf(w.members[name].group.OwnLeaf()))
}
