package client

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"mimimi.example/pkg/mimimi"
)

// EventKind says what an Event is about.
type EventKind string

// The kinds of events, with the fields that each one sets beside Seq, Kind and Time.
const (
	EventMessage       EventKind = "message"        // Group, User (the sender), Message, Body: content from another member
	EventSent          EventKind = "sent"           // Group, User (self), Message, Body: own content, from whichever of the user's clients, has its place in the group's order
	EventJoined        EventKind = "joined"         // Group, User: a member came in and is identified
	EventLeft          EventKind = "left"           // Group, User: a member left by itself
	EventRemoved       EventKind = "removed"        // Group, User: a member was removed
	EventRequest       EventKind = "request"        // User, Request: somebody asks for a connection
	EventConnected     EventKind = "connected"      // User: a connection is complete
	EventDisconnected  EventKind = "disconnected"   // User: the other user has ended the connection
	EventRevoked       EventKind = "revoked"        // User, Group if it is a visible one: a member's domain has revoked the certificate of one of its clients
	EventGroupJoined   EventKind = "group_joined"   // Group: this client is in the group and may take part
	EventGroupOver     EventKind = "group_over"     // Group, Text: this client is no longer in the group
	EventLinked        EventKind = "linked"         // Device (this client): it is one of the user's clients now
	EventDeviceAdded   EventKind = "device_added"   // Device: another client of the user's was let in
	EventDeviceRemoved EventKind = "device_removed" // Device: a client of the user's was removed; if it is this one, it has forgotten everything
	EventCutOff        EventKind = "cut_off"        // Device (this client), Text: it cannot reach the user's other clients any more, and has to be linked again
	EventPolicy        EventKind = "policy"         // Group, User (who changed it): the group's policy changed
	EventBanned        EventKind = "banned"         // Group, User: a user is on the group's ban list now
	EventUnbanned      EventKind = "unbanned"       // Group, User: a user is not on it any more
	EventWarning       EventKind = "warning"        // Text, Group if it is about one: something that the user should know
	EventKeyDocument   EventKind = "key_document"   // Domain, Text: a domain's keys are not what others are shown, so they are not used
	EventUncompared    EventKind = "uncompared"     // Domain, Text: a domain's keys are used though nobody could be asked for a day whether others are shown the same; see DomainKeys
)

// Event is one entry of the durable list of what happened. A zero User means that the person is not identified.
type Event struct {
	Seq     uint64 // increasing by one from 1
	Kind    EventKind
	Time    time.Time // acceptance by the group's hub where there is one, else the client's clock; whole seconds
	Group   string    // local id
	User    mimimi.User
	Message MessageID
	Request string // id, for Accept and Reject
	Body    []byte // content of a message
	Text    string // a constant sentence
	Device  string // URI of one of the user's own clients
	Domain  string
}

// MessageID names a message; it is the same for all members of the group.
type MessageID string

// eventRecord is an Event as it is stored.
type eventRecord struct {
	Kind    EventKind `json:"kind"`
	Time    int64     `json:"time"`
	Group   string    `json:"group,omitempty"`
	User    string    `json:"user,omitempty"`
	Message MessageID `json:"message,omitempty"`
	Request string    `json:"request,omitempty"`
	Body    []byte    `json:"body,omitempty"`
	Text    string    `json:"text,omitempty"`
	Device  string    `json:"device,omitempty"`
	Domain  string    `json:"domain,omitempty"`
}

// addEvent appends to the list. A zero time means now.
func (c *Client) addEvent(tx Tx, e eventRecord) error {
	seq := uint64(1)
	if b := tx.Get(bucketMeta, keySequence); len(b) == 8 {
		seq = fromBigEndian(b) + 1
	}
	if err := tx.Put(bucketMeta, keySequence, bigEndian(seq)); err != nil {
		return err
	}
	c.told = true
	if e.Time == 0 {
		e.Time = c.now().Unix()
	}
	if e.Message != "" {
		if err := tx.Put(bucketMessages, []byte(e.Group+"/"+string(e.Message)), bigEndian(seq)); err != nil {
			return err
		}
	}
	return write(tx, bucketEvents, bigEndian(seq), e)
}

// shown says whether a message is in the list already.
func shown(tx Tx, group string, id MessageID) bool {
	return tx.Get(bucketMessages, []byte(group+"/"+string(id))) != nil
}

// warn appends a warning.
func (c *Client) warn(tx Tx, group, sentence string) error {
	return c.addEvent(tx, eventRecord{Kind: EventWarning, Group: group, Text: sentence})
}

// Events returns the events with Seq > after, oldest first, at most limit (0 or more than 1,000: 1,000). It needs no network.
func (c *Client) Events(ctx context.Context, after uint64, limit int) ([]Event, error) {
	if limit <= 0 || limit > maxEvents {
		limit = maxEvents
	}
	all, _, err := c.page(ctx, after, limit)
	return all, err
}

// page returns the events of Events, and a channel that is closed when there are more than at this moment.
func (c *Client) page(ctx context.Context, after uint64, limit int) (all []Event, more <-chan struct{}, err error) {
	err = c.lockedFor(ctx, func() error {
		more = c.news
		if after == ^uint64(0) {
			return nil
		}
		return c.view(func(tx Tx) error {
			err := tx.Each(bucketEvents, bigEndian(after+1), func(k, v []byte) error {
				if len(all) == limit {
					return errEnough
				}
				e, err := parseEvent(k, v)
				all = append(all, e)
				return err
			})
			if errors.Is(err, errEnough) {
				return nil
			}
			return err
		})
	})
	return all, more, err
}

// errEnough ends a walk through a bucket.
var errEnough = errors.New("enough")

func parseEvent(key, value []byte) (Event, error) {
	var r eventRecord
	if err := json.Unmarshal(value, &r); err != nil || len(key) != 8 {
		return Event{}, ErrStore
	}
	e := Event{Seq: fromBigEndian(key), Kind: r.Kind, Time: time.Unix(r.Time, 0).UTC(), Group: r.Group, Message: r.Message, Request: r.Request,
		Body: r.Body, Text: r.Text, Device: r.Device, Domain: r.Domain}
	if r.User != "" {
		u, err := mimimi.ParseUser(r.User)
		if err != nil {
			return Event{}, ErrStore
		}
		e.User = u
	}
	return e, nil
}
