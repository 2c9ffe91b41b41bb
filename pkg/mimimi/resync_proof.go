package mimimi

import (
	"crypto/sha256"

	"mimimi.example/pkg/mls"
)

// resyncTBS is ResyncProof (§7): what the old leaf's key signs for a resync. The commit stands in it by its hash.
func resyncTBS(g GroupID, epoch uint64, commit []byte) []byte {
	hash := sha256.Sum256(commit)
	return labelled(labelResyncProof, func(b *builder) {
		addName(b, g.Wire())
		b.AddUint64(epoch)
		addVector(b, hash[:])
	})
}

// SignResync proves with the old leaf's key that an external commit (an MLSMessage for the group's epoch) that removes this leaf is its own
// resync (§7).
func SignResync(k mls.SignatureKey, g GroupID, epoch uint64, commit []byte) []byte {
	return sign(k, labelResyncProof, resyncTBS(g, epoch, commit))
}

// VerifyResync checks SignResync's proof under the old leaf's public key. It returns ErrUnauthenticated.
func VerifyResync(pub []byte, g GroupID, epoch uint64, commit, sig []byte) error {
	return verify(pub, labelResyncProof, resyncTBS(g, epoch, commit), sig)
}
