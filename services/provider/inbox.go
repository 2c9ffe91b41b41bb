package provider

import (
	"encoding/binary"
	"time"

	"github.com/google/uuid"

	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// padRecord puts zeros after a record, so that all answers have one size.
func padRecord(record []byte) ([]byte, error) {
	if len(record) > recordSize {
		return nil, errCorrupt
	}
	return append(append(make([]byte, 0, recordSize), record...), make([]byte, recordSize-len(record))...), nil
}

// fakes makes the answers about users that do not exist: records like any other, whose certificate is not by the domain's identity key. All of
// a record comes from one secret, so that the same question gets the same answer from every replica, and only its dates change, as those of a
// real record do when it is published again.
type fakes struct {
	seed     []byte // secret
	identity mls.SignatureKey
}

func newFakes(seed []byte) (*fakes, error) {
	identity, err := mimimi.Suite.DeriveSignatureKey(digest(labelFakeCA, seed))
	if err != nil {
		return nil, err
	}
	return &fakes{seed: seed, identity: identity}, nil
}

// record returns the record that is shown for a user that does not exist.
func (f *fakes) record(user mimimi.User, now time.Time) ([]byte, error) {
	part := func(n byte) []byte { return digest(labelFakeRecord, f.seed, []byte(user.Wire()), []byte{n}) }
	key, err := mimimi.Suite.DeriveSignatureKey(part(0))
	if err != nil {
		return nil, err
	}
	hpke, err := mimimi.Suite.DeriveHPKEKey(part(1))
	if err != nil {
		return nil, err
	}
	client, err := fakeClient(user.Domain(), part(2))
	if err != nil {
		return nil, err
	}
	issued := fakeDate(part(3), certificateTime, now)
	published := fakeDate(part(4), recordRenewal, now)
	certificate, err := mimimi.IssueClientCertificate(f.identity, user, client, key.Public(), issued, certificateTime)
	if err != nil {
		return nil, err
	}
	record, err := mimimi.NewConnectionRecord(certificate, key, hpke.Public(), published.Add(recordTime))
	if err != nil {
		return nil, err
	}
	return record.Marshal(), nil
}

// fakeClient is a client name with a random-looking UUID of version 4.
func fakeClient(domain string, random []byte) (mimimi.Client, error) {
	var id uuid.UUID
	copy(id[:], random)
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return mimimi.ParseClient("mimi://" + domain + "/d/" + id.String())
}

// fakeDate is the last day on which something would have been done that is done again after each period; random decides on which day of a
// period.
func fakeDate(random []byte, period time.Duration, now time.Time) time.Time {
	const day = 24 * time.Hour
	days := uint64(period / day)
	today := uint64(max(0, now.Unix()) / int64(day/time.Second))
	age := (today + days - binary.BigEndian.Uint64(random)%days) % days
	return now.Truncate(day).Add(-time.Duration(age) * day)
}

// deposit is a checked connection request for somebody.
type deposit struct {
	id     [16]byte
	user   mimimi.User
	sealed []byte
}

// parseInboxUser reads a user of this domain.
func parseInboxUser(name, domain string) (mimimi.User, error) {
	user, err := mimimi.ParseUser(name)
	if err != nil || user.Domain() != domain {
		return user, problem.New(problem.Invalid, "user must be mimi://domain/u/name, of this inbox's domain")
	}
	return user, nil
}

// content is what a request id is taken for.
func (d *deposit) content() []byte { return digest(labelDeposit, []byte(d.user.Wire()), d.sealed) }

// messageID is the inbox entry's.
func (d *deposit) messageID() string { return messageID(digest(labelDepositID, d.id[:])) }
