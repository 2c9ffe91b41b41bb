package mimimi

import "mimimi.example/pkg/mls"

// QueueKey is a provider's HPKE key for queue IDs (§10), the same for all its users at one time.
type QueueKey struct {
	KeyID  uint32
	Public []byte // X25519, 32 bytes
	Domain string // the provider's
}

// encryptedQueueID is EncryptedQueueID. All its fields have fixed lengths but the domain, so its length is one per domain.
type encryptedQueueID struct {
	domain     string
	keyID      uint32
	kem        []byte
	ciphertext []byte
}

func (e *encryptedQueueID) marshal() []byte {
	return encode(func(b *builder) {
		addName(b, e.domain)
		b.AddUint32(e.keyID)
		addVector(b, e.kem)
		addVector(b, e.ciphertext)
	})
}

func (e *encryptedQueueID) read(s *input) bool {
	return readDomain(s, &e.domain) &&
		s.ReadUint32(&e.keyID) &&
		readSized(s, keySize, &e.kem) &&
		readSized(s, keySize+tagSize, &e.ciphertext)
}

func readDomain(s *input, out *string) bool {
	return readName(s, func(d string) (string, error) { return d, CheckDomain(d) }, out)
}

// queueAAD binds a sealed queue ID to the leaf that it was made for: a member could otherwise put somebody else's queue into its own
// leaf and watch the provider deliver.
func queueAAD(domain string, p ClientPseudonym) []byte {
	return labelled(labelQueueID, func(b *builder) {
		addName(b, domain)
		addName(b, p.Wire())
	})
}

// SealQueueID seals q to the provider's key for the leaf of pseudonym p, freshly each time. The result is the data of the LeafNode
// extension encrypted_queue_id. It returns a *RuleError.
func SealQueueID(k QueueKey, p ClientPseudonym, q QueueID) ([]byte, error) {
	switch {
	case q.IsZero():
		return nil, invalid("10", "a queue ID has 32 bytes")
	case k.Domain == "" || k.Domain != p.Domain():
		return nil, invalid("10", "a queue is at the pseudonym's domain")
	}
	kem, ct, err := Suite.HPKESeal(k.Public, nil, queueAAD(k.Domain, p), q.Bytes())
	if err != nil {
		return nil, invalid("10", "a queue key is of suite 1")
	}
	e := encryptedQueueID{k.Domain, k.KeyID, kem, ct}
	return e.marshal(), nil
}

// OpenQueueID opens a sealed queue ID at the provider of domain; keys finds the key of an id. p is the pseudonym that the delivery
// names. It returns ErrMalformed, a *RuleError for another domain, or ErrUnauthenticated, also for an unknown key.
func OpenQueueID(
	keys func(keyID uint32) (mls.HPKEPrivateKey, bool), domain string, p ClientPseudonym, sealed []byte,
) (QueueID, error) {
	var e encryptedQueueID
	if err := decode(sealed, e.read); err != nil {
		return QueueID{}, err
	}
	if e.domain != domain {
		return QueueID{}, invalid("10", "a queue is at the pseudonym's domain")
	}
	k, ok := keys(e.keyID)
	if !ok {
		return QueueID{}, ErrUnauthenticated
	}
	q, err := Suite.HPKEOpen(k, nil, queueAAD(domain, p), e.kem, e.ciphertext)
	if err != nil {
		return QueueID{}, ErrUnauthenticated
	}
	return QueueIDFrom(q)
}

// CheckEncryptedQueueID checks form, size and domain of a sealed queue ID, which is all that anyone but the provider can (§9). It
// returns ErrMalformed or a *RuleError.
func CheckEncryptedQueueID(sealed []byte, domain string) error {
	var e encryptedQueueID
	if err := decode(sealed, e.read); err != nil {
		return err
	}
	if e.domain != domain {
		return invalid("9", "encrypted_queue_id is of the pseudonym's domain")
	}
	return nil
}
