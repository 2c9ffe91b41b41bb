// Package redeemtest has fixed issuer keys, tokens made with them, and redeemers that look at no token, for tests of services.
package redeemtest

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	_ "embed" // keys.pem
	"encoding/pem"
	"errors"
	"slices"
	"sync"
	"time"

	"mimimi.example/pkg/mimimi"
)

//go:embed keys.pem
var pemKeys []byte

// keys are the five keys of the file. They are public, so nobody may rely on them.
var keys = sync.OnceValues(func() (all []*rsa.PrivateKey, err error) {
	for block, rest := pem.Decode(pemKeys); block != nil; block, rest = pem.Decode(rest) {
		k, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, k)
	}
	if len(all) != len(mimimi.TokenOperations()) {
		return nil, errors.New("redeemtest: one key for each operation is needed")
	}
	return all, nil
})

// IssuerKey returns an operation's fixed key, for every epoch and every domain: it stands in for a provider's making of keys.
func IssuerKey(operation mimimi.TokenOperation, _ uint64) (*rsa.PrivateKey, error) {
	all, err := keys()
	if err != nil {
		return nil, err
	}
	i := slices.Index(mimimi.TokenOperations(), operation)
	if i < 0 {
		return nil, errors.New("redeemtest: no such operation")
	}
	return all[i], nil
}

// Public is IssuerKey's public half, as a key document has it.
func Public(operation mimimi.TokenOperation, epoch uint64) mimimi.IssuerKey {
	private := must(IssuerKey(operation, epoch))
	return *must(mimimi.NewIssuerKey(operation, epoch, 8, &private.PublicKey))
}

// Token makes a token that is good at a time, as issuer would with the fixed keys. seed makes it this one.
func Token(operation mimimi.TokenOperation, issuer, origin string, now time.Time, seed []byte) []byte {
	k := Public(operation, mimimi.TokenEpoch(now))
	blinded := must(mimimi.BlindToken(&k, issuer, origin, seed))
	signature := must(mimimi.SignBlinded(must(IssuerKey(operation, k.Epoch)), blinded))
	return must(mimimi.FinishToken(&k, issuer, origin, seed, signature)).Marshal()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // a test's own mistake
	}
	return v
}

// AcceptAll is a mimimi.Redeemer that looks at no token: for tests of what comes after.
type AcceptAll struct{}

// Redeem returns a receipt that names no issuer.
func (AcceptAll) Redeem(context.Context, *mimimi.Spending) (*mimimi.Receipt, error) {
	return new(mimimi.Receipt), nil
}
