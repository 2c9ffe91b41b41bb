// Package mls implements Messaging Layer Security, RFC 9420: the member's Group and the server's PublicGroup, which
// follows a group's public state without any secret.
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
//
// # Non-guarantees
//
//   - The package does not decide who an identity is: credentials are opaque to it, and an application judges them in
//     its Rules.
//   - It keeps no time and stores nothing. Lifetimes are checked only where a time is passed in, and forward secrecy
//     holds only if the caller stores the new state over the old one.
//   - It makes no ReInit and no branch of a group. A ReInit that another member commits is carried out as RFC 9420 §12.1.5
//     says, but for the successor: Change.Proposals shows it, and the application stops using the group or refuses it in
//     CheckCommit.
//   - Go cannot promise that erased key material leaves no copy in memory.
//
// The package has no network, log, clock or goroutine that outlives a call.
package mls
