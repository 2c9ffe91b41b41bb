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

// Zone is a trace zone: trace context may be carried inside one and never across. The table decides, and no call site does (trace.go).
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
	Zone     Zone     // of its writers
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

// ReadIn is the zone of those who read the family. What they do is another trace where it is not the writers' zone: OUTBOX is the group zone's edge.
func (f Family) ReadIn() Zone {
	if f.Stream == streamOutbox {
		return ZoneQueue
	}
	return f.Zone
}

// Traced says whether the family's messages carry the trace context of whoever wrote them. Only those of the log do, which the group zone writes and at once works
// off. What waits for a client carries none: it would join what one message became in many queues, for as long as they keep it.
func (f Family) Traced() bool { return f.Stream == "GROUP_{p}" }

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
		{"setting.*", streamSettings, ZoneRelay, only(serviceAdmin), only(serviceProvider, serviceAdmin), kept},
		{"audit.*", streamAudit, ZoneRelay, only(serviceAdmin), only(serviceAdmin), kept},
		{"dead.*", streamDead, ZoneRelay, only(serviceHub, serviceKPStore, serviceFanout, serviceProvider, serviceAdmin), only(serviceAdmin, serviceReplay), kept},
	}
}

// families is the table, for look-ups.
var families = Families()

// familyOf is the row of a concrete subject; its Pattern is "" if the table has none.
func familyOf(subject string) Family {
	for _, f := range families {
		if matchPattern(f.Pattern, subject) {
			return f
		}
	}
	return Family{}
}
