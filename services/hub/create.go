package hub

import (
	"bytes"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

var (
	errNotOurs = problem.New(problem.Invalid, "protocol §1: a group is created at the hub that its id names")
	errNotNew  = problem.New(problem.Invalid, "protocol §9: a new group is at epoch 0 and has one leaf, which signs its GroupInfo")
	errTaken   = problem.New(problem.Denied, "protocol §1: a group id is never used twice")
)

// newGroupID reads the id of the group that a GroupInfo is for.
func newGroupID(groupInfo []byte, domain string) (mimimi.GroupID, error) {
	info, err := mls.Peek(groupInfo)
	if err != nil {
		return mimimi.GroupID{}, refused(err)
	}
	if info.WireFormat != wireGroupInfo {
		return mimimi.GroupID{}, errWireFormat
	}
	id, err := mimimi.ParseGroupID(info.GroupID)
	if err != nil {
		return mimimi.GroupID{}, refused(err)
	}
	if id.Domain() != domain {
		return mimimi.GroupID{}, errNotOurs
	}
	return id, nil
}

// draftCreation checks a new group's GroupInfo and tree and returns its first entry.
func draftCreation(id mimimi.GroupID, rq *pb.CreateGroupRequest, millis int64) (*draft, error) {
	public, err := mls.NewPublicGroup(rq.GroupInfo, rq.RatchetTree, mimimi.MLSRules())
	if err != nil {
		return nil, refused(err)
	}
	members := public.Members()
	if !bytes.Equal(public.GroupID(), []byte(id.Wire())) || public.Epoch() != 0 || len(members) != 1 {
		return nil, errNotNew
	}
	state, err := mimimi.NewState(public, whole(millis))
	if err != nil {
		return nil, refused(err)
	}
	gi, err := mls.ParseGroupInfo(rq.GroupInfo)
	if err != nil {
		return nil, refused(err)
	}
	if gi.Signer != members[0].Index {
		return nil, errNotNew
	}
	senderKey, externalPub, err := groupInfoKeys(gi)
	if err != nil {
		return nil, err
	}
	first, err := rosterEntry(members[0])
	if err != nil {
		return nil, refused(err)
	}
	g := &group{
		id: id, public: public, state: state,
		epochs: mimimi.NewEpochs(0).Records(), senderKeys: map[uint64][]byte{0: senderKey},
		groupInfo: rq.GroupInfo, externalPub: externalPub,
		invitations: map[string]invitation{}, roster: map[uint32]*pb.RosterChange{first.Leaf: first},
	}
	d := g.draftCheckpoint(rq.RequestId, 0, millis)
	d.entry.GetState().Creation = true
	return d, nil
}
