package mimimi

import (
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/redact"
)

// EpochSender is the key pair that every member of an epoch derives (§9). The hub sees by its signature that a member sent a
// message, not which.
type EpochSender struct {
	redact.HiddenSecret
	key mls.SignatureKey
}

// NewEpochSender derives the key pair of the group's current epoch.
func NewEpochSender(g *mls.Group) (EpochSender, error) {
	context := encode(func(b *builder) { addVector(b, g.Public().GroupID()) })
	seed, err := export(g, labelEpochSenderExporter, context, keySize)
	if err != nil {
		return EpochSender{}, err
	}
	key, err := Suite.DeriveSignatureKey(seed)
	return EpochSender{key: key}, err
}

// Public is the public key, 32 bytes.
func (e EpochSender) Public() []byte { return e.key.Public() }

// Extension is epoch_sender_key, for the GroupInfo that goes to the hub with the commit that begins the epoch.
func (e EpochSender) Extension() mls.Extension {
	data := encode(func(b *builder) { addVector(b, e.Public()) })
	return mls.Extension{Type: ExtensionEpochSenderKey, Data: data}
}

// ParseEpochSenderKey reads the data of epoch_sender_key. It returns ErrMalformed.
func ParseEpochSenderKey(data []byte) ([]byte, error) {
	var key []byte
	err := decode(data, func(s *input) bool { return readSized(s, keySize, &key) })
	if err != nil {
		return nil, err
	}
	return key, nil
}

func messageTBS(g GroupID, epoch uint64, msg []byte) []byte {
	return labelled(labelEpochMessage, func(b *builder) {
		addName(b, g.Wire())
		b.AddUint64(epoch)
		addVector(b, msg)
	})
}

// SignMessage signs an application message (an MLSMessage of the epoch) for the hub.
func (e EpochSender) SignMessage(g GroupID, epoch uint64, msg []byte) []byte {
	return sign(e.key, labelEpochMessage, messageTBS(g, epoch, msg))
}

// VerifyMessage checks that a member of the epoch signed the message. It returns ErrUnauthenticated.
func VerifyMessage(epochKey []byte, g GroupID, epoch uint64, msg, sig []byte) error {
	return verify(epochKey, labelEpochMessage, messageTBS(g, epoch, msg), sig)
}

// SignRead signs a read with the epoch's key, so that the hub does not learn who reads.
func (e EpochSender) SignRead(r *ReadRequest) []byte {
	return sign(e.key, labelEpochRead, r.tbs(labelEpochRead))
}

// CheckHubGroupInfo checks that a GroupInfo for the hub has external_pub and epoch_sender_key, each exactly once, and nothing else
// (§6, T9: identity_links in it would hand every link key to the hub). It returns the epoch sender's public key, a *RuleError or
// ErrMalformed.
func CheckHubGroupInfo(gi *mls.GroupInfo) (epochSenderKey []byte, err error) {
	pub, hasPub := gi.Extension(mls.ExtensionExternalPub)
	data, hasKey := gi.Extension(ExtensionEpochSenderKey)
	if !hasPub || !hasKey || len(gi.Extensions) != 2 {
		return nil, invalid("6", "a hub's GroupInfo has external_pub and epoch_sender_key, and nothing else")
	}
	if err := decode(pub, func(s *input) bool { return readSized(s, keySize, &pub) }); err != nil {
		return nil, err
	}
	return ParseEpochSenderKey(data)
}
