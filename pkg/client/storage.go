package client

import (
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
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
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

// Store keeps a client's state: values under keys in buckets. The package's own keeps it in one file (Config.Dir); an app may bring another. One client
// uses it at a time.
type Store interface {
	// View runs f on one consistent state.
	View(f func(tx Tx) error) error
	// Update runs f and makes everything that it put and deleted durable together before it returns nil. If f or the writing fails nothing has changed.
	Update(f func(tx Tx) error) error
	// Close releases the store.
	Close() error
}

// Tx is one transaction of a Store. A bucket is there without being made. What it returns and hands out is valid until the transaction ends, and must not be
// changed; what it is given it must not keep.
type Tx interface {
	// Get returns the value under key, nil if there is none.
	Get(bucket string, key []byte) []byte
	Put(bucket string, key, value []byte) error
	Delete(bucket string, key []byte) error
	// Each calls f for each key from the given one on, in the order of their bytes, until f fails. f must not change the bucket.
	Each(bucket string, from []byte, f func(key, value []byte) error) error
}

// storeFile is the name of the package's own store in Config.Dir.
const storeFile = "client.db"

// lockWait is how long Open waits for another process that is just closing.
const lockWait = 200 * time.Millisecond

// hasStore says whether there is a file in dir.
func hasStore(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, storeFile))
	return !errors.Is(err, fs.ErrNotExist)
}

// fileStore is the default Store: one bbolt file.
type fileStore struct{ db *bolt.DB }

// openFile opens or makes the file in dir. It returns ErrLocked or ErrStore.
func openFile(dir string) (Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	db, err := bolt.Open(filepath.Join(dir, storeFile), 0o600, &bolt.Options{Timeout: lockWait})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, ErrLocked
	case err != nil:
		return nil, fmt.Errorf("%w: %v", ErrStore, err)
	}
	return fileStore{db}, nil
}

func (s fileStore) View(f func(tx Tx) error) error {
	return s.db.View(func(tx *bolt.Tx) error { return f(fileTx{tx}) })
}

func (s fileStore) Update(f func(tx Tx) error) error {
	return s.db.Update(func(tx *bolt.Tx) error { return f(fileTx{tx}) })
}

func (s fileStore) Close() error { return s.db.Close() }

type fileTx struct{ tx *bolt.Tx }

func (t fileTx) Get(bucket string, key []byte) []byte {
	if b := t.tx.Bucket([]byte(bucket)); b != nil {
		return b.Get(key)
	}
	return nil
}

func (t fileTx) Put(bucket string, key, value []byte) error {
	b, err := t.tx.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		return err
	}
	return b.Put(key, value)
}

func (t fileTx) Delete(bucket string, key []byte) error {
	if b := t.tx.Bucket([]byte(bucket)); b != nil {
		return b.Delete(key)
	}
	return nil
}

func (t fileTx) Each(bucket string, from []byte, f func(key, value []byte) error) error {
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	cur := b.Cursor()
	for k, v := cur.Seek(from); k != nil; k, v = cur.Next() {
		if err := f(k, v); err != nil {
			return err
		}
	}
	return nil
}

// sealedStore encrypts what a Store holds: values with XChaCha20-Poly1305, bound to their bucket and key, and keys by a keyed hash, but in
// ordered buckets. Whoever has the file sees how many records there are and how long they are, and can put an older file in its place.
type sealedStore struct {
	Store
	aead    cipher.AEAD
	nameKey []byte
}

// sealRecord says how the data key is found. It stands unencrypted.
type sealRecord struct {
	Salt    []byte `json:"salt,omitempty"` // Argon2id; absent if the app gives the key
	Time    uint32 `json:"time,omitempty"`
	Memory  uint32 `json:"memory,omitempty"` // KiB
	Threads uint8  `json:"threads,omitempty"`
	Key     []byte `json:"key"` // the data key, sealed
}

const (
	bucketSeal = "seal"
	dataKey    = chacha20poly1305.KeySize

	// RFC 9106 §4, second recommended option.
	argonTime, argonMemory, argonThreads = 3, 64 << 10, 4
)

var keySeal = []byte("seal")

// seal returns s with everything in it encrypted under a key that secret opens: key is 32 bytes, or else a passphrase. A new store gets a random data key;
// one that holds unencrypted records is refused. Errors: ErrKey, ErrStore.
func seal(s Store, key []byte, passphrase string) (Store, error) {
	var rec *sealRecord
	err := s.View(func(tx Tx) error {
		b := tx.Get(bucketSeal, keySeal)
		if b == nil {
			if tx.Get(bucketMeta, keyFormat) != nil {
				return fmt.Errorf("%w: the store is not encrypted", ErrKey)
			}
			return nil
		}
		rec = new(sealRecord)
		if json.Unmarshal(b, rec) != nil || rec.Memory > 4<<20 || rec.Time > 64 || rec.Salt != nil && (rec.Time == 0 || rec.Threads == 0) {
			return fmt.Errorf("%w: its seal is damaged", ErrStore)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var data []byte
	if rec == nil {
		data, err = newSeal(s, key, passphrase)
	} else {
		data, err = rec.open(key, passphrase)
	}
	if err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.NewX(derive(data, "values"))
	if err != nil {
		return nil, err
	}
	return &sealedStore{Store: s, aead: aead, nameKey: derive(data, "names")}, nil
}

// newSeal makes a data key and stores it sealed.
func newSeal(s Store, key []byte, passphrase string) ([]byte, error) {
	rec := &sealRecord{}
	if key == nil {
		rec.Salt, rec.Time, rec.Memory, rec.Threads = random(16), argonTime, argonMemory, argonThreads
	}
	data := random(dataKey)
	aead, err := chacha20poly1305.NewX(rec.wrappingKey(key, passphrase))
	if err != nil {
		return nil, err
	}
	rec.Key = sealWith(aead, data, nil)
	b, err := json.Marshal(rec)
	if err != nil {
		return nil, err
	}
	return data, s.Update(func(tx Tx) error { return tx.Put(bucketSeal, keySeal, b) })
}

func (r *sealRecord) open(key []byte, passphrase string) ([]byte, error) {
	if (key == nil) != (r.Salt != nil) {
		return nil, ErrKey
	}
	aead, err := chacha20poly1305.NewX(r.wrappingKey(key, passphrase))
	if err != nil {
		return nil, err
	}
	data, err := openWith(aead, r.Key, nil)
	if err != nil || len(data) != dataKey {
		return nil, ErrKey
	}
	return data, nil
}

func (r *sealRecord) wrappingKey(key []byte, passphrase string) []byte {
	if r.Salt != nil {
		key = argon2.IDKey([]byte(passphrase), r.Salt, r.Time, r.Memory, r.Threads, dataKey)
	}
	return derive(key, "wrap")
}

func derive(key []byte, label string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("MIMIMI 1.0 client store " + label))
	return h.Sum(nil)
}

func random(n int) []byte {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		panic("client: no randomness: " + err.Error()) // crypto/rand never fails
	}
	return b
}

func sealWith(aead cipher.AEAD, plain, aad []byte) []byte {
	nonce := random(aead.NonceSize())
	return aead.Seal(nonce, nonce, plain, aad)
}

func openWith(aead cipher.AEAD, sealed, aad []byte) ([]byte, error) {
	if len(sealed) < aead.NonceSize() {
		return nil, ErrStore
	}
	return aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], aad)
}

func (s *sealedStore) View(f func(tx Tx) error) error {
	return s.Store.View(func(tx Tx) error { return s.within(tx, f) })
}

func (s *sealedStore) Update(f func(tx Tx) error) error {
	return s.Store.Update(func(tx Tx) error { return s.within(tx, f) })
}

// within runs f on a transaction. A value that does not open cannot be told from one that is not there where it is read, so it fails the transaction.
func (s *sealedStore) within(tx Tx, f func(tx Tx) error) error {
	t := &sealedTx{store: s, tx: tx}
	err := f(t)
	if t.damaged {
		return fmt.Errorf("%w: a record is damaged", ErrStore)
	}
	return err
}

type sealedTx struct {
	store   *sealedStore
	tx      Tx
	damaged bool
}

// name is what stands for a key. Events are read in order and are numbered, so their keys stay.
func (t *sealedTx) name(bucket string, key []byte) []byte {
	if bucket == bucketEvents {
		return key
	}
	h := hmac.New(sha256.New, t.store.nameKey)
	h.Write([]byte(bucket))
	h.Write([]byte{0})
	h.Write(key)
	return h.Sum(nil)
}

func (t *sealedTx) Get(bucket string, key []byte) []byte {
	name := t.name(bucket, key)
	sealed := t.tx.Get(bucket, name)
	if sealed == nil {
		return nil
	}
	_, value, ok := t.open(bucket, name, sealed)
	if !ok {
		return nil
	}
	return value
}

// open opens a record: the key's length, the key, the value.
func (t *sealedTx) open(bucket string, name, sealed []byte) (key, value []byte, ok bool) {
	plain, err := openWith(t.store.aead, sealed, aadOf(bucket, name))
	if err == nil && len(plain) >= 4 {
		n := binary.BigEndian.Uint32(plain)
		if uint64(n) <= uint64(len(plain)-4) {
			return plain[4 : 4+n], plain[4+n:], true
		}
	}
	t.damaged = true
	return nil, nil, false
}

func aadOf(bucket string, name []byte) []byte { return append(append([]byte(bucket), 0), name...) }

func (t *sealedTx) Put(bucket string, key, value []byte) error {
	name := t.name(bucket, key)
	plain := binary.BigEndian.AppendUint32(nil, uint32(len(key)))
	plain = append(append(plain, key...), value...)
	return t.tx.Put(bucket, name, sealWith(t.store.aead, plain, aadOf(bucket, name)))
}

func (t *sealedTx) Delete(bucket string, key []byte) error {
	return t.tx.Delete(bucket, t.name(bucket, key))
}

// Each implements Tx. Outside of ordered buckets the order is that of the hashes, and from must be nil.
func (t *sealedTx) Each(bucket string, from []byte, f func(key, value []byte) error) error {
	return t.tx.Each(bucket, from, func(name, sealed []byte) error {
		key, value, ok := t.open(bucket, name, sealed)
		if !ok {
			return fmt.Errorf("%w: a record is damaged", ErrStore)
		}
		return f(key, value)
	})
}
