package kpstore

import (
	"crypto/sha256"

	"golang.org/x/crypto/cryptobyte"

	"mimimi.example/pkg/mimimi"
)

// Every hash of this package begins with one of these labels, each used for one purpose.
const (
	labelNobody      = "MIMIMI 1.0 store nobody"
	labelOwnerRecord = "MIMIMI 1.0 store owner record"
	labelAlias       = "MIMIMI 1.0 store alias"
	labelSet         = "MIMIMI 1.0 store set"
	labelClaim       = "MIMIMI 1.0 store claim"
	labelServed      = "MIMIMI 1.0 store served"
	labelFresh       = "MIMIMI 1.0 store fresh"
	labelWithdrawn   = "MIMIMI 1.0 store withdrawn"
	labelIssuer      = "MIMIMI 1.0 store issuer"
	labelNotice      = "MIMIMI 1.0 store notice"
)

// derive returns SHA-256 over struct { opaque label<V>; opaque parts<V>[]; }. It panics if a part is longer than 2^14 - 1 bytes, which limits.go
// rules out.
func derive(label string, parts ...[]byte) []byte {
	var b cryptobyte.Builder
	addOpaque(&b, []byte(label))
	for _, p := range parts {
		addOpaque(&b, p)
	}
	sum := sha256.Sum256(b.BytesOrPanic())
	return sum[:]
}

// addOpaque writes opaque<V> of RFC 9420 §2.1.2, up to two bytes of length.
func addOpaque(b *cryptobyte.Builder, v []byte) {
	switch {
	case len(v) < 1<<6:
		b.AddUint8(uint8(len(v)))
	case len(v) < 1<<14:
		b.AddUint16(1<<14 | uint16(len(v)))
	default:
		panic("kpstore: value too long to hash")
	}
	b.AddBytes(v)
}

// ownerOf is an index's name inside the store: all that it knows of whose KeyPackages these are.
func ownerOf(writeKey []byte) []byte {
	id := mimimi.OwnerID(writeKey)
	return id[:]
}

// nobody is the index of an unknown connection token. It is read like any other, and always empty: nobody has a write key that hashes to it.
func nobody(tokenHash []byte) []byte { return derive(labelNobody, tokenHash) }

// withdrawnMark stands in place of a claim's key where the owner of an index withdrew a set. No claim has it.
func withdrawnMark(owner []byte) []byte { return derive(labelWithdrawn, owner) }

// claimKey names a claim: a request id counts for one connection token only.
func claimKey(requestID, tokenHash []byte) []byte { return derive(labelClaim, requestID, tokenHash) }
