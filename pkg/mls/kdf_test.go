package mls

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"sync"
	"testing"
)

// TestMACIsHMAC compares with crypto/hmac and crypto/hkdf, for keys below, at and above the block of each hash.
func TestMACIsHMAC(t *testing.T) {
	for _, k := range []*kdf{hkdfSHA256, hkdfSHA384, hkdfSHA512} {
		for _, keyLen := range []int{0, 1, 32, 63, 64, 65, 127, 128, 129, 300} {
			key := randomBytes(keyLen)
			s := k.under(key)
			for _, n := range []int{0, 1, 200, 5000} {
				message := randomBytes(n)
				h := hmac.New(k.newHash, key)
				h.Write(message)
				wantBytes(t, "MAC", s.mac(message), h.Sum(nil))
			}
			for _, n := range []int{0, 1, k.size - 1, k.size, k.size + 1, 255 * k.size} {
				info := randomBytes(n % 100)
				out := make([]byte, n)
				s.msg = append(s.msg[:0], info...)
				s.expand(out)
				want, err := hkdf.Expand(k.newHash, key, string(info), n)
				if err != nil {
					t.Fatal(err)
				}
				wantBytes(t, "HKDF-Expand", out, want)
			}
			s.release()
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Error("more than 255 hashes")
				}
			}()
			k.under(nil).expand(make([]byte, 255*k.size+1))
		}()
	}
}

// TestReleasedStateIsCleared: no secret waits in the pool for whoever takes the state next.
func TestReleasedStateIsCleared(t *testing.T) {
	for _, big := range []int{1, maxPooled + 1} {
		s := hkdfSHA256.under(bytes.Repeat([]byte{1}, 32))
		s.msg = append(s.msg, bytes.Repeat([]byte{2}, 40)...)
		s.expand(make([]byte, 80))
		s.msg = append(s.msg[:0], bytes.Repeat([]byte{3}, big)...)
		held := [][]byte{s.inner, s.outer, s.sum[:cap(s.sum)], s.msg[:cap(s.msg)]}
		s.release()
		for i, b := range held {
			if bytes.ContainsFunc(b, func(r rune) bool { return r != 0 }) {
				t.Errorf("buffer %d is not cleared", i)
			}
		}
	}
}

func TestKDFConcurrently(t *testing.T) {
	secret := suite1.randomSecret()
	want := suite1.ExpandWithLabel(secret, "label", []byte("context"), 32)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if !bytes.Equal(suite1.ExpandWithLabel(secret, "label", []byte("context"), 32), want) {
					t.Error("states are shared")
				}
				suite1.mac(suite1.randomSecret(), []byte("another"))
			}
		})
	}
	wg.Wait()
}

func TestVerifyMAC(t *testing.T) {
	eachSuite(t, func(t *testing.T, cs CipherSuite) {
		key := cs.randomSecret()
		tag := cs.mac(key, []byte("message"))
		for name, got := range map[string]bool{
			"message": cs.verifyMAC(key, []byte("other"), tag),
			"key":     cs.verifyMAC(cs.randomSecret(), []byte("message"), tag),
			"cut":     cs.verifyMAC(key, []byte("message"), tag[1:]),
			"none":    cs.verifyMAC(key, []byte("message"), nil),
		} {
			if got {
				t.Errorf("%s verifies", name)
			}
		}
		if !cs.verifyMAC(key, []byte("message"), tag) {
			t.Error("the MAC does not verify")
		}
	})
}
