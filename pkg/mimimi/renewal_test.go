package mimimi

import (
	"bytes"
	"testing"

	"mimimi.example/pkg/mls"
)

// TestRenewLeaf makes a leaf anew, with and without its credential, and enters with what came of it.
func TestRenewLeaf(t *testing.T) {
	for name, replace := range map[string]bool{"credential kept": false, "credential replaced": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, MLSRules(), nil)
			alice := w.members["alice"]
			old := alice.group.OwnLeaf()
			pc := must(ParsePseudonymousCredential(old.Credential()))
			cfg := alice.config()
			cfg.Now = w.at.Add(40 * day)
			linkKey := pc.LinkKey(cfg.ConnectionKey)
			r := must(RenewLeaf(cfg, old, alice.keys.SignatureKey, linkKey, replace))

			opts := mls.CommitOptions{Path: true, NewLeaf: &r.Change}
			if replace {
				k := must(NewLinkUpdateKey(alice.group))
				body := must(k.Seal(w.id, alice.group.Epoch(), alice.group.OwnIndex(), nil, IdentityLinkKeys{Own: &r.LinkKey}))
				opts.Proposals = []mls.Proposal{{Type: ProposalIdentityLinkUpdate, Body: body}}
			}
			staged := must(alice.group.Commit(opts))
			_, err := w.state.CheckCommit(staged.Change, cfg.Now)
			wantOK(t, err)
			leaf := must(ParseLeaf(staged.Change.Committer.Leaf))
			before := must(ParseLeaf(old))
			switch {
			case bytes.Equal(leaf.EncryptedQueueID, before.EncryptedQueueID):
				t.Error("the queue ID was not sealed afresh")
			case !leaf.Credential.samePseudonyms(before.Credential):
				t.Error("the pseudonyms changed")
			case leaf.Credential.equal(before.Credential) == replace:
				t.Errorf("the credential was replaced: %v", !replace)
			case r.LinkKey.Equal(linkKey) == replace:
				t.Errorf("the link key is another: %v", !replace)
			}
			cert, err := leaf.Credential.Identify(r.LinkKey)
			wantOK(t, err)
			if !bytes.Equal(cert.Marshal(), cfg.Certificate.Marshal()) {
				t.Error("the link shows another certificate")
			}
			// A resync enters with the package, and needs the leaf's credential and key in it.
			kept := must(ParseLeaf(r.Package.Leaf()))
			if !kept.Credential.equal(leaf.Credential) || !bytes.Equal(r.Secrets.SignatureKey.Public(), leaf.Credential.SignatureKey) {
				t.Error("the package is not the leaf")
			}
		})
	}
}

func TestRenewLeafRefusesAnotherKey(t *testing.T) {
	w := newWorld(t, MLSRules(), nil)
	alice := w.members["alice"]
	pc := must(ParsePseudonymousCredential(alice.group.OwnLeaf().Credential()))
	_, err := RenewLeaf(alice.config(), alice.group.OwnLeaf(), must(Suite.GenerateSignatureKey()), pc.LinkKey(alice.config().ConnectionKey), false)
	wantErr(t, err, ErrInvalid, "the credential's key is the leaf's")
}
