package mls

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	"pgregory.net/rapid"
)

func TestVarintIsShortest(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		ok   bool
		want uint32
	}{
		{"zero", []byte{0}, true, 0},
		{"one octet, largest", []byte{0x3f}, true, 63},
		{"two octets, smallest", []byte{0x40, 0x40}, true, 64},
		{"two octets, too long", []byte{0x40, 0x3f}, false, 0},
		{"two octets, largest", []byte{0x7f, 0xff}, true, 1<<14 - 1},
		{"four octets, smallest", []byte{0x80, 0, 0x40, 0}, true, 1 << 14},
		{"four octets, too long", []byte{0x80, 0, 0x3f, 0xff}, false, 0},
		{"four octets, largest", []byte{0xbf, 0xff, 0xff, 0xff}, true, 1<<30 - 1},
		{"prefix 3", []byte{0xc0, 0, 0, 0, 0, 0, 0, 1}, false, 0},
		{"empty", nil, false, 0},
		{"cut", []byte{0x80, 0, 0x40}, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var n uint32
			s := cryptobyte.String(c.in)
			if ok := readVarint(&s, &n); ok != c.ok || ok && n != c.want {
				t.Errorf("got %d, %v", n, ok)
			}
		})
	}
}

func TestVarintRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 1<<30-1).Draw(t, "n")
		var b cryptobyte.Builder
		writeVarint(&b, n)
		s, got := cryptobyte.String(b.BytesOrPanic()), uint32(0)
		if !readVarint(&s, &got) || !s.Empty() || int(got) != n {
			t.Fatalf("got %d, want %d", got, n)
		}
	})
}

func TestVarintTooLarge(t *testing.T) {
	var b cryptobyte.Builder
	writeVarint(&b, 1<<30)
	if _, err := b.Bytes(); err == nil {
		t.Error("wrote a length of 2^30")
	}
}

func TestVectorLimits(t *testing.T) {
	var b cryptobyte.Builder
	writeVarint(&b, maxVector+1)
	b.AddBytes(make([]byte, maxVector+1))
	s, out := cryptobyte.String(b.BytesOrPanic()), []byte(nil)
	if readOpaque(&s, &out) {
		t.Error("read a vector above the limit")
	}
	for n, want := range map[int]bool{2: true, 3: false} {
		s := cryptobyte.String([]byte{byte(2 * n), 0, 1, 0, 2, 0, 3}[:1+2*n])
		var vs []uint16
		if got := readUint16s(&s, 2, &vs); got != want {
			t.Errorf("%d items with a limit of 2: %v", n, got)
		}
	}
}

func TestVectorItemMustConsume(t *testing.T) {
	s := cryptobyte.String([]byte{1, 0})
	if readVector(&s, 10, func(*cryptobyte.String) bool { return true }) {
		t.Error("an item of no bytes was accepted")
	}
}

func TestOptionalIsZeroOrOne(t *testing.T) {
	for v, want := range map[byte]bool{0: true, 1: true, 2: false, 255: false} {
		s, present := cryptobyte.String([]byte{v}), false
		if got := readOptional(&s, &present); got != want {
			t.Errorf("%d: %v", v, got)
		}
	}
}

func TestParsedValuesDoNotAlias(t *testing.T) {
	in := []byte{0, 1, 3, 'a', 'b', 'c'}
	var c Credential
	if err := parse(in, &c); err != nil {
		t.Fatal(err)
	}
	clear(in)
	if string(c.Body) != "abc" {
		t.Error("the credential aliases its input")
	}
}

func TestExtensionsOfOneTypeOnce(t *testing.T) {
	exts := []Extension{{Type: 7, Data: []byte{1}}, {Type: 7}}
	var b cryptobyte.Builder
	marshalExtensions(&b, exts)
	s, out := cryptobyte.String(b.BytesOrPanic()), []Extension(nil)
	if parseExtensions(&s, &out) {
		t.Error("parsed two extensions of one type")
	}
	if err := checkExtensions(exts); !errors.Is(err, ErrInvalid) {
		t.Errorf("checkExtensions: %v", err)
	}
	if err := checkExtensions(make([]Extension, maxExtensions+1)); !errors.Is(err, ErrInvalid) {
		t.Errorf("checkExtensions of too many: %v", err)
	}
}

func TestCertificateListIsChecked(t *testing.T) {
	for name, c := range map[string]struct {
		body []byte
		ok   bool
	}{
		"two certificates": {[]byte{1, 'a', 2, 'b', 'c'}, true},
		"none":             {nil, true},
		"cut":              {[]byte{2, 'a'}, false},
		"too many":         {make([]byte, maxCertificates+1), false},
	} {
		t.Run(name, func(t *testing.T) {
			in := Credential{Type: CredentialX509, Body: c.body}.Marshal()
			var got Credential
			err := parse(in, &got)
			if (err == nil) != c.ok {
				t.Fatalf("got %v", err)
			}
			if err == nil && !bytes.Equal(got.Marshal(), in) {
				t.Error("round trip differs")
			}
		})
	}
}

func TestRequiredCapabilities(t *testing.T) {
	c := &Capabilities{Extensions: []ExtensionType{0xF001}, Proposals: []ProposalType{0xF002}, Credentials: []CredentialType{1}}
	for name, test := range map[string]struct {
		r    requiredCapabilities
		want bool
	}{
		"nothing":             {requiredCapabilities{}, true},
		"all listed":          {requiredCapabilities{c.Extensions, c.Proposals, c.Credentials}, true},
		"defaults":            {requiredCapabilities{[]ExtensionType{1, 5}, []ProposalType{1, 7}, nil}, true},
		"extension":           {requiredCapabilities{extensions: []ExtensionType{0xF009}}, false},
		"last_resort":         {requiredCapabilities{extensions: []ExtensionType{ExtensionLastResort}}, false},
		"proposal":            {requiredCapabilities{proposals: []ProposalType{ProposalSelfRemove}}, false},
		"credential":          {requiredCapabilities{credentials: []CredentialType{2}}, false},
		"no default in creds": {requiredCapabilities{credentials: []CredentialType{CredentialX509}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.r.satisfiedBy(c); got != test.want {
				t.Errorf("got %v", got)
			}
			wantRoundTrip(t, name, new(requiredCapabilities), marshal(&test.r))
		})
	}
}
