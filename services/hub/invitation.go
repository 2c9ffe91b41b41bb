package hub

import (
	"time"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

var (
	errInvitation     = problem.New(problem.Invalid, "protocol §7: an invitation is 32 bytes of hash, 1 to 1,000 uses, and ends within 90 days from now")
	errMayNotInvite   = problem.New(problem.Denied, "protocol §9: the group's policy does not let this member invite, or lets nobody join from outside")
	errNoSuchInvite   = problem.New(problem.NotFound, "protocol §7: no such invitation")
	errTooManyInvites = problem.New(problem.Limited, "protocol §7: too many invitations are open: revoke some")
)

// joinTokenHashLen is the length of mimimi.JoinToken.Hash.
const joinTokenHashLen = 32

// mayInvite says whether a leaf's user may manage invitations under the group's policy. One that is leaving may not.
func (g *group) mayInvite(m mls.Member) error {
	data, ok := g.public.Extension(mimimi.ExtensionGroup)
	if !ok {
		return errMayNotInvite
	}
	policy, err := mimimi.ParsePolicy(data)
	if err != nil {
		return errMayNotInvite
	}
	id, err := mimimi.ParseLeaf(m.Leaf)
	if err != nil {
		return refused(err)
	}
	_, delivered := g.roster[m.Index]
	if !delivered || !policy.ExternalJoins || policy.Role(id.Credential.UserPseudonym) < policy.MayInvite {
		return errMayNotInvite
	}
	return nil
}

// draftRegistration checks an invitation and the right to make it.
func (g *group) draftRegistration(rq *pb.RegisterInvitationRequest, millis int64, now time.Time) (*draft, error) {
	m, err := g.checkLeaf(mimimi.OpRegisterInvitation, rq.Proof, invitationBody(rq), now)
	if err != nil {
		return nil, err
	}
	if err := g.mayInvite(m); err != nil {
		return nil, err
	}
	end := seconds(millis) + int64(maxInvitationLife/time.Second)
	if len(rq.JoinTokenHash) != joinTokenHashLen || rq.Uses == 0 || rq.Uses > maxUses || rq.NotAfter <= seconds(millis) || rq.NotAfter > end {
		return nil, errInvitation
	}
	if _, ok := g.invitations[string(rq.JoinTokenHash)]; !ok && len(g.invitations) >= maxInvitations {
		return nil, errTooManyInvites
	}
	i := &pb.Invitation{JoinTokenHash: rq.JoinTokenHash, UsesLeft: rq.Uses, NotAfter: rq.NotAfter}
	return g.draftInvitation(rq.Proof, &pb.InvitationEntry{Register: i}, millis), nil
}

// draftRevocation checks the right to take an invitation back.
func (g *group) draftRevocation(rq *pb.RevokeInvitationRequest, millis int64, now time.Time) (*draft, error) {
	m, err := g.checkLeaf(mimimi.OpRevokeInvitation, rq.Proof, rq.JoinTokenHash, now)
	if err != nil {
		return nil, err
	}
	if err := g.mayInvite(m); err != nil {
		return nil, err
	}
	if _, ok := g.invitations[string(rq.JoinTokenHash)]; !ok {
		return nil, errNoSuchInvite
	}
	return g.draftInvitation(rq.Proof, &pb.InvitationEntry{Revoke: rq.JoinTokenHash}, millis), nil
}

func (g *group) draftInvitation(p *pb.Proof, i *pb.InvitationEntry, millis int64) *draft {
	e := g.entry(p.Signed.RequestId, millis)
	e.Entry = &pb.GroupEntry_Invitation{Invitation: i}
	return &draft{entry: e, next: g.withInvitation(i)}
}
