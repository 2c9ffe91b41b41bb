package mls

// CipherSuite is a value of the registry https://www.iana.org/assignments/mls/mls.xhtml#mls-ciphersuites.
type CipherSuite uint16

// The cipher suites of RFC 9420 §17.1: KEM, AEAD, hash and signature scheme. The registry's names begin with MLS, the level
// of security and DHKEM besides.
const (
	X25519_AES128GCM_SHA256_Ed25519        CipherSuite = 0x0001
	P256_AES128GCM_SHA256_P256             CipherSuite = 0x0002
	X25519_CHACHA20POLY1305_SHA256_Ed25519 CipherSuite = 0x0003
	X448_AES256GCM_SHA512_Ed448            CipherSuite = 0x0004
	P521_AES256GCM_SHA512_P521             CipherSuite = 0x0005
	X448_CHACHA20POLY1305_SHA512_Ed448     CipherSuite = 0x0006
	P384_AES256GCM_SHA384_P384             CipherSuite = 0x0007
)

// ExtensionType is a value of the registry https://www.iana.org/assignments/mls/mls.xhtml#mls-extension-types.
type ExtensionType uint16

// The extension types that the package itself reads or that every deployment meets, RFC 9420 §17.3.
const (
	ExtensionRatchetTree          ExtensionType = 0x0002
	ExtensionRequiredCapabilities ExtensionType = 0x0003
	ExtensionExternalPub          ExtensionType = 0x0004
	ExtensionExternalSenders      ExtensionType = 0x0005
	ExtensionLastResort           ExtensionType = 0x000A

	extensionApplicationID ExtensionType = 0x0001
)

// ProposalType is a value of the registry https://www.iana.org/assignments/mls/mls.xhtml#mls-proposal-types.
type ProposalType uint16

// The proposal types of RFC 9420 §17.4 and self_remove of the MLS extensions document.
const (
	ProposalAdd                    ProposalType = 0x0001
	ProposalUpdate                 ProposalType = 0x0002
	ProposalRemove                 ProposalType = 0x0003
	ProposalPSK                    ProposalType = 0x0004
	ProposalReInit                 ProposalType = 0x0005
	ProposalExternalInit           ProposalType = 0x0006
	ProposalGroupContextExtensions ProposalType = 0x0007
	ProposalSelfRemove             ProposalType = 0x000A
)

// CredentialType is a value of the registry https://www.iana.org/assignments/mls/mls.xhtml#mls-credential-types.
type CredentialType uint16

// The credential types of RFC 9420 §17.5.
const (
	CredentialBasic CredentialType = 0x0001
	CredentialX509  CredentialType = 0x0002
)

// LeafSource says how a leaf node came into the tree: LeafNodeSource, RFC 9420 §7.2.
type LeafSource uint8

// The leaf node sources of RFC 9420 §7.2.
const (
	LeafFromKeyPackage LeafSource = 1
	LeafFromUpdate     LeafSource = 2
	LeafFromCommit     LeafSource = 3
)

// protocolVersion is ProtocolVersion, RFC 9420 §6.
type protocolVersion = uint16

// mls10 is the one version that exists.
const mls10 protocolVersion = 1

// isDefault reports whether t is one of the extension types that every implementation supports without listing them in
// its capabilities, RFC 9420 §7.2.
func (t ExtensionType) isDefault() bool {
	return t >= extensionApplicationID && t <= ExtensionExternalSenders
}

// isDefault reports whether t is one of the proposal types that every implementation supports without listing them in
// its capabilities, RFC 9420 §7.2.
func (t ProposalType) isDefault() bool {
	return t >= ProposalAdd && t <= ProposalGroupContextExtensions
}
