package mls

import (
	"cmp"
	"encoding/binary"
	"maps"
	"math"
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// A ratchetKind tells the two ratchets of a leaf apart, RFC 9420 §9.1.
type ratchetKind uint8

const (
	handshakeRatchet ratchetKind = iota
	applicationRatchet
)

// messageKey is a key and nonce of the secret tree, for one message.
type messageKey struct {
	key, nonce []byte
}

// newMessageKey returns room for a key and nonce of the suite.
func newMessageKey(r *suite) messageKey {
	b := make([]byte, r.aead.keyLen+r.aead.nonceLen)
	return messageKey{key: b[:r.aead.keyLen:r.aead.keyLen], nonce: b[r.aead.keyLen:]}
}

// skippedKey is the key of a message that has not arrived though a later one has.
type skippedKey struct {
	generation uint32
	messageKey
}

// ratchet is one sender ratchet, RFC 9420 §9.1. It is a value: advancing makes a new one.
type ratchet struct {
	generation uint32 // of the next key that secret gives
	secret     []byte
	skipped    []skippedKey // by generation, ascending
}

// leafRatchets are the two ratchets of one leaf, indexed by ratchetKind.
type leafRatchets [2]ratchet

// treeSecret is the secret of a tree node that has not been expanded yet.
type treeSecret struct {
	node   nodeIndex
	secret []byte
}

// secretTree is the secret tree of one epoch, RFC 9420 §9. Leaves are expanded when first used. A secret that has been used is
// erased: an expanded node's, a ratchet's after each step, a message key's when it is handed out.
//
// It holds secrets of one epoch only and is not safe for concurrent use. Reading a key is done in two steps, derive and apply,
// so that a message that does not verify uses up nothing.
type secretTree struct {
	suite    CipherSuite
	width    uint32               // leaves of the full tree, a power of two
	nodes    map[nodeIndex][]byte // unexpanded secrets by node index
	ratchets map[uint32]*leafRatchets
	skipped  int // keys of all ratchets together
}

// newSecretTree makes the tree over leaves leaves (rounded up to a power of two) from encryption_secret.
func newSecretTree(suite CipherSuite, leaves uint32, encryptionSecret []byte) *secretTree {
	width := uint32(1)
	for width < leaves {
		width *= 2
	}
	return &secretTree{
		suite:    suite,
		width:    width,
		nodes:    map[nodeIndex][]byte{rootOf(int(width)): slices.Clone(encryptionSecret)},
		ratchets: map[uint32]*leafRatchets{},
	}
}

// ratchetStep is what handing out one key changes.
type ratchetStep struct {
	expanded []nodeIndex  // nodes whose secrets are erased
	added    []treeSecret // siblings that take their place
	leaf     uint32
	ratchets leafRatchets

	generation uint32 // of the key
}

// derive returns the key of one generation, which is the caller's to erase, and the step that uses it up. It changes nothing.
// ErrReplayed: the key was used, is too old to have been kept, or is too far ahead (limits.go).
func (t *secretTree) derive(leaf uint32, kind ratchetKind, generation uint32) (messageKey, *ratchetStep, error) {
	step, ok := t.expand(leaf)
	if !ok {
		return messageKey{}, nil, ErrReplayed
	}
	key, next, ok := step.ratchets[kind].take(t.suite, generation)
	if !ok {
		return messageKey{}, nil, ErrReplayed
	}
	step.ratchets[kind], step.generation = next, generation
	return key, step, nil
}

// next is derive for the next generation of the own ratchet, which it returns.
func (t *secretTree) next(leaf uint32, kind ratchetKind) (uint32, messageKey, *ratchetStep, error) {
	generation := uint32(0)
	if r := t.ratchets[leaf]; r != nil {
		generation = r[kind].generation
	}
	key, step, err := t.derive(leaf, kind, generation)
	return generation, key, step, err
}

// apply publishes a step and erases what it used up. The step must come from the state t is in.
func (t *secretTree) apply(s *ratchetStep) {
	for _, n := range s.expanded {
		clear(t.nodes[n])
		delete(t.nodes, n)
	}
	for _, a := range s.added {
		t.nodes[a.node] = a.secret
	}
	if old := t.ratchets[s.leaf]; old != nil {
		eraseReplaced(old, &s.ratchets)
		t.skipped -= old.skipped()
	}
	t.ratchets[s.leaf] = &s.ratchets
	t.skipped += s.ratchets.skipped()
}

// eraseReplaced clears the secrets of old that next no longer holds: ratchet secrets, and skipped keys that were used or are too many.
func eraseReplaced(old, next *leafRatchets) {
	for k := range old {
		if old[k].generation != next[k].generation {
			clear(old[k].secret)
		}
		kept := next[k].skipped
		for _, s := range old[k].skipped {
			for len(kept) > 0 && kept[0].generation < s.generation {
				kept = kept[1:]
			}
			if len(kept) == 0 || kept[0].generation != s.generation {
				s.erase()
			}
		}
	}
}

// erase clears the key and the nonce.
func (k messageKey) erase() {
	clear(k.key)
	clear(k.nonce)
}

// expand returns the step that opens leaf's ratchets without advancing them; ok is false for a leaf outside the tree.
func (t *secretTree) expand(leaf uint32) (step *ratchetStep, ok bool) {
	step = &ratchetStep{leaf: leaf}
	if r := t.ratchets[leaf]; r != nil {
		step.ratchets = *r
		return step, true
	}
	if leaf >= t.width {
		return nil, false
	}
	// Walk down from the root; the first node with a secret is the only one on the path that has one, but in a damaged state.
	var secret []byte
	derived := false // secret is of this call, not of the state
	for node := rootOf(int(t.width)); ; {
		if s := t.nodes[node]; s != nil {
			secret, derived = s, false
			step.expanded = append(step.expanded, node)
		}
		if node.isLeaf() {
			break
		}
		child, sibling, childLabel, siblingLabel := node.left(), node.right(), "left", "right"
		if node.right().covers(leafIndex(leaf)) {
			child, sibling, childLabel, siblingLabel = sibling, child, siblingLabel, childLabel
		}
		if secret != nil {
			step.added = append(step.added, treeSecret{sibling, t.childSecret(secret, siblingLabel)})
			below := t.childSecret(secret, childLabel)
			if derived {
				clear(secret)
			}
			secret, derived = below, true
		}
		node = child
	}
	if secret == nil {
		return nil, false // only a damaged state lacks it
	}
	handshake, application := make([]byte, t.suite.HashLen()), make([]byte, t.suite.HashLen())
	t.suite.expandLabels(secret, nil, labelled{labelHandshake, handshake}, labelled{labelApplication, application})
	step.ratchets[handshakeRatchet].secret, step.ratchets[applicationRatchet].secret = handshake, application
	if derived {
		clear(secret)
	}
	return step, true
}

func (t *secretTree) childSecret(secret []byte, side string) []byte {
	return t.suite.ExpandWithLabel(secret, labelTree, []byte(side), t.suite.HashLen())
}

// take returns the key of generation and the ratchet without it.
func (r ratchet) take(suite CipherSuite, generation uint32) (messageKey, ratchet, bool) {
	if generation < r.generation {
		return r.takeSkipped(generation)
	}
	if generation-r.generation > maxForwardRatchet || generation == math.MaxUint32 {
		return messageKey{}, r, false
	}
	next := ratchet{generation: r.generation, secret: r.secret, skipped: r.skipped}
	if ahead := generation - r.generation; ahead > 0 {
		next.skipped = slices.Grow(slices.Clone(r.skipped), int(ahead))
	}
	for {
		key := next.step(suite)
		if next.generation > generation {
			next.skipped = next.skipped[max(0, len(next.skipped)-maxSkippedKeys):]
			return key, next, true
		}
		next.skipped = append(next.skipped, skippedKey{next.generation - 1, key})
	}
}

// step makes the key of r's generation and the secret of the next, RFC 9420 §9.1.
func (r *ratchet) step(suite CipherSuite) messageKey {
	row := suite.row()
	key, secret := newMessageKey(row), make([]byte, row.kdf.size)
	var generation [4]byte
	binary.BigEndian.PutUint32(generation[:], r.generation)
	suite.expandLabels(r.secret, generation[:],
		labelled{labelKey, key.key}, labelled{labelNonce, key.nonce}, labelled{labelSecret, secret})
	r.secret = secret
	r.generation++
	return key
}

// takeSkipped returns a copy of a key that was kept.
func (r ratchet) takeSkipped(generation uint32) (messageKey, ratchet, bool) {
	i, found := slices.BinarySearchFunc(r.skipped, generation, func(k skippedKey, g uint32) int {
		return cmp.Compare(k.generation, g)
	})
	if !found {
		return messageKey{}, r, false
	}
	k := r.skipped[i]
	r.skipped = slices.Concat(r.skipped[:i], r.skipped[i+1:])
	return messageKey{key: slices.Clone(k.key), nonce: slices.Clone(k.nonce)}, r, true
}

// erase clears every secret.
func (t *secretTree) erase() {
	for _, s := range t.nodes {
		clear(s)
	}
	for _, r := range t.ratchets {
		for k := range r {
			clear(r[k].secret)
			for _, s := range r[k].skipped {
				s.erase()
			}
		}
	}
	clear(t.nodes)
	clear(t.ratchets)
	t.skipped = 0
}

// marshal writes the tree's state, secrets included, in one canonical order.
func (t *secretTree) marshal(b *cryptobyte.Builder) {
	b.AddUint16(uint16(t.suite))
	b.AddUint32(t.width)
	writeVector(b, func(b *cryptobyte.Builder) {
		for _, n := range slices.Sorted(maps.Keys(t.nodes)) {
			b.AddUint32(uint32(n))
			writeOpaque(b, t.nodes[n])
		}
	})
	writeVector(b, func(b *cryptobyte.Builder) {
		for _, leaf := range slices.Sorted(maps.Keys(t.ratchets)) {
			b.AddUint32(leaf)
			t.ratchets[leaf][handshakeRatchet].marshal(b)
			t.ratchets[leaf][applicationRatchet].marshal(b)
		}
	})
}

func (r *ratchet) marshal(b *cryptobyte.Builder) {
	b.AddUint32(r.generation)
	writeOpaque(b, r.secret)
	writeVector(b, func(b *cryptobyte.Builder) {
		for _, k := range r.skipped {
			b.AddUint32(k.generation)
			writeOpaque(b, k.key)
			writeOpaque(b, k.nonce)
		}
	})
}

func (t *secretTree) parse(s *cryptobyte.String) bool {
	t.nodes = map[nodeIndex][]byte{}
	t.ratchets = map[uint32]*leafRatchets{}
	t.skipped = 0
	var nodes, leaves ascending
	return s.ReadUint16((*uint16)(&t.suite)) &&
		t.suite.Supported() &&
		s.ReadUint32(&t.width) &&
		t.width != 0 && t.width&(t.width-1) == 0 && t.width <= maxLeaves &&
		readVector(s, 2*maxLeaves, func(s *cryptobyte.String) bool { return t.parseNode(s, &nodes) }) &&
		readVector(s, maxLeaves, func(s *cryptobyte.String) bool { return t.parseRatchets(s, &leaves) })
}

// ascending checks that the numbers of a stored list rise, so that a state has one encoding.
type ascending struct{ next uint64 }

func (a *ascending) ok(n uint32) bool {
	rises := uint64(n) >= a.next
	a.next = uint64(n) + 1
	return rises
}

func (t *secretTree) parseNode(s *cryptobyte.String, order *ascending) bool {
	var node uint32
	var secret []byte
	if !s.ReadUint32(&node) || !order.ok(node) || node >= 2*t.width-1 ||
		!readOpaque(s, &secret) || len(secret) != t.suite.HashLen() {
		return false
	}
	t.nodes[nodeIndex(node)] = secret
	return true
}

func (t *secretTree) parseRatchets(s *cryptobyte.String, order *ascending) bool {
	var leaf uint32
	r := new(leafRatchets)
	if !s.ReadUint32(&leaf) || !order.ok(leaf) || leaf >= t.width ||
		!r[handshakeRatchet].parse(s, t.suite) || !r[applicationRatchet].parse(s, t.suite) {
		return false
	}
	t.ratchets[leaf] = r
	t.skipped += r.skipped()
	return true
}

func (r *ratchet) parse(s *cryptobyte.String, suite CipherSuite) bool {
	return s.ReadUint32(&r.generation) &&
		readOpaque(s, &r.secret) &&
		len(r.secret) == suite.HashLen() &&
		readVector(s, maxSkippedKeys, func(s *cryptobyte.String) bool {
			var k skippedKey
			ok := s.ReadUint32(&k.generation) &&
				readOpaque(s, &k.key) && readOpaque(s, &k.nonce) &&
				len(k.key) == suite.KeyLen() && len(k.nonce) == suite.NonceLen() &&
				k.generation < r.generation &&
				(len(r.skipped) == 0 || r.skipped[len(r.skipped)-1].generation < k.generation)
			r.skipped = append(r.skipped, k)
			return ok
		})
}
