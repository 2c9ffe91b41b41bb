package mls

import (
	"bytes"
	"maps"
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// treePrivate is one member's secret half of a ratchet tree, RFC 9420 §4.2: the private keys of its own leaf and of the
// ancestors whose keys it knows. It is never written into once handed out, but by setLeafKey and prune.
type treePrivate struct {
	index leafIndex
	keys  map[nodeIndex]HPKEPrivateKey
}

// newTreePrivate returns the state of a member that knows its own leaf's key only.
func newTreePrivate(index leafIndex, leafKey HPKEPrivateKey) *treePrivate {
	return &treePrivate{index: index, keys: map[nodeIndex]HPKEPrivateKey{index.node(): leafKey}}
}

// clone returns a copy that can be changed without changing p.
func (p *treePrivate) clone() *treePrivate {
	return &treePrivate{index: p.index, keys: maps.Clone(p.keys)}
}

// leafKey returns the private key of the own leaf.
func (p *treePrivate) leafKey() HPKEPrivateKey { return p.keys[p.index.node()] }

// setLeafKey puts the key of an own Update in force, once it is committed.
func (p *treePrivate) setLeafKey(k HPKEPrivateKey) { p.keys[p.index.node()] = k }

// prune forgets every key that is not the tree's, RFC 9420 §7.5: nodes that were blanked, replaced or cut off.
func (p *treePrivate) prune(t *ratchetTree) {
	maps.DeleteFunc(p.keys, func(n nodeIndex, k HPKEPrivateKey) bool { return !t.hasKey(n, k) })
}

// eraseReplaced clears the keys that next, the member's state one epoch later, no longer holds.
func (p *treePrivate) eraseReplaced(next *treePrivate) {
	for n, k := range p.keys {
		if !k.same(next.keys[n]) {
			k.erase()
		}
	}
}

// hasKey reports whether the public half of k stands at n.
func (t *ratchetTree) hasKey(n nodeIndex, k HPKEPrivateKey) bool {
	return uint64(n) < uint64(t.nodes.len()) && !k.isZero() && bytes.Equal(t.node(n).encryptionKey(), k.k().public)
}

// marshal writes the state for storage: uint32 index, then a vector of uint32 node and opaque key<V>, by node.
func (p *treePrivate) marshal(b *cryptobyte.Builder) {
	b.AddUint32(uint32(p.index))
	writeVector(b, func(b *cryptobyte.Builder) {
		for _, n := range slices.Sorted(maps.Keys(p.keys)) {
			key, err := p.keys[n].MarshalBinary()
			if err != nil {
				b.SetError(err)
				return
			}
			b.AddUint32(uint32(n))
			writeOpaque(b, key)
		}
	})
}

// parse reads what marshal wrote.
func (p *treePrivate) parse(s *cryptobyte.String) bool {
	p.keys = make(map[nodeIndex]HPKEPrivateKey)
	last := -1
	return s.ReadUint32((*uint32)(&p.index)) && p.index < maxLeaves &&
		readVector(s, maxPathNodes+1, func(s *cryptobyte.String) bool {
			var n nodeIndex
			var raw []byte
			var key HPKEPrivateKey
			if !s.ReadUint32((*uint32)(&n)) || !readOpaque(s, &raw) ||
				int64(n) <= int64(last) || n >= 2*maxLeaves || key.UnmarshalBinary(raw) != nil {
				return false
			}
			last = int(n)
			p.keys[n] = key
			return true
		})
}

// check says whether the state belongs to the tree: each key is that of its node, and the own leaf's is there.
func (p *treePrivate) check(t *ratchetTree) error {
	if t.leaf(p.index) == nil || p.leafKey().isZero() {
		return ErrMalformed
	}
	for n, k := range p.keys {
		if !t.hasKey(n, k) {
			return ErrMalformed
		}
	}
	return nil
}
