package mimimi

import (
	"bytes"
	"testing"
	"time"

	"mimimi.example/pkg/mls"
)

// TestAllowed is the other side of TestCommitRules: what the rules must let pass. It is one table.
func TestAllowed(t *testing.T) {
	gce := func(p *Policy) mls.Proposal {
		return mls.Proposal{Type: mls.ProposalGroupContextExtensions, Extensions: GroupExtensions(p)}
	}
	for _, c := range []struct {
		name   string
		policy func(*Policy)
		do     func(w *world) error
	}{
		{"member adds a user with two clients", nil, func(w *world) error { return w.add("bob", w.newcomer("carol"), w.newcomer("carol/2")) }},
		{"own client, though only admins add", func(p *Policy) { p.MayAdd = RoleAdmin }, func(w *world) error { return w.add("bob", w.newcomer("bob/2")) }},
		{"own client removed, though only admins remove", nil, func(w *world) error {
			w.mustAdd("bob", "bob/2")
			w.at = w.at.Add(48 * time.Hour)
			return w.remove("bob", "bob/2")
		}},
		{"client of a user who stays is added again", nil, func(w *world) error {
			w.mustAdd("bob", "bob/2")
			wantOK(w.t, w.remove("bob", "bob/2"))
			return w.add("bob", w.newcomer("bob/2"))
		}},
		{"newcomer removed by a member", nil, func(w *world) error {
			w.at = w.at.Add(48 * time.Hour)
			w.mustAdd("alice", "carol")
			w.at = w.at.Add(24 * time.Hour)
			return w.remove("bob", "carol")
		}},
		{"newcomer and its adder removed by a member", nil, func(w *world) error {
			w.at = w.at.Add(48 * time.Hour)
			w.mustAdd("alice", "carol")
			return w.remove("bob", "carol", "alice")
		}},
		{"newcomer and its adder after the adder's resync", nil, func(w *world) error {
			w.at = w.at.Add(48 * time.Hour)
			w.mustAdd("alice", "carol")
			wantOK(w.t, w.resync(w.again("alice")))
			return w.remove("bob", "carol", "alice")
		}},
		{"joiner removed by a member", nil, func(w *world) error {
			w.at = w.at.Add(48 * time.Hour)
			wantOK(w.t, w.join(w.newcomer("carol")))
			return w.remove("bob", "carol")
		}},
		{"plain path", nil, func(w *world) error { return w.commit("bob", mls.CommitOptions{Path: true}) }},
		{"fresh queue", nil, func(w *world) error {
			queue := must(SealQueueID(w.b.queueKey, w.leaf("bob").Credential.ClientPseudonym, w.device("bob").queueID))
			return w.commit("bob", mls.CommitOptions{NewLeaf: &mls.LeafChange{Extensions: []mls.Extension{{Type: ExtensionEncryptedQueueID, Data: queue}}}})
		}},
		{"credential replaced", nil, func(w *world) error {
			key := must(LinkKeyFrom(make([]byte, 32)))
			return w.commit("bob", mls.CommitOptions{NewLeaf: w.replaced("bob", noon), Proposals: []mls.Proposal{w.linkUpdate("bob", &key)}})
		}},
		{"own link told again", nil, func(w *world) error {
			key := must(LinkKeyFrom(make([]byte, 32)))
			return w.commit("bob", mls.CommitOptions{Proposals: []mls.Proposal{w.linkUpdate("bob", &key)}})
		}},
		{"last-resort KeyPackage", nil, func(w *world) error {
			return w.add("alice", w.newcomer("carol", func(c *KeyPackageConfig) { c.LastResort = true }))
		}},
		{"old KeyPackage added within its lifetime", nil, func(w *world) error {
			return w.add("alice", w.newcomer("carol", func(c *KeyPackageConfig) { c.Now = noon.Add(-80 * day) }))
		}},
		{"Update", nil, func(w *world) error {
			wantOK(w.t, w.propose("bob", mls.Proposal{Type: mls.ProposalUpdate}))
			return w.commit("alice", mls.CommitOptions{})
		}},
		{"Remove proposed by an admin", nil, func(w *world) error {
			w.mustAdd("alice", "carol")
			wantOK(w.t, w.propose("alice", w.removes("carol")[0]))
			return w.commit("bob", mls.CommitOptions{})
		}},
		{"policy proposed by an admin", nil, func(w *world) error {
			p := openPolicy()
			p.Admins = []UserPseudonym{w.device("alice").pseudonym, w.device("bob").pseudonym}
			wantOK(w.t, w.propose("alice", gce(p)))
			wantOK(w.t, w.commit("bob", mls.CommitOptions{}))
			p.Admins = p.Admins[1:]
			return w.commit("bob", mls.CommitOptions{Proposals: []mls.Proposal{gce(p)}})
		}},
		{"policy that names one who leaves", nil, func(w *world) error {
			p := openPolicy()
			p.Admins = []UserPseudonym{w.device("bob").pseudonym}
			wantOK(w.t, w.propose("alice", gce(p)))
			wantOK(w.t, w.propose("bob", mls.Proposal{Type: mls.ProposalSelfRemove}))
			return w.commit("alice", mls.CommitOptions{})
		}},
		{"self_remove taken up by a joiner", nil, func(w *world) error {
			msg := must(w.members["bob"].group.Propose(mls.Proposal{Type: mls.ProposalSelfRemove}, mls.ProposeOptions{}))
			wantOK(w.t, w.receive("bob", msg))
			return w.join(w.newcomer("carol"), func(c *mls.ExternalJoinConfig) { c.Pending = [][]byte{msg} })
		}},
		{"joiner adds its other client", nil, func(w *world) error {
			wantOK(w.t, w.join(w.newcomer("carol")))
			return w.add("carol", w.newcomer("carol/2"))
		}},
		{"next joiner after ten minutes", nil, func(w *world) error {
			wantOK(w.t, w.join(w.newcomer("carol")))
			w.at = w.at.Add(10 * time.Minute)
			return w.join(w.newcomer("dave"))
		}},
		{"next joiner after another's commit", nil, func(w *world) error {
			wantOK(w.t, w.join(w.newcomer("carol")))
			wantOK(w.t, w.commit("bob", mls.CommitOptions{}))
			return w.join(w.newcomer("dave"))
		}},
		{"next joiner after the first was removed", nil, func(w *world) error {
			wantOK(w.t, w.join(w.newcomer("carol")))
			wantOK(w.t, w.remove("bob", "carol"))
			return w.join(w.newcomer("dave"))
		}},
		{"resync", func(p *Policy) { p.ExternalJoins = false }, func(w *world) error { return w.resync(w.again("bob")) }},
		{"resync of an admin keeps the role", nil, func(w *world) error {
			wantOK(w.t, w.resync(w.again("alice")))
			p := openPolicy()
			p.Admins = []UserPseudonym{w.device("bob").pseudonym}
			return w.commit("alice", mls.CommitOptions{Proposals: []mls.Proposal{gce(p)}})
		}},
		{"group at its largest", func(p *Policy) { p.MaxLeaves = 3 }, func(w *world) error { return w.add("alice", w.newcomer("carol")) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, MLSRules(), c.policy)
			wantOK(t, c.do(w))
			read := must(ParseState(w.state.Marshal()))
			if !bytes.Equal(read.Marshal(), w.state.Marshal()) || len(read.entries) != len(w.public.Members()) {
				t.Error("the state does not read back, or has another number of leaves than the group")
			}
		})
	}
}

func TestUnanswered(t *testing.T) {
	w := newWorld(t, MLSRules(), nil)
	if _, _, ok := w.state.Unanswered(); ok {
		t.Error("unanswered from the start")
	}
	w.at = w.at.Add(1500 * time.Millisecond)
	wantOK(t, w.join(w.newcomer("carol")))
	leaf, since, ok := w.state.Unanswered()
	if !ok || leaf != w.members["carol"].group.OwnIndex() || !since.Equal(noon.Add(time.Second)) {
		t.Errorf("unanswered: %d %v %v", leaf, since, ok)
	}
	wantOK(t, w.commit("carol", mls.CommitOptions{}))
	if _, _, ok := w.state.Unanswered(); !ok {
		t.Error("answered by itself")
	}
	wantOK(t, w.commit("alice", mls.CommitOptions{}))
	if _, _, ok := w.state.Unanswered(); ok {
		t.Error("not answered by another's commit")
	}
}

func TestKindOfExternalCommit(t *testing.T) {
	w := newWorld(t, MLSRules(), nil)
	if c := w.change("alice", mls.CommitOptions{Proposals: w.removes("bob")}); IsExternalJoin(c) {
		t.Error("a member's commit is an external join")
	} else if _, ok := Resync(c); ok {
		t.Error("a member's commit is a resync")
	}
	stage := func(n newcomer, resync bool) *mls.Change {
		staged, err := mls.JoinExternal(mls.ExternalJoinConfig{GroupInfo: must(w.anyMember().GroupInfo(nil, false)), Tree: w.public.Tree(),
			KeyPackage: n.kp, Secrets: n.keys, Rules: w.rules, Resync: resync, OldLeaf: 1})
		wantOK(t, err)
		return must(w.public.StageCommit(staged.Message, w.at))
	}
	if c := stage(w.newcomer("carol"), false); !IsExternalJoin(c) {
		t.Error("an external join is none")
	}
	c := stage(w.again("bob"), true)
	if old, ok := Resync(c); !ok || old != 1 || IsExternalJoin(c) {
		t.Error("a resync is none")
	}
}

// TestMembersRefuseWhatTheHubShouldHave: a hub that lets a second joiner in too early is not followed.
func TestMembersRefuseWhatTheHubShouldHave(t *testing.T) {
	w := newWorld(t, MLSRules(), nil)
	wantOK(t, w.join(w.newcomer("carol")))
	alice := w.members["alice"]
	n := w.newcomer("dave")
	staged, err := mls.JoinExternal(mls.ExternalJoinConfig{GroupInfo: must(alice.group.GroupInfo(nil, false)), Tree: w.public.Tree(),
		KeyPackage: n.kp, Secrets: n.keys, Rules: w.rules})
	wantOK(t, err)
	got, err := alice.group.Process(staged.Message, mls.ProcessOptions{})
	wantOK(t, err)
	_, err = alice.state.CheckCommit(got.Commit.Change, w.at)
	wantErr(t, err, ErrDenied, oneJoinerRule)
}

// TestNewcomerIsNotStricter: a member that came later accepts what the hub accepts.
func TestNewcomerIsNotStricter(t *testing.T) {
	w := newWorld(t, MLSRules(), nil)
	wantOK(t, w.join(w.newcomer("carol")))
	w.mustAdd("alice", "dave")
	late := must(NewState(w.members["dave"].group.Public(), w.at))
	for _, opts := range []mls.CommitOptions{{}, {Proposals: w.removes("carol")}, {Proposals: w.removes("dave")}} {
		c := w.change("alice", opts)
		_, err := w.state.CheckCommit(c, w.at)
		wantOK(t, err)
		_, err = late.CheckCommit(c, w.at)
		wantOK(t, err)
	}
}

func TestCheckProposalRefuses(t *testing.T) {
	policy := openPolicy()
	gce := mls.Proposal{Type: mls.ProposalGroupContextExtensions, Extensions: GroupExtensions(policy)}
	for _, c := range []struct {
		name, want string
		denied     bool
		by         string
		p          func(w *world) mls.Proposal
	}{
		{"Add", "Adds and identity_link_updates are made by value", false, "alice", func(w *world) mls.Proposal { return adds(w.newcomer("carol"))[0] }},
		{"Remove by a member", "the policy says who may remove", true, "bob", func(w *world) mls.Proposal { return w.removes("alice")[0] }},
		{"policy by a member", "only an admin changes the policy", true, "bob", func(*world) mls.Proposal { return gce }},
		{"unidentified members", "whether unidentified members are allowed is fixed at creation", false, "alice", func(*world) mls.Proposal {
			p := *policy
			p.UnidentifiedMembers = true
			return mls.Proposal{Type: mls.ProposalGroupContextExtensions, Extensions: GroupExtensions(&p)}
		}},
		{"other extensions", "the GroupContext has required_capabilities and mimimi_group, and nothing else", false, "alice", func(*world) mls.Proposal {
			return mls.Proposal{Type: mls.ProposalGroupContextExtensions, Extensions: GroupExtensions(policy)[1:]}
		}},
		{"PSK", "no PSK, ReInit or unknown proposal in version 1.0", false, "alice", func(*world) mls.Proposal {
			return mls.Proposal{Type: mls.ProposalPSK, PSK: &mls.PSKID{ID: []byte("x")}}
		}},
		{"ReInit", "no PSK, ReInit or unknown proposal in version 1.0", false, "alice", func(*world) mls.Proposal {
			return mls.Proposal{Type: mls.ProposalReInit, ReInit: &mls.ReInit{GroupID: []byte("x"), Suite: Suite}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, laxRules(), nil)
			kind := ErrInvalid
			if c.denied {
				kind = ErrDenied
			}
			wantErr(t, w.propose(c.by, c.p(w)), kind, c.want)
		})
	}
	w := newWorld(t, laxRules(), nil)
	for _, p := range []*mls.CommittedProposal{
		{Proposal: mls.Proposal{Type: mls.ProposalRemove}, Sender: mls.Sender{Type: mls.SenderExternal}},
		{Proposal: mls.Proposal{Type: mls.ProposalSelfRemove}, Sender: mls.Sender{Type: mls.SenderMember, Leaf: 99}},
	} {
		wantErr(t, w.state.CheckProposal(w.public, p), ErrInvalid, "proposals come from members")
	}
	p := &mls.CommittedProposal{Proposal: mls.Proposal{Type: mls.ProposalUpdate, Leaf: w.newcomer("bob").kp.Leaf()}, Sender: mls.Sender{Type: mls.SenderMember, Leaf: 1}}
	wantErr(t, w.state.CheckProposal(w.public, p), ErrInvalid, "an Update keeps the credential")
	p = &mls.CommittedProposal{Proposal: mls.Proposal{Type: ProposalIdentityLinkUpdate}, Sender: mls.Sender{Type: mls.SenderMember, Leaf: 1}}
	wantErr(t, w.state.CheckProposal(w.public, p), ErrInvalid, "Adds and identity_link_updates are made by value")
}

// TestMLSRules: with the real rules, pkg/mls itself refuses bad leaves, at members and hub alike.
func TestMLSRules(t *testing.T) {
	w := newWorld(t, MLSRules(), nil)
	d := w.device("carol")
	copied, _ := keyPackageWith(t, d, func(c *mls.KeyPackageConfig) { c.Credential = w.leaf("bob").Credential.Credential() })
	_, err := w.members["alice"].group.Commit(mls.CommitOptions{Proposals: []mls.Proposal{{Type: mls.ProposalAdd, KeyPackage: copied}}})
	wantErr(t, err, ErrInvalid, "the credential's key is the leaf's")
	fresh := w.newcomer("bob")
	c := fresh.kp.Leaf().Credential()
	_, err = w.members["bob"].group.Commit(mls.CommitOptions{
		NewLeaf: &mls.LeafChange{Credential: &c, SignatureKey: &fresh.keys.SignatureKey, Extensions: fresh.kp.Leaf().Extensions()}})
	wantErr(t, err, ErrInvalid, "a path or Update leaf keeps both pseudonyms")
}

func TestNewStateRefuses(t *testing.T) {
	d := newDomain(t, "a.example").person(t, "alice").device(t)
	small := openPolicy()
	for _, c := range []struct {
		name, want string
		id         string
		exts       []mls.Extension
		now        time.Time
	}{
		{"group id", "a group is mimi://domain/g/uuid-v4", "group", GroupExtensions(small), noon},
		{"extensions", "the GroupContext has required_capabilities and mimimi_group, and nothing else", "", nil, noon},
		{"old leaf", "a leaf enters within 90 days from its week", "", GroupExtensions(small), noon.Add(-100 * day)},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := d.config()
			cfg.Now = c.now
			kp, keys, err := NewKeyPackage(cfg)
			wantOK(t, err)
			if c.id == "" {
				c.id = must(NewGroupID("hub.example")).Wire()
			}
			g := must(mls.NewGroup(mls.GroupConfig{GroupID: []byte(c.id), KeyPackage: kp, Secrets: keys, Extensions: c.exts, Rules: laxRules()}))
			_, err = NewState(g.Public(), noon)
			wantErr(t, err, ErrInvalid, c.want)
		})
	}
	copied, keys := keyPackageWith(t, d, func(c *mls.KeyPackageConfig) { c.Credential = d.credential(t).Credential() })
	g := must(mls.NewGroup(mls.GroupConfig{GroupID: []byte(must(NewGroupID("hub.example")).Wire()), KeyPackage: copied, Secrets: keys, Extensions: GroupExtensions(small), Rules: laxRules()}))
	_, err := NewState(g.Public(), noon)
	wantErr(t, err, ErrInvalid, "the credential's key is the leaf's")
}

// TestAddFlow: those in the group read the newcomer's key from the commit, the newcomer theirs from the Welcome, and nobody else can
// (§6).
func TestAddFlow(t *testing.T) {
	w := newWorld(t, MLSRules(), nil)
	alice, bob := w.members["alice"].group, w.members["bob"].group
	bobKey := must(NewLinkUpdateKey(bob)) // derived when the epoch starts
	left := alice.Epoch()
	n := w.newcomer("carol")
	links := []*LinkKey{linkOf(w, "alice"), linkOf(w, "bob"), new(must(ParseLeaf(n.kp.Leaf())).Credential.LinkKey(w.device("carol").connection))}
	staged, err := alice.Commit(mls.CommitOptions{
		Proposals: append(adds(n), w.linkUpdate("alice", nil, n)),
		HubExtensions: func(next *mls.Group) ([]mls.Extension, error) {
			e, err := NewEpochSender(next)
			return []mls.Extension{e.Extension()}, err
		},
		WelcomeExtensions: func(*mls.Group) ([]mls.Extension, error) { return []mls.Extension{MarshalIdentityLinks(links)}, nil },
	})
	wantOK(t, err)
	wantOK(t, w.accept("alice", staged))

	// The hub gets its own GroupInfo, with the key that all members derive.
	info := must(w.public.CheckGroupInfo(staged.GroupInfo))
	epochKey, err := CheckHubGroupInfo(info)
	wantOK(t, err)
	carol, welcome, err := mls.Join(mls.JoinConfig{Welcome: staged.Welcome, Tree: w.public.Tree(), KeyPackage: n.kp, Secrets: n.keys, Rules: w.rules})
	wantOK(t, err)
	for _, g := range []*mls.Group{alice, bob, carol} {
		if e := must(NewEpochSender(g)); !bytes.Equal(e.Public(), epochKey) {
			t.Error("the members of an epoch derive different senders")
		}
	}
	msg := must(carol.Encrypt(Envelope{EnvelopeContent, []byte("hello")}.Marshal(), nil, PadTo))
	sig := must(NewEpochSender(carol)).SignMessage(w.id, carol.Epoch(), msg)
	wantOK(t, VerifyMessage(epochKey, w.id, carol.Epoch(), msg, sig))

	// Bob opens the proposal and identifies the newcomer.
	body := staged.Change.Proposals[1].Body
	refs := staged.Change.AddedRefs
	got, err := bobKey.Open(w.id, left, alice.OwnIndex(), refs, body)
	wantOK(t, err)
	cert, err := must(ParseLeaf(n.kp.Leaf())).Credential.Identify(got.Added[0])
	wantOK(t, err)
	if cert.User != w.device("carol").user || got.Own != nil {
		t.Error("the newcomer is identified as somebody else")
	}
	// The newcomer identifies everybody.
	data, _ := welcome.Extension(ExtensionIdentityLinks)
	for i, k := range must(ParseIdentityLinks(data)) {
		leaf, _ := carol.Public().Member(uint32(i))
		_, err := must(ParseLeaf(leaf)).Credential.Identify(*k)
		wantOK(t, err)
	}
	// It cannot read the proposal, nor can anybody with the key of another epoch, or for another commit.
	for name, open := range map[string]func() (*IdentityLinkKeys, error){
		"newcomer": func() (*IdentityLinkKeys, error) {
			return must(NewLinkUpdateKey(carol)).Open(w.id, left, 0, refs, body)
		},
		"other epoch":  func() (*IdentityLinkKeys, error) { return bobKey.Open(w.id, left+1, 0, refs, body) },
		"other sender": func() (*IdentityLinkKeys, error) { return bobKey.Open(w.id, left, 1, refs, body) },
		"other adds":   func() (*IdentityLinkKeys, error) { return bobKey.Open(w.id, left, 0, [][]byte{{1}}, body) },
		"other group": func() (*IdentityLinkKeys, error) {
			return bobKey.Open(must(NewGroupID("hub.example")), left, 0, refs, body)
		},
		"erased key": func() (*IdentityLinkKeys, error) { return LinkUpdateKey{}.Open(w.id, left, 0, refs, body) },
	} {
		if _, err := open(); err == nil {
			t.Errorf("opens for %s", name)
		} else {
			wantErr(t, err, ErrUnauthenticated, "")
		}
	}
	var stored LinkUpdateKey
	wantOK(t, stored.UnmarshalBinary(must(bobKey.MarshalBinary())))
	_, err = stored.Open(w.id, left, 0, refs, body)
	wantOK(t, err)
	wantErr(t, stored.UnmarshalBinary(nil), ErrMalformed, "")
}

func linkOf(w *world, name string) *LinkKey {
	k := w.leaf(name).Credential.LinkKey(w.device(name).connection)
	return &k
}

func TestLinkUpdateSealRefuses(t *testing.T) {
	w := newWorld(t, MLSRules(), nil)
	k := must(NewLinkUpdateKey(w.members["alice"].group))
	_, err := k.Seal(w.id, 1, 0, [][]byte{{1}}, IdentityLinkKeys{})
	wantErr(t, err, ErrInvalid, "an identity_link_update has a key for each Add")
	_, err = k.Seal(w.id, 1, 0, make([][]byte, 201), IdentityLinkKeys{Added: make([]LinkKey, 201)})
	wantErr(t, err, ErrInvalid, "at most 200 Adds")
	_, err = LinkUpdateKey{}.Seal(w.id, 1, 0, nil, IdentityLinkKeys{})
	wantErr(t, err, ErrInvalid, "an identity_link_update is sealed in its epoch")
}

// TestHubGroupInfo: what would hand the hub link keys or a tree is refused.
func TestHubGroupInfo(t *testing.T) {
	w := newWorld(t, MLSRules(), nil)
	g := w.members["alice"].group
	sender := must(NewEpochSender(g)).Extension()
	const want = "a hub's GroupInfo has external_pub and epoch_sender_key, and nothing else"
	for name, c := range map[string]struct {
		exts []mls.Extension
		tree bool
		ok   bool
	}{
		"right":          {[]mls.Extension{sender}, false, true},
		"no sender":      {nil, false, false},
		"tree":           {[]mls.Extension{sender}, true, false},
		"identity links": {[]mls.Extension{sender, MarshalIdentityLinks([]*LinkKey{linkOf(w, "alice")})}, false, false},
	} {
		info := must(mls.ParseGroupInfo(must(g.GroupInfo(c.exts, c.tree))))
		if _, err := CheckHubGroupInfo(info); c.ok {
			wantOK(t, err)
		} else if err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			wantErr(t, err, ErrInvalid, want)
		}
	}
	twice := must(mls.ParseGroupInfo(must(g.GroupInfo([]mls.Extension{sender}, false))))
	twice.Extensions[0] = sender
	_, err := CheckHubGroupInfo(twice)
	wantErr(t, err, ErrInvalid, want)
}

// TestJoinFlow: link keys reach the leaf that they are for, from whoever knows the invite secret, and nobody else (§7).
func TestJoinFlow(t *testing.T) {
	w := newWorld(t, MLSRules(), nil)
	invite := NewInviteSecret()
	wantOK(t, w.join(w.newcomer("carol")))
	alice, bob, carol := w.members["alice"].group, w.members["bob"].group, w.members["carol"].group
	epoch := carol.Epoch()

	own := []*LinkKey{linkOf(w, "carol")}
	up := must(SealLinks(FromJoiner, invite, w.id, epoch, carol.OwnIndex(), alice.OwnIndex(), alice.OwnLeaf().EncryptionKey(), own))
	got, err := OpenLinks(FromJoiner, invite, alice, carol.OwnIndex(), up)
	wantOK(t, err)
	if len(got) != 1 || !got[0].Equal(*own[0]) {
		t.Error("another key")
	}
	all := []*LinkKey{linkOf(w, "alice"), linkOf(w, "bob"), nil}
	down := must(SealLinks(ToJoiner, invite, w.id, epoch, alice.OwnIndex(), carol.OwnIndex(), carol.OwnLeaf().EncryptionKey(), all))
	got, err = OpenLinks(ToJoiner, invite, carol, alice.OwnIndex(), down)
	wantOK(t, err)
	if len(got) != 3 || got[2] != nil || !got[1].Equal(*all[1]) {
		t.Error("other keys")
	}
	for name, open := range map[string]func() error{
		"other secret":    func() error { _, err := OpenLinks(ToJoiner, NewInviteSecret(), carol, 0, down); return err },
		"other sender":    func() error { _, err := OpenLinks(ToJoiner, invite, carol, 1, down); return err },
		"other direction": func() error { _, err := OpenLinks(FromJoiner, invite, carol, 0, down); return err },
		"other receiver":  func() error { _, err := OpenLinks(FromJoiner, invite, bob, 2, up); return err },
	} {
		if err := open(); err == nil {
			t.Errorf("opens with %s", name)
		} else {
			wantErr(t, err, ErrUnauthenticated, "")
		}
	}
	wantOK(t, w.commit("alice", mls.CommitOptions{}))
	_, err = OpenLinks(ToJoiner, invite, carol, alice.OwnIndex(), down)
	wantErr(t, err, ErrUnauthenticated, "") // another epoch
	_, err = OpenLinks(ToJoiner, invite, carol, alice.OwnIndex(), down[1:])
	wantErr(t, err, ErrMalformed, "")
	const rule = "a joiner sends its own link key, a member all by leaf index"
	for _, keys := range [][]*LinkKey{nil, {nil}, all} {
		_, err := SealLinks(FromJoiner, invite, w.id, epoch, 2, 0, alice.OwnLeaf().EncryptionKey(), keys)
		wantErr(t, err, ErrInvalid, rule)
	}
	_, err = SealLinks(FromResynced, invite, w.id, epoch, 2, 0, alice.OwnLeaf().EncryptionKey(), own)
	wantErr(t, err, ErrInvalid, rule)
	_, err = SealLinks(FromJoiner, InviteSecret{}, w.id, epoch, 2, 0, alice.OwnLeaf().EncryptionKey(), own)
	wantErr(t, err, ErrInvalid, "a joiner's link keys are sealed under an invitation, no others")
	_, err = SealLinks(ToResynced, invite, w.id, epoch, 2, 0, alice.OwnLeaf().EncryptionKey(), own)
	wantErr(t, err, ErrInvalid, "a joiner's link keys are sealed under an invitation, no others")
	_, err = SealLinks(FromJoiner, invite, w.id, epoch, 2, 0, []byte("short"), own)
	wantErr(t, err, ErrInvalid, "a leaf's encryption key is of suite 1")
}

// TestMissingLinks: one who resynced asks a leaf for the link keys that it lacks, and gets them from it alone.
func TestMissingLinks(t *testing.T) {
	w := newWorld(t, MLSRules(), nil)
	alice, bob := w.members["alice"].group, w.members["bob"].group
	epoch := alice.Epoch()
	ask := must(SealMissing(w.id, epoch, bob.OwnIndex(), alice.OwnIndex(), alice.OwnLeaf().EncryptionKey(), []uint32{0, 7}))
	if got := must(OpenMissing(alice, bob.OwnIndex(), ask)); len(got) != 2 || got[0] != 0 || got[1] != 7 {
		t.Errorf("missing are %v", got)
	}
	keys := []*LinkKey{linkOf(w, "alice")}
	answer := must(SealLinks(ToResynced, InviteSecret{}, w.id, epoch, alice.OwnIndex(), bob.OwnIndex(), bob.OwnLeaf().EncryptionKey(), keys))
	got, err := OpenLinks(ToResynced, InviteSecret{}, bob, alice.OwnIndex(), answer)
	wantOK(t, err)
	if len(got) != 1 || !got[0].Equal(*keys[0]) {
		t.Error("another key")
	}
	for name, open := range map[string]func() error{
		"an ask as an answer":      func() error { _, err := OpenLinks(ToResynced, InviteSecret{}, alice, bob.OwnIndex(), ask); return err },
		"an answer as a joiner's":  func() error { _, err := OpenLinks(ToJoiner, InviteSecret{}, bob, alice.OwnIndex(), answer); return err },
		"an ask of another sender": func() error { _, err := OpenMissing(alice, 5, ask); return err },
		"an answer to somebody else": func() error {
			_, err := OpenLinks(ToResynced, InviteSecret{}, alice, alice.OwnIndex(), answer)
			return err
		},
		"an answer under a join link": func() error {
			_, err := OpenLinks(ToResynced, NewInviteSecret(), bob, alice.OwnIndex(), answer)
			return err
		},
	} {
		if err := open(); err == nil {
			t.Errorf("opens: %s", name)
		} else {
			wantErr(t, err, ErrUnauthenticated, "")
		}
	}
}

// TestBanList: a list has one encoding and a bound.
func TestBanList(t *testing.T) {
	a, b := must(ParseUser("mimi://a.example/u/alice")), must(ParseUser("mimi://a.example/u/bob"))
	one, other := must((&BanList{Number: 1, Users: []User{b, a, b}}).Marshal()), must((&BanList{Number: 1, Users: []User{a, b}}).Marshal())
	if !bytes.Equal(one, other) {
		t.Error("one set has two encodings")
	}
	long := &BanList{Users: make([]User, MaxBans+1)}
	_, err := long.Marshal()
	wantErr(t, err, ErrInvalid, "a ban list has at most 512 users")
}

// TestRolesLapse: an admin who has left cannot come back as one.
func TestRolesLapse(t *testing.T) {
	w := newWorld(t, MLSRules(), nil)
	wantOK(t, w.propose("alice", mls.Proposal{Type: mls.ProposalSelfRemove}))
	wantOK(t, w.commit("bob", mls.CommitOptions{}))
	mallory := w.device("a-mallory")
	mallory.pseudonym = w.device("alice").pseudonym
	wantErr(t, w.add("bob", w.newcomer("a-mallory")), ErrInvalid, barredRule)
}

// TestNoBranch: a client that joins as pkg/client does, which knows no PSK and gives no other groups, enters no branch of a group.
func TestNoBranch(t *testing.T) {
	w := newWorld(t, MLSRules(), nil)
	own, bob := w.newcomer("alice"), w.newcomer("bob")
	names := map[string]string{string(own.kp.Leaf().SignatureKey()): "alice", string(bob.kp.Leaf().SignatureKey()): "bob"}
	for name, m := range w.members {
		names[string(m.group.OwnLeaf().SignatureKey())] = name
	}
	staged, err := w.members["alice"].group.Successor(mls.SuccessorConfig{
		GroupID: []byte(must(NewGroupID("hub.example")).Wire()), Extensions: GroupExtensions(openPolicy()),
		KeyPackage: own.kp, Secrets: own.keys, Members: []*mls.KeyPackage{bob.kp},
		Rules: &mls.Rules{Identity: func(l *mls.LeafNode) string { return names[string(l.SignatureKey())] }},
	})
	wantOK(t, err)
	_, _, err = mls.Join(mls.JoinConfig{Welcome: staged.Welcome, Tree: staged.Change.After.Tree(), KeyPackage: bob.kp, Secrets: bob.keys, Rules: w.rules})
	wantErr(t, err, mls.ErrUnsupported, "")
}
