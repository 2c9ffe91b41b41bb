package mls

import (
	"bytes"
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// ExternalSender is ExternalSender, RFC 9420 §12.1.8.1: somebody who may propose to a group without being in it. The application judges the
// credential, as it judges a member's, where it sees Change.Extensions.
type ExternalSender struct {
	SignatureKey []byte
	Credential   Credential
}

// ExternalSendersExtension returns the external_senders extension of a GroupContext. An ExternalSender is known by its place in the list.
func ExternalSendersExtension(senders ...ExternalSender) Extension {
	var b cryptobyte.Builder
	writeVector(&b, func(b *cryptobyte.Builder) {
		for i := range senders {
			senders[i].marshal(b)
		}
	})
	return Extension{Type: ExtensionExternalSenders, Data: b.BytesOrPanic()}
}

// ParseExternalSender reads exactly one ExternalSender. It returns ErrMalformed for anything else.
func ParseExternalSender(b []byte) (ExternalSender, error) {
	var e ExternalSender
	if err := parse(b, &e); err != nil {
		return ExternalSender{}, err
	}
	return e, nil
}

// Marshal returns the TLS encoding.
func (e ExternalSender) Marshal() []byte { return marshal(&e) }

func (e *ExternalSender) parse(s *cryptobyte.String) bool {
	return readOpaque(s, &e.SignatureKey) && e.Credential.parse(s)
}

func (e *ExternalSender) marshal(b *cryptobyte.Builder) {
	writeOpaque(b, e.SignatureKey)
	e.Credential.marshal(b)
}

// parseExternalSenders reads the content of an external_senders extension, RFC 9420 §12.1.8.1.
func parseExternalSenders(data []byte) ([]ExternalSender, error) {
	var senders []ExternalSender
	s := cryptobyte.String(data)
	ok := readVector(&s, maxExternalSenders, func(s *cryptobyte.String) bool {
		var e ExternalSender
		ok := e.parse(s)
		senders = append(senders, e)
		return ok
	})
	if !ok || !s.Empty() {
		return nil, ErrMalformed
	}
	return senders, nil
}

// ExternalSenders returns who may propose to the group from outside, in the order of the external_senders extension.
func (g *PublicGroup) ExternalSenders() []ExternalSender {
	data, ok := g.Extension(ExtensionExternalSenders)
	if !ok {
		return nil
	}
	senders, err := parseExternalSenders(data)
	if err != nil {
		return nil // a GroupContext with another content is refused
	}
	return senders
}

// ExternalProposal makes a proposal by the external sender whose key it is, RFC 9420 §12.1.8: Add, Remove, PreSharedKey, ReInit or
// GroupContextExtensions. The PublicMessage is for the group's members and for AddProposal; g is unchanged. The errors are those of AddProposal, and
// ErrUnsupported for a key of another suite.
func (g *PublicGroup) ExternalProposal(key SignatureKey, p Proposal, authenticatedData []byte) ([]byte, error) {
	if key.isZero() || key.k().suite != g.context.suite {
		return nil, ErrUnsupported
	}
	sender := slices.IndexFunc(g.ExternalSenders(), func(e ExternalSender) bool { return bytes.Equal(e.SignatureKey, key.Public()) })
	if sender < 0 {
		return nil, errNoExternalSender
	}
	p = p.completed(g.context.suite)
	if err := p.checkOwn(); err != nil {
		return nil, err
	}
	if err := p.checkMade(); err != nil {
		return nil, err
	}
	ac := outsideProposal(&g.context, Sender{Type: SenderExternal, Leaf: uint32(sender)}, &p, authenticatedData)
	ac.sign(key, nil)
	if _, _, err := g.addProposal(ac, noTime); err != nil {
		return nil, err
	}
	return ac.publicMessage(), nil
}

// NewMemberAdd makes a proposal by a client that is not in the group that it be added, RFC 9420 §12.1.8. The PublicMessage is for the group's members
// and their server, which take it if Rules.NewMemberProposals is set; once one of them has committed it, the client joins by Welcome with kp and
// secrets. The GroupInfo need not be signed by anybody: it is enough that it names the group and its epoch. The errors are ErrMalformed,
// ErrUnsupported, ErrUnauthenticated and a RuleError.
func (g *GroupInfo) NewMemberAdd(kp *KeyPackage, secrets *KeyPackageSecrets, authenticatedData []byte) ([]byte, error) {
	if err := checkOwn(kp, secrets); err != nil {
		return nil, err
	}
	if err := kp.Validate(noTime); err != nil {
		return nil, err
	}
	var context groupContext
	if err := parse(g.GroupContext, &context); err != nil {
		return nil, err
	}
	if kp.version != context.version || kp.suite != context.suite {
		return nil, errOtherSuite
	}
	if err := kp.leaf.checkGroup(context.extensions); err != nil {
		return nil, err
	}
	p := &Proposal{Type: ProposalAdd, KeyPackage: kp}
	ac := outsideProposal(&context, Sender{Type: SenderNewMemberProposal}, p, authenticatedData)
	ac.sign(secrets.SignatureKey, nil)
	return ac.publicMessage(), nil
}

// outsideProposal is a proposal of somebody who is not a member, not signed yet. The signature of such a one does not cover the GroupContext.
func outsideProposal(c *groupContext, sender Sender, p *Proposal, authenticatedData []byte) *authenticatedContent {
	return &authenticatedContent{wireFormat: wirePublicMessage, content: framedContent{
		groupID:           c.groupID,
		epoch:             c.epoch,
		sender:            sender,
		authenticatedData: bytes.Clone(authenticatedData),
		contentType:       contentProposal,
		proposal:          p,
	}}
}

// publicMessage is the MLSMessage of signed content that has no membership tag, since its sender is not a member.
func (a *authenticatedContent) publicMessage() []byte {
	return (&mlsMessage{publicMessage: &publicMessage{content: a.content, auth: a.auth}}).marshal()
}
