package fanout

const (
	// maxRecipients is how many leaves one OUTBOX message names: about 250 bytes each, so that recipients take some 128 kB beside the message itself.
	maxRecipients = 500
	// maxDomains is how many destination domains of one entry are written to at once.
	maxDomains = 8
	// maxCachedLeaves bounds the cached projections by the leaves in them, about 300 bytes each: some 60 MB for all groups together. A group that is
	// not cached costs one read of a checkpoint and of the entries since.
	maxCachedLeaves = 200_000
	// pageEntries and pageBytes bound one read of a group's log.
	pageEntries = 128
	pageBytes   = 4 << 20
)
