package client_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"mimimi.example/pkg/client"
)

// An app that keeps its state elsewhere brings a Store of its own. This one is as small as one can be: it forgets everything with the process.
func ExampleStore() {
	ctx := context.Background()
	c, err := client.Register(ctx, client.Config{Store: newMemory(), Provider: theWorld.a.Info()}, unique("alice"))
	must(err)
	defer c.Close()
	id, err := c.CreateGroup(ctx, "notes")
	must(err)
	groups, err := c.Groups(ctx)
	must(err)
	fmt.Println(len(groups), groups[0].ID == id, groups[0].State)
	// Output: 1 true active
}

// memory is a Store that keeps everything in the process: for tests, and as a pattern for an app's own. What a Store owes is in the comments of client.Store.
type memory struct {
	mu      sync.RWMutex                 // held for the whole of a transaction: one writer, or several readers
	buckets map[string]map[string][]byte // guarded by mu
}

func newMemory() *memory { return &memory{buckets: make(map[string]map[string][]byte)} }

// View implements client.Store.
func (m *memory) View(f func(tx client.Tx) error) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return f(&memoryTx{store: m})
}

// Update implements client.Store: what f has changed is taken back if f fails.
func (m *memory) Update(f func(tx client.Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	tx := &memoryTx{store: m}
	err := f(tx)
	if err != nil {
		for _, undo := range slices.Backward(tx.undo) {
			undo()
		}
	}
	return err
}

// Close implements client.Store. There is nothing to release.
func (m *memory) Close() error { return nil }

// memoryTx is one transaction.
type memoryTx struct {
	store *memory
	undo  []func() // what takes back the changes so far, oldest first
}

// Get implements client.Tx.
func (t *memoryTx) Get(bucket string, key []byte) []byte { return t.store.buckets[bucket][string(key)] }

// Put implements client.Tx. The caller may use value again, so a copy is kept.
func (t *memoryTx) Put(bucket string, key, value []byte) error {
	if t.store.buckets[bucket] == nil {
		t.store.buckets[bucket] = make(map[string][]byte)
	}
	t.remember(bucket, string(key))
	t.store.buckets[bucket][string(key)] = append([]byte{}, value...)
	return nil
}

// Delete implements client.Tx.
func (t *memoryTx) Delete(bucket string, key []byte) error {
	t.remember(bucket, string(key))
	delete(t.store.buckets[bucket], string(key))
	return nil
}

// Each implements client.Tx: keys in the order of their bytes.
func (t *memoryTx) Each(bucket string, from []byte, f func(key, value []byte) error) error {
	for _, k := range slices.Sorted(maps.Keys(t.store.buckets[bucket])) {
		if k < string(from) {
			continue
		}
		if err := f([]byte(k), t.store.buckets[bucket][k]); err != nil {
			return err
		}
	}
	return nil
}

func (t *memoryTx) remember(bucket, key string) {
	b := t.store.buckets[bucket]
	old, had := b[key]
	t.undo = append(t.undo, func() {
		if had {
			b[key] = old
		} else {
			delete(b, key)
		}
	})
}
