package bus

import (
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Conn and JS are for tests that look at what is on the wire, or break things on purpose.
func (b *Bus) Conn() *nats.Conn                    { return b.nc }
func (b *Bus) JS() jetstream.JetStream             { return b.js }
func (s Subject) Name() string                     { return s.name }
func (c Consumer) Name() string                    { return c.name }
func (c Consumer) Stream() string                  { return c.stream }
func (l Layout) Token(k, x string) string          { return l.token(k, []byte(x)) }
func (l Layout) Streams() []jetstream.StreamConfig { return l.withDefaults().streams() }

// WithoutTrace is withoutTrace.
func WithoutTrace(headers string) string { return string(withoutTrace([]byte(headers))) }

func FamilyOf(subject string) string { return familyOf(subject).Pattern }

const (
	MaxPayload  = maxPayload
	MaxInternal = maxInternal
)

// LeadsStream says whether this node leads a stream.
func (s *Server) LeadsStream(name string) bool { return s.s.JetStreamIsStreamLeader("$G", name) }

// SetLeaderWait is for machines on which an election takes long.
func (b *Bus) SetLeaderWait(d time.Duration) { b.leader = d }

// Stranded says whether the bus server seems to reach no leader.
func (b *Bus) Stranded() bool { return b.stranded() }

var ErrCut = errCut

// SetRetry shortens the pauses of ordered consumers.
func (b *Bus) SetRetry(first, longest time.Duration, internal int) {
	b.retry = retry{first: first, max: longest, internal: internal}
}
