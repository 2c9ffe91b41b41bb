package mls

import (
	"bytes"
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// Extension is Extension, RFC 9420 §13.4: a type and its opaque data.
type Extension struct {
	Type ExtensionType
	Data []byte
}

func (e *Extension) parse(s *cryptobyte.String) bool {
	return s.ReadUint16((*uint16)(&e.Type)) && readOpaque(s, &e.Data)
}

func (e *Extension) marshal(b *cryptobyte.Builder) {
	b.AddUint16(uint16(e.Type))
	writeOpaque(b, e.Data)
}

// parseExtensions reads Extension extensions<V>. A list holds at most one extension of a type (RFC 9420 §13.4).
func parseExtensions(s *cryptobyte.String, out *[]Extension) bool {
	return readExtensions(s, out, readOpaque)
}

// parseExtensionViews is parseExtensions, but the data are views.
func parseExtensionViews(s *cryptobyte.String, out *[]Extension) bool {
	return readExtensions(s, out, readView)
}

func readExtensions(s *cryptobyte.String, out *[]Extension, read func(s *cryptobyte.String, out *[]byte) bool) bool {
	*out = nil
	return readVector(s, maxExtensions, func(s *cryptobyte.String) bool {
		var e Extension
		if !s.ReadUint16((*uint16)(&e.Type)) || !read(s, &e.Data) || hasExtension(*out, e.Type) {
			return false
		}
		*out = append(*out, e)
		return true
	})
}

// marshalExtensions writes Extension extensions<V>.
func marshalExtensions(b *cryptobyte.Builder, exts []Extension) {
	writeVector(b, func(b *cryptobyte.Builder) {
		for i := range exts {
			exts[i].marshal(b)
		}
	})
}

// checkExtensions says whether a list from a local caller is one that a peer would accept.
func checkExtensions(exts []Extension) error {
	if len(exts) > maxExtensions {
		return broken("13.4", "a list has too many extensions")
	}
	for i := range exts {
		if hasExtension(exts[:i], exts[i].Type) {
			return broken("13.4", "a list has at most one extension of a type")
		}
	}
	return nil
}

// findExtension returns the data of the extension of type t.
func findExtension(exts []Extension, t ExtensionType) ([]byte, bool) {
	i := slices.IndexFunc(exts, func(e Extension) bool { return e.Type == t })
	if i < 0 {
		return nil, false
	}
	return exts[i].Data, true
}

func hasExtension(exts []Extension, t ExtensionType) bool {
	_, ok := findExtension(exts, t)
	return ok
}

// sameExtensions reports whether two lists are the same, in order.
func sameExtensions(a, b []Extension) bool {
	return slices.EqualFunc(a, b, func(x, y Extension) bool { return x.Type == y.Type && bytes.Equal(x.Data, y.Data) })
}

// cloneExtensions returns a deep copy.
func cloneExtensions(exts []Extension) []Extension {
	out := slices.Clone(exts)
	for i := range out {
		out[i].Data = slices.Clone(out[i].Data)
	}
	return out
}
