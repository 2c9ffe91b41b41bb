package interop

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// rules are those of every group of these tests, for members and server.
var rules = &mls.Rules{
	Proposals: map[mls.ProposalType]mls.ProposalRule{
		mimimi.ProposalIdentityLinkUpdate: {AllowExternal: true, ByReference: true},
	},
	NewMemberProposals: true,
}

// ours is pkg/mls behind the protocol.
type ours struct {
	members map[uint32]*ourMember
}

func newOurs(t testing.TB) *ours {
	t.Helper()
	if err := mls.RegisterXWing(xwing); err != nil {
		t.Fatal(err)
	}
	return &ours{members: map[uint32]*ourMember{}}
}

// ourMember is one client with at most one group.
type ourMember struct {
	suite   mls.CipherSuite // of the signature key
	key     mls.SignatureKey
	nextKey *mls.SignatureKey
	kp      *mls.KeyPackage
	secrets *mls.KeyPackageSecrets
	psks    map[string][]byte
	group   *mls.Group
	staged  *mls.StagedCommit
}

func (o *ours) do(r request) (*answer, error) {
	switch r.Op {
	case "hello":
		a := &answer{Name: "pkg/mls"}
		for _, id := range suites {
			if mls.CipherSuite(id).Supported() {
				a.Suites = append(a.Suites, id)
			}
		}
		return a, nil
	case "drop":
		delete(o.members, r.Member)
		return &answer{}, nil
	}
	m := o.members[r.Member]
	if m == nil {
		m = &ourMember{psks: map[string][]byte{}}
		o.members[r.Member] = m
	}
	var a *answer
	var err error
	next := m
	switch r.Op {
	case "found":
		next, a, err = m.found(r)
	case "joinNext":
		next, a, err = m.joinNext(r)
	default:
		a, err = m.do(r)
	}
	if err != nil {
		return nil, fmt.Errorf("pkg/mls: %w", err)
	}
	if next != m {
		o.members[r.As] = next
	}
	return a, nil
}

func (m *ourMember) do(r request) (*answer, error) {
	switch r.Op {
	case "keyPackage":
		if err := m.makeKeyPackage(r.Profile); err != nil {
			return nil, err
		}
		return &answer{Message: append([]byte{0, 1, 0, 5}, m.kp.Marshal()...)}, nil
	case "create":
		return &answer{}, m.create(r)
	case "join":
		return m.join(r)
	case "process":
		return m.process(r.Message)
	case "send":
		msg, err := m.group.Encrypt(r.Data, r.AAD, mimimi.PadTo)
		return &answer{Message: msg}, err
	case "propose":
		p, err := ourProposal(*r.Proposal)
		if err != nil {
			return nil, err
		}
		msg, err := m.group.Propose(p, mls.ProposeOptions{AuthenticatedData: r.AAD, Private: r.Private})
		return &answer{Message: msg}, err
	case "commit":
		return m.commit(r)
	case "merge":
		return &answer{}, m.merge()
	case "discard":
		m.staged, m.nextKey = nil, nil
		return &answer{}, nil
	case "groupInfo":
		info, err := m.group.GroupInfo(ourExtensions(r.Extensions), r.WithTree)
		return &answer{Message: info}, err
	case "tree":
		return &answer{Tree: m.group.Public().Tree()}, nil
	case "externalJoin":
		return m.externalJoin(r)
	case "signer":
		if err := m.makeKey(r.Profile); err != nil {
			return nil, err
		}
		return &answer{Key: m.key.Public()}, nil
	case "proposeJoin":
		return m.proposeJoin(r)
	case "proposeExternal":
		return m.proposeExternal(r)
	case "psk":
		m.psks[string(r.ID)] = bytes.Clone(r.Secret)
		return &answer{}, nil
	case "export":
		secret, err := m.group.Export(r.Label, r.Context, r.Length)
		return &answer{Secret: secret}, err
	case "status":
		return m.status(), nil
	}
	return nil, errors.New("unknown operation")
}

// makeKey makes the signature key, if there is none of the suite yet.
func (m *ourMember) makeKey(p *profile) error {
	suite := mls.CipherSuite(p.Suite)
	if m.suite == suite {
		return nil
	}
	key, err := suite.GenerateSignatureKey()
	if err != nil {
		return err
	}
	m.suite, m.key = suite, key
	return nil
}

func (m *ourMember) makeKeyPackage(p *profile) error {
	if err := m.makeKey(p); err != nil {
		return err
	}
	suite := m.suite
	now := uint64(time.Now().Unix())
	cfg := mls.KeyPackageConfig{
		Suite: suite, SignatureKey: m.key, Credential: mls.Credential{Type: mls.CredentialType(p.Credential.Type), Body: p.Credential.Body},
		Capabilities:   mls.Capabilities{Versions: []uint16{1}, CipherSuites: []mls.CipherSuite{suite}},
		Lifetime:       mls.Lifetime{NotBefore: now - 3600, NotAfter: now + 28*24*3600},
		LeafExtensions: ourExtensions(p.Leaf),
	}
	for _, t := range p.Extensions {
		cfg.Capabilities.Extensions = append(cfg.Capabilities.Extensions, mls.ExtensionType(t))
	}
	for _, t := range p.Proposals {
		cfg.Capabilities.Proposals = append(cfg.Capabilities.Proposals, mls.ProposalType(t))
	}
	for _, t := range p.Credentials {
		cfg.Capabilities.Credentials = append(cfg.Capabilities.Credentials, mls.CredentialType(t))
	}
	if p.LastResort {
		cfg.Extensions = []mls.Extension{{Type: mls.ExtensionLastResort}}
	}
	var err error
	m.kp, m.secrets, err = mls.NewKeyPackage(cfg)
	return err
}

func (m *ourMember) create(r request) error {
	if err := m.makeKeyPackage(r.Profile); err != nil {
		return err
	}
	var err error
	m.group, err = mls.NewGroup(mls.GroupConfig{
		GroupID: r.Group, KeyPackage: m.kp, Secrets: m.secrets, Rules: rules, Extensions: ourExtensions(r.Extensions),
	})
	return err
}

func (m *ourMember) join(r request) (*answer, error) {
	g, info, err := mls.Join(mls.JoinConfig{
		Welcome: r.Welcome, Tree: r.Tree, KeyPackage: m.kp, Secrets: m.secrets, PSK: m.psk, Rules: rules,
	})
	if err != nil {
		return nil, err
	}
	m.group = g
	a := &answer{}
	for _, e := range info.Extensions {
		a.Extensions = append(a.Extensions, extension{uint16(e.Type), e.Data})
	}
	return a, nil
}

func (m *ourMember) process(msg []byte) (*answer, error) {
	got, err := m.group.Process(msg, mls.ProcessOptions{Now: time.Now(), PSK: m.psk})
	if err != nil {
		return nil, err
	}
	switch {
	case got.Application != nil:
		return &answer{Kind: "application", Application: got.Application.Data, AAD: got.Application.AuthenticatedData}, nil
	case got.Proposal != nil:
		return &answer{Kind: "proposal", Proposals: []seen{{uint16(got.Proposal.Type), got.Proposal.Body}}}, nil
	}
	a := &answer{Kind: "commit", AAD: got.Commit.Change.AuthenticatedData}
	for _, p := range got.Commit.Change.Proposals {
		a.Proposals = append(a.Proposals, seen{uint16(p.Type), p.Body})
	}
	if got.Commit.RemovesSelf() {
		a.Kind = "removed"
		return a, nil
	}
	return a, m.group.Merge(got.Commit)
}

func (m *ourMember) commit(r request) (*answer, error) {
	opts := mls.CommitOptions{
		Path: r.Path, Private: r.Private, AuthenticatedData: r.AAD, TreeInWelcome: r.WithTree, PSK: m.psk, Now: time.Now(),
	}
	for _, p := range r.Proposals {
		q, err := ourProposal(p)
		if err != nil {
			return nil, err
		}
		opts.Proposals = append(opts.Proposals, q)
	}
	if len(r.WelcomeExtensions) != 0 {
		opts.WelcomeExtensions = func(*mls.Group) ([]mls.Extension, error) { return ourExtensions(r.WelcomeExtensions), nil }
	}
	if r.Leaf != nil || r.Rotate {
		opts.NewLeaf = &mls.LeafChange{Extensions: ourExtensions(r.Leaf)}
	}
	if r.Rotate {
		key, err := m.group.Public().Suite().GenerateSignatureKey()
		if err != nil {
			return nil, err
		}
		m.nextKey, opts.NewLeaf.SignatureKey = &key, &key
	}
	var err error
	if m.staged, err = m.group.Commit(opts); err != nil {
		return nil, err
	}
	return &answer{Message: m.staged.Message, Welcome: m.staged.Welcome}, nil
}

func (m *ourMember) merge() error {
	err := m.group.Merge(m.staged)
	if err == nil && m.nextKey != nil {
		m.key = *m.nextKey
	}
	m.staged, m.nextKey = nil, nil
	return err
}

func (m *ourMember) externalJoin(r request) (*answer, error) {
	if err := m.makeKeyPackage(r.Profile); err != nil {
		return nil, err
	}
	cfg := mls.ExternalJoinConfig{
		GroupInfo: r.GroupInfo, Tree: r.Tree, Pending: r.Pending, KeyPackage: m.kp, Secrets: m.secrets,
		PSK: m.psk, AuthenticatedData: r.AAD, Rules: rules,
	}
	if r.Resync != nil {
		cfg.Resync, cfg.OldLeaf = true, *r.Resync
	}
	for _, id := range r.PSKs {
		cfg.Proposals = append(cfg.Proposals, mls.Proposal{Type: mls.ProposalPSK, PSK: &mls.PSKID{ID: id}})
	}
	for _, p := range r.Proposals {
		cfg.Proposals = append(cfg.Proposals, mls.Proposal{Type: mls.ProposalType(p.Type), Body: p.Body})
	}
	staged, err := mls.JoinExternal(cfg)
	if err != nil {
		return nil, err
	}
	if err := (*mls.Group)(nil).Merge(staged); err != nil {
		return nil, err
	}
	m.group = staged.Group()
	return &answer{Message: staged.Message}, nil
}

func (m *ourMember) proposeJoin(r request) (*answer, error) {
	if err := m.makeKeyPackage(r.Profile); err != nil {
		return nil, err
	}
	info, err := mls.ParseGroupInfo(r.GroupInfo)
	if err != nil {
		return nil, err
	}
	msg, err := info.NewMemberAdd(m.kp, m.secrets, nil)
	return &answer{Message: msg}, err
}

func (m *ourMember) proposeExternal(r request) (*answer, error) {
	g, err := mls.NewPublicGroup(r.GroupInfo, r.Tree, rules)
	if err != nil {
		return nil, err
	}
	p, err := ourProposal(*r.Proposal)
	if err != nil {
		return nil, err
	}
	msg, err := g.ExternalProposal(m.key, p, nil)
	return &answer{Message: msg}, err
}

// found makes the successor of a group that a ReInit has ended, or else a branch, which has the extensions of the group that it is of.
func (m *ourMember) found(r request) (*ourMember, *answer, error) {
	if err := m.makeKeyPackage(r.Profile); err != nil {
		return nil, nil, err
	}
	cfg := mls.SuccessorConfig{KeyPackage: m.kp, Secrets: m.secrets, Rules: rules, Now: time.Now()}
	if m.group.Public().ReInit() == nil {
		cfg.GroupID, cfg.Extensions = r.Group, m.group.Public().Extensions()
	}
	for _, kp := range r.KeyPackages {
		p, err := ourProposal(proposal{Type: uint16(mls.ProposalAdd), KeyPackage: kp})
		if err != nil {
			return nil, nil, err
		}
		cfg.Members = append(cfg.Members, p.KeyPackage)
	}
	staged, err := m.group.Successor(cfg)
	if err != nil {
		return nil, nil, err
	}
	if err := (*mls.Group)(nil).Merge(staged); err != nil {
		return nil, nil, err
	}
	return m.heir(staged.Group()), &answer{Welcome: staged.Welcome}, nil
}

// joinNext joins the successor or a branch of the member's group, and nothing else.
func (m *ourMember) joinNext(r request) (*ourMember, *answer, error) {
	g, info, err := mls.Join(mls.JoinConfig{
		Welcome: r.Welcome, Tree: r.Tree, KeyPackage: m.kp, Secrets: m.secrets, PSK: m.psk, Rules: rules,
		Groups: func(id []byte) *mls.Group {
			if bytes.Equal(id, m.group.Public().GroupID()) {
				return m.group
			}
			return nil
		},
	})
	if err != nil {
		return nil, nil, err
	}
	if info.Predecessor == nil {
		return nil, nil, errors.New("the Welcome is to a group without a predecessor")
	}
	return m.heir(g), &answer{}, nil
}

// heir is the same client in another group.
func (m *ourMember) heir(g *mls.Group) *ourMember {
	return &ourMember{suite: m.suite, key: m.key, psks: m.psks, group: g}
}

func (m *ourMember) psk(id []byte) ([]byte, error) {
	if secret, ok := m.psks[string(id)]; ok {
		return secret, nil
	}
	return nil, errors.New("no such PSK")
}

func (m *ourMember) status() *answer {
	g := m.group.Public()
	s := status{Epoch: g.Epoch(), Authenticator: m.group.EpochAuthenticator(), TreeHash: g.TreeHash(), Leaf: m.group.OwnIndex()}
	for _, o := range g.Members() {
		c := o.Leaf.Credential()
		s.Members = append(s.Members, leaf{o.Index, credential{uint16(c.Type), c.Body}})
	}
	a := &answer{status: s}
	for _, e := range g.Extensions() {
		a.Extensions = append(a.Extensions, extension{uint16(e.Type), e.Data})
	}
	return a
}

func ourExtensions(list []extension) []mls.Extension {
	var out []mls.Extension
	for _, e := range list {
		out = append(out, mls.Extension{Type: mls.ExtensionType(e.Type), Data: slices.Clip(e.Data)})
	}
	return out
}

func ourProposal(p proposal) (mls.Proposal, error) {
	q := mls.Proposal{Type: mls.ProposalType(p.Type), Body: p.Body}
	switch q.Type {
	case mls.ProposalAdd:
		const header = 4 // MLSMessage: version and wire format
		kp, err := mls.ParseKeyPackage(p.KeyPackage[header:])
		if err != nil {
			return q, err
		}
		if !bytes.Equal(kp.Marshal(), p.KeyPackage[header:]) {
			return q, errors.New("a KeyPackage is not the same after a round trip")
		}
		q.KeyPackage = kp
	case mls.ProposalRemove:
		q.Removed = p.Removed
	case mls.ProposalPSK:
		q.PSK = &mls.PSKID{ID: p.PSK}
		if p.Epoch != nil {
			q.PSK = &mls.PSKID{Usage: mls.PSKApplication, GroupID: p.Group, Epoch: *p.Epoch}
		}
	case mls.ProposalReInit:
		q.ReInit = &mls.ReInit{GroupID: p.Group, Suite: mls.CipherSuite(p.Suite), Extensions: ourExtensions(p.Extensions)}
	case mls.ProposalGroupContextExtensions:
		q.Extensions = ourExtensions(p.Extensions)
	}
	return q, nil
}
