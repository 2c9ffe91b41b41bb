package mimimi

import (
	"bytes"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"mimimi.example/pkg/mls"
)

type (
	builder = cryptobyte.Builder
	input   = cryptobyte.String
)

// encode runs write on a fresh builder. Lengths are bounded by construction: a vector of 2^30 bytes or more is our own bug.
func encode(write func(b *builder)) []byte {
	b := new(builder)
	write(b)
	return b.BytesOrPanic()
}

// decode runs read over all of b: what read leaves over is an error.
func decode(b []byte, read func(s *input) bool) error {
	if s := input(b); !read(&s) || !s.Empty() {
		return ErrMalformed // one error: a peer must not learn which byte
	}
	return nil
}

// decodePadded is decode for a struct that zeros follow.
func decodePadded(b []byte, read func(s *input) bool) error {
	s := input(b)
	if !read(&s) || len(bytes.Trim(s, "\x00")) != 0 {
		return ErrMalformed
	}
	return nil
}

// pad appends zeros up to size; false if b is longer.
func pad(b []byte, size int) ([]byte, bool) {
	if len(b) > size {
		return nil, false
	}
	return append(bytes.Clone(b), make([]byte, size-len(b))...), true
}

// addVector writes opaque<V>, RFC 9420 §2.1.2: the shortest variable-length prefix, then the bytes.
func addVector(b *builder, v []byte) {
	switch n := len(v); {
	case n < 1<<6:
		b.AddUint8(uint8(n))
	case n < 1<<14:
		b.AddUint16(uint16(n) | 1<<14)
	case n < 1<<30:
		b.AddUint32(uint32(n) | 2<<30)
	default:
		b.SetError(ErrMalformed)
		return
	}
	b.AddBytes(v)
}

// readVector reads opaque<V> into a copy. A prefix that is not the shortest is refused.
func readVector(s *input, out *[]byte) bool {
	var v input
	if !readVectorAs(s, &v) {
		return false
	}
	*out = bytes.Clone(v)
	if *out == nil {
		*out = []byte{}
	}
	return true
}

// readVectorAs is readVector without the copy, for what is parsed further.
func readVectorAs(s *input, out *input) bool {
	var first uint8
	if !s.ReadUint8(&first) || first>>6 == 3 {
		return false
	}
	n, more := uint32(first&0x3f), 1<<(first>>6)-1
	for range more {
		var next uint8
		if !s.ReadUint8(&next) {
			return false
		}
		n = n<<8 | uint32(next)
	}
	shortest := more == 0 || more == 1 && n >= 1<<6 || more == 3 && n >= 1<<14
	return shortest && s.ReadBytes((*[]byte)(out), int(n))
}

// addList writes a vector whose content write produces.
func addList(b *builder, write func(b *builder)) { addVector(b, encode(write)) }

// readList reads a vector by calling one until it is used up, at most limit times.
func readList(s *input, limit int, one func(s *input) bool) bool {
	var list input
	if !readVectorAs(s, &list) {
		return false
	}
	for n := 0; !list.Empty(); n++ {
		if n == limit || !one(&list) {
			return false
		}
	}
	return true
}

// readSized reads opaque<V> of exactly size bytes.
func readSized(s *input, size int, out *[]byte) bool { return readVector(s, out) && len(*out) == size }

// readFixed reads opaque[len(out)].
func readFixed(s *input, out []byte) bool { return s.CopyBytes(out) }

func addBool(b *builder, v bool) {
	if v {
		b.AddUint8(1)
	} else {
		b.AddUint8(0)
	}
}

// readBool reads a bool or the presence octet of optional<T>: 0 or 1, nothing else.
func readBool(s *input, out *bool) bool {
	var v uint8
	ok := s.ReadUint8(&v) && v <= 1
	*out = v == 1
	return ok
}

// addTime writes whole seconds since 1970 as uint64.
func addTime(b *builder, t time.Time) { b.AddUint64(uint64(t.Unix())) }

func readTime(s *input, out *time.Time) bool {
	var v uint64
	if !s.ReadUint64(&v) || v > maxUnix {
		return false
	}
	*out = time.Unix(int64(v), 0).UTC()
	return true
}

// readDay reads a time that must be a midnight.
func readDay(s *input, out *time.Time) bool {
	return readTime(s, out) && out.Equal(wholeDay(*out))
}

func wholeDay(t time.Time) time.Time { return t.UTC().Truncate(day) }

// encodable says whether t survives addTime and readTime up to its fraction of a second.
func encodable(t time.Time) bool { return t.Unix() >= 0 && t.Unix() <= maxUnix }

// readCredential reads a Credential whose body is one opaque<V> (§2) and which is of type t.
func readCredential(s *input, t mls.CredentialType, body *[]byte) bool {
	var got uint16
	return s.ReadUint16(&got) && mls.CredentialType(got) == t && readVector(s, body)
}

// readName reads opaque<V> that parse takes for an identifier.
func readName[T any](s *input, parse func(string) (T, error), out *T) bool {
	var raw input
	if !readVectorAs(s, &raw) {
		return false
	}
	v, err := parse(string(raw))
	*out = v
	return err == nil
}

func addName(b *builder, name string) { addVector(b, []byte(name)) }

// readSecret reads opaque[32].
func readSecret(s *input, out *secret) bool {
	var raw [keySize]byte
	ok := readFixed(s, raw[:])
	*out = secretOf(raw[:])
	return ok
}

// readKeyVector reads opaque<V> of 32 secret bytes.
func readKeyVector(s *input, out *secret) bool {
	var raw input
	if !readVectorAs(s, &raw) || len(raw) != keySize {
		return false
	}
	*out = secretOf(raw)
	return true
}
