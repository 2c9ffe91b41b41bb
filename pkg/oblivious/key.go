package oblivious

import (
	"bytes"
	"encoding/pem"
	"fmt"

	"github.com/cloudflare/circl/hpke"
	"github.com/openpcc/ohttp"
)

// The one suite of version 1.0.
const (
	kemID  = hpke.KEM_X25519_HKDF_SHA256
	kdfID  = hpke.KDF_HKDF_SHA256
	aeadID = hpke.AEAD_AES128GCM
)

// secretType is the PEM type of a secret key file, whose content is the key id (1 byte) and the X25519 private key (32 bytes).
const secretType = "MIMIMI OHTTP SECRET KEY"

// GenerateKey returns a service's secret key file content and its public key configuration (RFC 9458 §3.1). Key ids tell a service's current keys apart.
func GenerateKey(keyID uint8) (secret, config []byte, err error) {
	_, private, err := kemID.Scheme().GenerateKeyPair()
	if err != nil {
		return nil, nil, fmt.Errorf("generate key: %w", err)
	}
	raw, err := private.MarshalBinary()
	if err != nil {
		return nil, nil, fmt.Errorf("generate key: %w", err)
	}
	secret = pem.EncodeToMemory(&pem.Block{Type: secretType, Bytes: append([]byte{keyID}, raw...)})
	config, err = PublicConfig(secret)
	return secret, config, err
}

// PublicConfig is the public key configuration of a secret key file's content. Errors: ErrMalformedKey.
func PublicConfig(secret []byte) ([]byte, error) {
	pair, err := parseSecret(secret)
	if err != nil {
		return nil, err
	}
	config, err := pair.KeyConfig.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("encode key configuration: %w", err)
	}
	return config, nil
}

// parseSecret reads a secret key file's content. What follows the PEM block must be empty.
func parseSecret(secret []byte) (*ohttp.KeyPair, error) {
	block, rest := pem.Decode(secret)
	if block == nil || block.Type != secretType || len(block.Headers) > 0 || len(bytes.TrimSpace(rest)) > 0 || len(block.Bytes) != 1+kemID.Scheme().PrivateKeySize() {
		return nil, ErrMalformedKey
	}
	private, err := kemID.Scheme().UnmarshalBinaryPrivateKey(block.Bytes[1:])
	if err != nil {
		return nil, ErrMalformedKey
	}
	return &ohttp.KeyPair{SecretKey: private, KeyConfig: ohttp.KeyConfig{
		KeyID: block.Bytes[0], KemID: kemID, PublicKey: private.Public(),
		SymmetricAlgorithms: []ohttp.SymmetricAlgorithm{{KDFID: kdfID, AEADID: aeadID}},
	}}, nil
}

// parseConfig reads a key configuration and insists on our suite and on the one encoding of it, since a configuration that differs from
// everybody else's would single its users out. Length first: the library reads the public key before it has looked at what follows.
func parseConfig(config []byte) (ohttp.KeyConfig, error) {
	var c ohttp.KeyConfig
	if len(config) != 1+2+kemID.Scheme().PublicKeySize()+2+4 {
		return c, ErrMalformedKey
	}
	if err := c.UnmarshalBinary(config); err != nil {
		return c, ErrMalformedKey
	}
	again, err := c.MarshalBinary()
	if err != nil || !bytes.Equal(again, config) || c.KemID != kemID || len(c.SymmetricAlgorithms) != 1 ||
		c.SymmetricAlgorithms[0] != (ohttp.SymmetricAlgorithm{KDFID: kdfID, AEADID: aeadID}) {
		return c, ErrMalformedKey
	}
	return c, nil
}
