package hub

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// What a replay says of an entry that is not as it should be.
const (
	saysUnreadable = "the entry cannot be read, or names another group than its subject"
	saysGap        = "the entry does not follow the group's last one"
	saysCheckpoint = "the entry names another checkpoint than the last one"
	saysTime       = "the entry was accepted before the one that it follows"
	saysTwice      = "a request was accepted twice"
	saysRule       = "the entry breaks a rule that it was to be checked for"
	saysDerived    = "the hub derived something else from the request: "
	saysAdmission  = "somebody joined from outside without a valid invitation, or a member with one"
	saysState      = "the checkpoint is not the state that the log leads to: "
	saysCounted    = "the checkpoint names an entry as the last that counts, which is none, or not the last"
	saysMessage    = "the message is of another group or epoch than its entry says, or no application message"
	saysAhead      = "the message names an entry that does not stand before it"
)

var kindNames = map[kind]string{kindCommit: "commit", kindProposal: "proposal", kindCheckpoint: "checkpoint", kindInvitation: "invitation", 0: "message"}

// playback is one group's replay: the state that its log leads to, at a position. What it says is against what it derived itself, never against what the hub wrote.
type playback struct {
	id      mimimi.GroupID
	g       *group // nil while no checkpoint was there to start from
	first   uint64 // the checkpoint with which g began: .c entries before it are passed over
	epochs  *mimimi.Epochs
	counted []uint64 // the entries that count since the last handshake, that one included
}

// restart begins anew at a checkpoint of the log.
func (p *playback) restart(e *pb.GroupEntry, sequence uint64) error {
	g, err := fromCheckpoint(e, sequence)
	if err != nil {
		return err
	}
	p.g, p.first, p.epochs, p.counted = g, sequence, g.counting(), []uint64{e.GetState().LastCounted}
	return nil
}

// step moves p over the next entry. It says nothing of one that stands before the checkpoint with which p began, but takes note of the messages there.
func (p *playback) step(m *bus.Message) (x Replayed, said bool) {
	e, err := decode(p.id, m)
	if err != nil {
		return Replayed{Sequence: m.Sequence, Accepted: whole(m.Time.UnixMilli()), Kind: "unreadable", Outcome: outcomeDiverges, Divergence: saysUnreadable}, true
	}
	x = Replayed{Sequence: m.Sequence, Accepted: whole(e.AcceptedMs), Kind: kindNames[kindOf(e)]}
	if c := e.GetState(); c != nil && c.Creation {
		x.Kind = "creation"
	}
	switch {
	case e.GetApplication() != nil:
		p.message(&x, e)
	case e.Entry == nil:
		x.Kind, x.Divergence = "unreadable", saysUnreadable
	case p.g != nil && m.Sequence < p.first:
		return x, false
	case p.g != nil && m.Sequence == p.first:
		p.begin(&x, e)
	default:
		p.handshake(&x, e)
	}
	if x.Divergence != "" {
		x.Outcome = outcomeDiverges
	}
	return x, true
}

// message says whether a message counts.
func (p *playback) message(x *Replayed, e *pb.GroupEntry) {
	a := e.GetApplication()
	x.Epoch, x.Outcome = a.Epoch, outcomeUnchecked
	if info, err := mls.Peek(a.Message); err != nil || info.WireFormat != wirePrivate || info.ContentType != contentMessage || info.Epoch != a.Epoch || string(info.GroupID) != p.id.Wire() {
		x.Divergence = saysMessage
	}
	if e.Handshake >= x.Sequence || e.Checkpoint > e.Handshake {
		x.Divergence = saysAhead
	}
	if p.g == nil {
		return
	}
	x.Outcome = outcomeLate
	if p.epochs.Counts(a.Epoch, seconds(e.AcceptedMs)) {
		x.Outcome = outcomeCounts
		p.counted = append(p.counted, x.Sequence)
	}
}

// begin looks at the checkpoint with which p began. A creation is checked as if it were new.
func (p *playback) begin(x *Replayed, e *pb.GroupEntry) {
	x.Epoch, x.Outcome = p.g.epoch(), outcomeStart
	if !e.GetState().Creation {
		return
	}
	d, err := draftCreation(p.id, &pb.CreateGroupRequest{RequestId: e.RequestId, GroupInfo: e.GetState().GroupInfo, RatchetTree: p.g.public.Tree()}, e.AcceptedMs)
	if err != nil {
		x.Divergence = saysRule
		return
	}
	x.Outcome = outcomeEqual
	if names := differing(d.entry.GetState(), e.GetState()); names != "" {
		x.Divergence = saysState + names
	} else if e.Handshake != 0 || e.Checkpoint != 0 {
		x.Divergence = saysGap
	}
}

// handshake follows a .c entry. After one that cannot be followed p waits for the next checkpoint.
func (p *playback) handshake(x *Replayed, e *pb.GroupEntry) {
	x.Epoch, x.Outcome = epochOf(e), outcomeUnchecked
	g := p.g
	if g == nil {
		if p.restart(e, x.Sequence) == nil {
			x.Epoch, x.Outcome = p.g.epoch(), outcomeStart
		}
		return
	}
	if e.Handshake != g.last {
		x.Divergence = saysGap
		p.g = nil
		return
	}
	switch {
	case e.Checkpoint != g.checkpoint:
		x.Divergence = saysCheckpoint
	case e.AcceptedMs < g.lastMillis:
		x.Divergence = saysTime
	case g.request(e.RequestId) != nil:
		x.Divergence = saysTwice
	}
	next, outcome, divergence := p.follow(e)
	if x.Divergence == "" {
		x.Divergence = divergence
	}
	if p.g = next; next == nil {
		return
	}
	p.g = next.placed(e, x.Sequence)
	x.Epoch, x.Outcome = p.g.epoch(), outcome
	if k := kindOf(e); k == kindCommit || k == kindProposal {
		p.epochs, p.counted = p.g.counting(), []uint64{x.Sequence}
	}
}

// epochOf is the epoch that an entry names itself, 0 if it names none.
func epochOf(e *pb.GroupEntry) uint64 {
	switch x := e.Entry.(type) {
	case *pb.GroupEntry_Commit:
		return x.Commit.Epoch
	case *pb.GroupEntry_Proposal:
		return x.Proposal.Epoch
	}
	return 0
}

// follow derives from a request of the log what the hub was to derive from it. It returns the state after the entry but for what needs its sequence, nil if no hub may have
// accepted it, and what there is to say.
func (p *playback) follow(e *pb.GroupEntry) (next *group, outcome, divergence string) {
	switch x := e.Entry.(type) {
	case *pb.GroupEntry_Commit:
		next, divergence = p.commit(x.Commit, e.AcceptedMs)
		return next, outcomeCounts, divergence
	case *pb.GroupEntry_Proposal:
		h, public, err := p.g.stageProposal(x.Proposal.Message, e.AcceptedMs)
		if err != nil {
			return nil, "", saysRule
		}
		return p.g.proposed(h, public), outcomeCounts, derived(differing(h, x.Proposal))
	case *pb.GroupEntry_Invitation:
		return p.g.withInvitation(x.Invitation), outcomeApplied, ""
	case *pb.GroupEntry_State:
		return p.g.withCheckpoint(x.State), outcomeEqual, p.compare(x.State)
	}
	return nil, "", saysUnreadable
}

func (p *playback) commit(logged *pb.HandshakeEntry, millis int64) (*group, string) {
	s, err := p.g.stage(logged.Message, millis)
	if err != nil {
		return nil, saysRule
	}
	h := &pb.HandshakeEntry{Message: logged.Message, Welcome: logged.Welcome, GroupInfo: logged.GroupInfo, JoinTokenHash: logged.JoinTokenHash}
	if p.g.fill(h, s) != nil {
		return nil, saysRule
	}
	next := p.g.committed(h, s, millis)
	_, resync := mimimi.Resync(s.change)
	invited := len(h.JoinTokenHash) > 0
	if invited != (s.external() && !resync) || invited && !p.g.invitations[string(h.JoinTokenHash)].valid(seconds(millis)) {
		return next, saysAdmission
	}
	return next, derived(differing(h, logged))
}

// compare says in what a checkpoint is not p's state. Messages may be accepted while the hub makes one, so it may name any of those since the last handshake as the last that counts.
func (p *playback) compare(c *pb.CheckpointEntry) string {
	if names := differing(p.g.checkpointEntry(c.LastCounted), c); names != "" {
		return saysState + names
	}
	if !slices.Contains(p.counted, c.LastCounted) {
		return saysCounted
	}
	return ""
}

func derived(names string) string {
	if names == "" {
		return ""
	}
	return saysDerived + names
}

// differing names the fields in which two messages of one type differ.
func differing(want, have proto.Message) string {
	w, h := want.ProtoReflect(), have.ProtoReflect()
	var names []string
	fields := w.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if w.Has(f) != h.Has(f) || !w.Get(f).Equal(h.Get(f)) {
			names = append(names, string(f.Name()))
		}
	}
	return strings.Join(names, ", ")
}
