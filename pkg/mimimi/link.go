package mimimi

import (
	"crypto/subtle"
	"encoding/base32"
	"strings"

	"mimimi.example/pkg/mls"
)

// LinkOffer is what a new client leaves in its user's mailbox, so that a client that is there lets it in (§5). Nothing in it is secret, and nothing is signed: the code,
// which a person reads off one screen and types at the other, says that it is the new client's.
type LinkOffer struct {
	User         User
	Client       Client
	SignatureKey []byte // Ed25519, of the certificate that the client is to get
	HPKEKey      []byte // X25519, to which the answer is sealed
}

// Marshal is the TLS encoding.
func (o *LinkOffer) Marshal() []byte {
	return labelled(labelLinkOffer, func(b *builder) {
		b.AddUint16(Version)
		addName(b, o.User.Wire())
		addName(b, o.Client.Wire())
		addVector(b, o.SignatureKey)
		addVector(b, o.HPKEKey)
	})
}

// ParseLinkOffer reads an offer. It returns ErrMalformed.
func ParseLinkOffer(b []byte) (*LinkOffer, error) {
	o := new(LinkOffer)
	err := decode(b, func(s *input) bool {
		var version uint16
		return readLabel(s, labelLinkOffer) &&
			s.ReadUint16(&version) && version == Version &&
			readName(s, ParseUser, &o.User) &&
			readName(s, ParseClient, &o.Client) &&
			readSized(s, keySize, &o.SignatureKey) &&
			readSized(s, keySize, &o.HPKEKey) &&
			o.User.Domain() == o.Client.Domain()
	})
	if err != nil {
		return nil, err
	}
	return o, nil
}

// linkCodeSize is the length of a code without its dashes: 60 bits.
const linkCodeSize = 12

var linkCodeAlphabet = base32.StdEncoding.WithPadding(base32.NoPadding)

// Code is what a person carries from the new client to one that is there: twelve letters and digits in groups of four. Whoever wants another offer accepted under it must
// find one with the same 60 bits of SHA-256 within the ten minutes that an offer waits: 2^60 hashes, 2·10^15 a second.
func (o *LinkOffer) Code() string {
	c := o.code()
	return c[:4] + "-" + c[4:8] + "-" + c[8:]
}

func (o *LinkOffer) code() string {
	h := hashOf(labelLinkCode, func(b *builder) { addVector(b, o.Marshal()) })
	return linkCodeAlphabet.EncodeToString(h[:])[:linkCodeSize]
}

// HasCode says in constant time whether the offer's code is the one that a person typed: case, dashes and spaces do not matter.
func (o *LinkOffer) HasCode(typed string) bool {
	typed = strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(typed))
	return subtle.ConstantTimeCompare([]byte(o.code()), []byte(typed)) == 1
}

// LinkAnswer is what a client that is there hands to a new one (§5): enough to enter the group of the user's own clients, where everything else follows.
type LinkAnswer struct {
	Client        Client // who approves
	ReplyKey      []byte // X25519, fresh: the new client's KeyPackage is sealed to it
	Group         GroupID
	UserPseudonym UserPseudonym // of the user in that group
	ConnectionKey ConnectionKey
	IdentityKey   []byte // of the domain, to be compared with the one that the new client was given
}

// linkAAD ties what is sealed to one offer and one way.
func linkAAD(l label, o *LinkOffer, approver Client) []byte {
	return labelled(l, func(b *builder) {
		addVector(b, o.Marshal())
		if !approver.IsZero() {
			addName(b, approver.Wire())
		}
	})
}

func (a *LinkAnswer) marshal() []byte {
	return encode(func(b *builder) {
		addName(b, a.Client.Wire())
		addVector(b, a.ReplyKey)
		addName(b, a.Group.Wire())
		addName(b, a.UserPseudonym.Wire())
		b.AddBytes(a.ConnectionKey.Bytes())
		addVector(b, a.IdentityKey)
	})
}

func (a *LinkAnswer) read(s *input) bool {
	return readName(s, ParseClient, &a.Client) &&
		readSized(s, keySize, &a.ReplyKey) &&
		readName(s, func(id string) (GroupID, error) { return ParseGroupID([]byte(id)) }, &a.Group) &&
		readName(s, ParseUserPseudonym, &a.UserPseudonym) &&
		readSecret(s, &a.ConnectionKey.secret) &&
		readSized(s, keySize, &a.IdentityKey)
}

// SealedLinkAnswerSize and SealedLinkPackageSize are the lengths of what passes the mailbox: an X25519 encapsulation, then the padded ciphertext.
const (
	SealedLinkAnswerSize  = keySize + linkAnswerSize + tagSize
	SealedLinkPackageSize = keySize + linkPackageSize + tagSize
)

// SealLinkAnswer seals the answer to an offer whose code was compared. It returns a *RuleError.
func SealLinkAnswer(a *LinkAnswer, o *LinkOffer) ([]byte, error) {
	if a.Client.IsZero() || a.Client == o.Client || len(a.ReplyKey) != keySize || len(a.IdentityKey) != keySize || a.Group.IsZero() || a.UserPseudonym.IsZero() ||
		a.ConnectionKey.IsZero() {
		return nil, invalid("5", "an answer to an offer has all its fields")
	}
	return sealPadded(o.HPKEKey, linkAAD(labelLinkAnswer, o, Client{}), a.marshal(), linkAnswerSize)
}

// OpenLinkAnswer opens what was sealed to the own offer. It returns ErrMalformed or ErrUnauthenticated.
func OpenLinkAnswer(sealed []byte, priv mls.HPKEPrivateKey, o *LinkOffer) (*LinkAnswer, error) {
	plain, err := openSealed(sealed, priv, linkAAD(labelLinkAnswer, o, Client{}), SealedLinkAnswerSize)
	if err != nil {
		return nil, err
	}
	a := new(LinkAnswer)
	if err := decodePadded(plain, a.read); err != nil {
		return nil, err
	}
	return a, nil
}

// SealLinkPackage seals the new client's KeyPackage for the group of the user's own clients to the reply key of the answer. It returns a *RuleError.
func SealLinkPackage(kp *mls.KeyPackage, a *LinkAnswer, o *LinkOffer) ([]byte, error) {
	plain := encode(func(b *builder) { addVector(b, kp.Marshal()) })
	return sealPadded(a.ReplyKey, linkAAD(labelLinkPackage, o, a.Client), plain, linkPackageSize)
}

// OpenLinkPackage opens the new client's KeyPackage. approver is the own client. The caller checks whose KeyPackage it is. It returns ErrMalformed or ErrUnauthenticated.
func OpenLinkPackage(sealed []byte, reply mls.HPKEPrivateKey, o *LinkOffer, approver Client) (*mls.KeyPackage, error) {
	plain, err := openSealed(sealed, reply, linkAAD(labelLinkPackage, o, approver), SealedLinkPackageSize)
	if err != nil {
		return nil, err
	}
	var b []byte
	if err := decodePadded(plain, func(s *input) bool { return readVector(s, &b) }); err != nil {
		return nil, err
	}
	kp, err := mls.ParseKeyPackage(b)
	if err != nil {
		return nil, ErrMalformed
	}
	return kp, nil
}

func sealPadded(pub, aad, plain []byte, size int) ([]byte, error) {
	padded, ok := pad(plain, size)
	if !ok {
		return nil, invalid("5", "what is sealed for a new client fits its padding")
	}
	kem, ct, err := Suite.HPKESeal(pub, nil, aad, padded)
	if err != nil {
		return nil, invalid("5", "a client's key is of suite 1")
	}
	return append(kem, ct...), nil
}

func openSealed(sealed []byte, priv mls.HPKEPrivateKey, aad []byte, size int) ([]byte, error) {
	if len(sealed) != size {
		return nil, ErrMalformed
	}
	plain, err := Suite.HPKEOpen(priv, nil, aad, sealed[:keySize], sealed[keySize:])
	if err != nil {
		return nil, ErrUnauthenticated
	}
	return plain, nil
}
