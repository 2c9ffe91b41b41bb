package hub

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

const requestIDLen = 16

var (
	errSize        = problem.New(problem.Invalid, "protocol §9: a field is missing or larger than the hub takes")
	errSenderKey   = problem.New(problem.Denied, "protocol §9: the signature does not verify under the epoch sender key")
	errPrivateOnly = problem.New(problem.Invalid, "protocol §9: only a PrivateMessage with application data of the epoch and group that the request names")
)

// server answers HubService. Safe for concurrent use.
type server struct {
	domain   string
	store    *store
	redeemer mimimi.Redeemer
	now      func() time.Time
	metrics  *metrics
	paces    *paces
	history  chan struct{}   // holds a value for each past state that is being rebuilt
	draw     func(n int) int // a random number from 0 to n-1
}

var _ mimimiv1connect.HubServiceHandler = (*server)(nil)

// answer runs one request under its deadline, and counts and translates what came of it.
func answer[T any](ctx context.Context, s *server, o operation, f func(ctx context.Context) (*T, error)) (*T, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	out, err := f(ctx)
	s.metrics.answered(ctx, o, err)
	if err != nil {
		return nil, connectError(err)
	}
	return out, nil
}

// groupID reads a group id that must be one of this hub's.
func (s *server) groupID(b []byte) (mimimi.GroupID, error) {
	id, err := mimimi.ParseGroupID(b)
	if err != nil {
		return mimimi.GroupID{}, refused(err)
	}
	if id.Domain() != s.domain {
		return mimimi.GroupID{}, errNoGroup
	}
	return id, nil
}

// within says whether a field that must be there is, and has at most limit bytes.
func within(b []byte, limit int) bool { return len(b) > 0 && len(b) <= limit }

func newRequestID() []byte {
	b := make([]byte, requestIDLen)
	_, _ = rand.Read(b) // never fails
	return b
}

// CreateGroup starts a group: write.go's create says what a crash means.
func (s *server) CreateGroup(ctx context.Context, rq *pb.CreateGroupRequest) (*pb.CreateGroupResponse, error) {
	return answer(ctx, s, opCreate, func(ctx context.Context) (*pb.CreateGroupResponse, error) {
		if len(rq.RequestId) != requestIDLen {
			return nil, errRequestID
		}
		if !within(rq.GroupInfo, maxGroupInfo) || !within(rq.RatchetTree, maxTree) || len(rq.Token) > maxToken {
			return nil, errSize
		}
		id, err := newGroupID(rq.GroupInfo, s.domain)
		if err != nil {
			return nil, err
		}
		sequence, err := s.create(ctx, id, rq)
		return &pb.CreateGroupResponse{Sequence: sequence}, err
	})
}

// Commit takes a handshake bundle: write says what a crash means. The position of the entry before is looked up once the commit is accepted; should that
// fail, the caller's retry gets it.
func (s *server) Commit(ctx context.Context, rq *pb.CommitRequest) (*pb.CommitResponse, error) {
	return answer(ctx, s, opCommit, func(ctx context.Context) (*pb.CommitResponse, error) {
		if !within(rq.Commit, maxCommit) || len(rq.Welcome) > maxWelcome || !within(rq.GroupInfo, maxGroupInfo) || len(rq.ResyncSignature) > maxSignature {
			return nil, errSize
		}
		id, a, err := s.handshake(ctx, rq.GroupId, rq.RequestId, kindCommit, func(g *group, millis int64) (*draft, error) {
			return g.draftCommit(rq, millis)
		})
		if err != nil {
			return nil, err
		}
		previous, err := s.store.previous(ctx, id, a)
		if err != nil {
			return nil, err
		}
		return &pb.CommitResponse{Sequence: a.request.Sequence, Accepted: seconds(a.request.AcceptedMs), Previous: previous}, nil
	})
}

// Propose takes a standalone proposal: write says what a crash means.
func (s *server) Propose(ctx context.Context, rq *pb.ProposeRequest) (*pb.ProposeResponse, error) {
	return answer(ctx, s, opPropose, func(ctx context.Context) (*pb.ProposeResponse, error) {
		if !within(rq.Proposal, maxProposal) {
			return nil, errSize
		}
		_, a, err := s.handshake(ctx, rq.GroupId, rq.RequestId, kindProposal, func(g *group, millis int64) (*draft, error) {
			return g.draftProposal(rq, millis)
		})
		if err != nil {
			return nil, err
		}
		return &pb.ProposeResponse{Sequence: a.request.Sequence}, nil
	})
}

// handshake is what all writes to an existing group share.
func (s *server) handshake(ctx context.Context, groupID, requestID []byte, k kind, make func(g *group, millis int64) (*draft, error)) (mimimi.GroupID, *accepted, error) {
	id, err := s.groupID(groupID)
	if err != nil {
		return id, nil, err
	}
	if len(requestID) != requestIDLen {
		return id, nil, errRequestID
	}
	a, err := s.write(ctx, id, requestID, k, make)
	if err != nil {
		return id, nil, err
	}
	s.checkpointIfDue(ctx, a.after)
	return id, a, nil
}

// SendMessage appends an application message without asking for order: the log's does. A group that sends too fast is held back. A crash before the publish leaves nothing; one after it, before
// the reply, leaves an accepted message, and the caller's retry is answered with the same position within the server's duplicate window.
func (s *server) SendMessage(ctx context.Context, rq *pb.SendMessageRequest) (*pb.SendMessageResponse, error) {
	return answer(ctx, s, opSend, func(ctx context.Context) (*pb.SendMessageResponse, error) {
		id, err := s.groupID(rq.GroupId)
		if err != nil {
			return nil, err
		}
		if len(rq.RequestId) != requestIDLen {
			return nil, errRequestID
		}
		if err := checkMessage(rq); err != nil {
			return nil, err
		}
		g, err := s.store.get(ctx, id)
		if err != nil {
			return nil, err
		}
		e, refusal := g.draftMessage(rq, s.now())
		if refusal != nil {
			fresh, err := s.store.current(ctx, id, g)
			if err != nil {
				return nil, err
			}
			if e, refusal = fresh.draftMessage(rq, s.now()); refusal != nil {
				return nil, refusal
			}
		}
		if err := s.paces.take(id, len(rq.Message), s.now()); err != nil {
			return nil, err
		}
		sequence, millis, err := s.store.appendMessage(ctx, id, e)
		if err != nil {
			return nil, err
		}
		s.checkpointByChance(ctx, id, len(rq.Message))
		return &pb.SendMessageResponse{Sequence: sequence, Accepted: seconds(millis)}, nil
	})
}

// checkMessage checks what needs no group: size, form, and that message and request name the same group and epoch.
func checkMessage(rq *pb.SendMessageRequest) error {
	if !within(rq.Message, maxMessage) || !within(rq.Signature, maxSignature) {
		return errSize
	}
	info, err := mls.Peek(rq.Message)
	if err != nil {
		return refused(err)
	}
	if info.WireFormat != wirePrivate || info.ContentType != contentMessage || info.Epoch != rq.Epoch || string(info.GroupID) != string(rq.GroupId) {
		return errPrivateOnly
	}
	return nil
}

// draftMessage checks that a member of an epoch that still counts sent a message, and returns the entry for it.
func (g *group) draftMessage(rq *pb.SendMessageRequest, now time.Time) (*pb.GroupEntry, error) {
	millis := g.stamp(now)
	key, ok := g.senderKeys[rq.Epoch]
	if !ok || !g.counting().Counts(rq.Epoch, seconds(millis)) {
		return nil, g.stale()
	}
	if mimimi.VerifyMessage(key, g.id, rq.Epoch, rq.Message, rq.Signature) != nil {
		return nil, errSenderKey
	}
	e := g.entry(rq.RequestId, millis)
	e.Entry = &pb.GroupEntry_Application{Application: &pb.ApplicationEntry{Message: rq.Message, Epoch: rq.Epoch}}
	return e, nil
}

// RegisterInvitation lets the holders of a join token in: write says what a crash means.
func (s *server) RegisterInvitation(ctx context.Context, rq *pb.RegisterInvitationRequest) (*pb.RegisterInvitationResponse, error) {
	return answer(ctx, s, opRegister, func(ctx context.Context) (*pb.RegisterInvitationResponse, error) {
		requestID := rq.GetProof().GetSigned().GetRequestId()
		_, _, err := s.handshake(ctx, rq.GroupId, requestID, kindInvitation, func(g *group, millis int64) (*draft, error) {
			return g.draftRegistration(rq, millis, s.now())
		})
		return &pb.RegisterInvitationResponse{}, err
	})
}

// RevokeInvitation takes an invitation back: write says what a crash means. One that is not there, used up for instance, needs no entry.
func (s *server) RevokeInvitation(ctx context.Context, rq *pb.RevokeInvitationRequest) (*pb.RevokeInvitationResponse, error) {
	return answer(ctx, s, opRevoke, func(ctx context.Context) (*pb.RevokeInvitationResponse, error) {
		requestID := rq.GetProof().GetSigned().GetRequestId()
		_, _, err := s.handshake(ctx, rq.GroupId, requestID, kindInvitation, func(g *group, millis int64) (*draft, error) {
			return g.draftRevocation(rq, millis, s.now())
		})
		if errors.Is(err, errNoSuchInvite) {
			err = nil
		}
		return &pb.RevokeInvitationResponse{}, err
	})
}
