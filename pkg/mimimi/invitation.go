package mimimi

import (
	"maps"
	"slices"
	"time"
)

// Invitation lets its holder join a group by external commit (§7). It holds link keys of leaves by which the joiner recognises the
// group.
type Invitation struct {
	Group    GroupID
	Secret   InviteSecret
	Uses     uint16
	NotAfter time.Time // whole seconds
	Policy   *Policy
	LinkKeys map[uint32]LinkKey // by leaf index, of the inviter's leaves or of all
}

// Marshal is the TLS encoding; the keys stand in order of their leaves.
func (i *Invitation) Marshal() []byte {
	return encode(func(b *builder) {
		addName(b, i.Group.Wire())
		b.AddBytes(i.Secret.Bytes())
		b.AddUint16(i.Uses)
		addTime(b, i.NotAfter)
		addVector(b, i.Policy.Marshal().Data)
		addList(b, func(b *builder) {
			for _, leaf := range slices.Sorted(maps.Keys(i.LinkKeys)) {
				b.AddUint32(leaf)
				addVector(b, i.LinkKeys[leaf].Bytes())
			}
		})
	})
}

// ParseInvitation reads an invitation. It returns ErrMalformed or, for its policy, a *RuleError.
func ParseInvitation(b []byte) (*Invitation, error) {
	i, policy := &Invitation{LinkKeys: map[uint32]LinkKey{}}, []byte(nil)
	err := decode(b, func(s *input) bool {
		return readName(s, func(id string) (GroupID, error) { return ParseGroupID([]byte(id)) }, &i.Group) &&
			readSecret(s, &i.Secret.secret) &&
			s.ReadUint16(&i.Uses) &&
			readTime(s, &i.NotAfter) &&
			readVector(s, &policy) &&
			readList(s, maxLeafIndex, i.readLinkKey())
	})
	if err != nil {
		return nil, err
	}
	i.Policy, err = ParsePolicy(policy)
	return i, err
}

// readLinkKey reads the entries of LinkKeys, whose leaves must ascend: there is one encoding of a map.
func (i *Invitation) readLinkKey() func(s *input) bool {
	next := uint32(0)
	return func(s *input) bool {
		var leaf uint32
		var key LinkKey
		if !s.ReadUint32(&leaf) || leaf < next || leaf >= maxLeafIndex || !readKeyVector(s, &key.secret) {
			return false
		}
		next, i.LinkKeys[leaf] = leaf+1, key
		return true
	}
}
