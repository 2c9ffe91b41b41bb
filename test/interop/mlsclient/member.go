package main

import (
	"context"
	"crypto/sha256"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mimimi.example/pkg/mls"
	"mimimi.example/test/interop/mlsclient/pb"
)

// pastEpochs is how many epochs a member remembers: scripts use the resumption PSKs of early ones.
const pastEpochs = 128

// rules let clients propose themselves, as the scripts do. Whom a group lets in is an application's matter, and there is none here.
var rules = &mls.Rules{NewMemberProposals: true}

// member is a client in a group: a state.
type member struct {
	group   *mls.Group
	private bool // sends handshakes as PrivateMessages
	psks    pskStore
	refs    map[[sha256.Size]byte][]byte // of the epoch's proposals, by the message that brought each
	pending *mls.StagedCommit            // its own commit, until it is handled
}

func newMember(g *mls.Group, private bool) *member {
	return &member{group: g, private: private, psks: pskStore{}, refs: map[[sha256.Size]byte][]byte{}}
}

// identity is that of the member's credential.
func (m *member) identity() []byte { return m.group.OwnLeaf().Credential().Body }

// indexOf returns the leaf of an identity.
func indexOf(g *mls.PublicGroup, identity []byte) (uint32, error) {
	for _, m := range g.Members() {
		if c := m.Leaf.Credential(); c.Type == mls.CredentialBasic && string(c.Body) == string(identity) {
			return m.Index, nil
		}
	}
	return 0, status.Error(codes.NotFound, "no member has this identity")
}

func (s *server) CreateGroup(_ context.Context, rq *pb.CreateGroupRequest) (*pb.CreateGroupResponse, error) {
	suite, err := suiteOf(rq.CipherSuite)
	if err != nil {
		return nil, err
	}
	n, err := newNewcomer(suite, rq.Identity)
	if err != nil {
		return nil, err
	}
	g, err := mls.NewGroup(mls.GroupConfig{
		GroupID: rq.GroupId, KeyPackage: n.keyPackage, Secrets: n.secrets, Rules: rules, PastEpochs: pastEpochs,
	})
	if err != nil {
		return nil, err
	}
	return &pb.CreateGroupResponse{StateId: s.things.add(newMember(g, rq.EncryptHandshake))}, nil
}

func (s *server) GroupInfo(_ context.Context, rq *pb.GroupInfoRequest) (*pb.GroupInfoResponse, error) {
	m, err := get[*member](s.things, rq.StateId)
	if err != nil {
		return nil, err
	}
	rs := new(pb.GroupInfoResponse)
	if rs.GroupInfo, err = m.group.GroupInfo(nil, !rq.ExternalTree); err != nil {
		return nil, err
	}
	if rq.ExternalTree {
		rs.RatchetTree = m.group.Public().Tree()
	}
	return rs, nil
}

func (s *server) StateAuth(_ context.Context, rq *pb.StateAuthRequest) (*pb.StateAuthResponse, error) {
	m, err := get[*member](s.things, rq.StateId)
	if err != nil {
		return nil, err
	}
	return &pb.StateAuthResponse{StateAuthSecret: m.group.EpochAuthenticator()}, nil
}

func (s *server) Export(_ context.Context, rq *pb.ExportRequest) (*pb.ExportResponse, error) {
	m, err := get[*member](s.things, rq.StateId)
	if err != nil {
		return nil, err
	}
	secret, err := m.group.Export(rq.Label, rq.Context, int(min(rq.KeyLength, 1<<20)))
	if err != nil {
		return nil, err
	}
	return &pb.ExportResponse{ExportedSecret: secret}, nil
}

func (s *server) Protect(_ context.Context, rq *pb.ProtectRequest) (*pb.ProtectResponse, error) {
	m, err := get[*member](s.things, rq.StateId)
	if err != nil {
		return nil, err
	}
	ciphertext, err := m.group.Encrypt(rq.Plaintext, rq.AuthenticatedData, nil)
	if err != nil {
		return nil, err
	}
	return &pb.ProtectResponse{Ciphertext: ciphertext}, nil
}

func (s *server) Unprotect(_ context.Context, rq *pb.UnprotectRequest) (*pb.UnprotectResponse, error) {
	m, err := get[*member](s.things, rq.StateId)
	if err != nil {
		return nil, err
	}
	if info, err := mls.Peek(rq.Ciphertext); err != nil {
		return nil, err
	} else if info.ContentType != 1 {
		return nil, status.Error(codes.InvalidArgument, "not an application message")
	}
	got, err := m.group.Process(rq.Ciphertext, mls.ProcessOptions{})
	if err != nil {
		return nil, err
	}
	return &pb.UnprotectResponse{AuthenticatedData: got.Application.AuthenticatedData, Plaintext: got.Application.Data}, nil
}

func (s *server) StorePSK(_ context.Context, rq *pb.StorePSKRequest) (*pb.StorePSKResponse, error) {
	var psks pskStore
	if m, err := get[*member](s.things, rq.StateOrTransactionId); err == nil {
		psks = m.psks
	} else if n, err := get[*newcomer](s.things, rq.StateOrTransactionId); err == nil {
		psks = n.psks
	} else {
		return nil, errUnknown
	}
	return new(pb.StorePSKResponse), psks.add(rq.PskId, rq.PskSecret)
}
