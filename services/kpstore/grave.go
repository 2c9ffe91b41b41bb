package kpstore

import (
	"context"
	"slices"
	"sync"

	"mimimi.example/pkg/bus"
)

// graves remembers what this replica has set aside, so that what lies in an index for weeks is not noted with every claim. The zero value is ready.
type graves struct {
	mu   sync.Mutex
	seen map[grave]bool // guarded by mu
}

// grave is one stored message: a replaced one has another sequence.
type grave struct {
	stream   string
	sequence uint64
}

// first says whether something is new here. forget takes it back.
func (g *graves) first(x grave) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.seen[x] {
		return false
	}
	if g.seen == nil || len(g.seen) >= maxGraves {
		g.seen = make(map[grave]bool)
	}
	g.seen[x] = true
	return true
}

func (g *graves) forget(x grave) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.seen, x)
}

// setAside passes over a stored set that cannot be read: it is counted, and noted in DEAD, where an operator finds which message it is. It stays until
// it expires. What fails at the noting is tried again when the set is met next.
func (s *store) setAside(ctx context.Context, owner []byte, m *bus.Message) {
	subject := s.subjects.KeyPackageSets(owner)
	x := grave{stream: subject.Stream(), sequence: m.Sequence}
	if !s.graves.first(x) {
		return
	}
	s.metrics.unreadable.Add(ctx, 1)
	if err := s.log.Bury(ctx, subject, m, errUnreadable); err != nil {
		s.graves.forget(x)
	}
}

// readable returns the sets whose KeyPackages all parse, and sets the others aside.
func (s *store) readable(ctx context.Context, owner []byte, sets []*keySet) []*keySet {
	return slices.DeleteFunc(sets, func(set *keySet) bool {
		if set.readable() {
			return false
		}
		s.setAside(ctx, owner, set.message)
		return true
	})
}
