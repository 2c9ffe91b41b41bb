package client

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// What the store holds. Records are JSON, so that fields can be added; what is large or must be erased alone stands in a bucket of its own.
//
//	meta      "format", "account", "position", "acked", "stock", "wallet", "inbox", "sequence"
//	contacts  user URI → contactRecord
//	requests  request id → requestRecord, settled ones too until they expire: a request id is accepted once
//	packages  KeyPackageRef → packageRecord: private halves
//	pins      domain → pinRecord
//	groups    local id → groupRecord: changes with every message
//	rosters   local id → rosterRecord: changes with the members
//	groupids  group id → local id
//	publics   local id → mls.PublicGroup: changes with commits and proposals
//	ratchets  local id → the private half of mls.Group: changes with every message
//	leaves    local id → leafSecrets: signature key and credential, all that a resync needs
//	revocations  domain → revocationRecord: what domains say of revoked certificates
//	events    seq → eventRecord
//	purses    operation/epoch/domain → purseRecord: anonymous tokens
//	spending  operation/request id → spendingRecord: tokens that are being spent, or were
//	messages  local id ‖ message id → seq: a message is shown once
//	approvals client URI → approvalRecord: new clients that were let in here
//	shared    group id → sharedGroupRecord: groups of the user that this client is not in
//	bring     group id ‖ client URI → bringRecord: other own clients that are to be added
//	removals  client URI → removalRecord
//	gone      user URI → goneRecord: contacts that ended
//	refused   domain → refusalRecord: key documents that are not used
const storeFormat = 2

const (
	bucketMeta     = "meta"
	bucketContacts = "contacts"
	bucketRequests = "requests"
	bucketPackages = "packages"
	bucketPins     = "pins"
	bucketGroups   = "groups"
	bucketRosters  = "rosters"
	bucketGroupIDs = "groupids"
	bucketPublics  = "publics"
	bucketRatchets = "ratchets"
	bucketLeaves   = "leaves"
	bucketEvents   = "events"
	bucketMessages = "messages"

	bucketApprovals = "approvals"
	bucketShared    = "shared"
	bucketBring     = "bring"
	bucketRemovals  = "removals"
	bucketGone      = "gone"
	bucketRefused   = "refused"
	bucketPurses    = "purses"
	bucketSpending  = "spending"
)

// buckets are all buckets but that of the seal: what is erased with an account.
var buckets = []string{
	bucketMeta, bucketContacts, bucketRequests, bucketPackages, bucketPins, bucketGroups, bucketGroupIDs, bucketRatchets, bucketLeaves, bucketEvents,
	bucketMessages, bucketRevocations, bucketApprovals, bucketShared, bucketBring, bucketRemovals, bucketGone,
	bucketPurses, bucketSpending, bucketRosters, bucketPublics, bucketRefused,
}

var (
	keyFormat   = []byte("format")
	keyAccount  = []byte("account")
	keyPosition = []byte("position")
	keyAcked    = []byte("acked")
	keyStock    = []byte("stock")
	keyRead     = []byte("read")  // when the queue was read last
	keyInbox    = []byte("inbox") // up to where the inbox was fetched and not acknowledged
	keyWallet   = []byte("wallet")
	keySequence = []byte("sequence") // of the last event
)

// store is the client's Store. Every write is one transaction, durable when it returns.
type store struct {
	Store
	// fault, in tests, is asked before and after each write; an error is what the write returns, so that the process dies there.
	fault func(persisted bool) error
}

// openStore opens or makes the store that cfg names. Errors: ErrLocked, ErrStore, ErrKey.
func openStore(cfg *Config) (*store, error) {
	s := cfg.Store
	if s == nil {
		var err error
		if s, err = openFile(cfg.Dir); err != nil {
			return nil, err
		}
	}
	opened, err := initStore(s, cfg)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return &store{Store: opened}, nil
}

func initStore(s Store, cfg *Config) (Store, error) {
	if cfg.Key != nil || cfg.Passphrase != "" {
		var err error
		if s, err = seal(s, cfg.Key, cfg.Passphrase); err != nil {
			return nil, err
		}
	}
	return s, s.Update(func(tx Tx) error {
		if _, sealed := s.(*sealedStore); !sealed && tx.Get(bucketSeal, keySeal) != nil {
			return fmt.Errorf("%w: the store is encrypted", ErrKey)
		}
		switch f := tx.Get(bucketMeta, keyFormat); {
		case f == nil:
			return tx.Put(bucketMeta, keyFormat, []byte{storeFormat})
		case len(f) != 1 || f[0] != storeFormat:
			return ErrStore
		}
		return nil
	})
}

// read gets one JSON record. It reports false if there is none.
func read[T any](tx Tx, bucket string, key []byte) (*T, bool, error) {
	b := tx.Get(bucket, key)
	if b == nil {
		return nil, false, nil
	}
	v := new(T)
	if err := json.Unmarshal(b, v); err != nil {
		return nil, false, fmt.Errorf("%w: a record is damaged", ErrStore)
	}
	return v, true, nil
}

// write puts one JSON record.
func write(tx Tx, bucket string, key []byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return tx.Put(bucket, key, b)
}

// each reads all records of a bucket in the order of their keys.
func each[T any](tx Tx, bucket string, f func(key []byte, v *T) error) error {
	return tx.Each(bucket, nil, func(k, b []byte) error {
		v := new(T)
		if err := json.Unmarshal(b, v); err != nil {
			return fmt.Errorf("%w: a record is damaged", ErrStore)
		}
		return f(k, v)
	})
}

// get is read in a transaction of its own.
func get[T any](s *store, bucket string, key []byte) (v *T, found bool, err error) {
	err = s.Store.View(func(tx Tx) error {
		v, found, err = read[T](tx, bucket, key)
		return err
	})
	return v, found, err
}

// list returns all records of a bucket in the order of their keys.
func list[T any](s *store, bucket string) (all []*T, err error) {
	err = s.Store.View(func(tx Tx) error {
		return each(tx, bucket, func(_ []byte, v *T) error {
			all = append(all, v)
			return nil
		})
	})
	return all, err
}

func bigEndian(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func fromBigEndian(b []byte) uint64 { return binary.BigEndian.Uint64(b) }

// errWrite says that a transaction failed in the file, not in what it was to do: it may succeed later.
var errWrite = errors.New("client: the store cannot be written")

// update runs f in one durable transaction. If it fails, everything cached is forgotten, since it may be ahead of the file; records that the caller
// holds must not be used any more. The error is f's, or errWrite.
func (c *Client) update(f func(tx Tx) error) error {
	var own error
	c.told = false
	err := c.store.update(func(tx Tx) error {
		own = f(tx)
		return own
	})
	if err == nil {
		if c.told {
			close(c.news)
			c.news = make(chan struct{})
		}
		return nil
	}
	clear(c.groups)
	c.reloadAccount()
	if c.account != nil {
		if err := c.loadOwn(); err != nil {
			return fmt.Errorf("%w: %w", errWrite, err)
		}
	}
	if own == nil {
		return fmt.Errorf("%w: %w", errWrite, err)
	}
	return err
}

func (s *store) update(f func(tx Tx) error) error {
	if s.fault == nil {
		return s.Store.Update(f)
	}
	if err := s.fault(false); err != nil {
		return err
	}
	if err := s.Store.Update(f); err != nil {
		return err
	}
	return s.fault(true)
}

// view runs f on the store as it is.
func (c *Client) view(f func(tx Tx) error) error { return c.store.View(f) }

// clearBucket deletes everything in a bucket but the keys to keep.
func clearBucket(tx Tx, bucket string, keep ...[]byte) error {
	var keys [][]byte
	err := tx.Each(bucket, nil, func(k, _ []byte) error {
		if !slices.ContainsFunc(keep, func(kept []byte) bool { return bytes.Equal(kept, k) }) {
			keys = append(keys, bytes.Clone(k))
		}
		return nil
	})
	for _, k := range keys {
		err = errors.Join(err, tx.Delete(bucket, k))
	}
	return err
}
