package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// Operations that are signed on the account channel; queues and stores have theirs where they are called.
const (
	opRegister      = "register"
	opPublishRecord = "publish record"
	opFetchInbox    = "fetch inbox"
	opAckInbox      = "ack inbox"
	opQueueCreate   = "create"
	opQueueRead     = "read"
	opQueueAck      = "ack"
	opQueueConfirm  = "confirm"
	opQueueWatch    = "watch"
	opRegisterAlias = "register alias"
	opRevokeAlias   = "revoke alias"
	opListSets      = "list sets"
	opUpload        = "upload"
	opWithdraw      = "withdraw"
)

// accountRecord is the client's own identity as it is stored. All keys are made and stored before the first call.
type accountRecord struct {
	Provider       ProviderInfo `json:"provider"`
	User           string       `json:"user"`
	Client         string       `json:"client"`
	CertificateKey []byte       `json:"certificate_key"`
	RecordKey      []byte       `json:"record_key"` // HPKE, for connection requests
	WriteKey       []byte       `json:"write_key"`  // kp_write_key
	QueueKey       []byte       `json:"queue_key"`
	QueueID        []byte       `json:"queue_id"`
	ConnectionKey  []byte       `json:"connection_key"`
	SelfToken      []byte       `json:"self_token"` // connection token for claims of own sets
	// KeyNumber counts ConnectionKey, NextNumber NextKey: the one that contacts are being told of, and that takes its place when all of them know it. OldKey is the
	// one before ConnectionKey.
	KeyNumber  uint64 `json:"key_number,omitempty"`
	NextKey    []byte `json:"next_key,omitempty"`
	NextNumber uint64 `json:"next_number,omitempty"`
	OldKey     []byte `json:"old_key,omitempty"`
	SwitchAt   int64  `json:"switch_at,omitempty"` // when NextKey takes ConnectionKey's place, though a contact could not be told
	RotateAt   int64  `json:"rotate_at,omitempty"` // when the key is changed without a cause
	RenewAt    int64  `json:"renew_at,omitempty"`  // when the certificate is renewed
	RenewID    []byte `json:"renew_id,omitempty"`  // of the renewal under way
	// SecretsNumber counts the secrets that the user's clients share. OldIndexes are those of the store that a removed client knew and that are still to be deleted;
	// OldRecordKey is the one before a client was removed.
	SecretsNumber uint64     `json:"secrets_number,omitempty"`
	OldIndexes    []oldIndex `json:"old_indexes,omitempty"`
	OldRecordKey  []byte     `json:"old_record_key,omitempty"`
	// DeviceGroup is the group id of the user's own clients. Link is set until a new client is one of them. Removed says that this client was removed, Erased that it has
	// forgotten everything.
	DeviceGroup []byte      `json:"device_group,omitempty"`
	Link        *linkRecord `json:"link,omitempty"`
	Removed     bool        `json:"removed,omitempty"`
	CutOff      bool        `json:"cut_off,omitempty"` // this client lost the group of the user's clients
	Erased      bool        `json:"erased,omitempty"`
	// RecordStale says that the connection record holds an earlier certificate.
	RecordStale   bool   `json:"record_stale,omitempty"`
	RegisterID    []byte `json:"register_id"`
	QueueCreateID []byte `json:"queue_create_id"`

	Deleting int `json:"deleting,omitempty"` // how far the account's deletion is

	// What is done so far.
	Certificate []byte `json:"certificate,omitempty"`
	Record      []byte `json:"record,omitempty"`     // the connection record last made
	OldRecord   []byte `json:"old_record,omitempty"` // the one before: requests for it may still come
	Published   bool   `json:"published"`            // the record is at the provider
	QueueMade   bool   `json:"queue_made"`
	// QueueNumber counts the queues that this client has had, from 0. Next… are the keys of one in the making, in place of one that is gone.
	QueueNumber     int    `json:"queue_number,omitempty"`
	NextQueueID     []byte `json:"next_queue_id,omitempty"`
	NextQueueKey    []byte `json:"next_queue_key,omitempty"`
	NextQueueCreate []byte `json:"next_queue_create,omitempty"`
	AliasMade       bool   `json:"alias_made"`
	Complete        bool   `json:"complete"` // the first stock is up
}

// account is an accountRecord ready for use.
type account struct {
	rec           *accountRecord
	user          mimimi.User
	client        mimimi.Client
	certKey       mls.SignatureKey
	recordKey     mls.HPKEPrivateKey
	oldRecordKey  *mls.HPKEPrivateKey // nil if it was never replaced
	writeKey      mls.SignatureKey
	oldWriteKeys  []mls.SignatureKey // of OldIndexes
	queueKey      mls.SignatureKey
	queueID       mimimi.QueueID
	connectionKey mimimi.ConnectionKey
	selfToken     mimimi.ConnectionToken
	certificate   *mimimi.ClientCertificate // nil before the registration
	record        *mimimi.ConnectionRecord  // nil before
	oldRecord     *mimimi.ConnectionRecord  // nil if there was none
}

func (r *accountRecord) parse() (*account, error) {
	a := &account{rec: r}
	var errs [12]error
	a.user, errs[0] = mimimi.ParseUser(r.User)
	a.client, errs[1] = mimimi.ParseClient(r.Client)
	if r.Erased {
		if errors.Join(errs[:]...) != nil {
			return nil, fmt.Errorf("%w: the account is damaged", ErrStore)
		}
		return a, nil
	}
	errs[2] = a.certKey.UnmarshalBinary(r.CertificateKey)
	errs[3] = a.recordKey.UnmarshalBinary(r.RecordKey)
	errs[4] = a.writeKey.UnmarshalBinary(r.WriteKey)
	errs[5] = a.queueKey.UnmarshalBinary(r.QueueKey)
	a.queueID, errs[6] = mimimi.QueueIDFrom(r.QueueID)
	a.connectionKey, errs[7] = mimimi.ConnectionKeyFrom(r.ConnectionKey)
	a.selfToken, errs[8] = mimimi.ConnectionTokenFrom(r.SelfToken)
	if r.Certificate != nil {
		a.certificate, errs[9] = mimimi.ParseClientCertificate(r.Certificate)
	}
	for _, old := range r.OldIndexes {
		var key mls.SignatureKey
		errs[10] = errors.Join(errs[10], key.UnmarshalBinary(old.WriteKey))
		a.oldWriteKeys = append(a.oldWriteKeys, key)
	}
	if r.OldRecordKey != nil {
		a.oldRecordKey = new(mls.HPKEPrivateKey)
		errs[11] = a.oldRecordKey.UnmarshalBinary(r.OldRecordKey)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("%w: the account is damaged", ErrStore)
	}
	for _, rec := range []struct {
		stored []byte
		to     **mimimi.ConnectionRecord
	}{{r.Record, &a.record}, {r.OldRecord, &a.oldRecord}} {
		if rec.stored == nil {
			continue
		}
		var err error
		if *rec.to, err = mimimi.ParseConnectionRecord(rec.stored); err != nil {
			return nil, fmt.Errorf("%w: the account is damaged", ErrStore)
		}
	}
	return a, nil
}

// newAccountRecord makes all keys of a new user's first client.
func newAccountRecord(p ProviderInfo, user mimimi.User) (*accountRecord, error) {
	client, err := mimimi.NewClient(p.Domain)
	if err != nil {
		return nil, err
	}
	r := &accountRecord{
		Provider: p, User: user.Wire(), Client: client.Wire(),
		QueueID: mimimi.NewQueueID().Bytes(), ConnectionKey: mimimi.NewConnectionKey().Bytes(), SelfToken: mimimi.NewConnectionToken().Bytes(),
		RegisterID: newRequestID(), QueueCreateID: newRequestID(),
	}
	for _, to := range []*[]byte{&r.CertificateKey, &r.WriteKey, &r.QueueKey} {
		k, err := mimimi.Suite.GenerateSignatureKey()
		if err != nil {
			return nil, err
		}
		if *to, err = k.MarshalBinary(); err != nil {
			return nil, err
		}
	}
	k, err := mimimi.Suite.GenerateHPKEKey()
	if err != nil {
		return nil, err
	}
	r.RecordKey, err = k.MarshalBinary()
	return r, err
}

// register makes or continues the account of user. Each step is stored when it is done; a crash between a step and its storing repeats the step, which
// is harmless: register and create repeat their request ids, publishing and aliases say the same again, and uploads begin with a list.
func (c *Client) register(ctx context.Context, user mimimi.User) error {
	old, found, err := get[accountRecord](c.store, bucketMeta, keyAccount)
	switch {
	case err != nil:
		return err
	case found && (old.User != user.Wire() || old.Link != nil):
		return ErrRegistered
	case !found:
		rec, err := newAccountRecord(c.cfg.Provider, user)
		if err != nil {
			return err
		}
		err = c.update(func(tx Tx) error {
			pin := pinRecord{IdentityKey: rec.Provider.IdentityKey}
			return errors.Join(write(tx, bucketMeta, keyAccount, rec), write(tx, bucketPins, []byte(rec.Provider.Domain), pin))
		})
		if err != nil {
			return err
		}
	}
	if err := c.load(); err != nil {
		return err
	}
	c.tapAccount()
	return c.lockedFor(ctx, func() error { return c.completeAccount(ctx) })
}

func (c *Client) tapAccount() {
	r := c.account.rec
	c.tap(TapUser, []byte(r.User))
	c.tap(TapClient, []byte(r.Client))
	c.tap(TapConnectionKey, r.ConnectionKey)
	c.tap(TapConnectionToken, r.SelfToken)
	c.tap(TapQueueID, r.QueueID)
}

// completeAccount does what is left of the registration, and renews the connection record in time.
func (c *Client) completeAccount(ctx context.Context) error {
	r := c.account.rec
	if r.Removed {
		return ErrDeviceRemoved
	}
	if r.CutOff {
		return nil // what the user's clients share is the others'
	}
	steps := []struct {
		done bool
		do   func(context.Context) error
	}{
		{r.Certificate != nil, c.makeUser},
		{r.Published && !c.recordIsOld(), c.publishRecord},
		{r.QueueMade, c.makeQueue},
		{r.AliasMade, c.makeSelfAlias},
		{r.Complete, c.firstStock},
	}
	for _, s := range steps {
		if s.done {
			continue
		}
		if err := s.do(ctx); err != nil {
			return err
		}
	}
	return nil
}

// saveAccount changes the account's record and stores it.
func (c *Client) saveAccount(change func(r *accountRecord)) error {
	return c.update(func(tx Tx) error { return c.putAccount(tx, change) })
}

// putAccount changes the account's record within a transaction. If that fails, update loads the record again.
func (c *Client) putAccount(tx Tx, change func(r *accountRecord)) error {
	next := *c.account.rec
	change(&next)
	a, err := next.parse()
	if err != nil {
		return err
	}
	if err := write(tx, bucketMeta, keyAccount, next); err != nil {
		return err
	}
	c.account = a
	return nil
}

// reloadAccount makes the account what the store holds, after a transaction that may have changed it failed. A store that cannot even be read leaves it as it is:
// nothing that is built on it can be stored then.
func (c *Client) reloadAccount() {
	if c.account == nil {
		return
	}
	r, found, err := get[accountRecord](c.store, bucketMeta, keyAccount)
	if err != nil || !found {
		return
	}
	if a, err := r.parse(); err == nil {
		c.account = a
	}
}

func (c *Client) makeUser(ctx context.Context) error {
	a := c.account
	public := a.certKey.Public()
	body := append(append([]byte(a.rec.User), 0), public...)
	res, err := call(ctx, c.channels.account.Register, &mimimiv1.RegisterRequest{
		User: a.rec.User, Client: a.rec.Client, SignatureKey: public,
		Signed: c.signedAccount(opRegister, a.rec.RegisterID, body),
	})
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	cert, err := mimimi.ParseClientCertificate(res.Certificate)
	if err != nil || cert.User != a.user || cert.Client != a.client || string(cert.SignatureKey) != string(public) ||
		cert.Verify(a.rec.Provider.IdentityKey, c.now()) != nil {
		return fmt.Errorf("register: %w", ErrIdentity)
	}
	c.tap(TapCertificate, res.Certificate)
	return c.saveAccount(func(r *accountRecord) { r.Certificate = res.Certificate })
}

// signedAccount proves a request on the account channel.
func (c *Client) signedAccount(operation string, id, body []byte) *mimimiv1.Signed {
	return c.signed(id, func(id [16]byte, minute time.Time) []byte {
		return mimimi.SignAccountRequest(c.account.certKey, &mimimi.AccountRequest{Operation: operation, Client: c.account.client,
			RequestID: id, Minute: minute, Body: body})
	})
}

// recordIsOld says whether half of the published record's time is over, and it is this client's turn to publish another: the user's clients share one.
func (c *Client) recordIsOld() bool {
	r := c.account.record
	return r == nil || c.account.rec.RecordStale && (c.leads() || r.Certificate.Client == c.account.client || !c.isOwnClient(r.Certificate.Client.Wire())) ||
		r.NotAfter.Sub(c.now()) < recordFor/2-time.Duration(c.rank())*slowTurn
}

// publishRecord makes a connection record, unless a fresh one is waiting, and publishes it.
func (c *Client) publishRecord(ctx context.Context) error {
	if c.recordIsOld() {
		day := 24 * time.Hour
		rec, err := mimimi.NewConnectionRecord(c.account.certificate, c.account.certKey, c.account.recordKey.Public(), c.now().Truncate(day).Add(recordFor))
		if err != nil {
			return fmt.Errorf("make connection record: %w", err)
		}
		if err := c.saveAccount(func(r *accountRecord) {
			r.OldRecord, r.Record, r.Published, r.RecordStale = r.Record, rec.Marshal(), false, false
		}); err != nil {
			return err
		}
	}
	record := c.account.rec.Record
	_, err := call(ctx, c.channels.account.PublishRecord, &mimimiv1.PublishRecordRequest{
		Client: c.account.rec.Client, Record: record, Signed: c.signedAccount(opPublishRecord, newRequestID(), record),
	})
	if err != nil {
		return fmt.Errorf("publish connection record: %w", err)
	}
	return c.update(func(tx Tx) error {
		return c.shareSecrets(tx, func(r *accountRecord) { r.Published = true })
	})
}

// makeQueue creates the queue.
func (c *Client) makeQueue(ctx context.Context) error {
	if err := c.createQueue(ctx, c.account.queueID, c.account.queueKey, c.account.rec.QueueCreateID); err != nil {
		return err
	}
	return c.saveAccount(func(r *accountRecord) { r.QueueMade = true })
}

// signedQueue proves a request about the own queue.
func (c *Client) signedQueue(operation string, id, body []byte) *mimimiv1.Signed {
	return c.signedBy(c.account.queueID, c.account.queueKey, operation, id, body)
}

// signedBy proves a request about a queue by its key.
func (c *Client) signedBy(queue mimimi.QueueID, key mls.SignatureKey, operation string, id, body []byte) *mimimiv1.Signed {
	return c.signed(id, func(id [16]byte, minute time.Time) []byte {
		return mimimi.SignQueueRequest(key, &mimimi.QueueRequest{Operation: operation, Queue: queue, RequestID: id, Minute: minute, Body: body})
	})
}

// signedStore proves a request of the owner to the KeyPackage store.
func (c *Client) signedStore(operation string, id, body []byte) *mimimiv1.Signed {
	return c.signedStoreBy(c.account.writeKey, operation, id, body)
}

func (c *Client) signedStoreBy(key mls.SignatureKey, operation string, id, body []byte) *mimimiv1.Signed {
	return c.signed(id, func(id [16]byte, minute time.Time) []byte {
		return mimimi.SignStoreRequest(key, &mimimi.StoreRequest{Operation: operation, WriteKey: key.Public(), RequestID: id, Minute: minute, Body: body})
	})
}

func (c *Client) makeSelfAlias(ctx context.Context) error {
	if err := c.registerAlias(ctx, c.account.selfToken); err != nil {
		return err
	}
	return c.saveAccount(func(r *accountRecord) { r.AliasMade = true })
}

// registerAlias lets whoever holds token claim own sets. It is done before the token is handed out (§5), and saying it twice changes nothing.
func (c *Client) registerAlias(ctx context.Context, token mimimi.ConnectionToken) error {
	s, err := c.kpStore(ctx, c.account.user.Domain())
	if err != nil {
		return err
	}
	hash := token.Hash()
	_, err = call(ctx, s.RegisterAlias, &mimimiv1.AliasRequest{
		WriteKey: c.account.writeKey.Public(), TokenHash: hash[:], Signed: c.signedStore(opRegisterAlias, newRequestID(), hash[:]),
	})
	if err != nil {
		return fmt.Errorf("register alias: %w", err)
	}
	return nil
}

// revokeAlias ends a token's right to claim own sets.
func (c *Client) revokeAlias(ctx context.Context, token mimimi.ConnectionToken) error {
	s, err := c.kpStore(ctx, c.account.user.Domain())
	if err != nil {
		return err
	}
	hash := token.Hash()
	_, err = call(ctx, s.RevokeAlias, &mimimiv1.AliasRequest{
		WriteKey: c.account.writeKey.Public(), TokenHash: hash[:], Signed: c.signedStore(opRevokeAlias, newRequestID(), hash[:]),
	})
	for _, old := range c.account.oldWriteKeys {
		if !isFinal(err) {
			break
		}
		_, err = call(ctx, s.RevokeAlias, &mimimiv1.AliasRequest{ // a token of an index from before a client was removed
			WriteKey: old.Public(), TokenHash: hash[:], Signed: c.signedStoreBy(old, opRevokeAlias, newRequestID(), hash[:]),
		})
	}
	if err != nil {
		return fmt.Errorf("revoke alias: %w", err)
	}
	return nil
}

func (c *Client) firstStock(ctx context.Context) error {
	if err := c.fillStock(ctx); err != nil {
		return err
	}
	return c.saveAccount(func(r *accountRecord) { r.Complete = true })
}

// complete says whether the registration is complete.
func (c *Client) complete() error {
	switch r := c.account.rec; {
	case r.Deleting != deleteNothing:
		return ErrDeleted
	case r.Removed:
		return ErrDeviceRemoved
	case r.Link != nil:
		return problem.New(problem.Unavailable, "the device is not linked yet: approve it at another one, and sync")
	}
	if !c.account.rec.Complete {
		return problem.New(problem.Unavailable, "the registration is not complete: sync first")
	}
	return nil
}
