// Package problem holds the one error type that crosses a process: a Kind and a constant sentence. HTTP status, Connect code and what happens
// to a bus message are all derived from the Kind, in one function each. A sentence names the rule that was broken and what to do; it never
// holds an identifier.
package problem

import (
	"errors"

	"connectrpc.com/connect"
)

// Kind classifies a problem. The numbers are wire format: append only.
type Kind uint8

// The kinds.
const (
	Internal    Kind = 0 // our own fault; the default for an error without a Kind
	Invalid     Kind = 1 // breaks a rule that the sentence names
	Denied      Kind = 2 // proof or right is missing
	NotFound    Kind = 3
	Stale       Kind = 4 // something else came first: read again, then decide
	Limited     Kind = 5 // a bound was reached: later, or less
	Unavailable Kind = 6 // a dependency is down: try again
)

var names = [...]string{
	Internal: "internal", Invalid: "invalid", Denied: "denied", NotFound: "not_found", Stale: "stale", Limited: "limited", Unavailable: "unavailable",
}

// String is the kind's name, as labels of metrics and spans have it.
func (k Kind) String() string {
	if int(k) >= len(names) {
		k = Internal
	}
	return names[k]
}

// Error is a problem for the other side of a call.
type Error struct {
	Kind     Kind
	Sentence string // constant; goes to the peer
	cause    error  // private; stays in this process
}

// New returns a problem with a constant sentence.
func New(k Kind, sentence string) *Error { return &Error{Kind: k, Sentence: sentence} }

// Wrap returns a problem whose private cause errors.Is and errors.As can see, and which the peer never does.
func Wrap(k Kind, sentence string, cause error) *Error {
	return &Error{Kind: k, Sentence: sentence, cause: cause}
}

// Error returns the sentence alone.
func (e *Error) Error() string { return e.Sentence }

// Unwrap returns the private cause.
func (e *Error) Unwrap() error { return e.cause }

// KindOf returns the Kind of err's nearest problem, Internal if it has none.
func KindOf(err error) Kind {
	if p, ok := errors.AsType[*Error](err); ok {
		return p.Kind
	}
	return Internal
}

var codes = [...]connect.Code{
	Internal: connect.CodeInternal, Invalid: connect.CodeInvalidArgument, Denied: connect.CodePermissionDenied,
	NotFound: connect.CodeNotFound, Stale: connect.CodeAborted, Limited: connect.CodeResourceExhausted, Unavailable: connect.CodeUnavailable,
}

// Connect turns err into what a Connect handler returns. An error without a Kind becomes "internal error": its text may hold anything.
func Connect(err error) error {
	if err == nil {
		return nil
	}
	p, ok := errors.AsType[*Error](err)
	if !ok {
		return connect.NewError(connect.CodeInternal, errors.New("internal error"))
	}
	return connect.NewError(codes[p.Kind], errors.New(p.Sentence))
}

// FromConnect is Connect's inverse, for callers: a Connect error becomes a problem with its Kind and sentence.
func FromConnect(err error) error {
	c, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return err
	}
	for k, code := range codes {
		if code == c.Code() {
			return Wrap(Kind(k), c.Message(), err)
		}
	}
	if c.Code() == connect.CodeDeadlineExceeded || c.Code() == connect.CodeCanceled {
		return Wrap(Unavailable, "the service did not answer in time: try again", err)
	}
	return Wrap(Internal, "the service failed", err)
}
