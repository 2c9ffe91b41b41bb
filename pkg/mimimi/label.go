package mimimi

import (
	"crypto/sha256"

	"mimimi.example/pkg/mls"
)

// label separates one use of a key or hash from every other (§0). All labels stand in this table and are unique; nothing else in
// the package makes one, so that no two structs can ever be taken for each other.
type label string

// Labels of structs: each such struct begins with its label. A struct that is signed is signed under the same label.
const (
	labelClientCertificate    label = "MIMIMI 1.0 ClientCertificate"      // §3, signed
	labelCertificateHash      label = "MIMIMI 1.0 ClientCertificate hash" // §3, hashed
	labelRevocationList       label = "MIMIMI 1.0 RevocationList"         // §3, signed
	labelFingerprint          label = "MIMIMI 1.0 Fingerprint"            // §3, hashed
	labelIdentityLink         label = "MIMIMI 1.0 IdentityLink"           // §4, AAD
	labelConnectionRecord     label = "MIMIMI 1.0 ConnectionRecord"       // §5, signed
	labelConnectionRecordHash label = "MIMIMI 1.0 ConnectionRecord hash"  // §5, hashed
	labelConnectionRequest    label = "MIMIMI 1.0 ConnectionRequest"      // §5, signed
	labelConnectionRequestAAD label = "MIMIMI 1.0 ConnectionRequest seal" // §5, AAD
	labelConnectionToken      label = "MIMIMI 1.0 ConnectionToken"        // §8, hashed
	labelJoinToken            label = "MIMIMI 1.0 JoinToken"              // §7, hashed
	labelLinkUpdate           label = "MIMIMI 1.0 IdentityLinkUpdate"     // §6, AAD
	labelSealedLinksInfo      label = "MIMIMI 1.0 SealedLinks info"       // §7, HPKE info
	labelSealedLinks          label = "MIMIMI 1.0 SealedLinks"            // §7, AAD
	labelQueueID              label = "MIMIMI 1.0 EncryptedQueueID"       // §10, AAD
	labelEpochMessage         label = "MIMIMI 1.0 EpochMessage"           // §9, signed
	labelEpochRead            label = "MIMIMI 1.0 ReadRequest epoch"      // §9, signed by the epoch's key
	labelLeafRead             label = "MIMIMI 1.0 ReadRequest leaf"       // §9, signed by a leaf's key
	labelResyncProof          label = "MIMIMI 1.0 ResyncProof"            // §7, signed by the old leaf's key
	labelBarredPseudonym      label = "MIMIMI 1.0 BarredPseudonym"        // §9, hashed
	labelStoreRequest         label = "MIMIMI 1.0 StoreRequest"           // §8, signed
	labelStoreOwner           label = "MIMIMI 1.0 StoreOwner"             // §8, hashed
	labelKeyPackageBasis      label = "MIMIMI 1.0 KeyPackageBasis"        // §8, hashed; never leaves its client
	labelQueueRequest         label = "MIMIMI 1.0 QueueRequest"           // §10, signed
	labelAccountRequest       label = "MIMIMI 1.0 AccountRequest"         // §12, signed
	labelKeyDocument          label = "MIMIMI 1.0 KeyDocument"            // §12, signed
	labelLinkOffer            label = "MIMIMI 1.0 LinkOffer"              // §5
	labelLinkCode             label = "MIMIMI 1.0 LinkOffer code"         // §5, hashed
	labelLinkAnswer           label = "MIMIMI 1.0 LinkAnswer"             // §5, AAD
	labelLinkPackage          label = "MIMIMI 1.0 LinkPackage"            // §5, AAD
	labelTokenContext         label = "MIMIMI 1.0 TokenContext"           // §11, hashed
	labelTokenSeed            label = "MIMIMI 1.0 TokenSeed"              // §11, hashed
	labelTokenBlind           label = "MIMIMI 1.0 TokenBlind"             // §11, expanded by SHAKE256
	labelTokenSpent           label = "MIMIMI 1.0 TokenSpent"             // §11, hashed
)

// Labels of RFC 9420's own functions, which carry them and prefix them (§0).
const (
	labelPseudonymousCredential label = "MIMIMI 1.0 PseudonymousCredential" // §4, SignWithLabel
	labelIdentityLinkKey        label = "IdentityLinkKey"                   // §4, ExpandWithLabel
	labelLinkAEADKey            label = "key"                               // §4, ExpandWithLabel
	labelLinkAEADNonce          label = "nonce"                             // §4, ExpandWithLabel
	labelLinkCommit             label = "commit"                            // §4, ExpandWithLabel
	labelJoin                   label = "join"                              // §7, ExpandWithLabel
	labelLinkExporter           label = "MIMIMI 1.0 identity link"          // §6, MLS-Exporter
	labelEpochSenderExporter    label = "MIMIMI 1.0 epoch sender"           // §9, MLS-Exporter
)

// labelled encodes a struct that begins with its label.
func labelled(l label, rest func(b *builder)) []byte {
	return encode(func(b *builder) {
		addVector(b, []byte(l))
		rest(b)
	})
}

// readLabel reads the label of a labelled struct and compares it.
func readLabel(s *input, l label) bool {
	var got []byte
	return readVector(s, &got) && string(got) == string(l)
}

// hashOf is SHA-256 over a labelled struct.
func hashOf(l label, rest func(b *builder)) [32]byte { return sha256.Sum256(labelled(l, rest)) }

func sign(k mls.SignatureKey, l label, content []byte) []byte {
	return k.SignWithLabel(string(l), content)
}

// verify says ErrUnauthenticated unless sig is pub's signature over content.
func verify(pub []byte, l label, content, sig []byte) error {
	if len(pub) != keySize || len(sig) != signatureSize || !Suite.VerifyWithLabel(pub, string(l), content, sig) {
		return ErrUnauthenticated
	}
	return nil
}

func expand(secret []byte, l label, context []byte, n int) []byte {
	return Suite.ExpandWithLabel(secret, string(l), context, n)
}

func export(g *mls.Group, l label, context []byte, n int) ([]byte, error) {
	return g.Export(string(l), context, n)
}
