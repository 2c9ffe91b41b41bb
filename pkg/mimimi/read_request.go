package mimimi

import (
	"time"

	"mimimi.example/pkg/mls"
)

// ReadRequest is what is signed to read a group's GroupInfo, tree or log, by the epoch's key or a current leaf's, or to manage its
// invitations, by a leaf's (§9).
type ReadRequest struct {
	Operation string // one of the Op… constants
	Group     GroupID
	Epoch     uint64
	RequestID [16]byte
	Minute    time.Time // whole minutes
	Body      []byte    // what the operation needs, such as the hash of a join token
}

// The operations of a ReadRequest.
const (
	OpReadGroupInfo      = "group info"
	OpReadTree           = "tree"
	OpReadLog            = "log"
	OpRegisterInvitation = "register invitation"
	OpRevokeInvitation   = "revoke invitation"
)

func (r *ReadRequest) tbs(l label) []byte {
	return labelled(l, func(b *builder) {
		addName(b, r.Operation)
		addName(b, r.Group.Wire())
		b.AddUint64(r.Epoch)
		b.AddBytes(r.RequestID[:])
		addTime(b, r.Minute)
		addVector(b, r.Body)
	})
}

// SignReadAsLeaf signs with the key of a current leaf.
func SignReadAsLeaf(k mls.SignatureKey, r *ReadRequest) []byte {
	return sign(k, labelLeafRead, r.tbs(labelLeafRead))
}

// VerifyRead checks a request's signature by the epoch's key or, byLeaf, by a leaf's; that it is at most ten minutes from now; and
// that the operation is known and may be signed that way: who may invite is a role, so invitations need a leaf. It returns
// ErrUnauthenticated or a *RuleError.
func VerifyRead(pub []byte, byLeaf bool, r *ReadRequest, sig []byte, now time.Time) error {
	l := labelEpochRead
	if byLeaf {
		l = labelLeafRead
	}
	if err := verify(pub, l, r.tbs(l), sig); err != nil {
		return err
	}
	switch r.Operation {
	case OpReadGroupInfo, OpReadTree, OpReadLog:
	case OpRegisterInvitation, OpRevokeInvitation:
		if !byLeaf {
			return invalid("9", "invitations are managed under a leaf's signature")
		}
	default:
		return invalid("9", "the operation is known")
	}
	return checkMinute(r.Minute, now, "9")
}
