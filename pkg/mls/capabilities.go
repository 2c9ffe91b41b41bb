package mls

import (
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// Capabilities is Capabilities, RFC 9420 §7.2: what a client supports beyond the defaults of that section.
type Capabilities struct {
	Versions     []uint16
	CipherSuites []CipherSuite
	Extensions   []ExtensionType
	Proposals    []ProposalType
	Credentials  []CredentialType
}

func (c *Capabilities) parse(s *cryptobyte.String) bool {
	return readUint16s(s, maxCapabilities, &c.Versions) &&
		readUint16s(s, maxCapabilities, &c.CipherSuites) &&
		readUint16s(s, maxCapabilities, &c.Extensions) &&
		readUint16s(s, maxCapabilities, &c.Proposals) &&
		readUint16s(s, maxCapabilities, &c.Credentials)
}

func (c *Capabilities) marshal(b *cryptobyte.Builder) {
	writeUint16s(b, c.Versions)
	writeUint16s(b, c.CipherSuites)
	writeUint16s(b, c.Extensions)
	writeUint16s(b, c.Proposals)
	writeUint16s(b, c.Credentials)
}

// clone returns a deep copy.
func (c *Capabilities) clone() Capabilities {
	return Capabilities{
		Versions:     slices.Clone(c.Versions),
		CipherSuites: slices.Clone(c.CipherSuites),
		Extensions:   slices.Clone(c.Extensions),
		Proposals:    slices.Clone(c.Proposals),
		Credentials:  slices.Clone(c.Credentials),
	}
}

func (c *Capabilities) hasExtension(t ExtensionType) bool {
	return t.isDefault() || slices.Contains(c.Extensions, t)
}

func (c *Capabilities) hasProposal(t ProposalType) bool {
	return t.isDefault() || slices.Contains(c.Proposals, t)
}

func (c *Capabilities) hasCredential(t CredentialType) bool {
	return slices.Contains(c.Credentials, t)
}

// requiredCapabilities is RequiredCapabilities, RFC 9420 §11.1: what every member must support.
type requiredCapabilities struct {
	extensions  []ExtensionType
	proposals   []ProposalType
	credentials []CredentialType
}

func (r *requiredCapabilities) parse(s *cryptobyte.String) bool {
	return readUint16s(s, maxCapabilities, &r.extensions) &&
		readUint16s(s, maxCapabilities, &r.proposals) &&
		readUint16s(s, maxCapabilities, &r.credentials)
}

func (r *requiredCapabilities) marshal(b *cryptobyte.Builder) {
	writeUint16s(b, r.extensions)
	writeUint16s(b, r.proposals)
	writeUint16s(b, r.credentials)
}

// parseRequiredCapabilities reads the content of a required_capabilities extension.
func parseRequiredCapabilities(b []byte) (*requiredCapabilities, error) {
	r := new(requiredCapabilities)
	if err := parse(b, r); err != nil {
		return nil, err
	}
	return r, nil
}

// satisfiedBy reports whether c supports all of r.
func (r *requiredCapabilities) satisfiedBy(c *Capabilities) bool {
	return all(r.extensions, c.hasExtension) && all(r.proposals, c.hasProposal) && all(r.credentials, c.hasCredential)
}

// all reports whether ok holds for each of vs.
func all[T any](vs []T, ok func(T) bool) bool {
	return !slices.ContainsFunc(vs, func(v T) bool { return !ok(v) })
}
