package mls

import (
	"bytes"
	"crypto/rand"
	"crypto/sha3"

	"github.com/cloudflare/circl/kem/mlkem/mlkem768"
	"github.com/cloudflare/circl/kem/xwing"
)

// xwingKEM is X-Wing, draft-connolly-cfrg-xwing-kem: ML-KEM-768 and X25519 in one. circl's takes half the time of
// crypto/hpke's MLKEM768X25519, which is the same mechanism under another DeriveKeyPair.
type xwingKEM struct{}

type xwingKey struct {
	seed  [xwing.SeedSize]byte
	key   *xwing.PrivateKey
	point []byte
}

func newXWingKey(seed []byte) *xwingKey {
	private, public := xwing.DeriveKeyPair(seed)
	k := &xwingKey{key: private, point: make([]byte, xwing.PublicKeySize)}
	copy(k.seed[:], seed)
	public.Pack(k.point)
	return k
}

func (xwingKEM) id() uint16 { return 0x647a }

func (xwingKEM) parse(private []byte) (kemKey, error) {
	if len(private) != xwing.SeedSize {
		return nil, ErrMalformed
	}
	return newXWingKey(private), nil
}

func (xwingKEM) generate() (kemKey, error) {
	var seed [xwing.SeedSize]byte
	defer clear(seed[:])
	rand.Read(seed[:])
	return newXWingKey(seed[:]), nil
}

// derive hashes the input to a seed with SHAKE256, as the draft has it.
func (xwingKEM) derive(ikm []byte) (kemKey, error) {
	seed := sha3.SumSHAKE256(ikm, xwing.SeedSize)
	defer clear(seed)
	return newXWingKey(seed), nil
}

// valid reports whether both halves are public keys of theirs. A point of small order would leave the secret to ML-KEM
// alone, and libraries that refuse it could not make a path past it.
func (xwingKEM) valid(b []byte) bool {
	var public xwing.PublicKey
	return len(b) == xwing.PublicKeySize && public.Unpack(b) == nil && x25519Group{}.valid(b[mlkem768.PublicKeySize:])
}

func (xwingKEM) encap(public []byte) (shared, output []byte, err error) {
	var key xwing.PublicKey
	if len(public) != xwing.PublicKeySize || key.Unpack(public) != nil {
		return nil, nil, ErrMalformed
	}
	shared, output = make([]byte, xwing.SharedKeySize), make([]byte, xwing.CiphertextSize)
	key.EncapsulateTo(output, shared, nil)
	return shared, output, nil
}

func (k *xwingKey) public() []byte  { return k.point }
func (k *xwingKey) private() []byte { return bytes.Clone(k.seed[:]) }

func (k *xwingKey) clone() kemKey { c := *k; return &c }

// erase clears the seed and drops what was expanded from it, to which circl gives no way.
func (k *xwingKey) erase() {
	clear(k.seed[:])
	k.key = nil
}

func (k *xwingKey) decap(output []byte) ([]byte, error) {
	if len(output) != xwing.CiphertextSize || k.key == nil {
		return nil, ErrUnauthenticated
	}
	shared := make([]byte, xwing.SharedKeySize)
	k.key.DecapsulateTo(shared, output)
	return shared, nil
}
