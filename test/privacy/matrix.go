package privacy

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
)

//go:embed matrix.json
var matrixJSON []byte

// Role is a column of the matrix: what one operator role of one domain can see.
type Role string

// The roles. A role's name in a view is its domain's: two domains' hubs are two views of the same role.
const (
	Hub               Role = "hub"
	Fanout            Role = "fanout"
	KeyPackageStore   Role = "kpstore"
	ProviderAccount   Role = "provider-account"
	ProviderAnonymous Role = "provider-anonymous"
	Replay            Role = "replay" // no service: whoever may use the bus's read-only user
)

// Scope is how far a role may see a kind of value.
type Scope string

// The scopes; a role that a row does not name has none.
const (
	Own    Scope = "own"    // only values of its own domain's users
	Served Scope = "served" // only values of groups that its own domain's hub serves
	All    Scope = "all"
)

// Row is one kind of value and who may see it.
type Row struct {
	Kind    string         `json:"kind"`
	Allowed map[Role]Scope `json:"allowed"`
	Reason  string         `json:"reason"`
}

// Matrix is who may see what: the data that the leak check reads.
type Matrix struct {
	Roles []Role `json:"roles"`
	Rows  []Row  `json:"rows"`
}

// LoadMatrix returns the project's matrix. It fails if a row names a role or scope that does not exist, or gives no reason.
func LoadMatrix() (*Matrix, error) {
	m := new(Matrix)
	if err := json.Unmarshal(matrixJSON, m); err != nil {
		return nil, fmt.Errorf("privacy matrix: %w", err)
	}
	for _, r := range m.Rows {
		if r.Kind == "" || r.Reason == "" {
			return nil, fmt.Errorf("privacy matrix: row %q lacks a kind or a reason", r.Kind)
		}
		for role, scope := range r.Allowed {
			if !slices.Contains(m.Roles, role) || (scope != Own && scope != Served && scope != All) {
				return nil, fmt.Errorf("privacy matrix: row %q: no such role or scope: %s %s", r.Kind, role, scope)
			}
		}
	}
	return m, nil
}

// row returns the row of a kind.
func (m *Matrix) row(kind string) (Row, bool) {
	i := slices.IndexFunc(m.Rows, func(r Row) bool { return r.Kind == kind })
	if i < 0 {
		return Row{}, false
	}
	return m.Rows[i], true
}

// allows says whether a view may hold a canary.
func (m *Matrix) allows(v View, c Canary) bool {
	r, ok := m.row(c.Kind)
	if !ok {
		return false
	}
	switch r.Allowed[v.Role] {
	case All:
		return true
	case Own:
		return v.Domain == c.Domain
	case Served:
		return v.Domain == c.Hub
	}
	return false
}
