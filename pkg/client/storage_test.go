package client

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestSealedStore shows that an encrypted store gives back what it holds, opens with its own key only, and shows none of it in its file.
func TestSealedStore(t *testing.T) {
	right := Config{Dir: t.TempDir(), Passphrase: "open sesame"}
	secret, name := []byte("the value that nobody may see"), []byte("mimi://a.example/u/name-nobody-may-see")
	s, err := openStore(&right)
	if err != nil {
		t.Fatal(err)
	}
	err = s.update(func(tx Tx) error {
		for i := range 20 {
			if err := tx.Put(bucketEvents, bigEndian(uint64(i)), fmt.Append(nil, i)); err != nil {
				return err
			}
		}
		return errors.Join(tx.Put(bucketContacts, name, secret), tx.Put(bucketMeta, keyPosition, bigEndian(7)))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(right.Dir, storeFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, hidden := range [][]byte{secret, name, []byte("position"), []byte(right.Passphrase)} {
		if bytes.Contains(file, hidden) {
			t.Errorf("the file shows %q", hidden)
		}
	}
	for _, wrong := range []Config{{}, {Passphrase: "open, sesame"}, {Key: make([]byte, dataKey)}} {
		wrong.Dir = right.Dir
		if _, err := openStore(&wrong); !errors.Is(err, ErrKey) {
			t.Errorf("a wrong key gives %v", err)
		}
	}
	if s, err = openStore(&right); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.View(func(tx Tx) error {
		if got := tx.Get(bucketContacts, name); !bytes.Equal(got, secret) {
			t.Errorf("got %q", got)
		}
		if tx.Get(bucketContacts, []byte("nobody")) != nil {
			t.Error("a record that is not there was found")
		}
		next := uint64(5)
		err := tx.Each(bucketEvents, bigEndian(5), func(k, v []byte) error {
			if fromBigEndian(k) != next || string(v) != fmt.Sprint(next) {
				t.Errorf("event %d is %x, %q", next, k, v)
			}
			next++
			return nil
		})
		if next != 20 {
			t.Errorf("the walk ended before %d", next)
		}
		return errors.Join(err, tx.Each(bucketContacts, nil, func(k, v []byte) error {
			if !bytes.Equal(k, name) || !bytes.Equal(v, secret) {
				t.Errorf("contact %q, %q", k, v)
			}
			return nil
		}))
	})
	if err != nil {
		t.Error(err)
	}
}

// TestSealedStoreDamage shows that a record that was changed, moved or put under another name fails the transaction that reads it.
func TestSealedStoreDamage(t *testing.T) {
	plain, err := openFile(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	sealed, err := seal(plain, bytes.Repeat([]byte{1}, dataKey), "")
	if err != nil {
		t.Fatal(err)
	}
	put := func(key string) {
		if err := sealed.Update(func(tx Tx) error { return tx.Put(bucketContacts, []byte(key), []byte("value of "+key)) }); err != nil {
			t.Fatal(err)
		}
	}
	put("a")
	put("b")
	stored := make(map[string][]byte)
	names := make([][]byte, 0, 2)
	err = plain.View(func(tx Tx) error {
		return tx.Each(bucketContacts, nil, func(k, v []byte) error {
			names, stored[string(k)] = append(names, bytes.Clone(k)), bytes.Clone(v)
			return nil
		})
	})
	if err != nil || len(names) != 2 {
		t.Fatal(err, len(names))
	}
	for name, bad := range map[string][]byte{
		"swapped":   stored[string(names[1])],
		"changed":   append(bytes.Clone(stored[string(names[0])][:30]), make([]byte, 30)...),
		"truncated": stored[string(names[0])][:10],
		"empty":     {},
	} {
		if err := plain.Update(func(tx Tx) error { return tx.Put(bucketContacts, names[0], bad) }); err != nil {
			t.Fatal(err)
		}
		err := sealed.View(func(tx Tx) error {
			tx.Get(bucketContacts, []byte("a"))
			tx.Get(bucketContacts, []byte("b"))
			return nil
		})
		if !errors.Is(err, ErrStore) {
			t.Errorf("%s: %v", name, err)
		}
		if err := sealed.View(func(tx Tx) error {
			return tx.Each(bucketContacts, nil, func(_, _ []byte) error { return nil })
		}); !errors.Is(err, ErrStore) {
			t.Errorf("%s, walked over: %v", name, err)
		}
	}
	// A store without encryption does not turn into one with it.
	open, err := openStore(&Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if _, err := seal(open.Store, bytes.Repeat([]byte{1}, dataKey), ""); !errors.Is(err, ErrKey) {
		t.Errorf("a store that is not encrypted: %v", err)
	}
}
