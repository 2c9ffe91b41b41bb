package mls

import (
	"crypto/subtle"

	"golang.org/x/crypto/cryptobyte"
)

// publicMessage is PublicMessage, RFC 9420 §6.2. membershipTag is there for a member's message only.
type publicMessage struct {
	content       framedContent
	auth          contentAuth
	membershipTag []byte
}

func (p *publicMessage) parse(s *cryptobyte.String) bool {
	return p.content.parse(s) &&
		p.auth.parse(s, p.content.contentType) &&
		(p.content.sender.Type != SenderMember || readOpaque(s, &p.membershipTag))
}

func (p *publicMessage) marshal(b *cryptobyte.Builder) {
	p.content.marshal(b)
	p.auth.marshal(b, p.content.contentType)
	if p.content.sender.Type == SenderMember {
		writeOpaque(b, p.membershipTag)
	}
}

// authenticated returns what the signature covers. It shares p's content.
func (p *publicMessage) authenticated() *authenticatedContent {
	return &authenticatedContent{wireFormat: wirePublicMessage, content: p.content, auth: p.auth}
}

// newPublicMessage wraps signed content. For a member's, membershipKey is the epoch's and context its GroupContext.
func newPublicMessage(suite CipherSuite, ac *authenticatedContent, membershipKey, context []byte) *publicMessage {
	p := &publicMessage{content: ac.content, auth: ac.auth}
	if ac.content.sender.Type == SenderMember {
		p.membershipTag = ac.membershipTag(suite, membershipKey, context)
	}
	return p
}

// verifyMembership checks membership_tag, which only a member can. A message of another kind of sender has none and passes.
func (p *publicMessage) verifyMembership(suite CipherSuite, membershipKey, context []byte) error {
	if p.content.sender.Type != SenderMember {
		return nil
	}
	if tag := p.authenticated().membershipTag(suite, membershipKey, context); subtle.ConstantTimeCompare(tag, p.membershipTag) != 1 {
		return ErrUnauthenticated
	}
	return nil
}
