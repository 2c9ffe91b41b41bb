// Package mls implements Messaging Layer Security, RFC 9420: the member's Group and the server's PublicGroup, which
// follows a group's public state without any secret.
//
// # A group
//
// A client publishes KeyPackages (NewKeyPackage) and keeps their secrets. Whoever founds a group makes it with NewGroup; the others come in by a
// Welcome (Join) or by a commit of their own (JoinExternal). From then on a Group does four things: Encrypt makes an application message, Propose a
// proposal, Commit a commit, and Process reads whatever the others sent.
//
// A commit is staged before it is in force. Commit and Process return a StagedCommit, whose Change says what the commit does; the group stays as it is
// until Merge. A member sends its own commit, waits until the server has ordered it, and merges it; if another commit was first, it merges that one
// and drops its own. A group that a commit would leave is no better or worse for a commit that is never merged.
//
//	staged, err := group.Commit(mls.CommitOptions{Proposals: …})
//	// store staged.Marshal() and group.Marshal(), send staged.Message, wait for the server's word
//	err = group.Merge(staged)
//	// store group.Marshal(), send staged.Welcome to those who were added
//
// Proposals go into a commit by value (CommitOptions.Proposals) or were sent before, by a member (Propose), by an external sender
// (PublicGroup.ExternalProposal) or by a client that wants to be added (GroupInfo.NewMemberAdd). Those that were received are pending, and the next
// commit takes up all that go together.
//
// # State
//
// A Group is a value of bytes away from being stored: Marshal, and ParseGroup. It uses every key once, so it is stored before what it made leaves and
// before what it read is acted on. A StagedCommit can be stored too, so that a crash between sending and merging loses nothing.
//
// # A server
//
// A PublicGroup follows a group by its PublicMessages: it begins with a GroupInfo and a tree (NewPublicGroup), takes proposals (AddProposal) and commits
// (StageCommit), and checks each against every rule that can be checked without the group's secrets, with the code that members use. It is an
// immutable value: each step returns the next one.
//
// # An application's own rules
//
// Rules hold what the application adds: custom proposals, which leaves and commits it takes, who is one client. Members and servers are given the same
// Rules, and judge alike. Extensions, credentials and proposals of unknown types are carried as they are.
//
// # Ends and branches
//
// A commit with a ReInit ends a group. Group.Successor makes the group that takes its place, maybe with another cipher suite, or a branch of a group that
// goes on. The others Join it, and are told in GroupInfo.Predecessor of which of their groups it is the successor or a branch; nothing but that
// field says so. PSKs, external ones and those of the client's other groups, come from the functions PSK and Groups.
//
// # Guarantees
//
//   - One canonical form: whatever a parser accepts, its marshal method writes back byte for byte, and bytes left over
//     are an error. No input makes the package panic or allocate more than a small multiple of its own length.
//   - A failed operation changes nothing. Operations compute a new state and publish it last.
//   - Unknown credential, proposal and extension types are carried unchanged. The body of an unknown credential or
//     proposal type is one opaque<V>.
//   - Errors, panics and formatted keys never hold a secret, an identifier, or bytes of a message.
//   - A tree that has passed validation has unique keys, valid leaf signatures and valid parent hashes.
//   - MACs, confirmation and membership tags are compared in constant time. Everything else that is compared is public: identifiers, public keys,
//     hashes, tags of the public state. Secret keys cannot be compared at all. How constant the time of a key operation is, is its library's
//     matter; crypto/ecdh, crypto/ecdsa, crypto/ed25519 and circl say that theirs is.
//   - A secret is erased when it has served: a message key and its ratchet's secret with the message, a node of the secret tree when it is
//     expanded, path secrets, commit_secret, psk_secret, joiner_secret and epoch_secret when the next one is derived, shared secrets and keys of HPKE
//     and of sender data after one use, replaced keys of the tree, keys of Updates that were not committed and the epoch's secrets when the next
//     epoch is merged, and what late messages need when the epoch is forgotten. No marshalled state holds any of them from then on.
//   - A group that a ReInit has ended sends and takes nothing any more but late messages of the epochs before.
//
// # Non-guarantees
//
//   - The package does not decide who an identity is: credentials are opaque to it, and an application judges them in
//     its Rules.
//   - It keeps no time and stores nothing. Lifetimes are checked only where a time is passed in, and forward secrecy
//     holds only if the caller stores the new state over the old one.
//   - It does not know which groups a client is in, but for what JoinConfig.Groups tells it.
//   - Go cannot promise that erased key material leaves no copy in memory. The private keys of crypto/ecdh and crypto/ecdsa and what circl expands
//     an X-Wing key to are dropped without being overwritten, since there is no way to them; so are the secrets of a StagedCommit that is never merged.
//     Secrets that the caller holds are the caller's: KeyPackageSecrets, signature keys, PSKs, and what Marshal and Export return.
//
// The package has no network, log, clock or goroutine that outlives a call.
package mls
