package mimimi

import (
	"crypto/rand"

	"mimimi.example/pkg/mls"
	"mimimi.example/pkg/redact"
)

// IdentityLinkKeys is the plaintext of an identity_link_update (§6): the link key of each Add of the commit, in order, and the
// sender's own if its credential changes.
type IdentityLinkKeys struct {
	Added []LinkKey
	Own   *LinkKey
}

func (k *IdentityLinkKeys) marshal() []byte {
	return encode(func(b *builder) {
		b.AddUint32(uint32(len(k.Added)))
		for _, a := range k.Added {
			addVector(b, a.Bytes())
		}
		addOptionalKey(b, k.Own)
	})
}

func (k *IdentityLinkKeys) read(s *input) bool {
	var n uint32
	if !s.ReadUint32(&n) || n > maxAdds {
		return false
	}
	k.Added = make([]LinkKey, n)
	for i := range k.Added {
		if !readKeyVector(s, &k.Added[i].secret) {
			return false
		}
	}
	return readOptionalKey(s, &k.Own)
}

func addOptionalKey(b *builder, k *LinkKey) {
	addBool(b, k != nil)
	if k != nil {
		addVector(b, k.Bytes())
	}
}

func readOptionalKey(s *input, out **LinkKey) bool {
	var present bool
	if !readBool(s, &present) {
		return false
	}
	if !present {
		*out = nil
		return true
	}
	*out = new(LinkKey)
	return readKeyVector(s, &(*out).secret)
}

// identityLinkUpdateSize is the length of the ciphertext for n Adds, by which a hub tells whether the sender's own key is inside.
func identityLinkUpdateSize(adds int, own bool) int {
	n := 4 + adds*(1+keySize) + 1 + tagSize
	if own {
		n += 1 + keySize
	}
	return n
}

// identityLinkUpdate is IdentityLinkUpdate, the body of the proposal.
type identityLinkUpdate struct{ nonce, ciphertext []byte }

func (u *identityLinkUpdate) marshal() []byte {
	return encode(func(b *builder) {
		addVector(b, u.nonce)
		addVector(b, u.ciphertext)
	})
}

func (u *identityLinkUpdate) read(s *input) bool {
	return readSized(s, Suite.NonceLen(), &u.nonce) && readVector(s, &u.ciphertext)
}

// LinkUpdateKey protects the identity_link_updates of one epoch. Derive it when the epoch starts and erase it when the epoch ends:
// then neither a member removed earlier nor one who joins later can read them (§6).
type LinkUpdateKey struct{ secret }

// NewLinkUpdateKey derives the key of the group's current epoch, which is the one that a commit leaves.
func NewLinkUpdateKey(g *mls.Group) (LinkUpdateKey, error) {
	context := encode(func(b *builder) {
		addVector(b, g.Public().GroupID())
		b.AddUint64(g.Epoch())
	})
	k, err := export(g, labelLinkExporter, context, Suite.KeyLen())
	return LinkUpdateKey{redact.NewSecret(k)}, err
}

// MarshalBinary is the key itself, for the client's store.
func (k LinkUpdateKey) MarshalBinary() ([]byte, error) { return k.Bytes(), nil }

// UnmarshalBinary is the reverse of MarshalBinary. It returns ErrMalformed.
func (k *LinkUpdateKey) UnmarshalBinary(b []byte) error {
	if len(b) != Suite.KeyLen() {
		return ErrMalformed
	}
	k.secret = redact.NewSecret(b)
	return nil
}

func linkUpdateAAD(g GroupID, epoch uint64, sender uint32, refs [][]byte) []byte {
	return labelled(labelLinkUpdate, func(b *builder) {
		addName(b, g.Wire())
		b.AddUint64(epoch)
		b.AddUint32(sender)
		addList(b, func(b *builder) {
			for _, r := range refs {
				addVector(b, r)
			}
		})
	})
}

// Seal makes the body of the commit's identity_link_update. epoch is the one being left, senderLeaf the committer, refs the
// KeyPackageRefs of the Adds in order. It returns a *RuleError.
func (k LinkUpdateKey) Seal(g GroupID, epoch uint64, senderLeaf uint32, refs [][]byte, keys IdentityLinkKeys) ([]byte, error) {
	switch {
	case k.IsZero():
		return nil, invalid("6", "an identity_link_update is sealed in its epoch")
	case len(refs) != len(keys.Added):
		return nil, invalid("6", "an identity_link_update has a key for each Add")
	case len(refs) > maxAdds:
		return nil, invalid("6", "at most 200 Adds")
	}
	nonce := make([]byte, Suite.NonceLen())
	rand.Read(nonce) // never fails (crypto/rand)
	ct := Suite.Seal(k.Bytes(), nonce, linkUpdateAAD(g, epoch, senderLeaf, refs), keys.marshal())
	u := identityLinkUpdate{nonce, ct}
	return u.marshal(), nil
}

// Open opens the body of a received commit's identity_link_update; the arguments are those of Seal. It returns ErrMalformed,
// ErrUnauthenticated or a *RuleError.
func (k LinkUpdateKey) Open(g GroupID, epoch uint64, senderLeaf uint32, refs [][]byte, body []byte) (*IdentityLinkKeys, error) {
	var u identityLinkUpdate
	if err := decode(body, u.read); err != nil {
		return nil, err
	}
	plain, err := Suite.Open(k.Bytes(), u.nonce, linkUpdateAAD(g, epoch, senderLeaf, refs), u.ciphertext)
	if err != nil {
		return nil, ErrUnauthenticated
	}
	keys := new(IdentityLinkKeys)
	if err := decode(plain, keys.read); err != nil {
		return nil, err
	}
	if len(keys.Added) != len(refs) {
		return nil, invalid("6", "an identity_link_update has a key for each Add")
	}
	return keys, nil
}

// marshalLinks is optional<opaque key<V>> keys<V>, indexed by leaf.
func marshalLinks(keys []*LinkKey) []byte {
	return encode(func(b *builder) {
		addList(b, func(b *builder) {
			for _, k := range keys {
				addOptionalKey(b, k)
			}
		})
	})
}

// MarshalIdentityLinks makes the GroupInfo extension identity_links (§6): link keys by leaf index, nil where a leaf is blank or
// unknown. It belongs into a Welcome's GroupInfo only, never into the one that a hub gets; hubs refuse it (CheckHubGroupInfo).
func MarshalIdentityLinks(keys []*LinkKey) mls.Extension {
	return mls.Extension{Type: ExtensionIdentityLinks, Data: marshalLinks(keys)}
}

// ParseIdentityLinks reads the data of identity_links. It returns ErrMalformed.
func ParseIdentityLinks(data []byte) ([]*LinkKey, error) {
	var keys []*LinkKey
	err := decode(data, func(s *input) bool {
		return readList(s, maxLeafIndex, func(s *input) bool {
			var k *LinkKey
			ok := readOptionalKey(s, &k)
			keys = append(keys, k)
			return ok
		})
	})
	if err != nil {
		return nil, err
	}
	return keys, nil
}
