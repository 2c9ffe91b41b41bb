package mls

import (
	"bytes"
	"encoding/binary"
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

	// raw is the encoding, of which the fields above are views, if the leaf was parsed or signed: it is hashed, signed and written many
	// times. Whoever changes a field does so on a clone, which has none.
	raw []byte
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
func (l *LeafNode) Marshal() []byte { return bytes.Clone(l.encoded()) }

// encoded returns the encoding. It is the leaf's own.
func (l *LeafNode) encoded() []byte {
	if l.raw != nil {
		return l.raw
	}
	return appendOpaque(l.unsigned(), l.signature)
}

// parse reads a leaf as views of a copy of its encoding.
func (l *LeafNode) parse(s *cryptobyte.String) bool {
	from := *s
	if !skipLeafNode(s) {
		return false
	}
	l.raw = bytes.Clone(from[:len(from)-len(*s)])
	raw := cryptobyte.String(l.raw)
	return l.parseFields(&raw) && raw.Empty()
}

func (l *LeafNode) parseFields(s *cryptobyte.String) bool {
	return readView(s, &l.encryptionKey) &&
		readView(s, &l.signatureKey) &&
		l.credential.parseView(s) &&
		l.capabilities.parse(s) &&
		s.ReadUint8((*uint8)(&l.source)) &&
		l.parseSource(s) &&
		parseExtensionViews(s, &l.extensions) &&
		readView(s, &l.signature)
}

func (l *LeafNode) parseSource(s *cryptobyte.String) bool {
	switch l.source {
	case LeafFromKeyPackage:
		return s.ReadUint64(&l.lifetime.NotBefore) && s.ReadUint64(&l.lifetime.NotAfter)
	case LeafFromUpdate:
		return true
	case LeafFromCommit:
		return readView(s, &l.parentHash)
	}
	return false
}

// skipLeafNode passes over a leaf. What it passes over need not be one; all leaves are passed over.
func skipLeafNode(s *cryptobyte.String) bool {
	var source uint8
	if !skipVectors(s, 2) || // keys
		!s.Skip(2) || !skipVectors(s, 1) || // credential
		!skipVectors(s, 5) || // capabilities
		!s.ReadUint8(&source) {
		return false
	}
	switch LeafSource(source) {
	case LeafFromKeyPackage:
		if !s.Skip(16) {
			return false
		}
	case LeafFromCommit:
		if !skipVectors(s, 1) {
			return false
		}
	}
	return skipVectors(s, 2) // extensions, signature
}

func (l *LeafNode) marshal(b *cryptobyte.Builder) { b.AddBytes(l.encoded()) }

// unsigned returns what LeafNode and LeafNodeTBS have in common. Its capacity is its own.
func (l *LeafNode) unsigned() []byte {
	if l.raw != nil {
		n := len(l.raw) - len(l.signature) - varintLen(len(l.signature))
		return l.raw[:n:n]
	}
	var b cryptobyte.Builder
	writeOpaque(&b, l.encryptionKey)
	writeOpaque(&b, l.signatureKey)
	l.credential.marshal(&b)
	l.capabilities.marshal(&b)
	b.AddUint8(uint8(l.source))
	switch l.source {
	case LeafFromKeyPackage:
		b.AddUint64(l.lifetime.NotBefore)
		b.AddUint64(l.lifetime.NotAfter)
	case LeafFromCommit:
		writeOpaque(&b, l.parentHash)
	}
	marshalExtensions(&b, l.extensions)
	return b.BytesOrPanic()
}

// place is what LeafNodeTBS has besides: where the leaf is. A leaf of source key_package is not tied to a group.
func (l *LeafNode) place(groupID []byte, index leafIndex) []byte {
	if l.source == LeafFromKeyPackage {
		return nil
	}
	return binary.BigEndian.AppendUint32(appendOpaque(nil, groupID), uint32(index))
}

// sign sets the signature. It is the last step of making a leaf.
func (l *LeafNode) sign(key SignatureKey, groupID []byte, index leafIndex) {
	l.raw = nil
	unsigned := l.unsigned()
	signature := key.signParts(labelLeafNode, unsigned, l.place(groupID, index))
	l.raw = appendOpaque(unsigned, signature)
	l.signature = l.raw[len(l.raw)-len(signature):]
}

// verify reports whether the signature is valid for the place in the group.
func (l *LeafNode) verify(cs CipherSuite, groupID []byte, index leafIndex) bool {
	return cs.verifyParts(l.signatureKey, labelLeafNode, l.signature, l.unsigned(), l.place(groupID, index))
}

// clone returns a copy whose fields can be replaced, though not written into.
func (l *LeafNode) clone() *LeafNode {
	c := *l
	c.raw = nil
	return &c
}

// equal reports whether both leaves have the same encoding.
func (l *LeafNode) equal(o *LeafNode) bool { return bytes.Equal(l.encoded(), o.encoded()) }

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
