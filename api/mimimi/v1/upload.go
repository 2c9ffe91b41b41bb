package mimimiv1

import (
	"crypto/sha256"

	"google.golang.org/protobuf/proto"
)

// UploadBody returns the 32 bytes that an upload's signature covers besides operation, key, request id and time: the SHA-256 of the
// deterministic encoding of an UploadRequest that holds r's items and clients and nothing else. It errs only if r cannot be encoded.
func UploadBody(r *UploadRequest) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&UploadRequest{Items: r.GetItems(), Clients: r.GetClients()})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	return sum[:], nil
}

// WithdrawBody returns the 32 bytes that a withdrawal's signature covers besides operation, key, request id and time: the SHA-256 of the deterministic
// encoding of a WithdrawRequest that holds r's pseudonyms and nothing else. It errs only if r cannot be encoded.
func WithdrawBody(r *WithdrawRequest) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&WithdrawRequest{UserPseudonyms: r.GetUserPseudonyms()})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	return sum[:], nil
}
