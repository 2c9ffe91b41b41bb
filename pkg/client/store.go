package client

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// The store is one bbolt file. Records are JSON, so that fields can be added; what is large or must be erased alone stands in a bucket of its own.
//
//	meta      "format", "account", "position", "acked", "stock"
//	contacts  user URI → contactRecord
//	requests  request id → requestRecord, settled ones too until they expire: a request id is accepted once
//	packages  KeyPackageRef → packageRecord: private halves
//	pins      domain → pinRecord
//	groups    local id → groupRecord
//	groupids  group id → local id
//	ratchets  local id → mls.Group: changes with every message
//	leaves    local id → leafSecrets: signature key and credential, all that a resync needs
//	events    seq → eventRecord
//	messages  local id ‖ message id → seq: a message is shown once
const storeFormat = 1

var (
	bucketMeta     = []byte("meta")
	bucketContacts = []byte("contacts")
	bucketRequests = []byte("requests")
	bucketPackages = []byte("packages")
	bucketPins     = []byte("pins")
	bucketGroups   = []byte("groups")
	bucketGroupIDs = []byte("groupids")
	bucketRatchets = []byte("ratchets")
	bucketLeaves   = []byte("leaves")
	bucketEvents   = []byte("events")
	bucketMessages = []byte("messages")

	allBuckets = [][]byte{bucketMeta, bucketContacts, bucketRequests, bucketPackages, bucketPins, bucketGroups, bucketGroupIDs,
		bucketRatchets, bucketLeaves, bucketEvents, bucketMessages}

	keyFormat   = []byte("format")
	keyAccount  = []byte("account")
	keyPosition = []byte("position")
	keyAcked    = []byte("acked")
	keyStock    = []byte("stock")
)

// store is the client's file. Every write is one transaction, durable when it returns.
type store struct {
	db *bolt.DB
	// fault, in tests, is asked before and after each write; an error is what the write returns, so that the process dies there.
	fault func(persisted bool) error
}

// lockWait is how long Open waits for another process that is just closing.
const lockWait = 200 * time.Millisecond

// hasStore says whether there is a file in dir.
func hasStore(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "client.db"))
	return !errors.Is(err, fs.ErrNotExist)
}

// openStore opens or makes the file in dir. It returns ErrLocked or ErrStore.
func openStore(dir string) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	db, err := bolt.Open(filepath.Join(dir, "client.db"), 0o600, &bolt.Options{Timeout: lockWait})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, ErrLocked
	case err != nil:
		return nil, fmt.Errorf("%w: %v", ErrStore, err)
	}
	s := &store{db: db}
	if err := db.Update(initStore); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

func initStore(tx *bolt.Tx) error {
	for _, b := range allBuckets {
		if _, err := tx.CreateBucketIfNotExists(b); err != nil {
			return err
		}
	}
	meta := tx.Bucket(bucketMeta)
	switch f := meta.Get(keyFormat); {
	case f == nil:
		return meta.Put(keyFormat, []byte{storeFormat})
	case len(f) != 1 || f[0] != storeFormat:
		return ErrStore
	}
	return nil
}

func (s *store) close() error { return s.db.Close() }

// read gets one JSON record. It reports false if there is none.
func read[T any](tx *bolt.Tx, bucket, key []byte) (*T, bool, error) {
	b := tx.Bucket(bucket).Get(key)
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
func write(tx *bolt.Tx, bucket, key []byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return tx.Bucket(bucket).Put(key, b)
}

// each reads all records of a bucket in the order of their keys.
func each[T any](tx *bolt.Tx, bucket []byte, f func(key []byte, v *T) error) error {
	return tx.Bucket(bucket).ForEach(func(k, b []byte) error {
		v := new(T)
		if err := json.Unmarshal(b, v); err != nil {
			return fmt.Errorf("%w: a record is damaged", ErrStore)
		}
		return f(k, v)
	})
}

// get is read in a transaction of its own.
func get[T any](s *store, bucket, key []byte) (v *T, found bool, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		v, found, err = read[T](tx, bucket, key)
		return err
	})
	return v, found, err
}

// list returns all records of a bucket in the order of their keys.
func list[T any](s *store, bucket []byte) (all []*T, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
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
func (c *Client) update(f func(tx *bolt.Tx) error) error {
	var own error
	err := c.store.update(func(tx *bolt.Tx) error {
		own = f(tx)
		return own
	})
	if err == nil {
		return nil
	}
	clear(c.groups)
	if own == nil {
		return fmt.Errorf("%w: %w", errWrite, err)
	}
	return err
}

func (s *store) update(f func(tx *bolt.Tx) error) error {
	if s.fault == nil {
		return s.db.Update(f)
	}
	if err := s.fault(false); err != nil {
		return err
	}
	if err := s.db.Update(f); err != nil {
		return err
	}
	return s.fault(true)
}

// view runs f on the store as it is.
func (c *Client) view(f func(tx *bolt.Tx) error) error { return c.store.db.View(f) }
