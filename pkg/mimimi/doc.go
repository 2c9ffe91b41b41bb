// Package mimimi is the protocol of docs/protocol.md: pseudonymous credentials with identity links, connections, KeyPackages,
// queue IDs, the add and join flows, group policy and the hub's rules, on top of pkg/mls. Section numbers in this package are of
// that document unless an RFC is named.
//
// Guarantees:
//   - Every parser takes exactly the one canonical encoding, keeps nothing of its input, and never panics on foreign bytes.
//   - Whatever is hashed, signed or used as AAD, HPKE info or KDF context begins with a label of the table in label.go (§0).
//   - Whatever a hub or a store sees of a KeyPackage, leaf or queue ID has the same length for every user of one domain.
//   - Errors are constant sentences; identifiers and secrets are redact types and print as "[user]", "[secret]", and so on.
//   - A State is an immutable value; a refused commit changes nothing.
//
// Not guaranteed: nothing here verifies membership tags, confirmation tags or path secrets (pkg/mls does, at members), checks
// join tokens against a hub's register, knows which KeyPackages were seen before, or decides whether a certificate was revoked.
// There is no clock: every time is passed in.
package mimimi
