package mls

import "golang.org/x/crypto/cryptobyte"

// groupContext is GroupContext, RFC 9420 §8.1.
type groupContext struct {
	version                 protocolVersion
	suite                   CipherSuite
	groupID                 []byte
	epoch                   uint64
	treeHash                []byte
	confirmedTranscriptHash []byte
	extensions              []Extension
}

func (c *groupContext) parse(s *cryptobyte.String) bool {
	return s.ReadUint16(&c.version) &&
		s.ReadUint16((*uint16)(&c.suite)) &&
		readOpaque(s, &c.groupID) &&
		s.ReadUint64(&c.epoch) &&
		readOpaque(s, &c.treeHash) &&
		readOpaque(s, &c.confirmedTranscriptHash) &&
		parseExtensions(s, &c.extensions)
}

func (c *groupContext) marshal(b *cryptobyte.Builder) {
	b.AddUint16(c.version)
	b.AddUint16(uint16(c.suite))
	writeOpaque(b, c.groupID)
	b.AddUint64(c.epoch)
	writeOpaque(b, c.treeHash)
	writeOpaque(b, c.confirmedTranscriptHash)
	marshalExtensions(b, c.extensions)
}

// supported says whether version and suite are ours.
func (c *groupContext) supported() error {
	if c.version != mls10 || !c.suite.Supported() {
		return ErrUnsupported
	}
	return nil
}
