package mimimi

import (
	"time"

	"mimimi.example/pkg/mls"
)

// StoreRequest is a write or listing at the KeyPackage store, signed by kp_write_key (§8). The store knows an index by the key, and
// nobody by name.
type StoreRequest struct {
	Operation string // the store's name of it, at most 32 bytes
	WriteKey  []byte // public half, 32 bytes
	RequestID [16]byte
	Minute    time.Time // whole minutes
	Body      []byte
}

func (r *StoreRequest) tbs() []byte {
	return labelled(labelStoreRequest, func(b *builder) {
		addName(b, r.Operation)
		addVector(b, r.WriteKey)
		b.AddBytes(r.RequestID[:])
		addTime(b, r.Minute)
		addVector(b, r.Body)
	})
}

// SignStoreRequest signs a request with the key whose public half is r.WriteKey.
func SignStoreRequest(k mls.SignatureKey, r *StoreRequest) []byte {
	return sign(k, labelStoreRequest, r.tbs())
}

// VerifyStoreRequest checks the signature by r.WriteKey, that the request is at most ten minutes from now, and the operation's
// length. Whether the key owns the index, and whether the request id is new, is the store's to know. It returns ErrUnauthenticated
// or a *RuleError.
func VerifyStoreRequest(r *StoreRequest, sig []byte, now time.Time) error {
	if err := verify(r.WriteKey, labelStoreRequest, r.tbs(), sig); err != nil {
		return err
	}
	return checkRequest(r.Operation, r.Minute, now, "8")
}

func checkRequest(operation string, minute, now time.Time, section string) error {
	if len(operation) < 1 || len(operation) > maxOperationName {
		return invalid(section, "an operation has a name of at most 32 bytes")
	}
	return checkMinute(minute, now, section)
}

// OwnerID is the store's name for the index of a write key (§8): the labelled hash of its public half.
func OwnerID(writeKey []byte) [32]byte {
	return hashOf(labelStoreOwner, func(b *builder) { addVector(b, writeKey) })
}

// QueueRequest reads, acknowledges or deletes at a queue, signed by the queue's own key (§10). Nothing in it ties the queue to an
// account.
type QueueRequest struct {
	Operation string // the provider's name of it, at most 32 bytes
	Queue     QueueID
	RequestID [16]byte
	Minute    time.Time // whole minutes
	Body      []byte
}

func (r *QueueRequest) tbs() []byte {
	return labelled(labelQueueRequest, func(b *builder) {
		addName(b, r.Operation)
		addVector(b, r.Queue.Bytes())
		b.AddBytes(r.RequestID[:])
		addTime(b, r.Minute)
		addVector(b, r.Body)
	})
}

// SignQueueRequest signs a request with the queue's key.
func SignQueueRequest(k mls.SignatureKey, r *QueueRequest) []byte {
	return sign(k, labelQueueRequest, r.tbs())
}

// VerifyQueueRequest checks the signature by the queue's key pub, that the request is at most ten minutes from now, and the
// operation's length. It returns ErrUnauthenticated or a *RuleError.
func VerifyQueueRequest(pub []byte, r *QueueRequest, sig []byte, now time.Time) error {
	if err := verify(pub, labelQueueRequest, r.tbs(), sig); err != nil {
		return err
	}
	return checkRequest(r.Operation, r.Minute, now, "10")
}
