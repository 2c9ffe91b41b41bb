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
var rules = &mls.Rules{Proposals: map[mls.ProposalType]mls.ProposalRule{
	mimimi.ProposalIdentityLinkUpdate: {AllowExternal: true, ByReference: true},
}}

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
	a, err := m.do(r)
	if err != nil {
		return nil, fmt.Errorf("pkg/mls: %w", err)
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

func (m *ourMember) makeKeyPackage(p *profile) error {
	suite := mls.CipherSuite(p.Suite)
	if m.key.Public() == nil {
		key, err := suite.GenerateSignatureKey()
		if err != nil {
			return err
		}
		m.key = key
	}
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
	case mls.ProposalGroupContextExtensions:
		q.Extensions = ourExtensions(p.Extensions)
	}
	return q, nil
}
