package mls

import (
	"encoding/binary"
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// reuseGuardLen is the length of SenderData.reuse_guard, RFC 9420 §6.3.1.
const reuseGuardLen = 4

// privateMessage is PrivateMessage, RFC 9420 §6.3.
type privateMessage struct {
	groupID             []byte
	epoch               uint64
	contentType         contentType
	authenticatedData   []byte
	encryptedSenderData []byte
	ciphertext          []byte
}

// parse reads a message as views.
func (p *privateMessage) parse(s *cryptobyte.String) bool {
	return readView(s, &p.groupID) &&
		s.ReadUint64(&p.epoch) &&
		s.ReadUint8((*uint8)(&p.contentType)) &&
		p.contentType >= contentApplication && p.contentType <= contentCommit &&
		readView(s, &p.authenticatedData) &&
		readView(s, &p.encryptedSenderData) &&
		readView(s, &p.ciphertext)
}

func (p *privateMessage) marshal(b *cryptobyte.Builder) {
	writeOpaque(b, p.groupID)
	b.AddUint64(p.epoch)
	b.AddUint8(uint8(p.contentType))
	writeOpaque(b, p.authenticatedData)
	writeOpaque(b, p.encryptedSenderData)
	writeOpaque(b, p.ciphertext)
}

// senderDataAAD is SenderDataAAD, RFC 9420 §6.3.2.
func (p *privateMessage) senderDataAAD() []byte { return p.appendHead(0) }

// contentAAD is PrivateContentAAD, RFC 9420 §6.3.1.
func (p *privateMessage) contentAAD() []byte {
	return appendOpaque(p.appendHead(len(p.authenticatedData)+4), p.authenticatedData)
}

// appendHead returns group, epoch and content type, with room for more bytes.
func (p *privateMessage) appendHead(more int) []byte {
	b := appendOpaque(make([]byte, 0, len(p.groupID)+13+more), p.groupID)
	return append(binary.BigEndian.AppendUint64(b, p.epoch), byte(p.contentType))
}

// senderDataKey derives the key and nonce that seal the sender data, RFC 9420 §6.3.2.
func senderDataKey(suite CipherSuite, senderDataSecret, ciphertext []byte) messageKey {
	sample := ciphertext[:min(len(ciphertext), suite.HashLen())]
	return deriveMessageKey(suite, senderDataSecret, sample)
}

// senderData is SenderData, RFC 9420 §6.3.2.
type senderData struct {
	leaf       uint32
	generation uint32
	reuseGuard [reuseGuardLen]byte
}

func (d *senderData) parse(s *cryptobyte.String) bool {
	return s.ReadUint32(&d.leaf) && s.ReadUint32(&d.generation) && s.CopyBytes(d.reuseGuard[:])
}

func (d *senderData) marshal(b *cryptobyte.Builder) {
	b.AddUint32(d.leaf)
	b.AddUint32(d.generation)
	b.AddBytes(d.reuseGuard[:])
}

// guarded returns nonce with the reuse guard worked in, RFC 9420 §6.3.1.
func (d *senderData) guarded(nonce []byte) []byte {
	nonce = slices.Clone(nonce)
	for i, g := range d.reuseGuard {
		nonce[i] ^= g
	}
	return nonce
}

// openSenderData opens the sender data.
func (p *privateMessage) openSenderData(suite CipherSuite, senderDataSecret []byte) (*senderData, error) {
	k := senderDataKey(suite, senderDataSecret, p.ciphertext)
	defer k.erase()
	plain, err := suite.Open(k.key, k.nonce, p.senderDataAAD(), p.encryptedSenderData)
	if err != nil {
		return nil, ErrUnauthenticated
	}
	d := new(senderData)
	if err := parse(plain, d); err != nil {
		return nil, err
	}
	return d, nil
}

// openContent opens the content under the message key that d names. The signature is not checked.
func (p *privateMessage) openContent(suite CipherSuite, d *senderData, k messageKey) (*authenticatedContent, error) {
	plain, err := suite.Open(k.key, d.guarded(k.nonce), p.contentAAD(), p.ciphertext)
	if err != nil {
		return nil, ErrUnauthenticated
	}
	ac := &authenticatedContent{
		wireFormat: wirePrivateMessage,
		content: framedContent{
			groupID:           p.groupID,
			epoch:             p.epoch,
			sender:            Sender{Type: SenderMember, Leaf: d.leaf},
			authenticatedData: p.authenticatedData,
			contentType:       p.contentType,
		},
	}
	s := cryptobyte.String(plain)
	ok := ac.content.parseBody(&s)
	ac.content.encode(plain[:len(plain)-len(s)])
	if !ok || !ac.auth.parse(&s, p.contentType) || !allZero(s) {
		return nil, ErrMalformed
	}
	return ac, nil
}

// allZero reports whether padding holds only zeros, as RFC 9420 §6.3.1 demands.
func allZero(padding []byte) bool {
	return !slices.ContainsFunc(padding, func(b byte) bool { return b != 0 })
}

// privateKeys are what sealing a PrivateMessage needs besides its content.
type privateKeys struct {
	senderData []byte // sender_data_secret
	generation uint32
	key        messageKey // of that generation; used for this one message
}

// sealPrivate makes a PrivateMessage of a member's signed content. padTo maps the length of the PrivateMessageContent without
// padding to the one with it; nil or a smaller result means none.
func sealPrivate(suite CipherSuite, ac *authenticatedContent, k privateKeys, padTo func(n int) int) *privateMessage {
	c := &ac.content
	p := &privateMessage{
		groupID:           c.groupID,
		epoch:             c.epoch,
		contentType:       c.contentType,
		authenticatedData: c.authenticatedData,
	}
	d := senderData{leaf: c.sender.Leaf, generation: k.generation, reuseGuard: [reuseGuardLen]byte(randomBytes(reuseGuardLen))}
	plain := padded(ac, padTo)
	p.ciphertext = suite.Seal(k.key.key, d.guarded(k.key.nonce), p.contentAAD(), plain)
	sd := senderDataKey(suite, k.senderData, p.ciphertext)
	defer sd.erase()
	p.encryptedSenderData = suite.Seal(sd.key, sd.nonce, p.senderDataAAD(), marshal(&d))
	return p
}

// padded is PrivateMessageContent, RFC 9420 §6.3.1.
func padded(ac *authenticatedContent, padTo func(n int) int) []byte {
	b := sized(len(ac.content.application) + len(ac.auth.signature) + 16)
	ac.content.marshalBody(b)
	ac.auth.marshal(b, ac.content.contentType)
	plain := b.BytesOrPanic()
	if padTo == nil {
		return plain
	}
	n := padTo(len(plain))
	return append(plain, make([]byte, max(0, min(n, maxVector/2)-len(plain)))...)
}
