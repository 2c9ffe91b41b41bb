package mimimi

import (
	"bytes"
	"slices"

	"mimimi.example/pkg/mls"
)

// LeafIdentity is what a leaf shows of its client.
type LeafIdentity struct {
	Credential       *PseudonymousCredential
	EncryptedQueueID []byte
}

// ParseLeaf reads a leaf and checks all that §4 and §9 ask of a leaf alone: a pseudonymous credential whose key is the leaf's, the
// one capabilities vector, encrypted_queue_id of the right size and domain and no other extension, and, where there is a lifetime,
// that it is the credential's week. It returns a *RuleError or ErrMalformed.
func ParseLeaf(l *mls.LeafNode) (*LeafIdentity, error) {
	pc, err := ParsePseudonymousCredential(l.Credential())
	if err != nil {
		return nil, err
	}
	queue, ok := l.Extension(ExtensionEncryptedQueueID)
	lifetime, dated := l.Lifetime()
	switch {
	case !bytes.Equal(pc.SignatureKey, l.SignatureKey()):
		return nil, invalid("4", "the credential's key is the leaf's")
	case !equalCapabilities(l.Capabilities(), oneVector):
		return nil, invalid("2", "every leaf has the one capabilities vector")
	case dated && lifetime != lifetimeOf(pc.Week):
		return nil, invalid("2", "a leaf's lifetime is 90 days from its week")
	case !ok:
		return nil, invalid("9", "encrypted_queue_id present")
	case len(l.Extensions()) != 1:
		return nil, invalid("9", "a leaf has no extension but encrypted_queue_id")
	}
	if err := CheckEncryptedQueueID(queue, pc.UserPseudonym.Domain()); err != nil {
		return nil, err
	}
	return &LeafIdentity{Credential: pc, EncryptedQueueID: bytes.Clone(queue)}, nil
}

// oneVector is Capabilities, never handed out.
var oneVector = Capabilities()

func equalCapabilities(a, b mls.Capabilities) bool {
	return slices.Equal(a.Versions, b.Versions) && slices.Equal(a.CipherSuites, b.CipherSuites) &&
		slices.Equal(a.Extensions, b.Extensions) && slices.Equal(a.Proposals, b.Proposals) &&
		slices.Equal(a.Credentials, b.Credentials)
}

// MLSRules are the mls.Rules of version 1.0, the same for hub and members: the custom proposal, and what every leaf must be. The
// rules about whole commits need a State and are in State.CheckCommit.
func MLSRules() *mls.Rules {
	return &mls.Rules{
		Suites: []mls.CipherSuite{Suite},
		Proposals: map[mls.ProposalType]mls.ProposalRule{
			ProposalIdentityLinkUpdate: {NeedsPath: false, AllowExternal: false, ByReference: false},
		},
		// A joiner shows its link before anybody may commit; and whoever proposes its own removal gets nothing more from the hub (§9).
		DataBeforeCommit: true,
		CheckLeaf:        checkLeaf,
	}
}

// checkLeaf is mls.Rules.CheckLeaf.
func checkLeaf(before, leaf *mls.LeafNode) error {
	id, err := ParseLeaf(leaf)
	if err != nil || before == nil {
		return err
	}
	old, err := ParseLeaf(before)
	if err != nil {
		return err
	}
	if !id.Credential.samePseudonyms(old.Credential) {
		return invalid("9", "a path or Update leaf keeps both pseudonyms")
	}
	return nil
}
