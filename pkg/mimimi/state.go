package mimimi

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"mimimi.example/pkg/mls"
)

// State is what the hub and each member keep of a group beside MLS's public state (§4, §9): barred pseudonyms, when each leaf entered
// and by whom, and the external joiner after whom nobody else has committed yet. It is an immutable value: CheckCommit returns the
// next one.
//
// A member that joins later knows less than the hub, so its State allows more, never less: it rejects nothing that the hub was right
// to accept.
type State struct {
	barred  []barredID       // sorted
	entries map[uint32]entry // by leaf index
	joiner  *joiner          // nil if there is none unanswered
}

// barredID is a pseudonym's labelled hash, cut to what makes a second preimage infeasible.
type barredID [16]byte

// entry is how a leaf came in.
type entry struct {
	at    int64  // Unix seconds
	adder uint32 // leaf index; noAdder for a founder, an external joiner, or when the adder has gone
}

const (
	noAdder = ^uint32(0)
	// founded is the entry time of a group's creator, who did not enter: or else its first guest could remove it for a day.
	founded = 0
)

// joiner is an external joiner whom no other leaf's commit has followed.
type joiner struct {
	leaf  uint32
	since int64 // Unix seconds
}

func barredIDOf(pseudonym string) barredID {
	h := hashOf(labelBarredPseudonym, func(b *builder) { addName(b, pseudonym) })
	return barredID(h[:len(barredID{})])
}

// NewState checks a group that is new to the caller, created or joined at the given time: suite, group id, GroupContext extensions,
// policy, and every leaf by §4 and §9; in epoch 0 also that its leaves are young enough to enter. It returns a *RuleError or
// ErrMalformed.
func NewState(g *mls.PublicGroup, at time.Time) (*State, error) {
	if g.Suite() != Suite {
		return nil, invalid("0", "cipher suite 1")
	}
	if _, err := ParseGroupID(g.GroupID()); err != nil {
		return nil, err
	}
	policy, err := policyOf(g.Extensions())
	if err != nil {
		return nil, err
	}
	members, err := newRoster(g, nil, nil)
	if err != nil {
		return nil, err
	}
	if len(members) > int(policy.MaxLeaves) {
		return nil, denied("9", "the group has at most so many leaves")
	}
	if err := members.checkUnique(g.Members()); err != nil {
		return nil, err
	}
	s := &State{entries: map[uint32]entry{}}
	for leaf, m := range members {
		s.entries[leaf] = entry{at.Unix(), noAdder}
		if g.Epoch() > 0 {
			continue
		}
		if !liveWeek(m.Credential.Week, at) {
			return nil, invalid("2", "a leaf enters within 90 days from its week")
		}
		s.entries[leaf] = entry{founded, noAdder}
	}
	return s, nil
}

// Unanswered is the leaf of an external joiner after whom no other leaf has committed yet, and when it joined (§4). A member sees to
// it that the joiner is identified or, ten minutes on, removed.
func (s *State) Unanswered() (leaf uint32, since time.Time, ok bool) {
	if s.joiner == nil {
		return 0, time.Time{}, false
	}
	return s.joiner.leaf, time.Unix(s.joiner.since, 0).UTC(), true
}

// isBarred says whether a pseudonym belongs to a user who has left for good.
func (s *State) isBarred(pseudonym string) bool {
	_, found := slices.BinarySearchFunc(s.barred, barredIDOf(pseudonym), compareBarred)
	return found
}

func compareBarred(a, b barredID) int { return bytes.Compare(a[:], b[:]) }

// entered says whether a leaf came in at most d before at.
func (s *State) entered(leaf uint32, d time.Duration, at time.Time) bool {
	e, ok := s.entries[leaf]
	return ok && at.Unix()-e.at <= int64(d/time.Second)
}

const stateVersion = 1

// Marshal is the stored form, for checkpoints and clients' stores.
func (s *State) Marshal() []byte {
	return encode(func(b *builder) {
		b.AddUint16(stateVersion)
		addList(b, func(b *builder) {
			for _, id := range s.barred {
				b.AddBytes(id[:])
			}
		})
		addList(b, func(b *builder) {
			for _, leaf := range slices.Sorted(maps.Keys(s.entries)) {
				b.AddUint32(leaf)
				b.AddUint64(uint64(s.entries[leaf].at))
				b.AddUint32(s.entries[leaf].adder)
			}
		})
		addBool(b, s.joiner != nil)
		if s.joiner != nil {
			b.AddUint32(s.joiner.leaf)
			b.AddUint64(uint64(s.joiner.since))
		}
	})
}

// ParseState reads the stored form. It returns ErrMalformed.
func ParseState(b []byte) (*State, error) {
	s := &State{entries: map[uint32]entry{}}
	err := decode(b, func(in *input) bool {
		var version uint16
		return in.ReadUint16(&version) && version == stateVersion &&
			readList(in, maxBarred+2*maxLeaves, s.readBarred) &&
			readList(in, maxLeafIndex, s.readEntry()) &&
			s.readJoiner(in)
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (s *State) readBarred(in *input) bool {
	var id barredID
	if !readFixed(in, id[:]) {
		return false
	}
	ascends := len(s.barred) == 0 || compareBarred(s.barred[len(s.barred)-1], id) < 0
	s.barred = append(s.barred, id)
	return ascends
}

// readEntry reads entries, whose leaves must ascend.
func (s *State) readEntry() func(in *input) bool {
	next := uint32(0)
	return func(in *input) bool {
		var leaf, adder uint32
		var at time.Time
		if !in.ReadUint32(&leaf) || leaf < next || leaf >= maxLeafIndex || !readTime(in, &at) || !in.ReadUint32(&adder) {
			return false
		}
		next, s.entries[leaf] = leaf+1, entry{at.Unix(), adder}
		return true
	}
}

func (s *State) readJoiner(in *input) bool {
	var present bool
	if !readBool(in, &present) {
		return false
	}
	if !present {
		return true
	}
	var leaf uint32
	var since time.Time
	ok := in.ReadUint32(&leaf) && leaf < maxLeafIndex && readTime(in, &since)
	s.joiner = &joiner{leaf, since.Unix()}
	return ok
}

// after is the state once the reviewed commit is in force. The review has passed all rules.
func (s *State) after(r *review) *State {
	next := &State{barred: s.barred, entries: maps.Clone(s.entries), joiner: s.joiner}
	next.moveEntries(r)
	next.barGone(r)
	next.answer(r)
	return next
}

// moveEntries carries entry times over. A resync keeps its own, under the index of its new leaf, and stays the adder of whom it added.
func (s *State) moveEntries(r *review) {
	moved := map[uint32]uint32{} // index of a leaf that is gone -> index for entries that name it as adder
	for _, m := range r.change.Removed {
		moved[m.Index] = noAdder
	}
	kept, resync := entry{at: r.at.Unix(), adder: noAdder}, false
	if r.resync {
		kept, resync = s.entries[r.resynced]
		moved[r.resynced] = r.change.Committer.Index
	}
	for _, m := range r.change.Removed {
		delete(s.entries, m.Index)
	}
	for leaf, e := range s.entries {
		if to, gone := moved[e.adder]; gone {
			s.entries[leaf] = entry{e.at, to}
		}
	}
	for _, m := range r.change.Added {
		s.entries[m.Index] = entry{r.at.Unix(), r.change.Committer.Index}
	}
	if r.external || resync {
		s.entries[r.change.Committer.Index] = kept
	}
}

// barGone bars the pseudonyms of users whose last leaf has gone (§9).
func (s *State) barGone(r *review) {
	stay := r.after.users()
	var gone []barredID
	for _, m := range r.before {
		if pc := m.Credential; !stay[pc.UserPseudonym] {
			gone = append(gone, barredIDOf(pc.UserPseudonym.Wire()), barredIDOf(pc.ClientPseudonym.Wire()))
		}
	}
	if len(gone) == 0 {
		return
	}
	s.barred = slices.Concat(s.barred, gone)
	slices.SortFunc(s.barred, compareBarred)
	s.barred = slices.Compact(s.barred)
}

// answer keeps track of the one external joiner whom nobody has answered (§4). A resync by the joiner itself is no answer.
func (s *State) answer(r *review) {
	committer := r.change.Committer.Index
	switch {
	case r.external:
		s.joiner = &joiner{committer, r.at.Unix()}
	case s.joiner == nil:
	case r.resync && r.resynced == s.joiner.leaf:
		s.joiner = &joiner{committer, s.joiner.since}
	case r.resync || committer != s.joiner.leaf:
		s.joiner = nil
	}
}
