package mimimi

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"mimimi.example/pkg/mls"
)

// ruleCase breaks one rule in a group of alice, admin, and bob.
type ruleCase struct {
	rule   string // its name in commitRules
	name   string
	want   string // its sentence
	denied bool
	policy func(*Policy)
	do     func(w *world) error
}

// ruleCases break every rule of commitRules: one table, in the order of the rules.
func ruleCases() []ruleCase {
	gce := func(change func(*Policy)) mls.Proposal {
		p := openPolicy()
		change(p)
		return mls.Proposal{Type: mls.ProposalGroupContextExtensions, Extensions: GroupExtensions(p)}
	}
	psk := func(id []byte) ([]byte, error) { return bytes.Repeat([]byte{1}, 32), nil }
	return []ruleCase{
		{rule: "proposal types", name: "psk", want: "no PSK, ReInit or unknown proposal in version 1.0", do: func(w *world) error {
			w.rules.CheckLeaf = nil
			staged, err := w.members["alice"].group.Commit(mls.CommitOptions{PSK: psk, Path: true,
				Proposals: []mls.Proposal{{Type: mls.ProposalPSK, PSK: &mls.PSKID{ID: []byte("x")}}}})
			wantOK(w.t, err)
			return w.accept("alice", staged)
		}},
		{rule: "proposal types", name: "reinit", want: "no PSK, ReInit or unknown proposal in version 1.0", do: func(w *world) error {
			staged, err := w.members["alice"].group.Commit(mls.CommitOptions{Proposals: []mls.Proposal{
				{Type: mls.ProposalReInit, ReInit: &mls.ReInit{GroupID: []byte("x"), Suite: Suite}},
			}})
			wantOK(w.t, err)
			return w.accept("alice", staged)
		}},
		{rule: "proposal types", name: "proposed by an outsider", want: "proposals come from members", do: func(w *world) error {
			c := w.change("alice", mls.CommitOptions{Proposals: w.removes("bob")})
			c.Proposals[0].Sender, c.Proposals[0].ByReference = mls.Sender{Type: mls.SenderExternal}, true
			_, err := w.state.CheckCommit(c, w.at)
			return err
		}},
		{rule: "adds xor removes", name: "add and remove", want: "no commit both adds and removes", do: func(w *world) error {
			n := w.newcomer("carol")
			return w.commit("alice", mls.CommitOptions{Proposals: append(append(w.removes("bob"), adds(n)...), w.linkUpdate("alice", nil, n))})
		}},
		{rule: "adds xor removes", name: "add and self_remove", want: "no commit both adds and removes", do: func(w *world) error {
			wantOK(w.t, w.propose("bob", mls.Proposal{Type: mls.ProposalSelfRemove}))
			return w.add("alice", w.newcomer("carol"))
		}},
		{rule: "self removes taken up", name: "left out", want: "every pending self_remove is taken up", do: func(w *world) error {
			wantOK(w.t, w.propose("bob", mls.Proposal{Type: mls.ProposalSelfRemove}))
			return w.commit("alice", mls.CommitOptions{NoPending: true})
		}},
		{rule: "self removes taken up", name: "left out by a joiner", want: "every pending self_remove is taken up", do: func(w *world) error {
			wantOK(w.t, w.propose("bob", mls.Proposal{Type: mls.ProposalSelfRemove}))
			return w.join(w.newcomer("carol"))
		}},
		{rule: "adds by value", name: "by reference", want: "Adds are made by value", do: func(w *world) error {
			n := w.newcomer("carol")
			w.slip("bob", adds(n)[0])
			return w.commit("alice", mls.CommitOptions{Proposals: []mls.Proposal{w.linkUpdate("alice", nil, n)}}, n)
		}},
		{rule: "adds by value", name: "marked KeyPackage", want: "a KeyPackage has no extension but an empty last_resort", do: func(w *world) error {
			kp, keys := keyPackageWith(w.t, w.device("carol"), func(c *mls.KeyPackageConfig) {
				c.Extensions = []mls.Extension{{Type: mls.ExtensionLastResort, Data: []byte("mark")}}
			})
			return w.add("alice", newcomer{"carol", kp, keys})
		}},
		{rule: "adds by value", name: "201 Adds", want: "at most 200 Adds", do: func(w *world) error {
			c := w.change("alice", mls.CommitOptions{Proposals: adds(w.newcomer("carol"))})
			for range maxAdds {
				c.Proposals = append(c.Proposals, c.Proposals[0])
			}
			_, err := w.state.CheckCommit(c, w.at)
			return err
		}},
		{rule: "link update", name: "none", want: "one identity_link_update with the Adds", do: func(w *world) error {
			return w.commit("alice", mls.CommitOptions{Proposals: adds(w.newcomer("carol"))})
		}},
		{rule: "link update", name: "two", want: "at most one identity_link_update", do: func(w *world) error {
			u := w.linkUpdate("alice", nil)
			return w.commit("alice", mls.CommitOptions{Proposals: []mls.Proposal{u, w.linkUpdate("alice", nil)}})
		}},
		{rule: "link update", name: "before the Adds", want: "the identity_link_update stands after the Adds", do: func(w *world) error {
			n := w.newcomer("carol")
			return w.commit("alice", mls.CommitOptions{Proposals: append([]mls.Proposal{w.linkUpdate("alice", nil, n)}, adds(n)...)})
		}},
		{rule: "link update", name: "between the Adds", want: "the identity_link_update stands after the Adds", do: func(w *world) error {
			n, o := w.newcomer("carol"), w.newcomer("dave")
			return w.commit("alice", mls.CommitOptions{Proposals: append(append(adds(n), w.linkUpdate("alice", nil, n, o)), adds(o)...)})
		}},
		{rule: "link update", name: "key missing", want: "an identity_link_update has a key for each Add", do: func(w *world) error {
			n, o := w.newcomer("carol"), w.newcomer("dave")
			return w.commit("alice", mls.CommitOptions{Proposals: append(adds(n, o), w.linkUpdate("alice", nil, n))})
		}},
		{rule: "link update", name: "of an outsider", want: "an identity_link_update is a member's, by value", do: func(w *world) error {
			return w.join(w.newcomer("carol"), func(c *mls.ExternalJoinConfig) {
				c.Proposals = []mls.Proposal{w.linkUpdate("alice", nil)}
			})
		}},
		{rule: "link update", name: "credential replaced in silence", want: "a replaced credential's link key goes into the same commit", do: func(w *world) error {
			return w.commit("bob", mls.CommitOptions{NewLeaf: w.replaced("bob", noon)})
		}},
		{rule: "link update", name: "credential replaced without own key", want: "a replaced credential's link key goes into the same commit", do: func(w *world) error {
			return w.commit("bob", mls.CommitOptions{NewLeaf: w.replaced("bob", noon), Proposals: []mls.Proposal{w.linkUpdate("bob", nil)}})
		}},
		{rule: "unique in the tree", name: "client pseudonym", want: "client pseudonyms are unique in the tree", do: func(w *world) error {
			// Carol takes over Bob's client pseudonym, which is of her domain, with a credential that is otherwise her own.
			d := w.device("carol")
			kp, keys := keyPackageWith(w.t, d, func(c *mls.KeyPackageConfig) {
				cfg := d.pseudonymConfig(w.leaf("bob").Credential.ClientPseudonym)
				cfg.SignatureKey = c.SignatureKey.Public()
				c.Credential = must(NewPseudonymousCredential(cfg)).Credential()
			})
			return w.add("alice", newcomer{"carol", kp, keys})
		}},
		{rule: "user pseudonym in the tree", name: "added by another", want: userRule, do: func(w *world) error {
			return w.add("alice", w.newcomer("bob/2"))
		}},
		{rule: "user pseudonym in the tree", name: "joins", want: userRule, do: func(w *world) error {
			return w.join(w.newcomer("bob/2"))
		}},
		{rule: "user pseudonym in the tree", name: "admin's pseudonym taken", want: userRule, do: func(w *world) error {
			mallory := w.device("a-mallory")
			mallory.pseudonym = w.device("alice").pseudonym
			return w.add("bob", w.newcomer("a-mallory"))
		}},
		{rule: "barred", name: "removed user added again", want: barredRule, do: func(w *world) error {
			wantOK(w.t, w.remove("alice", "bob"))
			return w.add("alice", w.newcomer("bob"))
		}},
		{rule: "barred", name: "removed user joins again", want: barredRule, do: func(w *world) error {
			wantOK(w.t, w.remove("alice", "bob"))
			return w.join(w.newcomer("bob"))
		}},
		{rule: "barred", name: "user who left", want: barredRule, do: func(w *world) error {
			wantOK(w.t, w.propose("bob", mls.Proposal{Type: mls.ProposalSelfRemove}))
			wantOK(w.t, w.commit("alice", mls.CommitOptions{}))
			return w.add("alice", w.newcomer("bob"))
		}},
		{rule: "barred", name: "client pseudonym of a user who has gone", want: barredRule, do: func(w *world) error {
			client := w.leaf("bob").Credential.ClientPseudonym
			wantOK(w.t, w.remove("alice", "bob"))
			d := w.device("carol")
			kp, keys := keyPackageWith(w.t, d, func(c *mls.KeyPackageConfig) {
				cfg := d.pseudonymConfig(client)
				cfg.SignatureKey = c.SignatureKey.Public()
				c.Credential = must(NewPseudonymousCredential(cfg)).Credential()
			})
			return w.add("alice", newcomer{"carol", kp, keys})
		}},
		{rule: "barred", name: "too many", want: "a group that has barred 65536 pseudonyms takes no newcomers", do: func(w *world) error {
			w.state.barred, w.tampered = make([]barredID, maxBarred+1), true
			return w.add("alice", w.newcomer("carol"))
		}},
		{rule: "age", name: "old leaf joins", want: "a leaf enters within 90 days from its week", do: func(w *world) error {
			n := w.newcomer("carol", func(c *KeyPackageConfig) { c.Now = noon.Add(-100 * day) })
			return w.join(n)
		}},
		{rule: "age", name: "leaf from the future joins", want: "a leaf enters within 90 days from its week", do: func(w *world) error {
			return w.join(w.newcomer("carol", func(c *KeyPackageConfig) { c.Now = noon.Add(14 * day) }))
		}},
		{rule: "age", name: "old credential taken up", want: "a leaf enters within 90 days from its week", do: func(w *world) error {
			leaf := w.replaced("bob", noon.Add(-100*day))
			own := NewInviteSecret().JoinToken().Bytes()
			key := must(LinkKeyFrom(own))
			return w.commit("bob", mls.CommitOptions{NewLeaf: leaf, Proposals: []mls.Proposal{w.linkUpdate("bob", &key)}})
		}},
		{rule: "updated leaf", name: "path changes a pseudonym", want: "a path or Update leaf keeps both pseudonyms", do: func(w *world) error {
			fresh := w.newcomer("bob")
			c := fresh.kp.Leaf().Credential()
			key := must(LinkKeyFrom(make([]byte, 32)))
			return w.commit("bob", mls.CommitOptions{Proposals: []mls.Proposal{w.linkUpdate("bob", &key)},
				NewLeaf: &mls.LeafChange{Credential: &c, SignatureKey: &fresh.keys.SignatureKey, Extensions: fresh.kp.Leaf().Extensions()}})
		}},
		{rule: "updated leaf", name: "Update changes the credential", want: "an Update keeps the credential", do: func(w *world) error {
			wantOK(w.t, w.propose("bob", mls.Proposal{Type: mls.ProposalUpdate}))
			c := w.change("alice", mls.CommitOptions{})
			// No Group makes such an Update, so the leaf is put in by hand.
			r := must(w.state.review(c, w.at))
			id := *r.after[1]
			id.Credential = w.device("bob").credential(w.t)
			id.Credential.ClientPseudonym = r.before[1].Credential.ClientPseudonym
			r.after[1] = &id
			return checkUpdated(r)
		}},
		{rule: "resync", name: "another credential", want: "a resync keeps the whole credential", do: func(w *world) error {
			return w.resync(w.newcomer("bob"))
		}},
		{rule: "resync", name: "of somebody else", want: "a resync keeps the whole credential", do: func(w *world) error {
			old := w.members["bob"].group.OwnIndex()
			return w.join(w.newcomer("carol"), func(c *mls.ExternalJoinConfig) { c.Resync, c.OldLeaf = true, old })
		}},
		{rule: "policy change", name: "by a member", want: "only an admin changes the policy", denied: true, do: func(w *world) error {
			return w.commit("bob", mls.CommitOptions{Proposals: []mls.Proposal{gce(func(p *Policy) { p.Admins = []UserPseudonym{w.device("bob").pseudonym} })}})
		}},
		{rule: "policy change", name: "proposed by a member, committed by an admin", want: "only an admin changes the policy", denied: true, do: func(w *world) error {
			w.slip("bob", gce(func(p *Policy) { p.Admins = []UserPseudonym{w.device("bob").pseudonym} }))
			return w.commit("alice", mls.CommitOptions{})
		}},
		{rule: "policy change", name: "unidentified members", want: "whether unidentified members are allowed is fixed at creation", do: func(w *world) error {
			return w.commit("alice", mls.CommitOptions{Proposals: []mls.Proposal{gce(func(p *Policy) { p.UnidentifiedMembers = true })}})
		}},
		{rule: "policy change", name: "no admin left", want: "a new policy has an admin", do: func(w *world) error {
			return w.commit("alice", mls.CommitOptions{Proposals: []mls.Proposal{gce(func(*Policy) {})}})
		}},
		{rule: "policy change", name: "a role for somebody to come", want: "the admins of a new policy are members", do: func(w *world) error {
			return w.commit("alice", mls.CommitOptions{Proposals: []mls.Proposal{gce(func(p *Policy) {
				p.Admins = []UserPseudonym{w.device("alice").pseudonym, w.device("carol").pseudonym}
			})}})
		}},
		{rule: "policy change", name: "a role for somebody to come, proposed", want: "the admins of a new policy are members", do: func(w *world) error {
			return w.propose("alice", gce(func(p *Policy) { p.Admins = []UserPseudonym{w.device("carol").pseudonym} }))
		}},
		{rule: "policy change", name: "fewer leaves than there are, proposed", want: "the group has at most so many leaves", denied: true, do: func(w *world) error {
			return w.propose("alice", gce(func(p *Policy) { p.MaxLeaves, p.Admins = 1, []UserPseudonym{w.device("alice").pseudonym} }))
		}},
		{rule: "may add", name: "member", want: "the policy says who may add", denied: true, policy: func(p *Policy) { p.MayAdd = RoleAdmin }, do: func(w *world) error {
			return w.add("bob", w.newcomer("carol"))
		}},
		{rule: "last resort", name: "added", want: "the policy forbids last-resort KeyPackages", denied: true, policy: func(p *Policy) { p.LastResort = false },
			do: func(w *world) error {
				return w.add("alice", w.newcomer("carol", func(c *KeyPackageConfig) { c.LastResort = true }))
			}},
		{rule: "may remove", name: "member", want: "the policy says who may remove", denied: true, do: func(w *world) error {
			w.mustAdd("alice", "carol")
			w.at = w.at.Add(24*time.Hour + time.Second)
			return w.remove("bob", "carol")
		}},
		{rule: "may remove", name: "founder on the first day", want: "the policy says who may remove", denied: true, do: func(w *world) error {
			return w.remove("bob", "alice")
		}},
		{rule: "may remove", name: "newcomer's adder alone", want: "the policy says who may remove", denied: true, do: func(w *world) error {
			w.at = w.at.Add(25 * time.Hour)
			w.mustAdd("alice", "carol")
			return w.remove("bob", "alice")
		}},
		{rule: "may remove", name: "proposed by a member", want: "the policy says who may remove", denied: true, do: func(w *world) error {
			w.mustAdd("alice", "carol")
			w.at = w.at.Add(25 * time.Hour)
			w.slip("bob", w.removes("carol")[0])
			return w.commit("alice", mls.CommitOptions{})
		}},
		{rule: "external joins", name: "forbidden", want: "the policy allows no external joins", denied: true, policy: func(p *Policy) { p.ExternalJoins = false },
			do: func(w *world) error { return w.join(w.newcomer("carol")) }},
		{rule: "one joiner at a time", name: "second within ten minutes", want: oneJoinerRule, denied: true, do: func(w *world) error {
			wantOK(w.t, w.join(w.newcomer("carol")))
			w.at = w.at.Add(10*time.Minute - time.Second)
			return w.join(w.newcomer("dave"))
		}},
		{rule: "one joiner at a time", name: "after the joiner's own commit", want: oneJoinerRule, denied: true, do: func(w *world) error {
			wantOK(w.t, w.join(w.newcomer("carol")))
			wantOK(w.t, w.commit("carol", mls.CommitOptions{}))
			return w.join(w.newcomer("dave"))
		}},
		{rule: "one joiner at a time", name: "after the joiner's own resync", want: oneJoinerRule, denied: true, do: func(w *world) error {
			wantOK(w.t, w.join(w.newcomer("carol")))
			wantOK(w.t, w.resync(w.again("carol")))
			return w.join(w.newcomer("dave"))
		}},
		{rule: "max leaves", name: "third leaf", want: "the group has at most so many leaves", denied: true, policy: func(p *Policy) { p.MaxLeaves = 2 },
			do: func(w *world) error { return w.add("alice", w.newcomer("carol")) }},
		{rule: "max leaves", name: "lowered too far", want: "the group has at most so many leaves", denied: true, do: func(w *world) error {
			return w.commit("alice", mls.CommitOptions{Proposals: []mls.Proposal{gce(func(p *Policy) { p.MaxLeaves, p.Admins = 1, []UserPseudonym{w.device("alice").pseudonym} })}})
		}},
	}
}

const (
	userRule      = "a new leaf of a user pseudonym in the tree comes only from that user, or is a resync"
	barredRule    = "pseudonyms of a user whose last leaf has gone are barred"
	oneJoinerRule = "the next external joiner waits for another leaf's commit or ten minutes"
)

// change is what the hub makes of a commit, without judging it.
func (w *world) change(by string, opts mls.CommitOptions) *mls.Change {
	w.t.Helper()
	staged, err := w.members[by].group.Commit(opts)
	wantOK(w.t, err)
	c, err := w.public.StageCommit(staged.Message, w.at)
	wantOK(w.t, err)
	return c
}

// replaced is a new signature key and credential for the leaf of a member, of the week of now.
func (w *world) replaced(name string, now time.Time) *mls.LeafChange {
	w.t.Helper()
	m := w.members[name]
	key := must(Suite.GenerateSignatureKey())
	cfg := m.pseudonymConfig(w.leaf(name).Credential.ClientPseudonym)
	cfg.SignatureKey, cfg.Now = key.Public(), now
	c := must(NewPseudonymousCredential(cfg)).Credential()
	return &mls.LeafChange{Credential: &c, SignatureKey: &key}
}

func TestCommitRules(t *testing.T) {
	broken := map[string]bool{}
	for _, c := range ruleCases() {
		broken[c.rule] = true
		t.Run(c.rule+"/"+c.name, func(t *testing.T) {
			w := newWorld(t, laxRules(), c.policy)
			if c.name == "of an outsider" {
				w.rules.Proposals[ProposalIdentityLinkUpdate] = mls.ProposalRule{AllowExternal: true}
			}
			before := w.state.Marshal()
			state := w.state
			err := c.do(w)
			kind := ErrInvalid
			if c.denied {
				kind = ErrDenied
			}
			wantErr(t, err, kind, c.want)
			if other := ErrDenied; !c.denied && errors.Is(err, other) {
				t.Error("an invalid commit is called denied")
			}
			if c.name != "too many" && !bytes.Equal(state.Marshal(), before) {
				t.Error("the state changed")
			}
		})
	}
	for _, r := range commitRules {
		if !broken[r.name] {
			t.Errorf("no test breaks the rule %q", r.name)
		}
	}
	if len(broken) != len(commitRules) {
		t.Errorf("%d rules are broken, there are %d", len(broken), len(commitRules))
	}
}

// TestUniqueKeys breaks what pkg/mls refuses by itself in a whole group.
func TestUniqueKeys(t *testing.T) {
	w := newWorld(t, laxRules(), nil)
	leaves := []mls.Member{{Index: 0, Leaf: w.newcomer("carol").kp.Leaf()}, {Index: 1, Leaf: w.newcomer("dave").kp.Leaf()}}
	rosterOf := func(ms []mls.Member) roster {
		r := roster{}
		for _, m := range ms {
			r[m.Index] = must(ParseLeaf(m.Leaf))
		}
		return r
	}
	wantOK(t, rosterOf(leaves).checkUnique(leaves))
	r := rosterOf(leaves)
	same := []mls.Member{leaves[0], {Index: 1, Leaf: leaves[0].Leaf}}
	wantErr(t, r.checkUnique(same), ErrInvalid, "signature keys are unique in the tree")
	wantErr(t, rosterOf(same).checkUnique(same), ErrInvalid, "client pseudonyms are unique in the tree")

	// Dave's KeyPackage with Carol's encryption key: its signature is wrong, but this rule does not look at it.
	spoilt := w.newcomer("dave").kp.Marshal()
	dave := must(mls.ParseKeyPackage(spoilt))
	spoilt = bytes.Replace(spoilt, dave.Leaf().EncryptionKey(), leaves[0].Leaf.EncryptionKey(), 1)
	shared := []mls.Member{leaves[0], {Index: 1, Leaf: must(mls.ParseKeyPackage(spoilt)).Leaf()}}
	wantErr(t, rosterOf(shared).checkUnique(shared), ErrInvalid, "encryption keys are unique in the tree")
}

// BenchmarkCheckCommit judges an empty commit in a group of 1,000 leaves.
func BenchmarkCheckCommit(b *testing.B) {
	w := newWorld(b, laxRules(), nil)
	for left := 998; left > 0; left -= min(left, maxAdds) {
		var news []newcomer
		for range min(left, maxAdds) {
			news = append(news, w.newcomer("carol"))
		}
		w.device("carol").pseudonym = must(NewUserPseudonym("b.example"))
		staged, err := w.members["alice"].group.Commit(mls.CommitOptions{Proposals: append(adds(news...), w.linkUpdate("alice", nil, news...))})
		wantOK(b, err)
		wantOK(b, w.accept("alice", staged))
	}
	c := w.change("alice", mls.CommitOptions{})
	for b.Loop() {
		if _, err := w.state.CheckCommit(c, w.at); err != nil {
			b.Fatal(err)
		}
	}
}
