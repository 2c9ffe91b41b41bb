package hub

import (
	"context"

	"google.golang.org/protobuf/proto"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// GetGroup returns the current GroupInfo, tree and pending self_removes. Like every read it looks at the log's end first: who was told that it is stale
// must not be shown, by another replica, what it knew before.
func (s *server) GetGroup(ctx context.Context, rq *pb.GetGroupRequest) (*pb.GetGroupResponse, error) {
	return answer(ctx, s, opGetGroup, func(ctx context.Context) (*pb.GetGroupResponse, error) {
		g, err := s.read(ctx, rq.GroupId)
		if err != nil {
			return nil, err
		}
		if err := g.checkReader(mimimi.OpReadGroupInfo, rq.Proof, s.now()); err != nil {
			return nil, err
		}
		counted, err := s.store.lastCounted(ctx, g, endOfLog)
		if err != nil {
			return nil, err
		}
		return &pb.GetGroupResponse{
			GroupInfo: g.groupInfo, RatchetTree: g.public.Tree(), PendingProposals: g.leaving(), Epoch: g.epoch(), Sequence: counted,
		}, nil
	})
}

// leaving are the pending self_removes: of the pending proposals, all that an external commit may and must take up.
func (g *group) leaving() [][]byte {
	var out [][]byte
	for i, p := range g.public.Pending() {
		if p.Type == mls.ProposalSelfRemove {
			out = append(out, g.pending[i]) // both are in order of arrival
		}
	}
	return out
}

// read returns the state of a group as of now.
func (s *server) read(ctx context.Context, groupID []byte) (*group, error) {
	id, err := s.groupID(groupID)
	if err != nil {
		return nil, err
	}
	return s.store.current(ctx, id, nil)
}

// GetTree returns the tree of one epoch to a leaf of that tree. The state of a past epoch is rebuilt from the log.
func (s *server) GetTree(ctx context.Context, rq *pb.GetTreeRequest) (*pb.GetTreeResponse, error) {
	return answer(ctx, s, opGetTree, func(ctx context.Context) (*pb.GetTreeResponse, error) {
		g, err := s.read(ctx, rq.GroupId)
		if err != nil {
			return nil, err
		}
		if !byLeaf(rq.Proof) {
			return nil, errByLeaf // before anything is rebuilt
		}
		if rq.Epoch != g.epoch() {
			release, err := s.rebuild(ctx)
			if err != nil {
				return nil, err
			}
			defer release()
		}
		then, err := s.store.atEpoch(ctx, g, rq.Epoch, rq.Sequence)
		if err != nil {
			return nil, err
		}
		if _, err := then.checkLeaf(mimimi.OpReadTree, rq.Proof, nil, s.now()); err != nil {
			return nil, err
		}
		return &pb.GetTreeResponse{RatchetTree: then.public.Tree()}, nil
	})
}

// rebuild waits for one of maxHistory places.
func (s *server) rebuild(ctx context.Context) (release func(), err error) {
	select {
	case s.history <- struct{}{}:
		return func() { <-s.history }, nil
	case <-ctx.Done():
		return nil, errTooMany
	}
}

var errTooMany = problem.New(problem.Limited, "too many requests for past states: try again")

// ReadLog returns the entries that count after a position, as fanout delivers them.
func (s *server) ReadLog(ctx context.Context, rq *pb.ReadLogRequest) (*pb.ReadLogResponse, error) {
	return answer(ctx, s, opReadLog, func(ctx context.Context) (*pb.ReadLogResponse, error) {
		g, err := s.read(ctx, rq.GroupId)
		if err != nil {
			return nil, err
		}
		if err := g.checkMember(mimimi.OpReadLog, rq.Proof, s.now()); err != nil {
			return nil, err
		}
		if rq.After >= g.last {
			return s.readTail(ctx, g, rq)
		}
		release, err := s.rebuild(ctx)
		if err != nil {
			return nil, err
		}
		defer release()
		p, err := s.store.at(ctx, g.id, rq.After)
		if err != nil {
			return nil, err
		}
		return s.store.readLog(ctx, g, p, rq)
	})
}

// readTail is ReadLog after the last handshake, where the state at hand says what counts.
func (s *server) readTail(ctx context.Context, g *group, rq *pb.ReadLogRequest) (*pb.ReadLogResponse, error) {
	counted, err := s.store.lastCounted(ctx, g, min(rq.After, endOfLog-1)+1)
	if err != nil {
		return nil, err
	}
	return s.store.readLog(ctx, g, &place{epochs: g.counting(), handshake: g.last, counted: counted}, rq)
}

// readLog collects deliveries after a place. g is the newest state: what a lagging replica of the stream does not show yet makes the answer say
// that there is more.
func (s *store) readLog(ctx context.Context, g *group, p *place, rq *pb.ReadLogRequest) (*pb.ReadLogResponse, error) {
	limit := maxLogEntries
	if rq.Limit > 0 {
		limit = min(limit, int(rq.Limit))
	}
	out, size := &pb.ReadLogResponse{Next: rq.After}, 0
	for range maxPages {
		page, more, err := s.log.Read(ctx, s.all(g.id), out.Next, pageEntries, pageBytes)
		if err != nil {
			return nil, err
		}
		for _, m := range page {
			e, err := decode(g.id, m)
			if err != nil {
				return nil, err
			}
			if kindOf(e) != 0 && e.Handshake != p.handshake {
				return nil, errLagging // a replica of the stream left out what stands before
			}
			previous := p.counted
			if p.pass(e, m.Sequence) {
				d, err := proto.Marshal(delivery(e, m.Sequence, previous))
				if err != nil {
					return nil, errDamaged
				}
				if len(out.Entries) == limit || size > 0 && size+len(d) > maxLogBytes {
					out.More = true
					return out, nil
				}
				out.Entries, size = append(out.Entries, &pb.LogEntry{Delivery: d}), size+len(d)
			}
			out.Next = m.Sequence
		}
		if !more || len(page) == 0 {
			out.More = more || out.Next < g.last
			return out, nil
		}
	}
	out.More = true
	return out, nil
}

// delivery is an entry that counts in the shape in which fanout sends it, without recipients.
func delivery(e *pb.GroupEntry, sequence, previous uint64) *pb.Delivery {
	d := &pb.Delivery{GroupId: e.GroupId, Sequence: sequence, Previous: previous, Accepted: seconds(e.AcceptedMs)}
	switch x := e.Entry.(type) {
	case *pb.GroupEntry_Commit:
		d.Kind, d.Message, d.Epoch = pb.Delivery_KIND_COMMIT, x.Commit.Message, x.Commit.Epoch
		d.EpochSenderKey, d.ExternalPub = x.Commit.EpochSenderKey, x.Commit.ExternalPub
	case *pb.GroupEntry_Proposal:
		d.Kind, d.Message, d.Epoch = pb.Delivery_KIND_PROPOSAL, x.Proposal.Message, x.Proposal.Epoch
	case *pb.GroupEntry_Application:
		d.Kind, d.Message, d.Epoch = pb.Delivery_KIND_MESSAGE, x.Application.Message, x.Application.Epoch
	}
	return d
}
