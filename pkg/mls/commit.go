package mls

import "golang.org/x/crypto/cryptobyte"

// commit is Commit, RFC 9420 §12.4.
type commit struct {
	proposals []proposalOrRef
	path      *updatePath // nil if absent
}

func (c *commit) parse(s *cryptobyte.String) bool {
	c.proposals = nil
	var hasPath bool
	if !readVector(s, maxProposals, c.parseProposal) || !readOptional(s, &hasPath) {
		return false
	}
	if !hasPath {
		c.path = nil
		return true
	}
	c.path = new(updatePath)
	return c.path.parse(s)
}

func (c *commit) parseProposal(s *cryptobyte.String) bool {
	var p proposalOrRef
	if !p.parse(s) {
		return false
	}
	c.proposals = append(c.proposals, p)
	return true
}

func (c *commit) marshal(b *cryptobyte.Builder) {
	writeVector(b, func(b *cryptobyte.Builder) {
		for i := range c.proposals {
			c.proposals[i].marshal(b)
		}
	})
	writeOptional(b, c.path != nil)
	if c.path != nil {
		c.path.marshal(b)
	}
}

// The values of ProposalOrRefType, RFC 9420 §12.4.
const (
	proposalByValue     = 1
	proposalByReference = 2
)

// proposalOrRef is ProposalOrRef, RFC 9420 §12.4. Exactly one of the fields is set.
type proposalOrRef struct {
	proposal *Proposal
	ref      []byte
}

func (p *proposalOrRef) parse(s *cryptobyte.String) bool {
	var kind uint8
	if !s.ReadUint8(&kind) {
		return false
	}
	switch kind {
	case proposalByValue:
		p.proposal = new(Proposal)
		return p.proposal.parse(s)
	case proposalByReference:
		return readOpaque(s, &p.ref)
	}
	return false
}

func (p *proposalOrRef) marshal(b *cryptobyte.Builder) {
	if p.proposal != nil {
		b.AddUint8(proposalByValue)
		p.proposal.marshal(b)
		return
	}
	b.AddUint8(proposalByReference)
	writeOpaque(b, p.ref)
}

// updatePath is UpdatePath, RFC 9420 §7.6: the nodes of the sender's filtered direct path, from the leaf up.
type updatePath struct {
	leaf  *LeafNode
	nodes []updatePathNode
}

func (u *updatePath) parse(s *cryptobyte.String) bool {
	u.leaf, u.nodes = new(LeafNode), nil
	return u.leaf.parse(s) && readVector(s, maxPathNodes, func(s *cryptobyte.String) bool {
		var n updatePathNode
		if !n.parse(s) {
			return false
		}
		u.nodes = append(u.nodes, n)
		return true
	})
}

func (u *updatePath) marshal(b *cryptobyte.Builder) {
	u.leaf.marshal(b)
	writeVector(b, func(b *cryptobyte.Builder) {
		for i := range u.nodes {
			u.nodes[i].marshal(b)
		}
	})
}

// updatePathNode is UpdatePathNode, RFC 9420 §7.6: one node's new key, and its path secret sealed to each node of the
// resolution of the copath child.
type updatePathNode struct {
	encryptionKey []byte
	pathSecrets   []hpkeCiphertext
}

func (n *updatePathNode) parse(s *cryptobyte.String) bool {
	n.pathSecrets = nil
	return readOpaque(s, &n.encryptionKey) && readVector(s, maxLeaves, func(s *cryptobyte.String) bool {
		var c hpkeCiphertext
		if !c.parse(s) {
			return false
		}
		n.pathSecrets = append(n.pathSecrets, c)
		return true
	})
}

func (n *updatePathNode) marshal(b *cryptobyte.Builder) {
	writeOpaque(b, n.encryptionKey)
	writeVector(b, func(b *cryptobyte.Builder) {
		for i := range n.pathSecrets {
			n.pathSecrets[i].marshal(b)
		}
	})
}
