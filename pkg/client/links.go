package client

import (
	"math/rand/v2"
	"slices"
	"time"

	"mimimi.example/pkg/mimimi"
)

// timeZero makes identify judge a certificate at the start of the leaf's week, as one does who comes later (§3).
var timeZero time.Time

// showLink posts the own link, sealed to the inviter's leaves, in the present epoch: it is shown once in each epoch until an answer came, since what is
// sealed is bound to its epoch (§7). Whom the answer leaves out is asked for (missing.go): each showing makes somebody commit.
func (c *Client) showLink(g *group) error {
	j := g.rec.Join
	secret, err := j.secret()
	if err != nil {
		return err
	}
	links := new(mimimi.SealedLinks)
	if len(j.Inviters) > maxShown {
		rand.Shuffle(len(j.Inviters), func(a, b int) { j.Inviters[a], j.Inviters[b] = j.Inviters[b], j.Inviters[a] })
	}
	for _, i := range j.Inviters {
		if len(links.Receivers) == maxShown {
			break
		}
		node, ok := g.mls.Public().Member(i)
		r := g.rec.Leaves[i]
		if !ok || r == nil || r.User == "" {
			continue
		}
		sealed, err := mimimi.SealLinks(mimimi.FromJoiner, secret, g.id, g.mls.Epoch(), g.mls.OwnIndex(), i, node.EncryptionKey(),
			[]*mimimi.LinkKey{&g.own.linkKey})
		if err != nil {
			return err
		}
		links.Receivers, links.Sealed = append(links.Receivers, i), append(links.Sealed, sealed)
	}
	epoch := g.mls.Epoch()
	return c.change(g, func(tx Tx) error {
		j.ShownIn = &epoch
		if len(links.Receivers) == 0 {
			return c.warn(tx, g.rec.ID, "the inviter has left the group: nobody can let you in")
		}
		g.post(&outgoing{Type: mimimi.EnvelopeLinkFromJoiner, Body: links.Marshal(), OnlyIn: &epoch})
		return nil
	})
}

// receiveJoinerLink opens the link that an external joiner sealed to the own leaf, under whichever open invitation, and identifies the joiner by it.
// It then waits for an answer, also if it is identified already: the joiner may have missed the last one.
func (c *Client) receiveJoinerLink(tx Tx, g *group, leaf uint32, from *leafRecord, body []byte) error {
	links, err := mimimi.ParseSealedLinks(body)
	if err != nil || from == nil {
		return nil
	}
	at := slices.Index(links.Receivers, g.mls.OwnIndex())
	if at < 0 {
		return nil
	}
	for n := range g.rec.Invitations {
		inv := &g.rec.Invitations[n]
		if inv.Revoked {
			continue
		}
		secret, err := mimimi.InviteSecretFrom(inv.Secret)
		if err != nil {
			return errDamagedGroup
		}
		keys, err := mimimi.OpenLinks(mimimi.FromJoiner, secret, g.mls, leaf, links.Sealed[at])
		if err != nil || len(keys) != 1 || keys[0] == nil {
			continue
		}
		left, err := inv.left()
		if err != nil {
			return err
		}
		from.Shown = true
		if from.Secret == nil {
			if left == 0 {
				return nil // the hub let in more than it lets in
			}
			inv.Used++
		}
		from.Secret, from.Answer = inv.Secret, true
		from.AnswerAt = c.now().Add(max(g.ownTurn(c.account.rec.User), turnAt(at))).UnixNano()
		if err := c.learn(tx, g, leaf, *keys[0], timeOf(from.Entered), true); err != nil {
			return err
		}
		if g.rec.Peer != "" && from.User != "" && from.User != g.rec.Peer && from.User != c.account.rec.User {
			// Somebody else came by the secret of a connection request.
			from.Bad, from.User, from.Answer = true, "", false
		}
		return nil
	}
	c.receiveAsk(g, leaf, from, at, links.Sealed[at])
	return nil
}

// receiveLinks opens the members' links that one of them sealed to the own leaf. Those for another mean that it was answered.
func (c *Client) receiveLinks(tx Tx, g *group, leaf uint32, from *leafRecord, body []byte) error {
	if from == nil || from.User == "" {
		return nil
	}
	links, err := mimimi.ParseSealedLinks(body)
	if err != nil {
		return nil
	}
	for _, i := range links.Receivers {
		if r := g.rec.Leaves[i]; r != nil {
			r.Asked = nil
		}
	}
	at := slices.Index(links.Receivers, g.mls.OwnIndex())
	if at < 0 {
		return nil
	}
	if told, err := c.receiveMissing(tx, g, leaf, links.Sealed[at]); told || err != nil {
		return err
	}
	j := g.rec.Join
	if j == nil || !j.Entered {
		return nil
	}
	secret, err := j.secret()
	if err != nil {
		return err
	}
	keys, err := mimimi.OpenLinks(mimimi.ToJoiner, secret, g.mls, leaf, links.Sealed[at])
	if err != nil {
		return nil // of another epoch: the own link is shown again, and answered again
	}
	j.Answered = true
	if err := c.learnAll(tx, g, keys); err != nil {
		return err
	}
	c.lacks(g)
	return c.entered(tx, g)
}

// answer lets a joiner in that is identified, while every other leaf is: it tells the members the joiner's link, and the joiner theirs, and then
// commits. In this order: no member may see the joiner act before it knows who that is.
func (c *Client) answer(g *group, leaf uint32) error {
	r := g.rec.Leaves[leaf]
	node, ok := g.mls.Public().Member(leaf)
	secret, err := mimimi.InviteSecretFrom(r.Secret)
	if err != nil || !ok {
		return errDamagedGroup
	}
	key, err := mimimi.LinkKeyFrom(r.LinkKey)
	if err != nil {
		return errDamagedGroup
	}
	sealed, err := mimimi.SealLinks(mimimi.ToJoiner, secret, g.id, g.mls.Epoch(), g.mls.OwnIndex(), leaf, node.EncryptionKey(), g.linkKeys())
	if err != nil {
		return err
	}
	epoch := g.mls.Epoch()
	return c.change(g, func(Tx) error {
		g.post(&outgoing{Type: mimimi.EnvelopeJoinerLink, Body: (&mimimi.JoinerLink{Leaf: leaf, Key: key}).Marshal(), OnlyIn: &epoch})
		links := &mimimi.SealedLinks{Receivers: []uint32{leaf}, Sealed: [][]byte{sealed}}
		g.post(&outgoing{Type: mimimi.EnvelopeLinksToJoiner, Body: links.Marshal(), OnlyIn: &epoch})
		g.tellInvitations()
		if err := g.tellBans(); err != nil {
			return err
		}
		if !g.hasTask(taskCommit) {
			g.rec.Tasks = append(g.rec.Tasks, newTask(taskCommit))
		}
		r.Answer = false
		return nil
	})
}

// ownTurn is how long this client lets the user's clients before it in the group answer a joiner: all of them were shown the joiner's link.
func (g *group) ownTurn(user string) time.Duration {
	n := slices.Index(g.leavesOf(user), g.mls.OwnIndex())
	return time.Duration(max(0, n)) * turnDelay
}
