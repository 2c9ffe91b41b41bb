// Package backup encrypts backups of a deployment (bus.Backup) to a public key, so that whoever makes them, or holds them, cannot read them.
//
// A file is the version's first line, the KEM's output with its length, and chunks: HPKE (RFC 9180) with ML-KEM-768 and X25519 together (X-Wing), HKDF-SHA256 and ChaCha20-Poly1305, one context for
// the whole file, so that chunks cannot be exchanged, left out or repeated. The last one is marked.
//
// Guarantees: what Reader returns without an error was written with Writer for this key, in this order; io.EOF comes only after the last chunk. Whoever holds the private key, and nobody else, reads it, also if one of the two KEMs is broken.
//
// Not guaranteed: who wrote it. Anybody can encrypt to a public key; a file's origin is its storage's affair. Its size shows.
package backup

import (
	"bufio"
	"crypto/hpke"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
)

const (
	firstLine = "MIMIMI backup 1\n"
	// chunkSize is how much is encrypted at once.
	chunkSize = 64 << 10
	// overhead is what a chunk's encryption adds.
	overhead = 16
	// maxEnc bounds the KEM's output, of 1,120 bytes.
	maxEnc = 4 << 10
)

// The associated data of chunks.
var (
	aadMore = []byte("more")
	aadLast = []byte("last")
)

// The types of the PEM blocks of keys.
const (
	privateBlock = "MIMIMI BACKUP PRIVATE KEY"
	publicBlock  = "MIMIMI BACKUP PUBLIC KEY"
)

// ErrDamaged says that a file cannot be read to its end: it is no backup, not for this key, changed, or cut off.
var ErrDamaged = errors.New("backup: the file is damaged, not complete, or not for this key")

func kem() hpke.KEM   { return hpke.MLKEM768X25519() }
func kdf() hpke.KDF   { return hpke.HKDFSHA256() }
func aead() hpke.AEAD { return hpke.ChaCha20Poly1305() }

// NewKey makes a pair of keys, as the contents of two files. The private one is needed to restore only: keep it where nobody makes backups.
func NewKey() (private, public []byte, err error) {
	k, err := kem().GenerateKey()
	if err != nil {
		return nil, nil, fmt.Errorf("make a backup key: %w", err)
	}
	raw, err := k.Bytes()
	if err != nil {
		return nil, nil, fmt.Errorf("make a backup key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: raw}), pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: k.PublicKey().Bytes()}), nil
}

// block reads a key file.
func block(file []byte, kind string) ([]byte, error) {
	b, rest := pem.Decode(file)
	if b == nil || b.Type != kind || len(rest) > 0 {
		return nil, fmt.Errorf("backup: the file holds no %s", kind)
	}
	return b.Bytes, nil
}

// Writer encrypts. Close writes the last chunk; without it the file is worth nothing.
type Writer struct {
	w      io.Writer
	sender *hpke.Sender
	buf    []byte
}

// NewWriter begins a file for a public key, as NewKey makes it.
func NewWriter(w io.Writer, public []byte) (*Writer, error) {
	raw, err := block(public, publicBlock)
	if err != nil {
		return nil, err
	}
	k, err := kem().NewPublicKey(raw)
	if err != nil {
		return nil, errors.New("backup: the public key cannot be read")
	}
	enc, s, err := hpke.NewSender(k, kdf(), aead(), []byte(firstLine))
	if err != nil {
		return nil, fmt.Errorf("begin a backup: %w", err)
	}
	head := binary.BigEndian.AppendUint16([]byte(firstLine), uint16(len(enc)))
	if _, err := w.Write(append(head, enc...)); err != nil {
		return nil, err
	}
	return &Writer{w: w, sender: s, buf: make([]byte, 0, chunkSize)}, nil
}

// Write encrypts p, in chunks.
func (w *Writer) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if len(w.buf) == chunkSize {
			if err := w.flush(aadMore); err != nil {
				return n, err
			}
		}
		some := min(chunkSize-len(w.buf), len(p))
		w.buf = append(w.buf, p[:some]...)
		n, p = n+some, p[some:]
	}
	return n, nil
}

func (w *Writer) flush(aad []byte) error {
	sealed, err := w.sender.Seal(aad, w.buf)
	if err != nil {
		return fmt.Errorf("encrypt a backup: %w", err)
	}
	w.buf = w.buf[:0]
	_, err = w.w.Write(sealed)
	return err
}

// Close writes what is left. It does not close the file.
func (w *Writer) Close() error { return w.flush(aadLast) }

// Reader decrypts. Its errors are ErrDamaged and the file's own.
type Reader struct {
	r         *bufio.Reader
	recipient *hpke.Recipient
	rest      []byte
	over      bool
}

// NewReader begins to read a file with a private key, as NewKey makes it.
func NewReader(r io.Reader, private []byte) (*Reader, error) {
	raw, err := block(private, privateBlock)
	if err != nil {
		return nil, err
	}
	k, err := kem().NewPrivateKey(raw)
	if err != nil {
		return nil, errors.New("backup: the private key cannot be read")
	}
	in := bufio.NewReaderSize(r, chunkSize+overhead+1)
	head := make([]byte, len(firstLine)+2)
	if _, err := io.ReadFull(in, head); err != nil || string(head[:len(firstLine)]) != firstLine {
		return nil, ErrDamaged
	}
	n := binary.BigEndian.Uint16(head[len(firstLine):])
	if n > maxEnc {
		return nil, ErrDamaged
	}
	enc := make([]byte, n)
	if _, err := io.ReadFull(in, enc); err != nil {
		return nil, ErrDamaged
	}
	recipient, err := hpke.NewRecipient(enc, k, kdf(), aead(), []byte(firstLine))
	if err != nil {
		return nil, ErrDamaged
	}
	return &Reader{r: in, recipient: recipient}, nil
}

// Read returns what was written, and io.EOF after the last chunk.
func (r *Reader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.over {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// next decrypts one chunk: the last one if nothing follows it.
func (r *Reader) next() error {
	sealed := make([]byte, chunkSize+overhead)
	n, err := io.ReadFull(r.r, sealed)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		if errors.Is(err, io.EOF) {
			return ErrDamaged
		}
		return err
	}
	aad := aadMore
	if _, err := r.r.Peek(1); errors.Is(err, io.EOF) {
		aad, r.over = aadLast, true
	} else if err != nil {
		return err
	}
	if r.rest, err = r.recipient.Open(aad, sealed[:n]); err != nil {
		return ErrDamaged
	}
	return nil
}
