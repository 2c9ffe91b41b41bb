package mimimi

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"mimimi.example/pkg/mls"
)

// names are users whose names have as different lengths as the limits allow.
func names() []string {
	return []string{"a", "bob", "alice.b-c_9", strings.Repeat("n", maxUserName)}
}

// longestDomain is a domain at the limit.
func longestDomain() string { return strings.Repeat("d", 39) + "." + strings.Repeat("e", 40) }

// TestSizes: whatever a hub, store or inbox sees has one length per domain and kind (privacy: shapes).
func TestSizes(t *testing.T) {
	for _, name := range []string{"a.example", longestDomain()} {
		d := newDomain(t, name)
		lengths := map[string]map[int]bool{}
		seen := func(kind string, n int) {
			if lengths[kind] == nil {
				lengths[kind] = map[int]bool{}
			}
			lengths[kind][n] = true
		}
		for i, n := range names() {
			dev := d.person(t, n).device(t)
			cfg := dev.config()
			cfg.Now = noon.Add(time.Duration(i) * week)
			for _, lastResort := range []bool{false, true} {
				cfg.LastResort = lastResort
				kp, _, err := NewKeyPackage(cfg)
				wantOK(t, err)
				seen(fmt.Sprint("KeyPackage, last resort ", lastResort), len(kp.Marshal()))
				seen("leaf", len(kp.Leaf().Marshal()))
				queue, _ := kp.Leaf().Extension(ExtensionEncryptedQueueID)
				seen("sealed queue ID", len(queue))
				seen("credential", len(kp.Leaf().Credential().Body))
			}
			record := must(NewConnectionRecord(dev.cert, dev.certKey, d.queue.Public(), noon.Add(day)))
			sealed, err := SealConnectionRequest(newRequest(t, dev, record), dev.certKey, record)
			wantOK(t, err)
			seen("connection request", len(sealed))
		}
		for kind, n := range lengths {
			if len(n) != 1 {
				t.Errorf("%s: %d distinct lengths", kind, len(n))
			}
		}
		if len(lengths) != 6 {
			t.Errorf("%d kinds", len(lengths))
		}
	}
}

// TestPaddingsHold: the longest names that registration takes fit the paddings, and say what would not.
func TestPaddingsHold(t *testing.T) {
	dev := newDomain(t, longestDomain()).person(t, strings.Repeat("n", maxUserName)).device(t)
	pc := dev.credential(t)
	if n := len(pc.linkPlaintext(dev.certKey, dev.cert)); n > linkPlaintextSize {
		t.Errorf("an identity link has %d bytes", n)
	}
	if _, ok := pad(make([]byte, linkPlaintextSize+1), linkPlaintextSize); ok {
		t.Error("a longer plaintext is padded")
	}
}

func TestCheckKeyPackage(t *testing.T) {
	d := newDomain(t, "a.example")
	dev := d.person(t, "alice").device(t)
	for _, lastResort := range []bool{false, true} {
		cfg := dev.config()
		cfg.LastResort = lastResort
		kp, secrets, err := NewKeyPackage(cfg)
		wantOK(t, err)
		read := must(mls.ParseKeyPackage(kp.Marshal()))
		pc, err := CheckKeyPackage(read, "a.example", lastResort, noon)
		wantOK(t, err)
		if pc.UserPseudonym != dev.pseudonym || !bytes.Equal(pc.SignatureKey, secrets.SignatureKey.Public()) {
			t.Error("another credential")
		}
		_, err = CheckKeyPackage(read, "a.example", !lastResort, noon)
		wantErr(t, err, ErrInvalid, "a last-resort KeyPackage says so, a one-time one does not")
		_, err = CheckKeyPackage(read, "b.example", lastResort, noon)
		wantErr(t, err, ErrInvalid, "a KeyPackage's pseudonyms are of the store's domain")
		cert, err := pc.Identify(pc.LinkKey(dev.connection))
		wantOK(t, err)
		if cert.Client != dev.client {
			t.Error("identified as another client")
		}
	}
}

func TestCheckKeyPackageWeek(t *testing.T) {
	dev := newDomain(t, "a.example").person(t, "alice").device(t)
	kp, _, err := NewKeyPackage(dev.config())
	wantOK(t, err)
	start := Week(noon)
	for _, c := range []struct {
		now time.Time
		ok  bool
	}{
		{noon, true}, {noon.Add(week), true}, {start.Add(15*day - time.Second), true}, {start.Add(15 * day), false},
		{start.Add(day - 30*time.Minute), true}, {start.Add(day - 2*time.Hour), false}, {noon.Add(91 * day), false},
	} {
		if _, err := CheckKeyPackage(kp, "a.example", false, c.now); (err == nil) != c.ok {
			t.Errorf("uploaded at %v: %v", c.now, err)
		}
	}
}

// keyPackageWith makes a KeyPackage as NewKeyPackage does, and lets change spoil it before it is signed.
func keyPackageWith(t testing.TB, dev *device, change func(cfg *mls.KeyPackageConfig)) (*mls.KeyPackage, *mls.KeyPackageSecrets) {
	t.Helper()
	client := must(NewClientPseudonym(dev.name))
	key := must(Suite.GenerateSignatureKey())
	pcfg := dev.pseudonymConfig(client)
	pcfg.SignatureKey = key.Public()
	cfg := mls.KeyPackageConfig{
		Suite: Suite, Credential: must(NewPseudonymousCredential(pcfg)).Credential(), SignatureKey: key,
		Capabilities: Capabilities(), Lifetime: LeafLifetime(noon),
		LeafExtensions: []mls.Extension{{Type: ExtensionEncryptedQueueID, Data: must(SealQueueID(dev.queueKey, client, dev.queueID))}},
	}
	change(&cfg)
	kp, secrets, err := mls.NewKeyPackage(cfg)
	wantOK(t, err)
	return kp, secrets
}

func TestCheckKeyPackageRefuses(t *testing.T) {
	d := newDomain(t, "a.example")
	dev := d.person(t, "alice").device(t)
	queueOf := func(domain string) []byte {
		k := QueueKey{KeyID: 1, Public: d.queue.Public(), Domain: domain}
		return must(SealQueueID(k, must(NewClientPseudonym(domain)), dev.queueID))
	}
	for _, c := range []struct {
		name, rule string
		change     func(cfg *mls.KeyPackageConfig)
	}{
		{"lifetime in seconds", "a leaf's lifetime is 90 days from its week", func(c *mls.KeyPackageConfig) { c.Lifetime.NotBefore++ }},
		{"longer lifetime", "a leaf's lifetime is 90 days from its week", func(c *mls.KeyPackageConfig) { c.Lifetime.NotAfter++ }},
		{"GREASE", "every leaf has the one capabilities vector", func(c *mls.KeyPackageConfig) {
			c.Capabilities.Extensions = append(c.Capabilities.Extensions, 0x0A0A)
		}},
		{"another order", "every leaf has the one capabilities vector", func(c *mls.KeyPackageConfig) {
			p := c.Capabilities.Proposals
			p[0], p[1] = p[1], p[0]
		}},
		{"extension of the KeyPackage", "a KeyPackage has no extension but an empty last_resort", func(c *mls.KeyPackageConfig) {
			c.Extensions = []mls.Extension{{Type: ExtensionGroup, Data: []byte("mark")}}
		}},
		{"extension of the leaf", "a leaf has no extension but encrypted_queue_id", func(c *mls.KeyPackageConfig) {
			c.LeafExtensions = append(c.LeafExtensions, mls.Extension{Type: ExtensionGroup, Data: []byte("mark")})
		}},
		{"no queue", "encrypted_queue_id present", func(c *mls.KeyPackageConfig) { c.LeafExtensions = nil }},
		{"queue at another domain", "encrypted_queue_id is of the pseudonym's domain", func(c *mls.KeyPackageConfig) {
			c.LeafExtensions[0].Data = queueOf("b.example")
		}},
		{"real credential", "pseudonymous credentials only", func(c *mls.KeyPackageConfig) { c.Credential = dev.cert.Credential() }},
		{"credential of another key", "the credential's key is the leaf's", func(c *mls.KeyPackageConfig) {
			c.Credential = dev.credential(t).Credential() // a copied credential
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			kp, _ := keyPackageWith(t, dev, c.change)
			_, err := CheckKeyPackage(kp, "a.example", false, noon)
			wantErr(t, err, ErrInvalid, c.rule)
		})
	}
	// Suite 3 has the keys of suite 1: nothing but its number tells a leaf of the two apart.
	other, _ := keyPackageWith(t, dev, func(c *mls.KeyPackageConfig) {
		c.Suite = mls.X25519_CHACHA20POLY1305_SHA256_Ed25519
		c.SignatureKey = must(c.Suite.DeriveSignatureKey(must(c.SignatureKey.MarshalBinary())[2:]))
		c.Capabilities.CipherSuites = []mls.CipherSuite{c.Suite}
	})
	_, err := CheckKeyPackage(other, "a.example", false, noon)
	wantErr(t, err, ErrInvalid, "cipher suite 1")
	kp, _ := keyPackageWith(t, dev, func(c *mls.KeyPackageConfig) { c.LeafExtensions[0].Data = append(c.LeafExtensions[0].Data, 0) })
	_, err = CheckKeyPackage(kp, "a.example", false, noon)
	wantErr(t, err, ErrMalformed, "")
}

func TestKeyPackagesShareNothing(t *testing.T) {
	dev := newDomain(t, "a.example").person(t, "alice").device(t)
	one, _, err := NewKeyPackage(dev.config())
	wantOK(t, err)
	two, _, err := NewKeyPackage(dev.config())
	wantOK(t, err)
	a, b := must(ParseLeaf(one.Leaf())), must(ParseLeaf(two.Leaf()))
	for name, same := range map[string]bool{
		"client pseudonym": a.Credential.ClientPseudonym == b.Credential.ClientPseudonym,
		"signature key":    bytes.Equal(a.Credential.SignatureKey, b.Credential.SignatureKey),
		"identity link":    bytes.Equal(a.Credential.IdentityLinkCiphertext[:8], b.Credential.IdentityLinkCiphertext[:8]),
		"sealed queue ID":  bytes.Equal(a.EncryptedQueueID, b.EncryptedQueueID),
		"init key":         bytes.Equal(one.InitKey(), two.InitKey()),
		"encryption key":   bytes.Equal(one.Leaf().EncryptionKey(), two.Leaf().EncryptionKey()),
	} {
		if same {
			t.Errorf("two KeyPackages share their %s", name)
		}
	}
}

func TestQueueID(t *testing.T) {
	d, other := newDomain(t, "a.example"), newDomain(t, "b.example")
	p, q := must(NewClientPseudonym("a.example")), NewQueueID()
	sealed := must(SealQueueID(d.queueKey, p, q))
	wantOK(t, CheckEncryptedQueueID(sealed, "a.example"))
	if got := must(OpenQueueID(d.queueKeys, "a.example", p, sealed)); !got.Equal(q) {
		t.Error("another queue")
	}
	wantErr(t, CheckEncryptedQueueID(sealed, "b.example"), ErrInvalid, "encrypted_queue_id is of the pseudonym's domain")
	_, err := OpenQueueID(d.queueKeys, "b.example", p, sealed)
	wantErr(t, err, ErrInvalid, "a queue is at the pseudonym's domain")
	_, err = OpenQueueID(func(uint32) (mls.HPKEPrivateKey, bool) { return mls.HPKEPrivateKey{}, false }, "a.example", p, sealed)
	wantErr(t, err, ErrUnauthenticated, "")
	_, err = OpenQueueID(func(uint32) (mls.HPKEPrivateKey, bool) { return other.queue, true }, "a.example", p, sealed)
	wantErr(t, err, ErrUnauthenticated, "")
	_, err = SealQueueID(other.queueKey, p, q)
	wantErr(t, err, ErrInvalid, "a queue is at the pseudonym's domain")
	_, err = SealQueueID(d.queueKey, p, QueueID{})
	wantErr(t, err, ErrInvalid, "a queue ID has 32 bytes")
	_, err = SealQueueID(QueueKey{Public: []byte("short"), Domain: "a.example"}, p, q)
	wantErr(t, err, ErrInvalid, "a queue key is of suite 1")
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := OpenQueueID(d.queueKeys, "a.example", p, bad); err == nil {
			t.Fatalf("opens with byte %d changed", i)
		}
	}
}

// TestQueueIDMovedBetweenLeaves: a member copies somebody else's sealed queue ID into its own leaf. It has the right form, so hubs
// accept it, but the provider opens it for its own leaf only.
func TestQueueIDMovedBetweenLeaves(t *testing.T) {
	d := newDomain(t, "a.example")
	victim, thief := d.person(t, "alice").device(t), d.person(t, "mallory").device(t)
	victims := must(SealQueueID(d.queueKey, must(NewClientPseudonym("a.example")), victim.queueID))
	kp, _ := keyPackageWith(t, thief, func(c *mls.KeyPackageConfig) { c.LeafExtensions[0].Data = victims })
	id, err := ParseLeaf(kp.Leaf())
	wantOK(t, err)
	_, err = OpenQueueID(d.queueKeys, "a.example", id.Credential.ClientPseudonym, id.EncryptedQueueID)
	wantErr(t, err, ErrUnauthenticated, "")
}

func TestCapabilitiesAreRequired(t *testing.T) {
	want := []byte{10, 0xF1, 0xA1, 0xF1, 0xA2, 0xF1, 0xA3, 0xF1, 0xA6, 0, 0x0A, 4, 0xF1, 0xA4, 0, 0x0A, 4, 0xF1, 0xA0, 0xF1, 0xA5}
	if got := RequiredCapabilities(); got.Type != mls.ExtensionRequiredCapabilities || !bytes.Equal(got.Data, want) {
		t.Errorf("required_capabilities %x", got.Data)
	}
	c := Capabilities()
	c.Extensions[0] = 0
	if Capabilities().Extensions[0] == 0 {
		t.Error("callers share one vector")
	}
}
