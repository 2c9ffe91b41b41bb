package mls

import (
	"hash/maphash"
	"slices"
)

// These make the hashes of keys and names: peers choose those, and must not be able to choose the hashes too.
var encryptionSeed, signatureSeed, clientSeed = maphash.MakeSeed(), maphash.MakeSeed(), maphash.MakeSeed()

// keyHash stands for a public key in a keyIndex.
type keyHash uint64

func encryptionKeyHash(key []byte) keyHash { return keyHash(maphash.Bytes(encryptionSeed, key)) }
func signatureKeyHash(key []byte) keyHash  { return keyHash(maphash.Bytes(signatureSeed, key)) }
func clientHash(name string) keyHash       { return keyHash(maphash.String(clientSeed, name)) }

// keyIndex says where in a ratchet tree public keys stand, the encryption keys of all occupied nodes and the signature keys of all leaves,
// and where clients do, if the application names them. It is a trie over hashes and holds nothing else: whoever asks compares with what is in
// the tree. A key may be entered for several nodes, as it can be while the proposals of a commit are being applied. Like a nodeArray it
// is persistent.
type keyIndex struct {
	root *keyTrie
	ownership
}

// keyTrie has entries or, when they were too many, branches.
type keyTrie struct {
	owner    *owner
	entries  []keyEntry // in no order; written into by the owner only
	branches *[1 << trieBits]*keyTrie
}

type keyEntry struct {
	hash keyHash
	node nodeIndex
}

const (
	trieBits   = 4 // of the hash, for each branching
	maxEntries = 12
	// maxTrieDepth is where the hash ends: entries with the same one are not parted.
	maxTrieDepth = 64 / trieBits
)

// snapshot returns an index that can be changed without changing x.
func (x *keyIndex) snapshot() keyIndex {
	x.share()
	return *x
}

// branch is the branch at depth that leads to h.
func (h keyHash) branch(depth int) int {
	return int(h >> (64 - trieBits*(depth+1)) & (1<<trieBits - 1))
}

// find returns whether ok holds for some node that the hash has been entered for.
func (x *keyIndex) find(h keyHash, ok func(n nodeIndex) bool) bool {
	t := x.root
	for depth := 0; t != nil && t.branches != nil; depth++ {
		t = t.branches[h.branch(depth)]
	}
	return t != nil && slices.ContainsFunc(t.entries, func(e keyEntry) bool { return e.hash == h && ok(e.node) })
}

// add enters a hash for a node.
func (x *keyIndex) add(h keyHash, n nodeIndex) {
	p, depth := &x.root, 0
	for ; x.own(p).branches != nil; depth++ {
		p = &(*p).branches[h.branch(depth)]
	}
	t := *p
	t.entries = append(t.entries, keyEntry{h, n})
	for len(t.entries) > maxEntries && depth < maxTrieDepth {
		t = x.split(t, depth, h)
		depth++
	}
}

// split parts the entries at depth and returns the part that h leads to: the only one that can have as many.
func (x *keyIndex) split(t *keyTrie, depth int, h keyHash) *keyTrie {
	entries := t.entries
	t.entries, t.branches = nil, new([1 << trieBits]*keyTrie)
	for _, e := range entries {
		part := x.own(&t.branches[e.hash.branch(depth)])
		part.entries = append(part.entries, e)
	}
	return t.branches[h.branch(depth)]
}

// remove takes back one add with the same arguments.
func (x *keyIndex) remove(h keyHash, n nodeIndex) {
	p := &x.root
	for depth := 0; x.own(p).branches != nil; depth++ {
		p = &(*p).branches[h.branch(depth)]
	}
	t := *p
	if i := slices.Index(t.entries, keyEntry{h, n}); i >= 0 {
		last := len(t.entries) - 1
		t.entries[i] = t.entries[last]
		t.entries = t.entries[:last]
	}
}

// own replaces a shared trie by a copy, and nil by an empty one.
func (x *keyIndex) own(p **keyTrie) *keyTrie {
	o := x.current()
	switch t := *p; {
	case t == nil:
		*p = &keyTrie{owner: o}
	case t.owner != o:
		c := &keyTrie{owner: o, entries: slices.Clone(t.entries)}
		if t.branches != nil {
			branches := *t.branches
			c.branches = &branches
		}
		*p = c
	}
	return *p
}
