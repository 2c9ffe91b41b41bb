package client

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

// sharedGroupRecord is what another own client said of a group that this one may not be in yet.
type sharedGroupRecord struct {
	GroupID   []byte `json:"group_id"`
	Name      string `json:"name,omitempty"`
	Number    uint64 `json:"number,omitempty"` // of the label
	Pseudonym string `json:"pseudonym"`
	Peer      string `json:"peer,omitempty"`
	Left      int64  `json:"left,omitempty"` // when the user left it
	Due       int64  `json:"due"`            // when this client hands its KeyPackage to the others, if it is not in by then
	Handed    int64  `json:"handed,omitempty"`
	// Said says that another client was just adding this one; Lost is when this client lost the group. In both cases it may have a leaf there that it cannot use.
	Said bool  `json:"said,omitempty"`
	Lost int64 `json:"lost,omitempty"`
}

// encoded is a change in the one encoding by which two with one number are told apart.
func encoded(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil // a message of strings and numbers always encodes
	}
	return b
}

// newer says whether what came, with its number, takes the place of what is known with its own.
func newer(number uint64, came proto.Message, known uint64, is proto.Message) bool {
	return number > known || number == known && bytes.Compare(encoded(came), encoded(is)) > 0
}

// receiveSync handles a message of another own client, which has its place in the log of their group since at.
func (c *Client) receiveSync(tx Tx, g *group, from *leafRecord, body []byte, at int64) error {
	if !g.rec.Devices || from.User != c.account.rec.User || c.account.rec.Removed {
		return nil
	}
	s := new(mimimiv1.DeviceSync)
	if err := proto.Unmarshal(body, s); err != nil || len(s.Also) > maxChanges {
		return c.warn(tx, "", "a message of another device could not be read")
	}
	c.applied++
	if g.rec.TellAllAt != 0 && slices.ContainsFunc(s.Also, func(one *mimimiv1.DeviceSync) bool { return one.GetSecrets() != nil }) {
		g.rec.TellAll, g.rec.TellAllAt = false, 0 // another has told everything
	}
	for _, one := range append([]*mimimiv1.DeviceSync{s}, s.Also...) {
		if err := c.applySync(tx, g, from, one, at); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) applySync(tx Tx, g *group, from *leafRecord, s *mimimiv1.DeviceSync, at int64) error {
	switch ch := s.Change.(type) {
	case *mimimiv1.DeviceSync_Secrets:
		return c.applySecrets(tx, ch.Secrets)
	case *mimimiv1.DeviceSync_Contact:
		return c.applyContact(tx, ch.Contact)
	case *mimimiv1.DeviceSync_Request:
		return c.applyRequest(tx, ch.Request)
	case *mimimiv1.DeviceSync_Group:
		return c.applyGroup(tx, ch.Group)
	case *mimimiv1.DeviceSync_Packages:
		return c.applyPackages(tx, from.Client, ch.Packages, at)
	case *mimimiv1.DeviceSync_Ask:
		if ch.Ask && !g.rec.TellAll {
			g.rec.TellAll = true
			if turn := c.turnBut(from.Client); turn > 0 {
				g.rec.TellAllAt = c.now().Add(time.Duration(turn) * tellTurn).Unix()
			}
		}
	}
	return nil // a change of a later version
}

// turnBut is this client's place among the own ones but the given one.
func (c *Client) turnBut(client string) int {
	others := slices.DeleteFunc(slices.Clone(c.own), func(id string) bool { return id == client })
	return max(0, slices.Index(others, c.account.rec.Client))
}

// askDevices asks the user's other clients for everything that they share: the first of them tells it, or each later one after a turn.
func (c *Client) askDevices(tx Tx) error {
	return c.tellDevices(tx, &mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Ask{Ask: true}})
}

// noteRead takes note of the day on which the queue was read. What came to one that was not read for long may be gone, Welcomes too, so the other clients are asked.
func (c *Client) noteRead() error {
	last, now := int64(0), c.now()
	err := c.view(func(tx Tx) error {
		if b := tx.Get(bucketMeta, keyRead); len(b) == 8 {
			last = int64(fromBigEndian(b))
		}
		return nil
	})
	if err != nil || now.Sub(timeOf(last)) < readDay && !now.Before(timeOf(last)) {
		return err
	}
	return c.update(func(tx Tx) error {
		if err := tx.Put(bucketMeta, keyRead, bigEndian(uint64(now.Unix()))); err != nil || last == 0 || now.Sub(timeOf(last)) < queueKeeps {
			return err
		}
		return c.askDevices(tx)
	})
}

// sharedSecrets is the account as it is told to the other clients.
func (r *accountRecord) sharedSecrets() *mimimiv1.SharedSecrets {
	return &mimimiv1.SharedSecrets{Number: r.SecretsNumber, WriteKey: r.WriteKey, SelfToken: r.SelfToken, RecordKey: r.RecordKey, Record: r.Record,
		OldRecord: r.OldRecord, ConnectionKey: r.ConnectionKey, KeyNumber: r.KeyNumber, NextKey: r.NextKey, NextNumber: r.NextNumber, OldKey: r.OldKey}
}

// applySecrets takes over the user's secrets. Connection keys go by numbers of their own: what a contact was told of is never taken back. A client that was waiting for the
// secrets is linked now.
func (c *Client) applySecrets(tx Tx, s *mimimiv1.SharedSecrets) error {
	linked, stock := c.account.rec.Link != nil, false
	err := c.putAccount(tx, func(r *accountRecord) {
		if linked {
			r.ConnectionKey, r.KeyNumber, r.OldKey, r.NextKey, r.NextNumber = s.ConnectionKey, s.KeyNumber, nonEmpty(s.OldKey), nonEmpty(s.NextKey), s.NextNumber
			if r.NextKey != nil {
				r.SwitchAt = c.lastSwitch()
			}
		}
		if linked || newer(s.Number, s, r.SecretsNumber, r.sharedSecrets()) {
			if !bytes.Equal(r.WriteKey, s.WriteKey) {
				stock = true
				if !linked {
					r.leaveIndex(c.now())
				}
			}
			if !linked && !bytes.Equal(r.RecordKey, s.RecordKey) {
				r.OldRecordKey = r.RecordKey
			}
			r.AliasMade = linked || r.AliasMade && bytes.Equal(r.SelfToken, s.SelfToken) // each client sees to it that the token is good
			r.SecretsNumber, r.WriteKey, r.SelfToken, r.RecordKey = s.Number, s.WriteKey, s.SelfToken, s.RecordKey
			r.Record, r.OldRecord, r.Published = nonEmpty(s.Record), nonEmpty(s.OldRecord), true
		}
		r.Link = nil
	})
	if errors.Is(err, ErrStore) {
		return c.warn(tx, "", "another device sent secrets that cannot be read")
	}
	if err != nil {
		return err
	}
	c.tapAccount()
	if stock {
		if err := dueStock(tx); err != nil {
			return err
		}
	}
	if stock && !linked { // the client that did it may not come to it
		if err := c.replaceTokens(tx); err != nil {
			return err
		}
	}
	if linked {
		return c.addEvent(tx, eventRecord{Kind: EventLinked, Device: c.account.rec.Client})
	}
	if err := c.takeKey(tx, s.KeyNumber, s.ConnectionKey); err != nil || len(s.NextKey) == 0 {
		return err
	}
	return c.takeKey(tx, s.NextNumber, s.NextKey)
}

func nonEmpty(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// shareSecrets changes what belongs to the user and tells the other clients, in one transaction.
func (c *Client) shareSecrets(tx Tx, change func(r *accountRecord)) error {
	err := c.putAccount(tx, func(r *accountRecord) {
		change(r)
		r.SecretsNumber++
	})
	if err != nil {
		return err
	}
	return c.tellDevices(tx, &mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Secrets{Secrets: c.account.rec.sharedSecrets()}})
}

// sharedContact is a contact as it is told to the other clients.
func (c *Client) sharedContact(tx Tx, k *contactRecord) (*mimimiv1.SharedContact, error) {
	s := &mimimiv1.SharedContact{Number: k.Version, User: k.User, State: string(k.State), Key: k.Key, Token: k.Token, OwnToken: k.OwnToken,
		GroupId: k.SharedGroup, KeyNumber: k.Number, OldKeys: k.OldKeys, Told: k.Told}
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

// applyContact takes over what another own client says of a contact. One that this client is just completing itself is taken over only from a later number.
func (c *Client) applyContact(tx Tx, s *mimimiv1.SharedContact) error {
	user, err := mimimi.ParseUser(s.User)
	if err != nil || user == c.account.user {
		return nil
	}
	k, found, err := read[contactRecord](tx, bucketContacts, []byte(s.User))
	if err != nil {
		return err
	}
	gone, dead, err := read[goneRecord](tx, bucketGone, []byte(s.User))
	if err != nil || dead && s.Number <= gone.Number {
		return err
	}
	if found {
		is, err := c.sharedContact(tx, k)
		if err != nil {
			return err
		}
		asking := k.Ask != nil && !s.Gone && s.State != string(ContactConnected)
		accepting := k.State == ContactAccepting && k.Group != "" && s.Number == k.Version
		if !newer(s.Number, s, k.Version, is) || asking || accepting {
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
	if k != nil && k.State != ContactDisconnecting {
		*next = *k
	}
	was := next.State
	if !bytes.Equal(next.OwnToken, s.OwnToken) && next.AliasMade {
		next.Revoke = append(next.Revoke, next.OwnToken) // another client completed the connection with its own
	}
	if next.Ask != nil { // two clients asked at once, and the other's request was accepted
		next.Ask = nil
		if g, err := c.groupIn(tx, next.Group); err == nil && !bytes.Equal(g.rec.GroupID, s.GroupId) {
			if err := c.leaveContact(tx, g); err != nil {
				return err
			}
		}
	}
	if state := ContactState(s.State); state == ContactAccepting || state == ContactRequested {
		next.Since = c.now().Unix()
	}
	next.Retry = next.Retry && ContactState(s.State) == ContactAccepting
	next.State, next.Version, next.Key, next.Token, next.OwnToken, next.AliasMade = ContactState(s.State), s.Number, s.Key, s.Token, s.OwnToken, true
	next.Number, next.OldKeys, next.Told, next.SharedGroup = s.KeyNumber, s.OldKeys, max(next.Told, s.Told), s.GroupId
	_, err := mimimi.ConnectionTokenFrom(next.OwnToken)
	if known := next.State == ContactRequested || next.State == ContactAccepting || next.State == ContactConnected; err != nil || !known {
		return c.warn(tx, "", "a message of another device could not be read")
	}
	if local := tx.Get(bucketGroupIDs, s.GroupId); len(s.GroupId) > 0 && local != nil {
		next.Group = string(local)
	}
	c.tap(TapUser, []byte(next.User))
	c.tap(TapConnectionKey, next.Key)
	c.tap(TapConnectionToken, next.Token, next.OwnToken)
	if err := write(tx, bucketContacts, []byte(next.User), next); err != nil || was == ContactConnected || next.State != ContactConnected {
		return err
	}
	return c.addEvent(tx, eventRecord{Kind: EventConnected, User: next.User})
}

// connectionShared takes note that this client was brought into a connection group by another own one.
func (c *Client) connectionShared(tx Tx, g *group) error {
	k, found, err := read[contactRecord](tx, bucketContacts, []byte(g.rec.Peer))
	if err != nil || !found || k.Group != "" || len(k.SharedGroup) > 0 && !bytes.Equal(k.SharedGroup, g.rec.GroupID) {
		return err
	}
	k.Group = g.rec.ID
	c.noteFingerprints(g, k)
	return write(tx, bucketContacts, []byte(k.User), k)
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

// applyRequest takes over a connection request that another own client fetched, or settled.
func (c *Client) applyRequest(tx Tx, s *mimimiv1.SharedRequest) error {
	if s.Settled != "" {
		return c.settleRequest(tx, s.Settled)
	}
	return c.storeRequests(tx, []*mimimiv1.InboxItem{{SealedRequest: s.SealedRequest}}, false)
}

// settleRequest settles a request that another own client answered, also one that has not come here yet.
func (c *Client) settleRequest(tx Tx, id string) error {
	if b, err := hex.DecodeString(id); err != nil || len(b) != requestIDSize {
		return nil
	}
	r, found, err := read[requestRecord](tx, bucketRequests, []byte(id))
	if err != nil {
		return err
	}
	if !found {
		r = &requestRecord{ID: id, Received: c.now().Unix(), NotAfter: c.now().Add(requestFor).Unix()}
	}
	r.settle()
	return write(tx, bucketRequests, []byte(id), r)
}

const requestIDSize = 16

// shareSettled tells the other clients that a request was answered.
func (c *Client) shareSettled(tx Tx, id string) error {
	return c.tellDevices(tx, &mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Request{Request: &mimimiv1.SharedRequest{Settled: id}}})
}

// sealedID is the name under which a request is kept until it is opened.
func sealedID(sealed []byte) string {
	h := sha256.Sum256(sealed)
	return "sealed-" + hex.EncodeToString(h[:16])
}

// tellAll posts everything that the user's clients share, in messages of bounded size: for a new client, and for one that has missed some.
func (c *Client) tellAll(tx Tx, g *group) error {
	changes, err := c.everything(tx)
	if err != nil {
		return err
	}
	batch, size := new(mimimiv1.DeviceSync), 0
	for _, ch := range changes {
		n := proto.Size(ch) + 8
		if size > 0 && (size+n > maxSync || len(batch.Also) >= maxChanges) {
			if err := g.postSync(batch); err != nil {
				return err
			}
			batch, size = new(mimimiv1.DeviceSync), 0
		}
		batch.Also, size = append(batch.Also, ch), size+n
	}
	return g.postSync(batch)
}

// everything is what this client knows of what the user's clients share.
func (c *Client) everything(tx Tx) ([]*mimimiv1.DeviceSync, error) {
	all := []*mimimiv1.DeviceSync{{Change: &mimimiv1.DeviceSync_Secrets{Secrets: c.account.rec.sharedSecrets()}}}
	err1 := each(tx, bucketContacts, func(_ []byte, k *contactRecord) error {
		if k.State == ContactDisconnecting {
			return nil
		}
		s, err := c.sharedContact(tx, k)
		all = append(all, &mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Contact{Contact: s}})
		return err
	})
	err2 := each(tx, bucketGroups, func(_ []byte, r *groupRecord) error {
		if _, _, err := readRoster(tx, r); err != nil {
			return nil // a damaged group is not told
		}
		if s := r.shared(c.account.rec.Client); s != nil {
			s.Clients = (&group{rec: r}).ownClients(c.account.rec.User)
			all = append(all, &mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Group{Group: s}})
		}
		return nil
	})
	err3 := each(tx, bucketShared, func(_ []byte, r *sharedGroupRecord) error {
		if r.Left == 0 {
			all = append(all, &mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Group{Group: &mimimiv1.SharedGroup{
				GroupId: r.GroupID, Name: r.Name, Number: r.Number, UserPseudonym: r.Pseudonym, Peer: r.Peer}}})
		}
		return nil
	})
	err4 := each(tx, bucketRequests, func(_ []byte, r *requestRecord) error {
		s := &mimimiv1.SharedRequest{SealedRequest: r.Sealed}
		switch {
		case r.State == requestSettled:
			s = &mimimiv1.SharedRequest{Settled: r.ID}
		case len(r.Sealed) == 0:
			return nil
		}
		all = append(all, &mimimiv1.DeviceSync{Change: &mimimiv1.DeviceSync_Request{Request: s}})
		return nil
	})
	return all, errors.Join(err1, err2, err3, err4)
}

// shared is a group as it is told to the other clients; nil if there is nothing to tell.
func (r *groupRecord) shared(self string) *mimimiv1.SharedGroup {
	if r.Devices || r.State != GroupActive && r.State != GroupJoining {
		return nil
	}
	s := &mimimiv1.SharedGroup{GroupId: r.GroupID, Name: r.Name, Number: r.NameNumber, Peer: r.Peer}
	for _, l := range r.Leaves {
		if l.Client == self {
			s.UserPseudonym = l.UserPseudonym
		}
	}
	if s.UserPseudonym == "" {
		return nil // on the way in: it is told when that is done
	}
	return s
}
