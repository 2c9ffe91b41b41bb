package mls

// Bounds on what is accepted from outside. RFC 9420's vectors reach 2^30 bytes; what a peer can make this package
// store or compute must be far less.
const (
	// maxVector bounds every single vector. A Welcome for a thousand newcomers is 0.4 MB, the tree of 2^17 leaves some
	// 60 MB with leaves of the usual size: with 128 MiB the tree limit below is the one that counts. Of larger leaves there can be fewer: a tree
	// does not grow beyond what one vector holds.
	maxVector = 1 << 27

	// maxMessage bounds whatever is read as a whole from outside. The largest vector and what stands around it fit; and nothing that is hashed or
	// signed, which is a message or two and a label, reaches the 2^30 bytes at which a length can no longer be written.
	maxMessage = 1 << 28

	// maxState bounds a part of a stored state, which is this package's own and holds trees and messages as large as they may be: all that a
	// length can say.
	maxState = 1<<30 - 1

	// maxLeaves bounds a tree's width. A group of 100,000 clients fits; one validation costs 60 µs a leaf, so 2^17 leaves
	// cost eight seconds of one core, which is already more than anybody should be able to ask for.
	maxLeaves = 1 << 17

	// maxExtensions bounds one list of extensions. The registry has about ten, applications a handful each.
	maxExtensions = 64

	// maxCapabilities bounds each vector of a Capabilities. A client that lists every registered value and all sixteen
	// GREASE values of RFC 9420 §13.5 needs about forty.
	maxCapabilities = 256

	// maxCertificates bounds an X.509 chain.
	maxCertificates = 16

	// maxProposals bounds the proposals of one Commit: each may be an Add, so it is as large as a large batch of Adds.
	maxProposals = 1 << 14

	// maxPathNodes is the deepest path that a tree of maxLeaves can have.
	maxPathNodes = 17

	// maxForwardRatchet bounds how far ahead of the last message of a sender another may be: so many steps of three hashes
	// (some 5 ms in all) are what one member can make the others compute.
	maxForwardRatchet = 1024

	// maxSkippedKeys bounds the message keys kept per ratchet for messages that have not arrived. Delivery is in order but
	// for retries, so a sender's missing messages are few; 256 keys are 10 kB.
	maxSkippedKeys = 256

	// maxGroupSkippedKeys bounds them per group, in all epochs that are kept: some 0.6 MB of every state that is stored (0.9 MB in suites of 256 bits), and
	// sixteen late messages of each of a thousand members. Whoever brings a thousand leaves in could else make every member keep 256 keys in both ratchets of
	// each, 17 MB an epoch and 2 GB in maxPastEpochs; with eight thousand, what is stored of one epoch would be more than a vector holds.
	maxGroupSkippedKeys = 1 << 14

	// maxPending bounds the standalone proposals of one epoch. Everyone may leave at once in a group of a thousand.
	maxPending = 1 << 12

	// maxPendingSize bounds them in bytes, since they are kept in every state that is stored: maxPending Adds with the keys of a post-quantum
	// suite.
	maxPendingSize = 1 << 24

	// maxPastEpochs bounds the epochs whose message keys are kept for late messages: ten commits a second for the dozen seconds in which
	// an application takes a late message. ForgetEpochs drops them earlier.
	maxPastEpochs = 128

	// maxExternalSenders bounds the external_senders of a group: services such as its hub.
	maxExternalSenders = 64
)
