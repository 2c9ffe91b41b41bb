package mls

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
)

// vectorRunners runs one case of each file of the official test vectors. Files that belong to other parts of the package
// register theirs in an init function.
var vectorRunners = map[string]func(t *testing.T, c json.RawMessage){
	"tree-math.json":       vectorTreeMath,
	"deserialization.json": vectorDeserialization,
	"crypto-basics.json":   vectorCryptoBasics,
	"tree-operations.json": vectorTreeOperations,
	"tree-validation.json": vectorTreeValidation,
	"treekem.json":         vectorTreeKEM,
	"messages.json":        vectorMessages,
}

// vectorDir is where the vectors are looked for if MLS_VECTORS does not say.
const vectorDir = "../../../shared/vectors/mls"

// vectorFiles returns the paths of the vector files. Without any it skips; but where they were named, or must be there, it fails.
func vectorFiles(t testing.TB) []string {
	named := os.Getenv("MLS_VECTORS")
	dir := named
	if dir == "" {
		dir = vectorDir
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 && (named != "" || os.Getenv("CI") != "") {
		t.Fatal("no MLS test vectors where MLS_VECTORS, or CI, says that they are")
	}
	if len(files) == 0 {
		t.Skip("no MLS test vectors: clone github.com/mlswg/mls-implementations and set MLS_VECTORS to its test-vectors folder")
	}
	return files
}

// vectorCases returns the cases of a file.
func vectorCases(t testing.TB, path string) []json.RawMessage {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestVectorsAreComplete: no file that has a runner is missing. The long random history is optional, since some collections leave it out.
func TestVectorsAreComplete(t *testing.T) {
	found := make(map[string]bool)
	for _, path := range vectorFiles(t) {
		found[filepath.Base(path)] = true
	}
	for name := range vectorRunners {
		if !found[name] && name != "passive-client-random.json" {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestVectors(t *testing.T) {
	for _, path := range vectorFiles(t) {
		name := filepath.Base(path)
		t.Run(strings.TrimSuffix(name, ".json"), func(t *testing.T) {
			run := vectorRunners[name]
			if run == nil {
				t.Fatal("no runner for this file")
			}
			cases := vectorCases(t, path)
			if len(cases) == 0 {
				t.Fatal("no case")
			}
			for i, c := range cases {
				t.Run("case"+itoa(i), func(t *testing.T) { run(t, c) })
			}
		})
	}
}

// itoa writes three digits, so that the cases sort.
func itoa(i int) string {
	return string([]byte{'0' + byte(i/100%10), '0' + byte(i/10%10), '0' + byte(i%10)})
}

// hexBytes is a byte string in hex, nil for null.
type hexBytes []byte

func (h *hexBytes) UnmarshalJSON(b []byte) error {
	var s *string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if *h = nil; s == nil {
		return nil
	}
	v, err := hex.DecodeString(*s)
	*h = v
	return err
}

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// The files leave out the leading zeros of some private keys of P-521, whose form has 66 bytes.
func paddedKey(cs CipherSuite, private []byte) []byte {
	if cs != P521_AES256GCM_SHA512_P521 || len(private) >= 66 {
		return private
	}
	return append(make([]byte, 66-len(private)), private...)
}

func signatureKeyOf(t *testing.T, cs CipherSuite, private []byte) SignatureKey {
	t.Helper()
	return must(cs.DeriveSignatureKey(paddedKey(cs, private)))(t)
}

func hpkeKeyOf(t *testing.T, cs CipherSuite, private []byte) HPKEPrivateKey {
	t.Helper()
	return must(cs.parseHPKEPrivateKey(paddedKey(cs, private)))(t)
}

func vectorTreeMath(t *testing.T, raw json.RawMessage) {
	var c struct {
		Leaves  int          `json:"n_leaves"`
		Nodes   int          `json:"n_nodes"`
		Root    nodeIndex    `json:"root"`
		Left    []*nodeIndex `json:"left"`
		Right   []*nodeIndex `json:"right"`
		Parent  []*nodeIndex `json:"parent"`
		Sibling []*nodeIndex `json:"sibling"`
	}
	decodeCase(t, raw, &c)
	tree := &ratchetTree{nodes: newNodeArray(c.Leaves)}
	if tree.nodes.len() != c.Nodes || tree.width() != c.Leaves || tree.root() != c.Root {
		t.Fatalf("nodes %d, width %d, root %d", tree.nodes.len(), tree.width(), tree.root())
	}
	check := func(what string, n nodeIndex, has bool, f func() nodeIndex, want *nodeIndex) {
		if has != (want != nil) {
			t.Errorf("%s of %d: has %v, want %v", what, n, has, want != nil)
		} else if has && f() != *want {
			t.Errorf("%s of %d: %d, want %d", what, n, f(), *want)
		}
	}
	for n := range nodeIndex(c.Nodes) {
		check("left", n, !n.isLeaf(), n.left, c.Left[n])
		check("right", n, !n.isLeaf(), n.right, c.Right[n])
		check("parent", n, n != c.Root, n.parent, c.Parent[n])
		check("sibling", n, n != c.Root, n.sibling, c.Sibling[n])
	}
}

func vectorDeserialization(t *testing.T, raw json.RawMessage) {
	var c struct {
		Header hexBytes `json:"vlbytes_header"`
		Length uint32   `json:"length"`
	}
	decodeCase(t, raw, &c)
	s, n := cryptobyte.String(c.Header), uint32(0)
	if !readVarint(&s, &n) || !s.Empty() || n != c.Length {
		t.Errorf("read %d, want %d", n, c.Length)
	}
	var b cryptobyte.Builder
	writeVarint(&b, int(c.Length))
	wantBytes(t, "written", b.BytesOrPanic(), c.Header)
}

func vectorCryptoBasics(t *testing.T, raw json.RawMessage) {
	var c struct {
		Suite   CipherSuite `json:"cipher_suite"`
		RefHash struct {
			Label      string
			Value, Out hexBytes
		} `json:"ref_hash"`
		Expand struct {
			Secret, Context, Out hexBytes
			Label                string
			Length               int
		} `json:"expand_with_label"`
		Derive struct {
			Secret, Out hexBytes
			Label       string
		} `json:"derive_secret"`
		Tree struct {
			Secret, Out hexBytes
			Label       string
			Generation  uint32
			Length      int
		} `json:"derive_tree_secret"`
		Sign struct {
			Priv, Pub, Content, Signature hexBytes
			Label                         string
		} `json:"sign_with_label"`
		Encrypt struct {
			Priv, Pub, Context, Plaintext, Ciphertext hexBytes
			Label                                     string
			KEM                                       hexBytes `json:"kem_output"`
		} `json:"encrypt_with_label"`
	}
	decodeCase(t, raw, &c)
	cs := c.Suite
	wantBytes(t, "RefHash", cs.RefHash(c.RefHash.Label, c.RefHash.Value), c.RefHash.Out)
	wantBytes(t, "ExpandWithLabel", cs.ExpandWithLabel(c.Expand.Secret, c.Expand.Label, c.Expand.Context, c.Expand.Length), c.Expand.Out)
	wantBytes(t, "DeriveSecret", cs.deriveSecret(c.Derive.Secret, c.Derive.Label), c.Derive.Out)
	wantBytes(t, "DeriveTreeSecret", cs.deriveTreeSecret(c.Tree.Secret, c.Tree.Label, c.Tree.Generation, c.Tree.Length), c.Tree.Out)

	key := signatureKeyOf(t, cs, c.Sign.Priv)
	wantBytes(t, "signature key", key.Public(), c.Sign.Pub)
	for _, sig := range [][]byte{c.Sign.Signature, key.SignWithLabel(c.Sign.Label, c.Sign.Content)} {
		if !cs.VerifyWithLabel(c.Sign.Pub, c.Sign.Label, c.Sign.Content, sig) {
			t.Error("signature does not verify")
		}
	}

	e := c.Encrypt
	priv := hpkeKeyOf(t, cs, e.Priv)
	wantBytes(t, "HPKE key", priv.Public(), e.Pub)
	wantBytes(t, "DecryptWithLabel", must(cs.DecryptWithLabel(priv, e.Label, e.Context, e.KEM, e.Ciphertext))(t), e.Plaintext)
	kem, ct, err := cs.EncryptWithLabel(e.Pub, e.Label, e.Context, e.Plaintext)
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "EncryptWithLabel", must(cs.DecryptWithLabel(priv, e.Label, e.Context, kem, ct))(t), e.Plaintext)
}

func vectorTreeOperations(t *testing.T, raw json.RawMessage) {
	var c struct {
		Suite      CipherSuite `json:"cipher_suite"`
		Before     hexBytes    `json:"tree_before"`
		HashBefore hexBytes    `json:"tree_hash_before"`
		Proposal   hexBytes    `json:"proposal"`
		Sender     leafIndex   `json:"proposal_sender"`
		After      hexBytes    `json:"tree_after"`
		HashAfter  hexBytes    `json:"tree_hash_after"`
	}
	decodeCase(t, raw, &c)
	before := must(parseRatchetTree(c.Suite, c.Before))(t)
	wantBytes(t, "tree hash before", before.rootHash(), c.HashBefore)

	tree := before.clone()
	p := new(Proposal)
	if err := parse(c.Proposal, p); err != nil {
		t.Fatal(err)
	}
	var err error
	switch p.Type {
	case ProposalAdd:
		_, err = tree.addLeaf(p.KeyPackage.Leaf())
	case ProposalUpdate:
		err = tree.updateLeaf(c.Sender, p.Leaf)
	case ProposalRemove:
		err = tree.removeLeaf(leafIndex(p.Removed))
	default:
		t.Fatalf("proposal type %d", p.Type)
	}
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "tree after", tree.bytes(), c.After)
	wantBytes(t, "tree hash after", tree.rootHash(), c.HashAfter)
	wantBytes(t, "original tree", before.bytes(), c.Before)
	wantBytes(t, "original hash", before.rootHash(), c.HashBefore)
}

func vectorTreeValidation(t *testing.T, raw json.RawMessage) {
	var c struct {
		Suite       CipherSuite   `json:"cipher_suite"`
		Tree        hexBytes      `json:"tree"`
		GroupID     hexBytes      `json:"group_id"`
		Hashes      []hexBytes    `json:"tree_hashes"`
		Resolutions [][]nodeIndex `json:"resolutions"`
	}
	decodeCase(t, raw, &c)
	tree := must(parseRatchetTree(c.Suite, c.Tree))(t)
	wantBytes(t, "tree", tree.bytes(), c.Tree)
	if tree.nodes.len() != len(c.Hashes) {
		t.Fatalf("%d nodes, want %d", tree.nodes.len(), len(c.Hashes))
	}
	for n := range nodeIndex(tree.nodes.len()) {
		wantBytes(t, "tree hash", tree.hash(n), c.Hashes[n])
		got := slices.Collect(tree.resolution(n, nil))
		if len(got) != len(c.Resolutions[n]) {
			t.Fatalf("resolution of %d: %v, want %v", n, got, c.Resolutions[n])
		}
		for i := range got {
			if got[i] != c.Resolutions[n][i] {
				t.Errorf("resolution of %d: %v, want %v", n, got, c.Resolutions[n])
			}
		}
		if (tree.node(n).leaves == 0) != (len(got) == 0) {
			t.Errorf("node %d: the number of leaves does not agree with the resolution", n)
		}
	}
	if err := tree.validate(treeContext{groupID: c.GroupID}); err != nil {
		t.Error(err)
	}
}

type vectorTreeKEMCase struct {
	Suite      CipherSuite `json:"cipher_suite"`
	GroupID    hexBytes    `json:"group_id"`
	Epoch      uint64      `json:"epoch"`
	Transcript hexBytes    `json:"confirmed_transcript_hash"`
	Tree       hexBytes    `json:"ratchet_tree"`
	Leaves     []struct {
		Index          leafIndex `json:"index"`
		EncryptionPriv hexBytes  `json:"encryption_priv"`
		SignaturePriv  hexBytes  `json:"signature_priv"`
		PathSecrets    []struct {
			Node   nodeIndex `json:"node"`
			Secret hexBytes  `json:"path_secret"`
		} `json:"path_secrets"`
	} `json:"leaves_private"`
	Paths []struct {
		Sender       leafIndex  `json:"sender"`
		Path         hexBytes   `json:"update_path"`
		Secrets      []hexBytes `json:"path_secrets"`
		CommitSecret hexBytes   `json:"commit_secret"`
		TreeHash     hexBytes   `json:"tree_hash_after"`
	} `json:"update_paths"`
}

// validate checks a tree. The leaves of the trees of suite 7 list the other six suites only, which is less than this package
// demands of a member of a group; the checks of their signatures come after that one, and are made here.
func (c *vectorTreeKEMCase) validate(t *testing.T, tree *ratchetTree) {
	t.Helper()
	err := tree.validate(treeContext{groupID: c.GroupID})
	if c.Suite != P384_AES256GCM_SHA384_P384 {
		if err != nil {
			t.Error(err)
		}
		return
	}
	var rule *RuleError
	if !errors.As(err, &rule) || rule.Rule != "capabilities list the cipher suite in use" {
		t.Errorf("the leaves of suite 7 do not list it: %v", err)
	}
	for i := range leafIndex(tree.width()) {
		if l := tree.leaf(i); l != nil && !l.verify(c.Suite, c.GroupID, i) {
			t.Errorf("the signature of leaf %d does not verify", i)
		}
	}
}

// context writes the provisional GroupContext that the file defines.
func (c *vectorTreeKEMCase) context(treeHash []byte) []byte {
	var b cryptobyte.Builder
	b.AddUint16(mls10)
	b.AddUint16(uint16(c.Suite))
	writeOpaque(&b, c.GroupID)
	b.AddUint64(c.Epoch)
	writeOpaque(&b, treeHash)
	writeOpaque(&b, c.Transcript)
	marshalExtensions(&b, nil)
	return b.BytesOrPanic()
}

// members returns the private states that the file gives, by leaf, and their signature keys.
func (c *vectorTreeKEMCase) members(t *testing.T, tree *ratchetTree) (map[leafIndex]*treePrivate, map[leafIndex]SignatureKey) {
	privates, signers := map[leafIndex]*treePrivate{}, map[leafIndex]SignatureKey{}
	for _, l := range c.Leaves {
		p := newTreePrivate(l.Index, hpkeKeyOf(t, c.Suite, l.EncryptionPriv))
		for _, s := range l.PathSecrets {
			p.keys[s.Node] = must(c.Suite.nodeKey(s.Secret))(t)
		}
		if err := p.check(tree); err != nil {
			t.Fatal("private state does not match the tree")
		}
		privates[l.Index] = p
		signers[l.Index] = signatureKeyOf(t, c.Suite, l.SignaturePriv)
	}
	return privates, signers
}

func vectorTreeKEM(t *testing.T, raw json.RawMessage) {
	c := new(vectorTreeKEMCase)
	decodeCase(t, raw, c)
	before := must(parseRatchetTree(c.Suite, c.Tree))(t)
	c.validate(t, before)
	privates, signers := c.members(t, before)
	for _, p := range c.Paths {
		u := new(updatePath)
		if err := parse(p.Path, u); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, "path", marshal(u), p.Path)
		tree := before.clone()
		if err := tree.applyPath(p.Sender, u, nil, c.GroupID); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, "tree hash after", tree.rootHash(), p.TreeHash)
		for i, private := range privates {
			if i == p.Sender {
				continue
			}
			commitSecret, next, err := private.openPath(tree, p.Sender, u, nil, c.context(tree.rootHash()))
			if err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "commit secret", commitSecret, p.CommitSecret)
			lowest := must(c.Suite.nodeKey(p.Secrets[i]))(t)
			wantBytes(t, "path secret", next.keys[commonAncestor(i, p.Sender)].Public(), lowest.Public())
		}
		c.createAndOpen(t, before.clone(), p.Sender, privates, signers[p.Sender])
	}
}

// createAndOpen makes a new path of the sender and lets all others open it.
func (c *vectorTreeKEMCase) createAndOpen(t *testing.T, tree *ratchetTree, sender leafIndex, privates map[leafIndex]*treePrivate, signer SignatureKey) {
	others := tree.clone()
	made, err := tree.createPath(pathArgs{
		sender: sender, leaf: tree.leaf(sender), signer: signer, groupID: c.GroupID, context: c.context,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := made.private.check(tree); err != nil {
		t.Error("sender's private state does not match the tree")
	}
	if err := others.applyPath(sender, made.path, nil, c.GroupID); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "tree hash", others.rootHash(), tree.rootHash())
	c.validate(t, others)
	for i, private := range privates {
		if i == sender {
			continue
		}
		commitSecret, next, err := private.openPath(others, sender, made.path, nil, c.context(others.rootHash()))
		if err != nil {
			t.Fatal(err)
		}
		wantBytes(t, "commit secret", commitSecret, made.commitSecret)
		if err := next.check(others); err != nil {
			t.Error("private state does not match the tree")
		}
		joined, err := newTreePrivate(i, private.leafKey()).joinPath(others, sender, made.secretFor(i))
		if err != nil {
			t.Fatal(err)
		}
		if err := joined.check(others); err != nil {
			t.Error("joiner's private state does not match the tree")
		}
	}
}

func vectorMessages(t *testing.T, raw json.RawMessage) {
	var c map[string]hexBytes
	decodeCase(t, raw, &c)
	proposals := map[string]ProposalType{
		"add_proposal":                      ProposalAdd,
		"update_proposal":                   ProposalUpdate,
		"remove_proposal":                   ProposalRemove,
		"pre_shared_key_proposal":           ProposalPSK,
		"re_init_proposal":                  ProposalReInit,
		"external_init_proposal":            ProposalExternalInit,
		"group_context_extensions_proposal": ProposalGroupContextExtensions,
	}
	for name, b := range c {
		if typ, ok := proposals[name]; ok {
			p, s := &Proposal{Type: typ}, cryptobyte.String(b)
			if !p.parseBody(&s) || !s.Empty() {
				t.Errorf("%s does not parse", name)
				continue
			}
			wantBytes(t, name, marshal(p)[2:], b)
			continue
		}
		switch name {
		case "ratchet_tree":
			wantBytes(t, name, must(parseRatchetTree(X25519_AES128GCM_SHA256_Ed25519, b))(t).bytes(), b)
		case "group_secrets":
			wantRoundTrip(t, name, new(groupSecrets), b)
		case "commit":
			wantRoundTrip(t, name, new(commit), b)
		default: // every other one is an MLSMessage
			wantBytes(t, name, must(parseMLSMessage(b))(t).marshal(), b)
		}
	}
}

func wantRoundTrip(t *testing.T, name string, v interface {
	parser
	marshaler
}, b []byte) {
	t.Helper()
	if err := parse(b, v); err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	wantBytes(t, name, marshal(v), b)
}
