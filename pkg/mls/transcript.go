package mls

import "encoding/binary"

// confirmedTranscriptHash is confirmed_transcript_hash after the commit ac, RFC 9420 §8.2. interim is interim_transcript_hash of
// the epoch that the commit leaves.
func confirmedTranscriptHash(suite CipherSuite, interim []byte, ac *authenticatedContent) []byte {
	format := binary.BigEndian.AppendUint16(nil, uint16(ac.wireFormat))
	return suite.hash(interim, format, ac.content.bytes(), appendOpaque(nil, ac.auth.signature))
}

// interimTranscriptHash is interim_transcript_hash, RFC 9420 §8.2.
func interimTranscriptHash(suite CipherSuite, confirmed, confirmationTag []byte) []byte {
	return suite.hash(confirmed, appendOpaque(nil, confirmationTag))
}
