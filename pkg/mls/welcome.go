package mls

import (
	"bytes"
	"math"

	"golang.org/x/crypto/cryptobyte"
)

// groupSecrets is GroupSecrets, RFC 9420 §12.4.3.1.
type groupSecrets struct {
	joiner     []byte
	pathSecret []byte // nil: none
	psks       []*PSKID
}

func (g *groupSecrets) parse(s *cryptobyte.String) bool {
	var hasPath bool
	return readOpaque(s, &g.joiner) &&
		readOptional(s, &hasPath) &&
		(!hasPath || readOpaque(s, &g.pathSecret)) &&
		readVector(s, math.MaxUint16, func(s *cryptobyte.String) bool {
			id := new(PSKID)
			g.psks = append(g.psks, id)
			return id.parse(s)
		})
}

// erase clears the secrets.
func (g *groupSecrets) erase() {
	clear(g.joiner)
	clear(g.pathSecret)
}

func (g *groupSecrets) marshal(b *cryptobyte.Builder) {
	writeOpaque(b, g.joiner)
	writeOptional(b, g.pathSecret != nil)
	if g.pathSecret != nil {
		writeOpaque(b, g.pathSecret)
	}
	writeVector(b, func(b *cryptobyte.Builder) {
		for _, id := range g.psks {
			id.marshal(b)
		}
	})
}

// encryptedGroupSecrets is EncryptedGroupSecrets, RFC 9420 §12.4.3.1.
type encryptedGroupSecrets struct {
	newMember []byte // KeyPackageRef
	secrets   hpkeCiphertext
}

// parse reads an entry as views.
func (e *encryptedGroupSecrets) parse(s *cryptobyte.String) bool {
	return readView(s, &e.newMember) && e.secrets.parse(s)
}

func (e *encryptedGroupSecrets) marshal(b *cryptobyte.Builder) {
	writeOpaque(b, e.newMember)
	e.secrets.marshal(b)
}

// welcome is Welcome, RFC 9420 §12.4.3.1.
type welcome struct {
	suite              CipherSuite
	secrets            []encryptedGroupSecrets
	encryptedGroupInfo []byte
}

func (w *welcome) parse(s *cryptobyte.String) bool {
	return s.ReadUint16((*uint16)(&w.suite)) &&
		readVector(s, maxProposals, func(s *cryptobyte.String) bool {
			var e encryptedGroupSecrets
			ok := e.parse(s)
			w.secrets = append(w.secrets, e)
			return ok
		}) &&
		readOpaque(s, &w.encryptedGroupInfo)
}

func (w *welcome) marshal(b *cryptobyte.Builder) {
	b.AddUint16(uint16(w.suite))
	writeVector(b, func(b *cryptobyte.Builder) {
		for i := range w.secrets {
			w.secrets[i].marshal(b)
		}
	})
	writeOpaque(b, w.encryptedGroupInfo)
}

// entry returns the entry of a KeyPackageRef.
func (w *welcome) entry(ref []byte) (*encryptedGroupSecrets, bool) {
	for i := range w.secrets {
		if bytes.Equal(w.secrets[i].newMember, ref) {
			return &w.secrets[i], true
		}
	}
	return nil, false
}

// parseWelcome reads an MLSMessage that holds a Welcome, or a bare Welcome.
func parseWelcome(b []byte) (w *welcome, framed bool, err error) {
	if m, err := parseMLSMessage(b); err == nil && m.welcome != nil {
		return m.welcome, true, nil
	}
	w = new(welcome)
	if err := parse(bytes.Clone(b), w); err != nil {
		return nil, false, err
	}
	return w, false, nil
}

// WelcomeRefs returns the KeyPackageRef of each entry of a Welcome, bare or in an MLSMessage, in order. It returns ErrMalformed.
func WelcomeRefs(b []byte) ([][]byte, error) {
	w, _, err := parseWelcome(b)
	if err != nil {
		return nil, err
	}
	refs := make([][]byte, len(w.secrets))
	for i := range w.secrets {
		refs[i] = w.secrets[i].newMember
	}
	return refs, nil
}

// SplitWelcome returns the Welcome that holds only the entry of ref, in the same form (bare or MLSMessage) as b. It returns
// ErrMalformed, or ErrInvalid if b has no such entry.
func SplitWelcome(b, ref []byte) ([]byte, error) {
	w, framed, err := parseWelcome(b)
	if err != nil {
		return nil, err
	}
	e, ok := w.entry(ref)
	if !ok {
		return nil, broken("12.4.3.1", "a Welcome has an entry for each newcomer")
	}
	one := &welcome{suite: w.suite, secrets: []encryptedGroupSecrets{*e}, encryptedGroupInfo: w.encryptedGroupInfo}
	if framed {
		return (&mlsMessage{welcome: one}).marshal(), nil
	}
	return marshal(one), nil
}

// open finds and opens the entry of kp. The secrets are authenticated by the key schedule that they lead to.
func (w *welcome) open(kp *KeyPackage, initKey HPKEPrivateKey) (*groupSecrets, error) {
	e, ok := w.entry(kp.Ref())
	if !ok {
		return nil, broken("12.4.3.1", "a Welcome has an entry for each newcomer")
	}
	plain, err := w.suite.DecryptWithLabel(initKey, labelWelcomeHPKE, w.encryptedGroupInfo, e.secrets.kemOutput, e.secrets.ciphertext)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	g := new(groupSecrets)
	if err := parse(plain, g); err != nil {
		return nil, err
	}
	return g, nil
}

// openGroupInfo opens the GroupInfo. member is memberSecret's result.
func (w *welcome) openGroupInfo(member []byte) (*groupInfo, error) {
	k := welcomeKey(w.suite, member)
	defer k.erase()
	plain, err := w.suite.Open(k.key, k.nonce, nil, w.encryptedGroupInfo)
	if err != nil {
		return nil, err
	}
	g := new(groupInfo)
	if err := parse(plain, g); err != nil {
		return nil, err
	}
	if g.context.version != mls10 || g.context.suite != w.suite {
		return nil, broken("12.4.3.1", "Welcome and GroupInfo have one cipher suite")
	}
	return g, nil
}

// checkPSKs checks the PSKs of a Welcome and returns the one that links the group to another, nil if there is none, RFC 9420 §12.4.3.1.
func (g *groupSecrets) checkPSKs(suite CipherSuite) (link *PSKID, err error) {
	for _, id := range g.psks {
		if len(id.Nonce) != suite.HashLen() {
			return nil, broken("8.4", "a PSK nonce has the length of a hash")
		}
		if id.Usage <= PSKApplication {
			continue
		}
		if link != nil {
			return nil, broken("12.4.3.1", "a Welcome has at most one PSK of usage reinit or branch")
		}
		link = id
	}
	return link, nil
}

// newcomer is what a Welcome holds for one Add.
type newcomer struct {
	keyPackage *KeyPackage
	pathSecret []byte // nil for a commit without a path
}

// newWelcome seals a GroupInfo and the secrets of each newcomer. member is memberSecret's result for joiner.
func newWelcome(info *groupInfo, joiner, member []byte, psks []*PSKID, newcomers []newcomer) (*welcome, error) {
	suite := info.context.suite
	k := welcomeKey(suite, member)
	defer k.erase()
	w := &welcome{
		suite:              suite,
		secrets:            make([]encryptedGroupSecrets, len(newcomers)),
		encryptedGroupInfo: suite.Seal(k.key, k.nonce, nil, marshal(info)),
	}
	sealer := suite.sealerWithLabel(labelWelcomeHPKE, w.encryptedGroupInfo)
	err := parallel(len(newcomers), func(i int) error {
		n := &newcomers[i]
		plain := marshal(&groupSecrets{joiner: joiner, pathSecret: n.pathSecret, psks: psks})
		defer clear(plain)
		kem, ct, err := sealer.seal(n.keyPackage.initKey, nil, plain)
		w.secrets[i] = encryptedGroupSecrets{newMember: n.keyPackage.Ref(), secrets: hpkeCiphertext{kemOutput: kem, ciphertext: ct}}
		return err
	})
	if err != nil {
		return nil, err
	}
	return w, nil
}
