package main

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mimimi.example/pkg/mls"
	"mimimi.example/test/interop/mlsclient/pb"
)

// ended is a member of a group that a ReInit has ended, with a KeyPackage for its successor.
type ended struct {
	old  *member
	next *newcomer
}

// end makes the KeyPackage of a member whose last commit was a ReInit.
func (s *server) end(m *member) (*pb.HandleReInitCommitResponse, error) {
	r := m.group.Public().ReInit()
	if r == nil {
		return nil, status.Error(codes.FailedPrecondition, "the commit is no ReInit")
	}
	n, err := newNewcomer(r.Suite, m.identity())
	if err != nil {
		return nil, err
	}
	n.psks = m.psks
	return &pb.HandleReInitCommitResponse{
		ReinitId: s.things.add(&ended{m, n}), KeyPackage: n.message(), EpochAuthenticator: m.group.EpochAuthenticator(),
	}, nil
}

func (s *server) ReInitCommit(ctx context.Context, rq *pb.CommitRequest) (*pb.CommitResponse, error) {
	return s.Commit(ctx, rq)
}

func (s *server) HandlePendingReInitCommit(_ context.Context, rq *pb.HandlePendingCommitRequest) (*pb.HandleReInitCommitResponse, error) {
	m, err := get[*member](s.things, rq.StateId)
	if err != nil {
		return nil, err
	}
	if err := m.mergePending(); err != nil {
		return nil, err
	}
	return s.end(m)
}

func (s *server) HandleReInitCommit(_ context.Context, rq *pb.HandleCommitRequest) (*pb.HandleReInitCommitResponse, error) {
	m, err := get[*member](s.things, rq.StateId)
	if err != nil {
		return nil, err
	}
	if err := m.process(rq.Proposal, rq.Commit); err != nil {
		return nil, err
	}
	return s.end(m)
}

// found makes a successor or a branch of a member's group.
func (s *server) found(m *member, n *newcomer, keyPackages [][]byte, cfg mls.SuccessorConfig) (*pb.CreateSubgroupResponse, error) {
	var err error
	if cfg.Members, err = parseKeyPackages(keyPackages); err != nil {
		return nil, err
	}
	cfg.KeyPackage, cfg.Secrets, cfg.Rules, cfg.PastEpochs, cfg.Now = n.keyPackage, n.secrets, rules, pastEpochs, now()
	staged, err := m.group.Successor(cfg)
	if err != nil {
		return nil, err
	}
	if err := (*mls.Group)(nil).Merge(staged); err != nil {
		return nil, err
	}
	next := newMember(staged.Group(), m.private)
	next.psks = m.psks
	rs := &pb.CreateSubgroupResponse{Welcome: staged.Welcome, EpochAuthenticator: next.group.EpochAuthenticator()}
	if !cfg.TreeInWelcome {
		rs.RatchetTree = next.group.Public().Tree()
	}
	rs.StateId = s.things.add(next)
	return rs, nil
}

func (s *server) ReInitWelcome(_ context.Context, rq *pb.ReInitWelcomeRequest) (*pb.CreateSubgroupResponse, error) {
	e, err := get[*ended](s.things, rq.ReinitId)
	if err != nil {
		return nil, err
	}
	rs, err := s.found(e.old, e.next, rq.KeyPackage, mls.SuccessorConfig{Path: rq.ForcePath, TreeInWelcome: !rq.ExternalTree})
	if err == nil {
		s.things.drop(rq.ReinitId)
	}
	return rs, err
}

func (s *server) HandleReInitWelcome(_ context.Context, rq *pb.HandleReInitWelcomeRequest) (*pb.JoinGroupResponse, error) {
	e, err := get[*ended](s.things, rq.ReinitId)
	if err != nil {
		return nil, err
	}
	m, err := e.next.joinNext(rq.Welcome, rq.RatchetTree, e.old, mls.PSKReInit)
	if err != nil {
		return nil, err
	}
	s.things.drop(rq.ReinitId)
	return &pb.JoinGroupResponse{StateId: s.things.add(m), EpochAuthenticator: m.group.EpochAuthenticator()}, nil
}

// joinNext joins the successor or a branch of a group, and nothing else.
func (n *newcomer) joinNext(welcome, tree []byte, old *member, usage mls.PSKUsage) (*member, error) {
	m, info, err := n.join(welcome, tree, old.group, old.private)
	if err != nil {
		return nil, err
	}
	if info.Predecessor == nil || info.Predecessor.Usage != usage {
		return nil, status.Error(codes.FailedPrecondition, "the Welcome is to another kind of group than the one that was asked for")
	}
	return m, nil
}

func (s *server) CreateBranch(_ context.Context, rq *pb.CreateBranchRequest) (*pb.CreateSubgroupResponse, error) {
	m, err := get[*member](s.things, rq.StateId)
	if err != nil {
		return nil, err
	}
	n, err := newNewcomer(m.group.Public().Suite(), m.identity())
	if err != nil {
		return nil, err
	}
	cfg := mls.SuccessorConfig{GroupID: rq.GroupId, Path: rq.ForcePath, TreeInWelcome: !rq.ExternalTree}
	if cfg.Extensions, err = extensions(rq.Extensions); err != nil {
		return nil, err
	}
	return s.found(m, n, rq.KeyPackages, cfg)
}

func (s *server) HandleBranch(_ context.Context, rq *pb.HandleBranchRequest) (*pb.HandleBranchResponse, error) {
	old, err := get[*member](s.things, rq.StateId)
	if err != nil {
		return nil, err
	}
	n, err := get[*newcomer](s.things, rq.TransactionId)
	if err != nil {
		return nil, err
	}
	m, err := n.joinNext(rq.Welcome, rq.RatchetTree, old, mls.PSKBranch)
	if err != nil {
		return nil, err
	}
	s.things.drop(rq.TransactionId)
	return &pb.HandleBranchResponse{StateId: s.things.add(m), EpochAuthenticator: m.group.EpochAuthenticator()}, nil
}
