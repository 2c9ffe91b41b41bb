package mls

import (
	"bytes"
	"maps"
	"slices"
)

// treeContext is what the leaves of a tree are checked against.
type treeContext struct {
	groupID    []byte
	extensions []Extension // of the GroupContext
}

// validate checks a tree that was received whole, RFC 9420 §12.4.3.1: its shape, unmerged leaves, unique keys, parent
// hashes, and every leaf with its signature. The caller compares the tree hash. It returns ErrUnauthenticated or a
// RuleError.
func (t *ratchetTree) validate(ctx treeContext) error {
	if t.width() > 1 && t.node(t.root().right()).leaves == 0 {
		return broken("7.7", "the tree is truncated")
	}
	if err := t.checkParents(); err != nil {
		return err
	}
	for n := range nodeIndex(t.nodes.len()) {
		if err := t.checkUniqueKeys(n); err != nil {
			return err
		}
	}
	if err := t.checkParentHashes(); err != nil {
		return err
	}
	members := make([]leafIndex, 0, t.memberCount())
	for i := range t.occupiedLeaves() {
		members = append(members, i)
	}
	if err := t.checkCredentialTypes(members, slices.Collect(maps.Keys(t.summary.s.credentials))); err != nil {
		return err
	}
	return t.checkLeaves(ctx, members, true)
}

// validateChange checks, once all changes of a commit are applied to a valid tree, what RFC 9420 §7.3 demands of the leaves that
// entered or changed, and that keys stay unique and credential types mutually supported. The leaves' signatures have been verified when they
// came: those of Adds with the KeyPackages, that of a path by applyPath, those of Updates when they were proposed.
func (t *ratchetTree) validateChange(ctx treeContext, changed []leafIndex) error {
	for _, i := range changed {
		if t.leaf(i) == nil {
			return broken("7.3", "a changed leaf is occupied")
		}
		if err := t.checkUniqueKeys(i.node()); err != nil {
			return err
		}
	}
	if err := t.checkChangedCredentials(changed); err != nil {
		return err
	}
	return t.checkLeaves(ctx, changed, false)
}

// checkSize checks that a tree which has grown from before can still be written as a vector, whoever makes paths in it: each parent counts as
// occupied, with all leaves below it unmerged.
func (t *ratchetTree) checkSize(before *ratchetTree) error {
	size := t.maxSize()
	if size > maxVector && size > before.maxSize() {
		return errTreeSize
	}
	return nil
}

var errTreeSize = broken("7.7", "the tree is not larger than this implementation allows")

// maxSize is the size of the tree's encoding if its parents are all occupied.
func (t *ratchetTree) maxSize() int {
	s := t.summary.s
	const framing = 16 // presence, type and lengths of a node
	parent := framing + len(t.leaf(t.firstLeaf()).encryptionKey) + t.suite.HashLen() + 4*int(t.root().level())
	return s.size + t.width()*(framing+parent)
}

// firstLeaf is the leftmost occupied leaf. Every group has one.
func (t *ratchetTree) firstLeaf() leafIndex {
	for i := range t.occupiedLeaves() {
		return i
	}
	return 0
}

// checkGroupExtensions checks that every member supports a new list of GroupContext extensions, RFC 9420 §12.1.7.
func (t *ratchetTree) checkGroupExtensions(exts []Extension) error {
	r, err := newGroupRequirements(exts)
	if err != nil {
		return err
	}
	for _, l := range t.occupiedLeaves() {
		if err := r.check(l); err != nil {
			return err
		}
	}
	return nil
}

// checkLeaves checks each leaf by itself and against the group, in parallel, and its signature if asked for: that costs nearly all of
// the time.
func (t *ratchetTree) checkLeaves(ctx treeContext, leaves []leafIndex, signatures bool) error {
	r, err := newGroupRequirements(ctx.extensions)
	if err != nil {
		return err
	}
	return parallel(len(leaves), func(k int) error {
		i := leaves[k]
		l := t.leaf(i)
		if err := l.checkSelf(t.suite); err != nil {
			return err
		}
		if err := r.check(l); err != nil {
			return err
		}
		if signatures && !l.verify(t.suite, ctx.groupID, i) {
			return ErrUnauthenticated
		}
		return nil
	})
}

// checkCredentialTypes checks that the given members support the given credential types, RFC 9420 §7.3.
func (t *ratchetTree) checkCredentialTypes(members []leafIndex, used []CredentialType) error {
	// Nobody's capabilities list more: a tree made up of as many types as leaves costs no more than an honest one.
	if len(used) > maxCapabilities {
		return errCredentialTypes
	}
	for _, i := range members {
		if !all(used, t.leaf(i).capabilities.hasCredential) {
			return errCredentialTypes
		}
	}
	return nil
}

var errCredentialTypes = broken("7.3", "every member supports the credential types in use")

// checkChangedCredentials checks that every member supports every credential type in use, given that this was so before some leaves
// changed. Others are looked at only for a type that none of them has: it may be new.
func (t *ratchetTree) checkChangedCredentials(changed []leafIndex) error {
	used := t.summary.s.credentials
	if err := t.checkCredentialTypes(changed, slices.Collect(maps.Keys(used))); err != nil {
		return err
	}
	count := map[CredentialType]int{}
	for _, i := range changed {
		count[t.leaf(i).credential.Type]++
	}
	for c, n := range count {
		if n < used[c] {
			continue
		}
		for _, l := range t.occupiedLeaves() {
			if !l.capabilities.hasCredential(c) {
				return errCredentialTypes
			}
		}
	}
	return nil
}

// checkUniqueKeys checks that no key of a node stands in any other node, RFC 9420 §7.3 and §12.4.3.1.
func (t *ratchetTree) checkUniqueKeys(n nodeIndex) error {
	at := t.node(n)
	if t.hasEncryptionKey(at.encryptionKey(), n) {
		return broken("7.3", "encryption keys are unique in the tree")
	}
	if at.leaf != nil && t.hasSignatureKey(at.leaf.signatureKey, n) {
		return broken("7.3", "signature keys are unique in the group")
	}
	return nil
}

// noNode is no node of any tree.
const noNode = ^nodeIndex(0)

// hasEncryptionKey reports whether an encryption key stands in another node than but.
func (t *ratchetTree) hasEncryptionKey(key []byte, but nodeIndex) bool {
	return t.keys.find(encryptionKeyHash(key), func(n nodeIndex) bool {
		return n != but && bytes.Equal(t.node(n).encryptionKey(), key)
	})
}

// hasSignatureKey reports whether a signature key stands in another leaf than but.
func (t *ratchetTree) hasSignatureKey(key []byte, but nodeIndex) bool {
	return t.keys.find(signatureKeyHash(key), func(n nodeIndex) bool {
		return n != but && n.isLeaf() && bytes.Equal(t.node(n).leaf.signatureKey, key)
	})
}

// hasClient reports whether a client has another leaf than but, in a tree that identify has been called for.
func (t *ratchetTree) hasClient(name string, but nodeIndex) bool {
	return t.keys.find(clientHash(name), func(n nodeIndex) bool { return n != but && n.isLeaf() && t.identity(t.node(n).leaf) == name })
}

// checkParents checks each occupied parent's key and unmerged leaves, RFC 9420 §12.4.3.1.
func (t *ratchetTree) checkParents() error {
	for n := range nodeIndex(t.nodes.len()) {
		p := t.node(n).parent
		if p == nil {
			continue
		}
		if !t.suite.validHPKEPublicKey(p.encryptionKey) {
			return broken("7.1", "the encryption key is a key of the suite")
		}
		for _, i := range p.unmergedLeaves {
			if err := t.checkUnmerged(n, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkUnmerged checks one entry of the unmerged leaves at n. It looks only at the next occupied node below: that one's
// own entry answers for what is below it.
func (t *ratchetTree) checkUnmerged(n nodeIndex, i leafIndex) error {
	if !n.covers(i) || t.leaf(i) == nil {
		return broken("12.4.3.1", "an unmerged leaf is an occupied leaf below its node")
	}
	for !n.isLeaf() {
		if n = n.childTowards(i); t.node(n).parent == nil {
			continue
		}
		if _, ok := slices.BinarySearch(t.node(n).parent.unmergedLeaves, i); !ok {
			return broken("12.4.3.1", "an unmerged leaf is unmerged at every occupied node above it")
		}
		return nil
	}
	return nil
}
