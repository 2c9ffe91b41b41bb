package mimimi

import (
	"bytes"
	"encoding/hex"
	"strings"
	"time"

	"mimimi.example/pkg/mls"
)

// ClientCertificate is the real credential (§3): the domain's word that a client and its signature key belong to a user. It is
// seen only by those who can open the identity link that holds it.
type ClientCertificate struct {
	User                User
	Client              Client
	SignatureKey        []byte    // Ed25519, 32 bytes
	NotBefore, NotAfter time.Time // whole days UTC; valid from NotBefore until just before NotAfter
	Signature           []byte    // by the domain's identity key
}

// IssueClientCertificate signs a certificate with the identity key of the user's domain. It begins 8 days before now, so that a
// leaf's week always lies inside (§3), and ends validFor after today, rounded up to whole days. It returns a *RuleError.
func IssueClientCertificate(
	identity mls.SignatureKey, user User, client Client, signatureKey []byte, now time.Time, validFor time.Duration,
) (*ClientCertificate, error) {
	c := &ClientCertificate{
		User: user, Client: client, SignatureKey: bytes.Clone(signatureKey),
		NotBefore: wholeDay(now.Add(-certificateBackdate)), NotAfter: wholeDay(now.Add(validFor + day - 1)),
	}
	switch {
	case user.IsZero() || user.Domain() != client.Domain():
		return nil, invalid("3", "user and client are of one domain")
	case len(signatureKey) != keySize:
		return nil, invalid("3", "the signature key is of suite 1")
	case validFor <= 0 || !encodable(c.NotBefore) || !encodable(c.NotAfter):
		return nil, invalid("3", "a certificate is valid for some time")
	}
	c.Signature = sign(identity, labelClientCertificate, c.tbs())
	return c, nil
}

// tbs is ClientCertificateTBS.
func (c *ClientCertificate) tbs() []byte {
	return labelled(labelClientCertificate, func(b *builder) {
		addName(b, c.User.Wire())
		addName(b, c.Client.Wire())
		addVector(b, c.SignatureKey)
		addTime(b, c.NotBefore)
		addTime(b, c.NotAfter)
	})
}

// Marshal is the TLS encoding of ClientCertificate.
func (c *ClientCertificate) Marshal() []byte {
	return encode(func(b *builder) {
		b.AddBytes(c.tbs())
		addVector(b, c.Signature)
	})
}

// ParseClientCertificate reads a certificate and verifies nothing. It returns ErrMalformed.
func ParseClientCertificate(b []byte) (*ClientCertificate, error) {
	c := new(ClientCertificate)
	if err := decode(b, c.read); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *ClientCertificate) read(s *input) bool {
	return readLabel(s, labelClientCertificate) &&
		readName(s, ParseUser, &c.User) &&
		readName(s, ParseClient, &c.Client) &&
		readSized(s, keySize, &c.SignatureKey) &&
		readDay(s, &c.NotBefore) &&
		readDay(s, &c.NotAfter) &&
		readSized(s, signatureSize, &c.Signature)
}

// Credential is the certificate as an MLS credential of type 0xF1A5, as identity links and requests hold it.
func (c *ClientCertificate) Credential() mls.Credential {
	return mls.Credential{Type: CredentialClientCertificate, Body: c.Marshal()}
}

// readCertificate reads a Credential of type 0xF1A5.
func readCertificate(s *input, out **ClientCertificate) bool {
	var body []byte
	if !readCredential(s, CredentialClientCertificate, &body) {
		return false
	}
	c, err := ParseClientCertificate(body)
	*out = c
	return err == nil
}

// Verify checks the certificate against its domain's identity key: the signature, that user and client are of one domain, and that
// at lies in its validity. The caller knows that identityKey is the domain's, and asks the list of revocations. It returns
// ErrUnauthenticated or a *RuleError.
func (c *ClientCertificate) Verify(identityKey []byte, at time.Time) error {
	if err := verify(identityKey, labelClientCertificate, c.tbs(), c.Signature); err != nil {
		return err
	}
	switch {
	case c.User.Domain() != c.Client.Domain():
		return invalid("3", "user and client are of one domain")
	case at.Before(c.NotBefore) || !at.Before(c.NotAfter):
		return invalid("3", "the certificate is in date")
	}
	return nil
}

// Fingerprint is what two users compare: 128 bits of a hash over the certificate's user, client and key, in groups of four hex
// digits. It stays the same when the certificate is renewed.
func (c *ClientCertificate) Fingerprint() string {
	h := hashOf(labelFingerprint, func(b *builder) {
		addName(b, c.User.Wire())
		addName(b, c.Client.Wire())
		addVector(b, c.SignatureKey)
	})
	digits := hex.EncodeToString(h[:16])
	groups := make([]string, 0, len(digits)/4)
	for ; digits != ""; digits = digits[4:] {
		groups = append(groups, digits[:4])
	}
	return strings.Join(groups, " ")
}
