package mimimiv1

import (
	"crypto/sha256"

	"google.golang.org/protobuf/proto"
)

// IssueTokensBody returns the 32 bytes that the signature of a request for tokens covers besides operation, client, request id and time: the SHA-256
// of the deterministic encoding of an IssueTokensRequest that holds r's epoch and batches and nothing else. It errs only if r cannot be encoded.
func IssueTokensBody(r *IssueTokensRequest) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&IssueTokensRequest{Epoch: r.GetEpoch(), Batches: r.GetBatches()})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	return sum[:], nil
}
