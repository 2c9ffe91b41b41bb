package mimimi

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// rfc9578 is testdata/rfc9578-type2.json.
type rfc9578 struct {
	PrivateKey string              `json:"private_key"`
	Vectors    []map[string]string `json:"vectors"`
	key        *rsa.PrivateKey
}

var readRFC9578 = sync.OnceValue(func() *rfc9578 {
	v := new(rfc9578)
	if err := json.Unmarshal(must(os.ReadFile("testdata/rfc9578-type2.json")), v); err != nil {
		panic(err)
	}
	block, _ := pem.Decode([]byte(v.PrivateKey))
	v.key = must(x509.ParsePKCS8PrivateKey(block.Bytes)).(*rsa.PrivateKey)
	return v
})

// testIssuerKeys are one public key under several names.
func testIssuerKeys(t testing.TB) (keys []IssuerKey) {
	t.Helper()
	for _, o := range TokenOperations() {
		keys = append(keys, *must(NewIssuerKey(o, 2969, 8, &readRFC9578().key.PublicKey)))
	}
	return keys
}

func testToken(t testing.TB, k *IssuerKey, issuer, origin string, seed byte) *Token {
	t.Helper()
	blinded := must(BlindToken(k, issuer, origin, fill(seed)))
	return must(FinishToken(k, issuer, origin, fill(seed), must(SignBlinded(readRFC9578().key, blinded))))
}

// TestRFC9578 replays the RFC's five vectors of issuance protocol 2: the request that comes of their nonce, salt and blind, the response of their key, and the
// token that comes of both.
func TestRFC9578(t *testing.T) {
	file := readRFC9578()
	if len(file.Vectors) != 5 {
		t.Fatalf("%d vectors, and the RFC has 5", len(file.Vectors))
	}
	k := must(NewIssuerKey(TokenClaim, 1, 1, &file.key.PublicKey))
	keyID := k.id()
	for i, v := range file.Vectors {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			same := func(what string, got []byte) {
				t.Helper()
				if want := unhex(v[what]); len(want) == 0 || !bytes.Equal(got, want) {
					t.Errorf("the %s is not the vector's", what)
				}
			}
			random := cat(unhex(v["nonce"]), unhex(v["salt"]), unhex(v["blind"]))
			x := must(newBlinding(k, "issuer.example", unhex(v["token_challenge"]), bytes.NewReader(random)))
			same("token_request", cat(u16(tokenTypeBlindRSA), keyID[hashSize-1:], x.blinded))
			wantOK(t, k.CheckBlinded(x.blinded))
			same("token_response", must(SignBlinded(file.key, x.blinded)))
			token := must(x.finish(unhex(v["token_response"])))
			same("token", token.wire())
			read := must(ParseToken(cat([]byte{byte(len("issuer.example"))}, []byte("issuer.example"), unhex(v["token"]))))
			wantOK(t, must(k.client()).Verify(read.input(), read.authenticator[:]))
		})
	}
}

func unhex(s string) []byte { return must(hex.DecodeString(s)) }

func TestToken(t *testing.T) {
	keys := testIssuerKeys(t)
	k := &keys[0]
	token := testToken(t, k, "a.example", "b.example", 1)
	read := must(ParseToken(token.Marshal()))
	if len(read.Marshal()) != 1+len("a.example")+tokenSize || read.Issuer() != "a.example" {
		t.Error("the encoding is not issuer and 354 bytes")
	}
	wantOK(t, read.Verify(k, "b.example"))
	other, earlier := keys[1], *k
	earlier.Epoch--
	forged := *read
	forged.authenticator[9] ^= 1
	stranger := *read
	stranger.issuer = "c.example"
	fresh := *must(NewIssuerKey(k.Operation, k.Epoch, 8, &must(GenerateIssuerKey()).PublicKey))
	broken := *k
	broken.SPKI = broken.SPKI[1:]
	for what, c := range map[string]struct {
		token  *Token
		k      *IssuerKey
		origin string
	}{
		"another domain":      {read, k, "a.example"},
		"another operation":   {read, &other, "b.example"},
		"another epoch":       {read, &earlier, "b.example"},
		"another issuer":      {&stranger, k, "b.example"},
		"another issuer key":  {read, &fresh, "b.example"},
		"a broken issuer key": {read, &broken, "b.example"},
		"a forged signature":  {&forged, k, "b.example"},
	} {
		if c.token.Verify(c.k, c.origin) != ErrUnauthenticated {
			t.Errorf("a token for %s verifies", what)
		}
	}
	if again := testToken(t, k, "a.example", "b.example", 1); !bytes.Equal(again.Marshal(), token.Marshal()) {
		t.Error("the same seed gave another token")
	}
	if next := testToken(t, k, "a.example", "b.example", 2); bytes.Equal(next.SpentName(), token.SpentName()) {
		t.Error("two tokens have one name")
	}
	if s := fmt.Sprintf("%v %+v %s %x %#v", token, token, token, token, token); strings.Trim(s, " ") != "[token] [token] [token] [token] [token]" {
		t.Error("a token can be printed")
	}
}

func TestTokenRefusals(t *testing.T) {
	k := &testIssuerKeys(t)[0]
	blinded := must(BlindToken(k, "a.example", "b.example", fill(1)))
	_, err := FinishToken(k, "a.example", "b.example", fill(2), must(SignBlinded(readRFC9578().key, blinded)))
	wantErr(t, err, ErrUnauthenticated, "")
	wantOK(t, k.CheckBlinded(blinded))
	_, err = FinishToken(k, "a.example", "b.example", fill(1), blinded)
	wantErr(t, err, ErrUnauthenticated, "")
	_, err = FinishToken(k, "a.example", "b.example", fill(1), nil)
	wantErr(t, err, ErrUnauthenticated, "")
	for _, m := range [][]byte{nil, blinded[1:], bytes.Repeat([]byte{0xff}, rsaSize), append([]byte{0}, blinded...)} {
		_, err = SignBlinded(readRFC9578().key, m)
		wantErr(t, err, ErrInvalid, "a blinded message is a number below the issuer key's modulus, in 256 bytes")
		wantErr(t, k.CheckBlinded(m), ErrInvalid, "a blinded message is a number below the issuer key's modulus, in 256 bytes")
	}
	for _, names := range [][2]string{{"", "b.example"}, {"a.example", "B.example"}} {
		_, err = BlindToken(k, names[0], names[1], fill(1))
		wantErr(t, err, ErrInvalid, "issuer and redeemer are domains")
	}
	_, err = BlindToken(&IssuerKey{}, "a.example", "b.example", fill(1))
	wantErr(t, err, ErrMalformed, "")
	_, err = NewIssuerKey(TokenClaim, 1, 1, &rsa.PublicKey{N: readRFC9578().key.N, E: 3})
	wantErr(t, err, ErrInvalid, "an issuer key is RSA with 2,048 bits and the exponent 65,537")
}

func TestTokenEpochs(t *testing.T) {
	turn := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC) // a Monday
	e := TokenEpoch(turn)
	if !EpochStart(e).Equal(turn) || TokenEpoch(turn.Add(-1)) != e-1 || TokenEpoch(turn.Add(week-1)) != e {
		t.Error("epochs are not the weeks that start on Mondays")
	}
	for _, c := range []struct {
		at          time.Duration
		first, last uint64
	}{{0, e - 2, e}, {-11 * time.Minute, e - 2, e - 1}, {-time.Minute, e - 2, e}, {11 * time.Minute, e - 1, e}, {3 * day, e - 1, e}} {
		got := AcceptedEpochs(turn.Add(c.at))
		if got[0] != c.first || got[len(got)-1] != c.last || len(got) != int(c.last-c.first)+1 {
			t.Errorf("%v after the turn: %v, want %d to %d", c.at, got, c.first, c.last)
		}
	}
	last := EpochEnd(e).Add(-time.Second)
	if AcceptedEpochs(last)[0] != e || AcceptedEpochs(EpochEnd(e))[0] != e+1 {
		t.Error("an epoch is not accepted until its end, or beyond")
	}
	if TokenEpoch(time.Unix(0, 0)) != 0 || AcceptedEpochs(time.Unix(0, 0))[0] != 0 {
		t.Error("epochs before the first")
	}
}

func TestIssuerKeysInDocument(t *testing.T) {
	d := newDomain(t, "a.example")
	doc := func(keys ...IssuerKey) *KeyDocument {
		return &KeyDocument{Domain: "a.example", NotBefore: noon, NotAfter: noon.Add(week), IssuerKeys: keys}
	}
	keys := testIssuerKeys(t)
	good := doc(keys...)
	wantOK(t, SignKeyDocument(good, d.identity))
	read := must(ParseKeyDocument(good.Marshal()))
	if k := read.IssuerKey(TokenUpload, 2969); k == nil || k.Quota != 8 || len(read.IssuerKeysOf(2969)) != len(keys) {
		t.Error("the keys are not found again")
	}
	if read.IssuerKey(TokenUpload, 2970) != nil || read.IssuerKeysOf(2970) != nil {
		t.Error("keys of another epoch are found")
	}
	// Another quota is another document.
	read.IssuerKeys[0].Quota++
	wantErr(t, read.Verify(d.identity.Public(), noon), ErrUnauthenticated, "")
	change := func(f func(k *IssuerKey)) IssuerKey {
		k := keys[0]
		k.SPKI = bytes.Clone(k.SPKI)
		f(&k)
		return k
	}
	for what, bad := range map[string]*KeyDocument{
		"twice the same":    doc(keys[0], keys[0]),
		"a false order":     doc(keys[1], keys[0]),
		"too many":          doc(change(func(k *IssuerKey) { k.Quota = MaxTokenBatch + 1 })),
		"no name":           doc(change(func(k *IssuerKey) { k.Operation = "" })),
		"an even modulus":   doc(change(func(k *IssuerKey) { k.SPKI[len(k.SPKI)-6] &^= 1 })),
		"a short modulus":   doc(change(func(k *IssuerKey) { k.SPKI[len(issuerKeyHead)] = 0x7f })),
		"another exponent":  doc(change(func(k *IssuerKey) { k.SPKI[len(k.SPKI)-1] = 3 })),
		"another algorithm": doc(change(func(k *IssuerKey) { k.SPKI[18]++ })),
	} {
		if SignKeyDocument(bad, d.identity) == nil {
			t.Errorf("a document with %s is signed", what)
		}
	}
}

// vectorsOfTokens are what MIMIMI adds to RFC 9578, and one token made from a seed: it must not change with a library, or a client's unfinished batches
// would be lost.
func (v vectors) vectorsOfTokens() {
	k := must(NewIssuerKey(TokenClaim, 2969, 8, &readRFC9578().key.PublicKey))
	v.set("issuer key", k.SPKI)
	v.set("token challenge", tokenChallenge(k, "a.example", "b.example"))
	seed := TokenSeed(fill(0x0f), TokenClaim, 3)
	v.set("token seed", seed)
	blinded := must(BlindToken(k, "a.example", "b.example", seed))
	v.set("token blinded", blinded)
	token := must(FinishToken(k, "a.example", "b.example", seed, must(SignBlinded(readRFC9578().key, blinded))))
	v.set("Token", token.Marshal())
	v.set("token spent name", token.SpentName())
}
