package hub

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// Errors of this package's own log: neither can be caused by a request.
var (
	errGap     = errors.New("hub: an entry does not follow the one before")
	errCorrupt = errors.New("hub: an entry of the log breaks a rule that it was checked for")
)

// group is a group's state after one entry of its .c subject: the projection of all of them up to that one. It is an immutable value: a
// transition returns another one. Everything in it depends on the log alone, so that replicas and restarts agree.
type group struct {
	id     mimimi.GroupID
	public *mls.PublicGroup
	state  *mimimi.State

	epochs      []mimimi.EpochRecord // as mimimi.Epochs.Records gives them: the current one last
	senderKeys  map[uint64][]byte    // epoch sender keys of epochs
	groupInfo   []byte               // MLSMessage
	externalPub []byte               // content of the GroupInfo's extension
	pending     [][]byte             // standalone proposals of the current epoch, MLSMessage each
	invitations map[string]invitation
	roster      map[uint32]*pb.RosterChange // by leaf: who is delivered to
	recent      []*pb.RecentRequest         // oldest first; at most maxRecent

	last       uint64 // sequence of the entry that led here
	lastMillis int64  // its acceptance time
	checkpoint uint64 // sequence of the last checkpoint; last itself if that is one
	handshake  uint64 // sequence of the last commit or proposal; 0: none yet
	// counted is the last entry that counts as far as .c tells: handshake, or a message that a later checkpoint names.
	counted uint64
	since   int // entries after the checkpoint
}

// invitation is what lets external joiners in, under the hash of its join token.
type invitation struct {
	uses     uint32
	notAfter int64 // seconds since 1970
}

func (i invitation) valid(at int64) bool { return i.uses > 0 && at <= i.notAfter }

// draft is an entry that may be appended after a group's last one, and the state that it leads to but for what needs its sequence.
type draft struct {
	entry *pb.GroupEntry
	next  *group
}

func (g *group) epoch() uint64 { return g.public.Epoch() }

// stamp is the acceptance time of an entry taken now: never before the last entry's, whatever the replicas' clocks say.
func (g *group) stamp(now time.Time) int64 { return max(now.UnixMilli(), g.lastMillis) }

// seconds are the whole seconds of an acceptance time: what rules go by.
func seconds(millis int64) int64 { return millis / 1000 }

func whole(millis int64) time.Time { return time.Unix(seconds(millis), 0).UTC() }

// counting returns the rule for messages that stand after g's last entry.
func (g *group) counting() *mimimi.Epochs { return epochsFrom(g.epochs) }

func epochsFrom(records []mimimi.EpochRecord) *mimimi.Epochs {
	n := len(records) - 1
	return mimimi.NewEpochs(records[n].Epoch, records[:n]...)
}

// request returns what an earlier request with this id was answered.
func (g *group) request(id []byte) *pb.RecentRequest {
	i := slices.IndexFunc(g.recent, func(r *pb.RecentRequest) bool { return bytes.Equal(r.RequestId, id) })
	if i < 0 {
		return nil
	}
	return g.recent[i]
}

// entry starts an entry that follows g's last one.
func (g *group) entry(requestID []byte, millis int64) *pb.GroupEntry {
	return &pb.GroupEntry{
		RequestId: requestID, AcceptedMs: millis, Checkpoint: g.checkpoint, Handshake: g.last, GroupId: []byte(g.id.Wire()),
	}
}

// apply rolls the state forward over the entry that follows it in the log. It returns errGap if e does not follow, and errCorrupt if e is one that
// no hub writes.
func (g *group) apply(e *pb.GroupEntry, sequence uint64) (*group, error) {
	if e.Handshake != g.last || sequence <= g.last {
		return nil, errGap
	}
	var next *group
	var err error
	switch x := e.Entry.(type) {
	case *pb.GroupEntry_Commit:
		next, err = g.applyCommit(x.Commit, e.AcceptedMs)
	case *pb.GroupEntry_Proposal:
		next, err = g.applyProposal(x.Proposal, e.AcceptedMs)
	case *pb.GroupEntry_Invitation:
		next = g.withInvitation(x.Invitation)
	case *pb.GroupEntry_State:
		next = g.withCheckpoint(x.State)
	default:
		err = errCorrupt
	}
	if err != nil {
		return nil, errCorrupt
	}
	return next.placed(e, sequence), nil
}

// placed finishes a transition: the entry that led to g has got its sequence. It changes g, which nobody else has seen.
func (g *group) placed(e *pb.GroupEntry, sequence uint64) *group {
	g.last, g.lastMillis = sequence, e.AcceptedMs
	switch kindOf(e) {
	case kindCheckpoint:
		g.checkpoint, g.since = sequence, 0
	case kindCommit, kindProposal:
		g.handshake, g.counted = sequence, sequence
		g.since++
	default:
		g.since++
	}
	g.recent = append(slices.Clone(g.recent), &pb.RecentRequest{
		RequestId: e.RequestId, Sequence: sequence, AcceptedMs: e.AcceptedMs, Kind: uint32(kindOf(e)),
	})
	g.recent = g.recent[max(0, len(g.recent)-maxRecent):]
	g.expireInvitations(seconds(e.AcceptedMs))
	return g
}

// expireInvitations drops what can let nobody in any more.
func (g *group) expireInvitations(at int64) {
	dead := func(_ string, i invitation) bool { return !i.valid(at) }
	for k, i := range g.invitations {
		if dead(k, i) {
			g.invitations = maps.Clone(g.invitations)
			maps.DeleteFunc(g.invitations, dead)
			return
		}
	}
}

// clone is a copy to be changed field by field; maps and slices are shared and must be replaced, never written.
func (g *group) clone() *group {
	c := *g
	return &c
}

// kind tells entries apart; its numbers are the field numbers of GroupEntry's entry, which the log holds in RecentRequest.
type kind uint32

const (
	kindCommit     kind = 5
	kindProposal   kind = 6
	kindCheckpoint kind = 8
	kindInvitation kind = 10
)

func kindOf(e *pb.GroupEntry) kind {
	switch e.Entry.(type) {
	case *pb.GroupEntry_Commit:
		return kindCommit
	case *pb.GroupEntry_Proposal:
		return kindProposal
	case *pb.GroupEntry_State:
		return kindCheckpoint
	case *pb.GroupEntry_Invitation:
		return kindInvitation
	}
	return 0
}

// changeRoster applies changes in order and returns the new roster.
func changeRoster(roster map[uint32]*pb.RosterChange, changes []*pb.RosterChange) map[uint32]*pb.RosterChange {
	if len(changes) == 0 {
		return roster
	}
	next := maps.Clone(roster)
	for _, c := range changes {
		if c.Gone {
			delete(next, c.Leaf)
		} else {
			next[c.Leaf] = c
		}
	}
	return next
}

// rosterEntry is how a leaf is delivered to.
func rosterEntry(m mls.Member) (*pb.RosterChange, error) {
	id, err := mimimi.ParseLeaf(m.Leaf)
	if err != nil {
		return nil, err
	}
	p := id.Credential.ClientPseudonym
	return &pb.RosterChange{
		Leaf: m.Index, ClientPseudonym: p.Wire(), Domain: p.Domain(), EncryptedQueueId: id.EncryptedQueueID,
	}, nil
}

// withInvitation registers or revokes.
func (g *group) withInvitation(e *pb.InvitationEntry) *group {
	next := g.clone()
	next.invitations = maps.Clone(g.invitations)
	if r := e.Register; r != nil {
		next.invitations[string(r.JoinTokenHash)] = invitation{uses: r.UsesLeft, notAfter: r.NotAfter}
	} else {
		delete(next.invitations, string(e.Revoke))
	}
	return next
}

// sameRoster says whether two entries deliver alike.
func sameRoster(a, b *pb.RosterChange) bool { return proto.Equal(a, b) }
