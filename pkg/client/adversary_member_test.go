package client_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/client"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// cast is a group that alice made, with bob in it, and eve, a member who does not keep the rules. Eve and bob are of one domain.
type cast struct {
	t               *testing.T
	alice, bob, eve *person
	group           map[*person]string
}

func newCast(t *testing.T) *cast {
	t.Helper()
	c := &cast{t: t, alice: register(t, theWorld.a, "alice"), bob: register(t, theWorld.b, "bob"), eve: register(t, theWorld.b, "eve")}
	connect(t, c.alice, c.bob)
	connect(t, c.alice, c.eve)
	c.anew()
	return c
}

// anew makes another group of the same people.
func (c *cast) anew() {
	c.t.Helper()
	before := len(c.bob.groups())
	id, err := c.alice.c.CreateGroup(c.t.Context(), "")
	check(c.t, err)
	check(c.t, c.alice.c.Add(c.t.Context(), id, users(c.bob, c.eve)...))
	until(c.t, "join", func() bool { return len(c.bob.ready()) == before+1 && len(c.eve.ready()) == before+1 }, c.bob, c.eve)
	c.group = map[*person]string{c.alice: id, c.bob: c.bob.newest(), c.eve: c.eve.newest()}
}

// newest is the active group that a person was in last.
func (p *person) newest() string {
	p.t.Helper()
	all := p.events(client.EventGroupJoined)
	return all[len(all)-1].Group
}

// inside is what a person has of the cast's group.
func (c *cast) inside(p *person) *client.Insider {
	c.t.Helper()
	in, err := client.Inside(p.c, c.group[p])
	check(c.t, err)
	return in
}

// credential is that of a person's leaf.
func (c *cast) credential(p *person) *mimimi.PseudonymousCredential {
	c.t.Helper()
	cred, err := mimimi.ParsePseudonymousCredential(c.inside(p).Group.OwnLeaf().Credential())
	check(c.t, err)
	return cred
}

// commit makes a commit by an insider. Nothing of it is checked by MIMIMI's rules.
func commit(t *testing.T, in *client.Insider, o mls.CommitOptions) *mls.StagedCommit {
	t.Helper()
	o.Path = true
	if o.HubExtensions == nil {
		o.HubExtensions = hubExtensions
	}
	staged, err := in.Group.Commit(o)
	check(t, err)
	return staged
}

// linkUpdate is an identity_link_update with any keys for any Adds.
func linkUpdate(t *testing.T, in *client.Insider, own *mimimi.LinkKey, keys []mimimi.LinkKey, adds ...*mls.KeyPackage) mls.Proposal {
	t.Helper()
	var refs [][]byte
	for _, kp := range adds {
		refs = append(refs, kp.Ref())
	}
	key, err := mimimi.NewLinkUpdateKey(in.Group)
	check(t, err)
	body, err := key.Seal(in.ID, in.Group.Epoch(), in.Group.OwnIndex(), refs, mimimi.IdentityLinkKeys{Added: keys, Own: own})
	check(t, err)
	return mls.Proposal{Type: mimimi.ProposalIdentityLinkUpdate, Body: body}
}

// adding is a commit that adds: members are told keys, newcomers what told makes of the right keys by leaf.
func adding(t *testing.T, in *client.Insider, adds []*mls.KeyPackage, keys []mimimi.LinkKey, told func(all []*mimimi.LinkKey)) *mls.StagedCommit {
	t.Helper()
	return addingBy(t, in, adds, linkUpdate(t, in, nil, keys, adds...), keys, told)
}

// addingBy is adding with what is said to the members.
func addingBy(t *testing.T, in *client.Insider, adds []*mls.KeyPackage, update mls.Proposal, keys []mimimi.LinkKey, told func(all []*mimimi.LinkKey)) *mls.StagedCommit {
	t.Helper()
	var proposals []mls.Proposal
	for _, kp := range adds {
		proposals = append(proposals, mls.Proposal{Type: mls.ProposalAdd, KeyPackage: kp})
	}
	return commit(t, in, mls.CommitOptions{
		Proposals: append(proposals, update),
		WelcomeExtensions: func(next *mls.Group) ([]mls.Extension, error) {
			all := slices.Clone(in.Keys)
			for _, m := range next.Public().Members() {
				for uint32(len(all)) <= m.Index {
					all = append(all, nil)
				}
				for i, kp := range adds {
					if bytes.Equal(m.Leaf.SignatureKey(), kp.Leaf().SignatureKey()) {
						all[m.Index] = &keys[i]
					}
				}
			}
			told(all)
			return []mls.Extension{mimimi.MarshalIdentityLinks(all)}, nil
		},
	})
}

// offer gives a commit to the honest hub of domain a.
func offer(t *testing.T, id mimimi.GroupID, staged *mls.StagedCommit, token ...mimimi.JoinToken) (*mimimiv1.CommitResponse, error) {
	t.Helper()
	return offerTo(t, theWorld.opA, id, staged, token...)
}

// offerTo gives a commit to an operator's honest hub.
func offerTo(t *testing.T, o *operator, id mimimi.GroupID, staged *mls.StagedCommit, token ...mimimi.JoinToken) (*mimimiv1.CommitResponse, error) {
	t.Helper()
	rq := &mimimiv1.CommitRequest{RequestId: random(16), GroupId: []byte(id.Wire()), Commit: staged.Message, Welcome: staged.Welcome, GroupInfo: staged.GroupInfo}
	for _, k := range token {
		rq.JoinToken = k.Bytes()
	}
	return o.hub().Commit(t.Context(), rq)
}

// external makes an external commit of an impostor's into a group, with the token that the hub will take.
func external(t *testing.T, id mimimi.GroupID, kp *mls.KeyPackage, keys *mls.KeyPackageSecrets) (*mls.StagedCommit, mimimi.JoinToken) {
	t.Helper()
	b, err := theWorld.a.Operator(t.Context())
	check(t, err)
	defer closeBus(t, b)
	x, token := &infiltrator{o: theWorld.opA, bus: b}, mimimi.NewInviteSecret().JoinToken()
	check(t, x.admit(t.Context(), id, token))
	got, err := theWorld.opA.hub().GetGroup(t.Context(), &mimimiv1.GetGroupRequest{GroupId: []byte(id.Wire()), Proof: &mimimiv1.Proof{JoinToken: token.Bytes()}})
	check(t, err)
	staged, err := mls.JoinExternal(mls.ExternalJoinConfig{GroupInfo: got.GroupInfo, Tree: got.RatchetTree, Pending: got.PendingProposals, KeyPackage: kp, Secrets: keys,
		HubExtensions: hubExtensions, Rules: laxRules()})
	check(t, err)
	return staged, token
}

func closeBus(t *testing.T, b *bus.Bus) {
	t.Helper()
	check(t, b.Close(context.Background()))
}

// notFollowed is what a client says of a group whose hub lets a rule be broken.
const notFollowed = "it is not followed"

// refused plays a commit that breaks a rule twice: the honest hub refuses it, and if the hub takes it the members do not follow.
func (c *cast) refused(staged *mls.StagedCommit, token ...mimimi.JoinToken) {
	c.t.Helper()
	in := c.inside(c.eve)
	_, err := offer(c.t, in.ID, staged, token...)
	if kind := problem.KindOf(problem.FromConnect(err)); err == nil || kind != problem.Invalid && kind != problem.Denied {
		c.t.Errorf("the hub: %v", err)
	}
	// The malicious hub delivers it in place of a commit that has its place in the log.
	epoch := in.Group.Epoch() + 1
	instead := func(d *mimimiv1.Delivery) *mimimiv1.Delivery {
		if d.Kind == mimimiv1.Delivery_KIND_COMMIT && d.Epoch == epoch && string(d.GroupId) == in.ID.Wire() {
			d.Message = staged.Message
		}
		return d
	}
	undoA, undoB := deliveries(c.t, theWorld.opA, theWorld.opA, instead), deliveries(c.t, theWorld.opA, theWorld.opB, instead)
	defer undoA()
	defer undoB()
	_, err = offer(c.t, in.ID, commit(c.t, c.inside(c.eve), mls.CommitOptions{}))
	check(c.t, err)
	for _, p := range []*person{c.alice, c.bob} {
		over := p.ending(c.group[p])
		if over == "" {
			until(c.t, p.name+" looks at it", func() bool { over = p.ending(c.group[p]); return over != "" }, p)
		}
		if !strings.Contains(over, notFollowed) {
			c.t.Errorf("%s: the group ended by %q", p.name, over)
		}
	}
}

// ending is what a person was told when a group ended, empty if it goes on.
func (p *person) ending(group string) string {
	p.t.Helper()
	for _, e := range p.events(client.EventGroupOver) {
		if e.Group == group {
			return e.Text
		}
	}
	return ""
}

// TestCommitsThatBreakIdentity: commits by which a member or an outsider takes somebody's place. The hub takes none; if it did, no member would follow.
func TestCommitsThatBreakIdentity(t *testing.T) {
	c := newCast(t)
	spy := theWorld.opB.impostor(t, "b.localhost", "mimi://b.localhost/u/spy")
	elsewhere := c.credential(c.bob) // his leaf in another group, whose pseudonyms are in no other
	groups, top := 1, t
	for _, x := range []struct {
		name string
		make func(t *testing.T) (*mls.StagedCommit, []mimimi.JoinToken)
	}{
		{"a copied credential in an external joiner's leaf", func(t *testing.T) (*mls.StagedCommit, []mimimi.JoinToken) {
			kp, keys := spy.keyPackageWith(elsewhere.Credential())
			staged, token := external(t, c.inside(c.eve).ID, kp, keys)
			return staged, []mimimi.JoinToken{token}
		}},
		{"a copied credential in an own path leaf", func(t *testing.T) (*mls.StagedCommit, []mimimi.JoinToken) {
			copied, in := c.credential(c.bob).Credential(), c.inside(c.eve)
			return commit(t, in, mls.CommitOptions{NewLeaf: &mls.LeafChange{Credential: &copied},
				Proposals: []mls.Proposal{linkUpdate(t, in, in.Keys[in.Group.OwnIndex()], nil)}}), nil
		}},
		{"a path leaf with another's user pseudonym", func(t *testing.T) (*mls.StagedCommit, []mimimi.JoinToken) {
			in, squatted := c.inside(c.eve), c.credential(c.eve)
			squatted.UserPseudonym = c.credential(c.bob).UserPseudonym
			cred := squatted.Credential()
			return commit(t, in, mls.CommitOptions{NewLeaf: &mls.LeafChange{Credential: &cred},
				Proposals: []mls.Proposal{linkUpdate(t, in, in.Keys[in.Group.OwnIndex()], nil)}}), nil
		}},
		{"an external joiner with a member's user pseudonym", func(t *testing.T) (*mls.StagedCommit, []mimimi.JoinToken) {
			kp, keys := spy.keyPackage(c.credential(c.bob).UserPseudonym)
			staged, token := external(t, c.inside(c.eve).ID, kp, keys)
			return staged, []mimimi.JoinToken{token}
		}},
		{"an added leaf with a member's user pseudonym", func(t *testing.T) (*mls.StagedCommit, []mimimi.JoinToken) {
			kp, _ := spy.keyPackage(c.credential(c.bob).UserPseudonym)
			return adding(t, c.inside(c.eve), []*mls.KeyPackage{kp}, []mimimi.LinkKey{spy.linkKey(kp)}, func([]*mimimi.LinkKey) {}), nil
		}},
		{"a policy change by a member who is no admin", func(t *testing.T) (*mls.StagedCommit, []mimimi.JoinToken) {
			return commit(t, c.inside(c.eve), mls.CommitOptions{Proposals: []mls.Proposal{newAdmin(t, c.inside(c.eve).Group)}}), nil
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			if groups++; groups > 3 { // as far as alice's tokens go
				c, groups = newCast(top), 1
			} else {
				c.anew()
			}
			c.t = t
			defer func() { c.t = top }()
			staged, token := x.make(t)
			c.refused(staged, token...)
		})
	}
}

// newAdmin is a change of the policy that makes the group's own leaf's user an admin.
func newAdmin(t *testing.T, g *mls.Group) mls.Proposal {
	t.Helper()
	data, _ := g.Public().Extension(mimimi.ExtensionGroup)
	policy, err := mimimi.ParsePolicy(data)
	check(t, err)
	own, err := mimimi.ParsePseudonymousCredential(g.OwnLeaf().Credential())
	check(t, err)
	policy.Admins = append(policy.Admins, own.UserPseudonym)
	return mls.Proposal{Type: mls.ProposalGroupContextExtensions, Extensions: mimimi.GroupExtensions(policy)}
}

// keyPackageWith makes a KeyPackage with somebody else's credential.
func (i *impostor) keyPackageWith(cred mls.Credential) (*mls.KeyPackage, *mls.KeyPackageSecrets) {
	i.t.Helper()
	key, err := mimimi.Suite.GenerateSignatureKey()
	check(i.t, err)
	name, err := mimimi.NewClientPseudonym(i.domain)
	check(i.t, err)
	return i.keyPackageOf(cred, name, key)
}

// keyPackageOf makes a KeyPackage with any credential.
func (i *impostor) keyPackageOf(cred mls.Credential, name mimimi.ClientPseudonym, key mls.SignatureKey) (*mls.KeyPackage, *mls.KeyPackageSecrets) {
	i.t.Helper()
	queue, err := mimimi.SealQueueID(i.queueKey, name, mimimi.NewQueueID())
	check(i.t, err)
	kp, keys, err := mls.NewKeyPackage(mls.KeyPackageConfig{
		Suite: mimimi.Suite, Credential: cred, SignatureKey: key, Capabilities: mimimi.Capabilities(), Lifetime: mimimi.LeafLifetime(time.Now()),
		LeafExtensions: []mls.Extension{{Type: mimimi.ExtensionEncryptedQueueID, Data: queue}},
	})
	check(i.t, err)
	return kp, keys
}

// linkKey is that of one of the impostor's own KeyPackages.
func (i *impostor) linkKey(kp *mls.KeyPackage) mimimi.LinkKey {
	i.t.Helper()
	cred, err := mimimi.ParsePseudonymousCredential(kp.Leaf().Credential())
	check(i.t, err)
	return cred.LinkKey(i.key)
}

// TestDepartedAdmin: nobody comes back under the pseudonym of an admin who has left, and so nobody gets the role.
func TestDepartedAdmin(t *testing.T) {
	c := newCast(t)
	admin := c.credential(c.alice).UserPseudonym
	check(t, c.alice.c.Leave(t.Context(), c.group[c.alice]))
	until(t, "alice left", func() bool { return c.bob.members(c.group[c.bob]) == 2 && c.eve.members(c.group[c.eve]) == 2 }, c.bob, c.eve)
	c.alice = c.bob // who looks at it; alice does not any more
	spy := theWorld.opA.impostor(t, "a.localhost", "mimi://a.localhost/u/spy")
	kp, keys := spy.keyPackage(admin)
	staged, token := external(t, c.inside(c.eve).ID, kp, keys)
	c.refused(staged, token)
}

// TestUnidentifiedLeafCommits: a leaf that the hub has brought in itself changes the policy, or only makes a commit, which no hub refuses. No member follows, nor enters anew over one that it
// cannot even process.
func TestUnidentifiedLeafCommits(t *testing.T) {
	c := newCast(t)
	b, err := theWorld.a.Operator(t.Context())
	check(t, err)
	defer closeBus(t, b)
	for _, x := range []struct {
		name     string
		make     func(t *testing.T, in *client.Insider) *mls.StagedCommit
		accepted bool
	}{
		{"an empty commit", func(t *testing.T, in *client.Insider) *mls.StagedCommit { return commit(t, in, mls.CommitOptions{}) }, true},
		{"a commit with a broken path", broken, true},
		{"a policy change", func(t *testing.T, in *client.Insider) *mls.StagedCommit {
			return commit(t, in, mls.CommitOptions{Proposals: []mls.Proposal{newAdmin(t, in.Group)}})
		}, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			c.t = t
			c.anew()
			spy := &infiltrator{o: theWorld.opA, who: theWorld.opA.impostor(t, "a.localhost", "mimi://a.localhost/u/spy"), bus: b}
			check(t, spy.join(t.Context(), c.inside(c.eve).ID))
			until(t, "the spy is seen", func() bool { return client.Unidentified(c.bob.c, c.group[c.bob]) == 1 }, c.bob)
			staged := x.make(t, &client.Insider{ID: spy.id, Group: spy.group, Own: *spy.own})
			if _, err := offer(t, spy.id, staged); (err == nil) != x.accepted {
				t.Fatalf("the hub: %v", err)
			}
			if !x.accepted { // the malicious hub takes it all the same
				epoch, id := staged.Change.Epoch, spy.id.Wire()
				undo := deliveries(t, theWorld.opA, theWorld.opB, func(d *mimimiv1.Delivery) *mimimiv1.Delivery {
					if d.Kind == mimimiv1.Delivery_KIND_COMMIT && d.Epoch == epoch && string(d.GroupId) == id {
						d.Message = staged.Message
					}
					return d
				})
				defer undo()
				plain, err := spy.group.Commit(mls.CommitOptions{Path: true, HubExtensions: hubExtensions})
				check(t, err)
				_, err = offer(t, spy.id, plain)
				check(t, err)
			}
			until(t, "bob looks at it", func() bool { return c.bob.ending(c.group[c.bob]) != "" }, c.bob)
			if over := c.bob.ending(c.group[c.bob]); !strings.Contains(over, notFollowed) {
				t.Errorf("the group ended by %q", over)
			}
		})
	}
}
