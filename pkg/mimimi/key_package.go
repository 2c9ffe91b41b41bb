package mimimi

import (
	"bytes"
	"slices"
	"time"

	"mimimi.example/pkg/mls"
)

// KeyPackageConfig is what NewKeyPackage needs.
type KeyPackageConfig struct {
	ConnectionKey  ConnectionKey
	CertificateKey mls.SignatureKey // the key in Certificate
	Certificate    *ClientCertificate
	UserPseudonym  UserPseudonym // of the set, or of the group for a device that comes later
	QueueID        QueueID
	QueueKey       QueueKey // the provider's current one
	LastResort     bool
	Now            time.Time
}

// NewKeyPackage makes a KeyPackage with a fresh client pseudonym, fresh keys and a fresh queue encapsulation, and with the
// capabilities and lifetime that everybody has (§2, §8). All KeyPackages of one kind and domain have one length. It returns a
// *RuleError.
func NewKeyPackage(cfg KeyPackageConfig) (*mls.KeyPackage, *mls.KeyPackageSecrets, error) {
	key, err := Suite.GenerateSignatureKey()
	if err != nil {
		return nil, nil, err
	}
	client, err := NewClientPseudonym(cfg.UserPseudonym.Domain())
	if err != nil {
		return nil, nil, err
	}
	pc, err := NewPseudonymousCredential(PseudonymConfig{
		ConnectionKey: cfg.ConnectionKey, CertificateKey: cfg.CertificateKey, Certificate: cfg.Certificate,
		ClientPseudonym: client, UserPseudonym: cfg.UserPseudonym, SignatureKey: key.Public(), Now: cfg.Now,
	})
	if err != nil {
		return nil, nil, err
	}
	queue, err := SealQueueID(cfg.QueueKey, client, cfg.QueueID)
	if err != nil {
		return nil, nil, err
	}
	return mls.NewKeyPackage(mls.KeyPackageConfig{
		Suite: Suite, Credential: pc.Credential(), SignatureKey: key, Capabilities: Capabilities(),
		Lifetime:       LeafLifetime(cfg.Now),
		LeafExtensions: []mls.Extension{{Type: ExtensionEncryptedQueueID, Data: queue}},
		Extensions:     keyPackageExtensions(cfg.LastResort),
	})
}

// Basis names what a KeyPackage is made of besides what is fresh in each: connection key, certificate, queue, queue key and the index that it goes to,
// by its write key. When it changes, a KeyPackage made before is of no use any more: contacts cannot identify it, or nothing reaches its queue. It is a hash
// for the client's own records and says nothing to anybody else.
func (cfg *KeyPackageConfig) Basis(writeKey []byte) [32]byte {
	return hashOf(labelKeyPackageBasis, func(b *builder) {
		addVector(b, cfg.ConnectionKey.Bytes())
		addVector(b, cfg.Certificate.Marshal())
		addVector(b, cfg.QueueID.Bytes())
		b.AddUint32(cfg.QueueKey.KeyID)
		addVector(b, cfg.QueueKey.Public)
		addVector(b, writeKey)
	})
}

func keyPackageExtensions(lastResort bool) []mls.Extension {
	if !lastResort {
		return nil
	}
	return []mls.Extension{{Type: mls.ExtensionLastResort}}
}

// isLastResort says whether a KeyPackage may be used more than once.
func isLastResort(kp *mls.KeyPackage) bool {
	return slices.ContainsFunc(kp.Extensions(), func(e mls.Extension) bool { return e.Type == mls.ExtensionLastResort })
}

// CheckKeyPackage is the store's check at upload (§8): signature, lifetime bucket of this week, capabilities vector, every size,
// kind, and the store's own domain. That pseudonyms and keys are fresh needs the store's memory and is left to it. It returns the
// credential, or a *RuleError that names the rule (of this package or of pkg/mls), ErrMalformed or mls.ErrUnauthenticated.
func CheckKeyPackage(kp *mls.KeyPackage, domain string, lastResort bool, now time.Time) (*PseudonymousCredential, error) {
	if kp.Suite() != Suite {
		return nil, invalid("0", "cipher suite 1")
	}
	if err := kp.Validate(now); err != nil {
		return nil, err
	}
	if err := checkKind(kp, lastResort); err != nil {
		return nil, err
	}
	id, err := ParseLeaf(kp.Leaf())
	if err != nil {
		return nil, err
	}
	switch {
	case id.Credential.UserPseudonym.Domain() != domain:
		return nil, invalid("8", "a KeyPackage's pseudonyms are of the store's domain")
	case !currentWeek(id.Credential.Week, now):
		return nil, invalid("8", "a KeyPackage is uploaded in its week or the next")
	}
	return id.Credential, nil
}

// checkKind checks that a KeyPackage is of its kind and has no extension but that kind's.
func checkKind(kp *mls.KeyPackage, lastResort bool) error {
	if isLastResort(kp) != lastResort {
		return invalid("8", "a last-resort KeyPackage says so, a one-time one does not")
	}
	want := keyPackageExtensions(lastResort)
	if !slices.EqualFunc(kp.Extensions(), want, equalExtensions) {
		return invalid("8", "a KeyPackage has no extension but an empty last_resort")
	}
	return nil
}

func equalExtensions(a, b mls.Extension) bool { return a.Type == b.Type && bytes.Equal(a.Data, b.Data) }
