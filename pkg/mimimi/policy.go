package mimimi

import (
	"cmp"
	"slices"

	"mimimi.example/pkg/mls"
)

// Role is what a user may do in a group. Roles are ordered: an admin is a member too.
type Role uint8

const (
	RoleMember Role = 1
	RoleAdmin  Role = 2
)

// Policy is the content of the GroupContext extension mimimi_group (§9). Version and UnidentifiedMembers never change.
type Policy struct {
	Version                      uint16
	Admins                       []UserPseudonym // all others are members
	MayAdd, MayRemove, MayInvite Role            // the least role that may
	ExternalJoins                bool
	UnidentifiedMembers          bool
	LastResort                   bool   // whether last-resort KeyPackages may be added
	MaxLeaves                    uint32 // 1 to 1,000
}

// Marshal makes the mimimi_group extension. Admins are written in the order of their names, whatever order p has them in.
func (p *Policy) Marshal() mls.Extension {
	data := encode(func(b *builder) {
		b.AddUint16(p.Version)
		addList(b, func(b *builder) {
			for _, a := range slices.SortedFunc(slices.Values(p.Admins), compareUsers) {
				addName(b, a.Wire())
			}
		})
		b.AddUint8(uint8(p.MayAdd))
		b.AddUint8(uint8(p.MayRemove))
		b.AddUint8(uint8(p.MayInvite))
		addBool(b, p.ExternalJoins)
		addBool(b, p.UnidentifiedMembers)
		addBool(b, p.LastResort)
		b.AddUint32(p.MaxLeaves)
	})
	return mls.Extension{Type: ExtensionGroup, Data: data}
}

func compareUsers(a, b UserPseudonym) int { return cmp.Compare(a.Wire(), b.Wire()) }

// ParsePolicy reads the data of mimimi_group. It returns ErrMalformed, or a *RuleError for a version, role or size that version 1.0
// does not have.
func ParsePolicy(data []byte) (*Policy, error) {
	p := new(Policy)
	if err := decode(data, p.read); err != nil {
		return nil, err
	}
	switch {
	case p.Version != Version:
		return nil, invalid("9", "the policy is of version 1")
	case !p.MayAdd.known() || !p.MayRemove.known() || !p.MayInvite.known():
		return nil, invalid("9", "the policy's roles are member and admin")
	case p.MaxLeaves < 1 || p.MaxLeaves > maxLeaves:
		return nil, invalid("9", "a group has 1 to 1000 leaves")
	}
	return p, nil
}

func (p *Policy) read(s *input) bool {
	return s.ReadUint16(&p.Version) &&
		readList(s, maxLeaves, p.readAdmin) &&
		s.ReadUint8((*uint8)(&p.MayAdd)) &&
		s.ReadUint8((*uint8)(&p.MayRemove)) &&
		s.ReadUint8((*uint8)(&p.MayInvite)) &&
		readBool(s, &p.ExternalJoins) &&
		readBool(s, &p.UnidentifiedMembers) &&
		readBool(s, &p.LastResort) &&
		s.ReadUint32(&p.MaxLeaves)
}

// readAdmin appends one admin; they must ascend, so that a set has one encoding.
func (p *Policy) readAdmin(s *input) bool {
	var u UserPseudonym
	if !readName(s, ParseUserPseudonym, &u) {
		return false
	}
	ascends := len(p.Admins) == 0 || compareUsers(p.Admins[len(p.Admins)-1], u) < 0
	p.Admins = append(p.Admins, u)
	return ascends
}

func (r Role) known() bool { return r == RoleMember || r == RoleAdmin }

// Role is the role of a user who is in the group.
func (p *Policy) Role(u UserPseudonym) Role {
	if slices.Contains(p.Admins, u) {
		return RoleAdmin
	}
	return RoleMember
}

// GroupExtensions are the GroupContext extensions of a new group, all that a group may have: required_capabilities and
// mimimi_group (§9).
func GroupExtensions(p *Policy) []mls.Extension {
	return []mls.Extension{RequiredCapabilities(), p.Marshal()}
}

// policyOf checks a GroupContext's extensions and returns the policy.
func policyOf(exts []mls.Extension) (*Policy, error) {
	required := RequiredCapabilities()
	if len(exts) != 2 || exts[0].Type != required.Type || exts[1].Type != ExtensionGroup {
		return nil, invalid("9", "the GroupContext has required_capabilities and mimimi_group, and nothing else")
	}
	if !equalExtensions(exts[0], required) {
		return nil, invalid("2", "a group requires all of the protocol's code points, in their order")
	}
	return ParsePolicy(exts[1].Data)
}
