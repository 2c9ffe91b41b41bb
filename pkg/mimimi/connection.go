package mimimi

import (
	"bytes"
	"time"

	"mimimi.example/pkg/mls"
)

// ConnectionRecord is what a user publishes for connection requests (§5).
type ConnectionRecord struct {
	User        User
	HPKEKey     []byte // X25519, 32 bytes
	NotAfter    time.Time
	Certificate *ClientCertificate // of one of the user's clients
	Signature   []byte             // by the certificate's key
}

// NewConnectionRecord signs a record for the certificate's user. notAfter is cut to whole days. It returns a *RuleError.
func NewConnectionRecord(cert *ClientCertificate, certKey mls.SignatureKey, hpke []byte, notAfter time.Time) (*ConnectionRecord, error) {
	r := &ConnectionRecord{User: cert.User, HPKEKey: bytes.Clone(hpke), NotAfter: wholeDay(notAfter), Certificate: cert}
	switch {
	case len(hpke) != keySize:
		return nil, invalid("5", "the connection key is of suite 1")
	case !encodable(r.NotAfter):
		return nil, invalid("5", "a record has an end")
	case !bytes.Equal(certKey.Public(), cert.SignatureKey):
		return nil, invalid("5", "a record is signed by its certificate's key")
	}
	r.Signature = sign(certKey, labelConnectionRecord, r.tbs())
	return r, nil
}

func (r *ConnectionRecord) tbs() []byte {
	return labelled(labelConnectionRecord, func(b *builder) {
		addName(b, r.User.Wire())
		addVector(b, r.HPKEKey)
		addTime(b, r.NotAfter)
		b.AddBytes(r.Certificate.Credential().Marshal())
	})
}

// Marshal is the TLS encoding.
func (r *ConnectionRecord) Marshal() []byte {
	return encode(func(b *builder) {
		b.AddBytes(r.tbs())
		addVector(b, r.Signature)
	})
}

// ParseConnectionRecord reads a record and verifies nothing. It returns ErrMalformed.
func ParseConnectionRecord(b []byte) (*ConnectionRecord, error) {
	r := new(ConnectionRecord)
	if err := decode(b, r.read); err != nil {
		return nil, err
	}
	return r, nil
}

// ParsePaddedConnectionRecord is ParseConnectionRecord for a record that zeros follow, as an inbox serves it: all answers have one size
// (§5). It returns ErrMalformed.
func ParsePaddedConnectionRecord(b []byte) (*ConnectionRecord, error) {
	r := new(ConnectionRecord)
	if err := decodePadded(b, r.read); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *ConnectionRecord) read(s *input) bool {
	return readLabel(s, labelConnectionRecord) &&
		readName(s, ParseUser, &r.User) &&
		readSized(s, keySize, &r.HPKEKey) &&
		readDay(s, &r.NotAfter) &&
		readCertificate(s, &r.Certificate) &&
		readSized(s, signatureSize, &r.Signature)
}

// Verify checks a record against its domain's identity key: the certificate, that it is the user's, the signature and the dates. That
// User is who was asked for is the caller's check. It returns ErrUnauthenticated or a *RuleError.
func (r *ConnectionRecord) Verify(identityKey []byte, now time.Time) error {
	if err := r.Certificate.Verify(identityKey, now); err != nil {
		return err
	}
	if err := verify(r.Certificate.SignatureKey, labelConnectionRecord, r.tbs(), r.Signature); err != nil {
		return err
	}
	switch {
	case r.User != r.Certificate.User:
		return invalid("5", "a record is its certificate's user's")
	case !now.Before(r.NotAfter):
		return invalid("5", "the record is in date")
	}
	return nil
}

// Hash names exactly this record. A request carries it, so that a provider cannot show a requester another one (§5).
func (r *ConnectionRecord) Hash() [32]byte {
	return hashOf(labelConnectionRecordHash, func(b *builder) { addVector(b, r.Marshal()) })
}

// ConnectionRequest asks a user for a connection (§5). It travels sealed, through the responder's inbox.
type ConnectionRequest struct {
	RequestID            [16]byte  // accepted once
	Made                 time.Time // of two connections of the same users the one that was asked for last stays
	NotAfter             time.Time
	RequesterCertificate *ClientCertificate
	ConnectionGroup      GroupID
	InviteSecret         InviteSecret
	RequesterKey         ConnectionKey
	RequesterToken       ConnectionToken
	Responder            User
	ResponderRecordHash  [32]byte
}

// SealedConnectionRequestSize is the length of every sealed request: an X25519 encapsulation, then the padded ciphertext.
const SealedConnectionRequestSize = keySize + requestPlaintextSize + tagSize

// tbs is ConnectionRequestTBS.
func (r *ConnectionRequest) tbs() []byte {
	return labelled(labelConnectionRequest, func(b *builder) {
		b.AddUint16(Version)
		b.AddBytes(r.RequestID[:])
		addTime(b, r.Made)
		addTime(b, r.NotAfter)
		b.AddBytes(r.RequesterCertificate.Credential().Marshal())
		addName(b, r.ConnectionGroup.Wire())
		b.AddBytes(r.InviteSecret.Bytes())
		b.AddBytes(r.RequesterKey.Bytes())
		b.AddBytes(r.RequesterToken.Bytes())
		addName(b, r.Responder.Wire())
		b.AddBytes(r.ResponderRecordHash[:])
	})
}

// read reads ConnectionRequestTBS.
func (r *ConnectionRequest) read(s *input) bool {
	var version uint16
	return readLabel(s, labelConnectionRequest) &&
		s.ReadUint16(&version) && version == Version &&
		readFixed(s, r.RequestID[:]) &&
		readTime(s, &r.Made) &&
		readDay(s, &r.NotAfter) &&
		readCertificate(s, &r.RequesterCertificate) &&
		readName(s, func(id string) (GroupID, error) { return ParseGroupID([]byte(id)) }, &r.ConnectionGroup) &&
		readSecret(s, &r.InviteSecret.secret) &&
		readSecret(s, &r.RequesterKey.secret) &&
		readSecret(s, &r.RequesterToken.secret) &&
		readName(s, ParseUser, &r.Responder) &&
		readFixed(s, r.ResponderRecordHash[:])
}

// complete says whether every field can be encoded.
func (r *ConnectionRequest) complete() bool {
	return r.RequesterCertificate != nil && !r.ConnectionGroup.IsZero() && !r.Responder.IsZero() &&
		!r.InviteSecret.IsZero() && !r.RequesterKey.IsZero() && !r.RequesterToken.IsZero() &&
		encodable(r.Made) && encodable(r.NotAfter) && r.NotAfter.Equal(wholeDay(r.NotAfter))
}

func requestAAD(responder User) []byte {
	return labelled(labelConnectionRequestAAD, func(b *builder) { addName(b, responder.Wire()) })
}

// SealConnectionRequest signs a request with the certificate's key and seals it to the responder's record, which the caller has
// verified. The result has SealedConnectionRequestSize bytes. Responder and record hash are the record's: a request filled in for
// another one is refused. It returns a *RuleError.
func SealConnectionRequest(r *ConnectionRequest, certKey mls.SignatureKey, record *ConnectionRecord) ([]byte, error) {
	switch {
	case !r.complete():
		return nil, invalid("5", "a request has all its fields, and its end is a whole day")
	case r.Responder != record.User || r.ResponderRecordHash != record.Hash():
		return nil, invalid("5", "a request is for the user of the record")
	case !bytes.Equal(certKey.Public(), r.RequesterCertificate.SignatureKey):
		return nil, invalid("5", "a request is signed by its certificate's key")
	}
	tbs := r.tbs()
	plain, ok := pad(encode(func(b *builder) {
		b.AddBytes(tbs)
		addVector(b, sign(certKey, labelConnectionRequest, tbs))
	}), requestPlaintextSize)
	if !ok {
		return nil, invalid("5", "a request has at most 2048 bytes")
	}
	kem, ct, err := Suite.HPKESeal(record.HPKEKey, nil, requestAAD(r.Responder), plain)
	if err != nil {
		return nil, invalid("5", "the connection key is of suite 1")
	}
	return append(bytes.Clone(kem), ct...), nil
}

// OpenConnectionRequest opens a request for the owner of the record own and checks the signature by the certificate inside, the end,
// the responder and the record's hash. The caller verifies the certificate against its domain and that the request id is new. It
// returns ErrMalformed, ErrUnauthenticated or a *RuleError.
func OpenConnectionRequest(sealed []byte, priv mls.HPKEPrivateKey, own *ConnectionRecord, now time.Time) (*ConnectionRequest, error) {
	if len(sealed) != SealedConnectionRequestSize {
		return nil, ErrMalformed
	}
	plain, err := Suite.HPKEOpen(priv, nil, requestAAD(own.User), sealed[:keySize], sealed[keySize:])
	if err != nil {
		return nil, ErrUnauthenticated
	}
	r, err := parseSignedRequest(plain)
	if err != nil {
		return nil, err
	}
	switch {
	case r.Responder != own.User || r.ResponderRecordHash != own.Hash():
		return nil, invalid("5", "a request is for the user of the record")
	case !now.Before(r.NotAfter) || now.Add(day).Before(r.Made):
		return nil, invalid("5", "the request is in date")
	}
	return r, nil
}

// parseSignedRequest reads a request with its signature and padding, and verifies the signature by the certificate inside.
func parseSignedRequest(plain []byte) (*ConnectionRequest, error) {
	r, sig := new(ConnectionRequest), []byte(nil)
	err := decodePadded(plain, func(s *input) bool {
		return r.read(s) && readSized(s, signatureSize, &sig)
	})
	if err != nil {
		return nil, err
	}
	// The encoding is canonical, so what is encoded again is what was read.
	if err := verify(r.RequesterCertificate.SignatureKey, labelConnectionRequest, r.tbs(), sig); err != nil {
		return nil, err
	}
	return r, nil
}

// ConnectionResponse is the answer, sent as a control message in the connection group (§5).
type ConnectionResponse struct {
	Key   ConnectionKey
	Token ConnectionToken
}

// Marshal is the TLS encoding, the body of an EnvelopeConnectionResponse.
func (r *ConnectionResponse) Marshal() []byte { return append(r.Key.Bytes(), r.Token.Bytes()...) }

// ParseConnectionResponse reads a response. It returns ErrMalformed.
func ParseConnectionResponse(b []byte) (*ConnectionResponse, error) {
	r := new(ConnectionResponse)
	err := decode(b, func(s *input) bool {
		return readSecret(s, &r.Key.secret) && readSecret(s, &r.Token.secret)
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}
