package mls

import (
	"bytes"

	"golang.org/x/crypto/cryptobyte"
)

// The versions of PublicGroup.Marshal's encoding: that of a group that goes on, and that of one which a ReInit has ended.
const (
	publicStateVersion      = 1
	publicStateVersionEnded = 2
)

// Marshal returns the state's encoding for storage: version, GroupContext, tree, confirmation tag, pending proposals, and the ReInit of a group that
// has ended. Equal states have equal encodings. The interim transcript hash follows from the others.
func (g *PublicGroup) Marshal() []byte {
	var b cryptobyte.Builder
	version := uint16(publicStateVersion)
	if g.reInit != nil {
		version = publicStateVersionEnded
	}
	b.AddUint16(version)
	b.AddBytes(g.encoded)
	writeOpaque(&b, g.tree.bytes())
	writeOpaque(&b, g.tag)
	writeVector(&b, func(b *cryptobyte.Builder) {
		for i := range g.pending {
			g.pending[i].content.marshal(b)
		}
	})
	if g.reInit != nil {
		g.reInit.marshal(&b)
	}
	return b.BytesOrPanic()
}

// ParsePublicGroup reads what Marshal wrote. The input is trusted: signatures were verified when the state came to be, and are not
// again. The tree must still be that of the GroupContext. It returns ErrMalformed or ErrUnsupported.
func ParsePublicGroup(b []byte, rules *Rules) (*PublicGroup, error) {
	s := cryptobyte.String(b)
	var version uint16
	if !s.ReadUint16(&version) {
		return nil, ErrMalformed
	}
	var reInit *ReInit
	switch version {
	case publicStateVersion:
	case publicStateVersionEnded:
		reInit = new(ReInit)
	default:
		return nil, ErrUnsupported
	}
	var context groupContext
	var treeBytes, tag []byte
	var contents []*authenticatedContent
	ok := context.parse(&s) &&
		readView(&s, &treeBytes) &&
		readOpaque(&s, &tag) &&
		readPending(&s, &contents) &&
		(reInit == nil || reInit.parse(&s)) &&
		s.Empty()
	if !ok || reInit != nil && len(contents) > 0 {
		return nil, ErrMalformed
	}
	g, err := restorePublicGroup(rules, context, treeBytes, tag, contents)
	if err != nil {
		return nil, err
	}
	g.reInit = reInit
	return g, nil
}

// readPending reads the vector of pending proposals.
func readPending(s *cryptobyte.String, out *[]*authenticatedContent) bool {
	own := bytes.Clone(*s) // for the proposals to be views of
	pending := cryptobyte.String(own)
	ok := readVector(&pending, maxPending, func(s *cryptobyte.String) bool {
		ac := new(authenticatedContent)
		*out = append(*out, ac)
		return ac.parse(s) && ac.content.contentType == contentProposal
	})
	return ok && s.Skip(len(own)-len(pending))
}

func restorePublicGroup(rules *Rules, context groupContext, treeBytes, tag []byte, pending []*authenticatedContent) (*PublicGroup, error) {
	if err := context.supported(); err != nil {
		return nil, err
	}
	tree, err := parseRatchetTree(context.suite, treeBytes)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(tree.rootHash(), context.treeHash) {
		return nil, ErrMalformed
	}
	g := newPublicGroup(rules, context, tree, tag)
	for _, ac := range pending {
		if g, err = g.withPending(ac); err != nil {
			return nil, ErrMalformed
		}
	}
	return g, nil
}
