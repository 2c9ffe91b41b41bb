package mimimi

import (
	"bytes"
	"testing"
)

func TestResyncProof(t *testing.T) {
	key, other := must(Suite.GenerateSignatureKey()), must(Suite.GenerateSignatureKey())
	group, elsewhere := must(NewGroupID("hub.example")), must(NewGroupID("hub.example"))
	commit := []byte("an external commit")
	sig := SignResync(key, group, 7, commit)
	wantOK(t, VerifyResync(key.Public(), group, 7, commit, sig))

	broken := bytes.Clone(sig)
	broken[0] ^= 1
	for name, err := range map[string]error{
		"another key":    VerifyResync(other.Public(), group, 7, commit, sig),
		"another group":  VerifyResync(key.Public(), elsewhere, 7, commit, sig),
		"another epoch":  VerifyResync(key.Public(), group, 8, commit, sig),
		"another commit": VerifyResync(key.Public(), group, 7, append(bytes.Clone(commit), 0), sig),
		"broken":         VerifyResync(key.Public(), group, 7, commit, broken),
		"truncated":      VerifyResync(key.Public(), group, 7, commit, sig[:len(sig)-1]),
		"none":           VerifyResync(key.Public(), group, 7, commit, nil),
	} {
		t.Run(name, func(t *testing.T) { wantErr(t, err, ErrUnauthenticated, "") })
	}
}
