package oblivious_test

import (
	"bytes"
	"crypto/rand"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/cloudflare/circl/hpke"
	"github.com/openpcc/bhttp"
	"github.com/openpcc/ohttp"
	"github.com/openpcc/twoway"

	"mimimi.example/pkg/oblivious"
)

// FuzzInner is a client of bad will, which knows the key: what it seals is arbitrary, padded to a class.
func FuzzInner(f *testing.F) {
	secret, config, err := oblivious.GenerateKey(1)
	if err != nil {
		f.Fatal(err)
	}
	g, err := oblivious.NewGateway([][]byte{secret}, echo)
	if err != nil {
		f.Fatal(err)
	}
	var key ohttp.KeyConfig
	if err := key.UnmarshalBinary(config); err != nil {
		f.Fatal(err)
	}
	sender, err := twoway.NewRequestSender(hpke.NewSuite(key.KemID, key.SymmetricAlgorithms[0].KDFID, key.SymmetricAlgorithms[0].AEADID), 1, key.PublicKey, rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	for _, body := range []string{"", "hello"} {
		r, err := http.NewRequest(http.MethodPost, "https://hub.invalid/headers?a=b", strings.NewReader(body))
		if err != nil {
			f.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/proto")
		for _, e := range []*bhttp.RequestEncoder{bhttp.NewKnownLengthRequestEncoder(), bhttp.NewIndeterminateLengthRequestEncoder()} {
			m, err := e.EncodeRequest(r)
			if err != nil {
				f.Fatal(err)
			}
			b, err := io.ReadAll(m)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, plain []byte) {
		if len(plain) > 1<<10 {
			return
		}
		s, err := sender.NewRequestSealer(bytes.NewReader(append(plain, make([]byte, 1<<10-len(plain))...)), []byte("message/bhttp request"))
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := io.ReadAll(s)
		if err != nil {
			t.Fatal(err)
		}
		g.Handle(t.Context(), sealed)
	})
}
