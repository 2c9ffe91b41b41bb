package bus

import "time"

// The bounds of this package. What happens at a bound is said where it is used.
const (
	// maxPayload is the largest message on the wire, headers included: a checkpoint of a group of 5,000 leaves is about 4 MiB, and the
	// largest padded request is 7 MiB.
	maxPayload = 8 << 20

	tokenBytes = 20 // 160 bits: no collision among 2^40 tokens, and 32 characters of base32 without padding

	maxPartitions     = 1024 // one stream each; more than any cluster should hold
	defaultPartitions = 8

	requestTimeout = 10 * time.Second // one exchange with a stream's leader; an election takes 3 to 5 s
	tryTimeout     = 4 * time.Second  // one try of an exchange that may be tried again: a leader that has not answered by then has probably gone
	electionWait   = 8 * time.Second  // how long an exchange waits for a leader to be there
	strandedEvery  = 5 * time.Second  // how often it is looked whether the server reaches the streams' leaders: one request
	replicaWait    = 3 * time.Second  // how long a call waits for a replica to be there: one that has lost its server is back within one
	callTimeout    = 30 * time.Second // a call, which may wait for a service's own exchanges
	eachEntries    = 256              // of a page of Each
	eachBytes      = 4 << 20          // of it, too: a few pages are in memory at once
	retryPause     = 250 * time.Millisecond
	connectTimeout = time.Minute     // then the process gives up and its supervisor starts it again
	dialTimeout    = 2 * time.Second // one attempt
	// A server that is gone without a word, with its node, is noticed when it has not answered so many pings: until then every request to it times out.
	pingInterval    = 5 * time.Second
	pingsUnanswered = 2
	serverReady     = 30 * time.Second // recovery of a large store on the embedded server
	initTimeout     = 10 * time.Minute // about 200 streams of 64 partitions at half a second each on a cluster, after it has elected its leader
	verifyTimeout   = time.Minute      // the same number of look-ups

	maxRefusal = 4 << 10 // bytes of an answer that may be a refusal of JetStream's; these have a few hundred

	readBatch      = 512     // messages per batched get: bounds what waits in the client's buffer
	readBatchBytes = 4 << 20 // bytes per batched get, before the one message that crosses it

	maxServeConcurrency  = 64   // requests handled at once per replica; each may be 8 MiB
	maxServePending      = 1024 // requests waiting in the client's buffer; beyond, NATS drops and the caller times out
	maxServePendingBytes = 64 << 20

	maxHintPending      = 4096 // hints waiting; beyond, they are lost, as hints may be
	maxHintPendingBytes = 1 << 20

	snapshotChunk           = 128 << 10 // bytes of one piece of a snapshot
	snapshotWindow          = 8 << 20   // bytes of pieces on their way
	maxSnapshotPending      = 1024      // pieces waiting in the client's buffer: more than the window
	maxSnapshotPendingBytes = 64 << 20
	maxFrame                = 1 << 20 // of a backup: a piece, or the head

	minGap = 1 << 22 // sequences that are left out after a restored stream: what comes in 45 minutes at 1,500 a second, as much as a replicated stream takes
	maxGap = 1 << 28 // … and in two days

	maxCountSubjects = 10_000 // subjects of one family that Count adds up: more is refused
)

// The bounds of ordered consumers.
const (
	// maxAckPending messages are out at a consumer's active replica: what one slow key can hold back in memory. When they all belong to
	// one key that is stuck, the others wait too.
	maxAckPending = 512
	// maxConcurrency keys are worked on at once per consumer.
	maxConcurrency = 32
	// pinTTL after its last pull the active replica loses its place; ackWait after the last sign of life a message is delivered again. Both
	// bound a fail-over, and both are well above the pull and heartbeat intervals below.
	pinTTL          = 8 * time.Second
	ackWait         = 8 * time.Second
	pullExpiry      = 2 * time.Second
	pullHeartbeat   = time.Second
	progressEvery   = 2 * time.Second
	settleEvery     = 250 * time.Millisecond // how often a replica that took over asks whether the old one's messages are accounted for
	measureEvery    = 15 * time.Second       // how often a consumer's lag is asked for, which takes a request
	ackTimeout      = 5 * time.Second
	maxAckTries     = 4 // outlasts an election; after that a redelivery is the lesser evil
	firstRetry      = 100 * time.Millisecond
	maxRetry        = 10 * time.Second
	maxInternal     = 20 // tries of a message that fails with an internal error: with the pauses above about two minutes, then DEAD
	maxWaitingPulls = 128
	// maxDomains is how many destination domains have a consumer on OUTBOX (the server's own default bound).
	maxDomains = 1000
)

const (
	day  = 24 * time.Hour
	gib  = 1 << 30
	kib  = 1 << 10
	none = -1 // no bound by this measure; another one bounds the stream
)

// storeReservation is the embedded server's limit for the sum of all streams' max bytes. It only has to be above that sum: what bounds the disk
// is each stream's own limit, and a reservation checked against a small development disk would refuse to start.
const storeReservation = 1 << 50
