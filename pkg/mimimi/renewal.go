package mimimi

import (
	"bytes"

	"mimimi.example/pkg/mls"
)

// LeafRenewal is a leaf made anew by its client (§4): fresh keys and a fresh queue encapsulation under the same pseudonyms.
type LeafRenewal struct {
	// Package and Secrets are the leaf as a KeyPackage, which is what a resync later enters with.
	Package *mls.KeyPackage
	Secrets *mls.KeyPackageSecrets
	// Change is what the path commit replaces.
	Change mls.LeafChange
	// LinkKey is the leaf's identity_link_key. If the credential was replaced, it goes into the same commit (§6).
	LinkKey LinkKey
}

// RenewLeaf makes old anew; key is its signature key, and linkKey its link key. cfg says with what, but for UserPseudonym and LastResort, which are not used. With
// replace, signature key and credential are replaced too, so that the link shows cfg's certificate, under cfg's connection key. It returns a *RuleError or ErrMalformed.
func RenewLeaf(cfg KeyPackageConfig, old *mls.LeafNode, key mls.SignatureKey, linkKey LinkKey, replace bool) (*LeafRenewal, error) {
	pc, err := ParsePseudonymousCredential(old.Credential())
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(key.Public(), pc.SignatureKey) {
		return nil, invalid("4", "the credential's key is the leaf's")
	}
	r := &LeafRenewal{LinkKey: linkKey}
	if replace {
		if key, err = Suite.GenerateSignatureKey(); err != nil {
			return nil, err
		}
		pc, err = NewPseudonymousCredential(PseudonymConfig{
			ConnectionKey: cfg.ConnectionKey, CertificateKey: cfg.CertificateKey, Certificate: cfg.Certificate,
			ClientPseudonym: pc.ClientPseudonym, UserPseudonym: pc.UserPseudonym, SignatureKey: key.Public(), Now: cfg.Now,
		})
		if err != nil {
			return nil, err
		}
		credential := pc.Credential()
		r.LinkKey, r.Change.Credential, r.Change.SignatureKey = pc.LinkKey(cfg.ConnectionKey), &credential, &key
	}
	queue, err := SealQueueID(cfg.QueueKey, pc.ClientPseudonym, cfg.QueueID)
	if err != nil {
		return nil, err
	}
	r.Change.Extensions = []mls.Extension{{Type: ExtensionEncryptedQueueID, Data: queue}}
	r.Package, r.Secrets, err = mls.NewKeyPackage(mls.KeyPackageConfig{
		Suite: Suite, Credential: pc.Credential(), SignatureKey: key, Capabilities: Capabilities(),
		Lifetime: lifetimeOf(pc.Week), LeafExtensions: r.Change.Extensions,
	})
	return r, err
}
