package mls

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// wireValue is a wire struct that can be read and written.
type wireValue interface {
	parser
	marshaler
}

// form is a form of bytes that the package reads, from outside or from storage.
type form struct {
	name string
	// read reads all of b and writes again what it has read. It may work with that, and fails the test if it breaks what the package promises.
	read func(t testing.TB, b []byte) (again []byte, err error)
}

// forms are all of them. FuzzParsers knows a form by its place: new ones come last. testdata/parsers.txt says which functions each covers.
var forms = []form{
	{"Extension", wireForm(func() wireValue { return new(Extension) })},
	{"Credential", wireForm(func() wireValue { return new(Credential) })},
	{"Capabilities", wireForm(func() wireValue { return new(Capabilities) })},
	{"RequiredCapabilities", wireForm(func() wireValue { return new(requiredCapabilities) })},
	{"LeafNode", wireForm(func() wireValue { return new(LeafNode) })},
	{"KeyPackage", readKeyPackage},
	{"Proposal", wireForm(func() wireValue { return new(Proposal) })},
	{"ProposalOrRef", wireForm(func() wireValue { return new(proposalOrRef) })},
	{"Commit", wireForm(func() wireValue { return new(commit) })},
	{"UpdatePath", wireForm(func() wireValue { return new(updatePath) })},
	{"ParentNode", wireForm(func() wireValue { return new(parentNode) })},
	{"HPKECiphertext", readCiphertext},
	{"ReInit", wireForm(func() wireValue { return new(ReInit) })},
	{"GroupSecrets", wireForm(func() wireValue { return new(groupSecrets) })},
	{"GroupContext", wireForm(func() wireValue { return new(groupContext) })},
	{"AuthenticatedContent", wireForm(func() wireValue { return new(authenticatedContent) })},
	{"SenderData", wireForm(func() wireValue { return new(senderData) })},
	{"PreSharedKeyID", wireForm(func() wireValue { return new(PSKID) })},
	{"ExternalSender", wireForm(func() wireValue { return new(ExternalSender) })},
	{"MLSMessage", readMessage},
	{"Welcome", readWelcome},
	{"GroupInfo", readGroupInfo},
	{"ratchet_tree", readTree},
	{"external_senders", func(_ testing.TB, b []byte) ([]byte, error) {
		senders, err := parseExternalSenders(b)
		if err != nil {
			return nil, err
		}
		return ExternalSendersExtension(senders...).Data, nil
	}},
	{"external_pub", func(_ testing.TB, b []byte) ([]byte, error) {
		key, err := parseExternalPub(b)
		return marshalExternalPub(key), err
	}},
	{"varint", readLength},
	{"private tree", wireForm(func() wireValue { return new(treePrivate) })},
	{"secret tree", wireForm(func() wireValue { return new(secretTree) })},
	{"signature key", keyForm(func() storedKey { return new(SignatureKey) })},
	{"HPKE key", keyForm(func() storedKey { return new(HPKEPrivateKey) })},
	{"KeyPackage secrets", keyForm(func() storedKey { return new(KeyPackageSecrets) })},
	{"public state", func(_ testing.TB, b []byte) ([]byte, error) {
		g, err := ParsePublicGroup(b, testRules())
		if err != nil {
			return nil, err
		}
		return g.Marshal(), nil
	}},
	{"group state", func(_ testing.TB, b []byte) ([]byte, error) {
		g, err := ParseGroup(b, testRules())
		if err != nil {
			return nil, err
		}
		return g.Marshal(), nil
	}},
	{"group state in parts", readParts},
	{"staged state", func(_ testing.TB, b []byte) ([]byte, error) {
		c, err := ParseStagedCommit(b, testRules())
		if err != nil {
			return nil, err
		}
		return c.Marshal(), nil
	}},
}

func wireForm(newValue func() wireValue) func(t testing.TB, b []byte) ([]byte, error) {
	return func(_ testing.TB, b []byte) ([]byte, error) {
		v := newValue()
		if err := parse(b, v); err != nil {
			return nil, err
		}
		return marshal(v), nil
	}
}

type storedKey interface {
	UnmarshalBinary(b []byte) error
	MarshalBinary() ([]byte, error)
}

func keyForm(newKey func() storedKey) func(t testing.TB, b []byte) ([]byte, error) {
	return func(_ testing.TB, b []byte) ([]byte, error) {
		k := newKey()
		if err := k.UnmarshalBinary(b); err != nil {
			return nil, err
		}
		return k.MarshalBinary()
	}
}

// readKeyPackage also validates what parses, and asks for all that a caller may ask for.
func readKeyPackage(t testing.TB, b []byte) ([]byte, error) {
	kp := new(KeyPackage)
	if err := parse(b, kp); err != nil {
		return nil, err
	}
	if err := kp.Validate(time.Time{}); err != nil && errorKinds(err) != 1 {
		t.Fatal("an error of no kind, or of several")
	}
	kp.Ref()
	if again, err := ParseKeyPackage(b); err == nil && !bytes.Equal(again.Marshal(), b) {
		t.Fatal("round trip differs")
	}
	return kp.Marshal(), nil
}

// readCiphertext also opens it, with a key of each KEM that has encapsulated keys of such a length.
func readCiphertext(t testing.TB, b []byte) ([]byte, error) {
	c := new(hpkeCiphertext)
	if err := parse(b, c); err != nil {
		return nil, err
	}
	for cs, key := range keysOfAllSuites() {
		if len(c.kemOutput) != 0 && len(c.kemOutput) != len(key.Public()) {
			continue
		}
		if _, err := cs.DecryptWithLabel(key, labelWelcomeHPKE, nil, c.kemOutput, c.ciphertext); err == nil {
			t.Fatal("opened what nobody sealed")
		} else if errorKinds(err) != 1 {
			t.Fatal("an error of no kind, or of several")
		}
		if _, _, err := cs.HPKESeal(c.kemOutput, nil, nil, c.ciphertext); (err == nil) != cs.validHPKEPublicKey(c.kemOutput) {
			t.Fatal("a key that is valid and cannot be sealed to, or the other way round")
		}
	}
	return marshal(c), nil
}

// keysOfAllSuites are one HPKE key of each suite, the post-quantum one among them.
var keysOfAllSuites = sync.OnceValue(func() map[CipherSuite]HPKEPrivateKey {
	if err := RegisterXWing(0xf00d); err != nil {
		panic(err)
	}
	keys := map[CipherSuite]HPKEPrivateKey{}
	for _, cs := range slices.AppendSeq([]CipherSuite{0xf00d}, maps.Keys(suites)) {
		key, err := cs.GenerateHPKEKey()
		if err != nil {
			panic(err)
		}
		keys[cs] = key
	}
	return keys
})

func readMessage(t testing.TB, b []byte) ([]byte, error) {
	m, err := parseMLSMessage(b)
	if err != nil {
		return nil, err
	}
	if m.welcome != nil {
		return readWelcome(t, b)
	}
	if _, err := Peek(b); err != nil {
		return nil, err
	}
	return m.marshal(), nil
}

// readWelcome also splits it.
func readWelcome(t testing.TB, b []byte) ([]byte, error) {
	refs, err := WelcomeRefs(b)
	if err != nil {
		return nil, err
	}
	for _, ref := range refs {
		one := must(SplitWelcome(b, ref))(t)
		if got := must(WelcomeRefs(one))(t); len(got) != 1 || !bytes.Equal(got[0], ref) {
			t.Fatal("not one entry")
		}
	}
	w, framed, err := parseWelcome(b)
	if err != nil {
		return nil, err
	}
	if framed {
		return (&mlsMessage{welcome: w}).marshal(), nil
	}
	return marshal(w), nil
}

func readGroupInfo(_ testing.TB, b []byte) ([]byte, error) {
	info, err := ParseGroupInfo(b)
	if err != nil {
		return nil, err
	}
	if framed, ok := bytes.CutPrefix(b, []byte{0, 1, 0, 4}); ok && bytes.Equal(info.Raw, framed) {
		return b, nil
	}
	return info.Raw, nil
}

// readTree also works with the tree that it has read, valid or not.
func readTree(t testing.TB, b []byte) ([]byte, error) {
	tree, err := parseRatchetTree(suite1, b)
	if err != nil {
		return nil, err
	}
	tree.rootHash()
	if err := tree.validate(treeContext{groupID: []byte("group")}); err != nil && errorKinds(err) != 1 {
		t.Fatal("an error of no kind, or of several")
	}
	for _, m := range tree.members() {
		tree.filteredPath(leafIndex(m.Index))
		next := tree.clone()
		if err := next.removeLeaf(leafIndex(m.Index)); err != nil {
			t.Fatal(err)
		}
		next.rootHash()
		if !tree.hasEncryptionKey(m.Leaf.encryptionKey, noNode) {
			t.Fatal("a key of the tree is not in it")
		}
		next.hasEncryptionKey(m.Leaf.encryptionKey, noNode)
	}
	return tree.bytes(), nil
}

// readLength reads a length and nothing else.
func readLength(_ testing.TB, b []byte) ([]byte, error) {
	s, n := cryptobyte.String(b), uint32(0)
	if !readVarint(&s, &n) || !s.Empty() {
		return nil, ErrMalformed
	}
	var w cryptobyte.Builder
	writeVarint(&w, int(n))
	return w.Bytes()
}

// readParts reads the two parts of a group's state: the public one as a vector, then the other.
func readParts(_ testing.TB, b []byte) ([]byte, error) {
	s := cryptobyte.String(b)
	var public cryptobyte.String
	if !readState(&s, &public) {
		return nil, ErrMalformed
	}
	g, err := ParseGroupParts(public, s, testRules())
	if err != nil {
		return nil, err
	}
	return append(appendOpaque(nil, g.Public().Marshal()), g.MarshalPrivate()...), nil
}

// formSamples returns at least one valid encoding of each form.
func formSamples(t testing.TB) map[string][][]byte {
	all := samples(t).forms
	maps.Copy(all, treeSamples(t))
	for cs, key := range keysOfAllSuites() {
		kp, secrets := keyPackageOf(t, cs)
		kem, ct, err := cs.EncryptWithLabel(key.Public(), labelWelcomeHPKE, []byte("other context"), []byte("plain"))
		if err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string][]byte{
			"KeyPackage": kp.Marshal(), "HPKECiphertext": marshal(&hpkeCiphertext{kem, ct}), "HPKE key": must(key.MarshalBinary())(t),
			"signature key": must(secrets.SignatureKey.MarshalBinary())(t), "KeyPackage secrets": must(secrets.MarshalBinary())(t),
		} {
			all[name] = append(all[name], b)
		}
	}
	return all
}

// keyPackageOf is makeKeyPackage for any suite.
func keyPackageOf(t testing.TB, cs CipherSuite) (*KeyPackage, *KeyPackageSecrets) {
	t.Helper()
	cfg := keyPackageConfig(t)
	cfg.Suite, cfg.SignatureKey = cs, must(cs.GenerateSignatureKey())(t)
	cfg.Capabilities.CipherSuites = []CipherSuite{cs}
	kp, secrets, err := NewKeyPackage(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return kp, secrets
}

// treeSamples are samples of the forms that the tree, the proposals and the commit are made of.
func treeSamples(t testing.TB) map[string][][]byte {
	p := makePath(t)
	kp, _ := makeKeyPackage(t)
	withBody := func(typ ProposalType, body ...byte) []byte {
		return append([]byte{byte(typ >> 8), byte(typ)}, body...)
	}
	update := Proposal{Type: ProposalUpdate, Leaf: p.theirs.leaf(0)}
	proposals := [][]byte{
		marshal(&Proposal{Type: ProposalAdd, KeyPackage: kp}),
		marshal(&update),
		marshal(&Proposal{Type: ProposalRemove, Removed: 7}),
		withBody(ProposalPSK, 1, 2, 'i', 'd', 1, 'n'),
		withBody(ProposalPSK, 2, 3, 1, 'g', 0, 0, 0, 0, 0, 0, 0, 9, 1, 'n'),
		withBody(ProposalReInit, 1, 'g', 0, 1, 0, 1, 3, 0, 7, 0),
		withBody(ProposalExternalInit, 2, 'k', 'k'),
		marshal(&Proposal{Type: ProposalGroupContextExtensions, Extensions: kp.extensions}),
		marshal(&Proposal{Type: ProposalSelfRemove}),
		marshal(&Proposal{Type: 0xF1A4, Body: []byte("body")}),
	}
	c := &commit{proposals: []proposalOrRef{{proposal: &update}, {ref: randomBytes(32)}}, path: p.made.path}
	x509 := kp.leaf.clone()
	x509.credential = Credential{CredentialX509, chain([]byte{0x30, 0})}
	return map[string][][]byte{
		"Extension":            {marshal(&kp.extensions[0])},
		"Credential":           {marshal(&kp.leaf.credential), {0, 2, 3, 2, 'a', 'b'}},
		"Capabilities":         {marshal(&kp.leaf.capabilities)},
		"RequiredCapabilities": {marshal(&requiredCapabilities{extensions: []ExtensionType{9}})},
		"LeafNode":             {marshal(&kp.leaf), marshal(p.made.path.leaf), x509.Marshal()},
		"KeyPackage":           {marshal(kp)},
		"Proposal":             proposals,
		"ProposalOrRef":        {marshal(&c.proposals[0]), marshal(&c.proposals[1])},
		"Commit":               {marshal(c), marshal(&commit{})},
		"UpdatePath":           {marshal(p.made.path)},
		"ParentNode":           {marshal(p.theirs.node(7).parent)},
		"ReInit":               {proposals[5][2:]},
		"ratchet_tree":         {p.theirs.bytes()},
		"varint":               {{0}, {0x40, 0x40}, {0x80, 0, 0x40, 0}},
		"private tree":         {marshal(p.members[0].private)},
	}
}

// TestForms checks that every sample reads back as itself, and that no prefix of it and nothing longer reads at all.
func TestForms(t *testing.T) {
	samples := formSamples(t)
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			if len(samples[f.name]) == 0 {
				t.Fatal("no sample")
			}
			for _, b := range samples[f.name] {
				again, err := f.read(t, b)
				if err != nil {
					t.Fatal(err)
				}
				wantBytes(t, "round trip", again, b)
				for n := range b {
					if _, err := f.read(t, b[:n]); err == nil {
						t.Fatalf("read %d bytes of %d", n, len(b))
					}
				}
				if _, err := f.read(t, append(bytes.Clone(b), 0)); err == nil {
					t.Fatal("read a byte too many")
				}
			}
		})
	}
}

func TestStateVersions(t *testing.T) {
	s := samples(t)
	for _, name := range []string{"public state", "group state", "staged state", "MLSMessage"} {
		b := bytes.Clone(s.forms[name][0])
		b[1] = 0x7f
		i := slices.IndexFunc(forms, func(f form) bool { return f.name == name })
		if _, err := forms[i].read(t, b); err != ErrUnsupported {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzParsers gives bytes to one of the forms. What is refused, is so for one reason; what parses, marshals back to the same bytes.
func FuzzParsers(f *testing.F) {
	samples, vectors := formSamples(f), vectorSeeds()
	for i, form := range forms {
		for _, b := range slices.Concat(samples[form.name], vectors[form.name], [][]byte{{}, make([]byte, 64), {0xF1, 0xA4, 2, 'a', 'b'}}) {
			f.Add(uint8(i), b)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		form := &forms[int(which)%len(forms)]
		switch again, err := form.read(t, b); {
		case err != nil && errorKinds(err) != 1:
			t.Fatalf("%s: an error of no kind, or of several: %v", form.name, err)
		case err == nil && !bytes.Equal(again, b):
			t.Fatalf("%s: round trip differs", form.name)
		}
	})
}

// vectorSeeds returns seeds from the official vectors, if they are there.
func vectorSeeds() map[string][][]byte {
	dir := os.Getenv("MLS_VECTORS")
	if dir == "" {
		dir = vectorDir
	}
	raw, err := os.ReadFile(filepath.Join(dir, "messages.json"))
	if err != nil {
		return nil
	}
	var cases []map[string]hexBytes
	if json.Unmarshal(raw, &cases) != nil {
		return nil
	}
	seeds := map[string][][]byte{}
	for _, c := range cases[:min(len(cases), 20)] {
		for field, name := range map[string]string{
			"commit": "Commit", "update_proposal": "LeafNode", "add_proposal": "KeyPackage", "re_init_proposal": "ReInit", "ratchet_tree": "ratchet_tree",
		} {
			seeds[name] = append(seeds[name], c[field])
		}
	}
	return seeds
}

// errorKinds counts the sentinels that an error matches: exactly one, by contract.
func errorKinds(err error) (n int) {
	for _, kind := range []error{ErrMalformed, ErrUnauthenticated, ErrInvalid, ErrStaleEpoch, ErrReplayed, ErrUnsupported} {
		if errors.Is(err, kind) {
			n++
		}
	}
	return n
}
