package mimimi

import "mimimi.example/pkg/mls"

// Direction is which way sealed link keys go (§7).
type Direction uint8

const (
	FromJoiner Direction = 1
	ToJoiner   Direction = 2
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
// its own key alone; to the joiner, all members' keys by leaf index. It returns a *RuleError.
func SealLinks(
	dir Direction, s InviteSecret, g GroupID, epoch uint64, sender, receiver uint32, receiverKey []byte, keys []*LinkKey,
) ([]byte, error) {
	switch {
	case s.IsZero():
		return nil, invalid("7", "link keys are sealed under an invitation")
	case !fitsDirection(dir, keys):
		return nil, invalid("7", "a joiner sends its own link key, a member all by leaf index")
	}
	aad := linksAAD([]byte(g.Wire()), epoch, sender, receiver)
	kem, ct, err := Suite.HPKESeal(receiverKey, linksInfo(dir, s), aad, marshalLinks(keys))
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
	case ToJoiner:
		return len(keys) <= maxLeafIndex
	}
	return false
}

// OpenLinks opens what the leaf sender sealed to the own leaf in the group's current epoch. It returns ErrMalformed,
// ErrUnauthenticated or a *RuleError.
func OpenLinks(dir Direction, s InviteSecret, mg *mls.Group, sender uint32, sealed []byte) ([]*LinkKey, error) {
	var blob sealedBlob
	if err := decode(sealed, blob.read); err != nil {
		return nil, err
	}
	aad := linksAAD(mg.Public().GroupID(), mg.Epoch(), sender, mg.OwnIndex())
	plain, err := mg.OpenWithLeafKey(linksInfo(dir, s), aad, blob.kem, blob.ciphertext)
	if err != nil {
		return nil, ErrUnauthenticated
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
