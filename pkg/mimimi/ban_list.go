package mimimi

import (
	"cmp"
	"slices"
)

// BanList is the body of EnvelopeBanList (§9): the users whom the group's members let in no more. It is always the whole list. Only members see it: a
// hub knows no users.
type BanList struct {
	// Number is one more than that of the list before; a list whose number is not higher than that of the list in force does not count. So of two lists
	// made at once the one that stands first in the group's log counts, and whoever made the other makes it anew.
	Number uint64
	Users  []User // in any order for Marshal; ascending and each once from ParseBanList
}

// Marshal is the TLS encoding. It returns a *RuleError for more than 512 users.
func (l *BanList) Marshal() ([]byte, error) {
	if len(l.Users) > MaxBans {
		return nil, invalid("9", "a ban list has at most 512 users")
	}
	users := slices.Compact(slices.SortedFunc(slices.Values(l.Users), compareNames))
	return encode(func(b *builder) {
		b.AddUint64(l.Number)
		addList(b, func(b *builder) {
			for _, u := range users {
				addName(b, u.Wire())
			}
		})
	}), nil
}

// ParseBanList reads the body. It returns ErrMalformed.
func ParseBanList(b []byte) (*BanList, error) {
	l := new(BanList)
	err := decode(b, func(s *input) bool {
		return s.ReadUint64(&l.Number) && readList(s, MaxBans, l.readUser)
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// readUser appends one user; they must ascend, so that a set has one encoding.
func (l *BanList) readUser(s *input) bool {
	var u User
	if !readName(s, ParseUser, &u) {
		return false
	}
	ascends := len(l.Users) == 0 || compareNames(l.Users[len(l.Users)-1], u) < 0
	l.Users = append(l.Users, u)
	return ascends
}

func compareNames(a, b User) int { return cmp.Compare(a.Wire(), b.Wire()) }
