package client

import (
	"errors"
	"slices"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mls"
)

// A hub that leaves something out is seen by what follows (§10): by an entry whose `previous` the client does not have and the log does not give, by a message of an
// epoch that the client was not told of, and by a member's ratchet that has moved on over a message that never came. It is said, once in each epoch.

const leftOutSentence = "the group's hub left something out: messages or changes of this group may be missing here"

// leftOut says that something is missing.
func (c *Client) leftOut(tx Tx, g *group) error {
	if mark := g.mls.Epoch() + 1; g.rec.LeftOut != mark {
		g.rec.LeftOut = mark
		return c.warn(tx, g.rec.ID, leftOutSentence)
	}
	return nil
}

// ahead handles a message of an epoch that this client has not reached though the commits before it were to come first. It stays where it is in the log, so that
// everything can still be read once the hub gives it; the log is looked at again.
func (c *Client) ahead(g *group, position uint64) error {
	return c.change(g, func(tx Tx) error {
		g.rec.Behind = g.rec.Behind || position != 0
		return errors.Join(c.leftOut(tx, g), setPosition(tx, position))
	})
}

// isAhead says whether an entry is a message of an epoch that the client has not reached.
func (g *group) isAhead(d *mimimiv1.Delivery) bool {
	return d.Kind == mimimiv1.Delivery_KIND_MESSAGE && d.Epoch > g.mls.Epoch()
}

// heardRecord is how far the ratchets of the leaves have been heard in one epoch.
type heardRecord struct {
	Epoch   uint64            `json:"epoch"`
	Next    map[uint32]uint32 `json:"next"`    // by leaf: one more than the highest generation that came
	Missing map[uint32]uint32 `json:"missing"` // by leaf: generations below Next that did not come
}

// hear takes note of a message's generation. A message that was made earlier may still come later: what is missing is known two epochs on. One that comes after that, since commits follow each other
// within seconds, says nothing: what came before it is not remembered any more.
func (g *group) hear(epoch uint64, m *mls.ApplicationMessage) {
	if epoch+1 < g.mls.Epoch() && !slices.ContainsFunc(g.rec.Heard, func(h *heardRecord) bool { return h.Epoch == epoch }) {
		return
	}
	h := g.heard(epoch)
	leaf := m.Sender.Index
	switch next := h.Next[leaf]; {
	case m.Generation >= next:
		h.Missing[leaf] += m.Generation - next
		h.Next[leaf] = m.Generation + 1
	case h.Missing[leaf] > 0:
		h.Missing[leaf]--
	}
}

func (g *group) heard(epoch uint64) *heardRecord {
	for _, h := range g.rec.Heard {
		if h.Epoch == epoch {
			return h
		}
	}
	h := &heardRecord{Epoch: epoch, Next: make(map[uint32]uint32), Missing: make(map[uint32]uint32)}
	g.rec.Heard = append(g.rec.Heard, h)
	return h
}

// tellUnheard says, when an epoch begins, whether messages of one before the last never came: then nothing of it counts any more, or will soon not.
func (c *Client) tellUnheard(tx Tx, g *group) error {
	var kept []*heardRecord
	missing := false
	for _, h := range g.rec.Heard {
		if h.Epoch+1 >= g.mls.Epoch() {
			kept = append(kept, h)
			continue
		}
		for _, n := range h.Missing {
			missing = missing || n > 0
		}
	}
	g.rec.Heard = kept
	if missing {
		return c.leftOut(tx, g)
	}
	return nil
}
