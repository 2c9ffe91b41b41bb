package provider

import (
	"bytes"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/problem"
)

// Problems of the account side.
var (
	errNameTaken   = problem.New(problem.Denied, "name taken: another key has registered this user name, choose another")
	errClientTaken = problem.New(problem.Denied, "client taken: this client id belongs to another user, choose a new one")
	errNotOurs     = problem.New(problem.Invalid, "user and client must be of this provider's domain")
	errAccountAuth = problem.New(problem.Denied, "the request is not signed by a registered client's key, or its minute is too far from now")
	errRecord      = problem.New(problem.Invalid, "the record must be signed, in date, and hold this client's own certificate")
	errClientGone  = problem.New(problem.Denied, "this client was taken off its account")
	errLastClient  = problem.New(problem.Denied, "the last client cannot be removed: delete the account")
	errNotDue      = problem.New(problem.Denied, "the certificate is not due for renewal: less than half of its time is over")
	errNewKey      = problem.New(problem.Invalid, "signature_key must have 32 bytes, and proof be its signature over the same request if it is new")
	errManyCerts   = problem.New(problem.Limited, "the client has changed its key too often: wait until earlier certificates have expired")
	errRenewed     = problem.New(problem.Stale, "the client's certificate was renewed meanwhile: list the clients, then decide")
	errNotOurUser  = problem.New(problem.Denied, "the user is not this client's")
	errRecordSize  = problem.New(problem.Invalid, "the record is too long")
)

// registration is a checked request for a first client.
type registration struct {
	user   mimimi.User
	client mimimi.Client
	key    []byte
}

// parseRegistration checks names, limits and domain. The proof of possession is checked apart.
func parseRegistration(r *mimimiv1.RegisterRequest, domain string) (*registration, error) {
	user, err := mimimi.ParseUser(r.GetUser())
	if err != nil {
		return nil, problem.Wrap(problem.Invalid, "user must be mimi://domain/u/name, within the limits of names", err)
	}
	client, err := mimimi.ParseClient(r.GetClient())
	if err != nil {
		return nil, problem.Wrap(problem.Invalid, "client must be mimi://domain/d/uuid", err)
	}
	if user.Domain() != domain || client.Domain() != domain {
		return nil, errNotOurs
	}
	return &registration{user: user, client: client, key: r.GetSignatureKey()}, nil
}

// body is what the proof of possession covers.
func (r *registration) body() []byte {
	return append(append([]byte(r.user.Wire()), 0), r.key...)
}

// entry is the account that the registration makes.
func (r *registration) entry(certificate []byte) *mimimiv1.AccountEntry {
	return &mimimiv1.AccountEntry{User: r.user.Wire(), Clients: []*mimimiv1.AccountClient{{
		Client: r.client.Wire(), SignatureKey: r.key, Certificate: certificate,
	}}}
}

// answer returns the certificate of an account that exists, if the registration is a repeat of the one that made it.
func (r *registration) answer(account *mimimiv1.AccountEntry) ([]byte, error) {
	c := clientOf(account, r.client.Wire())
	if c == nil || !bytes.Equal(c.GetSignatureKey(), r.key) {
		return nil, errNameTaken
	}
	return c.GetCertificate(), nil
}

// leavingOf returns a client that is being taken off an account, nil if the account does not list it as such.
func leavingOf(account *mimimiv1.AccountEntry, client string) *mimimiv1.AccountClient {
	for _, c := range account.GetLeaving() {
		if c.GetClient() == client {
			return c
		}
	}
	return nil
}

// clientOf returns an account's client, nil if the account does not list it.
func clientOf(account *mimimiv1.AccountEntry, client string) *mimimiv1.AccountClient {
	for _, c := range account.GetClients() {
		if c.GetClient() == client {
			return c
		}
	}
	return nil
}

// checkRecord checks a connection record that a client wants published: it holds the certificate that was issued to this very client.
func checkRecord(record []byte, c *mimimiv1.AccountClient, identity mls.SignatureKey, now time.Time) error {
	if len(record) > recordSize {
		return errRecordSize
	}
	r, err := mimimi.ParseConnectionRecord(record)
	if err != nil || !bytes.Equal(r.Certificate.Marshal(), c.GetCertificate()) || r.Verify(identity.Public(), now) != nil {
		return errRecord
	}
	return nil
}

// signed reads the proof that every authenticated request has.
func signed(s *mimimiv1.Signed) (requestID [16]byte, minute time.Time, err error) {
	if len(s.GetRequestId()) != len(requestID) {
		return requestID, minute, problem.New(problem.Invalid, "request_id must be 16 bytes")
	}
	const latest = 1 << 32 // minutes: some 8,000 years; more would overflow
	if s.GetMinute() < 0 || s.GetMinute() > latest {
		return requestID, minute, problem.New(problem.Invalid, "minute must be whole minutes since 1970")
	}
	copy(requestID[:], s.GetRequestId())
	return requestID, time.Unix(s.GetMinute()*60, 0).UTC(), nil
}
