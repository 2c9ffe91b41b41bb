package mls

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"

	"github.com/cloudflare/circl/dh/x25519"
	"github.com/cloudflare/circl/dh/x448"
)

// x25519Group is X25519 of RFC 7748. circl's takes a quarter less time than crypto/ecdh's to exchange, and half to make a key.
type x25519Group struct{}

type x25519Key struct{ secret, point x25519.Key }

func newX25519Key(secret []byte) *x25519Key {
	k := new(x25519Key)
	copy(k.secret[:], secret)
	x25519.KeyGen(&k.point, &k.secret)
	return k
}

func (x25519Group) parse(secret []byte) (dhKey, error) {
	if len(secret) != x25519.Size {
		return nil, ErrMalformed
	}
	return newX25519Key(secret), nil
}

func (x25519Group) generate() (dhKey, error) {
	var secret x25519.Key
	defer clear(secret[:])
	rand.Read(secret[:])
	return newX25519Key(secret[:]), nil
}

func (x25519Group) derive(candidate func(label string, context, out []byte)) (dhKey, error) {
	var secret x25519.Key
	defer clear(secret[:])
	candidate("sk", nil, secret[:])
	return newX25519Key(secret[:]), nil
}

// valid reports whether b is a public key of X25519 that is not of small order. X25519 ignores the top bit.
func (x25519Group) valid(b []byte) bool {
	if len(b) != x25519.Size {
		return false
	}
	u := x25519.Key(b)
	u[x25519.Size-1] &= 0x7f
	return !lowOrderX25519[u]
}

func (k *x25519Key) public() []byte  { return k.point[:] }
func (k *x25519Key) private() []byte { return bytes.Clone(k.secret[:]) }
func (k *x25519Key) clone() dhKey    { c := *k; return &c }
func (k *x25519Key) erase()          { clear(k.secret[:]) }

func (k *x25519Key) exchange(public []byte) ([]byte, bool) {
	if len(public) != x25519.Size {
		return nil, false
	}
	var shared, other x25519.Key
	copy(other[:], public)
	if !x25519.Shared(&shared, &k.secret, &other) {
		return nil, false
	}
	return shared[:], true
}

// lowOrderX25519 are the u-coordinates of the points of small order on Curve25519 and its twist, as they can be written
// in 255 bits: 0, 1, the two of order 8, p-1, p and p+1. Diffie-Hellman with one of them gives zero, which RFC 9180
// §7.1.4 makes an error.
var lowOrderX25519 = map[x25519.Key]bool{
	{}:     true,
	{0: 1}: true,
	x25519.Key{
		0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
		0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
	}: true,
	x25519.Key{
		0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
		0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
	}: true,
	nearX25519Prime(0xec): true,
	nearX25519Prime(0xed): true,
	nearX25519Prime(0xee): true,
}

// nearX25519Prime returns p-1, p or p+1 by its lowest byte; p is 2^255-19.
func nearX25519Prime(low byte) (b x25519.Key) {
	for i := range b {
		b[i] = 0xff
	}
	b[0], b[x25519.Size-1] = low, 0x7f
	return b
}

// x448Group is X448 of RFC 7748.
type x448Group struct{}

type x448Key struct{ secret, point x448.Key }

func newX448Key(secret []byte) *x448Key {
	k := new(x448Key)
	copy(k.secret[:], secret)
	x448.KeyGen(&k.point, &k.secret)
	return k
}

func (x448Group) parse(secret []byte) (dhKey, error) {
	if len(secret) != x448.Size {
		return nil, ErrMalformed
	}
	return newX448Key(secret), nil
}

func (x448Group) generate() (dhKey, error) {
	var secret x448.Key
	defer clear(secret[:])
	rand.Read(secret[:])
	return newX448Key(secret[:]), nil
}

func (x448Group) derive(candidate func(label string, context, out []byte)) (dhKey, error) {
	var secret x448.Key
	defer clear(secret[:])
	candidate("sk", nil, secret[:])
	return newX448Key(secret[:]), nil
}

// valid reports whether b is a public key of X448 that is not of small order.
func (x448Group) valid(b []byte) bool {
	return len(b) == x448.Size && !lowOrderX448[x448.Key(b)]
}

func (k *x448Key) public() []byte  { return k.point[:] }
func (k *x448Key) private() []byte { return bytes.Clone(k.secret[:]) }
func (k *x448Key) clone() dhKey    { c := *k; return &c }
func (k *x448Key) erase()          { clear(k.secret[:]) }

func (k *x448Key) exchange(public []byte) ([]byte, bool) {
	if len(public) != x448.Size {
		return nil, false
	}
	var shared, other x448.Key
	copy(other[:], public)
	if !x448.Shared(&shared, &k.secret, &other) {
		return nil, false
	}
	return shared[:], true
}

// lowOrderX448 are the u-coordinates of the points of small order on Curve448 and its twist as they can be written in 448
// bits: 0, 1, p-1, p and p+1, for p = 2^448 - 2^224 - 1.
var lowOrderX448 = map[x448.Key]bool{
	{}:                        true,
	{0: 1}:                    true,
	nearX448Prime(0xfe, 0xff): true,
	nearX448Prime(0xff, 0xff): true,
	nearX448Prime(0x00, 0x00): true,
}

// nearX448Prime returns p-1, p or p+1 by the lowest byte and the 27 above it.
func nearX448Prime(low, rest byte) (b x448.Key) {
	for i := range b {
		b[i] = 0xff
	}
	b[0] = low
	for i := 1; i < 28; i++ {
		b[i] = rest
	}
	if b[28] = 0xfe; rest == 0 {
		b[28] = 0xff
	}
	return b
}

// nistGroup is one of the NIST curves of RFC 9180 §7.1. Public keys are uncompressed points.
type nistGroup struct {
	curve     ecdh.Curve
	secretLen int
	mask      byte // of a candidate's first byte, RFC 9180 §7.1.3
}

type nistKey struct {
	key   *ecdh.PrivateKey
	point []byte
}

func newNISTKey(key *ecdh.PrivateKey, err error) (dhKey, error) {
	if err != nil {
		return nil, err
	}
	return &nistKey{key, key.PublicKey().Bytes()}, nil
}

func (g *nistGroup) parse(secret []byte) (dhKey, error) {
	return newNISTKey(g.curve.NewPrivateKey(secret))
}

func (g *nistGroup) generate() (dhKey, error) { return newNISTKey(g.curve.GenerateKey(rand.Reader)) }

// derive tries candidates until one is a scalar of the curve, RFC 9180 §7.1.3. Not even two are expected.
func (g *nistGroup) derive(candidate func(label string, context, out []byte)) (dhKey, error) {
	secret := make([]byte, g.secretLen)
	defer clear(secret)
	for i := range 256 {
		candidate("candidate", []byte{byte(i)}, secret)
		secret[0] &= g.mask
		if key, err := g.parse(secret); err == nil {
			return key, nil
		}
	}
	return nil, ErrMalformed
}

// valid reports whether b is an uncompressed point of the curve, and not the one at infinity.
func (g *nistGroup) valid(b []byte) bool {
	_, err := g.curve.NewPublicKey(b)
	return err == nil
}

func (k *nistKey) public() []byte  { return k.point }
func (k *nistKey) private() []byte { return k.key.Bytes() }

func (k *nistKey) clone() dhKey { return k }

// erase can do nothing: crypto/ecdh gives no way to its copy of the secret.
func (k *nistKey) erase() {}

func (k *nistKey) exchange(public []byte) ([]byte, bool) {
	other, err := k.key.Curve().NewPublicKey(public)
	if err != nil {
		return nil, false
	}
	shared, err := k.key.ECDH(other)
	return shared, err == nil
}
