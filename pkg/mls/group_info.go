package mls

import (
	"bytes"

	"golang.org/x/crypto/cryptobyte"
)

// groupInfo is GroupInfo, RFC 9420 §12.4.3.
type groupInfo struct {
	context         groupContext
	extensions      []Extension
	confirmationTag []byte
	signer          uint32
	signature       []byte
}

func (g *groupInfo) parse(s *cryptobyte.String) bool {
	return g.context.parse(s) &&
		parseExtensions(s, &g.extensions) &&
		readOpaque(s, &g.confirmationTag) &&
		s.ReadUint32(&g.signer) &&
		readOpaque(s, &g.signature)
}

func (g *groupInfo) marshal(b *cryptobyte.Builder) {
	b.AddBytes(g.tbs())
	writeOpaque(b, g.signature)
}

// tbs is GroupInfoTBS, RFC 9420 §12.4.3.
func (g *groupInfo) tbs() []byte {
	var b cryptobyte.Builder
	g.context.marshal(&b)
	marshalExtensions(&b, g.extensions)
	writeOpaque(&b, g.confirmationTag)
	b.AddUint32(g.signer)
	return b.BytesOrPanic()
}

func (g *groupInfo) sign(key SignatureKey) {
	g.signature = key.SignWithLabel(labelGroupInfo, g.tbs())
}

// verify checks the signature under the signer's leaf.
func (g *groupInfo) verify(signer *LeafNode) error {
	if !g.context.suite.VerifyWithLabel(signer.signatureKey, labelGroupInfo, g.tbs(), g.signature) {
		return ErrUnauthenticated
	}
	return nil
}

// parseGroupInfo reads an MLSMessage that holds a GroupInfo, or a bare GroupInfo. A bare one of cipher suite 4 begins as an MLSMessage with wire format 4
// does, and is none for all that: what follows is not a whole GroupInfo.
func parseGroupInfo(b []byte) (*groupInfo, error) {
	g := new(groupInfo)
	framed, ok := bytes.CutPrefix(b, []byte{0, byte(mls10), 0, byte(wireGroupInfo)})
	if !ok || parse(framed, g) != nil {
		g = new(groupInfo)
		if err := parse(b, g); err != nil {
			return nil, err
		}
	}
	if err := g.context.supported(); err != nil {
		return nil, err
	}
	return g, nil
}

// GroupInfo is a parsed GroupInfo, RFC 9420 §12.4.3. It is read only.
type GroupInfo struct {
	Signer          uint32 // leaf index
	Suite           CipherSuite
	GroupID         []byte
	Epoch           uint64
	Extensions      []Extension // of the GroupInfo
	GroupContext    []byte      // TLS encoding
	ConfirmationTag []byte
	Raw             []byte // the bare GroupInfo
	// Predecessor is set by Join, of a group that succeeds one which a ReInit has ended (usage PSKReInit) or is a branch of one (PSKBranch): the PSK that
	// proves it, which names that group.
	Predecessor *PSKID
}

// ParseGroupInfo reads a GroupInfo, bare or in an MLSMessage. The signature is not checked. It returns ErrMalformed or
// ErrUnsupported.
func ParseGroupInfo(b []byte) (*GroupInfo, error) {
	g, err := parseGroupInfo(b)
	if err != nil {
		return nil, err
	}
	return g.public(), nil
}

func (g *groupInfo) public() *GroupInfo {
	return &GroupInfo{
		Signer:          g.signer,
		Suite:           g.context.suite,
		GroupID:         g.context.groupID,
		Epoch:           g.context.epoch,
		Extensions:      g.extensions,
		GroupContext:    marshal(&g.context),
		ConfirmationTag: g.confirmationTag,
		Raw:             marshal(g),
	}
}

// Extension returns the data of the GroupInfo's extension of type t.
func (g *GroupInfo) Extension(t ExtensionType) ([]byte, bool) { return findExtension(g.Extensions, t) }

// externalPub is the content of the external_pub extension, RFC 9420 §12.4.3.2.
func parseExternalPub(data []byte) ([]byte, error) {
	s := cryptobyte.String(data)
	var key []byte
	if !readOpaque(&s, &key) || !s.Empty() {
		return nil, ErrMalformed
	}
	return key, nil
}

func marshalExternalPub(key []byte) []byte {
	var b cryptobyte.Builder
	writeOpaque(&b, key)
	return b.BytesOrPanic()
}
