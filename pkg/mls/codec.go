package mls

import (
	"encoding/binary"

	"golang.org/x/crypto/cryptobyte"
)

// marshaler is a wire struct of RFC 9420 that can be written.
type marshaler interface{ marshal(b *cryptobyte.Builder) }

// parser is a wire struct of RFC 9420 that can be read. A parse that returns false leaves the value undefined.
type parser interface {
	parse(s *cryptobyte.String) bool
}

// marshal returns the encoding of m.
//
// A Builder fails only if a vector reaches 2^30 bytes. Received values are bounded by maxVector, so a failure is a
// local caller's bug, and the panic of BytesOrPanic is the honest answer.
func marshal(m marshaler) []byte {
	var b cryptobyte.Builder
	m.marshal(&b)
	return b.BytesOrPanic()
}

// parse reads exactly one p from b. Parsed values never alias b.
func parse(b []byte, p parser) error {
	s := cryptobyte.String(b)
	if len(b) > maxMessage || !p.parse(&s) || !s.Empty() {
		return ErrMalformed // one error: a peer must not learn which byte
	}
	return nil
}

// readVarint reads a variable-size length, RFC 9420 §2.1.2. It rejects every length that is not in its shortest form.
func readVarint(s *cryptobyte.String, n *uint32) bool {
	var first uint8
	if !s.ReadUint8(&first) {
		return false
	}
	prefix := first >> 6
	if prefix == 3 {
		return false
	}
	v := uint32(first & 0x3f)
	for range 1<<prefix - 1 {
		var next uint8
		if !s.ReadUint8(&next) {
			return false
		}
		v = v<<8 | uint32(next)
	}
	*n = v
	return prefix == 0 || v >= 1<<(8*(1<<(prefix-1))-2)
}

// writeVarint writes the shortest form of n.
func writeVarint(b *cryptobyte.Builder, n int) {
	if n >= 1<<30 {
		b.SetError(ErrMalformed)
		return
	}
	var buf [4]byte
	b.AddBytes(appendVarint(buf[:0], n))
}

// appendVarint appends the shortest form of n, RFC 9420 §2.1.2. Lengths from 2^30 on have none; no caller has such.
func appendVarint(b []byte, n int) []byte {
	switch {
	case n < 1<<6:
		return append(b, byte(n))
	case n < 1<<14:
		return binary.BigEndian.AppendUint16(b, 1<<14|uint16(n))
	case n < 1<<30:
		return binary.BigEndian.AppendUint32(b, 2<<30|uint32(n))
	default:
		panic("mls: vector of 2^30 bytes")
	}
}

// varintLen returns the length of the shortest form of n.
func varintLen(n int) int {
	var buf [4]byte
	return len(appendVarint(buf[:0], n))
}

// appendOpaque appends opaque<V>.
func appendOpaque(b, v []byte) []byte { return append(appendVarint(b, len(v)), v...) }

// readSlice reads a vector's length and returns its content without copying it.
func readSlice(s *cryptobyte.String, out *cryptobyte.String) bool {
	return readUpTo(s, maxVector, out)
}

// readState is readSlice for a part of a stored state.
func readState(s *cryptobyte.String, out *cryptobyte.String) bool { return readUpTo(s, maxState, out) }

func readUpTo(s *cryptobyte.String, limit uint32, out *cryptobyte.String) bool {
	var n uint32
	return readVarint(s, &n) && n <= limit && s.ReadBytes((*[]byte)(out), int(n))
}

// readOpaque reads opaque<V> into a new slice. An empty vector gives an empty, non-nil slice.
func readOpaque(s *cryptobyte.String, out *[]byte) bool {
	var content cryptobyte.String
	if !readSlice(s, &content) {
		return false
	}
	*out = append(make([]byte, 0, len(content)), content...)
	return true
}

// readView reads opaque<V> without copying it. What is read so shares the memory of what it is read from: the parse method that calls
// readView says of what its value is a view, and whoever calls that on bytes that are not its own gives it a copy.
func readView(s *cryptobyte.String, out *[]byte) bool {
	var content cryptobyte.String
	ok := readSlice(s, &content)
	*out = content[:len(content):len(content)] // what follows is not to be appended to
	return ok
}

// skipVectors passes over n vectors.
func skipVectors(s *cryptobyte.String, n int) bool {
	var content cryptobyte.String
	for range n {
		if !readSlice(s, &content) {
			return false
		}
	}
	return true
}

// writeOpaque writes opaque<V>.
func writeOpaque(b *cryptobyte.Builder, v []byte) {
	writeVarint(b, len(v))
	b.AddBytes(v)
}

// readVector reads T items<V>: it calls item until the vector's content is used up, at most limit times.
func readVector(s *cryptobyte.String, limit int, item func(s *cryptobyte.String) bool) bool {
	var content cryptobyte.String
	if !readSlice(s, &content) {
		return false
	}
	for n := 0; !content.Empty(); n++ {
		before := len(content)
		if n == limit || !item(&content) || len(content) == before {
			return false
		}
	}
	return true
}

// writeVector writes the vector whose content is what items writes.
func writeVector(b *cryptobyte.Builder, items func(b *cryptobyte.Builder)) {
	var content cryptobyte.Builder
	items(&content)
	v, err := content.Bytes()
	if err != nil {
		b.SetError(err)
		return
	}
	writeOpaque(b, v)
}

// readOptional reads the presence octet of optional<T>, which is 0 or 1, RFC 9420 §2.1.1.
func readOptional(s *cryptobyte.String, present *bool) bool {
	var v uint8
	if !s.ReadUint8(&v) || v > 1 {
		return false
	}
	*present = v == 1
	return true
}

// writeOptional writes the presence octet of optional<T>.
func writeOptional(b *cryptobyte.Builder, present bool) {
	if present {
		b.AddUint8(1)
		return
	}
	b.AddUint8(0)
}

// readUint16s reads a vector of 16-bit code points.
func readUint16s[T ~uint16](s *cryptobyte.String, limit int, out *[]T) bool {
	var content cryptobyte.String
	if !readSlice(s, &content) || len(content)%2 != 0 || len(content)/2 > limit {
		return false
	}
	*out = nil
	if len(content) > 0 {
		*out = make([]T, len(content)/2)
	}
	for i := range *out {
		(*out)[i] = T(binary.BigEndian.Uint16(content[2*i:]))
	}
	return true
}

// writeUint16s writes a vector of 16-bit code points.
func writeUint16s[T ~uint16](b *cryptobyte.Builder, vs []T) {
	writeVarint(b, 2*len(vs))
	for _, v := range vs {
		b.AddUint16(uint16(v))
	}
}
