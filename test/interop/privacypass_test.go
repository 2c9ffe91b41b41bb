package interop

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"testing"

	"mimimi.example/pkg/mimimi"
)

const (
	issuer = "a.example"
	origin = "b.example"
)

// challenge is RFC 9577's TokenChallenge as docs/protocol.md §11 fills it, written out a second time.
func challenge(k *mimimi.IssuerKey) []byte {
	vector := func(s string) []byte { return append([]byte{byte(len(s))}, s...) } // of less than 64 bytes
	context := sha256.New()
	context.Write(vector("MIMIMI 1.0 TokenContext"))
	context.Write(vector(string(k.Operation)))
	context.Write(binary.BigEndian.AppendUint64(nil, k.Epoch))
	long := func(s string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...) }
	return bytes.Join([][]byte{{0, 2}, long(issuer), {32}, context.Sum(nil), long(origin)}, nil)
}

// TestPrivacyPass has @cloudflare/privacypass-ts blind for our issuer, sign for our client, and verify what comes of it; and us verify its tokens. It is one conversation.
func TestPrivacyPass(t *testing.T) {
	p := startNode(t, "privacypass")
	private, err := mimimi.GenerateIssuerKey()
	if err != nil {
		t.Fatal(err)
	}
	k, err := mimimi.NewIssuerKey(mimimi.TokenClaim, 2969, 1, &private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	p.call(map[string]any{"op": "issuer", "privateKey": pkcs8, "publicKey": spki}, new(struct{}))
	keyID := sha256.Sum256(k.SPKI)

	t.Run("their client, our issuer", func(t *testing.T) {
		var asked struct {
			Request []byte `json:"request"`
		}
		p.call(map[string]any{"op": "request", "challenge": challenge(k), "key": k.SPKI}, &asked)
		if len(asked.Request) != 3+256 || asked.Request[1] != 2 || asked.Request[2] != keyID[31] {
			t.Fatalf("a request of %d bytes, or for another key", len(asked.Request))
		}
		response, err := mimimi.SignBlinded(private, asked.Request[3:])
		if err != nil {
			t.Fatal(err)
		}
		var made struct {
			Token []byte `json:"token"`
		}
		p.call(map[string]any{"op": "finalize", "response": response}, &made)
		token, err := mimimi.ParseToken(append(append([]byte{byte(len(issuer))}, issuer...), made.Token...))
		if err != nil {
			t.Fatal(err)
		}
		if err := token.Verify(k, origin); err != nil {
			t.Errorf("their token: %v", err)
		}
		if token.Verify(k, issuer) == nil {
			t.Error("their token is good for another domain")
		}
	})
	t.Run("our client, their issuer", func(t *testing.T) {
		seed := bytes.Repeat([]byte{5}, 32)
		blinded, err := mimimi.BlindToken(k, issuer, origin, seed)
		if err != nil {
			t.Fatal(err)
		}
		var signed struct {
			Response []byte `json:"response"`
		}
		p.call(map[string]any{"op": "issue", "request": append([]byte{0, 2, keyID[31]}, blinded...)}, &signed)
		token, err := mimimi.FinishToken(k, issuer, origin, seed, signed.Response)
		if err != nil {
			t.Fatal(err)
		}
		ours, err := mimimi.SignBlinded(private, blinded)
		if err != nil || !bytes.Equal(ours, signed.Response) {
			t.Errorf("the two issuers sign differently: %v", err)
		}
		wire := token.Marshal()[1+len(issuer):]
		verify := func(wire []byte) (valid bool, digest []byte) {
			var seen struct {
				Valid           bool   `json:"valid"`
				Again           []byte `json:"again"`
				ChallengeDigest []byte `json:"challengeDigest"`
			}
			p.call(map[string]any{"op": "verify", "token": wire, "origin": origin}, &seen)
			if !bytes.Equal(seen.Again, wire) {
				t.Error("the token is another after a round trip")
			}
			return seen.Valid, seen.ChallengeDigest
		}
		want := sha256.Sum256(challenge(k))
		if valid, digest := verify(wire); !valid || !bytes.Equal(digest, want[:]) {
			t.Errorf("our token at their origin: valid %v, challenge as written down %v", valid, bytes.Equal(digest, want[:]))
		}
		wire[len(wire)-1] ^= 1
		if valid, _ := verify(wire); valid {
			t.Error("a forged token is valid")
		}
	})
}

// TestPrivacyPassVectors: the vectors of RFC 9578 that pkg/mimimi replays are the other implementation's, too: it signs their requests as they say, and their
// tokens verify.
func TestPrivacyPassVectors(t *testing.T) {
	p := startNode(t, "privacypass")
	var file struct {
		PrivateKey string              `json:"private_key"`
		Vectors    []map[string]string `json:"vectors"`
	}
	raw, err := os.ReadFile("../../pkg/mimimi/testdata/rfc9578-type2.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(file.PrivateKey))
	if block == nil || len(file.Vectors) != 5 {
		t.Fatalf("%d vectors, and the RFC has 5 and a key", len(file.Vectors))
	}
	private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&private.(*rsa.PrivateKey).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	p.call(map[string]any{"op": "issuer", "privateKey": block.Bytes, "publicKey": spki}, new(struct{}))
	for i, v := range file.Vectors {
		field := func(name string) []byte {
			b, err := hex.DecodeString(v[name])
			if err != nil || len(b) == 0 {
				t.Fatalf("vector %d has no %s", i+1, name)
			}
			return b
		}
		var signed struct {
			Response []byte `json:"response"`
		}
		p.call(map[string]any{"op": "issue", "request": field("token_request")}, &signed)
		if !bytes.Equal(signed.Response, field("token_response")) {
			t.Errorf("vector %d: the response is another", i+1)
		}
		var seen struct {
			Valid bool `json:"valid"`
		}
		p.call(map[string]any{"op": "verify", "token": field("token"), "origin": origin}, &seen)
		if !seen.Valid {
			t.Errorf("vector %d: the token does not verify", i+1)
		}
	}
}
