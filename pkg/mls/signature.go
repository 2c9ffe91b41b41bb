package mls

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// labelledContent is SignContent, RFC 9420 §5.1.2, and EncryptContext, §5.1.3, which have one form. The content is given in parts.
func labelledContent(label string, content ...[]byte) []byte {
	n := 0
	for _, part := range content {
		n += len(part)
	}
	b := make([]byte, 0, len(labelPrefix)+len(label)+n+8) // and the lengths, of at most 4 bytes each
	b = appendVarint(b, len(labelPrefix)+len(label))
	b = append(append(b, labelPrefix...), label...)
	b = appendVarint(b, n)
	for _, part := range content {
		b = append(b, part...)
	}
	return b
}

// VerifyWithLabel is RFC 9420 §5.1.2. A public key or signature of wrong form does not verify.
func (cs CipherSuite) VerifyWithLabel(pub []byte, label string, content, sig []byte) bool {
	return cs.verifyParts(pub, label, sig, content)
}

// verifyParts is VerifyWithLabel of a content in parts.
func (cs CipherSuite) verifyParts(pub []byte, label string, sig []byte, content ...[]byte) bool {
	r := cs.find()
	return r != nil && r.signature.verify(pub, labelledContent(label, content...), sig)
}

// SignatureKey is a secret signature key with its suite. It prints as "[secret]" and cannot be compared; MarshalBinary
// is the one way out, for storage. The zero value holds no key.
type SignatureKey struct {
	// A func cannot be compared, and fmt shows no more of it than an address. A pointer would not do: fmt ignores the
	// methods of an unexported field of a caller's struct, and for a verb that does not suit a pointer it prints what it
	// points to.
	k func() *signatureSecret
}

type signatureSecret struct {
	suite CipherSuite
	key   signer
}

// GenerateSignatureKey returns a fresh key. It returns ErrUnsupported for an unsupported suite.
func (cs CipherSuite) GenerateSignatureKey() (SignatureKey, error) {
	if !cs.Supported() {
		return SignatureKey{}, ErrUnsupported
	}
	key, err := cs.row().signature.generate()
	return newSignatureKey(cs, key, err)
}

// DeriveSignatureKey returns the key of a secret in the form of the suite's scheme: the seed of Ed25519 (32 bytes) or Ed448
// (57 bytes), which any secret of that length is; or the private scalar of ECDSA, big-endian, in as many bytes as the
// curve's order. It returns ErrUnsupported or ErrMalformed.
func (cs CipherSuite) DeriveSignatureKey(secret []byte) (SignatureKey, error) {
	if !cs.Supported() {
		return SignatureKey{}, ErrUnsupported
	}
	key, err := cs.row().signature.parse(secret)
	return newSignatureKey(cs, key, err)
}

func newSignatureKey(cs CipherSuite, key signer, err error) (SignatureKey, error) {
	if err != nil {
		return SignatureKey{}, ErrMalformed
	}
	secret := &signatureSecret{suite: cs, key: key}
	return SignatureKey{k: func() *signatureSecret { return secret }}, nil
}

// isZero reports whether the value holds no key.
func (k SignatureKey) isZero() bool { return k.k == nil }

// Public returns the public key, or nil for the zero value: the bytes of EdDSA, or an uncompressed point of ECDSA.
func (k SignatureKey) Public() []byte {
	if k.isZero() {
		return nil
	}
	return bytes.Clone(k.k().key.public())
}

// SignWithLabel is RFC 9420 §5.1.2. An ECDSA signature is DER. It panics for the zero value.
func (k SignatureKey) SignWithLabel(label string, content []byte) []byte {
	return k.signParts(label, content)
}

// signParts is SignWithLabel of a content in parts.
func (k SignatureKey) signParts(label string, content ...[]byte) []byte {
	return k.k().key.sign(labelledContent(label, content...))
}

// MarshalBinary returns the secret key for storage: the suite, then what DeriveSignatureKey takes. It returns
// ErrInvalid for the zero value.
func (k SignatureKey) MarshalBinary() ([]byte, error) {
	if k.isZero() {
		return nil, ErrInvalid
	}
	private := k.k().key.private()
	defer clear(private)
	return append(binary.BigEndian.AppendUint16(nil, uint16(k.k().suite)), private...), nil
}

// UnmarshalBinary reads what MarshalBinary wrote. It returns ErrMalformed or ErrUnsupported and then leaves k as it is.
func (k *SignatureKey) UnmarshalBinary(b []byte) error {
	if len(b) < 2 {
		return ErrMalformed
	}
	read, err := CipherSuite(binary.BigEndian.Uint16(b)).DeriveSignatureKey(b[2:])
	if err != nil {
		return err
	}
	*k = read
	return nil
}

// Format writes "[secret]" for every verb.
func (SignatureKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[secret]") }
