package bus

import (
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The streams. The first three are one per partition: GROUP_0, GROUP_1, …
const (
	streamGroup      = "GROUP"
	streamQueue      = "QUEUE"
	streamKeyPackage = "KP"
	streamOutbox     = "OUTBOX"
	streamBody       = "BODY"
	streamKPIndex    = "KPINDEX"
	streamInbox      = "INBOX"
	streamDirectory  = "DIRECTORY"
	streamPeers      = "PEERS"
	streamLinks      = "LINKS"
	streamRevoked    = "REVOKED"
	streamSpent      = "SPENT"
	streamIssuer     = "ISSUER"
	streamQueueMeta  = "QUEUEMETA"
	streamDead       = "DEAD"
	streamAudit      = "AUDIT"
	streamSettings   = "SETTINGS"
)

// Keys of stream metadata. The server adds its own, which are not compared.
const (
	metaPartitions = "mimimi_partitions"
	metaKey        = "mimimi_key" // a token of the deployment key: another key is drift, not an empty system
)

// limit is what bounds one stream. When it is full, publishing is refused (problem.Limited) and nothing stored is lost, except in DEAD.
type limit struct {
	age        time.Duration
	bytes      int64
	perSubject int64 // messages; none = no bound
	size       int32 // of one message with headers
	consumers  int
	duplicates time.Duration // window for message ids, which sits in the server's memory
	refuse     bool          // at perSubject: refuse the new one (true) or replace the oldest (false)
	ttl        bool          // messages may carry a time to live of their own
	keep       bool          // nothing may delete or purge
	worked     bool          // a message goes once it is acknowledged
}

// streamLimits says what bounds each stream, and why.
var streamLimits = map[string]limit{
	// The log. The hub repeats what a quiet group needs (a checkpoint) before half of this age, so that nothing needed ever expires; trees
	// of past epochs must last 30 days. Consumers: fan-out, and room for a mirror.
	streamGroup: {age: 90 * day, bytes: 16 * gib, perSubject: none, size: maxPayload, consumers: 8, duplicates: 2 * time.Minute, keep: true},
	// What a domain that is down for a month has missed it gets by resync. Acknowledged deliveries go at once: they are metadata. A domain has as many
	// waiting as one queue holds: at an ordinary 4 KiB each 200 MB, 1/300 of the stream, so that a domain that is down or was made up does not fill
	// it for the others.
	streamOutbox: {age: 30 * day, bytes: 64 * gib, perSubject: 50_000, size: maxPayload, consumers: maxDomains, duplicates: 2 * time.Minute, refuse: true, worked: true},
	// A body outlives the queue entries that refer to it by a day; writing it again renews it.
	streamBody: {age: 46 * day, bytes: 64 * gib, perSubject: 1, size: maxPayload, consumers: 1, duplicates: time.Minute},
	// The per-queue bound is a backstop: the provider evicts per group well below it. Entries over 4 KiB refer to BODY.
	streamQueue: {age: 45 * day, bytes: 16 * gib, perSubject: 50_000, size: 64 * kib, consumers: 1, duplicates: 2 * time.Minute, refuse: true},
	// KeyPackages live 90 days from the Monday before; a set is one message, removed when claimed.
	streamKeyPackage: {age: 98 * day, bytes: 8 * gib, perSubject: 1, size: 4 << 20, consumers: 1, duplicates: time.Minute, ttl: true},
	// Aliases live as long as a connection, so no age: claims and served marks carry a TTL.
	streamKPIndex: {age: 0, bytes: 16 * gib, perSubject: 1, size: 4 << 20, consumers: 1, duplicates: time.Minute, ttl: true},
	// A request that nobody picked up for 35 days has expired. 256 requests wait for one user; then the sender is told to come back later.
	streamInbox: {age: 35 * day, bytes: 8 * gib, perSubject: 256, size: 16 * kib, consumers: 1, duplicates: time.Minute, refuse: true, ttl: true},
	// Accounts stay until they are deleted.
	streamDirectory: {age: 0, bytes: 16 * gib, perSubject: 1, size: 1 << 20, consumers: 1, duplicates: time.Minute},
	// One record for each domain ever met, kept for good: a forgotten key would be pinned anew.
	streamPeers: {age: 0, bytes: gib, perSubject: 1, size: 1 << 20, consumers: 1, duplicates: time.Minute},
	// A mailbox of links: 8 offers with answer and package, 26 KiB each. Whatever is in it is over after half an hour; the provider looks at the times.
	streamLinks: {age: 45 * time.Minute, bytes: 4 * gib, perSubject: 1, size: 256 * kib, consumers: 1, duplicates: time.Minute},
	// The own list and one for each peer: 65,536 entries of 40 bytes at most. Kept for good: a forgotten number could go back.
	streamRevoked: {age: 0, bytes: 4 * gib, perSubject: 1, size: 4 << 20, consumers: 1, duplicates: time.Minute},
	// A record is written again on every day on which its queue is read; the provider takes one that was not read for 100 days for gone.
	streamQueueMeta: {age: 110 * day, bytes: 16 * gib, perSubject: 1, size: 1 << 20, consumers: 1, duplicates: time.Minute},
	// A token is valid for its week and the next; its mark carries a TTL, and the age is the backstop.
	streamSpent: {age: 35 * day, bytes: 16 * gib, perSubject: 1, size: 4 * kib, consumers: 1, duplicates: time.Minute, refuse: true, ttl: true},
	// Issuer keys, sealed under a secret of the provider: made up to two weeks before their own, and of use until two weeks after it began. Five a week.
	streamIssuer: {age: 42 * day, bytes: gib, perSubject: 1, size: 16 * kib, consumers: 1, duplicates: time.Minute, refuse: true},
	// What operators set. A handful of records.
	streamSettings: {age: 0, bytes: gib, perSubject: 1, size: 1 << 20, consumers: 1, duplicates: time.Minute},
	// What operators did. More than a year, and nothing of it can be taken out; when it is full, nothing more is done until limits are raised.
	streamAudit: {age: 400 * day, bytes: gib, perSubject: none, size: 4 * kib, consumers: 1, duplicates: time.Minute, keep: true},
	// What nobody looked at for 30 days goes, and so does the oldest when full: a full DEAD must not stop the living.
	streamDead: {age: 30 * day, bytes: gib, perSubject: none, size: 16 * kib, consumers: 1, duplicates: 2 * time.Minute},
}

// stream is one row of the deployment's table.
func (l Layout) stream(name, kind string, subjects ...string) jetstream.StreamConfig {
	lim := streamLimits[kind]
	c := jetstream.StreamConfig{
		Name: name, Subjects: subjects, Storage: jetstream.FileStorage, Replicas: l.Replicas,
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew,
		MaxAge: lim.age, MaxBytes: lim.bytes, MaxMsgs: none, MaxMsgsPerSubject: lim.perSubject, MaxMsgSize: lim.size, MaxConsumers: lim.consumers,
		Duplicates: lim.duplicates, DiscardNewPerSubject: lim.refuse, AllowDirect: true, AllowMsgTTL: lim.ttl, DenyDelete: lim.keep, DenyPurge: lim.keep,
		Metadata: map[string]string{metaPartitions: strconv.Itoa(l.Partitions), metaKey: l.token("layout", nil)},
	}
	if lim.worked {
		c.Retention = jetstream.WorkQueuePolicy
	}
	if kind == streamDead {
		c.Discard = jetstream.DiscardOld
	}
	return c
}

// streams is the deployment's table of streams.
func (l Layout) streams() []jetstream.StreamConfig {
	var t []jetstream.StreamConfig
	for p := range l.Partitions {
		n := strconv.Itoa(p)
		t = append(t,
			l.stream(streamName(streamGroup, p), streamGroup, "group."+n+".*.c", "group."+n+".*.m"),
			l.stream(streamName(streamQueue, p), streamQueue, "queue."+n+".*"),
			l.stream(streamName(streamKeyPackage, p), streamKeyPackage, "kp."+n+".*.*"))
	}
	return append(t,
		l.stream(streamOutbox, streamOutbox, "out.*"),
		l.stream(streamBody, streamBody, "body.*"),
		l.stream(streamKPIndex, streamKPIndex, "kpalias.*", "kpclaim.*", "kpserved.*"),
		l.stream(streamInbox, streamInbox, "inbox.*", "inboxreq.*"),
		l.stream(streamDirectory, streamDirectory, "dir.u.*", "dir.c.*"),
		l.stream(streamPeers, streamPeers, "peer.*"),
		l.stream(streamLinks, streamLinks, "link.*"),
		l.stream(streamRevoked, streamRevoked, "revoked.*"),
		l.stream(streamSpent, streamSpent, "spent.*.*"),
		l.stream(streamIssuer, streamIssuer, "issuer.*.*"),
		l.stream(streamQueueMeta, streamQueueMeta, "queuemeta.*"),
		l.stream(streamSettings, streamSettings, "setting.*"),
		l.stream(streamAudit, streamAudit, "audit.*"),
		l.stream(streamDead, streamDead, "dead.*"))
}

// pinGroup is the one priority group of our consumers.
const pinGroup = "ordered"

// consumerConfig is an ordered consumer: explicit acknowledgement, no bound on deliveries (Consume has its own), one active puller.
func consumerConfig(name, filter string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Name: name, Durable: name, FilterSubject: filter,
		DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy, ReplayPolicy: jetstream.ReplayInstantPolicy,
		AckWait: ackWait, MaxDeliver: none, MaxAckPending: maxAckPending, MaxWaiting: maxWaitingPulls,
		PriorityPolicy: jetstream.PriorityPolicyPinned, PinnedTTL: pinTTL, PriorityGroups: []string{pinGroup},
	}
}
