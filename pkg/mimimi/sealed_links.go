package mimimi

import "mimimi.example/pkg/mls"

// Direction is which way sealed link keys go (§7).
type Direction uint8

const (
	FromJoiner   Direction = 1
	ToJoiner     Direction = 2
	FromResynced Direction = 3 // no link keys: the leaves whose keys are missing
	ToResynced   Direction = 4 // under no invitation: both leaves are known to each other
)

// sealedBlob is one HPKE ciphertext with its encapsulation.
type sealedBlob struct{ kem, ciphertext []byte }

func (s *sealedBlob) read(in *input) bool {
	return readSized(in, keySize, &s.kem) && readVector(in, &s.ciphertext)
}

// linksInfo holds the invite secret: without it, a hub that let itself in could answer or ask with nothing but public keys.
func linksInfo(dir Direction, s InviteSecret) []byte {
	return labelled(labelSealedLinksInfo, func(b *builder) {
		b.AddUint8(uint8(dir))
		addVector(b, s.Bytes())
	})
}

func linksAAD(groupID []byte, epoch uint64, sender, receiver uint32) []byte {
	return labelled(labelSealedLinks, func(b *builder) {
		addVector(b, groupID)
		b.AddUint64(epoch)
		b.AddUint32(sender)
		b.AddUint32(receiver)
	})
}

// SealLinks seals link keys to the encryption key of the leaf receiver, in the group's current epoch (§7). From the joiner, keys is
// its own key alone; to the joiner, all members' keys by leaf index; to one who resynced, those that it lacks, and s is zero. It returns a *RuleError.
func SealLinks(
	dir Direction, s InviteSecret, g GroupID, epoch uint64, sender, receiver uint32, receiverKey []byte, keys []*LinkKey,
) ([]byte, error) {
	switch {
	case s.IsZero() != (dir == ToResynced):
		return nil, invalid("7", "a joiner's link keys are sealed under an invitation, no others")
	case !fitsDirection(dir, keys):
		return nil, invalid("7", "a joiner sends its own link key, a member all by leaf index")
	}
	return sealTo(dir, s, linksAAD([]byte(g.Wire()), epoch, sender, receiver), receiverKey, marshalLinks(keys))
}

func sealTo(dir Direction, s InviteSecret, aad, receiverKey, plain []byte) ([]byte, error) {
	kem, ct, err := Suite.HPKESeal(receiverKey, linksInfo(dir, s), aad, plain)
	if err != nil {
		return nil, invalid("7", "a leaf's encryption key is of suite 1")
	}
	return encode(func(b *builder) {
		addVector(b, kem)
		addVector(b, ct)
	}), nil
}

func fitsDirection(dir Direction, keys []*LinkKey) bool {
	switch dir {
	case FromJoiner:
		return len(keys) == 1 && keys[0] != nil
	case ToJoiner, ToResynced:
		return len(keys) <= maxLeafIndex
	}
	return false
}

// OpenLinks opens what the leaf sender sealed to the own leaf in the group's current epoch. It returns ErrMalformed,
// ErrUnauthenticated or a *RuleError.
func OpenLinks(dir Direction, s InviteSecret, mg *mls.Group, sender uint32, sealed []byte) ([]*LinkKey, error) {
	plain, err := openLinks(dir, s, mg, sender, sealed)
	if err != nil {
		return nil, err
	}
	keys, err := ParseIdentityLinks(plain)
	if err != nil {
		return nil, err
	}
	if !fitsDirection(dir, keys) {
		return nil, invalid("7", "a joiner sends its own link key, a member all by leaf index")
	}
	return keys, nil
}

func openLinks(dir Direction, s InviteSecret, mg *mls.Group, sender uint32, sealed []byte) ([]byte, error) {
	var blob sealedBlob
	if err := decode(sealed, blob.read); err != nil {
		return nil, err
	}
	aad := linksAAD(mg.Public().GroupID(), mg.Epoch(), sender, mg.OwnIndex())
	plain, err := mg.OpenWithLeafKey(linksInfo(dir, s), aad, blob.kem, blob.ciphertext)
	if err != nil {
		return nil, ErrUnauthenticated
	}
	return plain, nil
}

// SealMissing seals to the leaf receiver which leaves' link keys the leaf sender lacks since it resynced, in ascending order (§7). It stands where a
// joiner's link stands, in EnvelopeLinkFromJoiner; the answer is sealed with ToResynced. It returns a *RuleError.
func SealMissing(g GroupID, epoch uint64, sender, receiver uint32, receiverKey []byte, leaves []uint32) ([]byte, error) {
	aad := linksAAD([]byte(g.Wire()), epoch, sender, receiver)
	return sealTo(FromResynced, InviteSecret{}, aad, receiverKey, marshalLeaves(leaves))
}

// OpenMissing opens what SealMissing made for the own leaf. It returns ErrMalformed or ErrUnauthenticated.
func OpenMissing(mg *mls.Group, sender uint32, sealed []byte) ([]uint32, error) {
	plain, err := openLinks(FromResynced, InviteSecret{}, mg, sender, sealed)
	if err != nil {
		return nil, err
	}
	return parseLeaves(plain)
}

func marshalLeaves(leaves []uint32) []byte {
	return encode(func(b *builder) {
		addList(b, func(b *builder) {
			for _, l := range leaves {
				b.AddUint32(l)
			}
		})
	})
}

func parseLeaves(b []byte) (leaves []uint32, err error) {
	next := uint32(0)
	err = decode(b, func(s *input) bool {
		return readList(s, maxLeafIndex, func(s *input) bool {
			var l uint32
			ok := s.ReadUint32(&l) && l >= next && l < maxLeafIndex
			leaves, next = append(leaves, l), l+1
			return ok
		})
	})
	return leaves, err
}

// SealedLinks is the body of EnvelopeLinkFromJoiner and EnvelopeLinksToJoiner: which leaf each sealed blob is for.
type SealedLinks struct {
	Receivers []uint32
	Sealed    [][]byte // as many
}

// Marshal is the TLS encoding. Receivers and Sealed have one length.
func (l *SealedLinks) Marshal() []byte {
	return encode(func(b *builder) {
		addList(b, func(b *builder) {
			for i, r := range l.Receivers {
				b.AddUint32(r)
				addVector(b, l.Sealed[i])
			}
		})
	})
}

// ParseSealedLinks reads the body. It returns ErrMalformed.
func ParseSealedLinks(b []byte) (*SealedLinks, error) {
	l := new(SealedLinks)
	err := decode(b, func(s *input) bool {
		return readList(s, maxLeafIndex, func(s *input) bool {
			var receiver uint32
			var blob []byte
			ok := s.ReadUint32(&receiver) && receiver < maxLeafIndex && readVector(s, &blob)
			l.Receivers, l.Sealed = append(l.Receivers, receiver), append(l.Sealed, blob)
			return ok
		})
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// JoinerLink is the body of EnvelopeJoinerLink: a member tells all members the joiner's link key.
type JoinerLink struct {
	Leaf uint32
	Key  LinkKey
}

// Marshal is the TLS encoding.
func (j *JoinerLink) Marshal() []byte {
	return encode(func(b *builder) {
		b.AddUint32(j.Leaf)
		addVector(b, j.Key.Bytes())
	})
}

// ParseJoinerLink reads the body. It returns ErrMalformed.
func ParseJoinerLink(b []byte) (*JoinerLink, error) {
	j := new(JoinerLink)
	err := decode(b, func(s *input) bool {
		return s.ReadUint32(&j.Leaf) && j.Leaf < maxLeafIndex && readKeyVector(s, &j.Key.secret)
	})
	if err != nil {
		return nil, err
	}
	return j, nil
}
