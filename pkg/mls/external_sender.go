package mls

import "golang.org/x/crypto/cryptobyte"

// externalSender is ExternalSender, RFC 9420 §12.1.8.1.
type externalSender struct {
	signatureKey []byte
	credential   Credential
}

func (e *externalSender) parse(s *cryptobyte.String) bool {
	return readOpaque(s, &e.signatureKey) && e.credential.parse(s)
}

func (e *externalSender) marshal(b *cryptobyte.Builder) {
	writeOpaque(b, e.signatureKey)
	e.credential.marshal(b)
}

// parseExternalSenders reads the content of an external_senders extension, RFC 9420 §12.1.8.1.
func parseExternalSenders(data []byte) ([]externalSender, error) {
	var senders []externalSender
	s := cryptobyte.String(data)
	ok := readVector(&s, maxExternalSenders, func(s *cryptobyte.String) bool {
		var e externalSender
		ok := e.parse(s)
		senders = append(senders, e)
		return ok
	})
	if !ok || !s.Empty() {
		return nil, ErrMalformed
	}
	return senders, nil
}
