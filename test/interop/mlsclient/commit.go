package main

import (
	"context"
	"crypto/sha256"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mimimi.example/pkg/mls"
	"mimimi.example/test/interop/mlsclient/pb"
)

// Commit commits exactly what the request names.
func (s *server) Commit(_ context.Context, rq *pb.CommitRequest) (*pb.CommitResponse, error) {
	m, err := get[*member](s.things, rq.StateId)
	if err != nil {
		return nil, err
	}
	refs, err := m.take(rq.ByReference)
	if err != nil {
		return nil, err
	}
	opts := mls.CommitOptions{
		Skip:          func(p *mls.CommittedProposal) bool { return !refs[string(p.Ref)] },
		Path:          rq.ForcePath,
		Private:       m.private,
		PSK:           m.psks.find,
		TreeInWelcome: !rq.ExternalTree,
		Now:           now(),
	}
	for _, d := range rq.ByValue {
		p, err := described(m.group.Public(), d)
		if err != nil {
			return nil, err
		}
		opts.Proposals = append(opts.Proposals, p)
	}
	staged, err := m.group.Commit(opts)
	if err != nil {
		return nil, err
	}
	if len(staged.Change.Proposals) != len(refs)+len(rq.ByValue) {
		return nil, status.Error(codes.FailedPrecondition, "the proposals do not go together, or a PSK is not known")
	}
	m.pending = staged
	rs := &pb.CommitResponse{Commit: staged.Message, Welcome: staged.Welcome}
	if rq.ExternalTree {
		rs.RatchetTree = staged.Change.After.Tree()
	}
	return rs, nil
}

// mergePending puts the member's own commit in force.
func (m *member) mergePending() error {
	if m.pending == nil {
		return status.Error(codes.FailedPrecondition, "the client has no commit of its own pending")
	}
	return m.merge(m.pending)
}

// process takes a commit of another.
func (m *member) process(proposals [][]byte, commit []byte) error {
	if _, err := m.take(proposals); err != nil {
		return err
	}
	if info, err := mls.Peek(commit); err != nil {
		return err
	} else if info.ContentType != 3 {
		return status.Error(codes.InvalidArgument, "not a commit")
	}
	got, err := m.group.Process(commit, mls.ProcessOptions{PSK: m.psks.find, Now: now()})
	if err != nil {
		return err
	}
	return m.merge(got.Commit)
}

func (m *member) merge(staged *mls.StagedCommit) error {
	if err := m.group.Merge(staged); err != nil {
		return err
	}
	m.pending, m.refs = nil, map[[sha256.Size]byte][]byte{}
	return nil
}

func (s *server) HandlePendingCommit(_ context.Context, rq *pb.HandlePendingCommitRequest) (*pb.HandleCommitResponse, error) {
	m, err := get[*member](s.things, rq.StateId)
	if err != nil {
		return nil, err
	}
	if err := m.mergePending(); err != nil {
		return nil, err
	}
	return &pb.HandleCommitResponse{StateId: rq.StateId, EpochAuthenticator: m.group.EpochAuthenticator()}, nil
}

func (s *server) HandleCommit(_ context.Context, rq *pb.HandleCommitRequest) (*pb.HandleCommitResponse, error) {
	m, err := get[*member](s.things, rq.StateId)
	if err != nil {
		return nil, err
	}
	if err := m.process(rq.Proposal, rq.Commit); err != nil {
		return nil, err
	}
	return &pb.HandleCommitResponse{StateId: rq.StateId, EpochAuthenticator: m.group.EpochAuthenticator()}, nil
}
