package mimimi

import (
	"context"
	"time"
)

// Redeemer is where an anonymous token is spent (§11).
type Redeemer interface {
	// Redeem spends s.Token. The spending is durable on return. A repeat with the same request id for the same deed succeeds again; anything else with the
	// same token does not. Its errors are problems: Denied if the token is missing, not good for this or spent; Unavailable if that cannot be told now.
	Redeem(ctx context.Context, s *Spending) (*Receipt, error)
}

// Spending is a token and what it is spent for.
type Spending struct {
	Operation TokenOperation
	Token     []byte
	RequestID [16]byte
	// Deed is what the request asks for, or a hash of it: one token pays for one deed, also if another request has the same id.
	Deed []byte
}

// Receipt says what became of a spending.
type Receipt struct {
	Issuer string    // the domain that issued the token
	First  time.Time // when it was first spent for this request; whole seconds
	Again  bool      // it was spent for this request before
}
