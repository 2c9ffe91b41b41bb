package bus

import "slices"

// The services, each with a NATS user of its own.
const (
	serviceHub      = "hub"
	serviceKPStore  = "kpstore"
	serviceFanout   = "fanout"
	serviceProvider = "provider"
	serviceAdmin    = "admin"
)

var services = []string{serviceHub, serviceKPStore, serviceFanout, serviceProvider, serviceAdmin}

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
	Pattern string   // with one "*" for each token, as in "group.*.*.c"
	Stream  string   // "GROUP_{p}" stands for one stream per partition
	Zone    Zone     //
	Writers []string // services
	Readers []string // services
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
	return []Family{
		{"group.*.*.c", "GROUP_{p}", ZoneGroup, only(serviceHub), only(serviceHub, serviceFanout)},
		{"group.*.*.m", "GROUP_{p}", ZoneGroup, only(serviceHub), only(serviceHub, serviceFanout)},
		{"out.*", streamOutbox, ZoneGroup, only(serviceFanout), only(serviceProvider)},
		{"body.*", streamBody, ZoneQueue, only(serviceProvider), only(serviceProvider)},
		{"queue.*.*", "QUEUE_{p}", ZoneQueue, only(serviceProvider), only(serviceProvider)},
		{"queuemeta.*", streamQueueMeta, ZoneQueue, only(serviceProvider), only(serviceProvider)},
		{"kp.*.*.*", "KP_{p}", ZoneKeyPackage, only(serviceKPStore), only(serviceKPStore)},
		{"kpalias.*", streamKPIndex, ZoneKeyPackage, only(serviceKPStore), only(serviceKPStore)},
		{"kpclaim.*", streamKPIndex, ZoneKeyPackage, only(serviceKPStore), only(serviceKPStore)},
		{"kpserved.*", streamKPIndex, ZoneKeyPackage, only(serviceKPStore), only(serviceKPStore)},
		{"inbox.*", streamInbox, ZoneAccount, only(serviceProvider), only(serviceProvider)},
		{"inboxreq.*", streamInbox, ZoneAccount, only(serviceProvider), only(serviceProvider)},
		{"dir.u.*", streamDirectory, ZoneAccount, only(serviceProvider), only(serviceProvider)},
		{"dir.c.*", streamDirectory, ZoneAccount, only(serviceProvider), only(serviceProvider)},
		{"link.*", streamLinks, ZoneAccount, only(serviceProvider), only(serviceProvider)},
		{"revoked.*", streamRevoked, ZoneRelay, only(serviceProvider), only(serviceProvider)},
		{"peer.*", streamPeers, ZoneRelay, only(serviceProvider), only(serviceProvider)},
		{"spent.*.*", streamSpent, ZoneRelay, only(serviceProvider, serviceHub, serviceKPStore), only(serviceProvider, serviceHub, serviceKPStore)},
		{"issuer.*.*", streamIssuer, ZoneAccount, only(serviceProvider), only(serviceProvider)},
		{"dead.*", streamDead, ZoneRelay, slices.Clone(services), only(serviceAdmin)},
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
