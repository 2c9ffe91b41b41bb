package mimimi

import "math/bits"

// EnvelopeType says what MLS application data holds (§9). The numbers are wire format.
type EnvelopeType uint16

const (
	EnvelopeContent            EnvelopeType = 1
	EnvelopeConnectionResponse EnvelopeType = 2
	EnvelopeLinkFromJoiner     EnvelopeType = 3
	EnvelopeLinksToJoiner      EnvelopeType = 4
	EnvelopeInvitation         EnvelopeType = 5
	EnvelopeRotation           EnvelopeType = 6
	EnvelopeBanList            EnvelopeType = 7
	EnvelopeDeviceSync         EnvelopeType = 8
	EnvelopeJoinerLink         EnvelopeType = 9 // a member tells all members the joiner's link key
)

// Envelope is all application data inside MLS (§9).
type Envelope struct {
	Type EnvelopeType
	Body []byte
}

// Marshal is the TLS encoding.
func (e Envelope) Marshal() []byte {
	return encode(func(b *builder) {
		b.AddUint16(uint16(e.Type))
		addVector(b, e.Body)
	})
}

// ParseEnvelope reads an envelope. A type that this version does not know is no error: the caller drops it. It returns ErrMalformed.
func ParseEnvelope(b []byte) (Envelope, error) {
	var e Envelope
	err := decode(b, func(s *input) bool {
		return s.ReadUint16((*uint16)(&e.Type)) && readVector(s, &e.Body)
	})
	if err != nil {
		return Envelope{}, err
	}
	return e, nil
}

// PadTo is the padding of application messages, for mls.Group.Encrypt: the least power of two that is at least n and 256.
func PadTo(n int) int {
	if n <= minPadded {
		return minPadded
	}
	return 1 << bits.Len(uint(n-1))
}
