package mimimi

import "mimimi.example/pkg/mls"

// roster is what the leaves of a group show, by leaf index.
type roster map[uint32]*LeafIdentity

// newRoster reads all leaves of g. Leaves that g shares with the group before are taken over from its roster.
func newRoster(g, before *mls.PublicGroup, known roster) (roster, error) {
	members := g.Members()
	r := make(roster, len(members))
	for _, m := range members {
		if before != nil {
			if old, ok := before.Member(m.Index); ok && old == m.Leaf {
				r[m.Index] = known[m.Index]
				continue
			}
		}
		id, err := ParseLeaf(m.Leaf)
		if err != nil {
			return nil, err
		}
		r[m.Index] = id
	}
	return r, nil
}

// users is the set of user pseudonyms.
func (r roster) users() map[UserPseudonym]bool {
	users := make(map[UserPseudonym]bool, len(r))
	for _, m := range r {
		users[m.Credential.UserPseudonym] = true
	}
	return users
}

// checkUnique checks that no client pseudonym and no key occurs twice among the members, whose roster r is.
func (r roster) checkUnique(members []mls.Member) error {
	clients := make(map[ClientPseudonym]bool, len(r))
	signing, sealing := make(map[string]bool, len(r)), make(map[string]bool, len(r))
	for _, m := range members {
		clients[r[m.Index].Credential.ClientPseudonym] = true
		signing[string(m.Leaf.SignatureKey())] = true
		sealing[string(m.Leaf.EncryptionKey())] = true
	}
	switch {
	case len(clients) != len(r):
		return invalid("9", "client pseudonyms are unique in the tree")
	case len(signing) != len(r):
		return invalid("9", "signature keys are unique in the tree")
	case len(sealing) != len(r):
		return invalid("9", "encryption keys are unique in the tree")
	}
	return nil
}
