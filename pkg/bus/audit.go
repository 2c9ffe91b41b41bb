package bus

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"
	"unicode"

	"mimimi.example/pkg/problem"
)

// Audited is one entry of the audit log: what an operator did, never to whom. The log is append-only: nobody may delete or purge it, and it is kept for 400 days.
type Audited struct {
	At      time.Time `json:"at"`                // whole seconds, UTC
	As      string    `json:"as"`                // the operator's own label, as given; it is not proven
	Action  string    `json:"action"`            // a command's name
	Outcome string    `json:"outcome"`           // begun, done or failed
	Setting string    `json:"setting,omitempty"` // of a command that changes one: its name, such as "queue=3"
}

// maxLabel bounds the texts of an audit entry.
const maxLabel = 128

// Audit appends to the audit log. It is for the admin service. At is set here. Errors: as Publish, and for a label that is too long or cannot be printed.
func (b *Bus) Audit(ctx context.Context, a Audited) error {
	for _, s := range []string{a.As, a.Action, a.Outcome, a.Setting} {
		if len(s) > maxLabel || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return errors.New("bus: a label in the audit log has at most 128 printable bytes")
		}
	}
	a.At = time.Now().UTC().Truncate(time.Second)
	raw, err := json.Marshal(a)
	if err != nil {
		return problem.Wrap(problem.Internal, "an audit entry could not be encoded", err)
	}
	_, err = b.Publish(ctx, b.AuditLog(), raw, PublishOptions{})
	return err
}

// AuditLog is the audit log, for reads; ParseAudited reads one entry.
func (b *Bus) AuditLog() Subject { return Subject{name: "audit." + serviceAdmin, stream: streamAudit} }

// ParseAudited reads the data of a message of AuditLog. It returns problem.Invalid for what is none.
func ParseAudited(data []byte) (*Audited, error) {
	a := new(Audited)
	if err := json.Unmarshal(data, a); err != nil {
		return nil, problem.Wrap(problem.Invalid, "an entry of the audit log cannot be read", err)
	}
	return a, nil
}
