package client

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"mimimi.example/pkg/mimimi"
)

// A user's connection key changes in two steps, so that no contact ever gets KeyPackages that it cannot identify (docs/protocol.md §5). First each contact is told
// the next key in the connection group, at a random time within Config.Spread; the key in use stays, and a contact keeps both. When every contact knows
// the next key, it takes the place of the one in use, and KeyPackages that were made under that are withdrawn and made anew. All of the user's clients read the
// connection groups, so each of them sees who was told and comes to the same end. The client that began a change tells the contacts; what it leaves untold each of the others
// tells at a turn of its own, so that a change does not wait for a client that is away.

// rotation says what a change of the connection key brings with it.
type rotation struct {
	tokens bool // also change all tokens: a client that knew them is gone
	now    bool // tell contacts at once, not spread over time
}

// rotateKey begins a change of the connection key, in the transaction that stores what it is for. If one is under way its key is replaced by a third one: whoever the
// change is for may know it.
func (c *Client) rotateKey(tx Tx, how rotation) error {
	key := mimimi.NewConnectionKey()
	c.tap(TapConnectionKey, key.Bytes())
	err := c.shareSecrets(tx, func(r *accountRecord) {
		r.NextNumber = max(r.KeyNumber, r.NextNumber) + 1
		r.NextKey = key.Bytes()
		r.RotateAt, r.SwitchAt = c.nextRotation(), c.lastSwitch()
	})
	if err != nil {
		return err
	}
	at := c.now()
	if !how.now {
		at = at.Add(c.spread())
	}
	return c.eachContact(tx, func(k *contactRecord) bool {
		tell := k.State == ContactConnected
		if tell {
			k.TellAt = at.Unix()
		}
		return how.tokens && k.newTokens(at) || tell
	})
}

// newTokens has a contact's token replaced at a time, and theirs, both of which a removed client knows. One that is not connected yet gets its new one once it is.
func (k *contactRecord) newTokens(at time.Time) bool {
	switch k.State {
	case ContactDisconnecting:
		return false
	case ContactConnected:
		k.AskToken, k.TellAt = true, at.Unix()
	default:
		k.TellAt = 0
	}
	k.GiveToken = true
	return true
}

// tellLater is when this client tells a contact what another of the user's clients is to tell, if that does not come to it: soon where what a removed client knew is replaced.
func (c *Client) tellLater(soon bool) int64 {
	wait, turn := c.spread(), tellTurn
	if soon {
		wait, turn = 0, rotateTurn
	}
	return c.now().Add(wait + time.Duration(c.rank()+1)*turn).Unix()
}

// replaceTokens takes note that a client which knew them is gone: every contact is to get a new token and is asked for one. The client at which it was removed does so first, and
// the others in turn if it does not come to it.
func (c *Client) replaceTokens(tx Tx) error {
	at := c.now().Add(removalTurn + time.Duration(c.rank()+1)*rotateTurn)
	return c.eachContact(tx, func(k *contactRecord) bool { return k.newTokens(at) })
}

// nextRotation chooses when the key is changed next: a month after it was due last, give or take some days, so that users' changes do not fall together; or a month
// from now, if it was not due now.
func (c *Client) nextRotation() int64 {
	from, now := timeOf(c.account.rec.RotateAt), c.now()
	if from.After(now) || from.Before(now.Add(-rotateEvery/2)) {
		from = now
	}
	return from.Add(rotateEvery - rotateAround/2 + rand.N(rotateAround)).Unix()
}

// takeKey takes note of a later key of the own user, from another of its clients, which tells the contacts. This one does so later where that one does not come to it.
func (c *Client) takeKey(tx Tx, number uint64, key []byte) error {
	r := c.account.rec
	if _, known := r.newestKey(); farAhead(number, known) {
		return c.warn(tx, "", unreadSync)
	}
	if !later(number, key, r.KeyNumber, r.ConnectionKey) || r.NextKey != nil && !later(number, key, r.NextNumber, r.NextKey) {
		return nil
	}
	err := c.putAccount(tx, func(r *accountRecord) {
		r.NextNumber, r.NextKey, r.RotateAt, r.SwitchAt = number, key, c.nextRotation(), c.lastSwitch()
	})
	if err != nil {
		return err
	}
	soon := len(r.OldIndexes) > 0 // what a removed client knew is replaced
	return c.eachContact(tx, func(k *contactRecord) bool {
		if k.State != ContactConnected || k.Told >= number {
			return false
		}
		k.TellAt = c.tellLater(soon)
		return true
	})
}

// lastSwitch is how long a contact that cannot be told holds up a change that begins now.
func (c *Client) lastSwitch() int64 { return c.now().Add(max(0, c.cfg.Spread) + switchAfter).Unix() }

// later says whether one key comes after another: by number, and by its bytes if two clients of a user made one at the same time.
func later(number uint64, key []byte, than uint64, old []byte) bool {
	return number > than || number == than && bytes.Compare(key, old) > 0
}

// newestKey is the latest own key, with its number.
func (r *accountRecord) newestKey() ([]byte, uint64) {
	if r.NextKey != nil {
		return r.NextKey, r.NextNumber
	}
	return r.ConnectionKey, r.KeyNumber
}

// rotateIfDue begins the monthly change, at this client's turn among the user's, and ends one whose every contact was told.
func (c *Client) rotateIfDue() error {
	r := c.account.rec
	if r.RotateAt == 0 {
		return c.saveAccount(func(r *accountRecord) { r.RotateAt = c.nextRotation() })
	}
	if r.NextKey == nil && !c.now().Before(timeOf(r.RotateAt).Add(time.Duration(c.rank())*slowTurn)) {
		err := c.update(func(tx Tx) error {
			// The own alias, too, is registered again: the store keeps for a while only what shows no sign of life.
			return errors.Join(c.rotateKey(tx, rotation{}), c.putAccount(tx, func(r *accountRecord) { r.AliasMade = false }))
		})
		if err != nil {
			return err
		}
		r = c.account.rec
	}
	if r.NextKey == nil {
		return nil
	}
	told, err := c.allTold(r.NextNumber)
	if err != nil || !told && c.now().Unix() < r.SwitchAt {
		return err
	}
	return c.update(func(tx Tx) error {
		return errors.Join(dueStock(tx), c.putAccount(tx, func(r *accountRecord) {
			r.OldKey, r.ConnectionKey, r.KeyNumber = r.ConnectionKey, r.NextKey, r.NextNumber
			r.NextKey, r.NextNumber, r.SwitchAt = nil, 0, 0
		}))
	})
}

// allTold says whether every contact knows the own key of a number. One that cannot be told, because the connection group is over, does not count.
func (c *Client) allTold(number uint64) (bool, error) {
	contacts, err := list[contactRecord](c.store, bucketContacts)
	if err != nil {
		return false, err
	}
	for _, k := range contacts {
		if k.State != ContactConnected || k.Told >= number {
			continue
		}
		rec, found, err := get[groupRecord](c.store, bucketGroups, []byte(k.Group))
		if err != nil {
			return false, err
		}
		if found && rec.State != GroupOver {
			return false, nil
		}
	}
	return true, nil
}

// keepContact does what is owed to a connected contact: it is told of a later key or a new token, and tokens that it had are revoked.
func (c *Client) keepContact(ctx context.Context, k *contactRecord) error {
	if err := c.revokeReplaced(ctx, k); err != nil {
		return err
	}
	if !c.owes(k) || c.account.rec.CutOff || c.now().Unix() < k.TellAt {
		return nil
	}
	if k.TellAt == 0 && c.rank() > 0 { // the client that leads goes first
		_, err := c.changeContact(k.User, func(_ Tx, k *contactRecord) error {
			k.TellAt = c.now().Add(time.Duration(c.rank()) * rotateTurn).Unix()
			return nil
		})
		return err
	}
	g, err := c.group(k.Group)
	if err != nil || g.rec.State != GroupActive || g.saysRotation() {
		return nil // what is on its way is sent by work; a group that is over tells nobody anything
	}
	if k.GiveToken || len(k.Spare) > 0 {
		k, err = c.makeNextToken(ctx, k)
	} else {
		err = c.renewAlias(ctx, k)
	}
	if err != nil {
		return err
	}
	key, number := c.account.rec.newestKey()
	r := &mimimi.Rotation{Number: number, TokenWanted: k.AskToken}
	if r.Key, err = mimimi.ConnectionKeyFrom(key); err != nil {
		return ErrStore
	}
	if k.NextToken != nil {
		token, err := mimimi.ConnectionTokenFrom(k.NextToken)
		if err != nil {
			return ErrStore
		}
		r.Token = &token
	}
	if err := c.change(g, func(Tx) error { g.post(&outgoing{Type: mimimi.EnvelopeRotation, Body: r.Marshal()}); return nil }); err != nil {
		return err
	}
	return c.work(ctx, g.rec.ID)
}

// owes says whether a contact is to be told something.
func (c *Client) owes(k *contactRecord) bool {
	_, number := c.account.rec.newestKey()
	return k.Told < number || k.GiveToken || k.AskToken || len(k.Spare) > 0
}

// saysRotation says whether a rotation waits to be sent.
func (g *group) saysRotation() bool {
	return slices.ContainsFunc(g.rec.Outgoing, func(o *outgoing) bool { return o.Type == mimimi.EnvelopeRotation })
}

// renewAlias registers a contact's token again, which the store keeps for a while only without a sign of life (§8).
func (c *Client) renewAlias(ctx context.Context, k *contactRecord) error {
	token, err := mimimi.ConnectionTokenFrom(k.OwnToken)
	if err != nil {
		return ErrStore
	}
	if err := c.registerAlias(ctx, token); !isFinal(err) {
		return err
	}
	return nil // the store refuses this token for good: the contact asks for another when it needs one
}

// makeNextToken makes a contact's new token and registers it, before it is handed out (§5).
func (c *Client) makeNextToken(ctx context.Context, k *contactRecord) (*contactRecord, error) {
	var err error
	if k.NextToken == nil {
		token := mimimi.NewConnectionToken()
		c.tap(TapConnectionToken, token.Bytes())
		if k, err = c.changeContact(k.User, func(_ Tx, k *contactRecord) error { k.NextToken = token.Bytes(); return nil }); err != nil {
			return k, err
		}
	}
	if k.NextMade {
		return k, nil
	}
	token, err := mimimi.ConnectionTokenFrom(k.NextToken)
	if err != nil {
		return k, ErrStore
	}
	if err := c.registerAlias(ctx, token); err != nil {
		return k, err
	}
	return c.changeContact(k.User, func(_ Tx, k *contactRecord) error { k.NextMade = true; return nil })
}

// revokeReplaced revokes the tokens that a contact does not need any more.
func (c *Client) revokeReplaced(ctx context.Context, k *contactRecord) error {
	for _, b := range k.Revoke {
		token, err := mimimi.ConnectionTokenFrom(b)
		if err != nil {
			return ErrStore
		}
		if err := c.revokeAlias(ctx, token); err != nil {
			return err
		}
	}
	if len(k.Revoke) == 0 {
		return nil
	}
	_, err := c.changeContact(k.User, func(_ Tx, k *contactRecord) error { k.Revoke = nil; return nil })
	return err
}

// rotationSent takes note that an own rotation, of this client or another of the user's, has its place in the connection group.
func (c *Client) rotationSent(tx Tx, g *group, body []byte) error {
	r, err := mimimi.ParseRotation(body)
	if err != nil || g.rec.Peer == "" {
		return nil
	}
	if err := c.takeKey(tx, r.Number, r.Key.Bytes()); err != nil {
		return err
	}
	k, found, err := read[contactRecord](tx, bucketContacts, []byte(g.rec.Peer))
	if err != nil || !found || k.State == ContactDisconnecting {
		return err
	}
	k.Told = max(k.Told, r.Number)
	if r.TokenWanted {
		k.AskToken = false
	}
	if r.Token != nil {
		if !bytes.Equal(k.OwnToken, r.Token.Bytes()) {
			k.Revoke = append(k.Revoke, k.OwnToken)
		}
		if k.NextMade && !bytes.Equal(k.NextToken, r.Token.Bytes()) && !g.saysRotation() {
			k.Revoke = append(k.Revoke, k.NextToken) // another own client was faster with its own
		}
		k.Revoke = append(k.Revoke, k.Spare...)
		k.OwnToken, k.AliasMade, k.NextToken, k.NextMade, k.GiveToken, k.Spare = r.Token.Bytes(), true, nil, false, false, nil
		k.OwnTokens++
	}
	return c.putTold(tx, g, k)
}

// putTold stores what was said in a connection group. All of the user's clients see it there, but those that are not in the group, or have left it: they are told.
func (c *Client) putTold(tx Tx, g *group, k *contactRecord) error {
	if err := write(tx, bucketContacts, []byte(k.User), k); err != nil {
		return err
	}
	there := slices.DeleteFunc(g.leavesOf(c.account.rec.User), func(i uint32) bool { return g.rec.Leaves[i].Leaving })
	if len(there) >= len(c.own) {
		return nil
	}
	return c.tellLink(tx, g)
}

// receiveRotation takes note of what a contact, or another of the user's own clients, says in a connection group.
func (c *Client) receiveRotation(tx Tx, g *group, from *leafRecord, body []byte) error {
	if from.User == c.account.rec.User {
		return c.rotationSent(tx, g, body)
	}
	r, err := mimimi.ParseRotation(body)
	if err != nil || g.rec.Peer == "" || from.User != g.rec.Peer {
		return nil
	}
	k, found, err := read[contactRecord](tx, bucketContacts, []byte(g.rec.Peer))
	if err != nil || !found || k.State == ContactDisconnecting || len(k.Key) == 0 {
		return err
	}
	if farAhead(r.Number, k.Number) {
		return c.warn(tx, "", "a contact's change of keys could not be read")
	}
	c.tap(TapConnectionKey, r.Key.Bytes())
	k.takeKey(r.Number, r.Key.Bytes())
	if r.Token != nil {
		c.tap(TapConnectionToken, r.Token.Bytes())
		k.Token = r.Token.Bytes()
		k.Tokens++
	}
	if r.TokenWanted {
		k.GiveToken, k.TellAt = true, c.now().Add(time.Duration(c.rank())*tellTurn).Unix()
	}
	return c.putTold(tx, g, k)
}

// eachContact changes those contacts for which change reports that it did.
func (c *Client) eachContact(tx Tx, change func(k *contactRecord) bool) error {
	var changed []*contactRecord
	err := each(tx, bucketContacts, func(_ []byte, k *contactRecord) error {
		if change(k) {
			changed = append(changed, k)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range changed {
		if err := write(tx, bucketContacts, []byte(k.User), k); err != nil {
			return err
		}
	}
	return nil
}

// keyOfLeaf returns which of the own keys the own leaf in a group was made under, and its number: whoever is to identify the leaf by it needs that one.
func (c *Client) keyOfLeaf(g *group) (mimimi.ConnectionKey, uint64, error) {
	r := c.account.rec
	cred, err := mimimi.ParsePseudonymousCredential(g.mls.OwnLeaf().Credential())
	if err != nil {
		return mimimi.ConnectionKey{}, 0, errDamagedGroup
	}
	for _, k := range []struct {
		key    []byte
		number uint64
	}{{r.OldKey, max(1, r.KeyNumber) - 1}, {r.NextKey, r.NextNumber}} {
		if key, err := mimimi.ConnectionKeyFrom(k.key); err == nil && cred.LinkKey(key).Equal(g.own.linkKey) {
			return key, k.number, nil
		}
	}
	return c.account.connectionKey, r.KeyNumber, nil
}

// keys returns the keys under which a contact's KeyPackages may be, the latest first.
func (k *contactRecord) keys() ([]mimimi.ConnectionKey, error) {
	var all []mimimi.ConnectionKey
	for _, b := range append([][]byte{k.Key}, k.OldKeys...) {
		key, err := mimimi.ConnectionKeyFrom(b)
		if err != nil {
			return nil, ErrStore
		}
		all = append(all, key)
	}
	return all, nil
}

const (
	// rotateEvery is how often the connection key changes by itself (§5: monthly), rotateAround over how many days around that time it happens.
	rotateEvery  = 30 * 24 * time.Hour
	rotateAround = 4 * 24 * time.Hour
	// switchAfter is how long after the spread a contact whose connection group's hub is down holds up a change: until then a contact that was cut off still knows the key of new KeyPackages.
	switchAfter = 7 * 24 * time.Hour
	// maxOldKeys bounds how many of a contact's former keys are kept: those of changes that came so fast that KeyPackages under the first key are still there.
	maxOldKeys = 4
)
