package mls

import (
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
	if t.width() > 1 && t.noLeaf(t.root().right()) {
		return broken("7.7", "the tree is truncated")
	}
	if err := t.checkParents(); err != nil {
		return err
	}
	occupied := t.occupied()
	if err := t.checkUniqueKeys(occupied); err != nil {
		return err
	}
	if err := t.checkParentHashes(); err != nil {
		return err
	}
	if err := t.checkCredentialTypes(); err != nil {
		return err
	}
	return t.checkLeaves(ctx, leavesOf(occupied))
}

// validateChange checks, once all changes of a commit are applied, what RFC 9420 §7.3 demands of the leaves that entered
// or changed, and that keys stay unique and credential types mutually supported.
func (t *ratchetTree) validateChange(ctx treeContext, changed []leafIndex) error {
	nodes := make([]nodeIndex, len(changed))
	for i, l := range changed {
		if t.leaf(l) == nil {
			return broken("7.3", "a changed leaf is occupied")
		}
		nodes[i] = l.node()
	}
	if err := t.checkUniqueKeys(nodes); err != nil {
		return err
	}
	if err := t.checkCredentialTypes(); err != nil {
		return err
	}
	return t.checkLeaves(ctx, changed)
}

// checkGroupExtensions checks that every member supports a new list of GroupContext extensions, RFC 9420 §12.1.7.
func (t *ratchetTree) checkGroupExtensions(exts []Extension) error {
	for i := range leafIndex(t.width()) {
		if l := t.leaf(i); l != nil {
			if err := l.checkGroup(exts); err != nil {
				return err
			}
		}
	}
	return nil
}

// occupied returns all nodes that are not blank.
func (t *ratchetTree) occupied() []nodeIndex {
	out := make([]nodeIndex, 0, len(t.nodes))
	for n := range t.nodes {
		if !t.nodes[n].blank() {
			out = append(out, nodeIndex(n))
		}
	}
	return out
}

// leavesOf returns the leaves among nodes.
func leavesOf(nodes []nodeIndex) []leafIndex {
	var out []leafIndex
	for _, n := range nodes {
		if n.isLeaf() {
			out = append(out, n.leaf())
		}
	}
	return out
}

// checkLeaves checks each leaf by itself and against the group. The signatures, which cost nearly all of the time, are
// verified in parallel.
func (t *ratchetTree) checkLeaves(ctx treeContext, leaves []leafIndex) error {
	return parallel(len(leaves), func(k int) error {
		i := leaves[k]
		l := t.leaf(i)
		if err := l.checkSelf(t.suite); err != nil {
			return err
		}
		if err := l.checkGroup(ctx.extensions); err != nil {
			return err
		}
		if !l.verify(t.suite, ctx.groupID, i) {
			return ErrUnauthenticated
		}
		return nil
	})
}

// checkCredentialTypes checks that every member supports every credential type that is in use, RFC 9420 §7.3. Groups use
// one or two types, so this is one pass.
func (t *ratchetTree) checkCredentialTypes() error {
	var used []CredentialType
	for i := range leafIndex(t.width()) {
		if l := t.leaf(i); l != nil && !slices.Contains(used, l.credential.Type) {
			used = append(used, l.credential.Type)
		}
		// Nobody's capabilities list more: a tree made up of as many types as leaves costs no more than an honest one.
		if len(used) > maxCapabilities {
			return broken("7.3", "every member supports the credential types in use")
		}
	}
	for i := range leafIndex(t.width()) {
		if l := t.leaf(i); l != nil && !all(used, l.capabilities.hasCredential) {
			return broken("7.3", "every member supports the credential types in use")
		}
	}
	return nil
}

// checkUniqueKeys checks that no encryption or signature key of the given nodes, which are occupied, stands in any other
// node, RFC 9420 §7.3 and §12.4.3.1.
func (t *ratchetTree) checkUniqueKeys(changed []nodeIndex) error {
	encryption := make(map[string]nodeIndex, len(changed))
	signature := make(map[string]nodeIndex, len(changed))
	for _, n := range changed {
		encryption[string(t.nodes[n].encryptionKey())] = n
		if l := t.nodes[n].leaf; l != nil {
			signature[string(l.signatureKey)] = n
		}
	}
	// A key that two of the given nodes share is found too: the map names one of them, and the other is another node.
	for n := range t.nodes {
		at := &t.nodes[n]
		if at.blank() {
			continue
		}
		if other, ok := encryption[string(at.encryptionKey())]; ok && other != nodeIndex(n) {
			return broken("7.3", "encryption keys are unique in the tree")
		}
		if at.leaf == nil {
			continue
		}
		if other, ok := signature[string(at.leaf.signatureKey)]; ok && other != nodeIndex(n) {
			return broken("7.3", "signature keys are unique in the group")
		}
	}
	return nil
}

// checkParents checks each occupied parent's key and unmerged leaves, RFC 9420 §12.4.3.1.
func (t *ratchetTree) checkParents() error {
	for n := range nodeIndex(len(t.nodes)) {
		p := t.nodes[n].parent
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
		if n = n.childTowards(i); t.nodes[n].parent == nil {
			continue
		}
		if _, ok := slices.BinarySearch(t.nodes[n].parent.unmergedLeaves, i); !ok {
			return broken("12.4.3.1", "an unmerged leaf is unmerged at every occupied node above it")
		}
		return nil
	}
	return nil
}
