package mls

import "errors"

// The errors that a caller may branch on. Everything that this package returns for a message, tree or key of another
// party matches exactly one of them.
var (
	// ErrMalformed says that bytes are not the one canonical encoding of what was asked for, or break a limit of
	// limits.go. It never says which byte.
	ErrMalformed = errors.New("mls: malformed encoding")
	// ErrUnauthenticated says that a signature, MAC or AEAD does not verify, whichever it was.
	ErrUnauthenticated = errors.New("mls: signature, MAC or AEAD does not verify")
	// ErrInvalid says that something well formed breaks a rule; a RuleError wraps it and names the rule.
	ErrInvalid = errors.New("mls: breaks a rule of RFC 9420")
	// ErrStaleEpoch says that a message is of another epoch; an EpochError wraps it.
	ErrStaleEpoch = errors.New("mls: message is of another epoch")
	// ErrReplayed says that a message was read or made here before (a proposal that is pending already, an own handshake), or that its key was used or lies
	// outside the window that is kept (RFC 9420 §9.1).
	ErrReplayed = errors.New("mls: the message was read or made before, or its key is not kept")
	// ErrUnsupported says that a protocol version, cipher suite or type is not supported.
	ErrUnsupported = errors.New("mls: unsupported version, suite or type")
)

// RuleError names the rule that was broken. Its texts are constants of this package, never data. It matches ErrInvalid.
type RuleError struct {
	Section string // of RFC 9420, such as "12.2"
	Rule    string // one constant clause
}

// Error returns the section and the rule.
func (e *RuleError) Error() string { return "mls: RFC 9420 §" + e.Section + ": " + e.Rule }

// Unwrap returns ErrInvalid.
func (e *RuleError) Unwrap() error { return ErrInvalid }

// EpochError says which epoch a state has and which one a message wants. It matches ErrStaleEpoch. Its text leaves the
// numbers out: they join the two sides of a delivery.
type EpochError struct{ Have, Want uint64 }

// Error returns the text of ErrStaleEpoch.
func (e *EpochError) Error() string { return ErrStaleEpoch.Error() }

// Unwrap returns ErrStaleEpoch.
func (e *EpochError) Unwrap() error { return ErrStaleEpoch }

// CommitError says that a received commit is signed by its sender, proven with the epoch's membership key if that is a member, and breaks no
// rule that a server sees, but does not lead to the epoch that it says: its path or its confirmation tag is wrong. It matches what it wraps.
type CommitError struct {
	Change *Change // what the commit says
	err    error
}

// Error returns the text of what it wraps.
func (e *CommitError) Error() string { return e.err.Error() }

// Unwrap returns what went wrong.
func (e *CommitError) Unwrap() error { return e.err }

// broken returns a RuleError. Both arguments must be constants.
func broken(section, rule string) error { return &RuleError{Section: section, Rule: rule} }
