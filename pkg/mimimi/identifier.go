package mimimi

import (
	"crypto/rand"
	"encoding/hex"
	"strings"

	"mimimi.example/pkg/redact"
)

type (
	userKind            struct{}
	clientKind          struct{}
	userPseudonymKind   struct{}
	clientPseudonymKind struct{}
	groupKind           struct{}
)

func (userKind) Placeholder() string            { return "[user]" }
func (clientKind) Placeholder() string          { return "[client]" }
func (userPseudonymKind) Placeholder() string   { return "[user pseudonym]" }
func (clientPseudonymKind) Placeholder() string { return "[client pseudonym]" }
func (groupKind) Placeholder() string           { return "[group]" }

// Embedded under unexported names, so that nothing outside can set one identifier's value to another's.
type (
	userName            = redact.Name[userKind]
	clientName          = redact.Name[clientKind]
	userPseudonymName   = redact.Name[userPseudonymKind]
	clientPseudonymName = redact.Name[clientPseudonymKind]
	groupName           = redact.Name[groupKind]
)

// The identifiers of §1. They are comparable, print as "[user]" and so on under every verb and encoder, and show their value
// only through Wire. The zero value holds no identifier.
type (
	// User is mimi://a.example/u/alice.
	User struct{ userName }
	// Client is one device of a user, mimi://a.example/d/<uuid>.
	Client struct{ clientName }
	// UserPseudonym is mimi://a.example/u/<uuid v4>, one per user and group.
	UserPseudonym struct{ userPseudonymName }
	// ClientPseudonym is mimi://a.example/d/<uuid v4>, one per leaf.
	ClientPseudonym struct{ clientPseudonymName }
	// GroupID is mimi://hub.example/g/<uuid v4>, also the MLS group_id.
	GroupID struct{ groupName }
)

const scheme = "mimi://"

// uri builds an identifier. kind is the path's first segment: u, d or g.
func uri(domain, kind, local string) string { return scheme + domain + "/" + kind + "/" + local }

// splitURI takes an identifier of the given kind apart; ok is false unless its domain is one.
func splitURI(s, kind string) (domain, local string, ok bool) {
	rest, hasScheme := strings.CutPrefix(s, scheme)
	domain, path, hasPath := strings.Cut(rest, "/")
	local, hasKind := strings.CutPrefix(path, kind+"/")
	return domain, local, hasScheme && hasPath && hasKind && CheckDomain(domain) == nil
}

// domainOf is the domain of an identifier that was parsed before; "" for the zero value.
func domainOf(wire string) string {
	domain, _, _ := strings.Cut(strings.TrimPrefix(wire, scheme), "/")
	return domain
}

// ParseUser reads a user's identifier and checks the limits of registration (§0): 1 to 64 of a-z, 0-9, '.', '_' and '-'. A name
// of the form of a UUID is refused, since it could pass for a pseudonym. It returns a *RuleError.
func ParseUser(s string) (User, error) {
	_, local, ok := splitURI(s, "u")
	if !ok || !isUserName(local) {
		return User{}, invalid("1", "a user is mimi://domain/u/name, the name 1 to 64 of a-z 0-9 . _ - and no UUID")
	}
	return User{redact.NewName[userKind](s)}, nil
}

// ParseClient reads a client's identifier. It returns a *RuleError.
func ParseClient(s string) (Client, error) {
	if _, local, ok := splitURI(s, "d"); !ok || !isUUID(local) {
		return Client{}, invalid("1", "a client is mimi://domain/d/uuid")
	}
	return Client{redact.NewName[clientKind](s)}, nil
}

// ParseUserPseudonym reads a user pseudonym. It returns a *RuleError.
func ParseUserPseudonym(s string) (UserPseudonym, error) {
	if _, local, ok := splitURI(s, "u"); !ok || !isUUIDv4(local) {
		return UserPseudonym{}, invalid("1", "a user pseudonym is mimi://domain/u/uuid-v4")
	}
	return UserPseudonym{redact.NewName[userPseudonymKind](s)}, nil
}

// ParseClientPseudonym reads a client pseudonym. It returns a *RuleError.
func ParseClientPseudonym(s string) (ClientPseudonym, error) {
	if _, local, ok := splitURI(s, "d"); !ok || !isUUIDv4(local) {
		return ClientPseudonym{}, invalid("1", "a client pseudonym is mimi://domain/d/uuid-v4")
	}
	return ClientPseudonym{redact.NewName[clientPseudonymKind](s)}, nil
}

// ParseGroupID reads an MLS group_id. It returns a *RuleError.
func ParseGroupID(b []byte) (GroupID, error) {
	s := string(b)
	if _, local, ok := splitURI(s, "g"); !ok || !isUUIDv4(local) {
		return GroupID{}, invalid("1", "a group is mimi://domain/g/uuid-v4")
	}
	return GroupID{redact.NewName[groupKind](s)}, nil
}

// NewClient returns a fresh client identifier. It returns a *RuleError if domain is none.
func NewClient(domain string) (Client, error) { return ParseClient(uri(domain, "d", newUUID())) }

// NewUserPseudonym returns a fresh user pseudonym. It returns a *RuleError if domain is none.
func NewUserPseudonym(domain string) (UserPseudonym, error) {
	return ParseUserPseudonym(uri(domain, "u", newUUID()))
}

// NewClientPseudonym returns a fresh client pseudonym. It returns a *RuleError if domain is none.
func NewClientPseudonym(domain string) (ClientPseudonym, error) {
	return ParseClientPseudonym(uri(domain, "d", newUUID()))
}

// NewGroupID returns a fresh group id at the hub of domain. It returns a *RuleError if domain is none.
func NewGroupID(domain string) (GroupID, error) {
	return ParseGroupID([]byte(uri(domain, "g", newUUID())))
}

// Domain is the user's provider.
func (u User) Domain() string { return domainOf(u.Wire()) }

// Domain is the client's provider.
func (c Client) Domain() string { return domainOf(c.Wire()) }

// Domain is the provider of the user behind the pseudonym.
func (u UserPseudonym) Domain() string { return domainOf(u.Wire()) }

// Domain is the provider of the client behind the pseudonym.
func (c ClientPseudonym) Domain() string { return domainOf(c.Wire()) }

// Domain is the hub's.
func (g GroupID) Domain() string { return domainOf(g.Wire()) }

// CheckDomain says whether s is a domain as identifiers hold it (§1): lower-case ASCII letters, digits and hyphens in labels of 1
// to 63, at most 80 bytes, no port, not an IP address. It returns a *RuleError.
func CheckDomain(s string) error {
	if len(s) > maxDomain {
		return invalid("0", "a domain has at most 80 bytes")
	}
	last := ""
	for l := range strings.SplitSeq(s, ".") {
		if !isDomainLabel(l) {
			return invalid("1", "a domain is lower-case letters, digits and hyphens, in labels joined by dots")
		}
		last = l
	}
	if strings.Trim(last, "0123456789") == "" {
		return invalid("1", "a domain is a name, not an address")
	}
	return nil
}

func isDomainLabel(s string) bool {
	return len(s) >= 1 && len(s) <= maxDomainLabel && s[0] != '-' && s[len(s)-1] != '-' && only(s, "-")
}

func isUserName(s string) bool {
	return len(s) >= 1 && len(s) <= maxUserName && only(s, "._-") && !isUUID(s)
}

// only says whether s is lower-case letters, digits, and bytes of others.
func only(s, others string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return true
}

// isUUID says whether s is a UUID in RFC 9562's lower-case text form, of any version.
func isUUID(s string) bool {
	if len(s) != uuidLen || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	h := strings.ReplaceAll(s, "-", "")
	_, err := hex.DecodeString(h)
	return len(h) == 32 && err == nil && strings.ToLower(s) == s
}

func isUUIDv4(s string) bool {
	return isUUID(s) && s[14] == '4' && strings.IndexByte("89ab", s[19]) >= 0
}

// newUUID is a random UUID, RFC 9562 §5.4.
func newUUID() string {
	var u [16]byte
	rand.Read(u[:]) // never fails (crypto/rand)
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
