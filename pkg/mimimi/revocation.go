package mimimi

import (
	"bytes"
	"slices"
	"time"

	"mimimi.example/pkg/mls"
)

// RevocationList is a domain's list of certificates that count no more although their dates say otherwise (§3). It is the same for everybody.
type RevocationList struct {
	Domain   string
	Number   uint64    // never goes back
	IssuedAt time.Time // whole seconds
	NotAfter time.Time // whole seconds: from then on a reader needs a newer one
	// Entries are in the order of the hashes, each once, so that they do not show the order of events.
	Entries   []RevokedCertificate
	Signature []byte // by the domain's identity key
}

// RevokedCertificate is one entry. The hash says nothing to whoever has not seen the certificate, which holds a signature.
type RevokedCertificate struct {
	Hash     [32]byte  // ClientCertificate.Hash
	NotAfter time.Time // the certificate's
}

func compareRevoked(a, b RevokedCertificate) int { return bytes.Compare(a.Hash[:], b.Hash[:]) }

// Hash is how a list of revocations names the certificate.
func (c *ClientCertificate) Hash() [32]byte {
	return hashOf(labelCertificateHash, func(b *builder) { addVector(b, c.Marshal()) })
}

func (l *RevocationList) tbs() []byte {
	return labelled(labelRevocationList, func(b *builder) {
		b.AddUint16(Version)
		addName(b, l.Domain)
		b.AddUint64(l.Number)
		addTime(b, l.IssuedAt)
		addTime(b, l.NotAfter)
		addList(b, func(b *builder) {
			for _, r := range l.Entries {
				b.AddBytes(r.Hash[:])
				addTime(b, r.NotAfter)
			}
		})
	})
}

// SignRevocationList sorts the entries, drops repeats and those whose certificate expired more than 100 days before IssuedAt, and signs. More
// than 65,536 entries that remain are refused. It returns a *RuleError, and has then changed nothing.
func SignRevocationList(l *RevocationList, identity mls.SignatureKey) error {
	if !encodable(l.IssuedAt) || !encodable(l.NotAfter) || !l.IssuedAt.Before(l.NotAfter) {
		return invalid("3", "a list of revocations is valid for some time")
	}
	next := *l
	next.Entries = slices.DeleteFunc(slices.Clone(l.Entries), func(r RevokedCertificate) bool {
		return !r.NotAfter.Add(revocationMargin).After(l.IssuedAt)
	})
	slices.SortFunc(next.Entries, compareRevoked)
	next.Entries = slices.CompactFunc(next.Entries, func(a, b RevokedCertificate) bool { return a.Hash == b.Hash })
	if len(next.Entries) > maxRevoked {
		return invalid("3", "a list of revocations has at most 65,536 entries")
	}
	next.Signature = sign(identity, labelRevocationList, next.tbs())
	if _, err := ParseRevocationList(next.Marshal()); err != nil {
		return invalid("3", "a list of revocations keeps to the limits of its fields")
	}
	*l = next
	return nil
}

// Marshal is the TLS encoding.
func (l *RevocationList) Marshal() []byte {
	return encode(func(b *builder) {
		b.AddBytes(l.tbs())
		addVector(b, l.Signature)
	})
}

// ParseRevocationList reads a list and verifies nothing. It returns ErrMalformed.
func ParseRevocationList(b []byte) (*RevocationList, error) {
	l := new(RevocationList)
	if err := decode(b, l.read); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *RevocationList) read(s *input) bool {
	var version uint16
	return readLabel(s, labelRevocationList) &&
		s.ReadUint16(&version) && version == Version &&
		readDomain(s, &l.Domain) &&
		s.ReadUint64(&l.Number) &&
		readTime(s, &l.IssuedAt) &&
		readTime(s, &l.NotAfter) &&
		readList(s, maxRevoked, l.readRevoked) &&
		readSized(s, signatureSize, &l.Signature)
}

// readRevoked reads one entry, which comes after the one before it in the order of hashes.
func (l *RevocationList) readRevoked(s *input) bool {
	var r RevokedCertificate
	ok := readFixed(s, r.Hash[:]) && readDay(s, &r.NotAfter) &&
		(len(l.Entries) == 0 || compareRevoked(l.Entries[len(l.Entries)-1], r) < 0)
	l.Entries = append(l.Entries, r)
	return ok
}

// Verify checks the list's signature by its domain's identity key, its dates (a clock may be an hour behind the domain's), and that it is not older than one
// that was seen: minNumber is that one's number, 0 for none. The caller knows that identityKey is the domain's and that Domain is the one it asked for.
// It returns ErrUnauthenticated or a *RuleError.
func (l *RevocationList) Verify(identityKey []byte, now time.Time, minNumber uint64) error {
	if err := verify(identityKey, labelRevocationList, l.tbs(), l.Signature); err != nil {
		return err
	}
	switch {
	case now.Add(clockSkew).Before(l.IssuedAt) || !now.Before(l.NotAfter):
		return invalid("3", "the list of revocations is in date")
	case l.Number < minNumber:
		return invalid("3", "the number of a list of revocations never goes back")
	}
	return nil
}

// Revoked says whether the list names the certificate. A list says nothing about another domain's certificates, nor about those that expired more than
// 100 days ago.
func (l *RevocationList) Revoked(c *ClientCertificate) bool {
	_, found := slices.BinarySearchFunc(l.Entries, RevokedCertificate{Hash: c.Hash()}, compareRevoked)
	return found && c.User.Domain() == l.Domain
}
