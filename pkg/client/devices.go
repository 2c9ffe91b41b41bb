package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
)

// The clients of one user tell each other what they share in a group of their own: an ordinary group at the own domain's hub, in which all leaves are of one user
// (protocol.md §5). It is made when a second client is let in, and is shown to nobody.
//
// What two clients change at the same time has one outcome on all of them. Secrets, contacts and labels each carry a number, which whoever changes them counts up; the higher
// number holds, and of two changes with one number the one whose encoding is greater. A request that one client settles is settled for all; if two accept it at once,
// the one holds whose entry into the connection group the hub takes first, since the invitation lets one in. Two that bring in or remove the same client make two commits, of
// which the later finds nothing left to do. Two that claim get different sets, and so make different groups.

// Device is one of the user's own clients.
type Device struct {
	ID          string // the client's URI
	Self        bool
	Fingerprint string // of its certificate
	// Linked says that the client is in the group of the user's own clients. One that is not is on its way in, or on its way out, or the provider made it up.
	Linked bool
}

// clientCount is how many clients the user has, this one included: so many KeyPackages make a complete set.
func (c *Client) clientCount() int { return max(1, len(c.own)) }

// leads says whether this client is the one of the user's clients that does what one of them has to do for all, such as monthly rotation.
func (c *Client) leads() bool { return c.rank() == 0 && !c.account.rec.CutOff }

// rank is this client's place among the user's clients, by their leaves in their own group: the first leads, each later one waits one turn longer.
func (c *Client) rank() int { return max(0, slices.Index(c.own, c.account.rec.Client)) }

// isOwnClient says whether a client is one of the user's own that are linked.
func (c *Client) isOwnClient(client string) bool {
	return client == c.account.rec.Client || slices.Contains(c.own, client)
}

// spread returns a random time within Config.Spread: what touches all of a user's groups at once is put off by it for each of them (protocol.md §8).
func (c *Client) spread() time.Duration {
	if c.cfg.Spread <= 0 {
		return 0
	}
	return rand.N(c.cfg.Spread)
}

// turnAfter is how much later than the first client this one does what any one of them may do for all.
func (c *Client) turnAfter() time.Duration { return time.Duration(c.rank()) * turnDelay }

// noteOwn takes note of who is in the group of the own clients.
func (c *Client) noteOwn(g *group) {
	c.own = nil
	if g == nil || g.rec.State == GroupOver {
		return
	}
	for _, i := range g.leavesOf(c.account.rec.User) {
		c.own = append(c.own, g.rec.Leaves[i].Client)
	}
}

// loadOwn is noteOwn from the store.
func (c *Client) loadOwn() error {
	c.own = nil
	return c.view(func(tx Tx) error {
		id := tx.Get(bucketGroupIDs, c.account.rec.DeviceGroup)
		if id == nil || len(c.account.rec.DeviceGroup) == 0 {
			return nil
		}
		rec, found, err := read[groupRecord](tx, bucketGroups, id)
		if err != nil || !found {
			return err
		}
		if _, _, err := readRoster(tx, rec); err != nil {
			return err
		}
		c.noteOwn(&group{rec: rec})
		return nil
	})
}

// deviceGroup returns the group of the own clients inside a transaction, nil if there is none.
func (c *Client) deviceGroup(tx Tx) (*group, error) {
	if len(c.account.rec.DeviceGroup) == 0 {
		return nil, nil
	}
	return c.groupByIDIn(tx, c.account.rec.DeviceGroup)
}

// deviceGroupID returns the local id of the group of the own clients, empty if there is none.
func (c *Client) deviceGroupID() (local string, err error) {
	if len(c.account.rec.DeviceGroup) == 0 {
		return "", nil
	}
	local, _, err = c.groupByID(c.account.rec.DeviceGroup)
	return local, err
}

// tellDevices hands a change of what the user's clients share to the others, by a message in the group of the user's own clients. If there are none it does nothing.
func (c *Client) tellDevices(tx Tx, s *mimimiv1.DeviceSync) error {
	if len(c.own) <= 1 {
		return nil
	}
	g, err := c.deviceGroup(tx)
	if err != nil || g == nil || g.mls == nil || g.rec.State == GroupOver {
		return err
	}
	if err := g.postSync(s); err != nil {
		return err
	}
	return c.putGroup(tx, g)
}

// postSync posts a message to the own clients. If too many wait, since the hub cannot be reached for long, they are dropped, and everything is told when it can.
func (g *group) postSync(s *mimimiv1.DeviceSync) error {
	body, err := proto.Marshal(s)
	if err != nil {
		return err
	}
	if len(g.rec.Outgoing) >= maxOutgoing {
		g.rec.Outgoing = slices.DeleteFunc(g.rec.Outgoing, func(o *outgoing) bool { return o.Type == mimimi.EnvelopeDeviceSync && o.Message == nil })
		g.rec.TellAll, g.rec.TellAllAt = true, 0
	}
	g.post(&outgoing{Type: mimimi.EnvelopeDeviceSync, Body: body})
	return nil
}

// flushDevices sends what waits for the other clients, and says whether nothing is left.
func (c *Client) flushDevices(ctx context.Context) (done bool, err error) {
	local, err := c.deviceGroupID()
	if err != nil || local == "" {
		return err == nil, err
	}
	err = c.work(ctx, local)
	g, gerr := c.group(local)
	if gerr != nil {
		return errors.Is(gerr, ErrUnknownGroup), errors.Join(err, gerr)
	}
	for _, o := range g.rec.Outgoing {
		if o.Type == mimimi.EnvelopeDeviceSync && o.Sequence == 0 && g.rec.State == GroupActive {
			return false, err
		}
	}
	return true, err
}

// hidden says whether a group is the client's own business: a connection group, or that of the user's clients.
func (r *groupRecord) hidden() bool { return r.Peer != "" || r.Devices }

// Devices returns the user's clients, as the provider has them, this one first. Each one's certificate is verified. Errors: ErrIdentity.
func (c *Client) Devices(ctx context.Context) (all []Device, err error) {
	err = c.lockedFor(ctx, func() error {
		if err := c.complete(); err != nil {
			return err
		}
		certs, err := c.listClients(ctx)
		if err != nil {
			return err
		}
		for _, cert := range certs {
			id := cert.Client.Wire()
			all = append(all, Device{ID: id, Self: id == c.account.rec.Client, Fingerprint: cert.Fingerprint(), Linked: c.isOwnClient(id)})
		}
		for _, id := range c.own { // the provider may leave one out
			if !slices.ContainsFunc(all, func(d Device) bool { return d.ID == id }) {
				all = append(all, Device{ID: id, Self: id == c.account.rec.Client, Linked: true})
			}
		}
		slices.SortStableFunc(all, func(a, b Device) int {
			switch {
			case a.Self == b.Self:
				return 0
			case a.Self:
				return -1
			}
			return 1
		})
		return nil
	})
	return all, err
}

// listClients asks the provider for the certificates of the user's clients and verifies them.
func (c *Client) listClients(ctx context.Context) ([]*mimimi.ClientCertificate, error) {
	res, err := call(ctx, c.channels.account.ListClients, &mimimiv1.ListClientsRequest{
		Client: c.account.rec.Client, Signed: c.signedAccount(opListClients, newRequestID(), nil),
	})
	if err != nil {
		return nil, fmt.Errorf("list clients: %w", err)
	}
	if len(res.Certificates) > 2*maxDevices {
		return nil, fmt.Errorf("list clients: %w", ErrIdentity)
	}
	var all []*mimimi.ClientCertificate
	for _, b := range res.Certificates {
		cert, err := mimimi.ParseClientCertificate(b)
		if err != nil || cert.User != c.account.user || cert.Verify(c.account.rec.Provider.IdentityKey, c.now()) != nil {
			return nil, fmt.Errorf("list clients: %w", ErrIdentity)
		}
		all = append(all, cert)
	}
	return all, nil
}

// ackInbox acknowledges what was fetched, once the user's other clients have been told: what only this client has would be lost with it. It says whether nothing is left to
// acknowledge.
func (c *Client) ackInbox(ctx context.Context) (done bool, err error) {
	var last []byte
	err = c.view(func(tx Tx) error {
		last = bytes.Clone(tx.Get(bucketMeta, keyInbox))
		return nil
	})
	if err != nil || last == nil {
		return err == nil, err
	}
	if len(last) != 8 {
		return false, ErrStore
	}
	if told, err := c.flushDevices(ctx); err != nil || !told {
		return false, err
	}
	_, err = call(ctx, c.channels.account.AckInbox, &mimimiv1.AckInboxRequest{
		Client: c.account.rec.Client, Position: fromBigEndian(last), Signed: c.signedAccount(opAckInbox, newRequestID(), last),
	})
	if err != nil {
		return false, fmt.Errorf("acknowledge inbox: %w", err)
	}
	return true, c.update(func(tx Tx) error { return tx.Delete(bucketMeta, keyInbox) })
}

// syncDevice does what comes before everything else in a Sync: the link of a new client, the end of a removed one. It says whether that is all there is to do.
func (c *Client) syncDevice(ctx context.Context) (done bool, err error) {
	r := c.account.rec
	switch {
	case r.Removed:
		return true, errors.Join(ErrDeviceRemoved, c.erase(ctx))
	case r.Link == nil:
		return false, nil
	}
	if r.QueueMade && !r.Link.Left { // an earlier offer may have been answered after all
		if linked, err := c.readLink(ctx); linked || err != nil {
			return !linked, err
		}
	}
	linked, err := c.workLink(ctx)
	return !linked, err
}

// workDevices does what this client owes the user's other clients.
func (c *Client) workDevices(ctx context.Context) error {
	if c.account.rec.Removed || c.account.rec.CutOff {
		return nil
	}
	return distinct([]error{c.workApprovals(ctx), c.workShared(ctx), c.workBrings(ctx), c.workRemovals(ctx)})
}
