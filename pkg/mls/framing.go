package mls

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/crypto/cryptobyte"
)

// wireFormat is WireFormat, https://www.iana.org/assignments/mls/mls.xhtml#mls-wire-formats, RFC 9420 §6.
type wireFormat uint16

const (
	wirePublicMessage  wireFormat = 1
	wirePrivateMessage wireFormat = 2
	wireWelcome        wireFormat = 3
	wireGroupInfo      wireFormat = 4
	wireKeyPackage     wireFormat = 5
)

// contentType is ContentType, RFC 9420 §6.
type contentType uint8

const (
	contentApplication contentType = 1
	contentProposal    contentType = 2
	contentCommit      contentType = 3
)

// SenderType is SenderType, RFC 9420 §6.
type SenderType uint8

// The sender types of RFC 9420 §6.
const (
	SenderMember            SenderType = 1
	SenderExternal          SenderType = 2
	SenderNewMemberProposal SenderType = 3
	SenderNewMemberCommit   SenderType = 4
)

// Sender is Sender, RFC 9420 §6.
type Sender struct {
	Type SenderType
	Leaf uint32 // member: leaf index; external: index in external_senders; 0 for the others
}

// indexed reports whether Leaf is on the wire.
func (s *Sender) indexed() bool { return s.Type == SenderMember || s.Type == SenderExternal }

func (s *Sender) parse(in *cryptobyte.String) bool {
	return in.ReadUint8((*uint8)(&s.Type)) &&
		s.Type >= SenderMember && s.Type <= SenderNewMemberCommit &&
		(!s.indexed() || in.ReadUint32(&s.Leaf))
}

func (s *Sender) marshal(b *cryptobyte.Builder) {
	b.AddUint8(uint8(s.Type))
	if s.indexed() {
		b.AddUint32(s.Leaf)
	}
}

// framedContent is FramedContent, RFC 9420 §6. It must not change once it has been parsed or bytes has been called.
type framedContent struct {
	groupID           []byte
	epoch             uint64
	sender            Sender
	authenticatedData []byte
	contentType       contentType
	application       []byte    // application
	proposal          *Proposal // proposal
	commit            *commit   // commit

	raw []byte // the encoding, once known: a large commit is hashed and signed several times
}

// parse reads content whose encoding is a view, as parts of a commit are.
func (c *framedContent) parse(s *cryptobyte.String) bool {
	from := *s
	ok := readOpaque(s, &c.groupID) &&
		s.ReadUint64(&c.epoch) &&
		c.sender.parse(s) &&
		readOpaque(s, &c.authenticatedData) &&
		s.ReadUint8((*uint8)(&c.contentType)) &&
		c.parseBody(s)
	n := len(from) - len(*s)
	c.raw = from[:n:n]
	return ok
}

// parseBody reads the part that contentType selects.
func (c *framedContent) parseBody(s *cryptobyte.String) bool {
	switch c.contentType {
	case contentApplication:
		return readOpaque(s, &c.application)
	case contentProposal:
		c.proposal = new(Proposal)
		return c.proposal.parse(s)
	case contentCommit:
		c.commit = new(commit)
		return c.commit.parse(s)
	default:
		return false
	}
}

func (c *framedContent) marshal(b *cryptobyte.Builder) { b.AddBytes(c.bytes()) }

func (c *framedContent) marshalBody(b *cryptobyte.Builder) {
	switch c.contentType {
	case contentApplication:
		writeOpaque(b, c.application)
	case contentProposal:
		c.proposal.marshal(b)
	case contentCommit:
		c.commit.marshal(b)
	}
}

// bytes returns the encoding.
func (c *framedContent) bytes() []byte {
	if c.raw == nil {
		body := sized(len(c.application) + 4)
		c.marshalBody(body)
		c.encode(body.BytesOrPanic())
	}
	return c.raw
}

// sized returns a Builder with room for n bytes.
func sized(n int) *cryptobyte.Builder { return cryptobyte.NewBuilder(make([]byte, 0, n)) }

// encode makes the encoding from that of the body.
func (c *framedContent) encode(body []byte) {
	b := make([]byte, 0, len(c.groupID)+len(c.authenticatedData)+len(body)+22) // two lengths and fields of fixed length
	b = appendOpaque(b, c.groupID)
	b = binary.BigEndian.AppendUint64(b, c.epoch)
	b = append(b, byte(c.sender.Type))
	if c.sender.indexed() {
		b = binary.BigEndian.AppendUint32(b, c.sender.Leaf)
	}
	b = appendOpaque(b, c.authenticatedData)
	c.raw = append(append(b, byte(c.contentType)), body...)
}

// contentAuth is FramedContentAuthData, RFC 9420 §6.1. confirmationTag is there for a commit only.
type contentAuth struct {
	signature       []byte
	confirmationTag []byte
}

func (a *contentAuth) parse(s *cryptobyte.String, t contentType) bool {
	return readOpaque(s, &a.signature) && (t != contentCommit || readOpaque(s, &a.confirmationTag))
}

func (a *contentAuth) marshal(b *cryptobyte.Builder, t contentType) {
	writeOpaque(b, a.signature)
	if t == contentCommit {
		writeOpaque(b, a.confirmationTag)
	}
}

// authenticatedContent is AuthenticatedContent, RFC 9420 §6.
type authenticatedContent struct {
	wireFormat wireFormat
	content    framedContent
	auth       contentAuth
}

func (a *authenticatedContent) parse(s *cryptobyte.String) bool {
	return s.ReadUint16((*uint16)(&a.wireFormat)) &&
		(a.wireFormat == wirePublicMessage || a.wireFormat == wirePrivateMessage) &&
		a.content.parse(s) &&
		a.auth.parse(s, a.content.contentType)
}

func (a *authenticatedContent) marshal(b *cryptobyte.Builder) {
	b.AddUint16(uint16(a.wireFormat))
	a.content.marshal(b)
	a.auth.marshal(b, a.content.contentType)
}

// proposalRef is the ProposalRef of a proposal, RFC 9420 §5.2 and §12.4. encoded is its AuthenticatedContent.
func proposalRef(suite CipherSuite, encoded []byte) []byte {
	return suite.RefHash(labelProposalRef, encoded)
}

// tbs is FramedContentTBS, RFC 9420 §6.1, in parts. context is the encoding of the GroupContext of the message's epoch.
func (a *authenticatedContent) tbs(context []byte) (head, content, tail []byte) {
	head = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, mls10), uint16(a.wireFormat))
	switch a.content.sender.Type {
	case SenderMember, SenderNewMemberCommit:
		tail = context
	}
	return head, a.content.bytes(), tail
}

// membershipTag is membership_tag: the MAC of AuthenticatedContentTBM, RFC 9420 §6.2.
func (a *authenticatedContent) membershipTag(suite CipherSuite, key, context []byte) []byte {
	var auth cryptobyte.Builder
	a.auth.marshal(&auth, a.content.contentType)
	head, content, tail := a.tbs(context)
	return suite.mac(key, head, content, tail, auth.BytesOrPanic())
}

// sign fills in the signature.
func (a *authenticatedContent) sign(key SignatureKey, context []byte) {
	head, content, tail := a.tbs(context)
	a.auth.signature = key.signParts(labelFramedContent, head, content, tail)
}

// verify checks the signature under the sender's public key.
func (a *authenticatedContent) verify(suite CipherSuite, public, context []byte) error {
	head, content, tail := a.tbs(context)
	if !suite.verifyParts(public, labelFramedContent, a.auth.signature, head, content, tail) {
		return ErrUnauthenticated
	}
	return nil
}

// mlsMessage is MLSMessage, RFC 9420 §6. Exactly one of the pointers is set.
type mlsMessage struct {
	publicMessage  *publicMessage
	privateMessage *privateMessage
	welcome        *welcome
	groupInfo      *groupInfo
	keyPackage     *KeyPackage
}

// parseMLSMessage reads exactly one MLSMessage. It returns ErrMalformed, or ErrUnsupported for another version.
func parseMLSMessage(b []byte) (*mlsMessage, error) {
	if len(b) > maxMessage {
		return nil, ErrMalformed
	}
	m, s := new(mlsMessage), cryptobyte.String(bytes.Clone(b)) // of which parts of m are views
	var version protocolVersion
	if !s.ReadUint16(&version) {
		return nil, ErrMalformed
	}
	if version != mls10 {
		return nil, ErrUnsupported
	}
	if !m.parseBody(&s) || !s.Empty() {
		return nil, ErrMalformed
	}
	return m, nil
}

func (m *mlsMessage) parseBody(s *cryptobyte.String) bool {
	var format wireFormat
	if !s.ReadUint16((*uint16)(&format)) {
		return false
	}
	switch format {
	case wirePublicMessage:
		m.publicMessage = new(publicMessage)
		return m.publicMessage.parse(s)
	case wirePrivateMessage:
		m.privateMessage = new(privateMessage)
		return m.privateMessage.parse(s)
	case wireWelcome:
		m.welcome = new(welcome)
		return m.welcome.parse(s)
	case wireGroupInfo:
		m.groupInfo = new(groupInfo)
		return m.groupInfo.parse(s)
	case wireKeyPackage:
		m.keyPackage = new(KeyPackage)
		return m.keyPackage.parse(s) && m.keyPackage.version == mls10 // that of the MLSMessage, §10
	default:
		return false
	}
}

// body returns the wire format and the value that is set.
func (m *mlsMessage) body() (wireFormat, marshaler) {
	switch {
	case m.publicMessage != nil:
		return wirePublicMessage, m.publicMessage
	case m.privateMessage != nil:
		return wirePrivateMessage, m.privateMessage
	case m.welcome != nil:
		return wireWelcome, m.welcome
	case m.groupInfo != nil:
		return wireGroupInfo, m.groupInfo
	default:
		return wireKeyPackage, m.keyPackage
	}
}

func (m *mlsMessage) marshal() []byte {
	format, body := m.body()
	size := 0
	if p := m.privateMessage; p != nil {
		size = len(p.groupID) + len(p.authenticatedData) + len(p.encryptedSenderData) + len(p.ciphertext) + 32
	}
	b := sized(size)
	b.AddUint16(mls10)
	b.AddUint16(uint16(format))
	body.marshal(b)
	return b.BytesOrPanic()
}

// MessageInfo is what anyone can read from an MLSMessage without keys.
type MessageInfo struct {
	WireFormat  uint16 // 1 PublicMessage, 2 PrivateMessage, 3 Welcome, 4 GroupInfo, 5 KeyPackage
	GroupID     []byte // of PublicMessage, PrivateMessage and GroupInfo
	Epoch       uint64 // of the same
	ContentType uint8  // of PublicMessage and PrivateMessage: 1 application, 2 proposal, 3 commit
	Sender      Sender // of PublicMessage
}

// Peek reads an MLSMessage in full and returns its header; nothing is checked but the form. It returns ErrMalformed or
// ErrUnsupported.
func Peek(msg []byte) (*MessageInfo, error) {
	m, err := parseMLSMessage(msg)
	if err != nil {
		return nil, err
	}
	format, _ := m.body()
	info := &MessageInfo{WireFormat: uint16(format)}
	switch format {
	case wirePublicMessage:
		c := &m.publicMessage.content
		info.GroupID, info.Epoch, info.ContentType, info.Sender = c.groupID, c.epoch, uint8(c.contentType), c.sender
	case wirePrivateMessage:
		p := m.privateMessage
		info.GroupID, info.Epoch, info.ContentType = p.groupID, p.epoch, uint8(p.contentType)
	case wireGroupInfo:
		info.GroupID, info.Epoch = m.groupInfo.context.groupID, m.groupInfo.context.epoch
	}
	return info, nil
}

// checkGroup says whether a message is for the group and epoch of context. It returns a RuleError or an EpochError.
func (c *groupContext) checkGroup(groupID []byte, epoch uint64) error {
	if !bytes.Equal(c.groupID, groupID) {
		return broken("6", "a message is for its own group")
	}
	if c.epoch != epoch {
		return &EpochError{Have: c.epoch, Want: epoch}
	}
	return nil
}
