package telemetry

import "time"

// The bounds of what is measured and exported. An export is never waited for: at each of them something is lost and a service goes on.
const (
	maxSeries = 200 // per instrument: every label is an enumeration, and the largest product of two is below it

	maxQueuedSpans = 2048            // that wait for an export; beyond, the newest are lost
	maxQueuedLogs  = 256             // records; there are a few an hour
	maxBatchSpans  = 512             // of one export
	exportEvery    = 5 * time.Second // spans wait that long for others, among which they are shuffled
	collectEvery   = 30 * time.Second
	exportTimeout  = 5 * time.Second // of one export; it is not repeated
	flushTimeout   = 3 * time.Second // at the end; a supervisor that waits 30 seconds must not wait for a collector
	maxAnswer      = 64 << 10        // bytes of a receiver's answer
	maxRequest     = 4 << 20         // bytes of an export

	maxAttributes = 16 // of a span; ours have seven
	maxLinks      = 32 // of a span, to the messages of one batch; beyond, they are left out
)

// defaultSample is the share of traces that is kept where nothing is said.
const defaultSample = 0.01
