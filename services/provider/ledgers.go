package provider

import (
	"container/list"
	"sync"
	"time"
)

// ledgers keeps the ledgers of the queues that were written to lately, within ledgerEntries, and is the lock of each queue in this replica.
// Another replica has ledgers of its own: between two comparisons with the stream (ledgerSync) a quota can be exceeded by what the others wrote.
type ledgers struct {
	mu      sync.Mutex
	byQueue map[string]*heldLedger // guarded by mu
	idle    *list.List             // guarded by mu: of *heldLedger without users, longest unused first
	entries int                    // guarded by mu: as of each ledger's last release
}

// heldLedger is a ledger with its lock.
type heldLedger struct {
	sync.Mutex // guards the ledger and synced
	ledger
	synced time.Time // last comparison with the stream; zero: never

	queue   string
	users   int           // guarded by ledgers.mu: holders and waiters of the lock
	element *list.Element // guarded by ledgers.mu: place in idle, nil while in use
	counted int           // guarded by ledgers.mu: size as counted in entries
}

func newLedgers() *ledgers {
	return &ledgers{byQueue: make(map[string]*heldLedger), idle: list.New()}
}

// acquire locks a queue and returns its ledger, an empty one that was never synced if none is held.
func (s *ledgers) acquire(queue string) *heldLedger {
	s.mu.Lock()
	l := s.byQueue[queue]
	if l == nil {
		l = &heldLedger{queue: queue, ledger: ledger{groups: make(map[string][]waiting)}}
		s.byQueue[queue] = l
	}
	s.use(l)
	s.mu.Unlock()
	l.Lock()
	return l
}

// known is acquire for a queue whose ledger is held; nil if it is not.
func (s *ledgers) known(queue string) *heldLedger {
	s.mu.Lock()
	l := s.byQueue[queue]
	if l != nil {
		s.use(l)
	}
	s.mu.Unlock()
	if l != nil {
		l.Lock()
	}
	return l
}

// use counts one more user. The caller holds mu.
func (s *ledgers) use(l *heldLedger) {
	l.users++
	if l.element != nil {
		s.idle.Remove(l.element)
		l.element = nil
	}
}

// release unlocks a queue, and drops the longest unused ledgers while there are too many entries in all.
func (s *ledgers) release(l *heldLedger) {
	size := l.size
	l.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries += size + 1 - l.counted // 1: an empty ledger takes memory too
	l.counted = size + 1
	if l.users--; l.users == 0 {
		l.element = s.idle.PushBack(l)
	}
	for s.entries > ledgerEntries && s.idle.Len() > 0 {
		old := s.idle.Remove(s.idle.Front()).(*heldLedger)
		delete(s.byQueue, old.queue)
		s.entries -= old.counted
	}
}
