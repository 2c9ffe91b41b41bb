package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"reflect"
	"time"

	"connectrpc.com/connect"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/api/mimimi/v1/mimimiv1connect"
	"mimimi.example/pkg/mimimi"
)

// SetFault makes every write of c's store ask f, before it and after it is durable.
func SetFault(c *Client, f func(persisted bool) error) { c.store.fault = f }

// LoseRatchet makes c lose a group's ratchet state.
func LoseRatchet(c *Client, group string) error {
	return c.lockedFor(context.Background(), func() error {
		delete(c.groups, group)
		return c.update(func(tx Tx) error { return tx.Delete(bucketRatchets, []byte(group)) })
	})
}

// Lost says whether c is still to enter a group anew.
func Lost(c *Client, group string) bool {
	c.slot <- struct{}{}
	defer func() { <-c.slot }()
	g, err := c.group(group)
	return err != nil || g.rec.Resync != nil
}

// Commit makes an empty commit.
func (c *Client) Commit(ctx context.Context, group string) error {
	return c.lockedFor(ctx, func() error {
		g, err := c.visible(group)
		if err != nil {
			return err
		}
		return c.perform(ctx, g, newTask(taskCommit))
	})
}

// RefuseRelay makes the relay of c's provider refuse every request with a code, and restore ends that.
func RefuseRelay(c *Client, code connect.Code) (restore func(), asked *int) {
	was := c.channels.relay
	r := &refusingRelay{RelayServiceClient: was, code: code}
	c.channels.relay = r
	return func() { c.channels.relay = was }, &r.asked
}

type refusingRelay struct {
	mimimiv1connect.RelayServiceClient
	code  connect.Code
	asked int
}

func (r *refusingRelay) Relay(context.Context, *mimimiv1.RelayRequest) (*mimimiv1.RelayResponse, error) {
	r.asked++
	return nil, connect.NewError(r.code, nil)
}

// LoseAcks makes c's acknowledgements fail, and restore makes them work and counts them.
func LoseAcks(c *Client) (restore func(), acks *int) {
	q := &ackQueue{QueueServiceClient: c.channels.queue, lose: true}
	c.channels.queue = q
	return func() { q.lose = false }, &q.acks
}

type ackQueue struct {
	mimimiv1connect.QueueServiceClient
	lose bool
	acks int
}

func (q *ackQueue) Ack(ctx context.Context, req *mimimiv1.AckQueueRequest) (*mimimiv1.AckQueueResponse, error) {
	if q.lose {
		return nil, connect.NewError(connect.CodeUnavailable, nil)
	}
	q.acks++
	return q.QueueServiceClient.Ack(ctx, req)
}

// DamageGroup makes what c keeps of a group in one of its buckets unreadable in the file.
func DamageGroup(c *Client, bucket, group string) error {
	return c.lockedFor(context.Background(), func() error {
		delete(c.groups, group)
		return c.update(func(tx Tx) error { return tx.Put(bucket, []byte(group), []byte("damaged")) })
	})
}

// Hold keeps c busy until release.
func Hold(c *Client) (release func()) {
	c.slot <- struct{}{}
	return func() { <-c.slot }
}

// OwnToken is what c gave user.
func OwnToken(c *Client, user mimimi.User) string {
	k, found, err := c.contact(user)
	if err != nil || !found {
		return ""
	}
	return string(k.OwnToken)
}

// OwnKey is c's connection key.
func OwnKey(c *Client) string { return string(c.account.rec.ConnectionKey) }

// KeyOf is the connection key that c has of user, empty if none.
func KeyOf(c *Client, user mimimi.User) string {
	k, found, err := c.contact(user)
	if err != nil || !found {
		return ""
	}
	return string(k.Key)
}

// TryClaim claims a set of user with a token, as whoever has it can.
func TryClaim(ctx context.Context, c *Client, user mimimi.User, token string) error {
	return c.lockedFor(ctx, func() error {
		t, err := mimimi.ConnectionTokenFrom([]byte(token))
		if err != nil {
			return err
		}
		_, _, err = c.claim(ctx, user.Domain(), t, newRequestID(), true)
		return err
	})
}

// QueueSealed is the sealed queue ID in c's leaf of a group, and Credential its credential.
func OwnLeaf(c *Client, group string) (queue, credential string) {
	c.slot <- struct{}{}
	defer func() { <-c.slot }()
	g, err := c.group(group)
	if err != nil || g.mls == nil {
		return "", ""
	}
	b, _ := g.mls.OwnLeaf().Extension(mimimi.ExtensionEncryptedQueueID)
	return string(b), string(g.mls.OwnLeaf().Credential().Body)
}

// CertificateEnd is when c's certificate ends.
func CertificateEnd(c *Client) time.Time { return c.account.certificate.NotAfter }

// SealedUnder is the id of the queue key of a sealed queue ID.
func SealedUnder(sealed string) uint32 {
	if len(sealed) == 0 || len(sealed) < 1+int(sealed[0])+4 {
		return 0
	}
	return binary.BigEndian.Uint32([]byte(sealed[1+int(sealed[0]):]))
}

// Owes says whether c has something to do that is due: a task, a message, a contact to be told.
func Owes(c *Client) bool {
	c.slot <- struct{}{}
	defer func() { <-c.slot }()
	groups, err := list[groupRecord](c.store, bucketGroups)
	for _, g := range groups {
		if g.State == GroupActive && (len(g.Outgoing)+len(g.Tasks) > 0 || g.Staged != nil || g.Behind || g.Resync != nil) {
			return true
		}
	}
	return err != nil || c.account.rec.NextKey != nil
}

// RotateKey begins a change of c's connection key.
func RotateKey(ctx context.Context, c *Client) error {
	return c.lockedFor(ctx, func() error { return c.update(func(tx Tx) error { return c.rotateKey(tx, rotation{tokens: true}) }) })
}

// TellContacts makes what is spread over time due.
func TellContacts(ctx context.Context, c *Client) error {
	return c.lockedFor(ctx, func() error {
		return c.update(func(tx Tx) error {
			return c.eachContact(tx, func(k *contactRecord) bool { k.TellAt = 0; return true })
		})
	})
}

// MakeRefreshDue makes the refresh of c's leaf in a group due.
func MakeRefreshDue(ctx context.Context, c *Client, group string) error {
	return c.lockedFor(ctx, func() error {
		g, err := c.group(group)
		if err != nil {
			return err
		}
		return c.change(g, func(Tx) error { g.rec.Refreshed, g.rec.RefreshAt, g.rec.RefreshPutOff = 1, 2, true; return nil })
	})
}

// RevokeSelf makes c's provider revoke its certificate: it deletes the account there and nowhere else.
func RevokeSelf(ctx context.Context, c *Client) error {
	return c.lockedFor(ctx, func() error { return c.deleteUser(ctx) })
}

// LookAgain makes c fetch all lists of revocations with its next Sync.
func LookAgain(ctx context.Context, c *Client) error {
	return c.lockedFor(ctx, func() error {
		domains, err := c.metDomains()
		if err != nil {
			return err
		}
		return c.update(func(tx Tx) error {
			for _, d := range domains {
				if err := tx.Delete(bucketRevocations, []byte(d)); err != nil {
					return err
				}
			}
			return tx.Delete(bucketMeta, keyLooked)
		})
	})
}

// ChangeKey begins a change of c's connection key, but not of its tokens.
func ChangeKey(ctx context.Context, c *Client) error {
	return c.lockedFor(ctx, func() error { return c.update(func(tx Tx) error { return c.rotateKey(tx, rotation{}) }) })
}

// OwesContacts says whether a contact is to be told something, or a token of one is to be revoked.
func OwesContacts(c *Client) bool {
	c.slot <- struct{}{}
	defer func() { <-c.slot }()
	contacts, err := list[contactRecord](c.store, bucketContacts)
	for _, k := range contacts {
		if c.owes(k) || len(k.Revoke) > 0 {
			return true
		}
	}
	return err != nil
}

// SelfToken is the token with which c claims own sets.
func SelfToken(c *Client) string { return string(c.account.rec.SelfToken) }

// DeviceID is c's own name.
func DeviceID(c *Client) string { return c.account.rec.Client }

// Buckets are what is erased with an account.
func Buckets() []string { return buckets }

// IssuerEpoch is the first epoch of the keys for the tokens of claims that c's domain shows.
func IssuerEpoch(c *Client) uint64 {
	pin, found, err := get[pinRecord](c.store, bucketPins, []byte(c.account.user.Domain()))
	if err != nil || !found {
		return 0
	}
	doc, err := mimimi.ParseKeyDocument(pin.Document)
	if err != nil {
		return 0
	}
	for _, k := range doc.IssuerKeys {
		if k.Operation == mimimi.TokenClaim {
			return k.Epoch
		}
	}
	return 0
}

// TokenOf is the token that c has of user, empty if none.
func TokenOf(c *Client, user mimimi.User) string {
	k, found, err := c.contact(user)
	if err != nil || !found {
		return ""
	}
	return string(k.Token)
}

// QueueReader reads c's queue as c does, also when c is gone.
func QueueReader(ctx context.Context, c *Client) func() error {
	h, err := newHTTPClient(c.account.rec.Provider.CA)
	if err != nil {
		return func() error { return err }
	}
	queue, id, key := mimimiv1connect.NewQueueServiceClient(h, c.account.rec.Provider.AnonymousURL, connectOptions()...), c.account.queueID, c.account.queueKey
	return func() error {
		_, err := call(ctx, queue.Read, &mimimiv1.ReadQueueRequest{QueueId: id.Bytes(), Signed: c.signedBy(id, key, opQueueRead, newRequestID(), bigEndian(0))})
		return err
	}
}

// Left is what a client that was removed keeps beside its events: how many records in which bucket.
func Left(c *Client) map[string]int {
	left := make(map[string]int)
	err := c.view(func(tx Tx) error {
		for _, b := range buckets {
			err := tx.Each(b, nil, func(k, v []byte) error {
				switch {
				case b == bucketEvents, b == bucketMeta && (bytes.Equal(k, keyFormat) || bytes.Equal(k, keySequence)):
				case b == bucketMeta && bytes.Equal(k, keyAccount):
					var r accountRecord
					if err := json.Unmarshal(v, &r); err != nil {
						return err
					}
					if !reflect.DeepEqual(r, accountRecord{Provider: r.Provider, User: r.User, Client: r.Client, Removed: true, Erased: true}) {
						left["account"]++
					}
				default:
					left[b]++
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		left["error"]++
	}
	return left
}

// NotAgain lets the calls of all clients fail at once, as Sync does, and AskAgain those of one not.
func NotAgain()                              { againFor = 0 }
func AskAgain(c *Client, most time.Duration) { c.channels.again.usual = most }
