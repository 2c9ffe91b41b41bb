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
	// maxUpload is the store's bound on one upload, and on one withdrawal.
	maxUpload = 64
	// maxSets and maxSetClients are the store's bounds on an index and on a set.
	maxSets       = 512
	maxSetClients = 16
	// maxStockRounds bounds how often one look at the stock begins anew because another client of the user was faster; the rest follows with the next.
	maxStockRounds = 3

	// claimsAtOnce bounds the claims under way for one commit: 200 users, one after the other, would be 200 times the way to their stores and back.
	claimsAtOnce = 16
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
	// maxVoided bounds how often a connection request whose invitation was voided is made anew: each time costs a token and room in the other's inbox.
	maxVoided = 3
	// maxInvitations bounds the open invitations that are remembered for one group.
	maxInvitations = 64
	// maxShown bounds to how many leaves one who comes in seals its link at a time, and maxAsked to how many one that resynced seals its question: each
	// costs about 110 bytes, and one answer is enough.
	maxShown = 64
	maxAsked = 8
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
	// askAgain is how long one that does not know everybody waits for an answer before it asks others: askBurst times, and then twice as long each time, up to askMost.
	askAgain = time.Minute
	askBurst = 5
	askMost  = time.Hour
	// unknownSaid is how long somebody may stay unknown before the user is told: those who could say may be offline.
	unknownSaid = 24 * time.Hour
	// freshEntry is how long after its entry any member may remove a leaf (protocol.md §4).
	freshEntry = 24 * time.Hour
	// clockSlack is how far a hub's acceptance times may be ahead of this client's clock; they may go back in the log by twice that, since an earlier one
	// may have been at that bound (protocol.md §9). Clocks that are set by the network differ by seconds.
	clockSlack = 5 * time.Minute
	// clockWarning is how often the user is told of a hub whose times cannot be right.
	clockWarning = 24 * time.Hour
	// lateMessages is how long after an epoch's end a message of it may count (protocol.md §9).
	lateMessages = 10 * time.Second
	// pollQueueless is how often the log of a group is read whose deliveries do not reach this client's queue yet.
	pollQueueless = time.Minute
	// quietFor is how long a member does nothing of its own accord in a group after the hub refused such a thing.
	quietFor = time.Minute
	// turnDelay is the head start that each member has over the next one, by leaf, where one commit of any of them is enough.
	turnDelay = 3 * time.Second
	// stockEvery is how often the store is asked how many sets are left, when nothing tells the client earlier.
	stockEvery = time.Hour
	// lastResortFor is how long a last-resort set stays before it is replaced (protocol.md §8: weekly).
	lastResortFor = 7 * 24 * time.Hour
	// replaceAfter is how long a one-time set stays before it is replaced: a month before its 90 days end, since an adder needs time, too.
	replaceAfter = 60 * 24 * time.Hour
	// uploadFor is how long a KeyPackage is uploaded after it was made: the store takes those of this week and the one before.
	uploadFor = 6 * 24 * time.Hour
	// settleAfter is how old a KeyPackage is before its set's missing in a list is believed: a list may be behind by moments.
	settleAfter = time.Hour
	// keyPackageFor is how long private halves are kept: the lifetime of 90 days, and the 30 days in which a Welcome's tree can be had.
	keyPackageFor = 120 * 24 * time.Hour
	// requestFor is how long a connection request may be answered.
	requestFor = 30 * 24 * time.Hour
	// recordFor is how long a connection record is valid; it is published anew when half of that is over.
	recordFor = 60 * 24 * time.Hour
	// inviteFor is an invitation's lifetime if the caller names none.
	inviteFor = 7 * 24 * time.Hour

	// linkFor is how long an offer waits at the provider, linkGiveUp how long a new client waits to be brought in once it was answered: two steps of
	// ten minutes at the provider, and some more. approvalFor is how long the other side goes on with it.
	linkFor     = 10 * time.Minute
	linkGiveUp  = 40 * time.Minute
	approvalFor = 30 * time.Minute
	// offerAgain is how often an offer is left that nobody has approved.
	offerAgain = 30 * time.Second
	// linkPoll is how often the mailbox is looked at while a new client is expected: somebody is waiting at two screens.
	linkPoll = 2 * time.Second
	// maxDevices is the most clients of one user: as many as a provider takes.
	maxDevices = 10
	// maxSync bounds what is told to the other clients in one message, and maxChanges in how many parts.
	maxSync    = 24 << 10
	maxChanges = 256
	// maxLabel bounds a group's private label in bytes, which goes to the other clients in one message with much else.
	maxLabel = 1024
	// maxAhead bounds how far a number that the user's clients count is ahead of the known one.
	maxAhead = 1 << 32
	// maxMadeAhead bounds how far ahead of this client's clock a connection group was asked for, by what another own client says: that one takes a request of a day ahead, and its own clock may be as wrong.
	maxMadeAhead = 48 * time.Hour
	// maxSpare bounds the tokens that a contact may have beside the present one: as many as clients may have asked or answered it at once, with room.
	maxSpare = 16
	// maxHanded is how many KeyPackages go into one such message: they have at most 1.5 kB each.
	maxHanded = 12
	// welcomeWait is how long a Welcome waits for what another own client has to say of its group or its sender, and a client that is being added for its Welcome.
	welcomeWait = time.Hour
	// readDay is how exactly it is noted when the queue was read last; queueKeeps is after how long what came to it may be gone: a provider keeps it for 45 days.
	readDay    = 24 * time.Hour
	queueKeeps = 40 * 24 * time.Hour
	// handAgain is when a KeyPackage for a group is made anew that nobody has used: before the one before it is too old to enter.
	handAgain = 60 * 24 * time.Hour
	// leftFor is how long it is remembered that the user left a group that this client was not in yet.
	leftFor = 24 * time.Hour
	// acceptAgain is how long a client that could not complete an accepted request waits for another of the user's to say that it did, and for the other user to ask anew,
	// which it does when somebody else came in by the request, a little after the ten minutes for which one may stay unidentified.
	acceptAgain = 24 * time.Hour
	// removalTurn is how long the client at which another was removed goes first; rotateTurn is how much longer it has for the user's new secrets.
	removalTurn = time.Minute
	rotateTurn  = 10 * time.Minute
	// tellTurn is how much later than the one before it each own client tells contacts what another one was to tell: all turns end long before the key
	// changes though a contact was not told (switchAfter).
	tellTurn = time.Hour
	// slowTurn is how much later than the one before it each own client does what time brings about for all of them: a new connection record, the monthly
	// change of the connection key.
	slowTurn = 3 * 24 * time.Hour
	// maxWitnesses bounds how many other domains are asked about one key document before it is put off.
	maxWitnesses = 3
	// uncomparedFor is how long keys are in use without having been compared before that is said, and uncomparedAgain how often it is said again: a domain may be down for a day.
	uncomparedFor   = 24 * time.Hour
	uncomparedAgain = 7 * 24 * time.Hour
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
	// maxTokenTries bounds how many tokens one request tries, and how many steps lead to one: finishing an exchange, the week's batch, a new exchange.
	maxTokenTries = 4
	// issuePauseMost is the longest pause between a batch of tokens and the first that is spent. A person waits for it, once.
	issuePauseMost = 2 * time.Second
	// issueAhead is how long a client that has this week's tokens waits at least before it asks for the next week's.
	issueAhead = 24 * time.Hour
	// spreadOver is the time over which what touches all groups of a user is spread (protocol.md §8).
	spreadOver = 24 * time.Hour
)
