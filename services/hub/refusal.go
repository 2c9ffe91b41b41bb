package hub

import (
	"errors"

	"connectrpc.com/connect"

	pb "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// errStale is what every staleError is for those who ask for its Kind.
var errStale = problem.New(problem.Stale, "protocol §9: the group has moved on: read its log, then try again")

// staleError says that something else came first, and where the group is now. Its text leaves the numbers out.
type staleError struct{ epoch, sequence uint64 }

// Error returns errStale's sentence.
func (e *staleError) Error() string { return errStale.Error() }

// Unwrap returns errStale.
func (e *staleError) Unwrap() error { return errStale }

func (g *group) stale() error { return &staleError{epoch: g.epoch(), sequence: g.handshake} }

// refused turns an error of pkg/mls or pkg/mimimi about a request into a problem. Rules' texts are constants of those packages.
func refused(err error) error {
	if r, ok := errors.AsType[*mimimi.RuleError](err); ok {
		if r.Denied {
			return problem.Wrap(problem.Denied, r.Error(), err)
		}
		return problem.Wrap(problem.Invalid, r.Error(), err)
	}
	if r, ok := errors.AsType[*mls.RuleError](err); ok {
		return problem.Wrap(problem.Invalid, r.Error(), err)
	}
	switch {
	case errors.Is(err, mls.ErrUnauthenticated), errors.Is(err, mimimi.ErrUnauthenticated):
		return problem.Wrap(problem.Denied, "a signature does not verify", err)
	case errors.Is(err, mls.ErrReplayed):
		return problem.Wrap(problem.Invalid, "RFC 9420 §12.4: the proposal is pending already", err)
	case errors.Is(err, mls.ErrUnsupported):
		return problem.Wrap(problem.Invalid, "protocol §0: another version or cipher suite", err)
	case errors.Is(err, mls.ErrInvalid), errors.Is(err, mimimi.ErrInvalid):
		return problem.Wrap(problem.Invalid, "a rule of RFC 9420 or of the protocol is broken", err)
	case errors.Is(err, mimimi.ErrDenied):
		return problem.Wrap(problem.Denied, "the group's policy denies it", err)
	}
	return problem.Wrap(problem.Invalid, "malformed encoding", err)
}

// refusedHandshake is refused for what may be of another epoch.
func (g *group) refusedHandshake(err error) error {
	if errors.Is(err, mls.ErrStaleEpoch) {
		return g.stale()
	}
	return refused(err)
}

// connectError is problem.Connect with the details of a stale answer.
func connectError(err error) error {
	s, ok := errors.AsType[*staleError](err)
	if !ok {
		return problem.Connect(err)
	}
	c := connect.NewError(connect.CodeAborted, errors.New(errStale.Sentence))
	if d, err := connect.NewErrorDetail(&pb.StaleDetail{Epoch: s.epoch, Sequence: s.sequence}); err == nil {
		c.AddDetail(d)
	}
	return c
}
