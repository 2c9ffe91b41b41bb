package bus

import "slices"

// The services, and who else is at work on the bus: the operator's admin and, read-only, replay. Each has a NATS user of its own.
const (
	serviceHub      = "hub"
	serviceKPStore  = "kpstore"
	serviceFanout   = "fanout"
	serviceProvider = "provider"
	serviceAdmin    = "admin"
	serviceReplay   = "replay"
)

var services = []string{serviceHub, serviceKPStore, serviceFanout, serviceProvider, serviceAdmin, serviceReplay}

// Services are the names of the services, and of admin and replay, each with a NATS user of its own.
func Services() []string { return slices.Clone(services) }

// Zone is a trace zone: trace context may be carried inside one and never across. This version carries none at all; the table keeps the
// zones so that no call site will ever decide.
type Zone string

// The zones of the architecture.
const (
	ZoneAccount    Zone = "account"    // directory, inbox pick-up, token issue
	ZoneRelay      Zone = "relay"      // the edge, spent tokens
	ZoneGroup      Zone = "group"      // hub to fan-out to outbox
	ZoneQueue      Zone = "queue"      // outbox to queue to client
	ZoneKeyPackage Zone = "keypackage" // the store
)

// Family is one row of the table of subjects: who writes and who reads what. NATS permissions and the privacy matrix are checked against it.
type Family struct {
	Pattern  string   // with one "*" for each token, as in "group.*.*.c"
	Stream   string   // "GROUP_{p}" stands for one stream per partition
	Zone     Zone     //
	Writers  []string // services
	Readers  []string // services
	Erasable bool     // its writers may delete what is there; of all else only time does
}

// Senders are the services that may publish to one subject of the family besides its Writers, and are shown nothing of what others publish there: the
// KeyPackage store to its own domain's outbox, with its notices of a low stock. Their permission is to publish to that one subject, and no more.
func (f Family) Senders() []string {
	if f.Stream == streamOutbox {
		return []string{serviceKPStore}
	}
	return nil
}

// Families returns the table of subjects.
func Families() []Family {
	only := func(s ...string) []string { return s }
	const kept, erasable = false, true
	return []Family{
		{"group.*.*.c", "GROUP_{p}", ZoneGroup, only(serviceHub), only(serviceHub, serviceFanout, serviceReplay), kept},
		{"group.*.*.m", "GROUP_{p}", ZoneGroup, only(serviceHub), only(serviceHub, serviceFanout, serviceReplay), kept},
		{"out.*", streamOutbox, ZoneGroup, only(serviceFanout), only(serviceProvider, serviceReplay), kept},
		{"body.*", streamBody, ZoneQueue, only(serviceProvider), only(serviceProvider), kept},
		{"queue.*.*", "QUEUE_{p}", ZoneQueue, only(serviceProvider), only(serviceProvider), erasable},
		{"queuemeta.*", streamQueueMeta, ZoneQueue, only(serviceProvider), only(serviceProvider), kept},
		{"kp.*.*.*", "KP_{p}", ZoneKeyPackage, only(serviceKPStore), only(serviceKPStore), erasable},
		{"kpalias.*", streamKPIndex, ZoneKeyPackage, only(serviceKPStore), only(serviceKPStore), kept},
		{"kpclaim.*", streamKPIndex, ZoneKeyPackage, only(serviceKPStore), only(serviceKPStore), kept},
		{"kpserved.*", streamKPIndex, ZoneKeyPackage, only(serviceKPStore), only(serviceKPStore), kept},
		{"inbox.*", streamInbox, ZoneAccount, only(serviceProvider), only(serviceProvider), erasable},
		{"inboxreq.*", streamInbox, ZoneAccount, only(serviceProvider), only(serviceProvider), kept},
		{"dir.u.*", streamDirectory, ZoneAccount, only(serviceProvider), only(serviceProvider), kept},
		{"dir.c.*", streamDirectory, ZoneAccount, only(serviceProvider), only(serviceProvider), kept},
		{"link.*", streamLinks, ZoneAccount, only(serviceProvider), only(serviceProvider), erasable},
		{"revoked.*", streamRevoked, ZoneRelay, only(serviceProvider), only(serviceProvider), kept},
		{"peer.*", streamPeers, ZoneRelay, only(serviceProvider), only(serviceProvider), kept},
		{"spent.*.*", streamSpent, ZoneRelay, only(serviceProvider, serviceHub, serviceKPStore), only(serviceProvider, serviceHub, serviceKPStore), kept},
		{"issuer.*.*", streamIssuer, ZoneAccount, only(serviceProvider), only(serviceProvider), kept},
		{"dead.*", streamDead, ZoneRelay, only(serviceHub, serviceKPStore, serviceFanout, serviceProvider, serviceAdmin), only(serviceAdmin, serviceReplay), kept},
	}
}

// familyOf is the pattern of a concrete subject, "" if the table has none.
func familyOf(subject string) string {
	for _, f := range Families() {
		if matchPattern(f.Pattern, subject) {
			return f.Pattern
		}
	}
	return ""
}
