package mimimi

import (
	"bytes"
	"crypto/subtle"
	"time"

	"mimimi.example/pkg/mls"
)

// PseudonymousCredential is what a leaf shows of its client (§4): pseudonyms in clear, and the identity link, which names the client
// to those who hold its link key.
type PseudonymousCredential struct {
	ClientPseudonym        ClientPseudonym
	UserPseudonym          UserPseudonym
	SignatureKey           []byte    // the leaf's MLS signature key
	Week                   time.Time // Monday 00:00 UTC; the only age that a leaf from a path shows (§2)
	IdentityLinkCiphertext []byte    // commitment, then AEAD ciphertext; 560 bytes
}

// PseudonymConfig is what a new pseudonymous credential is made of.
type PseudonymConfig struct {
	ConnectionKey   ConnectionKey
	CertificateKey  mls.SignatureKey // the key in Certificate
	Certificate     *ClientCertificate
	ClientPseudonym ClientPseudonym
	UserPseudonym   UserPseudonym
	SignatureKey    []byte // public half of the leaf's signature key
	Now             time.Time
}

// NewPseudonymousCredential makes a credential with its identity link, for a KeyPackage or to replace a leaf's signature key (§4).
// It returns a *RuleError.
func NewPseudonymousCredential(cfg PseudonymConfig) (*PseudonymousCredential, error) {
	pc := &PseudonymousCredential{
		ClientPseudonym: cfg.ClientPseudonym, UserPseudonym: cfg.UserPseudonym,
		SignatureKey: bytes.Clone(cfg.SignatureKey), Week: Week(cfg.Now),
	}
	switch {
	case cfg.ConnectionKey.IsZero():
		return nil, invalid("4", "an identity link needs a connection key")
	case len(cfg.SignatureKey) != keySize || !encodable(pc.Week):
		return nil, invalid("4", "the signature key is of suite 1, the week a Monday since 1970")
	case !bytes.Equal(cfg.CertificateKey.Public(), cfg.Certificate.SignatureKey):
		return nil, invalid("4", "the link is signed by the certificate's key")
	}
	if err := pc.checkDomains(cfg.Certificate); err != nil {
		return nil, err
	}
	link, ok := pad(pc.linkPlaintext(cfg.CertificateKey, cfg.Certificate), linkPlaintextSize)
	if !ok {
		return nil, invalid("4", "an identity link has at most 512 bytes")
	}
	pc.IdentityLinkCiphertext = pc.seal(pc.LinkKey(cfg.ConnectionKey), link)
	return pc, nil
}

// linkPlaintext is IdentityLinkTBE.
func (pc *PseudonymousCredential) linkPlaintext(certKey mls.SignatureKey, cert *ClientCertificate) []byte {
	return encode(func(b *builder) {
		addVector(b, sign(certKey, labelPseudonymousCredential, pc.tbs()))
		b.AddBytes(cert.Credential().Marshal())
	})
}

func (pc *PseudonymousCredential) checkDomains(cert *ClientCertificate) error {
	domain := pc.UserPseudonym.Domain()
	switch {
	case domain == "" || pc.ClientPseudonym.Domain() != domain:
		return invalid("4", "both pseudonyms are of one domain")
	case cert.User.Domain() != domain || cert.Client.Domain() != domain:
		return invalid("4", "the pseudonyms' domain is the certificate's")
	}
	return nil
}

// tbs is PseudonymousCredentialTBS. It has no label of its own: it stands inside SignWithLabel, ExpandWithLabel and linkAAD.
func (pc *PseudonymousCredential) tbs() []byte {
	return encode(func(b *builder) {
		addName(b, pc.ClientPseudonym.Wire())
		addName(b, pc.UserPseudonym.Wire())
		addVector(b, pc.SignatureKey)
		addTime(b, pc.Week)
	})
}

// Credential is the MLS credential of type 0xF1A0.
func (pc *PseudonymousCredential) Credential() mls.Credential {
	body := encode(func(b *builder) {
		b.AddBytes(pc.tbs())
		addVector(b, pc.IdentityLinkCiphertext)
	})
	return mls.Credential{Type: CredentialPseudonymous, Body: body}
}

// ParsePseudonymousCredential reads a credential. It returns ErrMalformed, or a *RuleError if it is of another type, the pseudonyms
// are of two domains, or the week is no Monday.
func ParsePseudonymousCredential(c mls.Credential) (*PseudonymousCredential, error) {
	if c.Type != CredentialPseudonymous {
		return nil, invalid("9", "pseudonymous credentials only")
	}
	pc := new(PseudonymousCredential)
	if err := decode(c.Body, pc.read); err != nil {
		return nil, err
	}
	switch {
	case pc.UserPseudonym.Domain() != pc.ClientPseudonym.Domain():
		return nil, invalid("4", "both pseudonyms are of one domain")
	case !pc.Week.Equal(monday(pc.Week)):
		return nil, invalid("2", "a leaf's week starts on a Monday")
	}
	return pc, nil
}

func (pc *PseudonymousCredential) read(s *input) bool {
	return readName(s, ParseClientPseudonym, &pc.ClientPseudonym) &&
		readName(s, ParseUserPseudonym, &pc.UserPseudonym) &&
		readSized(s, keySize, &pc.SignatureKey) &&
		readTime(s, &pc.Week) &&
		readSized(s, linkCiphertextSize, &pc.IdentityLinkCiphertext)
}

// equal compares whole credentials.
func (pc *PseudonymousCredential) equal(o *PseudonymousCredential) bool {
	return bytes.Equal(pc.Credential().Body, o.Credential().Body)
}

// samePseudonyms compares what a leaf keeps for as long as it is in the tree.
func (pc *PseudonymousCredential) samePseudonyms(o *PseudonymousCredential) bool {
	return pc.ClientPseudonym == o.ClientPseudonym && pc.UserPseudonym == o.UserPseudonym
}

// LinkKey derives this credential's identity_link_key from its user's connection key (§4). The result means something only if k is
// the right one, which Identify finds out.
func (pc *PseudonymousCredential) LinkKey(k ConnectionKey) LinkKey {
	return LinkKey{secretOf(expand(k.Bytes(), labelIdentityLinkKey, pc.tbs(), keySize))}
}

// linkKeys are the three values that a link key yields.
func linkKeys(k LinkKey) (key, nonce, commit []byte) {
	s := k.Bytes()
	return expand(s, labelLinkAEADKey, nil, Suite.KeyLen()),
		expand(s, labelLinkAEADNonce, nil, Suite.NonceLen()),
		expand(s, labelLinkCommit, nil, hashSize)
}

func (pc *PseudonymousCredential) linkAAD() []byte {
	return labelled(labelIdentityLink, func(b *builder) { b.AddBytes(pc.tbs()) })
}

// seal may use a derived nonce: the key is as fresh as the signature key in the TBS, and seals this one plaintext.
func (pc *PseudonymousCredential) seal(k LinkKey, padded []byte) []byte {
	key, nonce, commit := linkKeys(k)
	return append(commit, Suite.Seal(key, nonce, pc.linkAAD(), padded)...)
}

// open checks the commitment first: AES-GCM does not commit to its key, and one ciphertext could otherwise show two identities to
// two readers.
func (pc *PseudonymousCredential) open(k LinkKey) ([]byte, error) {
	if k.IsZero() || len(pc.IdentityLinkCiphertext) != linkCiphertextSize {
		return nil, ErrUnauthenticated
	}
	key, nonce, commit := linkKeys(k)
	if subtle.ConstantTimeCompare(commit, pc.IdentityLinkCiphertext[:hashSize]) != 1 {
		return nil, ErrUnauthenticated
	}
	plain, err := Suite.Open(key, nonce, pc.linkAAD(), pc.IdentityLinkCiphertext[hashSize:])
	if err != nil {
		return nil, ErrUnauthenticated
	}
	return plain, nil
}

// Identify opens the identity link with its key and returns the certificate inside, after checking the commitment, that the
// certificate's key signed this credential, and that certificate and pseudonyms are of one domain. What is left to the caller (§4):
// the certificate's Verify, at Week and against revocations; that the credential's key is the leaf's (ParseLeaf); and that one user
// pseudonym stands for one user in the group. It returns ErrUnauthenticated, ErrMalformed or a *RuleError.
func (pc *PseudonymousCredential) Identify(k LinkKey) (*ClientCertificate, error) {
	plain, err := pc.open(k)
	if err != nil {
		return nil, err
	}
	var sig []byte
	var cert *ClientCertificate
	err = decodePadded(plain, func(s *input) bool {
		return readSized(s, signatureSize, &sig) && readCertificate(s, &cert)
	})
	if err != nil {
		return nil, err
	}
	if err := verify(cert.SignatureKey, labelPseudonymousCredential, pc.tbs(), sig); err != nil {
		return nil, err
	}
	if err := pc.checkDomains(cert); err != nil {
		return nil, err
	}
	return cert, nil
}
