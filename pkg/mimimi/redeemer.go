package mimimi

// Redeemer stands where an anonymous token will be spent (§11).
type Redeemer interface {
	// Redeem spends token for the operation under requestID. A retry with the same token and request id succeeds again; the same token
	// with another id does not. The spending must be durable on return.
	Redeem(operation string, token []byte, requestID [16]byte) error
}

// AcceptAll is a Redeemer that accepts everything, also no token at all. It limits nobody: until anonymous tokens are there, whoever
// can reach a service can use up its storage, and a deployment that uses AcceptAll says so at start.
type AcceptAll struct{}

// Redeem returns nil.
func (AcceptAll) Redeem(string, []byte, [16]byte) error { return nil }
