package hub

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

var errPace = problem.New(problem.Limited, "protocol §9: the group sends faster than a hub takes: send again later")

// paces bounds how fast each group sends: the hub does not know which of its members does (protocol §9), so it cannot hold back one alone. It is each replica's own, and kept
// for the groups that sent last: a group that is forgotten has its burst again. Safe for concurrent use.
type paces struct {
	mu       sync.Mutex
	now, old map[mimimi.GroupID]*rate.Limiter // guarded by mu; when now is full it becomes old, and what was old is forgotten
}

func newPaces() *paces { return &paces{now: make(map[mimimi.GroupID]*rate.Limiter)} }

// take says whether a group may send a message of a size now, and counts it.
func (p *paces) take(id mimimi.GroupID, size int, at time.Time) error {
	if p.of(id).AllowN(at, (size+paceBytes-1)/paceBytes) {
		return nil
	}
	return errPace
}

func (p *paces) of(id mimimi.GroupID) *rate.Limiter {
	p.mu.Lock()
	defer p.mu.Unlock()
	l, ok := p.now[id]
	if ok {
		return l
	}
	if l, ok = p.old[id]; !ok {
		l = rate.NewLimiter(pacePerSecond, paceBurst)
	}
	if len(p.now) >= maxPaced/2 {
		p.now, p.old = make(map[mimimi.GroupID]*rate.Limiter), p.now
	}
	p.now[id] = l
	return l
}
