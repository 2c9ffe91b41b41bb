package mls

import "golang.org/x/crypto/cryptobyte"

// confirmedTranscriptHash is confirmed_transcript_hash after the commit ac, RFC 9420 §8.2. interim is interim_transcript_hash of
// the epoch that the commit leaves.
func confirmedTranscriptHash(suite CipherSuite, interim []byte, ac *authenticatedContent) []byte {
	var b cryptobyte.Builder
	b.AddBytes(interim)
	b.AddUint16(uint16(ac.wireFormat))
	b.AddBytes(ac.content.bytes())
	writeOpaque(&b, ac.auth.signature)
	return suite.Hash(b.BytesOrPanic())
}

// interimTranscriptHash is interim_transcript_hash, RFC 9420 §8.2.
func interimTranscriptHash(suite CipherSuite, confirmed, confirmationTag []byte) []byte {
	var b cryptobyte.Builder
	b.AddBytes(confirmed)
	writeOpaque(&b, confirmationTag)
	return suite.Hash(b.BytesOrPanic())
}
