package client

import (
	"bytes"
	"errors"
	"slices"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

// What the clients of a user tell each other of a contact (protocol.md §5). What one of them has of a contact with a higher number holds. While both have it as connected,
// each sees for itself what is said in the connection group, and may be behind: keys and tokens go by how many there were, and none is taken back.

// sharedContact is a contact as it is told to the other clients.
func (c *Client) sharedContact(tx Tx, k *contactRecord) (*mimimiv1.SharedContact, error) {
	s := &mimimiv1.SharedContact{Number: k.Version, User: k.User, State: string(k.State), Key: k.Key, Token: k.Token, OwnToken: k.OwnToken,
		GroupId: k.SharedGroup, KeyNumber: k.Number, OldKeys: k.OldKeys, Told: k.Told, TokenNumber: k.Tokens, OwnNumber: k.OwnTokens, Spare: k.Spare}
	if k.Group == "" {
		return s, nil
	}
	g, found, err := read[groupRecord](tx, bucketGroups, []byte(k.Group))
	if found {
		s.GroupId = g.GroupID
	}
	return s, err
}

// shareContact stores a contact that changed and tells the other clients.
func (c *Client) shareContact(tx Tx, k *contactRecord) error {
	gone, _, err := read[goneRecord](tx, bucketGone, []byte(k.User))
	if err != nil {
		return err
	}
	if gone != nil {
		k.Version = max(k.Version, gone.Number)
	}
	k.Version++
	if err := write(tx, bucketContacts, []byte(k.User), k); err != nil {
		return err
	}
	s, err := c.sharedContact(tx, k)
	if err != nil {
		return err
	}
	return c.tellDevices(tx, &mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Contact{Contact: s}})
}

// goneRecord is the number with which a contact ended: what is told of it with a lower one comes late.
type goneRecord struct {
	Number uint64 `json:"number"`
}

// shareGone tells the other clients that a contact ended.
func (c *Client) shareGone(tx Tx, k *contactRecord) error {
	s := &mimimiv1.SharedContact{Number: k.Version + 1, User: k.User, Gone: true}
	return errors.Join(
		write(tx, bucketGone, []byte(k.User), goneRecord{Number: s.Number}),
		c.tellDevices(tx, &mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Contact{Contact: s}}),
	)
}

// validContact says whether what another own client says of a contact can be taken over.
func validContact(s *mimimiv1.SharedContact) bool {
	if s.Gone {
		return true
	}
	if _, err := mimimi.ConnectionTokenFrom(s.OwnToken); err != nil || len(s.OldKeys) > maxOldKeys || len(s.Spare) > maxSpare {
		return false
	}
	if _, err := mimimi.ParseGroupID(s.GroupId); err != nil && len(s.GroupId) > 0 {
		return false
	}
	for _, b := range s.OldKeys {
		if _, err := mimimi.ConnectionKeyFrom(b); err != nil {
			return false
		}
	}
	for _, b := range s.Spare {
		if _, err := mimimi.ConnectionTokenFrom(b); err != nil {
			return false
		}
	}
	_, err1 := mimimi.ConnectionKeyFrom(s.Key)
	_, err2 := mimimi.ConnectionTokenFrom(s.Token)
	switch ContactState(s.State) {
	case ContactRequested: // theirs are not known yet
		return (err1 == nil || len(s.Key) == 0) && (err2 == nil || len(s.Token) == 0)
	case ContactAccepting, ContactConnected:
		return err1 == nil && err2 == nil
	}
	return false
}

// applyContact takes over what another own client says of a contact. One that this client is just completing itself is taken over only from a later number.
func (c *Client) applyContact(tx Tx, s *mimimiv1.SharedContact) error {
	user, err := mimimi.ParseUser(s.User)
	if err != nil || user == c.account.user || !validContact(s) {
		return c.warn(tx, "", unreadSync)
	}
	k, found, err := read[contactRecord](tx, bucketContacts, []byte(s.User))
	if err != nil {
		return err
	}
	gone, dead, err := read[goneRecord](tx, bucketGone, []byte(s.User))
	if err != nil || dead && s.Number <= gone.Number {
		return err
	}
	if dead && farAhead(s.Number, gone.Number) || found && (farAhead(s.Number, k.Version) || farAhead(s.KeyNumber, k.Number) ||
		farAhead(s.TokenNumber, k.Tokens) || farAhead(s.OwnNumber, k.OwnTokens)) {
		return c.warn(tx, "", unreadSync)
	}
	if found {
		is, err := c.sharedContact(tx, k)
		if err != nil {
			return err
		}
		connected := k.State == ContactConnected && s.State == string(ContactConnected)
		asking := k.Ask != nil && !s.Gone && s.State != string(ContactConnected)
		accepting := k.State == ContactAccepting && k.Group != "" && s.Number == k.Version
		switch {
		case connected:
			c.joinContact(k, s)
			if s.Number >= k.Version {
				if err := c.moveLink(tx, k, s.GroupId); err != nil {
					return err
				}
			}
			k.Version = max(k.Version, s.Number)
			return write(tx, bucketContacts, []byte(k.User), k)
		case !newer(s.Number, s, k.Version, is) || asking || accepting:
			if !s.Gone && s.Number+1 >= k.Version { // the contact may have what the other client gave it
				c.noteSpare(k, append(slices.Clone(s.Spare), s.OwnToken)...)
				return write(tx, bucketContacts, []byte(k.User), k)
			}
			return nil
		}
	}
	if s.Gone {
		return c.applyGone(tx, k, s)
	}
	if dead {
		if err := tx.Delete(bucketGone, []byte(s.User)); err != nil {
			return err
		}
	}
	return c.mergeContact(tx, k, s)
}

// joinContact takes over what another own client has seen of a connection and this one has not.
func (c *Client) joinContact(k *contactRecord, s *mimimiv1.SharedContact) {
	k.Told = max(k.Told, s.Told)
	k.takeKey(s.KeyNumber, s.Key)
	if s.TokenNumber > k.Tokens || s.TokenNumber == k.Tokens && bytes.Compare(s.Token, k.Token) > 0 {
		k.Token, k.Tokens = s.Token, s.TokenNumber
	}
	switch {
	case s.OwnNumber > k.OwnTokens:
		// The contact was given a later one, so it needs none of those that it may have had before, those that the other client did not know of included.
		k.Revoke = append(append(k.Revoke, k.OwnToken), k.Spare...)
		k.OwnToken, k.OwnTokens, k.AliasMade, k.Spare = s.OwnToken, s.OwnNumber, true, nil
		c.noteSpare(k, s.Spare...)
	case s.OwnNumber == k.OwnTokens && bytes.Compare(s.OwnToken, k.OwnToken) > 0:
		had := k.OwnToken
		k.OwnToken, k.AliasMade = s.OwnToken, true
		c.noteSpare(k, append(slices.Clone(s.Spare), had)...)
	case s.OwnNumber == k.OwnTokens:
		c.noteSpare(k, append(slices.Clone(s.Spare), s.OwnToken)...)
	}
	own := func(b []byte) bool { return bytes.Equal(b, k.OwnToken) }
	k.Spare, k.Revoke = slices.DeleteFunc(k.Spare, own), slices.DeleteFunc(k.Revoke, own)
}

// takeKey takes note of a contact's key. The one that is not the latest is kept with those before.
func (k *contactRecord) takeKey(number uint64, key []byte) {
	same := func(b []byte) bool { return bytes.Equal(b, key) }
	switch {
	case same(k.Key):
		k.Number = max(k.Number, number)
		return
	case later(number, key, k.Number, k.Key):
		key, k.Key, k.Number = k.Key, key, number
	}
	if len(key) > 0 && !slices.ContainsFunc(k.OldKeys, same) {
		k.OldKeys = append([][]byte{key}, k.OldKeys...)
		k.OldKeys = k.OldKeys[:min(len(k.OldKeys), maxOldKeys)]
	}
}

// addSpare takes note of tokens that a contact may have beside the own one.
func (k *contactRecord) addSpare(tokens ...[]byte) {
	for _, t := range tokens {
		same := func(b []byte) bool { return bytes.Equal(b, t) }
		if len(t) > 0 && !same(k.OwnToken) && !slices.ContainsFunc(k.Spare, same) && !slices.ContainsFunc(k.Revoke, same) && len(k.Spare) < maxSpare {
			k.Spare = append(k.Spare, t)
		}
	}
}

// noteSpare is addSpare, after which the contact is given another token by the first of the user's clients, or a later one after a turn; all those before it are revoked then.
func (c *Client) noteSpare(k *contactRecord, tokens ...[]byte) {
	before := len(k.Spare)
	if k.addSpare(tokens...); len(k.Spare) > before {
		k.TellAt = c.now().Add(time.Duration(c.rank()) * tellTurn).Unix()
	}
}

// applyGone forgets a contact that ended on another own client. k is what this client had, nil if nothing.
func (c *Client) applyGone(tx Tx, k *contactRecord, s *mimimiv1.SharedContact) error {
	if err := write(tx, bucketGone, []byte(s.User), goneRecord{Number: s.Number}); err != nil || k == nil || k.State == ContactDisconnecting {
		return err
	}
	if k.Group != "" {
		g, err := c.groupIn(tx, k.Group)
		switch {
		case errors.Is(err, ErrUnknownGroup) || errors.Is(err, errDamagedGroup):
		case err != nil:
			return err
		default:
			if err := c.leaveContact(tx, g); err != nil {
				return err
			}
		}
	}
	// What this client registered for the contact itself, it revokes itself.
	next := &contactRecord{User: k.User, State: ContactDisconnecting, Revoke: k.Revoke, Version: s.Number}
	return errors.Join(write(tx, bucketContacts, []byte(k.User), next), c.addEvent(tx, eventRecord{Kind: EventDisconnected, User: k.User}))
}

// mergeContact stores a contact as another own client has it. k is what this client had, nil if nothing.
func (c *Client) mergeContact(tx Tx, k *contactRecord, s *mimimiv1.SharedContact) error {
	next := &contactRecord{User: s.User}
	switch {
	case k != nil && k.State != ContactDisconnecting:
		*next = *k
	case k != nil:
		next.Revoke = k.Revoke
	}
	was := next.State
	if next.Ask != nil { // two clients asked at once, and the other's request was accepted
		next.Ask = nil
		if g, err := c.groupIn(tx, next.Group); err == nil && !bytes.Equal(g.rec.GroupID, s.GroupId) {
			if err := c.takeBack(tx, g); err != nil {
				return err
			}
		}
	}
	if state := ContactState(s.State); state == ContactAccepting || state == ContactRequested {
		next.Since = c.now().Unix()
	}
	next.Retry = next.Retry && ContactState(s.State) == ContactAccepting
	if was == "" {
		next.TellAt = c.tellLater(false)
		next.Key, next.Number, next.OldKeys, next.Token, next.Tokens = s.Key, s.KeyNumber, s.OldKeys, s.Token, s.TokenNumber
		next.OwnToken, next.OwnTokens, next.AliasMade, next.Spare = s.OwnToken, s.OwnNumber, true, s.Spare
	}
	c.joinContact(next, s)
	next.State, next.Version, next.SharedGroup = ContactState(s.State), s.Number, s.GroupId
	if err := c.moveLink(tx, next, s.GroupId); err != nil {
		return err
	}
	c.tap(TapUser, []byte(next.User))
	c.tap(TapConnectionKey, next.Key)
	c.tap(TapConnectionToken, next.Token, next.OwnToken)
	if next.State == ContactConnected {
		next.Before = nil
	}
	if err := write(tx, bucketContacts, []byte(next.User), next); err != nil || was == ContactConnected || next.State != ContactConnected {
		return err
	}
	return c.addEvent(tx, eventRecord{Kind: EventConnected, User: next.User})
}

// moveLink makes the group that another own client names the contact's connection group, unless this client knows that another one stays (keepOne).
func (c *Client) moveLink(tx Tx, k *contactRecord, id []byte) error {
	was, err := c.groupIn(tx, k.Group)
	if err != nil && !errors.Is(err, ErrUnknownGroup) && !errors.Is(err, errDamagedGroup) {
		return err
	}
	g, err := c.groupByIDIn(tx, id)
	if err != nil {
		return err
	}
	if g != nil && k.State == ContactConnected && g.rec.Join != nil && !g.rec.Join.Entered { // the other one came in first by the same request, and adds this one
		if err := errors.Join(c.over(tx, g, "", 0), c.putGroup(tx, g)); err != nil {
			return err
		}
	}
	alive := func(g *group) bool { return g != nil && g.member() && !g.rec.Idle && !g.rec.ending() }
	switch {
	case !alive(g): // this client is not in it yet
		k.SharedGroup = id
		if !alive(was) || !was.rec.Linked {
			k.Group = ""
		}
		return nil
	case k.State != ContactConnected:
		k.Group = g.rec.ID
		return nil
	}
	g.rec.Linked = true
	if k.Group, err = c.keepOne(tx, g); err != nil {
		return err
	}
	return c.putGroup(tx, g)
}

// connectionShared takes note that this client was brought into a connection group by another own one.
func (c *Client) connectionShared(tx Tx, g *group) error {
	k, found, err := read[contactRecord](tx, bucketContacts, []byte(g.rec.Peer))
	told := found && bytes.Equal(k.SharedGroup, g.rec.GroupID)
	if err != nil || !found || k.Group != "" && (!told || k.State != ContactConnected) || len(k.SharedGroup) > 0 && !told {
		return err
	}
	was := k.Group
	k.Group = g.rec.ID
	g.rec.Linked = g.rec.Linked || k.State == ContactConnected
	if was != "" { // this client has another one with the same user
		if k.Group, err = c.keepOne(tx, g); err != nil {
			return err
		}
	}
	c.noteFingerprints(g, k)
	return write(tx, bucketContacts, []byte(k.User), k)
}

// tellLink tells the other clients of the contact of a connection group once more, as this client has it.
func (c *Client) tellLink(tx Tx, g *group) error {
	k, found, err := read[contactRecord](tx, bucketContacts, []byte(g.rec.Peer))
	if err != nil || !found || k.State != ContactConnected {
		return err
	}
	s, err := c.sharedContact(tx, k)
	if err != nil {
		return err
	}
	return c.tellDevices(tx, &mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Contact{Contact: s}})
}

// peerChanged notes the contact's clients anew after a commit in the connection group: one may have come or gone.
func (c *Client) peerChanged(tx Tx, g *group) error {
	if !g.rec.PeerIn {
		return nil
	}
	k, found, err := read[contactRecord](tx, bucketContacts, []byte(g.rec.Peer))
	if err != nil || !found || k.Group != g.rec.ID || k.State != ContactConnected {
		return err
	}
	c.noteFingerprints(g, k)
	return write(tx, bucketContacts, []byte(k.User), k)
}

// noteFingerprints notes which clients the contact of a connection group has.
func (c *Client) noteFingerprints(g *group, k *contactRecord) {
	var all []string
	for _, i := range g.leavesOf(g.rec.Peer) {
		all = append(all, g.rec.Leaves[i].Fingerprint)
	}
	if len(all) > 0 {
		k.Fingerprints = all
	}
}
