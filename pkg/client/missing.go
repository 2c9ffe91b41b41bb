package client

import (
	"math/rand/v2"
	"time"

	"mimimi.example/pkg/mimimi"
)

// missingRecord says that this client found leaves whose link keys it lacks: after a resync (§7), or when it came in and was not told them, or not rightly. One does not remove
// leaves that were there first: one asks others, else leaves (§4).
type missingRecord struct {
	AskedIn *uint64 `json:"asked_in,omitempty"` // the epoch in which it asked last: what is sealed is bound to its epoch
	AskedAt int64   `json:"asked_at,omitempty"`
	Asked   int     `json:"asked,omitempty"` // how often
	Since   int64   `json:"since,omitempty"`
	Said    bool    `json:"said,omitempty"` // that somebody is not known
}

// askedRecord is what a leaf asked this client for.
type askedRecord struct {
	Leaves []uint32 `json:"leaves"`
	Due    int64    `json:"due"` // seconds since 1970: those before this client among who were asked go first
}

// missingDue says whether to ask for missing link keys now: once in each epoch, and again, more and more rarely, while nobody answers.
func (c *Client) missingDue(g *group) bool {
	m := g.rec.Missing
	if m == nil || g.hasTask(taskLeave) {
		return false
	}
	return m.AskedIn == nil || *m.AskedIn != g.mls.Epoch() || c.now().Sub(timeOf(m.AskedAt)) >= max(askAgain, pauseAfter(m.Asked, askBurst, askAgain, askMost))
}

// lacks takes note of leaves that are there and not identified, when this client has come in, or back.
func (c *Client) lacks(g *group) {
	if g.rec.Missing == nil && !g.identified() {
		g.rec.Missing = &missingRecord{Since: c.now().Unix()}
	}
}

// nameless says whether nothing is known of whose a leaf is. One whose link key is known is named once its domain can be reached.
func (r *leafRecord) nameless() bool { return r.User == "" && (r.Bad || len(r.LinkKey) == 0) }

// unknownSince is since when somebody in the group is not known to this client: one who came in later may not have been named yet.
func (g *group) unknownSince() (since int64, some bool) {
	for _, i := range g.indices() {
		r := g.rec.Leaves[i]
		if at := max(g.rec.Missing.Since, r.Entered); i != g.mls.OwnIndex() && r.nameless() && (!some || at < since) {
			since, some = at, true
		}
	}
	return since, some
}

// unknown says it when somebody in the group has not been known for a day, and after a week gives the group up, if it is one that the user sees: a client that came back is brought in anew
// by the user's others, if there are any; otherwise the user leaves. over says that nothing more is to be asked.
func (c *Client) unknown(tx Tx, g *group) (over bool, err error) {
	m := g.rec.Missing
	since, some := g.unknownSince()
	switch past := c.now().Sub(timeOf(since)); {
	case m.Since == 0 || !some || past < unknownSaid || g.rec.hidden():
		return false, nil
	case past >= returnFor && g.rec.State == GroupActive && len(c.own) > 1:
		return true, c.lose(tx, g, unknownLost)
	case past >= returnFor:
		g.rec.Tasks = append(g.rec.Tasks, newTask(taskLeave))
		return true, c.warn(tx, g.rec.ID, unknownLeft)
	case m.Said:
		return false, nil
	}
	m.Said = true
	return false, c.warn(tx, g.rec.ID, unknownSentence)
}

const (
	unknownSentence = "somebody in this group is not identified, and nobody who was asked has said who it is: nothing is sent until then"
	unknownLost     = "somebody in this group is not identified, and nobody has said for a week who it is"
	unknownLeft     = unknownLost + ": the group is left"
)

// askMissing asks some identified members, chosen at random, for the link keys that this client lacks. When none is missing that is over.
func (c *Client) askMissing(g *group) error {
	var missing, known []uint32
	for _, i := range g.indices() {
		switch r := g.rec.Leaves[i]; {
		case i == g.mls.OwnIndex():
		case r.User != "":
			known = append(known, i)
		case r.nameless():
			missing = append(missing, i)
		}
	}
	if len(missing) == 0 {
		epoch := g.mls.Epoch()
		return c.change(g, func(Tx) error {
			if g.identified() {
				g.rec.Missing = nil
			} else {
				g.rec.Missing.AskedIn, g.rec.Missing.AskedAt = &epoch, c.now().Unix()
			}
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
		m := g.rec.Missing
		first := m.AskedIn == nil
		m.AskedIn, m.AskedAt, m.Asked = &epoch, c.now().Unix(), m.Asked+1
		if over, err := c.unknown(tx, g); over || err != nil {
			return err
		}
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

// receiveAsk notes which link keys a leaf lacks. Only one that is identified is answered (duty): this client may itself be about to learn who it is.
func (c *Client) receiveAsk(g *group, leaf uint32, from *leafRecord, at int, sealed []byte) {
	if leaf == g.mls.OwnIndex() {
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

// answerMissing seals the link keys that a leaf asked for to it.
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

// receiveMissing learns the link keys that were asked for. A wrong one does not make the leaf at fault: it is the answerer's. It reports whether it was such an answer.
func (c *Client) receiveMissing(tx Tx, g *group, leaf uint32, sealed []byte) (bool, error) {
	if g.rec.Missing == nil {
		return false, nil
	}
	keys, err := mimimi.OpenLinks(mimimi.ToResynced, mimimi.InviteSecret{}, g.mls, leaf, sealed)
	if err != nil {
		return false, nil // of another epoch, and asked for again; or what one who comes in gets
	}
	err = c.learnAll(tx, g, keys)
	if g.identified() {
		g.rec.Missing = nil
	}
	return true, err
}

// learnAll takes note of link keys by leaf that a member told this client.
func (c *Client) learnAll(tx Tx, g *group, keys []*mimimi.LinkKey) error {
	for i, key := range keys {
		if key == nil {
			continue
		}
		if err := c.learn(tx, g, uint32(i), *key, timeZero, false); err != nil {
			return err
		}
	}
	return nil
}
