package provider

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"

	"google.golang.org/protobuf/proto"

	"mimimi.example/pkg/bus"
	"mimimi.example/pkg/problem"
)

// The labels of everything that the provider hashes for its own use, each unique.
const (
	labelDelivery   = "mimimi provider delivery"      // message id of a queue entry
	labelBody       = "mimimi provider body"          // name of a shared body
	labelGroupMark  = "mimimi provider group mark"    // what a queue record holds of a group
	labelDeposit    = "mimimi provider deposit"       // what an inbox request was about
	labelDepositID  = "mimimi provider deposit id"    // message id of an inbox entry
	labelFakeSeed   = "mimimi provider fake seed"     // from the identity key
	labelQueueKey   = "mimimi provider queue key"     // of a period, from queue_secret_file
	labelFakeRecord = "mimimi provider fake record"   // of a user that does not exist
	labelFakeCA     = "mimimi provider fake identity" // what signs such a record's certificate
	labelIssuerSeal = "mimimi provider issuer seal"   // from the identity key: what issuer keys are stored under
	labelIssuerKey  = "mimimi provider issuer key"    // where an issuer key is stored, and what it is bound to
	labelExchange   = "mimimi provider exchange"      // what tokens are exchanged for
)

// digest is SHA-256 over the label and the parts, each with its length before it.
func digest(label string, parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range append([][]byte{[]byte(label)}, parts...) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(p))))
		h.Write(p)
	}
	return h.Sum(nil)
}

// nobody is the user whose inbox and mailbox take what is for users that do not exist.
const nobody = ""

// errCorrupt is a stored record that does not parse: our own fault, never the caller's.
var errCorrupt = problem.New(problem.Internal, "a stored record cannot be read")

// get reads the last record on s into a fresh T. ok is false if there is none; sequence is then 0.
func get[T any, P interface {
	*T
	proto.Message
}](ctx context.Context, b *bus.Bus, s bus.Subject) (record P, sequence uint64, ok bool, err error) {
	record = new(T)
	msg, err := b.Last(ctx, s)
	if isKind(err, problem.NotFound) {
		return record, 0, false, nil
	}
	if err != nil {
		return nil, 0, false, err
	}
	if err := proto.Unmarshal(msg.Data, record); err != nil {
		return nil, 0, false, errCorrupt
	}
	return record, msg.Sequence, true, nil
}

// put writes a record if last is still the subject's last sequence (0: none). It returns problem.Stale if it is not.
func put(ctx context.Context, b *bus.Bus, s bus.Subject, record proto.Message, last uint64) error {
	data, err := proto.Marshal(record)
	if err != nil {
		return err
	}
	_, err = b.Publish(ctx, s, data, bus.PublishOptions{ExpectLast: &last})
	return err
}

// update changes the record on s by compare-and-swap. change gets the record as it is (empty if there is none) and says whether it
// changed it; its error ends the update. One publish is the only write: a crash leaves the old record or the new one. When the outcome
// of the publish is unknown the caller gets problem.Unavailable and repeats the request; change then finds its own work done.
func update[T any, P interface {
	*T
	proto.Message
}](ctx context.Context, b *bus.Bus, s bus.Subject, change func(record P, exists bool) (bool, error)) error {
	for range updateTries {
		record, last, ok, err := get[T, P](ctx, b, s)
		if err != nil {
			return err
		}
		changed, err := change(record, ok)
		if err != nil || !changed {
			return err
		}
		if err := put(ctx, b, s, record, last); !isKind(err, problem.Stale) {
			return err
		}
	}
	return problem.New(problem.Unavailable, "the record changes too often: try again")
}

// isKind reports whether err is a problem of kind k. A nil error has no kind.
func isKind(err error, k problem.Kind) bool { return err != nil && problem.KindOf(err) == k }

// messageID is a derived hash as the bus's message id.
func messageID(hash []byte) string { return base64.RawURLEncoding.EncodeToString(hash) }
