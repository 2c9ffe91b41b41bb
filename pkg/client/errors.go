package client

import (
	"errors"

	"mimimi.example/pkg/problem"
)

// The errors that an app may branch on. Errors of a service are problem.Errors: problem.KindOf tells them apart.
var (
	// ErrLocked says that another process holds the client's store.
	ErrLocked = errors.New("client: another process uses this client's folder")
	// ErrNotRegistered says that the folder holds no client.
	ErrNotRegistered = errors.New("client: no user is registered in this folder")
	// ErrRegistered says that the folder holds a client of another user already.
	ErrRegistered = errors.New("client: another user is registered in this folder")
	// ErrUnknownUser says that a user does not exist or that its provider does not say so.
	ErrUnknownUser = errors.New("client: no such user")
	// ErrNotConnected says that an operation needs a contact that is connected.
	ErrNotConnected = errors.New("client: not connected with this user")
	// ErrUnknownRequest says that no connection request has this id, or that it was settled before.
	ErrUnknownRequest = errors.New("client: no such connection request")
	// ErrUnknownGroup says that this client is in no such group.
	ErrUnknownGroup = errors.New("client: no such group")
	// ErrGroupOver says that the client is not in the group any more.
	ErrGroupOver = errors.New("client: no longer in this group")
	// ErrNotReady says that the client is still being let into the group: try again after the next Sync.
	ErrNotReady = errors.New("client: not let into this group yet")
	// ErrNotMember says that a user is not in the group.
	ErrNotMember = errors.New("client: not a member of this group")
	// ErrMember says that a user is in the group already.
	ErrMember = errors.New("client: already a member of this group")
	// ErrDenied says that the group's policy does not let this user do that.
	ErrDenied = errors.New("client: the group's policy does not allow it")
	// ErrBusy says that others' commits came first too often in a row: try again.
	ErrBusy = errors.New("client: others' changes to the group came first: try again")
	// ErrIdentity says that somebody's proof of identity does not hold: a certificate, record, key document or leaf is not what it should be.
	ErrIdentity = errors.New("client: an identity does not verify")
	// ErrBadInvitation says that an invitation link cannot be read, is over, or is not the inviter's.
	ErrBadInvitation = errors.New("client: the invitation is not valid")
	// ErrNoTokens says that this client has used up its anonymous tokens for something; a *NoTokensError says for what, and until when.
	ErrNoTokens = errors.New("client: no anonymous tokens are left for this week")
	// ErrTooLarge says that a message is longer than MaxMessage bytes.
	ErrTooLarge = errors.New("client: the message is too large")
	// ErrUnknownDevice says that no new device waits with this code, or that the user has no such device.
	ErrUnknownDevice = errors.New("client: no such device")
	// ErrAmbiguousCode says that several offers have one code, which does not happen by chance: somebody is trying to be taken for the new device.
	ErrAmbiguousCode = errors.New("client: several offers have this code: link the device again")
	// ErrLinkExpired says that nobody has let this new device in in time: Link makes another code.
	ErrLinkExpired = errors.New("client: the code has expired")
	// ErrDeviceRemoved says that this device was removed at another one of the user's.
	ErrDeviceRemoved = errors.New("client: this device was removed")
	// ErrCutOff says that this device lost the group of the user's devices: remove it at another one and link it again.
	ErrCutOff = errors.New("client: this device cannot reach the user's others any more")
	// ErrBanned says that a user is on the group's ban list.
	ErrBanned = errors.New("client: banned from this group")
	// ErrRefused says that the user has refused the group: Unrefuse takes that back.
	ErrRefused = errors.New("client: this group is refused")
	// ErrClosed says that the Client was closed.
	ErrClosed = errors.New("client: closed")
	// ErrDeleted says that the account is being deleted: DeleteAccount or Sync goes on with that.
	ErrDeleted = errors.New("client: the account is being deleted")
	// ErrKey says that the store is encrypted under another key or passphrase, or that it is not encrypted and one was given, or the other way round.
	ErrKey = errors.New("client: the key does not open the store")
	// ErrStore says that the store is damaged or of a later version of this package.
	ErrStore = errors.New("client: the store cannot be read")
)

// isStale says that a service refused because something else came first.
func isStale(err error) bool { return err != nil && problem.KindOf(err) == problem.Stale }

// isFinal says that repeating the same request will not help. What a relay refuses is never final (sealedTo).
func isFinal(err error) bool {
	switch problem.KindOf(err) {
	case problem.Invalid, problem.Denied, problem.NotFound:
		return true
	}
	return false
}
