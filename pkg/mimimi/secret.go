package mimimi

import (
	"crypto/rand"

	"mimimi.example/pkg/redact"
)

// secret is embedded under an unexported name, so that nothing outside can turn one kind of secret into another.
type secret = redact.Secret

// The 32-byte secrets. Each prints as "[secret]", cannot be compared with == (Equal takes constant time), and shows its value only
// through Bytes. The zero value holds nothing: IsZero says so, and it equals nothing.
type (
	// ConnectionKey is the user's key from which identity link keys are derived (§4, §5).
	ConnectionKey struct{ secret }
	// ConnectionToken is the read right for a user's KeyPackages, one per contact (§5).
	ConnectionToken struct{ secret }
	// LinkKey is the identity_link_key of one leaf (§4).
	LinkKey struct{ secret }
	// InviteSecret is an invitation's secret, never shown to a hub (§7).
	InviteSecret struct{ secret }
	// JoinToken is what an invitation's holder shows to the hub (§7).
	JoinToken struct{ secret }
	// QueueID names a queue at its provider (§1).
	QueueID struct{ secret }
)

// secretOf copies 32 bytes. Callers have checked the length.
func secretOf(b []byte) secret { return redact.NewSecret(b) }

func newSecret() secret {
	var b [keySize]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return secretOf(b[:])
}

func secretFrom(b []byte) (secret, error) {
	if len(b) != keySize {
		return secret{}, ErrMalformed
	}
	return secretOf(b), nil
}

// NewConnectionKey returns a fresh key.
func NewConnectionKey() ConnectionKey { return ConnectionKey{newSecret()} }

// NewConnectionToken returns a fresh token.
func NewConnectionToken() ConnectionToken { return ConnectionToken{newSecret()} }

// NewInviteSecret returns a fresh secret.
func NewInviteSecret() InviteSecret { return InviteSecret{newSecret()} }

// NewQueueID returns a fresh queue ID.
func NewQueueID() QueueID { return QueueID{newSecret()} }

// ConnectionKeyFrom copies 32 bytes. It returns ErrMalformed for another length.
func ConnectionKeyFrom(b []byte) (ConnectionKey, error) {
	s, err := secretFrom(b)
	return ConnectionKey{s}, err
}

// ConnectionTokenFrom copies 32 bytes. It returns ErrMalformed for another length.
func ConnectionTokenFrom(b []byte) (ConnectionToken, error) {
	s, err := secretFrom(b)
	return ConnectionToken{s}, err
}

// LinkKeyFrom copies 32 bytes. It returns ErrMalformed for another length.
func LinkKeyFrom(b []byte) (LinkKey, error) {
	s, err := secretFrom(b)
	return LinkKey{s}, err
}

// InviteSecretFrom copies 32 bytes. It returns ErrMalformed for another length.
func InviteSecretFrom(b []byte) (InviteSecret, error) {
	s, err := secretFrom(b)
	return InviteSecret{s}, err
}

// JoinTokenFrom copies 32 bytes. It returns ErrMalformed for another length.
func JoinTokenFrom(b []byte) (JoinToken, error) {
	s, err := secretFrom(b)
	return JoinToken{s}, err
}

// QueueIDFrom copies 32 bytes. It returns ErrMalformed for another length.
func QueueIDFrom(b []byte) (QueueID, error) {
	s, err := secretFrom(b)
	return QueueID{s}, err
}

// Equal compares in constant time.
func (k ConnectionKey) Equal(o ConnectionKey) bool { return redact.SameSecret(k.secret, o.secret) }

// Equal compares in constant time.
func (t ConnectionToken) Equal(o ConnectionToken) bool { return redact.SameSecret(t.secret, o.secret) }

// Equal compares in constant time.
func (k LinkKey) Equal(o LinkKey) bool { return redact.SameSecret(k.secret, o.secret) }

// Equal compares in constant time.
func (s InviteSecret) Equal(o InviteSecret) bool { return redact.SameSecret(s.secret, o.secret) }

// Equal compares in constant time.
func (t JoinToken) Equal(o JoinToken) bool { return redact.SameSecret(t.secret, o.secret) }

// Equal compares in constant time.
func (q QueueID) Equal(o QueueID) bool { return redact.SameSecret(q.secret, o.secret) }

// Hash is the store's name for the token: all that it keeps of one (§8).
func (t ConnectionToken) Hash() [32]byte {
	return hashOf(labelConnectionToken, func(b *builder) { b.AddBytes(t.Bytes()) })
}

// Hash is what the hub has of the token before the join (§7).
func (t JoinToken) Hash() [32]byte {
	return hashOf(labelJoinToken, func(b *builder) { b.AddBytes(t.Bytes()) })
}

// JoinToken derives the token that is shown to the hub (§7). The hub cannot go back from it to the secret.
func (s InviteSecret) JoinToken() JoinToken {
	return JoinToken{secretOf(expand(s.Bytes(), labelJoin, nil, keySize))}
}
