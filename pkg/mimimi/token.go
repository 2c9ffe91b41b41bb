package mimimi

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/cloudflare/circl/blindsign/blindrsa"
)

// TokenOperation is what an anonymous token is good for (§11). Each has issuer keys and a quota of its own.
type TokenOperation string

// The operations that take a token.
const (
	TokenQueue   TokenOperation = "queue"              // to create a queue, at the own provider
	TokenUpload  TokenOperation = "upload"             // to upload KeyPackages, to the own domain's store
	TokenGroup   TokenOperation = "create group"       // at any hub
	TokenClaim   TokenOperation = "claim"              // of a KeyPackage set, at any store
	TokenConnect TokenOperation = "connection request" // to deposit one in any inbox
)

// TokenOperations are all of them, in the order in which documents and batches hold them.
func TokenOperations() []TokenOperation {
	return []TokenOperation{TokenClaim, TokenConnect, TokenGroup, TokenQueue, TokenUpload}
}

// AtHome says whether only tokens that the redeeming domain issued itself are taken: what is stored for long is paid for by whose user it is.
func (o TokenOperation) AtHome() bool { return o == TokenQueue || o == TokenUpload }

// Bounds of tokens.
const (
	// MaxTokenBatch is the largest number of tokens of one client and epoch, over all operations: 128 KiB of blinded messages, and two seconds of
	// signing.
	MaxTokenBatch = 512
	// TokenExchange is how many tokens are exchanged at a time: a fixed number, so that it tells clients apart by nothing.
	TokenExchange = 8
)

// Sizes of RFC 9578 §6 (token type 0x0002) and of keys.
const (
	tokenTypeBlindRSA = 0x0002
	rsaSize           = 256
	tokenNonceSize    = 32
	tokenSize         = 2 + tokenNonceSize + 2*hashSize + rsaSize
	issuerKeySize     = 342
	issuerExponent    = 65537
)

// issuerKeyHead and issuerKeyTail are the DER of a SubjectPublicKeyInfo with id-RSASSA-PSS (SHA-384, MGF1 with SHA-384, a salt of 48 bytes: RFC 9578
// §6.5) before and after the modulus. With 2,048 bits and the exponent 65,537 nothing else in it may vary.
var (
	issuerKeyHead = mustHex("30820152303d06092a864886f70d01010a3030a00d300b0609608648016503040202a11a301806092a864886f70d010108300b0609608648016503040202" +
		"a2030201300382010f003082010a0282010100")
	issuerKeyTail = mustHex("0203010001")
)

func mustHex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err) // a constant of this file
	}
	return b
}

// IssuerKey is a domain's public key for the tokens of one operation and epoch.
type IssuerKey struct {
	Operation TokenOperation
	Epoch     uint64 // TokenEpoch
	Quota     uint16 // tokens for each client, all in one batch
	SPKI      []byte // DER
}

// NewIssuerKey names a public key. It returns a *RuleError if the key is not one of 2,048 bits with the exponent 65,537.
func NewIssuerKey(operation TokenOperation, epoch uint64, quota uint16, public *rsa.PublicKey) (*IssuerKey, error) {
	if public.N.BitLen() != 8*rsaSize || public.E != issuerExponent {
		return nil, invalid("11", "an issuer key is RSA with 2,048 bits and the exponent 65,537")
	}
	spki := bytes.Join([][]byte{issuerKeyHead, public.N.FillBytes(make([]byte, rsaSize)), issuerKeyTail}, nil)
	return &IssuerKey{Operation: operation, Epoch: epoch, Quota: quota, SPKI: spki}, nil
}

// GenerateIssuerKey makes a private key. It takes some tenths of a second.
func GenerateIssuerKey() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 8*rsaSize) }

// issuerModulus is the modulus in an SPKI, nil if that is not of the one form.
func issuerModulus(spki []byte) *big.Int {
	n, ok := bytes.CutPrefix(spki, issuerKeyHead)
	if ok {
		n, ok = bytes.CutSuffix(n, issuerKeyTail)
	}
	if !ok || len(n) != rsaSize || n[0] < 0x80 || n[rsaSize-1]&1 == 0 {
		return nil
	}
	return new(big.Int).SetBytes(n)
}

// client is the key ready for use. It returns ErrMalformed.
func (k *IssuerKey) client() (blindrsa.Client, error) {
	n := issuerModulus(k.SPKI)
	if n == nil {
		return blindrsa.Client{}, ErrMalformed
	}
	return blindrsa.NewClient(blindrsa.SHA384PSSDeterministic, &rsa.PublicKey{N: n, E: issuerExponent})
}

// id is token_key_id, RFC 9578 §6.5.
func (k *IssuerKey) id() [hashSize]byte { return sha256.Sum256(k.SPKI) }

// TokenEpoch is the week, counted from the first Monday of 1970, whose tokens are issued at a time.
func TokenEpoch(t time.Time) uint64 { return uint64(max(0, t.Sub(firstMonday)) / week) }

// EpochStart is when an epoch begins.
func EpochStart(epoch uint64) time.Time { return firstMonday.Add(time.Duration(epoch) * week) }

// AcceptedEpochs are the epochs whose tokens are accepted at a time, the oldest first: the present one and the one before, and for ten minutes around a
// turn of the week also what another clock takes for one of these.
func AcceptedEpochs(t time.Time) (epochs []uint64) {
	first, last := TokenEpoch(t.Add(-requestSkew)), TokenEpoch(t.Add(requestSkew))
	for e := max(first, 1) - 1; e <= last; e++ {
		epochs = append(epochs, e)
	}
	return epochs
}

// EpochEnd is when the last token of an epoch stops being accepted.
func EpochEnd(epoch uint64) time.Time { return EpochStart(epoch + 2).Add(requestSkew) }

var firstMonday = time.Date(1970, 1, 5, 0, 0, 0, 0, time.UTC)

// tokenChallenge is TokenChallenge, RFC 9577 §2.1: who issued a token, for what and when, and the one domain that may redeem it. All in it is checked
// where tokens are made, so that its lengths fit.
func tokenChallenge(k *IssuerKey, issuer, origin string) []byte {
	context := hashOf(labelTokenContext, func(b *builder) {
		addName(b, string(k.Operation))
		b.AddUint64(k.Epoch)
	})
	return encode(func(b *builder) {
		b.AddUint16(tokenTypeBlindRSA)
		b.AddUint16LengthPrefixed(func(b *builder) { b.AddBytes([]byte(issuer)) })
		b.AddUint8LengthPrefixed(func(b *builder) { b.AddBytes(context[:]) })
		b.AddUint16LengthPrefixed(func(b *builder) { b.AddBytes([]byte(origin)) })
	})
}

// tokenInput is what an authenticator signs, RFC 9578 §6.1.
func tokenInput(nonce, challengeDigest, keyID []byte) []byte {
	return encode(func(b *builder) {
		b.AddUint16(tokenTypeBlindRSA)
		b.AddBytes(nonce)
		b.AddBytes(challengeDigest)
		b.AddBytes(keyID)
	})
}

// TokenSeed derives the seed of the i-th token of an operation from a batch's 32 bytes: all that a client must keep of a batch until it has the answer.
func TokenSeed(batch []byte, operation TokenOperation, i int) []byte {
	seed := hashOf(labelTokenSeed, func(b *builder) {
		addVector(b, batch)
		addName(b, string(operation))
		b.AddUint32(uint32(i))
	})
	return seed[:]
}

// blinding is a token between blinding and finalising. It is made again from its seed.
type blinding struct {
	client  blindrsa.Client
	token   Token // without authenticator
	state   blindrsa.State
	blinded []byte
}

// newBlinding blinds a token; nonce, salt and blind are read from random, in this order.
func newBlinding(k *IssuerKey, issuer string, challenge []byte, random io.Reader) (*blinding, error) {
	x := &blinding{token: Token{issuer: issuer, challenge: sha256.Sum256(challenge), key: k.id()}}
	var err error
	if x.client, err = k.client(); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(random, x.token.nonce[:]); err != nil {
		return nil, err
	}
	if x.blinded, x.state, err = x.client.Blind(random, x.token.input()); err != nil {
		return nil, fmt.Errorf("blind a token: %w", err)
	}
	return x, nil
}

func seededBlinding(k *IssuerKey, issuer, origin string, seed []byte) (*blinding, error) {
	if CheckDomain(issuer) != nil || CheckDomain(origin) != nil {
		return nil, invalid("11", "issuer and redeemer are domains")
	}
	random := sha3.NewSHAKE256()
	_, _ = random.Write(labelled(labelTokenBlind, func(b *builder) { addVector(b, seed) })) // never fails
	return newBlinding(k, issuer, tokenChallenge(k, issuer, origin), random)
}

// BlindToken returns the message to be signed for a token that issuer issues under k and origin alone may redeem. seed is 32 secret bytes, for this token
// only; with them FinishToken turns the answer into the token, in a later process too. It returns ErrMalformed (the key) or a *RuleError.
func BlindToken(k *IssuerKey, issuer, origin string, seed []byte) ([]byte, error) {
	x, err := seededBlinding(k, issuer, origin, seed)
	if err != nil {
		return nil, err
	}
	return x.blinded, nil
}

// FinishToken returns the token, given what BlindToken was given and the signature over what it returned. It returns ErrUnauthenticated if the
// signature is not one.
func FinishToken(k *IssuerKey, issuer, origin string, seed, blindSignature []byte) (*Token, error) {
	x, err := seededBlinding(k, issuer, origin, seed)
	if err != nil {
		return nil, err
	}
	return x.finish(blindSignature)
}

func (x *blinding) finish(blindSignature []byte) (*Token, error) {
	authenticator, err := x.client.Finalize(x.state, blindSignature)
	if err != nil {
		return nil, ErrUnauthenticated
	}
	t := x.token
	copy(t.authenticator[:], authenticator)
	return &t, nil
}

// CheckBlinded says whether a message can be signed under k: a number below the modulus, in 256 bytes. It returns a *RuleError.
func (k *IssuerKey) CheckBlinded(blinded []byte) error {
	n := issuerModulus(k.SPKI)
	if n == nil || len(blinded) != rsaSize || new(big.Int).SetBytes(blinded).Cmp(n) >= 0 {
		return errBlinded
	}
	return nil
}

var errBlinded = invalid("11", "a blinded message is a number below the issuer key's modulus, in 256 bytes")

// SignBlinded signs a blinded message; the same one gets the same signature. It returns a *RuleError if the message is none.
func SignBlinded(key *rsa.PrivateKey, blinded []byte) ([]byte, error) {
	signature, err := blindrsa.NewSigner(key).BlindSign(blinded)
	if err != nil {
		return nil, errBlinded
	}
	return signature, nil
}

// Token is an anonymous token (Token, RFC 9577 §2.2) with the domain that issued it, as it is shown to a redeemer. It holds nothing else that could be
// known to the issuer.
type Token struct {
	issuer        string
	nonce         [tokenNonceSize]byte
	challenge     [hashSize]byte // digest
	key           [hashSize]byte // id
	authenticator [rsaSize]byte
}

// Format keeps a token out of what is printed.
func (t *Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[token]") }

func (t *Token) input() []byte { return tokenInput(t.nonce[:], t.challenge[:], t.key[:]) }

// Marshal is the encoding: opaque issuer<V>, then the 354 bytes of RFC 9577.
func (t *Token) Marshal() []byte {
	return encode(func(b *builder) {
		addName(b, t.issuer)
		b.AddBytes(t.wire())
	})
}

// wire is the token as RFC 9577 has it.
func (t *Token) wire() []byte { return append(t.input(), t.authenticator[:]...) }

// ParseToken reads a token and verifies nothing. It returns ErrMalformed.
func ParseToken(b []byte) (*Token, error) {
	t := new(Token)
	if err := decode(b, t.read); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *Token) read(s *input) bool {
	var kind uint16
	return readDomain(s, &t.issuer) &&
		s.ReadUint16(&kind) && kind == tokenTypeBlindRSA &&
		readFixed(s, t.nonce[:]) &&
		readFixed(s, t.challenge[:]) &&
		readFixed(s, t.key[:]) &&
		readFixed(s, t.authenticator[:])
}

// Issuer is the domain that the token says it was issued by.
func (t *Token) Issuer() string { return t.issuer }

// Verify checks that t was issued under k, which is the key of t's issuer for one operation and epoch, and for origin. It returns ErrUnauthenticated.
func (t *Token) Verify(k *IssuerKey, origin string) error {
	if t.key != k.id() || t.challenge != sha256.Sum256(tokenChallenge(k, t.issuer, origin)) {
		return ErrUnauthenticated
	}
	c, err := k.client()
	if err != nil || c.Verify(t.input(), t.authenticator[:]) != nil {
		return ErrUnauthenticated
	}
	return nil
}

// SpentName is what stands for the token where it is marked as spent.
func (t *Token) SpentName() []byte {
	name := hashOf(labelTokenSpent, func(b *builder) {
		addName(b, t.issuer)
		b.AddBytes(t.key[:])
		b.AddBytes(t.nonce[:])
	})
	return name[:]
}
