package provider

import (
	"bytes"
	"context"
	"slices"
	"time"

	mimimiv1 "mimimi.example/api/mimimi/v1"
	"mimimi.example/pkg/mimimi"
	"mimimi.example/pkg/problem"
)

// caller is who signed a request on the account channel.
type caller struct {
	client  mimimi.Client
	entry   *mimimiv1.ClientEntry
	account *mimimiv1.AccountEntry  // of the entry's user; empty if there is none
	part    *mimimiv1.AccountClient // nil: the account does not list the client
}

// find reads what is known of a client.
func (a *accountSide) find(ctx context.Context, name string) (*caller, error) {
	client, err := mimimi.ParseClient(name)
	if err != nil || client.Domain() != a.domain {
		return nil, problem.New(problem.Invalid, "client must be mimi://domain/d/uuid, of this provider's domain")
	}
	w := &caller{client: client, account: new(mimimiv1.AccountEntry)}
	var ok bool
	if w.entry, _, ok, err = get[mimimiv1.ClientEntry](ctx, a.bus, a.bus.AccountClient(client.Wire())); err != nil {
		return nil, err
	}
	if !ok {
		return nil, errAccountAuth
	}
	if w.entry.GetGone() {
		return w, nil
	}
	if w.account, _, _, err = get[mimimiv1.AccountEntry](ctx, a.bus, a.bus.Account(w.entry.GetUser())); err != nil {
		return nil, err
	}
	w.part = clientOf(w.account, client.Wire())
	return w, nil
}

// key is what the client signs with: as its account says, or, of a client that is not on one, as it was last.
func (w *caller) key() []byte {
	if w.part != nil {
		return w.part.GetSignatureKey()
	}
	if c := leavingOf(w.account, w.client.Wire()); c != nil {
		return c.GetSignatureKey()
	}
	return w.entry.GetSignatureKey()
}

// caller returns who signed a request. The proof of a client that has no account any more is checked as any other, so that it can be told.
func (a *accountSide) caller(ctx context.Context, operation, name string, s *mimimiv1.Signed, body []byte) (*caller, error) {
	w, err := a.find(ctx, name)
	if err != nil {
		return nil, err
	}
	return w, a.verify(operation, w.client, w.key(), s, body)
}

// ListClients returns the certificates of the user's clients. It changes nothing.
func (a *accountSide) ListClients(ctx context.Context, req *mimimiv1.ListClientsRequest) (*mimimiv1.ListClientsResponse, error) {
	account, _, err := a.authenticate(ctx, "list clients", req.GetClient(), req.GetSigned(), nil)
	if err != nil {
		return nil, problem.Connect(err)
	}
	answer := new(mimimiv1.ListClientsResponse)
	for _, c := range account.GetClients() {
		answer.Certificates = append(answer.Certificates, c.GetCertificate())
	}
	return answer, nil
}

// RemoveClient takes a client off the account and revokes its certificates. The user's record stays, though it may hold one of them, until another client
// publishes its own.
//
// Writes: (1) the account, where the client moves from those that may act to those that leave: it is denied from then on; (2) the domain's list of
// revocations; (3) the client's entry, marked as gone; (4) the account, which forgets it. If a client removes itself (3) comes after (4). After a crash the
// repeat goes on from where it stopped, as does any later request of another client of the account; every step finds its own work done. A repeat after
// all of them changes nothing.
func (a *accountSide) RemoveClient(ctx context.Context, req *mimimiv1.RemoveClientRequest) (*mimimiv1.RemoveClientResponse, error) {
	if err := a.removeClient(ctx, req); err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.RemoveClientResponse{}, nil
}

func (a *accountSide) removeClient(ctx context.Context, req *mimimiv1.RemoveClientRequest) error {
	removed, err := mimimi.ParseClient(req.GetRemovedClient())
	if err != nil || removed.Domain() != a.domain {
		return problem.New(problem.Invalid, "removed_client must be mimi://domain/d/uuid, of this provider's domain")
	}
	w, err := a.caller(ctx, "remove client", req.GetClient(), req.GetSigned(), []byte(removed.Wire()))
	if err != nil {
		return err
	}
	if w.part == nil {
		if removed != w.client {
			return errClientGone
		}
		return a.finishSelf(ctx, w)
	}
	return a.takeOff(ctx, w.account.GetUser(), removed.Wire(), w.client.Wire())
}

// takeOff removes a client of a user for good. by is the client that asks, "" if the provider itself does; it must still be there.
func (a *accountSide) takeOff(ctx context.Context, user, removed, by string) error {
	moved := false
	err := update(ctx, a.bus, a.bus.Account(user), func(e *mimimiv1.AccountEntry, _ bool) (bool, error) {
		moved = false
		if by != "" && clientOf(e, by) == nil {
			return false, errClientGone
		}
		c := clientOf(e, removed)
		if c == nil {
			return false, nil
		}
		if len(e.GetClients()) == 1 {
			return false, errLastClient
		}
		leave(e, c)
		moved = true
		return true, nil
	})
	if err != nil {
		return err
	}
	if moved {
		a.m.Removed.Add(ctx, 1)
	}
	return a.settle(ctx, user, by)
}

// leave moves a client from those that may act to those that leave.
func leave(e *mimimiv1.AccountEntry, c *mimimiv1.AccountClient) {
	e.Clients = slices.DeleteFunc(e.GetClients(), func(o *mimimiv1.AccountClient) bool { return o == c })
	e.Leaving = append(e.GetLeaving(), c)
}

// settle finishes what a removal or deletion began: what RemoveClient and DeleteAccount do after (1). asker's own entry comes last, since it leads a repeat of its request
// to the account.
func (a *accountSide) settle(ctx context.Context, user, asker string) error {
	account, _, _, err := get[mimimiv1.AccountEntry](ctx, a.bus, a.bus.Account(user))
	if err != nil {
		return err
	}
	gone := account.GetLeaving()
	if len(gone) > 0 || account.GetDeleted() && account.GetUser() != "" {
		if account.GetDeleted() {
			if err := a.empty(ctx, user); err != nil {
				return err
			}
		}
		if err := a.revoke(ctx, gone); err != nil {
			return err
		}
		for _, c := range gone {
			if c.GetClient() != asker {
				if err := a.markGone(ctx, c); err != nil {
					return err
				}
			}
		}
		if err := a.forget(ctx, user, gone); err != nil {
			return err
		}
	}
	if c := leavingOf(account, asker); c != nil {
		return a.markGone(ctx, c)
	}
	return nil
}

// empty removes what waits for a user who was deleted.
func (a *accountSide) empty(ctx context.Context, user string) error {
	if err := a.bus.Purge(ctx, a.bus.Inbox(user), 0); err != nil {
		return err
	}
	return a.bus.Purge(ctx, a.bus.Links(user), 0)
}

// settleLater settles on the way what an earlier request left. That it fails is not this request's fault: it is counted, and the next one tries again.
func (a *accountSide) settleLater(ctx context.Context, w *caller) {
	if len(w.account.GetLeaving()) == 0 {
		return
	}
	if err := a.settle(ctx, w.account.GetUser(), ""); err != nil {
		a.m.Unsettled.Add(ctx, 1)
	}
}

// finishSelf goes on with the removal of the client that asks, which its account no longer lists.
func (a *accountSide) finishSelf(ctx context.Context, w *caller) error {
	if w.entry.GetGone() {
		return nil
	}
	if err := a.settle(ctx, w.entry.GetUser(), w.client.Wire()); err != nil {
		return err
	}
	return a.markGone(ctx, &mimimiv1.AccountClient{Client: w.client.Wire(), SignatureKey: w.key()})
}

// revoke puts all certificates of clients on the domain's list.
func (a *accountSide) revoke(ctx context.Context, clients []*mimimiv1.AccountClient) error {
	var revoked []mimimi.RevokedCertificate
	for _, c := range clients {
		certificate, err := mimimi.ParseClientCertificate(c.GetCertificate())
		if err != nil {
			return errCorrupt
		}
		revoked = append(revoked, mimimi.RevokedCertificate{Hash: certificate.Hash(), NotAfter: certificate.NotAfter})
		for _, e := range c.GetEarlier() {
			r, ok := revocable(e)
			if !ok {
				return errCorrupt
			}
			revoked = append(revoked, r)
		}
	}
	return a.revocations.add(ctx, revoked)
}

// revocable reads a stored entry.
func revocable(e *mimimiv1.RevocableCertificate) (r mimimi.RevokedCertificate, ok bool) {
	copy(r.Hash[:], e.GetHash())
	r.NotAfter = time.Unix(e.GetNotAfter(), 0).UTC()
	return r, len(e.GetHash()) == len(r.Hash)
}

// markGone makes a client's entry a tombstone that names no user. The key stays, so that the client can be told.
func (a *accountSide) markGone(ctx context.Context, c *mimimiv1.AccountClient) error {
	return update(ctx, a.bus, a.bus.AccountClient(c.GetClient()), func(e *mimimiv1.ClientEntry, _ bool) (bool, error) {
		if e.GetGone() {
			return false, nil
		}
		e.User, e.SignatureKey, e.Gone = "", c.GetSignatureKey(), true
		return true, nil
	})
}

// forget drops clients that have left from an account, and the name from an account that was deleted.
func (a *accountSide) forget(ctx context.Context, user string, gone []*mimimiv1.AccountClient) error {
	return update(ctx, a.bus, a.bus.Account(user), func(e *mimimiv1.AccountEntry, _ bool) (bool, error) {
		before := len(e.GetLeaving())
		e.Leaving = slices.DeleteFunc(e.GetLeaving(), func(c *mimimiv1.AccountClient) bool {
			return slices.ContainsFunc(gone, func(g *mimimiv1.AccountClient) bool {
				return g.GetClient() == c.GetClient() && bytes.Equal(g.GetCertificate(), c.GetCertificate())
			})
		})
		named := e.GetDeleted() && len(e.GetLeaving()) == 0 && e.GetUser() != ""
		if named {
			e.User = ""
		}
		return named || len(e.GetLeaving()) < before, nil
	})
}

// DeleteAccount removes a user.
//
// Writes: (1) the account, which becomes a tombstone without record, its clients among those that leave: all of them are denied from then on, and the name
// is not given out again; (2) the inbox and the mailbox of links are emptied; (3) the rest as RemoveClient does it, for all clients. After
// a crash a repeat by any of them goes on, since the request names the user. A repeat after all of it changes nothing. A connection request that
// was on its way at (2) waits in the inbox until it expires.
func (a *accountSide) DeleteAccount(ctx context.Context, req *mimimiv1.DeleteAccountRequest) (*mimimiv1.DeleteAccountResponse, error) {
	if err := a.deleteAccount(ctx, req); err != nil {
		return nil, problem.Connect(err)
	}
	return &mimimiv1.DeleteAccountResponse{}, nil
}

func (a *accountSide) deleteAccount(ctx context.Context, req *mimimiv1.DeleteAccountRequest) error {
	w, err := a.caller(ctx, "delete account", req.GetClient(), req.GetSigned(), []byte(req.GetUser()))
	if err != nil {
		return err
	}
	user := w.entry.GetUser()
	if w.entry.GetGone() {
		return a.goneWith(ctx, req.GetUser())
	}
	if req.GetUser() != user {
		return errNotOurUser
	}
	if w.part != nil {
		if err := a.entomb(ctx, user, w.client.Wire()); err != nil {
			return err
		}
	} else if !w.account.GetDeleted() {
		return errClientGone
	}
	return a.settle(ctx, user, "")
}

// goneWith says whether a client that has gone went with its user, and finishes what is left to do of that.
func (a *accountSide) goneWith(ctx context.Context, user string) error {
	account, _, _, err := get[mimimiv1.AccountEntry](ctx, a.bus, a.bus.Account(user))
	if err != nil {
		return err
	}
	if !account.GetDeleted() {
		return errClientGone
	}
	return a.settle(ctx, user, "")
}

// entomb is step (1) of DeleteAccount.
func (a *accountSide) entomb(ctx context.Context, user, by string) error {
	err := update(ctx, a.bus, a.bus.Account(user), func(e *mimimiv1.AccountEntry, _ bool) (bool, error) {
		if e.GetDeleted() {
			return false, nil
		}
		if clientOf(e, by) == nil {
			return false, errClientGone
		}
		e.Deleted, e.Record = true, nil
		e.Leaving, e.Clients = append(e.GetLeaving(), e.GetClients()...), nil
		return true, nil
	})
	if err == nil {
		a.m.Deleted.Add(ctx, 1)
	}
	return err
}
