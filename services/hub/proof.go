package hub

import (
	"bytes"
	"encoding/binary"
	"time"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

var (
	errNoProof  = problem.New(problem.Denied, "protocol §9: a read takes the epoch sender key's signature, a leaf's, or a join token")
	errBadProof = problem.New(problem.Denied, "protocol §9: the proof does not verify, or its time is off by more than ten minutes")
	errByLeaf   = problem.New(problem.Denied, "protocol §9: this request takes a leaf's signature")
)

// readRequest is what the signature of a proof covers.
func readRequest(operation string, id mimimi.GroupID, p *pb.Proof, body []byte) (*mimimi.ReadRequest, error) {
	s := p.GetSigned()
	if s == nil {
		return nil, errNoProof
	}
	if len(s.RequestId) != requestIDLen {
		return nil, errRequestID
	}
	if len(s.Signature) > maxSignature {
		return nil, errBadProof
	}
	return &mimimi.ReadRequest{
		Operation: operation, Group: id, Epoch: p.Epoch, RequestID: [requestIDLen]byte(s.RequestId),
		Minute: time.Unix(s.Minute*60, 0).UTC(), Body: body,
	}, nil
}

// byLeaf says whether a proof claims to be a leaf's.
func byLeaf(p *pb.Proof) bool { return p != nil && (p.Leaf != nil || len(p.LeafKey) > 0) }

// prover is the leaf of g's tree that a proof names, by index or by signature key.
func (g *group) prover(p *pb.Proof) (mls.Member, bool) {
	if p.Leaf != nil {
		leaf, ok := g.public.Member(*p.Leaf)
		return mls.Member{Index: *p.Leaf, Leaf: leaf}, ok
	}
	for _, m := range g.public.Members() {
		if bytes.Equal(m.Leaf.SignatureKey(), p.LeafKey) {
			return m, true
		}
	}
	return mls.Member{}, false
}

// checkMember checks a proof by the epoch sender key of a remembered epoch, or by a current leaf.
func (g *group) checkMember(operation string, p *pb.Proof, now time.Time) error {
	if byLeaf(p) {
		_, err := g.checkLeaf(operation, p, nil, now)
		return err
	}
	r, err := readRequest(operation, g.id, p, nil)
	if err != nil {
		return err
	}
	key, ok := g.senderKeys[p.Epoch]
	if !ok || mimimi.VerifyRead(key, false, r, p.Signed.Signature, now) != nil {
		return errBadProof
	}
	return nil
}

// checkLeaf checks a proof by a leaf of g's tree and returns it.
func (g *group) checkLeaf(operation string, p *pb.Proof, body []byte, now time.Time) (mls.Member, error) {
	if !byLeaf(p) {
		return mls.Member{}, errByLeaf
	}
	r, err := readRequest(operation, g.id, p, body)
	if err != nil {
		return mls.Member{}, err
	}
	m, ok := g.prover(p)
	if !ok || mimimi.VerifyRead(m.Leaf.SignatureKey(), true, r, p.Signed.Signature, now) != nil {
		return mls.Member{}, errBadProof
	}
	return m, nil
}

// checkReader checks a proof that opens GroupInfo and tree: a join token's too.
func (g *group) checkReader(operation string, p *pb.Proof, now time.Time) error {
	if len(p.GetJoinToken()) == 0 {
		return g.checkMember(operation, p, now)
	}
	if !g.admits(p.JoinToken, now.Unix()) {
		return errNoInvitation
	}
	return nil
}

// invitationBody is the body of a signed request to register an invitation.
func invitationBody(rq *pb.RegisterInvitationRequest) []byte {
	b := binary.BigEndian.AppendUint32(append([]byte(nil), rq.JoinTokenHash...), rq.Uses)
	return binary.BigEndian.AppendUint64(b, uint64(rq.NotAfter))
}
