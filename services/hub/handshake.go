package hub

import (
	"bytes"
	"maps"
	"slices"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// Values of mls.MessageInfo.
const (
	wirePublic       = 1
	wirePrivate      = 2
	wireWelcome      = 3
	wireGroupInfo    = 4
	contentMessage   = 1
	contentProposal  = 2
	contentHandshake = 3 // a commit
)

// step is what a commit makes of the state, once every rule that needs no more than the state has been checked.
type step struct {
	change *mls.Change
	state  *mimimi.State
}

func (s *step) external() bool { return s.change.Sender.Type == mls.SenderNewMemberCommit }
func (s *step) removal() bool  { return len(s.change.Removed) > 0 }

// departure says whether somebody left or was removed. A resync removes a leaf of somebody who stays: it must not end the others' invitations.
func (s *step) departure() bool {
	gone := len(s.change.Removed)
	if _, ok := mimimi.Resync(s.change); ok {
		gone--
	}
	return gone > 0
}

// draftCommit checks a commit bundle against docs/protocol.md §9 in its order and returns the entry for it. Errors: *staleError, problem.Denied,
// problem.Invalid with the rule. g is unchanged.
func (g *group) draftCommit(rq *pb.CommitRequest, millis int64) (*draft, error) {
	info, err := g.checkFrame(rq.Commit, contentHandshake)
	if err != nil {
		return nil, err
	}
	if err := g.checkAdmission(rq, info, seconds(millis)); err != nil {
		return nil, err
	}
	s, err := g.stage(rq.Commit, millis)
	if err != nil {
		return nil, err
	}
	if err := g.checkResync(rq, s); err != nil {
		return nil, err
	}
	h := &pb.HandshakeEntry{Message: rq.Commit, Welcome: rq.Welcome, GroupInfo: rq.GroupInfo}
	if len(rq.JoinToken) > 0 {
		h.JoinTokenHash = joinTokenHash(rq.JoinToken)
	}
	if err := g.fill(h, s); err != nil {
		return nil, err
	}
	e := g.entry(rq.RequestId, millis)
	e.Entry = &pb.GroupEntry_Commit{Commit: h}
	return &draft{entry: e, next: g.committed(h, s, millis)}, nil
}

// fill adds to a commit's entry, which has message, Welcome and GroupInfo, what follows from them and from g, and checks the two against the commit.
func (g *group) fill(h *pb.HandshakeEntry, s *step) (err error) {
	if err := checkWelcome(h.Welcome, s.change); err != nil {
		return err
	}
	h.Epoch = s.change.Epoch
	if h.EpochSenderKey, h.ExternalPub, err = checkGroupInfo(h.GroupInfo, s.change); err != nil {
		return err
	}
	if h.Changes, err = g.rosterChanges(s.change); err != nil {
		return err
	}
	for i, m := range s.change.Added {
		h.Newcomers = append(h.Newcomers, &pb.Newcomer{KeyPackageRef: s.change.AddedRefs[i], Leaf: m.Index})
	}
	return nil
}

// checkFrame checks wire format, group and epoch.
func (g *group) checkFrame(msg []byte, content uint8) (*mls.MessageInfo, error) {
	info, err := mls.Peek(msg)
	if err != nil {
		return nil, refused(err)
	}
	if info.WireFormat != wirePublic || info.ContentType != content {
		return nil, errWireFormat
	}
	if !bytes.Equal(info.GroupID, []byte(g.id.Wire())) {
		return nil, errOtherGroup
	}
	if info.Epoch != g.epoch() {
		return nil, g.stale()
	}
	return info, nil
}

// checkAdmission says whether the sender may offer a commit at all. A resync's proof is looked at once it is known whose leaf it is.
func (g *group) checkAdmission(rq *pb.CommitRequest, info *mls.MessageInfo, at int64) error {
	external := info.Sender.Type == mls.SenderNewMemberCommit
	switch token, resync := len(rq.JoinToken) > 0, len(rq.ResyncSignature) > 0; {
	case token && resync, !external && (token || resync):
		return errProofs
	case !external || resync:
		return nil
	case token && g.admits(rq.JoinToken, at):
		return nil
	}
	return errNoInvitation
}

// admits says whether a join token opens the group at a time.
func (g *group) admits(token []byte, at int64) bool {
	hash := joinTokenHash(token)
	return hash != nil && g.invitations[string(hash)].valid(at)
}

// joinTokenHash is nil for what is no token.
func joinTokenHash(token []byte) []byte {
	t, err := mimimi.JoinTokenFrom(token)
	if err != nil {
		return nil
	}
	h := t.Hash()
	return h[:]
}

// stage runs a commit through MLS's rules for servers and MIMIMI's. It is used for new commits and for those of the log alike.
func (g *group) stage(commit []byte, millis int64) (*step, error) {
	at := whole(millis)
	change, err := g.public.StageCommit(commit, at)
	if err != nil {
		return nil, g.refusedHandshake(err)
	}
	if !takesUpSelfRemoves(g.public.Pending(), change) {
		// Its sender did not know of the proposal, which came first: as if another commit had.
		return nil, g.stale()
	}
	state, err := g.state.CheckCommit(change, at)
	if err != nil {
		return nil, refused(err)
	}
	return &step{change: change, state: state}, nil
}

// takesUpSelfRemoves says whether every pending self_remove is among the commit's proposals.
func takesUpSelfRemoves(pending []mls.CommittedProposal, c *mls.Change) bool {
	for _, p := range pending {
		taken := func(q mls.CommittedProposal) bool { return q.ByReference && bytes.Equal(p.Ref, q.Ref) }
		if p.Type == mls.ProposalSelfRemove && !slices.ContainsFunc(c.Proposals, taken) {
			return false
		}
	}
	return true
}

// checkResync checks that an external commit removes a leaf if and only if it comes as a resync of that leaf, proven by its key. That
// it keeps the whole credential is among mimimi's rules.
func (g *group) checkResync(rq *pb.CommitRequest, s *step) error {
	if !s.external() {
		return nil
	}
	old, removes := mimimi.Resync(s.change)
	if resync := len(rq.ResyncSignature) > 0; removes != resync {
		return errResync
	} else if !resync {
		return nil
	}
	leaf, ok := g.public.Member(old)
	if !ok {
		return errResync
	}
	if mimimi.VerifyResync(leaf.SignatureKey(), g.id, g.epoch(), rq.Commit, rq.ResyncSignature) != nil {
		return errResyncProof
	}
	return nil
}

// checkWelcome checks that the Welcome's entries are the Adds', each once, in any order.
func checkWelcome(welcome []byte, c *mls.Change) error {
	if len(welcome) == 0 {
		if len(c.AddedRefs) == 0 {
			return nil
		}
		return errWelcome
	}
	info, err := mls.Peek(welcome)
	if err != nil {
		return refused(err)
	}
	refs, err := mls.WelcomeRefs(welcome)
	if err != nil {
		return refused(err)
	}
	if info.WireFormat != wireWelcome || len(refs) == 0 || !slices.EqualFunc(sortedRefs(refs), sortedRefs(c.AddedRefs), bytes.Equal) {
		return errWelcome
	}
	return nil
}

func sortedRefs(refs [][]byte) [][]byte { return slices.SortedFunc(slices.Values(refs), bytes.Compare) }

// checkGroupInfo checks the GroupInfo of a bundle against the state that the commit leads to, and returns the epoch's sender key and external_pub.
func checkGroupInfo(groupInfo []byte, c *mls.Change) (senderKey, externalPub []byte, err error) {
	info, err := mls.Peek(groupInfo)
	if err != nil {
		return nil, nil, refused(err)
	}
	if info.WireFormat != wireGroupInfo {
		return nil, nil, errWireFormat
	}
	gi, err := c.After.CheckGroupInfo(groupInfo)
	if err != nil {
		return nil, nil, refused(err)
	}
	if gi.Signer != c.Committer.Index || !bytes.Equal(gi.ConfirmationTag, c.ConfirmationTag) {
		return nil, nil, errGroupInfo
	}
	return groupInfoKeys(gi)
}

// groupInfoKeys checks which extensions a GroupInfo for the hub has, and returns their contents.
func groupInfoKeys(gi *mls.GroupInfo) (senderKey, externalPub []byte, err error) {
	if senderKey, err = mimimi.CheckHubGroupInfo(gi); err != nil {
		return nil, nil, refused(err)
	}
	externalPub, ok := gi.Extension(mls.ExtensionExternalPub)
	if !ok {
		return nil, nil, errGroupInfo
	}
	return senderKey, externalPub, nil
}

// rosterChanges lists what a commit changes for delivery: who goes, then who comes, then whose queue or pseudonym was replaced.
func (g *group) rosterChanges(c *mls.Change) ([]*pb.RosterChange, error) {
	var changes []*pb.RosterChange
	for _, m := range c.Removed {
		changes = append(changes, &pb.RosterChange{Leaf: m.Index, Gone: true})
	}
	come := slices.Clone(c.Added)
	if c.Sender.Type == mls.SenderNewMemberCommit {
		come = append(come, c.Committer)
	}
	for _, m := range append(come, c.Updated...) {
		r, err := rosterEntry(m)
		if err != nil {
			return nil, refused(err)
		}
		if !slices.ContainsFunc(c.Updated, func(u mls.Member) bool { return u.Index == m.Index }) || !sameRoster(r, g.roster[m.Index]) {
			changes = append(changes, r)
		}
	}
	return changes, nil
}

// committed is g after a commit that has been checked.
func (g *group) committed(h *pb.HandshakeEntry, s *step, millis int64) *group {
	next := g.clone()
	next.public, next.state = s.change.After, s.state
	next.groupInfo, next.externalPub, next.pending = h.GroupInfo, h.ExternalPub, nil
	next.roster = changeRoster(g.roster, h.Changes)
	next.invitations = g.invitationsAfter(h, s.departure())

	epochs := g.counting()
	epochs.Commit(h.Epoch, seconds(millis), s.removal())
	next.epochs, next.senderKeys = epochs.Records(), make(map[uint64][]byte)
	for _, r := range next.epochs {
		next.senderKeys[r.Epoch] = g.senderKeys[r.Epoch]
	}
	next.senderKeys[h.Epoch] = h.EpochSenderKey
	return next
}

// invitationsAfter are the invitations that are left after a commit: none if somebody has gone, who may know them all.
func (g *group) invitationsAfter(h *pb.HandshakeEntry, departure bool) map[string]invitation {
	if departure {
		return map[string]invitation{}
	}
	if len(h.JoinTokenHash) == 0 {
		return g.invitations
	}
	left := maps.Clone(g.invitations)
	i := left[string(h.JoinTokenHash)]
	if i.uses <= 1 {
		delete(left, string(h.JoinTokenHash))
	} else {
		left[string(h.JoinTokenHash)] = invitation{uses: i.uses - 1, notAfter: i.notAfter}
	}
	return left
}

// applyCommit checks a commit of the log again, as it was when it was new, and returns g after it.
func (g *group) applyCommit(h *pb.HandshakeEntry, millis int64) (*group, error) {
	s, err := g.stage(h.Message, millis)
	if err != nil {
		return nil, err
	}
	return g.committed(h, s, millis), nil
}

// draftProposal checks a standalone proposal and returns the entry for it. Errors as draftCommit's, and problem.Limited.
func (g *group) draftProposal(rq *pb.ProposeRequest, millis int64) (*draft, error) {
	if _, err := g.checkFrame(rq.Proposal, contentProposal); err != nil {
		return nil, err
	}
	h, public, err := g.stageProposal(rq.Proposal, millis)
	if err != nil {
		return nil, err
	}
	e := g.entry(rq.RequestId, millis)
	e.Entry = &pb.GroupEntry_Proposal{Proposal: h}
	return &draft{entry: e, next: g.proposed(h, public)}, nil
}

// stageProposal runs a standalone proposal through MLS's rules for servers, MIMIMI's and the hub's bounds.
func (g *group) stageProposal(msg []byte, millis int64) (*pb.HandshakeEntry, *mls.PublicGroup, error) {
	public, p, err := g.public.AddProposal(msg, whole(millis))
	if err != nil {
		return nil, nil, g.refusedHandshake(err)
	}
	if _, delivered := g.roster[p.Sender.Leaf]; p.Sender.Type != mls.SenderMember || !delivered {
		return nil, nil, errLeaving
	}
	if err := g.state.CheckProposal(g.public, p); err != nil {
		return nil, nil, refused(err)
	}
	if err := g.checkPending(p, len(msg)); err != nil {
		return nil, nil, err
	}
	h := &pb.HandshakeEntry{Message: msg, Epoch: g.epoch()}
	if p.Type == mls.ProposalSelfRemove {
		h.Changes = []*pb.RosterChange{{Leaf: p.Sender.Leaf, Gone: true}}
	}
	return h, public, nil
}

// checkPending bounds the epoch's proposals. A self_remove is bounded by the number of leaves alone: nobody may keep another from leaving.
func (g *group) checkPending(p *mls.CommittedProposal, size int) error {
	pending := g.public.Pending()
	var leaving int
	for _, q := range pending {
		if q.Type == mls.ProposalSelfRemove {
			leaving++
		}
	}
	if p.Type == mls.ProposalSelfRemove {
		if leaving >= maxPendingSelfRemoves {
			return errPending
		}
		return nil
	}
	for _, q := range g.pending {
		size += len(q)
	}
	if len(pending)-leaving >= maxPendingOthers || size > maxPendingBytes {
		return errPending
	}
	return nil
}

// proposed is g after a proposal that has been checked.
func (g *group) proposed(h *pb.HandshakeEntry, public *mls.PublicGroup) *group {
	next := g.clone()
	next.public = public
	next.pending = append(slices.Clone(g.pending), h.Message)
	next.roster = changeRoster(g.roster, h.Changes)
	return next
}

// applyProposal checks a proposal of the log again and returns g after it.
func (g *group) applyProposal(h *pb.HandshakeEntry, millis int64) (*group, error) {
	public, _, err := g.public.AddProposal(h.Message, whole(millis))
	if err != nil {
		return nil, err
	}
	return g.proposed(h, public), nil
}

// The sentences for what the hub itself checks. Those of pkg/mls and pkg/mimimi name their section and rule themselves.
var (
	errWireFormat   = problem.New(problem.Invalid, "protocol §9: this call takes another wire format or content type")
	errOtherGroup   = problem.New(problem.Invalid, "protocol §9: a message is for the group that the request names")
	errProofs       = problem.New(problem.Invalid, "protocol §9: an external commit has one join token or one resync proof, and no other has either")
	errNoInvitation = problem.New(problem.Denied, "protocol §7: no valid invitation for this join token: ask for a new one")
	errResync       = problem.New(problem.Invalid, "protocol §7: an external commit removes a leaf if and only if it is its resync")
	errResyncProof  = problem.New(problem.Denied, "protocol §7: the resync proof does not verify under the old leaf's key")
	errWelcome      = problem.New(problem.Invalid, "protocol §9: the Welcome's references are the Adds'")
	errGroupInfo    = problem.New(problem.Invalid, "protocol §9: the GroupInfo is signed by the committer, carries the commit's confirmation tag and external_pub")
	errLeaving      = problem.New(problem.Denied, "protocol §9: only a member that is not leaving proposes")
	errPending      = problem.New(problem.Limited, "protocol §9: too many proposals are pending: commit first")
)
