package mimimi

import (
	"time"

	"mimimi.example/pkg/mls"
)

// AccountRequest is a request on the account channel, signed by the client certificate's key (§12). It is the only request in which a client gives its name.
type AccountRequest struct {
	Operation string // the provider's name of it, at most 32 bytes
	Client    Client
	RequestID [16]byte
	Minute    time.Time // whole minutes
	Body      []byte
}

func (r *AccountRequest) tbs() []byte {
	return labelled(labelAccountRequest, func(b *builder) {
		addName(b, r.Operation)
		addVector(b, []byte(r.Client.Wire()))
		b.AddBytes(r.RequestID[:])
		addTime(b, r.Minute)
		addVector(b, r.Body)
	})
}

// SignAccountRequest signs a request with the key that the client's certificate names.
func SignAccountRequest(k mls.SignatureKey, r *AccountRequest) []byte {
	return sign(k, labelAccountRequest, r.tbs())
}

// VerifyAccountRequest checks the signature by pub, that the request is at most ten minutes from now, and the operation's length.
// It returns ErrUnauthenticated or a *RuleError.
func VerifyAccountRequest(pub []byte, r *AccountRequest, sig []byte, now time.Time) error {
	if err := verify(pub, labelAccountRequest, r.tbs(), sig); err != nil {
		return err
	}
	return checkRequest(r.Operation, r.Minute, now, "12")
}
