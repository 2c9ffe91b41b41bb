package mls

import (
	"bytes"
	"slices"
)

const (
	labelPath           = "path"
	labelNodeSecret     = "node"
	labelUpdatePathNode = "UpdatePathNode"
)

// pathArgs says what createPath makes a path of.
type pathArgs struct {
	sender leafIndex // occupied, or from reserveLeaf
	// leaf gives credential, capabilities and extensions. Everything else in it is replaced.
	leaf    *LeafNode
	signer  SignatureKey // the new leaf's
	groupID []byte
	added   []leafIndex // leaves added by the same commit: nothing is sealed to them
	// context returns the encoding of the provisional GroupContext: the next epoch, the given tree hash, and the
	// confirmed transcript hash of the epoch left.
	context func(treeHash []byte) []byte
}

// createdPath is what createPath made. All but path is secret.
type createdPath struct {
	path         *updatePath
	private      *treePrivate // the sender's next state
	commitSecret []byte
	secrets      []pathSecret
}

// pathSecret is the path secret of one node of the filtered direct path.
type pathSecret struct {
	node   nodeIndex
	secret []byte
}

// secretFor returns the path secret that a Welcome carries for a leaf added by the same commit: that of the lowest common
// ancestor, RFC 9420 §12.4.3.1. It is nil only for a leaf that is not in the tree.
func (c *createdPath) secretFor(added leafIndex) []byte {
	n := commonAncestor(c.private.index, added)
	for _, s := range c.secrets {
		if s.node == n {
			return s.secret
		}
	}
	return nil
}

// erase clears the path secrets and the commit secret. The private keys that came of them are the next state's. c may be nil.
func (c *createdPath) erase() {
	if c == nil {
		return
	}
	for _, s := range c.secrets {
		clear(s.secret)
	}
	clear(c.commitSecret)
}

// createPath makes an UpdatePath of the sender and applies it to t, RFC 9420 §7.5.
func (t *ratchetTree) createPath(a pathArgs) (*createdPath, error) {
	steps := t.filteredPath(a.sender)
	leafKey, err := t.suite.GenerateHPKEKey()
	if err != nil {
		return nil, err
	}
	out := &createdPath{private: newTreePrivate(a.sender, leafKey)}
	publics, err := out.derive(t.suite, steps, t.suite.randomSecret())
	if err != nil {
		return nil, err
	}
	leaf := a.leaf.clone()
	leaf.encryptionKey = leafKey.Public()
	leaf.signatureKey = a.signer.Public()
	leaf.source, leaf.lifetime = LeafFromCommit, Lifetime{}
	leaf.parentHash = t.setPath(a.sender, steps, publics)
	leaf.sign(a.signer, a.groupID, a.sender)
	t.setLeaf(a.sender, leaf)

	out.path, err = t.sealPath(leaf, steps, out.secrets, a.added, a.context(t.rootHash()))
	if err != nil {
		return nil, err
	}
	return out, nil
}

// derive fills in secrets, private keys and commit secret from the first path secret, and returns the public keys of the
// steps. If there is no step, the first secret is the commit secret: nobody else needs it.
func (c *createdPath) derive(cs CipherSuite, steps []pathStep, secret []byte) ([][]byte, error) {
	publics := make([][]byte, len(steps))
	for i, step := range steps {
		key, err := cs.nodeKey(secret)
		if err != nil {
			return nil, err
		}
		c.private.keys[step.node], publics[i] = key, key.Public()
		c.secrets = append(c.secrets, pathSecret{node: step.node, secret: secret})
		secret = cs.deriveSecret(secret, labelPath)
	}
	c.commitSecret = secret
	return publics, nil
}

// nodeKey derives a node's key pair from its path secret, RFC 9420 §7.4.
func (cs CipherSuite) nodeKey(pathSecret []byte) (HPKEPrivateKey, error) {
	secret := cs.deriveSecret(pathSecret, labelNodeSecret)
	defer clear(secret)
	return cs.DeriveHPKEKey(secret)
}

// setPath blanks the sender's direct path, puts the new keys into its filtered direct path, with parent hashes from the
// root down, and returns the leaf's parent hash. The caller sets the leaf then.
func (t *ratchetTree) setPath(sender leafIndex, steps []pathStep, publics [][]byte) []byte {
	t.blankPath(sender)
	c, parentHash := t.hasher(), []byte{}
	for i, step := range slices.Backward(steps) {
		p := &parentNode{encryptionKey: publics[i], parentHash: parentHash}
		t.setParent(step.node, p)
		parentHash = c.parentHash(p, c.hash(step.copath))
	}
	return parentHash
}

// sealPath seals every path secret to the resolution of its copath child but the added leaves, in parallel.
func (t *ratchetTree) sealPath(leaf *LeafNode, steps []pathStep, secrets []pathSecret, added []leafIndex, context []byte) (*updatePath, error) {
	u := &updatePath{leaf: leaf, nodes: make([]updatePathNode, len(steps))}
	type job struct {
		to     nodeIndex
		secret []byte
		out    *hpkeCiphertext
	}
	var jobs []job
	for i, step := range steps {
		to := slices.Collect(t.resolution(step.copath, added))
		u.nodes[i] = updatePathNode{
			encryptionKey: t.node(step.node).encryptionKey(),
			pathSecrets:   make([]hpkeCiphertext, len(to)),
		}
		for k, n := range to {
			jobs = append(jobs, job{to: n, secret: secrets[i].secret, out: &u.nodes[i].pathSecrets[k]})
		}
	}
	sealer := t.suite.sealerWithLabel(labelUpdatePathNode, context)
	err := parallel(len(jobs), func(k int) (err error) {
		j := &jobs[k]
		j.out.kemOutput, j.out.ciphertext, err = sealer.seal(t.node(j.to).encryptionKey(), nil, j.secret)
		return err
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

// applyPath applies a received UpdatePath to t: all of RFC 9420 §7.5 and §12.4.2 that needs no secret. The sender's leaf
// is occupied, or comes from reserveLeaf for an external joiner. added are the leaves that the same commit adds. It
// checks the shape of the path, that its keys are new, the leaf's source, parent hash and signature; what else §7.3
// demands of the leaf is validateChange's. It returns ErrUnauthenticated or a RuleError; t is then undefined.
func (t *ratchetTree) applyPath(sender leafIndex, u *updatePath, added []leafIndex, groupID []byte) error {
	steps := t.filteredPath(sender)
	if err := t.checkPath(steps, u, added); err != nil {
		return err
	}
	if old := t.leaf(sender); old != nil && bytes.Equal(old.encryptionKey, u.leaf.encryptionKey) {
		return broken("12.4.2", "the path's leaf has a new encryption key")
	}
	publics := make([][]byte, len(u.nodes))
	for i := range u.nodes {
		publics[i] = u.nodes[i].encryptionKey
		// The keys that the path replaces must not come back either: no key of the path stands in the tree before it.
		if t.hasEncryptionKey(publics[i], noNode) {
			return broken("12.4.2", "the path's keys are new to the tree")
		}
	}
	if t.hasEncryptionKey(u.leaf.encryptionKey, noNode) {
		return broken("12.4.2", "the path's keys are new to the tree")
	}
	if !bytes.Equal(t.setPath(sender, steps, publics), u.leaf.parentHash) {
		return broken("7.9.2", "the path's leaf has the parent hash of the path")
	}
	t.setLeaf(sender, u.leaf)
	if err := t.checkUniqueKeys(sender.node()); err != nil {
		return err
	}
	for _, step := range steps {
		if err := t.checkUniqueKeys(step.node); err != nil {
			return err
		}
	}
	if !u.leaf.verify(t.suite, groupID, sender) {
		return ErrUnauthenticated
	}
	return nil
}

// checkPath checks the shape of a path: one node for each step, one ciphertext for each recipient.
func (t *ratchetTree) checkPath(steps []pathStep, u *updatePath, added []leafIndex) error {
	if u.leaf.source != LeafFromCommit {
		return broken("7.3", "the leaf of a path has source commit")
	}
	if len(u.nodes) != len(steps) {
		return broken("12.4.2", "a path has one node for each node of the filtered direct path")
	}
	for i, step := range steps {
		if !t.suite.validHPKEPublicKey(u.nodes[i].encryptionKey) {
			return broken("12.4.2", "the encryption key is a key of the suite")
		}
		if len(u.nodes[i].pathSecrets) != t.resolutionSize(step.copath, added) {
			return broken("7.6", "a path secret is sealed to each node of the resolution")
		}
	}
	return nil
}

// openPath opens a received UpdatePath, RFC 9420 §7.5. t is the tree after applyPath, context the encoding of the
// provisional GroupContext with its tree hash. It returns the commit secret and p's next state; p is unchanged. It
// returns ErrUnauthenticated if no ciphertext opens, or a RuleError if the keys are not those of the path.
func (p *treePrivate) openPath(t *ratchetTree, sender leafIndex, u *updatePath, added []leafIndex, context []byte) ([]byte, *treePrivate, error) {
	if p.index == sender {
		return nil, nil, broken("12.4.2", "an own path is not opened")
	}
	steps := t.filteredPath(sender)
	from := slices.IndexFunc(steps, func(s pathStep) bool { return s.copath.covers(p.index) })
	if from < 0 || len(u.nodes) != len(steps) {
		return nil, nil, broken("7.5", "the path reaches every member")
	}
	mine, at := 0, noNode
	for n := range t.resolution(steps[from].copath, added) {
		if t.hasKey(n, p.keys[n]) {
			at = n
			break
		}
		mine++
	}
	if at == noNode || mine >= len(u.nodes[from].pathSecrets) {
		return nil, nil, broken("7.5", "the path reaches every member")
	}
	sealed := &u.nodes[from].pathSecrets[mine]
	secret, err := t.suite.DecryptWithLabel(p.keys[at], labelUpdatePathNode, context, sealed.kemOutput, sealed.ciphertext)
	if err != nil {
		return nil, nil, err
	}
	return p.follow(t, steps[from:], secret)
}

// joinPath takes up the path secret of a Welcome: that of the lowest common ancestor of p's leaf and the committer. It
// returns p's next state; p is unchanged. It returns a RuleError if the keys are not those of the tree.
func (p *treePrivate) joinPath(t *ratchetTree, committer leafIndex, secret []byte) (*treePrivate, error) {
	if p.index == committer || t.leaf(committer) == nil {
		return nil, broken("12.4.3.1", "the committer is another member")
	}
	steps := t.filteredPath(committer)
	lowest := commonAncestor(p.index, committer)
	from := slices.IndexFunc(steps, func(s pathStep) bool { return s.node == lowest })
	if from < 0 {
		return nil, broken("12.4.3.1", "the path secret is that of a node of the path")
	}
	commitSecret, next, err := p.follow(t, steps[from:], bytes.Clone(secret))
	clear(commitSecret)
	return next, err
}

// follow derives the keys of the steps from the first one's path secret, which it erases, and the commit secret. All keys must
// be those of the tree.
func (p *treePrivate) follow(t *ratchetTree, steps []pathStep, secret []byte) ([]byte, *treePrivate, error) {
	if len(secret) != t.suite.HashLen() {
		return nil, nil, broken("7.4", "a path secret has the length of a hash")
	}
	next := p.clone()
	for _, step := range steps {
		defer clear(secret) // the argument is this step's
		key, err := t.suite.nodeKey(secret)
		if err != nil {
			return nil, nil, err
		}
		if !t.hasKey(step.node, key) {
			return nil, nil, broken("7.5", "the path secrets give the keys of the path")
		}
		next.keys[step.node] = key
		secret = t.suite.deriveSecret(secret, labelPath)
	}
	next.prune(t)
	return secret, next, nil
}
