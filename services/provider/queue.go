package provider

import (
	"bytes"
	"slices"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// standing is what a queue's owner said about a group.
type standing uint8

const (
	unconfirmed standing = iota // nothing yet: the small pool
	confirmed
	refused
)

// errMarks is a queue's owner with too many groups.
var errMarks = problem.New(problem.Limited, "the queue has too many confirmed or refused groups: make another queue")

// groupMark is what a queue's record holds of a group: enough to recognise it, and different in every queue.
func groupMark(queue mimimi.QueueID, group []byte) []byte {
	return digest(labelGroupMark, queue.Bytes(), group)[:16]
}

// lowStockMark stands in a ledger for the notices of the KeyPackage store, which are of no group. No group's mark is empty.
const lowStockMark = ""

// markOf is what an item counts under in its queue's ledger.
func markOf(queue mimimi.QueueID, item *mimimiv1.QueueItem) string {
	if item.GetLowStock() {
		return lowStockMark
	}
	return string(groupMark(queue, item.GetGroupId()))
}

func contains(marks [][]byte, mark []byte) bool {
	return slices.ContainsFunc(marks, func(m []byte) bool { return bytes.Equal(m, mark) })
}

// standingOf returns what the owner said about a group.
func standingOf(r *mimimiv1.QueueRecord, mark []byte) standing {
	switch {
	case contains(r.GetRefused(), mark):
		return refused
	case contains(r.GetConfirmed(), mark):
		return confirmed
	}
	return unconfirmed
}

// setStanding records what the owner says, in place of what it said before. It reports whether anything changed.
func setStanding(r *mimimiv1.QueueRecord, mark []byte, s standing) (bool, error) {
	if standingOf(r, mark) == s {
		return false, nil
	}
	same := func(m []byte) bool { return bytes.Equal(m, mark) }
	r.Confirmed, r.Refused = slices.DeleteFunc(r.Confirmed, same), slices.DeleteFunc(r.Refused, same)
	if len(r.Confirmed)+len(r.Refused) >= maxMarks {
		return false, errMarks
	}
	if s == confirmed {
		r.Confirmed = append(r.Confirmed, mark)
	} else {
		r.Refused = append(r.Refused, mark)
	}
	return true, nil
}

// waiting is one entry that waits in a queue.
type waiting struct {
	sequence uint64
	id       uint64 // prefix of the entry's id; 0 for a notice
}

func (w waiting) notice() bool { return w.id == 0 }

// ledger is what waits in one queue, by group mark: the quota is counted here. It is rebuilt from the stream, and knows no more than that.
// Its user holds the queue's lock (ledgers.acquire).
type ledger struct {
	groups  map[string][]waiting // ascending by sequence
	scanned uint64               // the stream was read up to here
	size    int                  // entries in all groups
}

// add notes an entry. An entry that is known already is not noted twice.
func (l *ledger) add(mark string, w waiting) {
	entries := l.groups[mark]
	at, known := slices.BinarySearchFunc(entries, w, func(a, b waiting) int {
		switch {
		case a.sequence < b.sequence:
			return -1
		case a.sequence > b.sequence:
			return 1
		}
		return 0
	})
	if known {
		return
	}
	l.groups[mark] = slices.Insert(entries, at, w)
	l.size++
}

// has reports whether an entry with this id waits for the group.
func (l *ledger) has(mark string, id uint64) bool {
	return slices.ContainsFunc(l.groups[mark], func(w waiting) bool { return w.id == id })
}

// endsInNotice reports whether the newest that waits for the group is a notice.
func (l *ledger) endsInNotice(mark string) bool {
	entries := l.groups[mark]
	return len(entries) > 0 && entries[len(entries)-1].notice()
}

// forget drops what is gone: every entry before first.
func (l *ledger) forget(first uint64) {
	l.keep(func(_ string, w waiting) bool { return w.sequence >= first })
}

// remove drops single entries of one group.
func (l *ledger) remove(mark string, sequences []uint64) {
	l.keep(func(m string, w waiting) bool { return m != mark || !slices.Contains(sequences, w.sequence) })
}

func (l *ledger) keep(stays func(mark string, w waiting) bool) {
	for mark, entries := range l.groups {
		left := slices.DeleteFunc(entries, func(w waiting) bool { return !stays(mark, w) })
		l.size -= len(entries) - len(left)
		if len(left) == 0 {
			delete(l.groups, mark)
		} else {
			l.groups[mark] = left
		}
	}
}

// verdict is what has to happen so that a group gets one more entry.
type verdict struct {
	notice bool     // write a notice first
	evict  []uint64 // then remove these
	store  bool     // then write the entry
}

// admit decides about one more entry of a group (protocol §10). pooled says how many unconfirmed groups have entries waiting.
//
// A confirmed group loses its oldest quarter when it is full, so that evictions cost little per entry; its older notices go too, since the
// new one says the same. An unconfirmed group keeps its first entries, of which the first is the Welcome, and gets one notice for the rest.
// A queue with queueEntries entries is full for every group; only its owner can have brought it there.
func (l *ledger) admit(mark string, s standing, pooled func() int) verdict {
	var deliveries, notices []uint64
	for _, w := range l.groups[mark] {
		if w.notice() {
			notices = append(notices, w.sequence)
		} else {
			deliveries = append(deliveries, w.sequence)
		}
	}
	full := l.size >= queueEntries
	switch {
	case s == confirmed && len(deliveries) < groupQuota && !full:
		return verdict{store: true}
	case s == confirmed && len(deliveries) > 0:
		oldest := deliveries[:(len(deliveries)+3)/4]
		return verdict{notice: true, evict: append(slices.Clone(oldest), notices...), store: true}
	case len(notices) > 0 || full || len(deliveries) == 0 && pooled() >= unconfirmedGroups:
		// No room, and the owner knows or there is no room for saying it either.
		return verdict{notice: s == confirmed && len(notices) == 0}
	case len(deliveries) < unconfirmedQuota:
		return verdict{store: true}
	}
	return verdict{notice: true}
}

// pooled counts the groups with waiting entries that the owner has not confirmed.
func (l *ledger) pooled(r *mimimiv1.QueueRecord) int {
	n := 0
	for mark := range l.groups {
		if mark != lowStockMark && standingOf(r, []byte(mark)) == unconfirmed {
			n++
		}
	}
	return n
}
