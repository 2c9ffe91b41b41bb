package mimimi

import (
	"bytes"
	"time"

	"mimimi.example/pkg/mls"
)

// KeyDocument is a domain's published keys (§12): one per week, the same for everybody.
type KeyDocument struct {
	Domain              string
	Number              uint64 // of the week; never goes back
	NotBefore, NotAfter time.Time
	IdentityKey         []byte      // Ed25519, 32 bytes; pinned by readers
	QueueKeys           []QueueKey  // current last; all of Domain
	OHTTPKeys           []OHTTPKey  // one per service
	IssuerKeys          []IssuerKey // ascending by epoch, then operation: of the week, the one before and the next (§11)
	Signature           []byte      // by IdentityKey
}

// OHTTPKey is one service's RFC 9458 key configuration.
type OHTTPKey struct {
	Service string // "hub", "kpstore", "inbox"
	Config  []byte
}

func (d *KeyDocument) tbs() []byte {
	return labelled(labelKeyDocument, func(b *builder) {
		b.AddUint16(Version)
		addName(b, d.Domain)
		b.AddUint64(d.Number)
		addTime(b, d.NotBefore)
		addTime(b, d.NotAfter)
		addVector(b, d.IdentityKey)
		addList(b, func(b *builder) {
			for _, k := range d.QueueKeys {
				b.AddUint32(k.KeyID)
				addVector(b, k.Public)
			}
		})
		addList(b, func(b *builder) {
			for _, k := range d.OHTTPKeys {
				addName(b, k.Service)
				addVector(b, k.Config)
			}
		})
		addList(b, func(b *builder) {
			for _, k := range d.IssuerKeys {
				addName(b, string(k.Operation))
				b.AddUint64(k.Epoch)
				b.AddUint16(k.Quota)
				addVector(b, k.SPKI)
			}
		})
	})
}

// SignKeyDocument sets IdentityKey and Signature, after checking that what is signed can be read back. It returns a *RuleError.
func SignKeyDocument(d *KeyDocument, identity mls.SignatureKey) error {
	for _, k := range d.QueueKeys {
		if k.Domain != d.Domain {
			return invalid("12", "a key document holds its own domain's queue keys")
		}
	}
	if !encodable(d.NotBefore) || !encodable(d.NotAfter) || !d.NotBefore.Before(d.NotAfter) {
		return invalid("12", "a key document is valid for some time")
	}
	next := *d
	next.IdentityKey = identity.Public()
	next.Signature = sign(identity, labelKeyDocument, next.tbs())
	if _, err := ParseKeyDocument(next.Marshal()); err != nil {
		return invalid("12", "a key document keeps to the limits of its fields")
	}
	*d = next
	return nil
}

// Marshal is the TLS encoding.
func (d *KeyDocument) Marshal() []byte {
	return encode(func(b *builder) {
		b.AddBytes(d.tbs())
		addVector(b, d.Signature)
	})
}

// ParseKeyDocument reads a document and verifies nothing. It returns ErrMalformed.
func ParseKeyDocument(b []byte) (*KeyDocument, error) {
	d := new(KeyDocument)
	if err := decode(b, d.read); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *KeyDocument) read(s *input) bool {
	var version uint16
	return readLabel(s, labelKeyDocument) &&
		s.ReadUint16(&version) && version == Version &&
		readDomain(s, &d.Domain) &&
		s.ReadUint64(&d.Number) &&
		readTime(s, &d.NotBefore) &&
		readTime(s, &d.NotAfter) &&
		readSized(s, keySize, &d.IdentityKey) &&
		readList(s, maxQueueKeys, d.readQueueKey) &&
		readList(s, maxOHTTPKeys, d.readOHTTPKey) &&
		readList(s, maxIssuerKeys, d.readIssuerKey) &&
		readSized(s, signatureSize, &d.Signature)
}

func (d *KeyDocument) readQueueKey(s *input) bool {
	k := QueueKey{Domain: d.Domain}
	ok := s.ReadUint32(&k.KeyID) && readSized(s, keySize, &k.Public)
	d.QueueKeys = append(d.QueueKeys, k)
	return ok
}

func (d *KeyDocument) readOHTTPKey(s *input) bool {
	var service []byte
	var k OHTTPKey
	ok := readVector(s, &service) && len(service) >= 1 && len(service) <= maxServiceName && only(string(service), "-") &&
		readVector(s, &k.Config) && len(k.Config) <= maxOHTTPConfig
	k.Service = string(service)
	d.OHTTPKeys = append(d.OHTTPKeys, k)
	return ok
}

func (d *KeyDocument) readIssuerKey(s *input) bool {
	var operation []byte
	var k IssuerKey
	ok := readVector(s, &operation) && len(operation) >= 1 && len(operation) <= maxOperationName && only(string(operation), " ") &&
		s.ReadUint64(&k.Epoch) && k.Epoch <= maxUnix &&
		s.ReadUint16(&k.Quota) && k.Quota <= MaxTokenBatch &&
		readSized(s, issuerKeySize, &k.SPKI) && issuerModulus(k.SPKI) != nil
	k.Operation = TokenOperation(operation)
	if n := len(d.IssuerKeys); n > 0 {
		last := d.IssuerKeys[n-1]
		ok = ok && (last.Epoch < k.Epoch || last.Epoch == k.Epoch && last.Operation < k.Operation)
	}
	d.IssuerKeys = append(d.IssuerKeys, k)
	return ok
}

// IssuerKey returns the issuer key of an operation and epoch, nil if the document has none.
func (d *KeyDocument) IssuerKey(operation TokenOperation, epoch uint64) *IssuerKey {
	for i := range d.IssuerKeys {
		if k := &d.IssuerKeys[i]; k.Operation == operation && k.Epoch == epoch {
			return k
		}
	}
	return nil
}

// IssuerKeysOf returns the issuer keys of one epoch, in the order of operations.
func (d *KeyDocument) IssuerKeysOf(epoch uint64) (keys []IssuerKey) {
	for _, k := range d.IssuerKeys {
		if k.Epoch == epoch {
			keys = append(keys, k)
		}
	}
	return keys
}

// Verify checks the document's signature, that its identity key is the pinned one, and its dates. With pinned nil the key is taken as
// it is: trust on first use, which the caller follows up (§12). That Domain is who was asked for, and Number not older than one
// seen, is the caller's check. It returns ErrUnauthenticated or a *RuleError.
func (d *KeyDocument) Verify(pinned []byte, now time.Time) error {
	if pinned != nil && !bytes.Equal(pinned, d.IdentityKey) {
		return ErrUnauthenticated
	}
	if err := verify(d.IdentityKey, labelKeyDocument, d.tbs(), d.Signature); err != nil {
		return err
	}
	if now.Before(d.NotBefore) || !now.Before(d.NotAfter) {
		return invalid("12", "the key document is in date")
	}
	return nil
}
