package mls

import (
	"bytes"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

const (
	labelKeyPackage    = "KeyPackageTBS"
	labelKeyPackageRef = "MLS 1.0 KeyPackage Reference"
)

// KeyPackage is KeyPackage, RFC 9420 §10: what others need to add a client to a group. It is read only, and so is
// whatever its accessors return.
type KeyPackage struct {
	version    protocolVersion
	suite      CipherSuite
	initKey    []byte
	leaf       LeafNode
	extensions []Extension
	signature  []byte
}

// ParseKeyPackage reads exactly one bare KeyPackage. It checks no signature; Validate does. It returns ErrMalformed, or
// ErrUnsupported for another version or suite.
func ParseKeyPackage(b []byte) (*KeyPackage, error) {
	kp := new(KeyPackage)
	if err := parse(b, kp); err != nil {
		return nil, err
	}
	if kp.version != mls10 || !kp.suite.Supported() {
		return nil, ErrUnsupported
	}
	return kp, nil
}

func (kp *KeyPackage) parse(s *cryptobyte.String) bool {
	return s.ReadUint16(&kp.version) &&
		s.ReadUint16((*uint16)(&kp.suite)) &&
		readOpaque(s, &kp.initKey) &&
		kp.leaf.parse(s) &&
		parseExtensions(s, &kp.extensions) &&
		readOpaque(s, &kp.signature)
}

func (kp *KeyPackage) marshal(b *cryptobyte.Builder) {
	kp.marshalUnsigned(b)
	writeOpaque(b, kp.signature)
}

// marshalUnsigned writes KeyPackageTBS.
func (kp *KeyPackage) marshalUnsigned(b *cryptobyte.Builder) {
	b.AddUint16(kp.version)
	b.AddUint16(uint16(kp.suite))
	writeOpaque(b, kp.initKey)
	kp.leaf.marshal(b)
	marshalExtensions(b, kp.extensions)
}

func (kp *KeyPackage) toBeSigned() []byte {
	var b cryptobyte.Builder
	kp.marshalUnsigned(&b)
	return b.BytesOrPanic()
}

// Marshal returns the TLS encoding of the bare KeyPackage.
func (kp *KeyPackage) Marshal() []byte { return marshal(kp) }

// Ref returns the KeyPackageRef, RFC 9420 §5.2. It is nil if the suite, whose hash it is made with, is not supported; that
// can be only in a proposal that has not been checked.
func (kp *KeyPackage) Ref() []byte {
	if !kp.suite.Supported() {
		return nil
	}
	return kp.suite.RefHash(labelKeyPackageRef, kp.Marshal())
}

// Suite returns the cipher suite.
func (kp *KeyPackage) Suite() CipherSuite { return kp.suite }

// InitKey returns the public HPKE key to which a Welcome is sealed.
func (kp *KeyPackage) InitKey() []byte { return kp.initKey }

// Leaf returns the leaf that the client gets.
func (kp *KeyPackage) Leaf() *LeafNode { return &kp.leaf }

// Extensions returns the extensions of the KeyPackage itself.
func (kp *KeyPackage) Extensions() []Extension { return kp.extensions }

// Validate checks RFC 9420 §10.1 and the part of §7.3 that needs no group: version and suite, both signatures, that init
// and encryption key differ, the leaf's own rules and its lifetime at now. A zero now leaves the lifetime out. It
// returns ErrUnsupported, ErrUnauthenticated or a RuleError.
func (kp *KeyPackage) Validate(now time.Time) error {
	if err := kp.check(now); err != nil {
		return err
	}
	if !kp.suite.VerifyWithLabel(kp.leaf.signatureKey, labelKeyPackage, kp.toBeSigned(), kp.signature) ||
		!kp.leaf.verify(kp.suite, nil, 0) {
		return ErrUnauthenticated
	}
	return nil
}

// check is Validate but for the signatures.
func (kp *KeyPackage) check(now time.Time) error {
	if kp.version != mls10 || !kp.suite.Supported() {
		return ErrUnsupported
	}
	if kp.leaf.source != LeafFromKeyPackage {
		return broken("7.3", "the leaf of a KeyPackage has source key_package")
	}
	if err := kp.leaf.checkSelf(kp.suite); err != nil {
		return err
	}
	if bytes.Equal(kp.initKey, kp.leaf.encryptionKey) {
		return broken("10.1", "init key and encryption key differ")
	}
	if !kp.suite.validHPKEPublicKey(kp.initKey) {
		return broken("10.1", "the init key is a key of the suite")
	}
	if !now.IsZero() && !kp.leaf.lifetime.contains(now) {
		return broken("7.3", "the leaf is within its lifetime")
	}
	return nil
}

// KeyPackageConfig says what NewKeyPackage puts into a KeyPackage.
type KeyPackageConfig struct {
	Suite          CipherSuite
	Credential     Credential
	SignatureKey   SignatureKey // the leaf's key, of the same suite
	Capabilities   Capabilities // written as given: it must list the version, the suite, the credential type and all extensions
	Lifetime       Lifetime
	LeafExtensions []Extension
	Extensions     []Extension // of the KeyPackage itself, such as last_resort
}

// KeyPackageSecrets are the private halves of a KeyPackage. They hold secrets and print as such.
type KeyPackageSecrets struct {
	InitKey       HPKEPrivateKey
	EncryptionKey HPKEPrivateKey
	SignatureKey  SignatureKey
}

// NewKeyPackage makes a KeyPackage with fresh init and encryption keys. It returns ErrUnsupported, or a RuleError for a
// configuration that a peer would refuse.
func NewKeyPackage(cfg KeyPackageConfig) (*KeyPackage, *KeyPackageSecrets, error) {
	secrets, err := newKeyPackageSecrets(cfg)
	if err != nil {
		return nil, nil, err
	}
	kp := &KeyPackage{
		version: mls10,
		suite:   cfg.Suite,
		initKey: secrets.InitKey.Public(),
		leaf: LeafNode{
			encryptionKey: secrets.EncryptionKey.Public(),
			signatureKey:  secrets.SignatureKey.Public(),
			credential:    Credential{Type: cfg.Credential.Type, Body: bytes.Clone(cfg.Credential.Body)},
			capabilities:  cfg.Capabilities.clone(),
			source:        LeafFromKeyPackage,
			lifetime:      cfg.Lifetime,
			extensions:    cloneExtensions(cfg.LeafExtensions),
		},
		extensions: cloneExtensions(cfg.Extensions),
	}
	kp.leaf.sign(cfg.SignatureKey, nil, 0)
	kp.signature = cfg.SignatureKey.SignWithLabel(labelKeyPackage, kp.toBeSigned())
	if err := kp.checkMade(); err != nil {
		return nil, nil, err
	}
	return kp, secrets, nil
}

func newKeyPackageSecrets(cfg KeyPackageConfig) (*KeyPackageSecrets, error) {
	if cfg.SignatureKey.isZero() || cfg.SignatureKey.k().suite != cfg.Suite {
		return nil, ErrUnsupported
	}
	initKey, err := cfg.Suite.GenerateHPKEKey()
	if err != nil {
		return nil, err
	}
	encryptionKey, err := cfg.Suite.GenerateHPKEKey()
	if err != nil {
		return nil, err
	}
	return &KeyPackageSecrets{InitKey: initKey, EncryptionKey: encryptionKey, SignatureKey: cfg.SignatureKey}, nil
}

// checkMade holds a local configuration to what peers check, and to the limits that their parsers have: a KeyPackage
// that does not parse again would be found out only by the others.
func (kp *KeyPackage) checkMade() error {
	if err := kp.leaf.checkSelf(kp.suite); err != nil {
		return err
	}
	if err := kp.leaf.checkGREASE(); err != nil {
		return err
	}
	// A receiver ignores an extension that it does not know, so only the maker is held to this.
	if slices.ContainsFunc(kp.extensions, func(e Extension) bool { return !kp.leaf.capabilities.hasExtension(e.Type) }) {
		return broken("10", "capabilities list the KeyPackage's extensions")
	}
	_, err := ParseKeyPackage(kp.Marshal())
	return err
}

// MarshalBinary returns the three secret keys for storage.
func (k *KeyPackageSecrets) MarshalBinary() ([]byte, error) {
	var b cryptobyte.Builder
	for _, key := range []interface{ MarshalBinary() ([]byte, error) }{k.InitKey, k.EncryptionKey, k.SignatureKey} {
		v, err := key.MarshalBinary()
		if err != nil {
			return nil, err
		}
		writeOpaque(&b, v)
	}
	return b.Bytes()
}

// UnmarshalBinary reads what MarshalBinary wrote. It returns ErrMalformed or ErrUnsupported and then leaves k as it is.
func (k *KeyPackageSecrets) UnmarshalBinary(b []byte) error {
	var read KeyPackageSecrets
	var initKey, encryptionKey, signatureKey []byte
	s := cryptobyte.String(b)
	if !readOpaque(&s, &initKey) || !readOpaque(&s, &encryptionKey) || !readOpaque(&s, &signatureKey) || !s.Empty() {
		return ErrMalformed
	}
	if err := read.InitKey.UnmarshalBinary(initKey); err != nil {
		return err
	}
	if err := read.EncryptionKey.UnmarshalBinary(encryptionKey); err != nil {
		return err
	}
	if err := read.SignatureKey.UnmarshalBinary(signatureKey); err != nil {
		return err
	}
	*k = read
	return nil
}

// matches reports whether k holds the private halves of kp.
func (k *KeyPackageSecrets) matches(kp *KeyPackage) bool {
	return bytes.Equal(k.InitKey.Public(), kp.initKey) &&
		bytes.Equal(k.EncryptionKey.Public(), kp.leaf.encryptionKey) &&
		bytes.Equal(k.SignatureKey.Public(), kp.leaf.signatureKey)
}
