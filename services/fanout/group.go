package fanout

import (
	"cmp"
	"slices"

	v1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// The sentences of what goes to DEAD.
var (
	errUnreadable = problem.New(problem.Invalid, "an entry of the log cannot be read")
	errNoStart    = problem.New(problem.Invalid, "the checkpoint that an entry names is not in the log")
	errRoster     = problem.New(problem.Invalid, "a roster change names no client, domain or queue: its leaf gets no deliveries")
	errWelcome    = problem.New(problem.Invalid, "a Welcome has no entry for a newcomer: it was not delivered to")
	errFull       = problem.New(problem.Invalid, "there is no room for an entry's deliveries to another domain: they were left out")
)

// recipient is a leaf that is delivered to.
type recipient struct {
	leaf      uint32
	pseudonym string
	domain    string
	queue     []byte // encrypted queue ID
}

// group is the projection of one group's log up to and including the entry `sequence`. It is an immutable value: apply returns the next one, and
// both may share a roster.
type group struct {
	sequence uint64
	counted  uint64         // the last entry that counts
	roster   []recipient    // by leaf, each once; in this order the recipients of an entry are split, so that a repeat splits alike
	epochs   *mimimi.Epochs // never changed once it stands here
}

// fromCheckpoint is the projection that a checkpoint states. Messages between the last counted entry that it knew and itself are not in it: fold them
// with applyEarlier. It returns errRoster beside the projection if it must leave a leaf out.
func fromCheckpoint(c *v1.CheckpointEntry, sequence uint64) (*group, error) {
	g := &group{sequence: sequence, counted: c.GetLastCounted()}
	records := make([]mimimi.EpochRecord, len(c.GetEpochs()))
	for i, e := range c.GetEpochs() {
		records[i] = mimimi.EpochRecord{Epoch: e.GetEpoch(), Ended: e.GetEndedMs() / 1000, Removal: e.GetRemovedAtEnd()}
	}
	if len(records) == 0 {
		return nil, errUnreadable
	}
	g.epochs = epochsOf(records)
	roster, err := change(nil, c.GetRoster())
	g.roster = roster
	return g, err
}

func epochsOf(records []mimimi.EpochRecord) *mimimi.Epochs {
	last := len(records) - 1
	return mimimi.NewEpochs(records[last].Epoch, records[:last]...)
}

// applyEarlier takes note of a message that stands before the checkpoint from which g was made, after the last counted entry that it knew. No commit or
// proposal stands there.
func (g *group) applyEarlier(e *v1.GroupEntry, sequence uint64) *group {
	m := e.GetApplication()
	if m == nil || sequence <= g.counted || !g.epochs.Counts(m.GetEpoch(), seconds(e)) {
		return g
	}
	next := *g
	next.counted = sequence
	return &next
}

// advance returns the projection after an entry. It always returns one to go on with; an error says what of the entry could not be followed, and all
// else takes effect.
func (g *group) advance(e *v1.GroupEntry, sequence uint64) (*group, error) {
	next := *g
	next.sequence = sequence
	switch entry := e.GetEntry().(type) {
	case *v1.GroupEntry_Commit:
		next.counted = sequence
		next.epochs = epochsOf(g.epochs.Records())
		next.epochs.Commit(entry.Commit.GetEpoch(), seconds(e), slices.ContainsFunc(entry.Commit.GetChanges(), (*v1.RosterChange).GetGone))
		return next.changed(entry.Commit.GetChanges())
	case *v1.GroupEntry_Proposal:
		next.counted = sequence
		return next.changed(entry.Proposal.GetChanges())
	case *v1.GroupEntry_Application:
		if g.epochs.Counts(entry.Application.GetEpoch(), seconds(e)) {
			next.counted = sequence
		}
		return &next, nil
	case *v1.GroupEntry_State:
		return next.restated(entry.State)
	case *v1.GroupEntry_Invitation:
		return &next, nil
	default:
		return &next, errUnreadable
	}
}

func (g *group) changed(changes []*v1.RosterChange) (*group, error) {
	roster, err := change(g.roster, changes)
	g.roster = roster
	return g, err
}

// restated takes over what the hub states: whatever this projection could not follow ends here. What counts before it is known better here, since
// messages may have come in while the hub wrote it.
func (g *group) restated(c *v1.CheckpointEntry) (*group, error) {
	next, err := fromCheckpoint(c, g.sequence)
	if next == nil {
		return g, err
	}
	next.counted = max(next.counted, g.counted)
	return next, err
}

// counts says whether the entry at which g stands is one that counts.
func (g *group) counts() bool { return g.counted == g.sequence }

// change returns the roster after some changes, applied in order; roster itself stays as it is. A change that names nobody to deliver to takes its leaf
// out, and is said.
func change(roster []recipient, changes []*v1.RosterChange) ([]recipient, error) {
	if len(changes) == 0 {
		return roster, nil
	}
	var err error
	roster = slices.Clone(roster)
	for _, c := range changes {
		i, found := slices.BinarySearchFunc(roster, c.GetLeaf(), func(r recipient, leaf uint32) int { return cmp.Compare(r.leaf, leaf) })
		if found {
			roster = slices.Delete(roster, i, i+1)
		}
		if c.GetGone() {
			continue
		}
		if c.GetClientPseudonym() == "" || len(c.GetEncryptedQueueId()) == 0 || mimimi.CheckDomain(c.GetDomain()) != nil {
			err = errRoster
			continue
		}
		roster = slices.Insert(roster, i, recipient{
			leaf: c.GetLeaf(), pseudonym: c.GetClientPseudonym(), domain: c.GetDomain(), queue: c.GetEncryptedQueueId(),
		})
	}
	return roster, err
}

// joiners returns the leaves that came by the commit itself, not by an Add: whoever joined from outside, or came back by a resync, perhaps to the very
// leaf that it left.
func joiners(before, after []recipient, c *v1.HandshakeEntry) []recipient {
	there := make(map[uint32]bool, len(before))
	for _, r := range before {
		there[r.leaf] = true
	}
	for _, n := range c.GetNewcomers() {
		there[n.GetLeaf()] = true
	}
	var in []recipient
	for _, ch := range c.GetChanges() {
		if ch.GetGone() {
			delete(there, ch.GetLeaf())
			continue
		}
		if there[ch.GetLeaf()] {
			continue
		}
		if r, ok := find(after, ch.GetLeaf()); ok {
			in = append(in, r)
		}
	}
	return in
}

func find(roster []recipient, leaf uint32) (recipient, bool) {
	i, ok := slices.BinarySearchFunc(roster, leaf, func(r recipient, leaf uint32) int { return cmp.Compare(r.leaf, leaf) })
	if !ok {
		return recipient{}, false
	}
	return roster[i], true
}

// seconds is an entry's acceptance time as all rules use it.
func seconds(e *v1.GroupEntry) int64 { return e.GetAcceptedMs() / 1000 }
