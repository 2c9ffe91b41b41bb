package main

import (
	"context"
	"crypto/sha256"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mimimi.example/pkg/mls"
	"mimimi.example/test/interop/mlsclient/pb"
)

// propose makes a standalone proposal and remembers it.
func (s *server) propose(stateID uint32, make func(m *member) (mls.Proposal, error)) (*pb.ProposalResponse, error) {
	m, err := get[*member](s.things, stateID)
	if err != nil {
		return nil, err
	}
	p, err := make(m)
	if err != nil {
		return nil, err
	}
	msg, err := m.group.Propose(p, mls.ProposeOptions{Private: m.private, Now: now()})
	if err != nil {
		return nil, err
	}
	pending := m.group.Public().Pending()
	m.refs[sha256.Sum256(msg)] = pending[len(pending)-1].Ref
	return &pb.ProposalResponse{Proposal: msg}, nil
}

// take takes proposals that others have made, those that it has already too, and returns the reference of each.
func (m *member) take(msgs [][]byte) (map[string]bool, error) {
	refs := map[string]bool{}
	for _, msg := range msgs {
		sum := sha256.Sum256(msg)
		if ref, ok := m.refs[sum]; ok {
			refs[string(ref)] = true
			continue
		}
		if info, err := mls.Peek(msg); err != nil {
			return nil, err
		} else if info.ContentType != 2 {
			return nil, status.Error(codes.InvalidArgument, "not a proposal")
		}
		got, err := m.group.Process(msg, mls.ProcessOptions{Now: now()})
		if err != nil {
			return nil, err
		}
		m.refs[sum] = got.Proposal.Ref
		refs[string(got.Proposal.Ref)] = true
	}
	return refs, nil
}

func add(keyPackage []byte) (mls.Proposal, error) {
	kp, err := parseKeyPackage(keyPackage)
	return mls.Proposal{Type: mls.ProposalAdd, KeyPackage: kp}, err
}

func remove(g *mls.PublicGroup, identity []byte) (mls.Proposal, error) {
	i, err := indexOf(g, identity)
	return mls.Proposal{Type: mls.ProposalRemove, Removed: i}, err
}

func externalPSK(id []byte) mls.Proposal {
	return mls.Proposal{Type: mls.ProposalPSK, PSK: &mls.PSKID{ID: append([]byte{}, id...)}}
}

func resumptionPSK(g *mls.PublicGroup, epoch uint64) mls.Proposal {
	return mls.Proposal{Type: mls.ProposalPSK, PSK: &mls.PSKID{Usage: mls.PSKApplication, GroupID: g.GroupID(), Epoch: epoch}}
}

func extensions(in []*pb.Extension) ([]mls.Extension, error) {
	var out []mls.Extension
	for _, e := range in {
		if e.GetExtensionType() > 0xffff {
			return nil, mls.ErrMalformed
		}
		out = append(out, mls.Extension{Type: mls.ExtensionType(e.GetExtensionType()), Data: e.GetExtensionData()})
	}
	return out, nil
}

func groupContextExtensions(in []*pb.Extension) (mls.Proposal, error) {
	exts, err := extensions(in)
	return mls.Proposal{Type: mls.ProposalGroupContextExtensions, Extensions: exts}, err
}

func reInit(groupID []byte, suite uint32, in []*pb.Extension) (mls.Proposal, error) {
	cs, err := suiteOf(suite)
	if err != nil {
		return mls.Proposal{}, err
	}
	exts, err := extensions(in)
	return mls.Proposal{Type: mls.ProposalReInit, ReInit: &mls.ReInit{GroupID: groupID, Suite: cs, Extensions: exts}}, err
}

// described makes the proposal that a description is of.
func described(g *mls.PublicGroup, d *pb.ProposalDescription) (mls.Proposal, error) {
	switch string(d.GetProposalType()) {
	case "add":
		return add(d.KeyPackage)
	case "remove":
		return remove(g, d.RemovedId)
	case "externalPSK":
		return externalPSK(d.PskId), nil
	case "resumptionPSK":
		return resumptionPSK(g, d.EpochId), nil
	case "groupContextExtensions":
		return groupContextExtensions(d.Extensions)
	case "reinit":
		return reInit(d.GroupId, d.CipherSuite, d.Extensions)
	}
	return mls.Proposal{}, status.Error(codes.InvalidArgument, "no such type of proposal")
}

func (s *server) AddProposal(_ context.Context, rq *pb.AddProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(rq.StateId, func(*member) (mls.Proposal, error) { return add(rq.KeyPackage) })
}

func (s *server) UpdateProposal(_ context.Context, rq *pb.UpdateProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(rq.StateId, func(*member) (mls.Proposal, error) { return mls.Proposal{Type: mls.ProposalUpdate}, nil })
}

func (s *server) RemoveProposal(_ context.Context, rq *pb.RemoveProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(rq.StateId, func(m *member) (mls.Proposal, error) { return remove(m.group.Public(), rq.RemovedId) })
}

func (s *server) ExternalPSKProposal(_ context.Context, rq *pb.ExternalPSKProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(rq.StateId, func(*member) (mls.Proposal, error) { return externalPSK(rq.PskId), nil })
}

func (s *server) ResumptionPSKProposal(_ context.Context, rq *pb.ResumptionPSKProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(rq.StateId, func(m *member) (mls.Proposal, error) { return resumptionPSK(m.group.Public(), rq.EpochId), nil })
}

func (s *server) GroupContextExtensionsProposal(_ context.Context, rq *pb.GroupContextExtensionsProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(rq.StateId, func(*member) (mls.Proposal, error) { return groupContextExtensions(rq.Extensions) })
}

func (s *server) ReInitProposal(_ context.Context, rq *pb.ReInitProposalRequest) (*pb.ProposalResponse, error) {
	return s.propose(rq.StateId, func(*member) (mls.Proposal, error) { return reInit(rq.GroupId, rq.CipherSuite, rq.Extensions) })
}

// signer is an external sender.
type signer struct{ key mls.SignatureKey }

func (s *server) CreateExternalSigner(_ context.Context, rq *pb.CreateExternalSignerRequest) (*pb.CreateExternalSignerResponse, error) {
	suite, err := suiteOf(rq.CipherSuite)
	if err != nil {
		return nil, err
	}
	key, err := suite.GenerateSignatureKey()
	if err != nil {
		return nil, err
	}
	e := mls.ExternalSender{SignatureKey: key.Public(), Credential: mls.Credential{Type: mls.CredentialBasic, Body: rq.Identity}}
	return &pb.CreateExternalSignerResponse{SignerId: s.things.add(&signer{key}), ExternalSender: e.Marshal()}, nil
}

// AddExternalSigner proposes the group's extensions with one external sender more.
func (s *server) AddExternalSigner(_ context.Context, rq *pb.AddExternalSignerRequest) (*pb.ProposalResponse, error) {
	e, err := mls.ParseExternalSender(rq.ExternalSender)
	if err != nil {
		return nil, err
	}
	return s.propose(rq.StateId, func(m *member) (mls.Proposal, error) {
		g := m.group.Public()
		p := mls.Proposal{Type: mls.ProposalGroupContextExtensions}
		for _, have := range g.Extensions() {
			if have.Type != mls.ExtensionExternalSenders {
				p.Extensions = append(p.Extensions, have)
			}
		}
		p.Extensions = append(p.Extensions, mls.ExternalSendersExtension(append(g.ExternalSenders(), e)...))
		return p, nil
	})
}

// ExternalSignerProposal makes a proposal by an external sender, which the group lists by its key: signer_index, which says the same, is not needed.
func (s *server) ExternalSignerProposal(_ context.Context, rq *pb.ExternalSignerProposalRequest) (*pb.ProposalResponse, error) {
	signer, err := get[*signer](s.things, rq.SignerId)
	if err != nil {
		return nil, err
	}
	g, err := mls.NewPublicGroup(rq.GroupInfo, optional(rq.RatchetTree), rules)
	if err != nil {
		return nil, err
	}
	p, err := described(g, rq.Description)
	if err != nil {
		return nil, err
	}
	msg, err := g.ExternalProposal(signer.key, p, nil)
	if err != nil {
		return nil, err
	}
	return &pb.ProposalResponse{Proposal: msg}, nil
}
