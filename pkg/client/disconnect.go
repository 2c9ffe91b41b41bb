package client

import (
	"context"
	"errors"
	"time"

	"mimimi.example/pkg/mimimi"
)

// Disconnect ends the connection with user, or takes back an own request that waits for an answer (protocol.md §5). The user's token is revoked, so that nothing more of
// this user's KeyPackages can be claimed with it; what was known of the user is forgotten; the connection group is left; and the connection key changes, which all
// other contacts are told over Config.Spread. Groups that both are in stay as they are, and what the former contact knows of their leaves it goes on knowing.
//
// A nil error means that the token is revoked. After another one it is the next Sync that goes on with it; the contact is not connected any more
// either way. Errors: ErrNotConnected, also if it was disconnected before.
func (c *Client) Disconnect(ctx context.Context, user mimimi.User) error {
	return c.lockedFor(ctx, func() error {
		if err := c.complete(); err != nil {
			return err
		}
		var k *contactRecord
		err := c.update(func(tx Tx) error {
			var found bool
			var err error
			if k, found, err = read[contactRecord](tx, bucketContacts, []byte(user.Wire())); err != nil {
				return err
			}
			if !found {
				return ErrNotConnected
			}
			if k.State == ContactDisconnecting {
				return nil
			}
			k, err = c.endContact(tx, k)
			return err
		})
		if err != nil {
			return err
		}
		err = c.forget(ctx, k)
		_ = c.workAll(ctx) // what fails is the next Sync's
		return err
	})
}

// endContact makes a contact one that is to be forgotten, in one transaction with all that follows: the connection group is left, and if the contact knows the latest
// connection key, that changes. It returns the contact's new record.
func (c *Client) endContact(tx Tx, k *contactRecord) (*contactRecord, error) {
	g, err := c.groupIn(tx, k.Group)
	switch {
	case errors.Is(err, ErrUnknownGroup) || errors.Is(err, errDamagedGroup):
		g = nil
	case err != nil:
		return nil, err
	}
	_, number := c.account.rec.newestKey()
	knows := k.State == ContactConnected && (k.Told >= number || g != nil && g.saysRotation())
	if g != nil {
		if err := c.leaveContact(tx, g); err != nil {
			return nil, err
		}
	}
	if err := c.shareGone(tx, k); err != nil {
		return nil, err
	}
	k = &contactRecord{User: k.User, State: ContactDisconnecting, Revoke: append(k.tokens(), k.Spare...), Version: k.Version + 1}
	if err := write(tx, bucketContacts, []byte(k.User), k); err != nil || !knows {
		return k, err
	}
	return k, c.rotateKey(tx, rotation{})
}

// leaveContact leaves a connection group: by a proposal if somebody else is in it, else it simply ends.
func (c *Client) leaveContact(tx Tx, g *group) error {
	if g.rec.State == GroupOver || g.rec.State == GroupLeaving {
		return nil
	}
	g.rec.Outgoing, g.rec.Again = nil, nil
	if !g.member() || len(g.leavesOf(g.rec.Peer)) == 0 {
		return errors.Join(c.over(tx, g, leftSentence, 0), c.putGroup(tx, g))
	}
	if !g.hasTask(taskLeave) {
		g.rec.Tasks = append(g.rec.Tasks, newTask(taskLeave))
	}
	return c.putGroup(tx, g)
}

// tokens are all tokens of this user that a contact may hold, but the spare ones: the user's other clients may be about to complete the connection with those.
func (k *contactRecord) tokens() [][]byte {
	all := append([][]byte(nil), k.Revoke...)
	if k.AliasMade {
		all = append(all, k.OwnToken)
	}
	if k.NextMade {
		all = append(all, k.NextToken)
	}
	return all
}

// forget revokes what a former contact had, and then knows nothing of it any more.
func (c *Client) forget(ctx context.Context, k *contactRecord) error {
	if err := c.revokeReplaced(ctx, k); err != nil {
		return err
	}
	return c.update(func(tx Tx) error {
		now, found, err := read[contactRecord](tx, bucketContacts, []byte(k.User))
		if err != nil || !found || now.State != ContactDisconnecting {
			return err
		}
		return tx.Delete(bucketContacts, []byte(k.User))
	})
}

// expired says whether a connection that is not complete is given up: an own request that was not answered in time, or an accepted one that the other
// did not complete.
func (c *Client) expired(k *contactRecord) bool {
	switch k.State {
	case ContactRequested:
		if k.Ask == nil { // another own client asked, which may be gone
			return k.Since != 0 && !c.now().Before(timeOf(k.Since).Add(requestFor+removalTurn*time.Duration(1+c.rank())))
		}
		return !c.now().Before(timeOf(k.Ask.NotAfter))
	case ContactAccepting:
		return k.Since != 0 && !c.now().Before(timeOf(k.Since).Add(requestFor))
	}
	return false
}

const uncompleted = "a connection could not be completed: ask again"

// expire gives a connection up: the token is revoked, and the user may be asked again (§5). One that another of the user's clients completes is only not expected any more:
// that client may still come to it.
func (c *Client) expire(ctx context.Context, k *contactRecord) error {
	if k.Before != nil {
		return c.restore(k)
	}
	err := c.update(func(tx Tx) (err error) {
		if k.State == ContactAccepting && k.Group == "" && (!k.Retry || len(c.own) > 1) {
			revoke := k.Revoke
			if k.Retry { // the token is this client's
				revoke = k.tokens()
			}
			k = &contactRecord{User: k.User, State: ContactDisconnecting, Revoke: revoke, Version: k.Version}
			return write(tx, bucketContacts, []byte(k.User), k)
		}
		if k.State == ContactAccepting {
			err = c.warn(tx, "", uncompleted)
		}
		var eerr error
		k, eerr = c.endContact(tx, k)
		return errors.Join(err, eerr)
	})
	if err != nil {
		return err
	}
	return c.forget(ctx, k)
}

// checkPeer ends a connection whose other side has left the connection group with all its clients.
func (c *Client) checkPeer(tx Tx, g *group) error {
	if !g.rec.PeerIn || g.mls == nil || g.rec.State == GroupOver { // another own client may know of the connection's end before this one of its beginning
		return nil
	}
	for _, r := range g.rec.Leaves {
		if (r.User == g.rec.Peer || r.Was == g.rec.Peer) && !r.Leaving {
			return nil
		}
	}
	return c.peerGone(tx, g)
}

// peerGone ends a connection, if this group is its connection group. The contact may still know the connection key, so that changes too.
func (c *Client) peerGone(tx Tx, g *group) error {
	if g.rec.Peer == "" {
		return nil
	}
	k, found, err := read[contactRecord](tx, bucketContacts, []byte(g.rec.Peer))
	switch {
	case err != nil:
		return err
	case !found || k.Group != g.rec.ID || k.State == ContactAccepting:
		return c.over(tx, g, leftSentence, 0) // not the connection's group, or never to be
	case k.State != ContactConnected:
		return nil
	}
	if other, told, err := c.otherLink(tx, g); err != nil || other != "" || told != nil {
		// Their requests crossed, or there were two, and the contact keeps another group (keepOne), which this client has not completed yet.
		k.Group, k.SharedGroup = other, told
		return errors.Join(err, c.over(tx, g, "", 0), write(tx, bucketContacts, []byte(k.User), k))
	}
	if err := c.over(tx, g, leftSentence, 0); err != nil {
		return err
	}
	k.Group = "" // it is over already
	if !c.leads() {
		k.State, k.Told = ContactAccepting, 0 // every own client sees the contact go: the first of them changes the key, or each other one after a turn
		due := c.now().Add(time.Duration(c.rank()) * (tellTurn - slowTurn))
		if err := c.putAccount(tx, func(r *accountRecord) { r.RotateAt = min(r.RotateAt, due.Unix()) }); err != nil {
			return err
		}
	}
	if _, err := c.endContact(tx, k); err != nil {
		return err
	}
	return c.addEvent(tx, eventRecord{Kind: EventDisconnected, User: g.rec.Peer})
}

// isLost says whether a connection's group came to an end without a word, so that neither side can tell the other anything.
func (c *Client) isLost(k *contactRecord) bool {
	if k.State != ContactConnected {
		return false
	}
	g, err := c.group(k.Group)
	return errors.Is(err, ErrUnknownGroup) || err == nil && g.rec.State == GroupOver
}

// askContact reads what a contact said last in the connection group, and returns the contact's record.
func (c *Client) askContact(ctx context.Context, user mimimi.User, k *contactRecord) (*contactRecord, error) {
	g, err := c.group(k.Group)
	if err != nil || g.mls == nil || g.rec.State != GroupActive {
		return k, nil // nothing can be learned: the set stays what it is
	}
	if err := c.catchUp(ctx, g); err != nil && !isFinal(err) && !errors.Is(err, errLater) && !errors.Is(err, errWithheld) {
		return nil, err
	}
	return c.connected(user)
}

// groupIn is group within a transaction.
func (c *Client) groupIn(tx Tx, id string) (*group, error) {
	if g, ok := c.groups[id]; ok {
		return g, nil
	}
	g, err := loadGroup(tx, id)
	if err == nil {
		c.groups[id] = g
	}
	return g, err
}
