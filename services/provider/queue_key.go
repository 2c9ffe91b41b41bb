package provider

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// queueKeys are the domain's keys for sealed queue IDs (protocol §10): those of files, and one for each period of four weeks derived from a secret. All replicas have
// the same. Safe for concurrent use.
type queueKeys struct {
	domain string
	now    func() time.Time
	files  map[uint32]mls.HPKEPrivateKey
	ids    []uint32        // of files, ascending
	secret []byte          // nil: files only
	before []earlierSecret // ascending

	mu      sync.Mutex
	derived map[uint32]mls.HPKEPrivateKey // guarded by mu; at most keptPeriods and a few
}

// earlierSecret is a secret from which the keys below an id are derived.
type earlierSecret struct {
	until  uint32
	secret []byte
}

const (
	// queueKeyWeeks is how many weeks, by the number of the key document, a derived key is the present one.
	queueKeyWeeks = 4
	// keptPeriods is for how many periods after its own a derived key opens queue IDs: a year (§10), and one period since a leaf may be made at the end of the key's.
	keptPeriods = 52/queueKeyWeeks + 1
	// firstDerived is the key id of the first derived period; the ids of files are smaller.
	firstDerived = 1 << 16
	// queueSecretSize is the length of queue_secret_file.
	queueSecretSize = 32
)

var errQueueKeyID = errors.New("queue_key_files: beside queue_secret_file key ids must be below 65536")

// loadQueueKeys reads the files that the config names.
func loadQueueKeys(c *Config, now func() time.Time) (*queueKeys, error) {
	q := &queueKeys{domain: c.Domain, now: now, files: make(map[uint32]mls.HPKEPrivateKey), derived: make(map[uint32]mls.HPKEPrivateKey)}
	for id, path := range c.QueueKeyFiles {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("queue_key_files: %w", err)
		}
		var key mls.HPKEPrivateKey
		if err := key.UnmarshalBinary(b); err != nil {
			return nil, fmt.Errorf("queue_key_files: key %d: %w", id, err)
		}
		q.files[id] = key
		q.ids = append(q.ids, id)
	}
	slices.Sort(q.ids)
	if c.QueueSecretFile == "" {
		return q, nil
	}
	var err error
	if q.secret, err = readQueueSecret(c.QueueSecretFile); err != nil {
		return nil, fmt.Errorf("queue_secret_file: %w", err)
	}
	for _, until := range slices.Sorted(maps.Keys(c.QueueSecretsBefore)) {
		secret, err := readQueueSecret(c.QueueSecretsBefore[until])
		if err != nil {
			return nil, fmt.Errorf("queue_secrets_before: %w", err)
		}
		if until <= firstDerived {
			return nil, errors.New("queue_secrets_before: an id of a derived key is above 65536")
		}
		q.before = append(q.before, earlierSecret{until, secret})
	}
	if len(q.ids) > 0 && q.ids[len(q.ids)-1] >= firstDerived {
		return nil, errQueueKeyID
	}
	return q, nil
}

func readQueueSecret(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(b) != queueSecretSize {
		return nil, fmt.Errorf("must hold %d bytes", queueSecretSize)
	}
	return b, nil
}

// secretOf is the secret from which the key of an id is derived.
func (q *queueKeys) secretOf(id uint32) []byte {
	for _, e := range q.before {
		if id < e.until {
			return e.secret
		}
	}
	return q.secret
}

// NextQueueKeyID is the id of the first queue key that may come from a new secret: that of the period of four weeks that follows. The present one's is announced.
func NextQueueKeyID(now time.Time) uint32 { return derivedID(weekNumber(now)) + 1 }

// QueueKeyBegins says when a derived key becomes the present one.
func QueueKeyBegins(id uint32) time.Time {
	return firstMonday.Add(time.Duration(id-firstDerived) * queueKeyWeeks * week)
}

// derivedID is the id of the derived key that is the present one in a week.
func derivedID(week uint64) uint32 { return firstDerived + uint32(week/queueKeyWeeks) }

// public returns the keys that the document of a week shows, the present one last.
func (q *queueKeys) public(week uint64) ([]mimimi.QueueKey, error) {
	var all []mimimi.QueueKey
	for _, id := range q.ids {
		all = append(all, mimimi.QueueKey{KeyID: id, Public: q.files[id].Public(), Domain: q.domain})
	}
	if q.secret == nil {
		return all, nil
	}
	id := derivedID(week)
	key, err := q.derive(id)
	if err != nil {
		return nil, fmt.Errorf("derive queue key: %w", err)
	}
	return append(all, mimimi.QueueKey{KeyID: id, Public: key.Public(), Domain: q.domain}), nil
}

// find returns the key of an id, for as long as it is kept. A key of the period that follows is there too: another replica's clock may be ahead.
func (q *queueKeys) find(id uint32) (mls.HPKEPrivateKey, bool) {
	if key, ok := q.files[id]; ok {
		return key, true
	}
	present := derivedID(weekNumber(q.now()))
	if q.secret == nil || id < firstDerived || id > present+1 || id+keptPeriods < present {
		return mls.HPKEPrivateKey{}, false
	}
	key, err := q.derive(id)
	return key, err == nil
}

func (q *queueKeys) derive(id uint32) (mls.HPKEPrivateKey, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if key, ok := q.derived[id]; ok {
		return key, nil
	}
	if len(q.derived) > keptPeriods+2 { // the old ones are not asked for any more
		clear(q.derived)
	}
	key, err := mimimi.Suite.DeriveHPKEKey(digest(labelQueueKey, q.secretOf(id), binary.BigEndian.AppendUint32(nil, id)))
	if err == nil {
		q.derived[id] = key
	}
	return key, err
}
