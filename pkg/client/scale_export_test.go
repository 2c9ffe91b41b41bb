package client

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

// Acquaint makes adder and member contacts as a complete connection does, so that adder can add member, without the group that it takes.
func Acquaint(ctx context.Context, adder, member *Client) error {
	token := mimimi.NewConnectionToken()
	err := member.lockedFor(ctx, func() error {
		if err := member.registerAlias(ctx, token); err != nil {
			return err
		}
		return member.putContact(adder, mimimi.NewConnectionToken(), token)
	})
	if err != nil {
		return err
	}
	return adder.lockedFor(ctx, func() error { return adder.putContact(member, token, mimimi.NewConnectionToken()) })
}

func (c *Client) putContact(other *Client, theirs, own mimimi.ConnectionToken) error {
	r := other.account.rec
	return c.update(func(tx Tx) error {
		return write(tx, bucketContacts, []byte(r.User), contactRecord{
			User: r.User, State: ContactConnected, Key: r.ConnectionKey, Token: theirs.Bytes(), OwnToken: own.Bytes(), AliasMade: true,
		})
	})
}

// ConfirmGroup tells c's queue that c wants a group, as a client does that has entered it.
func ConfirmGroup(ctx context.Context, c, member *Client, group string) error {
	var id []byte
	err := member.lockedFor(ctx, func() error {
		g, err := member.group(group)
		if err == nil {
			id = g.rec.GroupID
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.lockedFor(ctx, func() error {
		_, err := call(ctx, c.channels.queue.Confirm, &mimimiv1.QueueGroupRequest{
			QueueId: c.account.rec.QueueID, GroupId: id, Signed: c.signedQueue(opQueueConfirm, newRequestID(), id),
		})
		return err
	})
}

// FillPurse puts tokens of this week into the store of a client, registered or not.
func FillPurse(s Store, o mimimi.TokenOperation, domain string, now time.Time, tokens [][]byte) error {
	return s.Update(func(tx Tx) error { return putInto(tx, o, mimimi.TokenEpoch(now), domain, tokens) })
}

// StoreOf is the store of a client.
func StoreOf(c *Client) Store { return c.store }

// Rest closes c's connections.
func Rest(c *Client) { c.channels.close() }

// Traffic counts the bytes on a client's connections.
type Traffic struct{ Up, Down atomic.Int64 }

// Meter counts what c's later connections carry; c must be at rest.
func Meter(c *Client) *Traffic {
	count := new(Traffic)
	c.channels.close()
	h := c.channels.anonymousHTTP.Transport.(plain).Transport
	h.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return meteredConn{conn, count}, nil
	}
	return count
}

type meteredConn struct {
	net.Conn
	count *Traffic
}

func (m meteredConn) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	m.count.Down.Add(int64(n))
	return n, err
}

func (m meteredConn) Write(b []byte) (int, error) {
	n, err := m.Conn.Write(b)
	m.count.Up.Add(int64(n))
	return n, err
}
