package hub

import "time"

// Bounds on requests, in bytes. Together they keep an entry of the log below maxEntry.
const (
	// maxCommit: 200 Adds of 2 KiB and a path of 1,000 sealed secrets are 0.6 MB; this leaves room for a group whose tree is mostly blank.
	maxCommit = 4 << 20
	// maxWelcome: 200 entries of 200 bytes and a GroupInfo with 1,000 identity links are 0.1 MB.
	maxWelcome = 1 << 20
	// maxGroupInfo: a GroupContext with a policy of 1,000 administrators is 64 KB.
	maxGroupInfo = 256 << 10
	// maxTree is a new group's tree: one leaf.
	maxTree = 64 << 10
	// maxProposal: a GroupContextExtensions proposal with the largest policy, or one leaf.
	maxProposal = 128 << 10
	// maxMessage: larger content does not go through the group.
	maxMessage = 256 << 10
	// maxToken: an anonymous token is 354 bytes.
	maxToken = 1 << 10
	// maxSignature: Ed25519's 64 bytes, with room for a later suite.
	maxSignature = 4 << 10
	// maxRequest bounds a request's body: the largest commit bundle and its fields' framing.
	maxRequest = maxCommit + maxWelcome + maxGroupInfo + (64 << 10)
)

// maxEntry bounds an entry of the log. The stream's leader answers reads in base64, which has to stay below the bus's 8 MiB too.
const maxEntry = 5<<20 + 768<<10

// Bounds on a group's state.
const (
	// maxPendingSelfRemoves is one for each leaf that a group may have.
	maxPendingSelfRemoves = 1000
	// maxPendingOthers and maxPendingBytes bound the other proposals of one epoch, so that no member fills the checkpoint, nor keeps another from
	// leaving: self_removes do not count for them.
	maxPendingOthers = 64
	maxPendingBytes  = 512 << 10
	// maxInvitations: each is 50 bytes in every checkpoint.
	maxInvitations = 1000
	// maxUses and maxInvitationLife bound what one invitation lets in.
	maxUses           = 1000
	maxInvitationLife = 90 * 24 * time.Hour
	// maxRecent request ids are remembered: a retry comes within seconds, and 128 accepted handshakes take longer than any client waits.
	maxRecent = 128
	// checkpointEvery is how many .c entries may follow a checkpoint before the next one is due.
	checkpointEvery = 64
	// messagesPerCheckpoint is how many messages stand between two checkpoints on average when nothing else makes any: about 16 pages. Each message
	// is followed by a checkpoint with this chance, so that nobody has to count. A message counts once more for each messageShare bytes, since large
	// ones fill pages sooner. That maxPages of them stand without a checkpoint has a chance of less than e^-32.
	messagesPerCheckpoint = 4096
	messageShare          = pageBytes / pageEntries
)

// Bounds on how fast one group sends.
const (
	// paceBytes is how much of a message counts as one.
	paceBytes = 4 << 10
	// pacePerSecond is what a large group in a lively conversation sends for long, and paceBurst what a thousand clients do that come back at once, with four messages each.
	pacePerSecond = 40
	paceBurst     = 4000
	// maxPaced bounds the groups whose pace is remembered, of about 200 bytes each.
	maxPaced = 1 << 16
)

// Bounds on work.
const (
	// maxAttempts bounds how often a write is validated again after another entry came first. Each attempt means that somebody else succeeded.
	maxAttempts = 8
	// maxRoll bounds how many entries are rolled forward after a checkpoint. Whoever appends an entry after checkpointEvery others makes the next
	// checkpoint, so this many mean that checkpoints have been failing for hours.
	maxRoll = 64 * checkpointEvery
	// pageEntries and pageBytes bound one read of the log.
	pageEntries = 256
	pageBytes   = 4 << 20
	// maxPages bounds the pages that one request may make the hub read: a quarter of a million messages between two checkpoints.
	maxPages = 1024
	// maxCheckpointHops bounds the search for an epoch from the newest checkpoint back: 16,384 handshakes.
	maxCheckpointHops = 256
	// maxLogEntries and maxLogBytes bound one answer of ReadLog. One delivery alone may be as large as maxCommit, which fits too.
	maxLogEntries = 256
	maxLogBytes   = 2 << 20
	// maxHistory requests at a time may rebuild a past state: each holds a tree of a thousand leaves and some pages of the log.
	maxHistory = 4
	// cacheWeight bounds the cached groups by their leaves, of about 3 KiB each: 400 MB.
	cacheWeight = 1 << 17
	// groupWeight is a cached group's weight besides its leaves.
	groupWeight = 8
	// requestTimeout bounds one request's work. It is less than the 20 s that the edge waits for an answer.
	requestTimeout = 15 * time.Second
	// groupLife is how long a group is kept in which no member does anything: every client that is there renews its leaf within 60 days (protocol.md §4), and the
	// queue of one that is not is gone after 100. The last checkpoint expires within 135 days more.
	groupLife = 200 * 24 * time.Hour
	// sweepEvery is how often a partition is swept for groups with an old checkpoint, and sweepPages how much of it one sweep looks at: 16,000 entries
	// or 256 MiB, so that a full partition of 16 GiB has been looked at after half a day, where half the maximal age is weeks.
	sweepEvery = 10 * time.Minute
	sweepPages = 64
)
