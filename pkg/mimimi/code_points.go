package mimimi

import "mimimi.example/pkg/mls"

// Suite is the one cipher suite of version 1.0 (§0).
const Suite = mls.X25519_AES128GCM_SHA256_Ed25519

// Version is the protocol version that policies, requests and documents carry.
const Version = 1

// Code points (§2), from the private-use ranges of https://www.iana.org/assignments/mls/mls.xhtml.
const (
	CredentialPseudonymous      mls.CredentialType = 0xF1A0
	CredentialClientCertificate mls.CredentialType = 0xF1A5
	ExtensionEncryptedQueueID   mls.ExtensionType  = 0xF1A1
	ExtensionIdentityLinks      mls.ExtensionType  = 0xF1A2
	ExtensionGroup              mls.ExtensionType  = 0xF1A3 // mimimi_group
	ExtensionEpochSenderKey     mls.ExtensionType  = 0xF1A6
	ProposalIdentityLinkUpdate  mls.ProposalType   = 0xF1A4
)

const mls10 = 1 // ProtocolVersion mls10, RFC 9420 §6

// Capabilities is the one vector that every client of version 1.0 sends, in this order and without GREASE (§2): a client that
// differed would be recognised in all its groups.
func Capabilities() mls.Capabilities {
	return mls.Capabilities{
		Versions:     []uint16{mls10},
		CipherSuites: []mls.CipherSuite{Suite},
		Extensions:   requiredExtensions(),
		Proposals:    requiredProposals(),
		Credentials:  requiredCredentials(),
	}
}

func requiredExtensions() []mls.ExtensionType {
	return []mls.ExtensionType{
		ExtensionEncryptedQueueID, ExtensionIdentityLinks, ExtensionGroup, ExtensionEpochSenderKey, mls.ExtensionLastResort,
	}
}

func requiredProposals() []mls.ProposalType {
	return []mls.ProposalType{ProposalIdentityLinkUpdate, mls.ProposalSelfRemove}
}

func requiredCredentials() []mls.CredentialType {
	return []mls.CredentialType{CredentialPseudonymous, CredentialClientCertificate}
}

// RequiredCapabilities is the GroupContext's required_capabilities extension: all of §2's table, in the order of Capabilities.
// Its data is RequiredCapabilities, RFC 9420 §11.1.
func RequiredCapabilities() mls.Extension {
	data := encode(func(b *builder) {
		addCodePoints(b, requiredExtensions())
		addCodePoints(b, requiredProposals())
		addCodePoints(b, requiredCredentials())
	})
	return mls.Extension{Type: mls.ExtensionRequiredCapabilities, Data: data}
}

func addCodePoints[T ~uint16](b *builder, points []T) {
	addVector(b, encode(func(b *builder) {
		for _, p := range points {
			b.AddUint16(uint16(p))
		}
	}))
}
