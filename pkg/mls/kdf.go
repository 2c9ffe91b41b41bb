package mls

import (
	"crypto/subtle"
	"encoding/binary"
	"hash"
	"sync"
)

// kdf is one hash function with HMAC (RFC 2104) and HKDF (RFC 5869) over it. MLS derives a handful of secrets for every
// message and hundreds for a commit, each under a key of its own, and crypto/hmac allocates six objects for each key: so
// the states are pooled here, and whatever secret they held is cleared before they go back.
type kdf struct {
	newHash func() hash.Hash
	size    int // Nh
	block   int // of the hash's input
	states  sync.Pool
}

func newKDF(newHash func() hash.Hash) *kdf {
	h := newHash()
	return &kdf{newHash: newHash, size: h.Size(), block: h.BlockSize()}
}

// macState is HMAC under one key. Whoever takes one from under releases it.
type macState struct {
	kdf   *kdf
	hash  hash.Hash
	inner []byte // the key as the inner and the outer hash take it in
	outer []byte
	sum   []byte // the last result
	msg   []byte // for the caller to append a message to, which derive then takes; empty at first

	counter [1]byte
}

// under returns HMAC's state for a key of any length.
func (k *kdf) under(key []byte) *macState {
	s, ok := k.states.Get().(*macState)
	if !ok {
		s = &macState{
			kdf: k, hash: k.newHash(),
			inner: make([]byte, k.block), outer: make([]byte, k.block), sum: make([]byte, 0, k.size), msg: make([]byte, 0, 256),
		}
	}
	if len(key) > k.block {
		s.hash.Reset()
		s.hash.Write(key)
		copy(s.inner, s.hash.Sum(s.sum[:0]))
	} else {
		copy(s.inner, key)
	}
	copy(s.outer, s.inner)
	for i := range s.inner {
		s.inner[i] ^= 0x36
		s.outer[i] ^= 0x5c
	}
	return s
}

// maxPooled bounds the message buffer that a released state keeps: labels, and contexts such as a GroupContext, fit.
const maxPooled = 1 << 12

// release clears s and gives it back. Results of its methods are undefined from then on.
func (s *macState) release() {
	clear(s.inner)
	clear(s.outer)
	clear(s.sum[:cap(s.sum)])
	clear(s.msg[:cap(s.msg)])
	if s.msg = s.msg[:0]; cap(s.msg) > maxPooled {
		s.msg = nil
	}
	s.hash.Reset()
	s.kdf.states.Put(s)
}

// mac returns HMAC of the message, given in parts. The result is the state's until the next call.
func (s *macState) mac(message ...[]byte) []byte {
	s.hash.Reset()
	s.hash.Write(s.inner)
	for _, part := range message {
		s.hash.Write(part)
	}
	return s.finish()
}

// finish makes the outer hash.
func (s *macState) finish() []byte {
	s.sum = s.hash.Sum(s.sum[:0])
	s.hash.Reset()
	s.hash.Write(s.outer)
	s.hash.Write(s.sum)
	s.sum = s.hash.Sum(s.sum[:0])
	return s.sum
}

// expand fills out with HKDF-Expand of the key and the info in s.msg. It panics if out is longer than 255 hashes: lengths
// come from this package or its caller, not from peers.
func (s *macState) expand(out []byte) {
	if len(out) > 255*s.kdf.size {
		panic("mls: KDF.Expand: length out of bounds")
	}
	for i := 1; len(out) > 0; i++ {
		s.hash.Reset()
		s.hash.Write(s.inner)
		if i > 1 {
			s.hash.Write(s.sum)
		}
		s.hash.Write(s.msg)
		s.counter[0] = byte(i)
		s.hash.Write(s.counter[:])
		out = out[copy(out, s.finish()):]
	}
}

// hpkeVersion begins the input of HPKE's labelled functions, RFC 9180 §4.
const hpkeVersion = "HPKE-v1"

// labeledExtract is LabeledExtract, RFC 9180 §4. suite is the suite_id.
func (k *kdf) labeledExtract(suite string, salt []byte, label string, ikm []byte) []byte {
	s := k.under(salt)
	defer s.release()
	s.msg = append(append(append(append(s.msg, hpkeVersion...), suite...), label...), ikm...)
	return append([]byte(nil), s.mac(s.msg)...)
}

// labeledExpand fills out with LabeledExpand, RFC 9180 §4, of the state's key. The info is given in two parts.
func (s *macState) labeledExpand(suite, label string, info, more, out []byte) {
	s.msg = binary.BigEndian.AppendUint16(s.msg[:0], uint16(len(out)))
	s.msg = append(append(append(s.msg, hpkeVersion...), suite...), label...)
	s.msg = append(append(s.msg, info...), more...)
	s.expand(out)
}

// mac is HMAC with the suite's hash, the MAC of RFC 9420 §5.1. The message is given in parts.
func (cs CipherSuite) mac(key []byte, message ...[]byte) []byte {
	s := cs.row().kdf.under(key)
	defer s.release()
	return append([]byte(nil), s.mac(message...)...)
}

// verifyMAC compares in constant time.
func (cs CipherSuite) verifyMAC(key, message, tag []byte) bool {
	s := cs.row().kdf.under(key)
	defer s.release()
	return subtle.ConstantTimeCompare(s.mac(message), tag) == 1
}

// extract is KDF.Extract(salt, ikm). A nil salt or ikm is the zero-length string, not Nh zeros.
func (cs CipherSuite) extract(salt, ikm []byte) []byte {
	return cs.mac(salt, ikm) // RFC 5869: PRK = HMAC-Hash(salt, IKM)
}

// ExpandWithLabel is RFC 9420 §8: KDFLabel's label is "MLS 1.0 " + label. n is in bytes, at most 255 hashes.
func (cs CipherSuite) ExpandWithLabel(secret []byte, label string, context []byte, n int) []byte {
	out := make([]byte, n)
	cs.expandLabels(secret, context, labelled{label, out})
	return out
}

// labelled is one output of expandLabels.
type labelled struct {
	label string
	out   []byte
}

// expandLabels fills each output with ExpandWithLabel of one secret and one context.
func (cs CipherSuite) expandLabels(secret, context []byte, outputs ...labelled) {
	s := cs.row().kdf.under(secret)
	defer s.release()
	for _, o := range outputs {
		// KDFLabel, RFC 9420 §8.
		s.msg = binary.BigEndian.AppendUint16(s.msg[:0], uint16(len(o.out)))
		s.msg = appendVarint(s.msg, len(labelPrefix)+len(o.label))
		s.msg = append(append(s.msg, labelPrefix...), o.label...)
		s.msg = appendOpaque(s.msg, context)
		s.expand(o.out)
	}
}

// deriveSecret is DeriveSecret, RFC 9420 §8.
func (cs CipherSuite) deriveSecret(secret []byte, label string) []byte {
	return cs.ExpandWithLabel(secret, label, nil, cs.HashLen())
}

// deriveTreeSecret is DeriveTreeSecret, RFC 9420 §9.
func (cs CipherSuite) deriveTreeSecret(secret []byte, label string, generation uint32, n int) []byte {
	return cs.ExpandWithLabel(secret, label, binary.BigEndian.AppendUint32(nil, generation), n)
}
