package mls

// Labels of RFC 9420, without the prefix "MLS 1.0 " that the WithLabel functions add.
const (
	// §8, the key schedule.
	labelJoiner         = "joiner"
	labelEpoch          = "epoch"
	labelWelcome        = "welcome"
	labelSenderData     = "sender data"
	labelEncryption     = "encryption"
	labelExporter       = "exporter"
	labelExternal       = "external"
	labelConfirm        = "confirm"
	labelMembership     = "membership"
	labelResumption     = "resumption"
	labelAuthentication = "authentication"
	labelInit           = "init"
	labelExported       = "exported"    // §8.5
	labelDerivedPSK     = "derived psk" // §8.4

	// labelExternalInit is the HPKE exporter context of §8.3, where no prefix is added for us.
	labelExternalInit = "MLS 1.0 external init secret"

	// §9, the secret tree; key, nonce and secret serve §6.3.2 and §12.4.3.1 too.
	labelTree        = "tree"
	labelHandshake   = "handshake"
	labelApplication = "application"
	labelKey         = "key"
	labelNonce       = "nonce"
	labelSecret      = "secret"

	// §6.1 and §12.4.3, signatures and the Welcome's HPKE.
	labelFramedContent = "FramedContentTBS"
	labelGroupInfo     = "GroupInfoTBS"
	labelWelcomeHPKE   = "Welcome"

	// labelProposalRef is the label of RefHash, which adds no prefix, §5.2.
	labelProposalRef = "MLS 1.0 Proposal Reference"
)
