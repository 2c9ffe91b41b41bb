package backup_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"mimimi.example/pkg/backup"
)

const chunk = 64 << 10

func keys(t *testing.T) (private, public []byte) {
	t.Helper()
	private, public, err := backup.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return private, public
}

func sealed(t *testing.T, public, plain []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := backup.NewWriter(&out, public)
	if err != nil {
		t.Fatal(err)
	}
	for rest := plain; len(rest) > 0; { // in pieces of all sizes
		n := min(len(rest), 1+rand.IntN(2*chunk))
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func open(private, file []byte) ([]byte, error) {
	r, err := backup.NewReader(bytes.NewReader(file), private)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestRoundTrip(t *testing.T) {
	private, public := keys(t)
	for _, n := range []int{0, 1, chunk - 1, chunk, chunk + 1, 3*chunk + 17} {
		plain := bytes.Repeat([]byte("secret"), n/6+1)[:n]
		file := sealed(t, public, plain)
		got, err := open(private, file)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: got %d, %v", n, len(got), err)
		}
		if bytes.Contains(file, []byte("secretsecret")) {
			t.Errorf("%d bytes: the file shows them", n)
		}
	}
}

// TestDamaged: whatever is done to a file, it is not read to its end without an error.
func TestDamaged(t *testing.T) {
	private, public := keys(t)
	file := sealed(t, public, make([]byte, 3*chunk+17))
	head := len(file) - (3*chunk + 17) - 4*16
	sealedChunk := chunk + 16
	for name, change := range map[string]func([]byte) []byte{
		"nothing":             func([]byte) []byte { return nil },
		"another first line":  func(b []byte) []byte { b[14]++; return b },
		"a flipped KEM bit":   func(b []byte) []byte { b[100] ^= 1; return b },
		"a flipped bit":       func(b []byte) []byte { b[head+sealedChunk+5] ^= 1; return b },
		"the last byte gone":  func(b []byte) []byte { return b[:len(b)-1] },
		"the last chunk gone": func(b []byte) []byte { return b[:head+3*sealedChunk] },
		"one chunk only":      func(b []byte) []byte { return b[:head+sealedChunk] },
		"no chunk":            func(b []byte) []byte { return b[:head] },
		"a byte more":         func(b []byte) []byte { return append(b, 0) },
		"a chunk left out":    func(b []byte) []byte { return slices.Delete(b, head, head+sealedChunk) },
		"a chunk repeated": func(b []byte) []byte {
			return slices.Insert(b, head, slices.Clone(b[head:head+sealedChunk])...)
		},
	} {
		if got, err := open(private, change(bytes.Clone(file))); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	other, _ := keys(t)
	if _, err := open(other, file); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("with another key: %v", err)
	}
	if _, err := backup.NewReader(bytes.NewReader(file), public); err == nil {
		t.Error("a public key reads")
	}
	if _, err := backup.NewWriter(io.Discard, private); err == nil {
		t.Error("a private key is taken for a public one")
	}
}
