package hub

import (
	"container/list"
	"sync"

	"mimimi.example/pkg/mimimi"
)

// cache holds recently used groups' states, bounded by the number of their leaves. It is only an optimisation: a state in it may be behind
// the log, which the log's CAS finds out. Safe for concurrent use.
type cache struct {
	limit int

	mu        sync.Mutex
	used      *list.List // of *cached; the most recently used first
	byGroup   map[mimimi.GroupID]*list.Element
	bySubject map[string]*list.Element
	weight    int
}

// cached is one entry of the cache; its fields are guarded by the cache's mutex.
type cached struct {
	g       *group
	subject string // token form of the group's .c subject; "" until it is known
	weight  int
	behind  bool // a hint said that the log has moved on
	echoes  int  // hints of this replica's own appends that are still to come
}

func newCache(limit int) *cache {
	return &cache{limit: limit, used: list.New(), byGroup: map[mimimi.GroupID]*list.Element{}, bySubject: map[string]*list.Element{}}
}

// drop forgets a group.
func (c *cache) drop(id mimimi.GroupID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byGroup[id]; e != nil {
		c.remove(e)
	}
}

// get returns a group's state unless it is known to be behind.
func (c *cache) get(id mimimi.GroupID) *group {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byGroup[id]
	if e == nil || e.Value.(*cached).behind {
		return nil
	}
	c.used.MoveToFront(e)
	return e.Value.(*cached).g
}

// peek returns a group's state even if it is behind: somewhere to roll forward from.
func (c *cache) peek(id mimimi.GroupID) *group {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byGroup[id]; e != nil {
		return e.Value.(*cached).g
	}
	return nil
}

// put keeps a state that was read from the log's end. subject is the token form in which hints name the group.
func (c *cache) put(subject string, g *group) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set(subject, g, 0)
}

// replace keeps a state that this replica has just appended the last entry of, before it gives the hint, which it will hear itself.
func (c *cache) replace(g *group) {
	c.mu.Lock()
	defer c.mu.Unlock()
	subject, echoes := "", 0
	if e := c.byGroup[g.id]; e != nil && e.Value.(*cached).subject != "" {
		subject, echoes = e.Value.(*cached).subject, e.Value.(*cached).echoes+1
	}
	c.set(subject, g, echoes)
}

// set keeps g unless a newer state is there. The caller holds the mutex.
func (c *cache) set(subject string, g *group, echoes int) {
	if e := c.byGroup[g.id]; e != nil {
		if e.Value.(*cached).g.last > g.last {
			return
		}
		c.remove(e)
	}
	e := c.used.PushFront(&cached{g: g, subject: subject, weight: groupWeight + len(g.roster), echoes: echoes})
	c.byGroup[g.id] = e
	if subject != "" {
		c.bySubject[subject] = e
	}
	c.weight += e.Value.(*cached).weight
	for c.weight > c.limit && c.used.Len() > 1 {
		c.remove(c.used.Back())
	}
}

// remove drops an element. The caller holds the mutex.
func (c *cache) remove(e *list.Element) {
	x := c.used.Remove(e).(*cached)
	delete(c.byGroup, x.g.id)
	delete(c.bySubject, x.subject)
	c.weight -= x.weight
}

// moved marks the group of a hint as behind, unless it is taken for the echo of this replica's own. Which hint is whose makes no difference: one more than
// were given here means that somebody else appended. If an own hint was lost, another's is passed over in its place, as if that had been lost.
func (c *cache) moved(subject string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.bySubject[subject]
	if e == nil {
		return
	}
	x := e.Value.(*cached)
	if x.echoes > 0 {
		x.echoes--
		return
	}
	x.behind = true
}
