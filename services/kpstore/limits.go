package kpstore

import "time"

const (
	// maxItems bounds one upload: a client's default stock of 60 goes in one request, and all of it is checked before anything is stored.
	maxItems = 64
	// maxClients bounds the KeyPackages of one set: a user's devices. It bounds what one claim returns, too.
	maxClients = 16
	// maxKeyPackage bounds one KeyPackage in bytes before it is parsed: three times what a KeyPackage of version 1.0 takes.
	maxKeyPackage = 8 << 10
	// maxSets bounds one index: eight times the default stock, so that completing, replacing and weekly last-resort sets fit side by side. Two
	// uploads at once may each see room for the same place, so an index may exceed it by maxItems for every replica.
	maxSets = 512
	// maxAliases bounds the contacts of one index; the record that lists them stays under 40 kB.
	maxAliases = 1024
	// maxBody bounds a request: maxItems KeyPackages of maxKeyPackage, with room for the framing.
	maxBody = maxItems*maxKeyPackage + 64<<10

	// pageSets and pageBytes bound one read of an index. A claim stops at the first page that has what it wants.
	pageSets  = 64
	pageBytes = 1 << 20
	// maxPages bounds how much of an index is read, whatever it holds.
	maxPages = 64

	// maxClaimSteps bounds the sets that one claim may lose to others before it says that nothing is left; more than an index's default stock.
	maxClaimSteps = 128
	// maxRereads bounds how often a claim reads an index again that seems to lag: half a second in all, many times what a healthy replica lags.
	maxRereads = 8
	// maxConflicts bounds how often one record is read again after a compare-and-swap was lost.
	maxConflicts = 24
	// minBackoff and maxBackoff bound the wait after a lost compare-and-swap, which doubles: from one write's time to what leaves a busy cluster room
	// for everybody's turn. With maxConflicts a caller waits some five seconds at most.
	minBackoff = 2 * time.Millisecond
	maxBackoff = 256 * time.Millisecond
	// stepPause is the wait before a claim chooses again.
	stepPause = 64 * time.Millisecond

	// defaultClaimsPerHour is under the default stock of 50, so that one contact cannot take all of it within the hour in which the owner refills it.
	defaultClaimsPerHour = 30

	// defaultClaimsPerIssuer is under the default stock, too, so that a domain whose users hold several connection tokens cannot take all of it either.
	defaultClaimsPerIssuer = 40
	// countFor keeps a count of an hour's claims a little longer than it counts.
	countFor = 2 * time.Hour

	// maxWithdrawn bounds one withdrawal: what one upload holds.
	maxWithdrawn = maxItems
	// workers bounds how many records one withdrawal or deletion changes at once: most of the time is waiting for the bus.
	workers = 8

	// fewSets is when a stock is low however large it was: a group or two more, and last resort begins. So is a quarter of what it was.
	fewSets = 5
	// noticeEvery bounds what the owner is told of a low stock, and so what whoever claims can make its clients do.
	noticeEvery = time.Hour
	// maxGraves bounds the memory for what was set aside before; beyond it something may be noted in DEAD again.
	maxGraves = 1024

	// servedFor is how long a user pseudonym that was handed out is remembered (protocol.md §8): longer than a KeyPackage's 90 days, so that a late
	// upload cannot bring it back while anybody could still use it.
	servedFor = 100 * 24 * time.Hour
	// answerFor is how long the answer to a claim is kept for retries. It joins a request id to KeyPackages, so it is short.
	answerFor = time.Hour
	// indexFor is how long an index and its aliases are kept without a sign of life: an upload, a claim, or a registration, which the owner's clients repeat every
	// month. Nobody knows whose an index is, so one that is not deleted with its account could not be found.
	indexFor = 400 * 24 * time.Hour
	// revokedFor keeps a revoked alias from being registered again by a replayed request; a signature is good for minutes (protocol.md §9).
	revokedFor = 24 * time.Hour
	// lifetimeMargin is how long before the end of its lifetime a set is no longer handed out: the adder must still get its commit accepted.
	lifetimeMargin = 24 * time.Hour
)
