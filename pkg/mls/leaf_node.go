package mls

import (
	"bytes"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

const labelLeafNode = "LeafNodeTBS"

// Lifetime is Lifetime, RFC 9420 §7.2, in seconds since 1970-01-01T00:00:00Z, both ends included.
type Lifetime struct{ NotBefore, NotAfter uint64 }

// contains reports whether now lies in the lifetime.
func (l Lifetime) contains(now time.Time) bool {
	s := now.Unix()
	return s >= 0 && l.NotBefore <= uint64(s) && uint64(s) <= l.NotAfter
}

// LeafNode is LeafNode, RFC 9420 §7.2: one client's appearance in a group. It is read only, and so is whatever its
// accessors return.
type LeafNode struct {
	encryptionKey []byte
	signatureKey  []byte
	credential    Credential
	capabilities  Capabilities
	source        LeafSource
	lifetime      Lifetime // key_package
	parentHash    []byte   // commit
	extensions    []Extension
	signature     []byte
}

// Credential returns the credential.
func (l *LeafNode) Credential() Credential { return l.credential }

// SignatureKey returns the public signature key.
func (l *LeafNode) SignatureKey() []byte { return l.signatureKey }

// EncryptionKey returns the public HPKE key.
func (l *LeafNode) EncryptionKey() []byte { return l.encryptionKey }

// Capabilities returns the capabilities.
func (l *LeafNode) Capabilities() Capabilities { return l.capabilities }

// Source says how the leaf came into the tree.
func (l *LeafNode) Source() LeafSource { return l.source }

// Lifetime returns the lifetime, which only a leaf of source key_package has.
func (l *LeafNode) Lifetime() (Lifetime, bool) {
	return l.lifetime, l.source == LeafFromKeyPackage
}

// Extension returns the data of the extension of type t.
func (l *LeafNode) Extension(t ExtensionType) ([]byte, bool) { return findExtension(l.extensions, t) }

// Extensions returns all extensions in order.
func (l *LeafNode) Extensions() []Extension { return l.extensions }

// Marshal returns the TLS encoding.
func (l *LeafNode) Marshal() []byte { return marshal(l) }

func (l *LeafNode) parse(s *cryptobyte.String) bool {
	return readOpaque(s, &l.encryptionKey) &&
		readOpaque(s, &l.signatureKey) &&
		l.credential.parse(s) &&
		l.capabilities.parse(s) &&
		s.ReadUint8((*uint8)(&l.source)) &&
		l.parseSource(s) &&
		parseExtensions(s, &l.extensions) &&
		readOpaque(s, &l.signature)
}

func (l *LeafNode) parseSource(s *cryptobyte.String) bool {
	switch l.source {
	case LeafFromKeyPackage:
		return s.ReadUint64(&l.lifetime.NotBefore) && s.ReadUint64(&l.lifetime.NotAfter)
	case LeafFromUpdate:
		return true
	case LeafFromCommit:
		return readOpaque(s, &l.parentHash)
	}
	return false
}

func (l *LeafNode) marshal(b *cryptobyte.Builder) {
	l.marshalUnsigned(b)
	writeOpaque(b, l.signature)
}

// marshalUnsigned writes what LeafNode and LeafNodeTBS have in common.
func (l *LeafNode) marshalUnsigned(b *cryptobyte.Builder) {
	writeOpaque(b, l.encryptionKey)
	writeOpaque(b, l.signatureKey)
	l.credential.marshal(b)
	l.capabilities.marshal(b)
	b.AddUint8(uint8(l.source))
	switch l.source {
	case LeafFromKeyPackage:
		b.AddUint64(l.lifetime.NotBefore)
		b.AddUint64(l.lifetime.NotAfter)
	case LeafFromCommit:
		writeOpaque(b, l.parentHash)
	}
	marshalExtensions(b, l.extensions)
}

// toBeSigned is LeafNodeTBS. A leaf of source key_package is not tied to a group: groupID and index do not enter.
func (l *LeafNode) toBeSigned(groupID []byte, index leafIndex) []byte {
	var b cryptobyte.Builder
	l.marshalUnsigned(&b)
	if l.source != LeafFromKeyPackage {
		writeOpaque(&b, groupID)
		b.AddUint32(uint32(index))
	}
	return b.BytesOrPanic()
}

// sign sets the signature. It is the last step of making a leaf.
func (l *LeafNode) sign(key SignatureKey, groupID []byte, index leafIndex) {
	l.signature = key.SignWithLabel(labelLeafNode, l.toBeSigned(groupID, index))
}

// verify reports whether the signature is valid for the place in the group.
func (l *LeafNode) verify(cs CipherSuite, groupID []byte, index leafIndex) bool {
	return cs.VerifyWithLabel(l.signatureKey, labelLeafNode, l.toBeSigned(groupID, index), l.signature)
}

// clone returns a copy whose fields can be replaced, though not written into.
func (l *LeafNode) clone() *LeafNode {
	c := *l
	return &c
}

// equal reports whether both leaves have the same encoding.
func (l *LeafNode) equal(o *LeafNode) bool { return bytes.Equal(l.Marshal(), o.Marshal()) }

// checkSelf checks the rules of RFC 9420 §7.2 and §7.3 that need nothing but the leaf and the suite. The signature is
// not among them.
func (l *LeafNode) checkSelf(cs CipherSuite) error {
	switch c := &l.capabilities; {
	case !slices.Contains(c.Versions, mls10):
		return broken("7.2", "capabilities list the version in use")
	case !slices.Contains(c.CipherSuites, cs):
		return broken("7.2", "capabilities list the cipher suite in use")
	case !c.hasCredential(l.credential.Type):
		return broken("7.2", "capabilities list the leaf's credential type")
	case slices.ContainsFunc(l.extensions, func(e Extension) bool { return !c.hasExtension(e.Type) }):
		return broken("7.3", "capabilities list the leaf's extensions")
	case !cs.validHPKEPublicKey(l.encryptionKey):
		return broken("7.3", "the encryption key is a key of the suite")
	case l.credential.Type == CredentialX509 && !l.credential.certifies(cs, l.signatureKey):
		return broken("5.3", "the end-entity certificate is one of the leaf's signature key")
	}
	return nil
}

// checkGroup checks that the leaf supports what the group needs: groupRequirements for one leaf.
func (l *LeafNode) checkGroup(groupExtensions []Extension) error {
	r, err := newGroupRequirements(groupExtensions)
	if err != nil {
		return err
	}
	return r.check(l)
}

// groupRequirements are what every member must support, RFC 9420 §7.3 and §13.4: required_capabilities, and every extension of the
// GroupContext.
type groupRequirements struct {
	extensions []Extension
	required   requiredCapabilities
}

func newGroupRequirements(groupExtensions []Extension) (*groupRequirements, error) {
	r := &groupRequirements{extensions: groupExtensions}
	if data, ok := findExtension(groupExtensions, ExtensionRequiredCapabilities); ok {
		required, err := parseRequiredCapabilities(data)
		if err != nil {
			return nil, err
		}
		r.required = *required
	}
	return r, nil
}

func (r *groupRequirements) check(l *LeafNode) error {
	for _, e := range r.extensions {
		if !l.capabilities.hasExtension(e.Type) {
			return broken("13.4", "a member supports the extensions of the GroupContext")
		}
	}
	if !r.required.satisfiedBy(&l.capabilities) {
		return broken("7.3", "a member has the required capabilities")
	}
	return nil
}
