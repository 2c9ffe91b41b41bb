// Package oblivious is Oblivious HTTP (RFC 9458) behind a small interface: a client's transport seals each request to a service's key, a relay carries it, and the
// service's gateway opens it and hands it to an http.Handler in process.
//
// Guarantees: whoever carries a request or its response learns the service, the time and one of eight lengths each way, and cannot change either
// unnoticed. Requests carry no header but those that a call needs: no user agent, no timeout, no encodings offered.
//
// Not guaranteed: a relay can drop, repeat or delay a request, or answer with a refusal of its own; what must not be repeated needs a request id inside. The service sees no
// address because the relay shows it none, not because of anything here.
package oblivious

import (
	"errors"

	"mimimi.example/pkg/problem"
)

var (
	// ErrRefused is what a transport returns when the gateway could not open a request: the key is unknown there, as after a rotation, or the
	// relay refused. Its problem kind is Stale: get the service's current key, then try again.
	ErrRefused error = problem.New(problem.Stale, "the service could not open the request: get its current key and try again")
	// ErrBadResponse is what a transport returns for a response that does not authenticate, of whatever cause.
	ErrBadResponse error = problem.New(problem.Unavailable, "the response is damaged or not the service's: try again")
	// ErrTooLarge is what a transport returns for a request that fits no size class.
	ErrTooLarge error = problem.New(problem.Invalid, "the request is too large to be sealed")
	// ErrMalformedKey says that a secret or a key configuration cannot be read.
	ErrMalformedKey = errors.New("oblivious: the key is malformed or of another suite")
)

// refusal is the whole answer to what cannot be opened. It has the length of no sealed response.
const refusal = "mimimi: not opened"
