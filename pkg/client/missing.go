package client

import (
	"math/rand/v2"
	"time"

	"mimimi.example/pkg/mimimi"
)

// missingRecord says that a resync found leaves whose link keys this client lacks (§7).
type missingRecord struct {
	AskedIn *uint64 `json:"asked_in,omitempty"` // the epoch in which it asked last: what is sealed is bound to its epoch
	AskedAt int64   `json:"asked_at,omitempty"`
}

// askedRecord is what a resynced leaf asked this client for.
type askedRecord struct {
	Leaves []uint32 `json:"leaves"`
	Due    int64    `json:"due"` // seconds since 1970: those before this client among who were asked go first
}

// missingDue says whether to ask for missing link keys now: once in each epoch, and again when nobody answered for a while.
func (c *Client) missingDue(g *group) bool {
	m := g.rec.Missing
	return m != nil && (m.AskedIn == nil || *m.AskedIn != g.mls.Epoch() || c.now().Sub(timeOf(m.AskedAt)) >= askAgain)
}

// askMissing asks some identified members, chosen at random, for the link keys that a resync left out. When none is missing that is over.
func (c *Client) askMissing(g *group) error {
	var missing, known []uint32
	for _, i := range g.indices() {
		switch r := g.rec.Leaves[i]; {
		case i == g.mls.OwnIndex():
		case r.User != "":
			known = append(known, i)
		default:
			missing = append(missing, i)
		}
	}
	if len(missing) == 0 {
		return c.change(g, func(Tx) error {
			g.rec.Missing = nil
			return nil
		})
	}
	rand.Shuffle(len(known), func(i, j int) { known[i], known[j] = known[j], known[i] })
	epoch := g.mls.Epoch()
	links := new(mimimi.SealedLinks)
	for _, i := range known[:min(len(known), maxAsked)] {
		node, ok := g.mls.Public().Member(i)
		if !ok {
			return errDamagedGroup
		}
		sealed, err := mimimi.SealMissing(g.id, epoch, g.mls.OwnIndex(), i, node.EncryptionKey(), missing)
		if err != nil {
			return err
		}
		links.Receivers, links.Sealed = append(links.Receivers, i), append(links.Sealed, sealed)
	}
	return c.change(g, func(tx Tx) error {
		first := g.rec.Missing.AskedIn == nil
		g.rec.Missing = &missingRecord{AskedIn: &epoch, AskedAt: c.now().Unix()}
		if len(links.Receivers) == 0 {
			if !first {
				return nil
			}
			return c.warn(tx, g.rec.ID, "everybody who was known in the group has left it: nobody can say who the others are")
		}
		g.post(&outgoing{Type: mimimi.EnvelopeLinkFromJoiner, Body: links.Marshal(), OnlyIn: &epoch})
		return nil
	})
}

// receiveAsk notes which link keys a resynced leaf lacks. Only a leaf that is identified is answered: its credential is the one that it had.
func (c *Client) receiveAsk(g *group, leaf uint32, from *leafRecord, at int, sealed []byte) {
	if from.User == "" || leaf == g.mls.OwnIndex() {
		return
	}
	leaves, err := mimimi.OpenMissing(g.mls, leaf, sealed)
	if err != nil {
		return
	}
	from.Asked = &askedRecord{Leaves: leaves, Due: c.now().Add(turnAt(at)).Unix()}
}

// turnAt is how long one of several who could answer lets those before it go first.
func turnAt(at int) time.Duration { return time.Duration(min(at, maxTurns)) * turnDelay }

// answerMissing seals the link keys that a resynced leaf asked for to its new leaf.
func (c *Client) answerMissing(g *group, leaf uint32) error {
	r := g.rec.Leaves[leaf]
	node, ok := g.mls.Public().Member(leaf)
	if !ok {
		return errDamagedGroup
	}
	all := g.linkKeys()
	keys := make([]*mimimi.LinkKey, len(all))
	for _, i := range r.Asked.Leaves {
		if int(i) < len(all) && g.rec.Leaves[i] != nil && g.rec.Leaves[i].User != "" {
			keys[i] = all[i]
		}
	}
	epoch := g.mls.Epoch()
	sealed, err := mimimi.SealLinks(mimimi.ToResynced, mimimi.InviteSecret{}, g.id, epoch, g.mls.OwnIndex(), leaf, node.EncryptionKey(), keys)
	if err != nil {
		return err
	}
	return c.change(g, func(Tx) error {
		r.Asked = nil
		links := &mimimi.SealedLinks{Receivers: []uint32{leaf}, Sealed: [][]byte{sealed}}
		g.post(&outgoing{Type: mimimi.EnvelopeLinksToJoiner, Body: links.Marshal(), OnlyIn: &epoch})
		return nil
	})
}

// receiveMissing learns the link keys that were missing. A wrong one does not make the leaf at fault: it is the answerer's.
func (c *Client) receiveMissing(tx Tx, g *group, leaf uint32, sealed []byte) error {
	keys, err := mimimi.OpenLinks(mimimi.ToResynced, mimimi.InviteSecret{}, g.mls, leaf, sealed)
	if err != nil {
		return nil // of another epoch: it is asked for again
	}
	for i, key := range keys {
		if key == nil {
			continue
		}
		if err := c.learn(tx, g, uint32(i), *key, timeZero, false); err != nil {
			return err
		}
	}
	if g.identified() {
		g.rec.Missing = nil
	}
	return nil
}
