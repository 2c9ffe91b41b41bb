package mimimi

import "errors"

// The errors that callers branch on.
var (
	// ErrMalformed says that bytes are not the canonical encoding of what they should be. It does not say where.
	ErrMalformed = errors.New("mimimi: malformed encoding")
	// ErrUnauthenticated stands for every signature, commitment, AEAD and HPKE failure alike.
	ErrUnauthenticated = errors.New("mimimi: does not open or verify")
	// ErrInvalid says that something breaks a rule of the protocol; a *RuleError names it.
	ErrInvalid = errors.New("mimimi: breaks a rule")
	// ErrDenied says that the group's policy does not allow it; a *RuleError names what.
	ErrDenied = errors.New("mimimi: the group's policy denies it")
)

// RuleError names the rule that was broken: both fields are constants of this package, so the text may cross a process.
// It matches ErrDenied if Denied, ErrInvalid otherwise.
type RuleError struct {
	Section string // of docs/protocol.md
	Rule    string // one sentence
	Denied  bool   // the group's policy says no; otherwise the protocol does
}

// Error returns section and rule.
func (e *RuleError) Error() string { return "protocol §" + e.Section + ": " + e.Rule }

// Unwrap returns ErrDenied or ErrInvalid.
func (e *RuleError) Unwrap() error {
	if e.Denied {
		return ErrDenied
	}
	return ErrInvalid
}

func invalid(section, rule string) error { return &RuleError{Section: section, Rule: rule} }

func denied(section, rule string) error {
	return &RuleError{Section: section, Rule: rule, Denied: true}
}
