package mimimi

// lateSeconds is how long after an epoch's end a message of it still counts (docs/protocol.md §9): long enough for a message that was on
// its way when a commit was accepted, short enough that nobody waits for more.
const lateSeconds = 10

// maxEpochRecords bounds Epochs: more epochs than this within lateSeconds would need ten commits a second in one group, and the oldest are then
// simply over.
const maxEpochRecords = 128

// EpochRecord is one recent epoch of a group, as its log tells it.
type EpochRecord struct {
	Epoch   uint64
	Ended   int64 // acceptance time of the commit that ended it, whole seconds since 1970; 0 for the current epoch
	Removal bool  // the commit that ended it removed somebody
}

// Epochs decides which application messages count by their place in the log (docs/protocol.md §9). Hub, fanout and clients feed it the same
// entries in the same order and so decide alike; times are whole seconds for that reason. The zero value is not ready: use NewEpochs. It is a
// plain value holder, not safe for concurrent use.
type Epochs struct {
	records []EpochRecord // ascending; the last one is the current epoch
}

// NewEpochs starts with the epoch that is current at some place of the log, and the ended ones before it that are still remembered, oldest first.
func NewEpochs(current uint64, ended ...EpochRecord) *Epochs {
	return &Epochs{records: append(append([]EpochRecord(nil), ended...), EpochRecord{Epoch: current})}
}

// Records returns what must be stored to go on later: all remembered epochs, the current one last.
func (e *Epochs) Records() []EpochRecord { return append([]EpochRecord(nil), e.records...) }

// Current returns the current epoch.
func (e *Epochs) Current() uint64 { return e.records[len(e.records)-1].Epoch }

// Commit takes note of an accepted commit: it began epoch, at an acceptance time in whole seconds, and did or did not remove somebody.
func (e *Epochs) Commit(epoch uint64, at int64, removal bool) {
	last := &e.records[len(e.records)-1]
	last.Ended, last.Removal = at, removal
	keep := 0
	if removal {
		keep = len(e.records) // nothing before a removal counts any more
	}
	for keep < len(e.records) && at-e.records[keep].Ended > lateSeconds {
		keep++
	}
	e.records = append(e.records[keep:len(e.records):len(e.records)], EpochRecord{Epoch: epoch})
	if n := len(e.records); n > maxEpochRecords {
		e.records = append([]EpochRecord(nil), e.records[n-maxEpochRecords:]...)
	}
}

// Counts says whether an application message of an epoch, accepted at a time in whole seconds and standing in the log after everything fed so far,
// counts.
func (e *Epochs) Counts(epoch uint64, at int64) bool {
	for i, r := range e.records {
		if r.Epoch != epoch {
			continue
		}
		return i == len(e.records)-1 || at-r.Ended <= lateSeconds
	}
	return false
}
