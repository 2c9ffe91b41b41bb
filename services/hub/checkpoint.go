package hub

import (
	"cmp"
	"maps"
	"slices"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// checkpointEntry is g's whole state as the content of an entry. counted is the last entry that counts, messages included.
func (g *group) checkpointEntry(counted uint64) *pb.CheckpointEntry {
	c := &pb.CheckpointEntry{
		PublicGroup: g.public.Marshal(), State: g.state.Marshal(), GroupInfo: g.groupInfo,
		EpochSenderKey: g.senderKeys[g.epoch()], ExternalPub: g.externalPub,
		LastCounted: counted, LastHandshake: g.handshake, Recent: g.recent, Pending: g.pending,
	}
	for _, leaf := range sortedKeys(g.roster) {
		c.Roster = append(c.Roster, g.roster[leaf])
	}
	for _, r := range g.epochs {
		c.Epochs = append(c.Epochs, &pb.EpochRecord{
			Epoch: r.Epoch, EndedMs: r.Ended * 1000, RemovedAtEnd: r.Removal, EpochSenderKey: g.senderKeys[r.Epoch],
		})
	}
	for _, hash := range sortedKeys(g.invitations) {
		i := g.invitations[hash]
		c.Invitations = append(c.Invitations, &pb.Invitation{JoinTokenHash: []byte(hash), UsesLeft: i.uses, NotAfter: i.notAfter})
	}
	return c
}

// draftCheckpoint is the entry that appends g's state.
func (g *group) draftCheckpoint(requestID []byte, counted uint64, millis int64) *draft {
	e, c := g.entry(requestID, millis), g.checkpointEntry(counted)
	e.Entry = &pb.GroupEntry_State{State: c}
	return &draft{entry: e, next: g.withCheckpoint(c)}
}

// withCheckpoint is g after its own checkpoint.
func (g *group) withCheckpoint(c *pb.CheckpointEntry) *group {
	next := g.clone()
	next.counted = max(g.counted, c.LastCounted)
	return next
}

// fromCheckpoint restores the state that a checkpoint holds. It returns errCorrupt for an entry that is none.
func fromCheckpoint(e *pb.GroupEntry, sequence uint64) (*group, error) {
	c := e.GetState()
	if c == nil || len(c.Epochs) == 0 {
		return nil, errCorrupt
	}
	g := &group{
		groupInfo: c.GroupInfo, externalPub: c.ExternalPub, pending: c.Pending, recent: c.Recent,
		counted: c.LastCounted, handshake: c.LastHandshake,
		senderKeys:  make(map[uint64][]byte, len(c.Epochs)),
		invitations: make(map[string]invitation, len(c.Invitations)),
		roster:      make(map[uint32]*pb.RosterChange, len(c.Roster)),
	}
	var err error
	if g.id, err = mimimi.ParseGroupID(e.GroupId); err != nil {
		return nil, errCorrupt
	}
	if g.public, err = mls.ParsePublicGroup(c.PublicGroup, mimimi.MLSRules()); err != nil {
		return nil, errCorrupt
	}
	if g.state, err = mimimi.ParseState(c.State); err != nil {
		return nil, errCorrupt
	}
	if len(g.public.Pending()) != len(g.pending) {
		return nil, errCorrupt
	}
	for _, r := range c.Epochs {
		g.epochs = append(g.epochs, mimimi.EpochRecord{Epoch: r.Epoch, Ended: r.EndedMs / 1000, Removal: r.RemovedAtEnd})
		g.senderKeys[r.Epoch] = r.EpochSenderKey
	}
	for _, i := range c.Invitations {
		g.invitations[string(i.JoinTokenHash)] = invitation{uses: i.UsesLeft, notAfter: i.NotAfter}
	}
	for _, r := range c.Roster {
		g.roster[r.Leaf] = r
	}
	return g.placed(e, sequence), nil
}

// sortedKeys makes a checkpoint's bytes depend on the state alone.
func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
