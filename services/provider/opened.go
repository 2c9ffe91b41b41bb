package provider

import (
	"sync"

	"mimimi.example/pkg/mimimi"
)

// opened remembers what sealed queue IDs opened to: a leaf's stays the same from one delivery to the next, for up to 60 days, and opening one takes as long as all else
// that is done for a recipient. It holds nothing that its process could not open again, and nothing of it is stored. Safe for concurrent use; the zero value is empty.
//
// It is bounded by two generations: what was used since the younger one began survives the older one's end.
type opened struct {
	mu         sync.Mutex
	young, old map[openedKey]mimimi.QueueID // guarded by mu
}

// openedKey is all that decides what comes out.
type openedKey struct{ pseudonym, sealed string }

// queue returns what a sealed queue ID opens to, by open if it is not remembered. A failure is not remembered.
func (o *opened) queue(pseudonym mimimi.ClientPseudonym, sealed []byte, open func() (mimimi.QueueID, error)) (mimimi.QueueID, error) {
	key := openedKey{pseudonym.Wire(), string(sealed)}
	if id, ok := o.get(key); ok {
		return id, nil
	}
	id, err := open()
	if err == nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.put(key, id)
	}
	return id, err
}

func (o *opened) get(key openedKey) (mimimi.QueueID, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if id, ok := o.young[key]; ok {
		return id, true
	}
	id, ok := o.old[key]
	if ok {
		o.put(key, id)
	}
	return id, ok
}

// put is called with mu held.
func (o *opened) put(key openedKey, id mimimi.QueueID) {
	if o.young == nil || len(o.young) >= maxOpened/2 {
		o.young, o.old = make(map[openedKey]mimimi.QueueID), o.young
	}
	o.young[key] = id
}
