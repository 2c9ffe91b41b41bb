package mls

import (
	"bytes"

	"golang.org/x/crypto/cryptobyte"
)

// Credential is Credential, RFC 9420 §5.3. Body is basic's identity, or the content of x509's certificate vector. The RFC
// gives other types no form of their own; here the body of every other type is one opaque<V>, and Body is its content.
type Credential struct {
	Type CredentialType
	Body []byte
}

// Marshal returns the TLS encoding.
func (c Credential) Marshal() []byte { return marshal(&c) }

func (c *Credential) parse(s *cryptobyte.String) bool {
	ok := c.parseView(s)
	c.Body = bytes.Clone(c.Body)
	return ok
}

// parseView is parse, but Body is a view.
func (c *Credential) parseView(s *cryptobyte.String) bool {
	return s.ReadUint16((*uint16)(&c.Type)) &&
		readView(s, &c.Body) &&
		(c.Type != CredentialX509 || isCertificateList(c.Body))
}

func (c *Credential) marshal(b *cryptobyte.Builder) {
	b.AddUint16(uint16(c.Type))
	writeOpaque(b, c.Body)
}

// isCertificateList reports whether b is a sequence of Certificate, which is opaque cert_data<V>.
func isCertificateList(b []byte) bool {
	s := cryptobyte.String(b)
	for n := 0; !s.Empty(); n++ {
		var cert cryptobyte.String
		if n == maxCertificates || !readSlice(&s, &cert) {
			return false
		}
	}
	return true
}
