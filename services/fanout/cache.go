package fanout

import (
	"container/list"
	"sync"
)

// cache keeps the projections that were used last, bounded by the leaves in them. It is an optimisation: what it holds can be read from the log. Safe
// for concurrent use.
type cache struct {
	mu     sync.Mutex
	max    int                      // leaves, and one more for each group
	weight int                      // guarded by mu
	order  *list.List               // of *cached, used last first; guarded by mu
	byID   map[string]*list.Element // guarded by mu
}

type cached struct {
	id string
	*group
}

func newCache(max int) *cache {
	return &cache{max: max, order: list.New(), byID: make(map[string]*list.Element)}
}

func (c *cached) weight() int { return 1 + len(c.roster) }

// get returns a group's projection, nil if there is none.
func (c *cache) get(id []byte) *group {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byID[string(id)]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached).group
}

// put keeps a projection unless a later one is there, and drops those that were not used for longest. A group that is larger than the bound by itself
// is not kept.
func (c *cache) put(id []byte, g *group) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byID[string(id)]; e != nil {
		if e.Value.(*cached).sequence >= g.sequence {
			return
		}
		c.drop(e)
	}
	v := &cached{id: string(id), group: g}
	c.byID[v.id] = c.order.PushFront(v)
	c.weight += v.weight()
	for c.weight > c.max {
		c.drop(c.order.Back())
	}
}

// drop is called with mu held.
func (c *cache) drop(e *list.Element) {
	v := c.order.Remove(e).(*cached)
	delete(c.byID, v.id)
	c.weight -= v.weight()
}
