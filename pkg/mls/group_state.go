package mls

import (
	"bytes"

	"golang.org/x/crypto/cryptobyte"
)

// stateVersion is the version of the encodings of Group.Marshal and StagedCommit.Marshal. Version 1, in which own Updates have no signature key, is
// still read.
const stateVersion = 2

// Marshal returns the state's encoding for storage. It holds all of the member's secrets. Equal states have equal encodings.
func (g *Group) Marshal() []byte {
	var b cryptobyte.Builder
	b.AddUint16(stateVersion)
	g.s.marshal(&b)
	return b.BytesOrPanic()
}

// MarshalPrivate returns the encoding of all that Marshal returns but the public group. The public group, Public, is most of a large group's state, and stays as it
// is between commits and proposals: whoever stores both parts need not write it with every message.
func (g *Group) MarshalPrivate() []byte {
	var b cryptobyte.Builder
	b.AddUint16(stateVersion)
	g.s.marshalPrivate(&b)
	return b.BytesOrPanic()
}

func (s *groupState) marshal(b *cryptobyte.Builder) {
	writeOpaque(b, s.public.Marshal())
	s.marshalPrivate(b)
}

func (s *groupState) marshalPrivate(b *cryptobyte.Builder) {
	s.private.marshal(b)
	writeKey(b, s.signer)
	s.secrets.marshal(b)
	s.messages.marshal(b)
	writeVector(b, func(b *cryptobyte.Builder) {
		for _, u := range s.updates {
			writeOpaque(b, u.ref)
			writeKey(b, u.key)
			writeKey(b, u.signer)
		}
	})
	writeVector(b, func(b *cryptobyte.Builder) {
		for _, p := range s.past {
			p.marshal(b, s.public.tree)
		}
	})
	b.AddUint8(uint8(s.keep))
}

// writeKey writes a secret key as opaque<V>.
func writeKey(b *cryptobyte.Builder, k interface{ MarshalBinary() ([]byte, error) }) {
	v, err := k.MarshalBinary()
	if err != nil {
		b.SetError(err) // only a zero key fails, and no state holds one
		return
	}
	writeOpaque(b, v)
}

func readKey(s *cryptobyte.String, k interface{ UnmarshalBinary([]byte) error }) bool {
	var v []byte
	return readOpaque(s, &v) && k.UnmarshalBinary(v) == nil
}

// ParseGroup reads what Group.Marshal wrote. The input is trusted, as for ParsePublicGroup. Reading an older state of the same group
// and sending with it uses keys again: the caller keeps only the newest. It returns ErrMalformed or ErrUnsupported.
func ParseGroup(b []byte, rules *Rules) (*Group, error) {
	s := cryptobyte.String(b)
	version, err := readVersion(&s)
	if err != nil {
		return nil, err
	}
	g, err := parseGroupState(s, version, rules)
	if err != nil {
		return nil, err
	}
	return &Group{g}, nil
}

// ParseGroupParts reads what PublicGroup.Marshal and Group.MarshalPrivate wrote of one state. It is trusted as ParseGroup's input is; of two parts that belong to
// different states not all are told apart. It returns ErrMalformed or ErrUnsupported.
func ParseGroupParts(public, private []byte, rules *Rules) (*Group, error) {
	s := cryptobyte.String(private)
	version, err := readVersion(&s)
	if err != nil {
		return nil, err
	}
	g, err := parsePrivateState(s, version, public, rules)
	if err != nil {
		return nil, err
	}
	return &Group{g}, nil
}

func readVersion(s *cryptobyte.String) (version uint16, err error) {
	if !s.ReadUint16(&version) {
		return 0, ErrMalformed
	}
	if version < 1 || version > stateVersion {
		return 0, ErrUnsupported
	}
	return version, nil
}

func parseGroupState(s cryptobyte.String, version uint16, rules *Rules) (*groupState, error) {
	var public cryptobyte.String
	if !readState(&s, &public) {
		return nil, ErrMalformed
	}
	return parsePrivateState(s, version, public, rules)
}

func parsePrivateState(s cryptobyte.String, version uint16, public []byte, rules *Rules) (*groupState, error) {
	g := &groupState{private: new(treePrivate), secrets: new(epochSecrets), messages: new(secretTree)}
	var past cryptobyte.String
	var keep uint8
	ok := g.private.parse(&s) &&
		readKey(&s, &g.signer) &&
		g.secrets.parse(&s) &&
		g.messages.parse(&s) &&
		readVector(&s, maxPending, func(s *cryptobyte.String) bool { return g.parseUpdate(s, version) }) &&
		readState(&s, &past) &&
		s.ReadUint8(&keep) &&
		keep != 0 && keep <= maxPastEpochs &&
		s.Empty()
	if !ok {
		return nil, ErrMalformed
	}
	g.keep = int(keep)
	var err error
	if g.public, err = ParsePublicGroup(public, rules); err != nil {
		return nil, err
	}
	for !past.Empty() {
		p := new(pastEpoch)
		if len(g.past) == g.keep || !p.parse(&past, g.public.tree) {
			return nil, ErrMalformed
		}
		g.past = append(g.past, p)
	}
	return g, g.check()
}

func (g *groupState) parseUpdate(s *cryptobyte.String, version uint16) bool {
	u := ownUpdate{signer: g.signer}
	ok := readOpaque(s, &u.ref) && readKey(s, &u.key) && (version < 2 || readKey(s, &u.signer))
	g.updates = append(g.updates, u)
	return ok
}

// check says whether the parts of a state that was read belong together.
func (g *groupState) check() error {
	if err := g.private.check(g.public.tree); err != nil {
		return err
	}
	if !bytes.Equal(g.signer.Public(), g.ownLeaf().signatureKey) || g.signer.k().suite != g.suite() ||
		g.messages.suite != g.suite() || int(g.messages.width) != g.public.tree.width() {
		return ErrMalformed
	}
	for _, secret := range g.secrets.all() {
		if len(*secret) != g.suite().HashLen() {
			return ErrMalformed
		}
	}
	if !g.checkUpdates() || !g.checkPast() {
		return ErrMalformed
	}
	return nil
}

// checkUpdates reports whether the own Updates are pending, and their keys those of their leaves.
func (g *groupState) checkUpdates() bool {
	if len(g.updates) == 0 {
		return true
	}
	pending := g.public.pendingByRef()
	return all(g.updates, func(u ownUpdate) bool {
		p := pending[string(u.ref)]
		if p == nil || p.content.content.proposal.Type != ProposalUpdate {
			return false
		}
		leaf := p.content.content.proposal.Leaf
		return u.key.k().suite == g.suite() && bytes.Equal(u.key.Public(), leaf.encryptionKey) &&
			u.signer.k().suite == g.suite() && bytes.Equal(u.signer.Public(), leaf.signatureKey)
	})
}

// checkPast reports whether the past epochs are of this group's suite, the newest first.
func (g *groupState) checkPast() bool {
	next := g.public.context.epoch
	return all(g.past, func(p *pastEpoch) bool {
		older := p.epoch < next
		next = p.epoch
		return older && p.messages.suite == g.suite() && len(p.senderData) == g.suite().HashLen() && len(p.resumption) == g.suite().HashLen()
	})
}

// Marshal returns the staged commit's encoding for storage. It holds the secrets of the next state.
func (c *StagedCommit) Marshal() []byte {
	var b cryptobyte.Builder
	b.AddUint16(stateVersion)
	writeOptional(&b, c.joins)
	writeOpaque(&b, c.Message)
	writeOpaque(&b, c.Welcome)
	writeOpaque(&b, c.GroupInfo)
	writeOpaque(&b, c.Change.Before.Marshal())
	writeOpaque(&b, marshal(c.content))
	writeOptional(&b, c.next != nil)
	if c.next != nil {
		writeVector(&b, c.next.s.marshal)
	}
	return b.BytesOrPanic()
}

// ParseStagedCommit reads what StagedCommit.Marshal wrote. The input is trusted: the commit was checked when it was staged, and the
// application's rules are not asked again. It returns ErrMalformed or ErrUnsupported.
func ParseStagedCommit(b []byte, rules *Rules) (*StagedCommit, error) {
	s := cryptobyte.String(b)
	version, err := readVersion(&s)
	if err != nil {
		return nil, err
	}
	c := &StagedCommit{content: new(authenticatedContent)}
	var message, welcome, groupInfo, before, content, next cryptobyte.String
	var stays bool
	ok := readOptional(&s, &c.joins) &&
		readState(&s, &message) &&
		readState(&s, &welcome) &&
		readState(&s, &groupInfo) &&
		readState(&s, &before) &&
		readState(&s, &content) &&
		readOptional(&s, &stays) &&
		(!stays || readState(&s, &next)) &&
		s.Empty()
	if !ok || parse(bytes.Clone(content), c.content) != nil {
		return nil, ErrMalformed
	}
	c.Message, c.Welcome, c.GroupInfo = unlessEmpty(message), unlessEmpty(welcome), unlessEmpty(groupInfo)
	if err := c.restage(before, rules); err != nil {
		return nil, err
	}
	if !stays {
		return c, nil
	}
	g, err := parseGroupState(next, version, rules)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(g.public.encoded, c.Change.After.encoded) {
		return nil, ErrMalformed
	}
	c.next = &Group{g}
	return c, nil
}

// restage works out the change again.
func (c *StagedCommit) restage(before []byte, rules *Rules) error {
	public, err := ParsePublicGroup(before, rules)
	if err != nil {
		return err
	}
	// A member's commit that joins is the one by which it founds a successor.
	public.founding = c.joins && c.content.content.sender.Type == SenderMember
	t, err := public.stage(c.content, noTime)
	if err != nil {
		return ErrMalformed
	}
	c.Change = t.change
	return nil
}

// unlessEmpty returns a copy of b, nil if it is empty.
func unlessEmpty(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return bytes.Clone(b)
}
