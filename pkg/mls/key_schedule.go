package mls

import "golang.org/x/crypto/cryptobyte"

// epochSecrets are the secrets of one epoch, RFC 9420 §8, table 4. encryption_secret is not among them: the secret tree takes it at
// once and erases it piece by piece. epoch_secret, joiner_secret and welcome_secret do not outlive the functions that use them.
type epochSecrets struct {
	senderData    []byte
	exporter      []byte
	external      []byte
	confirmation  []byte
	membership    []byte
	resumption    []byte
	authenticator []byte
	init          []byte
}

// zeros is the all-zero secret of length KDF.Nh that stands for an absent input, RFC 9420 §8.
func zeros(suite CipherSuite) []byte { return make([]byte, suite.HashLen()) }

// joinerSecret derives joiner_secret from the last epoch's init_secret and the commit_secret, RFC 9420 §8, figure 22. context is
// the new epoch's GroupContext.
func joinerSecret(suite CipherSuite, init, commit, context []byte) []byte {
	secret := suite.extract(init, commit)
	defer clear(secret)
	return suite.ExpandWithLabel(secret, labelJoiner, context, suite.HashLen())
}

// memberSecret is the value between joiner_secret and psk_secret above, and welcome_secret and epoch_secret below.
func memberSecret(suite CipherSuite, joiner, psk []byte) []byte { return suite.extract(joiner, psk) }

// welcomeKey returns the key and nonce that open a Welcome's GroupInfo, RFC 9420 §12.4.3.1.
func welcomeKey(suite CipherSuite, member []byte) messageKey {
	welcome := suite.deriveSecret(member, labelWelcome)
	defer clear(welcome)
	return deriveMessageKey(suite, welcome, nil)
}

// deriveMessageKey derives a key and a nonce that seal one message.
func deriveMessageKey(suite CipherSuite, secret, context []byte) messageKey {
	k := newMessageKey(suite.row())
	suite.expandLabels(secret, context, labelled{labelKey, k.key}, labelled{labelNonce, k.nonce})
	return k
}

// epochSecret derives epoch_secret. context is the epoch's GroupContext.
func epochSecret(suite CipherSuite, member, context []byte) []byte {
	return suite.ExpandWithLabel(member, labelEpoch, context, suite.HashLen())
}

// newEpochSecrets derives everything below epoch_secret, which it erases: the secrets to keep and encryption_secret.
func newEpochSecrets(suite CipherSuite, epoch []byte) (secrets *epochSecrets, encryption []byte) {
	defer clear(epoch)
	derive := func(label string) []byte { return suite.deriveSecret(epoch, label) }
	return &epochSecrets{
		senderData:    derive(labelSenderData),
		exporter:      derive(labelExporter),
		external:      derive(labelExternal),
		confirmation:  derive(labelConfirm),
		membership:    derive(labelMembership),
		resumption:    derive(labelResumption),
		authenticator: derive(labelAuthentication),
		init:          derive(labelInit),
	}, derive(labelEncryption)
}

// epochKeys is what a commit derives: the secrets of the new epoch and those that a Welcome hands on.
type epochKeys struct {
	secrets    *epochSecrets
	encryption []byte
	joiner     []byte
	member     []byte // memberSecret's result
}

// newEpochKeys runs the key schedule over one commit. init is the last epoch's init_secret, context the new epoch's GroupContext. It
// erases commit_secret and psk_secret.
func newEpochKeys(suite CipherSuite, init, commit, psk, context []byte) *epochKeys {
	defer clear(commit)
	defer clear(psk)
	k := &epochKeys{joiner: joinerSecret(suite, init, commit, context)}
	k.member = memberSecret(suite, k.joiner, psk)
	k.secrets, k.encryption = newEpochSecrets(suite, epochSecret(suite, k.member, context))
	return k
}

// eraseShared clears what only a Welcome needs.
func (k *epochKeys) eraseShared() {
	clear(k.joiner)
	clear(k.member)
}

// erase clears all of it: the epoch does not come.
func (k *epochKeys) erase() {
	k.eraseShared()
	k.secrets.erase()
	clear(k.encryption)
}

// export is MLS-Exporter, RFC 9420 §8.5.
func (e *epochSecrets) export(suite CipherSuite, label string, context []byte, n int) []byte {
	secret := suite.deriveSecret(e.exporter, label)
	defer clear(secret)
	return suite.ExpandWithLabel(secret, labelExported, suite.Hash(context), n)
}

// externalKey is the key pair whose public half external_pub holds, RFC 9420 §8.
func (e *epochSecrets) externalKey(suite CipherSuite) (HPKEPrivateKey, error) {
	return suite.DeriveHPKEKey(e.external)
}

// confirmationTag is confirmation_tag, RFC 9420 §8.1.
func (e *epochSecrets) confirmationTag(suite CipherSuite, confirmedTranscriptHash []byte) []byte {
	return suite.mac(e.confirmation, confirmedTranscriptHash)
}

// erase clears all secrets.
func (e *epochSecrets) erase() {
	for _, s := range e.all() {
		clear(*s)
	}
}

func (e *epochSecrets) all() []*[]byte {
	return []*[]byte{&e.senderData, &e.exporter, &e.external, &e.confirmation, &e.membership, &e.resumption, &e.authenticator, &e.init}
}

func (e *epochSecrets) marshal(b *cryptobyte.Builder) {
	for _, s := range e.all() {
		writeOpaque(b, *s)
	}
}

func (e *epochSecrets) parse(s *cryptobyte.String) bool {
	for _, secret := range e.all() {
		if !readOpaque(s, secret) {
			return false
		}
	}
	return true
}
