package client

import "time"

// MaxMessage is the largest content of one message in bytes: with envelope, padding to a power of two and MLS framing it stays within one relayed request.
const MaxMessage = 32 << 10

const (
	identityKeySize = 32 // Ed25519

	// defaultOneTime and defaultLastResort are protocol.md §8's stock.
	defaultOneTime    = 50
	defaultLastResort = 10
	// maxStock keeps the list of sets within one relayed answer.
	maxStock = 500
	// maxUpload is the store's bound on one upload.
	maxUpload = 64

	// maxCommitTries bounds how often a commit that came second is made anew before the caller is told.
	maxCommitTries = 8
	// maxSyncRounds bounds the rounds of one Sync: a peer that answers everything at once must not keep it going for ever.
	maxSyncRounds = 64
	// readBatch is how many queue entries are read at a time: small, so that one transaction each and the acknowledgement stay short.
	readBatch = 64
	// maxLogPages bounds how far one catching up reads a log, 256 entries a page; the rest follows with the next Sync.
	maxLogPages = 64

	// maxOutgoing bounds the messages of one group that wait to be sent.
	maxOutgoing = 1024
	// maxRequests bounds the connection requests that wait for the user's answer; later ones are dropped.
	maxRequests = 1024
	// maxInvitations bounds the open invitations that are remembered for one group.
	maxInvitations = 64
	// maxHeld bounds the content that is kept for a member who is not identified yet.
	maxHeld = 256
	// maxWelcomes bounds the Welcomes that wait because their hub cannot be reached.
	maxWelcomes = 64
	// maxTurns bounds the time that turns can take in a large group.
	maxTurns = 10
	// maxSteps bounds what is done for one group in one go; the rest follows with the next Sync.
	maxSteps = 2 * maxOutgoing
	// maxEvents is the largest page of Events.
	maxEvents = 1000
	// maxResponse bounds every answer of a service: a tree of a thousand leaves with room.
	maxResponse = 8 << 20

	// unidentifiedFor is how long an external joiner may stay unidentified before a member removes it (protocol.md §4).
	unidentifiedFor = 10 * time.Minute
	// quietFor is how long a member does nothing of its own accord in a group after the hub refused such a thing.
	quietFor = time.Minute
	// turnDelay is the head start that each member has over the next one, by leaf, where one commit of any of them is enough.
	turnDelay = 3 * time.Second
	// stockEvery is how often the store is asked how many sets are left, when nothing tells the client earlier.
	stockEvery = time.Hour
	// lastResortFor is how long a last-resort set stays before it is replaced (protocol.md §8: weekly).
	lastResortFor = 7 * 24 * time.Hour
	// keyPackageFor is how long private halves are kept: the lifetime of 90 days, and the 30 days in which a Welcome's tree can be had.
	keyPackageFor = 120 * 24 * time.Hour
	// requestFor is how long a connection request may be answered.
	requestFor = 30 * 24 * time.Hour
	// recordFor is how long a connection record is valid; it is published anew when half of that is over.
	recordFor = 60 * 24 * time.Hour
	// inviteFor is an invitation's lifetime if the caller names none.
	inviteFor = 7 * 24 * time.Hour

	// maxWitnesses bounds how many other domains are asked about one key document before it is put off.
	maxWitnesses = 3
	// compareAgain is how long a key document that could not be compared, or was refused, is left alone.
	compareAgain = time.Hour

	// callTimeout bounds one call to a service.
	callTimeout = 30 * time.Second
	// dialTimeout bounds each of connecting and the TLS handshake, so that one dead address does not use up a call's time.
	dialTimeout = 10 * time.Second
	// pingAfter and pingTimeout bound how long a connection that is cut off is used, in place of the many minutes that TCP goes on.
	pingAfter   = 15 * time.Second
	pingTimeout = 10 * time.Second
	// pollEvery is how long a Watcher waits at most: the inbox gives no hints.
	pollEvery = 15 * time.Second
	// dueFloor is how long a Watcher waits at least when a duty is due: one that cannot be done now must not make a busy loop.
	dueFloor = time.Second
	// backoffFirst and backoffMost bound the pause before a lost Watch stream is opened again.
	backoffFirst = 250 * time.Millisecond
	backoffMost  = 15 * time.Second
	// spreadOver is the time over which what touches all groups of a user is spread (protocol.md §8).
	spreadOver = 24 * time.Hour
)
