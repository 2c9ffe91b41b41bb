package mls

import "testing"

// The benchmarks of this file are the floor of all others: what a suite's primitives cost by themselves.

// benchSuites runs f for every suite.
func benchSuites(b *testing.B, f func(b *testing.B, cs CipherSuite)) {
	for _, s := range suiteNames {
		b.Run(s.name, func(b *testing.B) { f(b, s.suite) })
	}
}

// BenchmarkSeal seals a path secret to one key of many, as making a path does.
func BenchmarkSeal(b *testing.B) {
	benchSuites(b, func(b *testing.B, cs CipherSuite) {
		pub, secret := must(cs.GenerateHPKEKey())(b).Public(), cs.randomSecret()
		sealer := cs.sealerWithLabel(labelUpdatePathNode, make([]byte, 200))
		loop(b, func() error {
			_, _, err := sealer.seal(pub, nil, secret)
			return err
		})
	})
}

// BenchmarkOpen opens a sealed path secret.
func BenchmarkOpen(b *testing.B) {
	benchSuites(b, func(b *testing.B, cs CipherSuite) {
		priv, context := must(cs.GenerateHPKEKey())(b), make([]byte, 200)
		kem, ct, err := cs.EncryptWithLabel(priv.Public(), labelUpdatePathNode, context, cs.randomSecret())
		if err != nil {
			b.Fatal(err)
		}
		loop(b, func() error {
			_, err := cs.DecryptWithLabel(priv, labelUpdatePathNode, context, kem, ct)
			return err
		})
	})
}

// BenchmarkDeriveKeyPair derives the key pair of a tree's node, public key included.
func BenchmarkDeriveKeyPair(b *testing.B) {
	benchSuites(b, func(b *testing.B, cs CipherSuite) {
		secret := cs.randomSecret()
		loop(b, func() error {
			_, err := cs.DeriveHPKEKey(secret)
			return err
		})
	})
}

// BenchmarkSign signs as much as a message of 200 bytes has to be signed.
func BenchmarkSign(b *testing.B) {
	benchSuites(b, func(b *testing.B, cs CipherSuite) {
		key, content := must(cs.GenerateSignatureKey())(b), make([]byte, 400)
		loop(b, func() error {
			key.SignWithLabel(labelFramedContent, content)
			return nil
		})
	})
}

// BenchmarkVerify verifies such a signature.
func BenchmarkVerify(b *testing.B) {
	benchSuites(b, func(b *testing.B, cs CipherSuite) {
		key, content := must(cs.GenerateSignatureKey())(b), make([]byte, 400)
		sig, pub := key.SignWithLabel(labelFramedContent, content), key.Public()
		loop(b, func() error {
			if !cs.VerifyWithLabel(pub, labelFramedContent, content, sig) {
				return ErrUnauthenticated
			}
			return nil
		})
	})
}

// BenchmarkExpandWithLabel derives one secret, as the key schedule and the secret tree do.
func BenchmarkExpandWithLabel(b *testing.B) {
	benchSuites(b, func(b *testing.B, cs CipherSuite) {
		secret := cs.randomSecret()
		loop(b, func() error {
			cs.deriveSecret(secret, labelSecret)
			return nil
		})
	})
}

// BenchmarkAEAD seals 200 bytes under a key of its own, as every message has one.
func BenchmarkAEAD(b *testing.B) {
	benchSuites(b, func(b *testing.B, cs CipherSuite) {
		key, nonce, text := randomBytes(cs.KeyLen()), randomBytes(cs.NonceLen()), make([]byte, 200)
		loop(b, func() error {
			cs.Seal(key, nonce, nil, text)
			return nil
		})
	})
}
