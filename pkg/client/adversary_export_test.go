package client

import (
	"context"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/mls"
)

// Insider is what a member has in its hands who does not keep the rules: a copy of its state in a group that checks none of MIMIMI's rules.
type Insider struct {
	ID    mimimi.GroupID
	Group *mls.Group
	Own   mls.KeyPackageSecrets
	Keys  []*mimimi.LinkKey // by leaf; nil: unknown
	Last  uint64            // the place in the log that Group is at
}

// Inside returns what c has of a group.
func Inside(c *Client, group string) (in *Insider, err error) {
	err = c.lockedFor(context.Background(), func() error {
		g, err := c.group(group)
		if err != nil {
			return err
		}
		rules := protocolRules()
		rules.CheckLeaf = nil
		lax, err := mls.ParseGroup(g.mls.Marshal(), rules)
		in = &Insider{ID: g.id, Group: lax, Own: g.own.secrets, Keys: g.linkKeys(), Last: g.rec.Last}
		return err
	})
	return in, err
}

// ConnectionGroup is c's local id of its connection group with user.
func ConnectionGroup(c *Client, user mimimi.User) string {
	c.slot <- struct{}{}
	defer func() { <-c.slot }()
	k, found, err := c.contact(user)
	if err != nil || !found {
		return ""
	}
	return k.Group
}

// Secrets are what c makes its leaves with.
func Secrets(c *Client) (cert *mimimi.ClientCertificate, certKey mls.SignatureKey, key mimimi.ConnectionKey) {
	c.slot <- struct{}{}
	defer func() { <-c.slot }()
	return c.account.certificate, c.account.certKey, c.account.connectionKey
}

// SecretOf is the connection key that c has of a contact.
func SecretOf(c *Client, user mimimi.User) (key mimimi.ConnectionKey) {
	_ = c.lockedFor(context.Background(), func() error {
		k, err := c.connected(user)
		if err == nil {
			key, _, err = k.secrets()
		}
		return err
	})
	return key
}

// Unidentified counts the leaves of any of c's groups, connection groups too, that c cannot identify, its own apart. It is 0 for a group that is over.
func Unidentified(c *Client, group string) (n int) {
	c.slot <- struct{}{}
	defer func() { <-c.slot }()
	g, err := c.group(group)
	if err != nil || g.mls == nil {
		return 0
	}
	for i, r := range g.rec.Leaves {
		if r.User == "" && i != g.mls.OwnIndex() {
			n++
		}
	}
	return n
}

// ClaimFrom claims a set of a contact's, checks nothing, and returns it with the link keys of its leaves.
func ClaimFrom(ctx context.Context, c *Client, user mimimi.User) (set []*mls.KeyPackage, keys []mimimi.LinkKey, err error) {
	err = c.lockedFor(context.Background(), func() error {
		k, err := c.connected(user)
		if err != nil {
			return err
		}
		key, token, err := k.secrets()
		if err != nil {
			return err
		}
		if set, _, err = c.claim(ctx, user.Domain(), token, newRequestID(), true); err != nil {
			return err
		}
		for _, kp := range set {
			cred, err := mimimi.ParsePseudonymousCredential(kp.Leaf().Credential())
			if err != nil {
				return err
			}
			keys = append(keys, cred.LinkKey(key))
		}
		return nil
	})
	return set, keys, err
}

// Waiting reads what waits in c's queue, and leaves it there.
func Waiting(ctx context.Context, c *Client) (all []*mimimiv1.QueueEntry, err error) {
	err = c.lockedFor(context.Background(), func() error {
		after, err := c.position()
		for more := true; more && err == nil; {
			var res *mimimiv1.ReadQueueResponse
			res, err = call(ctx, c.channels.queue.Read, &mimimiv1.ReadQueueRequest{
				QueueId: c.account.rec.QueueID, After: after, Signed: c.signedQueue(opQueueRead, newRequestID(), bigEndian(after)),
			})
			if err == nil {
				more = res.More && len(res.Entries) > 0
				for _, e := range res.Entries {
					all, after = append(all, e), e.Position
				}
			}
		}
		return err
	})
	return all, err
}
