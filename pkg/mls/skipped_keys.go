package mls

import "slices"

// consume applies the step that a received message is opened with to the tree of its epoch, and bounds the keys that the group keeps for
// messages which have not arrived.
func (s *groupState) consume(t *secretTree, step *ratchetStep) {
	t.apply(step)
	trees := []*secretTree{s.messages}
	for _, p := range s.past {
		trees = append(trees, p.messages)
	}
	limitSkipped(trees)
}

// limitSkipped erases the oldest skipped keys of the ratchets that have most of them, if the trees together have too many. So whoever makes gaps loses
// keys first, and a sender of whom a few messages are late none, unless there are as many such as keys. It goes down to three quarters of what is
// allowed, not to be called for with every message.
func limitSkipped(trees []*secretTree) {
	total := 0
	for _, t := range trees {
		total += t.skipped
	}
	if total <= maxGroupSkippedKeys {
		return
	}
	var having [maxSkippedKeys + 1]int // ratchets, by the number of keys
	for _, t := range trees {
		for _, r := range t.ratchets {
			for k := range r {
				having[len(r[k].skipped)]++
			}
		}
	}
	limit, longer := maxSkippedKeys, 0
	for ; total > maxGroupSkippedKeys/4*3; limit-- {
		longer += having[limit] // each of these gives up one key more
		total -= longer
	}
	for _, t := range trees {
		t.skipped = 0
		for _, r := range t.ratchets {
			r[handshakeRatchet].limit(limit)
			r[applicationRatchet].limit(limit)
			t.skipped += r.skipped()
		}
	}
}

// limit erases all but the newest n skipped keys.
func (r *ratchet) limit(n int) {
	over := len(r.skipped) - n
	if over <= 0 {
		return
	}
	for _, k := range r.skipped[:over] {
		k.erase()
	}
	r.skipped = slices.Clone(r.skipped[over:])
}

// skipped counts the skipped keys.
func (r *leafRatchets) skipped() int {
	return len(r[handshakeRatchet].skipped) + len(r[applicationRatchet].skipped)
}
