package mimimi

import (
	"errors"
	"testing"

	"mimimi.example/pkg/mls"
)

// TestOtherSuitesRefused: pkg/mls has more suites than version 1.0 of the protocol (§0). A hub that is given a group of another one, and a client
// that is to found or to join one, refuse it before they verify anything.
func TestOtherSuitesRefused(t *testing.T) {
	for cs := mls.CipherSuite(1); cs <= 7; cs++ {
		kp, secrets, err := mls.NewKeyPackage(mls.KeyPackageConfig{
			Suite: cs, Credential: mls.Credential{Type: mls.CredentialBasic, Body: []byte{1, 'a'}}, SignatureKey: must(cs.GenerateSignatureKey()),
			Capabilities: mls.Capabilities{
				Versions: []uint16{1}, CipherSuites: []mls.CipherSuite{cs}, Credentials: []mls.CredentialType{mls.CredentialBasic},
			},
			Lifetime: LeafLifetime(noon),
		})
		wantOK(t, err)
		g := must(mls.NewGroup(mls.GroupConfig{GroupID: []byte("group"), KeyPackage: kp, Secrets: secrets}))
		info, tree := must(g.GroupInfo(nil, false)), g.Public().Tree()
		_, asServer := mls.NewPublicGroup(info, tree, MLSRules())
		_, founding := mls.NewGroup(mls.GroupConfig{GroupID: []byte("group"), KeyPackage: kp, Secrets: secrets, Rules: MLSRules()})
		_, joining := mls.JoinExternal(mls.ExternalJoinConfig{GroupInfo: info, Tree: tree, KeyPackage: kp, Secrets: secrets, Rules: MLSRules()})
		for what, err := range map[string]error{"a server": asServer, "a founder": founding, "a joiner": joining} {
			if got := errors.Is(err, mls.ErrUnsupported); got != (cs != Suite) {
				t.Errorf("%s, suite %d: %v", what, cs, err)
			}
		}
	}
}
