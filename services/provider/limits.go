package provider

import (
	"time"

	"mimimi.example/pkg/mimimi"
)

// Sizes of requests, in bytes.
const (
	// maxRelayBody bounds a relayed request with its frame: the bus's largest payload, since a relayed request becomes one message there.
	maxRelayBody = 8 << 20
	// maxNotifyBody is the same bound between providers: a delivery has been a bus message at the sender's.
	maxNotifyBody = 8 << 20
	// maxSmallBody bounds every other request: the largest holds a connection record.
	maxSmallBody = 16 << 10
	// maxAccountBody bounds requests on the account channel: a batch of 512 blinded messages of 256 bytes.
	maxAccountBody = 160 << 10
	// maxHeader bounds request lines and headers; our clients send a few hundred bytes.
	maxHeader = 8 << 10
	// maxPeerConfigFile bounds a file of peers_dir: a URL and a few CA certificates.
	maxPeerConfigFile = 256 << 10
	// maxDocument bounds a key document: a few dozen keys of 32 bytes.
	maxDocument = 64 << 10
	// maxLargeDelivery bounds what a commit or a Welcome holds: a hub's log has no larger entry.
	maxLargeDelivery = 5<<20 + 768<<10
	// maxSmallDelivery bounds the same of a proposal or a message: the hub's bound of a message, and room for keys beside it.
	maxSmallDelivery = 256<<10 + 16<<10
	// maxLinkOffer, maxLinkAnswer and maxLinkPackage bound what is sealed between a new client and one that is there: keys and a KeyPackage; the user's
	// secrets and a Welcome; KeyPackages. Eight of each stay below the bus's bound of a mailbox.
	maxLinkOffer   = 2 << 10
	maxLinkAnswer  = 8 << 10
	maxLinkPackage = 16 << 10
	// keySize is an Ed25519 public key's.
	keySize = 32
	// maxRevocations bounds a list of revocations: 65,536 entries of 40 bytes and what stands around them.
	maxRevocations = 65536*40 + 1<<10
	// recordSize is what every answer of GetRecord holds. A certificate has at most 512 bytes (protocol §4); the rest of a record, 300.
	recordSize = 1024
)

// Times.
const (
	readHeaderTimeout = 5 * time.Second  // a client has its headers ready when it connects
	readTimeout       = time.Minute      // 8 MiB over a slow mobile line
	writeTimeout      = time.Minute      // the same for answers, but see watchTime
	idleTimeout       = 2 * time.Minute  // between two requests of one connection
	relayTimeout      = 20 * time.Second // a commit with 1,000 leaves takes a hub about a second
	notifyTimeout     = time.Minute      // 256 recipients' queues, each one publish
	drainTimeout      = 20 * time.Second // what was accepted is finished before a stop
	restartPause      = 5 * time.Second  // before an outbox consumer that failed is started again
	dialTimeout       = 5 * time.Second  // a peer that does not answer at all
	// pingAfter and pingTimeout find a connection to a peer that is dead without a word; without them it would be used until the system gives it up.
	pingAfter   = 15 * time.Second
	pingTimeout = 10 * time.Second
	// watchTime ends a hint stream: the client opens a new one, and proves the key again.
	watchTime = time.Hour
	// watchRepair is how often a watched queue is looked at without a hint, since hints may be lost. The client gets an empty one then.
	watchRepair = 30 * time.Second
	// peersInterval is how often peers_dir is read again.
	peersInterval = 2 * time.Second
	// documentPatience and documentPause are how long, and how often, a provider that starts tries to make its key document while the bus does not answer.
	documentPatience = 30 * time.Second
	documentPause    = 500 * time.Millisecond
	// issuerInterval is how often it is looked whether issuer keys have to be made.
	issuerInterval = time.Minute
	// refetchInterval is the least time between two tries to get a newer copy of a peer's document, so that a peer that is down is not asked by every client.
	refetchInterval = 30 * time.Second
	// documentMargin is how far a key document is valid beyond its week at both ends: clocks differ, and a client may be offline over a change.
	documentMargin = 24 * time.Hour
	// certificateTime is a client certificate's validity after its issue.
	certificateTime = 365 * 24 * time.Hour
	// linkTime is how long an offer waits for an approval, an approval for the new client, and its package to be fetched: somebody sits before both devices.
	linkTime = 10 * time.Minute
	// revocationRenewal is the age at which the own list is signed anew and a peer's copy fetched again: with revocationHold, a revocation is with every
	// client that asks, of any domain that is reached, within an hour.
	revocationRenewal = 25 * time.Minute
	// revocationHold is how long a replica shows the own list before it looks whether another replica has revoked something.
	revocationHold = 10 * time.Second
	// revocationTime is how long a list may be shown while its domain is down; after that its readers know that they have none.
	revocationTime = 48 * time.Hour
	// revocationMargin is how long after its end a certificate may still have to be revoked: as the lists keep it (protocol §3).
	revocationMargin = 100 * 24 * time.Hour
	// queueLife is how long a queue is kept that its owner does not read, in whole days: a client that is away for longer finds its leaves too old anyway
	// (protocol §4). What waits in it goes earlier, by the bus's age of entries.
	queueLife = 100 * 24 * time.Hour
	// recordTime and recordRenewal are how clients date their records and how often they publish a new one: records of users who do not
	// exist are dated alike.
	recordTime    = 60 * 24 * time.Hour
	recordRenewal = 30 * 24 * time.Hour
)

// Connections and concurrency.
const (
	// maxConnections bounds a listener's open connections: about 40 KiB each with TLS.
	maxConnections = 20000
	// defaultConnectionsPerAddress bounds one address's connections; many users may share a NAT.
	defaultConnectionsPerAddress = 512
	// maxStreams bounds concurrent requests of one HTTP/2 connection.
	maxStreams = 100
	// maxWatches bounds open hint streams of one replica: one subscription and one goroutine each.
	maxWatches = 20000
	// maxWatchesPerQueue: one client has one, and perhaps one that is dying.
	maxWatchesPerQueue = 4
	// maxRelays bounds relayed requests under way to the domain's own services: up to 8 MiB of memory each, and a client waits for the answer anyway.
	maxRelays = 64
	// maxPeerRelays is the bound for each other domain, in each direction: one that does not answer must not use up the room of the others.
	maxPeerRelays = 32
	// maxPeerNotifies bounds one domain's Notify calls under way: its providers hand deliveries over in order, one after the other.
	maxPeerNotifies = 8
	// queueWriters bounds how many queues one delivery is written to at once: most of the time is waiting for the bus.
	queueWriters = 16
)

// Counts.
const (
	// maxDeliveries of one Notify (federation.proto).
	maxDeliveries = 256
	// notifyBytes is about the most that one Notify of several deliveries holds, all their recipients included: about 6,000 queues to write to, a second or two at
	// the peer, well within notifyTimeout. A larger delivery goes alone.
	notifyBytes = 1 << 20
	// maxRecipients of one delivery: a group has at most 1,000 leaves (protocol §9).
	maxRecipients = 1000
	// maxNoticeRecipients of one low-stock notice: a KeyPackage set has at most 16 (protocol §8).
	maxNoticeRecipients = 16
	// maxDeliveryID: the sender derives 32 bytes.
	maxDeliveryID = 64
	// maxSealedQueueID: a domain name, a KEM output and 48 bytes of ciphertext.
	maxSealedQueueID = 512
	// inlineBody is the largest delivery that stands in each queue entry; a larger one is stored once, in BODY.
	inlineBody = 4 << 10
	// readEntries is the most that one Read returns, and readBytes about the most bytes: an answer stays below maxRelayBody also if the last
	// entry is as large as the bus allows.
	readEntries = 256
	readBytes   = 4 << 20
	// How many connection requests may wait for one user is the bus's bound of the inbox's subject (256). More are dropped: the sender is not
	// told, since an answer would say who exists.

	// inboxPage of one FetchInbox: about 210 KiB.
	inboxPage = 100
	// maxLinks of one user's mailbox. Strangers can fill it: the oldest offer that nobody approved gives way.
	maxLinks = 8
	// maxClients of one user: each has a KeyPackage in every set and a leaf in every group.
	maxClients = 10
	// maxEarlier is how many certificates before its present one a client has that are still to be revoked if it goes: a renewal every half year leaves
	// two or three, and changes of the key are few.
	maxEarlier = 16
	// maxIssues bounds the batches of tokens of one user in one epoch: of so many clients, those included that were there for a while only.
	maxIssues = 16
	// maxIssueAnswers bounds how often one batch is answered: each time costs as much signing as the first.
	maxIssueAnswers = 8
	// maxSigning bounds how many requests have tokens signed at a time; others wait. Each uses up to signers processors.
	maxSigning = 4
	signers    = 4
	// updateTries bounds a compare-and-swap loop on a record that only its owner changes.
	updateTries = 8
)

// defaultQuotas are the tokens of one client and week: 98, about 0.4 s of signing. A client has one queue, and may have to make another. An upload holds 64
// sets, so that a whole stock is one; the rest is for refills, completions and weekly last-resort sets. Claims are the everyday need: one for each user
// that is added and one for each own group. Of claims and requests, others' domains take four at a time.
var defaultQuotas = map[mimimi.TokenOperation]uint16{
	mimimi.TokenQueue: 2, mimimi.TokenUpload: 16, mimimi.TokenGroup: 16, mimimi.TokenClaim: 48, mimimi.TokenConnect: 16,
}

// Quotas of a queue (protocol §10).
const (
	// groupQuota is how many entries of one confirmed group wait in a queue: about a week of a busy group. At the bound the oldest quarter goes.
	groupQuota = 512
	// unconfirmedQuota is how many entries a group has that the owner has not confirmed: a Welcome and what follows at once.
	unconfirmedQuota = 4
	// unconfirmedGroups is how many such groups a queue has room for: the bound of the pool is this times unconfirmedQuota plus a notice each.
	unconfirmedGroups = 32
	// queueEntries bounds a queue over all groups, below the bus's own bound of 50,000, at which writing would fail: a thousand groups with
	// fifty entries each.
	queueEntries = 40000
	// maxMarks bounds how many groups an owner confirms and refuses: the record with both is read at every delivery, 32 KiB at most.
	maxMarks = 1000
	// maxOpened bounds the sealed queue IDs whose queue is remembered: half a kilobyte each.
	maxOpened = 1 << 16
	// ledgerEntries bounds the memory for what is known to wait in queues, over all queues of a replica: 16 bytes each.
	ledgerEntries = 1 << 20
	// ledgerSync is how often a queue that is written to is compared with the stream, which other replicas change too.
	ledgerSync = 30 * time.Second
)
