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
	Made      int64  `json:"made,omitempty"` // as in groupRecord
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

// unreadSync is what the user is told of a message of another own client that is not what it should be: nothing of it is taken over.
const unreadSync = "a message of another device could not be read"

// farAhead says whether a number is further ahead of the known one than an honest client can be. One that was removed since could else have put it where nobody counts on.
func farAhead(number, known uint64) bool { return number > known && number-known > maxAhead }

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
		return c.warn(tx, "", unreadSync)
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

// validSecrets says whether what another own client says of the user's secrets can be taken over.
func (c *Client) validSecrets(s *mimimiv1.SharedSecrets) bool {
	r := *c.account.rec
	_, newest := r.newestKey()
	if r.Link == nil && (farAhead(s.Number, r.SecretsNumber) || farAhead(s.KeyNumber, newest) || farAhead(s.NextNumber, newest)) {
		return false
	}
	for _, b := range [][]byte{s.NextKey, s.OldKey} {
		if _, err := mimimi.ConnectionKeyFrom(b); err != nil && len(b) > 0 {
			return false
		}
	}
	r.WriteKey, r.SelfToken, r.RecordKey, r.ConnectionKey, r.Record, r.OldRecord = s.WriteKey, s.SelfToken, s.RecordKey, s.ConnectionKey, nonEmpty(s.Record), nonEmpty(s.OldRecord)
	a, err := r.parse()
	if err != nil {
		return false
	}
	for _, record := range []*mimimi.ConnectionRecord{a.record, a.oldRecord} {
		if record != nil && record.User != a.user {
			return false
		}
	}
	return true
}

// applySecrets takes over the user's secrets. Connection keys go by numbers of their own: what a contact was told of is never taken back. A client that was waiting for the
// secrets is linked now.
func (c *Client) applySecrets(tx Tx, s *mimimiv1.SharedSecrets) error {
	if !c.validSecrets(s) {
		return c.warn(tx, "", unreadSync)
	}
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
				GroupId: r.GroupID, Name: r.Name, Number: r.Number, UserPseudonym: r.Pseudonym, Peer: r.Peer, Made: r.Made}}})
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
	s := &mimimiv1.SharedGroup{GroupId: r.GroupID, Name: r.Name, Number: r.NameNumber, Peer: r.Peer, Made: r.Made}
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
