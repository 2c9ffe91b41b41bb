package mls

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

var treeTestCapabilities = Capabilities{
	Versions:     []uint16{mls10},
	CipherSuites: []CipherSuite{suite1},
	Extensions:   []ExtensionType{0xF1A1, ExtensionLastResort},
	Credentials:  []CredentialType{CredentialBasic, 0xF1A0},
}

// keyPackageConfig is a configuration that everybody accepts.
func keyPackageConfig(t testing.TB) KeyPackageConfig {
	t.Helper()
	return KeyPackageConfig{
		Suite:          suite1,
		Credential:     Credential{Type: 0xF1A0, Body: []byte("somebody")},
		SignatureKey:   must(suite1.GenerateSignatureKey())(t),
		Capabilities:   treeTestCapabilities,
		Lifetime:       Lifetime{NotBefore: 1000, NotAfter: 2000},
		LeafExtensions: []Extension{{Type: 0xF1A1, Data: []byte("queue")}},
		Extensions:     []Extension{{Type: ExtensionLastResort}},
	}
}

func makeKeyPackage(t testing.TB) (*KeyPackage, *KeyPackageSecrets) {
	t.Helper()
	kp, secrets, err := NewKeyPackage(keyPackageConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	return kp, secrets
}

// resign signs leaf and KeyPackage again after a test has changed them.
func resign(kp *KeyPackage, key SignatureKey) {
	kp.leaf.sign(key, nil, 0)
	kp.signature = key.SignWithLabel(labelKeyPackage, kp.toBeSigned())
}

func TestNewKeyPackage(t *testing.T) {
	kp, secrets := makeKeyPackage(t)
	read := must(ParseKeyPackage(kp.Marshal()))(t)
	if err := read.Validate(time.Unix(1500, 0)); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "encoding", read.Marshal(), kp.Marshal())
	wantBytes(t, "ref", read.Ref(), kp.Ref())
	if !secrets.matches(read) {
		t.Error("the secrets are not those of the KeyPackage")
	}
	if other, _ := makeKeyPackage(t); secrets.matches(other) || bytes.Equal(other.Ref(), kp.Ref()) {
		t.Error("two KeyPackages are alike")
	}
	if data, ok := read.Leaf().Extension(0xF1A1); !ok || string(data) != "queue" {
		t.Error("leaf extension lost")
	}
	if l, ok := read.Leaf().Lifetime(); !ok || l != (Lifetime{1000, 2000}) {
		t.Error("lifetime lost")
	}
}

func TestNewKeyPackageRefuses(t *testing.T) {
	for name, change := range map[string]func(c *KeyPackageConfig){
		"credential not in capabilities": func(c *KeyPackageConfig) { c.Credential.Type = 0xF1A5 },
		"extension not in capabilities":  func(c *KeyPackageConfig) { c.LeafExtensions[0].Type = 0xF1A9 },
		"suite not in capabilities":      func(c *KeyPackageConfig) { c.Capabilities.CipherSuites = nil },
		"version not in capabilities":    func(c *KeyPackageConfig) { c.Capabilities.Versions = nil },
		"unsupported suite":              func(c *KeyPackageConfig) { c.Suite = 8 },
		"signature key of another suite": func(c *KeyPackageConfig) {
			c.Suite, c.Capabilities.CipherSuites = 3, []CipherSuite{3}
		},
		"no signature key": func(c *KeyPackageConfig) { c.SignatureKey = SignatureKey{} },
		"doubled extension": func(c *KeyPackageConfig) {
			c.Extensions = append(c.Extensions, c.Extensions...)
		},
		"broken certificates": func(c *KeyPackageConfig) {
			c.Credential = Credential{Type: CredentialX509, Body: []byte{9}}
			c.Capabilities.Credentials = []CredentialType{CredentialX509}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := keyPackageConfig(t)
			change(&cfg)
			if kp, secrets, err := NewKeyPackage(cfg); err == nil || kp != nil || secrets != nil {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestKeyPackageValidate(t *testing.T) {
	now := time.Unix(1500, 0)
	for _, c := range []struct {
		name   string
		change func(kp *KeyPackage)
		resign bool
		now    time.Time
		want   error
	}{
		{"as made", func(*KeyPackage) {}, true, now, nil},
		{"no time", func(*KeyPackage) {}, true, time.Time{}, nil},
		{"first second", func(*KeyPackage) {}, true, time.Unix(1000, 0), nil},
		{"last second", func(*KeyPackage) {}, true, time.Unix(2000, 0), nil},
		{"too early", func(*KeyPackage) {}, true, time.Unix(999, 0), ErrInvalid},
		{"too late", func(*KeyPackage) {}, true, time.Unix(2001, 0), ErrInvalid},
		{"before 1970", func(*KeyPackage) {}, true, time.Unix(-1, 0), ErrInvalid},
		{"init key", func(kp *KeyPackage) { kp.initKey[0] ^= 1 }, false, now, ErrUnauthenticated},
		{"extension", func(kp *KeyPackage) { kp.extensions = nil }, false, now, ErrUnauthenticated},
		{"signature", func(kp *KeyPackage) { kp.signature[0] ^= 1 }, false, now, ErrUnauthenticated},
		{"leaf signature", func(kp *KeyPackage) { kp.leaf.signature[0] ^= 1 }, false, now, ErrUnauthenticated},
		{"equal keys", func(kp *KeyPackage) { kp.initKey = kp.leaf.encryptionKey }, true, now, ErrInvalid},
		{"init key of small order", func(kp *KeyPackage) { kp.initKey = make([]byte, 32) }, true, now, ErrInvalid},
		{"encryption key of small order", func(kp *KeyPackage) { kp.leaf.encryptionKey = make([]byte, 32) }, true, now, ErrInvalid},
		{"source update", func(kp *KeyPackage) { kp.leaf.source = LeafFromUpdate }, true, now, ErrInvalid},
		{"source commit", func(kp *KeyPackage) { kp.leaf.source = LeafFromCommit }, true, now, ErrInvalid},
		{"capabilities", func(kp *KeyPackage) { kp.leaf.capabilities.Credentials = nil }, true, now, ErrInvalid},
		{"unsupported suite", func(kp *KeyPackage) { kp.suite = 8 }, false, now, ErrUnsupported},
		{"suite that the leaf does not list", func(kp *KeyPackage) { kp.suite = 3 }, true, now, ErrInvalid},
		{"suite of other keys", func(kp *KeyPackage) {
			kp.suite, kp.leaf.capabilities.CipherSuites = 2, []CipherSuite{1, 2}
		}, true, now, ErrInvalid},
		{"suite not signed", func(kp *KeyPackage) {
			kp.suite, kp.leaf.capabilities.CipherSuites = 3, []CipherSuite{1, 3}
		}, false, now, ErrUnauthenticated},
		{"version", func(kp *KeyPackage) { kp.version = 2 }, true, now, ErrUnsupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			kp, secrets := makeKeyPackage(t)
			c.change(kp)
			if c.resign {
				resign(kp, secrets.SignatureKey)
			}
			if err := kp.Validate(c.now); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestParseKeyPackageRefuses(t *testing.T) {
	kp, _ := makeKeyPackage(t)
	b := kp.Marshal()
	for i := range b {
		if _, err := ParseKeyPackage(b[:i]); err != ErrMalformed {
			t.Fatalf("%d bytes of %d: %v", i, len(b), err)
		}
	}
	if _, err := ParseKeyPackage(append(bytes.Clone(b), 0)); err != ErrMalformed {
		t.Errorf("a byte too many: %v", err)
	}
	for at, name := range map[int]string{1: "version", 3: "suite"} {
		other := bytes.Clone(b)
		other[at] = 9
		if _, err := ParseKeyPackage(other); err != ErrUnsupported {
			t.Errorf("%s: %v", name, err)
		}
	}
	if ref := (&KeyPackage{suite: 8}).Ref(); ref != nil {
		t.Error("a ref of an unsupported suite")
	}
}

func TestKeyPackageSecretsStorage(t *testing.T) {
	kp, secrets := makeKeyPackage(t)
	b := must(secrets.MarshalBinary())(t)
	var read KeyPackageSecrets
	if err := read.UnmarshalBinary(b); err != nil || !read.matches(kp) {
		t.Fatalf("%v", err)
	}
	for i := range b {
		if err := read.UnmarshalBinary(b[:i]); err == nil || !read.matches(kp) {
			t.Fatalf("%d bytes of %d: %v", i, len(b), err)
		}
	}
	if err := read.UnmarshalBinary(append(b, 0)); err != ErrMalformed {
		t.Errorf("a byte too many: %v", err)
	}
	if _, err := new(KeyPackageSecrets).MarshalBinary(); err == nil {
		t.Error("stored no keys")
	}
}

func TestLeafSignatureBindsPlace(t *testing.T) {
	kp, secrets := makeKeyPackage(t)
	leaf := kp.leaf.clone()
	leaf.source = LeafFromUpdate
	leaf.sign(secrets.SignatureKey, []byte("group"), 3)
	for _, c := range []struct {
		group string
		index leafIndex
		want  bool
	}{{"group", 3, true}, {"group", 4, false}, {"other", 3, false}} {
		if got := leaf.verify(suite1, []byte(c.group), c.index); got != c.want {
			t.Errorf("%s, %d: %v", c.group, c.index, got)
		}
	}
	if !kp.leaf.verify(suite1, []byte("any"), 9) {
		t.Error("a KeyPackage's leaf is tied to a group")
	}
}

func TestProposalCheckMade(t *testing.T) {
	kp, _ := makeKeyPackage(t)
	for _, c := range []struct {
		name string
		p    Proposal
		ok   bool
	}{
		{"no type", Proposal{}, false},
		{"add of nothing", Proposal{Type: ProposalAdd}, false},
		{"add", Proposal{Type: ProposalAdd, KeyPackage: kp}, true},
		{"update of nothing", Proposal{Type: ProposalUpdate}, false},
		{"psk of nothing", Proposal{Type: ProposalPSK}, false},
		{"reinit of nothing", Proposal{Type: ProposalReInit}, false},
		{"external init of nothing", Proposal{Type: ProposalExternalInit}, false},
		{"doubled extension", Proposal{Type: ProposalGroupContextExtensions, Extensions: make([]Extension, 2)}, false},
		{"no extension", Proposal{Type: ProposalGroupContextExtensions}, true},
		{"remove", Proposal{Type: ProposalRemove, Removed: 7}, true},
		{"self_remove", Proposal{Type: ProposalSelfRemove}, true},
		{"custom", Proposal{Type: 0xF1A4, Body: []byte("body")}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.p.checkMade(); (err == nil) != c.ok {
				t.Fatalf("got %v", err)
			}
			if c.ok {
				wantRoundTrip(t, c.name, new(Proposal), marshal(&c.p))
			}
		})
	}
}

func TestProposalWireForms(t *testing.T) {
	for name, c := range map[string]struct {
		p    Proposal
		want []byte
	}{
		"remove":      {Proposal{Type: ProposalRemove, Removed: 258}, []byte{0, 3, 0, 0, 1, 2}},
		"self_remove": {Proposal{Type: ProposalSelfRemove}, []byte{0, 10}},
		"custom":      {Proposal{Type: 0xF1A4, Body: []byte("ab")}, []byte{0xF1, 0xA4, 2, 'a', 'b'}},
		"custom, empty body": {
			Proposal{Type: 0xF1A4}, []byte{0xF1, 0xA4, 0},
		},
	} {
		t.Run(name, func(t *testing.T) { wantBytes(t, name, marshal(&c.p), c.want) })
	}
	if err := parse([]byte{0, 0, 0}, new(Proposal)); err != ErrMalformed {
		t.Errorf("type 0: %v", err)
	}
}
