package mls

import (
	"bytes"
	"slices"
)

// pen makes decisions of the bytes that a fuzzer gives. It goes on with zeros once they are used up, and zero always means "leave it as it is": what is
// made of few bytes is nearly valid.
type pen struct {
	b    []byte
	keys [][]byte // public keys that are about, to be put where they do not belong
}

func (p *pen) next() int {
	if len(p.b) == 0 {
		return 0
	}
	n := int(p.b[0])
	p.b = p.b[1:]
	return n
}

// of decides between n things.
func (p *pen) of(n int) int { return p.next() % n }

// octets changes a string.
func (p *pen) octets(v []byte) []byte {
	v = bytes.Clone(v)
	switch p.of(8) {
	case 1:
		if len(v) > 0 {
			v[p.next()%len(v)] ^= byte(1 + p.next())
		}
	case 2:
		v = v[:len(v)/2]
	case 3:
		v = append(v, byte(p.next()))
	case 4:
		v = nil
	case 5:
		v = make([]byte, len(v))
	case 6:
		v = bytes.Clone(p.keys[p.next()%len(p.keys)])
	case 7:
		v = bytes.Repeat([]byte{byte(p.next())}, p.next())
	}
	return v
}

// index changes the index of a leaf.
func (p *pen) index(i uint32) uint32 {
	switch p.of(4) {
	case 1:
		return uint32(p.next() % 8)
	case 2:
		return i ^ 1<<(p.next()%32)
	case 3:
		return 1<<32 - 1 - uint32(p.next()%4)
	}
	return i
}

// penCodes changes a list of code points.
func penCodes[T ~uint16](p *pen, list []T) []T {
	list = slices.Clone(list)
	switch p.of(4) {
	case 1:
		if len(list) > 0 {
			i := p.next() % len(list)
			list = slices.Delete(list, i, i+1)
		}
	case 2:
		list = append(list, T(p.next())<<8|T(p.next()))
	case 3:
		list = nil
	}
	return list
}

func (p *pen) extensions(list []Extension) []Extension {
	list = cloneExtensions(list)
	switch p.of(6) {
	case 1:
		if len(list) > 0 {
			list = slices.Delete(list, len(list)-1, len(list))
		}
	case 2:
		list = append(list, Extension{Type: ExtensionType(p.next())<<8 | ExtensionType(p.next())})
	case 3:
		if len(list) > 0 {
			i := p.next() % len(list)
			list[i].Data = p.octets(list[i].Data)
		}
	case 4:
		r := &requiredCapabilities{
			extensions: penCodes(p, []ExtensionType{testGroupExtension}), proposals: penCodes(p, []ProposalType{testProposal}),
			credentials: penCodes(p, []CredentialType{testCredential}),
		}
		list = append(list, Extension{ExtensionRequiredCapabilities, marshal(r)})
	case 5:
		list = append(list, ExternalSendersExtension(ExternalSender{p.octets(p.keys[0]), Credential{testCredential, []byte("hub")}}))
	}
	return list
}

// leaf changes a copy of a leaf. It is not signed.
func (p *pen) leaf(l *LeafNode) *LeafNode {
	l = l.clone()
	switch p.of(10) {
	case 1:
		l.encryptionKey = p.octets(l.encryptionKey)
	case 2:
		l.signatureKey = p.octets(l.signatureKey)
	case 3:
		if l.credential.Body = p.octets(l.credential.Body); p.of(3) == 2 {
			l.credential.Body = []byte("bob")
		}
	case 4:
		l.credential.Type = []CredentialType{l.credential.Type, CredentialBasic, CredentialX509, CredentialType(p.next())}[p.of(4)]
	case 5:
		c := &l.capabilities
		c.Extensions, c.Proposals = penCodes(p, c.Extensions), penCodes(p, c.Proposals)
	case 6:
		c := &l.capabilities
		c.Versions, c.CipherSuites, c.Credentials = penCodes(p, c.Versions), penCodes(p, c.CipherSuites), penCodes(p, c.Credentials)
	case 7:
		l.source = LeafSource(1 + p.of(3))
	case 8:
		l.parentHash = p.octets(l.parentHash)
	case 9:
		l.extensions = p.extensions(l.extensions)
	}
	return l
}

// keyPackage changes a copy of a KeyPackage, and signs it unless it says otherwise.
func (p *pen) keyPackage(kp *KeyPackage, key SignatureKey) *KeyPackage {
	c := *kp
	c.leaf = *p.leaf(&c.leaf)
	switch p.of(6) {
	case 1:
		c.initKey = p.octets(c.initKey)
	case 2:
		c.suite = CipherSuite(p.next())
	case 3:
		c.version = uint16(p.next())
	case 4:
		c.extensions = p.extensions(c.extensions)
	case 5:
		c.initKey = c.leaf.encryptionKey
	}
	if p.of(4) != 3 {
		resign(&c, key)
	}
	return &c
}

// path changes an UpdatePath. The leaf is not signed.
func (p *pen) path(u *updatePath) *updatePath {
	u = &updatePath{leaf: p.leaf(u.leaf), nodes: slices.Clone(u.nodes)}
	if len(u.nodes) == 0 {
		return u
	}
	i := p.next() % len(u.nodes)
	n := &u.nodes[i]
	n.pathSecrets = slices.Clone(n.pathSecrets)
	switch p.of(8) {
	case 1:
		n.encryptionKey = p.octets(n.encryptionKey)
	case 2:
		u.nodes = slices.Delete(u.nodes, i, i+1)
	case 3:
		u.nodes = slices.Insert(u.nodes, i, *n)
	case 4:
		n.pathSecrets = n.pathSecrets[:len(n.pathSecrets)/2]
	case 5:
		n.pathSecrets = append(n.pathSecrets, n.pathSecrets...)
	case 6:
		if len(n.pathSecrets) > 0 {
			c := &n.pathSecrets[p.next()%len(n.pathSecrets)]
			c.ciphertext, c.kemOutput = p.octets(c.ciphertext), p.octets(c.kemOutput)
		}
	case 7:
		slices.Reverse(u.nodes)
	}
	return u
}

// tree changes a tree node by node. Leaves that change are signed by whoever signs there, and the nodes above them become blank, as an Update has it; unless
// p says otherwise.
func (p *pen) tree(l looseTree, sign func(i leafIndex, leaf *LeafNode)) looseTree {
	l = slices.Clone(l)
	for range 1 + p.of(3) {
		switch n := p.next() % len(l); {
		case l[n].leaf != nil:
			p.treeLeaf(l, nodeIndex(n).leaf(), sign)
		case l[n].parent != nil:
			p.treeParent(l, n)
		default:
			p.treeBlank(l, n)
		}
	}
	return l
}

func (p *pen) treeLeaf(l looseTree, i leafIndex, sign func(i leafIndex, leaf *LeafNode)) {
	leaf := p.leaf(l[i.node()].leaf)
	if p.of(4) != 3 {
		sign(i, leaf)
	}
	switch p.of(4) {
	case 1:
		l[i.node()] = looseNode{leaf: leaf}
	case 2:
		l.update(i, nil)
	case 3:
		l[i.node()] = looseNode{}
	default:
		l.update(i, leaf)
	}
}

func (p *pen) treeParent(l looseTree, n int) {
	switch p.of(6) {
	case 1:
		l[n] = looseNode{}
	case 2:
		l.change(n, func(q *parentNode) { q.encryptionKey = p.octets(q.encryptionKey) })
	case 3:
		l.change(n, func(q *parentNode) { q.parentHash = p.octets(q.parentHash) })
	case 4:
		l.change(n, func(q *parentNode) {
			q.unmergedLeaves = append(q.unmergedLeaves, leafIndex(p.index(uint32(p.next()%8))))
			slices.Sort(q.unmergedLeaves)
			q.unmergedLeaves = slices.Compact(q.unmergedLeaves)
		})
	case 5:
		l.change(n, func(q *parentNode) { q.unmergedLeaves = nil })
	}
}

func (p *pen) treeBlank(l looseTree, n int) {
	if n%2 == 1 {
		l[n].parent = &parentNode{encryptionKey: p.keys[p.next()%len(p.keys)]}
		return
	}
	for i := range l { // the leaf of another, a second time
		if l[i].leaf != nil && p.of(2) == 1 {
			l[n].leaf = l[i].leaf
			return
		}
	}
}
