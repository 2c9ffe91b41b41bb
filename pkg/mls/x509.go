package mls

import (
	"bytes"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// signatureAlgorithms are the AlgorithmIdentifiers, in DER, that a certificate of a suite's signature keys has: RFC 8410 §3 for Ed25519 and
// Ed448, RFC 5480 §2.1.1 for the NIST curves.
var signatureAlgorithms = map[CipherSuite]string{
	1: oidEd25519, 3: oidEd25519,
	2: oidP256, 5: oidP521, 7: oidP384,
	4: oidEd448, 6: oidEd448,
}

const (
	oidEd25519 = "\x30\x05\x06\x03\x2b\x65\x70"
	oidEd448   = "\x30\x05\x06\x03\x2b\x65\x71"
	oidP256    = "\x30\x13" + oidECPublicKey + "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
	oidP384    = "\x30\x10" + oidECPublicKey + "\x06\x05\x2b\x81\x04\x00\x22"
	oidP521    = "\x30\x10" + oidECPublicKey + "\x06\x05\x2b\x81\x04\x00\x23"

	oidECPublicKey = "\x06\x07\x2a\x86\x48\xce\x3d\x02\x01"
)

// certifies reports whether the end-entity certificate of an x509 credential is one of the signature key, under the suite's signature
// algorithm, RFC 9420 §5.1.2 and §5.3. What else a certificate says, and who signed it, is the application's to judge.
func (c *Credential) certifies(cs CipherSuite, signatureKey []byte) bool {
	chain := cryptobyte.String(c.Body)
	var endEntity cryptobyte.String
	if !readSlice(&chain, &endEntity) {
		return false
	}
	algorithm, key, ok := certifiedKey(endEntity)
	return ok && string(algorithm) == signatureAlgorithms[cs] && bytes.Equal(key, signatureKey)
}

// certifiedKey returns the subjectPublicKeyInfo of a certificate, RFC 5280 §4.1: the AlgorithmIdentifier in DER and the key's bits.
func certifiedKey(certificate cryptobyte.String) (algorithm cryptobyte.String, key []byte, ok bool) {
	var cert, tbs, info cryptobyte.String
	ok = certificate.ReadASN1(&cert, asn1.SEQUENCE) && certificate.Empty() &&
		cert.ReadASN1(&tbs, asn1.SEQUENCE) &&
		tbs.SkipOptionalASN1(asn1.Tag(0).Constructed().ContextSpecific()) && // version
		tbs.SkipASN1(asn1.INTEGER) && // serialNumber
		tbs.SkipASN1(asn1.SEQUENCE) && // signature
		tbs.SkipASN1(asn1.SEQUENCE) && // issuer
		tbs.SkipASN1(asn1.SEQUENCE) && // validity
		tbs.SkipASN1(asn1.SEQUENCE) && // subject
		tbs.ReadASN1(&info, asn1.SEQUENCE) &&
		info.ReadASN1Element(&algorithm, asn1.SEQUENCE) &&
		info.ReadASN1BitStringAsBytes(&key) && info.Empty()
	return algorithm, key, ok
}
