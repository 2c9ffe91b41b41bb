// Package redact holds what identifier and secret types share: they can be carried, compared and stored, and nothing renders
// them by accident.
//
// Guarantees: no fmt verb, slog handler, text or JSON encoder renders the value of a Name or a Secret, neither directly nor
// inside a struct whose fields are unexported (fmt then ignores methods, and finds only a pointer). Wire and Secret.Bytes are
// the one deliberate way out. A Secret cannot be compared with == and is never interned.
//
// Not guaranteed: memory is not wiped, and code that reads it through unsafe or a debugger sees the value.
package redact

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"unique"
)

// Kind is what a redacted type shows in place of its value. Implementations are empty structs.
type Kind interface {
	// Placeholder is a constant such as "[user]".
	Placeholder() string
}

// Hidden renders as its kind's placeholder everywhere. Embed it in a struct whose other fields must not be shown.
type Hidden[K Kind] struct{}

func (Hidden[K]) text() string {
	var k K
	return k.Placeholder()
}

// Format writes the placeholder under every verb and flag.
func (h Hidden[K]) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, h.text()) }

// String is the placeholder.
func (h Hidden[K]) String() string { return h.text() }

// GoString is the placeholder.
func (h Hidden[K]) GoString() string { return h.text() }

// LogValue is the placeholder.
func (h Hidden[K]) LogValue() slog.Value { return slog.StringValue(h.text()) }

// MarshalText is the placeholder; there is no way back.
func (h Hidden[K]) MarshalText() ([]byte, error) { return []byte(h.text()), nil }

// MarshalJSON is the placeholder as a JSON string; there is no way back. Placeholders need no escapes.
func (h Hidden[K]) MarshalJSON() ([]byte, error) { return []byte(`"` + h.text() + `"`), nil }

// Name is an identifier: linkable metadata that is compared and used as a map key. Its bytes sit behind a handle, because fmt
// ignores the methods of an unexported field and would otherwise dump them.
type Name[K Kind] struct {
	Hidden[K]
	h unique.Handle[string]
}

// NewName holds s.
func NewName[K Kind](s string) Name[K] { return Name[K]{h: unique.Make(s)} }

// Wire is the identifier itself, the one deliberate way out; "" for the zero Name.
func (n Name[K]) Wire() string {
	if n.IsZero() {
		return ""
	}
	return n.h.Value()
}

// IsZero says whether n holds nothing.
func (n Name[K]) IsZero() bool { return n == Name[K]{} }

type secretKind struct{}

func (secretKind) Placeholder() string { return "[secret]" }

// HiddenSecret renders as "[secret]": for structs that hold key material of other types.
type HiddenSecret = Hidden[secretKind]

// Secret is secret bytes. They sit in a closure, of which fmt can show no more than its address: a pointer would not do, since fmt
// follows one to a slice when the verb does not fit. A Secret is not comparable with ==.
type Secret struct {
	HiddenSecret
	reveal func() []byte
}

// NewSecret holds a copy of b.
func NewSecret(b []byte) Secret {
	c := bytes.Clone(b)
	return Secret{reveal: func() []byte { return c }}
}

// Bytes is a copy of the secret, the one deliberate way out; nil for the zero Secret.
func (s Secret) Bytes() []byte {
	if s.reveal == nil {
		return nil
	}
	return bytes.Clone(s.reveal())
}

// IsZero says whether s holds nothing. A secret of zero bytes is not zero.
func (s Secret) IsZero() bool { return s.reveal == nil }

// SameSecret compares in constant time. Zero Secrets equal nothing, not even each other.
func SameSecret(a, b Secret) bool {
	return !a.IsZero() && !b.IsZero() && subtle.ConstantTimeCompare(a.reveal(), b.reveal()) == 1
}
